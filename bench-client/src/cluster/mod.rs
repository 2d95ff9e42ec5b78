//! Measures three nodes on one PostgreSQL: what a cluster costs, and what failures look like from outside.

mod fixture;
mod rows;

use crate::matrix::bars::{Limit, Outcome, Verdict};
use crate::matrix::metric::{Metric, Spread};
use crate::output::note;
use crate::server::Environment;
use anyhow::{Result, bail};
pub use fixture::Transport;
use rows::{Bench, Value};
use std::collections::BTreeMap;

/// A measurement that can be chosen with `--only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    Latency,
    Cut,
    Ghosts,
    Failover,
    Alone,
    Spread,
}

impl Row {
    pub const ALL: [Row; 6] = [Row::Latency, Row::Cut, Row::Ghosts, Row::Failover, Row::Alone, Row::Spread];

    pub fn name(self) -> &'static str {
        match self {
            Row::Latency => "latency",
            Row::Cut => "cut",
            Row::Ghosts => "ghosts",
            Row::Failover => "failover",
            Row::Alone => "alone",
            Row::Spread => "spread",
        }
    }

    fn measure(self, bench: &mut Bench<'_>, round: u32) -> Result<Vec<Value>> {
        match self {
            Row::Latency => bench.latency(),
            Row::Cut => bench.cut(),
            Row::Ghosts => bench.ghosts(),
            Row::Failover => bench.failover(),
            Row::Alone => bench.alone(round),
            Row::Spread => bench.spread(round),
        }
    }
}

/// Selects the rows with these names. Without names, all of them.
pub fn select(names: &[String]) -> Result<Vec<Row>> {
    if let Some(unknown) = names.iter().find(|name| Row::ALL.iter().all(|row| row.name() != **name)) {
        bail!("there is no measurement '{unknown}'; --only accepts {}", Row::ALL.map(Row::name).join(", "));
    }
    let is_chosen = |row: &Row| names.is_empty() || names.iter().any(|name| name == row.name());
    Ok(Row::ALL.into_iter().filter(is_chosen).collect())
}

/// A requirement of a cluster.
struct Bar {
    key: &'static str,
    row: Row,
    what: &'static str,
    limit: Limit,
    /// Formats the value. `None`: it is a ratio.
    metric: Option<Metric>,
}

fn bars(transport: &Transport) -> Vec<Bar> {
    use Limit::{AtLeast, AtMost};
    let latency_us = if *transport == Transport::Postgres { 3e3 } else { 1e3 };
    let time = |key, row, what, limit| Bar { key, row, what, limit, metric: Some(Metric::DeliveryP50) };
    let ratio = |key, row, what, limit| Bar { key, row, what, limit, metric: None };
    vec![
        time("latency", Row::Latency, "p50 delivery on another node, minus on the same one", AtMost(latency_us)),
        time("cut", Row::Cut, "p99 delivery on another node while the bus is cut for 30 s", AtMost(1.2e6)),
        time("return", Row::Cut, "until deliveries are normal after the bus is back", AtMost(1e6)),
        time("ghosts", Row::Ghosts, "until clients of a killed node are no longer present", AtMost(10e6)),
        time("failover", Row::Failover, "until 5,000 clients of a killed node have recovered", AtMost(10e6)),
        ratio("alone-acknowledged", Row::Alone, "acknowledged/s with --bus, relative to without", AtLeast(0.95)),
        ratio("alone-cpu", Row::Alone, "deliveries per CPU second with --bus, relative to without", AtLeast(0.95)),
        ratio("spread", Row::Spread, "deliveries per CPU second of three nodes, relative to one server", AtLeast(0.85)),
    ]
}

/// Measures the rows in several rounds. Returns how the values compare with the bars.
pub fn measure(environment: &mut Environment, transport: &Transport, rows: &[Row], rounds: u32) -> Vec<Outcome> {
    let mut bench = Bench { environment, transport };
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut failures: BTreeMap<Row, String> = BTreeMap::new();
    for round in 1..=rounds {
        for row in rows {
            note(format_args!("round {round}: {}", row.name()));
            match row.measure(&mut bench, round) {
                Ok(measured) => {
                    measured.into_iter().for_each(|(key, value)| values.entry(key).or_default().push(value))
                }
                Err(error) => {
                    note(format_args!("round {round}: {} failed: {error:#}", row.name()));
                    failures.entry(*row).or_insert(format!("{error:#}"));
                }
            }
        }
    }
    let wanted = bars(transport).into_iter().filter(|bar| rows.contains(&bar.row));
    let outcome = |bar: Bar| bar.judge(values.remove(bar.key).unwrap_or_default(), failures.get(&bar.row), transport);
    wanted.map(outcome).collect()
}

impl Bar {
    /// A round that failed is no reason to ignore the others, and they are no excuse for it.
    fn judge(&self, values: Vec<f64>, failure: Option<&String>, transport: &Transport) -> Outcome {
        let spread = Spread::of(values);
        let verdict = match (&spread, failure) {
            (_, Some(reason)) => Verdict::NotMeasured(reason.clone()),
            (None, None) => Verdict::NotMeasured("no round has a value".to_owned()),
            (Some(spread), None) => self.limit.judge(spread),
        };
        let show = |value: f64| match self.metric {
            Some(metric) if value < 0.0 => format!("-{}", metric.show(-value)),
            Some(metric) => metric.show(value),
            None => format!("{value:.2}"),
        };
        let measured = spread.map(|it| format!("{} ({} – {})", show(it.median), show(it.min), show(it.max)));
        let limit = self.limit.value();
        let shown_limit = self.metric.map_or(limit.to_string(), |metric| metric.show(limit));
        Outcome {
            key: self.key,
            workload: match transport {
                Transport::Postgres => "cluster, PostgreSQL",
                Transport::Nats | Transport::NatsAt(_) => "cluster, NATS",
            },
            what: self.what,
            limit: format!("{} {shown_limit}", self.limit.sign()),
            verdict,
            spread,
            measured: measured.unwrap_or_else(|| "–".into()),
            note: None,
            reason: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_selected_by_name() {
        assert_eq!(select(&[]).unwrap(), Row::ALL);
        assert_eq!(select(&["alone".into(), "latency".into()]).unwrap(), [Row::Latency, Row::Alone]);
        let error = select(&["late".into()]).unwrap_err().to_string();
        assert!(error.contains("'late'") && error.contains("latency"), "{error}");
    }

    #[test]
    fn each_row_has_a_bar_and_keys_are_unique() {
        let bars = bars(&Transport::Postgres);
        assert!(Row::ALL.iter().all(|row| bars.iter().any(|bar| bar.row == *row)));
        let keys: std::collections::BTreeSet<_> = bars.iter().map(|bar| bar.key).collect();
        assert_eq!(keys.len(), bars.len());
    }

    #[test]
    fn a_round_that_failed_misses_the_bar() {
        let postgres = Transport::Postgres;
        let judge = |key: &str, values: &[f64], failure: Option<&String>| {
            let bar = bars(&postgres).into_iter().find(|bar| bar.key == key).unwrap();
            let outcome = bar.judge(values.to_vec(), failure, &postgres);
            (outcome.limit, outcome.measured, outcome.verdict)
        };
        let (limit, measured, verdict) = judge("latency", &[2_000.0, 1_000.0, 2_500.0], None);
        assert_eq!((limit.as_str(), measured.as_str()), ("≤ 3.00 ms", "2.00 ms (1.00 ms – 2.50 ms)"));
        assert_eq!(verdict, Verdict::Met);
        assert_eq!(judge("spread", &[0.8], None).2, Verdict::Missed);
        let void = "the run is void".to_owned();
        assert_eq!(judge("spread", &[0.9], Some(&void)).2, Verdict::NotMeasured(void));
    }

    #[test]
    fn over_nats_another_node_is_nearer() {
        let limit = |transport: &Transport| bars(transport)[0].limit;
        assert_eq!(limit(&Transport::Postgres), Limit::AtMost(3e3));
        assert_eq!(limit(&Transport::Nats), Limit::AtMost(1e3));
    }
}
