//! The TCP connection that hyper reads and writes.

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// The most bytes that are read from a client while its connection is being closed.
const LINGER_LIMIT_BYTES: usize = 256 * 1024;

/// A TCP stream that starts with bytes read earlier, and whose writes fail if the client stops reading.
pub(crate) struct Socket {
    stream: TokioIo<TcpStream>,
    prefix: Bytes,
    write_timeout: Duration,
    /// Whether hyper has written everything that it had to write.
    flushed: Flushed,
    /// The deadline of a write that is waiting for the client to read.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// Whether hyper, which owns the socket, has written everything that it had to write.
#[derive(Clone, Default)]
pub(crate) struct Flushed(Arc<AtomicBool>);

impl Flushed {
    pub(crate) fn is_true(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, value: bool) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, prefix: Bytes, write_timeout: Duration) -> Socket {
        Socket { stream: TokioIo::new(stream), prefix, write_timeout, flushed: Flushed::default(), stalled: None }
    }

    pub(crate) fn flushed(&self) -> Flushed {
        self.flushed.clone()
    }

    /// The stream, and the bytes read earlier that hyper has not consumed.
    pub(crate) fn into_parts(self) -> (TcpStream, Bytes) {
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
            while left > 0 {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => left = left.saturating_sub(count),
                }
            }
        };
        let _ = tokio::time::timeout(timeout, read_to_end).await;
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
            // Even an empty slice would keep the buffer alive.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.flushed.set(false);
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.time_out(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.flushed.set(false);
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.time_out(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper calls this once its buffer is empty.
        self.flushed.set(true);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
