//! The ledger: every item handed to a member, and where each went.
//!
//! The conservation law: handed over = returned + delivered + bounced + refused + expired + deleted +
//! stored + inside, per gate and member. `inside` is a list, never a subtraction: `handed` is counted when
//! an item is offered, a column when evidence is written to it, and what is left must be the list.
//!
//! Invariants
//! - An item leaves the list only by [`Evidence`]; silence and age never settle it.
//! - Evidence that may belong to several items settles none.
//! - Memory holds what is inside, what was settled a moment ago, and a bounded set of fingerprints of older offers, so
//!   that a key that was used before is known not to be unique.
//!
//! Not here: lines of logs (`correlate`), what the numbers allow to say (`verdict`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_lc_rs::digest::{Context, SHA256};
use proxy::api::{JournalLine, JournalWhat};
use serde::{Deserialize, Serialize};

use super::item::{
    Column, End, Evidence, Item, Key, Offer, OfferKey, Place, Sight, State, bare, same_address,
};
use crate::maillog;
use crate::moment::Moment;

/// How long a settled offer is kept, for better evidence and for lines that come late.
const KEPT_MS: i64 = 30_000;

/// Stands in the index for mail without a Message-ID; none is empty.
const NONE: &str = "";

/// Equal prints that are told apart.
const EQUAL_MAX: usize = NUMBERS.len();
const NUMBERS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// How long an offer is kept whose reply was lost: the proxy must hear what became of it, and a line that shows one that was
/// proven absent must find it.
const UNCERTAIN_KEPT_MS: i64 = 3_600_000;

/// How long a handing over may last, in milliseconds: longer than any deadline of the proxy.
const OPEN_MAX_MS: i64 = 3_600_000;

/// Gaps of the journal that are kept by name.
const GAPS_MAX: usize = 1000;

/// The gates and members, as far as the ledger must know them.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Every gate by its name.
    pub gates: BTreeMap<String, GatePlan>,
    /// Members of which a log or a return gate tells: of others nobody could say what became of mail.
    pub told: BTreeSet<String>,
}

impl Plan {
    /// Is a member of this name configured?
    fn knows(&self, member: &str) -> bool {
        let forward = self.gates.values().filter(|gate| gate.returns.is_none());
        forward.flat_map(|gate| &gate.members).any(|known| known == member)
    }
}

/// One gate.
#[derive(Clone, Debug, Default)]
pub struct GatePlan {
    /// The forward gate whose server sends its mail back here.
    pub returns: Option<String>,
    /// Its members.
    pub members: Vec<String>,
    /// Mail gets our trace field on the way.
    pub trace: bool,
}

/// Limits of the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Offers whose fingerprints are kept after they were settled.
    pub remembered_max: usize,
    /// How far the clock of a log may be from ours before it is known better, in milliseconds.
    pub skew_max_ms: i64,
    /// Messages that are followed at once.
    pub offers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { remembered_max: 500_000, skew_max_ms: 300_000, offers_max: 200_000 }
    }
}

/// Sums of one gate and member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Items handed over.
    pub handed: u64,
    /// Items settled, by column.
    pub settled: BTreeMap<Column, u64>,
    /// Settled items by the key that tied the evidence to them.
    pub keys: BTreeMap<Key, u64>,
    /// Items inside: counted from the list.
    pub inside: u64,
}

impl Sums {
    /// Does the conservation law hold?
    #[must_use]
    pub fn balance(&self) -> bool {
        self.handed == self.settled.values().sum::<u64>() + self.inside
    }
}

/// A time of which the journal does not know everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// From.
    pub from: Moment,
    /// To.
    pub to: Moment,
    /// Why.
    pub why: String,
    /// Mail that was offered may be missing.
    pub hides_offers: bool,
}

/// An offer that was let go was recalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recalled {
    /// When it was made.
    pub(super) at: Moment,
    /// By its queue id alone: something else had been taken for it by its Message-ID.
    pub(super) taken_before: bool,
}

/// A message on its way through a return gate.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Returning {
    gate: String,
    passed_as: Option<String>,
    message_id: Option<String>,
    from: String,
    to: Vec<String>,
}

impl Returning {
    fn of(line: &JournalLine) -> Option<Self> {
        Some(Self {
            gate: line.gate.clone()?,
            passed_as: line.passed_as.clone(),
            message_id: message_id_of(line).map(str::to_owned),
            from: bare(line.from.as_deref().unwrap_or_default()).to_owned(),
            to: line.to.iter().map(|to| bare(to).to_owned()).collect(),
        })
    }
}

/// What came out at a return gate.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The gate; none where the log of the next host shows it.
    pub gate: Option<&'a str>,
    /// Our id in its trace field.
    pub passed_as: Option<&'a str>,
    /// Its Message-ID.
    pub message_id: Option<&'a str>,
    /// Reverse-path.
    pub from: &'a str,
    /// One forward-path that was taken.
    pub to: &'a str,
    /// When, by our clock; with its bounds where it is that of another host.
    pub at: (Moment, Moment),
}

/// Fingerprints of offers that were settled.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Remembered {
    prints: HashMap<u64, Moment>,
    /// Nothing offered before this is remembered.
    since: Option<Moment>,
}

/// See the head of this file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    offers: BTreeMap<OfferKey, Offer>,
    /// Sums of offers that were let go.
    sums: BTreeMap<(String, String), Sums>,
    /// Items handed over, counted as they were offered.
    handed: BTreeMap<(String, String), u64>,
    /// Offers without an end, by id.
    open: BTreeMap<String, OfferKey>,
    /// What is on its way through a return gate, by id.
    returning: BTreeMap<String, Returning>,
    gaps: Vec<Gap>,
    /// How many more there are, and when the last of them ended.
    gaps_more: Option<(u64, Moment)>,
    /// When the latest offer was made that is not followed, by member: nothing would tell what became of it, or there were
    /// too many.
    untracked: BTreeMap<String, Moment>,
    remembered: Remembered,
    /// The last entry that was read.
    cursor: Option<String>,
    /// When the latest offer to each member was made, but for probes.
    latest: BTreeMap<String, Moment>,
    /// Arrivals at return gates that fit no item.
    strays: u64,
    /// The members leave our trace field in the mail: what comes out without one did not come from us.
    trace_kept: bool,
    #[serde(skip)]
    by_message: HashMap<String, BTreeSet<OfferKey>>,
    #[serde(skip)]
    by_reply: HashMap<String, BTreeSet<OfferKey>>,
}

impl Ledger {
    /// Makes what is not kept on disk from what is.
    pub fn index(&mut self) {
        self.by_message.clear();
        self.by_reply.clear();
        for (key, offer) in &self.offers {
            index(&mut self.by_message, &mut self.by_reply, key, offer);
        }
    }

    /// The cursor behind the last entry that was read.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Begins behind this cursor.
    pub fn begin_at(&mut self, cursor: String) {
        self.cursor = Some(cursor);
    }

    /// Takes a line of the journal, read with `entries`.
    pub fn entry(&mut self, line: &JournalLine, plan: &Plan, limits: &Limits, now: Moment) {
        match line.what {
            JournalWhat::Open => self.offered(line, plan, limits),
            JournalWhat::Ended => {
                self.ended(line, plan, limits, now);
            }
            JournalWhat::Gap | JournalWhat::Unreadable => self.gap(line, now),
            JournalWhat::End => {}
        }
        if !line.cursor.is_empty() {
            self.cursor = Some(line.cursor.clone());
        }
    }

    fn gap(&mut self, line: &JournalLine, now: Moment) {
        let moment = |text: &Option<String>| text.as_deref().and_then(Moment::parse);
        let gap = Gap {
            from: moment(&line.at).unwrap_or_default(),
            to: moment(&line.until).unwrap_or(now),
            why: line.why.clone().unwrap_or_default(),
            hides_offers: line.hides_offers || line.what == JournalWhat::Unreadable,
        };
        // Where only ends are missing, every offer is known.
        if !gap.hides_offers {
            return;
        }
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(gap);
        } else {
            let (count, until) = self.gaps_more.unwrap_or_default();
            self.gaps_more = Some((count + 1, until.max(gap.to)));
        }
    }

    fn offered(&mut self, line: &JournalLine, plan: &Plan, limits: &Limits) {
        let gate = line.gate.as_deref().and_then(|gate| plan.gates.get(gate));
        if gate.is_some_and(|gate| gate.returns.is_some()) {
            if let (Some(id), Some(returning)) = (&line.id, Returning::of(line)) {
                self.returning.insert(id.clone(), returning);
            }
            return;
        }
        let Some((key, offer)) = offer_of(line, plan) else { return };
        // What is open is written again at the start of each file.
        if self.open.get(&key.id) == Some(&key) {
            return;
        }
        if let Some(known) = self.offers.get_mut(&key) {
            // Its end was taken for lost, and it has none yet.
            if matches!(known.end, End::Uncertain { .. }) {
                known.end = End::Open;
                self.open.insert(key.id.clone(), key);
            }
            return;
        }
        if !self.follows(&key, &offer, plan, limits) {
            return;
        }
        self.open.insert(key.id.clone(), key.clone());
        self.add(key, offer);
    }

    /// Is it followed? Not where nothing could ever tell what became of it, nor beyond the limit: that is noted.
    fn follows(&mut self, key: &OfferKey, offer: &Offer, plan: &Plan, limits: &Limits) -> bool {
        let told = plan.told.contains(&offer.member) || !plan.knows(&offer.member);
        if told && self.offers.len() < limits.offers_max {
            return true;
        }
        self.overlooked(&offer.member, key.at);
        false
    }

    /// The journal is read on from another place: what has no end yet will get none.
    pub fn lose_ends(&mut self, now: Moment) {
        self.open.clear();
        self.returning.clear();
        for offer in self.offers.values_mut().filter(|offer| offer.end == End::Open) {
            offer.end = End::Uncertain { at: now };
        }
    }

    /// Something may have been offered to this member until then that is not followed.
    pub fn overlooked(&mut self, member: &str, until: Moment) {
        let latest = self.untracked.entry(member.to_owned()).or_default();
        *latest = until.max(*latest);
    }

    fn add(&mut self, key: OfferKey, offer: Offer) {
        let items = u64::try_from(offer.items.len()).unwrap_or(u64::MAX);
        *self.handed.entry((offer.member.clone(), offer.gate.clone())).or_default() += items;
        if offer.doing != "probe" {
            let latest = self.latest.entry(offer.member.clone()).or_default();
            *latest = key.at.max(*latest);
        }
        index(&mut self.by_message, &mut self.by_reply, &key, &offer);
        self.offers.insert(key, offer);
    }

    fn ended(&mut self, line: &JournalLine, plan: &Plan, limits: &Limits, now: Moment) {
        let Some(id) = line.id.as_deref() else { return };
        let gate = line.gate.as_deref().and_then(|gate| plan.gates.get(gate));
        let returning = match gate {
            // What ended before the final dot, or is held there, tells all in its end.
            Some(gate) if gate.returns.is_some() => Returning::of(line),
            _ => None,
        };
        if let Some(returning) = returning.or_else(|| self.returning.remove(id)) {
            self.returned(&returning, line, plan, limits, now);
            return;
        }
        let at = line.at.as_deref().and_then(Moment::parse).unwrap_or(now);
        let outcome = line.outcome.as_deref().unwrap_or_default();
        let key = match self.open.remove(id) {
            Some(key) => key,
            // Its offer could not be written: a gap tells so too, but what is known is known.
            None if matches!(outcome, "relayed" | "uncertain") => {
                let Some((key, offer)) = offer_of(line, plan) else { return };
                if self.offers.contains_key(&key) || !self.follows(&key, &offer, plan, limits) {
                    return;
                }
                self.add(key.clone(), offer);
                key
            }
            None => return,
        };
        let reply = line.reply.clone().unwrap_or_default();
        let journal =
            |gate: &str| Place::Journal { gate: gate.to_owned(), cursor: line.cursor.clone() };
        let Some(offer) = self.offers.get_mut(&key) else { return };
        let place = journal(&offer.gate);
        // The outcome of the whole is the worst of all: a 250 for one path is a 250.
        let mut taken = false;
        for item in &mut offer.items {
            let own = line.others.iter().find(|other| other.path == item.path);
            let (outcome, reply) =
                own.map_or((outcome, reply.as_str()), |own| (&own.outcome, &own.reply));
            taken |= outcome == "relayed";
            if matches!(outcome, "refused" | "deferred") {
                let (place, text) = (place.clone(), reply.to_owned());
                let key = Key::Journal;
                settle(item, Evidence { column: Column::Refused, key, place, at, text });
            }
        }
        offer.size = line.size.filter(|size| *size > 0);
        offer.end = if taken { End::Taken { at } } else { End::Uncertain { at } };
        if let Some(id) = maillog::id_in_reply(&reply) {
            offer.server_id = Some(id.to_owned());
            let keys = self.by_reply.entry(reply_key(&offer.member, id)).or_default();
            keys.insert(key.clone());
        }
        self.note_settled(&key, now);
    }

    /// The end of a message at a return gate: what it relayed (or holds) is out of the server.
    fn returned(
        &mut self,
        returning: &Returning,
        line: &JournalLine,
        plan: &Plan,
        limits: &Limits,
        now: Moment,
    ) {
        let at = line.at.as_deref().and_then(Moment::parse).unwrap_or(now);
        for (path, to) in returning.to.iter().enumerate() {
            let own = line.others.iter().find(|other| other.path as usize == path);
            let outcome =
                own.map_or(line.outcome.as_deref().unwrap_or_default(), |own| &own.outcome);
            let arrival = Arrival {
                gate: Some(&returning.gate),
                passed_as: returning.passed_as.as_deref(),
                message_id: returning.message_id.as_deref(),
                from: &returning.from,
                to,
                at: (at, at),
            };
            let gate = returning.gate.clone();
            let place = Place::Journal { gate, cursor: line.cursor.clone() };
            let text = line.reply.clone().unwrap_or_default();
            let out = matches!(outcome, "relayed" | "held");
            self.arrived(&arrival, out, place, &text, plan, limits, now);
        }
    }

    /// Something came out of the server. `out`: it was taken there; else it is still the server's.
    #[allow(clippy::too_many_arguments, reason = "the parts of one line")]
    pub(super) fn arrived(
        &mut self,
        arrival: &Arrival<'_>,
        out: bool,
        place: Place,
        text: &str,
        plan: &Plan,
        limits: &Limits,
        now: Moment,
    ) -> Option<OfferKey> {
        let Some((key, by)) = self.who_arrived(arrival, plan, limits) else {
            self.strays += u64::from(out);
            return None;
        };
        let at = arrival.at.0;
        self.trace_kept |= by == Key::Trace;
        if out {
            let text = text.to_owned();
            let evidence = Evidence { column: Column::Returned, key: by, place, at, text };
            self.settle(&key, arrival.to, &evidence, now);
        } else {
            self.sight(&key, arrival.to, &Sight { place, at, by, text: text.to_owned() });
        }
        Some(key)
    }

    /// The one offer that an arrival can be.
    fn who_arrived(
        &self,
        arrival: &Arrival<'_>,
        plan: &Plan,
        limits: &Limits,
    ) -> Option<(OfferKey, Key)> {
        let partner = arrival.gate.and_then(|gate| plan.gates.get(gate)?.returns.as_deref());
        let fits = |key: &OfferKey, offer: &Offer| {
            partner.is_none_or(|partner| partner == offer.gate) && key.at <= arrival.at.1
        };
        let traced = |offer: &Offer| {
            offer.doing == "replay" || plan.gates.get(&offer.gate).is_some_and(|gate| gate.trace)
        };
        // Probes have no trace field.
        let without_trace = |offer: &Offer| {
            let kept = self.trace_kept && arrival.gate.is_some();
            !(kept && matches!(offer.doing.as_str(), "pass" | "replay") && traced(offer))
        };
        if let Some(id) = arrival.passed_as {
            let of_id: Vec<_> = self.of_id(id).collect();
            if !of_id.is_empty() {
                let of_id = of_id.into_iter();
                let of_id = of_id.filter(|(key, offer)| traced(offer) && fits(key, offer));
                // A forward-path that was rewritten, or a copy for an archive, speaks of none of them.
                let one = only_with(of_id, arrival.to)?;
                let to = arrival.to.to_ascii_lowercase();
                return (!self.remembered.has(&["taken", id, &to])).then_some((one, Key::Trace));
            }
            if self.remembered.has(&["id", id]) {
                return None;
            }
        }
        let to = arrival.to.to_ascii_lowercase();
        if let Some(message_id) = arrival.message_id {
            if self.remembered.has(&["to", message_id, &to]) {
                return None;
            }
            if self.by_message.contains_key(message_id) {
                // Unique among all gates, not only among those that fit.
                let one = only_with(self.of_message(message_id), arrival.to)?;
                let offer = self.offers.get(&one)?;
                return (fits(&one, offer) && without_trace(offer))
                    .then_some((one, Key::MessageId));
            }
        }
        // One that had no Message-ID, and has one now, cannot be told from another of its envelope.
        if arrival.message_id.is_some() || self.remembers_envelope(arrival.from, &to) {
            return None;
        }
        let one = only_with(self.of_envelope(arrival.from, arrival.to), arrival.to)?;
        let offer = self.offers.get(&one)?;
        let near = arrival.at.0.since(one.at) <= limits.skew_max_ms;
        let fits = near && fits(&one, offer) && without_trace(offer);
        fits.then_some((one, Key::Envelope))
    }

    /// Offers of this id, in the order in which they were made.
    pub(super) fn of_id<'a>(
        &'a self,
        id: &str,
    ) -> impl Iterator<Item = (&'a OfferKey, &'a Offer)> + use<'a> {
        let key = |at| OfferKey { id: id.to_owned(), at: Moment(at) };
        self.offers.range(key(i64::MIN)..=key(i64::MAX))
    }

    /// Offers to this member that the server answered with this queue id.
    pub(super) fn of_reply<'a>(
        &'a self,
        member: &str,
        server_id: &str,
    ) -> impl Iterator<Item = (&'a OfferKey, &'a Offer)> + use<'a> {
        let keys = self.by_reply.get(&reply_key(member, server_id));
        keys.into_iter().flatten().filter_map(|key| Some((key, self.offers.get(key)?)))
    }

    /// Offers of this Message-ID.
    pub(super) fn of_message<'a>(
        &'a self,
        message_id: &str,
    ) -> impl Iterator<Item = (&'a OfferKey, &'a Offer)> + use<'a> {
        let keys = self.by_message.get(message_id);
        keys.into_iter().flatten().filter_map(|key| Some((key, self.offers.get(key)?)))
    }

    /// Offers without a Message-ID of this envelope.
    pub(super) fn of_envelope<'a>(
        &'a self,
        from: &str,
        to: &str,
    ) -> impl Iterator<Item = (&'a OfferKey, &'a Offer)> + use<'a> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.of_message(NONE).filter(move |(_, offer)| {
            offer.message_id.is_none()
                && same_address(&offer.from, &from)
                && offer.items.iter().any(|item| same_address(&item.to, &to))
        })
    }

    /// Was an offer of this id settled and let go? When the latest was made.
    pub(super) fn remembers_id(&self, id: &str) -> Option<Moment> {
        self.remembered.prints.get(&fingerprint(&["id", id])).copied()
    }

    /// Was an offer without Message-ID of this envelope settled and let go?
    pub(super) fn remembers_envelope(&self, from: &str, to: &str) -> bool {
        let (from, to) = (from.to_ascii_lowercase(), to.to_ascii_lowercase());
        self.remembered.has(&["envelope", &from, &to])
    }

    /// Was an offer settled and let go that the member answered with this queue id, and that no log showed?
    pub(super) fn remembers_reply(
        &self,
        member: &str,
        server_id: &str,
        message_id: Option<&str>,
    ) -> bool {
        self.remembered.has_any(&["reply", member, server_id, message_id.unwrap_or_default()])
    }

    /// Was an offer settled and let go, before any log showed it, that the member answered with this queue id and that had
    /// this Message-ID, or that had this Message-ID alone, at a moment that is `allowed`? It is found once: the next
    /// message of that name is another. `same_ids`: the log names messages as the replies do, so that one whose reply named an
    /// id is not found by its Message-ID alone.
    pub(super) fn recall(
        &mut self,
        member: &str,
        server_id: &str,
        message_id: Option<&str>,
        same_ids: bool,
        allowed: impl Fn(Moment) -> bool,
    ) -> Option<Recalled> {
        let reply = ["reply", member, server_id, message_id.unwrap_or_default()];
        let message = message_id.map(|id| ["message", member, id]);
        if let Some(at) = self.remembered.take(&reply, &allowed) {
            let both = message.is_none_or(|print| self.remembered.take(&print, &allowed).is_some());
            return Some(Recalled { at, taken_before: !both });
        }
        let at = if same_ids {
            let unnamed = ["unnamed", member, message_id?];
            let at = self.remembered.take(&unnamed, &allowed)?;
            self.remembered.take(&message?, &allowed);
            at
        } else {
            self.remembered.take(&message?, &allowed)?
        };
        Some(Recalled { at, taken_before: false })
    }

    /// Was an offer of this Message-ID read from the journal?
    #[must_use]
    pub fn has_seen(&self, message_id: &str) -> bool {
        self.by_message.contains_key(message_id) || self.remembered.has(&["seen", message_id])
    }

    /// Settled offers that were made before this are forgotten.
    #[must_use]
    pub fn remembers_since(&self) -> Option<Moment> {
        self.remembered.since
    }

    /// An offer that is not let go yet.
    #[must_use]
    pub fn offer(&self, key: &OfferKey) -> Option<&Offer> {
        self.offers.get(key)
    }

    /// Every offer that is not let go yet.
    pub fn offers(&self) -> impl Iterator<Item = (&OfferKey, &Offer)> {
        self.offers.iter()
    }

    /// A log of the server shows this offer coming in.
    pub(super) fn logged(&mut self, key: &OfferKey) {
        if let Some(offer) = self.offers.get_mut(key) {
            offer.logged = true;
        }
    }

    /// A log of the server shows this offer in the queue.
    pub(super) fn queued(&mut self, key: &OfferKey) {
        if let Some(offer) = self.offers.get_mut(key) {
            offer.queued = true;
        }
    }

    /// Was an offer to this member of this Message-ID settled and let go before any log showed it?
    pub(super) fn remembers_message(&self, member: &str, message_id: &str) -> bool {
        self.remembered.has_any(&["message", member, message_id])
    }

    /// Settles the item of this address. A better place of evidence replaces a lesser one while the offer is kept.
    pub(super) fn settle(&mut self, key: &OfferKey, to: &str, evidence: &Evidence, now: Moment) {
        let Some(offer) = self.offers.get_mut(key) else { return };
        // An address that stands twice in an envelope is one delivery.
        for item in offer.items.iter_mut().filter(|item| same_address(&item.to, to)) {
            settle(item, evidence.clone());
        }
        self.note_settled(key, now);
    }

    /// Notes what was seen of an item that is inside.
    pub(super) fn sight(&mut self, key: &OfferKey, to: &str, sight: &Sight) {
        let Some(offer) = self.offers.get_mut(key) else { return };
        for item in offer.items.iter_mut().filter(|item| same_address(&item.to, to)) {
            // What was proven absent and is seen was never absent.
            if item.is_inside() || item.is_absent() {
                item.state = State::Inside(Some(sight.clone()));
                offer.settled_at = None;
            }
        }
    }

    fn note_settled(&mut self, key: &OfferKey, now: Moment) {
        if let Some(offer) = self.offers.get_mut(key)
            && offer.is_settled()
            && offer.settled_at.is_none()
        {
            offer.settled_at = Some(now);
        }
    }

    /// Lets go of offers that were settled a while ago, and counts them.
    pub fn tick(&mut self, limits: &Limits, now: Moment) {
        let done = |offer: &Offer| {
            // Of what was uncertain the proxy is still to be told.
            let uncertain = matches!(offer.end, End::Uncertain { .. });
            let kept = if uncertain { UNCERTAIN_KEPT_MS } else { KEPT_MS };
            !matches!(offer.end, End::Open)
                && offer.settled_at.is_some_and(|at| now.since(at) >= kept)
        };
        let due: Vec<OfferKey> = self
            .offers
            .iter()
            .filter(|(_, offer)| done(offer))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            let Some(offer) = self.offers.remove(&key) else { continue };
            self.let_go(&key, &offer);
        }
        self.remembered.bound(limits.remembered_max);
    }

    fn let_go(&mut self, key: &OfferKey, offer: &Offer) {
        let sums = self.sums.entry((offer.member.clone(), offer.gate.clone())).or_default();
        count(sums, offer);
        unindex(&mut self.by_message, offer.message_id.as_deref().or(Some(NONE)), key);
        let reply = offer.server_id.as_deref().map(|id| reply_key(&offer.member, id));
        unindex(&mut self.by_reply, reply.as_deref(), key);
        let prints = &mut self.remembered;
        prints.add(&["id", &key.id], key.at);
        if let Some(id) = &offer.message_id {
            prints.add(&["seen", id], key.at);
        }
        // A log that comes later will show it once.
        let taken = offer.items.iter().any(Item::may_come_out);
        if taken && !offer.logged {
            if let Some(id) = &offer.server_id {
                let message_id = offer.message_id.as_deref().unwrap_or_default();
                prints.put(&["reply", &offer.member, id, message_id], key.at);
            }
            if let Some(id) = &offer.message_id {
                prints.put(&["message", &offer.member, id], key.at);
                if offer.server_id.is_none() {
                    prints.put(&["unnamed", &offer.member, id], key.at);
                }
            }
        }
        // What was never taken cannot come out: its keys are free for the next try.
        for item in offer.items.iter().filter(|item| item.may_come_out()) {
            let to = item.to.to_ascii_lowercase();
            prints.add(&["taken", &key.id, &to], key.at);
            match &offer.message_id {
                Some(id) => prints.add(&["to", id, &to], key.at),
                None => prints.add(&["envelope", &offer.from.to_ascii_lowercase(), &to], key.at),
            }
        }
    }

    /// Sums by gate of one member; of every member, when none is named.
    #[must_use]
    pub fn sums(&self, member: Option<&str>) -> BTreeMap<(String, String), Sums> {
        let wanted = |name: &str| member.is_none_or(|member| member == name);
        let mut all: BTreeMap<(String, String), Sums> = BTreeMap::new();
        for (key, handed) in self.handed.iter().filter(|((name, _), _)| wanted(name)) {
            all.insert(key.clone(), Sums { handed: *handed, ..Sums::default() });
        }
        for (key, gone) in self.sums.iter().filter(|((name, _), _)| wanted(name)) {
            let sums = all.entry(key.clone()).or_default();
            sums.settled.clone_from(&gone.settled);
            sums.keys.clone_from(&gone.keys);
        }
        for offer in self.offers.values().filter(|offer| wanted(&offer.member)) {
            let key = (offer.member.clone(), offer.gate.clone());
            count(all.entry(key).or_default(), offer);
        }
        all
    }

    /// Items of a member that are inside, the oldest first.
    pub fn inside(&self, member: &str) -> impl Iterator<Item = (&OfferKey, &Offer, &Item)> {
        let of_member = self.offers.iter().filter(move |(_, offer)| offer.member == member);
        let mut list: Vec<_> = of_member
            .flat_map(|(key, offer)| offer.inside().map(move |item| (key, offer, item)))
            .collect();
        list.sort_by_key(|(key, ..)| key.at);
        list.into_iter()
    }

    /// Times of which the journal does not know everything; how many more there are, and when the last of them ended.
    #[must_use]
    pub fn gaps(&self) -> (&[Gap], Option<(u64, Moment)>) {
        (&self.gaps, self.gaps_more)
    }

    /// When the latest offer to this member was made that is not followed.
    #[must_use]
    pub fn untracked(&self, member: &str) -> Option<Moment> {
        self.untracked.get(member).copied()
    }

    /// A person says that what is inside this member, and is `wanted` by its id, is gone: it was deleted, or the member installed
    /// anew. Returns how many items that were.
    pub fn write_off(
        &mut self,
        member: &str,
        by: &str,
        now: Moment,
        wanted: impl Fn(&str) -> bool,
    ) -> u64 {
        let mut count = 0;
        let keys = self.inside(member).map(|(key, ..)| key.clone());
        let inside: Vec<OfferKey> = keys.filter(|key| wanted(&key.id)).collect();
        for key in inside {
            // What is being handed over now is handed to the new one; of what lasts longer, the end is lost.
            let lasts = |one: &&mut Offer| one.end != End::Open || now.since(key.at) > OPEN_MAX_MS;
            let Some(offer) = self.offers.get_mut(&key).filter(lasts) else { continue };
            if offer.end == End::Open {
                offer.end = End::Uncertain { at: now };
                self.open.retain(|_, open| *open != key);
            }
            for item in offer.items.iter_mut().filter(|item| item.is_inside()) {
                let place = Place::Journal { gate: offer.gate.clone(), cursor: String::new() };
                let (column, text) = (Column::Deleted, by.to_owned());
                let evidence = Evidence { column, key: Key::Word, place, at: now, text };
                item.state = State::Settled(evidence);
                count += 1;
            }
            self.note_settled(&key, now);
        }
        count
    }

    /// Items inside of members that are none of these.
    #[must_use]
    pub fn inside_elsewhere(&self, members: &BTreeSet<&str>) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        for offer in self.offers.values().filter(|one| !members.contains(one.member.as_str())) {
            let count = u64::try_from(offer.inside().count()).unwrap_or(u64::MAX);
            if count > 0 {
                *found.entry(offer.member.clone()).or_default() += count;
            }
        }
        found
    }

    /// When the latest offer to this member was made, but for probes.
    #[must_use]
    pub fn latest_offer(&self, member: &str) -> Option<Moment> {
        self.latest.get(member).copied()
    }

    /// Arrivals at return gates that fit no item.
    #[must_use]
    pub const fn strays(&self) -> u64 {
        self.strays
    }
}

fn count(sums: &mut Sums, offer: &Offer) {
    for item in &offer.items {
        match &item.state {
            State::Inside(_) => sums.inside += 1,
            State::Settled(evidence) => {
                *sums.settled.entry(evidence.column).or_default() += 1;
                *sums.keys.entry(evidence.key).or_default() += 1;
            }
        }
    }
}

/// The better evidence stays: seen behind the server beats its own word; and what is proven by a sight of the message
/// beats what was proven by its absence.
fn settle(item: &mut Item, evidence: Evidence) {
    let better = match &item.state {
        State::Inside(_) => true,
        State::Settled(known) => {
            known.key == Key::Absence && evidence.key != Key::Absence
                || evidence.column == Column::Returned && known.column != Column::Returned
        }
    };
    if better {
        item.state = State::Settled(evidence);
    }
}

/// The one of them that has an item of this address which may come out; none when there are several. Only when there is
/// none at all, one that was proven absent may be meant: then the proof was wrong.
pub(super) fn only_with<'a>(
    offers: impl Iterator<Item = (&'a OfferKey, &'a Offer)>,
    to: &str,
) -> Option<OfferKey> {
    let mut may: Option<&OfferKey> = None;
    let mut absent: Option<&OfferKey> = None;
    let mut several = false;
    for (key, offer) in offers {
        let mut of_address =
            offer.items.iter().filter(|item| same_address(&item.to, to)).peekable();
        if of_address.peek().is_none() {
            continue;
        }
        let (slot, counts) = if of_address.clone().any(Item::may_come_out) {
            (&mut may, true)
        } else if of_address.any(Item::is_absent) {
            (&mut absent, false)
        } else {
            continue;
        };
        several |= counts && slot.is_some();
        *slot = Some(key);
    }
    if several { None } else { may.or(absent).cloned() }
}

/// The Message-ID of a line, if it has one.
fn message_id_of(line: &JournalLine) -> Option<&str> {
    line.message_id.as_deref().map(bare).filter(|id| !id.is_empty())
}

fn reply_key(member: &str, id: &str) -> String {
    format!("{member} {id}")
}

fn index(
    by_message: &mut HashMap<String, BTreeSet<OfferKey>>,
    by_reply: &mut HashMap<String, BTreeSet<OfferKey>>,
    key: &OfferKey,
    offer: &Offer,
) {
    let id = offer.message_id.as_deref().unwrap_or(NONE);
    by_message.entry(id.to_owned()).or_default().insert(key.clone());
    if let Some(id) = &offer.server_id {
        by_reply.entry(reply_key(&offer.member, id)).or_default().insert(key.clone());
    }
}

fn unindex(index: &mut HashMap<String, BTreeSet<OfferKey>>, name: Option<&str>, key: &OfferKey) {
    if let Some(name) = name
        && let Some(keys) = index.get_mut(name)
    {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(name);
        }
    }
}

/// The offer that a line tells of; none where nothing was handed to a member.
fn offer_of(line: &JournalLine, plan: &Plan) -> Option<(OfferKey, Offer)> {
    let doing = line.doing.clone()?;
    let gate = line.gate.clone()?;
    // Reports of ours may go to a host that is no member; return gates hand nothing to a member.
    let member = line.member.clone()?;
    // A gate or member that is not configured any more: what it had is not forgotten for its name.
    let returns = plan.gates.get(&gate).is_some_and(|known| known.returns.is_some());
    let report = doing == "dsn"
        && !plan.gates.get(&gate).is_some_and(|known| known.members.contains(&member));
    if !matches!(doing.as_str(), "pass" | "replay" | "dsn" | "probe") || returns || report {
        return None;
    }
    let at = Moment::parse(line.at.as_deref()?)?;
    let refused = |path: u32| {
        line.others.iter().any(|other| {
            other.path == path && matches!(other.outcome.as_str(), "refused" | "deferred")
        })
    };
    let item = |(place, to): (usize, &String)| {
        let path = u32::try_from(place).ok()?;
        let to = bare(to).to_owned();
        (!refused(path)).then_some(Item { path, to, state: State::Inside(None) })
    };
    let offer = Offer {
        member,
        gate,
        doing,
        began: line.began.as_deref().and_then(Moment::parse).unwrap_or(at),
        told_ident: line.told_ident,
        from: bare(line.from.as_deref().unwrap_or_default()).to_owned(),
        message_id: message_id_of(line).map(str::to_owned),
        server_id: None,
        size: None,
        end: End::Open,
        logged: false,
        queued: false,
        items: line.to.iter().enumerate().filter_map(item).collect(),
        settled_at: None,
    };
    Some((OfferKey { id: line.id.clone()?, at }, offer))
}

impl Remembered {
    fn has(&self, print: &[&str]) -> bool {
        self.prints.contains_key(&fingerprint(print))
    }

    /// Is one of several that may be equal there?
    fn has_any(&self, print: &[&str]) -> bool {
        (0..EQUAL_MAX).any(|place| self.has(&numbered(print, &place)))
    }

    fn add(&mut self, print: &[&str], at: Moment) {
        let known = self.prints.entry(fingerprint(print)).or_insert(at);
        *known = at.max(*known);
    }

    /// Adds one of several that may be equal.
    fn put(&mut self, print: &[&str], at: Moment) {
        let place = (0..EQUAL_MAX).find(|place| !self.has(&numbered(print, place)));
        if let Some(place) = place {
            self.add(&numbered(print, &place), at);
        }
    }

    /// Takes one of several that may be equal.
    fn take(&mut self, print: &[&str], allowed: impl Fn(Moment) -> bool) -> Option<Moment> {
        let fits = |place: &usize| {
            let at = self.prints.get(&fingerprint(&numbered(print, place)));
            at.is_some_and(|at| allowed(*at))
        };
        let place = (0..EQUAL_MAX).find(fits)?;
        self.prints.remove(&fingerprint(&numbered(print, &place)))
    }

    /// Forgets the older half when there are too many.
    fn bound(&mut self, offers_max: usize) {
        // An offer has four fingerprints, about.
        let most = offers_max.saturating_mul(4);
        if self.prints.len() <= most {
            return;
        }
        let mut moments: Vec<Moment> = self.prints.values().copied().collect();
        let middle = moments.len() / 2;
        let (_, median, _) = moments.select_nth_unstable(middle);
        let since = *median;
        self.prints.retain(|_, at| *at >= since);
        self.since = Some(since);
    }
}

/// A print with its number among equal ones.
fn numbered<'a>(print: &[&'a str], place: &usize) -> Vec<&'a str> {
    let number = NUMBERS.get(*place).copied().unwrap_or_default();
    print.iter().copied().chain([number]).collect()
}

/// Kept on disk, and made of what strangers write: equal in every version, and nobody can aim at another's.
pub(super) fn fingerprint(print: &[&str]) -> u64 {
    let mut digest = Context::new(&SHA256);
    for part in print {
        digest.update(&part.len().to_le_bytes());
        digest.update(part.as_bytes());
    }
    let value = digest.finish();
    value.as_ref().first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
}
