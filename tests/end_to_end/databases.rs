//! A separate database for each test, and a connection by which a test changes it behind the server's back.

use crate::two_nodes::are_two;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use std::path::Path;
use tokio::sync::OnceCell;
use uproar_store::testing::TestPostgres;

/// The database that a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    /// For tests that do not depend on it.
    pub fn any() -> Kind {
        if are_two() { Kind::Postgres } else { Kind::Sqlite }
    }
}

/// The PostgreSQL server of this process. Its watcher stops it when the process ends.
static POSTGRES: OnceCell<TestPostgres> = OnceCell::const_new();

/// Starts a PostgreSQL server that a test may stop and configure. None: the tests use a server that they did not start.
pub async fn private_postgres() -> Option<TestPostgres> {
    if skip_without_own_postgres() {
        return None;
    }
    Some(TestPostgres::start().await.unwrap_or_else(|error| panic!("{error}")))
}

/// Whether the tests use a PostgreSQL server that they did not start. Says that a test is skipped then.
pub fn skip_without_own_postgres() -> bool {
    let is_given = std::env::var("UPROAR_TEST_POSTGRES").is_ok_and(|url| url.contains("://"));
    if is_given {
        eprintln!("skipped: the tests may not stop or configure the PostgreSQL server that UPROAR_TEST_POSTGRES names");
    }
    is_given
}

/// Creates an empty PostgreSQL database and returns its URL.
pub async fn new_postgres_database() -> String {
    let server = POSTGRES.get_or_try_init(TestPostgres::start).await.unwrap_or_else(|error| panic!("{error}"));
    server.create_database().await.unwrap_or_else(|error| panic!("{error}"))
}

/// A connection to a server's database.
pub enum Backdoor {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Backdoor {
    pub async fn sqlite(file: &Path) -> Backdoor {
        let url = format!("sqlite:{}", file.display());
        Backdoor::Sqlite(SqliteConnection::connect(&url).await.unwrap_or_else(|error| panic!("{url}: {error}")))
    }

    pub async fn postgres(url: &str) -> Backdoor {
        Backdoor::Postgres(PgConnection::connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}")))
    }

    /// Runs one or more statements.
    pub async fn execute(&mut self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        let done = match self {
            Backdoor::Sqlite(connection) => connection.execute(sql).await.map(drop),
            Backdoor::Postgres(connection) => connection.execute(sql).await.map(drop),
        };
        done.unwrap_or_else(|error| panic!("the test's own statement fails: {error}"));
    }

    /// Why a statement fails.
    pub async fn refusal(&mut self, sql: &str) -> String {
        let sql = AssertSqlSafe(sql.to_owned());
        let done = match self {
            Backdoor::Sqlite(connection) => connection.execute(sql).await.map(drop),
            Backdoor::Postgres(connection) => connection.execute(sql).await.map(drop),
        };
        done.expect_err("the statement succeeds").to_string()
    }

    /// Blocks all commits of messages until [`Backdoor::release_commits`] or the end of this connection.
    pub async fn hold_commits(&mut self) {
        let sql = match self {
            Backdoor::Sqlite(_) => "BEGIN IMMEDIATE",
            Backdoor::Postgres(_) => "BEGIN; SELECT 1 FROM heads FOR UPDATE",
        };
        self.execute(sql).await;
    }

    /// The publications of a room, in order: offset, sender, id and text.
    pub async fn log(&mut self, room: &str) -> Vec<(i64, String, String, Option<String>)> {
        let sql = "SELECT m.room_offset, u.username, m.client_id, m.body FROM messages m
            JOIN rooms r ON r.id = m.room_id JOIN users u ON u.id = m.user_id WHERE r.name = $1 ORDER BY m.room_offset";
        let rows = match self {
            Backdoor::Sqlite(connection) => sqlx::query_as(sql).bind(room).fetch_all(connection).await,
            Backdoor::Postgres(connection) => sqlx::query_as(sql).bind(room).fetch_all(connection).await,
        };
        rows.unwrap_or_else(|error| panic!("the test's own query fails: {error}"))
    }

    /// The texts that a query returns, in one column.
    pub async fn texts(&mut self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        let rows = match self {
            Backdoor::Sqlite(connection) => sqlx::query_scalar(sql).fetch_all(connection).await,
            Backdoor::Postgres(connection) => sqlx::query_scalar(sql).fetch_all(connection).await,
        };
        rows.unwrap_or_else(|error| panic!("the test's own query fails: {error}"))
    }

    /// Closes the connection, after which a SQLite file is complete.
    pub async fn close(self) {
        let closed = match self {
            Backdoor::Sqlite(connection) => connection.close().await,
            Backdoor::Postgres(connection) => connection.close().await,
        };
        closed.unwrap_or_else(|error| panic!("the test's own connection fails: {error}"));
    }

    pub async fn release_commits(&mut self) {
        self.execute("ROLLBACK").await;
    }

    /// Records a migration that this build does not know.
    pub async fn make_newer(&mut self) {
        let checksum = match self {
            Backdoor::Sqlite(_) => "x'00'",
            Backdoor::Postgres(_) => "'\\x00'",
        };
        self.execute(&format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'of the future', true, {checksum}, 0);
             UPDATE meta SET value = '9999' WHERE name = 'usable_since'"
        ))
        .await;
    }
}
