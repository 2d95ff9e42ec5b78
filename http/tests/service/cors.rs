//! Which pages may use the API from a browser.

use crate::support::{server, server_with, settings};
use uproar_http::{Origins, Settings};

const PREFLIGHT: &[(&str, &str)] = &[
    ("Origin", "https://app.example"),
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "authorization,content-type"),
];

fn cors_headers(answer: &crate::support::Answer) -> Vec<&str> {
    answer.headers.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("access-control")).collect()
}

#[tokio::test]
async fn by_default_no_other_origin() {
    let server = server().await;
    let mut client = server.client().await;
    let preflight = client.request("OPTIONS", "/user/signin", PREFLIGHT, None).await;
    preflight.is_error(405, "method_not_allowed", None);
    assert_eq!(cors_headers(&preflight), [""; 0]);
    let answer = client.request("GET", "/healthz", &[("Origin", "https://app.example")], None).await;
    assert_eq!((answer.status, cors_headers(&answer).len()), (200, 0));
}

#[tokio::test]
async fn the_origins_that_are_named() {
    let origins = Origins::parse(&["https://app.example", "http://localhost:3000"]).unwrap();
    let server = server_with(Settings { origins, ..settings() }).await;
    let mut client = server.client().await;
    let preflight = client.request("OPTIONS", "/user/signin", PREFLIGHT, None).await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("DELETE"));
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert!(preflight.header("access-control-max-age").is_some());

    // On errors too: the page has to be able to read them.
    for path in ["/healthz", "/me", "/nothing"] {
        let answer = client.request("GET", path, &[("Origin", "http://localhost:3000")], None).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("http://localhost:3000"), "{path}");
        assert!(answer.header("vary").unwrap().contains("origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    for origin in ["https://evil.example", "https://app.example.evil.example", "http://app.example", "null"] {
        let answer = client.request("GET", "/healthz", &[("Origin", origin)], None).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}");
    }
}

#[tokio::test]
async fn every_origin_when_that_is_said() {
    let server = server_with(Settings { origins: Origins::Any, ..settings() }).await;
    let mut client = server.client().await;
    let preflight = client.request("OPTIONS", "/rooms/x/members/y", PREFLIGHT, None).await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (200, Some("*")));
}
