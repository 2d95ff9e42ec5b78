//! Commands that wait for an answer from elsewhere: what is under way, until when, and what becomes of the answer.
//! History, read markers, the rooms of a user, fresh tokens.

use super::commands::{Asked, bad_request};
use super::connect::{VERSION, ttl_s};
use super::entering::Denied;
use super::host::{Host, Now};
use super::message::{Answer, Ask, Asker, Caller, Channel, Found, UserEvent};
use super::session::{Call, CallKind, Place, expiry_ms};
use super::shard::Shard;
use crate::protocol::centrifuge::{EncodedPublications, History, Reply, methods};
use crate::protocol::{self, CloseReason, Entry, ProtocolError};
use std::sync::Arc;
use uproar_model::{Claims, Epoch, Marker, Offset, PageRequest, Publication, RoomId, TokenError};

/// Rooms in one answer to `rooms`.
const ROOMS_LIMIT: usize = 100;

type Answered = Result<(), ProtocolError>;

impl Shard {
    // ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Notes a call that will be answered under the serial of the caller returned.
    pub(super) fn begin_call(
        &mut self,
        asked: Asked,
        key: Option<u32>,
        kind: CallKind,
    ) -> Result<Caller, ProtocolError> {
        let Asked { slot, command, arrival } = asked;
        let limit = self.config.limits.pending_commands_limit as usize;
        let deadline_ms = arrival.ms + self.config.limits.command_deadline_ms;
        let Some(session) = self.connections[slot as usize].session_mut() else {
            return Err(Denied::Overloaded.error());
        };
        let serial = session.next_serial();
        let Some(client) = session.client_mut() else { return Err(Denied::Overloaded.error()) };
        if client.calls.iter().filter(|call| call.deadline_ms.is_some()).count() >= limit {
            let text = "too many commands of this connection wait for an answer (pending_commands_limit); try again";
            return Err(ProtocolError::new(protocol::INTERNAL, text));
        }
        let is_read = matches!(kind, CallKind::History(_));
        client.calls.push(Call { serial, command, arrival, deadline_ms: Some(deadline_ms), key, kind });
        if let Some(subscription) = key.filter(|_| is_read).and_then(|key| session.subscriptions.get_mut(key as usize))
        {
            subscription.reading += 1;
        }
        self.remind(slot, deadline_ms);
        Ok(self.caller(slot, serial))
    }

    /// Takes a call off the list.
    pub(super) fn end_call(&mut self, slot: u32, serial: u32) -> Option<Call> {
        let session = self.connections[slot as usize].session_mut()?;
        let client = session.client_mut()?;
        let call = client.take_call(serial)?;
        if matches!(call.kind, CallKind::History(_))
            && let Some(subscription) = call.key.and_then(|key| session.subscriptions.get_mut(key as usize))
        {
            subscription.reading = subscription.reading.saturating_sub(1);
        }
        self.go_on_with_deferred(slot);
        Some(call)
    }

    /// Asks the readers for a call.
    fn ask_for_call(
        &mut self,
        asked: Asked,
        key: Option<u32>,
        kind: CallKind,
        ask: Ask,
        host: &mut impl Host,
    ) -> Answered {
        let caller = self.begin_call(asked, key, kind)?;
        if self.ask(Asker::Connection(caller), ask, host) {
            return Ok(());
        }
        self.end_call(asked.slot, caller.serial);
        Err(Denied::Overloaded.error())
    }

    /// Commands whose time is over get error 100, and an answer that comes later is for nobody. Returns when to look
    /// again.
    pub(super) fn expire_calls(&mut self, now: Now, slot: u32, host: &mut impl Host) -> u64 {
        let mut next_ms = u64::MAX;
        let Some(session) = self.connections[slot as usize].session() else { return next_ms };
        let Some(client) = session.client() else { return next_ms };
        let mut late_calls = Vec::new();
        for call in &client.calls {
            match call.deadline_ms {
                Some(deadline_ms) if deadline_ms <= now.ms => late_calls.push(call.serial),
                Some(deadline_ms) => next_ms = next_ms.min(deadline_ms),
                None => {}
            }
        }
        let mut late_keys = Vec::new();
        for (key, subscription) in &session.subscriptions {
            match &subscription.place {
                Place::Entering(subscribing) if subscribing.deadline_ms <= now.ms => late_keys.push(key as u32),
                Place::Entering(subscribing) => next_ms = next_ms.min(subscribing.deadline_ms),
                Place::In { .. } => {}
            }
        }
        let late = ProtocolError::new(protocol::INTERNAL, "the server could not answer in time; try again");
        for serial in late_calls {
            if let Some(call) = self.end_call(slot, serial) {
                self.reply_error(now, slot, call.command, &late, host);
            }
        }
        for key in late_keys {
            self.subscribe_failed(now, slot, key, &late, host);
        }
        next_ms
    }

    /// The readers answered a call.
    pub(super) fn call_answered(&mut self, now: Now, caller: Caller, answer: Answer, host: &mut impl Host) {
        let slot = caller.slot;
        let Some(call) = self.end_call(slot, caller.serial) else { return };
        let id = call.command;
        let asked = Asked { slot, command: id, arrival: call.arrival };
        let answered = match (call.kind, answer) {
            (_, Answer::Failed) => Err(Denied::Unavailable.error()),
            (CallKind::History(epoch), Answer::Page(page)) => match page {
                None => Err(Denied::NoRoom.error()),
                Some(page) => {
                    self.reply_history(slot, id, &epoch, &page.head.epoch, page.head.offset, &page.publications)
                }
            },
            (CallKind::ReadNumber { room }, Answer::Page(page)) => {
                let row = page.and_then(|page| page.publications.first().map(marker_at));
                match row {
                    None => Err(bad_request("there is nothing at this offset")),
                    Some(marker) => self.mark_read(asked, call.key, room, marker, host),
                }
            }
            (CallKind::Read, Answer::Marked(marked)) => match marked {
                None => Err(ProtocolError::new(protocol::PERMISSION_DENIED, "the user is not a member of the room")),
                Some(marked) => {
                    self.marked(asked, call.key, marked, host);
                    Ok(())
                }
            },
            (CallKind::Rooms { limit }, Answer::Rooms(rooms)) => {
                let rooms = methods::RoomsResult::fitting(&rooms, limit, self.reply_bytes());
                self.reply(slot, id, Reply::Rpc { data: &methods::to_json(&rooms) });
                Ok(())
            }
            (CallKind::Refresh(claims), Answer::User(found)) => {
                let session = self.connections[slot as usize].session();
                let is_own = |found: &Found| session.is_some_and(|session| session.user.id == found.user.id);
                if !found.is_some_and(|found| is_own(&found) && !found.has_revoked(claims.issued_at)) {
                    return self.end(now, slot, CloseReason::INVALID_TOKEN, host);
                }
                self.refreshed(now, slot, id, &claims);
                Ok(())
            }
            _ => {
                debug_assert!(false, "an answer to something else");
                return self.end(now, slot, CloseReason::INTERNAL_ERROR, host);
            }
        };
        if let Err(error) = answered {
            self.reply_error(now, slot, id, &error, host);
        }
    }

    // ── history ─────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn history(&mut self, asked: Asked, history: &History<'_>, host: &mut impl Host) -> Answered {
        let Asked { slot, command, .. } = asked;
        let (key, feed) = self.place_of(slot, &history.channel)?;
        let feed = &self.feeds[feed as usize];
        let Channel::Room(room) = feed.channel else {
            let text = "a live: channel keeps no history";
            return Err(ProtocolError::new(protocol::NOT_AVAILABLE, text));
        };
        let since = history.since.as_ref();
        let epoch = since.map(|since| &*since.epoch).unwrap_or_default();
        if history.reverse && since.is_some_and(|since| since.offset == 0) {
            return Err(bad_request("there is nothing before offset 0"));
        }
        if history.limit == 0 {
            let (current, offset) = (feed.epoch.clone(), feed.position);
            let Some(current) = current else { return Err(Denied::Unavailable.error()) };
            return self.reply_history(slot, command, epoch, &current, offset, &[]);
        }
        let limit = match usize::try_from(history.limit) {
            Ok(limit) => limit.min(self.config.limits.history_page_limit as usize),
            Err(_) => self.config.limits.history_page_limit as usize,
        };
        let request = PageRequest {
            from: match (since, history.reverse) {
                (Some(since), _) => since.offset,
                (None, false) => 0,
                (None, true) => Offset::MAX,
            },
            ascending: !history.reverse,
            up_to: Offset::MAX,
            items_limit: limit,
            bytes_limit: self.reply_bytes(),
        };
        let kind = CallKind::History(epoch.into());
        self.ask_for_call(asked, Some(key), kind, Ask::Page { room, request }, host)
    }

    fn reply_history(
        &mut self,
        slot: u32,
        id: u32,
        wanted: &str,
        epoch: &Epoch,
        offset: Offset,
        publications: &[Publication],
    ) -> Answered {
        if !wanted.is_empty() && wanted != &*epoch.0 {
            return Err(Denied::Unrecoverable.error());
        }
        let Some(encoding) = self.connections[slot as usize].encoding() else { return Ok(()) };
        let entries: Vec<Entry> = publications.iter().cloned().map(Entry::Stored).collect();
        let publications = EncodedPublications::encode(encoding, &entries, self.reply_bytes());
        self.reply(slot, id, Reply::History { epoch: &epoch.0, offset, publications });
        Ok(())
    }

    // ── read markers and rooms ──────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn read(&mut self, asked: Asked, channel: &str, offset: Offset, host: &mut impl Host) -> Answered {
        let (key, feed) = self.place_of(asked.slot, channel)?;
        let feed = &self.feeds[feed as usize];
        let Channel::Room(room) = feed.channel else {
            return Err(bad_request("a live: channel keeps nothing that could be read"));
        };
        // What a client claims beyond what there is moves nothing.
        let offset = offset.min(feed.position);
        if offset == 0 {
            return self.mark_read(asked, Some(key), room, Marker::default(), host);
        }
        let known = feed.ring.entries_after(offset - 1).next().and_then(|entry| match entry {
            Entry::Stored(publication) if publication.offset == offset => Some(marker_at(publication)),
            _ => None,
        });
        if let Some(marker) = known {
            return self.mark_read(asked, Some(key), room, marker, host);
        }
        let request = PageRequest { from: offset - 1, ascending: true, up_to: offset, items_limit: 1, bytes_limit: 1 };
        self.ask_for_call(asked, Some(key), CallKind::ReadNumber { room }, Ask::Page { room, request }, host)
    }

    fn mark_read(
        &mut self,
        asked: Asked,
        key: Option<u32>,
        room: RoomId,
        marker: Marker,
        host: &mut impl Host,
    ) -> Answered {
        let slot = asked.slot;
        let Some(session) = self.connections[slot as usize].session() else { return Ok(()) };
        let ask = Ask::MarkRead { room, user: session.user.id, marker };
        self.ask_for_call(asked, key, CallKind::Read, ask, host)
    }

    fn marked(&mut self, asked: Asked, key: Option<u32>, (marker, has_moved): (Marker, bool), host: &mut impl Host) {
        let slot = asked.slot;
        self.reply(slot, asked.command, Reply::Rpc { data: &methods::to_json(&methods::ReadMarker::from(marker)) });
        let Some(session) = self.connections[slot as usize].session() else { return };
        // A subscription that has gone meanwhile: its room's name has gone too, and the next `rooms` tells.
        let subscription = key.and_then(|key| session.subscriptions.get(key as usize));
        if let Some(subscription) = subscription.filter(|_| has_moved) {
            let room: Arc<str> = subscription.name.strip_prefix("room:").unwrap_or_default().into();
            let user = session.user.id;
            self.tell_user(user, UserEvent::Read { room, marker }, host);
        }
    }

    pub(super) fn rooms(&mut self, asked: Asked, wanted: methods::RoomsCall, host: &mut impl Host) -> Answered {
        let Some(session) = self.connections[asked.slot as usize].session() else { return Ok(()) };
        let limit = wanted.limit.unwrap_or(ROOMS_LIMIT).clamp(1, ROOMS_LIMIT);
        // One more than asked for tells whether there are more.
        let ask = Ask::Rooms { user: session.user.id, after: wanted.after, limit: limit + 1 };
        self.ask_for_call(asked, None, CallKind::Rooms { limit }, ask, host)
    }

    // ── refresh ─────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn refresh(&mut self, now: Now, asked: Asked, token: &str, host: &mut impl Host) -> Answered {
        let Asked { slot, command: id, .. } = asked;
        let claims = match (self.config.verify)(token, now.unix_ms / 1000) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => {
                // SDKs take an error here for final.
                self.end(now, slot, CloseReason::EXPIRED, host);
                return Ok(());
            }
            Err(TokenError::Invalid) => {
                self.end(now, slot, CloseReason::INVALID_TOKEN, host);
                return Ok(());
            }
        };
        let Some(session) = self.connections[slot as usize].session() else { return Ok(()) };
        match claims.user {
            Some(user) if user != session.user.id || self.is_revoked(user, claims.generation, claims.issued_at) => {
                self.end(now, slot, CloseReason::INVALID_TOKEN, host);
                Ok(())
            }
            Some(_) => {
                self.refreshed(now, slot, id, &claims);
                Ok(())
            }
            None => {
                let ask = Ask::User { username: Arc::clone(&claims.username) };
                let kind = CallKind::Refresh(Box::new(claims));
                self.ask_for_call(asked, None, kind, ask, host)
            }
        }
    }

    fn refreshed(&mut self, now: Now, slot: u32, id: u32, claims: &Claims) {
        let grace_ms = self.config.limits.expired_grace_ms;
        let client = self.client_id(self.config.id, slot);
        let Some(session) = self.connections[slot as usize].session_mut() else { return };
        session.generation = claims.generation;
        session.issued_at_s = claims.issued_at;
        session.expires_unix_ms = expiry_ms(claims, grace_ms);
        let expires_ms = now.ms + session.expires_unix_ms.saturating_sub(now.unix_ms);
        self.reply(slot, id, Reply::Refresh { client: &client, version: VERSION, ttl: ttl_s(claims, now) });
        self.remind(slot, expires_ms);
    }
}

fn marker_at(publication: &Publication) -> Marker {
    Marker { offset: publication.offset, number: publication.number }
}
