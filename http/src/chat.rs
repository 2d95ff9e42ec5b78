//! The running chat, as the HTTP service sees it.

use crate::traces::SpanContext;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
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
