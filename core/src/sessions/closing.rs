//! The ways in which a connection, or one of its subscriptions, ends: closed by the server, rejected, removed from a
//! room, lost, revoked. `connections/connection.rs` explains the words.

use super::joining::Denied;
use crate::buffer::Slice;
use crate::connections::{Phase, Shortage, SubscriptionState, Then};
use crate::feeds::ToClose;
use crate::host::{Host, Refused};
use crate::ids::{FeedId, Serial, Slot, SubscriptionKey};
use crate::message::{Channel, Joiner};
use crate::metrics;
use crate::mutation::{self, Mutation};
use crate::protocol::centrifuge::{self, Push};
use crate::protocol::{CloseReason, UNSUBSCRIBED};
use crate::shard::Shard;
use crate::websocket::{Refusal, frame};
use bytes::Bytes;
use std::sync::Arc;
use uproar_model::{Offset, Revocation, UserId};

/// While the server stops, how long a connection stays open after its last publish was answered: the publication itself
/// may still be on its way from another shard.
const LEAVING_MS: u64 = 20;

/// How long after closing connections for lack of memory others may be closed for it: the driver needs a turn or two to
/// let go of what they held. To find out whether one user holds too much, it takes longer, because that is less urgent.
const RELIEF_INTERVAL_MS: u64 = 2;
const USER_RELIEF_INTERVAL_MS: u64 = 200;

/// A connection that is closed for lack of memory may keep this much until it has been told why.
const KEPT_LIMIT_BYTES: u64 = 16 * 1024;

impl Shard {
    // ── closing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Closes an open connection with a close frame. Whatever else waits for it is dropped.
    pub(crate) fn close(&mut self, slot: Slot, why: CloseReason, host: &mut impl Host) {
        if let Some(close) = self.close_frame(slot, why, host) {
            self.close_with(slot, close, Then::AwaitClose, self.cx.limits().close_timeout_ms, host);
        }
    }

    /// The same, with a code and a reason that a backend has chosen.
    pub(super) fn close_as(&mut self, slot: Slot, code: u16, reason: &str, host: &mut impl Host) {
        if let Some(close) = self.frame_of(slot, code, reason, host) {
            self.close_with(slot, close, Then::AwaitClose, self.cx.limits().close_timeout_ms, host);
        }
    }

    /// Closes a connection whose client violated RFC 6455. Nothing that it sends is worth waiting for, and its close
    /// frame is not either (7.1.7). What it did before that is still answered.
    pub(crate) fn fail(&mut self, slot: Slot, why: CloseReason, host: &mut impl Host) {
        if let Some(close) = self.close_frame(slot, why, host) {
            self.end_with(slot, close, Then::HalfClose, host);
        }
    }

    /// Ends the session and sends one last frame, after everything that waits.
    pub(crate) fn end_with(&mut self, slot: Slot, last: Bytes, then: Then, host: &mut impl Host) {
        let last = Slice::own(&self.cx.meter, last);
        self.connections[slot].enqueue(self.cx.now.ms, last);
        self.leave_channels(slot);
        self.finish(slot, then, self.cx.limits().close_timeout_ms, host);
    }

    /// The close frame for an open connection, which is counted as closed. Another one is aborted.
    fn close_frame(&mut self, slot: Slot, why: CloseReason, host: &mut impl Host) -> Option<Bytes> {
        let is_sdk = self.connections[slot].encoding().is_some();
        let why = if is_sdk && why == CloseReason::GOING_AWAY { CloseReason::SHUTDOWN } else { why };
        self.frame_of(slot, why.code, why.reason, host)
    }

    fn frame_of(&mut self, slot: Slot, code: u16, reason: &str, host: &mut impl Host) -> Option<Bytes> {
        match self.connections[slot].phase {
            Phase::Open(_) | Phase::Echo | Phase::Connecting(_) => {
                if metrics::count(&mut self.cx.meter.metrics.borrow_mut().closed, code) {
                    host.log_first(Refused::Connection, code);
                }
                return Some(frame::close_frame(code, reason));
            }
            Phase::Head | Phase::Handshake(_) => self.abort(slot, host),
            Phase::Vacant | Phase::Closing { .. } | Phase::Aborted => {}
        }
        None
    }

    pub(crate) fn close_all(&mut self, to_close: ToClose, host: &mut impl Host) {
        for (slot, why) in to_close {
            self.close(slot, why, host);
        }
    }

    /// Ends the session and sends one last frame. Whatever else waits is dropped, except what is being sent.
    pub(crate) fn close_with(&mut self, slot: Slot, last: Bytes, then: Then, timeout_ms: u64, host: &mut impl Host) {
        self.leave_channels(slot);
        let last = Slice::own(&self.cx.meter, last);
        let connection = &mut self.connections[slot];
        connection.replies = Vec::new();
        connection.outbound.finish(last);
        self.finish(slot, then, timeout_ms, host);
    }

    /// The last bytes for a connection are in its queue.
    fn finish(&mut self, slot: Slot, then: Then, timeout_ms: u64, host: &mut impl Host) {
        let until_ms = self.cx.now.ms + timeout_ms;
        let connection = &mut self.connections[slot];
        connection.is_paused = false;
        connection.phase = Phase::Closing { until_ms, then };
        self.connections.arm_timer(slot, until_ms);
        host.wake(slot);
    }

    /// The client sends nothing more: the connection is aborted as soon as everything is written.
    pub(crate) fn abort_when_written(&mut self, slot: Slot, host: &mut impl Host) {
        let connection = &mut self.connections[slot];
        if connection.outbound.is_empty() {
            return self.abort(slot, host);
        }
        let until_ms = match connection.phase {
            Phase::Closing { until_ms, .. } => until_ms,
            _ => self.cx.now.ms + self.cx.limits().write_timeout_ms,
        };
        connection.phase = Phase::Closing { until_ms, then: Then::Abort };
        self.connections.arm_timer(slot, until_ms);
    }

    /// Shuts the socket down without another word.
    pub(crate) fn abort(&mut self, slot: Slot, host: &mut impl Host) {
        if matches!(self.connections[slot].phase, Phase::Vacant | Phase::Aborted) {
            return;
        }
        self.leave_channels(slot);
        let connection = &mut self.connections[slot];
        connection.phase = Phase::Aborted;
        connection.replies = Vec::new();
        connection.outbound.clear();
        host.abort(slot);
    }

    /// Answers an upgrade with an HTTP error.
    pub(crate) fn reject(&mut self, slot: Slot, refusal: &Refusal, host: &mut impl Host) {
        if metrics::count(&mut self.cx.meter.metrics.borrow_mut().rejected, refusal.status) {
            host.log_first(Refused::Upgrade, refusal.status);
        }
        if !matches!(self.connections[slot].phase, Phase::Head | Phase::Handshake(_)) {
            return self.abort(slot, host);
        }
        let response = Slice::own(&self.cx.meter, refusal.response());
        let until_ms = self.cx.now.ms + self.cx.limits().close_timeout_ms;
        let connection = &mut self.connections[slot];
        connection.enqueue(self.cx.now.ms, response);
        connection.phase = Phase::Closing { until_ms, then: Then::HalfClose };
        self.connections.arm_timer(slot, until_ms);
        self.part_from(slot);
        host.wake(slot);
    }

    /// Takes a connection out of its feeds and off its user's list. The caller changes its phase.
    pub(crate) fn leave_channels(&mut self, slot: Slot) {
        let Phase::Open(session) = &self.connections[slot].phase else { return };
        let user = session.user.id;
        while let Some(session) = self.connections[slot].session()
            && let Some((key, _)) = session.subscriptions.iter().next()
        {
            self.unsubscribe(slot, SubscriptionKey(key as u32));
        }
        self.connections.users.remove_connection(user, slot);
    }

    // ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The driver holds this much for a message that has not arrived completely.
    pub(crate) fn on_unfinished(&mut self, slot: Slot, bytes: u32, host: &mut impl Host) {
        let now_ms = self.cx.now.ms;
        let has_begun = self.connections[slot].unfinished_bytes == 0;
        self.connections.set_unfinished(&self.cx, slot, bytes);
        if has_begun {
            self.connections[slot].unfinished_ms = now_ms;
            self.connections.arm_timer(slot, now_ms + self.cx.limits().message_timeout_ms);
        }
        let shortage = self.shortage_of_inbound();
        if shortage.is_near() {
            self.end_shortage(&shortage, host);
        }
    }

    fn shortage_of_inbound(&self) -> Shortage {
        let limits = self.cx.limits();
        Shortage {
            held: self.cx.meter.unfinished_bytes.get(),
            limit: limits.shard_unfinished_limit_bytes,
            user_limit: limits.user_unfinished_limit_bytes,
            of: |connection| connection.unfinished_bytes.into(),
        }
    }

    /// If too much waits to be written on this shard, closes the connections that hold the most of it. Called once in a
    /// turn, because what an aborted connection holds is free only when the driver has let go of it.
    pub(crate) fn relieve(&mut self, host: &mut impl Host) {
        let limits = self.cx.limits();
        let shortage = Shortage {
            held: self.cx.meter.outbound_bytes.get(),
            limit: limits.shard_outbound_limit_bytes,
            user_limit: limits.user_outbound_limit_bytes,
            of: |connection| connection.outbound.bytes(),
        };
        if shortage.is_near() {
            self.end_shortage(&shortage, host);
        }
    }

    fn end_shortage(&mut self, shortage: &Shortage, host: &mut impl Host) {
        let now_ms = self.cx.now.ms;
        let rest_ms = if shortage.is_acute() { RELIEF_INTERVAL_MS } else { USER_RELIEF_INTERVAL_MS };
        if now_ms < self.relieved_ms + rest_ms {
            return;
        }
        self.relieved_ms = now_ms;
        for slot in self.connections.to_close_in(shortage) {
            self.close(slot, CloseReason::SLOW, host);
            // What is in flight would stay until the client reads it or its time is over.
            if (shortage.of)(&self.connections[slot]) > KEPT_LIMIT_BYTES {
                self.abort(slot, host);
            }
        }
    }

    // ── subscriptions ───────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn unsubscribe(&mut self, slot: Slot, key: SubscriptionKey) {
        self.feeds.unsubscribe(&self.cx, &mut self.connections, slot, key);
    }

    /// The user was removed from the room, or the room is gone. A plain connection has nothing else, so it is closed.
    pub(crate) fn end_subscription(&mut self, slot: Slot, key: SubscriptionKey, host: &mut impl Host) {
        if self.connections[slot].encoding().is_none() {
            return self.close(slot, CloseReason::FORCE_DISCONNECT, host);
        }
        let session = self.connections[slot].session();
        let Some(subscription) = session.and_then(|session| session.subscription(key)) else { return };
        let name = Arc::clone(&subscription.name);
        self.unsubscribe(slot, key);
        let (code, reason) = UNSUBSCRIBED;
        self.connections.add_push(&self.cx, slot, |encoding, out| {
            centrifuge::push_push(encoding, out, &name, &Push::Unsubscribe { code, reason });
        });
        self.resume_deferred(slot);
    }

    /// Users were removed from a room at these offsets: their subscriptions to it end, unless they have become members
    /// again since.
    pub(crate) fn remove_users(&mut self, feed: FeedId, removed: &[(UserId, Offset)], host: &mut impl Host) {
        for (user, at) in removed {
            for slot in self.connections.users.connections(*user).to_vec() {
                for guest in self.feeds.guests_of(feed, slot, *at) {
                    self.end_guest(slot, guest, host);
                }
                let Some(session) = self.connections[slot].session() else { continue };
                let Some(key) = session.key_in(feed) else { continue };
                let admitted = session.joined(key).and_then(|(_, index)| self.feeds.admitted(feed, index));
                if admitted.is_none_or(|admitted| admitted < *at) || mutation::active(Mutation::OldRemovalCounts) {
                    self.end_subscription(slot, key, host);
                }
            }
        }
    }

    /// The user was removed from the room to which the `live:` channel belongs, or the room is gone.
    fn end_guest(&mut self, slot: Slot, key: SubscriptionKey, host: &mut impl Host) {
        self.end_or_deny(slot, key, Denied::NotMember, host);
    }

    /// Ends a subscription, or refuses it while it is under way.
    pub(super) fn end_or_deny(&mut self, slot: Slot, key: SubscriptionKey, why: Denied, host: &mut impl Host) {
        let session = self.connections[slot].session();
        match session.and_then(|session| session.subscription(key)).map(|subscription| &subscription.state) {
            Some(SubscriptionState::Joining(_)) => self.deny(slot, Joiner::Subscription(key), why, host),
            Some(SubscriptionState::Joined { .. }) => self.end_subscription(slot, key, host),
            None => {}
        }
    }

    /// The room is gone, and its subscriptions with it.
    pub(crate) fn on_closed(&mut self, channel: &Channel, host: &mut impl Host) {
        let Some(id) = self.attached_feed(channel) else { return };
        while let Some((slot, key)) = self.feeds.last_subscriber(id) {
            self.end_subscription(slot, key, host);
        }
        while let Some((slot, key)) = self.feeds.last_guest(id) {
            self.end_guest(slot, key, host);
        }
        self.feeds.remove(id);
    }

    /// The feed cannot go on without a gap: the connections of its subscribers are closed with a code from which they
    /// recover.
    pub(crate) fn on_lost(&mut self, channel: &Channel, host: &mut impl Host) {
        let Some(id) = self.attached_feed(channel) else { return };
        while let Some((slot, _)) = self.feeds.last_subscriber(id) {
            self.close(slot, CloseReason::INSUFFICIENT_STATE, host);
        }
        while let Some((slot, _)) = self.feeds.last_guest(id) {
            self.close(slot, CloseReason::INSUFFICIENT_STATE, host);
        }
        self.feeds.remove(id);
    }

    pub(super) fn attached_feed(&self, channel: &Channel) -> Option<FeedId> {
        self.feeds.id_of(channel).filter(|id| self.feeds.get(*id).is_some_and(|feed| feed.is_attached))
    }

    // ── tokens that became invalid, and the stop ─────────────────────────────────────────────────────────────────────

    pub(crate) fn on_revoke(&mut self, revocation: Revocation, host: &mut impl Host) {
        self.connections.users.revoke(revocation);
        for slot in self.connections.users.connections(revocation.user).to_vec() {
            let session = self.connections[slot].session();
            if session.is_some_and(|s| revocation.covers(s.generation, s.issued_at_s)) {
                self.close(slot, CloseReason::FORCE_DISCONNECT, host);
            }
        }
    }

    /// The tokens of all connections belong to a history that has ended.
    pub(crate) fn start_over(&mut self, host: &mut impl Host) {
        for slot in self.connections.slots() {
            match self.connections[slot].phase {
                Phase::Handshake(_) | Phase::Connecting(_) | Phase::Open(_) => {
                    self.close(slot, CloseReason::EXPIRED, host);
                }
                Phase::Vacant | Phase::Head | Phase::Echo | Phase::Closing { .. } | Phase::Aborted => {}
            }
        }
    }

    /// While the server stops: closes a connection soon, after everything that it is still being sent.
    pub(crate) fn close_soon(&mut self, slot: Slot) {
        self.connections[slot].is_paused = true;
        let caller = self.connections.caller(slot, Serial(0));
        self.leaving.push_back((self.cx.now.ms + LEAVING_MS, caller));
    }

    pub(crate) fn close_leaving(&mut self, host: &mut impl Host) {
        while let Some((at_ms, caller)) = self.leaving.front().copied()
            && at_ms <= self.cx.now.ms
        {
            self.leaving.pop_front();
            let Some(connection) = self.connections.of_caller(caller) else { continue };
            if connection.session().is_none() {
                continue;
            }
            let why = match connection.encoding() {
                Some(_) => CloseReason::SHUTDOWN,
                None => CloseReason::GOING_AWAY,
            };
            metrics::count(&mut self.cx.meter.metrics.borrow_mut().closed, why.code);
            let slot = caller.slot;
            self.leave_channels(slot);
            let close = Slice::own(&self.cx.meter, frame::close_frame(why.code, why.reason));
            let until_ms = self.cx.now.ms + self.cx.limits().close_timeout_ms;
            let connection = &mut self.connections[slot];
            connection.enqueue(self.cx.now.ms, close);
            connection.phase = Phase::Closing { until_ms, then: Then::AwaitClose };
            self.connections.arm_timer(slot, until_ms);
            host.wake(slot);
        }
    }
}
