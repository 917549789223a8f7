//! What stands in the journal: one entry for each thing that happened to a transaction or an attempt.
//!
//! Borrows from whoever writes it or from what was read. The form on disk follows these types (postcard: fields
//! in order, variants by number): what is written stays readable only while fields and variants keep
//! their order, so a change is a new [`VERSION`]. A variant that is added behind the others leaves what was
//! written readable ([`VERSION_OLDEST`]).
//!
//! Not here: files (`writer`, `read`), what an entry proves (control's drain).

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::id::TransactionId;
use crate::outcome::Outcome;

/// Version of the form; stands in the first entry of each file.
pub const VERSION: u32 = 3;

/// The oldest form that is read: the same but for [`Entry::Returned`].
pub(super) const VERSION_OLDEST: u32 = 2;

/// Octets of a SHA-256.
pub const SHA256: usize = 32;

/// One entry. Moments are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry<'a> {
    /// The first entry of a file.
    #[serde(borrow)]
    Opened(Opened<'a>),
    /// The final dot is about to be sent: from here on the next hop may have the message. Written again at the
    /// start of each file while no end is known, so that an old file can go; whoever reads takes the second for the
    /// first.
    Offered(Offered<'a>),
    /// A transaction or an attempt ended.
    Ended(Ended<'a>),
    /// What happened in this time may be missing.
    Gap(Gap),
    /// The writer stopped in order: nothing is missing behind the last entry.
    Closed {
        /// When.
        at_ns: u64,
    },
    /// The same as [`Entry::Ended`], of a message that bears the mark of a probe and came to a return gate.
    Returned(Returned<'a>),
}

/// Why a file was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened<'a> {
    /// [`VERSION`].
    pub version: u32,
    /// The number in its name.
    pub file: u64,
    /// When.
    pub at_ns: u64,
    /// The system's boot id: two processes of one boot share the system's cache, so that a kill between them
    /// loses nothing that was written.
    #[serde(borrow)]
    pub boot: Cow<'a, str>,
}

/// What was done with the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Doing {
    /// A client's transaction, passed on.
    Pass,
    /// A client's transaction, taken into the spool.
    Hold,
    /// A client's transaction, refused by an order.
    Refuse,
    /// An attempt with a held message.
    Replay,
    /// An attempt with a report of ours (DSN).
    Report,
    /// A probe.
    Probe,
}

impl Doing {
    /// The word in lists.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Hold => "hold",
            Self::Refuse => "refuse",
            Self::Replay => "replay",
            Self::Report => "dsn",
            Self::Probe => "probe",
        }
    }
}

/// What is known of a transaction or attempt before its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts<'a> {
    /// Its id; an attempt has that of the message.
    pub id: u64,
    /// What is done.
    pub doing: Doing,
    /// The gate.
    #[serde(borrow)]
    pub gate: Cow<'a, str>,
    /// The member that was spoken to.
    pub member: Option<Cow<'a, str>>,
    /// The client; in replay the one that the message came from.
    pub client: Option<SocketAddr>,
    /// The next hop was told our id (XFORWARD IDENT), so that its log may name it.
    pub told_ident: bool,
    /// Reverse-path, as written.
    pub from: Cow<'a, str>,
    /// Forward-paths of this transaction, as written.
    pub to: Vec<Cow<'a, str>>,
    /// The Message-ID field.
    pub message_id: Option<Cow<'a, str>>,
    /// Media type of the Content-Type field, as written.
    pub media_type: Option<Cow<'a, str>>,
    /// The server's own mark was in it already (`X-PGP-Universal`).
    pub processed: bool,
    /// The id in the topmost trace field of a lockgate: under it the message was passed on or replayed before.
    pub passed_as: Option<u64>,
    /// Octets of the header that was looked at.
    pub header_octets: u32,
    /// SHA-256 over them, as received.
    pub header_sha256: Option<[u8; SHA256]>,
    /// When it began.
    pub began_ns: u64,
    /// TLS towards the next hop.
    pub tls: Option<Cow<'a, str>>,
    /// Forward-paths that were refused or put off by then, alone.
    pub settled: Vec<PathEnd<'a>>,
}

impl Facts<'_> {
    /// Its id.
    #[must_use]
    pub const fn id(&self) -> TransactionId {
        TransactionId::from_u64(self.id)
    }
}

/// See [`Entry::Offered`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered<'a> {
    /// When.
    pub at_ns: u64,
    /// What is offered.
    #[serde(borrow)]
    pub facts: Facts<'a>,
}

/// See [`Entry::Ended`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended<'a> {
    /// When.
    pub at_ns: u64,
    /// Whose end.
    pub id: u64,
    /// What is known, where no [`Offered`] said it.
    #[serde(borrow)]
    pub facts: Option<Facts<'a>>,
    /// How it ended, as one word.
    pub outcome: Outcome,
    /// The reply that decided (the next hop's queue id may stand in it), or why there is none.
    pub reply: Cow<'a, str>,
    /// Forward-paths that ended otherwise.
    pub others: Vec<PathEnd<'a>>,
    /// Octets of mail data, without our trace field.
    pub size: u64,
    /// SHA-256 over them in wire form, in hold and replay.
    pub content_sha256: Option<[u8; SHA256]>,
}

/// See [`Entry::Returned`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned<'a> {
    /// How the transaction ended.
    #[serde(borrow)]
    pub ended: Ended<'a>,
    /// The mark, and what the header says of the form.
    pub mark: Mark<'a>,
}

/// What the header of a message that comes back says of it. Claims: what is in the message was not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark<'a> {
    /// The token of the probe, printed.
    #[serde(borrow)]
    pub token: Cow<'a, str>,
    /// This process gave it out, not long ago.
    pub known: bool,
    /// Media type of the Content-Type field, as written.
    pub media_type: Option<Cow<'a, str>>,
    /// Its parameter `protocol` (RFC 1847).
    pub protocol: Option<Cow<'a, str>>,
    /// Its parameter `smime-type` (RFC 8551 §3.2.2).
    pub smime_type: Option<Cow<'a, str>>,
    /// `X-PGP-Encoding-Format`, as written.
    pub encoding_format: Option<Cow<'a, str>>,
    /// The server's own mark was in it (`X-PGP-Universal`).
    pub processed: bool,
}

/// Octets of a reply that are kept.
const TEXT_OCTETS_MAX: usize = 1000;

/// The text of a reply as it is kept: long enough for any queue id.
#[must_use]
pub fn text_of(reply: &smtp::Reply) -> String {
    let mut text = reply.to_string();
    let mut end = text.len().min(TEXT_OCTETS_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// How it ended for one forward-path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathEnd<'a> {
    /// Its place among the forward-paths of the facts, from 0.
    pub path: u32,
    /// The outcome.
    pub outcome: Outcome,
    /// The reply that decided.
    #[serde(borrow)]
    pub reply: Cow<'a, str>,
}

/// A time of which entries may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Nothing before is missing.
    pub from_ns: u64,
    /// Nothing behind is missing.
    pub to_ns: u64,
    /// Why.
    pub why: Why,
}

/// Why entries may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// The process was killed. Whatever was offered stands here; ends may be missing, and what was refused.
    Killed,
    /// The system went down: what was written last may be gone.
    SystemDown,
    /// So many entries could not be written.
    Unwritten {
        /// How many, about.
        entries: u64,
    },
    /// What was written cannot be read.
    Damaged,
    /// A sync failed: what was written since the last may not be on the disk.
    Unsynced,
}

impl Why {
    /// May an offer be missing, so that the book does not list everything that a next hop may have?
    #[must_use]
    pub const fn hides_offers(self) -> bool {
        !matches!(self, Self::Killed)
    }
}
