//! A hash over a file that can be continued, and computed again from the file alone.
//!
//! `h` begins as 32 zero octets. For every full block of 65536 octets `h` becomes
//! `SHA-256(h || block)`; the value at an offset is `SHA-256(h || rest)`, where `rest` are the octets
//! behind the last full block (perhaps none).
//!
//! Invariants
//! - The value depends on the octets alone, not on how they were cut into pushes, nor on restarts.
//! - To continue, a [`Head`] and at most one block of the file are enough.
//!
//! Not here: which octets are hashed (always the uncompressed ones: `reading`, `import`).

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use aws_lc_rs::digest::{self, Context, SHA256};
use serde::{Deserialize, Serialize};

/// Octets of a block.
pub const BLOCK_OCTETS: u64 = 65536;

/// Octets read at a time.
const READ_OCTETS: usize = 65536;

/// What must be kept to continue a chain: the hash at the last full block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// `h` behind the last full block.
    pub block: [u8; 32],
    /// Octets in full blocks.
    pub octets: u64,
}

impl Head {
    /// Of no octets.
    const START: Self = Self { block: [0; 32], octets: 0 };
}

/// See the head of this file.
#[derive(Clone)]
pub struct Chain {
    head: Head,
    /// Octets behind the last full block; `context` has hashed them behind the head.
    rest: u64,
    context: Context,
}

impl Default for Chain {
    fn default() -> Self {
        Self::at(Head::START)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("head", &self.head).field("rest", &self.rest).finish()
    }
}

impl Chain {
    fn at(head: Head) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&head.block);
        Self { head, rest: 0, context }
    }

    /// Continues at `octets` of `file`, of which at most one block is read.
    ///
    /// # Errors
    /// If `octets` are not less than a block behind the head, or the file is shorter.
    pub fn resume<F: Read + Seek>(head: Head, file: &mut F, octets: u64) -> io::Result<Self> {
        let rest = octets.checked_sub(head.octets).filter(|rest| *rest < BLOCK_OCTETS);
        let Some(rest) = rest else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the offset is not in the block",
            ));
        };
        file.seek(SeekFrom::Start(head.octets))?;
        let mut chain = Self::at(head);
        chain.push_from(file, rest)?;
        Ok(chain)
    }

    /// Adds octets.
    pub fn push(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let room = usize::try_from(BLOCK_OCTETS - self.rest).unwrap_or(usize::MAX);
            let (now, later) = octets.split_at(room.min(octets.len()));
            self.context.update(now);
            self.rest += now.len() as u64;
            if self.rest == BLOCK_OCTETS {
                let octets = self.head.octets + BLOCK_OCTETS;
                *self = Self::at(Head { block: self.value(), octets });
            }
            octets = later;
        }
    }

    /// Adds the next `octets` of what is read.
    ///
    /// # Errors
    /// `UnexpectedEof` if there are fewer.
    pub fn push_from(&mut self, from: &mut impl Read, octets: u64) -> io::Result<()> {
        each_chunk(from, octets, |chunk| self.push(chunk))
    }

    /// Octets so far.
    #[must_use]
    pub const fn octets(&self) -> u64 {
        self.head.octets + self.rest
    }

    /// What to keep in order to continue.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// The value here.
    #[must_use]
    pub fn value(&self) -> [u8; 32] {
        array(&self.context.clone().finish())
    }
}

/// The value of the first `octets` of a file, from the file alone.
///
/// # Errors
/// `UnexpectedEof` if there are fewer.
pub fn of_prefix(file: &mut impl Read, octets: u64) -> io::Result<[u8; 32]> {
    let mut chain = Chain::default();
    chain.push_from(file, octets)?;
    Ok(chain.value())
}

/// Hands the next `octets` of what is read to `each`, in pieces.
pub(crate) fn each_chunk(
    from: &mut impl Read,
    octets: u64,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; READ_OCTETS];
    let mut left = octets;
    while left > 0 {
        let want = usize::try_from(left).map_or(READ_OCTETS, |left| left.min(READ_OCTETS));
        match from.read(&mut buffer[..want]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                each(&buffer[..read]);
                left -= read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// SHA-256 of octets.
pub(crate) fn sha256(octets: &[u8]) -> [u8; 32] {
    array(&digest::digest(&SHA256, octets))
}

/// A digest of SHA-256 as an array.
pub(crate) fn array(digest: &digest::Digest) -> [u8; 32] {
    let mut value = [0; 32];
    value.copy_from_slice(digest.as_ref());
    value
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn content(octets: usize) -> Vec<u8> {
        (0..octets).map(|n| (n % 251) as u8).collect()
    }

    /// The definition, word for word.
    fn defined(content: &[u8]) -> [u8; 32] {
        let mut hash = [0; 32];
        let blocks = content.chunks_exact(65536);
        let rest = blocks.remainder();
        for block in blocks {
            hash = sha256(&[&hash, block].concat());
        }
        sha256(&[&hash, rest].concat())
    }

    #[test]
    fn the_value_is_as_defined_at_and_around_the_ends_of_blocks() {
        for octets in [0, 1, 65535, 65536, 65537, 131_071, 131_072, 200_000] {
            let content = content(octets);
            let mut chain = Chain::default();
            chain.push(&content);
            assert_eq!(chain.value(), defined(&content), "{octets} octets");
            assert_eq!(chain.octets(), octets as u64);
            let prefix = of_prefix(&mut content.as_slice(), octets as u64).unwrap();
            assert_eq!(prefix, defined(&content), "{octets} octets");
        }
        let known = "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b";
        let of_64_zeros = of_prefix(&mut &[0_u8; 32][..], 32).unwrap();
        let shown: String = of_64_zeros.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(shown, known, "h0 is 32 zero octets");
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let error = of_prefix(&mut &b"abc"[..], 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let head = Chain::default().head();
        assert!(Chain::resume(head, &mut Cursor::new(b"abc"), 4).is_err());
        assert!(Chain::resume(head, &mut Cursor::new(content(70_000)), 65536).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_and_restarts_do_not_change_the_value(
            cuts in prop::collection::vec(0..200_000_usize, 0..6),
        ) {
            let content = content(200_000);
            let mut cuts = cuts;
            cuts.extend([0, 200_000]);
            cuts.sort_unstable();
            let mut chain = Chain::default();
            for pair in cuts.windows(2) {
                chain.push(&content[pair[0]..pair[1]]);
                let head = serde_json::to_string(&chain.head()).unwrap();
                let head = serde_json::from_str(&head).unwrap();
                chain = Chain::resume(head, &mut Cursor::new(&content), pair[1] as u64).unwrap();
            }
            prop_assert_eq!(chain.value(), defined(&content));
        }
    }
}
