//! A message that somebody gives to be sent as a probe.
//!
//! Invariants
//! - Every line ends with CRLF; no CR or LF stands elsewhere, so that a probe cannot smuggle anything
//!   into a transaction.
//! - It begins with fields, or has none: what lockgate writes above it belongs to the same header.
//! - The fields by which a probe is known again are lockgate's alone.
//!
//! Not here: those fields (`mod`), what the member must offer for it (`mod`).

use smtp::limits::TEXT_LINE;

/// Most octets of a message.
pub const OCTETS_MAX: usize = 1 << 20;

/// A message that can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(Vec<u8>);

/// Why a message is not sent. Lines are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Too large.
    #[error("it has {octets} octets, and a probe has at most {OCTETS_MAX}")]
    TooLarge {
        /// How many it has.
        octets: usize,
    },
    /// A line ends with LF alone, or a CR stands in it.
    #[error(
        "line {line}: every line ends with CRLF, and no CR or LF stands elsewhere (RFC 5321 §2.3.8)"
    )]
    BareEnd {
        /// Which line.
        line: usize,
    },
    /// A line is too long.
    #[error("line {line}: a line has at most {TEXT_LINE} octets (RFC 5321 §4.5.3.1.6)")]
    LongLine {
        /// Which line.
        line: usize,
    },
    /// A zero octet.
    #[error("line {line}: an octet with the value 0 does not go through mail (RFC 5322 §2.2)")]
    Zero {
        /// Which line.
        line: usize,
    },
    /// No field, and no empty line came before.
    #[error("line {line}: not a header field, and no empty line came before (RFC 5322 §2.2)")]
    NotAField {
        /// Which line.
        line: usize,
    },
    /// A field that lockgate writes.
    #[error("line {line}: {field} is written by lockgate; leave it out")]
    Reserved {
        /// Which line.
        line: usize,
        /// Its name.
        field: &'static str,
    },
}

/// Fields that lockgate writes above the message.
const RESERVED: [&str; 2] = ["Message-ID", smtp::PROBE_FIELD];

impl Message {
    /// Takes a message (RFC 5322), dots as they are. An end of the last line that is missing is added.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn parse(mut octets: Vec<u8>) -> Result<Self, MessageError> {
        if octets.len() > OCTETS_MAX {
            return Err(MessageError::TooLarge { octets: octets.len() });
        }
        if !octets.is_empty() && !octets.ends_with(b"\n") {
            octets.extend_from_slice(b"\r\n");
        }
        let mut in_header = true;
        for (at, line) in octets.split_inclusive(|octet| *octet == b'\n').enumerate() {
            let number = at + 1;
            let line = line_of(line, number)?;
            if in_header && !line.is_empty() {
                check_header_line(line, number)?;
            }
            in_header &= !line.is_empty();
        }
        Ok(Self(octets))
    }

    /// Its octets.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

/// A line without its end.
fn line_of(line: &[u8], number: usize) -> Result<&[u8], MessageError> {
    let line = line.strip_suffix(b"\r\n").ok_or(MessageError::BareEnd { line: number })?;
    if line.contains(&b'\r') {
        return Err(MessageError::BareEnd { line: number });
    }
    if line.len() > TEXT_LINE {
        return Err(MessageError::LongLine { line: number });
    }
    if line.contains(&0) {
        return Err(MessageError::Zero { line: number });
    }
    Ok(line)
}

fn check_header_line(line: &[u8], number: usize) -> Result<(), MessageError> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        // A first line that goes on would go on with a field of ours.
        return if number > 1 { Ok(()) } else { Err(MessageError::NotAField { line: number }) };
    }
    let colon = memchr::memchr(b':', line).ok_or(MessageError::NotAField { line: number })?;
    let name = line[..colon].trim_ascii_end();
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return Err(MessageError::NotAField { line: number });
    }
    let reserved = RESERVED.into_iter().find(|field| name.eq_ignore_ascii_case(field.as_bytes()));
    match reserved {
        Some(field) => Err(MessageError::Reserved { line: number, field }),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &[u8]) -> Result<Vec<u8>, MessageError> {
        Message::parse(text.to_vec()).map(|message| message.0)
    }

    #[test]
    fn a_message_is_taken_as_it_is() {
        let messages: [&[u8]; 6] = [
            b"",
            b"\r\nbody\r\n",
            b"Subject: x\r\n",
            b"Subject : x\r\n folded\r\n\tmore\r\n\r\n.\r\n..\r\nMessage-ID: <a@b>\r\n no field\r\n",
            b"Subject: \xfc\r\n\r\n\xff\xfe\r\n",
            b"X-Lockgate-Probe-Not: a\r\n\r\n",
        ];
        for message in messages {
            assert_eq!(parse(message).as_deref(), Ok(message));
        }
    }

    #[test]
    fn a_last_line_without_an_end_gets_one() {
        assert_eq!(parse(b"Subject: x\r\n\r\nbody").unwrap(), b"Subject: x\r\n\r\nbody\r\n");
    }

    #[test]
    fn a_bare_cr_or_lf_is_refused_where_it_stands() {
        let cases: [(&[u8], usize); 6] = [
            (b"Subject: x\n\r\n", 1),
            (b"Subject: x\r\n\r\nbody\n.\r\n", 3),
            (b"Subject: x\r\n\r\nbody\n.\n", 3),
            (b"Subject: x\r\n\r\na\rb\r\n", 3),
            (b"Subject: x\r\n\r\na\r\r\n", 3),
            (b"Subject: x\r\n\r\nend\r", 3),
        ];
        for (message, line) in cases {
            assert_eq!(parse(message), Err(MessageError::BareEnd { line }), "{message:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_since_fields_of_ours_stand_above() {
        let messages: [(&[u8], usize); 5] = [
            (b" folded\r\n\r\n", 1),
            (b"hello there\r\n", 1),
            (b"From a@b Mon Jan 1\r\nSubject: x\r\n\r\n", 1),
            (b"Subject: x\r\nno field\r\n\r\n", 2),
            (b": x\r\n", 1),
        ];
        for (message, line) in messages {
            assert_eq!(parse(message), Err(MessageError::NotAField { line }), "{message:?}");
        }
    }

    #[test]
    fn fields_by_which_a_probe_is_known_are_refused() {
        for (field, name) in [
            ("message-id: <a@b>", "Message-ID"),
            ("Message-ID : <a@b>", "Message-ID"),
            ("X-LOCKGATE-PROBE: a", "X-Lockgate-Probe"),
        ] {
            let message = format!("Subject: x\r\n{field}\r\n\r\nbody\r\n");
            let refused = MessageError::Reserved { line: 2, field: name };
            assert_eq!(parse(message.as_bytes()), Err(refused));
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let line =
            |octets: usize| [b"\r\n".to_vec(), vec![b'x'; octets], b"\r\n".to_vec()].concat();
        assert!(parse(&line(998)).is_ok());
        assert_eq!(parse(&line(999)), Err(MessageError::LongLine { line: 2 }));
        let octets = OCTETS_MAX + 1;
        assert_eq!(parse(&vec![b'x'; octets]), Err(MessageError::TooLarge { octets }));
        assert_eq!(parse(b"\r\na\0b\r\n"), Err(MessageError::Zero { line: 2 }));
    }

    proptest! {
        /// Whatever is taken: the look at mail that comes back finds our field above it, and no other.
        #[test]
        fn nothing_that_is_taken_forges_the_mark(
            text in "((Subject|message-id|X-Lockgate-Probe|a b|)[ ]?:?[ a]{0,3}(\r\n|\n|\r|\r\n ))*",
        ) {
            if let Ok(octets) = parse(text.as_bytes()) {
                let mut peek = smtp::HeaderPeek::new();
                peek.push(b"X-Lockgate-Probe: ours\r\nMessage-ID: <ours>\r\n");
                peek.push(&octets);
                peek.finish();
                prop_assert_eq!(peek.probe(), Some("ours"));
                prop_assert_eq!(peek.message_id(), Some("<ours>"));
            }
        }
    }
}
