//! What may be said of a member: drained, or what is left, or why nobody can know.
//!
//! Pure: a [`Case`] and the books in, a [`Verdict`] out. Silence is never a proof: an item is settled by evidence alone, and
//! a log counts only when it was seen alive after the fence.
//!
//! Invariants
//! - Only here can a [`Proof`] be made, and only from a case without items inside and without open doubts.
//! - A doubt is resolved by what removes it, or by a waiver with a name and a reason, which the certificate
//!   repeats. Items are never waived here.
//!
//! Not here: fence and sentinel (`watch`), the document (`certificate`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::correlate::{Foreign, Role};
use super::item::{Column, End, Item, Key, Offer, OfferKey, State};
use super::ledger::{Limits, Sums};
use super::{Books, Setting};
use crate::maillog::coverage::Lines;
use crate::moment::Moment;

/// How long a log must go on behind a gap of the journal to close it, in milliseconds.
const GAP_GUARD_MS: i64 = 30_000;

/// Quiet periods after the mark that are waited for at most.
const QUIETS_MAX: i64 = 10;

/// What a person answers for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Who.
    pub by: String,
    /// Why, or what was looked at.
    pub reason: String,
    /// When.
    pub at: Moment,
}

/// A person's word for a doubt, and how large it was then: one that has grown is another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waived {
    /// The word.
    pub word: Word,
    /// [`Doubt::measure`] when it was given.
    pub measure: u64,
}

/// From when on everything that went to a member is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The member was empty then.
    pub at: Moment,
    /// How that is known: the number of an earlier certificate, or a person's word.
    pub known: Known,
    /// What the ledger had counted by then, by gate.
    pub sums: BTreeMap<String, Sums>,
}

/// How an opening balance is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// It was certified.
    Certificate(String),
    /// A person says so.
    Attested(Word),
}

/// A marked message that went through the member after the fence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentinel {
    /// The gate.
    pub gate: String,
    /// Its Message-ID.
    pub message_id: String,
    /// The operator's address that it went to.
    pub to: String,
    /// It was taken by the server.
    pub accepted: bool,
    /// The reply.
    pub reply: String,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The member.
    pub member: &'a str,
    /// Its gates.
    pub gates: &'a [String],
    /// Only what went through these gates is asked about.
    pub only_gates: bool,
    /// Its opening balance.
    pub opening: Option<&'a Opening>,
    /// When the last gate was fenced: nothing older was alive.
    pub fenced: Moment,
    /// When the mark was taken.
    pub mark: Moment,
    /// How long it must be quiet after the mark, in milliseconds.
    pub quiet_ms: i64,
    /// Sentinels.
    pub sentinels: &'a [Sentinel],
    /// The server's own queue page shows nothing, a person says; after the fence.
    pub queue_empty: Option<&'a Word>,
    /// Doubts that a person answers for, by their names.
    pub waivers: &'a BTreeMap<String, Waived>,
    /// How each log is judged, by its name.
    pub logs: &'a BTreeMap<String, LogTerms>,
    /// Now.
    pub now: Moment,
}

/// How a log is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTerms {
    /// Lines that may be missing.
    pub missing_max: u64,
    /// Lines in a million that may be not understood.
    pub unparsed_per_million_max: u64,
    /// Other systems write to it too: any line after the quiet period shows that it lives.
    pub shared: bool,
    /// It comes by UDP: it can be lost and forged.
    pub udp: bool,
}

impl Default for LogTerms {
    fn default() -> Self {
        Self { missing_max: 0, unparsed_per_million_max: 1000, shared: false, udp: false }
    }
}

/// Why it cannot be said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "doubt", rename_all = "snake_case")]
pub enum Doubt {
    /// Nobody says what was in the member when lockgate came.
    NoOpening,
    /// The journal does not know everything that was offered in this time.
    Gap {
        /// From.
        from: Moment,
        /// To.
        to: Moment,
        /// Why.
        why: String,
    },
    /// More gaps than are kept.
    Gaps {
        /// How many more.
        more: u64,
    },
    /// Mail was handed over that is not followed: nothing would have told what became of it, or there was too much.
    Untracked {
        /// The last of it.
        until: Moment,
    },
    /// No log speaks of the member: mail that came past us, and mail of its own, would not be seen.
    NoLog,
    /// A log was not seen alive after the fence.
    Silent {
        /// The log.
        log: String,
        /// When its last line was read.
        last: Option<Moment>,
    },
    /// No file of the log that was read covers these times.
    Uncovered {
        /// The log.
        log: String,
        /// From, by our clock, the first of them.
        from: Moment,
        /// To, the last of them.
        to: Moment,
        /// How many.
        holes: u64,
        /// Milliseconds of all of them.
        all_ms: u64,
    },
    /// Lines of a log are missing.
    Missing {
        /// The log.
        log: String,
        /// How many notices.
        notices: u64,
        /// How many lines, where it is said.
        lines: u64,
        /// The last notice.
        why: String,
    },
    /// Too many lines of a log were not understood.
    Unparsed {
        /// The log.
        log: String,
        /// How many.
        unparsed: u64,
        /// Of how many.
        of: u64,
        /// Some of them.
        samples: Vec<String>,
    },
    /// Every log of the member comes by UDP, which can be lost and forged, and nobody looked at its queue page.
    OnlyUdp,
    /// Mail reached the server past lockgate.
    Bypass {
        /// The log that shows it.
        log: String,
        /// How many messages.
        count: u64,
        /// The first of them.
        samples: Vec<Foreign>,
    },
    /// A member that is not configured (any more) has items inside: perhaps this one had another name.
    Elsewhere {
        /// Its name.
        member: String,
        /// How many.
        items: u64,
    },
    /// A log shows messages of a time of which nothing is remembered: ours, or mail that came past us.
    Forgotten {
        /// The log.
        log: String,
        /// How many.
        count: u64,
    },
    /// Copies of mail were handed to a part of the server and not seen again.
    Copies {
        /// The log that shows it.
        log: String,
        /// How many.
        count: u64,
    },
    /// Messages in a log that are not judged yet.
    Unjudged {
        /// The log.
        log: String,
        /// How many.
        count: u64,
    },
    /// No sentinel went through this gate.
    NoSentinel {
        /// The gate.
        gate: String,
    },
    /// The server did not take the sentinel.
    SentinelRefused {
        /// The gate.
        gate: String,
        /// Its reply.
        reply: String,
    },
    /// The journal does not show the sentinel yet.
    SentinelUnseen {
        /// The gate.
        gate: String,
    },
    /// Something was offered to the member after the fence.
    LateOffer {
        /// When.
        at: Moment,
    },
    /// The quiet period is not over.
    Quiet {
        /// Until when.
        until: Moment,
    },
    /// The ledger does not add up: a fault of this program.
    Unbalanced {
        /// Gate.
        gate: String,
    },
}

impl Doubt {
    /// Its name, for a waiver.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::NoOpening => "no-opening".into(),
            // What could not be read has no beginning.
            Self::Gap { from, to, .. } if from.0 == 0 => format!("gap:{to}"),
            Self::Gap { from, .. } => format!("gap:{from}"),
            Self::Elsewhere { member, .. } => format!("elsewhere:{member}"),
            Self::Forgotten { log, .. } => format!("forgotten:{log}"),
            Self::Gaps { .. } => "gaps".into(),
            Self::Untracked { .. } => "untracked".into(),
            Self::NoLog => "no-log".into(),
            Self::Silent { log, .. } => format!("silent:{log}"),
            Self::Uncovered { log, .. } => format!("uncovered:{log}"),
            Self::Missing { log, .. } => format!("missing:{log}"),
            Self::Unparsed { log, .. } => format!("unparsed:{log}"),
            Self::OnlyUdp => "only-udp".into(),
            Self::Bypass { log, .. } => format!("bypass:{log}"),
            Self::Copies { log, .. } => format!("copies:{log}"),
            Self::Unjudged { log, .. } => format!("unjudged:{log}"),
            Self::NoSentinel { gate } => format!("no-sentinel:{gate}"),
            Self::SentinelRefused { gate, .. } => format!("sentinel-refused:{gate}"),
            Self::SentinelUnseen { gate } => format!("sentinel-unseen:{gate}"),
            Self::LateOffer { .. } => "late-offer".into(),
            Self::Quiet { .. } => "quiet".into(),
            Self::Unbalanced { gate } => format!("unbalanced:{gate}"),
        }
    }

    /// How large it is: a waiver is for what was seen then, not for more.
    #[must_use]
    pub fn measure(&self) -> u64 {
        let between = |from: Moment, to: Moment| u64::try_from(to.since(from)).unwrap_or(0);
        match self {
            Self::Gap { from, to, .. } => between(*from, *to),
            Self::Uncovered { all_ms, .. } => *all_ms,
            Self::Gaps { more } => *more,
            Self::Missing { lines, .. } => *lines,
            // In a million, so that a log that goes on alike stays what it was.
            Self::Unparsed { unparsed, of, .. } => {
                unparsed.saturating_mul(1_000_000) / (*of).max(1)
            }
            Self::Bypass { count, .. }
            | Self::Forgotten { count, .. }
            | Self::Copies { count, .. } => *count,
            Self::Elsewhere { items, .. } => *items,
            _ => 0,
        }
    }

    /// Does it pass by itself?
    #[must_use]
    pub const fn passes(&self) -> bool {
        matches!(self, Self::Quiet { .. } | Self::Unjudged { .. } | Self::SentinelUnseen { .. })
    }

    /// May a person answer for it?
    #[must_use]
    pub const fn may_be_waived(&self) -> bool {
        // An opening balance is attested, not waived; late offers and sums are facts; time passes.
        !self.passes()
            && !matches!(
                self,
                Self::NoOpening
                    | Self::Untracked { .. }
                    | Self::LateOffer { .. }
                    | Self::Unbalanced { .. }
            )
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOpening => f.write_str(
                "nobody says what was inside when lockgate came into the path: attest an empty start",
            ),
            Self::Gap { from, to, why } => {
                write!(f, "the journal may lack mail offered from {from} to {to}: {why}")
            }
            Self::Gaps { more } => write!(f, "the journal has {more} more gaps"),
            Self::Untracked { until } => write!(
                f,
                "mail was handed over until {until} of which nothing tells what became: configure a log or a return gate, then attest that the member is empty"
            ),
            Self::NoLog => f.write_str(
                "no log of the server is configured: mail that reached it past lockgate would not be seen",
            ),
            Self::Silent { log, last: Some(last) } => {
                write!(f, "log {log} was not seen alive after the fence: its last line came at {last}")
            }
            Self::Silent { log, last: None } => write!(f, "log {log} was never read: import it"),
            Self::Uncovered { log, from, to, holes: 1, .. } => {
                write!(f, "nothing that was read of log {log} covers {from} to {to}")
            }
            Self::Uncovered { log, from, to, holes, all_ms } => write!(
                f,
                "nothing that was read of log {log} covers {holes} times between {from} and {to}, {} s together",
                all_ms / 1000
            ),
            Self::Missing { log, notices, lines, why } => {
                write!(f, "log {log} has holes: {notices} notices, {lines} lines or more ({why})")
            }
            Self::Unparsed { log, unparsed, of, .. } if unparsed.saturating_mul(2) > *of => write!(
                f,
                "log {log}: {unparsed} of {of} lines were not understood: is its `dialect` right?"
            ),
            Self::Unparsed { log, unparsed, of, .. } => {
                write!(f, "log {log}: {unparsed} of {of} lines were not understood")
            }
            Self::OnlyUdp => f.write_str(
                "every log of the server comes by UDP, which can be lost and forged: look at its queue page",
            ),
            Self::Bypass { log, count, .. } => {
                write!(f, "{count} messages reached the server past lockgate, says log {log}")
            }
            Self::Elsewhere { member, items } => write!(
                f,
                "{items} items are inside member {member}, which is not configured: was this one named so?"
            ),
            Self::Forgotten { log, count } => write!(
                f,
                "log {log} shows {count} messages of a time that is not remembered (remembered_max)"
            ),
            Self::Copies { log, count } => write!(
                f,
                "{count} copies of mail were handed to a part of the server, says log {log}, and not seen again: a mailbox (`mailboxes`), another host (`leaves`), or a filter that has them"
            ),
            Self::Unjudged { log, count } => write!(f, "{count} messages in log {log} are new"),
            Self::NoSentinel { gate } => write!(
                f,
                "no sentinel went through gate {gate}: set `sentinel_to` to an address of yours"
            ),
            Self::SentinelRefused { gate, reply } => {
                write!(f, "the server did not take the sentinel of gate {gate}: {reply}")
            }
            Self::SentinelUnseen { gate } => {
                write!(f, "the sentinel of gate {gate} is not in the journal yet")
            }
            Self::LateOffer { at } => {
                write!(f, "mail was offered to the member at {at}, after the fence")
            }
            Self::Quiet { until } => write!(f, "the quiet period lasts until {until}"),
            Self::Unbalanced { gate } => {
                write!(f, "the ledger of gate {gate} does not add up: report this fault")
            }
        }
    }
}

/// An item that is inside, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Our id.
    pub id: String,
    /// Gate.
    pub gate: String,
    /// Forward-path.
    pub to: String,
    /// Reverse-path.
    pub from: String,
    /// Message-ID.
    pub message_id: Option<String>,
    /// When it was offered.
    pub offered: Moment,
    /// `inside`, or `uncertain`: the reply was lost, and it may never have been taken.
    pub state: String,
    /// The server's queue id.
    pub server_id: Option<String>,
    /// What was seen of it last.
    pub last: Option<String>,
}

/// How good a proof is: the weakest of its evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Everything was seen at a return gate or in the log of the next host.
    SeenBehind,
    /// For some, the server's own log is the witness.
    ServerLog,
    /// No log of the server: what came out was seen, and a person looked at its queue page.
    Attested,
    /// No log of the server, and nobody looked at its queue page: a person answers for that.
    Waived,
}

impl Grade {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SeenBehind => "seen at the return gate or in the log of the next host",
            Self::ServerLog => "seen in the log of the server",
            Self::Attested => "seen behind the server; its queue page was looked at by a person",
            Self::Waived => {
                "seen behind the server; what it may have beside that, a person answers for"
            }
        }
    }
}

/// Everything that a verdict of Drained rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Grade.
    pub grade: Grade,
    /// Sums since the opening balance, by gate.
    pub sums: BTreeMap<String, Sums>,
    /// Doubts that a person answers for.
    pub waivers: BTreeMap<String, Word>,
    /// Mail that the server made itself, by log.
    pub own: BTreeMap<String, u64>,
}

/// What may be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is left inside.
    Drained(Proof),
    /// These are.
    Pending {
        /// Items.
        items: Vec<Left>,
        /// Mail in the server that did not come through lockgate, or that it made itself.
        strangers: Vec<Foreign>,
        /// And besides.
        doubts: Vec<Doubt>,
    },
    /// Nobody can know.
    Inconclusive {
        /// Why.
        doubts: Vec<Doubt>,
    },
}

/// Judges a case.
#[must_use]
pub fn judge(case: &Case<'_>, books: &Books, setting: &Setting) -> Verdict {
    let items: Vec<Left> = books
        .ledger
        .inside(case.member)
        .filter(|(_, offer, _)| !case.only_gates || case.gates.contains(&offer.gate))
        .map(|(key, offer, item)| left(key, offer, item))
        .collect();
    let strangers: Vec<Foreign> = setting
        .logs_of(case.member)
        .filter_map(|log| Some((log, books.logs.get(&log.name)?)))
        .flat_map(|(log, book)| book.chains.strangers(log, &books.ledger))
        .collect();
    let mut doubts = Vec::new();
    let sums = balance(case, books, &mut doubts);
    doubt_journal(case, books, setting, &mut doubts);
    doubt_logs(case, books, setting, &mut doubts);
    doubt_sentinels(case, books, &mut doubts);
    let configured: BTreeSet<&str> =
        setting.plan.gates.values().flat_map(|gate| &gate.members).map(String::as_str).collect();
    for (member, items) in books.ledger.inside_elsewhere(&configured) {
        doubts.push(Doubt::Elsewhere { member, items });
    }
    let stirred =
        setting.logs_of(case.member).filter_map(|log| books.logs.get(&log.name)?.chains.stirred);
    // A server that is never quiet by itself (its own reports) is not waited for without end.
    let last = case.mark.plus(case.quiet_ms.saturating_mul(QUIETS_MAX - 1));
    let still = stirred.fold(case.mark, Moment::max).min(last).plus(case.quiet_ms);
    if case.now < still {
        doubts.push(Doubt::Quiet { until: still });
    }
    let waived = |doubt: &Doubt| {
        let known = case.waivers.get(&doubt.name());
        let known = known.filter(|waived| doubt.measure() <= waived.measure);
        known.filter(|_| doubt.may_be_waived()).map(|waived| waived.word.clone())
    };
    let waivers: BTreeMap<String, Word> =
        doubts.iter().filter_map(|doubt| Some((doubt.name(), waived(doubt)?))).collect();
    doubts.retain(|doubt| waived(doubt).is_none());
    if !items.is_empty() || !strangers.is_empty() {
        return Verdict::Pending { items, strangers, doubts };
    }
    if !doubts.is_empty() {
        return Verdict::Inconclusive { doubts };
    }
    let own = setting
        .logs_of(case.member)
        .filter_map(|log| Some((log.name.clone(), books.logs.get(&log.name)?.chains.own)));
    Verdict::Drained(Proof {
        grade: grade(case, &sums, setting),
        sums,
        waivers,
        own: own.collect(),
    })
}

/// An item as a list shows it.
#[must_use]
pub fn left(key: &OfferKey, offer: &Offer, item: &Item) -> Left {
    let last = match &item.state {
        State::Inside(sight) => sight.as_ref().map(|sight| format!("{}: {}", sight.at, sight.text)),
        State::Settled(evidence) => Some(evidence.text.clone()),
    };
    let uncertain = !matches!(offer.end, End::Taken { .. }) && !offer.is_taken();
    Left {
        id: key.id.clone(),
        gate: offer.gate.clone(),
        to: item.to.clone(),
        from: offer.from.clone(),
        message_id: offer.message_id.clone(),
        offered: key.at,
        state: if uncertain { "uncertain" } else { "inside" }.to_owned(),
        server_id: offer.server_id.clone(),
        last,
    }
}

/// Sums since the opening balance.
fn balance(case: &Case<'_>, books: &Books, doubts: &mut Vec<Doubt>) -> BTreeMap<String, Sums> {
    let mut all = BTreeMap::new();
    for ((_, gate), sums) in books.ledger.sums(Some(case.member)) {
        if !sums.balance() {
            doubts.push(Doubt::Unbalanced { gate: gate.clone() });
        }
        let before = case.opening.and_then(|opening| opening.sums.get(&gate));
        all.insert(gate, before.map_or(sums.clone(), |before| less(&sums, before)));
    }
    all
}

fn less(sums: &Sums, before: &Sums) -> Sums {
    fn less<K: Ord + Copy>(now: &BTreeMap<K, u64>, before: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
        let one = |(key, count): (&K, &u64)| {
            (*key, count.saturating_sub(before.get(key).copied().unwrap_or_default()))
        };
        now.iter().map(one).filter(|(_, count)| *count > 0).collect()
    }
    Sums {
        handed: sums.handed.saturating_sub(before.handed),
        settled: less(&sums.settled, &before.settled),
        keys: less(&sums.keys, &before.keys),
        inside: sums.inside,
    }
}

fn doubt_journal(case: &Case<'_>, books: &Books, setting: &Setting, doubts: &mut Vec<Doubt>) {
    let Some(opening) = case.opening else {
        doubts.push(Doubt::NoOpening);
        return;
    };
    let (gaps, more) = books.ledger.gaps();
    for gap in gaps.iter().filter(|gap| gap.hides_offers && gap.to >= opening.at) {
        // A log of the server that goes on before and behind it shows what was taken: what fits no item stands there
        // as mail that came past us.
        // Any of the member's logs may be the one that would show it.
        let mut logs = setting.logs_of(case.member).peekable();
        let closed = logs.peek().is_some()
            && logs.all(|log| {
                !log.udp
                    && books.logs.get(&log.name).is_some_and(|book| {
                        let (limits, until) = (&setting.limits, gap.to.plus(GAP_GUARD_MS));
                        let clean = book.coverage.missing_since(gap.from).next().is_none()
                            && book.is_understood(gap.from, until, limits);
                        clean && book.chains.covers(gap.from, gap.to, GAP_GUARD_MS, limits)
                    })
            });
        if !closed {
            let why = gap.why.clone();
            doubts.push(Doubt::Gap { from: gap.from, to: gap.to, why });
        }
    }
    if let Some((more, _)) = more.filter(|(_, until)| *until >= opening.at) {
        doubts.push(Doubt::Gaps { more });
    }
    if let Some(until) = books.ledger.untracked(case.member).filter(|at| *at >= opening.at) {
        doubts.push(Doubt::Untracked { until });
    }
    let late = books.ledger.latest_offer(case.member).filter(|at| *at > case.fenced);
    if let Some(at) = late {
        doubts.push(Doubt::LateOffer { at });
    }
}

fn doubt_logs(case: &Case<'_>, books: &Books, setting: &Setting, doubts: &mut Vec<Doubt>) {
    let since = case.opening.map_or(case.fenced, |opening| opening.at);
    let mut servers = 0;
    let mut trusted = 0;
    for log in &setting.logs {
        let server = match &log.role {
            Role::Server { member } if member == case.member => true,
            Role::Next { member, .. } if member == case.member => false,
            Role::Server { .. } | Role::Next { .. } => continue,
        };
        let terms = case.logs.get(&log.name).copied().unwrap_or_default();
        servers += u32::from(server);
        trusted += u32::from(server && !terms.udp);
        let Some(book) = books.logs.get(&log.name) else {
            if server {
                doubts.push(Doubt::Silent { log: log.name.clone(), last: None });
            }
            continue;
        };
        if server {
            doubt_liveness(case, &log.name, book, (terms, &setting.limits), doubts);
            doubt_strangers(&log.name, book, (since, &setting.limits), doubts);
            // Whether it goes on behind the fence is asked above.
            let holes = book.chains.uncovered(since, case.fenced, &setting.limits);
            if let (Some((from, _)), Some((_, to))) = (holes.first(), holes.last()) {
                let length =
                    |(from, to): &(Moment, Moment)| u64::try_from(to.since(*from)).unwrap_or(0);
                doubts.push(Doubt::Uncovered {
                    log: log.name.clone(),
                    from: *from,
                    to: *to,
                    holes: u64::try_from(holes.len()).unwrap_or(u64::MAX),
                    all_ms: holes.iter().map(length).sum(),
                });
            }
        }
        // A hole in the log of the next host hides nothing that is not settled otherwise.
        if server {
            doubt_coverage(case, &log.name, book, (terms, since), doubts);
        }
    }
    if servers == 0 && case.queue_empty.is_none() {
        doubts.push(Doubt::NoLog);
    }
    if servers > 0 && trusted == 0 && case.queue_empty.is_none() {
        doubts.push(Doubt::OnlyUdp);
    }
}

fn doubt_liveness(
    case: &Case<'_>,
    log: &str,
    book: &super::Book,
    (terms, limits): (LogTerms, &Limits),
    doubts: &mut Vec<Doubt>,
) {
    // From the sentinel's own lines on it is alive.
    let sentinel = book.chains.shown_until.is_some_and(|shown| shown > case.fenced);
    let alive = book.coverage.alive;
    let shared = terms.shared && alive.is_some_and(|at| at >= case.mark.plus(case.quiet_ms));
    // Nobody else uses our addresses.
    // But every member is connected to: only of a log that has shown mail of this one.
    let since = case.opening.map_or(case.fenced, |opening| opening.at);
    let ours = book.chains.shown_until.is_some_and(|shown| shown >= since);
    let connected = ours && book.chains.connected_until(limits).is_some_and(|at| at > case.fenced);
    if !sentinel && !shared && !connected {
        doubts.push(Doubt::Silent { log: log.to_owned(), last: alive });
    }
}

fn doubt_strangers(
    log: &str,
    book: &super::Book,
    (since, limits): (Moment, &Limits),
    doubts: &mut Vec<Doubt>,
) {
    let chains = &book.chains;
    let count = chains.bypasses_since(since, limits);
    if count > 0 {
        let samples = chains.bypass_samples.clone();
        doubts.push(Doubt::Bypass { log: log.to_owned(), count, samples });
    }
    let most = limits.skew_max_ms;
    if let Some((count, _)) = chains.forgotten.filter(|(_, until)| until.plus(most) >= since) {
        doubts.push(Doubt::Forgotten { log: log.to_owned(), count });
    }
    let count = chains.copies_since(since);
    if count > 0 {
        doubts.push(Doubt::Copies { log: log.to_owned(), count });
    }
    let count = u64::try_from(chains.unjudged()).unwrap_or(u64::MAX);
    if count > 0 {
        doubts.push(Doubt::Unjudged { log: log.to_owned(), count });
    }
}

fn doubt_coverage(
    case: &Case<'_>,
    log: &str,
    book: &super::Book,
    (terms, since): (LogTerms, Moment),
    doubts: &mut Vec<Doubt>,
) {
    let missing: Vec<_> = book.coverage.missing_since(since).collect();
    let lines: u64 = missing.iter().map(|missing| missing.lines.unwrap_or(1).max(1)).sum();
    let lines = lines.saturating_add(book.coverage.missing_more(since));
    if lines > terms.missing_max {
        let notices = u64::try_from(missing.len()).unwrap_or(u64::MAX);
        let why = missing.last().map(|missing| missing.why.clone()).unwrap_or_default();
        doubts.push(Doubt::Missing { log: log.to_owned(), notices, lines, why });
    }
    // Of the whole time, and of the drain alone: few lines must not go under among very many.
    let beyond = |lines: &Lines| {
        lines.unparsed.saturating_mul(1_000_000)
            > lines.read.saturating_mul(terms.unparsed_per_million_max)
    };
    let counted = [book.coverage.since(since), book.coverage.since(case.fenced)];
    if let Some(counted) = counted.into_iter().find(beyond) {
        doubts.push(Doubt::Unparsed {
            log: log.to_owned(),
            unparsed: counted.unparsed,
            of: counted.read,
            samples: book.coverage.samples().map(str::to_owned).collect(),
        });
    }
}

fn doubt_sentinels(case: &Case<'_>, books: &Books, doubts: &mut Vec<Doubt>) {
    for gate in case.gates {
        let gate = gate.clone();
        let Some(sentinel) = case.sentinels.iter().find(|sentinel| sentinel.gate == gate) else {
            doubts.push(Doubt::NoSentinel { gate });
            continue;
        };
        if !sentinel.accepted {
            doubts.push(Doubt::SentinelRefused { gate, reply: sentinel.reply.clone() });
        } else if !books.ledger.has_seen(&sentinel.message_id) {
            doubts.push(Doubt::SentinelUnseen { gate });
        }
    }
}

fn grade(case: &Case<'_>, sums: &BTreeMap<String, Sums>, setting: &Setting) -> Grade {
    let mut behind = true;
    for sums in sums.values() {
        behind &= sums.settled.iter().all(|(column, count)| {
            *count == 0 || matches!(column, Column::Returned | Column::Refused)
        });
        behind &= !sums.keys.contains_key(&Key::Absence);
    }
    if setting.logs_of(case.member).all(|log| log.udp) {
        if case.queue_empty.is_some() { Grade::Attested } else { Grade::Waived }
    } else if behind {
        Grade::SeenBehind
    } else {
        Grade::ServerLog
    }
}
