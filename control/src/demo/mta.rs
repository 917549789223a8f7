//! The embedded MTA: sends a steady stream of mail through the gates, both ways, and receives it.
//!
//! Like a real one it keeps what is answered 4yz and tries again. Every message carries an id of its
//! own and a sum of its body, so that what arrives can be counted and compared.
//!
//! Invariants: a forward-path counts as handed over only by a 2yz to the end of mail data; it is
//! delivered exactly once, or the [`Count`] says what is wrong.
//!
//! Not here: the wire (`send`, `receive`), the story around it (`story`).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use smtp::{
    Envelope, ForwardPath, MailParameters, RcptParameters, Recipient, Reply, ReversePath, Sender,
    stuff,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::receive::{Answer, Host, Mailroom, Message, Receiver, any_port};
use super::send::{Connection, SendError};
use super::server::{now, remaining};

/// Connections to each gate.
const CONNECTIONS: usize = 4;
/// Messages over one connection.
const REUSE_MAX: u32 = 50;
/// Pause before a deferred message is tried again; a real MTA waits minutes.
const RETRY: Duration = Duration::from_millis(500);
/// Name of the MTA.
const NAME: &str = "mta.example.org";

/// One way through lockgate.
#[derive(Clone, Copy, Debug)]
pub struct Direction {
    /// `outbound` or `inbound`.
    pub name: &'static str,
    /// The gate.
    pub gate: SocketAddr,
    /// Domain of the senders.
    pub from: &'static str,
    /// Domain of the recipients.
    pub to: &'static str,
}

/// A running MTA.
#[derive(Debug)]
pub struct Mta {
    book: Arc<Book>,
    receiver: Receiver,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Mta {
    /// Listens for processed mail; sends nothing yet.
    pub async fn start() -> io::Result<Self> {
        let book = Arc::new(Book::default());
        let host = Host { name: NAME.to_owned(), product: "demo MTA".to_owned() };
        let receiver = Receiver::start(any_port(), host, Arc::clone(&book)).await?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        Ok(Self { book, receiver, stop, tasks })
    }

    /// Where processed mail is received.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.receiver.address()
    }

    /// Sends `messages` in turn over `directions`, one every `pause`.
    pub fn send(&self, directions: &[Direction], messages: u64, pause: Duration) {
        let lanes: Vec<Arc<Lane>> =
            directions.iter().map(|direction| Arc::new(Lane::new(*direction))).collect();
        let stream = Stream {
            book: Arc::clone(&self.book),
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
            first: self.book.lock().created,
        };
        self.tasks.spawn(stream.run(lanes, messages, pause));
    }

    /// The count so far.
    #[must_use]
    pub fn count(&self) -> Count {
        self.book.count()
    }

    /// Stops sending and receiving; the last count.
    pub async fn stop(self) -> Count {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.receiver.stop().await;
        self.book.count()
    }
}

/// What went out and what came back, by message and forward-path.
#[derive(Debug, Default)]
struct Book {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    created: u64,
    deferrals: u64,
    refused: u64,
    /// (id, forward-path): sum of the body, handed over, arrived.
    paths: HashMap<(String, String), Path>,
    /// Arrivals by version of the server that processed them.
    by_server: BTreeMap<String, u64>,
    strangers: u64,
}

#[derive(Debug)]
struct Path {
    sum: String,
    handed_over: bool,
    arrived: u64,
    altered: u64,
    unprocessed: u64,
}

/// The result of the demo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Messages made.
    pub messages: u64,
    /// Deliveries to be expected: one for each forward-path of each message.
    pub expected: u64,
    /// Of these, handed over to a gate by its 2yz.
    pub handed_over: u64,
    /// Of these, arrived at least once.
    pub delivered: u64,
    /// Handed over and not arrived.
    pub missing: u64,
    /// Arrived more than once.
    pub duplicated: u64,
    /// Arrived with another body than was sent.
    pub altered: u64,
    /// Arrived without the mark of the encryption server.
    pub unprocessed: u64,
    /// Forward-paths refused for ever.
    pub refused: u64,
    /// Answers 4yz and lost connections, after which the MTA tried again.
    pub deferrals: u64,
    /// Arrivals that the MTA never sent, such as probes.
    pub others: u64,
    /// Arrivals by version of the server that processed them.
    pub by_server: BTreeMap<String, u64>,
}

impl Count {
    /// Was everything delivered exactly once, unchanged, and through the server?
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.delivered == self.expected
            && self.handed_over == self.expected
            && self.missing == 0
            && self.duplicated == 0
            && self.altered == 0
            && self.unprocessed == 0
            && self.refused == 0
    }

    /// Has everything arrived that was made?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.delivered + self.refused >= self.expected && self.handed_over >= self.delivered
    }
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Pages> {
        // Counts stay right when a task that held the lock has panicked.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn created(&self, letter: &Letter) {
        let mut pages = self.lock();
        pages.created += 1;
        for recipient in letter.envelope.recipients() {
            let key = (letter.id.clone(), recipient.path.address().to_owned());
            let path = Path {
                sum: letter.sum.clone(),
                handed_over: false,
                arrived: 0,
                altered: 0,
                unprocessed: 0,
            };
            pages.paths.insert(key, path);
        }
    }

    fn answered(&self, id: &str, envelope: &Envelope, replies: &[Reply]) {
        let mut pages = self.lock();
        for (recipient, reply) in envelope.recipients().iter().zip(replies) {
            if reply.is_positive() {
                let key = (id.to_owned(), recipient.path.address().to_owned());
                if let Some(path) = pages.paths.get_mut(&key) {
                    path.handed_over = true;
                }
            } else if reply.is_permanent() {
                pages.refused += 1;
            } else {
                pages.deferrals += 1;
            }
        }
    }

    fn count(&self) -> Count {
        let pages = self.lock();
        let number = |wanted: fn(&Path) -> bool| {
            u64::try_from(pages.paths.values().filter(|path| wanted(path)).count())
                .unwrap_or(u64::MAX)
        };
        Count {
            messages: pages.created,
            expected: number(|_| true),
            handed_over: number(|path| path.handed_over),
            delivered: number(|path| path.arrived > 0),
            missing: number(|path| path.handed_over && path.arrived == 0),
            duplicated: number(|path| path.arrived > 1),
            altered: number(|path| path.altered > 0),
            unprocessed: number(|path| path.unprocessed > 0),
            refused: pages.refused,
            deferrals: pages.deferrals,
            others: pages.strangers,
            by_server: pages.by_server.clone(),
        }
    }
}

impl Mailroom for Book {
    fn take(&self, message: Message) -> Answer {
        let (fields, body) = split(&message.wire);
        let server = fields.get("x-demo-server").cloned();
        let processed = fields.contains_key("x-pgp-universal");
        let sum = sum(body);
        let mut pages = self.lock();
        for recipient in message.envelope.recipients() {
            let id = fields.get("x-demo-id").cloned().unwrap_or_default();
            match pages.paths.get_mut(&(id, recipient.path.address().to_owned())) {
                Some(path) => {
                    path.arrived += 1;
                    path.altered += u64::from(path.sum != sum);
                    path.unprocessed += u64::from(!processed);
                    let server = server.clone().unwrap_or_else(|| "none".to_owned());
                    *pages.by_server.entry(server).or_default() += 1;
                }
                None => pages.strangers += 1,
            }
        }
        Reply::new(250, "2.0.0 Ok: queued").into()
    }
}

/// Header fields by lower-case name, the first of each, and the body; in wire form.
fn split(wire: &[u8]) -> (HashMap<String, String>, &[u8]) {
    let mut fields = HashMap::new();
    let mut rest = wire;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let (line, after) = (&rest[..end], &rest[end + 2..]);
        rest = after;
        if line.is_empty() {
            break;
        }
        let line = String::from_utf8_lossy(line);
        if let Some((name, value)) = line.split_once(':')
            && !name.contains([' ', '\t'])
        {
            fields.entry(name.to_ascii_lowercase()).or_insert_with(|| value.trim().to_owned());
        }
    }
    (fields, rest)
}

/// FNV-1a, 64 bits: enough to see a changed body, and short.
fn sum(body: &[u8]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for octet in body {
        hash = (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// A message of the stream.
struct Letter {
    id: String,
    envelope: Envelope,
    wire: Vec<u8>,
    sum: String,
}

impl Letter {
    /// Letter `number`: sizes from a line to some hundred KiB, lines with dots, now and then a
    /// second recipient or the null reverse-path.
    fn new(direction: Direction, number: u64) -> Option<Self> {
        let id = format!("{}-{number:06}", direction.name);
        let mailbox = |name: &str, domain| format!("<{name}{}@{domain}>", number % 7);
        let (from, to) = (mailbox("alice", direction.from), mailbox("bob", direction.to));
        let sender = if number % 23 == 22 { "<>".to_owned() } else { from.clone() };
        let sender = Sender {
            path: ReversePath::parse(&sender).ok()?,
            parameters: MailParameters::default(),
        };
        let recipient = |path: &str| {
            let path = ForwardPath::parse(path).ok()?;
            Some(Recipient { path, parameters: RcptParameters::default() })
        };
        let mut envelope = Envelope::new(sender, recipient(&to)?);
        if number % 10 == 9 {
            envelope.push(recipient(&mailbox("carol", direction.to))?);
        }
        let mut body = Vec::new();
        stuff(&text(number), &mut body);
        let sum = sum(&body);
        let mut wire = format!(
            "Date: {}\r\nFrom: {from}\r\nTo: {to}\r\nSubject: demo message {number}\r\n\
             Message-ID: <{id}@{}>\r\nX-Demo-Id: {id}\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\r\n",
            now(),
            direction.from,
        )
        .into_bytes();
        wire.extend_from_slice(&body);
        Some(Self { id, envelope, wire, sum })
    }
}

/// CRLF text for letter `number`.
fn text(number: u64) -> Vec<u8> {
    let lines = match number % 50 {
        0 => 0,
        49 => 3000,
        n => 1 + n * n % 150,
    };
    let mut text = Vec::new();
    for line in 0..lines {
        let dots = if line % 11 == 3 { "." } else { "" };
        text.extend_from_slice(
            format!(
                "{dots}Line {line} of demo message {number}: nothing to see here, all is well.\r\n"
            )
            .as_bytes(),
        );
    }
    if number.is_multiple_of(5) {
        text.extend_from_slice(b".\r\n..\r\n");
    }
    text
}

/// One direction's connections.
struct Lane {
    direction: Direction,
    slots: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Lane {
    fn new(direction: Direction) -> Self {
        Self { direction, slots: Semaphore::new(CONNECTIONS), idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One try. An idle connection may have been closed meanwhile: then a new one, once.
    async fn try_once(&self, envelope: &Envelope, wire: &[u8]) -> Result<Vec<Reply>, SendError> {
        let idle = self.idle().pop();
        if let Some(connection) = idle {
            match self.over(connection, envelope, wire).await {
                Err(SendError::Unsent(_)) => {}
                done => return done,
            }
        }
        let connection = Connection::open(self.direction.gate, NAME).await?;
        self.over(connection, envelope, wire).await
    }

    async fn over(
        &self,
        mut connection: Connection,
        envelope: &Envelope,
        wire: &[u8],
    ) -> Result<Vec<Reply>, SendError> {
        let replies = connection.send(envelope, wire).await?;
        if connection.sent() < REUSE_MAX {
            self.idle().push(connection);
        } else {
            connection.quit().await;
        }
        Ok(replies)
    }

    async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle());
        for connection in idle {
            connection.quit().await;
        }
    }
}

/// The stream of letters.
struct Stream {
    book: Arc<Book>,
    stop: CancellationToken,
    tasks: TaskTracker,
    first: u64,
}

impl Stream {
    async fn run(self, lanes: Vec<Arc<Lane>>, messages: u64, pause: Duration) {
        let mut clock = tokio::time::interval(pause.max(Duration::from_micros(100)));
        // After a stall the stream catches up: a count of messages is promised, not a rhythm.
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        for (number, lane) in (self.first..self.first + messages).zip(lanes.iter().cycle()) {
            tokio::select! {
                () = self.stop.cancelled() => break,
                _ = clock.tick() => {}
            }
            let Some(letter) = Letter::new(lane.direction, number) else {
                continue;
            };
            self.book.created(&letter);
            let carry = carry(Arc::clone(&self.book), Arc::clone(lane), letter, self.stop.clone());
            self.tasks.spawn(carry);
        }
        self.stop.cancelled().await;
        for lane in lanes {
            lane.close().await;
        }
    }
}

/// Hands one letter over, however often it has to be tried.
async fn carry(book: Arc<Book>, lane: Arc<Lane>, letter: Letter, stop: CancellationToken) {
    let mut envelope = letter.envelope;
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => return,
            slot = lane.slots.acquire() => slot,
        };
        match lane.try_once(&envelope, &letter.wire).await {
            Ok(replies) => {
                book.answered(&letter.id, &envelope, &replies);
                match remaining(&envelope, &replies).0 {
                    None => return,
                    Some(left) => envelope = left,
                }
            }
            Err(error) => {
                tracing::debug!(id = letter.id, %error, "demo message deferred");
                book.lock().deferrals += 1;
            }
        }
        drop(slot);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::server::{Options, Route, Server};
    use super::*;

    fn direction(gate: SocketAddr) -> Direction {
        Direction { name: "outbound", gate, from: "example.org", to: "example.net" }
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let looks = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), looks).await.unwrap();
    }

    /// Goal: without lockgate between them, MTA and server agree on every message.
    #[tokio::test]
    async fn the_actors_alone_deliver_exactly_once() {
        let mta = Mta::start().await.unwrap();
        let route = Route { listen: any_port(), next_hop: mta.address() };
        let server = Server::start(Options::new("keys.example.org", "10.5", vec![route]));
        let server = server.await.unwrap();
        mta.send(&[direction(server.addresses()[0])], 120, Duration::from_micros(100));
        until(|| mta.count().messages == 120 && mta.count().is_complete()).await;
        let tally = server.stop().await;
        let count = mta.stop().await;
        assert!(count.is_exact(), "{count:?}");
        assert_eq!(count.expected, 132, "each tenth message has two recipients");
        assert_eq!((tally.accepted, tally.inside()), (120, 0));
        assert_eq!(count.by_server.get("keys.example.org 10.5"), Some(&132));
    }

    #[tokio::test]
    async fn while_nothing_listens_the_mta_keeps_its_mail_and_tries_again() {
        let mta = Mta::start().await.unwrap();
        let route = Route { listen: any_port(), next_hop: mta.address() };
        let server = Server::start(Options::new("keys.example.org", "10.5", vec![route]));
        let server = server.await.unwrap();
        let listen = server.addresses()[0];
        server.stop().await;
        mta.send(&[direction(listen)], 3, Duration::from_micros(100));
        until(|| mta.count().deferrals >= 3).await;
        assert_eq!(mta.count().handed_over, 0);
        let route = Route { listen, next_hop: mta.address() };
        let server = Server::start(Options::new("keys.example.org", "11.0", vec![route]));
        let server = server.await.unwrap();
        until(|| mta.count().is_complete()).await;
        server.stop().await;
        let count = mta.stop().await;
        assert!(count.is_exact(), "{count:?}");
        assert_eq!(count.by_server.get("keys.example.org 11.0"), Some(&3));
    }

    #[tokio::test]
    async fn a_server_whose_plug_is_pulled_loses_what_is_inside_and_the_count_says_so() {
        let mta = Mta::start().await.unwrap();
        // Nobody listens at its next hop, so everything stays inside.
        let nowhere = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let route = Route { listen: any_port(), next_hop: nowhere };
        let server = Server::start(Options::new("keys.example.org", "10.5", vec![route]));
        let server = server.await.unwrap();
        mta.send(&[direction(server.addresses()[0])], 4, Duration::from_micros(100));
        until(|| mta.count().handed_over == 4).await;
        assert_eq!(server.kill().await.inside(), 4);
        let count = mta.stop().await;
        assert!(!count.is_exact());
        assert_eq!(count.missing, 4);
    }

    #[test]
    fn a_count_is_exact_only_when_every_number_is_right() {
        let good =
            Count { messages: 2, expected: 3, handed_over: 3, delivered: 3, ..Count::default() };
        assert!(good.is_exact() && good.is_complete());
        for bad in [
            Count { delivered: 2, missing: 1, ..good.clone() },
            Count { duplicated: 1, ..good.clone() },
            Count { altered: 1, ..good.clone() },
            Count { unprocessed: 1, ..good.clone() },
            Count { refused: 1, ..good.clone() },
            Count { handed_over: 2, ..good.clone() },
        ] {
            assert!(!bad.is_exact(), "{bad:?}");
        }
    }

    #[test]
    fn fields_and_body_are_told_apart() {
        let (fields, body) = split(b"A: 1\r\nX-Demo-Id: x\r\n y\r\nA: 2\r\n\r\nB: 3\r\n");
        assert_eq!(fields.get("a").map(String::as_str), Some("1"));
        assert_eq!(fields.get("x-demo-id").map(String::as_str), Some("x"));
        assert_eq!(body, b"B: 3\r\n");
        assert_ne!(sum(b"a"), sum(b"b"));
    }
}
