//! The cookie that keeps a browser signed in. It holds a session token, scripts can't read it, and only one call
//! accepts it: `POST /token/refresh`. A page that is reloaded gets its token from that call and keeps it in memory.
//!
//! The session token is valid for that call alone. A cookie lives for weeks and can be copied from a browser's files;
//! sent as `Authorization: Bearer`, its token is rejected everywhere.
//!
//! No other call accepts it, so another site that makes a browser send the cookie gains nothing (RFC 6265, section
//! 8.2). The one call that does accepts it only from a page of an allowed origin.
//!
//! A second cookie gives access to nothing. It shows to `POST /user/signin` that the browser has signed in to the
//! account before, so that strangers who try out passwords don't keep its user out. A third one lives for some minutes,
//! while a user signs in with an identity provider.

use crate::app::App;
use crate::errors::{ApiError, Code};
use crate::tokens::Term;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use uproar_model::UserId;
use uproar_store::Account;

/// A cookie, and the only path to which browsers send it.
struct Cookie {
    name: &'static str,
    path: &'static str,
    /// Whether it is sent when another site leads the browser here.
    same_site: &'static str,
}

const SESSION: Cookie = Cookie { name: "uproar_session", path: "/token/refresh", same_site: "Strict" };
const BROWSER: Cookie = Cookie { name: "uproar_browser", path: "/user/signin", same_site: "Strict" };
/// The identity provider leads the browser back.
const PENDING: Cookie = Cookie { name: "uproar_oidc", path: "/user/signin/oidc", same_site: "Lax" };

/// The longest time for which browsers keep a cookie: 400 days.
const BROWSER_LIFETIME_S: u64 = 400 * 24 * 3600;

/// Sets the cookie to a new session token of this account, whose user signed in at this time (Unix seconds). It expires
/// together with the token. `via_https`: whether browsers must send it only with encrypted requests.
pub(crate) fn set(response: &mut Response, app: &App, account: &Account, signed_in_at: u64, via_https: bool) {
    let limits = &app.settings.limits;
    let now = app.now_unix_s();
    let term = Term::new(signed_in_at, now, limits.session_lifetime_ms / 1000, limits.sign_in_lifetime_ms / 1000);
    let token = app.tokens.issue_session(account, term);
    let lifetime_s = term.expires_at.saturating_sub(now);
    SESSION.append(response, &token, lifetime_s, via_https);
}

/// Removes the cookie.
pub(crate) fn clear(response: &mut Response, via_https: bool) {
    SESSION.append(response, "", 0, via_https);
}

/// Sets the cookie that shows that this browser has signed in to the account.
pub(crate) fn set_browser(response: &mut Response, app: &App, account: &Account, now: u64, via_https: bool) {
    let term = Term::new(now, now, BROWSER_LIFETIME_S, BROWSER_LIFETIME_S);
    BROWSER.append(response, &app.tokens.issue_browser(account, term), BROWSER_LIFETIME_S, via_https);
}

/// Sets the cookie of a sign-in with an identity provider, for this many seconds. 0 removes it.
pub(crate) fn set_pending(response: &mut Response, token: &str, lifetime_s: u64, via_https: bool) {
    PENDING.append(response, token, lifetime_s, via_https);
}

/// The token of a sign-in with an identity provider.
pub(crate) fn pending(headers: &HeaderMap) -> Option<&str> {
    PENDING.find(headers)
}

/// The account that this browser has signed in to, if it shows one.
pub(crate) fn account_of_browser(app: &App, headers: &HeaderMap) -> Option<UserId> {
    app.tokens.verify_browser(BROWSER.find(headers)?, app.now_unix_s())
}

/// The session token in the cookie, if there is one. Fails if the page that sends it has no right to use it.
pub(crate) fn token<'a>(app: &App, headers: &'a HeaderMap) -> Result<Option<&'a str>, ApiError> {
    let Some(token) = SESSION.find(headers) else { return Ok(None) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // Browsers send `Origin` with every POST. Other clients have no need of the cookie.
    match headers.get(header::ORIGIN) {
        Some(origin) if app.settings.origins.allow_cookie(origin.as_bytes(), host) => Ok(Some(token)),
        Some(_) => Err(ApiError::new(
            Code::OriginNotAllowed,
            "a page of this origin may not use the cookie; if a proxy changes `Host`, list it with `--allow-origin`",
        )),
        None => Err(ApiError::new(
            Code::OriginNotAllowed,
            "the cookie is for browsers, which send `Origin`; send `Authorization: Bearer <token>` instead",
        )),
    }
}

impl Cookie {
    fn append(&self, response: &mut Response, value: &str, lifetime_s: u64, via_https: bool) {
        let Cookie { name, path, same_site } = self;
        let secure = if via_https { "; Secure" } else { "" };
        let cookie =
            format!("{name}={value}; Max-Age={lifetime_s}; Path={path}; HttpOnly; SameSite={same_site}{secure}");
        // Every character of a token is valid in a header.
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
    }

    fn find<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let lines = headers.get_all(header::COOKIE).into_iter();
        // Cookies are decoded one by one: those of other services on this host need not even be UTF-8.
        let cookies = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let cookies = cookies.filter_map(|cookie| std::str::from_utf8(cookie).ok()?.trim().split_once('='));
        let mut ours = cookies.filter(|(name, value)| *name == self.name && !value.is_empty()).map(|(_, value)| value);
        let first = ours.next();
        // If there are two, another host of the domain has set one of them, and it is unknown which. Neither counts.
        first.filter(|_| ours.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_found_among_others_unless_ambiguous() {
        let found = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, HeaderValue::from_bytes(line).unwrap());
            }
            SESSION.find(&headers).map(str::to_owned)
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
