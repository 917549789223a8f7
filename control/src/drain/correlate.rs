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
//! - What the log says is still waiting there is inside, also where every item of ours is settled (a copy, an address
//!   that was expanded).
//! - A log that comes by UDP can be forged: it shows, and settles nothing.
//! - What is told twice (a log handed in again) changes nothing.
//!
//! Not here: how lines look (`maillog`), whether a log is complete (`maillog::coverage`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use proxy::session::Networks;
use serde::{Deserialize, Serialize};

use super::item::{
    Column, End, Evidence, Item, Key, Offer, OfferKey, Place, Sight, bare, same_address,
};
use super::ledger::{Arrival, Ledger, Limits, Plan, fingerprint, only_with};
use super::skew::Skew;
use crate::maillog::{Dialect, Disposition, Event, Recipient, Stamp, What};
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

/// Recipients by which it is tried again to bind a chain.
const REBOUND_MAX: usize = 3;

/// Pieces of a log that are kept.
const PIECES_MAX: usize = 200;

/// Messages whose end was seen that are known again when a log is handed in twice.
const SEEN_MAX: usize = 200_000;

/// How long a message is followed in a log after its offer was settled and let go, in milliseconds by our clock.
const PAST_KEPT_MS: i64 = 3_600_000;

/// How long the handing over of a message may take, in milliseconds, where only its offer is remembered.
const PASSING_MS: i64 = 600_000;

/// A jump of the stamps in a file that was handed in, in milliseconds, over which it may have been put together of several:
/// absence is not proven across it.
const JUMP_MS: i64 = 600_000;

/// Jumps that are kept of one piece.
const JUMPS_MAX: usize = 100;

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

/// An address, and a port where only that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port; none: every one.
    pub port: Option<u16>,
}

/// Neither an address nor an address and a port.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address, such as \"127.0.0.1\" or \"127.0.0.1:10025\"")]
pub struct EndpointError(String);

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(at) => Ok(Self { address: at.ip(), port: Some(at.port()) }),
            Err(_) => Err(EndpointError(text)),
        }
    }
}

/// What is known of a log beforehand.
#[derive(Clone, Debug)]
pub struct LogPlan {
    /// Its name.
    pub name: String,
    /// Who wrote it.
    pub dialect: Dialect,
    /// Of whom it speaks.
    pub role: Role,
    /// Our addresses, as the server sees them; empty: not known, and any client may be us.
    pub clients: Vec<IpAddr>,
    /// Where a hand-over leaves the server although it is on it (a loopback address).
    pub leaves: Vec<Endpoint>,
    /// Hosts to which a hand-over stays inside although they are not on it (a content filter).
    pub inside: Networks,
    /// Names of mailbox transports (`local`, `lmtp`): a delivery through them is an end. Through any other program
    /// the message may come back.
    pub mailboxes: Vec<String>,
    /// Ids are those of connections, and start anew in each process.
    pub ids_of_connections: bool,
    /// It comes by UDP: lines can be lost and forged.
    pub udp: bool,
}

impl LogPlan {
    /// How long after an uncertain end the log must have gone on before absence is proven, in milliseconds: a server may
    /// finish what it read long after the link was cut.
    pub(super) const fn absence_guard_ms(&self) -> i64 {
        match self.dialect {
            // These name a message when it begins to come in.
            Dialect::Postfix | Dialect::Opensmtpd => 30_000,
            // These when it was taken; that may last as long as a client has to wait (RFC 5321 §4.5.3.2.6).
            _ => 660_000,
        }
    }

    /// Does it name messages as the replies to the end of mail data do?
    const fn says_same_ids(&self) -> bool {
        matches!(
            self.dialect,
            Dialect::Postfix | Dialect::Exim | Dialect::Sendmail | Dialect::Opensmtpd
        )
    }

    /// May this queue id be that of the offer? A server that names its queue id in its reply writes the same one in its log:
    /// under another it is another message, or the log of another host.
    fn may_be(&self, id: &str, offer: &Offer) -> bool {
        !self.says_same_ids() || offer.server_id.as_deref().is_none_or(|known| known == id)
    }

    /// Before the reply is known, nobody can tell.
    fn may_choose(&self, key: &OfferKey, ledger: &Ledger) -> bool {
        let open = ledger.offer(key).is_some_and(|offer| matches!(offer.end, End::Open));
        !(self.says_same_ids() && open)
    }

    /// Does it say that a message has left the queue?
    const fn says_removed(&self) -> bool {
        matches!(self.dialect, Dialect::Postfix | Dialect::Exim)
    }

    /// Does it never say who brought a message, though it shows how it came in?
    const fn hides_clients(&self) -> bool {
        matches!(self.dialect, Dialect::Opensmtpd)
    }

    /// Does it never name Message-IDs?
    const fn hides_message_ids(&self) -> bool {
        matches!(self.dialect, Dialect::Opensmtpd)
    }
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
    /// The piece of the log in which that is.
    piece: u64,
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
    size: Option<u64>,
    count: Option<u32>,
    recipients: BTreeMap<String, Told>,
    /// It handed the message to another part of the server.
    inner: bool,
    /// For so many recipients what it handed on inside was seen again.
    parts: u32,
    /// It is a part of a message that was queued anew inside.
    part: bool,
    /// Some of its recipients, as lines named them: by them it is tried again to bind it.
    heard: BTreeSet<String>,
    /// Recipients that it handed on inside and that are no items of its offer (a copy): these are on no list.
    extra: BTreeSet<String>,
    /// Recipients of which its parts told.
    back: BTreeSet<String>,
    /// The chain of which it is a part, and for how many recipients that one counts it.
    of: Option<(String, u32)>,
    /// It left the queue.
    removed: Option<Moment>,
    /// It took the place of another with this id whose end was not seen.
    shadows: bool,
    /// Such another is not kept any more: what is said under this id may be said of that one.
    hides: bool,
}

impl Chain {
    /// Did it hand this message on inside, and was not all of that seen again?
    fn awaits(&self, message_id: &str) -> bool {
        let inner = |told: &&Told| told.disposition == Fate::Inner;
        self.inner
            && self.message_id.as_deref() == Some(message_id)
            && self.recipients.values().filter(inner).count() > self.parts as usize
    }

    /// Is it out of the server? What was handed on inside is not, before all of it was seen again.
    fn is_out(&self) -> bool {
        let mut inner = self.recipients.iter().filter(|(_, told)| told.disposition == Fate::Inner);
        self.is_ended() && inner.all(|(to, _)| self.back.contains(&to.to_ascii_lowercase()))
    }

    /// Has a part of the server something of it that is on no list?
    fn has_more(&self) -> bool {
        self.extra.iter().any(|to| !self.back.contains(to))
    }

    /// Does the log say that something of it waits in the queue?
    fn waits(&self, log: &LogPlan) -> bool {
        let deferred = |told: &Told| told.disposition == Fate::Deferred;
        let more = self.count.is_some_and(|count| self.recipients.len() < count as usize);
        self.removed.is_none()
            && (self.recipients.values().any(deferred) || more && log.says_removed())
    }

    fn is_ended(&self) -> bool {
        let gone = |told: &Told| !matches!(told.disposition, Fate::Deferred);
        self.removed.is_some()
            || self.count.is_some_and(|count| {
                self.recipients.len() >= count as usize && self.recipients.values().all(gone)
            })
    }
}

/// What a message in the server is that is no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The server made it itself, or its beginning was not seen.
    Own,
    /// It came past us.
    Past,
    /// A copy or a part of a message of ours that is settled.
    Copy,
}

/// A message in the server's log that is no item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// What it is.
    pub kind: Kind,
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
    /// Names of chains whose id was used again, by the name that they had.
    #[serde(skip)]
    formers: HashMap<String, BTreeSet<String>>,
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
    /// The latest of those that are not kept any more.
    bypasses_more: Option<Moment>,
    /// The first of it by name.
    pub bypass_samples: Vec<Foreign>,
    /// Mail that the server made itself.
    pub own: u64,
    /// Messages of a time that is not remembered any more (ours, or mail that came past us), and the latest of them.
    pub forgotten: Option<(u64, Moment)>,
    /// Copies that a part of the server was given and that were not seen again within an hour, and when the last of them was read.
    copies_lost: Option<(u64, Moment)>,
    /// When something last happened to a message, by our clock, as it was written.
    pub stirred: Option<Moment>,
    /// Our own addresses were seen to connect until this moment, by the log's clock.
    connected_until: Option<Moment>,
    /// What is read was handed in as a file.
    #[serde(skip)]
    handing_in: bool,
    /// Offers to which a chain of this log is bound.
    mine: BTreeSet<OfferKey>,
    /// Chains whose first line was not an arrival: they began before the log.
    pub fragments: u64,
}

/// A part of a log that was read without interruption.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    /// It was followed from this moment on, by our clock: what was written later is in it.
    from: Option<Moment>,
    /// The earliest offer of which it showed how it came in.
    began: Option<Moment>,
    /// The latest offer that it showed.
    shown: Option<Moment>,
    /// Its earliest and its latest stamp, by the log's clock.
    span: Option<(Moment, Moment)>,
    /// Its last stamp that is exact.
    last: Option<Moment>,
    /// Where its stamps jump, by the log's clock; nothing is known of more than [`JUMPS_MAX`].
    jumps: Vec<(Moment, Moment)>,
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
            What::Accepted { id, client, ident, recipients } => {
                let name = name(id.0);
                let chain = self.begin(&name, stamp, place, desk.now);
                chain.accepted = true;
                chain.arrived |= client.is_some() || desk.log.hides_clients();
                chain.count = recipients.or(chain.count);
                chain.client = chain.client.or(*client);
                if let Some(ident) = ident {
                    chain.ident = Some((*ident).to_owned());
                }
                self.bind(&name, None, desk);
            }
            What::Queued { id, sender, recipients, message_id, client, size } => {
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
                chain.size = size.or(chain.size);
                chain.queued = true;
                if let Some(id) = message_id {
                    chain.message_id = Some(id.to_owned());
                }
                self.bind(&name, None, desk);
                self.note_queued(&name, desk);
                self.note_part(&name);
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
                let (name, sure) = self.whose_line(name, recipient, desk);
                self.recipient((&name, sure), recipient, stamp, place, desk);
            }
            What::Rest { id, disposition, text } => {
                self.rest(&name(id.0), *disposition, text, stamp, place, desk);
            }
            What::Processed { id, recipient, text } => {
                let name = name(id.0);
                let at = stamp.map_or(desk.now, |(at, _)| at);
                self.bind(&name, Some(recipient), desk);
                let chain = self.chains.get(&name).filter(|_| !desk.log.udp);
                if let Some(Chain { bound: Bound::Offer(key, by), .. }) = chain {
                    let by = *by;
                    let sight = Sight { place: place.clone(), at, by, text: (*text).to_owned() };
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
            What::RuleMatched { id, recipient, .. } => {
                self.bind(&name(id.0), Some(recipient), desk);
            }
            What::Connected { client } => {
                let ours = client.is_some_and(|client| desk.log.clients.contains(&client));
                if let Some((earliest, latest)) = stamp.filter(|_| ours)
                    && earliest == latest
                {
                    self.connected_until = self.connected_until.max(Some(earliest));
                }
            }
        }
        let known = !matches!(event.what, What::Connected { .. });
        if known && !self.handing_in {
            self.stirred = Some(desk.now);
        }
    }

    /// One of our addresses, used for nothing else, connected at this moment of our clock or later.
    #[must_use]
    pub fn connected_until(&self, limits: &Limits) -> Option<Moment> {
        let high = self.skew.bounds().map_or(limits.skew_max_ms, |(_, high)| high);
        self.connected_until.map(|at| at.plus(-high))
    }

    /// Makes what is not kept on disk from what is.
    pub fn index(&mut self) {
        self.inner.clear();
        self.loose.clear();
        self.formers.clear();
        for (name, chain) in &self.chains {
            if let Some((base, _)) = name.split_once(FORMER) {
                self.formers.entry(base.to_owned()).or_default().insert(name.clone());
            }
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
        let connection = name.contains('/');
        let over = matches!(old.bound, Bound::Offer(..)) && !connection && !old.inner
            || old.bound == Bound::Past && !old.inner;
        if over {
            self.seen.extend(identity(name, &old).into_iter().collect(), SEEN_MAX);
        } else {
            let first = old.first.map_or(old.seen, |(first, _)| first);
            // Several may have begun in one second.
            let named = |number: usize| format!("{name}{FORMER}{}.{number}", first.0);
            let former = (0..).map(named).find(|former| !self.chains.contains_key(former));
            let former = former.unwrap_or_default();
            if matches!(old.bound, Bound::No | Bound::Bypass) {
                self.loose.insert(former.clone());
            }
            if let Some(id) = old.message_id.clone().filter(|_| old.inner) {
                self.inner.entry(id).or_default().insert(former.clone());
            }
            self.formers.entry(name.to_owned()).or_default().insert(former.clone());
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
        let piece = self.piece;
        self.chains.entry(name.to_owned()).or_insert_with(|| Chain {
            bound: Bound::No,
            first: stamp,
            seen: now,
            place: place.clone(),
            piece,
            client: None,
            accepted: false,
            queued: false,
            arrived: false,
            ident: None,
            message_id: None,
            sender: None,
            size: None,
            count: None,
            recipients: BTreeMap::new(),
            inner: false,
            parts: 0,
            part: false,
            heard: BTreeSet::new(),
            extra: BTreeSet::new(),
            back: BTreeSet::new(),
            of: None,
            removed: None,
            shadows: false,
            hides: false,
        })
    }

    /// Binds a chain that is not bound yet, by what is known of it, and of one recipient.
    fn bind(&mut self, name: &str, recipient: Option<&str>, desk: &mut Desk<'_>) {
        let Some(chain) = self.chains.get_mut(name) else { return };
        if !matches!(chain.bound, Bound::No | Bound::Bypass) {
            return;
        }
        if let Some(to) = recipient.filter(|_| chain.heard.len() < REBOUND_MAX) {
            chain.heard.insert(bare(to).to_owned());
        }
        let Some(chain) = self.chains.get(name) else { return };
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
        let (mut more, mut shown, mut by_ident) = (false, None, false);
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
            let same_ids = desk.log.says_same_ids();
            let id = queue_id(name);
            let recalled = desk.ledger.recall(member, id, message_id, same_ids, allowed)?;
            more = recalled.taken_before;
            shown = Some(recalled.at);
            Some((Bound::Past, Whose::Arrival))
        });
        let Some((bound, whose)) = found else { return };
        if bound == Bound::Past && shown.is_none() {
            let ident = chain.ident.as_deref();
            shown = ident.and_then(|ident| desk.ledger.remembers_id(ident));
            by_ident = shown.is_some();
        }
        let arrived = chain.piece == self.piece && (chain.accepted || chain.arrived);
        if let Some(offered) = shown {
            self.shows(offered, arrived);
        }
        self.shows_idents |= by_ident;
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
        let began_here = chain.piece == self.piece && (chain.accepted || chain.arrived);
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
            let parent = parent.cloned();
            if let Some(chain) = self.chains.get_mut(name)
                && let Some(parent) = parent.filter(|_| chain.of.is_none())
            {
                let named = |(to, told): (&String, &Told)| {
                    [
                        Some(to.to_ascii_lowercase()),
                        told.original.as_ref().map(|to| to.to_ascii_lowercase()),
                    ]
                };
                let told: Vec<String> = chain.recipients.iter().flat_map(named).flatten().collect();
                chain.of = Some((parent.clone(), 0));
                if let Some(parent) = self.chains.get_mut(&parent) {
                    parent.back.extend(told);
                }
            }
            self.note_part(name);
        }
        let Bound::Offer(key, by) = bound else { return };
        if let Some(offer) = desk.ledger.offer(&key) {
            if by != Key::Envelope
                && let Some((earliest, latest)) = arrival
                && earliest == latest
            {
                self.skew.pair(earliest, offer.began, offer.until(desk.now));
            }
            let arrived = whose == Whose::Arrival && began_here;
            self.shows(key.at, arrived);
        }
        self.shows_idents |= by == Key::Ident;
        self.mine.insert(key.clone());
        if !desk.log.udp {
            desk.ledger.logged(&key);
        }
        self.note_queued(name, desk);
        for (to, told) in &told {
            apply(&key, by, to, told, desk);
            self.note_extra(name, &key, to, told, desk);
        }
    }

    /// Notes a recipient that was handed on inside and is no item of the offer.
    fn note_extra(&mut self, name: &str, key: &OfferKey, to: &str, told: &Told, desk: &Desk<'_>) {
        let Some(offer) = desk.ledger.offer(key).filter(|_| told.disposition == Fate::Inner) else {
            return;
        };
        let names = [Some(to), told.original.as_deref()];
        let known = |item: &Item| names.into_iter().flatten().any(|to| same_address(&item.to, to));
        if !offer.items.iter().any(known)
            && let Some(chain) = self.chains.get_mut(name)
        {
            chain.extra.insert(to.to_ascii_lowercase());
        }
    }

    /// The chain of which this one is a part counts it, for as many recipients as it has.
    fn note_part(&mut self, name: &str) {
        let Some(chain) = self.chains.get_mut(name) else { return };
        let count = chain.count.unwrap_or(1).max(1);
        let Some((parent, counted)) = &mut chain.of else { return };
        let more = count.saturating_sub(*counted);
        *counted = count;
        let parent = parent.clone();
        if let Some(parent) = self.chains.get_mut(&parent) {
            parent.parts += more;
        }
    }

    /// Says to the ledger that the offer of a chain is, or was, in the queue.
    fn note_queued(&self, name: &str, desk: &mut Desk<'_>) {
        if let Some(chain) = self.chains.get(name)
            && chain.queued
            && !desk.log.udp
            && let Bound::Offer(key, by) = &chain.bound
            && *by != Key::Envelope
        {
            desk.ledger.queued(key);
        }
    }

    /// What follows was read without interruption; `from`: from this moment on, by our clock, as it was written.
    /// Returns its number, for [`Chains::go_on`].
    pub fn begin_piece(&mut self, from: Option<Moment>) -> u64 {
        let before = self.piece;
        self.piece = self.pieces.last_key_value().map_or(0, |(number, _)| number + 1);
        self.pieces.insert(self.piece, Piece { from, ..Piece::default() });
        if self.pieces.len() > PIECES_MAX {
            // Of what was handed in the one that ends first is needed least; never one that is read.
            let end = |piece: &Piece| (piece.from.is_some(), piece.span.map(|(_, last)| last));
            let others =
                self.pieces.iter().filter(|(number, _)| ![before, self.piece].contains(*number));
            let first = others.min_by_key(|(_, piece)| end(piece)).map(|(number, _)| *number);
            self.pieces.retain(|number, _| Some(*number) != first);
        }
        self.piece
    }

    /// What follows is of a file that was handed in, or not any more. Returns the piece that was read before.
    pub fn hand_in(&mut self, handing_in: bool) -> u64 {
        self.handing_in = handing_in;
        self.piece
    }

    /// What follows belongs to this piece again.
    pub fn go_on(&mut self, piece: u64) {
        self.piece = piece;
    }

    /// A line shows this offer; `arrival`: it was read how it came in. What is said of a message later does not show that the
    /// log was read since then.
    fn shows(&mut self, offered: Moment, arrival: bool) {
        self.shown_until = self.shown_until.max(Some(offered));
        let piece = self.pieces.entry(self.piece).or_default();
        if arrival {
            piece.began = Some(piece.began.map_or(offered, |began| began.min(offered)));
        }
        piece.shown = piece.shown.max(Some(offered));
    }

    /// A line with this stamp was read.
    pub fn stamped(&mut self, (earliest, latest): (Moment, Moment)) {
        let piece = self.pieces.entry(self.piece).or_default();
        // What is unsure may stand before the line before it.
        let exact = earliest == latest;
        let last = if exact { piece.last.replace(latest) } else { None };
        let last = last.filter(|_| piece.from.is_none());
        if let Some(last) = last
            && last.since(earliest) >= JUMP_MS
        {
            // Another file begins, of before.
            self.begin_piece(None);
            self.stamped((earliest, latest));
            return;
        }
        if let Some(last) = last.filter(|last| earliest.since(*last) >= JUMP_MS)
            && piece.jumps.len() <= JUMPS_MAX
        {
            piece.jumps.push((last, earliest));
        }
        let (from, to) = piece.span.unwrap_or((latest, earliest));
        // What is unsure widens nothing.
        piece.span = Some((from.min(latest), to.max(earliest)));
    }

    /// Times between `from` and `until`, by our clock, that no piece covers. Pieces that nearly touch are
    /// taken for one: files of a log that was rotated begin with the line behind the last.
    #[must_use]
    pub fn uncovered(&self, from: Moment, until: Moment, limits: &Limits) -> Vec<(Moment, Moment)> {
        let most = limits.skew_max_ms;
        let (low, high) = self.skew.bounds().unwrap_or((-most, most));
        let ours = |piece: &Piece| {
            let span = piece.span.map(|(first, last)| (first.plus(-low), last.plus(-high)));
            // What was followed begins with that; a line may speak of what was long before.
            let first = [span.map(|span| span.0), piece.began].into_iter().flatten().min();
            let ends = [span.map(|span| span.1), piece.shown];
            Some((piece.from.or(first)?, ends.into_iter().flatten().max()?))
        };
        let mut pieces: Vec<(Moment, Moment)> = self.pieces.values().filter_map(ours).collect();
        pieces.sort_unstable();
        let (mut covered, mut holes) = (from, Vec::new());
        for (begin, end) in pieces {
            if begin > covered.plus(JOIN_MS) && covered < until {
                holes.push((covered, begin.min(until)));
            }
            covered = covered.max(end);
        }
        if covered < until {
            holes.push((covered, until));
        }
        holes
    }

    /// Was the log read without interruption from before `from` until well after `to`? What was offered there is in it,
    /// if it was taken, unless a hole is known.
    #[must_use]
    pub fn covers(&self, from: Moment, to: Moment, guard_ms: i64, limits: &Limits) -> bool {
        let most = limits.skew_max_ms;
        let (low, high) = self.skew.bounds().unwrap_or((-most, most));
        let whole = |piece: &Piece| {
            let over = |(before, behind): &(Moment, Moment)| {
                before.plus(-high) < to.plus(guard_ms) && behind.plus(-low) > from
            };
            piece.jumps.len() <= JUMPS_MAX && !piece.jumps.iter().any(over)
        };
        self.pieces.values().filter(|piece| whole(piece)).any(|piece| {
            let begins = match (piece.from, piece.began) {
                (Some(begun), _) => begun <= from,
                (None, began) => began.is_some_and(|first| from.since(first) >= guard_ms),
            };
            begins && piece.shown.is_some_and(|last| last.since(to) >= guard_ms)
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
            if ledger.remembers_id(ident).is_some() {
                return Some((Bound::Past, Whose::Arrival));
            }
        }
        // Queue ids are used again: who has another Message-ID is another, and until it is known nobody is.
        let known = chain.message_id.is_some() || recipient.is_some() || chain.removed.is_some();
        // One that had no Message-ID may have got one from the server; some logs name none.
        let same = |offer: &Offer| {
            let new = chain.message_id.as_deref().is_some_and(|id| !ledger.has_seen(id));
            offer.message_id == chain.message_id
                || offer.message_id.is_none() && new
                || desk.log.hides_message_ids()
        };
        let known = known || desk.log.hides_message_ids();
        // A log that names our ids would have named it.
        let by_ident = |offer: &Offer| offer.told_ident && self.shows_idents;
        let alike = |(key, offer): &(&OfferKey, &Offer)| {
            let named = chain.ident.as_deref() == Some(&key.id) || !by_ident(offer);
            known && same(offer) && named && self.in_order(chain, offer)
        };
        let unsure = self.skew.bounds().is_none()
            && ledger.remembers_reply(member, id, chain.message_id.as_deref());
        let of_reply = ledger.of_reply(member, id).filter(of_member).filter(alike);
        let by_reply = if unsure { None } else { self.one_free(of_reply) };
        // Where both names fit, a clock that was set does not part them.
        let by_reply = by_reply.or_else(|| {
            let most = desk.limits.skew_max_ms;
            let near = |(_, offer): &(&OfferKey, &Offer)| {
                chain.first.is_none_or(|first| {
                    let window = (offer.began, offer.until(desk.now));
                    Skew::default().allows(first, window, most)
                })
            };
            let named = |(_, offer): &(&OfferKey, &Offer)| {
                offer.message_id.is_some() && offer.message_id == chain.message_id
            };
            let both = ledger.of_reply(member, id).filter(named).filter(near).filter(alike);
            if chain.accepted && !unsure { self.one_free(both) } else { None }
        });
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
            let known = ledger.of_message(message_id).filter(of_member);
            let known = known.filter(|(key, offer)| {
                let free = !self.is_mine(key) && desk.log.may_be(id, offer);
                !by_ident(offer) && free && offer.items.iter().any(Item::may_come_out)
            });
            // Of several messages with one Message-ID the recipient tells which; one that was let go may be meant too.
            if ours && let Some(to) = recipient {
                let one = only_with(known, to).filter(|key| desk.log.may_choose(key, ledger));
                if let Some(key) = one.filter(|_| !ledger.remembers_message(member, message_id)) {
                    return Some((Bound::Offer(key, Key::MessageId), Whose::Arrival));
                }
            }
        }
        if let (Some(to), Some(from)) = (recipient, &chain.sender)
            && ours
            && chain.message_id.is_none()
            && (chain.accepted || chain.arrived)
            && !self.shows_idents
            && !ledger.remembers_envelope(from, to)
        {
            let alike = ledger.of_envelope(from, to).filter(of_member);
            let alike = alike.filter(|(key, offer)| {
                !self.is_mine(key) && desk.log.may_be(id, offer) && offer.may_have_size(chain.size)
            });
            let one = only_with(alike, to).filter(|key| desk.log.may_choose(key, ledger));
            if let Some(key) = one {
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

    /// Is a chain of this log bound to this offer? What another log of the member shows, this one may show too.
    fn is_mine(&self, key: &OfferKey) -> bool {
        self.mine.contains(key)
    }

    /// The one offer of these that no chain is bound to yet.
    fn one_free<'a>(
        &self,
        offers: impl Iterator<Item = (&'a OfferKey, &'a Offer)>,
    ) -> Option<OfferKey> {
        let mut free = offers.filter(|(key, _)| !self.is_mine(key));
        let (one, _) = free.next()?;
        free.next().is_none().then(|| one.clone())
    }

    /// Of which chain a line speaks that names an id which is used again at once, as that of a connection is: the one
    /// with its Message-ID; else the only one that has the recipient inside. False: it may be several.
    fn whose_line(
        &self,
        name: String,
        recipient: &Recipient<'_>,
        desk: &Desk<'_>,
    ) -> (String, bool) {
        let Some(current) = self.chains.get(&name) else { return (name, true) };
        let message_id = recipient.message_id.map(bare).filter(|id| !id.is_empty());
        let known = current.message_id.as_deref();
        if !desk.log.ids_of_connections || message_id.is_some() && known == message_id {
            let sure = !current.shadows || message_id.is_some();
            return (name, sure);
        }
        let formers = self.formers.get(&name).into_iter().flatten();
        let formers = formers.filter_map(|former| Some((former, self.chains.get(former)?)));
        if let Some(message_id) = message_id {
            let mut same =
                formers.filter(|(_, chain)| chain.message_id.as_deref() == Some(message_id));
            return match same.next() {
                Some((former, _)) => (former.clone(), true),
                None => (format!("{name}{FORMER}{message_id}"), true),
            };
        }
        if !current.shadows {
            return (name, true);
        }
        let to = bare(recipient.recipient);
        let has = |offer: &Offer| {
            offer.items.iter().any(|item| item.is_inside() && same_address(&item.to, to))
        };
        let may = |chain: &Chain| match (&chain.bound, &chain.message_id) {
            (Bound::Offer(key, _), _) => desk.ledger.offer(key).is_some_and(has),
            (Bound::No | Bound::Bypass, Some(id)) => {
                desk.ledger.of_message(id).any(|(_, offer)| has(offer))
            }
            // Nobody knows who its recipients are.
            _ => true,
        };
        let own = name.clone();
        let all = formers.chain([(&own, current)]);
        let mut candidates = all.filter(|(_, chain)| may(chain)).map(|(name, _)| name.clone());
        match (candidates.next(), candidates.next()) {
            (Some(one), None) if !current.hides => (one, true),
            _ => (name, false),
        }
    }

    fn recipient(
        &mut self,
        (name, sure): (&str, bool),
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
        let room = chain.recipients.len() < RECIPIENTS_MAX || chain.recipients.contains_key(&to);
        // What may be said of another message is kept for none.
        if sure && room {
            chain.recipients.insert(to.clone(), told.clone());
        }
        if let Some((parent, _)) = self.chains.get(name).and_then(|chain| chain.of.clone())
            && let Some(parent) = self.chains.get_mut(&parent)
        {
            let original = told.original.iter();
            parent.back.extend(original.chain([&to]).map(|to| to.to_ascii_lowercase()));
        }
        if let Some(id) = handed_on {
            self.inner.entry(id).or_default().insert(name.to_owned());
        }
        self.bind(name, Some(&to), desk);
        self.note_queued(name, desk);
        let Some(chain) = self.chains.get(name) else { return };
        if let Bound::Offer(key, by) = chain.bound.clone() {
            if sure {
                apply(&key, by, &to, &told, desk);
                self.note_extra(name, &key, &to, &told, desk);
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
            Some(relay) => {
                let inside = relay.is_loopback() || desk.log.inside.contains(relay);
                let leaves = |one: &Endpoint| {
                    one.address == relay && (one.port.is_none() || one.port == recipient.relay_port)
                };
                inside && !desk.log.leaves.iter().any(leaves)
            }
            // To a program: what is not known as a mailbox may bring it back.
            None => recipient.through.is_some_and(|through| {
                recipient.disposition == Disposition::Delivered
                    && !desk.log.mailboxes.iter().any(|mailbox| mailbox == through)
            }),
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
                self.shows(key.at, true);
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
        if chain.part || chain.inner || desk.log.udp {
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
        // A part that was turned away is with the part of the server that sent it.
        if let Some((parent, counted)) = &chain.of
            && let Some(parent) = self.chains.get_mut(parent)
        {
            parent.parts = parent.parts.saturating_sub(*counted);
        }
        let Bound::Offer(key, by) = chain.bound else { return };
        self.mine.remove(&key);
        if chain.part || chain.inner || desk.log.udp || by == Key::Envelope {
            return;
        }
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
            let chain = self.chains.get(&name);
            let known: Vec<String> =
                chain.into_iter().flat_map(|chain| &chain.heard).cloned().collect();
            self.bind(&name, None, desk);
            for to in &known {
                self.bind(&name, Some(to), desk);
            }
            self.judge(&name, desk);
        }
        let ledger = &*desk.ledger;
        // What is read from a file is over when its last line says so: no other line will come.
        let ended_kept = if self.handing_in { 0 } else { ENDED_KEPT_MS };
        let past = |chain: &Chain| {
            let old = now.since(chain.seen) >= PAST_KEPT_MS && !chain.waits(desk.log);
            let waits = chain.has_more() && now.since(chain.seen) < PAST_KEPT_MS;
            (chain.is_ended() || old) && !waits
        };
        let over = |chain: &Chain| match &chain.bound {
            Bound::No => false,
            Bound::Past => past(chain),
            Bound::Offer(key, _) => past(chain) && ledger.offer(key).is_none(),
            Bound::Own | Bound::Bypass => {
                chain.is_out() && now.since(chain.removed.unwrap_or(chain.seen)) >= ended_kept
            }
        };
        let (mut seen, mut hidden, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        self.chains.retain(|name, chain| {
            // The connection had other messages since; what is known of this one is told.
            let former = name.split_once(FORMER).filter(|_| desk.log.ids_of_connections);
            let gone = match &chain.bound {
                Bound::Offer(key, _) => former.is_some() && ledger.offer(key).is_none(),
                _ => false,
            };
            let over = gone || over(chain);
            if over {
                if chain.has_more() {
                    lost.push(chain.seen);
                }
                seen.extend(identity(name, chain));
                hidden
                    .extend(former.filter(|_| !chain.is_ended()).map(|(base, _)| base.to_owned()));
            }
            !over
        });
        for at in lost {
            let (count, until) = self.copies_lost.unwrap_or_default();
            self.copies_lost = Some((count + 1, until.max(at)));
        }
        for base in hidden {
            if let Some(chain) = self.chains.get_mut(&base) {
                chain.hides = true;
            }
        }
        self.seen.extend(seen, SEEN_MAX);
        self.expected.retain(|_, key| ledger.offer(key).is_some());
        self.mine.retain(|key| ledger.offer(key).is_some());
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
        // While the end of an offer is not known that it may be, it is not judged.
        let same = |(_, offer): (&OfferKey, &Offer)| matches!(offer.end, End::Open);
        let key = chain.message_id.as_deref().unwrap_or_default();
        let early = desk.ledger.of_message(key).any(same);
        let Some(chain) = self.chains.get_mut(name).filter(|_| !early) else { return };
        // The journal was read before a file that is handed in.
        let patience = if self.handing_in && chain.is_ended() { 0 } else { JUDGED_AFTER_MS };
        if chain.bound != Bound::No || desk.now.since(chain.seen) < patience {
            return;
        }
        let forgotten = match (chain.first, desk.ledger.remembers_since()) {
            (Some((_, latest)), Some(since)) => latest < since.plus(desk.limits.skew_max_ms),
            _ => false,
        };
        if !chain.accepted && !chain.arrived && chain.sender.is_none() {
            // Its arrival was not seen: it began before the log, or before what we read of it.
            self.fragments += 1;
            let gone = |told: &Told| matches!(told.disposition, Fate::Gone(_));
            let told = !chain.recipients.is_empty() && chain.recipients.values().all(gone);
            // A line by its Message-ID alone, of a connection whose message was let go.
            let over = chain.is_ended() || desk.log.ids_of_connections && told;
            chain.bound = if over { Bound::Past } else { Bound::Own };
        } else if inner || !chain.arrived && chain.client.is_none() {
            self.own += 1;
            chain.bound = Bound::Own;
        } else if forgotten && chain.is_ended() {
            let (count, until) = self.forgotten.unwrap_or_default();
            let at = chain.first.map_or(desk.now, |(_, latest)| latest);
            self.forgotten = Some((count + 1, until.max(at)));
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
        if self.bypasses.len() >= BYPASSES_MAX
            && let Some(oldest) =
                (0..self.bypasses.len()).min_by_key(|place| self.bypasses[*place].1)
            && let Some((_, at)) = self.bypasses.remove(oldest)
        {
            self.bypasses_more = self.bypasses_more.max(Some(at));
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
        let more = self.bypasses_more.is_some_and(|at| at.plus(-low) >= from);
        u64::try_from(count).unwrap_or(u64::MAX).saturating_add(u64::from(more))
    }

    /// Copies that were handed to a part of the server and not seen again, of messages that were read since `from`.
    #[must_use]
    pub fn copies_since(&self, from: Moment) -> u64 {
        let waiting = self.chains.values().filter(|chain| chain.has_more() && chain.seen >= from);
        let lost = self.copies_lost.filter(|(_, until)| *until >= from);
        u64::try_from(waiting.count())
            .unwrap_or(u64::MAX)
            .saturating_add(lost.map_or(0, |(count, _)| count))
    }

    /// Messages in the queue of the server that are no items: its own, those that came past us, and copies and expanded
    /// addresses of ours that wait there although every item is settled.
    pub fn strangers<'a>(
        &'a self,
        log: &'a LogPlan,
        ledger: &'a Ledger,
    ) -> impl Iterator<Item = Foreign> + 'a {
        let inside = |chain: &Chain| match &chain.bound {
            Bound::Own | Bound::Bypass => !chain.is_out(),
            Bound::Offer(key, _) => {
                let settled = ledger.offer(key).is_none_or(Offer::is_settled);
                settled && chain.waits(log)
            }
            Bound::Past => chain.waits(log),
            Bound::No => false,
        };
        let name = |(name, chain): (&String, &Chain)| foreign(name, chain);
        self.chains.iter().filter(move |(_, chain)| inside(chain)).map(name)
    }

    /// Forgets every message: the server was installed anew.
    pub fn forget(&mut self) {
        self.chains.clear();
        self.expected.clear();
        self.index();
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
        // What was judged to have come past us may have been it.
        let past = |at: Moment| self.skew.allows((at, at), window, limits.skew_max_ms);
        self.bypasses_more.is_some_and(|at| at >= window.0)
            || self.bypasses.iter().any(|(_, at)| past(*at))
            || self.loose.iter().filter_map(|name| self.chains.get(name)).any(hides)
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
        kind: match chain.bound {
            Bound::Own => Kind::Own,
            Bound::Offer(..) | Bound::Past => Kind::Copy,
            Bound::No | Bound::Bypass => Kind::Past,
        },
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
    if desk.log.udp {
        return;
    }
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
            desk.ledger.sight(key, &to, &Sight { place, at, by, text });
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
