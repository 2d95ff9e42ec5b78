//! Names of rooms and users: which texts are names, and which of them are equal.

use unicode_normalization::UnicodeNormalization;

/// The longest folded name, in bytes of UTF-8.
pub const NAME_LIMIT_BYTES: usize = 64;

/// Why a text is not a name.
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

/// The key of a name, which is its NFKC form in lower case. Names are equal if their keys are. Folding a key returns
/// the same key.
pub fn fold_name(name: &str) -> Result<String, NameError> {
    // Don't normalise megabytes: folding shrinks no character to less than a quarter of its bytes.
    if name.len() > NAME_LIMIT_BYTES * 4 {
        return Err(NameError::TooLong);
    }
    let mut key: String = fold_once(name);
    // For a few characters, lower case undoes NFKC or NFKC undoes lower case. Two more rounds reach a stable form.
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

/// Control characters, line separators, zero-width characters, and characters that change the direction of text.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_have_one_key() {
        for (name, key) in
            [("Lobby", "lobby"), ("ＬＯＢＢＹ", "lobby"), ("Straße", "straße"), ("ﬁsh", "fish"), ("a b", "a b")]
        {
            assert_eq!(fold_name(name).as_deref(), Ok(key));
        }
    }

    #[test]
    fn folding_a_key_returns_the_same_key() {
        for c in ('\0'..=char::MAX).filter(|c| !c.is_control()) {
            if let Ok(key) = fold_name(&format!("x{c}x")) {
                assert_eq!(fold_name(&key).as_deref(), Ok(key.as_str()), "{c:?}");
            }
        }
    }

    #[test]
    fn texts_that_are_not_names_are_rejected() {
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
