//! Who asks: from a token to a user whose token is still good.

use crate::cookie;
use crate::errors::{ApiError, Code};
use crate::input::folded;
use crate::service::App;
use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, header};
use std::sync::Arc;
use uproar_model::{TokenError, User, UserId};
use uproar_store::Account;

/// The user behind a good token.
pub(crate) struct Authenticated {
    pub user: User,
    /// The generation that the token carries; none in a token minted by the command line.
    pub generation: Option<u32>,
    /// Where it had to be read anyway.
    account: Option<Account>,
}

impl FromRequestParts<Arc<App>> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Authenticated, ApiError> {
        let token = bearer(&parts.headers).ok_or_else(token_missing)?;
        authenticate(app, token).await
    }
}

/// Who may have a fresh token: by a token that is good, or was so until a moment ago (clients of the Centrifugo protocol
/// ask for a fresh one when the old one ends, not before), or by the session token in the cookie, which counts here alone.
pub(crate) struct Refreshing {
    /// As it is in the database now. What is known in memory of revocations goes back no further than ordinary tokens
    /// live, and a session token lives longer.
    pub account: Account,
    /// Whether the browser keeps a cookie of this user's, which is to be renewed: it ends with the token in it.
    pub has_cookie: bool,
}

impl FromRequestParts<Arc<App>> for Refreshing {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Refreshing, ApiError> {
        let now = app.now();
        let cookie = cookie::token(app, &parts.headers);
        if !parts.headers.contains_key(header::AUTHORIZATION) {
            let claims = app.tokens.verify_session(cookie?.ok_or_else(token_missing)?, now)?;
            let id = claims.user.ok_or(TokenError::Invalid)?;
            let account = current_account(app, id, &claims.username, claims.generation).await?;
            return Ok(Refreshing { account, has_cookie: true });
        }
        // Whoever sends the header means it, and not what the browser has put there besides: that can be the cookie of
        // another user, who signed in in another tab.
        let until = now.saturating_sub(app.settings.expired_grace.as_secs());
        let auth = authenticate_at(app, bearer(&parts.headers).ok_or_else(token_missing)?, until).await?;
        let account = auth.account(app).await?;
        let of_cookie = cookie.ok().flatten().and_then(|token| app.tokens.verify_session(token, now).ok());
        let has_cookie = of_cookie.is_some_and(|claims| claims.user == Some(account.id));
        Ok(Refreshing { account, has_cookie })
    }
}

pub(crate) fn token_missing() -> ApiError {
    ApiError::new(Code::TokenMissing, "this call needs a token: send `Authorization: Bearer <token>`")
}

/// The token in `Authorization: Bearer` (RFC 6750 section 2.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Verifies a token, and that nothing revoked it.
pub(crate) async fn authenticate(app: &App, token: &str) -> Result<Authenticated, ApiError> {
    authenticate_at(app, token, app.now()).await
}

/// The same for a token that must be good at this time, in Unix seconds.
async fn authenticate_at(app: &App, token: &str, now: u64) -> Result<Authenticated, ApiError> {
    let claims = app.tokens.verify(token, now)?;
    if let Some(id) = claims.user {
        // Revocations older than a token can be are of no interest, so those kept in memory are all there are.
        if let Some(current) = app.chat.current_generation(id)
            && claims.generation.is_none_or(|generation| generation < current)
        {
            return Err(TokenError::Invalid.into());
        }
        return Ok(Authenticated {
            user: User { id, username: claims.username },
            generation: claims.generation,
            account: None,
        });
    }
    let key = folded("username", &claims.username).map_err(|_| TokenError::Invalid)?;
    let account = app.store.ensure_user(&claims.username, &key).await?;
    // It carries no generation, only when it was made; in the very second of a revocation it counts as made before.
    if account.revoked_at.is_some_and(|revoked_at| claims.issued_at <= revoked_at / 1000) {
        return Err(TokenError::Invalid.into());
    }
    Ok(Authenticated { user: User::from(&account), generation: None, account: Some(account) })
}

impl Authenticated {
    /// The account as it is in the database now. A token of an earlier generation than the account's is refused here
    /// whatever is known in memory: what follows may be a fresh token.
    pub(crate) async fn account(self, app: &App) -> Result<Account, ApiError> {
        if let Some(account) = self.account {
            return Ok(account);
        }
        current_account(app, self.user.id, &self.user.username, self.generation).await
    }
}

/// A user's account as it is in the database now, for a token of this generation; none in a token that carries none. The
/// name too has to be that in the token: in a database that was put back from a backup, an id can be given anew.
async fn current_account(app: &App, id: UserId, username: &str, generation: Option<u32>) -> Result<Account, ApiError> {
    let account = app.store.account(id).await?.ok_or_else(ApiError::user_gone)?;
    if *account.username != *username {
        return Err(TokenError::Invalid.into());
    }
    if generation.is_some_and(|generation| generation < account.token_generation) {
        return Err(TokenError::Invalid.into());
    }
    Ok(account)
}
