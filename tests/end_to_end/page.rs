//! Proves that the binary serves its embedded page, if it was built with one, and that a browser stays signed in.

use crate::client::{FIN, Http, Raw, Response, TEXT, User, frame};
use crate::databases::Kind;
use crate::server::{Server, text};
use serde_json::{Value, json};

on_each_database! { a_browser_stays_signed_in }

async fn request(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut http = Http::connect(server.port).await.unwrap();
    http.request(method, path, headers, None).await.unwrap()
}

#[tokio::test]
async fn the_page_and_its_assets_are_served() {
    let server = Server::start(Kind::any(), &[]).await;
    let index = request(&server, "GET", "/", &[]).await;
    assert_eq!((index.status, index.header("Content-Type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(index.header("Cache-Control"), Some("no-cache"));
    let policy = index.header("Content-Security-Policy").expect("a Content-Security-Policy");
    assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
    let etag = index.header("ETag").expect("an ETag");
    assert_eq!(request(&server, "GET", "/", &[("If-None-Match", etag)]).await.status, 304);

    let page = String::from_utf8(index.body.clone()).expect("UTF-8");
    let names = page.split('"').filter(|name| name.starts_with("/assets/"));
    let mut found = 0;
    for name in names {
        let file = request(&server, "GET", name, &[("Accept-Encoding", "gzip, br")]).await;
        assert_eq!(file.status, 200, "{name}");
        assert_eq!(file.header("Cache-Control"), Some("public, max-age=31536000, immutable"), "{name}");
        assert!(file.header("Content-Encoding").is_some() || file.body.len() < 500, "{name} is not compressed");
        found += 1;
    }
    // Without a built page, `/` says how to build one, and everything else works.
    assert_eq!(found == 0, page.contains("make web"), "{page}");
    assert_eq!(request(&server, "GET", "/assets/nothing.js", &[]).await.error(), (404, "not_found".into()));
    server.sign_up("ann").await;
}

#[tokio::test]
async fn a_room_may_be_in_a_frame_of_the_sites_that_the_options_name() {
    let named = ["--embed-origin", "https://A.example/", "--embed-origin", "http://localhost:3000,https://b.example"];
    for (options, ancestors) in [
        (&[][..], "frame-ancestors 'none';"),
        (&named, "frame-ancestors https://a.example http://localhost:3000 https://b.example;"),
    ] {
        let server = Server::start(Kind::any(), options).await;
        for (path, ancestors) in [("/", "frame-ancestors 'none';"), ("/embed.html", ancestors)] {
            let page = request(&server, "GET", path, &[]).await;
            // Without a built page, there is no frame.
            if page.status != 404 || path == "/" {
                let policy = page.header("Content-Security-Policy").expect("a Content-Security-Policy");
                assert!(policy.contains(ancestors), "{path}: {policy}");
            }
        }
    }
}

async fn a_browser_stays_signed_in(kind: Kind) {
    let mut server = Server::start(kind, &["--query-token"]).await;
    let body = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
    let answer = server.post("/user/signup", "", body).await;
    let cookie_of = |answer: &Response| {
        let cookie = answer.header("Set-Cookie").expect("a cookie");
        cookie.split(';').next().expect("its value").to_owned()
    };
    let mut cookie = cookie_of(&answer);
    let mut ann = User { name: "ann".to_owned(), token: text(&answer.expect(201)["token"]) };
    server.create_room(&ann, "r").await;

    // The page is loaded again, also after a restart of the server.
    let origin = ("Origin", "http://localhost");
    for _ in 0..2 {
        let refreshed = request(&server, "POST", "/token/refresh", &[("Cookie", &cookie), origin]).await;
        cookie = cookie_of(&refreshed);
        ann.token = text(&refreshed.expect(200)["token"]);
        let mut at_ann = server.join(&ann, "room=r").await;
        at_ann.round_trip("still here").await;
        server.stop().await;
        server = server.restart().await;
    }
    for headers in
        [&[("Cookie", cookie.as_str())][..], &[("Cookie", cookie.as_str()), ("Origin", "https://evil.example.org")]]
    {
        let rejected = request(&server, "POST", "/token/refresh", headers).await;
        assert_eq!(rejected.error(), (403, "origin_not_allowed".into()), "{headers:?}");
    }

    // The cookie authorizes no call and no WebSocket, whether a shard or the HTTP service answers.
    let missing = (401, "token_missing".to_owned());
    assert_eq!(request(&server, "GET", "/me", &[("Cookie", &cookie), origin]).await.error(), missing);
    for is_reused in [false, true] {
        let http = Http::fresh_or_reused(server.port, is_reused).await;
        let Err(rejected) = http.upgrade("/ws?room=r", &[("Cookie", &cookie), origin]).await else {
            panic!("the cookie opens a WebSocket, reused: {is_reused}")
        };
        assert_eq!(rejected.error(), missing, "reused: {is_reused}");
    }

    // Nor does the token in the cookie, wherever a token can be given.
    let session = User { name: "ann".to_owned(), token: cookie["uproar_session=".len()..].to_owned() };
    let bearer = format!("Bearer {}", session.token);
    let invalid = (401, "token_invalid".to_owned());
    assert_eq!(server.get("/me", &session.token).await.error(), invalid);
    assert_eq!(server.post("/token/refresh", &session.token, Value::Null).await.error(), invalid);
    for (path, headers) in [
        ("/ws?room=r".to_owned(), vec![("Authorization", bearer.as_str())]),
        (format!("/ws?room=r&token={}", session.token), Vec::new()),
    ] {
        let http = Http::connect(server.port).await.unwrap();
        let Err(rejected) = http.upgrade(&path, &headers).await else { panic!("the token in the cookie opens {path}") };
        assert_eq!(rejected.error(), invalid, "{path}");
    }
    let mut raw = Raw::open(server.port, "/connection/websocket", &[]).await;
    let connect = json!({"id": 1, "connect": {"token": session.token}}).to_string();
    raw.send(&frame(FIN | TEXT, connect.as_bytes())).await;
    assert_eq!(raw.frame().await.close_code(), 3500);
    let ordinary = format!("uproar_session={}", ann.token);
    assert_eq!(request(&server, "POST", "/token/refresh", &[("Cookie", &ordinary), origin]).await.error(), invalid);

    let signed_out = server.post("/user/signout", &ann.token, Value::Null).await;
    assert_eq!(cookie_of(&signed_out), "uproar_session=");
    for _ in 0..2 {
        let rejected = request(&server, "POST", "/token/refresh", &[("Cookie", &cookie), origin]).await;
        assert_eq!(rejected.error(), invalid);
        // A server that starts later knows it too.
        server.stop().await;
        server = server.restart().await;
    }
    for token in [&ann.token, &session.token] {
        let secret = token.rsplit('.').next().unwrap();
        assert!(!server.setup.log().contains(secret), "a token was logged");
    }
}
