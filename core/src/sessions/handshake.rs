//! From the upgrade request to the 101. A plain connection names its channel in the request, and is answered only when
//! everything is known, so every refusal is an HTTP status. The order is: token, user, channel (`joining.rs`). An
//! upgrade to the Centrifugo protocol is answered immediately: its client sends the token in its first command
//! (`connect.rs`).

use super::joining::Denied;
use crate::buffer::Slice;
use crate::connections::{
    Connecting, Dialect, Handshake, Joining, Phase, Session, Since, Subscription, SubscriptionState, UpgradeParameters,
};
use crate::feeds::Subscriber;
use crate::host::Host;
use crate::ids::{FeedId, Slot, SubscriptionKey};
use crate::message::{Found, Joiner, StoreRequest};
use crate::protocol::centrifuge::Encoding;
use crate::protocol::{Format, check_live_name, plain};
use crate::shard::Shard;
use crate::websocket::head::{UpgradeRequest, bearer_token, token_subprotocol};
use crate::websocket::{FieldError, Refusal, frame, upgrade};
use bytes::Bytes;
use slab::Slab;
use std::borrow::Cow;
use std::sync::Arc;
use uproar_model::{Offset, TokenError, User, fold_room_name, text};

/// The path of the Centrifugo protocol.
const CENTRIFUGE_PATH: &str = "/connection/websocket";

/// The parameters of a plain upgrade. Others are refused, because a misspelt one would be ignored in silence.
const PARAMETERS: [&str; 5] = ["room", "since", "epoch", "format", "token"];

impl Shard {
    pub(crate) fn begin_handshake(&mut self, slot: Slot, request: UpgradeRequest, host: &mut impl Host) {
        let is_echo = self.cx.config.echo && request.path == "/echo";
        if is_echo {
            self.connections[slot].phase = Phase::Echo;
            let ping_ms = self.connections[slot].ping_ms;
            self.connections.arm_timer(slot, ping_ms);
            self.respond(slot, upgrade::switching_protocols(&request, None), host);
            host.wake(slot);
            return;
        }
        if request.path == CENTRIFUGE_PATH {
            return self.begin_centrifuge(slot, request, host);
        }
        match self.check_request(&request) {
            Ok((parameters, joining)) => {
                let handshake = Handshake { request, parameters, user: None, joining };
                self.connections[slot].phase = Phase::Handshake(Box::new(handshake));
                self.look_up_user(slot, host);
            }
            Err(refusal) => self.reject(slot, &refusal, host),
        }
    }

    /// Only requests from browser pages have an origin.
    fn check_origin(&self, request: &UpgradeRequest) -> Result<(), Refusal> {
        let allow = &self.cx.config.allow_origin;
        if request.origin.as_ref().is_some_and(|origin| !allow(origin, request.host.as_deref())) {
            let text = "pages of this origin may not connect; the server's --allow-origin names those that may";
            return Err(Refusal::new(403, "origin_not_allowed", text));
        }
        Ok(())
    }

    /// Everything that can be checked without asking the store. The token comes before the parameters: a client without
    /// one learns nothing else.
    fn check_request(&self, request: &UpgradeRequest) -> Result<(UpgradeParameters, Joining), Refusal> {
        if request.path != "/ws" {
            let path = clip(&request.path);
            let text = format!("there is no WebSocket at {path}; connect to /ws?room=NAME or {CENTRIFUGE_PATH}");
            return Err(Refusal::new(404, "not_found", text));
        }
        self.check_origin(request)?;
        let (token, subprotocol) = self.find_token(request)?;
        let claims = (self.cx.config.verify)(&token, self.cx.now.unix_ms / 1000).map_err(|error| match error {
            TokenError::Expired => Refusal::new(401, "token_expired", error.to_string()),
            TokenError::Invalid => Refusal::new(401, "token_invalid", error.to_string()),
            TokenError::KeyMissing => Refusal::new(503, "unavailable", error.to_string()),
        })?;
        if claims.user.is_some_and(|user| self.connections.users.is_revoked(user, claims.generation, claims.issued_at))
        {
            return Err(Denied::SignedOut.refusal());
        }
        let Query { channel, format, input, since } = check_query(request)?;
        Ok((UpgradeParameters { subprotocol, claims, format, input }, Joining::new(channel.into(), since)))
    }

    /// The token, and the subprotocol that carried it if one did.
    fn find_token(&self, request: &UpgradeRequest) -> Result<(String, Option<String>), Refusal> {
        if let Some(token) = bearer_token(request.authorization.iter().map(String::as_str)) {
            return Ok((token.to_owned(), None));
        }
        if let Some((token, subprotocol)) = token_subprotocol(request.subprotocols.iter().map(String::as_str)) {
            return Ok((token.to_owned(), Some(subprotocol.to_owned())));
        }
        if let Some(token) = request.query_value("token").filter(|token| !token.is_empty()) {
            if self.cx.config.query_token {
                return Ok((token.into_owned(), None));
            }
            let text = "tokens in the address are not accepted here; send 'Authorization: Bearer TOKEN' or the \
                        subprotocol 'bearer.TOKEN' (--query-token allows it)";
            return Err(Refusal::new(401, "token_missing", text));
        }
        let text = "there is no token; send 'Authorization: Bearer TOKEN' or the subprotocol 'bearer.TOKEN'";
        Err(Refusal::new(401, "token_missing", text))
    }

    fn look_up_user(&mut self, slot: Slot, host: &mut impl Host) {
        let Some(handshake) = self.connections[slot].handshake_mut() else { return };
        let claims = &handshake.parameters.claims;
        match claims.user {
            Some(id) => {
                let user = User { id, username: Arc::clone(&claims.username) };
                handshake.user = Some(user.clone());
                self.join_with(slot, &user, host);
            }
            None => {
                let request = StoreRequest::user_of(claims);
                self.read_for_join(slot, Joiner::Upgrade, request, host);
            }
        }
    }

    /// The token's user was looked up.
    pub(crate) fn on_user_found(&mut self, slot: Slot, found: Found, host: &mut impl Host) {
        let Some(handshake) = self.connections[slot].handshake_mut() else { return };
        if found.has_revoked(handshake.parameters.claims.issued_at) {
            return self.deny(slot, Joiner::Upgrade, Denied::SignedOut, host);
        }
        handshake.user = Some(found.user.clone());
        self.join_with(slot, &found.user, host);
    }

    fn join_with(&mut self, slot: Slot, user: &User, host: &mut impl Host) {
        if self.connections.users.has_too_many_connections(&self.cx, user.id) {
            let text = "this user has too many connections (user_connections_limit)";
            return self.reject(slot, &Refusal::new(429, "too_many_connections", text), host);
        }
        self.join(slot, Joiner::Upgrade, user, host);
    }

    /// Whether the user of a handshake has signed out in the meantime.
    pub(crate) fn has_signed_out(&mut self, slot: Slot, user: &User) -> bool {
        let Some(handshake) = self.connections[slot].handshake_mut() else { return false };
        let (generation, issued_at) = (handshake.parameters.claims.generation, handshake.parameters.claims.issued_at);
        self.connections.users.is_revoked(user.id, generation, issued_at)
    }

    /// Queues the first thing that a connection is sent.
    fn respond(&mut self, slot: Slot, bytes: Bytes, host: &mut impl Host) {
        let response = Slice::own(&self.cx.meter, bytes);
        self.connections[slot].enqueue_response(self.cx.now.ms, response);
        self.connections.written(&self.cx, slot, host);
    }

    /// Answers the upgrade to the Centrifugo protocol. Later errors are reported in that protocol.
    fn begin_centrifuge(&mut self, slot: Slot, request: UpgradeRequest, host: &mut impl Host) {
        if let Err(refusal) = self.check_origin(&request) {
            return self.reject(slot, &refusal, host);
        }
        let mut offered = request.subprotocols.iter().map(String::as_str);
        let offered = offered.find_map(|name| Some((Encoding::from_subprotocol(name)?, name)));
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
            query_token: request.query_value("token").filter(|_| self.cx.config.query_token).map(Into::into),
            authenticating: None,
        };
        self.connections[slot].phase = Phase::Connecting(Box::new(connecting));
        self.respond(slot, answer, host);
        // Wakes the driver, because reading begins.
        host.wake(slot);
    }

    /// Answers 101, sends the client its position, and subscribes it.
    pub(super) fn open(
        &mut self,
        slot: Slot,
        feed_id: FeedId,
        cursor: Offset,
        recovered: Option<bool>,
        admitted: Offset,
        host: &mut impl Host,
    ) {
        let now = self.cx.now;
        let connection = &mut self.connections[slot];
        let Phase::Handshake(handshake) = std::mem::replace(&mut connection.phase, Phase::Head) else { return };
        let Handshake { request, parameters, user, joining } = *handshake;
        let UpgradeParameters { subprotocol, claims, format, input } = parameters;
        let (Some(mut user), Some(feed)) = (user, self.feeds.get(feed_id)) else { return };
        // Only connections that are open have heard of it.
        if let Some(name) = self.connections.users.new_name(user.id, joining.asked_ms) {
            user.username = Arc::clone(name);
        }
        let joined = match &feed.epoch {
            // The publications after this frame begin after the offset that it names.
            Some(epoch) => plain::joined(&joining.name["room:".len()..], epoch, cursor, recovered),
            None => plain::joined_live(&joining.name),
        };
        let mut subscriptions = Slab::with_capacity(1);
        let state = SubscriptionState::Joined { feed: feed_id, index: 0 };
        let key = SubscriptionKey(subscriptions.insert(Subscription::new(joining.name, state, 0)) as u32);
        let grace_ms = self.cx.limits().expired_grace_ms;
        let session = Session::new(user, &claims, grace_ms, subscriptions, Dialect::Plain(input));
        self.connections.users.add_connection(session.user.id, slot);
        let connection = &mut self.connections[slot];
        let (ping_ms, expires_ms) = (connection.ping_ms, now.ms + session.expires_unix_ms.saturating_sub(now.unix_ms));
        connection.phase = Phase::Open(Box::new(session));
        let subscriber = Subscriber { slot, key, cursor, admitted, format, is_behind: false, wants_presence: false };
        self.feeds.subscribe(&self.cx, &mut self.connections, feed_id, subscriber);
        let mut first = Vec::with_capacity(512);
        first.extend_from_slice(&upgrade::switching_protocols(&request, subprotocol.as_deref()));
        if format != Format::Raw {
            frame::push_text(&mut first, &joined);
        }
        self.respond(slot, Bytes::from(first), host);
        self.connections.arm_timer(slot, ping_ms.min(expires_ms));
        // Wakes the driver, because reading begins.
        host.wake(slot);
        self.catch_up(slot, host);
    }
}

/// What the query of a plain upgrade asks for.
struct Query {
    channel: String,
    format: Format,
    input: plain::InputFormat,
    since: Option<Since>,
}

/// Reads the query, or says everything that is wrong with it.
fn check_query(request: &UpgradeRequest) -> Result<Query, Refusal> {
    let mut errors = check_names(request);
    let room = request.query_value("room");
    let is_live = room.as_deref().is_some_and(|room| room.starts_with("live:"));
    let channel = match room.as_deref() {
        None => Err(field_error("room", "missing_field", "the parameter 'room' is missing: /ws?room=NAME")),
        Some(room) => channel_of(room).map_err(|text| field_error("room", "invalid_field", text)),
    };
    let format = request.query_value("format");
    let format = match (format.as_deref(), is_live) {
        (None | Some("text"), _) => Ok((Format::Plain, plain::InputFormat::Text)),
        (Some("json"), _) => Ok((Format::Plain, plain::InputFormat::Json)),
        (Some("raw"), true) => Ok((Format::Raw, plain::InputFormat::Text)),
        (Some("raw"), false) => Err("'raw' is only for live: channels"),
        (Some(_), true) => Err("the format is text, json or raw"),
        (Some(_), false) => Err("the format of a room is text or json"),
    };
    let since = match request.query_value("since") {
        None => Ok(None),
        Some(_) if is_live => Err("a live: channel keeps nothing, so there is no 'since'"),
        Some(text) => match text.parse::<u64>() {
            Ok(offset) if offset < 1 << 53 => {
                Ok(Some(Since { offset, epoch: request.query_value("epoch").map(Into::into) }))
            }
            _ => Err("must be an offset: 0 or a whole number"),
        },
    };
    let format = format.map_err(|text| field_error("format", "invalid_field", text));
    let since = since.map_err(|text| field_error("since", "invalid_field", text));
    match (channel, format, since) {
        (Ok(channel), Ok((format, input)), Ok(since)) if errors.is_empty() => {
            Ok(Query { channel, format, input, since })
        }
        (channel, format, since) => {
            for error in [channel.err(), format.err(), since.err()].into_iter().flatten() {
                if errors.iter().all(|earlier| earlier.field != error.field) {
                    errors.push(error);
                }
            }
            Err(Refusal::of_fields(errors))
        }
    }
}

/// The channel that a client means by the parameter `room`.
fn channel_of(room: &str) -> Result<String, String> {
    match room.strip_prefix("live:") {
        Some(name) => check_live_name(name).map(|()| room.to_owned()),
        None => fold_room_name(room).map(|key| format!("room:{key}")).map_err(|error| error.to_string()),
    }
}

/// Checks that the query has only known parameters, each at most once: of two values, one would be ignored in silence.
fn check_names(request: &UpgradeRequest) -> Vec<FieldError> {
    let (mut seen, mut errors) = (Vec::new(), Vec::new());
    for (name, _) in request.parameters() {
        let Some(known) = PARAMETERS.into_iter().find(|known| *known == name) else {
            let text = format!("there is no such parameter; there are {}", PARAMETERS.join(", "));
            errors.push(field_error(clip(&name), "unknown_field", text));
            continue;
        };
        if seen.contains(&known) {
            errors.push(field_error(known, "invalid_field", "this parameter must appear only once"));
        }
        seen.push(known);
    }
    errors
}

fn field_error(
    field: impl Into<Cow<'static, str>>,
    code: &'static str,
    message: impl Into<Cow<'static, str>>,
) -> FieldError {
    FieldError { field: field.into(), code, message: message.into() }
}

/// A client's text, shortened for an error message.
fn clip(text: &str) -> String {
    text::cut(text, 128).to_owned()
}
