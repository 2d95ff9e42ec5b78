//! The files of the web client, embedded in the binary. They are the same for everyone, so all of their responses are
//! prepared at the start.

use crate::origins::EmbedOrigins;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// The web client in this binary; empty if none was built.
pub const EMBEDDED: &[File] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// Stands in for the index of a server without a web client, and explains how to build it.
const UNBUILT: File = File { path: INDEX, plain: include_bytes!("unbuilt.html"), gzip: None, brotli: None };

/// The file that answers `GET /`.
const INDEX: &str = "/index.html";

/// The page with a single room, which other sites may show in a frame. No other page may be in one.
const FRAME: &str = "/embed.html";

/// The script that makes `<uproar-room>` known to such a site.
const ELEMENT: &str = "/embed.js";

/// Every name below this path contains a hash of the file's content, so such a file never changes.
const HASHED: &str = "/assets/";

/// What the web client may do, apart from who may show it in a frame. Its scripts, styles and other files come from
/// this server, each in a file of its own. `'self'` includes WebSockets of the same origin (CSP 3, section 6.7.2.8).
/// Browsers that support Trusted Types never make HTML or scripts from strings. The one policy that is allowed lets the
/// web client start its service worker.
const POLICY: &str = "default-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; \
                      require-trusted-types-for 'script'; trusted-types service-worker";

/// What keeps the web client apart from pages of other origins, and from the devices and sensors that it doesn't need.
const ISOLATION: [(&str, &str); 3] = [
    ("cross-origin-opener-policy", "same-origin"),
    // Sites that are isolated themselves show no frame without it.
    ("cross-origin-embedder-policy", "require-corp"),
    (
        "permissions-policy",
        "accelerometer=(), autoplay=(), browsing-topics=(), camera=(), display-capture=(), encrypted-media=(), \
         fullscreen=(), geolocation=(), gyroscope=(), hid=(), magnetometer=(), microphone=(), midi=(), payment=(), \
         picture-in-picture=(), publickey-credentials-get=(), screen-wake-lock=(), serial=(), usb=(), \
         xr-spatial-tracking=()",
    ),
];

/// One file of the web client.
#[derive(Clone, Copy)]
pub struct File {
    /// The path in the URL, with the leading `/`.
    pub path: &'static str,
    pub plain: &'static [u8],
    /// The compressed file, if it is noticeably smaller.
    pub gzip: Option<&'static [u8]>,
    pub brotli: Option<&'static [u8]>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("path", &self.path).field("bytes", &self.plain.len()).finish_non_exhaustive()
    }
}

/// The files by path. There is always an index.
pub(crate) struct Assets {
    index: Prepared,
    files: HashMap<&'static str, Prepared>,
}

impl Assets {
    /// `embed_origins`: whose pages may show a room in a frame.
    pub(crate) fn new(files: &[File], embed_origins: &EmbedOrigins) -> Assets {
        let index = files.iter().find(|file| file.path == INDEX);
        Assets {
            index: Prepared::new(index.unwrap_or(&UNBUILT), embed_origins),
            files: files.iter().map(|file| (file.path, Prepared::new(file, embed_origins))).collect(),
        }
    }

    /// The response to `GET /` with these request headers.
    pub(crate) fn index(&self, request: &HeaderMap) -> Response {
        self.index.respond(request)
    }

    /// The response to a `GET` of this path; `None` if there is no such file.
    pub(crate) fn file(&self, path: &str, request: &HeaderMap) -> Option<Response> {
        Some(self.files.get(path)?.respond(request))
    }
}

/// A file with everything that its responses need.
struct Prepared {
    content_type: HeaderValue,
    cache_control: HeaderValue,
    policy: HeaderValue,
    /// Which sites' pages may load it as a script, a picture or, if they are isolated, a frame
    /// (`Cross-Origin-Resource-Policy`).
    resource_policy: HeaderValue,
    plain: Variant,
    gzip: Option<Variant>,
    brotli: Option<Variant>,
}

/// A file in one encoding.
struct Variant {
    encoding: Option<HeaderValue>,
    /// Differs between encodings, because their bytes differ (RFC 9110, section 8.8.3.3).
    etag: HeaderValue,
    body: Bytes,
}

impl Prepared {
    fn new(file: &File, embed_origins: &EmbedOrigins) -> Prepared {
        let ancestors = if file.path == FRAME { embed_origins.ancestors() } else { "'none'".to_owned() };
        let policy = format!("frame-ancestors {ancestors}; {POLICY}");
        // Safari goes on with the policy that it has when it gets a 304, so another policy has another ETag.
        let hash = Sha256::new().chain_update(file.plain).chain_update(&policy).finalize();
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
        // `no-cache` lets browsers keep a file, but they ask on each use whether it has changed.
        let is_hashed = file.path.starts_with(HASHED);
        let cache_control = if is_hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
        let policy = HeaderValue::from_str(&policy);
        let is_for_sites = [FRAME, ELEMENT].contains(&file.path);
        let resource_policy = if is_for_sites { "cross-origin" } else { "same-origin" };
        Prepared {
            content_type: HeaderValue::from_static(content_type(file.path)),
            cache_control: HeaderValue::from_static(cache_control),
            // An origin consists of characters that a header may have.
            policy: policy.unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
            resource_policy: HeaderValue::from_static(resource_policy),
            plain: variant(None, file.plain),
            gzip: file.gzip.map(|body| variant(Some("gzip"), body)),
            brotli: file.brotli.map(|body| variant(Some("br"), body)),
        }
    }

    fn respond(&self, request: &HeaderMap) -> Response {
        let variant = self.variant(request);
        let is_unchanged = names_etag(request, &variant.etag);
        let mut response = Response::new(if is_unchanged { Body::empty() } else { Body::from(variant.body.clone()) });
        if is_unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(header::ETAG, variant.etag.clone());
        headers.insert(header::CACHE_CONTROL, self.cache_control.clone());
        if self.gzip.is_some() || self.brotli.is_some() {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        if !is_unchanged {
            headers.insert(header::CONTENT_TYPE, self.content_type.clone());
            if let Some(encoding) = &variant.encoding {
                headers.insert(header::CONTENT_ENCODING, encoding.clone());
            }
        }
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(HeaderName::from_static("cross-origin-resource-policy"), self.resource_policy.clone());
        for (name, value) in ISOLATION {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        // With `no-referrer`, some of the web client's own requests would carry `Origin: null`.
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        response
    }

    /// The smallest variant that the client accepts.
    fn variant(&self, request: &HeaderMap) -> &Variant {
        let mut compressed = [(&self.brotli, "br"), (&self.gzip, "gzip")].into_iter();
        let accepted = compressed.find_map(|(variant, coding)| variant.as_ref().filter(|_| accepts(request, coding)));
        accepted.unwrap_or(&self.plain)
    }
}

/// Whether the client accepts this content coding (RFC 9110, section 12.5.3). Its order of preference is ignored.
fn accepts(request: &HeaderMap, coding: &str) -> bool {
    let mut by_wildcard = false;
    for element in elements(request, header::ACCEPT_ENCODING) {
        let (name, weight) = element.split_once(';').unwrap_or((element, "q=1"));
        let weight = weight.trim().strip_prefix(['q', 'Q']).and_then(|weight| weight.strip_prefix('='));
        // An invalid weight counts as 0: uncompressed bytes are always acceptable.
        let is_accepted = weight.is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        if name.trim().eq_ignore_ascii_case(coding) {
            return is_accepted;
        }
        by_wildcard |= name.trim() == "*" && is_accepted;
    }
    by_wildcard
}

/// Whether `If-None-Match` names this ETag or is `*` (RFC 9110, section 13.1.2). The comparison is weak: a proxy that
/// compresses responses turns our ETags into weak ones.
fn names_etag(request: &HeaderMap, etag: &HeaderValue) -> bool {
    elements(request, header::IF_NONE_MATCH)
        .any(|element| element == "*" || element.strip_prefix("W/").unwrap_or(element).as_bytes() == etag.as_bytes())
}

/// The elements of a list, which may span several header lines.
fn elements(request: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = request.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|value| value.split(',')).map(str::trim)
}

/// The media type of a file, by its extension.
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
        // No browser shows this: with `nosniff` it may not guess.
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
    fn accept_encoding_decides_which_codings_are_accepted() {
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
    fn if_none_match_names_etags_weakly() {
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

    /// Checks the web client in this binary, if one was built.
    #[test]
    fn embedded_files_are_complete() {
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
