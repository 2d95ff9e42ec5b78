//! What the store is asked and what it answers, apart from the commit path's own words in `uproar-model`.

use std::sync::Arc;
use uproar_model::{Epoch, Number, Offset, Publication, Role, RoomId, UnixMillis, User, UserId};

/// Who finds a room. The numbers are those in the database; 2 is reserved for direct rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomKind {
    Public = 0,
    Private = 1,
}

/// One's own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: UserId,
    pub username: Arc<str>,
    pub email: Option<String>,
    pub has_password: bool,
    pub token_generation: u32,
    /// When the generation was last raised.
    pub revoked_at: Option<UnixMillis>,
}

/// A user to create. Keys are folded by the caller (`fold_name`; e-mail addresses are lower-cased).
#[derive(Clone, Debug)]
pub struct NewUser {
    pub username: String,
    pub username_key: String,
    pub email_key: String,
    /// In PHC form.
    pub password_hash: String,
}

/// What a user signs in with.
#[derive(Clone, Copy, Debug)]
pub enum Login<'a> {
    UsernameKey(&'a str),
    EmailKey(&'a str),
}

/// A room to create.
#[derive(Clone, Debug)]
pub struct NewRoom {
    /// Its own folded key.
    pub name: String,
    pub title: String,
    pub kind: RoomKind,
    /// The most members it takes, at least 1.
    pub size: u32,
    pub owner: UserId,
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
    /// Last number − read number; none to someone who is not a member.
    pub unread: Option<Number>,
    pub role: Option<Role>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberEntry {
    pub user: User,
    pub role: Role,
    pub joined_at: UnixMillis,
}

/// A room that a user is in now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    pub room: Room,
    /// Whether this call made the user a member.
    pub joined: bool,
}

/// A user who is in a room now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    pub member: MemberEntry,
    /// Whether this call made the user a member.
    pub joined: bool,
}

/// A membership taken away: the publication to show in the room, of kind `Removed`. Its `user` is the actor, its
/// `body` the removed user's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub room: RoomId,
    pub member: UserId,
    pub publication: Publication,
}

/// Where a page of messages begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// The newest messages.
    Newest,
    /// The newest messages with offsets below this one.
    Before(Offset),
    /// The oldest messages with offsets above this one.
    After(Offset),
}

/// A message (kind 0) as history over HTTP shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub offset: Offset,
    pub number: Number,
    pub user: User,
    /// None when deleted.
    pub text: Option<String>,
    /// The sender's id; none when the server made it.
    pub id: Option<String>,
    pub time: UnixMillis,
    pub reply_to: Option<Offset>,
    pub edited: Option<Offset>,
    pub deleted: bool,
    /// By emoji, in the order of the emoji's bytes.
    pub reactions: Vec<Reaction>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaction {
    pub emoji: String,
    pub count: u32,
    /// Whether the viewer is among them.
    pub mine: bool,
}

/// A page of messages and the position read with it: subscribing from `offset` of `epoch` leaves nothing out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chats {
    pub messages: Vec<Message>,
    pub epoch: Epoch,
    pub offset: Offset,
    /// Whether there are more in the direction of the cursor.
    pub more: bool,
}
