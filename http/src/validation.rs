//! Rules for the values of fields. Their errors read as sentences after the field's name and never repeat the value.

use crate::email;
use crate::fields::RawJson;
use garde::{Error, Result};
use uproar_core::limits::Limits;
use uproar_core::protocol::data;
use uproar_model::text::{self, fits, is_visible, normalize_password};
use uproar_model::{
    BOT_MARK, NAME_LIMIT_BYTES, check_message_id, check_new_name, fold_name, fold_room_name, is_bot_name,
    reserved_lookalike, shown_name,
};

/// The largest integer that JavaScript represents exactly (2^53 − 1).
pub(crate) const NUMBER_LIMIT: u64 = (1 << 53) - 1;

// Characters are those that people count (`text.rs` in the model). What is normalised is measured afterwards: the same
// text has up to three times as many bytes from a keyboard that sends accents, or the parts of Korean syllables, apart.
const USERNAME_LIMIT_CHARACTERS: usize = 32;
const EMAIL_LIMIT_BYTES: usize = 254;
const TYPED_EMAIL_LIMIT_BYTES: usize = 4 * EMAIL_LIMIT_BYTES;
const PASSWORD_MIN_CHARACTERS: usize = 8;
const PASSWORD_LIMIT_CHARACTERS: usize = 128;
const PASSWORD_LIMIT_BYTES: usize = 512;
const TYPED_PASSWORD_LIMIT_BYTES: usize = 4 * PASSWORD_LIMIT_BYTES;
const TITLE_LIMIT_CHARACTERS: usize = 128;
const TITLE_LIMIT_BYTES: usize = 1024;
const TOPIC_LIMIT_CHARACTERS: usize = 512;
const REASON_LIMIT_CHARACTERS: usize = 256;
const LINE_LIMIT_BYTES: usize = 2048;
const SLOW_MODE_LIMIT_SECONDS: u32 = 6 * 3600;
const QUERY_LIMIT_CHARACTERS: usize = 128;
const QUERY_LIMIT_BYTES: usize = 1024;
/// A direct room has one member more.
const OTHERS_LIMIT: usize = 9;
/// How long an invite can be used at most: a year.
pub const INVITE_LIFETIME_LIMIT_S: u64 = 365 * 24 * 3600;
/// How often an invite can be used at most, if there is a limit.
pub const INVITE_USES_LIMIT: u32 = 10_000;
/// 128 bits in Base64.
const INVITE_CODE_CHARACTERS: usize = 22;
/// The prefix of `live:` channels. `/ws?room=` would mistake a room whose name starts with it for such a channel.
pub(crate) const LIVE_PREFIX: &str = "live:";

fn ensure(is_valid: bool, message: impl AsRef<str>) -> Result {
    if is_valid { Ok(()) } else { Err(Error::new(message.as_ref())) }
}

/// The name of an existing user.
pub(crate) fn name(value: &str, _: &Limits) -> Result {
    fold_name(value).map(drop).map_err(|error| Error::new(error.to_string()))
}

/// The name of an existing room.
pub(crate) fn room_name(value: &str, _: &Limits) -> Result {
    fold_room_name(value).map(drop).map_err(|error| Error::new(error.to_string()))
}

/// The names of the others in a direct room.
pub(crate) fn usernames(value: &[String], limits: &Limits) -> Result {
    ensure((1..=OTHERS_LIMIT).contains(&value.len()), format!("must have 1 to {OTHERS_LIMIT} names"))?;
    value.iter().try_for_each(|value| name(value, limits))
}

/// The username of a new account.
pub(crate) fn new_username(value: &str, limits: &Limits) -> Result {
    ensure(
        fits(&shown_name(value), USERNAME_LIMIT_CHARACTERS, NAME_LIMIT_BYTES),
        format!("must be at most {USERNAME_LIMIT_CHARACTERS} characters and {NAME_LIMIT_BYTES} bytes long"),
    )?;
    new_name(value)?;
    if is_bot_name(value) {
        return Err(Error::new(format!("must not end with '{BOT_MARK}', which marks programs")));
    }
    if let Some(reserved) = reserved_lookalike(value) {
        return Err(Error::new(format!("must not be or look like '{reserved}', which is reserved")));
    }
    name(value, limits)?;
    is_valid_in_a_path(value)
}

/// The name of a new hook. With the mark of programs behind it, it is a username.
pub(crate) fn hook_name(value: &str, limits: &Limits) -> Result {
    ensure(
        fits(&shown_name(value), USERNAME_LIMIT_CHARACTERS, NAME_LIMIT_BYTES / 2),
        format!("must be at most {USERNAME_LIMIT_CHARACTERS} characters and {} bytes long", NAME_LIMIT_BYTES / 2),
    )?;
    new_name(value)?;
    ensure(!is_bot_name(value), format!("must not end with '{BOT_MARK}', which is added to it"))?;
    name(value, limits)
}

fn new_name(value: &str) -> Result {
    check_new_name(value).map_err(|error| Error::new(error.to_string()))
}

/// The name of a new room.
pub(crate) fn new_room_name(value: &str, limits: &Limits) -> Result {
    name(value, limits)?;
    new_name(value)?;
    let is_live = fold_name(value).is_ok_and(|key| key.starts_with(LIVE_PREFIX));
    ensure(
        !is_live,
        format!("must not begin with '{LIVE_PREFIX}', which is reserved for channels that are not stored"),
    )?;
    let has_slash = fold_name(value).is_ok_and(|key| key.contains('/'));
    ensure(!has_slash, "must not contain '/', which separates a room from the name of one of its live: channels")?;
    is_valid_in_a_path(value)
}

/// Clients remove `.` and `..` from a path before they send it, even if escaped.
fn is_valid_in_a_path(value: &str) -> Result {
    let is_dots = fold_name(value).is_ok_and(|key| matches!(key.as_str(), "." | ".."));
    ensure(!is_dots, "must not be '.' or '..', which can't appear in a URL")
}

/// The e-mail address of somebody who signs in.
pub(crate) fn known_email(value: &str, _: &Limits) -> Result {
    let is_short = value.len() <= TYPED_EMAIL_LIMIT_BYTES;
    ensure(is_short, format!("must be at most {EMAIL_LIMIT_BYTES} bytes long"))
}

/// The e-mail address of a new account. One at an internationalised domain is one, too.
pub(crate) fn new_email(value: &str, limits: &Limits) -> Result {
    known_email(value, limits)?;
    let key = email::key(value).ok_or_else(|| Error::new("is not an e-mail address such as ann@example.org"))?;
    ensure(key.len() <= EMAIL_LIMIT_BYTES, format!("must be at most {EMAIL_LIMIT_BYTES} bytes long"))
}

pub(crate) fn new_password(value: &str, limits: &Limits) -> Result {
    known_password(value, limits)?;
    let value = normalize_password(value);
    let is_long_enough = text::count_characters(&value) >= PASSWORD_MIN_CHARACTERS;
    ensure(is_long_enough, format!("must be at least {PASSWORD_MIN_CHARACTERS} characters long"))?;
    ensure(
        fits(&value, PASSWORD_LIMIT_CHARACTERS, PASSWORD_LIMIT_BYTES),
        format!("must be at most {PASSWORD_LIMIT_CHARACTERS} characters and {PASSWORD_LIMIT_BYTES} bytes long"),
    )
}

/// A password to check. One that is too short to be set is simply wrong; one that is too long is not worth hashing.
pub(crate) fn known_password(value: &str, _: &Limits) -> Result {
    // Earlier versions measured and hashed passwords as they were typed.
    let is_short = value.len() <= PASSWORD_LIMIT_BYTES
        || value.len() <= TYPED_PASSWORD_LIMIT_BYTES && normalize_password(value).len() <= PASSWORD_LIMIT_BYTES;
    ensure(is_short, format!("must be at most {PASSWORD_LIMIT_BYTES} bytes long"))
}

pub(crate) fn title(value: &str, _: &Limits) -> Result {
    ensure(is_visible(value), "must not be empty")?;
    ensure(
        fits(&shown_name(value), TITLE_LIMIT_CHARACTERS, TITLE_LIMIT_BYTES),
        format!("must be at most {TITLE_LIMIT_CHARACTERS} characters and {TITLE_LIMIT_BYTES} bytes long"),
    )?;
    has_no_controls(value)
}

/// What is written below a room's title, or nothing.
pub(crate) fn topic(value: &str, _: &Limits) -> Result {
    line(value, TOPIC_LIMIT_CHARACTERS)
}

/// Why somebody is banned or silenced.
pub(crate) fn reason(value: &str, _: &Limits) -> Result {
    ensure(is_visible(value), "must not be empty")?;
    line(value, REASON_LIMIT_CHARACTERS)
}

/// One line of text.
fn line(value: &str, limit_characters: usize) -> Result {
    ensure(
        fits(&shown_name(value), limit_characters, LINE_LIMIT_BYTES),
        format!("must be at most {limit_characters} characters and {LINE_LIMIT_BYTES} bytes long"),
    )?;
    has_no_controls(value)
}

fn has_no_controls(value: &str) -> Result {
    let is_direction =
        |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    ensure(
        !value.chars().any(|c| c.is_control() || is_direction(c)),
        "must not contain control or direction characters",
    )
}

pub(crate) const ROLES: &str = "must be member, moderator or owner";

pub(crate) fn role(value: &str, _: &Limits) -> Result {
    ensure(matches!(value, "member" | "moderator" | "owner"), ROLES)
}

pub(crate) fn who_may(value: &str, _: &Limits) -> Result {
    ensure(matches!(value, "members" | "moderators"), "must be members or moderators")
}

pub(crate) fn slow_mode_seconds(value: &u32, _: &Limits) -> Result {
    ensure(*value <= SLOW_MODE_LIMIT_SECONDS, format!("must be from 0 to {SLOW_MODE_LIMIT_SECONDS}"))
}

/// A time in Unix milliseconds.
pub(crate) fn time(value: &u64, _: &Limits) -> Result {
    ensure(*value <= NUMBER_LIMIT, "must be a time in Unix milliseconds")
}

/// The id of an entry in a list.
pub(crate) fn entry_id(value: &str, _: &Limits) -> Result {
    ensure(value.parse::<i64>().is_ok_and(|id| id >= 0), "must be the id of an entry")
}

pub(crate) fn room_size(value: &u32, limits: &Limits) -> Result {
    ensure(
        (1..=limits.room_size_limit).contains(&u64::from(*value)),
        format!("must be from 1 to {}", limits.room_size_limit),
    )
}

/// How often a new invite can be used.
pub(crate) fn invite_uses(value: &u32, _: &Limits) -> Result {
    ensure((1..=INVITE_USES_LIMIT).contains(value), format!("must be from 1 to {INVITE_USES_LIMIT}"))
}

/// How many seconds a new invite can be used.
pub(crate) fn invite_lifetime(value: &u64, _: &Limits) -> Result {
    ensure((1..=INVITE_LIFETIME_LIMIT_S).contains(value), format!("must be from 1 to {INVITE_LIFETIME_LIMIT_S}"))
}

/// The code of an invite in a body.
pub(crate) fn invite_code(value: &str, _: &Limits) -> Result {
    ensure(is_invite_code(value), "must be the code of an invite, which is at the end of its link")
}

/// Whether a text can be the code of an invite.
pub(crate) fn is_invite_code(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() == INVITE_CODE_CHARACTERS && text.bytes().all(is_plain)
}

/// The text of a message. Its length is checked earlier, because that error has a code of its own.
pub(crate) fn text(value: &str, _: &Limits) -> Result {
    ensure(is_visible(value), "must not be empty")?;
    ensure(!value.contains('\0'), "must not contain the character U+0000")
}

/// The sender's own id for a message.
pub(crate) fn message_id(value: &str, _: &Limits) -> Result {
    check_message_id(value).map_err(|error| Error::new(error.to_string()))
}

pub(crate) fn meta(value: &RawJson, _: &Limits) -> Result {
    // The error says what is wrong with `the meta`.
    data::new_meta(&value.0)
        .map(drop)
        .map_err(|error| Error::new(error.message.strip_prefix("the meta ").unwrap_or(&error.message).to_owned()))
}

pub(crate) fn offset(value: &u64, _: &Limits) -> Result {
    ensure((1..=NUMBER_LIMIT).contains(value), format!("must be from 1 to {NUMBER_LIMIT}"))
}

/// An offset after which to start; 0 is before the first publication.
pub(crate) fn position(value: &u64, _: &Limits) -> Result {
    ensure(*value <= NUMBER_LIMIT, format!("must be from 0 to {NUMBER_LIMIT}"))
}

/// How many entries are requested. Requesting more than a page can hold is not an error: the response says that there
/// are more.
pub(crate) fn page_limit(value: &u64, _: &Limits) -> Result {
    ensure(*value >= 1, "must be at least 1")
}

pub(crate) fn search(value: &str, _: &Limits) -> Result {
    ensure(
        fits(&shown_name(value), QUERY_LIMIT_CHARACTERS, QUERY_LIMIT_BYTES),
        format!("must be at most {QUERY_LIMIT_CHARACTERS} characters and {QUERY_LIMIT_BYTES} bytes long"),
    )?;
    ensure(!value.chars().any(char::is_control), "must not contain control characters")
}

pub(crate) fn user_id(value: &str, _: &Limits) -> Result {
    ensure(value.parse::<i64>().is_ok_and(|id| id >= 0), "must be a user id")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_valid<T: ?Sized>(rule: fn(&T, &Limits) -> Result, value: &T) -> bool {
        rule(value, &Limits::default()).is_ok()
    }

    #[test]
    fn a_username_is_short_and_folds() {
        for name in ["a", "Ann", "Jürgen Müller", "日本", &"x".repeat(32), "a/b", "...", " ann "] {
            assert!(is_valid(new_username, name), "{name}");
        }
        for name in ["", " ", "a\u{202e}b", "a\0", "@ann", &"x".repeat(33), ".", "..", "．．"] {
            assert!(!is_valid(new_username, name), "{name}");
        }
        // 96 bytes, or 288 in NFD: people count characters.
        assert!(is_valid(new_username, &text::decompose(&"각".repeat(32))));
        assert!(is_valid(new_username, &"日".repeat(32)));
        assert!(!is_valid(new_username, &"日".repeat(33)));
        for name in
            ["admin", "System", "adrnin", "\u{430}nn", "ann\u{3164}", "Grafana [bot]", "ann [BOT]", "x［ｂｏｔ］"]
        {
            assert!(!is_valid(new_username, name), "{name}");
        }
        assert!(is_valid(name, "ann ") && !is_valid(name, " "));
    }

    #[test]
    fn a_room_name_folds_and_is_not_reserved() {
        for name in ["lobby", "Lobby", "a b", "live", "lively:x"] {
            assert!(is_valid(new_room_name, name), "{name}");
        }
        for name in ["", "@1-2", "live:x", "LIVE:x", "ｌｉｖｅ：x", "..", "a\nb", "a/b", "a／b"] {
            assert!(!is_valid(new_room_name, name), "{name}");
        }
    }

    #[test]
    fn a_password_has_8_to_128_characters() {
        assert!(!is_valid(new_password, "1234567"));
        assert!(is_valid(new_password, "12345678"));
        assert!(is_valid(new_password, "ääääääää"));
        assert!(!is_valid(new_password, "a\u{308}a\u{308}a\u{308}a\u{308}"), "four characters");
        assert!(is_valid(new_password, &"x".repeat(128)));
        assert!(is_valid(new_password, &"\u{1f600}".repeat(128)), "512 bytes");
        assert!(!is_valid(new_password, &"x".repeat(129)));
        assert!(is_valid(known_password, "1"));
        assert!(!is_valid(known_password, &"x".repeat(513)));
        let syllables = "각".repeat(128);
        for form in [&syllables, &text::decompose(&syllables)] {
            assert!(is_valid(new_password, form) && is_valid(known_password, form), "{} bytes", form.len());
        }
        assert!(!is_valid(new_password, &"👩\u{200d}👩\u{200d}👧".repeat(30)), "540 bytes");
    }

    #[test]
    fn an_address_has_at_most_254_bytes() {
        let local = "각".repeat(21);
        let domain = format!("{}.{}.{}.org", "x".repeat(60), "y".repeat(60), "z".repeat(60));
        for local in [&local, &text::decompose(&local)] {
            assert!(is_valid(new_email, &format!("{local}@{domain}")), "{} bytes", local.len());
        }
        assert!(!is_valid(new_email, &format!("{local}a@{domain}.info")));
    }

    #[test]
    fn a_title_is_one_visible_line() {
        for title_ in ["T", &"日".repeat(128), &text::decompose(&"각".repeat(128)), "👩\u{200d}🚀 crew", "\u{6dd}"]
        {
            assert!(is_valid(title, title_), "{title_}");
        }
        for title_ in ["", "  ", "\u{3164}", "\u{2800}", "a\nb", "a\0b", "a\u{202e}b", &"x".repeat(129)] {
            assert!(!is_valid(title, title_), "{title_}");
        }
    }

    #[test]
    fn a_text_is_not_blank_and_an_id_follows_its_grammar() {
        for text_ in ["x", " x ", "line\nline", "\u{1f600}"] {
            assert!(is_valid(text, text_), "{text_}");
        }
        for text_ in ["", "  \n\t", "a\0b", "\u{3000}", "\u{200b}", "\u{3164}"] {
            assert!(!is_valid(text, text_), "{text_:?}");
        }
        for id in ["1", "a~", &"x".repeat(64), "ä b"] {
            assert!(is_valid(message_id, id), "{id}");
        }
        for id in ["", "~1", &"x".repeat(65), &"ä".repeat(33), "a\0", "a\n", "a\u{85}"] {
            assert!(!is_valid(message_id, id), "{id:?}");
        }
    }

    #[test]
    fn the_code_of_an_invite_has_22_plain_characters() {
        assert!(is_valid(invite_code, "AZaz09-_AZaz09-_AZaz09"));
        for text in ["", "x", &"x".repeat(21), &"x".repeat(23), "xxxxxxxxxxxxxxxxxxxxx.", "äxxxxxxxxxxxxxxxxxxxx"] {
            assert!(!is_valid(invite_code, text), "{text}");
        }
    }

    #[test]
    fn numbers_are_bounded() {
        for size in [1, 100_000] {
            assert!(is_valid(room_size, &size));
        }
        for size in [0, 100_001, u32::MAX] {
            assert!(!is_valid(room_size, &size));
        }
        assert!(is_valid(offset, &1) && is_valid(offset, &NUMBER_LIMIT));
        assert!(!is_valid(offset, &0) && !is_valid(offset, &(NUMBER_LIMIT + 1)) && !is_valid(offset, &u64::MAX));
        assert!(is_valid(position, &0) && !is_valid(position, &u64::MAX));
        assert!(is_valid(invite_uses, &1) && is_valid(invite_uses, &10_000));
        assert!(!is_valid(invite_uses, &0) && !is_valid(invite_uses, &10_001));
        assert!(is_valid(invite_lifetime, &1) && is_valid(invite_lifetime, &31_536_000));
        assert!(!is_valid(invite_lifetime, &0) && !is_valid(invite_lifetime, &31_536_001));
        assert!(!is_valid(page_limit, &0) && is_valid(page_limit, &u64::MAX));
        assert!(
            is_valid(user_id, "7") && !is_valid(user_id, "x") && !is_valid(user_id, "-1") && !is_valid(user_id, "")
        );
    }
}
