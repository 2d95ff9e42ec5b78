//! Names of rooms and users: what is the same name, and what is none.

use unicode_normalization::UnicodeNormalization;

/// The longest folded name, in bytes of UTF-8.
pub const NAME_LIMIT_BYTES: usize = 64;

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("must not be empty")]
    Empty,
    #[error("must be at most {NAME_LIMIT_BYTES} bytes long")]
    TooLong,
    #[error("must not begin or end with a space")]
    OuterSpace,
    #[error("must not contain control, invisible or direction characters")]
    Invisible,
    #[error("must not begin with '@', which is reserved")]
    Reserved,
}

/// The key of a name: NFKC, lower case. Two names with one key are one name; folding a key gives the key.
pub fn fold_name(name: &str) -> Result<String, NameError> {
    // A stranger's megabyte is not worth normalising: no character's key is less than a quarter of its bytes.
    if name.len() > NAME_LIMIT_BYTES * 4 {
        return Err(NameError::TooLong);
    }
    let mut key: String = fold_once(name);
    // Lower case can undo NFKC (and the other way round) for a few characters; two more rounds settle them.
    for _ in 0..2 {
        key = fold_once(&key);
    }
    if key.is_empty() {
        return Err(NameError::Empty);
    }
    if key.len() > NAME_LIMIT_BYTES {
        return Err(NameError::TooLong);
    }
    if key.starts_with(char::is_whitespace) || key.ends_with(char::is_whitespace) {
        return Err(NameError::OuterSpace);
    }
    if key.chars().any(is_invisible) {
        return Err(NameError::Invisible);
    }
    if key.starts_with('@') {
        return Err(NameError::Reserved);
    }
    Ok(key)
}

fn fold_once(name: &str) -> String {
    name.nfkc().flat_map(char::to_lowercase).nfkc().collect()
}

/// Controls, line separators, zero-width characters and everything that changes the direction of text.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_for_one_name() {
        for (name, key) in
            [("Lobby", "lobby"), ("ＬＯＢＢＹ", "lobby"), ("Straße", "straße"), ("ﬁsh", "fish"), ("a b", "a b")]
        {
            assert_eq!(fold_name(name).as_deref(), Ok(key));
        }
    }

    #[test]
    fn folding_a_key_gives_the_key() {
        for c in ('\0'..=char::MAX).filter(|c| !c.is_control()) {
            if let Ok(key) = fold_name(&format!("x{c}x")) {
                assert_eq!(fold_name(&key).as_deref(), Ok(key.as_str()), "{c:?}");
            }
        }
    }

    #[test]
    fn what_is_no_name() {
        assert_eq!(fold_name(""), Err(NameError::Empty));
        assert_eq!(fold_name(" a"), Err(NameError::OuterSpace));
        assert_eq!(fold_name("a\u{202e}b"), Err(NameError::Invisible));
        assert_eq!(fold_name("a\0b"), Err(NameError::Invisible));
        assert_eq!(fold_name("@1-2"), Err(NameError::Reserved));
        assert_eq!(fold_name(&"x".repeat(64)).map(|k| k.len()), Ok(64));
        assert_eq!(fold_name(&"x".repeat(65)), Err(NameError::TooLong));
        assert_eq!(fold_name(&"x".repeat(1 << 20)), Err(NameError::TooLong));
    }
}
