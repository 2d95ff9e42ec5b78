//! WebSocket upgrades on connections that hyper owns: they are handed back to the chat, which judges them.

use crate::support::{Response, server, server_with, settings, soon};
use bytes::Bytes;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uproar_http::Settings;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The head of an upgrade with these additional lines.
fn upgrade(target: &str, lines: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nhost: chat.example\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-key: {KEY}\r\nsec-websocket-version: 13\r\n{lines}\r\n"
    )
}

#[tokio::test]
async fn a_request_for_a_websocket_is_handed_to_the_chat_as_it_came() {
    let mut server = server().await;
    for request in [
        upgrade("/ws?room=Lobby&since=0", "authorization: Basic YTpi\r\nauthorization: Bearer x\r\n"),
        upgrade("/connection/websocket?cf_protocol=protobuf", "sec-websocket-protocol: a, b\r\n"),
        // The chat refuses these.
        upgrade("/nothing", ""),
        upgrade("/ws", "sec-websocket-key: again\r\n"),
        upgrade("/ws", "").replacen("GET", "HEAD", 1),
        upgrade("/ws", "").replacen("1.1", "1.0", 1),
        upgrade("/ws", "").replacen("connection: Upgrade\r\n", "", 1),
        upgrade("http://chat.example/ws", ""),
    ] {
        let mut client = server.client().await;
        // The connection has served a request before.
        client.get("/healthz").await.expect(200);
        client.send(request.as_bytes()).await;
        let adopted = soon(server.adopted.recv()).await.unwrap();
        soon(server.ended.recv()).await.unwrap();
        assert_eq!(adopted.peer, client.stream.local_addr().unwrap());
        // Lines of one name may have moved together.
        let sorted = |head: &str| {
            let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
            lines[1..].sort();
            lines
        };
        assert_eq!(sorted(std::str::from_utf8(&adopted.bytes).unwrap()), sorted(&request));

        // Nothing has been answered, and the socket works.
        let mut socket = TcpStream::from_std(adopted.socket).expect("the socket must be non-blocking");
        socket.write_all(b"to the client").await.unwrap();
        client.send(b"to the server").await;
        let mut bytes = [0; 13];
        socket.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"to the server");
        while client.received.len() < 13 {
            assert!(client.more().await);
        }
        assert_eq!(client.received, b"to the client");
    }
}

/// Frames that directly follow the head are handed over, whether hyper or the shard before it has read them.
#[tokio::test]
async fn frames_after_the_head_are_handed_over() {
    let mut server = server().await;
    let head = upgrade("/ws?room=lobby", "");
    for frames in ["a first frame".to_owned(), "many frames ".repeat(5000)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let (_drain, draining) = watch::channel(false);
        let prefix = Bytes::from(format!("{head}{frames}"));
        let slot = server.service.slot(peer, &prefix).unwrap();
        let served = tokio::spawn(Arc::clone(&server.service).serve(stream, None, peer, prefix, draining, slot));
        let adopted = soon(server.adopted.recv()).await.unwrap();
        assert!(adopted.bytes.ends_with(frames.as_bytes()), "{} bytes", adopted.bytes.len());
        assert_eq!(adopted.bytes.len(), head.len() + frames.len());
        soon(served).await.unwrap();
    }
}

/// The client pipelines, and reads late.
#[tokio::test]
async fn the_answers_before_an_upgrade_are_written_first() {
    let mut server = server().await;
    let mut client = server.client().await;
    const REQUESTS: usize = 200;
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(REQUESTS);
    let all = requests + &upgrade("/ws?room=lobby", "");
    let (mut reading, mut writing) = client.stream.into_split();
    let written = tokio::spawn(async move {
        writing.write_all(all.as_bytes()).await.unwrap();
        writing
    });
    let mut received = 0;
    let mut buffer = vec![0; 64 * 1024];
    let expected = {
        client = server.client().await;
        let response = client.get("/openapi.json").await;
        response.body.len() * REQUESTS
    };
    while received < expected {
        received += soon(reading.read(&mut buffer)).await.unwrap();
    }
    let adopted = soon(server.adopted.recv()).await.unwrap();
    let mut socket = TcpStream::from_std(adopted.socket).unwrap();
    socket.write_all(b"the end").await.unwrap();
    let mut rest = Vec::new();
    while !rest.ends_with(b"the end") {
        assert_ne!(soon(reading.read_buf(&mut rest)).await.unwrap(), 0);
    }
    drop(written.await.unwrap());
}

#[tokio::test]
async fn a_request_that_asks_for_no_websocket_is_told_to() {
    let server = server_with(Settings { echo: true, ..settings() }).await;
    let mut client = server.client().await;
    for path in ["/ws?room=lobby", "/connection/websocket", "/echo"] {
        for headers in [&[][..], &[("Upgrade", "h2c"), ("Connection", "upgrade")]] {
            let response: Response = client.request("GET", path, headers, None).await;
            response.assert_error(426, "upgrade_required", None);
            assert_eq!(response.header("sec-websocket-version"), Some("13"));
            assert_eq!(response.header("upgrade"), Some("websocket"));
        }
        client.request("POST", path, &[], None).await.assert_error(405, "method_not_allowed", None);
    }
    let without = self::server().await;
    without.client().await.get("/echo").await.assert_error(404, "not_found", None);
}

/// Only the main port has WebSockets.
#[tokio::test]
async fn the_admin_port_hands_nothing_over() {
    let server = server().await;
    let mut admin = server.admin().await;
    admin.send(upgrade("/ws", "").as_bytes()).await;
    admin.response().await.assert_error(404, "not_found", None);
}
