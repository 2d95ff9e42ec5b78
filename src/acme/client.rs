//! The HTTPS client for an authority: HTTP/1.1, one connection per request, a time limit on everything.

use super::Settings;
use crate::{output, roots};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use std::pin::Pin;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one address of the authority is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// The longest answer that is read. A chain of certificates has some kilobytes.
const BODY_LIMIT_BYTES: usize = 1024 * 1024;
const USER_AGENT: &str = concat!("uproar/", env!("CARGO_PKG_VERSION"));

/// The authority could not be asked, or what answered was not an authority.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreachable(String);

#[derive(Clone)]
pub(super) struct Client {
    connector: TlsConnector,
}

impl Client {
    /// Reads the certificates of those who are trusted with the directory's own certificate, which takes some
    /// milliseconds.
    ///
    /// # Errors
    /// If the file of `--tls-acme-ca` can't be used.
    pub(super) fn new(settings: &Settings) -> Result<Client> {
        let connector = match &settings.ca {
            Some(path) => roots::from_file(path).map_err(|error| anyhow!("--tls-acme-ca: {error:#}"))?,
            None => roots::usual()?,
        };
        Ok(Client { connector })
    }

    /// Asks for the directory.
    ///
    /// # Errors
    /// If it can't be had within the time limit.
    pub(super) async fn get_directory(&self, settings: &Settings) -> Result<()> {
        let request = Request::get(&settings.directory).body(BodyWrapper::default())?;
        let response = self.clone().send(request).await?;
        let body = response.into_body().collect().await?.to_bytes();
        let directory: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        if !directory["newOrder"].is_string() {
            bail!("{} is not the directory of an authority", settings.directory);
        }
        Ok(())
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, Unreachable> {
        let uri = request.uri().clone();
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", REQUEST_TIMEOUT.as_secs())));
        answer.map_err(|error| Unreachable(format!("can't use {uri}: {}", output::one_line(&error))))
    }

    async fn exchange(self, mut request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>> {
        let uri = request.uri().clone();
        let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else { bail!("it is not an https URL") };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).context("its host is not a valid name")?;
        let tcp = connect(&host, uri.port_u16().unwrap_or(443)).await?;
        let tls = self.connector.connect(name, tcp).await.context("no TLS session")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        // Ends with this function.
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);

        let authority = uri.authority().map_or(host.as_str(), |authority| authority.as_str());
        let host = HeaderValue::from_str(authority)?;
        request.headers_mut().insert(header::HOST, host);
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse::<Uri>()?;
        let (parts, body) = sender.send_request(request).await?.into_parts();
        // Proxies and servers that are no authorities answer with pages.
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !parts.status.is_success() && !kind.contains("json") {
            bail!("the answer is {}", parts.status);
        }
        let body = Limited::new(body, BODY_LIMIT_BYTES).collect().await;
        let body = body.map_err(|error| anyhow!("the answer can't be read: {error}"))?;
        Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let response = client.send(request).await.map_err(|error| Error::Other(Box::new(error)))?;
            Ok(BytesResponse::from(response))
        })
    }
}

/// Tries one address after the other, each for a while only: often IPv6 leads nowhere.
async fn connect(host: &str, port: u16) -> Result<TcpStream> {
    let addresses = lookup_host((host, port)).await.with_context(|| format!("can't find the address of {host}"))?;
    let mut failure = anyhow!("{host} has no address");
    for address in addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = anyhow!("can't connect to {address}: {error}"),
            Err(_) => failure = anyhow!("{address} accepts no connection"),
        }
    }
    Err(failure)
}
