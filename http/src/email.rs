//! E-mail addresses: which texts are addresses, and which of them are the same.

use uproar_model::text::{fold_case, is_compatibility, is_unclear, normalize};

/// The longest part before the `@` (RFC 5321, section 4.5.3.1.1).
const LOCAL_LIMIT_BYTES: usize = 64;

/// The key of an address: addresses with the same key are the same. `None`: the text is no address.
///
/// The part before the `@` is written in lower case and NFC, although mail servers may distinguish case: nobody has two
/// such accounts. Letters that are merely related, such as `ß` and `ss`, remain apart, because the addresses may be two
/// people's. The domain is written in its ASCII form (`bücher.example` is `xn--bcher-kva.example`; UTS #46). Spaces
/// around an address come from the keyboards of phones.
pub(crate) fn key(address: &str) -> Option<String> {
    let (local, domain) = split(address)?;
    let local = normalize(normalize(local.to_owned()).to_lowercase());
    let is_local = !local.is_empty()
        && local.len() <= LOCAL_LIMIT_BYTES
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local.chars().all(is_allowed);
    is_local.then(|| format!("{local}@{domain}"))
}

/// The keys under which the account with this address may be stored, the current one first. Earlier versions folded
/// more than case, and the first ones stored the whole address in lower case.
pub(crate) fn stored_keys(address: &str) -> Vec<String> {
    let folded = split(address).map(|(local, domain)| format!("{}@{domain}", fold_case(local)));
    let mut keys: Vec<String> = Vec::new();
    for key in [key(address), folded, Some(address.to_lowercase())].into_iter().flatten() {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The part before the `@`, and the domain in ASCII.
fn split(address: &str) -> Option<(&str, String)> {
    let (local, domain) = address.trim().rsplit_once('@')?;
    let domain = idna::domain_to_ascii_strict(domain).ok().filter(|domain| !domain.is_empty())?;
    Some((local, domain))
}

/// Whether a character can be a part of the local part (RFC 5322, section 3.2.3; RFC 6532). Those that no mailbox has
/// because others stand for them (compatibility characters, RFC 8264, section 9.17) or because nobody sees them are not
/// allowed: people could not tell such an address from another one.
fn is_allowed(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    }
    !c.is_whitespace() && !is_unclear(c) && !is_compatibility(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_key() {
        for (address, expected) in [
            ("Ann@Example.org", "ann@example.org"),
            (" ann@example.org ", "ann@example.org"),
            ("ann@b\u{fc}cher.example", "ann@xn--bcher-kva.example"),
            ("ann@bu\u{308}cher.example", "ann@xn--bcher-kva.example"),
            ("ann@xn--bcher-kva.example", "ann@xn--bcher-kva.example"),
            ("\u{c4}nn+x.y@example.org", "\u{e4}nn+x.y@example.org"),
            ("o'neil@localhost", "o'neil@localhost"),
            ("Stra\u{df}e@example.org", "stra\u{df}e@example.org"),
            ("\u{3c3}\u{3b5}\u{3c5}\u{3c2}@example.org", "\u{3c3}\u{3b5}\u{3c5}\u{3c2}@example.org"),
            ("\u{1f600}@example.org", "\u{1f600}@example.org"),
        ] {
            assert_eq!(key(address).as_deref(), Some(expected), "{address}");
            assert_eq!(key(expected).as_deref(), Some(expected), "{address}");
        }
    }

    #[test]
    fn an_address_is_also_looked_up_as_earlier_versions_stored_it() {
        assert_eq!(stored_keys("Ann@Example.org"), ["ann@example.org"]);
        assert_eq!(stored_keys("Stra\u{df}e@example.org"), ["stra\u{df}e@example.org", "strasse@example.org"]);
        assert_eq!(stored_keys("\u{fb01}@example.org"), ["fi@example.org", "\u{fb01}@example.org"]);
        assert_eq!(stored_keys("Ann"), ["ann"]);
    }

    #[test]
    fn the_limit_is_that_of_the_normalised_address() {
        // 189 bytes as they are typed.
        let parts = uproar_model::text::decompose(&"\u{ac01}".repeat(21));
        assert_eq!(key(&format!("{parts}@example.org")), Some(format!("{}@example.org", "\u{ac01}".repeat(21))));
        assert_eq!(key(&format!("{parts}ab@example.org")), None);
    }

    #[test]
    fn other_texts_are_no_addresses() {
        let long = format!("{}@example.org", "x".repeat(65));
        for text in [
            "",
            "ann",
            "ann@",
            "@example.org",
            "a b@example.org",
            "ann@exa mple.org",
            "a\0@example.org",
            "a@b@c d",
            ".ann@example.org",
            "ann.@example.org",
            "a..b@example.org",
            "ann@-x.org",
            "ann@xn--a.org",
            "ann@ex_ample.org",
            "\"a b\"@example.org",
            "ann\u{a0}@example.org",
            "x\u{ff20}y@example.org",
            "a\u{ff0e}\u{ff0e}b@example.org",
            "\u{ff0e}a@example.org",
            "a\u{ff1c}script\u{ff1e}@example.org",
            "a\u{a8}b@example.org",
            "\u{fdfa}\u{fdfa}\u{fdfa}@example.org",
            &long,
        ] {
            assert_eq!(key(text), None, "{text:?}");
        }
        for c in "\u{200b}\u{202e}\u{ad}\u{fe0f}\u{3164}\u{80}\u{2028}\u{e000}\u{378}\u{2800}".chars() {
            assert_eq!(key(&format!("ann{c}@example.org")), None, "{c:?}");
        }
    }
}
