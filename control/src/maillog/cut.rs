//! Cutting a text in two: as the methods of `str` do it, but by memchr, since a log has millions of lines.
//!
//! Not here: what the parts mean.

use memchr::{memchr, memmem};

/// Before and behind the first `octet`, which is ASCII.
pub(super) fn cut(text: &str, octet: u8) -> Option<(&str, &str)> {
    let at = memchr(octet, text.as_bytes())?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Before and behind the first `, `.
pub(super) fn comma(text: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let at = from + memchr(b',', text.as_bytes().get(from..)?)?;
        if let Some(behind) = text.get(at + 1..)?.strip_prefix(' ') {
            return Some((text.get(..at)?, behind));
        }
        from = at + 1;
    }
}

/// Before and behind the last `mark`.
pub(super) fn last<'a>(text: &'a str, mark: &str) -> Option<(&'a str, &'a str)> {
    let at = memmem::rfind(text.as_bytes(), mark.as_bytes())?;
    Some((text.get(..at)?, text.get(at + mark.len()..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_cut_where_the_methods_of_str_do(text in "[a, é>]{0,20}") {
            prop_assert_eq!(cut(&text, b'>'), text.split_once('>'));
            prop_assert_eq!(comma(&text), text.split_once(", "));
            prop_assert_eq!(last(&text, "a,"), text.rsplit_once("a,"));
        }
    }
}
