//! What a client of the Centrifugo protocol asks, and what it is answered. `subscribe` goes on in `entering.rs`, publishes
//! in `session.rs`, presence in `presence.rs`.

use super::connection::Phase;
use super::entering::{Denied, Door, Entering, Since, is_live_name};
use super::feed::Subscriber;
use super::host::{Host, Now};
use super::mesh::{Ask, Channel, News, NotKnown};
use super::mutation::{self, Mutation};
use super::presence::Note;
use super::rate::Bucket;
use super::run::Entry;
use super::session::{Call, CallKind, NOT_SUBSCRIBED, Place, Subscribing, Subscription, not_known, refused};
use super::shard::Shard;
use crate::protocol::centrifuge::{self, Command, Publications, Push, Reply, Request, Subscribe, own};
use crate::protocol::{self, CloseReason, Format, ProtocolError, UNSUBSCRIBED, data};
use std::sync::Arc;
use uproar_model::{Epoch, Offset, Outcome, UserId, fold_name};

/// A flag of `subscribe`: a position that does not exist is an error.
const STRICT_FLAG: i64 = 2;

/// For so long after reading goes on what is read may have waited.
const UNREAD_MS: u64 = 50;

/// How a command went, as far as its frame is concerned.
enum Flow {
    Next,
    /// It must wait for an earlier one on the same channel.
    Wait,
}

type Answered = Result<(), ProtocolError>;

/// A command that is to be answered: by whom it was sent, under which id, and when it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub slot: u32,
    pub command: u32,
    pub arrived_ms: u64,
}

impl Shard {
    /// A frame of a connection of the Centrifugo protocol.
    pub(super) fn commands(&mut self, now: Now, slot: u32, frame: &[u8], host: &mut impl Host) {
        self.meter.figures.borrow_mut().received += 1;
        let client = self.connections[slot as usize].client_mut();
        // What was not read for a while may have come at any time meanwhile, and its sender waits since then.
        let paused = client.and_then(|client| client.paused.filter(|(_, until_ms)| now.ms < *until_ms));
        let arrived_ms = paused.map_or(now.ms, |(since_ms, _)| since_ms);
        self.take_commands(now, slot, frame, arrived_ms, host);
    }

    /// The same, or the rest of one, that came at this time.
    pub(super) fn take_commands(&mut self, now: Now, slot: u32, frame: &[u8], arrived_ms: u64, host: &mut impl Host) {
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
            if let Flow::Wait = self.command(now, slot, command, arrived_ms, host) {
                let connection = &mut self.connections[slot as usize];
                connection.is_paused = true;
                if let Some(client) = connection.client_mut() {
                    client.deferred = from_here.to_vec();
                    client.deferred_ms = arrived_ms;
                }
                return;
            }
        }
    }

    /// A call was answered: commands that waited for it have their turn, with the shard's.
    pub(super) fn go_on_with_deferred(&mut self, slot: u32) {
        if self.connections[slot as usize].client_mut().is_some_and(|client| !client.deferred.is_empty()) {
            self.deferring.push(slot);
        }
    }

    /// At the begin of a turn.
    pub(super) fn take_deferred(&mut self, now: Now, host: &mut impl Host) {
        for slot in std::mem::take(&mut self.deferring) {
            let is_draining = self.is_draining();
            let Some(client) = self.connections[slot as usize].client_mut().filter(|_| !is_draining) else { continue };
            let (deferred, arrived_ms) = (std::mem::take(&mut client.deferred), client.deferred_ms);
            if deferred.is_empty() {
                continue;
            }
            self.take_commands(now, slot, &deferred, arrived_ms, host);
            let client = self.connections[slot as usize].client_mut();
            if let Some(client) = client.filter(|client| client.deferred.is_empty()) {
                client.paused = Some((arrived_ms, now.ms + UNREAD_MS));
                self.resume(now, slot, host);
            }
        }
    }

    fn command(&mut self, now: Now, slot: u32, command: Command<'_>, arrived_ms: u64, host: &mut impl Host) -> Flow {
        let Command { id, request } = command;
        let asked = Asked { slot, command: id, arrived_ms };
        let result = match &request {
            Request::Pong => return Flow::Next,
            Request::Connect(_) => {
                self.end(now, slot, CloseReason::BAD_REQUEST, host);
                return Flow::Next;
            }
            Request::Ping => {
                self.reply(slot, id, Reply::Ping);
                return Flow::Next;
            }
            Request::Send { data } => {
                // Nothing is said about what is wrong with it.
                if let Some(own::Sent { typing }) = own::parse(data) {
                    let _ = self.typing(now, slot, &typing, host);
                }
                return Flow::Next;
            }
            Request::Subscribe(subscribe) => {
                if self.is_entering(slot, &subscribe.channel) {
                    return Flow::Wait;
                }
                self.subscribe(now, asked, subscribe, host)
            }
            Request::Unsubscribe { channel } => {
                if self.is_entering(slot, channel) {
                    return Flow::Wait;
                }
                if let Some(key) = self.key_of(slot, channel) {
                    self.take_out(slot, key);
                }
                // Also where it was not subscribed: an error makes SDKs reconnect.
                self.reply(slot, id, Reply::Unsubscribe);
                return Flow::Next;
            }
            Request::Publish { channel, data, is_special } => {
                if self.is_busy(slot, channel, false) {
                    return Flow::Wait;
                }
                match is_special {
                    true => Err(not_offered()),
                    false => self.publish(now, asked, channel, data, false, host),
                }
            }
            Request::History(history) => {
                if self.is_busy(slot, &history.channel, true) {
                    return Flow::Wait;
                }
                self.history(asked, history, host)
            }
            Request::Presence { channel } => {
                if self.is_entering(slot, channel) {
                    return Flow::Wait;
                }
                self.ask_presence(now, asked, channel, true, host)
            }
            Request::PresenceStats { channel } => {
                if self.is_entering(slot, channel) {
                    return Flow::Wait;
                }
                self.ask_presence(now, asked, channel, false, host)
            }
            Request::Rpc { method, data } => match &**method {
                "publish" => match own::parse(data) {
                    None => Err(bad_request("the data of publish must be {\"channel\":…,\"data\":…}")),
                    Some(own::PublishCall { channel, data }) => {
                        if self.is_busy(slot, &channel, false) {
                            return Flow::Wait;
                        }
                        self.publish(now, asked, &channel, data.get().as_bytes(), true, host)
                    }
                },
                "read" => match own::parse(data) {
                    None => Err(bad_request("the data of read must be {\"channel\":…,\"offset\":…}")),
                    Some(own::ReadCall { channel, offset }) => {
                        if self.is_entering(slot, &channel) {
                            return Flow::Wait;
                        }
                        self.read(asked, &channel, offset, host)
                    }
                },
                "rooms" => match if data.is_empty() { Some(own::RoomsCall::default()) } else { own::parse(data) } {
                    None => Err(bad_request("the data of rooms must be {}, {\"after\":…,\"limit\":…}, or left out")),
                    Some(wanted) => self.rooms(asked, wanted, host),
                },
                "typing" => match own::parse(data) {
                    None => Err(bad_request("the data of typing must be {\"channel\":…}")),
                    Some(own::TypingCall { channel }) => {
                        if self.is_entering(slot, &channel) {
                            return Flow::Wait;
                        }
                        let typed = self.typing(now, slot, &channel, host);
                        typed.map(|()| self.reply(slot, id, Reply::Rpc { data: b"{}" }))
                    }
                },
                _ => {
                    let text = "there is no such method; there are publish, read, rooms and typing";
                    Err(ProtocolError::new(protocol::METHOD_NOT_FOUND, text))
                }
            },
            Request::Refresh { token } => self.refresh(now, asked, token, host),
            Request::SubRefresh => Err(not_offered()),
            Request::Unknown => {
                Err(ProtocolError::new(protocol::METHOD_NOT_FOUND, "the command asks for nothing that is known here"))
            }
        };
        if let Err(error) = result {
            self.reply_error(now, slot, id, &error, host);
        }
        Flow::Next
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

    fn subscription(&self, slot: u32, channel: &str) -> Option<&Subscription> {
        let session = self.connections[slot as usize].session()?;
        session.subscriptions.get(session.key_of(channel)? as usize)
    }

    /// Whether a `subscribe` to this channel is under way: what comes behind it takes effect behind it.
    fn is_entering(&self, slot: u32, channel: &str) -> bool {
        let subscription = self.subscription(slot, channel);
        subscription.is_some_and(|subscription| matches!(subscription.place, Place::Entering(_)))
    }

    /// The same, and whether reads (or, for reads, publishes) of this channel are under way.
    fn is_busy(&self, slot: u32, channel: &str, reads: bool) -> bool {
        self.subscription(slot, channel).is_some_and(|subscription| match subscription.place {
            Place::Entering(_) => true,
            Place::In { .. } if reads => subscription.publishing > 0,
            Place::In { .. } => subscription.reading > 0,
        })
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
        let Asked { slot, command, arrived_ms } = asked;
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
        let since = (is_room && subscribe.recover).then(|| Since {
            offset: subscribe.offset,
            epoch: Some(&*subscribe.epoch).filter(|epoch| !epoch.is_empty()).map(str::to_owned),
        });
        let deadline_ms = arrived_ms + self.config.limits.command_deadline_ms;
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
        let key = session.subscriptions.insert(Subscription { name, place, era, publishing: 0, reading: 0 });
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

    /// The attach gate's last step: says where the subscription begins, gives what can be given at once, and makes it a
    /// subscriber whose cursor stands behind that. What is shown meanwhile, or does not fit, is above the cursor.
    pub(super) fn subscribed(
        &mut self,
        now: Now,
        slot: u32,
        key: u32,
        feed_id: u32,
        (position, recovered): (Offset, Option<bool>),
        host: &mut impl Host,
    ) {
        let reply_bytes = self.reply_bytes();
        let Some(feed) = self.feeds.get(feed_id as usize) else { return };
        let Some(session) = self.connections[slot as usize].session_mut() else { return };
        let Some(client) = session.client() else { return };
        let encoding = client.encoding;
        let Some(subscription) = session.subscriptions.get_mut(key as usize) else { return };
        let Place::Entering(subscribing) = &mut subscription.place else { return };
        let (id, wants_presence) = (subscribing.command, subscribing.wants_presence);
        if recovered == Some(false) && subscribing.is_strict {
            return self.deny(now, slot, Door::Subscription(key), Denied::Unrecoverable, host);
        }
        let reaches_back = feed.ring.first().is_some_and(|first| first <= position + 1);
        let mut publications = None;
        if recovered == Some(true) && position < feed.position {
            publications = match &subscribing.entering.first_page {
                _ if reaches_back => {
                    let entries = feed.ring.entries_after(position);
                    Some(Publications::encode(encoding, entries, reply_bytes))
                }
                Some(page) => {
                    let is_next = page.publications.iter().zip(position + 1..).all(|(p, offset)| p.offset == offset);
                    let entries: Vec<Entry> = page.publications.iter().cloned().map(Entry::Stored).collect();
                    if entries.is_empty() || !is_next {
                        // What was there is not there any more.
                        return self.deny(now, slot, Door::Subscription(key), Denied::Unrecoverable, host);
                    }
                    Some(Publications::encode(encoding, &entries, reply_bytes))
                }
                None => {
                    let Channel::Room(room) = feed.channel else { return };
                    let request = self.page_request(position, feed.position);
                    return self.ask_at(now, slot, Door::Subscription(key), Ask::Page { room, request }, host);
                }
            };
        }
        if recovered == Some(true) && publications.is_none() {
            publications = Some(Publications::encode(encoding, &[], 0));
        }
        let count = publications.as_ref().map_or(0, Publications::count) as Offset;
        let mut cursor = position + count;
        if mutation::active(Mutation::SkipAttachGate) {
            cursor = feed.position;
        }
        let offset = if mutation::active(Mutation::AnswerTop) { feed.position } else { position };
        let (name, epoch) = (Arc::clone(&feed.name), feed.epoch.clone());
        let reply = match &epoch {
            None => Reply::SubscribeLive,
            Some(Epoch(epoch)) => Reply::SubscribeRoom { epoch, offset, recovered, publications },
        };
        debug_assert_eq!(name, subscription.name, "a channel has one name");
        self.meter.figures.borrow_mut().deliveries += count;
        self.reply(slot, id, reply);
        let format = match encoding {
            centrifuge::Encoding::Json => Format::Json,
            centrifuge::Encoding::Protobuf => Format::Protobuf,
        };
        // The rest is given when the reply has been written (`sent`): some SDKs handle a push that comes with its
        // subscribe reply before that.
        self.add_subscriber(feed_id, Subscriber { slot, key, cursor, format, is_behind: false, wants_presence });
        self.go_on_with_deferred(slot);
    }

    /// How many bytes of publications one reply holds. Half of a message at most, since small replies share it; and no
    /// more than the queue has place for.
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
        let Asked { slot, command, arrived_ms } = asked;
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
        if session.is_some_and(|session| session.outstanding >= self.config.limits.pending_publishes_limit) {
            let text =
                "too many publishes of this connection wait for the database (pending_publishes_limit); try again";
            return Err(ProtocolError::new(protocol::INTERNAL, text));
        }
        self.take_publish(now, slot)?;
        let id: Arc<str> = publish.id.take().map_or_else(|| self.make_id(), Into::into);
        let serial = self.append(slot, key, &id, publish, arrived_ms, host)?;
        let kind = if is_rpc { CallKind::RpcPublish { room } } else { CallKind::Publish { room } };
        if let Some(client) = self.connections[slot as usize].client_mut() {
            // The lane answers in time.
            client.calls.push(Call { serial, command, arrived_ms, deadline_ms: u64::MAX, key, kind });
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
            Ok(Outcome::New(stored) | Outcome::Again(stored)) => {
                if matches!(call.kind, CallKind::Publish { .. }) {
                    return self.reply(slot, call.command, Reply::Publish { offset: stored.offset });
                }
                let session = self.connections[slot as usize].session();
                let epoch = session
                    .and_then(|session| session.place(call.key))
                    .and_then(|(feed, _)| self.feeds.get(feed as usize)?.epoch.clone());
                let epoch = epoch.as_ref().map(|epoch| &*epoch.0);
                let answer = own::Published { epoch, offset: stored.offset, time: stored.time };
                return self.reply(slot, call.command, Reply::Rpc { data: &own::json(&answer) });
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

    /// News for a user's connections on this shard.
    pub(super) fn tell_own(&mut self, user: UserId, news: &News) {
        let slots = self.users.get(&user).map(|state| state.slots.clone()).unwrap_or_default();
        let (channel, data) = (format!("user:{user}"), own::json(&own::NewsData::from(news)));
        for slot in slots {
            self.add_reply(slot, |encoding, out| {
                centrifuge::push_push(encoding, out, &channel, &Push::Note { data: &data });
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
