//! WebSocket upgrades on connections that hyper owns, because another request came first (a proxy keeps connections
//! open). The shards judge every upgrade, so such a connection is handed back to one of them, with the request as it
//! came and before anything of it is answered.

use crate::app::Route;
use crate::errors::{ApiError, Code};
use crate::settings::Settings;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, Request, Version, header};
use std::sync::{Mutex, PoisonError};
use uproar_core::websocket::head::{VERSION, asks_for_websocket};

/// The paths of WebSockets. The routes answer only requests that ask for none.
pub(crate) fn routes(settings: &Settings) -> Vec<Route> {
    let mut paths = vec!["/ws", "/connection/websocket"];
    if settings.echo {
        paths.push("/echo");
    }
    paths.into_iter().map(|path| Route::new(Method::GET, path, upgrade_required).with_query()).collect()
}

async fn upgrade_required() -> Response {
    let mut response = ApiError::new(Code::UpgradeRequired, "this path serves only WebSocket").into_response();
    let headers = response.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// Where a connection's service leaves the head of a request that a shard must answer.
#[derive(Default)]
pub(crate) struct HandBack(Mutex<Option<Vec<u8>>>);

impl HandBack {
    /// Takes a request that asks for a WebSocket. True: the service must not answer it.
    pub(crate) fn takes<B>(&self, request: &Request<B>) -> bool {
        let upgrade = request.headers().get_all(header::UPGRADE).iter();
        let is_taken = asks_for_websocket(upgrade.map(|value| value.as_bytes()));
        if is_taken {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(rebuild_head(request));
        }
        is_taken
    }

    /// The head, if a request was taken.
    pub(crate) fn head(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The request's head as a shard would have read it, except that header names are in lower case.
fn rebuild_head<B>(request: &Request<B>) -> Vec<u8> {
    let version = if request.version() == Version::HTTP_10 { "1.0" } else { "1.1" };
    let mut head = format!("{} {} HTTP/{version}\r\n", request.method(), request.uri()).into_bytes();
    for (name, value) in request.headers() {
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
    use uproar_core::websocket::{ParsedHead, head};

    #[test]
    fn a_rebuilt_head_is_parsed_like_the_original() {
        for target in ["/ws?room=a%20b&x=\u{e4}", "http://other.example/echo?a=b", "https://other.example"] {
            let request = Request::get(target)
                .header("Host", "chat.example")
                .header("Upgrade", "h2c, WebSocket")
                .header("Connection", "upgrade")
                .header("Sec-WebSocket-Version", "13")
                .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header("Authorization", "Basic YTpi")
                .header("Authorization", "Bearer b")
                .body(())
                .unwrap();
            let hand_back = HandBack::default();
            assert!(hand_back.takes(&request));
            let bytes = hand_back.head().unwrap();
            let parsed = head::parse(&bytes, 0, usize::MAX, "192.0.2.7:1".parse().unwrap());
            let ParsedHead::Upgrade(parsed, length) = parsed else { panic!("{parsed:?}") };
            assert_eq!(length, bytes.len());
            assert_eq!(parsed.path, request.uri().path());
            assert_eq!(parsed.query, request.uri().query().unwrap_or_default());
            assert_eq!(parsed.authorization, ["Basic YTpi", "Bearer b"]);
            assert!(hand_back.head().is_none());
        }
    }

    #[test]
    fn other_requests_are_not_taken() {
        for upgrade in [None, Some("h2c"), Some("websockets")] {
            let mut request = Request::get("/ws").body(()).unwrap();
            if let Some(upgrade) = upgrade {
                request.headers_mut().insert("Upgrade", upgrade.parse().unwrap());
            }
            assert!(!HandBack::default().takes(&request), "{upgrade:?}");
        }
    }
}
