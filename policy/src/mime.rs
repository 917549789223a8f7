//! The parts of a message (RFC 5322, RFC 2045 to 2047, RFC 2231), decoded.
//!
//! Fields are read by `mail-parser`. The parts are cut out here, for two reasons: what counts as a
//! part must not be a matter of leniency where the question is whether something is in clear, and
//! depth and number of parts must be bounded, since a message may come from anybody.
//!
//! Invariants
//! - A boundary counts at the start of a line only, and with nothing behind it but blanks.
//! - What could not be decoded has no text: it is not known, rather than wrong.
//! - Total: every input is some message, and depth and number of its parts are bounded.
//!
//! Not here: what the parts mean (`protection`, `message`).

use std::borrow::Cow;

use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{HeaderName, HeaderValue, MessageParser};

/// How deep parts are looked into.
const DEPTH_MAX: usize = 32;

/// How many parts are looked into.
const PARTS_MAX: usize = 1000;

/// Octets of one header that are read.
const HEAD_OCTETS_MAX: usize = 1 << 20;

/// A message, or a part of one.
#[derive(Debug)]
pub struct Entity<'a> {
    /// Its header.
    pub head: Head,
    /// What is in it.
    pub content: Content<'a>,
}

/// What is in a message or a part.
#[derive(Debug)]
pub enum Content<'a> {
    /// Octets; none where their transfer encoding could not be undone.
    Leaf(Option<Cow<'a, [u8]>>),
    /// Parts.
    Parts {
        /// In order.
        parts: Vec<Entity<'a>>,
        /// The last one has an end: nothing was cut off.
        closed: bool,
    },
    /// A message.
    Message(Box<Entity<'a>>),
    /// Not looked into: too deep, or one part too many.
    Unread,
}

/// A header.
#[derive(Debug, Default)]
pub struct Head {
    /// Its fields, in order.
    pub fields: Vec<Field>,
    /// All of it was read, and there was nothing in it but fields.
    pub complete: bool,
    media: Media,
    disposition: Option<Media>,
    transfer_encoding: String,
}

/// One field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, in lower case.
    pub name: String,
    /// Its text, unfolded and decoded.
    pub text: String,
}

/// A Content-Type or a Content-Disposition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// `text/plain`, `attachment`; in lower case.
    pub name: String,
    /// Parameters; names in lower case.
    pub parameters: Vec<(String, String)>,
}

impl Default for Media {
    fn default() -> Self {
        Self { name: "text/plain".to_owned(), parameters: Vec::new() }
    }
}

impl Media {
    /// A parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Head {
    /// Texts of the fields of this name.
    pub fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.text.as_str())
    }

    /// The media type; `text/plain` where none is said (RFC 2045 §5.2).
    #[must_use]
    pub fn media(&self) -> &Media {
        &self.media
    }

    /// The name of the file that a part is.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        let disposed = self.disposition.as_ref().and_then(|one| one.parameter("filename"));
        disposed.or_else(|| self.media.parameter("name"))
    }

    /// Does it say that it is an attachment?
    #[must_use]
    pub fn is_attachment(&self) -> bool {
        self.disposition.as_ref().is_some_and(|one| one.name == "attachment")
    }

    fn read(octets: &[u8], default: &Media) -> Self {
        let short = &octets[..octets.len().min(HEAD_OCTETS_MAX)];
        // The parser wants the last field to have an end.
        let mut ended = short.to_vec();
        ended.extend_from_slice(b"\r\n\r\n");
        // With no field named, the parser would read each as it likes, whatever the default.
        let texts = MessageParser::new().default_header_text().header_text(HeaderName::Subject);
        let fields = texts.parse_headers(&ended).map_or_else(Vec::new, |message| {
            let fields = message.headers().iter();
            fields.map(|field| Field::new(field.name.as_str(), &field.value)).collect()
        });
        let mut head = Self { fields, complete: short.len() == octets.len(), ..Self::default() };
        head.complete &= only_fields(octets);
        head.media = default.clone();
        let structured = MessageParser::new()
            .default_header_ignore()
            .header_content_type(HeaderName::ContentType)
            .header_content_type(HeaderName::ContentDisposition)
            .header_text(HeaderName::ContentTransferEncoding);
        if let Some(message) = structured.parse_headers(&ended) {
            // The first of several counts, hence the order.
            for field in message.headers().iter().rev() {
                match (&field.name, &field.value) {
                    (HeaderName::ContentType, HeaderValue::ContentType(value)) => {
                        head.media = media(value);
                    }
                    (HeaderName::ContentDisposition, HeaderValue::ContentType(value)) => {
                        head.disposition = Some(media(value));
                    }
                    (HeaderName::ContentTransferEncoding, HeaderValue::Text(value)) => {
                        head.transfer_encoding = value.trim().to_ascii_lowercase();
                    }
                    _ => {}
                }
            }
        }
        head
    }
}

impl Field {
    fn new(name: &str, value: &HeaderValue<'_>) -> Self {
        let text = value.as_text().unwrap_or_default().to_owned();
        Self { name: name.to_ascii_lowercase(), text }
    }
}

/// Every line begins a field or goes on with one (RFC 5322 §2.2).
fn only_fields(octets: &[u8]) -> bool {
    let begins = |line: &[u8]| {
        let end = line.iter().position(|octet| *octet == b':');
        end.is_some_and(|end| end > 0 && line[..end].iter().all(u8::is_ascii_graphic))
    };
    let goes_on = |line: &[u8]| line.starts_with(b" ") || line.starts_with(b"\t");
    let mut lines = octets.split_inclusive(|octet| *octet == b'\n').enumerate();
    lines.all(|(place, line)| begins(line) || (place > 0 && goes_on(line)))
}

fn media(value: &mail_parser::ContentType<'_>) -> Media {
    let mut name = value.c_type.to_ascii_lowercase();
    if let Some(sub) = &value.c_subtype {
        name.push('/');
        name.push_str(&sub.to_ascii_lowercase());
    }
    let parameters = value.attributes.iter().flatten();
    let parameters = parameters.map(|one| (one.name.to_string(), one.value.to_string())).collect();
    Media { name, parameters }
}

impl<'a> Entity<'a> {
    /// Reads a message. The end of the last line belongs to the transport, not to the text.
    #[must_use]
    pub fn parse(octets: &'a [u8]) -> Self {
        let mut left = PARTS_MAX;
        Self::read(without_line_end(octets), &Media::default(), DEPTH_MAX, &mut left)
    }

    fn read(octets: &'a [u8], default: &Media, depth: usize, left: &mut usize) -> Self {
        let (head, body) = split_head(octets);
        let head = Head::read(head, default);
        if depth == 0 || *left == 0 {
            return Self { head, content: Content::Unread };
        }
        *left -= 1;
        let content = Self::content(&head, body, depth - 1, left);
        Self { head, content }
    }

    fn content(head: &Head, body: &'a [u8], depth: usize, left: &mut usize) -> Content<'a> {
        let name = head.media.name.as_str();
        let as_is = matches!(head.transfer_encoding.as_str(), "" | "7bit" | "8bit" | "binary");
        if matches!(name, "message/rfc822" | "message/global") && as_is {
            let inner = Self::read(body, &Media::default(), depth, left);
            return Content::Message(Box::new(inner));
        }
        let boundary = head.media.parameter("boundary").unwrap_or_default();
        if name.starts_with("multipart/") && !boundary.is_empty() {
            let (parts, closed) = split_parts(body, boundary.as_bytes(), *left);
            if !parts.is_empty() {
                let mut default = Media::default();
                if name == "multipart/digest" {
                    default.name = "message/rfc822".to_owned();
                }
                let parts = parts.into_iter();
                let parts = parts.map(|part| Self::read(part, &default, depth, left)).collect();
                return Content::Parts { parts, closed };
            }
        }
        Content::Leaf(match head.transfer_encoding.as_str() {
            "base64" => base64_decode(body).map(Cow::Owned),
            "quoted-printable" => quoted_printable_decode(body).map(Cow::Owned),
            _ if as_is => Some(Cow::Borrowed(body)),
            _ => None,
        })
    }

    /// The octets of a leaf.
    #[must_use]
    pub fn octets(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Leaf(octets) => octets.as_deref(),
            _ => None,
        }
    }

    /// The text of a leaf, with `\n` at the end of lines.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let octets = self.octets()?;
        let charset = self.head.media.parameter("charset").unwrap_or("us-ascii");
        let text = match charset.to_ascii_lowercase().as_str() {
            "us-ascii" | "utf-8" | "utf8" => String::from_utf8_lossy(octets).into_owned(),
            charset => charset_decoder(charset.as_bytes())?(octets),
        };
        is_decoded(&text).then(|| text.replace("\r\n", "\n"))
    }

    /// Is it of this kind of media: `text`, `image`?
    #[must_use]
    pub fn is_kind(&self, kind: &str) -> bool {
        self.head.media.name.split('/').next() == Some(kind)
    }
}

/// Was everything in it understood? Character sets that are not known end as U+FFFD, or leave their
/// escapes behind (ISO 2022).
#[must_use]
pub fn is_decoded(text: &str) -> bool {
    !text.contains(['\u{fffd}', '\u{1b}'])
}

/// A mailbox file has a line of its own above each message, which is no part of it (RFC 4155).
#[must_use]
pub fn without_mailbox_line(octets: &[u8]) -> &[u8] {
    let end = octets.iter().position(|octet| *octet == b'\n');
    match end {
        Some(end) if octets.starts_with(b"From ") => &octets[end + 1..],
        _ => octets,
    }
}

fn without_line_end(octets: &[u8]) -> &[u8] {
    let octets = octets.strip_suffix(b"\n").unwrap_or(octets);
    octets.strip_suffix(b"\r").unwrap_or(octets)
}

/// What stands before the first empty line, and what behind it.
fn split_head(octets: &[u8]) -> (&[u8], &[u8]) {
    let mut at = 0;
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        if matches!(line, b"\n" | b"\r\n") {
            return (&octets[..at], &octets[at + line.len()..]);
        }
        at += line.len();
    }
    (octets, &[])
}

/// The parts between boundaries, at most this many and one, and whether the last has an end.
fn split_parts<'a>(body: &'a [u8], boundary: &[u8], most: usize) -> (Vec<&'a [u8]>, bool) {
    let (mut parts, mut begun, mut at) = (Vec::new(), None, 0);
    for line in body.split_inclusive(|octet| *octet == b'\n') {
        let delimiter = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary));
        let rest = delimiter.map(<[u8]>::trim_ascii);
        if let Some(rest @ (b"" | b"--")) = rest {
            if let Some(begun) = begun.replace(at + line.len()) {
                parts.push(without_line_end(body.get(begun..at).unwrap_or_default()));
            }
            if rest == b"--" || parts.len() > most {
                return (parts, rest == b"--");
            }
        }
        at += line.len();
    }
    parts.extend(begun.map(|begun| &body[begun.min(body.len())..]));
    (parts, false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(entity: &Entity<'_>) -> Vec<String> {
        match &entity.content {
            Content::Parts { parts, .. } => parts.iter().flat_map(leaves).collect(),
            Content::Message(inner) => leaves(inner),
            Content::Leaf(_) => vec![entity.text().unwrap_or("?".to_owned())],
            Content::Unread => vec!["!".to_owned()],
        }
    }

    #[test]
    fn a_boundary_counts_at_the_start_of_a_line_and_as_a_whole() {
        let message = b"Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\n\r\n\
            one --b\r\n--bc\r\n--b  \r\nContent-Type: text/html\r\n\r\ntwo\r\n--b--\r\nepilogue";
        assert_eq!(leaves(&Entity::parse(message)), ["one --b\n--bc", "two"]);
    }

    #[test]
    fn a_part_without_an_end_is_told() {
        let cut = Entity::parse(b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\ntw");
        assert!(matches!(cut.content, Content::Parts { closed: false, .. }));
        assert_eq!(leaves(&cut), ["one\ntw"]);
    }

    #[test]
    fn a_character_set_that_is_not_known_has_no_text() {
        let japanese = b"Content-Type: text/plain; charset=iso-2022-jp\n\n\x1b$B%O%m!<\x1b(B\n";
        assert_eq!(Entity::parse(japanese).text(), None);
        let latin = b"Content-Type: text/plain; charset=iso-8859-1\n\nGr\xfc\xdfe\n";
        assert_eq!(Entity::parse(latin).text().as_deref(), Some("Grüße"));
        let wrong = b"Content-Transfer-Encoding: base64\n\nno base64!\n";
        assert_eq!(Entity::parse(wrong).text(), None);
    }

    #[test]
    fn a_header_with_other_lines_in_it_is_not_complete() {
        assert!(Entity::parse(b"A: b\n c\nD: e\n\nbody").head.complete);
        assert!(!Entity::parse(b"A: b\nno field\nD: e\n\nbody").head.complete);
        assert!(!Entity::parse(b" A: b\n\nbody").head.complete);
    }

    /// A message in a message, and so on, is the cheapest way to use up a stack.
    #[test]
    fn depth_is_bounded() {
        let deep = "Content-Type: message/rfc822\n\n".repeat(100_000);
        assert_eq!(leaves(&Entity::parse(deep.as_bytes())), ["!"]);
        let many = "--b\n\nx\n".repeat(100_000);
        let wide = format!("Content-Type: multipart/mixed; boundary=b\n\n{many}");
        let found = leaves(&Entity::parse(wide.as_bytes()));
        assert_eq!(found.len(), PARTS_MAX);
        assert_eq!(found.last().map(String::as_str), Some("!"));
    }

    proptest! {
        #[test]
        fn any_octets_are_some_message(octets in prop::collection::vec(any::<u8>(), 0..400)) {
            leaves(&Entity::parse(&octets));
        }

        #[test]
        fn any_text_is_some_message(text in "(?s)([A-Za-z-]{1,12}|[ -~]|\n|\r|\t|=\\?|\\?=|\0|é|: |;|\"|\\*){0,80}") {
            let fields = format!("Content-Type: {text}\nSubject: {text}\nContent-Disposition: {text}\n\n{text}");
            leaves(&Entity::parse(fields.as_bytes()));
        }

        #[test]
        fn any_text_is_decoded_or_not(
            octets in prop::collection::vec(any::<u8>(), 0..60),
            charset in prop::sample::select(vec!["utf-7", "utf-16", "utf-16be", "gb2312", "koi8-r", "x"]),
            encoding in prop::sample::select(vec!["base64", "quoted-printable", "7bit", "x-uuencode"]),
        ) {
            let mut message = format!(
                "Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: {encoding}\n\n"
            ).into_bytes();
            message.extend(octets);
            leaves(&Entity::parse(&message));
        }
    }
}
