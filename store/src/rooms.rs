//! Rooms and their members.

use crate::check::rows_limit;
use crate::connection::{Arg, DbConnection};
use crate::error::{RoomError, StoreError};
use crate::generation::{DatabaseGeneration, random_word};
use crate::markers::{NewerMarkers, unread_sql};
use crate::objects::{
    Account, Addition, Enrolment, Join, MemberEntry, MemberPage, NewRoom, Removal, Room, RoomKind, RoomSettings,
};
use crate::postgres::rooms as postgres;
use crate::rights::{self, BANNED_STAYS_OUT, Told};
use crate::{direct, names, search, users};
use std::collections::HashMap;
use uproar_model::{
    Head, JoinError, Kind, Marker, Offset, Publication, Role, RoomId, UnixMillis, User, UserId, member_body, skeleton,
    text,
};

/// The names that are reserved for one owner: those of the latest rooms. So nobody can take as many names as they like
/// by creating and deleting rooms.
pub(crate) const RESERVED_NAMES_LIMIT: usize = 100;

pub(crate) const CANNOT_ADD: &str = "only the owner and moderators can add members";
pub(crate) const CANNOT_REMOVE: &str = "only the owner and moderators can remove members";
pub(crate) const CANNOT_DELETE: &str = "only the owner can delete the room";
pub(crate) const CANNOT_LEAVE: &str = "the last owner can't leave; make somebody else an owner, or delete the room";
pub(crate) const OWNER_STAYS: &str = "an owner can't be removed";
pub(crate) const MODERATOR_STAYS: &str = "only the owner can remove moderators";

/// id, name, title, kind, size, members, epoch, last offset, the viewer's role, how much the viewer has not read,
/// topic, seconds of slow mode, who may post, who may invite.
type RoomRow = (i64, String, String, i64, i64, i64, String, i64, Option<i64>, i64, String, i64, i64, i64);

fn room_from(generation: DatabaseGeneration, row: RoomRow) -> Room {
    let (id, name, title, kind, size, members, epoch, last_offset, role, unread, topic, slow_mode, post, invite) = row;
    Room {
        id: RoomId(id),
        name,
        title,
        kind: RoomKind::from_number(kind),
        size: u32::try_from(size).unwrap_or(u32::MAX),
        members: u32::try_from(members).unwrap_or(u32::MAX),
        epoch: generation.epoch(&epoch),
        offset: last_offset.unsigned_abs(),
        unread: role.map(|_| unread.unsigned_abs()),
        role: role.map(Role::from_number),
        settings: RoomSettings::from_row(topic, slow_mode, post, invite),
        pins: Vec::new(),
        people: Vec::new(),
    }
}

/// Adds who is in the direct rooms among these, and gives them titles.
async fn add_people(db: &mut DbConnection, rooms: &mut [Room], viewer: UserId) -> Result<(), StoreError> {
    let direct: Vec<_> = rooms.iter().filter(|room| room.kind == RoomKind::Direct).map(|room| room.id).collect();
    // They never change, so it does not matter that this is another snapshot.
    let mut people = direct::people_of(db, &direct).await?;
    for room in rooms.iter_mut().filter(|room| room.kind == RoomKind::Direct) {
        room.people = people.remove(&room.id).unwrap_or_default();
        room.title = direct::title(&room.people, viewer);
    }
    Ok(())
}

/// Creates a room with its owner as the only member.
pub(crate) async fn create(db: &mut DbConnection, room: &NewRoom, owned_limit: Option<u64>) -> Result<Room, RoomError> {
    if let Some(limit) = owned_limit {
        let sql =
            "SELECT count(*) FROM (SELECT 1 FROM rooms WHERE created_by = $1 AND name IS NOT NULL LIMIT $2) owned";
        let args = [Arg::Int(room.owner.0), Arg::Int(i64::try_from(limit).unwrap_or(i64::MAX))];
        let owned = db.optional::<(i64,)>(sql, &args).await?.map_or(0, |(owned,)| owned.unsigned_abs());
        if owned >= limit {
            return Err(RoomError::TooManyOwned(limit));
        }
    }
    let now = db.now().await?;
    let sql = "SELECT owner_id, until FROM reserved_names WHERE name = $1";
    let reserved = db.optional::<(i64, i64)>(sql, &[Arg::Text(&room.name)]).await?;
    if reserved.is_some_and(|(owner, until)| owner != room.owner.0 && until > now) {
        return Err(RoomError::NameTaken);
    }
    if names::is_room_lookalike(db, &room.name, room.owner, now).await? {
        return Err(RoomError::NameTaken);
    }
    let epoch = random_word()?;
    // The column of the size has 31 bits.
    let size = i64::from(room.size.clamp(1, i32::MAX.unsigned_abs()));
    let sql = "INSERT INTO rooms (name, kind, title, title_key, size, members, epoch, created_by, created_at, skeleton)
        VALUES ($1, CAST($2 AS smallint), $3, $4, CAST($5 AS integer), 1, $6, $7, $8, $9) ON CONFLICT DO NOTHING
        RETURNING id";
    let args = [
        Arg::Text(&room.name),
        Arg::Int(room.kind as i64),
        Arg::Text(&room.title),
        Arg::Text(&text::fold(&room.title)),
        Arg::Int(size),
        Arg::Text(&epoch),
        Arg::Int(room.owner.0),
        Arg::Int(now),
        Arg::Text(&skeleton(&room.name)),
    ];
    let Some((id,)) = db.optional::<(i64,)>(sql, &args).await? else {
        return Err(RoomError::NameTaken);
    };
    if reserved.is_some() {
        db.execute("DELETE FROM reserved_names WHERE name = $1", &[Arg::Text(&room.name)]).await?;
    }
    db.execute("INSERT INTO heads (room_id) VALUES ($1)", &[Arg::Int(id)]).await?;
    if !insert_member(db, RoomId(id), room.owner, Role::Owner, now).await? {
        return Err(RoomError::NoUser);
    }
    Ok(Room {
        id: RoomId(id),
        name: room.name.clone(),
        title: room.title.clone(),
        kind: room.kind,
        size: u32::try_from(size).unwrap_or(u32::MAX),
        members: 1,
        epoch: db.generation().epoch(&epoch),
        offset: 0,
        unread: Some(0),
        role: Some(Role::Owner),
        settings: RoomSettings::default(),
        pins: Vec::new(),
        people: Vec::new(),
    })
}

/// The read marker starts at the head: nothing from before the join is unread. Who was silenced still is. `false`:
/// there is no such user.
async fn insert_member(
    db: &mut DbConnection,
    room: RoomId,
    user: UserId,
    role: Role,
    now: i64,
) -> Result<bool, sqlx::Error> {
    let sql = "INSERT INTO members (room_id, user_id, role, joined_at, read_offset, read_number, silenced_until)
        SELECT h.room_id, u.id, CAST($3 AS smallint), $4, h.last_offset, h.last_number,
          (SELECT s.until FROM silences s WHERE s.room_id = h.room_id AND s.user_id = u.id AND s.until > $4)
        FROM heads h, users u WHERE h.room_id = $1 AND u.id = $2";
    let args = [Arg::Int(room.0), Arg::Int(user.0), Arg::Int(role as i64), Arg::Int(now)];
    Ok(db.execute(sql, &args).await? == 1)
}

/// Rooms as the viewer $1 sees them. The markers that are not written yet follow the argument $2.
macro_rules! sqlite_rooms {
    ($from:literal) => {
        rooms_sql!(
            "max(m.read_offset, coalesce((SELECT w.value ->> 1 FROM json_each($3) w WHERE w.value ->> 0 = r.id), 0))",
            $from
        )
    };
}
macro_rules! postgres_rooms {
    ($from:literal) => {
        rooms_sql!(
            "greatest(m.read_offset, (SELECT w.read_offset
                FROM unnest($3, $4, $5) AS w(room_id, read_offset, read_number) WHERE w.room_id = r.id))",
            $from
        )
    };
}
macro_rules! rooms_sql {
    ($read_offset:literal, $from:literal) => {
        concat!(
            "SELECT r.id, r.name, r.title, CAST(r.kind AS bigint), CAST(r.size AS bigint), CAST(r.members AS bigint),
                r.epoch, h.last_offset, CAST(m.role AS bigint), ",
            unread_sql!($read_offset, "$1"),
            ", r.topic, CAST(h.slow_mode_seconds AS bigint), CAST(h.who_may_post AS bigint),
                CAST(r.who_may_invite AS bigint) FROM ",
            $from,
            " JOIN heads h ON h.room_id = r.id LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $1
            WHERE r.kind = 0 OR m.user_id IS NOT NULL ORDER BY r.name"
        )
    };
}

/// A room as this viewer sees it, with its pins for a member. A marker in `newer` counts if it is ahead of the stored
/// one.
pub(crate) async fn find(
    db: &mut DbConnection,
    name: &str,
    viewer: UserId,
    newer: &HashMap<RoomId, Marker>,
) -> Result<Option<Room>, StoreError> {
    let sql = if db.is_postgres() {
        postgres_rooms!("(SELECT * FROM rooms WHERE name = $2) r")
    } else {
        sqlite_rooms!("(SELECT * FROM rooms WHERE name = $2) r")
    };
    let newer = NewerMarkers::new(db, newer);
    let args = newer.after(&[Arg::Int(viewer.0), Arg::Text(name)]);
    let Some(row) = db.optional(sql, &args).await? else { return Ok(None) };
    let mut room = room_from(db.generation(), row);
    if room.role.is_some() {
        room.pins = rights::pins(db, room.id).await?;
    }
    add_people(db, std::slice::from_mut(&mut room), viewer).await?;
    Ok(Some(room))
}

/// The rooms that this viewer can see and that match the query, by name.
pub(crate) async fn list(
    db: &mut DbConnection,
    viewer: UserId,
    query: &str,
    after: Option<&str>,
    limit: usize,
    newer: &HashMap<RoomId, Marker>,
) -> Result<Vec<Room>, StoreError> {
    let sql = if db.is_postgres() {
        postgres_rooms!("unnest($2) AS found (id) JOIN rooms r ON r.id = found.id")
    } else {
        sqlite_rooms!("(SELECT value AS id FROM json_each($2)) found JOIN rooms r ON r.id = found.id")
    };
    let part = text::fold(query);
    let found = search::rooms(db, viewer, &part, after.unwrap_or(""), rows_limit(limit) as i64).await?;
    let newer = NewerMarkers::new(db, newer);
    let args = newer.after(&[Arg::Int(viewer.0), Arg::Ints(&found)]);
    let rows = db.all(sql, &args).await?;
    let mut rooms: Vec<_> = rows.into_iter().map(|row| room_from(db.generation(), row)).collect();
    add_people(db, &mut rooms, viewer).await?;
    Ok(rooms)
}

/// The membership of a user after a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub role: Role,
    pub joined_at: UnixMillis,
    /// The room's last offset when the join was made. The user is a member at this offset: no removal can come between.
    pub offset: Offset,
    /// Whether this call made the user a member.
    pub is_new: bool,
    /// The publication of the join, at `offset`.
    pub publication: Option<Publication>,
}

/// Makes users members of public rooms: one answer for each pair, in the order of `joins`, which are sorted by room.
pub(crate) async fn join_all(
    db: &mut DbConnection,
    joins: &[(RoomId, UserId)],
    shown_limit: u64,
) -> Result<Vec<Result<Membership, JoinError>>, StoreError> {
    let mut answers = Vec::with_capacity(joins.len());
    if db.is_postgres() {
        for answer in postgres::join_all(db, joins, None, shown_limit).await? {
            answers.push(match answer {
                Ok(membership) => Ok(membership),
                Err(RoomError::NoUser) => Err(JoinError::NoUser),
                Err(RoomError::Full) => Err(JoinError::Full),
                Err(RoomError::Banned) => Err(JoinError::Banned),
                Err(RoomError::Store(error)) => return Err(error),
                Err(_) => Err(JoinError::NoRoom),
            });
        }
    } else {
        for (room, user) in joins {
            answers.push(join_sqlite(db, *room, *user, *user, shown_limit).await?);
        }
    }
    Ok(answers)
}

/// Makes a user a member. `adder`: the member who adds them; `None`: they join by themselves.
async fn join(
    db: &mut DbConnection,
    room: RoomId,
    user: UserId,
    adder: Option<UserId>,
    shown_limit: u64,
) -> Result<Membership, RoomError> {
    if db.is_postgres() {
        let joined = postgres::join_all(db, &[(room, user)], adder, shown_limit).await?;
        joined.into_iter().next().unwrap_or(Err(RoomError::NoRoom))
    } else {
        Ok(join_sqlite(db, room, user, adder.unwrap_or(user), shown_limit).await??)
    }
}

/// Makes a user a member unless the room is full, and appends the publication of it if the room is small: inside a
/// transaction, in which the caller has checked that the user may join. `actor`: the user, or the member who adds them.
pub(crate) async fn join_sqlite(
    db: &mut DbConnection,
    room: RoomId,
    user: UserId,
    actor: UserId,
    shown_limit: u64,
) -> Result<Result<Membership, JoinError>, StoreError> {
    let sql = "SELECT r.members, r.size, m.role, m.joined_at, h.last_offset, u.username, a.username
        FROM rooms r JOIN heads h ON h.room_id = r.id
        LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $2
        LEFT JOIN users u ON u.id = $2 LEFT JOIN users a ON a.id = $3 WHERE r.id = $1";
    let args = [Arg::Int(room.0), Arg::Int(user.0), Arg::Int(actor.0)];
    type Facts = (i64, i64, Option<i64>, Option<i64>, i64, Option<String>, Option<String>);
    let Some(facts) = db.optional::<Facts>(sql, &args).await? else { return Ok(Err(JoinError::NoRoom)) };
    let (members, size, role, joined_at, offset, username, actor_name) = facts;
    let offset = offset.unsigned_abs();
    if let (Some(role), Some(joined_at)) = (role, joined_at) {
        let (role, joined_at) = (Role::from_number(role), joined_at.unsigned_abs());
        return Ok(Ok(Membership { role, joined_at, offset, is_new: false, publication: None }));
    }
    let now = db.now().await?;
    if rights::is_banned(db, room, user, now).await? {
        return Ok(Err(JoinError::Banned));
    }
    if members >= size {
        return Ok(Err(JoinError::Full));
    }
    let (Some(username), Some(actor_name)) = (username, actor_name) else { return Ok(Err(JoinError::NoUser)) };
    if !insert_member(db, room, user, Role::Member, now).await? {
        return Ok(Err(JoinError::NoUser));
    }
    db.execute("UPDATE rooms SET members = members + 1 WHERE id = $1", &[Arg::Int(room.0)]).await?;
    let publication = if members.unsigned_abs() < shown_limit {
        let member = User { id: user, username: username.into() };
        let actor = User { id: actor, username: actor_name.into() };
        Some(publish_change(db, room, Kind::Added, actor, &member, now).await?)
    } else {
        None
    };
    let offset = publication.as_ref().map_or(offset, |publication| publication.offset);
    Ok(Ok(Membership { role: Role::Member, joined_at: now.unsigned_abs(), offset, is_new: true, publication }))
}

/// A change of a room as it is stored in the log.
pub(crate) struct Change {
    pub offset: i64,
    pub number: i64,
    pub time: i64,
    pub kind: Kind,
    pub actor: User,
    pub id: String,
    pub body: Option<String>,
}

impl From<Change> for Publication {
    fn from(change: Change) -> Publication {
        let Change { offset, number, time, kind, actor, id, body } = change;
        Publication {
            offset: offset.unsigned_abs(),
            number: number.unsigned_abs(),
            kind,
            user: actor,
            id: id.into(),
            time: time.unsigned_abs(),
            target: None,
            body: body.map(Into::into),
            edited: None,
            deleted: None,
            meta: None,
        }
    }
}

/// Appends the publication of a change of membership, in the transaction on SQLite that makes the change.
async fn publish_change(
    db: &mut DbConnection,
    room: RoomId,
    kind: Kind,
    actor: User,
    member: &User,
    now: i64,
) -> Result<Publication, StoreError> {
    let word = if kind == Kind::Added { "added" } else { "removed" };
    append_change(db, room, kind, word, actor, member_body(member.id, &member.username), now).await
}

/// Appends a publication that the store itself writes, in a transaction on SQLite. `word`: its id begins with it.
pub(crate) async fn append_change(
    db: &mut DbConnection,
    room: RoomId,
    kind: Kind,
    word: &str,
    actor: User,
    body: String,
    now: i64,
) -> Result<Publication, StoreError> {
    let sql = "UPDATE heads SET last_offset = last_offset + 1 WHERE room_id = $1 RETURNING last_offset, last_number";
    let head = db.optional::<(i64, i64)>(sql, &[Arg::Int(room.0)]).await?;
    let (offset, number) = head.ok_or_else(|| StoreError::Failed("the head of a room is missing".to_owned()))?;
    // Unique, as the offset is; no sender's id begins with a tilde.
    let id = format!("~{word}-{offset}");
    let sql = "INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, body, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let args = [
        Arg::Int(room.0),
        Arg::Int(offset),
        Arg::Int(number),
        Arg::Int(kind as i64),
        Arg::Int(actor.id.0),
        Arg::Text(&id),
        Arg::Text(&body),
        Arg::Int(now),
    ];
    db.execute(sql, &args).await?;
    Ok(Change { offset, number, time: now, kind, actor, id, body: Some(body) }.into())
}

impl From<JoinError> for RoomError {
    fn from(error: JoinError) -> RoomError {
        match error {
            JoinError::NoRoom => RoomError::NoRoom,
            JoinError::Full => RoomError::Full,
            JoinError::Banned => RoomError::Banned,
            JoinError::NoUser => RoomError::NoUser,
            JoinError::TooOften { wait_ms } => RoomError::TooOften { wait_ms },
        }
    }
}

/// The room with this name and the actor's role in it. `NoRoom` also for a private or direct room that the actor is not
/// in.
pub(crate) async fn look_up(
    db: &mut DbConnection,
    name: &str,
    actor: UserId,
) -> Result<(RoomId, RoomKind, Option<Role>), RoomError> {
    let sql = "SELECT r.id, CAST(r.kind AS bigint), CAST(m.role AS bigint)
        FROM rooms r LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $2 WHERE r.name = $1";
    let args = [Arg::Text(name), Arg::Int(actor.0)];
    let (id, kind, role) = db.optional::<(i64, i64, Option<i64>)>(sql, &args).await?.ok_or(RoomError::NoRoom)?;
    let (kind, role) = (RoomKind::from_number(kind), role.map(Role::from_number));
    if kind != RoomKind::Public && role.is_none() {
        return Err(RoomError::NoRoom);
    }
    Ok((RoomId(id), kind, role))
}

/// Joins a public room. A private one can be "joined" only by its members, for whom nothing changes.
pub(crate) async fn join_by_name(
    db: &mut DbConnection,
    name: &str,
    user: UserId,
    newer: &HashMap<RoomId, Marker>,
    shown_limit: u64,
) -> Result<Join, RoomError> {
    let (room, _, _) = look_up(db, name, user).await?;
    let Membership { is_new, publication, .. } = join(db, room, user, None, shown_limit).await?;
    let room = find(db, name, user, newer).await?.ok_or(RoomError::NoRoom)?;
    Ok(Join { room, joined: is_new, publication })
}

/// The room and the account that the owner or a moderator wants to add to it. On PostgreSQL this only spares rooms the
/// locks of calls that would be refused: the change itself checks the role again.
async fn check_addition(
    db: &mut DbConnection,
    name: &str,
    actor: UserId,
    member_key: &str,
) -> Result<(RoomId, Account), RoomError> {
    let (room, kind, role) = look_up(db, name, actor).await?;
    if kind == RoomKind::Direct {
        return Err(RoomError::NotAllowed(direct::CANNOT_ADD));
    }
    if role.is_none_or(|role| role < Role::Moderator) {
        return Err(RoomError::NotAllowed(CANNOT_ADD));
    }
    Ok((room, users::by_username(db, member_key).await?.ok_or(RoomError::NoUser)?))
}

async fn find_member(
    db: &mut DbConnection,
    room: RoomId,
    account: &Account,
) -> Result<Option<MemberEntry>, StoreError> {
    let sql = "SELECT CAST(role AS bigint), joined_at, silenced_until FROM members WHERE room_id = $1 AND user_id = $2";
    let row = db.optional::<(i64, i64, Option<i64>)>(sql, &[Arg::Int(room.0), Arg::Int(account.id.0)]).await?;
    Ok(row.map(|(role, joined_at, silenced_until)| MemberEntry {
        user: User::from(account),
        role: Role::from_number(role),
        joined_at: joined_at.unsigned_abs(),
        silenced_until: silenced_until.map(i64::unsigned_abs),
    }))
}

/// The room, the user that its owner or a moderator wants to add to it, and the membership, if there is one already.
pub(crate) async fn find_addition(
    db: &mut DbConnection,
    name: &str,
    actor: UserId,
    member_key: &str,
) -> Result<(RoomId, UserId, Option<MemberEntry>), RoomError> {
    let (room, account) = check_addition(db, name, actor, member_key).await?;
    Ok((room, account.id, find_member(db, room, &account).await?))
}

/// Adds a user on behalf of the owner or a moderator.
pub(crate) async fn add_member(
    db: &mut DbConnection,
    name: &str,
    actor: UserId,
    member_key: &str,
    shown_limit: u64,
) -> Result<Addition, RoomError> {
    let (room, account) = check_addition(db, name, actor, member_key).await?;
    let joined = join(db, room, account.id, Some(actor), shown_limit).await;
    let Membership { role, joined_at, is_new, publication, .. } = joined.map_err(|error| match error {
        RoomError::Banned => RoomError::NotAllowed(BANNED_STAYS_OUT),
        error => error,
    })?;
    let member = MemberEntry { user: User::from(&account), role, joined_at, silenced_until: None };
    Ok(Addition { room, member, joined: is_new, publication })
}

/// The room with this name and its head, also for those who are not members.
pub(crate) async fn named(db: &mut DbConnection, name: &str) -> Result<Option<(RoomId, Head)>, StoreError> {
    let sql = "SELECT r.id, r.epoch, h.last_offset, h.last_number
        FROM rooms r JOIN heads h ON h.room_id = r.id WHERE r.name = $1";
    let found = db.optional::<(i64, String, i64, i64)>(sql, &[Arg::Text(name)]).await?;
    let generation = db.generation();
    Ok(found.map(|(id, epoch, offset, number)| {
        let epoch = generation.epoch(&epoch);
        (RoomId(id), Head { epoch, offset: offset.unsigned_abs(), number: number.unsigned_abs() })
    }))
}

/// Makes a user a member of a room of any kind. Nobody's rights are checked. `actor`: the user who is said to have done it.
pub(crate) async fn enroll(
    db: &mut DbConnection,
    name: &str,
    user: UserId,
    actor: UserId,
    shown_limit: u64,
) -> Result<Enrolment, RoomError> {
    let (room, _) = named(db, name).await?.ok_or(RoomError::NoRoom)?;
    if is_direct(db, room).await? {
        return Err(RoomError::NotAllowed(direct::CANNOT_ADD));
    }
    let Membership { is_new: joined, publication, .. } = if db.is_postgres() {
        postgres::enroll(db, room, user, actor, shown_limit).await?
    } else {
        join_sqlite(db, room, user, actor, shown_limit).await??
    };
    Ok(Enrolment { room, joined, publication })
}

/// Whether this is a direct room, which stays what it is.
async fn is_direct(db: &mut DbConnection, room: RoomId) -> Result<bool, StoreError> {
    let found = db.optional::<(i64,)>("SELECT id FROM rooms WHERE id = $1 AND kind = 2", &[Arg::Int(room.0)]).await?;
    Ok(found.is_some())
}

/// Whether the user with this key is the actor, and a member who may leave the room.
pub(crate) async fn is_leaving(
    db: &mut DbConnection,
    name: &str,
    actor: UserId,
    member_key: &str,
) -> Result<bool, StoreError> {
    let sql = "SELECT u.id FROM users u JOIN members m ON m.user_id = u.id JOIN rooms r ON r.id = m.room_id
        WHERE u.id = $1 AND r.name = $3 AND m.role < 2 AND (u.username_key = $2
            OR EXISTS (SELECT 1 FROM former_names f WHERE f.name_key = $2 AND f.user_id = u.id))";
    let args = [Arg::Int(actor.0), Arg::Text(member_key), Arg::Text(name)];
    Ok(db.optional::<(i64,)>(sql, &args).await?.is_some())
}

/// The members of a room, for a viewer who must be one of them.
pub(crate) async fn members(
    db: &mut DbConnection,
    name: &str,
    viewer: UserId,
    after: Option<UserId>,
    limit: usize,
) -> Result<MemberPage, RoomError> {
    let (room, _, role) = look_up(db, name, viewer).await?;
    let Some(role) = role else { return Err(RoomError::NotMember) };
    let mut page = member_page(db, room, after, limit).await?;
    if page.members.iter().any(|member| member.silenced_until.is_some()) {
        let now = db.now().await?.unsigned_abs();
        page.show_silences(viewer, role, now);
    }
    Ok(page)
}

/// The members of a room, for anybody.
pub(crate) async fn members_for_bot(
    db: &mut DbConnection,
    name: &str,
    after: Option<UserId>,
    limit: usize,
) -> Result<MemberPage, RoomError> {
    let (room, _) = named(db, name).await?.ok_or(RoomError::NoRoom)?;
    member_page(db, room, after, limit).await
}

async fn member_page(
    db: &mut DbConnection,
    room: RoomId,
    after: Option<UserId>,
    limit: usize,
) -> Result<MemberPage, RoomError> {
    let sql = "SELECT CAST(r.members AS bigint), x.user_id, x.username, x.role, x.joined_at, x.silenced_until
        FROM rooms r LEFT JOIN (
            SELECT m.user_id, u.username, CAST(m.role AS bigint) AS role, m.joined_at, m.silenced_until
            FROM members m JOIN users u ON u.id = m.user_id
            WHERE m.room_id = $1 AND m.user_id > $2 ORDER BY m.user_id LIMIT $3) x ON true
        WHERE r.id = $1 ORDER BY x.user_id";
    let args = [Arg::Int(room.0), Arg::Int(after.map_or(0, |user| user.0)), Arg::Int(rows_limit(limit) as i64)];
    // One row without a member, if there are none after `after`.
    type MemberRow = (i64, Option<i64>, Option<String>, Option<i64>, Option<i64>, Option<i64>);
    let rows = db.all::<MemberRow>(sql, &args).await?;
    let count = rows.first().map_or(0, |row| u32::try_from(row.0).unwrap_or(u32::MAX));
    let member = |(_, id, username, role, joined_at, silenced_until): MemberRow| {
        Some(MemberEntry {
            user: User { id: UserId(id?), username: username?.into() },
            role: Role::from_number(role?),
            joined_at: joined_at?.unsigned_abs(),
            silenced_until: silenced_until.map(i64::unsigned_abs),
        })
    };
    Ok(MemberPage { members: rows.into_iter().filter_map(member).collect(), count })
}

/// Whether a user with the role `actor` may remove one with the role `member`. `leaving`: both are the same user.
/// `is_last_owner`: there is no owner but the member.
pub(crate) fn may_remove(
    leaving: bool,
    actor: Option<Role>,
    member: Role,
    is_last_owner: bool,
) -> Result<(), RoomError> {
    match (leaving, actor, member) {
        (true, _, Role::Owner) if is_last_owner => Err(RoomError::NotAllowed(CANNOT_LEAVE)),
        (true, _, _) => Ok(()),
        (false, _, Role::Owner) => Err(RoomError::NotAllowed(OWNER_STAYS)),
        (false, Some(Role::Owner), _) | (false, Some(Role::Moderator), Role::Member) => Ok(()),
        (false, Some(Role::Moderator), Role::Moderator) => Err(RoomError::NotAllowed(MODERATOR_STAYS)),
        (false, _, _) => Err(RoomError::NotAllowed(CANNOT_REMOVE)),
    }
}

/// How often a removal is tried because the member is renamed meanwhile.
const RENAMINGS_LIMIT: usize = 4;

/// Ends a membership and appends the publication of it. `member_key`: the member's name, or a former one.
pub(crate) async fn remove_member(
    db: &mut DbConnection,
    name: &str,
    actor: UserId,
    member_key: &str,
) -> Result<Removal, RoomError> {
    let (room, kind, actor_role) = look_up(db, name, actor).await?;
    let mut key = users::current_key(db, member_key).await?.ok_or(RoomError::NoUser)?;
    if kind == RoomKind::Direct {
        let leaving = users::by_username(db, &key).await?.is_some_and(|account| account.id == actor);
        return Err(RoomError::NotAllowed(if leaving { direct::CANNOT_LEAVE } else { direct::CANNOT_REMOVE }));
    }
    if db.is_postgres() {
        for _ in 0..RENAMINGS_LIMIT {
            match postgres::remove_member(db, room, actor, &key).await {
                // Renamed since the statement before.
                Err(RoomError::NoUser) => {
                    key = users::current_key(db, member_key).await?.ok_or(RoomError::NoUser)?;
                }
                removed => {
                    return removed.map(|(member, publication)| Removal { room, member, publication });
                }
            }
        }
        return Err(RoomError::NoUser);
    }
    let sql = "SELECT u.id, u.username, m.role, a.username
        FROM users u JOIN users a ON a.id = $3
        LEFT JOIN members m ON m.user_id = u.id AND m.room_id = $1 WHERE u.username_key = $2";
    let args = [Arg::Int(room.0), Arg::Text(&key), Arg::Int(actor.0)];
    let found = db.optional::<(i64, String, Option<i64>, String)>(sql, &args).await?;
    let (member, username, role, actor_name) = found.ok_or(RoomError::NoUser)?;
    let leaving = member == actor.0;
    if !leaving && actor_role.is_none_or(|role| role < Role::Moderator) {
        return Err(RoomError::NotAllowed(CANNOT_REMOVE));
    }
    let role = role.map(Role::from_number).ok_or(RoomError::NotMember)?;
    let sql = "SELECT 1 FROM members WHERE room_id = $1 AND role = 2 AND user_id <> $2 LIMIT 1";
    let other_owner = db.optional::<(i64,)>(sql, &[Arg::Int(room.0), Arg::Int(member)]).await?;
    may_remove(leaving, actor_role, role, other_owner.is_none())?;

    let member = User { id: UserId(member), username: username.into() };
    let actor = User { id: actor, username: actor_name.into() };
    let actor_id = actor.id;
    let removal = end_membership(db, room, actor, &member).await?;
    if !leaving {
        let (told, at) = (Told::removed(&member), removal.publication.time.cast_signed());
        rights::record(db, room, actor_id, told.word, Some(member.id), &told.body, at).await?;
    }
    Ok(removal)
}

/// Ends a membership, whatever rights the actor has, who need not be a member. Only the owner stays.
pub(crate) async fn expel(
    db: &mut DbConnection,
    name: &str,
    only: Option<RoomId>,
    actor: UserId,
    user: UserId,
) -> Result<Removal, RoomError> {
    let (room, _) = named(db, name).await?.ok_or(RoomError::NoRoom)?;
    if only.is_some_and(|only| only != room) {
        return Err(RoomError::NoRoom);
    }
    if is_direct(db, room).await? {
        return Err(RoomError::NotAllowed(direct::CANNOT_REMOVE));
    }
    if db.is_postgres() {
        let (member, publication) = postgres::expel(db, room, actor, user).await?;
        return Ok(Removal { room, member, publication });
    }
    let sql = "SELECT u.username, m.role, a.username FROM members m JOIN users u ON u.id = m.user_id
        JOIN users a ON a.id = $3 WHERE m.room_id = $1 AND m.user_id = $2";
    let args = [Arg::Int(room.0), Arg::Int(user.0), Arg::Int(actor.0)];
    let found = db.optional::<(String, i64, String)>(sql, &args).await?;
    let (username, role, actor_name) = found.ok_or(RoomError::NotMember)?;
    if Role::from_number(role) == Role::Owner {
        return Err(RoomError::NotAllowed(OWNER_STAYS));
    }
    let member = User { id: user, username: username.into() };
    let actor = User { id: actor, username: actor_name.into() };
    end_membership(db, room, actor, &member).await
}

/// On SQLite.
pub(crate) async fn end_membership(
    db: &mut DbConnection,
    room: RoomId,
    actor: User,
    member: &User,
) -> Result<Removal, RoomError> {
    let now = db.now().await?;
    let sql = "DELETE FROM members WHERE room_id = $1 AND user_id = $2";
    db.execute(sql, &[Arg::Int(room.0), Arg::Int(member.id.0)]).await?;
    db.execute("UPDATE rooms SET members = members - 1 WHERE id = $1", &[Arg::Int(room.0)]).await?;
    let publication = publish_change(db, room, Kind::Removed, actor, member, now).await?;
    Ok(Removal { room, member: member.id, publication })
}

/// An owner of a room: the one who created it, if possible.
pub(crate) async fn owner(db: &mut DbConnection, name: &str) -> Result<UserId, RoomError> {
    let (room, _) = named(db, name).await?.ok_or(RoomError::NoRoom)?;
    if is_direct(db, room).await? {
        return Err(RoomError::NotAllowed(direct::CANNOT_DELETE));
    }
    let sql = "SELECT m.user_id FROM rooms r JOIN members m ON m.room_id = r.id AND m.role = 2 WHERE r.name = $1
        ORDER BY CASE WHEN m.user_id = r.created_by THEN 0 ELSE 1 END, m.user_id LIMIT 1";
    let found = db.optional::<(i64,)>(sql, &[Arg::Text(name)]).await?;
    found.map(|(owner,)| UserId(owner)).ok_or(RoomError::NoRoom)
}

/// Deletes a room's head and its name, which is reserved for the owner: from then on the room does not exist.
/// `sweep_step` deletes its contents.
pub(crate) async fn delete(
    db: &mut DbConnection,
    name: &str,
    only: Option<RoomId>,
    actor: UserId,
    reserved_ms: u64,
) -> Result<RoomId, RoomError> {
    let (room, kind, role) = look_up(db, name, actor).await?;
    if only.is_some_and(|only| only != room) {
        return Err(RoomError::NoRoom);
    }
    if kind == RoomKind::Direct {
        return Err(RoomError::NotAllowed(direct::CANNOT_DELETE));
    }
    if role != Some(Role::Owner) {
        return Err(RoomError::NotAllowed(CANNOT_DELETE));
    }
    if db.is_postgres() {
        postgres::delete(db, room, name, actor, reserved_ms).await?;
        return Ok(room);
    }
    db.execute("DELETE FROM heads WHERE room_id = $1", &[Arg::Int(room.0)]).await?;
    db.execute("UPDATE rooms SET name = NULL WHERE id = $1", &[Arg::Int(room.0)]).await?;
    let now = db.now().await?;
    db.execute("DELETE FROM reserved_names WHERE until <= $1", &[Arg::Int(now)]).await?;
    let until = now.saturating_add(i64::try_from(reserved_ms).unwrap_or(i64::MAX));
    names::reserve(db, name, actor, until).await?;
    let sql = "DELETE FROM reserved_names WHERE owner_id = $1 AND name NOT IN
        (SELECT name FROM reserved_names WHERE owner_id = $1 ORDER BY until DESC LIMIT $2)";
    db.execute(sql, &[Arg::Int(actor.0), Arg::Int(RESERVED_NAMES_LIMIT as i64)]).await?;
    Ok(room)
}

/// Deletes a limited number of the rows that deleted rooms left behind, or of old entries of the audit log, inside a
/// transaction. `false`: none are left, or other processes are deleting them.
pub(crate) async fn sweep_step(db: &mut DbConnection) -> Result<bool, StoreError> {
    let sql = if db.is_postgres() {
        "SELECT id FROM rooms WHERE name IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
    } else {
        "SELECT id FROM rooms WHERE name IS NULL ORDER BY id LIMIT 1"
    };
    let Some((room,)) = db.optional::<(i64,)>(sql, &[]).await? else {
        return rights::sweep_audit(db).await;
    };
    let room = Arg::Int(room);
    let sql = "DELETE FROM messages WHERE room_id = $1 AND room_offset <=
        (SELECT min(room_offset) + 999 FROM messages WHERE room_id = $1)";
    if db.execute(sql, &[room]).await? > 0 {
        return Ok(true);
    }
    let sql = "DELETE FROM reactions WHERE room_id = $1 AND (room_offset, emoji, user_id) IN
        (SELECT room_offset, emoji, user_id FROM reactions WHERE room_id = $1 LIMIT 1000)";
    if db.execute(sql, &[room]).await? > 0 {
        return Ok(true);
    }
    let sql = "DELETE FROM reaction_kinds WHERE room_id = $1 AND (room_offset, emoji) IN
        (SELECT room_offset, emoji FROM reaction_kinds WHERE room_id = $1 LIMIT 1000)";
    if db.execute(sql, &[room]).await? > 0 {
        return Ok(true);
    }
    let sql = "DELETE FROM members WHERE room_id = $1 AND user_id IN
        (SELECT user_id FROM members WHERE room_id = $1 LIMIT 1000)";
    if db.execute(sql, &[room]).await? > 0 {
        return Ok(true);
    }
    let sql = "DELETE FROM positions WHERE room_id = $1 AND reader IN (SELECT reader FROM readers)";
    db.execute(sql, &[room]).await?;
    for sql in [
        "DELETE FROM hooks WHERE room_id = $1",
        "DELETE FROM invites WHERE room_id = $1",
        "DELETE FROM bans WHERE room_id = $1",
        "DELETE FROM silences WHERE room_id = $1",
        "DELETE FROM pins WHERE room_id = $1",
    ] {
        db.execute(sql, &[room]).await?;
    }
    db.execute("DELETE FROM rooms WHERE id = $1", &[room]).await?;
    Ok(true)
}
