//! A TCP connection, with or without TLS, as a stream of plaintext.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use uproar_tls::{RECORD_LIMIT_BYTES, Session};

/// Ciphertext that is read at a time.
const READ_BYTES: usize = 4096;

pub(crate) struct Stream {
    tcp: TcpStream,
    tls: Option<Tls>,
}

struct Tls {
    session: Box<Session>,
    /// What has been received and not read, from `read` on.
    plaintext: Vec<u8>,
    read: usize,
}

impl Stream {
    pub(crate) fn new(tcp: TcpStream, session: Option<Box<Session>>) -> Stream {
        Stream { tcp, tls: session.map(|session| Tls { session, plaintext: Vec::new(), read: 0 }) }
    }

    /// Sends small writes immediately.
    pub(crate) fn set_nodelay(&self) {
        // It fails only if the client has gone.
        let _ = self.tcp.set_nodelay(true);
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The connection without its session.
    pub(crate) fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    /// The connection, its session, and the plaintext that has been received and not read.
    pub(crate) fn into_parts(self) -> (TcpStream, Option<Box<Session>>, Vec<u8>) {
        match self.tls {
            None => (self.tcp, None, Vec::new()),
            Some(Tls { session, mut plaintext, read }) => {
                plaintext.drain(..read);
                (self.tcp, Some(session), plaintext)
            }
        }
    }
}

impl Tls {
    fn poll_read(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let unread = &self.plaintext[self.read..];
            if !unread.is_empty() {
                let count = unread.len().min(out.remaining());
                out.put_slice(&unread[..count]);
                self.read += count;
                if self.read == self.plaintext.len() {
                    // Idle connections hold no buffer.
                    (self.plaintext, self.read) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            if self.session.is_peer_closed() {
                return Poll::Ready(Ok(()));
            }
            let mut ciphertext = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut ciphertext);
            ready!(Pin::new(&mut *tcp).poll_read(cx, &mut buffer))?;
            let ciphertext = buffer.filled_mut();
            if ciphertext.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let received = self.session.receive(ciphertext, &mut self.plaintext);
            // Answers of the session itself. If they can't be written now, they go with the next write.
            let _ = self.poll_send(tcp, cx)?;
            received.map_err(io::Error::other)?;
        }
    }

    /// Writes all ciphertext.
    fn poll_send(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.session.outgoing().is_empty() {
            match ready!(Pin::new(&mut *tcp).poll_write(cx, self.session.outgoing()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.session.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes one record, once all before it are written.
    fn poll_write(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(tcp, cx))?;
        let count = bytes.len().min(RECORD_LIMIT_BYTES);
        self.session.seal(&bytes[..count]).map_err(io::Error::other)?;
        // Flushing writes the rest.
        let _ = self.poll_send(tcp, cx)?;
        Poll::Ready(Ok(count))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Stream { tcp, tls } = self.get_mut();
        match tls {
            None => Pin::new(tcp).poll_read(cx, out),
            Some(tls) => tls.poll_read(tcp, cx, out),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Stream { tcp, tls } = self.get_mut();
        match tls {
            None => Pin::new(tcp).poll_write(cx, bytes),
            Some(tls) => tls.poll_write(tcp, cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Stream { tcp, tls } = self.get_mut();
        match tls {
            None => Pin::new(tcp).poll_write_vectored(cx, slices),
            // Hyper gathers the slices itself, because this stream does not.
            Some(tls) => {
                tls.poll_write(tcp, cx, slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_none()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream { tcp, tls } = self.get_mut();
        if let Some(tls) = tls {
            ready!(tls.poll_send(tcp, cx))?;
        }
        Pin::new(tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream { tcp, tls } = self.get_mut();
        if let Some(tls) = tls {
            tls.session.close();
            ready!(tls.poll_send(tcp, cx))?;
        }
        Pin::new(tcp).poll_shutdown(cx)
    }
}
