//! The TCP connection as hyper sees it.

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// What of a client's unread bytes is read at most when its connection is closed.
const LINGER_LIMIT_BYTES: usize = 256 * 1024;

/// A TCP stream of which some bytes were read before, and which does not let a client that reads nothing hold an answer
/// for ever.
pub(crate) struct Socket {
    stream: TokioIo<TcpStream>,
    prefix: Bytes,
    write_timeout: Duration,
    /// Runs while a write waits for the client to read.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, prefix: Bytes, write_timeout: Duration) -> Socket {
        Socket { stream: TokioIo::new(stream), prefix, write_timeout, stalled: None }
    }

    /// The stream, and what was read of it before but not yet asked for.
    pub(crate) fn into_parts(self) -> (TcpStream, Bytes) {
        (self.stream.into_inner(), self.prefix)
    }

    /// Closes so that the client gets the last answer: closing a socket with unread bytes resets it, and a reset throws
    /// away what the client has not read yet. So what still comes is read, within bounds.
    pub(crate) async fn linger(self, timeout: Duration) {
        let (mut stream, _) = self.into_parts();
        let read_to_end = async {
            let mut buffer = [0; 4096];
            let mut left = LINGER_LIMIT_BYTES;
            if stream.shutdown().await.is_err() {
                return;
            }
            while left > 0 {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => left = left.saturating_sub(count),
                }
            }
        };
        let _ = tokio::time::timeout(timeout, read_to_end).await;
    }

    /// Turns a write that has waited too long into an error.
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let deadline = Instant::now() + self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = buffer.remaining().min(self.prefix.len());
        buffer.put_slice(&self.prefix.split_to(count));
        if self.prefix.is_empty() {
            // An empty slice would keep the whole buffer alive.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
