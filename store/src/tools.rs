//! What operators do to a database without a server: a copy of it, and the word that it was restored.

use crate::open::DatabaseUrl;
use crate::{DataFolder, OpenError, OpenOptions};
use std::path::Path;

/// Copies the SQLite database at `url` into a new file, as of one moment, beside a running server.
pub async fn backup(url: &DatabaseUrl, to: &Path) -> Result<(), OpenError> {
    match url {
        DatabaseUrl::Sqlite(path) => crate::sqlite::backup(path, to).await,
        DatabaseUrl::Postgres(_) => Err(OpenError(
            "a backup of PostgreSQL is made by its own tools, pg_dump or pg_basebackup; this command copies SQLite"
                .to_owned(),
        )),
    }
}

/// The history may have gone back, and Uproar can't have noticed by itself: clients start over. No server may run.
pub async fn restored(url: &DatabaseUrl, folder: &DataFolder, options: OpenOptions) -> Result<(), OpenError> {
    match url {
        // At the next start the word in the database is compared with the one in the folder.
        DatabaseUrl::Sqlite(_) => folder.forget_incarnation(),
        DatabaseUrl::Postgres(url) => crate::postgres::Postgres::restored(url, &options).await,
    }
}
