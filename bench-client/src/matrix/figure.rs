//! Figures of runs, and what they come to over the rounds.

use crate::result::{Latency, Results, Run};
use serde::Serialize;

/// One number that a run gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// The server's CPU time, in microseconds per message that arrived at one receiver.
    CpuPerDelivery,
    DeliveriesPerSecond,
    AcknowledgedPerSecond,
    /// Latencies are in microseconds.
    AckP50,
    AckP99,
    DeliveryP50,
    DeliveryP99,
    DeliveryP999,
    LastP99,
    /// Bytes.
    RssPerConnection,
    /// Bytes of kernel memory, of both ends of a connection.
    KernelPerConnection,
    /// The server's CPU time as a share of one core, 0 to 1.
    CpuShare,
}

impl Figure {
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuPerDelivery => "CPU per delivery",
            Self::DeliveriesPerSecond => "deliveries/s",
            Self::AcknowledgedPerSecond => "acknowledged/s",
            Self::AckP50 => "p50 to the acknowledgement",
            Self::AckP99 => "p99 to the acknowledgement",
            Self::DeliveryP50 => "p50 of the delivery",
            Self::DeliveryP99 => "p99 of the delivery",
            Self::DeliveryP999 => "p99.9 of the delivery",
            Self::LastP99 => "p99 to the last member",
            Self::RssPerConnection => "RSS per connection",
            Self::KernelPerConnection => "kernel memory per connection",
            Self::CpuShare => "share of a core",
        }
    }

    /// The figure of a run, where the run has it. A void run has none.
    pub fn of(self, run: &Run) -> Option<f64> {
        if run.faults.any() {
            return None;
        }
        let latency = |latency: &Option<Latency>, pick: fn(&Latency) -> f64| latency.as_ref().map(pick);
        let value = match self {
            Self::CpuPerDelivery => run.server_cpu_seconds * 1e6 / some(run.deliveries as f64)?,
            Self::DeliveriesPerSecond => some(run.deliveries as f64)? / some(run.seconds)?,
            Self::AcknowledgedPerSecond => some(run.acknowledged as f64)? / some(run.seconds)?,
            Self::AckP50 => latency(&run.ack_latency, |it| it.p50)?,
            Self::AckP99 => latency(&run.ack_latency, |it| it.p99)?,
            Self::DeliveryP50 => latency(&run.delivery_latency, |it| it.p50)?,
            Self::DeliveryP99 => latency(&run.delivery_latency, |it| it.p99)?,
            Self::DeliveryP999 => latency(&run.delivery_latency, |it| it.p999)?,
            Self::LastP99 => latency(&run.last_latency, |it| it.p99)?,
            Self::RssPerConnection => match run.extra.get("rss_bytes_per_connection") {
                Some(bytes) => *bytes,
                None => run.rss_bytes as f64 / some(f64::from(run.shape.rooms) * f64::from(run.shape.members))?,
            },
            Self::KernelPerConnection => *run.extra.get("kernel_bytes_per_connection")?,
            Self::CpuShare => run.server_cpu_seconds / some(run.seconds)?,
        };
        value.is_finite().then_some(value)
    }

    /// A value for people, with its unit.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::CpuPerDelivery => format!("{} µs", three_digits(value)),
            Self::DeliveriesPerSecond | Self::AcknowledgedPerSecond => thousands(value),
            Self::RssPerConnection | Self::KernelPerConnection => bytes(value),
            Self::CpuShare => format!("{:.2} %", value * 100.0),
            _ => duration(value),
        }
    }
}

fn some(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}

/// What the rounds gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub rounds: usize,
}

impl Spread {
    /// Nothing where there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, min, max, rounds: values.len() })
    }

    pub fn width(&self) -> f64 {
        self.max - self.min
    }
}

/// A server in a work of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub work: &'a str,
    pub server: &'a str,
}

/// The runs of an entry that are not void, at most one of each round, by rounds.
pub fn valid<'r>(results: &'r Results, entry: Entry<'_>) -> Vec<&'r Run> {
    let mut runs: Vec<&Run> = results
        .runs
        .iter()
        .filter(|run| run.work == entry.work && run.server == entry.server && !run.faults.any())
        .collect();
    runs.sort_by_key(|run| run.round);
    runs.dedup_by_key(|run| run.round);
    runs
}

/// An entry's figure in one round.
pub fn in_round(results: &Results, entry: Entry<'_>, figure: Figure, round: u32) -> Option<f64> {
    valid(results, entry).into_iter().find(|run| run.round == round).and_then(|run| figure.of(run))
}

/// An entry's figure over the rounds.
pub fn over_rounds(results: &Results, entry: Entry<'_>, figure: Figure) -> Option<Spread> {
    Spread::of(valid(results, entry).into_iter().filter_map(|run| figure.of(run)))
}

/// The rounds that there are.
pub fn rounds(results: &Results) -> std::ops::RangeInclusive<u32> {
    1..=results.runs.iter().map(|run| run.round).max().unwrap_or(0)
}

/// The ratio of two entries, of each round in which both have the figure.
pub fn ratio(results: &Results, figure: Figure, of: Entry<'_>, to: Entry<'_>) -> Option<Spread> {
    Spread::of(
        rounds(results).filter_map(|round| {
            Some(in_round(results, of, figure, round)? / some(in_round(results, to, figure, round)?)?)
        }),
    )
}

/// Three digits that count: `0.563`, `5.98`, `24.1`, `1204`.
pub fn three_digits(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (2 - value.abs().log10().floor() as i32).clamp(0, 3) };
    format!("{value:.*}", digits as usize)
}

/// `1,204,000`.
pub fn thousands(value: f64) -> String {
    let plain = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes: `712 B`, `2.10 KiB`.
pub fn bytes(value: f64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{} {}", three_digits(value), UNITS[unit]) }
}

/// Microseconds: `42.1 µs`, `1.20 ms`, `3.00 s`.
pub fn duration(micros: f64) -> String {
    if micros < 1e3 {
        format!("{} µs", three_digits(micros))
    } else if micros < 1e6 {
        format!("{} ms", three_digits(micros / 1e3))
    } else {
        format!("{} s", three_digits(micros / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::made_up;

    #[test]
    fn a_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 8.0]).unwrap(), Spread { median: 3.0, min: 1.0, max: 8.0, rounds: 4 });
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() {
        let mut results = made_up::results();
        // The machine is four times slower in one round; both servers are.
        for (round, (ours, floor)) in [(1.0, 2.0), (4.0, 8.0), (3.0, 3.0)].into_iter().enumerate() {
            results.runs.push(made_up::cpu("w", "uproar", round as u32 + 1, ours));
            results.runs.push(made_up::cpu("w", "floor", round as u32 + 1, floor));
        }
        let (of, to) = (Entry { work: "w", server: "uproar" }, Entry { work: "w", server: "floor" });
        let ratio = ratio(&results, Figure::CpuPerDelivery, of, to).unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max, ratio.rounds), (0.5, 0.5, 1.0, 3));
    }

    #[test]
    fn a_round_in_which_one_of_the_two_is_void_does_not_count() {
        let mut results = made_up::results();
        results.runs.push(made_up::cpu("w", "uproar", 1, 1.0));
        results.runs.push(made_up::void("w", "floor", 1));
        results.runs.push(made_up::cpu("w", "uproar", 2, 1.0));
        results.runs.push(made_up::cpu("w", "floor", 2, 4.0));
        let (of, to) = (Entry { work: "w", server: "uproar" }, Entry { work: "w", server: "floor" });
        assert_eq!(ratio(&results, Figure::CpuPerDelivery, of, to).unwrap().rounds, 1);
        assert_eq!(over_rounds(&results, to, Figure::CpuPerDelivery).unwrap().rounds, 1);
    }

    #[test]
    fn a_void_run_that_was_repeated_counts_as_repeated() {
        let mut results = made_up::results();
        results.runs.push(made_up::void("w", "floor", 1));
        results.runs.push(made_up::cpu("w", "floor", 1, 4.0));
        let floor = Entry { work: "w", server: "floor" };
        assert_eq!(in_round(&results, floor, Figure::CpuPerDelivery, 1), Some(4.0));
    }

    #[test]
    fn figures_that_a_run_lacks_are_none_and_not_zero_or_infinite() {
        let mut run = made_up::cpu("w", "floor", 1, 4.0);
        assert_eq!(Figure::LastP99.of(&run), None);
        run.deliveries = 0;
        assert_eq!(Figure::CpuPerDelivery.of(&run), None);
        assert_eq!(Figure::DeliveriesPerSecond.of(&run), None);
    }

    #[test]
    fn numbers_are_shown_short() {
        assert_eq!(three_digits(0.5634), "0.563");
        assert_eq!(three_digits(5.984), "5.98");
        assert_eq!(three_digits(24.12), "24.1");
        assert_eq!(three_digits(1204.4), "1204");
        assert_eq!(three_digits(0.0), "0");
        assert_eq!(thousands(1_204_000.4), "1,204,000");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(bytes(712.0), "712 B");
        assert_eq!(bytes(2150.0), "2.10 KiB");
        assert_eq!(duration(42.1), "42.1 µs");
        assert_eq!(duration(1200.0), "1.20 ms");
        assert_eq!(duration(3e6), "3.00 s");
    }
}
