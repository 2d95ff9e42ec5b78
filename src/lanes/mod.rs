//! Runs what the shards leave to others: the lanes' commits and the readers' questions, as tokio tasks around the store.

mod markers;
mod reader;

pub use reader::{ReaderSetup, run_reader};

use crate::driver;
use crate::mesh::Port;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use uproar_core::home_shard;
use uproar_core::lane::{BatchResult, Lane, LaneAnswer};
use uproar_core::message::{Channel, Endpoint, Message};
use uproar_model::{Item, Outcome};
use uproar_store::{AppendError, SharedStore};

/// What the lanes have done, for readiness and metrics.
#[derive(Debug, Default)]
pub struct LaneFigures {
    /// Batches whose outcome the database told.
    pub batches: AtomicU64,
    /// Items in them.
    pub items: AtomicU64,
    /// Time in them, in microseconds.
    pub commit_micros: AtomicU64,
    /// Items that they stored.
    pub stored: AtomicU64,
    /// Attempts that ended without an answer.
    pub unknown: AtomicU64,
    /// Lanes whose last attempt had no answer.
    pub stuck_lanes: AtomicU64,
}

/// What a lane needs.
pub struct LaneSetup {
    pub lane: Lane,
    pub port: Port<Message>,
    pub store: SharedStore,
    pub placing: ahash::RandomState,
    pub shards: u16,
    pub figures: Arc<LaneFigures>,
    /// Turns true when nothing more will come: the lane ends when it is idle.
    pub stop: watch::Receiver<bool>,
    /// Where a lane says that the database can't be trusted any more; the process must end.
    pub broken: mpsc::Sender<String>,
}

/// Runs one lane until it is told to stop and has committed what was pending.
pub async fn run_lane(setup: LaneSetup) {
    let LaneSetup { mut lane, mut port, store, placing, shards, figures, mut stop, broken } = setup;
    let mut answers: Vec<LaneAnswer> = Vec::new();
    let mut commit = None;
    loop {
        let now_ms = driver::now().ms;
        let more = port.inbox.pop_each(|from, message| match message {
            Message::Commit(append) => lane.receive(now_ms, append, &mut answers),
            other => debug_assert!(false, "{from:?} sent a lane {other:?}"),
        });
        lane.tick(now_ms, &mut answers);
        if commit.is_none()
            && let Some(items) = lane.next_batch(now_ms)
        {
            commit = Some((Instant::now(), Box::pin(append(Arc::clone(&store), items))));
        }
        for answer in answers.drain(..) {
            let home = home_shard(&placing, &Channel::Room(answer.append.item.room), shards);
            let pushed = port.outbox.push(Endpoint::Shard(home), Message::Committed(Box::new(answer)));
            debug_assert!(pushed.is_ok(), "each answer has a place reserved");
        }
        port.outbox.flush();
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        let is_stopping = *stop.borrow();
        if is_stopping && lane.is_idle() {
            return;
        }
        let wait = lane.deadline_ms().map_or(Duration::from_secs(3600), |at| {
            // One millisecond on top: a timer that fires a fraction early would only come back here.
            Duration::from_millis(at.saturating_sub(driver::now().ms) + 1)
        });
        tokio::select! {
            () = port.inbox.woken() => {}
            (began, result) = finish(&mut commit), if commit.is_some() => {
                commit = None;
                let result = match result {
                    Ok(outcomes) => {
                        let stored = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::New(_))).count();
                        figures.batches.fetch_add(1, Ordering::Relaxed);
                        figures.items.fetch_add(outcomes.len() as u64, Ordering::Relaxed);
                        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                        figures.commit_micros.fetch_add(micros, Ordering::Relaxed);
                        figures.stored.fetch_add(stored as u64, Ordering::Relaxed);
                        BatchResult::Answered(outcomes)
                    }
                    Err(AppendError::Data(text)) => {
                        tracing::debug!(text, "the database refused a batch's data");
                        BatchResult::BadData
                    }
                    Err(AppendError::Unknown(text)) => {
                        if !lane.is_stuck() {
                            tracing::warn!(text, "a batch had no answer; it is tried again until there is one");
                        }
                        figures.unknown.fetch_add(1, Ordering::Relaxed);
                        BatchResult::NotKnown
                    }
                    Err(AppendError::Broken(text)) => {
                        // Nobody is told anything: what is on disk decides, after a restart.
                        let _ = broken.send(text).await;
                        return;
                    }
                };
                let was_stuck = lane.is_stuck();
                lane.finished(driver::now().ms, result, &mut answers);
                match (was_stuck, lane.is_stuck()) {
                    (false, true) => _ = figures.stuck_lanes.fetch_add(1, Ordering::Relaxed),
                    (true, false) => _ = figures.stuck_lanes.fetch_sub(1, Ordering::Relaxed),
                    _ => {}
                }
            }
            () = tokio::time::sleep(wait) => {}
            _ = stop.changed(), if !is_stopping => {}
        }
    }
}

/// The batch under way, with when it began; waits for ever where there is none.
async fn finish<F: Future + Unpin>(commit: &mut Option<(Instant, F)>) -> (Instant, F::Output) {
    match commit {
        Some((began, batch)) => (*began, batch.await),
        None => std::future::pending().await,
    }
}

async fn append(store: SharedStore, items: Arc<[Item]>) -> Result<Vec<Outcome>, AppendError> {
    store.append(&items).await
}
