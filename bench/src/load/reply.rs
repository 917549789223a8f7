//! The client's half of a dialogue: the steps of a transaction and the reply that each is due.
//!
//! The scanner looks at the code and at the end of the line, at nothing else.

use anyhow::{Result, bail};
use memchr::memchr;

/// The longest reply line that is waited for; RFC 5321 §4.5.3.1.5 asks for 512.
const LINE_OCTETS_MAX: usize = 4096;

/// What was said last, and is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing but the connection itself.
    Connect,
    /// EHLO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The message and its final dot.
    Content,
}

impl Step {
    /// The only code that is taken for an answer.
    #[must_use]
    pub(crate) const fn code(self) -> &'static [u8; 3] {
        match self {
            Self::Connect | Self::StartTls => b"220",
            Self::Ehlo | Self::Mail | Self::Rcpt | Self::Content => b"250",
            Self::Data => b"354",
        }
    }
}

/// Finds the ends of replies in octets that arrive in any pieces.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
}

impl Replies {
    /// Takes one reply from `input`; false when its end has not arrived.
    ///
    /// # Errors
    /// When it is not the reply that is due.
    pub(crate) fn take(&mut self, input: &mut &[u8], step: Step) -> Result<bool> {
        while let Some(end) = memchr(b'\n', input) {
            let (line, rest) = input.split_at(end + 1);
            *input = rest;
            let last = if self.line.is_empty() {
                is_last(line, step)
            } else {
                self.line.extend_from_slice(line);
                let last = is_last(&self.line, step);
                self.line.clear();
                last
            };
            if last? {
                return Ok(true);
            }
        }
        self.line.extend_from_slice(input);
        *input = &[];
        if self.line.len() > LINE_OCTETS_MAX {
            bail!("the reply to {step:?} is a line without end");
        }
        Ok(false)
    }
}

/// Whether this line ends a reply (RFC 5321 §4.2.1).
fn is_last(line: &[u8], step: Step) -> Result<bool> {
    if !line.starts_with(step.code()) {
        bail!("{step:?} was answered: {}", String::from_utf8_lossy(line).trim_end());
    }
    Ok(line.get(3) != Some(&b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_many_lines_is_one_reply_however_it_is_split() {
        let wire = b"250-sink.test\r\n250-SIZE\r\n250 DSN\r\n250 2.1.0 ok\r\n250\r\n";
        for split in 0..=wire.len() {
            let mut replies = Replies::default();
            let mut ends = 0;
            for mut piece in [&wire[..split], &wire[split..]] {
                while replies.take(&mut piece, Step::Ehlo).unwrap() {
                    ends += 1;
                }
            }
            assert_eq!(ends, 3, "split at {split}");
        }
    }

    #[test]
    fn a_reply_that_is_not_due_is_named_with_its_step() {
        let mut replies = Replies::default();
        let error = replies.take(&mut &b"451 4.3.0 not now\r\n"[..], Step::Rcpt).unwrap_err();
        assert_eq!(error.to_string(), "Rcpt was answered: 451 4.3.0 not now");
    }

    #[test]
    fn a_line_without_end_is_not_waited_for_forever() {
        let mut replies = Replies::default();
        let piece = [b'2'; LINE_OCTETS_MAX + 1];
        assert!(replies.take(&mut &piece[..], Step::Mail).is_err());
    }
}
