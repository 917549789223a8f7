//! A look at the header of mail data on its way through (RFC 5322 §2.2, §3.6).
//!
//! Invariants: nothing is rewritten; memory is bounded whatever comes; a field is recognised by its
//! name at the start of a line, in any case; nothing below the empty line is looked at.
//!
//! Not here: MIME structure, addresses. Whoever needs those uses a real parser, off the path of mail.

use memchr::{memchr, memmem};

use crate::trace;

/// Longest value kept of a field, in octets; the rest is not looked at.
const VALUE_MAX: usize = 998;

/// Longest beginning of a line kept while its end has not come.
const LINE_MAX: usize = 1024;

/// The field by which a probe of lockgate is known again.
pub const PROBE_FIELD: &str = "X-Lockgate-Probe";

/// Marks of the encryption server, as its header fields show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PgpMarks {
    /// `X-PGP-Universal`: the server has processed the message.
    pub universal: bool,
    /// `X-PGP-Encoding-Format`: the server has encrypted or signed it.
    pub encoding_format: bool,
}

/// Fields of which the value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    MessageId,
    ContentType,
    EncodingFormat,
    Probe,
}

/// Reads the header of one message, given in wire form in chunks of any size.
#[derive(Clone, Debug, Default)]
pub struct HeaderPeek {
    /// The beginning of the line whose end has not come.
    line: Vec<u8>,
    /// Lines so far.
    lines: usize,
    done: bool,
    has_8bit: bool,
    received: usize,
    marks: PgpMarks,
    /// The field that is being read, and its value so far.
    open: Option<(Kept, Vec<u8>)>,
    message_id: Option<String>,
    content_type: Option<String>,
    encoding_format: Option<String>,
    probe: Option<String>,
    /// The field that is being read is a `Received:`, and none so far was ours.
    in_received: bool,
    trace_id: Option<String>,
}

impl HeaderPeek {
    /// A look at a message that is about to come.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of mail data, and says how many of its octets belong to the header; cheap once
    /// that has ended.
    pub fn push(&mut self, wire: &[u8]) -> usize {
        let mut rest = wire;
        while !self.done && !rest.is_empty() {
            let (piece, tail, whole) = match memchr(b'\n', rest) {
                Some(at) => (&rest[..at], &rest[at + 1..], true),
                None => (rest, &rest[rest.len()..], false),
            };
            rest = tail;
            self.has_8bit |= !piece.is_ascii();
            if whole && self.line.is_empty() {
                self.take_line(piece);
            } else {
                let room = LINE_MAX - self.line.len().min(LINE_MAX);
                self.line.extend_from_slice(&piece[..piece.len().min(room)]);
                if whole {
                    let line = std::mem::take(&mut self.line);
                    self.take_line(&line);
                    self.line = line;
                    self.line.clear();
                }
            }
        }
        wire.len() - rest.len()
    }

    /// Mail data has ended, perhaps without an empty line.
    pub fn finish(&mut self) {
        if !self.done {
            if !self.line.is_empty() {
                let line = std::mem::take(&mut self.line);
                self.take_line(&line);
            }
            self.end();
        }
    }

    /// Whether the header has ended.
    #[must_use]
    pub const fn done(&self) -> bool {
        self.done
    }

    /// `Received:` fields so far (RFC 5321 §6.3).
    #[must_use]
    pub const fn received_count(&self) -> usize {
        self.received
    }

    /// The first `Message-ID:`, unfolded, without spaces around it; complete when [`HeaderPeek::done`].
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.message_id.as_deref()
    }

    /// The first `Content-Type:`, unfolded, without spaces around it.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The first `X-PGP-Encoding-Format:`, unfolded, without spaces around it.
    #[must_use]
    pub fn encoding_format(&self) -> Option<&str> {
        self.encoding_format.as_deref()
    }

    /// The first [`PROBE_FIELD`], unfolded, without spaces around it.
    #[must_use]
    pub fn probe(&self) -> Option<&str> {
        self.probe.as_deref()
    }

    /// Marks of the encryption server.
    #[must_use]
    pub const fn pgp_marks(&self) -> PgpMarks {
        self.marks
    }

    /// The id in the topmost `Received:` field that was written by a lockgate ([`crate::Trace`]): what a stranger wrote
    /// stands below it.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.trace_id.as_deref()
    }

    /// Whether the header holds octets beyond US-ASCII (RFC 6532, or a client that does not care).
    #[must_use]
    pub const fn has_8bit(&self) -> bool {
        self.has_8bit
    }

    /// One line without its LF, or its beginning.
    fn take_line(&mut self, line: &[u8]) {
        // Cut as if it had come in pieces, so that the pieces make no difference.
        let line = &line[..line.len().min(LINE_MAX)];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.lines += 1;
        match line.first() {
            None => self.end(),
            // A continuation (RFC 5322 §2.2.3); the CRLF goes, the space stays.
            Some(b' ' | b'\t') => {
                if let Some((_, value)) = &mut self.open {
                    append_bounded(line, value);
                } else if self.in_received {
                    self.look_for_trace(line);
                }
            }
            Some(_) => self.take_field(line),
        }
    }

    /// The first line of a field.
    fn take_field(&mut self, line: &[u8]) {
        self.close_field();
        let colon = memchr(b':', line).filter(|&at| is_field_name(line[..at].trim_ascii_end()));
        let Some(colon) = colon else {
            // No header field: the body has begun without an empty line, as MTAs take it too. But a
            // first line of a mailbox file is passed over.
            let mailbox_line = line.starts_with(b"From ") || line.starts_with(b">From ");
            if !(self.lines == 1 && mailbox_line) {
                self.end();
            }
            return;
        };
        let name = line[..colon].trim_ascii_end();
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("Received") {
            self.received += 1;
            self.in_received = self.trace_id.is_none();
            if self.in_received {
                self.look_for_trace(&line[colon + 1..]);
            }
        } else if is("X-PGP-Universal") {
            self.marks.universal = true;
        } else {
            let is_format = is("X-PGP-Encoding-Format");
            self.marks.encoding_format |= is_format;
            let kept = if is("Message-ID") && self.message_id.is_none() {
                Kept::MessageId
            } else if is("Content-Type") && self.content_type.is_none() {
                Kept::ContentType
            } else if is_format && self.encoding_format.is_none() {
                Kept::EncodingFormat
            } else if is(PROBE_FIELD) && self.probe.is_none() {
                Kept::Probe
            } else {
                return;
            };
            let mut value = Vec::new();
            append_bounded(&line[colon + 1..], &mut value);
            self.open = Some((kept, value));
        }
    }

    /// Is this the line of a `Received:` field on which we write our id?
    fn look_for_trace(&mut self, line: &[u8]) {
        let Some(at) = memmem::find(line, trace::MARK.as_bytes()) else { return };
        let behind = &line[at + trace::MARK.len()..];
        let Some(at) = memmem::find(behind, b" id ") else { return };
        let id = &behind[at + 4..];
        let end = id.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(id.len());
        if let Ok(id) = std::str::from_utf8(&id[..end])
            && !id.is_empty()
        {
            self.trace_id = Some(id.to_owned());
            self.in_received = false;
        }
    }

    /// The value of the field that was being read is complete.
    fn close_field(&mut self) {
        self.in_received = false;
        if let Some((kept, value)) = self.open.take() {
            let text = String::from_utf8_lossy(value.trim_ascii()).into_owned();
            match kept {
                Kept::MessageId => self.message_id = Some(text),
                Kept::ContentType => self.content_type = Some(text),
                Kept::EncodingFormat => self.encoding_format = Some(text),
                Kept::Probe => self.probe = Some(text),
            }
        }
    }

    fn end(&mut self) {
        self.close_field();
        self.line = Vec::new();
        self.done = true;
    }
}

/// `ftext` of RFC 5322 §3.6.8, or an 8-bit octet of somebody who does not care.
fn is_field_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| byte.is_ascii_graphic() || byte >= 0x80)
}

fn append_bounded(piece: &[u8], value: &mut Vec<u8>) {
    let room = VALUE_MAX - value.len().min(VALUE_MAX);
    value.extend_from_slice(&piece[..piece.len().min(room)]);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peek(wire: &[u8], size: usize) -> HeaderPeek {
        let mut peek = HeaderPeek::new();
        for chunk in wire.chunks(size) {
            peek.push(chunk);
        }
        peek.finish();
        peek
    }

    /// What can be asked of a peek.
    fn facts(peek: &HeaderPeek) -> (usize, Option<&str>, Option<&str>, PgpMarks, bool) {
        let marks = peek.pgp_marks();
        (peek.received_count(), peek.message_id(), peek.content_type(), marks, peek.has_8bit())
    }

    const MESSAGE: &[u8] = b"Received: from a\r\n\tby b\r\nRECEIVED : from c\r\n\
        X-Received: no\r\nMessage-ID:\r\n <1@example.org>  \r\nMessage-ID: <2@example.org>\r\n\
        Content-Type: multipart/signed;\r\n\tmicalg=x\r\nx-pgp-universal: processed;\r\n\
        Subject: x\r\n\r\nReceived: body\r\nX-PGP-Encoding-Format: MIME\r\n\xfc\r\n";

    #[test]
    fn the_header_is_read_the_same_in_pieces_of_any_size() {
        for size in 1..=MESSAGE.len() {
            let peek = peek(MESSAGE, size);
            assert_eq!(peek.received_count(), 2);
            assert_eq!(peek.message_id(), Some("<1@example.org>"));
            assert_eq!(peek.content_type(), Some("multipart/signed;\tmicalg=x"));
            assert_eq!(peek.pgp_marks(), PgpMarks { universal: true, encoding_format: false });
            assert!(!peek.has_8bit() && peek.done());
        }
    }

    #[test]
    fn a_probe_and_the_form_of_what_comes_back_are_read_from_the_first_such_field() {
        let wire = b"X-LOCKGATE-PROBE :\r\n one\r\nx-pgp-encoding-format:  PGP/MIME \r\n\
            X-Lockgate-Probe: two\r\nX-PGP-Encoding-Format: Partitioned\r\n\r\n";
        for size in 1..wire.len() {
            let peek = peek(wire, size);
            assert_eq!(peek.probe(), Some("one"));
            assert_eq!(peek.encoding_format(), Some("PGP/MIME"));
            assert!(peek.pgp_marks().encoding_format);
        }
        let below = peek(b"Subject: x\r\n\r\nX-Lockgate-Probe: one\r\n", 99);
        assert_eq!((below.probe(), below.encoding_format()), (None, None));
    }

    #[test]
    fn the_topmost_trace_field_of_a_lockgate_names_its_id() {
        let wire = b"Received: from x by sems (PGP Universal service); now\r\n\
            Received: from [192.0.2.1] ([192.0.2.1])\r\n\tby gate.example (lockgate) with ESMTPS id 0A1;\r\n\tnow\r\n\
            Received: from y ([192.0.2.1])\r\n\tby other (lockgate) with SMTP id 0B2;\r\n\tnow\r\n\
            Subject: by x (lockgate) with SMTP id 0C3\r\n\r\n";
        for size in 1..wire.len() {
            assert_eq!(peek(wire, size).trace_id(), Some("0A1"));
        }
        let unfolded = b"Received: from a by b (lockgate) with ESMTP id 0D4; now\r\n\r\n";
        assert_eq!(peek(unfolded, 99).trace_id(), Some("0D4"));
        let none = b"Received: from a\r\nSubject: x\r\n by b (lockgate) with ESMTP id 0E5;\r\n\r\n";
        assert_eq!(peek(none, 99).trace_id(), None, "another field went on");
    }

    #[test]
    fn the_empty_line_ends_the_header() {
        let mut peek = HeaderPeek::new();
        assert_eq!(peek.push(b"Message-ID: <a>\r\n"), 17);
        assert!(!peek.done());
        assert_eq!(peek.push(b"\r\nReceived: x\r\n"), 2, "the empty line is the header's last");
        assert!(peek.done());
        assert_eq!((peek.message_id(), peek.received_count()), (Some("<a>"), 0));
    }

    #[test]
    fn a_header_that_the_message_ends_with_is_read_as_well() {
        assert_eq!(peek(b"Message-ID: <a>", 99).message_id(), Some("<a>"));
        assert_eq!(peek(b"Message-ID: <a>\r\n", 99).message_id(), Some("<a>"));
        assert_eq!(facts(&peek(b"", 1)), facts(&HeaderPeek::new()));
    }

    #[test]
    fn a_body_without_an_empty_line_before_it_is_no_header() {
        assert_eq!(peek(b"hello there\r\nReceived: x\r\n", 99).received_count(), 0);
        assert_eq!(peek(b"From a Mon\r\nReceived: x\r\n", 99).received_count(), 1);
        assert_eq!(peek(b"Received: x\r\nFrom a Mon\r\nReceived: x\r\n", 99).received_count(), 1);
    }

    #[test]
    fn eight_bit_octets_in_the_header_are_seen_and_kept_legible() {
        let peek = peek(b"Message-ID: <\xfc>\r\n\r\n", 99);
        assert!(peek.has_8bit());
        assert_eq!(peek.message_id(), Some("<\u{fffd}>"));
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let long = [b"Message-ID: ".to_vec(), b"x".repeat(100_000)].concat();
        for size in [7, 1000, long.len()] {
            let peek = peek(&long, size);
            assert_eq!(peek.message_id().map(str::len), Some(997), "998 less the first space");
        }
        // A name padded with spaces: what is cut must not depend on the pieces.
        let padded = format!("Message-ID{}:{}\r\n\r\n", " ".repeat(500), "x".repeat(2000));
        for size in [1, 1000, padded.len()] {
            let peek = peek(padded.as_bytes(), size);
            assert_eq!(peek.message_id().map(str::len), Some(LINE_MAX - 511));
        }
        let folded = [b"Content-Type: a\r\n".to_vec(), b" bcdefghij\r\n".repeat(10_000)].concat();
        assert_eq!(peek(&folded, 1000).content_type().map(str::len), Some(997));
        let mut unfinished = HeaderPeek::new();
        for _ in 0..1000 {
            unfinished.push(&b"y".repeat(1000));
            assert!(unfinished.line.len() <= LINE_MAX);
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_the_same_in_pieces(
            text in "((Received|Message-ID|Content-Type|X-PGP-Encoding-Format|a b|)[ ]?:?[ a\u{fc}]{0,5}\r?\n){0,8}",
            size in 1_usize..40,
        ) {
            let whole = peek(text.as_bytes(), text.len().max(1));
            let pieces = peek(text.as_bytes(), size);
            let (count, id, kind, marks, _) = facts(&whole);
            let (count_pieces, id_pieces, kind_pieces, marks_pieces, _) = facts(&pieces);
            prop_assert_eq!((count, id, kind, marks), (count_pieces, id_pieces, kind_pieces, marks_pieces));
            prop_assert_eq!(whole.has_8bit(), pieces.has_8bit());
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, size in 1_usize..9) {
            let peek = peek(&bytes, size);
            prop_assert!(peek.done() && peek.received_count() <= bytes.len());
        }
    }
}
