//! The store alone, without a server: what there is to reach for stored rooms.
//!
//! Batches are as a server makes them: of all that the senders have under way, each lane takes its share, and what is
//! committed is sent anew.

use super::stage::Window;
use super::tally::Tally;
use crate::client::Clock;
use crate::matrix::rounds::Job;
use crate::result::{Channel, Load};
use crate::server::{Place, usage};
use anyhow::{Context, Result, bail, ensure};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use uproar_model::{Item, Kind, Outcome, RoomId, UserId};
use uproar_store::{DataFolder, DatabaseUrl, NewRoom, OpenOptions, RoomKind, Store, open};

/// A server's default, of PostgreSQL. SQLite has one writer.
const LANES: usize = 4;
const BATCH_LIMIT_ITEMS: usize = 512;

/// What the store did, and what it cost.
pub(super) struct Measured {
    pub tally: Tally,
    pub window: Window,
    pub cpu_seconds: f64,
    pub database_cpu_seconds: Option<f64>,
}

/// A lane's rooms and the one who writes to them.
struct Lane {
    rooms: Vec<RoomId>,
    user: UserId,
    batch: usize,
    text: Arc<str>,
}

pub(super) fn run(place: &mut Place, job: &Job) -> Result<Measured> {
    let data = place.data_folder()?;
    let (url, database) = match job.shape.channel {
        Channel::Live => bail!("a live: channel is not stored: choose --channel sqlite or --channel postgres"),
        Channel::Sqlite => (format!("sqlite:{}", data.path().join("uproar.db").display()), None),
        Channel::Postgres => {
            let postgres = place.postgres()?;
            (postgres.create_database()?, postgres.process())
        }
    };
    let Load::Window(window) = job.shape.load else { bail!("the store alone takes a window, not a rate") };
    let under_way = (job.shape.rooms * job.shape.senders) as usize * window as usize;
    let lanes = if database.is_some() { LANES.min(under_way) } else { 1 };
    let batch = under_way.div_ceil(lanes).min(BATCH_LIMIT_ITEMS);
    let (job, cores, folder) = (job.clone(), place.server_cores.clone(), data.path().join("data"));
    // A thread of its own: all that the store starts runs where the server would.
    let thread = std::thread::spawn(move || -> Result<Measured> {
        cores.pin()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let url: DatabaseUrl = url.parse()?;
            let folder = DataFolder::open(folder)?;
            let store = open(&url, &folder, OpenOptions::default()).await?;
            let made = make(&*store, &job, lanes, batch).await?;
            let measured = measure(&store, made, &job, database).await;
            store.close().await;
            measured
        })
    });
    thread.join().ok().context("the store failed; see the line above")?
}

/// Rooms and their writers, a share for each lane.
async fn make(store: &dyn Store, job: &Job, lanes: usize, batch: usize) -> Result<Vec<Lane>> {
    let text: Arc<str> = "x".repeat(job.shape.payload_bytes as usize).into();
    let mut made = Vec::new();
    for lane in 0..lanes {
        let name = format!("writer {lane}");
        let user = store.ensure_user(&name, &name).await?.id;
        made.push(Lane { rooms: Vec::new(), user, batch, text: Arc::clone(&text) });
    }
    let mut wanted = Vec::new();
    for number in 0..job.shape.rooms {
        let lane = number as usize % lanes;
        let (name, owner) = (format!("r{number}"), made[lane].user);
        let room = NewRoom { name: name.clone(), title: String::new(), kind: RoomKind::Public, size: 100, owner };
        made[lane].rooms.push(store.create_room(room).await?.id);
        wanted.push((name, owner));
    }
    store.admit(&wanted).await?;
    // With fewer rooms than lanes, those that have none are left out.
    made.retain(|lane| !lane.rooms.is_empty());
    Ok(made)
}

async fn measure(store: &Arc<dyn Store>, lanes: Vec<Lane>, job: &Job, database: Option<u32>) -> Result<Measured> {
    let clock = Clock::start();
    let nanos = |time: Duration| time.as_nanos() as u64;
    let go = clock.now();
    let begin = go + nanos(job.warm_up);
    let window = Window { go, begin, end: begin + nanos(job.window) };
    let usage = async {
        let at = |time: u64| async move {
            tokio::time::sleep(Duration::from_nanos(time.saturating_sub(clock.now()))).await;
            let database = database.map(usage::family_cpu_seconds).transpose()?;
            anyhow::Ok((usage::own_cpu_seconds()?, database))
        };
        let (before, database_before) = at(window.begin).await?;
        let (after, database_after) = at(window.end).await?;
        anyhow::Ok((after - before, database_after.zip(database_before).map(|(after, before)| after - before)))
    };
    let work = async {
        let mut working = tokio::task::JoinSet::new();
        for lane in lanes {
            working.spawn(commit(Arc::clone(store), lane, clock, window));
        }
        let mut total = Tally::default();
        while let Some(tally) = working.join_next().await {
            total.add(&tally??);
        }
        anyhow::Ok(total)
    };
    let (usage, tally) = tokio::join!(usage, work);
    let (cpu_seconds, database_cpu_seconds) = usage?;
    let mut tally = tally?;
    // What a server would have had to deliver.
    tally.deliveries = tally.acknowledged * u64::from(job.shape.members);
    Ok(Measured { tally, window, cpu_seconds, database_cpu_seconds })
}

/// One batch after the other until the window ends.
async fn commit(store: Arc<dyn Store>, lane: Lane, clock: Clock, window: Window) -> Result<Tally> {
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
                }
            })
            .collect();
        let begun = clock.now();
        let outcomes = store.append(&batch).await?;
        let now = clock.now();
        ensure!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::New(_))), "a batch was not stored as new");
        if window.has(now) {
            tally.sent += batch.len() as u64;
            tally.acknowledged += batch.len() as u64;
            tally.ack.record(now - begun);
        }
        if now >= window.end {
            return Ok(tally);
        }
    }
}
