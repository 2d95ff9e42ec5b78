//! SQLite: one connection that writes and a few that read, in WAL mode.

mod append;
mod backup;
mod checkpoints;
mod file;
mod generation;
mod holder;
mod inspect;
mod source;

pub(crate) use append::append_in_transaction;
pub(crate) use backup::{backup, no_database};
pub(crate) use inspect::inspect;
pub(crate) use source::{MovedTo, Source};

use crate::connection::{DbConnection, Pooled};
use crate::data_folder::{DataFolder, LockFile};
use crate::error::{AppendError, OpenError, one_line};
use crate::generation::DatabaseGeneration;
use crate::incarnation::IncarnationFile;
use crate::migrations;
use crate::options::OpenOptions;
use checkpoints::Checkpoints;
use sqlx::ConnectOptions;
use sqlx::migrate::Migrate;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;
use uproar_model::{Item, Outcome};

/// How long to wait for the locks of other programs that have the file open, such as the `sqlite3` shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// What is left of the WAL's file when it is begun anew, in bytes.
const WAL_LIMIT: &str = "67108864";
/// A negative number means KiB. This holds the upper levels of the index of message ids, which is read at random.
const WRITER_CACHE: &str = "-32768";
/// Enough for a whole batch or page.
const ROWS_BUFFER: usize = 1024;

pub(crate) struct Sqlite {
    /// A pool of one connection.
    writer: SqlitePool,
    readers: SqlitePool,
    checkpoints: Checkpoints,
    generation: DatabaseGeneration,
    incarnation_file: IncarnationFile,
    /// The lock of a database file outside the data folder.
    _lock: Option<LockFile>,
}

impl Sqlite {
    pub async fn open(path: &Path, folder: &DataFolder, options: &OpenOptions) -> Result<Sqlite, OpenError> {
        let seconds = options.open_timeout.as_secs();
        let late = |_| {
            let shown = path.display();
            OpenError::Taken(format!(
                "can't open the database {shown} within {seconds} s; is another program using it?"
            ))
        };
        let opened = timeout(options.open_timeout, Opened::open(path, folder, options)).await.map_err(late)??;
        opened.migrate().await?;
        timeout(options.open_timeout, opened.start(folder, options)).await.map_err(late)?
    }

    pub fn generation(&self) -> DatabaseGeneration {
        self.generation
    }

    pub async fn reader(&self) -> Result<DbConnection, sqlx::Error> {
        acquire(&self.readers, self.generation).await
    }

    /// The only connection that writes, so the caller waits for no locks of others in this process.
    pub async fn writer(&self) -> Result<DbConnection, sqlx::Error> {
        self.checkpoints.count_commit();
        acquire(&self.writer, self.generation).await
    }

    pub async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        self.checkpoints.count_commit();
        let db = acquire(&self.writer, self.generation).await.map_err(|error| append::not_begun(&error))?;
        append::append(db, batch).await
    }

    /// Returns if a task has ended because of a bug, with the reason.
    pub async fn ended(&self) -> String {
        self.checkpoints.ended().await;
        "the task that copies the WAL into the database ended unexpectedly".to_owned()
    }

    pub async fn close(&self) {
        self.checkpoints.stop().await;
        let changed = async {
            let db = self.writer().await?;
            generation::change_incarnation(db, &self.incarnation_file, self.generation).await
        };
        if let Err(error) = changed.await {
            tracing::warn!(%error, "can't mark the database as closed");
        }
        // The writer last: the last connection to close removes the WAL, which may hold texts that were deleted since.
        // If another program has the file open, the WAL stays and is empty.
        self.readers.close().await;
        let emptied = async { self.writer().await?.execute("PRAGMA wal_checkpoint(TRUNCATE)", &[]).await };
        if let Err(error) = emptied.await {
            tracing::warn!(error = one_line(&error), "can't copy the WAL into the database; the next start does");
        }
        self.writer.close().await;
    }
}

/// A database that has been opened, and is to be brought up to date.
struct Opened {
    path: PathBuf,
    shown: String,
    for_all: SqliteConnectOptions,
    for_writing: SqliteConnectOptions,
    pool: SqlitePoolOptions,
    writer: SqlitePool,
    lock: Option<LockFile>,
}

impl Opened {
    async fn open(path: &Path, folder: &DataFolder, options: &OpenOptions) -> Result<Opened, OpenError> {
        let shown = path.display().to_string();
        let path = file::prepare(path).await?;
        let failed = |error: sqlx::Error| open_failed(&path, &shown, &error);
        let is_in_folder = path.parent() == Some(folder.path());
        let lock = if is_in_folder { None } else { Some(LockFile::take_for(&path)?) };

        let for_all = SqliteConnectOptions::new()
            .filename(&path)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROWS_BUFFER)
            .thread_name(|id| format!("uproar-sqlite-{id}"))
            .disable_statement_logging();
        let for_writing = for_all
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", WAL_LIMIT)
            // Deleted and edited texts are overwritten.
            .pragma("secure_delete", "ON")
            .pragma("cache_size", WRITER_CACHE);
        // A connection to a file does not age or break, so connections are neither replaced nor tested.
        let pool = SqlitePoolOptions::new()
            .min_connections(1)
            .acquire_timeout(options.acquire_timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false);
        let writer = pool.clone().max_connections(1).connect_with(for_writing.clone()).await.map_err(failed)?;

        Ok(Opened { path, shown, for_all, for_writing, pool, writer, lock })
    }

    /// Brings the schema up to date, which takes long if the database is large.
    async fn migrate(&self) -> Result<(), OpenError> {
        let update = async {
            let mut connection = self.writer.acquire().await?;
            connection.ensure_migrations_table(migrations::TABLE).await?;
            inspect::schema_version(&mut connection).await?;
            migrations::updater(migrations::SQLITE).run(&mut *connection).await
        };
        match timeout(migrations::TIMEOUT, update).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(match migrations::database_error(&error) {
                Some(error) if is_locked(error) => open_failed(&self.path, &self.shown, error),
                _ => migrations::migration_failed(&error, &self.shown, migrations::SQLITE),
            }),
            Err(_) => Err(migrations::took_too_long(&self.shown)),
        }
    }

    async fn start(self, folder: &DataFolder, options: &OpenOptions) -> Result<Sqlite, OpenError> {
        let Opened { path, shown, for_all, for_writing, pool, writer, lock } = self;
        let failed = |error: sqlx::Error| open_failed(&path, &shown, &error);
        let mut connection = writer.acquire().await.map_err(failed)?;
        MovedTo::refuse(&mut connection, &shown).await?;
        drop(connection);
        let size = u32::try_from(options.pool_size).unwrap_or(u32::MAX).max(1);
        // All are opened now. The thread of a connection inherits the priority of the one that opens it.
        let readers = pool
            .min_connections(size)
            .max_connections(size)
            .connect_with(for_all.read_only(true))
            .await
            .map_err(failed)?;

        let incarnation_file = folder.incarnation_file();
        let known_words = incarnation_file.read().map_err(|error| {
            OpenError::Lasting(format!("can't read {}: {error}", incarnation_file.path().display()))
        })?;
        // Nothing that is read here depends on the generation.
        let mut db = acquire(&writer, DatabaseGeneration::default()).await.map_err(failed)?;
        db.begin().await.map_err(failed)?;
        let generation = generation::start_incarnation(db, &incarnation_file, &known_words)
            .await
            .map_err(|error| OpenError::Lasting(format!("can't write to the database {shown}: {error}")))?;
        let checkpoints = Checkpoints::start(for_writing, writer.clone()).await.map_err(failed)?;
        Ok(Sqlite { writer, readers, checkpoints, generation, incarnation_file, _lock: lock })
    }
}

async fn acquire(pool: &SqlitePool, generation: DatabaseGeneration) -> Result<DbConnection, sqlx::Error> {
    Ok(DbConnection::new(Pooled::Sqlite(pool.acquire().await?, generation)))
}

/// Why the database file can't be opened.
fn open_failed(path: &Path, shown: &str, error: &sqlx::Error) -> OpenError {
    if !is_locked(error) {
        return OpenError::Lasting(format!("can't open the database {shown}: {}", one_line(error)));
    }
    let holder = holder::of_file(path).unwrap_or_else(|| "another program, such as a sqlite3 shell".to_owned());
    OpenError::Taken(format!("the database {shown} is locked by {holder}; end its transaction, or stop it"))
}

/// Whether another connection has the lock that this one needs. <https://www.sqlite.org/rescode.html>
fn is_locked(error: &sqlx::Error) -> bool {
    const BUSY: u32 = 5;
    match error {
        sqlx::Error::PoolTimedOut => true,
        error => {
            let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
            // The upper bytes say more about the circumstances.
            code.is_some_and(|code| code & 0xff == BUSY)
        }
    }
}
