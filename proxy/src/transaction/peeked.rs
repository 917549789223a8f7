//! What is seen of a message on its way through: its header, and a digest of that.
//!
//! Not here: what fields mean.

use smtp::HeaderPeek;

use crate::digest::Sha256;
use crate::id::TransactionId;
use crate::token::Token;

/// Octets of a header that are digested: more is no header of a message.
const OCTETS_MAX: u64 = 64 * 1024;

/// Longest media type kept, and longest word of another field that tells of the form.
const WORD_MAX: usize = 127;

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
        (!media.is_empty() && media.len() <= WORD_MAX).then_some(media)
    }

    /// A parameter of the Content-Type field, without its quotes, where it is a plain word.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (_, parameters) = self.header.content_type()?.split_once(';')?;
        let mut quoted = false;
        let mut parts = parameters.split(|c| {
            quoted ^= c == '"';
            c == ';' && !quoted
        });
        let value = parts.find_map(|part| {
            let (found, value) = part.split_once('=')?;
            found.trim().eq_ignore_ascii_case(name).then_some(value)
        });
        word(value?.trim().trim_matches('"'))
    }

    /// `X-PGP-Encoding-Format`, where it is a plain word.
    #[must_use]
    pub fn encoding_format(&self) -> Option<&str> {
        word(self.header.encoding_format()?)
    }

    /// The token of the probe that it says to be.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        self.header.probe()?.parse().ok()
    }
}

/// What is worth writing down of the words of strangers.
fn word(text: &str) -> Option<&str> {
    let plain = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_graphic());
    (plain && text.len() <= WORD_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peeked(header: &str) -> Peeked {
        let mut peeked = Peeked::default();
        peeked.push(header.as_bytes());
        peeked.finish();
        peeked
    }

    #[test]
    fn what_the_header_says_of_the_form_is_read_with_and_without_quotes() {
        let pgp = peeked(
            "Content-Type: multipart/encrypted; x=\"; protocol=no\";\r\n\tPROTOCOL=\"application/pgp-encrypted\";\r\n boundary=b\r\n\
             X-PGP-Encoding-Format: PGP/MIME\r\n\r\n",
        );
        assert_eq!(pgp.media_type(), Some("multipart/encrypted"));
        assert_eq!(pgp.parameter("protocol"), Some("application/pgp-encrypted"));
        assert_eq!(pgp.parameter("smime-type"), None);
        assert_eq!(pgp.encoding_format(), Some("PGP/MIME"));
        let smime = peeked(
            "Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=x\r\n\r\n",
        );
        assert_eq!(smime.parameter("smime-type"), Some("enveloped-data"));
        assert_eq!(smime.encoding_format(), None);
    }

    #[test]
    fn what_is_no_plain_word_is_not_written_down() {
        for value in ["", "\"\"", "\"a b\"", "\u{fc}", &"x".repeat(128)] {
            let peeked = peeked(&format!(
                "Content-Type: a/b; protocol={value}\r\nX-PGP-Encoding-Format: {value}\r\n\r\n"
            ));
            assert_eq!(peeked.parameter("protocol"), None, "{value:?}");
        }
        let peeked =
            peeked("X-PGP-Encoding-Format: the plan\r\nX-Lockgate-Probe: anything\r\n\r\n");
        assert_eq!((peeked.encoding_format(), peeked.token()), (None, None));
    }
}
