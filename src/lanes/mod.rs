//! Tokio tasks that use the store on behalf of the shards: the lanes commit batches, the reader answers queries.

mod markers;
mod reader;
mod waiting;

pub use reader::{ReaderSetup, run_reader};

use crate::chat;
use crate::mesh::Port;
use crate::traces::{self, CommitOutcome, Tracer};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use uproar_core::Placement;
use uproar_core::lane::{BatchResult, Lane};
use uproar_core::message::{Channel, Endpoint, LaneAnswer, Message};
use uproar_model::{DatabaseGeneration, Item, Outcome, boottime_ms};
use uproar_store::{AppendError, SharedStore};

/// Counters of all lanes together, for readiness and metrics.
#[derive(Debug, Default)]
pub struct LaneMetrics {
    /// Batches that the database has answered.
    pub batches: AtomicU64,
    /// Items in answered batches.
    pub items: AtomicU64,
    /// Time that answered batches took, in microseconds.
    pub commit_micros: AtomicU64,
    /// Items stored by answered batches.
    pub stored: AtomicU64,
    /// Attempts whose outcome is unknown.
    pub unknown: AtomicU64,
    /// Lanes whose last attempt has an unknown outcome.
    pub stuck_lanes: AtomicU64,
}

/// Everything a lane needs.
pub struct LaneSetup {
    pub lane: Lane,
    pub port: Port<Message>,
    pub store: SharedStore,
    pub placement: Placement,
    pub metrics: Arc<LaneMetrics>,
    /// Turns true when no more items will come: the lane then ends as soon as it is idle.
    pub stop: watch::Receiver<bool>,
    /// Takes the reason if nothing can be committed any more. The process must then end.
    pub broken: mpsc::Sender<String>,
    /// The number of the lane, and what takes the spans of its commits, if something does.
    pub number: u16,
    pub tracer: Option<Arc<Tracer>>,
}

/// The outcomes of a batch, and the history in which it is stored. `None`: that may have changed meanwhile.
type Appended = Result<(Vec<Outcome>, Option<DatabaseGeneration>), AppendError>;

/// A batch that is being written.
struct Commit {
    began: Instant,
    items: usize,
    call: Pin<Box<dyn Future<Output = Appended> + Send>>,
}

/// Runs one lane until it is told to stop and has committed everything that was pending.
pub async fn run_lane(setup: LaneSetup) {
    let LaneSetup { mut lane, mut port, store, placement, metrics, mut stop, broken, number, tracer } = setup;
    let mut answers: Vec<LaneAnswer> = Vec::new();
    let mut commit: Option<Commit> = None;
    loop {
        let now_ms = boottime_ms();
        let more = port.inbox.pop_each(|from, message| match message {
            Message::Commit(append) => lane.receive(now_ms, append, &mut answers),
            other => debug_assert!(false, "{from:?} sent a lane {other:?}"),
        });
        lane.tick(now_ms, &mut answers);
        if commit.is_none()
            && let Some(items) = lane.next_batch(now_ms)
        {
            let (began, count) = (Instant::now(), items.len());
            commit = Some(Commit { began, items: count, call: Box::pin(append(Arc::clone(&store), items)) });
        }
        for answer in answers.drain(..) {
            let home = placement.home_of(&Channel::Room(answer.append.item.room));
            let pushed = port.outbox.push(Endpoint::Shard(home), Message::Committed(Box::new(answer)));
            debug_assert!(pushed.is_ok(), "room for each answer is reserved");
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
            // One more millisecond, as a timer that fires slightly early would only cause another turn.
            Duration::from_millis(at.saturating_sub(boottime_ms()) + 1)
        });
        tokio::select! {
            () = port.inbox.woken() => {}
            (began, items, result) = finish(&mut commit) => {
                commit = None;
                let took = began.elapsed();
                match to_batch_result(result, &lane) {
                    Ok(result) => {
                        if let Some(tracer) = &tracer {
                            let outcome = commit_outcome(&result);
                            let calls = lane.callers().filter_map(chat::call_number);
                            tracer.committed(traces::Commit { lane: number, took, items, outcome }, calls);
                        }
                        on_batch(&mut lane, result, took, &metrics, &mut answers);
                    }
                    Err(reason) => {
                        // The lane answers no more items: after a restart, what is on disk decides.
                        let _ = broken.send(reason).await;
                        return;
                    }
                }
            }
            () = tokio::time::sleep(wait) => {}
            _ = stop.changed(), if !is_stopping => {}
        }
    }
}

async fn append(store: SharedStore, items: Arc<[Item]>) -> Appended {
    let generation = store.generation();
    let outcomes = store.append(&items).await?;
    Ok((outcomes, Some(generation).filter(|generation| *generation == store.generation())))
}

/// Waits for the result of the batch that is being written; forever if there is none.
async fn finish(commit: &mut Option<Commit>) -> (Instant, usize, Appended) {
    match commit {
        Some(Commit { began, items, call }) => (*began, *items, call.await),
        None => std::future::pending().await,
    }
}

/// Translates the store's answer for the core, and logs failures.
///
/// # Errors
/// Why nothing can be committed any more.
fn to_batch_result(result: Appended, lane: &Lane) -> Result<BatchResult, String> {
    match result {
        Ok((outcomes, generation)) => Ok(BatchResult::Answered(outcomes, generation)),
        Err(AppendError::DataRejected(text)) => {
            tracing::debug!(text, "the database rejected a batch because of its data");
            Ok(BatchResult::BadData)
        }
        Err(AppendError::OutcomeUnknown(text)) => {
            if !lane.is_stuck() {
                tracing::warn!(text, "the outcome of a batch is unknown; it is sent again until the database answers");
            }
            Ok(BatchResult::OutcomeUnknown)
        }
        Err(AppendError::Fatal(text)) => Err(format!(
            "the database can't be trusted any more: {text}; to continue from what is on disk, start the server again"
        )),
        Err(AppendError::Ended(reason)) => Err(reason),
    }
}

/// Gives a result to the lane and counts it.
fn on_batch(
    lane: &mut Lane,
    result: BatchResult,
    elapsed: Duration,
    metrics: &LaneMetrics,
    answers: &mut Vec<LaneAnswer>,
) {
    match &result {
        BatchResult::Answered(outcomes, _) => {
            let stored = stored(outcomes);
            let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
            metrics.batches.fetch_add(1, Ordering::Relaxed);
            metrics.items.fetch_add(outcomes.len() as u64, Ordering::Relaxed);
            metrics.commit_micros.fetch_add(micros, Ordering::Relaxed);
            metrics.stored.fetch_add(stored as u64, Ordering::Relaxed);
        }
        BatchResult::BadData => {}
        BatchResult::OutcomeUnknown => _ = metrics.unknown.fetch_add(1, Ordering::Relaxed),
    }
    let was_stuck = lane.is_stuck();
    lane.finished(boottime_ms(), result, answers);
    match (was_stuck, lane.is_stuck()) {
        (false, true) => _ = metrics.stuck_lanes.fetch_add(1, Ordering::Relaxed),
        (true, false) => _ = metrics.stuck_lanes.fetch_sub(1, Ordering::Relaxed),
        _ => {}
    }
}

/// How many items are new.
fn stored(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, Outcome::New(_))).count()
}

/// What the span of a commit says of its result.
fn commit_outcome(result: &BatchResult) -> CommitOutcome {
    match result {
        BatchResult::Answered(outcomes, _) => CommitOutcome::Answered { stored: stored(outcomes) },
        BatchResult::OutcomeUnknown => CommitOutcome::Unknown,
        BatchResult::BadData => CommitOutcome::Rejected,
    }
}
