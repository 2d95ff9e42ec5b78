//! The commit path. One statement reads everything that decides a batch, the decisions are made here, and a few
//! statements write the result, however long the batch is. Each statement is a round trip to the connection's thread,
//! but most of the cost of an append is the pages that it writes.

use crate::check;
use crate::connection::{Arg, DbConnection, json, offset_arg, unix_millis};
use crate::error::{AppendError, one_line};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use uproar_model::{Item, Kind, OWN_REACTIONS_LIMIT, Outcome, REACTION_KINDS_LIMIT, Refusal, RoomId, Stored, UserId};

/// Appends a batch on the connection that writes.
pub(super) async fn append(mut db: DbConnection, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
    db.begin().await.map_err(|error| not_begun(&error))?;
    match append_in_transaction(&mut db, batch).await {
        Ok(outcomes) => {
            db.commit().await.map_err(|error| failure(&error, Stage::Commit))?;
            Ok(outcomes)
        }
        Err(error) => {
            db.rollback().await;
            Err(failure(&error, Stage::BeforeCommit))
        }
    }
}

/// What an error means that occurred before the transaction began.
pub(super) fn not_begun(error: &sqlx::Error) -> AppendError {
    failure(error, Stage::BeforeCommit)
}

/// When an error occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was written that would survive a crash.
    BeforeCommit,
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
        (Some(18..=20), _) => AppendError::DataRejected,
        // CORRUPT, NOTADB: a retry can't help.
        (Some(11 | 26), _) => AppendError::Fatal,
        // IOERR. After a failed fsync, the kernel may have dropped what it could not write. (A full disk has another
        // code, FULL: then nothing was committed, and the batch is tried again.)
        (Some(10), Stage::Commit) => AppendError::Fatal,
        _ => AppendError::OutcomeUnknown,
    }
}

/// What the database knows about an item: the item's index; the room's last offset and number (NULL: no room); the
/// sender's role (NULL: not a member); the row stored under the item's id: offset, number, time, whether its kind and
/// target are the same, whether its body and meta are; the target's author, number and time, and the offset, number and
/// time of its deletion; what limits what the sender may post, as a JSON array of [`Limits`] (NULL: nothing does).
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
    Option<i64>,
    Option<i64>,
    Option<String>,
);

/// The room's slow mode in seconds (0: none); who may post there (0 members, 1 moderators, 2 nobody); until when the
/// sender is silenced; when the sender last posted there, if the room has slow mode. PostgreSQL's function `append` has
/// the same rules.
type Limits = (i64, i64, Option<i64>, Option<i64>);

// The text of an edit, and the original text of an edited or deleted message, are not kept. There the id alone decides
// whether an item is a duplicate.
const FACTS: &str = "
    WITH item AS (
      SELECT e.key AS n, e.value ->> 0 AS room_id, e.value ->> 1 AS user_id, e.value ->> 2 AS client_id,
        e.value ->> 3 AS kind, e.value ->> 4 AS target, e.value ->> 5 AS body, e.value ->> 6 AS meta
      FROM json_each($1) e
    )
    SELECT i.n, h.last_offset, h.last_number, m.role, old.room_offset, old.number, old.created_at,
      old.kind = i.kind AND old.target_offset IS i.target,
      old.body IS NULL OR old.edit_offset IS NOT NULL OR (old.body = i.body AND old.meta IS i.meta),
      t.user_id, t.number, t.created_at, gone.room_offset, gone.number, gone.created_at,
      CASE WHEN h.slow_mode_seconds > 0 OR h.who_may_post > 0 OR m.silenced_until IS NOT NULL
        THEN json_array(h.slow_mode_seconds, h.who_may_post, m.silenced_until, m.last_posted_at) END
    FROM item i
    LEFT JOIN heads h ON h.room_id = i.room_id
    LEFT JOIN members m ON m.room_id = i.room_id AND m.user_id = i.user_id
    LEFT JOIN messages old ON old.room_id = i.room_id AND old.user_id = i.user_id AND old.client_id = i.client_id
    LEFT JOIN messages t ON t.room_id = i.room_id AND t.room_offset = i.target AND t.kind = 0
    LEFT JOIN messages gone ON gone.room_id = t.room_id AND gone.room_offset = t.gone_offset";

// Both statements read the same JSON rows: room, offset, number, kind, user, id, target, body, meta.
macro_rules! insert_sql {
    ($column:literal, $value:literal) => {
        concat!(
            "
    INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, target_offset, body, created_at",
            $column,
            ")
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, $2",
            $value,
            "
    FROM json_each($1);
    UPDATE heads SET last_offset = x.last_offset, last_number = x.last_number
    FROM (SELECT value ->> 0 AS room_id, max(value ->> 1) AS last_offset, max(value ->> 2) AS last_number
      FROM json_each($1) GROUP BY 1) x
    WHERE heads.room_id = x.room_id"
        )
    };
}
const INSERT: &str = insert_sql!("", "");
/// For batches in which a message has meta.
const INSERT_WITH_META: &str = insert_sql!(", meta", ", value ->> 8");

// JSON rows: room, offset, body, edited, deleted.
const CHANGE: &str = "
    UPDATE messages SET body = x.value ->> 2, edit_offset = coalesce(x.value ->> 3, edit_offset),
      gone_offset = x.value ->> 4, meta = CASE WHEN x.value ->> 4 IS NULL THEN meta END
    FROM json_each($1) x WHERE room_id = x.value ->> 0 AND room_offset = x.value ->> 1;
    DELETE FROM reactions WHERE (room_id, room_offset) IN
      (SELECT value ->> 0, value ->> 1 FROM json_each($1) WHERE value ->> 4 IS NOT NULL);
    DELETE FROM reaction_kinds WHERE (room_id, room_offset) IN
      (SELECT value ->> 0, value ->> 1 FROM json_each($1) WHERE value ->> 4 IS NOT NULL)";

// JSON rows: room, user. They have posted in a room with slow mode.
const POSTED: &str = "
    UPDATE members SET last_posted_at = $2 FROM json_each($1) x
    WHERE room_id = x.value ->> 0 AND user_id = x.value ->> 1";

// JSON rows: room, offset, emoji, user, whether the reaction is given (1) or taken back (0).
const REACT: &str = "
    INSERT OR IGNORE INTO reactions (room_id, room_offset, emoji, user_id)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1) WHERE value ->> 4 = 1;
    DELETE FROM reactions WHERE (room_id, room_offset, emoji, user_id) IN
      (SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1) WHERE value ->> 4 = 0)";

// JSON rows: room, offset, user. The answer: room, offset, user, emoji, since, users, whether the user is one of them.
// A message has few kinds of reactions, and each is one probe of an index for the user.
const KINDS: &str = "
    SELECT k.room_id, k.room_offset, e.value ->> 2, k.emoji, k.since, k.users, r.user_id IS NOT NULL
    FROM json_each($1) e
    JOIN reaction_kinds k ON k.room_id = e.value ->> 0 AND k.room_offset = e.value ->> 1
    LEFT JOIN reactions r ON r.room_id = k.room_id AND r.room_offset = k.room_offset AND r.emoji = k.emoji
      AND r.user_id = e.value ->> 2";

// JSON rows: room, offset, emoji, since, users.
const SET_KINDS: &str = "
    INSERT INTO reaction_kinds (room_id, room_offset, emoji, since, users)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each($1) WHERE value ->> 4 > 0
    ON CONFLICT (room_id, room_offset, emoji) DO UPDATE SET since = excluded.since, users = excluded.users;
    DELETE FROM reaction_kinds WHERE (room_id, room_offset, emoji) IN
      (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($1) WHERE value ->> 4 = 0)";

pub(crate) async fn append_in_transaction(db: &mut DbConnection, batch: &[Item]) -> Result<Vec<Outcome>, sqlx::Error> {
    let keys: Vec<_> = batch
        .iter()
        .map(|item| {
            // The texts of invalid items are left out: SQLite would cut them off at U+0000.
            let is_valid = check::refusal(item).is_none();
            let id = if is_valid { &*item.id } else { "" };
            let body = item.body.as_deref().filter(|_| is_valid);
            let meta = item.meta.as_deref().filter(|_| is_valid);
            (item.room.0, item.user.0, id, item.kind as u8, item.target.map(offset_arg), body, meta)
        })
        .collect();
    let mut facts = db.all::<Facts>(FACTS, &[Arg::Text(&json(&keys))]).await?;
    facts.sort_unstable_by_key(|facts| facts.0);
    if facts.len() != batch.len() {
        return Err(sqlx::Error::Protocol(format!("a query returned {} rows instead of {}", facts.len(), batch.len())));
    }
    let now = unix_millis();
    let mut judge = Judge::new(now);
    let reacts = |item: &&Item| matches!(item.kind, Kind::React | Kind::Unreact) && check::refusal(item).is_none();
    let mut targets: Vec<_> =
        batch.iter().filter(reacts).map(|item| (item.room.0, item.target.map(offset_arg), item.user.0)).collect();
    if !targets.is_empty() {
        targets.sort_unstable();
        targets.dedup();
        judge.take_kinds(db.all::<KindRow>(KINDS, &[Arg::Text(&json(&targets))]).await?);
    }
    let mut outcomes = Vec::with_capacity(batch.len());
    for (item, facts) in batch.iter().zip(&facts) {
        let limits = facts.15.as_deref().map_or(Ok(Limits::default()), serde_json::from_str);
        let limits = limits.map_err(|error| sqlx::Error::Decode(error.into()))?;
        outcomes.push(judge.judge(item, facts, limits));
    }

    if !judge.rows.is_empty() {
        // In the order of the table, so that neighbouring rows are written one after the other.
        judge.rows.sort_unstable_by_key(|row| (row.0, row.1));
        let sql = if judge.rows.iter().any(|row| row.8.is_some()) { INSERT_WITH_META } else { INSERT };
        db.execute(sql, &[Arg::Text(&json(&judge.rows)), Arg::Int(now)]).await?;
    }
    if !judge.changes.is_empty() {
        let changes: Vec<_> =
            judge.changes.iter().map(|((room, target), c)| (room.0, target, c.body, c.edited, c.deleted)).collect();
        db.execute(CHANGE, &[Arg::Text(&json(&changes))]).await?;
    }
    if !judge.posted.is_empty() {
        let posted: Vec<_> = judge.posted.iter().map(|(room, user)| (room.0, user.0)).collect();
        db.execute(POSTED, &[Arg::Text(&json(&posted)), Arg::Int(now)]).await?;
    }
    if !judge.reactions.is_empty() {
        let reactions: Vec<_> = judge
            .reactions
            .iter()
            .map(|(&(room, target, emoji, user), &is_given)| (room.0, target, emoji, user.0, i64::from(is_given)))
            .collect();
        db.execute(REACT, &[Arg::Text(&json(&reactions))]).await?;
    }
    let kinds: Vec<_> = judge.changed_kinds().collect();
    if !kinds.is_empty() {
        db.execute(SET_KINDS, &[Arg::Text(&json(&kinds))]).await?;
    }
    Ok(outcomes)
}

/// Decides about items one after the other. Each is judged as if the items before it had been appended in batches of
/// their own, so it never matters how items are divided into batches. The fields hold what this batch has changed so
/// far.
struct Judge<'b> {
    now: i64,
    /// The last offset and number of each room with new items.
    heads: HashMap<RoomId, (i64, i64)>,
    /// New items by their ids.
    stored: HashMap<(RoomId, UserId, &'b str), (&'b Item, Stored)>,
    /// New messages: their authors, and what was stored.
    messages: HashMap<(RoomId, i64), (UserId, Stored)>,
    /// The new content of messages that were edited or deleted.
    changes: BTreeMap<(RoomId, i64), Change<'b>>,
    /// Reactions by room, message, emoji and user: whether they were given or taken back. The deletion of a message
    /// removes its reactions.
    reactions: BTreeMap<(RoomId, i64, &'b str, UserId), bool>,
    /// The kinds of reactions to each message that this batch has reactions to, by emoji.
    kinds: BTreeMap<(RoomId, i64), BTreeMap<String, Reactions>>,
    /// The emojis that each sender of reactions has given to a message.
    own: HashMap<(RoomId, i64, UserId), HashSet<String>>,
    /// Who has posted in rooms with slow mode.
    posted: BTreeSet<(RoomId, UserId)>,
    /// The rows to insert.
    rows: Vec<NewRow<'b>>,
}

/// Room, offset, number, kind, user, id, target, body, meta.
type NewRow<'b> = (i64, i64, i64, u8, i64, &'b str, Option<i64>, Option<&'b str>, Option<&'b str>);

/// Room, offset, user, emoji, since, users, whether the user is one of them.
type KindRow = (i64, i64, i64, String, i64, i64, bool);

/// One kind of reactions to a message.
struct Reactions {
    /// The offset since which there has been one.
    since: i64,
    users: i64,
    is_changed: bool,
}

struct Change<'b> {
    body: Option<&'b str>,
    edited: Option<i64>,
    deleted: Option<i64>,
    /// Where the deletion was stored.
    deletion: Option<Stored>,
}

impl<'b> Judge<'b> {
    fn new(now: i64) -> Judge<'b> {
        Judge {
            now,
            heads: HashMap::new(),
            stored: HashMap::new(),
            messages: HashMap::new(),
            changes: BTreeMap::new(),
            reactions: BTreeMap::new(),
            kinds: BTreeMap::new(),
            own: HashMap::new(),
            posted: BTreeSet::new(),
            rows: Vec::new(),
        }
    }

    /// Takes what the database knows about the reactions to the messages concerned.
    fn take_kinds(&mut self, rows: Vec<KindRow>) {
        for (room, offset, user, emoji, since, users, is_own) in rows {
            let (room, user) = (RoomId(room), UserId(user));
            if is_own {
                self.own.entry((room, offset, user)).or_default().insert(emoji.clone());
            }
            let kinds = self.kinds.entry((room, offset)).or_default();
            kinds.insert(emoji, Reactions { since, users, is_changed: false });
        }
    }

    /// Room, offset, emoji, since and users of each kind of reactions that this batch has changed.
    fn changed_kinds(&self) -> impl Iterator<Item = (i64, i64, &str, i64, i64)> {
        self.kinds.iter().flat_map(|(&(room, offset), kinds)| {
            let changed = kinds.iter().filter(|(_, kind)| kind.is_changed);
            changed.map(move |(emoji, kind)| (room.0, offset, emoji.as_str(), kind.since, kind.users))
        })
    }

    fn has_reaction(&self, target: (RoomId, i64), user: UserId, emoji: &str) -> bool {
        self.own.get(&(target.0, target.1, user)).is_some_and(|own| own.contains(emoji))
    }

    /// Whether one more reaction is too much for its message, or for its sender there.
    fn has_too_many_reactions(&self, target: (RoomId, i64), user: UserId, emoji: &str) -> bool {
        let own = self.own.get(&(target.0, target.1, user));
        let kinds = self.kinds.get(&target);
        let is_kind = kinds.and_then(|kinds| kinds.get(emoji)).is_some_and(|kind| kind.users > 0);
        let count = kinds.map_or(0, |kinds| kinds.values().filter(|kind| kind.users > 0).count());
        own.is_some_and(|own| own.len() >= OWN_REACTIONS_LIMIT) || !is_kind && count >= REACTION_KINDS_LIMIT
    }

    /// Counts a reaction that was given at this offset, or taken back. It changes something.
    fn count_reaction(&mut self, target: (RoomId, i64), user: UserId, emoji: &str, offset: i64, is_given: bool) {
        let own = self.own.entry((target.0, target.1, user)).or_default();
        if is_given {
            own.insert(emoji.to_owned());
        } else {
            own.remove(emoji);
        }
        let kinds = self.kinds.entry(target).or_default();
        let kind = kinds.entry(emoji.to_owned()).or_insert(Reactions { since: offset, users: 0, is_changed: true });
        if kind.users == 0 {
            kind.since = offset;
        }
        kind.users = (kind.users + if is_given { 1 } else { -1 }).max(0);
        kind.is_changed = true;
    }

    fn judge(&mut self, item: &'b Item, facts: &Facts, limits: Limits) -> Outcome {
        match self.refuse_or_repeat(item, facts, limits) {
            Some(outcome) => outcome,
            None => Outcome::New(self.append(item, facts, limits)),
        }
    }

    /// Why the sender, whose item is not known yet, may not post it.
    fn limited(&self, item: &Item, role: i64, limits: Limits) -> Option<Refusal> {
        let (slow_mode_seconds, who_may_post, silenced_until, last_posted_at) = limits;
        // Who is silenced may still take back what they have said.
        let speaks = matches!(item.kind, Kind::Message | Kind::Edit | Kind::React);
        if let Some(until) = silenced_until.filter(|until| speaks && *until > self.now) {
            return Some(Refusal::Silenced { until: until.unsigned_abs() });
        }
        if item.kind != Kind::Message {
            return None;
        }
        match who_may_post {
            0 => {}
            1 if role > 0 => {}
            1 => return Some(Refusal::ModeratorsOnly),
            _ => return Some(Refusal::NobodyPosts),
        }
        if role > 0 {
            return None;
        }
        let has_posted = self.posted.contains(&(item.room, item.user));
        let last_posted_at = if has_posted { Some(self.now) } else { last_posted_at };
        let interval = slow_mode_seconds.saturating_mul(1000);
        // A time far in the future is that of a clock which has gone back since.
        let last = last_posted_at.filter(|last| self.now.abs_diff(*last) < interval.unsigned_abs())?;
        let wait_ms = (last.saturating_add(interval) - self.now).min(interval).unsigned_abs();
        Some(Refusal::SlowMode { wait_ms })
    }

    /// The outcome of an item that is not appended.
    fn refuse_or_repeat(&self, item: &Item, facts: &Facts, limits: Limits) -> Option<Outcome> {
        let &(_, last_offset, _, role, old_offset, old_number, old_at, same_kind, same_body, ..) = facts;
        let &(.., author, number, at, gone_offset, gone_number, gone_at, _) = facts;
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
                && (first.body == item.body && first.meta == item.meta || item.kind == Kind::Edit || changed);
            return Some(if same { Outcome::Duplicate(*stored) } else { Outcome::Refused(Refusal::IdReused) });
        }
        let Some(role) = role else {
            return Some(Outcome::Refused(Refusal::NotMember));
        };
        if let Some(refusal) = self.limited(item, role, limits) {
            return Some(Outcome::Refused(refusal));
        }
        let target = (item.room, offset_arg(item.target?));
        let known = author.map(UserId).zip(stored_from(Some(target.1), number, at));
        let Some((author, message)) = self.messages.get(&target).copied().or(known) else {
            return Some(Outcome::Refused(Refusal::NoTarget));
        };
        let emoji = item.body.as_deref().unwrap_or_default();
        let deletion = self.changes.get(&target).and_then(|change| change.deletion);
        let deletion = deletion.or(stored_from(gone_offset, gone_number, gone_at));
        match (item.kind, deletion) {
            (Kind::Edit | Kind::React | Kind::Unreact, Some(_)) => Some(Outcome::Refused(Refusal::NoTarget)),
            (Kind::Edit, None) if author != item.user => Some(Outcome::Refused(Refusal::NotYours)),
            (Kind::Delete, _) if author != item.user && role == 0 => Some(Outcome::Refused(Refusal::NotYours)),
            (Kind::Delete, Some(stored)) => Some(Outcome::Duplicate(stored)),
            (Kind::React | Kind::Unreact, None)
                if self.has_reaction(target, item.user, emoji) == (item.kind == Kind::React) =>
            {
                Some(Outcome::Duplicate(message))
            }
            (Kind::React, None) if self.has_too_many_reactions(target, item.user, emoji) => {
                Some(Outcome::Refused(Refusal::TooManyReactions))
            }
            _ => None,
        }
    }

    fn append(&mut self, item: &'b Item, facts: &Facts, limits: Limits) -> Stored {
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
        let meta = item.meta.as_deref();
        self.rows.push((item.room.0, offset, number, item.kind as u8, item.user.0, &item.id, target, kept, meta));

        match (item.kind, target) {
            (Kind::Message, _) => {
                self.messages.insert((item.room, offset), (item.user, stored));
                if limits.0 > 0 && facts.3 == Some(0) {
                    self.posted.insert((item.room, item.user));
                }
            }
            (Kind::Edit, Some(target)) => {
                let change = Change { body, edited: Some(offset), deleted: None, deletion: None };
                self.changes.insert((item.room, target), change);
            }
            (Kind::Delete, Some(target)) => {
                let edited = self.changes.get(&(item.room, target)).and_then(|change| change.edited);
                let change = Change { body: None, edited, deleted: Some(offset), deletion: Some(stored) };
                self.changes.insert((item.room, target), change);
                self.reactions.retain(|&(room, of, _, _), _| (room, of) != (item.room, target));
                // The deletion removes them from the database.
                self.kinds.remove(&(item.room, target));
            }
            (Kind::React | Kind::Unreact, Some(target)) => {
                let reaction = (item.room, target, body.unwrap_or_default(), item.user);
                self.reactions.insert(reaction, item.kind == Kind::React);
                let is_given = item.kind == Kind::React;
                self.count_reaction((item.room, target), item.user, body.unwrap_or_default(), offset, is_given);
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

    #[test]
    fn result_codes_are_classified_by_stage() {
        let is = |code, stage| match meaning(code, stage)(String::new()) {
            AppendError::OutcomeUnknown(_) => "unknown",
            AppendError::DataRejected(_) => "data",
            AppendError::Fatal(_) => "fatal",
            AppendError::Ended(_) => "ended",
        };
        // FULL, BUSY, and errors that do not come from SQLite: retried.
        for code in [Some(13), Some(5), Some(517), None] {
            assert_eq!((is(code, Stage::BeforeCommit), is(code, Stage::Commit)), ("unknown", "unknown"));
        }
        // IOERR, IOERR_FSYNC, IOERR_WRITE
        for code in [Some(10), Some(1034), Some(778)] {
            assert_eq!((is(code, Stage::BeforeCommit), is(code, Stage::Commit)), ("unknown", "fatal"));
        }
        // CONSTRAINT_UNIQUE, TOOBIG
        for code in [Some(2067), Some(18)] {
            assert_eq!((is(code, Stage::BeforeCommit), is(code, Stage::Commit)), ("data", "data"));
        }
        assert_eq!(is(Some(11), Stage::BeforeCommit), "fatal");
    }
}
