//! UTF-16 into UTF-8, as it comes.
//!
//! Not here: what is done with the text (`import`).

/// A converter; which octet of two is the higher, the mark at the beginning of the file says.
#[derive(Debug)]
pub struct Utf16 {
    big: bool,
    /// Half of a unit.
    octet: Option<u8>,
    /// The first unit of a pair.
    high: Option<u16>,
}

impl Utf16 {
    /// For a file that begins with `octets`; `None` if it is not UTF-16.
    #[must_use]
    pub fn of(octets: &[u8]) -> Option<Self> {
        let big = match octets {
            [0xfe, 0xff, ..] => true,
            [0xff, 0xfe, ..] => false,
            _ => return None,
        };
        Some(Self { big, octet: None, high: None })
    }

    /// Adds the text of the next octets to `text`. What is no text becomes U+FFFD.
    pub fn push(&mut self, octets: &[u8], text: &mut Vec<u8>) {
        for octet in octets {
            let Some(first) = self.octet.take() else {
                self.octet = Some(*octet);
                continue;
            };
            let pair = [first, *octet];
            let unit = if self.big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) };
            self.unit(unit, text);
        }
    }

    /// Nothing more comes.
    pub fn finish(&mut self, text: &mut Vec<u8>) {
        if self.octet.take().is_some() | self.high.take().is_some() {
            add(char::REPLACEMENT_CHARACTER, text);
        }
    }

    fn unit(&mut self, unit: u16, text: &mut Vec<u8>) {
        if (0xd800..0xdc00).contains(&unit) {
            if self.high.replace(unit).is_some() {
                add(char::REPLACEMENT_CHARACTER, text);
            }
            return;
        }
        let units = self.high.take().into_iter().chain([unit]);
        for found in char::decode_utf16(units) {
            add(found.unwrap_or(char::REPLACEMENT_CHARACTER), text);
        }
    }
}

fn add(found: char, text: &mut Vec<u8>) {
    text.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn convert(octets: &[u8], chunk: usize) -> String {
        let mut utf16 = Utf16::of(octets).unwrap();
        let mut text = Vec::new();
        octets.chunks(chunk).for_each(|chunk| utf16.push(chunk, &mut text));
        utf16.finish(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_is_no_text_becomes_a_replacement() {
        assert_eq!(
            convert(b"\xff\xfea\0\0\xd8b\0\0\xdcc\0\0\xd8", 3),
            "\u{feff}a\u{fffd}b\u{fffd}c\u{fffd}"
        );
        assert_eq!(convert(b"\xfe\xff\0a\0", 3), "\u{feff}a\u{fffd}");
        assert!(Utf16::of(b"Nov 24").is_none());
    }

    proptest! {
        #[test]
        fn text_survives_in_both_orders_and_any_chunks(text in ".{0,30}", chunk in 1..7_usize) {
            let text = format!("\u{feff}{text}");
            let units: Vec<u16> = text.encode_utf16().collect();
            let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
            prop_assert_eq!(&convert(&little, chunk), &text);
            prop_assert_eq!(&convert(&big, chunk), &text);
        }
    }
}
