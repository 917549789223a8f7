//! Mail data on its way to the committer, in order: large pieces as they came, small ones copied
//! together.
//!
//! Invariants
//! - A piece that is kept as it came fills at least half of the buffer that it keeps alive (its giver
//!   sees to it), so that memory stays in proportion to octets.
//!
//! Not here: frames and their bounds (`writer`).

use bytes::Bytes;

/// Pieces of mail data.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    before: Vec<Bytes>,
    /// The last piece, while it is copied together.
    last: Vec<u8>,
    octets: usize,
}

impl Pieces {
    /// Octets in all.
    pub(super) const fn len(&self) -> usize {
        self.octets
    }

    /// Adds a copy.
    pub(super) fn copy(&mut self, octets: &[u8]) {
        self.octets += octets.len();
        self.last.extend_from_slice(octets);
    }

    /// Adds a piece as it is.
    pub(super) fn take(&mut self, piece: Bytes) {
        self.octets += piece.len();
        if !self.last.is_empty() {
            self.before.push(std::mem::take(&mut self.last).into());
        }
        self.before.push(piece);
    }

    /// Writes all of it behind `out`.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        for piece in &self.before {
            out.extend_from_slice(piece);
        }
        out.extend_from_slice(&self.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_whether_pieces_are_copied_or_not() {
        let mut pieces = Pieces::default();
        pieces.copy(b"one ");
        pieces.copy(b"two ");
        pieces.take(Bytes::from_static(b"three "));
        pieces.take(Bytes::from_static(b"four "));
        pieces.copy(b"five");
        let mut all = b"zero ".to_vec();
        pieces.append_to(&mut all);
        assert_eq!(all, b"zero one two three four five");
        assert_eq!(pieces.len(), all.len() - 5);
    }
}
