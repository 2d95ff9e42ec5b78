//! Changes of rooms that lock a head. Each is one call of an SQL function, which decides and is in
//! `migrations/postgres`.

use crate::connection::{Arg, DbConnection, wrong_row_count};
use crate::error::{CreateUserError, InviteEnd, InvitedUserError, RoomError, StoreError};
use crate::objects::NewUser;
use crate::postgres::is_lock_timeout;
use crate::rights::{CANNOT_CHANGE_ROLES, CANNOT_CHANGE_SETTINGS, CANNOT_MODERATE, CANNOT_PIN, NOT_OVER_EQUALS};
use crate::rooms::{
    CANNOT_ADD, CANNOT_DELETE, CANNOT_LEAVE, CANNOT_REMOVE, Change, MODERATOR_STAYS, Membership, OWNER_STAYS,
    RESERVED_NAMES_LIMIT,
};
use uproar_model::{Kind, Publication, Role, RoomId, User, UserId, skeleton};

/// The offset, number and time of a publication, the sender's id, the body and the actor's name.
type ChangeRow = (Option<i64>, Option<i64>, Option<i64>, Option<String>, Option<String>, Option<String>);

/// Makes users members of rooms: one answer for each pair, in the order of `joins`. `adder`: the member who adds them;
/// `None`: they join public rooms by themselves.
pub(crate) async fn join_all(
    db: &mut DbConnection,
    joins: &[(RoomId, UserId)],
    adder: Option<UserId>,
    shown_limit: u64,
) -> Result<Vec<Result<Membership, RoomError>>, StoreError> {
    let (rooms, users): (Vec<_>, Vec<_>) = joins.iter().map(|(room, user)| (room.0, user.0)).unzip();
    let sql = "SELECT outcome, member_role, since_ms, at_offset, at_number, change_id, change_body, actor_name
        FROM join_rooms($1, $2, $3, $4) ORDER BY item";
    let args = [
        Arg::Ints(&rooms),
        Arg::Ints(&users),
        Arg::MaybeInt(adder.map(|adder| adder.0)),
        Arg::Int(i64::try_from(shown_limit).unwrap_or(i64::MAX)),
    ];
    let rows = db.all::<JoinRow>(sql, &args).await?;
    if rows.len() != joins.len() {
        return Err(wrong_row_count(rows.len(), joins.len()));
    }
    let answers = rows.into_iter().zip(joins);
    Ok(answers.map(|(row, (_, user))| membership_from(row, adder.unwrap_or(*user))).collect())
}

/// Makes a user a member of a room of any kind. `actor`: the user who is said to have done it.
pub(crate) async fn enroll(
    db: &mut DbConnection,
    room: RoomId,
    user: UserId,
    actor: UserId,
    shown_limit: u64,
) -> Result<Membership, RoomError> {
    let sql = "SELECT outcome, member_role, since_ms, at_offset, at_number, change_id, change_body, actor_name
        FROM enroll_member($1, $2, $3, $4)";
    let shown_limit = i64::try_from(shown_limit).unwrap_or(i64::MAX);
    let args = [Arg::Int(room.0), Arg::Int(user.0), Arg::Int(actor.0), Arg::Int(shown_limit)];
    membership_from(db.optional(sql, &args).await?.ok_or_else(incomplete)?, actor)
}

/// The outcome, the member's role, since when, and the offset, number, sender's id, body and actor's name of the
/// publication.
type JoinRow =
    (String, Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<String>, Option<String>, Option<String>);

fn membership_from(row: JoinRow, actor: UserId) -> Result<Membership, RoomError> {
    let (outcome, role, since, offset, number, id, body, actor_name) = row;
    if outcome != "joined" && outcome != "member" {
        return Err(refused(&outcome));
    }
    let (Some(role), Some(since), Some(offset)) = (role, since, offset) else { return Err(incomplete().into()) };
    let row = (Some(offset), number, Some(since), id, body, actor_name);
    Ok(Membership {
        role: Role::from_number(role),
        joined_at: since.unsigned_abs(),
        offset: offset.unsigned_abs(),
        is_new: outcome == "joined",
        publication: publication_from(Kind::Added, actor, row),
    })
}

/// Makes a user a member of the room of an invite.
pub(crate) async fn accept_invite(
    db: &mut DbConnection,
    code: &str,
    user: UserId,
    shown_limit: u64,
) -> Result<Membership, RoomError> {
    let sql = "SELECT outcome, member_role, since_ms, at_offset, at_number, change_id, change_body, actor_name
        FROM accept_invite($1, $2, $3)";
    let shown_limit = i64::try_from(shown_limit).unwrap_or(i64::MAX);
    let args = [Arg::Text(code), Arg::Int(user.0), Arg::Int(shown_limit)];
    membership_from(db.optional(sql, &args).await?.ok_or_else(incomplete)?, user)
}

/// Creates a user who has an invite. Returns the membership in the room of the invite, if it is for one. `known_names`:
/// the names with the same skeleton that the new name may stand beside. `None`: there are others now.
pub(crate) async fn sign_up_with_invite(
    db: &mut DbConnection,
    new: &NewUser,
    code: &str,
    known_names: &[&str],
    shown_limit: u64,
) -> Result<Option<(UserId, Option<Membership>)>, InvitedUserError> {
    let sql =
        "SELECT new_user, outcome, member_role, since_ms, at_offset, at_number, change_id, change_body, actor_name
        FROM sign_up_with_invite($1, $2, $3, $4, $5, $6, $7, $8)";
    let skeleton = skeleton(&new.username);
    let args = [
        Arg::Text(code),
        Arg::Text(&new.username),
        Arg::Text(&new.username_key),
        Arg::Text(&new.email_key),
        Arg::Text(&new.password_hash),
        Arg::Text(&skeleton),
        Arg::Texts(known_names),
        Arg::Int(i64::try_from(shown_limit).unwrap_or(i64::MAX)),
    ];
    let row = match db.optional::<SignUpRow>(sql, &args).await {
        Err(error) if is_lock_timeout(&error) => return Err(StoreError::Overloaded.into()),
        row => row?.ok_or_else(incomplete)?,
    };
    let (user, outcome, role, since, offset, number, id, body, actor_name) = row;
    match (outcome.as_str(), user.map(UserId)) {
        ("other_names", _) => Ok(None),
        ("username_taken", _) => Err(CreateUserError::UsernameTaken.into()),
        ("email_taken", _) => Err(CreateUserError::EmailTaken.into()),
        ("valid", Some(user)) => Ok(Some((user, None))),
        (_, Some(user)) => {
            let row = (outcome, role, since, offset, number, id, body, actor_name);
            Ok(Some((user, Some(membership_from(row, user)?))))
        }
        (refusal, None) => Err(refused(refusal).into()),
    }
}

/// The new user's id, and the columns of a `JoinRow`.
type SignUpRow = (
    Option<i64>,
    String,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// Ends a membership, and appends the publication of it.
pub(crate) async fn remove_member(
    db: &mut DbConnection,
    room: RoomId,
    actor: UserId,
    member_key: &str,
) -> Result<(UserId, Publication), RoomError> {
    let sql = "SELECT outcome, member, at_offset, at_number, at_ms, change_id, change_body, actor_name
        FROM remove_member($1, $2, $3)";
    let args = [Arg::Int(room.0), Arg::Int(actor.0), Arg::Text(member_key)];
    removal_from(db.optional::<RemovalRow>(sql, &args).await?.ok_or_else(incomplete)?, actor)
}

/// Ends a membership, whatever rights the actor has.
pub(crate) async fn expel(
    db: &mut DbConnection,
    room: RoomId,
    actor: UserId,
    user: UserId,
) -> Result<(UserId, Publication), RoomError> {
    let sql = "SELECT outcome, member, at_offset, at_number, at_ms, change_id, change_body, actor_name
        FROM expel_member($1, $2, $3)";
    let args = [Arg::Int(room.0), Arg::Int(actor.0), Arg::Int(user.0)];
    removal_from(db.optional::<RemovalRow>(sql, &args).await?.ok_or_else(incomplete)?, actor)
}

type RemovalRow =
    (String, Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<String>, Option<String>, Option<String>);

fn removal_from(row: RemovalRow, actor: UserId) -> Result<(UserId, Publication), RoomError> {
    let (outcome, member, offset, number, at, id, body, actor_name) = row;
    if outcome != "removed" {
        return Err(refused(&outcome));
    }
    let publication = publication_from(Kind::Removed, actor, (offset, number, at, id, body, actor_name));
    Ok((UserId(member.ok_or_else(incomplete)?), publication.ok_or_else(incomplete)?))
}

/// Deletes a room's head and its name, which is reserved for the owner.
pub(crate) async fn delete(
    db: &mut DbConnection,
    room: RoomId,
    name: &str,
    actor: UserId,
    reserved_ms: u64,
) -> Result<(), RoomError> {
    let skeleton = skeleton(name);
    let args = [
        Arg::Int(room.0),
        Arg::Int(actor.0),
        Arg::Int(i64::try_from(reserved_ms).unwrap_or(i64::MAX)),
        Arg::Text(&skeleton),
        Arg::Int(RESERVED_NAMES_LIMIT as i64),
    ];
    let row = db.optional::<(String,)>("SELECT delete_room($1, $2, $3, $4, $5)", &args).await?;
    let (outcome,) = row.ok_or_else(incomplete)?;
    if outcome == "deleted" { Ok(()) } else { Err(refused(&outcome)) }
}

/// The publication of a change of membership. `None`: the change is not published.
fn publication_from(kind: Kind, actor: UserId, row: ChangeRow) -> Option<Publication> {
    let (offset, number, at, id, body, actor_name) = row;
    let actor = User { id: actor, username: actor_name?.into() };
    Some(Change { offset: offset?, number: number?, time: at?, kind, actor, id: id?, body: Some(body?) }.into())
}

/// Why a function has changed nothing.
pub(crate) fn refused(outcome: &str) -> RoomError {
    match outcome {
        "no_room" => RoomError::NoRoom,
        "no_user" => RoomError::NoUser,
        "not_member" => RoomError::NotMember,
        "full" => RoomError::Full,
        "no_invite" => RoomError::NoInvite,
        "invite_revoked" => RoomError::InviteEnded(InviteEnd::Revoked),
        "invite_expired" => RoomError::InviteEnded(InviteEnd::Expired),
        "invite_used_up" => RoomError::InviteEnded(InviteEnd::UsedUp),
        "invite_void" => RoomError::InviteEnded(InviteEnd::Void),
        "cannot_add" => RoomError::NotAllowed(CANNOT_ADD),
        "cannot_remove" => RoomError::NotAllowed(CANNOT_REMOVE),
        "cannot_delete" => RoomError::NotAllowed(CANNOT_DELETE),
        "owner_leaves" => RoomError::NotAllowed(CANNOT_LEAVE),
        "owner_stays" => RoomError::NotAllowed(OWNER_STAYS),
        "banned" => RoomError::Banned,
        "last_owner" => RoomError::LastOwner,
        "too_small" => RoomError::TooSmall,
        "no_message" => RoomError::NoMessage,
        "too_many_pins" => RoomError::TooManyPins,
        "cannot_change_roles" => RoomError::NotAllowed(CANNOT_CHANGE_ROLES),
        "cannot_change_settings" => RoomError::NotAllowed(CANNOT_CHANGE_SETTINGS),
        "cannot_pin" => RoomError::NotAllowed(CANNOT_PIN),
        "cannot_moderate" => RoomError::NotAllowed(CANNOT_MODERATE),
        "not_over_equals" => RoomError::NotAllowed(NOT_OVER_EQUALS),
        "moderator_stays" => RoomError::NotAllowed(MODERATOR_STAYS),
        // A newer release may have changed the function, and refuses for a reason that this one does not know.
        other => RoomError::Store(StoreError::Failed(format!("the database refuses this change of a room: {other}"))),
    }
}

pub(crate) fn incomplete() -> StoreError {
    StoreError::Failed("a function of the database returned an incomplete row".to_owned())
}
