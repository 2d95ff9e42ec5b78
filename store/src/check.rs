//! What is judged before a database is asked, the same for all of them.

use uproar_model::{Item, Kind, Refusal};

/// The longest id and the longest emoji, in bytes. The session's own limits are below it; this one is what an index entry
/// surely holds on either database.
const KEY_LIMIT_BYTES: usize = 255;

/// Why an item can't be stored whatever the database holds. So one item never costs a batch its commit, and what
/// PostgreSQL can't store is refused on SQLite as well.
pub(crate) fn refusal(item: &Item) -> Option<Refusal> {
    let body = item.body.as_deref();
    let shaped = match item.kind {
        Kind::Message => body.is_some(),
        Kind::Edit => body.is_some() && item.target.is_some(),
        Kind::Delete => body.is_none() && item.target.is_some(),
        Kind::React | Kind::Unreact => body.is_some_and(is_key) && item.target.is_some(),
        Kind::Removed | Kind::RoomChanged => false,
    };
    let storable = shaped && is_key(&item.id) && body.is_none_or(storable);
    (!storable).then_some(Refusal::BadData)
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.len() <= KEY_LIMIT_BYTES && storable(text)
}

/// PostgreSQL's text has no U+0000, and SQLite's functions end at one.
pub(crate) fn storable(text: &str) -> bool {
    !text.contains('\0')
}
