//! From wanting a channel to being in it: membership (which joins a public room) → the channel's feed on this shard →
//! the position from which to go on. The same for the upgrade of a plain connection and for a `subscribe`.

use super::feed::Feed;
use super::host::{Host, Now};
use super::message::{Answer, Ask, Asker, AttachOutcome, Caller, Channel, CheckOutcome, Endpoint, Message, UserEvent};
use super::session::Place;
use super::shard::Shard;
use crate::protocol::{self, Entry, ProtocolError};
use std::sync::Arc;
use uproar_model::{Admission, JoinError, Kind, Offset, TokenError, User};

/// The longest name of a `live:` channel, without the prefix, in bytes.
pub(super) const LIVE_NAME_LIMIT_BYTES: usize = 255;

/// Whether a `live:` channel may have this name, without the prefix.
pub(super) fn is_live_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= LIVE_NAME_LIMIT_BYTES && !name.chars().any(char::is_control)
}

/// Somebody on the way into a channel.
#[derive(Debug)]
pub(super) struct Entering {
    /// As clients name it: `room:<key>` or `live:<name>`.
    pub name: Arc<str>,
    pub since: Option<Since>,
    admission: Option<Admission>,
    /// The last committed offset as the home read it, where `since` was above this shard's position.
    top: Option<Offset>,
    /// Of the question that is under way.
    pub serial: u32,
}

/// A position from which to go on.
#[derive(Clone, Debug)]
pub(super) struct Since {
    pub offset: Offset,
    pub epoch: Option<String>,
}

/// Who is on the way: a plain connection that waits for the answer to its upgrade, or one subscription of an open one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Upgrade,
    Subscription(u32),
}

/// Why somebody does not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    NoRoom,
    RoomFull,
    /// The token's user was deleted.
    NoUser,
    SignedOut,
    /// The position asked for does not exist, and the client wants an error then.
    Unrecoverable,
    Overloaded,
    Unavailable,
}

impl Denied {
    /// HTTP status, code and text.
    pub fn http(self) -> (u16, &'static str, String) {
        let (status, code) = match self {
            Denied::NoRoom => (404, "no_such_room"),
            Denied::RoomFull => (409, "room_full"),
            Denied::NoUser | Denied::SignedOut => (401, "token_invalid"),
            Denied::Unrecoverable => (409, "unrecoverable_position"),
            Denied::Overloaded => (503, "overloaded"),
            Denied::Unavailable => (503, "unavailable"),
        };
        (status, code, self.text())
    }

    /// The error reply to a `subscribe`.
    pub fn error(self) -> ProtocolError {
        let code = match self {
            Denied::NoRoom => protocol::UNKNOWN_CHANNEL,
            Denied::RoomFull => protocol::LIMIT_EXCEEDED,
            Denied::NoUser | Denied::SignedOut => protocol::PERMISSION_DENIED,
            Denied::Unrecoverable => protocol::UNRECOVERABLE_POSITION,
            Denied::Overloaded | Denied::Unavailable => protocol::INTERNAL,
        };
        ProtocolError::new(code, self.text())
    }

    fn text(self) -> String {
        match self {
            Denied::NoRoom => "there is no such room".into(),
            Denied::RoomFull => "the room is full".into(),
            Denied::NoUser => TokenError::Invalid.to_string(),
            Denied::SignedOut => "the token's user has signed out; sign in again".into(),
            Denied::Unrecoverable => "the position does not exist in this room; begin anew".into(),
            Denied::Overloaded => "the server has too much to do; try again".into(),
            Denied::Unavailable => "the database does not answer; try again".into(),
        }
    }
}

impl Entering {
    pub fn new(name: Arc<str>, since: Option<Since>) -> Entering {
        Entering { name, since, admission: None, top: None, serial: 0 }
    }

    /// The room's key; none for a `live:` channel.
    fn room_key(&self) -> Option<&str> {
        self.name.strip_prefix("room:")
    }

    fn channel(&self) -> Option<Channel> {
        match (&self.admission, self.name.strip_prefix("live:")) {
            (_, Some(name)) => Some(Channel::Live(name.into())),
            (Some(admission), None) => Some(Channel::Room(admission.room)),
            (None, None) => None,
        }
    }
}

impl Shard {
    pub(super) fn entering_mut(&mut self, slot: u32, door: Door) -> Option<&mut Entering> {
        let connection = &mut self.connections[slot as usize];
        match door {
            Door::Upgrade => connection.handshake_mut().map(|handshake| &mut handshake.entering),
            Door::Subscription(key) => {
                match &mut connection.session_mut()?.subscriptions.get_mut(key as usize)?.place {
                    Place::Entering(command) => Some(&mut command.entering),
                    Place::In { .. } => None,
                }
            }
        }
    }

    /// Who is at this door, when the answer to this call is still awaited there.
    pub(super) fn door_of(&mut self, caller: Caller) -> Option<Door> {
        let connection = self.connection_of(caller)?;
        if let Some(handshake) = connection.handshake_mut() {
            return (handshake.entering.serial == caller.serial).then_some(Door::Upgrade);
        }
        let subscriptions = &connection.session()?.subscriptions;
        let mut entering = subscriptions.iter().filter_map(|(key, subscription)| match &subscription.place {
            Place::Entering(command) => Some((key as u32, command.entering.serial)),
            Place::In { .. } => None,
        });
        entering.find(|(_, serial)| *serial == caller.serial).map(|(key, _)| Door::Subscription(key))
    }

    /// The caller of the next question on behalf of somebody who is entering.
    pub(super) fn next_caller(&mut self, slot: u32, door: Door) -> Option<Caller> {
        let serial = match self.connections[slot as usize].session_mut() {
            Some(session) => session.next_serial(),
            None => self.entering_mut(slot, door)?.serial.wrapping_add(1),
        };
        self.entering_mut(slot, door)?.serial = serial;
        Some(self.caller(slot, serial))
    }

    /// Asks the readers.
    pub(super) fn ask_at(&mut self, now: Now, slot: u32, door: Door, ask: Ask, host: &mut impl Host) {
        let Some(caller) = self.next_caller(slot, door) else { return };
        if !self.ask(Asker::Connection(caller), ask, host) {
            self.deny(now, slot, door, Denied::Overloaded, host);
        }
    }

    /// The first step.
    pub(super) fn enter(&mut self, now: Now, slot: u32, door: Door, user: &User, host: &mut impl Host) {
        let Some(entering) = self.entering_mut(slot, door) else { return };
        match entering.room_key() {
            Some(key) => {
                let ask = Ask::Admit { room: key.to_owned(), user: user.id };
                self.ask_at(now, slot, door, ask, host);
            }
            None => self.attach(now, slot, door, host),
        }
    }

    /// The readers answered.
    pub(super) fn entering_answered(&mut self, now: Now, slot: u32, door: Door, answer: Answer, host: &mut impl Host) {
        match answer {
            Answer::Admitted(Ok(admission)) => {
                let (Some(user), Some(entering)) = (self.user_at(slot), self.entering_mut(slot, door)) else { return };
                let joined =
                    admission.joined.then(|| UserEvent::Joined { room: entering.room_key().unwrap_or("").into() });
                entering.admission = Some(admission);
                if let Some(news) = joined {
                    self.tell_user(user.id, news, host);
                }
                self.attach(now, slot, door, host);
            }
            Answer::Admitted(Err(error)) => {
                let denied = match error {
                    JoinError::NoRoom => Denied::NoRoom,
                    JoinError::Full => Denied::RoomFull,
                    JoinError::NoUser => Denied::NoUser,
                };
                self.deny(now, slot, door, denied, host);
            }
            Answer::User(Some(found)) => self.user_found(now, slot, found, host),
            // Nobody can have such a name, whatever the token says.
            Answer::User(None) => self.deny(now, slot, door, Denied::NoUser, host),
            Answer::Failed => self.deny(now, slot, door, Denied::Unavailable, host),
            Answer::Head(_) | Answer::Page(_) | Answer::Marked(_) | Answer::Rooms(_) => {
                debug_assert!(false, "nobody asked for it here");
            }
        }
    }

    /// Who is connected, or about to be.
    fn user_at(&mut self, slot: u32) -> Option<User> {
        let connection = &mut self.connections[slot as usize];
        match connection.session() {
            Some(session) => Some(session.user.clone()),
            None => connection.handshake_mut().and_then(|handshake| handshake.user.clone()),
        }
    }

    /// To the channel's feed: at once where the channel is fed already.
    pub(super) fn attach(&mut self, now: Now, slot: u32, door: Door, host: &mut impl Host) {
        let Some(entering) = self.entering_mut(slot, door) else { return };
        let (Some(channel), name) = (entering.channel(), Arc::clone(&entering.name)) else { return };
        if let Some(&id) = self.feed_ids.get(&channel) {
            if self.feeds[id as usize].is_attached {
                return self.let_in(now, slot, door, id, host);
            }
            let Some(caller) = self.next_caller(slot, door) else { return };
            self.feeds[id as usize].waiting.push(caller);
            return;
        }
        let home = self.home_of(&channel);
        if home != self.config.id && !self.take_credit(Endpoint::Shard(home)) {
            return self.deny(now, slot, door, Denied::Overloaded, host);
        }
        let Some(caller) = self.next_caller(slot, door) else { return };
        let id = self.feeds.insert(Feed::new(channel.clone(), name, home, caller));
        self.feed_ids.insert(channel.clone(), id as u32);
        if home == self.config.id {
            self.home_attach(now, Endpoint::Shard(home), channel, host);
        } else {
            host.mesh(Endpoint::Shard(home), Message::Attach { channel });
        }
    }

    /// The home answered: the feed begins behind this position.
    pub(super) fn attached(&mut self, now: Now, channel: &Channel, outcome: AttachOutcome, host: &mut impl Host) {
        let Some(&id) = self.feed_ids.get(channel) else { return };
        let feed = &mut self.feeds[id as usize];
        if feed.is_attached {
            return;
        }
        let waiting = std::mem::take(&mut feed.waiting);
        let denied = match outcome {
            AttachOutcome::Attached { epoch, position } => {
                feed.is_attached = true;
                feed.epoch = epoch;
                feed.position = position;
                feed.served = position;
                None
            }
            AttachOutcome::NoRoom => Some(Denied::NoRoom),
            AttachOutcome::Failed => Some(Denied::Unavailable),
        };
        if denied.is_some() {
            self.remove_feed(id);
        }
        for caller in waiting {
            let Some(door) = self.door_of(caller) else { continue };
            match denied {
                Some(denied) => self.deny(now, caller.slot, door, denied, host),
                None => self.let_in(now, caller.slot, door, id, host),
            }
        }
        if let Some(feed) = self.feeds.get_mut(id as usize).filter(|_| denied.is_none())
            && feed.subscribers.is_empty()
        {
            feed.idle_since_ms = Some(now.ms);
            match channel {
                Channel::Room(_) => self.idle_feeds.push_back((now.ms, channel.clone())),
                Channel::Live(_) => self.idle_live.push(id),
            }
        }
    }

    /// The channel's feed is there (or just came): finds where to go on, and lets them in.
    fn let_in(&mut self, now: Now, slot: u32, door: Door, feed_id: u32, host: &mut impl Host) {
        let Some(user) = self.user_at(slot) else { return };
        if door == Door::Upgrade && self.has_signed_out(slot, &user) {
            return self.deny(now, slot, door, Denied::SignedOut, host);
        }
        let Some(feed) = self.feeds.get(feed_id as usize) else { return };
        let (position, epoch) = (feed.position, feed.epoch.clone());
        let Some(entering) = self.entering_mut(slot, door) else { return };
        // The membership was read at some offset; what came between there and here may have taken it away.
        if let Some(read_at) = entering.admission.as_ref().map(|admission| admission.offset)
            && position > read_at
            && !self.feeds[feed_id as usize].is_still_member(&user, read_at)
        {
            return self.enter(now, slot, door, &user, host);
        }
        let Some(entering) = self.entering_mut(slot, door) else { return };
        let top = entering.top.unwrap_or(position).max(position);
        let (cursor, recovered) = match (&entering.since, &epoch) {
            (None, _) | (_, None) => (position, None),
            (Some(since), Some(current)) if since.epoch.as_deref().is_some_and(|e| e != &*current.0) => {
                (position, Some(false))
            }
            (Some(since), _) if since.offset <= top => (since.offset, Some(true)),
            (Some(_), _) if entering.top.is_some() => (position, Some(false)),
            (Some(_), _) => return self.ask_top(now, slot, door, feed_id, host),
        };
        match door {
            Door::Upgrade => self.open(now, slot, feed_id, cursor, recovered, host),
            Door::Subscription(key) => self.subscribed(now, slot, key, feed_id, (cursor, recovered), host),
        }
    }

    /// A position above ours is either news that has not come here yet, or nonsense: the home looks.
    fn ask_top(&mut self, now: Now, slot: u32, door: Door, feed_id: u32, host: &mut impl Host) {
        let feed = &self.feeds[feed_id as usize];
        let (Channel::Room(room), home) = (feed.channel.clone(), feed.home) else { return };
        let Some(caller) = self.next_caller(slot, door) else { return };
        if home == self.config.id {
            self.home_check(now, room, caller, host);
        } else if self.take_credit(Endpoint::Shard(home)) {
            host.mesh(Endpoint::Shard(home), Message::Check { room, caller });
        } else {
            self.deny(now, slot, door, Denied::Overloaded, host);
        }
    }

    /// The home answered where the room's log ends.
    pub(super) fn checked(&mut self, now: Now, caller: Caller, top: CheckOutcome, host: &mut impl Host) {
        let Some(door) = self.door_of(caller) else { return };
        match top {
            CheckOutcome::Top(offset) => {
                if let Some(entering) = self.entering_mut(caller.slot, door) {
                    entering.top = Some(offset);
                }
                self.attach(now, caller.slot, door, host);
            }
            CheckOutcome::NoRoom => self.deny(now, caller.slot, door, Denied::NoRoom, host),
            CheckOutcome::Failed => self.deny(now, caller.slot, door, Denied::Unavailable, host),
        }
    }

    pub(super) fn deny(&mut self, now: Now, slot: u32, door: Door, denied: Denied, host: &mut impl Host) {
        match door {
            Door::Upgrade => {
                let (status, code, text) = denied.http();
                self.refuse(now, slot, status, code, &text, host);
            }
            Door::Subscription(key) => self.subscribe_failed(now, slot, key, &denied.error(), host),
        }
    }
}

impl Feed {
    /// Whether a user who was a member at this offset still is, as far as the ring tells. False where it does not
    /// reach back so far: the store must be asked again.
    fn is_still_member(&self, user: &User, offset: Offset) -> bool {
        if self.ring.first().is_none_or(|first| first > offset + 1) {
            return false;
        }
        let id = user.id.to_string();
        !self.ring.entries_after(offset).any(|entry| {
            matches!(entry, Entry::Stored(p) if p.kind == Kind::Removed && p.body.as_deref() == Some(id.as_str()))
        })
    }
}
