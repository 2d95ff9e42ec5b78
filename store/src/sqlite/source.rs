//! A database that is moved elsewhere: locked, checked, read from beginning to end, and marked in the end.

use super::{BUSY_TIMEOUT, ROWS_BUFFER, file, open_failed};
use crate::data_folder::{DataFolder, LockFile};
use crate::error::{OpenError, one_line};
use crate::generation::{self, DatabaseGeneration};
use crate::migrations;
use crate::tables::Table;
use futures_util::{Stream, TryStreamExt};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};
use std::path::Path;

/// Where a database has moved, in the table `meta`: the generation that moved along, a space, and the new address.
const MOVED_TO: &str = "moved_to";

/// Where a database has moved.
pub(crate) struct MovedTo {
    pub generation: DatabaseGeneration,
    pub address: String,
}

impl MovedTo {
    /// Fails if the database has moved: nobody may go on writing to it.
    pub(super) async fn refuse(connection: &mut SqliteConnection, shown: &str) -> Result<(), OpenError> {
        match MovedTo::read(connection).await.map_err(|error| failed(shown, &error))? {
            None => Ok(()),
            Some(MovedTo { address, .. }) => Err(OpenError::Lasting(format!(
                "`uproar migrate` has moved the database {shown} to PostgreSQL at {address}, or was interrupted at the \
                 very end: run it again to be sure, and then name that one with --database; or run `uproar restored` \
                 to go back to this one, without what was stored since"
            ))),
        }
    }

    async fn read(connection: &mut SqliteConnection) -> Result<Option<MovedTo>, sqlx::Error> {
        let sql = "SELECT value FROM meta WHERE name = $1";
        let value: Option<String> = sqlx::query_scalar(sql).bind(MOVED_TO).fetch_optional(connection).await?;
        Ok(value.map(|value| {
            let (generation, address) = value.split_once(' ').unwrap_or_default();
            MovedTo { generation: generation::parse(Some(generation)), address: address.to_owned() }
        }))
    }

    /// Forgets that the database has moved.
    pub(crate) async fn forget(path: &Path) -> Result<(), OpenError> {
        let shown = path.display().to_string();
        let path = file::existing(path)?;
        let mut connection = connect(&path, &shown).await?;
        let deleted = sqlx::query("DELETE FROM meta WHERE name = $1").bind(MOVED_TO).execute(&mut connection).await;
        deleted.map_err(|error| failed(&shown, &error))?;
        Ok(())
    }
}

/// The rules by which names are folded, and for how long revocations have to be kept. The others belong to one
/// database.
const MOVED_META: [&str; 2] = ["name_rules", "longest_token_lifetime_ms"];

/// A database that no other process changes while this value lives.
pub(crate) struct Source {
    /// In a transaction, until it is marked.
    connection: SqliteConnection,
    shown: String,
    pub generation: DatabaseGeneration,
    /// The database was restored from a backup since a server used it, so its generation is a new one.
    pub is_restored: bool,
    pub moved_to: Option<MovedTo>,
    /// Rows of `meta` that belong to what is moved, as names and values.
    pub meta: Vec<(String, String)>,
    /// The lock of a database file outside the data folder.
    _lock: Option<LockFile>,
}

impl Source {
    /// Opens the database at `path`, and makes sure that it is sound and has the schema of this build.
    pub async fn open(path: &Path, folder: &DataFolder) -> Result<Source, OpenError> {
        let shown = path.display().to_string();
        let path = file::existing(path)?;
        let is_in_folder = path.parent() == Some(folder.path());
        let lock = if is_in_folder { None } else { Some(LockFile::take_for(&path)?) };
        let mut connection = connect(&path, &shown).await?;
        // It will be marked, and until then a `sqlite3` shell may not change it either.
        let begun = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await;
        begun.map_err(|error| open_failed(&path, &shown, &error))?;

        let applied = sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version");
        let applied: Vec<(i64, Vec<u8>)> =
            applied.fetch_all(&mut connection).await.map_err(|error| failed(&shown, &error))?;
        migrations::require_current(&applied, &shown, migrations::SQLITE)?;

        let meta = sqlx::query_as("SELECT name, value FROM meta").fetch_all(&mut connection).await;
        let meta: Vec<(String, String)> = meta.map_err(|error| failed(&shown, &error))?;
        let value = |name: &str| meta.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let words = folder.incarnation_file().read().map_err(|error| {
            OpenError::Lasting(format!("can't read {}: {error}", folder.incarnation_file().path().display()))
        })?;
        let is_restored = value("incarnation").is_some_and(|word| !words.iter().any(|known| known == word));
        let generation = match is_restored {
            true => generation::draw().map_err(|error| OpenError::Lasting(error.to_string()))?,
            false => generation::parse(value("generation")),
        };
        let moved_to = MovedTo::read(&mut connection).await.map_err(|error| failed(&shown, &error))?;
        let meta = meta.into_iter().filter(|(name, _)| MOVED_META.contains(&name.as_str())).collect();
        Ok(Source { connection, shown, generation, is_restored, moved_to, meta, _lock: lock })
    }

    /// Fails if the file is damaged. This reads all of it.
    pub async fn check(&mut self) -> Result<(), OpenError> {
        let report = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut self.connection).await;
        let report: String = report.map_err(|error| self.failed(&error))?;
        if report == "ok" { Ok(()) } else { Err(damaged(&self.shown, &report)) }
    }

    pub async fn count(&mut self, table: &Table) -> Result<u64, OpenError> {
        let sql = AssertSqlSafe(format!("SELECT count(*) FROM {}", table.name));
        let count = sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut self.connection).await;
        Ok(count.map_err(|error| self.failed(&error))?.cast_unsigned())
    }

    /// All rows of a table, by their key.
    pub fn rows(&mut self, table: &Table) -> impl Stream<Item = Result<SqliteRow, OpenError>> + Send {
        let Source { connection, shown, .. } = self;
        let (rows, shown) = (sqlx::query(AssertSqlSafe(table.select())).fetch(connection), shown.as_str());
        rows.map_err(move |error| failed(shown, &error))
    }

    /// The last id that a table has given to a row, which may be gone. 0: it has given none.
    pub async fn last_id(&mut self, table: &str) -> Result<i64, OpenError> {
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = $1";
        let last = sqlx::query_scalar(sql).bind(table).fetch_optional(&mut self.connection).await;
        Ok(last.map_err(|error| self.failed(&error))?.unwrap_or(0))
    }

    /// Marks the database, so that no server starts on it.
    pub async fn mark(&mut self, address: &str) -> Result<(), OpenError> {
        let marked = async {
            let sql = "INSERT INTO meta (name, value) VALUES ($1, $2)
                ON CONFLICT (name) DO UPDATE SET value = excluded.value";
            let value = format!("{} {address}", self.generation);
            sqlx::query(sql).bind(MOVED_TO).bind(value).execute(&mut self.connection).await?;
            sqlx::raw_sql("COMMIT").execute(&mut self.connection).await
        };
        let marked: Result<_, sqlx::Error> = marked.await;
        marked.map(drop).map_err(|error| {
            OpenError::Lasting(format!("can't write to the database {}: {}", self.shown, one_line(&error)))
        })
    }

    /// Removes the mark.
    pub async fn unmark(&mut self) -> Result<(), OpenError> {
        let deleted = sqlx::query("DELETE FROM meta WHERE name = $1").bind(MOVED_TO).execute(&mut self.connection);
        let deleted = deleted.await;
        deleted.map(drop).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &sqlx::Error) -> OpenError {
        failed(&self.shown, error)
    }
}

async fn connect(path: &Path, shown: &str) -> Result<SqliteConnection, OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .synchronous(SqliteSynchronous::Full)
        .row_buffer_size(ROWS_BUFFER)
        .disable_statement_logging();
    options.connect().await.map_err(|error| open_failed(path, shown, &error))
}

fn failed(shown: &str, error: &sqlx::Error) -> OpenError {
    // <https://www.sqlite.org/rescode.html>
    const CORRUPT: u32 = 11;
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    match code.is_some_and(|code| code & 0xff == CORRUPT) {
        true => damaged(shown, &one_line(error)),
        false => OpenError::Lasting(format!("can't read the database {shown}: {}", one_line(error))),
    }
}

fn damaged(shown: &str, why: &str) -> OpenError {
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    OpenError::Lasting(format!("the database {shown} is damaged ({why}); restore a backup first"))
}
