//! PostgreSQL for the works that need it: of its own, with the default settings, so that a commit is on disk.

use anyhow::{Result, anyhow};
use tokio::runtime::{Builder, Runtime};
use uproar_store::testing::TestPostgres;

#[derive(Debug)]
pub struct Postgres {
    server: TestPostgres,
    runtime: Runtime,
}

impl Postgres {
    /// It runs on the cores of the calling thread.
    pub fn start() -> Result<Postgres> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let server = runtime.block_on(TestPostgres::start_durable()).map_err(|error| anyhow!(error))?;
        Ok(Postgres { server, runtime })
    }

    /// The URL of a new and empty database.
    pub fn create_database(&self) -> Result<String> {
        self.runtime.block_on(self.server.create_database()).map_err(|error| anyhow!(error))
    }

    /// Its first process, where it was started here.
    pub fn process(&self) -> Option<u32> {
        self.server.process()
    }

    /// Its main version.
    pub fn version(&self) -> Option<String> {
        self.server.version()
    }
}
