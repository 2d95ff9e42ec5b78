//! An identity provider: its keys, which all threads share, and the task that fetches them.

use super::keys::KeySet;
use super::payload::{self, Payload, SKEW_S};
use super::{TOKEN_LIMIT_BYTES, USERNAME_CLAIMS, check_header, verify_signature};
use crate::signatures;
use jsonwebtoken::{Header, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use uproar_model::{Clock, TokenError};

/// How long keys are used while they can't be fetched again, in seconds.
const KEPT_S: u64 = 24 * 3600;
/// How long keys are used before they are fetched again although nobody asks for it: so long may a key that the
/// provider has withdrawn still be accepted.
const FRESH: Duration = Duration::from_secs(600);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// The longest document of a provider that is read.
const DOCUMENT_LIMIT_BYTES: usize = 256 * 1024;

/// Sends requests to an identity provider.
#[async_trait::async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// The answer to a request, whatever its status.
    ///
    /// # Errors
    /// Why there is none, or none of at most that length: one line for the log, with the URL.
    async fn send(&self, request: FetchRequest<'_>) -> Result<Fetched, String>;
}

/// A request for JSON.
#[derive(Clone, Debug)]
pub struct FetchRequest<'a> {
    pub url: &'a str,
    /// The header `Authorization`.
    pub authorization: Option<&'a str>,
    /// The fields of a form to post. `None`: the request is a GET.
    pub form: Option<String>,
    /// The longest answer that is read.
    pub limit_bytes: usize,
}

/// What a provider has answered.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub status: u16,
    pub body: Vec<u8>,
}

/// The client that is shared by all that fetch documents.
pub type SharedFetch = Arc<dyn Fetch>;

/// Where the keys of a provider are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLocation {
    /// Its own description says it (OpenID Connect Discovery 1.0, section 4).
    Discovered,
    /// At this URL.
    Url(String),
}

/// A provider and its keys.
#[derive(Debug)]
pub struct Provider {
    issuer: String,
    keys: RwLock<Arc<KeySet>>,
    /// How the provider describes itself. `None`: it has not been fetched, or need not be.
    description: RwLock<Option<Arc<Description>>>,
    /// Whether a token asked for a key that is not there.
    is_key_missing: AtomicBool,
    key_missing: Notify,
}

/// The members of a provider's description that are needed.
#[derive(Debug, Deserialize)]
pub(crate) struct Description {
    issuer: String,
    jwks_uri: String,
    pub authorization_endpoint: Option<String>,
    pub token_endpoint: Option<String>,
    pub userinfo_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

impl Description {
    /// Whether a client can send its secret only in the body of a request. Usually it is in a header.
    pub fn wants_secret_in_body(&self) -> bool {
        let methods = self.token_endpoint_auth_methods_supported.as_deref().unwrap_or_default();
        let has = |name: &str| methods.iter().any(|method| method == name);
        has("client_secret_post") && !has("client_secret_basic")
    }
}

/// The contents of an ID token that is valid and was made for this sign-in.
#[derive(Debug)]
pub(crate) struct IdToken {
    pub subject: String,
    payload: Payload,
}

impl IdToken {
    /// Whether it has a name for the user.
    pub fn has_name(&self) -> bool {
        self.names().next().is_some()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        USERNAME_CLAIMS.iter().filter_map(|claim| self.payload.text(claim))
    }

    /// The name for a new user. `profile`: what the provider says about the user elsewhere.
    pub fn username(&self, profile: Option<&Map<String, Value>>, issuer: &str) -> String {
        let others = USERNAME_CLAIMS.iter().filter_map(|claim| profile?.get(*claim)?.as_str());
        payload::username(self.names().chain(others), issuer, &self.subject)
    }
}

impl Provider {
    /// A provider whose tokens name this issuer. It has no keys until [`keep_keys`] has fetched them.
    pub fn new(issuer: String) -> Provider {
        signatures::install();
        let (is_key_missing, key_missing) = (AtomicBool::new(false), Notify::new());
        Provider { issuer, keys: RwLock::default(), description: RwLock::default(), is_key_missing, key_missing }
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What the provider has said about itself.
    pub(crate) fn description(&self) -> Option<Arc<Description>> {
        self.description.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The contents of an ID token (OpenID Connect Core 1.0, section 3.1.3.7) that answers a request with this nonce.
    pub(crate) fn verify_id_token(
        &self,
        token: &str,
        client_id: &str,
        nonce: &str,
        now: u64,
    ) -> Result<IdToken, TokenError> {
        if token.len() > TOKEN_LIMIT_BYTES {
            return Err(TokenError::Invalid);
        }
        let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
        check_header(&header)?;
        let payload = self.verify(token, &header, now)?;
        payload.require_audience(client_id)?;
        let is_authorized = payload.text("azp").is_none_or(|party| party == client_id);
        if !is_authorized || payload.text("nonce") != Some(nonce) {
            return Err(TokenError::Invalid);
        }
        let subject = payload.subject()?.to_owned();
        payload.times(now)?;
        Ok(IdToken { subject, payload })
    }

    /// Replaces the keys by those in this document, fetched now (Unix seconds). Returns how many there are.
    ///
    /// # Errors
    /// If the document is no set of keys; the present ones are then kept.
    pub(super) fn set_keys(&self, document: &[u8], now: u64) -> Result<usize, String> {
        let (keys, unused) = KeySet::parse(document, now)?;
        let issuer = &self.issuer;
        tracing::debug!(issuer, keys = keys.len(), unused, "fetched the keys of the identity provider");
        if keys.len() == 0 {
            tracing::warn!(issuer, unused, "the identity provider has no keys that can verify tokens");
        }
        let count = keys.len();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(count)
    }

    /// The payload of a token of this provider, of which only the signature and the issuer have been checked.
    pub(super) fn verify(&self, token: &str, header: &Header, now: u64) -> Result<Payload, TokenError> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let Some(fetched_at) = keys.fetched_at.filter(|at| now <= at.saturating_add(KEPT_S)) else {
            return Err(TokenError::KeyMissing);
        };
        let found = keys.find(header.kid.as_deref(), header.alg);
        let verified = found.iter().find_map(|key| verify_signature(token, &key.decoding, &key.algorithms).ok());
        let Some(payload) = verified else {
            let may_be_new = header.kid.as_deref().is_none_or(|id| !keys.has_id(id));
            return Err(if may_be_new { self.miss_key(token, fetched_at, now) } else { TokenError::Invalid });
        };
        match payload.issuer() == Some(&*self.issuer) {
            true => Ok(payload),
            false => Err(TokenError::Invalid),
        }
    }

    /// No key fits the token. If it was issued after the keys were fetched, its key may be a new one.
    fn miss_key(&self, token: &str, fetched_at: u64, now: u64) -> TokenError {
        // It proves nothing, as anybody can have written it.
        let payload = jsonwebtoken::dangerous::insecure_decode_claims::<Payload>(token).ok();
        let payload = payload.filter(|payload| payload.issuer() == Some(&*self.issuer));
        let Some(Ok(issued_at)) = payload.map(|payload| payload.issued_at()) else { return TokenError::Invalid };
        if issued_at.unwrap_or(now).saturating_add(SKEW_S) < fetched_at {
            return TokenError::Invalid;
        }
        if !self.is_key_missing.swap(true, Ordering::AcqRel) {
            self.key_missing.notify_one();
        }
        TokenError::KeyMissing
    }

    /// Fetches the keys, in place of those that are there. Returns how many there are.
    ///
    /// # Errors
    /// Why they can't be had, in one line. The keys that are there stay.
    pub async fn fetch(&self, location: &KeyLocation, client: &SharedFetch, clock: &Clock) -> Result<usize, String> {
        let url = match location {
            KeyLocation::Url(url) => url.clone(),
            KeyLocation::Discovered => {
                let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
                let document = get(client, &url).await?;
                let description: Description = serde_json::from_slice(&document)
                    .map_err(|error| format!("{url} is no description of a provider: {error}"))?;
                // Otherwise somebody could pass off another provider's keys as this one's.
                if description.issuer != self.issuer {
                    return Err(format!("{url} describes another issuer: {}", description.issuer.escape_debug()));
                }
                let url = description.jwks_uri.clone();
                *self.description.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(description));
                url
            }
        };
        let document = get(client, &url).await?;
        self.set_keys(&document, clock.unix_s()).map_err(|error| format!("{url}: {error}"))
    }
}

async fn get(client: &SharedFetch, url: &str) -> Result<Vec<u8>, String> {
    let request = FetchRequest { url, authorization: None, form: None, limit_bytes: DOCUMENT_LIMIT_BYTES };
    let answer = client.send(request).await?;
    match answer.status {
        200 => Ok(answer.body),
        status => Err(format!("{}: the answer has status {status}", url.escape_debug())),
    }
}

/// Keeps a provider's keys up to date until it is dropped: fetches them at once, from time to time, and when a token
/// has another key, but then at most once per `interval`.
pub async fn keep_keys(
    provider: Arc<Provider>,
    location: KeyLocation,
    client: SharedFetch,
    clock: Clock,
    interval: Duration,
) {
    let issuer = &provider.issuer;
    let mut retry = FIRST_RETRY;
    let mut reported = None;
    loop {
        let begun = Instant::now();
        provider.is_key_missing.store(false, Ordering::Release);
        match provider.fetch(&location, &client, &clock).await {
            Ok(_) => {
                retry = FIRST_RETRY;
                if reported.take().is_some() {
                    tracing::info!(issuer, "the keys of the identity provider can be fetched again");
                }
                if timeout_at(begun + FRESH, provider.key_missing.notified()).await.is_ok() {
                    tracing::info!(issuer, "a token names a key that is not known; the keys are fetched again");
                }
                sleep_until(begun + interval).await;
            }
            Err(error) => {
                if reported.as_ref() != Some(&error) {
                    tracing::warn!(issuer, "the keys of the identity provider can't be fetched: {error}");
                    reported = Some(error);
                }
                sleep(retry).await;
                retry = (2 * retry).min(LONGEST_RETRY);
            }
        }
    }
}
