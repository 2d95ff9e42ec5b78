//! Accepting connections, with a pause after a failure: without free descriptors the next attempt would fail too.

use super::input::reject;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use uproar_core::Now;
use uproar_tls::{Config, Session};

/// How long a listener pauses after accepting failed for lack of descriptors or memory.
const RETRY_MS: u64 = 100;

/// A listening socket from which an event loop accepts.
pub(super) struct Acceptor {
    /// In non-blocking mode.
    pub(super) socket: TcpListener,
    /// Whether a connection may be waiting.
    pub(super) is_ready: bool,
    /// When to try again after a failure.
    pub(super) retry_at: Option<u64>,
    /// Accepting has failed, and since then not all waiting connections have been accepted.
    is_failing: bool,
    /// Its connections speak TLS.
    tls: Option<Config>,
}

impl Acceptor {
    pub(super) fn new(socket: TcpListener, tls: Option<Config>) -> Acceptor {
        Acceptor { socket, is_ready: false, retry_at: None, is_failing: false, tls }
    }

    /// The TLS session of a new connection, if it needs one.
    pub(super) fn session(&self) -> io::Result<Option<Box<Session>>> {
        let session = self.tls.as_ref().map(Session::new).transpose().map_err(io::Error::other)?;
        Ok(session.map(Box::new))
    }

    /// Refuses a connection for which there is no place. One that speaks TLS is only closed: before the handshake, its
    /// client can't read an answer.
    pub(super) fn reject(&self, stream: TcpStream) {
        if self.tls.is_none() {
            reject(stream.into(), None);
        }
    }

    /// Whether to call [`Acceptor::accept`] now.
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.is_ready && self.retry_at.is_none_or(|at| at <= now.ms)
    }

    /// Accepts one connection if one is waiting. Its socket is in blocking mode.
    pub(super) fn accept(&mut self, now: Now) -> Option<(TcpStream, SocketAddr)> {
        self.retry_at = None;
        match self.socket.accept() {
            Ok((stream, peer)) => return Some((stream, canonical(peer))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_ready = false;
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("all waiting connections have been accepted");
                }
            }
            // The client went away while it waited.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EPROTO)) => {}
            // Usually lack of descriptors or memory.
            Err(error) => self.pause(&error, now),
        }
        None
    }

    /// Pauses the listener after a failure, and logs the first failure in a row.
    pub(super) fn pause(&mut self, error: &io::Error, now: Now) {
        self.retry_at = Some(now.ms + RETRY_MS);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(%error, "can't accept connections; they wait until it works again");
        }
    }
}

/// Turns an IPv4 address that came through an IPv6 socket into a plain one.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
