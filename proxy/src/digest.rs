//! SHA-256 over octets that come in pieces.
//!
//! Not here: what is digested (`transaction`, `replay`).

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

/// A digest that grows.
#[derive(Clone)]
pub struct Sha256 {
    context: Context,
    octets: u64,
}

impl Default for Sha256 {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), octets: 0 }
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sha256").field("octets", &self.octets).finish_non_exhaustive()
    }
}

impl Sha256 {
    /// Takes the next octets.
    pub fn update(&mut self, octets: &[u8]) {
        self.octets += octets.len() as u64;
        self.context.update(octets);
    }

    /// Octets so far.
    #[must_use]
    pub const fn octets(&self) -> u64 {
        self.octets
    }

    /// The digest of what came; none of nothing.
    #[must_use]
    pub fn finish(self) -> Option<[u8; 32]> {
        if self.octets == 0 {
            return None;
        }
        self.context.finish().as_ref().try_into().ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// FIPS 180-4, the first example of its appendix.
    #[test]
    fn pieces_make_no_difference() {
        let mut digest = Sha256::default();
        assert_eq!(digest.clone().finish(), None);
        digest.update(b"a");
        digest.update(b"bc");
        assert_eq!(digest.octets(), 3);
        assert_eq!(digest.finish().unwrap()[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
