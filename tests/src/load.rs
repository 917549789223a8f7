//! Many messages over several connections.
//!
//! Each connection is a thread with a raw client that takes the next message when it is done with
//! one. What happened to each is kept: accepted, refused, or unknown (final dot sent, no reply).
//! With [`Load::until_accepted`] it behaves as a queueing MTA does: what was not accepted is sent
//! again, over a new connection where the old one is gone, until all are or the time is up.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Client, Receipt, Style};
use crate::mail::Mail;
use crate::wait;

/// How messages are sent.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// Connections at a time.
    pub connections: usize,
    /// Lock-step or pipelined.
    pub style: Style,
    /// Longest wait for one reply.
    pub limit: Duration,
}

/// What became of one message, over all its attempts.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Receipt of each attempt that got as far as MAIL.
    pub attempts: Vec<Receipt>,
}

impl Sent {
    /// Was it accepted in the end?
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.attempts.iter().any(Receipt::accepted)
    }

    /// How many attempts ended after the final dot without a reply: each may have left a copy.
    #[must_use]
    pub fn unknown(&self) -> usize {
        self.attempts.iter().filter(|receipt| receipt.unknown()).count()
    }
}

/// What a running load has done so far; other threads may look.
#[derive(Debug, Default)]
pub struct Progress {
    accepted: AtomicUsize,
    stop: AtomicBool,
}

impl Progress {
    /// Messages accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Asks the load to end after the messages under way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// Over four connections, pipelined, 30 s for each reply.
    #[must_use]
    pub const fn to(address: SocketAddr) -> Self {
        let limit = Duration::from_secs(30);
        Self { address, connections: 4, style: Style::Pipelined, limit }
    }

    /// Over so many connections.
    #[must_use]
    pub const fn over(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Each message once; the outcomes are in the order of `mails`.
    #[must_use]
    pub fn once(self, mails: &[Mail]) -> Vec<Sent> {
        self.run(mails, Duration::ZERO, &Progress::default())
    }

    /// Each message once; fails unless every one was accepted.
    ///
    /// # Panics
    /// Naming those that were not.
    #[track_caller]
    pub fn all_accepted(self, mails: &[Mail]) {
        let sent = self.once(mails);
        let failed: Vec<_> = mails.iter().zip(&sent).filter(|(_, sent)| !sent.accepted()).collect();
        let names: Vec<_> = failed.iter().take(5).map(|(mail, sent)| (mail.key(), sent)).collect();
        assert!(failed.is_empty(), "{} not accepted, the first: {names:#?}", failed.len());
    }

    /// Sends again what was not accepted, until all is, `limit` is over, or `progress` is stopped.
    #[must_use]
    pub fn until_accepted(self, mails: &[Mail], limit: Duration, progress: &Progress) -> Vec<Sent> {
        self.run(mails, limit, progress)
    }

    fn run(self, mails: &[Mail], again: Duration, progress: &Progress) -> Vec<Sent> {
        let queue = Mutex::new((0..mails.len()).collect::<VecDeque<usize>>());
        let sent = Mutex::new(vec![Sent::default(); mails.len()]);
        let left = AtomicUsize::new(mails.len());
        let deadline = Instant::now() + again;
        std::thread::scope(|scope| {
            for _ in 0..self.connections.min(mails.len()) {
                scope.spawn(|| {
                    let mut client = None;
                    while left.load(Ordering::Relaxed) > 0 && !progress.stop.load(Ordering::Relaxed)
                    {
                        let Some(n) = queue.lock().unwrap().pop_front() else {
                            // Another thread may give one back.
                            if again.is_zero() {
                                break;
                            }
                            wait::let_pass(Duration::from_millis(2));
                            continue;
                        };
                        let receipt = self.attempt(&mut client, &mails[n]);
                        let accepted = receipt.as_ref().is_some_and(Receipt::accepted);
                        sent.lock().unwrap()[n].attempts.extend(receipt);
                        if accepted {
                            progress.accepted.fetch_add(1, Ordering::Relaxed);
                            left.fetch_sub(1, Ordering::Relaxed);
                        } else if Instant::now() < deadline {
                            queue.lock().unwrap().push_back(n);
                            wait::let_pass(Duration::from_millis(10));
                        } else {
                            left.fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                    if let Some(mut client) = client {
                        // A courtesy: the server may be gone.
                        client.try_command("QUIT").ok();
                    }
                });
            }
        });
        sent.into_inner().unwrap()
    }

    /// One attempt over the open connection or a new one; `None` when there is no session.
    fn attempt(self, client: &mut Option<Client>, mail: &Mail) -> Option<Receipt> {
        if client.is_none() {
            *client = Client::try_open(self.address, None).ok().map(|new| new.patient(self.limit));
        }
        let receipt = client.as_mut()?.transaction(mail, self.style);
        let closing = receipt.last().is_some_and(|reply| reply.code == 421);
        if receipt.lost.is_some() || closing {
            *client = None;
        }
        Some(receipt)
    }
}
