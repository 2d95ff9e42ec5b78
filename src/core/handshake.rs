//! From the upgrade request to the first frame: who is it, may they come in, and from where do they go on.
//!
//! Nothing is answered before all is known, so that every refusal is an HTTP status. The order is: token → user →
//! membership (which joins a public room) → the channel's feed on this shard → position.

use super::connection::Phase;
use super::feed::Subscriber;
use super::host::{Host, Now};
use super::mesh::{Answer, Ask, Caller, Channel, CheckOutcome, Endpoint, Message};
use super::run::Entry;
use super::session::Session;
use super::shard::Shard;
use crate::protocol::{Format, plain};
use crate::websocket::{Request, frame, upgrade};
use bytes::Bytes;
use std::sync::Arc;
use uproar_model::{Admission, JoinError};
use uproar_model::{Claims, Kind, Offset, TokenError, User, fold_name};

/// The longest name of a `live:` channel, in bytes.
const LIVE_NAME_LIMIT_BYTES: usize = 255;

/// A connection on its way in.
#[derive(Debug)]
pub(super) struct Handshake {
    pub request: Request,
    asked: Asked,
    user: Option<User>,
    admission: Option<Admission>,
    /// The last committed offset as the home read it, where `since` was above this shard's position.
    top: Option<Offset>,
    /// Of the question that is under way.
    serial: u32,
}

/// What a request asks for, and by what right.
#[derive(Debug)]
struct Asked {
    /// The subprotocol to name in the answer.
    subprotocol: Option<String>,
    claims: Claims,
    wanted: Wanted,
    format: Format,
    input: plain::Input,
    since: Option<Since>,
}

#[derive(Clone, Debug)]
enum Wanted {
    /// By its key.
    Room(Arc<str>),
    /// Without `live:`.
    Live(Arc<str>),
}

#[derive(Clone, Debug)]
struct Since {
    offset: Offset,
    epoch: Option<String>,
}

/// A request that is refused: HTTP status, code, text.
struct Refusal(u16, &'static str, String);

impl Shard {
    pub(super) fn begin_handshake(&mut self, now: Now, slot: u32, request: Request, host: &mut impl Host) {
        let is_echo = self.config.echo && request.path == "/echo";
        if is_echo {
            let answered = request.answered;
            self.connections[slot as usize].phase = Phase::Echo;
            let ping_ms = self.connections[slot as usize].ping_ms;
            self.remind(slot, ping_ms);
            if !answered {
                self.respond(now, slot, upgrade::switching_protocols(&request, None), host);
            }
            host.wake(slot);
            return;
        }
        match self.read_request(now, request) {
            Ok(handshake) => {
                self.connections[slot as usize].phase = Phase::Handshake(Box::new(handshake));
                self.look_up_user(now, slot, host);
            }
            Err(refused) => {
                let (request, Refusal(status, code, message)) = *refused;
                let handshake = Handshake::refused(request);
                self.connections[slot as usize].phase = Phase::Handshake(Box::new(handshake));
                self.refuse(now, slot, status, code, &message, host);
            }
        }
    }

    /// All that can be said about a request without asking anybody.
    fn read_request(&self, now: Now, request: Request) -> Result<Handshake, Box<(Request, Refusal)>> {
        match self.check_request(now, &request) {
            Ok(asked) => Ok(Handshake { request, asked, user: None, admission: None, top: None, serial: 0 }),
            Err(refusal) => Err(Box::new((request, refusal))),
        }
    }

    fn check_request(&self, now: Now, request: &Request) -> Result<Asked, Refusal> {
        if request.path != "/ws" {
            let text = format!("there is no WebSocket at {}; connect to /ws?room=NAME", clip(&request.path));
            return Err(Refusal(404, "not_found", text));
        }
        // Only pages of a browser have an origin.
        let allow = &self.config.allow_origin;
        if request.origin.as_ref().is_some_and(|origin| !allow(origin, request.host.as_deref())) {
            let text = "pages of this origin may not connect; the server's --allow-origin names those that may";
            return Err(Refusal(403, "origin_not_allowed", text.into()));
        }
        let (token, subprotocol) = self.find_token(request)?;
        let claims = (self.config.verify)(&token, now.unix_ms / 1000).map_err(|error| match error {
            TokenError::Expired => Refusal(401, "token_expired", error.to_string()),
            TokenError::Invalid => Refusal(401, "token_invalid", error.to_string()),
        })?;
        if claims.user.is_some_and(|user| self.is_revoked(user, claims.generation, claims.issued_at)) {
            return Err(signed_out());
        }
        let invalid = |text: String| Refusal(422, "invalid_field", text);
        let room = request
            .query_value("room")
            .ok_or_else(|| Refusal(422, "missing_field", "the parameter 'room' is missing: /ws?room=NAME".into()))?;
        let format = request.query_value("format");
        let (wanted, format, input) = match (room.strip_prefix("live:"), format.as_deref()) {
            (Some(name), format) => {
                if name.is_empty() || name.len() > LIVE_NAME_LIMIT_BYTES || name.chars().any(char::is_control) {
                    let text =
                        format!("the name of a live: channel has 1 to {LIVE_NAME_LIMIT_BYTES} bytes, no controls");
                    return Err(invalid(text));
                }
                let wanted = Wanted::Live(name.into());
                match format {
                    None | Some("text") => (wanted, Format::Plain, plain::Input::Text),
                    Some("json") => (wanted, Format::Plain, plain::Input::Json),
                    Some("raw") => (wanted, Format::Raw, plain::Input::Text),
                    Some(_) => return Err(invalid("the format of a live: channel is text, json or raw".into())),
                }
            }
            (None, format) => {
                let key = fold_name(&room).map_err(|_| no_room())?;
                match format {
                    None | Some("text") => (Wanted::Room(key.into()), Format::Plain, plain::Input::Text),
                    Some("json") => (Wanted::Room(key.into()), Format::Plain, plain::Input::Json),
                    Some(_) => return Err(invalid("the format of a room is text or json".into())),
                }
            }
        };
        let since = match request.query_value("since") {
            None => None,
            Some(_) if matches!(wanted, Wanted::Live(_)) => {
                return Err(invalid("a live: channel keeps nothing, so there is no 'since'".into()));
            }
            Some(text) => {
                let offset = text.parse::<u64>().ok().filter(|o| *o < 1 << 53);
                let offset = offset.ok_or_else(|| invalid("'since' must be an offset: 0 or a whole number".into()))?;
                Some(Since { offset, epoch: request.query_value("epoch").map(Into::into) })
            }
        };
        Ok(Asked { subprotocol, claims, wanted, format, input, since })
    }

    /// The token, and the subprotocol that carried it if one did.
    fn find_token(&self, request: &Request) -> Result<(String, Option<String>), Refusal> {
        if let Some(header) = &request.authorization {
            if let Some((scheme, token)) = header.split_once(' ')
                && scheme.eq_ignore_ascii_case("bearer")
            {
                return Ok((token.trim().to_owned(), None));
            }
            return Err(Refusal(401, "token_invalid", "the Authorization header must be 'Bearer TOKEN'".into()));
        }
        if let Some(offered) = request.subprotocols.iter().find(|p| p.starts_with("bearer.")) {
            return Ok((offered["bearer.".len()..].to_owned(), Some(offered.clone())));
        }
        if let Some(token) = request.query_value("token") {
            if self.config.query_token {
                return Ok((token.into_owned(), None));
            }
            let text = "tokens in the address are switched off here; send 'Authorization: Bearer TOKEN'";
            return Err(Refusal(401, "token_missing", text.into()));
        }
        let text = "there is no token; send 'Authorization: Bearer TOKEN', the subprotocol 'bearer.TOKEN', or ?token=";
        Err(Refusal(401, "token_missing", text.into()))
    }

    fn look_up_user(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        let Some(handshake) = self.connections[slot as usize].handshake_mut() else { return };
        match handshake.asked.claims.user {
            Some(id) => {
                handshake.user = Some(User { id, username: Arc::clone(&handshake.asked.claims.username) });
                self.ask_admission(now, slot, host);
            }
            None => {
                let ask = Ask::User { username: Arc::clone(&handshake.asked.claims.username) };
                self.ask_for(now, slot, ask, host);
            }
        }
    }

    /// Asks the readers on behalf of a handshake.
    fn ask_for(&mut self, now: Now, slot: u32, ask: Ask, host: &mut impl Host) {
        let Some(handshake) = self.connections[slot as usize].handshake_mut() else { return };
        handshake.serial += 1;
        let serial = handshake.serial;
        let caller = self.caller(slot, serial);
        if !self.ask(super::mesh::Asker::Connection(caller), ask, host) {
            self.refuse(now, slot, 503, "overloaded", OVERLOADED, host);
        }
    }

    fn ask_admission(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        let Some(handshake) = self.connections[slot as usize].handshake_mut() else { return };
        let Some(user) = &handshake.user else { return };
        let user_id = user.id;
        let wanted = handshake.asked.wanted.clone();
        let connections = self.users.get(&user_id).map_or(0, |state| state.slots.len() as u64);
        if connections >= self.config.limits.user_connections_limit {
            let text = "this user has too many connections (user_connections_limit)";
            return self.refuse(now, slot, 429, "too_many_connections", text, host);
        }
        match wanted {
            Wanted::Room(key) => {
                self.ask_for(now, slot, Ask::Admit { room: key.to_string(), user: user_id }, host);
            }
            Wanted::Live(name) => {
                let shown: Arc<str> = format!("live:{name}").into();
                self.attach(now, slot, Channel::Live(name), shown, host);
            }
        }
    }

    /// The readers answered a handshake.
    pub(super) fn handshake_answered(&mut self, now: Now, caller: Caller, answer: Answer, host: &mut impl Host) {
        let slot = caller.slot;
        let Some(connection) = self.connection_of(caller) else { return };
        let Some(handshake) = connection.handshake_mut().filter(|h| h.serial == caller.serial) else { return };
        match answer {
            Answer::User { user, revoked_at } => {
                // A token minted beside the server names no generation; it must be younger than the last sign-out.
                if revoked_at.is_some_and(|at| handshake.asked.claims.issued_at <= at / 1000) {
                    let Refusal(status, code, message) = signed_out();
                    return self.refuse(now, slot, status, code, &message, host);
                }
                handshake.user = Some(user);
                self.ask_admission(now, slot, host);
            }
            Answer::Admitted(Ok(admission)) => {
                let Wanted::Room(key) = &handshake.asked.wanted else { return };
                let (channel, name) = (Channel::Room(admission.room), Arc::clone(key));
                handshake.admission = Some(admission);
                self.attach(now, slot, channel, name, host);
            }
            Answer::Admitted(Err(error)) => {
                let Refusal(status, code, message) = match error {
                    JoinError::NoRoom => no_room(),
                    JoinError::Full => Refusal(409, "room_full", "the room is full".into()),
                    JoinError::NoUser => Refusal(401, "token_invalid", TokenError::Invalid.to_string()),
                };
                self.refuse(now, slot, status, code, &message, host);
            }
            Answer::Failed => self.refuse(now, slot, 503, "unavailable", UNAVAILABLE, host),
            Answer::Head(_) | Answer::Page(_) | Answer::Marked(_) | Answer::Rooms(_) => {
                debug_assert!(false, "a handshake asks for neither")
            }
        }
    }

    /// The channel's feed is there (or just came): finds where to go on, and lets the connection in.
    pub(super) fn let_in(&mut self, now: Now, slot: u32, feed_id: u32, host: &mut impl Host) {
        let Some(feed) = self.feeds.get(feed_id as usize) else { return };
        let (position, epoch, home) = (feed.position, feed.epoch.clone(), feed.home);
        let Some(handshake) = self.connections[slot as usize].handshake_mut() else { return };
        let Some(user) = handshake.user.clone() else { return };
        let claims = handshake.asked.claims.clone();
        if self.is_revoked(user.id, claims.generation, claims.issued_at) {
            let Refusal(status, code, message) = signed_out();
            return self.refuse(now, slot, status, code, &message, host);
        }
        let Some(handshake) = self.connections[slot as usize].handshake_mut() else { return };
        // The membership was read at some offset; what came between there and here may have taken it away.
        if let Some(admission) = &handshake.admission
            && position > admission.offset
            && !self.feeds[feed_id as usize].is_still_member(&user, admission.offset)
        {
            return self.ask_admission(now, slot, host);
        }
        let Some(handshake) = self.connections[slot as usize].handshake_mut() else { return };
        let top = handshake.top.unwrap_or(position).max(position);
        let (cursor, recovered) = match (&handshake.asked.since, &epoch) {
            (None, _) | (_, None) => (position, None),
            (Some(since), Some(current)) if since.epoch.as_deref().is_some_and(|e| e != &*current.0) => {
                (position, Some(false))
            }
            (Some(since), _) if since.offset <= top => (since.offset, Some(true)),
            (Some(_), _) if handshake.top.is_some() => (position, Some(false)),
            (Some(_), _) => return self.ask_top(now, slot, feed_id, home, host),
        };
        self.open(now, slot, feed_id, cursor, recovered, host);
    }

    /// A position above ours is either news that has not come here yet, or nonsense: the home looks.
    fn ask_top(&mut self, now: Now, slot: u32, feed_id: u32, home: u16, host: &mut impl Host) {
        let Channel::Room(room) = self.feeds[feed_id as usize].channel else { return };
        let Some(handshake) = self.connections[slot as usize].handshake_mut() else { return };
        handshake.serial += 1;
        let serial = handshake.serial;
        let caller = self.caller(slot, serial);
        if home == self.config.id {
            self.home_check(now, room, caller, host);
        } else if self.take_credit(Endpoint::Shard(home)) {
            host.mesh(Endpoint::Shard(home), Message::Check { room, caller });
        } else {
            self.refuse(now, slot, 503, "overloaded", OVERLOADED, host);
        }
    }

    /// The home answered where the room's log ends.
    pub(super) fn checked(&mut self, now: Now, caller: Caller, top: CheckOutcome, host: &mut impl Host) {
        let slot = caller.slot;
        let Some(connection) = self.connection_of(caller) else { return };
        let Some(handshake) = connection.handshake_mut().filter(|h| h.serial == caller.serial) else { return };
        match top {
            CheckOutcome::Top(offset) => {
                handshake.top = Some(offset);
                let Some(room) = handshake.admission.as_ref().map(|a| a.room) else { return };
                let name = match &handshake.asked.wanted {
                    Wanted::Room(key) => Arc::clone(key),
                    Wanted::Live(name) => Arc::clone(name),
                };
                self.attach(now, slot, Channel::Room(room), name, host);
            }
            CheckOutcome::NoRoom => {
                let Refusal(status, code, message) = no_room();
                self.refuse(now, slot, status, code, &message, host);
            }
            CheckOutcome::Failed => self.refuse(now, slot, 503, "unavailable", UNAVAILABLE, host),
        }
    }

    /// Puts the first thing that a connection is sent into its queue.
    fn respond(&mut self, now: Now, slot: u32, bytes: Bytes, host: &mut impl Host) {
        let charge = super::outbound::Charge::own(&self.meter, bytes.len());
        self.connections[slot as usize].enqueue_response(now.ms, bytes, charge);
        self.written_to(now, slot, host);
    }

    /// Answers 101, says where the connection stands, and subscribes it: from here on it is in the channel.
    fn open(
        &mut self,
        now: Now,
        slot: u32,
        feed_id: u32,
        cursor: Offset,
        recovered: Option<bool>,
        host: &mut impl Host,
    ) {
        let connection = &mut self.connections[slot as usize];
        let Phase::Handshake(handshake) = std::mem::replace(&mut connection.phase, Phase::Head) else { return };
        let Handshake { request, asked, user, .. } = *handshake;
        let Asked { subprotocol, claims, format, input, .. } = asked;
        let (Some(user), Some(feed)) = (user, self.feeds.get_mut(feed_id as usize)) else { return };
        let joined = match &feed.epoch {
            Some(epoch) => {
                // What is shown after this frame begins behind the offset that it names.
                plain::joined(&feed.name, epoch, cursor, recovered)
            }
            None => plain::joined_live(&feed.name),
        };
        let is_behind = cursor < feed.position;
        let index = feed.subscribers.len() as u32;
        feed.subscribers.push(Subscriber { slot, cursor, format, is_behind });
        feed.idle_since_ms = None;
        let is_stored = feed.epoch.is_some();
        let grace_ms = self.config.limits.expired_grace_ms;
        let session = Session {
            place: Some((feed_id, index)),
            is_stored,
            is_behind,
            reading: None,
            input,
            generation: claims.generation,
            issued_at_s: claims.issued_at,
            expires_unix_ms: (claims.expires_at.saturating_mul(1000)).saturating_add(grace_ms),
            outstanding: 0,
            era: 0,
            serial: 0,
            user,
        };
        self.meter.figures.borrow_mut().subscriptions += 1;
        self.users.entry(session.user.id).or_default().slots.push(slot);
        let connection = &mut self.connections[slot as usize];
        let (ping_ms, expires_ms) = (connection.ping_ms, now.ms + session.expires_unix_ms.saturating_sub(now.unix_ms));
        connection.phase = Phase::Open(Box::new(session));
        let mut first = Vec::with_capacity(512);
        if !request.answered {
            first.extend_from_slice(&upgrade::switching_protocols(&request, subprotocol.as_deref()));
        }
        if format != Format::Raw {
            frame::push_text(&mut first, &joined);
        }
        if !first.is_empty() {
            self.respond(now, slot, Bytes::from(first), host);
        }
        self.remind(slot, ping_ms.min(expires_ms));
        // Reading begins.
        host.wake(slot);
        if is_behind {
            self.catch_up(now, slot, host);
        }
    }
}

impl Handshake {
    /// For answering a request that is refused on sight.
    fn refused(request: Request) -> Handshake {
        let claims = Claims { user: None, username: "".into(), generation: None, issued_at: 0, expires_at: 0 };
        let asked = Asked {
            subprotocol: None,
            claims,
            wanted: Wanted::Live("".into()),
            format: Format::Plain,
            input: plain::Input::Text,
            since: None,
        };
        Handshake { request, asked, user: None, admission: None, top: None, serial: 0 }
    }
}

impl super::feed::Feed {
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

pub(super) const OVERLOADED: &str = "the server has too much to do; try again";
pub(super) const UNAVAILABLE: &str = "the database does not answer; try again";

fn no_room() -> Refusal {
    Refusal(404, "no_such_room", "there is no such room".into())
}

fn signed_out() -> Refusal {
    Refusal(401, "token_invalid", "the token's user has signed out; sign in again".into())
}

/// A stranger's text for an error message: short.
fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}
