//! Sessions with PostgreSQL: opened when they are needed, used again while they can do their work, and then closed.

use super::failures::{is_passing, trouble};
use super::generation;
use super::guard::{Guard, is_lock};
use super::setup::WEAK_COMMIT;
use crate::generation::DatabaseGeneration;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

/// A session that was idle for longer is tested before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
const TEST_TIMEOUT: Duration = Duration::from_secs(1);
/// A lost packet of a handshake is sent again after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// At most `count` sessions for one purpose.
pub(crate) struct Sessions {
    options: PgConnectOptions,
    guard: Arc<Guard>,
    count: u32,
    acquire_timeout: Duration,
    age_limit: Duration,
    permits: Arc<Semaphore>,
    free: Mutex<Vec<Session>>,
}

struct Session {
    connection: PgConnection,
    /// The generation of the database when the session was opened.
    generation: DatabaseGeneration,
    opened: Instant,
    used: Instant,
}

/// A session that is lent to one call. It can be used again afterwards, unless `close_on_drop` is called.
pub(crate) struct Lent {
    /// `None` only while it is dropped.
    session: Option<Session>,
    must_close: bool,
    sessions: Arc<Sessions>,
    _permit: OwnedSemaphorePermit,
}

impl Sessions {
    pub fn new(
        options: PgConnectOptions,
        guard: Arc<Guard>,
        count: usize,
        acquire_timeout: Duration,
        age_limit: Duration,
    ) -> Arc<Sessions> {
        let count = u32::try_from(count).unwrap_or(u32::MAX).clamp(1, 1000);
        let permits = Arc::new(Semaphore::new(count as usize));
        Arc::new(Sessions { options, guard, count, acquire_timeout, age_limit, permits, free: Mutex::default() })
    }

    pub fn count(&self) -> usize {
        self.count as usize
    }

    fn free(&self) -> MutexGuard<'_, Vec<Session>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes all sessions that are not in use.
    pub fn close_free(&self) {
        let free = std::mem::take(&mut *self.free());
        drop(free);
    }

    /// A session that works, as far as can be known. Waits until one is free, and for a server that is about to come
    /// back.
    pub async fn acquire(self: &Arc<Self>) -> Result<Lent, sqlx::Error> {
        let mut failure = None;
        let attempt = async {
            let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let session = match self.take_free().await {
                Some(session) => session,
                None => self.open(&mut failure).await?,
            };
            Ok(Lent { session: Some(session), must_close: false, sessions: Arc::clone(self), _permit: permit })
        };
        let acquired = timeout(self.acquire_timeout, attempt).await;
        acquired.unwrap_or_else(|_| Err(failure.unwrap_or(sqlx::Error::PoolTimedOut)))
    }

    async fn take_free(&self) -> Option<Session> {
        loop {
            let mut session = self.free().pop()?;
            if !self.is_current(&session) {
                continue;
            }
            if session.used.elapsed() <= TRUSTED_IDLE {
                return Some(session);
            }
            if let Ok(Ok(())) = timeout(TEST_TIMEOUT, session.connection.ping()).await {
                return Some(session);
            }
            // The others were idle for even longer, and what ended this one has probably ended them.
            self.close_free();
            self.guard.doubt();
        }
    }

    fn is_current(&self, session: &Session) -> bool {
        self.guard.trusts_sessions_of(session.opened) && session.opened.elapsed() < self.age_limit
    }

    /// Opens a session. `failure` is why the last attempt did not succeed.
    async fn open(&self, failure: &mut Option<sqlx::Error>) -> Result<Session, sqlx::Error> {
        loop {
            let opened = Instant::now();
            match timeout(CONNECT_TIMEOUT, self.connect()).await {
                Ok(Ok((connection, generation))) => {
                    return Ok(Session { connection, generation, opened, used: opened });
                }
                Ok(Err(error)) if !is_passing(&error) => return Err(error),
                Ok(Err(error)) => *failure = Some(error),
                Err(_) => *failure = Some(trouble("PostgreSQL did not answer a new connection")),
            }
            sleep(CONNECT_PAUSE).await;
        }
    }

    /// Connects, and makes sure that this is the server on which the guard holds its lock, that it is no standby, and
    /// that a commit is on disk when it is acknowledged, whatever the server's default. (It may be read-only for a
    /// while: then it can still be read from, and when that is over this session is replaced.)
    async fn connect(&self) -> Result<(PgConnection, DatabaseGeneration), sqlx::Error> {
        let process = self.guard.process();
        let guarded = process.map_or("true".to_owned(), |process| {
            format!("EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = {process} AND {})", is_lock())
        });
        let mut connection = self.options.connect().await?;
        // One round trip, and no prepared statement, as a prepared one would be kept.
        let sql = format!(
            "SELECT pg_is_in_recovery(), {guarded}, (SELECT set_config('synchronous_commit', 'on', false)
             WHERE {WEAK_COMMIT})"
        );
        let row = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
        if row.try_get(0)? {
            return Err(trouble("the server is a read-only standby"));
        }
        if !row.try_get::<bool, _>(1)? {
            self.guard.misplaced(process.unwrap_or_default());
            return Err(trouble("the server is not the one that the lock is held on"));
        }
        let generation = match self.guard.is_shared() {
            // Another node may have got here first: each session looks for itself.
            true => generation::of_session(&mut connection).await?,
            false => self.guard.generation(),
        };
        self.guard.set_generation(generation);
        Ok((connection, generation))
    }

    /// Closes all sessions, once the calls in progress are done, each of which has a time limit.
    pub async fn close(&self) {
        let all = self.permits.acquire_many(self.count).await;
        self.permits.close();
        drop(all);
        let free = std::mem::take(&mut *self.free());
        for session in free {
            // After an error it is closed as well.
            let _ = timeout(CLOSE_TIMEOUT, session.connection.close()).await;
        }
    }
}

impl Lent {
    pub fn close_on_drop(&mut self) {
        self.must_close = true;
    }

    pub fn generation(&self) -> DatabaseGeneration {
        self.session().generation
    }

    fn session(&self) -> &Session {
        self.session.as_ref().expect("a session until it is dropped")
    }

    pub fn keep(&mut self) {
        self.must_close = false;
    }

    /// Opens another session instead of this one, which has ended.
    pub async fn replace(&mut self) -> Result<(), sqlx::Error> {
        let sessions = Arc::clone(&self.sessions);
        // What ended this one has probably ended the others.
        sessions.close_free();
        sessions.guard.doubt();
        let mut failure = None;
        let opened = timeout(sessions.acquire_timeout, sessions.open(&mut failure)).await;
        self.session = Some(opened.unwrap_or_else(|_| Err(failure.unwrap_or(sqlx::Error::PoolTimedOut)))?);
        self.must_close = false;
        Ok(())
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.session().connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.session.as_mut().expect("a session until it is dropped").connection
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut session) = self.session.take() else { return };
        if !self.must_close && self.sessions.is_current(&session) {
            session.used = Instant::now();
            self.sessions.free().push(session);
        }
    }
}
