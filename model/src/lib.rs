//! The types that every part of Uproar shares. They are plain data, without I/O, so that the core, the store and the
//! HTTP service can exchange them without depending on each other. Only [`Clock`] asks the system for something: the
//! time.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod access;
mod append;
mod claims;
mod clock;
pub mod fairness;
mod lease;
mod message_id;
mod name;
mod publication;
pub mod text;

pub use access::{Admission, JoinError, JoinedRoom, Marker, PageRequest, Revocation, Revocations, Role, UserEvent};
pub use append::{Item, Kind, META_LIMIT_BYTES, OWN_REACTIONS_LIMIT, Outcome, REACTION_KINDS_LIMIT, Refusal, Stored};
pub use claims::{Claims, Identity, TokenError};
pub use clock::{Clock, Reading, boottime, boottime_ms};
pub use lease::Lease;
pub use message_id::{MESSAGE_ID_LIMIT_BYTES, MessageIdError, check_message_id, shown_message_id};
pub use name::{
    BOT_MARK, NAME_LIMIT_BYTES, NameError, check_new_name, clean_name, fold_name, fold_room_name, is_bot_name,
    is_direct_name, looks_like, numbered_name, reserved_lookalike, shown_name, skeleton,
};
pub use publication::{Head, MemberRef, Page, Publication, Swept, member_body};

use std::fmt;
use std::sync::Arc;

/// A room's id in the database. Positive, and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId(pub i64);

/// A user's id in the database. Positive, and never reused. On the wire it is a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub i64);

/// A position in a room's log: 1, 2, 3, … without gaps. 0 is the position before the first publication.
pub type Offset = u64;

/// A position among a room's *messages* ([`Kind::Message`]), from 1. Unread counts are differences of these.
pub type Number = u64;

/// Milliseconds since the Unix epoch. The times of stored publications come from the database's clock.
pub type UnixMillis = u64;

/// The author of a publication: the id, and the name as it is displayed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    pub id: UserId,
    pub username: Arc<str>,
}

/// Identifies the history of the whole database. It changes whenever that history may have gone back: after a backup
/// was restored, or a standby took over. Ids that were assigned in one generation may mean something else in another.
/// Drawn at random, so that no generation returns. (A *token generation* counts a user's revocations instead.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DatabaseGeneration(pub u64);

/// Identifies a room's history: the room's own epoch and the database's generation. Opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub Arc<str>);

impl DatabaseGeneration {
    /// The epoch that clients see. When the generation changes, every room has a new one.
    pub fn epoch(self, room_epoch: &str) -> Epoch {
        Epoch(format!("{room_epoch}.{self}").into())
    }
}

impl Epoch {
    /// The database's generation that this epoch belongs to. `None`: [`DatabaseGeneration::epoch`] did not make it.
    pub fn generation(&self) -> Option<DatabaseGeneration> {
        let (_, generation) = self.0.rsplit_once('.')?;
        u64::from_str_radix(generation, 16).ok().map(DatabaseGeneration)
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As stored, and as it appears in tokens and epochs: a hexadecimal number.
impl fmt::Display for DatabaseGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
