//! Handlers for direct rooms, and for whom a user has blocked.

use crate::app::{App, Route, complete};
use crate::authentication::Authenticated;
use crate::errors::ApiError;
use crate::input::{Body, Precheck, Query, UsernameKey, after_user, fold};
use crate::objects::{BlockList, BlockObject, RoomObject, fitting};
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
use uproar_model::{UserEvent, UserId};
use uproar_store::{Block, BlockChange, DirectRoom, RoomError};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/me/direct", open),
        Route::new(Method::GET, "/me/blocks", list).with_query(),
        Route::new(Method::PUT, "/me/blocks/{username}", block),
        Route::new(Method::DELETE, "/me/blocks/{username}", unblock),
    ]
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct OpenDirect {
    #[garde(custom(validation::usernames))]
    usernames: Vec<String>,
}

impl Precheck for OpenDirect {}

async fn open(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    Body(body): Body<OpenDirect>,
) -> Result<Response, ApiError> {
    let keys = body.usernames.iter().map(|name| fold("usernames", name)).collect::<Result<Vec<_>, _>>()?;
    complete(async move {
        let opened = app.store.open_direct(auth.user.id, &keys).await;
        let DirectRoom { room, is_new } = opened.map_err(|error| match error {
            RoomError::NoUser => ApiError::no_such_user("one of these users does not exist", "usernames"),
            error => ApiError::from_room(error),
        })?;
        if is_new {
            for person in &room.people {
                app.chat.notify(person.id, UserEvent::Joined { room: room.name.as_str().into() });
            }
        }
        let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
        Ok((status, Json(json!({"room": RoomObject::from(&room)}))).into_response())
    })
    .await
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct ListBlocks {
    #[garde(inner(custom(validation::user_id)))]
    after: Option<String>,
    #[garde(inner(custom(validation::page_limit)))]
    limit: Option<u64>,
}

async fn list(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    Query(query): Query<ListBlocks>,
) -> Result<Response, ApiError> {
    let limit = app.page_limit(query.limit);
    let after = after_user(query.after.as_deref())?;
    // One more than the page holds tells whether there are more.
    let mut blocks = app.store.blocks(auth.user.id, after, limit + 1).await?;
    let more = blocks.len() > limit;
    blocks.truncate(limit);
    let (blocks, is_cut) = fitting(blocks.iter().map(BlockObject::from), app.settings.limits.response_limit_bytes);
    Ok(Json(BlockList { blocks, more: more || is_cut }).into_response())
}

async fn block(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    UsernameKey(key): UsernameKey,
) -> Result<Response, ApiError> {
    complete(async move {
        let BlockChange { user, at, .. } = set_block(&app, auth.user.id, &key, true).await?;
        let block = Block { user, at: at.unwrap_or_default() };
        Ok(Json(json!({"block": BlockObject::from(&block)})).into_response())
    })
    .await
}

async fn unblock(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    UsernameKey(key): UsernameKey,
) -> Result<Response, ApiError> {
    complete(async move {
        set_block(&app, auth.user.id, &key, false).await?;
        Ok(Json(json!({})).into_response())
    })
    .await
}

/// Blocks a user or lifts the block, and tells the direct room of the two of it.
async fn set_block(app: &App, user: UserId, key: &str, is_wanted: bool) -> Result<BlockChange, ApiError> {
    let generation = app.store.generation();
    let changed = match is_wanted {
        true => app.store.block(user, key, app.settings.limits.blocks_limit).await,
        false => app.store.unblock(user, key).await,
    };
    let change = changed.inspect_err(|error| app.sweep_if_unknown(error)).map_err(ApiError::from_member)?;
    if let Some((room, publication)) = change.publication.clone() {
        app.chat.learn(room, app.history_since(generation), publication);
    }
    Ok(change)
}
