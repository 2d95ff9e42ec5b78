//! Direct rooms, in which the same people always find the same room, and users who have blocked each other.

use crate::check::rows_limit;
use crate::connection::{Arg, DbConnection};
use crate::error::{RoomError, StoreError};
use crate::generation::random_word;
use crate::objects::{Block, BlockChange, WhoMay};
use crate::postgres::is_lock_timeout;
use crate::postgres::rooms::incomplete;
use crate::rights::{self, Told};
use crate::rooms::Change;
use crate::users;
use std::collections::{BTreeMap, BTreeSet};
use uproar_model::{Kind, Publication, RoomId, User, UserId, skeleton};

/// The most members of a direct room.
pub(crate) const PEOPLE_LIMIT: usize = 10;

pub(crate) const NOBODY_ELSE: &str = "a direct room needs somebody else than yourself";
pub(crate) const TOO_MANY_PEOPLE: &str = "a direct room has at most 10 people; make an ordinary room for more";
pub(crate) const CANNOT_ADD: &str = "nobody can be added to a direct room; start another one with all of them";
pub(crate) const CANNOT_LEAVE: &str = "nobody can leave a direct room";
pub(crate) const CANNOT_REMOVE: &str = "nobody can be removed from a direct room";
pub(crate) const CANNOT_DELETE: &str = "a direct room can't be deleted";
pub(crate) const OWN_BLOCK: &str = "nobody can block themselves";

/// What is the same for the same people, given by ascending id.
fn key(people: &[UserId]) -> String {
    people.iter().map(|user| user.0.to_string()).collect::<Vec<_>>().join("-")
}

/// The people of a direct room, by ascending id: the actor and the others.
pub(crate) fn together(actor: UserId, others: impl IntoIterator<Item = UserId>) -> Result<Vec<UserId>, RoomError> {
    let people: BTreeSet<UserId> = others.into_iter().chain([actor]).collect();
    match people.len() {
        0 | 1 => Err(RoomError::NotAllowed(NOBODY_ELSE)),
        2..=PEOPLE_LIMIT => Ok(people.into_iter().collect()),
        _ => Err(RoomError::NotAllowed(TOO_MANY_PEOPLE)),
    }
}

/// The title of a direct room as one of its people sees it: the names of the others.
pub(crate) fn title(people: &[User], viewer: UserId) -> String {
    let others = people.iter().filter(|person| person.id != viewer);
    others.map(|person| &*person.username).collect::<Vec<_>>().join(", ")
}

/// The people whom the actor wants to talk to, with the actor, and the name of their room. Without a room, fails if
/// there must not be one. The change checks that again: here it spares those who are refused their allowances.
pub(crate) async fn find(
    db: &mut DbConnection,
    actor: UserId,
    keys: &[String],
) -> Result<(Vec<UserId>, Option<String>), RoomError> {
    let mut others = Vec::with_capacity(keys.len());
    for key in keys {
        others.push(users::by_username(db, key).await?.ok_or(RoomError::NoUser)?.id);
    }
    let people = together(actor, others)?;
    let known = known(db, &people).await?;
    if known.is_none() {
        check_blocks(db, actor, &people).await?;
    }
    Ok((people, known))
}

async fn known(db: &mut DbConnection, people: &[UserId]) -> Result<Option<String>, StoreError> {
    let sql = "SELECT name FROM rooms WHERE direct_key = $1 AND name IS NOT NULL";
    Ok(db.optional::<(String,)>(sql, &[Arg::Text(&key(people))]).await?.map(|(name,)| name))
}

async fn check_blocks(db: &mut DbConnection, actor: UserId, people: &[UserId]) -> Result<(), RoomError> {
    let sql = if db.is_postgres() {
        "SELECT user_id FROM blocks WHERE user_id = $1 AND blocked_id = ANY($2)
         UNION ALL SELECT user_id FROM blocks WHERE blocked_id = $1 AND user_id = ANY($2)"
    } else {
        "SELECT user_id FROM blocks WHERE user_id = $1 AND blocked_id IN (SELECT value FROM json_each($2))
         UNION ALL SELECT user_id FROM blocks WHERE blocked_id = $1 AND user_id IN (SELECT value FROM json_each($2))"
    };
    let ids: Vec<i64> = people.iter().map(|user| user.0).collect();
    let blocks = db.all::<(i64,)>(sql, &[Arg::Int(actor.0), Arg::Ints(&ids)]).await?;
    match blocks.is_empty() {
        true => Ok(()),
        false => Err(RoomError::Blocked { by_actor: blocks.contains(&(actor.0,)) }),
    }
}

/// The name of the room of these people, and whether this call has made it.
pub(crate) async fn open(db: &mut DbConnection, actor: UserId, people: &[UserId]) -> Result<(String, bool), RoomError> {
    let (name, epoch) = (format!("@{}", random_word()?), random_word()?);
    let (key, skeleton) = (key(people), skeleton(&name));
    let ids: Vec<i64> = people.iter().map(|user| user.0).collect();
    if db.is_postgres() {
        let sql = "SELECT outcome, room_name FROM open_direct($1, $2, $3, $4, $5, $6)";
        let args = [
            Arg::Int(actor.0),
            Arg::Ints(&ids),
            Arg::Text(&key),
            Arg::Text(&epoch),
            Arg::Text(&skeleton),
            Arg::Text(&name),
        ];
        let row = unless_locked(db.optional::<(String, String)>(sql, &args).await)?;
        let (outcome, name) = row.unwrap_or_default();
        return match &*outcome {
            "known" => Ok((name, false)),
            "created" => Ok((name, true)),
            other => Err(refused(other)),
        };
    }
    if let Some(name) = known(db, people).await? {
        return Ok((name, false));
    }
    let sql = "SELECT count(*) FROM users WHERE id IN (SELECT value FROM json_each($1))";
    let (found,) = db.optional::<(i64,)>(sql, &[Arg::Ints(&ids)]).await?.unwrap_or_default();
    if found.unsigned_abs() < people.len() as u64 {
        return Err(RoomError::NoUser);
    }
    check_blocks(db, actor, people).await?;
    let now = db.now().await?;
    let sql = "INSERT INTO rooms
            (name, kind, title, title_key, size, members, epoch, created_by, created_at, skeleton, direct_key)
        VALUES ($1, 2, '', '', $2, $2, $3, 0, $4, $5, $6) RETURNING id";
    let args = [
        Arg::Text(&name),
        Arg::Int(people.len() as i64),
        Arg::Text(&epoch),
        Arg::Int(now),
        Arg::Text(&skeleton),
        Arg::Text(&key),
    ];
    let room = db.optional::<(i64,)>(sql, &args).await?;
    let (room,) = room.ok_or_else(|| StoreError::Failed("the room that was just made is missing".to_owned()))?;
    db.execute("INSERT INTO heads (room_id) VALUES ($1)", &[Arg::Int(room)]).await?;
    let sql = "INSERT INTO members (room_id, user_id, role, joined_at, read_offset, read_number)
        SELECT $1, p.value, 0, $2, 0, 0 FROM json_each($3) p";
    db.execute(sql, &[Arg::Int(room), Arg::Int(now), Arg::Ints(&ids)]).await?;
    Ok((name, true))
}

/// The people of direct rooms, by id ascending.
pub(crate) async fn people_of(
    db: &mut DbConnection,
    rooms: &[RoomId],
) -> Result<BTreeMap<RoomId, Vec<User>>, StoreError> {
    let mut people: BTreeMap<RoomId, Vec<User>> = BTreeMap::new();
    if rooms.is_empty() {
        return Ok(people);
    }
    let sql = if db.is_postgres() {
        "SELECT m.room_id, u.id, u.username FROM members m JOIN users u ON u.id = m.user_id
            WHERE m.room_id = ANY($1) ORDER BY m.room_id, u.id"
    } else {
        "SELECT m.room_id, u.id, u.username FROM json_each($1) r CROSS JOIN members m ON m.room_id = r.value
            JOIN users u ON u.id = m.user_id ORDER BY m.room_id, u.id"
    };
    let ids: Vec<i64> = rooms.iter().map(|room| room.0).collect();
    for (room, id, username) in db.all::<(i64, i64, String)>(sql, &[Arg::Ints(&ids)]).await? {
        people.entry(RoomId(room)).or_default().push(User { id: UserId(id), username: username.into() });
    }
    Ok(people)
}

/// Blocks the user with this key for another one, who may block `limit` others, or lifts the block (`None`). Closes or
/// opens the direct room of the two.
pub(crate) async fn set_block(
    db: &mut DbConnection,
    user: UserId,
    key: &str,
    limit: Option<u64>,
) -> Result<BlockChange, RoomError> {
    let account = users::by_username(db, key).await?.ok_or(RoomError::NoUser)?;
    if account.id == user {
        return Err(RoomError::NotAllowed(OWN_BLOCK));
    }
    let other = User::from(&account);
    let most = i64::try_from(limit.unwrap_or(0)).unwrap_or(i64::MAX);
    if db.is_postgres() {
        return set_block_postgres(db, user, other, limit.is_some(), most).await;
    }
    let pair = [Arg::Int(user.0), Arg::Int(other.id.0)];
    let now = db.now().await?;
    let sql = "SELECT at FROM blocks WHERE user_id = $1 AND blocked_id = $2";
    let mut at = db.optional::<(i64,)>(sql, &pair).await?.map(|(at,)| at);
    if limit.is_none() {
        db.execute("DELETE FROM blocks WHERE user_id = $1 AND blocked_id = $2", &pair).await?;
    } else if at.is_none() {
        let sql = "SELECT count(*) FROM blocks WHERE user_id = $1";
        let (count,) = db.optional::<(i64,)>(sql, &pair[..1]).await?.unwrap_or_default();
        if count >= most {
            return Err(RoomError::TooManyBlocks(most.unsigned_abs()));
        }
        let sql = "INSERT INTO blocks (user_id, blocked_id, at) SELECT u.id, $2, $3 FROM users u WHERE u.id = $1";
        if db.execute(sql, &[pair[0], pair[1], Arg::Int(now)]).await? == 0 {
            return Err(RoomError::NoUser);
        }
        at = Some(now);
    }
    let publication = close_or_open(db, user, other.id, now).await?;
    Ok(BlockChange { user: other, at: at.map(i64::unsigned_abs), publication })
}

/// Closes the direct room of two people if one has blocked the other, or else opens it, in a transaction on SQLite.
async fn close_or_open(
    db: &mut DbConnection,
    actor: UserId,
    other: UserId,
    now: i64,
) -> Result<Option<(RoomId, Publication)>, RoomError> {
    let key = key(&together(actor, [other])?);
    let sql = "SELECT r.id, h.who_may_post, a.username, EXISTS (
            SELECT 1 FROM blocks WHERE user_id IN ($2, $3) AND blocked_id IN ($2, $3))
        FROM rooms r JOIN heads h ON h.room_id = r.id JOIN users a ON a.id = $2
        WHERE r.direct_key = $1 AND r.name IS NOT NULL";
    let args = [Arg::Text(&key), Arg::Int(actor.0), Arg::Int(other.0)];
    let found = db.optional::<(i64, i64, String, bool)>(sql, &args).await?;
    let Some((room, now_post, username, is_blocked)) = found else { return Ok(None) };
    let may_post = if is_blocked { WhoMay::Nobody } else { WhoMay::Members };
    if now_post == may_post as i64 {
        return Ok(None);
    }
    let sql = "UPDATE heads SET who_may_post = $2 WHERE room_id = $1";
    db.execute(sql, &[Arg::Int(room), Arg::Int(may_post as i64)]).await?;
    let (room, actor) = (RoomId(room), User { id: actor, username: username.into() });
    Ok(Some((room, rights::tell(db, room, &actor, &Told::may_post(may_post), now).await?)))
}

/// The outcome; since when there is a block; and of a publication the room, offset, number, time, id, body and the
/// actor's name.
type BlockRow = (
    String,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<String>,
);

async fn set_block_postgres(
    db: &mut DbConnection,
    user: UserId,
    other: User,
    is_wanted: bool,
    most: i64,
) -> Result<BlockChange, RoomError> {
    let sql = "SELECT outcome, since_ms, room, at_offset, at_number, at_ms, change_id, change_body, actor_name
        FROM set_block($1, $2, $3 = 1, $4)";
    let args = [Arg::Int(user.0), Arg::Int(other.id.0), Arg::Int(i64::from(is_wanted)), Arg::Int(most)];
    let row = unless_locked(db.optional::<BlockRow>(sql, &args).await)?.ok_or_else(incomplete)?;
    let (outcome, at, room, offset, number, time, id, body, actor_name) = row;
    match outcome.as_str() {
        "done" => {}
        "too_many" => return Err(RoomError::TooManyBlocks(most.unsigned_abs())),
        other => return Err(refused(other)),
    }
    let publication = match room {
        None => None,
        Some(room) => {
            let (Some(offset), Some(number), Some(time), Some(id)) = (offset, number, time, id) else {
                return Err(incomplete().into());
            };
            let actor = User { id: user, username: actor_name.ok_or_else(incomplete)?.into() };
            let change = Change { offset, number, time, kind: Kind::Moderated, actor, id, body };
            Some((RoomId(room), change.into()))
        }
    };
    Ok(BlockChange { user: other, at: at.map(i64::unsigned_abs), publication })
}

/// Whom a user has blocked, by id ascending: ids after `after`, at most `limit`.
pub(crate) async fn blocks(
    db: &mut DbConnection,
    user: UserId,
    after: Option<UserId>,
    limit: usize,
) -> Result<Vec<Block>, StoreError> {
    let sql = "SELECT u.id, u.username, b.at FROM blocks b JOIN users u ON u.id = b.blocked_id
        WHERE b.user_id = $1 AND b.blocked_id > $2 ORDER BY b.blocked_id LIMIT $3";
    let args = [Arg::Int(user.0), Arg::Int(after.map_or(0, |after| after.0)), Arg::Int(rows_limit(limit) as i64)];
    let rows = db.all::<(i64, String, i64)>(sql, &args).await?;
    let block = |(id, username, at): (i64, String, i64)| Block {
        user: User { id: UserId(id), username: username.into() },
        at: at.unsigned_abs(),
    };
    Ok(rows.into_iter().map(block).collect())
}

/// A function that has waited too long for a user's row has changed nothing.
fn unless_locked<T>(result: Result<T, sqlx::Error>) -> Result<T, StoreError> {
    match result {
        Err(error) if is_lock_timeout(&error) => Err(StoreError::Overloaded),
        result => Ok(result?),
    }
}

fn refused(outcome: &str) -> RoomError {
    match outcome {
        "no_user" => RoomError::NoUser,
        "blocking" => RoomError::Blocked { by_actor: true },
        "blocked" => RoomError::Blocked { by_actor: false },
        other => RoomError::Store(StoreError::Failed(format!("the database refuses a direct room: {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_people_have_the_same_key() {
        let [ann, ben, cid] = [UserId(10), UserId(9), UserId(100)];
        assert_eq!(key(&together(ann, [ben, cid]).unwrap()), "9-10-100");
        assert_eq!(key(&together(cid, [ann, ben, ann, cid]).unwrap()), "9-10-100");
        assert!(matches!(together(ann, [ann]), Err(RoomError::NotAllowed(NOBODY_ELSE))));
        assert!(together(ann, (1..10).map(UserId)).is_ok());
        assert!(matches!(together(ann, (11..21).map(UserId)), Err(RoomError::NotAllowed(TOO_MANY_PEOPLE))));
    }
}
