//! The command `health`: asks a running server whether it responds, for the health check of a container.

use crate::config::Options;
use anyhow::{Context, Result, anyhow, bail};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};

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
    /// The first one that accepts a connection is asked.
    addresses: Addresses,
    /// Host and port, as in the URL.
    authority: String,
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
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(invalid()) };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = match uri.path_and_query().map(|path| path.as_str()) {
            None | Some("" | "/") => HEALTH_PATH.to_owned(),
            Some(path) => path.to_owned(),
        };
        let addresses = Addresses::Named(host, authority.port_u16().unwrap_or(80));
        // Without a user's name, which would have no meaning here.
        let (_, authority) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
        Ok(Target { addresses, authority: authority.to_owned(), path })
    }

    /// The first address that the server listens on.
    fn from_options(options: &Options) -> Result<Target> {
        let Some(first) = options.addresses()?.first().copied() else {
            bail!(
                "--listen: there is no address, and this command does not speak TLS; add one, such as 127.0.0.1:8080"
            );
        };
        if first.port() == 0 {
            bail!("--listen: with port 0 the server's port is not known; name the URL: uproar health http://HOST:PORT");
        }
        let hosts: Vec<IpAddr> = match first.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => vec![Ipv4Addr::LOCALHOST.into()],
            // It stands for IPv4 as well, and many containers have no IPv6 loopback.
            IpAddr::V6(ip) if ip.is_unspecified() => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
            ip => vec![ip],
        };
        let addresses: Vec<SocketAddr> = hosts.iter().map(|host| SocketAddr::new(*host, first.port())).collect();
        let authority = addresses[0].to_string();
        Ok(Target { addresses: Addresses::Known(addresses), authority, path: HEALTH_PATH.to_owned() })
    }

    fn url(&self) -> String {
        format!("http://{}{}", self.authority, self.path)
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
    fn a_url_names_host_port_and_path() {
        for (url, expected, host, port) in [
            ("http://localhost:81", "http://localhost:81/healthz", "localhost", 81),
            ("http://localhost/", "http://localhost/healthz", "localhost", 80),
            (" http://[::1]:8080/readyz ", "http://[::1]:8080/readyz", "::1", 8080),
            ("http://ann:secret@chat.example/readyz?x=1", "http://chat.example/readyz?x=1", "chat.example", 80),
        ] {
            let target = Target::from_url(url).unwrap();
            assert_eq!(target.url(), expected);
            assert!(matches!(&target.addresses, Addresses::Named(h, p) if h == host && *p == port), "{url}");
        }
        for url in
            ["", "localhost:8080", "/healthz", "ftp://localhost/", "https://localhost/", "http://", "http://a b/"]
        {
            let error = Target::from_url(url).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("is not a URL such as"), "{url}: {error}");
        }
    }
}
