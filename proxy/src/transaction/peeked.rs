//! What is seen of a message on its way through: its header, and a digest of that.
//!
//! Not here: what fields mean.

use smtp::HeaderPeek;

use crate::digest::Sha256;
use crate::id::TransactionId;

/// Octets of a header that are digested: more is no header of a message.
const OCTETS_MAX: u64 = 64 * 1024;

/// Longest media type kept.
const MEDIA_TYPE_MAX: usize = 127;

/// A look at one message.
#[derive(Debug, Default)]
pub struct Peeked {
    header: HeaderPeek,
    digest: Option<Sha256>,
    octets: u32,
    value: Option<[u8; 32]>,
}

impl Peeked {
    /// Takes the next piece of mail data, as received.
    pub fn push(&mut self, wire: &[u8]) {
        if !self.header.done() {
            let octets = self.header.push(wire);
            let digest = self.digest.get_or_insert_default();
            let room = OCTETS_MAX.saturating_sub(digest.octets());
            let most = usize::try_from(room).unwrap_or(usize::MAX);
            digest.update(&wire[..octets.min(most)]);
        }
    }

    /// Mail data has ended.
    pub fn finish(&mut self) {
        self.header.finish();
        if let Some(digest) = self.digest.take() {
            self.octets = u32::try_from(digest.octets()).unwrap_or(u32::MAX);
            self.value = digest.finish();
        }
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &HeaderPeek {
        &self.header
    }

    /// The id in the topmost trace field of a lockgate.
    #[must_use]
    pub fn passed_as(&self) -> Option<u64> {
        let id: TransactionId = self.header.trace_id()?.parse().ok()?;
        Some(id.as_u64())
    }

    /// Octets of the header that were looked at, and their SHA-256; known at the end.
    #[must_use]
    pub const fn digest(&self) -> (u32, Option<[u8; 32]>) {
        (self.octets, self.value)
    }

    /// The media type, as written, without its parameters.
    #[must_use]
    pub fn media_type(&self) -> Option<&str> {
        let value = self.header.content_type()?;
        let media = value.split([';', ' ', '\t']).next().unwrap_or_default();
        (!media.is_empty() && media.len() <= MEDIA_TYPE_MAX).then_some(media)
    }
}
