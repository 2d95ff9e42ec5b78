//! Checkpoints, which copy what was committed from the WAL into the database file. They have a connection and a task of
//! their own, so that commits go on meanwhile, and each is small: there is one four times a second while much is
//! written.

use crate::error::one_line;
use crate::task::Task;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool};
use sqlx::{ConnectOptions, Connection};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// The time between two checkpoints while much is written.
const INTERVAL: Duration = Duration::from_millis(250);
/// Fewer commits wait for others, because a page that several of them change is then copied once.
const COMMITS: u64 = 64;
/// Without a commit for so long, the WAL is emptied.
const IDLE: Duration = Duration::from_secs(5);
/// SQLite begins the WAL anew when everything in it has been copied. While commits never stop this does not happen by
/// itself: at this size (64 MiB) they wait for the rest to be copied.
const WAL_LIMIT_PAGES: i64 = 16_384;
/// A long read, such as a backup, keeps the WAL from being begun anew. So long until the next attempt.
const RETRY: Duration = Duration::from_secs(5);
/// How long the attempt waits for reads to end.
const READERS_TIMEOUT: Duration = Duration::from_millis(100);

pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    task: Task,
}

#[derive(Default)]
struct Shared {
    commits: AtomicU64,
    committed: Notify,
    stop: Notify,
}

impl Checkpoints {
    /// `options`: for a connection that can write. `writer`: the pool of the connection that does.
    pub async fn start(options: SqliteConnectOptions, writer: SqlitePool) -> Result<Checkpoints, sqlx::Error> {
        let connection = options.busy_timeout(READERS_TIMEOUT).connect().await?;
        let shared = Arc::new(Shared::default());
        let task = Task::spawn(run(connection, writer, Arc::clone(&shared)));
        Ok(Checkpoints { shared, task })
    }

    /// A transaction that writes has begun.
    pub fn count_commit(&self) {
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.shared.committed.notify_one();
    }

    /// Closes the connection.
    pub async fn stop(&self) {
        self.shared.stop.notify_one();
        self.task.join().await;
    }

    /// Returns once the task has ended.
    pub async fn ended(&self) {
        self.task.ended().await;
    }
}

async fn run(mut connection: SqliteConnection, writer: SqlitePool, shared: Arc<Shared>) {
    let mut state = State { commits: 0, last_commit: Instant::now(), retry_at: Instant::now(), is_failing: false };
    loop {
        tokio::select! {
            () = shared.stop.notified() => break,
            () = shared.committed.notified() => {}
        }
        state.last_commit = Instant::now();
        // Until everything is copied.
        while state.commits > 0 || shared.commits.load(Ordering::Relaxed) > 0 {
            tokio::select! {
                () = shared.stop.notified() => {
                    let _ = connection.close().await;
                    return;
                }
                () = sleep(INTERVAL) => {}
            }
            let result = state.step(&mut connection, &writer, &shared).await;
            match &result {
                Err(error) if !state.is_failing => {
                    tracing::warn!(error = one_line(error), "can't copy the WAL into the database; will try again");
                }
                _ => {}
            }
            state.is_failing = result.is_err();
        }
    }
    let _ = connection.close().await;
}

struct State {
    /// Commits that may not be copied yet.
    commits: u64,
    last_commit: Instant,
    retry_at: Instant,
    is_failing: bool,
}

impl State {
    /// Makes the checkpoint that is due, if any.
    async fn step(
        &mut self,
        connection: &mut SqliteConnection,
        writer: &SqlitePool,
        shared: &Shared,
    ) -> Result<(), sqlx::Error> {
        let new = shared.commits.swap(0, Ordering::Relaxed);
        self.commits += new;
        if new > 0 {
            self.last_commit = Instant::now();
        }
        if self.last_commit.elapsed() >= IDLE {
            if self.retry_at <= Instant::now() {
                let _pause = writer.acquire().await?;
                match checkpoint(connection, "PRAGMA wal_checkpoint(TRUNCATE)").await?.is_complete {
                    true => self.commits = 0,
                    false => self.retry_at = Instant::now() + RETRY,
                }
            }
        } else if self.commits >= COMMITS {
            let copied = checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)").await?;
            self.commits = 1;
            if copied.wal_pages >= WAL_LIMIT_PAGES && self.retry_at <= Instant::now() {
                // What was committed during the first one, so that commits wait only for what is new since then.
                checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)").await?;
                let _pause = writer.acquire().await?;
                if !checkpoint(connection, "PRAGMA wal_checkpoint(RESTART)").await?.is_complete {
                    self.retry_at = Instant::now() + RETRY;
                }
            }
        }
        Ok(())
    }
}

struct Copied {
    /// Whether a checkpoint other than a passive one did all that it should. (A passive one does what it can.)
    is_complete: bool,
    wal_pages: i64,
}

/// <https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>
async fn checkpoint(connection: &mut SqliteConnection, sql: &'static str) -> Result<Copied, sqlx::Error> {
    let (busy, wal_pages, _): (i64, i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(Copied { is_complete: busy == 0, wal_pages })
}
