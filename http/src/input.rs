//! What handlers take from a request: JSON bodies, query parameters, names in paths. Each rejects invalid input with a
//! 4xx that says what is wrong.

use crate::app::App;
use crate::errors::{ApiError, Code};
use crate::fields::{FieldError, Given, Read};
use crate::validation;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use bytes::Bytes;
use garde::Validate;
use http::request::Parts;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use uproar_core::limits::Limits;
use uproar_model::{Offset, UserId, fold_name, fold_room_name};

/// A validated JSON body.
pub(crate) struct Body<T>(pub T);

/// A check that comes before validation because its error has a code of its own, or concerns several fields.
pub(crate) trait Precheck {
    fn precheck(&self, _: &Limits) -> Result<(), FieldError> {
        Ok(())
    }
}

impl<T> FromRequest<Arc<App>> for Body<T>
where
    T: DeserializeOwned + Validate<Context = Limits> + Precheck,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Body<T>, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::new(
                Code::UnsupportedMediaType,
                "the body must be JSON, declared by `Content-Type: application/json`",
            ));
        }
        refuse_encoding(request.headers())?;
        let limits = &app.settings.limits;
        let bytes = read_body(request, limits.body_limit_bytes, limits).await?;
        let mut read = Given::from_json(&bytes)?.read::<T>()?;
        if let Err(error) = read.value.precheck(limits) {
            read.add(error);
        }
        check(&mut read, limits);
        read.finish().map(Body)
    }
}

/// The body of a request to the server API: text, whatever its declared type.
pub(crate) struct ApiBody(pub String);

impl FromRequest<Arc<App>> for ApiBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<ApiBody, ApiError> {
        refuse_encoding(request.headers())?;
        let limits = &app.settings.limits;
        let bytes = read_body(request, limits.api_body_limit_bytes, limits).await?;
        match String::from_utf8(bytes.into()) {
            Ok(text) => Ok(ApiBody(text)),
            Err(_) => Err(ApiError::new(Code::MalformedJson, "the body is not UTF-8")),
        }
    }
}

/// The method of the server API in the path.
pub(crate) struct ApiMethod(pub String);

impl FromRequestParts<Arc<App>> for ApiMethod {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<ApiMethod, ApiError> {
        parameter(parts, app, "method").await.map(ApiMethod)
    }
}

pub(crate) fn refuse_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    match codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        true => Ok(()),
        false => Err(ApiError::new(Code::UnsupportedEncoding, "send the body uncompressed, without Content-Encoding")),
    }
}

/// Validated query parameters.
pub(crate) struct Query<T>(pub T);

impl<T> FromRequestParts<Arc<App>> for Query<T>
where
    T: DeserializeOwned + Validate<Context = Limits>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Query<T>, ApiError> {
        let mut read = Given::from_query(parts.uri.query().unwrap_or_default()).read::<T>()?;
        check(&mut read, &app.settings.limits);
        read.finish().map(Query)
    }
}

/// The user id after which a page begins.
pub(crate) fn after_user(after: Option<&str>) -> Result<Option<UserId>, ApiError> {
    let id = after.map(str::parse).transpose();
    id.map(|id| id.map(UserId)).map_err(|_| ApiError::invalid("after", "must be a user id"))
}

/// The folded name of the room in the path.
pub(crate) struct RoomName(pub String);

impl FromRequestParts<Arc<App>> for RoomName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<RoomName, ApiError> {
        let name = parameter(parts, app, "name").await?;
        fold_room("name", &name).map(RoomName)
    }
}

/// The folded name of the user in the path.
pub(crate) struct UsernameKey(pub String);

impl FromRequestParts<Arc<App>> for UsernameKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<UsernameKey, ApiError> {
        folded_parameter(parts, app, "username").await.map(UsernameKey)
    }
}

/// The offset of the message in the path.
pub(crate) struct MessageOffset(pub Offset);

impl FromRequestParts<Arc<App>> for MessageOffset {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<MessageOffset, ApiError> {
        let text = parameter(parts, app, "offset").await?;
        let offset = text.parse().ok().filter(|offset| (1..=validation::NUMBER_LIMIT).contains(offset));
        offset.map(MessageOffset).ok_or_else(|| {
            let message = format!("must be the offset of a message, from 1 to {}", validation::NUMBER_LIMIT);
            ApiError::invalid("offset", message)
        })
    }
}

/// The id of the hook in the path.
pub(crate) struct HookId(pub i64);

impl FromRequestParts<Arc<App>> for HookId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<HookId, ApiError> {
        let id = parameter(parts, app, "id").await?.parse().ok().filter(|id| *id > 0);
        id.map(HookId).ok_or_else(|| ApiError::invalid("id", "must be the id of a hook"))
    }
}

/// The code of the invite in the path. What can't be a code is nobody's, so the database need not be asked.
pub(crate) struct InviteCode(pub String);

impl FromRequestParts<Arc<App>> for InviteCode {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<InviteCode, ApiError> {
        let code = parameter(parts, app, "code").await?;
        if validation::is_invite_code(&code) { Ok(InviteCode(code)) } else { Err(ApiError::no_such_invite()) }
    }
}

/// The emoji in the path, as it was sent.
pub(crate) struct Emoji(pub String);

impl FromRequestParts<Arc<App>> for Emoji {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Emoji, ApiError> {
        parameter(parts, app, "emoji").await.map(Emoji)
    }
}

/// The client's address, as far as trusted proxies report it.
#[derive(Clone, Copy)]
pub(crate) struct ClientAddress(pub IpAddr);

impl FromRequestParts<Arc<App>> for ClientAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<ClientAddress, ApiError> {
        parts.extensions.get::<ClientAddress>().copied().ok_or_else(|| {
            tracing::error!("a request lacks its client's address");
            ApiError::internal()
        })
    }
}

/// Whether a trusted proxy received the request by https.
#[derive(Clone, Copy)]
pub(crate) struct ViaHttps(pub bool);

impl FromRequestParts<Arc<App>> for ViaHttps {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<ViaHttps, Infallible> {
        Ok(parts.extensions.get::<ViaHttps>().copied().unwrap_or(ViaHttps(false)))
    }
}

async fn folded_parameter(parts: &mut Parts, app: &Arc<App>, field: &'static str) -> Result<String, ApiError> {
    fold(field, &parameter(parts, app, field).await?)
}

/// A parameter of the path.
async fn parameter(parts: &mut Parts, app: &Arc<App>, field: &'static str) -> Result<String, ApiError> {
    let parameters = RawPathParams::from_request_parts(parts, app)
        .await
        .map_err(|_| ApiError::new(Code::BadRequest, "the decoded path is not UTF-8"))?;
    let (_, value) = parameters.iter().find(|(name, _)| *name == field).ok_or_else(ApiError::internal)?;
    Ok(value.to_owned())
}

/// Folds a name to its key. The error names the field.
pub(crate) fn fold(field: &'static str, name: &str) -> Result<String, ApiError> {
    fold_name(name).map_err(|error| ApiError::name(field, error))
}

/// Folds the name of a room to its key. The error names the field.
pub(crate) fn fold_room(field: &'static str, name: &str) -> Result<String, ApiError> {
    fold_room_name(name).map_err(|error| ApiError::name(field, error))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// The whole body.
pub(crate) async fn read_body(request: Request, limit_bytes: u64, limits: &Limits) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::new(Code::BodyTooLarge, format!("the body must be at most {limit_bytes} bytes long"));
    let body = request.into_body();
    // `Content-Length` gives the size away: the body is rejected before any of it is read.
    if body.size_hint().lower() > limit_bytes {
        return Err(too_large());
    }
    let read = Limited::new(body, limit_bytes as usize).collect();
    match tokio::time::timeout(Duration::from_millis(limits.body_timeout_ms), read).await {
        Err(_) => Err(ApiError::new(Code::BodyTimeout, "the body did not arrive in time")),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::new(Code::BadRequest, "the body is truncated or its framing is invalid")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}

/// Applies the rules of the handler's struct. All errors of all fields are reported together.
fn check<T: Validate<Context = Limits>>(read: &mut Read<T>, limits: &Limits) {
    let Err(report) = read.value.validate_with(limits) else { return };
    for (path, error) in report.iter() {
        read.add(FieldError::new(path.to_string(), Code::InvalidField, error.message().to_owned()));
    }
}
