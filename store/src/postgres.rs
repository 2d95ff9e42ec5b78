//! PostgreSQL.

use crate::database::Database;
use crate::open::OpenOptions;
use crate::session::Session;
use crate::{AppendError, OpenError};
use sqlx::postgres::PgConnectOptions;
use uproar_model::{Item, Outcome};

pub(crate) struct Postgres;

/// Where a database is, without who uses it and the password.
pub(crate) fn place(options: &PgConnectOptions) -> String {
    format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or_default())
}

impl Postgres {
    pub async fn open(_url: &str, _options: &OpenOptions) -> Result<Database, OpenError> {
        Err(OpenError("not yet".to_owned()))
    }
    pub async fn session(&self) -> Result<Session, sqlx::Error> {
        Err(sqlx::Error::PoolClosed)
    }
    pub async fn append(&self, _batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        Err(AppendError::Unknown("not yet".to_owned()))
    }
    pub fn lanes(&self) -> usize {
        1
    }
    pub async fn close(&self) {}
}
