//! Servers that share a database and a signing key.

use crate::databases::{Backdoor, new_postgres_database};
use crate::server::{DRIVER_VARIABLE, Server, Setup};
use std::fs::{DirBuilder, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use tokio::sync::OnceCell;
use uproar_store::testing::TestNats;

/// What nodes tell each other through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    Postgres,
    Nats,
}

/// The NATS server of this process, which the clusters of many tests share.
static NATS: OnceCell<TestNats> = OnceCell::const_new();

/// Nodes that run together.
pub struct Cluster {
    pub nodes: Vec<Server>,
    url: String,
}

impl Bus {
    /// The value of `--bus`.
    pub async fn option(self) -> String {
        match self {
            Bus::Postgres => "postgres".to_owned(),
            Bus::Nats => nats().await.url(),
        }
    }

    /// Sends something to the nodes on this database.
    pub async fn send(self, backdoor: &mut Backdoor, text: &str) {
        match self {
            Bus::Postgres => {
                backdoor.execute(&format!("SELECT pg_notify('uproar', '{}')", text.replace('\'', "''"))).await
            }
            Bus::Nats => {
                let cluster = backdoor.texts("SELECT value FROM meta WHERE name = 'cluster'").await.remove(0);
                publish(nats().await.port(), &format!("uproar.{cluster}"), text.as_bytes());
            }
        }
    }
}

async fn nats() -> &'static TestNats {
    NATS.get_or_try_init(|| TestNats::start("")).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Publishes one message, and waits until the server has taken it.
pub fn publish(port: u16, subject: &str, message: &[u8]) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection with NATS");
    let head = format!("CONNECT {{\"verbose\":false}}\r\nPUB {subject} {}\r\n", message.len());
    stream.write_all(&[head.as_bytes(), message, b"\r\nPING\r\n"].concat()).expect("NATS takes it");
    let lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
    let line = lines.into_iter().find(|line| !line.starts_with("INFO ")).expect("an answer");
    assert_eq!(line, "PONG");
}

/// The setup of one node on this database. All have the same key. Only the first one chooses its driver: together the
/// tests of clusters start more rings than some machines have memory for.
pub fn node_setup(url: &str, name: &str, options: &[&str]) -> Setup {
    let bus: &[&str] = if options.contains(&"--bus") { &[] } else { &["--bus", "postgres"] };
    let mut setup = Setup::with_database(Some(url.to_owned()), &[bus, &["--node", name], options].concat());
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

    /// The same with this bus.
    pub async fn start_over(bus: Bus, count: usize, options: &[&str]) -> Cluster {
        Cluster::start(count, &[&["--bus", &*bus.option().await], options].concat()).await
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
