//! Changes of rights and settings: each is one call of the SQL function `change_room`, which decides.

use super::rooms::{incomplete, refused};
use crate::connection::{Arg, DbConnection, json};
use crate::error::RoomError;
use crate::objects::{RoomChange, RoomChanged};
use crate::rights::{Found, PINS_LIMIT, moderated};
use crate::rooms::Change;
use serde::Serialize;
use uproar_model::{Kind, RoomId, User, UserId, text};

/// The change as the function takes it.
#[derive(Default, Serialize)]
struct Wanted<'a> {
    r#do: &'static str,
    user: Option<&'a str>,
    role: Option<u8>,
    until: Option<u64>,
    reason: Option<&'a str>,
    since: Option<u64>,
    found: &'a [i64],
    more: bool,
    read_to: i64,
    offset: Option<u64>,
    limit: usize,
    title: Option<&'a str>,
    title_key: Option<String>,
    topic: Option<&'a str>,
    private: Option<bool>,
    size: Option<u32>,
    slow_mode_seconds: Option<u32>,
    who_may_post: Option<u8>,
    who_may_invite: Option<u8>,
}

/// The outcome; the user concerned and that user's name; the actor's name; and of a publication the offset, number,
/// kind, time, id, target and body; whether there is more to delete.
type Row = (
    String,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<i64>,
    Option<String>,
    Option<bool>,
);

/// Makes the change. `user_key`: the current key of the user whom it concerns.
pub(crate) async fn change(
    db: &mut DbConnection,
    room: RoomId,
    actor: UserId,
    change: &RoomChange,
    user_key: Option<&str>,
    found: &Found,
) -> Result<RoomChanged, RoomError> {
    let wanted = Wanted { user: user_key, limit: PINS_LIMIT, ..Wanted::default() };
    let wanted = match change {
        RoomChange::Role { role, .. } => Wanted { r#do: "role", role: Some(*role as u8), ..wanted },
        RoomChange::Ban { until, reason, delete_since, .. } => Wanted {
            r#do: "ban",
            until: *until,
            reason: reason.as_deref(),
            since: *delete_since,
            found: &found.offsets,
            more: found.more,
            read_to: found.read_to,
            ..wanted
        },
        RoomChange::Unban { .. } => Wanted { r#do: "unban", ..wanted },
        RoomChange::Silence { until, reason, .. } => {
            Wanted { r#do: "silence", until: Some(*until), reason: reason.as_deref(), ..wanted }
        }
        RoomChange::Unsilence { .. } => Wanted { r#do: "unsilence", ..wanted },
        RoomChange::Settings(settings) => Wanted {
            r#do: "settings",
            title: settings.title.as_deref(),
            title_key: settings.title.as_deref().map(text::fold),
            topic: settings.topic.as_deref(),
            private: settings.private,
            size: settings.size,
            slow_mode_seconds: settings.slow_mode_seconds,
            who_may_post: settings.who_may_post.map(|who| who as u8),
            who_may_invite: settings.who_may_invite.map(|who| who as u8),
            ..wanted
        },
        RoomChange::Pin(offset) => Wanted { r#do: "pin", offset: Some(*offset), ..wanted },
        RoomChange::Unpin(offset) => Wanted { r#do: "unpin", offset: Some(*offset), ..wanted },
    };
    let sql = "SELECT outcome, subject, subject_name, actor_name, at_offset, at_number, at_kind, at_ms, change_id,
        change_target, change_body, more FROM change_room($1, $2, CAST($3 AS json))";
    let rows = db.all::<Row>(sql, &[Arg::Int(room.0), Arg::Int(actor.0), Arg::Text(&json(&wanted))]).await?;
    let mut changed = RoomChanged { room, subject: None, publications: Vec::new(), deleted: 0, more: false };
    let mut is_done = false;
    for (outcome, subject, name, actor_name, offset, number, kind, at, id, target, body, more) in rows {
        match outcome.as_str() {
            "published" => {}
            "done" => {
                changed.subject = subject.zip(name).map(|(id, name)| User { id: UserId(id), username: name.into() });
                changed.more = more.unwrap_or_default();
                is_done = true;
                continue;
            }
            refusal => return Err(refused(refusal)),
        }
        let kind = Kind::from_number(kind.ok_or_else(incomplete)?);
        let actor = User { id: actor, username: actor_name.ok_or_else(incomplete)?.into() };
        let (Some(offset), Some(number), Some(time), Some(id)) = (offset, number, at, id) else {
            return Err(incomplete().into());
        };
        changed.deleted += u64::from(kind == Kind::Delete);
        let change = Change { offset, number, time, kind, actor, id, body };
        changed.publications.push(moderated(change, target.map(i64::unsigned_abs)));
    }
    if is_done { Ok(changed) } else { Err(incomplete().into()) }
}
