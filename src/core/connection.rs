//! One connection: where it is in its life, what waits to be written to it, and when to look at it again.

use super::handshake::Handshake;
use super::outbound::{Charge, Outbound};
use super::session::Session;
use bytes::Bytes;
use std::rc::Rc;

/// Where a connection is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// Nobody has the slot.
    Vacant,
    /// Its request head is awaited.
    Head,
    /// It asked for a WebSocket; the store or the room's home is being asked.
    Handshake(Box<Handshake>),
    /// It is in a channel.
    Open(Box<Session>),
    /// It gets back what it sends.
    Echo,
    /// The last thing it is told waits to be written and, for a WebSocket, to be answered.
    /// `then_cut`: nothing is read any more; it is cut as soon as that is written.
    Ending { until_ms: u64, then_cut: bool },
    /// Its socket is being taken down.
    Cut,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// Which of the slot's tenants this is.
    pub generation: u32,
    pub phase: Phase,
    pub outbound: Outbound,
    pub opened_ms: u64,
    /// When the next ping is due if nothing arrives; and when one was sent that nothing has answered yet.
    pub ping_ms: u64,
    pub pinged_ms: Option<u64>,
    /// When its queue last moved or was empty.
    pub progress_ms: u64,
    /// Its earliest reminder.
    pub armed_ms: u64,
    /// Its reading was stopped until its queue or its publishes have drained.
    pub is_paused: bool,
}

impl Connection {
    pub fn vacant() -> Connection {
        Connection {
            generation: 0,
            phase: Phase::Vacant,
            outbound: Outbound::default(),
            opened_ms: 0,
            ping_ms: 0,
            pinged_ms: None,
            progress_ms: 0,
            armed_ms: u64::MAX,
            is_paused: false,
        }
    }

    /// Appends to its queue; from an empty queue on, the time without progress counts anew.
    pub fn enqueue(&mut self, now_ms: u64, bytes: Bytes, charge: Rc<Charge>) {
        if self.outbound.is_empty() {
            self.progress_ms = now_ms;
        }
        self.outbound.push(bytes, charge);
    }

    /// As `enqueue`, for the answer to the upgrade and what goes out with it.
    pub fn enqueue_response(&mut self, now_ms: u64, bytes: Bytes, charge: Rc<Charge>) {
        self.progress_ms = now_ms;
        self.outbound.push_response(bytes, charge);
    }

    /// As `enqueue`, for the one frame that passes what waits.
    pub fn pong(&mut self, now_ms: u64, frame: Bytes, charge: Rc<Charge>) {
        if self.outbound.is_empty() {
            self.progress_ms = now_ms;
        }
        self.outbound.pong(frame, charge);
    }

    pub fn session(&self) -> Option<&Session> {
        match &self.phase {
            Phase::Open(session) => Some(session),
            _ => None,
        }
    }

    pub fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.phase {
            Phase::Open(session) => Some(session),
            _ => None,
        }
    }

    pub fn handshake_mut(&mut self) -> Option<&mut Handshake> {
        match &mut self.phase {
            Phase::Handshake(handshake) => Some(handshake),
            _ => None,
        }
    }
}
