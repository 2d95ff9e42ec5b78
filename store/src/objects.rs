//! The arguments and results of the store's calls, except those of the commit path, which are in `uproar-model`.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use uproar_model::{Epoch, Number, Offset, Publication, Revocation, Role, RoomId, UnixMillis, User, UserId};

/// Who can find a room. The numbers are those in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomKind {
    Public = 0,
    Private = 1,
    /// Between the people who are in it from the start, for good. Nobody else can find it.
    Direct = 2,
}

impl RoomKind {
    /// The kind with this number in the database. A number that this build does not know counts as private, so that
    /// strangers never see such a room.
    pub(crate) fn from_number(number: i64) -> RoomKind {
        match number {
            0 => RoomKind::Public,
            2 => RoomKind::Direct,
            _ => RoomKind::Private,
        }
    }
}

/// An account as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: UserId,
    pub username: Arc<str>,
    pub email: Option<String>,
    pub has_password: bool,
    pub token_generation: u32,
    /// When the token generation was last raised.
    pub revoked_at: Option<UnixMillis>,
    pub is_blocked: bool,
}

impl Account {
    /// The latest revocation of the user's tokens.
    pub fn revocation(&self) -> Option<Revocation> {
        let (user, generation, is_blocked) = (self.id, self.token_generation, self.is_blocked);
        self.revoked_at.map(|at| Revocation { user, generation, at, is_blocked })
    }
}

/// The author of a publication, for display.
impl From<&Account> for User {
    fn from(account: &Account) -> User {
        User { id: account.id, username: Arc::clone(&account.username) }
    }
}

/// A user to create. The caller has folded the keys: the name by `fold_name`, the e-mail address to lower case.
#[derive(Clone, Debug)]
pub struct NewUser {
    pub username: String,
    pub username_key: String,
    pub email_key: String,
    /// In PHC string format.
    pub password_hash: String,
    /// The client's. Addresses that sign users up are served in turn.
    pub address: IpAddr,
}

/// The name or address that a user signs in with.
#[derive(Clone, Copy, Debug)]
pub enum Login<'a> {
    UsernameKey(&'a str),
    EmailKey(&'a str),
}

/// A room to create.
#[derive(Clone, Debug)]
pub struct NewRoom {
    /// Folded by the caller: a room's name is its own key.
    pub name: String,
    pub title: String,
    pub kind: RoomKind,
    /// The most members that the room can have, at least 1.
    pub size: u32,
    pub owner: UserId,
}

/// Who may do something in a room. The numbers are those in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhoMay {
    Members = 0,
    Moderators = 1,
    Nobody = 2,
}

impl WhoMay {
    /// The one with this number in the database. Nobody may do what only a newer release understands.
    pub(crate) fn from_number(number: i64) -> WhoMay {
        match number {
            0 => WhoMay::Members,
            1 => WhoMay::Moderators,
            _ => WhoMay::Nobody,
        }
    }

    /// Whether it includes members with this role.
    pub(crate) fn includes(self, role: Role) -> bool {
        match self {
            WhoMay::Members => true,
            WhoMay::Moderators => role >= Role::Moderator,
            WhoMay::Nobody => false,
        }
    }

    /// Its name for clients.
    pub fn word(self) -> &'static str {
        match self {
            WhoMay::Members => "members",
            WhoMay::Moderators => "moderators",
            WhoMay::Nobody => "nobody",
        }
    }
}

/// What the owners of a room can set, besides its title, kind and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSettings {
    pub topic: String,
    /// Between two messages of a member; 0: no slow mode.
    pub slow_mode_seconds: u32,
    pub who_may_post: WhoMay,
    pub who_may_invite: WhoMay,
}

impl RoomSettings {
    pub(crate) fn from_row(topic: String, slow_mode_seconds: i64, post: i64, invite: i64) -> RoomSettings {
        RoomSettings {
            topic,
            slow_mode_seconds: u32::try_from(slow_mode_seconds).unwrap_or(0),
            who_may_post: WhoMay::from_number(post),
            who_may_invite: WhoMay::from_number(invite),
        }
    }
}

/// Those of a new room.
impl Default for RoomSettings {
    fn default() -> RoomSettings {
        let (who_may_post, who_may_invite) = (WhoMay::Members, WhoMay::Moderators);
        RoomSettings { topic: String::new(), slow_mode_seconds: 0, who_may_post, who_may_invite }
    }
}

/// New settings of a room; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsChange {
    pub title: Option<String>,
    pub topic: Option<String>,
    pub private: Option<bool>,
    pub size: Option<u32>,
    pub slow_mode_seconds: Option<u32>,
    pub who_may_post: Option<WhoMay>,
    pub who_may_invite: Option<WhoMay>,
}

/// A change of rights or settings in a room. Users are given by their folded names, or former ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomChange {
    /// For owners. The last owner can't step down.
    Role {
        user_key: String,
        role: Role,
    },
    /// Removes the user, if a member, who can't become one again until the ban ends (`None`: never). A ban that holds
    /// is replaced.
    Ban {
        user_key: String,
        until: Option<UnixMillis>,
        reason: Option<String>,
        /// The user's messages since then are deleted, newest first, at most 500 at a time.
        delete_since: Option<UnixMillis>,
    },
    Unban {
        user_key: String,
    },
    /// The member can't post until then, not even after leaving and coming back.
    Silence {
        user_key: String,
        until: UnixMillis,
        reason: Option<String>,
    },
    Unsilence {
        user_key: String,
    },
    /// For owners.
    Settings(SettingsChange),
    /// A message that exists. A room has at most 50 pins.
    Pin(Offset),
    Unpin(Offset),
}

impl RoomChange {
    /// The user whom it concerns.
    pub(crate) fn user_key(&self) -> Option<&str> {
        match self {
            RoomChange::Role { user_key, .. }
            | RoomChange::Ban { user_key, .. }
            | RoomChange::Unban { user_key }
            | RoomChange::Silence { user_key, .. }
            | RoomChange::Unsilence { user_key } => Some(user_key),
            RoomChange::Settings(_) | RoomChange::Pin(_) | RoomChange::Unpin(_) => None,
        }
    }

    /// The texts that it stores.
    pub(crate) fn texts(&self) -> Vec<&str> {
        match self {
            RoomChange::Ban { reason, .. } | RoomChange::Silence { reason, .. } => {
                reason.iter().map(|it| &**it).collect()
            }
            RoomChange::Settings(settings) => {
                [&settings.title, &settings.topic].into_iter().flatten().map(|it| &**it).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The result of a change of rights or settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomChanged {
    pub room: RoomId,
    /// The user whom it concerns.
    pub subject: Option<User>,
    /// What is to be shown in the room, in this order. Empty: nothing has changed.
    pub publications: Vec<Publication>,
    /// Messages that a ban has deleted.
    pub deleted: u64,
    /// Whether the same ban would delete more.
    pub more: bool,
}

/// A ban that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub user: User,
    /// `None`: for ever.
    pub until: Option<UnixMillis>,
    pub reason: Option<String>,
    /// Who has banned the user.
    pub by: User,
    pub at: UnixMillis,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanPage {
    pub bans: Vec<Ban>,
    /// Whether there are more.
    pub more: bool,
}

/// Something that an owner or a moderator has done in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomAuditEntry {
    pub id: i64,
    pub at: UnixMillis,
    pub actor: User,
    /// The first word of the publication's id, or `deleted`.
    pub action: String,
    pub target: Option<User>,
    /// A JSON object: the body of the publication, if it has one.
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomAuditPage {
    /// Newest first.
    pub entries: Vec<RoomAuditEntry>,
    /// Whether there are older ones.
    pub more: bool,
}

/// A room as one user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub id: RoomId,
    pub name: String,
    pub title: String,
    pub kind: RoomKind,
    pub size: u32,
    pub members: u32,
    pub epoch: Epoch,
    pub offset: Offset,
    /// Other users' messages after the viewer's marker that still exist. 1,001 stands for more than 1,000. `None` for a
    /// viewer who is not a member.
    pub unread: Option<Number>,
    pub role: Option<Role>,
    pub settings: RoomSettings,
    /// The offsets of the pinned messages, the latest pin first. Only `Store::room` tells them, and only to members.
    pub pins: Vec<Offset>,
    /// The members of a direct room, by id ascending. Those of other rooms are not listed.
    pub people: Vec<User>,
}

/// A direct room, as the user sees it who has asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectRoom {
    pub room: Room,
    /// Whether this call has made it.
    pub is_new: bool,
}

/// The result of blocking somebody or lifting the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockChange {
    pub user: User,
    /// Since when the user is blocked; after lifting the block, since when they were. `None`: they were not.
    pub at: Option<UnixMillis>,
    /// The publication in the direct room of the two, if nobody can post there from now on, or everybody can again.
    pub publication: Option<(RoomId, Publication)>,
}

/// Somebody whom a user has blocked, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub user: User,
    pub at: UnixMillis,
}

/// A member in the list of a room's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberEntry {
    pub user: User,
    pub role: Role,
    pub joined_at: UnixMillis,
    /// Until when the member is silenced. Only owners and moderators see this of others.
    pub silenced_until: Option<UnixMillis>,
}

/// The result of joining a room: the user is a member now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    pub room: Room,
    /// Whether this call made the user a member.
    pub joined: bool,
    /// The publication of the join, to show in the room.
    pub publication: Option<Publication>,
}

/// The result of adding a member to a room: the user is a member now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    pub room: RoomId,
    pub member: MemberEntry,
    /// Whether this call made the user a member.
    pub joined: bool,
    /// The publication of the addition, to show in the room.
    pub publication: Option<Publication>,
}

/// The result of making a user a member of a room on behalf of the server API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    pub room: RoomId,
    /// Whether this call made the user a member.
    pub joined: bool,
    /// The publication of the addition, to show in the room.
    pub publication: Option<Publication>,
}

/// The result of ending a membership, with the publication to show in the room. Its kind is `Removed`, and its
/// `user` is the actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub room: RoomId,
    pub member: UserId,
    pub publication: Publication,
}

/// Members of a room, and how many it has, read in the same snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPage {
    pub members: Vec<MemberEntry>,
    pub count: u32,
}

impl MemberPage {
    /// Leaves out the silences that are over, and those that a viewer with this role must not see.
    pub(crate) fn show_silences(&mut self, viewer: UserId, role: Role, now: UnixMillis) {
        for member in &mut self.members {
            let may_see = role >= Role::Moderator || member.user.id == viewer;
            member.silenced_until = member.silenced_until.filter(|until| may_see && *until > now);
        }
    }
}

/// Which messages a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// The newest messages.
    Newest,
    /// The newest messages with offsets below this one.
    Before(Offset),
    /// The oldest messages with offsets above this one.
    After(Offset),
}

/// An incoming hook to create.
#[derive(Clone, Debug)]
pub struct NewHook {
    /// The name of the room.
    pub room: String,
    pub creator: UserId,
    pub name: String,
    /// The user whose messages will be posted, created if necessary.
    pub bot_name: String,
    /// The folded name of that user.
    pub bot_key: String,
    pub secret_hash: String,
    /// The most hooks that the room may have.
    pub limit: u64,
}

/// An incoming hook as those who manage the room see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    pub id: i64,
    pub name: String,
    /// The user whose messages are posted.
    pub bot: User,
    pub creator: User,
    pub created_at: UnixMillis,
}

/// Where a hook posts to, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookTarget {
    /// The hook's id.
    pub hook: i64,
    pub room: RoomId,
    /// The hook's name.
    pub name: String,
    pub bot: User,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedHook {
    pub room: RoomId,
    /// The user whose messages were posted. It may still be a member of the room.
    pub bot: User,
}

/// An invite to create.
#[derive(Clone, Debug)]
pub struct NewInvite {
    /// Random, so that nobody can guess it.
    pub code: String,
    /// The name of the room. `None`: the invite only lets people sign up.
    pub room: Option<String>,
    /// `None`: the operator, who may invite people to every room.
    pub creator: Option<UserId>,
    pub lifetime_ms: u64,
    /// How often it can be used. `None`: as often as people like.
    pub uses_limit: Option<u32>,
    /// The most invites that the room may have. Those that have ended make way for new ones.
    pub limit: u64,
}

/// An invite as those who may invite others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    pub code: String,
    /// `None`: the operator.
    pub creator: Option<User>,
    pub created_at: UnixMillis,
    pub expires_at: UnixMillis,
    pub uses: u32,
    pub uses_limit: Option<u32>,
}

/// An invite that can be used, as those see it who have its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenInvite {
    /// `None`: it only lets people sign up.
    pub room: Option<InvitingRoom>,
    /// `None`: the operator.
    pub creator: Option<User>,
    pub expires_at: UnixMillis,
}

/// A room as strangers with an invite see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvitingRoom {
    pub name: String,
    pub title: String,
    pub kind: RoomKind,
    pub members: u32,
}

/// A user who signed up with an invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvitedUser {
    pub account: Account,
    /// The room that the user has become a member of, and its name.
    pub room: Option<(RoomId, String)>,
    /// The publication of the join, to show in the room.
    pub publication: Option<Publication>,
}

/// A message (kind 0) as the history over HTTP shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub offset: Offset,
    pub number: Number,
    pub user: User,
    /// `None` for a deleted message.
    pub text: Option<String>,
    /// The sender's id; `None` if the server generated it.
    pub id: Option<String>,
    pub time: UnixMillis,
    pub reply_to: Option<Offset>,
    /// The offset of the last edit.
    pub edited: Option<Offset>,
    pub deleted: bool,
    /// The JSON that its sender attached; `None` for a deleted message.
    pub meta: Option<String>,
    /// One for each emoji, in the byte order of the emoji.
    pub reactions: Vec<Reaction>,
}

/// How often a message has one emoji.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaction {
    pub emoji: String,
    pub count: u32,
    /// Whether one of them is the viewer's.
    pub mine: bool,
}

/// A page of messages and the room's position at the same moment: a client that subscribes from `offset` of `epoch`
/// misses nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagePage {
    pub room: RoomId,
    pub messages: Vec<Message>,
    pub epoch: Epoch,
    pub offset: Offset,
    /// Whether there are more messages in the direction of the cursor.
    pub more: bool,
}

/// A reader of the log, as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Which rooms it reads, in a form of its own.
    pub filter: String,
    /// Which rooms it read before. `None`: it is new, and read none.
    pub former_filter: Option<String>,
    /// The rooms that it did not read before, up to this id, have positions at their heads.
    pub prepared_to: RoomId,
    /// Later rooms are read from the start.
    pub prepare_until: RoomId,
    pub is_prepared: bool,
    /// Since when it is paused. 0: it is not.
    pub paused_at: UnixMillis,
}

/// How far a reader of the log has come in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Everything up to this offset is done.
    pub done: Offset,
    /// What follows and is under way.
    pub batch: Option<Batch>,
}

/// Consecutive publications that belong together, whatever happens: those after a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The last offset.
    pub to: Offset,
    /// The room's epoch when the batch was begun. In another epoch, the offsets may mean other publications.
    pub epoch: Epoch,
    pub begun_at: UnixMillis,
    /// What the reader must know of it to repeat it, in a form of its own.
    pub note: String,
}

/// A room as a reader of the log sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub name: String,
    pub epoch: Epoch,
    pub head: Offset,
    pub position: Position,
}

/// A room with publications that a reader has not done yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadRoom {
    pub room: RoomId,
    pub name: String,
    pub head: Offset,
    pub done: Offset,
    /// When the first of them was stored. 0: it is not known.
    pub since: UnixMillis,
}

/// A change of a position. It is made only if the position is still the one that it starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub reader: Arc<str>,
    pub room: RoomId,
    pub from: Position,
    pub to: Position,
}

/// What an API key may do. As text: the words of [`Scopes::WORDS`] that apply, separated by commas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    /// Publish in every channel.
    pub publish: bool,
    /// Read presence, history and numbers.
    pub read: bool,
    /// Change users, rooms, memberships and connections.
    pub manage: bool,
    /// Publish in the name of any user.
    pub impersonate: bool,
}

impl Scopes {
    pub const WORDS: [&str; 4] = ["publish", "read", "manage", "impersonate"];
    pub const ALL: Scopes = Scopes { publish: true, read: true, manage: true, impersonate: true };
}

impl FromStr for Scopes {
    type Err = String;

    fn from_str(text: &str) -> Result<Scopes, String> {
        let mut scopes = Scopes::default();
        for word in text.split(',').map(str::trim) {
            match word {
                "publish" => scopes.publish = true,
                "read" => scopes.read = true,
                "manage" => scopes.manage = true,
                "impersonate" => scopes.impersonate = true,
                other => {
                    let words = Scopes::WORDS.join(", ");
                    return Err(format!("'{}' is not a scope; there are {words}", other.escape_debug()));
                }
            }
        }
        Ok(scopes)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = [self.publish, self.read, self.manage, self.impersonate];
        let words = Scopes::WORDS.into_iter().zip(given).filter_map(|(word, is_given)| is_given.then_some(word));
        f.write_str(&words.collect::<Vec<_>>().join(","))
    }
}

/// How an API key names users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsersBy {
    /// By Uproar's user id.
    #[default]
    Id,
    /// By what another system calls them, whose tokens are accepted: the `subject` of their identity there.
    Subject,
    /// By username.
    Username,
}

impl FromStr for UsersBy {
    type Err = String;

    fn from_str(text: &str) -> Result<UsersBy, String> {
        match text {
            "id" => Ok(UsersBy::Id),
            "subject" => Ok(UsersBy::Subject),
            "username" => Ok(UsersBy::Username),
            other => Err(format!("it must be id, subject or username, not '{}'", other.escape_debug())),
        }
    }
}

impl fmt::Display for UsersBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UsersBy::Id => "id",
            UsersBy::Subject => "subject",
            UsersBy::Username => "username",
        })
    }
}

/// An API key to add.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    pub name: String,
    /// SHA-256 of the key, in hexadecimal.
    pub hash: String,
    /// The bot user.
    pub user: UserId,
    pub scopes: Scopes,
    pub users: UsersBy,
}

/// An API key, without the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub name: String,
    /// The bot user, whose messages the key publishes.
    pub user: User,
    pub scopes: Scopes,
    pub users: UsersBy,
    pub created_at: UnixMillis,
}

/// Something that was done with an API key, or with the API keys. Equal actions that follow closely share an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When it was done, the last time.
    pub at: UnixMillis,
    /// `key NAME` or `operator`.
    pub actor: Arc<str>,
    /// The method.
    pub action: Cow<'static, str>,
    /// The channel or user; empty if there is none.
    pub target: String,
    /// The error code; 0: it was done.
    pub outcome: u16,
    pub times: u64,
}

/// A row of the outbox: a command that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    pub id: i64,
    /// A method of the server API, or what somebody took for one: 1 to 64 bytes.
    pub method: String,
    /// Its parameters: a JSON object of at most 1 MiB.
    pub payload: String,
    /// When it was written, in Unix microseconds; 0: the application has put no date there.
    pub created_at: i64,
}

/// How full the outbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxState {
    /// Rows that wait. 100,000 stands for as many or more.
    pub waiting: u64,
    /// Rows that were set aside. 100,000 stands for as many or more.
    pub failed: u64,
    /// When the first row that waits was written. `None`: none waits.
    pub since: Option<UnixMillis>,
}

/// What a node serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeLoad {
    pub connections: u64,
    /// Users with connections.
    pub users: u64,
    pub subscriptions: u64,
    pub channels: u64,
}

/// Another node that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherNode {
    pub name: String,
    pub version: String,
    pub uptime_ms: u64,
    /// As it last told. `None`: it has not yet, or runs a program that doesn't.
    pub load: Option<NodeLoad>,
}
