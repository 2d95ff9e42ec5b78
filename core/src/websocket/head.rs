//! The head of an HTTP request, read as far as needed to tell a WebSocket upgrade (RFC 6455, 4.2.1) from the rest.

use super::upgrade::refusal;
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use sha1::{Digest, Sha1};
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

/// Header lines that a head may have. Hyper, which answers those that have more, allows as many.
const HEADERS_LIMIT: usize = 100;

/// What the bytes read so far are.
#[derive(Debug)]
pub enum Head {
    /// The beginning of a request: read on.
    Incomplete,
    /// A good request for a WebSocket, and the bytes of its head; what follows are frames.
    Upgrade(Box<Request>, usize),
    /// Anything else, malformed and overlong heads too: the HTTP service answers.
    Http,
    /// A request for a WebSocket that can't be granted: the response to send before the connection is closed.
    Refused(Bytes),
}

/// A request for a WebSocket.
#[derive(Clone)]
pub struct Request {
    /// The other end of the connection. IPv4 addresses are not mapped into IPv6.
    pub peer: SocketAddr,
    /// The path as sent, with its leading slash, not decoded.
    pub path: String,
    /// What follows `?`, not decoded; empty without. See [`Request::query_value`].
    pub query: String,
    /// Of the `Host` header, or of the target where that is a whole URL. A request that was read has one.
    pub host: Option<String>,
    pub origin: Option<String>,
    pub authorization: Option<String>,
    /// All `X-Forwarded-For` lines, joined with commas. Anyone can send it: only a trusted proxy's means something.
    pub forwarded_for: Option<String>,
    /// The subprotocols offered, in the client's order.
    pub subprotocols: Vec<String>,
    /// The `Sec-WebSocket-Accept` that answers the key.
    pub accept: String,
    /// `101 Switching Protocols` has been sent already, by the HTTP service.
    pub answered: bool,
}

impl Request {
    /// The first value of this name in the query, decoded (`application/x-www-form-urlencoded`).
    pub fn query_value(&self, name: &str) -> Option<Cow<'_, str>> {
        form_urlencoded::parse(self.query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// Asks for nothing, from nowhere: to be filled in.
impl Default for Request {
    fn default() -> Request {
        Request {
            peer: SocketAddr::from(([0, 0, 0, 0], 0)),
            path: String::new(),
            query: String::new(),
            host: None,
            origin: None,
            authorization: None,
            forwarded_for: None,
            subprotocols: Vec::new(),
            accept: String::new(),
            answered: false,
        }
    }
}

/// Leaves out what may carry a token: the query, the authorization and the subprotocols.
impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Request")
            .field("peer", &self.peer)
            .field("path", &self.path)
            .field("host", &self.host)
            .field("origin", &self.origin)
            .field("answered", &self.answered)
            .finish_non_exhaustive()
    }
}

/// Says what `bytes`, all that was read of a connection, are. `seen` of them were looked at before: a client that
/// sends its head byte by byte is parsed once a line, not once a byte. Heads have at most `limit` bytes.
pub fn parse(bytes: &[u8], seen: usize, limit: usize, peer: SocketAddr) -> Head {
    // The first bytes are always looked at: what is not HTTP at all (TLS, say) may have no line end for long.
    if seen > 0 && !bytes[seen..].contains(&b'\n') {
        return if bytes.len() > limit { Head::Http } else { Head::Incomplete };
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= limit => match upgrade(&request, peer) {
            Ok(Some(request)) => Head::Upgrade(Box::new(request), length),
            Ok(None) => Head::Http,
            Err(response) => Head::Refused(response),
        },
        Ok(httparse::Status::Partial) if bytes.len() <= limit => Head::Incomplete,
        _ => Head::Http,
    }
}

/// None: not a request for a WebSocket. Err: the response that refuses it.
fn upgrade(request: &httparse::Request<'_, '_>, peer: SocketAddr) -> Result<Option<Request>, Bytes> {
    if !tokens(request, "Upgrade").any(|token| token.eq_ignore_ascii_case("websocket")) {
        return Ok(None);
    }
    let bad = |message: &str| Err(refusal(400, "bad_upgrade", message, &[]));

    if request.method != Some("GET") {
        return bad("A WebSocket is asked for with GET.");
    }
    if request.version != Some(1) {
        return bad("A WebSocket is asked for with HTTP/1.1.");
    }
    if !tokens(request, "Connection").any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return bad("The header 'Connection: Upgrade' is missing; a proxy may have removed it.");
    }
    // Before the key: versions other than ours may have no key, or another kind of it.
    if single(request, "Sec-WebSocket-Version") != Some(b"13") {
        let headers = [("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")];
        return Err(refusal(
            426,
            "upgrade_required",
            "Only version 13 of the WebSocket protocol is spoken here.",
            &headers,
        ));
    }
    let Some(accept) = single(request, "Sec-WebSocket-Key").and_then(accept) else {
        return bad("The header 'Sec-WebSocket-Key' must be there once, with 16 bytes in Base64.");
    };
    let target = request.path.unwrap_or_default();
    let (authority, target) = split_target(target);
    let Some(host) = authority.map(Into::into).or_else(|| single(request, "Host").map(text)) else {
        return bad("The header 'Host' must be there once.");
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));

    Ok(Some(Request {
        peer,
        path: path.into(),
        query: query.into(),
        host: Some(host),
        origin: single(request, "Origin").map(text),
        authorization: single(request, "Authorization").map(text),
        forwarded_for: Some(tokens(request, "X-Forwarded-For").collect::<Vec<_>>().join(", "))
            .filter(|addresses| !addresses.is_empty()),
        subprotocols: tokens(request, "Sec-WebSocket-Protocol").map(Cow::into_owned).collect(),
        accept,
        answered: false,
    }))
}

/// The authority, if the target is a whole URL, and the path with its query (RFC 9112, 3.2: absolute-form).
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

/// The value of a header that is there exactly once.
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

/// What answers a key (RFC 6455, 4.2.2, 5.4); none for what is no key.
fn accept(key: &[u8]) -> Option<String> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        // Some clients encode 16 random characters carelessly; nothing depends on the last bits.
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 4096;
    const PEER: &str = "192.0.2.7:4711";

    impl Head {
        #[track_caller]
        pub(crate) fn upgrade(self) -> Request {
            let Head::Upgrade(request, _) = self else { panic!("{self:?}") };
            *request
        }

        #[track_caller]
        fn refused(self) -> String {
            let Head::Refused(response) = self else { panic!("{self:?}") };
            String::from_utf8(response.into()).unwrap()
        }
    }

    pub(crate) fn parse(bytes: &str) -> Head {
        super::parse(bytes.as_bytes(), 0, LIMIT, PEER.parse().unwrap())
    }

    /// The request of RFC 6455, 1.3, with more header lines.
    pub(crate) fn upgrade_with(headers: &str) -> String {
        format!(
            "GET /ws?room=a%20b&token=x%2By+z&room=c HTTP/1.1\r\nHost: chat.example:8080\r\nUpgrade: websocket\r\n\
             Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        )
    }

    #[test]
    fn a_good_request() {
        let bytes = upgrade_with(
            "Origin: https://chat.example\r\nauthorization: Bearer abc\r\nX-Forwarded-For: 198.51.100.1\r\n\
             x-forwarded-for: 198.51.100.2\r\nSec-WebSocket-Protocol: a, b,,\r\nSec-WebSocket-Protocol:c\r\n",
        ) + "frames";
        let Head::Upgrade(request, length) = parse(&bytes) else { panic!() };
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
        assert_eq!(request.forwarded_for.as_deref(), Some("198.51.100.1, 198.51.100.2"));
        assert_eq!(request.subprotocols, ["a", "b", "c"]);
        assert_eq!(request.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!request.answered);

        let bare = parse(&upgrade_with("")).upgrade();
        assert_eq!((bare.origin, bare.authorization, bare.forwarded_for), (None, None, None));
        assert!(bare.subprotocols.is_empty());
    }

    #[test]
    fn nothing_that_may_be_a_token_is_shown() {
        let request = parse(&upgrade_with("Authorization: Bearer secret\r\nSec-WebSocket-Protocol: bearer.secret\r\n"));
        let shown = format!("{request:?}");
        assert!(!shown.contains("secret") && !shown.contains("token="), "{shown}");
    }

    #[test]
    fn a_target_may_be_a_whole_url() {
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
    fn what_asks_for_no_websocket_is_http() {
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
            assert!(matches!(parse(bytes), Head::Http), "{bytes:?}");
        }
        let many = upgrade_with(&"a: b\r\n".repeat(HEADERS_LIMIT));
        assert!(matches!(parse(&many), Head::Http));
    }

    #[test]
    fn a_head_is_bounded() {
        let head = upgrade_with(&format!("a: {}\r\n", "b".repeat(1000)));
        let at = |limit| super::parse(head.as_bytes(), 0, limit, PEER.parse().unwrap());
        assert!(matches!(at(head.len()), Head::Upgrade(..)));
        assert!(matches!(at(head.len() - 1), Head::Http));
        let unfinished = &head.as_bytes()[..head.len() - 1];
        for seen in [0, 10] {
            let at = |limit| super::parse(unfinished, seen, limit, PEER.parse().unwrap());
            assert!(matches!(at(unfinished.len()), Head::Incomplete));
            assert!(matches!(at(unfinished.len() - 1), Head::Http));
        }
    }

    #[test]
    fn what_is_wrong_with_an_upgrade_is_said() {
        for (from, to, message) in [
            ("GET ", "POST ", "with GET"),
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
    fn a_head_may_come_in_pieces() {
        let head = upgrade_with("");
        for cut in 1..head.len() {
            assert!(matches!(parse(&head[..cut]), Head::Incomplete), "{cut}");
            let whole = super::parse(head.as_bytes(), cut, LIMIT, PEER.parse().unwrap());
            assert!(matches!(whole, Head::Upgrade(_, length) if length == head.len()), "{cut}");
        }
        for byte in 1..head.len() {
            let head = super::parse(&head.as_bytes()[..byte], byte - 1, LIMIT, PEER.parse().unwrap());
            assert!(matches!(head, Head::Incomplete), "{byte}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200), seen in 0_usize..200) {
            super::parse(&bytes, seen.min(bytes.len()), LIMIT, PEER.parse().unwrap());
        }

        #[test]
        fn no_change_of_a_good_head_is_too_odd(at in 0_usize..200, bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut head = upgrade_with("").into_bytes();
            let at = at.min(head.len());
            head.splice(at..(at + bytes.len()).min(head.len()), bytes);
            super::parse(&head, 0, LIMIT, PEER.parse().unwrap());
        }
    }
}
