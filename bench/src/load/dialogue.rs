//! The server's half of a dialogue: octets in, replies out, whatever carries them.
//!
//! It takes every command in every order: it is made to be cheap, not to be right.

use std::sync::LazyLock;

use memchr::{memchr, memmem};

/// What is said to a new connection.
pub(crate) const GREETING: &[u8] = b"220 sink.test ESMTP\r\n";

/// The answer to EHLO.
pub(crate) const EHLO: &[u8] = b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n\
    250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n";

/// The answer to EHLO before TLS.
pub(crate) const EHLO_STARTTLS: &[u8] =
    b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n\
    250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-STARTTLS\r\n250 ENHANCEDSTATUSCODES\r\n";

/// The plain positive answer.
pub(crate) const OK: &[u8] = b"250 2.0.0 ok\r\n";

/// The longest command line; a longer one ends the connection.
const LINE_OCTETS_MAX: usize = 8192;

/// What ends mail data (RFC 5321 §4.1.1.4), the end of its last line included.
const END: &[u8; 5] = b"\r\n.\r\n";

static END_FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(END));

/// What the server has to know of what was said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// EHLO or HELO; answered.
    Hello,
    /// Mail data that goes on.
    Content(&'a [u8]),
    /// The last piece of mail data, final dot included, and the octets of the message without it.
    /// The answer is in the replies, and must not leave before the message is kept.
    End(&'a [u8], u64),
    /// STARTTLS; to be answered. What follows it in the clear is dropped.
    StartTls,
    /// STAT; to be answered.
    Stat,
    /// ZERO; to be answered.
    Zero,
    /// QUIT, or an endless line; answered.
    Quit,
}

/// Where one connection stands.
#[derive(Debug)]
pub(crate) struct Dialogue {
    /// The answer to EHLO.
    ehlo: &'static [u8],
    /// The beginning of a command line whose end has not arrived.
    line: Vec<u8>,
    data: Option<EndOfData>,
}

impl Dialogue {
    /// At the first command of a connection.
    #[must_use]
    pub(crate) const fn new(ehlo: &'static [u8]) -> Self {
        Self { ehlo, line: Vec::new(), data: None }
    }

    /// Goes on until something is to be known; None when the input is used up.
    pub(crate) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        replies: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        while !input.is_empty() {
            if let Some(data) = &mut self.data {
                let Some(end) = data.find(input) else {
                    return Some(Event::Content(std::mem::take(input)));
                };
                let octets = data.octets;
                let (content, rest) = input.split_at(end);
                *input = rest;
                self.data = None;
                replies.extend_from_slice(OK);
                return Some(Event::End(content, octets));
            }
            let Some(end) = memchr(b'\n', input) else {
                self.line.extend_from_slice(std::mem::take(input));
                if self.line.len() <= LINE_OCTETS_MAX {
                    return None;
                }
                replies.extend_from_slice(b"500 5.5.2 line too long\r\n");
                return Some(Event::Quit);
            };
            let (line, rest) = input.split_at(end + 1);
            *input = rest;
            let verb = if self.line.is_empty() {
                verb(line)
            } else {
                self.line.extend_from_slice(line);
                let verb = verb(&self.line);
                self.line = Vec::new();
                verb
            };
            let event = self.answer(&verb, replies);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn answer(&mut self, verb: &[u8; 4], replies: &mut Vec<u8>) -> Option<Event<'static>> {
        match verb {
            b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" | b"VRFY" | b"XCLI" | b"XFOR" => {
                replies.extend_from_slice(OK);
                None
            }
            b"DATA" => {
                self.data = Some(EndOfData::default());
                replies.extend_from_slice(b"354 go on\r\n");
                None
            }
            b"EHLO" => {
                replies.extend_from_slice(self.ehlo);
                Some(Event::Hello)
            }
            b"HELO" => {
                replies.extend_from_slice(b"250 sink.test\r\n");
                Some(Event::Hello)
            }
            b"QUIT" => {
                replies.extend_from_slice(b"221 2.0.0 bye\r\n");
                Some(Event::Quit)
            }
            b"STAR" if self.ehlo == EHLO_STARTTLS => Some(Event::StartTls),
            b"STAT" => Some(Event::Stat),
            b"ZERO" => Some(Event::Zero),
            _ => {
                replies.extend_from_slice(b"500 5.5.1 not known\r\n");
                None
            }
        }
    }
}

/// The first four octets in capitals: enough to tell all commands apart.
fn verb(line: &[u8]) -> [u8; 4] {
    line.first_chunk::<4>().map_or([0; 4], |verb| verb.map(|octet| octet.to_ascii_uppercase()))
}

/// Looks for the end of mail data in octets that arrive in any pieces.
#[derive(Debug)]
struct EndOfData {
    /// The last octets seen: the beginning of the end may be among them.
    tail: [u8; 4],
    /// The octets seen; at the end those of the message, without the final dot.
    octets: u64,
}

impl Default for EndOfData {
    /// The command line before the data ended with CRLF, so a dot at once ends an empty message.
    fn default() -> Self {
        Self { tail: *b"\0\0\r\n", octets: 0 }
    }
}

impl EndOfData {
    /// How many octets of this piece belong to the message and its final dot, if it ends here.
    fn find(&mut self, piece: &[u8]) -> Option<usize> {
        let head = piece.len().min(4);
        let mut seam = [0; 8];
        seam[..4].copy_from_slice(&self.tail);
        seam[4..4 + head].copy_from_slice(&piece[..head]);
        let end = seam[..4 + head]
            .windows(END.len())
            .position(|window| window == END)
            .map(|at| at + END.len() - 4)
            .or_else(|| END_FINDER.find(piece).map(|at| at + END.len()));
        if let Some(end) = end {
            self.octets = self.octets + end as u64 - 3;
        } else {
            self.octets += piece.len() as u64;
            if let Some(tail) = piece.last_chunk() {
                self.tail = *tail;
            } else {
                self.tail.copy_from_slice(&seam[head..head + 4]);
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the pieces; the octets of each message that ended, the replies, what data was seen.
    fn feed(pieces: &[&[u8]]) -> (Vec<u64>, String, Vec<u8>) {
        let mut dialogue = Dialogue::new(EHLO);
        let (mut ends, mut replies, mut content) = (Vec::new(), Vec::new(), Vec::new());
        for &piece in pieces {
            let mut input = piece;
            while let Some(event) = dialogue.next(&mut input, &mut replies) {
                match event {
                    Event::Content(octets) => content.extend_from_slice(octets),
                    Event::End(octets, count) => {
                        content.extend_from_slice(octets);
                        ends.push(count);
                    }
                    _ => {}
                }
            }
        }
        (ends, String::from_utf8(replies).unwrap(), content)
    }

    #[test]
    fn the_end_of_data_is_found_wherever_it_is_split() {
        for message in ["", "\r\n", "a\r\n", ".\r\n..\r\n", "a\r\n.b\r\n\r.\r\n", "\r\n\r\n"] {
            // A dot line of its own would end the message: stuff it as a client would.
            let stuffed = message.replace("\r\n.", "\r\n..");
            let stuffed = if let Some(rest) = stuffed.strip_prefix('.') {
                format!("..{rest}")
            } else {
                stuffed
            };
            let wire = format!("DATA\r\n{stuffed}.\r\nDATA\r\n{stuffed}.\r\nQUIT\r\n");
            let wire = wire.as_bytes();
            let octets = stuffed.len() as u64;
            let replies = "354 go on\r\n250 2.0.0 ok\r\n".repeat(2) + "221 2.0.0 bye\r\n";
            for first in 0..=wire.len() {
                for second in first..=wire.len() {
                    let found = feed(&[&wire[..first], &wire[first..second], &wire[second..]]);
                    assert_eq!(found.0, [octets, octets], "{message:?} at {first}, {second}");
                    assert_eq!(found.1, replies, "{message:?} at {first}, {second}");
                    assert_eq!(found.2, format!("{stuffed}.\r\n").repeat(2).as_bytes());
                }
            }
            let single: Vec<&[u8]> = wire.chunks(1).collect();
            assert_eq!(feed(&single).0, [octets, octets], "{message:?} octet by octet");
        }
    }

    #[test]
    fn an_endless_line_ends_the_connection() {
        let mut dialogue = Dialogue::new(EHLO);
        let mut replies = Vec::new();
        let line = [b'a'; LINE_OCTETS_MAX + 1];
        assert_eq!(dialogue.next(&mut &line[..], &mut replies), Some(Event::Quit));
    }

    #[test]
    fn starttls_is_known_only_where_it_is_offered() {
        let mut replies = Vec::new();
        let line = &mut &b"STARTTLS\r\n"[..];
        assert_eq!(Dialogue::new(EHLO).next(line, &mut replies), None);
        assert!(replies.starts_with(b"500"));
        let line = &mut &b"STARTTLS\r\n"[..];
        let event = Dialogue::new(EHLO_STARTTLS).next(line, &mut replies);
        assert_eq!(event, Some(Event::StartTls));
    }
}
