//! What is asked of the store about rooms and users, and what it answers.

use crate::{Epoch, Head, Number, Offset, RoomId, UnixMillis, UserId};
use std::sync::Arc;

/// What a user is in a room. The numbers are those in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Member = 0,
    Moderator = 1,
    Owner = 2,
}

/// A user's token generation and when it was raised to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub user: UserId,
    pub generation: u32,
    pub at: UnixMillis,
}

/// A membership that lets a connection subscribe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    pub room: RoomId,
    pub epoch: Epoch,
    /// The room's head in the snapshot (or transaction) in which the membership was read: a removal after it has a
    /// higher offset.
    pub offset: Offset,
    pub role: Role,
    /// Whether this call made the user a member.
    pub joined: bool,
}

/// Which publications of a room are read. Pages end at `items_limit` publications or, past the first, `bytes_limit`
/// bytes of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// Ascending: offsets above `from`. Descending: offsets below `from`.
    pub from: Offset,
    pub ascending: bool,
    /// Ascending reads go no further than this offset.
    pub up_to: Offset,
    pub items_limit: usize,
    pub bytes_limit: usize,
}

/// How far a member has read: a message's offset, and the messages up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marker {
    pub offset: Offset,
    pub number: Number,
}

/// A room as one of its members sees it in their list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedRoom {
    pub id: RoomId,
    pub name: String,
    pub title: String,
    pub is_private: bool,
    pub size: u32,
    pub members: u32,
    /// What is not read is `head.number - read.number`.
    pub head: Head,
    pub read: Marker,
    pub role: Role,
}

/// What a user's connections are told about their own rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserEvent {
    /// The read marker in this room (by its name) has moved.
    Read { room: Arc<str>, marker: Marker },
    /// The user is a member of this room now (by its name).
    Joined { room: Arc<str> },
    /// The user is no longer a member of this room (by its name).
    Left { room: Arc<str> },
}

/// Why someone is not let into a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Also what a private room looks like from outside.
    #[error("there is no such room")]
    NoRoom,
    #[error("the room is full")]
    Full,
    /// The token's user was deleted.
    #[error("there is no such user")]
    NoUser,
}

impl Role {
    /// The role with this number in the database; what this build does not know is a plain member.
    pub fn from_number(number: i64) -> Role {
        match number {
            2 => Role::Owner,
            1 => Role::Moderator,
            _ => Role::Member,
        }
    }
}
