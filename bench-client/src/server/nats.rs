//! A NATS server for the measurements of clusters.

use anyhow::{Result, anyhow};
use std::cell::RefCell;
use tokio::runtime::{Builder, Runtime};
use uproar_store::testing::TestNats;

#[derive(Debug)]
pub struct Nats {
    server: RefCell<TestNats>,
    runtime: Runtime,
}

impl Nats {
    /// Starts NATS on the cores of the calling thread.
    pub fn start() -> Result<Nats> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let server = runtime.block_on(TestNats::start("")).map_err(|error| anyhow!(error))?;
        Ok(Nats { server: RefCell::new(server), runtime })
    }

    pub fn url(&self) -> String {
        self.server.borrow().url()
    }

    /// Ends the server, as `kill -9` does.
    pub fn kill(&self) {
        self.server.borrow_mut().kill();
    }

    /// Starts the server again, on the same port.
    pub fn restart(&self) -> Result<()> {
        self.runtime.block_on(self.server.borrow_mut().restart()).map_err(|error| anyhow!(error))
    }
}
