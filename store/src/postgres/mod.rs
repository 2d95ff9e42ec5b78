//! PostgreSQL: a connection for each lane, a pool for everything else, and a connection that guards the database.

mod append;
mod generation;
mod guard;
mod setup;

pub(crate) use generation::restored;

use crate::connection::{DbConnection, Pooled};
use crate::error::{AppendError, OpenError};
use crate::generation::DatabaseGeneration;
use crate::migrations;
use crate::options::{OpenOptions, postgres_address};
use append::Lanes;
use guard::Guard;
use setup::{connect_options, database_failed, no_answer, prepare, session_settings};
use sqlx::Connection;
use sqlx::postgres::{PgPool, PgPoolOptions};
use std::time::Duration;
use tokio::time::timeout;
use uproar_model::{Item, Outcome};

/// Changing the schema of a large database takes long, and an administrator can see that PostgreSQL is at work.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(3600);
/// A pooled connection that was idle for longer is tested before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

pub(crate) struct Postgres {
    pool: PgPool,
    lanes: Lanes,
    guard: Guard,
    generation: DatabaseGeneration,
}

impl Postgres {
    pub async fn open(url: &str, options: &OpenOptions) -> Result<Postgres, OpenError> {
        let connect = connect_options(url)?
            .application_name("uproar")
            // Each start would log notices about tables that already exist.
            .options([("client_min_messages", "warning")]);
        let address = postgres_address(&connect);

        let mut held = match timeout(options.open_timeout, Guard::take(&connect, &address)).await {
            Ok(held) => held?,
            Err(_) => return Err(no_answer(&address, options.open_timeout)),
        };
        setup::check_server(&mut held.connection, &address).await?;
        let migrator = migrations::migrator(migrations::POSTGRES);
        match timeout(MIGRATION_TIMEOUT, migrator.run(&mut held.connection)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(migrations::migration_failed(&error, &address, migrations::POSTGRES)),
            Err(_) => {
                let seconds = MIGRATION_TIMEOUT.as_secs();
                return Err(OpenError(format!(
                    "the schema of the database {address} was not updated within {seconds} s; \
                     start uproar again to retry"
                )));
            }
        }
        let failed = |error: sqlx::Error| database_failed(&address, &error);
        let generation = generation::check(&mut held.connection).await.map_err(failed)?;

        let connect = connect.options(session_settings(options.call_timeout));
        let pool = PgPoolOptions::new()
            .max_connections(u32::try_from(options.pool_size).unwrap_or(u32::MAX).max(1))
            .acquire_timeout(options.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(|connection, _| Box::pin(prepare(connection)))
            .connect_with(connect.clone())
            .await
            .map_err(failed)?;
        let lanes = Lanes::new(connect.clone(), options.lanes.max(1), options.acquire_timeout);
        let guard = Guard::watch(held, connect, address);
        Ok(Postgres { pool, lanes, guard, generation })
    }

    pub fn generation(&self) -> DatabaseGeneration {
        self.generation
    }

    pub async fn connection(&self) -> Result<DbConnection, sqlx::Error> {
        Ok(DbConnection::new(Pooled::Postgres(self.pool.acquire().await?)))
    }

    pub async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        self.lanes.append(&self.guard, batch).await
    }

    /// Returns once another process has taken over the database.
    pub async fn taken_over(&self) {
        self.guard.taken_over().await;
    }

    pub fn lanes(&self) -> usize {
        self.lanes.count()
    }

    pub async fn close(&self) {
        self.lanes.close().await;
        self.pool.close().await;
        // Last, because it lets another process start.
        self.guard.release().await;
    }
}
