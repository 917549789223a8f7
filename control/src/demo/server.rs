//! An encryption-server stand-in: takes mail, marks it as the real one does, sends it on.
//!
//! What it shows on the wire follows what is publicly known of the product: its trace field has
//! neither `with` nor `id`, and every message it processed carries `X-PGP-Universal: processed;`,
//! encrypted or not. It encrypts nothing.
//!
//! Invariants: a message it answered 250 is in its queue, in memory, until its next hop has answered
//! 2yz; stopping cleanly empties the queue first. Pulling the plug ([`Server::kill`]) loses it, as a
//! wiped disk does.
//!
//! Not here: policy. Tests use it too, behind real mail systems.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smtp::{Envelope, Recipient, Reply};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::receive::{Host, Mailroom, Message, Receiver};
use super::send::{Connection, SendError};

/// Pause before a message is sent again.
const RETRY: Duration = Duration::from_millis(200);
/// Messages over one connection.
const REUSE_MAX: u32 = 100;

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Host name: its identity. A new version of the same server keeps it.
    pub host: String,
    /// Version, in greeting and marks.
    pub version: String,
    /// Listeners, each with the next hop of its direction: an MTA, or a return gate.
    pub routes: Vec<Route>,
    /// Connections to each next hop.
    pub senders: usize,
    /// Messages in its queue; beyond it answers 452.
    pub queue_max: usize,
}

/// One direction.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Where it listens; port 0 for any.
    pub listen: SocketAddr,
    /// Where processed mail goes.
    pub next_hop: SocketAddr,
}

impl Options {
    /// A server with the usual limits.
    #[must_use]
    pub fn new(host: &str, version: &str, routes: Vec<Route>) -> Self {
        Self {
            host: host.to_owned(),
            version: version.to_owned(),
            routes,
            senders: 4,
            queue_max: 10_000,
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    lanes: Vec<Lane>,
    senders: JoinSet<()>,
}

#[derive(Debug)]
struct Lane {
    address: SocketAddr,
    receiver: Option<Receiver>,
    queue: Arc<Queue>,
}

/// What a server did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages answered 250.
    pub accepted: u64,
    /// Messages the next hop has answered, 2yz or 5yz, for every forward-path.
    pub done: u64,
    /// Forward-paths that the next hop refused with 5yz.
    pub refused: u64,
}

impl Tally {
    /// Messages inside.
    #[must_use]
    pub const fn inside(self) -> u64 {
        self.accepted.saturating_sub(self.done)
    }
}

impl Server {
    /// Listens on every route.
    pub async fn start(options: Options) -> io::Result<Self> {
        let mut server = Self { lanes: Vec::new(), senders: JoinSet::new() };
        for route in &options.routes {
            let queue = Arc::new(Queue::new(&options));
            let host = Host {
                name: options.host.clone(),
                product: format!("PGP Universal service {}", options.version),
            };
            let receiver = Receiver::start(route.listen, host, Arc::clone(&queue)).await?;
            for _ in 0..options.senders {
                server.senders.spawn(send_on(Arc::clone(&queue), route.next_hop));
            }
            let address = receiver.address();
            server.lanes.push(Lane { address, receiver: Some(receiver), queue });
        }
        Ok(server)
    }

    /// Where it listens, in the order of its routes.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.lanes.iter().map(|lane| lane.address).collect()
    }

    /// What it did so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lanes.iter().fold(Tally::default(), |sum, lane| {
            let tally = lane.queue.tally();
            Tally {
                accepted: sum.accepted + tally.accepted,
                done: sum.done + tally.done,
                refused: sum.refused + tally.refused,
            }
        })
    }

    /// Waits until nothing is inside.
    pub async fn drained(&self) {
        for lane in &self.lanes {
            lane.queue.drained().await;
        }
    }

    /// Clean stop: takes nothing more, empties its queue, goes.
    pub async fn stop(mut self) -> Tally {
        for receiver in self.lanes.iter_mut().filter_map(|lane| lane.receiver.take()) {
            receiver.stop().await;
        }
        self.drained().await;
        let tally = self.tally();
        self.senders.shutdown().await;
        tally
    }

    /// Pulls the plug: what is inside is lost, and told by the tally.
    pub async fn kill(mut self) -> Tally {
        self.senders.shutdown().await;
        let tally = self.tally();
        for receiver in self.lanes.iter_mut().filter_map(|lane| lane.receiver.take()) {
            receiver.stop().await;
        }
        tally
    }
}

/// Messages between the server's 250 and the next hop's.
#[derive(Debug)]
struct Queue {
    host: String,
    version: String,
    max: u64,
    waiting: Mutex<VecDeque<Item>>,
    arrived: Notify,
    left: Notify,
    accepted: AtomicU64,
    done: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Item {
    envelope: Envelope,
    wire: Vec<u8>,
}

impl Queue {
    fn new(options: &Options) -> Self {
        Self {
            host: options.host.clone(),
            version: options.version.clone(),
            max: u64::try_from(options.queue_max).unwrap_or(u64::MAX),
            waiting: Mutex::default(),
            arrived: Notify::new(),
            left: Notify::new(),
            accepted: AtomicU64::new(0),
            done: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn tally(&self) -> Tally {
        // `done` first: it never runs ahead of an `accepted` that is read later.
        let done = self.done.load(Ordering::SeqCst);
        Tally {
            accepted: self.accepted.load(Ordering::SeqCst),
            done,
            refused: self.refused.load(Ordering::SeqCst),
        }
    }

    fn push(&self, item: Item) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(item);
        self.arrived.notify_one();
    }

    async fn pop(&self) -> Item {
        loop {
            let item = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(item) = item {
                // Another sender may take the next one.
                self.arrived.notify_one();
                return item;
            }
            self.arrived.notified().await;
        }
    }

    async fn drained(&self) {
        loop {
            let left = self.left.notified();
            if self.tally().inside() == 0 {
                return;
            }
            left.await;
        }
    }

    fn settle(&self, refused: u64) {
        self.refused.fetch_add(refused, Ordering::SeqCst);
        self.done.fetch_add(1, Ordering::SeqCst);
        self.left.notify_waiters();
    }

    /// The marks that the server puts in front of what it processed.
    fn marks(&self, message: &Message) -> Vec<u8> {
        let (host, date) = (&self.host, now());
        let mut wire = format!(
            "Received: from {name} ([{ip}])\r\n  by {host} (PGP Universal service);\r\n  {date}\r\n\
             X-PGP-Universal: processed;\r\n        by {host} on {date}\r\n\
             X-Demo-Server: {host} {version}\r\n",
            name = message.client_name,
            ip = message.client.ip(),
            version = self.version,
        )
        .into_bytes();
        wire.extend_from_slice(&message.wire);
        wire
    }
}

impl Mailroom for Queue {
    fn take(&self, message: Message) -> Reply {
        if self.tally().inside() >= self.max {
            return Reply::INSUFFICIENT_STORAGE;
        }
        let wire = self.marks(&message);
        let number = self.accepted.fetch_add(1, Ordering::SeqCst);
        self.push(Item { envelope: message.envelope, wire });
        Reply::new(250, format!("2.0.0 Ok: SMTP-{number:05}"))
    }
}

/// Now, as in a header field (RFC 5322 §3.3).
pub(super) fn now() -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::rfc2822::to_string(&now).unwrap_or_default()
}

async fn send_on(queue: Arc<Queue>, next_hop: SocketAddr) {
    let mut idle: Option<Connection> = None;
    loop {
        let item = queue.pop().await;
        let connection = match idle.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(next_hop, &queue.host).await,
        };
        let sent = match connection {
            Ok(mut connection) => {
                let sent = connection.send(&item.envelope, &item.wire).await;
                if sent.is_ok() && connection.sent() < REUSE_MAX {
                    idle = Some(connection);
                }
                sent
            }
            Err(error) => Err(error),
        };
        match sent.map(|replies| remaining(&item.envelope, &replies)) {
            Ok((None, refused)) => queue.settle(refused),
            Ok((Some(envelope), refused)) => {
                queue.refused.fetch_add(refused, Ordering::SeqCst);
                queue.push(Item { envelope, wire: item.wire });
                tokio::time::sleep(RETRY).await;
            }
            // Like a real server, it sends again when it did not hear the reply.
            Err(SendError::Unsent(_) | SendError::Lost(_) | SendError::Refused(_)) => {
                queue.push(item);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The forward-paths to try again after 4yz, and how many were refused.
pub(super) fn remaining(envelope: &Envelope, replies: &[Reply]) -> (Option<Envelope>, u64) {
    let reply = |index: usize| replies.get(index);
    let again = |index: usize, _: &Recipient| reply(index).is_none_or(Reply::is_transient);
    let refused = replies.iter().filter(|reply| reply.is_permanent()).count();
    (envelope.narrowed(again), u64::try_from(refused).unwrap_or(u64::MAX))
}
