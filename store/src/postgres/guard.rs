//! One process to a database: a session advisory lock, held on a connection of its own for as long as the store lives.

use crate::OpenError;
use crate::error::one_line;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor, Row};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// "uproar" in ASCII. Advisory locks are each database's own.
const KEY: i64 = 0x7570_726f_6172;
/// How often the guard is asked whether it is still there.
const INTERVAL: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A process that was just killed has its session ended by the server within moments.
const TAKE_TRIES: u32 = 20;
const TAKE_PAUSE: Duration = Duration::from_millis(100);

/// Whether this process may commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Held,
    /// The connection is gone, or may be: not until the lock is held again.
    Lost,
    /// Another process has the lock: not any more.
    Taken,
}

/// The connection that has the lock.
pub(super) struct Held {
    pub connection: PgConnection,
    /// Its session in the server, to know it by should it outlive the connection.
    process: i32,
}

pub(super) struct Guard {
    state: Arc<watch::Sender<State>>,
    /// Something failed that may have failed the guard too.
    doubt: Arc<Notify>,
    stop: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Guard {
    /// Takes the lock, or says who can't share.
    pub async fn take(options: &PgConnectOptions, place: &str) -> Result<Held, OpenError> {
        let failed = |error: sqlx::Error| {
            OpenError(match &error {
                sqlx::Error::Database(error) => format!("PostgreSQL at {place} refuses: {error}"),
                error => format!("can't reach PostgreSQL at {place}: {}; is it running there?", one_line(error)),
            })
        };
        let mut connection = options.connect().await.map_err(failed)?;
        for _ in 0..TAKE_TRIES {
            if let Some(process) = try_lock(&mut connection).await.map_err(failed)? {
                return Ok(Held { connection, process });
            }
            sleep(TAKE_PAUSE).await;
        }
        Err(OpenError(format!(
            "another uproar uses the database {place}; stop it, or give this one a database of its own"
        )))
    }

    pub fn watch(held: Held, options: PgConnectOptions, place: String) -> Guard {
        let state = Arc::new(watch::Sender::new(State::Held));
        let (doubt, stop) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let watched = run(held, options, place, Arc::clone(&state), Arc::clone(&doubt), Arc::clone(&stop));
        Guard { state, doubt, stop, task: Mutex::new(Some(tokio::spawn(watched))) }
    }

    /// Waits while the lock is lost. Whoever waits has a deadline.
    pub async fn certain(&self) -> State {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| *state != State::Lost).await {
            Ok(state) => *state,
            Err(_) => State::Lost,
        }
    }

    /// Waits until another process has the lock.
    pub async fn taken(&self) {
        let mut state = self.state.subscribe();
        if state.wait_for(|state| *state == State::Taken).await.is_err() {
            std::future::pending().await
        }
    }

    /// A connection to the database failed: nothing is committed until the guard has been found to hold.
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

    /// Lets others take the lock.
    pub async fn release(&self) {
        self.stop.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // It ends by itself; an error would be its panic, and the lock is free then too.
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

async fn run(
    mut held: Held,
    options: PgConnectOptions,
    place: String,
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
        tracing::warn!("lost the guard connection to {place}; nothing is committed until it is back");
        held = loop {
            let retaken = tokio::select! {
                () = stop.notified() => return,
                retaken = timeout(ANSWER_TIMEOUT, retake(&options, held.process)) => retaken,
            };
            match retaken {
                Ok(Ok(Some(held))) => break held,
                Ok(Ok(None)) => {
                    tracing::error!("another uproar has taken the database {place}; this one must stop");
                    state.send_replace(State::Taken);
                    stop.notified().await;
                    return;
                }
                Ok(Err(_)) | Err(_) => sleep(TAKE_PAUSE).await,
            }
        };
        tracing::info!("the guard connection to {place} is back");
        state.send_replace(State::Held);
    }
}

/// The lock again, on a new connection; none when another process has it.
async fn retake(options: &PgConnectOptions, before: i32) -> Result<Option<Held>, sqlx::Error> {
    let mut connection = options.connect().await?;
    if let Some(process) = try_lock(&mut connection).await? {
        return Ok(Some(Held { connection, process }));
    }
    // Our own session may live on in the server, which has not noticed that its connection is gone.
    let sql = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND d.datname = current_database() AND l.granted AND l.pid = $1
          AND l.classid = CAST($2 AS oid) AND l.objid = CAST($3 AS oid) AND l.objsubid = 1";
    let ours: i64 =
        sqlx::query_scalar(sql).bind(before).bind(KEY >> 32).bind(KEY & 0xffff_ffff).fetch_one(&mut connection).await?;
    if ours == 0 {
        // It may have been released between the two questions.
        return Ok(try_lock(&mut connection).await?.map(|process| Held { connection, process }));
    }
    sqlx::query("SELECT pg_terminate_backend($1)").bind(before).execute(&mut connection).await?;
    Err(sqlx::Error::Protocol("the session before still has the lock".to_owned()))
}

/// The id of the session that has the lock now; none when another has it.
async fn try_lock(connection: &mut PgConnection) -> Result<Option<i32>, sqlx::Error> {
    let row = sqlx::query("SELECT pg_try_advisory_lock($1), pg_backend_pid()").bind(KEY).fetch_one(connection).await?;
    let (locked, process): (bool, i32) = (row.try_get(0)?, row.try_get(1)?);
    Ok(locked.then_some(process))
}
