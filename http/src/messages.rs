//! Handlers for messages: sending one, editing and deleting it, reacting to it, reading history.

use crate::app::{App, Route};
use crate::authentication::Authenticated;
use crate::chat::{PublishError, PublishRequest};
use crate::errors::{ApiError, Code};
use crate::fields::{FieldError, RawJson};
use crate::input::{Body, Emoji, MessageOffset, Precheck, Query, RoomName, fold_room};
use crate::objects::MessagePageObject;
use crate::traces::CallSpan;
use crate::validation;
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use garde::Validate;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use uproar_core::limits::Limits;
use uproar_core::protocol::data;
use uproar_model::text::EMOJI_LIMIT_BYTES;
use uproar_model::{Kind, Offset, Refusal};
use uproar_store::{Cursor, RoomKind};

/// Joins and departures in a page of history.
const MEMBERSHIPS_LIMIT: usize = 100;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/user/getchats", read_named).with_query(),
        Route::new(Method::GET, "/rooms/{name}/messages", read).with_query(),
        Route::new(Method::POST, "/rooms/{name}/messages", publish),
        Route::new(Method::PATCH, "/rooms/{name}/messages/{offset}", edit),
        Route::new(Method::DELETE, "/rooms/{name}/messages/{offset}", delete).with_query(),
        Route::new(Method::PUT, "/rooms/{name}/messages/{offset}/reactions/{emoji}", react).with_query(),
        Route::new(Method::DELETE, "/rooms/{name}/messages/{offset}/reactions/{emoji}", unreact).with_query(),
    ]
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct ReadNamed {
    #[garde(custom(validation::room_name))]
    room: String,
    #[garde(inner(custom(validation::offset)))]
    before: Option<u64>,
    #[garde(inner(custom(validation::position)))]
    after: Option<u64>,
    #[garde(inner(custom(validation::page_limit)))]
    limit: Option<u64>,
    #[garde(skip)]
    memberships: Option<bool>,
}

async fn read_named(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    Query(query): Query<ReadNamed>,
) -> Result<Response, ApiError> {
    let room = fold_room("room", &query.room)?;
    let ReadNamed { before, after, limit, memberships, .. } = query;
    page(&app, &auth, &room, ReadMessages { before, after, limit, memberships }).await
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct ReadMessages {
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
    RoomName(room): RoomName,
    Query(query): Query<ReadMessages>,
) -> Result<Response, ApiError> {
    page(&app, &auth, &room, query).await
}

/// A page of a room's messages. `room`: its key.
async fn page(app: &App, auth: &Authenticated, room: &str, query: ReadMessages) -> Result<Response, ApiError> {
    let cursor = match (query.before, query.after) {
        (None, None) => Cursor::Newest,
        (Some(before), None) => Cursor::Before(before),
        (None, Some(after)) => Cursor::After(after),
        (Some(_), Some(_)) => return Err(ApiError::invalid("after", "send before or after, not both")),
    };
    let page = app
        .store
        .messages(room, auth.user.id, cursor, app.page_limit(query.limit))
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

/// What a user appends to a room.
struct Change {
    kind: Kind,
    id: Option<String>,
    /// The message that a `Message` replies to, or that anything else is about.
    target: Option<Offset>,
    body: Option<String>,
    meta: Option<String>,
    /// The epoch of the room that it is meant for.
    epoch: Option<String>,
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
    #[garde(inner(custom(validation::meta)))]
    meta: Option<RawJson>,
    #[garde(skip)]
    epoch: Option<String>,
}

impl Precheck for Publish {
    fn precheck(&self, limits: &Limits) -> Result<(), FieldError> {
        check_length(&self.text, limits)
    }
}

async fn publish(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
    span: Option<Extension<CallSpan>>,
    Body(body): Body<Publish>,
) -> Result<Response, ApiError> {
    let Publish { text, id, reply_to, meta, epoch } = body;
    let meta = meta
        .map(|meta| data::new_meta(&meta.0).map_err(|error| ApiError::invalid("meta", error.message)))
        .transpose()?;
    let change = Change { kind: Kind::Message, id, target: reply_to, body: Some(text), meta, epoch };
    append(&app, auth, &name, span, change).await.map(|answer| (StatusCode::CREATED, answer).into_response())
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct Edit {
    #[garde(custom(validation::text))]
    text: String,
    #[garde(inner(custom(validation::message_id)))]
    id: Option<String>,
    #[garde(skip)]
    epoch: Option<String>,
}

impl Precheck for Edit {
    fn precheck(&self, limits: &Limits) -> Result<(), FieldError> {
        check_length(&self.text, limits)
    }
}

async fn edit(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
    MessageOffset(target): MessageOffset,
    span: Option<Extension<CallSpan>>,
    Body(body): Body<Edit>,
) -> Result<Response, ApiError> {
    let Edit { text, id, epoch } = body;
    let change = Change { kind: Kind::Edit, id, target: Some(target), body: Some(text), meta: None, epoch };
    append(&app, auth, &name, span, change).await.map(IntoResponse::into_response)
}

/// What a change without a body may say of itself.
#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct Identified {
    #[garde(inner(custom(validation::message_id)))]
    id: Option<String>,
    #[garde(skip)]
    epoch: Option<String>,
}

async fn delete(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
    MessageOffset(target): MessageOffset,
    span: Option<Extension<CallSpan>>,
    Query(Identified { id, epoch }): Query<Identified>,
) -> Result<Response, ApiError> {
    let change = Change { kind: Kind::Delete, id, target: Some(target), body: None, meta: None, epoch };
    append(&app, auth, &name, span, change).await.map(IntoResponse::into_response)
}

async fn react(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
    MessageOffset(target): MessageOffset,
    Emoji(emoji): Emoji,
    span: Option<Extension<CallSpan>>,
    Query(Identified { id, epoch }): Query<Identified>,
) -> Result<Response, ApiError> {
    let emoji = data::new_reaction(&emoji).map_err(|_| not_an_emoji())?;
    let change = Change { kind: Kind::React, id, target: Some(target), body: Some(emoji), meta: None, epoch };
    append(&app, auth, &name, span, change).await.map(IntoResponse::into_response)
}

async fn unreact(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
    MessageOffset(target): MessageOffset,
    Emoji(emoji): Emoji,
    span: Option<Extension<CallSpan>>,
    Query(Identified { id, epoch }): Query<Identified>,
) -> Result<Response, ApiError> {
    let emoji = data::old_reaction(emoji).map_err(|_| not_an_emoji())?;
    let change = Change { kind: Kind::Unreact, id, target: Some(target), body: Some(emoji), meta: None, epoch };
    append(&app, auth, &name, span, change).await.map(IntoResponse::into_response)
}

fn not_an_emoji() -> ApiError {
    let message = format!("must be a single emoji of at most {EMOJI_LIMIT_BYTES} bytes, percent-encoded in the path");
    ApiError::invalid("emoji", message)
}

fn check_length(text: &str, limits: &Limits) -> Result<(), FieldError> {
    if text.len() as u64 <= limits.text_limit_bytes {
        return Ok(());
    }
    let message = format!("must be at most {} bytes long", limits.text_limit_bytes);
    Err(FieldError::new("text", Code::TextTooLarge, message))
}

/// Appends a change to the room with this key, and answers with where and when it was stored.
async fn append(
    app: &App,
    auth: Authenticated,
    name: &str,
    span: Option<Extension<CallSpan>>,
    change: Change,
) -> Result<Json<Value>, ApiError> {
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
    let room = app.store.room(name, auth.user.id).await?.ok_or_else(ApiError::no_such_room)?;
    if room.role.is_none() {
        return Err(ApiError::not_member());
    }
    if change.epoch.is_some_and(|epoch| *epoch != *room.epoch.0) {
        let text = "the room is not the one that the message was meant for: it was deleted and made again, or the \
                    database was restored; read the room again";
        return Err(ApiError::new(Code::WrongEpoch, text).on("epoch"));
    }
    let span = span.map(|Extension(span)| span.context);
    let Change { kind, id, target, body, meta, .. } = change;
    let message = PublishRequest { room: room.id, user: auth.user, kind, id, target, body, meta, span };
    let stored = app.chat.publish(message).await.map_err(|error| publish_error(error, room.kind, kind))?;
    Ok(Json(json!({"offset": stored.offset, "epoch": &*room.epoch.0, "time": stored.time})))
}

fn publish_error(error: PublishError, room: RoomKind, kind: Kind) -> ApiError {
    let message = error.to_string();
    match error {
        PublishError::Refused(refusal) => match refusal {
            Refusal::NoRoom => ApiError::no_such_room(),
            // The membership has ended since it was looked up, and a private room is invisible to others.
            Refusal::NotMember if room != RoomKind::Public => ApiError::no_such_room(),
            Refusal::NotMember => ApiError::not_member(),
            Refusal::NotYours if kind == Kind::Delete => {
                ApiError::new(Code::NotYours, "only the author, the room's owner and moderators may delete a message")
            }
            Refusal::NotYours => ApiError::new(Code::NotYours, message),
            Refusal::NoTarget if kind == Kind::Message => ApiError::new(Code::NoTarget, message).on("reply_to"),
            Refusal::NoTarget => {
                ApiError::new(Code::NoSuchMessage, "there is no message at this offset, or it was deleted").on("offset")
            }
            Refusal::Silenced { until } => ApiError::new(Code::Silenced, message).until(until),
            Refusal::ModeratorsOnly | Refusal::NobodyPosts => ApiError::new(Code::NotAllowed, message),
            Refusal::SlowMode { wait_ms } => ApiError::too_often(message, wait_ms),
            Refusal::TooManyReactions => ApiError::new(Code::TooManyReactions, message).on("emoji"),
            Refusal::IdReused => ApiError::new(Code::IdReused, message).on("id"),
            Refusal::BadData | Refusal::Unknown => ApiError::new(Code::BadData, message),
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
        for (refusal, kind, status, code, field) in [
            (Refusal::NoRoom, Kind::Message, 404, "no_such_room", None),
            (Refusal::NotMember, Kind::Message, 403, "not_member", None),
            (Refusal::NotYours, Kind::Edit, 403, "not_yours", None),
            (Refusal::NotYours, Kind::Delete, 403, "not_yours", None),
            (Refusal::NoTarget, Kind::Message, 409, "no_target", Some("reply_to")),
            (Refusal::NoTarget, Kind::React, 404, "no_such_message", Some("offset")),
            (Refusal::Silenced { until: 5 }, Kind::Edit, 403, "silenced", None),
            (Refusal::ModeratorsOnly, Kind::Message, 403, "not_allowed", None),
            (Refusal::NobodyPosts, Kind::Message, 403, "not_allowed", None),
            (Refusal::SlowMode { wait_ms: 5 }, Kind::Message, 429, "rate_limited", None),
            (Refusal::TooManyReactions, Kind::React, 409, "too_many_reactions", Some("emoji")),
            (Refusal::IdReused, Kind::Message, 409, "id_reused", Some("id")),
            (Refusal::BadData, Kind::Message, 422, "bad_data", None),
            (Refusal::Unknown, Kind::Message, 422, "bad_data", None),
        ] {
            let error = publish_error(PublishError::Refused(refusal), RoomKind::Public, kind);
            let found = (error.code.status().as_u16(), error.code.as_str(), error.field.as_deref());
            assert_eq!(found, (status, code, field));
        }
        let hidden = publish_error(PublishError::Refused(Refusal::NotMember), RoomKind::Private, Kind::Message);
        assert_eq!(hidden, ApiError::no_such_room());
    }
}
