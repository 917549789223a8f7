//! What a file is known by, and how far it was read.
//!
//! Rotation renames, compresses and copies: neither the name of a file nor its inode lasts. What lasts
//! is its content, so a [`Mark`] knows a file by its first octets and by those before an offset; the
//! inode is a hint for where to look first.
//!
//! Invariants
//! - Octets and offsets are those of the uncompressed content.
//! - A [`Checkpoint`] is all that must be kept: with it, exactly the lines behind it are told.
//!
//! Not here: where checkpoints are kept (the caller's database), opening files (`source`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::maillog::files::chain::{Head, sha256};
use crate::maillog::files::lines::Skipped;

/// Most octets that a [`Fingerprint`] is of.
pub const FINGERPRINT_OCTETS: usize = 1024;

/// Most octets before an offset that a [`Mark`] is of.
pub const END_OCTETS: usize = 4096;

/// An inode: one file of a machine, for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub inode: u64,
}

/// A hash of the first octets of a file; of fewer than 1024 while the file is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// How many octets: at most 1024.
    pub octets: u32,
    /// Their hash.
    pub sha256: [u8; 32],
}

impl Fingerprint {
    /// Of the first octets of a file; what is behind the 1024th does not matter.
    #[must_use]
    pub fn of(first: &[u8]) -> Self {
        let first = &first[..first.len().min(FINGERPRINT_OCTETS)];
        Self { octets: u32::try_from(first.len()).unwrap_or(u32::MAX), sha256: sha256(first) }
    }

    /// True if a file that begins with `first` has this fingerprint. That of no octets has none.
    #[must_use]
    pub fn matches(&self, first: &[u8]) -> bool {
        let octets = self.octets as usize;
        octets > 0 && first.get(..octets).is_some_and(|first| sha256(first) == self.sha256)
    }
}

/// A place in a file, and what the file is known by there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Where it was last seen.
    pub file: FileId,
    /// Its first octets.
    pub fingerprint: Fingerprint,
    /// The place.
    pub offset: u64,
    /// SHA-256 of the (at most 4096) octets before the place: a file whose beginning is the same, but
    /// not what follows, is another.
    pub end: [u8; 32],
}

impl Mark {
    /// How many octets `end` is of.
    #[must_use]
    pub const fn end_octets(&self) -> u64 {
        if self.offset < END_OCTETS as u64 { self.offset } else { END_OCTETS as u64 }
    }
}

/// How far one file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The file, and the offset behind the last line that was told.
    pub mark: Mark,
    /// The chain at that offset.
    pub chain: Head,
    /// Why the offset stands inside a line whose rest is not told, if it does.
    pub inside: Option<Skipped>,
}

/// How far a followed log was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The path as followed.
    pub path: PathBuf,
    /// The file that is being read; nothing between two files, of the second of which no octet was
    /// seen.
    pub reading: Option<Known>,
    /// The file before it in order of age, or none if there was none: what is between that and the
    /// followed file was not told yet, even if it was rotated away before an octet was seen.
    pub before: Option<Mark>,
}

/// Where octets stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The path that the file had when it was opened.
    pub path: PathBuf,
    /// The file.
    pub file: FileId,
    /// Offset of the first octet.
    pub offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_of_few_octets_matches_the_file_that_has_grown() {
        let few = Fingerprint::of(b"Nov 24");
        assert_eq!(few.octets, 6);
        assert!(few.matches(b"Nov 24 10:00:00 mx postfix"));
        assert!(!few.matches(b"Nov 2"));
        assert!(!few.matches(b"Nov 25 10:00:00"));
    }

    #[test]
    fn a_fingerprint_ends_at_1024_octets() {
        let long = vec![b'x'; 5000];
        assert_eq!(Fingerprint::of(&long), Fingerprint::of(&long[..1024]));
        assert!(!Fingerprint::of(&long).matches(&long[..1023]));
    }

    #[test]
    fn the_fingerprint_of_nothing_matches_nothing() {
        assert!(!Fingerprint::of(b"").matches(b"x"));
        assert!(!Fingerprint::of(b"").matches(b""));
    }
}
