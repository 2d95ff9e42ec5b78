//! Handlers for rights and settings of rooms: roles, bans, silences, pins, and the log of who has changed them.

use crate::app::{App, Route, complete};
use crate::authentication::Authenticated;
use crate::errors::ApiError;
use crate::input::{Body, ClientAddress, MessageOffset, Precheck, Query, RoomName, UsernameKey, after_user};
use crate::objects::{BanObject, RoomAuditObject, RoomObject, UserObject, fitting};
use crate::security_log::Event;
use crate::validation;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use garde::Validate;
use http::Method;
use serde::Deserialize;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use uproar_core::limits::Limits;
use uproar_model::{Kind, UnixMillis, UserEvent, UserId, shown_name};
use uproar_store::{Role, RoomChange, RoomChanged, SettingsChange, WhoMay};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// How far ahead a silence may end.
const SILENCE_LIMIT_DAYS: u64 = 28;

/// How far back a ban may delete messages.
const DELETE_LIMIT_DAYS: u64 = 7;

/// For the way of a request that asks for exactly as much as is allowed.
const TOLERANCE_MS: u64 = 60_000;

/// If a change has more publications than this, the chat reads most of them from the database.
const LEARNED_LIMIT: usize = 8;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::PATCH, "/rooms/{name}", change_settings),
        Route::new(Method::PATCH, "/rooms/{name}/members/{username}", set_role),
        Route::new(Method::GET, "/rooms/{name}/bans", bans).with_query(),
        Route::new(Method::PUT, "/rooms/{name}/bans/{username}", ban),
        Route::new(Method::DELETE, "/rooms/{name}/bans/{username}", unban),
        Route::new(Method::PUT, "/rooms/{name}/silences/{username}", silence),
        Route::new(Method::DELETE, "/rooms/{name}/silences/{username}", unsilence),
        Route::new(Method::PUT, "/rooms/{name}/pins/{offset}", pin),
        Route::new(Method::DELETE, "/rooms/{name}/pins/{offset}", unpin),
        Route::new(Method::GET, "/rooms/{name}/audit", audit).with_query(),
    ]
}

/// Makes a change, and tells the chat of it.
async fn change(
    app: &App,
    client: IpAddr,
    actor: UserId,
    name: &str,
    change: RoomChange,
) -> Result<RoomChanged, ApiError> {
    let names_a_user = !matches!(change, RoomChange::Settings(_) | RoomChange::Pin(_) | RoomChange::Unpin(_));
    let generation = app.store.generation();
    let changed = app.store.change_room(name, actor, change).await;
    let mut changed = changed
        .inspect_err(|error| app.sweep_if_unknown(error))
        .map_err(|error| if names_a_user { ApiError::from_member(error) } else { ApiError::from_room(error) })?;
    if let Some(told) = changed.publications.iter().find(|publication| publication.kind == Kind::Moderated) {
        let detail = told.body.as_deref().unwrap_or_default();
        app.security_log.log(client, actor, Event::ModeratedRoom { room: changed.room, name, detail });
    }
    let was_removed = changed.publications.iter().any(|publication| publication.kind == Kind::Removed);
    let mut publications = std::mem::take(&mut changed.publications);
    if publications.len() > LEARNED_LIMIT {
        // The last one shows that others are missing.
        publications.drain(LEARNED_LIMIT - 1..publications.len() - 1);
    }
    for publication in publications {
        app.chat.learn(changed.room, app.history_since(generation), publication);
    }
    if let Some(user) = changed.subject.as_ref().filter(|_| was_removed) {
        app.chat.notify(user.id, UserEvent::Left { room: name.into() });
    }
    Ok(changed)
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct ChangeSettings {
    #[garde(inner(custom(validation::title)))]
    title: Option<String>,
    #[garde(inner(custom(validation::topic)))]
    topic: Option<String>,
    #[garde(skip)]
    private: Option<bool>,
    #[garde(inner(custom(validation::room_size)))]
    size: Option<u32>,
    #[garde(inner(custom(validation::slow_mode_seconds)))]
    slow_mode_seconds: Option<u32>,
    #[garde(inner(custom(validation::who_may)))]
    who_may_post: Option<String>,
    #[garde(inner(custom(validation::who_may)))]
    who_may_invite: Option<String>,
}

impl Precheck for ChangeSettings {}

fn who_may(word: &str) -> WhoMay {
    if word == WhoMay::Members.word() { WhoMay::Members } else { WhoMay::Moderators }
}

async fn change_settings(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(name): RoomName,
    Body(body): Body<ChangeSettings>,
) -> Result<Response, ApiError> {
    let settings = SettingsChange {
        title: body.title.map(|title| shown_name(&title)),
        topic: body.topic.map(|topic| shown_name(&topic)),
        private: body.private,
        size: body.size,
        slow_mode_seconds: body.slow_mode_seconds,
        who_may_post: body.who_may_post.as_deref().map(who_may),
        who_may_invite: body.who_may_invite.as_deref().map(who_may),
    };
    complete(async move {
        change(&app, client, auth.user.id, &name, RoomChange::Settings(settings)).await?;
        let room = app.store.room(&name, auth.user.id).await?.ok_or_else(ApiError::no_such_room)?;
        Ok(Json(json!({"room": RoomObject::with_pins(&room)})).into_response())
    })
    .await
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct SetRole {
    #[garde(custom(validation::role))]
    role: String,
}

impl Precheck for SetRole {}

async fn set_role(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(name): RoomName,
    UsernameKey(user_key): UsernameKey,
    Body(body): Body<SetRole>,
) -> Result<Response, ApiError> {
    let roles = [Role::Member, Role::Moderator, Role::Owner];
    let role = roles.into_iter().find(|role| role.word() == body.role);
    let role = role.ok_or_else(|| ApiError::invalid("role", validation::ROLES))?;
    complete(async move {
        let changed = change(&app, client, auth.user.id, &name, RoomChange::Role { user_key, role }).await?;
        let user = changed.subject.as_ref().map(UserObject::from);
        Ok(Json(json!({"user": user, "role": role.word()})).into_response())
    })
    .await
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct ListBans {
    #[garde(inner(custom(validation::user_id)))]
    after: Option<String>,
    #[garde(inner(custom(validation::page_limit)))]
    limit: Option<u64>,
}

async fn bans(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
    Query(query): Query<ListBans>,
) -> Result<Response, ApiError> {
    let after = after_user(query.after.as_deref())?;
    let limit = app.page_limit(query.limit);
    let page = app.store.bans(&name, auth.user.id, after, limit).await.map_err(ApiError::from_room)?;
    let (bans, is_cut) = fitting(page.bans.iter().map(BanObject::from), app.settings.limits.response_limit_bytes);
    Ok(Json(json!({"bans": bans, "more": page.more || is_cut})).into_response())
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct PutBan {
    #[garde(inner(custom(validation::time)))]
    until: Option<UnixMillis>,
    #[garde(inner(custom(validation::reason)))]
    reason: Option<String>,
    #[garde(inner(custom(validation::time)))]
    delete_since: Option<UnixMillis>,
}

impl Precheck for PutBan {}

async fn ban(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(name): RoomName,
    UsernameKey(user_key): UsernameKey,
    Body(body): Body<PutBan>,
) -> Result<Response, ApiError> {
    let now = app.store.clock().unix_ms();
    let (until, delete_since) = (body.until, body.delete_since);
    require_future(until, now)?;
    if delete_since.is_some_and(|since| since < now.saturating_sub(DELETE_LIMIT_DAYS * DAY_MS + TOLERANCE_MS)) {
        let message = format!("must be at most {DELETE_LIMIT_DAYS} days ago, in Unix milliseconds");
        return Err(ApiError::invalid("delete_since", message));
    }
    let reason = body.reason.map(|reason| shown_name(&reason));
    complete(async move {
        let ban = RoomChange::Ban { user_key, until, reason: reason.clone(), delete_since };
        let changed = change(&app, client, auth.user.id, &name, ban).await?;
        let user = changed.subject.as_ref().map(UserObject::from);
        let mut ban = json!({"user": user});
        if let Some(until) = until {
            ban["until"] = until.into();
        }
        if let Some(reason) = reason {
            ban["reason"] = reason.into();
        }
        let RoomChanged { deleted, more, .. } = changed;
        Ok(Json(json!({"ban": ban, "deleted": deleted, "more": more})).into_response())
    })
    .await
}

fn require_future(until: Option<UnixMillis>, now: UnixMillis) -> Result<(), ApiError> {
    if until.is_some_and(|until| until <= now) {
        return Err(ApiError::invalid("until", "must be in the future, in Unix milliseconds"));
    }
    Ok(())
}

async fn unban(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(name): RoomName,
    UsernameKey(user_key): UsernameKey,
) -> Result<Response, ApiError> {
    make(app, client, auth, name, RoomChange::Unban { user_key }).await
}

/// Makes a change whose answer says nothing.
async fn make(
    app: Arc<App>,
    client: IpAddr,
    auth: Authenticated,
    name: String,
    wanted: RoomChange,
) -> Result<Response, ApiError> {
    complete(async move {
        change(&app, client, auth.user.id, &name, wanted).await?;
        Ok(Json(json!({})).into_response())
    })
    .await
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct PutSilence {
    #[garde(custom(validation::time))]
    until: UnixMillis,
    #[garde(inner(custom(validation::reason)))]
    reason: Option<String>,
}

impl Precheck for PutSilence {}

async fn silence(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(name): RoomName,
    UsernameKey(user_key): UsernameKey,
    Body(body): Body<PutSilence>,
) -> Result<Response, ApiError> {
    let now = app.store.clock().unix_ms();
    let until = body.until;
    require_future(Some(until), now)?;
    if until > now.saturating_add(SILENCE_LIMIT_DAYS * DAY_MS + TOLERANCE_MS) {
        let message = format!("must be at most {SILENCE_LIMIT_DAYS} days ahead, in Unix milliseconds");
        return Err(ApiError::invalid("until", message));
    }
    let reason = body.reason.map(|reason| shown_name(&reason));
    complete(async move {
        let silence = RoomChange::Silence { user_key, until, reason: reason.clone() };
        let changed = change(&app, client, auth.user.id, &name, silence).await?;
        let mut silence = json!({"user": changed.subject.as_ref().map(UserObject::from), "until": until});
        if let Some(reason) = reason {
            silence["reason"] = reason.into();
        }
        Ok(Json(json!({"silence": silence})).into_response())
    })
    .await
}

async fn unsilence(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(name): RoomName,
    UsernameKey(user_key): UsernameKey,
) -> Result<Response, ApiError> {
    make(app, client, auth, name, RoomChange::Unsilence { user_key }).await
}

async fn pin(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(name): RoomName,
    MessageOffset(offset): MessageOffset,
) -> Result<Response, ApiError> {
    make(app, client, auth, name, RoomChange::Pin(offset)).await
}

async fn unpin(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(name): RoomName,
    MessageOffset(offset): MessageOffset,
) -> Result<Response, ApiError> {
    make(app, client, auth, name, RoomChange::Unpin(offset)).await
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct ListAudit {
    #[garde(inner(custom(validation::entry_id)))]
    before: Option<String>,
    #[garde(inner(custom(validation::page_limit)))]
    limit: Option<u64>,
}

async fn audit(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
    Query(query): Query<ListAudit>,
) -> Result<Response, ApiError> {
    let before = query.before.as_deref().map(str::parse).transpose();
    let before = before.map_err(|_| ApiError::invalid("before", "must be the id of an entry"))?;
    let limit = app.page_limit(query.limit);
    let page = app.store.room_audit(&name, auth.user.id, before, limit).await.map_err(ApiError::from_room)?;
    let entries = page.entries.iter().map(RoomAuditObject::from);
    let (entries, is_cut) = fitting(entries, app.settings.limits.response_limit_bytes);
    Ok(Json(json!({"entries": entries, "more": page.more || is_cut})).into_response())
}
