//! The database file: created with the right mode, and recognized as ours.

use super::no_database;
use crate::error::{OpenError, one_line};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// "Uprr", in bytes 68 to 71 of the file: it distinguishes our files from other SQLite databases.
const APPLICATION_ID: u32 = 0x5570_7272;

/// Creates the file, or checks that an existing one is ours, and returns its absolute path. Its mode is 0600, which
/// SQLite also gives to the files that it creates beside it.
pub(super) async fn prepare(path: &Path) -> Result<PathBuf, OpenError> {
    let failed = |error: io::Error| failed(path, error);
    let opened = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = opened.map_err(failed)?;
    let shown = path.display();
    let absolute = fs::canonicalize(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::from(ErrorKind::InvalidInput)));
    }
    match header(file).map_err(failed)? {
        Header::Empty => mark(&absolute)
            .await
            .map_err(|error| OpenError::Lasting(format!("can't open the database {shown}: {}", one_line(&error))))?,
        Header::Ours => {}
        Header::Foreign => return Err(foreign(path)),
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(&absolute, Permissions::from_mode(0o600)).map_err(failed)?;
    }
    Ok(absolute)
}

/// Whose file it is, without changing it.
pub(super) fn recognise(path: &Path) -> io::Result<Header> {
    // Opening a named pipe would wait until something writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::from(ErrorKind::InvalidInput));
    }
    header(File::open(path)?)
}

pub(super) fn failed(path: &Path, error: io::Error) -> OpenError {
    OpenError::Lasting(format!("can't open the database {}: {error}", path.display()))
}

pub(super) fn foreign(path: &Path) -> OpenError {
    let shown = path.display();
    OpenError::Lasting(format!("{shown} is not a database of uproar; name another file"))
}

/// Checks that a file that exists is ours, and returns its absolute path.
pub(super) fn existing(path: &Path) -> Result<PathBuf, OpenError> {
    if !path.is_file() {
        return Err(no_database(path));
    }
    let failed = |error: io::Error| failed(path, error);
    match header(File::open(path).map_err(failed)?).map_err(failed)? {
        Header::Ours => fs::canonicalize(path).map_err(failed),
        Header::Empty | Header::Foreign => Err(foreign(path)),
    }
}

/// Writes the application id, in a transaction of its own and before WAL mode, so that it is in the file whatever
/// happens next.
async fn mark(path: &Path) -> Result<(), sqlx::Error> {
    let mut connection = SqliteConnectOptions::new().filename(path).disable_statement_logging().connect().await?;
    let sql = format!("PRAGMA application_id = {APPLICATION_ID}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await
}

pub(super) enum Header {
    Empty,
    Ours,
    Foreign,
}

/// <https://www.sqlite.org/fileformat2.html#the_database_header>
fn header(mut file: File) -> io::Result<Header> {
    let mut header = Vec::new();
    file.by_ref().take(100).read_to_end(&mut header)?;
    Ok(match header.get(68..72) {
        None if header.is_empty() => Header::Empty,
        Some(id) if header.starts_with(b"SQLite format 3\0") && id == APPLICATION_ID.to_be_bytes() => Header::Ours,
        _ => Header::Foreign,
    })
}
