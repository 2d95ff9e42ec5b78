//! The head of an HTTP request, parsed far enough to recognize a WebSocket upgrade (RFC 6455, 4.2.1).
//!
//! Every upgrade is judged here. One that follows another request on its connection is read by the HTTP service first,
//! which passes it on as it was ([`asks_for_websocket`]), so it gets the same answer.

use super::refusal::Refusal;
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::Uri;
use http::uri::Authority;
use sha1::{Digest, Sha1};
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

/// The only version of the WebSocket protocol that RFC 6455 defines.
pub const VERSION: &str = "13";

/// The prefix of a subprotocol that carries a token. Browsers can set no `Authorization` header on a WebSocket.
pub const TOKEN_SUBPROTOCOL_PREFIX: &str = "bearer.";

/// The most header lines that a head may have. Hyper, which answers heads with more, has the same limit.
const HEADERS_LIMIT: usize = 100;

/// What the bytes read so far amount to.
#[derive(Debug)]
pub enum ParsedHead {
    /// The beginning of a request; more must be read.
    Incomplete,
    /// A valid upgrade request and the length of its head in bytes. Frames follow the head.
    Upgrade(Box<UpgradeRequest>, usize),
    /// Anything else, including malformed and overlong heads. The HTTP service answers it.
    Http,
    /// An upgrade request that can't be granted. The response is sent and the connection closed.
    Refused(Refusal),
}

/// A request to upgrade to WebSocket.
#[derive(Clone)]
pub struct UpgradeRequest {
    /// The other end of the connection. IPv4 addresses are not mapped into IPv6.
    pub peer: SocketAddr,
    /// The path as sent, with its leading slash, not decoded.
    pub path: String,
    /// The part after `?`, not decoded; empty if there is none. See [`UpgradeRequest::query_value`].
    pub query: String,
    /// The `Host` header, or the authority of the target if that is an absolute URL. Always set by [`parse`].
    pub host: Option<String>,
    pub origin: Option<String>,
    /// Every `Authorization` header, in the client's order: a proxy may have credentials of its own. See
    /// [`bearer_token`].
    pub authorization: Vec<String>,
    /// The offered subprotocols, in the client's order.
    pub subprotocols: Vec<String>,
    /// The `Sec-WebSocket-Accept` value that answers the key.
    pub accept: String,
}

impl UpgradeRequest {
    /// The first value of this name in the query, decoded (`application/x-www-form-urlencoded`).
    pub fn query_value(&self, name: &str) -> Option<Cow<'_, str>> {
        self.parameters().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The names and values in the query, decoded.
    pub fn parameters(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        form_urlencoded::parse(self.query.as_bytes())
    }
}

/// An empty request from an unspecified address, whose fields the caller fills in.
impl Default for UpgradeRequest {
    fn default() -> UpgradeRequest {
        UpgradeRequest {
            peer: SocketAddr::from(([0, 0, 0, 0], 0)),
            path: String::new(),
            query: String::new(),
            host: None,
            origin: None,
            authorization: Vec::new(),
            subprotocols: Vec::new(),
            accept: String::new(),
        }
    }
}

/// Omits every field that may carry a token: the query, the authorization and the subprotocols.
impl fmt::Debug for UpgradeRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("UpgradeRequest")
            .field("peer", &self.peer)
            .field("path", &self.path)
            .field("host", &self.host)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Parses the head of a request. `bytes` is everything read from the connection so far, `seen` the length that earlier
/// calls have already looked at: a client that sends its head byte by byte costs one parse per line, not one per byte.
/// A head may have at most `limit` bytes.
pub fn parse(bytes: &[u8], seen: usize, limit: usize, peer: SocketAddr) -> ParsedHead {
    // The first call always parses: input that is not HTTP at all, such as TLS, may go on for long without a line end.
    if seen > 0 && !bytes[seen..].contains(&b'\n') {
        return if bytes.len() > limit { ParsedHead::Http } else { ParsedHead::Incomplete };
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= limit => match upgrade(&request, peer) {
            Ok(Some(request)) => ParsedHead::Upgrade(Box::new(request), length),
            Ok(None) => ParsedHead::Http,
            Err(refusal) => ParsedHead::Refused(refusal),
        },
        Ok(httparse::Status::Partial) if bytes.len() <= limit => ParsedHead::Incomplete,
        // Hyper would close the connection without a word.
        Err(_) if bytes.starts_with(HTTP2_PREFACE) => {
            let message = "this server speaks HTTP/1.1; a proxy in front of it can add HTTP/2";
            ParsedHead::Refused(Refusal::new(400, "bad_request", message))
        }
        Err(_) if HTTP2_PREFACE.starts_with(bytes) => ParsedHead::Incomplete,
        _ => ParsedHead::Http,
    }
}

/// How a client begins that assumes HTTP/2 (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Whether a request with these values of the header `Upgrade` asks for a WebSocket, so that a shard answers it.
pub fn asks_for_websocket<'v>(upgrade: impl IntoIterator<Item = &'v [u8]>) -> bool {
    elements(upgrade).any(|element| element.eq_ignore_ascii_case(b"websocket"))
}

/// The error for an HTTP/1.1 request that [`host`] rejects.
pub const HOST_RULE: &str = "the header 'Host' must appear exactly once and name a host";

/// The value of `Host`, if there is exactly one and it is valid (RFC 9112, 3.2). It may be empty.
pub fn host<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> Option<&'v [u8]> {
    let mut values = values.into_iter();
    let host = values.next().filter(|_| values.next().is_none())?;
    let is_authority = || Authority::try_from(host).is_ok() && !host.contains(&b'@');
    (host.is_empty() || is_authority()).then_some(host)
}

/// `Ok(None)`: not an upgrade to WebSocket, or one that HTTP answers because it is malformed.
fn upgrade(request: &httparse::Request<'_, '_>, peer: SocketAddr) -> Result<Option<UpgradeRequest>, Refusal> {
    if !asks_for_websocket(values(request, "Upgrade")) {
        return Ok(None);
    }
    // Hyper answers a target that it can't parse; so must this program.
    let Ok(target) = Uri::try_from(request.path.unwrap_or_default()) else { return Ok(None) };
    let Some(body) = body(request) else { return Ok(None) };
    let bad = |message: &'static str| Err(Refusal::new(400, "bad_upgrade", message));

    if request.method != Some("GET") {
        return bad("a WebSocket upgrade must use GET");
    }
    if request.version != Some(1) {
        return bad("a WebSocket upgrade must use HTTP/1.1");
    }
    if !elements(values(request, "Connection")).any(|element| element.eq_ignore_ascii_case(b"upgrade")) {
        return bad("the header 'Connection: Upgrade' is missing; a proxy may have removed it");
    }
    // Checked before the key: other versions may have no key, or one of another kind.
    if single(request, "Sec-WebSocket-Version") != Some(VERSION.as_bytes()) {
        let message = "only version 13 of the WebSocket protocol is supported; send it in 'Sec-WebSocket-Version'";
        return Err(Refusal::new(426, "upgrade_required", message));
    }
    let Some(accept) = single(request, "Sec-WebSocket-Key").and_then(accept) else {
        return bad("the header 'Sec-WebSocket-Key' must appear exactly once and hold 16 bytes in Base64");
    };
    // Its bytes would be taken for frames.
    if body == Body::Announced {
        return bad("a WebSocket upgrade must not have a body");
    }
    let Some(host) = host(values(request, "Host")).map(text) else { return bad(HOST_RULE) };
    let host = target.authority().map_or(host, ToString::to_string);
    // If there were two, one check could read the first and another the second.
    if values(request, "Origin").count() > 1 {
        return bad("the header 'Origin' must appear only once");
    }

    Ok(Some(UpgradeRequest {
        peer,
        path: target.path().into(),
        query: target.query().unwrap_or_default().into(),
        host: Some(host),
        origin: single(request, "Origin").map(text),
        authorization: values(request, "Authorization").map(text).collect(),
        subprotocols: elements(values(request, "Sec-WebSocket-Protocol")).map(text).collect(),
        accept,
    }))
}

/// Whether a body follows the head.
#[derive(PartialEq, Eq)]
enum Body {
    None,
    Announced,
}

/// None: the head contradicts itself, which hyper answers.
fn body(request: &httparse::Request<'_, '_>) -> Option<Body> {
    if values(request, "Transfer-Encoding").next().is_some() {
        return Some(Body::Announced);
    }
    let mut lengths = values(request, "Content-Length");
    let Some(length) = lengths.next() else { return Some(Body::None) };
    let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    if !is_number || lengths.any(|other| other != length) {
        return None;
    }
    Some(if length.iter().all(|digit| *digit == b'0') { Body::None } else { Body::Announced })
}

/// The values of all headers of this name.
fn values<'r, 'b>(request: &'r httparse::Request<'_, 'b>, name: &'r str) -> impl Iterator<Item = &'b [u8]> {
    request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// The value of a header that appears exactly once.
fn single<'b>(request: &httparse::Request<'_, 'b>, name: &str) -> Option<&'b [u8]> {
    let mut values = values(request, name);
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// The elements of comma-separated lists (RFC 9110, 5.6.1).
fn elements<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> impl Iterator<Item = &'v [u8]> {
    let elements = values.into_iter().flat_map(|value| value.split(|byte| *byte == b','));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// The `Sec-WebSocket-Accept` value for a `Sec-WebSocket-Key` (RFC 6455, 4.2.2, 5.4). `None`: not a valid key.
pub fn accept(key: &[u8]) -> Option<String> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        // RFC 6455 itself has a key whose trailing bits are not zero (4.1), and they don't matter to anything.
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
    );
    let nonce = BASE64.decode(key).ok()?;
    if nonce.len() != 16 {
        return None;
    }
    let hash = Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    Some(BASE64.encode(hash))
}

/// The token in the first `Authorization: Bearer TOKEN` (RFC 6750, 2.1) that has one. Other schemes are ignored: a
/// proxy in front of the server may ask for a password of its own.
pub fn bearer_token<'a>(authorization: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let token = |value: &'a str| {
        let (scheme, token) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
    };
    authorization.into_iter().find_map(token)
}

/// The first offered subprotocol that carries a token: the token and the subprotocol. The response must name that
/// subprotocol: a browser fails the connection if the server picks none of those it offered.
pub fn token_subprotocol<'s>(offered: impl IntoIterator<Item = &'s str>) -> Option<(&'s str, &'s str)> {
    let token = |offered: &'s str| Some((offered.strip_prefix(TOKEN_SUBPROTOCOL_PREFIX)?, offered));
    offered.into_iter().filter_map(token).find(|(token, _)| !token.is_empty())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 4096;
    const PEER: &str = "192.0.2.7:4711";

    impl ParsedHead {
        #[track_caller]
        pub(crate) fn upgrade(self) -> UpgradeRequest {
            let ParsedHead::Upgrade(request, _) = self else { panic!("{self:?}") };
            *request
        }

        #[track_caller]
        fn refused(self) -> String {
            let ParsedHead::Refused(refusal) = self else { panic!("{self:?}") };
            String::from_utf8(refusal.response().into()).unwrap()
        }
    }

    pub(crate) fn parse(bytes: &str) -> ParsedHead {
        super::parse(bytes.as_bytes(), 0, LIMIT, PEER.parse().unwrap())
    }

    /// The request of RFC 6455, 1.3, with additional header lines.
    pub(crate) fn upgrade_with(headers: &str) -> String {
        format!(
            "GET /ws?room=a%20b&token=x%2By+z&room=c HTTP/1.1\r\nHost: chat.example:8080\r\nUpgrade: websocket\r\n\
             Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        )
    }

    #[test]
    fn an_upgrade_request_is_parsed() {
        let bytes = upgrade_with(
            "Origin: https://chat.example\r\nauthorization: Bearer abc\r\nSec-WebSocket-Protocol: a, b,,\r\n\
             Sec-WebSocket-Protocol:c\r\n",
        ) + "frames";
        let ParsedHead::Upgrade(request, length) = parse(&bytes) else { panic!() };
        assert_eq!(&bytes[length..], "frames");
        assert_eq!(request.peer, PEER.parse().unwrap());
        assert_eq!(request.path, "/ws");
        assert_eq!(request.query, "room=a%20b&token=x%2By+z&room=c");
        assert_eq!(request.query_value("room").as_deref(), Some("a b"));
        assert_eq!(request.query_value("token").as_deref(), Some("x+y z"));
        assert_eq!(request.query_value("none"), None);
        assert_eq!(request.host.as_deref(), Some("chat.example:8080"));
        assert_eq!(request.origin.as_deref(), Some("https://chat.example"));
        assert_eq!(request.authorization, ["Bearer abc"]);
        assert_eq!(request.subprotocols, ["a", "b", "c"]);
        assert_eq!(request.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let bare = parse(&upgrade_with("")).upgrade();
        assert_eq!(bare.origin, None);
        assert!(bare.authorization.is_empty() && bare.subprotocols.is_empty());
    }

    #[test]
    fn a_client_that_assumes_http2_is_told_so() {
        let ParsedHead::Refused(refusal) = parse("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") else { panic!() };
        assert_eq!((refusal.status, refusal.code), (400, "bad_request"));
        assert!(matches!(parse("PRI * HTTP/2"), ParsedHead::Incomplete));
    }

    #[test]
    fn debug_output_shows_no_tokens() {
        let request = parse(&upgrade_with("Authorization: Bearer secret\r\nSec-WebSocket-Protocol: bearer.secret\r\n"));
        let shown = format!("{request:?}");
        assert!(!shown.contains("secret") && !shown.contains("token="), "{shown}");
    }

    #[test]
    fn a_target_may_be_an_absolute_url() {
        let with_target =
            |target: &str| parse(&upgrade_with("").replace("/ws?room=a%20b&token=x%2By+z&room=c", target));
        let request = with_target("HTTP://other.example/echo?a=b").upgrade();
        assert_eq!((request.host.as_deref(), &*request.path, &*request.query), (Some("other.example"), "/echo", "a=b"));
        let request = with_target("https://other.example").upgrade();
        assert_eq!((request.host.as_deref(), &*request.path, &*request.query), (Some("other.example"), "/", ""));
        let request = with_target("/").upgrade();
        assert_eq!((request.host.as_deref(), &*request.path, &*request.query), (Some("chat.example:8080"), "/", ""));
    }

    #[test]
    fn other_requests_are_left_to_http() {
        for bytes in [
            "GET /ws HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /user/signup HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websockets\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET /\r\n\r\n",
            "\x16\x03\x01\x02",
            "GET / HTTP/1.1\r\nbad header\r\n\r\n",
        ] {
            assert!(matches!(parse(bytes), ParsedHead::Http), "{bytes:?}");
        }
        let many = upgrade_with(&"a: b\r\n".repeat(HEADERS_LIMIT));
        assert!(matches!(parse(&many), ParsedHead::Http));
    }

    #[test]
    fn tokens_are_found_in_the_authorization_and_in_the_subprotocols() {
        for (headers, token) in [
            (&["Bearer abc"][..], Some("abc")),
            (&["bearer  abc "], Some("abc")),
            (&["Bearer "], None),
            (&["Bearer"], None),
            (&["Basic YTpi"], None),
            (&["Basic YTpi", "Bearer abc"], Some("abc")),
            (&["Bearer abc", "Bearer abc"], Some("abc")),
            (&[], None),
        ] {
            assert_eq!(bearer_token(headers.iter().copied()), token, "{headers:?}");
        }
        assert_eq!(token_subprotocol(["chat", "bearer.", "bearer.a", "bearer.b"]), Some(("a", "bearer.a")));
        assert_eq!(token_subprotocol(["chat", "bearer"]), None);
    }

    #[test]
    fn the_key_in_section_4_1_of_the_rfc_is_valid() {
        assert!(accept(b"AQIDBAUGBwgJCgsMDQ4PEC==").is_some());
    }

    #[test]
    fn an_upgrade_has_no_body() {
        for (header, expected) in [
            ("Content-Length: 0", None),
            ("Content-Length: 0\r\nContent-Length: 0", None),
            ("Content-Length: 5", Some(400)),
            ("Transfer-Encoding: chunked", Some(400)),
            ("Transfer-Encoding: gzip", Some(400)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0", Some(400)),
        ] {
            let refused = match parse(&upgrade_with(&format!("{header}\r\n"))) {
                ParsedHead::Upgrade(..) => None,
                ParsedHead::Refused(refusal) => Some(refusal.status),
                other => panic!("{header}: {other:?}"),
            };
            assert_eq!(refused, expected, "{header}");
        }
        // Hyper refuses these before anybody sees them.
        for header in ["Content-Length: x", "Content-Length: ", "Content-Length: 0\r\nContent-Length: 5"] {
            assert!(matches!(parse(&upgrade_with(&format!("{header}\r\n"))), ParsedHead::Http), "{header}");
        }
    }

    #[test]
    fn a_head_longer_than_the_limit_is_left_to_http() {
        let head = upgrade_with(&format!("a: {}\r\n", "b".repeat(1000)));
        let at = |limit| super::parse(head.as_bytes(), 0, limit, PEER.parse().unwrap());
        assert!(matches!(at(head.len()), ParsedHead::Upgrade(..)));
        assert!(matches!(at(head.len() - 1), ParsedHead::Http));
        let unfinished = &head.as_bytes()[..head.len() - 1];
        for seen in [0, 10] {
            let at = |limit| super::parse(unfinished, seen, limit, PEER.parse().unwrap());
            assert!(matches!(at(unfinished.len()), ParsedHead::Incomplete));
            assert!(matches!(at(unfinished.len() - 1), ParsedHead::Http));
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        for (from, to, message) in [
            ("GET ", "POST ", "use GET"),
            ("HTTP/1.1", "HTTP/1.0", "HTTP/1.1"),
            ("Connection: keep-alive, Upgrade\r\n", "", "Connection"),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", "Key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j", "Key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ", "Key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSE=", "Key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "!", "Key"),
            ("Upgrade: websocket\r\n", "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "Key"),
            ("Host: chat.example:8080\r\n", "", "Host"),
            ("Host: chat.example:8080\r\n", "Host: a\r\nHost: a\r\n", "Host"),
            ("Host: chat.example:8080\r\n", "Host: a b\r\n", "Host"),
            ("Host: chat.example:8080\r\n", "Host: a\r\nOrigin: http://a\r\nOrigin: http://b\r\n", "Origin"),
        ] {
            let request = upgrade_with("").replacen(from, to, 1);
            let response = parse(&request).refused();
            assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{response}");
            assert!(response.contains(message), "{request} {response}");
        }
        for to in ["Sec-WebSocket-Version: 8\r\n", "", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n"] {
            let response = parse(&upgrade_with("").replacen("Sec-WebSocket-Version: 13\r\n", to, 1)).refused();
            assert!(response.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{response}");
            assert!(response.contains("\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"), "{response}");
        }
    }

    #[test]
    fn a_head_may_arrive_in_pieces() {
        let head = upgrade_with("");
        for cut in 1..head.len() {
            assert!(matches!(parse(&head[..cut]), ParsedHead::Incomplete), "{cut}");
            let whole = super::parse(head.as_bytes(), cut, LIMIT, PEER.parse().unwrap());
            assert!(matches!(whole, ParsedHead::Upgrade(_, length) if length == head.len()), "{cut}");
        }
        for byte in 1..head.len() {
            let head = super::parse(&head.as_bytes()[..byte], byte - 1, LIMIT, PEER.parse().unwrap());
            assert!(matches!(head, ParsedHead::Incomplete), "{byte}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), seen in 0_usize..200) {
            super::parse(&bytes, seen.min(bytes.len()), LIMIT, PEER.parse().unwrap());
        }

        #[test]
        fn a_mutated_head_does_not_panic(at in 0_usize..200, bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut head = upgrade_with("").into_bytes();
            let at = at.min(head.len());
            head.splice(at..(at + bytes.len()).min(head.len()), bytes);
            super::parse(&head, 0, LIMIT, PEER.parse().unwrap());
        }
    }
}
