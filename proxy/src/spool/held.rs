//! What a held message is, to whoever reads it.
//!
//! Invariants
//! - Mail data is in wire form, dot-stuffed as received and without the terminating dot; not a
//!   byte differs from what the client sent.
//! - What a [`DataReader`] returns has been authenticated.

use bytes::Bytes;
use std::net::SocketAddr;

use smtp::Envelope;

use super::mark::{PathState, Paths, Stand};
use super::read::Parts;
use super::{GateName, LoadError, SpoolId};

/// For which kind of delivery a message is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Mail that a client gave us, for the gate's members.
    Mail,
    /// A report of ours, for the gate's `dsn_next_hop`.
    Dsn,
}

/// What was known of the client when the message arrived: what XFORWARD will say at replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When MAIL was accepted.
    pub held_at_unix_ms: u64,
    /// Address and port of the client.
    pub client: SocketAddr,
    /// What it called itself in EHLO or HELO.
    pub client_name: String,
    /// "SMTP", "ESMTP", "ESMTPS"...
    pub protocol: String,
    /// The session was encrypted.
    pub tls: bool,
}

/// A message read back from the spool.
#[derive(Debug)]
pub struct HeldMessage {
    /// Its name.
    pub id: SpoolId,
    /// The gate it waits at.
    pub gate: GateName,
    /// Which way it goes.
    pub lane: Lane,
    /// Reverse-path and forward-paths with their parameters, verbatim.
    pub envelope: Envelope,
    /// The client it came from.
    pub arrival: Arrival,
    /// The Message-ID field, where one was seen.
    pub message_id: Option<String>,
    /// Octets of mail data in wire form.
    pub size: u64,
    /// Where each forward-path stands, in the order of the envelope.
    pub paths: Vec<PathState>,
    /// The mail data.
    pub data: DataReader,
}

/// Reads the mail data of one message, piece by piece. Blocking.
#[derive(Debug)]
pub struct DataReader {
    pub(super) parts: Parts,
}

impl DataReader {
    /// The next piece (at most 64 KiB), or `None` at the end. A piece that does not
    /// authenticate ends the message: what was read before must not be completed.
    #[allow(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<Bytes>, LoadError> {
        self.parts.next_piece()
    }
}

/// A held message as the index knows it, without a look at the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its name.
    pub id: SpoolId,
    /// The gate it waits at.
    pub gate: GateName,
    /// Which way it goes.
    pub lane: Lane,
    /// Octets of mail data in wire form.
    pub size: u64,
    /// Where its forward-paths stand.
    pub paths: Paths,
}

impl Summary {
    /// Where the message as a whole stands.
    #[must_use]
    pub fn stand(&self) -> Stand {
        self.paths.stand()
    }
}

/// Messages and the octets of their mail data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub messages: u64,
    /// Their mail data.
    pub bytes: u64,
}

/// What is held for one gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The gate.
    pub gate: GateName,
    /// Messages by where they stand, in the order of [`Stand::HELD`].
    pub stands: [Count; Stand::HELD.len()],
    /// Reports of ours among them that were never tried.
    pub fresh_reports: u64,
    /// Forward-paths that are not discharged.
    pub open_paths: u64,
    /// About when the oldest message arrived.
    pub oldest_unix_ms: Option<u64>,
}

impl Totals {
    /// All messages of the gate.
    #[must_use]
    pub fn all(&self) -> Count {
        self.stands.iter().fold(Count::default(), |sum, count| Count {
            messages: sum.messages + count.messages,
            bytes: sum.bytes + count.bytes,
        })
    }

    /// Messages that stand at `stand`.
    #[must_use]
    pub fn of(&self, stand: Stand) -> Count {
        Stand::HELD
            .iter()
            .position(|held| *held == stand)
            .map_or_else(Count::default, |index| self.stands[index])
    }
}
