//! Places of a text: the line and the column of any octet, found without counting from the front.
//!
//! [`Origin::at`] counts, which is right for one error. An export has a place for every node, often
//! all in one line, and counting for each would take the square of its length.
//!
//! Not here: what stands there (`tree`, `import`).

use std::sync::Arc;

use crate::origin::Origin;

/// Octets between two counts of characters.
const BLOCK_OCTETS: usize = 1024;

/// A text whose lines and characters were counted once.
pub(crate) struct Places<'t> {
    file: Origin,
    text: &'t str,
    /// Where lines begin.
    lines: Vec<usize>,
    /// Characters before each block.
    blocks: Vec<usize>,
}

impl<'t> Places<'t> {
    /// Counts the lines and characters of a file's content.
    pub(crate) fn new(file: &str, text: &'t str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = [0].into_iter().chain(breaks.map(|(octet, _)| octet + 1)).collect();
        let mut blocks = vec![0];
        let mut characters = 0;
        for block in text.as_bytes().chunks(BLOCK_OCTETS) {
            characters += characters_in(block);
            blocks.push(characters);
        }
        Self { file: Origin::of(file), text, lines, blocks }
    }

    /// The file as a whole.
    pub(crate) const fn file(&self) -> &Origin {
        &self.file
    }

    /// The place of an octet.
    pub(crate) fn at(&self, octet: usize) -> Origin {
        let mut octet = octet.min(self.text.len());
        while !self.text.is_char_boundary(octet) {
            octet -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= octet);
        let start = self.lines[line - 1];
        let column = self.characters_before(octet) - self.characters_before(start) + 1;
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Origin { file: Arc::clone(&self.file.file), line: small(line), column: small(column) }
    }

    fn characters_before(&self, octet: usize) -> usize {
        let block = octet / BLOCK_OCTETS;
        self.blocks[block] + characters_in(&self.text.as_bytes()[block * BLOCK_OCTETS..octet])
    }
}

/// Octets that begin a character (RFC 3629 §3).
fn characters_in(octets: &[u8]) -> usize {
    octets.iter().filter(|octet| (**octet & 0xC0) != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_one_that_counting_from_the_front_finds() {
        let text = format!("ab\n{}\n\nüc{}", "ö€x".repeat(700), "\n€".repeat(300));
        let places = Places::new("x", &text);
        for octet in 0..=text.len() + 1 {
            let counted = Origin::of("x").at(&text, octet);
            assert_eq!(places.at(octet).to_string(), counted.to_string(), "octet {octet}");
        }
        assert_eq!(Places::new("x", "").at(0).to_string(), "x:1:1");
    }
}
