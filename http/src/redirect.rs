//! Sends clients from HTTP to HTTPS, at all paths.

use crate::app::Port;
use crate::errors::{ApiError, Code};
use axum::extract::Extension;
use axum::response::{IntoResponse, Response};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

/// Answers with the same address, but with HTTPS.
pub(crate) async fn to_https(Extension(port): Extension<Port>, uri: Uri, headers: HeaderMap) -> Response {
    let Port::Redirect { tls_port } = port else { return ApiError::no_such_path().into_response() };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match host.and_then(|host| location(host, &uri, tls_port)) {
        Some(location) => (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, location)]).into_response(),
        None => ApiError::new(Code::BadRequest, "this port only leads to https://, and needs a 'Host' for that")
            .into_response(),
    }
}

/// A client that names no port reached this server through the usual one, so it finds HTTPS at its usual port too,
/// whatever the ports are inside a container.
fn location(host: &str, uri: &Uri, tls_port: u16) -> Option<HeaderValue> {
    let host: Authority = host.parse().ok()?;
    let name = host.host();
    let port = match host.port_u16() {
        None | Some(80) => String::new(),
        Some(_) => format!(":{tls_port}"),
    };
    let path = uri.path_and_query().map(|path| path.as_str()).filter(|path| path.starts_with('/')).unwrap_or("/");
    (!name.is_empty()).then(|| HeaderValue::try_from(format!("https://{name}{port}{path}")).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_location_is_the_same_address_with_https() {
        for (host, target, expected) in [
            ("chat.example", "/a?b=c", "https://chat.example/a?b=c"),
            ("chat.example:80", "/", "https://chat.example/"),
            ("localhost:8080", "/ws?room=x", "https://localhost:8443/ws?room=x"),
            ("[::1]:8080", "/", "https://[::1]:8443/"),
            ("chat.example", "http://other.example/a", "https://chat.example/a"),
            ("chat.example", "//other.example/a", "https://chat.example//other.example/a"),
            ("chat.example", "*", "https://chat.example/"),
        ] {
            let location = location(host, &target.parse().unwrap(), 8443);
            assert_eq!(location.unwrap(), expected, "{host} {target}");
        }
        for host in ["", "a b", "user@", ":80"] {
            assert_eq!(location(host, &Uri::from_static("/"), 443), None, "{host:?}");
        }
    }
}
