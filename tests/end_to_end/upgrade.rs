//! Proves which upgrades are accepted and which are rejected, and that it makes no difference whether another request
//! came first on the connection, so that the HTTP service has it.

use crate::client::{Headers, Http, KEY, Response};
use crate::databases::Kind;
use crate::server::Server;

on_each_database! { upgrades_are_accepted_and_rejected_alike_on_fresh_and_reused_connections }

/// Sends a request with only these headers, and Host.
async fn request(port: u16, is_reused: bool, method: &str, path: &str, headers: &[(&str, &str)]) -> (Http, Response) {
    let mut http = Http::fresh_or_reused(port, is_reused).await;
    let response = http.request(method, path, headers, None).await.unwrap();
    (http, response)
}

const UPGRADE: [(&str, &str); 4] = [
    ("Upgrade", "websocket"),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
];

pub async fn upgrades_are_accepted_and_rejected_alike_on_fresh_and_reused_connections(kind: Kind) {
    let server = Server::start(kind, &["--allow-origin", "https://chat.example.org", "--query-token"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let bearer = format!("Bearer {}", ann.token);
    let authorization = ("Authorization", bearer.as_str());
    let protocol = format!("bearer.{}", ann.token);
    let protocols = format!("chat, {protocol}");
    let in_query = format!("/ws?room=r&token={}", ann.token);

    for is_reused in [false, true] {
        // The headers are added to those of an upgrade.
        let more: [(&str, Headers<'_>, u16, &str); 12] = [
            ("/ws?room=r", &[], 401, "token_missing"),
            ("/ws?room=r", &[("Authorization", "Bearer nonsense")], 401, "token_invalid"),
            ("/ws?room=r&token=nonsense", &[], 401, "token_invalid"),
            ("/ws?room=r", &[("Sec-WebSocket-Protocol", "bearer.nonsense")], 401, "token_invalid"),
            ("/ws?room=none", &[authorization], 404, "no_such_room"),
            ("/ws?room=none", &[], 401, "token_missing"),
            ("/ws", &[authorization], 422, "missing_field"),
            ("/ws?room=r&since=x", &[authorization], 422, "invalid_field"),
            ("/ws?room=r&format=raw", &[authorization], 422, "invalid_field"),
            ("/ws?room=r&format=xml", &[authorization], 422, "invalid_field"),
            ("/nothing", &[authorization], 404, "not_found"),
            ("/ws?room=r", &[authorization, ("Origin", "https://evil.example.org")], 403, "origin_not_allowed"),
        ];
        for (path, headers, status, code) in more {
            let headers = [&UPGRADE, headers].concat();
            let (_, response) = request(server.port, is_reused, "GET", path, &headers).await;
            assert_eq!(response.error(), (status, code.to_owned()), "{path} {headers:?} reused: {is_reused}");
            let error = &response.json()["error"];
            assert!(error.get("field").is_some(), "{error} reused: {is_reused}");
            if status == 401 {
                assert!(response.header("WWW-Authenticate").is_some_and(|value| value.starts_with("Bearer")));
            }
        }

        let path = "/ws?since=x&format=xml&color=red&since=1";
        let (_, response) =
            request(server.port, is_reused, "GET", path, &[&UPGRADE[..], &[authorization]].concat()).await;
        let error = &response.json()["error"];
        let fields = error["fields"].as_array().unwrap();
        let fields: Vec<_> =
            fields.iter().map(|field| [&field["field"], &field["code"]].map(|text| text.as_str().unwrap())).collect();
        let expected = [
            ["color", "unknown_field"],
            ["since", "invalid_field"],
            ["room", "missing_field"],
            ["format", "invalid_field"],
        ];
        assert_eq!(fields, expected);
        assert_eq!((&error["field"], &error["code"]), (&"color".into(), &"unknown_field".into()));

        // Invalid upgrades: one header is changed or missing.
        let changed: [(&str, Option<&str>, u16, &str); 9] = [
            ("Upgrade", None, 426, "upgrade_required"),
            ("Upgrade", Some("h2c"), 426, "upgrade_required"),
            ("Connection", None, 400, "bad_upgrade"),
            ("Connection", Some("keep-alive"), 400, "bad_upgrade"),
            ("Sec-WebSocket-Version", None, 426, "upgrade_required"),
            ("Sec-WebSocket-Version", Some("8"), 426, "upgrade_required"),
            ("Sec-WebSocket-Key", None, 400, "bad_upgrade"),
            ("Sec-WebSocket-Key", Some("short"), 400, "bad_upgrade"),
            ("Sec-WebSocket-Key", Some("AAAAAAAAAAAAAAAAAAAAAAAAAA=="), 400, "bad_upgrade"),
        ];
        for (name, value, status, code) in changed {
            let mut headers: Vec<(&str, &str)> = UPGRADE.into_iter().filter(|(known, _)| *known != name).collect();
            headers.extend(value.map(|value| (name, value)));
            headers.push(authorization);
            let (_, response) = request(server.port, is_reused, "GET", "/ws?room=r", &headers).await;
            assert_eq!(response.error(), (status, code.to_owned()), "{name}: {value:?} reused: {is_reused}");
            if name == "Sec-WebSocket-Version" {
                assert_eq!(response.header(name), Some("13"));
            }
        }
        let headers = [&UPGRADE[..], &[authorization]].concat();
        let (_, response) = request(server.port, is_reused, "POST", "/ws?room=r", &headers).await;
        assert_eq!(response.error(), (400, "bad_upgrade".to_owned()), "POST reused: {is_reused}");

        // Accepted upgrades.
        let own_origin = ("Origin", "http://localhost");
        let good: [(&str, Headers<'_>, Option<&str>); 8] = [
            ("/ws?room=r", &[authorization], None),
            ("/ws?room=r&format=text", &[authorization], None),
            ("/ws?room=r", &[("authorization", bearer.as_str())], None),
            (&in_query, &[], None),
            ("/ws?room=r", &[("Sec-WebSocket-Protocol", &protocols)], Some(&protocol)),
            // A protocol is offered, but the token came in another way.
            ("/ws?room=r", &[authorization, ("Sec-WebSocket-Protocol", "chat")], None),
            (&in_query, &[own_origin], None),
            ("/ws?room=r", &[authorization, ("Origin", "https://chat.example.org")], None),
        ];
        for (path, headers, expected) in good {
            let headers = [&UPGRADE, headers].concat();
            let (http, response) = request(server.port, is_reused, "GET", path, &headers).await;
            assert_eq!(response.status, 101, "{path} {headers:?} reused: {is_reused}: {response:?}");
            assert_eq!(response.header("Sec-WebSocket-Protocol"), expected);
            assert_eq!(response.header("Sec-WebSocket-Extensions"), None);
            let mut ws = http.into_raw().into_ws().await;
            assert_eq!(ws.event().await["type"], "joined", "{path} reused: {is_reused}");
            let (_, text) = ws.round_trip("in").await;
            assert_eq!(text, "in");
        }
    }
    // No token is logged.
    let secret = ann.token.rsplit('.').next().unwrap();
    assert!(!server.setup.log().contains(secret));
}

/// The status, the error if there is one, and the headers of an answer.
type Answer = (u16, String, Vec<String>);

async fn answer(port: u16, is_reused: bool, request: &str) -> Answer {
    let mut http = Http::fresh_or_reused(port, is_reused).await;
    http.write(request.as_bytes()).await.unwrap();
    let response = http.receive().await.unwrap_or_else(|error| panic!("{error}: {request}"));
    let mut headers: Vec<String> = response.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    headers.retain(|header| !header.to_ascii_lowercase().starts_with("date: "));
    headers.sort();
    (response.status, String::from_utf8_lossy(&response.body).into_owned(), headers)
}

#[tokio::test]
async fn odd_requests_get_the_same_answer_on_fresh_and_reused_connections() {
    let server = Server::start(Kind::any(), &["--echo"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let token = &ann.token;
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let upgrade = format!(
        "GET /ws?room=r HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{bearer}\r\n"
    );
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    // What is replaced in the request by what, and the status of the answer.
    let odd: [(&str, &str, u16); 52] = [
        ("", "", 101),
        // Methods, versions and targets.
        ("GET", "HEAD", 400),
        ("GET", "OPTIONS", 400),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("/ws?room=r", "http://localhost/ws?room=r", 101),
        ("/ws?room=r", "http://elsewhere.example/ws?room=r", 101),
        ("/ws?room=r", "*", 404),
        ("/ws?room=r", "/", 404),
        ("/ws?room=r", "/ws/?room=r", 404),
        ("/ws?room=r", "//ws?room=r", 404),
        ("/ws?room=r", "/%77s?room=r", 404),
        ("/ws?room=r", "/metrics", 404),
        ("/ws?room=r", "/echo", 101),
        ("/ws?room=r", "/connection/websocket?x=y", 101),
        ("/ws?room=r", "/<", 400),
        // Queries.
        ("?room=r", "", 422),
        ("?room=r", "?room=", 422),
        ("?room=r", "?room=r&room=r", 422),
        ("?room=r", "?room=r%20", 101),
        ("?room=r", "?room=%zz", 404),
        ("?room=r", "?room=%ff", 404),
        ("?room=r", "?room=r#fragment", 101),
        ("?room=r", "?Room=r", 422),
        ("?room=r", "?room=r&sinc=0", 422),
        ("?room=r", "?room=r&since=", 422),
        ("?room=r", "?room=r&since=-1", 422),
        ("?room=r", "?room=r&since=9007199254740992", 422),
        ("?room=r", "?room=live:", 422),
        ("?room=r", "?room=live:x&since=0", 422),
        ("?room=r", "?room=live:x&format=raw", 101),
        ("?room=r", "?&room=r&", 101),
        // Keys.
        (KEY, "AQIDBAUGBwgJCgsMDQ4PEC==", 101),
        (KEY, " dGhlIHNhbXBsZSBub25jZQ== ", 101),
        (KEY, "dGhlIHNhbXBsZSBub25jZQ", 400),
        (&key, &format!("{key}{key}"), 400),
        // Repeated and missing headers.
        ("Upgrade: websocket", "Upgrade: h2c, WebSocket", 101),
        ("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: websocket", 101),
        ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade", 101),
        ("Connection: Upgrade", "Connection: close, Upgrade", 101),
        ("Host: localhost", "Host: localhost\r\nHost: localhost", 400),
        ("Host: localhost\r\n", "", 400),
        ("Version: 13", "Version: 8, 13", 426),
        ("Host", "Origin: http://localhost\r\nOrigin: http://localhost\r\nHost", 400),
        ("Host", "Origin: \r\nHost", 403),
        // Credentials.
        (&bearer, &format!("{bearer}{bearer}"), 101),
        (&bearer, &format!("Authorization: Basic YTpi\r\n{bearer}"), 101),
        (&bearer, &format!("Authorization: Basic YTpi\r\nSec-WebSocket-Protocol: bearer., bearer.{token}\r\n"), 101),
        (&bearer, "Authorization: Basic YTpi\r\n", 401),
        // Bodies.
        ("Host", "Content-Length: 0\r\nHost", 101),
        ("Host", "Content-Length: 5\r\nHost", 400),
        ("Host", "Transfer-Encoding: chunked\r\nHost", 400),
        ("Host", "Content-Length: 5x\r\nHost", 400),
    ];
    for (from, to, status) in odd {
        let request = upgrade.replacen(from, to, 1);
        let first = answer(server.port, false, &request).await;
        assert_eq!(first.0, status, "{request}{first:?}");
        assert_eq!(answer(server.port, true, &request).await, first, "{request}");
        if first.0 != 101 && !first.1.is_empty() {
            for header in ["Cache-Control: no-store", "X-Content-Type-Options: nosniff"] {
                assert!(first.2.iter().any(|sent| sent == header), "{first:?}");
            }
        }
    }
}

#[tokio::test]
async fn tokens_in_the_query_are_not_accepted_by_default() {
    let server = Server::start(Kind::any(), &["--log", "debug"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    for is_reused in [false, true] {
        let path = format!("/ws?room=r&token={}", ann.token);
        let (_, response) = request(server.port, is_reused, "GET", &path, &UPGRADE).await;
        assert_eq!(response.error(), (401, "token_missing".into()), "reused: {is_reused}");
        let protocol = format!("bearer.{}", ann.token);
        let headers = [&UPGRADE[..], &[("Sec-WebSocket-Protocol", protocol.as_str())]].concat();
        let (_, response) = request(server.port, is_reused, "GET", "/ws?room=r", &headers).await;
        assert_eq!(response.status, 101, "reused: {is_reused}");
    }
    let secret = ann.token.rsplit('.').next().unwrap();
    assert!(!server.setup.log().contains(secret), "a token was logged");
}
