//! The page of the web client: files that are the same for everyone, and all of whose answers are made before the first
//! is asked for.
//!
//! They are at all paths that no call of the API has. The page keeps its own places in the part of the address behind
//! `#`, which no server sees, so there is nothing here that gives every unknown path the same page.

use crate::errors::{ApiError, Code};
use crate::service::{App, Route, not_found};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// The page in this binary, empty where none was built.
pub const EMBEDDED: &[File] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// Stands for the page where there is none: says how to build it.
const UNBUILT: File = File { path: INDEX, plain: include_bytes!("unbuilt.html"), gzip: None, brotli: None };

/// What `GET /` answers with.
const INDEX: &str = "/index.html";

/// Below this each name has a hash of its content in it, so what is there never changes.
const HASHED: &str = "/assets/";

/// What the page may do. Scripts, styles and everything else are of this server and in files of their own. `'self'` are
/// its WebSockets too (CSP 3, section 6.7.2.8). A browser that knows Trusted Types makes no HTML and no script out of a
/// string: the page never asks for that.
const POLICY: &str = "default-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// One file of the page. All of it is in the binary.
#[derive(Clone, Copy)]
pub struct File {
    /// Its path in the address, from `/` on.
    pub path: &'static str,
    pub plain: &'static [u8],
    /// The same compressed, where that is worth it.
    pub gzip: Option<&'static [u8]>,
    pub brotli: Option<&'static [u8]>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("path", &self.path).field("bytes", &self.plain.len()).finish_non_exhaustive()
    }
}

/// The files by their paths. There is always an index.
pub(crate) struct Page {
    index: Prepared,
    files: HashMap<&'static str, Prepared>,
}

impl Page {
    pub(crate) fn new(files: &[File]) -> Page {
        let index = files.iter().find(|file| file.path == INDEX);
        Page {
            index: Prepared::new(index.unwrap_or(&UNBUILT)),
            files: files.iter().map(|file| (file.path, Prepared::new(file))).collect(),
        }
    }
}

/// The one route that is always there; the files are what [`file`] finds.
pub(crate) fn routes() -> Vec<Route> {
    vec![Route::new(Method::GET, "/", index)]
}

async fn index(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.page.index.answer(&headers)
}

/// At every path that is no route: a file of the page, or nothing.
pub(crate) async fn file(State(app): State<Arc<App>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    match app.page.files.get(uri.path()) {
        None => not_found().into_response(),
        Some(file) if method == Method::GET || method == Method::HEAD => file.answer(&headers),
        Some(_) => {
            let error = ApiError::new(Code::MethodNotAllowed, "this is a file of the web client; it can only be read");
            ([(header::ALLOW, "GET,HEAD")], error).into_response()
        }
    }
}

/// A file with all that its answers say.
struct Prepared {
    content_type: HeaderValue,
    cache_control: HeaderValue,
    plain: Variant,
    gzip: Option<Variant>,
    brotli: Option<Variant>,
}

/// A file in one encoding.
struct Variant {
    encoding: Option<HeaderValue>,
    /// Another one for each encoding: they are not the same bytes (RFC 9110 section 8.8.3.3).
    etag: HeaderValue,
    body: Bytes,
}

impl Prepared {
    fn new(file: &File) -> Prepared {
        let hash = Sha256::digest(file.plain);
        let hash: String = hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        let variant = |encoding: Option<&'static str>, body: &'static [u8]| {
            let suffix = encoding.map(|name| format!("-{name}")).unwrap_or_default();
            let etag = HeaderValue::from_str(&format!("\"{hash}{suffix}\""));
            Variant {
                encoding: encoding.map(HeaderValue::from_static),
                etag: etag.unwrap_or(HeaderValue::from_static("\"\"")),
                body: Bytes::from_static(body),
            }
        };
        // A page that stays the same is not sent again, but asked for: after an update it has to be the new one.
        let is_hashed = file.path.starts_with(HASHED);
        let cache_control = if is_hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
        Prepared {
            content_type: HeaderValue::from_static(content_type(file.path)),
            cache_control: HeaderValue::from_static(cache_control),
            plain: variant(None, file.plain),
            gzip: file.gzip.map(|body| variant(Some("gzip"), body)),
            brotli: file.brotli.map(|body| variant(Some("br"), body)),
        }
    }

    fn answer(&self, request: &HeaderMap) -> Response {
        let variant = self.variant(request);
        let is_known = names_etag(request, &variant.etag);
        let mut response = Response::new(if is_known { Body::empty() } else { Body::from(variant.body.clone()) });
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(header::ETAG, variant.etag.clone());
        headers.insert(header::CACHE_CONTROL, self.cache_control.clone());
        if self.gzip.is_some() || self.brotli.is_some() {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        if !is_known {
            headers.insert(header::CONTENT_TYPE, self.content_type.clone());
            if let Some(encoding) = &variant.encoding {
                headers.insert(header::CONTENT_ENCODING, encoding.clone());
            }
        }
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        // Not `no-referrer`: with that some requests of the page itself would come with `Origin: null`.
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        response
    }

    /// The smallest that the client takes.
    fn variant(&self, request: &HeaderMap) -> &Variant {
        let taken = [(&self.brotli, "br"), (&self.gzip, "gzip")].into_iter();
        let mut taken = taken.filter_map(|(variant, coding)| variant.as_ref().filter(|_| accepts(request, coding)));
        taken.next().unwrap_or(&self.plain)
    }
}

/// Whether the client takes this content coding (RFC 9110 section 12.5.3). What it would rather have does not count.
fn accepts(request: &HeaderMap, coding: &str) -> bool {
    let mut by_any = false;
    for element in elements(request, header::ACCEPT_ENCODING) {
        let (name, weight) = element.split_once(';').unwrap_or((element, "q=1"));
        let weight = weight.trim().strip_prefix(['q', 'Q']).and_then(|weight| weight.strip_prefix('='));
        // What is no number is taken for 0: plain bytes are always right.
        let is_taken = weight.is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        if name.trim().eq_ignore_ascii_case(coding) {
            return is_taken;
        }
        by_any |= name.trim() == "*" && is_taken;
    }
    by_any
}

/// Whether `If-None-Match` names this ETag, or any (RFC 9110 section 13.1.2). Compared weakly: a proxy that compresses
/// makes weak ones of ours.
fn names_etag(request: &HeaderMap, etag: &HeaderValue) -> bool {
    elements(request, header::IF_NONE_MATCH)
        .any(|element| element == "*" || element.strip_prefix("W/").unwrap_or(element).as_bytes() == etag.as_bytes())
}

/// The elements of a list, in one line or in several.
fn elements(request: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = request.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|value| value.split(',')).map(str::trim)
}

/// What a file is, by its name.
fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "txt" => "text/plain; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        // Shown by no browser, since it must not guess.
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_a_client_takes() {
        let cases: [(&[&str], bool, bool); 14] = [
            (&[], false, false),
            (&[""], false, false),
            (&["gzip, deflate, br, zstd"], true, true),
            (&["gzip"], false, true),
            (&["GZIP;q=0.001 , BR"], true, true),
            (&["deflate", "br"], true, false),
            (&["br;q=0, gzip;q=0.5"], false, true),
            (&["*"], true, true),
            (&["br;q=0, *"], false, true),
            (&["*, br;Q=0.0"], false, true),
            (&["*;q=0, gzip"], false, true),
            (&["identity, *;q=0"], false, false),
            (&["brotli, x-gzip"], false, false),
            (&["br;q=high, gzip;q="], false, false),
        ];
        for (values, brotli, gzip) in cases {
            let headers = with(header::ACCEPT_ENCODING, values);
            assert_eq!((accepts(&headers, "br"), accepts(&headers, "gzip")), (brotli, gzip), "{values:?}");
        }
    }

    #[test]
    fn which_etags_are_named() {
        let etag = HeaderValue::from_static("\"1f-br\"");
        let cases: [(&[&str], bool); 9] = [
            (&[], false),
            (&["\"1f-br\""], true),
            (&["W/\"1f-br\""], true),
            (&["\"2e\", \"1f-br\""], true),
            (&["\"2e\"", "\"1f-br\""], true),
            (&["*"], true),
            (&["\"1f\""], false),
            (&["1f-br"], false),
            (&["w/\"1f-br\""], false),
        ];
        for (values, is_named) in cases {
            assert_eq!(names_etag(&with(header::IF_NONE_MATCH, values), &etag), is_named, "{values:?}");
        }
    }

    /// Of whatever page is in this binary, the one that was built or none.
    #[test]
    fn what_is_embedded_is_whole() {
        assert!(EMBEDDED.is_empty() || EMBEDDED.iter().any(|file| file.path == INDEX), "{EMBEDDED:?}");
        for file in EMBEDDED {
            assert!(file.path.starts_with('/') && !file.path.contains("//"), "{file:?}");
            let gzip = file.gzip.map(|encoded| {
                let mut plain = Vec::new();
                std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(encoded), &mut plain).unwrap();
                plain
            });
            let brotli = file.brotli.map(|mut encoded| {
                let mut plain = Vec::new();
                brotli::BrotliDecompress(&mut encoded, &mut plain).unwrap();
                plain
            });
            for decoded in [gzip, brotli].into_iter().flatten() {
                assert!(decoded == file.plain, "{file:?}");
            }
            for encoded in [file.gzip, file.brotli].into_iter().flatten() {
                assert!(encoded.len() < file.plain.len(), "{file:?}");
            }
            assert_ne!(content_type(file.path), "application/octet-stream", "{file:?} needs a type");
        }
    }
}
