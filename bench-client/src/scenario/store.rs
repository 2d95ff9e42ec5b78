//! Measures the store alone, without a server: the upper bound for stored rooms.
//!
//! Batches are formed as a server would form them: each lane gets its share of the messages in flight, and every
//! committed batch is followed by the next one.

use super::coordinator::Phases;
use super::tally::Tally;
use crate::client::Clock;
use crate::matrix::runner::Job;
use crate::result::{Channel, Load};
use crate::server::{Environment, usage};
use anyhow::{Context, Result, bail, ensure};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use uproar_model::{Item, Kind, Outcome, RoomId, UserId};
use uproar_store::{DataFolder, DatabaseUrl, NewRoom, OpenOptions, RoomKind, Store, open};

/// The server's default for PostgreSQL. SQLite has one writer.
const LANES: usize = 4;
const BATCH_LIMIT_ITEMS: usize = 512;

/// What was measured.
pub(super) struct Measured {
    pub tally: Tally,
    pub phases: Phases,
    pub cpu_seconds: f64,
    pub database_cpu_seconds: Option<f64>,
}

/// The rooms of a lane and the user that writes to them.
struct Lane {
    rooms: Vec<RoomId>,
    user: UserId,
    /// How many messages a batch has.
    batch: usize,
    text: Arc<str>,
}

pub(super) fn run(environment: &mut Environment, job: &Job) -> Result<Measured> {
    let data = environment.data_folder()?;
    let (url, database) = match job.shape.channel {
        Channel::Live => bail!("a live: channel is not stored: choose --channel sqlite or --channel postgres"),
        Channel::Sqlite => (format!("sqlite:{}", data.path().join("uproar.db").display()), None),
        Channel::Postgres => {
            let postgres = environment.postgres()?;
            (postgres.create_database()?, postgres.process())
        }
    };
    let Load::Window(messages) = job.shape.load else {
        bail!("the store alone can't be measured with --rate: use --window")
    };
    let in_flight = (job.shape.rooms * job.shape.senders) as usize * messages as usize;
    let lanes = if database.is_some() { LANES.min(in_flight) } else { 1 };
    let batch = in_flight.div_ceil(lanes).min(BATCH_LIMIT_ITEMS);
    let (job, cores, folder) = (job.clone(), environment.server_cores.clone(), data.path().join("data"));
    // In a thread of its own, pinned to the server's cores, as are all threads that the store starts.
    let thread = std::thread::spawn(move || -> Result<Measured> {
        cores.pin()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let url: DatabaseUrl = url.parse()?;
            let folder = DataFolder::open(folder)?;
            let store = open(&url, &folder, OpenOptions::default()).await?;
            let lanes = create_rooms(&*store, &job, lanes, batch).await?;
            let measured = measure(&store, lanes, &job, database).await;
            store.close().await;
            measured
        })
    });
    thread.join().ok().context("the store panicked; see the line above")?
}

/// Creates rooms and their writers and divides them among the lanes.
async fn create_rooms(store: &dyn Store, job: &Job, lanes: usize, batch: usize) -> Result<Vec<Lane>> {
    let text: Arc<str> = "x".repeat(job.shape.payload_bytes as usize).into();
    let mut all = Vec::new();
    for lane in 0..lanes {
        let name = format!("writer {lane}");
        let user = store.ensure_user(&name, &name).await?.id;
        all.push(Lane { rooms: Vec::new(), user, batch, text: Arc::clone(&text) });
    }
    let mut owners = Vec::new();
    for number in 0..job.shape.rooms {
        let lane = number as usize % lanes;
        let (name, owner) = (format!("r{number}"), all[lane].user);
        let room = NewRoom { name: name.clone(), title: String::new(), kind: RoomKind::Public, size: 100, owner };
        all[lane].rooms.push(store.create_room(room).await?.id);
        owners.push((name, owner));
    }
    store.admit(&owners).await?;
    // With fewer rooms than lanes, some lanes have none.
    all.retain(|lane| !lane.rooms.is_empty());
    Ok(all)
}

async fn measure(store: &Arc<dyn Store>, lanes: Vec<Lane>, job: &Job, database: Option<u32>) -> Result<Measured> {
    let clock = Clock::start();
    let nanos = |time: Duration| time.as_nanos() as u64;
    let load_start = clock.now();
    let measure_start = load_start + nanos(job.warm_up);
    let phases = Phases { load_start, measure_start, end: measure_start + nanos(job.measured) };
    let usage = async {
        let at = |time: u64| async move {
            tokio::time::sleep(Duration::from_nanos(time.saturating_sub(clock.now()))).await;
            let database = database.map(usage::process_tree_cpu_seconds).transpose()?;
            anyhow::Ok((usage::own_cpu_seconds()?, database))
        };
        let (before, database_before) = at(phases.measure_start).await?;
        let (after, database_after) = at(phases.end).await?;
        anyhow::Ok((after - before, database_after.zip(database_before).map(|(after, before)| after - before)))
    };
    let commits = async {
        let mut tasks = tokio::task::JoinSet::new();
        for lane in lanes {
            tasks.spawn(commit(Arc::clone(store), lane, clock, phases));
        }
        let mut total = Tally::default();
        while let Some(tally) = tasks.join_next().await {
            total.add(&tally??);
        }
        anyhow::Ok(total)
    };
    let (usage, tally) = tokio::join!(usage, commits);
    let (cpu_seconds, database_cpu_seconds) = usage?;
    let mut tally = tally?;
    // The deliveries that a server would have had to make.
    tally.deliveries = tally.acknowledged * u64::from(job.shape.members);
    Ok(Measured { tally, phases, cpu_seconds, database_cpu_seconds })
}

/// Commits one batch after the other until the measurement ends.
async fn commit(store: Arc<dyn Store>, lane: Lane, clock: Clock, phases: Phases) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut number = 0;
    loop {
        let batch: Vec<Item> = (0..lane.batch)
            .map(|_| {
                number += 1;
                Item {
                    room: lane.rooms[number % lane.rooms.len()],
                    user: lane.user,
                    id: number.to_string().into(),
                    kind: Kind::Message,
                    target: None,
                    body: Some(Arc::clone(&lane.text)),
                    meta: None,
                }
            })
            .collect();
        let started = clock.now();
        let outcomes = store.append(&batch).await?;
        let now = clock.now();
        ensure!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::New(_))), "a batch was not stored as new");
        if phases.measures(now) {
            tally.sent += batch.len() as u64;
            tally.acknowledged += batch.len() as u64;
            tally.ack.record(now - started);
        }
        if now >= phases.end {
            return Ok(tally);
        }
    }
}
