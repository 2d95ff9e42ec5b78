//! The database's generation, and the epochs of rooms that are made from it.
//!
//! Each database has its own way to notice at a start that its history may have gone back: see `sqlite/generation.rs`
//! and `postgres/generation.rs`.

use crate::error::StoreError;
pub(crate) use uproar_model::DatabaseGeneration;

/// The generation that a migration writes into an empty database.
const FIRST: DatabaseGeneration = DatabaseGeneration(1);

/// The generation with this text in the database.
pub(crate) fn parse(text: Option<&str>) -> DatabaseGeneration {
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).map_or(FIRST, DatabaseGeneration)
}

/// Whether an unused database needs a generation of its own. Otherwise a database that replaces another one could
/// assign the other one's ids in the same generation.
pub(crate) fn is_unused(generation: DatabaseGeneration, has_users: bool) -> bool {
    generation == FIRST && !has_users
}

/// A generation that has never been used: if a counter were raised instead, a backup that is restored twice would have
/// the same generation twice, with different histories.
pub(crate) fn draw() -> Result<DatabaseGeneration, StoreError> {
    loop {
        let generation = DatabaseGeneration(random_number()?);
        // Numbers this low were counted by earlier versions.
        if generation.0 > u64::from(u32::MAX) {
            return Ok(generation);
        }
    }
}

/// 16 lower-case hexadecimal digits from the system's random number generator: a room's own epoch, or an incarnation.
pub(crate) fn random_word() -> Result<String, StoreError> {
    Ok(format!("{:016x}", random_number()?))
}

fn random_number() -> Result<u64, StoreError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| StoreError::Failed(format!("the system gives no random numbers: {error}")))?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_survives_its_text() {
        for number in [1, 2, 0x12, u64::MAX] {
            let generation = DatabaseGeneration(number);
            assert_eq!(parse(Some(&generation.to_string())), generation);
        }
        assert_eq!(parse(None), FIRST);
        assert_ne!(draw().unwrap(), draw().unwrap());
    }
}
