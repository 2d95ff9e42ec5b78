//! The command `health`: asks a running server whether it responds, for the health check of a container.

use crate::config::Options;
use anyhow::{Context, Result, anyhow, bail};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, AlertDescription, ClientConfig, DigitallySignedStruct, SignatureScheme};

/// How long the answer may take. Docker and systemd wait for longer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const BODY_LIMIT_BYTES: usize = 64 * 1024;
/// It answers as long as the process can serve requests: a restart would not help a server that can't reach its
/// database.
const HEALTH_PATH: &str = "/healthz";

/// Asks the server at `url`, or else the one that the options describe.
///
/// # Errors
/// If it can't be reached, does not answer in time, or answers with another status than 200.
pub fn health(options: &Options, url: Option<&str>) -> Result<()> {
    let target = match url {
        Some(url) => Target::from_url(url)?,
        None => Target::from_options(options)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start")?;
    let answer = runtime.block_on(async { tokio::time::timeout(TIMEOUT, ask(&target)).await });
    // A name server that does not answer must not keep the process.
    runtime.shutdown_background();
    match answer {
        Ok(answer) => answer,
        Err(_) => bail!("no answer from {} within {} s", target.url(), TIMEOUT.as_secs()),
    }
}

/// Whom to ask for what.
struct Target {
    is_tls: bool,
    /// The first one that accepts a connection is asked.
    addresses: Addresses,
    /// Host and port, as in the URL.
    authority: String,
    /// The name that a server with TLS is told.
    name: ServerName<'static>,
    path: String,
}

enum Addresses {
    Known(Vec<SocketAddr>),
    Named(String, u16),
}

impl Target {
    /// A URL without a path stands for `HEALTH_PATH`.
    fn from_url(url: &str) -> Result<Target> {
        let invalid = || anyhow!("'{}' is not a URL such as http://127.0.0.1:8080{HEALTH_PATH}", url.escape_debug());
        let uri: Uri = url.trim().parse().map_err(|_| invalid())?;
        let Some(authority) = uri.authority() else { return Err(invalid()) };
        let (is_tls, default_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(invalid()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| invalid())?;
        let path = match uri.path_and_query().map(|path| path.as_str()) {
            None | Some("" | "/") => HEALTH_PATH.to_owned(),
            Some(path) => path.to_owned(),
        };
        let addresses = Addresses::Named(host, authority.port_u16().unwrap_or(default_port));
        // Without a user's name, which would have no meaning here.
        let (_, authority) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
        Ok(Target { is_tls, addresses, authority: authority.to_owned(), name, path })
    }

    /// The first address that the server listens on, one without TLS if there is any.
    fn from_options(options: &Options) -> Result<Target> {
        let (first, is_tls) = match options.addresses()?.first() {
            Some(first) => (*first, false),
            None => (*options.tls_addresses()?.first().context("there is an address of one kind")?, true),
        };
        if first.port() == 0 {
            let (option, scheme) = if is_tls { ("--listen-tls", "https") } else { ("--listen", "http") };
            bail!(
                "{option}: with port 0 the server's port is not known; name the URL: uproar health {scheme}://HOST:PORT"
            );
        }
        let hosts: Vec<IpAddr> = match first.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => vec![Ipv4Addr::LOCALHOST.into()],
            // It stands for IPv4 as well, and many containers have no IPv6 loopback.
            IpAddr::V6(ip) if ip.is_unspecified() => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
            ip => vec![ip],
        };
        let addresses: Vec<SocketAddr> = hosts.iter().map(|host| SocketAddr::new(*host, first.port())).collect();
        let authority = addresses[0].to_string();
        let name = ServerName::from(addresses[0].ip());
        Ok(Target { is_tls, addresses: Addresses::Known(addresses), authority, name, path: HEALTH_PATH.to_owned() })
    }

    fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        match &self.addresses {
            Addresses::Known(addresses) => TcpStream::connect(addresses.as_slice()).await,
            Addresses::Named(host, port) => {
                let addresses: Vec<SocketAddr> = lookup_host((host.as_str(), *port)).await?.collect();
                TcpStream::connect(addresses.as_slice()).await
            }
        }
    }
}

async fn ask(target: &Target) -> Result<()> {
    let url = target.url();
    let stream =
        target.connect().await.map_err(|error| anyhow!("can't reach {url}: {error}; is the server running?"))?;
    if !target.is_tls {
        return ask_over(stream, target, &url).await;
    }
    let connector = TlsConnector::from(Arc::new(client()?));
    let session = connector.connect(target.name.clone(), stream).await;
    if session.as_ref().is_err_and(has_no_certificate) {
        return Ok(());
    }
    ask_over(
        session.map_err(|error| {
            anyhow!("{url} does not speak TLS ({error}); without TLS, the address begins with http://")
        })?,
        target,
        &url,
    )
    .await
}

/// Whether this is the answer of a server that waits for its first certificate. A restart would not bring it, but cost
/// another attempt at the certificate authority.
fn has_no_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(rustls::Error::AlertReceived(AlertDescription::AccessDenied)))
}

async fn ask_over<S>(stream: S, target: &Target, url: &str) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let unusable = |error: hyper::Error| anyhow!("{url} does not answer as a web server does: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unusable)?;
    tokio::spawn(connection);
    let request = Request::get(&target.path)
        .header(header::HOST, &target.authority)
        .header(header::CONNECTION, "close")
        .body(Empty::<&[u8]>::new())
        .with_context(|| format!("{url} can't be asked for"))?;
    let response = sender.send_request(request).await.map_err(unusable)?;
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(());
    }
    let body = Limited::new(response.into_body(), BODY_LIMIT_BYTES).collect().await;
    let reason = body.ok().and_then(|body| reason(&body.to_bytes()));
    bail!("{url} answers {}{}", status.as_u16(), reason.map(|reason| format!(": {reason}")).unwrap_or_default())
}

/// A client that accepts every certificate: an expired one is no reason to restart a server, and nothing is asked that
/// must stay secret.
fn client() -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().context("TLS can't be set up")?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
    let mut client = builder.with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(client)
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What an error response of the server says.
fn reason(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body["error"]["message"].as_str().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cli;
    use clap::Parser;

    fn known(listen: &str) -> Vec<String> {
        let options = Cli::parse_from(["uproar", "--listen", listen]).options;
        match Target::from_options(&options).unwrap().addresses {
            Addresses::Known(addresses) => addresses.iter().map(ToString::to_string).collect(),
            Addresses::Named(..) => Vec::new(),
        }
    }

    #[test]
    fn a_wildcard_stands_for_the_loopback_address() {
        assert_eq!(known("0.0.0.0:80"), ["127.0.0.1:80"]);
        assert_eq!(known("[::]:80"), ["[::1]:80", "127.0.0.1:80"]);
        assert_eq!(known("192.0.2.1:8080,127.0.0.1:1"), ["192.0.2.1:8080"]);
        let any_port = Cli::parse_from(["uproar", "--listen", "127.0.0.1:0"]).options;
        assert!(Target::from_options(&any_port).err().unwrap().to_string().contains("port 0"));
    }

    #[test]
    fn an_address_without_tls_is_preferred() {
        let url = |listen: &str| {
            let tls = ["uproar", "--listen-tls", "[::]:443", "--listen", listen];
            Target::from_options(&Cli::parse_from(tls).options).unwrap().url()
        };
        assert_eq!(url("127.0.0.1:8080"), "http://127.0.0.1:8080/healthz");
        assert_eq!(url(""), "https://[::1]:443/healthz");
    }

    #[test]
    fn a_url_names_host_port_and_path() {
        for (url, expected, host, port) in [
            ("http://localhost:81", "http://localhost:81/healthz", "localhost", 81),
            ("http://localhost/", "http://localhost/healthz", "localhost", 80),
            (" http://[::1]:8080/readyz ", "http://[::1]:8080/readyz", "::1", 8080),
            ("http://ann:secret@chat.example/readyz?x=1", "http://chat.example/readyz?x=1", "chat.example", 80),
            ("https://chat.example", "https://chat.example/healthz", "chat.example", 443),
            ("https://[::1]:8443/", "https://[::1]:8443/healthz", "::1", 8443),
        ] {
            let target = Target::from_url(url).unwrap();
            assert_eq!(target.url(), expected);
            assert!(matches!(&target.addresses, Addresses::Named(h, p) if h == host && *p == port), "{url}");
        }
        for url in ["", "localhost:8080", "/healthz", "ftp://localhost/", "wss://localhost/", "http://", "http://a b/"]
        {
            let error = Target::from_url(url).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("is not a URL such as"), "{url}: {error}");
        }
    }
}
