//! The measurements of a cluster. Each returns the values of its bars.

use super::fixture::{Cluster, Transport};
use crate::abuse::WebSocket;
use crate::matrix::metric::Metric;
use crate::matrix::runner::{Job, describe_faults};
use crate::matrix::workloads::{self, Driver, Subject};
use crate::output::note;
use crate::result::{Channel, Load, Run, Scenario, Shape, Wire};
use crate::scenario::{self, Behaviour, Circumstances, Latencies, Placement, Sample};
use crate::server::http::Http;
use crate::server::{Environment, Server};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Where latency is meant, messages are sent at this rate.
const RATE_PER_SECOND: f64 = 100.0;
const WARM_UP: Duration = Duration::from_secs(2);
const NODES: usize = 3;
/// Joins and departures would be further publications.
const WITHOUT_JOINS: &[&str] = &["--limit", "join_leave_limit=0"];

/// How long the bus works before it is cut, how long it is cut, and how long it works afterwards.
const BEFORE: Duration = Duration::from_secs(5);
const CUT: Duration = Duration::from_secs(30);
const AFTER: Duration = Duration::from_secs(10);
/// Deliveries that take longer are not normal. A node that has to look for new messages does so twice a second.
const NORMAL_NS: u64 = 100_000_000;

/// The members of each of 100 rooms who are on the node that is killed.
const CROWD: u32 = 50;
const VICTIM: usize = 1;
/// The clients of the killed node who are still present elsewhere. Few enough to be announced by name.
const GHOSTS: u64 = 50;
/// How long everybody may take to appear.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the ghosts may take to disappear before the measurement is given up.
const GHOST_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A value for a bar, in the unit of the bar.
pub type Value = (&'static str, f64);

/// What a measurement needs.
pub struct Bench<'a> {
    pub environment: &'a mut Environment,
    pub transport: &'a Transport,
}

/// Messages in ten rooms, with two members and one sender on each node.
fn few_rooms() -> Shape {
    let load = Load::Rate(RATE_PER_SECOND);
    let (wire, channel) = (Wire::Centrifugo, Channel::Postgres);
    Shape { rooms: 10, members: 6, senders: 3, payload_bytes: 128, load, wire, channel, tls: false }
}

fn job(scenario: Scenario, shape: Shape, measured: Duration) -> Job {
    let subject = Subject::Uproar { driver: Driver::Auto, shards: 1 };
    Job { scenario, subject, shape, frame_bytes: None, signup: false, warm_up: WARM_UP, measured }
}

impl Bench<'_> {
    /// How much longer a delivery on another node takes.
    pub fn latency(&mut self) -> Result<Vec<Value>> {
        let cluster = self.start(NODES)?;
        let job = job(Scenario::Fanout, few_rooms(), Duration::from_secs(10));
        let circumstances = Circumstances { keeps_samples: true, ..Circumstances::default() };
        let (run, samples) =
            scenario::measure_nodes(&cluster.nodes, &self.environment.load_cores, &job, circumstances)?;
        cluster.stop();
        check(&run)?;
        let [here, elsewhere] =
            [false, true].map(|is_elsewhere| p50_and_p99(samples.iter().filter(|it| it.is_elsewhere == is_elsewhere)));
        let (here, elsewhere) = here.zip(elsewhere).context("nothing was delivered")?;
        note(format_args!(
            "delivery on the same node: p50 {:.2} ms, p99 {:.2} ms; on another one: p50 {:.2} ms, p99 {:.2} ms",
            here.0 / 1e3,
            here.1 / 1e3,
            elsewhere.0 / 1e3,
            elsewhere.1 / 1e3
        ));
        Ok(vec![("latency", elsewhere.0 - here.0)])
    }

    /// The bus is cut for a while.
    pub fn cut(&mut self) -> Result<Vec<Value>> {
        let cluster = self.start(NODES)?;
        // Only one node sends: what another one commits to a room itself makes it notice what it has missed there.
        let shape = Shape { senders: 1, ..few_rooms() };
        let job = job(Scenario::Fanout, shape, BEFORE + CUT + AFTER);
        let (from, to) = (Cell::new(0), Cell::new(0));
        let environment = &*self.environment;
        let during = Box::new(|coordinator: &scenario::Coordinator, phases: scenario::Phases| {
            let clock = coordinator.clock;
            clock.sleep_until(phases.measure_start + nanos(BEFORE));
            cluster.cut_bus(environment)?;
            from.set(clock.now());
            clock.sleep_until(from.get() + nanos(CUT));
            to.set(clock.now());
            cluster.restore_bus(environment)
        });
        let circumstances = Circumstances { keeps_samples: true, during: Some(during), ..Circumstances::default() };
        let (run, samples) = scenario::measure_nodes(&cluster.nodes, &environment.load_cores, &job, circumstances)?;
        cluster.stop();
        check(&run)?;
        let (from, to) = (from.get(), to.get());
        let elsewhere: Vec<Sample> = samples.into_iter().filter(|sample| sample.is_elsewhere).collect();
        let is_cut = |sample: &&Sample| (from..to).contains(&sample.intended);
        let (p50, p99) = p50_and_p99(elsewhere.iter().filter(is_cut)).context("nothing was delivered")?;
        note(format_args!("while the bus is cut: p50 {:.0} ms, p99 {:.0} ms", p50 / 1e3, p99 / 1e3));
        Ok(vec![("cut", p99), ("return", slow_until(&elsewhere, to) as f64 / 1e3)])
    }

    /// A node with 5,000 clients is killed.
    pub fn failover(&mut self) -> Result<Vec<Value>> {
        let rooms = 100;
        let shape = Shape { rooms, members: 1 + CROWD, senders: 1, ..few_rooms() };
        crate::client::allow_files((shape.rooms * shape.members) as usize)?;
        let cluster = self.start(NODES)?;
        let job = job(Scenario::Fanout, shape, Duration::from_secs(15));
        let victim = &cluster.nodes[VICTIM];
        let during = Box::new(|coordinator: &scenario::Coordinator, phases: scenario::Phases| {
            coordinator.clock.sleep_until(phases.measure_start + nanos(Duration::from_secs(1)));
            coordinator.begin_incident();
            victim.kill()
        });
        let circumstances = Circumstances {
            behaviour: Some(Behaviour::MoveAway(VICTIM)),
            placement: Placement::Crowd(VICTIM),
            during: Some(during),
            ..Circumstances::default()
        };
        let (run, _) = scenario::measure_nodes(&cluster.nodes, &self.environment.load_cores, &job, circumstances)?;
        cluster.stop();
        check(&run)?;
        let of = |name: &str| run.extra.get(name).copied().with_context(|| format!("the run has no {name}"));
        let recovered = of("recovered_clients")?;
        ensure!(recovered == f64::from(rooms * CROWD), "only {recovered} clients of the killed node have recovered");
        note(format_args!("recovered: half of the clients after {:.2} s", of("recovered_p50_seconds")?));
        Ok(vec![("failover", of("recovered_last_seconds")? * 1e6)])
    }

    /// The clients of a killed node are no longer present on the others.
    pub fn ghosts(&mut self) -> Result<Vec<Value>> {
        // The lists of who is present are asked for all the time.
        let options = ["--limit", "list_rate_per_second=1000"];
        let cluster = Cluster::start(self.environment, self.transport, NODES, &options)?;
        let nodes = &cluster.nodes;
        let token = |name: &str| nodes[0].token(name);
        Http::connect(nodes[0].address, None)?.create_room(&token("owner"), "ghosts", 10_000)?;
        let subscribe = |node: &Server, name: &str| {
            WebSocket::subscribed(Ipv4Addr::LOCALHOST, node.address, &token(name), "room:ghosts", ANSWER_TIMEOUT)
        };
        let mut watchers = Vec::new();
        for (number, node) in nodes.iter().enumerate().filter(|(number, _)| *number != VICTIM) {
            watchers.push(subscribe(node, &format!("watcher{number}"))?);
        }
        let ghosts: Vec<WebSocket> =
            (0..GHOSTS).map(|number| subscribe(&nodes[VICTIM], &format!("ghost{number}"))).collect::<Result<_>>()?;
        let others = watchers.len() as u64;
        wait_for_presence(&mut watchers, others + GHOSTS, APPEAR_TIMEOUT)
            .context("the nodes do not know each other's clients")?;
        nodes[VICTIM].kill()?;
        let gone = wait_for_presence(&mut watchers, others, GHOST_TIMEOUT)?;
        drop(ghosts);
        cluster.stop();
        Ok(vec![("ghosts", gone.as_secs_f64() * 1e6)])
    }

    /// What `--bus` costs a node that is alone.
    pub fn alone(&mut self, round: u32) -> Result<Vec<Value>> {
        let shape = Shape { channel: Channel::Postgres, ..workloads::default_shape(Scenario::Durable) };
        let job = job(Scenario::Durable, shape, Duration::from_secs(5));
        // The first may have an advantage, so each is first in turn.
        let (with, without) = if round % 2 == 1 {
            let with = self.single(&job, true)?;
            (with, self.single(&job, false)?)
        } else {
            let without = self.single(&job, false)?;
            (self.single(&job, true)?, without)
        };
        let ratio = |metric: Metric| Some(metric.of(&with)? / metric.of(&without)?);
        let acknowledged = ratio(Metric::AcknowledgedPerSecond).context("nothing was acknowledged")?;
        let cpu = ratio(Metric::CpuPerDelivery).context("nothing was delivered")?;
        Ok(vec![("alone-acknowledged", acknowledged), ("alone-cpu", 1.0 / cpu)])
    }

    /// A single server, as a node or without a bus.
    fn single(&mut self, job: &Job, has_bus: bool) -> Result<Run> {
        let before = self.environment.options.clone();
        if has_bus {
            let bus = self.transport.option(self.environment)?;
            self.environment.options.extend(["--bus".to_owned(), bus]);
        }
        let run = scenario::run(self.environment, job);
        self.environment.options = before;
        let run = run?;
        check(&run)?;
        let what = if has_bus { "with --bus" } else { "without" };
        note(format_args!("{what}: {}", crate::progress::summary_line(&run).trim_start_matches("uproar").trim()));
        Ok(run)
    }

    /// One large room on three nodes, compared with the same on a server without a bus.
    pub fn spread(&mut self, round: u32) -> Result<Vec<Value>> {
        // At a fixed rate, because a server that falls behind puts more messages into one write.
        let shape = Shape { rooms: 1, members: 1000, senders: 9, ..few_rooms() };
        let job = job(Scenario::Fanout, shape, Duration::from_secs(5));
        let (three, one) = if round % 2 == 1 {
            let three = self.room_on_all_nodes(&job)?;
            (three, self.single(&job, false)?)
        } else {
            let one = self.single(&job, false)?;
            (self.room_on_all_nodes(&job)?, one)
        };
        let cpu = |run: &Run| Metric::CpuPerDelivery.of(run).context("nothing was delivered");
        Ok(vec![("spread", cpu(&one)? / cpu(&three)?)])
    }

    fn room_on_all_nodes(&mut self, job: &Job) -> Result<Run> {
        let cluster = self.start(NODES)?;
        let cores = &self.environment.load_cores;
        let (run, _) = scenario::measure_nodes(&cluster.nodes, cores, job, Circumstances::default())?;
        cluster.stop();
        check(&run)?;
        note(format_args!("three nodes: {}", crate::progress::summary_line(&run).trim_start_matches("uproar").trim()));
        Ok(run)
    }

    fn start(&mut self, count: usize) -> Result<Cluster> {
        Cluster::start(self.environment, self.transport, count, WITHOUT_JOINS)
    }
}

/// Asks all of them who is present until each is told this number of clients. Returns how long that took.
fn wait_for_presence(watchers: &mut [WebSocket], count: u64, timeout: Duration) -> Result<Duration> {
    let started = Instant::now();
    loop {
        let mut told = Vec::new();
        for watcher in &mut *watchers {
            let reply = watcher.command(json!({"presence_stats": {"channel": "room:ghosts"}}))?;
            told.push(reply["presence_stats"]["num_clients"].as_u64().unwrap_or_default());
        }
        if told.iter().all(|told| *told == count) {
            return Ok(started.elapsed());
        }
        ensure!(started.elapsed() < timeout, "after {timeout:?} {told:?} clients are present, not {count}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// A run with any fault has no values: a cluster that is fast and loses messages meets no bar.
fn check(run: &Run) -> Result<()> {
    let first = run.first_fault.as_deref().unwrap_or_default();
    ensure!(!run.faults.any(), "the run is void: {}: {first}", describe_faults(&run.faults));
    Ok(())
}

/// Median and 99th percentile of the latencies, in microseconds. `None` if there are none.
fn p50_and_p99<'a>(samples: impl Iterator<Item = &'a Sample>) -> Option<(f64, f64)> {
    let mut latencies = Latencies::new();
    samples.for_each(|sample| latencies.record(sample.latency));
    latencies.summary().map(|latency| (latency.p50, latency.p99))
}

/// How long after `time` deliveries have become normal, in nanoseconds: when the last late message was due.
fn slow_until(samples: &[Sample], time: u64) -> u64 {
    let late = samples.iter().filter(|sample| sample.intended >= time && sample.latency > NORMAL_NS);
    late.map(|sample| sample.intended - time).max().unwrap_or(0)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(intended: u64, latency: u64) -> Sample {
        Sample { intended, latency, is_elsewhere: true }
    }

    #[test]
    fn deliveries_are_normal_after_the_last_late_one() {
        let samples = [sample(90, 2 * NORMAL_NS), sample(110, 7), sample(130, 2 * NORMAL_NS), sample(140, NORMAL_NS)];
        assert_eq!(slow_until(&samples, 100), 30);
        assert_eq!(slow_until(&samples, 135), 0);
        assert_eq!(slow_until(&[], 0), 0);
    }

    #[test]
    fn percentiles_are_in_microseconds() {
        let samples: Vec<Sample> = (1..=100).map(|millis| sample(0, millis * 1_000_000)).collect();
        let (p50, p99) = p50_and_p99(samples.iter()).unwrap();
        assert!((p50 / 50_000.0 - 1.0).abs() < 0.01 && (p99 / 99_000.0 - 1.0).abs() < 0.01, "{p50} {p99}");
        assert_eq!(p50_and_p99([].iter()), None);
    }
}
