//! Looks at a database file without changing it.

use super::file::{self, Header};
use super::{BUSY_TIMEOUT, MovedTo, open_failed};
use crate::data_folder::LockFile;
use crate::error::OpenError;
use crate::inspect::{DatabaseState, Schema};
use crate::migrations;
use crate::options::OpenOptions;
use sqlx::migrate::{Migrate, MigrateError};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use std::io;
use std::path::Path;
use tokio::time::timeout;

/// `folder`: the data folder, which a start creates if it is missing.
pub(crate) async fn inspect(path: &Path, folder: &Path, options: &OpenOptions) -> Result<DatabaseState, OpenError> {
    let shown = path.display().to_string();
    let description = format!("SQLite in {shown}");
    let missing = Schema::missing(migrations::SQLITE);
    match file::recognise(path) {
        Ok(Header::Ours) => {}
        Ok(Header::Empty) => return Ok(DatabaseState { description, schema: missing, used_by: None, key_id: None }),
        Ok(Header::Foreign) => return Err(file::foreign(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && will_have_folder(path, folder) => {
            return Ok(DatabaseState { description, schema: missing, used_by: None, key_id: None });
        }
        Err(error) => return Err(file::failed(path, error)),
    }
    let failed = |error: sqlx::Error| open_failed(path, &shown, &error);
    let read = async {
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let mut connection = connect.connect().await.map_err(failed)?;
        let sql = "SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations'";
        let schema = match connection.fetch_optional(sql).await.map_err(failed)? {
            None => missing,
            Some(_) => {
                MovedTo::refuse(&mut connection, &shown).await?;
                let version = schema_version(&mut connection)
                    .await
                    .map_err(|error| migrations::migration_failed(&error, &shown, migrations::SQLITE))?;
                Schema { version, ..missing }
            }
        };
        connection.close().await.map_err(failed)?;
        Ok(schema)
    };
    let schema = match timeout(options.open_timeout, read).await {
        Ok(schema) => schema?,
        Err(_) => return Err(failed(sqlx::Error::PoolTimedOut)),
    };
    Ok(DatabaseState { description, schema, used_by: LockFile::holder_for(path)?, key_id: None })
}

/// The last migration that was applied to a database with a schema that this build can use.
pub(super) async fn schema_version(connection: &mut SqliteConnection) -> Result<Option<i64>, MigrateError> {
    let applied = connection.list_applied_migrations(migrations::TABLE).await?;
    match migrations::check(&applied, None, migrations::SQLITE) {
        Err(MigrateError::VersionMissing(_)) => {
            let since: Option<String> = sqlx::query_scalar(migrations::USABLE_SINCE).fetch_optional(connection).await?;
            migrations::check(&applied, since.as_deref(), migrations::SQLITE)
        }
        checked => checked,
    }
}

/// Whether a start can create the file, as far as its folder is concerned.
fn will_have_folder(path: &Path, data_folder: &Path) -> bool {
    path.parent().is_some_and(|parent| parent == data_folder || parent.as_os_str().is_empty() || parent.is_dir())
}
