//! Messages of the stand-in's own: notices of stored mail, and bounces.
//!
//! Only what a proof has to cope with is true to life: the reverse-path, the direction, a Message-ID
//! and a subject of their own, and nothing of the original but the connection it came over and who
//! it was for. Texts of the real product are not known.

use smtp::{Envelope, ForwardPath, MailParameters, RcptParameters, Recipient, ReversePath, Sender};

use super::behaviour::Notified;
use super::queue::Item;

/// A message of the server's own.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) envelope: Envelope,
    /// Without angle brackets.
    pub(super) message_id: String,
    pub(super) wire: Vec<u8>,
}

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pen<'a> {
    pub(super) host: &'a str,
    /// As in a header field (RFC 5322 §3.3).
    pub(super) date: &'a str,
    /// A number that no other letter of this host has.
    pub(super) number: i128,
}

impl Pen<'_> {
    /// Tells of a stored message; none to a null reverse-path.
    pub(super) fn notice(self, original: &Item, notified: Notified) -> Option<Letter> {
        let envelope = match notified {
            Notified::Sender => to_sender(original)?,
            Notified::Recipient => original.envelope.clone(),
        };
        let text = format!(
            "A secure message is waiting to be read on the web.\r\nReference: {}\r\n",
            original.origin.name
        );
        Some(self.letter("notice", envelope, "A secure message is waiting", &text))
    }

    /// Tells the sender that a message was not sent on; none to a null reverse-path.
    pub(super) fn bounce(self, original: &Item) -> Option<Letter> {
        let mut text = format!(
            "The message could not be sent on.\r\nConnection: {}\r\n",
            original.origin.name
        );
        for recipient in original.envelope.recipients() {
            text.push_str("Recipient: ");
            text.push_str(recipient.path.address());
            text.push_str("\r\n");
        }
        Some(self.letter("bounce", to_sender(original)?, "Message not sent", &text))
    }

    fn letter(self, kind: &str, envelope: Envelope, subject: &str, text: &str) -> Letter {
        let Self { host, date, number } = self;
        let message_id = format!("{kind}.{number}@{host}");
        let to = envelope
            .recipients()
            .iter()
            .map(|recipient| format!("<{}>", recipient.path.address()))
            .collect::<Vec<_>>()
            .join(",\r\n ");
        let wire = format!(
            "Date: {date}\r\nFrom: <postmaster@{host}>\r\nTo: {to}\r\nSubject: {subject}\r\n\
             Message-ID: <{message_id}>\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\r\n{text}",
        );
        Letter { envelope, message_id, wire: wire.into_bytes() }
    }
}

/// From the null reverse-path to the sender.
fn to_sender(original: &Item) -> Option<Envelope> {
    let sender = &original.envelope.sender.path;
    if sender.is_null() {
        return None;
    }
    let path = ForwardPath::parse(&format!("<{}>", sender.address())).ok()?;
    let null = ReversePath::parse("<>").ok()?;
    Some(Envelope::new(
        Sender { path: null, parameters: MailParameters::default() },
        Recipient { path, parameters: RcptParameters::default() },
    ))
}
