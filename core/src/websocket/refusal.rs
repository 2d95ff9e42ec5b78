//! The answer to a request that a shard refuses, as bytes.

use bytes::Bytes;
use serde_json::json;
use std::borrow::Cow;

/// Why a request is refused. The HTTP service's errors have the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub message: Cow<'static, str>,
    /// All parameters of the query that are at fault.
    pub fields: Vec<FieldError>,
}

/// What is wrong with one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: Cow<'static, str>,
    pub code: &'static str,
    pub message: Cow<'static, str>,
}

impl Refusal {
    pub fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status, code, message: message.into(), fields: Vec::new() }
    }

    /// A refusal because of parameters that are at fault. Its code and message are those of the first.
    pub fn of_fields(fields: Vec<FieldError>) -> Refusal {
        let first = fields.first().map(|error| (error.code, error.message.clone()));
        let (code, message) = first.unwrap_or(("invalid_field", Cow::Borrowed("")));
        Refusal { status: 422, code, message, fields }
    }

    /// A complete HTTP response with the body `{"error":{"code":…,"field":…,"message":…}}`, and `fields` if parameters
    /// are at fault. After it the connection is closed.
    pub fn response(&self) -> Bytes {
        let field = self.fields.first().map(|error| &error.field);
        let mut error = json!({"code": self.code, "message": self.message, "field": field});
        if !self.fields.is_empty() {
            let fields = self.fields.iter();
            let fields =
                fields.map(|error| json!({"field": error.field, "code": error.code, "message": error.message}));
            error["fields"] = fields.collect();
        }
        let body = json!({"error": error}).to_string();
        let Refusal { status, .. } = self;
        let mut response = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(*status));
        for (name, value) in required_headers(*status) {
            response += &format!("{name}: {value}\r\n");
        }
        response += &format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        response.into()
    }
}

/// The headers that a response with this status must have (RFC 9110, 15).
fn required_headers(status: u16) -> &'static [(&'static str, &'static str)] {
    match status {
        401 => &[("WWW-Authenticate", "Bearer")],
        426 => &[("Sec-WebSocket-Version", super::head::VERSION), ("Upgrade", "websocket")],
        503 => &[("Retry-After", "1")],
        _ => &[],
    }
}

/// The reason phrase of a status that a request can be refused with. It may be empty (RFC 9112, 4).
fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        409 => "Conflict",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_complete_response() {
        let answer = Refusal::new(401, "unauthorized", "The \"token\" is invalid.").response();
        let answer = std::str::from_utf8(&answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(body, r#"{"error":{"code":"unauthorized","field":null,"message":"The \"token\" is invalid."}}"#);

        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut headers);
        assert!(response.parse(answer.as_bytes()).unwrap().is_complete());
    }

    #[test]
    fn a_refusal_names_all_fields_that_are_at_fault() {
        let error =
            |field, message| FieldError { field: Cow::Borrowed(field), code: "x", message: Cow::Borrowed(message) };
        let refusal = Refusal::of_fields(vec![error("room", "no room"), error("since", "no offset")]);
        let answer = String::from_utf8(refusal.response().into()).unwrap();
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let fields = json!([
            {"field": "room", "code": "x", "message": "no room"},
            {"field": "since", "code": "x", "message": "no offset"},
        ]);
        assert_eq!(body, json!({"error": {"code": "x", "message": "no room", "field": "room", "fields": fields}}));
    }

    #[test]
    fn a_refusal_is_neither_cached_nor_taken_for_html() {
        for status in [400, 401, 426, 503] {
            let answer = String::from_utf8(Refusal::new(status, "x", "").response().into()).unwrap();
            assert!(answer.contains("\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"), "{answer}");
        }
    }
}
