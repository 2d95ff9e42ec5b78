//! Authentication: from the token in a request to a user whose token has not been revoked.

use crate::app::App;
use crate::bodies::AuthenticatedUser;
use crate::cookie;
use crate::errors::{ApiError, Code};
use crate::input::{ClientAddress, fold};
use crate::security_log::Event;
use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, header};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use uproar_core::websocket::head::bearer_token;
use uproar_model::{Claims, Revocation, TokenError, User, boottime_ms, fold_name, shown_name};
use uproar_store::Account;

/// How long a request waits for a valid lease.
const LEASE_TIMEOUT: Duration = Duration::from_secs(1);
const LEASE_PAUSE: Duration = Duration::from_millis(10);

/// What a blocked user is told.
pub(crate) const BLOCKED: &str = "this user is blocked; only the operator of the service can lift that";

/// The user of a valid token.
pub(crate) struct Authenticated {
    pub user: User,
    claims: Claims,
    /// Present if authentication had to read it anyway.
    account: Option<Account>,
    client: ClientAddress,
}

impl FromRequestParts<Arc<App>> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Authenticated, ApiError> {
        let client = ClientAddress::from_request_parts(parts, app).await?;
        let token = bearer(&parts.headers).ok_or_else(token_missing)?;
        let authenticated = authenticate_at(app, client, token, app.now_unix_s()).await?;
        if let Some(user) = parts.extensions.get::<AuthenticatedUser>() {
            user.set(authenticated.user.id);
        }
        Ok(authenticated)
    }
}

/// A user who may have a fresh token. The request carries a token that is valid or expired a moment ago (clients of the
/// Centrifugo protocol ask for a fresh token when theirs expires, not before), or the session token in the cookie.
pub(crate) struct Refreshing {
    /// The account as it is in the database now. Revocations are kept in memory only as long as an ordinary token
    /// lives, and session tokens live longer.
    pub account: Account,
    /// When the user signed in, in Unix seconds.
    pub signed_in_at: u64,
    /// Whether the browser has a cookie of this user, which must be renewed because it expires with the token in it.
    pub has_cookie: bool,
}

impl FromRequestParts<Arc<App>> for Refreshing {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Refreshing, ApiError> {
        let client = ClientAddress::from_request_parts(parts, app).await?;
        let now = app.now_unix_s();
        let cookie = cookie::token(app, &parts.headers);
        let Some(token) = bearer(&parts.headers) else {
            let claims = app.tokens.verify_session(cookie?.ok_or_else(token_missing)?, now)?;
            let signed_in_at = renewable(app, &claims, now)?;
            let account = current_account(app, client, &claims).await?;
            return Ok(Refreshing { account, signed_in_at, has_cookie: true });
        };
        // The header overrides the cookie, which may belong to another user who signed in in another tab.
        let valid_at = now.saturating_sub(app.settings.limits.expired_grace_ms / 1000);
        let auth = authenticate_at(app, client, token, valid_at).await?;
        if auth.claims.identity.is_some() {
            return Err(ApiError::new(
                Code::NotRenewable,
                "this token is of another system; ask the system that issued it for a fresh one",
            ));
        }
        let signed_in_at = renewable(app, &auth.claims, now)?;
        let account = auth.account(app).await?;
        let session = cookie.ok().flatten().and_then(|token| app.tokens.verify_session(token, now).ok());
        let has_cookie = session.is_some_and(|claims| claims.user == Some(account.id));
        Ok(Refreshing { account, signed_in_at, has_cookie })
    }
}

/// When the user of a token signed in, unless that is too long ago for another token.
fn renewable(app: &App, claims: &Claims, now: u64) -> Result<u64, ApiError> {
    let signed_in_s = app.settings.limits.sign_in_lifetime_ms / 1000;
    match now < claims.signed_in_at.saturating_add(signed_in_s) {
        true => Ok(claims.signed_in_at),
        false => Err(TokenError::Expired.into()),
    }
}

pub(crate) fn token_missing() -> ApiError {
    ApiError::new(Code::TokenMissing, "this call needs a token: send `Authorization: Bearer <token>`")
}

/// The token in the `Authorization` headers.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    bearer_token(headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| value.to_str().ok()))
}

/// Verifies that a token is valid at this time, in Unix seconds, and that it has not been revoked.
async fn authenticate_at(
    app: &App,
    client: ClientAddress,
    token: &str,
    valid_at: u64,
) -> Result<Authenticated, ApiError> {
    let claims = app.tokens.verify(token, valid_at)?;
    if let Some(id) = claims.user {
        require_lease(app).await?;
        // Memory holds every revocation that a token that has not expired can fall under.
        let revocation = app.chat.revocation(id);
        if let Some(revocation) = revocation.filter(|known| known.covers(claims.generation, claims.issued_at)) {
            return Err(revoked(app, client, &revocation));
        }
        let user = User { id, username: Arc::clone(&claims.username) };
        return Ok(Authenticated { user, claims, account: None, client });
    }
    let account = match &claims.identity {
        Some(identity) => match app.store.account_of(identity).await? {
            Some(account) => account,
            None => app.store.ensure_identity(identity, &claims.username).await?,
        },
        None => {
            let key = fold("username", &claims.username).map_err(|_| TokenError::Invalid)?;
            match app.store.account_named(&key).await? {
                Some(account) => account,
                None => app.store.ensure_user(&shown_name(&claims.username), &key).await?,
            }
        }
    };
    check_revocation(app, client, &account, &claims)?;
    Ok(Authenticated { user: User::from(&account), claims, account: Some(account), client })
}

/// Waits until it is known what other nodes have revoked.
async fn require_lease(app: &App) -> Result<(), ApiError> {
    let lease = app.chat.lease();
    let valid = async {
        while !lease.is_valid(boottime_ms()) {
            sleep(LEASE_PAUSE).await;
        }
    };
    timeout(LEASE_TIMEOUT, valid).await.map_err(|_| {
        let why = "the server can't find out whether the token was revoked; try again later";
        ApiError::new(Code::Unavailable, why).retry_after(1)
    })
}

impl Authenticated {
    /// The account as it is in the database now. This also rejects a token whose revocation is missing in memory,
    /// because the caller may be about to issue a fresh token.
    pub(crate) async fn account(self, app: &App) -> Result<Account, ApiError> {
        match self.account {
            Some(account) => Ok(account),
            None => current_account(app, self.client, &self.claims).await,
        }
    }
}

/// The account of a token that carries a user id, as it is in the database now. The account must also have the token's
/// username, or have had it before the user was renamed.
async fn current_account(app: &App, client: ClientAddress, claims: &Claims) -> Result<Account, ApiError> {
    let id = claims.user.ok_or(TokenError::Invalid)?;
    let account = app.store.account(id).await?.ok_or_else(ApiError::user_gone)?;
    if account.username != claims.username && !has_been_named(app, &account, &claims.username).await? {
        return Err(TokenError::Invalid.into());
    }
    check_revocation(app, client, &account, claims)?;
    Ok(account)
}

/// Whether this was the user's name when the token was issued.
async fn has_been_named(app: &App, account: &Account, username: &str) -> Result<bool, ApiError> {
    let Ok(key) = fold_name(username) else { return Ok(false) };
    Ok(app.store.account_named(&key).await?.is_some_and(|named| named.id == account.id))
}

fn check_revocation(app: &App, client: ClientAddress, account: &Account, claims: &Claims) -> Result<(), ApiError> {
    let revocation = account.revocation();
    match revocation.filter(|revocation| revocation.covers(claims.generation, claims.issued_at)) {
        Some(revocation) => Err(revoked(app, client, &revocation)),
        None => Ok(()),
    }
}

fn revoked(app: &App, ClientAddress(client): ClientAddress, revocation: &Revocation) -> ApiError {
    app.security_log.log(client, revocation.user, Event::UsedRevokedToken);
    match revocation.is_blocked {
        true => ApiError::new(Code::TokenInvalid, BLOCKED),
        false => TokenError::Invalid.into(),
    }
}
