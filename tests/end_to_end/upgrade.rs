//! Asking for a WebSocket: on a fresh connection, where a shard answers, and on one that was kept, where the HTTP
//! service does. Both must say the same.

use crate::client::{Http, KEY, Response};
use crate::databases::Kind;
use crate::server::Server;

on_each_database! { what_is_refused_and_what_is_let_in }

/// A request with these headers and no others but Host.
async fn ask(port: u16, is_kept: bool, method: &str, path: &str, headers: &[(&str, &str)]) -> (Http, Response) {
    let mut http = Http::connect(port).await.unwrap();
    if is_kept {
        http.request("GET", "/healthz", &[], None).await.unwrap().expect(200);
    }
    let response = http.request(method, path, headers, None).await.unwrap();
    (http, response)
}

type Headers<'a> = &'a [(&'a str, &'a str)];

const UPGRADE: [(&str, &str); 4] = [
    ("Upgrade", "websocket"),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
];

async fn what_is_refused_and_what_is_let_in(kind: Kind) {
    let server = Server::start(kind, &["--allow-origin", "https://chat.example.org"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let bearer = format!("Bearer {}", ann.token);
    let authorization = ("Authorization", bearer.as_str());
    let protocol = format!("bearer.{}", ann.token);
    let protocols = format!("chat, {protocol}");
    let in_query = format!("/ws?room=r&token={}", ann.token);

    for is_kept in [false, true] {
        // Headers beside those of an upgrade.
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
            let (_, response) = ask(server.port, is_kept, "GET", path, &headers).await;
            assert_eq!(response.error(), (status, code.to_owned()), "{path} {headers:?} kept: {is_kept}");
            let error = &response.json()["error"];
            assert!(error.get("field").is_some(), "{error} kept: {is_kept}");
            if status == 401 {
                assert!(response.header("WWW-Authenticate").is_some_and(|value| value.starts_with("Bearer")));
            }
        }

        // Upgrades that are none: what is changed about a good one.
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
            let (_, response) = ask(server.port, is_kept, "GET", "/ws?room=r", &headers).await;
            let error = response.error();
            // Without the word the header is none: to the HTTP service this is no upgrade at all.
            let is_none = name == "Connection" && error == (426, "upgrade_required".to_owned());
            assert!(is_none || error == (status, code.to_owned()), "{name}: {value:?} kept: {is_kept}: {error:?}");
            if name == "Sec-WebSocket-Version" {
                assert_eq!(response.header(name), Some("13"));
            }
        }
        let headers = [&UPGRADE[..], &[authorization]].concat();
        let (_, response) = ask(server.port, is_kept, "POST", "/ws?room=r", &headers).await;
        assert!([400, 405].contains(&response.status), "POST kept: {is_kept}: {response:?}");

        // Let in.
        let own_origin = ("Origin", "http://localhost");
        let good: [(&str, Headers<'_>, Option<&str>); 8] = [
            ("/ws?room=r", &[authorization], None),
            ("/ws?room=r&format=text", &[authorization], None),
            ("/ws?room=r", &[("authorization", bearer.as_str())], None),
            (&in_query, &[], None),
            ("/ws?room=r", &[("Sec-WebSocket-Protocol", &protocols)], Some(&protocol)),
            // Offered, but not what let them in.
            ("/ws?room=r", &[authorization, ("Sec-WebSocket-Protocol", "chat")], None),
            (&in_query, &[own_origin], None),
            ("/ws?room=r", &[authorization, ("Origin", "https://chat.example.org")], None),
        ];
        for (path, headers, expected) in good {
            let headers = [&UPGRADE, headers].concat();
            let (http, response) = ask(server.port, is_kept, "GET", path, &headers).await;
            assert_eq!(response.status, 101, "{path} {headers:?} kept: {is_kept}: {response:?}");
            assert_eq!(response.header("Sec-WebSocket-Protocol"), expected);
            assert_eq!(response.header("Sec-WebSocket-Extensions"), None);
            let mut ws = http.into_raw().into_ws().await;
            assert_eq!(ws.event().await["type"], "joined", "{path} kept: {is_kept}");
            let (_, text) = ws.round_trip("in").await;
            assert_eq!(text, "in");
        }
    }
    // No token is ever logged.
    let secret = ann.token.rsplit('.').next().unwrap();
    assert!(!server.place.log().contains(secret));
}

#[tokio::test]
async fn tokens_in_the_query_can_be_forbidden() {
    let server = Server::start(Kind::Sqlite, &["--no-query-token", "--log", "debug"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    for is_kept in [false, true] {
        let path = format!("/ws?room=r&token={}", ann.token);
        let (_, response) = ask(server.port, is_kept, "GET", &path, &UPGRADE).await;
        assert_eq!(response.error(), (401, "token_missing".into()), "kept: {is_kept}");
        let protocol = format!("bearer.{}", ann.token);
        let headers = [&UPGRADE[..], &[("Sec-WebSocket-Protocol", protocol.as_str())]].concat();
        let (_, response) = ask(server.port, is_kept, "GET", "/ws?room=r", &headers).await;
        assert_eq!(response.status, 101, "kept: {is_kept}");
    }
    let secret = ann.token.rsplit('.').next().unwrap();
    assert!(!server.place.log().contains(secret), "a token was logged");
}
