//! PostgreSQL: a connection for each lane, a pool for everything else, and a connection that guards the database.

mod append;
mod bus;
mod failures;
mod generation;
mod guard;
mod inspect;
mod key;
mod lead;
mod migrate;
mod nodes;
mod outbox;
mod receiver;
pub(crate) mod rights;
pub(crate) mod rooms;
mod sessions;
mod setup;
mod witnesses;

pub use bus::{BusReceiver, BusSender, PostgresBus};
pub(crate) use failures::{ends_session, is_lock_timeout, keeps_session};
pub(crate) use generation::restored;
pub(crate) use inspect::inspect;
pub(crate) use key::change as change_key;
pub use lead::Lead;
pub(crate) use nodes::{SILENCE_MS, list as nodes};
pub use outbox::OutboxListener;
pub(crate) use receiver::{Receiver, Vacancy};
pub(crate) use sessions::Lent;

use crate::connection::{DbConnection, Pooled};
use crate::error::{AppendError, OpenError};
use crate::generation::DatabaseGeneration;
use crate::migrations;
use crate::options::OpenOptions;
use append::Lanes;
use failures::Target;
use guard::{Guard, Held, Keeper, Taker};
use lead::Work;
use migrate::migrate;
use nodes::Node;
use sessions::Sessions;
use setup::{connect_options, session_settings};
use sqlx::postgres::PgConnectOptions;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::timeout;
use uproar_model::{Clock, Item, Outcome, Publication, RoomId};
use witnesses::Witnesses;

pub(crate) struct Postgres {
    /// For everything except batches and sweeps.
    sessions: Arc<Sessions>,
    /// One session for sweeps, which tell what other nodes have committed: they must not wait for other reads.
    sweeps: Arc<Sessions>,
    lanes: Lanes,
    /// One session, so that a node always learns of revocations in time.
    for_revocations: Arc<Sessions>,
    /// One session, whose lock says which node works as a reader of the log.
    for_leading: Arc<Sessions>,
    /// One session, whose lock says which node empties the outbox.
    for_outbox: Arc<Sessions>,
    connect: PgConnectOptions,
    guard: Arc<Guard>,
    keeper: Keeper,
    /// The bus, if this process is one of several nodes.
    bus: Option<PostgresBus>,
    clock: Clock,
}

impl Postgres {
    pub async fn open(url: &str, options: &OpenOptions) -> Result<Postgres, OpenError> {
        let lane_count = options.lanes.max(1);
        let witnesses = Witnesses::new(lane_count + options.pool_size + 1)
            .map_err(|error| OpenError::Lasting(error.to_string()))?;
        let connect = connect_options(url)?.application_name(&witnesses.application());
        let target = Target::of(&connect);

        let node = match &options.node {
            Some(name) => Some(Node::new(name).map_err(|error| OpenError::Lasting(error.to_string()))?),
            None => None,
        };
        let taker = if node.is_some() { Taker::Node } else { Taker::Server };
        let mut held = take(&connect, &target, options, taker).await?;
        migrate(&mut held.connection, &target, migrations::POSTGRES).await?;
        let failed = |error: sqlx::Error| target.failed(&error);
        let generation = generation::check(&mut held.connection, None).await.map_err(failed)?;
        match &options.key_id {
            Some(key_id) if node.is_some() => key::compare(&mut held.connection, key_id, &target).await?,
            Some(key_id) => key::record(&mut held.connection, key_id).await.map_err(failed)?,
            None => {}
        }
        let mut bus = None;
        let node = match node {
            None => {
                witnesses.mark(&mut held.connection).await.map_err(failed)?;
                None
            }
            Some(mut node) => {
                let cluster = nodes::name_cluster(&mut held.connection).await.map_err(failed)?;
                bus = Some(PostgresBus::new(connect.clone(), cluster));
                let beat = node.beat(&mut held.connection).await.map_err(failed)?;
                Some((node, beat))
            }
        };

        let (_, time) = held.test().await.map_err(failed)?;
        let clock = Clock::of_database(time);

        let connect = connect.options(session_settings(options.call_timeout));
        let (guard, keeper) =
            Guard::watch(held, connect.clone(), target.clone(), clock.clone(), witnesses, node, generation);
        let (acquire_timeout, age_limit) = (options.acquire_timeout, options.session_age_limit);
        let sessions = |count| Sessions::new(connect.clone(), Arc::clone(&guard), count, acquire_timeout, age_limit);
        let lanes =
            Lanes { sessions: sessions(lane_count), guard: Arc::clone(&guard), clock: clock.clone(), acquire_timeout };
        let (for_revocations, sweeps) = (sessions(1), sessions(1));
        let (for_leading, for_outbox) = (sessions(1), sessions(1));
        let sessions = sessions(options.pool_size);
        // A server on which this fails would start and then answer nobody.
        drop(sessions.acquire().await.map_err(|error| target.failed_later(&error))?);
        Ok(Postgres {
            sessions,
            sweeps,
            lanes,
            for_revocations,
            for_leading,
            for_outbox,
            connect,
            guard,
            keeper,
            bus,
            clock,
        })
    }

    pub fn generation(&self) -> DatabaseGeneration {
        self.guard.generation()
    }

    pub fn generations(&self) -> watch::Receiver<DatabaseGeneration> {
        self.guard.generations()
    }

    pub fn bus(&self) -> Option<PostgresBus> {
        self.bus.clone()
    }

    pub fn peers(&self) -> usize {
        self.guard.peers()
    }

    pub fn bus_version(&self) -> i32 {
        self.guard.bus_version()
    }

    /// The clock of the server.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    pub async fn connection(&self) -> Result<DbConnection, sqlx::Error> {
        Ok(DbConnection::new(Pooled::Postgres(self.sessions.acquire().await?)))
    }

    pub async fn connection_for_revocations(&self) -> Result<DbConnection, sqlx::Error> {
        Ok(DbConnection::new(Pooled::Postgres(self.for_revocations.acquire().await?)))
    }

    pub async fn sweeper(&self) -> Result<DbConnection, sqlx::Error> {
        Ok(DbConnection::new(Pooled::Postgres(self.sweeps.acquire().await?)))
    }

    /// Takes the lock of the only node that works as a reader of the log. `None`: another one has it.
    pub async fn lead(&self) -> Result<Option<Lead>, sqlx::Error> {
        Lead::take(&self.for_leading, Work::Reading).await
    }

    /// Takes the lock of the only node that empties the outbox. `None`: another one has it.
    pub async fn lead_outbox(&self) -> Result<Option<Lead>, sqlx::Error> {
        Lead::take(&self.for_outbox, Work::Outbox).await
    }

    /// Hears of new rows in the outbox, on a session of its own.
    pub async fn outbox_listener(&self) -> Result<OutboxListener, String> {
        OutboxListener::connect(self.connect.clone()).await
    }

    pub async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        self.lanes.append(batch).await
    }

    /// A publication that the store itself appended was committed.
    pub fn published(&self, room: RoomId, publication: &Publication) {
        self.guard.witnesses.add(room, publication.offset, publication.time);
    }

    /// Returns when the calls in progress are to be given up, because no answer can be expected.
    pub async fn silent(&self) {
        self.guard.silent().await;
    }

    /// Returns once nothing can be committed any more, with the reason.
    pub async fn ended(&self) -> String {
        self.keeper.ended().await
    }

    pub fn lanes(&self) -> usize {
        self.lanes.sessions.count()
    }

    pub async fn close(&self) {
        self.lanes.sessions.close().await;
        self.for_revocations.close().await;
        self.sessions.close().await;
        self.sweeps.close().await;
        // One that holds the lock ends with it.
        self.for_leading.close_free();
        self.for_outbox.close_free();
        // Last, because it lets another process start.
        self.keeper.release().await;
    }
}

/// Takes the lock of the database, on a connection to a server that can keep what Uproar promises.
async fn take(
    connect: &PgConnectOptions,
    target: &Target,
    options: &OpenOptions,
    taker: Taker,
) -> Result<Held, OpenError> {
    let mut held = match timeout(options.open_timeout, Guard::take(connect, target, taker)).await {
        Ok(held) => held?,
        Err(_) => return Err(target.no_answer(options.open_timeout)),
    };
    let checked = async {
        setup::check_server(&mut held.connection, target).await?;
        setup::check_that_sessions_are_our_own(&mut held, connect, target).await
    };
    match timeout(options.open_timeout, checked).await {
        Ok(checked) => checked?,
        Err(_) => return Err(target.no_answer(options.open_timeout)),
    }
    Ok(held)
}
