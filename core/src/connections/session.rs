//! The state of an open connection: its user, its subscriptions, and the commands that wait for an answer.

use super::failures::Failures;
use super::joining::Joining;
use crate::ids::{CommandId, FeedId, Serial, SubscriptionKey};
use crate::message::Interest;
use crate::protocol::centrifuge::Encoding;
use crate::protocol::plain;
use slab::Slab;
use std::collections::VecDeque;
use std::sync::Arc;
use uproar_model::fairness::Bucket;
use uproar_model::{Claims, Epoch, RoomId, User};

/// The key of a plain connection's only subscription.
pub(crate) const PLAIN_KEY: SubscriptionKey = SubscriptionKey(0);

#[derive(Debug)]
pub(crate) struct Session {
    pub user: User,
    /// The generation and issue time (Unix seconds) of the token.
    pub generation: Option<u32>,
    pub issued_at_s: u64,
    /// When the token, and the grace after it, expires.
    pub expires_unix_ms: u64,
    /// By [`SubscriptionKey`]. A plain connection has one.
    pub subscriptions: Slab<Subscription>,
    /// Subscriptions that have not been given everything that was shown, in the order in which they are served.
    pub behind: VecDeque<SubscriptionKey>,
    /// The page that is being read for one of them.
    pub reading: Option<(Serial, SubscriptionKey, Interest)>,
    /// Since when the store has not answered with a page, and when it is asked again.
    pub unanswered: Option<(u64, u64)>,
    /// The number of publishes under way.
    pub outstanding: u32,
    /// The latest era that a lane has begun for one of its rooms.
    pub era: u32,
    pub failures: Failures,
    pub serial: Serial,
    pub dialect: Dialect,
}

/// The protocol that a connection speaks.
#[derive(Debug)]
pub(crate) enum Dialect {
    Plain(plain::InputFormat),
    Centrifuge(Box<Client>),
}

/// What a connection of the Centrifugo protocol has in addition.
#[derive(Debug)]
pub(crate) struct Client {
    pub encoding: Encoding,
    /// The client wants WebSocket pings instead of the protocol's.
    pub uses_frame_pings: bool,
    /// Commands that wait for an answer.
    pub calls: Vec<Call>,
    /// Commands that must wait for an earlier one, and when they arrived. Nothing is read in the meantime.
    pub deferred: Vec<u8>,
    pub deferred_at: Arrival,
    pub unread: Unread,
    /// Allowances of refused commands, and of subscribes.
    pub errors: Option<Bucket>,
    pub subscribes: Option<Bucket>,
}

/// When a frame arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrival {
    /// The time from which deadlines count. The frame arrived no earlier, and was read no earlier.
    pub ms: u64,
    /// The frame may have been waiting unread since `ms`.
    pub was_unread: bool,
}

/// While a connection is not read, its frames wait in the socket. When reading continues, the first frames may have
/// been waiting since it stopped, and so may their senders.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unread {
    /// When reading stopped.
    since_ms: u64,
    /// Frames that are read before this time may have waited.
    until_ms: u64,
    /// How many more frames may have waited. Without a bound, a client that asks again immediately would be late for
    /// ever.
    left: u8,
}

impl Unread {
    /// How long after reading continues a frame may count as one that waited.
    const AFTER_MS: u64 = 5;

    /// Reading stops with this frame.
    pub fn stop(&mut self, frame: Arrival, now_ms: u64) {
        if !frame.was_unread {
            *self = Unread { since_ms: now_ms, until_ms: 0, left: 64 };
        }
    }

    /// Reading continues.
    pub fn resume(&mut self, now_ms: u64) {
        self.until_ms = now_ms + Unread::AFTER_MS;
    }

    /// The arrival of a frame that is read now.
    pub fn arrival(&mut self, now_ms: u64) -> Arrival {
        if now_ms >= self.until_ms || self.left == 0 {
            return Arrival { ms: now_ms, was_unread: false };
        }
        self.left -= 1;
        Arrival { ms: self.since_ms, was_unread: true }
    }
}

/// A connection's subscription to one channel.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// The channel as clients name it: `room:<key>` or `live:<name>`.
    pub name: Arc<str>,
    pub state: SubscriptionState,
    /// The feed of the room to which the `live:` channel belongs, if it belongs to one. The subscription is a guest
    /// there.
    pub room_feed: Option<FeedId>,
    /// The era of its publishes. When a lane answers one with error 100, those that are on their way to the lane end
    /// the same way: the lane recognises them by their era.
    pub era: u32,
    /// Publishes and reads of this channel that are under way.
    pub publishing: u32,
    pub reading: u32,
}

#[derive(Debug)]
pub(crate) enum SubscriptionState {
    Joining(Box<Subscribing>),
    /// `index` counts within the feed's subscribers.
    Joined {
        feed: FeedId,
        index: u32,
    },
}

/// A `subscribe` that is under way.
#[derive(Debug)]
pub(crate) struct Subscribing {
    pub joining: Joining,
    pub command: CommandId,
    pub deadline_ms: u64,
    pub wants_presence: bool,
    /// A position that does not exist is an error.
    pub is_strict: bool,
}

/// A command that waits for an answer.
#[derive(Debug)]
pub(crate) struct Call {
    pub serial: Serial,
    pub command: CommandId,
    pub arrival: Arrival,
    /// `None` for a publish: its lane answers in time.
    pub deadline_ms: Option<u64>,
    /// The subscription that the command is about. `None` if there is none, or if it is gone.
    pub key: Option<SubscriptionKey>,
    pub kind: CallKind,
    /// In the reader's answer, if the reader was asked.
    pub _interest: Option<Interest>,
}

#[derive(Debug)]
pub(crate) enum CallKind {
    Publish {
        room: RoomId,
    },
    RpcPublish {
        room: RoomId,
    },
    History {
        /// The epoch that the client expects; empty for any.
        epoch: Box<str>,
    },
    Presence {
        wants_clients: bool,
    },
    Read {
        room: RoomId,
    },
    ReadNumber {
        room: RoomId,
        /// The epoch that the offset belongs to.
        epoch: Option<Epoch>,
    },
    Rooms {
        limit: usize,
    },
    Refresh(Box<Claims>),
}

impl CallKind {
    /// Whether the call is a publish to this room.
    pub fn publishes_to(&self, to: RoomId) -> bool {
        matches!(self, CallKind::Publish { room } | CallKind::RpcPublish { room } if *room == to)
    }

    /// Whether the call reads from the store, or who is in a channel.
    pub fn is_read(&self) -> bool {
        use CallKind::{History, Presence, Read, ReadNumber, Rooms};
        matches!(self, History { .. } | Presence { .. } | Read { .. } | ReadNumber { .. } | Rooms { .. })
    }
}

impl Session {
    pub fn new(
        user: User,
        claims: &Claims,
        grace_ms: u64,
        subscriptions: Slab<Subscription>,
        dialect: Dialect,
    ) -> Session {
        Session {
            user,
            generation: claims.generation,
            issued_at_s: claims.issued_at,
            expires_unix_ms: expiry_ms(claims, grace_ms),
            subscriptions,
            behind: VecDeque::new(),
            reading: None,
            unanswered: None,
            outstanding: 0,
            era: 0,
            failures: Failures::default(),
            serial: Serial(0),
            dialect,
        }
    }

    pub fn client(&self) -> Option<&Client> {
        match &self.dialect {
            Dialect::Centrifuge(client) => Some(client),
            Dialect::Plain(_) => None,
        }
    }

    pub fn client_mut(&mut self) -> Option<&mut Client> {
        match &mut self.dialect {
            Dialect::Centrifuge(client) => Some(client),
            Dialect::Plain(_) => None,
        }
    }

    pub fn next_serial(&mut self) -> Serial {
        self.serial = self.serial.next();
        self.serial
    }

    /// The subscription to the channel with this name.
    pub fn key_of(&self, name: &str) -> Option<SubscriptionKey> {
        let mut subscriptions = self.subscriptions.iter();
        subscriptions.find(|(_, subscription)| &*subscription.name == name).map(|(key, _)| SubscriptionKey(key as u32))
    }

    pub fn subscription(&self, key: SubscriptionKey) -> Option<&Subscription> {
        self.subscriptions.get(key.index())
    }

    pub fn subscription_mut(&mut self, key: SubscriptionKey) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(key.index())
    }

    /// The feed of a subscription that has joined, and its index among the feed's subscribers.
    pub fn joined(&self, key: SubscriptionKey) -> Option<(FeedId, u32)> {
        match self.subscription(key)?.state {
            SubscriptionState::Joined { feed, index } => Some((feed, index)),
            SubscriptionState::Joining(_) => None,
        }
    }

    /// Whether a publish to this room is under way.
    pub fn is_publishing(&self, room: RoomId) -> bool {
        match &self.dialect {
            Dialect::Plain(_) => self.outstanding > 0,
            Dialect::Centrifuge(client) => client.calls.iter().any(|call| call.kind.publishes_to(room)),
        }
    }

    /// The subscription that has joined this feed.
    pub fn key_in(&self, feed_id: FeedId) -> Option<SubscriptionKey> {
        let mut subscriptions = self.subscriptions.iter();
        let is_in = |s: &Subscription| matches!(s.state, SubscriptionState::Joined { feed, .. } if feed == feed_id);
        subscriptions.find(|(_, s)| is_in(s)).map(|(key, _)| SubscriptionKey(key as u32))
    }
}

impl Subscription {
    pub fn new(name: Arc<str>, state: SubscriptionState, era: u32) -> Subscription {
        Subscription { name, state, room_feed: None, era, publishing: 0, reading: 0 }
    }

    /// A lane has answered a publish with error 100, and begun this era. Returns false if that is known: then the
    /// publish has failed together with an earlier one.
    pub fn begin_era(&mut self, era: u32) -> bool {
        let is_new = era > self.era;
        self.era = self.era.max(era);
        is_new
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
    pub fn take_call(&mut self, serial: Serial) -> Option<Call> {
        let index = self.calls.iter().position(|call| call.serial == serial)?;
        let call = self.calls.remove(index);
        // Usually no other call is left, and an idle connection should hold no memory for them.
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
        Some(call)
    }
}

/// When a connection with this token is closed, in Unix milliseconds.
pub(crate) fn expiry_ms(claims: &Claims, grace_ms: u64) -> u64 {
    claims.expires_at.saturating_mul(1000).saturating_add(grace_ms)
}
