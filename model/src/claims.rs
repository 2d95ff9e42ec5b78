//! What a verified token says.

use crate::UserId;
use std::sync::Arc;

/// Whose token it is and how long it is good. Made by whoever can verify a signature, read by everyone else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// None in a token minted by `uproar token`, which reads no database: the user is looked up, or created, by name.
    pub user: Option<UserId>,
    pub username: Arc<str>,
    /// The user's token generation when it was issued; none where `user` is none.
    pub generation: Option<u32>,
    /// Unix seconds.
    pub issued_at: u64,
    /// Unix seconds.
    pub expires_at: u64,
}

/// Why a token is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired; sign in again or refresh it in time")]
    Expired,
    #[error("the token is not valid here; sign in to get one")]
    Invalid,
}
