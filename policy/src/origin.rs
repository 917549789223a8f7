//! Where in an import something stands.
//!
//! An origin is no part of the content: two values that stand in different places may be equal, so
//! every origin equals every other.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// A place in a file: line and column count from 1; line 0 is the file as a whole.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

impl Origin {
    /// The file as a whole.
    #[must_use]
    pub fn of(file: &str) -> Self {
        Self { file: file.into(), line: 0, column: 0 }
    }

    /// The place of an octet of `text`, the content of this file.
    #[must_use]
    pub fn at(&self, text: &str, octet: usize) -> Self {
        let mut end = octet.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { file: Arc::clone(&self.file), line: small(line), column: small(column) }
    }
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (0, _) => f.write_str(&self.file),
            (line, column) => write!(f, "{}:{line}:{column}", self.file),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        let file = Origin::of("before.toml");
        assert_eq!(file.to_string(), "before.toml");
        assert_eq!(file.at("ab\nüc", 0).to_string(), "before.toml:1:1");
        assert_eq!(file.at("ab\nüc", 5).to_string(), "before.toml:2:2");
        assert_eq!(file.at("ab\nüc", 4).to_string(), "before.toml:2:1", "inside a character");
        assert_eq!(file.at("ab\n", 99).to_string(), "before.toml:2:1");
    }
}
