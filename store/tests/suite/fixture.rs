//! A database of its own on the test server, which a case opens as often as it likes.

use crate::harness::{World, message, new};
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use uproar_model::{RoomId, UserId};
use uproar_store::testing::TestPostgres;
use uproar_store::{DataFolder, OpenError, OpenOptions, Store, open};

pub const SOON: Duration = Duration::from_secs(30);

/// Ends all other sessions of the database.
pub const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

pub struct Fixture {
    pub url: String,
    pub folder: DataFolder,
    pub _directory: TempDir,
}

impl Fixture {
    pub async fn new(server: &TestPostgres) -> Fixture {
        let directory = TempDir::new().unwrap();
        let folder = DataFolder::open(directory.path().join("data")).unwrap();
        Fixture { url: server.create_database().await.unwrap(), folder, _directory: directory }
    }

    pub async fn try_open(&self, options: OpenOptions) -> Result<Arc<dyn Store>, OpenError> {
        open(&self.url.parse().unwrap(), &self.folder, options).await
    }

    pub async fn open(&self) -> Arc<dyn Store> {
        self.try_open(OpenOptions::default()).await.unwrap()
    }

    /// Opens the database as the node with this name.
    pub async fn open_node(&self, name: &str) -> Arc<dyn Store> {
        self.try_open(OpenOptions { node: Some(name.to_owned()), ..OpenOptions::default() }).await.unwrap()
    }

    pub async fn open_error(&self) -> String {
        self.open_error_with(OpenOptions::default()).await
    }

    pub async fn open_error_with(&self, options: OpenOptions) -> String {
        let error = self.try_open(options).await.err().expect("an error").to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    pub async fn shell(&self) -> PgConnection {
        self.url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
    }
}

pub async fn run(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

/// A room with one message.
pub async fn create_lobby(store: &Arc<dyn Store>) -> (RoomId, UserId) {
    let world = World::of(Arc::clone(store));
    let ann = world.user("Ann").await;
    let room = world.public_room("lobby", ann).await.id;
    new(world.append_one(message(room, ann, "first", "x")).await);
    (room, ann)
}
