//! The head of an HTTP request, parsed far enough to recognize a WebSocket upgrade (RFC 6455, 4.2.1).

use super::refusal::refusal;
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
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
    Refused(Bytes),
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
    pub authorization: Option<String>,
    /// The offered subprotocols, in the client's order.
    pub subprotocols: Vec<String>,
    /// The `Sec-WebSocket-Accept` value that answers the key.
    pub accept: String,
    /// Whether the HTTP service has already sent `101 Switching Protocols`.
    pub answered: bool,
}

impl UpgradeRequest {
    /// The first value of this name in the query, decoded (`application/x-www-form-urlencoded`).
    pub fn query_value(&self, name: &str) -> Option<Cow<'_, str>> {
        form_urlencoded::parse(self.query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value)
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
            authorization: None,
            subprotocols: Vec::new(),
            accept: String::new(),
            answered: false,
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
            .field("answered", &self.answered)
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
            Err(response) => ParsedHead::Refused(response),
        },
        Ok(httparse::Status::Partial) if bytes.len() <= limit => ParsedHead::Incomplete,
        _ => ParsedHead::Http,
    }
}

/// `Ok(None)`: not an upgrade to WebSocket. `Err`: the response that refuses the upgrade.
fn upgrade(request: &httparse::Request<'_, '_>, peer: SocketAddr) -> Result<Option<UpgradeRequest>, Bytes> {
    if !tokens(request, "Upgrade").any(|token| token.eq_ignore_ascii_case("websocket")) {
        return Ok(None);
    }
    let bad = |message: &str| Err(refusal(400, "bad_upgrade", message, &[]));

    if request.method != Some("GET") {
        return bad("A WebSocket upgrade must use GET.");
    }
    if request.version != Some(1) {
        return bad("A WebSocket upgrade must use HTTP/1.1.");
    }
    if !tokens(request, "Connection").any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return bad("The header 'Connection: Upgrade' is missing; a proxy may have removed it.");
    }
    // Checked before the key: other versions may have no key, or one of another kind.
    if single(request, "Sec-WebSocket-Version") != Some(VERSION.as_bytes()) {
        let headers = [("Sec-WebSocket-Version", VERSION), ("Upgrade", "websocket")];
        let message = "Only version 13 of the WebSocket protocol is supported.";
        return Err(refusal(426, "upgrade_required", message, &headers));
    }
    let Some(accept) = single(request, "Sec-WebSocket-Key").and_then(accept) else {
        return bad("The header 'Sec-WebSocket-Key' must appear exactly once and hold 16 bytes in Base64.");
    };
    let target = request.path.unwrap_or_default();
    let (authority, target) = split_target(target);
    let Some(host) = authority.map(Into::into).or_else(|| single(request, "Host").map(text)) else {
        return bad("The header 'Host' must appear exactly once.");
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));

    Ok(Some(UpgradeRequest {
        peer,
        path: path.into(),
        query: query.into(),
        host: Some(host),
        origin: single(request, "Origin").map(text),
        authorization: single(request, "Authorization").map(text),
        subprotocols: tokens(request, "Sec-WebSocket-Protocol").map(Cow::into_owned).collect(),
        accept,
        answered: false,
    }))
}

/// Splits a target into its authority, if it is an absolute URL (RFC 9112, 3.2.2), and the path with its query.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let lower = target.get(..8).unwrap_or_default().to_ascii_lowercase();
    let scheme = ["http://", "https://"].into_iter().find(|scheme| lower.starts_with(scheme));
    let Some(rest) = scheme.map(|scheme| &target[scheme.len()..]) else {
        return (None, target);
    };
    match rest.find(['/', '?']) {
        Some(end) if rest[end..].starts_with('/') => (Some(&rest[..end]), &rest[end..]),
        _ => (Some(rest), "/"),
    }
}

/// The value of a header that appears exactly once.
fn single<'b>(request: &httparse::Request<'_, 'b>, name: &str) -> Option<&'b [u8]> {
    let mut values = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let value = values.next()?.value;
    values.next().is_none().then_some(value)
}

/// The elements of all lists of this name (RFC 9110, 5.6.1).
fn tokens<'h>(request: &'h httparse::Request<'_, '_>, name: &'h str) -> impl Iterator<Item = Cow<'h, str>> {
    request
        .headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .flat_map(|header| header.value.split(|byte| *byte == b','))
        .map(|token| String::from_utf8_lossy(token.trim_ascii()))
        .filter(|token| !token.is_empty())
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// The `Sec-WebSocket-Accept` value for a `Sec-WebSocket-Key` (RFC 6455, 4.2.2, 5.4). `None`: not a valid key.
pub fn accept(key: &[u8]) -> Option<String> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        // Some clients encode 16 random characters instead of 16 bytes. The trailing bits don't matter to anything.
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

/// The token in `Authorization: Bearer TOKEN` (RFC 6750, 2.1). May be empty.
pub fn bearer_token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The first offered subprotocol that carries a token: the token, which may be empty, and the subprotocol. The response
/// must name that subprotocol: a browser fails the connection if the server picks none of those it offered.
pub fn token_subprotocol<'s>(offered: impl IntoIterator<Item = &'s str>) -> Option<(&'s str, &'s str)> {
    offered.into_iter().find_map(|subprotocol| Some((subprotocol.strip_prefix(TOKEN_SUBPROTOCOL_PREFIX)?, subprotocol)))
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
            let ParsedHead::Refused(response) = self else { panic!("{self:?}") };
            String::from_utf8(response.into()).unwrap()
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
        assert_eq!(request.authorization.as_deref(), Some("Bearer abc"));
        assert_eq!(request.subprotocols, ["a", "b", "c"]);
        assert_eq!(request.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!request.answered);

        let bare = parse(&upgrade_with("")).upgrade();
        assert_eq!((bare.origin, bare.authorization), (None, None));
        assert!(bare.subprotocols.is_empty());
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
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
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
        for (header, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer ", Some("")),
            ("Bearer", None),
            ("Basic YTpi", None),
        ] {
            assert_eq!(bearer_token(header), token, "{header:?}");
        }
        assert_eq!(token_subprotocol(["chat", "bearer.a", "bearer.b"]), Some(("a", "bearer.a")));
        assert_eq!(token_subprotocol(["chat", "bearer"]), None);
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
