//! Queries about rooms and users, and the store's replies.

use crate::{Epoch, Head, Number, Offset, Publication, RoomId, UnixMillis, User, UserId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A user's role in a room. The numbers are those in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Member = 0,
    Moderator = 1,
    Owner = 2,
}

/// Revokes a user's earlier tokens: those of a lower generation, and those without one that were issued until `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub user: UserId,
    /// The user's new token generation.
    pub generation: u32,
    /// When the generation was raised.
    pub at: UnixMillis,
    /// The user is blocked: all their tokens are revoked, until a later revocation says otherwise.
    pub is_blocked: bool,
}

impl Revocation {
    /// Whether this revokes a token of the user's. `generation`: the one that the token carries, `None` for a token
    /// minted by `uproar token`, which carries none. `issued_at`: when the token was made, in Unix seconds.
    ///
    /// A token without a generation is judged by its age; one made in the second of the revocation counts as revoked.
    pub fn covers(&self, generation: Option<u32>, issued_at: u64) -> bool {
        let is_earlier = match generation {
            Some(generation) => generation < self.generation,
            None => issued_at <= self.at / 1000,
        };
        self.is_blocked || is_earlier
    }
}

/// The latest revocation of each user, for as long as there may be a token that it covers: those of blocked users for
/// ever.
///
/// That time is counted here, and not by the clock that tokens and revocations are dated by: if that was set forward
/// and back again, what was forgotten meanwhile would be valid again.
#[derive(Clone, Debug)]
pub struct Revocations {
    latest: BTreeMap<UserId, Known>,
    kept_ms: u64,
}

#[derive(Clone, Debug)]
struct Known {
    revocation: Revocation,
    /// When it is forgotten, by the clock of `sweep`. `None`: there was no sweep since it became known.
    kept_until_ms: Option<u64>,
}

impl Revocations {
    /// `kept_ms`: the longest lifetime of a token.
    pub fn new(kept_ms: u64, revocations: impl IntoIterator<Item = Revocation>) -> Revocations {
        let mut all = Revocations { latest: BTreeMap::new(), kept_ms };
        revocations.into_iter().for_each(|revocation| all.add(revocation));
        all
    }

    /// Adds a revocation, unless a later one of the user is known: they may arrive in any order.
    pub fn add(&mut self, revocation: Revocation) {
        let new = Known { revocation, kept_until_ms: None };
        let known = self.latest.entry(revocation.user).or_insert_with(|| new.clone());
        if known.revocation.generation < revocation.generation {
            *known = new;
        }
    }

    /// The latest revocation of this user.
    pub fn of(&self, user: UserId) -> Option<Revocation> {
        self.latest.get(&user).map(|known| known.revocation)
    }

    /// Forgets those that are older than any token. `now_ms`: milliseconds of a clock that never goes back.
    pub fn sweep(&mut self, now_ms: u64) {
        let kept_until_ms = now_ms.saturating_add(self.kept_ms);
        self.latest.retain(|_, known| {
            known.revocation.is_blocked || now_ms < *known.kept_until_ms.get_or_insert(kept_until_ms)
        });
    }
}

/// A membership, which allows a connection to subscribe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    pub room: RoomId,
    pub epoch: Epoch,
    /// The room's head in the snapshot (or transaction) in which the membership was read. A later removal has a higher
    /// offset.
    pub offset: Offset,
    pub role: Role,
    /// The user's present name, which may be another one than in the token.
    pub username: Arc<str>,
    /// Whether the user became a member by this call.
    pub joined: bool,
    /// The publication of the join, at `offset`. It is still to be shown in the room.
    pub added: Option<Box<Publication>>,
}

/// Selects publications of a room. A page ends at `items_limit` publications or, after the first one, at `bytes_limit`
/// bytes of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// Exclusive: an ascending page has offsets above `from`, a descending one has offsets below it.
    pub from: Offset,
    pub ascending: bool,
    /// The last offset of an ascending page. Ignored by descending ones.
    pub up_to: Offset,
    pub items_limit: usize,
    pub bytes_limit: usize,
}

/// How far a member has read: an offset, and the number of messages up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marker {
    pub offset: Offset,
    pub number: Number,
}

/// A room in a member's list of rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedRoom {
    pub id: RoomId,
    pub name: String,
    pub title: String,
    /// Whether it is hidden from those who are not members. Direct rooms are, too.
    pub is_private: bool,
    pub is_direct: bool,
    /// The members of a direct room, by id ascending. Those of other rooms are not listed.
    pub people: Vec<User>,
    pub size: u32,
    pub members: u32,
    pub head: Head,
    /// Other users' messages after the marker that still exist. 1,001 stands for more than 1,000.
    pub unread: Number,
    pub read: Marker,
    pub role: Role,
    /// When its last message was stored. For a room without messages, when it was created.
    pub active_at: UnixMillis,
}

/// A change that concerns a user, sent to all of the user's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserEvent {
    /// The read marker in this room (its name and its id) has moved.
    Read { room: Arc<str>, id: RoomId, marker: Marker },
    /// The user has become a member of this room (its name).
    Joined { room: Arc<str> },
    /// The user is no longer a member of this room (its name).
    Left { room: Arc<str> },
    /// The user has got this name.
    Renamed { username: Arc<str> },
    /// What a backend tells the user: compact JSON.
    Data { data: Arc<str> },
}

/// Why a user cannot join a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Also the reply for a private room that the user is not a member of.
    #[error("there is no such room")]
    NoRoom,
    #[error("the room is full")]
    Full,
    /// A moderator has banned the user from this public room.
    #[error("banned: a moderator has banned you from this room")]
    Banned,
    /// The token's user was deleted.
    #[error("there is no such user")]
    NoUser,
    /// The user joins rooms more often than allowed.
    #[error("too many joins; try again in {} s", .wait_ms.div_ceil(1000))]
    TooOften { wait_ms: u64 },
}

impl Role {
    /// Its name for clients.
    pub fn word(self) -> &'static str {
        match self {
            Role::Member => "member",
            Role::Moderator => "moderator",
            Role::Owner => "owner",
        }
    }

    /// The role with this number in the database. A number that this version does not know is a plain member.
    pub fn from_number(number: i64) -> Role {
        match number {
            2 => Role::Owner,
            1 => Role::Moderator,
            _ => Role::Member,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_revocation_counts_until_no_token_is_older() {
        let of = |generation, at| Revocation { user: UserId(1), generation, at, is_blocked: false };
        let mut revocations = Revocations::new(1_000, [of(3, 5_000)]);
        revocations.add(of(2, 6_000));
        assert_eq!(revocations.of(UserId(1)), Some(of(3, 5_000)));
        revocations.sweep(100);
        revocations.sweep(1_099);
        revocations.add(of(4, 7_000));
        revocations.sweep(1_100);
        revocations.sweep(2_099);
        assert_eq!((revocations.of(UserId(1)), revocations.of(UserId(2))), (Some(of(4, 7_000)), None));
        revocations.sweep(2_100);
        assert_eq!(revocations.of(UserId(1)), None);
    }

    #[test]
    fn a_revocation_covers_earlier_generations_and_minted_tokens_up_to_its_second() {
        let revocation = Revocation { user: UserId(1), generation: 3, at: 10_999, is_blocked: false };
        assert!(revocation.covers(Some(2), 99));
        assert!(!revocation.covers(Some(3), 0));
        assert!(!revocation.covers(Some(4), 0));
        assert!(revocation.covers(None, 9));
        assert!(revocation.covers(None, 10));
        assert!(!revocation.covers(None, 11));
    }

    #[test]
    fn every_token_of_a_blocked_user_is_revoked_until_the_user_is_unblocked() {
        let blocked = Revocation { user: UserId(1), generation: 3, at: 10_999, is_blocked: true };
        assert!(blocked.covers(Some(3), 99) && blocked.covers(Some(4), 99) && blocked.covers(None, 99));
        let mut revocations = Revocations::new(1_000, [blocked]);
        revocations.sweep(100);
        revocations.sweep(1_000_000);
        assert_eq!(revocations.of(UserId(1)), Some(blocked), "no token is older, but new ones may come");
        revocations.add(Revocation { generation: 4, is_blocked: false, ..blocked });
        assert!(!revocations.of(UserId(1)).unwrap().covers(Some(4), 0));
        revocations.sweep(1_000_100);
        revocations.sweep(1_001_100);
        assert_eq!(revocations.of(UserId(1)), None);
    }
}
