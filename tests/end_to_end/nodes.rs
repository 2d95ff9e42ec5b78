//! Servers that share a database and a signing key.

use crate::databases::new_postgres_database;
use crate::server::{DRIVER_VARIABLE, Server, Setup};
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

/// Nodes that run together.
pub struct Cluster {
    pub nodes: Vec<Server>,
    url: String,
}

/// The setup of one node on this database. All have the same key. Only the first one chooses its driver: together the
/// tests of clusters start more rings than some machines have memory for.
pub fn node_setup(url: &str, name: &str, options: &[&str]) -> Setup {
    let mut setup =
        Setup::with_database(Some(url.to_owned()), &[&["--bus", "postgres", "--node", name], options].concat());
    if name != "a" && std::env::var_os(DRIVER_VARIABLE).is_none() {
        setup.add_options(&["--driver", "epoll"]);
    }
    DirBuilder::new().mode(0o700).create(setup.data()).expect("a data folder");
    let path = setup.data().join("signing.key");
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).expect("a key file");
    file.write_all(&[7; 32]).expect("a key");
    setup
}

impl Cluster {
    /// Starts this many nodes, called a, b, c, and so on, on a new database.
    pub async fn start(count: usize, options: &[&str]) -> Cluster {
        Cluster::start_on(&new_postgres_database().await, count, options).await
    }

    /// The same on this database.
    pub async fn start_on(url: &str, count: usize, options: &[&str]) -> Cluster {
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"].iter().take(count) {
            nodes.push(node_setup(url, name, options).start().await);
        }
        Cluster { nodes, url: url.to_owned() }
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}
