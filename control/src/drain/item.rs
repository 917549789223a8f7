//! What is counted: offers, their items, and the evidence that settles an item.
//!
//! An [`Offer`] is one transaction (or attempt) whose final dot was sent to a member; an [`Item`] is
//! one of its forward-paths. An item is inside the server until an [`Evidence`] says where it went.
//!
//! Not here: how evidence is found (`correlate`), what it adds up to (`ledger`).

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// Octets of fields that servers add.
const FIELDS_OCTETS: u64 = 8192;

/// Where an item that is no longer inside went: the columns of the conservation law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// Seen behind the server: at a return gate, or in the log of the next host.
    Returned,
    /// The server's log says that the next host took it, or that it was delivered.
    Delivered,
    /// Given up by the server, with a report.
    Bounced,
    /// Never taken: the server answered 4yz or 5yz to the end of mail data, or it is proven absent. Custody
    /// stayed on our side.
    Refused,
    /// Given up by the server because it was too old.
    Expired,
    /// Deleted in the server by a person or a rule.
    Deleted,
    /// Kept by the server for collection on the web: no copy leaves.
    Stored,
}

impl Column {
    /// Every column.
    pub const ALL: [Self; 7] = [
        Self::Returned,
        Self::Delivered,
        Self::Bounced,
        Self::Refused,
        Self::Expired,
        Self::Deleted,
        Self::Stored,
    ];

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
            Self::Stored => "stored",
        }
    }
}

/// What tied a piece of evidence to an item; the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The journal itself: the reply to the end of mail data.
    Journal,
    /// Our id, told by XFORWARD IDENT and logged by the server.
    Ident,
    /// The queue id in the server's reply.
    Reply,
    /// Our id in the trace field of what came out.
    Trace,
    /// Message-ID and forward-path, where no other item has both.
    MessageId,
    /// Reverse-path, forward-path and time, where nothing else fits.
    Envelope,
    /// Proven never taken: the log is complete over the time, and has nothing.
    Absence,
    /// A person's word: the server was installed anew.
    Word,
}

impl Key {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Ident => "ident",
            Self::Reply => "reply",
            Self::Trace => "trace",
            Self::MessageId => "message_id",
            Self::Envelope => "envelope",
            Self::Absence => "absence",
            Self::Word => "word",
        }
    }
}

/// Where a piece of evidence stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// An entry of the journal.
    Journal {
        /// Gate of the entry.
        gate: String,
        /// Its cursor.
        cursor: String,
    },
    /// A line of a log.
    Log {
        /// Name of the log.
        log: String,
        /// File, or what takes its place.
        file: String,
        /// First octet of the line.
        offset: u64,
    },
}

/// What settles an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Where the item went.
    pub column: Column,
    /// How the evidence was tied to the item.
    pub key: Key,
    /// Where it stands.
    pub place: Place,
    /// When, as its source says.
    pub at: Moment,
    /// Its words.
    pub text: String,
}

/// What was seen of an item that is inside: the last of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// Where.
    pub place: Place,
    /// When.
    pub at: Moment,
    /// How it was tied to the item.
    pub by: Key,
    /// What.
    pub text: String,
}

/// Where an item stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// In the server, for all we know.
    Inside(Option<Sight>),
    /// Gone, and where.
    Settled(Evidence),
}

/// One forward-path of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Place among the forward-paths of the transaction.
    pub path: u32,
    /// Address, without angle brackets.
    pub to: String,
    /// Where it stands.
    pub state: State,
}

impl Item {
    /// Is it inside?
    #[must_use]
    pub const fn is_inside(&self) -> bool {
        matches!(self.state, State::Inside(_))
    }

    /// Was it taken, or may it have been?
    #[must_use]
    pub fn may_come_out(&self) -> bool {
        match &self.state {
            State::Inside(_) => true,
            State::Settled(evidence) => evidence.column != Column::Refused,
        }
    }

    /// Was it proven that it was never taken?
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(&self.state, State::Settled(evidence) if evidence.key == Key::Absence)
    }
}

/// The name of an offer: a message that is tried again keeps its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OfferKey {
    /// Our id.
    pub id: String,
    /// When it was offered.
    pub at: Moment,
}

/// How an offer ended, as the journal says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// No end yet.
    Open,
    /// The server took it.
    Taken {
        /// When it said so.
        at: Moment,
    },
    /// The reply was lost: it may have been taken.
    Uncertain {
        /// When the wait ended.
        at: Moment,
    },
}

/// One transaction or attempt whose final dot was sent to a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Gate.
    pub gate: String,
    /// Member.
    pub member: String,
    /// What was done: `pass`, `replay`, `dsn` or `probe`.
    pub doing: String,
    /// When the transaction began.
    pub began: Moment,
    /// The server was told our id.
    pub told_ident: bool,
    /// Reverse-path, without angle brackets.
    pub from: String,
    /// Message-ID, without angle brackets.
    pub message_id: Option<String>,
    /// The queue id that the server gave it, read from its reply.
    pub server_id: Option<String>,
    /// Octets of mail data, once it has ended.
    pub size: Option<u64>,
    /// How it ended.
    pub end: End,
    /// A log of the server shows that it came in; it may have been thrown away before its end.
    pub logged: bool,
    /// A log of the server shows it in the queue, or beyond.
    pub queued: bool,
    /// Its forward-paths that the server may have.
    pub items: Vec<Item>,
    /// When the last item was settled, by our clock.
    pub settled_at: Option<Moment>,
}

impl Offer {
    /// Items inside.
    pub fn inside(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.is_inside())
    }

    /// Is every item settled?
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.inside().next().is_none()
    }

    /// When the server can have taken it, at the latest by `now`.
    #[must_use]
    pub const fn until(&self, now: Moment) -> Moment {
        match self.end {
            End::Open => now,
            End::Taken { at } | End::Uncertain { at } => at,
        }
    }

    /// May a log that tells this size speak of it? Logs count ends of lines as one octet or two, and servers add fields.
    #[must_use]
    pub fn may_have_size(&self, told: Option<u64>) -> bool {
        match (self.size, told) {
            (Some(size), Some(told)) => {
                told >= size / 4 * 3 && told <= (size / 4 * 5).saturating_add(FIELDS_OCTETS)
            }
            _ => true,
        }
    }

    /// Is there evidence that the server took it? An envelope alone may be that of another, and a person's word that it is
    /// gone says nothing of whether anybody has it.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        let shown = |item: &Item| match &item.state {
            State::Settled(evidence) => {
                evidence.column != Column::Refused
                    && !matches!(evidence.key, Key::Envelope | Key::Word)
            }
            State::Inside(sight) => sight.as_ref().is_some_and(|sight| sight.by != Key::Envelope),
        };
        self.queued || matches!(self.end, End::Taken { .. }) || self.items.iter().any(shown)
    }
}

/// Are these the same address, as logs and envelopes write it?
#[must_use]
pub fn same_address(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}

/// An address or Message-ID without the angle brackets around it.
#[must_use]
pub fn bare(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text)
}
