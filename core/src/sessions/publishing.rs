//! Publishes of both protocols: from a client's text to the home of its room, and the answer back.

use super::command::{Answered, CommandContext, NOT_SUBSCRIBED, bad_request};
use super::joining::Denied;
use crate::connections::{Arrival, Call, CallKind, Dialect, PLAIN_KEY, SubscriptionState};
use crate::host::{Host, Refused};
use crate::ids::{CommandId, Serial, Slot, SubscriptionKey};
use crate::message::{Append, Caller, Channel, Endpoint, Message, OutcomeUnknown};
use crate::metrics;
use crate::mutation::{self, Mutation};
use crate::protocol::centrifuge::{Reply, methods};
use crate::protocol::data::{self, Publish};
use crate::protocol::{self, CloseReason, LiveEntry, ProtocolError, plain};
use crate::shard::Shard;
use crate::websocket::frame;
use std::sync::Arc;
use uproar_model::{Epoch, Item, Outcome, Refusal, RoomId};

impl Shard {
    // ── the plain protocol ──────────────────────────────────────────────────────────────────────────────────────────

    /// A text frame of an open plain connection.
    pub(crate) fn on_text(&mut self, slot: Slot, text: &str, host: &mut impl Host) {
        self.cx.meter.metrics.borrow_mut().received += 1;
        let Some(session) = self.connections[slot].session() else { return };
        let Dialect::Plain(input) = session.dialect else { return };
        let Some(feed) = session.joined(PLAIN_KEY).and_then(|(feed, _)| self.feeds.get(feed)) else { return };
        let result = match feed.channel {
            Channel::Room(room) => self.publish_text(slot, room, text, input, host),
            Channel::Live(_) => self.publish_live_text(slot, text, input, host).map_err(|error| (error, None)),
        };
        if let Err((error, id)) = result {
            self.count_refused(error.code, host);
            self.push_json(slot, &plain::error(&error, id.as_deref()), host);
        }
    }

    fn publish_text(
        &mut self,
        slot: Slot,
        room: RoomId,
        text: &str,
        input: plain::InputFormat,
        host: &mut impl Host,
    ) -> Result<(), (ProtocolError, Option<String>)> {
        let limit = self.cx.limits().text_limit_bytes as usize;
        let mut publish = plain::decode(text, input, limit).map_err(|refused| (refused.error, refused.id))?;
        let sent_id = publish.id.take();
        let feed = self.connections[slot].session().and_then(|session| session.joined(PLAIN_KEY));
        let feed = feed.and_then(|(feed, _)| self.feeds.get(feed));
        let epoch = feed.and_then(|feed| feed.epoch.as_ref());
        check_epoch(publish.epoch.as_deref(), epoch).map_err(|error| (error, sent_id.clone()))?;
        let id: Arc<str> = sent_id.as_deref().map_or_else(|| self.make_id(), Into::into);
        self.check_order(slot, room, &id, host).map_err(|error| (error, Some(id.to_string())))?;
        self.take_publish(slot).map_err(|error| (error, sent_id))?;
        let arrival = Arrival { ms: self.cx.now.ms, was_unread: false };
        let sent = self.append(slot, PLAIN_KEY, &id, publish, arrival, host);
        sent.map_err(|error| (error, Some(id.to_string())))?;
        let pending_limit = self.cx.limits().pending_publishes_limit;
        let connection = &mut self.connections[slot];
        if let Some(session) = connection.session() {
            // The connection is read again when the database has caught up: a script that pipes a file waits instead of
            // losing lines.
            connection.is_paused = u64::from(session.outstanding) >= pending_limit;
        }
        Ok(())
    }

    fn publish_live_text(
        &mut self,
        slot: Slot,
        text: &str,
        input: plain::InputFormat,
        host: &mut impl Host,
    ) -> Answered {
        data::check_length(text, self.cx.limits().text_limit_bytes as usize)?;
        let is_json = input == plain::InputFormat::Json;
        let data: Arc<str> = if is_json {
            data::compact(text.as_bytes()).map_err(|wrong| bad_request(&format!("the frame {wrong}")))?.into()
        } else {
            text.into()
        };
        self.publish_live(slot, PLAIN_KEY, data, is_json, host)
    }

    // ── the Centrifugo protocol ─────────────────────────────────────────────────────────────────────────────────────

    /// The command `publish`, or the method of the same name.
    pub(super) fn publish(
        &mut self,
        command: CommandContext,
        channel: &str,
        data: &[u8],
        is_rpc: bool,
        host: &mut impl Host,
    ) -> Answered {
        let CommandContext { slot, id, arrival } = command;
        let (key, feed) = self.joined(slot, channel)?;
        let text_limit = self.cx.limits().text_limit_bytes as usize;
        let Some(feed) = self.feeds.get(feed) else { return Err(Denied::Overloaded.error()) };
        let Channel::Room(room) = feed.channel else {
            let compact = data::compact(data).map_err(|wrong| bad_request(&format!("the data {wrong}")))?;
            data::check_length(&compact, text_limit)?;
            self.publish_live(slot, key, compact.into(), true, host)?;
            let reply = if is_rpc { Reply::Rpc { data: b"{}" } } else { Reply::Publish { offset: 0 } };
            self.reply(slot, id, reply);
            return Ok(());
        };
        let mut publish = data::decode(data, text_limit).map_err(|refused| refused.error)?;
        check_epoch(publish.epoch.as_deref(), feed.epoch.as_ref())?;
        let message_id: Arc<str> = publish.id.take().map_or_else(|| self.make_id(), Into::into);
        self.check_order(slot, room, &message_id, host)?;
        let session = self.connections[slot].session();
        let pending_limit = self.cx.limits().pending_publishes_limit;
        if session.is_some_and(|session| u64::from(session.outstanding) >= pending_limit) {
            self.publish_failed(slot, room, &message_id);
            let text =
                "too many publishes of this connection wait for the database (pending_publishes_limit); try again";
            return Err(ProtocolError::new(protocol::INTERNAL, text));
        }
        self.take_publish(slot)?;
        let serial = self.append(slot, key, &message_id, publish, arrival, host)?;
        let kind = if is_rpc { CallKind::RpcPublish { room } } else { CallKind::Publish { room } };
        if let Some(client) = self.connections[slot].client_mut() {
            let call = Call { serial, command: id, arrival, deadline_ms: None, key: Some(key), kind, _interest: None };
            client.calls.push(call);
        }
        Ok(())
    }

    // ── to the home ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Sends an item to the home of its room. Returns the serial under which [`Shard::on_appended`] answers.
    fn append(
        &mut self,
        slot: Slot,
        key: SubscriptionKey,
        id: &Arc<str>,
        publish: Publish,
        arrival: Arrival,
        host: &mut impl Host,
    ) -> Result<Serial, ProtocolError> {
        let denied = || ProtocolError::new(protocol::PERMISSION_DENIED, NOT_SUBSCRIBED);
        let session = self.connections[slot].session().ok_or_else(denied)?;
        let (feed_id, _) = session.joined(key).ok_or_else(denied)?;
        let feed = self.feeds.get(feed_id).ok_or_else(denied)?;
        let (Channel::Room(room), home) = (&feed.channel, Endpoint::Shard(feed.home)) else { return Err(denied()) };
        let room = *room;
        if !self.cx.messenger.take_credit(home) {
            self.publish_failed(slot, room, id);
            return Err(Denied::Overloaded.error());
        }
        let session = self.connections[slot].session_mut().ok_or_else(denied)?;
        let serial = session.next_serial();
        session.outstanding += 1;
        if !session.failures.is_empty() {
            session.failures.on_sent(room, id);
        }
        let subscription = &mut session.subscriptions[key.index()];
        if subscription.publishing == 0 {
            // Everything sent to the room is answered, so every era that has begun there is known.
            subscription.era = subscription.era.max(session.era);
        }
        subscription.publishing += 1;
        let (user, era) = (session.user.clone(), subscription.era);
        let append = Box::new(Append {
            caller: self.connections.caller(slot, serial),
            era,
            deadline_ms: arrival.ms + self.cx.limits().append_deadline_ms,
            item: Item {
                room,
                user: user.id,
                id: Arc::clone(id),
                kind: publish.kind,
                target: publish.target,
                body: publish.body.map(Into::into),
                meta: publish.meta.map(Into::into),
            },
            username: user.username,
        });
        self.cx.messenger.send(home, Message::Append(append), host);
        Ok(serial)
    }

    /// Refuses a publish that would overtake an earlier one of its connection that has ended with error 100.
    fn check_order(&mut self, slot: Slot, room: RoomId, id: &Arc<str>, host: &mut impl Host) -> Answered {
        let (now_ms, deadline_ms) = (self.cx.now.ms, self.cx.limits().append_deadline_ms);
        let Some(session) = self.connections[slot].session_mut() else { return Ok(()) };
        if session.failures.is_empty() {
            return Ok(());
        }
        let (serial, is_undecided) = (session.next_serial(), session.is_publishing(room));
        let Err(refusal) = session.failures.check(room, id, serial, now_ms, deadline_ms, is_undecided) else {
            return Ok(());
        };
        if refusal.is_lost {
            self.close(slot, CloseReason::FORCE_RECONNECT, host);
        } else if refusal.needs_ping {
            self.ping_soon(slot);
        }
        let text = "an earlier message to this room failed; send that one again first, then those after it, in order";
        Err(ProtocolError::new(protocol::INTERNAL, text))
    }

    /// A publish ends with error 100 before it has reached its lane.
    fn publish_failed(&mut self, slot: Slot, room: RoomId, id: &Arc<str>) {
        let Some(session) = self.connections[slot].session_mut() else { return };
        let serial = session.next_serial();
        if mutation::active(Mutation::RefusalRaisesEra) {
            session.era += 1;
            let era = session.era;
            session.subscriptions.iter_mut().for_each(|(_, subscription)| subscription.era = era);
        }
        if !mutation::active(Mutation::RefusalFailsAlone) {
            self.note_failure(slot, room, id, serial);
        }
    }

    /// Later publishes to the room have to fail until this one is sent again.
    fn note_failure(&mut self, slot: Slot, room: RoomId, id: &Arc<str>, serial: Serial) {
        let Some(session) = self.connections[slot].session_mut() else { return };
        if session.failures.add(room, id, serial) {
            self.ping_soon(slot);
        }
    }

    /// Pings a client at the end of the turn: its answer shows that it has been told of a failure.
    pub(super) fn ping_soon(&mut self, slot: Slot) {
        let now_ms = self.cx.now.ms;
        let connection = &mut self.connections[slot];
        connection.ping_ms = connection.ping_ms.min(now_ms);
        self.connections.arm_timer(slot, now_ms);
    }

    /// A publish that ended with error 100 is stored after all.
    pub(crate) fn on_settled(&mut self, caller: Caller, room: RoomId, id: &str) {
        if let Some(session) = self.connections.of_caller(caller).and_then(|c| c.session_mut()) {
            session.failures.on_stored(room, id);
        }
    }

    /// Sends a message to the home of its `live:` channel.
    fn publish_live(
        &mut self,
        slot: Slot,
        key: SubscriptionKey,
        data: Arc<str>,
        is_json: bool,
        host: &mut impl Host,
    ) -> Answered {
        self.take_publish(slot)?;
        self.cx.config.bus.check_length(&data)?;
        let Some(session) = self.connections[slot].session() else { return Ok(()) };
        let Some(feed) = session.joined(key).and_then(|(feed, _)| self.feeds.get(feed)) else { return Ok(()) };
        let Channel::Live(channel) = feed.channel.clone() else { return Ok(()) };
        let entry = LiveEntry { user: Some(session.user.clone()), time: self.cx.now.unix_ms, data, is_json };
        let message = Message::Live { channel, entry };
        if !self.cx.messenger.call(Endpoint::Shard(feed.home), message, host) {
            return Err(Denied::Overloaded.error());
        }
        Ok(())
    }

    /// Takes one publish out of the user's allowance.
    pub(super) fn take_publish(&mut self, slot: Slot) -> Answered {
        let Some(session) = self.connections[slot].session() else { return Ok(()) };
        let user = session.user.id;
        if self.connections.users.take_publish(&self.cx, user) {
            return Ok(());
        }
        let rate = self.cx.limits().publish_rate_per_second;
        let text = format!(
            "more than {rate} messages per second; slow down (--limit publish_rate_per_second, publish_burst_limit)"
        );
        Err(ProtocolError::new(protocol::TOO_MANY_REQUESTS, text))
    }

    /// An id for a message without one, so that every item can be sent to the database again.
    fn make_id(&mut self) -> Arc<str> {
        self.ids_made += 1;
        format!("~{:x}.{:x}.{:x}", self.cx.config.seed, self.cx.config.id, self.ids_made).into()
    }

    // ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// A publish of one of this shard's connections was answered.
    pub(crate) fn on_appended(
        &mut self,
        caller: Caller,
        era: u32,
        id: &Arc<str>,
        result: Result<Outcome, OutcomeUnknown>,
        host: &mut impl Host,
    ) {
        let slot = caller.slot;
        let Some(session) = self.connections.of_caller(caller).and_then(|c| c.session_mut()) else { return };
        session.outstanding = session.outstanding.saturating_sub(1);
        let outstanding = session.outstanding;
        let call = session.client_mut().map(|client| client.take_call(caller.serial));
        let is_plain = call.is_none();
        match call {
            None => {
                self.settle_publish(caller, id, Some(PLAIN_KEY), self.plain_room(slot), era, &result);
                self.answer_plain_publish(slot, id, result, host);
            }
            Some(None) => debug_assert!(false, "a publish is on the list until it is answered"),
            Some(Some(call)) => {
                let (CallKind::Publish { room } | CallKind::RpcPublish { room }) = call.kind else { return };
                self.settle_publish(caller, id, call.key, Some(room), era, &result);
                self.answer_publish(slot, &call, result, host);
                self.resume_deferred(slot);
            }
        }
        if self.draining {
            if outstanding == 0 {
                self.close_soon(slot);
            }
        } else if is_plain
            && u64::from(outstanding) <= self.cx.limits().pending_publishes_limit / 2
            && self.connections[slot].session().is_some()
        {
            self.resume(slot, host);
        }
    }

    /// The room of a plain connection.
    fn plain_room(&self, slot: Slot) -> Option<RoomId> {
        let (feed, _) = self.connections[slot].session()?.joined(PLAIN_KEY)?;
        match self.feeds.get(feed)?.channel {
            Channel::Room(room) => Some(room),
            Channel::Live(_) => None,
        }
    }

    /// Takes a publish off its subscription's count, and begins a new era if it ended with error 100.
    fn settle_publish(
        &mut self,
        caller: Caller,
        id: &Arc<str>,
        key: Option<SubscriptionKey>,
        room: Option<RoomId>,
        era: u32,
        result: &Result<Outcome, OutcomeUnknown>,
    ) {
        let Caller { slot, serial, .. } = caller;
        let feeds = &self.feeds;
        let Some(session) = self.connections[slot].session_mut() else { return };
        if let Some(subscription) = key.and_then(|key| session.subscription_mut(key)) {
            subscription.publishing = subscription.publishing.saturating_sub(1);
        }
        let (Err(OutcomeUnknown), Some(room)) = (result, room) else { return };
        session.era = session.era.max(era);
        // The client may have unsubscribed and subscribed again since. It is the room that matters.
        let same = session.subscriptions.iter_mut().map(|(_, subscription)| subscription).find(|subscription| {
            let SubscriptionState::Joined { feed, .. } = subscription.state else { return false };
            feeds.get(feed).is_some_and(|feed| feed.channel == Channel::Room(room))
        });
        match same.is_none_or(|subscription| subscription.begin_era(era)) {
            true => self.note_failure(slot, room, id, serial),
            false if session.failures.add_follower(room, id, serial) => self.ping_soon(slot),
            false => {}
        }
    }

    fn answer_plain_publish(
        &mut self,
        slot: Slot,
        id: &str,
        result: Result<Outcome, OutcomeUnknown>,
        host: &mut impl Host,
    ) {
        let error = match result {
            // The message itself, which the sender receives like everyone else, is the acknowledgement.
            Ok(Outcome::New(_)) => return,
            Ok(Outcome::Duplicate(stored)) => return self.push_json(slot, &plain::ack(id, stored), host),
            Ok(Outcome::Refused(refusal)) => refused(refusal),
            Err(OutcomeUnknown) => outcome_unknown(),
        };
        self.count_refused(error.code, host);
        self.push_json(slot, &plain::error(&error, Some(id)), host);
    }

    fn answer_publish(
        &mut self,
        slot: Slot,
        call: &Call,
        result: Result<Outcome, OutcomeUnknown>,
        host: &mut impl Host,
    ) {
        let error = match result {
            Ok(Outcome::New(stored) | Outcome::Duplicate(stored)) => {
                if matches!(call.kind, CallKind::Publish { .. }) {
                    return self.reply(slot, call.command, Reply::Publish { offset: stored.offset });
                }
                let session = self.connections[slot].session();
                let joined = session.and_then(|session| session.joined(call.key?));
                let epoch = joined.and_then(|(feed, _)| self.feeds.get(feed)?.epoch.clone());
                let epoch = epoch.as_ref().map(|epoch| &*epoch.0);
                let answer = methods::PublishResult { epoch, offset: stored.offset, time: stored.time };
                return self.reply(slot, call.command, Reply::Rpc { data: &methods::to_json(&answer) });
            }
            Ok(Outcome::Refused(refusal)) => refused(refusal),
            Err(OutcomeUnknown) => outcome_unknown(),
        };
        self.reply_error(slot, call.command, &error, host);
    }

    /// Counts one more refusal with this code.
    pub(super) fn count_refused(&mut self, code: u16, host: &mut impl Host) {
        if metrics::count(&mut self.cx.meter.metrics.borrow_mut().errors, code) {
            host.log_first(Refused::Message, code);
        }
    }

    /// Sends a plain connection one text frame.
    fn push_json(&mut self, slot: Slot, json: &[u8], host: &mut impl Host) {
        let mut out = Vec::with_capacity(json.len() + 10);
        frame::push_text(&mut out, json);
        self.push(slot, out.into(), host);
    }

    pub(super) fn reply(&mut self, slot: Slot, id: CommandId, reply: Reply<'_>) {
        self.connections.reply(&self.cx, slot, id, reply);
    }
}

fn refused(refusal: Refusal) -> ProtocolError {
    let code = match refusal {
        Refusal::NoRoom => protocol::UNKNOWN_CHANNEL,
        Refusal::NotMember
        | Refusal::NotYours
        | Refusal::Silenced { .. }
        | Refusal::ModeratorsOnly
        | Refusal::NobodyPosts => protocol::PERMISSION_DENIED,
        Refusal::SlowMode { .. } => protocol::TOO_MANY_REQUESTS,
        Refusal::NoTarget | Refusal::IdReused | Refusal::BadData | Refusal::Unknown => protocol::BAD_REQUEST,
        Refusal::TooManyReactions => protocol::LIMIT_EXCEEDED,
    };
    ProtocolError::new(code, refusal.to_string())
}

/// A client that names an epoch means the room with that history, and no other of the same name.
pub(super) fn check_epoch(meant: Option<&str>, epoch: Option<&Epoch>) -> Answered {
    if meant.is_none_or(|meant| epoch.is_some_and(|epoch| *epoch.0 == *meant)) {
        return Ok(());
    }
    let text = "this was meant for another room of this name, which was deleted, or for an earlier state of the \
                database; read the room again";
    Err(ProtocolError::new(protocol::UNRECOVERABLE_POSITION, text))
}

fn outcome_unknown() -> ProtocolError {
    let text = "it is unknown whether the message was stored; send it again with the same id";
    ProtocolError::new(protocol::INTERNAL, text)
}
