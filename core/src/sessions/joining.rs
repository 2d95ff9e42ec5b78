//! Into a channel: membership (which joins a public room), then the channel's feed on this shard, then the position
//! from which the client goes on. The upgrade of a plain connection and a `subscribe` take the same steps.

use crate::connections::{Joining, PLAIN_KEY, SubscriptionState};
use crate::feeds::Attached;
use crate::host::Host;
use crate::ids::{FeedId, Slot};
use crate::message::{
    Asker, AttachOutcome, Channel, CheckOutcome, Endpoint, Interest, JoinRequest, Joiner, Message, Party, Requester,
    StoreReply, StoreRequest, UserEvent,
};
use crate::protocol::{self, ProtocolError};
use crate::shard::Shard;
use crate::websocket::Refusal;
use std::sync::Arc;
use uproar_model::{Epoch, JoinError, Offset, TokenError, User};

/// Joins that wait to be told to their rooms' homes.
const JOINS_LIMIT: usize = 1_024;

/// Why a client may not join a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    NoRoom,
    RoomFull,
    /// The token's user was deleted.
    NoUser,
    SignedOut,
    /// The position does not exist, and the client wants an error then.
    Unrecoverable,
    /// The user joins rooms more often than allowed.
    TooManyJoins,
    /// Of the room to which the channel belongs, or not any more.
    NotMember,
    /// From the (public) room.
    Banned,
    /// A backend has ended the subscription.
    Ended,
    Overloaded,
    Unavailable,
}

impl Denied {
    /// The answer to an upgrade.
    pub fn refusal(self) -> Refusal {
        let (status, code) = match self {
            Denied::NoRoom => (404, "no_such_room"),
            Denied::RoomFull => (409, "room_full"),
            Denied::NoUser | Denied::SignedOut => (401, "token_invalid"),
            Denied::Unrecoverable => (409, "unrecoverable_position"),
            Denied::TooManyJoins => (429, "rate_limited"),
            Denied::NotMember => (403, "not_member"),
            Denied::Banned => (403, "banned"),
            Denied::Ended => (403, "not_allowed"),
            Denied::Overloaded => (503, "overloaded"),
            Denied::Unavailable => (503, "unavailable"),
        };
        Refusal::new(status, code, self.text())
    }

    /// The error reply to a `subscribe`.
    pub fn error(self) -> ProtocolError {
        let code = match self {
            Denied::NoRoom => protocol::UNKNOWN_CHANNEL,
            Denied::RoomFull => protocol::LIMIT_EXCEEDED,
            Denied::NoUser | Denied::SignedOut | Denied::NotMember | Denied::Banned | Denied::Ended => {
                protocol::PERMISSION_DENIED
            }
            Denied::Unrecoverable => protocol::UNRECOVERABLE_POSITION,
            Denied::TooManyJoins => protocol::TOO_MANY_REQUESTS,
            Denied::Overloaded | Denied::Unavailable => protocol::INTERNAL,
        };
        ProtocolError::new(code, self.text())
    }

    fn text(self) -> String {
        match self {
            Denied::NoRoom => "there is no such room".into(),
            Denied::TooManyJoins => "you join rooms too often; try again later (joins_per_hour_limit)".into(),
            Denied::RoomFull => "the room is full".into(),
            Denied::Banned => "banned: a moderator has banned you from this room".into(),
            Denied::NotMember => "the user is not a member of the room to which this channel belongs".into(),
            Denied::Ended => "the server has ended this subscription".into(),
            Denied::NoUser => TokenError::Invalid.to_string(),
            Denied::SignedOut => "the token's user has signed out; sign in again".into(),
            Denied::Unrecoverable => "this position does not exist in the room; start over without one".into(),
            Denied::Overloaded => "the server is overloaded; try again".into(),
            Denied::Unavailable => "the database does not answer; try again".into(),
        }
    }
}

impl Shard {
    pub(super) fn joining_mut(&mut self, slot: Slot, joiner: Joiner) -> Option<&mut Joining> {
        let connection = &mut self.connections[slot];
        match joiner {
            Joiner::Upgrade => connection.handshake_mut().map(|handshake| &mut handshake.joining),
            Joiner::Subscription(key) => match &mut connection.session_mut()?.subscription_mut(key)?.state {
                SubscriptionState::Joining(subscribing) => Some(&mut subscribing.joining),
                SubscriptionState::Joined { .. } => None,
            },
        }
    }

    /// Whether the client that asked this question is still waiting for its answer.
    fn is_awaited(&mut self, request: JoinRequest) -> bool {
        let JoinRequest { caller, joiner } = request;
        self.connections.of_caller(caller).is_some()
            && self.joining_mut(caller.slot, joiner).is_some_and(|joining| joining.serial == caller.serial)
    }

    /// A new question on behalf of a client that joins a channel.
    fn next_request(&mut self, slot: Slot, joiner: Joiner) -> Option<JoinRequest> {
        let serial = match self.connections[slot].session_mut() {
            Some(session) => session.next_serial(),
            None => self.joining_mut(slot, joiner)?.serial.next(),
        };
        self.joining_mut(slot, joiner)?.serial = serial;
        Some(JoinRequest { caller: self.connections.caller(slot, serial), joiner })
    }

    /// Asks the store's reader.
    pub(super) fn read_for_join(&mut self, slot: Slot, joiner: Joiner, request: StoreRequest, host: &mut impl Host) {
        let Some(join) = self.next_request(slot, joiner) else { return };
        let now_ms = self.cx.now.ms;
        let party = match &request {
            StoreRequest::User { username, identity } => Some(Party::of_token(username, identity.as_ref())),
            _ => self.user_of(slot).map(|user| Party::User(user.id)),
        };
        let (Some(party), Some(joining)) = (party, self.joining_mut(slot, joiner)) else { return };
        joining.asked_ms = now_ms;
        let asker = Asker::new(party, joining.interest.insert(Interest::default()));
        if !self.cx.messenger.read(Requester::Join(join), asker, request, host) {
            self.deny(slot, joiner, Denied::Overloaded, host);
        }
    }

    // ── membership ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// The first step.
    pub(super) fn join(&mut self, slot: Slot, joiner: Joiner, user: &User, host: &mut impl Host) {
        let Some(joining) = self.joining_mut(slot, joiner) else { return };
        joining.is_guest = false;
        match joining.room_key() {
            Some(key) => {
                let (room, user) = (key.to_owned(), user.id);
                let request = match joining.live_name() {
                    // Nobody becomes a member of a room just because they listen to one of its channels.
                    Some(_) => StoreRequest::AdmitMember { room, user },
                    None => StoreRequest::Admit { room, user },
                };
                self.read_for_join(slot, joiner, request, host);
            }
            None => self.attach(slot, joiner, host),
        }
    }

    /// The reader has answered.
    pub(crate) fn on_join_reply(&mut self, join: JoinRequest, reply: StoreReply, host: &mut impl Host) {
        let reply = self.learn_join(reply, host);
        if !self.is_awaited(join) {
            return;
        }
        let JoinRequest { caller, joiner } = join;
        let slot = caller.slot;
        match reply {
            StoreReply::Admitted(Ok(mut admission)) => {
                let (Some(user), Some(joining)) = (self.user_of(slot), self.joining_mut(slot, joiner)) else { return };
                let asked_ms = joining.asked_ms;
                if let Some(name) = self.connections.users.new_name(user.id, asked_ms) {
                    admission.username = Arc::clone(name);
                }
                // The token may be older than the user's name.
                match self.connections[slot].handshake_mut().and_then(|handshake| handshake.user.as_mut()) {
                    Some(user) => user.username = Arc::clone(&admission.username),
                    None => self.rename(slot, &admission.username),
                }
                let Some(joining) = self.joining_mut(slot, joiner) else { return };
                let room = joining.room_key().unwrap_or("");
                let joined = admission.joined.then(|| UserEvent::Joined { room: room.into() });
                joining.admission = Some(admission);
                if let Some(event) = joined {
                    self.notify_user(user.id, event, host);
                }
                self.attach(slot, joiner, host);
            }
            StoreReply::Admitted(Err(error)) => {
                let denied = match error {
                    JoinError::NoRoom => Denied::NoRoom,
                    JoinError::Full => Denied::RoomFull,
                    JoinError::Banned => Denied::Banned,
                    JoinError::NoUser => Denied::NoUser,
                    JoinError::TooOften { .. } => Denied::TooManyJoins,
                };
                self.deny(slot, joiner, denied, host);
            }
            StoreReply::User(Some(found)) => self.on_user_found(slot, found, host),
            // The token names a user that cannot exist.
            StoreReply::User(None) => self.deny(slot, joiner, Denied::NoUser, host),
            StoreReply::Failed => self.deny(slot, joiner, Denied::Unavailable, host),
            StoreReply::NotMember => self.deny(slot, joiner, Denied::NotMember, host),
            StoreReply::Head(_)
            | StoreReply::Swept(_)
            | StoreReply::Page(_)
            | StoreReply::Marked(_)
            | StoreReply::Rooms(_) => {
                debug_assert!(false, "not a reply to a question of a joining client");
            }
        }
    }

    /// If the user has just become a member, tells the room's home of the publication, whether the client still waits
    /// or not.
    fn learn_join(&mut self, mut reply: StoreReply, host: &mut impl Host) -> StoreReply {
        if let StoreReply::Admitted(Ok(admission)) = &mut reply
            && let Some(publication) = admission.added.take()
            // What is dropped becomes known with the room's next publication, or when heads are compared.
            && self.joins.len() < JOINS_LIMIT
        {
            self.joins.push_back((admission.room, admission.epoch.generation(), publication));
            self.send_joins(host);
        }
        reply
    }

    pub(crate) fn send_joins(&mut self, host: &mut impl Host) {
        while let Some((room, ..)) = self.joins.front() {
            let home = Endpoint::Shard(self.cx.messenger.home_of(&Channel::Room(*room)));
            if !self.cx.messenger.can_call(home) {
                return;
            }
            let Some((room, generation, publication)) = self.joins.pop_front() else { return };
            let _ = self.cx.messenger.call(home, Message::Learn { room, generation, publication }, host);
        }
    }

    /// The user who is connected, or about to be.
    fn user_of(&mut self, slot: Slot) -> Option<User> {
        let connection = &mut self.connections[slot];
        match connection.session() {
            Some(session) => Some(session.user.clone()),
            None => connection.handshake_mut().and_then(|handshake| handshake.user.clone()),
        }
    }

    // ── the feed ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// To the channel's feed: immediately if the channel is fed already.
    fn attach(&mut self, slot: Slot, joiner: Joiner, host: &mut impl Host) {
        let Some(joining) = self.joining_mut(slot, joiner) else { return };
        let Some((channel, name)) = joining.next_feed() else { return };
        let Some(request) = self.next_request(slot, joiner) else { return };
        match self.feeds.attach(&mut self.cx, &channel, &name, request, host) {
            Attached::Already(feed) => self.admit(slot, joiner, feed, host),
            Attached::Waiting => {}
            Attached::Overloaded => self.deny(slot, joiner, Denied::Overloaded, host),
        }
    }

    /// The channel's home has answered: the feed begins after this position.
    pub(crate) fn on_attached(&mut self, channel: &Channel, outcome: &AttachOutcome, host: &mut impl Host) {
        let (feed, waiting) = self.feeds.on_attached(channel, outcome);
        let denied = match outcome {
            AttachOutcome::NoRoom => Denied::NoRoom,
            AttachOutcome::Attached { .. } | AttachOutcome::Failed => Denied::Unavailable,
        };
        for request in waiting {
            if !self.is_awaited(request) {
                continue;
            }
            match feed {
                Some(feed) => self.admit(request.caller.slot, request.joiner, feed, host),
                None => self.deny(request.caller.slot, request.joiner, denied, host),
            }
        }
        if let Some(feed) = feed {
            self.feeds.set_idle(&self.cx, feed);
        }
    }

    // ── the position ────────────────────────────────────────────────────────────────────────────────────────────────

    /// The feed is attached. Finds the position from which the client goes on, and lets it in.
    fn admit(&mut self, slot: Slot, joiner: Joiner, feed_id: FeedId, host: &mut impl Host) {
        let Some(user) = self.user_of(slot) else { return };
        if joiner == Joiner::Upgrade && self.has_signed_out(slot, &user) {
            return self.deny(slot, joiner, Denied::SignedOut, host);
        }
        let Some(feed) = self.feeds.get(feed_id) else { return };
        let (position, epoch) = (feed.position, feed.epoch.clone());
        let Some(joining) = self.joining_mut(slot, joiner) else { return };
        let is_of_other_epoch = |other: &Epoch| epoch.as_ref().is_some_and(|epoch| epoch != other);
        joining.head.take_if(|(of, _)| is_of_other_epoch(of));
        if joining.admission.as_ref().is_some_and(|admission| is_of_other_epoch(&admission.epoch)) {
            // Either the feed belongs to a history that is gone, which its home finds out now, or the membership does:
            // then it must be read again.
            return match joining.head.take() {
                None => self.check_head(slot, joiner, feed_id, host),
                Some(_) => self.join(slot, joiner, &user, host),
            };
        }
        // The membership was read at some offset. It may have been taken away between there and here.
        let admission = joining.admission.as_ref().filter(|_| epoch.is_some());
        let read_at = admission.map_or(0, |admission| admission.offset);
        if admission.is_some()
            && position > read_at
            && self.feeds.get(feed_id).is_some_and(|feed| !feed.is_still_member(user.id, read_at))
        {
            return self.join(slot, joiner, &user, host);
        }
        let Some(joining) = self.joining_mut(slot, joiner) else { return };
        if joining.live_name().is_some() && epoch.is_some() {
            // This was the room's feed, and the user is a member. Now to the channel itself.
            joining.is_guest = true;
            match joiner {
                Joiner::Subscription(key) => {
                    self.feeds.add_guest(&mut self.connections, feed_id, (slot, key), position.max(read_at));
                }
                Joiner::Upgrade => self.feeds.hold(&self.cx, feed_id),
            }
            return self.attach(slot, joiner, host);
        }
        let is_plain_guest = joiner == Joiner::Upgrade && joining.is_guest;
        let guest_of = self.room_of_guest(slot, &user).filter(|_| is_plain_guest);
        if is_plain_guest && guest_of.is_none() {
            // The user may have been removed from the room meanwhile.
            return self.join(slot, joiner, &user, host);
        }
        let Some(joining) = self.joining_mut(slot, joiner) else { return };
        let head = joining.head.as_ref().map(|(_, offset)| *offset);
        let newest_known = head.unwrap_or(position).max(position).max(read_at);
        // What was committed when the membership was read may not have been shown here yet. It is before the position
        // all the same, and so a user who has just joined gets the position that the join led to.
        let newest = position.max(read_at);
        let (cursor, recovered) = match (&joining.since, &epoch) {
            (None, _) | (_, None) => (newest, None),
            (Some(since), Some(current)) if since.epoch.as_deref().is_some_and(|e| e != &*current.0) => {
                (newest, Some(false))
            }
            (Some(since), _) if since.offset <= newest_known => (since.offset, Some(true)),
            (Some(_), _) if head.is_some() => (newest, Some(false)),
            (Some(_), _) => return self.check_head(slot, joiner, feed_id, host),
        };
        match joiner {
            Joiner::Upgrade => {
                self.open(slot, feed_id, cursor, recovered, read_at, host);
                if let Some((room, admitted)) = guest_of {
                    self.feeds.add_guest(&mut self.connections, room, (slot, PLAIN_KEY), admitted);
                }
            }
            Joiner::Subscription(key) => self.subscribed(slot, key, feed_id, (cursor, recovered), read_at, host),
        }
    }

    /// For a plain connection that is about to open in a `live:` channel of a room: the room's feed, and the offset up
    /// to which the user is a member as far as this shard knows. `None`: the membership has to be read again. (A
    /// subscription becomes a guest at once. A plain connection has no subscription until it is open.)
    fn room_of_guest(&mut self, slot: Slot, user: &User) -> Option<(FeedId, Offset)> {
        let admission = self.joining_mut(slot, Joiner::Upgrade)?.admission.as_ref()?;
        let (room, epoch, read_at) = (Channel::Room(admission.room), admission.epoch.clone(), admission.offset);
        let id = self.attached_feed(&room)?;
        let feed = self.feeds.get(id)?;
        let is_member = feed.position <= read_at || feed.is_still_member(user.id, read_at);
        (is_member && feed.epoch.as_ref() == Some(&epoch)).then(|| (id, feed.position.max(read_at)))
    }

    /// The client's position is above this shard's: either the shard has not heard of those publications yet, or the
    /// position does not exist. The home asks the store.
    fn check_head(&mut self, slot: Slot, joiner: Joiner, feed_id: FeedId, host: &mut impl Host) {
        let Some(feed) = self.feeds.get(feed_id) else { return };
        let (Channel::Room(room), home) = (feed.channel.clone(), Endpoint::Shard(feed.home)) else { return };
        let Some(request) = self.next_request(slot, joiner) else { return };
        if !self.cx.messenger.call(home, Message::Check { room, request }, host) {
            self.deny(slot, joiner, Denied::Overloaded, host);
        }
    }

    /// The home has answered with the room's head.
    pub(crate) fn on_checked(&mut self, request: JoinRequest, outcome: CheckOutcome, host: &mut impl Host) {
        if !self.is_awaited(request) {
            return;
        }
        let JoinRequest { caller, joiner } = request;
        match outcome {
            CheckOutcome::Head(epoch, offset) => {
                if let Some(joining) = self.joining_mut(caller.slot, joiner) {
                    joining.head = Some((epoch, offset));
                }
                self.attach(caller.slot, joiner, host);
            }
            CheckOutcome::NoRoom => self.deny(caller.slot, joiner, Denied::NoRoom, host),
            CheckOutcome::Failed => self.deny(caller.slot, joiner, Denied::Unavailable, host),
        }
    }

    pub(super) fn deny(&mut self, slot: Slot, joiner: Joiner, denied: Denied, host: &mut impl Host) {
        match joiner {
            Joiner::Upgrade => self.reject(slot, &denied.refusal(), host),
            Joiner::Subscription(key) => self.subscribe_failed(slot, key, &denied.error(), host),
        }
    }
}
