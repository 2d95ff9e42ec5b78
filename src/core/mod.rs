//! The sans-I/O state machine of a shard.

pub mod host;
pub mod mesh;

pub use host::{Host, Now};
pub use mesh::{Endpoint, Message};

use crate::websocket::{Event, Request};
use bytes::Bytes;
use std::net::SocketAddr;

/// One shard: its connections, their sessions, and the rooms that hash to it.
///
/// A connection is named by its *slot*, from `opened` until `vacated` (or `handed_over`); the driver keeps what belongs
/// to the transport in a table of its own, by the same slot.
pub struct Shard {}

impl Shard {
    /// A connection was accepted. Returns its slot. Its request head is read next (by the driver's transport).
    pub fn opened(&mut self, now: Now, peer: SocketAddr, host: &mut impl Host) -> u32 {
        todo!()
    }

    /// Its request head is complete and asks for a WebSocket. The core answers (101 or a refusal) through `outgoing`,
    /// now or later. Until the session is let in `wants_input` is false.
    pub fn requested(&mut self, now: Now, slot: u32, request: Request, host: &mut impl Host) {
        todo!()
    }

    /// Its socket went elsewhere (to the HTTP service) before a WebSocket was asked for: the slot is free at once.
    pub fn handed_over(&mut self, slot: u32) {
        todo!()
    }

    /// Something whole arrived: a message, a control frame, or the violation that ends it.
    /// Call only while `wants_input`.
    pub fn frame(&mut self, now: Now, slot: u32, event: Event<'_>, host: &mut impl Host) {
        todo!()
    }

    /// Whether the driver should read from this connection and decode what it has read. When it changes to true,
    /// `Host::wake` is called. True while the request head is awaited.
    pub fn wants_input(&self, slot: u32) -> bool {
        todo!()
    }

    /// The next slices to write, in order, appended to `slices`; nothing when there is nothing. The driver holds one
    /// send in flight and calls this only when there is none; what a short send left is returned again.
    pub fn outgoing(&mut self, slot: u32, slices: &mut Vec<Bytes>) {
        todo!()
    }

    /// So many bytes of what `outgoing` gave have been written.
    pub fn sent(&mut self, now: Now, slot: u32, bytes: usize, host: &mut impl Host) {
        todo!()
    }

    /// The other side closed its half, or the socket failed. The core calls `Host::cut` if it has not yet.
    pub fn hung_up(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        todo!()
    }

    /// After `Host::cut`: the last operation has come back and the socket is closed. The slot is free.
    pub fn vacated(&mut self, slot: u32) {
        todo!()
    }

    /// A message from the mesh.
    pub fn mesh(&mut self, now: Now, from: Endpoint, message: Message, host: &mut impl Host) {
        todo!()
    }

    /// The end of a loop turn, after all events of it: shows what rooms have learned, fans out, looks at timers.
    /// True: there is more to do, come back without waiting.
    pub fn turn(&mut self, now: Now, host: &mut impl Host) -> bool {
        todo!()
    }

    /// When `turn` must be called at the latest, in `Now::ms`.
    pub fn deadline(&self) -> Option<u64> {
        todo!()
    }

    /// The server stops: no connection is taken any more, what is under way is finished, then all are told and ended.
    pub fn drain(&mut self, now: Now, host: &mut impl Host) {
        todo!()
    }

    /// After `drain`: whether the last connection has gone.
    pub fn drained(&self) -> bool {
        todo!()
    }
}
