//! One connection, borrowed for one call: the few things that the calls ask of either database, so that what is the
//! same on both is written once. SQL with `$1` … `$n` means the same to both.

use crate::StoreError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{FromRow, Postgres, Sqlite};
use std::time::{SystemTime, UNIX_EPOCH};
use uproar_model::RoomId;

/// A value for a placeholder.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg<'a> {
    Int(i64),
    Text(&'a str),
    /// A text or NULL.
    Maybe(Option<&'a str>),
    /// An array; JSON on SQLite.
    Ints(&'a [i64]),
    /// An array; JSON on SQLite.
    Texts(&'a [&'a str]),
}

/// A row that either database can give. Tuples are.
pub(crate) trait Row: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}
impl<T> Row for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

pub(crate) enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// A connection on which nothing is left behind: given up on in the middle of a statement or of a transaction, it is
/// closed instead of going back to its pool, and the database rolls back what was not committed.
pub(crate) struct Session {
    connection: Connection,
    /// A statement has begun and its end was not seen.
    in_statement: bool,
    in_transaction: bool,
}

impl Session {
    pub fn new(connection: Connection) -> Session {
        Session { connection, in_statement: false, in_transaction: false }
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.connection, Connection::Postgres(_))
    }

    /// Begins a transaction that may write.
    pub async fn begin(&mut self) -> Result<(), sqlx::Error> {
        self.in_transaction = true;
        match &self.connection {
            // Deferred, it could fail when it turns into a writer.
            Connection::Sqlite(_) => self.execute("BEGIN IMMEDIATE", &[]).await?,
            Connection::Postgres(_) => self.execute("BEGIN ISOLATION LEVEL READ COMMITTED", &[]).await?,
        };
        Ok(())
    }

    pub async fn commit(&mut self) -> Result<(), sqlx::Error> {
        self.execute("COMMIT", &[]).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Rolls back; where that fails, the connection is closed, which does the same.
    pub async fn rollback(mut self) {
        if self.execute("ROLLBACK", &[]).await.is_ok() {
            self.in_transaction = false;
        }
    }

    /// Commits what went well, rolls back what did not.
    pub async fn finish<T, E: From<StoreError>>(mut self, result: Result<T, E>) -> Result<T, E> {
        match result {
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
        self.in_statement = true;
        let rows = match &mut self.connection {
            Connection::Sqlite(c) => {
                let rows = sqlite(sql, args).fetch_all(&mut **c).await;
                rows.and_then(|rows| rows.iter().map(T::from_row).collect())
            }
            Connection::Postgres(c) => {
                let rows = postgres(sql, args).fetch_all(&mut **c).await;
                rows.and_then(|rows| rows.iter().map(T::from_row).collect())
            }
        };
        self.end_of_statement(&rows);
        rows
    }

    /// The first row, if any.
    pub async fn optional<T: Row>(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<Option<T>, sqlx::Error> {
        Ok(self.all(sql, args).await?.into_iter().next())
    }

    /// How many rows were changed.
    pub async fn execute(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, sqlx::Error> {
        self.in_statement = true;
        let changed = match &mut self.connection {
            Connection::Sqlite(c) => sqlite(sql, args).execute(&mut **c).await.map(|done| done.rows_affected()),
            Connection::Postgres(c) => postgres(sql, args).execute(&mut **c).await.map(|done| done.rows_affected()),
        };
        self.end_of_statement(&changed);
        changed
    }

    /// A database that answered, with whatever, is not in the middle of a statement; any other error leaves that open.
    fn end_of_statement<T>(&mut self, result: &Result<T, sqlx::Error>) {
        self.in_statement = !matches!(result, Ok(_) | Err(sqlx::Error::Database(_)));
    }

    /// Unix milliseconds of the database's clock.
    pub async fn now(&mut self) -> Result<i64, sqlx::Error> {
        match self.connection {
            Connection::Sqlite(_) => Ok(unix_millis()),
            Connection::Postgres(_) => {
                let now = "SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)";
                let (now,) = self.optional(now, &[]).await?.ok_or(sqlx::Error::RowNotFound)?;
                Ok(now)
            }
        }
    }

    /// Waits for the append that is under way in a room, and keeps others from beginning. False: there is no such room.
    /// Whoever needs both takes this lock before that of `lock_room`. SQLite's writer is alone anyway.
    pub async fn lock_head(&mut self, room: RoomId) -> Result<bool, sqlx::Error> {
        let sql = match self.connection {
            Connection::Sqlite(_) => "SELECT room_id FROM heads WHERE room_id = $1",
            Connection::Postgres(_) => "SELECT room_id FROM heads WHERE room_id = $1 FOR NO KEY UPDATE",
        };
        Ok(self.optional::<(i64,)>(sql, &[Arg::Int(room.0)]).await?.is_some())
    }

    /// Keeps others from changing a room's members. False: there is no such room (any more).
    /// Taken before any row of `members` comes or goes, and in ascending order where there are several. Read markers move
    /// without it: they wait for nothing but the rows themselves.
    pub async fn lock_room(&mut self, room: RoomId) -> Result<bool, sqlx::Error> {
        let sql = match self.connection {
            Connection::Sqlite(_) => "SELECT id FROM rooms WHERE id = $1 AND name IS NOT NULL",
            Connection::Postgres(_) => "SELECT id FROM rooms WHERE id = $1 AND name IS NOT NULL FOR NO KEY UPDATE",
        };
        Ok(self.optional::<(i64,)>(sql, &[Arg::Int(room.0)]).await?.is_some())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.in_statement || self.in_transaction {
            match &mut self.connection {
                Connection::Sqlite(c) => c.close_on_drop(),
                Connection::Postgres(c) => c.close_on_drop(),
            }
        }
    }
}

fn sqlite<'q>(sql: &'static str, args: &[Arg<'_>]) -> Query<'q, Sqlite, SqliteArguments> {
    args.iter().fold(sqlx::query(sql), |query, arg| match *arg {
        Arg::Int(int) => query.bind(int),
        Arg::Text(text) => query.bind(text.to_owned()),
        Arg::Maybe(text) => query.bind(text.map(str::to_owned)),
        Arg::Ints(ints) => query.bind(json(&ints)),
        Arg::Texts(texts) => query.bind(json(&texts)),
    })
}

/// Numbers, texts, and arrays and options of them always have a JSON form.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn postgres<'q>(sql: &'static str, args: &[Arg<'_>]) -> Query<'q, Postgres, PgArguments> {
    args.iter().fold(sqlx::query(sql), |query, arg| match *arg {
        Arg::Int(int) => query.bind(int),
        Arg::Text(text) => query.bind(text.to_owned()),
        Arg::Maybe(text) => query.bind(text.map(str::to_owned)),
        Arg::Ints(ints) => query.bind(ints.to_vec()),
        Arg::Texts(texts) => query.bind(texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()),
    })
}

/// The process's clock, which is SQLite's.
pub(crate) fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
