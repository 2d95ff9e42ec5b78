//! One connection: where it is in its life, what waits to be written to it, and when to look at it again.

use super::connect::Connecting;
use super::figures::Meter;
use super::handshake::Handshake;
use super::outbound::{Outbound, Slice};
use super::session::{Client, Session};
use crate::protocol::centrifuge::Encoding;
use crate::websocket::frame;
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
    /// A WebSocket of the Centrifugo protocol, whose client has not said yet who it is.
    Connecting(Box<Connecting>),
    /// It is known who it is.
    Open(Box<Session>),
    /// It gets back what it sends.
    Echo,
    /// The last thing it is told waits to be written and, for a WebSocket, to be answered.
    /// `then_cut`: nothing is read any more; it is cut as soon as that is written. `owes_close`: that was no close frame;
    /// the other side's is still to be answered with one.
    Ending { until_ms: u64, then_cut: bool, owes_close: bool },
    /// Its socket is being taken down.
    Cut,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// Which of the slot's tenants this is.
    pub generation: u32,
    pub phase: Phase,
    pub outbound: Outbound,
    /// Replies and pushes of the Centrifugo protocol that become one frame: before anything else that this connection
    /// is sent, and at the end of the turn at the latest.
    pub replies: Vec<u8>,
    /// More was replied than it may have waiting: it is ended with the turn.
    pub overflows: bool,
    pub opened_ms: u64,
    /// When the next ping is due if nothing arrives; and when one was sent that nothing has answered yet.
    pub ping_ms: u64,
    pub pinged_ms: Option<u64>,
    /// When its queue last moved or was empty.
    pub progress_ms: u64,
    /// Its earliest reminder.
    pub armed_ms: u64,
    /// Its session may have what waits for place in its queue: subscriptions that are behind, commands. Else a write has
    /// nothing to do with the session.
    pub awaits_place: bool,
    /// Its reading was stopped until its queue or its publishes have drained.
    pub is_paused: bool,
}

impl Connection {
    pub fn vacant() -> Connection {
        Connection {
            generation: 0,
            phase: Phase::Vacant,
            outbound: Outbound::default(),
            replies: Vec::new(),
            overflows: false,
            opened_ms: 0,
            ping_ms: 0,
            pinged_ms: None,
            progress_ms: 0,
            armed_ms: u64::MAX,
            awaits_place: false,
            is_paused: false,
        }
    }

    /// Appends to its queue; from an empty queue on, the time without progress counts anew.
    pub fn enqueue(&mut self, now_ms: u64, chunk: Slice) {
        if !self.replies.is_empty() {
            self.enqueue_replies(now_ms, chunk.meter());
        }
        if self.outbound.is_empty() {
            self.progress_ms = now_ms;
        }
        self.outbound.push(chunk);
    }

    /// Makes one frame of the replies, and appends that.
    pub fn enqueue_replies(&mut self, now_ms: u64, meter: &Rc<Meter>) {
        let replies = std::mem::take(&mut self.replies);
        let mut out = Vec::with_capacity(replies.len() + 10);
        match self.encoding() {
            Some(Encoding::Protobuf) => frame::push_binary(&mut out, &replies),
            _ => frame::push_text(&mut out, &replies),
        }
        self.enqueue(now_ms, Slice::own(meter, out.into()));
    }

    /// One of its subscriptions is behind: its turn comes when the queue has place.
    pub fn fall_behind(&mut self, key: u32) {
        if let Some(session) = self.session_mut() {
            session.behind.push_back(key);
            self.awaits_place = true;
        }
    }

    /// As `enqueue`, for the answer to the upgrade and what goes out with it.
    pub fn enqueue_response(&mut self, now_ms: u64, response: Slice) {
        self.progress_ms = now_ms;
        self.outbound.push_response(response);
    }

    /// As `enqueue`, for the one frame that passes what waits.
    pub fn pong(&mut self, now_ms: u64, frame: Slice) {
        if self.outbound.is_empty() {
            self.progress_ms = now_ms;
        }
        self.outbound.pong(frame);
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

    /// Of one that speaks the Centrifugo protocol.
    pub fn encoding(&self) -> Option<Encoding> {
        match &self.phase {
            Phase::Connecting(connecting) => Some(connecting.encoding),
            Phase::Open(session) => session.client().map(|client| client.encoding),
            _ => None,
        }
    }

    /// What an open session of the Centrifugo protocol has of its own.
    pub fn client_mut(&mut self) -> Option<&mut Client> {
        self.session_mut().and_then(Session::client_mut)
    }

    pub fn handshake_mut(&mut self) -> Option<&mut Handshake> {
        match &mut self.phase {
            Phase::Handshake(handshake) => Some(handshake),
            _ => None,
        }
    }
}
