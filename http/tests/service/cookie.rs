//! The cookie that keeps a browser signed in.

use crate::support::{Answer, Client, Server, server, server_with, settings};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uproar_http::{Origins, Settings};

/// The server's own, by the `Host` that the client sends.
const OWN: &str = "http://localhost";

/// The token in the cookie that an answer sets, and what is said about it.
fn set_cookie(answer: &Answer) -> Option<(String, Vec<String>)> {
    let mut set = answer.headers.iter().filter(|(name, _)| name == "set-cookie");
    let (_, value) = set.next()?;
    assert!(set.next().is_none(), "two cookies");
    let mut parts = value.split("; ").map(str::to_owned);
    let token = parts.next().unwrap().strip_prefix("uproar_token=").expect("its name").to_owned();
    let mut attributes: Vec<String> = parts.collect();
    attributes.sort();
    Some((token, attributes))
}

const ATTRIBUTES: [&str; 4] = ["HttpOnly", "Max-Age=3625", "Path=/token/refresh", "SameSite=Strict"];

/// A connection whose user has the cookie and no token, as a page has that was loaded again.
async fn reloaded(server: &Server, username: &str) -> (Client, String) {
    let mut client = server.signed_up(username).await;
    let token = client.token.take().unwrap();
    (client, format!("uproar_token={token}"))
}

async fn refresh(client: &mut Client, headers: &[(&str, &str)]) -> Answer {
    client.request("POST", "/token/refresh", headers, None).await
}

#[tokio::test]
async fn signing_up_and_in_set_it() {
    let server = server().await;
    let mut client = server.client().await;
    let sign_up = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
    let sign_in = json!({"username": "ann", "password": "correct horse"});
    for (path, body) in [("/user/signup", sign_up), ("/user/signin", sign_in)] {
        let answer = client.post(path, body).await;
        let (token, attributes) = set_cookie(&answer).expect("a cookie");
        assert_eq!(attributes, ATTRIBUTES, "{path}");
        assert_eq!(answer.json()["token"], token, "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let wrong = client.post("/user/signin", json!({"username": "ann", "password": "wrong"})).await;
    assert_eq!((wrong.status, set_cookie(&wrong)), (401, None));
}

#[tokio::test]
async fn it_is_exchanged_for_a_token() {
    let server = server().await;
    let (mut page, mut cookie) = reloaded(&server, "ann").await;
    for _ in 0..2 {
        let answer = refresh(&mut page, &[("Cookie", &format!("theme=dark; {cookie}")), ("Origin", OWN)]).await;
        let (renewed, attributes) = set_cookie(&answer).expect("a cookie");
        assert_eq!(attributes, ATTRIBUTES);
        let body = answer.ok(200);
        assert_eq!((&body["token"], &body["user"]["username"]), (&json!(renewed), &json!("ann")));
        cookie = format!("uproar_token={renewed}");
        page.token = Some(renewed);
        page.get("/me").await.ok(200);
        page.token = None;
    }
    refresh(&mut page, &[("Origin", OWN)]).await.is_error(401, "token_missing", None);
    refresh(&mut page, &[("Origin", OWN), ("Cookie", "uproar_token=x")]).await.is_error(401, "token_invalid", None);
    let account = server.store.ensure_user("ann", "ann").await.unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (ended_s, status) in [(5, 200), (50, 401)] {
        let cookie = format!("uproar_token={}", server.tokens.issue(&account, now - 100, 100 - ended_s));
        let answer = refresh(&mut page, &[("Origin", OWN), ("Cookie", &cookie)]).await;
        assert_eq!(answer.status, status, "ended {ended_s} s ago: {}", answer.text());
    }
}

#[tokio::test]
async fn only_pages_of_the_right_origin_use_it() {
    let origins = || Origins::parse(&["https://app.example"]).unwrap();
    let (other, evil) = ("https://app.example", "https://evil.example");
    for (origins, good, bad) in [
        (Origins::Own, vec![OWN], vec![other, evil, "null", "http://localhost:3000", "http://localhost.evil.example"]),
        (origins(), vec![OWN, other], vec![evil, "null", "http://app.example"]),
        // Everyone may use the API, but not what a browser keeps for this server.
        (Origins::Any, vec![OWN], vec![other, evil, "null"]),
    ] {
        let server = server_with(Settings { origins, ..settings() }).await;
        let (mut page, cookie) = reloaded(&server, "ann").await;
        for origin in good {
            refresh(&mut page, &[("Cookie", &cookie), ("Origin", origin)]).await.ok(200);
        }
        for origin in bad {
            let answer = refresh(&mut page, &[("Cookie", &cookie), ("Origin", origin)]).await;
            answer.is_error(403, "origin_not_allowed", None);
            assert_eq!(set_cookie(&answer), None, "{origin}");
        }
        refresh(&mut page, &[("Cookie", &cookie)]).await.is_error(403, "origin_not_allowed", None);
    }
}

/// Who sends `Authorization` is answered as without a cookie, whatever is in it.
#[tokio::test]
async fn a_header_goes_before_it() {
    let server = server().await;
    let (mut page, cookie) = reloaded(&server, "ann").await;
    for (value, code) in [("", "token_missing"), ("Basic YTpi", "token_missing"), ("Bearer x", "token_invalid")] {
        let headers = [("Authorization", value), ("Cookie", cookie.as_str()), ("Origin", OWN)];
        refresh(&mut page, &headers).await.is_error(401, code, None);
    }
    page.token = server.signed_up("bob").await.token;
    for headers in
        [&[("Cookie", cookie.as_str())][..], &[("Cookie", cookie.as_str()), ("Origin", "https://evil.example")]]
    {
        let answer = refresh(&mut page, headers).await;
        assert_eq!(set_cookie(&answer), None);
        assert_eq!(answer.ok(200)["user"]["username"], "bob");
    }
}

/// A page that exchanges the token that it has in memory does not let the cookie end meanwhile.
#[tokio::test]
async fn a_header_of_the_same_user_renews_it() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let cookie = format!("uproar_token={}", ann.token.clone().unwrap());
    let renewed = refresh(&mut ann, &[("Cookie", &cookie), ("Origin", OWN)]).await;
    let (token, attributes) = set_cookie(&renewed).expect("a cookie");
    assert_eq!(attributes, ATTRIBUTES);
    assert_eq!(renewed.ok(200)["token"], token);
    // But nothing that is no page of this server gets one.
    for headers in [
        &[][..],
        &[("Origin", OWN)],
        &[("Cookie", cookie.as_str())],
        &[("Cookie", cookie.as_str()), ("Origin", "https://evil.example")],
        &[("Cookie", "uproar_token=x"), ("Origin", OWN)],
    ] {
        let answer = refresh(&mut ann, headers).await;
        assert_eq!((answer.status, set_cookie(&answer)), (200, None), "{headers:?}");
    }
}

/// Nothing can be done with the cookie alone: a page elsewhere that makes a browser send it achieves nothing.
#[tokio::test]
async fn every_other_call_ignores_it() {
    let server = server().await;
    let (mut page, cookie) = reloaded(&server, "ann").await;
    let headers = [("Cookie", cookie.as_str()), ("Origin", OWN), ("Content-Type", "application/json")];
    let open =
        ["/user/signup", "/user/signin", "/token/refresh", "/healthz", "/readyz", "/metrics", "/openapi.json", "/"];
    let mut asked = 0;
    for (method, path) in server.service.routes() {
        if open.contains(&path) || path == "/connection/websocket" {
            continue;
        }
        let path = match path {
            "/ws" => "/ws?room=live:x".to_owned(),
            path => path.replace("{name}", "lobby").replace("{username}", "bob"),
        };
        let mut all = headers.to_vec();
        if path.starts_with("/ws") {
            all.extend([("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]);
            all.push(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="));
        }
        let body = (method == "POST").then_some(b"{}".as_slice());
        page.request(method.as_str(), &path, &all, body).await.is_error(401, "token_missing", None);
        asked += 1;
    }
    assert!(asked > 12, "{asked}");
    refresh(&mut page, &headers[..2]).await.ok(200);
}

#[tokio::test]
async fn signing_out_takes_it_away() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let cookie = format!("uproar_token={}", ann.token.clone().unwrap());
    let answer = ann.call("/user/signout").await;
    let (token, attributes) = set_cookie(&answer).expect("a cookie");
    assert_eq!(token, "");
    assert_eq!(attributes, ["HttpOnly", "Max-Age=0", "Path=/token/refresh", "SameSite=Strict"]);
    assert_eq!(answer.ok(200), json!({}));
    // It would do nothing any more.
    ann.token = None;
    refresh(&mut ann, &[("Cookie", &cookie), ("Origin", OWN)]).await.is_error(401, "token_invalid", None);
}

#[tokio::test]
async fn a_new_password_renews_it() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let old = format!("uproar_token={}", ann.token.clone().unwrap());
    let body = json!({"current_password": "correct horse", "new_password": "battery staple"});
    let answer = ann.post("/me/password", body).await;
    let (token, attributes) = set_cookie(&answer).expect("a cookie");
    assert_eq!(attributes, ATTRIBUTES);
    assert_eq!(answer.ok(200)["token"], token);
    ann.token = None;
    refresh(&mut ann, &[("Cookie", &old), ("Origin", OWN)]).await.is_error(401, "token_invalid", None);
    refresh(&mut ann, &[("Cookie", &format!("uproar_token={token}")), ("Origin", OWN)]).await.ok(200);
}

#[tokio::test]
async fn behind_a_proxy_with_tls_it_is_for_encrypted_requests_only() {
    let body: Value = json!({"username": "ann", "password": "correct horse"});
    for (is_trusted, scheme, is_secure) in
        [(true, "https", true), (true, "http", false), (false, "https", false), (true, "", false)]
    {
        let trusted_proxies = if is_trusted { vec!["127.0.0.1".parse().unwrap()] } else { Vec::new() };
        let server = server_with(Settings { trusted_proxies, ..settings() }).await;
        let ann = server.signed_up("ann").await;
        let mut client = server.client().await;
        let headers = [("X-Forwarded-Proto", scheme), ("Content-Type", "application/json")];
        let text = body.to_string();
        let signed_in = client.request("POST", "/user/signin", &headers, Some(text.as_bytes())).await;
        let (token, _) = set_cookie(&signed_in).expect("a cookie");
        client.token = ann.token;
        let cookie = format!("uproar_token={token}");
        let by_cookie = [("X-Forwarded-Proto", scheme), ("Cookie", cookie.as_str()), ("Origin", OWN)];
        let refreshed = refresh(&mut server.client().await, &by_cookie).await;
        let signed_out = client.request("POST", "/user/signout", &headers, None).await;
        for answer in [signed_in, refreshed, signed_out] {
            assert_eq!(answer.status, 200, "{}", answer.text());
            let (_, attributes) = set_cookie(&answer).expect("a cookie");
            assert_eq!(attributes.contains(&"Secure".to_owned()), is_secure, "{is_trusted} {scheme}: {attributes:?}");
            assert!(attributes.contains(&"HttpOnly".to_owned()));
        }
    }
}

#[tokio::test]
async fn it_lives_as_long_as_its_token_can_be_exchanged() {
    let (token_lifetime, expired_grace) = (Duration::from_secs(60), Duration::from_secs(7));
    let server = server_with(Settings { token_lifetime, expired_grace, ..settings() }).await;
    let body = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
    let answer = server.client().await.post("/user/signup", body).await;
    let (_, attributes) = set_cookie(&answer).expect("a cookie");
    assert!(attributes.contains(&"Max-Age=67".to_owned()), "{attributes:?}");
}
