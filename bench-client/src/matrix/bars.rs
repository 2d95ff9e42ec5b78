//! The bars: performance requirements of Uproar, and whether results meet them.

use super::metric::{self, Entry, Metric, Spread};
use super::workloads::{self, Curve, PEERS, Part};
use crate::result::Results;
use serde::Serialize;

/// From this number of rounds on, a bar counts as missed even if it is missed by less than the spread.
const ROUNDS_TO_BE_SURE: usize = 15;

/// The reason why a bar is not measured whose workloads are not in `make bench`.
const ONLY_IN_BENCH_ALL: &str = "only make bench-all measures it";

/// Known reasons why bars are missed: lines of `key: reason`.
const REASONS: &str = include_str!("reasons.txt");

/// A performance requirement: a limit for a metric, or for the ratio of two servers in the same workload.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Identifies the bar in `reasons.txt` and `results.json`.
    pub key: &'static str,
    /// A short description of the workload.
    pub workload: &'static str,
    /// A short description of what is limited.
    pub what: &'static str,
    pub formula: Formula,
    pub limit: Limit,
}

#[derive(Clone, Debug)]
pub enum Formula {
    /// The metric itself.
    Value { metric: Metric, of: Entry<'static> },
    /// The metric divided by that of another server in the same round.
    Ratio { metric: Metric, of: Entry<'static>, to: Entry<'static> },
    /// The metric divided by the lowest one of several servers in the same round.
    RatioToLowest { metric: Metric, of: Entry<'static>, to: Vec<Entry<'static>>, if_missing: IfMissing },
    /// The greatest ratio of Uproar to `floor` along a curve, divided by the ratio at the first size in the same round.
    Growth { metric: Metric, curve: Curve },
}

/// How to judge a bar when one of several servers was not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMissing {
    /// By the other servers, with a note.
    Note,
    /// Not at all.
    NoResult,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

/// How results compare with a bar.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub key: &'static str,
    #[serde(rename = "work")]
    pub workload: &'static str,
    pub what: &'static str,
    /// Such as `≤ 0.9`.
    pub limit: String,
    pub verdict: Verdict,
    /// The values of all rounds, in the unit of the metric.
    pub spread: Option<Spread>,
    /// The median with the lowest and the highest value, as text.
    pub measured: String,
    /// Servers that were not compared.
    pub note: Option<String>,
    /// Why the bar is missed, if that is known.
    pub reason: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Met,
    Missed,
    /// Missed, but by less than the spread and after too few rounds to be sure.
    WithinTheSpread,
    /// With the reason.
    NotMeasured(String),
}

impl Verdict {
    /// The verdict as text.
    pub fn describe(&self) -> String {
        match self {
            Self::Met => "met".into(),
            Self::Missed => "not met".into(),
            Self::WithinTheSpread => {
                format!("missed by less than the spread: measure again with --rounds {ROUNDS_TO_BE_SURE}")
            }
            Self::NotMeasured(reason) => format!("not measured: {reason}"),
        }
    }
}

impl Limit {
    pub fn value(self) -> f64 {
        let (Self::AtMost(limit) | Self::Below(limit) | Self::AtLeast(limit)) = self;
        limit
    }

    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::Below(limit) => value < limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    pub fn sign(self) -> &'static str {
        match self {
            Self::AtMost(_) => "≤",
            Self::Below(_) => "<",
            Self::AtLeast(_) => "≥",
        }
    }

    /// Judges the values of several rounds.
    pub fn judge(self, spread: &Spread) -> Verdict {
        if self.holds(spread.median) {
            Verdict::Met
        } else if (spread.median - self.value()).abs() < spread.width() && spread.rounds < ROUNDS_TO_BE_SURE {
            Verdict::WithinTheSpread
        } else {
            Verdict::Missed
        }
    }
}

impl Formula {
    /// The value in each round that has one. Fails with the reason if no round has one.
    fn values(&self, results: &Results) -> Result<Vec<f64>, String> {
        let rounds = metric::rounds(results);
        let values: Vec<f64> = match self {
            Self::Value { metric, of } => {
                rounds.filter_map(|round| metric::in_round(results, *of, *metric, round)).collect()
            }
            Self::Ratio { metric, of, to } => {
                rounds.filter_map(|round| ratio(results, *metric, *of, *to, round)).collect()
            }
            Self::RatioToLowest { metric, of, to, if_missing } => {
                let present: Vec<_> = to.iter().filter(|entry| has(results, *metric, **entry)).collect();
                if present.is_empty() || (*if_missing == IfMissing::NoResult && present.len() < to.len()) {
                    return Err(why_missing(results, *metric, to));
                }
                // A round without a result of one of the servers would be easier, so it does not count.
                let greatest = |round| {
                    let ratios: Option<Vec<f64>> =
                        present.iter().map(|to| ratio(results, *metric, *of, **to, round)).collect();
                    ratios?.into_iter().max_by(f64::total_cmp)
                };
                rounds.filter_map(greatest).collect()
            }
            Self::Growth { metric, curve } => {
                let workloads = workloads::additional();
                let points: Vec<&str> = workloads
                    .iter()
                    .filter(|workload| matches!(workload.part, Part::Curve { curve: of, .. } if of == *curve))
                    .map(|workload| workload.name.as_str())
                    .collect();
                let growth = |round| {
                    let ratios: Option<Vec<f64>> = points
                        .iter()
                        .map(|workload| {
                            let (of, to) = (Entry { workload, server: "uproar" }, Entry { workload, server: "floor" });
                            ratio(results, *metric, of, to, round)
                        })
                        .collect();
                    let ratios = ratios?;
                    Some(ratios.iter().copied().max_by(f64::total_cmp)? / ratios.first()?)
                };
                let values: Vec<f64> = rounds.filter_map(growth).collect();
                if values.is_empty() && !results.runs.iter().any(|run| points.contains(&run.workload.as_str())) {
                    return Err(ONLY_IN_BENCH_ALL.into());
                }
                values
            }
        };
        if values.is_empty() { Err(why_missing(results, self.metric(), &self.entries())) } else { Ok(values) }
    }

    fn metric(&self) -> Metric {
        match self {
            Self::Value { metric, .. }
            | Self::Ratio { metric, .. }
            | Self::RatioToLowest { metric, .. }
            | Self::Growth { metric, .. } => *metric,
        }
    }

    fn entries(&self) -> Vec<Entry<'static>> {
        match self {
            Self::Value { of, .. } => vec![*of],
            Self::Ratio { of, to, .. } => vec![*of, *to],
            Self::RatioToLowest { of, to, .. } => [&[*of], to.as_slice()].concat(),
            Self::Growth { .. } => Vec::new(),
        }
    }

    fn show(&self, value: f64) -> String {
        match self {
            Self::Value { metric, .. } => metric.show(value),
            _ => format!("{value:.2}"),
        }
    }

    /// Limits of ratios are shown with as many digits as they have.
    fn show_limit(&self, value: f64) -> String {
        match self {
            Self::Value { metric, .. } => metric.show(value),
            _ => value.to_string(),
        }
    }
}

fn ratio(results: &Results, metric: Metric, of: Entry<'_>, to: Entry<'_>, round: u32) -> Option<f64> {
    let to = metric::in_round(results, to, metric, round).filter(|value| *value > 0.0)?;
    Some(metric::in_round(results, of, metric, round)? / to)
}

fn has(results: &Results, metric: Metric, entry: Entry<'_>) -> bool {
    metric::over_rounds(results, entry, metric).is_some()
}

/// Why the first of the entries that lack the metric lacks it.
fn why_missing(results: &Results, metric: Metric, entries: &[Entry<'_>]) -> String {
    let Some(entry) = entries.iter().find(|entry| !has(results, metric, **entry)) else {
        return "no round has results of all servers".into();
    };
    let server = entry.server;
    if let Some(reason) = results.skipped.get(server) {
        return format!("{server} was skipped: {reason}");
    }
    let of_entry = |workload: &str, name: &str| workload == entry.workload && name == server;
    if results.runs.iter().any(|run| of_entry(&run.workload, &run.server) && run.faults.any()) {
        return format!("all runs of {server} are void");
    }
    if let Some(failure) = results.failures.iter().find(|failure| of_entry(&failure.workload, &failure.server)) {
        return format!("{server}: {}", failure.error);
    }
    if workloads::additional().iter().any(|workload| workload.name == entry.workload) {
        return ONLY_IN_BENCH_ALL.into();
    }
    format!("{server} was not measured in {}", entry.workload)
}

impl Bar {
    /// Judges whether the results meet the bar.
    pub fn judge(&self, results: &Results) -> Outcome {
        let (verdict, spread) = match self.formula.values(results) {
            Err(reason) => (Verdict::NotMeasured(reason), None),
            Ok(values) => {
                let spread = Spread::of(values).expect("there are values");
                (self.limit.judge(&spread), Some(spread))
            }
        };
        let show = |value| self.formula.show(value);
        let missed = matches!(verdict, Verdict::Missed | Verdict::WithinTheSpread);
        Outcome {
            key: self.key,
            workload: self.workload,
            what: self.what,
            limit: format!("{} {}", self.limit.sign(), self.formula.show_limit(self.limit.value())),
            verdict,
            spread,
            measured: spread
                .map_or_else(|| "–".into(), |it| format!("{} ({} – {})", show(it.median), show(it.min), show(it.max))),
            note: self.note(results),
            reason: reason(self.key).filter(|_| missed),
        }
    }

    fn note(&self, results: &Results) -> Option<String> {
        let Formula::RatioToLowest { metric, to, if_missing: IfMissing::Note, .. } = &self.formula else { return None };
        let absent: Vec<&str> =
            to.iter().filter(|entry| !has(results, *metric, **entry)).map(|entry| entry.server).collect();
        (!absent.is_empty() && absent.len() < to.len()).then(|| format!("without {}", absent.join(", ")))
    }
}

/// Judges all bars, in the order of [`bars`].
pub fn judge(results: &Results) -> Vec<Outcome> {
    bars().iter().map(|bar| bar.judge(results)).collect()
}

/// The known reason why a bar is missed.
fn reason(key: &str) -> Option<&'static str> {
    reasons().find_map(|(of, reason)| (of == key).then_some(reason))
}

fn reasons() -> impl Iterator<Item = (&'static str, &'static str)> {
    REASONS
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(": ").unwrap_or((line, "")))
}

const fn entry(workload: &'static str, server: &'static str) -> Entry<'static> {
    Entry { workload, server }
}

fn bar(key: &'static str, workload: &'static str, what: &'static str, formula: Formula, limit: Limit) -> Bar {
    Bar { key, workload, what, formula, limit }
}

/// The ratio of two servers in one workload.
fn ratio_between(metric: Metric, workload: &'static str, of: &'static str, to: &'static str) -> Formula {
    Formula::Ratio { metric, of: entry(workload, of), to: entry(workload, to) }
}

fn relative_to_peers(workload: &'static str, of: &'static str) -> Formula {
    Formula::RatioToLowest {
        metric: Metric::CpuPerDelivery,
        of: entry(workload, of),
        to: PEERS.map(|peer| entry(workload, peer)).to_vec(),
        if_missing: IfMissing::Note,
    }
}

fn relative_to_lower(of: &'static str, store: &'static str) -> Formula {
    Formula::RatioToLowest {
        metric: Metric::DeliveriesPerSecond,
        of: entry("stored-rooms", of),
        to: vec![entry("stored-rooms", "uproar live"), entry("stored-rooms", store)],
        if_missing: IfMissing::NoResult,
    }
}

/// All bars.
pub fn bars() -> Vec<Bar> {
    use Limit::{AtLeast, AtMost, Below};
    use Metric::{
        AckP50, AckP99, AcknowledgedPerSecond, CpuPerDelivery, CpuShare, DeliveriesPerSecond, LastP99, LastRecovery,
        RssPerConnection,
    };
    let is = |metric, workload, server| Formula::Value { metric, of: entry(workload, server) };

    const ROOM: &str = "fan-out, channel of 1000";
    const ROOMS: &str = "fan-out, 100 channels of 10";
    const ECHO: &str = "echo, 1000 connections";
    const POSTGRES: &str = "durable, PostgreSQL";
    const SQLITE: &str = "durable, SQLite";
    const IDLE: &str = "10,000 idle connections";
    const TLS_IDLE: &str = "10,000 idle connections over TLS";
    const TLS_STORM: &str = "15,000 connections that drop and return over TLS";
    const TO_PLAIN: &str = "CPU per delivery, relative to the same without TLS";
    const TO_FLOOR: &str = "CPU per delivery, relative to floor";
    const TO_BUN: &str = "CPU per delivery, relative to Bun";
    const TO_PEERS: &str = "CPU per delivery, relative to the best peer";
    const TO_LIVE: &str = "deliveries/s, relative to live";
    const TO_SMALLER: &str = "deliveries/s, relative to the lower of live and the store alone";

    vec![
        bar("room-floor", ROOM, TO_FLOOR, ratio_between(CpuPerDelivery, "fanout-room", "uproar", "floor"), AtMost(0.9)),
        bar("room-bun", ROOM, TO_BUN, ratio_between(CpuPerDelivery, "fanout-room", "uproar", "bun"), AtMost(0.75)),
        bar("room-peers", ROOM, TO_PEERS, relative_to_peers("fanout-room", "uproar"), Below(1.0)),
        bar(
            "rooms-floor",
            ROOMS,
            TO_FLOOR,
            ratio_between(CpuPerDelivery, "fanout-rooms", "uproar", "floor"),
            AtMost(0.95),
        ),
        bar("rooms-bun", ROOMS, TO_BUN, ratio_between(CpuPerDelivery, "fanout-rooms", "uproar", "bun"), AtMost(0.9)),
        bar("rooms-peers", ROOMS, TO_PEERS, relative_to_peers("fanout-rooms", "uproar"), Below(1.0)),
        bar(
            "echo-uring",
            ECHO,
            "CPU per echo with io_uring, relative to floor",
            ratio_between(CpuPerDelivery, "echo", "uproar uring", "floor"),
            AtMost(1.25),
        ),
        bar(
            "echo-epoll",
            ECHO,
            "CPU per echo with epoll, relative to floor",
            ratio_between(CpuPerDelivery, "echo", "uproar epoll", "floor"),
            AtMost(1.1),
        ),
        bar(
            "echo-uring-peers",
            ECHO,
            "CPU per echo with io_uring, relative to the best peer",
            relative_to_peers("echo", "uproar uring"),
            Below(1.0),
        ),
        bar(
            "echo-epoll-peers",
            ECHO,
            "CPU per echo with epoll, relative to the best peer",
            relative_to_peers("echo", "uproar epoll"),
            Below(1.0),
        ),
        bar(
            "centrifugo-room",
            "Centrifugo protocol, channel of 1000",
            "CPU per delivery, relative to floor with frames of the same length",
            ratio_between(CpuPerDelivery, "centrifugo-room", "uproar", "floor"),
            AtMost(1.1),
        ),
        bar(
            "centrifugo-rooms",
            "Centrifugo protocol, 100 channels of 10",
            "CPU per delivery, relative to floor with frames of the same length",
            ratio_between(CpuPerDelivery, "centrifugo-rooms", "uproar", "floor"),
            AtMost(1.1),
        ),
        bar(
            "stored-room-sqlite",
            "SQLite, room of 1000",
            TO_LIVE,
            ratio_between(DeliveriesPerSecond, "stored-room", "uproar sqlite", "uproar live"),
            AtLeast(0.8),
        ),
        bar(
            "stored-room-postgres",
            "PostgreSQL, room of 1000",
            TO_LIVE,
            ratio_between(DeliveriesPerSecond, "stored-room", "uproar postgres", "uproar live"),
            AtLeast(0.8),
        ),
        bar(
            "stored-rooms-sqlite",
            "SQLite, 100 rooms of 10",
            TO_SMALLER,
            relative_to_lower("uproar sqlite", "store sqlite"),
            AtLeast(0.8),
        ),
        bar(
            "stored-rooms-postgres",
            "PostgreSQL, 100 rooms of 10",
            TO_SMALLER,
            relative_to_lower("uproar postgres", "store postgres"),
            AtLeast(0.8),
        ),
        bar(
            "durable-postgres",
            POSTGRES,
            "acknowledged/s, 100 rooms with 10 senders each, window 10",
            is(AcknowledgedPerSecond, "durable", "uproar postgres"),
            AtLeast(15_000.0),
        ),
        bar(
            "durable-postgres-p99",
            POSTGRES,
            "p99 acknowledgement latency at half of that rate",
            is(AckP99, "durable-half", "uproar postgres"),
            AtMost(50_000.0),
        ),
        bar(
            "durable-sqlite",
            SQLITE,
            "acknowledged/s, 100 rooms with 10 senders each, window 10",
            is(AcknowledgedPerSecond, "durable", "uproar sqlite"),
            AtLeast(10_000.0),
        ),
        bar(
            "durable-sqlite-lone",
            SQLITE,
            "p50 latency of a single sender, relative to one commit",
            ratio_between(AckP50, "durable-lone", "uproar sqlite", "store sqlite"),
            AtMost(2.0),
        ),
        bar(
            "open-room",
            "open load at half of the lower capacity, room of 1000",
            "p99 latency to the last subscriber, relative to floor",
            ratio_between(LastP99, "open-room", "uproar", "floor"),
            AtMost(1.5),
        ),
        bar("idle-rss", IDLE, "RSS per connection", is(RssPerConnection, "idle", "uproar"), AtMost(2048.0)),
        // 10,000 pings and 10,000 pongs every 25 s take little.
        bar("idle-cpu", IDLE, "share of a core", is(CpuShare, "idle", "uproar"), AtMost(0.01)),
        bar(
            "tls-room",
            "fan-out over TLS, channel of 1000",
            TO_PLAIN,
            ratio_between(CpuPerDelivery, "tls-room", "uproar tls", "uproar"),
            AtMost(1.3),
        ),
        bar(
            "tls-rooms",
            "fan-out over TLS, 100 channels of 10",
            TO_PLAIN,
            ratio_between(CpuPerDelivery, "tls-rooms", "uproar tls", "uproar"),
            AtMost(1.3),
        ),
        bar("tls-idle", TLS_IDLE, "RSS per connection", is(RssPerConnection, "tls-idle", "uproar tls"), AtMost(8192.0)),
        bar("tls-storm", TLS_STORM, LastRecovery.name(), is(LastRecovery, "tls-storm", "uproar tls"), AtMost(12e6)),
        bar(
            "shards",
            "two shards, 100 rooms of 10",
            "CPU per delivery, relative to one shard",
            ratio_between(CpuPerDelivery, "shards", "uproar 2 shards", "uproar"),
            AtMost(1.1),
        ),
        bar(
            "growth-members",
            "growth, from 10 to 10,000 members",
            "greatest ratio to floor, relative to the first",
            Formula::Growth { metric: CpuPerDelivery, curve: Curve::Members },
            AtMost(1.2),
        ),
        bar(
            "growth-rooms",
            "growth, from 1 to 10,000 rooms",
            "greatest ratio to floor, relative to the first",
            Formula::Growth { metric: CpuPerDelivery, curve: Curve::Rooms },
            AtMost(1.2),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::fixtures;
    use std::collections::BTreeSet;

    fn of(key: &str, results: &Results) -> Outcome {
        bars().iter().find(|bar| bar.key == key).expect("a bar with this key").judge(results)
    }

    /// One round for each of these costs of Uproar. `floor` costs 1 in all of them.
    fn room(costs: &[f64]) -> Results {
        let mut results = fixtures::results();
        for (round, cost) in (1..).zip(costs) {
            results.runs.push(fixtures::cpu("fanout-room", "uproar", round, *cost));
            results.runs.push(fixtures::cpu("fanout-room", "floor", round, 1.0));
        }
        results
    }

    #[test]
    fn a_bar_is_met_at_its_limit() {
        let outcome = of("room-floor", &room(&[0.8, 0.9, 1.3]));
        assert_eq!(outcome.verdict, Verdict::Met);
        assert_eq!(outcome.measured, "0.90 (0.80 – 1.30)");
        assert_eq!(outcome.limit, "≤ 0.9");
    }

    #[test]
    fn a_bar_is_missed_when_the_spread_is_smaller_than_the_distance() {
        assert_eq!(of("room-floor", &room(&[1.2, 1.21, 1.22])).verdict, Verdict::Missed);
    }

    #[test]
    fn a_bar_missed_by_less_than_the_spread_is_undecided_until_15_rounds() {
        let outcome = of("room-floor", &room(&[0.85, 0.95, 1.0]));
        assert_eq!(outcome.verdict, Verdict::WithinTheSpread);
        assert_eq!(outcome.verdict.describe(), "missed by less than the spread: measure again with --rounds 15");
        let costs: Vec<f64> = [0.85, 0.95, 1.0].into_iter().cycle().take(15).collect();
        assert_eq!(of("room-floor", &room(&costs)).verdict, Verdict::Missed);
    }

    #[test]
    fn a_peer_that_was_not_built_is_noted() {
        let mut results = room(&[0.5]);
        results.skipped.insert("bun".into(), "npm is missing".into());
        results.runs.push(fixtures::cpu("fanout-room", "axum", 1, 2.0));
        results.runs.push(fixtures::cpu("fanout-room", "node ws", 1, 4.0));
        assert_eq!(of("room-bun", &results).verdict, Verdict::NotMeasured("bun was skipped: npm is missing".into()));
        let peers = of("room-peers", &results);
        assert_eq!((peers.verdict, peers.note.as_deref()), (Verdict::Met, Some("without bun, fastwebsockets")));
        assert_eq!(peers.spread.unwrap().median, 0.25);
    }

    #[test]
    fn a_comparison_without_any_peer_is_not_measured() {
        assert!(matches!(of("room-peers", &room(&[0.5])).verdict, Verdict::NotMeasured(_)));
    }

    #[test]
    fn a_round_in_which_a_peer_is_void_does_not_count() {
        let mut results = room(&[1.0, 1.0]);
        for round in [1, 2] {
            results.runs.push(fixtures::cpu("fanout-room", "axum", round, 2.0));
        }
        results.runs.push(fixtures::cpu("fanout-room", "bun", 1, 0.8));
        results.runs.push(fixtures::void("fanout-room", "bun", 2));
        let outcome = of("room-peers", &results);
        assert_eq!((outcome.spread.unwrap().median, outcome.spread.unwrap().rounds), (1.25, 1));
    }

    #[test]
    fn void_runs_meet_no_bar() {
        let mut results = fixtures::results();
        results.runs.push(fixtures::void("fanout-room", "uproar", 1));
        results.runs.push(fixtures::cpu("fanout-room", "floor", 1, 1.0));
        assert_eq!(of("room-floor", &results).verdict, Verdict::NotMeasured("all runs of uproar are void".into()));
    }

    #[test]
    fn a_stored_fan_out_is_compared_with_the_smaller_of_live_and_the_store() {
        let mut results = fixtures::results();
        for (server, deliveries) in [("uproar live", 1000), ("uproar sqlite", 90), ("store sqlite", 100)] {
            let mut run = fixtures::cpu("stored-rooms", server, 1, 1.0);
            run.deliveries = deliveries;
            results.runs.push(run);
        }
        let outcome = of("stored-rooms-sqlite", &results);
        assert_eq!((outcome.verdict, outcome.measured.as_str()), (Verdict::Met, "0.90 (0.90 – 0.90)"));
        results.runs.pop();
        let verdict = of("stored-rooms-sqlite", &results).verdict;
        assert_eq!(verdict, Verdict::NotMeasured("store sqlite was not measured in stored-rooms".into()));
    }

    #[test]
    fn limits_are_shown_with_units() {
        let mut results = fixtures::results();
        results.runs.push(fixtures::acknowledged("durable", "uproar postgres", 1, 14_000, 900.0));
        let outcome = of("durable-postgres", &results);
        assert_eq!((outcome.verdict, outcome.limit.as_str()), (Verdict::Missed, "≥ 15,000"));
        results.runs.push(fixtures::acknowledged("durable-half", "uproar postgres", 1, 7_000, 900.0));
        let outcome = of("durable-postgres-p99", &results);
        assert_eq!((outcome.verdict, outcome.limit.as_str()), (Verdict::Met, "≤ 50.0 ms"));
    }

    #[test]
    fn growth_is_the_greatest_ratio_divided_by_the_first() {
        let mut results = fixtures::results();
        for (members, ours) in [(10, 1.0), (100, 1.5), (1000, 0.8), (10_000, 1.1)] {
            results.runs.push(fixtures::cpu(&format!("members-{members}"), "uproar", 1, ours));
            results.runs.push(fixtures::cpu(&format!("members-{members}"), "floor", 1, 1.0));
        }
        let outcome = of("growth-members", &results);
        assert_eq!((outcome.verdict, outcome.spread.unwrap().median), (Verdict::Missed, 1.5));
        assert_eq!(
            of("growth-rooms", &results).verdict,
            Verdict::NotMeasured("only make bench-all measures it".into())
        );
    }

    #[test]
    fn bars_refer_to_existing_workloads_and_reasons_to_existing_bars() {
        let workloads: Vec<_> = workloads::for_bars().into_iter().chain(workloads::additional()).collect();
        let keys: BTreeSet<&str> = bars().iter().map(|bar| bar.key).collect();
        assert_eq!(keys.len(), bars().len());
        for bar in bars() {
            for entry in bar.formula.entries() {
                let workload = workloads.iter().find(|workload| workload.name == entry.workload).expect(entry.workload);
                assert!(workload.entrants.iter().any(|entrant| entrant.server == entry.server), "{entry:?}");
            }
        }
        for (key, reason) in reasons() {
            assert!(keys.contains(key) && !reason.is_empty(), "reasons.txt: {key}");
        }
    }
}
