//! Signing up, in and out; one's own account, password and token.

use crate::authentication::{Authenticated, Refreshing};
use crate::cookie;
use crate::errors::{ApiError, Code};
use crate::input::{Body, ByHttps, Client, Precheck, folded};
use crate::objects::AccountObject;
use crate::passwords::PoolError;
use crate::service::{App, Route, finish};
use crate::settings::Limits;
use crate::validation;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use garde::Validate;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use uproar_store::{Account, Login, NewUser};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/user/signup", sign_up),
        Route::new(Method::POST, "/user/signin", sign_in),
        Route::new(Method::POST, "/user/signout", sign_out),
        Route::new(Method::GET, "/me", me),
        Route::new(Method::POST, "/me/password", change_password),
        Route::new(Method::POST, "/token/refresh", refresh),
    ]
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct SignUp {
    #[garde(custom(validation::new_username))]
    username: String,
    #[garde(custom(validation::email_length), email)]
    email: String,
    #[garde(custom(validation::new_password))]
    password: String,
}

impl Precheck for SignUp {}

async fn sign_up(
    State(app): State<Arc<App>>,
    Client(client): Client,
    by_https: ByHttps,
    Body(body): Body<SignUp>,
) -> Result<Response, ApiError> {
    let username_key = folded("username", &body.username)?;
    let password_hash = app.passwords.hash(client, body.password).await?;
    let user = NewUser { username: body.username, username_key, email_key: email_key(&body.email), password_hash };
    let account = app.store.create_user(user).await?;
    Ok(signed_in(&app, &account, StatusCode::CREATED, by_https))
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct SignIn {
    #[garde(inner(custom(validation::name)))]
    username: Option<String>,
    #[garde(inner(custom(validation::email_length)))]
    email: Option<String>,
    #[garde(custom(validation::known_password))]
    password: String,
}

impl Precheck for SignIn {
    fn precheck(&self, _: &Limits) -> Result<(), ApiError> {
        match (&self.username, &self.email) {
            (None, None) => Err(ApiError::new(Code::MissingField, "give a username or an email").on("username")),
            (Some(_), Some(_)) => Err(ApiError::invalid("email", "give a username or an email, not both")),
            _ => Ok(()),
        }
    }
}

async fn sign_in(
    State(app): State<Arc<App>>,
    Client(client): Client,
    by_https: ByHttps,
    Body(body): Body<SignIn>,
) -> Result<Response, ApiError> {
    let known = match (&body.username, &body.email) {
        (Some(username), _) => app.store.login(Login::UsernameKey(&folded("username", username)?)).await?,
        (None, Some(email)) => app.store.login(Login::EmailKey(&email_key(email))).await?,
        (None, None) => None,
    };
    let (account, hash) = match known {
        Some((account, hash)) => (Some(account), hash),
        None => (None, None),
    };
    // Also without a user or a hash: the answer takes as long, and says the same.
    let good = app.passwords.verify(client, body.password, hash).await?;
    match account {
        Some(account) if good => Ok(signed_in(&app, &account, StatusCode::OK, by_https)),
        _ => Err(ApiError::new(Code::WrongCredentials, "the user name, e-mail address or password is wrong")),
    }
}

async fn sign_out(
    State(app): State<Arc<App>>,
    ByHttps(by_https): ByHttps,
    auth: Authenticated,
) -> Result<Response, ApiError> {
    finish(async move {
        let revocation = app.store.revoke_tokens(auth.user.id).await?.ok_or_else(ApiError::user_gone)?;
        app.chat.revoke(revocation);
        let mut response = Json(json!({})).into_response();
        cookie::clear(&mut response, by_https);
        Ok(response)
    })
    .await
}

async fn me(State(app): State<Arc<App>>, auth: Authenticated) -> Result<Response, ApiError> {
    let account = auth.account(&app).await?;
    Ok(Json(json!({"user": AccountObject::from(&account)})).into_response())
}

async fn refresh(
    State(app): State<Arc<App>>,
    by_https: ByHttps,
    Refreshing { account, has_cookie }: Refreshing,
) -> Response {
    if has_cookie {
        return signed_in(&app, &account, StatusCode::OK, by_https);
    }
    Json(fresh_token(&app, &account)).into_response()
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct ChangePassword {
    #[garde(custom(validation::known_password))]
    current_password: String,
    #[garde(custom(validation::new_password))]
    new_password: String,
}

impl Precheck for ChangePassword {}

async fn change_password(
    State(app): State<Arc<App>>,
    Client(client): Client,
    by_https: ByHttps,
    auth: Authenticated,
    Body(body): Body<ChangePassword>,
) -> Result<Response, ApiError> {
    let wrong = || ApiError::new(Code::WrongPassword, "this is not your current password").on("current_password");
    let account = auth.account(&app).await?;
    let key = folded("username", &account.username)?;
    let (account, hash) = app.store.login(Login::UsernameKey(&key)).await?.ok_or_else(ApiError::user_gone)?;
    let Some(hash) = hash else {
        return Err(ApiError::new(Code::NoPassword, "this account has no password; `uproar password` sets one"));
    };
    if !app.passwords.verify(client, body.current_password, Some(hash.clone())).await? {
        return Err(wrong());
    }
    let new_hash = app.passwords.hash(client, body.new_password).await?;
    finish(async move {
        // Of two changes at once the second finds another hash than the one it checked.
        let changed = app.store.set_password(account.id, Some(&hash), &new_hash).await?;
        let revocation = changed.ok_or_else(wrong)?;
        app.chat.revoke(revocation);
        let account = Account { token_generation: revocation.generation, ..account };
        // The session token in the cookie has ended with the others.
        Ok(signed_in(&app, &account, StatusCode::OK, by_https))
    })
    .await
}

/// `{token,user}`, and a session token in the browser's cookie.
fn signed_in(app: &App, account: &Account, status: StatusCode, ByHttps(by_https): ByHttps) -> Response {
    let mut response = (status, Json(fresh_token(app, account))).into_response();
    cookie::set(&mut response, app, account, by_https);
    response
}

/// `{token,user}` with a fresh token.
fn fresh_token(app: &App, account: &Account) -> serde_json::Value {
    let token = app.tokens.issue(account, app.now(), app.settings.token_lifetime.as_secs());
    json!({"token": token, "user": AccountObject::from(account)})
}

/// E-mail addresses are one's own whatever their case: nobody gives two people addresses that differ only in that.
fn email_key(email: &str) -> String {
    email.to_lowercase()
}

impl From<PoolError> for ApiError {
    fn from(error: PoolError) -> ApiError {
        match error {
            PoolError::Full => ApiError::new(Code::Overloaded, error.to_string()).retry_after(1),
            PoolError::AddressFull => ApiError::new(Code::TooManyAttempts, error.to_string()).retry_after(1),
            PoolError::Failed(_) | PoolError::Gone => {
                tracing::error!(%error, "a password could not be checked");
                ApiError::new(Code::Internal, "the server is at fault")
            }
        }
    }
}
