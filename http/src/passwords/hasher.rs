//! Hashes of passwords: argon2id (RFC 9106).

use crate::validation;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use uproar_core::limits::Limits;

/// The cost of one check. The default is the OWASP recommendation for argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for PasswordCost {
    fn default() -> PasswordCost {
        PasswordCost { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

impl PasswordCost {
    /// The lowest cost that argon2 allows. For tests.
    pub const CHEAPEST: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };
}

/// Hashes and verifies passwords. Its methods block.
pub trait Hasher: Send + Sync + 'static {
    /// Hashes a password with a new random salt. Returns the hash in PHC form.
    fn hash(&self, password: &str) -> Result<String, HashError>;

    /// Whether the hash is that of this password.
    fn verify(&self, password: &str, hash: &str) -> Result<bool, HashError>;
}

/// Hashes a new password at the default cost. The error says in words what is wrong with the password.
pub fn hash_new(password: &str) -> Result<String, String> {
    validation::new_password(password, &Limits::default()).map_err(|error| format!("the password {error}"))?;
    let hash = Argon2id::new(PasswordCost::default()).and_then(|hasher| hasher.hash(password));
    hash.map_err(|error| error.to_string())
}

/// Why a hash could not be made or read. Never contains a password or a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("password hash: {0}")]
pub struct HashError(pub String);

/// The hasher of the server.
pub struct Argon2id(Argon2<'static>);

impl Argon2id {
    pub fn new(cost: PasswordCost) -> Result<Argon2id, HashError> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None).map_err(hash_error)?;
        Ok(Argon2id(Argon2::new(Algorithm::Argon2id, Version::V0x13, params)))
    }
}

impl Hasher for Argon2id {
    fn hash(&self, password: &str) -> Result<String, HashError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(hash_error)?;
        Ok(self.0.hash_password_with_salt(password.as_bytes(), &salt).map_err(hash_error)?.to_string())
    }

    fn verify(&self, password: &str, hash: &str) -> Result<bool, HashError> {
        let hash = PasswordHash::new(hash).map_err(hash_error)?;
        match self.0.verify_password(password.as_bytes(), &hash) {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(hash_error(error)),
        }
    }
}

fn hash_error(error: impl std::fmt::Display) -> HashError {
    HashError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_cost_is_the_recommended_one() {
        let hasher = Argon2id::new(PasswordCost::default()).unwrap();
        assert!(hasher.hash("x").unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(Argon2id::new(PasswordCost { memory_kib: 1, passes: 1, lanes: 1 }).is_err());
    }
}
