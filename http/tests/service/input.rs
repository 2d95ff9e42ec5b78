//! Invalid input that every call treats alike.

use crate::support::{server, server_with, settings};
use serde_json::json;
use uproar_core::limits::Limits;
use uproar_http::Settings;

#[tokio::test]
async fn unknown_paths_and_methods_are_rejected() {
    let server = server().await;
    let mut client = server.client().await;
    for path in ["/nothing", "/user", "/rooms/a/b/c/d", "/user/signup/", "//", "/connection", "/echo"] {
        client.get(path).await.assert_error(404, "not_found", None);
    }
    let response = client.get("/user/signup").await;
    response.assert_error(405, "method_not_allowed", None);
    assert_eq!(response.header("allow"), Some("POST"));
    let response = client.request("PUT", "/rooms/lobby", &[], None).await;
    response.assert_error(405, "method_not_allowed", None);
    let mut allowed: Vec<&str> = response.header("allow").unwrap().split(',').map(str::trim).collect();
    allowed.sort();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PATCH"]);
}

/// Every route exists, accepts only its method and requires a token unless it is open to everyone.
#[tokio::test]
async fn every_route_has_its_method_and_requires_a_token_unless_open() {
    let server = server_with(Settings { echo: true, ..settings() }).await;
    let mut client = server.client().await;
    let open = [
        "/user/signup",
        "/user/signin",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/",
        "/ws",
        "/connection/websocket",
        "/echo",
    ];
    for (method, path) in server.service.routes() {
        let concrete = path.replace("{name}", "lobby").replace("{username}", "ann");
        let concrete = concrete.replace("{offset}", "1").replace("{emoji}", "%F0%9F%91%8D").replace("{id}", "1");
        let response = client.request("TRACE", &concrete, &[], None).await;
        response.assert_error(405, "method_not_allowed", None);
        let allowed = response.header("allow").unwrap_or_default();
        assert!(allowed.split(',').any(|allowed| allowed.trim() == method.as_str()), "{method} {path}: {allowed}");

        let response = client.request(method.as_str(), &concrete, &[], None).await;
        if path.starts_with("/api") {
            // It needs a key, and says no more.
            assert_eq!((response.status, response.body.len()), (401, 0), "{path}");
        } else if path == "/hooks/{secret}" {
            assert_eq!((response.status, response.text().as_str()), (404, "no_service"), "its secret is in the path");
        } else if (method.as_str(), path) == ("GET", "/invites/{code}") {
            response.assert_error(404, "no_such_invite", None);
        } else if path.starts_with("/user/signin/oidc") {
            response.assert_error(404, "not_found", None);
        } else if open.contains(&path) {
            assert!(![401, 404, 405, 500].contains(&response.status), "{method} {path}: {}", response.status);
        } else {
            response.assert_error(401, "token_missing", None);
            assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        }
        for response in [&response, &client.request("TRACE", &concrete, &[], None).await] {
            assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
            let expected = if path == "/" && response.status == 200 { "no-cache" } else { "no-store" };
            assert_eq!(response.header("cache-control"), Some(expected), "{method} {path}");
        }
        if method == "GET" && response.status == 200 {
            let head = client.request("HEAD", &concrete, &[], None).await;
            assert_eq!(head.status, 200);
        }
    }
}

#[tokio::test]
async fn a_body_must_be_a_json_object() {
    let server = server().await;
    let mut client = server.client().await;
    for body in ["", "{", "nonsense", "{\"username\":\"a\",}", "{} {}"] {
        client.post_text("/user/signup", body).await.assert_error(400, "malformed_json", None);
    }
    for body in ["[]", "7", "null", "[\"ann\",\"ann@example.org\",\"correct horse\"]"] {
        client.post_text("/user/signup", body).await.assert_error(422, "invalid_field", None);
    }
}

#[tokio::test]
async fn the_content_type_must_be_json() {
    let server = server().await;
    let mut client = server.client().await;
    let body = json!({"username": "ann", "password": "x"}).to_string();
    let mut types = Vec::new();
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", ""]
    {
        types.push(vec![("Content-Type", content_type)]);
    }
    types.push(vec![]);
    for headers in types {
        let response = client.request("POST", "/user/signin", &headers, Some(body.as_bytes())).await;
        response.assert_error(415, "unsupported_media_type", None);
    }
    for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
        let headers = [("Content-Type", content_type)];
        let response = client.request("POST", "/user/signin", &headers, Some(body.as_bytes())).await;
        response.assert_error(401, "wrong_credentials", None);
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let server = server().await;
    let mut client = server.client().await;
    let body = json!({"username": "ann", "password": "x"}).to_string();
    for (coding, status) in [("gzip", 415), ("identity, gzip", 415), ("br", 415), ("identity", 401)] {
        let headers = [("Content-Type", "application/json"), ("Content-Encoding", coding)];
        let response = client.request("POST", "/user/signin", &headers, Some(body.as_bytes())).await;
        assert_eq!(response.status, status, "{coding}");
        if status == 415 {
            response.assert_error(415, "unsupported_encoding", None);
            assert_eq!(response.header("accept-encoding"), Some("identity"));
        }
    }
}

/// A misspelt or misplaced field would otherwise be ignored: `{"edit":1,"text":"x"}` was once a new message.
#[tokio::test]
async fn unknown_fields_and_parameters_are_refused() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    for (path, body) in [
        ("/user/signup", json!({"username": "ben", "email": "b@example.org", "password": "correct horse", "x": 1})),
        ("/user/signin", json!({"username": "ann", "password": "correct horse", "x": null})),
        ("/user/createroom", json!({"name": "other", "x": false})),
        ("/rooms/lobby/messages", json!({"text": "hello", "x": 1})),
        ("/rooms/lobby/members", json!({"username": "ben", "x": 1})),
        ("/me/password", json!({"current_password": "correct horse", "new_password": "correct horse", "x": 1})),
    ] {
        ann.post(path, body).await.assert_error(422, "unknown_field", Some("x"));
    }
    for path in ["/rooms?q=a", "/rooms/lobby/members?offset=1", "/user/getchats?room=lobby&since=1", "/me?fields=id"] {
        let field = path.split(['?', '&', '=']).rev().nth(1);
        ann.get(path).await.assert_error(422, "unknown_field", field);
    }
    let message = json!({"text": "hello"});
    let sent = ann.post("/rooms/lobby/messages?id=a", message.clone()).await;
    sent.assert_error(422, "unknown_field", Some("id"));
    ann.post("/rooms/lobby/messages?", message).await.expect(201);
    ann.get("/openapi.json?of=probe").await.expect(200);
}

#[tokio::test]
async fn all_wrong_fields_are_named_at_once() {
    let server = server().await;
    let mut client = server.client().await;
    let response = client.post("/user/signup", json!({"username": "", "password": "short", "nick": "x"})).await;
    response.assert_error(422, "invalid_field", Some("username"));
    let fields = response.json()["error"]["fields"].clone();
    let fields: Vec<_> = fields.as_array().unwrap().iter().map(|error| (&error["field"], &error["code"])).collect();
    assert_eq!(
        fields,
        [
            (&json!("username"), &json!("invalid_field")),
            (&json!("email"), &json!("missing_field")),
            (&json!("password"), &json!("invalid_field")),
            (&json!("nick"), &json!("unknown_field")),
        ]
    );
    let mut ann = server.sign_up("ann").await;
    let response = ann.get("/user/getchats?before=x&limit=0").await;
    response.assert_error(422, "missing_field", Some("room"));
    assert_eq!(response.json()["error"]["fields"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_body_may_be_as_long_as_the_limit_and_no_longer() {
    let server = server().await;
    let mut client = server.client().await;
    let body_of = |length: usize| {
        let body = json!({"username": "ann", "password": "x"}).to_string();
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    let longest = body_of(64 * 1024);
    assert_eq!(longest.len(), 64 * 1024);
    client.post_text("/user/signin", &longest).await.assert_error(401, "wrong_credentials", None);

    // The length is declared.
    client.post_text("/user/signin", &body_of(64 * 1024 + 1)).await.assert_error(413, "body_too_large", None);
    let mut client = server.client().await;
    client.post_text("/user/signin", &body_of(1024 * 1024)).await.assert_error(413, "body_too_large", None);
    // The length is declared and the body never sent: the request is rejected immediately, without `100 Continue`.
    let mut client = server.client().await;
    client
        .send(
            b"POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\
              Content-Length: 99999999999\r\n\r\n",
        )
        .await;
    client.response().await.assert_error(413, "body_too_large", None);
    // The length is not declared, and the body is far longer than the limit.
    let mut client = server.client().await;
    client
        .send(
            b"POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        )
        .await;
    for _ in 0..5 {
        client.send(b"8000\r\n").await;
        client.send(&[b' '; 0x8000]).await;
        client.send(b"\r\n").await;
    }
    client.response().await.assert_error(413, "body_too_large", None);
}

#[tokio::test]
async fn a_body_may_be_chunked() {
    let server = server().await;
    let mut client = server.client().await;
    client
        .send(
            b"POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        )
        .await;
    for part in ["{\"username\":", "\"ann\",\"pass", "word\":\"x\"}"] {
        client.send(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).await;
    }
    client.send(b"0\r\n\r\n").await;
    client.response().await.assert_error(401, "wrong_credentials", None);
    client.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_times_out() {
    let limits = Limits { body_timeout_ms: 20, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut client = server.client().await;
    client
        .send(b"POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        .await;
    client.response().await.assert_error(408, "body_timeout", None);
    client.closed().await;
}

#[tokio::test]
async fn a_body_with_invalid_framing_is_rejected() {
    let server = server().await;
    let mut client = server.client().await;
    client
        .send(
            b"POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
              Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        )
        .await;
    client.response().await.assert_error(400, "bad_request", None);
    client.closed().await;
}

/// An invalid head closes its own connection and affects no other. Hyper's own answers would have no body and none of
/// the headers that protect answers.
#[tokio::test]
async fn invalid_heads_are_rejected_with_an_error_like_any_other() {
    let server = server().await;
    let mut other = server.client().await;
    let target = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(64 * 1024));
    let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(100));
    for (head, status, code) in [
        ("nonsense\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/9.9\r\n\r\n", 400, "bad_request"),
        ("\0\0\0\0\r\n\r\n", 400, "bad_request"),
        ("GET /\x01 HTTP/1.1\r\n\r\n", 400, "bad_request"),
        ("\x16\x03\x01\x02\0\x01\0\x01", 400, "bad_request"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n", 400, "bad_request"),
        ("POST /user/signin HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "bad_request"),
        (&target, 431, "head_too_large"),
        (&long, 431, "head_too_large"),
        (&many, 431, "head_too_large"),
    ] {
        for before in ["", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut client = server.client().await;
            client.send(format!("{before}{head}").as_bytes()).await;
            if !before.is_empty() {
                client.response().await.expect(200);
            }
            let response = client.response().await;
            response.assert_error(status, code, None);
            assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{head:?}");
            assert_eq!(response.header("cache-control"), Some("no-store"), "{head:?}");
            assert_eq!(response.header("connection"), Some("close"), "{head:?}");
            client.closed().await;
            other.get("/healthz").await.expect(200);
        }
    }
}
