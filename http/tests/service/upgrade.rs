//! WebSocket upgrades on connections that hyper owns.

use crate::support::{Client, Response, Server, server, server_with, settings, soon};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uproar_http::{Origins, Settings};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The headers of a valid upgrade with some replaced, or removed if the new value is empty.
fn upgrade_with(changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut headers = vec![
        ("Upgrade".to_owned(), "websocket".to_owned()),
        ("Connection".to_owned(), "keep-alive, Upgrade".to_owned()),
        ("Sec-WebSocket-Key".to_owned(), KEY.to_owned()),
        ("Sec-WebSocket-Version".to_owned(), "13".to_owned()),
    ];
    for (name, value) in changes {
        headers.retain(|(known, _)| known != name);
        if !value.is_empty() {
            headers.push(((*name).to_owned(), (*value).to_owned()));
        }
    }
    headers
}

async fn request_upgrade(client: &mut Client, path: &str, changes: &[(&str, &str)]) -> Response {
    let headers = upgrade_with(changes);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    client.request("GET", path, &headers, None).await
}

/// A server on which ann owns the public room "lobby" and the private room "secret".
async fn server_with_rooms(settings: Settings) -> (Server, Client) {
    let server = server_with(settings).await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby", "size": 2})).await.expect(201);
    ann.post("/user/createroom", json!({"name": "secret", "private": true})).await.expect(201);
    (server, ann)
}

#[tokio::test]
async fn the_socket_is_handed_to_the_chat() {
    let (mut server, mut ann) = server_with_rooms(settings()).await;
    let token = ann.token.clone().unwrap();
    // The connection has served a request before.
    ann.get("/healthz").await.expect(200);
    let response = request_upgrade(&mut ann, "/ws?room=Lobby&since=0", &[]).await;
    assert_eq!(response.status, 101);
    assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(response.header("upgrade"), Some("websocket"));
    assert_eq!(response.header("connection"), Some("upgrade"));
    assert_eq!(response.header("sec-websocket-protocol"), None);

    let adopted = soon(server.adopted.recv()).await.unwrap();
    assert_eq!(adopted.peer, ann.stream.local_addr().unwrap());
    let head = String::from_utf8(adopted.head).unwrap();
    assert!(head.starts_with("GET /ws?room=Lobby&since=0 HTTP/1.1\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"));
    assert!(head.contains(&format!("\r\nsec-websocket-key: {KEY}\r\n")));
    assert!(head.contains(&format!("\r\nauthorization: Bearer {token}\r\n")));
    assert_eq!(adopted.rest, Bytes::new());
    soon(server.ended.recv()).await.unwrap();

    let mut socket = TcpStream::from_std(adopted.socket).expect("the socket must be non-blocking");
    socket.write_all(b"to the client").await.unwrap();
    ann.send(b"to the server").await;
    let mut bytes = [0; 13];
    socket.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"to the server");
    while ann.received.len() < 13 {
        assert!(ann.more().await);
    }
    assert_eq!(ann.received, b"to the client");
}

/// Frames that directly follow the head are handed over, whether hyper or the shard before it has read them.
#[tokio::test]
async fn frames_after_the_head_are_handed_over() {
    let (mut server, ann) = server_with_rooms(settings()).await;
    let head = format!(
        "GET /ws?room=lobby HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n",
        ann.token.clone().unwrap()
    );
    for frames in ["a first frame".to_owned(), "many frames ".repeat(5000)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = Client::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (stream, peer) = listener.accept().await.unwrap();
        let (_drain, draining) = watch::channel(false);
        let prefix = Bytes::from(format!("{head}{frames}"));
        let served = tokio::spawn(Arc::clone(&server.service).serve(stream, peer, prefix, draining));
        assert_eq!(client.head().await.status, 101);
        let adopted = soon(server.adopted.recv()).await.unwrap();
        assert!(adopted.rest == frames, "{} of {} bytes", adopted.rest.len(), frames.len());
        soon(served).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_may_come_in_a_subprotocol_or_the_query() {
    let (mut server, ann) = server_with_rooms(settings()).await;
    let token = ann.token.unwrap();
    let protocol = format!("bearer.{token}");

    let mut client = server.client().await;
    let offered = format!("chat, {protocol}");
    let response = request_upgrade(&mut client, "/ws?room=lobby", &[("Sec-WebSocket-Protocol", &offered)]).await;
    assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, Some(protocol.as_str())));
    soon(server.adopted.recv()).await.unwrap();

    let mut client = server.client().await;
    let response = request_upgrade(&mut client, &format!("/ws?room=lobby&token={token}"), &[]).await;
    assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, None));
    soon(server.adopted.recv()).await.unwrap();
}

#[tokio::test]
async fn a_token_in_the_query_can_be_forbidden() {
    let (server, ann) = server_with_rooms(Settings { token_in_query: false, ..settings() }).await;
    let path = format!("/ws?room=lobby&token={}", ann.token.unwrap());
    request_upgrade(&mut server.client().await, &path, &[]).await.assert_error(401, "token_missing", None);
}

#[tokio::test]
async fn refused_upgrades_have_a_status_and_a_code() {
    let (mut server, mut ann) = server_with_rooms(settings()).await;
    let mut client = server.client().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();

    let response = request_upgrade(&mut client, "/ws?room=lobby", &[]).await;
    response.assert_error(401, "token_missing", None);
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    request_upgrade(&mut client, "/ws?room=lobby&token=x", &[]).await.assert_error(401, "token_invalid", None);
    client.token = Some(server.tokens.mint("bob", now - 100, 50));
    request_upgrade(&mut client, "/ws?room=lobby", &[]).await.assert_error(401, "token_expired", None);

    client.token = Some(server.tokens.mint("bob", now, 50));
    request_upgrade(&mut client, "/ws?room=nowhere", &[]).await.assert_error(404, "no_such_room", None);
    request_upgrade(&mut client, "/ws?room=secret", &[]).await.assert_error(404, "no_such_room", None);
    for (query, code, field) in [
        ("", "missing_field", "room"),
        ("room=@", "invalid_field", "room"),
        ("room=lobby&since=x", "invalid_field", "since"),
        ("room=lobby&format=xml", "invalid_field", "format"),
        ("room=lobby&format=raw", "invalid_field", "format"),
    ] {
        request_upgrade(&mut client, &format!("/ws?{query}"), &[]).await.assert_error(422, code, Some(field));
    }
    // With ann and bob, the room is full.
    server.notified();
    assert_eq!(request_upgrade(&mut client, "/ws?room=Lobby", &[]).await.status, 101);
    soon(server.adopted.recv()).await.unwrap();
    let bob = server.store.ensure_user("bob", "bob").await.unwrap().id;
    assert_eq!(server.notified(), [(bob.to_string(), "joined", "lobby".to_owned())]);
    let mut again = server.client().await;
    again.token = client.token.clone();
    assert_eq!(request_upgrade(&mut again, "/ws?room=lobby", &[]).await.status, 101);
    soon(server.adopted.recv()).await.unwrap();
    assert_eq!(server.notified(), []);
    let mut cid = server.client().await;
    cid.token = Some(server.tokens.mint("cid", now, 50));
    request_upgrade(&mut cid, "/ws?room=lobby", &[]).await.assert_error(409, "room_full", None);

    // A live: channel has no members.
    assert_eq!(request_upgrade(&mut cid, "/ws?room=live:news&format=raw", &[]).await.status, 101);
    soon(server.adopted.recv()).await.unwrap();
    // The connection stays usable after a refusal.
    ann.call("/user/signout").await.expect(200);
    request_upgrade(&mut ann, "/ws?room=lobby", &[]).await.assert_error(401, "token_invalid", None);
    ann.get("/healthz").await.expect(200);
    assert!(server.adopted.try_recv().is_err());
}

#[tokio::test]
async fn invalid_upgrades_are_refused() {
    let (server, mut ann) = server_with_rooms(Settings { echo: true, ..settings() }).await;
    for path in ["/ws?room=lobby", "/connection/websocket", "/echo"] {
        for (changes, what) in [
            (
                vec![("Upgrade", ""), ("Connection", ""), ("Sec-WebSocket-Key", ""), ("Sec-WebSocket-Version", "")],
                "plain",
            ),
            (vec![("Upgrade", "h2c")], "another protocol"),
            (vec![("Connection", "keep-alive")], "no upgrade"),
            (vec![("Sec-WebSocket-Version", "8")], "another version"),
            (vec![("Sec-WebSocket-Version", "")], "no version"),
        ] {
            let response = request_upgrade(&mut ann, path, &changes).await;
            response.assert_error(426, "upgrade_required", None);
            assert_eq!(response.header("sec-websocket-version"), Some("13"), "{what}");
            assert_eq!(response.header("upgrade"), Some("websocket"), "{what}");
        }
        for changes in [
            vec![("Sec-WebSocket-Key", "")],
            vec![("Sec-WebSocket-Key", "c2hvcnQ=")],
            vec![("Sec-WebSocket-Key", "not base64 at all!")],
            vec![("Content-Length", "5")],
        ] {
            let mut client = server.client().await;
            client.token = ann.token.clone();
            request_upgrade(&mut client, path, &changes).await.assert_error(400, "bad_upgrade", None);
        }
        let mut old = server.client().await;
        old.send(
            format!(
                "GET {path} HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            .as_bytes(),
        )
        .await;
        old.response().await.assert_error(400, "bad_upgrade", None);
        let response = ann.request("POST", path, &[], None).await;
        response.assert_error(405, "method_not_allowed", None);
        let headers = upgrade_with(&[]);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(ann.request("HEAD", path, &headers, None).await.status, 400);
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_not_connect() {
    let origins = Origins::parse(&["https://app.example"]).unwrap();
    let (mut server, ann) = server_with_rooms(Settings { origins, ..settings() }).await;
    for path in ["/ws?room=lobby", "/connection/websocket"] {
        for (origin, status) in [("https://evil.example", 403), ("https://app.example", 101), ("http://localhost", 101)]
        {
            let mut client = server.client().await;
            client.token = ann.token.clone();
            let response = request_upgrade(&mut client, path, &[("Origin", origin)]).await;
            assert_eq!(response.status, status, "{origin}");
            match status {
                101 => drop(soon(server.adopted.recv()).await.unwrap()),
                _ => response.assert_error(403, "origin_not_allowed", None),
            }
        }
    }
}

/// The client authenticates with its first command, which the shard reads.
#[tokio::test]
async fn the_centrifugo_protocol_needs_no_token() {
    let mut server = server().await;
    for (offered, chosen) in [
        ("", None),
        ("centrifuge-json", Some("centrifuge-json")),
        ("centrifuge-protobuf", Some("centrifuge-protobuf")),
        ("chat, centrifuge-protobuf,centrifuge-json", Some("centrifuge-protobuf")),
        ("centrifuge-json, centrifuge-protobuf", Some("centrifuge-json")),
        ("chat, Centrifuge-JSON, bearer.x", None),
    ] {
        let mut client = server.client().await;
        let path = "/connection/websocket?cf_protocol=protobuf&format=protobuf&token=x";
        let response = request_upgrade(&mut client, path, &[("Sec-WebSocket-Protocol", offered)]).await;
        assert_eq!((response.status, response.header("sec-websocket-accept")), (101, Some(ACCEPT)), "{offered}");
        assert_eq!(response.header("sec-websocket-protocol"), chosen, "{offered}");
        let adopted = soon(server.adopted.recv()).await.unwrap();
        assert_eq!(adopted.peer, client.stream.local_addr().unwrap());
        let head = String::from_utf8(adopted.head).unwrap();
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        assert_eq!(
            head.contains("\r\nsec-websocket-protocol: "),
            !offered.is_empty(),
            "the shard needs the header too"
        );
        // The socket belongs to the chat now.
        let mut socket = TcpStream::from_std(adopted.socket).expect("the socket must be non-blocking");
        client.send(b"{}").await;
        let mut bytes = [0; 2];
        socket.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"{}");
    }
    // An invalid token does not matter here.
    let mut client = server.client().await;
    client.token = Some("x".to_owned());
    assert_eq!(request_upgrade(&mut client, "/connection/websocket", &[]).await.status, 101);
    soon(server.adopted.recv()).await.unwrap();
}

#[tokio::test]
async fn echo_is_served_only_if_enabled() {
    let mut with_echo = server_with(Settings { echo: true, ..settings() }).await;
    let mut client = with_echo.client().await;
    assert_eq!(request_upgrade(&mut client, "/echo", &[]).await.status, 101);
    let adopted = soon(with_echo.adopted.recv()).await.unwrap();
    assert!(adopted.head.starts_with(b"GET /echo HTTP/1.1\r\n"));

    let without = server().await;
    request_upgrade(&mut without.client().await, "/echo", &[]).await.assert_error(404, "not_found", None);
}
