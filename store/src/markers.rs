//! Read markers, and the list of a user's rooms, which shows them.

use crate::check::rows_limit;
use crate::connection::{Arg, DbConnection, json, offset_arg, wrong_row_count};
use crate::direct;
use crate::error::StoreError;
use crate::objects::RoomKind;
use std::collections::{BTreeMap, HashMap};
use uproar_model::{Head, JoinedRoom, Marker, Role, RoomId, UserId};

/// The markers in the order of `wanted`; `None` for a user who is not a member, or a room that does not exist.
pub(crate) async fn read(
    db: &mut DbConnection,
    wanted: &[(RoomId, UserId)],
) -> Result<Vec<Option<Marker>>, StoreError> {
    // The members of a deleted room remain until they are swept up, but its head is gone: hence the join with `heads`.
    // It comes second because PostgreSQL would otherwise use only one of the two key columns of `members`, and read all
    // members of the room.
    let rows = if db.is_postgres() {
        let sql = "SELECT m.read_offset, m.read_number, h.room_id
            FROM unnest($1, $2) WITH ORDINALITY AS w(room_id, user_id, n)
            LEFT JOIN members m ON m.room_id = w.room_id AND m.user_id = w.user_id
            LEFT JOIN heads h ON h.room_id = m.room_id ORDER BY w.n";
        let (rooms, users): (Vec<_>, Vec<_>) = wanted.iter().map(|(room, user)| (room.0, user.0)).unzip();
        db.all::<(Option<i64>, Option<i64>, Option<i64>)>(sql, &[Arg::Ints(&rooms), Arg::Ints(&users)]).await?
    } else {
        let sql = "SELECT m.read_offset, m.read_number, h.room_id FROM json_each($1) w
            LEFT JOIN members m ON m.room_id = w.value ->> 0 AND m.user_id = w.value ->> 1
            LEFT JOIN heads h ON h.room_id = m.room_id ORDER BY w.key";
        let pairs: Vec<_> = wanted.iter().map(|(room, user)| (room.0, user.0)).collect();
        db.all(sql, &[Arg::Text(&json(&pairs))]).await?
    };
    if rows.len() != wanted.len() {
        return Err(wrong_row_count(rows.len(), wanted.len()));
    }
    let marker = |(offset, number, room): (Option<i64>, Option<i64>, Option<i64>)| {
        room?;
        Some(Marker { offset: offset?.unsigned_abs(), number: number?.unsigned_abs() })
    };
    Ok(rows.into_iter().map(marker).collect())
}

/// Moves markers forward, in one statement.
pub(crate) async fn advance(db: &mut DbConnection, markers: &[(RoomId, UserId, Marker)]) -> Result<(), StoreError> {
    // Each pair once, because an UPDATE picks an arbitrary one of several matching rows. Sorted, so that rows are
    // always locked in the same order.
    let mut highest: BTreeMap<(RoomId, UserId), Marker> = BTreeMap::new();
    for &(room, user, marker) in markers {
        let known = highest.entry((room, user)).or_insert(marker);
        if known.offset < marker.offset {
            *known = marker;
        }
    }
    let rows = highest
        .into_iter()
        .map(|((room, user), marker)| [room.0, user.0, offset_arg(marker.offset), offset_arg(marker.number)]);
    if db.is_postgres() {
        let mut columns: [Vec<i64>; 4] = Default::default();
        for row in rows {
            columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        }
        let sql = "UPDATE members SET read_offset = w.read_offset, read_number = w.read_number
            FROM unnest($1, $2, $3, $4) AS w(room_id, user_id, read_offset, read_number)
            WHERE members.room_id = w.room_id AND members.user_id = w.user_id AND members.read_offset < w.read_offset";
        db.execute(sql, &columns.each_ref().map(|column| Arg::Ints(column))).await?;
    } else {
        let sql = "UPDATE members SET read_offset = w.value ->> 2, read_number = w.value ->> 3 FROM json_each($1) w
            WHERE members.room_id = w.value ->> 0 AND members.user_id = w.value ->> 1
              AND members.read_offset < w.value ->> 2";
        db.execute(sql, &[Arg::Text(&json(&rows.collect::<Vec<_>>()))]).await?;
    }
    Ok(())
}

/// How many messages of the room `r` are unread to a member: those of other users after the marker that still exist.
/// They are counted exactly up to 1,000, and only the first 3,000 messages after the marker are looked at, so that a
/// user's own, which do not count, cost little.
/// `index`: a hint for SQLite, which would otherwise read what lies between the messages too.
macro_rules! unread_sql {
    ($read_offset:literal, $user:literal) => {
        unread_sql!($read_offset, $user, "")
    };
    ($read_offset:literal, $user:literal, $index:literal) => {
        concat!(
            "(SELECT count(*) FROM (SELECT 1 FROM (SELECT x.user_id, x.gone_offset FROM messages x ",
            $index,
            " WHERE x.room_id = r.id AND x.kind = 0 AND x.room_offset > ",
            $read_offset,
            " ORDER BY x.room_offset LIMIT 3000) seen
             WHERE seen.user_id <> ",
            $user,
            " AND seen.gone_offset IS NULL LIMIT 1001) counted)"
        )
    };
}
pub(crate) use unread_sql;

/// When the last message of the room `r` was stored. For a room without messages, when it was created.
/// `index`: a hint for SQLite, which would otherwise read what lies after the last message too.
macro_rules! active_at_sql {
    ($index:literal) => {
        concat!(
            "coalesce((SELECT x.created_at FROM messages x ",
            $index,
            " WHERE x.room_id = r.id AND x.kind = 0 ORDER BY x.room_offset DESC LIMIT 1), r.created_at)"
        )
    };
}

/// id, name, title, kind, size, members, epoch, last offset, last number, time of the last message, read offset, read
/// number, role, unread.
type JoinedRow = (i64, String, String, i64, i64, i64, String, i64, i64, i64, i64, i64, i64, i64);

/// Both walk through the user's rooms by name and stop after a page, without sorting: the user may be in very many. The
/// head of a deleted room is gone. SQLite keeps the order of a CROSS JOIN; PostgreSQL is forced by a subquery with
/// OFFSET. The page is cut before unread messages are counted.
pub(crate) const ROOMS_OF_SQLITE: &str = concat!(
    "
    SELECT r.id, r.name, r.title, r.kind, r.size, r.members, r.epoch, r.last_offset, r.last_number, ",
    active_at_sql!("INDEXED BY messages_shown"),
    ", r.read_offset, r.read_number, r.role, ",
    unread_sql!("r.read_offset", "$1", "INDEXED BY messages_shown"),
    " FROM (
      SELECT r.id, r.name, r.title, r.kind, r.size, r.members, r.epoch, r.created_at, h.last_offset, h.last_number,
        max(m.read_offset, coalesce((SELECT w.value ->> 1 FROM json_each($4) w WHERE w.value ->> 0 = r.id), 0))
          AS read_offset,
        max(m.read_number, coalesce((SELECT w.value ->> 2 FROM json_each($4) w WHERE w.value ->> 0 = r.id), 0))
          AS read_number, m.role
      FROM user_rooms u INDEXED BY user_rooms_by_name CROSS JOIN rooms r ON r.id = u.room_id
        CROSS JOIN heads h ON h.room_id = r.id CROSS JOIN members m ON m.room_id = r.id AND m.user_id = u.user_id
      WHERE u.user_id = $1 AND u.room_name > $2 ORDER BY u.room_name LIMIT $3) r"
);
const ROOMS_OF_POSTGRES: &str = concat!(
    "
    SELECT r.id, r.name, r.title, r.kind, r.size, r.members, r.epoch, r.last_offset, r.last_number, ",
    active_at_sql!(""),
    ", r.read_offset, r.read_number, r.role, ",
    unread_sql!("r.read_offset", "$1"),
    " FROM (
      SELECT r.id, r.name, r.title, r.kind, r.size, r.members, r.epoch, r.created_at, r.last_offset, r.last_number,
        r.role,
        greatest(r.read_offset, coalesce(w.read_offset, 0)) AS read_offset,
        greatest(r.read_number, coalesce(w.read_number, 0)) AS read_number
      FROM user_rooms u CROSS JOIN LATERAL (
        SELECT r.id, r.name, r.title, CAST(r.kind AS bigint) AS kind, CAST(r.size AS bigint) AS size,
          CAST(r.members AS bigint) AS members, r.epoch, r.created_at, h.last_offset, h.last_number, m.read_offset,
          m.read_number, CAST(m.role AS bigint) AS role
        FROM rooms r JOIN heads h ON h.room_id = r.id JOIN members m ON m.room_id = r.id AND m.user_id = u.user_id
        WHERE r.id = u.room_id OFFSET 0) r
      LEFT JOIN LATERAL (
        SELECT w.read_offset, w.read_number FROM unnest($4, $5, $6) AS w(room_id, read_offset, read_number)
        WHERE w.room_id = r.id OFFSET 0) w ON true
      WHERE u.user_id = $1 AND u.room_name > $2 ORDER BY u.room_name LIMIT $3) r"
);

/// The markers of a user that are not written yet, as the last arguments of a query.
pub(crate) enum NewerMarkers {
    /// Arrays of rooms, offsets and numbers.
    Postgres([Vec<i64>; 3]),
    /// A JSON array of the same as triples.
    Sqlite(String),
}

impl NewerMarkers {
    pub fn new(db: &DbConnection, markers: &HashMap<RoomId, Marker>) -> NewerMarkers {
        let rows = markers.iter().map(|(r, marker)| [r.0, offset_arg(marker.offset), offset_arg(marker.number)]);
        if !db.is_postgres() {
            return NewerMarkers::Sqlite(json(&rows.collect::<Vec<_>>()));
        }
        let mut columns: [Vec<i64>; 3] = Default::default();
        for row in rows {
            columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        }
        NewerMarkers::Postgres(columns)
    }

    /// The arguments of a query: these, and the markers after them.
    pub fn after<'a>(&'a self, args: &[Arg<'a>]) -> Vec<Arg<'a>> {
        match self {
            NewerMarkers::Postgres(columns) => {
                args.iter().copied().chain(columns.iter().map(|column| Arg::Ints(column))).collect()
            }
            NewerMarkers::Sqlite(json) => args.iter().copied().chain([Arg::Text(json)]).collect(),
        }
    }
}

/// The rooms that a user is a member of, by name. A marker in `newer` counts if it is ahead of the stored one.
pub(crate) async fn rooms_of(
    db: &mut DbConnection,
    user: UserId,
    after: Option<&str>,
    limit: usize,
    newer: &HashMap<RoomId, Marker>,
) -> Result<Vec<JoinedRoom>, StoreError> {
    let newer = NewerMarkers::new(db, newer);
    // No room's name is empty.
    let args = [Arg::Int(user.0), Arg::Text(after.unwrap_or("")), Arg::Int(rows_limit(limit) as i64)];
    let sql = if db.is_postgres() { ROOMS_OF_POSTGRES } else { ROOMS_OF_SQLITE };
    let rows = db.all::<JoinedRow>(sql, &newer.after(&args)).await?;
    let room_from = |row: JoinedRow| {
        let (id, name, title, kind, size, members, epoch, last_offset, last_number, ..) = row;
        let (.., active_at, read_offset, read_number, role, unread) = row;
        JoinedRoom {
            id: RoomId(id),
            name,
            title,
            is_private: RoomKind::from_number(kind) != RoomKind::Public,
            is_direct: RoomKind::from_number(kind) == RoomKind::Direct,
            people: Vec::new(),
            size: u32::try_from(size).unwrap_or(u32::MAX),
            members: u32::try_from(members).unwrap_or(u32::MAX),
            head: Head {
                epoch: db.generation().epoch(&epoch),
                offset: last_offset.unsigned_abs(),
                number: last_number.unsigned_abs(),
            },
            unread: unread.unsigned_abs(),
            read: Marker { offset: read_offset.unsigned_abs(), number: read_number.unsigned_abs() },
            role: Role::from_number(role),
            active_at: active_at.unsigned_abs(),
        }
    };
    let mut rooms: Vec<_> = rows.into_iter().map(room_from).collect();
    let direct: Vec<_> = rooms.iter().filter(|room| room.is_direct).map(|room| room.id).collect();
    let mut people = direct::people_of(db, &direct).await?;
    for room in rooms.iter_mut().filter(|room| room.is_direct) {
        room.people = people.remove(&room.id).unwrap_or_default();
        room.title = direct::title(&room.people, user);
    }
    // The page was cut in this order, but the outer query need not keep it.
    rooms.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(rooms)
}
