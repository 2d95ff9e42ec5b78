//! Incoming hooks: URLs to which programs post messages, with the body that Slack and Mattermost take.

mod github;
mod slack;

use crate::app::{App, Route, complete};
use crate::authentication::Authenticated;
use crate::chat::{PublishError, PublishRequest};
use crate::errors::{ApiError, Code};
use crate::input::{Body, ClientAddress, HookId, Precheck, RoomName, ViaHttps, read_body, refuse_encoding};
use crate::objects::HookObject;
use crate::security_log::Event;
use crate::traces::CallSpan;
use crate::validation;
use axum::Json;
use axum::extract::{Extension, RawPathParams, Request, State};
use axum::response::{IntoResponse, Response};
use garde::Validate;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;
use uproar_core::limits::Limits;
use uproar_model::{BOT_MARK, Kind, Refusal, check_message_id, fold_name, shown_name, text};
use uproar_store::{HookTarget, NewHook, RoomError, StoreError};

/// The bytes of a secret. It is written in hexadecimal digits.
const SECRET_BYTES: usize = 24;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/hooks/{secret}", post).with_query(),
        Route::new(Method::POST, "/rooms/{name}/hooks", create),
        Route::new(Method::GET, "/rooms/{name}/hooks", list),
        Route::new(Method::DELETE, "/rooms/{name}/hooks/{id}", delete),
    ]
}

/// A path as it may be logged: without what follows `hooks/` or `invites/`, which may be a secret.
pub(crate) fn without_secret(path: &str) -> Cow<'_, str> {
    let lower = path.to_ascii_lowercase();
    let end = |before: &str| lower.find(before).map(|at| at + before.len());
    match [end("hooks/"), end("invites/")].into_iter().flatten().min() {
        Some(end) => format!("{}…", &path[..end]).into(),
        None => path.into(),
    }
}

// ── management ──

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct CreateHook {
    #[garde(custom(validation::hook_name))]
    name: String,
}

impl Precheck for CreateHook {}

async fn create(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    ViaHttps(via_https): ViaHttps,
    auth: Authenticated,
    RoomName(room): RoomName,
    headers: HeaderMap,
    Body(body): Body<CreateHook>,
) -> Result<Response, ApiError> {
    let name = shown_name(&body.name);
    let bot_name = format!("{name} {BOT_MARK}");
    let bot_key = fold_name(&bot_name).map_err(|error| ApiError::name("name", error))?;
    let secret = new_secret()?;
    let new = NewHook {
        room: room.clone(),
        creator: auth.user.id,
        name,
        bot_name,
        bot_key: bot_key.clone(),
        secret_hash: hash(&secret),
        limit: app.settings.limits.hooks_per_room_limit,
    };
    let url = format!("{}/hooks/{secret}", app.own_address(&headers, via_https));
    complete(async move {
        let generation = app.store.generation();
        let hook = app.store.create_hook(new).await.map_err(ApiError::from_room)?;
        // Only members may send messages.
        let added = match app.store.add_member(&room, auth.user.id, &bot_key).await {
            Ok(added) => added,
            Err(error) => {
                if let Err(error) = app.store.delete_hook(&room, auth.user.id, hook.id).await {
                    tracing::warn!(%error, hook = hook.id, "can't delete a hook whose user could not become a member");
                }
                return Err(ApiError::from_room(error));
            }
        };
        if let Some(publication) = added.publication {
            app.chat.learn(added.room, app.history_since(generation), publication);
        }
        let event = Event::CreatedHook { room: added.room, name: &room, hook: hook.id };
        app.security_log.log(client, auth.user.id, event);
        let mut object = json!(HookObject::from(&hook));
        object["url"] = url.into();
        Ok((StatusCode::CREATED, Json(json!({"hook": object}))).into_response())
    })
    .await
}

async fn list(
    State(app): State<Arc<App>>,
    auth: Authenticated,
    RoomName(room): RoomName,
) -> Result<Response, ApiError> {
    let hooks = app.store.hooks(&room, auth.user.id).await.map_err(ApiError::from_room)?;
    let hooks: Vec<_> = hooks.iter().map(HookObject::from).collect();
    Ok(Json(json!({"hooks": hooks})).into_response())
}

async fn delete(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    auth: Authenticated,
    RoomName(room): RoomName,
    HookId(hook): HookId,
) -> Result<Response, ApiError> {
    complete(async move {
        // First of all, so that nothing can be posted any more.
        let deleted = app.store.delete_hook(&room, auth.user.id, hook).await.map_err(ApiError::from_room)?;
        let event = Event::DeletedHook { room: deleted.room, name: &room, hook };
        app.security_log.log(client, auth.user.id, event);
        let generation = app.store.generation();
        let bot_key = fold_name(&deleted.bot.username).map_err(|error| ApiError::name("name", error))?;
        match app.store.remove_member(&room, auth.user.id, &bot_key).await {
            Ok(removal) => app.chat.learn(removal.room, app.history_since(generation), removal.publication),
            // Somebody has removed it already.
            Err(RoomError::NotMember) => {}
            Err(error) => {
                app.sweep_if_unknown(&error);
                return Err(ApiError::from_room(error));
            }
        }
        Ok(Json(json!({})).into_response())
    })
    .await
}

fn new_secret() -> Result<String, ApiError> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system has no random numbers for the secret of a hook");
        ApiError::internal()
    })?;
    Ok(hexadecimal(&bytes))
}

/// What is stored of a secret. It is random and long, so that a plain hash can't be guessed back.
fn hash(secret: &str) -> String {
    hexadecimal(&Sha256::digest(secret))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

// ── posts ──

/// An error in the words that senders know from Slack, as plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HookError {
    status: StatusCode,
    word: &'static str,
    retry_after_s: Option<u32>,
}

impl HookError {
    const fn new(status: StatusCode, word: &'static str) -> HookError {
        HookError { status, word, retry_after_s: None }
    }

    fn rate_limited(wait_ms: u64) -> HookError {
        HookError {
            retry_after_s: Some(u32::try_from(wait_ms.div_ceil(1000)).unwrap_or(u32::MAX)),
            ..HookError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited")
        }
    }

    const fn unavailable(word: &'static str) -> HookError {
        HookError { retry_after_s: Some(1), ..HookError::new(StatusCode::SERVICE_UNAVAILABLE, word) }
    }
}

const NO_SERVICE: HookError = HookError::new(StatusCode::NOT_FOUND, "no_service");
const INVALID_PAYLOAD: HookError = HookError::new(StatusCode::BAD_REQUEST, "invalid_payload");

impl IntoResponse for HookError {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.word).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Why a body could not be read.
impl From<ApiError> for HookError {
    fn from(error: ApiError) -> HookError {
        match error.code {
            Code::BodyTooLarge => HookError::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Code::BodyTimeout => HookError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Code::UnsupportedEncoding => HookError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding"),
            _ => INVALID_PAYLOAD,
        }
    }
}

impl From<StoreError> for HookError {
    fn from(error: StoreError) -> HookError {
        error.log("a post to a hook failed in the database");
        HookError::unavailable("service_unavailable")
    }
}

impl From<PublishError> for HookError {
    fn from(error: PublishError) -> HookError {
        match error {
            PublishError::Refused(refusal) => match refusal {
                Refusal::NoRoom => NO_SERVICE,
                // Somebody has removed the hook's user from the room, or does not let it post.
                Refusal::NotMember | Refusal::Silenced { .. } | Refusal::ModeratorsOnly | Refusal::NobodyPosts => {
                    HookError::new(StatusCode::FORBIDDEN, "action_prohibited")
                }
                Refusal::SlowMode { wait_ms } => HookError::rate_limited(wait_ms),
                Refusal::IdReused => HookError::new(StatusCode::CONFLICT, "idempotency_key_reused"),
                _ => INVALID_PAYLOAD,
            },
            PublishError::OutcomeUnknown => HookError::unavailable("outcome_unknown"),
            PublishError::Overloaded => HookError::unavailable("service_unavailable"),
        }
    }
}

async fn post(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    path: Result<RawPathParams, axum::extract::rejection::RawPathParamsRejection>,
    span: Option<Extension<CallSpan>>,
    request: Request,
) -> Result<&'static str, HookError> {
    let path = path.map_err(|_| NO_SERVICE)?;
    let secret = path.iter().find(|(name, _)| *name == "secret").map(|(_, secret)| secret).ok_or(NO_SERVICE)?;
    // The database need not be asked for what is no secret.
    if secret.len() != 2 * SECRET_BYTES || !secret.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(NO_SERVICE);
    }
    let hook = app.store.hook(&hash(secret), client).await?.ok_or(NO_SERVICE)?;
    app.hook_rate.take(hook.hook, Instant::now()).map_err(HookError::rate_limited)?;
    refuse_encoding(request.headers())?;
    let headers = request.headers().clone();
    let limits = &app.settings.limits;
    let bytes = read_body(request, limits.hook_body_limit_bytes, limits).await?;
    let body = payload(&bytes).ok_or(INVALID_PAYLOAD)?;
    let id = message_id(&headers)?;
    let text = shown_text(&hook, &headers, &body);
    let text = text::cut_with_mark(&text, limits.text_limit_bytes as usize);
    if !text::is_visible(&text) {
        return Err(HookError::new(StatusCode::BAD_REQUEST, "no_text"));
    }
    let span = span.map(|Extension(span)| span.context);
    let HookTarget { room, bot, .. } = hook;
    let body = Some(text.into_owned());
    app.chat
        .publish(PublishRequest { room, user: bot, kind: Kind::Message, id, target: None, body, meta: None, span })
        .await?;
    Ok("ok")
}

/// The JSON object in a body, which is that object or a form with the field `payload`. Many senders declare the wrong
/// type, or none.
fn payload(body: &[u8]) -> Option<Value> {
    let body = body.trim_ascii();
    let parsed = match body.first()? {
        b'{' => serde_json::from_slice(body),
        _ => {
            let field = form_urlencoded::parse(body).find(|(name, _)| name == "payload")?;
            serde_json::from_str(&field.1)
        }
    };
    parsed.ok().filter(Value::is_object)
}

/// The id under which the sender wants to be able to post the same again: any header that senders repeat in that case.
fn message_id(headers: &HeaderMap) -> Result<Option<String>, HookError> {
    let invalid = HookError::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key");
    let key = headers.get("idempotency-key").or_else(|| headers.get("x-github-delivery"));
    let Some(key) = key.filter(|key| !key.is_empty()) else { return Ok(None) };
    let key = key.to_str().map_err(|_| invalid)?;
    // The draft of the IETF has it in quotes, and senders mostly do without.
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    check_message_id(key).map_err(|_| invalid)?;
    Ok(Some(key.to_owned()))
}

/// What the room shows.
fn shown_text(hook: &HookTarget, headers: &HeaderMap, body: &Value) -> String {
    let event = headers.get("x-github-event").map(HeaderValue::to_str).and_then(Result::ok);
    let text = match event.filter(|_| !slack::is_message(body)) {
        Some(event) => github::message(event, body),
        None => slack::message(body),
    };
    // It can't be stored.
    let text = text.replace('\0', "\u{fffd}");
    let name = slack::username(body);
    // The author is the hook's user in any case: a body must not pass for somebody.
    let is_known = fold_name(&name).is_ok_and(|key| fold_name(&hook.name).is_ok_and(|own| own == key));
    if name.is_empty() || text.is_empty() || is_known { text } else { format!("{name}: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_a_path_are_not_logged() {
        for (path, logged) in [
            ("/hooks/secret", "/hooks/…"),
            ("/HOOKS/secret/x", "/HOOKS/…"),
            ("//hooks/secret", "//hooks/…"),
            ("/rooms/lobby/hooks/1", "/rooms/lobby/hooks/…"),
            ("/rooms/lobby/hooks", "/rooms/lobby/hooks"),
            ("/hooks", "/hooks"),
            ("/invites/code", "/invites/…"),
            ("/rooms/lobby/invites/hooks/1", "/rooms/lobby/invites/…"),
        ] {
            assert_eq!(without_secret(path), logged);
        }
    }

    #[test]
    fn a_payload_is_json_or_a_field_of_a_form() {
        let body = json!({"text": "a & b"});
        for bytes in
            ["{\"text\":\"a & b\"}", " \n{\"text\":\"a & b\"}\n", "x=1&payload=%7B%22text%22%3A%22a+%26+b%22%7D"]
        {
            assert_eq!(payload(bytes.as_bytes()).as_ref(), Some(&body), "{bytes}");
        }
        for bytes in ["", "  ", "{", "[1]", "\"x\"", "payload=1", "payload=%5B%5D", "text=x", "{\"text\":\"\\ud800\"}"]
        {
            assert_eq!(payload(bytes.as_bytes()), None, "{bytes}");
        }
        assert_eq!(payload(&[b'{', 0xff, b'}']), None);
        assert_eq!(payload(&[b'['; 100_000]), None);
        assert_eq!(payload(format!("{{\"a\":{}", "[".repeat(100_000)).as_bytes()), None);
    }

    #[test]
    fn a_key_is_an_id_with_or_without_quotes() {
        let id = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            message_id(&headers).map_err(|error| error.word)
        };
        assert_eq!(id("idempotency-key", "k1"), Ok(Some("k1".into())));
        assert_eq!(id("idempotency-key", "\"k1\""), Ok(Some("k1".into())));
        assert_eq!(id("x-github-delivery", "72d3162e"), Ok(Some("72d3162e".into())));
        assert_eq!(id("idempotency-key", ""), Ok(None));
        assert_eq!(id("x-other", "k1"), Ok(None));
        for wrong in ["~1", "\"\"", &"x".repeat(65), "\u{e9}"] {
            assert_eq!(id("idempotency-key", wrong), Err("invalid_idempotency_key"), "{wrong}");
        }
    }
}
