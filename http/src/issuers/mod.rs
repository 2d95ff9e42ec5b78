//! Tokens that other systems have issued: an identity provider, whose public keys are fetched, or a backend that shares
//! a key with this server. A valid one says who its user is in that system; the store knows which user of Uproar that
//! is.
//!
//! Verifying is a pure function: it needs the token, the time, and keys that are in memory. A task, [`keep_keys`],
//! fetches these and replaces them.

mod keys;
mod payload;
mod provider;

pub(crate) use provider::{Description, IdToken};
pub use provider::{Fetch, FetchRequest, Fetched, KeyLocation, Provider, SharedFetch, keep_keys};

use crate::signatures;
use crate::tokens::KEY_MIN_BYTES;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header, Validation, decode_header};
use payload::Payload;
use std::sync::Arc;
use uproar_model::{Claims, Identity, TokenError};

/// The longest token that is parsed.
const TOKEN_LIMIT_BYTES: usize = 8 * 1024;

/// What `typ` in the header of a token may be. The tokens for other purposes say so there (RFC 8725, section 3.11).
const TYPES: [&str; 3] = ["JWT", "at+jwt", "application/at+jwt"];

/// The claims that may hold a name for the user, best first, unless the operator names one.
pub(super) const USERNAME_CLAIMS: [&str; 2] = ["preferred_username", "name"];

/// Whose tokens are accepted besides Uproar's own.
#[derive(Default)]
pub struct Issuers {
    hmac: Option<DecodingKey>,
    provider: Option<(Arc<Provider>, String)>,
    username_claim: Option<String>,
}

/// A key of `--auth-hmac-key-file` that is too short.
#[derive(Debug, thiserror::Error)]
#[error("a key must have at least {KEY_MIN_BYTES} bytes, not {0}; make one with `openssl rand -hex 32`")]
pub struct HmacKeyTooShort(usize);

impl Issuers {
    pub fn new() -> Issuers {
        signatures::install();
        Issuers::default()
    }

    /// Accepts tokens that are signed with this key by HMAC-SHA-256, as backends make them for Centrifugo. It should be
    /// random, because anyone who guesses it can be any user.
    ///
    /// # Errors
    /// If the key is shorter than the hash (RFC 7518, section 3.2).
    pub fn with_hmac_key(mut self, key: &[u8]) -> Result<Issuers, HmacKeyTooShort> {
        if key.len() < KEY_MIN_BYTES {
            return Err(HmacKeyTooShort(key.len()));
        }
        self.hmac = Some(DecodingKey::from_secret(key));
        Ok(self)
    }

    /// Accepts the tokens that this provider issues for this audience.
    pub fn with_provider(mut self, provider: Arc<Provider>, audience: String) -> Issuers {
        self.provider = Some((provider, audience));
        self
    }

    /// Takes the name of a new user from this claim instead of the usual ones.
    pub fn with_username_claim(mut self, claim: String) -> Issuers {
        self.username_claim = Some(claim);
        self
    }

    /// The claims of a token that one of these systems has issued and that is valid at `now` (Unix seconds). The caller
    /// must look up the user, and check whether the token has been revoked. Returns `Expired` only if everything else
    /// about the token is valid.
    pub(crate) fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_LIMIT_BYTES {
            return Err(TokenError::Invalid);
        }
        let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
        check_header(&header)?;
        match (header.alg.family(), &self.hmac, &self.provider) {
            (AlgorithmFamily::Hmac, Some(key), _) => self.verify_hmac(key, token, &header, now),
            (AlgorithmFamily::Hmac, None, _) => Err(TokenError::Invalid),
            (_, _, Some((provider, audience))) => {
                let payload = provider.verify(token, &header, now)?;
                payload.require_audience(audience)?;
                self.claims(&payload, provider.issuer(), now)
            }
            (_, _, None) => Err(TokenError::Invalid),
        }
    }

    fn verify_hmac(&self, key: &DecodingKey, token: &str, header: &Header, now: u64) -> Result<Claims, TokenError> {
        if header.alg != Algorithm::HS256 {
            return Err(TokenError::Invalid);
        }
        let payload = verify_signature(token, key, &[Algorithm::HS256])?;
        // Such a token may be one of Uproar's own that was rejected, if both are signed with the same key.
        if payload.issuer() == Some(crate::tokens::ISSUER) {
            return Err(TokenError::Invalid);
        }
        self.claims(&payload, Identity::HMAC_ISSUER, now)
    }

    fn claims(&self, payload: &Payload, issuer: &str, now: u64) -> Result<Claims, TokenError> {
        let subject = payload.subject()?;
        let times = payload.times(now)?;
        let usual = USERNAME_CLAIMS.iter().copied().take(if self.username_claim.is_some() { 0 } else { usize::MAX });
        let info = self.username_claim.is_none().then(|| payload.info_name()).flatten();
        let named = self.username_claim.as_deref().into_iter().chain(usual).filter_map(|claim| payload.text(claim));
        let username = payload::username(info.into_iter().chain(named), issuer, subject);
        let identity = Identity { issuer: issuer.into(), subject: subject.into() };
        Ok(Claims {
            user: None,
            username: username.into(),
            identity: Some(Arc::new(identity)),
            generation: None,
            signed_in_at: times.issued_at,
            issued_at: times.issued_at,
            expires_at: times.expires_at,
        })
    }
}

/// Fails if the header asks for something that is not understood here (RFC 7515, section 4.1.11), or if the token is
/// for another purpose.
fn check_header(header: &Header) -> Result<(), TokenError> {
    let is_usual =
        header.typ.as_ref().is_none_or(|typ| TYPES.iter().any(|expected| expected.eq_ignore_ascii_case(typ)));
    match is_usual && header.crit.is_none() && header.enc.is_none() && header.zip.is_none() {
        true => Ok(()),
        false => Err(TokenError::Invalid),
    }
}

/// The payload of a token that this key signed by one of these algorithms. Nothing in it has been checked.
fn verify_signature(token: &str, key: &DecodingKey, algorithms: &[Algorithm]) -> Result<Payload, TokenError> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.algorithms = algorithms.to_vec();
    // [`Payload`] checks the claims.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let data = jsonwebtoken::decode::<Payload>(token, key, &validation).map_err(|_| TokenError::Invalid)?;
    Ok(data.claims)
}

#[cfg(test)]
mod tests;
