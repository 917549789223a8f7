//! Wire types of the admin socket (`proxy.sock`): the contract between the data plane and control.
//!
//! JSON over HTTP/1.1 on a Unix socket; paths are in [`path`]. Times are RFC 3339 in UTC, durations
//! are seconds unless the name says otherwise, ids are the printed form of a spool id. A reader
//! ignores members that it does not know; members are added, never changed in meaning.
//!
//! Not here: what the routes do (`admin`), the API for people and scripts (`control::api`).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::base64;

/// Paths of the admin socket. `{gate}`, `{id}` and `{member}` stand for a name or an id.
pub mod path {
    /// GET → [`super::Status`].
    pub const STATUS: &str = "/v1/status";
    /// GET → list of [`super::GateStatus`].
    pub const GATES: &str = "/v1/gates";
    /// GET → list of [`super::Order`]; POST [`super::PlaceOrder`] → [`super::OrderPlaced`].
    pub const ORDERS: &str = "/v1/orders";
    /// POST [`super::EndOrder`] → [`super::OrderEnded`].
    pub const ORDER_END: &str = "/v1/orders/{id}/end";
    /// POST [`super::ReleaseRequest`] → [`super::ReleaseAnswer`].
    pub const RELEASE: &str = "/v1/gates/{gate}/release";
    /// GET `?epoch=N&timeout_s=S` → [`super::QuietAnswer`]; without `epoch`, the current one.
    pub const QUIET: &str = "/v1/gates/{gate}/quiet";
    /// POST [`super::ReplayControl`] → [`super::ReplayStatus`].
    pub const REPLAY: &str = "/v1/gates/{gate}/replay";
    /// POST [`super::ProbeRequest`] → [`super::ProbeAnswer`].
    pub const PROBE: &str = "/v1/gates/{gate}/probe";
    /// GET `?token=…` → list of [`super::ProbeCopy`], oldest first; without `token`, of every probe.
    pub const PROBE_COPIES: &str = "/v1/probes/copies";
    /// GET with [`super::HeldFilter`] as query → JSON Lines of [`super::Held`].
    pub const HELD: &str = "/v1/held";
    /// POST [`super::HeldChange`] → [`super::HeldChanged`].
    pub const HELD_CHANGE: &str = "/v1/held/change";
    /// GET → [`super::Held`].
    pub const HELD_ONE: &str = "/v1/held/{id}";
    /// GET → the mail data as octets, dots unstuffed, trace field in front (`message/rfc822`).
    pub const HELD_RAW: &str = "/v1/held/{id}/raw";
    /// GET with [`super::JournalFilter`] as query → JSON Lines of [`super::JournalLine`].
    pub const JOURNAL: &str = "/v1/journal";
    /// GET → list of [`super::Repeat`]: passed on with an uncertain end, nobody has said yet that it was taken.
    pub const REPEATS: &str = "/v1/repeats";
    /// POST list of [`super::Repeat`] → [`super::RepeatsTaken`]: the member took these.
    pub const REPEATS_TAKEN: &str = "/v1/repeats/taken";
    /// POST (no body) → 204: the operator has seen the damage report.
    pub const DAMAGE_ACKNOWLEDGE: &str = "/v1/spool/damage/acknowledge";
}

/// The state of the whole data plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// When the process started.
    pub started_at: String,
    /// Is every gate serving and the spool able to promise?
    pub ready: bool,
    /// Whether mail is safe: problems in plain words, worst first; empty when all is well.
    pub alarms: Vec<String>,
    /// Every gate of the configuration.
    pub gates: Vec<GateStatus>,
    /// The spool.
    pub spool: SpoolStatus,
}

/// What a gate does with the next transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Relayed to the member, reply for reply.
    Pass,
    /// Taken into the spool.
    Hold,
    /// Answered 451; the client keeps the mail.
    Refuse,
}

/// One gate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GateStatus {
    /// Name from the configuration.
    pub gate: String,
    /// Name of the partner when this is a return gate.
    pub returns: Option<String>,
    /// Address on which it listens.
    pub listen: String,
    /// What happens at the next MAIL.
    pub mode: Mode,
    /// Rises with every change of the orders.
    pub epoch: u64,
    /// Transactions alive now.
    pub transactions: u64,
    /// Client connections open now.
    pub connections: u64,
    /// Transactions ended since the start.
    pub transactions_total: u64,
    /// Orders open on this gate.
    pub orders: Vec<Order>,
    /// Members, in the order of the configuration.
    pub members: Vec<MemberStatus>,
    /// Held messages of this gate.
    pub held: HeldTotals,
    /// Replay of this gate.
    pub replay: ReplayStatus,
}

/// One member (encryption server) behind a gate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Name from the configuration.
    pub member: String,
    /// Address of its SMTP listener.
    pub address: String,
    /// Source address that lockgate uses towards it; the server takes the direction from it.
    pub source_address: Option<String>,
    /// False while an order cordons it.
    pub cordoned: bool,
    /// What the last connection found.
    pub health: MemberHealth,
    /// Identity last seen: certificate fingerprint or banner host name.
    pub identity: Option<String>,
    /// EHLO keywords last seen.
    pub extensions: Option<String>,
    /// When it last answered.
    pub seen_at: Option<String>,
    /// Idle pooled connections.
    pub idle_connections: u64,
    /// TLS of the last connection, such as `TLSv1.3`; none in clear.
    pub tls: Option<String>,
}

/// What the last attempt to reach a member found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberHealth {
    /// No connection was tried since the start.
    Unknown,
    /// It answers.
    Up,
    /// It does not answer, or refuses before MAIL.
    Down,
}

/// What an order does to its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Take mail into the spool, give none to the members; stops replay too.
    Hold,
    /// Answer 451.
    Refuse,
    /// Give one member nothing.
    Cordon,
    /// Replay stands still; the gate itself goes on.
    PauseReplay,
}

/// Kind of a holder: who may end an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderKind {
    /// A person at the command line.
    Operator,
    /// A runbook.
    Runbook,
    /// The brake file.
    Brake,
    /// The health check of a member.
    Health,
    /// The replayer: new mail joins the tail until the backlog was tried.
    Backlog,
    /// lockgate itself: an order file that could not be read.
    System,
    /// Control, by what it found in journal and logs (of uncertain mail; it places no orders).
    Evidence,
}

/// Who placed an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What kind of party.
    pub kind: HolderKind,
    /// Its name.
    pub name: String,
}

/// One open order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Number of the order, never used again.
    pub id: u64,
    /// Gate.
    pub gate: String,
    /// Member, for a cordon.
    pub member: Option<String>,
    /// What it does.
    pub effect: Effect,
    /// Who placed it.
    pub holder: Holder,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: String,
}

/// Place an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlaceOrder {
    /// Gate; none means every forward gate.
    pub gate: Option<String>,
    /// Member, for a cordon.
    pub member: Option<String>,
    /// What it does.
    pub effect: Effect,
    /// Who places it.
    pub holder: Holder,
    /// Why (must not be empty).
    pub reason: String,
}

/// The orders that a request placed; durable when this is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderPlaced {
    /// One per gate.
    pub orders: Vec<Order>,
    /// The epoch of each gate from which the order is in force.
    pub epochs: Vec<GateEpoch>,
    /// Things worth knowing, such as held mail that the member could not take now.
    pub warnings: Vec<String>,
}

/// An epoch of a gate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GateEpoch {
    /// Gate.
    pub gate: String,
    /// Epoch.
    pub epoch: u64,
}

/// End an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndOrder {
    /// Who ends it; must be its holder unless `force`.
    pub holder: Holder,
    /// End another party's order; the reason is recorded.
    #[serde(default)]
    pub force: bool,
    /// End a cordon of the health check without a passed probe; needs a reason.
    #[serde(default)]
    pub unchecked: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What is left after an order was ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderEnded {
    /// The order that is gone.
    pub order: Order,
    /// Orders still open on the gate.
    pub still_open: Vec<Order>,
    /// Mode of the gate now.
    pub mode: Mode,
}

/// Let held mail go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// Whose orders end.
    pub holder: Holder,
    /// New mail passes at once, beside the backlog.
    #[serde(default)]
    pub open_now: bool,
    /// Canary: replay only these, the gate goes on holding.
    #[serde(default)]
    pub only: Vec<String>,
    /// Canary: replay the first N, the gate goes on holding.
    #[serde(default)]
    pub first: Option<u64>,
    /// Release to a member whose identity changed without a passed probe.
    #[serde(default)]
    pub unchecked: bool,
    /// Why; needed with `unchecked`.
    #[serde(default)]
    pub reason: String,
}

/// What a release did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseAnswer {
    /// Did replay start? False while another holder holds.
    pub released: bool,
    /// Messages that will be replayed.
    pub backlog: u64,
    /// Orders that the caller ended.
    pub ended: Vec<Order>,
    /// Orders of others that still hold.
    pub still_held_by: Vec<Order>,
    /// Messages that stay, by reason, such as `12 need SMTPUTF8, which sems1 no longer offers`.
    pub warnings: Vec<String>,
}

/// Has everything older than an epoch ended?
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuietAnswer {
    /// Nothing older is alive.
    pub quiet: bool,
    /// The epoch that was asked about.
    pub epoch: u64,
    /// What is still alive.
    pub alive: Vec<AlivePermit>,
}

/// One thing that still holds a permit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlivePermit {
    /// Transaction id.
    pub id: String,
    /// `pass`, `hold`, `replay`, `probe`.
    pub what: String,
    /// Member it talks to.
    pub member: Option<String>,
    /// How long it has lived.
    pub age_s: f64,
    /// The final dot was sent: only a reply can end it.
    pub after_final_dot: bool,
}

/// Change the pace of replay, or stop it, or let it go on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum ReplayControl {
    /// Stand still (an order: it survives restarts).
    Pause {
        /// Who.
        holder: Holder,
        /// Why.
        reason: String,
    },
    /// Go on.
    Continue {
        /// Who.
        holder: Holder,
    },
    /// Change the ceilings; what is absent stays.
    Rate {
        /// Connections at most.
        connections: Option<u32>,
        /// Messages per second at most.
        messages_per_second: Option<f64>,
    },
}

/// Where the replay of a gate stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplayStatus {
    /// `idle`, `held`, `paused`, `running`, `waiting`.
    pub state: ReplayState,
    /// Why it stands still, when it does.
    pub why: Option<String>,
    /// Messages with a first try still to come.
    pub remaining_first: u64,
    /// Messages deferred to a later try.
    pub deferred: u64,
    /// Messages relayed since the release.
    pub relayed: u64,
    /// Messages refused since the release.
    pub refused: u64,
    /// Messages per second, over the last seconds.
    pub rate: f64,
    /// Seconds to the end of the backlog at this rate; none: never at this rate.
    pub eta_s: Option<f64>,
    /// Attempts under way.
    pub in_flight: u64,
    /// Connections allowed now by the pace.
    pub connections: u32,
    /// Ceiling of connections.
    pub connections_max: u32,
    /// Ceiling of messages per second.
    pub messages_per_second_max: f64,
}

/// What the replayer of a gate is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayState {
    /// Nothing is held.
    Idle,
    /// An order holds the gate.
    Held,
    /// An order or the refusal guard pauses replay.
    Paused,
    /// Messages go out.
    Running,
    /// All was tried; the next try is due later.
    Waiting,
}

/// Send a test message through the gate's own relay and source address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// Where to.
    pub to: String,
    /// Reverse-path; none: the null reverse-path.
    #[serde(default)]
    pub from: Option<String>,
    /// Member; none: each.
    #[serde(default)]
    pub member: Option<String>,
    /// The message (RFC 5322) to be sent as it is, at most [`PROBE_OCTETS_MAX`]; none: lockgate's own. Every line ends
    /// with CRLF, and dots are as they are. `Message-ID` and `X-Lockgate-Probe` are written above it, and may not stand
    /// in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Octets>,
}

/// Most octets of a message that is given to be sent as a probe.
pub const PROBE_OCTETS_MAX: usize = crate::probe::OCTETS_MAX;

/// Most octets of a [`ProbeRequest`]: the message in base64, and what stands beside it.
pub const PROBE_REQUEST_OCTETS_MAX: usize = PROBE_OCTETS_MAX.div_ceil(3) * 4 + (16 << 10);

/// Octets; in JSON a text in base64 (RFC 4648 §4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Octets(pub Vec<u8>);

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        base64::decode(&text).map(Self).map_err(de::Error::custom)
    }
}

/// What came back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// One per member.
    pub members: Vec<ProbeResult>,
    /// Where the journal stood before: what comes back of the probe stands behind it ([`JournalFilter::after`]).
    #[serde(default)]
    pub cursor: String,
}

/// The probe of one member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Member.
    pub member: String,
    /// Accepted by a 2yz to the end of mail data.
    pub accepted: bool,
    /// Stage of the last reply: `connect`, `banner`, `ehlo`, `tls`, `mail`, `rcpt`, `data`, `end_of_data`.
    pub stage: String,
    /// The last reply, or the error.
    pub reply: String,
    /// Identity found.
    pub identity: Option<String>,
    /// Is it another than the one remembered?
    pub identity_changed: bool,
    /// EHLO keywords found.
    pub extensions: Option<String>,
    /// TLS version, none in clear.
    pub tls: Option<String>,
    /// Message-ID of the probe, to look for in logs and mailboxes.
    pub message_id: String,
    /// What its `X-Lockgate-Probe` field says, by which it is known again at a return gate; none when nothing was made to
    /// be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// What came back of a probe through a return gate, as it came, without our trace field. It is kept in memory for a
/// day, while there is room; a message of more than 256 KiB is not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeCopy {
    /// Id of the transaction in which it came.
    pub id: String,
    /// Token of the probe.
    pub token: String,
    /// The message, dots unstuffed.
    pub message: Octets,
}

/// Filter of the journal; every member narrows. Texts are found as parts, in any case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JournalFilter {
    /// Read on behind this cursor of an earlier line.
    pub after: Option<String>,
    /// This transaction or attempt.
    pub id: Option<String>,
    /// Part of the Message-ID.
    pub message_id: Option<String>,
    /// Part of the reverse-path or of a forward-path.
    pub address: Option<String>,
    /// Part of a reply, such as the next hop's queue id.
    pub reply: Option<String>,
    /// Gate.
    pub gate: Option<String>,
    /// Member.
    pub member: Option<String>,
    /// Outcome: `relayed`, `held`, `deferred`, `refused`, `uncertain`, `blocked`, `abandoned`, `known`.
    pub outcome: Option<String>,
    /// Part of the token of a probe that came back; empty: any.
    pub probe: Option<String>,
    /// Ended (or, without an end, offered) at this moment or later.
    pub since_unix_ms: Option<u64>,
    /// Before this moment.
    pub until_unix_ms: Option<u64>,
    /// At most this many.
    pub limit: Option<u64>,
    /// Tell each entry where it stands: an offer also when its end follows, and an end without what its offer told; without
    /// digests, client and TLS.
    #[serde(default)]
    pub entries: bool,
}

/// What a line of the journal tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalWhat {
    /// A transaction or attempt that has ended.
    Ended,
    /// One that was offered to a member and has no end yet: the member may have it.
    Open,
    /// A time of which entries may be missing.
    Gap,
    /// Something that cannot be read, or is gone.
    Unreadable,
    /// The last line: where to read on.
    #[default]
    End,
}

/// A line of the journal.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JournalLine {
    /// What it tells.
    pub what: JournalWhat,
    /// Where to read on behind it.
    #[serde(default)]
    pub cursor: String,
    /// When it ended, was offered, or the gap begins (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Where the gap ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Why entries may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// In a gap: mail that was offered to a member may be missing too, not only ends.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hides_offers: bool,
    /// Id of the transaction; an attempt has that of its message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `pass`, `hold`, `refuse`, `replay`, `dsn` or `probe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
    /// Gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// Member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Client; in replay the one that the message came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The member was told the id (XFORWARD IDENT).
    #[serde(default)]
    pub told_ident: bool,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<String>,
    /// Reverse-path, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Forward-paths, as written.
    #[serde(default)]
    pub to: Vec<String>,
    /// Message-ID field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Id in the topmost trace field of a lockgate: under it the message was passed on or replayed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_as: Option<String>,
    /// Media type of the Content-Type field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Octets of the header that was looked at.
    #[serde(default)]
    pub header_octets: u32,
    /// SHA-256 over them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_sha256: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The reply that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// Forward-paths that ended otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<JournalPath>,
    /// Octets of mail data, without our trace field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// SHA-256 over them, in hold and replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_sha256: Option<String>,
    /// TLS towards the member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// At a return gate: it bears the token of a probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<JournalProbe>,
}

/// What the header of a message that comes back of a probe says. Claims: what is in it was not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalProbe {
    /// Its `X-Lockgate-Probe` field.
    pub token: String,
    /// The process that wrote this down had given it out, not long before.
    #[serde(default)]
    pub known: bool,
    /// Media type of the Content-Type field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Its parameter `protocol`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Its parameter `smime-type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smime_type: Option<String>,
    /// `X-PGP-Encoding-Format`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<String>,
    /// The server's own mark was in it (`X-PGP-Universal`).
    #[serde(default)]
    pub processed: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// A forward-path that ended otherwise than its transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JournalPath {
    /// Its place among the forward-paths of the transaction, from 0.
    #[serde(default)]
    pub path: u32,
    /// The forward-path.
    pub to: String,
    /// Its outcome.
    pub outcome: String,
    /// The reply that decided.
    pub reply: String,
}

/// Filter of held messages; every member narrows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HeldFilter {
    /// Gate.
    pub gate: Option<String>,
    /// Part of the reverse-path.
    pub sender: Option<String>,
    /// Part of a forward-path.
    pub recipient: Option<String>,
    /// Part of the Message-ID.
    pub message_id: Option<String>,
    /// Held for longer than this many seconds.
    pub older_than_s: Option<u64>,
    /// State of the message.
    pub state: Option<HeldState>,
    /// At most this many.
    pub limit: Option<u64>,
}

/// State of a held message or of one forward-path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldState {
    /// Waiting for its first try.
    Held,
    /// Tried, to be tried again.
    Deferred,
    /// The final dot was sent and the reply is unknown.
    Uncertain,
    /// Refused with a 5yz; kept until a person decides.
    Refused,
    /// Needs what the member does not offer; kept.
    Blocked,
    /// Cannot be read; set aside.
    Damaged,
    /// Settled (of a forward-path).
    Done,
}

/// A held message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Spool id.
    pub id: String,
    /// Gate.
    pub gate: String,
    /// Worst state of its forward-paths that are not done.
    pub state: HeldState,
    /// Message-ID field, without brackets changed.
    pub message_id: Option<String>,
    /// Reverse-path without brackets; empty for the null reverse-path.
    pub reverse_path: String,
    /// Forward-paths.
    pub forward_paths: Vec<HeldPath>,
    /// Octets of mail data.
    pub size: u64,
    /// When it was promised.
    pub held_at: String,
    /// Client that gave it to us.
    pub client: String,
    /// It is a report of lockgate's own.
    pub dsn: bool,
}

/// One forward-path of a held message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldPath {
    /// Address without brackets.
    pub address: String,
    /// State.
    pub state: HeldState,
    /// Attempts so far.
    pub attempts: u32,
    /// Next try.
    pub due_at: Option<String>,
    /// Last reply or reason.
    pub reply: Option<String>,
}

/// Change held messages: by ids, or by filter with `all`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldChange {
    /// These messages.
    #[serde(default)]
    pub ids: Vec<String>,
    /// All that match (when `ids` is empty).
    #[serde(default)]
    pub filter: Option<HeldFilter>,
    /// What to do.
    pub change: Change,
    /// Who.
    pub holder: Holder,
    /// Why; needed for `remove`.
    #[serde(default)]
    pub reason: String,
}

/// What to do with held messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Give up custody without delivery; recorded with its reason.
    Remove,
    /// Due now (also refused, blocked and uncertain ones: an uncertain one may arrive twice).
    Retry,
    /// Turn refused forward-paths into a DSN to the sender.
    Fail,
    /// An uncertain one did arrive: nothing more is sent.
    Delivered,
    /// An uncertain one was never taken: it is sent again. Touches nothing that is not uncertain.
    Absent,
}

/// A message that was passed on with an uncertain end, at a gate that looks for repetitions (`dedupe`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// The gate.
    pub gate: String,
    /// Its id.
    pub id: String,
}

/// What came of the word that messages were taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RepeatsTaken {
    /// So many are known as taken now, and were not before.
    pub taken: u64,
}

/// Result of a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldChanged {
    /// Messages changed.
    pub changed: u64,
    /// Messages left as they were, each with the reason.
    pub skipped: Vec<Skipped>,
}

/// A message that was not changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// Its id.
    pub id: String,
    /// Why.
    pub why: String,
}

/// Totals of held mail.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HeldTotals {
    /// Messages by state: held, deferred, uncertain, refused, blocked.
    pub held: u64,
    /// To be tried again.
    pub deferred: u64,
    /// Reply unknown.
    pub uncertain: u64,
    /// Refused, kept.
    pub refused: u64,
    /// Blocked, kept.
    pub blocked: u64,
    /// Octets of mail data of all these.
    pub bytes: u64,
    /// Age of the oldest.
    pub oldest_age_s: Option<f64>,
}

/// The spool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpoolStatus {
    /// Folder.
    pub directory: String,
    /// Free space of its volume.
    pub free_bytes: u64,
    /// Below this, new mail gets 452.
    pub free_bytes_min: u64,
    /// Messages in it.
    pub messages: u64,
    /// Octets of mail data in it.
    pub bytes: u64,
    /// Seconds until full at the rate of the last minutes; none when it does not grow.
    pub full_in_s: Option<f64>,
    /// Does it take new promises?
    pub promising: bool,
    /// Damaged records and files that were set aside, in words.
    pub damage: Vec<String>,
}

/// Any error of the admin socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, where, and the mend.
    pub error: String,
}
