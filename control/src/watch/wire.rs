//! What the control API says of drains, logs and certificates, and what it is asked.
//!
//! JSON; moments are RFC 3339 where the name does not say otherwise. Members are added, never changed in meaning.
//!
//! Not here: the routes (`api`), what the words mean (`drain`).

use std::collections::BTreeMap;

use proxy::api::Holder;
use serde::{Deserialize, Serialize};

use crate::drain::correlate::Foreign;
use crate::drain::ledger::Sums;
use crate::drain::verdict::{Left, Sentinel};

/// Paths of what control itself knows.
pub mod path {
    /// GET → list of [`super::DrainReport`]; POST [`super::DrainRequest`] → the same, of what was begun.
    pub const DRAINS: &str = "/v1/drains";
    /// POST [`super::DrainEnd`] → [`super::DrainReport`]: its orders end.
    pub const DRAIN_END: &str = "/v1/drains/end";
    /// POST [`super::Attestation`] → 204.
    pub const ATTEST: &str = "/v1/attest";
    /// POST [`super::Waiver`] → 204.
    pub const WAIVE: &str = "/v1/waive";
    /// GET → list of [`super::LogReport`].
    pub const LOGS: &str = "/v1/logs";
    /// POST octets, `?name=…&around_unix_ms=…` → [`super::ImportReport`].
    pub const IMPORT: &str = "/v1/logs/{log}/import";
    /// GET → list of [`super::CertificateLine`].
    pub const CERTIFICATES: &str = "/v1/certificates";
    /// GET → the certificate as JSON.
    pub const CERTIFICATE: &str = "/v1/certificates/{number}";
    /// GET → list of [`crate::policy::snapshot::Facts`]; POST [`crate::policy::snapshot::Keep`] as octets → its facts.
    pub const POLICIES: &str = "/v1/policies";
    /// GET → [`crate::policy::source::Source`] as octets.
    pub const POLICY: &str = "/v1/policies/{name}";
    /// POST → 204.
    pub const POLICY_REMOVE: &str = "/v1/policies/{name}/remove";
}

/// How the name of the holder of a drain's orders ends.
pub const DRAIN_HOLDER: &str = " (drain)";

/// Begin a drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainRequest {
    /// Members or gates.
    pub targets: Vec<String>,
    /// Seconds of quiet after the mark; none: as configured.
    #[serde(default)]
    pub quiet_s: Option<u32>,
    /// Seconds after which it is given up; none: as configured.
    #[serde(default)]
    pub timeout_s: Option<u32>,
    /// In whose name the orders are placed.
    pub holder: Holder,
    /// Why.
    pub reason: String,
}

/// End a drain: its orders, not what was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainEnd {
    /// Member or gate.
    pub target: String,
    /// Who.
    pub holder: Holder,
}

/// What a person answers for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attestation {
    /// The member.
    pub member: String,
    /// What.
    pub what: Attested,
    /// Who.
    pub by: String,
    /// What was looked at.
    pub reason: String,
    /// Ids of what was deleted.
    #[serde(default)]
    pub ids: Vec<String>,
}

/// What can be attested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attested {
    /// Nothing was in the member when lockgate came into the path: the ledger begins here.
    EmptyStart,
    /// These messages were deleted in the member by a person.
    Deleted,
    /// The member was installed anew and is empty: what the ledger lists as inside is written off.
    Rebuilt,
    /// The member's own queue page shows nothing, after the fence.
    QueueEmpty,
}

/// A doubt that a person answers for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Waiver {
    /// The member whose drain has it.
    pub member: String,
    /// Its name.
    pub doubt: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Where a drain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Orders are placed, and older transactions are waited for.
    Fencing,
    /// The mark is taken; evidence is waited for.
    Watching,
    /// Nothing is inside: certified (a member) or reported (a gate).
    Drained,
    /// The time is over; the orders stay.
    GivenUp,
    /// A certificate was taken back.
    Revoked,
    /// Its orders were ended.
    Ended,
}

impl Phase {
    /// Does nothing more come of it by itself?
    #[must_use]
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Fencing | Self::Watching)
    }
}

/// What may be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Nothing is inside, proven.
    Drained,
    /// These are.
    Pending,
    /// Nobody can know.
    Inconclusive,
}

/// A doubt, in words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoubtLine {
    /// Its name, for a waiver.
    pub name: String,
    /// In words.
    pub text: String,
    /// May a person answer for it?
    pub may_be_waived: bool,
    /// How large it is: a waiver holds until it grows.
    pub measure: u64,
    /// Does it pass by itself?
    pub passes: bool,
}

/// A drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainReport {
    /// Member.
    pub member: String,
    /// The one gate, where only a gate is drained: then there is no certificate.
    pub only_gate: Option<String>,
    /// Its gates.
    pub gates: Vec<String>,
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub started: String,
    /// When every gate was quiet.
    pub fenced: Option<String>,
    /// When the mark was taken.
    pub mark: Option<String>,
    /// What may be said now; none before the mark.
    pub said: Option<Said>,
    /// Items inside, the oldest first; at most a hundred.
    pub items: Vec<Left>,
    /// How many there are.
    pub items_total: u64,
    /// How many there were at the mark.
    pub items_at_mark: Option<u64>,
    /// Mail inside that did not come through lockgate, or that the server made itself.
    pub strangers: Vec<Foreign>,
    /// Doubts.
    pub doubts: Vec<DoubtLine>,
    /// Sums since the opening balance, by gate.
    pub sums: BTreeMap<String, Sums>,
    /// Sentinels.
    pub sentinels: Vec<Sentinel>,
    /// Number of the certificate.
    pub certificate: Option<String>,
    /// Why it was taken back.
    pub revoked: Option<String>,
    /// What to do next.
    pub next_steps: Vec<String>,
}

/// A log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogReport {
    /// Name.
    pub log: String,
    /// The member that writes it, or behind which its host stands.
    pub of: String,
    /// `file …`, `journald`, `syslog` or `import`.
    pub source: String,
    /// What is wrong with reading it now.
    pub error: Option<String>,
    /// Lines read.
    pub lines: u64,
    /// Lines that were not understood.
    pub unparsed: u64,
    /// Some of them.
    pub samples: Vec<String>,
    /// Notices that lines are missing.
    pub missing: u64,
    /// Earliest stamp.
    pub from: Option<String>,
    /// Latest stamp.
    pub to: Option<String>,
    /// When its last line was read.
    pub alive: Option<String>,
    /// Bounds of the offset of its clock, in milliseconds.
    pub skew_ms: Option<(i64, i64)>,
    /// Messages that came past lockgate.
    pub bypasses: u64,
    /// Files that were handed in.
    pub imports: Vec<String>,
}

/// A file that was handed in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportReport {
    /// The log.
    pub log: String,
    /// Name of the file.
    pub name: String,
    /// Octets of its content.
    pub octets: u64,
    /// Lines.
    pub lines: u64,
    /// Lines that were not understood.
    pub unparsed: u64,
    /// Some of them.
    pub samples: Vec<String>,
    /// Earliest and latest stamp.
    pub from: Option<String>,
    /// See there.
    pub to: Option<String>,
    /// SHA-256 of its content.
    pub sha256: String,
    /// It was handed in before; what it says was said again, and changed nothing.
    pub known: bool,
}

/// A certificate, in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateLine {
    /// Number.
    pub number: String,
    /// Member.
    pub member: String,
    /// When it was issued.
    pub issued: String,
    /// Grade, in words.
    pub grade: String,
    /// Why it was taken back.
    pub revoked: Option<String>,
    /// Public key.
    pub key: String,
}
