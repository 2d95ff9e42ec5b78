//! Admission: which users may subscribe to which rooms, for many users in one query.

use crate::check::is_storable;
use crate::connection::{Arg, DbConnection, json, wrong_row_count};
use crate::error::StoreError;
use crate::generation::DatabaseGeneration;
use crate::rooms::{self, Membership};
use std::sync::Arc;
use uproar_model::{Admission, Epoch, JoinError, Role, RoomId, UserId};

/// The answer to one request for admission.
pub(crate) enum Verdict {
    /// The user is a member.
    Admitted(Admission),
    /// The user is not a member, but the room is public.
    MayJoin {
        room: RoomId,
        epoch: Epoch,
        username: Arc<str>,
    },
    Refused(JoinError),
}

/// The room's id, kind, epoch and last offset, the user's role in it, the user's name, and whether a ban holds. The
/// first five are `None` if there is no such room, and the name if there is no such user.
type AdmissionRow = (Option<i64>, Option<i64>, Option<String>, Option<i64>, Option<i64>, Option<String>, bool);

/// One verdict for each pair of a room's name and a user, in the order of `wanted`.
pub(crate) async fn judge(db: &mut DbConnection, wanted: &[(String, UserId)]) -> Result<Vec<Verdict>, StoreError> {
    // No room's name is empty.
    let names: Vec<_> = wanted.iter().map(|(name, _)| if is_storable(name) { name.as_str() } else { "" }).collect();
    let users: Vec<_> = wanted.iter().map(|(_, user)| user.0).collect();
    let rows = if db.is_postgres() {
        // Without the subquery, PostgreSQL uses only one of the two key columns of `members`, and reads all members of
        // the room.
        let sql =
            "SELECT h.room_id, CAST(r.kind AS bigint), r.epoch, h.last_offset, CAST(m.role AS bigint), u.username,
              CASE WHEN m.role IS NULL THEN is_banned(r.id, w.user_id, clock_ms()) ELSE false END
            FROM unnest($1, $2) WITH ORDINALITY AS w(name, user_id, n)
            LEFT JOIN rooms r ON r.name = w.name LEFT JOIN heads h ON h.room_id = r.id
            LEFT JOIN users u ON u.id = w.user_id
            LEFT JOIN LATERAL (SELECT role FROM members WHERE room_id = r.id AND user_id = w.user_id OFFSET 0) m ON true
            ORDER BY w.n";
        db.all(sql, &[Arg::Texts(&names), Arg::Ints(&users)]).await?
    } else {
        let sql = "SELECT h.room_id, r.kind, r.epoch, h.last_offset, m.role, u.username,
              m.role IS NULL AND EXISTS (SELECT 1 FROM bans b WHERE b.room_id = r.id AND b.user_id = w.value ->> 1
                AND (b.until IS NULL OR b.until > $2))
            FROM json_each($1) w
            LEFT JOIN rooms r ON r.name = w.value ->> 0 LEFT JOIN heads h ON h.room_id = r.id
            LEFT JOIN members m ON m.room_id = r.id AND m.user_id = w.value ->> 1
            LEFT JOIN users u ON u.id = w.value ->> 1 ORDER BY w.key";
        let pairs: Vec<_> = names.iter().zip(&users).collect();
        let now = db.now().await?;
        db.all(sql, &[Arg::Text(&json(&pairs)), Arg::Int(now)]).await?
    };
    if rows.len() != wanted.len() {
        return Err(wrong_row_count(rows.len(), wanted.len()));
    }
    let generation = db.generation();
    Ok(rows.into_iter().map(|row| verdict_from(generation, row)).collect())
}

fn verdict_from(generation: DatabaseGeneration, row: AdmissionRow) -> Verdict {
    match row {
        (Some(id), _, Some(epoch), Some(offset), Some(role), Some(username), _) => Verdict::Admitted(Admission {
            room: RoomId(id),
            epoch: generation.epoch(&epoch),
            offset: offset.unsigned_abs(),
            role: Role::from_number(role),
            username: username.into(),
            joined: false,
            added: None,
        }),
        (Some(_), Some(0), _, _, None, _, true) => Verdict::Refused(JoinError::Banned),
        // If there is no such user, joining fails.
        (Some(id), Some(0), Some(epoch), _, None, username, false) => {
            let username = username.unwrap_or_default().into();
            Verdict::MayJoin { room: RoomId(id), epoch: generation.epoch(&epoch), username }
        }
        _ => Verdict::Refused(JoinError::NoRoom),
    }
}

/// A user who may join a public room.
pub(crate) struct PendingJoin {
    pub room: RoomId,
    pub user: UserId,
    pub epoch: Epoch,
    pub username: Arc<str>,
    /// Which of the requests for admission this is.
    pub index: usize,
}

/// Makes users members of public rooms. `joins` are in the order in which rooms are locked: by ascending id.
pub(crate) async fn join_all(
    db: &mut DbConnection,
    joins: &[PendingJoin],
    shown_limit: u64,
) -> Result<Vec<Result<Admission, JoinError>>, StoreError> {
    let pairs: Vec<_> = joins.iter().map(|join| (join.room, join.user)).collect();
    let memberships = rooms::join_all(db, &pairs, shown_limit).await?;
    let admission = |join: &PendingJoin, membership: Membership| Admission {
        room: join.room,
        epoch: join.epoch.clone(),
        offset: membership.offset,
        role: membership.role,
        username: Arc::clone(&join.username),
        joined: membership.is_new,
        added: membership.publication.map(Box::new),
    };
    let answers = joins.iter().zip(memberships);
    Ok(answers.map(|(join, membership)| membership.map(|membership| admission(join, membership))).collect())
}
