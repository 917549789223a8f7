//! An encryption-server stand-in: takes mail, marks it as the real one does, sends it on.
//!
//! What it shows on the wire follows what is publicly known of the product: its trace field has
//! neither `with` nor `id`, and every message it processed carries `X-PGP-Universal: processed;`,
//! encrypted or not. It encrypts nothing.
//!
//! Invariants: a message it answered 250 is in its queue, in memory, until its next hop has answered
//! 2yz; stopping cleanly empties the queue first. Pulling the plug ([`Server::kill`]) loses it, as a
//! wiped disk does. Where [`Behaviour`] has it keep a message, a clean stop waits for ever.
//!
//! For tests it can do more, all off by default: write a Mail log ([`log`]), keep mail inside, split
//! it, store it, answer it with a letter of its own, and lose replies ([`behaviour`]).
//!
//! Not here: what is inside and how it leaves (`queue`), policy. Tests use it too, behind real mail
//! systems.

pub mod behaviour;
pub mod log;

mod letters;
mod queue;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::receive::{Host, Receiver};
use queue::{House, Queue, send_on};

pub use behaviour::{Behaviour, Choice, Copies, Lateness, Notified, Share, Stay, Treatment};
pub use log::{Extra, Origin, Settings as Log, Target, When};
pub use queue::Item;

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
    /// What it does with mail at first.
    pub behaviour: Behaviour,
    /// Its Mail log, if it writes one.
    pub log: Option<Log>,
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
            behaviour: Behaviour::default(),
            log: None,
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    house: Arc<House>,
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
        let house = Arc::new(House::new(&options));
        let mut server = Self { house, lanes: Vec::new(), senders: JoinSet::new() };
        for route in &options.routes {
            let queue = Arc::new(Queue::new(&options, Arc::clone(&server.house)));
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

    /// What changes the running server, also from elsewhere.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let queues = self.lanes.iter().map(|lane| Arc::clone(&lane.queue)).collect();
        Handle { house: Arc::clone(&self.house), queues }
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

/// Changes a running server, and tells what is inside; outlives it without effect.
#[derive(Clone, Debug)]
pub struct Handle {
    house: Arc<House>,
    queues: Vec<Arc<Queue>>,
}

impl Handle {
    /// Changes what it does with mail that comes from now on.
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        self.house.change(change);
    }

    /// Everything that is inside, of all directions and in no order: what a proof is judged by.
    #[must_use]
    pub fn inside(&self) -> Vec<Item> {
        self.queues.iter().flat_map(|queue| queue.inside()).collect()
    }

    /// Sends on what is inside, but for what is kept for ever.
    pub fn let_go(&self) {
        for queue in &self.queues {
            queue.let_go();
        }
    }

    /// Numbers connections from 0 again, as another process.
    pub fn restart_counter(&self) {
        self.house.connections.restart();
    }

    /// Writes the lines of the Mail log that are late.
    pub fn flush_log(&self) {
        if let Some(log) = &self.house.log {
            log.flush();
        }
    }

    /// What happens from now on is not in the Mail log.
    pub fn stop_logging(&self) {
        if let Some(log) = &self.house.log {
            log.stop();
        }
    }

    /// The Mail log goes on; what happened since it was stopped is missing.
    pub fn resume_logging(&self) {
        if let Some(log) = &self.house.log {
            log.resume();
        }
    }
}

/// The clock on the wall.
fn clock() -> Timestamp {
    Timestamp::now()
}

/// Now, as in a header field (RFC 5322 §3.3).
pub(super) fn now() -> String {
    date(clock())
}

/// A moment, as in a header field (RFC 5322 §3.3).
fn date(at: Timestamp) -> String {
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::rfc2822::to_string(&at).unwrap_or_default()
}
