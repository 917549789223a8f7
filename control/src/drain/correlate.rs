//! Follows the messages in one log, and ties them to items.
//!
//! A log names messages by ids of its own. A chain is what one id is known to be: who brought it, which
//! Message-ID it has, what became of its recipients. A chain is bound to an offer by the surest key that
//! fits; what it says of recipients then settles items, or shows where they are stuck.
//!
//! Invariants
//! - Binding by a key that fits two offers does not happen; a chain that cannot be bound is never ignored:
//!   it is the server's own mail, or came past us, and both are counted.
//! - A hand-over inside the server (to a content filter, back to itself) settles nothing.
//! - What is told twice (a log handed in again) changes nothing.
//!
//! Not here: how lines look (`maillog`), whether a log is complete (`maillog::coverage`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::item::{Column, Evidence, Item, Key, Offer, OfferKey, Place, Sight, bare, same_address};
use super::ledger::{Arrival, Ledger, Limits, Plan, Recalled, fingerprint, only_with};
use super::skew::Skew;
use crate::maillog::{Disposition, Event, Recipient, Stamp, What};
use crate::moment::Moment;

/// How long a chain may stay unbound before it is judged, in milliseconds by our clock: the journal is read before
/// the log, but an end is written to it a little later.
const JUDGED_AFTER_MS: i64 = 10_000;

/// Recipients of an unbound chain that are kept.
const RECIPIENTS_MAX: usize = 2000;

/// Messages that came past us which are kept apart.
const BYPASSES_MAX: usize = 1000;

/// Names of mail that came past us which are kept.
const SAMPLES_MAX: usize = 20;

/// How far two pieces of a log may lie apart and still count as one, in milliseconds.
const JOIN_MS: i64 = 1000;

/// Stands in the name of a chain whose id was used again, before the moment of its first line.
const FORMER: char = '@';

/// Pieces of a log that are kept.
const PIECES_MAX: usize = 200;

/// Messages whose end was seen that are known again when a log is handed in twice.
const SEEN_MAX: usize = 200_000;

/// How long a message is followed in a log after its offer was settled and let go, in milliseconds by our clock.
const PAST_KEPT_MS: i64 = 3_600_000;

/// How long the handing over of a message may take, in milliseconds, where only its offer is remembered.
const PASSING_MS: i64 = 600_000;

/// How long the end of an unbound chain is kept, in milliseconds by our clock.
const ENDED_KEPT_MS: i64 = 60_000;

/// Of whom a log speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The log of a member itself.
    Server {
        /// The member.
        member: String,
    },
    /// The log of the host behind a member: what it gets from there has left.
    Next {
        /// The member.
        member: String,
        /// Addresses of the member, as that host sees them.
        from: Vec<IpAddr>,
    },
}

/// What is known of a log beforehand.
#[derive(Clone, Debug)]
pub struct LogPlan {
    /// Its name.
    pub name: String,
    /// Of whom it speaks.
    pub role: Role,
    /// Our addresses, as the server sees them; empty: not known, and any client may be us.
    pub clients: Vec<IpAddr>,
    /// Hosts to which a hand-over leaves the server although they are on it (a loopback address).
    pub leaves: Vec<IpAddr>,
    /// Names of mailbox transports (`local`, `lmtp`): a delivery through them is an end. Through any other program
    /// the message may come back.
    pub mailboxes: Vec<String>,
    /// Ids are those of connections, and start anew in each process.
    pub ids_of_connections: bool,
    /// It comes by UDP: lines can be lost and forged.
    pub udp: bool,
}

/// What a chain belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Bound {
    /// Not known yet.
    No,
    /// To an offer, by a key.
    Offer(OfferKey, Key),
    /// To an offer that was settled and let go.
    Past,
    /// A report, or other mail that the server made itself.
    Own,
    /// It came to the server past us.
    Bypass,
}

/// Is a chain what came in, or a part of it that was queued anew inside?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Arrival,
    Part,
}

/// Where one recipient of a chain stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    original: Option<String>,
    disposition: Fate,
    at: Moment,
    place: Place,
    text: String,
    message_id: Option<String>,
}

/// What became of a recipient, as far as items are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Fate {
    /// It is gone.
    Gone(Column),
    /// Handed to another part of the server.
    Inner,
    /// To be tried again.
    Deferred,
}

/// One message in a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Chain {
    bound: Bound,
    /// Stamps of its first line.
    first: Option<(Moment, Moment)>,
    /// When its first line was read, by our clock.
    seen: Moment,
    /// Where its first line stands.
    place: Place,
    client: Option<IpAddr>,
    /// The line with which it began was read.
    accepted: bool,
    /// It was seen in the queue, or beyond.
    queued: bool,
    /// A line showed that it came from outside.
    arrived: bool,
    ident: Option<String>,
    message_id: Option<String>,
    sender: Option<String>,
    count: Option<u32>,
    recipients: BTreeMap<String, Told>,
    /// It handed the message to another part of the server.
    inner: bool,
    /// So many parts of what it handed on inside were seen again.
    parts: u32,
    /// It is a part of a message that was queued anew inside.
    part: bool,
    /// It left the queue.
    removed: Option<Moment>,
    /// It took the place of another with this id whose end was not seen.
    shadows: bool,
}

impl Chain {
    /// Did it hand this message on inside, and was not all of that seen again?
    fn awaits(&self, message_id: &str) -> bool {
        let inner = |told: &&Told| told.disposition == Fate::Inner;
        self.inner
            && self.message_id.as_deref() == Some(message_id)
            && self.recipients.values().filter(inner).count() > self.parts as usize
    }

    /// Is it out of the server? What was handed on inside is not, before it was seen again.
    fn is_out(&self) -> bool {
        self.is_ended() && (!self.inner || self.parts > 0)
    }

    fn is_ended(&self) -> bool {
        let gone = |told: &Told| !matches!(told.disposition, Fate::Deferred);
        self.removed.is_some()
            || self.count.is_some_and(|count| {
                self.recipients.len() >= count as usize && self.recipients.values().all(gone)
            })
    }
}

/// A message in the server's log that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// Its id there.
    pub id: String,
    /// Where its first line stands.
    pub place: Place,
    /// Who brought it.
    pub client: Option<IpAddr>,
    /// Its Message-ID.
    pub message_id: Option<String>,
    /// Its sender.
    pub sender: Option<String>,
    /// Its first stamp.
    pub at: Option<Moment>,
    /// The last that is known of it.
    pub last: String,
}

/// What one log says of messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Chains {
    chains: HashMap<String, Chain>,
    /// Names of chains that handed a message on inside, by its Message-ID.
    #[serde(skip)]
    inner: HashMap<String, BTreeSet<String>>,
    /// Names of chains that are not bound.
    #[serde(skip)]
    loose: BTreeSet<String>,
    /// Ids that a hand-over inside named before their own lines came.
    expected: HashMap<String, OfferKey>,
    /// Offset of its clock.
    pub skew: Skew,
    /// Messages whose end was seen: the log may be handed in again.
    seen: Seen,
    /// The log has shown our ids.
    pub shows_idents: bool,
    /// The latest offer that it showed.
    pub shown_until: Option<Moment>,
    /// Pieces of it that were read without interruption, by number; the last is that of a file handed in, or the one
    /// that is followed.
    pieces: BTreeMap<u64, Piece>,
    /// The piece that is being read.
    piece: u64,
    /// When mail came past us, as the log says, or as it was read: one for each message.
    bypasses: VecDeque<(String, Moment)>,
    /// The first of it by name.
    pub bypass_samples: Vec<Foreign>,
    /// Mail that the server made itself.
    pub own: u64,
    /// Messages of a time that is not remembered any more: ours, or mail that came past us.
    pub forgotten: u64,
    /// Chains whose first line was not an arrival: they began before the log.
    pub fragments: u64,
}

/// A part of a log that was read without interruption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    /// It was followed from this moment on, by our clock: what was written later is in it.
    from: Option<Moment>,
    /// The earliest and the latest offer that it showed.
    shown: Option<(Moment, Moment)>,
    /// Its earliest and its latest stamp, by the log's clock.
    span: Option<(Moment, Moment)>,
}

/// What is at hand when a line is taken.
pub(super) struct Desk<'a> {
    pub(super) ledger: &'a mut Ledger,
    pub(super) plan: &'a Plan,
    pub(super) log: &'a LogPlan,
    pub(super) limits: &'a Limits,
    /// By our clock.
    pub(super) now: Moment,
}

/// The latest of many fingerprints.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Seen {
    order: VecDeque<u64>,
    set: HashSet<u64>,
}

impl Seen {
    fn has(&self, print: u64) -> bool {
        self.set.contains(&print)
    }

    fn extend(&mut self, prints: Vec<u64>, most: usize) {
        for print in prints {
            if self.set.insert(print) {
                self.order.push_back(print);
            }
        }
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.set.remove(&oldest);
            }
        }
    }
}

impl Chains {
    /// Takes what a line says.
    pub(super) fn event(&mut self, event: &Event<'_>, place: &Place, desk: &mut Desk<'_>) {
        let stamp = event.at.map(bounds);
        let name = |id: &str| match (desk.log.ids_of_connections, event.pid) {
            (true, Some(pid)) => format!("{pid}/{id}"),
            _ => id.to_owned(),
        };
        match &event.what {
            What::Accepted { id, client, ident } => {
                let name = name(id.0);
                let chain = self.begin(&name, stamp, place, desk.now);
                chain.accepted = true;
                chain.arrived |= client.is_some();
                chain.client = chain.client.or(*client);
                if let Some(ident) = ident {
                    chain.ident = Some((*ident).to_owned());
                }
                self.bind(&name, None, desk);
            }
            What::Queued { id, sender, recipients, message_id, client, .. } => {
                let name = name(id.0);
                let message_id = message_id.map(bare).filter(|id| !id.is_empty());
                let other = self.chains.get(&name).is_some_and(|chain| {
                    let named = chain.message_id.as_deref();
                    named.is_some() && message_id.is_some() && named != message_id
                });
                if other {
                    self.replace(&name, stamp, place, desk.now);
                }
                let chain = self.get(&name, stamp, place, desk.now);
                chain.sender = Some((*sender).to_owned());
                chain.client = chain.client.or(*client);
                chain.arrived |= client.is_some() || desk.log.ids_of_connections;
                chain.count = recipients.or(chain.count);
                chain.queued = true;
                if let Some(id) = message_id {
                    chain.message_id = Some(id.to_owned());
                }
                self.bind(&name, None, desk);
                self.note_queued(&name, desk);
            }
            // A message without the field: nothing to know it by.
            What::MessageId { message_id, .. } if bare(message_id).is_empty() => {}
            What::MessageId { id, message_id } => {
                let name = name(id.0);
                let chain = self.get(&name, stamp, place, desk.now);
                chain.message_id = Some(bare(message_id).to_owned());
                self.bind(&name, None, desk);
            }
            What::Recipient(recipient) => {
                let name = name(recipient.id.0);
                self.recipient(&name, recipient, stamp, place, desk);
            }
            What::Rest { id, disposition, text } => {
                self.rest(&name(id.0), *disposition, text, stamp, place, desk);
            }
            What::Processed { id, recipient, text } => {
                let name = name(id.0);
                let at = stamp.map_or(desk.now, |(at, _)| at);
                self.bind(&name, Some(recipient), desk);
                if let Some(Chain { bound: Bound::Offer(key, _), .. }) = self.chains.get(&name) {
                    let sight = Sight { place: place.clone(), at, text: (*text).to_owned() };
                    desk.ledger.sight(key, bare(recipient), &sight);
                }
            }
            What::Refused { id, text } => self.refused(&name(id.0), text, stamp, place, desk),
            What::Reported { report, .. } => {
                let name = name(report.0);
                self.get(&name, stamp, place, desk.now).bound = Bound::Own;
                self.own += 1;
            }
            What::Removed { id } => self.removed(&name(id.0), desk),
            What::RuleMatched { .. } | What::Connected { .. } => {}
        }
    }

    /// Makes what is not kept on disk from what is.
    pub fn index(&mut self) {
        self.inner.clear();
        self.loose.clear();
        for (name, chain) in &self.chains {
            if matches!(chain.bound, Bound::No | Bound::Bypass) {
                self.loose.insert(name.clone());
            }
            if let Some(id) = chain.message_id.as_ref().filter(|_| chain.inner) {
                self.inner.entry(id.clone()).or_default().insert(name.clone());
            }
        }
    }

    /// The chain of an arrival: a new one where the id was used before by another message.
    fn begin(
        &mut self,
        name: &str,
        stamp: Option<(Moment, Moment)>,
        place: &Place,
        now: Moment,
    ) -> &mut Chain {
        // The line of an arrival is written once; handed in again it has the same stamp.
        let other = self.chains.get(name).is_some_and(|chain| match (chain.first, stamp) {
            (Some(first), Some(stamp)) if chain.accepted => stamp != first,
            // What has come so far is the end of another.
            _ => !chain.accepted && (chain.removed.is_some() || !chain.recipients.is_empty()),
        });
        if other {
            self.replace(name, stamp, place, now);
        }
        self.get(name, stamp, place, now)
    }

    /// The id is that of another message now.
    fn replace(&mut self, name: &str, stamp: Option<(Moment, Moment)>, place: &Place, now: Moment) {
        let Some(old) = self.chains.remove(name) else { return };
        self.get(name, stamp, place, now).shadows = !old.is_ended();
        // What is not judged yet, is inside without being on the ledger, or waits for its parts, is not forgotten for its
        // id.
        if matches!(old.bound, Bound::Offer(..) | Bound::Past) && !old.inner {
            self.seen.extend(identity(name, &old).into_iter().collect(), SEEN_MAX);
        } else {
            let first = old.first.map_or(old.seen, |(first, _)| first);
            let former = format!("{name}{FORMER}{}", first.0);
            if matches!(old.bound, Bound::No | Bound::Bypass) {
                self.loose.insert(former.clone());
            }
            if let Some(id) = old.message_id.clone().filter(|_| old.inner) {
                self.inner.entry(id).or_default().insert(former.clone());
            }
            self.chains.insert(former, old);
        }
    }

    fn get(
        &mut self,
        name: &str,
        stamp: Option<(Moment, Moment)>,
        place: &Place,
        now: Moment,
    ) -> &mut Chain {
        if !self.chains.contains_key(name) {
            self.loose.insert(name.to_owned());
        }
        self.chains.entry(name.to_owned()).or_insert_with(|| Chain {
            bound: Bound::No,
            first: stamp,
            seen: now,
            place: place.clone(),
            client: None,
            accepted: false,
            queued: false,
            arrived: false,
            ident: None,
            message_id: None,
            sender: None,
            count: None,
            recipients: BTreeMap::new(),
            inner: false,
            parts: 0,
            part: false,
            removed: None,
            shadows: false,
        })
    }

    /// Binds a chain that is not bound yet, by what is known of it, and of one recipient.
    fn bind(&mut self, name: &str, recipient: Option<&str>, desk: &mut Desk<'_>) {
        let Some(chain) = self.chains.get(name) else { return };
        if !matches!(chain.bound, Bound::No | Bound::Bypass) {
            return;
        }
        if let Some(print) = identity(name, chain)
            && self.seen.has(print)
        {
            if let Some(chain) = self.chains.get_mut(name) {
                chain.bound = Bound::Past;
            }
            return;
        }
        let Role::Server { member } = &desk.log.role else { return };
        let found = self.find(name, chain, member, recipient.map(bare), desk);
        // What an offer that is not let go yet can explain goes first; then what was let go before the log came.
        let mut more = false;
        let found = found.or_else(|| {
            let whole = chain.accepted || chain.arrived;
            let named =
                chain.message_id.is_some() || recipient.is_some() || chain.removed.is_some();
            if !whole || !named || chain.ident.is_some() || !self.is_us(chain, desk) {
                return None;
            }
            let allowed = |at: Moment| {
                chain.first.is_none_or(|first| {
                    let window = (at.plus(-PASSING_MS), at.plus(PASSING_MS));
                    self.skew.allows(first, window, desk.limits.skew_max_ms)
                })
            };
            let message_id = chain.message_id.as_deref();
            let recalled = desk.ledger.recall(member, queue_id(name), message_id, allowed)?;
            more = recalled == Recalled::TakenBefore;
            Some((Bound::Past, Whose::Arrival))
        });
        let Some((bound, whose)) = found else { return };
        if more {
            // By its Message-ID alone another message was taken for this one, and came past us.
            self.bypassed(name, desk.now);
        }
        self.bound(name, bound, whose, desk);
    }

    fn bound(&mut self, name: &str, bound: Bound, whose: Whose, desk: &mut Desk<'_>) {
        let Some(chain) = self.chains.get_mut(name) else { return };
        if !matches!(bound, Bound::No | Bound::Bypass) {
            self.loose.remove(name);
        }
        chain.part |= whose == Whose::Part;
        let (part, message_id) = (chain.part, chain.message_id.clone());
        let judged = chain.bound == Bound::Bypass;
        let (first, place) = (chain.first, chain.place.clone());
        chain.bound = bound.clone();
        let arrival = chain.first.filter(|_| chain.arrived && whose == Whose::Arrival);
        let told = chain.recipients.clone();
        if judged && bound != Bound::Bypass {
            self.unjudge(name, first, &place);
        }
        if part && let Some(message_id) = message_id {
            let parents = self.inner.get(&message_id).into_iter().flatten();
            let parent = parents.filter(|other| other.as_str() != name).find(|other| {
                self.chains
                    .get(other.as_str())
                    .is_some_and(|parent| parent.bound == bound && parent.awaits(&message_id))
            });
            if let Some(parent) = parent.and_then(|other| self.chains.get_mut(other)) {
                parent.parts += 1;
            }
        }
        let Bound::Offer(key, by) = bound else { return };
        if let Some(offer) = desk.ledger.offer(&key) {
            if by != Key::Envelope
                && let Some((earliest, latest)) = arrival
                && earliest == latest
            {
                self.skew.pair(earliest, offer.began, offer.until(desk.now));
            }
            self.shows(key.at);
        }
        self.shows_idents |= by == Key::Ident;
        desk.ledger.logged(&key);
        self.note_queued(name, desk);
        for (to, told) in &told {
            apply(&key, by, to, told, desk);
        }
    }

    /// Says to the ledger that the offer of a chain is, or was, in the queue.
    fn note_queued(&self, name: &str, desk: &mut Desk<'_>) {
        if let Some(chain) = self.chains.get(name)
            && chain.queued
            && let Bound::Offer(key, _) = &chain.bound
        {
            desk.ledger.queued(key);
        }
    }

    /// What follows was read without interruption; `from`: from this moment on, by our clock, as it was written.
    /// Returns its number, for [`Chains::go_on`].
    pub fn begin_piece(&mut self, from: Option<Moment>) -> u64 {
        self.piece = self.pieces.last_key_value().map_or(0, |(number, _)| number + 1);
        self.pieces.insert(self.piece, Piece { from, ..Piece::default() });
        if self.pieces.len() > PIECES_MAX {
            self.pieces.pop_first();
        }
        self.piece
    }

    /// What follows belongs to this piece again.
    pub fn go_on(&mut self, piece: u64) {
        self.piece = piece;
    }

    fn shows(&mut self, offered: Moment) {
        self.shown_until = self.shown_until.max(Some(offered));
        let piece = self.pieces.entry(self.piece).or_default();
        let (from, to) = piece.shown.unwrap_or((offered, offered));
        piece.shown = Some((from.min(offered), to.max(offered)));
    }

    /// A line with this stamp was read.
    pub fn stamped(&mut self, (earliest, latest): (Moment, Moment)) {
        let piece = self.pieces.entry(self.piece).or_default();
        let (from, to) = piece.span.unwrap_or((latest, earliest));
        // What is unsure widens nothing.
        piece.span = Some((from.min(latest), to.max(earliest)));
    }

    /// The first time between `from` and `until`, by our clock, that no piece covers. Pieces that nearly touch are
    /// taken for one: files of a log that was rotated begin with the line behind the last.
    #[must_use]
    pub fn uncovered(
        &self,
        from: Moment,
        until: Moment,
        limits: &Limits,
    ) -> Option<(Moment, Moment)> {
        let most = limits.skew_max_ms;
        let (low, high) = self.skew.bounds().unwrap_or((-most, most));
        let ours = |piece: &Piece| {
            let span = piece.span.map(|(first, last)| (first.plus(-low), last.plus(-high)));
            let shown = piece.shown;
            let begins = [piece.from, span.map(|span| span.0), shown.map(|shown| shown.0)];
            let ends = [span.map(|span| span.1), shown.map(|shown| shown.1)];
            let begin = begins.into_iter().flatten().min()?;
            Some((begin, ends.into_iter().flatten().max()?))
        };
        let mut pieces: Vec<(Moment, Moment)> = self.pieces.values().filter_map(ours).collect();
        pieces.sort_unstable();
        let mut covered = from;
        for (begin, end) in pieces {
            if begin > covered.plus(JOIN_MS) {
                return (covered < until).then_some((covered, begin));
            }
            covered = covered.max(end);
        }
        (covered < until).then_some((covered, until))
    }

    /// Was the log read without interruption from before `from` until well after `to`? What was offered there is in it,
    /// if it was taken, unless a hole is known.
    #[must_use]
    pub fn covers(&self, from: Moment, to: Moment, guard_ms: i64) -> bool {
        self.pieces.values().any(|piece| {
            let begins = piece.from.is_some_and(|begun| begun <= from)
                || piece.shown.is_some_and(|(first, _)| from.since(first) >= guard_ms);
            begins && piece.shown.is_some_and(|(_, last)| last.since(to) >= guard_ms)
        })
    }

    /// It was judged to have come past us, and a later line showed that it did not.
    fn unjudge(&mut self, name: &str, first: Option<(Moment, Moment)>, place: &Place) {
        // Its id may have been that of another, which did come past us.
        let id = queue_id(name);
        self.bypasses.retain(|(other, at)| {
            queue_id(other) != id || first.is_some_and(|(first, _)| first != *at)
        });
        self.bypass_samples
            .retain(|foreign| queue_id(&foreign.id) != id || foreign.place != *place);
    }

    /// What a chain belongs to, by the surest key that fits.
    fn find(
        &self,
        name: &str,
        chain: &Chain,
        member: &str,
        recipient: Option<&str>,
        desk: &Desk<'_>,
    ) -> Option<(Bound, Whose)> {
        let ledger = &*desk.ledger;
        let id = queue_id(name);
        if let Some(key) = self.expected.get(name) {
            return Some((Bound::Offer(key.clone(), Key::Reply), Whose::Part));
        }
        let ours = chain
            .client
            .is_none_or(|client| desk.log.clients.is_empty() || desk.log.clients.contains(&client));
        let in_time = |offer: &Offer| {
            chain.first.is_none_or(|first| {
                let window = (offer.began, offer.until(desk.now));
                self.skew.allows(first, window, desk.limits.skew_max_ms)
            })
        };
        let of_member = |(_, offer): &(&OfferKey, &Offer)| offer.member == member && in_time(offer);
        if let Some(ident) = &chain.ident {
            // Our id is unique: where only one attempt has it, no clock is asked.
            let of_id = || ledger.of_id(ident).filter(|(_, offer)| offer.member == *member);
            let one = self.one_free(of_id()).or_else(|| self.one_free(of_id().filter(of_member)));
            if let Some(key) = one {
                return Some((Bound::Offer(key, Key::Ident), Whose::Arrival));
            }
            // Queued anew inside: the ident is the id of the chain before.
            if let Some(parent) = self.chains.get(ident.as_str())
                && ident != name
                && !matches!(parent.bound, Bound::No)
            {
                return Some((parent.bound.clone(), Whose::Part));
            }
            if ledger.remembers_id(ident) {
                return Some((Bound::Past, Whose::Arrival));
            }
        }
        // Queue ids are used again: who has another Message-ID is another, and until it is known nobody is.
        let known = chain.message_id.is_some() || recipient.is_some() || chain.removed.is_some();
        let alike = |(_, offer): &(&OfferKey, &Offer)| {
            known && offer.message_id == chain.message_id && self.in_order(chain, offer)
        };
        let unsure = self.skew.bounds().is_none()
            && ledger.remembers_reply(member, id, chain.message_id.as_deref());
        let of_reply = ledger.of_reply(member, id).filter(of_member).filter(alike);
        let by_reply = if unsure { None } else { self.one_free(of_reply) };
        // Back from a part of the server that was handed the message.
        let local = chain.client.is_none_or(|client| client.is_loopback());
        let message_id = chain.message_id.as_deref().filter(|_| local);
        let back = message_id.and_then(|id| self.handed_on(name, id));
        match (by_reply, back) {
            (Some(key), None) => return Some((Bound::Offer(key, Key::Reply), Whose::Arrival)),
            (None, Some(bound)) => return bound.map(|bound| (bound, Whose::Part)),
            // Both are possible: neither is known.
            (Some(_), Some(_)) => return None,
            (None, None) => {}
        }
        if let Some(message_id) = &chain.message_id {
            // A log that names our ids would have named it.
            let by_ident = |offer: &Offer| offer.told_ident && self.shows_idents;
            let known = ledger.of_message(message_id).filter(of_member);
            let known = known.filter(|(_, offer)| {
                !by_ident(offer) && !offer.logged && offer.items.iter().any(Item::may_come_out)
            });
            // Of several messages with one Message-ID the recipient tells which; one that was let go may be meant too.
            if ours && let Some(to) = recipient {
                let one = only_with(known, to);
                if let Some(key) = one.filter(|_| !ledger.remembers_message(member, message_id)) {
                    return Some((Bound::Offer(key, Key::MessageId), Whose::Arrival));
                }
            }
        }
        if let (Some(to), Some(from)) = (recipient, &chain.sender)
            && ours
            && (chain.accepted || chain.arrived)
            && !self.shows_idents
            && !ledger.remembers_envelope(from, to)
        {
            let alike = ledger.of_envelope(from, to).filter(of_member);
            let alike = alike.filter(|(_, offer)| !offer.logged);
            if let Some(key) = only_with(alike, to) {
                return Some((Bound::Offer(key, Key::Envelope), Whose::Arrival));
            }
        }
        None
    }

    /// A chain whose beginning was not seen may be that of an earlier message with the same id: then only the clocks tell.
    fn in_order(&self, chain: &Chain, offer: &Offer) -> bool {
        chain.accepted
            || chain.arrived
            || match (chain.first, self.skew.bounds()) {
                (Some((earliest, _)), Some((low, _))) => earliest >= offer.began.plus(low),
                _ => false,
            }
    }

    /// What a message belongs to that came back from a part of the server: what one chain with its Message-ID handed on
    /// there. `Some(None)`: several did, or it is not known whose it is; `None`: nobody did.
    fn handed_on(&self, name: &str, message_id: &str) -> Option<Option<Bound>> {
        let mut bound: Option<&Bound> = None;
        for other in self.inner.get(message_id)? {
            let Some(parent) = self.chains.get(other) else { continue };
            if other != name && parent.awaits(message_id) {
                if bound.is_some_and(|bound| *bound != parent.bound) {
                    return Some(None);
                }
                bound = Some(&parent.bound);
            }
        }
        let bound = bound?;
        Some((*bound != Bound::No).then(|| bound.clone()))
    }

    /// May the client be us?
    #[allow(clippy::unused_self, reason = "reads as a question about the chain")]
    fn is_us(&self, chain: &Chain, desk: &Desk<'_>) -> bool {
        chain
            .client
            .is_none_or(|client| desk.log.clients.is_empty() || desk.log.clients.contains(&client))
    }

    /// The one offer of these that no chain is bound to yet.
    fn one_free<'a>(
        &self,
        offers: impl Iterator<Item = (&'a OfferKey, &'a Offer)>,
    ) -> Option<OfferKey> {
        let mut free = offers.filter(|(_, offer)| !offer.logged);
        let (one, _) = free.next()?;
        free.next().is_none().then(|| one.clone())
    }

    fn recipient(
        &mut self,
        name: &str,
        recipient: &Recipient<'_>,
        stamp: Option<(Moment, Moment)>,
        place: &Place,
        desk: &mut Desk<'_>,
    ) {
        let at = stamp.map_or(desk.now, |(at, _)| at);
        let to = bare(recipient.recipient).to_owned();
        if let Role::Next { from, .. } = desk.log.role.clone() {
            self.out(name, &to, recipient, (stamp, at), place, &from, desk);
            return;
        }
        let inner = self.is_inner(name, recipient, desk);
        let disposition = match recipient.disposition {
            Disposition::Relayed | Disposition::Delivered if inner => Fate::Inner,
            Disposition::Relayed | Disposition::Delivered => Fate::Gone(Column::Delivered),
            Disposition::Deferred => Fate::Deferred,
            Disposition::Bounced => Fate::Gone(Column::Bounced),
            Disposition::Expired => Fate::Gone(Column::Expired),
            Disposition::Deleted => Fate::Gone(Column::Deleted),
            Disposition::Stored => Fate::Gone(Column::Stored),
        };
        let told = Told {
            original: recipient.original.map(|original| bare(original).to_owned()),
            disposition,
            at,
            place: place.clone(),
            text: recipient.text.to_owned(),
            message_id: recipient
                .message_id
                .map(bare)
                .filter(|id| !id.is_empty())
                .map(str::to_owned),
        };
        let chain = self.get(name, stamp, place, desk.now);
        if let Some(id) = &told.message_id {
            chain.message_id.get_or_insert_with(|| id.clone());
        }
        chain.inner |= disposition == Fate::Inner;
        chain.queued = true;
        let handed_on = chain.message_id.clone().filter(|_| chain.inner);
        let ambiguous = chain.shadows && told.message_id.is_none();
        if chain.recipients.len() < RECIPIENTS_MAX || chain.recipients.contains_key(&to) {
            chain.recipients.insert(to.clone(), told.clone());
        }
        if let Some(id) = handed_on {
            self.inner.entry(id).or_default().insert(name.to_owned());
        }
        self.bind(name, Some(&to), desk);
        self.note_queued(name, desk);
        let Some(chain) = self.chains.get(name) else { return };
        if let Bound::Offer(key, by) = chain.bound.clone() {
            if !ambiguous {
                apply(&key, by, &to, &told, desk);
            }
            if disposition == Fate::Inner {
                self.expect(recipient, &key, desk);
            }
        }
    }

    /// A hand-over inside named the id of the message's next part: what that says is said of the same offer.
    fn expect(&mut self, recipient: &Recipient<'_>, key: &OfferKey, desk: &mut Desk<'_>) {
        if let Some(next) = recipient.next_id {
            self.expected.insert(next.0.to_owned(), key.clone());
            self.bind(next.0, None, desk);
        }
        // A part that came back before this line was written.
        let message_id = desk.ledger.offer(key).and_then(|offer| offer.message_id.clone());
        let Some(message_id) = message_id else { return };
        let waits = |name: &&String| {
            let chain = self.chains.get(name.as_str());
            chain.is_some_and(|chain| chain.message_id.as_ref() == Some(&message_id))
        };
        let waiting: Vec<String> = self.loose.iter().filter(waits).cloned().collect();
        for name in waiting {
            self.bind(&name, None, desk);
        }
    }

    /// Does the message stay in the server?
    fn is_inner(&self, name: &str, recipient: &Recipient<'_>, desk: &Desk<'_>) -> bool {
        if let Some(next) = recipient.next_id
            && next.0 != name
            && self.chains.contains_key(next.0)
        {
            return true;
        }
        match recipient.relay {
            Some(relay) => relay.is_loopback() && !desk.log.leaves.contains(&relay),
            None => {
                let through = recipient.relay_name.unwrap_or_default();
                recipient.disposition == Disposition::Delivered
                    && !through.is_empty()
                    && !desk.log.mailboxes.iter().any(|mailbox| mailbox == through)
            }
        }
    }

    /// A line of the host behind the server: what it has from there is out.
    #[allow(clippy::too_many_arguments, reason = "the parts of one line")]
    fn out(
        &mut self,
        name: &str,
        to: &str,
        recipient: &Recipient<'_>,
        (stamp, at): (Option<(Moment, Moment)>, Moment),
        place: &Place,
        from: &[IpAddr],
        desk: &mut Desk<'_>,
    ) {
        let chain = self.get(name, stamp, place, desk.now);
        if !chain.client.is_some_and(|client| from.contains(&client)) {
            return;
        }
        let message_id = chain.message_id.clone();
        let sender = chain.sender.clone().unwrap_or_default();
        let (earliest, latest) = chain.first.unwrap_or((at, at));
        let most = desk.limits.skew_max_ms;
        let original = recipient.original.map_or(to, bare);
        for to in [original, to] {
            let arrival = Arrival {
                gate: None,
                passed_as: None,
                message_id: message_id.as_deref(),
                from: &sender,
                to,
                at: (earliest.plus(-most), latest.plus(most)),
            };
            let (place, now) = (place.clone(), desk.now);
            let text = format!("{name}: arrived at the next host");
            let (plan, limits) = (desk.plan, desk.limits);
            let found = desk.ledger.arrived(&arrival, true, place, &text, plan, limits, now);
            if let Some(key) = found {
                self.shows(key.at);
                return;
            }
        }
    }

    fn rest(
        &mut self,
        name: &str,
        disposition: Disposition,
        text: &str,
        stamp: Option<(Moment, Moment)>,
        place: &Place,
        desk: &mut Desk<'_>,
    ) {
        let at = stamp.map_or(desk.now, |(at, _)| at);
        let column = match disposition {
            Disposition::Expired => Column::Expired,
            Disposition::Deleted => Column::Deleted,
            Disposition::Bounced => Column::Bounced,
            Disposition::Stored => Column::Stored,
            // None of these is said of a rest.
            Disposition::Deferred | Disposition::Relayed | Disposition::Delivered => return,
        };
        self.bind(name, None, desk);
        let Some(chain) = self.chains.get_mut(name) else { return };
        chain.removed.get_or_insert(desk.now);
        let Bound::Offer(key, by) = chain.bound.clone() else { return };
        // Part of a message that was split: which of its forward-paths were in this part is not known.
        if chain.part || chain.inner {
            return;
        }
        let Some(offer) = desk.ledger.offer(&key) else { return };
        let rest: Vec<String> = offer.inside().map(|item| item.to.clone()).collect();
        for to in rest {
            let (place, text) = (place.clone(), text.to_owned());
            let evidence = Evidence { column, key: by, place, at, text };
            desk.ledger.settle(&key, &to, &evidence, desk.now);
        }
    }

    /// The server threw it away while it came in: it never had it.
    fn refused(
        &mut self,
        name: &str,
        text: &str,
        stamp: Option<(Moment, Moment)>,
        place: &Place,
        desk: &mut Desk<'_>,
    ) {
        self.bind(name, None, desk);
        let at = stamp.map_or(desk.now, |(at, _)| at);
        let Some(chain) = self.chains.remove(name) else { return };
        if chain.bound == Bound::Bypass {
            self.unjudge(name, chain.first, &chain.place);
        }
        self.loose.remove(name);
        let Bound::Offer(key, by) = chain.bound else { return };
        let Some(offer) = desk.ledger.offer(&key) else { return };
        let rest: Vec<String> = offer.inside().map(|item| item.to.clone()).collect();
        for to in rest {
            let (place, text) = (place.clone(), text.to_owned());
            let evidence = Evidence { column: Column::Refused, key: by, place, at, text };
            desk.ledger.settle(&key, &to, &evidence, desk.now);
        }
    }

    fn removed(&mut self, name: &str, desk: &mut Desk<'_>) {
        self.bind(name, None, desk);
        let Some(chain) = self.chains.get_mut(name) else { return };
        chain.removed.get_or_insert(desk.now);
        chain.queued = true;
        self.note_queued(name, desk);
        self.expected.remove(name);
    }

    /// Judges chains that stay unbound, and lets go of what is over.
    pub(super) fn tick(&mut self, desk: &mut Desk<'_>) {
        let now = desk.now;
        if let Role::Next { .. } = desk.log.role {
            self.chains.retain(|_, chain| match chain.removed {
                Some(removed) => now.since(removed) < ENDED_KEPT_MS,
                None => now.since(chain.seen) < desk.limits.skew_max_ms.max(ENDED_KEPT_MS) * 12,
            });
            return;
        }
        for name in self.loose.clone() {
            self.bind(&name, None, desk);
            self.judge(&name, desk);
        }
        let ledger = &*desk.ledger;
        let over = |chain: &Chain| match &chain.bound {
            Bound::No => false,
            Bound::Past => chain.is_ended() || now.since(chain.seen) >= PAST_KEPT_MS,
            Bound::Offer(key, _) => {
                let over = chain.is_ended() || now.since(chain.seen) >= PAST_KEPT_MS;
                over && ledger.offer(key).is_none()
            }
            Bound::Own | Bound::Bypass => {
                chain.is_out() && now.since(chain.removed.unwrap_or(chain.seen)) >= ENDED_KEPT_MS
            }
        };
        let mut seen = Vec::new();
        self.chains.retain(|name, chain| {
            let over = over(chain);
            if over {
                seen.extend(identity(name, chain));
            }
            !over
        });
        self.seen.extend(seen, SEEN_MAX);
        self.expected.retain(|_, key| ledger.offer(key).is_some());
        self.index();
    }

    /// Says what an unbound chain is, once its offer would have been known.
    fn judge(&mut self, name: &str, desk: &Desk<'_>) {
        let Some(chain) = self.chains.get(name) else { return };
        // Several messages of this Message-ID are with a part of the server: it is one of them.
        let inner = chain.message_id.as_deref().is_some_and(|id| {
            let local = chain.client.is_none_or(|client| client.is_loopback());
            local && self.handed_on(name, id).is_some()
        });
        let Some(chain) = self.chains.get_mut(name) else { return };
        if chain.bound != Bound::No || desk.now.since(chain.seen) < JUDGED_AFTER_MS {
            return;
        }
        let forgotten = match (chain.first, desk.ledger.remembers_since()) {
            (Some((_, latest)), Some(since)) => latest < since.plus(desk.limits.skew_max_ms),
            _ => false,
        };
        if !chain.accepted && !chain.arrived && chain.sender.is_none() {
            // Its arrival was not seen: it began before the log, or before what we read of it.
            self.fragments += 1;
            chain.bound = if chain.is_ended() { Bound::Past } else { Bound::Own };
        } else if inner || !chain.arrived && chain.client.is_none() {
            self.own += 1;
            chain.bound = Bound::Own;
        } else if forgotten && chain.is_ended() {
            self.forgotten += 1;
            chain.bound = Bound::Past;
        } else {
            chain.bound = Bound::Bypass;
            self.bypassed(name, desk.now);
        }
    }

    /// This chain shows that something came past us.
    fn bypassed(&mut self, name: &str, now: Moment) {
        let Some(chain) = self.chains.get(name) else { return };
        let known = (name.to_owned(), chain.first.map_or(now, |(at, _)| at));
        // The log may have been handed in again.
        if self.bypasses.contains(&known) {
            return;
        }
        if self.bypasses.len() >= BYPASSES_MAX {
            self.bypasses.pop_front();
        }
        self.bypasses.push_back(known);
        if self.bypass_samples.len() < SAMPLES_MAX {
            self.bypass_samples.push(foreign(name, chain));
        }
    }

    /// How many messages came past us since `from` (at most as many as are kept).
    #[must_use]
    pub fn bypasses_since(&self, from: Moment, limits: &Limits) -> u64 {
        // The latest moment of our clock that the stamp may mean.
        let low = self.skew.bounds().map_or(-limits.skew_max_ms, |(low, _)| low - 1000);
        let count = self.bypasses.iter().filter(|(_, at)| at.plus(-low) >= from).count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Messages in the queue of the server that are not ours: its own, and those that came past us.
    pub fn strangers(&self) -> impl Iterator<Item = Foreign> + '_ {
        let inside =
            |chain: &&Chain| matches!(chain.bound, Bound::Own | Bound::Bypass) && !chain.is_out();
        let name = |(name, chain): (&String, &Chain)| foreign(name, chain);
        self.chains.iter().filter(move |(_, chain)| inside(chain)).map(name)
    }

    /// Chains that are not judged yet.
    #[must_use]
    pub fn unjudged(&self) -> usize {
        self.chains.values().filter(|chain| chain.bound == Bound::No).count()
    }

    /// Is there an unbound arrival that may be something handed over in this time?
    pub(super) fn may_hide(
        &self,
        key: &OfferKey,
        offer: &Offer,
        window: (Moment, Moment),
        limits: &Limits,
    ) -> bool {
        let hides = |chain: &Chain| {
            // The clock of the log may have been set: names, and when the line came, count too.
            let named = chain.ident.as_ref() == Some(&key.id)
                || offer.message_id.is_some() && chain.message_id == offer.message_id;
            let then = |first| self.skew.allows(first, window, limits.skew_max_ms);
            let came = chain.seen >= window.0 && chain.seen <= window.1;
            named || came || chain.first.is_none_or(then)
        };
        self.loose.iter().filter_map(|name| self.chains.get(name)).any(hides)
    }
}

/// The queue id in the name of a chain.
fn queue_id(name: &str) -> &str {
    let name = name.split(FORMER).next().unwrap_or(name);
    name.rsplit('/').next().unwrap_or(name)
}

/// What tells a message in a log from every other: its id, and when it began.
fn identity(name: &str, chain: &Chain) -> Option<u64> {
    let (first, _) = chain.first.filter(|_| chain.accepted || chain.arrived)?;
    let name = name.split(FORMER).next().unwrap_or(name);
    // A connection may bring several messages in one second; their first line names the Message-ID.
    let message_id = chain.message_id.as_deref().filter(|_| name.contains('/'));
    Some(fingerprint(&[name, &first.0.to_string(), message_id.unwrap_or_default()]))
}

fn foreign(name: &str, chain: &Chain) -> Foreign {
    let last = chain.recipients.iter().max_by_key(|(_, told)| told.at);
    Foreign {
        id: name.to_owned(),
        place: chain.place.clone(),
        client: chain.client,
        message_id: chain.message_id.clone(),
        sender: chain.sender.clone(),
        at: chain.first.map(|(at, _)| at),
        last: last.map(|(to, told)| format!("{to}: {}", told.text)).unwrap_or_default(),
    }
}

/// Says to the ledger what a chain says of a recipient.
fn apply(key: &OfferKey, by: Key, to: &str, told: &Told, desk: &mut Desk<'_>) {
    let Some(offer) = desk.ledger.offer(key) else { return };
    let known = |address: &str| offer.items.iter().any(|item| same_address(&item.to, address));
    // The address as it was before rewriting goes first: that is the one we gave.
    let original = told.original.as_deref().filter(|original| known(original));
    let to = original.unwrap_or(to).to_owned();
    let (place, at, text) = (told.place.clone(), told.at, told.text.clone());
    match told.disposition {
        Fate::Gone(column) => {
            let evidence = Evidence { column, key: by, place, at, text };
            desk.ledger.settle(key, &to, &evidence, desk.now);
        }
        Fate::Inner | Fate::Deferred => {
            desk.ledger.sight(key, &to, &Sight { place, at, text });
        }
    }
}

fn moment(nanos: i128) -> Moment {
    Moment::of_nanos(nanos)
}

/// The stamp of a line as two moments.
#[must_use]
pub fn bounds(stamp: Stamp) -> (Moment, Moment) {
    (moment(stamp.earliest()), moment(stamp.latest()))
}
