//! A cluster of nodes, and the bus between them.

use crate::output::note;
use crate::server::http::Http;
use crate::server::{Environment, Nats, Server};
use anyhow::{Context, Result, bail};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long nodes may take until all of them hear each other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// All nodes of a cluster have one key.
const KEY: [u8; 32] = [7; 32];

/// What carries the announcements between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// PostgreSQL's NOTIFY.
    Postgres,
    /// A NATS server that is started for it.
    Nats,
    /// A NATS server that is already running.
    NatsAt(String),
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Transport, String> {
        match text {
            "postgres" => Ok(Transport::Postgres),
            "nats" => Ok(Transport::Nats),
            url if url.starts_with("nats://") || url.starts_with("tls://") => Ok(Transport::NatsAt(url.to_owned())),
            _ => Err(format!("there is no bus '{text}'; choose postgres, nats or nats://HOST:PORT")),
        }
    }
}

impl Transport {
    /// The value of `--bus`.
    pub fn option(&self, environment: &mut Environment) -> Result<String> {
        match self {
            Transport::Postgres => Ok("postgres".to_owned()),
            Transport::Nats => Ok(environment.nats()?.url()),
            Transport::NatsAt(url) => Ok(url.clone()),
        }
    }

    /// How it is called in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Transport::Postgres => "PostgreSQL",
            Transport::Nats | Transport::NatsAt(_) => "NATS",
        }
    }
}

/// Nodes that share a database of their own.
pub struct Cluster {
    pub nodes: Vec<Server>,
    database: String,
    transport: Transport,
}

impl Cluster {
    /// Starts nodes and waits until each hears all others. `options` are further options of each.
    pub fn start(
        environment: &mut Environment,
        transport: &Transport,
        count: usize,
        options: &[&str],
    ) -> Result<Cluster> {
        let database = environment.postgres()?.create_database()?;
        let bus = transport.option(environment)?;
        let options = [&["--bus", &*bus], options].concat();
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"].into_iter().take(count) {
            let node = environment.start_node(name, &database, &KEY, &options);
            nodes.push(node.with_context(|| format!("the node {name}"))?);
        }
        let cluster = Cluster { nodes, database, transport: transport.clone() };
        cluster.wait_until_connected()?;
        Ok(cluster)
    }

    /// Waits until the bus works on all nodes that have not been killed, and each hears all others.
    pub fn wait_until_connected(&self) -> Result<()> {
        let alive: Vec<&Server> = self.nodes.iter().filter(|node| !node.is_killed()).collect();
        let started = Instant::now();
        for node in &alive {
            loop {
                let metrics = Http::connect(node.address, None)?.text("/metrics")?;
                let value = |name| metric(&metrics, name).with_context(|| format!("the node has no metric {name}"));
                if value("uproar_bus_connected")? == 1.0 && value("uproar_bus_peers")? == alive.len() as f64 - 1.0 {
                    break;
                }
                if started.elapsed() > CONNECT_TIMEOUT {
                    bail!("the nodes do not hear each other after {CONNECT_TIMEOUT:?}");
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        Ok(())
    }

    /// Cuts the bus, but not the database: what nodes announce does not arrive any more.
    pub fn cut_bus(&self, environment: &Environment) -> Result<()> {
        match &self.transport {
            // A node that opens a session after this finds the function that does nothing.
            Transport::Postgres => {
                self.execute(
                    environment,
                    "BEGIN; ALTER FUNCTION pg_catalog.pg_notify(text, text) RENAME TO pg_notify_of_before;
                     CREATE FUNCTION pg_catalog.pg_notify(text, text) RETURNS void LANGUAGE sql AS ''; COMMIT",
                )?;
                self.end_sending_sessions(environment)
            }
            Transport::Nats => environment.running_nats().context("NATS is not running").map(Nats::kill),
            Transport::NatsAt(_) => bail!("a NATS server that was running already is not cut: choose --bus nats"),
        }
    }

    /// Lets the bus work again.
    pub fn restore_bus(&self, environment: &Environment) -> Result<()> {
        match &self.transport {
            Transport::Postgres => {
                self.execute(
                    environment,
                    "BEGIN; DROP FUNCTION pg_catalog.pg_notify(text, text);
                     ALTER FUNCTION pg_catalog.pg_notify_of_before(text, text) RENAME TO pg_notify; COMMIT",
                )?;
                self.end_sending_sessions(environment)
            }
            Transport::Nats => environment.running_nats().context("NATS is not running")?.restart(),
            Transport::NatsAt(_) => Ok(()),
        }
    }

    fn end_sending_sessions(&self, environment: &Environment) -> Result<()> {
        self.execute(
            environment,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%pg_notify(%'",
        )
    }

    fn execute(&self, environment: &Environment, sql: &str) -> Result<()> {
        let postgres = environment.running_postgres().context("PostgreSQL is not running")?;
        postgres.execute(&self.database, sql)
    }

    /// Stops the nodes that have not been killed.
    pub fn stop(self) {
        for node in self.nodes {
            if let Err(error) = node.stop() {
                note(format_args!("{error:#}"));
            }
        }
    }
}

/// The value of a metric without labels.
fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_postgres_or_the_url_of_nats() {
        assert_eq!("postgres".parse(), Ok(Transport::Postgres));
        let url = "nats://127.0.0.1:4222";
        assert_eq!(url.parse(), Ok(Transport::NatsAt(url.to_owned())));
        assert_eq!("nats".parse(), Ok(Transport::Nats));
        assert!("pigeons".parse::<Transport>().unwrap_err().contains("no bus 'pigeons'"));
    }

    #[test]
    fn metrics_are_found_by_their_whole_name() {
        let text = "# TYPE uproar_bus_peers gauge\nuproar_bus_peers_total 7\nuproar_bus_peers 2\n";
        assert_eq!(metric(text, "uproar_bus_peers"), Some(2.0));
        assert_eq!(metric(text, "uproar_bus"), None);
    }
}
