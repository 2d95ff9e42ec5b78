//! What operators do to a database without a server, or beside one.

use crate::data_folder::DataFolder;
use crate::error::OpenError;
use crate::options::{DatabaseUrl, OpenOptions};
use std::fmt::Arguments;
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
        // The next start begins a new generation, as after a restored backup. It can then use a database that has moved
        // elsewhere, because the other one has another generation.
        DatabaseUrl::Sqlite(path) => {
            let file = folder.incarnation_file();
            file.remove()
                .map_err(|error| OpenError::Lasting(format!("can't remove {}: {error}", file.path().display())))?;
            crate::sqlite::MovedTo::forget(path).await
        }
        DatabaseUrl::Postgres(url) => crate::postgres::restored(url, &options).await,
    }
}

/// Calls `change`, which changes the key that signs tokens and returns its id, while no server uses the database or the
/// data folder, and records the id where nodes compare it.
pub async fn change_key<E: From<OpenError>>(
    url: &DatabaseUrl,
    _folder: &DataFolder,
    options: OpenOptions,
    change: impl FnOnce() -> Result<String, E>,
) -> Result<(), E> {
    match url {
        DatabaseUrl::Sqlite(_) => change().map(drop),
        DatabaseUrl::Postgres(url) => crate::postgres::change_key(url, &options, change).await,
    }
}

/// Moves the SQLite database in the file `from` to the empty PostgreSQL database at `to`. No server may use either.
/// `data`: the data folder. `say` gets lines about the progress.
pub async fn migrate(
    from: &Path,
    data: &Path,
    to: &DatabaseUrl,
    options: OpenOptions,
    say: &dyn Fn(Arguments<'_>),
) -> Result<(), OpenError> {
    let DatabaseUrl::Postgres(url) = to else {
        return Err(OpenError::Lasting(
            "the database to move to must be PostgreSQL; name it with --database postgres://…".to_owned(),
        ));
    };
    // Before a data folder is created by mistake.
    if !from.is_file() {
        return Err(OpenError::Lasting(format!(
            "there is no database {}; name it with --data or --from",
            from.display()
        )));
    }
    let folder = DataFolder::open(data)?;
    crate::migrate::migrate(from, &folder, url, &options, say).await
}
