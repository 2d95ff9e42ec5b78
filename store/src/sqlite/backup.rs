//! A copy of a database, made beside a running server.

use super::BUSY_TIMEOUT;
use crate::error::{OpenError, one_line};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Copies a database into a new file, as of one moment. It only reads the database, so a server may be writing to it.
pub(crate) async fn backup(path: &Path, to: &Path) -> Result<(), OpenError> {
    let failed = |error: sqlx::Error| {
        OpenError::Lasting(format!(
            "can't copy the database {} to {}: {}",
            path.display(),
            to.display(),
            one_line(&error)
        ))
    };
    if !path.is_file() {
        return Err(no_database(path));
    }
    let Some(text) = to.to_str() else {
        return Err(OpenError::Lasting(format!("can't copy to {}: the path is not valid UTF-8", to.display())));
    };
    // SQLite itself would accept an existing empty file, and reject any other with a less helpful error.
    let created = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    created.map_err(|error| OpenError::Lasting(format!("can't create {}: {error}", to.display())))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging();
    let copied = async {
        let mut connection = options.connect().await?;
        sqlx::query("VACUUM INTO $1").bind(text).execute(&mut connection).await?;
        connection.close().await?;
        // An incarnation that no data folder knows, so that a restore of the copy is noticed even if the start during
        // which it was made was the last one.
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
            .map_err(|error| OpenError::Lasting(format!("can't flush {} to disk: {error}", to.display())))
    });
    if synced.is_err() {
        let _ = fs::remove_file(to);
    }
    synced
}

pub(crate) fn no_database(path: &Path) -> OpenError {
    OpenError::Lasting(format!("there is no database {}; name it with --data or --database", path.display()))
}
