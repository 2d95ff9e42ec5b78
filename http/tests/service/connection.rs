//! Connections, from the first byte to the last.

use crate::support::{Client, server, server_with, settings, soon};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use uproar_core::limits::Limits;
use uproar_http::{Settings, Term};
use uproar_store::{NewRoom, RoomKind};

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let server = server().await;
    let mut client = server.client().await;
    for _ in 0..3 {
        client.get("/healthz").await.expect(200);
        client.get("/nothing").await.assert_error(404, "not_found", None);
        client.post("/user/signin", json!({})).await.assert_error(422, "missing_field", Some("username"));
    }
    // Two pipelined requests are answered in order.
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.response().await.expect(200);
    client.response().await.assert_error(404, "not_found", None);
    let response = client.request("GET", "/healthz", &[("Connection", "close")], None).await;
    assert_eq!(response.header("connection"), Some("close"));
    client.closed().await;
}

/// A shard reads the head first, together with any bytes after it that have arrived.
#[tokio::test]
async fn bytes_read_earlier_are_not_lost() {
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
        let slot = server.service.slot(peer, &prefix).unwrap();
        let served = tokio::spawn(Arc::clone(&server.service).serve(stream, None, peer, prefix, draining, slot));
        client.send(&all[cut..]).await;
        client.response().await.assert_error(422, "missing_field", Some("username"));
        client.response().await.expect(200);
        drop(client);
        soon(served).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let idle = Limits { idle_timeout_ms: 20, ..Limits::default() };
    let head = Limits { head_timeout_ms: 20, ..Limits::default() };
    let whole = &b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"[..];
    for (limits, beginning) in [(&idle, &b""[..]), (&idle, whole), (&head, b"GET /healthz HT")] {
        let mut server = server_with(Settings { limits: limits.clone(), ..settings() }).await;
        let mut client = server.client().await;
        client.send(beginning).await;
        while client.more().await {}
        drop(client);
        soon(server.ended.recv()).await.unwrap();
    }
}

/// Proxies keep idle connections for up to two minutes, and a request must not meet the server's closing.
#[tokio::test]
async fn an_idle_connection_outlasts_the_timeout_of_a_head() {
    let limits = Limits { head_timeout_ms: 50, ..Limits::default() };
    assert!(limits.idle_timeout_ms > 120_000);
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut client = server.client().await;
    client.get("/healthz").await.expect(200);
    // Another connection shows that the time has passed.
    let mut slow = server.client().await;
    slow.send(b"GET /healthz HT").await;
    while slow.more().await {}
    client.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_with_an_error() {
    let limits = Limits { request_timeout_ms: 100, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    // The room is created in the store directly, so that the short deadline applies to one request only.
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
    ann.token = Some(server.tokens.issue(&account, Term::new(0, 0, u64::MAX, u64::MAX)));
    let (_starts, _open) = server.gate();
    let response = ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await;
    response.assert_error(503, "deadline_passed", None);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert!(response.text().contains("not known"));
}

/// A client that sends requests and never reads cannot hold memory or a connection for long.
#[tokio::test]
async fn a_client_that_reads_nothing_is_disconnected() {
    let limits = Limits { write_timeout_ms: 50, ..Limits::default() };
    let mut server = server_with(Settings { limits, ..settings() }).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = Client::new(socket.connect(server.address).await.unwrap());
    // About 20 MiB of responses, more than the kernel buffers.
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
    client.send(requests.as_bytes()).await;
    soon(server.ended.recv()).await.unwrap();
}

#[tokio::test]
async fn idle_connections_close_when_the_server_stops() {
    let mut server = server().await;
    let mut idle = server.client().await;
    idle.get("/healthz").await.expect(200);
    server.drain.send(true).unwrap();
    idle.closed().await;
    drop(idle);
    soon(server.ended.recv()).await.unwrap();
}

#[tokio::test]
async fn a_request_in_progress_is_answered_when_the_server_stops() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    let (mut starts, open) = server.gate();
    let request = tokio::spawn(async move {
        let response = ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await;
        (ann, response)
    });
    soon(starts.recv()).await.unwrap();
    server.drain.send(true).unwrap();
    open.send(true).unwrap();
    let (mut ann, response) = request.await.unwrap();
    assert_eq!(response.header("connection"), Some("close"));
    response.expect(201);
    ann.closed().await;
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_is_aborted() {
    let limits = Limits { request_drain_timeout_ms: 20, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    let (mut starts, _open) = server.gate();
    ann.send(
        format!(
            "POST /rooms/lobby/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{{\"text\":\"x\"}}",
            ann.token.clone().unwrap()
        )
        .as_bytes(),
    )
    .await;
    soon(starts.recv()).await.unwrap();
    server.drain.send(true).unwrap();
    ann.closed().await;
}

#[tokio::test]
async fn a_request_that_arrived_before_the_drain_is_answered() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = Client::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    let (stream, peer) = listener.accept().await.unwrap();
    let (_drain, draining) = watch::channel(true);
    let prefix = Bytes::from_static(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let slot = server.service.slot(peer, &prefix).unwrap();
    let served = tokio::spawn(Arc::clone(&server.service).serve(stream, None, peer, prefix, draining, slot));
    client.response().await.expect(200);
    client.closed().await;
    drop(client);
    soon(served).await.unwrap();
}

/// A client may close its sending half after its request and wait for the answer, as `nc -N` does. So the connection of
/// a client that has gone is kept until its request is answered.
#[tokio::test]
async fn a_client_that_closes_its_sending_half_gets_its_answer() {
    let mut server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    let (mut starts, open) = server.gate();
    let token = ann.token.clone().unwrap();
    let request = format!(
        "POST /rooms/lobby/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{{\"text\":\"x\"}}"
    );
    let mut leaving = server.client().await;
    leaving.send(request.as_bytes()).await;
    leaving.stream.shutdown().await.unwrap();
    soon(starts.recv()).await.unwrap();
    open.send(true).unwrap();
    leaving.response().await.expect(201);
    leaving.closed().await;
    soon(server.ended.recv()).await.unwrap();
}

#[tokio::test]
async fn only_a_single_chunked_transfer_encoding_is_read() {
    let server = server().await;
    for (codings, status) in [
        ("chunked", 422),
        ("Chunked", 422),
        ("gzip, chunked", 400),
        ("chunked, chunked", 400),
        ("identity", 400),
        ("chunked\r\nTransfer-Encoding: chunked", 400),
    ] {
        let mut client = server.client().await;
        let request = format!(
            "POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: {codings}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
        );
        client.send(request.as_bytes()).await;
        assert_eq!(client.response().await.status, status, "{codings}");
        if status == 400 {
            client.closed().await;
        }
    }
}

/// RFC 9112, 3.2. WebSocket upgrades follow the same rule.
#[tokio::test]
async fn a_request_has_one_valid_host() {
    let server = server().await;
    for (version, hosts, status) in [
        ("1.1", "", 400),
        ("1.1", "Host: a\r\nHost: a\r\n", 400),
        ("1.1", "Host: a b\r\n", 400),
        ("1.1", "Host: user@a\r\n", 400),
        ("1.1", "Host: a\r\n", 200),
        ("1.1", "Host: [::1]:8080\r\n", 200),
        ("1.1", "Host:\r\n", 200),
        ("1.0", "", 200),
        ("1.0", "Host: a\r\n", 200),
        ("1.0", "Host: a\r\nHost: a\r\n", 400),
    ] {
        for mut client in [server.client().await, server.admin().await] {
            client.send(format!("GET /healthz HTTP/{version}\r\n{hosts}\r\n").as_bytes()).await;
            let response = client.response().await;
            assert_eq!(response.status, status, "{version} {hosts}");
            if status == 400 {
                response.assert_error(400, "bad_request", None);
                client.closed().await;
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_expectation_fails() {
    let server = server().await;
    for (expected, status) in [("100-Continue", 200), ("foo", 417), ("100-continue, foo", 417)] {
        let mut client = server.client().await;
        let response = client.request("GET", "/healthz", &[("Expect", expected)], None).await;
        assert_eq!(response.status, status, "{expected}");
        if status == 417 {
            response.assert_error(417, "expectation_failed", None);
            client.closed().await;
        }
    }
}

/// It was counted as idle from the moment when its response was ready.
#[tokio::test]
async fn a_connection_whose_client_still_reads_a_response_does_not_make_room_for_others() {
    let limits = Limits { http_connections_limit: 2, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    // Much smaller than the response.
    let (listening, connecting) = (TcpSocket::new_v4().unwrap(), TcpSocket::new_v4().unwrap());
    listening.set_send_buffer_size(4096).unwrap();
    connecting.set_recv_buffer_size(4096).unwrap();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listening.listen(1).unwrap();
    let mut reading = Client::new(connecting.connect(listener.local_addr().unwrap()).await.unwrap());
    let (stream, peer) = listener.accept().await.unwrap();
    let (_drain, draining) = watch::channel(false);
    let slot = server.service.slot(peer, &[]).unwrap();
    tokio::spawn(Arc::clone(&server.service).serve(stream, None, peer, Bytes::new(), draining, slot));
    reading.send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(reading.more().await);

    let mut idle = server.client().await;
    idle.get("/healthz").await.expect(200);
    let _newcomer = server.service.slot("127.0.0.2:9".parse().unwrap(), &[]).unwrap();
    idle.closed().await;
    reading.response().await.expect(200);
    reading.get("/healthz").await.expect(200);
}

/// The connection closes even while its request is waiting for the chat.
#[tokio::test]
async fn a_connection_closes_when_its_client_disconnects() {
    let mut server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    let (mut starts, open) = server.gate();
    let mut leaving = server.client().await;
    leaving
        .send(
            format!(
                "POST /rooms/lobby/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{{\"text\":\"x\"}}",
                ann.token.clone().unwrap()
            )
            .as_bytes(),
        )
        .await;
    soon(starts.recv()).await.unwrap();
    leaving.stream.set_zero_linger().unwrap();
    drop(leaving);
    open.send(true).unwrap();
    soon(server.ended.recv()).await.unwrap();
    ann.get("/me").await.expect(200);
}
