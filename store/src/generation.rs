//! The database's generation, and the epochs of rooms that are made from it.

use crate::error::StoreError;
use uproar_model::Epoch;

/// Counts how often the history of the whole database may have gone back, from 1: after a backup was restored, or a
/// standby took over. Each database has its own way to notice that at a start: see `sqlite/generation.rs` and
/// `postgres/generation.rs`. (Not to be confused with a user's token generation.)
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatabaseGeneration(pub i64);

impl DatabaseGeneration {
    /// The epoch that clients see. When the generation is raised, every room has a new one.
    pub fn epoch(self, room_epoch: &str) -> Epoch {
        Epoch(format!("{room_epoch}.{}", self.0).into())
    }
}

/// 16 lower-case hexadecimal digits from the system's random number generator: a room's own epoch, or an incarnation.
pub(crate) fn random_word() -> Result<String, StoreError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| StoreError(format!("the system gives no random numbers: {error}")))?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}
