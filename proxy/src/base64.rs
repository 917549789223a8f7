//! Base64 (RFC 4648 §4): octets in JSON.
//!
//! Invariants
//! - Octets have one text, and only that is read back: whole groups, padding at the end alone, no
//!   blanks, zeros in the bits that pad.
//!
//! Not here: the line lengths of MIME.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const PAD: u8 = b'=';

/// The text is not base64 as it is written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not base64 (RFC 4648 §4, with padding and without line ends)")]
pub struct DecodeError;

/// The text of these octets.
#[must_use]
pub fn encode(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len().div_ceil(3) * 4);
    for group in octets.chunks(3) {
        let [first, second, third] = [0, 1, 2].map(|at| group.get(at).copied().unwrap_or_default());
        let bits = u32::from_be_bytes([0, first, second, third]);
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let letter = ALPHABET[(bits >> shift & 63) as usize];
            text.push(char::from(if place <= group.len() { letter } else { PAD }));
        }
    }
    text
}

/// The octets of this text.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(text: &str) -> Result<Vec<u8>, DecodeError> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return Err(DecodeError);
    }
    let padding = text.iter().rev().take(2).take_while(|letter| **letter == PAD).count();
    let mut octets = Vec::with_capacity(text.len() / 4 * 3);
    for group in text[..text.len() - padding].chunks(4) {
        let mut bits = 0_u32;
        for place in 0..4 {
            let value = group.get(place).map_or(Ok(0), |letter| value(*letter))?;
            bits = bits << 6 | value;
        }
        let [_, whole @ ..] = bits.to_be_bytes();
        let known = group.len() * 6 / 8;
        // Bits that pad are zero, else another text would mean the same.
        if whole[known..].iter().any(|octet| *octet != 0) {
            return Err(DecodeError);
        }
        octets.extend_from_slice(&whole[..known]);
    }
    Ok(octets)
}

fn value(letter: u8) -> Result<u32, DecodeError> {
    let value = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return Err(DecodeError),
    };
    Ok(u32::from(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_standard_are_met_both_ways() {
        let examples = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (octets, text) in examples {
            assert_eq!(encode(octets.as_bytes()), text);
            assert_eq!(decode(text), Ok(octets.as_bytes().to_vec()));
        }
        assert_eq!(decode("+/+/"), Ok(vec![0xfb, 0xff, 0xbf]));
    }

    #[test]
    fn another_text_for_the_same_octets_is_refused() {
        for text in
            ["Zg", "Zg=", "Zh==", "Zm9=", "Zg==Zg==", "Zm9v\n", "====", "Z===", "Z\u{fc}8=", "-_-_"]
        {
            assert_eq!(decode(text), Err(DecodeError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_read_back(octets: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&octets)), Ok(octets));
        }

        #[test]
        fn what_is_read_is_what_would_be_written(text in "[A-Za-z0-9+/=]{0,12}") {
            if let Ok(octets) = decode(&text) {
                prop_assert_eq!(encode(&octets), text);
            }
        }
    }
}
