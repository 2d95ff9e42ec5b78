//! The routes of the server API, and its two forms: one method in the path with its parameters as the body, and any
//! number of `{"method","params"}` as the body, one after the other.

use super::caller::{Caller, Reply};
use super::error::{Answered, MethodError};
use super::keys::Authorized;
use crate::app::{App, Route, complete};
use crate::errors::{ApiError, Code};
use crate::input::{ApiBody, ApiMethod};
use crate::traces::CallSpan;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;

/// Commands in one body of the older form.
const COMMANDS_LIMIT: usize = 1_000;
/// The header by which a caller asks for HTTP statuses.
const ERROR_MODE: &str = "x-centrifugo-error-mode";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/api", call_many).with_query(),
        Route::new(Method::POST, "/api/{method}", call).with_query(),
    ]
}

/// One method. Most answers are `{"result":{…}}` or `{"error":{"code","message"}}`.
async fn call(
    State(app): State<Arc<App>>,
    authorized: Authorized,
    ApiMethod(method): ApiMethod,
    span: Option<Extension<CallSpan>>,
    headers: HeaderMap,
    ApiBody(body): ApiBody,
) -> Result<Response, ApiError> {
    let has_statuses = headers.get(ERROR_MODE).is_some_and(|mode| mode.as_bytes() == b"transport");
    let caller = Caller::of_request(app, authorized, span.map(|Extension(span)| span.context));
    complete(async move {
        let answered = match body.trim_ascii() {
            // Methods without parameters are called without a body, too.
            "" => caller.run(&method, "{}").await,
            params => caller.run(&method, params).await,
        };
        let status = match &answered {
            Err(error) if has_statuses => error.status(),
            _ => StatusCode::OK,
        };
        Ok((status, [(header::CONTENT_TYPE, JSON)], encode(None, answered)).into_response())
    })
    .await
}

/// A command of the older form.
#[derive(Deserialize)]
struct OldCommand<'a> {
    /// It comes back with the answer.
    id: Option<u32>,
    method: String,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// Commands that are executed one after the other, and answered with one line each.
async fn call_many(
    State(app): State<Arc<App>>,
    authorized: Authorized,
    span: Option<Extension<CallSpan>>,
    ApiBody(body): ApiBody,
) -> Result<Response, ApiError> {
    let caller = Caller::of_request(app, authorized, span.map(|Extension(span)| span.context));
    complete(async move {
        // All of them are read first: nothing is done if one is malformed.
        let commands = read_commands(&body)?;
        let mut lines = String::new();
        for OldCommand { id, method, params } in commands {
            let answered = match caller.has_time() {
                true => caller.run(&method, params.map_or("{}", RawValue::get)).await,
                false => Err(MethodError::no_time()),
            };
            lines.push_str(&encode(id, answered));
            lines.push('\n');
        }
        Ok(([(header::CONTENT_TYPE, JSON)], lines).into_response())
    })
    .await
}

fn read_commands(body: &str) -> Result<Vec<OldCommand<'_>>, ApiError> {
    let mut commands = Vec::new();
    for command in serde_json::Deserializer::from_str(body).into_iter::<OldCommand<'_>>() {
        let command = command.map_err(|error| {
            let number = commands.len() + 1;
            let text = format!("command {number} is not JSON such as {{\"method\":\"info\",\"params\":{{}}}}: {error}");
            ApiError::new(Code::BadRequest, format!("{text}; nothing was done"))
        })?;
        if commands.len() == COMMANDS_LIMIT {
            let text = format!("one request can have at most {COMMANDS_LIMIT} commands; nothing was done");
            return Err(ApiError::new(Code::BadRequest, text));
        }
        commands.push(command);
    }
    if commands.is_empty() {
        return Err(ApiError::new(Code::BadRequest, "the body has no command"));
    }
    Ok(commands)
}

/// An answer as JSON on one line.
fn encode(id: Option<u32>, answered: Answered<Reply>) -> String {
    let id = id.map(|id| format!("\"id\":{id},")).unwrap_or_default();
    match answered {
        Ok(Reply::Result(result)) => format!("{{{id}\"result\":{result}}}"),
        Ok(Reply::Replies(replies)) => format!("{{{id}\"replies\":[{}]}}", replies.join(",")),
        Err(error) => format!("{{{id}\"error\":{}}}", error.to_json()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods(body: &str) -> Result<Vec<String>, String> {
        let commands = read_commands(body).map_err(|error| error.message.into_owned())?;
        Ok(commands.into_iter().map(|command| command.method).collect())
    }

    #[test]
    fn commands_follow_each_other_with_or_without_line_ends() {
        let (one, two) = (r#"{"method":"info","params":{}}"#, r#"{"method":"channels"}"#);
        for body in [format!("{one}\n{two}\n"), format!("{one}{two}"), format!(" {one}\r\n\r\n{two} ")] {
            assert_eq!(methods(&body).unwrap(), ["info", "channels"], "{body}");
        }
        for body in ["", " \n", "[]", "{}", "nonsense", r#"{"method":1}"#, &format!("{one}\n{{")] {
            assert!(methods(body).is_err(), "{body}");
        }
        assert_eq!(methods(&one.repeat(COMMANDS_LIMIT)).unwrap().len(), COMMANDS_LIMIT);
        assert!(methods(&one.repeat(COMMANDS_LIMIT + 1)).unwrap_err().contains("at most 1000"));
    }
}
