//! The end: in good order, in time, and whatever hangs.

use crate::client::{Got, Raw};
use crate::databases::Kind;
use crate::load::{Load, assert_in_order_of_each_sender};
use crate::server::{Place, Server, until};
use serde_json::json;
use std::time::{Duration, Instant};
use uproar_store::testing::TestPostgres;

/// The promise.
const LIMIT: Duration = Duration::from_secs(10);

on_each_database_and_shards! { sigterm_under_load_loses_nothing }
on_each_database! { a_second_signal_ends_it_at_once }

async fn sigterm_under_load_loses_nothing(kind: Kind, shards: &str) {
    let mut server = Server::start(kind, &["--shards", shards, "--limit", "publish_rate_per_second=0"]).await;
    let mut load = Load::start(&server, 3, 2, 2).await;
    for name in ["TERM", "INT"] {
        load.more(150).await;
        let begun = Instant::now();
        server.signal(name).await;
        let status = server.ended().await;
        assert!(status.success(), "{status} after SIG{name}");
        assert!(begun.elapsed() < LIMIT, "it took {:?}", begun.elapsed());
        server = server.restart().await;
        load.moved_to(&server);
    }
    load.more(50).await;
    let views = load.finish(&server).await;
    assert_in_order_of_each_sender(&views);
    for view in &views {
        let goodbyes = view.ends.iter().filter(|end| matches!(end, Got::Closed(Some(1001), _))).count();
        assert_eq!(goodbyes, 2, "{}: {:?}", view.name, view.ends);
    }
}

async fn a_second_signal_ends_it_at_once(kind: Kind) {
    // Someone who does not answer the close frame would hold it up for an hour.
    let limits = ["--limit", "close_timeout_ms=3600000", "--limit", "stop_timeout_ms=3600000"];
    let mut server = Server::start(kind, &limits).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut stubborn = Raw::join(server.port, &ann.token, "room=r").await;
    stubborn.frame().await;
    server.signal("TERM").await;
    assert_eq!(stubborn.frame().await.close_code(), 1001);
    let begun = Instant::now();
    // Two that come together count as one.
    until("it ends", async || {
        server.signal("TERM").await;
        server.has_ended().is_some()
    })
    .await;
    assert!(begun.elapsed() < LIMIT, "it took {:?}", begun.elapsed());
    assert!(!server.ended().await.success(), "it did not finish what it had to do, and says so");
}

#[tokio::test]
async fn it_stops_in_time_whatever_its_clients_do() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut stubborn = Raw::join(server.port, &ann.token, "room=r").await;
    stubborn.frame().await;
    // A request whose body never comes, one whose head never comes, and a connection that is kept for nothing.
    let mut half = crate::client::Http::connect(server.port).await.unwrap();
    half.write(b"POST /user/signin HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{").await.unwrap();
    let mut quarter = crate::client::Http::connect(server.port).await.unwrap();
    quarter.write(b"GET /").await.unwrap();
    let mut kept = crate::client::Http::connect(server.port).await.unwrap();
    kept.request("GET", "/healthz", &[], None).await.unwrap().expect(200);
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < LIMIT, "it took {:?}", begun.elapsed());
    assert_eq!(stubborn.frame().await.close_code(), 1001);
}

#[tokio::test]
async fn it_stops_in_time_while_postgres_is_down() {
    if std::env::var("UPROAR_TEST_POSTGRES").is_ok_and(|url| url.contains("://")) {
        eprintln!("skipped: the PostgreSQL server that UPROAR_TEST_POSTGRES names is not ours to stop");
        return;
    }
    let mut postgres = TestPostgres::start().await.unwrap();
    let database = postgres.create_database().await.unwrap();
    let mut server = Place::with_database(Some(database), &[]).start().await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r&format=json").await;
    ws.say(json!({"text": "stored", "id": "a"}).to_string()).await;
    assert_eq!(ws.message().await, (1, "stored".into()));
    postgres.kill().unwrap();
    until("it has noticed", async || {
        ws.say(json!({"text": "not known", "id": "b"}).to_string()).await;
        ws.error().await.0 == 100
    })
    .await;
    ws.say(json!({"text": "under way", "id": "c"}).to_string()).await;
    let begun = Instant::now();
    server.signal("TERM").await;
    let ended = tokio::spawn(async move { ws.close_code().await });
    let status = server.ended().await;
    assert!(begun.elapsed() < LIMIT, "it took {:?}", begun.elapsed());
    assert!(status.success(), "{status}");
    assert_eq!(ended.await.unwrap(), Some(1001));
    postgres.restart().await.unwrap();
    let server = server.restart().await;
    let history = server.history(&ann, "r").await;
    assert_eq!(history[0]["text"], "stored");
    assert!(history.len() <= 3, "{history:?}");
}
