//! The answer to an upgrade request that is refused, as bytes.

use bytes::Bytes;

/// A complete HTTP response with the body `{"error":{"code":…,"message":…,"field":null}}`, after which the connection
/// is closed. `headers` are additional (name, value) pairs.
pub fn refusal(status: u16, code: &str, message: &str, headers: &[(&str, &str)]) -> Bytes {
    let body = serde_json::json!({"error": {"code": code, "message": message, "field": null}}).to_string();
    let mut response = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status));
    for (name, value) in headers {
        response += &format!("{name}: {value}\r\n");
    }
    response +=
        &format!("Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    response.into()
}

/// The reason phrase of a status that an upgrade can be refused with. It may be empty (RFC 9112, 4).
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
        let answer = refusal(401, "unauthorized", "The \"token\" is invalid.", &[("WWW-Authenticate", "Bearer")]);
        let answer = std::str::from_utf8(&answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(body, r#"{"error":{"code":"unauthorized","field":null,"message":"The \"token\" is invalid."}}"#);

        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut headers);
        assert!(response.parse(answer.as_bytes()).unwrap().is_complete());
    }
}
