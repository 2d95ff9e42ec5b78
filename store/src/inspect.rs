//! Looks at a data folder and a database without changing them, beside a server or without one.

use crate::error::OpenError;
use crate::migrations;
use crate::options::{DatabaseUrl, OpenOptions};
use std::path::Path;

/// What a data folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FolderState {
    /// It does not exist, or is empty. The first start creates what it needs.
    New,
    /// No server uses it.
    Free,
    /// A server uses it, such as "process 12".
    InUse(String),
}

/// What a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseState {
    /// What it is and where, such as `PostgreSQL 17.2 at db.example:5432/chat`. Never with a password.
    pub description: String,
    pub schema: Schema,
    /// The server that uses it, if one does.
    pub used_by: Option<String>,
    /// The id of the signing key that a node must have, if that is decided already.
    pub key_id: Option<String>,
}

/// How far the schema of a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The last migration that was applied. `None`: the database has none of our tables yet.
    pub version: Option<i64>,
    /// The last migration of this build, which the next start brings the database to, unless a newer release has
    /// brought it further already.
    pub newest: i64,
}

/// A node, as it has registered itself in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    pub name: String,
    pub version: String,
    /// By the database's clock, in UTC, such as `2026-11-30 17:05:00`.
    pub started: String,
    /// How long ago it last said that it is alive, in milliseconds.
    pub beat_age_ms: u64,
    /// That is so long ago that the others take it for lost.
    pub is_silent: bool,
}

/// The nodes that use the database at `url`, by name.
///
/// # Errors
/// If it is no PostgreSQL database, or can't be read.
pub async fn nodes(url: &DatabaseUrl, options: &OpenOptions) -> Result<Vec<NodeRow>, OpenError> {
    match url {
        DatabaseUrl::Sqlite(_) => Err(OpenError::Lasting(
            "several nodes need PostgreSQL; name their database with --database postgres://…".to_owned(),
        )),
        DatabaseUrl::Postgres(url) => crate::postgres::nodes(url, options).await,
    }
}

/// Looks at the database at `url`. `folder`: the data folder, which need not exist.
///
/// # Errors
/// Why a server could not use it, as far as that can be seen without a change.
pub async fn database(url: &DatabaseUrl, folder: &Path, options: &OpenOptions) -> Result<DatabaseState, OpenError> {
    match url {
        DatabaseUrl::Sqlite(path) => crate::sqlite::inspect(path, folder, options).await,
        DatabaseUrl::Postgres(url) => crate::postgres::inspect(url, options).await,
    }
}

impl Schema {
    /// Whether a start leaves the schema as it is.
    pub fn is_current(&self) -> bool {
        self.version >= Some(self.newest)
    }

    /// The schema of a database without any of our tables.
    pub(crate) fn missing(migrations: &[migrations::Migration]) -> Schema {
        Schema { version: None, newest: migrations::newest(migrations) }
    }
}
