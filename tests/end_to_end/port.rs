//! Proves that HTTP and WebSocket share one port, and that bad requests on it are answered and disturb nobody.

use crate::client::{FIN, Http, KEY, Raw, TEXT, Ws, frame, within};
use crate::databases::Kind;
use crate::server::{Server, until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

on_each_database! { http_and_websocket_share_a_port }

pub async fn http_and_websocket_share_a_port(kind: Kind) {
    const CLIENTS: usize = 60;
    let server = Server::start(kind, &["--limit", "publish_rate_per_second=0"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let port = server.port;
    let bearer = format!("Bearer {}", ann.token);
    let mut watcher = server.join(&ann, "room=r").await;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (bearer, token) = (bearer.clone(), ann.token.clone());
        clients.spawn(async move {
            let headers = [("Authorization", bearer.as_str())];
            let mut http = Http::connect(port).await.unwrap();
            // The connection is reused for each request, whatever the answer.
            http.request("GET", "/healthz", &[], None).await.unwrap().expect(200);
            http.request("GET", "/me", &headers, None).await.unwrap().expect(200);
            http.request("GET", "/me", &[], None).await.unwrap().expect(401);
            let body = json!({"text": format!("by HTTP {number}"), "id": format!("h{number}")});
            http.request("POST", "/rooms/r/messages", &headers, Some(&body)).await.unwrap().expect(201);
            let answer = http.request("GET", "/user/getchats?room=r&limit=1", &headers, None).await.unwrap();
            assert!(answer.expect(200)["offset"].as_u64() >= Some(1));
            // Finally it is upgraded.
            let Ok((raw, _)) = http.upgrade("/ws?room=r&format=json", &headers).await else {
                panic!("the upgrade was rejected")
            };
            let mut reused = raw.into_ws().await;
            assert_eq!(reused.event().await["type"], "joined");
            let mut fresh = Ws::join(port, &token, "room=r&format=json").await.unwrap();
            for (ws, id) in [(&mut reused, format!("k{number}")), (&mut fresh, format!("f{number}"))] {
                ws.send(json!({"text": "by WebSocket", "id": id}).to_string()).await;
                while ws.event().await["id"] != id.as_str() {}
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    for offset in 1..=3 * CLIENTS as u64 {
        assert_eq!(watcher.message().await.0, offset);
    }
}

#[tokio::test]
async fn frames_sent_with_the_upgrade_are_not_lost() {
    let server = Server::start(Kind::any(), &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let upgrade = format!(
        "GET /ws?room=r HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nAuthorization: Bearer {}\r\n\r\n",
        ann.token
    );
    let mut bytes = upgrade.clone().into_bytes();
    bytes.extend(frame(FIN | TEXT, b"early"));
    let health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut offset = 0;
    // On a fresh connection, and after a request in the same packet; whole, and in pieces.
    for (before, piece) in [(&b""[..], 10_000), (&health[..], 10_000), (&b""[..], 1), (&health[..], 7)] {
        let mut http = Http::connect(server.port).await.unwrap();
        for part in [before, &bytes].concat().chunks(piece) {
            http.write(part).await.unwrap();
        }
        if !before.is_empty() {
            http.receive().await.unwrap().expect(200);
        }
        assert_eq!(http.receive().await.unwrap().status, 101);
        let mut ws = http.into_raw().into_ws().await;
        assert_eq!(ws.event().await["offset"], offset);
        offset += 1;
        assert_eq!(ws.message().await, (offset, "early".into()));
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(Kind::any(), &[]).await;
    let mut http = Http::connect(server.port).await.unwrap();
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let paths = ["/healthz", "/me", "/nothing", "/healthz"];
    http.write(paths.map(request).concat().as_bytes()).await.unwrap();
    for status in [200, 401, 404, 200] {
        assert_eq!(http.receive().await.unwrap().status, status);
    }
}

/// A bad request gets an error and does not affect other clients.
#[tokio::test]
async fn invalid_requests_are_answered() {
    let server = Server::start(Kind::any(), &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut neighbour = server.join(&ann, "room=r").await;
    let bearer = format!("Authorization: Bearer {}\r\n", ann.token);
    let post = |path: &str, headers: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let json = "Content-Type: application/json\r\n";
    let long = "x".repeat(100_000);
    let mut offset = 0;
    for (request, status, code) in [
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 404, "not_found"),
        ("DELETE /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 405, "method_not_allowed"),
        ("GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 426, "upgrade_required"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400, "bad_request"),
        (post("/user/createroom", json, "{"), 400, "malformed_json"),
        (post("/user/createroom", json, "{}"), 422, "missing_field"),
        (post("/user/createroom", json, "{\"name\":7}"), 422, "invalid_field"),
        (post("/user/createroom", "", "{}"), 415, "unsupported_media_type"),
        (post("/user/createroom", json, &format!("{{\"name\":\"{long}\"}}")), 413, "body_too_large"),
        (post("/rooms/none/messages", json, "{\"text\":\"x\"}"), 404, "no_such_room"),
        ("nonsense\r\n\r\n".to_owned(), 400, ""),
        (format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"), 431, ""),
        (format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 414, ""),
    ] {
        let start: String = request.chars().take(60).collect();
        let mut http = Http::connect(server.port).await.unwrap();
        // The server may answer and close the connection before the whole request is written.
        let _ = http.write(request.as_bytes()).await;
        let answer = http.receive().await.unwrap_or_else(|error| panic!("{start}: {error}"));
        if code.is_empty() {
            // These answers are the HTTP library's, without an error code. It may answer 431 instead of 414.
            assert!(answer.status == status || status == 414 && answer.status == 431, "{start}: {answer:?}");
        } else {
            assert_eq!(answer.error(), (status, code.to_owned()), "{start}");
            assert!(answer.json()["error"].as_object().unwrap().contains_key("field"), "{start}");
        }
        offset += 1;
        assert_eq!(neighbour.round_trip("still here").await, (offset, "still here".into()), "{start}");
    }
    // A TLS handshake on a port without TLS.
    let mut raw = Raw { stream: TcpStream::connect(("127.0.0.1", server.port)).await.unwrap(), unread: Vec::new() };
    raw.send(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await;
    let mut answer = Vec::new();
    let _ = within("the connection ends", raw.stream.read_to_end(&mut answer)).await;
    assert_eq!(neighbour.round_trip("still here").await, (offset + 1, "still here".into()));
}

/// When all places are taken, a further connection takes that of the one that has been idle the longest. With none idle
/// it is refused, unless it asks for the server's health.
#[tokio::test]
async fn an_http_connection_above_the_limit_takes_the_place_of_an_idle_one() {
    let server = Server::start(Kind::Sqlite, &["--limit", "http_connections_limit=2"]).await;
    // A connection counts as idle a moment after its client has the answer, so the order is not right at once.
    until("the first of three connections makes room for the third", async || {
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut http = Http::connect(server.port).await.unwrap();
            match http.request("GET", "/openapi.json", &[], None).await {
                Ok(answer) if answer.status == 200 => held.push(http),
                _ => return false,
            }
        }
        let mut are_open = Vec::new();
        for http in &mut held {
            are_open
                .push(http.request("GET", "/openapi.json", &[], None).await.is_ok_and(|answer| answer.status == 200));
        }
        are_open == [false, true, true]
    })
    .await;

    // Requests whose bodies never come keep their places.
    let head = "POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
    let mut busy = Vec::new();
    until("no place is left", async || {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        busy.push(stream);
        let mut refused = Http::connect(server.port).await.unwrap();
        matches!(refused.request("GET", "/openapi.json", &[], None).await, Ok(answer) if answer.status == 503)
    })
    .await;
    let mut health = Http::connect(server.port).await.unwrap();
    health.request("GET", "/healthz", &[], None).await.unwrap().expect(200);
    server.get("/readyz", "").await.expect(200);
}
