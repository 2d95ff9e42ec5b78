//! The nouns that every part of Uproar shares. Plain data: no I/O, no database, no runtime, so that the sans-I/O core,
//! the store and the HTTP service speak of the same things without depending on each other.

mod access;
mod append;
mod claims;
mod name;
mod publication;

pub use access::{Admission, JoinError, JoinedRoom, Marker, PageRequest, Revocation, Role, UserEvent};
pub use append::{Item, Kind, Outcome, Refusal, Stored};
pub use claims::{Claims, TokenError};
pub use name::{NAME_LIMIT_BYTES, NameError, fold_name};
pub use publication::{Head, Page, Publication};

use std::fmt;
use std::sync::Arc;

/// A room's id in the database. Positive; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId(pub i64);

/// A user's id in the database. Positive; never used twice. On the wire it is a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub i64);

/// A place in a room's log: 1, 2, 3, … without holes; 0 stands before the first.
pub type Offset = u64;

/// A place among a room's *messages* (kind 0), from 1: what unread counts are made of.
pub type Number = u64;

/// Milliseconds since the Unix epoch, from the database's clock for whatever is stored.
pub type UnixMillis = u64;

/// Who did it: the id, and the name as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    pub id: UserId,
    pub username: Arc<str>,
}

/// The identity of a room's history: the room's own epoch and the database's generation. Opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub Arc<str>);

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

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
