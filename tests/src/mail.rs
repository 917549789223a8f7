//! Deterministic messages in wire form, from nothing at all to 25 MiB.
//!
//! A message is known by its first forward-path, which is unique: that works even for one without
//! a single octet of mail data. The same number always gives the same message, so a failure can be
//! looked at again.
//!
//! Mail data is kept as it goes over the wire (dots stuffed, CRLF), without the final dot.
//! Not here: how it is sent (`client`), what a server did with it (`sink`).

use std::fmt::Write as _;

/// Octets in a MiB.
pub const MIB: usize = 1 << 20;

/// One message: its envelope as written and its mail data in wire form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// What follows `MAIL FROM:`, with angle brackets.
    pub reverse_path: String,
    /// Parameters of MAIL, without the leading space; may be empty.
    pub parameters: String,
    /// What follows `RCPT TO:`, each with angle brackets and perhaps parameters.
    pub forward_paths: Vec<String>,
    /// Mail data in wire form, without the final dot: empty, or ending in CRLF.
    pub data: Vec<u8>,
}

/// What is peculiar about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A header and a body of so many octets of text.
    Text(usize),
    /// No mail data at all: the final dot follows 354 directly.
    Nothing,
    /// A header only, without the empty line.
    HeaderOnly,
    /// No header: text from the first line.
    NoHeader,
    /// 8-bit text that is not UTF-8 (`BODY=8BITMIME`).
    EightBit,
    /// Addresses and header in UTF-8 (`SMTPUTF8`).
    Utf8,
    /// Lines of one, two and many dots, dots at the ends of lines.
    Dots,
    /// Lines beginning with one dot that a careless client did not stuff.
    UnstuffedDots,
    /// Lines of 998, 1,000 and many thousand octets.
    LongLines,
    /// A body of so many incompressible octets, base64 in lines of 76.
    Attachment(usize),
}

/// Kinds that a mail system passes on with an equal body, because they are well formed.
pub const WELL_FORMED: [Kind; 7] = [
    Kind::Text(300),
    Kind::EightBit,
    Kind::Utf8,
    Kind::Dots,
    Kind::LongLines,
    Kind::Text(40_000),
    Kind::Attachment(200_000),
];

impl Mail {
    /// Message number `n` of `story`, of the given kind.
    #[must_use]
    pub fn new(story: &str, n: usize, kind: Kind) -> Self {
        let mut random = Random::new(n as u64 + 1);
        let mut mail = Self {
            reverse_path: format!("<sender-{}@client.test>", n % 7),
            parameters: String::new(),
            forward_paths: vec![format!("<{story}-{n:05}@server.test>")],
            data: Vec::new(),
        };
        let body = match kind {
            Kind::Nothing => return mail,
            Kind::NoHeader => {
                mail.data = b"no header here, and no empty line\r\n".repeat(3);
                return mail;
            }
            Kind::HeaderOnly => {
                mail.data = header(story, n, "a header only");
                return mail;
            }
            Kind::Text(octets) => text(octets, &mut random),
            Kind::EightBit => {
                "BODY=8BITMIME".clone_into(&mut mail.parameters);
                // All octets but NUL, CR and LF; none of it is UTF-8.
                let line: Vec<u8> = (1..=255).filter(|o| !b"\r\n".contains(o)).collect();
                [b"caf\xe9 \xff\xfe\r\n".as_slice(), &line, b"\r\n"].concat()
            }
            Kind::Utf8 => {
                "BODY=8BITMIME SMTPUTF8".clone_into(&mut mail.parameters);
                "<jörg@bücher.test>".clone_into(&mut mail.reverse_path);
                mail.forward_paths = vec![format!("<{story}-{n:05}-δοκιμή@παράδειγμα.test>")];
                "Grüße, 你好, приве́т\r\n".repeat(4).into_bytes()
            }
            Kind::Dots => dots(),
            Kind::UnstuffedDots => b".not stuffed\r\n.\tnor this\r\n".to_vec(),
            Kind::LongLines => [998, 999, 1_000, 5_000, 200_000]
                .into_iter()
                .flat_map(|octets| [line(octets, &mut random), b"\r\n".to_vec()].concat())
                .collect(),
            Kind::Attachment(octets) => attachment(octets, &mut random),
        };
        let subject = if kind == Kind::Utf8 { "Grüße" } else { "a message of a story" };
        mail.data = header(story, n, subject);
        mail.data.extend_from_slice(b"\r\n");
        mail.data.extend_from_slice(&body);
        mail
    }

    /// A short text message: what most stories need.
    #[must_use]
    pub fn short(story: &str, n: usize) -> Self {
        Self::new(story, n, Kind::Text(200))
    }

    /// The same message to these forward-paths.
    #[must_use]
    pub fn to(mut self, forward_paths: &[&str]) -> Self {
        self.forward_paths = forward_paths.iter().map(|&path| path.to_owned()).collect();
        self
    }

    /// The same message from this reverse-path.
    #[must_use]
    pub fn from(mut self, reverse_path: &str) -> Self {
        reverse_path.clone_into(&mut self.reverse_path);
        self
    }

    /// The same message with these parameters of MAIL.
    #[must_use]
    pub fn with(mut self, parameters: &str) -> Self {
        parameters.clone_into(&mut self.parameters);
        self
    }

    /// The name it is known by: its first forward-path, without brackets and parameters.
    #[must_use]
    pub fn key(&self) -> &str {
        path(&self.forward_paths[0])
    }

    /// The value of its Message-ID field, if it has one.
    #[must_use]
    pub fn message_id(&self) -> Option<String> {
        field(&self.data, "Message-ID")
    }

    /// The MAIL command, without CRLF.
    #[must_use]
    pub fn mail_line(&self) -> String {
        let space = if self.parameters.is_empty() { "" } else { " " };
        format!("MAIL FROM:{}{space}{}", self.reverse_path, self.parameters)
    }

    /// The RCPT commands, without CRLF.
    #[must_use]
    pub fn rcpt_lines(&self) -> Vec<String> {
        self.forward_paths.iter().map(|path| format!("RCPT TO:{path}")).collect()
    }
}

/// `n` messages of mixed kinds and sizes, 0 B to 25 MiB: the mail of a small company in a minute.
#[must_use]
pub fn mixed(story: &str, n: usize) -> Vec<Mail> {
    (0..n).map(|number| Mail::new(story, number, mixed_kind(number))).collect()
}

fn mixed_kind(n: usize) -> Kind {
    match n {
        3 => Kind::Attachment(18 * MIB), // 25 MiB on the wire
        503 => Kind::Attachment(6 * MIB),
        _ => match n % 20 {
            0 => Kind::Nothing,
            1 => Kind::EightBit,
            2 => Kind::Utf8,
            4 => Kind::Dots,
            5 => Kind::HeaderOnly,
            6 => Kind::NoHeader,
            7 => Kind::UnstuffedDots,
            8 if n % 100 == 8 => Kind::LongLines,
            9 if n % 100 == 9 => Kind::Attachment(700_000),
            10..=13 => Kind::Text(20_000),
            _ => Kind::Text(100 + 37 * (n % 50)),
        },
    }
}

/// The address in a MAIL or RCPT argument: what stands between the angle brackets.
#[must_use]
pub fn path(argument: &str) -> &str {
    let from = argument.find('<').map_or(0, |at| at + 1);
    let to = argument.find('>').unwrap_or(argument.len());
    &argument[from.min(to)..to]
}

/// The value of the first field of this name in a header in wire form, unfolded.
#[must_use]
pub fn field(data: &[u8], name: &str) -> Option<String> {
    for field in fields(data) {
        let text = String::from_utf8_lossy(field);
        if let Some((found, value)) = text.split_once(':')
            && found.trim().eq_ignore_ascii_case(name)
        {
            return Some(value.replace("\r\n", "").trim().to_owned());
        }
    }
    None
}

/// The fields of a header in wire form, each with its continuation lines and CRLF; stops at the
/// first line that is neither.
pub fn fields(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let end = field_end(rest)?;
        let (field, after) = rest.split_at(end);
        rest = after;
        Some(field)
    })
}

/// Length of the field at the start of `data`, if there is one.
fn field_end(data: &[u8]) -> Option<usize> {
    let first = memchr::memmem::find(data, b"\r\n")? + 2;
    let name = data[..first].split(|&octet| octet == b':').next()?;
    let named =
        !name.is_empty() && name.len() < first && name.iter().all(|o| (33..127).contains(o));
    if !named {
        return None;
    }
    let mut end = first;
    while matches!(data.get(end), Some(b' ' | b'\t')) {
        end += memchr::memmem::find(&data[end..], b"\r\n")? + 2;
    }
    Some(end)
}

/// What follows the first empty line: the body, in wire form.
#[must_use]
pub fn body(data: &[u8]) -> &[u8] {
    if data.starts_with(b"\r\n") {
        return &data[2..];
    }
    memchr::memmem::find(data, b"\r\n\r\n").map_or(&[], |at| &data[at + 4..])
}

fn header(story: &str, n: usize, subject: &str) -> Vec<u8> {
    let mut header = String::new();
    for (name, value) in [
        ("From", "Sender of a story <sender@client.test>".to_owned()),
        ("To", format!("<{story}-{n:05}@server.test>")),
        ("Date", "Mon, 23 Nov 2026 06:15:00 +0000".to_owned()),
        ("Message-ID", format!("<{story}.{n:05}@client.test>")),
        ("Subject", format!("{subject}\r\n\tfolded, number {n}")),
        ("MIME-Version", "1.0".to_owned()),
        ("Content-Type", "text/plain; charset=utf-8".to_owned()),
        ("Content-Transfer-Encoding", "8bit".to_owned()),
    ] {
        write!(header, "{name}: {value}\r\n").unwrap();
    }
    header.into_bytes()
}

fn line(octets: usize, random: &mut Random) -> Vec<u8> {
    // Never a dot: stuffing is the business of `dots`.
    (0..octets).map(|_| b'a' + u8::try_from(random.below(26)).unwrap()).collect()
}

fn text(octets: usize, random: &mut Random) -> Vec<u8> {
    let mut text = Vec::with_capacity(octets + 80);
    while text.len() < octets {
        let length = 1 + random.below(75);
        text.extend(line(length, random));
        text.extend_from_slice(b"\r\n");
    }
    text
}

fn dots() -> Vec<u8> {
    let mut data = Vec::new();
    for content in [".", "..", "...", ".a", "a.", ". .", "", ".", "", "...............", "."] {
        if content.starts_with('.') {
            data.push(b'.');
        }
        data.extend_from_slice(content.as_bytes());
        data.extend_from_slice(b"\r\n");
    }
    data
}

fn attachment(octets: usize, random: &mut Random) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let characters = octets * 4 / 3;
    let mut data = Vec::with_capacity(characters * 78 / 76 + 80);
    let mut written = 0;
    while written < characters {
        // Ten characters from each random number.
        let mut bits = random.next();
        for _ in 0..10 {
            data.push(ALPHABET[(bits & 63) as usize]);
            bits >>= 6;
            written += 1;
            if written % 76 == 0 {
                data.extend_from_slice(b"\r\n");
            }
        }
    }
    data.extend_from_slice(b"\r\n");
    data
}

/// A small deterministic generator (splitmix64): not for secrets.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that always gives the same numbers for the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "an endless sequence, not an iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_mixture_is_deterministic_and_spans_nothing_to_25_mib() {
        let mails = mixed("m", 12);
        assert_eq!(mails, mixed("m", 12));
        let sizes: Vec<usize> = mails.iter().map(|mail| mail.data.len()).collect();
        assert_eq!(sizes[0], 0);
        assert!((24 * MIB..26 * MIB).contains(&sizes[3]), "{}", sizes[3]);
        let keys: HashSet<&str> = mails.iter().map(Mail::key).collect();
        assert_eq!(keys.len(), mails.len());
    }

    #[test]
    fn mail_data_is_in_wire_form() {
        for n in (0..60).filter(|&n| n != 3) {
            let data = Mail::new("m", n, mixed_kind(n)).data;
            assert!(data.is_empty() || data.ends_with(b"\r\n"), "{n}");
            assert!(!data.starts_with(b".\r\n"), "{n}");
            assert!(memchr::memmem::find(&data, b"\r\n.\r\n").is_none(), "{n}");
            let bare = data.iter().enumerate().any(|(at, &octet)| match octet {
                b'\r' => data.get(at + 1) != Some(&b'\n'),
                b'\n' => at == 0 || data[at - 1] != b'\r',
                _ => false,
            });
            assert!(!bare, "{n}");
        }
    }

    #[test]
    fn fields_are_read_unfolded_and_the_body_follows_the_empty_line() {
        let data = b"Received: a\r\n\tb\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n";
        assert_eq!(field(data, "received").unwrap(), "a\tb");
        assert_eq!(field(data, "Message-Id").unwrap(), "<1@x>");
        assert_eq!(body(data), b"body\r\n");
        assert_eq!(fields(data).count(), 2);
    }
}
