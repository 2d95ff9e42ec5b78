//! The page of the web client: a small one that is in this file, none, and the one that was built.

use crate::support::{Answer, Client, Server, server, server_with, settings};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uproar_http::Settings;
use uproar_http::page::File;

/// What is compressed here need not be: the service never looks.
const PAGE: &[File] = &[
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
    // In the way of a call.
    File { path: "/healthz", plain: b"never seen", gzip: None, brotli: None },
];

async fn server_with_page() -> Server {
    server_with(Settings { page: PAGE, ..settings() }).await
}

async fn get(client: &mut Client, path: &str, headers: &[(&str, &str)]) -> Answer {
    client.request("GET", path, headers, None).await
}

#[tokio::test]
async fn the_index() {
    let server = server_with_page().await;
    let mut client = server.client().await;
    for path in ["/", "/?x=y", "/index.html"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, PAGE[0].plain), "{path}");
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(answer.header("content-encoding"), None);
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("same-origin"));
        assert_eq!(answer.header("set-cookie"), None);
        let policy = answer.header("content-security-policy").unwrap();
        let directives: Vec<&str> = policy.split("; ").collect();
        for directive in [
            "default-src 'self'",
            "connect-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ] {
            assert!(directives.contains(&directive), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}

#[tokio::test]
async fn every_file_has_its_type_and_its_time() {
    let server = server_with_page().await;
    let mut client = server.client().await;
    let immutable = "public, max-age=31536000, immutable";
    for (path, content_type, cache_control) in [
        ("/assets/index-4f2a.js", "text/javascript; charset=utf-8", immutable),
        ("/assets/index-91bc.css", "text/css; charset=utf-8", immutable),
        ("/assets/dot-00ff.png", "image/png", immutable),
        ("/favicon.svg", "image/svg+xml", "no-cache"),
    ] {
        let answer = client.get(path).await;
        let file = PAGE.iter().find(|file| file.path == path).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, file.plain), "{path}");
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("cache-control"), Some(cache_control));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert!(answer.header("content-security-policy").is_some());
    }
}

#[tokio::test]
async fn the_smallest_encoding_that_the_client_takes() {
    let server = server_with_page().await;
    let mut client = server.client().await;
    let (js, css, png) = ("/assets/index-4f2a.js", "/assets/index-91bc.css", "/assets/dot-00ff.png");
    let mut etags = HashSet::new();
    for (path, accepted, encoding, body) in [
        ("/", "gzip, deflate, br, zstd", Some("br"), PAGE[0].brotli),
        ("/", "gzip, deflate", Some("gzip"), PAGE[0].gzip),
        ("/", "deflate", None, Some(PAGE[0].plain)),
        (js, "gzip, br", Some("br"), PAGE[1].brotli),
        (js, "gzip", None, Some(PAGE[1].plain)),
        (css, "gzip, br", Some("gzip"), PAGE[2].gzip),
        (css, "br", None, Some(PAGE[2].plain)),
        (png, "gzip, br", None, Some(PAGE[3].plain)),
    ] {
        let answer = get(&mut client, path, &[("Accept-Encoding", accepted)]).await;
        assert_eq!(answer.header("content-encoding"), encoding, "{path} {accepted}");
        assert_eq!(Some(answer.body.as_slice()), body, "{path} {accepted}");
        assert_eq!(answer.header("vary"), (path != png).then_some("accept-encoding"), "{path}");
        let etag = answer.header("etag").unwrap();
        assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        assert!(etags.insert(etag.to_owned()), "{path} {accepted}: {etag} was another's");
    }
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let server = server_with_page().await;
    let mut client = server.client().await;
    for path in ["/", "/assets/index-4f2a.js", "/favicon.svg"] {
        for accepted in ["br", "identity"] {
            let whole = get(&mut client, path, &[("Accept-Encoding", accepted)]).await;
            let etag = whole.header("etag").unwrap();
            for method in ["GET", "HEAD"] {
                let known = [("Accept-Encoding", accepted), ("If-None-Match", etag)];
                let answer = client.request(method, path, &known, None).await;
                assert_eq!((answer.status, answer.body.len()), (304, 0), "{method} {path} {accepted}");
                for same in ["etag", "cache-control", "vary", "content-security-policy"] {
                    assert_eq!(answer.header(same), whole.header(same), "{same}");
                }
                // It would be that of the file (RFC 9110 section 8.6).
                assert_eq!(answer.header("content-length"), None);
            }
            let other = [("Accept-Encoding", accepted), ("If-None-Match", "\"another\"")];
            assert_eq!(get(&mut client, path, &other).await.body, whole.body);
        }
    }
    // The connection goes on behind answers without a body.
    client.get("/healthz").await.ok(200);
}

#[tokio::test]
async fn a_head_without_its_body() {
    let server = server_with_page().await;
    let mut client = server.client().await;
    for path in ["/", "/assets/index-4f2a.js", "/favicon.svg"] {
        let whole = get(&mut client, path, &[("Accept-Encoding", "br")]).await;
        let head = client.request("HEAD", path, &[("Accept-Encoding", "br")], None).await;
        let without_date = |answer: &Answer| {
            let mut headers = answer.headers.clone();
            headers.retain(|(name, _)| name != "date");
            headers.sort();
            headers
        };
        assert_eq!((head.status, without_date(&head)), (200, without_date(&whole)), "{path}");
        assert_eq!(head.header("content-length"), Some(&*whole.body.len().to_string()));
    }
    client.get("/healthz").await.ok(200);
}

#[tokio::test]
async fn files_are_beside_the_calls_and_not_in_their_way() {
    let server = server_with_page().await;
    let mut client = server.client().await;
    client.get("/healthz").await.ok(200);
    client.get("/rooms").await.is_error(401, "token_missing", None);
    for path in ["/assets/index-old.js", "/assets/", "/assets", "/rooms/lobby/assets/index-4f2a.js", "//favicon.svg"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.header("cache-control")), (404, Some("no-store")), "{path}");
    }
    for path in ["/../Cargo.toml", "/assets/../favicon.svg", "/assets/%2e%2e/favicon.svg", "/%66avicon.svg"] {
        client.get(path).await.is_error(404, "not_found", None);
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = client.request(method, "/favicon.svg", &[], None).await;
        answer.is_error(405, "method_not_allowed", None);
        assert_eq!(answer.header("allow"), Some("GET,HEAD"));
        client.request(method, "/nothing.svg", &[], None).await.is_error(404, "not_found", None);
    }
}

#[tokio::test]
async fn without_a_page_the_first_one_says_how_to_build_it() {
    let server = server_with(Settings { page: &[], ..settings() }).await;
    let mut client = server.client().await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    let text = answer.text();
    for said in ["make web", "make run", "Node.js 20.19", "/openapi.json"] {
        assert!(text.contains(said), "{said}");
    }
    // It is under the same policy.
    assert!(answer.header("content-security-policy").unwrap().contains("default-src 'self'"));
    assert!(!text.contains("<style") && !text.contains("style=") && !text.contains("<script"));
    client.get("/index.html").await.is_error(404, "not_found", None);
    client.get("/assets/index.js").await.is_error(404, "not_found", None);
    client.get("/openapi.json").await.ok(200);
    server.signed_up("ann").await.get("/me").await.ok(200);
}

/// Whatever this was built with.
#[tokio::test]
async fn the_page_of_this_build() {
    let server = server().await;
    let mut client = server.client().await;
    assert_eq!(client.get("/").await.status, 200);
    for file in uproar_http::page::EMBEDDED {
        let answer = client.get(file.path).await;
        assert_eq!(answer.status, 200, "{file:?}");
        assert!(answer.body == file.plain, "{file:?}");
    }
}

#[tokio::test]
async fn operators_have_no_page() {
    let server = server_with_page().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut admin = Client::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    let (stream, peer) = listener.accept().await.unwrap();
    let (_drain, draining) = watch::channel(false);
    tokio::spawn(Arc::clone(&server.service).serve_admin(stream, peer, Bytes::new(), draining));
    for path in ["/", "/index.html", "/favicon.svg"] {
        admin.get(path).await.is_error(404, "not_found", None);
    }
}
