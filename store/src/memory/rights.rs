//! Rights and settings in the store in memory.

use super::{MemoryStore, StoredRoom};
use crate::check::rows_limit;
use crate::error::RoomError;
use crate::objects::{
    Ban, BanPage, RoomAuditEntry, RoomAuditPage, RoomChange, RoomChanged, RoomKind, RoomSettings, SettingsChange,
    WhoMay,
};
use crate::rights::{
    CANNOT_SEE_AUDIT, CANNOT_SEE_BANS, DELETED_LIMIT, PINS_LIMIT, SettingsNow, Told, deletion, may_change, may_concern,
    take_deletions,
};
use uproar_model::{Item, Kind, Offset, Role, RoomId, UnixMillis, User, UserId};

/// A ban as it is stored.
#[derive(Clone, Debug)]
pub(super) struct StoredBan {
    until: Option<UnixMillis>,
    reason: Option<String>,
    by: UserId,
    at: UnixMillis,
}

impl StoredBan {
    fn holds(&self, now: UnixMillis) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

#[derive(Clone, Debug)]
pub(super) struct StoredAudit {
    room: RoomId,
    at: UnixMillis,
    actor: UserId,
    action: &'static str,
    target: Option<UserId>,
    detail: String,
}

impl StoredRoom {
    pub(super) fn settings(&self) -> RoomSettings {
        RoomSettings {
            topic: self.topic.clone(),
            slow_mode_seconds: self.slow_mode_seconds,
            who_may_post: WhoMay::from_number(self.who_may_post.into()),
            who_may_invite: self.who_may_invite,
        }
    }

    pub(super) fn is_banned(&self, user: UserId, now: UnixMillis) -> bool {
        self.bans.get(&user).is_some_and(|ban| ban.holds(now))
    }

    /// Whether there is no owner but this user.
    pub(super) fn is_last_owner(&self, user: UserId) -> bool {
        !self.members.iter().any(|(id, member)| member.role == Role::Owner && *id != user)
    }
}

impl MemoryStore {
    /// [`crate::Store::change_room`].
    pub fn change_room(
        &mut self,
        now: UnixMillis,
        name: &str,
        actor: UserId,
        change: &RoomChange,
    ) -> Result<RoomChanged, RoomError> {
        let (id, room, actor_role) = self.look_up(name, actor)?;
        may_change(change, actor_role)?;
        let subject = match change.user_key() {
            None => None,
            Some(key) => {
                let user = self.user_id(key).ok_or(RoomError::NoUser)?;
                may_concern(change, actor_role, room.members.get(&user).map(|member| member.role))?;
                Some(self.user(user))
            }
        };
        let mut changed =
            RoomChanged { room: id, subject: subject.clone(), publications: Vec::new(), deleted: 0, more: false };
        let room = self.rooms.get_mut(&id).ok_or(RoomError::NoRoom)?;
        let told = match (change, &subject) {
            (RoomChange::Role { role, .. }, Some(user)) => {
                let is_last = room.is_last_owner(user.id);
                let member = room.members.get_mut(&user.id).ok_or(RoomError::NotMember)?;
                if member.role == *role {
                    None
                } else if member.role == Role::Owner && is_last {
                    return Err(RoomError::LastOwner);
                } else {
                    member.role = *role;
                    Some(Told::role(user, *role))
                }
            }
            (RoomChange::Ban { until, reason, .. }, Some(user)) => {
                let is_member = room.members.contains_key(&user.id);
                let old = room.bans.get(&user.id).filter(|ban| ban.holds(now));
                if !is_member && old.is_some_and(|old| old.until == *until && old.reason == *reason) {
                    None
                } else {
                    let ban = StoredBan { until: *until, reason: reason.clone(), by: actor, at: now };
                    room.bans.insert(user.id, ban);
                    if room.members.remove(&user.id).is_some() {
                        changed.publications.extend(self.publish_change(now, id, Kind::Removed, actor, user.id));
                    }
                    Some(Told::banned(user, *until, reason.as_deref()))
                }
            }
            (RoomChange::Unban { .. }, Some(user)) => {
                room.bans.remove(&user.id).filter(|ban| ban.holds(now)).map(|_| Told::unbanned(user))
            }
            (RoomChange::Silence { until, reason, .. }, Some(user)) => {
                let member = room.members.get_mut(&user.id).ok_or(RoomError::NotMember)?;
                if member.silenced_until == Some(*until) {
                    None
                } else {
                    member.silenced_until = Some(*until);
                    room.silences.insert(user.id, *until);
                    Some(Told::silenced(user, *until, reason.as_deref()))
                }
            }
            (RoomChange::Unsilence { .. }, Some(user)) => {
                room.silences.remove(&user.id);
                let member = room.members.get_mut(&user.id).ok_or(RoomError::NotMember)?;
                member.silenced_until.take().filter(|until| *until > now).map(|_| Told::unsilenced(user))
            }
            (RoomChange::Settings(settings), _) => change_settings(room, settings)?,
            (RoomChange::Pin(offset), _) => {
                room.row(*offset)
                    .filter(|row| row.kind == Kind::Message && row.deleted.is_none())
                    .ok_or(RoomError::NoMessage)?;
                if room.pins.iter().any(|(_, pinned)| pinned == offset) {
                    None
                } else if room.pins.len() >= PINS_LIMIT {
                    return Err(RoomError::TooManyPins);
                } else {
                    room.pins.push((now, *offset));
                    Some(Told::pinned(*offset))
                }
            }
            (RoomChange::Unpin(offset), _) => {
                let before = room.pins.len();
                room.pins.retain(|(_, pinned)| pinned != offset);
                (room.pins.len() < before).then(|| Told::unpinned(*offset))
            }
            (_, None) => return Err(RoomError::NoUser),
        };
        let subject_id = subject.as_ref().map(|user| user.id);
        if let Some(told) = told {
            self.tell(now, id, actor, told, subject_id, &mut changed);
        }
        if let (RoomChange::Ban { delete_since: Some(since), .. }, Some(user)) = (change, &subject) {
            self.delete_messages(now, id, actor, user, *since, &mut changed);
        }
        Ok(changed)
    }

    pub(super) fn tell(
        &mut self,
        now: UnixMillis,
        id: RoomId,
        actor: UserId,
        told: Told,
        subject: Option<UserId>,
        changed: &mut RoomChanged,
    ) {
        let Told { word, body } = told;
        self.record(now, id, actor, word, subject, body.clone());
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let offset = room.log.len() as u64 + 1;
        let item = Item {
            room: id,
            user: actor,
            id: format!("~{word}-{offset}").into(),
            kind: Kind::Moderated,
            target: None,
            body: Some(body.into()),
            meta: None,
        };
        room.push(now, &item);
        if let Some(room) = self.rooms.get(&id) {
            changed.publications.extend(room.row(offset).map(|row| self.publication(room, row)));
        }
    }

    pub(super) fn record(
        &mut self,
        at: UnixMillis,
        room: RoomId,
        actor: UserId,
        action: &'static str,
        target: Option<UserId>,
        detail: String,
    ) {
        self.room_audit.push(StoredAudit { room, at, actor, action, target, detail });
    }

    fn delete_messages(
        &mut self,
        now: UnixMillis,
        id: RoomId,
        actor: UserId,
        user: &User,
        since: UnixMillis,
        changed: &mut RoomChanged,
    ) {
        let Some(room) = self.rooms.get(&id) else { return };
        let is_meant = |row: &&super::LogRow| {
            row.kind == Kind::Message && row.user == user.id && row.deleted.is_none() && row.time >= since
        };
        let mut gone: Vec<_> = room.log.iter().rev().filter(is_meant).map(|row| row.offset).collect();
        changed.more = gone.len() > DELETED_LIMIT;
        gone.truncate(DELETED_LIMIT);
        let items: Vec<_> = gone.into_iter().map(|offset| deletion(id, actor, offset)).collect();
        let outcomes = self.append(now, &items);
        let actor_user = self.user(actor);
        changed.deleted = take_deletions(&mut changed.publications, &actor_user, items, outcomes);
        if changed.deleted > 0 {
            self.record(now, id, actor, "deleted", Some(user.id), format!("{{\"deleted\":{}}}", changed.deleted));
        }
    }

    /// The offsets of the pinned messages, the latest pin first.
    pub(super) fn pins(room: &StoredRoom) -> Vec<Offset> {
        let mut pins = room.pins.clone();
        pins.sort_unstable();
        pins.into_iter().rev().map(|(_, offset)| offset).collect()
    }

    /// [`crate::Store::bans`].
    pub fn bans(
        &self,
        now: UnixMillis,
        name: &str,
        actor: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<BanPage, RoomError> {
        let (_, room, role) = self.look_up(name, actor)?;
        if role.is_none_or(|role| role < Role::Moderator) {
            return Err(RoomError::NotAllowed(CANNOT_SEE_BANS));
        }
        let after = after.unwrap_or(UserId(0));
        let bans = room.bans.iter().filter(|(id, ban)| **id > after && ban.holds(now));
        let ban = |(id, ban): (&UserId, &StoredBan)| Ban {
            user: self.user(*id),
            until: ban.until,
            reason: ban.reason.clone(),
            by: self.user(ban.by),
            at: ban.at,
        };
        let limit = rows_limit(limit);
        let mut bans: Vec<_> = bans.take(limit + 1).map(ban).collect();
        let more = bans.len() > limit;
        bans.truncate(limit);
        Ok(BanPage { bans, more })
    }

    /// [`crate::Store::room_audit`].
    pub fn room_audit(
        &self,
        name: &str,
        actor: UserId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<RoomAuditPage, RoomError> {
        let (id, _, role) = self.look_up(name, actor)?;
        if role.is_none_or(|role| role < Role::Moderator) {
            return Err(RoomError::NotAllowed(CANNOT_SEE_AUDIT));
        }
        let entries = (1..).zip(&self.room_audit).filter(|(_, entry)| entry.room == id);
        let entry = |(n, entry): (i64, &StoredAudit)| RoomAuditEntry {
            id: n,
            at: entry.at,
            actor: self.user(entry.actor),
            action: entry.action.to_owned(),
            target: entry.target.map(|user| self.user(user)),
            detail: entry.detail.clone(),
        };
        let mut entries: Vec<_> = entries.filter(|(n, _)| before.is_none_or(|before| *n < before)).map(entry).collect();
        entries.reverse();
        let limit = rows_limit(limit);
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(RoomAuditPage { entries, more })
    }
}

fn change_settings(room: &mut StoredRoom, change: &SettingsChange) -> Result<Option<Told>, RoomError> {
    if change.size.is_some_and(|size| (size as usize) < room.members.len()) {
        return Err(RoomError::TooSmall);
    }
    let (title, private) = (room.title.clone(), room.kind != RoomKind::Public);
    let now = SettingsNow { title, private, size: room.size, settings: room.settings() };
    let told = Told::settings(change, &now);
    let SettingsChange { title, topic, private, size, slow_mode_seconds, who_may_post, who_may_invite } = change;
    if let Some(title) = title {
        room.title.clone_from(title);
    }
    if let Some(topic) = topic {
        room.topic.clone_from(topic);
    }
    if let Some(private) = private {
        room.kind = if *private { RoomKind::Private } else { RoomKind::Public };
    }
    room.size = size.unwrap_or(room.size);
    room.slow_mode_seconds = slow_mode_seconds.unwrap_or(room.slow_mode_seconds);
    room.who_may_post = who_may_post.map_or(room.who_may_post, |who| who as u8);
    room.who_may_invite = who_may_invite.unwrap_or(room.who_may_invite);
    Ok(told)
}
