//! Items to append to a room's log, and the results.

use crate::{Number, Offset, RoomId, UnixMillis, UserId};
use std::sync::Arc;
use time::OffsetDateTime;

/// The kind of a row in a room's log. The numbers are those in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Message = 0,
    Edit = 1,
    Delete = 2,
    React = 3,
    Unreact = 4,
    /// A member left or was removed. The store writes it in the transaction that ends the membership.
    Removed = 5,
    /// The room's title or size changed. No release has written it.
    RoomChanged = 6,
    /// A user joined or was added. The store writes it in the transaction that begins the membership, in rooms that are
    /// small enough.
    Added = 7,
    /// Rights or settings changed: its body is a JSON object that says how. The store writes it in the transaction that
    /// makes the change.
    Moderated = 8,
    /// A kind that a newer release has added, whatever its number: it is never written. Its row has an offset, so it is
    /// shown as an empty publication: without it, the room's offsets would have a gap for ever.
    Unknown = 255,
}

impl Kind {
    /// The kind with this number in the database.
    pub fn from_number(number: i64) -> Kind {
        match number {
            0 => Kind::Message,
            1 => Kind::Edit,
            2 => Kind::Delete,
            3 => Kind::React,
            4 => Kind::Unreact,
            5 => Kind::Removed,
            6 => Kind::RoomChanged,
            7 => Kind::Added,
            8 => Kind::Moderated,
            _ => Kind::Unknown,
        }
    }
}

/// One item to append to a room's log. An item is unique by room, user and id: sent twice, it is stored once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub room: RoomId,
    pub user: UserId,
    /// The id that the sender chose, 1 to 64 bytes, or one that the server generated (`~…`). Without U+0000.
    pub id: Arc<str>,
    /// `Message` to `Unreact`. Only the store creates the other kinds.
    pub kind: Kind,
    /// The offset that a `Message` replies to, if any. For `Edit`, `Delete`, `React` and `Unreact`, the offset of the
    /// message concerned; required.
    pub target: Option<Offset>,
    /// The text (`Message`, `Edit`) or the emoji (`React`, `Unreact`); `None` for `Delete`. Without U+0000.
    pub body: Option<Arc<str>>,
    /// For a `Message`: JSON that the sender attached for its own purposes, compact, at most [`META_LIMIT_BYTES`] long.
    /// Otherwise `None`.
    pub meta: Option<Arc<str>>,
}

/// The longest `meta` of a message, in bytes of compact JSON.
pub const META_LIMIT_BYTES: usize = 4096;

/// Kinds of reactions that a message can have. PostgreSQL's function `append` knows this number too.
pub const REACTION_KINDS_LIMIT: usize = 20;

/// Kinds of reactions that one user can give to a message. PostgreSQL's function `append` knows this number too.
pub const OWN_REACTIONS_LIMIT: usize = 5;

/// Where and when an item was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub offset: Offset,
    /// The number of messages in the room up to and including this item.
    pub number: Number,
    pub time: UnixMillis,
}

/// The result for one item of a committed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The item was stored.
    New(Stored),
    /// The item had been stored before, with this id and this content: where and when. Two kinds of items are answered
    /// like this because they would change nothing, and are not stored. For a `Delete` whose target was deleted under
    /// another id, this is that deletion. For a `React` that its sender has given already, or an `Unreact` of one that
    /// its sender has not given, this is the message.
    Duplicate(Stored),
    Refused(Refusal),
}

/// Why an item is refused permanently. Nothing is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such room")]
    NoRoom,
    #[error("the sender is not a member of the room")]
    NotMember,
    #[error("only the author may do this")]
    NotYours,
    #[error("the target message does not exist or was deleted")]
    NoTarget,
    #[error(
        "a message has at most {REACTION_KINDS_LIMIT} kinds of reactions, {OWN_REACTIONS_LIMIT} of them of one user"
    )]
    TooManyReactions,
    /// A moderator has silenced the sender until this time, by the database's clock.
    #[error("silenced until {}", utc(*.until))]
    Silenced { until: UnixMillis },
    #[error("only moderators and owners may post in this room")]
    ModeratorsOnly,
    #[error("nobody may post in this room")]
    NobodyPosts,
    /// The sender may post again after this time, unless they post meanwhile.
    #[error("the room is in slow mode; you can post again in {} s", .wait_ms.div_ceil(1000))]
    SlowMode { wait_ms: u64 },
    #[error("this id was already used for something else; use a new id for each message")]
    IdReused,
    #[error("the database cannot store this content")]
    BadData,
    /// While servers are being upgraded, the rules in the database may be those of a newer release.
    #[error("a newer release of the server refuses this, for a reason that this one does not know")]
    Unknown,
}

impl Refusal {
    /// Whether the item may be accepted later without anybody changing the sender's rights or the item.
    pub fn is_temporary(self) -> bool {
        matches!(self, Refusal::SlowMode { .. })
    }
}

/// A time in the form of RFC 3339, rounded up to the second: what ends then has ended.
fn utc(at: UnixMillis) -> String {
    let seconds = i64::try_from(at.div_ceil(1000)).unwrap_or(i64::MAX);
    // A year beyond 9999 has no such form.
    let Ok(time) = OffsetDateTime::from_unix_timestamp(seconds) else { return "further notice".to_owned() };
    let (hour, minute, second) = time.to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", time.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_how_long_they_last() {
        let text = |until| Refusal::Silenced { until }.to_string();
        assert_eq!(text(1_796_147_100_000), "silenced until 2026-12-01T17:45:00Z");
        assert_eq!(text(1_796_147_099_001), "silenced until 2026-12-01T17:45:00Z");
        assert_eq!(text(0), "silenced until 1970-01-01T00:00:00Z");
        assert_eq!(text(UnixMillis::MAX), "silenced until further notice");
        let text = Refusal::SlowMode { wait_ms: 4_001 }.to_string();
        assert!(text.ends_with("in 5 s"), "{text}");
    }
}
