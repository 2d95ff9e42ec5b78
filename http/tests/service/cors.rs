//! CORS: which pages may use the API from a browser.

use crate::support::{server, server_with, settings};
use uproar_http::{Origins, Settings};

const PREFLIGHT: &[(&str, &str)] = &[
    ("Origin", "https://app.example"),
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "authorization,content-type"),
];

fn cors_headers(response: &crate::support::Response) -> Vec<&str> {
    response.headers.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("access-control")).collect()
}

#[tokio::test]
async fn other_origins_are_not_allowed_by_default() {
    let server = server().await;
    let mut client = server.client().await;
    let preflight = client.request("OPTIONS", "/user/signin", PREFLIGHT, None).await;
    preflight.assert_error(405, "method_not_allowed", None);
    assert_eq!(cors_headers(&preflight), [""; 0]);
    let response = client.request("GET", "/healthz", &[("Origin", "https://app.example")], None).await;
    assert_eq!((response.status, cors_headers(&response).len()), (200, 0));
}

#[tokio::test]
async fn listed_origins_are_allowed() {
    let origins = Origins::parse(&["https://app.example", "http://localhost:3000"]).unwrap();
    let server = server_with(Settings { origins, ..settings() }).await;
    let mut client = server.client().await;
    let preflight = client.request("OPTIONS", "/user/signin", PREFLIGHT, None).await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example"));
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        assert!(preflight.header("access-control-allow-methods").unwrap().contains(method), "{method}");
    }
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert!(preflight.header("access-control-max-age").is_some());

    // Errors carry the headers too, so that the page can read them.
    for path in ["/healthz", "/me", "/nothing"] {
        let response = client.request("GET", path, &[("Origin", "http://localhost:3000")], None).await;
        assert_eq!(response.header("access-control-allow-origin"), Some("http://localhost:3000"), "{path}");
        assert!(response.header("vary").unwrap().contains("origin"));
        assert_eq!(response.header("access-control-allow-credentials"), None);
    }
    for origin in ["https://evil.example", "https://app.example.evil.example", "http://app.example", "null"] {
        let response = client.request("GET", "/healthz", &[("Origin", origin)], None).await;
        assert_eq!(response.header("access-control-allow-origin"), None, "{origin}");
    }
}

#[tokio::test]
async fn every_origin_can_be_allowed() {
    let server = server_with(Settings { origins: Origins::Any, ..settings() }).await;
    let mut client = server.client().await;
    let preflight = client.request("OPTIONS", "/rooms/x/members/y", PREFLIGHT, None).await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (200, Some("*")));
}
