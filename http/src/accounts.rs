//! Handlers for accounts: sign-up, sign-in, sign-out, and a user's own account, password and token.

use crate::app::{App, Route, complete};
use crate::attempts::Tried;
use crate::authentication::{Authenticated, BLOCKED, Refreshing};
use crate::cookie;
use crate::email;
use crate::errors::{ApiError, Code};
use crate::fields::FieldError;
use crate::input::{Body, ClientAddress, Precheck, ViaHttps, fold};
use crate::objects::AccountObject;
use crate::passwords::{Class, PoolError};
use crate::security_log::Event;
use crate::settings::SignUp as SignUpPolicy;
use crate::tokens::Term;
use crate::validation;
use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use garde::Validate;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use uproar_core::limits::Limits;
use uproar_model::text::{decompose, normalize_password};
use uproar_model::{UserId, shown_name};
use uproar_store::{Account, CreateUserError, InvitedUser, InvitedUserError, Login, NewUser};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/user/signup", sign_up),
        Route::new(Method::GET, "/user/signin", ways_to_sign_in),
        Route::new(Method::POST, "/user/signin", sign_in),
        Route::new(Method::POST, "/user/signout", sign_out),
        Route::new(Method::GET, "/me", me),
        Route::new(Method::POST, "/me/password", change_password),
        Route::new(Method::POST, "/token/refresh", refresh),
    ]
}

/// Shows that users of this server sign in with passwords. It comes before the body of a request, so that nothing else
/// is checked in vain.
struct Passwords;

impl FromRequestParts<Arc<App>> for Passwords {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, app: &Arc<App>) -> Result<Passwords, ApiError> {
        match app.settings.password_sign_in {
            true => Ok(Passwords),
            false => Err(ApiError::new(
                Code::PasswordSignInOff,
                "nobody signs in with a password here; sign in as your organisation does",
            )),
        }
    }
}

/// Shows that people may create accounts, at least with an invite.
struct OpenToSome;

impl FromRequestParts<Arc<App>> for OpenToSome {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, app: &Arc<App>) -> Result<OpenToSome, ApiError> {
        match app.settings.sign_up {
            SignUpPolicy::Open | SignUpPolicy::Invite => Ok(OpenToSome),
            SignUpPolicy::Closed => Err(ApiError::new(
                Code::SignUpClosed,
                "nobody can sign up here; ask the operator of this server for an account",
            )),
        }
    }
}

/// How users sign in, for the page. It is no secret.
async fn ways_to_sign_in(State(app): State<Arc<App>>) -> Response {
    let passwords = app.settings.password_sign_in;
    let sign_up = match app.settings.sign_up {
        SignUpPolicy::Open if passwords => "open",
        SignUpPolicy::Invite if passwords => "invite",
        _ => "closed",
    };
    let oidc = app.settings.oidc.as_ref().map(|oidc| json!({"name": oidc.name}));
    Json(json!({"password": passwords, "sign_up": sign_up, "oidc": oidc})).into_response()
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct SignUp {
    #[garde(custom(validation::new_username))]
    username: String,
    #[garde(custom(validation::new_email))]
    email: String,
    #[garde(custom(validation::new_password))]
    password: String,
    #[garde(inner(custom(validation::invite_code)))]
    invite: Option<String>,
}

impl Precheck for SignUp {}

async fn sign_up(
    _: Passwords,
    _: OpenToSome,
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    via_https: ViaHttps,
    Body(body): Body<SignUp>,
) -> Result<Response, ApiError> {
    let username_key = fold("username", &body.username)?;
    if body.invite.is_none() && app.settings.sign_up == SignUpPolicy::Invite {
        return Err(ApiError::new(
            Code::InviteRequired,
            "one needs an invite to sign up here; ask somebody who has an account, or the operator, for a link",
        ));
    }
    app.attempts.sign_up(client, Instant::now())?;
    if let Some(code) = &body.invite {
        // Before the password is hashed. It is judged again when the account is created.
        app.store.invite(code, client).await.map_err(ApiError::from_room)?;
    }
    let email_key = email::key(&body.email).unwrap_or_default();
    let password_hash = app.passwords.hash(client, Class::SignUp, normalize_password(&body.password)).await?;
    let username = shown_name(&body.username);
    let user = NewUser { username, username_key, email_key, password_hash, address: client };
    complete(async move {
        let created = match body.invite {
            None => app.store.create_user(user).await.map_err(InvitedUserError::User),
            Some(code) => create_invited_user(&app, user, &code).await,
        };
        let account = created.inspect_err(|error| {
            if matches!(error, InvitedUserError::User(CreateUserError::EmailTaken)) {
                app.attempts.email_was_taken(client, Instant::now());
            }
        })?;
        app.security_log.log(client, account.id, Event::SignedUp);
        Ok(sign_in_response(&app, &account, StatusCode::CREATED, via_https))
    })
    .await
}

/// Creates a user who has an invite, and shows in the room that the user has joined it.
async fn create_invited_user(app: &App, user: NewUser, code: &str) -> Result<Account, InvitedUserError> {
    let generation = app.store.generation();
    let InvitedUser { account, room, publication } = app.store.create_invited_user(user, code).await?;
    if let (Some((room, _)), Some(publication)) = (room, publication) {
        app.chat.learn(room, app.history_since(generation), publication);
    }
    Ok(account)
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct SignIn {
    #[garde(inner(custom(validation::name)))]
    username: Option<String>,
    #[garde(inner(custom(validation::known_email)))]
    email: Option<String>,
    #[garde(custom(validation::known_password))]
    password: String,
}

impl Precheck for SignIn {
    fn precheck(&self, _: &Limits) -> Result<(), FieldError> {
        match (&self.username, &self.email) {
            (None, None) => Err(FieldError::new("username", Code::MissingField, "a username or an email is required")),
            (Some(_), Some(_)) => {
                Err(FieldError::new("email", Code::InvalidField, "send a username or an email, not both"))
            }
            _ => Ok(()),
        }
    }
}

async fn sign_in(
    _: Passwords,
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    via_https: ViaHttps,
    headers: HeaderMap,
    Body(body): Body<SignIn>,
) -> Result<Response, ApiError> {
    let keys = match (&body.username, &body.email) {
        (Some(username), _) => vec![fold("username", username)?],
        // A text that is no address is nobody's. An account of an earlier version may have one nevertheless.
        (None, email) => email::stored_keys(email.as_deref().unwrap_or_default()),
    };
    let first = keys.first().map_or("", String::as_str);
    let tried = if body.username.is_some() { Tried::Username(first) } else { Tried::Email(first) };
    let mut known = None;
    for key in &keys {
        let login = if body.username.is_some() { Login::UsernameKey(key) } else { Login::EmailKey(key) };
        known = app.store.login(login, client).await?;
        if known.is_some() {
            break;
        }
    }
    let (account, hash) = match known {
        Some((account, hash)) => (Some(account), hash),
        None => (None, None),
    };
    let id = account.as_ref().map(|account| account.id);
    let is_own = id.filter(|id| cookie::account_of_browser(&app, &headers) == Some(*id));
    let tried = is_own.map_or(tried, Tried::Own);
    // Runs even without a user or a hash, so that the response takes as long and says the same.
    let form = verify(&app, client, tried, id, &body.password, hash.as_ref()).await?;
    match (account, form) {
        (Some(account), Some(form)) => {
            let normalized = normalize_password(&body.password);
            if let Some(hash) = hash.filter(|_| form != normalized) {
                let new_hash = app.passwords.hash(client, Class::Known, normalized).await?;
                app.store.replace_password_hash(account.id, &hash, &new_hash).await?;
            }
            if account.is_blocked {
                return Err(ApiError::new(Code::UserBlocked, BLOCKED));
            }
            Ok(sign_in_response(&app, &account, StatusCode::OK, via_https))
        }
        _ => Err(ApiError::new(Code::WrongCredentials, "the username, e-mail address or password is wrong")),
    }
}

/// The form of the password that is the account's, or `None`. Refuses to check it after too many wrong ones.
async fn verify(
    app: &App,
    client: IpAddr,
    tried: Tried<'_>,
    account: Option<UserId>,
    password: &str,
    hash: Option<&String>,
) -> Result<Option<String>, ApiError> {
    let attempt = app.attempts.sign_in(client, tried, account, Instant::now())?;
    let checked = verify_forms(app, client, attempt.class, password, hash).await;
    match checked {
        Ok(None) => attempt.was_wrong(Instant::now()),
        Ok(Some(_)) | Err(_) => attempt.was_not_wrong(),
    }
    Ok(checked?)
}

/// The form of the password that has this hash. Earlier versions hashed passwords as they were typed, so the usual
/// forms of the same text count too.
async fn verify_forms(
    app: &App,
    client: IpAddr,
    class: Class,
    password: &str,
    hash: Option<&String>,
) -> Result<Option<String>, PoolError> {
    let normalized = normalize_password(password);
    let mut forms = vec![normalized.clone()];
    for form in [password.to_owned(), decompose(&normalized)] {
        if !forms.contains(&form) {
            forms.push(form);
        }
    }
    for form in forms {
        if app.passwords.verify(client, class, form.clone(), hash.cloned()).await? {
            return Ok(Some(form));
        }
    }
    Ok(None)
}

async fn sign_out(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    ViaHttps(via_https): ViaHttps,
    auth: Authenticated,
) -> Result<Response, ApiError> {
    complete(async move {
        let revocation = app.store.revoke_tokens(auth.user.id).await?.ok_or_else(ApiError::user_gone)?;
        app.chat.revoke(revocation).await;
        app.security_log.log(client, auth.user.id, Event::SignedOut);
        let mut response = Json(json!({})).into_response();
        cookie::clear(&mut response, via_https);
        Ok(response)
    })
    .await
}

async fn me(State(app): State<Arc<App>>, auth: Authenticated) -> Result<Response, ApiError> {
    let account = auth.account(&app).await?;
    let text_limit_bytes = app.settings.limits.text_limit_bytes;
    Ok(Json(json!({"user": AccountObject::from(&account), "text_limit_bytes": text_limit_bytes})).into_response())
}

async fn refresh(
    State(app): State<Arc<App>>,
    ViaHttps(via_https): ViaHttps,
    Refreshing { account, signed_in_at, has_cookie }: Refreshing,
) -> Response {
    let mut response = Json(token_body(&app, &account, signed_in_at)).into_response();
    if has_cookie {
        cookie::set(&mut response, &app, &account, signed_in_at, via_https);
    }
    response
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
    _: Passwords,
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    via_https: ViaHttps,
    auth: Authenticated,
    Body(body): Body<ChangePassword>,
) -> Result<Response, ApiError> {
    let wrong = || ApiError::new(Code::WrongPassword, "this is not your current password").on("current_password");
    let account = auth.account(&app).await?;
    let key = fold("username", &account.username)?;
    let (account, hash) = app.store.login(Login::UsernameKey(&key), client).await?.ok_or_else(ApiError::user_gone)?;
    let Some(hash) = hash else {
        return Err(ApiError::new(Code::NoPassword, "this account has no password; `uproar password` sets one"));
    };
    let (tried, id) = (Tried::Own(account.id), Some(account.id));
    if verify(&app, client, tried, id, &body.current_password, Some(&hash)).await?.is_none() {
        return Err(wrong());
    }
    let new_hash = app.passwords.hash(client, Class::Known, normalize_password(&body.new_password)).await?;
    complete(async move {
        // If two changes race, the second finds another hash than the one it has checked, and changes nothing.
        let changed = app.store.set_password(account.id, Some(&hash), &new_hash).await?;
        let revocation = changed.ok_or_else(wrong)?;
        app.chat.revoke(revocation).await;
        app.security_log.log(client, account.id, Event::ChangedPassword);
        let account = Account { token_generation: revocation.generation, ..account };
        // The session token in the cookie was revoked with the others.
        Ok(sign_in_response(&app, &account, StatusCode::OK, via_https))
    })
    .await
}

/// The response `{token,user}` to a user who has just given the password, with the cookies.
fn sign_in_response(app: &App, account: &Account, status: StatusCode, ViaHttps(via_https): ViaHttps) -> Response {
    let now = app.now_unix_s();
    let mut response = (status, Json(token_body(app, account, now))).into_response();
    cookie::set(&mut response, app, account, now, via_https);
    cookie::set_browser(&mut response, app, account, now, via_https);
    response
}

/// The body `{token,user}` with a fresh token.
fn token_body(app: &App, account: &Account, signed_in_at: u64) -> serde_json::Value {
    let limits = &app.settings.limits;
    let lifetime_s = limits.token_lifetime_ms / 1000;
    let term = Term::new(signed_in_at, app.now_unix_s(), lifetime_s, limits.sign_in_lifetime_ms / 1000);
    let token = app.tokens.issue(account, term);
    json!({"token": token, "user": AccountObject::from(account), "text_limit_bytes": limits.text_limit_bytes})
}
