//! What an open connection says, and what it is told about what it said.

use super::figures;
use super::host::{Host, Now, Refused};
use super::mesh::{Append, Caller, Channel, Endpoint, Message, NotKnown};
use super::rate::Bucket;
use super::run::LiveEntry;
use super::shard::Shard;
use crate::protocol::{self, CloseReason, ProtocolError, data, plain};
use crate::websocket::frame;
use std::sync::Arc;
use uproar_model::{Item, Kind, Outcome, Refusal, User};

/// The protocol state of a connection that is in a channel.
#[derive(Debug)]
pub(super) struct Session {
    pub user: User,
    /// Of the token it came with.
    pub generation: Option<u32>,
    pub issued_at_s: u64,
    /// When its token's time, and the grace after it, is over.
    pub expires_unix_ms: u64,
    /// Its feed, and its index among the feed's subscribers.
    pub place: Option<(u32, u32)>,
    /// A stored room, not a `live:` channel.
    pub is_stored: bool,
    /// It has not yet been given all that was shown before it came.
    pub is_behind: bool,
    /// The serial of the page that is being read for it.
    pub reading: Option<u32>,
    pub input: plain::Input,
    /// Publishes under way.
    pub outstanding: u64,
    /// Raised each time a publish ends with error 100.
    pub era: u32,
    pub serial: u32,
}

impl Shard {
    /// A text frame of an open connection.
    pub(super) fn said(&mut self, now: Now, slot: u32, text: &str, host: &mut impl Host) {
        self.meter.figures.borrow_mut().received += 1;
        let Some(session) = self.connections[slot as usize].session() else { return };
        let (is_stored, input) = (session.is_stored, session.input);
        let result = if is_stored {
            self.publish(now, slot, text, input, host)
        } else {
            self.publish_live(now, slot, text, input, host).map_err(|error| (error, None))
        };
        if let Err((error, id)) = result {
            if figures::count(&mut self.meter.figures.borrow_mut().errors, error.code) {
                host.note_first(Refused::Message, error.code);
            }
            self.tell(now, slot, &plain::error(&error, id.as_deref()), host);
        }
    }

    fn publish(
        &mut self,
        now: Now,
        slot: u32,
        text: &str,
        input: plain::Input,
        host: &mut impl Host,
    ) -> Result<(), (ProtocolError, Option<String>)> {
        let limit = self.config.limits.text_limit_bytes as usize;
        let publish = plain::decode(text, input, limit).map_err(|refused| (refused.error, refused.id))?;
        self.take_publish(now, slot).map_err(|error| (error, publish.id.clone()))?;
        let Some(session) = self.connections[slot as usize].session() else { return Ok(()) };
        let Some((feed_id, _)) = session.place else { return Ok(()) };
        let feed = &self.feeds[feed_id as usize];
        let (Channel::Room(room), home) = (feed.channel.clone(), feed.home) else { return Ok(()) };
        let (user, era, serial) = (session.user.clone(), session.era, session.serial.wrapping_add(1));
        let id: Arc<str> = match publish.id {
            Some(id) => id.into(),
            None => self.make_id(),
        };
        // The credit also bounds what a shard's own connections have under way in rooms at home here.
        if !self.take_credit(Endpoint::Shard(home)) {
            let error = ProtocolError::new(protocol::INTERNAL, super::handshake::OVERLOADED);
            return Err((error, Some(id.to_string())));
        }
        let append = Box::new(Append {
            caller: self.caller(slot, serial),
            era,
            deadline_ms: now.ms + self.config.limits.append_deadline_ms,
            item: Item {
                room,
                user: user.id,
                id,
                kind: Kind::Message,
                target: publish.reply_to,
                body: Some(publish.text.into()),
            },
            username: user.username,
        });
        let pending_limit = self.config.limits.pending_publishes_limit;
        let connection = &mut self.connections[slot as usize];
        if let Some(session) = connection.session_mut() {
            session.serial = serial;
            session.outstanding += 1;
            // It is read again when the database has caught up with it: a script that pipes a file waits, and loses
            // nothing.
            connection.is_paused = session.outstanding >= pending_limit;
        }
        if home == self.config.id {
            self.home_append(append, host);
        } else {
            host.mesh(Endpoint::Shard(home), Message::Append(append));
        }
        Ok(())
    }

    fn publish_live(
        &mut self,
        now: Now,
        slot: u32,
        text: &str,
        input: plain::Input,
        host: &mut impl Host,
    ) -> Result<(), ProtocolError> {
        data::check_length(text, self.config.limits.text_limit_bytes as usize)?;
        let is_json = input == plain::Input::Json;
        let data: Arc<str> = if is_json {
            let compact = data::compact(text.as_bytes());
            compact.ok_or_else(|| ProtocolError::new(protocol::BAD_REQUEST, "each frame must be JSON"))?.into()
        } else {
            text.into()
        };
        self.take_publish(now, slot)?;
        let Some(session) = self.connections[slot as usize].session() else { return Ok(()) };
        let Some((feed_id, _)) = session.place else { return Ok(()) };
        let entry = LiveEntry { user: session.user.clone(), time: now.unix_ms, data, is_json };
        let feed = &self.feeds[feed_id as usize];
        let home = feed.home;
        if home == self.config.id {
            let channel = feed.channel.clone();
            self.home_live(&channel, entry);
        } else if let Channel::Live(channel) = feed.channel.clone() {
            if !self.take_credit(Endpoint::Shard(home)) {
                return Err(ProtocolError::new(protocol::INTERNAL, super::handshake::OVERLOADED));
            }
            host.mesh(Endpoint::Shard(home), Message::Live { channel, entry: Box::new(entry) });
        }
        Ok(())
    }

    /// Takes one publish out of the user's allowance.
    fn take_publish(&mut self, now: Now, slot: u32) -> Result<(), ProtocolError> {
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
        if result == Err(NotKnown) && session.era == era {
            session.era += 1;
        }
        let error = match result {
            // The message itself, which the sender receives like everyone else, is the acknowledgement.
            Ok(Outcome::New(_)) => None,
            Ok(Outcome::Again(stored)) => {
                self.tell(now, slot, &plain::ack(id, stored), host);
                None
            }
            Ok(Outcome::Refused(refusal)) => Some(refused(refusal)),
            Err(NotKnown) => Some(not_known()),
        };
        if let Some(error) = error {
            if figures::count(&mut self.meter.figures.borrow_mut().errors, error.code) {
                host.note_first(Refused::Message, error.code);
            }
            self.tell(now, slot, &plain::error(&error, Some(id)), host);
        }
        if is_draining {
            if outstanding == 0 {
                self.end(now, slot, CloseReason::GOING_AWAY, host);
            }
        } else if outstanding <= self.config.limits.pending_publishes_limit / 2 {
            self.resume(now, slot, host);
        }
    }

    /// Puts one text frame of a connection's own into its queue.
    fn tell(&mut self, now: Now, slot: u32, json: &[u8], host: &mut impl Host) {
        let mut out = Vec::with_capacity(json.len() + 10);
        frame::push_text(&mut out, json);
        self.push(now, slot, out.into(), host);
    }
}

fn refused(refusal: Refusal) -> ProtocolError {
    let code = match refusal {
        Refusal::NoRoom => protocol::UNKNOWN_CHANNEL,
        Refusal::NotMember | Refusal::NotYours => protocol::PERMISSION_DENIED,
        Refusal::NoTarget | Refusal::IdReused | Refusal::BadData => protocol::BAD_REQUEST,
    };
    ProtocolError::new(code, refusal.to_string())
}

fn not_known() -> ProtocolError {
    let text = "it is not known whether the message was stored; send it again with the same id";
    ProtocolError::new(protocol::INTERNAL, text)
}
