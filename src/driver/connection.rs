//! What belongs to a connection's transport, whatever driver moves its bytes: a request head, then frames.

use super::HandOver;
use bytes::Bytes;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use tokio::sync::mpsc;
use uproar_core::limits::Limits;
use uproar_core::websocket::upgrade::refusal;
use uproar_core::websocket::{Decoder, Head, Request, head};
use uproar_core::{Host, Now, Shard};

/// Bytes that are read of a connection that ends, so that the other side can read why.
const DISCARDED_LIMIT_BYTES: usize = 64 * 1024;

/// The transport of one slot.
#[derive(Debug)]
pub enum Connection {
    Head(Box<ReadHead>),
    WebSocket(Decoder),
}

/// A request head as far as it has come.
#[derive(Debug)]
pub struct ReadHead {
    peer: SocketAddr,
    bytes: Vec<u8>,
    /// How many of them were looked at.
    seen: usize,
}

/// What is to be done with the socket after its bytes were taken.
#[derive(Debug)]
pub enum Next {
    /// Nothing: it is read again when the core wants input.
    Stay,
    /// The HTTP service gets it, with all that was read.
    HandOver(SocketAddr, Bytes),
    /// It is a bad request for a WebSocket: this is sent, and the connection closed. The core has not heard of it.
    Refuse(Bytes),
}

impl Connection {
    pub fn new(peer: SocketAddr) -> Connection {
        Connection::Head(Box::new(ReadHead { peer, bytes: Vec::new(), seen: 0 }))
    }

    /// Of a socket that the HTTP service answered with 101, and what the client had sent behind the head.
    pub fn adopted(rest: &[u8]) -> Connection {
        let mut decoder = Decoder::default();
        decoder.keep(rest);
        Connection::WebSocket(decoder)
    }

    /// Takes the bytes that were read, and gives the core what they make as long as it wants input. The rest is kept;
    /// once the core wants input again, `received` without bytes goes on with it. The contents of `bytes` are lost.
    pub fn received(
        &mut self,
        bytes: &mut [u8],
        now: Now,
        slot: u32,
        shard: &mut Shard,
        limits: &Limits,
        host: &mut impl Host,
    ) -> Next {
        match self {
            Connection::WebSocket(decoder) => {
                decode(decoder, bytes, now, slot, shard, limits, host);
                Next::Stay
            }
            Connection::Head(read) => {
                if !shard.wants_input(slot) {
                    read.bytes.extend_from_slice(bytes);
                    return Next::Stay;
                }
                // A head that comes at once is parsed where it is.
                let all: &[u8] = if read.bytes.is_empty() {
                    bytes
                } else {
                    read.bytes.extend_from_slice(bytes);
                    &read.bytes
                };
                match head::parse(all, read.seen, limits.head_limit_bytes as usize, read.peer) {
                    Head::Incomplete => {
                        read.seen = all.len();
                        if read.bytes.is_empty() {
                            read.bytes.extend_from_slice(bytes);
                        }
                        Next::Stay
                    }
                    Head::Http => Next::HandOver(read.peer, Bytes::copy_from_slice(all)),
                    Head::Refused(response) => Next::Refuse(response),
                    Head::Upgrade(request, length) => {
                        let mut rest = all[length..].to_vec();
                        let mut decoder = Decoder::default();
                        shard.requested(now, slot, *request, host);
                        decode(&mut decoder, &mut rest, now, slot, shard, limits, host);
                        *self = Connection::WebSocket(decoder);
                        Next::Stay
                    }
                }
            }
        }
    }

    /// Whether [`Connection::received`] without bytes would have something to give to the core.
    pub fn has_undecoded(&self) -> bool {
        match self {
            Connection::Head(read) => read.seen < read.bytes.len(),
            Connection::WebSocket(decoder) => decoder.has_undecoded(),
        }
    }
}

fn decode(
    decoder: &mut Decoder,
    bytes: &mut [u8],
    now: Now,
    slot: u32,
    shard: &mut Shard,
    limits: &Limits,
    host: &mut impl Host,
) {
    if !shard.wants_input(slot) {
        decoder.keep(bytes);
        return;
    }
    decoder.feed(bytes, limits.inbound_frame_limit_bytes as usize, |event| {
        shard.frame(now, slot, event, host);
        if shard.wants_input(slot) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
}

/// The request of a connection that the HTTP service has answered with 101. None: the head is none that asks for a
/// WebSocket, and nothing can be answered any more.
pub fn adopted_request(head: &[u8], peer: SocketAddr) -> Option<Request> {
    match head::parse(head, 0, head.len(), peer) {
        Head::Upgrade(request, _) => Some(Request { answered: true, ..*request }),
        _ => None,
    }
}

/// Gives a connection that asks for no WebSocket to the HTTP service. When that has too much to do, status 503 is sent.
pub(super) fn hand_over(socket: OwnedFd, peer: SocketAddr, bytes: Bytes, http: &mpsc::Sender<HandOver>) {
    let stream = TcpStream::from(socket);
    if stream.set_nonblocking(true).is_err() {
        return;
    }
    if let Err(error) = http.try_send(HandOver { stream, peer, bytes }) {
        let (mpsc::error::TrySendError::Full(left) | mpsc::error::TrySendError::Closed(left)) = error;
        let message = "The server has too much to do; try again.";
        refuse(left.stream.into(), &refusal(503, "overloaded", message, &[("Retry-After", "1")]));
    }
}

/// Sends a last, short response on a socket to which nothing was written before, and closes it. It never waits: what
/// is sent fits into the empty send buffer.
pub fn refuse(socket: OwnedFd, response: &[u8]) {
    // Whatever fails here, the client has gone.
    let _ = send(&socket, response, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    let _ = shutdown(&socket, Shutdown::Write);
    discard_unread(&socket);
}

/// To be called before a socket is closed: with unread bytes the kernel resets the connection, and the other side might
/// lose what it was told last.
pub fn discard_unread(socket: &OwnedFd) {
    let mut discarded = [0; 4096];
    for _ in 0..DISCARDED_LIMIT_BYTES / discarded.len() {
        if !matches!(recv(socket, &mut discarded, RecvFlags::DONTWAIT), Ok((_, 1..))) {
            break;
        }
    }
}
