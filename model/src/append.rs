//! What goes into the commit path and what comes out of it.

use crate::{Number, Offset, RoomId, UnixMillis, UserId};
use std::sync::Arc;

/// What a row of a room's log is. The numbers are those in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Message = 0,
    Edit = 1,
    Delete = 2,
    React = 3,
    Unreact = 4,
    /// A member left or was removed; written by the store in the transaction that takes the membership away.
    Removed = 5,
    /// The room's title or size changed; likewise written by the store.
    RoomChanged = 6,
}

impl Kind {
    /// The kind with this number in the database.
    pub fn from_number(number: i64) -> Option<Kind> {
        Some(match number {
            0 => Kind::Message,
            1 => Kind::Edit,
            2 => Kind::Delete,
            3 => Kind::React,
            4 => Kind::Unreact,
            5 => Kind::Removed,
            6 => Kind::RoomChanged,
            _ => return None,
        })
    }
}

/// One thing to append to a room's log. Unique per (room, user, id): sent twice, it is stored once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub room: RoomId,
    pub user: UserId,
    /// The sender's own id, 1 to 64 bytes, or one that the session made (`~…`). No U+0000.
    pub id: Arc<str>,
    /// `Message` to `Unreact`; the other kinds are the store's own.
    pub kind: Kind,
    /// The offset replied to (`Message`, optional) or meant (`Edit`, `Delete`, `React`, `Unreact`, required).
    pub target: Option<Offset>,
    /// The text (`Message`, `Edit`) or the emoji (`React`, `Unreact`); none for `Delete`. No U+0000.
    pub body: Option<Arc<str>>,
}

/// Where and when an item was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub offset: Offset,
    /// Messages in the room up to and including this one.
    pub number: Number,
    pub time: UnixMillis,
}

/// The database's answer for one item of a committed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored now.
    New(Stored),
    /// Stored before, with this id and this content: where it was stored then. For the deletion of what is deleted
    /// under another id: where that deletion was stored.
    Duplicate(Stored),
    Refused(Refusal),
}

/// Why an item is refused for good. Nothing of it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such room")]
    NoRoom,
    #[error("the sender is not a member of the room")]
    NotMember,
    #[error("only the author may do this")]
    NotYours,
    #[error("the message that is meant does not exist or was deleted")]
    NoTarget,
    #[error("this id was used before for something else; use a new id for each message")]
    IdReused,
    #[error("the database cannot store this content")]
    BadData,
}
