//! What a field may hold. Each rule's text says what is wrong with the value, not what the value was.

use crate::settings::Limits;
use garde::{Error, Result};
use uproar_model::fold_name;

/// The largest whole number that JSON clients can hold (2^53 − 1).
pub(crate) const NUMBER_LIMIT: u64 = (1 << 53) - 1;
/// The longest id of a message that a sender chooses.
pub(crate) const ID_LIMIT_BYTES: usize = 64;

const USERNAME_LIMIT_CHARS: usize = 32;
const EMAIL_LIMIT_BYTES: usize = 254;
const PASSWORD_LIMIT_LOW_CHARS: usize = 8;
const PASSWORD_LIMIT_CHARS: usize = 128;
const PASSWORD_LIMIT_BYTES: usize = 512;
const TITLE_LIMIT_CHARS: usize = 128;
const QUERY_LIMIT_CHARS: usize = 128;
/// Rooms of this name would be taken for channels in memory by `/ws?room=`.
pub(crate) const LIVE_PREFIX: &str = "live:";

fn ensure(good: bool, message: impl AsRef<str>) -> Result {
    if good { Ok(()) } else { Err(Error::new(message.as_ref())) }
}

/// A name of something that exists: it folds.
pub(crate) fn name(value: &str, _: &Limits) -> Result {
    fold_name(value).map(drop).map_err(|error| Error::new(error.to_string()))
}

/// A username to create.
pub(crate) fn new_username(value: &str, limits: &Limits) -> Result {
    ensure(
        value.chars().count() <= USERNAME_LIMIT_CHARS,
        format!("must be at most {USERNAME_LIMIT_CHARS} characters long"),
    )?;
    name(value, limits)?;
    fits_a_path(value)
}

/// A room's name to create.
pub(crate) fn new_room_name(value: &str, limits: &Limits) -> Result {
    name(value, limits)?;
    let is_live = fold_name(value).is_ok_and(|key| key.starts_with(LIVE_PREFIX));
    ensure(!is_live, format!("must not begin with '{LIVE_PREFIX}', which names channels that are not stored"))?;
    fits_a_path(value)
}

/// Clients take these out of a URL before they send it, however they are escaped.
fn fits_a_path(value: &str) -> Result {
    let is_dots = fold_name(value).is_ok_and(|key| matches!(key.as_str(), "." | ".."));
    ensure(!is_dots, "must not be '.' or '..', which no URL can hold")
}

pub(crate) fn email_length(value: &str, _: &Limits) -> Result {
    ensure(value.len() <= EMAIL_LIMIT_BYTES, format!("must be at most {EMAIL_LIMIT_BYTES} bytes long"))
}

pub(crate) fn new_password(value: &str, _: &Limits) -> Result {
    let chars = value.chars().count();
    ensure(chars >= PASSWORD_LIMIT_LOW_CHARS, format!("must be at least {PASSWORD_LIMIT_LOW_CHARS} characters long"))?;
    ensure(chars <= PASSWORD_LIMIT_CHARS, format!("must be at most {PASSWORD_LIMIT_CHARS} characters long"))?;
    password(value)
}

/// A password to check. Shorter ones than can be set are just wrong; longer ones are not worth hashing.
pub(crate) fn known_password(value: &str, _: &Limits) -> Result {
    password(value)
}

fn password(value: &str) -> Result {
    ensure(value.len() <= PASSWORD_LIMIT_BYTES, format!("must be at most {PASSWORD_LIMIT_BYTES} bytes long"))
}

pub(crate) fn title(value: &str, _: &Limits) -> Result {
    ensure(!value.trim().is_empty(), "must not be empty")?;
    ensure(value.chars().count() <= TITLE_LIMIT_CHARS, format!("must be at most {TITLE_LIMIT_CHARS} characters long"))?;
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    ensure(!value.chars().any(|c| c.is_control() || turns(c)), "must not contain control or direction characters")
}

pub(crate) fn room_size(value: &u32, limits: &Limits) -> Result {
    ensure((1..=limits.room_size_limit).contains(value), format!("must be from 1 to {}", limits.room_size_limit))
}

/// A message's text. That it is not too long is checked before, for that has a code of its own.
pub(crate) fn text(value: &str, _: &Limits) -> Result {
    ensure(!value.trim().is_empty(), "must not be empty")?;
    ensure(!value.contains('\0'), "must not contain the character U+0000")
}

/// The sender's own id of a message.
pub(crate) fn message_id(value: &str, _: &Limits) -> Result {
    ensure((1..=ID_LIMIT_BYTES).contains(&value.len()), format!("must be from 1 to {ID_LIMIT_BYTES} bytes long"))?;
    ensure(!value.starts_with('~'), "must not begin with '~', which is reserved")?;
    ensure(!value.chars().any(char::is_control), "must not contain control characters")
}

pub(crate) fn offset(value: &u64, _: &Limits) -> Result {
    ensure((1..=NUMBER_LIMIT).contains(value), format!("must be from 1 to {NUMBER_LIMIT}"))
}

/// An offset after which something is asked for: also 0, before the first.
pub(crate) fn position(value: &u64, _: &Limits) -> Result {
    ensure(*value <= NUMBER_LIMIT, format!("must be from 0 to {NUMBER_LIMIT}"))
}

/// How many entries are asked for. More than there may be in one answer is no error: the answer says that there are
/// more.
pub(crate) fn page_limit(value: &u64, _: &Limits) -> Result {
    ensure(*value >= 1, "must be at least 1")
}

pub(crate) fn search(value: &str, _: &Limits) -> Result {
    ensure(value.chars().count() <= QUERY_LIMIT_CHARS, format!("must be at most {QUERY_LIMIT_CHARS} characters long"))?;
    ensure(!value.chars().any(char::is_control), "must not contain control characters")
}

pub(crate) fn user_id(value: &str, _: &Limits) -> Result {
    ensure(value.parse::<i64>().is_ok_and(|id| id >= 0), "must be a user's id")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good<T: ?Sized>(rule: fn(&T, &Limits) -> Result, value: &T) -> bool {
        rule(value, &Limits::default()).is_ok()
    }

    #[test]
    fn usernames() {
        for name in ["a", "Ann", "Jürgen Müller", "日本", &"x".repeat(32), "a/b", "..."] {
            assert!(good(new_username, name), "{name}");
        }
        for name in ["", " ann", "a\u{202e}b", "a\0", "@ann", &"x".repeat(33), ".", "..", "．．"] {
            assert!(!good(new_username, name), "{name}");
        }
        // 32 characters, but more bytes than a key may have.
        assert!(!good(new_username, &"日".repeat(32)));
    }

    #[test]
    fn room_names() {
        for name in ["lobby", "Lobby", "a b", "live", "lively:x"] {
            assert!(good(new_room_name, name), "{name}");
        }
        for name in ["", "@1-2", "live:x", "LIVE:x", "ｌｉｖｅ：x", "..", "a\n"] {
            assert!(!good(new_room_name, name), "{name}");
        }
    }

    #[test]
    fn passwords() {
        assert!(!good(new_password, "1234567"));
        assert!(good(new_password, "12345678"));
        assert!(good(new_password, "ääääääää"));
        assert!(good(new_password, &"x".repeat(128)));
        assert!(good(new_password, &"\u{1f600}".repeat(128)), "512 bytes");
        assert!(!good(new_password, &"x".repeat(129)));
        assert!(good(known_password, "1"));
        assert!(!good(known_password, &"x".repeat(513)));
    }

    #[test]
    fn titles() {
        for title_ in ["T", &"日".repeat(128), "👩\u{200d}🚀 crew"] {
            assert!(good(title, title_), "{title_}");
        }
        for title_ in ["", "  ", "a\nb", "a\0b", "a\u{202e}b", &"x".repeat(129)] {
            assert!(!good(title, title_), "{title_}");
        }
    }

    #[test]
    fn texts_and_ids() {
        for text_ in ["x", " x ", "line\nline", "\u{1f600}"] {
            assert!(good(text, text_), "{text_}");
        }
        for text_ in ["", "  \n\t", "a\0b", "\u{3000}"] {
            assert!(!good(text, text_), "{text_:?}");
        }
        for id in ["1", "a~", &"x".repeat(64), "ä b"] {
            assert!(good(message_id, id), "{id}");
        }
        for id in ["", "~1", &"x".repeat(65), &"ä".repeat(33), "a\0", "a\n", "a\u{85}"] {
            assert!(!good(message_id, id), "{id:?}");
        }
    }

    #[test]
    fn numbers() {
        for size in [1, 100_000] {
            assert!(good(room_size, &size));
        }
        for size in [0, 100_001, u32::MAX] {
            assert!(!good(room_size, &size));
        }
        assert!(good(offset, &1) && good(offset, &NUMBER_LIMIT));
        assert!(!good(offset, &0) && !good(offset, &(NUMBER_LIMIT + 1)) && !good(offset, &u64::MAX));
        assert!(good(position, &0) && !good(position, &u64::MAX));
        assert!(!good(page_limit, &0) && good(page_limit, &u64::MAX));
        assert!(good(user_id, "7") && !good(user_id, "x") && !good(user_id, "-1") && !good(user_id, ""));
    }
}
