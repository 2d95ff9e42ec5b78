//! Tests the real binary over real sockets, on each database. Every test has its own server, port and data folder.
//!
//! Databases, drivers and shards are covered pairwise: the driver of a server follows from the other two.
//! `UPROAR_TEST_DRIVER=uring` (or `epoll`) and `UPROAR_TEST_SHARDS=1` set them for all tests, as `make test-all` does.
//! `UPROAR_TEST_NODES=2` runs the tests on PostgreSQL against two nodes (see `two_nodes.rs`).
//! `UPROAR_TEST_BINARY=FILE` tests another binary, as `scripts/test-dist suite` does.
//!
//! Tests do not sleep and hope that something has happened meanwhile. They wait for the event itself, for at most
//! `PATIENCE`.

/// Turns each `async fn(Kind)` into a test on SQLite and a test on PostgreSQL. `alone "why":` in front of the names
/// skips them on two nodes.
macro_rules! on_each_database {
    (alone $reason:literal: $($name:ident)+) => {
        on_each_database! { { crate::two_nodes::alone!($reason) } $($name)+ }
    };
    ($($name:ident)+) => {
        on_each_database! { {} $($name)+ }
    };
    ($skip:block $($name:ident)+) => {$(
        mod $name {
            use crate::databases::Kind;

            #[tokio::test]
            async fn on_sqlite() {
                crate::two_nodes::alone!("SQLite is for one process");
                super::$name(Kind::Sqlite).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                $skip
                super::$name(Kind::Postgres).await;
            }
        }
    )+};
}

/// Turns each `async fn(Kind, shards: &str)` into tests on each database, with one shard and with two.
macro_rules! on_each_database_and_shards {
    ($($name:ident)+) => {$(
        mod $name {
            use crate::databases::Kind;

            #[tokio::test]
            async fn on_sqlite_and_one_shard() {
                crate::two_nodes::alone!("SQLite is for one process");
                super::$name(Kind::Sqlite, "1").await;
            }

            #[tokio::test]
            async fn on_sqlite_and_two_shards() {
                crate::two_nodes::alone!("SQLite is for one process");
                super::$name(Kind::Sqlite, "2").await;
            }

            #[tokio::test]
            async fn on_postgres_and_one_shard() {
                super::$name(Kind::Postgres, "1").await;
            }

            #[tokio::test]
            async fn on_postgres_and_two_shards() {
                super::$name(Kind::Postgres, "2").await;
            }
        }
    )+};
}

/// Turns each `async fn(Bus)` into a test on each bus.
macro_rules! on_each_bus {
    ($($name:ident)+) => {$(
        mod $name {
            use crate::nodes::Bus;

            #[tokio::test]
            async fn over_postgres() {
                super::$name(Bus::Postgres).await;
            }

            #[tokio::test]
            async fn over_nats() {
                super::$name(Bus::Nats).await;
            }
        }
    )+};
}

/// Turns each `async fn(driver: &str)` into a test on each driver.
macro_rules! on_each_driver {
    ($($name:ident)+) => {$(
        mod $name {
            #[tokio::test]
            async fn on_uring() {
                match uproar::driver::uring::available() {
                    Ok(()) => super::$name("uring").await,
                    Err(reason) => eprintln!("skipped: {reason}"),
                }
            }

            #[tokio::test]
            async fn on_epoll() {
                super::$name("epoll").await;
            }
        }
    )+};
}

mod client;
mod databases;
mod load;
mod nodes;
mod proxy;
mod receiver;
mod sdk_client;
mod server;
mod tunnel;
mod two_nodes;

mod abuse;
mod acme;
mod api;
mod bench_cluster;
mod centrifuge;
mod changes;
mod chaos;
mod chaos_nodes;
mod check;
mod clocks;
mod cluster;
mod cluster_faults;
mod cluster_presence;
mod crash;
mod crowd;
mod direct;
mod echo;
mod embedding;
mod failover;
mod faults_databases;
mod faults_sockets;
mod health;
mod hooks;
mod invites;
mod issuers;
mod journey;
mod keys;
mod live;
mod members;
mod migrate;
mod monitoring;
mod nats;
mod operator;
mod order;
mod otlp;
mod outage;
mod outbox;
mod output;
mod page;
mod plain;
mod pooler;
mod port;
mod provider;
mod quick_start;
mod retry;
mod reverse_proxies;
mod revocations;
mod rights;
mod rights_table;
mod sdk;
mod seccomp;
mod security_log;
mod signals;
mod silences;
mod size;
mod slow;
mod start_waits;
mod startup;
mod stop;
mod systemd;
mod tls;
mod tls_scan;
mod tokens;
mod tools;
mod upgrade;
mod violations;
mod webhooks;
mod webhooks_chaos;
