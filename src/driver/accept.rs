//! Accepting, with a rest after a failure: without descriptors the next attempt would fail at once.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use uproar_core::Now;

/// How long a listener rests after accepting failed for want of something: descriptors, memory.
const RETRY_MS: u64 = 100;

/// A listening socket from which a loop accepts.
pub(super) struct Acceptor {
    /// Non-blocking.
    pub(super) socket: TcpListener,
    /// Someone waits, as far as is known.
    pub(super) is_ready: bool,
    /// When to try again after a failure.
    pub(super) retry_at: Option<u64>,
    /// Since a failure not all who waited have been accepted.
    is_failing: bool,
}

impl Acceptor {
    pub(super) fn new(socket: TcpListener) -> Acceptor {
        Acceptor { socket, is_ready: false, retry_at: None, is_failing: false }
    }

    /// Whether to call [`Acceptor::accept`] now.
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.is_ready && self.retry_at.is_none_or(|at| at <= now.ms)
    }

    /// Accepts one connection, blocking, if one is there.
    pub(super) fn accept(&mut self, now: Now) -> Option<(TcpStream, SocketAddr)> {
        self.retry_at = None;
        match self.socket.accept() {
            Ok((stream, peer)) => return Some((stream, canonical(peer))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_ready = false;
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("all connections that waited have been accepted");
                }
            }
            // Concerns one that went away while it waited.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EPROTO)) => {}
            // Of descriptors or memory, mostly.
            Err(error) => self.failed(&error, now),
        }
        None
    }

    /// Rests, and says why if it has not yet.
    pub(super) fn failed(&mut self, error: &io::Error, now: Now) {
        self.retry_at = Some(now.ms + RETRY_MS);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(%error, "connections cannot be accepted; they wait, and are tried again");
        }
    }
}

/// IPv4 addresses as such, also when they come through an IPv6 socket.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
