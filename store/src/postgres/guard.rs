//! Only one process at a time uses a database, unless all of them are nodes: it holds a session advisory lock, on a
//! connection of its own, for as long as the store lives. Nodes share the lock. This connection also shows whether the
//! database answers, takes writes, and still has everything that this process has seen in it.

use super::failures::{Target, code, trouble};
use super::generation;
use super::nodes::{BUS_VERSION, Beat, Node};
use super::witnesses::Witnesses;
use crate::error::{OpenError, one_line};
use crate::generation::DatabaseGeneration;
use crate::task::Task;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use uproar_model::{Clock, Reading, boottime_ms};

/// "uproar" in ASCII. Each database has advisory locks of its own.
pub(super) const KEY: i64 = 0x7570_726f_6172;
/// How often the guard connection is tested.
const INTERVAL: Duration = Duration::from_secs(1);
/// Together with `INTERVAL`: how long the database may be silent before all connections are given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one attempt to open the database waits for the lock: after a process was killed, it takes PostgreSQL a
/// moment to end its session. (After its host was lost, it takes about 6 s, see the keepalives in `setup.rs`; a server
/// makes further attempts.)
const TAKE_TIMEOUT: Duration = Duration::from_secs(2);
const TAKE_PAUSE: Duration = Duration::from_millis(100);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Whether this process may commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Held,
    /// The connection is lost, or may be, or the server is read-only: no commits until the lock is held again.
    Lost,
    /// No more commits at all, and why.
    Ended(Arc<str>),
}

/// How a process takes the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// For itself.
    Alone,
    /// Together with the other nodes.
    Node,
}

/// Who wants to use the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taker {
    /// A server without `--bus`.
    Server,
    Node,
    /// A command that needs all servers to be stopped.
    Command,
}

/// A connection of its own, which usually has the lock.
pub(super) struct Held {
    pub connection: PgConnection,
    /// The process id of its session in the server.
    process: i32,
}

pub(super) struct Guard {
    state: watch::Sender<State>,
    /// Something failed that may affect the guard connection too.
    doubt: Notify,
    /// The lock is held on a server that connections no longer lead to: by this process id.
    misplaced: Notify,
    misplaced_process: AtomicI32,
    /// The database has fallen silent: calls in progress are given up.
    silent: Notify,
    stop: Notify,
    /// Sessions that were opened earlier are not used any more.
    trusted_since: Mutex<Instant>,
    /// The process id of the session that holds the lock; 0: none does.
    process: AtomicI32,
    /// Each test of the connection corrects it.
    clock: Clock,
    mode: Mode,
    generation: watch::Sender<DatabaseGeneration>,
    /// How many other nodes are alive.
    peers: AtomicUsize,
    /// The announcements that all of them understand.
    bus_version: AtomicI32,
    pub witnesses: Witnesses,
}

impl Guard {
    /// Takes the lock, or fails if another process has it.
    pub async fn take(options: &PgConnectOptions, target: &Target, taker: Taker) -> Result<Held, OpenError> {
        let mode = if taker == Taker::Node { Mode::Node } else { Mode::Alone };
        let failed = |error: sqlx::Error| target.failed(&error);
        let mut connection = options.connect().await.map_err(failed)?;
        let started = Instant::now();
        loop {
            if let Some(process) = try_lock(&mut connection, mode).await.map_err(failed)? {
                return Ok(Held { connection, process });
            }
            if started.elapsed() >= TAKE_TIMEOUT
                && let Some(holder) = Holder::find(&mut connection).await.map_err(failed)?
            {
                return Err(OpenError::Taken(holder.refusal(&target.address, taker)));
            }
            sleep(TAKE_PAUSE).await;
        }
    }

    /// Starts to watch the connection that has the lock. `node`: this process as a node, if it is one, and what its
    /// first beat has found.
    pub fn watch(
        held: Held,
        options: PgConnectOptions,
        target: Target,
        clock: Clock,
        witnesses: Witnesses,
        node: Option<(Node, Beat)>,
        generation: DatabaseGeneration,
    ) -> (Arc<Guard>, Keeper) {
        let (node, beat) = node.unzip();
        let guard = Arc::new(Guard {
            state: watch::Sender::new(State::Held),
            doubt: Notify::new(),
            misplaced: Notify::new(),
            misplaced_process: AtomicI32::new(0),
            silent: Notify::new(),
            stop: Notify::new(),
            trusted_since: Mutex::new(Instant::now()),
            process: AtomicI32::new(held.process),
            clock,
            mode: if node.is_some() { Mode::Node } else { Mode::Alone },
            generation: watch::Sender::new(generation),
            peers: AtomicUsize::new(beat.map_or(0, |beat| beat.peers)),
            bus_version: AtomicI32::new(beat.map_or(BUS_VERSION, |beat| beat.bus_version)),
            witnesses,
        });
        let task = Task::spawn(Arc::clone(&guard).keep(held, options, target, node));
        (Arc::clone(&guard), Keeper { guard, task })
    }

    /// Waits as long as the lock is lost. There is no time limit: callers set one.
    pub async fn settled(&self) -> State {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| *state != State::Lost).await {
            Ok(state) => state.clone(),
            Err(_) => State::Lost,
        }
    }

    async fn ended(&self) -> String {
        let mut state = self.state.subscribe();
        if let Ok(state) = state.wait_for(|state| matches!(state, State::Ended(_))).await
            && let State::Ended(reason) = &*state
        {
            return reason.to_string();
        }
        std::future::pending().await
    }

    /// Returns when the calls in progress are to be given up, because no answer can be expected.
    pub async fn silent(&self) {
        self.silent.notified().await;
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

    /// Tells the guard that new connections lead to a server on which this process does not hold the lock.
    pub fn misplaced(&self, process: i32) {
        self.misplaced_process.store(process, Ordering::Relaxed);
        self.misplaced.notify_one();
    }

    /// Whether a session that was opened at this time may still be used.
    pub fn trusts_sessions_of(&self, opened: Instant) -> bool {
        opened > *self.trusted_since()
    }

    /// The process id of the session that holds the lock. `None`: none does at the moment.
    pub fn process(&self) -> Option<i32> {
        Some(self.process.load(Ordering::Relaxed)).filter(|process| *process != 0)
    }

    /// Whether this process is one of several nodes.
    pub fn is_shared(&self) -> bool {
        self.mode == Mode::Node
    }

    /// The generation of the database, as far as this process knows. A session may know a newer one.
    pub fn generation(&self) -> DatabaseGeneration {
        *self.generation.borrow()
    }

    /// Follows the generation of the database.
    pub fn generations(&self) -> watch::Receiver<DatabaseGeneration> {
        self.generation.subscribe()
    }

    /// How many other nodes were alive at the last beat.
    pub fn peers(&self) -> usize {
        self.peers.load(Ordering::Relaxed)
    }

    /// The announcements that all nodes that are alive understand.
    pub fn bus_version(&self) -> i32 {
        self.bus_version.load(Ordering::Relaxed)
    }

    /// The database has this generation. Sessions of another one are not used any more.
    pub fn set_generation(&self, generation: DatabaseGeneration) {
        let is_new = self.generation.send_if_modified(|known| std::mem::replace(known, generation) != generation);
        if is_new {
            *self.trusted_since() = Instant::now();
            self.witnesses.forget();
            tracing::warn!(%generation, "the database has another history: clients start over");
        }
    }

    fn trusted_since(&self) -> MutexGuard<'_, Instant> {
        self.trusted_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_held(&self) {
        self.state.send_if_modified(|state| std::mem::replace(state, State::Held) != State::Held);
    }

    /// Tests the connection that has the lock, and takes the lock again when it is lost.
    async fn keep(self: Arc<Self>, mut held: Held, options: PgConnectOptions, target: Target, mut node: Option<Node>) {
        let address = &target.address;
        let mut is_read_only = false;
        loop {
            let interval = if is_read_only { TAKE_PAUSE } else { INTERVAL };
            let is_misplaced = tokio::select! {
                () = self.stop.notified() => {
                    let close = async {
                        if let Some(node) = &node {
                            node.leave(&mut held.connection).await?;
                        }
                        held.connection.close().await
                    };
                    let _ = timeout(ANSWER_TIMEOUT, close).await;
                    return;
                }
                // The news may be older than the session that holds the lock now.
                () = self.misplaced.notified() => {
                    self.misplaced_process.load(Ordering::Relaxed) == held.process
                }
                () = self.doubt.notified() => false,
                () = sleep(interval) => false,
            };
            let cause = match is_misplaced {
                true => "it does not hold the lock where new connections lead".to_owned(),
                false => match timeout(ANSWER_TIMEOUT, self.test(&mut held, node.as_mut())).await {
                    Ok(Ok((Health::ReadOnly, _))) => {
                        if !std::mem::replace(&mut is_read_only, true) {
                            self.state.send_replace(State::Lost);
                            tracing::warn!("the database {address} is read-only; nothing is committed until it is not");
                        }
                        continue;
                    }
                    Ok(Ok((Health::Good, time))) => {
                        self.clock.correct(time);
                        if std::mem::take(&mut is_read_only) {
                            // Sessions that were opened meanwhile may stay read-only.
                            *self.trusted_since() = Instant::now();
                            tracing::info!("the database {address} takes writes again");
                        }
                        self.set_held();
                        continue;
                    }
                    Ok(Ok((Health::Shared, _))) => "a pooler has given it another session".to_owned(),
                    Ok(Err(error)) => {
                        // An error that the database reports only concerns this session. Otherwise the calls in
                        // progress may wait for answers that got lost.
                        if code(&error).is_none() {
                            self.silent.notify_waiters();
                        }
                        one_line(&error)
                    }
                    Err(_) => {
                        *self.trusted_since() = Instant::now();
                        self.silent.notify_waiters();
                        format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())
                    }
                },
            };
            self.state.send_replace(State::Lost);
            self.process.store(0, Ordering::Relaxed);
            drop(held);
            tracing::warn!("lost the guard connection to {address} ({cause}); nothing is committed until it is back");
            held = tokio::select! {
                () = self.stop.notified() => return,
                retaken = self.retake(&options, &target) => match retaken {
                    Ok(held) => held,
                    Err(reason) => {
                        tracing::error!("{reason}");
                        self.state.send_replace(State::Ended(reason.into()));
                        self.stop.notified().await;
                        return;
                    }
                },
            };
            is_read_only = false;
            self.process.store(held.process, Ordering::Relaxed);
            // The others may be sessions of another server.
            *self.trusted_since() = Instant::now();
            tracing::info!("the guard connection to {address} is back");
            self.set_held();
        }
    }

    /// Tests the connection, and sends a beat if one is due.
    async fn test(&self, held: &mut Held, node: Option<&mut Node>) -> Result<(Health, Reading), sqlx::Error> {
        let (health, time) = held.test().await?;
        if health == Health::Good
            && let Some(node) = node.filter(|node| node.is_due())
        {
            let Beat { generation, peers, bus_version } = node.beat(&mut held.connection).await?;
            self.set_generation(generation);
            self.peers.store(peers, Ordering::Relaxed);
            self.bus_version.store(bus_version, Ordering::Relaxed);
        }
        Ok((health, time))
    }

    /// Tries to take the lock again until that succeeds.
    ///
    /// # Errors
    /// Why this process must not go on.
    async fn retake(&self, options: &PgConnectOptions, target: &Target) -> Result<Held, String> {
        let mut logged = Instant::now();
        loop {
            let error = match timeout(ANSWER_TIMEOUT, self.try_retake(options, target)).await {
                Ok(Ok(retaken)) => return retaken,
                Ok(Err(error)) => one_line(&error),
                Err(_) => format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
            };
            if logged.elapsed() >= LOG_INTERVAL {
                logged = Instant::now();
                tracing::warn!("still no guard connection to {}: {error}", target.address);
            }
            sleep(TAKE_PAUSE).await;
        }
    }

    async fn try_retake(
        &self,
        options: &PgConnectOptions,
        target: &Target,
    ) -> Result<Result<Held, String>, sqlx::Error> {
        let mut connection = options.connect().await?;
        let Some(process) = try_lock(&mut connection, self.mode).await? else {
            let Some(holder) = Holder::find(&mut connection).await? else {
                return Err(trouble("the lock is being released"));
            };
            if holder.application == self.witnesses.application() {
                // Our own session lives on in a server that has not noticed the loss of its connection.
                let sql = "SELECT pg_terminate_backend($1)";
                sqlx::query(sql).bind(holder.process).execute(&mut connection).await?;
                return Err(trouble("our previous session still has the lock"));
            }
            let (other, remedy) = match self.mode {
                Mode::Alone => ("another uproar", "stop one of them, or give each its own database"),
                Mode::Node => ("an uproar without --bus", "stop it, or start it with --bus too"),
            };
            return Ok(Err(format!(
                "{other} has taken over the database {} while this one had lost its connection: {holder}; {remedy}",
                target.address
            )));
        };
        let mut held = Held { connection, process };
        let (health, time) = held.test().await?;
        match health {
            Health::Good => self.clock.correct(time),
            Health::ReadOnly => return Err(trouble("the server is read-only")),
            Health::Shared => return Err(trouble("a pooler has given the guard another session")),
        }
        // A session may notice the failover first.
        let known = self.generation();
        let is_complete = self.witnesses.are_present(&mut held.connection, self.mode).await?;
        if self.mode == Mode::Node {
            // What another node has committed may be missing although nothing of this one's is.
            let lost = (!is_complete).then_some(known);
            let generation = generation::check(&mut held.connection, lost).await?;
            self.set_generation(generation);
            return Ok(Ok(held));
        }
        match is_complete {
            true => {
                generation::record(&mut held.connection).await?;
                Ok(Ok(held))
            }
            false => Ok(Err(format!(
                "the database {} lacks what this server has committed: it was restored, or a standby without the last \
                 commits took over, or another uproar has used it; start this one again, and its clients start over",
                target.address
            ))),
        }
    }
}

/// The task of the guard.
pub(super) struct Keeper {
    guard: Arc<Guard>,
    task: Task,
}

impl Keeper {
    /// Releases the lock.
    pub async fn release(&self) {
        self.guard.stop.notify_one();
        self.task.join().await;
    }

    /// Returns once nothing can be committed any more, with the reason.
    pub async fn ended(&self) -> String {
        tokio::select! {
            biased;
            reason = self.guard.ended() => reason,
            () = self.task.ended() => "the task that guards the database's lock ended unexpectedly".to_owned(),
        }
    }
}

impl Held {
    /// A connection that has not taken the lock.
    pub async fn without_lock(options: &PgConnectOptions) -> Result<Held, sqlx::Error> {
        let mut connection = options.connect().await?;
        let row = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        let process = row.try_get(0)?;
        Ok(Held { connection, process })
    }

    /// Tests the connection, and reads the server's clock.
    pub async fn test(&mut self) -> Result<(Health, Reading), sqlx::Error> {
        let sql = concat!(
            "SELECT pg_backend_pid(), pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', ",
            now_sql!(postgres)
        );
        let asked_ms = boottime_ms();
        let row = sqlx::raw_sql(sql).fetch_one(&mut self.connection).await?;
        let answered_ms = boottime_ms();
        let health = match (row.try_get::<i32, _>(0)? == self.process, row.try_get(1)?) {
            (false, _) => Health::Shared,
            (true, true) => Health::ReadOnly,
            (true, false) => Health::Good,
        };
        let unix_ms = row.try_get::<i64, _>(2)?.unsigned_abs();
        Ok((health, Reading { asked_ms, answered_ms, unix_ms }))
    }
}

/// What a test of the guard connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Good,
    ReadOnly,
    /// This is not the session with the lock. It happens with a pooler that shares sessions between clients.
    Shared,
}

/// Tries to take the lock: the process id of the session that has it now. `None`: another session has it.
async fn try_lock(connection: &mut PgConnection, mode: Mode) -> Result<Option<i32>, sqlx::Error> {
    let sql = match mode {
        Mode::Alone => "SELECT pg_try_advisory_lock($1), pg_backend_pid()",
        Mode::Node => "SELECT pg_try_advisory_lock_shared($1), pg_backend_pid()",
    };
    let row = sqlx::query(sql).bind(KEY).fetch_one(connection).await?;
    let (locked, process): (bool, i32) = (row.try_get(0)?, row.try_get(1)?);
    Ok(locked.then_some(process))
}

/// A session that has the lock.
pub(super) struct Holder {
    process: i32,
    mode: Mode,
    /// These are empty if this role is not permitted to see them.
    application: String,
    address: String,
    since: String,
}

impl Holder {
    /// `None`: nobody has the lock, or the session that had it is just ending. Such a session may be our own, but its
    /// name is gone already: it was once taken for that of another process.
    pub async fn find(connection: &mut PgConnection) -> Result<Option<Holder>, sqlx::Error> {
        let sql = format!(
            "SELECT l.pid, l.mode = 'ShareLock', coalesce(a.application_name, ''),
               coalesce(host(a.client_addr), CASE WHEN a.backend_start IS NOT NULL THEN 'a local socket' END, ''),
               coalesce(to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), '')
             FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE {} ORDER BY l.pid LIMIT 1",
            is_lock()
        );
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_optional(connection).await?;
        let Some(row) = row else { return Ok(None) };
        let mode = if row.try_get(1)? { Mode::Node } else { Mode::Alone };
        let (process, application) = (row.try_get(0)?, row.try_get(2)?);
        Ok(Some(Holder { process, mode, application, address: row.try_get(3)?, since: row.try_get(4)? }))
    }

    /// Why somebody else can't take the lock.
    fn refusal(&self, address: &str, taker: Taker) -> String {
        let (who, remedy) = match (self.mode, taker) {
            (Mode::Node, Taker::Command) => ("nodes with --bus are using", "stop all of them first"),
            (Mode::Node, _) => ("nodes with --bus are using", "start this server with --bus too, or stop the nodes"),
            (Mode::Alone, Taker::Node) => ("an uproar without --bus is using", "stop it, and start it with --bus too"),
            (Mode::Alone, Taker::Server) => ("another uproar is using", "stop it, or use another database"),
            (Mode::Alone, Taker::Command) => ("another uproar is using", "stop it first"),
        };
        let process = self.process;
        format!(
            "{who} the database {address}: {self}; {remedy}; if it no longer exists, end its session with SELECT \
             pg_terminate_backend({process})"
        )
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holder { process, address, since, .. } = self;
        match address.is_empty() {
            false => write!(f, "it is connected from {address} since {since} UTC, as process {process} of PostgreSQL"),
            true => write!(f, "it is connected as process {process} of PostgreSQL"),
        }
    }
}

/// A condition on a row `l` of `pg_locks`: it is the lock of the guard.
pub(super) fn is_lock() -> String {
    let (high, low) = (KEY >> 32, KEY & 0xffff_ffff);
    format!(
        "l.locktype = 'advisory' AND l.granted AND l.classid = CAST({high} AS oid) AND l.objid = CAST({low} AS oid)
         AND l.objsubid = 1 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
}
