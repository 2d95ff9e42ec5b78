//! Brings the schema up to date, beside other processes that use the database.

use super::failures::{Target, code};
use super::guard::KEY;
use crate::error::OpenError;
use crate::migrations::{self, Migration};
use sqlx::migrate::{Migrate, MigrateError};
use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The advisory lock of the process that changes the schema.
const MIGRATION_KEY: i64 = KEY + 1;
/// A migration that waits for the lock of a table holds up everything that comes to the table after it. So it waits
/// only for as long as an append may be late.
const LIMIT_LOCKS: &str = "SET lock_timeout = '500ms'";
const PAUSE: Duration = Duration::from_millis(500);

/// Brings the schema up to date.
pub(super) async fn migrate(
    connection: &mut PgConnection,
    target: &Target,
    migrations: &[Migration],
) -> Result<(), OpenError> {
    match timeout(migrations::TIMEOUT, migrate_alone(connection, migrations)).await {
        Ok(result) => result.map_err(|error| failed(&error, target, migrations)),
        Err(_) => Err(migrations::took_too_long(&target.address)),
    }
}

/// The same in a transaction, in a database that nobody else uses.
pub(super) async fn migrate_vacancy(connection: &mut PgConnection, target: &Target) -> Result<(), OpenError> {
    match timeout(migrations::TIMEOUT, update(connection, migrations::POSTGRES)).await {
        Ok(result) => result.map_err(|error| failed(&error, target, migrations::POSTGRES)),
        Err(_) => Err(migrations::took_too_long(&target.address)),
    }
}

/// Why the schema can't be used.
pub(super) fn failed(error: &MigrateError, target: &Target, migrations: &[Migration]) -> OpenError {
    match migrations::database_error(error) {
        Some(error) => target.failed(error),
        None => migrations::migration_failed(error, &target.address, migrations),
    }
}

/// Takes the lock, unlike the migrator of sqlx, which would wait for it inside a statement.
async fn migrate_alone(connection: &mut PgConnection, migrations: &[Migration]) -> Result<(), MigrateError> {
    loop {
        let lock = sqlx::query("SELECT pg_try_advisory_lock($1)").bind(MIGRATION_KEY);
        if lock.fetch_one(&mut *connection).await?.try_get(0)? {
            break;
        }
        sleep(PAUSE).await;
    }
    connection.execute(LIMIT_LOCKS).await?;
    loop {
        match update(connection, migrations).await {
            Ok(()) => break,
            // Each migration is a transaction, so that the next attempt begins with the one that failed.
            Err(error) if is_held_up(&error) => sleep(PAUSE).await,
            // The connection is closed, and with it the lock released.
            Err(error) => return Err(error),
        }
    }
    connection.execute("RESET lock_timeout").await?;
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(MIGRATION_KEY).execute(connection).await?;
    Ok(())
}

async fn update(connection: &mut PgConnection, migrations: &[Migration]) -> Result<(), MigrateError> {
    connection.ensure_migrations_table(migrations::TABLE).await?;
    version(connection, migrations).await?;
    migrations::updater(migrations).run(connection).await
}

/// The last migration that was applied to a database with a schema that this build can use.
pub(super) async fn version(
    connection: &mut PgConnection,
    migrations: &[Migration],
) -> Result<Option<i64>, MigrateError> {
    let applied = connection.list_applied_migrations(migrations::TABLE).await?;
    match migrations::check(&applied, None, migrations) {
        Err(MigrateError::VersionMissing(_)) => {
            let since: Option<String> = sqlx::query_scalar(migrations::USABLE_SINCE).fetch_optional(connection).await?;
            migrations::check(&applied, since.as_deref(), migrations)
        }
        checked => checked,
    }
}

/// Whether a migration gave up because it waited for a lock, or for one that waited for it.
fn is_held_up(error: &MigrateError) -> bool {
    migrations::database_error(error).and_then(code).is_some_and(|code| matches!(&*code, "55P03" | "40P01"))
}
