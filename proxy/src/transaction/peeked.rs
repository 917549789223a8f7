//! What is seen of a message on its way through: its header, and a digest of that.
//!
//! Not here: what fields mean.

use smtp::HeaderPeek;

use crate::digest::Sha256;

/// Octets of a header that are digested: more is no header of a message.
const OCTETS_MAX: u64 = 64 * 1024;

/// Longest media type kept.
const MEDIA_TYPE_MAX: usize = 127;

/// A look at one message.
#[derive(Debug, Default)]
pub struct Peeked {
    header: HeaderPeek,
    digest: Sha256,
}

impl Peeked {
    /// Takes the next piece of mail data, as received.
    pub fn push(&mut self, wire: &[u8]) {
        if !self.header.done() {
            let octets = self.header.push(wire);
            let room = OCTETS_MAX.saturating_sub(self.digest.octets());
            let most = usize::try_from(room).unwrap_or(usize::MAX);
            self.digest.update(&wire[..octets.min(most)]);
        }
    }

    /// Mail data has ended.
    pub fn finish(&mut self) {
        self.header.finish();
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &HeaderPeek {
        &self.header
    }

    /// The digest of the header, as far as it was looked at.
    #[must_use]
    pub const fn digest(&self) -> &Sha256 {
        &self.digest
    }

    /// The media type, as written, without its parameters.
    #[must_use]
    pub fn media_type(&self) -> Option<&str> {
        let value = self.header.content_type()?;
        let media = value.split([';', ' ', '\t']).next().unwrap_or_default();
        (!media.is_empty() && media.len() <= MEDIA_TYPE_MAX).then_some(media)
    }
}
