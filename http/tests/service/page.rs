//! The web client: a small one defined in this file, a missing one, and the one in this build.

use crate::support::{Client, Response, Server, server, server_with, settings};
use std::collections::HashSet;
use uproar_http::assets::{EMBEDDED, File};
use uproar_http::{EmbedOrigins, Settings};

/// The service never decompresses, so these bodies need not be valid.
const ASSETS: &[File] = &[
    File {
        path: "/index.html",
        plain: b"<!doctype html><script type=\"module\" src=\"/assets/index-4f2a.js\"></script>",
        gzip: Some(b"the index as gzip"),
        brotli: Some(b"the index as brotli"),
    },
    File { path: "/assets/index-4f2a.js", plain: b"let all = 1;", gzip: None, brotli: Some(b"js as brotli") },
    File { path: "/assets/index-91bc.css", plain: b"body { }", gzip: Some(b"css as gzip"), brotli: None },
    File { path: "/assets/dot-00ff.png", plain: b"\x89PNG", gzip: None, brotli: None },
    File { path: "/favicon.svg", plain: b"<svg/>", gzip: None, brotli: None },
    File { path: "/sw.js", plain: b"let worker = 1;", gzip: None, brotli: None },
    File { path: "/embed.html", plain: b"<!doctype html>", gzip: None, brotli: None },
    File { path: "/embed.js", plain: b"let element = 1;", gzip: None, brotli: None },
    File { path: "/manifest.webmanifest", plain: b"{}", gzip: None, brotli: None },
    // Hidden by a call of the same path.
    File { path: "/healthz", plain: b"never seen", gzip: None, brotli: None },
];

async fn server_with_assets() -> Server {
    server_with(Settings { assets: ASSETS, ..settings() }).await
}

async fn get(client: &mut Client, path: &str, headers: &[(&str, &str)]) -> Response {
    client.request("GET", path, headers, None).await
}

#[tokio::test]
async fn the_index_has_a_strict_policy() {
    let server = server_with_assets().await;
    let mut client = server.client().await;
    for path in ["/", "/?x=y", "/index.html"] {
        let response = client.get(path).await;
        assert_eq!((response.status, response.body.as_slice()), (200, ASSETS[0].plain), "{path}");
        assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(response.header("content-encoding"), None);
        assert_eq!(response.header("cache-control"), Some("no-cache"));
        assert_eq!(response.header("vary"), Some("accept-encoding"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("referrer-policy"), Some("same-origin"));
        assert_eq!(response.header("set-cookie"), None);
        let policy = response.header("content-security-policy").unwrap();
        let directives: Vec<&str> = policy.split("; ").collect();
        for directive in [
            "default-src 'self'",
            "connect-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types service-worker",
        ] {
            assert!(directives.contains(&directive), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}

#[tokio::test]
async fn every_file_has_its_type_and_cache_control() {
    let server = server_with_assets().await;
    let mut client = server.client().await;
    let immutable = "public, max-age=31536000, immutable";
    for (path, content_type, cache_control) in [
        ("/assets/index-4f2a.js", "text/javascript; charset=utf-8", immutable),
        ("/assets/index-91bc.css", "text/css; charset=utf-8", immutable),
        ("/assets/dot-00ff.png", "image/png", immutable),
        ("/favicon.svg", "image/svg+xml", "no-cache"),
        ("/sw.js", "text/javascript; charset=utf-8", "no-cache"),
        ("/manifest.webmanifest", "application/manifest+json", "no-cache"),
    ] {
        let response = client.get(path).await;
        let file = ASSETS.iter().find(|file| file.path == path).unwrap();
        assert_eq!((response.status, response.body.as_slice()), (200, file.plain), "{path}");
        assert_eq!(response.header("content-type"), Some(content_type));
        assert_eq!(response.header("cache-control"), Some(cache_control));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert!(response.header("content-security-policy").is_some());
        assert_eq!(response.header("cross-origin-opener-policy"), Some("same-origin"));
        assert_eq!(response.header("cross-origin-resource-policy"), Some("same-origin"));
        assert!(response.header("permissions-policy").is_some_and(|policy| policy.contains("microphone=()")));
    }
}

#[tokio::test]
async fn only_named_origins_may_show_a_room_in_a_frame_and_nothing_else() {
    let embed_origins = EmbedOrigins::parse(&["https://www.example.org", "http://localhost:3000"]).unwrap();
    let open = server_with(Settings { assets: ASSETS, embed_origins, ..settings() }).await;
    let mut etags = HashSet::new();
    for (server, ancestors) in
        [(server_with_assets().await, "'none'"), (open, "https://www.example.org http://localhost:3000")]
    {
        let mut client = server.client().await;
        // After a 304, Safari would go on with the policy of before.
        assert!(etags.insert(client.get("/embed.html").await.header("etag").map(str::to_owned)), "{etags:?}");
        for (path, ancestors) in [("/", "'none'"), ("/index.html", "'none'"), ("/embed.html", ancestors)] {
            let response = client.get(path).await;
            let policy = response.header("content-security-policy").unwrap();
            let directives: Vec<&str> = policy.split("; ").collect();
            assert!(directives.contains(&&*format!("frame-ancestors {ancestors}")), "{path}: {policy}");
            assert!(directives.contains(&"default-src 'self'"), "{path}: {policy}");
        }
        // The script of the element runs on those sites, and isolated ones show the frame only with these headers.
        let script = client.get("/embed.js").await;
        let frame = client.get("/embed.html").await;
        for response in [&script, &frame] {
            assert_eq!(response.header("cross-origin-resource-policy"), Some("cross-origin"));
            assert_eq!(response.header("cross-origin-embedder-policy"), Some("require-corp"));
        }
        assert_eq!(script.header("cache-control"), Some("no-cache"));
    }
}

#[tokio::test]
async fn the_smallest_accepted_encoding_is_sent() {
    let server = server_with_assets().await;
    let mut client = server.client().await;
    let (js, css, png) = ("/assets/index-4f2a.js", "/assets/index-91bc.css", "/assets/dot-00ff.png");
    let mut etags = HashSet::new();
    for (path, accepted, encoding, body) in [
        ("/", "gzip, deflate, br, zstd", Some("br"), ASSETS[0].brotli),
        ("/", "gzip, deflate", Some("gzip"), ASSETS[0].gzip),
        ("/", "deflate", None, Some(ASSETS[0].plain)),
        (js, "gzip, br", Some("br"), ASSETS[1].brotli),
        (js, "gzip", None, Some(ASSETS[1].plain)),
        (css, "gzip, br", Some("gzip"), ASSETS[2].gzip),
        (css, "br", None, Some(ASSETS[2].plain)),
        (png, "gzip, br", None, Some(ASSETS[3].plain)),
    ] {
        let response = get(&mut client, path, &[("Accept-Encoding", accepted)]).await;
        assert_eq!(response.header("content-encoding"), encoding, "{path} {accepted}");
        assert_eq!(Some(response.body.as_slice()), body, "{path} {accepted}");
        assert_eq!(response.header("vary"), (path != png).then_some("accept-encoding"), "{path}");
        let etag = response.header("etag").unwrap();
        assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        assert!(etags.insert(etag.to_owned()), "{path} {accepted}: {etag} is not unique");
    }
}

#[tokio::test]
async fn an_unchanged_file_is_not_sent_again() {
    let server = server_with_assets().await;
    let mut client = server.client().await;
    for path in ["/", "/assets/index-4f2a.js", "/favicon.svg"] {
        for accepted in ["br", "identity"] {
            let whole = get(&mut client, path, &[("Accept-Encoding", accepted)]).await;
            let etag = whole.header("etag").unwrap();
            for method in ["GET", "HEAD"] {
                let known = [("Accept-Encoding", accepted), ("If-None-Match", etag)];
                let response = client.request(method, path, &known, None).await;
                assert_eq!((response.status, response.body.len()), (304, 0), "{method} {path} {accepted}");
                for same in ["etag", "cache-control", "vary", "content-security-policy"] {
                    assert_eq!(response.header(same), whole.header(same), "{same}");
                }
                // It would have to be that of the file (RFC 9110, section 8.6).
                assert_eq!(response.header("content-length"), None);
            }
            let other = [("Accept-Encoding", accepted), ("If-None-Match", "\"another\"")];
            assert_eq!(get(&mut client, path, &other).await.body, whole.body);
        }
    }
    // The connection stays usable after responses without a body.
    client.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn head_returns_the_headers_of_get() {
    let server = server_with_assets().await;
    let mut client = server.client().await;
    for path in ["/", "/assets/index-4f2a.js", "/favicon.svg"] {
        let whole = get(&mut client, path, &[("Accept-Encoding", "br")]).await;
        let head = client.request("HEAD", path, &[("Accept-Encoding", "br")], None).await;
        let without_date = |response: &Response| {
            let mut headers = response.headers.clone();
            headers.retain(|(name, _)| name != "date");
            headers.sort();
            headers
        };
        assert_eq!((head.status, without_date(&head)), (200, without_date(&whole)), "{path}");
        assert_eq!(head.header("content-length"), Some(&*whole.body.len().to_string()));
    }
    client.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn files_do_not_hide_calls() {
    let server = server_with_assets().await;
    let mut client = server.client().await;
    client.get("/healthz").await.expect(200);
    client.get("/rooms").await.assert_error(401, "token_missing", None);
    for path in ["/assets/index-old.js", "/assets/", "/assets", "/rooms/lobby/assets/index-4f2a.js", "//favicon.svg"] {
        let response = client.get(path).await;
        assert_eq!((response.status, response.header("cache-control")), (404, Some("no-store")), "{path}");
    }
    for path in ["/../Cargo.toml", "/assets/../favicon.svg", "/assets/%2e%2e/favicon.svg", "/%66avicon.svg"] {
        client.get(path).await.assert_error(404, "not_found", None);
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let response = client.request(method, "/favicon.svg", &[], None).await;
        response.assert_error(405, "method_not_allowed", None);
        assert_eq!(response.header("allow"), Some("GET,HEAD"));
        client.request(method, "/nothing.svg", &[], None).await.assert_error(404, "not_found", None);
    }
}

#[tokio::test]
async fn without_a_web_client_the_index_explains_how_to_build_it() {
    let server = server_with(Settings { assets: &[], ..settings() }).await;
    let mut client = server.client().await;
    let response = client.get("/").await;
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(response.header("cache-control"), Some("no-cache"));
    let text = response.text();
    for hint in ["make web", "make run", "Node.js 20.19", "/openapi.json"] {
        assert!(text.contains(hint), "{hint}");
    }
    // The same policy applies.
    assert!(response.header("content-security-policy").unwrap().contains("default-src 'self'"));
    assert!(!text.contains("<style") && !text.contains("style=") && !text.contains("<script"));
    client.get("/index.html").await.assert_error(404, "not_found", None);
    client.get("/assets/index.js").await.assert_error(404, "not_found", None);
    client.get("/openapi.json").await.expect(200);
    server.sign_up("ann").await.get("/me").await.expect(200);
}

#[tokio::test]
async fn the_embedded_web_client_is_served() {
    let server = server().await;
    let mut client = server.client().await;
    assert_eq!(client.get("/").await.status, 200);
    for file in EMBEDDED {
        let response = client.get(file.path).await;
        assert_eq!(response.status, 200, "{file:?}");
        assert!(response.body == file.plain, "{file:?}");
    }
}

#[tokio::test]
async fn the_admin_port_has_no_web_client() {
    let server = server_with_assets().await;
    let mut admin = server.admin().await;
    for path in ["/", "/index.html", "/favicon.svg"] {
        admin.get(path).await.assert_error(404, "not_found", None);
    }
}
