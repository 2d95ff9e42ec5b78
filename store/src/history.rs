//! Pages of a room's log. Each is read in one statement, and so in one snapshot: head, epoch and rows fit together.

use crate::check::rows_limit;
use crate::connection::{Arg, DbConnection, json, offset_arg, wrong_row_count};
use crate::error::{RoomError, StoreError};
use crate::objects::{Cursor, Message, MessagePage, Reaction};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};
use uproar_model::{
    DatabaseGeneration, Head, Kind, Offset, Page, PageRequest, Publication, RoomId, Swept, User, UserId,
};

/// The most publications in one page, whatever limit was requested.
pub(crate) const PAGE_ITEMS_LIMIT: usize = 1024;

/// The head (epoch, last offset, last number), and one publication or NULLs: offset, number, kind, user, username,
/// the sender's id, target, body, edited, deleted, time, meta. Last, in the first row, viewers as a JSON array or NULL.
type PageRow = (
    String,
    i64,
    i64,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
);

// Offsets have no gaps, so a page is a range of offsets: (bottom, top]. The database counts the bytes, so that rows
// beyond the limit are never sent. $4 is 1 or -1, the direction in which the rows are counted. The first row also says
// which of the viewers ($7) are members, in the same snapshot.
macro_rules! page_sql {
    ($list:literal, $viewers:literal) => {
        concat!(
            "
    WITH head AS (
      SELECT r.epoch, h.last_offset, h.last_number, CASE WHEN h.last_offset < $3 THEN h.last_offset ELSE $3 END AS top
      FROM heads h JOIN rooms r ON r.id = h.room_id WHERE h.room_id = $1
    ), span AS (
      SELECT top, CASE WHEN $4 > 0 THEN $2 ELSE top - $5 END AS bottom FROM head
    ), item AS (
      SELECT m.room_offset, m.number, m.kind, m.user_id, m.client_id, m.target_offset, m.edit_offset, m.created_at,
        m.meta,
        CASE WHEN m.kind = 1 THEN t.body ELSE m.body END AS body,
        CASE WHEN m.kind = 1 THEN t.gone_offset ELSE m.gone_offset END AS gone_offset
      FROM messages m
      LEFT JOIN messages t ON m.kind = 1 AND t.room_id = m.room_id AND t.room_offset = m.target_offset
      WHERE m.room_id = $1 AND m.room_offset > (SELECT bottom FROM span) AND m.room_offset <= (SELECT top FROM span)
    ), counted AS (
      SELECT i.*, row_number() OVER w AS n,
        sum(coalesce(octet_length(i.body), 0) + coalesce(octet_length(i.meta), 0)) OVER w AS bytes
      FROM item i WINDOW w AS (ORDER BY i.room_offset * $4)
    )
    SELECT head.epoch, head.last_offset, head.last_number, c.room_offset, c.number, CAST(c.kind AS bigint), c.user_id,
      u.username, c.client_id, c.target_offset, c.body, c.edit_offset, c.gone_offset, c.created_at, c.meta,
      CASE WHEN coalesce(c.n, 1) = 1 THEN
        (SELECT ",
            $list,
            " FROM members v WHERE v.room_id = $1 AND v.user_id ",
            $viewers,
            ") END
    FROM head
    LEFT JOIN counted c ON c.n = 1 OR c.bytes <= $6
    LEFT JOIN users u ON u.id = c.user_id
    ORDER BY c.n"
        )
    };
}
const PAGE_SQLITE: &str = page_sql!("json_group_array(v.user_id)", "IN (SELECT value FROM json_each($7))");
const PAGE_POSTGRES: &str = page_sql!("CAST(json_agg(v.user_id) AS text)", "= ANY($7)");

/// One page of the publications of a room, and those of the viewers who are members, in ascending order.
pub(crate) async fn page(
    db: &mut DbConnection,
    room: RoomId,
    request: PageRequest,
    viewers: &[UserId],
) -> Result<Option<(Page, Vec<UserId>)>, StoreError> {
    let items = request.items_limit.min(PAGE_ITEMS_LIMIT);
    let top = if request.ascending {
        request.up_to.min(request.from.saturating_add(items as u64))
    } else {
        request.from.saturating_sub(1)
    };
    let viewers: Vec<_> = viewers.iter().map(|viewer| viewer.0).collect();
    let args = [
        Arg::Int(room.0),
        Arg::Int(offset_arg(request.from)),
        Arg::Int(offset_arg(top)),
        Arg::Int(if request.ascending { 1 } else { -1 }),
        Arg::Int(items as i64),
        Arg::Int(i64::try_from(request.bytes_limit).unwrap_or(i64::MAX)),
        Arg::Ints(&viewers),
    ];
    let sql = if db.is_postgres() { PAGE_POSTGRES } else { PAGE_SQLITE };
    let rows = db.all::<PageRow>(sql, &args).await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let epoch = db.generation().epoch(&first.0);
    let head = Head { epoch, offset: first.1.unsigned_abs(), number: first.2.unsigned_abs() };
    let members = first.15.as_deref().map_or(Ok(Vec::new()), serde_json::from_str::<Vec<i64>>);
    let members = members.map_err(|error| StoreError::Failed(format!("can't parse the members of a room: {error}")))?;
    let mut members: Vec<_> = members.into_iter().map(UserId).collect();
    members.sort_unstable();
    let publications = rows.into_iter().filter_map(publication_from).collect::<Vec<_>>();
    let more = more(request, &publications, head.offset);
    Ok(Some((Page { publications, head, more }, members)))
}

/// Whether the requested range, as far as it exists, continues after these publications.
pub(crate) fn more(request: PageRequest, publications: &[Publication], head: Offset) -> bool {
    let last = publications.last().map(|publication| publication.offset);
    if request.ascending {
        last.unwrap_or(request.from) < request.up_to.min(head)
    } else {
        last.unwrap_or(request.from.min(head.saturating_add(1))) > 1
    }
}

fn publication_from(row: PageRow) -> Option<Publication> {
    let (_, _, _, offset, number, kind, user, username, id, target, body, edited, deleted, time, meta, _) = row;
    let kind = Kind::from_number(kind?);
    // What the columns mean for a kind of a newer release is unknown.
    let is_known = kind != Kind::Unknown;
    Some(Publication {
        offset: offset?.unsigned_abs(),
        number: number?.unsigned_abs(),
        kind,
        user: User {
            id: UserId(user?),
            username: if is_known { username? } else { username.unwrap_or_default() }.into(),
        },
        id: id?.into(),
        time: time?.unsigned_abs(),
        target: target.filter(|_| is_known).map(i64::unsigned_abs),
        body: body.filter(|_| is_known).map(Into::into),
        edited: edited.filter(|_| is_known).map(i64::unsigned_abs),
        deleted: deleted.filter(|_| is_known).map(i64::unsigned_abs),
        meta: meta.filter(|_| is_known).map(Into::into),
    })
}

/// The room (its id, kind, epoch, last offset, whether the viewer is a member), and one message or NULLs: offset,
/// number, user, username, text, the sender's id, time, reply to, edited, deleted, and reactions as JSON.
type MessageColumns = (
    i64,
    i64,
    String,
    i64,
    bool,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
);

/// These columns and, behind them, the message's meta. Tuples are not that long.
struct MessageRow(MessageColumns, Option<String>);

macro_rules! impl_message_row {
    ($($row:ty),+) => {$(
        impl FromRow<'_, $row> for MessageRow {
            fn from_row(row: &$row) -> Result<MessageRow, sqlx::Error> {
                Ok(MessageRow(FromRow::from_row(row)?, row.try_get(16)?))
            }
        }
    )+};
}
impl_message_row!(SqliteRow, PgRow);

/// The direction and the functions that build JSON differ. The room's id comes from a scalar subquery: with that
/// equality, rows are read from the index in order, however long the room's log is.
macro_rules! messages_sql {
    ($order:literal, $lines:literal, $line:literal) => {
        concat!(
            "
    WITH room AS (
      SELECT r.id, r.kind, r.epoch, h.last_offset, m.user_id AS member
      FROM rooms r JOIN heads h ON h.room_id = r.id
      LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $2 WHERE r.name = $1
    ), item AS (
      SELECT m.* FROM messages m
      WHERE m.room_id = (SELECT id FROM room WHERE member IS NOT NULL) AND m.kind = 0
        AND m.room_offset > $3 AND m.room_offset < $4
      ORDER BY m.room_offset ",
            $order,
            " LIMIT $5
    )
    SELECT room.id, CAST(room.kind AS bigint), room.epoch, room.last_offset, room.member IS NOT NULL, i.room_offset,
      i.number, i.user_id, u.username, i.body, i.client_id, i.created_at, i.target_offset, i.edit_offset, i.gone_offset,
      (SELECT CAST(",
            $lines,
            "(",
            $line,
            "(x.emoji, x.users, x.mine, x.since)) AS text) FROM (
         SELECT k.emoji, k.users, CASE WHEN re.user_id IS NULL THEN 0 ELSE 1 END AS mine, k.since
         FROM reaction_kinds k LEFT JOIN reactions re ON re.room_id = k.room_id AND re.room_offset = k.room_offset
           AND re.emoji = k.emoji AND re.user_id = $2
         WHERE k.room_id = i.room_id AND k.room_offset = i.room_offset ORDER BY k.since, k.emoji LIMIT 20) x),
      i.meta
    FROM room
    LEFT JOIN item i ON i.room_id = room.id
    LEFT JOIN users u ON u.id = i.user_id
    ORDER BY i.room_offset"
        )
    };
}

/// One page of the messages of a room, for a viewer who must be a member.
pub(crate) async fn messages(
    db: &mut DbConnection,
    name: &str,
    viewer: UserId,
    cursor: Cursor,
    limit: usize,
) -> Result<MessagePage, RoomError> {
    let (above, below, ascending) = match cursor {
        Cursor::Newest => (0, i64::MAX, false),
        Cursor::Before(offset) => (0, offset_arg(offset), false),
        Cursor::After(offset) => (offset_arg(offset), i64::MAX, true),
    };
    let limit = rows_limit(limit);
    let sql = match (db.is_postgres(), ascending) {
        (false, true) => messages_sql!("ASC", "json_group_array", "json_array"),
        (false, false) => messages_sql!("DESC", "json_group_array", "json_array"),
        (true, true) => messages_sql!("ASC", "json_agg", "json_build_array"),
        (true, false) => messages_sql!("DESC", "json_agg", "json_build_array"),
    };
    // One row more than the limit shows whether there are more.
    let args = [Arg::Text(name), Arg::Int(viewer.0), Arg::Int(above), Arg::Int(below), Arg::Int(limit as i64 + 1)];
    let rows = db.all::<MessageRow>(sql, &args).await?;
    let Some(first) = rows.first() else {
        return Err(RoomError::NoRoom);
    };
    let MessageRow(columns, _) = first;
    let (room, kind, member) = (RoomId(columns.0), columns.1, columns.4);
    if !member {
        return Err(if kind == 0 { RoomError::NotMember } else { RoomError::NoRoom });
    }
    let (epoch, offset) = (db.generation().epoch(&columns.2), columns.3.unsigned_abs());
    let mut messages =
        rows.into_iter().filter_map(|row| message_from(row).transpose()).collect::<Result<Vec<_>, _>>()?;
    let more = messages.len() > limit;
    if more {
        // Rows are ascending; the surplus one is the farthest from the cursor.
        if ascending {
            messages.truncate(limit);
        } else {
            messages.drain(..messages.len() - limit);
        }
    }
    Ok(MessagePage { room, messages, epoch, offset, more })
}

fn message_from(MessageRow(columns, meta): MessageRow) -> Result<Option<Message>, StoreError> {
    let (_, _, _, _, _, offset, number, user, username, text, id, time, reply_to, edited, deleted, reactions) = columns;
    let (Some(offset), Some(number), Some(user), Some(username), Some(id), Some(time)) =
        (offset, number, user, username, id, time)
    else {
        return Ok(None);
    };
    Ok(Some(Message {
        offset: offset.unsigned_abs(),
        number: number.unsigned_abs(),
        user: User { id: UserId(user), username: username.into() },
        text,
        id: Some(id).filter(|id| !id.starts_with('~')),
        time: time.unsigned_abs(),
        reply_to: reply_to.map(i64::unsigned_abs),
        edited: edited.map(i64::unsigned_abs),
        deleted: deleted.is_some(),
        meta,
        reactions: reactions.as_deref().map_or(Ok(Vec::new()), reactions_from)?,
    }))
}

/// From a JSON array of [emoji, count, how many of them are the viewer's, since which offset]. For no reactions
/// PostgreSQL returns NULL. Kinds come in the order in which they were first given, as clients see them arrive.
fn reactions_from(json: &str) -> Result<Vec<Reaction>, StoreError> {
    let counts = serde_json::from_str::<Vec<(String, u32, u32, u64)>>(json);
    let mut counts =
        counts.map_err(|error| StoreError::Failed(format!("can't parse the reactions to a message: {error}")))?;
    counts.sort_by(|(a, .., since_a), (b, .., since_b)| (since_a, a).cmp(&(since_b, b)));
    Ok(counts.into_iter().map(|(emoji, count, mine, _)| Reaction { emoji, count, mine: mine > 0 }).collect())
}

/// Whether the viewer is a member, and a publication or NULLs: its offset, number and kind, the actor and the actor's
/// name, the id, the body and the time.
type ChangeRow = (
    bool,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
);

/// SQLite would take the primary key, and read all that lies between. PostgreSQL has statistics.
macro_rules! membership_changes_sql {
    ($index:literal) => {
        concat!(
            "
    WITH change AS (
      SELECT m.room_offset, m.number, m.kind, m.user_id, m.client_id, m.body, m.created_at FROM messages m ",
            $index,
            "
      WHERE m.room_id = $1 AND m.kind >= 5 AND m.kind IN (5, 7) AND m.room_offset > $2 AND m.room_offset <= $3
      ORDER BY m.room_offset DESC LIMIT $4
    )
    SELECT v.is_member, c.room_offset, c.number, CAST(c.kind AS bigint), c.user_id, u.username, c.client_id, c.body,
      c.created_at
    FROM (SELECT EXISTS (SELECT 1 FROM members m WHERE m.room_id = $1 AND m.user_id = $5) AS is_member) v
    LEFT JOIN change c ON v.is_member
    LEFT JOIN users u ON u.id = c.user_id
    ORDER BY c.room_offset"
        )
    };
}
pub(crate) const MEMBERSHIP_CHANGES_SQLITE: &str = membership_changes_sql!("INDEXED BY messages_memberships");

/// The newest joins and departures with offsets above `above`, up to `up_to`, for a viewer who must be a member.
pub(crate) async fn membership_changes(
    db: &mut DbConnection,
    room: RoomId,
    viewer: UserId,
    above: Offset,
    up_to: Offset,
    limit: usize,
) -> Result<Vec<Publication>, RoomError> {
    let limit = Arg::Int(rows_limit(limit) as i64);
    let args = [Arg::Int(room.0), Arg::Int(offset_arg(above)), Arg::Int(offset_arg(up_to)), limit, Arg::Int(viewer.0)];
    let sql = if db.is_postgres() { membership_changes_sql!("") } else { MEMBERSHIP_CHANGES_SQLITE };
    let rows = db.all::<ChangeRow>(sql, &args).await.map_err(StoreError::from)?;
    if !rows.first().is_some_and(|row| row.0) {
        return Err(RoomError::NotMember);
    }
    let change = |(_, offset, number, kind, user, username, id, body, time): ChangeRow| {
        Some(Publication {
            offset: offset?.unsigned_abs(),
            number: number?.unsigned_abs(),
            kind: Kind::from_number(kind?),
            user: User { id: UserId(user?), username: username?.into() },
            id: id?.into(),
            time: time?.unsigned_abs(),
            target: None,
            body: body.map(Into::into),
            edited: None,
            deleted: None,
            meta: None,
        })
    };
    Ok(rows.into_iter().filter_map(change).collect())
}

/// The heads of those rooms whose last offset is not the given one.
pub(crate) async fn sweep(db: &mut DbConnection, heads: &[(RoomId, Offset)]) -> Result<Swept, StoreError> {
    let ids: Vec<_> = heads.iter().map(|(room, _)| room.0).collect();
    let offsets: Vec<_> = heads.iter().map(|(_, offset)| offset_arg(*offset)).collect();
    let pairs;
    let rows = if db.is_postgres() {
        let sql = "SELECT w.id, r.epoch, h.last_offset, h.last_number FROM unnest($1, $2) AS w(id, last)
            LEFT JOIN heads h ON h.room_id = w.id LEFT JOIN rooms r ON r.id = h.room_id
            WHERE h.last_offset IS DISTINCT FROM w.last";
        db.all::<SweptRow>(sql, &[Arg::Ints(&ids), Arg::Ints(&offsets)]).await?
    } else {
        pairs = json(&ids.iter().zip(&offsets).collect::<Vec<_>>());
        let sql = "SELECT w.value ->> 0, r.epoch, h.last_offset, h.last_number FROM json_each($1) w
            LEFT JOIN heads h ON h.room_id = w.value ->> 0 LEFT JOIN rooms r ON r.id = h.room_id
            WHERE h.last_offset IS NOT w.value ->> 1";
        db.all::<SweptRow>(sql, &[Arg::Text(&pairs)]).await?
    };
    let generation = db.generation();
    let head = |(id, epoch, offset, number)| (RoomId(id), head_from(generation, epoch, offset, number));
    Ok(Swept { generation, heads: rows.into_iter().map(head).collect() })
}

/// A room, and its head or NULLs: epoch, last offset, last number.
type SweptRow = (i64, Option<String>, Option<i64>, Option<i64>);

/// The heads of rooms, in the order of `rooms`.
pub(crate) async fn heads(db: &mut DbConnection, rooms: &[RoomId]) -> Result<Vec<Option<Head>>, StoreError> {
    let sql = if db.is_postgres() {
        "SELECT r.epoch, h.last_offset, h.last_number FROM unnest($1) WITH ORDINALITY AS w(id, n)
            LEFT JOIN heads h ON h.room_id = w.id LEFT JOIN rooms r ON r.id = h.room_id ORDER BY w.n"
    } else {
        "SELECT r.epoch, h.last_offset, h.last_number FROM json_each($1) w
            LEFT JOIN heads h ON h.room_id = w.value LEFT JOIN rooms r ON r.id = h.room_id ORDER BY w.key"
    };
    let ids: Vec<_> = rooms.iter().map(|room| room.0).collect();
    let rows = db.all::<(Option<String>, Option<i64>, Option<i64>)>(sql, &[Arg::Ints(&ids)]).await?;
    if rows.len() != rooms.len() {
        return Err(wrong_row_count(rows.len(), rooms.len()));
    }
    let generation = db.generation();
    let head = |(epoch, offset, number)| head_from(generation, epoch, offset, number);
    Ok(rows.into_iter().map(head).collect())
}

/// `None` if the room does not exist: then everything is NULL.
fn head_from(
    generation: DatabaseGeneration,
    epoch: Option<String>,
    offset: Option<i64>,
    number: Option<i64>,
) -> Option<Head> {
    Some(Head { epoch: generation.epoch(&epoch?), offset: offset?.unsigned_abs(), number: number?.unsigned_abs() })
}
