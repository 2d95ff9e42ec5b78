//! Proves that no acknowledged message is lost when PostgreSQL fails under load and comes back.

use crate::databases::{Backdoor, new_postgres_database, private_postgres};
use crate::load::{Load, assert_in_order_of_each_sender};
use crate::server::{Setup, until};
use uproar_store::testing::TestPostgres;

/// A crash: connections are aborted, and PostgreSQL recovers what was committed.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_postgres_crashes() {
    survive_outages(TestPostgres::kill).await;
}

/// A graceful restart: PostgreSQL tells its sessions that it shuts down.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_postgres_is_restarted() {
    survive_outages(TestPostgres::stop).await;
}

/// A proxy or an administrator closes the connections, while PostgreSQL itself keeps working.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_connections_are_terminated() {
    let database = new_postgres_database().await;
    let mut backdoor = Backdoor::postgres(&database).await;
    let options = ["--limit", "publish_rate_per_second=0"];
    let server = Setup::with_database(Some(database), &options).start().await;
    let mut load = Load::start(&server, 4, 2, 1).await;
    for messages in 1..=15 {
        load.wait_for_acks(10 * messages).await;
        backdoor
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
    }
    load.wait_for_acks(100).await;
    assert_in_order_of_each_sender(&load.finish(&server).await);
}

async fn survive_outages(fail: impl Fn(&mut TestPostgres) -> Result<(), String>) {
    let Some(mut postgres) = private_postgres().await else { return };
    let database = postgres.create_database().await.unwrap();
    let options = ["--limit", "publish_rate_per_second=0", "--limit", "append_deadline_ms=400"];
    let server = Setup::with_database(Some(database), &options).start().await;
    let mut load = Load::start(&server, 3, 2, 1).await;
    for _ in 0..2 {
        load.wait_for_acks(100).await;
        let errors = load.ledger.errors("100");
        fail(&mut postgres).unwrap();
        // Senders get an answer at their deadline: the outcome is unknown.
        until("senders get error 100", async || load.ledger.errors("100") > errors + 3).await;
        assert_eq!(server.get("/healthz", "").await.status, 200, "the process is not healthy");
        until("the server is not ready", async || server.get("/readyz", "").await.status == 503).await;
        postgres.restart().await.unwrap();
        // It recovers by itself.
        load.wait_for_acks(100).await;
    }
    load.finish(&server).await;
    until("the server is ready", async || server.get("/readyz", "").await.status == 200).await;
}
