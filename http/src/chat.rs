//! The running chat, as the HTTP service sees it.

use crate::traces::SpanContext;
use bytes::Bytes;
use serde::de::IgnoredAny;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
pub use uproar_core::message::Channel;
pub use uproar_core::survey::Expiry;
use uproar_model::{
    DatabaseGeneration, Kind, Lease, Offset, Publication, Refusal, Revocation, RoomId, Stored, User, UserEvent, UserId,
};
use uproar_tls::Session;

/// What the service asks of the running chat. The server implements it over the mesh, this crate's tests with a fake.
#[async_trait::async_trait]
pub trait Chat: Send + Sync + 'static {
    /// Appends a message, or an edit, a deletion or a reaction. Returns after the commit.
    async fn publish(&self, message: PublishRequest) -> Result<Stored, PublishError>;

    /// Announces a publication that the store itself appended, such as a join or a removal. The room's home
    /// shows it, and unsubscribes a removed user. `generation` is that of the history in which it is stored; `None`: it is not
    /// known.
    fn learn(&self, room: RoomId, generation: Option<DatabaseGeneration>, publication: Publication);

    /// Announces that a room was deleted. All its subscribers are unsubscribed. This is not lost.
    async fn close_room(&self, room: RoomId);

    /// Rooms or memberships may have changed without anybody knowing: all rooms in memory are compared with the
    /// database.
    fn sweep(&self);

    /// Notifies all connections of a user. The notification may be lost; a client can always ask for the current state.
    fn notify(&self, user: UserId, event: UserEvent);

    /// Sends JSON to the subscribers of a `live:` channel (its name without `live:`), on all nodes. `info` is the user
    /// whom they see as the sender. Returns when it is on its way; what one caller sends is received in the order sent.
    async fn publish_live(&self, channel: &str, data: Bytes, info: Option<User>) -> Result<(), ChatError>;

    /// Sends JSON to all connections of a user, on all nodes, as an event in the channel `user:ID`. Returns when it is
    /// on its way. It is stored nowhere: a client that is not connected does not get it.
    async fn publish_to_user(&self, user: UserId, data: Bytes) -> Result<(), ChatError>;

    /// Who is in a channel, on all nodes: at most `presence_limit` clients.
    async fn presence(&self, channel: Channel) -> Result<Vec<PresentClient>, ChatError>;

    /// How many clients and users are in a channel, on all nodes. A user is counted once, except in a channel where a
    /// node has more than 1,000 of them.
    async fn presence_stats(&self, channel: Channel) -> Result<PresenceStats, ChatError>;

    /// The channels with subscribers on any node, with how many there are, sorted by name. Only `room:` and `live:`
    /// channels are listed. `pattern`: a glob. If more than `channels_limit` match, the request is invalid.
    async fn channels(&self, pattern: Option<&str>) -> Result<Vec<(String, u64)>, ChatError>;

    /// Ends the subscriptions that a user has to a channel (`room:KEY` or `live:NAME`) on any node, or only that of the
    /// connection with the id `client`. The user remains a member of the room, and may subscribe again. Returns when it
    /// is done. Clients are told the code 2000, after which SDKs do not subscribe again; plain connections are closed.
    async fn unsubscribe(&self, user: UserId, channel: &str, client: Option<&str>) -> Result<(), ChatError>;

    /// Closes connections of a user on all nodes. Returns when it is done.
    async fn disconnect(&self, disconnect: Disconnect) -> Result<(), ChatError>;

    /// Changes when a user's connections expire, on all nodes, or only the one with the id `client`. A connection that
    /// has expired is closed with 3005. Returns when it is done. SDKs still ask for a token when theirs expires.
    async fn refresh(&self, user: UserId, client: Option<&str>, expiry: Expiry) -> Result<(), ChatError>;

    /// Disconnects every connection of the user whose token the revocation covers. This is not lost.
    async fn revoke(&self, revocation: Revocation);

    /// The latest revocation of the user's tokens that is held in memory. Checked on each authenticated call.
    fn revocation(&self, user: UserId) -> Option<Revocation>;

    /// While this lease is valid, `revocation` knows what other nodes have revoked.
    fn lease(&self) -> Lease;

    /// Takes over a connection that hyper owned until a request on it asked for a WebSocket.
    fn adopt(&self, connection: Adopted);

    /// Why the chat can't serve: it is draining, or the database does not answer the lanes. `None` if it can serve.
    fn unready_reason(&self) -> Option<String>;

    /// The chat's metrics in the Prometheus text format.
    async fn metrics(&self) -> String;

    /// How far each webhook is, for operators.
    fn webhooks(&self) -> serde_json::Value;

    /// What this server serves now. `None`: it did not answer in time.
    async fn counts(&self) -> Option<ChatCounts>;
}

/// What one server serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChatCounts {
    pub connections: u64,
    /// Users with connections.
    pub users: u64,
    pub subscriptions: u64,
    pub channels: u64,
}

/// A connection that has subscribed to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentClient {
    /// The id of the connection.
    pub client: String,
    pub user: User,
}

/// How many subscribers a channel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceStats {
    pub clients: u64,
    pub users: u64,
}

/// Which connections of a user are closed, and what they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    pub user: UserId,
    /// The id of a connection; `None`: all of the user's.
    pub client: Option<String>,
    /// The ids of connections that stay open: at most 64.
    pub whitelist: Vec<String>,
    pub code: CloseCode,
}

/// What a connection that a backend closes is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseCode {
    code: u16,
    reason: String,
}

impl CloseCode {
    /// A code from 3000 to 4999, and a reason of at most 123 bytes that is not JSON. After the codes 3000 to 3499 and
    /// 4000 to 4499, SDKs connect again; after the others they do not.
    ///
    /// # Errors
    /// What is wrong.
    pub fn new(code: u64, reason: &str) -> Result<CloseCode, String> {
        let code = u16::try_from(code).ok().filter(|code| (3000..=4999).contains(code));
        let code = code.ok_or("the code of a disconnect is a number from 3000 to 4999")?;
        if reason.len() > 123 {
            return Err("the reason of a disconnect has at most 123 bytes".to_owned());
        }
        if serde_json::from_str::<IgnoredAny>(reason).is_ok() {
            let text = "the reason of a disconnect must not be JSON, which the SDK for JavaScript obeys";
            return Err(text.to_owned());
        }
        Ok(CloseCode { code, reason: reason.to_owned() })
    }

    pub fn code(&self) -> u16 {
        self.code
    }

    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// 3503, as Centrifugo has it.
impl Default for CloseCode {
    fn default() -> CloseCode {
        CloseCode { code: 3503, reason: "force disconnect".to_owned() }
    }
}

/// Why a backend's request to the running chat failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// Nothing was done.
    #[error("the server is overloaded; try again")]
    Overloaded,
    /// Perhaps it was done, on some nodes or on all of them. Trying again is safe.
    #[error("not every node has answered in time; try again")]
    NotKnown,
    /// Nothing was done, and trying again does not help. Says what is wrong.
    #[error("{0}")]
    Invalid(String),
}

/// What a user appends to a room by HTTP.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    pub room: RoomId,
    pub user: User,
    /// `Message` to `Unreact`.
    pub kind: Kind,
    /// The sender's own id, checked. `None`: the chat makes one.
    pub id: Option<String>,
    /// The offset that a `Message` replies to; for other kinds, the offset of the message concerned.
    pub target: Option<Offset>,
    /// The text (`Message`, `Edit`) or the emoji (`React`, `Unreact`), checked; `None` for `Delete`.
    pub body: Option<String>,
    /// For a `Message`: the JSON that its sender attaches, compact and checked.
    pub meta: Option<String>,
    /// The span of the call, if it has one.
    pub span: Option<SpanContext>,
}

/// Why a message was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The message was not stored and never will be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The message may still be stored. A retry with the same id is safe.
    #[error("it is not known whether the message was stored; sending it again with the same id is safe")]
    OutcomeUnknown,
    /// The message was not stored.
    #[error("the server is overloaded; try again")]
    Overloaded,
}

/// A socket with a request for a WebSocket that is not answered yet.
#[derive(Debug)]
pub struct Adopted {
    /// In non-blocking mode and registered with no runtime.
    pub socket: TcpStream,
    /// The session, if the connection speaks TLS.
    pub tls: Option<Box<Session>>,
    pub peer: SocketAddr,
    /// The request's head, `GET …\r\n…\r\n\r\n`, and what the client sent after it.
    pub bytes: Vec<u8>,
}

/// The chat as everything in this crate holds it.
pub type SharedChat = Arc<dyn Chat>;
