//! Bad input that is the same for every call.

use crate::support::{server, server_with, settings};
use serde_json::json;
use uproar_http::{Limits, Settings};

#[tokio::test]
async fn unknown_paths_and_methods() {
    let server = server().await;
    let mut client = server.client().await;
    for path in ["/nothing", "/user", "/rooms/a/b/c/d", "/user/signup/", "//", "/connection", "/echo"] {
        client.get(path).await.is_error(404, "not_found", None);
    }
    let answer = client.get("/user/signup").await;
    answer.is_error(405, "method_not_allowed", None);
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = client.request("PUT", "/rooms/lobby", &[], None).await;
    answer.is_error(405, "method_not_allowed", None);
    let mut allowed: Vec<&str> = answer.header("allow").unwrap().split(',').map(str::trim).collect();
    allowed.sort();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD"]);
}

/// Every route is there, wants its method, and all but those for everyone want a token.
#[tokio::test]
async fn every_route_answers_for_itself() {
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
        let answer = client.request("PATCH", &concrete, &[], None).await;
        answer.is_error(405, "method_not_allowed", None);
        let allowed = answer.header("allow").unwrap_or_default();
        assert!(allowed.split(',').any(|allowed| allowed.trim() == method.as_str()), "{method} {path}: {allowed}");

        let answer = client.request(method.as_str(), &concrete, &[], None).await;
        if open.contains(&path) {
            assert!(![401, 404, 405, 500].contains(&answer.status), "{method} {path}: {}", answer.status);
        } else {
            answer.is_error(401, "token_missing", None);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        if method == "GET" && answer.status == 200 {
            let head = client.request("HEAD", &concrete, &[], None).await;
            assert_eq!(head.status, 200);
        }
    }
}

#[tokio::test]
async fn bodies_that_are_no_json_objects() {
    let server = server().await;
    let mut client = server.client().await;
    for body in ["", "{", "nonsense", "{\"username\":\"a\",}", "{} {}"] {
        client.post_text("/user/signup", body).await.is_error(400, "malformed_json", None);
    }
    for body in ["[]", "7", "null", "[\"ann\",\"ann@example.org\",\"correct horse\"]"] {
        client.post_text("/user/signup", body).await.is_error(422, "invalid_field", None);
    }
}

#[tokio::test]
async fn the_content_type_counts() {
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
        let answer = client.request("POST", "/user/signin", &headers, Some(body.as_bytes())).await;
        answer.is_error(415, "unsupported_media_type", None);
    }
    for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
        let headers = [("Content-Type", content_type)];
        let answer = client.request("POST", "/user/signin", &headers, Some(body.as_bytes())).await;
        answer.is_error(401, "wrong_credentials", None);
    }
}

#[tokio::test]
async fn a_body_up_to_the_limit_and_no_further() {
    let server = server().await;
    let mut client = server.client().await;
    let body_of = |length: usize| {
        let body = json!({"username": "ann", "password": "x", "more": ""}).to_string();
        let padding = "x".repeat(length - body.len());
        json!({"username": "ann", "password": "x", "more": padding}).to_string()
    };
    let longest = body_of(64 * 1024);
    assert_eq!(longest.len(), 64 * 1024);
    client.post_text("/user/signin", &longest).await.is_error(401, "wrong_credentials", None);

    // Declared.
    client.post_text("/user/signin", &body_of(64 * 1024 + 1)).await.is_error(413, "body_too_large", None);
    // Declared and never sent: refused at once, without an invitation to send it.
    let mut client = server.client().await;
    client
        .send(
            b"POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\
              Content-Length: 99999999999\r\n\r\n",
        )
        .await;
    client.answer().await.is_error(413, "body_too_large", None);
    // Not declared, and longer than the limit by far.
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
    client.answer().await.is_error(413, "body_too_large", None);
}

#[tokio::test]
async fn a_body_in_chunks() {
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
    client.answer().await.is_error(401, "wrong_credentials", None);
    client.get("/healthz").await.ok(200);
}

#[tokio::test]
async fn a_body_that_does_not_come() {
    let limits = Limits { body_timeout: std::time::Duration::from_millis(20), ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut client = server.client().await;
    client
        .send(b"POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        .await;
    client.answer().await.is_error(408, "body_timeout", None);
    client.ended().await;
}

#[tokio::test]
async fn a_body_cut_short_or_wrongly_framed() {
    let server = server().await;
    let mut client = server.client().await;
    client
        .send(
            b"POST /user/signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
              Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        )
        .await;
    client.answer().await.is_error(400, "bad_request", None);
    client.ended().await;
}

/// What is wrong with one connection is nothing to another.
#[tokio::test]
async fn heads_that_are_none() {
    let server = server().await;
    let mut other = server.client().await;
    let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(500));
    for head in
        ["nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\0\0\0\0\r\n\r\n", "GET /\x01 HTTP/1.1\r\n\r\n", &long, &many]
    {
        let mut client = server.client().await;
        client.send(head.as_bytes()).await;
        let answer = client.answer().await;
        assert!([400, 431].contains(&answer.status), "{}", answer.status);
        client.ended().await;
        other.get("/healthz").await.ok(200);
    }
}
