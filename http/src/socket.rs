//! The TCP connection that hyper reads and writes.

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    head_timeout: Duration,
    progress: Progress,
    /// The deadline of a request's head that has arrived in part.
    head: Option<Pin<Box<Sleep>>>,
    /// How many requests there were before that head.
    requests: u64,
    /// The deadline of a write that is waiting for the client to read.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// How far hyper is, which owns the socket.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Flags>);

#[derive(Default)]
struct Flags {
    is_flushed: AtomicBool,
    is_busy: AtomicBool,
    /// Counts requests.
    requests: AtomicU64,
}

impl Progress {
    /// Whether everything that hyper had to write is written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.0.is_flushed.load(Ordering::Relaxed)
    }

    /// Says whether a request is being answered. Its body may be read then, and no head is awaited.
    pub(crate) fn set_busy(&self, is_busy: bool) {
        self.0.requests.fetch_add(u64::from(is_busy), Ordering::Relaxed);
        self.0.is_busy.store(is_busy, Ordering::Relaxed);
    }

    fn set_flushed(&self, is_flushed: bool) {
        self.0.is_flushed.store(is_flushed, Ordering::Relaxed);
    }

    fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.0.is_busy.load(Ordering::Relaxed)
    }
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, prefix: Bytes, write_timeout: Duration, head_timeout: Duration) -> Socket {
        Socket {
            stream: TokioIo::new(stream),
            prefix,
            write_timeout,
            head_timeout,
            progress: Progress::default(),
            head: None,
            requests: 0,
            stalled: None,
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
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
        self.progress.set_flushed(false);
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.time_out(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.progress.set_flushed(false);
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.time_out(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper calls this once its buffer is empty.
        self.progress.set_flushed(true);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
