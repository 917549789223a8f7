//! Replies: parse, print, severity (RFC 5321 §4.2, RFC 3463, RFC 2034). Those we send ourselves are
//! in `own_replies`.
//!
//! Invariants: a reply that was parsed is well-formed (CRLF on every line, one code throughout, code
//! 200 to 599) and holds no control character but the line ends between its lines; printing it can
//! therefore never put a second reply on the wire.
//!
//! Not here: what a reply means for a transaction (`client`, `server`), time-outs.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

/// Longest text of one line that we send, in octets. Above the 512 of RFC 5321 §4.5.3.1.5, which long
/// replies of real servers exceed; within what clients are known to read.
const TEXT_SENT_MAX: usize = 4_090;

/// A reply code: three digits, 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u16);

impl Code {
    /// `None` where the number is no reply code of SMTP.
    #[must_use]
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            200..=599 => Some(Self(code)),
            _ => None,
        }
    }

    /// As a number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// What its first digit says (RFC 5321 §4.2.1).
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self.0 / 100 {
            2 => Severity::Positive,
            3 => Severity::Intermediate,
            4 => Severity::Transient,
            _ => Severity::Permanent,
        }
    }

    /// A number that is no code becomes 451: of all answers the one that loses no mail.
    const fn or_local_error(code: u16) -> Self {
        match Self::new(code) {
            Some(code) => code,
            None => Self(451),
        }
    }

    /// The three digits in ASCII.
    fn digits(self) -> [u8; 3] {
        // Each is below ten, as the code is below 600.
        [self.0 / 100, self.0 / 10 % 10, self.0 % 10].map(|digit| b'0' + digit as u8)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the first digit of a code says (RFC 5321 §4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// 2yz: done.
    Positive,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: not now.
    Transient,
    /// 5yz: not so.
    Permanent,
}

/// An enhanced status code (RFC 3463): `2.1.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about.
    pub subject: u16,
    /// What exactly.
    pub detail: u16,
}

impl EnhancedCode {
    /// Reads the code at the start of a line of text; `None` where none stands there.
    #[must_use]
    pub fn at_start_of(text: &[u8]) -> Option<Self> {
        let word = &text[..memchr(b' ', text).unwrap_or(text.len())];
        let mut parts = word.split(|&byte| byte == b'.');
        let class = match parts.next()? {
            b"2" => 2,
            b"4" => 4,
            b"5" => 5,
            _ => return None,
        };
        let subject = small_number(parts.next()?)?;
        let detail = small_number(parts.next()?)?;
        parts.next().is_none().then_some(Self { class, subject, detail })
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// One to three digits (RFC 3463 §2).
fn small_number(digits: &[u8]) -> Option<u16> {
    let valid = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    valid.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
}

/// A reply: a code and one or more lines of text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    code: Code,
    /// Lines joined by LF; no other control character.
    text: Cow<'static, [u8]>,
}

impl Reply {
    /// A reply known when the program is written. `text` is taken as it is and must be free of
    /// control characters but LF; a number that is no code becomes 451.
    #[must_use]
    pub const fn fixed(code: u16, text: &'static str) -> Self {
        Self { code: Code::or_local_error(code), text: Cow::Borrowed(text.as_bytes()) }
    }

    /// A reply whose text is made at run time: lines joined by LF (or CRLF). Other control characters
    /// are cleaned; a number that is no code becomes 451.
    #[must_use]
    pub fn new(code: u16, text: impl Into<Vec<u8>>) -> Self {
        let mut text = text.into();
        if text.iter().any(|&byte| byte != b'\n' && byte.is_ascii_control()) {
            let mut cleaned = Vec::with_capacity(text.len());
            for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
                if index > 0 {
                    cleaned.push(b'\n');
                }
                cleaned.extend(line.strip_suffix(b"\r").unwrap_or(line).iter().map(clean));
            }
            text = cleaned;
        }
        Self { code: Code::or_local_error(code), text: Cow::Owned(text) }
    }

    /// The code as a number.
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.code.get()
    }

    /// What the first digit says.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// 2yz.
    #[must_use]
    pub const fn is_positive(&self) -> bool {
        matches!(self.severity(), Severity::Positive)
    }

    /// 3yz.
    #[must_use]
    pub const fn is_intermediate(&self) -> bool {
        matches!(self.severity(), Severity::Intermediate)
    }

    /// 4yz.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self.severity(), Severity::Transient)
    }

    /// 5yz.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(self.severity(), Severity::Permanent)
    }

    /// The enhanced code at the start of the first line.
    #[must_use]
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        EnhancedCode::at_start_of(self.lines().next()?)
    }

    /// The lines of text, at least one, without codes and line ends.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|&byte| byte == b'\n')
    }

    /// All text on one line for people and logs: lines joined by `; `, what is no UTF-8 or a control
    /// character replaced.
    #[must_use]
    pub fn text_lossy(&self) -> String {
        let text = String::from_utf8_lossy(&self.text);
        let mut out = String::with_capacity(text.len());
        for char in text.chars() {
            match char {
                '\n' => out.push_str("; "),
                // Among them U+0080 to U+009F, which some terminals obey.
                char if char.is_control() => out.push('?'),
                char => out.push(char),
            }
        }
        out
    }

    /// Appends the reply as it goes on the wire. A line longer than 2,000 octets is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let digits = self.code.digits();
        let mut lines = self.lines().peekable();
        while let Some(line) = lines.next() {
            out.extend_from_slice(&digits);
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            out.extend_from_slice(cut(line));
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The same text under another code. Enhanced codes stay, but where their class contradicts the
    /// new code it follows it (RFC 2034 §4): `421 4.3.2` becomes `451 4.3.2`, `554 5.7.1` becomes
    /// `451 4.7.1`.
    #[must_use]
    pub fn with_code(mut self, code: u16) -> Self {
        self.code = Code::or_local_error(code);
        let class = self.code.digits()[0];
        let contradicts = |line: &[u8]| {
            EnhancedCode::at_start_of(line).is_some_and(|enhanced| b'0' + enhanced.class != class)
        };
        if self.lines().any(contradicts) {
            let mut lines = Vec::new();
            for line in self.lines() {
                let mut line = line.to_vec();
                if let (true, Some(first)) = (contradicts(&line), line.first_mut()) {
                    *first = class;
                }
                lines.push(line);
            }
            self.text = Cow::Owned(lines.join(&b'\n'));
        }
        self
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text_lossy())
    }
}

/// A tab is a space; any other control character, which a terminal or a log could obey, is `?`.
const fn clean(byte: &u8) -> u8 {
    match *byte {
        b'\t' => b' ',
        byte if byte.is_ascii_control() => b'?',
        byte => byte,
    }
}

/// Cuts a line to what we send, not within a character.
fn cut(line: &[u8]) -> &[u8] {
    let mut end = line.len().min(TEXT_SENT_MAX);
    if end < line.len() {
        while end > TEXT_SENT_MAX - 4 && line[end] & 0xc0 == 0x80 {
            end -= 1;
        }
    }
    &line[..end]
}

/// How much of a reply we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Longest line, with code and CRLF.
    pub line_octets: usize,
    /// Longest reply, all lines.
    pub total_octets: usize,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self { line_octets: 4096, total_octets: 65536 }
    }
}

/// Why bytes are no reply. After it nothing further on that connection can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line ends with LF alone, or holds a CR.
    #[error("reply line does not end with CRLF only")]
    LineEnd,
    /// A line does not begin with a code from 200 to 599 and then end, or go on with space or hyphen.
    #[error("malformed reply line")]
    Malformed,
    /// The lines of one reply have different codes.
    #[error("reply with different codes")]
    CodesDiffer,
    /// Beyond the limits.
    #[error("reply too long")]
    TooLong,
}

/// Parses the reply at the start of `buf` and says how many octets it takes; `None` while its end has
/// not come.
///
/// # Errors
/// A [`ReplyError`] as soon as no further octets could make it a reply.
pub fn parse_reply(buf: &[u8], limits: &ReplyLimits) -> Result<Option<(Reply, usize)>, ReplyError> {
    let mut text: Vec<u8> = Vec::new();
    let mut first: Option<Code> = None;
    let mut at = 0;
    loop {
        let rest = &buf[at..];
        let Some(line_feed) = memchr(b'\n', rest) else {
            if rest.len() >= limits.line_octets || buf.len() >= limits.total_octets {
                return Err(ReplyError::TooLong);
            }
            return check_beginning(rest).map(|()| None);
        };
        if line_feed >= limits.line_octets || at + line_feed >= limits.total_octets {
            return Err(ReplyError::TooLong);
        }
        let line = rest[..line_feed].strip_suffix(b"\r").ok_or(ReplyError::LineEnd)?;
        if memchr(b'\r', line).is_some() {
            return Err(ReplyError::LineEnd);
        }
        let (code, more, line_text) = split_line(line)?;
        match first {
            Some(first) if first != code => return Err(ReplyError::CodesDiffer),
            Some(_) => text.push(b'\n'),
            None => first = Some(code),
        }
        text.reserve_exact(line_text.len());
        text.extend(line_text.iter().map(clean));
        at += line_feed + 1;
        if !more {
            return Ok(Some((Reply { code, text: Cow::Owned(text) }, at)));
        }
    }
}

/// Code, whether more lines follow, text.
fn split_line(line: &[u8]) -> Result<(Code, bool, &[u8]), ReplyError> {
    let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Malformed)?;
    let code = small_number(digits).and_then(Code::new).ok_or(ReplyError::Malformed)?;
    match rest {
        // RFC 5321 §4.2: a code alone is a reply, if a poor one.
        [] => Ok((code, false, rest)),
        [b' ', text @ ..] => Ok((code, false, text)),
        [b'-', text @ ..] => Ok((code, true, text)),
        _ => Err(ReplyError::Malformed),
    }
}

/// Whether an unfinished line can still become one: a peer that speaks another protocol is told
/// apart at once and not only by time-out.
fn check_beginning(line: &[u8]) -> Result<(), ReplyError> {
    let possible = line.iter().take(4).enumerate().all(|(index, byte)| match index {
        0 => matches!(byte, b'2'..=b'5'),
        1 | 2 => byte.is_ascii_digit(),
        _ => matches!(byte, b' ' | b'-' | b'\r'),
    });
    if possible { Ok(()) } else { Err(ReplyError::Malformed) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: ReplyLimits = ReplyLimits { line_octets: 64, total_octets: 256 };

    fn parse(text: &str) -> Result<Option<(Reply, usize)>, ReplyError> {
        parse_reply(text.as_bytes(), &LIMITS)
    }

    fn encode(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_of_one_and_of_many_lines_are_read_and_printed_alike() {
        for wire in [
            "250 ok\r\n",
            "250 \r\n",
            "250-a\r\n250-\r\n250 c\r\n",
            "550-5.7.1 no\r\n550 5.7.1 never\r\n",
        ] {
            let (reply, consumed) = parse(wire).unwrap().unwrap();
            assert_eq!(consumed, wire.len());
            assert_eq!(encode(&reply), wire);
        }
    }

    #[test]
    fn a_code_alone_is_a_reply() {
        let (reply, consumed) = parse("354\r\n").unwrap().unwrap();
        assert_eq!((reply.code(), consumed), (354, 5));
        assert!(reply.is_intermediate());
        assert_eq!(encode(&reply), "354 \r\n");
    }

    #[test]
    fn only_the_first_reply_is_consumed() {
        let (reply, consumed) = parse("250 a\r\n550 b\r\n").unwrap().unwrap();
        assert_eq!((reply.text_lossy().as_str(), consumed), ("a", 7));
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        use ReplyError::{CodesDiffer, LineEnd, Malformed, TooLong};
        for (wire, error) in [
            ("250 ok\n", LineEnd),
            ("250 o\rk\r\n", LineEnd),
            ("250 ok\r\r\n", LineEnd),
            ("250-a\n250 b\r\n", LineEnd),
            ("250-a\r\n550 b\r\n", CodesDiffer),
            ("250-a\r\n251 b\r\n", CodesDiffer),
            ("25 ok\r\n", Malformed),
            ("2500 ok\r\n", Malformed),
            ("250_ok\r\n", Malformed),
            ("150 ok\r\n", Malformed),
            ("650 ok\r\n", Malformed),
            ("\r\n", Malformed),
            ("\u{16}\u{3}\u{1}", Malformed),
            ("HTTP/1.1 400", Malformed),
            ("250-a\r\nx", Malformed),
        ] {
            assert_eq!(parse(wire), Err(error), "{wire:?}");
        }
        assert_eq!(parse(&format!("250 {}\r\n", "x".repeat(59))), Err(TooLong));
        assert!(parse(&format!("250 {}\r\n", "x".repeat(58))).unwrap().is_some());
        assert_eq!(parse(&"250 ".repeat(16)), Err(TooLong));
        assert_eq!(parse(&"250-x\r\n".repeat(40)), Err(TooLong));
    }

    #[test]
    fn control_characters_are_cleaned_and_8bit_is_kept() {
        let (reply, _) = parse("250 a\tb\u{1b}[2Jc\0\u{fc}\r\n").unwrap().unwrap();
        assert_eq!(encode(&reply), "250 a b?[2Jc?\u{fc}\r\n");
        assert_eq!(Reply::new(250, "a\u{9b}b").text_lossy(), "a?b");
    }

    #[test]
    fn a_text_made_at_run_time_cannot_smuggle_a_reply() {
        let reply = Reply::new(550, "no\r\n250 yes\rx\n");
        assert_eq!(encode(&reply), "550-no\r\n550-250 yes?x\r\n550 \r\n");
        let (parsed, _) = parse(&encode(&reply)).unwrap().unwrap();
        assert_eq!(parsed, reply);
    }

    #[test]
    fn a_number_that_is_no_code_becomes_451() {
        for number in [0, 99, 199, 600, u16::MAX] {
            assert_eq!(Reply::new(number, "x").code(), 451);
            assert_eq!(Reply::fixed(number, "x").code(), 451);
            assert_eq!(Reply::OK.with_code(number).code(), 451);
        }
    }

    #[test]
    fn enhanced_codes_are_found_only_where_they_stand_alone_at_the_start() {
        let enhanced = |text: &str| Reply::new(250, text).enhanced().map(|code| code.to_string());
        assert_eq!(enhanced("2.1.5 ok").as_deref(), Some("2.1.5"));
        assert_eq!(enhanced("5.123.4").as_deref(), Some("5.123.4"));
        for none in
            ["", "ok 2.1.5", "2.1", "2.1.5.1 x", "3.1.1 x", "2.1.x", "2..5", "2.1.1234", "2.1.5: x"]
        {
            assert_eq!(enhanced(none), None, "{none}");
        }
    }

    #[test]
    fn a_changed_code_keeps_enhanced_codes_that_agree_with_it() {
        let changed = |reply: Reply| encode(&reply.with_code(451));
        assert_eq!(changed(Reply::new(421, "4.3.2 bye")), "451 4.3.2 bye\r\n");
        assert_eq!(changed(Reply::new(421, "bye")), "451 bye\r\n");
        assert_eq!(
            changed(Reply::new(554, "5.7.1 no\n5.7.1 never")),
            "451-4.7.1 no\r\n451 4.7.1 never\r\n"
        );
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let text = format!("x{}", "\u{fc}".repeat(3000));
        let wire = encode(&Reply::new(250, text));
        assert_eq!(wire.len(), 4 + TEXT_SENT_MAX - 1 + 2);
        let full = encode(&Reply::new(250, "x".repeat(TEXT_SENT_MAX)));
        assert_eq!(full.len(), 4 + TEXT_SENT_MAX + 2);
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        (200_u16..600, "[ -~é\n\t\r\u{1b}]{0,40}").prop_map(|(code, text)| Reply::new(code, text))
    }

    proptest! {
        #[test]
        fn a_printed_reply_is_read_back(reply in any_reply(), tail in "[2-5 a\r\n]{0,8}") {
            let mut wire = Vec::new();
            reply.encode(&mut wire);
            let length = wire.len();
            wire.extend_from_slice(tail.as_bytes());
            prop_assert_eq!(parse_reply(&wire, &ReplyLimits::default()), Ok(Some((reply, length))));
        }

        /// However the octets arrive, the outcome is the same, and no prefix is taken for the whole.
        /// (Which of several errors is found first may differ.)
        #[test]
        fn a_reply_in_pieces_is_the_same_reply(wire in "([245][05]0?[ -]?[a\r\n]{0,3}\r?\n?){0,5}") {
            let bytes = wire.as_bytes();
            let whole = parse_reply(bytes, &LIMITS);
            for end in 0..bytes.len() {
                match parse_reply(&bytes[..end], &LIMITS) {
                    Ok(None) => {}
                    decided => {
                        prop_assert_eq!(decided.map_err(drop), whole.map_err(drop));
                        break;
                    }
                }
            }
        }

        #[test]
        fn parsing_any_bytes_does_not_panic(bytes: Vec<u8>) {
            if let Ok(Some((reply, consumed))) = parse_reply(&bytes, &LIMITS) {
                prop_assert!(consumed <= bytes.len());
                prop_assert!(reply.lines().count() > 0);
            }
        }
    }
}
