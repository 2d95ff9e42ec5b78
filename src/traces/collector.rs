//! The collector that the options name, and the connection to it.

use super::wire;
use crate::config::Options;
use crate::roots;
use anyhow::{Context, Error, Result, anyhow, bail};
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use prost::Message;
use rustls_native_certs::CertificateResult;
use std::fmt;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::ServerName;

/// How long the collector may take to answer, and to accept a connection. Others wait as long.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most that is read of an answer.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024;
/// The most that is logged of what the collector says.
const REASON_LIMIT_CHARS: usize = 200;
/// The longest pause that the collector may ask for.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(60);
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("uproar/", env!("CARGO_PKG_VERSION")));
/// What OTLP appends to the base URL for traces.
const PATH: &str = "/v1/traces";

/// A collector, and a connection to it if there is one.
pub struct Collector {
    /// The URL to which traces are posted, and its path.
    url: String,
    path: Uri,
    host: String,
    port: u16,
    /// The headers of each request.
    headers: HeaderMap,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// Why the collector did not take spans.
#[derive(Debug)]
pub(super) struct Failure {
    /// One line.
    pub reason: String,
    /// `None`: it would refuse them again.
    pub retry: Option<Retry>,
}

/// When to send the same again.
#[derive(Debug)]
pub(super) enum Retry {
    /// As soon as the sender likes.
    Anytime,
    After(Duration),
}

/// What the collector says about spans that it has taken.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    /// How many of them it rejected after all.
    pub rejected: u64,
    /// What is wrong with them, or may become wrong. Empty if nothing is.
    pub warning: String,
}

impl Collector {
    /// The collector that the options name, if they name one.
    ///
    /// # Errors
    /// If the URL or a header is invalid, or this machine has no certificates with which to check that of the
    /// collector.
    pub fn from_options(options: &Options) -> Result<Option<Collector>> {
        let headers = parse_headers(options.otlp_headers())?;
        match &options.otlp {
            Some(url) => Collector::new(url, headers).map(Some),
            None if headers.is_empty() => Ok(None),
            None => bail!("--otlp-headers has no effect without --otlp; name the collector with it"),
        }
    }

    pub(super) fn new(url: &str, headers: HeaderMap) -> Result<Collector> {
        if url.contains('@') {
            // Not shown, because it may contain a password.
            bail!("--otlp: the URL must not contain a user or a password; put credentials into --otlp-headers");
        }
        let shown = url.escape_debug();
        let invalid = || anyhow!("--otlp: '{shown}' is not the base URL of a collector, such as http://localhost:4318");
        let base: Uri = url.parse().map_err(|_| invalid())?;
        let (Some(scheme), Some(authority)) = (base.scheme(), base.authority()) else { return Err(invalid()) };
        let default_port = match scheme {
            scheme if *scheme == Scheme::HTTP => 80,
            scheme if *scheme == Scheme::HTTPS => 443,
            _ => return Err(invalid()),
        };
        if base.query().is_some() || authority.host().is_empty() {
            return Err(invalid());
        }
        let path = base.path().trim_end_matches('/');
        if path.ends_with(PATH) {
            bail!("--otlp: '{shown}' must be the base URL; leave out {PATH}, which the server appends");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => default_port,
            // The parser of URLs lets pass what is no port.
            _ => authority.port_u16().ok_or_else(invalid)?,
        };
        let tls = match default_port {
            443 => Some((tls_client()?, ServerName::try_from(host.clone()).map_err(|_| invalid())?)),
            _ => None,
        };
        let url = format!("{scheme}://{authority}{path}{PATH}");
        let path = format!("{path}{PATH}").parse().map_err(|_| invalid())?;
        let mut all = HeaderMap::new();
        all.insert(header::HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| invalid())?);
        all.insert(header::USER_AGENT, USER_AGENT);
        all.extend(headers);
        all.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        Ok(Collector { url, path, host, port, headers: all, tls, connection: None })
    }

    /// Connects, to see whether that works.
    ///
    /// # Errors
    /// If it does not.
    pub async fn reach(&mut self) -> Result<()> {
        self.connection = Some(timeout(TIMEOUT, self.connect()).await.map_err(|_| late())??);
        Ok(())
    }

    /// Sends spans: an encoded [`wire::Request`].
    pub(super) async fn send(&mut self, body: Bytes) -> Result<Accepted, Failure> {
        // A connection is used again only if all went well on it.
        let idle = self.connection.take();
        let sent = timeout(TIMEOUT, self.send_without_timeout(idle, body)).await;
        sent.unwrap_or_else(|_| Err(Failure::temporary(&late())))
    }

    async fn send_without_timeout(
        &mut self,
        idle: Option<SendRequest<Full<Bytes>>>,
        body: Bytes,
    ) -> Result<Accepted, Failure> {
        let sent = match idle {
            // It fails if the collector has closed the connection meanwhile, or does so just now.
            Some(connection) => self.post(connection, body.clone()).await.ok(),
            None => None,
        };
        let (connection, answer) = match sent {
            Some(sent) => sent,
            None => {
                let connection = self.connect().await.map_err(|error| Failure::temporary(&error))?;
                self.post(connection, body).await.map_err(|error| Failure::temporary(&broken(error)))?
            }
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT_BYTES).collect().await;
        let Ok(body) = body.map(|body| body.to_bytes()) else {
            return if head.status.is_success() { Ok(Accepted::default()) } else { Err(refusal(&head, &[])) };
        };
        self.connection = Some(connection);
        if head.status.is_success() { Ok(accepted(&body)) } else { Err(refusal(&head, &body)) }
    }

    async fn post(
        &self,
        mut connection: SendRequest<Full<Bytes>>,
        body: Bytes,
    ) -> hyper::Result<(SendRequest<Full<Bytes>>, Response<Incoming>)> {
        // After an answer, it takes a moment until the connection can be used again.
        connection.ready().await?;
        let answer = connection.send_request(self.request(body)).await?;
        Ok((connection, answer))
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.context("can't connect")?;
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => handshake(TokioIo::new(stream)).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.context("no TLS")?;
                handshake(TokioIo::new(stream)).await
            }
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Failure {
    fn temporary(error: &Error) -> Failure {
        Failure { reason: crate::output::one_line(error), retry: Some(Retry::Anytime) }
    }
}

async fn handshake(io: impl Read + Write + Send + Unpin + 'static) -> Result<SendRequest<Full<Bytes>>> {
    let (connection, driver) = http1::handshake(io).await.map_err(broken)?;
    // It ends with the connection.
    tokio::spawn(driver);
    Ok(connection)
}

fn broken(error: hyper::Error) -> Error {
    let is_not_http = error.is_parse();
    let error = Error::new(error);
    if is_not_http { error.context("it does not answer as a web server does") } else { error }
}

fn late() -> Error {
    anyhow!("no answer within {} s", TIMEOUT.as_secs())
}

/// Which answers mean that the same may succeed later, says
/// <https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>.
fn refusal(head: &http::response::Parts, body: &[u8]) -> Failure {
    let is_temporary = matches!(
        head.status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    let after = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let retry = is_temporary.then(|| match after {
        Some(seconds) => Retry::After(Duration::from_secs(seconds).min(RETRY_AFTER_LIMIT)),
        None => Retry::Anytime,
    });
    let is_protobuf = head
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/x-proto"));
    let said = match wire::Failure::decode(body) {
        Ok(failure) if is_protobuf => failure.message,
        _ => String::from_utf8_lossy(body).into_owned(),
    };
    let separator = if said.trim().is_empty() { "" } else { ": " };
    Failure { reason: format!("it answers {}{separator}{}", head.status.as_u16(), printable(&said)), retry }
}

fn accepted(body: &[u8]) -> Accepted {
    let answer = wire::Response::decode(body).unwrap_or_default();
    let Some(partial) = answer.partial_success else { return Accepted::default() };
    Accepted {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or_default(),
        warning: printable(&partial.error_message),
    }
}

/// What the collector said, in one line that is not too long.
fn printable(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.escape_debug().take(REASON_LIMIT_CHARS).collect()
}

/// Trusts the certificates that the system trusts.
fn tls_client() -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let CertificateResult { certs, errors, .. } = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(certs);
    let problems = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if roots.is_empty() {
        let separator = if problems.is_empty() { "" } else { ": " };
        bail!(
            "--otlp: this machine has no certificates with which to check the collector's{separator}{problems}; \
             install the package ca-certificates, or name a file with the variable SSL_CERT_FILE"
        );
    }
    if !problems.is_empty() {
        tracing::warn!(problems, "--otlp: not all certificates that this machine trusts can be read");
    }
    roots::client(roots)
}

/// Parses headers in the form that OpenTelemetry has for them: `NAME=VALUE`, with the value percent-encoded.
fn parse_headers<'a>(headers: impl Iterator<Item = &'a str>) -> Result<HeaderMap> {
    headers
        .map(|header| {
            // The value is not shown, because it usually is a secret.
            let (name, value) = header.split_once('=').context(
                "--otlp-headers: a header has no '='; it takes NAME=VALUE, such as authorization=Bearer%20TOKEN",
            )?;
            let name = name.trim();
            let invalid =
                |what| anyhow!("--otlp-headers: the {what} of the header '{}' is invalid", name.escape_debug());
            let value = percent_decode_str(value.trim()).collect::<Vec<u8>>();
            let mut value = HeaderValue::from_bytes(&value).map_err(|_| invalid("value"))?;
            value.set_sensitive(true);
            Ok((name.parse::<HeaderName>().map_err(|_| invalid("name"))?, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(url: &str) -> Result<Collector> {
        Collector::new(url, HeaderMap::new())
    }

    #[test]
    fn the_path_for_traces_is_appended_to_the_base_url() {
        for (base, url, host, port) in [
            ("http://localhost:4318", "http://localhost:4318/v1/traces", "localhost", 4318),
            ("http://localhost/", "http://localhost/v1/traces", "localhost", 80),
            ("http://[::1]:4318/otlp/", "http://[::1]:4318/otlp/v1/traces", "::1", 4318),
        ] {
            let collector = collector(base).unwrap();
            assert_eq!((collector.to_string().as_str(), &*collector.host, collector.port), (url, host, port));
        }
    }

    #[test]
    fn an_invalid_url_is_explained_and_a_password_not_shown() {
        let wrong = ["", "localhost:4318", "/v1", "grpc://localhost:4317", "http://", "http://a b", "http://a/?b=c"];
        let wrong_ports = ["http://a:431800", "https://a:otlp", "http://a:", "http://[::1]:x"];
        for url in wrong.into_iter().chain(wrong_ports) {
            let error = collector(url).err().unwrap().to_string();
            assert!(error.starts_with(&format!("--otlp: '{url}' is not the base URL")), "{error}");
        }
        let error = collector("http://a/v1/traces/").err().unwrap().to_string();
        assert!(error.contains("leave out /v1/traces"), "{error}");
        for url in ["http://ann:secret@a", "grpc://ann:secret@a", "ann:secret@a", "http://ann:secret@a:x"] {
            let error = collector(url).err().unwrap().to_string();
            assert!(error.contains("--otlp-headers") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn headers_are_percent_decoded_and_never_shown() {
        let parse = |header| parse_headers([header].into_iter());
        let headers = parse("Authorization=Basic%20YTpi=").unwrap();
        assert_eq!(headers["authorization"], "Basic YTpi=");
        for header in ["secret", "a b=secret", "a=secret%0A"] {
            let error = parse(header).err().unwrap().to_string();
            assert!(error.starts_with("--otlp-headers: ") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_may_succeed_later_is_told_from_what_can_not() {
        let answer = |status: u16, retry_after: &str| {
            let response = http::Response::builder().status(status).header("retry-after", retry_after);
            refusal(&response.body(()).unwrap().into_parts().0, b"too\nmuch")
        };
        for status in [429, 502, 503, 504] {
            let Failure { reason, retry } = answer(status, "7");
            assert!(matches!(retry, Some(Retry::After(pause)) if pause.as_secs() == 7), "{status}");
            assert_eq!(reason, format!("it answers {status}: too much"));
            assert!(matches!(answer(status, "soon").retry, Some(Retry::Anytime)));
            assert!(matches!(answer(status, "999999").retry, Some(Retry::After(RETRY_AFTER_LIMIT))));
        }
        for status in [400, 401, 404, 413, 500, 501] {
            assert!(answer(status, "7").retry.is_none(), "{status}");
        }
    }
}
