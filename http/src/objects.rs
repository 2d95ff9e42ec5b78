//! The JSON objects of the API. User ids are strings; offsets, numbers and times (Unix milliseconds) are JSON numbers.

use crate::invites;
use serde::Serialize;
use serde_json::value::RawValue;
use uproar_model::{Kind, MemberRef, Number, Offset, Publication, UnixMillis};
use uproar_store::{
    Account, Ban, Block, Cursor, Hook, Invite, MemberEntry, Message, MessagePage, OpenInvite, Reaction, Role, Room,
    RoomAuditEntry, RoomKind,
};

#[derive(Serialize)]
pub(crate) struct UserObject<'a> {
    id: String,
    username: &'a str,
}

impl<'a> From<&'a uproar_model::User> for UserObject<'a> {
    fn from(user: &'a uproar_model::User) -> UserObject<'a> {
        UserObject { id: user.id.to_string(), username: &user.username }
    }
}

/// A user's own account. `email` is null if there is none.
#[derive(Serialize)]
pub(crate) struct AccountObject<'a> {
    id: String,
    username: &'a str,
    email: Option<&'a str>,
}

impl<'a> From<&'a Account> for AccountObject<'a> {
    fn from(account: &'a Account) -> AccountObject<'a> {
        AccountObject { id: account.id.to_string(), username: &account.username, email: account.email.as_deref() }
    }
}

#[derive(Serialize)]
pub(crate) struct RoomObject<'a> {
    name: &'a str,
    title: &'a str,
    private: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    direct: bool,
    topic: &'a str,
    size: u32,
    members: u32,
    slow_mode_seconds: u32,
    who_may_post: &'static str,
    who_may_invite: &'static str,
    /// The members of a direct room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    people: Vec<UserObject<'a>>,
    offset: Offset,
    epoch: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Only where one room is shown to a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pins: Option<&'a [Offset]>,
}

impl<'a> RoomObject<'a> {
    /// A room that was read by itself.
    pub(crate) fn with_pins(room: &'a Room) -> RoomObject<'a> {
        RoomObject { pins: room.role.map(|_| room.pins.as_slice()), ..RoomObject::from(room) }
    }
}

impl<'a> From<&'a Room> for RoomObject<'a> {
    fn from(room: &'a Room) -> RoomObject<'a> {
        RoomObject {
            name: &room.name,
            title: &room.title,
            private: room.kind != RoomKind::Public,
            direct: room.kind == RoomKind::Direct,
            topic: &room.settings.topic,
            size: room.size,
            members: room.members,
            slow_mode_seconds: room.settings.slow_mode_seconds,
            who_may_post: room.settings.who_may_post.word(),
            who_may_invite: room.settings.who_may_invite.word(),
            people: room.people.iter().map(UserObject::from).collect(),
            offset: room.offset,
            epoch: &room.epoch.0,
            unread: room.unread,
            role: room.role.map(Role::word),
            pins: None,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct MemberObject<'a> {
    user: UserObject<'a>,
    role: &'static str,
    joined_at: UnixMillis,
    #[serde(skip_serializing_if = "Option::is_none")]
    silenced_until: Option<UnixMillis>,
}

impl<'a> From<&'a MemberEntry> for MemberObject<'a> {
    fn from(member: &'a MemberEntry) -> MemberObject<'a> {
        MemberObject {
            user: (&member.user).into(),
            role: member.role.word(),
            joined_at: member.joined_at,
            silenced_until: member.silenced_until,
        }
    }
}

/// A ban that holds. Without `until` it holds for ever.
#[derive(Serialize)]
pub(crate) struct BanObject<'a> {
    user: UserObject<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<UnixMillis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    by: UserObject<'a>,
    at: UnixMillis,
}

impl<'a> From<&'a Ban> for BanObject<'a> {
    fn from(ban: &'a Ban) -> BanObject<'a> {
        let (user, by) = ((&ban.user).into(), (&ban.by).into());
        BanObject { user, until: ban.until, reason: ban.reason.as_deref(), by, at: ban.at }
    }
}

/// An entry of a room's audit log.
#[derive(Serialize)]
pub(crate) struct RoomAuditObject<'a> {
    id: String,
    at: UnixMillis,
    actor: UserObject<'a>,
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<UserObject<'a>>,
    detail: Option<&'a RawValue>,
}

impl<'a> From<&'a RoomAuditEntry> for RoomAuditObject<'a> {
    fn from(entry: &'a RoomAuditEntry) -> RoomAuditObject<'a> {
        RoomAuditObject {
            id: entry.id.to_string(),
            at: entry.at,
            actor: (&entry.actor).into(),
            action: &entry.action,
            target: entry.target.as_ref().map(UserObject::from),
            detail: serde_json::from_str(&entry.detail).ok(),
        }
    }
}

/// Somebody whom the user has blocked.
#[derive(Serialize)]
pub(crate) struct BlockObject<'a> {
    user: UserObject<'a>,
    at: UnixMillis,
}

impl<'a> From<&'a Block> for BlockObject<'a> {
    fn from(block: &'a Block) -> BlockObject<'a> {
        BlockObject { user: (&block.user).into(), at: block.at }
    }
}

/// A page of those whom the user has blocked.
#[derive(Serialize)]
pub(crate) struct BlockList {
    pub blocks: Vec<Box<RawValue>>,
    pub more: bool,
}

/// A hook of a room. Its URL is shown only once.
#[derive(Serialize)]
pub(crate) struct HookObject<'a> {
    id: String,
    name: &'a str,
    user: UserObject<'a>,
    created_by: UserObject<'a>,
    created_at: UnixMillis,
}

impl<'a> From<&'a Hook> for HookObject<'a> {
    fn from(hook: &'a Hook) -> HookObject<'a> {
        HookObject {
            id: hook.id.to_string(),
            name: &hook.name,
            user: (&hook.bot).into(),
            created_by: (&hook.creator).into(),
            created_at: hook.created_at,
        }
    }
}

/// An invite of a room.
#[derive(Serialize)]
pub(crate) struct InviteObject<'a> {
    code: &'a str,
    url: String,
    /// Null: the operator.
    created_by: Option<UserObject<'a>>,
    created_at: UnixMillis,
    expires_at: UnixMillis,
    uses: u32,
    /// Null: no limit.
    uses_limit: Option<u32>,
}

impl<'a> InviteObject<'a> {
    /// `address`: where users find this server.
    pub(crate) fn new(invite: &'a Invite, address: &str) -> InviteObject<'a> {
        InviteObject {
            code: &invite.code,
            url: invites::link(address, &invite.code),
            created_by: invite.creator.as_ref().map(UserObject::from),
            created_at: invite.created_at,
            expires_at: invite.expires_at,
            uses: invite.uses,
            uses_limit: invite.uses_limit,
        }
    }
}

/// An invite as those see it who have its code.
#[derive(Serialize)]
pub(crate) struct OpenInviteObject<'a> {
    /// Null: it only lets people sign up.
    room: Option<InvitingRoomObject<'a>>,
    /// Null: the operator.
    invited_by: Option<UserObject<'a>>,
    expires_at: UnixMillis,
}

#[derive(Serialize)]
struct InvitingRoomObject<'a> {
    name: &'a str,
    title: &'a str,
    private: bool,
    members: u32,
}

impl<'a> From<&'a OpenInvite> for OpenInviteObject<'a> {
    fn from(invite: &'a OpenInvite) -> OpenInviteObject<'a> {
        let room = invite.room.as_ref().map(|room| InvitingRoomObject {
            name: &room.name,
            title: &room.title,
            private: room.kind == RoomKind::Private,
            members: room.members,
        });
        let invited_by = invite.creator.as_ref().map(UserObject::from);
        OpenInviteObject { room, invited_by, expires_at: invite.expires_at }
    }
}

/// A page of rooms.
#[derive(Serialize)]
pub(crate) struct RoomList {
    pub rooms: Vec<Box<RawValue>>,
    pub more: bool,
}

/// A page of members, and how many there are.
#[derive(Serialize)]
pub(crate) struct MemberList {
    pub members: Vec<Box<RawValue>>,
    pub more: bool,
    pub count: u32,
}

/// A message in the history. `text` is null if it was deleted, `id` if the server made it.
#[derive(Serialize)]
struct MessageObject<'a> {
    offset: Offset,
    number: Number,
    user: UserObject<'a>,
    text: Option<&'a str>,
    id: Option<&'a str>,
    time: UnixMillis,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Offset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited: Option<Offset>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
    reactions: Vec<ReactionObject<'a>>,
}

#[derive(Serialize)]
struct ReactionObject<'a> {
    emoji: &'a str,
    count: u32,
    mine: bool,
}

impl<'a> From<&'a Reaction> for ReactionObject<'a> {
    fn from(reaction: &'a Reaction) -> ReactionObject<'a> {
        ReactionObject { emoji: &reaction.emoji, count: reaction.count, mine: reaction.mine }
    }
}

impl<'a> From<&'a Message> for MessageObject<'a> {
    fn from(message: &'a Message) -> MessageObject<'a> {
        MessageObject {
            offset: message.offset,
            number: message.number,
            user: (&message.user).into(),
            text: message.text.as_deref(),
            id: message.id.as_deref(),
            time: message.time,
            reply_to: message.reply_to,
            edited: message.edited,
            deleted: message.deleted,
            meta: message.meta.as_deref().and_then(|meta| serde_json::from_str(meta).ok()),
            reactions: message.reactions.iter().map(ReactionObject::from).collect(),
        }
    }
}

/// A join or a departure: who did it, and whom it concerns.
#[derive(Serialize)]
struct MembershipObject<'a> {
    offset: Offset,
    time: UnixMillis,
    user: UserObject<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<ChangedMember<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<ChangedMember<'a>>,
}

/// Earlier versions did not record the name.
#[derive(Serialize)]
struct ChangedMember<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
}

impl<'a> From<&'a Publication> for MembershipObject<'a> {
    fn from(p: &'a Publication) -> MembershipObject<'a> {
        let member = |kind| {
            let MemberRef { id, username } = p.member().filter(|_| p.kind == kind)?;
            Some(ChangedMember { id, username })
        };
        MembershipObject {
            offset: p.offset,
            time: p.time,
            user: (&p.user).into(),
            added: member(Kind::Added),
            removed: member(Kind::Removed),
        }
    }
}

/// A page of history.
#[derive(Serialize)]
pub(crate) struct MessagePageObject<'a> {
    messages: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memberships: Option<Vec<MembershipObject<'a>>>,
    epoch: &'a str,
    offset: Offset,
    more: bool,
    /// The offsets of the first and the last message.
    #[serde(skip)]
    ends: Option<(Offset, Offset)>,
}

impl<'a> MessagePageObject<'a> {
    /// The messages of a page that fit into this many bytes: the first ones, or the last ones if it was read backwards.
    pub(crate) fn fitting(page: &'a MessagePage, cursor: Cursor, limit_bytes: u64) -> MessagePageObject<'a> {
        let objects = page.messages.iter().map(MessageObject::from);
        let is_ascending = matches!(cursor, Cursor::After(_));
        let (messages, is_cut) = if is_ascending {
            fitting(objects, limit_bytes)
        } else {
            let (mut messages, is_cut) = fitting(objects.rev(), limit_bytes);
            messages.reverse();
            (messages, is_cut)
        };
        let left_out = page.messages.len() - messages.len();
        let shown = if is_ascending { &page.messages[..messages.len()] } else { &page.messages[left_out..] };
        let ends = shown.first().zip(shown.last()).map(|(first, last)| (first.offset, last.offset));
        let (epoch, more) = (&*page.epoch.0, page.more || is_cut);
        MessagePageObject { messages, memberships: None, epoch, offset: page.offset, more, ends }
    }

    /// The part of the log that the page stands for, as offsets above the first and up to the second. Pages that
    /// continue each other leave nothing out between them, and share nothing.
    pub(crate) fn span(&self, cursor: Cursor) -> (Offset, Offset) {
        let ends = self.ends.filter(|_| self.more);
        match cursor {
            Cursor::Newest => (ends.map_or(0, |(first, _)| first), self.offset),
            Cursor::Before(offset) => (ends.map_or(0, |(first, _)| first), self.offset.min(offset.saturating_sub(1))),
            Cursor::After(offset) => (offset, ends.map_or(self.offset, |(_, last)| last)),
        }
    }

    pub(crate) fn with_memberships(self, changes: &'a [Publication]) -> MessagePageObject<'a> {
        let memberships = Some(changes.iter().map(MembershipObject::from).collect());
        MessagePageObject { memberships, ..self }
    }
}

/// The objects, encoded, up to this many bytes, but at least one. True: that is not all of them.
pub(crate) fn fitting<T: Serialize>(objects: impl Iterator<Item = T>, limit_bytes: u64) -> (Vec<Box<RawValue>>, bool) {
    let (mut fitting, mut bytes) = (Vec::new(), 0);
    for object in objects {
        // It fails only for maps without string keys, and there are none.
        let Ok(json) = serde_json::value::to_raw_value(&object) else { continue };
        bytes += json.get().len() as u64 + 1;
        if bytes > limit_bytes && !fitting.is_empty() {
            return (fitting, true);
        }
        fitting.push(json);
    }
    (fitting, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_before_it_is_too_long() {
        let texts = ["aaa", "bbb", "ccc"];
        let cut = |limit| {
            let (list, is_cut) = fitting(texts.iter(), limit);
            (list.len(), is_cut)
        };
        assert_eq!(cut(18), (3, false));
        assert_eq!(cut(17), (2, true));
        assert_eq!(cut(1), (1, true), "at least one, so that the next page is another");
    }
}
