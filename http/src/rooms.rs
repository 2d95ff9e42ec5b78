//! Handlers for rooms and their members.

use crate::app::{App, Route, complete};
use crate::authentication::Authenticated;
use crate::errors::ApiError;
use crate::input::{Body, ClientAddress, Precheck, Query, RoomName, UsernameKey, after_user, fold, fold_room};
use crate::objects::{MemberList, MemberObject, RoomList, RoomObject, fitting};
use crate::security_log::Event;
use crate::validation;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use garde::Validate;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use uproar_core::limits::Limits;
use uproar_model::{UserEvent, shown_name};
use uproar_store::{Addition, Join, MemberPage, NewRoom, RoomKind};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/user/createroom", create),
        Route::new(Method::POST, "/rooms", create),
        Route::new(Method::GET, "/rooms", list).with_query(),
        Route::new(Method::GET, "/rooms/{name}", get),
        Route::new(Method::DELETE, "/rooms/{name}", delete),
        Route::new(Method::POST, "/rooms/{name}/join", join),
        Route::new(Method::POST, "/rooms/{name}/leave", leave),
        Route::new(Method::GET, "/rooms/{name}/members", members).with_query(),
        Route::new(Method::POST, "/rooms/{name}/members", add_member),
        Route::new(Method::DELETE, "/rooms/{name}/members/{username}", remove_member),
    ]
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct CreateRoom {
    #[garde(custom(validation::new_room_name))]
    name: String,
    #[garde(inner(custom(validation::title)))]
    title: Option<String>,
    #[garde(inner(custom(validation::room_size)))]
    size: Option<u32>,
    #[garde(skip)]
    private: Option<bool>,
}

impl Precheck for CreateRoom {}

async fn create(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    Body(body): Body<CreateRoom>,
) -> Result<Response, ApiError> {
    let limits = &app.settings.limits;
    let room = NewRoom {
        name: fold("name", &body.name)?,
        // The title is what people see. It keeps the spelling of the name.
        title: shown_name(body.title.as_ref().unwrap_or(&body.name)),
        kind: if body.private == Some(true) { RoomKind::Private } else { RoomKind::Public },
        size: body.size.unwrap_or(limits.room_size_default.min(limits.room_size_limit) as u32),
        owner: auth.user.id,
    };
    let room = app.store.create_room(room).await.map_err(ApiError::from_room)?;
    app.chat.notify(auth.user.id, UserEvent::Joined { room: room.name.as_str().into() });
    Ok((StatusCode::CREATED, Json(json!({"room": RoomObject::from(&room)}))).into_response())
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct ListRooms {
    #[garde(inner(custom(validation::search)))]
    query: Option<String>,
    #[garde(inner(custom(validation::room_name)))]
    after: Option<String>,
    #[garde(inner(custom(validation::page_limit)))]
    limit: Option<u64>,
}

async fn list(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    Query(query): Query<ListRooms>,
) -> Result<Response, ApiError> {
    let limit = app.page_limit(query.limit);
    let after = query.after.map(|after| fold_room("after", &after)).transpose()?;
    let search = query.query.as_deref().unwrap_or_default();
    // One more than the page holds tells whether there are more.
    let mut rooms = app.store.rooms(auth.user.id, search, after.as_deref(), limit + 1).await?;
    let more = rooms.len() > limit;
    rooms.truncate(limit);
    let (rooms, is_cut) = fitting(rooms.iter().map(RoomObject::from), app.settings.limits.response_limit_bytes);
    Ok(Json(RoomList { rooms, more: more || is_cut }).into_response())
}

async fn get(State(app): State<Arc<App>>, auth: Authenticated, RoomName(name): RoomName) -> Result<Response, ApiError> {
    let room = app.store.room(&name, auth.user.id).await?.ok_or_else(ApiError::no_such_room)?;
    Ok(Json(json!({"room": RoomObject::with_pins(&room)})).into_response())
}

async fn delete(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(name): RoomName,
) -> Result<Response, ApiError> {
    complete(async move {
        let reserved_ms = app.settings.limits.room_name_reserved_ms;
        let deleted = app.store.delete_room(&name, auth.user.id, reserved_ms).await;
        let room = deleted.inspect_err(|error| app.sweep_if_unknown(error)).map_err(ApiError::from_room)?;
        app.chat.close_room(room).await;
        app.security_log.log(client, auth.user.id, Event::DeletedRoom { room, name: &name });
        Ok(Json(json!({})).into_response())
    })
    .await
}

async fn join(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
) -> Result<Response, ApiError> {
    complete(async move {
        let generation = app.store.generation();
        let joined = app.store.join(&name, auth.user.id).await.map_err(ApiError::from_room)?;
        let Join { room, joined, publication } = joined;
        if let Some(publication) = publication {
            app.chat.learn(room.id, app.history_since(generation), publication);
        }
        if joined {
            app.chat.notify(auth.user.id, UserEvent::Joined { room: room.name.as_str().into() });
        }
        Ok(Json(json!({"room": RoomObject::from(&room)})).into_response())
    })
    .await
}

async fn leave(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
) -> Result<Response, ApiError> {
    let key = fold("username", &auth.user.username)?;
    complete(async move {
        let generation = app.store.generation();
        let removed = app.store.remove_member(&name, auth.user.id, &key).await;
        let removal = removed.inspect_err(|error| app.sweep_if_unknown(error)).map_err(ApiError::from_room)?;
        app.chat.learn(removal.room, app.history_since(generation), removal.publication);
        app.chat.notify(removal.member, UserEvent::Left { room: name.into() });
        Ok(Json(json!({})).into_response())
    })
    .await
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct ListMembers {
    #[garde(inner(custom(validation::user_id)))]
    after: Option<String>,
    #[garde(inner(custom(validation::page_limit)))]
    limit: Option<u64>,
}

async fn members(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
    Query(query): Query<ListMembers>,
) -> Result<Response, ApiError> {
    let limit = app.page_limit(query.limit);
    let after = after_user(query.after.as_deref())?;
    let page = app.store.members(&name, auth.user.id, after, limit + 1).await.map_err(ApiError::from_room)?;
    let MemberPage { mut members, count } = page;
    let more = members.len() > limit;
    members.truncate(limit);
    let (members, is_cut) = fitting(members.iter().map(MemberObject::from), app.settings.limits.response_limit_bytes);
    Ok(Json(MemberList { members, more: more || is_cut, count }).into_response())
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct AddMember {
    #[garde(custom(validation::name))]
    username: String,
}

impl Precheck for AddMember {}

async fn add_member(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(name): RoomName,
    Body(body): Body<AddMember>,
) -> Result<Response, ApiError> {
    let key = fold("username", &body.username)?;
    complete(async move {
        let generation = app.store.generation();
        let added = app.store.add_member(&name, auth.user.id, &key).await.map_err(ApiError::from_member)?;
        let Addition { room, member, joined, publication } = added;
        if let Some(publication) = publication {
            app.chat.learn(room, app.history_since(generation), publication);
        }
        if joined {
            app.chat.notify(member.user.id, UserEvent::Joined { room: name.into() });
        }
        Ok(Json(json!({"member": MemberObject::from(&member)})).into_response())
    })
    .await
}

async fn remove_member(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(name): RoomName,
    UsernameKey(key): UsernameKey,
) -> Result<Response, ApiError> {
    complete(async move {
        let generation = app.store.generation();
        let removed = app.store.remove_member(&name, auth.user.id, &key).await;
        let removal = removed.inspect_err(|error| app.sweep_if_unknown(error)).map_err(ApiError::from_member)?;
        let event = Event::RemovedMember { room: removal.room, name: &name, member: removal.member };
        app.security_log.log(client, auth.user.id, event);
        app.chat.learn(removal.room, app.history_since(generation), removal.publication);
        app.chat.notify(removal.member, UserEvent::Left { room: name.into() });
        Ok(Json(json!({})).into_response())
    })
    .await
}
