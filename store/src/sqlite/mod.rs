//! SQLite: one connection that writes, a few that read, in WAL mode.

mod append;

use crate::OpenError;
use crate::data_folder::{DataFolder, LockFile, write_durably};
use crate::database::{Backend, Database};
use crate::error::one_line;
use crate::open::{OpenOptions, migrate_error, migrator};
use crate::rooms::{Generation, random_word};
use crate::session::{Connection, Session};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _};
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "first", include_str!("../../../migrations/sqlite/0001_first.sql"))];

/// "Uprr": what tells our files from other SQLite databases, in bytes 68 to 71.
const APPLICATION_ID: u32 = 0x5570_7272;

/// For whoever opens the file besides us, as the `sqlite3` shell does.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// What an append costs is pages written; written back rarely, a page that many appends touch is written back once.
const CHECKPOINT_PAGES: &str = "16384";
const CHECKPOINT_BYTES: &str = "67108864";
/// Negative: KiB. The upper levels of the index of ids, which are touched at random.
const WRITER_CACHE: &str = "-32768";
/// A whole batch or page in one go.
const ROWS_BUFFER: usize = 1024;

pub(crate) struct Sqlite {
    /// Of one connection.
    writer: SqlitePool,
    readers: SqlitePool,
    incarnation_path: PathBuf,
    /// Where the file is outside of the data folder.
    _lock: Option<LockFile>,
}

impl Sqlite {
    pub async fn open(path: &Path, folder: &DataFolder, options: &OpenOptions) -> Result<Database, OpenError> {
        let opening = Sqlite::open_without_deadline(path, folder, options);
        match timeout(options.open_timeout, opening).await {
            Ok(database) => database,
            Err(_) => Err(OpenError(format!(
                "the database {} did not open in {} s; is another program using it?",
                path.display(),
                options.open_timeout.as_secs()
            ))),
        }
    }

    async fn open_without_deadline(
        path: &Path,
        folder: &DataFolder,
        options: &OpenOptions,
    ) -> Result<Database, OpenError> {
        let place = path.display().to_string();
        let failed = |error: sqlx::Error| OpenError(format!("can't open the database {place}: {}", one_line(&error)));

        let path = prepare_file(path).await?;
        let is_in_folder = path.parent() == Some(folder.path());
        let lock = if is_in_folder { None } else { Some(LockFile::take_for(&path)?) };

        let common = SqliteConnectOptions::new()
            .filename(&path)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROWS_BUFFER)
            .thread_name(|id| format!("uproar-sqlite-{id}"))
            .disable_statement_logging();
        let write = common
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .pragma("journal_size_limit", CHECKPOINT_BYTES)
            .pragma("cache_size", WRITER_CACHE);
        // Never closed for its age, never tested: it is a file.
        let pool = SqlitePoolOptions::new()
            .min_connections(1)
            .acquire_timeout(options.acquire_timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false);
        let writer = pool.clone().max_connections(1).connect_with(write).await.map_err(failed)?;

        let newest = MIGRATIONS.len() as i64;
        migrator(&MIGRATIONS).run(&writer).await.map_err(|error| migrate_error(&error, &place, newest))?;
        let size = u32::try_from(options.pool_size).unwrap_or(u32::MAX).max(1);
        let readers = pool.max_connections(size).connect_with(common.read_only(true)).await.map_err(failed)?;

        let sqlite = Sqlite { writer, readers, incarnation_path: folder.incarnation_path(), _lock: lock };
        let left = folder
            .incarnation()
            .map_err(|error| OpenError(format!("can't read {}: {error}", sqlite.incarnation_path.display())))?;
        let generation = sqlite
            .begin_incarnation(&left)
            .await
            .map_err(|error| OpenError(format!("can't write to the database {place}: {error}")))?;
        Ok(Database::new(Backend::Sqlite(Box::new(sqlite)), generation, options))
    }

    pub async fn read(&self) -> Result<Session, sqlx::Error> {
        Ok(Session::new(Connection::Sqlite(self.readers.acquire().await?)))
    }

    /// The writer; it is alone, so whoever has it waits for nobody.
    pub async fn write(&self) -> Result<Session, sqlx::Error> {
        Ok(Session::new(Connection::Sqlite(self.writer.acquire().await?)))
    }

    /// Leaves a new word in the database and in the data folder. They are compared at every start: a database that was
    /// put back from a copy has an old one, and its history is not the one that clients saw.
    async fn begin_incarnation(&self, left: &[String]) -> Result<Generation, crate::StoreError> {
        let word = random_word()?;
        let mut session = self.write().await?;
        session.begin().await?;
        let rows = session.all::<(String, String)>("SELECT name, value FROM meta", &[]).await?;
        let value = |name: &str| rows.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let mut generation = value("generation").and_then(|g| g.parse().ok()).unwrap_or(1);
        let before = value("incarnation");
        let is_known = before.is_some_and(|before| left.iter().any(|word| word == before));
        if before.is_some() && !is_known {
            generation += 1;
            tracing::warn!(
                generation,
                "the database was put back from a copy, or its data folder is another: clients start over"
            );
        }
        self.write_incarnation(session, generation, &word, before.filter(|_| is_known)).await?;
        Ok(Generation(generation))
    }

    /// `before`: the word in the database, if it is the one that the folder has.
    async fn write_incarnation(
        &self,
        mut session: Session,
        generation: i64,
        word: &str,
        before: Option<&str>,
    ) -> Result<(), crate::StoreError> {
        use crate::session::Arg::Text;
        let sql = "INSERT INTO meta (name, value) VALUES ('generation', $1), ('incarnation', $2)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        session.execute(sql, &[Text(&generation.to_string()), Text(word)]).await?;
        // Two files can't change at once: a process that ends in between must not have everyone start over.
        self.leave(before.map_or(word.to_owned(), |before| format!("{word}\n{before}"))).await?;
        session.commit().await?;
        match before {
            Some(_) => self.leave(word.to_owned()).await,
            None => Ok(()),
        }
    }

    async fn leave(&self, words: String) -> Result<(), crate::StoreError> {
        let path = self.incarnation_path.clone();
        let written = tokio::task::spawn_blocking(move || write_durably(&path, &words)).await;
        let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let path = self.incarnation_path.display();
        written.map_err(|error| crate::StoreError(format!("can't write {path}: {error}")))
    }

    /// A new word at the end as well: a copy made while the server ran, and put back after it stopped, is noticed too.
    pub async fn close(&self, generation: Generation) {
        let word = async {
            let word = random_word()?;
            let mut session = self.write().await?;
            session.begin().await?;
            let sql = "SELECT value FROM meta WHERE name = 'incarnation'";
            let before = session.all::<(String,)>(sql, &[]).await?.pop();
            self.write_incarnation(session, generation.0, &word, before.as_ref().map(|(word,)| word.as_str())).await
        };
        if let Err(error) = word.await {
            tracing::warn!(%error, "could not mark the database as closed");
        }
        // The writer last: the connection that closes last writes the WAL back and removes it.
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Copies a database into a new file, as of one moment. Reads only, so it works beside the process that writes.
pub(crate) async fn backup(path: &Path, to: &Path) -> Result<(), OpenError> {
    let place = path.display();
    let failed = |error: sqlx::Error| {
        OpenError(format!("can't copy the database {place} to {}: {}", to.display(), one_line(&error)))
    };
    if !path.is_file() {
        return Err(OpenError(format!("there is no database {place}; say with --data or --database where it is")));
    }
    let Some(text) = to.to_str() else { return Err(OpenError(format!("{} is no UTF-8 text", to.display()))) };
    // SQLite would write into an empty file, and refuse another with less of a reason.
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    made.map_err(|error| OpenError(format!("can't make {}: {error}", to.display())))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging();
    let copied = async {
        let mut connection = options.connect().await?;
        sqlx::query("VACUUM INTO $1").bind(text).execute(&mut connection).await?;
        connection.close().await?;
        // A word that no data folder has: put back, the copy is noticed even if this start was the last one.
        let mut copy = SqliteConnectOptions::new().filename(to).disable_statement_logging().connect().await?;
        let sql = "INSERT INTO meta (name, value) VALUES ('incarnation', 'a copy')
            ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(sql).execute(&mut copy).await?;
        copy.close().await
    };
    let copied: Result<(), sqlx::Error> = copied.await;
    let synced = copied.map_err(failed).and_then(|()| {
        File::open(to)
            .and_then(|file| file.sync_all())
            .map_err(|error| OpenError(format!("can't make sure that {} is on disk: {error}", to.display())))
    });
    if synced.is_err() {
        let _ = fs::remove_file(to);
    }
    synced
}

/// Makes the file (mode 0600, as then are those that SQLite makes beside it) or makes sure that it is ours, and gives its
/// absolute path.
async fn prepare_file(path: &Path) -> Result<PathBuf, OpenError> {
    let place = path.display();
    let failed = |error: std::io::Error| OpenError(format!("can't open the database {place}: {error}"));
    let opened = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = opened.map_err(failed)?;
    let path = fs::canonicalize(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(std::io::Error::from(ErrorKind::InvalidInput)));
    }
    match header(file).map_err(failed)? {
        Header::Empty => {
            // In its own transaction and not yet in WAL mode, so that it is in the file whatever happens next.
            let options = SqliteConnectOptions::new().filename(&path).disable_statement_logging();
            let mark = async {
                let mut connection = options.connect().await?;
                let sql = format!("PRAGMA application_id = {APPLICATION_ID}");
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
                connection.close().await
            };
            let marked: Result<(), sqlx::Error> = mark.await;
            marked.map_err(|error| OpenError(format!("can't open the database {place}: {}", one_line(&error))))?;
        }
        Header::Ours => {}
        Header::Foreign => {
            return Err(OpenError(format!("{place} is not a database of uproar; give another path with --database")));
        }
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    }
    Ok(path)
}

enum Header {
    Empty,
    Ours,
    Foreign,
}

/// <https://www.sqlite.org/fileformat2.html#the_database_header>
fn header(mut file: File) -> std::io::Result<Header> {
    let mut header = Vec::new();
    file.by_ref().take(100).read_to_end(&mut header)?;
    Ok(match header.get(68..72) {
        None if header.is_empty() => Header::Empty,
        Some(id) if header.starts_with(b"SQLite format 3\0") && id == APPLICATION_ID.to_be_bytes() => Header::Ours,
        _ => Header::Foreign,
    })
}
