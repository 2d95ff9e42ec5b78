//! From the upgrade request to the 101. A plain connection names its channel in the request, and nothing is answered
//! before all is known, so that every refusal is an HTTP status. The order is: token → user → channel (`entering.rs`).
//! The Centrifugo protocol is answered at once: its client says who it is by its first command (`connect.rs`).

use super::connect::Connecting;
use super::connection::Phase;
use super::entering::{Denied, Door, Entering, LIVE_NAME_LIMIT_BYTES, Since, is_live_name};
use super::feed::Subscriber;
use super::host::{Host, Now};
use super::message::{Ask, Found};
use super::outbound::Slice;
use super::session::{Place, Session, Subscription, Voice};
use super::shard::Shard;
use crate::protocol::centrifuge::Encoding;
use crate::protocol::{Format, plain};
use crate::websocket::{Request, frame, upgrade};
use bytes::Bytes;
use slab::Slab;
use std::sync::Arc;
use uproar_model::{Claims, Offset, TokenError, User, fold_name};

/// Where the Centrifugo protocol is spoken.
const CENTRIFUGE_PATH: &str = "/connection/websocket";

/// A plain connection on its way in.
#[derive(Debug)]
pub(super) struct Handshake {
    pub request: Request,
    asked: Asked,
    pub user: Option<User>,
    pub entering: Entering,
}

/// What a request asks for, and by what right.
#[derive(Debug)]
struct Asked {
    /// The subprotocol to name in the answer.
    subprotocol: Option<String>,
    claims: Claims,
    format: Format,
    input: plain::InputFormat,
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
        if request.path == CENTRIFUGE_PATH {
            return self.begin_centrifuge(now, slot, request, host);
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
            Ok((asked, entering)) => Ok(Handshake { request, asked, user: None, entering }),
            Err(refusal) => Err(Box::new((request, refusal))),
        }
    }

    /// Only pages of a browser have an origin.
    fn check_origin(&self, request: &Request) -> Result<(), Refusal> {
        let allow = &self.config.allow_origin;
        if request.origin.as_ref().is_some_and(|origin| !allow(origin, request.host.as_deref())) {
            let text = "pages of this origin may not connect; the server's --allow-origin names those that may";
            return Err(Refusal(403, "origin_not_allowed", text.into()));
        }
        Ok(())
    }

    fn check_request(&self, now: Now, request: &Request) -> Result<(Asked, Entering), Refusal> {
        if request.path != "/ws" {
            let path = clip(&request.path);
            let text = format!("there is no WebSocket at {path}; connect to /ws?room=NAME or {CENTRIFUGE_PATH}");
            return Err(Refusal(404, "not_found", text));
        }
        self.check_origin(request)?;
        let (token, subprotocol) = self.find_token(request)?;
        let claims = (self.config.verify)(&token, now.unix_ms / 1000).map_err(|error| match error {
            TokenError::Expired => Refusal(401, "token_expired", error.to_string()),
            TokenError::Invalid => Refusal(401, "token_invalid", error.to_string()),
        })?;
        if claims.user.is_some_and(|user| self.is_revoked(user, claims.generation, claims.issued_at)) {
            let (status, code, text) = Denied::SignedOut.http();
            return Err(Refusal(status, code, text));
        }
        let invalid = |text: String| Refusal(422, "invalid_field", text);
        let room = request
            .query_value("room")
            .ok_or_else(|| Refusal(422, "missing_field", "the parameter 'room' is missing: /ws?room=NAME".into()))?;
        let format = request.query_value("format");
        let (name, format, input) = match (room.strip_prefix("live:"), format.as_deref()) {
            (Some(name), format) => {
                if !is_live_name(name) {
                    let text =
                        format!("the name of a live: channel has 1 to {LIVE_NAME_LIMIT_BYTES} bytes, no controls");
                    return Err(invalid(text));
                }
                let name = format!("live:{name}");
                match format {
                    None | Some("text") => (name, Format::Plain, plain::InputFormat::Text),
                    Some("json") => (name, Format::Plain, plain::InputFormat::Json),
                    Some("raw") => (name, Format::Raw, plain::InputFormat::Text),
                    Some(_) => return Err(invalid("the format of a live: channel is text, json or raw".into())),
                }
            }
            (None, format) => {
                let no_room = || {
                    let (status, code, text) = Denied::NoRoom.http();
                    Refusal(status, code, text)
                };
                let name = format!("room:{}", fold_name(&room).map_err(|_| no_room())?);
                match format {
                    None | Some("text") => (name, Format::Plain, plain::InputFormat::Text),
                    Some("json") => (name, Format::Plain, plain::InputFormat::Json),
                    Some(_) => return Err(invalid("the format of a room is text or json".into())),
                }
            }
        };
        let since = match request.query_value("since") {
            None => None,
            Some(_) if name.starts_with("live:") => {
                return Err(invalid("a live: channel keeps nothing, so there is no 'since'".into()));
            }
            Some(text) => {
                let offset = text.parse::<u64>().ok().filter(|o| *o < 1 << 53);
                let offset = offset.ok_or_else(|| invalid("'since' must be an offset: 0 or a whole number".into()))?;
                Some(Since { offset, epoch: request.query_value("epoch").map(Into::into) })
            }
        };
        Ok((Asked { subprotocol, claims, format, input }, Entering::new(name.into(), since)))
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
        let claims = &handshake.asked.claims;
        let username = Arc::clone(&claims.username);
        match claims.user {
            Some(id) => {
                let user = User { id, username };
                handshake.user = Some(user.clone());
                self.enter_with(now, slot, &user, host);
            }
            None => self.ask_at(now, slot, Door::Upgrade, Ask::User { username }, host),
        }
    }

    /// The token's user was looked up by name.
    pub(super) fn user_found(&mut self, now: Now, slot: u32, found: Found, host: &mut impl Host) {
        let Some(handshake) = self.connections[slot as usize].handshake_mut() else { return };
        if found.has_revoked(handshake.asked.claims.issued_at) {
            return self.deny(now, slot, Door::Upgrade, Denied::SignedOut, host);
        }
        handshake.user = Some(found.user.clone());
        self.enter_with(now, slot, &found.user, host);
    }

    fn enter_with(&mut self, now: Now, slot: u32, user: &User, host: &mut impl Host) {
        if self.has_too_many_connections(user) {
            let text = "this user has too many connections (user_connections_limit)";
            return self.refuse(now, slot, 429, "too_many_connections", text, host);
        }
        self.enter(now, slot, Door::Upgrade, user, host);
    }

    pub(super) fn has_too_many_connections(&self, user: &User) -> bool {
        let connections = self.users.get(&user.id).map_or(0, |state| state.slots.len() as u64);
        connections >= self.config.limits.user_connections_limit
    }

    /// Whether the user of a handshake has signed out meanwhile.
    pub(super) fn has_signed_out(&mut self, slot: u32, user: &User) -> bool {
        let Some(handshake) = self.connections[slot as usize].handshake_mut() else { return false };
        let (generation, issued_at) = (handshake.asked.claims.generation, handshake.asked.claims.issued_at);
        self.is_revoked(user.id, generation, issued_at)
    }

    /// Puts the first thing that a connection is sent into its queue.
    fn respond(&mut self, now: Now, slot: u32, bytes: Bytes, host: &mut impl Host) {
        let response = Slice::own(&self.meter, bytes);
        self.connections[slot as usize].enqueue_response(now.ms, response);
        self.written_to(now, slot, host);
    }

    /// Answers the upgrade to the Centrifugo protocol: whatever is wrong from here on is said in that protocol.
    fn begin_centrifuge(&mut self, now: Now, slot: u32, request: Request, host: &mut impl Host) {
        if let Err(Refusal(status, code, message)) = self.check_origin(&request) {
            let handshake = Handshake::refused(request);
            self.connections[slot as usize].phase = Phase::Handshake(Box::new(handshake));
            return self.refuse(now, slot, status, code, &message, host);
        }
        let offered = request.subprotocols.iter().find_map(|name| match name.as_str() {
            "centrifuge-json" => Some((Encoding::Json, name.as_str())),
            "centrifuge-protobuf" => Some((Encoding::Protobuf, name.as_str())),
            _ => None,
        });
        let asks = |name, value| request.query_value(name).is_some_and(|asked| asked == value);
        let encoding = match offered {
            Some((encoding, _)) => encoding,
            None if asks("format", "protobuf") || asks("cf_protocol", "protobuf") => Encoding::Protobuf,
            None => Encoding::Json,
        };
        let answer = upgrade::switching_protocols(&request, offered.map(|(_, name)| name));
        let connecting = Connecting {
            encoding,
            uses_frame_pings: asks("cf_ws_frame_ping_pong", "true"),
            authorization: request.authorization.clone(),
            query_token: request.query_value("token").filter(|_| self.config.query_token).map(Into::into),
            authenticating: None,
        };
        let answered = request.answered;
        self.connections[slot as usize].phase = Phase::Connecting(Box::new(connecting));
        if !answered {
            self.respond(now, slot, answer, host);
        }
        // Reading begins.
        host.wake(slot);
    }

    /// Answers 101, says where the connection stands, and subscribes it: from here on it is in the channel.
    pub(super) fn open(
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
        let Handshake { request, asked, user, entering } = *handshake;
        let Asked { subprotocol, claims, format, input, .. } = asked;
        let (Some(user), Some(feed)) = (user, self.feeds.get(feed_id as usize)) else { return };
        let joined = match &feed.epoch {
            // What is shown after this frame begins behind the offset that it names.
            Some(epoch) => plain::joined(&entering.name["room:".len()..], epoch, cursor, recovered),
            None => plain::joined_live(&entering.name),
        };
        let mut subscriptions = Slab::with_capacity(1);
        let place = Place::In { feed: feed_id, index: 0 };
        let key = subscriptions.insert(Subscription::new(entering.name, place, 0));
        let grace_ms = self.config.limits.expired_grace_ms;
        let session = Session::new(user, &claims, grace_ms, subscriptions, Voice::Plain(input));
        self.users.entry(session.user.id).or_default().slots.push(slot);
        let connection = &mut self.connections[slot as usize];
        let (ping_ms, expires_ms) = (connection.ping_ms, now.ms + session.expires_unix_ms.saturating_sub(now.unix_ms));
        connection.phase = Phase::Open(Box::new(session));
        let subscriber = Subscriber { slot, key: key as u32, cursor, format, is_behind: false, wants_presence: false };
        self.add_subscriber(feed_id, subscriber);
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
        self.catch_up(now, slot, host);
    }
}

impl Handshake {
    /// For answering a request that is refused on sight.
    fn refused(request: Request) -> Handshake {
        let claims = Claims { user: None, username: "".into(), generation: None, issued_at: 0, expires_at: 0 };
        let asked = Asked { subprotocol: None, claims, format: Format::Plain, input: plain::InputFormat::Text };
        Handshake { request, asked, user: None, entering: Entering::new("".into(), None) }
    }
}

/// A stranger's text for an error message: short.
fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}
