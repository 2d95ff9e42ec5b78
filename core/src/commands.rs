//! What a client of the Centrifugo protocol asks. `subscribe` goes on in `entering.rs` and comes back here, publishes in
//! `session.rs`, presence in `presence.rs`; what needs an answer from elsewhere is in `calls.rs`.

use super::connection::Phase;
use super::entering::{Denied, Door, Entering, Since, is_live_name};
use super::feed::Subscriber;
use super::host::{Host, Now};
use super::message::{Channel, NotKnown, UserEvent};
use super::mutation::{self, Mutation};
use super::presence::Note;
use super::rate::Bucket;
use super::session::{Arrival, Call, CallKind, NOT_SUBSCRIBED, Place, Subscribing, Subscription, not_known, refused};
use super::shard::Shard;
use crate::protocol::centrifuge::{self, Command, Push, Reply, Request, Subscribe, methods};
use crate::protocol::{self, CloseReason, Format, ProtocolError, UNSUBSCRIBED, data};
use std::sync::Arc;
use uproar_model::{Epoch, Offset, Outcome, UserId, fold_name};

/// A flag of `subscribe`: a position that does not exist is an error.
const STRICT_FLAG: i64 = 2;

/// How a command touches its channel, as far as order goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Publishes,
    Reads,
    Other,
}

/// How a command went, as far as its frame is concerned.
enum Flow {
    Next,
    /// It must wait for an earlier one.
    Wait,
}

type Answered = Result<(), ProtocolError>;

/// A command that is to be answered: by whom it was sent, under which id, and when it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub slot: u32,
    pub command: u32,
    pub arrival: Arrival,
}

impl Shard {
    /// A frame of a connection of the Centrifugo protocol.
    pub(super) fn commands(&mut self, now: Now, slot: u32, frame: &[u8], host: &mut impl Host) {
        self.meter.figures.borrow_mut().received += 1;
        let turn = self.turns;
        let arrival = match self.connections[slot as usize].client_mut() {
            None => Arrival { ms: now.ms, turn, was_unread: false },
            Some(client) => client.unread.arrival(now.ms, turn),
        };
        self.take_commands(now, slot, frame, arrival, host);
    }

    /// The same, or the rest of one, that came at this time.
    pub(super) fn take_commands(&mut self, now: Now, slot: u32, frame: &[u8], arrival: Arrival, host: &mut impl Host) {
        let mut rest = frame;
        let mut is_empty = true;
        loop {
            let Some(encoding) = self.connections[slot as usize].encoding() else { return };
            let from_here = rest;
            let command = match centrifuge::next_command(encoding, &mut rest) {
                None if is_empty => return self.end(now, slot, CloseReason::BAD_REQUEST, host),
                None => return,
                Some(Err(centrifuge::Malformed)) => return self.end(now, slot, CloseReason::BAD_REQUEST, host),
                Some(Ok(command)) => command,
            };
            is_empty = false;
            if matches!(command.request, Request::Pong) {
                continue;
            }
            if matches!(self.connections[slot as usize].phase, Phase::Connecting(_)) {
                if !self.first_command(now, slot, command, rest, host) {
                    return;
                }
                continue;
            }
            // Who does not read the answers need not get more of them.
            let flow = match self.is_clogged(slot) {
                true => Flow::Wait,
                false => self.command(now, slot, command, arrival, host),
            };
            if let Flow::Wait = flow {
                let connection = &mut self.connections[slot as usize];
                let was_paused = std::mem::replace(&mut connection.is_paused, true);
                connection.awaits_place = true;
                if let Some(client) = connection.client_mut() {
                    client.deferred = from_here.to_vec();
                    client.deferred_at = arrival;
                    if !was_paused {
                        client.unread.begin(arrival, now.ms);
                    }
                }
                return;
            }
        }
    }

    /// Whether so much waits for a connection that its commands have to wait too.
    fn is_clogged(&self, slot: u32) -> bool {
        let connection = &self.connections[slot as usize];
        connection.outbound.bytes() + connection.replies.len() as u64 > self.config.limits.outbound_limit_bytes / 4
    }

    /// A call was answered, or some of what waits was written: commands that waited for it have their turn, with the
    /// shard's.
    pub(super) fn go_on_with_deferred(&mut self, slot: u32) {
        let client = self.connections[slot as usize].client_mut();
        if client.is_some_and(|client| !client.deferred.is_empty()) && !self.is_clogged(slot) {
            self.deferring.push(slot);
        }
    }

    /// At the begin of a turn.
    pub(super) fn take_deferred(&mut self, now: Now, host: &mut impl Host) {
        for slot in std::mem::take(&mut self.deferring) {
            let is_draining = self.is_draining();
            let Some(client) = self.connections[slot as usize].client_mut().filter(|_| !is_draining) else { continue };
            let (deferred, arrival) = (std::mem::take(&mut client.deferred), client.deferred_at);
            if deferred.is_empty() {
                continue;
            }
            self.take_commands(now, slot, &deferred, arrival, host);
            let client = self.connections[slot as usize].client_mut();
            if let Some(client) = client.filter(|client| client.deferred.is_empty()) {
                client.unread.end(now.ms);
                self.resume(now, slot, host);
            }
        }
    }

    fn command(&mut self, now: Now, slot: u32, command: Command<'_>, arrival: Arrival, host: &mut impl Host) -> Flow {
        let Command { id, request } = command;
        let asked = Asked { slot, command: id, arrival };
        let method = match &request {
            Request::Rpc { method, data } => methods::parse_call(method, data).map(Some),
            _ => Ok(None),
        };
        let answered = match method {
            Err(error) => Err(error),
            Ok(method) => {
                if self.must_wait(slot, &request, method.as_ref()) {
                    return Flow::Wait;
                }
                self.obey(now, asked, &request, method, host)
            }
        };
        if let Err(error) = answered {
            self.reply_error(now, slot, id, &error, host);
        }
        Flow::Next
    }

    /// Whether a command has to wait for an earlier one of its connection, so that those on one channel take effect in
    /// the order sent, and one connection has the store read one thing at a time.
    fn must_wait(&self, slot: u32, request: &Request<'_>, method: Option<&methods::RpcCall<'_>>) -> bool {
        let Some(session) = self.connections[slot as usize].session() else { return false };
        let (channel, effect) = match (request, method) {
            (Request::Subscribe(subscribe), _) => (Some(&*subscribe.channel), Effect::Other),
            (Request::Unsubscribe { channel }, _) => (Some(&**channel), Effect::Other),
            (Request::Presence { channel } | Request::PresenceStats { channel }, _) => {
                (Some(&**channel), Effect::Other)
            }
            (Request::Publish { channel, .. }, _) => (Some(&**channel), Effect::Publishes),
            (Request::History(history), _) => (Some(&*history.channel), Effect::Reads),
            (_, Some(methods::RpcCall::Publish(call))) => (Some(&*call.channel), Effect::Publishes),
            (_, Some(methods::RpcCall::Read(call))) => (Some(&*call.channel), Effect::Reads),
            (_, Some(methods::RpcCall::Typing(call))) => (Some(&*call.channel), Effect::Other),
            (_, Some(methods::RpcCall::Rooms(_))) => (None, Effect::Reads),
            _ => return false,
        };
        let has_read = || session.client().is_some_and(|client| client.calls.iter().any(|call| call.kind.is_read()));
        if effect == Effect::Reads && has_read() {
            return true;
        }
        let subscription = channel.and_then(|channel| session.key_of(channel));
        let subscription = subscription.and_then(|key| session.subscriptions.get(key as usize));
        subscription.is_some_and(|subscription| match (&subscription.place, effect) {
            (Place::Entering(_), _) => true,
            (Place::In { .. }, Effect::Publishes) => subscription.reading > 0,
            (Place::In { .. }, Effect::Reads) => subscription.publishing > 0,
            (Place::In { .. }, Effect::Other) => false,
        })
    }

    fn obey(
        &mut self,
        now: Now,
        asked: Asked,
        request: &Request<'_>,
        method: Option<methods::RpcCall<'_>>,
        host: &mut impl Host,
    ) -> Answered {
        let Asked { slot, command, .. } = asked;
        match request {
            // `take_commands` has passed over it.
            Request::Pong => {}
            Request::Connect(_) => self.end(now, slot, CloseReason::BAD_REQUEST, host),
            Request::Ping => self.reply(slot, command, Reply::Ping),
            Request::Send { data } => {
                // Nothing is said about what is wrong with it.
                if let Some(methods::SendData { typing }) = methods::parse(data) {
                    let _ = self.typing(now, slot, &typing, host);
                }
            }
            Request::Subscribe(subscribe) => self.subscribe(now, asked, subscribe, host)?,
            Request::Unsubscribe { channel } => {
                if let Some(key) = self.key_of(slot, channel) {
                    self.take_out(slot, key);
                }
                // Also where it was not subscribed: an error makes SDKs reconnect.
                self.reply(slot, command, Reply::Unsubscribe);
            }
            Request::Publish { is_special: true, .. } | Request::SubRefresh => return Err(not_offered()),
            Request::Publish { channel, data, .. } => self.publish(now, asked, channel, data, false, host)?,
            Request::History(history) => self.history(asked, history, host)?,
            Request::Presence { channel } => self.ask_presence(now, asked, channel, true, host)?,
            Request::PresenceStats { channel } => self.ask_presence(now, asked, channel, false, host)?,
            Request::Refresh { token } => self.refresh(now, asked, token, host)?,
            Request::Rpc { .. } => match method {
                None => {}
                Some(methods::RpcCall::Publish(methods::PublishCall { channel, data })) => {
                    self.publish(now, asked, &channel, data.get().as_bytes(), true, host)?;
                }
                Some(methods::RpcCall::Read(methods::ReadCall { channel, offset })) => {
                    self.read(asked, &channel, offset, host)?;
                }
                Some(methods::RpcCall::Rooms(wanted)) => self.rooms(asked, wanted, host)?,
                Some(methods::RpcCall::Typing(methods::TypingCall { channel })) => {
                    self.typing(now, slot, &channel, host)?;
                    self.reply(slot, command, Reply::Rpc { data: b"{}" });
                }
            },
            Request::Unknown => {
                let text = "the command asks for nothing that is known here";
                return Err(ProtocolError::new(protocol::METHOD_NOT_FOUND, text));
            }
        }
        Ok(())
    }

    /// Answers with an error, and ends a connection that earns too many of them.
    pub(super) fn reply_error(&mut self, now: Now, slot: u32, id: u32, error: &ProtocolError, host: &mut impl Host) {
        self.count_refused(error.code, host);
        self.reply(slot, id, Reply::Error { code: error.code, message: &error.message });
        // Error 100 is the server's own fault.
        if error.code == protocol::INTERNAL {
            return;
        }
        let (rate, burst) = (self.config.limits.error_rate_per_second, self.config.limits.error_burst_limit);
        let Some(client) = self.connections[slot as usize].client_mut() else { return };
        if !client.errors.get_or_insert_with(|| Bucket::full(burst, now.ms)).take(rate, burst, now.ms) {
            let why = match protocol::is_temporary(error.code) {
                true => CloseReason::TOO_MANY_REQUESTS,
                false => CloseReason::TOO_MANY_ERRORS,
            };
            self.end(now, slot, why, host);
        }
    }

    // ── subscriptions ───────────────────────────────────────────────────────────────────────────────────────────────

    fn key_of(&self, slot: u32, channel: &str) -> Option<u32> {
        self.connections[slot as usize].session()?.key_of(channel)
    }

    /// The key of a subscription that is in its channel, and its feed.
    pub(super) fn place_of(&self, slot: u32, channel: &str) -> Result<(u32, u32), ProtocolError> {
        let session = self.connections[slot as usize].session();
        let place = session.and_then(|session| {
            let key = session.key_of(channel)?;
            session.place(key).map(|(feed, _)| (key, feed))
        });
        place.ok_or_else(|| ProtocolError::new(protocol::PERMISSION_DENIED, NOT_SUBSCRIBED))
    }

    fn subscribe(&mut self, now: Now, asked: Asked, subscribe: &Subscribe<'_>, host: &mut impl Host) -> Answered {
        let Asked { slot, command, arrival } = asked;
        let Some(session) = self.connections[slot as usize].session_mut() else { return Ok(()) };
        if subscribe.is_special {
            return Err(not_offered());
        }
        if subscribe.has_filter {
            // Without it would be delivered what the client excluded.
            return Err(bad_request("filters by tags are not offered"));
        }
        let channel = &*subscribe.channel;
        let is_room = match channel.split_once(':') {
            Some(("room", key)) if fold_name(key).is_ok_and(|folded| folded == key) => true,
            Some(("live", name)) if is_live_name(name) => false,
            Some(("user", user)) if user == session.user.id.to_string() => {
                let text = "the server has subscribed this connection to its own user's channel";
                return Err(ProtocolError::new(protocol::ALREADY_SUBSCRIBED, text));
            }
            _ => {
                let text = "there is no such channel; there are room:<name>, with the room's name as the server gives it, \
                            and live:<name>";
                return Err(ProtocolError::new(protocol::UNKNOWN_CHANNEL, text));
            }
        };
        if session.key_of(channel).is_some() {
            let text = "this connection is subscribed to the channel";
            return Err(ProtocolError::new(protocol::ALREADY_SUBSCRIBED, text));
        }
        if session.subscriptions.len() as u64 >= self.config.limits.subscription_limit {
            let limit = self.config.limits.subscription_limit;
            let text = format!("at most {limit} subscriptions a connection are allowed (subscription_limit)");
            return Err(ProtocolError::new(protocol::LIMIT_EXCEEDED, text));
        }
        let (rate, burst) = (self.config.limits.subscribe_rate_per_second, self.config.limits.subscribe_burst_limit);
        if let Some(client) = session.client_mut()
            && !client.subscribes.get_or_insert_with(|| Bucket::full(burst, now.ms)).take(rate, burst, now.ms)
        {
            let text = format!("more than {rate} subscribes a second; slow down (subscribe_rate_per_second)");
            return Err(ProtocolError::new(protocol::TOO_MANY_REQUESTS, text));
        }
        let since = (is_room && subscribe.recover).then(|| Since {
            offset: subscribe.offset,
            epoch: Some(&*subscribe.epoch).filter(|epoch| !epoch.is_empty()).map(str::to_owned),
        });
        let deadline_ms = arrival.ms + self.config.limits.command_deadline_ms;
        let subscribing = Subscribing {
            entering: Entering::new(channel.into(), since),
            command,
            deadline_ms,
            wants_presence: subscribe.join_leave,
            is_strict: subscribe.flag & STRICT_FLAG != 0,
        };
        let name = Arc::clone(&subscribing.entering.name);
        let place = Place::Entering(Box::new(subscribing));
        let (user, era) = (session.user.clone(), session.era);
        let key = session.subscriptions.insert(Subscription::new(name, place, era));
        self.remind(slot, deadline_ms);
        self.enter(now, slot, Door::Subscription(key as u32), &user, host);
        Ok(())
    }

    /// A `subscribe` did not come to its end: it is answered with an error and forgotten.
    pub(super) fn subscribe_failed(
        &mut self,
        now: Now,
        slot: u32,
        key: u32,
        error: &ProtocolError,
        host: &mut impl Host,
    ) {
        let Some(session) = self.connections[slot as usize].session_mut() else { return };
        let Some(subscription) = session.subscriptions.try_remove(key as usize) else { return };
        if let Place::Entering(subscribing) = subscription.place {
            self.reply_error(now, slot, subscribing.command, error, host);
            self.go_on_with_deferred(slot);
        }
    }

    /// The attach gate's last step: answers with the position from which the subscription goes on, and makes it a
    /// subscriber whose cursor stands there. What was shown meanwhile, and all that was missed, is above the cursor, and
    /// is given as the queue drains.
    pub(super) fn subscribed(
        &mut self,
        now: Now,
        slot: u32,
        key: u32,
        feed_id: u32,
        (position, recovered): (Offset, Option<bool>),
        host: &mut impl Host,
    ) {
        let Some(feed) = self.feeds.get(feed_id as usize) else { return };
        let (epoch, top) = (feed.epoch.clone(), feed.position);
        let Some(session) = self.connections[slot as usize].session_mut() else { return };
        let Some(encoding) = session.client().map(|client| client.encoding) else { return };
        let Some(subscription) = session.subscriptions.get_mut(key as usize) else { return };
        debug_assert_eq!(feed.name, subscription.name, "a channel has one name");
        let Place::Entering(subscribing) = &subscription.place else { return };
        let (command, wants_presence) = (subscribing.command, subscribing.wants_presence);
        if recovered == Some(false) && subscribing.is_strict {
            return self.deny(now, slot, Door::Subscription(key), Denied::Unrecoverable, host);
        }
        let offset = if mutation::active(Mutation::AnswerTop) { top } else { position };
        let reply = match &epoch {
            None => Reply::SubscribeLive,
            Some(Epoch(epoch)) => Reply::SubscribeRoom { epoch, offset, recovered },
        };
        self.reply(slot, command, reply);
        let format = match encoding {
            centrifuge::Encoding::Json => Format::Json,
            centrifuge::Encoding::Protobuf => Format::Protobuf,
        };
        let cursor = if mutation::active(Mutation::SkipAttachGate) { top } else { position };
        // What is above the cursor is given when the reply has been written (`sent`): some SDKs handle a push that comes
        // with its subscribe reply before that.
        self.add_subscriber(feed_id, Subscriber { slot, key, cursor, format, is_behind: false, wants_presence });
        self.go_on_with_deferred(slot);
    }

    /// How many bytes one answer may have. Half of a message at most, since small replies share it; and no more than the
    /// queue has place for.
    pub(super) fn reply_bytes(&self) -> usize {
        let limits = &self.config.limits;
        (limits.outbound_message_limit_bytes / 2).min(limits.outbound_limit_bytes / 4).max(1) as usize
    }

    /// The server ends a subscription, and says so.
    pub(super) fn unsubscribed(&mut self, slot: u32, key: u32) {
        let Some(session) = self.connections[slot as usize].session() else { return };
        let Some(subscription) = session.subscriptions.get(key as usize) else { return };
        let name = Arc::clone(&subscription.name);
        self.take_out(slot, key);
        let (code, reason) = UNSUBSCRIBED;
        self.add_reply(slot, |encoding, out| {
            centrifuge::push_push(encoding, out, &name, &Push::Unsubscribe { code, reason });
        });
        self.go_on_with_deferred(slot);
    }

    // ── publishing ──────────────────────────────────────────────────────────────────────────────────────────────────

    fn publish(
        &mut self,
        now: Now,
        asked: Asked,
        channel: &str,
        data: &[u8],
        is_rpc: bool,
        host: &mut impl Host,
    ) -> Answered {
        let Asked { slot, command, arrival } = asked;
        let (key, feed) = self.place_of(slot, channel)?;
        let text_limit = self.config.limits.text_limit_bytes as usize;
        let Channel::Room(room) = self.feeds[feed as usize].channel else {
            let compact =
                data::compact(data).ok_or_else(|| bad_request("the data must be JSON, nested at most 64 deep"))?;
            data::check_length(&compact, text_limit)?;
            self.publish_live(now, slot, key, compact.into(), true, host)?;
            self.reply(slot, command, if is_rpc { Reply::Rpc { data: b"{}" } } else { Reply::Publish { offset: 0 } });
            return Ok(());
        };
        let mut publish = data::decode(data, text_limit).map_err(|refused| refused.error)?;
        let session = self.connections[slot as usize].session();
        if session.is_some_and(|session| u64::from(session.outstanding) >= self.config.limits.pending_publishes_limit) {
            self.refuse_publishes(slot, key);
            let text =
                "too many publishes of this connection wait for the database (pending_publishes_limit); try again";
            return Err(ProtocolError::new(protocol::INTERNAL, text));
        }
        self.take_publish(now, slot)?;
        let id: Arc<str> = publish.id.take().map_or_else(|| self.make_id(), Into::into);
        let serial = self.append(slot, key, &id, publish, arrival, host)?;
        let kind = if is_rpc { CallKind::RpcPublish { room } } else { CallKind::Publish { room } };
        if let Some(client) = self.connections[slot as usize].client_mut() {
            // The lane answers in time.
            client.calls.push(Call { serial, command, arrival, deadline_ms: None, key: Some(key), kind });
        }
        Ok(())
    }

    pub(super) fn publish_answered(
        &mut self,
        now: Now,
        slot: u32,
        call: &Call,
        result: Result<Outcome, NotKnown>,
        host: &mut impl Host,
    ) {
        let error = match result {
            Ok(Outcome::New(stored) | Outcome::Duplicate(stored)) => {
                if matches!(call.kind, CallKind::Publish { .. }) {
                    return self.reply(slot, call.command, Reply::Publish { offset: stored.offset });
                }
                let session = self.connections[slot as usize].session();
                let epoch = session
                    .and_then(|session| session.place(call.key?))
                    .and_then(|(feed, _)| self.feeds.get(feed as usize)?.epoch.clone());
                let epoch = epoch.as_ref().map(|epoch| &*epoch.0);
                let answer = methods::PublishResult { epoch, offset: stored.offset, time: stored.time };
                return self.reply(slot, call.command, Reply::Rpc { data: &methods::to_json(&answer) });
            }
            Ok(Outcome::Refused(refusal)) => refused(refusal),
            Err(NotKnown) => not_known(),
        };
        self.reply_error(now, slot, call.command, &error, host);
    }

    fn typing(&mut self, now: Now, slot: u32, channel: &str, host: &mut impl Host) -> Answered {
        let (_, feed) = self.place_of(slot, channel)?;
        self.take_publish(now, slot)?;
        let Some(session) = self.connections[slot as usize].session() else { return Ok(()) };
        let note = Arc::new(Note::Typing(session.user.clone()));
        self.say(feed, note, host)
    }

    // ── the user's own channel ──────────────────────────────────────────────────────────────────────────────────────

    /// Sends an event to a user's connections on this shard.
    pub(super) fn tell_own(&mut self, user: UserId, news: &UserEvent) {
        let slots = self.users.get(&user).map(|state| state.slots.clone()).unwrap_or_default();
        let (channel, data) = (format!("user:{user}"), methods::to_json(&methods::UserEventData::from(news)));
        for slot in slots {
            self.add_reply(slot, |encoding, out| {
                centrifuge::push_push(encoding, out, &channel, &Push::Ephemeral { data: &data });
            });
        }
    }

    /// How a connection is called in presence: unique on this node, and, with the chance of 2⁻⁶⁴, between two starts.
    pub(super) fn client_id_of(&self, shard: u16, slot: u32, generation: u32) -> String {
        let hash = self.naming.hash_one((shard, slot, generation));
        format!("{hash:016x}-{shard:x}-{slot:x}-{generation:x}")
    }

    pub(super) fn client_id(&self, shard: u16, slot: u32) -> String {
        self.client_id_of(shard, slot, self.connections[slot as usize].generation)
    }
}

pub(super) fn bad_request(text: &str) -> ProtocolError {
    ProtocolError::new(protocol::BAD_REQUEST, text)
}

fn not_offered() -> ProtocolError {
    ProtocolError::new(protocol::NOT_AVAILABLE, "this is not offered here")
}
