//! Upgrades on connections that hyper owns.

use crate::support::{Answer, Client, Server, server, server_with, settings, soon};
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

/// The headers of a good upgrade, with some replaced; those with an empty value are left out.
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

async fn ask(client: &mut Client, path: &str, changes: &[(&str, &str)]) -> Answer {
    let headers = upgrade_with(changes);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    client.request("GET", path, &headers, None).await
}

/// A server with the public room "lobby" of ann's and the private "secret".
async fn with_rooms(settings: Settings) -> (Server, Client) {
    let server = server_with(settings).await;
    let mut ann = server.signed_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby", "size": 2})).await.ok(201);
    ann.post("/user/createroom", json!({"name": "secret", "private": true})).await.ok(201);
    (server, ann)
}

#[tokio::test]
async fn the_socket_goes_to_the_chat() {
    let (mut server, mut ann) = with_rooms(settings()).await;
    let token = ann.token.clone().unwrap();
    // On a connection that served a request before.
    ann.get("/healthz").await.ok(200);
    let answer = ask(&mut ann, "/ws?room=Lobby&since=0", &[]).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection"), Some("upgrade"));
    assert_eq!(answer.header("sec-websocket-protocol"), None);

    let adopted = soon(server.adopted.recv()).await.unwrap();
    assert_eq!(adopted.peer, ann.stream.local_addr().unwrap());
    let head = String::from_utf8(adopted.head).unwrap();
    assert!(head.starts_with("GET /ws?room=Lobby&since=0 HTTP/1.1\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"));
    assert!(head.contains(&format!("\r\nsec-websocket-key: {KEY}\r\n")));
    assert!(head.contains(&format!("\r\nauthorization: Bearer {token}\r\n")));
    assert_eq!(adopted.rest, Bytes::new());
    soon(server.ended.recv()).await.unwrap();

    let mut socket = TcpStream::from_std(adopted.socket).expect("not blocking");
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

/// Frames that come right behind the head, be they read by hyper or by the shard before it, go along.
#[tokio::test]
async fn what_came_behind_the_head_goes_along() {
    let (mut server, ann) = with_rooms(settings()).await;
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
async fn the_ways_a_token_comes() {
    let (mut server, ann) = with_rooms(settings()).await;
    let token = ann.token.unwrap();
    let protocol = format!("bearer.{token}");

    let mut client = server.client().await;
    let offered = format!("chat, {protocol}");
    let answer = ask(&mut client, "/ws?room=lobby", &[("Sec-WebSocket-Protocol", &offered)]).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some(protocol.as_str())));
    soon(server.adopted.recv()).await.unwrap();

    let mut client = server.client().await;
    let answer = ask(&mut client, &format!("/ws?room=lobby&token={token}"), &[]).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, None));
    soon(server.adopted.recv()).await.unwrap();
}

#[tokio::test]
async fn a_token_in_the_query_can_be_forbidden() {
    let (server, ann) = with_rooms(Settings { token_in_query: false, ..settings() }).await;
    let path = format!("/ws?room=lobby&token={}", ann.token.unwrap());
    ask(&mut server.client().await, &path, &[]).await.is_error(401, "token_missing", None);
}

#[tokio::test]
async fn who_is_not_let_in() {
    let (mut server, mut ann) = with_rooms(settings()).await;
    let mut client = server.client().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();

    let answer = ask(&mut client, "/ws?room=lobby", &[]).await;
    answer.is_error(401, "token_missing", None);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    ask(&mut client, "/ws?room=lobby&token=x", &[]).await.is_error(401, "token_invalid", None);
    client.token = Some(server.tokens.mint("bob", now - 100, 50));
    ask(&mut client, "/ws?room=lobby", &[]).await.is_error(401, "token_expired", None);

    client.token = Some(server.tokens.mint("bob", now, 50));
    ask(&mut client, "/ws?room=nowhere", &[]).await.is_error(404, "no_such_room", None);
    ask(&mut client, "/ws?room=secret", &[]).await.is_error(404, "no_such_room", None);
    for (query, code, field) in [
        ("", "missing_field", "room"),
        ("room=@", "invalid_field", "room"),
        ("room=lobby&since=x", "invalid_field", "since"),
        ("room=lobby&format=xml", "invalid_field", "format"),
        ("room=lobby&format=raw", "invalid_field", "format"),
    ] {
        ask(&mut client, &format!("/ws?{query}"), &[]).await.is_error(422, code, Some(field));
    }
    // Full: ann and bob are in.
    server.told();
    assert_eq!(ask(&mut client, "/ws?room=Lobby", &[]).await.status, 101);
    soon(server.adopted.recv()).await.unwrap();
    let bob = server.store.ensure_user("bob", "bob").await.unwrap().id;
    assert_eq!(server.told(), [(bob.to_string(), "joined", "lobby".to_owned())]);
    let mut again = server.client().await;
    again.token = client.token.clone();
    assert_eq!(ask(&mut again, "/ws?room=lobby", &[]).await.status, 101);
    soon(server.adopted.recv()).await.unwrap();
    assert_eq!(server.told(), []);
    let mut cid = server.client().await;
    cid.token = Some(server.tokens.mint("cid", now, 50));
    ask(&mut cid, "/ws?room=lobby", &[]).await.is_error(409, "room_full", None);

    // A channel in memory has no members.
    assert_eq!(ask(&mut cid, "/ws?room=live:news&format=raw", &[]).await.status, 101);
    soon(server.adopted.recv()).await.unwrap();
    // And the connection of one who was refused goes on.
    ann.call("/user/signout").await.ok(200);
    ask(&mut ann, "/ws?room=lobby", &[]).await.is_error(401, "token_invalid", None);
    ann.get("/healthz").await.ok(200);
    assert!(server.adopted.try_recv().is_err());
}

#[tokio::test]
async fn upgrades_that_are_none() {
    let (server, mut ann) = with_rooms(Settings { echo: true, ..settings() }).await;
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
            let answer = ask(&mut ann, path, &changes).await;
            answer.is_error(426, "upgrade_required", None);
            assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{what}");
            assert_eq!(answer.header("upgrade"), Some("websocket"), "{what}");
        }
        for changes in [
            vec![("Sec-WebSocket-Key", "")],
            vec![("Sec-WebSocket-Key", "c2hvcnQ=")],
            vec![("Sec-WebSocket-Key", "not base64 at all!")],
            vec![("Content-Length", "5")],
        ] {
            let mut client = server.client().await;
            client.token = ann.token.clone();
            ask(&mut client, path, &changes).await.is_error(400, "bad_upgrade", None);
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
        old.answer().await.is_error(400, "bad_upgrade", None);
        let answer = ann.request("POST", path, &[], None).await;
        answer.is_error(405, "method_not_allowed", None);
        let headers = upgrade_with(&[]);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(ann.request("HEAD", path, &headers, None).await.status, 400);
    }
}

#[tokio::test]
async fn pages_of_other_origins_do_not_connect() {
    let origins = Origins::parse(&["https://app.example"]).unwrap();
    let (mut server, ann) = with_rooms(Settings { origins, ..settings() }).await;
    for path in ["/ws?room=lobby", "/connection/websocket"] {
        for (origin, status) in [("https://evil.example", 403), ("https://app.example", 101), ("http://localhost", 101)]
        {
            let mut client = server.client().await;
            client.token = ann.token.clone();
            let answer = ask(&mut client, path, &[("Origin", origin)]).await;
            assert_eq!(answer.status, status, "{origin}");
            match status {
                101 => drop(soon(server.adopted.recv()).await.unwrap()),
                _ => answer.is_error(403, "origin_not_allowed", None),
            }
        }
    }
}

/// The client says who it is by its first command, which is the shard's to read.
#[tokio::test]
async fn the_centrifugo_protocol_wants_no_token() {
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
        let answer = ask(&mut client, path, &[("Sec-WebSocket-Protocol", offered)]).await;
        assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, Some(ACCEPT)), "{offered}");
        assert_eq!(answer.header("sec-websocket-protocol"), chosen, "{offered}");
        let adopted = soon(server.adopted.recv()).await.unwrap();
        assert_eq!(adopted.peer, client.stream.local_addr().unwrap());
        let head = String::from_utf8(adopted.head).unwrap();
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        assert_eq!(head.contains("\r\nsec-websocket-protocol: "), !offered.is_empty(), "the shard chooses by it too");
        // The socket is the chat's now.
        let mut socket = TcpStream::from_std(adopted.socket).expect("not blocking");
        client.send(b"{}").await;
        let mut bytes = [0; 2];
        socket.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"{}");
    }
    // A token that is none is no matter here.
    let mut client = server.client().await;
    client.token = Some("x".to_owned());
    assert_eq!(ask(&mut client, "/connection/websocket", &[]).await.status, 101);
    soon(server.adopted.recv()).await.unwrap();
}

#[tokio::test]
async fn echo_is_there_when_asked_for() {
    let mut with_echo = server_with(Settings { echo: true, ..settings() }).await;
    let mut client = with_echo.client().await;
    assert_eq!(ask(&mut client, "/echo", &[]).await.status, 101);
    let adopted = soon(with_echo.adopted.recv()).await.unwrap();
    assert!(adopted.head.starts_with(b"GET /echo HTTP/1.1\r\n"));

    let without = server().await;
    ask(&mut without.client().await, "/echo", &[]).await.is_error(404, "not_found", None);
}
