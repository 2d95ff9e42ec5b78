//! The claims in a token of another system (RFC 7519, section 4.1).

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Map, Value};
use uproar_model::{Identity, TokenError, clean_name};

/// By how much the clock of another system may differ from the database's, in seconds.
pub(super) const SKEW_S: u64 = 60;

/// The longest subject that becomes part of a name.
const SUBJECT_IN_NAME_LIMIT_BYTES: usize = 32;

/// The claims as they are in the token. The signature has been verified, and nothing else.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Payload(Map<String, Value>);

/// When a token is valid, in Unix seconds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// At most the present. 0: the token does not say it.
    pub issued_at: u64,
    pub expires_at: u64,
}

impl Payload {
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.0.get(claim)?.as_str()
    }

    pub fn issuer(&self) -> Option<&str> {
        self.text("iss")
    }

    /// The name in the claim that Centrifugo shows to other clients.
    pub fn info_name(&self) -> Option<&str> {
        self.0.get("info")?.get("name")?.as_str()
    }

    /// Fails unless the token is meant for this audience, alone or with others.
    pub fn require_audience(&self, audience: &str) -> Result<(), TokenError> {
        let is_meant = match self.0.get("aud") {
            Some(Value::String(only)) => only == audience,
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        };
        if is_meant { Ok(()) } else { Err(TokenError::Invalid) }
    }

    pub fn subject(&self) -> Result<&str, TokenError> {
        let is_valid = |subject: &&str| {
            (1..=Identity::SUBJECT_LIMIT_BYTES).contains(&subject.len()) && !subject.chars().any(char::is_control)
        };
        self.text("sub").filter(is_valid).ok_or(TokenError::Invalid)
    }

    /// When the token was issued, as it says.
    pub fn issued_at(&self) -> Result<Option<u64>, TokenError> {
        self.time("iat")
    }

    /// Checks the times; the expiry comes last.
    pub fn times(&self, now: u64) -> Result<Times, TokenError> {
        let is_future = |time: Option<u64>| time.is_some_and(|time| time > now.saturating_add(SKEW_S));
        let issued_at = self.issued_at()?;
        let expires_at = self.time("exp")?.ok_or(TokenError::Invalid)?;
        if is_future(issued_at) || is_future(self.time("nbf")?) {
            return Err(TokenError::Invalid);
        }
        if expires_at.saturating_add(SKEW_S) <= now {
            return Err(TokenError::Expired);
        }
        // If the other clock is ahead, the token would otherwise outlive a revocation by that.
        Ok(Times { issued_at: issued_at.unwrap_or(0).min(now), expires_at })
    }

    /// A number of seconds, which may have a fraction. `None`: there is no such claim.
    fn time(&self, claim: &str) -> Result<Option<u64>, TokenError> {
        match self.0.get(claim) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                // Larger numbers are no times, and 2^53 is the last one before they have gaps.
                Some(seconds) if (0.0..=9_007_199_254_740_992.0).contains(&seconds) => Ok(Some(seconds as u64)),
                _ => Err(TokenError::Invalid),
            },
        }
    }
}

/// The name for a new user: the first of these texts that can be made one. If there is none, a name that is made of the
/// subject, or of its hash if the subject is no short word: it may be an e-mail address, or unreadable.
pub(super) fn username<'a>(texts: impl IntoIterator<Item = &'a str>, issuer: &str, subject: &str) -> String {
    if let Some(name) = texts.into_iter().find_map(clean_name) {
        return name;
    }
    let is_word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if subject.len() <= SUBJECT_IN_NAME_LIMIT_BYTES && subject.bytes().all(is_word) {
        return format!("user-{subject}");
    }
    let hash = digest(&SHA256, format!("{issuer}\0{subject}").as_bytes());
    let hash: String = hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("user-{hash}")
}
