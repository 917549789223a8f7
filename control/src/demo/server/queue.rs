//! What is inside the stand-in: messages between its 250 and the next hop's, and how they leave.
//!
//! Invariants: a message counts as done when nothing of it is inside any more, neither a copy nor
//! what leaves instead of it; an item is either waiting or being sent, so [`Queue::inside`] is the
//! whole truth.
//!
//! Not here: what may be asked of the server (`behaviour`), how a log line looks (`log`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use smtp::{Envelope, HeaderPeek, Recipient, Reply};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::super::receive::{Answer, Mailroom, Message};
use super::super::send::{Connection, SendError};
use super::behaviour::{Behaviour, Copies, Share, Stay, Treatment, scattered};
use super::letters::{Letter, Pen};
use super::log::{Connections, Facts, MailLog, Moment, Origin, When};
use super::{Options, Tally, clock, date};

/// Pause before a message is sent again.
const RETRY: Duration = Duration::from_millis(200);
/// Messages over one connection.
const REUSE_MAX: u32 = 100;
/// The number in a genuine line, of a kind that is not known.
const UNMODIFIED: u64 = 0x021b_2578;

/// Something that is inside: a message, its copy for one forward-path, or what leaves instead.
#[derive(Clone, Debug)]
pub struct Item {
    /// The connection it came over, or the original of what leaves instead.
    pub origin: Origin,
    /// Without angle brackets; empty if it has none.
    pub message_id: String,
    /// Who sent it, to whom.
    pub envelope: Envelope,
    /// Mail data in wire form, as it will leave.
    pub wire: Arc<[u8]>,
    number: u64,
    /// How many items are left of its message.
    left: Arc<AtomicUsize>,
}

/// When an item may leave.
#[derive(Clone, Copy, Debug)]
enum Due {
    Now,
    At(Instant),
    LetGo,
    Never,
}

/// What the lanes of a server share.
#[derive(Debug)]
pub(super) struct House {
    host: String,
    version: String,
    behaviour: Mutex<Arc<Behaviour>>,
    pub(super) connections: Connections,
    pub(super) log: Option<MailLog>,
    /// Items and letters so far.
    numbers: AtomicU64,
}

impl House {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            host: options.host.clone(),
            version: options.version.clone(),
            behaviour: Mutex::new(Arc::new(options.behaviour.clone())),
            connections: Connections::new(options.log.as_ref()),
            log: options.log.clone().map(MailLog::new),
            numbers: AtomicU64::new(0),
        }
    }

    pub(super) fn behaviour(&self) -> Arc<Behaviour> {
        Arc::clone(&self.behaviour.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(Arc::make_mut(&mut self.behaviour.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    /// What the clock of the server shows.
    fn clock(&self, behaviour: &Behaviour) -> Timestamp {
        let now = clock();
        now.checked_add(behaviour.clock_skew).unwrap_or(now)
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::SeqCst)
    }

    /// Has the log tell something that no source shows.
    fn tell(&self, when: When, item: &Item, recipient: &str, next_hop: &str, reply: &str) {
        if let Some(log) = &self.log {
            let behaviour = self.behaviour();
            let moment = Moment { at: self.clock(&behaviour), lateness: behaviour.lateness };
            let facts = Facts {
                message_id: &item.message_id,
                sender: item.envelope.sender.path.address(),
                recipient,
                next_hop,
                reply,
            };
            log.extra(when, moment, &item.origin, facts);
        }
    }
}

/// Messages of one direction.
#[derive(Debug)]
pub(super) struct Queue {
    house: Arc<House>,
    max: u64,
    items: Mutex<Items>,
    arrived: Notify,
    left: Notify,
    accepted: AtomicU64,
    done: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Items {
    waiting: VecDeque<(Due, Item)>,
    sending: Vec<Item>,
}

enum Next {
    Item(Item),
    At(Instant),
    Nothing,
}

impl Items {
    /// The first item that may leave, which is then being sent.
    fn next(&mut self, now: Instant) -> Next {
        let due = |due: &Due| match due {
            Due::Now => true,
            Due::At(at) => *at <= now,
            Due::LetGo | Due::Never => false,
        };
        if let Some(place) = self.waiting.iter().position(|(when, _)| due(when))
            && let Some((_, item)) = self.waiting.remove(place)
        {
            self.sending.push(item.clone());
            return Next::Item(item);
        }
        let times = self.waiting.iter().filter_map(|(when, _)| match when {
            Due::At(at) => Some(*at),
            _ => None,
        });
        times.min().map_or(Next::Nothing, Next::At)
    }
}

impl Queue {
    pub(super) fn new(options: &Options, house: Arc<House>) -> Self {
        Self {
            house,
            max: u64::try_from(options.queue_max).unwrap_or(u64::MAX),
            items: Mutex::default(),
            arrived: Notify::new(),
            left: Notify::new(),
            accepted: AtomicU64::new(0),
            done: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        // `done` first: it never runs ahead of an `accepted` that is read later.
        let done = self.done.load(Ordering::SeqCst);
        Tally {
            accepted: self.accepted.load(Ordering::SeqCst),
            done,
            refused: self.refused.load(Ordering::SeqCst),
        }
    }

    fn items(&self) -> MutexGuard<'_, Items> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that is inside, in no order.
    pub(super) fn inside(&self) -> Vec<Item> {
        let items = self.items();
        items.waiting.iter().map(|(_, item)| item).chain(&items.sending).cloned().collect()
    }

    /// Sends on what was only to wait for a while; what is kept stays.
    pub(super) fn let_go(&self) {
        for (due, _) in &mut self.items().waiting {
            if matches!(due, Due::At(_) | Due::LetGo) {
                *due = Due::Now;
            }
        }
        self.arrived.notify_one();
    }

    pub(super) async fn drained(&self) {
        loop {
            let left = self.left.notified();
            if self.tally().inside() == 0 {
                return;
            }
            left.await;
        }
    }

    async fn pop(&self) -> Item {
        loop {
            let next = self.items().next(Instant::now());
            match next {
                Next::Item(item) => {
                    // Another sender may take the next one.
                    self.arrived.notify_one();
                    return item;
                }
                Next::At(at) => tokio::select! {
                    () = self.arrived.notified() => {}
                    () = sleep_until(at) => {}
                },
                Next::Nothing => self.arrived.notified().await,
            }
        }
    }

    /// An item comes back from an attempt, perhaps with fewer forward-paths.
    fn put_back(&self, item: Item) {
        let mut items = self.items();
        items.sending.retain(|sending| sending.number != item.number);
        items.waiting.push_back((Due::Now, item));
        drop(items);
        self.arrived.notify_one();
    }

    /// An item is not inside any more.
    fn settle(&self, item: &Item) {
        self.items().sending.retain(|sending| sending.number != item.number);
        if item.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.house.tell(When::Gone, item, "", "", "");
            self.done.fetch_add(1, Ordering::SeqCst);
            self.left.notify_waiters();
        }
    }

    /// The marks that the server puts in front of what it processed.
    fn marks(&self, message: &Message, at: Timestamp) -> Arc<[u8]> {
        let (host, date) = (&self.house.host, date(at));
        let mut wire = format!(
            "Received: from {name} ([{ip}])\r\n  by {host} (PGP Universal service);\r\n  {date}\r\n\
             X-PGP-Universal: processed;\r\n        by {host} on {date}\r\n\
             X-Demo-Server: {host} {version}\r\n",
            name = message.client_name,
            ip = message.client.ip(),
            version = self.house.version,
        )
        .into_bytes();
        wire.extend_from_slice(&message.wire);
        wire.into()
    }

    /// Takes a message: logs it, decides what leaves, and queues that.
    fn accept(&self, message: &Message, behaviour: &Behaviour) -> Origin {
        let at = self.house.clock(behaviour);
        let origin = self.house.connections.origin(message.connection);
        let whole = Item {
            origin: origin.clone(),
            message_id: message_id(&message.wire),
            envelope: message.envelope.clone(),
            wire: self.marks(message, at),
            number: self.house.number(),
            left: Arc::new(AtomicUsize::new(1)),
        };
        self.accepted.fetch_add(1, Ordering::SeqCst);
        let copies = match behaviour.copies {
            Copies::Together => vec![whole.clone()],
            Copies::PerRecipient => self.split(&whole),
        };
        whole.left.store(copies.len(), Ordering::SeqCst);
        let moment = Moment { at, lateness: behaviour.lateness };
        let count = whole.envelope.recipients().len();
        if let Some(log) = &self.house.log {
            let sender = whole.envelope.sender.path.address();
            let facts = Facts { message_id: &whole.message_id, sender, ..Facts::default() };
            log.message(moment, &origin, facts, count);
        }
        let mut place = 0;
        for copy in copies {
            let treatment = behaviour.treatments.iter().find(|(choice, _)| choice.fits(&copy));
            let treatment = treatment.map(|(_, treatment)| *treatment);
            for recipient in copy.envelope.recipients() {
                place += 1;
                self.decided(moment, &copy, recipient, treatment, (place, count));
            }
            match treatment {
                None => self.enter(copy, behaviour),
                Some(treatment) => self.enter_instead(copy, treatment, behaviour, at),
            }
        }
        self.arrived.notify_one();
        origin
    }

    fn split(&self, whole: &Item) -> Vec<Item> {
        let places = 0..whole.envelope.recipients().len();
        let copy = |place| {
            let envelope = whole.envelope.narrowed(|at, _| at == place)?;
            Some(Item { envelope, number: self.house.number(), ..whole.clone() })
        };
        places.filter_map(copy).collect()
    }

    /// Has the log tell what policy decided for one forward-path.
    fn decided(
        &self,
        moment: Moment,
        item: &Item,
        recipient: &Recipient,
        treatment: Option<Treatment>,
        place: (usize, usize),
    ) {
        let Some(log) = &self.house.log else {
            return;
        };
        let recipient = recipient.path.address();
        log.rules(moment, &item.origin, recipient);
        match treatment {
            None => {
                let number = UNMODIFIED + 0x40 * item.number;
                let text = format!("passing through unmodified [{number:#x}]");
                log.decided(moment, &item.origin, place, recipient, &text);
            }
            Some(Treatment::Bounce) => {
                let sender = item.envelope.sender.path.address();
                let text = format!("unmanaged domain blocked: bouncing message from {sender}");
                log.decided(moment, &item.origin, place, recipient, &text);
            }
            // How the real log tells of a stored message is not known.
            Some(Treatment::Store | Treatment::Notify(_)) => {
                self.house.tell(When::Stored, item, recipient, "", "");
            }
        }
    }

    fn enter(&self, item: Item, behaviour: &Behaviour) {
        let due = match behaviour.stay {
            _ if behaviour.kept.as_ref().is_some_and(|kept| kept.fits(&item)) => Due::Never,
            Stay::Brief => Due::Now,
            Stay::For(span) => Due::At(Instant::now() + span),
            Stay::UntilLetGo => Due::LetGo,
        };
        let mut items = self.items();
        let places = items.waiting.len() + 1;
        let place = match behaviour.copies {
            Copies::Together => places - 1,
            // Anywhere: no order is kept.
            Copies::PerRecipient => {
                let random = usize::try_from(scattered(0, item.number) >> 32).unwrap_or(0);
                random % places
            }
        };
        items.waiting.insert(place, (due, item));
    }

    fn enter_instead(
        &self,
        copy: Item,
        treatment: Treatment,
        behaviour: &Behaviour,
        at: Timestamp,
    ) {
        let number = at.as_nanosecond() + i128::from(self.house.number());
        let pen = Pen { host: &self.house.host, date: &date(at), number };
        let letter = match treatment {
            Treatment::Store => None,
            Treatment::Notify(notified) => pen.notice(&copy, notified),
            Treatment::Bounce => pen.bounce(&copy),
        };
        match letter {
            None => self.settle(&copy),
            Some(Letter { envelope, message_id, wire }) => {
                let wire = wire.into();
                self.enter(Item { envelope, message_id, wire, ..copy }, behaviour);
            }
        }
    }

    /// What the next hop answered to an item: what is left of it is put back.
    fn answered(&self, item: Item, next_hop: SocketAddr, replies: &[Reply]) -> Sent {
        let next_hop = next_hop.to_string();
        for (recipient, reply) in item.envelope.recipients().iter().zip(replies) {
            let when = match reply {
                reply if reply.is_positive() => When::Relayed,
                reply if reply.is_permanent() => When::Refused,
                _ => When::Deferred,
            };
            let text = format!("{} {}", reply.code(), reply.text_lossy());
            self.house.tell(when, &item, recipient.path.address(), &next_hop, &text);
        }
        let (envelope, refused) = remaining(&item.envelope, replies);
        self.refused.fetch_add(refused, Ordering::SeqCst);
        match envelope {
            None => {
                self.settle(&item);
                Sent::Whole
            }
            Some(envelope) => {
                self.put_back(Item { envelope, ..item });
                Sent::NotYet
            }
        }
    }

    /// An item could not be sent, or no reply was heard: like a real server, this one sends it again.
    fn unheard(&self, item: Item, next_hop: SocketAddr, error: &SendError) -> Sent {
        let (next_hop, error) = (next_hop.to_string(), error.to_string());
        for recipient in item.envelope.recipients() {
            let recipient = recipient.path.address();
            self.house.tell(When::Deferred, &item, recipient, &next_hop, &error);
        }
        self.put_back(item);
        Sent::NotYet
    }
}

/// What an attempt came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Whole,
    NotYet,
}

impl Mailroom for Queue {
    fn take(&self, message: Message) -> Answer {
        if self.tally().inside() >= self.max {
            return Reply::INSUFFICIENT_STORAGE.into();
        }
        let behaviour = self.house.behaviour();
        if behaviour.dots_ignored.as_ref().is_some_and(Share::picks) {
            return Answer::Close;
        }
        let origin = self.accept(&message, &behaviour);
        if behaviour.replies_lost.as_ref().is_some_and(Share::picks) {
            return Answer::Close;
        }
        Reply::new(250, format!("2.0.0 Ok: {}", origin.name)).into()
    }

    fn connected(&self) -> u64 {
        self.house.connections.made()
    }
}

/// The Message-ID of mail data, without angle brackets; empty if there is none.
fn message_id(wire: &[u8]) -> String {
    let mut header = HeaderPeek::new();
    header.push(wire);
    header.finish();
    let id = header.message_id().unwrap_or_default();
    id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap_or(id).to_owned()
}

pub(super) async fn send_on(queue: Arc<Queue>, next_hop: SocketAddr) {
    let mut idle: Option<Connection> = None;
    loop {
        let item = queue.pop().await;
        let connection = match idle.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(next_hop, &queue.house.host).await,
        };
        let replies = match connection {
            Ok(mut connection) => {
                let replies = connection.send(&item.envelope, &item.wire).await;
                if replies.is_ok() && connection.sent() < REUSE_MAX {
                    idle = Some(connection);
                }
                replies
            }
            Err(error) => Err(error),
        };
        let sent = match replies {
            Ok(replies) => queue.answered(item, next_hop, &replies),
            Err(error) => queue.unheard(item, next_hop, &error),
        };
        if sent == Sent::NotYet {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// The forward-paths to try again after 4yz, and how many were refused.
pub(in super::super) fn remaining(
    envelope: &Envelope,
    replies: &[Reply],
) -> (Option<Envelope>, u64) {
    let reply = |index: usize| replies.get(index);
    let again = |index: usize, _: &Recipient| reply(index).is_none_or(Reply::is_transient);
    let refused = replies.iter().filter(|reply| reply.is_permanent()).count();
    (envelope.narrowed(again), u64::try_from(refused).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use smtp::{ForwardPath, MailParameters, RcptParameters, ReversePath, Sender};

    use super::*;

    fn item(number: u64) -> Item {
        let sender = Sender {
            path: ReversePath::parse("<a@b>").unwrap(),
            parameters: MailParameters::default(),
        };
        let recipient = Recipient {
            path: ForwardPath::parse("<c@d>").unwrap(),
            parameters: RcptParameters::default(),
        };
        Item {
            origin: Origin { name: "SMTP-00000".to_owned(), pid: 1 },
            message_id: String::new(),
            envelope: Envelope::new(sender, recipient),
            wire: Arc::new([]),
            number,
            left: Arc::new(AtomicUsize::new(1)),
        }
    }

    #[test]
    fn an_item_leaves_when_it_is_due_and_not_before() {
        let start = Instant::now();
        let hour = Duration::from_secs(3600);
        let mut items = Items::default();
        items.waiting.push_back((Due::Never, item(0)));
        items.waiting.push_back((Due::LetGo, item(1)));
        assert!(matches!(items.next(start), Next::Nothing));
        items.waiting.push_back((Due::At(start + 2 * hour), item(2)));
        items.waiting.push_back((Due::At(start + hour), item(3)));
        assert!(matches!(items.next(start), Next::At(at) if at == start + hour));
        assert!(matches!(items.next(start + hour), Next::Item(item) if item.number == 3));
        items.waiting.push_back((Due::Now, item(4)));
        assert!(matches!(items.next(start), Next::Item(item) if item.number == 4));
        assert_eq!((items.waiting.len(), items.sending.len()), (3, 2));
    }

    #[test]
    fn the_message_id_is_told_without_brackets() {
        assert_eq!(message_id(b"To: x\r\nMessage-Id:  <1@a>\r\n\r\nbody\r\n"), "1@a");
        assert_eq!(message_id(b"Message-ID: odd\r\n\r\n"), "odd");
        assert_eq!(message_id(b"Subject: none\r\n\r\nMessage-ID: <1@a>\r\n"), "");
    }
}
