//! One connection: its phase, the bytes waiting for it, and when it is looked at again.
//!
//! The words for the end of a connection:
//!
//! | word | meaning |
//! | --- | --- |
//! | close | the server sends a close frame, after what is being sent, and waits briefly for the client's |
//! | fail | the server sends a close frame because the client violated RFC 6455, and waits for nothing more |
//! | reject | a request is answered with an HTTP error response; nothing follows it |
//! | half-close | the sending half of the socket is shut down, and what the client still sends is discarded |
//! | abort | the socket is shut down immediately; nothing more is written |
//! | peer closed | the client closed its side, or the socket failed |
//! | freed | the driver has closed the socket: the slot can be used again |

use super::handshake::{Connecting, Handshake};
use super::outbound::Outbound;
use super::session::{Client, Session};
use crate::buffer::Slice;
use crate::ids::SubscriptionKey;
use crate::metrics::Meter;
use crate::protocol::centrifuge::Encoding;
use crate::websocket::frame;
use std::rc::Rc;

/// Where a connection is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The slot is free.
    Vacant,
    /// The request head has not arrived yet.
    Head,
    /// A plain connection asked for a WebSocket, and the store or the channel's home is being asked about it.
    Handshake(Box<Handshake>),
    /// A WebSocket of the Centrifugo protocol whose client has not sent `connect` yet, or waits for its answer.
    Connecting(Box<Connecting>),
    /// The client's user is known.
    Open(Box<Session>),
    /// The connection gets back everything that it sends.
    Echo,
    /// The last frame or response waits to be written and, if it is a close frame, to be answered.
    Closing {
        until_ms: u64,
        /// What follows once everything is written.
        then: Then,
    },
    /// The socket is being shut down.
    Aborted,
}

/// What follows the last bytes that a connection is sent. Until then, and at most for `close_timeout_ms`, it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The client's close frame is awaited.
    AwaitClose,
    /// The client's close frame is awaited and answered, because the last frame was not a close frame.
    AnswerClose,
    /// The sending half is shut down, so that the client sees the end; the connection is closed when it has closed its
    /// half. Closing earlier could reset the connection and take the last bytes from the client.
    HalfClose,
    /// The connection is aborted: the client has closed its half, or its close frame has arrived. Nothing is read.
    Abort,
}

#[derive(Debug)]
pub(crate) struct Connection {
    /// Distinguishes the connections that have used the slot.
    pub generation: u32,
    pub phase: Phase,
    pub outbound: Outbound,
    /// Replies and pushes of the Centrifugo protocol that become one frame at the end of the turn, or before the next
    /// thing that this connection is sent.
    pub replies: Vec<u8>,
    /// There was no room for a reply: the connection is closed at the end of the turn.
    pub overflows: bool,
    pub opened_ms: u64,
    /// When the next ping is due, and when one was sent that has not been answered.
    pub ping_ms: u64,
    pub pinged_ms: Option<u64>,
    /// When the queue was last written from, or was empty.
    pub progress_ms: u64,
    /// The memory that the driver holds for a message that has not arrived completely, and since when it waits for the
    /// rest.
    pub unfinished_bytes: u32,
    pub unfinished_ms: u64,
    /// The time of the earliest timer.
    pub armed_ms: u64,
    /// The session may have work that waits for room in the queue: subscriptions that are behind, or deferred commands.
    /// When this is false a completed write need not look at the session.
    pub awaits_space: bool,
    /// The connection is not read until its queue or its publishes have drained.
    pub is_paused: bool,
    /// It is sent nothing more than a refusal or a close frame. That needs no lease.
    pub is_parting: bool,
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
            unfinished_bytes: 0,
            unfinished_ms: 0,
            armed_ms: u64::MAX,
            awaits_space: false,
            is_paused: false,
            is_parting: false,
        }
    }

    /// For this long the connection was neither read nor written, for reasons of our own: the client gets that time
    /// back wherever it is the one that must act.
    pub fn extend_deadlines(&mut self, pause_ms: u64) {
        self.opened_ms += pause_ms;
        self.progress_ms += pause_ms;
        self.unfinished_ms += pause_ms;
        self.pinged_ms = self.pinged_ms.map(|pinged_ms| pinged_ms + pause_ms);
        if let Phase::Closing { until_ms, .. } = &mut self.phase {
            *until_ms += pause_ms;
        }
        if let Some((since_ms, _)) = self.session_mut().and_then(|session| session.unanswered.as_mut()) {
            *since_ms += pause_ms;
        }
    }

    /// Appends to the queue. The time without progress starts over when the queue was empty.
    pub fn enqueue(&mut self, now_ms: u64, chunk: Slice) {
        if !self.replies.is_empty() {
            self.enqueue_replies(now_ms, chunk.meter());
        }
        if self.outbound.is_empty() {
            self.progress_ms = now_ms;
        }
        self.outbound.push(chunk);
    }

    /// Makes one frame of the replies and appends it.
    pub fn enqueue_replies(&mut self, now_ms: u64, meter: &Rc<Meter>) {
        let replies = std::mem::take(&mut self.replies);
        let mut out = Vec::with_capacity(replies.len() + 10);
        match self.encoding() {
            Some(Encoding::Protobuf) => frame::push_binary(&mut out, &replies),
            _ => frame::push_text(&mut out, &replies),
        }
        self.enqueue(now_ms, Slice::own(meter, out.into()));
    }

    /// Appends the answer to the upgrade and the frames that go out with it.
    pub fn enqueue_response(&mut self, now_ms: u64, response: Slice) {
        self.progress_ms = now_ms;
        self.outbound.push_response(response);
    }

    /// Queues a pong, which overtakes waiting frames. `limit`: the most bytes of pongs that may wait.
    pub fn enqueue_pong(&mut self, now_ms: u64, payload: &[u8], limit: usize) {
        if self.outbound.is_empty() {
            self.progress_ms = now_ms;
        }
        self.outbound.pong(payload, limit);
    }

    /// A subscription has fallen behind. It is served when the queue has room.
    pub fn fall_behind(&mut self, key: SubscriptionKey) {
        if let Some(session) = self.session_mut() {
            session.behind.push_back(key);
            self.awaits_space = true;
        }
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

    /// The encoding of a connection that speaks the Centrifugo protocol.
    pub fn encoding(&self) -> Option<Encoding> {
        match &self.phase {
            Phase::Connecting(connecting) => Some(connecting.encoding),
            Phase::Open(session) => session.client().map(|client| client.encoding),
            _ => None,
        }
    }

    /// What an open connection of the Centrifugo protocol has in addition.
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
