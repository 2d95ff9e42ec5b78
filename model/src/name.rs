//! Names of rooms and users: which texts are names, which of them are equal, and which look alike.

use crate::text::{self, category, is_blank, is_mark, is_unclear};
use icu_properties::props::GeneralCategory;
use unicode_normalization::UnicodeNormalization;
use unicode_security::mixed_script::AugmentedScriptSet;

/// The longest name, in characters.
pub const NAME_LIMIT_CHARACTERS: usize = 64;
/// The longest folded name, in bytes of UTF-8.
pub const NAME_LIMIT_BYTES: usize = 256;
/// Marks on one letter of a new name. No language needs more (UTS #39, section 5.4).
const MARKS_LIMIT: usize = 4;

/// Usernames by which strangers could pass for the operator.
const RESERVED: [&str; 7] = ["admin", "administrator", "moderator", "root", "support", "system", "uproar"];

/// What the usernames of programs end with, and those of people do not.
pub const BOT_MARK: &str = "[bot]";

/// Why a text is not a name, or can't be a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("must not be empty")]
    Empty,
    #[error("must be at most {NAME_LIMIT_CHARACTERS} characters and {NAME_LIMIT_BYTES} bytes long")]
    TooLong,
    #[error("must not contain control, invisible or direction characters")]
    Invisible,
    #[error("must not begin with '@', which is reserved")]
    Reserved,
    #[error("must contain letters, digits or symbols, and accents only on them")]
    NothingToSee,
    #[error("must not mix letters of several scripts, such as Latin and Cyrillic")]
    MixedScripts,
}

/// The key of a name: the folded text. Names are equal if their keys are. Folding a key returns the same key. Spaces
/// around a name don't count, because phones put one behind a word.
pub fn fold_name(name: &str) -> Result<String, NameError> {
    // Don't normalise megabytes: folding shrinks no visible character to less than a quarter of its bytes.
    if name.len() > NAME_LIMIT_BYTES * 4 {
        return Err(NameError::TooLong);
    }
    let name = name.trim();
    if name.chars().any(is_formatting) {
        return Err(NameError::Invisible);
    }
    let key = text::fold(name);
    if key.is_empty() {
        return Err(NameError::Empty);
    }
    if !text::fits(&key, NAME_LIMIT_CHARACTERS, NAME_LIMIT_BYTES) {
        return Err(NameError::TooLong);
    }
    if key.starts_with('@') {
        return Err(NameError::Reserved);
    }
    Ok(key)
}

/// The key of a room's name, which may be that of a direct room. The server makes those; they begin with '@', as no
/// name does that people choose, and are their own keys.
pub fn fold_room_name(name: &str) -> Result<String, NameError> {
    if is_direct_name(name) { Ok(name.to_owned()) } else { fold_name(name) }
}

/// Whether this is the name of a direct room: '@' and 16 lower-case hexadecimal digits.
pub fn is_direct_name(name: &str) -> bool {
    let digits = name.strip_prefix('@').unwrap_or_default();
    digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name, or another line that people type, as it is stored and shown: in NFC, without spaces around it.
pub fn shown_name(name: &str) -> String {
    text::normalize(name.trim().to_owned())
}

/// The name for a new user that comes closest to a text from another system, which has other rules for names. `None`:
/// nothing of the text can be used.
pub fn clean_name(text: &str) -> Option<String> {
    // More characters than a name can have, even if most of them are left out.
    let characters = text.chars().take(16 * NAME_LIMIT_CHARACTERS);
    let visible: String = characters.filter(|c| c.is_whitespace() || !is_unclear(*c) && !is_formatting(*c)).collect();
    let words: Vec<&str> = visible.split_whitespace().collect();
    let mut name = shown_name(words.join(" ").trim_start_matches('@'));
    loop {
        match check_new_name(&name) {
            Ok(()) => return Some(name.trim().to_owned()),
            // The last character. Each turn makes the name shorter.
            Err(NameError::TooLong) => _ = name.pop(),
            Err(_) => return None,
        }
    }
}

/// A valid name with a number behind it, which is shortened if it would be too long.
pub fn numbered_name(name: &str, number: u64) -> String {
    let mut base = name.to_owned();
    loop {
        let numbered = format!("{}-{number}", base.trim_end());
        if fold_name(&numbered) != Err(NameError::TooLong) || base.pop().is_none() {
            return numbered;
        }
    }
}

/// A letter of each script with letters that look like Latin ones: Greek, Cyrillic, Armenian, Cherokee, Coptic, Lisu.
const LATIN_LOOKALIKES: [char; 6] = ['α', 'а', 'ա', 'Ꭰ', 'ⲁ', 'ꓐ'];

/// Control characters, line separators, and characters that change how others are shown.
fn is_formatting(c: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    matches!(category(c), Control | Format | LineSeparator | ParagraphSeparator)
}

/// Checks a name that nobody has yet. It is stricter than [`fold_name`], which older names must satisfy too: everything
/// in it can be seen, and its letters are of one script, or of Latin and one script that does not look like it (UTS
/// #39, "moderately restrictive").
pub fn check_new_name(name: &str) -> Result<(), NameError> {
    let key = fold_name(name)?;
    let name = name.trim();
    let (mut can_bear, mut marks, mut is_visible) = (false, 0, false);
    let mut before = ' ';
    for c in name.nfc() {
        if c == '\u{fe0f}' && text::emoji(before.encode_utf8(&mut [0; 4])).is_some() {
            continue;
        }
        before = c;
        if is_mark(c) && !is_blank(c) {
            marks += 1;
            if !can_bear || marks > MARKS_LIMIT {
                return Err(NameError::NothingToSee);
            }
            continue;
        }
        if is_unclear(c) {
            return Err(NameError::Invisible);
        }
        marks = 0;
        can_bear = !c.is_whitespace();
        is_visible |= can_bear;
    }
    // Folding makes a space and an accent of some symbols, such as `¨`.
    if !is_visible || key.starts_with(is_mark) {
        return Err(NameError::NothingToSee);
    }
    let (scripts, others) = scripts(name);
    let looks_like_latin = LATIN_LOOKALIKES.into_iter().any(|letter| {
        let mut lookalike = AugmentedScriptSet::for_char(letter);
        lookalike.intersect_with(others);
        !lookalike.is_empty()
    });
    if scripts.is_empty() && (others.is_empty() || looks_like_latin) {
        return Err(NameError::MixedScripts);
    }
    Ok(())
}

/// The scripts in which all of a name can be written, and those for what is not Latin.
fn scripts(name: &str) -> (AugmentedScriptSet, AugmentedScriptSet) {
    let (mut all, mut others) = (AugmentedScriptSet::default(), AugmentedScriptSet::default());
    for c in name.nfkc() {
        let script = AugmentedScriptSet::for_char(c);
        all.intersect_with(script);
        if !c.is_ascii_alphabetic() && !is_latin(c) {
            others.intersect_with(script);
        }
    }
    (all, others)
}

fn is_latin(c: char) -> bool {
    let mut script = AugmentedScriptSet::for_char(c);
    script.intersect_with(AugmentedScriptSet::for_char('a'));
    !AugmentedScriptSet::for_char(c).is_all() && !script.is_empty()
}

/// What a name looks like (UTS #39, section 4). Names of different scripts with the same skeleton can't be told apart;
/// within one script, some that people can tell apart have the same one, such as `modern` and `modem`.
pub fn skeleton(name: &str) -> String {
    unicode_security::skeleton(&text::fold(name)).collect()
}

/// Whether two names look alike although nobody could have typed one for the other: they have the same skeleton and no
/// script in common.
pub fn looks_like(name: &str, other: &str) -> bool {
    let (mut scripts_of_both, (other_scripts, _)) = (scripts(name).0, scripts(other));
    scripts_of_both.intersect_with(other_scripts);
    scripts_of_both.is_empty() && skeleton(name) == skeleton(other)
}

/// Whether a name ends with the mark of programs, or with something that looks like it.
pub fn is_bot_name(name: &str) -> bool {
    skeleton(name).ends_with(&skeleton(BOT_MARK))
}

/// The reserved username that a name is, or looks like.
pub fn reserved_lookalike(name: &str) -> Option<&'static str> {
    let skeleton_of_name = skeleton(name);
    RESERVED.into_iter().find(|reserved| skeleton(reserved) == skeleton_of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_have_one_key() {
        for (name, key) in [
            ("Lobby", "lobby"),
            ("ＬＯＢＢＹ", "lobby"),
            ("Straße", "strasse"),
            ("ﬁsh", "fish"),
            ("a b", "a b"),
            (" Ann\u{3000} Lee\n", "ann lee"),
            ("O’Neil", "o'neil"),
            ("ΖΕΥΣ", "ζευσ"),
            ("ζευς", "ζευσ"),
        ] {
            assert_eq!(fold_name(name).as_deref(), Ok(key));
        }
    }

    #[test]
    fn folding_a_key_returns_the_same_key() {
        use GeneralCategory::{OtherLetter, PrivateUse, Surrogate, Unassigned};
        // The letters of scripts without case are too many.
        let is_cased = |c: &char| !matches!(category(*c), OtherLetter | PrivateUse | Surrogate | Unassigned);
        for c in ('\0'..=char::MAX).filter(is_cased) {
            if let Ok(key) = fold_name(&format!("x{c}x")) {
                assert_eq!(fold_name(&key).as_deref(), Ok(key.as_str()), "{c:?}");
            }
        }
    }

    #[test]
    fn only_a_name_that_the_server_made_is_that_of_a_direct_room() {
        for name in ["@0123456789abcdef", "@ffffffffffffffff"] {
            assert_eq!(fold_room_name(name).as_deref(), Ok(name));
            assert_eq!(fold_name(name), Err(NameError::Reserved));
            assert_eq!(check_new_name(name), Err(NameError::Reserved));
        }
        for name in ["@", "@1-2", "@0123456789abcde", "@0123456789abcdef0", "@0123456789ABCDEF", "@0123456789abcdeg"] {
            assert_eq!(fold_room_name(name), Err(NameError::Reserved), "{name}");
        }
        assert_eq!(fold_room_name(" Lobby").as_deref(), Ok("lobby"));
    }

    #[test]
    fn texts_that_are_not_names_are_rejected() {
        assert_eq!(fold_name(""), Err(NameError::Empty));
        assert_eq!(fold_name(" "), Err(NameError::Empty));
        assert_eq!(fold_name("a\nb"), Err(NameError::Invisible));
        assert_eq!(fold_name("\u{34f}@1-2"), Err(NameError::Reserved));
        assert_eq!(fold_name("a\u{202e}b"), Err(NameError::Invisible));
        assert_eq!(fold_name("a\0b"), Err(NameError::Invisible));
        assert_eq!(fold_name("@1-2"), Err(NameError::Reserved));
        assert_eq!(fold_name(&"x".repeat(64)).map(|k| k.len()), Ok(64));
        assert_eq!(fold_name(&"x".repeat(65)), Err(NameError::TooLong));
        assert_eq!(fold_name(&"日".repeat(64)).map(|k| k.len()), Ok(192));
        assert_eq!(fold_name(&"日".repeat(65)), Err(NameError::TooLong));
        assert_eq!(fold_name(&"x".repeat(1 << 20)), Err(NameError::TooLong));
        assert_eq!(fold_name(&format!("e{}", "\u{301}".repeat(200))), Err(NameError::TooLong), "one character");
    }

    #[test]
    fn texts_of_other_systems_become_names() {
        for (text, name) in [
            ("Ann", Some("Ann")),
            ("  Ann \t\n Lee ", Some("Ann Lee")),
            ("ann@example.org", Some("ann@example.org")),
            ("@ann", Some("ann")),
            ("@ @ann", None),
            ("A\u{202e}n\0n\u{200b}", Some("Ann")),
            ("e\u{301}mile", Some("émile")),
            ("42", Some("42")),
            ("раypal", None),
            ("", None),
            (" \u{3164} ", None),
            ("\u{301}", None),
        ] {
            assert_eq!(clean_name(text).as_deref(), name, "{text:?}");
        }
        assert_eq!(clean_name(&"x".repeat(100_000)).unwrap().len(), NAME_LIMIT_CHARACTERS);
        assert_eq!(clean_name(&"日".repeat(100)).unwrap().chars().count(), NAME_LIMIT_CHARACTERS);
        assert_eq!(clean_name(&"\u{200b}".repeat(100_000)), None);
        let name = clean_name(&"ﷺ".repeat(64)).expect("a name that grows when it is folded");
        assert!(check_new_name(&name).is_ok());
    }

    #[test]
    fn a_number_finds_room_behind_any_name() {
        assert_eq!(numbered_name("Ann", 2), "Ann-2");
        assert_eq!(numbered_name(&"x".repeat(64), 10), format!("{}-10", "x".repeat(61)));
        let spaced = format!("{} {}", "x".repeat(60), "y".repeat(3));
        assert_eq!(numbered_name(&spaced, 100), format!("{}-100", "x".repeat(60)));
        for name in ["日".repeat(64), clean_name(&"ﷺ".repeat(64)).unwrap()] {
            assert!(check_new_name(&numbered_name(&name, u64::MAX)).is_ok());
        }
    }

    #[test]
    fn everything_in_a_new_name_can_be_seen() {
        for name in [
            "Ann",
            "Jürgen Müller",
            "e\u{301}",
            "Nguyễn",
            "日本",
            "नमस्ते",
            "O'Neil",
            "Ann ❤\u{fe0f}",
            "🚀",
            "a/b",
            "שָׁלוֹם",
        ] {
            assert_eq!(check_new_name(name), Ok(()), "{name}");
        }
        for c in [
            "\u{3164}",
            "\u{ffa0}",
            "\u{115f}",
            "\u{1160}",
            "\u{34f}",
            "\u{fe0f}",
            "\u{180b}",
            "\u{17b4}",
            "\u{2800}",
            "\u{e0100}",
            "\u{1d173}",
            "\u{e000}",
            "\u{378}",
            "\u{200b}",
            "\u{13441}",
            "\u{13442}",
            "\u{16fe4}",
            "\u{fffc}",
            "\u{6dd}",
        ] {
            for name in [c.to_owned(), format!("ann{c}"), format!("{c}ann")] {
                assert!(check_new_name(&name).is_err(), "{name:?}");
            }
        }
        for name in ["\u{301}\u{301}", "a \u{301}b", "¨ann", &format!("a{}", "\u{316}".repeat(5))] {
            assert_eq!(check_new_name(name), Err(NameError::NothingToSee), "{name:?}");
        }
    }

    #[test]
    fn a_new_name_is_written_in_one_script() {
        for name in
            ["Пётр 1", "日本 Fan", "ジョン John", "한국 Fan", "सुनीता x1", "محمد Ali", "Ζεύς", "émile", "x1", "42"]
        {
            assert_eq!(check_new_name(name), Ok(()), "{name}");
        }
        for name in ["\u{430}dmin", "Zе\u{443}s", "Ζeus", "αb", "日本 Пётр", "раypal", "Օwen", "Ꭺnn", "सु한"]
        {
            assert_eq!(check_new_name(name), Err(NameError::MixedScripts), "{name}");
        }
    }

    #[test]
    fn only_names_of_other_scripts_look_alike() {
        assert!(looks_like("\u{441}\u{43e}\u{441}\u{43e}", "coco"), "Cyrillic");
        assert!(looks_like("COCO", "\u{441}\u{43e}\u{441}\u{43e}"));
        for (name, other) in [("modern", "modem"), ("coco", "coco"), ("Пётр", "Petr"), ("11", "ll")] {
            assert!(!looks_like(name, other), "{name} {other}");
        }
    }

    #[test]
    fn reserved_names_and_those_that_look_like_them_are_recognised() {
        for name in ["admin", "Admin", "ADMIN", "adrnin", "ａdmin", "systern"] {
            assert!(reserved_lookalike(name).is_some(), "{name}");
        }
        for name in ["ann", "administration", "ad min", "systems", "owner"] {
            assert_eq!(reserved_lookalike(name), None, "{name}");
        }
    }
}
