//! PostgreSQL goes away under load and comes back.

use crate::databases::{Backdoor, new_postgres_database};
use crate::load::{Load, assert_in_order_of_each_sender};
use crate::server::{Place, until};
use uproar_store::testing::TestPostgres;

/// As a crash: connections are cut, and what was committed is recovered.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_postgres_crashes() {
    through_outages(TestPostgres::kill).await;
}

/// In good order: sessions are told that the server shuts down.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_postgres_is_restarted() {
    through_outages(TestPostgres::stop).await;
}

/// As a proxy or an administrator does: with PostgreSQL all is well, only the connections are gone.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_connections_are_cut() {
    let database = new_postgres_database().await;
    let mut backdoor = Backdoor::postgres(&database).await;
    let options = ["--limit", "publish_rate_per_second=0"];
    let server = Place::with_database(Some(database), &options).start().await;
    let mut load = Load::start(&server, 4, 2, 1).await;
    for messages in 1..=15 {
        load.more(10 * messages).await;
        backdoor
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
    }
    load.more(100).await;
    assert_in_order_of_each_sender(&load.finish(&server).await);
}

async fn through_outages(end: impl Fn(&mut TestPostgres) -> Result<(), String>) {
    let mut postgres = TestPostgres::start().await.unwrap();
    if std::env::var("UPROAR_TEST_POSTGRES").is_ok_and(|url| url.contains("://")) {
        eprintln!("skipped: the PostgreSQL server that UPROAR_TEST_POSTGRES names is not ours to stop");
        return;
    }
    let database = postgres.create_database().await.unwrap();
    let options = ["--limit", "publish_rate_per_second=0", "--limit", "append_deadline_ms=400"];
    let server = Place::with_database(Some(database), &options).start().await;
    let mut load = Load::start(&server, 3, 2, 1).await;
    for _ in 0..2 {
        load.more(100).await;
        let errors = load.ledger.errors("100");
        end(&mut postgres).unwrap();
        // Senders are told at their deadline that it is not known, not left waiting.
        until("senders get error 100", async || load.ledger.errors("100") > errors + 3).await;
        assert_eq!(server.get("/healthz", "").await.status, 200, "the process lives");
        assert_eq!(server.get("/readyz", "").await.status, 503);
        postgres.restart().await.unwrap();
        // By itself.
        load.more(100).await;
    }
    assert!(load.ledger.errors("not_known") + load.ledger.errors("unavailable") > 0, "publishers by HTTP were told");
    load.finish(&server).await;
    until("it is ready", async || server.get("/readyz", "").await.status == 200).await;
}
