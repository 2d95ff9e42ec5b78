//! E-mail addresses: which texts are addresses, and which of them are the same.

/// The longest part before the `@` (RFC 5321, section 4.5.3.1.1).
const LOCAL_LIMIT_BYTES: usize = 64;

/// The key of an address: addresses with the same key are the same. `None`: the text is no address.
///
/// The part before the `@` is folded, although mail servers may distinguish case: nobody has two such accounts. The
/// domain is written in its ASCII form (`bücher.example` is `xn--bcher-kva.example`; UTS #46). Spaces around an address
/// come from the keyboards of phones.
pub(crate) fn key(address: &str) -> Option<String> {
    let (local, domain) = address.trim().rsplit_once('@')?;
    let is_local = !local.is_empty()
        && local.len() <= LOCAL_LIMIT_BYTES
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local.chars().all(|c| match c.is_ascii() {
            true => c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c),
            false => c.is_alphanumeric() || uproar_model::text::is_visible(&format!("a{c}")) && !c.is_whitespace(),
        });
    if !is_local {
        return None;
    }
    let domain = idna::domain_to_ascii_strict(domain).ok().filter(|domain| !domain.is_empty())?;
    Some(format!("{}@{domain}", uproar_model::text::fold(local)))
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
        ] {
            assert_eq!(key(address).as_deref(), Some(expected), "{address}");
        }
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
            &long,
        ] {
            assert_eq!(key(text), None, "{text:?}");
        }
    }
}
