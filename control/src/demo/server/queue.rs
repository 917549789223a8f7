//! The queue of the stand-in: messages between its 250 and the next hop's, and how they leave.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smtp::{Envelope, Recipient, Reply};
use tokio::sync::Notify;

use super::super::receive::{Mailroom, Message};
use super::super::send::{Connection, SendError};
use super::{Options, Tally, now};

/// Pause before a message is sent again.
const RETRY: Duration = Duration::from_millis(200);
/// Messages over one connection.
const REUSE_MAX: u32 = 100;

/// Messages between the server's 250 and the next hop's.
#[derive(Debug)]
pub(super) struct Queue {
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
    pub(super) fn new(options: &Options) -> Self {
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

    pub(super) fn tally(&self) -> Tally {
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

    pub(super) async fn drained(&self) {
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

pub(super) async fn send_on(queue: Arc<Queue>, next_hop: SocketAddr) {
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
pub(in super::super) fn remaining(
    envelope: &Envelope,
    replies: &[Reply],
) -> (Option<Envelope>, u64) {
    let reply = |index: usize| replies.get(index);
    let again = |index: usize, _: &Recipient| reply(index).is_none_or(Reply::is_transient);
    let refused = replies.iter().filter(|reply| reply.is_permanent()).count();
    (envelope.narrowed(again), u64::try_from(refused).unwrap_or(u64::MAX))
}
