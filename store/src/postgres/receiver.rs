//! An empty database that receives everything from another one, in one transaction.

use super::failures::{Target, ends_session};
use super::guard::{Held, Taker};
use super::migrate::migrate_vacancy;
use super::setup::{WEAK_COMMIT, connect_options};
use super::take;
use crate::error::{OpenError, one_line};
use crate::generation::{self, DatabaseGeneration};
use crate::options::OpenOptions;
use crate::sum::Sum;
use crate::tables::{TABLES, Table};
use futures_util::TryStreamExt;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, PgTransaction};
use std::time::Duration;
use tokio::time::timeout;

/// How long PostgreSQL may take for one step: to store a few thousand rows, to send the next ones, or to commit.
const STEP_TIMEOUT: Duration = Duration::from_secs(300);

/// For this transaction: no limits that the role or the database may have set, a commit that can't be lost when it is
/// acknowledged, and rows that are read by their keys.
fn settings() -> String {
    format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0;
         SET LOCAL idle_in_transaction_session_timeout = 0;
         SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout';
         SELECT set_config('synchronous_commit', 'on', true) WHERE {WEAK_COMMIT};
         SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL jit = off"
    )
}

/// The lock of a database, which nobody else uses while this value lives.
pub(crate) struct Vacancy {
    held: Held,
    target: Target,
}

impl Vacancy {
    pub async fn take(url: &str, options: &OpenOptions) -> Result<Vacancy, OpenError> {
        let connect = connect_options(url)?.application_name("uproar migrate");
        let target = Target::of(&connect);
        let held = take(&connect, &target, options, Taker::Command).await?;
        Ok(Vacancy { held, target })
    }

    /// Where the database is, for messages.
    pub fn address(&self) -> &str {
        &self.target.address
    }

    /// The generation of a database that holds users or rooms. `None`: it holds neither.
    pub async fn occupant(&mut self) -> Result<Option<DatabaseGeneration>, OpenError> {
        let occupant = async {
            let connection = &mut self.held.connection;
            let sql = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL AND to_regclass('meta') IS NOT NULL";
            if !sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut *connection).await? || is_empty(connection).await? {
                return Ok(None);
            }
            let sql = "SELECT value FROM meta WHERE name = 'generation'";
            let text: Option<String> = sqlx::query_scalar(sql).fetch_optional(connection).await?;
            Ok(Some(generation::parse(text.as_deref())))
        };
        within_step(&self.target, occupant).await
    }

    /// Begins the transaction, and creates or updates the tables in it.
    pub async fn begin(&mut self) -> Result<Receiver<'_>, OpenError> {
        let Vacancy { held, target } = self;
        let connection = &mut held.connection;
        let begun = async move {
            let mut transaction = connection.begin().await?;
            transaction.execute(AssertSqlSafe(settings())).await?;
            Ok(transaction)
        };
        let mut transaction = within_step(target, begun).await?;
        migrate_vacancy(&mut transaction, target).await?;
        let mut receiver = Receiver { transaction, target };
        // A row of `members` brings its row of `user_rooms`, but these come by themselves.
        receiver.run("ALTER TABLE members DISABLE TRIGGER user_rooms_joined").await?;
        Ok(receiver)
    }
}

/// Whether a database with a schema, maybe an older one, holds no data.
async fn is_empty(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    for table in &TABLES {
        let exists = sqlx::query_scalar::<_, bool>("SELECT to_regclass($1) IS NOT NULL").bind(table.name);
        if !exists.fetch_one(&mut *connection).await? {
            continue;
        }
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
        if sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *connection).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) struct Receiver<'a> {
    transaction: PgTransaction<'a>,
    target: &'a Target,
}

impl Receiver<'_> {
    /// Stores rows, which are in the text format of `COPY`.
    pub async fn store(&mut self, table: &Table, rows: &[u8]) -> Result<(), OpenError> {
        let sql = format!("COPY {} ({}) FROM STDIN", table.name, table.columns.join(", "));
        let stored = async {
            let mut copy = self.transaction.copy_in_raw(&sql).await?;
            copy.send(rows).await?;
            copy.finish().await
        };
        within_step(self.target, stored).await.map(drop)
    }

    /// Makes a table give ids above this one.
    pub async fn continue_ids(&mut self, table: &str, last: i64) -> Result<(), OpenError> {
        let next = last + 1;
        self.run(&format!("ALTER TABLE {table} ALTER COLUMN id RESTART WITH {next}")).await
    }

    /// Records what identifies the history, and these rows of `meta`. The migrations have recorded which programs can
    /// use the schema, and the first start records the rest.
    pub async fn record(&mut self, generation: DatabaseGeneration, meta: &[(String, String)]) -> Result<(), OpenError> {
        let recorded = async {
            self.transaction.execute("DELETE FROM meta WHERE name <> 'usable_since'").await?;
            let generation = ("generation".to_owned(), generation.to_string());
            for (name, value) in meta.iter().chain([&generation]) {
                let sql = "INSERT INTO meta (name, value) VALUES ($1, $2)";
                sqlx::query(sql).bind(name).bind(value).execute(&mut *self.transaction).await?;
            }
            Ok(())
        };
        within_step(self.target, recorded).await
    }

    /// The sum of all rows of a table, as they are stored.
    pub async fn sum(&mut self, table: &Table) -> Result<Sum, OpenError> {
        let Receiver { transaction, target } = self;
        let sql = format!("COPY ({}) TO STDOUT", table.select());
        let summed = async {
            let mut rows = within_step(target, transaction.copy_out_raw(&sql)).await?;
            let mut sum = Sum::default();
            while let Some(rows) = within_step(target, rows.try_next()).await? {
                sum.add(&rows);
            }
            Ok(sum)
        };
        summed.await
    }

    /// Makes the database ready for a server, except for the commit.
    pub async fn finish(&mut self) -> Result<(), OpenError> {
        self.run("ALTER TABLE members ENABLE TRIGGER user_rooms_joined").await?;
        // Without statistics, the first queries would be planned badly.
        let names: Vec<_> = TABLES.iter().map(|table| table.name).collect();
        self.run(&format!("ANALYZE {}", names.join(", "))).await
    }

    /// After an error, it is unknown whether the transaction was committed.
    pub async fn commit(self) -> Result<(), OpenError> {
        let Receiver { transaction, target } = self;
        within_step(target, transaction.commit()).await
    }

    async fn run(&mut self, sql: &str) -> Result<(), OpenError> {
        let sql = AssertSqlSafe(sql.to_owned());
        within_step(self.target, self.transaction.execute(sql)).await.map(drop)
    }
}

/// Waits for one step, which must not take forever.
async fn within_step<T>(target: &Target, step: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, OpenError> {
    match timeout(STEP_TIMEOUT, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if ends_session(&error) => {
            let text = format!("lost the connection to PostgreSQL at {}: {}", target.address, one_line(&error));
            Err(OpenError::Away(text))
        }
        Ok(Err(error)) => Err(target.failed(&error)),
        Err(_) => Err(target.no_answer(STEP_TIMEOUT)),
    }
}
