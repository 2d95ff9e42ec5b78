//! The connection that hyper reads and writes.

use crate::errors::Code;
use crate::slots::Slot;
use crate::stream::Stream;
use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep};
use uproar_core::websocket::Refusal;

/// The most bytes that are read from a client while its connection is being closed. A proxy writes a whole body, which
/// nginx limits to 1 MiB by default, before it passes on the answer.
const LINGER_LIMIT_BYTES: usize = 2 * 1024 * 1024;

/// A stream that starts with bytes read earlier, and whose writes fail if the client stops reading.
pub(crate) struct Socket {
    stream: TokioIo<Stream>,
    prefix: Bytes,
    write_timeout: Duration,
    head_timeout: Duration,
    progress: Progress,
    /// The deadline of a request's head that has arrived in part.
    head: Option<Pin<Box<Sleep>>>,
    /// How many requests there were before that head.
    requests: u64,
    /// The deadline of a write that is waiting for the client to read.
    stalled: Option<Pin<Box<Sleep>>>,
    /// What is left of the answer that is sent instead of one of hyper's own.
    refusal: Option<Bytes>,
}

/// How far hyper is, which owns the socket.
#[derive(Clone)]
pub(crate) struct Progress(Arc<State>);

struct State {
    slot: Slot,
    is_flushed: AtomicBool,
    /// Whether a request is being answered. Its body may be read then, and no head is awaited.
    is_busy: AtomicBool,
    /// Whether there is a request whose response is not written yet.
    owes_response: AtomicBool,
    /// Counts requests.
    requests: AtomicU64,
}

impl Progress {
    /// `is_idle`: no byte of a request has arrived.
    pub(crate) fn new(slot: Slot, is_idle: bool) -> Progress {
        slot.set_idle(is_idle);
        Progress(Arc::new(State {
            slot,
            is_flushed: AtomicBool::default(),
            is_busy: AtomicBool::default(),
            owes_response: AtomicBool::default(),
            requests: AtomicU64::default(),
        }))
    }

    /// The connection's place.
    pub(crate) fn slot(&self) -> &Slot {
        &self.0.slot
    }

    /// Whether everything that hyper had to write is written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.0.is_flushed.load(Ordering::Relaxed)
    }

    /// A request has arrived.
    pub(crate) fn begin_response(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        self.0.is_busy.store(true, Ordering::Relaxed);
        self.0.owes_response.store(true, Ordering::Relaxed);
        self.0.slot.set_idle(false);
    }

    /// The response is ready, and hyper writes it.
    pub(crate) fn end_response(&self) {
        self.0.is_busy.store(false, Ordering::Relaxed);
    }

    fn begin_write(&self) {
        self.0.is_flushed.store(false, Ordering::Relaxed);
    }

    fn end_write(&self) {
        self.0.is_flushed.store(true, Ordering::Relaxed);
        // While its client still reads a response, a connection is not idle.
        if !self.is_busy() && self.0.owes_response.swap(false, Ordering::Relaxed) {
            self.0.slot.set_idle(true);
        }
    }

    fn owes_response(&self) -> bool {
        self.0.owes_response.load(Ordering::Relaxed)
    }

    fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.0.is_busy.load(Ordering::Relaxed)
    }
}

impl Socket {
    pub(crate) fn new(
        stream: Stream,
        prefix: Bytes,
        write_timeout: Duration,
        head_timeout: Duration,
        progress: Progress,
    ) -> Socket {
        Socket {
            stream: TokioIo::new(stream),
            prefix,
            write_timeout,
            head_timeout,
            progress,
            head: None,
            requests: 0,
            stalled: None,
            refusal: None,
        }
    }

    /// Fails a read that waits too long for the rest of a head. A connection that is idle, or whose request is being
    /// answered, waits for none.
    fn time_head_out(&mut self, cx: &mut Context<'_>, read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        let requests = self.progress.requests();
        if std::mem::replace(&mut self.requests, requests) != requests {
            self.head = None;
        }
        if self.progress.is_busy() {
            return read;
        }
        if read.is_ready() {
            let deadline = Instant::now() + self.head_timeout;
            self.head.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            return read;
        }
        let Some(head) = &mut self.head else { return Poll::Pending };
        ready!(head.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head of a request did not arrive in time")))
    }

    /// The stream, and the bytes read earlier that hyper has not consumed.
    pub(crate) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream.into_inner(), self.prefix)
    }

    /// Closes the connection so that the client receives the last response. Closing a socket with unread bytes resets
    /// the connection, and a reset discards what the client has not read yet. So incoming bytes are read, within
    /// bounds.
    pub(crate) async fn linger(self, timeout: Duration) {
        let (mut stream, _) = self.into_parts();
        let read_to_end = async {
            let mut buffer = [0; 4096];
            let mut left = LINGER_LIMIT_BYTES;
            if stream.shutdown().await.is_err() {
                return;
            }
            // Their contents do not matter, so they are not decrypted.
            let mut stream = stream.into_tcp();
            while left > 0 {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => left = left.saturating_sub(count),
                }
            }
        };
        let _ = tokio::time::timeout(timeout, read_to_end).await;
    }

    /// Whether hyper is answering a request by itself, one that it can't parse. Its answers have no body and none of
    /// the headers that protect other answers, so a refusal is sent instead.
    fn is_refusing(&mut self, bytes: &[u8]) -> bool {
        if self.refusal.is_none() && !self.progress.owes_response() {
            self.refusal = refusal_instead_of(bytes);
        }
        self.refusal.is_some()
    }

    /// Writes the refusal instead of hyper's answer, which has this length.
    fn write_refusal(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        let Socket { stream, refusal, .. } = self;
        while let Some(rest) = refusal.as_mut().filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => rest.advance(count),
            }
        }
        Poll::Ready(Ok(length))
    }

    /// Fails a write that has been waiting too long.
    fn time_out<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let deadline = Instant::now() + self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client is not reading")))
    }
}

/// The refusal for a request that hyper answers with this head.
fn refusal_instead_of(head: &[u8]) -> Option<Bytes> {
    let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (code, message) = match status.first_chunk()? {
        b"400" => (Code::BadRequest, "the head of the request is not valid HTTP"),
        // Hyper distinguishes a long target from long headers; here they have one limit.
        b"414" | b"431" => (Code::HeadTooLarge, "the head of the request is too long or has more than 100 headers"),
        _ => return None,
    };
    Some(Refusal::new(code.status().as_u16(), code.as_str(), message).response())
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
            return self.time_head_out(cx, read);
        }
        let count = buffer.remaining().min(self.prefix.len());
        buffer.put_slice(&self.prefix.split_to(count));
        if self.prefix.is_empty() {
            // Even an empty slice would keep the buffer alive.
            self.prefix = Bytes::new();
        }
        self.time_head_out(cx, Poll::Ready(Ok(())))
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.progress.begin_write();
        let written = match self.is_refusing(bytes) {
            true => self.write_refusal(cx, bytes.len()),
            false => Pin::new(&mut self.stream).poll_write(cx, bytes),
        };
        self.time_out(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.progress.begin_write();
        let written = match self.is_refusing(slices.first().map_or(&[], |slice| slice)) {
            true => self.write_refusal(cx, slices.iter().map(|slice| slice.len()).sum()),
            false => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
        };
        self.time_out(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper calls this once its buffer is empty.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.progress.end_write();
        }
        self.time_out(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // On TLS, it first writes that nothing more follows.
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.time_out(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slots;
    use rcgen::{CertificateParams, KeyPair};
    use std::future::poll_fn;
    use std::io::Write as _;
    use std::net::Ipv4Addr;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{sleep, timeout};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
    use uproar_tls::{Certificate, Config, Pair, Session};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server's configuration, and a client that trusts it.
    fn tls() -> (Config, TlsConnector) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let pair = Pair::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let config = Config::new(Arc::new(Certificate::new(Some(pair)))).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (config, TlsConnector::from(Arc::new(client)))
    }

    /// Regression: on TLS, ending a connection writes something too, and waited forever for a client that reads
    /// nothing.
    #[tokio::test]
    async fn the_end_of_a_connection_over_tls_has_a_deadline() {
        let (config, connector) = tls();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            let mut client = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
            client.write_all(b"x").await.unwrap();
            client
        };
        let server = async {
            let tcp = listener.accept().await.unwrap().0.into_std().unwrap();
            let same = tcp.try_clone().unwrap();
            let session = Box::new(Session::new(&config).unwrap());
            let mut stream = Stream::new(TcpStream::from_std(tcp).unwrap(), Some(session));
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
            (stream, same)
        };
        let (_client, (stream, mut same)) = timeout(PATIENCE, async { tokio::join!(client, server) }).await.unwrap();
        // Fills the kernel's buffers. What has been written last may still make room in this one.
        let mut refusals = 0;
        while refusals < 10 {
            match same.write(&[0; 65_536]).map(|written| written > 0) {
                Ok(_) => refusals = 0,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    refusals += 1;
                    sleep(Duration::from_millis(5)).await;
                }
            }
        }
        let slot = Slots::new(1).enter(Ipv4Addr::LOCALHOST.into(), b"", &[]).unwrap();
        let limit = Duration::from_millis(50);
        let mut socket = Socket::new(stream, Bytes::new(), limit, PATIENCE, Progress::new(slot, true));
        let end = timeout(PATIENCE, poll_fn(|cx| Pin::new(&mut socket).poll_shutdown(cx))).await;
        assert_eq!(end.expect("it has a deadline").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
