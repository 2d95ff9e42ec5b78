//! Invites: codes with which people join a room, or sign up.

use crate::connection::{Arg, DbConnection};
use crate::error::{CreateUserError, InvitedUserError, RoomError, StoreError};
use crate::objects::{Invite, InvitedUser, InvitingRoom, Join, NewInvite, NewUser, OpenInvite, RoomKind, WhoMay};
use crate::postgres::rooms as postgres;
use crate::rooms::{self, Membership};
use crate::{direct, names, users};
use std::collections::HashMap;
use uproar_model::{Marker, Role, RoomId, User, UserId, looks_like};

pub(crate) const CANNOT_INVITE: &str = "you may not invite others to this room";
/// How often a sign-up is tried because others take names that look like the new one.
const NAMES_LIMIT: usize = 4;

/// Whether the invite `i` of the room `r` can be used at the time $1, or why not. The same rules are in
/// `migrations/postgres` (`invite_state`).
macro_rules! state_sql {
    () => {
        "CASE WHEN i.revoked_at IS NOT NULL THEN 'invite_revoked' WHEN i.expires_at <= $1 THEN 'invite_expired'
            WHEN i.uses >= i.uses_limit THEN 'invite_used_up'
            WHEN i.created_by <> 0 AND NOT EXISTS (SELECT 1 FROM members m JOIN users u ON u.id = m.user_id
                WHERE m.room_id = i.room_id AND m.user_id = i.created_by AND r.who_may_invite < 2
                    AND m.role >= r.who_may_invite AND u.blocked_at IS NULL) THEN 'invite_void'
            ELSE 'valid' END"
    };
}

fn require_valid(state: &str) -> Result<(), RoomError> {
    if state == "valid" { Ok(()) } else { Err(postgres::refused(state)) }
}

/// The room, and the actor's role, if the actor may invite others to it.
async fn inviting_room(db: &mut DbConnection, name: &str, actor: UserId) -> Result<(RoomId, Role), RoomError> {
    let (room, _, role) = rooms::look_up(db, name, actor).await?;
    let sql = "SELECT CAST(who_may_invite AS bigint) FROM rooms WHERE id = $1";
    let (who,) = db.optional::<(i64,)>(sql, &[Arg::Int(room.0)]).await?.ok_or(RoomError::NoRoom)?;
    match role {
        Some(role) if WhoMay::from_number(who).includes(role) => Ok((room, role)),
        _ => Err(RoomError::NotAllowed(CANNOT_INVITE)),
    }
}

/// Whose invites somebody with this role sees. 0: those of all.
fn seen_by(actor: UserId, role: Role) -> Arg<'static> {
    Arg::Int(if role >= Role::Moderator { 0 } else { actor.0 })
}

/// Creates an invite. Two at the same moment may exceed the limit by one.
pub(crate) async fn create(db: &mut DbConnection, new: &NewInvite) -> Result<Invite, RoomError> {
    let room = match (&new.room, new.creator) {
        (None, _) => RoomId(0),
        (Some(name), Some(creator)) => inviting_room(db, name, creator).await?.0,
        (Some(name), None) => rooms::named(db, name).await?.ok_or(RoomError::NoRoom)?.0,
    };
    let sql = "SELECT CAST(kind AS bigint) FROM rooms WHERE id = $1";
    let kind = db.optional::<(i64,)>(sql, &[Arg::Int(room.0)]).await?;
    if kind.is_some_and(|(kind,)| RoomKind::from_number(kind) == RoomKind::Direct) {
        return Err(RoomError::NotAllowed(direct::CANNOT_ADD));
    }
    let creator = match new.creator {
        Some(creator) => Some(User::from(&users::by_id(db, creator).await?.ok_or(RoomError::NoUser)?)),
        None => None,
    };
    let now = db.now().await?;
    let limit = i64::try_from(new.limit).unwrap_or(i64::MAX);
    let sql = "DELETE FROM invites WHERE room_id = $1
        AND (revoked_at IS NOT NULL OR expires_at <= $2 OR uses >= uses_limit)
        AND (SELECT count(*) FROM invites o WHERE o.room_id = $1) >= $3";
    db.execute(sql, &[Arg::Int(room.0), Arg::Int(now), Arg::Int(limit)]).await?;
    let expires_at = now.saturating_add(i64::try_from(new.lifetime_ms).unwrap_or(i64::MAX));
    let sql = "INSERT INTO invites (code, room_id, created_by, created_at, expires_at, uses_limit)
        SELECT CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS bigint), CAST($4 AS bigint), CAST($5 AS bigint),
          CAST($6 AS bigint)
        WHERE (SELECT count(*) FROM invites o WHERE o.room_id = $2) < $7
          AND ($2 = 0 OR EXISTS (SELECT 1 FROM heads h WHERE h.room_id = $2))";
    let args = [
        Arg::Text(&new.code),
        Arg::Int(room.0),
        Arg::Int(new.creator.map_or(0, |creator| creator.0)),
        Arg::Int(now),
        Arg::Int(expires_at),
        Arg::MaybeInt(new.uses_limit.map(i64::from)),
        Arg::Int(limit),
    ];
    if db.execute(sql, &args).await? == 0 {
        return Err(RoomError::TooManyInvites(new.limit));
    }
    Ok(Invite {
        code: new.code.clone(),
        creator,
        created_at: now.unsigned_abs(),
        expires_at: expires_at.unsigned_abs(),
        uses: 0,
        uses_limit: new.uses_limit,
    })
}

/// The invites of a room that can be used, oldest first.
pub(crate) async fn list(db: &mut DbConnection, room: &str, actor: UserId) -> Result<Vec<Invite>, RoomError> {
    let (room, role) = inviting_room(db, room, actor).await?;
    let sql = concat!(
        "SELECT i.code, c.id, c.username, i.created_at, i.expires_at, i.uses, i.uses_limit
        FROM invites i JOIN rooms r ON r.id = i.room_id LEFT JOIN users c ON c.id = i.created_by
        WHERE i.room_id = $2 AND ($3 = 0 OR i.created_by = $3) AND ",
        state_sql!(),
        " = 'valid' ORDER BY i.created_at, i.code"
    );
    let now = db.now().await?;
    type Row = (String, Option<i64>, Option<String>, i64, i64, i64, Option<i64>);
    let rows = db.all::<Row>(sql, &[Arg::Int(now), Arg::Int(room.0), seen_by(actor, role)]).await?;
    let invite = |(code, creator, creator_name, created_at, expires_at, uses, uses_limit): Row| Invite {
        code,
        creator: user_from(creator, creator_name),
        created_at: created_at.unsigned_abs(),
        expires_at: expires_at.unsigned_abs(),
        uses: u32::try_from(uses).unwrap_or(u32::MAX),
        uses_limit: uses_limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
    };
    Ok(rows.into_iter().map(invite).collect())
}

fn user_from(id: Option<i64>, username: Option<String>) -> Option<User> {
    Some(User { id: UserId(id?), username: username?.into() })
}

pub(crate) async fn revoke(db: &mut DbConnection, room: &str, actor: UserId, code: &str) -> Result<(), RoomError> {
    let (room, role) = inviting_room(db, room, actor).await?;
    let now = db.now().await?;
    let sql = "UPDATE invites SET revoked_at = $1 WHERE code = $2 AND room_id = $3 AND revoked_at IS NULL
        AND ($4 = 0 OR created_by = $4)";
    let args = [Arg::Int(now), Arg::Text(code), Arg::Int(room.0), seen_by(actor, role)];
    if db.execute(sql, &args).await? == 0 { Err(RoomError::NoInvite) } else { Ok(()) }
}

/// The invite with this code. It must be valid.
pub(crate) async fn find(db: &mut DbConnection, code: &str) -> Result<OpenInvite, RoomError> {
    let sql = concat!(
        "SELECT i.room_id, r.name, r.title, CAST(r.kind AS bigint), CAST(r.members AS bigint), c.id, c.username,
            i.expires_at, ",
        state_sql!(),
        " FROM invites i LEFT JOIN rooms r ON r.id = i.room_id LEFT JOIN users c ON c.id = i.created_by
        WHERE i.code = $2"
    );
    let now = db.now().await?;
    type Row =
        (i64, Option<String>, Option<String>, Option<i64>, Option<i64>, Option<i64>, Option<String>, i64, String);
    let found = db.optional::<Row>(sql, &[Arg::Int(now), Arg::Text(code)]).await?;
    let (room, name, title, kind, members, creator, creator_name, expires_at, state) =
        found.ok_or(RoomError::NoInvite)?;
    let room = match (room, name, title) {
        (0, _, _) => None,
        (_, Some(name), Some(title)) => Some(InvitingRoom {
            name,
            title,
            kind: RoomKind::from_number(kind.unwrap_or(1)),
            members: u32::try_from(members.unwrap_or(0)).unwrap_or(u32::MAX),
        }),
        // The room was deleted.
        _ => return Err(RoomError::NoInvite),
    };
    require_valid(&state)?;
    Ok(OpenInvite { room, creator: user_from(creator, creator_name), expires_at: expires_at.unsigned_abs() })
}

/// The name of the invite's room, and whether the user is a member. `None`: the invite is for no room.
pub(crate) async fn target(
    db: &mut DbConnection,
    code: &str,
    user: UserId,
) -> Result<Option<(String, bool)>, RoomError> {
    let sql = "SELECT i.room_id, r.name, m.user_id FROM invites i LEFT JOIN rooms r ON r.id = i.room_id
        LEFT JOIN members m ON m.room_id = i.room_id AND m.user_id = $2 WHERE i.code = $1";
    let found = db.optional::<(i64, Option<String>, Option<i64>)>(sql, &[Arg::Text(code), Arg::Int(user.0)]).await?;
    match found.ok_or(RoomError::NoInvite)? {
        (0, _, _) => {
            find(db, code).await?;
            Ok(None)
        }
        (_, Some(name), member) => Ok(Some((name, member.is_some()))),
        // The room was deleted.
        (_, None, _) => Err(RoomError::NoInvite),
    }
}

/// Makes a user a member of the invite's room, which has this name.
pub(crate) async fn accept(
    db: &mut DbConnection,
    code: &str,
    name: &str,
    user: UserId,
    newer: &HashMap<RoomId, Marker>,
    shown_limit: u64,
) -> Result<Join, RoomError> {
    let Membership { is_new, publication, .. } = if db.is_postgres() {
        postgres::accept_invite(db, code, user, shown_limit).await?
    } else {
        accept_sqlite(db, code, user, shown_limit).await?
    };
    let room = rooms::find(db, name, user, newer).await?.ok_or(RoomError::NoRoom)?;
    Ok(Join { room, joined: is_new, publication })
}

async fn accept_sqlite(
    db: &mut DbConnection,
    code: &str,
    user: UserId,
    shown_limit: u64,
) -> Result<Membership, RoomError> {
    let sql = concat!(
        "SELECT i.room_id, ",
        state_sql!(),
        ", m.user_id IS NOT NULL FROM invites i JOIN rooms r ON r.id = i.room_id AND r.name IS NOT NULL
        LEFT JOIN members m ON m.room_id = i.room_id AND m.user_id = $3 WHERE i.code = $2"
    );
    let now = db.now().await?;
    let found = db.optional::<(i64, String, bool)>(sql, &[Arg::Int(now), Arg::Text(code), Arg::Int(user.0)]).await?;
    let (room, state, is_member) = found.ok_or(RoomError::NoInvite)?;
    if !is_member {
        require_valid(&state)?;
    }
    let membership = rooms::join_sqlite(db, RoomId(room), user, user, shown_limit).await??;
    if membership.is_new {
        count_use(db, code).await?;
    }
    Ok(membership)
}

async fn count_use(db: &mut DbConnection, code: &str) -> Result<(), StoreError> {
    db.execute("UPDATE invites SET uses = uses + 1 WHERE code = $1", &[Arg::Text(code)]).await?;
    Ok(())
}

/// Creates a user who has an invite, and makes the user a member of its room, if it is for one.
pub(crate) async fn sign_up(
    db: &mut DbConnection,
    new: &NewUser,
    code: &str,
    shown_limit: u64,
) -> Result<InvitedUser, InvitedUserError> {
    // The name of a room never changes.
    let room = find(db, code).await?.room.map(|room| room.name);
    let (user, membership) = if db.is_postgres() {
        sign_up_postgres(db, new, code, shown_limit).await?
    } else {
        let user = users::create(db, new).await?.id;
        match &room {
            Some(_) => (user, Some(accept_sqlite(db, code, user, shown_limit).await?)),
            None => {
                count_use(db, code).await?;
                (user, None)
            }
        }
    };
    let account = users::by_id(db, user).await?.ok_or_else(users::just_created_is_missing)?;
    let room = match room {
        Some(name) => rooms::named(db, &name).await?.map(|(room, _)| (room, name)),
        None => None,
    };
    Ok(InvitedUser { account, room, publication: membership.and_then(|membership| membership.publication) })
}

async fn sign_up_postgres(
    db: &mut DbConnection,
    new: &NewUser,
    code: &str,
    shown_limit: u64,
) -> Result<(UserId, Option<Membership>), InvitedUserError> {
    for _ in 0..NAMES_LIMIT {
        let known = names::with_skeleton_of(db, &new.username).await?;
        if known.iter().any(|other| looks_like(&new.username, other)) {
            break;
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        if let Some(created) = postgres::sign_up_with_invite(db, new, code, &known, shown_limit).await? {
            return Ok(created);
        }
    }
    Err(CreateUserError::UsernameTaken.into())
}
