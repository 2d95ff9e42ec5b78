//! Who may do what in a room: roles, bans, silences, settings and pins, with the log of who has changed them. The
//! rules are here, for SQLite and the store in memory, and once more in PostgreSQL's function `change_room`.

use crate::check::rows_limit;
use crate::connection::{Arg, DbConnection, json, offset_arg};
use crate::error::{RoomError, StoreError};
use crate::objects::{
    Ban, BanPage, RoomAuditEntry, RoomAuditPage, RoomChange, RoomChanged, RoomKind, RoomSettings, SettingsChange,
    WhoMay,
};
use crate::postgres::rights as postgres;
use crate::rooms::{self, Change, look_up};
use crate::{sqlite, users};
use serde::Serialize;
use std::fmt::Write;
use uproar_model::{Item, Kind, Offset, Outcome, Publication, Role, RoomId, UnixMillis, User, UserId, text};

/// Pins of one room.
pub(crate) const PINS_LIMIT: usize = 50;

/// Messages that one call deletes for a ban.
pub(crate) const DELETED_LIMIT: usize = 500;

/// How long the entries of the audit log are kept.
const AUDIT_KEPT_MS: i64 = 366 * 24 * 3600 * 1000;

pub(crate) const CANNOT_CHANGE_ROLES: &str = "only an owner can change roles";
pub(crate) const CANNOT_CHANGE_SETTINGS: &str = "only an owner can change the settings of the room";
pub(crate) const CANNOT_PIN: &str = "only owners and moderators can pin messages";
pub(crate) const CANNOT_MODERATE: &str = "only owners and moderators can ban and silence users";
pub(crate) const CANNOT_SEE_BANS: &str = "only owners and moderators can see who is banned";
pub(crate) const CANNOT_SEE_AUDIT: &str = "only owners and moderators can see the audit log of the room";
pub(crate) const NOT_OVER_EQUALS: &str = "this user has the same role as you or a higher one";
pub(crate) const BANNED_STAYS_OUT: &str = "this user is banned from the room; lift the ban first";

/// Whether somebody with the role `actor` may make this change, whomever it concerns.
pub(crate) fn may_change(change: &RoomChange, actor: Option<Role>) -> Result<(), RoomError> {
    let (least, refusal) = match change {
        RoomChange::Role { .. } => (Role::Owner, CANNOT_CHANGE_ROLES),
        RoomChange::Settings(_) => (Role::Owner, CANNOT_CHANGE_SETTINGS),
        RoomChange::Pin(_) | RoomChange::Unpin(_) => (Role::Moderator, CANNOT_PIN),
        RoomChange::Ban { .. }
        | RoomChange::Unban { .. }
        | RoomChange::Silence { .. }
        | RoomChange::Unsilence { .. } => (Role::Moderator, CANNOT_MODERATE),
    };
    if actor.is_some_and(|actor| actor >= least) { Ok(()) } else { Err(RoomError::NotAllowed(refusal)) }
}

/// Whether somebody with the role `actor` may make this change of a user with the role `subject` (`None`: no member).
pub(crate) fn may_concern(change: &RoomChange, actor: Option<Role>, subject: Option<Role>) -> Result<(), RoomError> {
    let needs_member =
        matches!(change, RoomChange::Role { .. } | RoomChange::Silence { .. } | RoomChange::Unsilence { .. });
    if needs_member && subject.is_none() {
        return Err(RoomError::NotMember);
    }
    let is_role = matches!(change, RoomChange::Role { .. });
    if !is_role && subject.is_some() && subject >= actor {
        return Err(RoomError::NotAllowed(NOT_OVER_EQUALS));
    }
    Ok(())
}

/// The body of a `Moderated` publication, and the first word of its id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub word: &'static str,
    pub body: String,
}

impl Told {
    fn of_user(word: &'static str, user: &User) -> Told {
        let body = format!("{{\"{word}\":\"{}\",\"username\":{}}}", user.id, json(&&*user.username));
        Told { word, body }
    }

    fn with(mut self, name: &str, value: Option<impl Serialize>) -> Told {
        if let Some(value) = value {
            self.body.pop();
            let _ = write!(self.body, ",\"{name}\":{}}}", json(&value));
        }
        self
    }

    pub fn role(user: &User, role: Role) -> Told {
        Told::of_user("role", user).with("is", Some(role.word()))
    }

    pub fn banned(user: &User, until: Option<UnixMillis>, reason: Option<&str>) -> Told {
        Told::of_user("banned", user).with("until", until).with("reason", reason)
    }

    pub fn unbanned(user: &User) -> Told {
        Told::of_user("unbanned", user)
    }

    pub fn silenced(user: &User, until: UnixMillis, reason: Option<&str>) -> Told {
        Told::of_user("silenced", user).with("until", Some(until)).with("reason", reason)
    }

    pub fn unsilenced(user: &User) -> Told {
        Told::of_user("unsilenced", user)
    }

    pub fn removed(user: &User) -> Told {
        Told::of_user("removed", user)
    }

    pub fn pinned(offset: Offset) -> Told {
        Told { word: "pinned", body: format!("{{\"pinned\":{offset}}}") }
    }

    pub fn unpinned(offset: Offset) -> Told {
        Told { word: "unpinned", body: format!("{{\"unpinned\":{offset}}}") }
    }

    pub fn may_post(who: WhoMay) -> Told {
        Told { word: "room", body: format!("{{\"room\":{{\"who_may_post\":\"{}\"}}}}", who.word()) }
    }

    /// What differs from the room as it is. `None`: nothing.
    pub fn settings(change: &SettingsChange, now: &SettingsNow) -> Option<Told> {
        #[derive(Serialize)]
        struct Changed<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            title: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            topic: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            private: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            size: Option<u32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            slow_mode_seconds: Option<u32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            who_may_post: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            who_may_invite: Option<&'static str>,
        }
        let RoomSettings { topic, slow_mode_seconds, who_may_post, who_may_invite } = &now.settings;
        let changed = Changed {
            title: change.title.as_deref().filter(|title| *title != now.title),
            topic: change.topic.as_deref().filter(|new| new != topic),
            private: change.private.filter(|private| *private != now.private),
            size: change.size.filter(|size| *size != now.size),
            slow_mode_seconds: change.slow_mode_seconds.filter(|seconds| seconds != slow_mode_seconds),
            who_may_post: change.who_may_post.filter(|who| who != who_may_post).map(WhoMay::word),
            who_may_invite: change.who_may_invite.filter(|who| who != who_may_invite).map(WhoMay::word),
        };
        let changed = json(&changed);
        (changed != "{}").then(|| Told { word: "room", body: format!("{{\"room\":{changed}}}") })
    }
}

/// What a change of settings is compared with.
pub(crate) struct SettingsNow {
    pub title: String,
    pub private: bool,
    pub size: u32,
    pub settings: RoomSettings,
}

/// How often a change is tried because the user concerned is renamed meanwhile.
const RENAMINGS_LIMIT: usize = 4;

/// The messages of a user who is to be banned, as they were before the ban.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those to delete, newest first.
    pub offsets: Vec<i64>,
    /// Whether there are others.
    pub more: bool,
    /// The last offset of the room at that time.
    pub read_to: i64,
}

/// The newest messages that a ban will delete: those since `since`. It looks for them before anything is locked,
/// because it may read many messages.
pub(crate) async fn find_messages(
    db: &mut DbConnection,
    name: &str,
    actor: UserId,
    user_key: &str,
    since: UnixMillis,
) -> Result<Found, RoomError> {
    let (room, _, role) = look_up(db, name, actor).await?;
    if role.is_none_or(|role| role < Role::Moderator) {
        return Err(RoomError::NotAllowed(CANNOT_MODERATE));
    }
    let user = users::by_username(db, user_key).await?.ok_or(RoomError::NoUser)?.id;
    let sql = "SELECT last_offset FROM heads WHERE room_id = $1";
    let head = db.optional::<(i64,)>(sql, &[Arg::Int(room.0)]).await?;
    let (read_to,) = head.ok_or(RoomError::NoRoom)?;
    let sql = "SELECT room_offset FROM messages WHERE room_id = $1 AND user_id = $2 AND kind = 0
        AND gone_offset IS NULL AND created_at >= $3 AND room_offset <= $4 ORDER BY room_offset DESC LIMIT $5";
    let args = [
        Arg::Int(room.0),
        Arg::Int(user.0),
        Arg::Int(i64::try_from(since).unwrap_or(i64::MAX)),
        Arg::Int(read_to),
        Arg::Int(DELETED_LIMIT as i64 + 1),
    ];
    let rows = db.all::<(i64,)>(sql, &args).await?;
    let mut offsets: Vec<_> = rows.into_iter().map(|(offset,)| offset).collect();
    let more = offsets.len() > DELETED_LIMIT;
    offsets.truncate(DELETED_LIMIT);
    Ok(Found { offsets, more, read_to })
}

/// Changes rights or settings of a room, and appends the publications of it. `found`: for a ban that deletes messages.
pub(crate) async fn change(
    db: &mut DbConnection,
    name: &str,
    actor: UserId,
    change: &RoomChange,
    found: &Found,
) -> Result<RoomChanged, RoomError> {
    let (room, _, actor_role) = look_up(db, name, actor).await?;
    may_change(change, actor_role)?;
    let Some(user_key) = change.user_key() else {
        if db.is_postgres() {
            return postgres::change(db, room, actor, change, None, found).await;
        }
        return change_sqlite(db, room, actor, actor_role, change, None, found).await;
    };
    let mut key = users::current_key(db, user_key).await?.ok_or(RoomError::NoUser)?;
    if !db.is_postgres() {
        return change_sqlite(db, room, actor, actor_role, change, Some(&key), found).await;
    }
    for _ in 0..RENAMINGS_LIMIT {
        match postgres::change(db, room, actor, change, Some(&key), found).await {
            // Renamed since the statement before.
            Err(RoomError::NoUser) => {
                key = users::current_key(db, user_key).await?.ok_or(RoomError::NoUser)?;
            }
            changed => return changed,
        }
    }
    Err(RoomError::NoUser)
}

/// In a transaction on SQLite.
async fn change_sqlite(
    db: &mut DbConnection,
    room: RoomId,
    actor: UserId,
    actor_role: Option<Role>,
    change: &RoomChange,
    user_key: Option<&str>,
    found: &Found,
) -> Result<RoomChanged, RoomError> {
    let now = db.now().await?;
    let sql = "SELECT username FROM users WHERE id = $1";
    let (actor_name,) = db.optional::<(String,)>(sql, &[Arg::Int(actor.0)]).await?.ok_or(RoomError::NotMember)?;
    let mut subject = None;
    let mut of_subject = (None, None);
    if let Some(key) = user_key {
        let sql = "SELECT u.id, u.username, m.role, m.silenced_until
            FROM users u LEFT JOIN members m ON m.room_id = $1 AND m.user_id = u.id WHERE u.username_key = $2";
        let found = db.optional(sql, &[Arg::Int(room.0), Arg::Text(key)]).await?;
        let (id, username, role, silenced_until): (i64, String, Option<i64>, Option<i64>) =
            found.ok_or(RoomError::NoUser)?;
        let role = role.map(Role::from_number);
        may_concern(change, actor_role, role)?;
        subject = Some(User { id: UserId(id), username: username.into() });
        of_subject = (role, silenced_until);
    }
    let mut work = Work {
        db,
        room,
        actor: User { id: actor, username: actor_name.into() },
        now,
        changed: RoomChanged { room, subject: subject.clone(), publications: Vec::new(), deleted: 0, more: false },
    };
    match (change, subject) {
        (RoomChange::Role { role, .. }, Some(user)) => work.set_role(&user, of_subject.0, *role).await?,
        (RoomChange::Ban { until, reason, delete_since, .. }, Some(user)) => {
            work.ban(&user, of_subject.0.is_some(), *until, reason.as_deref()).await?;
            if let Some(since) = delete_since {
                work.delete_messages(&user, *since, found).await?;
            }
        }
        (RoomChange::Unban { .. }, Some(user)) => work.unban(&user).await?,
        (RoomChange::Silence { until, reason, .. }, Some(user)) => {
            work.silence(&user, of_subject.1, *until, reason.as_deref()).await?;
        }
        (RoomChange::Unsilence { .. }, Some(user)) => work.unsilence(&user, of_subject.1).await?,
        (RoomChange::Settings(settings), _) => work.change_settings(settings).await?,
        (RoomChange::Pin(offset), _) => work.pin(*offset).await?,
        (RoomChange::Unpin(offset), _) => work.unpin(*offset).await?,
        (_, None) => return Err(RoomError::NoUser),
    }
    Ok(work.changed)
}

/// A change in its transaction.
struct Work<'d> {
    db: &'d mut DbConnection,
    room: RoomId,
    actor: User,
    now: i64,
    changed: RoomChanged,
}

impl Work<'_> {
    /// Appends the publication, and adds the entry of the audit log.
    async fn tell(&mut self, told: Told, subject: Option<UserId>) -> Result<(), StoreError> {
        let publication = tell_of(self.db, self.room, &self.actor, &told, subject, self.now).await?;
        self.changed.publications.push(publication);
        Ok(())
    }

    async fn set_role(&mut self, user: &User, from: Option<Role>, to: Role) -> Result<(), RoomError> {
        if from == Some(to) {
            return Ok(());
        }
        let (room, id) = (Arg::Int(self.room.0), Arg::Int(user.id.0));
        if from == Some(Role::Owner) {
            let sql = "SELECT 1 FROM members WHERE room_id = $1 AND role = 2 AND user_id <> $2 LIMIT 1";
            self.db.optional::<(i64,)>(sql, &[room, id]).await?.ok_or(RoomError::LastOwner)?;
        }
        let sql = "UPDATE members SET role = $3 WHERE room_id = $1 AND user_id = $2";
        self.db.execute(sql, &[room, id, Arg::Int(to as i64)]).await?;
        Ok(self.tell(Told::role(user, to), Some(user.id)).await?)
    }

    async fn ban(
        &mut self,
        user: &User,
        is_member: bool,
        until: Option<UnixMillis>,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let (room, id) = (Arg::Int(self.room.0), Arg::Int(user.id.0));
        let sql =
            "SELECT until, reason FROM bans WHERE room_id = $1 AND user_id = $2 AND (until IS NULL OR until > $3)";
        let old = self.db.optional::<(Option<i64>, Option<String>)>(sql, &[room, id, Arg::Int(self.now)]).await?;
        let until_arg = until.map(|until| i64::try_from(until).unwrap_or(i64::MAX));
        if !is_member && old.is_some_and(|(old, old_reason)| old == until_arg && old_reason.as_deref() == reason) {
            return Ok(());
        }
        let sql = "INSERT INTO bans (room_id, user_id, until, reason, banned_by, at) VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (room_id, user_id) DO UPDATE SET
              until = excluded.until, reason = excluded.reason, banned_by = excluded.banned_by, at = excluded.at";
        let by = Arg::Int(self.actor.id.0);
        let args = [room, id, Arg::MaybeInt(until_arg), Arg::Maybe(reason), by, Arg::Int(self.now)];
        self.db.execute(sql, &args).await?;
        if is_member {
            let removal = rooms::end_membership(self.db, self.room, self.actor.clone(), user).await?;
            self.changed.publications.push(removal.publication);
        }
        Ok(self.tell(Told::banned(user, until, reason), Some(user.id)).await?)
    }

    async fn unban(&mut self, user: &User) -> Result<(), RoomError> {
        let sql = "DELETE FROM bans WHERE room_id = $1 AND user_id = $2 RETURNING until";
        let old = self.db.optional::<(Option<i64>,)>(sql, &[Arg::Int(self.room.0), Arg::Int(user.id.0)]).await?;
        if old.is_some_and(|(until,)| until.is_none_or(|until| until > self.now)) {
            self.tell(Told::unbanned(user), Some(user.id)).await?;
        }
        Ok(())
    }

    async fn silence(
        &mut self,
        user: &User,
        from: Option<i64>,
        until: UnixMillis,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let until_arg = i64::try_from(until).unwrap_or(i64::MAX);
        if from == Some(until_arg) {
            return Ok(());
        }
        let (room, id, until_arg) = (Arg::Int(self.room.0), Arg::Int(user.id.0), Arg::Int(until_arg));
        let sql = "INSERT INTO silences (room_id, user_id, until, reason, silenced_by, at)
            VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (room_id, user_id) DO UPDATE SET
              until = excluded.until, reason = excluded.reason, silenced_by = excluded.silenced_by, at = excluded.at";
        let args = [room, id, until_arg, Arg::Maybe(reason), Arg::Int(self.actor.id.0), Arg::Int(self.now)];
        self.db.execute(sql, &args).await?;
        let sql = "UPDATE members SET silenced_until = $3 WHERE room_id = $1 AND user_id = $2";
        self.db.execute(sql, &[room, id, until_arg]).await?;
        Ok(self.tell(Told::silenced(user, until, reason), Some(user.id)).await?)
    }

    async fn unsilence(&mut self, user: &User, from: Option<i64>) -> Result<(), RoomError> {
        let (room, id) = (Arg::Int(self.room.0), Arg::Int(user.id.0));
        self.db.execute("DELETE FROM silences WHERE room_id = $1 AND user_id = $2", &[room, id]).await?;
        let Some(until) = from else { return Ok(()) };
        let sql = "UPDATE members SET silenced_until = NULL WHERE room_id = $1 AND user_id = $2";
        self.db.execute(sql, &[room, id]).await?;
        if until > self.now {
            self.tell(Told::unsilenced(user), Some(user.id)).await?;
        }
        Ok(())
    }

    async fn change_settings(&mut self, change: &SettingsChange) -> Result<(), RoomError> {
        let room = Arg::Int(self.room.0);
        let sql = "SELECT r.title, r.kind, r.size, r.members, r.topic, h.slow_mode_seconds, h.who_may_post,
            r.who_may_invite FROM rooms r JOIN heads h ON h.room_id = r.id WHERE r.id = $1";
        type Row = (String, i64, i64, i64, String, i64, i64, i64);
        let row = self.db.optional::<Row>(sql, &[room]).await?.ok_or(RoomError::NoRoom)?;
        let (title, kind, size, members, topic, slow_mode, post, invite) = row;
        if change.size.is_some_and(|size| i64::from(size) < members) {
            return Err(RoomError::TooSmall);
        }
        let settings = RoomSettings::from_row(topic, slow_mode, post, invite);
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let now = SettingsNow { title, private: RoomKind::from_number(kind) != RoomKind::Public, size, settings };
        let Some(told) = Told::settings(change, &now) else { return Ok(()) };
        let title_key = change.title.as_deref().map(text::fold);
        let kind = change.private.map(|private| if private { RoomKind::Private } else { RoomKind::Public } as i64);
        let sql = "UPDATE rooms SET title = coalesce($2, title), title_key = coalesce($3, title_key),
            topic = coalesce($4, topic), kind = coalesce($5, kind), size = coalesce($6, size),
            who_may_invite = coalesce($7, who_may_invite) WHERE id = $1";
        let args = [
            room,
            Arg::Maybe(change.title.as_deref()),
            Arg::Maybe(title_key.as_deref()),
            Arg::Maybe(change.topic.as_deref()),
            Arg::MaybeInt(kind),
            Arg::MaybeInt(change.size.map(i64::from)),
            Arg::MaybeInt(change.who_may_invite.map(|who| who as i64)),
        ];
        self.db.execute(sql, &args).await?;
        let sql = "UPDATE heads SET slow_mode_seconds = coalesce($2, slow_mode_seconds),
            who_may_post = coalesce($3, who_may_post) WHERE room_id = $1";
        let slow_mode = change.slow_mode_seconds.map(i64::from);
        let args = [room, Arg::MaybeInt(slow_mode), Arg::MaybeInt(change.who_may_post.map(|who| who as i64))];
        self.db.execute(sql, &args).await?;
        Ok(self.tell(told, None).await?)
    }

    async fn pin(&mut self, offset: Offset) -> Result<(), RoomError> {
        let args = [Arg::Int(self.room.0), Arg::Int(offset_arg(offset))];
        let sql = "SELECT 1 FROM messages WHERE room_id = $1 AND room_offset = $2 AND kind = 0 AND gone_offset IS NULL";
        self.db.optional::<(i64,)>(sql, &args).await?.ok_or(RoomError::NoMessage)?;
        let sql = "SELECT count(*), coalesce(max(room_offset = $2), 0) FROM pins WHERE room_id = $1";
        let (pins, is_pinned) = self.db.optional::<(i64, i64)>(sql, &args).await?.unwrap_or_default();
        if is_pinned != 0 {
            return Ok(());
        }
        if pins >= PINS_LIMIT as i64 {
            return Err(RoomError::TooManyPins);
        }
        let sql = "INSERT INTO pins (room_id, room_offset, pinned_by, at) VALUES ($1, $2, $3, $4)";
        let [room, at] = args;
        self.db.execute(sql, &[room, at, Arg::Int(self.actor.id.0), Arg::Int(self.now)]).await?;
        Ok(self.tell(Told::pinned(offset), None).await?)
    }

    async fn unpin(&mut self, offset: Offset) -> Result<(), RoomError> {
        let args = [Arg::Int(self.room.0), Arg::Int(offset_arg(offset))];
        if self.db.execute("DELETE FROM pins WHERE room_id = $1 AND room_offset = $2", &args).await? > 0 {
            self.tell(Told::unpinned(offset), None).await?;
        }
        Ok(())
    }

    /// Deletes messages of a user who is banned.
    async fn delete_messages(&mut self, user: &User, since: UnixMillis, found: &Found) -> Result<(), RoomError> {
        let (room, id) = (Arg::Int(self.room.0), Arg::Int(user.id.0));
        let sql =
            "SELECT m.room_offset FROM json_each($3) f JOIN messages m ON m.room_id = $1 AND m.room_offset = f.value
            WHERE m.user_id = $2 AND m.kind = 0 AND m.gone_offset IS NULL ORDER BY m.room_offset DESC";
        let gone = self.db.all::<(i64,)>(sql, &[room, id, Arg::Ints(&found.offsets)]).await?;
        let items: Vec<_> =
            gone.into_iter().map(|(at,)| deletion(self.room, self.actor.id, at.unsigned_abs())).collect();
        let outcomes = sqlite::append_in_transaction(self.db, &items).await?;
        self.changed.deleted = take_deletions(&mut self.changed.publications, &self.actor, items, outcomes);
        if self.changed.deleted > 0 {
            let detail = format!("{{\"deleted\":{}}}", self.changed.deleted);
            record(self.db, self.room, self.actor.id, "deleted", Some(user.id), &detail, self.now).await?;
        }
        let sql = "SELECT 1 FROM messages WHERE room_id = $1 AND room_offset > $3 AND user_id = $2 AND kind = 0
            AND gone_offset IS NULL AND created_at >= $4 LIMIT 1";
        let since = Arg::Int(i64::try_from(since).unwrap_or(i64::MAX));
        let later = self.db.optional::<(i64,)>(sql, &[room, id, Arg::Int(found.read_to), since]).await?;
        self.changed.more = found.more || later.is_some();
        Ok(())
    }
}

/// The deletion of a message by a moderator who bans its author.
pub(crate) fn deletion(room: RoomId, actor: UserId, target: Offset) -> Item {
    // Unique: the message is deleted once.
    let id = format!("~delete-{target}").into();
    Item { room, user: actor, id, kind: Kind::Delete, target: Some(target), body: None, meta: None }
}

/// Adds the publications of deletions that were appended. Returns how many there are.
pub(crate) fn take_deletions(
    publications: &mut Vec<Publication>,
    actor: &User,
    items: Vec<Item>,
    outcomes: Vec<Outcome>,
) -> u64 {
    let before = publications.len();
    publications.extend(items.into_iter().zip(outcomes).filter_map(|(item, outcome)| match outcome {
        Outcome::New(stored) => Some(Publication {
            offset: stored.offset,
            number: stored.number,
            kind: Kind::Delete,
            user: actor.clone(),
            id: item.id,
            time: stored.time,
            target: item.target,
            body: None,
            edited: None,
            deleted: None,
            meta: None,
        }),
        _ => None,
    }));
    (publications.len() - before) as u64
}

/// Appends a `Moderated` publication, in a transaction on SQLite.
async fn publish(
    db: &mut DbConnection,
    room: RoomId,
    actor: &User,
    told: &Told,
    now: i64,
) -> Result<Publication, StoreError> {
    rooms::append_change(db, room, Kind::Moderated, told.word, actor.clone(), told.body.clone(), now).await
}

/// Appends the publication of a change, and adds the entry of the audit log, in a transaction on SQLite. `subject`: the
/// user whom it concerns.
async fn tell_of(
    db: &mut DbConnection,
    room: RoomId,
    actor: &User,
    told: &Told,
    subject: Option<UserId>,
    now: i64,
) -> Result<Publication, StoreError> {
    let publication = publish(db, room, actor, told, now).await?;
    record(db, room, actor.id, told.word, subject, &told.body, now).await?;
    Ok(publication)
}

/// The same for a change that concerns no user.
pub(crate) async fn tell(
    db: &mut DbConnection,
    room: RoomId,
    actor: &User,
    told: &Told,
    now: i64,
) -> Result<Publication, StoreError> {
    tell_of(db, room, actor, told, None, now).await
}

/// Adds an entry to the audit log, in a transaction on SQLite.
pub(crate) async fn record(
    db: &mut DbConnection,
    room: RoomId,
    actor: UserId,
    action: &str,
    subject: Option<UserId>,
    detail: &str,
    now: i64,
) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO room_audit (room_id, at, actor_id, action, target_id, detail) VALUES ($1, $2, $3, $4, $5, $6)";
    let args = [
        Arg::Int(room.0),
        Arg::Int(now),
        Arg::Int(actor.0),
        Arg::Text(action),
        Arg::MaybeInt(subject.map(|user| user.0)),
        Arg::Text(detail),
    ];
    db.execute(sql, &args).await?;
    Ok(())
}

/// Whether the user is banned from the room now. On SQLite.
pub(crate) async fn is_banned(db: &mut DbConnection, room: RoomId, user: UserId, now: i64) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM bans WHERE room_id = $1 AND user_id = $2 AND (until IS NULL OR until > $3)";
    let args = [Arg::Int(room.0), Arg::Int(user.0), Arg::Int(now)];
    Ok(db.optional::<(i64,)>(sql, &args).await?.is_some())
}

/// The offsets of the pinned messages, the latest pin first.
pub(crate) async fn pins(db: &mut DbConnection, room: RoomId) -> Result<Vec<Offset>, StoreError> {
    let sql = "SELECT room_offset FROM pins WHERE room_id = $1 ORDER BY at DESC, room_offset DESC LIMIT $2";
    let rows = db.all::<(i64,)>(sql, &[Arg::Int(room.0), Arg::Int(PINS_LIMIT as i64)]).await?;
    Ok(rows.into_iter().map(|(offset,)| offset.unsigned_abs()).collect())
}

/// The bans that hold, by user id, for an owner or a moderator.
pub(crate) async fn bans(
    db: &mut DbConnection,
    name: &str,
    actor: UserId,
    after: Option<UserId>,
    limit: usize,
) -> Result<BanPage, RoomError> {
    let (room, _, role) = look_up(db, name, actor).await?;
    if role.is_none_or(|role| role < Role::Moderator) {
        return Err(RoomError::NotAllowed(CANNOT_SEE_BANS));
    }
    let now = db.now().await?;
    let sql = "SELECT b.user_id, u.username, b.until, b.reason, b.banned_by, a.username, b.at
        FROM bans b LEFT JOIN users u ON u.id = b.user_id LEFT JOIN users a ON a.id = b.banned_by
        WHERE b.room_id = $1 AND b.user_id > $2 AND (b.until IS NULL OR b.until > $3) ORDER BY b.user_id LIMIT $4";
    let limit = rows_limit(limit);
    let after = after.map_or(0, |user| user.0);
    let args = [Arg::Int(room.0), Arg::Int(after), Arg::Int(now), Arg::Int(limit as i64 + 1)];
    type Row = (i64, Option<String>, Option<i64>, Option<String>, i64, Option<String>, i64);
    let rows = db.all::<Row>(sql, &args).await?;
    let more = rows.len() > limit;
    let ban = |(user, username, until, reason, by, by_name, at): Row| Ban {
        user: User { id: UserId(user), username: username.unwrap_or_default().into() },
        until: until.map(i64::unsigned_abs),
        reason,
        by: User { id: UserId(by), username: by_name.unwrap_or_default().into() },
        at: at.unsigned_abs(),
    };
    Ok(BanPage { bans: rows.into_iter().take(limit).map(ban).collect(), more })
}

/// The audit log of a room, newest first, for an owner or a moderator.
pub(crate) async fn audit(
    db: &mut DbConnection,
    name: &str,
    actor: UserId,
    before: Option<i64>,
    limit: usize,
) -> Result<RoomAuditPage, RoomError> {
    let (room, _, role) = look_up(db, name, actor).await?;
    if role.is_none_or(|role| role < Role::Moderator) {
        return Err(RoomError::NotAllowed(CANNOT_SEE_AUDIT));
    }
    let sql = "SELECT e.id, e.at, e.actor_id, a.username, e.action, e.target_id, t.username, e.detail
        FROM room_audit e LEFT JOIN users a ON a.id = e.actor_id LEFT JOIN users t ON t.id = e.target_id
        WHERE e.room_id = $1 AND e.id < $2 ORDER BY e.id DESC LIMIT $3";
    let limit = rows_limit(limit);
    let args = [Arg::Int(room.0), Arg::Int(before.unwrap_or(i64::MAX)), Arg::Int(limit as i64 + 1)];
    type Row = (i64, i64, i64, Option<String>, String, Option<i64>, Option<String>, String);
    let rows = db.all::<Row>(sql, &args).await?;
    let more = rows.len() > limit;
    let entry = |(id, at, actor, actor_name, action, target, target_name, detail): Row| RoomAuditEntry {
        id,
        at: at.unsigned_abs(),
        actor: User { id: UserId(actor), username: actor_name.unwrap_or_default().into() },
        action,
        target: target.map(|id| User { id: UserId(id), username: target_name.unwrap_or_default().into() }),
        detail,
    };
    Ok(RoomAuditPage { entries: rows.into_iter().take(limit).map(entry).collect(), more })
}

/// Deletes a limited number of old entries of the audit log. `false`: none were left.
pub(crate) async fn sweep_audit(db: &mut DbConnection) -> Result<bool, StoreError> {
    let sql = "DELETE FROM room_audit WHERE at < $1 AND id IN (SELECT id FROM room_audit ORDER BY id LIMIT 1000)";
    let oldest = db.now().await? - AUDIT_KEPT_MS;
    Ok(db.execute(sql, &[Arg::Int(oldest)]).await? > 0)
}

/// A change that PostgreSQL's function has made, as a publication.
pub(crate) fn moderated(change: Change, target: Option<Offset>) -> Publication {
    Publication { target, ..Publication::from(change) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_as_a_compact_object() {
        let ben = User { id: UserId(4), username: "Ben \"B\"".into() };
        let body = |told: Told| told.body;
        assert_eq!(body(Told::role(&ben, Role::Owner)), r#"{"role":"4","username":"Ben \"B\"","is":"owner"}"#);
        assert_eq!(body(Told::banned(&ben, None, None)), r#"{"banned":"4","username":"Ben \"B\""}"#);
        let banned = r#"{"banned":"4","username":"Ben \"B\"","until":9,"reason":"spam"}"#;
        assert_eq!(body(Told::banned(&ben, Some(9), Some("spam"))), banned);
        assert_eq!(body(Told::pinned(7)), r#"{"pinned":7}"#);
        let settings = RoomSettings::default();
        let now = SettingsNow { title: "T".to_owned(), private: false, size: 5, settings };
        let change = SettingsChange {
            title: Some("T".to_owned()),
            private: Some(true),
            who_may_post: Some(WhoMay::Moderators),
            ..SettingsChange::default()
        };
        let told = Told::settings(&change, &now).map(body);
        assert_eq!(told.as_deref(), Some(r#"{"room":{"private":true,"who_may_post":"moderators"}}"#));
        assert_eq!(Told::settings(&SettingsChange::default(), &now), None);
    }
}
