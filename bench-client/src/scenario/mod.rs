//! Runs a scenario against a server and measures it.

mod behaviour;
mod churn;
mod coordinator;
mod members;
mod store;
mod tally;

use crate::client::message::{MAX_TEXT_BYTES, MIN_TEXT_BYTES, TextCodec};
use crate::client::{self, Clock, Cores, Io, allow_files};
use crate::matrix::runner::{FRAME_BYTES, Job};
use crate::matrix::workloads::Subject;
use crate::result::{Channel, Load, Run, Scenario, Shape, Wire};
use crate::server::http::Http;
use crate::server::{self, Environment, Server, usage};
use anyhow::{Context, Result, bail, ensure};
pub(crate) use behaviour::Behaviour;
use churn::Churn;
pub(crate) use coordinator::{Coordinator, Phases};
pub(crate) use members::Placement;
use members::{RoomMembers, RunSetup};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tally::Tally;
pub(crate) use tally::{Latencies, Sample};

/// How many connections a thread opens at a time.
const CONNECTING_LIMIT: usize = 512;
/// How long a server may settle, after its start and after connections were made, before its memory is read.
const SETTLE_TIME: Duration = Duration::from_millis(300);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Limits of a load. Anything above is a mistake or does not fit into memory.
const CONNECTIONS_LIMIT: u32 = 1_000_000;
const IN_FLIGHT_LIMIT_MESSAGES: u64 = 10_000_000;
const RATE_LIMIT_PER_SECOND: f64 = 1e7;
/// The number of threads that sign users up.
const SIGN_UP_THREADS: usize = 4;

/// Starts a server, measures it and stops it.
pub fn run(environment: &mut Environment, job: &Job) -> Result<Run> {
    validate(&job.shape, job.scenario)?;
    if job.subject == Subject::Store {
        let store::Measured { tally, phases, cpu_seconds, database_cpu_seconds } = store::run(environment, job)?;
        let used = Used { cpu_seconds, database_cpu_seconds, rss_bytes: usage::rss_bytes(std::process::id())? };
        return Ok(new_run(job, tally, phases.seconds(), used, BTreeMap::new()));
    }
    // Raised before the server starts, because it inherits the limit.
    allow_files((job.shape.rooms * job.shape.members) as usize)?;
    let server = environment.start(job.subject, job.shape.channel, job.shape.tls, job.frame_bytes)?;
    let mut run = measure(&server, &environment.load_cores, job)?;
    if let Err(error) = server.stop() {
        run.faults.disconnected += 1;
        run.first_fault.get_or_insert(error.to_string());
    }
    Ok(run)
}

/// Measures a running server.
pub fn measure(server: &Server, cores: &Cores, job: &Job) -> Result<Run> {
    validate(&job.shape, job.scenario)?;
    server.check(&job.shape)?;
    allow_files((job.shape.rooms * job.shape.members) as usize)?;
    let servers = std::slice::from_ref(server);
    let (run, _) = load(servers, cores, job, Circumstances::default())
        .with_context(|| format!("the server at {}", server.address))?;
    Ok(run)
}

/// How a run on several nodes differs from one on a single server.
#[derive(Default)]
pub(crate) struct Circumstances<'a> {
    /// What members do, if it is not what the scenario says.
    pub behaviour: Option<Behaviour>,
    pub placement: Placement,
    pub keeps_samples: bool,
    /// Called when the measurement begins. Returns before it ends.
    pub during: Option<During<'a>>,
}

pub(crate) type During<'a> = Box<dyn FnOnce(&Coordinator, Phases) -> Result<()> + 'a>;

/// Measures the nodes of a cluster. The CPU time and the memory are the sums of all nodes that have not been killed.
pub(crate) fn measure_nodes(
    nodes: &[Server],
    cores: &Cores,
    job: &Job,
    circumstances: Circumstances<'_>,
) -> Result<(Run, Vec<Sample>)> {
    validate(&job.shape, job.scenario)?;
    allow_files((job.shape.rooms * job.shape.members) as usize)?;
    load(nodes, cores, job, circumstances)
}

fn load(servers: &[Server], cores: &Cores, job: &Job, circumstances: Circumstances<'_>) -> Result<(Run, Vec<Sample>)> {
    let server = servers.first().context("there is no server to measure")?;
    server.create_rooms(&job.shape)?;
    let mut extra = BTreeMap::new();
    let tokens = tokens(server, job, &mut extra)?;
    let shape = job.shape;
    let setup = Arc::new(RunSetup {
        shape,
        codec: TextCodec::new(shape.payload_bytes as usize),
        targets: (0..shape.rooms).map(|room| server.target(job.scenario, &shape, room)).collect(),
        tokens,
        coordinator: Coordinator::new(Clock::start()),
        is_padded: job.frame_bytes.is_some(),
        behaviour: circumstances.behaviour.unwrap_or(match job.scenario {
            Scenario::Storm => Behaviour::Storm,
            Scenario::Mix => Behaviour::Mix,
            _ => Behaviour::SendOnly,
        }),
        addresses: servers.iter().map(|server| server.address).collect(),
        placement: circumstances.placement,
        keeps_samples: circumstances.keeps_samples,
    });
    let memory = if job.scenario == Scenario::Idle {
        std::thread::sleep(SETTLE_TIME);
        Some((server.rss_bytes()?, usage::kernel_bytes()?))
    } else {
        None
    };
    let started = Instant::now();
    let is_churn = job.scenario == Scenario::Connect;
    let threads = if is_churn { cores.count() } else { cores.count().min(shape.rooms as usize) };
    let mut loads = Vec::new();
    for thread in 0..threads {
        let (setup, tls) = (Arc::clone(&setup), server.tls.clone());
        loads.push(client::spawn(cores, thread, move || {
            let io = |count| Io::new(tls, setup.coordinator.clock, count, CONNECTING_LIMIT);
            if is_churn {
                let mut churn = Churn::new(Arc::clone(&setup), thread, threads);
                churn.report_all_joined();
                let io = io(churn.connections())?;
                client::run(&mut churn, io)?;
                Ok(churn.tally())
            } else {
                let mut members = RoomMembers::new(Arc::clone(&setup), thread, threads);
                let mut io = io(members.connections())?;
                members.connect_all(&mut io);
                client::run(&mut members, io)?;
                Ok(members.tally())
            }
        })?);
    }
    let connections = (shape.rooms * shape.members) as usize;
    while setup.coordinator.joined() < connections {
        if loads.iter().any(JoinHandle::is_finished) {
            return Err(failure(loads));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    extra.insert("connected_in_seconds".into(), started.elapsed().as_secs_f64());
    if memory.is_some() {
        std::thread::sleep(SETTLE_TIME);
    }
    let (phases, used) = watch(servers, &setup.coordinator, job, circumstances.during)?;
    if let Some((rss_before, kernel_before)) = memory {
        let per_connection = |after: u64, before: u64| (after as f64 - before as f64) / connections as f64;
        extra.insert("rss_bytes_before".into(), rss_before as f64);
        extra.insert("rss_bytes_per_connection".into(), per_connection(used.rss_bytes, rss_before));
        extra.insert("kernel_bytes_per_connection".into(), per_connection(usage::kernel_bytes()?, kernel_before));
    }
    let mut total = Tally::default();
    for load in loads {
        total.add(&joined(load)?);
    }
    if total.deliveries > 0 {
        extra.insert(FRAME_BYTES.into(), total.frame_bytes as f64 / total.deliveries as f64);
    }
    if let Some(recovery) = total.recovery.summary() {
        extra.insert("recovered_clients".into(), recovery.count as f64);
        extra.insert("recovered_p50_seconds".into(), recovery.p50 / 1e6);
        extra.insert("recovered_p99_seconds".into(), recovery.p99 / 1e6);
        extra.insert("recovered_last_seconds".into(), recovery.max / 1e6);
    }
    let samples = std::mem::take(&mut total.samples);
    Ok((new_run(job, total, phases.seconds(), used, extra), samples))
}

/// A token for each member, or none for servers without users.
fn tokens(server: &Server, job: &Job, extra: &mut BTreeMap<String, f64>) -> Result<Vec<String>> {
    let names = (0..job.shape.rooms * job.shape.members).map(|member| server.user_name(member));
    if !server.has_users() {
        return Ok(Vec::new());
    }
    if !job.signup {
        return Ok(names.map(|name| server.token(&name)).collect());
    }
    let names: Vec<String> = names.collect();
    let started = Instant::now();
    let count = names.len();
    let threads: Vec<_> = names
        .chunks(count.div_ceil(SIGN_UP_THREADS))
        .map(|names| {
            let (names, address, tls) = (names.to_vec(), server.address, server.tls.clone());
            std::thread::spawn(move || {
                let mut http = Http::connect(address, tls.as_ref())?;
                names.iter().map(|name| http.sign_up(name)).collect::<Result<Vec<String>>>()
            })
        })
        .collect();
    let mut tokens = Vec::new();
    for thread in threads {
        tokens.extend(thread.join().ok().context("a thread that signs users up panicked; see the line above")??);
    }
    extra.insert("signups_per_second".into(), count as f64 / started.elapsed().as_secs_f64());
    Ok(tokens)
}

/// The resources that the server used during the measurement.
struct Used {
    cpu_seconds: f64,
    database_cpu_seconds: Option<f64>,
    rss_bytes: u64,
}

/// Starts the load and reads the servers' resource usage when the measurement begins and when it ends.
fn watch(
    servers: &[Server],
    coordinator: &Coordinator,
    job: &Job,
    during: Option<During<'_>>,
) -> Result<(Phases, Used)> {
    let phases = coordinator.start(job.warm_up, job.measured);
    coordinator.clock.sleep_until(phases.measure_start);
    let cpu = servers.iter().map(Server::cpu_seconds).collect::<Result<Vec<f64>>>()?;
    let database_cpu = || servers[0].database_cpu_seconds();
    let database = database_cpu()?;
    if let Some(during) = during {
        during(coordinator, phases)?;
    }
    coordinator.clock.sleep_until(phases.end);
    let mut used = Used { cpu_seconds: 0.0, database_cpu_seconds: None, rss_bytes: 0 };
    for (server, before) in servers.iter().zip(cpu).filter(|(server, _)| !server.is_killed()) {
        used.cpu_seconds += server.cpu_seconds()? - before;
        used.rss_bytes += server.rss_bytes()?;
    }
    used.database_cpu_seconds = database_cpu()?.zip(database).map(|(after, before)| after - before);
    Ok((phases, used))
}

fn joined(load: JoinHandle<Result<Tally>>) -> Result<Tally> {
    load.join().map_err(|_| anyhow::anyhow!("a load thread panicked; see the line above"))?
}

/// The error of a load thread that ended before the load began.
fn failure(loads: Vec<JoinHandle<Result<Tally>>>) -> anyhow::Error {
    let failed = loads.into_iter().filter(JoinHandle::is_finished).find_map(|load| joined(load).err());
    failed.unwrap_or_else(|| anyhow::anyhow!("a load thread ended too early"))
}

fn new_run(job: &Job, tally: Tally, seconds: f64, used: Used, extra: BTreeMap<String, f64>) -> Run {
    Run {
        workload: String::new(),
        scenario: job.scenario,
        server: server::subject_name(job.subject).to_owned(),
        round: 1,
        shape: job.shape,
        seconds,
        sent: tally.sent,
        acknowledged: tally.acknowledged,
        deliveries: tally.deliveries,
        server_cpu_seconds: used.cpu_seconds,
        database_cpu_seconds: used.database_cpu_seconds,
        client_cpu_share: tally.cpu_share,
        rss_bytes: used.rss_bytes,
        ack_latency: tally.ack.summary(),
        delivery_latency: tally.delivery.summary(),
        last_latency: tally.last.summary(),
        faults: tally.faults,
        first_fault: tally.first_fault,
        extra,
    }
}

/// Checks that a load of this shape is possible in this scenario.
pub(crate) fn validate(shape: &Shape, scenario: Scenario) -> Result<()> {
    let Shape { rooms, members, senders, payload_bytes, .. } = *shape;
    ensure!(rooms > 0 && members > 0, "at least one room with one member is needed");
    ensure!(
        rooms.checked_mul(members).is_some_and(|connections| connections <= CONNECTIONS_LIMIT),
        "{rooms} rooms with {members} members each exceed the limit of {CONNECTIONS_LIMIT} connections"
    );
    ensure!(senders <= members, "{senders} senders per room exceed its {members} members");
    let bytes = MIN_TEXT_BYTES..=MAX_TEXT_BYTES;
    ensure!(
        bytes.contains(&(payload_bytes as usize)),
        "--payload-bytes must be between {MIN_TEXT_BYTES} and {MAX_TEXT_BYTES}, not {payload_bytes}"
    );
    ensure!(matches!(shape.load, Load::None) || senders > 0, "--senders must be at least 1 in this scenario");
    match shape.load {
        Load::Window(messages) => {
            let in_flight = u64::from(rooms * senders).saturating_mul(messages.into());
            ensure!(
                (1..=IN_FLIGHT_LIMIT_MESSAGES).contains(&in_flight),
                "--window {messages} is too {}: all senders together can keep 1 to {IN_FLIGHT_LIMIT_MESSAGES} messages \
                 in flight",
                if messages == 0 { "small" } else { "large" }
            );
        }
        Load::Rate(rate) => ensure!(
            rate > 0.0 && rate <= RATE_LIMIT_PER_SECOND,
            "--rate must be above 0 and at most {RATE_LIMIT_PER_SECOND} messages per second, not {rate}"
        ),
        Load::None => {}
    }
    match scenario {
        Scenario::Echo => ensure!(
            members == 1 && shape.wire == Wire::Raw,
            "echo needs --members 1 and --wire raw; set the number of connections with --rooms"
        ),
        Scenario::Storm | Scenario::Mix => {
            ensure!(
                shape.channel != Channel::Live,
                "a live: channel can't be recovered: choose --channel sqlite or --channel postgres"
            );
            if scenario == Scenario::Mix && shape.wire != Wire::Centrifugo {
                bail!("only the Centrifugo protocol can switch rooms on a connection: choose --wire centrifugo");
            }
        }
        _ => {}
    }
    Ok(())
}
