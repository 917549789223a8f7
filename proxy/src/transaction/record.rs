//! The one log line of an ended transaction or attempt, and its counts.
//!
//! The line is a contract: `key=value`, ids first, never mail data. Renaming a key is a breaking
//! change.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Instant;

use smtp::{Envelope, Recipient, Sender};

use crate::id::TransactionId;
use crate::outcome::Outcome;

/// What is written of one transaction or attempt.
#[derive(Debug)]
pub struct Record<'a> {
    /// Its id.
    pub id: TransactionId,
    /// `transaction`, `replay`, `probe`, `dsn`.
    pub what: &'static str,
    /// The gate.
    pub gate: &'a str,
    /// `pass`, `hold`, `refuse` or `replay`.
    pub mode: &'static str,
    /// The member, when one was spoken to.
    pub member: Option<&'a str>,
    /// The client.
    pub client: Option<SocketAddr>,
    /// Reverse-path, as written.
    pub from: String,
    /// Forward-paths, as written, bounded.
    pub to: String,
    /// Forward-paths accepted.
    pub recipients: usize,
    /// Octets of mail data.
    pub size: u64,
    /// Message-ID field.
    pub message_id: Option<&'a str>,
    /// How it ended.
    pub outcome: Outcome,
    /// The reply that decided.
    pub reply: String,
    /// When it began.
    pub began: Instant,
    /// TLS towards the next hop.
    pub tls: Option<&'a str>,
}

impl Record<'_> {
    /// Is the line wanted at all? What stands in it is made for nothing else.
    #[must_use]
    pub fn wanted() -> bool {
        tracing::enabled!(tracing::Level::INFO)
    }

    /// Writes the line.
    pub fn log(&self) {
        let seconds = self.began.elapsed().as_secs_f64();
        tracing::info!(
            id = %self.id,
            gate = self.gate,
            mode = self.mode,
            member = self.member.unwrap_or("-"),
            client = %Shown(self.client.as_ref()),
            from = ?self.from,
            to = ?self.to,
            recipients = self.recipients,
            size = self.size,
            message_id = ?self.message_id.unwrap_or("-"),
            tls = self.tls.unwrap_or("-"),
            outcome = self.outcome.as_str(),
            reply = ?self.reply,
            seconds = %format_args!("{seconds:.6}"),
            "{}", self.what
        );
    }
}

/// A value or `-`.
struct Shown<'a, T>(Option<&'a T>);

impl<T: std::fmt::Display> std::fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// The reverse-path for the line.
#[must_use]
pub fn from_of(sender: &Sender) -> String {
    sender.path.to_string()
}

/// Forward-paths for the line: as many as fit into a kilobyte, then how many more.
#[must_use]
pub fn to_of<'a>(recipients: impl ExactSizeIterator<Item = &'a Recipient>) -> String {
    const OCTETS_MAX: usize = 1024;
    let count = recipients.len();
    let mut text = String::new();
    for (index, recipient) in recipients.enumerate() {
        if text.len() > OCTETS_MAX {
            // Writing to a String cannot fail.
            write!(text, ",+{}", count - index).ok();
            break;
        }
        if index > 0 {
            text.push(',');
        }
        write!(text, "{}", recipient.path).ok();
    }
    text
}

/// Reverse-path and forward-paths of an envelope for the line.
#[must_use]
pub fn paths_of(envelope: &Envelope) -> (String, String) {
    (from_of(&envelope.sender), to_of(envelope.recipients().iter()))
}
