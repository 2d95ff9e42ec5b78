//! The metrics of runs, and their medians and spreads over the rounds.

use crate::result::{Latency, Results, Run};
use serde::Serialize;

/// A number computed from a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// The server's CPU time per delivery of a message to one receiver, in microseconds.
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
    /// Bytes of kernel memory for both ends of a connection.
    KernelPerConnection,
    /// The server's CPU time as a share of one core, 0 to 1.
    CpuShare,
    /// From the moment at which connections drop until the last one is back and has what it missed. In microseconds.
    LastRecovery,
}

impl Metric {
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuPerDelivery => "CPU per delivery",
            Self::DeliveriesPerSecond => "deliveries/s",
            Self::AcknowledgedPerSecond => "acknowledged/s",
            Self::AckP50 => "p50 acknowledgement",
            Self::AckP99 => "p99 acknowledgement",
            Self::DeliveryP50 => "p50 delivery",
            Self::DeliveryP99 => "p99 delivery",
            Self::DeliveryP999 => "p99.9 delivery",
            Self::LastP99 => "p99 to the last subscriber",
            Self::RssPerConnection => "RSS per connection",
            Self::KernelPerConnection => "kernel memory per connection",
            Self::CpuShare => "share of a core",
            Self::LastRecovery => "until the last is back",
        }
    }

    /// The metric of a run, if the run has it. Void runs have no metrics.
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
            Self::LastRecovery => *run.extra.get("recovered_last_seconds")? * 1e6,
        };
        value.is_finite().then_some(value)
    }

    /// Formats a value with its unit.
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

/// Median and range of the values of several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub rounds: usize,
}

impl Spread {
    /// `None` if there are no values.
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

/// A server in a workload: selects one run per round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub workload: &'a str,
    pub server: &'a str,
}

/// The valid runs of an entry, at most one per round, ordered by round.
pub fn valid<'r>(results: &'r Results, entry: Entry<'_>) -> Vec<&'r Run> {
    let mut runs: Vec<&Run> = results
        .runs
        .iter()
        .filter(|run| run.workload == entry.workload && run.server == entry.server && !run.faults.any())
        .collect();
    runs.sort_by_key(|run| run.round);
    runs.dedup_by_key(|run| run.round);
    runs
}

/// The metric of an entry in one round.
pub fn in_round(results: &Results, entry: Entry<'_>, metric: Metric, round: u32) -> Option<f64> {
    valid(results, entry).into_iter().find(|run| run.round == round).and_then(|run| metric.of(run))
}

/// The metric of an entry over all rounds.
pub fn over_rounds(results: &Results, entry: Entry<'_>, metric: Metric) -> Option<Spread> {
    Spread::of(valid(results, entry).into_iter().filter_map(|run| metric.of(run)))
}

/// The numbers of all rounds.
pub fn rounds(results: &Results) -> std::ops::RangeInclusive<u32> {
    1..=results.runs.iter().map(|run| run.round).max().unwrap_or(0)
}

/// The ratio of two entries over the rounds in which both have the metric.
pub fn ratio(results: &Results, metric: Metric, of: Entry<'_>, to: Entry<'_>) -> Option<Spread> {
    Spread::of(
        rounds(results).filter_map(|round| {
            Some(in_round(results, of, metric, round)? / some(in_round(results, to, metric, round)?)?)
        }),
    )
}

/// Formats three significant digits, or more before the decimal point: `0.563`, `5.98`, `24.1`, `1204`.
pub fn three_digits(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (2 - value.abs().log10().floor() as i32).clamp(0, 3) };
    format!("{value:.*}", digits as usize)
}

/// Formats an integer with separators: `1,204,000`.
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

/// Formats bytes: `712 B`, `2.10 KiB`.
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

/// Formats microseconds: `42.1 µs`, `1.20 ms`, `3.00 s`.
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
    use crate::matrix::fixtures;

    #[test]
    fn the_median_of_an_even_count_is_the_mean_of_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 8.0]).unwrap(), Spread { median: 3.0, min: 1.0, max: 8.0, rounds: 4 });
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() {
        let mut results = fixtures::results();
        // In one round the machine is four times slower, for both servers.
        for (round, (ours, floor)) in [(1.0, 2.0), (4.0, 8.0), (3.0, 3.0)].into_iter().enumerate() {
            results.runs.push(fixtures::cpu("w", "uproar", round as u32 + 1, ours));
            results.runs.push(fixtures::cpu("w", "floor", round as u32 + 1, floor));
        }
        let (of, to) = (Entry { workload: "w", server: "uproar" }, Entry { workload: "w", server: "floor" });
        let ratio = ratio(&results, Metric::CpuPerDelivery, of, to).unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max, ratio.rounds), (0.5, 0.5, 1.0, 3));
    }

    #[test]
    fn a_ratio_skips_rounds_in_which_one_server_is_void() {
        let mut results = fixtures::results();
        results.runs.push(fixtures::cpu("w", "uproar", 1, 1.0));
        results.runs.push(fixtures::void("w", "floor", 1));
        results.runs.push(fixtures::cpu("w", "uproar", 2, 1.0));
        results.runs.push(fixtures::cpu("w", "floor", 2, 4.0));
        let (of, to) = (Entry { workload: "w", server: "uproar" }, Entry { workload: "w", server: "floor" });
        assert_eq!(ratio(&results, Metric::CpuPerDelivery, of, to).unwrap().rounds, 1);
        assert_eq!(over_rounds(&results, to, Metric::CpuPerDelivery).unwrap().rounds, 1);
    }

    #[test]
    fn the_repetition_of_a_void_run_counts() {
        let mut results = fixtures::results();
        results.runs.push(fixtures::void("w", "floor", 1));
        results.runs.push(fixtures::cpu("w", "floor", 1, 4.0));
        let floor = Entry { workload: "w", server: "floor" };
        assert_eq!(in_round(&results, floor, Metric::CpuPerDelivery, 1), Some(4.0));
    }

    #[test]
    fn missing_metrics_are_none_instead_of_zero_or_infinite() {
        let mut run = fixtures::cpu("w", "floor", 1, 4.0);
        assert_eq!(Metric::LastP99.of(&run), None);
        run.deliveries = 0;
        assert_eq!(Metric::CpuPerDelivery.of(&run), None);
        assert_eq!(Metric::DeliveriesPerSecond.of(&run), None);
    }

    #[test]
    fn numbers_are_formatted_with_few_digits() {
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
