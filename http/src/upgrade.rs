//! WebSocket upgrades that come on a connection which hyper owns already (a proxy that keeps connections open): answered
//! here, and the socket handed to a shard (RFC 6455 section 4.2).

use crate::authentication::{authenticate, bearer};
use crate::errors::{ApiError, Code};
use crate::input::{folded, from_query, validate};
use crate::service::{App, Route};
use crate::settings::{Limits, Settings};
use crate::socket::Socket;
use crate::{Adopted, authentication, validation};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use garde::Validate;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use hyper::body::Body as _;
use serde::Deserialize;
use sha1::{Digest, Sha1};
use std::net::SocketAddr;
use std::sync::Arc;
use uproar_model::UserEvent;

/// A subprotocol that begins with this carries the token.
pub const TOKEN_PROTOCOL_PREFIX: &str = "bearer.";

/// The subprotocols of the Centrifugo protocol.
pub const ENCODING_PROTOCOLS: [&str; 2] = ["centrifuge-json", "centrifuge-protobuf"];

/// The other end of the TCP connection, a proxy perhaps.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub SocketAddr);

pub(crate) fn routes(settings: &Settings) -> Vec<Route> {
    let mut routes =
        vec![Route::new(Method::GET, "/ws", plain), Route::new(Method::GET, "/connection/websocket", centrifuge)];
    if settings.echo {
        routes.push(Route::new(Method::GET, "/echo", echo));
    }
    routes
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2, 5.4).
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct Plain {
    #[garde(skip)]
    room: String,
    #[garde(inner(custom(validation::position)))]
    since: Option<u64>,
    #[garde(skip)]
    format: Option<Format>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Text,
    Json,
    Raw,
}

/// `/ws`: the plain protocol, in a room or a `live:` channel.
async fn plain(State(app): State<Arc<App>>, request: Request) -> Response {
    let (mut request, body) = request.into_parts();
    match admit_plain(&app, &request, body.is_end_stream()).await {
        Ok(admitted) => hand_over(app, &mut request, &admitted),
        Err(refusal) => *refusal,
    }
}

/// `/connection/websocket`: the Centrifugo protocol. Its first command says who the client is, so nobody is asked here.
async fn centrifuge(State(app): State<Arc<App>>, request: Request) -> Response {
    let (mut request, body) = request.into_parts();
    match check(&app, &request, body.is_end_stream()) {
        Ok(key) => {
            let admitted = Admitted { key, protocol: encoding_in_protocol(&request.headers) };
            hand_over(app, &mut request, &admitted)
        }
        Err(refusal) => *refusal,
    }
}

/// `/echo`: sends back what it gets, to anyone. For conformance tests and benchmarks.
async fn echo(State(app): State<Arc<App>>, request: Request) -> Response {
    let (mut request, body) = request.into_parts();
    match check(&app, &request, body.is_end_stream()) {
        Ok(key) => {
            let admitted = Admitted { key, protocol: None };
            hand_over(app, &mut request, &admitted)
        }
        Err(refusal) => *refusal,
    }
}

/// What the 101 says.
struct Admitted {
    key: String,
    /// The subprotocol to name.
    protocol: Option<HeaderValue>,
}

async fn admit_plain(app: &App, request: &Parts, no_body: bool) -> Result<Admitted, Box<Response>> {
    let key = check(app, request, no_body)?;
    let headers = &request.headers;
    let refuse = |error: ApiError| Box::new(error.into_response());

    // The token before the rest of the query: to whom it is not known, nothing is said.
    let query = request.uri.query().unwrap_or_default();
    let in_query = token_in_query(query);
    let (token, protocol) = if let Some(token) = bearer(headers) {
        (token.to_owned(), None)
    } else if let Some((token, protocol)) = token_in_protocol(headers) {
        (token, Some(protocol))
    } else if let Some(token) = in_query {
        if !app.settings.token_in_query {
            let message = "this server takes no token in the query; send `Authorization: Bearer <token>` or the \
                           subprotocol `bearer.<token>`";
            return Err(refuse(ApiError::new(Code::TokenMissing, message)));
        }
        (token, None)
    } else {
        return Err(refuse(authentication::token_missing()));
    };
    let auth = authenticate(app, &token).await.map_err(refuse)?;

    let query: Plain = from_query(query).map_err(refuse)?;
    validate(&query, &app.settings.limits).map_err(refuse)?;
    let live = query.room.starts_with(validation::LIVE_PREFIX);
    if query.format == Some(Format::Raw) && !live {
        return Err(refuse(ApiError::invalid("format", "'raw' is for live: channels only")));
    }
    if !live {
        let name = folded("room", &query.room).map_err(refuse)?;
        let admitted = app.store.admit(&[(name.clone(), auth.user.id)]).await.map_err(|error| refuse(error.into()))?;
        match admitted.into_iter().next() {
            Some(Ok(admission)) => {
                if admission.joined {
                    app.chat.tell(auth.user.id, UserEvent::Joined { room: name.as_str().into() });
                }
            }
            Some(Err(error)) => return Err(refuse(error.into())),
            None => return Err(refuse(ApiError::new(Code::Internal, "the server is at fault"))),
        }
    }
    Ok(Admitted { key, protocol })
}

/// Checks that this is an upgrade as RFC 6455 wants it, from a page that may connect. Answers the key.
fn check(app: &App, request: &Parts, no_body: bool) -> Result<String, Box<Response>> {
    let headers = &request.headers;
    let bad = |message: &'static str| Box::new(ApiError::new(Code::BadUpgrade, message).into_response());
    if !lists(headers, &header::UPGRADE, "websocket") || !lists(headers, &header::CONNECTION, "upgrade") {
        return Err(Box::new(upgrade_required("this path speaks WebSocket only")));
    }
    // HEAD is routed as GET is, and its answer must be nothing but a head.
    if request.method != Method::GET {
        return Err(bad("a WebSocket upgrade is a GET"));
    }
    if request.version != Version::HTTP_11 {
        return Err(bad("a WebSocket upgrade needs HTTP/1.1"));
    }
    if single(headers, &header::SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Box::new(upgrade_required("Sec-WebSocket-Version must be 13")));
    }
    let host = single(headers, &header::HOST);
    if host.is_none() {
        return Err(bad("the Host header is missing, or there twice"));
    }
    let key = single(headers, &header::SEC_WEBSOCKET_KEY)
        .filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16))
        .ok_or_else(|| bad("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    // Its bytes would be taken for the first frames.
    if !no_body {
        return Err(bad("a WebSocket upgrade has no body"));
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && !app.settings.origins.allow_upgrade(origin.as_bytes(), host)
    {
        let error = ApiError::new(
            Code::OriginNotAllowed,
            "pages of this origin may not connect; the operator can allow it with `--allow-origin`",
        );
        return Err(Box::new(error.into_response()));
    }
    Ok(key.to_owned())
}

/// 426, with the version that is spoken (RFC 6455 section 4.4) and what to upgrade to (RFC 9110 section 15.5.22).
fn upgrade_required(message: &'static str) -> Response {
    let mut response = ApiError::new(Code::UpgradeRequired, message).into_response();
    let headers = response.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// Whether a header's comma-separated list has this word.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    words(headers, name).any(|listed| listed.eq_ignore_ascii_case(word))
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// A header that must be there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim();
    values.next().is_none().then_some(value)
}

/// The token in an offered subprotocol, and the subprotocol, which the answer must name: a browser fails the connection
/// when the server takes none of those it offered.
fn token_in_protocol(headers: &HeaderMap) -> Option<(String, HeaderValue)> {
    let protocol = words(headers, &header::SEC_WEBSOCKET_PROTOCOL)
        .find(|protocol| protocol.len() > TOKEN_PROTOCOL_PREFIX.len() && protocol.starts_with(TOKEN_PROTOCOL_PREFIX))?;
    let token = protocol[TOKEN_PROTOCOL_PREFIX.len()..].to_owned();
    Some((token, HeaderValue::from_str(protocol).ok()?))
}

/// The first offered subprotocol that names an encoding of the Centrifugo protocol. None: the query says which, or it is
/// JSON.
fn encoding_in_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let known = |offered| ENCODING_PROTOCOLS.into_iter().find(|known| *known == offered);
    words(headers, &header::SEC_WEBSOCKET_PROTOCOL).find_map(known).map(HeaderValue::from_static)
}

fn token_in_query(query: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, value)| name == "token" && !value.is_empty())
        .map(|(_, value)| value.into_owned())
}

/// Answers 101 and, once that is written, hands the socket to the chat.
fn hand_over(app: Arc<App>, request: &mut Parts, admitted: &Admitted) -> Response {
    let head = rebuilt_head(request);
    let peer = request.extensions.get::<Peer>().copied();
    let (Some(Peer(peer)), Some(upgrade)) = (peer, request.extensions.remove::<hyper::upgrade::OnUpgrade>()) else {
        return ApiError::new(Code::BadUpgrade, "this connection can't be upgraded").into_response();
    };
    tokio::spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%peer, %error, "gone before its upgrade was answered"),
        };
        let Ok(parts) = upgraded.downcast::<Socket>() else {
            return tracing::error!("an upgraded connection is not the socket that it was");
        };
        let (stream, unread) = parts.io.into_parts();
        match stream.into_std() {
            Ok(socket) => app.chat.adopt(Adopted { socket, peer, head, rest: joined(parts.read_buf, unread) }),
            Err(error) => tracing::warn!(%peer, %error, "a socket could not be taken from the runtime"),
        }
    });

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    // base64 is always a header value.
    if let Ok(accept) = HeaderValue::from_str(&accept_key(&admitted.key)) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = &admitted.protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol.clone());
    }
    response
}

fn joined(first: Bytes, second: Bytes) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(&first);
    both.extend_from_slice(&second);
    both.freeze()
}

/// The request's head as a shard would have read it, but for the case of header names.
fn rebuilt_head(request: &Parts) -> Vec<u8> {
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(b"GET ");
    head.extend_from_slice(target.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &request.headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
