//! Readers of the log, such as webhooks, and how far each of them has come in each room.

use crate::check::rows_limit;
use crate::connection::{Arg, DbConnection, json, offset_arg};
use crate::error::StoreError;
use crate::objects::{Batch, Move, Position, Progress, Registration, UnreadRoom};
use std::collections::HashSet;
use uproar_model::{Epoch, Offset, RoomId, UnixMillis};

/// [`crate::Store::register_reader`], in a transaction.
pub(crate) async fn register(db: &mut DbConnection, reader: &str, filter: &str) -> Result<Registration, StoreError> {
    let sql = "SELECT filter, former_filter, prepared_to, prepare_until, paused_at FROM readers WHERE reader = $1";
    type Row = (String, Option<String>, i64, i64, i64);
    let known = db.optional::<Row>(sql, &[Arg::Text(reader)]).await?;
    let paused_at = known.as_ref().map_or(0, |(.., paused_at)| paused_at.unsigned_abs());
    if let Some((known_filter, former_filter, prepared_to, until, _)) = &known
        && (known_filter == filter || prepared_to < until)
    {
        let is_prepared = prepared_to >= until;
        return Ok(Registration {
            filter: known_filter.clone(),
            former_filter: former_filter.clone(),
            prepared_to: RoomId(*prepared_to),
            prepare_until: RoomId(*until),
            is_prepared,
            paused_at,
        });
    }
    let newest = db.optional::<(i64,)>("SELECT coalesce(max(id), 0) FROM rooms", &[]).await?;
    let until = newest.map_or(0, |(id,)| id);
    let former = known.map(|(filter, ..)| filter);
    let sql =
        "INSERT INTO readers (reader, filter, former_filter, prepared_to, prepare_until) VALUES ($1, $2, $3, 0, $4)
        ON CONFLICT (reader) DO UPDATE SET filter = excluded.filter, former_filter = excluded.former_filter,
          prepared_to = excluded.prepared_to, prepare_until = excluded.prepare_until";
    db.execute(sql, &[Arg::Text(reader), Arg::Text(filter), Arg::Maybe(former.as_deref()), Arg::Int(until)]).await?;
    Ok(Registration {
        filter: filter.to_owned(),
        former_filter: former,
        prepared_to: RoomId(0),
        prepare_until: RoomId(until),
        is_prepared: until == 0,
        paused_at,
    })
}

/// [`crate::Store::pause_reader`].
pub(crate) async fn pause(db: &mut DbConnection, reader: &str, at: UnixMillis) -> Result<(), StoreError> {
    let sql = "UPDATE readers SET paused_at = $2 WHERE reader = $1 AND paused_at <> $2";
    db.execute(sql, &[Arg::Text(reader), Arg::Int(at.cast_signed())]).await?;
    Ok(())
}

/// [`crate::Store::reader_paused_at`].
pub(crate) async fn paused_at(db: &mut DbConnection, reader: &str) -> Result<UnixMillis, StoreError> {
    let sql = "SELECT paused_at FROM readers WHERE reader = $1";
    let row = db.optional::<(i64,)>(sql, &[Arg::Text(reader)]).await?;
    Ok(row.map_or(0, |(at,)| at.unsigned_abs()))
}

/// [`crate::Store::room_heads`].
pub(crate) async fn room_heads(
    db: &mut DbConnection,
    after: RoomId,
    up_to: RoomId,
    limit: usize,
) -> Result<Vec<(RoomId, String, Offset)>, StoreError> {
    let sql = "SELECT h.room_id, r.name, h.last_offset FROM heads h JOIN rooms r ON r.id = h.room_id
        WHERE h.room_id > $1 AND h.room_id <= $2 ORDER BY h.room_id LIMIT $3";
    let args = [Arg::Int(after.0), Arg::Int(up_to.0), Arg::Int(rows_limit(limit) as i64)];
    let rows = db.all::<(i64, Option<String>, i64)>(sql, &args).await?;
    let head =
        |(room, name, head): (i64, Option<String>, i64)| (RoomId(room), name.unwrap_or_default(), head.unsigned_abs());
    Ok(rows.into_iter().map(head).collect())
}

/// [`crate::Store::prepare_positions`], in a transaction.
pub(crate) async fn prepare(
    db: &mut DbConnection,
    reader: &str,
    prepared_to: RoomId,
    heads: &[(RoomId, Offset)],
) -> Result<(), StoreError> {
    let rooms: Vec<_> = heads.iter().map(|(room, _)| room.0).collect();
    let offsets: Vec<_> = heads.iter().map(|(_, offset)| offset_arg(*offset)).collect();
    if db.is_postgres() {
        let sql = "INSERT INTO positions (reader, room_id, room_offset)
            SELECT $1, w.room, w.head FROM unnest($2, $3) AS w(room, head) JOIN heads h ON h.room_id = w.room
            ON CONFLICT (reader, room_id) DO UPDATE SET room_offset = excluded.room_offset, batch_to = 0,
              batch_epoch = '', batch_at = 0, batch_note = ''";
        db.execute(sql, &[Arg::Text(reader), Arg::Ints(&rooms), Arg::Ints(&offsets)]).await?;
    } else {
        let pairs = json(&rooms.iter().zip(&offsets).collect::<Vec<_>>());
        let sql = "INSERT INTO positions (reader, room_id, room_offset)
            SELECT $1, w.value ->> 0, w.value ->> 1 FROM json_each($2) w JOIN heads h ON h.room_id = w.value ->> 0
            WHERE true
            ON CONFLICT (reader, room_id) DO UPDATE SET room_offset = excluded.room_offset, batch_to = 0,
              batch_epoch = '', batch_at = 0, batch_note = ''";
        db.execute(sql, &[Arg::Text(reader), Arg::Text(&pairs)]).await?;
    }
    let sql = "UPDATE readers SET prepared_to = $2 WHERE reader = $1";
    db.execute(sql, &[Arg::Text(reader), Arg::Int(prepared_to.0)]).await?;
    Ok(())
}

/// [`crate::Store::unread_rooms`].
pub(crate) async fn unread_rooms(
    db: &mut DbConnection,
    reader: &str,
    after: RoomId,
    limit: usize,
) -> Result<(Vec<UnreadRoom>, Option<RoomId>), StoreError> {
    let limit = limit as i64;
    let sql = "SELECT max(page.room_id), count(*) FROM
        (SELECT room_id FROM heads WHERE room_id > $1 ORDER BY room_id LIMIT $2) page";
    let scanned = db.optional::<(Option<i64>, i64)>(sql, &[Arg::Int(after.0), Arg::Int(limit)]).await?;
    let Some((Some(last), count)) = scanned else { return Ok((Vec::new(), None)) };
    // The publication after the position says since when the room waits.
    let sql = "SELECT h.room_id, r.name, h.last_offset, coalesce(p.room_offset, 0), coalesce(m.created_at, 0)
        FROM heads h JOIN rooms r ON r.id = h.room_id
        LEFT JOIN positions p ON p.reader = $1 AND p.room_id = h.room_id
        LEFT JOIN messages m ON m.room_id = h.room_id AND m.room_offset = coalesce(p.room_offset, 0) + 1
        WHERE h.room_id > $2 AND h.room_id <= $3 AND h.last_offset > coalesce(p.room_offset, 0) ORDER BY h.room_id";
    let args = [Arg::Text(reader), Arg::Int(after.0), Arg::Int(last)];
    let rows = db.all::<(i64, Option<String>, i64, i64, i64)>(sql, &args).await?;
    let unread = rows.into_iter().map(|(room, name, head, done, since)| UnreadRoom {
        room: RoomId(room),
        name: name.unwrap_or_default(),
        head: head.unsigned_abs(),
        done: done.unsigned_abs(),
        since: since.unsigned_abs(),
    });
    Ok((unread.collect(), (count >= limit).then_some(RoomId(last))))
}

/// [`crate::Store::progress`].
pub(crate) async fn progress(
    db: &mut DbConnection,
    reader: &str,
    room: RoomId,
) -> Result<Option<Progress>, StoreError> {
    let sql = "SELECT r.name, r.epoch, h.last_offset, coalesce(p.room_offset, 0), coalesce(p.batch_to, 0),
          coalesce(p.batch_epoch, ''), coalesce(p.batch_at, 0), coalesce(p.batch_note, '')
        FROM heads h JOIN rooms r ON r.id = h.room_id LEFT JOIN positions p ON p.reader = $1 AND p.room_id = h.room_id
        WHERE h.room_id = $2";
    type Row = (Option<String>, String, i64, i64, i64, String, i64, String);
    let row = db.optional::<Row>(sql, &[Arg::Text(reader), Arg::Int(room.0)]).await?;
    let Some((name, epoch, head, done, to, batch_epoch, begun_at, note)) = row else { return Ok(None) };
    let (epoch_of_batch, begun_at) = (Epoch(batch_epoch.into()), begun_at.unsigned_abs());
    let batch = Batch { to: to.unsigned_abs(), epoch: epoch_of_batch, begun_at, note };
    Ok(Some(Progress {
        name: name.unwrap_or_default(),
        epoch: db.generation().epoch(&epoch),
        head: head.unsigned_abs(),
        position: Position { done: done.unsigned_abs(), batch: (to > 0).then_some(batch) },
    }))
}

/// [`crate::Store::move_positions`]: in a transaction on SQLite; on PostgreSQL each statement is safe by itself.
pub(crate) async fn advance(db: &mut DbConnection, moves: &[Move]) -> Result<Vec<bool>, StoreError> {
    let first: Vec<&Move> = moves.iter().filter(|it| it.from.done == 0).collect();
    if !first.is_empty() {
        create(db, &first).await?;
    }
    let batch = |position: &Position| position.batch.as_ref().map_or(0, |batch| offset_arg(batch.to));
    let readers: Vec<_> = moves.iter().map(|it| &*it.reader).collect();
    let rooms: Vec<_> = moves.iter().map(|it| it.room.0).collect();
    let from_done: Vec<_> = moves.iter().map(|it| offset_arg(it.from.done)).collect();
    let from_batch: Vec<_> = moves.iter().map(|it| batch(&it.from)).collect();
    let done: Vec<_> = moves.iter().map(|it| offset_arg(it.to.done)).collect();
    let batch_to: Vec<_> = moves.iter().map(|it| batch(&it.to)).collect();
    let epochs: Vec<_> = moves.iter().map(|it| it.to.batch.as_ref().map_or("", |batch| &*batch.epoch.0)).collect();
    let begun: Vec<_> = moves.iter().map(|it| it.to.batch.as_ref().map_or(0, |it| offset_arg(it.begun_at))).collect();
    let notes: Vec<_> = moves.iter().map(|it| it.to.batch.as_ref().map_or("", |batch| &*batch.note)).collect();
    let moved = if db.is_postgres() {
        let sql = "UPDATE positions p
            SET room_offset = w.done, batch_to = w.batch_to, batch_epoch = w.epoch, batch_at = w.begun,
              batch_note = w.note
            FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)
              AS w(reader, room, from_done, from_batch, done, batch_to, epoch, begun, note)
            WHERE p.reader = w.reader AND p.room_id = w.room AND p.room_offset = w.from_done
              AND p.batch_to = w.from_batch AND EXISTS (SELECT 1 FROM heads h WHERE h.room_id = p.room_id)
            RETURNING p.reader, p.room_id";
        let args = [
            Arg::Texts(&readers),
            Arg::Ints(&rooms),
            Arg::Ints(&from_done),
            Arg::Ints(&from_batch),
            Arg::Ints(&done),
            Arg::Ints(&batch_to),
            Arg::Texts(&epochs),
            Arg::Ints(&begun),
            Arg::Texts(&notes),
        ];
        db.all::<(String, i64)>(sql, &args).await?
    } else {
        let row = |n: usize| {
            let (from, to) = ((from_done[n], from_batch[n]), (done[n], batch_to[n]));
            (readers[n], rooms[n], from.0, from.1, to.0, to.1, epochs[n], begun[n], notes[n])
        };
        let rows = json(&(0..moves.len()).map(row).collect::<Vec<_>>());
        let sql = "UPDATE positions
            SET room_offset = w.value ->> 4, batch_to = w.value ->> 5, batch_epoch = w.value ->> 6,
              batch_at = w.value ->> 7, batch_note = w.value ->> 8
            FROM json_each($1) AS w
            WHERE positions.reader = w.value ->> 0 AND positions.room_id = w.value ->> 1
              AND positions.room_offset = w.value ->> 2 AND positions.batch_to = w.value ->> 3
              AND EXISTS (SELECT 1 FROM heads h WHERE h.room_id = positions.room_id)
            RETURNING reader, room_id";
        db.all::<(String, i64)>(sql, &[Arg::Text(&rows)]).await?
    };
    let moved: HashSet<(&str, i64)> = moved.iter().map(|(reader, room)| (reader.as_str(), *room)).collect();
    Ok(moves.iter().map(|it| moved.contains(&(&*it.reader, it.room.0))).collect())
}

/// Gives rooms that exist a position at 0, if they have none.
async fn create(db: &mut DbConnection, moves: &[&Move]) -> Result<(), StoreError> {
    let readers: Vec<_> = moves.iter().map(|it| &*it.reader).collect();
    let rooms: Vec<_> = moves.iter().map(|it| it.room.0).collect();
    if db.is_postgres() {
        let sql = "INSERT INTO positions (reader, room_id, room_offset)
            SELECT w.reader, w.room, 0 FROM unnest($1, $2) AS w(reader, room) JOIN heads h ON h.room_id = w.room
            ON CONFLICT (reader, room_id) DO NOTHING";
        db.execute(sql, &[Arg::Texts(&readers), Arg::Ints(&rooms)]).await?;
    } else {
        let pairs = json(&readers.iter().zip(&rooms).collect::<Vec<_>>());
        let sql = "INSERT INTO positions (reader, room_id, room_offset)
            SELECT w.value ->> 0, w.value ->> 1, 0 FROM json_each($1) w JOIN heads h ON h.room_id = w.value ->> 1
            WHERE true ON CONFLICT (reader, room_id) DO NOTHING";
        db.execute(sql, &[Arg::Text(&pairs)]).await?;
    }
    Ok(())
}
