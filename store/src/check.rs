//! Checks of arguments that need no database, shared by all stores.

use crate::error::StoreError;
use uproar_model::{Item, Kind, Refusal};

/// The longest id and the longest emoji, in bytes: what surely fits into an index entry of either database. The
/// protocols have lower limits of their own.
const KEY_LIMIT_BYTES: usize = 255;
/// The most rows that one call returns, whatever limit it was given: one more than the longest page holds, because it
/// tells whether there are more.
const ROWS_LIMIT: usize = 1001;

/// Why an item can't be stored, whatever the database holds. Such items never reach a database: one of them must not
/// fail the commit of its whole batch, and SQLite must refuse what PostgreSQL can't store.
pub(crate) fn refusal(item: &Item) -> Option<Refusal> {
    let body = item.body.as_deref();
    let is_well_formed = match item.kind {
        Kind::Message => body.is_some(),
        Kind::Edit => body.is_some() && item.target.is_some(),
        Kind::Delete => body.is_none() && item.target.is_some(),
        Kind::React | Kind::Unreact => body.is_some_and(is_key) && item.target.is_some(),
        Kind::Removed | Kind::RoomChanged | Kind::Added | Kind::Moderated | Kind::Unknown => false,
    };
    let has_place_for_meta = item.kind == Kind::Message || item.meta.is_none();
    let texts = [body, item.meta.as_deref()];
    let is_valid =
        is_well_formed && has_place_for_meta && is_key(&item.id) && texts.into_iter().flatten().all(is_storable);
    (!is_valid).then_some(Refusal::BadData)
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.len() <= KEY_LIMIT_BYTES && is_storable(text)
}

/// PostgreSQL's type `text` can't hold U+0000, and SQLite's functions stop reading at one.
pub(crate) fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

/// An error for texts that can't be stored.
pub(crate) fn require_storable(texts: &[&str]) -> Result<(), StoreError> {
    if texts.iter().all(|text| is_storable(text)) {
        Ok(())
    } else {
        Err(StoreError::Failed("a text that contains U+0000 can't be stored".to_owned()))
    }
}

/// How many rows a call with this limit returns at most.
pub(crate) fn rows_limit(limit: usize) -> usize {
    limit.min(ROWS_LIMIT)
}
