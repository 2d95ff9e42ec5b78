//! One database connection, borrowed from a pool for one call, with the few operations that calls need of either
//! database. Queries that are the same on both are therefore written once: SQL with `$1` … `$n` means the same to both.

use crate::error::StoreError;
use crate::generation::DatabaseGeneration;
use crate::postgres::{Lent, ends_session, keeps_session};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{FromRow, Postgres, Sqlite};
use std::time::{SystemTime, UNIX_EPOCH};
use uproar_model::Offset;

/// The time by the database's clock in Unix milliseconds, as an expression for SQL.
macro_rules! now_sql {
    (sqlite) => {
        "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)"
    };
    (postgres) => {
        "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)"
    };
}

/// A value for a placeholder.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg<'a> {
    Int(i64),
    /// A number or NULL.
    MaybeInt(Option<i64>),
    Text(&'a str),
    /// A text or NULL.
    Maybe(Option<&'a str>),
    /// An array; JSON on SQLite.
    Ints(&'a [i64]),
    /// An array; JSON on SQLite.
    Texts(&'a [&'a str]),
}

/// A row of either database, such as a tuple.
pub(crate) trait Row: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}
impl<T> Row for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

pub(crate) enum Pooled {
    Sqlite(PoolConnection<Sqlite>, DatabaseGeneration),
    Postgres(Lent),
}

/// A connection that returns to its pool only when it is clean. If a call is abandoned in the middle of a statement or
/// of a transaction, the connection is closed instead, and the database rolls back what was not committed.
pub(crate) struct DbConnection {
    pooled: Pooled,
    /// A statement has begun, and its end was not seen.
    in_statement: bool,
    in_transaction: bool,
    /// A statement was sent.
    is_used: bool,
}

impl DbConnection {
    pub fn new(pooled: Pooled) -> DbConnection {
        DbConnection { pooled, in_statement: false, in_transaction: false, is_used: false }
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.pooled, Pooled::Postgres(_))
    }

    /// The generation of the database that this connection leads to. With PostgreSQL it is known once a statement has
    /// run: the first one may get another session.
    pub fn generation(&self) -> DatabaseGeneration {
        match &self.pooled {
            Pooled::Sqlite(_, generation) => *generation,
            Pooled::Postgres(session) => session.generation(),
        }
    }

    /// Begins a transaction that may write.
    pub async fn begin(&mut self) -> Result<(), sqlx::Error> {
        self.in_transaction = true;
        match &self.pooled {
            // A deferred transaction could fail at its first write.
            Pooled::Sqlite(..) => self.execute("BEGIN IMMEDIATE", &[]).await?,
            Pooled::Postgres(_) => self.execute("BEGIN ISOLATION LEVEL READ COMMITTED", &[]).await?,
        };
        Ok(())
    }

    pub async fn commit(&mut self) -> Result<(), sqlx::Error> {
        self.execute("COMMIT", &[]).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Rolls back. If that fails, the connection is closed, which has the same effect.
    pub async fn rollback(mut self) {
        if self.execute("ROLLBACK", &[]).await.is_ok() {
            self.in_transaction = false;
        }
    }

    /// Ends the transaction in which a call had this result, if it had one: commits if it is `Ok`, otherwise rolls
    /// back.
    pub async fn finish<T, E: From<StoreError>>(mut self, result: Result<T, E>) -> Result<T, E> {
        match result {
            result if !self.in_transaction => result,
            Ok(value) => {
                self.commit().await.map_err(StoreError::from)?;
                Ok(value)
            }
            Err(error) => {
                self.rollback().await;
                Err(error)
            }
        }
    }

    /// All rows.
    pub async fn all<T: Row>(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<Vec<T>, sqlx::Error> {
        let rows = self.try_all(sql, args).await;
        if self.has_other_session(&rows).await { self.try_all(sql, args).await } else { rows }
    }

    async fn try_all<T: Row>(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<Vec<T>, sqlx::Error> {
        self.in_statement = true;
        let rows = match &mut self.pooled {
            Pooled::Sqlite(connection, _) => {
                let rows = sqlite_query(sql, args).fetch_all(&mut **connection).await;
                rows.and_then(|rows| rows.iter().map(T::from_row).collect())
            }
            Pooled::Postgres(connection) => {
                let rows = postgres_query(sql, args).fetch_all(&mut **connection).await;
                rows.and_then(|rows| rows.iter().map(T::from_row).collect())
            }
        };
        self.end_statement(&rows);
        rows
    }

    /// The first row, if any.
    pub async fn optional<T: Row>(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<Option<T>, sqlx::Error> {
        Ok(self.all(sql, args).await?.into_iter().next())
    }

    /// Returns the number of rows changed.
    pub async fn execute(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, sqlx::Error> {
        let changed = self.try_execute(sql, args).await;
        if self.has_other_session(&changed).await { self.try_execute(sql, args).await } else { changed }
    }

    async fn try_execute(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, sqlx::Error> {
        self.in_statement = true;
        let changed = match &mut self.pooled {
            Pooled::Sqlite(connection, _) => {
                sqlite_query(sql, args).execute(&mut **connection).await.map(|done| done.rows_affected())
            }
            Pooled::Postgres(connection) => {
                postgres_query(sql, args).execute(&mut **connection).await.map(|done| done.rows_affected())
            }
        };
        self.end_statement(&changed);
        changed
    }

    /// Gets another session with PostgreSQL if this one had ended since its last use. Then the first statement of a
    /// call fails, which is a read, `BEGIN`, or a change that is the same if it is made twice: it can be sent again.
    async fn has_other_session<T>(&mut self, result: &Result<T, sqlx::Error>) -> bool {
        let is_first = !std::mem::replace(&mut self.is_used, true);
        match (&mut self.pooled, result) {
            (Pooled::Postgres(session), Err(error)) if is_first && ends_session(error) => {
                session.replace().await.is_ok()
            }
            _ => false,
        }
    }

    /// A database that answered, even with an error, is done with the statement. After any other error it may not be.
    fn end_statement<T>(&mut self, result: &Result<T, sqlx::Error>) {
        self.in_statement = !matches!(result, Ok(_) | Err(sqlx::Error::Database(_)));
        if let (Pooled::Postgres(session), Err(error)) = (&mut self.pooled, result)
            && !keeps_session(error)
        {
            session.close_on_drop();
        }
    }

    /// Unix milliseconds by the database's clock.
    pub async fn now(&mut self) -> Result<i64, sqlx::Error> {
        match self.pooled {
            Pooled::Sqlite(..) => Ok(unix_millis()),
            Pooled::Postgres(_) => {
                let (now,) = self
                    .optional(concat!("SELECT ", now_sql!(postgres)), &[])
                    .await?
                    .ok_or(sqlx::Error::RowNotFound)?;
                Ok(now)
            }
        }
    }
}

impl Drop for DbConnection {
    fn drop(&mut self) {
        if self.in_statement || self.in_transaction {
            match &mut self.pooled {
                Pooled::Sqlite(connection, _) => connection.close_on_drop(),
                Pooled::Postgres(connection) => connection.close_on_drop(),
            }
        }
    }
}

fn sqlite_query<'q>(sql: &'static str, args: &[Arg<'_>]) -> Query<'q, Sqlite, SqliteArguments> {
    args.iter().fold(sqlx::query(sql), |query, arg| match *arg {
        Arg::Int(int) => query.bind(int),
        Arg::MaybeInt(int) => query.bind(int),
        Arg::Text(text) => query.bind(text.to_owned()),
        Arg::Maybe(text) => query.bind(text.map(str::to_owned)),
        Arg::Ints(ints) => query.bind(json(&ints)),
        Arg::Texts(texts) => query.bind(json(&texts)),
    })
}

/// For numbers, texts, and arrays and options of them, which always have a JSON form.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn postgres_query<'q>(sql: &'static str, args: &[Arg<'_>]) -> Query<'q, Postgres, PgArguments> {
    args.iter().fold(sqlx::query(sql), |query, arg| match *arg {
        Arg::Int(int) => query.bind(int),
        Arg::MaybeInt(int) => query.bind(int),
        Arg::Text(text) => query.bind(text.to_owned()),
        Arg::Maybe(text) => query.bind(text.map(str::to_owned)),
        Arg::Ints(ints) => query.bind(ints.to_vec()),
        Arg::Texts(texts) => query.bind(texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()),
    })
}

/// An offset as the database stores it: one that does not fit becomes the largest that does.
pub(crate) fn offset_arg(offset: Offset) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// Unix milliseconds by the clock of this process, which is also SQLite's.
pub(crate) fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The error for a query that returned another number of rows than it was asked for.
pub(crate) fn wrong_row_count(got: usize, expected: usize) -> StoreError {
    StoreError::Failed(format!("a query returned {got} rows instead of {expected}"))
}
