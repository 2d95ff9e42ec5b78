//! Commands that wait for an answer from elsewhere: presence, history, read markers, the rooms of a user, fresh tokens.

use super::command::{Answered, CommandContext, bad_request};
use super::connect::{VERSION, ttl_s};
use super::joining::Denied;
use super::publishing::check_epoch;
use crate::connections::{Call, CallKind, SubscriptionState, expiry_ms};
use crate::host::Host;
use crate::ids::{CommandId, Serial, Slot, SubscriptionKey};
use crate::message::{
    Asker, Caller, Channel, Endpoint, Found, Interest, Message, Party, PresenceReply, Requester, StoreReply,
    StoreRequest, UserEvent,
};
use crate::protocol::centrifuge::{EncodedPublications, History, PresenceList, Reply, methods};
use crate::protocol::{self, CloseReason, Entry, ProtocolError};
use crate::shard::Shard;
use std::sync::Arc;
use uproar_model::{Claims, Epoch, Marker, Offset, PageRequest, Publication, RoomId, TokenError, fold_room_name};

/// The most rooms in one answer to `rooms`.
const ROOMS_LIMIT: usize = 100;

impl Shard {
    // ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Puts a call on the list. It will be answered under the serial of the returned caller.
    fn begin_call(
        &mut self,
        command: CommandContext,
        key: Option<SubscriptionKey>,
        kind: CallKind,
        interest: Option<Interest>,
    ) -> Result<Caller, ProtocolError> {
        let CommandContext { slot, id, arrival } = command;
        let limit = self.cx.limits().pending_commands_limit as usize;
        let deadline_ms = arrival.ms + self.cx.limits().command_deadline_ms;
        let Some(session) = self.connections[slot].session_mut() else { return Err(Denied::Overloaded.error()) };
        let serial = session.next_serial();
        let Some(client) = session.client_mut() else { return Err(Denied::Overloaded.error()) };
        if client.calls.iter().filter(|call| call.deadline_ms.is_some()).count() >= limit {
            let text = "too many commands of this connection wait for an answer (pending_commands_limit); try again";
            return Err(ProtocolError::new(protocol::INTERNAL, text));
        }
        let is_history = matches!(kind, CallKind::History { .. });
        let deadline = Some(deadline_ms);
        client.calls.push(Call { serial, command: id, arrival, deadline_ms: deadline, key, kind, _interest: interest });
        if let Some(subscription) = key.filter(|_| is_history).and_then(|key| session.subscription_mut(key)) {
            subscription.reading += 1;
        }
        self.connections.arm_timer(slot, deadline_ms);
        Ok(self.connections.caller(slot, serial))
    }

    /// Takes a call off the list.
    fn end_call(&mut self, slot: Slot, serial: Serial) -> Option<Call> {
        let session = self.connections[slot].session_mut()?;
        let call = session.client_mut()?.take_call(serial)?;
        if matches!(call.kind, CallKind::History { .. })
            && let Some(subscription) = call.key.and_then(|key| session.subscription_mut(key))
        {
            subscription.reading = subscription.reading.saturating_sub(1);
        }
        self.resume_deferred(slot);
        Some(call)
    }

    /// Asks the store's reader for a call.
    fn read_for_call(
        &mut self,
        command: CommandContext,
        key: Option<SubscriptionKey>,
        kind: CallKind,
        request: StoreRequest,
        host: &mut impl Host,
    ) -> Answered {
        let Some(session) = self.connections[command.slot].session() else { return Ok(()) };
        let interest = Interest::default();
        let asker = Asker::new(Party::User(session.user.id), &interest);
        let caller = self.begin_call(command, key, kind, Some(interest))?;
        if self.cx.messenger.read(Requester::Call(caller), asker, request, host) {
            return Ok(());
        }
        self.end_call(command.slot, caller.serial);
        Err(Denied::Overloaded.error())
    }

    /// Answers commands that are past their deadline with error 100; later answers are dropped. Returns when to look
    /// again.
    pub(super) fn expire_calls(&mut self, slot: Slot, host: &mut impl Host) -> u64 {
        let now_ms = self.cx.now.ms;
        let mut next_ms = u64::MAX;
        let Some(session) = self.connections[slot].session() else { return next_ms };
        let Some(client) = session.client() else { return next_ms };
        let mut late_calls = Vec::new();
        for call in &client.calls {
            match call.deadline_ms {
                Some(deadline_ms) if deadline_ms <= now_ms => late_calls.push(call.serial),
                Some(deadline_ms) => next_ms = next_ms.min(deadline_ms),
                None => {}
            }
        }
        let mut late_keys = Vec::new();
        for (key, subscription) in &session.subscriptions {
            match &subscription.state {
                SubscriptionState::Joining(subscribing) if subscribing.deadline_ms <= now_ms => {
                    late_keys.push(SubscriptionKey(key as u32));
                }
                SubscriptionState::Joining(subscribing) => next_ms = next_ms.min(subscribing.deadline_ms),
                SubscriptionState::Joined { .. } => {}
            }
        }
        let late = ProtocolError::new(protocol::INTERNAL, "the server could not answer in time; try again");
        for serial in late_calls {
            if let Some(call) = self.end_call(slot, serial) {
                self.reply_error(slot, call.command, &late, host);
            }
        }
        for key in late_keys {
            self.subscribe_failed(slot, key, &late, host);
        }
        next_ms
    }

    /// The reader has answered a call.
    pub(crate) fn on_call_reply(&mut self, caller: Caller, reply: StoreReply, host: &mut impl Host) {
        if self.connections.of_caller(caller).is_none() {
            return;
        }
        let slot = caller.slot;
        let Some(call) = self.end_call(slot, caller.serial) else { return };
        let id = call.command;
        let command = CommandContext { slot, id, arrival: call.arrival };
        let answered = match (call.kind, reply) {
            (_, StoreReply::Failed) => Err(Denied::Unavailable.error()),
            (CallKind::History { .. } | CallKind::ReadNumber { .. }, StoreReply::NotMember) => Err(not_a_member()),
            (CallKind::History { epoch }, StoreReply::Page(page)) => match page {
                None => Err(Denied::NoRoom.error()),
                Some(page) => {
                    self.reply_history(slot, id, &epoch, &page.head.epoch, page.head.offset, &page.publications)
                }
            },
            (CallKind::ReadNumber { room, epoch }, StoreReply::Page(page)) => {
                let page = page.filter(|page| Some(&page.head.epoch) == epoch.as_ref());
                match page.and_then(|page| page.publications.first().map(marker_at)) {
                    None => Err(bad_request("there is no publication with this offset")),
                    Some(marker) => self.mark_read(command, call.key, room, marker, host),
                }
            }
            (CallKind::Read { room }, StoreReply::Marked(marked)) => match marked {
                None => Err(not_a_member()),
                Some(marked) => {
                    self.on_marked(command, call.key, room, marked, host);
                    Ok(())
                }
            },
            (CallKind::Rooms { limit }, StoreReply::Rooms(rooms)) => {
                let rooms = methods::RoomsResult::fitting(&rooms, limit, self.cx.reply_bytes());
                self.reply(slot, id, Reply::Rpc { data: &methods::to_json(&rooms) });
                Ok(())
            }
            (CallKind::Refresh(claims), StoreReply::User(found)) => {
                let session = self.connections[slot].session();
                let is_own = |found: &Found| session.is_some_and(|session| session.user.id == found.user.id);
                if !found.is_some_and(|found| is_own(&found) && !found.has_revoked(claims.issued_at)) {
                    return self.close(slot, CloseReason::INVALID_TOKEN, host);
                }
                self.refreshed(slot, id, &claims);
                Ok(())
            }
            _ => {
                debug_assert!(false, "a reply to another question");
                return self.close(slot, CloseReason::INTERNAL_ERROR, host);
            }
        };
        if let Err(error) = answered {
            self.reply_error(slot, id, &error, host);
        }
    }

    // ── presence ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// `presence`, which names the clients, or `presence_stats`.
    pub(super) fn get_presence(
        &mut self,
        command: CommandContext,
        channel: &str,
        wants_clients: bool,
        host: &mut impl Host,
    ) -> Answered {
        let (key, feed_id) = self.joined(command.slot, channel)?;
        self.take_list(command.slot)?;
        // The home must know of everybody who came before.
        if !self.feeds.report_presence_of(&mut self.cx, feed_id, host) {
            return Err(Denied::Overloaded.error());
        }
        let Some(feed) = self.feeds.get(feed_id) else { return Err(Denied::Overloaded.error()) };
        let (channel, home) = (feed.channel.clone(), Endpoint::Shard(feed.home));
        if !self.cx.messenger.can_call(home) {
            return Err(Denied::Overloaded.error());
        }
        let caller = self.begin_call(command, Some(key), CallKind::Presence { wants_clients }, None)?;
        let is_sent = self.cx.messenger.call(home, Message::GetPresence { channel, caller, wants_clients }, host);
        debug_assert!(is_sent, "there was a credit");
        Ok(())
    }

    /// Takes one question for a list out of the user's allowance.
    fn take_list(&mut self, slot: Slot) -> Answered {
        let Some(session) = self.connections[slot].session() else { return Ok(()) };
        if self.connections.users.take_list(&self.cx, session.user.id) {
            return Ok(());
        }
        let rate = self.cx.limits().list_rate_per_second;
        let text = format!("more than {rate} requests for lists per second; slow down (list_rate_per_second)");
        Err(ProtocolError::new(protocol::TOO_MANY_REQUESTS, text))
    }

    /// The home has answered who is in the channel.
    pub(crate) fn on_presence(&mut self, caller: Caller, answer: &PresenceReply) {
        if self.connections.of_caller(caller).is_none() {
            return;
        }
        let Some(call) = self.end_call(caller.slot, caller.serial) else { return };
        let PresenceReply { num_clients, num_users, ref list } = *answer;
        let nobody = PresenceList::default();
        let reply = match call.kind {
            CallKind::Presence { wants_clients: true } => Reply::Presence { list: list.as_deref().unwrap_or(&nobody) },
            _ => Reply::PresenceStats { num_clients, num_users },
        };
        self.reply(caller.slot, call.command, reply);
    }

    // ── history ─────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn history(&mut self, command: CommandContext, history: &History<'_>, host: &mut impl Host) -> Answered {
        let CommandContext { slot, id, .. } = command;
        let (key, feed) = self.joined(slot, &history.channel)?;
        let Some(feed) = self.feeds.get(feed) else { return Err(Denied::Overloaded.error()) };
        let Channel::Room(room) = feed.channel else {
            return Err(ProtocolError::new(protocol::NOT_AVAILABLE, "a live: channel has no history"));
        };
        let since = history.since.as_ref();
        let epoch = since.map(|since| &*since.epoch).unwrap_or_default();
        if history.reverse && since.is_some_and(|since| since.offset == 0) {
            return Err(bad_request("there is nothing before offset 0"));
        }
        if history.limit == 0 {
            let (current, offset) = (feed.epoch.clone(), feed.position);
            let Some(current) = current else { return Err(Denied::Unavailable.error()) };
            return self.reply_history(slot, id, epoch, &current, offset, &[]);
        }
        let page_limit = self.cx.limits().history_page_limit as usize;
        let request = PageRequest {
            from: match (since, history.reverse) {
                (Some(since), _) => since.offset,
                (None, false) => 0,
                (None, true) => Offset::MAX,
            },
            ascending: !history.reverse,
            up_to: Offset::MAX,
            // A negative limit asks for as many as one answer holds.
            items_limit: usize::try_from(history.limit).map_or(page_limit, |limit| limit.min(page_limit)),
            bytes_limit: self.cx.reply_bytes(),
        };
        let kind = CallKind::History { epoch: epoch.into() };
        self.read_for_call(command, Some(key), kind, StoreRequest::Page { room, request }, host)
    }

    fn reply_history(
        &mut self,
        slot: Slot,
        id: CommandId,
        wanted: &str,
        epoch: &Epoch,
        offset: Offset,
        publications: &[Publication],
    ) -> Answered {
        if !wanted.is_empty() && wanted != &*epoch.0 {
            return Err(Denied::Unrecoverable.error());
        }
        let Some(encoding) = self.connections[slot].encoding() else { return Ok(()) };
        let entries: Vec<Entry> = publications.iter().cloned().map(Entry::Stored).collect();
        let publications = EncodedPublications::encode(encoding, &entries, self.cx.reply_bytes());
        self.reply(slot, id, Reply::History { epoch: &epoch.0, offset, publications });
        Ok(())
    }

    // ── read markers and rooms ──────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn read(
        &mut self,
        command: CommandContext,
        channel: &str,
        offset: Offset,
        epoch: Option<&str>,
        host: &mut impl Host,
    ) -> Answered {
        let (key, feed) = self.joined(command.slot, channel)?;
        let Some(feed) = self.feeds.get(feed) else { return Err(Denied::Overloaded.error()) };
        let Channel::Room(room) = feed.channel else {
            return Err(bad_request("a live: channel stores nothing that could be read"));
        };
        check_epoch(epoch, feed.epoch.as_ref())?;
        // An offset above the room's position means all of it.
        let offset = offset.min(feed.position);
        if offset == 0 {
            return self.mark_read(command, Some(key), room, Marker::default(), host);
        }
        let known = feed.ring.entries_after(offset - 1).next().and_then(|entry| match entry {
            Entry::Stored(publication) if publication.offset == offset => Some(marker_at(publication)),
            _ => None,
        });
        if let Some(marker) = known {
            return self.mark_read(command, Some(key), room, marker, host);
        }
        let request = PageRequest { from: offset - 1, ascending: true, up_to: offset, items_limit: 1, bytes_limit: 1 };
        let kind = CallKind::ReadNumber { room, epoch: feed.epoch.clone() };
        self.read_for_call(command, Some(key), kind, StoreRequest::Page { room, request }, host)
    }

    fn mark_read(
        &mut self,
        command: CommandContext,
        key: Option<SubscriptionKey>,
        room: RoomId,
        marker: Marker,
        host: &mut impl Host,
    ) -> Answered {
        let Some(session) = self.connections[command.slot].session() else { return Ok(()) };
        let request = StoreRequest::MarkRead { room, user: session.user.id, marker };
        self.read_for_call(command, key, CallKind::Read { room }, request, host)
    }

    fn on_marked(
        &mut self,
        command: CommandContext,
        key: Option<SubscriptionKey>,
        id: RoomId,
        (marker, has_moved): (Marker, bool),
        host: &mut impl Host,
    ) {
        let slot = command.slot;
        self.reply(slot, command.id, Reply::Rpc { data: &methods::to_json(&methods::ReadMarker::from(marker)) });
        let Some(session) = self.connections[slot].session() else { return };
        // If the subscription is gone, so is the room's name. The next `rooms` reports the marker.
        let subscription = key.and_then(|key| session.subscription(key));
        if let Some(subscription) = subscription.filter(|_| has_moved) {
            let room: Arc<str> = subscription.name.strip_prefix("room:").unwrap_or_default().into();
            let user = session.user.id;
            self.notify_user(user, UserEvent::Read { room, id, marker }, host);
        }
    }

    pub(super) fn rooms(
        &mut self,
        command: CommandContext,
        wanted: methods::RoomsCall,
        host: &mut impl Host,
    ) -> Answered {
        self.take_list(command.slot)?;
        let Some(session) = self.connections[command.slot].session() else { return Ok(()) };
        let limit = wanted.limit.unwrap_or(ROOMS_LIMIT).clamp(1, ROOMS_LIMIT);
        let after = wanted.after.as_deref().map(fold_room_name).transpose();
        let after = after.map_err(|error| bad_request(&format!("the name in 'after' {error}")))?;
        // One more than asked for tells whether there are more.
        let request = StoreRequest::Rooms { user: session.user.id, after, limit: limit + 1 };
        self.read_for_call(command, None, CallKind::Rooms { limit }, request, host)
    }

    // ── fresh tokens ────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn refresh(&mut self, command: CommandContext, token: &str, host: &mut impl Host) -> Answered {
        let CommandContext { slot, id, .. } = command;
        let claims = match (self.cx.config.verify)(token, self.cx.now.unix_ms / 1000) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => {
                // SDKs would take an error reply as final.
                self.close(slot, CloseReason::EXPIRED, host);
                return Ok(());
            }
            Err(TokenError::Invalid) => {
                self.close(slot, CloseReason::INVALID_TOKEN, host);
                return Ok(());
            }
            // SDKs try again after this error.
            Err(error @ TokenError::KeyMissing) => {
                return Err(ProtocolError::new(protocol::INTERNAL, error.to_string()));
            }
        };
        let Some(session) = self.connections[slot].session() else { return Ok(()) };
        let users = &self.connections.users;
        match claims.user {
            Some(user) if user != session.user.id || users.is_revoked(user, claims.generation, claims.issued_at) => {
                self.close(slot, CloseReason::INVALID_TOKEN, host);
                Ok(())
            }
            Some(_) => {
                self.refreshed(slot, id, &claims);
                Ok(())
            }
            None => {
                let request = StoreRequest::user_of(&claims);
                self.read_for_call(command, None, CallKind::Refresh(Box::new(claims)), request, host)
            }
        }
    }

    fn refreshed(&mut self, slot: Slot, id: CommandId, claims: &Claims) {
        let now = self.cx.now;
        let grace_ms = self.cx.limits().expired_grace_ms;
        let client = self.client_id(slot);
        let Some(session) = self.connections[slot].session_mut() else { return };
        session.generation = claims.generation;
        session.issued_at_s = claims.issued_at;
        session.expires_unix_ms = expiry_ms(claims, grace_ms);
        let expires_ms = now.ms + session.expires_unix_ms.saturating_sub(now.unix_ms);
        self.reply(slot, id, Reply::Refresh { client: &client, version: VERSION, ttl: ttl_s(claims, now) });
        self.connections.arm_timer(slot, expires_ms);
    }
}

fn not_a_member() -> ProtocolError {
    ProtocolError::new(protocol::PERMISSION_DENIED, "the user is not a member of the room")
}

fn marker_at(publication: &Publication) -> Marker {
    Marker { offset: publication.offset, number: publication.number }
}
