//! The cookie that keeps a browser signed in.

use crate::support::{Answer, Client, Server, server, server_with, settings};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uproar_http::{Origins, Settings};
use uproar_store::Account;

/// The server's own, by the `Host` that the client sends.
const OWN: &str = "http://localhost";

const PASSWORD: &str = "correct horse";

/// The session token in the cookie that an answer sets, and what is said about it.
fn set_cookie(answer: &Answer) -> Option<(String, Vec<String>)> {
    let mut set = answer.headers.iter().filter(|(name, _)| name == "set-cookie");
    let (_, value) = set.next()?;
    assert!(set.next().is_none(), "two cookies");
    let mut parts = value.split("; ").map(str::to_owned);
    let token = parts.next().unwrap().strip_prefix("uproar_session=").expect("its name").to_owned();
    let mut attributes: Vec<String> = parts.collect();
    attributes.sort();
    Some((token, attributes))
}

/// 30 days.
const ATTRIBUTES: [&str; 4] = ["HttpOnly", "Max-Age=2592000", "Path=/token/refresh", "SameSite=Strict"];

/// A connection whose user has a token and the cookie, and the cookie.
async fn signed_up(server: &Server, username: &str) -> (Client, String) {
    let mut client = server.client().await;
    let email = format!("{username}@example.org");
    let answer = client.post("/user/signup", json!({"username": username, "email": email, "password": PASSWORD})).await;
    let cookie = cookie_of(&answer);
    client.token = answer.ok(201)["token"].as_str().map(str::to_owned);
    (client, cookie)
}

/// A connection whose user has the cookie and no token, as a page has that was loaded again.
async fn reloaded(server: &Server, username: &str) -> (Client, String) {
    let (mut client, cookie) = signed_up(server, username).await;
    client.token = None;
    (client, cookie)
}

/// The cookie that an answer sets, as a browser sends it.
fn cookie_of(answer: &Answer) -> String {
    format!("uproar_session={}", set_cookie(answer).expect("a cookie").0)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn account(server: &Server, username: &str) -> Account {
    server.store.ensure_user(username, username).await.unwrap()
}

async fn refresh(client: &mut Client, headers: &[(&str, &str)]) -> Answer {
    client.request("POST", "/token/refresh", headers, None).await
}

#[tokio::test]
async fn signing_up_and_in_set_it() {
    let server = server().await;
    let mut client = server.client().await;
    let sign_up = json!({"username": "ann", "email": "ann@example.org", "password": PASSWORD});
    let sign_in = json!({"username": "ann", "password": PASSWORD});
    for (path, body) in [("/user/signup", sign_up), ("/user/signin", sign_in)] {
        let answer = client.post(path, body).await;
        let (session, attributes) = set_cookie(&answer).expect("a cookie");
        assert_eq!(attributes, ATTRIBUTES, "{path}");
        let now = now_s();
        let claims = server.tokens.verify_session(&session, now).unwrap();
        assert_eq!((&*claims.username, claims.generation), ("ann", Some(0)));
        assert!((now - 60..=now).contains(&(claims.expires_at - 30 * 24 * 3600)), "{path}: {claims:?}");
        assert!(server.tokens.verify(answer.json()["token"].as_str().unwrap(), now).is_ok(), "{path}");
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
        assert_eq!(set_cookie(&answer).expect("a cookie").1, ATTRIBUTES);
        cookie = cookie_of(&answer);
        let body = answer.ok(200);
        assert_eq!(body["user"]["username"], "ann");
        page.token = body["token"].as_str().map(str::to_owned);
        page.get("/me").await.ok(200);
        page.token = None;
    }
    refresh(&mut page, &[("Origin", OWN)]).await.is_error(401, "token_missing", None);
    refresh(&mut page, &[("Origin", OWN), ("Cookie", "uproar_session=x")]).await.is_error(401, "token_invalid", None);
}

/// Who was away for a month less a minute stays signed in from then on; who was away for longer does not.
#[tokio::test]
async fn each_use_starts_its_time_anew() {
    let (server, month_s) = (server().await, 30 * 24 * 3600);
    let (mut page, _) = reloaded(&server, "ann").await;
    let ann = account(&server, "ann").await;
    let set_at = |issued_s: u64| format!("uproar_session={}", server.tokens.issue_session(&ann, issued_s, month_s));
    let old = set_at(now_s() - month_s + 60);
    let answer = refresh(&mut page, &[("Origin", OWN), ("Cookie", &old)]).await;
    let (session, attributes) = set_cookie(&answer).expect("a cookie");
    assert_eq!((answer.status, attributes.as_slice()), (200, &ATTRIBUTES.map(str::to_owned)[..]));
    assert!(server.tokens.verify_session(&session, now_s() + month_s - 60).is_ok());
    // There is no grace: its end is far away enough.
    let ended = refresh(&mut page, &[("Origin", OWN), ("Cookie", &set_at(now_s() - month_s))]).await;
    assert_eq!(set_cookie(&ended), None);
    ended.is_error(401, "token_expired", None);
}

/// It is worth nothing to who takes it out of a browser's files and sends it as a token, nor is a token in its place.
#[tokio::test]
async fn its_token_is_no_other_and_no_other_is_its_token() {
    let server = server().await;
    let (mut page, cookie) = reloaded(&server, "ann").await;
    let session = cookie.split_once('=').unwrap().1.to_owned();
    let bearer = format!("Bearer {session}");
    let mut asked = 0;
    for (method, path) in server.service.routes() {
        let path = match path {
            "/ws" => format!("/ws?room=live:x&token={session}"),
            path => path.replace("{name}", "lobby").replace("{username}", "bob"),
        };
        if OPEN.contains(&&*path) || path == "/connection/websocket" {
            continue;
        }
        let mut headers = vec![("Content-Type", "application/json")];
        if path.starts_with("/ws") {
            headers.extend(UPGRADE);
        } else {
            headers.extend([("Authorization", bearer.as_str()), ("Cookie", &cookie), ("Origin", OWN)]);
        }
        let body = (method == "POST").then_some(b"{}".as_slice());
        let answer = page.request(method.as_str(), &path, &headers, body).await;
        assert_eq!(set_cookie(&answer), None, "{path}");
        answer.is_error(401, "token_invalid", None);
        asked += 1;
    }
    assert!(asked > 12, "{asked}");
    let in_header = [("Authorization", bearer.as_str()), ("Cookie", &cookie), ("Origin", OWN)];
    refresh(&mut page, &in_header).await.is_error(401, "token_invalid", None);

    let ann = account(&server, "ann").await;
    for ordinary in [server.tokens.issue(&ann, now_s(), 3600), server.tokens.mint("ann", now_s(), 3600)] {
        let cookie = format!("uproar_session={ordinary}");
        let answer = refresh(&mut page, &[("Origin", OWN), ("Cookie", &cookie)]).await;
        assert_eq!(set_cookie(&answer), None);
        answer.is_error(401, "token_invalid", None);
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
    let (mut ann, cookie) = signed_up(&server, "ann").await;
    let renewed = refresh(&mut ann, &[("Cookie", &cookie), ("Origin", OWN)]).await;
    let (session, attributes) = set_cookie(&renewed).expect("a cookie");
    assert_eq!((renewed.status, attributes.as_slice()), (200, &ATTRIBUTES.map(str::to_owned)[..]));
    assert!(server.tokens.verify_session(&session, now_s()).is_ok());
    // But nothing that is no page of this server gets one.
    for headers in [
        &[][..],
        &[("Origin", OWN)],
        &[("Cookie", cookie.as_str())],
        &[("Cookie", cookie.as_str()), ("Origin", "https://evil.example")],
        &[("Cookie", "uproar_session=x"), ("Origin", OWN)],
    ] {
        let answer = refresh(&mut ann, headers).await;
        assert_eq!((answer.status, set_cookie(&answer)), (200, None), "{headers:?}");
    }
}

/// The paths that take no token in the header, or the cookie besides.
const OPEN: [&str; 8] =
    ["/user/signup", "/user/signin", "/token/refresh", "/healthz", "/readyz", "/metrics", "/openapi.json", "/"];

const UPGRADE: [(&str, &str); 4] = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// Nothing can be done with the cookie alone: a page elsewhere that makes a browser send it achieves nothing.
#[tokio::test]
async fn every_other_call_ignores_it() {
    let server = server().await;
    let (mut page, cookie) = reloaded(&server, "ann").await;
    let headers = [("Cookie", cookie.as_str()), ("Origin", OWN), ("Content-Type", "application/json")];
    let mut asked = 0;
    for (method, path) in server.service.routes() {
        if OPEN.contains(&path) || path == "/connection/websocket" {
            continue;
        }
        let path = match path {
            "/ws" => "/ws?room=live:x".to_owned(),
            path => path.replace("{name}", "lobby").replace("{username}", "bob"),
        };
        let mut all = headers.to_vec();
        if path.starts_with("/ws") {
            all.extend(UPGRADE);
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
    let (mut ann, cookie) = signed_up(&server, "ann").await;
    let answer = ann.call("/user/signout").await;
    let (session, attributes) = set_cookie(&answer).expect("a cookie");
    assert_eq!(session, "");
    assert_eq!(attributes, ["HttpOnly", "Max-Age=0", "Path=/token/refresh", "SameSite=Strict"]);
    assert_eq!(answer.ok(200), json!({}));
    // It would do nothing any more.
    ann.token = None;
    refresh(&mut ann, &[("Cookie", &cookie), ("Origin", OWN)]).await.is_error(401, "token_invalid", None);
}

#[tokio::test]
async fn a_new_password_renews_it() {
    let server = server().await;
    let (mut ann, old) = signed_up(&server, "ann").await;
    let body = json!({"current_password": PASSWORD, "new_password": "battery staple"});
    let answer = ann.post("/me/password", body).await;
    assert_eq!(set_cookie(&answer).expect("a cookie").1, ATTRIBUTES);
    let new = cookie_of(&answer);
    answer.ok(200);
    ann.token = None;
    refresh(&mut ann, &[("Cookie", &old), ("Origin", OWN)]).await.is_error(401, "token_invalid", None);
    refresh(&mut ann, &[("Cookie", &new), ("Origin", OWN)]).await.ok(200);
}

/// It outlives by far what is kept in memory of revocations, which goes as far back as ordinary tokens live: after that,
/// and after a restart, only the database knows.
#[tokio::test]
async fn what_ended_it_is_asked_of_the_database() {
    let server = server().await;
    let (mut ann, first) = signed_up(&server, "ann").await;
    let body = json!({"current_password": PASSWORD, "new_password": "battery staple"});
    let answer = ann.post("/me/password", body).await;
    let second = cookie_of(&answer);
    ann.token = answer.ok(200)["token"].as_str().map(str::to_owned);
    server.chat.generations.lock().unwrap().clear();
    let mut page = server.client().await;
    for (cookie, status) in [(&first, 401), (&second, 200)] {
        let answer = refresh(&mut page, &[("Cookie", cookie), ("Origin", OWN)]).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    ann.call("/user/signout").await.ok(200);
    server.chat.generations.lock().unwrap().clear();
    for cookie in [&first, &second] {
        let answer = refresh(&mut page, &[("Cookie", cookie), ("Origin", OWN)]).await;
        assert_eq!(set_cookie(&answer), None);
        answer.is_error(401, "token_invalid", None);
    }
    // Nor is one of a user who never was.
    let nobody = Account { id: uproar_model::UserId(404), ..account(&server, "ann").await };
    let cookie = format!("uproar_session={}", server.tokens.issue_session(&nobody, now_s(), 60));
    assert_eq!(refresh(&mut page, &[("Cookie", &cookie), ("Origin", OWN)]).await.status, 401);
}

/// In a database that was put back from a backup, an id may be given to somebody else.
#[tokio::test]
async fn it_signs_nobody_in_as_another_user() {
    let server = server().await;
    let (mut page, _) = reloaded(&server, "ann").await;
    let before = Account { username: "carol".into(), ..account(&server, "ann").await };
    let cookie = format!("uproar_session={}", server.tokens.issue_session(&before, now_s(), 60));
    refresh(&mut page, &[("Cookie", &cookie), ("Origin", OWN)]).await.is_error(401, "token_invalid", None);
    page.token = Some(server.tokens.issue(&before, now_s(), 60));
    refresh(&mut page, &[]).await.is_error(401, "token_invalid", None);
}

/// A form of another site can't sign a browser in, as somebody else: what it can send without asking is no JSON.
#[tokio::test]
async fn what_is_no_json_sets_none() {
    let server = server().await;
    server.signed_up("ann").await;
    let body = json!({"username": "ann", "password": PASSWORD}).to_string();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "text/plain; application/json"] {
        let headers = [("Content-Type", content_type), ("Origin", "https://evil.example")];
        let answer = server.client().await.request("POST", "/user/signin", &headers, Some(body.as_bytes())).await;
        assert_eq!((answer.status, set_cookie(&answer)), (415, None), "{content_type}");
    }
}

#[tokio::test]
async fn behind_a_proxy_with_tls_it_is_for_encrypted_requests_only() {
    let body: Value = json!({"username": "ann", "password": PASSWORD});
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
        client.token = ann.token;
        let cookie = cookie_of(&signed_in);
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
async fn it_lives_as_long_as_the_operator_says() {
    let session_lifetime = Duration::from_secs(67);
    let server = server_with(Settings { session_lifetime, ..settings() }).await;
    let body = json!({"username": "ann", "email": "ann@example.org", "password": PASSWORD});
    let answer = server.client().await.post("/user/signup", body).await;
    let (session, attributes) = set_cookie(&answer).expect("a cookie");
    assert!(attributes.contains(&"Max-Age=67".to_owned()), "{attributes:?}");
    let claims = server.tokens.verify_session(&session, now_s()).unwrap();
    assert_eq!(claims.expires_at - claims.issued_at, 67);
}
