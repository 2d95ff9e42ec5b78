//! What is done to a server, and measured.

mod comings;
mod crowd;
mod people;
mod stage;
mod store;
mod tally;

use crate::client::message::{LONGEST_BYTES, SHORTEST_BYTES, Texts};
use crate::client::{self, Clock, Cores, Io, allow_files};
use crate::matrix::rounds::{FRAME_BYTES, Job};
use crate::matrix::works::Subject;
use crate::result::{Channel, Load, Run, Scenario, Shape, Wire};
use crate::server::http::Http;
use crate::server::{self, Place, Server, usage};
use anyhow::{Context, Result, bail, ensure};
use comings::Comings;
use crowd::{Crowd, Doing, Setting};
use stage::{Stage, Window};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tally::Tally;

/// So many connections of a thread are on their way in at a time.
const OPENING_LIMIT: usize = 512;
/// A server that has just started, or let thousands in, gets so long to come to rest before its memory is read.
const REST: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(2);
/// What a load may be. More is a mistake, or does not fit into memory.
const CONNECTIONS_LIMIT: u32 = 1_000_000;
const UNDER_WAY_LIMIT_MESSAGES: u64 = 10_000_000;
const RATE_LIMIT_PER_SECOND: f64 = 1e7;
/// Threads that sign up.
const SIGN_UP_THREADS: usize = 4;

/// Starts the subject, measures it, and stops it.
pub fn run(place: &mut Place, job: &Job) -> Result<Run> {
    check(&job.shape, job.scenario)?;
    if job.subject == Subject::Store {
        let store::Measured { tally, window, cpu_seconds, database_cpu_seconds } = store::run(place, job)?;
        let used = Used { cpu_seconds, database_cpu_seconds, rss_bytes: usage::rss_bytes(std::process::id())? };
        return Ok(made(job, tally, window.seconds(), used, BTreeMap::new()));
    }
    // Children inherit the limit of files.
    allow_files((job.shape.rooms * job.shape.members) as usize)?;
    let server = place.start(job.subject, job.shape.channel, job.frame_bytes)?;
    let mut run = measure(&server, &place.load_cores, job)?;
    if let Err(error) = server.stop() {
        run.faults.disconnected += 1;
        run.words.get_or_insert(error.to_string());
    }
    Ok(run)
}

/// Measures a server that runs.
pub fn measure(server: &Server, cores: &Cores, job: &Job) -> Result<Run> {
    check(&job.shape, job.scenario)?;
    server.check(&job.shape)?;
    allow_files((job.shape.rooms * job.shape.members) as usize)?;
    load(server, cores, job).with_context(|| format!("the server at {}", server.address))
}

fn load(server: &Server, cores: &Cores, job: &Job) -> Result<Run> {
    server.create_rooms(&job.shape)?;
    let mut extra = BTreeMap::new();
    let tokens = tokens(server, job, &mut extra)?;
    let shape = job.shape;
    let setting = Arc::new(Setting {
        shape,
        texts: Texts::new(shape.payload_bytes as usize),
        targets: (0..shape.rooms).map(|room| server.target(job.scenario, &shape, room)).collect(),
        tokens,
        stage: Stage::new(Clock::start()),
        is_filled: job.frame_bytes.is_some(),
        doing: match job.scenario {
            Scenario::Storm => Doing::Storm,
            Scenario::Mix => Doing::Mix,
            _ => Doing::Nothing,
        },
    });
    let memory = if job.scenario == Scenario::Idle {
        std::thread::sleep(REST);
        Some((server.rss_bytes()?, usage::kernel_bytes()?))
    } else {
        None
    };
    let begun = Instant::now();
    // Whoever comes and goes does not have to be in beforehand.
    let comes_and_goes = job.scenario == Scenario::Connect;
    let threads = if comes_and_goes { cores.count() } else { cores.count().min(shape.rooms as usize) };
    let mut loads = Vec::new();
    for thread in 0..threads {
        let (setting, address) = (Arc::clone(&setting), server.address);
        loads.push(client::spawn(cores, thread, move || {
            let io = |count| Io::new(address, setting.stage.clock, count, OPENING_LIMIT);
            if comes_and_goes {
                let mut comings = Comings::new(Arc::clone(&setting), thread, threads);
                comings.need_nobody_inside();
                let io = io(comings.connections())?;
                client::run(&mut comings, io)?;
                Ok(comings.tally())
            } else {
                let mut crowd = Crowd::new(Arc::clone(&setting), thread, threads);
                let mut io = io(crowd.connections())?;
                crowd.enter(&mut io);
                client::run(&mut crowd, io)?;
                Ok(crowd.tally())
            }
        })?);
    }
    let connections = (shape.rooms * shape.members) as usize;
    while setting.stage.ready() < connections {
        if loads.iter().any(JoinHandle::is_finished) {
            return Err(failure(loads));
        }
        std::thread::sleep(LOOK);
    }
    extra.insert("connected_in_seconds".into(), begun.elapsed().as_secs_f64());
    if memory.is_some() {
        std::thread::sleep(REST);
    }
    let (window, used) = watch(server, &setting.stage, job)?;
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
    if let Some(recovery) = total.recovery.latency() {
        extra.insert("recovered_clients".into(), recovery.count as f64);
        extra.insert("recovered_p50_seconds".into(), recovery.p50 / 1e6);
        extra.insert("recovered_p99_seconds".into(), recovery.p99 / 1e6);
        extra.insert("recovered_last_seconds".into(), recovery.max / 1e6);
    }
    Ok(made(job, total, window.seconds(), used, extra))
}

/// Tokens of all members, where there are users.
fn tokens(server: &Server, job: &Job, extra: &mut BTreeMap<String, f64>) -> Result<Vec<String>> {
    let names = (0..job.shape.rooms * job.shape.members).map(|member| server.user_name(member));
    if !server.has_users() {
        return Ok(Vec::new());
    }
    if !job.signup {
        return Ok(names.map(|name| server.token(&name)).collect());
    }
    let names: Vec<String> = names.collect();
    let begun = Instant::now();
    let count = names.len();
    let threads: Vec<_> = names
        .chunks(count.div_ceil(SIGN_UP_THREADS))
        .map(|names| {
            let (names, address) = (names.to_vec(), server.address);
            std::thread::spawn(move || {
                let mut http = Http::connect(address)?;
                names.iter().map(|name| http.sign_up(name)).collect::<Result<Vec<String>>>()
            })
        })
        .collect();
    let mut tokens = Vec::new();
    for thread in threads {
        tokens.extend(thread.join().ok().context("a thread that signs up failed; see the line above")??);
    }
    extra.insert("signups_per_second".into(), count as f64 / begun.elapsed().as_secs_f64());
    Ok(tokens)
}

/// What the server used within the window.
struct Used {
    cpu_seconds: f64,
    database_cpu_seconds: Option<f64>,
    rss_bytes: u64,
}

/// Starts the load, and looks at the server when measuring begins and when it ends.
fn watch(server: &Server, stage: &Stage, job: &Job) -> Result<(Window, Used)> {
    let window = stage.begin(job.warm_up, job.window);
    stage.clock.sleep_until(window.begin);
    let (cpu, database) = (server.cpu_seconds()?, server.database_cpu_seconds()?);
    stage.clock.sleep_until(window.end);
    let cpu_seconds = server.cpu_seconds()? - cpu;
    let database_cpu_seconds = server.database_cpu_seconds()?.zip(database).map(|(after, before)| after - before);
    Ok((window, Used { cpu_seconds, database_cpu_seconds, rss_bytes: server.rss_bytes()? }))
}

fn joined(load: JoinHandle<Result<Tally>>) -> Result<Tally> {
    load.join().map_err(|_| anyhow::anyhow!("a load thread failed; see the line above"))?
}

/// Why threads ended too early.
fn failure(loads: Vec<JoinHandle<Result<Tally>>>) -> anyhow::Error {
    let failed = loads.into_iter().filter(JoinHandle::is_finished).find_map(|load| joined(load).err());
    failed.unwrap_or_else(|| anyhow::anyhow!("a load thread ended too early"))
}

fn made(job: &Job, tally: Tally, seconds: f64, used: Used, extra: BTreeMap<String, f64>) -> Run {
    Run {
        work: String::new(),
        scenario: job.scenario,
        server: server::name(job.subject).to_owned(),
        round: 1,
        shape: job.shape,
        seconds,
        sent: tally.sent,
        acknowledged: tally.acknowledged,
        deliveries: tally.deliveries,
        server_cpu_seconds: used.cpu_seconds,
        database_cpu_seconds: used.database_cpu_seconds,
        client_cpu_share: tally.share,
        rss_bytes: used.rss_bytes,
        ack_latency: tally.ack.latency(),
        delivery_latency: tally.delivery.latency(),
        last_latency: tally.last.latency(),
        faults: tally.faults,
        words: tally.words,
        extra,
    }
}

/// Whether such a work can be done at all.
pub(crate) fn check(shape: &Shape, scenario: Scenario) -> Result<()> {
    let Shape { rooms, members, senders, payload_bytes, .. } = *shape;
    ensure!(rooms > 0 && members > 0, "at least one room with one member is needed");
    ensure!(
        rooms.checked_mul(members).is_some_and(|connections| connections <= CONNECTIONS_LIMIT),
        "{rooms} rooms of {members} are more than the {CONNECTIONS_LIMIT} connections that can be made"
    );
    ensure!(senders <= members, "{senders} senders are more than the {members} members of a room");
    let bytes = SHORTEST_BYTES..=LONGEST_BYTES;
    ensure!(
        bytes.contains(&(payload_bytes as usize)),
        "messages of {payload_bytes} bytes can't be sent: {SHORTEST_BYTES} to {LONGEST_BYTES} can"
    );
    ensure!(matches!(shape.load, Load::None) || senders > 0, "nobody sends: choose at least one sender, or no load");
    match shape.load {
        Load::Window(messages) => {
            let under_way = u64::from(rooms * senders).saturating_mul(messages.into());
            ensure!(
                (1..=UNDER_WAY_LIMIT_MESSAGES).contains(&under_way),
                "a window of {messages} is too {}: 1 to {UNDER_WAY_LIMIT_MESSAGES} messages may be under way in all",
                if messages == 0 { "small" } else { "large" }
            );
        }
        Load::Rate(rate) => ensure!(
            rate > 0.0 && rate <= RATE_LIMIT_PER_SECOND,
            "{rate} messages a second can't be sent: a rate is above 0, and {RATE_LIMIT_PER_SECOND} at most"
        ),
        Load::None => {}
    }
    match scenario {
        Scenario::Echo => ensure!(
            members == 1 && shape.wire == Wire::Raw,
            "an echo goes verbatim to its sender alone: choose --members 1 and --wire raw, and as many --rooms as connections"
        ),
        Scenario::Storm | Scenario::Mix => {
            ensure!(shape.channel != Channel::Live, "a live: channel can't be recovered: choose a database");
            if scenario == Scenario::Mix && shape.wire != Wire::Centrifugo {
                bail!("only the Centrifugo protocol changes rooms on one connection: choose --wire centrifugo");
            }
        }
        _ => {}
    }
    Ok(())
}
