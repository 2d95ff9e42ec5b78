//! The HTTP service: accounts, rooms, history, health. Runs on tokio threads of its own, beside the shards.
//!
//! It talks to the chat through one trait, [`Chat`], and to the database through `uproar_store::Store`; it knows
//! nothing of shards, WebSocket frames or rings.

mod accounts;
pub mod addresses;
mod authentication;
mod cookie;
mod errors;
mod input;
mod messages;
mod objects;
mod operations;
mod origins;
pub mod page;
pub mod passwords;
mod rate;
mod rooms;
mod service;
mod settings;
mod socket;
mod tokens;
pub mod upgrade;
mod validation;

pub use errors::{ApiError, Code};
pub use operations::OPENAPI;
pub use origins::{OriginError, Origins};
pub use passwords::PasswordCost;
pub use service::Service;
pub use settings::{Limits, Settings};
pub use tokens::{KeyError, Tokens};

use bytes::Bytes;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
pub use uproar_model::UserEvent;
use uproar_model::{Offset, Publication, Refusal, RoomId, Stored, User, UserId};
use uproar_store::Revocation;

/// What the service asks of the running chat. Implemented in the server over the mesh, and by a fake in this crate's
/// tests.
#[async_trait::async_trait]
pub trait Chat: Send + Sync + 'static {
    /// Appends a message; answers after the commit.
    async fn publish(&self, message: PublishRequest) -> Result<Stored, PublishError>;

    /// A publication that the store itself appended (a removal): the room's home shard shows it, and the removed user's
    /// subscriptions end.
    fn learn(&self, room: RoomId, publication: Publication);

    /// A room was deleted: its subscriptions end.
    fn close_room(&self, room: RoomId);

    /// Sends an event to all connections of a user. It may be lost; clients can query the state.
    fn tell(&self, user: UserId, news: UserEvent);

    /// Tokens of earlier generations are no longer good: their connections end.
    fn revoke(&self, revocation: Revocation);

    /// Whether this revocation or a later one is known for the user: checked on each authenticated call, in memory.
    fn current_generation(&self, user: UserId) -> Option<u32>;

    /// Hands over a connection that hyper owned until its WebSocket upgrade was answered with 101.
    fn adopt(&self, connection: Adopted);

    /// Why the chat can't serve at the moment (draining, database not answering the lanes); none: it can.
    fn unready(&self) -> Option<String>;

    /// Figures in the Prometheus text format.
    async fn metrics(&self) -> String;
}

/// A message by HTTP.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    pub room: RoomId,
    pub user: User,
    pub text: String,
    /// The sender's own id, checked; one is made where there is none.
    pub id: Option<String>,
    pub reply_to: Option<Offset>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It may still be stored: a retry with the same id is safe.
    #[error("it is not known whether the message was stored; send it again with the same id")]
    NotKnown,
    /// Nothing was stored.
    #[error("the server has too much to do; try again")]
    Overloaded,
}

/// A socket after its 101, with what the shard needs to go on as if it had read the request itself.
#[derive(Debug)]
pub struct Adopted {
    /// Not blocking, and registered with no runtime.
    pub socket: TcpStream,
    pub peer: SocketAddr,
    /// The request head, `GET …\r\n…\r\n\r\n`.
    pub head: Vec<u8>,
    /// Bytes that the client sent after the head.
    pub rest: Bytes,
}

/// The chat as everything in this crate holds it.
pub type SharedChat = Arc<dyn Chat>;
