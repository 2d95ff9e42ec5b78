//! The keys and skeletons of names: those of new names, and those of older names after the rules have changed.
//!
//! SQL can't fold names, so this part of a migration is done by the program: once, in the transaction that records it.

use crate::connection::{Arg, DbConnection, json};
use crate::error::StoreError;
use crate::postgres::is_lock_timeout;
use crate::users::revoke_sql;
use std::collections::HashSet;
use uproar_model::{UserId, fold_name, is_bot_name, looks_like, numbered_name, reserved_lookalike, skeleton, text};

/// The version of the rules. Names are folded anew when it is higher than the recorded one.
const RULES: &str = "4";
/// Rows that one statement changes.
const CHUNK_ROWS: usize = 500;
/// How many small numbers are tried behind a name that is taken.
const NUMBERS_LIMIT: u64 = 16;
/// How long somebody waits for a name that another transaction is giving or taking. Those who wait keep a connection.
const CLAIM_TIMEOUT: &str = "1s";
/// The most names with one skeleton that a new name is compared with.
const LOOKALIKES_LIMIT: i64 = 32;

/// Whether there is a user, other than `own`, whose name looks like this one but is written in another script. Former
/// names count, too.
pub(crate) async fn is_user_lookalike(
    db: &mut DbConnection,
    username: &str,
    own: Option<UserId>,
) -> Result<bool, StoreError> {
    let users = "SELECT username FROM users WHERE skeleton = $1 AND id <> $3 LIMIT $2";
    let former = "SELECT username FROM former_names WHERE skeleton = $1 AND user_id <> $3 LIMIT $2";
    let own = [Arg::Int(own.map_or(0, |user| user.0))];
    Ok(is_lookalike(db, users, username, &own).await? || is_lookalike(db, former, username, &own).await?)
}

/// Waits until nobody else is giving or taking these names of users, or names that look like them, and keeps others
/// from it until the transaction ends. A unique index is not enough: a name that looks like another one has another key,
/// and a former name is in another table. On SQLite nobody else writes meanwhile.
pub(crate) async fn claim(db: &mut DbConnection, usernames: &[&str]) -> Result<(), StoreError> {
    if db.is_postgres() {
        limit_waits(db).await?;
        let skeletons: Vec<String> = usernames.iter().map(|name| skeleton(name)).collect();
        let skeletons: Vec<&str> = skeletons.iter().map(String::as_str).collect();
        // All take the locks in the same order, or two could wait for each other.
        let sql = "SELECT count(pg_advisory_xact_lock(k.lock_key)) FROM (SELECT DISTINCT hashtextextended(t.name, 0)
            AS lock_key FROM unnest($1::text[]) AS t(name) ORDER BY lock_key OFFSET 0) AS k";
        match db.execute(sql, &[Arg::Texts(&skeletons)]).await {
            // The transaction is rolled back.
            Err(error) if is_lock_timeout(&error) => return Err(StoreError::Overloaded),
            claimed => _ = claimed?,
        }
    }
    Ok(())
}

/// From here on the transaction does not wait long for others. If a process is stopped while it has a name, those who
/// want that name must not use up the connections of the other processes.
pub(crate) async fn limit_waits(db: &mut DbConnection) -> Result<(), StoreError> {
    let sql = "SELECT set_config('lock_timeout', $1, true)";
    db.execute(sql, &[Arg::Text(CLAIM_TIMEOUT)]).await?;
    Ok(())
}

/// The same for one name, without waiting. `false`: somebody else has it at this moment.
async fn try_claim(db: &mut DbConnection, username: &str) -> Result<bool, StoreError> {
    if !db.is_postgres() {
        return Ok(true);
    }
    let sql = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))";
    Ok(db.optional::<(bool,)>(sql, &[Arg::Text(&skeleton(username))]).await? == Some((true,)))
}

/// Whether a new user can have this name, which nobody else can claim until the transaction ends. It does not wait, as
/// two who try several names could wait for each other.
pub(crate) async fn is_free(db: &mut DbConnection, username: &str) -> Result<bool, StoreError> {
    Ok(try_claim(db, username).await? && !is_user_lookalike(db, username, None).await?)
}

/// Whether there is a room whose name looks like this one but is written in another script, or such a name is reserved
/// for somebody else than the owner of the new room.
pub(crate) async fn is_room_lookalike(
    db: &mut DbConnection,
    name: &str,
    owner: UserId,
    now: i64,
) -> Result<bool, StoreError> {
    let rooms = "SELECT name FROM rooms WHERE skeleton = $1 AND name IS NOT NULL LIMIT $2";
    let reserved = "SELECT name FROM reserved_names WHERE skeleton = $1 AND owner_id <> $3 AND until > $4 LIMIT $2";
    Ok(is_lookalike(db, rooms, name, &[]).await?
        || is_lookalike(db, reserved, name, &[Arg::Int(owner.0), Arg::Int(now)]).await?)
}

/// The names of users that have the skeleton of this one, and former ones. More than a name is compared with are left
/// out.
pub(crate) async fn with_skeleton_of(db: &mut DbConnection, username: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT username FROM users WHERE skeleton = $1
        UNION SELECT username FROM former_names WHERE skeleton = $1 LIMIT $2";
    let skeleton = skeleton(username);
    let found = db.all::<(String,)>(sql, &[Arg::Text(&skeleton), Arg::Int(2 * LOOKALIKES_LIMIT)]).await?;
    Ok(found.into_iter().map(|(name,)| name).collect())
}

async fn is_lookalike(
    db: &mut DbConnection,
    sql: &'static str,
    name: &str,
    more: &[Arg<'_>],
) -> Result<bool, StoreError> {
    let skeleton = skeleton(name);
    let args = [&[Arg::Text(&skeleton), Arg::Int(LOOKALIKES_LIMIT)], more].concat();
    let found = db.all::<(String,)>(sql, &args).await?;
    Ok(found.iter().any(|(other,)| looks_like(name, other)))
}

/// The names that a new user of another system may get, in order: this one, then with a number. A name that many have
/// gets a number that is surely free. None looks like the name of a program. `last_id`: the highest id of a user.
pub(crate) fn candidates(username: &str, last_id: u64) -> impl Iterator<Item = String> {
    let numbers = (2..=NUMBERS_LIMIT).chain(last_id + 1..=last_id + NUMBERS_LIMIT);
    let numbered = numbers.map(|number| numbered_name(username, number));
    std::iter::once(username.to_owned())
        .chain(numbered)
        .filter(|name| reserved_lookalike(name).is_none() && !is_bot_name(name))
}

/// Reserves the name of a deleted room, in place of an earlier reservation.
pub(crate) async fn reserve(db: &mut DbConnection, name: &str, owner: UserId, until: i64) -> Result<(), StoreError> {
    let sql = "INSERT INTO reserved_names (name, owner_id, until, skeleton) VALUES ($1, $2, $3, $4)
        ON CONFLICT (name) DO UPDATE SET owner_id = excluded.owner_id, until = excluded.until";
    let skeleton = skeleton(name);
    db.execute(sql, &[Arg::Text(name), Arg::Int(owner.0), Arg::Int(until), Arg::Text(&skeleton)]).await?;
    Ok(())
}

/// A name as it is stored, and as it should be.
struct Renamed {
    id: i64,
    shown: String,
    key: String,
    /// Whether `shown` has changed, too.
    is_shown_anew: bool,
}

/// Folds all names by the current rules, inside a transaction. Of two names that have become equal, the older one stays
/// and the other gets a number; users whose names change have to sign in again.
pub(crate) async fn update(db: &mut DbConnection) -> Result<(), StoreError> {
    let recorded = db.optional::<(String,)>("SELECT value FROM meta WHERE name = 'name_rules'", &[]).await?;
    if recorded.is_some_and(|(rules,)| rules == RULES) {
        return Ok(());
    }
    let users =
        db.all::<(i64, String, String)>("SELECT id, username, username_key FROM users ORDER BY id", &[]).await?;
    let changed = rename("user", &users);
    replace(db, "UPDATE users SET username_key = $2 WHERE id = $1", &changed, |renamed| renamed.key.clone()).await?;
    macro_rules! sql {
        ($database:ident) => {
            concat!("UPDATE users SET username = $2, ", revoke_sql!($database), " WHERE id = $1")
        };
    }
    let sql = if db.is_postgres() { sql!(postgres) } else { sql!(sqlite) };
    for renamed in changed.iter().filter(|renamed| renamed.is_shown_anew) {
        // A token carries the name, which is somebody else's now.
        db.execute(sql, &[Arg::Int(renamed.id), Arg::Text(&renamed.shown)]).await?;
    }

    // The server makes the names of direct rooms, which have no titles.
    let rooms = "SELECT id, name, title FROM rooms WHERE name IS NOT NULL AND kind <> 2 ORDER BY id";
    let rooms = db.all::<(i64, String, String)>(rooms, &[]).await?;
    let names: Vec<_> = rooms.iter().map(|(id, name, _)| (*id, name.clone(), name.clone())).collect();
    let changed = rename("room", &names);
    replace(db, "UPDATE rooms SET name = $2 WHERE id = $1", &changed, |renamed| renamed.key.clone()).await?;

    let sql = "UPDATE user_rooms SET room_name = $2 WHERE room_id = $1";
    for renamed in &changed {
        db.execute(sql, &[Arg::Int(renamed.id), Arg::Text(&renamed.key)]).await?;
    }

    let users = db.all::<(i64, String)>("SELECT id, username FROM users", &[]).await?;
    let rows: Vec<_> = users.iter().map(|(id, name)| (*id, skeleton(name))).collect();
    set(
        db,
        "UPDATE users SET skeleton = w.value ->> 1 FROM json_each($1) w WHERE users.id = w.value ->> 0",
        "UPDATE users SET skeleton = w.text FROM unnest($1, $2) AS w(id, text) WHERE users.id = w.id",
        &rows,
    )
    .await?;
    let names = db.all::<(i64, String)>("SELECT id, name FROM rooms WHERE name IS NOT NULL", &[]).await?;
    let rows: Vec<_> = names.iter().map(|(id, name)| (*id, skeleton(name))).collect();
    set(
        db,
        "UPDATE rooms SET skeleton = w.value ->> 1 FROM json_each($1) w WHERE rooms.id = w.value ->> 0",
        "UPDATE rooms SET skeleton = w.text FROM unnest($1, $2) AS w(id, text) WHERE rooms.id = w.id",
        &rows,
    )
    .await?;
    let rows: Vec<_> = rooms.iter().map(|(id, _, title)| (*id, text::fold(title))).collect();
    set(
        db,
        "UPDATE rooms SET title_key = w.value ->> 1 FROM json_each($1) w WHERE rooms.id = w.value ->> 0",
        "UPDATE rooms SET title_key = w.text FROM unnest($1, $2) AS w(id, text) WHERE rooms.id = w.id",
        &rows,
    )
    .await?;

    // What a name has become may be somebody's name now; then that user keeps it.
    let former = "SELECT user_id, username, name_key FROM former_names ORDER BY name_key";
    let former = db.all::<(i64, String, String)>(former, &[]).await?;
    db.execute("DELETE FROM former_names", &[]).await?;
    for (user, username, _) in former {
        let Ok(key) = fold_name(&username) else { continue };
        let sql = "INSERT INTO former_names (name_key, username, skeleton, user_id)
            SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT 1 FROM users WHERE username_key = $1)
            ON CONFLICT DO NOTHING";
        let skeleton = skeleton(&username);
        let args = [Arg::Text(&key), Arg::Text(&username), Arg::Text(&skeleton), Arg::Int(user)];
        db.execute(sql, &args).await?;
    }

    // Of two that have become equal, the one that ends later stays.
    let sql = "SELECT name, owner_id, until FROM reserved_names ORDER BY until";
    let reserved = db.all::<(String, i64, i64)>(sql, &[]).await?;
    db.execute("DELETE FROM reserved_names", &[]).await?;
    for (name, owner, until) in reserved {
        // A text that is no longer a valid name needs no reservation: nobody can take it.
        if let Ok(name) = fold_name(&name) {
            reserve(db, &name, UserId(owner), until).await?;
        }
    }

    let sql = "INSERT INTO meta (name, value) VALUES ('name_rules', $1)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    db.execute(sql, &[Arg::Text(RULES)]).await?;
    Ok(())
}

/// The names whose keys change. `names`: id, name and key, by age.
fn rename(what: &str, names: &[(i64, String, String)]) -> Vec<Renamed> {
    let mut taken: HashSet<String> = HashSet::with_capacity(names.len());
    let mut changed = Vec::new();
    for (id, name, key) in names {
        let mut shown = name.clone();
        let mut number = 1;
        let folded = loop {
            match fold_name(&shown) {
                Ok(folded) if !taken.contains(&folded) => break folded,
                _ => {}
            }
            number += 1;
            // A name that is no name any more, or that is too long for a number, becomes one that says so.
            let base = if fold_name(&format!("{name}-{number}")).is_ok() { name.as_str() } else { what };
            shown = if base == what { format!("{what} {id}-{number}") } else { format!("{base}-{number}") };
        };
        if shown != *name {
            tracing::warn!(id, old = %name.escape_debug(), new = shown, "a {what} has a new name");
        }
        taken.insert(folded.clone());
        if folded != *key {
            changed.push(Renamed { id: *id, is_shown_anew: shown != *name, shown, key: folded });
        }
    }
    changed
}

/// Changes keys, which are unique: each moves out of the way first.
async fn replace(
    db: &mut DbConnection,
    sql: &'static str,
    changed: &[Renamed],
    key: impl Fn(&Renamed) -> String,
) -> Result<(), StoreError> {
    for renamed in changed {
        // No name has a control character.
        db.execute(sql, &[Arg::Int(renamed.id), Arg::Text(&format!("\u{1}{}", renamed.id))]).await?;
    }
    for renamed in changed {
        db.execute(sql, &[Arg::Int(renamed.id), Arg::Text(&key(renamed))]).await?;
    }
    Ok(())
}

/// Sets a column of many rows.
async fn set(
    db: &mut DbConnection,
    sqlite: &'static str,
    postgres: &'static str,
    rows: &[(i64, String)],
) -> Result<(), StoreError> {
    for rows in rows.chunks(CHUNK_ROWS) {
        if db.is_postgres() {
            let ids: Vec<i64> = rows.iter().map(|(id, _)| *id).collect();
            let texts: Vec<&str> = rows.iter().map(|(_, text)| text.as_str()).collect();
            db.execute(postgres, &[Arg::Ints(&ids), Arg::Texts(&texts)]).await?;
        } else {
            db.execute(sqlite, &[Arg::Text(&json(&rows))]).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_of_another_system_is_named_like_a_program() {
        assert_eq!(candidates("Ann", 0).next().as_deref(), Some("Ann"));
        assert!(candidates("Grafana [bot]", 0).take(3).all(|name| !is_bot_name(&name)));
        assert_eq!(candidates("admin", 0).next().as_deref(), Some("admin-2"));
    }

    #[test]
    fn older_names_keep_what_has_become_one() {
        let names = [("σευς", "σευς"), ("ΣΕΥΣ", "σευσ"), ("Weiß", "weiß"), ("ann", "ann"), ("a\u{600}", "a\u{600}")];
        let names: Vec<_> = (1..).zip(names).map(|(id, (name, key))| (id, name.to_owned(), key.to_owned())).collect();
        let changed: Vec<_> = rename("user", &names).into_iter().map(|r| (r.id, r.shown, r.key)).collect();
        let expected =
            [(1, "σευς", "σευσ"), (2, "ΣΕΥΣ-2", "σευσ-2"), (3, "Weiß", "weiss"), (5, "user 5-2", "user 5-2")];
        assert_eq!(changed, expected.map(|(id, shown, key)| (id, shown.to_owned(), key.to_owned())));

        // Since version 3 of the rules, names that people can't tell apart are the same name.
        let names = [("ann lee", "ann lee"), ("ann  lee", "ann  lee"), ("x❤\u{fe0f}", "x❤\u{fe0f}"), ("a–b", "a–b")];
        let names: Vec<_> = (1..).zip(names).map(|(id, (name, key))| (id, name.to_owned(), key.to_owned())).collect();
        let changed: Vec<_> = rename("user", &names).into_iter().map(|r| (r.id, r.shown, r.key)).collect();
        let expected = [(2, "ann  lee-2", "ann lee-2"), (3, "x❤\u{fe0f}", "x❤"), (4, "a–b", "a-b")];
        assert_eq!(changed, expected.map(|(id, shown, key)| (id, shown.to_owned(), key.to_owned())));
    }
}
