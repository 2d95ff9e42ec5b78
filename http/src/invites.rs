//! Handlers for invites: codes with which people join a room, or sign up.

use crate::app::{App, Route, complete};
use crate::authentication::Authenticated;
use crate::errors::ApiError;
use crate::input::{Body, ClientAddress, InviteCode, Precheck, RoomName, ViaHttps};
use crate::objects::{InviteObject, OpenInviteObject, RoomObject};
use crate::security_log::Event;
use crate::validation;
pub use crate::validation::{INVITE_LIFETIME_LIMIT_S, INVITE_USES_LIMIT};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use garde::Validate;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;
use uproar_core::limits::Limits;
use uproar_model::UserEvent;
use uproar_store::{Join, NewInvite};

/// Nobody can guess a code of so many random bytes.
const CODE_BYTES: usize = 16;
/// How long an invite can be used, unless its creator says otherwise.
pub const LIFETIME_DEFAULT_S: u64 = 7 * 24 * 3600;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/rooms/{name}/invites", create),
        Route::new(Method::GET, "/rooms/{name}/invites", list),
        Route::new(Method::DELETE, "/rooms/{name}/invites/{code}", revoke),
        Route::new(Method::GET, "/invites/{code}", get),
        Route::new(Method::POST, "/invites/{code}", accept),
    ]
}

/// A code for a new invite.
///
/// # Errors
/// If the system has no random numbers.
pub fn new_code() -> Result<String, getrandom::Error> {
    let mut bytes = [0; CODE_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The link of an invite, which people follow. `address`: where users find this server.
pub fn link(address: &str, code: &str) -> String {
    format!("{address}/#/invite/{code}")
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct CreateInvite {
    #[garde(inner(custom(validation::invite_uses)))]
    uses: Option<u32>,
    #[garde(inner(custom(validation::invite_lifetime)))]
    lifetime_seconds: Option<u64>,
}

impl Precheck for CreateInvite {}

async fn create(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    ViaHttps(via_https): ViaHttps,
    auth: Authenticated,
    RoomName(room): RoomName,
    headers: HeaderMap,
    Body(body): Body<CreateInvite>,
) -> Result<Response, ApiError> {
    let code = new_code().map_err(|error| {
        tracing::error!(%error, "the system has no random numbers for the code of an invite");
        ApiError::internal()
    })?;
    let new = NewInvite {
        code,
        room: Some(room.clone()),
        creator: Some(auth.user.id),
        lifetime_ms: 1000 * body.lifetime_seconds.unwrap_or(LIFETIME_DEFAULT_S),
        uses_limit: body.uses,
        limit: app.settings.limits.invites_per_room_limit,
    };
    let invite = app.store.create_invite(new).await.map_err(ApiError::from_room)?;
    app.security_log.log(client, auth.user.id, Event::CreatedInvite { name: &room });
    let address = app.own_address(&headers, via_https);
    Ok((StatusCode::CREATED, Json(InviteObject::new(&invite, &address))).into_response())
}

async fn list(
    State(app): State<Arc<App>>,
    ViaHttps(via_https): ViaHttps,
    auth: Authenticated,
    RoomName(room): RoomName,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let invites = app.store.invites(&room, auth.user.id).await.map_err(ApiError::from_room)?;
    let address = app.own_address(&headers, via_https);
    let invites: Vec<_> = invites.iter().map(|invite| InviteObject::new(invite, &address)).collect();
    Ok(Json(json!({"invites": invites})).into_response())
}

async fn revoke(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(room): RoomName,
    InviteCode(code): InviteCode,
) -> Result<Response, ApiError> {
    app.store.revoke_invite(&room, auth.user.id, &code).await.map_err(ApiError::from_room)?;
    app.security_log.log(client, auth.user.id, Event::RevokedInvite { name: &room });
    Ok(Json(json!({})).into_response())
}

async fn get(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    InviteCode(code): InviteCode,
) -> Result<Response, ApiError> {
    app.attempts.look_up_invite(client, Instant::now())?;
    let invite = app.store.invite(&code, client).await.map_err(ApiError::from_room)?;
    Ok(Json(OpenInviteObject::from(&invite)).into_response())
}

async fn accept(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    InviteCode(code): InviteCode,
) -> Result<Response, ApiError> {
    complete(async move {
        let generation = app.store.generation();
        let accepted = app.store.accept_invite(&code, auth.user.id).await.map_err(ApiError::from_room)?;
        let Some(Join { room, joined, publication }) = accepted else {
            return Ok(Json(json!({"room": null})).into_response());
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::is_invite_code;

    #[test]
    fn codes_are_random_and_fit_into_a_url() {
        let codes: std::collections::BTreeSet<_> = (0..100).map(|_| new_code().unwrap()).collect();
        assert_eq!(codes.len(), 100);
        assert!(codes.iter().all(|code| is_invite_code(code)), "{codes:?}");
    }
}
