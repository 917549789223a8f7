//! Finds the end of a command line in a growing buffer (RFC 5321 §2.3.8, §4.5.3.1.4).
//!
//! Invariants: only CRLF ends a line. A line with a bare CR, a bare LF or a NUL is consumed to its
//! CRLF and reported as malformed, never executed in part: whoever takes a bare LF for a line end
//! would see commands that we do not see (smuggling). Memory is bounded: an over-long line is dropped
//! in pieces while its end is looked for. The result does not depend on how the octets arrive.

use memchr::memchr3;

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFault {
    /// It holds a CR without LF, an LF without CR, or a NUL.
    BareControl,
    /// It is longer than the limit (and holds nothing of the above).
    TooLong,
}

/// What stands at the start of the buffer.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// No end of line yet: read more, drop nothing.
    Incomplete,
    /// No end of line yet, and the line is too long already: drop `consumed` octets and read more.
    Discard {
        /// Octets to drop from the start of the buffer.
        consumed: usize,
    },
    /// A line.
    Line {
        /// Without its CRLF.
        line: &'a [u8],
        /// Octets to drop from the start of the buffer.
        consumed: usize,
    },
    /// The end of a line that must not be executed.
    Malformed {
        /// Octets to drop from the start of the buffer.
        consumed: usize,
        /// What is wrong with it.
        fault: LineFault,
    },
}

/// Cuts a stream of octets into command lines. The buffer given to [`CommandFramer::next`] begins
/// with the first octet that was not yet consumed, and only grows between two calls.
#[derive(Clone, Debug)]
pub struct CommandFramer {
    /// Longest line, with its CRLF.
    limit: usize,
    /// Octets at the start of the buffer that hold no end of line and need not be looked at again.
    scanned: usize,
    /// The current line holds a bare control.
    bare: bool,
    /// The beginning of the current line was dropped.
    discarding: bool,
}

impl CommandFramer {
    /// A framer for lines of at most `limit` octets, CRLF included.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, scanned: 0, bare: false, discarding: false }
    }

    /// Forgets everything: the buffer was cleared, as after STARTTLS (RFC 3207 §4.2).
    pub const fn reset(&mut self) {
        *self = Self::new(self.limit);
    }

    /// Looks for the end of the line at the start of `buf`.
    pub fn next<'a>(&mut self, buf: &'a [u8]) -> Framed<'a> {
        while let Some(found) = memchr3(b'\r', b'\n', 0, buf.get(self.scanned..).unwrap_or(&[])) {
            let at = self.scanned + found;
            match &buf[at..] {
                // Perhaps the first half of CRLF.
                [b'\r'] => {
                    self.scanned = at;
                    return self.unfinished(buf.len(), 1);
                }
                [b'\r', b'\n', ..] => return self.finished(&buf[..at]),
                _ => {
                    self.bare = true;
                    self.scanned = at + 1;
                }
            }
        }
        self.scanned = buf.len();
        self.unfinished(buf.len(), 0)
    }

    /// No end yet; the last `kept` octets cannot be judged alone.
    fn unfinished(&mut self, length: usize, kept: usize) -> Framed<'static> {
        self.discarding |= length >= self.limit;
        let consumed = length - kept;
        if !self.discarding || consumed == 0 {
            return Framed::Incomplete;
        }
        self.scanned = 0;
        Framed::Discard { consumed }
    }

    /// The line ends behind `line`.
    fn finished<'a>(&mut self, line: &'a [u8]) -> Framed<'a> {
        let consumed = line.len() + 2;
        let too_long = self.discarding || consumed > self.limit;
        let bare = self.bare;
        self.reset();
        match (bare, too_long) {
            (true, _) => Framed::Malformed { consumed, fault: LineFault::BareControl },
            (false, true) => Framed::Malformed { consumed, fault: LineFault::TooLong },
            (false, false) => Framed::Line { line, consumed },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use LineFault::{BareControl, TooLong};

    type Seen = Result<Vec<u8>, LineFault>;

    /// Feeds chunks as a session would, and collects what was framed.
    fn frame<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, limit: usize) -> Vec<Seen> {
        let mut framer = CommandFramer::new(limit);
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            loop {
                let consumed = match framer.next(&buffer) {
                    Framed::Incomplete => break,
                    Framed::Discard { consumed } => consumed,
                    Framed::Line { line, consumed } => {
                        seen.push(Ok(line.to_vec()));
                        consumed
                    }
                    Framed::Malformed { consumed, fault } => {
                        seen.push(Err(fault));
                        consumed
                    }
                };
                assert!(consumed > 0 && consumed <= buffer.len());
                buffer.drain(..consumed);
            }
            assert!(buffer.len() < limit, "memory is bounded");
        }
        seen
    }

    fn whole(text: &[u8]) -> Vec<Seen> {
        frame([text], 16)
    }

    #[test]
    fn lines_end_at_crlf_only() {
        assert_eq!(whole(b"NOOP\r\nQUIT\r\nrest"), [Ok(b"NOOP".to_vec()), Ok(b"QUIT".to_vec())]);
        assert_eq!(whole(b"\r\n"), [Ok(Vec::new())]);
        assert_eq!(whole(b"NOOP\n"), []);
        assert_eq!(whole(b"NOOP\r"), []);
    }

    #[test]
    fn a_line_with_a_bare_control_is_consumed_to_its_crlf_and_not_executed() {
        for text in [
            &b"A\nB\r\n"[..],
            b"A\rB\r\n",
            b"A\r\r\n",
            b"\n\r\n",
            b"A\0\r\n",
            b"MA\rIL\r\n",
            b"A\n",
        ] {
            let mut stream = text.to_vec();
            stream.extend_from_slice(b"\r\nQUIT\r\n");
            let seen = whole(&stream);
            assert_eq!(seen.first(), Some(&Err(BareControl)), "{text:?}");
            assert_eq!(seen.last(), Some(&Ok(b"QUIT".to_vec())), "{text:?}");
        }
    }

    #[test]
    fn the_limit_counts_the_crlf_and_a_longer_line_ends_with_its_own_crlf() {
        assert_eq!(frame([&b"12345678\r\n"[..]], 10), [Ok(b"12345678".to_vec())]);
        assert_eq!(
            frame([&b"123456789\r\nQUIT\r\n"[..]], 10),
            [Err(TooLong), Ok(b"QUIT".to_vec())]
        );
        let long = [b"x".repeat(1000), b"\r\nQUIT\r\n".to_vec()].concat();
        assert_eq!(frame(long.chunks(7), 10), [Err(TooLong), Ok(b"QUIT".to_vec())]);
    }

    #[test]
    fn after_reset_nothing_is_remembered() {
        let mut framer = CommandFramer::new(10);
        assert_eq!(framer.next(b"NO\nOP"), Framed::Incomplete);
        framer.reset();
        assert_eq!(framer.next(b"QUIT\r\n"), Framed::Line { line: b"QUIT", consumed: 6 });
    }

    /// The specification, as simply as it can be said.
    fn specified(mut stream: &[u8], limit: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        while let Some(end) = stream.windows(2).position(|pair| pair == b"\r\n") {
            let line = &stream[..end];
            seen.push(if line.iter().any(|byte| b"\r\n\0".contains(byte)) {
                Err(BareControl)
            } else if end + 2 > limit {
                Err(TooLong)
            } else {
                Ok(line.to_vec())
            });
            stream = &stream[end + 2..];
        }
        seen
    }

    /// Goal: framing does not depend on how octets arrive.
    /// Method: every string of up to seven octets over CR, LF, NUL and a letter, cut at every place
    /// and in single octets, against the specification.
    #[test]
    fn framing_is_the_same_for_every_split_of_every_short_stream() {
        for length in 0..=7_u32 {
            for number in 0..4_usize.pow(length) {
                let stream: Vec<u8> =
                    (0..length).map(|place| b"\r\n\0a"[number >> (2 * place) & 3]).collect();
                let specified = specified(&stream, 4);
                assert_eq!(frame(stream.chunks(1), 4), specified, "{stream:?}");
                for cut in 0..=stream.len() {
                    let (first, second) = stream.split_at(cut);
                    assert_eq!(frame([first, second], 4), specified, "{stream:?} cut at {cut}");
                }
            }
        }
    }
}
