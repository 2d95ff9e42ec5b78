//! A shard: its connections, the channels it is fed, the channels it is home to, and the turn that drives them.

use super::connection::{Connection, Phase};
use super::feed::Feed;
use super::figures::{self, Figures, Meter};
use super::home::Home;
use super::host::{Host, Now, Refused};
use super::message::{Ask, Asker, Caller, Channel, Endpoint, Message};
use super::mutation::{self, Mutation};
use super::outbound::Slice;
use super::rate::Bucket;
use super::timers::Timers;
use crate::limits::Limits;
use crate::protocol::CloseReason;
use crate::protocol::centrifuge::{self, Encoding};
use crate::websocket::{Event, Request, frame};
use bytes::Bytes;
use slab::Slab;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use uproar_model::Revocation;
use uproar_model::{Claims, RoomId, TokenError, UserId};

/// Checks a token's signature and time (Unix seconds). Pure: no database, no clock.
pub type Verify = Arc<dyn Fn(&str, u64) -> Result<Claims, TokenError> + Send + Sync>;

/// Whether pages of an origin may connect, given the `Host` that they asked.
pub type AllowOrigin = Arc<dyn Fn(&str, Option<&str>) -> bool + Send + Sync>;

/// What a shard is made with. The same for all shards of a node but for `id`.
#[derive(Clone)]
pub struct ShardConfig {
    pub id: u16,
    pub shards: u16,
    pub lanes: u16,
    pub limits: Limits,
    pub verify: Verify,
    /// Whether `/echo` is there.
    pub echo: bool,
    /// Whether `?token=` is taken.
    pub query_token: bool,
    pub allow_origin: AllowOrigin,
    /// Drawn at start: places rooms on shards and names messages that have no id.
    pub seed: u64,
    /// Generations raised within the last token lifetime.
    pub revocations: Vec<Revocation>,
}

/// What a shard knows of a user who is, or lately was, connected to it.
#[derive(Debug, Default)]
pub(super) struct UserState {
    pub slots: Vec<u32>,
    pub publishes: Option<Bucket>,
}

/// How long a connection whose publishes are all answered stays while the server stops.
const LEAVING_MS: u64 = 20;

/// One shard. A connection is named by its *slot*, from `opened` until `vacated` (or `handed_over`); the driver keeps
/// what belongs to the transport in a table of its own, by the same slot.
pub struct Shard {
    pub(super) config: ShardConfig,
    pub(super) connections: Vec<Connection>,
    vacant: Vec<u32>,
    pub(super) feeds: Slab<Feed>,
    pub(super) feed_ids: HashMap<Channel, u32, ahash::RandomState>,
    /// Feeds with subscribers who have not been given all that was shown.
    pub(super) unserved: VecDeque<u32>,
    /// Feeds with notes for their subscribers.
    pub(super) unnoted: VecDeque<u32>,
    /// Feeds whose home is to be told who came and went.
    pub(super) untold: Vec<u32>,
    /// Feeds of `live:` channels without subscribers.
    pub(super) idle_live: Vec<u32>,
    /// Feeds of rooms without subscribers, and since when.
    pub(super) idle_feeds: VecDeque<(u64, Channel)>,
    pub(super) homes: HashMap<Channel, Home, ahash::RandomState>,
    /// Homes that have something to show at the end of the turn.
    pub(super) unshown: Vec<Channel>,
    /// Homes with something to try again: a feed whose queue was full, a read that found no credit or failed.
    pub(super) stalled: Vec<Channel>,
    /// When to look at which room's head again, the earliest first.
    pub(super) top_checks: VecDeque<(u64, RoomId)>,
    /// Not before: the last one found no credit.
    pub(super) checks_rest_until_ms: u64,
    /// When which homes may tell again how many subscribers there are.
    pub(super) online_due: BTreeSet<(u64, Channel)>,
    /// Connections with replies that become a frame at the end of the turn.
    pub(super) replying: Vec<u32>,
    /// While the server stops: connections of which everything is answered, and when they are ended.
    leaving: VecDeque<(u64, Caller)>,
    /// Connections whose deferred commands have their turn.
    pub(super) deferring: Vec<u32>,
    /// `Lost` and `Closed` that found no place yet.
    pub(super) endings: Vec<(u16, Message)>,
    pub(super) users: HashMap<UserId, UserState, ahash::RandomState>,
    swept_users_ms: u64,
    /// Counts turns, from 1, each from the end of the last: what is decided in one is told at its end. A frame that was
    /// read in it was sent without knowing.
    pub(super) turns: u64,
    pub(super) revoked: HashMap<UserId, Revocation, ahash::RandomState>,
    /// Calls that may still be made, by endpoint.
    credits: Credits,
    timers: Timers,
    pings_left: u64,
    pub(super) meter: Rc<Meter>,
    pub(super) ids_made: u64,
    jitter: u64,
    placing: ahash::RandomState,
    /// Names connections.
    pub(super) naming: ahash::RandomState,
    open_connections: usize,
    draining: bool,
}

/// Calls that a shard may still have under way, by whom they go to.
struct Credits {
    shards: Vec<u64>,
    lanes: Vec<u64>,
    reader: u64,
}

impl Credits {
    fn of(&mut self, endpoint: Endpoint) -> Option<&mut u64> {
        match endpoint {
            Endpoint::Shard(id) => self.shards.get_mut(usize::from(id)),
            Endpoint::Lane(id) => self.lanes.get_mut(usize::from(id)),
            Endpoint::Reader => Some(&mut self.reader),
            Endpoint::Http => None,
        }
    }
}

impl Shard {
    pub fn new(config: ShardConfig) -> Shard {
        let calls = config.limits.mesh_calls_limit;
        let shards = u64::from(config.shards);
        // Everyone's calls may at once wait for one lane: as many places, so that a home never lacks a credit for what
        // it was itself called with.
        let lane_calls = lane_calls_limit(&config.limits, config.shards);
        let hasher = || ahash::RandomState::with_seeds(config.seed, 1, 2, 3);
        Shard {
            connections: Vec::new(),
            vacant: Vec::new(),
            feeds: Slab::new(),
            feed_ids: HashMap::with_hasher(hasher()),
            unserved: VecDeque::new(),
            unnoted: VecDeque::new(),
            untold: Vec::new(),
            idle_live: Vec::new(),
            idle_feeds: VecDeque::new(),
            homes: HashMap::with_hasher(hasher()),
            unshown: Vec::new(),
            stalled: Vec::new(),
            top_checks: VecDeque::new(),
            checks_rest_until_ms: 0,
            online_due: BTreeSet::new(),
            replying: Vec::new(),
            deferring: Vec::new(),
            leaving: VecDeque::new(),
            endings: Vec::new(),
            users: HashMap::with_hasher(hasher()),
            swept_users_ms: 0,
            turns: 1,
            revoked: config.revocations.iter().map(|r| (r.user, *r)).fold(
                HashMap::with_hasher(hasher()),
                |mut map, (user, revocation)| {
                    map.insert(user, revocation);
                    map
                },
            ),
            credits: Credits {
                shards: vec![calls; shards as usize],
                lanes: vec![lane_calls; usize::from(config.lanes)],
                reader: calls,
            },
            timers: Timers::default(),
            pings_left: 0,
            meter: Rc::new(Meter::default()),
            ids_made: 0,
            jitter: config.seed ^ u64::from(config.id).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            placing: placing(config.seed),
            naming: ahash::RandomState::with_seeds(config.seed, 7, 8, 9),
            open_connections: 0,
            draining: false,
            config,
        }
    }

    // ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A connection was accepted. Returns its slot. Its request head is read next, by the driver.
    pub fn opened(&mut self, now: Now, host: &mut impl Host) -> u32 {
        self.meter.clock_ms.set(now.ms);
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.connections.push(Connection::vacant());
            self.connections.len() as u32 - 1
        });
        self.open_connections += 1;
        let interval = self.config.limits.ping_interval_ms;
        let first_ping = interval / 2 + self.random() % (interval / 2 + 1);
        let connection = &mut self.connections[slot as usize];
        let generation = connection.generation;
        *connection = Connection {
            generation,
            phase: Phase::Head,
            opened_ms: now.ms,
            ping_ms: now.ms + first_ping,
            progress_ms: now.ms,
            ..Connection::vacant()
        };
        self.remind(slot, now.ms + self.config.limits.handshake_timeout_ms);
        if self.draining {
            self.cut(slot, host);
        }
        slot
    }

    /// Its request head is complete and asks for a WebSocket. The answer (101 or a refusal) comes through `outgoing`,
    /// now or later. Until it is let in `wants_input` is false.
    pub fn requested(&mut self, now: Now, slot: u32, request: Request, host: &mut impl Host) {
        self.meter.clock_ms.set(now.ms);
        if matches!(self.connections[slot as usize].phase, Phase::Head) {
            self.begin_handshake(now, slot, request, host);
        }
    }

    /// Its socket went elsewhere (to the HTTP service) before a WebSocket was asked for: the slot is free at once.
    pub fn handed_over(&mut self, slot: u32) {
        self.connections[slot as usize].phase = Phase::Cut;
        self.vacated(slot);
    }

    /// Something whole arrived: a message, a control frame, or the violation that ends it.
    /// Called only while `wants_input`.
    pub fn frame(&mut self, now: Now, slot: u32, event: Event<'_>, host: &mut impl Host) {
        self.meter.clock_ms.set(now.ms);
        let connection = &mut self.connections[slot as usize];
        // SDKs count pings, not frames: they are pinged however busy they are.
        if connection.encoding().is_none() {
            connection.ping_ms = now.ms + self.config.limits.ping_interval_ms;
        }
        connection.pinged_ms = None;
        match (event, &connection.phase) {
            (_, Phase::Vacant | Phase::Cut | Phase::Head | Phase::Handshake(_)) => {}
            (Event::Close { code, .. }, Phase::Ending { then_cut: false, owes_close, .. }) => {
                if *owes_close {
                    let answer = Slice::own(&self.meter, answer_to_close(code));
                    self.connections[slot as usize].enqueue(now.ms, answer);
                    host.wake(slot);
                }
                self.cut_when_written(now, slot, host);
            }
            (_, Phase::Ending { .. }) => {}
            (Event::Ping(payload), _) => {
                let pong = Slice::own(&self.meter, frame::pong(payload));
                self.connections[slot as usize].pong(now.ms, pong);
                self.written_to(now, slot, host);
            }
            (Event::Pong(_), _) => {}
            (Event::Close { code, .. }, _) => {
                self.finish(now, slot, answer_to_close(code), self.config.limits.close_timeout_ms, host);
                self.cut_when_written(now, slot, host);
            }
            (Event::Violation { code, reason }, _) => self.end(now, slot, CloseReason { code, reason }, host),
            (Event::Text(text), Phase::Echo) => self.echo(now, slot, true, text.as_bytes(), host),
            (Event::Binary(bytes), Phase::Echo) => self.echo(now, slot, false, bytes, host),
            (Event::Text(text), Phase::Open(_) | Phase::Connecting(_)) => match connection.encoding() {
                None => self.said(now, slot, text, host),
                Some(Encoding::Json) => self.commands(now, slot, text.as_bytes(), host),
                Some(Encoding::Protobuf) => self.end(now, slot, CloseReason::INAPPROPRIATE_PROTOCOL, host),
            },
            (Event::Binary(bytes), Phase::Open(_) | Phase::Connecting(_)) => match connection.encoding() {
                None => self.end(now, slot, CloseReason::UNSUPPORTED_DATA, host),
                Some(Encoding::Json) => self.end(now, slot, CloseReason::INAPPROPRIATE_PROTOCOL, host),
                Some(Encoding::Protobuf) => self.commands(now, slot, bytes, host),
            },
        }
    }

    /// Whether the driver should read from this connection and decode what it has read. When it changes to true,
    /// `Host::wake` is called. True while the request head is awaited.
    pub fn wants_input(&self, slot: u32) -> bool {
        let connection = &self.connections[slot as usize];
        match connection.phase {
            Phase::Vacant | Phase::Cut | Phase::Handshake(_) => false,
            Phase::Head => true,
            Phase::Connecting(ref connecting) => connecting.authenticating.is_none(),
            Phase::Open(_) | Phase::Echo => !connection.is_paused,
            Phase::Ending { then_cut, .. } => !then_cut,
        }
    }

    /// The next slices to write, in order, appended to `slices`, at most 16 and none empty; nothing when there is
    /// nothing. The driver holds one send in flight and calls this only when there is none; what a short send left is
    /// returned again.
    pub fn outgoing(&mut self, slot: u32, slices: &mut Vec<Slice>) {
        let connection = &mut self.connections[slot as usize];
        if !matches!(connection.phase, Phase::Vacant | Phase::Cut) {
            connection.outbound.next(slices);
        }
    }

    /// So many bytes of what `outgoing` gave have been written. Where there are more to write, `Host::wake` is called.
    pub fn sent(&mut self, now: Now, slot: u32, bytes: usize, host: &mut impl Host) {
        self.meter.clock_ms.set(now.ms);
        let connection = &mut self.connections[slot as usize];
        if matches!(connection.phase, Phase::Vacant | Phase::Cut) {
            return;
        }
        connection.outbound.sent(bytes);
        self.meter.figures.borrow_mut().sent_bytes += bytes as u64;
        if bytes > 0 {
            connection.progress_ms = now.ms;
        }
        if !connection.outbound.is_empty() {
            host.wake(slot);
        }
        match &connection.phase {
            Phase::Open(session) if connection.awaits_place => {
                let is_behind = !session.behind.is_empty();
                let has_deferred = session.client().is_some_and(|client| !client.deferred.is_empty());
                connection.awaits_place = is_behind || has_deferred;
                if is_behind {
                    self.catch_up(now, slot, host);
                }
                if has_deferred {
                    self.go_on_with_deferred(slot);
                }
            }
            Phase::Echo
                if connection.is_paused
                    && connection.outbound.bytes() <= self.config.limits.outbound_limit_bytes / 4 =>
            {
                self.resume(now, slot, host);
            }
            Phase::Ending { then_cut: true, .. } if connection.outbound.is_empty() => self.cut(slot, host),
            _ => {}
        }
    }

    /// The other side closed its half, or the socket failed.
    pub fn hung_up(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        self.meter.clock_ms.set(now.ms);
        self.cut(slot, host);
    }

    /// After `Host::cut`: the last operation has come back and the socket is closed. The slot is free.
    pub fn vacated(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        debug_assert!(matches!(connection.phase, Phase::Cut));
        let generation = connection.generation.wrapping_add(1);
        *connection = Connection { generation, ..Connection::vacant() };
        self.vacant.push(slot);
        self.open_connections -= 1;
    }

    /// A message from the mesh.
    pub fn mesh(&mut self, now: Now, from: Endpoint, message: Message, host: &mut impl Host) {
        self.meter.clock_ms.set(now.ms);
        match message {
            Message::Append(append) => self.home_append(append, host),
            Message::Appended { caller, era, id, result, is_last } => {
                if is_last {
                    self.give_credit(from);
                }
                self.appended(now, caller, era, &id, result, host);
            }
            Message::Attach { channel } => self.home_attach(now, from, channel, host),
            Message::Attached { channel, outcome } => {
                self.give_credit(from);
                self.attached(now, &channel, outcome, host);
            }
            Message::Detach { channel } => {
                self.home_detach(from, &channel);
                host.mesh(from, Message::Taken);
            }
            Message::Taken => self.give_credit(from),
            Message::Check { room, caller } => self.home_check(now, room, caller, host),
            Message::Checked { caller, top } => {
                self.give_credit(from);
                self.checked(now, caller, top, host);
            }
            Message::Live { channel, entry } => {
                self.home_live(&Channel::Live(channel), *entry);
                host.mesh(from, Message::Taken);
            }
            Message::Committed(answer) => {
                if answer.is_last {
                    self.give_credit(from);
                }
                self.committed(now, *answer, host);
            }
            Message::Answer { asker, answer } => {
                self.give_credit(from);
                self.answered(now, asker, answer, host);
            }
            Message::Run { channel, run } => self.fed(now, &channel, run, host),
            Message::Lost { channel } => self.lose_feed(now, &channel, host),
            Message::Closed { channel } => self.close_feed(now, &channel, host),
            Message::Note { channel, note } => self.noted(&channel, note),
            Message::Presence { channel, changes } => {
                host.mesh(from, Message::Taken);
                if let Endpoint::Shard(shard) = from {
                    self.home_presence(now, shard, &channel, &changes, host);
                }
            }
            Message::AskPresence { channel, caller, wants_clients } => {
                let answer = Box::new(self.home_present(&channel, wants_clients));
                host.mesh(from, Message::Present { caller, answer });
            }
            Message::Present { caller, answer } => {
                self.give_credit(from);
                self.present(caller, &answer);
            }
            Message::Say { channel, note } => {
                host.mesh(from, Message::Taken);
                self.home_say(&channel, note, host);
            }
            Message::Learn { room, publication } => {
                host.mesh(from, Message::Taken);
                self.learn(now, room, publication.offset, Some(*publication), host);
            }
            Message::CloseRoom { room } => {
                host.mesh(from, Message::Taken);
                self.home_closed(room, host);
            }
            Message::Revoke(revocation) => {
                host.mesh(from, Message::Taken);
                self.revoke(now, revocation, host);
            }
            Message::Count { number } => {
                host.mesh(from, Message::Counted { number, figures: Box::new(self.figures()) });
            }
            Message::Tell { user, news } => {
                host.mesh(from, Message::Taken);
                self.tell_own(user, &news);
            }
            Message::Commit(_) | Message::Ask { .. } | Message::Counted { .. } => {
                debug_assert!(false, "not for a shard");
            }
        }
    }

    /// The end of a loop turn, after all events of it: shows what rooms have learned, fans out, looks at timers.
    /// True: there is more to do, come back without waiting.
    pub fn turn(&mut self, now: Now, host: &mut impl Host) -> bool {
        self.meter.clock_ms.set(now.ms);
        self.pings_left = self.config.limits.pings_per_turn_limit;
        self.take_deferred(now, host);
        self.go_on_with_stalled(now, host);
        self.show(now, host);
        self.fan_out(now, host);
        self.tell_presence(now, host);
        self.tell_due_online(now, host);
        self.pass_notes(now, host);
        while let Some((at_ms, slot, generation)) = self.timers.due(now.ms) {
            let connection = &mut self.connections[slot as usize];
            if connection.generation == generation && connection.armed_ms == at_ms {
                connection.armed_ms = u64::MAX;
                self.look_at(now, slot, host);
            }
        }
        self.check_tops(now, host);
        self.sweep_feeds(now, host);
        self.sweep_users(now);
        self.flush_replies(now, host);
        self.end_leaving(now, host);
        !self.unserved.is_empty() || !self.unnoted.is_empty() || !self.deferring.is_empty()
    }

    /// Makes one frame of all that a connection has been replied and not been sent yet.
    fn flush_replies(&mut self, now: Now, host: &mut impl Host) {
        for slot in std::mem::take(&mut self.replying) {
            let connection = &mut self.connections[slot as usize];
            let overflows = connection.overflows;
            if connection.replies.is_empty() && !overflows {
                continue;
            }
            if !connection.replies.is_empty() {
                connection.enqueue_replies(now.ms, &self.meter);
            }
            match overflows || self.is_over_limit(slot) {
                true => self.end(now, slot, CloseReason::SLOW, host),
                false => self.written_to(now, slot, host),
            }
        }
    }

    /// After `turn`, when what it woke has been read and written: what is read from now on may have been sent knowing
    /// what was told.
    pub fn turned(&mut self) {
        self.turns += 1;
    }

    /// When `turn` must be called at the latest, in `Now::ms`.
    pub fn deadline(&self) -> Option<u64> {
        // What waits for a place in somebody's queue is not told when there is one, so it looks again soon. As it does for
        // commands whose turn has come with a write behind the last turn.
        let is_waiting = !self.stalled.is_empty()
            || !self.endings.is_empty()
            || !self.untold.is_empty()
            || !self.idle_live.is_empty()
            || !self.deferring.is_empty();
        let leaving = self.leaving.front().map(|(at, _)| *at);
        let retry = is_waiting.then_some(self.now_ms() + 1);
        let online = self.online_due.first().map(|(due, _)| *due);
        let idle = self.idle_feeds.front().map(|(since, _)| since + self.config.limits.room_idle_ms);
        let top = self.top_checks.front().map(|(due, _)| (*due).max(self.checks_rest_until_ms));
        [self.timers.next_ms(), idle, top, retry, online, leaving].into_iter().flatten().min()
    }

    /// The server stops: no connection is taken any more, what is under way is finished, then all are told and ended.
    pub fn drain(&mut self, now: Now, host: &mut impl Host) {
        self.meter.clock_ms.set(now.ms);
        self.draining = true;
        for slot in 0..self.connections.len() as u32 {
            match &mut self.connections[slot as usize].phase {
                Phase::Head => self.cut(slot, host),
                Phase::Handshake(_) => self.refuse(now, slot, 503, "unavailable", "the server is stopping", host),
                Phase::Echo | Phase::Connecting(_) => self.end(now, slot, CloseReason::GOING_AWAY, host),
                // One with publishes under way is ended when they are answered.
                Phase::Open(session) if session.outstanding == 0 => self.end_soon(now, slot),
                Phase::Open(_) => self.connections[slot as usize].is_paused = true,
                Phase::Vacant | Phase::Ending { .. } | Phase::Cut => {}
            }
        }
    }

    /// After `drain`: whether the last connection has gone.
    pub fn drained(&self) -> bool {
        self.draining && self.open_connections == 0
    }

    /// The most bytes that wait for one connection. For tests.
    pub fn widest_queue_bytes(&self) -> u64 {
        self.connections.iter().map(|c| c.outbound.bytes()).max().unwrap_or(0)
    }

    /// The shard that is home to this channel: the same for every shard of a node.
    pub fn home_shard(&self, channel: &Channel) -> u16 {
        self.home_of(channel)
    }

    /// What it has counted, and how it stands.
    pub fn figures(&self) -> Figures {
        Figures {
            connections: self.open_connections as u64,
            homes: self.homes.len() as u64,
            outbound_bytes: self.meter.outbound_bytes.get(),
            ..self.meter.figures.borrow().clone()
        }
    }

    /// Connections that have a slot.
    pub fn open_connections(&self) -> usize {
        self.open_connections
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.meter.clock_ms.get()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    // ── one connection's life ───────────────────────────────────────────────────────────────────────────────────────

    /// Appends complete frames to a connection's queue. Ends it where that is more than it may have waiting.
    pub(super) fn push(&mut self, now: Now, slot: u32, bytes: Bytes, host: &mut impl Host) {
        let connection = &mut self.connections[slot as usize];
        if matches!(connection.phase, Phase::Vacant | Phase::Cut | Phase::Ending { .. }) {
            return;
        }
        connection.enqueue(now.ms, Slice::own(&self.meter, bytes));
        if self.is_over_limit(slot) {
            self.end(now, slot, CloseReason::SLOW, host);
        } else {
            self.written_to(now, slot, host);
        }
    }

    /// Whether more waits for this connection than its limit, or its shard's, allows.
    pub(super) fn is_over_limit(&self, slot: u32) -> bool {
        let limits = &self.config.limits;
        self.connections[slot as usize].outbound.bytes() > limits.outbound_limit_bytes
            || self.meter.outbound_bytes.get() > limits.shard_outbound_limit_bytes
    }

    /// Something waits in its queue: the driver is told, and a write that does not move will be noticed.
    pub(super) fn written_to(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        host.wake(slot);
        self.remind(slot, now.ms + self.config.limits.write_timeout_ms);
    }

    /// Looks at a connection again at this time, or earlier.
    pub(super) fn remind(&mut self, slot: u32, at_ms: u64) {
        let connection = &mut self.connections[slot as usize];
        if at_ms < connection.armed_ms {
            connection.armed_ms = at_ms;
            self.timers.add(at_ms, slot, connection.generation);
        }
    }

    /// A reminder: everything about a connection that time changes.
    fn look_at(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        let limits = &self.config.limits;
        let connection = &mut self.connections[slot as usize];
        let mut next_ms = u64::MAX;
        if connection.outbound.is_empty() {
            connection.progress_ms = now.ms;
        } else {
            let until = connection.progress_ms + limits.write_timeout_ms;
            if now.ms >= until {
                return self.cut(slot, host);
            }
            next_ms = until;
        }
        match &mut connection.phase {
            Phase::Vacant | Phase::Cut => return,
            Phase::Head => {
                let until = connection.opened_ms + limits.handshake_timeout_ms;
                if now.ms >= until {
                    return self.cut(slot, host);
                }
                next_ms = next_ms.min(until);
            }
            Phase::Handshake(_) => {
                let until = connection.opened_ms + limits.handshake_timeout_ms;
                if now.ms >= until {
                    let why = "the server could not let this connection in in time; try again";
                    return self.refuse(now, slot, 503, "unavailable", why, host);
                }
                next_ms = next_ms.min(until);
            }
            Phase::Ending { until_ms, .. } => {
                if now.ms >= *until_ms {
                    return self.cut(slot, host);
                }
                next_ms = next_ms.min(*until_ms);
            }
            Phase::Connecting(connecting) => {
                // Once it has said who it is, it is the server that is late.
                let until = match &connecting.authenticating {
                    None => connection.opened_ms + limits.handshake_timeout_ms,
                    Some(authenticating) => authenticating.deadline_ms,
                };
                if now.ms >= until {
                    return self.connect_late(now, slot, host);
                }
                next_ms = next_ms.min(until);
            }
            Phase::Open(_) | Phase::Echo => {
                if let Phase::Open(session) = &connection.phase {
                    if now.unix_ms >= session.expires_unix_ms {
                        return self.end(now, slot, CloseReason::EXPIRED, host);
                    }
                    next_ms = next_ms.min(now.ms + (session.expires_unix_ms - now.unix_ms));
                }
                // While its reading is stopped its pong can't be heard.
                let is_sdk = connection.encoding().is_some();
                if connection.is_paused {
                    connection.pinged_ms = None;
                    if !is_sdk {
                        connection.ping_ms = connection.ping_ms.max(now.ms + 1);
                    }
                }
                if let Some(pinged) = connection.pinged_ms {
                    if now.ms >= pinged + limits.pong_timeout_ms {
                        return self.end(now, slot, CloseReason::NO_PONG, host);
                    }
                    next_ms = next_ms.min(pinged + limits.pong_timeout_ms);
                }
                if connection.pinged_ms.is_none() || is_sdk {
                    if now.ms < connection.ping_ms {
                        next_ms = next_ms.min(connection.ping_ms);
                    } else if self.pings_left == 0 {
                        next_ms = now.ms + 1;
                    } else {
                        self.pings_left -= 1;
                        if !connection.is_paused {
                            connection.pinged_ms.get_or_insert(now.ms);
                            next_ms = next_ms.min(now.ms + limits.pong_timeout_ms);
                        }
                        connection.ping_ms = now.ms + limits.ping_interval_ms;
                        next_ms = next_ms.min(connection.ping_ms);
                        self.ping(now, slot, host);
                    }
                }
                next_ms = next_ms.min(self.expire_calls(now, slot, host));
            }
        }
        self.catch_up(now, slot, host);
        self.remind(slot, next_ms);
    }

    /// In the words of its protocol.
    fn ping(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        let connection = &mut self.connections[slot as usize];
        match connection.client_mut() {
            Some(client) if !client.uses_frame_pings => {
                self.add_reply(slot, centrifuge::push_ping);
            }
            _ => self.push(now, slot, frame::ping(), host),
        }
    }

    /// Ends an open connection with a close frame. Nothing that still waits for it is sent.
    pub(super) fn end(&mut self, now: Now, slot: u32, why: CloseReason, host: &mut impl Host) {
        let is_sdk = self.connections[slot as usize].encoding().is_some();
        let why = if is_sdk && why == CloseReason::GOING_AWAY { CloseReason::SHUTDOWN } else { why };
        match self.connections[slot as usize].phase {
            Phase::Open(_) | Phase::Echo | Phase::Connecting(_) => {
                if figures::count(&mut self.meter.figures.borrow_mut().ended, why.code) {
                    host.note_first(Refused::Connection, why.code);
                }
                let close = frame::close_frame(why.code, why.reason);
                self.finish(now, slot, close, self.config.limits.close_timeout_ms, host);
            }
            Phase::Head | Phase::Handshake(_) => self.cut(slot, host),
            Phase::Vacant | Phase::Ending { .. } | Phase::Cut => {}
        }
    }

    /// While the server stops: ends a connection behind what it is being told. What it has published itself may still
    /// come from another shard.
    pub(super) fn end_soon(&mut self, now: Now, slot: u32) {
        self.connections[slot as usize].is_paused = true;
        self.leaving.push_back((now.ms + LEAVING_MS, self.caller(slot, 0)));
    }

    fn end_leaving(&mut self, now: Now, host: &mut impl Host) {
        while let Some((at_ms, caller)) = self.leaving.front().copied()
            && at_ms <= now.ms
        {
            self.leaving.pop_front();
            let Some(connection) = self.connection_of(caller) else { continue };
            if connection.session().is_none() {
                continue;
            }
            let why = match connection.encoding() {
                Some(_) => CloseReason::SHUTDOWN,
                None => CloseReason::GOING_AWAY,
            };
            figures::count(&mut self.meter.figures.borrow_mut().ended, why.code);
            let slot = caller.slot;
            self.leave(slot);
            let close = Slice::own(&self.meter, frame::close_frame(why.code, why.reason));
            let until_ms = now.ms + self.config.limits.close_timeout_ms;
            let connection = &mut self.connections[slot as usize];
            connection.enqueue(now.ms, close);
            connection.phase = Phase::Ending { until_ms, then_cut: false, owes_close: false };
            self.remind(slot, until_ms);
            host.wake(slot);
        }
    }

    /// Takes a connection out of everything and leaves it one last thing to be told.
    pub(super) fn finish(&mut self, now: Now, slot: u32, last: Bytes, timeout_ms: u64, host: &mut impl Host) {
        self.leave(slot);
        let last = Slice::own(&self.meter, last);
        let until_ms = now.ms + timeout_ms;
        let connection = &mut self.connections[slot as usize];
        connection.replies = Vec::new();
        connection.outbound.finish(last);
        connection.is_paused = false;
        connection.phase = Phase::Ending { until_ms, then_cut: false, owes_close: false };
        self.remind(slot, until_ms);
        host.wake(slot);
    }

    /// Answers a request for a WebSocket with an HTTP response (or, where the 101 was sent elsewhere, a close frame).
    pub(super) fn refuse(&mut self, now: Now, slot: u32, status: u16, code: &str, message: &str, host: &mut impl Host) {
        if figures::count(&mut self.meter.figures.borrow_mut().refused, status) {
            host.note_first(Refused::Upgrade, status);
        }
        let was_answered = match &self.connections[slot as usize].phase {
            Phase::Handshake(handshake) => handshake.request.answered,
            _ => return self.cut(slot, host),
        };
        self.leave(slot);
        let response = if was_answered {
            let why = match status {
                401 => CloseReason::INVALID_TOKEN,
                503 => CloseReason::FORCE_RECONNECT,
                _ => CloseReason::PERMISSION_DENIED,
            };
            frame::close_frame(why.code, message)
        } else {
            let headers: &[(&str, &str)] = match status {
                401 => &[("WWW-Authenticate", "Bearer")],
                503 => &[("Retry-After", "1")],
                _ => &[],
            };
            crate::websocket::upgrade::refusal(status, code, message, headers)
        };
        let response = Slice::own(&self.meter, response);
        let until_ms = now.ms + self.config.limits.close_timeout_ms;
        let connection = &mut self.connections[slot as usize];
        connection.enqueue(now.ms, response);
        connection.phase = Phase::Ending { until_ms, then_cut: true, owes_close: false };
        self.remind(slot, until_ms);
        host.wake(slot);
    }

    /// The other side has said its last word too: cut as soon as ours is written.
    fn cut_when_written(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        let connection = &mut self.connections[slot as usize];
        if connection.outbound.is_empty() {
            return self.cut(slot, host);
        }
        let until_ms = match connection.phase {
            Phase::Ending { until_ms, .. } => until_ms,
            _ => now.ms + self.config.limits.close_timeout_ms,
        };
        connection.phase = Phase::Ending { until_ms, then_cut: true, owes_close: false };
    }

    /// Ends a connection without a word.
    pub(super) fn cut(&mut self, slot: u32, host: &mut impl Host) {
        if matches!(self.connections[slot as usize].phase, Phase::Vacant | Phase::Cut) {
            return;
        }
        self.leave(slot);
        let connection = &mut self.connections[slot as usize];
        connection.phase = Phase::Cut;
        connection.replies = Vec::new();
        connection.outbound.clear();
        host.cut(slot);
    }

    /// Reads from a connection again.
    pub(super) fn resume(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        if self.draining {
            return;
        }
        let connection = &mut self.connections[slot as usize];
        if std::mem::take(&mut connection.is_paused) {
            // SDKs count pings: theirs come when they are due.
            if connection.encoding().is_none() {
                connection.ping_ms = now.ms + self.config.limits.ping_interval_ms;
            }
            host.wake(slot);
            let ping_ms = connection.ping_ms;
            self.remind(slot, ping_ms);
        }
    }

    fn echo(&mut self, now: Now, slot: u32, is_text: bool, payload: &[u8], host: &mut impl Host) {
        let mut out = Vec::with_capacity(payload.len() + 10);
        if is_text {
            frame::push_text(&mut out, payload)
        } else {
            frame::push_binary(&mut out, payload)
        }
        self.push(now, slot, out.into(), host);
        let connection = &mut self.connections[slot as usize];
        if connection.outbound.bytes() > self.config.limits.outbound_limit_bytes / 2 {
            connection.is_paused = true;
        }
    }

    /// Takes a connection out of its feeds and its user's list. Its phase is changed by the caller.
    fn leave(&mut self, slot: u32) {
        let Phase::Open(session) = &self.connections[slot as usize].phase else { return };
        let user = session.user.id;
        while let Some(session) = self.connections[slot as usize].session()
            && let Some((key, _)) = session.subscriptions.iter().next()
        {
            self.take_out(slot, key as u32);
        }
        if let Some(state) = self.users.get_mut(&user) {
            state.slots.retain(|s| *s != slot);
        }
    }

    // ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Who asks: this connection, with a new serial.
    pub(super) fn caller(&self, slot: u32, serial: u32) -> Caller {
        let generation = self.connections[slot as usize].generation;
        Caller { endpoint: Endpoint::Shard(self.config.id), slot, generation, serial }
    }

    /// The connection that made a call, if it is still there.
    pub(super) fn connection_of(&mut self, caller: Caller) -> Option<&mut Connection> {
        debug_assert_eq!(caller.endpoint, Endpoint::Shard(self.config.id));
        let connection = self.connections.get_mut(caller.slot as usize)?;
        let is_same = connection.generation == caller.generation || mutation::active(Mutation::SlotWithoutGeneration);
        is_same.then_some(connection)
    }

    pub(super) fn take_credit(&mut self, endpoint: Endpoint) -> bool {
        match self.credits.of(endpoint) {
            Some(credits) if *credits > 0 => {
                *credits -= 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn give_credit(&mut self, endpoint: Endpoint) {
        if let Some(credits) = self.credits.of(endpoint) {
            *credits += 1;
        }
    }

    /// Gives back a credit for a call that this shard made to itself.
    pub(super) fn give_own_credit(&mut self) {
        self.give_credit(Endpoint::Shard(self.config.id));
    }

    /// Asks the store's readers. False: too many questions are under way.
    pub(super) fn ask(&mut self, asker: Asker, ask: Ask, host: &mut impl Host) -> bool {
        if !self.take_credit(Endpoint::Reader) {
            return false;
        }
        host.mesh(Endpoint::Reader, Message::Ask { asker, ask });
        true
    }

    /// The shard that is home to this channel.
    pub(super) fn home_of(&self, channel: &Channel) -> u16 {
        home_shard(&self.placing, channel, self.config.shards)
    }

    pub(super) fn random(&mut self) -> u64 {
        // xorshift64*: spreads pings; nothing secret hangs on it.
        self.jitter ^= self.jitter >> 12;
        self.jitter ^= self.jitter << 25;
        self.jitter ^= self.jitter >> 27;
        self.jitter.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    // ── users ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether tokens like this one are no longer good.
    pub(super) fn is_revoked(&self, user: UserId, generation: Option<u32>, issued_at_s: u64) -> bool {
        self.revoked.get(&user).is_some_and(|r| is_revoked_by(r, generation, issued_at_s))
    }

    fn revoke(&mut self, now: Now, revocation: Revocation, host: &mut impl Host) {
        let known = self.revoked.entry(revocation.user).or_insert(revocation);
        if known.generation < revocation.generation {
            *known = revocation;
        }
        let slots = self.users.get(&revocation.user).map(|state| state.slots.clone()).unwrap_or_default();
        for slot in slots {
            let session = self.connections[slot as usize].session();
            if session.is_some_and(|s| is_revoked_by(&revocation, s.generation, s.issued_at_s)) {
                self.end(now, slot, CloseReason::FORCE_DISCONNECT, host);
            }
        }
    }

    /// Forgets users without connections whose allowance is whole again, and revocations that no living token can
    /// fall under.
    fn sweep_users(&mut self, now: Now) {
        if now.ms < self.swept_users_ms + 10_000 {
            return;
        }
        self.swept_users_ms = now.ms;
        let (rate, burst) = (self.config.limits.publish_rate_per_second, self.config.limits.publish_burst_limit);
        self.users.retain(|_, state| {
            !state.slots.is_empty() || !state.publishes.as_mut().is_none_or(|b| b.is_full(rate, burst, now.ms))
        });
        let kept = self.config.limits.revocations_kept_ms();
        self.revoked.retain(|_, r| now.unix_ms < r.at.saturating_add(kept));
    }
}

/// Where a channel's home is. The same on every shard of a node.
pub fn home_shard(placing: &ahash::RandomState, channel: &Channel, shards: u16) -> u16 {
    (placing.hash_one(channel) % u64::from(shards)) as u16
}

/// How [`home_shard`] is seeded, for the endpoints that are no shards.
pub fn placing(seed: u64) -> ahash::RandomState {
    ahash::RandomState::with_seeds(seed, 4, 5, 6)
}

/// Calls that a shard may have under way with one lane: everyone's appends may come through one home.
pub fn lane_calls_limit(limits: &Limits, shards: u16) -> u64 {
    limits.mesh_calls_limit * (u64::from(shards) + 1)
}

/// The code is sent back; a close without one is answered without one.
fn answer_to_close(code: Option<u16>) -> Bytes {
    code.map_or_else(frame::empty_close_frame, |code| frame::close_frame(code, ""))
}

fn is_revoked_by(revocation: &Revocation, generation: Option<u32>, issued_at_s: u64) -> bool {
    match generation {
        Some(generation) => generation < revocation.generation,
        None => issued_at_s <= revocation.at / 1000,
    }
}
