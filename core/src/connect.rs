//! A connection of the Centrifugo protocol before it is known who its client is: its first command must be `connect`,
//! with a token.

use super::connection::Phase;
use super::entering::Denied;
use super::host::{Host, Now};
use super::message::{Answer, Ask, Asker, Caller};
use super::session::{Arrival, Client, Session, Voice};
use super::shard::Shard;
use crate::protocol::centrifuge::{self, Command, Connect, Encoding, Reply, Request};
use crate::protocol::{self, CloseReason, ProtocolError};
use slab::Slab;
use std::sync::Arc;
use uproar_model::{Claims, TokenError, User};

/// What is known of it.
#[derive(Debug)]
pub(super) struct Connecting {
    pub encoding: Encoding,
    /// Pings are WebSocket's own, for clients that know nothing of the protocol's.
    pub uses_frame_pings: bool,
    /// The header of the upgrade.
    pub authorization: Option<String>,
    /// Of the upgrade, where that is allowed.
    pub query_token: Option<String>,
    /// The token's user is being looked up.
    pub authenticating: Option<Authenticating>,
}

/// A `connect` that waits for the store.
#[derive(Debug)]
pub(super) struct Authenticating {
    command: u32,
    claims: Claims,
    serial: u32,
    arrival: Arrival,
    pub deadline_ms: u64,
    /// What came behind `connect` in its frame.
    rest: Vec<u8>,
}

impl Shard {
    /// The first command of a connection. `rest`: what follows it in its frame. True: the next may be taken.
    pub(super) fn first_command(
        &mut self,
        now: Now,
        slot: u32,
        command: Command<'_>,
        rest: &[u8],
        host: &mut impl Host,
    ) -> bool {
        let Command { id, request: Request::Connect(connect) } = command else {
            self.end(now, slot, CloseReason::BAD_REQUEST, host);
            return false;
        };
        let Phase::Connecting(connecting) = &self.connections[slot as usize].phase else { return false };
        let Some(token) = find_token(connecting, &connect) else {
            self.end(now, slot, CloseReason::INVALID_TOKEN, host);
            return false;
        };
        match (self.config.verify)(token, now.unix_ms / 1000) {
            Err(TokenError::Expired) => {
                let error = ProtocolError::new(protocol::TOKEN_EXPIRED, TokenError::Expired.to_string());
                self.refuse_connect(now, slot, id, &error, host);
                false
            }
            Err(TokenError::Invalid) => {
                self.end(now, slot, CloseReason::INVALID_TOKEN, host);
                false
            }
            Ok(claims) => {
                self.count_sdk(&connect.name);
                match claims.user {
                    Some(user) => {
                        let user = User { id: user, username: Arc::clone(&claims.username) };
                        self.connected(now, slot, id, user, &claims, host)
                    }
                    None => {
                        self.look_up(now, slot, id, claims, rest, host);
                        false
                    }
                }
            }
        }
    }

    fn look_up(&mut self, now: Now, slot: u32, id: u32, claims: Claims, rest: &[u8], host: &mut impl Host) {
        let username = Arc::clone(&claims.username);
        // Nothing else has been asked for this connection.
        let caller = self.caller(slot, 1);
        if !self.ask(Asker::Connection(caller), Ask::User { username }, host) {
            return self.refuse_connect(now, slot, id, &Denied::Overloaded.error(), host);
        }
        let deadline_ms = now.ms + self.config.limits.command_deadline_ms;
        if let Phase::Connecting(connecting) = &mut self.connections[slot as usize].phase {
            let rest = rest.to_vec();
            let arrival = Arrival { ms: now.ms, turn: self.turns, was_unread: false };
            connecting.authenticating =
                Some(Authenticating { command: id, claims, serial: 1, arrival, deadline_ms, rest });
        }
        self.remind(slot, deadline_ms);
    }

    /// It did not say in time who it is, or the store did not.
    pub(super) fn connect_late(&mut self, now: Now, slot: u32, host: &mut impl Host) {
        let Phase::Connecting(connecting) = &self.connections[slot as usize].phase else { return };
        match &connecting.authenticating {
            None => self.end(now, slot, CloseReason::HANDSHAKE_TIMEOUT, host),
            Some(authenticating) => {
                let id = authenticating.command;
                self.refuse_connect(now, slot, id, &Denied::Unavailable.error(), host);
            }
        }
    }

    /// The readers answered.
    pub(super) fn connect_answered(&mut self, now: Now, caller: Caller, answer: Answer, host: &mut impl Host) {
        let slot = caller.slot;
        let Phase::Connecting(connecting) = &mut self.connections[slot as usize].phase else { return };
        let Some(Authenticating { command, claims, rest, arrival, .. }) =
            connecting.authenticating.take_if(|authenticating| authenticating.serial == caller.serial)
        else {
            return;
        };
        match answer {
            Answer::User(Some(found)) if !found.has_revoked(claims.issued_at) => {
                if self.connected(now, slot, command, found.user, &claims, host) {
                    host.wake(slot);
                    if let Some(client) = self.connections[slot as usize].client_mut() {
                        client.unread.begin(arrival, arrival.ms);
                        client.unread.end(now.ms);
                    }
                    let arrival = Arrival { was_unread: true, ..arrival };
                    if !rest.is_empty() {
                        self.take_commands(now, slot, &rest, arrival, host);
                    }
                }
            }
            Answer::User(_) => self.end(now, slot, CloseReason::INVALID_TOKEN, host),
            _ => self.refuse_connect(now, slot, command, &Denied::Unavailable.error(), host),
        }
    }

    /// Opens the session. False: it could not be.
    fn connected(&mut self, now: Now, slot: u32, id: u32, user: User, claims: &Claims, host: &mut impl Host) -> bool {
        if self.is_revoked(user.id, claims.generation, claims.issued_at) {
            self.end(now, slot, CloseReason::INVALID_TOKEN, host);
            return false;
        }
        if self.has_too_many_connections(&user) {
            self.end(now, slot, CloseReason::CONNECTION_LIMIT, host);
            return false;
        }
        let Phase::Connecting(connecting) = &self.connections[slot as usize].phase else { return false };
        let client = Client::new(connecting.encoding, connecting.uses_frame_pings);
        let limits = &self.config.limits;
        let ping = (!client.uses_frame_pings).then_some(limits.ping_interval_ms.div_ceil(1000) as u32);
        let (client_id, user_channel) = (self.client_id(self.config.id, slot), format!("user:{}", user.id));
        let reply = Reply::Connect {
            client: &client_id,
            version: VERSION,
            ttl: ttl_s(claims, now),
            ping,
            user_channel: &user_channel,
        };
        let grace_ms = limits.expired_grace_ms;
        // As many channels as most have.
        let subscriptions = Slab::with_capacity(1);
        let session = Session::new(user, claims, grace_ms, subscriptions, Voice::Centrifuge(Box::new(client)));
        self.users.entry(session.user.id).or_default().slots.push(slot);
        let expires_ms = now.ms + session.expires_unix_ms.saturating_sub(now.unix_ms);
        let connection = &mut self.connections[slot as usize];
        connection.phase = Phase::Open(Box::new(session));
        let ping_ms = connection.ping_ms;
        self.reply(slot, id, reply);
        self.remind(slot, ping_ms.min(expires_ms));
        true
    }

    /// Answers `connect` with an error. The rest is discarded; the client closes, or is cut. A close frame could overtake
    /// the error in an SDK.
    pub(super) fn refuse_connect(&mut self, now: Now, slot: u32, id: u32, error: &ProtocolError, host: &mut impl Host) {
        let Some(encoding) = self.connections[slot as usize].encoding() else { return };
        self.count_refused(error.code, host);
        let mut payload = Vec::with_capacity(128);
        let reply = Reply::Error { code: error.code, message: &error.message };
        centrifuge::push_reply(encoding, &mut payload, id, reply);
        let last = framed(encoding, &payload);
        self.finish(now, slot, last, self.config.limits.refused_timeout_ms, host);
        if let Phase::Ending { owes_close, .. } = &mut self.connections[slot as usize].phase {
            *owes_close = true;
        }
    }

    /// One more client of this SDK, as far as its name is one.
    fn count_sdk(&mut self, name: &str) {
        let is_name = (1..=16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let clients = &mut self.meter.figures.borrow_mut().clients;
        let is_new = !clients.contains_key(name);
        // The names are the clients' own: they must not fill the memory.
        let name = if is_name && (!is_new || clients.len() < SDK_NAMES_LIMIT) { name } else { "other" };
        *clients.entry(name.to_owned()).or_default() += 1;
    }
}

/// As the server calls itself.
pub(super) const VERSION: &str = concat!("uproar ", env!("CARGO_PKG_VERSION"));

/// Names of SDKs that are counted each for itself.
const SDK_NAMES_LIMIT: usize = 32;

/// Seconds until a token expires, at least 1: without them SDKs refresh again and again. And at most about three weeks:
/// the timers of some SDKs count milliseconds in 31 bits. Those of longer tokens are refreshed earlier than they need be.
pub(super) fn ttl_s(claims: &Claims, now: Now) -> u32 {
    claims.expires_at.saturating_sub(now.unix_ms / 1000).clamp(1, 2_000_000) as u32
}

/// A payload as one frame.
pub(super) fn framed(encoding: Encoding, payload: &[u8]) -> bytes::Bytes {
    let mut out = Vec::with_capacity(payload.len() + 10);
    match encoding {
        Encoding::Json => crate::websocket::frame::push_text(&mut out, payload),
        Encoding::Protobuf => crate::websocket::frame::push_binary(&mut out, payload),
    }
    out.into()
}

/// Of the command, of its headers (pages of a browser can set no real one), of the upgrade's header, of its query.
fn find_token<'a>(connecting: &'a Connecting, connect: &'a Connect<'_>) -> Option<&'a str> {
    if !connect.token.is_empty() {
        return Some(&connect.token);
    }
    let headers = [connect.authorization.as_deref(), connecting.authorization.as_deref()];
    let of_headers = headers.into_iter().flatten().find_map(|header| {
        let (scheme, token) = header.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    of_headers.or(connecting.query_token.as_deref())
}
