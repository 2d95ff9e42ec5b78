//! What operators do to a database without a server, or beside one.

use crate::data_folder::DataFolder;
use crate::error::OpenError;
use crate::options::{DatabaseUrl, OpenOptions};
use std::path::Path;

/// Copies the SQLite database at `url` into the new file `to`, as of one moment. A server may be running.
pub async fn backup(url: &DatabaseUrl, to: &Path) -> Result<(), OpenError> {
    match url {
        DatabaseUrl::Sqlite(path) => crate::sqlite::backup(path, to).await,
        DatabaseUrl::Postgres(_) => Err(OpenError::Lasting(
            "this command copies only SQLite databases; back up PostgreSQL with pg_dump or pg_basebackup".to_owned(),
        )),
    }
}

/// Makes all clients start over, for a restore that Uproar can't notice by itself. No server may be running.
pub async fn restored(url: &DatabaseUrl, folder: &DataFolder, options: OpenOptions) -> Result<(), OpenError> {
    match url {
        DatabaseUrl::Sqlite(path) if !path.is_file() => Err(crate::sqlite::no_database(path)),
        // The next start begins a new generation, as after a restored backup.
        DatabaseUrl::Sqlite(_) => {
            let file = folder.incarnation_file();
            file.remove()
                .map_err(|error| OpenError::Lasting(format!("can't remove {}: {error}", file.path().display())))
        }
        DatabaseUrl::Postgres(url) => crate::postgres::restored(url, &options).await,
    }
}
