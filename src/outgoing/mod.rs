//! The HTTP client for URLs that are configured or found in what others say, such as those of webhooks and of identity
//! providers.
//!
//! It sends nothing to private addresses unless `--outgoing-allow` names them, and connects to exactly those addresses
//! that it has looked up and checked: a name can't lead elsewhere in between. It follows no redirects. Every request
//! has a time limit, and every answer a limit of bytes.

mod addresses;
mod lookups;
mod url;

pub use url::{Url, UrlError};

use crate::config::Options;
use crate::{output, roots};
use addresses::{Access, access};
use anyhow::{Context, Error, Result, anyhow, bail};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use lookups::Lookups;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use uproar_http::addresses::Network;

/// How long one address of a host is tried: often IPv6 leads nowhere.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are kept for further requests, and for how long. Many servers close them after a minute.
const IDLE_LIMIT: usize = 128;
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest head of an answer.
const HEAD_LIMIT_BYTES: usize = 64 * 1024;
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("uproar/", env!("CARGO_PKG_VERSION")));

/// A client, to be shared by everything that sends requests.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    /// Made for the first `https` request, because that reads files.
    tls: OnceCell<TlsConnector>,
    allowed: Vec<Network>,
    idle: Mutex<Vec<Idle>>,
    lookups: Lookups,
}

/// It is closed when this is dropped, whatever it is doing: hyper would wait for a server that reads nothing, possibly
/// for ever, to take the end of the TLS session.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _task: JoinSet<()>,
}

/// A connection on which everything went well so far.
struct Idle {
    origin: String,
    connection: Connection,
    since: Instant,
}

/// What an answer may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For everything, from the lookup of the name to the last byte of the answer.
    pub timeout: Duration,
    pub body_limit_bytes: usize,
}

/// What a server has answered, whatever its status. Redirects are answers, too.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// `None`: it was too long, or not complete in time.
    pub body: Option<Bytes>,
}

/// Why there was no answer, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

/// Why requests to a URL would fail.
#[derive(Debug)]
pub enum Unusable {
    /// All its addresses are forbidden.
    Forbidden(Error),
    /// Its addresses can't be found now.
    Unknown(Error),
}

/// The networks of `--outgoing-allow`.
///
/// # Errors
/// If one of them is not a network.
pub fn allowed_networks(options: &Options) -> Result<Vec<Network>> {
    let networks = options.outgoing_networks().into_iter().map(str::parse::<Network>);
    networks.collect::<Result<_, _>>().map_err(|error| anyhow!("--outgoing-allow: {error}"))
}

impl Client {
    /// # Errors
    /// If `--outgoing-allow` has a value that is not a network.
    pub fn from_options(options: &Options) -> Result<Client> {
        Ok(Client::new(allowed_networks(options)?))
    }

    /// `allowed`: networks to which requests may go although they are private.
    pub fn new(allowed: Vec<Network>) -> Client {
        let (tls, idle, lookups) = (OnceCell::new(), Mutex::default(), Lookups::default());
        Client(Arc::new(Inner { tls, allowed, idle, lookups }))
    }

    /// Sends a GET request that accepts JSON.
    ///
    /// # Errors
    /// If there is no answer in time, or the address is forbidden.
    pub async fn get_json(&self, url: &Url, bounds: Bounds) -> Result<Answer, Failure> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))]);
        self.send(Method::GET, url, headers, Bytes::new(), bounds).await
    }

    /// Sends a request. It may reach the server twice, if the connection breaks in the middle of it.
    ///
    /// # Errors
    /// If there is no answer in time, or the address is forbidden.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Answer, Failure> {
        headers.insert(header::HOST, url.host_header.clone());
        headers.insert(header::USER_AGENT, USER_AGENT);
        let make = || {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = url.path.clone().into();
            *request.headers_mut() = headers.clone();
            request
        };
        let deadline = tokio::time::Instant::now() + bounds.timeout;
        let exchanged = timeout_at(deadline, self.exchange(url, make)).await;
        let (connection, response) = match exchanged {
            Ok(Ok(exchanged)) => exchanged,
            Ok(Err(error)) => return Err(Failure(output::one_line(&error))),
            Err(_) => return Err(Failure(format!("no answer within {} ms", bounds.timeout.as_millis()))),
        };
        let (head, body) = response.into_parts();
        let body = tokio::select! {
            biased;
            body = Limited::new(body, bounds.body_limit_bytes).collect() => body.ok().map(|body| body.to_bytes()),
            () = sleep_until(deadline) => None,
        };
        if body.is_some() {
            self.keep(url, connection);
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Looks the host up, and says whether requests may go there. Nothing is sent.
    ///
    /// # Errors
    /// If the host has no address, or none to which requests may go.
    pub async fn check(&self, url: &Url, limit: Duration) -> Result<(), Unusable> {
        match timeout(limit, self.addresses(url)).await {
            Ok(Ok(addresses)) => self.permitted(url, &addresses).map(|_| ()).map_err(Unusable::Forbidden),
            Ok(Err(error)) => Err(Unusable::Unknown(error)),
            Err(_) => {
                let ms = limit.as_millis();
                Err(Unusable::Unknown(anyhow!("can't find the address of {} within {ms} ms", url.host)))
            }
        }
    }

    async fn exchange(
        &self,
        url: &Url,
        make: impl Fn() -> Request<Full<Bytes>>,
    ) -> Result<(Connection, Response<Incoming>)> {
        if let Some(connection) = self.take_idle(url) {
            // It fails if the server has closed the connection meanwhile, or does so just now.
            if let Ok(exchanged) = exchange_on(connection, make()).await {
                return Ok(exchanged);
            }
        }
        let connection = self.connect(url).await?;
        exchange_on(connection, make()).await.map_err(broken)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self, url: &Url) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|idle| idle.since.elapsed() < IDLE_TIMEOUT && !idle.connection.sender.is_closed());
        let newest = idle.iter().rposition(|idle| idle.origin == url.origin())?;
        Some(idle.remove(newest).connection)
    }

    fn keep(&self, url: &Url, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() >= IDLE_LIMIT {
            idle.remove(0);
        }
        idle.push(Idle { origin: url.origin().to_owned(), connection, since: Instant::now() });
    }

    async fn connect(&self, url: &Url) -> Result<Connection> {
        let tcp = self.connect_tcp(url).await?;
        // After an error, requests are only slower.
        let _ = tcp.set_nodelay(true);
        match &url.tls_name {
            None => handshake(TokioIo::new(tcp)).await,
            Some(name) => {
                let tls = self.tls().await?.connect(name.clone(), tcp).await.context("no TLS session")?;
                handshake(TokioIo::new(tls)).await
            }
        }
    }

    async fn connect_tcp(&self, url: &Url) -> Result<TcpStream> {
        let addresses = self.permitted(url, &self.addresses(url).await?)?;
        let mut failure = anyhow!("{} has no address", url.host);
        for address in addresses {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => failure = anyhow!("can't connect to {address}: {error}"),
                Err(_) => failure = anyhow!("{address} accepts no connection"),
            }
        }
        Err(failure)
    }

    /// Looks the host up once.
    async fn addresses(&self, url: &Url) -> Result<Vec<SocketAddr>> {
        Ok(match url.host.parse::<IpAddr>() {
            Ok(address) => vec![(address, url.port).into()],
            Err(_) => {
                let found = self.0.lookups.find(&url.host, url.port).await;
                found.with_context(|| format!("can't find the address of {}", url.host))?
            }
        })
    }

    /// Leaves out forbidden addresses.
    fn permitted(&self, url: &Url, addresses: &[SocketAddr]) -> Result<Vec<SocketAddr>> {
        let accesses = addresses.iter().map(|address| (*address, access(address.ip(), &self.0.allowed)));
        let accesses: Vec<(SocketAddr, Access)> = accesses.collect();
        let is_permitted = |access: Access| access == Access::Allowed || access == Access::Public && url.is_https();
        let permitted = accesses.iter().filter(|(_, access)| is_permitted(*access)).map(|(address, _)| *address);
        let permitted: Vec<SocketAddr> = permitted.collect();
        match accesses.first() {
            Some((address, Access::Forbidden)) if permitted.is_empty() => bail!(
                "{} is a private or special address, which the server sends nothing to; if it should, name it with \
                 --outgoing-allow",
                address.ip()
            ),
            Some((address, _)) if permitted.is_empty() => bail!(
                "the server sends nothing to {} without TLS; use https, or name the address with --outgoing-allow",
                address.ip()
            ),
            _ => Ok(permitted),
        }
    }

    async fn tls(&self) -> Result<&TlsConnector> {
        self.0.tls.get_or_try_init(async || tokio::task::spawn_blocking(roots::usual).await?).await
    }
}

impl Url {
    fn is_https(&self) -> bool {
        self.tls_name.is_some()
    }
}

async fn exchange_on(
    mut connection: Connection,
    request: Request<Full<Bytes>>,
) -> hyper::Result<(Connection, Response<Incoming>)> {
    // After an answer, it takes a moment until the connection can be used again.
    connection.sender.ready().await?;
    let response = connection.sender.send_request(request).await?;
    Ok((connection, response))
}

async fn handshake(io: impl Read + Write + Send + Unpin + 'static) -> Result<Connection> {
    let (sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_LIMIT_BYTES).handshake(io).await.map_err(broken)?;
    let mut task = JoinSet::new();
    // The sender is told of errors.
    task.spawn(async { _ = connection.await });
    Ok(Connection { sender, _task: task })
}

fn broken(error: hyper::Error) -> Error {
    let is_not_http = error.is_parse();
    let error = Error::new(error);
    if is_not_http { error.context("it does not answer as a web server does") } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
    use tokio::net::TcpListener;

    const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(60), body_limit_bytes: 100 };

    /// A server that answers each connection's requests with these bytes. Returns its port, and counts connections.
    async fn serve(answer: &'static [u8]) -> (u16, Arc<Mutex<usize>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                *counter.lock().unwrap() += 1;
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        (port, connections)
    }

    fn url(port: u16) -> Url {
        Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap()
    }

    fn client(allowed: &[&str]) -> Client {
        Client::new(allowed.iter().map(|network| network.parse().unwrap()).collect())
    }

    #[tokio::test]
    async fn private_addresses_get_nothing_unless_they_are_allowed() {
        let (port, connections) = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1"] {
            for scheme in ["http", "https"] {
                let Ok(url) = Url::parse(&format!("{scheme}://{host}:{port}/")) else { continue };
                let failure = client(&["10.0.0.0/8"]).get_json(&url, BOUNDS).await.unwrap_err().to_string();
                assert!(failure.contains("is a private or special address"), "{failure}");
            }
        }
        assert_eq!(*connections.lock().unwrap(), 0);
        let answer = client(&["127.0.0.0/8"]).get_json(&url(port), BOUNDS).await.unwrap();
        assert_eq!((answer.status, answer.body.as_deref()), (StatusCode::OK, Some(&b"{}"[..])));
    }

    #[tokio::test]
    async fn public_addresses_need_tls() {
        let url = Url::parse("http://1.1.1.1/").unwrap();
        let failure = client(&[]).get_json(&url, BOUNDS).await.unwrap_err().to_string();
        assert!(failure.contains("sends nothing to 1.1.1.1 without TLS; use https"), "{failure}");
    }

    #[tokio::test]
    async fn redirects_are_answers_and_connections_are_used_again() {
        let (port, connections) =
            serve(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n").await;
        let client = client(&["127.0.0.0/8"]);
        for _ in 0..3 {
            assert_eq!(client.get_json(&url(port), BOUNDS).await.unwrap().status, StatusCode::FOUND);
        }
        assert_eq!(*connections.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn answers_are_bounded_in_bytes_and_time() {
        let client = client(&["127.0.0.0/8"]);
        let (port, _) = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n").await;
        let short = Bounds { timeout: Duration::from_secs(1), ..BOUNDS };
        let answer = client.get_json(&url(port), short).await.unwrap();
        assert_eq!((answer.status, answer.body), (StatusCode::OK, None), "the status is known, the body is missing");
        let (port, _) = serve(b"").await;
        let failure = client.get_json(&url(port), short).await.unwrap_err().to_string();
        assert_eq!(failure, "no answer within 1000 ms");
        let (port, _) = serve(b"220 mail.example.org ESMTP\r\n").await;
        let failure = client.get_json(&url(port), BOUNDS).await.unwrap_err().to_string();
        assert!(failure.starts_with("it does not answer as a web server does"), "{failure}");
        let (port, _) = serve(&[b'x'; 100]).await;
        assert!(client.get_json(&url(port), BOUNDS).await.is_err());
    }

    #[tokio::test]
    async fn a_connection_that_the_server_has_closed_is_replaced() {
        let (port, connections) = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        let client = client(&["127.0.0.0/8"]);
        for _ in 0..2 {
            assert_eq!(client.get_json(&url(port), BOUNDS).await.unwrap().status, StatusCode::OK);
        }
        assert_eq!(*connections.lock().unwrap(), 2);
    }

    /// A server behind TLS that reads nothing: no write comes to its end, nor does a shutdown.
    struct Stuck(#[expect(dead_code, reason = "it is counted")] Arc<()>);

    impl tokio::io::AsyncRead for Stuck {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl tokio::io::AsyncWrite for Stuck {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_request_that_was_given_up_leaves_no_connection() {
        let stuck = Arc::new(());
        let connection = handshake(TokioIo::new(Stuck(Arc::clone(&stuck)))).await.unwrap();
        let exchange = exchange_on(connection, Request::new(Full::new(Bytes::from_static(b"body"))));
        assert!(timeout(Duration::from_millis(20), exchange).await.is_err());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&stuck), 1);
    }
}
