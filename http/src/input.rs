//! What handlers take from a request: JSON bodies, query parameters, names in paths. Each rejects invalid input with a
//! 4xx that says what is wrong.

use crate::app::App;
use crate::errors::{ApiError, Code};
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
use uproar_model::fold_name;

/// A validated JSON body.
pub(crate) struct Body<T>(pub T);

/// Checks that come before validation because their errors have codes of their own.
pub(crate) trait Precheck {
    fn precheck(&self, _: &Limits) -> Result<(), ApiError> {
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
        let limits = &app.settings.limits;
        let bytes = read_body(request, limits).await?;
        let value: T = from_json(&bytes)?;
        value.precheck(limits)?;
        validate(&value, limits)?;
        Ok(Body(value))
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
        let value: T = from_query(parts.uri.query().unwrap_or_default())?;
        validate(&value, &app.settings.limits)?;
        Ok(Query(value))
    }
}

/// The folded name of the room in the path.
pub(crate) struct RoomName(pub String);

impl FromRequestParts<Arc<App>> for RoomName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<RoomName, ApiError> {
        folded_parameter(parts, app, "name").await.map(RoomName)
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
    let parameters = RawPathParams::from_request_parts(parts, app)
        .await
        .map_err(|_| ApiError::new(Code::BadRequest, "the decoded path is not UTF-8"))?;
    let (_, value) = parameters.iter().find(|(name, _)| *name == field).ok_or_else(ApiError::internal)?;
    fold(field, value)
}

/// Folds a name to its key. The error names the field.
pub(crate) fn fold(field: &'static str, name: &str) -> Result<String, ApiError> {
    fold_name(name).map_err(|error| ApiError::name(field, error))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

async fn read_body(request: Request, limits: &Limits) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(Code::BodyTooLarge, format!("the body must be at most {} bytes long", limits.body_limit_bytes))
    };
    let body = request.into_body();
    // `Content-Length` gives the size away: the body is rejected before any of it is read.
    if body.size_hint().lower() > limits.body_limit_bytes {
        return Err(too_large());
    }
    let read = Limited::new(body, limits.body_limit_bytes as usize).collect();
    match tokio::time::timeout(Duration::from_millis(limits.body_timeout_ms), read).await {
        Err(_) => Err(ApiError::new(Code::BodyTimeout, "the body did not arrive in time")),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::new(Code::BadRequest, "the body is truncated or its framing is invalid")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let malformed = |error: serde_json::Error| ApiError::new(Code::MalformedJson, format!("malformed JSON: {error}"));
    // serde would accept an array for a struct, field by field.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(malformed)?;
        return Err(ApiError::new(Code::InvalidField, "the body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        match error.classify() {
            serde_json::error::Category::Data => {
                // If the rest of the body is not JSON, the error is 400, not 422.
                match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
                    Ok(_) => field_error(&path, &error.to_string()),
                    Err(error) => malformed(error),
                }
            }
            _ => malformed(error),
        }
    })?;
    json.end().map_err(malformed)?;
    Ok(value)
}

/// Parses the parameters of a query string.
pub(crate) fn from_query<T: DeserializeOwned>(query: &str) -> Result<T, ApiError> {
    let parameters = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(parameters)
        .map_err(|error| field_error(&error.path().to_string(), &error.inner().to_string()))
}

/// serde names a missing or duplicate field only in its message. The tests below fail if serde changes the wording.
fn field_error(path: &str, message: &str) -> ApiError {
    let named = |prefix: &str| message.strip_prefix(prefix)?.split('`').next().map(str::to_owned);
    if let Some(field) = named("missing field `") {
        return ApiError::new(Code::MissingField, "this field is missing").on(field);
    }
    if let Some(field) = named("duplicate field `") {
        return ApiError::invalid(field, "this field must appear only once");
    }
    // With the field's name, line and column add nothing.
    let message = message.split(" at line ").next().unwrap_or(message).to_owned();
    let error = ApiError::new(Code::InvalidField, message);
    if path == "." { error } else { error.on(path.to_owned()) }
}

pub(crate) fn validate<T: Validate<Context = Limits>>(value: &T, limits: &Limits) -> Result<(), ApiError> {
    value.validate_with(limits).map_err(|report| match report.iter().next() {
        Some((path, error)) => ApiError::invalid(path.to_string(), error.message().to_owned()),
        None => ApiError::new(Code::InvalidField, "a field is invalid"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Shape {
        text: String,
        size: Option<u32>,
    }

    fn json(text: &str) -> Result<Shape, (u16, &'static str, Option<String>)> {
        from_json(text.as_bytes()).map_err(summary)
    }

    fn query(text: &str) -> Result<Shape, (u16, &'static str, Option<String>)> {
        from_query(text).map_err(summary)
    }

    fn summary(error: ApiError) -> (u16, &'static str, Option<String>) {
        (error.code.status().as_u16(), error.code.as_str(), error.field.map(Into::into))
    }

    #[test]
    fn a_json_body_is_parsed_or_its_error_names_the_field() {
        let on = |field: &str| Some(field.to_owned());
        assert_eq!(json(r#"{"text":"a","more":[{}]}"#), Ok(Shape { text: "a".into(), size: None }));
        assert_eq!(json(r#" {"text":"a","size":null} "#), Ok(Shape { text: "a".into(), size: None }));
        for malformed in [
            "",
            "{",
            "x",
            r#"{"text":"a"} x"#,
            r#"{"text":"\ud800"}"#,
            r#"{"text":"a",}"#,
            "[1",
            r#"{"text":"a"}{}"#,
            "{} {}",
            r#"{"text":1"#,
        ] {
            assert_eq!(json(malformed), Err((400, "malformed_json", None)), "{malformed}");
        }
        assert_eq!(summary(from_json::<Shape>(b"{\"text\":\"\xff\"}").unwrap_err()), (400, "malformed_json", None));
        assert_eq!(json("{}"), Err((422, "missing_field", on("text"))));
        for wrong in [r#"{"text":1}"#, r#"{"text":null}"#, r#"{"text":{}}"#] {
            assert_eq!(json(wrong), Err((422, "invalid_field", on("text"))), "{wrong}");
        }
        for wrong in ["-1", "1.5", "\"1\"", "4294967296", "true"] {
            let wrong = format!(r#"{{"text":"a","size":{wrong}}}"#);
            assert_eq!(json(&wrong), Err((422, "invalid_field", on("size"))), "{wrong}");
        }
        assert_eq!(json(r#"{"text":"a","text":"b"}"#), Err((422, "invalid_field", on("text"))));
        for not_an_object in ["[]", r#"["a",1]"#, "1", "\"a\"", "null"] {
            assert_eq!(json(not_an_object), Err((422, "invalid_field", None)), "{not_an_object}");
        }
    }

    #[test]
    fn deep_nesting_is_malformed_and_overflows_no_stack() {
        let deep = format!(r#"{{"text":"a","x":{}"#, "[".repeat(60_000));
        assert_eq!(json(&deep), Err((400, "malformed_json", None)));
    }

    #[test]
    fn a_query_string_is_parsed_or_its_error_names_the_parameter() {
        let on = |field: &str| Some(field.to_owned());
        assert_eq!(query("text=a%20b+c&size=7&x=y"), Ok(Shape { text: "a b c".into(), size: Some(7) }));
        assert_eq!(query(""), Err((422, "missing_field", on("text"))));
        assert_eq!(query("text=a&size=x"), Err((422, "invalid_field", on("size"))));
        assert_eq!(query("text=a&size="), Err((422, "invalid_field", on("size"))));
        assert_eq!(query("text=a&text=b"), Err((422, "invalid_field", on("text"))));
    }
}
