//! The first command of a connection of the Centrifugo protocol: it must be `connect`, with a token.

use super::joining::Denied;
use crate::connections::{Arrival, Authenticating, Client, Connecting, Dialect, Phase, Session, Then};
use crate::host::{Host, Now};
use crate::ids::{CommandId, Serial, Slot};
use crate::message::{Asker, Caller, Interest, Party, Requester, StoreReply, StoreRequest};
use crate::protocol::centrifuge::{self, Command, Connect, Reply, Request};
use crate::protocol::{self, CloseReason, ProtocolError};
use crate::shard::Shard;
use crate::websocket::head::bearer_token;
use slab::Slab;
use std::sync::Arc;
use uproar_model::{Claims, TokenError, User};

/// The server's name in replies.
pub(super) const VERSION: &str = concat!("uproar ", env!("CARGO_PKG_VERSION"));

/// The most SDK names that are counted separately.
const SDK_NAMES_LIMIT: usize = 32;

impl Shard {
    /// The first command of a connection. `rest` is what follows it in its frame. Returns whether the next command may
    /// be taken.
    pub(super) fn on_first_command(
        &mut self,
        slot: Slot,
        command: Command<'_>,
        rest: &[u8],
        host: &mut impl Host,
    ) -> bool {
        let Command { id, request: Request::Connect(connect) } = command else {
            self.close(slot, CloseReason::BAD_REQUEST, host);
            return false;
        };
        let id = CommandId(id);
        let Phase::Connecting(connecting) = &self.connections[slot].phase else { return false };
        let Some(token) = find_token(connecting, &connect) else {
            self.close(slot, CloseReason::INVALID_TOKEN, host);
            return false;
        };
        let claims = match (self.cx.config.verify)(token, self.cx.now.unix_ms / 1000) {
            Err(TokenError::Expired) => {
                let error = ProtocolError::new(protocol::TOKEN_EXPIRED, TokenError::Expired.to_string());
                self.refuse_connect(slot, id, &error, host);
                return false;
            }
            Err(TokenError::Invalid) => {
                self.close(slot, CloseReason::INVALID_TOKEN, host);
                return false;
            }
            // Clients try again after this error.
            Err(error @ TokenError::KeyMissing) => {
                let error = ProtocolError::new(protocol::INTERNAL, error.to_string());
                self.refuse_connect(slot, id, &error, host);
                return false;
            }
            Ok(claims) => claims,
        };
        self.count_sdk(&connect.name);
        match claims.user {
            Some(user) => {
                let user = User { id: user, username: Arc::clone(&claims.username) };
                self.open_client(slot, id, user, 0, &claims, host)
            }
            None => {
                self.authenticate(slot, id, claims, rest, host);
                false
            }
        }
    }

    /// Looks up the user that the token names.
    fn authenticate(&mut self, slot: Slot, id: CommandId, claims: Claims, rest: &[u8], host: &mut impl Host) {
        // Nothing else has been asked for this connection.
        let serial = Serial(1);
        let requester = Requester::Connect(self.connections.caller(slot, serial));
        let interest = Interest::default();
        let asker = Asker::new(Party::of_token(&claims.username, claims.identity.as_ref()), &interest);
        if !self.cx.messenger.read(requester, asker, StoreRequest::user_of(&claims), host) {
            return self.refuse_connect(slot, id, &Denied::Overloaded.error(), host);
        }
        let deadline_ms = self.cx.now.ms + self.cx.limits().command_deadline_ms;
        let arrival = Arrival { ms: self.cx.now.ms, was_unread: false };
        if let Phase::Connecting(connecting) = &mut self.connections[slot].phase {
            let rest = rest.to_vec();
            connecting.authenticating =
                Some(Authenticating { command: id, claims, serial, arrival, deadline_ms, _interest: interest, rest });
        }
        self.connections.arm_timer(slot, deadline_ms);
    }

    /// The client did not send `connect` in time, or the store did not answer in time.
    pub(super) fn on_connect_timeout(&mut self, slot: Slot, host: &mut impl Host) {
        let Phase::Connecting(connecting) = &self.connections[slot].phase else { return };
        match &connecting.authenticating {
            None => self.close(slot, CloseReason::HANDSHAKE_TIMEOUT, host),
            Some(authenticating) => {
                let id = authenticating.command;
                self.refuse_connect(slot, id, &Denied::Unavailable.error(), host);
            }
        }
    }

    /// The reader has answered.
    pub(crate) fn on_connect_reply(&mut self, caller: Caller, reply: StoreReply, host: &mut impl Host) {
        let slot = caller.slot;
        let Some(connection) = self.connections.of_caller(caller) else { return };
        let Phase::Connecting(connecting) = &mut connection.phase else { return };
        let Some(Authenticating { command, claims, rest, arrival, .. }) =
            connecting.authenticating.take_if(|authenticating| authenticating.serial == caller.serial)
        else {
            return;
        };
        match reply {
            StoreReply::User(Some(found)) if !found.has_revoked(claims.issued_at) => {
                if self.open_client(slot, command, found.user, arrival.ms, &claims, host) {
                    host.wake(slot);
                    if let Some(client) = self.connections[slot].client_mut() {
                        client.unread.stop(arrival, arrival.ms);
                        client.unread.resume(self.cx.now.ms);
                    }
                    let arrival = Arrival { was_unread: true, ..arrival };
                    if !rest.is_empty() {
                        self.take_commands(slot, &rest, arrival, host);
                    }
                }
            }
            StoreReply::User(_) => self.close(slot, CloseReason::INVALID_TOKEN, host),
            _ => self.refuse_connect(slot, command, &Denied::Unavailable.error(), host),
        }
    }

    /// Opens the session and answers `connect`. `named_ms`: when the store was asked for the user's name; 0 if it is
    /// that of the token. Returns false if the connection was closed instead.
    fn open_client(
        &mut self,
        slot: Slot,
        id: CommandId,
        mut user: User,
        named_ms: u64,
        claims: &Claims,
        host: &mut impl Host,
    ) -> bool {
        let now = self.cx.now;
        if let Some(name) = self.connections.users.new_name(user.id, named_ms) {
            user.username = Arc::clone(name);
        }
        if self.connections.users.is_revoked(user.id, claims.generation, claims.issued_at) {
            self.close(slot, CloseReason::INVALID_TOKEN, host);
            return false;
        }
        if self.connections.users.has_too_many_connections(&self.cx, user.id) {
            self.close(slot, CloseReason::CONNECTION_LIMIT, host);
            return false;
        }
        let Phase::Connecting(connecting) = &self.connections[slot].phase else { return false };
        let client = Client::new(connecting.encoding, connecting.uses_frame_pings);
        let limits = self.cx.limits();
        let ping = (!client.uses_frame_pings).then_some(limits.ping_interval_ms.div_ceil(1000) as u32);
        let (client_id, user_channel) = (self.client_id(slot), format!("user:{}", user.id));
        let reply = Reply::Connect {
            client: &client_id,
            version: VERSION,
            ttl: ttl_s(claims, now),
            ping,
            user_channel: &user_channel,
        };
        // Most clients have one channel.
        let subscriptions = Slab::with_capacity(1);
        let dialect = Dialect::Centrifuge(Box::new(client));
        let session = Session::new(user, claims, limits.expired_grace_ms, subscriptions, dialect);
        self.connections.users.add_connection(session.user.id, slot);
        let expires_ms = now.ms + session.expires_unix_ms.saturating_sub(now.unix_ms);
        let connection = &mut self.connections[slot];
        connection.phase = Phase::Open(Box::new(session));
        let ping_ms = connection.ping_ms;
        self.reply(slot, id, reply);
        self.connections.arm_timer(slot, ping_ms.min(expires_ms));
        true
    }

    /// Answers `connect` with an error and discards the rest. The client closes the connection, or it is aborted. No
    /// close frame is sent, because in some SDKs it could overtake the error.
    fn refuse_connect(&mut self, slot: Slot, id: CommandId, error: &ProtocolError, host: &mut impl Host) {
        let Some(encoding) = self.connections[slot].encoding() else { return };
        self.count_refused(error.code, host);
        let mut payload = Vec::with_capacity(128);
        let reply = Reply::Error { code: error.code, message: &error.message };
        centrifuge::push_reply(encoding, &mut payload, id.0, reply);
        let last = centrifuge::frame(encoding, &payload);
        self.close_with(slot, last, Then::AnswerClose, self.cx.limits().refused_timeout_ms, host);
    }

    /// Counts one more client of this SDK.
    fn count_sdk(&mut self, name: &str) {
        let is_name = (1..=16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let clients = &mut self.cx.meter.metrics.borrow_mut().clients;
        let is_new = !clients.contains_key(name);
        // Clients choose the names, so their number is bounded.
        let name = if is_name && (!is_new || clients.len() < SDK_NAMES_LIMIT) { name } else { "other" };
        *clients.entry(name.to_owned()).or_default() += 1;
    }
}

/// Seconds until a token expires. At least 1, because SDKs would refresh again and again otherwise, and at most about
/// three weeks, because the timers of some SDKs count milliseconds in 31 bits. Longer tokens are refreshed earlier than
/// necessary.
pub(super) fn ttl_s(claims: &Claims, now: Now) -> u32 {
    claims.expires_at.saturating_sub(now.unix_ms / 1000).clamp(1, 2_000_000) as u32
}

/// Looks for the token in this order: the `connect` command, its `headers` (browsers cannot set real ones), the
/// upgrade's header, the query.
fn find_token<'a>(connecting: &'a Connecting, connect: &'a Connect<'_>) -> Option<&'a str> {
    if !connect.token.is_empty() {
        return Some(&connect.token);
    }
    let headers = connect.authorization.as_deref().into_iter();
    let token = bearer_token(headers.chain(connecting.authorization.iter().map(String::as_str)));
    token.or(connecting.query_token.as_deref())
}
