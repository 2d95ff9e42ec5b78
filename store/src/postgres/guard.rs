//! Only one process at a time uses a database: it holds a session advisory lock, on a connection of its own, for as
//! long as the store lives.

use crate::error::{OpenError, one_line};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor, Row};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// "uproar" in ASCII. Each database has advisory locks of its own.
const KEY: i64 = 0x7570_726f_6172;
/// How often the guard connection is tested.
const INTERVAL: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// After a process was killed, it takes the server a moment to end its session.
const TAKE_TRIES: u32 = 20;
const TAKE_PAUSE: Duration = Duration::from_millis(100);

/// Whether this process may commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Held,
    /// The connection is lost, or may be: no commits until the lock is held again.
    Lost,
    /// Another process has the lock: no more commits at all.
    TakenOver,
}

/// The connection that has the lock.
pub(super) struct Held {
    pub connection: PgConnection,
    /// The process id of its session in the server, by which it is recognized if it outlives the connection.
    process: i32,
}

pub(super) struct Guard {
    state: Arc<watch::Sender<State>>,
    /// Something failed that may affect the guard connection too.
    doubt: Arc<Notify>,
    stop: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Guard {
    /// Takes the lock, or fails if another process has it.
    pub async fn take(options: &PgConnectOptions, address: &str) -> Result<Held, OpenError> {
        let failed = |error: sqlx::Error| {
            OpenError(match &error {
                sqlx::Error::Database(error) => {
                    format!("PostgreSQL at {address} rejects the connection: {error}")
                }
                error => format!("can't reach PostgreSQL at {address}: {}; is it running there?", one_line(error)),
            })
        };
        let mut connection = options.connect().await.map_err(failed)?;
        for _ in 0..TAKE_TRIES {
            if let Some(process) = try_lock(&mut connection).await.map_err(failed)? {
                return Ok(Held { connection, process });
            }
            sleep(TAKE_PAUSE).await;
        }
        Err(OpenError(format!("another uproar is using the database {address}; stop it, or use another database")))
    }

    /// Starts to watch the connection that has the lock.
    pub fn watch(held: Held, options: PgConnectOptions, address: String) -> Guard {
        let state = Arc::new(watch::Sender::new(State::Held));
        let (doubt, stop) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let watcher = keep(held, options, address, Arc::clone(&state), Arc::clone(&doubt), Arc::clone(&stop));
        Guard { state, doubt, stop, task: Mutex::new(Some(tokio::spawn(watcher))) }
    }

    /// Waits as long as the lock is lost. There is no time limit: callers set one.
    pub async fn settled(&self) -> State {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| *state != State::Lost).await {
            Ok(state) => *state,
            Err(_) => State::Lost,
        }
    }

    /// Returns once another process has the lock.
    pub async fn taken_over(&self) {
        let mut state = self.state.subscribe();
        if state.wait_for(|state| *state == State::TakenOver).await.is_err() {
            std::future::pending().await
        }
    }

    /// Tells the guard that a connection to the database failed: nothing is committed until the lock was found to be
    /// held.
    pub fn doubt(&self) {
        self.state.send_if_modified(|state| {
            let held = *state == State::Held;
            if held {
                *state = State::Lost;
            }
            held
        });
        self.doubt.notify_one();
    }

    /// Releases the lock.
    pub async fn release(&self) {
        self.stop.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // The task ends by itself. An error would be its panic, which releases the lock as well.
            let _ = task.await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task {
            task.abort();
        }
    }
}

/// Tests the connection that has the lock, and takes the lock again when it is lost.
async fn keep(
    mut held: Held,
    options: PgConnectOptions,
    address: String,
    state: Arc<watch::Sender<State>>,
    doubt: Arc<Notify>,
    stop: Arc<Notify>,
) {
    loop {
        tokio::select! {
            () = stop.notified() => {
                let _ = timeout(ANSWER_TIMEOUT, held.connection.close()).await;
                return;
            }
            () = doubt.notified() => {}
            () = sleep(INTERVAL) => {}
        }
        let answer = timeout(ANSWER_TIMEOUT, held.connection.execute("SELECT 1")).await;
        if matches!(answer, Ok(Ok(_))) {
            state.send_if_modified(|state| std::mem::replace(state, State::Held) != State::Held);
            continue;
        }
        state.send_replace(State::Lost);
        tracing::warn!("lost the guard connection to {address}; nothing is committed until it is back");
        held = loop {
            let retaken = tokio::select! {
                () = stop.notified() => return,
                retaken = timeout(ANSWER_TIMEOUT, retake(&options, held.process)) => retaken,
            };
            match retaken {
                Ok(Ok(Some(held))) => break held,
                Ok(Ok(None)) => {
                    tracing::error!("another uproar has taken over the database {address}; this one must stop");
                    state.send_replace(State::TakenOver);
                    stop.notified().await;
                    return;
                }
                Ok(Err(_)) | Err(_) => sleep(TAKE_PAUSE).await,
            }
        };
        tracing::info!("the guard connection to {address} is back");
        state.send_replace(State::Held);
    }
}

/// Takes the lock again, on a new connection. `None`: another process has it.
async fn retake(options: &PgConnectOptions, previous: i32) -> Result<Option<Held>, sqlx::Error> {
    let mut connection = options.connect().await?;
    if let Some(process) = try_lock(&mut connection).await? {
        return Ok(Some(Held { connection, process }));
    }
    // Our own session may live on in a server that has not noticed the loss of its connection.
    let sql = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND d.datname = current_database() AND l.granted AND l.pid = $1
          AND l.classid = CAST($2 AS oid) AND l.objid = CAST($3 AS oid) AND l.objsubid = 1";
    let (high, low) = (KEY >> 32, KEY & 0xffff_ffff);
    let ours: i64 = sqlx::query_scalar(sql).bind(previous).bind(high).bind(low).fetch_one(&mut connection).await?;
    if ours == 0 {
        // The lock may have been released since `try_lock`.
        return Ok(try_lock(&mut connection).await?.map(|process| Held { connection, process }));
    }
    sqlx::query("SELECT pg_terminate_backend($1)").bind(previous).execute(&mut connection).await?;
    Err(sqlx::Error::Protocol("our previous session still has the lock".to_owned()))
}

/// Tries to take the lock: the process id of the session that has it now. `None`: another session has it.
async fn try_lock(connection: &mut PgConnection) -> Result<Option<i32>, sqlx::Error> {
    let row = sqlx::query("SELECT pg_try_advisory_lock($1), pg_backend_pid()").bind(KEY).fetch_one(connection).await?;
    let (locked, process): (bool, i32) = (row.try_get(0)?, row.try_get(1)?);
    Ok(locked.then_some(process))
}
