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
//! Not here: what is inside and how it leaves (`queue`), policy. Tests use it too, behind real mail
//! systems.

mod queue;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::receive::{Host, Receiver};
use queue::{Queue, send_on};

pub(super) use queue::remaining;

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

/// Now, as in a header field (RFC 5322 §3.3).
pub(super) fn now() -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::rfc2822::to_string(&now).unwrap_or_default()
}
