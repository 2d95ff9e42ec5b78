//! From what an administrator wrote to a store that is ready.

use crate::data_folder::DataFolder;
use crate::{OpenError, Store};
use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Which database. PostgreSQL's holds a password: `Debug` and `Display` leave it out.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    /// `postgres://…` or `postgresql://…`, with the parameters that libpq knows, as far as sqlx reads them.
    Postgres(String),
}

impl FromStr for DatabaseUrl {
    type Err = OpenError;

    fn from_str(text: &str) -> Result<DatabaseUrl, OpenError> {
        let wrong = |why: &str| {
            OpenError(format!(
                "wrong database URL: {why}; accepted are sqlite:PATH, sqlite://PATH, and postgres://USER:PASSWORD@HOST:PORT/DATABASE"
            ))
        };
        if let Some(path) = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")) {
            return match path {
                "" => Err(wrong("the path is missing")),
                _ if path.contains('\0') => Err(wrong("the path is none")),
                // Each connection would have a database of its own.
                _ if path.starts_with(":memory:") || path.contains('?') => {
                    Err(wrong("SQLite takes a plain path, no parameters and no :memory:"))
                }
                _ => Ok(DatabaseUrl::Sqlite(PathBuf::from(path))),
            };
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            // The parser's own error may quote what it could not read, the password with it.
            return match text.parse::<sqlx::postgres::PgConnectOptions>() {
                Ok(_) => Ok(DatabaseUrl::Postgres(text.to_owned())),
                Err(_) => Err(wrong("this PostgreSQL URL can't be read (are special characters percent-encoded?)")),
            };
        }
        Err(wrong("it begins with neither sqlite: nor postgres://"))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            DatabaseUrl::Postgres(url) => match url.parse::<sqlx::postgres::PgConnectOptions>() {
                Ok(options) => f.write_str(&crate::postgres::place(&options)),
                Err(_) => f.write_str("postgres://…"),
            },
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a store uses its database. No wait is without an end.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// How many batches PostgreSQL commits at once; SQLite has one writer whatever is said here.
    pub lanes: usize,
    /// Connections for all but the commit path: reads on SQLite, everything else on PostgreSQL.
    pub pool_size: usize,
    /// To reach the database at the start, migrations included.
    pub open_timeout: Duration,
    /// To get a connection out of a pool (on SQLite also: the one writer).
    pub acquire_timeout: Duration,
    /// For one call to be answered by the database, from having a connection.
    pub call_timeout: Duration,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            lanes: 4,
            pool_size: 8,
            open_timeout: Duration::from_secs(15),
            acquire_timeout: Duration::from_secs(3),
            call_timeout: Duration::from_secs(10),
        }
    }
}

/// Opens the database, brings its schema up to date, and makes sure that no other process uses it.
pub async fn open(url: &DatabaseUrl, folder: &DataFolder, options: OpenOptions) -> Result<Arc<dyn Store>, OpenError> {
    match url {
        DatabaseUrl::Sqlite(path) => Ok(Arc::new(crate::sqlite::Sqlite::open(path, folder, &options).await?)),
        DatabaseUrl::Postgres(url) => Ok(Arc::new(crate::postgres::Postgres::open(url, &options).await?)),
    }
}

/// The embedded migrations: number, name, SQL. What was released is never changed, only added to.
pub(crate) fn migrator(migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(migrations.iter().map(migration).collect())
}

/// Why the schema can't be used, in one line. `newest`: the newest migration that this build knows.
pub(crate) fn migrate_error(error: &MigrateError, place: &str, newest: i64) -> OpenError {
    OpenError(match error {
        MigrateError::VersionMissing(version) => format!(
            "the database {place} has schema version {version}, this uproar knows up to {newest}: start the newer uproar that made it, or restore a backup from before"
        ),
        MigrateError::VersionMismatch(version) => format!(
            "schema version {version} of the database {place} was made by another build of uproar: start that one, or use a new database"
        ),
        error => {
            format!("can't bring the schema of the database {place} up to date: {}", crate::error::one_line(error))
        }
    })
}
