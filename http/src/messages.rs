//! Handlers for messages: sending one, reading history.

use crate::app::{App, Route};
use crate::authentication::Authenticated;
use crate::chat::{PublishError, PublishRequest};
use crate::errors::{ApiError, Code};
use crate::fields::FieldError;
use crate::input::{Body, Precheck, Query, RoomName, fold};
use crate::objects::MessagePageObject;
use crate::traces::CallSpan;
use crate::validation;
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use garde::Validate;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;
use uproar_core::limits::Limits;
use uproar_model::Refusal;
use uproar_store::{Cursor, RoomKind};

/// Joins and departures in a page of history.
const MEMBERSHIPS_LIMIT: usize = 100;

pub(crate) fn routes() -> Vec<Route> {
    vec![Route::new(Method::GET, "/user/getchats", read), Route::new(Method::POST, "/rooms/{name}/messages", publish)]
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct ReadMessages {
    #[garde(custom(validation::name))]
    room: String,
    #[garde(inner(custom(validation::offset)))]
    before: Option<u64>,
    #[garde(inner(custom(validation::position)))]
    after: Option<u64>,
    #[garde(inner(custom(validation::page_limit)))]
    limit: Option<u64>,
    /// Whether the answer also has the joins and departures between the messages.
    #[garde(skip)]
    memberships: Option<bool>,
}

async fn read(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    Query(query): Query<ReadMessages>,
) -> Result<Response, ApiError> {
    let cursor = match (query.before, query.after) {
        (None, None) => Cursor::Newest,
        (Some(before), None) => Cursor::Before(before),
        (None, Some(after)) => Cursor::After(after),
        (Some(_), Some(_)) => return Err(ApiError::invalid("after", "send before or after, not both")),
    };
    let room = fold("room", &query.room)?;
    let page = app
        .store
        .messages(&room, auth.user.id, cursor, app.page_limit(query.limit))
        .await
        .map_err(ApiError::from_room)?;
    let limit_bytes = app.settings.limits.response_limit_bytes;
    let object = MessagePageObject::fitting(&page, cursor, limit_bytes);
    if query.memberships != Some(true) {
        return Ok(Json(object).into_response());
    }
    let (above, up_to) = object.span(cursor);
    let changes = app.store.membership_changes(page.room, auth.user.id, above, up_to, MEMBERSHIPS_LIMIT);
    let changes = changes.await.map_err(ApiError::from_room)?;
    Ok(Json(object.with_memberships(&changes)).into_response())
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct Publish {
    #[garde(custom(validation::text))]
    text: String,
    #[garde(inner(custom(validation::message_id)))]
    id: Option<String>,
    #[garde(inner(custom(validation::offset)))]
    reply_to: Option<u64>,
    /// The epoch of the room that the message is meant for.
    #[garde(skip)]
    epoch: Option<String>,
}

impl Precheck for Publish {
    fn precheck(&self, limits: &Limits) -> Result<(), FieldError> {
        if self.text.len() as u64 <= limits.text_limit_bytes {
            return Ok(());
        }
        let message = format!("must be at most {} bytes long", limits.text_limit_bytes);
        Err(FieldError::new("text", Code::TextTooLarge, message))
    }
}

async fn publish(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
    span: Option<Extension<CallSpan>>,
    Body(body): Body<Publish>,
) -> Result<Response, ApiError> {
    if app.publish_rate.take(auth.user.id, Instant::now()).is_err() {
        let rate = app.settings.limits.publish_rate_per_second;
        return Err(ApiError::new(
            Code::RateLimited,
            format!(
                "you are sending more than {rate} messages per second; the operator can change that with `--limit \
                 publish_rate_per_second=…`"
            ),
        )
        .retry_after(1));
    }
    let room = app.store.room(&name, auth.user.id).await?.ok_or_else(ApiError::no_such_room)?;
    if room.role.is_none() {
        return Err(ApiError::not_member());
    }
    if body.epoch.is_some_and(|epoch| *epoch != *room.epoch.0) {
        let text = "the room is not the one that the message was meant for: it was deleted and made again, or the \
                    database was restored; read the room again";
        return Err(ApiError::new(Code::WrongEpoch, text).on("epoch"));
    }
    let span = span.map(|Extension(span)| span.context);
    let Publish { text, id, reply_to, .. } = body;
    let message = PublishRequest { room: room.id, user: auth.user, text, id, reply_to, span };
    let stored = app.chat.publish(message).await.map_err(|error| publish_error(error, room.kind))?;
    let body = json!({"offset": stored.offset, "epoch": &*room.epoch.0, "time": stored.time});
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

fn publish_error(error: PublishError, room: RoomKind) -> ApiError {
    let message = error.to_string();
    match error {
        PublishError::Refused(refusal) => match refusal {
            Refusal::NoRoom => ApiError::no_such_room(),
            // The membership has ended since it was looked up, and a private room is invisible to others.
            Refusal::NotMember if room == RoomKind::Private => ApiError::no_such_room(),
            Refusal::NotMember => ApiError::not_member(),
            Refusal::NotYours => ApiError::new(Code::NotYours, message),
            Refusal::NoTarget => ApiError::new(Code::NoTarget, message).on("reply_to"),
            Refusal::IdReused => ApiError::new(Code::IdReused, message).on("id"),
            // Over HTTP nobody reacts yet.
            Refusal::BadData | Refusal::TooManyReactions | Refusal::Unknown => ApiError::new(Code::BadData, message),
        },
        PublishError::OutcomeUnknown => ApiError::new(Code::OutcomeUnknown, message).retry_after(1),
        PublishError::Overloaded => ApiError::new(Code::Overloaded, message).retry_after(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_error() {
        for (refusal, status, code) in [
            (Refusal::NoRoom, 404, "no_such_room"),
            (Refusal::NotMember, 403, "not_member"),
            (Refusal::NotYours, 403, "not_yours"),
            (Refusal::NoTarget, 409, "no_target"),
            (Refusal::IdReused, 409, "id_reused"),
            (Refusal::BadData, 422, "bad_data"),
            (Refusal::Unknown, 422, "bad_data"),
        ] {
            let error = publish_error(PublishError::Refused(refusal), RoomKind::Public);
            assert_eq!((error.code.status().as_u16(), error.code.as_str()), (status, code));
        }
        let hidden = publish_error(PublishError::Refused(Refusal::NotMember), RoomKind::Private);
        assert_eq!(hidden, ApiError::no_such_room());
    }
}
