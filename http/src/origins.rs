//! Which web pages may use the API (CORS for calls, the `Origin` header for WebSocket upgrades and the cookie), and
//! which may show a room in a frame.

use http::{HeaderName, HeaderValue, Method, Uri, header};
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// The origins that `--allow-origin` names. The server's own origin is always allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// Only the server's own origin.
    #[default]
    Own,
    /// The server's own and these.
    List(Vec<HeaderValue>),
    /// Every origin.
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    #[error(
        "'{0}' is not an origin; give only scheme, host and port, such as https://chat.example or http://localhost:3000"
    )]
    Form(String),
    #[error("'*' allows every origin and must be the only one")]
    AnyAndOthers,
    #[error(
        "'*' would let every site put a room under its own buttons and make people click in it unawares; name each \
         origin, such as https://www.example.org"
    )]
    AnyFrame,
    #[error(
        "browsers can't compare the site around a frame with '{0}'; give http or https, a host name or an IPv4 \
         address, and the port if it is an unusual one, such as https://www.example.org"
    )]
    Source(String),
}

impl Origins {
    /// Parses what the operator wrote: nothing, a list of exact origins, or `*` alone.
    pub fn parse<S: AsRef<str>>(origins: &[S]) -> Result<Origins, OriginError> {
        if origins.iter().any(|origin| origin.as_ref() == "*") {
            return if origins.len() == 1 { Ok(Origins::Any) } else { Err(OriginError::AnyAndOthers) };
        }
        let list: Vec<HeaderValue> = origins.iter().map(|origin| exact(origin.as_ref())).collect::<Result<_, _>>()?;
        Ok(if list.is_empty() { Origins::Own } else { Origins::List(list) })
    }

    /// Whether a page of this origin may open a WebSocket. `host` is the request's `Host`. Only browsers send `Origin`,
    /// so callers skip this check for requests without one.
    pub fn allow_upgrade(&self, origin: &[u8], host: Option<&str>) -> bool {
        match self {
            Origins::Any => true,
            Origins::List(list) => list.iter().any(|allowed| allowed.as_bytes() == origin) || is_own(origin, host),
            Origins::Own => is_own(origin, host),
        }
    }

    /// Whether a page of this origin may use the cookie. Allowing every origin to use the API with tokens of its own
    /// does not extend to the cookie.
    pub(crate) fn allow_cookie(&self, origin: &[u8], host: Option<&str>) -> bool {
        match self {
            Origins::Any => is_own(origin, host),
            _ => self.allow_upgrade(origin, host),
        }
    }

    /// The layer that answers preflights and adds CORS headers to responses. `None` if only the own origin is allowed.
    pub(crate) fn cors(&self) -> Option<CorsLayer> {
        let origins = match self {
            Origins::Own => return None,
            Origins::Any => AllowOrigin::any(),
            Origins::List(list) => AllowOrigin::list(list.iter().cloned()),
        };
        Some(
            CorsLayer::new()
                .allow_origin(origins)
                .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
                .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
                .expose_headers([header::RETRY_AFTER, header::WWW_AUTHENTICATE, HeaderName::from_static("allow")])
                .max_age(Duration::from_secs(600)),
        )
    }
}

/// The origins that `--embed-origin` names, as sources of a Content-Security-Policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbedOrigins(Vec<String>);

impl EmbedOrigins {
    /// Parses what the operator wrote: nothing, or a list of exact origins.
    pub fn parse<S: AsRef<str>>(origins: &[S]) -> Result<EmbedOrigins, OriginError> {
        origins.iter().map(|origin| source(origin.as_ref())).collect::<Result<_, _>>().map(EmbedOrigins)
    }

    /// The value of `frame-ancestors`.
    pub(crate) fn ancestors(&self) -> String {
        if self.0.is_empty() { "'none'".to_owned() } else { self.0.join(" ") }
    }
}

/// Parses an origin into a source (CSP 3, section 2.3.1), which has fewer forms than an origin.
fn source(text: &str) -> Result<String, OriginError> {
    if text == "*" {
        return Err(OriginError::AnyFrame);
    }
    let origin = exact(text)?.to_str().unwrap_or_default().to_owned();
    let is_name = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    let is_source = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://")).is_some_and(|rest| {
        let (host, port) = rest.split_once(':').unwrap_or((rest, "0"));
        !host.is_empty() && is_name(host) && port.parse::<u16>().is_ok()
    });
    if is_source { Ok(origin) } else { Err(OriginError::Source(text.to_owned())) }
}

/// Parses an origin into the exact form in which browsers send it.
fn exact(text: &str) -> Result<HeaderValue, OriginError> {
    let error = || OriginError::Form(text.to_owned());
    let (scheme, rest) = text.split_once("://").ok_or_else(error)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) || scheme.is_empty() {
        return Err(error());
    }
    if rest.is_empty() || rest.contains(['/', '?', '#', '@', '*', ' ']) || rest.parse::<http::uri::Authority>().is_err()
    {
        return Err(error());
    }
    let origin = format!("{scheme}://{rest}").to_ascii_lowercase();
    // Browsers leave out the port that the scheme implies.
    let implied = match scheme.to_ascii_lowercase().as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    HeaderValue::from_str(origin.strip_suffix(implied).unwrap_or(&origin)).map_err(|_| error())
}

/// Whether the page came from this host. The schemes may differ: behind a proxy that terminates TLS, the page's is
/// https and ours is not.
fn is_own(origin: &[u8], host: Option<&str>) -> bool {
    let (Ok(origin), Some(host)) = (std::str::from_utf8(origin), host) else { return false };
    let Ok(origin) = origin.parse::<Uri>() else { return false };
    let Ok(host) = host.parse::<http::uri::Authority>() else { return false };
    let default_port = match origin.scheme_str() {
        Some("https") => 443,
        Some("http") => 80,
        _ => return false,
    };
    let Some(page) = origin.authority() else { return false };
    page.host().eq_ignore_ascii_case(host.host())
        && page.port_u16().unwrap_or(default_port) == host.port_u16().unwrap_or(default_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_parsed_as_operators_write_them() {
        assert_eq!(Origins::parse::<&str>(&[]), Ok(Origins::Own));
        assert_eq!(Origins::parse(&["*"]), Ok(Origins::Any));
        assert_eq!(Origins::parse(&["*", "http://a"]), Err(OriginError::AnyAndOthers));
        assert_eq!(
            Origins::parse(&["https://Chat.Example", "http://localhost:3000/"]),
            Ok(Origins::List(vec![
                HeaderValue::from_static("https://chat.example"),
                HeaderValue::from_static("http://localhost:3000")
            ]))
        );
        for (text, origin) in [
            ("https://chat.example:443", "https://chat.example"),
            ("HTTPS://chat.example:443/", "https://chat.example"),
            ("http://chat.example:80", "http://chat.example"),
            ("http://[::1]:80", "http://[::1]"),
            ("http://chat.example:443", "http://chat.example:443"),
            ("app://chat", "app://chat"),
        ] {
            assert_eq!(Origins::parse(&[text]), Ok(Origins::List(vec![HeaderValue::from_static(origin)])), "{text}");
        }
        for text in
            ["chat.example", "https://", "https://a/b", "https://*.example", "null", "https://u@a", "https://a b"]
        {
            assert!(Origins::parse(&[text]).is_err(), "{text}");
        }
    }

    #[test]
    fn the_sites_around_a_frame_are_sources_of_a_policy() {
        let ancestors = |origins: &[&str]| EmbedOrigins::parse(origins).map(|origins| origins.ancestors());
        assert_eq!(ancestors(&[]), Ok("'none'".to_owned()));
        let origins =
            ["HTTPS://Www.Example.org:443/", "http://localhost:3000", "http://127.0.0.1", "https://xn--a-ecp.de"];
        let sources = "https://www.example.org http://localhost:3000 http://127.0.0.1 https://xn--a-ecp.de";
        assert_eq!(ancestors(&origins), Ok(sources.to_owned()));
        assert_eq!(ancestors(&["https://a.example", "*"]), Err(OriginError::AnyFrame));
        for text in ["www.example.org", "https://a/b", "https://*.example", "null", "https://a b", "https://münchen.de"]
        {
            assert_eq!(ancestors(&[text]), Err(OriginError::Form(text.to_owned())));
        }
        for text in [
            "app://chat",
            "https://[::1]",
            "https://a_b.example",
            "https://a:99999",
            "https://:443",
            "https://a;script-src",
            "https://a,b",
            "https://'self'",
        ] {
            assert!(ancestors(&[text]).is_err(), "{text}");
        }
    }

    #[test]
    fn own_and_listed_origins_may_open_a_websocket() {
        let own = Origins::Own;
        assert!(own.allow_upgrade(b"http://localhost:8080", Some("localhost:8080")));
        assert!(own.allow_upgrade(b"https://chat.example", Some("chat.example")));
        assert!(own.allow_upgrade(b"https://chat.example", Some("Chat.Example:443")));
        for (origin, host) in [
            ("http://localhost:3000", Some("localhost:8080")),
            ("https://evil.example", Some("chat.example")),
            ("https://chat.example.evil.example", Some("chat.example")),
            ("null", Some("chat.example")),
            ("http://chat.example", None),
        ] {
            assert!(!own.allow_upgrade(origin.as_bytes(), host), "{origin}");
        }
        let list = Origins::parse(&["https://app.example"]).unwrap();
        assert!(list.allow_upgrade(b"https://app.example", Some("chat.example")));
        assert!(list.allow_upgrade(b"https://chat.example", Some("chat.example")));
        assert!(!list.allow_upgrade(b"http://app.example", Some("chat.example")));
        assert!(Origins::Any.allow_upgrade(b"null", None));
    }

    #[test]
    fn the_cookie_is_for_own_and_listed_origins_even_if_any_is_allowed() {
        let list = Origins::parse(&["https://app.example"]).unwrap();
        for (origins, app, own) in [(&Origins::Own, false, true), (&list, true, true), (&Origins::Any, false, true)] {
            assert_eq!(origins.allow_cookie(b"https://app.example", Some("chat.example")), app, "{origins:?}");
            assert_eq!(origins.allow_cookie(b"https://chat.example", Some("chat.example")), own, "{origins:?}");
            assert!(!origins.allow_cookie(b"null", Some("chat.example")), "{origins:?}");
            assert!(!origins.allow_cookie(b"", Some("chat.example")), "{origins:?}");
        }
    }
}
