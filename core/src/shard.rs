//! A shard: the events that a driver reports, the messages of the mesh, and the turn. It owns the connections, the
//! feeds and the homes, and gives each event to its owner.

use crate::buffer::Slice;
use crate::bus::Announcement;
use crate::config::ShardConfig;
use crate::connections::{Connections, Phase, Then, Users};
use crate::context::Context;
use crate::feeds::{Feeds, Received};
use crate::homes::Homes;
use crate::host::{Host, Now};
use crate::ids::Slot;
use crate::message::{Caller, Channel, Endpoint, Message, Requester, StoreReply};
use crate::metrics::ShardMetrics;
use crate::mutation::{self, Mutation};
use crate::protocol::CloseReason;
use crate::protocol::centrifuge::Encoding;
use crate::sessions::{LEASE_CHECK_INTERVAL_MS, Suspension};
use crate::websocket::{Event, Refusal, UpgradeRequest, frame};
use bytes::Bytes;
use std::collections::VecDeque;
use uproar_model::{DatabaseGeneration, Publication, RoomId};

/// One shard. A connection is named by its *slot*, from `opened` until `freed` (or `handed_over`). The driver keeps
/// what belongs to the transport in a table of its own, by the same slot.
pub struct Shard {
    /// What the owners share.
    pub(crate) cx: Context,
    pub(crate) connections: Connections,
    pub(crate) feeds: Feeds,
    pub(crate) homes: Homes,
    /// Connections whose deferred commands are due.
    pub(crate) to_resume: Vec<Slot>,
    /// While the server stops: connections whose publishes are all answered, and when they are closed.
    pub(crate) leaving: VecDeque<(u64, Caller)>,
    /// Publications of joins that their rooms' homes are not told of yet, for lack of credit.
    pub(crate) joins: VecDeque<(RoomId, Option<DatabaseGeneration>, Box<Publication>)>,
    /// Pings that may still be sent in this turn.
    pub(crate) pings_left: u64,
    /// Counts the ids made for messages without one.
    pub(crate) ids_made: u64,
    pub(crate) draining: bool,
    /// While the node's lease has expired: the shard serves nobody.
    pub(crate) suspension: Option<Suspension>,
    /// When the lease was last found valid.
    pub(crate) served_ms: u64,
    /// When connections were last looked through for those that hold too much memory.
    pub(crate) relieved_ms: u64,
}

impl Shard {
    pub fn new(config: ShardConfig) -> Shard {
        let hasher = ahash::RandomState::with_seeds(config.seed, 1, 2, 3);
        Shard {
            connections: Connections::new(
                Endpoint::Shard(config.id),
                Users::new(hasher.clone(), config.revocations.clone()),
            ),
            feeds: Feeds::new(hasher.clone()),
            homes: Homes::new(hasher),
            to_resume: Vec::new(),
            leaving: VecDeque::new(),
            joins: VecDeque::new(),
            pings_left: 0,
            ids_made: 0,
            draining: false,
            suspension: None,
            served_ms: 0,
            relieved_ms: 0,
            cx: Context::new(config),
        }
    }

    // ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A connection was accepted. Returns its slot. The driver reads its request head next.
    pub fn opened(&mut self, now: Now, host: &mut impl Host) -> Slot {
        self.cx.begin(now);
        let slot = self.connections.open(&mut self.cx);
        if self.draining {
            self.abort(slot, host);
        }
        slot
    }

    /// The request head is complete and asks for a WebSocket. The answer (101 or a rejection) comes through `outgoing`,
    /// now or later. Until the client is admitted, `wants_input` is false.
    pub fn requested(&mut self, now: Now, slot: Slot, request: UpgradeRequest, host: &mut impl Host) {
        self.cx.begin(now);
        if matches!(self.connections[slot].phase, Phase::Head) {
            match self.refuses_connections() {
                true => self.refuse_without_lease(slot, host),
                false => self.begin_handshake(slot, request, host),
            }
        }
        self.deliver_own(host);
    }

    /// The request head is complete and asks for a WebSocket that can't be granted. The answer comes through
    /// `outgoing`.
    pub fn refused(&mut self, now: Now, slot: Slot, refusal: &Refusal, host: &mut impl Host) {
        self.cx.begin(now);
        self.reject(slot, refusal, host);
    }

    /// The socket was handed over to the HTTP service before it asked for a WebSocket. The slot is free immediately.
    pub fn handed_over(&mut self, slot: Slot) {
        self.connections[slot].phase = Phase::Aborted;
        self.connections.free(&self.cx, slot);
    }

    /// A whole message, a control frame, or a violation arrived. Called only while `wants_input` is true.
    pub fn frame(&mut self, now: Now, slot: Slot, event: Event<'_>, host: &mut impl Host) {
        self.cx.begin(now);
        self.on_frame(slot, event, host);
        self.deliver_own(host);
    }

    /// How many bytes the driver holds for a request head or message that has not arrived completely. Called after all
    /// input; mostly there are none, before and now.
    #[inline]
    pub fn unfinished(&mut self, now: Now, slot: Slot, bytes: usize, host: &mut impl Host) {
        if self.connections[slot].unfinished_bytes as usize != bytes {
            self.cx.begin(now);
            self.on_unfinished(slot, u32::try_from(bytes).unwrap_or(u32::MAX), host);
        }
    }

    /// Whether the driver should read from this connection and decode what it has read. When this becomes true,
    /// `Host::wake` is called. True while the request head is awaited.
    pub fn wants_input(&self, slot: Slot) -> bool {
        let connection = &self.connections[slot];
        match connection.phase {
            Phase::Connecting(_) | Phase::Open(_) | Phase::Echo | Phase::Closing { .. } if self.lacks_lease(slot) => {
                false
            }
            Phase::Vacant | Phase::Aborted | Phase::Handshake(_) => false,
            Phase::Head => true,
            Phase::Connecting(ref connecting) => connecting.authenticating.is_none(),
            Phase::Open(_) | Phase::Echo => !connection.is_paused,
            Phase::Closing { then, .. } => then != Then::Abort,
        }
    }

    /// Whether this connection may be served only with the lease, which has expired.
    fn lacks_lease(&self, slot: Slot) -> bool {
        self.suspension.is_some() && !self.connections[slot].is_parting
    }

    /// Appends the next slices to write to `slices`, in order: at most 16, none of them empty. The driver has one send
    /// in flight and calls this only when there is none. What a short send did not write is returned again.
    pub fn outgoing(&mut self, slot: Slot, slices: &mut Vec<Slice>) {
        let lacks_lease = self.lacks_lease(slot);
        let connection = &mut self.connections[slot];
        if !matches!(connection.phase, Phase::Vacant | Phase::Aborted) && !lacks_lease {
            connection.outbound.next(&self.cx.meter, slices);
        }
    }

    /// This many bytes of what `outgoing` returned have been written. If there are more, `Host::wake` is called.
    pub fn sent(&mut self, now: Now, slot: Slot, bytes: usize, host: &mut impl Host) {
        self.cx.begin(now);
        let connection = &mut self.connections[slot];
        if matches!(connection.phase, Phase::Vacant | Phase::Aborted) {
            return;
        }
        connection.outbound.sent(bytes);
        self.cx.meter.metrics.borrow_mut().sent_bytes += bytes as u64;
        if bytes > 0 {
            connection.progress_ms = now.ms;
        }
        if !connection.outbound.is_empty() {
            host.wake(slot);
        }
        match &connection.phase {
            Phase::Open(session) if connection.awaits_space => {
                let is_behind = !session.behind.is_empty();
                let has_deferred = session.client().is_some_and(|client| !client.deferred.is_empty());
                connection.awaits_space = is_behind || has_deferred;
                if is_behind {
                    self.catch_up(slot, host);
                }
                if has_deferred {
                    self.resume_deferred(slot);
                }
            }
            Phase::Echo
                if connection.is_paused && connection.outbound.bytes() <= self.cx.limits().outbound_limit_bytes / 4 =>
            {
                self.resume(slot, host);
            }
            Phase::Closing { then: Then::Abort, .. } if connection.outbound.is_empty() => self.abort(slot, host),
            Phase::Closing { then: Then::HalfClose, .. } if connection.outbound.is_empty() => host.half_close(slot),
            // Nearly all writes end here: nothing waited for them, so there is nothing to deliver either.
            _ => return,
        }
        self.deliver_own(host);
    }

    /// The client has closed its sending half. It may still read, so what waits for it is written before the connection
    /// is closed. Called when everything before it has been passed on.
    pub fn peer_closed(&mut self, now: Now, slot: Slot, host: &mut impl Host) {
        self.cx.begin(now);
        match self.connections[slot].phase {
            Phase::Connecting(_) | Phase::Open(_) | Phase::Echo | Phase::Closing { .. } => {
                let connection = &mut self.connections[slot];
                if !connection.replies.is_empty() {
                    connection.enqueue_replies(now.ms, &self.cx.meter);
                }
                self.leave_channels(slot);
                self.abort_when_written(slot, host);
                host.wake(slot);
            }
            // During a handshake the connection is not read.
            Phase::Vacant | Phase::Head | Phase::Handshake(_) | Phase::Aborted => self.abort(slot, host),
        }
        self.deliver_own(host);
    }

    /// The socket failed: nothing can be read or written any more.
    pub fn failed(&mut self, now: Now, slot: Slot, host: &mut impl Host) {
        self.cx.begin(now);
        self.abort(slot, host);
        self.deliver_own(host);
    }

    /// After `Host::abort`: the last operation has completed and the socket is closed. The slot is free.
    pub fn freed(&mut self, slot: Slot) {
        self.connections.free(&self.cx, slot);
    }

    /// A message of the mesh.
    pub fn receive(&mut self, now: Now, from: Endpoint, message: Message, host: &mut impl Host) {
        self.cx.begin(now);
        self.on_message(from, message, host);
        self.deliver_own(host);
    }

    // ── the turn ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The end of a loop turn, after all its events: shows what rooms have learned, fans out, looks at timers. Returns
    /// whether there is more to do, so that the next turn must follow without waiting.
    pub fn turn(&mut self, now: Now, host: &mut impl Host) -> bool {
        self.cx.begin(now);
        if self.suspension.is_some() {
            self.suspended_turn(host);
            return false;
        }
        self.pings_left = self.cx.limits().pings_per_turn_limit;
        self.take_deferred(host);
        self.send_joins(host);
        self.deliver_own(host);
        self.homes.retry_stalled(&mut self.cx, host);
        self.homes.show(&mut self.cx, host);
        self.deliver_own(host);
        self.fan_out(host);
        self.feeds.report_presence(&mut self.cx, host);
        self.deliver_own(host);
        self.homes.announce_due(&mut self.cx, host);
        self.homes.tell_due(&self.cx, host);
        self.deliver_own(host);
        self.feeds.deliver_events(&mut self.cx, &mut self.connections, host);
        while let Some(slot) = self.connections.next_due(now.ms) {
            self.on_timer(slot, host);
        }
        self.homes.settle_doubts(&mut self.cx, host);
        self.homes.sweep(&mut self.cx, host);
        self.feeds.evict_idle(&mut self.cx, host);
        self.deliver_own(host);
        self.connections.users.sweep(&self.cx);
        self.flush_replies(host);
        self.relieve(host);
        self.close_leaving(host);
        self.feeds.has_work() || !self.to_resume.is_empty()
    }

    /// When `turn` must be called at the latest, in `Now::ms`.
    pub fn deadline(&self) -> Option<u64> {
        if self.suspension.is_some() {
            return Some(self.cx.now.ms + LEASE_CHECK_INTERVAL_MS);
        }
        // A write after the last turn may have made commands due.
        let resume = (!self.to_resume.is_empty()).then_some(self.cx.now.ms + 1);
        let leaving = self.leaving.front().map(|(at, _)| *at);
        let owners =
            [self.connections.next_timer_ms(), self.feeds.deadline_ms(&self.cx), self.homes.deadline_ms(&self.cx)];
        owners.into_iter().chain([resume, leaving]).flatten().min()
    }

    /// The server stops: no connection is accepted any more, publishes under way are answered, then all clients are
    /// told and closed.
    pub fn drain(&mut self, now: Now, host: &mut impl Host) {
        self.cx.begin(now);
        self.draining = true;
        for slot in self.connections.slots() {
            match &mut self.connections[slot].phase {
                Phase::Head => self.abort(slot, host),
                Phase::Handshake(_) => {
                    self.reject(slot, &Refusal::new(503, "unavailable", "the server is stopping"), host);
                }
                Phase::Echo | Phase::Connecting(_) => self.close(slot, CloseReason::GOING_AWAY, host),
                // A connection with publishes under way is closed when they are answered.
                Phase::Open(session) if session.outstanding == 0 => self.close_soon(slot),
                Phase::Open(_) => self.connections[slot].is_paused = true,
                Phase::Vacant | Phase::Closing { .. } | Phase::Aborted => {}
            }
        }
        self.deliver_own(host);
    }

    /// After `drain`: whether the last connection is gone.
    pub fn drained(&self) -> bool {
        self.draining && self.connections.open_count() == 0
    }

    // ── for the driver and for tests ────────────────────────────────────────────────────────────────────────────────

    /// The number of connections that have a slot.
    pub fn open_connections(&self) -> usize {
        self.connections.open_count()
    }

    /// What the shard has counted, and its current sizes.
    pub fn metrics(&self) -> ShardMetrics {
        ShardMetrics {
            connections: self.connections.open_count() as u64,
            homes: self.homes.len() as u64,
            outbound_bytes: self.cx.meter.outbound_bytes.get(),
            ..self.cx.meter.metrics.borrow().clone()
        }
    }

    /// The longest outbound queue of a connection, in bytes. For tests.
    pub fn longest_queue_bytes(&self) -> u64 {
        self.connections.longest_queue_bytes()
    }

    /// Whether all that this connection is still sent is a refusal or a close frame, which needs no lease. For tests.
    pub fn is_parting(&self, slot: Slot) -> bool {
        self.connections[slot].is_parting
    }

    /// Whether this slot has an open connection, which is served. For tests.
    pub fn is_open(&self, slot: Slot) -> bool {
        self.connections[slot].session().is_some()
    }

    /// Whether every call has been answered and its credit returned. For tests.
    pub fn has_all_credits(&self) -> bool {
        self.cx.messenger.has_all_credits(self.cx.limits())
    }

    /// The shard that is home to this channel.
    pub fn home_of(&self, channel: &Channel) -> u16 {
        self.cx.messenger.home_of(channel)
    }

    // ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Delivers the messages that the shard has sent to itself. Mostly there are none.
    #[inline]
    pub(crate) fn deliver_own(&mut self, host: &mut impl Host) {
        if self.cx.messenger.has_own() {
            self.deliver_all_own(host);
        }
    }

    fn deliver_all_own(&mut self, host: &mut impl Host) {
        let own = self.cx.messenger.own();
        while let Some(message) = self.cx.messenger.next_own() {
            self.on_message(own, message, host);
        }
    }

    fn on_message(&mut self, from: Endpoint, message: Message, host: &mut impl Host) {
        let cx = &mut self.cx;
        match message {
            // For homes.
            Message::Append(append) => self.homes.on_append(cx, append, host),
            Message::Committed(answer) => {
                if answer.is_last {
                    cx.messenger.return_credit(from);
                }
                self.homes.on_committed(cx, *answer, host);
            }
            Message::Attach { channel } => {
                if let Endpoint::Shard(shard) = from {
                    self.homes.on_attach(cx, shard, channel, host);
                }
            }
            Message::Detach { channel } => {
                cx.messenger.acknowledge(from, host);
                if let Endpoint::Shard(shard) = from {
                    self.homes.on_detach(cx, shard, &channel, host);
                }
            }
            Message::Check { room, request } => self.homes.on_check(cx, room, request, host),
            Message::Live { channel, mut entry } => {
                cx.messenger.acknowledge(from, host);
                if from == Endpoint::Http {
                    entry.time = cx.now.unix_ms;
                }
                if from != Endpoint::Bus {
                    cx.announce(host, || Announcement::Live { channel: channel.clone(), entry: entry.clone() });
                }
                // While nothing is shown, what others send would only take memory.
                if self.suspension.is_some() && matches!(from, Endpoint::Bus | Endpoint::Http) {
                    return self.homes.lose_live(cx, host);
                }
                self.homes.on_live(&Channel::Live(channel), entry);
            }
            Message::PresenceChanged { channel, changes } => {
                cx.messenger.acknowledge(from, host);
                if let Endpoint::Shard(shard) = from {
                    self.homes.on_presence_changed(cx, shard, &channel, changes, host);
                }
            }
            Message::GetPresence { channel, caller, wants_clients } => {
                let reply = Box::new(self.homes.presence(cx, &channel, wants_clients));
                cx.messenger.send(from, Message::Presence { caller, reply }, host);
            }
            Message::Notify { channel, event } => {
                cx.messenger.acknowledge(from, host);
                self.homes.on_notify(cx, &channel, &event, from != Endpoint::Bus, host);
            }
            Message::Learn { room, generation, publication } => {
                cx.messenger.acknowledge(from, host);
                Homes::announce(cx, room, generation, Some(&publication), host);
                self.homes.learn(cx, room, generation, publication.offset, Some(*publication), host);
            }
            Message::SweepNow => {
                cx.messenger.acknowledge(from, host);
                self.homes.sweep_now();
            }
            Message::LiveLost => {
                cx.messenger.acknowledge(from, host);
                self.homes.lose_live(cx, host);
            }
            Message::Announced { room, generation, publication } => {
                cx.messenger.acknowledge(from, host);
                // While nothing is shown, what is announced would only take memory.
                if self.suspension.is_some() {
                    return self.homes.sweep_now();
                }
                self.homes.on_announced(cx, room, generation, publication.map(|publication| *publication), host);
            }
            Message::TellPresence { to } => {
                cx.messenger.acknowledge(from, host);
                self.homes.tell_all(vec![to]);
            }
            Message::PeerPresence { session, presence } => {
                cx.messenger.acknowledge(from, host);
                self.homes.on_peer_presence(cx, &session, *presence, host);
            }
            Message::PeerTold { session, shard, after } => {
                cx.messenger.acknowledge(from, host);
                self.homes.on_peer_told(cx, &session, shard, after, host);
            }
            Message::PeerGone { session } => {
                cx.messenger.acknowledge(from, host);
                self.homes.on_peer_gone(cx, &session, host);
            }
            Message::GetRecent { number, room, after } => {
                let recent = self.homes.recent(room, after).map(Box::new);
                cx.messenger.send(from, Message::Recent { number, recent }, host);
            }
            Message::CloseRoom { room } => {
                cx.messenger.acknowledge(from, host);
                self.homes.on_room_closed(cx, room, host);
            }

            // For feeds.
            Message::Segment { channel, segment } => {
                let received = self.feeds.on_segment(cx, &mut self.connections, &channel, &segment, host);
                match received {
                    Received::Ignored => {}
                    Received::Gap => self.on_lost(&channel, host),
                    Received::Taken { feed, removed, to_close } => {
                        self.close_all(to_close, host);
                        if mutation::active(Mutation::RemovalShownLate) {
                            self.fan_out(host);
                        }
                        self.remove_users(feed, &removed, host);
                    }
                }
            }
            Message::Skip { channel, position, removed } => {
                if let Some(feed) = self.feeds.on_skip(&channel, position) {
                    self.remove_users(feed, &removed, host);
                }
            }
            Message::Lost { channel } => self.on_lost(&channel, host),
            Message::Closed { channel } => self.on_closed(&channel, host),
            Message::Ephemeral { channel, event } => self.feeds.on_event(&channel, event),

            // For sessions.
            Message::Attached { channel, outcome } => {
                cx.messenger.return_call_credit(from);
                self.on_attached(&channel, &outcome, host);
            }
            Message::Checked { request, outcome } => {
                cx.messenger.return_call_credit(from);
                self.on_checked(request, outcome, host);
            }
            Message::Appended { caller, era, id, result, is_last } => {
                if is_last {
                    cx.messenger.return_credit(from);
                }
                self.on_appended(caller, era, &id, result, host);
            }
            Message::Settled { caller, room, id } => {
                cx.messenger.return_credit(from);
                self.on_settled(caller, room, &id);
            }
            Message::Presence { caller, reply } => {
                cx.messenger.return_call_credit(from);
                self.on_presence(caller, &reply);
            }
            Message::NotifyUser { user, event } => {
                cx.messenger.acknowledge(from, host);
                // HTTP tells every shard. One of them tells the other nodes.
                if from == Endpoint::Http && cx.config.id == 0 {
                    cx.announce(host, || Announcement::User { user, event: event.clone() });
                }
                self.on_user_event(user, &event, host);
            }
            Message::Revoke(revocation) => {
                cx.messenger.acknowledge(from, host);
                self.on_revoke(revocation, host);
            }
            Message::StartOver => {
                cx.messenger.acknowledge(from, host);
                self.homes.start_over(cx, host);
                self.start_over(host);
            }

            // For all owners.
            Message::Survey { number, survey } => {
                let findings = Box::new(self.on_survey(&survey, host));
                self.cx.messenger.send(from, Message::Surveyed { number, findings }, host);
            }

            // For the requester.
            Message::ReadReply { requester, reply } => {
                cx.messenger.return_call_credit(from);
                self.on_read_reply(requester, reply, host);
            }
            Message::CreditReturned => cx.messenger.return_credit(from),
            Message::GetMetrics { number, with_users } => {
                let users = if with_users { self.connections.users.connected() } else { Vec::new() };
                let metrics = Box::new(ShardMetrics { users, ..self.metrics() });
                self.cx.messenger.send(from, Message::Metrics { number, metrics }, host);
            }
            Message::Commit(_)
            | Message::Read { .. }
            | Message::Metrics { .. }
            | Message::Surveyed { .. }
            | Message::Recent { .. }
            | Message::Announce(_) => {
                debug_assert!(false, "not for a shard");
            }
        }
    }

    /// The reader has answered.
    fn on_read_reply(&mut self, requester: Requester, reply: StoreReply, host: &mut impl Host) {
        match requester {
            Requester::Join(request) => self.on_join_reply(request, reply, host),
            Requester::Connect(caller) => self.on_connect_reply(caller, reply, host),
            Requester::CatchUp(caller) => self.on_page(caller, reply, host),
            Requester::Call(caller) => self.on_call_reply(caller, reply, host),
            Requester::Load(asking) => self.homes.on_loaded(&mut self.cx, asking, reply, host),
            Requester::Gap(asking) => self.homes.on_gap_page(&mut self.cx, asking, reply, host),
            Requester::Head(asking) => self.homes.on_head(&mut self.cx, asking, &reply, host),
            Requester::Check(asking, request) => self.homes.on_check_reply(&mut self.cx, asking, request, reply, host),
            Requester::Renamed { user, username, number } => self.on_name_read(user, username, number, reply),
            Requester::Sweep => self.homes.on_swept(&mut self.cx, reply, host),
        }
    }

    // ── frames ──────────────────────────────────────────────────────────────────────────────────────────────────────

    fn on_frame(&mut self, slot: Slot, event: Event<'_>, host: &mut impl Host) {
        let connection = &mut self.connections[slot];
        // SDKs count pings, not frames, so they are pinged however busy they are.
        if connection.encoding().is_none() && connection.session().is_none_or(|session| session.failures.is_empty()) {
            connection.ping_ms = self.cx.now.ms + self.cx.limits().ping_interval_ms;
        }
        connection.pinged_ms = None;
        if matches!(event, Event::Text(_) | Event::Binary(_)) {
            // What is unfinished now belongs to the next message.
            connection.unfinished_ms = self.cx.now.ms;
        }
        match (event, &connection.phase) {
            (_, Phase::Vacant | Phase::Aborted | Phase::Head | Phase::Handshake(_)) => {}
            (Event::Close { code, .. }, Phase::Closing { then: then @ (Then::AwaitClose | Then::AnswerClose), .. }) => {
                if *then == Then::AnswerClose {
                    let answer = Slice::own(&self.cx.meter, answer_to_close(code));
                    self.connections[slot].enqueue(self.cx.now.ms, answer);
                    host.wake(slot);
                }
                self.abort_when_written(slot, host);
            }
            (_, Phase::Closing { .. }) => {}
            (Event::Ping(payload), _) => {
                let limit = self.cx.limits().pongs_limit_bytes as usize;
                self.connections[slot].enqueue_pong(self.cx.now.ms, payload, limit);
                self.connections.written(&self.cx, slot, host);
            }
            (Event::Pong(payload), _) => self.on_pong(slot, Some(payload)),
            (Event::Close { code, .. }, _) => {
                self.end_with(slot, answer_to_close(code), Then::Abort, host);
            }
            (Event::Violation { code, reason }, _) => self.fail(slot, CloseReason { code, reason }, host),
            (Event::Text(text), Phase::Echo) => self.echo(slot, true, text.as_bytes(), host),
            (Event::Binary(bytes), Phase::Echo) => self.echo(slot, false, bytes, host),
            (Event::Text(text), Phase::Open(_) | Phase::Connecting(_)) => match connection.encoding() {
                None => self.on_text(slot, text, host),
                Some(Encoding::Json) => self.on_commands(slot, text.as_bytes(), host),
                Some(Encoding::Protobuf) => self.close(slot, CloseReason::INAPPROPRIATE_PROTOCOL, host),
            },
            (Event::Binary(bytes), Phase::Open(_) | Phase::Connecting(_)) => match connection.encoding() {
                None => self.close(slot, CloseReason::UNSUPPORTED_DATA, host),
                Some(Encoding::Json) => self.close(slot, CloseReason::INAPPROPRIATE_PROTOCOL, host),
                Some(Encoding::Protobuf) => self.on_commands(slot, bytes, host),
            },
        }
    }

    fn echo(&mut self, slot: Slot, is_text: bool, payload: &[u8], host: &mut impl Host) {
        let mut out = Vec::with_capacity(payload.len() + 10);
        if is_text {
            frame::push_text(&mut out, payload)
        } else {
            frame::push_binary(&mut out, payload)
        }
        self.push(slot, out.into(), host);
        let connection = &mut self.connections[slot];
        if connection.outbound.bytes() > self.cx.limits().outbound_limit_bytes / 2 {
            connection.is_paused = true;
        }
    }

    // ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Appends complete frames to a connection's queue. Closes it if more waits than its limit allows.
    pub(crate) fn push(&mut self, slot: Slot, bytes: Bytes, host: &mut impl Host) {
        let connection = &mut self.connections[slot];
        if matches!(connection.phase, Phase::Vacant | Phase::Aborted | Phase::Closing { .. }) {
            return;
        }
        connection.enqueue(self.cx.now.ms, Slice::own(&self.cx.meter, bytes));
        if self.connections.is_over_limit(&self.cx, slot) {
            self.close(slot, CloseReason::SLOW, host);
        } else {
            self.connections.written(&self.cx, slot, host);
        }
    }

    /// Makes one frame of all replies that a connection has not been sent yet.
    fn flush_replies(&mut self, host: &mut impl Host) {
        for slot in self.connections.take_to_flush() {
            let connection = &mut self.connections[slot];
            let overflows = connection.overflows;
            if connection.replies.is_empty() && !overflows {
                continue;
            }
            if !connection.replies.is_empty() {
                connection.enqueue_replies(self.cx.now.ms, &self.cx.meter);
            }
            match overflows || self.connections.is_over_limit(&self.cx, slot) {
                true => self.close(slot, CloseReason::SLOW, host),
                false => self.connections.written(&self.cx, slot, host),
            }
        }
    }

    /// Reads from a connection again.
    pub(crate) fn resume(&mut self, slot: Slot, host: &mut impl Host) {
        if self.draining {
            return;
        }
        let ping_interval_ms = self.cx.limits().ping_interval_ms;
        let connection = &mut self.connections[slot];
        if std::mem::take(&mut connection.is_paused) {
            // SDKs count pings, so theirs stay due when they are.
            let has_failures = connection.session().is_some_and(|session| !session.failures.is_empty());
            if connection.encoding().is_none() && !has_failures {
                connection.ping_ms = self.cx.now.ms + ping_interval_ms;
            }
            host.wake(slot);
            let ping_ms = connection.ping_ms;
            self.connections.arm_timer(slot, ping_ms);
        }
    }

    // ── feeds ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Gives subscribers what was shown, channel by channel.
    fn fan_out(&mut self, host: &mut impl Host) {
        for _ in 0..self.feeds.due_count() {
            let to_close = self.feeds.fan_out_next(&mut self.cx, &mut self.connections, host);
            self.close_all(to_close, host);
        }
    }

    /// Gives the subscriptions of a connection that are behind what they have missed.
    pub(crate) fn catch_up(&mut self, slot: Slot, host: &mut impl Host) {
        if let Some(why) = self.feeds.catch_up(&mut self.cx, &mut self.connections, slot, host) {
            self.close(slot, why, host);
        }
    }

    /// The reader has answered with a page for a subscription that is behind.
    fn on_page(&mut self, caller: Caller, reply: StoreReply, host: &mut impl Host) {
        let slot = caller.slot;
        let Some(session) = self.connections.of_caller(caller).and_then(|connection| connection.session_mut()) else {
            return;
        };
        let Some((_, key, _)) = session.reading.take_if(|(serial, ..)| *serial == caller.serial) else { return };
        match reply {
            StoreReply::Page(Some(page)) => {
                let why = self.feeds.on_page(&mut self.cx, &mut self.connections, slot, key, &page, host);
                if let Some(why) = why {
                    self.close(slot, why, host);
                }
            }
            // A removed user may have been a member when the page was requested.
            StoreReply::Page(None) | StoreReply::NotMember => {
                self.end_subscription(slot, key, host);
                self.catch_up(slot, host);
            }
            StoreReply::Failed => {
                if let Some(why) = Feeds::on_no_page(&self.cx, &mut self.connections, slot) {
                    self.close(slot, why, host);
                }
            }
            _ => debug_assert!(false, "only pages are read for a subscription"),
        }
    }
}

/// The client's close code is sent back; a close frame without a code is answered without one.
fn answer_to_close(code: Option<u16>) -> Bytes {
    code.map_or_else(frame::empty_close_frame, |code| frame::close_frame(code, ""))
}
