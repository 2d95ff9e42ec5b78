//! Writes the positions of readers. On SQLite a write occupies the only writer and waits for the disk, so all positions
//! that have moved meanwhile are written together, and only so many times per second. Readers that must write before
//! they can go on therefore decide on more at once where writes are rare: see [`PositionWriter::steps`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use uproar_model::RoomId;
use uproar_store::{Move, SharedStore};

/// Moves in one transaction, and moves that may wait.
const BATCH_LIMIT: usize = 256;
const WAITING_LIMIT: usize = 1024;
/// The pause after a write is so many times as long as the write took, up to `PAUSE_LIMIT`: on a slow disk, messages
/// must not wait for positions.
const PAUSE_FACTOR: u32 = 30;
const PAUSE_LIMIT: Duration = Duration::from_secs(1);
/// With one write in this time, a reader does one step per write, and with fewer writes more.
const STEP_TIME: Duration = Duration::from_millis(50);
/// Steps that are decided on with one write.
const STEPS_LIMIT: usize = 20;
/// After an error.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

type Waiting = (Move, oneshot::Sender<bool>);

/// The way to the task that writes.
#[derive(Clone)]
pub struct PositionWriter {
    moves: mpsc::Sender<Waiting>,
    pause_ms: Arc<AtomicU64>,
}

/// The other end of a [`PositionWriter`].
pub struct Moves {
    moves: mpsc::Receiver<Waiting>,
    pause_ms: Arc<AtomicU64>,
}

impl PositionWriter {
    pub fn new() -> (PositionWriter, Moves) {
        let (sender, receiver) = mpsc::channel(WAITING_LIMIT);
        let pause_ms = Arc::new(AtomicU64::new(0));
        (PositionWriter { moves: sender, pause_ms: Arc::clone(&pause_ms) }, Moves { moves: receiver, pause_ms })
    }

    /// The time from one write to the next at present.
    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms.load(Ordering::Relaxed))
    }

    /// How many steps of a reader, such as POSTs in a room, are best decided on with one write.
    pub fn steps(&self) -> usize {
        let steps = self.pause().as_millis() / STEP_TIME.as_millis();
        usize::try_from(steps).unwrap_or(STEPS_LIMIT).clamp(1, STEPS_LIMIT)
    }

    /// Moves a position. While the database fails, this waits. `false`: the position was another than the one that the
    /// move starts from, so it is not known here what is done.
    pub async fn write(&self, it: Move) -> bool {
        let (sender, receiver) = oneshot::channel();
        if self.moves.send((it, sender)).await.is_err() {
            return false;
        }
        receiver.await.unwrap_or(false)
    }
}

/// Writes until all senders are gone. `interval`: the least time from one write to the next, until `stop` turns true.
pub async fn run_writer(
    Moves { mut moves, pause_ms }: Moves,
    store: SharedStore,
    interval: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let show = |pause: Duration| pause_ms.store(pause.as_millis() as u64, Ordering::Relaxed);
    show(interval);
    let mut next_at = Instant::now();
    let mut waiting: Vec<Waiting> = Vec::new();
    while moves.recv_many(&mut waiting, BATCH_LIMIT).await > 0 {
        tokio::select! {
            () = sleep_until(next_at) => {}
            // What is done is recorded before the end, so that it is not done again after the next start.
            _ = stop.wait_for(|stop| *stop) => {}
        }
        while waiting.len() < BATCH_LIMIT
            && let Ok(more) = moves.try_recv()
        {
            waiting.push(more);
        }
        // Those whose tasks were stopped are not made: nobody knows any more what they were for.
        waiting.retain(|(_, sender)| !sender.is_closed());
        // Two moves of one position could only contradict each other.
        let mut seen: BTreeSet<(Arc<str>, RoomId)> = BTreeSet::new();
        waiting.retain(|(it, _)| seen.insert((Arc::clone(&it.reader), it.room)));
        let begun = Instant::now();
        write(&store, &mut waiting).await;
        let pause = interval.max((begun.elapsed() * PAUSE_FACTOR).min(PAUSE_LIMIT));
        show(pause);
        next_at = begun + pause;
    }
}

async fn write(store: &SharedStore, waiting: &mut Vec<Waiting>) {
    while !waiting.is_empty() {
        let moves: Vec<Move> = waiting.iter().map(|(it, _)| it.clone()).collect();
        match store.move_positions(&moves).await {
            Ok(moved) => {
                for ((_, sender), moved) in waiting.drain(..).zip(moved) {
                    let _ = sender.send(moved);
                }
            }
            Err(error) => {
                // It may have been committed nevertheless. Then the next attempt finds other positions.
                error.log("positions of webhooks can't be written; will retry");
                sleep(RETRY_PAUSE).await;
                waiting.retain(|(_, sender)| !sender.is_closed());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uproar_store::Position;
    use uproar_store::memory::SharedMemoryStore;
    use uproar_store::{NewRoom, RoomKind};

    #[test]
    fn the_rarer_writes_are_the_more_is_decided_with_each() {
        let (writer, moves) = PositionWriter::new();
        for (pause_ms, steps) in [(0, 1), (50, 1), (99, 1), (100, 2), (600, 12), (1000, 20), (60_000, 20)] {
            moves.pause_ms.store(pause_ms, Ordering::Relaxed);
            assert_eq!(writer.steps(), steps, "{pause_ms}");
        }
    }

    #[tokio::test]
    async fn what_moves_at_the_same_time_is_written_together() {
        let store: SharedStore = Arc::new(SharedMemoryStore::default());
        let owner = store.ensure_user("Ann", "ann").await.unwrap().id;
        let mut rooms = Vec::new();
        for n in 0..3 {
            let room = NewRoom { name: format!("r{n}"), title: String::new(), kind: RoomKind::Public, size: 5, owner };
            rooms.push(store.create_room(room).await.unwrap().id);
        }
        let (writer, moves) = PositionWriter::new();
        let (_stop, stopped) = watch::channel(false);
        let running = tokio::spawn(run_writer(moves, Arc::clone(&store), Duration::from_millis(1), stopped));
        let go = |room, from, to| {
            let at = |done| Position { done, batch: None };
            Move { reader: "a".into(), room, from: at(from), to: at(to) }
        };
        let all = tokio::join!(
            writer.write(go(rooms[0], 0, 5)),
            writer.write(go(rooms[1], 0, 6)),
            writer.write(go(rooms[2], 1, 7)),
        );
        assert_eq!(all, (true, true, false));
        assert!(writer.write(go(rooms[0], 5, 6)).await);
        assert_eq!(store.progress("a", rooms[0]).await.unwrap().unwrap().position.done, 6);
        drop(writer);
        running.await.unwrap();
    }
}
