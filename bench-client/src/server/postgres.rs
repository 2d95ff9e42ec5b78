//! A PostgreSQL server for the benchmarks, with default settings, so that a commit reaches the disk.

use anyhow::{Result, anyhow};
use tokio::runtime::{Builder, Runtime};
use uproar_store::testing::TestPostgres;

#[derive(Debug)]
pub struct Postgres {
    server: TestPostgres,
    runtime: Runtime,
}

impl Postgres {
    /// Starts PostgreSQL on the cores of the calling thread.
    pub fn start() -> Result<Postgres> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let server = runtime.block_on(TestPostgres::start_durable()).map_err(|error| anyhow!(error))?;
        Ok(Postgres { server, runtime })
    }

    /// Creates an empty database. Returns its URL.
    pub fn create_database(&self) -> Result<String> {
        self.runtime.block_on(self.server.create_database()).map_err(|error| anyhow!(error))
    }

    /// Runs statements in a database, as its superuser.
    pub fn execute(&self, url: &str, sql: &str) -> Result<()> {
        self.runtime.block_on(self.server.execute(url, sql)).map_err(|error| anyhow!(error))
    }

    /// What a database takes on disk, in bytes.
    pub fn database_bytes(&self, url: &str) -> Result<u64> {
        self.runtime.block_on(self.server.database_bytes(url)).map_err(|error| anyhow!(error))
    }

    /// The id of its main process, if it was started here.
    pub fn process(&self) -> Option<u32> {
        self.server.process()
    }

    /// Its major version.
    pub fn version(&self) -> Option<String> {
        self.server.version()
    }
}
