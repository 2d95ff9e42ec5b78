//! The commands of the Centrifugo protocol: read from a frame one after the other, kept in order per channel,
//! dispatched and answered.

use super::command::{Answered, CommandContext, NOT_SUBSCRIBED, bad_request};
use super::joining::Denied;
use crate::bus::Announcement;
use crate::connections::{Arrival, Joining, Phase, Session, Since, Subscribing, Subscription, SubscriptionState};
use crate::feeds::Subscriber;
use crate::host::Host;
use crate::ids::{CommandId, FeedId, Slot, SubscriptionKey};
use crate::message::{
    Asker, Channel, Endpoint, Ephemeral, Joiner, Message, Requester, StoreReply, StoreRequest, UserEvent,
};
use crate::mutation::{self, Mutation};
use crate::protocol::centrifuge::{self, Command, Encoding, Push, Reply, Request, Subscribe, methods};
use crate::protocol::{self, CloseReason, Format, ProtocolError};
use crate::shard::Shard;
use std::sync::Arc;
use uproar_model::fairness::{Bucket, Rate};
use uproar_model::{Epoch, Offset, UserId, fold_room_name};

/// A flag of `subscribe`: a position that does not exist is an error.
const STRICT_FLAG: i64 = 2;

/// What a command does to its channel, as far as order matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Publishes,
    Reads,
    Other,
}

/// How the rest of a frame continues after a command.
enum Flow {
    Next,
    /// The command must wait for an earlier one.
    Wait,
}

impl Shard {
    // ── frames ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A frame of a connection of the Centrifugo protocol.
    pub(crate) fn on_commands(&mut self, slot: Slot, frame: &[u8], host: &mut impl Host) {
        self.cx.meter.metrics.borrow_mut().received += 1;
        let now_ms = self.cx.now.ms;
        let arrival = match self.connections[slot].client_mut() {
            None => Arrival { ms: now_ms, was_unread: false },
            Some(client) => client.unread.arrival(now_ms),
        };
        self.take_commands(slot, frame, arrival, host);
    }

    /// Takes the commands of a frame, or of the rest of one, that arrived at this time.
    pub(super) fn take_commands(&mut self, slot: Slot, frame: &[u8], arrival: Arrival, host: &mut impl Host) {
        let mut rest = frame;
        let mut is_empty = true;
        loop {
            let Some(encoding) = self.connections[slot].encoding() else { return };
            let from_here = rest;
            let command = match centrifuge::next_command(encoding, &mut rest) {
                None if is_empty => return self.close(slot, CloseReason::BAD_REQUEST, host),
                None => return,
                Some(Err(centrifuge::Malformed)) => return self.close(slot, CloseReason::BAD_REQUEST, host),
                Some(Ok(command)) => command,
            };
            is_empty = false;
            if matches!(command.request, Request::Pong) {
                self.on_pong(slot, None);
                continue;
            }
            if matches!(self.connections[slot].phase, Phase::Connecting(_)) {
                if !self.on_first_command(slot, command, rest, host) {
                    return;
                }
                continue;
            }
            // A client that does not read its answers is not given more of them.
            let flow = match self.is_clogged(slot) {
                true => Flow::Wait,
                false => self.on_command(slot, command, arrival, host),
            };
            if let Flow::Wait = flow {
                return self.defer(slot, from_here, arrival);
            }
            // Answers from homes on this shard count before the next command is taken.
            self.deliver_own(host);
        }
    }

    /// Whether so much waits for a connection that its commands have to wait too.
    fn is_clogged(&self, slot: Slot) -> bool {
        let connection = &self.connections[slot];
        connection.outbound.bytes() + connection.replies.len() as u64 > self.cx.limits().outbound_limit_bytes / 4
    }

    /// Keeps commands for later, and stops reading the connection.
    fn defer(&mut self, slot: Slot, commands: &[u8], arrival: Arrival) {
        let now_ms = self.cx.now.ms;
        let connection = &mut self.connections[slot];
        let was_paused = std::mem::replace(&mut connection.is_paused, true);
        connection.awaits_space = true;
        if let Some(client) = connection.client_mut() {
            client.deferred = commands.to_vec();
            client.deferred_at = arrival;
            if !was_paused {
                client.unread.stop(arrival, now_ms);
            }
        }
    }

    /// A call was answered, or some of the queue was written: commands that waited for that are taken in the next turn.
    pub(crate) fn resume_deferred(&mut self, slot: Slot) {
        let client = self.connections[slot].client_mut();
        if client.is_some_and(|client| !client.deferred.is_empty()) && !self.is_clogged(slot) {
            self.to_resume.push(slot);
        }
    }

    /// Takes deferred commands. Called at the start of a turn.
    pub(crate) fn take_deferred(&mut self, host: &mut impl Host) {
        for slot in std::mem::take(&mut self.to_resume) {
            if self.draining {
                continue;
            }
            let Some(client) = self.connections[slot].client_mut() else { continue };
            let (deferred, arrival) = (std::mem::take(&mut client.deferred), client.deferred_at);
            if deferred.is_empty() {
                continue;
            }
            self.take_commands(slot, &deferred, arrival, host);
            let now_ms = self.cx.now.ms;
            let client = self.connections[slot].client_mut();
            if let Some(client) = client.filter(|client| client.deferred.is_empty()) {
                client.unread.resume(now_ms);
                self.resume(slot, host);
            }
        }
    }

    // ── one command ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn on_command(&mut self, slot: Slot, command: Command<'_>, arrival: Arrival, host: &mut impl Host) -> Flow {
        let Command { id, request } = command;
        let command = CommandContext { slot, id: CommandId(id), arrival };
        let call = match &request {
            Request::Rpc { method, data } => methods::parse_call(method, data).map(Some),
            _ => Ok(None),
        };
        let answered = match call {
            Err(error) => Err(error),
            Ok(call) => {
                if self.must_wait(slot, &request, call.as_ref()) {
                    return Flow::Wait;
                }
                self.execute(command, &request, call, host)
            }
        };
        if let Err(error) = answered {
            self.reply_error(slot, command.id, &error, host);
        }
        Flow::Next
    }

    /// Whether a command has to wait for an earlier one of its connection. Commands on one channel take effect in the
    /// order sent, and a connection has one read (from the store, or of who is in a channel) under way at a time.
    fn must_wait(&self, slot: Slot, request: &Request<'_>, call: Option<&methods::RpcCall<'_>>) -> bool {
        use methods::RpcCall;
        let Some(session) = self.connections[slot].session() else { return false };
        let (channel, effect) = match (request, call) {
            (Request::Subscribe(subscribe), _) => (Some(&*subscribe.channel), Effect::Other),
            (Request::Unsubscribe { channel }, _) => (Some(&**channel), Effect::Other),
            (Request::Presence { channel } | Request::PresenceStats { channel }, _) => {
                (Some(&**channel), Effect::Reads)
            }
            (Request::Publish { channel, .. }, _) => (Some(&**channel), Effect::Publishes),
            (Request::History(history), _) => (Some(&*history.channel), Effect::Reads),
            (_, Some(RpcCall::Publish(call))) => (Some(&*call.channel), Effect::Publishes),
            (_, Some(RpcCall::Read(call))) => (Some(&*call.channel), Effect::Reads),
            (_, Some(RpcCall::Typing(call))) => (Some(&*call.channel), Effect::Other),
            (_, Some(RpcCall::Rooms(_))) => (None, Effect::Reads),
            _ => return false,
        };
        let is_reading = || session.client().is_some_and(|client| client.calls.iter().any(|call| call.kind.is_read()));
        if effect == Effect::Reads && is_reading() {
            return true;
        }
        let subscription = channel.and_then(|channel| session.subscription(session.key_of(channel)?));
        subscription.is_some_and(|subscription| match (&subscription.state, effect) {
            (SubscriptionState::Joining(_), _) => true,
            (SubscriptionState::Joined { feed, .. }, Effect::Publishes) => {
                subscription.reading > 0 || subscription.publishing == 0 && self.has_earlier_publishes(session, *feed)
            }
            (SubscriptionState::Joined { .. }, Effect::Reads) => subscription.publishing > 0,
            (SubscriptionState::Joined { .. }, Effect::Other) => false,
        })
    }

    /// Whether publishes to a room are under way that were made through an earlier subscription.
    fn has_earlier_publishes(&self, session: &Session, feed: FeedId) -> bool {
        let (Some(client), Some(feed)) = (session.client(), self.feeds.get(feed)) else { return false };
        let Channel::Room(room) = feed.channel else { return false };
        client.calls.iter().any(|call| call.key.is_none() && call.kind.publishes_to(room))
    }

    fn execute(
        &mut self,
        command: CommandContext,
        request: &Request<'_>,
        call: Option<methods::RpcCall<'_>>,
        host: &mut impl Host,
    ) -> Answered {
        use methods::{PublishCall, ReadCall, RpcCall, SendData, TypingCall};
        let CommandContext { slot, id, .. } = command;
        match request {
            // Skipped by `take_commands`.
            Request::Pong => {}
            Request::Connect(_) => self.close(slot, CloseReason::BAD_REQUEST, host),
            Request::Ping => self.reply(slot, id, Reply::Ping),
            Request::Send { data } => {
                // `send` is never answered, so errors are dropped.
                if let Some(SendData { typing }) = methods::parse(data) {
                    let _ = self.typing(slot, &typing, host);
                }
            }
            Request::Subscribe(subscribe) => self.subscribe(command, subscribe, host)?,
            Request::Unsubscribe { channel } => {
                if let Some(key) = self.connections[slot].session().and_then(|session| session.key_of(channel)) {
                    self.unsubscribe(slot, key);
                }
                // A client that was not subscribed gets the same reply: an error would make SDKs reconnect.
                self.reply(slot, id, Reply::Unsubscribe);
            }
            Request::Publish { is_special: true, .. } | Request::SubRefresh => return Err(not_supported()),
            Request::Publish { channel, data, .. } => self.publish(command, channel, data, false, host)?,
            Request::History(history) => self.history(command, history, host)?,
            Request::Presence { channel } => self.get_presence(command, channel, true, host)?,
            Request::PresenceStats { channel } => self.get_presence(command, channel, false, host)?,
            Request::Refresh { token } => self.refresh(command, token, host)?,
            Request::Rpc { .. } => match call {
                None => {}
                Some(RpcCall::Publish(PublishCall { channel, data })) => {
                    self.publish(command, &channel, data.get().as_bytes(), true, host)?;
                }
                Some(RpcCall::Read(ReadCall { channel, offset, epoch })) => {
                    self.read(command, &channel, offset, epoch.as_deref(), host)?;
                }
                Some(RpcCall::Rooms(wanted)) => self.rooms(command, wanted, host)?,
                Some(RpcCall::Typing(TypingCall { channel })) => {
                    self.typing(slot, &channel, host)?;
                    self.reply(slot, id, Reply::Rpc { data: b"{}" });
                }
            },
            Request::Unknown => {
                let text = "the command contains no known request";
                return Err(ProtocolError::new(protocol::METHOD_NOT_FOUND, text));
            }
        }
        Ok(())
    }

    /// Answers with an error, and closes a connection that earns too many of them.
    pub(super) fn reply_error(&mut self, slot: Slot, id: CommandId, error: &ProtocolError, host: &mut impl Host) {
        self.count_refused(error.code, host);
        self.reply(slot, id, Reply::Error { code: error.code, message: &error.message });
        // Error 100 is the server's own fault.
        if error.code == protocol::INTERNAL {
            return;
        }
        let now_ms = self.cx.now.ms;
        let rate = Rate::per_second(self.cx.limits().error_rate_per_second, self.cx.limits().error_burst_limit);
        let Some(client) = self.connections[slot].client_mut() else { return };
        if !client.errors.get_or_insert_with(|| Bucket::full(rate, now_ms)).take(rate, now_ms) {
            let why = match protocol::is_temporary(error.code) {
                true => CloseReason::TOO_MANY_REQUESTS,
                false => CloseReason::TOO_MANY_ERRORS,
            };
            self.close(slot, why, host);
        }
    }

    // ── subscriptions ───────────────────────────────────────────────────────────────────────────────────────────────

    /// A subscription that has joined its channel, and the feed.
    pub(super) fn joined(&self, slot: Slot, channel: &str) -> Result<(SubscriptionKey, FeedId), ProtocolError> {
        let session = self.connections[slot].session();
        let joined = session.and_then(|session| {
            let key = session.key_of(channel)?;
            session.joined(key).map(|(feed, _)| (key, feed))
        });
        joined.ok_or_else(|| ProtocolError::new(protocol::PERMISSION_DENIED, NOT_SUBSCRIBED))
    }

    fn subscribe(&mut self, command: CommandContext, subscribe: &Subscribe<'_>, host: &mut impl Host) -> Answered {
        let CommandContext { slot, id, arrival } = command;
        let limits = &self.cx.config.limits;
        let now_ms = self.cx.now.ms;
        let Some(session) = self.connections[slot].session_mut() else { return Ok(()) };
        if subscribe.is_special {
            return Err(not_supported());
        }
        if subscribe.has_filter {
            // Without filtering, the client would get publications that it has excluded.
            return Err(bad_request("filters by tags are not supported"));
        }
        let channel = &*subscribe.channel;
        let is_room = match channel.split_once(':') {
            Some(("room", key)) if fold_room_name(key).is_ok_and(|folded| folded == key) => true,
            Some(("live", name)) if protocol::check_live_name(name).is_ok() => false,
            Some(("user", user)) if user == session.user.id.to_string() => {
                let text = "the server has already subscribed this connection to its user's own channel";
                return Err(ProtocolError::new(protocol::ALREADY_SUBSCRIBED, text));
            }
            _ => {
                let text = "no such channel; there are room:<name>, as the server spells it, live:<name>, and \
                            live:<room>/<name> for its members";
                return Err(ProtocolError::new(protocol::UNKNOWN_CHANNEL, text));
            }
        };
        if session.key_of(channel).is_some() {
            let text = "this connection is already subscribed to the channel";
            return Err(ProtocolError::new(protocol::ALREADY_SUBSCRIBED, text));
        }
        if session.subscriptions.len() as u64 >= limits.subscription_limit {
            let limit = limits.subscription_limit;
            let text = format!("a connection may have at most {limit} subscriptions (subscription_limit)");
            return Err(ProtocolError::new(protocol::LIMIT_EXCEEDED, text));
        }
        let rate = Rate::per_second(limits.subscribe_rate_per_second, limits.subscribe_burst_limit);
        if let Some(client) = session.client_mut()
            && !client.subscribes.get_or_insert_with(|| Bucket::full(rate, now_ms)).take(rate, now_ms)
        {
            let rate = limits.subscribe_rate_per_second;
            let text = format!("more than {rate} subscribes per second; slow down (subscribe_rate_per_second)");
            return Err(ProtocolError::new(protocol::TOO_MANY_REQUESTS, text));
        }
        let since = (is_room && subscribe.recover).then(|| Since {
            offset: subscribe.offset,
            epoch: Some(&*subscribe.epoch).filter(|epoch| !epoch.is_empty()).map(str::to_owned),
        });
        let deadline_ms = arrival.ms + limits.command_deadline_ms;
        let name: Arc<str> = channel.into();
        let subscribing = Subscribing {
            joining: Joining::new(Arc::clone(&name), since),
            command: id,
            deadline_ms,
            wants_presence: subscribe.join_leave,
            is_strict: subscribe.flag & STRICT_FLAG != 0,
        };
        let state = SubscriptionState::Joining(Box::new(subscribing));
        let (user, era) = (session.user.clone(), session.era);
        let key = SubscriptionKey(session.subscriptions.insert(Subscription::new(name, state, era)) as u32);
        self.connections.arm_timer(slot, deadline_ms);
        self.join(slot, Joiner::Subscription(key), &user, host);
        Ok(())
    }

    /// A `subscribe` failed: it is answered with an error and forgotten.
    pub(super) fn subscribe_failed(
        &mut self,
        slot: Slot,
        key: SubscriptionKey,
        error: &ProtocolError,
        host: &mut impl Host,
    ) {
        let Some(session) = self.connections[slot].session_mut() else { return };
        let Some(subscription) = session.subscriptions.try_remove(key.index()) else { return };
        self.feeds.remove_guest(&self.cx, subscription.room_feed, slot, key);
        if let SubscriptionState::Joining(subscribing) = subscription.state {
            self.reply_error(slot, subscribing.command, error, host);
            self.resume_deferred(slot);
        }
    }

    /// The last step of joining: answers with the position from which the subscription goes on, and makes it a
    /// subscriber with its cursor there. Whatever has been shown since, and everything that was missed, is above the
    /// cursor and is given as the queue drains.
    pub(super) fn subscribed(
        &mut self,
        slot: Slot,
        key: SubscriptionKey,
        feed_id: FeedId,
        (position, recovered): (Offset, Option<bool>),
        admitted: Offset,
        host: &mut impl Host,
    ) {
        let Some(feed) = self.feeds.get(feed_id) else { return };
        let (epoch, feed_position) = (feed.epoch.clone(), feed.position);
        let Some(session) = self.connections[slot].session_mut() else { return };
        let Some(encoding) = session.client().map(|client| client.encoding) else { return };
        let Some(subscription) = session.subscription(key) else { return };
        debug_assert_eq!(feed.name, subscription.name, "a channel has one name");
        let SubscriptionState::Joining(subscribing) = &subscription.state else { return };
        let (command, wants_presence) = (subscribing.command, subscribing.wants_presence);
        if recovered == Some(false) && subscribing.is_strict {
            return self.deny(slot, Joiner::Subscription(key), Denied::Unrecoverable, host);
        }
        let offset = if mutation::active(Mutation::AnswerFeedPosition) { feed_position } else { position };
        let reply = match &epoch {
            None => Reply::SubscribeLive,
            Some(Epoch(epoch)) => Reply::SubscribeRoom { epoch, offset, recovered },
        };
        self.reply(slot, command, reply);
        let format = match encoding {
            Encoding::Json => Format::Json,
            Encoding::Protobuf => Format::Protobuf,
        };
        let cursor = if mutation::active(Mutation::SkipAttachGate) { feed_position } else { position };
        // Publications above the cursor are given once the reply has been written: some SDKs handle a push that arrives
        // together with the reply before the reply.
        let subscriber = Subscriber { slot, key, cursor, admitted, format, is_behind: false, wants_presence };
        self.feeds.subscribe(&self.cx, &mut self.connections, feed_id, subscriber);
        self.resume_deferred(slot);
    }

    // ── ephemeral events ────────────────────────────────────────────────────────────────────────────────────────────

    fn typing(&mut self, slot: Slot, channel: &str, host: &mut impl Host) -> Answered {
        let (_, feed) = self.joined(slot, channel)?;
        self.take_publish(slot)?;
        let Some(session) = self.connections[slot].session() else { return Ok(()) };
        let event = Arc::new(Ephemeral::Typing(session.user.clone()));
        let Some(feed) = self.feeds.get(feed) else { return Ok(()) };
        let message = Message::Notify { channel: feed.channel.clone(), event };
        if !self.cx.messenger.call(Endpoint::Shard(feed.home), message, host) {
            return Err(Denied::Overloaded.error());
        }
        Ok(())
    }

    /// Sends an event to all connections of a user, on all shards. It is dropped where there is no credit; a client
    /// that misses it can ask.
    pub(super) fn notify_user(&mut self, user: UserId, event: UserEvent, host: &mut impl Host) {
        self.on_user_event(user, &event, host);
        self.cx.announce(host, || Announcement::User { user, event: event.clone() });
        for shard in (0..self.cx.messenger.shards).filter(|shard| *shard != self.cx.config.id) {
            let message = Message::NotifyUser { user, event: event.clone() };
            let _ = self.cx.messenger.call(Endpoint::Shard(shard), message, host);
        }
    }

    /// An event for a user's connections on this shard.
    pub(crate) fn on_user_event(&mut self, user: UserId, event: &UserEvent, host: &mut impl Host) {
        if let UserEvent::Renamed { username } = event
            && self.on_renamed(user, username, host)
        {
            return;
        }
        self.push_user_event(user, event);
    }

    /// A user was renamed. Returns whether the clients are told later.
    fn on_renamed(&mut self, user: UserId, username: &Arc<str>, host: &mut impl Host) -> bool {
        let number = self.connections.users.add_new_name(&self.cx, user, username);
        self.rename_user(user, username);
        if self.connections.users.connections(user).is_empty() {
            return false;
        }
        // News of two renamings through different nodes may arrive in the wrong order. The database knows which one
        // came last.
        let requester = Requester::Renamed { user, username: Arc::clone(username), number };
        let asker = Asker::shard(self.cx.config.id);
        self.cx.messenger.read(requester, asker, StoreRequest::UserById { user }, host)
    }

    /// The reader has answered with the present name of a user who was renamed.
    pub(crate) fn on_name_read(&mut self, user: UserId, heard: Arc<str>, number: u64, reply: StoreReply) {
        let username = match reply {
            StoreReply::User(Some(found)) => found.user.username,
            _ => heard,
        };
        if self.connections.users.set_new_name(user, number, &username) {
            self.rename_user(user, &username);
            self.push_user_event(user, &UserEvent::Renamed { username });
        }
    }

    fn rename_user(&mut self, user: UserId, username: &Arc<str>) {
        for slot in self.connections.users.connections(user).to_vec() {
            self.rename(slot, username);
        }
    }

    fn push_user_event(&mut self, user: UserId, event: &UserEvent) {
        let slots = self.connections.users.connections(user).to_vec();
        let (channel, data) = (format!("user:{user}"), methods::user_event_data(event));
        for slot in slots {
            self.connections.add_push(&self.cx, slot, |encoding, out| {
                centrifuge::push_push(encoding, out, &channel, &Push::Ephemeral { data: &data });
            });
        }
    }

    /// From now on the connection's user has this name, in what they send and in presence.
    pub(super) fn rename(&mut self, slot: Slot, username: &Arc<str>) {
        let generation = self.connections[slot].generation;
        let Some(session) = self.connections[slot].session_mut() else { return };
        if session.user.username == *username {
            return;
        }
        session.user.username = Arc::clone(username);
        let user = session.user.clone();
        let keys = session.subscriptions.iter().map(|(key, _)| SubscriptionKey(key as u32));
        let joined: Vec<_> = keys.filter_map(|key| session.joined(key)).collect();
        for (feed, index) in joined {
            self.feeds.rename(feed, index, generation, &user);
        }
    }

    /// The name of a connection in presence.
    pub(super) fn client_id(&self, slot: Slot) -> String {
        self.cx.client_id(self.cx.config.id, slot, self.connections[slot].generation)
    }
}

fn not_supported() -> ProtocolError {
    ProtocolError::new(protocol::NOT_AVAILABLE, "this is not supported")
}
