//! Parts of a message that is written, and how texts stand in them.
//!
//! Invariant: no text gets out of the place that it stands in: what is not plain ASCII is in base64, in
//! encoded words (RFC 2047) or percent-encoded (RFC 2231), and no line of a text is a boundary.
//!
//! Not here: which parts a message has (`write`).

use crate::action::Encoding;
use crate::mime::Entity;

/// Octets of a line that nobody reads, its end among them.
pub(super) const FILLER: u64 = 78;

/// Octets of a text that one encoded word has; lines stay below 76 characters (RFC 2047 §2).
const WORD_OCTETS_MAX: usize = 30;

/// Characters of a field or a line of text that is written as it is.
pub(super) const PLAIN_MAX: usize = 70;

/// A session key for a key that nobody has, and an encrypted packet with nothing in it (RFC 9580 §5.1,
/// §5.13).
const ENCRYPTED: &[u8] =
    b"\xc1\x0e\x03\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x10\x80\x00\xd2\x01\x01";

/// A signature packet with nothing in it (RFC 9580 §5.2).
const SIGNATURE: &[u8] = b"\xc2\x0b\x04\x00\x01\x08\x00\x00\x00\x00\x00\x00\x00";

/// ContentInfo of enveloped-data with nothing in it (RFC 5652 §3, §6).
const ENVELOPED_DATA: &[u8] =
    b"\x30\x0f\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03\xa0\x02\x30\x00";

/// ContentInfo of signed-data with nothing in it (RFC 5652 §3, §5).
const SIGNED_DATA: &[u8] = b"\x30\x0f\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x02\x30\x00";

/// A part of the message that is written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) fields: Vec<(String, String)>,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    /// Lines, each but the last with its end.
    Octets(Vec<u8>),
    /// Parts, with so many lines in front of them that nobody reads.
    Parts { fillers: u64, parts: Vec<Node> },
}

impl Node {
    fn new(fields: &[(&str, &str)], body: &[u8]) -> Self {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { fields: fields.collect(), body: Body::Octets(body.to_vec()) }
    }

    /// Base64 in lines of 76 characters (RFC 2045 §6.8).
    fn encoded(media: &str, octets: &[u8]) -> Self {
        let text = base64(octets);
        let lines: Vec<&str> = pieces(&text, 76).collect();
        let fields = [("Content-Type", media), ("Content-Transfer-Encoding", "base64")];
        Self::new(&fields, lines.join("\r\n").as_bytes())
    }

    pub(super) fn text(text: &str) -> Self {
        let plain = |line: &str| {
            line.len() <= PLAIN_MAX
                && line.bytes().all(|octet| (b' '..=b'~').contains(&octet))
                && line.trim_end() == line
                && !line.starts_with("--")
        };
        if text.split('\n').all(plain) {
            return Self::new(&[], text.replace('\n', "\r\n").as_bytes());
        }
        Self::encoded("text/plain; charset=utf-8", text.replace('\n', "\r\n").as_bytes())
    }

    fn parts(media: &str, parts: Vec<Self>) -> Self {
        let fields = vec![("Content-Type".to_owned(), media.to_owned())];
        Self { fields, body: Body::Parts { fillers: 0, parts } }
    }

    /// One part, or several side by side.
    pub(super) fn mixed(mut nodes: Vec<Self>) -> Self {
        match nodes.len() {
            1 => nodes.remove(0),
            _ => Self::parts("multipart/mixed", nodes),
        }
    }

    /// A file with nothing in it.
    pub(super) fn file(name: Option<&str>, media: &str) -> Self {
        let mut disposition = "attachment".to_owned();
        for parameter in name.into_iter().flat_map(file_name) {
            disposition.push_str(";\r\n ");
            disposition.push_str(&parameter);
        }
        Self::new(&[("Content-Type", media), ("Content-Disposition", &disposition)], b"")
    }

    /// A text gets the name by which PGP Partitioned finds its signature.
    fn named(mut self) -> Self {
        if self.is_text() {
            self.fields.retain(|(name, _)| name != "Content-Type");
            let media = "text/html; charset=utf-8;\r\n name=\"PGPexch.htm\"";
            self.fields.push(("Content-Type".to_owned(), media.to_owned()));
        }
        self
    }

    /// A part that is encrypted by its form; nothing is in it.
    pub(super) fn encrypted(encoding: Encoding) -> Self {
        let armour = armour("MESSAGE", ENCRYPTED);
        match encoding {
            Encoding::Smime => Self::encoded(
                "application/pkcs7-mime; smime-type=enveloped-data;\r\n name=\"smime.p7m\"",
                ENVELOPED_DATA,
            ),
            Encoding::PgpPartitioned => Self::new(
                &[("Content-Type", "application/octet-stream;\r\n name=\"PGPexch.htm.pgp\"")],
                armour.as_bytes(),
            ),
            Encoding::PgpMime | Encoding::Automatic => Self::parts(
                "multipart/encrypted; protocol=\"application/pgp-encrypted\"",
                vec![
                    Self::new(&[("Content-Type", "application/pgp-encrypted")], b"Version: 1"),
                    Self::new(&[("Content-Type", "application/octet-stream")], armour.as_bytes()),
                ],
            ),
        }
    }

    /// Parts that are signed by their form.
    pub(super) fn signed(encoding: Encoding, nodes: Vec<Self>) -> Vec<Self> {
        let (media, signature) = match encoding {
            Encoding::PgpPartitioned => return Self::signed_apart(nodes),
            Encoding::Smime => (
                "multipart/signed; micalg=sha-256;\r\n protocol=\"application/pkcs7-signature\"",
                Self::encoded("application/pkcs7-signature", SIGNED_DATA),
            ),
            Encoding::PgpMime | Encoding::Automatic => {
                let armour = armour("SIGNATURE", SIGNATURE);
                let fields = [("Content-Type", "application/pgp-signature")];
                (
                    "multipart/signed; micalg=pgp-sha256;\r\n protocol=\"application/pgp-signature\"",
                    Self::new(&fields, armour.as_bytes()),
                )
            }
        };
        vec![Self::parts(media, vec![Self::mixed(nodes), signature])]
    }

    /// Each part with its signature in another one (PGP Partitioned). A file without a name has none.
    fn signed_apart(nodes: Vec<Self>) -> Vec<Self> {
        let mut signed = Vec::new();
        for node in nodes {
            let node = node.named();
            let mut octets = Vec::new();
            node.render(&[], &mut 0, &mut octets);
            let name = Entity::parse(&octets).head.file_name().map(|name| format!("{name}.sig"));
            signed.push(node);
            signed.extend(name.map(|name| {
                let mut file = Self::file(Some(&name), "application/octet-stream");
                file.fields.push(("Content-Transfer-Encoding".to_owned(), "base64".to_owned()));
                file.body = Body::Octets(base64(SIGNATURE).into_bytes());
                file
            }));
        }
        signed
    }

    /// The same with lines that nobody reads.
    pub(super) fn filled(self, lines: u64) -> Self {
        let mut filled = match self.body {
            Body::Parts { .. } => self,
            Body::Octets(_) => Self::parts("multipart/mixed", vec![self]),
        };
        if let Body::Parts { fillers, .. } = &mut filled.body {
            *fillers = lines;
        }
        filled
    }

    /// Has it nothing in it?
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.body, Body::Octets(octets) if octets.is_empty())
    }

    /// Is it a text to be read?
    pub(super) fn is_text(&self) -> bool {
        let is_text = |(name, value): &(String, String)| {
            name != "Content-Disposition"
                && (name != "Content-Type" || value.starts_with("text/plain"))
        };
        matches!(self.body, Body::Octets(_)) && self.fields.iter().all(is_text)
    }

    /// Appends header, empty line and body; `above` are further fields of the message as a whole.
    pub(super) fn render(
        &self,
        above: &[(String, String)],
        boundaries: &mut u32,
        out: &mut Vec<u8>,
    ) {
        *boundaries += 1;
        let boundary = format!("part-{boundaries}");
        for (name, value) in above.iter().chain(&self.fields) {
            out.extend_from_slice(format!("{name}: {value}").as_bytes());
            let is_type = name.eq_ignore_ascii_case("content-type");
            if is_type && matches!(self.body, Body::Parts { .. }) {
                out.extend_from_slice(format!(";\r\n boundary=\"{boundary}\"").as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        match &self.body {
            Body::Octets(octets) => out.extend_from_slice(octets),
            Body::Parts { fillers, parts } => {
                for _ in 0..*fillers {
                    out.extend_from_slice(&[b'.'; FILLER as usize - 2]);
                    out.extend_from_slice(b"\r\n");
                }
                for part in parts {
                    out.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
                    part.render(&[], boundaries, out);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(format!("--{boundary}--").as_bytes());
            }
        }
    }
}

/// A text as the value of a field: as it is, or in encoded words (RFC 2047).
pub(super) fn unstructured(text: &str) -> String {
    let plain = text.bytes().all(|octet| (b' '..=b'~').contains(&octet));
    if plain && text.len() <= PLAIN_MAX && text.trim() == text && !text.contains("=?") {
        return text.to_owned();
    }
    let words = pieces(text, WORD_OCTETS_MAX);
    let words = words.map(|piece| format!("=?utf-8?B?{}?=", base64(piece.as_bytes())));
    words.collect::<Vec<_>>().join("\r\n ")
}

/// Pieces of at most so many octets, no character cut in two.
fn pieces(text: &str, most: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut end = rest.len().min(most);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// RFC 4648 §4.
fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(octets.len().div_ceil(3) * 4);
    for group in octets.chunks(3) {
        let at = |place: usize| u32::from(group.get(place).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Octets in armour (RFC 9580 §6.2).
fn armour(what: &str, octets: &[u8]) -> String {
    let data = base64(octets);
    format!("-----BEGIN PGP {what}-----\r\n\r\n{data}\r\n-----END PGP {what}-----")
}

/// A file's name as a parameter, in pieces where it is not plain (RFC 2231 §3, §4).
fn file_name(name: &str) -> Vec<String> {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
    if !name.is_empty() && name.len() <= PLAIN_MAX && name.bytes().all(is_plain) {
        return vec![format!("filename=\"{name}\"")];
    }
    let pieces = pieces(name, WORD_OCTETS_MAX / 2).enumerate();
    let pieces = pieces.map(|(place, piece)| {
        let charset = if place == 0 { "utf-8''" } else { "" };
        let value: String = piece
            .bytes()
            .map(|octet| match octet {
                octet if is_plain(octet) => char::from(octet).to_string(),
                octet => format!("%{octet:02X}"),
            })
            .collect();
        format!("filename*{place}*={charset}{value}")
    });
    pieces.collect()
}
