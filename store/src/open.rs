//! Opens a store.

use crate::data_folder::DataFolder;
use crate::database::{Backend, Database};
use crate::error::OpenError;
use crate::options::{DatabaseUrl, OpenOptions};
use crate::postgres::Postgres;
use crate::sqlite::Sqlite;
use crate::store::Store;
use std::sync::Arc;

/// Opens the database, brings its schema up to date, and makes sure that no other process uses it.
pub async fn open(url: &DatabaseUrl, folder: &DataFolder, options: OpenOptions) -> Result<Arc<dyn Store>, OpenError> {
    let backend = match url {
        DatabaseUrl::Sqlite(path) if options.node.is_some() => {
            return Err(OpenError::Lasting(format!(
                "--bus needs PostgreSQL, but the database is the SQLite file {}; name another one with --database \
                 postgres://…, or leave --bus out",
                path.display()
            )));
        }
        DatabaseUrl::Sqlite(path) => Backend::Sqlite(Box::new(Sqlite::open(path, folder, &options).await?)),
        DatabaseUrl::Postgres(url) => Backend::Postgres(Box::new(Postgres::open(url, &options).await?)),
    };
    let database = Database::new(backend, &options);
    database.update_names().await?;
    Ok(Arc::new(database))
}
