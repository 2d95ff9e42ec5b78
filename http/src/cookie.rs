//! The cookie that keeps a browser signed in: it holds a session token, no script can read it, and it is good for one
//! call, `POST /token/refresh`. A page gets its token from there when it is loaded again, and keeps it in memory.
//!
//! Both the cookie and the token in it are for that call alone. The cookie can be taken out of a browser's files, and
//! lives for weeks: as `Authorization: Bearer` it is refused everywhere.
//!
//! Nothing else reads cookies. So a page elsewhere that makes a browser send one has nothing of it (RFC 6265 section
//! 8.2); and for that one call it must be sent from a page that may do so.

use crate::errors::{ApiError, Code};
use crate::service::App;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use uproar_store::Account;

/// Its name.
const NAME: &str = "uproar_session";

/// The one path to which browsers send it.
const PATH: &str = "/token/refresh";

/// Gives the browser the cookie with a new session token of this account, and for as long as that is good. `by_https`:
/// whether it is for encrypted requests only.
pub(crate) fn set(response: &mut Response, app: &App, account: &Account, by_https: bool) {
    let age = app.settings.session_lifetime.as_secs();
    let token = app.tokens.issue_session(account, app.now(), age);
    append(response, &format!("{NAME}={token}; Max-Age={age}"), by_https);
}

/// Takes it away.
pub(crate) fn clear(response: &mut Response, by_https: bool) {
    append(response, &format!("{NAME}=; Max-Age=0"), by_https);
}

fn append(response: &mut Response, cookie: &str, by_https: bool) {
    let secure = if by_https { "; Secure" } else { "" };
    // A token has nothing in it that a header can't have.
    if let Ok(value) = HeaderValue::from_str(&format!("{cookie}; Path={PATH}; HttpOnly; SameSite=Strict{secure}")) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// The session token in the cookie, when a page sends it that may; none when there is no cookie.
pub(crate) fn token<'a>(app: &App, headers: &'a HeaderMap) -> Result<Option<&'a str>, ApiError> {
    let Some(token) = find(headers) else { return Ok(None) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // A browser says with every POST where it comes from; what does not say it is none, and has its own ways.
    match headers.get(header::ORIGIN) {
        Some(origin) if app.settings.origins.allow_cookie(origin.as_bytes(), host) => Ok(Some(token)),
        Some(_) => Err(ApiError::new(
            Code::OriginNotAllowed,
            "a page of this origin may not use the cookie; where a proxy changes `Host`, name it with `--allow-origin`",
        )),
        None => Err(ApiError::new(
            Code::OriginNotAllowed,
            "the cookie is for browsers, which send `Origin`; send `Authorization: Bearer <token>` instead",
        )),
    }
}

fn find(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).into_iter();
    // One by one: what is in those of others on this host is no business of ours, be it text or not.
    let cookies = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let cookies = cookies.filter_map(|cookie| std::str::from_utf8(cookie).ok()?.trim().split_once('='));
    let mut ours = cookies.filter(|(name, value)| *name == NAME && !value.is_empty()).map(|(_, value)| value);
    let first = ours.next();
    // Two are none: another host of the domain has put one of them there, and it is not known which.
    first.filter(|_| ours.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cookie_among_others() {
        let found = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, HeaderValue::from_bytes(line).unwrap());
            }
            find(&headers).map(str::to_owned)
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[b"uproar_session=a.b.c"]).as_deref(), Some("a.b.c"));
        assert_eq!(found(&[b"theme=dark; uproar_session=a.b.c;x=y"]).as_deref(), Some("a.b.c"));
        assert_eq!(found(&[b"theme=dark", b"uproar_session=a=b"]).as_deref(), Some("a=b"));
        assert_eq!(found(&[b"uproar_session=; uproar_session=second"]).as_deref(), Some("second"));
        assert_eq!(found(&[b"uproar_session=one; uproar_session=two"]), None);
        assert_eq!(found(&[b"uproar_session=one", b"uproar_session=one"]), None);
        assert_eq!(found(&[b"name=J\xf6rg; uproar_session=a.b.c"]).as_deref(), Some("a.b.c"));
        assert_eq!(found(&[b"uproar_session=\xff"]), None);
        for none in ["uproar_session", "uproar_session=", "my_uproar_session=a", "Uproar_Session=a", "=a", ";;"] {
            assert_eq!(found(&[none.as_bytes()]), None, "{none}");
        }
    }
}
