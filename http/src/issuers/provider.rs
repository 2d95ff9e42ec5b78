//! An identity provider: its keys, which all threads share, and the task that fetches them.

use super::keys::KeySet;
use super::payload::{Payload, SKEW_S};
use super::verify_signature;
use crate::signatures;
use jsonwebtoken::Header;
use serde::Deserialize;
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

/// Fetches documents from an identity provider.
#[async_trait::async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// The document at this URL, of at most this length.
    ///
    /// # Errors
    /// Why there is none, in one line for the log.
    async fn get(&self, url: &str, limit_bytes: usize) -> Result<Vec<u8>, String>;
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
    /// Whether a token asked for a key that is not there.
    is_key_missing: AtomicBool,
    key_missing: Notify,
}

/// The members of a provider's description that are needed.
#[derive(Deserialize)]
struct Description {
    issuer: String,
    jwks_uri: String,
}

impl Provider {
    /// A provider whose tokens name this issuer. It has no keys until [`keep_keys`] has fetched them.
    pub fn new(issuer: String) -> Provider {
        signatures::install();
        let (is_key_missing, key_missing) = (AtomicBool::new(false), Notify::new());
        Provider { issuer, keys: RwLock::default(), is_key_missing, key_missing }
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
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
                let document = client.get(&url, DOCUMENT_LIMIT_BYTES).await?;
                let description: Description = serde_json::from_slice(&document)
                    .map_err(|error| format!("{url} is no description of a provider: {error}"))?;
                // Otherwise somebody could pass off another provider's keys as this one's.
                if description.issuer != self.issuer {
                    return Err(format!("{url} describes another issuer: {}", description.issuer.escape_debug()));
                }
                description.jwks_uri
            }
        };
        let document = client.get(&url, DOCUMENT_LIMIT_BYTES).await?;
        self.set_keys(&document, clock.unix_s()).map_err(|error| format!("{url}: {error}"))
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
