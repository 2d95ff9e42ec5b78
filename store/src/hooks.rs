//! Incoming hooks: secrets with which programs post messages to a room.

use crate::connection::{Arg, DbConnection};
use crate::error::{CreateUserError, RoomError, StoreError};
use crate::objects::{DeletedHook, Hook, HookTarget, NewHook};
use crate::{rooms, users};
use uproar_model::{Role, RoomId, User, UserId};

pub(crate) const CANNOT_MANAGE: &str = "only the owner and moderators can manage the hooks of the room";

/// The room, if the actor may manage its hooks.
async fn managed_room(db: &mut DbConnection, name: &str, actor: UserId) -> Result<RoomId, RoomError> {
    match rooms::look_up(db, name, actor).await? {
        (room, _, Some(Role::Owner | Role::Moderator)) => Ok(room),
        _ => Err(RoomError::NotAllowed(CANNOT_MANAGE)),
    }
}

/// Creates a hook and, if there is none with this name yet, its user. Two at the same moment may exceed the limit by
/// one.
pub(crate) async fn create(db: &mut DbConnection, hook: &NewHook) -> Result<Hook, RoomError> {
    let room = managed_room(db, &hook.room, hook.creator).await?;
    let bot = users::ensure(db, &hook.bot_name, &hook.bot_key).await.map_err(|error| match error {
        CreateUserError::Store(error) => RoomError::Store(error),
        CreateUserError::UsernameTaken | CreateUserError::EmailTaken => RoomError::HookNameTaken,
    })?;
    // The account of a person, from a time when names of programs were not reserved.
    if bot.has_password || bot.email.is_some() {
        return Err(RoomError::HookNameTaken);
    }
    let creator = users::by_id(db, hook.creator).await?.ok_or(RoomError::NoUser)?;
    let now = db.now().await?;
    let sql = "INSERT INTO hooks (room_id, user_id, name, secret_hash, created_by, created_at)
        SELECT h.room_id, u.id, CAST($3 AS text), CAST($4 AS text), CAST($5 AS bigint), CAST($6 AS bigint)
        FROM heads h, users u WHERE h.room_id = $1 AND u.id = $2
          AND (SELECT count(*) FROM hooks k WHERE k.room_id = $1) < $7
        ON CONFLICT (room_id, user_id) DO NOTHING RETURNING id";
    let args = [
        Arg::Int(room.0),
        Arg::Int(bot.id.0),
        Arg::Text(&hook.name),
        Arg::Text(&hook.secret_hash),
        Arg::Int(hook.creator.0),
        Arg::Int(now),
        Arg::Int(i64::try_from(hook.limit).unwrap_or(i64::MAX)),
    ];
    let Some((id,)) = db.optional::<(i64,)>(sql, &args).await? else {
        let sql = "SELECT id FROM hooks WHERE room_id = $1 AND user_id = $2";
        let same = db.optional::<(i64,)>(sql, &[Arg::Int(room.0), Arg::Int(bot.id.0)]).await?;
        return Err(if same.is_some() { RoomError::HookNameTaken } else { RoomError::TooManyHooks(hook.limit) });
    };
    let (bot, creator) = (User::from(&bot), User::from(&creator));
    Ok(Hook { id, name: hook.name.clone(), bot, creator, created_at: now.unsigned_abs() })
}

/// The hooks of a room by id, for its owner and moderators.
pub(crate) async fn list(db: &mut DbConnection, room: &str, actor: UserId) -> Result<Vec<Hook>, RoomError> {
    let room = managed_room(db, room, actor).await?;
    let sql = "SELECT h.id, h.name, b.id, b.username, c.id, c.username, h.created_at
        FROM hooks h JOIN users b ON b.id = h.user_id JOIN users c ON c.id = h.created_by
        WHERE h.room_id = $1 ORDER BY h.id";
    type Row = (i64, String, i64, String, i64, String, i64);
    let rows = db.all::<Row>(sql, &[Arg::Int(room.0)]).await?;
    let hook = |(id, name, bot, bot_name, creator, creator_name, created_at): Row| Hook {
        id,
        name,
        bot: User { id: UserId(bot), username: bot_name.into() },
        creator: User { id: UserId(creator), username: creator_name.into() },
        created_at: created_at.unsigned_abs(),
    };
    Ok(rows.into_iter().map(hook).collect())
}

pub(crate) async fn delete(
    db: &mut DbConnection,
    room: &str,
    actor: UserId,
    hook: i64,
) -> Result<DeletedHook, RoomError> {
    let room = managed_room(db, room, actor).await?;
    let sql = "DELETE FROM hooks WHERE id = $1 AND room_id = $2 RETURNING user_id";
    let deleted = db.optional::<(i64,)>(sql, &[Arg::Int(hook), Arg::Int(room.0)]).await?;
    let (bot,) = deleted.ok_or(RoomError::NoHook)?;
    let bot = users::by_id(db, UserId(bot)).await?.ok_or(RoomError::NoUser)?;
    Ok(DeletedHook { room, bot: User::from(&bot) })
}

/// The hook with this secret, unless its room was deleted.
pub(crate) async fn find(db: &mut DbConnection, secret_hash: &str) -> Result<Option<HookTarget>, StoreError> {
    let sql = "SELECT h.id, h.room_id, h.name, u.id, u.username
        FROM hooks h JOIN heads d ON d.room_id = h.room_id JOIN users u ON u.id = h.user_id WHERE h.secret_hash = $1";
    let found = db.optional::<(i64, i64, String, i64, String)>(sql, &[Arg::Text(secret_hash)]).await?;
    Ok(found.map(|(hook, room, name, bot, bot_name)| HookTarget {
        hook,
        room: RoomId(room),
        name,
        bot: User { id: UserId(bot), username: bot_name.into() },
    }))
}
