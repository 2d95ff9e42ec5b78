//! A connection's transport, independent of the driver that moves its bytes: first a request head, then frames.

use super::HandOver;
use bytes::Bytes;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use tokio::sync::mpsc;
use uproar_core::Slot;
use uproar_core::limits::Limits;
use uproar_core::websocket::{Decoder, ParsedHead, Refusal, head};
use uproar_core::{Host, Now, Shard};
use uproar_tls::Session;

/// Bytes that are read from a connection that is being closed, so that the peer can read the reason.
const DISCARDED_LIMIT_BYTES: usize = 64 * 1024;

/// What a connection receives now: its request head, or frames.
#[derive(Debug)]
pub enum Input {
    Head(Box<ReadHead>),
    WebSocket(Decoder),
}

/// The part of a request head that has been received.
#[derive(Debug)]
pub struct ReadHead {
    peer: SocketAddr,
    bytes: Vec<u8>,
    /// How many of the bytes have been searched for the end of the head.
    seen: usize,
    /// The HTTP service has read this head, and found that it asks for a WebSocket.
    was_handed_back: bool,
}

/// What to do with the socket after its bytes were processed.
#[derive(Debug)]
pub enum Next {
    /// Keep it, and read it again when the core wants input.
    Stay,
    /// Give it to the HTTP service, with all bytes read so far.
    HandOver(SocketAddr, Bytes),
}

impl Input {
    pub fn new(peer: SocketAddr) -> Input {
        Input::Head(Box::new(ReadHead { peer, bytes: Vec::new(), seen: 0, was_handed_back: false }))
    }

    /// A connection that the HTTP service hands back. `bytes`: the head that asks for a WebSocket, and what follows it.
    pub fn handed_back(peer: SocketAddr, bytes: Vec<u8>) -> Input {
        Input::Head(Box::new(ReadHead { peer, bytes, seen: 0, was_handed_back: true }))
    }

    /// A connection that has been refused, and whose input does not matter any more.
    pub fn closed() -> Input {
        Input::WebSocket(Decoder::closed())
    }

    /// Decodes received bytes and passes the result to the core for as long as it wants input. The rest is kept; once
    /// the core wants input again, a call without bytes continues there. `bytes` is overwritten in the process.
    /// `has_place` is asked whether there is a place for a WebSocket of this client.
    #[expect(clippy::too_many_arguments, reason = "the parts of an event loop, which is borrowed elsewhere")]
    pub fn on_bytes(
        &mut self,
        bytes: &mut [u8],
        now: Now,
        slot: Slot,
        shard: &mut Shard,
        limits: &Limits,
        host: &mut impl Host,
        mut has_place: impl FnMut(IpAddr) -> bool,
    ) -> Next {
        match self {
            Input::WebSocket(decoder) => {
                decode(decoder, bytes, now, slot, shard, limits, host);
                Next::Stay
            }
            Input::Head(read) => {
                if !shard.wants_input(slot) {
                    read.bytes.extend_from_slice(bytes);
                    return Next::Stay;
                }
                // A head that arrives whole is parsed in place.
                let all: &[u8] = if read.bytes.is_empty() {
                    bytes
                } else {
                    read.bytes.extend_from_slice(bytes);
                    &read.bytes
                };
                // The HTTP service may have accepted a longer head.
                let limit = if read.was_handed_back { usize::MAX } else { limits.head_limit_bytes as usize };
                match head::parse(all, read.seen, limit, read.peer) {
                    ParsedHead::Incomplete | ParsedHead::Http if read.was_handed_back => {
                        debug_assert!(false, "the HTTP service hands back only what asks for a WebSocket");
                        let refusal = Refusal::new(400, "bad_upgrade", "the WebSocket upgrade is malformed");
                        *self = Input::closed();
                        shard.refused(now, slot, &refusal, host);
                        Next::Stay
                    }
                    ParsedHead::Incomplete => {
                        read.seen = all.len();
                        if read.bytes.is_empty() {
                            read.bytes.extend_from_slice(bytes);
                        }
                        Next::Stay
                    }
                    ParsedHead::Http => Next::HandOver(read.peer, Bytes::copy_from_slice(all)),
                    ParsedHead::Refused(refusal) => {
                        *self = Input::closed();
                        shard.refused(now, slot, &refusal, host);
                        Next::Stay
                    }
                    ParsedHead::Upgrade(..) if !has_place(read.peer.ip()) => {
                        *self = Input::closed();
                        shard.refused(now, slot, &overloaded(), host);
                        Next::Stay
                    }
                    ParsedHead::Upgrade(request, length) => {
                        let mut rest = all[length..].to_vec();
                        let mut decoder = Decoder::default();
                        shard.requested(now, slot, *request, host);
                        decode(&mut decoder, &mut rest, now, slot, shard, limits, host);
                        *self = Input::WebSocket(decoder);
                        Next::Stay
                    }
                }
            }
        }
    }

    /// The memory held for a head or message that has not arrived completely, in bytes.
    pub fn held_bytes(&self) -> usize {
        match self {
            Input::Head(read) => read.bytes.capacity(),
            Input::WebSocket(decoder) => decoder.held_bytes(),
        }
    }

    /// Whether [`Input::on_bytes`] without bytes would have something to pass to the core.
    pub fn has_undecoded(&self) -> bool {
        match self {
            Input::Head(read) => read.seen < read.bytes.len(),
            Input::WebSocket(decoder) => decoder.has_undecoded(),
        }
    }
}

fn decode(
    decoder: &mut Decoder,
    bytes: &mut [u8],
    now: Now,
    slot: Slot,
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

/// Gives a connection to the HTTP service, or answers it with 503 if the service's queue is full.
pub(super) fn hand_over(
    socket: OwnedFd,
    tls: Option<Box<Session>>,
    peer: SocketAddr,
    bytes: Bytes,
    http: &mpsc::Sender<HandOver>,
) {
    let stream = TcpStream::from(socket);
    if stream.set_nonblocking(true).is_err() {
        return;
    }
    if let Err(error) = http.try_send(HandOver { stream, tls, peer, bytes }) {
        let (mpsc::error::TrySendError::Full(left) | mpsc::error::TrySendError::Closed(left)) = error;
        reject(left.stream.into(), left.tls);
    }
}

fn overloaded() -> Refusal {
    Refusal::new(503, "overloaded", "the server is overloaded; try again")
}

/// Answers a connection for which there is no place with 503, and closes it. It never blocks, because the response fits
/// into the empty send buffer.
pub fn reject(socket: OwnedFd, tls: Option<Box<Session>>) {
    let response = overloaded().response();
    let response = match tls {
        None => response,
        Some(mut session) => {
            // An error means that the client has ended the session.
            let _ = session.seal(&response);
            session.close();
            session.take_outgoing().into()
        }
    };
    // Errors mean that the client has gone.
    let _ = send(&socket, &response, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    let _ = shutdown(&socket, Shutdown::Write);
    discard_unread(&socket);
}

/// Reads and discards received bytes before a socket is closed: if there were unread ones, the kernel would reset the
/// connection, and the peer might lose the last bytes sent to it.
pub fn discard_unread(socket: &OwnedFd) {
    let mut discarded = [0; 4096];
    for _ in 0..DISCARDED_LIMIT_BYTES / discarded.len() {
        if !matches!(recv(socket, &mut discarded, RecvFlags::DONTWAIT), Ok((_, 1..))) {
            break;
        }
    }
}
