//! The URLs that the server sends requests to.

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Uri};
use std::fmt;
use tokio_rustls::rustls::pki_types::ServerName;

/// An `https` or `http` URL. `Display` and `Debug` show its origin only: paths and queries of such URLs often contain
/// secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// Scheme, host and port.
    origin: String,
    /// The name for TLS. `None`: the URL is an `http` one.
    pub(super) tls_name: Option<ServerName<'static>>,
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) host_header: HeaderValue,
    pub(super) path: PathAndQuery,
}

/// Why a text is not such a URL. It does not quote the text, which may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("must be a URL such as https://example.org/path")]
    Form,
    #[error("must begin with https:// (or http:// for an address that --outgoing-allow names)")]
    Scheme,
    #[error("must not contain a user or a password")]
    Credentials,
}

impl Url {
    /// # Errors
    /// If it is not an absolute URL of one of the two schemes, or if it contains a user.
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        let uri: Uri = text.parse().map_err(|_| UrlError::Form)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err(UrlError::Form) };
        if authority.as_str().contains('@') {
            return Err(UrlError::Credentials);
        }
        let is_https = *scheme == Scheme::HTTPS;
        if !is_https && *scheme != Scheme::HTTP {
            return Err(UrlError::Scheme);
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") if is_https => 443,
            Some("") => 80,
            // The parser of URLs lets pass what is no port.
            _ => authority.port_u16().filter(|port| *port > 0).ok_or(UrlError::Form)?,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // A name that can't be in a certificate can't be looked up either.
        let name = ServerName::try_from(host.clone()).map_err(|_| UrlError::Form)?;
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        Ok(Url {
            origin: format!("{scheme}://{}", authority.as_str().to_ascii_lowercase()),
            tls_name: is_https.then_some(name),
            host,
            port,
            host_header: HeaderValue::from_str(authority.as_str()).map_err(|_| UrlError::Form)?,
            path,
        })
    }

    /// Scheme, host and port, if one is given.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_a_port_and_a_path() {
        for (text, host, port, path, is_https) in [
            ("https://Example.org", "example.org", 443, "/", true),
            ("https://example.org:8443/hooks?a=b", "example.org", 8443, "/hooks?a=b", true),
            ("http://127.0.0.1:9000/x", "127.0.0.1", 9000, "/x", false),
            ("https://[2001:db8::1]/", "2001:db8::1", 443, "/", true),
            ("http://localhost", "localhost", 80, "/", false),
        ] {
            let url = Url::parse(text).unwrap();
            let parts = (url.host.as_str(), url.port, url.path.as_str(), url.tls_name.is_some());
            assert_eq!(parts, (host, port, path, is_https), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_without_being_quoted() {
        for text in ["", "example.org", "/path", "https://", "https://a b/", "https://a:x", "https://a:0", "https://a:"]
        {
            assert_eq!(Url::parse(text), Err(UrlError::Form), "{text}");
        }
        assert_eq!(Url::parse("ftp://example.org/"), Err(UrlError::Scheme));
        assert_eq!(Url::parse("https://ann:secret@example.org/"), Err(UrlError::Credentials));
    }

    #[test]
    fn only_the_origin_is_shown() {
        let url = Url::parse("https://example.org:8443/secret?token=secret").unwrap();
        assert_eq!((url.to_string().as_str(), url.origin()), ("https://example.org:8443", "https://example.org:8443"));
        assert!(!format!("{url:?}").contains("secret"));
    }
}
