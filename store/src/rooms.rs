//! Rooms and who is in them, the same on both databases.

use crate::session::{Arg, Session};
use crate::{Addition, Join, MemberEntry, NewRoom, Removal, Room, RoomError, RoomKind, StoreError, history, users};
use uproar_model::{Admission, Epoch, JoinError, Offset, PageRequest, Role, RoomId, User, UserId};

/// Epochs as clients see them: the room's own, and how often the whole database may have gone back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Generation(pub i64);

impl Generation {
    pub fn epoch(self, room_epoch: &str) -> Epoch {
        Epoch(format!("{room_epoch}.{}", self.0).into())
    }
}

impl RoomKind {
    /// Whatever this build does not know is nothing that strangers may see.
    pub(crate) fn from_number(number: i64) -> RoomKind {
        if number == 0 { RoomKind::Public } else { RoomKind::Private }
    }
}

/// 16 lower-case hexadecimal digits from the system's generator.
pub(crate) fn random_word() -> Result<String, StoreError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| StoreError(format!("no random numbers: {error}")))?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

/// id, name, title, kind, size, members, epoch, last offset, last number, the viewer's read number and role.
type RoomRow = (i64, String, String, i64, i64, i64, String, i64, i64, Option<i64>, Option<i64>);

fn room_from(generation: Generation, row: RoomRow) -> Room {
    let (id, name, title, kind, size, members, epoch, last_offset, last_number, read_number, role) = row;
    Room {
        id: RoomId(id),
        name,
        title,
        kind: RoomKind::from_number(kind),
        size: u32::try_from(size).unwrap_or(u32::MAX),
        members: u32::try_from(members).unwrap_or(u32::MAX),
        epoch: generation.epoch(&epoch),
        offset: last_offset.unsigned_abs(),
        unread: read_number.map(|read| last_number.saturating_sub(read).max(0).unsigned_abs()),
        role: role.map(Role::from_number),
    }
}

pub(crate) async fn create(session: &mut Session, generation: Generation, room: &NewRoom) -> Result<Room, RoomError> {
    let now = session.now().await?;
    let epoch = random_word()?;
    // The database keeps sizes in 31 bits.
    let size = i64::from(room.size.clamp(1, i32::MAX.unsigned_abs()));
    let sql = "INSERT INTO rooms (name, kind, title, title_key, size, members, epoch, created_by, created_at)
        VALUES ($1, CAST($2 AS smallint), $3, $4, CAST($5 AS integer), 1, $6, $7, $8) ON CONFLICT DO NOTHING
        RETURNING id";
    let args = [
        Arg::Text(&room.name),
        Arg::Int(room.kind as i64),
        Arg::Text(&room.title),
        Arg::Text(&room.title.to_lowercase()),
        Arg::Int(size),
        Arg::Text(&epoch),
        Arg::Int(room.owner.0),
        Arg::Int(now),
    ];
    let Some((id,)) = session.optional::<(i64,)>(sql, &args).await? else {
        return Err(RoomError::Taken);
    };
    session.execute("INSERT INTO heads (room_id) VALUES ($1)", &[Arg::Int(id)]).await?;
    if !insert_member(session, RoomId(id), room.owner, Role::Owner, now).await? {
        return Err(RoomError::NoUser);
    }
    Ok(Room {
        id: RoomId(id),
        name: room.name.clone(),
        title: room.title.clone(),
        kind: room.kind,
        size: u32::try_from(size).unwrap_or(u32::MAX),
        members: 1,
        epoch: generation.epoch(&epoch),
        offset: 0,
        unread: Some(0),
        role: Some(Role::Owner),
    })
}

/// What is before the head when someone joins is not unread. False: there is no such user.
async fn insert_member(
    session: &mut Session,
    room: RoomId,
    user: UserId,
    role: Role,
    now: i64,
) -> Result<bool, sqlx::Error> {
    let sql = "INSERT INTO members (room_id, user_id, role, joined_at, read_offset, read_number)
        SELECT h.room_id, u.id, CAST($3 AS smallint), $4, h.last_offset, h.last_number
        FROM heads h, users u WHERE h.room_id = $1 AND u.id = $2";
    let args = [Arg::Int(room.0), Arg::Int(user.0), Arg::Int(role as i64), Arg::Int(now)];
    Ok(session.execute(sql, &args).await? == 1)
}

pub(crate) async fn find(
    session: &mut Session,
    generation: Generation,
    name: &str,
    viewer: UserId,
) -> Result<Option<Room>, sqlx::Error> {
    let sql = "SELECT r.id, r.name, r.title, CAST(r.kind AS bigint), CAST(r.size AS bigint), CAST(r.members AS bigint),
            r.epoch, h.last_offset, h.last_number, m.read_number, CAST(m.role AS bigint)
        FROM rooms r JOIN heads h ON h.room_id = r.id
        LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $2
        WHERE r.name = $1 AND (r.kind = 0 OR m.user_id IS NOT NULL)";
    Ok(session.optional(sql, &[Arg::Text(name), Arg::Int(viewer.0)]).await?.map(|row| room_from(generation, row)))
}

pub(crate) async fn list(
    session: &mut Session,
    generation: Generation,
    viewer: UserId,
    query: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Room>, sqlx::Error> {
    let sql = "SELECT r.id, r.name, r.title, CAST(r.kind AS bigint), CAST(r.size AS bigint), CAST(r.members AS bigint),
            r.epoch, h.last_offset, h.last_number, m.read_number, CAST(m.role AS bigint)
        FROM rooms r JOIN heads h ON h.room_id = r.id
        LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $1
        WHERE r.name > $2 AND (r.kind = 0 OR m.user_id IS NOT NULL)
          AND (r.name LIKE $3 ESCAPE '\\' OR r.title_key LIKE $3 ESCAPE '\\')
        ORDER BY r.name LIMIT $4";
    let mut pattern = String::from("%");
    for c in query.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    let args = [Arg::Int(viewer.0), Arg::Text(after.unwrap_or("")), Arg::Text(&pattern), Arg::Int(limit_from(limit))];
    Ok(session.all(sql, &args).await?.into_iter().map(|row| room_from(generation, row)).collect())
}

/// The most rows that one call returns, whatever it was asked for.
pub(crate) fn limit_from(limit: usize) -> i64 {
    i64::try_from(limit.min(ROWS_LIMIT)).unwrap_or(i64::MAX)
}
const ROWS_LIMIT: usize = 1000;

/// What `admit` finds out about one wish: the room's id, kind, epoch and last offset, the user's role in it.
pub(crate) type AdmitRow = (Option<i64>, Option<i64>, Option<String>, Option<i64>, Option<i64>);

/// What is already settled, or the room to join.
pub(crate) fn judge_admission(
    generation: Generation,
    row: AdmitRow,
) -> Result<Admission, Result<(RoomId, Epoch), JoinError>> {
    match row {
        (Some(id), _, Some(epoch), Some(offset), Some(role)) => Ok(Admission {
            room: RoomId(id),
            epoch: generation.epoch(&epoch),
            offset: offset.unsigned_abs(),
            role: Role::from_number(role),
            joined: false,
        }),
        (Some(id), Some(0), Some(epoch), _, None) => Err(Ok((RoomId(id), generation.epoch(&epoch)))),
        _ => Err(Err(JoinError::NoRoom)),
    }
}

/// A user who is in a room now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub role: Role,
    /// The room's last offset in the transaction, of which the membership is sure: no removal can be between the two.
    pub offset: Offset,
    /// Whether they were not in it before.
    pub now: bool,
}

/// Makes a user a member where there is place; in a transaction. It does not ask whether the user may.
pub(crate) async fn join(
    session: &mut Session,
    room: RoomId,
    user: UserId,
    now: i64,
) -> Result<Result<Joined, JoinError>, sqlx::Error> {
    // The lock first: of two at once the second sees what the first did.
    if !session.lock_room(room).await? {
        return Ok(Err(JoinError::NoRoom));
    }
    let sql = "SELECT CAST(r.members AS bigint), CAST(r.size AS bigint), CAST(m.role AS bigint), h.last_offset
        FROM rooms r JOIN heads h ON h.room_id = r.id
        LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $2 WHERE r.id = $1";
    let args = [Arg::Int(room.0), Arg::Int(user.0)];
    let offset = match session.optional::<(i64, i64, Option<i64>, i64)>(sql, &args).await? {
        None => return Ok(Err(JoinError::NoRoom)),
        Some((_, _, Some(role), offset)) => {
            return Ok(Ok(Joined { role: Role::from_number(role), offset: offset.unsigned_abs(), now: false }));
        }
        Some((members, size, None, _)) if members >= size => return Ok(Err(JoinError::Full)),
        Some((_, _, None, offset)) => offset.unsigned_abs(),
    };
    if !insert_member(session, room, user, Role::Member, now).await? {
        return Ok(Err(JoinError::NoUser));
    }
    let sql = "UPDATE rooms SET members = members + 1 WHERE id = $1";
    session.execute(sql, &[Arg::Int(room.0)]).await?;
    Ok(Ok(Joined { role: Role::Member, offset, now: true }))
}

impl From<JoinError> for RoomError {
    fn from(error: JoinError) -> RoomError {
        match error {
            JoinError::NoRoom => RoomError::NoRoom,
            JoinError::Full => RoomError::Full,
            JoinError::NoUser => RoomError::NoUser,
        }
    }
}

/// A room by its name as its actor sees it: `NoRoom` for a private one to someone who is not in it.
async fn look_up(
    session: &mut Session,
    name: &str,
    actor: UserId,
) -> Result<(RoomId, RoomKind, Option<Role>), RoomError> {
    let sql = "SELECT r.id, CAST(r.kind AS bigint), CAST(m.role AS bigint)
        FROM rooms r LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $2 WHERE r.name = $1";
    let args = [Arg::Text(name), Arg::Int(actor.0)];
    let (id, kind, role) = session.optional::<(i64, i64, Option<i64>)>(sql, &args).await?.ok_or(RoomError::NoRoom)?;
    let (kind, role) = (RoomKind::from_number(kind), role.map(Role::from_number));
    if kind == RoomKind::Private && role.is_none() {
        return Err(RoomError::NoRoom);
    }
    Ok((RoomId(id), kind, role))
}

/// Joins a public room; a private one only answers those who are in it.
pub(crate) async fn join_by_name(
    session: &mut Session,
    generation: Generation,
    name: &str,
    user: UserId,
) -> Result<Join, RoomError> {
    let (room, _, _) = look_up(session, name, user).await?;
    let now = session.now().await?;
    let joined = join(session, room, user, now).await??.now;
    let room = find(session, generation, name, user).await?.ok_or(RoomError::NoRoom)?;
    Ok(Join { room, joined })
}

pub(crate) async fn add_member(
    session: &mut Session,
    name: &str,
    actor: UserId,
    member_key: &str,
) -> Result<Addition, RoomError> {
    let (room, _, role) = look_up(session, name, actor).await?;
    if role.is_none_or(|role| role < Role::Moderator) {
        return Err(RoomError::NotAllowed("only the owner and moderators add members"));
    }
    let account = users::by_username(session, member_key).await?.ok_or(RoomError::NoUser)?;
    let now = session.now().await?;
    let joined = join(session, room, account.id, now).await??.now;
    let sql = "SELECT CAST(role AS bigint), joined_at FROM members WHERE room_id = $1 AND user_id = $2";
    let args = [Arg::Int(room.0), Arg::Int(account.id.0)];
    let (role, joined_at) = session.optional::<(i64, i64)>(sql, &args).await?.ok_or(RoomError::NoUser)?;
    let (role, joined_at) = (Role::from_number(role), joined_at.unsigned_abs());
    Ok(Addition { member: MemberEntry { user: User::from(&account), role, joined_at }, joined })
}

pub(crate) async fn members(
    session: &mut Session,
    name: &str,
    viewer: UserId,
    after: Option<UserId>,
    limit: usize,
) -> Result<Vec<MemberEntry>, RoomError> {
    let (room, _, role) = look_up(session, name, viewer).await?;
    if role.is_none() {
        return Err(RoomError::NotMember);
    }
    let sql = "SELECT u.id, u.username, CAST(m.role AS bigint), m.joined_at
        FROM members m JOIN users u ON u.id = m.user_id
        WHERE m.room_id = $1 AND m.user_id > $2 ORDER BY m.user_id LIMIT $3";
    let args = [Arg::Int(room.0), Arg::Int(after.map_or(0, |user| user.0)), Arg::Int(limit_from(limit))];
    let rows = session.all::<(i64, String, i64, i64)>(sql, &args).await?;
    Ok(rows
        .into_iter()
        .map(|(id, username, role, joined_at)| MemberEntry {
            user: User { id: UserId(id), username: username.into() },
            role: Role::from_number(role),
            joined_at: joined_at.unsigned_abs(),
        })
        .collect())
}

/// Whether `actor` may take `member` out; both are in the room. Shared with the store in memory.
pub(crate) fn may_remove(leaving: bool, actor: Option<Role>, member: Role) -> Result<(), RoomError> {
    match (leaving, actor, member) {
        (true, _, Role::Owner) => Err(RoomError::NotAllowed("the owner can't leave; delete the room instead")),
        (true, _, _) => Ok(()),
        (false, _, Role::Owner) => Err(RoomError::NotAllowed("the owner can't be removed")),
        (false, Some(Role::Owner), _) | (false, Some(Role::Moderator), Role::Member) => Ok(()),
        (false, Some(Role::Moderator), Role::Moderator) => {
            Err(RoomError::NotAllowed("only the owner removes moderators"))
        }
        (false, _, _) => Err(RoomError::NotAllowed("only the owner and moderators remove members")),
    }
}

pub(crate) async fn remove_member(
    session: &mut Session,
    generation: Generation,
    name: &str,
    actor: UserId,
    member_key: &str,
) -> Result<Removal, RoomError> {
    let (room, _, _) = look_up(session, name, actor).await?;
    if !session.lock_head(room).await? || !session.lock_room(room).await? {
        return Err(RoomError::NoRoom);
    }
    // Asked again, now that it can't change any more.
    let (_, _, actor_role) = look_up(session, name, actor).await?;
    let sql = "SELECT u.id, CAST(m.role AS bigint)
        FROM users u LEFT JOIN members m ON m.user_id = u.id AND m.room_id = $1 WHERE u.username_key = $2";
    let args = [Arg::Int(room.0), Arg::Text(member_key)];
    let (member, role) = session.optional::<(i64, Option<i64>)>(sql, &args).await?.ok_or(RoomError::NoUser)?;
    let leaving = member == actor.0;
    if !leaving && actor_role.is_none_or(|role| role < Role::Moderator) {
        return Err(RoomError::NotAllowed("only the owner and moderators remove members"));
    }
    let role = role.map(Role::from_number).ok_or(RoomError::NotMember)?;
    may_remove(leaving, actor_role, role)?;

    let now = session.now().await?;
    let sql = "DELETE FROM members WHERE room_id = $1 AND user_id = $2";
    session.execute(sql, &[Arg::Int(room.0), Arg::Int(member)]).await?;
    session.execute("UPDATE rooms SET members = members - 1 WHERE id = $1", &[Arg::Int(room.0)]).await?;
    let sql = "UPDATE heads SET last_offset = last_offset + 1 WHERE room_id = $1 RETURNING last_offset";
    let (offset,) = session.optional::<(i64,)>(sql, &[Arg::Int(room.0)]).await?.ok_or(RoomError::NoRoom)?;
    let sql = "INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, body, created_at)
        SELECT h.room_id, h.last_offset, h.last_number, 5, $2, $3, $4, $5 FROM heads h WHERE h.room_id = $1";
    // Unique, as the offset is; no sender's id begins with a tilde.
    let (client_id, body) = (format!("~removed-{offset}"), member.to_string());
    let args = [Arg::Int(room.0), Arg::Int(actor.0), Arg::Text(&client_id), Arg::Text(&body), Arg::Int(now)];
    session.execute(sql, &args).await?;

    let offset = offset.unsigned_abs();
    let this =
        PageRequest { from: offset - 1, ascending: true, up_to: offset, items_limit: 1, bytes_limit: usize::MAX };
    let page = history::page(session, generation, room, this).await?;
    match page.and_then(|page| page.publications.into_iter().next()) {
        Some(publication) => Ok(Removal { room, member: UserId(member), publication }),
        None => Err(StoreError("a publication just appended is not there".to_owned()).into()),
    }
}

/// Closes a room: from here on it does not exist. What was said in it is left for `sweep_step`.
pub(crate) async fn delete(session: &mut Session, name: &str, actor: UserId) -> Result<RoomId, RoomError> {
    let (room, _, _) = look_up(session, name, actor).await?;
    if !session.lock_head(room).await? || !session.lock_room(room).await? {
        return Err(RoomError::NoRoom);
    }
    let (_, _, role) = look_up(session, name, actor).await?;
    if role != Some(Role::Owner) {
        return Err(RoomError::NotAllowed("only the owner deletes the room"));
    }
    // The head first: an append that waits for it finds that the room is gone.
    session.execute("DELETE FROM heads WHERE room_id = $1", &[Arg::Int(room.0)]).await?;
    session.execute("UPDATE rooms SET name = NULL WHERE id = $1", &[Arg::Int(room.0)]).await?;
    Ok(room)
}

/// One bounded step of sweeping up what deleted rooms left; in a transaction. False when nothing is left.
pub(crate) async fn sweep_step(session: &mut Session) -> Result<bool, StoreError> {
    let sql = "SELECT id FROM rooms WHERE name IS NULL ORDER BY id LIMIT 1";
    let Some((room,)) = session.optional::<(i64,)>(sql, &[]).await? else {
        return Ok(false);
    };
    let room = Arg::Int(room);
    let sql = "DELETE FROM messages WHERE room_id = $1 AND room_offset <=
        (SELECT min(room_offset) + 999 FROM messages WHERE room_id = $1)";
    if session.execute(sql, &[room]).await? > 0 {
        return Ok(true);
    }
    let sql = "DELETE FROM reactions WHERE room_id = $1 AND (room_offset, emoji, user_id) IN
        (SELECT room_offset, emoji, user_id FROM reactions WHERE room_id = $1 LIMIT 1000)";
    if session.execute(sql, &[room]).await? > 0 {
        return Ok(true);
    }
    let sql = "DELETE FROM members WHERE room_id = $1 AND user_id IN
        (SELECT user_id FROM members WHERE room_id = $1 LIMIT 1000)";
    if session.execute(sql, &[room]).await? > 0 {
        return Ok(true);
    }
    session.execute("DELETE FROM rooms WHERE id = $1", &[room]).await?;
    Ok(true)
}
