//! The commit path: what the judgement needs is read in one statement, judged here, and written in a few statements,
//! however long the batch is. Each statement is a hop to the connection's thread and back; what an append really costs is
//! the pages that it writes.

use super::Sqlite;
use crate::AppendError;
use crate::check;
use crate::error::one_line;
use crate::history::offset_arg;
use crate::session::{Arg, Session, json, unix_millis};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use uproar_model::{Item, Kind, Outcome, Refusal, RoomId, Stored, UserId};

impl Sqlite {
    pub async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        let not_begun = |error: sqlx::Error| failure(&error, Stage::Before);
        let mut session = self.write().await.map_err(not_begun)?;
        session.begin().await.map_err(not_begun)?;
        match append(&mut session, batch).await {
            Ok(outcomes) => {
                session.commit().await.map_err(|error| failure(&error, Stage::Commit))?;
                Ok(outcomes)
            }
            Err(error) => {
                session.rollback().await;
                Err(failure(&error, Stage::Before))
            }
        }
    }
}

/// When an error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was written that a crash would show.
    Before,
    Commit,
}

/// What an error means for the batch.
fn failure(error: &sqlx::Error, stage: Stage) -> AppendError {
    let code = error.as_database_error().and_then(|error| error.code());
    meaning(code.and_then(|code| code.parse().ok()), stage)(one_line(error))
}

/// By the extended result code, whose low byte is the primary one. <https://www.sqlite.org/rescode.html>
fn meaning(code: Option<i32>, stage: Stage) -> fn(String) -> AppendError {
    match (code.map(|code| code & 0xff), stage) {
        // TOOBIG, CONSTRAINT, MISMATCH
        (Some(18..=20), _) => AppendError::Data,
        // CORRUPT, NOTADB: no retry mends these.
        (Some(11 | 26), _) => AppendError::Broken,
        // IOERR. After a failed fsync the kernel may have dropped what it could not write. (A full disk is another code,
        // FULL: then nothing was committed, and it is tried again.)
        (Some(10), Stage::Commit) => AppendError::Broken,
        _ => AppendError::Unknown,
    }
}

/// What the database holds that an item is judged by: its index; the room's last offset and number, none without a room;
/// the sender's role, none without membership; what is stored under its id: offset, number, time, whether kind and target
/// are the same, whether the body is; the target's author, and offset, number and time of its deletion.
type Facts = (
    i64,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<bool>,
    Option<bool>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

// The text of an edit and the first text of an edited or deleted message are not kept: there the id alone decides.
const FACTS: &str = "
    WITH item AS (
      SELECT e.key AS n, e.value ->> 0 AS room_id, e.value ->> 1 AS user_id, e.value ->> 2 AS client_id,
        e.value ->> 3 AS kind, e.value ->> 4 AS target, e.value ->> 5 AS body
      FROM json_each($1) e
    )
    SELECT i.n, h.last_offset, h.last_number, m.role, old.room_offset, old.number, old.created_at,
      old.kind = i.kind AND old.target_offset IS i.target,
      old.body IS NULL OR old.edit_offset IS NOT NULL OR old.body = i.body,
      t.user_id, gone.room_offset, gone.number, gone.created_at
    FROM item i
    LEFT JOIN heads h ON h.room_id = i.room_id
    LEFT JOIN members m ON m.room_id = i.room_id AND m.user_id = i.user_id
    LEFT JOIN messages old ON old.room_id = i.room_id AND old.user_id = i.user_id AND old.client_id = i.client_id
    LEFT JOIN messages t ON t.room_id = i.room_id AND t.room_offset = i.target AND t.kind = 0
    LEFT JOIN messages gone ON gone.room_id = t.room_id AND gone.room_offset = t.gone_offset";

// Both statements read the same rows: room, offset, number, kind, user, id, target, body.
const INSERT: &str = "
    INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, target_offset, body, created_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, $2
    FROM json_each($1);
    UPDATE heads SET last_offset = x.last_offset, last_number = x.last_number
    FROM (SELECT value ->> 0 AS room_id, max(value ->> 1) AS last_offset, max(value ->> 2) AS last_number
      FROM json_each($1) GROUP BY 1) x
    WHERE heads.room_id = x.room_id";

// Room, offset, body, edited, deleted.
const CHANGE: &str = "
    UPDATE messages SET body = x.value ->> 2, edit_offset = coalesce(x.value ->> 3, edit_offset), gone_offset = x.value ->> 4
    FROM json_each($1) x WHERE room_id = x.value ->> 0 AND room_offset = x.value ->> 1;
    DELETE FROM reactions WHERE (room_id, room_offset) IN
      (SELECT value ->> 0, value ->> 1 FROM json_each($1) WHERE value ->> 4 IS NOT NULL)";

// Room, offset, emoji, user, whether it stays.
const REACT: &str = "
    INSERT OR IGNORE INTO reactions (room_id, room_offset, emoji, user_id)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1) WHERE value ->> 4 = 1;
    DELETE FROM reactions WHERE (room_id, room_offset, emoji, user_id) IN
      (SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1) WHERE value ->> 4 = 0)";

async fn append(session: &mut Session, batch: &[Item]) -> Result<Vec<Outcome>, sqlx::Error> {
    let asked: Vec<_> = batch
        .iter()
        .map(|item| {
            // What is refused anyway is not shown to the database: it would cut a text at U+0000.
            let known = check::refusal(item).is_none();
            let id = if known { &*item.id } else { "" };
            let body = item.body.as_deref().filter(|_| known);
            (item.room.0, item.user.0, id, item.kind as u8, item.target.map(offset_arg), body)
        })
        .collect();
    let mut facts = session.all::<Facts>(FACTS, &[Arg::Text(&json(&asked))]).await?;
    facts.sort_unstable_by_key(|facts| facts.0);
    if facts.len() != batch.len() {
        return Err(sqlx::Error::Protocol("an answer of the wrong length".to_owned()));
    }
    let now = unix_millis();
    let mut judge = Judge::new(now);
    let outcomes = batch.iter().zip(facts).map(|(item, facts)| judge.judge(item, facts)).collect();

    if !judge.rows.is_empty() {
        // Neighbours in the table are written one after the other.
        judge.rows.sort_unstable_by_key(|row| (row.0, row.1));
        session.execute(INSERT, &[Arg::Text(&json(&judge.rows)), Arg::Int(now)]).await?;
    }
    if !judge.changes.is_empty() {
        let changes: Vec<_> =
            judge.changes.iter().map(|((room, target), c)| (room.0, target, c.body, c.edited, c.deleted)).collect();
        session.execute(CHANGE, &[Arg::Text(&json(&changes))]).await?;
    }
    if !judge.reactions.is_empty() {
        let reactions: Vec<_> = judge
            .reactions
            .iter()
            .map(|(&(room, target, emoji, user), &stays)| (room.0, target, emoji, user.0, i64::from(stays)))
            .collect();
        session.execute(REACT, &[Arg::Text(&json(&reactions))]).await?;
    }
    Ok(outcomes)
}

/// Judges items one after the other, each as if those before it had been appended in batches of their own: how a batch is
/// cut never changes an answer.
struct Judge<'b> {
    now: i64,
    /// Last offset and number of the rooms that items were appended to.
    heads: HashMap<RoomId, (i64, i64)>,
    /// What was appended under an id.
    stored: HashMap<(RoomId, UserId, &'b str), (&'b Item, Stored)>,
    /// Authors of messages appended.
    authors: HashMap<(RoomId, i64), UserId>,
    /// Messages edited or deleted: what they hold now.
    changes: BTreeMap<(RoomId, i64), Change<'b>>,
    /// Reactions given or taken back, by room, message, emoji and user; a deletion takes those of its message along.
    reactions: BTreeMap<(RoomId, i64, &'b str, UserId), bool>,
    rows: Vec<NewRow<'b>>,
}

/// Room, offset, number, kind, user, id, target, body.
type NewRow<'b> = (i64, i64, i64, u8, i64, &'b str, Option<i64>, Option<&'b str>);

struct Change<'b> {
    body: Option<&'b str>,
    edited: Option<i64>,
    deleted: Option<i64>,
    /// Of the deletion.
    stored: Option<Stored>,
}

impl<'b> Judge<'b> {
    fn new(now: i64) -> Judge<'b> {
        Judge {
            now,
            heads: HashMap::new(),
            stored: HashMap::new(),
            authors: HashMap::new(),
            changes: BTreeMap::new(),
            reactions: BTreeMap::new(),
            rows: Vec::new(),
        }
    }

    fn judge(&mut self, item: &'b Item, facts: Facts) -> Outcome {
        match self.refuse_or_repeat(item, facts) {
            Some(outcome) => outcome,
            None => Outcome::New(self.append(item, facts)),
        }
    }

    /// The answer where nothing is to be appended.
    fn refuse_or_repeat(&self, item: &Item, facts: Facts) -> Option<Outcome> {
        let (_, last_offset, _, role, old_offset, old_number, old_at, same_kind, same_body, author, ..) = facts;
        let (.., gone_offset, gone_number, gone_at) = facts;
        if let Some(refusal) = check::refusal(item) {
            return Some(Outcome::Refused(refusal));
        }
        if last_offset.is_none() {
            return Some(Outcome::Refused(Refusal::NoRoom));
        }
        if let Some(stored) = stored_from(old_offset, old_number, old_at) {
            let changed = self.changes.contains_key(&(item.room, offset_arg(stored.offset)));
            let same = same_kind == Some(true) && (same_body == Some(true) || changed);
            return Some(if same { Outcome::Duplicate(stored) } else { Outcome::Refused(Refusal::IdReused) });
        }
        if let Some((first, stored)) = self.stored.get(&(item.room, item.user, &*item.id)) {
            let changed = self.changes.contains_key(&(item.room, offset_arg(stored.offset)));
            let same = first.kind == item.kind
                && first.target == item.target
                && (first.body == item.body || item.kind == Kind::Edit || changed);
            return Some(if same { Outcome::Duplicate(*stored) } else { Outcome::Refused(Refusal::IdReused) });
        }
        let Some(role) = role else {
            return Some(Outcome::Refused(Refusal::NotMember));
        };
        let target = (item.room, offset_arg(item.target?));
        let Some(author) = self.authors.get(&target).copied().or(author.map(UserId)) else {
            return Some(Outcome::Refused(Refusal::NoTarget));
        };
        let deletion = self.changes.get(&target).and_then(|change| change.stored);
        let deletion = deletion.or(stored_from(gone_offset, gone_number, gone_at));
        match (item.kind, deletion) {
            (Kind::Edit | Kind::React | Kind::Unreact, Some(_)) => Some(Outcome::Refused(Refusal::NoTarget)),
            (Kind::Edit, None) if author != item.user => Some(Outcome::Refused(Refusal::NotYours)),
            (Kind::Delete, _) if author != item.user && role == 0 => Some(Outcome::Refused(Refusal::NotYours)),
            (Kind::Delete, Some(stored)) => Some(Outcome::Duplicate(stored)),
            _ => None,
        }
    }

    fn append(&mut self, item: &'b Item, facts: Facts) -> Stored {
        let (last_offset, last_number) = match self.heads.entry(item.room) {
            Entry::Occupied(head) => *head.get(),
            Entry::Vacant(_) => (facts.1.unwrap_or_default(), facts.2.unwrap_or_default()),
        };
        let (offset, number) = (last_offset + 1, last_number + i64::from(item.kind == Kind::Message));
        self.heads.insert(item.room, (offset, number));
        let stored =
            Stored { offset: offset.unsigned_abs(), number: number.unsigned_abs(), time: self.now.unsigned_abs() };
        self.stored.insert((item.room, item.user, &item.id), (item, stored));

        let body = item.body.as_deref();
        let target = item.target.map(offset_arg);
        let kept = body.filter(|_| item.kind != Kind::Edit);
        self.rows.push((item.room.0, offset, number, item.kind as u8, item.user.0, &item.id, target, kept));

        match (item.kind, target) {
            (Kind::Message, _) => {
                self.authors.insert((item.room, offset), item.user);
            }
            (Kind::Edit, Some(target)) => {
                let change = Change { body, edited: Some(offset), deleted: None, stored: None };
                self.changes.insert((item.room, target), change);
            }
            (Kind::Delete, Some(target)) => {
                let edited = self.changes.get(&(item.room, target)).and_then(|change| change.edited);
                let change = Change { body: None, edited, deleted: Some(offset), stored: Some(stored) };
                self.changes.insert((item.room, target), change);
                self.reactions.retain(|&(room, of, _, _), _| (room, of) != (item.room, target));
            }
            (Kind::React | Kind::Unreact, Some(target)) => {
                let reaction = (item.room, target, body.unwrap_or_default(), item.user);
                self.reactions.insert(reaction, item.kind == Kind::React);
            }
            _ => {}
        }
        stored
    }
}

fn stored_from(offset: Option<i64>, number: Option<i64>, at: Option<i64>) -> Option<Stored> {
    Some(Stored { offset: offset?.unsigned_abs(), number: number?.unsigned_abs(), time: at?.unsigned_abs() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataFolder, NewRoom, OpenOptions, RoomKind, Store};

    #[test]
    fn what_codes_mean() {
        let is = |code, stage| match meaning(code, stage)(String::new()) {
            AppendError::Unknown(_) => "unknown",
            AppendError::Data(_) => "data",
            AppendError::Broken(_) => "broken",
        };
        // FULL, BUSY, and what is no answer of SQLite at all: again.
        for code in [Some(13), Some(5), Some(517), None] {
            assert_eq!((is(code, Stage::Before), is(code, Stage::Commit)), ("unknown", "unknown"));
        }
        // IOERR, IOERR_FSYNC, IOERR_WRITE
        for code in [Some(10), Some(1034), Some(778)] {
            assert_eq!((is(code, Stage::Before), is(code, Stage::Commit)), ("unknown", "broken"));
        }
        // CONSTRAINT_UNIQUE, TOOBIG
        for code in [Some(2067), Some(18)] {
            assert_eq!((is(code, Stage::Before), is(code, Stage::Commit)), ("data", "data"));
        }
        assert_eq!(is(Some(11), Stage::Before), "broken");
    }

    #[tokio::test]
    async fn a_full_disk_is_waited_for() -> Result<(), Box<dyn std::error::Error>> {
        let place = tempfile::TempDir::new()?;
        let folder = DataFolder::open(place.path().join("data"))?;
        let database = Sqlite::open(&folder.database_path(), &folder, &OpenOptions::default()).await?;
        let owner = database.ensure_user("Ann", "ann").await?.id;
        let (name, title) = ("lobby".to_owned(), String::new());
        let room = database.create_room(NewRoom { name, title, kind: RoomKind::Public, size: 5, owner }).await?.id;
        let item = |n: usize| Item {
            room,
            user: owner,
            id: format!("{n}").into(),
            kind: Kind::Message,
            target: None,
            body: Some("x".repeat(16 * 1024).into()),
        };
        let batch: Vec<_> = (0..50).map(item).collect();

        // As large as it is now and no larger. The pragma is the connection's, of which there is one.
        let database = &database;
        let pages = |limit: &'static str| async move { database.sqlite_writer().await?.execute(limit, &[]).await };
        pages("PRAGMA max_page_count = 1").await?;
        let full = database.append(&batch).await;
        assert!(matches!(&full, Err(AppendError::Unknown(why)) if why.contains("full")), "{full:?}");
        assert_eq!(database.heads(&[room]).await?[0].as_ref().map(|head| head.offset), Some(0));
        pages("PRAGMA max_page_count = 1000000").await?;
        assert!(database.append(&batch).await?.iter().all(|outcome| matches!(outcome, Outcome::New(_))));
        database.close().await;
        Ok(())
    }
}
