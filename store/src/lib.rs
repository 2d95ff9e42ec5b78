//! Users, rooms, members and the log of messages, kept in SQLite or PostgreSQL behind one trait, [`Store`].
//!
//! The database is the source of truth: it assigns offsets, settles duplicates and decides who may do what, in the same
//! transaction. Nothing above this crate guesses what it would answer.

mod check;
mod data_folder;
mod database;
mod error;
mod history;
mod markers;
#[cfg(feature = "testing")]
pub mod memory;
mod objects;
mod open;
mod postgres;
mod rooms;
mod session;
mod sqlite;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tools;
mod users;

pub use data_folder::DataFolder;
pub use error::{AppendError, CreateUserError, OpenError, RoomError, StoreError};
pub use objects::{
    Account, Addition, Chats, Cursor, Join, Login, MemberEntry, Message, NewRoom, NewUser, Reaction, Removal, Room,
    RoomKind,
};
pub use uproar_model::{Admission, JoinError, PageRequest, Revocation, Role};

pub use open::{DatabaseUrl, OpenOptions, open};

use std::sync::Arc;
use uproar_model::{Head, Item, JoinedRoom, Marker, Outcome, Page, RoomId, User, UserId};

/// All that Uproar asks of a database. Every call is safe to give up on (dropping the future never leaves a transaction
/// open) and safe to repeat.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    // ── the commit path ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Appends a batch in one transaction: every item is answered, in the order given, and what is `New` or `Duplicate` is
    /// durable when this returns `Ok`. Within a room, new items get consecutive offsets in batch order.
    /// At most 512 items; all of kind `Message` to `Unreact`.
    async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError>;

    // ── reads of the shards ─────────────────────────────────────────────────────────────────────────────────────────

    /// The heads of rooms, in the order asked; `None` for a room that is gone.
    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<Option<Head>>, StoreError>;

    /// Publications of a room with the content they have now, and its head read in the same snapshot. `None`: no room.
    async fn page(&self, room: RoomId, request: PageRequest) -> Result<Option<Page>, StoreError>;

    /// Lets users into rooms, all in one go: members are members, a public room takes in whoever comes while there is
    /// place. Names are looked up as given (callers fold them or refuse).
    async fn admit(&self, wanted: &[(String, UserId)]) -> Result<Vec<Result<Admission, JoinError>>, StoreError>;

    /// The read markers of members, in the order asked; `None` for who is not a member, or a room that is gone.
    async fn read_markers(&self, wanted: &[(RoomId, UserId)]) -> Result<Vec<Option<Marker>>, StoreError>;

    /// Moves read markers forward, all in one transaction: where an offset is not above the one stored, and for who is
    /// not a member, nothing changes. A pair may be there more than once. A marker beyond the room's head is stored as
    /// it is: callers know the head.
    async fn mark_read(&self, markers: &[(RoomId, UserId, Marker)]) -> Result<(), StoreError>;

    /// The rooms that a user is in, by name ascending, names after `after`, at most `limit`.
    async fn rooms_of(&self, user: UserId, after: Option<&str>, limit: usize) -> Result<Vec<JoinedRoom>, StoreError>;

    // ── users ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn create_user(&self, user: NewUser) -> Result<Account, CreateUserError>;

    /// The account and, where it has one, its password hash. For sign-in.
    async fn login(&self, login: Login<'_>) -> Result<Option<(Account, Option<String>)>, StoreError>;

    async fn account(&self, user: UserId) -> Result<Option<Account>, StoreError>;

    /// The account of this name, created without a password and e-mail where there is none yet.
    /// `CreateUserError::UsernameTaken` never happens here.
    async fn ensure_user(&self, username: &str, username_key: &str) -> Result<Account, CreateUserError>;

    /// Sets a password (where `expected_hash` is still the current one, when given) and raises the token generation.
    /// `None`: no such user, or the current hash is another.
    async fn set_password(
        &self,
        user: UserId,
        expected_hash: Option<&str>,
        password_hash: &str,
    ) -> Result<Option<Revocation>, StoreError>;

    /// Raises the token generation: tokens of an earlier generation are no longer good.
    async fn revoke_tokens(&self, user: UserId) -> Result<Option<Revocation>, StoreError>;

    /// Generations raised at or after this Unix time in milliseconds.
    async fn revoked_since(&self, since: u64) -> Result<Vec<Revocation>, StoreError>;

    // ── rooms and members ───────────────────────────────────────────────────────────────────────────────────────────

    /// Creates a room whose only member is its owner. `RoomError::Taken` when the name is in use.
    async fn create_room(&self, room: NewRoom) -> Result<Room, RoomError>;

    /// One room as this user may see it: a private room does not exist for those who are not in it.
    async fn room(&self, name: &str, viewer: UserId) -> Result<Option<Room>, StoreError>;

    /// Rooms that this user may see, by name ascending, names after `after`, at most `limit`. `query`: a part of the
    /// name or title, case-insensitive; empty for all.
    async fn rooms(
        &self,
        viewer: UserId,
        query: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Room>, StoreError>;

    /// Joins a public room (again: no change). Also the way back in that `admit` takes.
    async fn join(&self, name: &str, user: UserId) -> Result<Join, RoomError>;

    /// Takes a membership away and appends the `Removed` publication in the same transaction. `actor` = the member:
    /// leaving. An owner can't leave or be removed (`NotAllowed`); moderators remove members, the owner anyone else.
    /// Not a member: `NotMember`.
    async fn remove_member(&self, name: &str, actor: UserId, member_key: &str) -> Result<Removal, RoomError>;

    /// Adds a user by the owner or a moderator; the way into a private room. Already a member: no change.
    async fn add_member(&self, name: &str, actor: UserId, member_key: &str) -> Result<Addition, RoomError>;

    /// Members by user id ascending, ids after `after`. To members only.
    async fn members(
        &self,
        name: &str,
        viewer: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<MemberEntry>, RoomError>;

    /// Deletes a room and all that is in it; its owner only. The name is free again, the id never used again.
    async fn delete_room(&self, name: &str, actor: UserId) -> Result<RoomId, RoomError>;

    /// Messages (kind 0) of a room for one of its members, ascending by offset, and the head of the same snapshot.
    async fn chats(&self, name: &str, viewer: UserId, cursor: Cursor, limit: usize) -> Result<Chats, RoomError>;

    // ── operations ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Waits until another process has taken the database, which on SQLite can't be: nothing is committed any more.
    async fn taken(&self) {
        std::future::pending().await
    }

    /// How many lanes commit in parallel: 1 on SQLite.
    fn lanes(&self) -> usize;

    /// Closes the connections after what is under way.
    async fn close(&self);
}

/// The store as everybody holds it.
pub type SharedStore = Arc<dyn Store>;

/// The author of a publication for display, from an account.
impl From<&Account> for User {
    fn from(account: &Account) -> User {
        User { id: account.id, username: Arc::clone(&account.username) }
    }
}
