//! An open connection: who it is, what it is subscribed to, what it publishes, and what it is told about that.

use super::entering::{Denied, Entering};
use super::figures;
use super::host::{Host, Now, Refused};
use super::message::{Append, Caller, Channel, Endpoint, Message, NotKnown};
use super::rate::Bucket;
use super::shard::Shard;
use crate::protocol::centrifuge::{Encoding, Reply};
use crate::protocol::data::{self, Publish};
use crate::protocol::{self, LiveEntry, ProtocolError, plain};
use crate::websocket::frame;
use slab::Slab;
use std::collections::VecDeque;
use std::sync::Arc;
use uproar_model::{Claims, Item, Outcome, Refusal, RoomId, User};

/// The protocol state of a connection of which it is known who it is.
#[derive(Debug)]
pub(super) struct Session {
    pub user: User,
    /// Of the token it came with.
    pub generation: Option<u32>,
    pub issued_at_s: u64,
    /// When its token's time, and the grace after it, is over.
    pub expires_unix_ms: u64,
    /// By key. A plain connection has one.
    pub subscriptions: Slab<Subscription>,
    /// Keys of those that have not been given all that was shown, in the order in which they are served.
    pub behind: VecDeque<u32>,
    /// The page that is being read for one of them: its serial and that one's key.
    pub reading: Option<(u32, u32)>,
    /// Publishes under way.
    pub outstanding: u32,
    /// Raised each time a publish ends with error 100: the next era of a subscription.
    pub era: u32,
    pub serial: u32,
    pub voice: Voice,
}

/// How it speaks.
#[derive(Debug)]
pub(super) enum Voice {
    Plain(plain::InputFormat),
    Centrifuge(Box<Client>),
}

/// What a connection of the Centrifugo protocol has besides.
#[derive(Debug)]
pub(super) struct Client {
    pub encoding: Encoding,
    /// Pings are WebSocket's own.
    pub uses_frame_pings: bool,
    /// Commands that wait for an answer.
    pub calls: Vec<Call>,
    /// Commands that must wait for an earlier one, and when they came. Meanwhile nothing is read.
    pub deferred: Vec<u8>,
    pub deferred_at: Arrival,
    pub unread: Unread,
    /// Allowances of refused commands, and of subscribing.
    pub errors: Option<Bucket>,
    pub subscribes: Option<Bucket>,
}

/// When a frame came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrival {
    /// Deadlines count from here: not later than it came, and not later than it was read.
    pub ms: u64,
    /// The shard's turn in which it was read: its sender did not know what was decided in that or later.
    pub turn: u64,
    /// It may have been there unread since `ms`.
    pub was_unread: bool,
}

/// What has come while a connection was not read is read when that goes on, and its sender may have waited all the time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unread {
    /// When the reading stopped.
    since_ms: u64,
    /// Until then what is read may be of that time.
    until_ms: u64,
    /// How many frames may be. Without an end a client that asks again at once would be late for ever.
    left: u8,
}

impl Unread {
    /// How long after reading goes on what is read may have been there.
    const AFTER_MS: u64 = 5;

    /// Reading stops with this frame. What may have been unread then may still be of that time.
    pub fn begin(&mut self, frame: Arrival, now_ms: u64) {
        if !frame.was_unread {
            *self = Unread { since_ms: now_ms, until_ms: 0, left: 64 };
        }
    }

    /// Reading goes on.
    pub fn end(&mut self, now_ms: u64) {
        self.until_ms = now_ms + Unread::AFTER_MS;
    }

    /// When a frame came that is read now.
    pub fn arrival(&mut self, now_ms: u64, turn: u64) -> Arrival {
        if now_ms >= self.until_ms || self.left == 0 {
            return Arrival { ms: now_ms, turn, was_unread: false };
        }
        self.left -= 1;
        Arrival { ms: self.since_ms, turn, was_unread: true }
    }
}

/// One channel of a connection.
#[derive(Debug)]
pub(super) struct Subscription {
    /// As clients name it: `room:<key>` or `live:<name>`.
    pub name: Arc<str>,
    pub place: Place,
    /// Of the publishes to it: what was sent before one ended with error 100 must end so too. What is under way is told
    /// by its era, what had come but had not been looked at by the turn in which that was decided.
    pub era: u32,
    pub refused_turn: u64,
    /// Publishes to it, and reads of it, that are under way.
    pub publishing: u32,
    pub reading: u32,
}

#[derive(Debug)]
pub(super) enum Place {
    /// On the way in.
    Entering(Box<Subscribing>),
    /// Its feed, and its index among the feed's subscribers.
    In { feed: u32, index: u32 },
}

/// A `subscribe` that is under way.
#[derive(Debug)]
pub(super) struct Subscribing {
    pub entering: Entering,
    pub command: u32,
    pub deadline_ms: u64,
    pub wants_presence: bool,
    /// A position that does not exist is an error.
    pub is_strict: bool,
}

/// A command that waits for an answer.
#[derive(Debug)]
pub(super) struct Call {
    pub serial: u32,
    pub command: u32,
    pub arrival: Arrival,
    /// None: the answer to a publish comes in time by itself.
    pub deadline_ms: Option<u64>,
    /// The subscription that it is about; none, or one that is gone: `None`.
    pub key: Option<u32>,
    pub kind: CallKind,
}

#[derive(Debug)]
pub(super) enum CallKind {
    Publish {
        room: RoomId,
    },
    RpcPublish {
        room: RoomId,
    },
    /// With the epoch that it must be; empty: any.
    History(Box<str>),
    Presence {
        wants_clients: bool,
    },
    Read,
    ReadNumber {
        room: RoomId,
    },
    Rooms {
        limit: usize,
    },
    Refresh(Box<Claims>),
}

impl CallKind {
    /// Whether the store is asked for it, but for publishes.
    pub fn is_read(&self) -> bool {
        matches!(self, CallKind::History(_) | CallKind::Read | CallKind::ReadNumber { .. } | CallKind::Rooms { .. })
    }
}

impl Session {
    pub fn new(user: User, claims: &Claims, grace_ms: u64, subscriptions: Slab<Subscription>, voice: Voice) -> Session {
        Session {
            user,
            generation: claims.generation,
            issued_at_s: claims.issued_at,
            expires_unix_ms: expiry_ms(claims, grace_ms),
            subscriptions,
            behind: VecDeque::new(),
            reading: None,
            outstanding: 0,
            era: 0,
            serial: 0,
            voice,
        }
    }

    pub fn client(&self) -> Option<&Client> {
        match &self.voice {
            Voice::Centrifuge(client) => Some(client),
            Voice::Plain(_) => None,
        }
    }

    pub fn client_mut(&mut self) -> Option<&mut Client> {
        match &mut self.voice {
            Voice::Centrifuge(client) => Some(client),
            Voice::Plain(_) => None,
        }
    }

    pub fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// The subscription to the channel that clients name so.
    pub fn key_of(&self, name: &str) -> Option<u32> {
        let mut subscriptions = self.subscriptions.iter();
        subscriptions.find(|(_, subscription)| &*subscription.name == name).map(|(key, _)| key as u32)
    }

    /// The feed that a subscription is in, and its index there.
    pub fn place(&self, key: u32) -> Option<(u32, u32)> {
        match self.subscriptions.get(key as usize)?.place {
            Place::In { feed, index } => Some((feed, index)),
            Place::Entering(_) => None,
        }
    }
}

impl Subscription {
    pub fn new(name: Arc<str>, place: Place, era: u32) -> Subscription {
        Subscription { name, place, era, refused_turn: 0, publishing: 0, reading: 0 }
    }

    /// Whether a publish in this frame was sent before its sender could know that an earlier one ended with error 100.
    fn has_refused(&self, frame: Arrival) -> bool {
        frame.turn <= self.refused_turn
    }
}

impl Client {
    pub fn new(encoding: Encoding, uses_frame_pings: bool) -> Client {
        Client {
            encoding,
            uses_frame_pings,
            calls: Vec::new(),
            deferred: Vec::new(),
            deferred_at: Arrival::default(),
            unread: Unread::default(),
            errors: None,
            subscribes: None,
        }
    }

    /// Takes a call off the list.
    pub fn take_call(&mut self, serial: u32) -> Option<Call> {
        let index = self.calls.iter().position(|call| call.serial == serial)?;
        let call = self.calls.remove(index);
        // Mostly none is left, and a connection that rests keeps no memory for them.
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
        Some(call)
    }
}

/// When a connection with this token is ended, in Unix milliseconds.
pub(super) fn expiry_ms(claims: &Claims, grace_ms: u64) -> u64 {
    claims.expires_at.saturating_mul(1000).saturating_add(grace_ms)
}

impl Shard {
    /// A text frame of an open plain connection.
    pub(super) fn said(&mut self, now: Now, slot: u32, text: &str, host: &mut impl Host) {
        self.meter.figures.borrow_mut().received += 1;
        let Some(session) = self.connections[slot as usize].session() else { return };
        let Voice::Plain(input) = session.voice else { return };
        let Some((feed, _)) = session.place(PLAIN_KEY) else { return };
        let result = match self.feeds[feed as usize].channel {
            Channel::Room(_) => self.said_in_room(now, slot, text, input, host),
            Channel::Live(_) => self.said_live(now, slot, text, input, host).map_err(|error| (error, None)),
        };
        if let Err((error, id)) = result {
            self.count_refused(error.code, host);
            self.tell(now, slot, &plain::error(&error, id.as_deref()), host);
        }
    }

    fn said_in_room(
        &mut self,
        now: Now,
        slot: u32,
        text: &str,
        input: plain::InputFormat,
        host: &mut impl Host,
    ) -> Result<(), (ProtocolError, Option<String>)> {
        let limit = self.config.limits.text_limit_bytes as usize;
        let mut publish = plain::decode(text, input, limit).map_err(|refused| (refused.error, refused.id))?;
        let id = publish.id.take();
        self.take_publish(now, slot).map_err(|error| (error, id.clone()))?;
        let id: Arc<str> = id.map_or_else(|| self.make_id(), Into::into);
        let arrival = Arrival { ms: now.ms, turn: self.turns, was_unread: false };
        let sent = self.append(slot, PLAIN_KEY, &id, publish, arrival, host);
        sent.map_err(|error| (error, Some(id.to_string())))?;
        let pending_limit = self.config.limits.pending_publishes_limit;
        let connection = &mut self.connections[slot as usize];
        if let Some(session) = connection.session() {
            // It is read again when the database has caught up with it: a script that pipes a file waits, and loses
            // nothing.
            connection.is_paused = u64::from(session.outstanding) >= pending_limit;
        }
        Ok(())
    }

    /// Sends an item to the home of its room. Returns the serial of the call that is answered by `appended`.
    pub(super) fn append(
        &mut self,
        slot: u32,
        key: u32,
        id: &Arc<str>,
        publish: Publish,
        arrival: Arrival,
        host: &mut impl Host,
    ) -> Result<u32, ProtocolError> {
        let denied = || ProtocolError::new(protocol::PERMISSION_DENIED, NOT_SUBSCRIBED);
        let session = self.connections[slot as usize].session().ok_or_else(denied)?;
        let (feed_id, _) = session.place(key).ok_or_else(denied)?;
        let feed = &self.feeds[feed_id as usize];
        let (Channel::Room(room), home) = (feed.channel.clone(), feed.home) else { return Err(denied()) };
        let is_refused = session.subscriptions[key as usize].has_refused(arrival);
        // The credit also bounds what a shard's own connections have under way in rooms at home here.
        if is_refused || !self.take_credit(Endpoint::Shard(home)) {
            self.refuse_publishes(slot, key);
            return Err(Denied::Overloaded.error());
        }
        let session = self.connections[slot as usize].session_mut().ok_or_else(denied)?;
        let serial = session.next_serial();
        session.outstanding += 1;
        let subscription = &mut session.subscriptions[key as usize];
        subscription.publishing += 1;
        let (user, era) = (session.user.clone(), subscription.era);
        let append = Box::new(Append {
            caller: self.caller(slot, serial),
            era,
            deadline_ms: arrival.ms + self.config.limits.append_deadline_ms,
            item: Item {
                room,
                user: user.id,
                id: Arc::clone(id),
                kind: publish.kind,
                target: publish.target,
                body: publish.body.map(Into::into),
            },
            username: user.username,
        });
        if home == self.config.id {
            self.home_append(append, host);
        } else {
            host.mesh(Endpoint::Shard(home), Message::Append(append));
        }
        Ok(serial)
    }

    /// A publish to this subscription has ended with error 100: those that have come already must end so too, so that a
    /// retry cannot change the order.
    pub(super) fn refuse_publishes(&mut self, slot: u32, key: u32) {
        let turn = self.turns;
        let Some(session) = self.connections[slot as usize].session_mut() else { return };
        if let Some(subscription) = session.subscriptions.get_mut(key as usize) {
            subscription.refused_turn = turn;
        }
    }

    fn said_live(
        &mut self,
        now: Now,
        slot: u32,
        text: &str,
        input: plain::InputFormat,
        host: &mut impl Host,
    ) -> Result<(), ProtocolError> {
        data::check_length(text, self.config.limits.text_limit_bytes as usize)?;
        let is_json = input == plain::InputFormat::Json;
        let data: Arc<str> = if is_json {
            let compact = data::compact(text.as_bytes());
            compact.ok_or_else(|| ProtocolError::new(protocol::BAD_REQUEST, "each frame must be JSON"))?.into()
        } else {
            text.into()
        };
        self.publish_live(now, slot, PLAIN_KEY, data, is_json, host)
    }

    /// Sends a message to the home of its `live:` channel.
    pub(super) fn publish_live(
        &mut self,
        now: Now,
        slot: u32,
        key: u32,
        data: Arc<str>,
        is_json: bool,
        host: &mut impl Host,
    ) -> Result<(), ProtocolError> {
        self.take_publish(now, slot)?;
        let Some(session) = self.connections[slot as usize].session() else { return Ok(()) };
        let Some((feed_id, _)) = session.place(key) else { return Ok(()) };
        let entry = LiveEntry { user: session.user.clone(), time: now.unix_ms, data, is_json };
        let feed = &self.feeds[feed_id as usize];
        let home = feed.home;
        if home == self.config.id {
            let channel = feed.channel.clone();
            self.home_live(&channel, entry);
        } else if let Channel::Live(channel) = feed.channel.clone() {
            if !self.take_credit(Endpoint::Shard(home)) {
                return Err(Denied::Overloaded.error());
            }
            host.mesh(Endpoint::Shard(home), Message::Live { channel, entry: Box::new(entry) });
        }
        Ok(())
    }

    /// Takes one publish out of the user's allowance.
    pub(super) fn take_publish(&mut self, now: Now, slot: u32) -> Result<(), ProtocolError> {
        let (rate, burst) = (self.config.limits.publish_rate_per_second, self.config.limits.publish_burst_limit);
        let Some(session) = self.connections[slot as usize].session() else { return Ok(()) };
        if rate == 0 {
            return Ok(());
        }
        let state = self.users.entry(session.user.id).or_default();
        if state.publishes.get_or_insert_with(|| Bucket::full(burst, now.ms)).take(rate, burst, now.ms) {
            return Ok(());
        }
        let text = format!(
            "more than {rate} messages a second; slow down (--limit publish_rate_per_second, publish_burst_limit)"
        );
        Err(ProtocolError::new(protocol::TOO_MANY_REQUESTS, text))
    }

    /// An id for a message that has none: every item can then be sent to the database again.
    pub(super) fn make_id(&mut self) -> Arc<str> {
        self.ids_made += 1;
        format!("~{:x}.{:x}.{:x}", self.config.seed, self.config.id, self.ids_made).into()
    }

    /// A publish of one of this shard's connections was answered.
    pub(super) fn appended(
        &mut self,
        now: Now,
        caller: Caller,
        era: u32,
        id: &str,
        result: Result<Outcome, NotKnown>,
        host: &mut impl Host,
    ) {
        let slot = caller.slot;
        let is_draining = self.is_draining();
        let Some(session) = self.connection_of(caller).and_then(|c| c.session_mut()) else { return };
        session.outstanding = session.outstanding.saturating_sub(1);
        let outstanding = session.outstanding;
        let call = session.client_mut().map(|client| client.take_call(caller.serial));
        match call {
            // A plain connection.
            None => {
                self.settle_publish(slot, Some(PLAIN_KEY), None, era, &result);
                self.told_plainly(now, slot, id, result, host);
            }
            Some(None) => debug_assert!(false, "a publish waits until it is answered"),
            Some(Some(call)) => {
                let (CallKind::Publish { room } | CallKind::RpcPublish { room }) = call.kind else { return };
                self.settle_publish(slot, call.key, Some(room), era, &result);
                self.publish_answered(now, slot, &call, result, host);
                self.go_on_with_deferred(slot);
            }
        }
        if is_draining {
            if outstanding == 0 {
                self.end_soon(now, slot);
            }
        } else if u64::from(outstanding) <= self.config.limits.pending_publishes_limit / 2
            && self.connections[slot as usize].session().is_some_and(|session| session.client().is_none())
        {
            self.resume(now, slot, host);
        }
    }

    /// Takes a publish off its subscription's count, and begins a new era where it ended with error 100.
    fn settle_publish(
        &mut self,
        slot: u32,
        key: Option<u32>,
        room: Option<RoomId>,
        era: u32,
        result: &Result<Outcome, NotKnown>,
    ) {
        let turn = self.turns;
        let feeds = &self.feeds;
        let Some(session) = self.connections[slot as usize].session_mut() else { return };
        if let Some(subscription) = key.and_then(|key| session.subscriptions.get_mut(key as usize)) {
            subscription.publishing = subscription.publishing.saturating_sub(1);
        }
        if *result != Err(NotKnown) {
            return;
        }
        // The subscription may be another one than that to which it was published: it is the room that counts.
        let same = session.subscriptions.iter_mut().map(|(_, subscription)| subscription).find(|subscription| {
            let Place::In { feed, .. } = subscription.place else { return false };
            room.is_none_or(|room| feeds.get(feed as usize).is_some_and(|f| f.channel == Channel::Room(room)))
        });
        if let Some(subscription) = same.filter(|subscription| subscription.era <= era) {
            subscription.refused_turn = turn;
            session.era = session.era.max(era) + 1;
            subscription.era = session.era;
        } else {
            session.era = session.era.max(era + 1);
        }
    }

    fn told_plainly(&mut self, now: Now, slot: u32, id: &str, result: Result<Outcome, NotKnown>, host: &mut impl Host) {
        let error = match result {
            // The message itself, which the sender receives like everyone else, is the acknowledgement.
            Ok(Outcome::New(_)) => return,
            Ok(Outcome::Duplicate(stored)) => return self.tell(now, slot, &plain::ack(id, stored), host),
            Ok(Outcome::Refused(refusal)) => refused(refusal),
            Err(NotKnown) => not_known(),
        };
        self.count_refused(error.code, host);
        self.tell(now, slot, &plain::error(&error, Some(id)), host);
    }

    /// One more refusal with this code.
    pub(super) fn count_refused(&mut self, code: u16, host: &mut impl Host) {
        if figures::count(&mut self.meter.figures.borrow_mut().errors, code) {
            host.note_first(Refused::Message, code);
        }
    }

    /// Puts one text frame of a connection's own into its queue.
    fn tell(&mut self, now: Now, slot: u32, json: &[u8], host: &mut impl Host) {
        let mut out = Vec::with_capacity(json.len() + 10);
        frame::push_text(&mut out, json);
        self.push(now, slot, out.into(), host);
    }

    /// Adds a reply to what this connection is told at the end of the turn, or before the next thing that it is sent.
    pub(super) fn reply(&mut self, slot: u32, id: u32, reply: Reply<'_>) {
        self.add_reply(slot, |encoding, out| crate::protocol::centrifuge::push_reply(encoding, out, id, reply));
    }

    /// The same for anything that becomes part of such a frame.
    pub(super) fn add_reply(&mut self, slot: u32, write: impl FnOnce(Encoding, &mut Vec<u8>)) {
        let flush_bytes = (self.config.limits.outbound_message_limit_bytes / 8) as usize;
        let limit = self.config.limits.outbound_limit_bytes;
        let connection = &mut self.connections[slot as usize];
        let Some(encoding) = connection.encoding() else { return };
        if connection.outbound.bytes() + connection.replies.len() as u64 > limit {
            connection.overflows = true;
            return self.replying.push(slot);
        }
        // What an SDK takes in one frame is limited; a single reply is so by whoever makes it.
        if connection.replies.len() >= flush_bytes {
            connection.enqueue_replies(self.meter.clock_ms.get(), &self.meter);
        }
        if connection.replies.is_empty() {
            self.replying.push(slot);
        }
        write(encoding, &mut connection.replies);
    }
}

/// The key of a plain connection's only subscription.
const PLAIN_KEY: u32 = 0;

pub(super) const NOT_SUBSCRIBED: &str = "this connection is not subscribed to the channel";

pub(super) fn refused(refusal: Refusal) -> ProtocolError {
    let code = match refusal {
        Refusal::NoRoom => protocol::UNKNOWN_CHANNEL,
        Refusal::NotMember | Refusal::NotYours => protocol::PERMISSION_DENIED,
        Refusal::NoTarget | Refusal::IdReused | Refusal::BadData => protocol::BAD_REQUEST,
    };
    ProtocolError::new(code, refusal.to_string())
}

pub(super) fn not_known() -> ProtocolError {
    let text = "it is not known whether the message was stored; send it again with the same id";
    ProtocolError::new(protocol::INTERNAL, text)
}
