//! A connection from its first byte to its last.

use crate::support::{Client, server, server_with, settings, soon};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use uproar_http::{Limits, Settings};
use uproar_store::{NewRoom, RoomKind};

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let server = server().await;
    let mut client = server.client().await;
    for _ in 0..3 {
        client.get("/healthz").await.ok(200);
        client.get("/nothing").await.is_error(404, "not_found", None);
        client.post("/user/signin", json!({})).await.is_error(422, "missing_field", Some("password"));
    }
    // Two at once are answered in order.
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.answer().await.ok(200);
    client.answer().await.is_error(404, "not_found", None);
    let answer = client.request("GET", "/healthz", &[("Connection", "close")], None).await;
    assert_eq!(answer.header("connection"), Some("close"));
    client.ended().await;
}

/// A shard reads the head first, and more than the head when more has come.
#[tokio::test]
async fn bytes_that_were_read_before_are_not_lost() {
    let server = server().await;
    let first =
        b"POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let second = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let all = [first.as_slice(), second.as_slice()].concat();
    let head_end = first.len() - 2;
    for cut in [0, 1, head_end - 1, head_end, head_end + 1, first.len(), first.len() + 5, all.len()] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = Client::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (stream, peer) = listener.accept().await.unwrap();
        let (_drain, draining) = watch::channel(false);
        let prefix = Bytes::copy_from_slice(&all[..cut]);
        let served = tokio::spawn(Arc::clone(&server.service).serve(stream, peer, prefix, draining));
        client.send(&all[cut..]).await;
        client.answer().await.is_error(422, "missing_field", Some("password"));
        client.answer().await.ok(200);
        drop(client);
        soon(served).await.unwrap();
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let limits = Limits { head_timeout: Duration::from_millis(20), ..Limits::default() };
    let mut server = server_with(Settings { limits, ..settings() }).await;
    for begun in [&b""[..], b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut client = server.client().await;
        client.send(begun).await;
        while client.more().await {}
        drop(client);
        soon(server.ended.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_given_up() {
    let limits = Limits { request_timeout: Duration::from_millis(100), ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    // Straight into the store: the deadline is not to pass before the request that it is for.
    let account = server.store.ensure_user("ann", "ann").await.unwrap();
    let room = NewRoom {
        name: "lobby".to_owned(),
        title: "Lobby".to_owned(),
        kind: RoomKind::Public,
        size: 10,
        owner: account.id,
    };
    server.store.create_room(room).await.unwrap();
    let mut ann = server.client().await;
    ann.token = Some(server.tokens.issue(&account, 0, u64::MAX));
    let (_began, _open) = server.gate();
    let answer = ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await;
    answer.is_error(503, "deadline_passed", None);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.text().contains("not known"));
}

/// A client that asks and never reads holds neither memory nor a connection for long.
#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let limits = Limits { write_timeout: Duration::from_millis(50), ..Limits::default() };
    let mut server = server_with(Settings { limits, ..settings() }).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = Client::new(socket.connect(server.address).await.unwrap());
    // Some 20 MiB of answers: more than the kernel keeps for anyone.
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
    client.send(requests.as_bytes()).await;
    soon(server.ended.recv()).await.unwrap();
}

#[tokio::test]
async fn when_the_server_stops_idle_connections_end() {
    let mut server = server().await;
    let mut idle = server.client().await;
    idle.get("/healthz").await.ok(200);
    server.drain.send(true).unwrap();
    idle.ended().await;
    drop(idle);
    soon(server.ended.recv()).await.unwrap();
}

#[tokio::test]
async fn when_the_server_stops_what_is_under_way_is_answered() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
    let (mut began, open) = server.gate();
    let asked = tokio::spawn(async move {
        let answer = ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await;
        (ann, answer)
    });
    soon(began.recv()).await.unwrap();
    server.drain.send(true).unwrap();
    open.send(true).unwrap();
    let (mut ann, answer) = asked.await.unwrap();
    assert_eq!(answer.header("connection"), Some("close"));
    answer.ok(201);
    ann.ended().await;
}

#[tokio::test]
async fn when_the_server_stops_what_takes_too_long_is_cut() {
    let limits = Limits { drain_timeout: Duration::from_millis(20), ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut ann = server.signed_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
    let (mut began, _open) = server.gate();
    ann.send(
        format!(
            "POST /rooms/lobby/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{{\"text\":\"x\"}}",
            ann.token.clone().unwrap()
        )
        .as_bytes(),
    )
    .await;
    soon(began.recv()).await.unwrap();
    server.drain.send(true).unwrap();
    ann.ended().await;
}

/// A request that has come before the drain is seen is answered, not thrown away.
#[tokio::test]
async fn a_request_that_has_come_is_answered_though_the_server_stops() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = Client::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    let (stream, peer) = listener.accept().await.unwrap();
    let (_drain, draining) = watch::channel(true);
    let prefix = Bytes::from_static(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let served = tokio::spawn(Arc::clone(&server.service).serve(stream, peer, prefix, draining));
    client.answer().await.ok(200);
    client.ended().await;
    drop(client);
    soon(served).await.unwrap();
}

/// The connection ends with its client, also while its request waits for the chat.
#[tokio::test]
async fn a_client_that_goes_away_is_not_waited_for() {
    let mut server = server().await;
    let mut ann = server.signed_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
    let (mut began, open) = server.gate();
    let mut gone = server.client().await;
    gone.send(
        format!(
            "POST /rooms/lobby/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{{\"text\":\"x\"}}",
            ann.token.clone().unwrap()
        )
        .as_bytes(),
    )
    .await;
    soon(began.recv()).await.unwrap();
    drop(gone);
    soon(server.ended.recv()).await.unwrap();
    open.send(true).unwrap();
    ann.get("/me").await.ok(200);
}
