//! The contents of a verified token.

use crate::UserId;
use std::sync::Arc;

/// The user and the validity of a token. Only code that has verified the token's signature creates one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `None` in a token whose maker does not read the database: `uproar token`, or another system. The user is then
    /// looked up, or created, by `identity`, or else by name.
    pub user: Option<UserId>,
    /// In a token of another system, the name that the user gets if they are created: a valid name for a new user.
    pub username: Arc<str>,
    /// Whom a token of another system is about. `None` in Uproar's own tokens.
    pub identity: Option<Arc<Identity>>,
    /// The user's token generation when the token was issued; `None` if `user` is.
    pub generation: Option<u32>,
    /// When the user signed in, in Unix seconds. Renewed tokens keep it. In a token without a user, it is when the
    /// token was made.
    pub signed_in_at: u64,
    /// Unix seconds. 0 in a token of another system that does not say it: such a token counts as older than every
    /// revocation.
    pub issued_at: u64,
    /// Unix seconds.
    pub expires_at: u64,
}

/// A user as another system knows them. Names can change there, and people can have the same one; these two stay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The system: the URL of an identity provider, or [`Identity::HMAC_ISSUER`].
    pub issuer: Arc<str>,
    /// The system's id of the user: 1 to [`Identity::SUBJECT_LIMIT_BYTES`] bytes, without control characters.
    pub subject: Arc<str>,
}

impl Identity {
    /// The issuer of all tokens that are signed with the key of `--auth-hmac-key-file`.
    pub const HMAC_ISSUER: &str = "hmac";
    /// The longest subject (OpenID Connect Core 1.0, section 2).
    pub const SUBJECT_LIMIT_BYTES: usize = 255;
}

/// Why a token is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired; sign in again")]
    Expired,
    #[error("the token is invalid; sign in to get a valid one")]
    Invalid,
    /// It may become valid: its key may be one that the provider has added.
    #[error("the key that verifies this token could not be fetched yet; try again")]
    KeyMissing,
}
