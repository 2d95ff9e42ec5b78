//! What Uproar has to reach, and whether it did.

use super::figure::{self, Entry, Figure, Spread};
use super::works::{self, Curve, PEERS, Part};
use crate::result::Results;
use serde::Serialize;

/// Rounds after which a bar that is missed by less than the spread counts as missed.
const ROUNDS_TO_BE_SURE: usize = 15;

/// Why bars are missed, where that is known: lines of `key: reason`.
const REASONS: &str = include_str!("reasons.txt");

/// One thing to reach.
#[derive(Clone, Debug)]
pub struct Bar {
    /// For reasons and scripts.
    pub key: &'static str,
    pub work: &'static str,
    /// What is compared, for people.
    pub what: &'static str,
    pub formula: Formula,
    pub limit: Limit,
}

#[derive(Clone, Debug)]
pub enum Formula {
    /// The figure itself.
    Is { figure: Figure, of: Entry<'static> },
    /// The figure, to another server's in the same round.
    Ratio { figure: Figure, of: Entry<'static>, to: Entry<'static> },
    /// The figure, to the least of several servers in the same round.
    ToLeast { figure: Figure, of: Entry<'static>, to: Vec<Entry<'static>>, missing: Missing },
    /// The greatest ratio of Uproar to `floor` along a curve, to the ratio at its first size, in the same round.
    Growth { figure: Figure, curve: Curve },
}

/// What it means that one of several servers was not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The others are enough; it is said.
    Said,
    /// There is no result.
    NoResult,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

/// What became of a bar.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub key: &'static str,
    pub work: &'static str,
    pub what: &'static str,
    /// Such as `≤ 0.9`.
    pub limit: String,
    pub verdict: Verdict,
    /// Over the rounds, in the unit of the figure.
    pub spread: Option<Spread>,
    /// The median, and the spread in brackets, for people.
    pub measured: String,
    /// What else has to be said.
    pub note: Option<String>,
    /// Why it is missed, where that is known.
    pub reason: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Met,
    Missed,
    /// Missed by less than the spread, of few rounds.
    WithinTheSpread,
    /// And why.
    NotMeasured(String),
}

impl Verdict {
    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Met => "met".into(),
            Self::Missed => "not met".into(),
            Self::WithinTheSpread => format!("within the spread: run again with --rounds {ROUNDS_TO_BE_SURE}"),
            Self::NotMeasured(why) => format!("not measured: {why}"),
        }
    }
}

impl Limit {
    fn value(self) -> f64 {
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

    fn sign(self) -> &'static str {
        match self {
            Self::AtMost(_) => "≤",
            Self::Below(_) => "<",
            Self::AtLeast(_) => "≥",
        }
    }
}

impl Formula {
    /// Its value in each round that has one, or why there is none in any.
    fn values(&self, results: &Results) -> Result<Vec<f64>, String> {
        let rounds = figure::rounds(results);
        let values: Vec<f64> = match self {
            Self::Is { figure, of } => {
                rounds.filter_map(|round| figure::in_round(results, *of, *figure, round)).collect()
            }
            Self::Ratio { figure, of, to } => {
                rounds.filter_map(|round| ratio(results, *figure, *of, *to, round)).collect()
            }
            Self::ToLeast { figure, of, to, missing } => {
                let there: Vec<_> = to.iter().filter(|entry| has(results, *figure, **entry)).collect();
                if there.is_empty() || (*missing == Missing::NoResult && there.len() < to.len()) {
                    return Err(why_missing(results, *figure, to));
                }
                // A round in which one of them is void would be an easier one.
                let greatest = |round| {
                    let ratios: Option<Vec<f64>> =
                        there.iter().map(|to| ratio(results, *figure, *of, **to, round)).collect();
                    ratios?.into_iter().max_by(f64::total_cmp)
                };
                rounds.filter_map(greatest).collect()
            }
            Self::Growth { figure, curve } => {
                let works = works::of_curves();
                let points: Vec<&str> = works
                    .iter()
                    .filter(|work| matches!(work.part, Part::Curve { curve: of, .. } if of == *curve))
                    .map(|work| work.name.as_str())
                    .collect();
                let growth = |round| {
                    let ratios: Option<Vec<f64>> = points
                        .iter()
                        .map(|work| {
                            let (of, to) = (Entry { work, server: "uproar" }, Entry { work, server: "floor" });
                            ratio(results, *figure, of, to, round)
                        })
                        .collect();
                    let ratios = ratios?;
                    Some(ratios.iter().copied().max_by(f64::total_cmp)? / ratios.first()?)
                };
                let values: Vec<f64> = rounds.filter_map(growth).collect();
                if values.is_empty() && !results.runs.iter().any(|run| points.contains(&run.work.as_str())) {
                    return Err("make bench-all measures it".into());
                }
                values
            }
        };
        if values.is_empty() { Err(why_missing(results, self.figure(), &self.entries())) } else { Ok(values) }
    }

    fn figure(&self) -> Figure {
        match self {
            Self::Is { figure, .. }
            | Self::Ratio { figure, .. }
            | Self::ToLeast { figure, .. }
            | Self::Growth { figure, .. } => *figure,
        }
    }

    fn entries(&self) -> Vec<Entry<'static>> {
        match self {
            Self::Is { of, .. } => vec![*of],
            Self::Ratio { of, to, .. } => vec![*of, *to],
            Self::ToLeast { of, to, .. } => [&[*of], to.as_slice()].concat(),
            Self::Growth { .. } => Vec::new(),
        }
    }

    fn show(&self, value: f64) -> String {
        match self {
            Self::Is { figure, .. } => figure.show(value),
            _ => format!("{value:.2}"),
        }
    }

    /// Limits of ratios are short as they are.
    fn show_limit(&self, value: f64) -> String {
        match self {
            Self::Is { figure, .. } => figure.show(value),
            _ => value.to_string(),
        }
    }
}

fn ratio(results: &Results, figure: Figure, of: Entry<'_>, to: Entry<'_>, round: u32) -> Option<f64> {
    let to = figure::in_round(results, to, figure, round).filter(|value| *value > 0.0)?;
    Some(figure::in_round(results, of, figure, round)? / to)
}

fn has(results: &Results, figure: Figure, entry: Entry<'_>) -> bool {
    figure::over_rounds(results, entry, figure).is_some()
}

/// Says of the first of the entries without a figure why that is.
fn why_missing(results: &Results, figure: Figure, entries: &[Entry<'_>]) -> String {
    let Some(entry) = entries.iter().find(|entry| !has(results, figure, **entry)) else {
        return "in no round were all servers measured".into();
    };
    let server = entry.server;
    if let Some(why) = results.skipped.get(server) {
        return format!("{server} was left out: {why}");
    }
    let of_entry = |work: &str, name: &str| work == entry.work && name == server;
    if results.runs.iter().any(|run| of_entry(&run.work, &run.server) && run.faults.any()) {
        return format!("all runs of {server} are void");
    }
    if let Some(failure) = results.failures.iter().find(|failure| of_entry(&failure.work, &failure.server)) {
        return format!("{server}: {}", failure.error);
    }
    format!("no run of {server} in {} has it", entry.work)
}

impl Bar {
    /// Whether the results meet it.
    pub fn judge(&self, results: &Results) -> Outcome {
        let (verdict, spread) = match self.formula.values(results) {
            Err(why) => (Verdict::NotMeasured(why), None),
            Ok(values) => {
                let spread = Spread::of(values).expect("there are values");
                (self.verdict(&spread), Some(spread))
            }
        };
        let show = |value| self.formula.show(value);
        let missed = matches!(verdict, Verdict::Missed | Verdict::WithinTheSpread);
        Outcome {
            key: self.key,
            work: self.work,
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

    fn verdict(&self, spread: &Spread) -> Verdict {
        if self.limit.holds(spread.median) {
            Verdict::Met
        } else if (spread.median - self.limit.value()).abs() < spread.width() && spread.rounds < ROUNDS_TO_BE_SURE {
            Verdict::WithinTheSpread
        } else {
            Verdict::Missed
        }
    }

    fn note(&self, results: &Results) -> Option<String> {
        let Formula::ToLeast { figure, to, missing: Missing::Said, .. } = &self.formula else { return None };
        let absent: Vec<&str> =
            to.iter().filter(|entry| !has(results, *figure, **entry)).map(|entry| entry.server).collect();
        (!absent.is_empty() && absent.len() < to.len()).then(|| format!("without {}", absent.join(", ")))
    }
}

/// All bars judged, in the order of the table.
pub fn judge(results: &Results) -> Vec<Outcome> {
    bars().iter().map(|bar| bar.judge(results)).collect()
}

/// The stated reason for which a bar is missed.
fn reason(key: &str) -> Option<&'static str> {
    reasons().find_map(|(of, reason)| (of == key).then_some(reason))
}

fn reasons() -> impl Iterator<Item = (&'static str, &'static str)> {
    REASONS
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(": ").unwrap_or((line, "")))
}

const fn entry(work: &'static str, server: &'static str) -> Entry<'static> {
    Entry { work, server }
}

fn bar(key: &'static str, work: &'static str, what: &'static str, formula: Formula, limit: Limit) -> Bar {
    Bar { key, work, what, formula, limit }
}

/// Of two servers in one work.
fn compared(figure: Figure, work: &'static str, of: &'static str, to: &'static str) -> Formula {
    Formula::Ratio { figure, of: entry(work, of), to: entry(work, to) }
}

fn below_every_peer(work: &'static str, of: &'static str) -> Formula {
    Formula::ToLeast {
        figure: Figure::CpuPerDelivery,
        of: entry(work, of),
        to: PEERS.map(|peer| entry(work, peer)).to_vec(),
        missing: Missing::Said,
    }
}

fn of_smaller(of: &'static str, store: &'static str) -> Formula {
    Formula::ToLeast {
        figure: Figure::DeliveriesPerSecond,
        of: entry("stored-rooms", of),
        to: vec![entry("stored-rooms", "uproar live"), entry("stored-rooms", store)],
        missing: Missing::NoResult,
    }
}

/// All bars.
pub fn bars() -> Vec<Bar> {
    use Figure::{
        AckP50, AckP99, AcknowledgedPerSecond, CpuPerDelivery, CpuShare, DeliveriesPerSecond, LastP99, RssPerConnection,
    };
    use Limit::{AtLeast, AtMost, Below};
    let is = |figure, work, server| Formula::Is { figure, of: entry(work, server) };

    const ROOM: &str = "fan-out, room of 1000";
    const ROOMS: &str = "fan-out, 100 rooms of 10";
    const ECHO: &str = "echo, 1000 connections";
    const POSTGRES: &str = "durable, PostgreSQL";
    const SQLITE: &str = "durable, SQLite";
    const IDLE: &str = "10,000 idle connections";
    const TO_FLOOR: &str = "CPU per delivery, to floor";
    const TO_BUN: &str = "CPU per delivery, to Bun";
    const TO_PEERS: &str = "CPU per delivery, to the best peer";
    const TO_LIVE: &str = "deliveries/s, to live";
    const TO_SMALLER: &str = "deliveries/s, to the smaller of live and the store alone";

    vec![
        bar("room-floor", ROOM, TO_FLOOR, compared(CpuPerDelivery, "fanout-room", "uproar", "floor"), AtMost(0.9)),
        bar("room-bun", ROOM, TO_BUN, compared(CpuPerDelivery, "fanout-room", "uproar", "bun"), AtMost(0.75)),
        bar("room-peers", ROOM, TO_PEERS, below_every_peer("fanout-room", "uproar"), Below(1.0)),
        bar("rooms-floor", ROOMS, TO_FLOOR, compared(CpuPerDelivery, "fanout-rooms", "uproar", "floor"), AtMost(0.95)),
        bar("rooms-bun", ROOMS, TO_BUN, compared(CpuPerDelivery, "fanout-rooms", "uproar", "bun"), AtMost(0.9)),
        bar("rooms-peers", ROOMS, TO_PEERS, below_every_peer("fanout-rooms", "uproar"), Below(1.0)),
        bar(
            "echo-uring",
            ECHO,
            "CPU per echo on io_uring, to floor",
            compared(CpuPerDelivery, "echo", "uproar uring", "floor"),
            AtMost(1.25),
        ),
        bar(
            "echo-epoll",
            ECHO,
            "CPU per echo on epoll, to floor",
            compared(CpuPerDelivery, "echo", "uproar epoll", "floor"),
            AtMost(1.1),
        ),
        bar(
            "echo-uring-peers",
            ECHO,
            "CPU per echo on io_uring, to the best peer",
            below_every_peer("echo", "uproar uring"),
            Below(1.0),
        ),
        bar(
            "echo-epoll-peers",
            ECHO,
            "CPU per echo on epoll, to the best peer",
            below_every_peer("echo", "uproar epoll"),
            Below(1.0),
        ),
        bar(
            "centrifugo-room",
            "Centrifugo protocol, room of 1000",
            "CPU per delivery, to floor with frames as long",
            compared(CpuPerDelivery, "centrifugo-room", "uproar", "floor"),
            AtMost(1.1),
        ),
        bar(
            "centrifugo-rooms",
            "Centrifugo protocol, 100 rooms of 10",
            "CPU per delivery, to floor with frames as long",
            compared(CpuPerDelivery, "centrifugo-rooms", "uproar", "floor"),
            AtMost(1.1),
        ),
        bar(
            "stored-room-sqlite",
            "SQLite, room of 1000",
            TO_LIVE,
            compared(DeliveriesPerSecond, "stored-room", "uproar sqlite", "uproar live"),
            AtLeast(0.8),
        ),
        bar(
            "stored-room-postgres",
            "PostgreSQL, room of 1000",
            TO_LIVE,
            compared(DeliveriesPerSecond, "stored-room", "uproar postgres", "uproar live"),
            AtLeast(0.8),
        ),
        bar(
            "stored-rooms-sqlite",
            "SQLite, 100 rooms of 10",
            TO_SMALLER,
            of_smaller("uproar sqlite", "store sqlite"),
            AtLeast(0.8),
        ),
        bar(
            "stored-rooms-postgres",
            "PostgreSQL, 100 rooms of 10",
            TO_SMALLER,
            of_smaller("uproar postgres", "store postgres"),
            AtLeast(0.8),
        ),
        bar(
            "durable-postgres",
            POSTGRES,
            "acknowledged/s, 100 rooms, 10 senders each, window 10",
            is(AcknowledgedPerSecond, "durable", "uproar postgres"),
            AtLeast(15_000.0),
        ),
        bar(
            "durable-postgres-p99",
            POSTGRES,
            "p99 to the acknowledgement, at half of that rate",
            is(AckP99, "durable-half", "uproar postgres"),
            AtMost(50_000.0),
        ),
        bar(
            "durable-sqlite",
            SQLITE,
            "acknowledged/s, 100 rooms, 10 senders each, window 10",
            is(AcknowledgedPerSecond, "durable", "uproar sqlite"),
            AtLeast(10_000.0),
        ),
        bar(
            "durable-sqlite-lone",
            SQLITE,
            "p50 of a lone sender, to the time of one commit",
            compared(AckP50, "durable-lone", "uproar sqlite", "store sqlite"),
            AtMost(2.0),
        ),
        bar(
            "open-room",
            "open load at half of the lower capacity, room of 1000",
            "p99 to the last member, to floor",
            compared(LastP99, "open-room", "uproar", "floor"),
            AtMost(1.5),
        ),
        bar("idle-rss", IDLE, "RSS per connection", is(RssPerConnection, "idle", "uproar"), AtMost(2048.0)),
        // 10,000 pings and as many pongs in 25 s, at 12 µs for the pair.
        bar(
            "idle-cpu",
            IDLE,
            "share of a core; pings take half a percent",
            is(CpuShare, "idle", "uproar"),
            AtMost(0.01),
        ),
        bar(
            "shards",
            "two shards, 100 rooms of 10",
            "CPU per delivery, to one shard",
            compared(CpuPerDelivery, "shards", "uproar 2 shards", "uproar"),
            AtMost(1.1),
        ),
        bar(
            "growth-members",
            "growth, from 10 to 10,000 members",
            "greatest ratio to floor, to the first",
            Formula::Growth { figure: CpuPerDelivery, curve: Curve::Members },
            AtMost(1.2),
        ),
        bar(
            "growth-rooms",
            "growth, from 1 to 10,000 rooms",
            "greatest ratio to floor, to the first",
            Formula::Growth { figure: CpuPerDelivery, curve: Curve::Rooms },
            AtMost(1.2),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::made_up;
    use std::collections::BTreeSet;

    fn of(key: &str, results: &Results) -> Outcome {
        bars().iter().find(|bar| bar.key == key).expect("there is such a bar").judge(results)
    }

    /// Uproar at these costs, `floor` at 1, by rounds.
    fn room(costs: &[f64]) -> Results {
        let mut results = made_up::results();
        for (round, cost) in (1..).zip(costs) {
            results.runs.push(made_up::cpu("fanout-room", "uproar", round, *cost));
            results.runs.push(made_up::cpu("fanout-room", "floor", round, 1.0));
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
    fn a_bar_is_missed_where_the_spread_does_not_reach_it() {
        assert_eq!(of("room-floor", &room(&[1.2, 1.21, 1.22])).verdict, Verdict::Missed);
    }

    #[test]
    fn a_bar_missed_by_less_than_the_spread_wants_more_rounds_once() {
        let outcome = of("room-floor", &room(&[0.85, 0.95, 1.0]));
        assert_eq!(outcome.verdict, Verdict::WithinTheSpread);
        assert_eq!(outcome.verdict.words(), "within the spread: run again with --rounds 15");
        let costs: Vec<f64> = [0.85, 0.95, 1.0].into_iter().cycle().take(15).collect();
        assert_eq!(of("room-floor", &room(&costs)).verdict, Verdict::Missed);
    }

    #[test]
    fn a_peer_that_was_not_built_is_said() {
        let mut results = room(&[0.5]);
        results.skipped.insert("bun".into(), "npm is missing".into());
        results.runs.push(made_up::cpu("fanout-room", "axum", 1, 2.0));
        results.runs.push(made_up::cpu("fanout-room", "node ws", 1, 4.0));
        assert_eq!(of("room-bun", &results).verdict, Verdict::NotMeasured("bun was left out: npm is missing".into()));
        let peers = of("room-peers", &results);
        assert_eq!((peers.verdict, peers.note.as_deref()), (Verdict::Met, Some("without bun, fastwebsockets")));
        assert_eq!(peers.spread.unwrap().median, 0.25);
    }

    #[test]
    fn no_peer_at_all_is_no_victory() {
        assert!(matches!(of("room-peers", &room(&[0.5])).verdict, Verdict::NotMeasured(_)));
    }

    #[test]
    fn a_round_without_the_best_peer_does_not_count_against_all_peers() {
        let mut results = room(&[1.0, 1.0]);
        for round in [1, 2] {
            results.runs.push(made_up::cpu("fanout-room", "axum", round, 2.0));
        }
        results.runs.push(made_up::cpu("fanout-room", "bun", 1, 0.8));
        results.runs.push(made_up::void("fanout-room", "bun", 2));
        let outcome = of("room-peers", &results);
        assert_eq!((outcome.spread.unwrap().median, outcome.spread.unwrap().rounds), (1.25, 1));
    }

    #[test]
    fn void_runs_meet_no_bar() {
        let mut results = made_up::results();
        results.runs.push(made_up::void("fanout-room", "uproar", 1));
        results.runs.push(made_up::cpu("fanout-room", "floor", 1, 1.0));
        assert_eq!(of("room-floor", &results).verdict, Verdict::NotMeasured("all runs of uproar are void".into()));
    }

    #[test]
    fn a_stored_fan_out_is_compared_with_the_smaller_of_live_and_the_store() {
        let mut results = made_up::results();
        for (server, deliveries) in [("uproar live", 1000), ("uproar sqlite", 90), ("store sqlite", 100)] {
            let mut run = made_up::cpu("stored-rooms", server, 1, 1.0);
            run.deliveries = deliveries;
            results.runs.push(run);
        }
        let outcome = of("stored-rooms-sqlite", &results);
        assert_eq!((outcome.verdict, outcome.measured.as_str()), (Verdict::Met, "0.90 (0.90 – 0.90)"));
        results.runs.pop();
        let verdict = of("stored-rooms-sqlite", &results).verdict;
        assert_eq!(verdict, Verdict::NotMeasured("no run of store sqlite in stored-rooms has it".into()));
    }

    #[test]
    fn figures_have_units_in_their_limits() {
        let mut results = made_up::results();
        results.runs.push(made_up::acknowledged("durable", "uproar postgres", 1, 14_000, 900.0));
        let outcome = of("durable-postgres", &results);
        assert_eq!((outcome.verdict, outcome.limit.as_str()), (Verdict::Missed, "≥ 15,000"));
        results.runs.push(made_up::acknowledged("durable-half", "uproar postgres", 1, 7_000, 900.0));
        let outcome = of("durable-postgres-p99", &results);
        assert_eq!((outcome.verdict, outcome.limit.as_str()), (Verdict::Met, "≤ 50.0 ms"));
    }

    #[test]
    fn growth_is_the_greatest_ratio_to_the_first() {
        let mut results = made_up::results();
        for (members, ours) in [(10, 1.0), (100, 1.5), (1000, 0.8), (10_000, 1.1)] {
            results.runs.push(made_up::cpu(&format!("members-{members}"), "uproar", 1, ours));
            results.runs.push(made_up::cpu(&format!("members-{members}"), "floor", 1, 1.0));
        }
        let outcome = of("growth-members", &results);
        assert_eq!((outcome.verdict, outcome.spread.unwrap().median), (Verdict::Missed, 1.5));
        assert_eq!(of("growth-rooms", &results).verdict, Verdict::NotMeasured("make bench-all measures it".into()));
    }

    #[test]
    fn bars_ask_for_what_the_works_measure_and_reasons_for_what_bars_there_are() {
        let works = works::of_bars();
        let keys: BTreeSet<&str> = bars().iter().map(|bar| bar.key).collect();
        assert_eq!(keys.len(), bars().len());
        for bar in bars() {
            for entry in bar.formula.entries() {
                let work = works.iter().find(|work| work.name == entry.work).expect(entry.work);
                assert!(work.entrants.iter().any(|entrant| entrant.server == entry.server), "{entry:?}");
            }
        }
        for (key, reason) in reasons() {
            assert!(keys.contains(key) && !reason.is_empty(), "reasons.txt: {key}");
        }
    }
}
