//! A separate database for each test, and a connection by which a test changes it behind the server's back.

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

/// The PostgreSQL server of this process. Its watcher stops it when the process ends.
static POSTGRES: OnceCell<TestPostgres> = OnceCell::const_new();

/// Starts a PostgreSQL server that a test may stop and configure. None: the tests use a server that they did not start.
pub async fn private_postgres() -> Option<TestPostgres> {
    if std::env::var("UPROAR_TEST_POSTGRES").is_ok_and(|url| url.contains("://")) {
        eprintln!("skipped: the tests may not stop or configure the PostgreSQL server that UPROAR_TEST_POSTGRES names");
        return None;
    }
    Some(TestPostgres::start().await.unwrap_or_else(|error| panic!("{error}")))
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

    /// Blocks all commits of messages until [`Backdoor::release_commits`] or the end of this connection.
    pub async fn hold_commits(&mut self) {
        let sql = match self {
            Backdoor::Sqlite(_) => "BEGIN IMMEDIATE",
            Backdoor::Postgres(_) => "BEGIN; SELECT 1 FROM heads FOR UPDATE",
        };
        self.execute(sql).await;
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
             VALUES (9999, 'of the future', true, {checksum}, 0)"
        ))
        .await;
    }
}
