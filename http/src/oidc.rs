//! Signing in on the page with an identity provider: the authorization code flow of OpenID Connect Core 1.0 with PKCE
//! (RFC 7636).
//!
//! `GET /user/signin/oidc` sends the browser to the provider, which sends it back to the callback with a code. What
//! must be remembered in between is in a signed cookie, so that any node can finish what another has begun.

use crate::app::{App, Route};
use crate::cookie;
use crate::errors::{ApiError, Code};
use crate::input::{ClientAddress, ViaHttps};
use crate::issuers::{Description, FetchRequest, IdToken};
use crate::security_log::Event;
use crate::settings::OidcSettings;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use form_urlencoded::Serializer;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uproar_model::fairness::Prefix;
use uproar_model::{Identity, TokenError};
use uproar_store::Account;

/// Where the provider sends the browser back to.
pub const CALLBACK_PATH: &str = "/user/signin/oidc/callback";

/// How long a user may take to sign in at the provider, in seconds.
pub(crate) const PENDING_S: u64 = 600;
/// The longest answer of a provider that is read.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024;
/// How long to wait for a key of the provider that is not known yet.
const KEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEY_PAUSE: Duration = Duration::from_millis(200);
/// The audience of the token in the cookie.
const PENDING: &str = "oidc";

/// What is asked of the provider: who the user is, and the name.
const SCOPE: &str = "openid profile";

/// What the cookie holds between the two requests.
#[derive(Serialize, Deserialize)]
struct Pending {
    /// Comes back with the code: so nobody can make a browser finish a sign-in that it has not begun.
    state: String,
    /// Comes back in the ID token: so nobody can pass off a token of another sign-in.
    nonce: String,
    /// What the code can be exchanged with.
    verifier: String,
}

/// Why a sign-in came to nothing, for the page, which has a text for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// The user has refused, or may not use this application.
    Refused,
    /// The user is blocked on this server.
    Blocked,
    /// It took too long, or was begun in another browser.
    Late,
    /// The provider or the database did not answer, or there are too many sign-ins at once.
    Unavailable,
    /// The answer of the provider is not right.
    Wrong,
}

impl Failed {
    fn as_str(self) -> &'static str {
        match self {
            Failed::Refused => "refused",
            Failed::Blocked => "blocked",
            Failed::Late => "late",
            Failed::Unavailable => "unavailable",
            Failed::Wrong => "wrong",
        }
    }
}

/// A failure, and what the log says about it.
type Failure = (Failed, String);

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/user/signin/oidc", begin).with_query(),
        Route::new(Method::GET, CALLBACK_PATH, finish).with_query(),
    ]
}

fn settings(app: &App) -> Result<&OidcSettings, ApiError> {
    app.settings.oidc.as_ref().ok_or_else(|| {
        ApiError::new(Code::NotFound, "users of this server don't sign in with an identity provider (--oidc-issuer)")
    })
}

/// Sends the browser to the provider.
async fn begin(State(app): State<Arc<App>>, ViaHttps(via_https): ViaHttps) -> Result<Response, ApiError> {
    let oidc = settings(&app)?;
    let description = oidc.provider.description();
    let Some(endpoint) = description.as_ref().and_then(|known| known.authorization_endpoint.as_ref()) else {
        return Ok(back(Err(Failed::Unavailable)));
    };
    let pending = Pending { state: random()?, nonce: random()?, verifier: random()? };
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&pending.verifier));
    let query = Serializer::new(String::new())
        .append_pair("response_type", "code")
        .append_pair("client_id", &oidc.client_id)
        .append_pair("redirect_uri", &oidc.redirect_uri())
        .append_pair("scope", SCOPE)
        .append_pair("state", &pending.state)
        .append_pair("nonce", &pending.nonce)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256")
        .finish();
    // An endpoint may have a query of its own (RFC 6749, section 3.1).
    let separator = if endpoint.contains('?') { '&' } else { '?' };
    let mut response = redirect(&format!("{endpoint}{separator}{query}"))?;
    let cookie = app.tokens.seal(PENDING, app.now_unix_s() + PENDING_S, &pending);
    cookie::set_pending(&mut response, &cookie, PENDING_S, via_https || oidc.is_https());
    Ok(response)
}

/// The provider has sent the browser back.
async fn finish(
    State(app): State<Arc<App>>,
    ClientAddress(client): ClientAddress,
    via_https: ViaHttps,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let oidc = settings(&app)?;
    let mut response = match sign_in(&app, oidc, Prefix::of(client), &headers, &uri).await {
        Ok(account) => {
            let now = app.now_unix_s();
            let mut response = back(Ok(()));
            cookie::set(&mut response, &app, &account, now, via_https.0 || oidc.is_https());
            app.security_log.log(client, account.id, Event::SignedInWithProvider);
            response
        }
        Err((failed, why)) => {
            app.exchanges.log_failure(oidc.provider.issuer(), failed.as_str(), &why);
            back(Err(failed))
        }
    };
    cookie::set_pending(&mut response, "", 0, via_https.0 || oidc.is_https());
    Ok(response)
}

async fn sign_in(
    app: &App,
    oidc: &OidcSettings,
    client: Prefix,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<Account, Failure> {
    // Providers send parameters of their own, too.
    let parameters: Vec<(String, String)> =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let parameter = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let late = || (Failed::Late, "the browser does not show that it has begun this sign-in".to_owned());
    let pending =
        cookie::pending(headers).and_then(|token| app.tokens.unseal::<Pending>(PENDING, token, app.now_unix_s()));
    let pending = pending.ok_or_else(late)?;
    if parameter("state") != Some(&pending.state) {
        return Err(late());
    }
    // Another provider must not pass off its answer as this one's (RFC 9207).
    if parameter("iss").is_some_and(|issuer| issuer != oidc.provider.issuer()) {
        return Err((Failed::Wrong, "the answer is from another provider".to_owned()));
    }
    if let Some(error) = parameter("error") {
        let failed = match error {
            "access_denied" | "login_required" | "interaction_required" | "consent_required" => Failed::Refused,
            "temporarily_unavailable" => Failed::Unavailable,
            _ => Failed::Wrong,
        };
        let text = parameter("error_description").unwrap_or_default();
        return Err((failed, format!("the provider answers {error}: {text}")));
    }
    let code = parameter("code").ok_or_else(|| (Failed::Wrong, "the answer has no code".to_owned()))?;
    let too_many = |what: &str| (Failed::Unavailable, what.to_owned());
    let _place = app.exchanges.enter(client, Instant::now()).map_err(too_many)?;

    let description = oidc.provider.description();
    let description = description.ok_or_else(|| too_many("the provider has not described itself yet"))?;
    let answer = oidc.exchange(&description, code, &pending.verifier).await?;
    let text = |name: &str| answer.get(name).and_then(Value::as_str);
    let token = text("id_token").ok_or_else(|| (Failed::Wrong, "the answer to the code has no ID token".to_owned()))?;
    let token = oidc.verify(app, token, &pending.nonce).await?;
    let identity = Identity { issuer: oidc.provider.issuer().into(), subject: token.subject.as_str().into() };
    let unavailable = |error: &dyn Display| (Failed::Unavailable, error.to_string());
    if let Some(account) = app.store.account_of(&identity).await.map_err(|error| unavailable(&error))? {
        return match account.is_blocked {
            true => Err((Failed::Blocked, format!("the user {} is blocked", account.id))),
            false => Ok(account),
        };
    }
    // Many providers tell the name only there.
    let profile = match (&description.userinfo_endpoint, text("access_token")) {
        (Some(url), Some(access)) if !token.has_name() => oidc.profile(url, access, &token.subject).await?,
        _ => None,
    };
    let username = token.username(profile.as_ref(), oidc.provider.issuer());
    app.store.ensure_identity(&identity, &username).await.map_err(|error| unavailable(&error))
}

impl OidcSettings {
    fn redirect_uri(&self) -> String {
        format!("{}{CALLBACK_PATH}", self.public_url)
    }

    fn is_https(&self) -> bool {
        self.public_url.starts_with("https://")
    }

    /// Exchanges the code for tokens (RFC 6749, section 4.1.3).
    async fn exchange(
        &self,
        description: &Description,
        code: &str,
        verifier: &str,
    ) -> Result<Map<String, Value>, Failure> {
        let missing = || (Failed::Wrong, "the provider's description names no token endpoint".to_owned());
        let url = description.token_endpoint.as_deref().ok_or_else(missing)?;
        let (authorization, form) = self.code_form(description, code, verifier);
        let authorization = authorization.as_deref();
        let request = FetchRequest { url, authorization, form: Some(form), limit_bytes: ANSWER_LIMIT_BYTES };
        let answer = self.client.send(request).await.map_err(|error| (Failed::Unavailable, error))?;
        let body: Map<String, Value> = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status == 200 {
            return Ok(body);
        }
        let error = body.get("error").and_then(Value::as_str).unwrap_or_default();
        let failed = if answer.status >= 500 { Failed::Unavailable } else { Failed::Wrong };
        Err((failed, format!("the provider refuses the code with status {}: {error}", answer.status)))
    }

    /// The header `Authorization`, if there is one, and the body of the request that exchanges a code.
    fn code_form(&self, description: &Description, code: &str, verifier: &str) -> (Option<String>, String) {
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.redirect_uri())
            .append_pair("code_verifier", verifier);
        let mut authorization = None;
        match &self.client_secret {
            None => _ = form.append_pair("client_id", &self.client_id),
            Some(secret) if description.wants_secret_in_body() => {
                form.append_pair("client_id", &self.client_id).append_pair("client_secret", secret);
            }
            Some(secret) => {
                // Each is encoded as in a form (RFC 6749, section 2.3.1).
                let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let credentials = format!("{}:{}", encode(&self.client_id), encode(secret));
                authorization = Some(format!("Basic {}", STANDARD.encode(credentials)));
            }
        }
        (authorization, form.finish())
    }

    /// The contents of the ID token. Waits a moment for a key that is not known yet.
    async fn verify(&self, app: &App, token: &str, nonce: &str) -> Result<IdToken, Failure> {
        let begun = Instant::now();
        loop {
            match self.provider.verify_id_token(token, &self.client_id, nonce, app.now_unix_s()) {
                Ok(token) => return Ok(token),
                Err(TokenError::KeyMissing) if begun.elapsed() < KEY_TIMEOUT => tokio::time::sleep(KEY_PAUSE).await,
                Err(TokenError::KeyMissing) => {
                    return Err((Failed::Unavailable, "the key of the ID token could not be fetched".to_owned()));
                }
                Err(error) => return Err((Failed::Wrong, format!("the ID token is not right: {error:?}"))),
            }
        }
    }

    /// What the provider says about the user (OpenID Connect Core 1.0, section 5.3). `None`: it says nothing.
    async fn profile(&self, url: &str, access: &str, subject: &str) -> Result<Option<Map<String, Value>>, Failure> {
        let bearer = format!("Bearer {access}");
        let request = FetchRequest { url, authorization: Some(&bearer), form: None, limit_bytes: ANSWER_LIMIT_BYTES };
        let answer = self.client.send(request).await.map_err(|error| (Failed::Unavailable, error))?;
        let profile: Map<String, Value> = serde_json::from_slice(&answer.body).unwrap_or_default();
        // It could be about somebody else otherwise.
        let is_of_user = answer.status == 200 && profile.get("sub").and_then(Value::as_str) == Some(subject);
        Ok(is_of_user.then_some(profile))
    }
}

/// Sends the browser back to the page, which says what went wrong.
fn back(result: Result<(), Failed>) -> Response {
    let location = match result {
        Ok(()) => "/".to_owned(),
        Err(failed) => format!("/?sign-in={}", failed.as_str()),
    };
    redirect(&location).unwrap_or_else(IntoResponse::into_response)
}

fn redirect(location: &str) -> Result<Response, ApiError> {
    let location = HeaderValue::from_str(location).map_err(|_| ApiError::internal())?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response())
}

/// 256 random bits as text.
fn random() -> Result<String, ApiError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system can't provide random numbers");
        ApiError::internal()
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
