//! PostgreSQL: a connection for each lane, a pool for everything else, and one that guards.

mod append;
mod guard;

use crate::OpenError;
use crate::database::{Backend, Database};
use crate::error::one_line;
use crate::open::{OpenOptions, migrate_error, migrator};
use crate::rooms::Generation;
use crate::session::{Connection, Session};
use append::Lanes;
use guard::Guard;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection as _, Executor, Row};
use std::time::Duration;
use tokio::time::timeout;

const MIGRATIONS: [(i64, &str, &str); 2] = [
    (1, "first", include_str!("../../../migrations/postgres/0001_first.sql")),
    (2, "append", include_str!("../../../migrations/postgres/0002_append.sql")),
];

/// A schema may take its time to change; an administrator who waits can see the server at work.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(3600);
/// `append` is at home there. Older ones get no more fixes.
const OLDEST_VERSION: i64 = 130_000;
/// A pooled connection idle for longer is asked whether it still is one.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

pub(crate) struct Postgres {
    pool: PgPool,
    lanes: Lanes,
    guard: Guard,
}

/// Where a database is, without who uses it and the password.
pub(crate) fn place(options: &PgConnectOptions) -> String {
    // As libpq has it: without a name it is the user's.
    let database = options.get_database().unwrap_or(options.get_username());
    match options.get_socket() {
        Some(socket) => format!("{} (port {})/{database}", socket.display(), options.get_port()),
        None => format!("{}:{}/{database}", options.get_host(), options.get_port()),
    }
}

impl Postgres {
    pub async fn open(url: &str, options: &OpenOptions) -> Result<Database, OpenError> {
        let connect = url
            .parse::<PgConnectOptions>()
            .map_err(|_| OpenError("this PostgreSQL URL can't be read".to_owned()))?
            .application_name("uproar")
            // Notices of what is there already, at every start, are news to nobody.
            .options([("client_min_messages", "warning")])
            .disable_statement_logging();
        let place = place(&connect);

        let mut held = match timeout(options.open_timeout, Guard::take(&connect, &place)).await {
            Ok(held) => held?,
            Err(_) => {
                let seconds = options.open_timeout.as_secs();
                return Err(OpenError(format!("no answer from PostgreSQL at {place} within {seconds} s")));
            }
        };
        check_server(&mut held.connection, &place).await?;
        let newest = MIGRATIONS.len() as i64;
        let migrator = migrator(&MIGRATIONS);
        match timeout(MIGRATION_TIMEOUT, migrator.run(&mut held.connection)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(migrate_error(&error, &place, newest)),
            Err(_) => return Err(OpenError(format!("changing the schema of {place} took too long"))),
        }
        let failed = |error: sqlx::Error| OpenError(format!("can't use the database {place}: {}", one_line(&error)));
        let generation = generation(&mut held.connection).await.map_err(failed)?;

        let connect = connect.options(settings(options.call_timeout));
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
        let guard = Guard::watch(held, connect, place);
        let postgres = Postgres { pool, lanes, guard };
        Ok(Database::new(Backend::Postgres(Box::new(postgres)), generation, options))
    }

    /// Raises the generation by hand. Takes the lock for it: a server that runs has the old one in memory.
    pub async fn restored(url: &str, options: &OpenOptions) -> Result<(), OpenError> {
        let connect = url
            .parse::<PgConnectOptions>()
            .map_err(|_| OpenError("this PostgreSQL URL can't be read".to_owned()))?
            .disable_statement_logging();
        let place = place(&connect);
        let failed = |error: sqlx::Error| OpenError(format!("can't use the database {place}: {}", one_line(&error)));
        let raising = async {
            let mut held = Guard::take(&connect, &place).await?;
            generation(&mut held.connection).await.map_err(failed)?;
            let sql = "UPDATE meta SET value = CAST(CAST(value AS bigint) + 1 AS text) WHERE name = 'generation'";
            let changed = held.connection.execute(sql).await.map_err(failed)?;
            if changed.rows_affected() == 0 {
                set_meta(&mut held.connection, "generation", "2").await.map_err(failed)?;
            }
            Ok(())
        };
        let seconds = options.open_timeout.as_secs();
        let late = |_| OpenError(format!("no answer from PostgreSQL at {place} within {seconds} s"));
        timeout(options.open_timeout, raising).await.map_err(late)?
    }

    pub async fn session(&self) -> Result<Session, sqlx::Error> {
        Ok(Session::new(Connection::Postgres(self.pool.acquire().await?)))
    }

    /// Waits until another process has the lock.
    pub async fn taken(&self) {
        self.guard.taken().await;
    }

    pub fn lanes(&self) -> usize {
        self.lanes.count()
    }

    pub async fn close(&self) {
        self.lanes.close().await;
        self.pool.close().await;
        // Last: until here nobody else may begin.
        self.guard.release().await;
    }
}

/// What every connection that serves calls asks for when it begins.
fn settings(call_timeout: Duration) -> [(&'static str, String); 8] {
    // The server gives up before we do, so that nothing goes on there which nobody waits for.
    let timeout = format!("{}ms", call_timeout.as_millis());
    [
        ("default_transaction_isolation", "read committed".to_owned()),
        ("statement_timeout", timeout.clone()),
        ("lock_timeout", timeout.clone()),
        ("idle_in_transaction_session_timeout", timeout),
        // Whatever we ask is a few rows by an index. What the statistics of a young or a skewed table promise, a scan of
        // all users for one page, say, would be remembered with the prepared statement; compiling it takes longer than it.
        ("enable_seqscan", "off".to_owned()),
        ("enable_hashjoin", "off".to_owned()),
        ("enable_mergejoin", "off".to_owned()),
        ("jit", "off".to_owned()),
    ]
}

/// What a connection must have before it commits anything: a commit is acknowledged when it is on disk.
async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql =
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
    connection.execute(sql).await?;
    Ok(())
}

/// Whether this server can keep the contract.
async fn check_server(connection: &mut PgConnection, place: &str) -> Result<(), OpenError> {
    let sql = "SELECT CAST(current_setting('server_version_num') AS bigint), current_setting('server_version'),
        current_setting('server_encoding'), pg_is_in_recovery(), current_setting('fsync')";
    let row = connection.fetch_one(sql).await;
    let facts = row.and_then(|row| {
        Ok((
            row.try_get(0)?,
            row.try_get::<String, _>(1)?,
            row.try_get::<String, _>(2)?,
            row.try_get(3)?,
            row.try_get::<String, _>(4)?,
        ))
    });
    let facts: Result<(i64, String, String, bool, String), sqlx::Error> = facts;
    let (number, version, encoding, is_standby, fsync) =
        facts.map_err(|error| OpenError(format!("can't use the database {place}: {}", one_line(&error))))?;
    if number < OLDEST_VERSION {
        return Err(OpenError(format!("{place} is PostgreSQL {version}; uproar needs 13 or newer")));
    }
    if encoding != "UTF8" {
        return Err(OpenError(format!(
            "the database {place} has the encoding {encoding}; create one with ENCODING 'UTF8' TEMPLATE template0"
        )));
    }
    if is_standby {
        return Err(OpenError(format!("{place} is a read-only standby; give the address of the primary")));
    }
    if fsync == "off" {
        tracing::warn!("PostgreSQL at {place} runs with fsync off: a power cut can lose acknowledged messages");
    }
    Ok(())
}

/// How often the history may have gone back: once more where the database is in another cluster than it was (restored
/// from a dump) or on another timeline (restored to a point in time; also a failover, after which a standby may lack the
/// last commits).
async fn generation(connection: &mut PgConnection) -> Result<Generation, sqlx::Error> {
    // Each may be forbidden to us by itself.
    let system = identity(connection, "SELECT CAST(system_identifier AS text) FROM pg_control_system()").await?;
    let timeline = identity(connection, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)").await?;

    let mut transaction = connection.begin().await?;
    let rows = transaction.fetch_all("SELECT name, value FROM meta ORDER BY name FOR UPDATE").await?;
    let mut meta = std::collections::HashMap::new();
    for row in rows {
        meta.insert(row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?);
    }
    let mut generation = meta.get("generation").and_then(|value| value.parse::<i64>().ok()).unwrap_or(1);
    let mut went_back = false;
    for (name, now) in [("system_identifier", system), ("timeline", timeline)] {
        let Some(now) = now else { continue };
        let before = meta.get(name);
        if before == Some(&now) {
            continue;
        }
        went_back |= before.is_some();
        set_meta(&mut transaction, name, &now).await?;
    }
    if went_back {
        generation += 1;
        tracing::warn!(generation, "the database was restored, or another server took over: clients start over");
        set_meta(&mut transaction, "generation", &generation.to_string()).await?;
    }
    transaction.commit().await?;
    Ok(Generation(generation))
}

async fn set_meta(connection: &mut PgConnection, name: &str, value: &str) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    sqlx::query(sql).bind(name).bind(value).execute(connection).await?;
    Ok(())
}

/// A text that tells where the database is, none where this role may not know.
async fn identity(connection: &mut PgConnection, sql: &'static str) -> Result<Option<String>, sqlx::Error> {
    match connection.fetch_one(sql).await {
        Ok(row) => row.try_get(0),
        Err(sqlx::Error::Database(error)) => {
            tracing::warn!(%error, "can't tell by this whether the database is a restored one; after a restore run `uproar restored`");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
