//! WebSocket upgrades on connections that hyper already owns, because a request came first (a proxy keeps connections
//! open). They are answered here and the socket is handed to a shard (RFC 6455, section 4.2).
//!
//! A shard answers all other upgrades. Both use the rules of `uproar_core::websocket`; where this service is stricter
//! or words an error differently, the rule is here.

use crate::app::{App, Route};
use crate::authentication::{authenticate, bearer, token_missing};
use crate::chat::Adopted;
use crate::errors::{ApiError, Code};
use crate::input::{PeerAddress, fold, from_query, validate};
use crate::settings::Settings;
use crate::socket::Socket;
use crate::validation;
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
use std::sync::Arc;
use uproar_core::limits::Limits;
use uproar_core::protocol::centrifuge::Encoding;
use uproar_core::websocket::head::{TOKEN_SUBPROTOCOL_PREFIX, VERSION, accept, token_subprotocol};
use uproar_model::UserEvent;

pub(crate) fn routes(settings: &Settings) -> Vec<Route> {
    let mut routes =
        vec![Route::new(Method::GET, "/ws", plain), Route::new(Method::GET, "/connection/websocket", centrifuge)];
    if settings.echo {
        routes.push(Route::new(Method::GET, "/echo", echo));
    }
    routes
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct PlainQuery {
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

/// What a valid upgrade request determines about its 101.
struct Accepted {
    /// `Sec-WebSocket-Accept`.
    accept: String,
    /// `Sec-WebSocket-Protocol`.
    subprotocol: Option<HeaderValue>,
}

/// `/ws`: the plain protocol, in a room or a `live:` channel.
async fn plain(State(app): State<Arc<App>>, request: Request) -> Response {
    let (mut request, body) = request.into_parts();
    match accept_plain(&app, &request, body.is_end_stream()).await {
        Ok(accepted) => hand_over(app, &mut request, accepted),
        Err(refusal) => *refusal,
    }
}

/// `/connection/websocket`: the Centrifugo protocol. The client authenticates with its first command, so the request
/// needs no token.
async fn centrifuge(State(app): State<Arc<App>>, request: Request) -> Response {
    let (mut request, body) = request.into_parts();
    match accept_handshake(&app, &request, body.is_end_stream()) {
        Ok(accept) => {
            let subprotocol = encoding_subprotocol(&request.headers);
            hand_over(app, &mut request, Accepted { accept, subprotocol })
        }
        Err(refusal) => *refusal,
    }
}

/// `/echo`: sends every message back, to anyone. For conformance tests and benchmarks.
async fn echo(State(app): State<Arc<App>>, request: Request) -> Response {
    let (mut request, body) = request.into_parts();
    match accept_handshake(&app, &request, body.is_end_stream()) {
        Ok(accept) => hand_over(app, &mut request, Accepted { accept, subprotocol: None }),
        Err(refusal) => *refusal,
    }
}

async fn accept_plain(app: &App, request: &Parts, is_bodyless: bool) -> Result<Accepted, Box<Response>> {
    let accept = accept_handshake(app, request, is_bodyless)?;
    let headers = &request.headers;
    let refuse = |error: ApiError| Box::new(error.into_response());

    // The token comes before the other parameters: an unauthenticated client learns nothing else.
    let query = request.uri.query().unwrap_or_default();
    let (token, subprotocol) = if let Some(token) = bearer(headers) {
        (token.to_owned(), None)
    } else if let Some((token, subprotocol)) = token_in_subprotocol(headers) {
        (token, Some(subprotocol))
    } else if let Some(token) = token_in_query(query) {
        if !app.settings.token_in_query {
            let message = "this server does not accept tokens in the query; send `Authorization: Bearer <token>` or \
                           the subprotocol `bearer.<token>`";
            return Err(refuse(ApiError::new(Code::TokenMissing, message)));
        }
        (token, None)
    } else {
        return Err(refuse(token_missing()));
    };
    let auth = authenticate(app, &token).await.map_err(refuse)?;

    let query: PlainQuery = from_query(query).map_err(refuse)?;
    validate(&query, &app.settings.limits).map_err(refuse)?;
    let is_live = query.room.starts_with(validation::LIVE_PREFIX);
    if query.format == Some(Format::Raw) && !is_live {
        return Err(refuse(ApiError::invalid("format", "'raw' is only for live: channels")));
    }
    if !is_live {
        let name = fold("room", &query.room).map_err(refuse)?;
        let admitted = app.store.admit(&[(name.clone(), auth.user.id)]).await.map_err(|error| refuse(error.into()))?;
        match admitted.into_iter().next() {
            Some(Ok(admission)) => {
                if admission.joined {
                    app.chat.notify(auth.user.id, UserEvent::Joined { room: name.as_str().into() });
                }
            }
            Some(Err(error)) => return Err(refuse(error.into())),
            None => return Err(refuse(ApiError::internal())),
        }
    }
    Ok(Accepted { accept, subprotocol })
}

/// Checks that the request is a valid upgrade from a page that may connect. Returns its `Sec-WebSocket-Accept`.
fn accept_handshake(app: &App, request: &Parts, is_bodyless: bool) -> Result<String, Box<Response>> {
    let headers = &request.headers;
    let bad = |message: &'static str| Box::new(ApiError::new(Code::BadUpgrade, message).into_response());
    if !list_contains(headers, &header::UPGRADE, "websocket") || !list_contains(headers, &header::CONNECTION, "upgrade")
    {
        return Err(Box::new(upgrade_required("this path serves only WebSocket")));
    }
    // The router treats HEAD like GET, and a response to HEAD must be nothing but a head.
    if request.method != Method::GET {
        return Err(bad("a WebSocket upgrade must use GET"));
    }
    if request.version != Version::HTTP_11 {
        return Err(bad("a WebSocket upgrade must use HTTP/1.1"));
    }
    if single(headers, &header::SEC_WEBSOCKET_VERSION) != Some(VERSION) {
        return Err(Box::new(upgrade_required("Sec-WebSocket-Version must be 13")));
    }
    let host = single(headers, &header::HOST);
    if host.is_none() {
        return Err(bad("the Host header must appear exactly once"));
    }
    let accept = single(headers, &header::SEC_WEBSOCKET_KEY)
        // Unlike a shard, this service rejects a key whose trailing bits are not zero.
        .filter(|key| STANDARD.decode(key).is_ok())
        .and_then(|key| accept(key.as_bytes()))
        .ok_or_else(|| bad("Sec-WebSocket-Key must be 16 bytes in Base64"))?;
    // The shard would take the bytes of a body for frames.
    if !is_bodyless {
        return Err(bad("a WebSocket upgrade must not have a body"));
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
    Ok(accept)
}

/// A 426 that names the supported version (RFC 6455, section 4.4) and protocol (RFC 9110, section 15.5.22).
fn upgrade_required(message: &'static str) -> Response {
    let mut response = ApiError::new(Code::UpgradeRequired, message).into_response();
    let headers = response.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// Whether a header's comma-separated list contains this element, in any case.
fn list_contains(headers: &HeaderMap, name: &HeaderName, element: &str) -> bool {
    list_elements(headers, name).any(|listed| listed.eq_ignore_ascii_case(element))
}

fn list_elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// The value of a header that appears exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim();
    values.next().is_none().then_some(value)
}

/// The first offered subprotocol that carries a token. Unlike a shard, this service skips those with an empty token.
fn token_in_subprotocol(headers: &HeaderMap) -> Option<(String, HeaderValue)> {
    let offered = list_elements(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    let (token, subprotocol) = token_subprotocol(offered.filter(|offered| *offered != TOKEN_SUBPROTOCOL_PREFIX))?;
    Some((token.to_owned(), HeaderValue::from_str(subprotocol).ok()?))
}

/// The first offered subprotocol that names an encoding of the Centrifugo protocol. Without one, the shard reads the
/// encoding from the query.
fn encoding_subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut offered = list_elements(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    HeaderValue::from_str(offered.find(|offered| Encoding::from_subprotocol(offered).is_some())?).ok()
}

/// The first `token` in the query that is not empty.
fn token_in_query(query: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, value)| name == "token" && !value.is_empty())
        .map(|(_, value)| value.into_owned())
}

/// Responds with 101 and, once that is written, hands the socket to the chat.
fn hand_over(app: Arc<App>, request: &mut Parts, accepted: Accepted) -> Response {
    let head = rebuild_head(request);
    let peer = request.extensions.get::<PeerAddress>().copied();
    let (Some(PeerAddress(peer)), Some(upgrade)) = (peer, request.extensions.remove::<hyper::upgrade::OnUpgrade>())
    else {
        return ApiError::new(Code::BadUpgrade, "this connection cannot be upgraded").into_response();
    };
    tokio::spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%peer, %error, "disconnected before its upgrade was answered"),
        };
        let Ok(parts) = upgraded.downcast::<Socket>() else {
            return tracing::error!("hyper returned an upgraded connection of an unexpected type");
        };
        let (stream, unread) = parts.io.into_parts();
        match stream.into_std() {
            Ok(socket) => app.chat.adopt(Adopted { socket, peer, head, rest: concat(parts.read_buf, unread) }),
            Err(error) => tracing::warn!(%peer, %error, "cannot detach a socket from the runtime"),
        }
    });

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    // Base64 is always a valid header value.
    if let Ok(accept) = HeaderValue::from_str(&accepted.accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(subprotocol) = accepted.subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    response
}

fn concat(first: Bytes, second: Bytes) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(&first);
    both.extend_from_slice(&second);
    both.freeze()
}

/// The request's head as a shard would have read it, except that header names are in lower case.
fn rebuild_head(request: &Parts) -> Vec<u8> {
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
