//! The cookie that keeps a browser signed in.

use crate::support::{Client, Response, Server, server, server_with, settings, term};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use uproar_core::limits::Limits;
use uproar_http::{Origins, Settings};
use uproar_store::Account;

/// The server's own origin, according to the `Host` that the client sends.
const OWN: &str = "http://localhost";

const PASSWORD: &str = "correct horse";

/// The session token in the cookie that a response sets, and the cookie's attributes in order.
fn set_cookie(response: &Response) -> Option<(String, Vec<String>)> {
    set_cookie_named(response, "uproar_session")
}

fn set_cookie_named(response: &Response, name: &str) -> Option<(String, Vec<String>)> {
    let all = response.headers.iter().filter(|(header, _)| header == "set-cookie");
    let mut set = all.filter_map(|(_, value)| value.strip_prefix(name)?.strip_prefix('='));
    let value = set.next()?;
    assert!(set.next().is_none(), "two cookies");
    let mut parts = value.split("; ").map(str::to_owned);
    let token = parts.next().unwrap();
    let mut attributes: Vec<String> = parts.collect();
    attributes.sort();
    Some((token, attributes))
}

/// The attributes by default, with a lifetime of 30 days.
const ATTRIBUTES: [&str; 4] = ["HttpOnly", "Max-Age=2592000", "Path=/token/refresh", "SameSite=Strict"];

/// A client that sends a token, and its user's cookie.
async fn sign_up(server: &Server, username: &str) -> (Client, String) {
    let mut client = server.client().await;
    let email = format!("{username}@example.org");
    let response =
        client.post("/user/signup", json!({"username": username, "email": email, "password": PASSWORD})).await;
    let cookie = cookie_of(&response);
    client.token = response.expect(201)["token"].as_str().map(str::to_owned);
    (client, cookie)
}

/// A client that sends no token, like a page that was reloaded, and its user's cookie.
async fn reloaded(server: &Server, username: &str) -> (Client, String) {
    let (mut client, cookie) = sign_up(server, username).await;
    client.token = None;
    (client, cookie)
}

/// The cookie that a response sets, as a browser sends it back.
fn cookie_of(response: &Response) -> String {
    format!("uproar_session={}", set_cookie(response).expect("a cookie").0)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn account(server: &Server, username: &str) -> Account {
    server.store.ensure_user(username, username).await.unwrap()
}

async fn refresh(client: &mut Client, headers: &[(&str, &str)]) -> Response {
    client.request("POST", "/token/refresh", headers, None).await
}

#[tokio::test]
async fn signing_up_and_in_set_the_cookie() {
    let server = server().await;
    let mut client = server.client().await;
    let sign_up = json!({"username": "ann", "email": "ann@example.org", "password": PASSWORD});
    let sign_in = json!({"username": "ann", "password": PASSWORD});
    for (path, body) in [("/user/signup", sign_up), ("/user/signin", sign_in)] {
        let response = client.post(path, body).await;
        let (session, attributes) = set_cookie(&response).expect("a cookie");
        assert_eq!(attributes, ATTRIBUTES, "{path}");
        let now = now_s();
        let claims = server.tokens.verify_session(&session, now).unwrap();
        assert_eq!((&*claims.username, claims.generation), ("ann", Some(0)));
        assert!((now - 60..=now).contains(&(claims.expires_at - 30 * 24 * 3600)), "{path}: {claims:?}");
        assert!(server.tokens.verify(response.json()["token"].as_str().unwrap(), now).is_ok(), "{path}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
    }
    let wrong = client.post("/user/signin", json!({"username": "ann", "password": "wrong"})).await;
    assert_eq!((wrong.status, set_cookie(&wrong)), (401, None));
}

#[tokio::test]
async fn the_cookie_is_exchanged_for_a_token() {
    let server = server().await;
    let (mut page, mut cookie) = reloaded(&server, "ann").await;
    for _ in 0..2 {
        let response = refresh(&mut page, &[("Cookie", &format!("theme=dark; {cookie}")), ("Origin", OWN)]).await;
        assert_eq!(set_cookie(&response).expect("a cookie").1, ATTRIBUTES);
        cookie = cookie_of(&response);
        let body = response.expect(200);
        assert_eq!(body["user"]["username"], "ann");
        page.token = body["token"].as_str().map(str::to_owned);
        page.get("/me").await.expect(200);
        page.token = None;
    }
    refresh(&mut page, &[("Origin", OWN)]).await.assert_error(401, "token_missing", None);
    refresh(&mut page, &[("Origin", OWN), ("Cookie", "uproar_session=x")]).await.assert_error(
        401,
        "token_invalid",
        None,
    );
}

/// A user who returns a minute before a month has passed stays signed in; one who returns after a month does not.
#[tokio::test]
async fn each_use_renews_the_cookie() {
    let (server, month_s) = (server().await, 30 * 24 * 3600);
    let (mut page, _) = reloaded(&server, "ann").await;
    let ann = account(&server, "ann").await;
    let set_at =
        |issued_s: u64| format!("uproar_session={}", server.tokens.issue_session(&ann, term(issued_s, month_s)));
    let old = set_at(now_s() - month_s + 60);
    let response = refresh(&mut page, &[("Origin", OWN), ("Cookie", &old)]).await;
    let (session, attributes) = set_cookie(&response).expect("a cookie");
    assert_eq!((response.status, attributes.as_slice()), (200, &ATTRIBUTES.map(str::to_owned)[..]));
    assert!(server.tokens.verify_session(&session, now_s() + month_s - 60).is_ok());
    // Session tokens live long enough to need no grace period.
    let ended = refresh(&mut page, &[("Origin", OWN), ("Cookie", &set_at(now_s() - month_s))]).await;
    assert_eq!(set_cookie(&ended), None);
    ended.assert_error(401, "token_expired", None);
}

/// A session token copied from a browser's files is not accepted as a token, nor is an ordinary token as a cookie.
#[tokio::test]
async fn session_tokens_and_ordinary_tokens_are_not_interchangeable() {
    let server = server().await;
    let (mut page, cookie) = reloaded(&server, "ann").await;
    let session = cookie.split_once('=').unwrap().1.to_owned();
    let bearer = format!("Bearer {session}");
    let mut calls = 0;
    for (method, path) in server.service.routes() {
        let is_open = OPEN.contains(&path) || (method.as_str(), path) == ("GET", "/invites/{code}");
        if is_open || WEBSOCKETS.contains(&path) {
            continue;
        }
        let needs_key = path.starts_with("/api");
        let path = path.replace("{name}", "lobby").replace("{username}", "bob");
        let json = ("Content-Type", "application/json");
        let headers = [json, ("Authorization", bearer.as_str()), ("Cookie", &cookie), ("Origin", OWN)];
        let body = (method == "POST").then_some(b"{}".as_slice());
        let response = page.request(method.as_str(), &path, &headers, body).await;
        assert_eq!(set_cookie(&response), None, "{path}");
        if needs_key {
            assert_eq!((response.status, response.body.len()), (401, 0), "{path}");
        } else {
            response.assert_error(401, "token_invalid", None);
        }
        calls += 1;
    }
    assert!(calls > 12, "{calls}");
    let in_header = [("Authorization", bearer.as_str()), ("Cookie", &cookie), ("Origin", OWN)];
    refresh(&mut page, &in_header).await.assert_error(401, "token_invalid", None);

    let ann = account(&server, "ann").await;
    for ordinary in [server.tokens.issue(&ann, term(now_s(), 3600)), server.tokens.mint("ann", now_s(), 3600)] {
        let cookie = format!("uproar_session={ordinary}");
        let response = refresh(&mut page, &[("Origin", OWN), ("Cookie", &cookie)]).await;
        assert_eq!(set_cookie(&response), None);
        response.assert_error(401, "token_invalid", None);
    }
}

#[tokio::test]
async fn only_pages_of_allowed_origins_may_use_the_cookie() {
    let origins = || Origins::parse(&["https://app.example"]).unwrap();
    let (other, evil) = ("https://app.example", "https://evil.example");
    for (origins, good, bad) in [
        (Origins::Own, vec![OWN], vec![other, evil, "null", "http://localhost:3000", "http://localhost.evil.example"]),
        (origins(), vec![OWN, other], vec![evil, "null", "http://app.example"]),
        // Every origin may use the API, but not the cookie.
        (Origins::Any, vec![OWN], vec![other, evil, "null"]),
    ] {
        let server = server_with(Settings { origins, ..settings() }).await;
        let (mut page, cookie) = reloaded(&server, "ann").await;
        for origin in good {
            refresh(&mut page, &[("Cookie", &cookie), ("Origin", origin)]).await.expect(200);
        }
        for origin in bad {
            let response = refresh(&mut page, &[("Cookie", &cookie), ("Origin", origin)]).await;
            response.assert_error(403, "origin_not_allowed", None);
            assert_eq!(set_cookie(&response), None, "{origin}");
        }
        refresh(&mut page, &[("Cookie", &cookie)]).await.assert_error(403, "origin_not_allowed", None);
    }
}

/// With `Authorization`, whatever its value, the response is the same as without a cookie.
#[tokio::test]
async fn authorization_overrides_the_cookie() {
    let server = server().await;
    let (mut page, cookie) = reloaded(&server, "ann").await;
    let headers = [("Authorization", "Bearer x"), ("Cookie", cookie.as_str()), ("Origin", OWN)];
    refresh(&mut page, &headers).await.assert_error(401, "token_invalid", None);
    // The password of a proxy, which browsers send with every request to it, says nothing about this server's users.
    let headers = [("Authorization", "Basic YTpi"), ("Cookie", cookie.as_str()), ("Origin", OWN)];
    assert_eq!(refresh(&mut page, &headers).await.expect(200)["user"]["username"], "ann");
    page.token = server.sign_up("bob").await.token;
    for headers in
        [&[("Cookie", cookie.as_str())][..], &[("Cookie", cookie.as_str()), ("Origin", "https://evil.example")]]
    {
        let response = refresh(&mut page, headers).await;
        assert_eq!(set_cookie(&response), None);
        assert_eq!(response.expect(200)["user"]["username"], "bob");
    }
}

/// A page that exchanges the token it has in memory also keeps its cookie alive.
#[tokio::test]
async fn a_token_of_the_same_user_renews_the_cookie() {
    let server = server().await;
    let (mut ann, cookie) = sign_up(&server, "ann").await;
    let renewed = refresh(&mut ann, &[("Cookie", &cookie), ("Origin", OWN)]).await;
    let (session, attributes) = set_cookie(&renewed).expect("a cookie");
    assert_eq!((renewed.status, attributes.as_slice()), (200, &ATTRIBUTES.map(str::to_owned)[..]));
    assert!(server.tokens.verify_session(&session, now_s()).is_ok());
    // Clients that are not pages of this server get no cookie.
    for headers in [
        &[][..],
        &[("Origin", OWN)],
        &[("Cookie", cookie.as_str())],
        &[("Cookie", cookie.as_str()), ("Origin", "https://evil.example")],
        &[("Cookie", "uproar_session=x"), ("Origin", OWN)],
    ] {
        let response = refresh(&mut ann, headers).await;
        assert_eq!((response.status, set_cookie(&response)), (200, None), "{headers:?}");
    }
}

/// The paths that need no token, and the one that also accepts the cookie.
const OPEN: [&str; 11] = [
    "/user/signup",
    "/user/signin",
    "/user/signin/oidc",
    "/user/signin/oidc/callback",
    "/hooks/{secret}",
    "/token/refresh",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/",
];

/// The shards answer upgrades, and read no cookies.
const WEBSOCKETS: [&str; 2] = ["/ws", "/connection/websocket"];

/// The cookie alone opens nothing, so another site that makes a browser send it achieves nothing.
#[tokio::test]
async fn every_other_call_ignores_the_cookie() {
    let server = server().await;
    let (mut page, cookie) = reloaded(&server, "ann").await;
    let headers = [("Cookie", cookie.as_str()), ("Origin", OWN), ("Content-Type", "application/json")];
    let mut calls = 0;
    for (method, path) in server.service.routes() {
        let is_open = OPEN.contains(&path) || (method.as_str(), path) == ("GET", "/invites/{code}");
        if is_open || WEBSOCKETS.contains(&path) {
            continue;
        }
        let needs_key = path.starts_with("/api");
        let path = path.replace("{name}", "lobby").replace("{username}", "bob");
        let body = (method == "POST").then_some(b"{}".as_slice());
        let response = page.request(method.as_str(), &path, &headers, body).await;
        if needs_key {
            assert_eq!((response.status, response.body.len()), (401, 0), "{path}");
        } else {
            response.assert_error(401, "token_missing", None);
        }
        calls += 1;
    }
    assert!(calls > 12, "{calls}");
    refresh(&mut page, &headers[..2]).await.expect(200);
}

#[tokio::test]
async fn signing_out_removes_the_cookie() {
    let server = server().await;
    let (mut ann, cookie) = sign_up(&server, "ann").await;
    let response = ann.call("/user/signout").await;
    let (session, attributes) = set_cookie(&response).expect("a cookie");
    assert_eq!(session, "");
    assert_eq!(attributes, ["HttpOnly", "Max-Age=0", "Path=/token/refresh", "SameSite=Strict"]);
    assert_eq!(response.expect(200), json!({}));
    // The old cookie is no longer accepted.
    ann.token = None;
    refresh(&mut ann, &[("Cookie", &cookie), ("Origin", OWN)]).await.assert_error(401, "token_invalid", None);
}

#[tokio::test]
async fn a_new_password_replaces_the_cookie() {
    let server = server().await;
    let (mut ann, old) = sign_up(&server, "ann").await;
    let body = json!({"current_password": PASSWORD, "new_password": "battery staple"});
    let response = ann.post("/me/password", body).await;
    assert_eq!(set_cookie(&response).expect("a cookie").1, ATTRIBUTES);
    let new = cookie_of(&response);
    response.expect(200);
    ann.token = None;
    refresh(&mut ann, &[("Cookie", &old), ("Origin", OWN)]).await.assert_error(401, "token_invalid", None);
    refresh(&mut ann, &[("Cookie", &new), ("Origin", OWN)]).await.expect(200);
}

/// A session token outlives the revocations in memory, which are kept as long as ordinary tokens live. After that, and
/// after a restart, only the database knows about its revocation.
#[tokio::test]
async fn the_database_decides_whether_a_session_token_is_revoked() {
    let server = server().await;
    let (mut ann, first) = sign_up(&server, "ann").await;
    let body = json!({"current_password": PASSWORD, "new_password": "battery staple"});
    let response = ann.post("/me/password", body).await;
    let second = cookie_of(&response);
    ann.token = response.expect(200)["token"].as_str().map(str::to_owned);
    server.chat.revocations.lock().unwrap().clear();
    let mut page = server.client().await;
    for (cookie, status) in [(&first, 401), (&second, 200)] {
        let response = refresh(&mut page, &[("Cookie", cookie), ("Origin", OWN)]).await;
        assert_eq!(response.status, status, "{}", response.text());
    }
    ann.call("/user/signout").await.expect(200);
    server.chat.revocations.lock().unwrap().clear();
    for cookie in [&first, &second] {
        let response = refresh(&mut page, &[("Cookie", cookie), ("Origin", OWN)]).await;
        assert_eq!(set_cookie(&response), None);
        response.assert_error(401, "token_invalid", None);
    }
    // Nor is a session token of a user who does not exist.
    let nobody = Account { id: uproar_model::UserId(404), ..account(&server, "ann").await };
    let cookie = format!("uproar_session={}", server.tokens.issue_session(&nobody, term(now_s(), 60)));
    assert_eq!(refresh(&mut page, &[("Cookie", &cookie), ("Origin", OWN)]).await.status, 401);
}

/// After a restore from a backup, an id may belong to somebody else.
#[tokio::test]
async fn a_token_is_rejected_if_its_id_belongs_to_another_username() {
    let server = server().await;
    let (mut page, _) = reloaded(&server, "ann").await;
    let before = Account { username: "carol".into(), ..account(&server, "ann").await };
    let cookie = format!("uproar_session={}", server.tokens.issue_session(&before, term(now_s(), 60)));
    refresh(&mut page, &[("Cookie", &cookie), ("Origin", OWN)]).await.assert_error(401, "token_invalid", None);
    page.token = Some(server.tokens.issue(&before, term(now_s(), 60)));
    refresh(&mut page, &[]).await.assert_error(401, "token_invalid", None);
}

/// Another site's form can't sign a browser in as somebody else: without a preflight it can't send JSON.
#[tokio::test]
async fn a_form_cannot_set_the_cookie() {
    let server = server().await;
    server.sign_up("ann").await;
    let body = json!({"username": "ann", "password": PASSWORD}).to_string();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "text/plain; application/json"] {
        let headers = [("Content-Type", content_type), ("Origin", "https://evil.example")];
        let response = server.client().await.request("POST", "/user/signin", &headers, Some(body.as_bytes())).await;
        assert_eq!((response.status, set_cookie(&response)), (415, None), "{content_type}");
    }
}

#[tokio::test]
async fn behind_a_trusted_tls_proxy_the_cookie_is_secure() {
    let body: Value = json!({"username": "ann", "password": PASSWORD});
    for (is_trusted, scheme, is_secure) in
        [(true, "https", true), (true, "http", false), (false, "https", false), (true, "", false)]
    {
        let trusted_proxies = if is_trusted { vec!["127.0.0.1".parse().unwrap()] } else { Vec::new() };
        let server = server_with(Settings { trusted_proxies, ..settings() }).await;
        let ann = server.sign_up("ann").await;
        let mut client = server.client().await;
        let headers = [("X-Forwarded-Proto", scheme), ("Content-Type", "application/json")];
        let text = body.to_string();
        let signed_in = client.request("POST", "/user/signin", &headers, Some(text.as_bytes())).await;
        client.token = ann.token;
        let cookie = cookie_of(&signed_in);
        let by_cookie = [("X-Forwarded-Proto", scheme), ("Cookie", cookie.as_str()), ("Origin", OWN)];
        let refreshed = refresh(&mut server.client().await, &by_cookie).await;
        let signed_out = client.request("POST", "/user/signout", &headers, None).await;
        for response in [signed_in, refreshed, signed_out] {
            assert_eq!(response.status, 200, "{}", response.text());
            let (_, attributes) = set_cookie(&response).expect("a cookie");
            assert_eq!(attributes.contains(&"Secure".to_owned()), is_secure, "{is_trusted} {scheme}: {attributes:?}");
            assert!(attributes.contains(&"HttpOnly".to_owned()));
        }
    }
}

#[tokio::test]
async fn the_session_lifetime_is_a_limit() {
    let limits = Limits { session_lifetime_ms: 67_000, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let body = json!({"username": "ann", "email": "ann@example.org", "password": PASSWORD});
    let response = server.client().await.post("/user/signup", body).await;
    let (session, attributes) = set_cookie(&response).expect("a cookie");
    assert!(attributes.contains(&"Max-Age=67".to_owned()), "{attributes:?}");
    let claims = server.tokens.verify_session(&session, now_s()).unwrap();
    assert_eq!(claims.expires_at - claims.issued_at, 67);
}

/// Others at the same address may use up its attempts, and must not learn who has an account there.
#[tokio::test]
async fn only_a_browser_that_has_signed_in_before_is_spared_the_guesses_of_strangers() {
    let mut settings = settings();
    settings.limits.address_wrong_passwords_burst_limit = 3;
    let server = server_with(settings).await;
    let mut ann = server.client().await;
    let account = json!({"username": "ann", "email": "ann@example.org", "password": PASSWORD});
    let signed_up = ann.post("/user/signup", account).await;
    let (token, attributes) = set_cookie_named(&signed_up, "uproar_browser").expect("a cookie");
    assert_eq!(attributes, ["HttpOnly", "Max-Age=34560000", "Path=/user/signin", "SameSite=Strict"]);
    let by_name = json!({"username": "ann", "password": PASSWORD});
    let by_email = json!({"email": "ann@example.org", "password": PASSWORD});
    ann.post("/user/signin", by_name.clone()).await.expect(200);
    let mut stranger = server.client().await;
    for name in ["x", "y", "z"] {
        let guess = json!({"username": name, "password": "wrong horse"});
        stranger.post("/user/signin", guess).await.assert_error(401, "wrong_credentials", None);
    }
    let other = json!({"email": "ben@example.org", "password": PASSWORD});
    for body in [&by_name, &by_email, &other] {
        stranger.post("/user/signin", body.clone()).await.assert_error(429, "too_many_attempts", None);
    }

    let cookie = format!("uproar_browser={token}");
    let headers = [("Content-Type", "application/json"), ("Cookie", cookie.as_str())];
    for (body, status) in [(&by_name, 200), (&by_email, 200), (&other, 429)] {
        let response = ann.request("POST", "/user/signin", &headers, Some(body.to_string().as_bytes())).await;
        assert_eq!(response.status, status, "{body}: {}", response.text());
        assert_eq!(set_cookie_named(&response, "uproar_browser").is_some(), status == 200);
    }
    // It gives access to nothing.
    assert!(server.tokens.verify(&token, now_s()).is_err() && server.tokens.verify_session(&token, now_s()).is_err());
    let refresh = refresh(&mut ann, &[("Origin", OWN), ("Cookie", &format!("uproar_session={token}"))]).await;
    refresh.assert_error(401, "token_invalid", None);
}

#[tokio::test]
async fn a_browser_that_has_signed_in_before_may_not_guess_for_ever() {
    let server = server().await;
    let (mut ann, _) = sign_up(&server, "ann").await;
    ann.token = None;
    let signed_in = ann.post("/user/signin", json!({"username": "ann", "password": PASSWORD})).await;
    let cookie = format!("uproar_browser={}", set_cookie_named(&signed_in, "uproar_browser").unwrap().0);
    let headers = [("Content-Type", "application/json"), ("Cookie", cookie.as_str())];
    let guess = json!({"username": "ann", "password": "wrong horse"}).to_string();
    for _ in 0..10 {
        ann.request("POST", "/user/signin", &headers, Some(guess.as_bytes())).await.assert_error(
            401,
            "wrong_credentials",
            None,
        );
    }
    let refused = ann.request("POST", "/user/signin", &headers, Some(guess.as_bytes())).await;
    refused.assert_error(429, "too_many_attempts", None);
    // Without the cookie it is a stranger, whose attempts it has not used up.
    ann.post("/user/signin", json!({"username": "ann", "password": PASSWORD})).await.expect(200);
}
