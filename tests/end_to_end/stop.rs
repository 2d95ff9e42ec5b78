//! Proves that the server stops gracefully and in time, whatever hangs.

use crate::client::{Http, Raw, Received};
use crate::databases::{Kind, private_postgres};
use crate::load::{Load, assert_in_order_of_each_sender};
use crate::server::{Server, Setup, until};
use crate::two_nodes::{alone, are_two};
use serde_json::json;
use std::time::{Duration, Instant};

/// The time within which the server promises to stop.
const LIMIT: Duration = Duration::from_secs(10);

on_each_database_and_shards! { sigterm_under_load_loses_nothing }
on_each_database! { a_second_signal_ends_the_server_immediately }

pub async fn sigterm_under_load_loses_nothing(kind: Kind, shards: &str) {
    let mut server = Server::start(kind, &["--shards", shards, "--limit", "publish_rate_per_second=0"]).await;
    let mut load = Load::start(&server, 3, 2, 2).await;
    for name in ["TERM", "INT"] {
        load.wait_for_acks(150).await;
        let started = Instant::now();
        server.signal(name).await;
        let status = server.exit().await;
        assert!(status.success(), "{status} after SIG{name}");
        assert!(started.elapsed() < LIMIT, "stopping took {:?}", started.elapsed());
        server = server.restart().await;
        load.moved_to(&server);
    }
    load.wait_for_acks(50).await;
    let views = load.finish(&server).await;
    assert_in_order_of_each_sender(&views);
    for view in &views {
        let graceful = view.ends.iter().filter(|end| matches!(end, Received::Closed(Some(1001), _))).count();
        // From one of two nodes that stop, a client may get to the other one.
        let most = if are_two() { 4 } else { 2 };
        assert!((2..=most).contains(&graceful), "{}: {:?}", view.name, view.ends);
    }
}

async fn a_second_signal_ends_the_server_immediately(kind: Kind) {
    // A client that does not answer the close frame could delay the end for an hour.
    let limits = ["--limit", "close_timeout_ms=3600000", "--limit", "stop_timeout_ms=3600000"];
    let mut server = Server::start(kind, &limits).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut stubborn = Raw::join(server.port, &ann.token, "room=r").await;
    stubborn.frame().await;
    server.signal("TERM").await;
    assert_eq!(stubborn.frame().await.close_code(), 1001);
    let started = Instant::now();
    // Two signals that arrive together count as one.
    until("the server exits", async || {
        server.signal("TERM").await;
        server.try_exit().is_some()
    })
    .await;
    assert!(started.elapsed() < LIMIT, "stopping took {:?}", started.elapsed());
    assert!(!server.exit().await.success(), "an unfinished stop must not exit with success");
}

#[tokio::test]
async fn the_server_stops_in_time_whatever_its_clients_do() {
    let mut server = Server::start(Kind::any(), &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut stubborn = Raw::join(server.port, &ann.token, "room=r").await;
    stubborn.frame().await;
    // A request without its whole body, one without its whole head, and an idle connection.
    let mut no_body = Http::connect(server.port).await.unwrap();
    let part = "POST /user/signin HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 9\r\n\r\n{";
    no_body.write(part.as_bytes()).await.unwrap();
    let mut no_head = Http::connect(server.port).await.unwrap();
    no_head.write(b"GET /").await.unwrap();
    let mut idle = Http::connect(server.port).await.unwrap();
    idle.request("GET", "/healthz", &[], None).await.unwrap().expect(200);
    let started = Instant::now();
    server.stop().await;
    assert!(started.elapsed() < LIMIT, "stopping took {:?}", started.elapsed());
    assert_eq!(stubborn.frame().await.close_code(), 1001);
}

#[tokio::test]
async fn the_server_stops_in_time_while_postgres_is_down() {
    alone!("without its database a node answers nobody");
    let Some(mut postgres) = private_postgres().await else { return };
    let database = postgres.create_database().await.unwrap();
    let mut server = Setup::with_database(Some(database), &[]).start().await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r&format=json").await;
    ws.send(json!({"text": "stored", "id": "a"}).to_string()).await;
    assert_eq!(ws.message().await, (1, "stored".into()));
    postgres.kill().unwrap();
    until("the server notices the outage", async || {
        ws.send(json!({"text": "unknown", "id": "b"}).to_string()).await;
        ws.error().await.0 == 100
    })
    .await;
    ws.send(json!({"text": "pending", "id": "c"}).to_string()).await;
    let started = Instant::now();
    server.signal("TERM").await;
    let close_code = tokio::spawn(async move { ws.close_code().await });
    let status = server.exit().await;
    assert!(started.elapsed() < LIMIT, "stopping took {:?}", started.elapsed());
    assert!(status.success(), "{status}");
    assert_eq!(close_code.await.unwrap(), Some(1001));
    postgres.restart().await.unwrap();
    let server = server.restart().await;
    let history = server.history(&ann, "r").await;
    assert_eq!(history[0]["text"], "stored");
    assert!(history.len() <= 3, "{history:?}");
}
