//! The contents of a verified token.

use crate::UserId;
use std::sync::Arc;

/// The user and the validity of a token. Only code that has verified the token's signature creates one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `None` in a token made by `uproar token`, which does not read the database. The user is then looked up, or
    /// created, by name.
    pub user: Option<UserId>,
    pub username: Arc<str>,
    /// The user's token generation when the token was issued; `None` if `user` is.
    pub generation: Option<u32>,
    /// When the user signed in with a password, in Unix seconds. Renewed tokens keep it. In a token without a user, it
    /// is when the token was made.
    pub signed_in_at: u64,
    /// Unix seconds.
    pub issued_at: u64,
    /// Unix seconds.
    pub expires_at: u64,
}

/// Why a token is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired; sign in again")]
    Expired,
    #[error("the token is invalid; sign in to get a valid one")]
    Invalid,
}
