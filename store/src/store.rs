//! The trait [`Store`]: everything that Uproar asks of a database.

use crate::commits::Commits;
use crate::error::{ApiKeyError, AppendError, CreateUserError, InvitedUserError, RenameError, RoomError, StoreError};
use crate::objects::{
    Account, Addition, ApiKey, AuditEntry, BanPage, Block, BlockChange, Cursor, DeletedHook, DirectRoom, Enrolment,
    Hook, HookTarget, Invite, InvitedUser, Join, Login, MemberPage, MessagePage, Move, NewApiKey, NewHook, NewInvite,
    NewRoom, NewUser, NodeLoad, OpenInvite, OtherNode, OutboxRow, OutboxState, Progress, Registration, Removal, Room,
    RoomAuditPage, RoomChange, RoomChanged, UnreadRoom,
};
use crate::outbox;
use crate::postgres::{Lead, OutboxListener, PostgresBus};
use crate::unwritten::UnwrittenMarkers;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;
use uproar_model::{
    Admission, Clock, DatabaseGeneration, Head, Identity, Item, JoinError, JoinedRoom, Marker, Offset, Outcome, Page,
    PageRequest, Publication, Reading, Revocation, RoomId, Swept, UnixMillis, UserId,
};

/// Every call can be abandoned (dropping the future never leaves a transaction open) and can be repeated.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    // ── the commit path ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Appends a batch in one transaction: at most 512 items, of the kinds `Message` to `Unreact`. Returns one outcome
    /// for each item, in the same order. When this returns `Ok`, items that are `New` or `Duplicate` are durable.
    /// Within a room, new items get consecutive offsets in batch order.
    async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError>;

    // ── reads by the shards ─────────────────────────────────────────────────────────────────────────────────────────

    /// The heads of rooms, in the order of `rooms`; `None` for a room that does not exist.
    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<Option<Head>>, StoreError>;

    /// The rooms whose last offset is not the given one, or that do not exist any more. On PostgreSQL this has a
    /// session of its own, so that it does not wait for other reads.
    async fn sweep(&self, heads: &[(RoomId, Offset)]) -> Result<Swept, StoreError>;

    /// Publications of a room with their current content, the room's head, and those of the viewers who are members of
    /// the room, in ascending order: all read in the same snapshot. `None`: there is no such room.
    async fn page(
        &self,
        room: RoomId,
        request: PageRequest,
        viewers: &[UserId],
    ) -> Result<Option<(Page, Vec<UserId>)>, StoreError>;

    /// Admits members to rooms, many in one call. `None`: this user is not a member, but may join the room. Names are
    /// looked up as given: callers fold them, or reject them.
    async fn admit_members(
        &self,
        wanted: &[(String, UserId)],
    ) -> Result<Vec<Result<Option<Admission>, JoinError>>, StoreError>;

    /// Admits users to rooms, many in one call. Members are admitted; anyone else joins a public room until it is full.
    /// Names are looked up as given: callers fold them, or reject them.
    async fn admit(&self, wanted: &[(String, UserId)]) -> Result<Vec<Result<Admission, JoinError>>, StoreError>;

    /// The read markers of members, in the order of `wanted`; `None` for a user who is not a member, or a room that
    /// does not exist.
    async fn read_markers(&self, wanted: &[(RoomId, UserId)]) -> Result<Vec<Option<Marker>>, StoreError>;

    /// Moves read markers forward, all in one transaction. Nothing changes for an offset that is not above the stored
    /// one, or for a user who is not a member. A pair may appear more than once. A marker beyond the room's head is
    /// stored as it is: callers know the head.
    async fn mark_read(&self, markers: &[(RoomId, UserId, Marker)]) -> Result<(), StoreError>;

    /// Markers on their way to `mark_read`. Each counts in what the store says about a user's rooms if it is ahead of
    /// the stored one.
    fn unwritten_markers(&self) -> UnwrittenMarkers;

    /// The rooms that a user is a member of, by name ascending: names after `after`, at most `limit` rooms.
    async fn rooms_of(&self, user: UserId, after: Option<&str>, limit: usize) -> Result<Vec<JoinedRoom>, StoreError>;

    // ── users ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// `CreateUserError::UsernameTaken`: another user has this name, or one that looks like it.
    async fn create_user(&self, user: NewUser) -> Result<Account, CreateUserError>;

    /// For sign-in: the account and its password hash, if it has one. Client addresses are served in turn.
    async fn login(&self, login: Login<'_>, client: IpAddr) -> Result<Option<(Account, Option<String>)>, StoreError>;

    async fn account(&self, user: UserId) -> Result<Option<Account>, StoreError>;

    /// The account with this name, or whose name this was, for a request of its user.
    async fn account_named(&self, username_key: &str) -> Result<Option<Account>, StoreError>;

    /// Returns the account with this name. If there is no such account, it is created without a password and an e-mail
    /// address. Looking it up takes no turn, because the caller, the reader, already serves users in turn. Never fails
    /// with `CreateUserError::UsernameTaken`.
    async fn ensure_user(&self, username: &str, username_key: &str) -> Result<Account, CreateUserError>;

    /// The account of this user of another system, for a request of theirs.
    async fn account_of(&self, identity: &Identity) -> Result<Option<Account>, StoreError>;

    /// Returns the account of this user of another system. If there is none, it is created without a password and an
    /// e-mail address, with this name (a valid name for a new user) or, if that is taken, the name with a number.
    /// Never an account that exists already, whatever its name is. Looking it up takes no turn, as for `ensure_user`.
    async fn ensure_identity(&self, identity: &Identity, username: &str) -> Result<Account, CreateUserError>;

    /// Sets a password and raises the token generation. With `expected_hash`, only if that is still the current hash.
    /// `None`: there is no such user, or the current hash is another.
    async fn set_password(
        &self,
        user: UserId,
        expected_hash: Option<&str>,
        password_hash: &str,
    ) -> Result<Option<Revocation>, StoreError>;

    /// Replaces the hash of a password by another one of the same password. No token is revoked. `false`: the current
    /// hash is another, or there is no such user.
    async fn replace_password_hash(
        &self,
        user: UserId,
        expected_hash: &str,
        password_hash: &str,
    ) -> Result<bool, StoreError>;

    /// Raises the user's token generation, which invalidates tokens of earlier generations. `None`: there is no such
    /// user.
    async fn revoke_tokens(&self, user: UserId) -> Result<Option<Revocation>, StoreError>;

    /// Blocks a user or unblocks one. Both revoke the user's tokens, unless nothing changes. Returns the account as it
    /// is then; `None`: there is no such user.
    async fn set_blocked(&self, user: UserId, is_blocked: bool) -> Result<Option<Account>, StoreError>;

    /// The current token generations that were raised at this time or later, and those of all blocked users.
    async fn revoked_since(&self, since: UnixMillis) -> Result<Vec<Revocation>, StoreError>;

    /// For a node that regularly asks which tokens others have revoked: the current token generations that were raised
    /// since `known_until`, the time in the previous answer, and the database's time. They go back further, as far as a
    /// revocation may be committed later than it is dated, and the database's clock may have been set back meanwhile.
    /// On PostgreSQL, no other call makes this one wait for a connection.
    async fn recent_revocations(&self, known_until: UnixMillis) -> Result<(Reading, Vec<Revocation>), StoreError>;

    /// Records that tokens now have this lifetime, and returns the longest one that was ever recorded: as long as that,
    /// a token may outlive its revocation.
    async fn longest_token_lifetime_ms(&self, lifetime_ms: u64) -> Result<u64, StoreError>;

    // ── rooms and members ───────────────────────────────────────────────────────────────────────────────────────────

    /// Creates a room whose only member is its owner. `RoomError::NameTaken`: another room has this name, or it is
    /// reserved for somebody else. The same goes for a name that looks like it.
    async fn create_room(&self, room: NewRoom) -> Result<Room, RoomError>;

    /// A room as this user sees it. For anyone but its members, a private room does not exist.
    async fn room(&self, name: &str, viewer: UserId) -> Result<Option<Room>, StoreError>;

    /// Rooms that this user can see, by name ascending: names after `after`, at most `limit` rooms. `query` is a part
    /// of the name or title, in any case and form; if it is empty, every room matches.
    async fn rooms(
        &self,
        viewer: UserId,
        query: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Room>, StoreError>;

    /// Joins a public room. If the user is already a member, of a private room too, nothing changes. A new membership
    /// is written in the room's log in the same transaction, as an `Added`, if the room then has at most
    /// `join_leave_limit` members. `add_member` and `admit` do the same.
    async fn join(&self, name: &str, user: UserId) -> Result<Join, RoomError>;

    /// Ends a membership and appends the publication of kind `Removed`, in one transaction. `actor` is the user who
    /// asks for it; a member who removes themselves leaves. Moderators remove plain members, owners remove anyone
    /// else, and nobody removes an owner. The last owner can't leave: `RoomError::NotAllowed`.
    async fn remove_member(&self, name: &str, actor: UserId, member_key: &str) -> Result<Removal, RoomError>;

    /// Adds a user to a room, for its owner or a moderator. This is the only way into a private room. If the user is
    /// already a member, nothing changes. Somebody who is banned can't be added: `RoomError::NotAllowed`.
    async fn add_member(&self, name: &str, actor: UserId, member_key: &str) -> Result<Addition, RoomError>;

    /// The members of a room, for one of them, by user id ascending: ids after `after`, at most `limit` members;
    /// and how many there are, read in the same snapshot.
    async fn members(
        &self,
        name: &str,
        viewer: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<MemberPage, RoomError>;

    /// Changes rights or settings of a room, for its owners and moderators, and appends the publications of it, in one
    /// transaction, which also adds an entry to the room's audit log. Nobody acts on somebody of the same or a higher
    /// role, except that owners change all roles. A ban of a member appends a `Removed` and then a `Moderated`, the
    /// others a `Moderated`. What changes nothing succeeds without a publication.
    async fn change_room(&self, name: &str, actor: UserId, change: RoomChange) -> Result<RoomChanged, RoomError>;

    /// The bans of a room that hold, by user id ascending, for its owners and moderators: ids after `after`, at most
    /// `limit` bans.
    async fn bans(&self, name: &str, actor: UserId, after: Option<UserId>, limit: usize) -> Result<BanPage, RoomError>;

    /// What owners and moderators have done in a room within the last year, newest first, for its owners and
    /// moderators: entries with ids below `before`, at most `limit`.
    async fn room_audit(
        &self,
        name: &str,
        actor: UserId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<RoomAuditPage, RoomError>;

    /// Deletes a room with everything in it, for its owner, for whom the name is reserved for a while: others still
    /// have messages that were meant for this room. Only the latest 100 names are reserved for one owner. The id is
    /// never used again.
    async fn delete_room(&self, name: &str, actor: UserId, reserved_ms: u64) -> Result<RoomId, RoomError>;

    /// Messages (kind 0) of a room, for one of its members, by offset ascending, and the room's position, read in the
    /// same snapshot.
    async fn messages(
        &self,
        name: &str,
        viewer: UserId,
        cursor: Cursor,
        limit: usize,
    ) -> Result<MessagePage, RoomError>;

    /// The newest joins and departures (kinds `Added` and `Removed`) in a room with offsets above `above`, up to
    /// `up_to`, by offset ascending. `RoomError::NotMember`: the viewer is not a member of the room, or there is no
    /// such room.
    async fn membership_changes(
        &self,
        room: RoomId,
        viewer: UserId,
        above: Offset,
        up_to: Offset,
        limit: usize,
    ) -> Result<Vec<Publication>, RoomError>;

    // ── direct rooms and blocks ──

    /// The direct room of a user and those with these keys: the one that they have, or a new one, of which all of them
    /// are members from the start. Only a new one takes something from the user's allowances, and is refused if the
    /// user has blocked one of the others or was blocked by one: `RoomError::Blocked`. `RoomError::NotAllowed`: nobody
    /// else is named, or more than 9 people are.
    async fn open_direct(&self, actor: UserId, keys: &[String]) -> Result<DirectRoom, RoomError>;

    /// Records that a user has blocked another one, who has this key. If so already, nothing changes. From then on
    /// nobody can post in the direct room of the two. `limit`: how many others a user may have blocked.
    async fn block(&self, user: UserId, other_key: &str, limit: u64) -> Result<BlockChange, RoomError>;

    /// Lifts a block, if there is one. Once neither has blocked the other, both can post in their
    /// direct room again.
    async fn unblock(&self, user: UserId, other_key: &str) -> Result<BlockChange, RoomError>;

    /// Whom a user has blocked, by user id ascending: ids after `after`, at most `limit` users.
    async fn blocks(&self, user: UserId, after: Option<UserId>, limit: usize) -> Result<Vec<Block>, StoreError>;

    // ── readers of the log ───────────

    /// Which rooms have new publications: whatever this process commits, and whatever others put in.
    fn commits(&self) -> Commits;

    /// Registers a reader of the log, which reads the rooms of `filter`, a text of its own form. A new reader, or one
    /// with another filter, must be prepared: with `room_heads` and `prepare_positions`, those rooms up to
    /// `prepare_until` that it did not read before get positions at their heads. An earlier preparation must be
    /// completed first: then the filter in the answer is the earlier one.
    async fn register_reader(&self, reader: &str, filter: &str) -> Result<Registration, StoreError>;

    /// Records since when a registered reader is paused. 0: it is not. What that means is the reader's business.
    async fn pause_reader(&self, reader: &str, at: UnixMillis) -> Result<(), StoreError>;

    /// Since when a reader is paused. 0: it is not, or is not registered.
    async fn reader_paused_at(&self, reader: &str) -> Result<UnixMillis, StoreError>;

    /// The names and last offsets of rooms by id ascending: ids after `after`, up to `up_to`, at most `limit` rooms.
    async fn room_heads(
        &self,
        after: RoomId,
        up_to: RoomId,
        limit: usize,
    ) -> Result<Vec<(RoomId, String, Offset)>, StoreError>;

    /// Puts a reader's positions in these rooms there, and records that rooms up to `prepared_to` are prepared.
    async fn prepare_positions(
        &self,
        reader: &str,
        prepared_to: RoomId,
        positions: &[(RoomId, Offset)],
    ) -> Result<(), StoreError>;

    /// Looks through at most `limit` rooms with ids after `after`, by id ascending, and returns those with publications
    /// that the reader has not done, and up to which id it has looked. `None`: there are no more rooms.
    async fn unread_rooms(
        &self,
        reader: &str,
        after: RoomId,
        limit: usize,
    ) -> Result<(Vec<UnreadRoom>, Option<RoomId>), StoreError>;

    /// How far a reader has come in a room. `None`: there is no such room.
    async fn progress(&self, reader: &str, room: RoomId) -> Result<Option<Progress>, StoreError>;

    /// The same as `page`, for a reader of the log, which leaves the way to others. Likewise the calls above.
    async fn read_log(&self, room: RoomId, request: PageRequest) -> Result<Option<Page>, StoreError>;

    /// Moves positions, of each reader and room at most one. One answer for each move, in order: `false` if the
    /// position was another than the one that the move starts from, or the room does not exist any more.
    async fn move_positions(&self, moves: &[Move]) -> Result<Vec<bool>, StoreError>;

    /// Makes this process the one among all nodes that works as a reader, for as long as the answer lives. `None`: it
    /// is another one.
    async fn lead(&self) -> Result<Option<Lead>, StoreError> {
        Ok(Some(Lead::alone()))
    }

    // ── the outbox ──────

    /// The rows of the outbox that wait, by id ascending: at most `limit`, and none after the one with which their
    /// payloads have `bytes_limit` bytes. There is no position: a row with a lower id may be committed later. Stores
    /// other than PostgreSQL have no outbox, and all calls about it fail.
    async fn outbox_rows(&self, _limit: usize, _bytes_limit: usize) -> Result<Vec<OutboxRow>, StoreError> {
        Err(outbox::missing())
    }

    /// Deletes rows of the outbox that are done, and sets others aside, with the reason. Of those that were set aside,
    /// the newest `kept` remain; returns how many of the others were deleted.
    async fn finish_outbox_rows(
        &self,
        _done: &[i64],
        _failed: &[(i64, String)],
        _kept: u64,
    ) -> Result<u64, StoreError> {
        Err(outbox::missing())
    }

    async fn outbox_state(&self) -> Result<OutboxState, StoreError> {
        Err(outbox::missing())
    }

    /// Makes this process the one among all nodes that empties the outbox, for as long as the answer lives. `None`: it
    /// is another one.
    async fn lead_outbox(&self) -> Result<Option<Lead>, StoreError> {
        Err(outbox::missing())
    }

    /// Hears of new rows in the outbox. The error is one line.
    async fn outbox_listener(&self) -> Result<OutboxListener, String> {
        Err(outbox::missing().to_string())
    }

    // ── API keys ────────────────────────────

    /// Adds a key. There are at most 1,000.
    async fn add_api_key(&self, key: NewApiKey) -> Result<(), ApiKeyError>;

    /// All keys, by name, with an error for each that only a newer release understands.
    async fn api_keys(&self) -> Result<Vec<Result<ApiKey, StoreError>>, StoreError>;

    async fn api_key_named(&self, name: &str) -> Result<Option<ApiKey>, StoreError>;

    /// The key with this SHA-256 in hexadecimal. Client addresses are served in turn.
    async fn api_key(&self, hash: &str, client: IpAddr) -> Result<Option<ApiKey>, StoreError>;

    /// The room with this name and its head, for the bot user of a key, who need not be a member.
    async fn room_named(&self, name: &str, bot: UserId) -> Result<Option<(RoomId, Head)>, StoreError>;

    /// A page of the room's publications for the bot user of a key, who need not be a member. `None`: there is no such
    /// room.
    async fn page_for(&self, room: RoomId, request: PageRequest, bot: UserId) -> Result<Option<Page>, StoreError>;

    /// Makes a user a member of a room of any kind, as the owner could, in the name of the bot user of a key, who need
    /// not be a member. If the user is already a member, nothing changes.
    async fn enroll(&self, name: &str, user: UserId, bot: UserId) -> Result<Enrolment, RoomError>;

    /// Creates a user without a password and an e-mail address, for the bot user of a key.
    async fn create_bare_user(
        &self,
        username: &str,
        username_key: &str,
        bot: UserId,
    ) -> Result<Account, CreateUserError>;

    /// Gives a user another name, for the bot user of a key. The former name stays reserved for the user, and still
    /// finds them: tokens made elsewhere may contain it. A user has at most 20 former names.
    async fn rename_user(
        &self,
        user: UserId,
        username: &str,
        username_key: &str,
        bot: UserId,
    ) -> Result<Account, RenameError>;

    /// Like `create_room`, for the bot user of a key: without a limit on how many rooms the owner has, or how often
    /// they create some.
    async fn create_room_for(&self, room: NewRoom, bot: UserId) -> Result<Room, RoomError>;

    /// Ends a membership, for the bot user of a key, who need not be a member, and is the actor of the publication.
    /// Only the owner can't be removed: `RoomError::NotAllowed`. `only`: the room that is meant, if it has the name.
    async fn expel(&self, name: &str, only: Option<RoomId>, user: UserId, bot: UserId) -> Result<Removal, RoomError>;

    /// Like `delete_room`, as the owner could, for the bot user of a key. `only`: the room that is meant, if it has the
    /// name.
    async fn delete_room_for(
        &self,
        name: &str,
        only: Option<RoomId>,
        bot: UserId,
        reserved_ms: u64,
    ) -> Result<RoomId, RoomError>;

    /// Like `members`, for the bot user of a key, who need not be a member.
    async fn members_for(
        &self,
        name: &str,
        bot: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<MemberPage, RoomError>;

    /// What a system calls these users, in their order: the `subject` of their [`Identity`]. `None` for a user whom it
    /// does not know. `bot`: the user of the key that asks.
    async fn subjects(&self, issuer: &str, users: &[UserId], bot: UserId) -> Result<Vec<Option<String>>, StoreError>;

    /// `false`: there is no such key.
    async fn remove_api_key(&self, name: &str) -> Result<bool, StoreError>;

    /// Adds rows to the audit log, in this order, and deletes its oldest rows beyond `kept`.
    async fn record_audit(&self, entries: &[AuditEntry], kept: u64) -> Result<(), StoreError>;

    /// The newest rows of the audit log, oldest first: at most `limit`, and at most 1,001.
    async fn audit(&self, limit: usize) -> Result<Vec<AuditEntry>, StoreError>;

    // ── hooks ──

    /// Creates an incoming hook, for the owner or a moderator of the room, and the user whose messages it posts. That
    /// user does not become a member of the room by this.
    async fn create_hook(&self, hook: NewHook) -> Result<Hook, RoomError>;

    /// The hooks of a room by id ascending, for its owner and moderators.
    async fn hooks(&self, room: &str, actor: UserId) -> Result<Vec<Hook>, RoomError>;

    /// Deletes a hook, for the owner or a moderator of the room.
    async fn delete_hook(&self, room: &str, actor: UserId, hook: i64) -> Result<DeletedHook, RoomError>;

    /// The hook with this secret, for a request of a program. Client addresses are served in turn.
    async fn hook(&self, secret_hash: &str, client: IpAddr) -> Result<Option<HookTarget>, StoreError>;

    // ── invites ──

    /// Creates an invite, for a member who may invite others to the room, or for the operator. It counts as a write of
    /// that member.
    async fn create_invite(&self, invite: NewInvite) -> Result<Invite, RoomError>;

    /// The invites of a room that can be used, oldest first, for members who may invite others to it. Members see their
    /// own, the owner and moderators see all.
    async fn invites(&self, room: &str, actor: UserId) -> Result<Vec<Invite>, RoomError>;

    /// Ends an invite, for those who can see it.
    async fn revoke_invite(&self, room: &str, actor: UserId, code: &str) -> Result<(), RoomError>;

    /// The invite with this code, for anybody who has it. Client addresses are served in turn.
    ///
    /// # Errors
    /// `RoomError::NoInvite` and `RoomError::InviteEnded`.
    async fn invite(&self, code: &str, client: IpAddr) -> Result<OpenInvite, RoomError>;

    /// Makes a user a member of the invite's room. For a member nothing changes, even if the invite has ended. `None`:
    /// the invite is for no room.
    async fn accept_invite(&self, code: &str, user: UserId) -> Result<Option<Join>, RoomError>;

    /// Creates a user and makes the user a member of the invite's room, if it is for one. All of it or nothing.
    async fn create_invited_user(&self, user: NewUser, code: &str) -> Result<InvitedUser, InvitedUserError>;

    // ── operations ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Fails if the database does not answer.
    async fn ping(&self) -> Result<(), StoreError>;

    /// The database's clock, which dates messages, tokens and revocations.
    fn clock(&self) -> Clock;

    /// Identifies the history of this database. User ids are comparable within one generation only.
    fn generation(&self) -> DatabaseGeneration;

    /// Follows the generation, which can change while several nodes use the database. The channel is closed if it
    /// can't.
    fn generations(&self) -> watch::Receiver<DatabaseGeneration> {
        watch::channel(self.generation()).1
    }

    /// The bus of the database, if this process is one of several nodes.
    fn bus(&self) -> Option<PostgresBus> {
        None
    }

    /// Tells the other nodes what the node with this name serves. `false`: they do not know of the node yet.
    async fn report_load(&self, _node: &str, _load: NodeLoad) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// The nodes that are alive, except the one with this name.
    async fn other_nodes(&self, _node: &str) -> Result<Vec<OtherNode>, StoreError> {
        Ok(Vec::new())
    }

    /// How many other nodes that use the database are alive.
    fn peers(&self) -> usize {
        0
    }

    /// The version of announcements that all nodes understand: that of the oldest one that is alive. What a later version
    /// has added may be sent only from there on. 1: everything that there has been so far.
    fn bus_version(&self) -> i32 {
        1
    }

    /// Returns once the store can't go on, with the reason: another process has taken over the database, the database
    /// has gone back, or one of the store's own tasks has ended because of a bug.
    async fn ended(&self) -> String {
        std::future::pending().await
    }

    /// How many batches can be committed in parallel: 1 on SQLite.
    fn lanes(&self) -> usize;

    /// Closes the connections, once the calls in progress are done.
    async fn close(&self);
}

/// The store, as the parts of the server share it.
pub type SharedStore = Arc<dyn Store>;
