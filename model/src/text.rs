//! Texts that people type: when two are the same, whether there is something to see, whether one fits, and where it may
//! be cut. Everything that compares, shows or bounds such texts uses these functions. Names have rules of their own, in
//! `name.rs`.
//!
//! A *character* is what people count as one: a grapheme cluster (UAX #29). A bound in characters always comes with one
//! in bytes, because a single character may have any number of them.

use icu_properties::props::{
    BasicEmoji, Dash, DefaultIgnorableCodePoint, Emoji, EmojiModifier, EmojiPresentation, ExtendedPictographic,
    GeneralCategory, PrependedConcatenationMark, SoftDotted,
};
use icu_properties::{CodePointMapData, CodePointSetData, EmojiSetData};
use std::borrow::Cow;
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_segmentation::UnicodeSegmentation;

/// The longest emoji, in bytes. The longest that Unicode recommends has 35.
pub const EMOJI_LIMIT_BYTES: usize = 48;

/// Folds a text so that texts which people can't tell apart become equal: those that differ only in case, width or
/// normal form ([`fold_case`]), in their spaces, in the kind of a hyphen or an apostrophe, or in what nobody sees.
/// Folding a folded text changes nothing.
pub fn fold(text: &str) -> String {
    if text.is_ascii() {
        return simplify(text.to_ascii_lowercase().chars());
    }
    let fold_once = |text: &str| {
        // NFKC would make a space and an accent of some apostrophes.
        let text: String = text.chars().map(plain_mark).collect();
        simplify(fold_case(&text).chars()).nfc().collect()
    };
    // What is simplified can have become foldable, such as a letter and an accent that something invisible separated.
    let once: String = fold_once(text);
    fold_once(&once)
}

/// NFKC and full case folding (UAX #15; section 3.13 of the Unicode Standard).
pub fn fold_case(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let fold_once = |text: &str| caseless::default_case_fold_str(&text.nfkc().collect::<String>()).nfkc().collect();
    let mut folded: String = fold_once(text);
    // For a few characters, folding undoes NFKC or NFKC undoes folding. Two more rounds reach a stable form.
    for _ in 0..2 {
        folded = fold_once(&folded);
    }
    folded
}

/// Leaves single spaces between words, one kind of hyphen and of apostrophe, and nothing that can't be seen.
fn simplify(text: impl Iterator<Item = char>) -> String {
    const DOT_ABOVE: char = '\u{307}';
    let mut out = String::new();
    let mut has_own_dot = false;
    for c in text.map(plain_mark) {
        let is_space = c.is_whitespace();
        if is_ignorable(c) || is_space && (out.is_empty() || out.ends_with(' ')) || c == DOT_ABOVE && has_own_dot {
            continue;
        }
        match canonical_combining_class(c) {
            0 => has_own_dot = is_soft_dotted(c),
            // A mark above takes the place of the dot.
            230 => has_own_dot = false,
            _ => {}
        }
        out.push(if is_space { ' ' } else { c });
    }
    out.truncate(out.trim_end().len());
    out
}

/// The usual hyphen or apostrophe in place of the others, which look like it in most fonts.
fn plain_mark(c: char) -> char {
    match c {
        '`' | '\u{b4}' | '\u{2018}' | '\u{2019}' | '\u{201b}' | '\u{2032}' | '\u{2035}' => '\'',
        // Modifier letters, Hebrew, Greek and Mesoamerican ones.
        '\u{2b9}'..='\u{2bf}' | '\u{2c8}' | '\u{2ca}' | '\u{2cb}' | '\u{5f3}' | '\u{a78b}' | '\u{a78c}' => '\'',
        '\u{1fbd}' | '\u{1fbf}' | '\u{1fef}' | '\u{1ffd}' | '\u{1ffe}' => '\'',
        _ if c.is_ascii() => c,
        _ if const { CodePointSetData::new::<Dash>() }.contains(c) => '-',
        _ => c,
    }
}

/// A password as it is hashed: its code points are compared, whichever keyboard typed them (the profile OpaqueString of
/// RFC 8265, section 4.2.2: spaces become U+0020, then NFC).
pub fn normalize_password(password: &str) -> String {
    let space = |c: char| if category(c) == GeneralCategory::SpaceSeparator { ' ' } else { c };
    password.chars().map(space).nfc().collect()
}

/// A text in NFD, which some keyboards produce.
pub fn decompose(text: &str) -> String {
    text.nfd().collect()
}

/// A text in NFC, as it is stored and shown.
pub fn normalize(text: String) -> String {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => text,
        _ => text.nfc().collect(),
    }
}

/// Whether a text has anything to see: a character that is no space, control, mark without a base, or blank.
/// Precisely: one that is not blank (`is_blank`), and either is a Prepended_Concatenation_Mark, such as U+06DD, which
/// encloses digits but is drawn without them too, or has none of the categories Cc, Cf, Z and M.
pub fn is_visible(text: &str) -> bool {
    text.chars().any(|c| c.is_ascii_graphic() || (!c.is_ascii() && shows_something(c)))
}

/// Whether a character shows something by itself. Characters that this version of Unicode does not know may be new
/// ones, so they count.
fn shows_something(c: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator, SpaceSeparator};
    let is_without_ink =
        matches!(category(c), Control | Format | SpaceSeparator | LineSeparator | ParagraphSeparator) || is_mark(c);
    !is_blank(c) && (!is_without_ink || const { CodePointSetData::new::<PrependedConcatenationMark>() }.contains(c))
}

/// Whether a character leaves no mark although its category does not say so: Default_Ignorable_Code_Point, the blanks
/// of Braille, music, hieroglyphs and Khitan, and the object replacement character.
pub(crate) fn is_blank(c: char) -> bool {
    is_ignorable(c) || matches!(c, '\u{2800}' | '\u{fffc}' | '\u{13441}' | '\u{13442}' | '\u{16fe4}' | '\u{1d159}')
}

/// Whether people could not tell a text with this character from one without it, or with another in its place: it is
/// blank, a control or format character, a line separator, private, or not assigned.
pub fn is_unclear(c: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, Unassigned};
    let category = category(c);
    is_blank(c) || matches!(category, Control | Format | LineSeparator | ParagraphSeparator | PrivateUse | Unassigned)
}

/// Whether a character is another form of others, such as a ligature or a full-width letter.
pub fn is_compatibility(c: char) -> bool {
    !c.nfkc().eq([c])
}

pub(crate) fn is_ignorable(c: char) -> bool {
    const { CodePointSetData::new::<DefaultIgnorableCodePoint>() }.contains(c)
}

pub(crate) fn category(c: char) -> GeneralCategory {
    const { CodePointMapData::<GeneralCategory>::new() }.get(c)
}

fn is_soft_dotted(c: char) -> bool {
    const { CodePointSetData::new::<SoftDotted>() }.contains(c)
}

pub(crate) fn is_mark(c: char) -> bool {
    use GeneralCategory::{EnclosingMark, NonspacingMark, SpacingMark};
    matches!(category(c), NonspacingMark | SpacingMark | EnclosingMark)
}

/// How many characters a text has.
pub fn count_characters(text: &str) -> usize {
    if text.is_ascii() && !text.contains('\r') { text.len() } else { text.graphemes(true).count() }
}

/// Whether a text has at most so many characters and bytes.
pub fn fits(text: &str, limit_characters: usize, limit_bytes: usize) -> bool {
    // No character has less than one byte, so most texts need not be counted.
    text.len() <= limit_bytes && (text.len() <= limit_characters || count_characters(text) <= limit_characters)
}

/// The beginning of a text, of at most so many bytes. Cut between two characters, unless the first is longer than that.
pub fn cut(text: &str, limit_bytes: usize) -> &str {
    if text.len() <= limit_bytes {
        return text;
    }
    let ends = text.grapheme_indices(true).map(|(start, grapheme)| start + grapheme.len());
    let end = ends.take_while(|end| *end <= limit_bytes).last();
    &text[..end.unwrap_or_else(|| text.floor_char_boundary(limit_bytes))]
}

/// The beginning of a text that is longer than so many bytes, and a note of what is missing.
pub fn cut_with_mark(text: &str, limit_bytes: usize) -> Cow<'_, str> {
    if text.len() <= limit_bytes {
        return text.into();
    }
    let mark = |left_out: usize| format!("\n… (cut; {left_out} more characters)");
    // The note is longest if nothing fits.
    let room = limit_bytes.saturating_sub(mark(text.len()).len());
    let kept = cut(text, room);
    if kept.is_empty() {
        return cut(text, limit_bytes).into();
    }
    let left_out = count_characters(text) - count_characters(kept);
    format!("{}{}", kept.trim_end(), mark(left_out)).into()
}

/// The emoji with this name, as GitHub and Slack have them between colons.
pub fn emoji_named(name: &str) -> Option<&'static str> {
    emojis::get_by_shortcode(name).map(emojis::Emoji::as_str)
}

/// The emoji that a text is, in the one form that Unicode recommends for it (RGI, UTS #51): with U+FE0F behind each
/// character that would otherwise be shown as text, and nowhere else. `None`: the text is anything but one emoji of at
/// most [`EMOJI_LIMIT_BYTES`].
pub fn emoji(text: &str) -> Option<String> {
    if text.len() > EMOJI_LIMIT_BYTES {
        return None;
    }
    let mut one = String::with_capacity(text.len() + 3);
    let mut rest = text.chars().filter(|c| *c != PRESENTATION).peekable();
    while let Some(c) = rest.next() {
        one.push(c);
        let has_tone = rest.peek().is_some_and(|next| is_modifier(*next));
        if is_shown_as_text(c) && !has_tone {
            one.push(PRESENTATION);
        }
    }
    // The table also has forms without selectors, but gives some of them the wrong skin tones.
    let is_known = emojis::get(&one).is_some_and(|known| known.as_str() == one);
    let mut chars = one.chars();
    let mut is_single = || matches!((chars.next(), chars.next()), (Some(only), None) if is_single_emoji(only));
    (is_known || is_single()).then_some(one)
}

const PRESENTATION: char = '\u{fe0f}';

fn is_modifier(c: char) -> bool {
    const { CodePointSetData::new::<EmojiModifier>() }.contains(c)
}

/// Whether a character could be an emoji, but is shown as text by itself.
fn is_shown_as_text(c: char) -> bool {
    const { CodePointSetData::new::<Emoji>() }.contains(c)
        && !const { CodePointSetData::new::<EmojiPresentation>() }.contains(c)
}

/// Whether a character that the table does not have is an emoji by itself: a skin tone, or one that Unicode keeps free
/// for emoji of later versions. Those that were added in recent years are all shown as emoji without U+FE0F.
fn is_single_emoji(c: char) -> bool {
    const { EmojiSetData::new::<BasicEmoji>() }.contains(c)
        || category(c) == GeneralCategory::Unassigned
            && const { CodePointSetData::new::<ExtendedPictographic>() }.contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_case_or_form_fold_to_one() {
        for (a, b) in [
            ("Zeus", "zeus"),
            ("σευς", "ΣΕΥΣ"),
            ("σευσ", "σευς"),
            ("Straße", "STRASSE"),
            ("Ünal", "u\u{308}nal"),
            ("ﬁsh", "FISH"),
            ("ＬＯＢＢＹ", "lobby"),
        ] {
            assert_eq!(fold_case(a), fold_case(b));
            assert_eq!(fold(a), fold(b));
        }
        assert_ne!(fold("ı"), fold("i"), "other letters");
    }

    #[test]
    fn texts_that_cannot_be_told_apart_fold_to_one() {
        for (text, folded) in [
            ("Ann  Lee", "ann lee"),
            (" ann\u{3000}\u{a0}lee\u{2003}", "ann lee"),
            ("x ❤\u{fe0f}", "x ❤"),
            ("1\u{fe0f}\u{20e3}", "1\u{20e3}"),
            ("a\u{3164}b\u{34f}", "ab"),
            ("e\u{34f}\u{301}", "é"),
            ("ni\u{307}", "ni"),
            ("n\u{130}", "ni"),
            ("j\u{323}\u{307}", "j\u{323}"),
            ("i\u{307}\u{301}", "í"),
            ("i\u{301}\u{307}", "í\u{307}"),
            ("e\u{307}", "ė"),
            ("a\u{2010}b\u{2011}c\u{2012}d\u{2013}e\u{2212}f\u{2014}g\u{ff0d}h", "a-b-c-d-e-f-g-h"),
            ("o\u{2019}n`n\u{b4}n\u{2bc}n\u{2032}n\u{ff07}n\u{1ffd}n\u{149}", "o'n'n'n'n'n'n'n'n"),
            ("ー", "ー"),
            (" \u{200b} ", ""),
        ] {
            assert_eq!(fold(text), folded, "{text:?}");
            assert_eq!(fold(folded), folded, "{text:?}");
        }
    }

    #[test]
    fn a_password_is_the_same_in_every_form() {
        assert_eq!(normalize_password("pa\u{308}sswo\u{308}rter e\u{301}"), "pässwörter é");
        assert_eq!(normalize_password("a\u{a0}b\u{3000}c"), "a b c");
        assert_eq!(normalize_password("ﬁ Ａ"), "ﬁ Ａ", "compatibility characters are kept");
        assert_eq!(normalize_password("tab\tTAB"), "tab\tTAB");
    }

    #[test]
    fn only_ink_is_visible() {
        for text in
            ["x", " x ", "\u{1f600}", "é", "e\u{301}", "한", "\u{fe0f}!", "\u{10ffff}", "\u{378}", "\u{6dd}", "\u{600}"]
        {
            assert!(is_visible(text), "{text:?}");
        }
        for text in [
            "",
            " \n\t",
            "\u{3164}",
            "\u{ffa0}",
            "\u{115f}",
            "\u{34f}",
            "\u{fe0f}",
            "\u{2800}",
            "\u{e0100}",
            "\u{1d173}",
            "\u{301}\u{301}",
            "\u{3000}",
            "\u{200b}\u{200d}",
            "\u{202e}",
            "\u{feff}",
            "\u{1d159}",
            "\u{13441}",
            "\u{13442}",
            "\u{16fe4}",
            "\u{fffc}",
            "\0",
        ] {
            assert!(!is_visible(text), "{text:?}");
        }
    }

    #[test]
    fn characters_are_what_people_count() {
        let family = "👩\u{200d}👩\u{200d}👧\u{200d}👦";
        for (text, count) in [("", 0), ("abc", 3), ("日本", 2), ("e\u{301}", 1), (family, 1), ("\r\n", 1)] {
            assert_eq!(count_characters(text), count, "{text:?}");
            assert!(fits(text, count, 100));
            assert!(count == 0 || !fits(text, count - 1, 100));
        }
        assert!(!fits("abc", 3, 2));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let family = "👩\u{200d}👩\u{200d}👧\u{200d}👦";
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abc", 2), "ab");
        assert_eq!(cut("日本", 5), "日");
        assert_eq!(cut(&format!("a{family}b"), 5), "a");
        assert_eq!(cut(&format!("a{family}b"), family.len() + 1), format!("a{family}"));
        assert_eq!(cut("ae\u{301}", 2), "a");
        assert_eq!(cut(family, 5), "👩", "the first character does not fit");
    }

    #[test]
    fn a_text_that_is_too_long_says_how_much_is_missing() {
        assert_eq!(cut_with_mark("abc", 3), "abc");
        let long = "é".repeat(100);
        let cut = cut_with_mark(&long, 100);
        assert_eq!(cut, format!("{}\n… (cut; 66 more characters)", "é".repeat(34)));
        assert!(cut.len() <= 100);
        assert_eq!(cut_with_mark(&long, 10), "é".repeat(5), "no room for a note");
        assert_eq!(cut_with_mark(&long, 1).len(), 0);
    }

    #[test]
    fn emoji_have_names() {
        assert_eq!(emoji_named("warning"), Some("⚠\u{fe0f}"));
        assert_eq!(emoji_named("+1"), Some("👍"));
        assert_eq!(emoji_named("no such"), None);
    }

    #[test]
    fn every_recommended_emoji_is_one() {
        let mut longest = 0;
        for known in emojis::iter() {
            let tones = known.skin_tones().into_iter().flatten().chain([known]);
            for known in tones.map(|known| known.as_str()) {
                assert_eq!(emoji(known).as_deref(), Some(known), "{known} {known:?}");
                // Most systems also send them without the selectors.
                let bare: String = known.chars().filter(|c| *c != PRESENTATION).collect();
                assert_eq!(emoji(&bare).as_deref(), Some(known), "{known} {bare:?}");
                assert_eq!(emoji(&format!("{known}\u{fe0f}")).as_deref(), Some(known), "{known}");
                longest = longest.max(known.len());
            }
        }
        assert_eq!(longest, 35);
    }

    #[test]
    fn an_emoji_has_one_form() {
        for (text, one) in [
            ("⭐\u{fe0f}", "⭐"),
            ("👍\u{fe0f}", "👍"),
            ("❤", "❤\u{fe0f}"),
            ("☝\u{fe0f}🏻", "☝🏻"),
            ("1\u{20e3}", "1\u{fe0f}\u{20e3}"),
            ("🏻", "🏻"),
            // Free for a later version of Unicode.
            ("\u{1faff}", "\u{1faff}"),
        ] {
            assert_eq!(emoji(text).as_deref(), Some(one), "{text:?}");
        }
    }

    #[test]
    fn other_texts_are_no_emoji() {
        for text in [
            "",
            " ",
            "x",
            "+1",
            "e17",
            "1",
            "#",
            "👍👍",
            "👍 ",
            " 👍",
            "👍x",
            "🇩",
            "🇩🇪🇩🇪",
            "🇦🇧",
            "👍\u{e0061}",
            "👍\u{e0067}\u{e007f}",
            "🏴\u{e0067}",
            "👍\u{200d}👎\u{200d}👍",
            "🅰\u{200d}🅱",
            "1\u{20e3}\u{200d}2\u{20e3}",
            "★",
            "\u{fe0f}",
            "👍\u{200d}",
            "\u{200d}👍",
            "1\u{20e3}x",
            "日",
            "\u{301}",
            ":)",
        ] {
            assert_eq!(emoji(text), None, "{text:?}");
        }
        let endless = "👍\u{200d}".repeat(20) + "👍";
        assert_eq!(emoji(&endless), None);
    }
}
