//! xtext (RFC 3461 §4): any octets as printable US-ASCII without `+` and `=`.
//!
//! Used to print XFORWARD attributes and to read ENVID and ORCPT for reports. What a client sent is
//! relayed as it came and never goes through here.

/// Appends `text` to `out` as xtext: every octet outside `!`..`~`, and `+` and `=`, becomes `+HH`.
pub fn xtext_encode(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        if byte.is_ascii_graphic() && byte != b'+' && byte != b'=' {
            out.push(byte);
        } else {
            let high = HEX[usize::from(byte >> 4)];
            let low = HEX[usize::from(byte & 15)];
            out.extend_from_slice(&[b'+', high, low]);
        }
    }
}

/// Decodes xtext; `None` where a `+` is not followed by two upper-case hexadecimal digits, or where
/// an octet may not stand in xtext.
#[must_use]
pub fn xtext_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (b'+', [high, low, tail @ ..]) => {
                out.push(hex_digit(*high)? << 4 | hex_digit(*low)?);
                tail
            }
            (b'+' | b'=', _) => return None,
            (byte, tail) if byte.is_ascii_graphic() => {
                out.push(*byte);
                tail
            }
            _ => return None,
        };
    }
    Some(out)
}

/// Value of an upper-case hexadecimal digit (RFC 3461 §4 knows no others).
const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plus_equals_and_space_are_escaped() {
        let mut out = Vec::new();
        xtext_encode(b"a+b=c d", &mut out);
        assert_eq!(out, b"a+2Bb+3Dc+20d");
        assert_eq!(xtext_decode(&out).unwrap(), b"a+b=c d");
    }

    #[test]
    fn malformed_escapes_are_refused() {
        for bad in ["+", "+2", "+2b", "+GG", "a=b", "a b", "\u{e9}"] {
            assert_eq!(xtext_decode(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_survive_a_round_trip(text: Vec<u8>) {
            let mut out = Vec::new();
            xtext_encode(&text, &mut out);
            prop_assert!(out.iter().all(u8::is_ascii_graphic));
            prop_assert_eq!(xtext_decode(&out), Some(text));
        }

        #[test]
        fn decoding_is_total(text: Vec<u8>) {
            let decoded = xtext_decode(&text);
            prop_assert!(decoded.is_none_or(|octets| octets.len() <= text.len()));
        }
    }
}
