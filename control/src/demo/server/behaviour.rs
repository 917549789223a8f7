//! How the stand-in treats mail beside taking it, marking it and sending it on.
//!
//! Everything is off by default. Whatever is left to chance here is counted or seeded: the same
//! values give the same choices again.
//!
//! Not here: how it is done (`queue`, `letters`), the Mail log (`log`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::SignedDuration;

use super::queue::Item;

/// What the server does with mail; may change while it runs.
///
/// What was taken stays under the behaviour of that moment.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// How long a message stays inside.
    pub stay: Stay,
    /// Messages that never leave, whatever `stay` says.
    pub kept: Option<Choice>,
    /// What leaves for a message with several forward-paths.
    pub copies: Copies,
    /// Messages that it takes and does not answer: it closes the connection instead.
    pub replies_lost: Option<Share>,
    /// Messages that it does not take, closing the connection behind their final dot.
    pub dots_ignored: Option<Share>,
    /// Messages that leave in another form or not at all; the first choice that fits decides.
    pub treatments: Vec<(Choice, Treatment)>,
    /// How far its clock, in marks and in the log, is ahead of the right time.
    pub clock_skew: SignedDuration,
    /// When a line of the Mail log appears.
    pub lateness: Lateness,
}

/// How long a message stays inside before it is sent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stay {
    /// As short as can be.
    #[default]
    Brief,
    /// For so long.
    For(Duration),
    /// Until [`Handle::let_go`](super::Handle::let_go).
    UntilLetGo,
}

/// What leaves for a message with several forward-paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// One message with all of them.
    #[default]
    Together,
    /// One message for each, as the real server does; the order is not kept.
    PerRecipient,
}

/// What leaves instead of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Nothing: it is stored, to be read on the web.
    Store,
    /// It is stored, and a notice of it leaves: a message of the server's own.
    Notify(Notified),
    /// A report to the sender, with a null reverse-path.
    Bounce,
}

/// To whom a notice goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    /// The one who sent the message.
    Sender,
    /// Those to whom it was sent.
    Recipient,
}

/// When a line of the Mail log appears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lateness {
    /// At once.
    #[default]
    Prompt,
    /// After so many further messages.
    Messages(u64),
    /// At [`Handle::flush_log`](super::Handle::flush_log).
    UntilFlushed,
}

/// Which messages something happens to, by what they are.
#[derive(Clone)]
pub struct Choice(Arc<Test>);

/// The question that a choice asks.
type Test = dyn Fn(&Item) -> bool + Send + Sync;

impl Choice {
    /// Those for which `test` holds.
    #[must_use]
    pub fn by(test: impl Fn(&Item) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(test))
    }

    /// All.
    #[must_use]
    pub fn all() -> Self {
        Self::by(|_| true)
    }

    /// Those to this address, among others.
    #[must_use]
    pub fn to(address: &str) -> Self {
        let address = address.to_owned();
        Self::by(move |item| {
            item.envelope.recipients().iter().any(|one| one.path.address() == address)
        })
    }

    /// Those with this Message-ID, given without angle brackets.
    #[must_use]
    pub fn message_id(id: &str) -> Self {
        let id = id.to_owned();
        Self::by(move |item| item.message_id == id)
    }

    /// Of these, the first that comes; clones share the one.
    #[must_use]
    pub fn first(self) -> Self {
        let taken = AtomicBool::new(false);
        Self::by(move |item| self.fits(item) && !taken.swap(true, Ordering::SeqCst))
    }

    pub(super) fn fits(&self, item: &Item) -> bool {
        (self.0)(item)
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice").finish_non_exhaustive()
    }
}

/// A share of the messages; clones go on counting together.
#[derive(Clone, Debug)]
pub struct Share {
    measure: Measure,
    seen: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
enum Measure {
    Every(u64),
    Random { per_cent: u64, seed: u64 },
}

impl Share {
    /// Every `k`-th, the first `k - 1` excepted; none for 0.
    #[must_use]
    pub fn every(k: u64) -> Self {
        Self { measure: Measure::Every(k), seen: Arc::default() }
    }

    /// So many of a hundred, here and there; the same ones for the same seed.
    #[must_use]
    pub fn random(per_cent: u64, seed: u64) -> Self {
        Self { measure: Measure::Random { per_cent, seed }, seen: Arc::default() }
    }

    /// Is the next message one of them?
    pub(super) fn picks(&self) -> bool {
        let seen = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        match self.measure {
            Measure::Every(k) => k > 0 && seen.is_multiple_of(k),
            Measure::Random { per_cent, seed } => scattered(seed, seen) % 100 < per_cent,
        }
    }
}

/// Number `n` of a sequence that looks random (splitmix64).
pub(super) const fn scattered(seed: u64, n: u64) -> u64 {
    let z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(share: &Share, of: usize) -> Vec<usize> {
        (1..=of).filter(|_| share.picks()).collect()
    }

    #[test]
    fn every_kth_is_counted_over_all_clones() {
        let share = Share::every(3);
        assert_eq!(picked(&share, 7), [3, 6]);
        assert_eq!(picked(&share.clone(), 4), [2], "the ninth");
        assert!(picked(&Share::every(0), 10).is_empty());
    }

    #[test]
    fn a_random_share_is_the_same_for_the_same_seed_and_about_as_large_as_told() {
        let once = picked(&Share::random(20, 7), 1000);
        assert_eq!(once, picked(&Share::random(20, 7), 1000));
        assert_ne!(once, picked(&Share::random(20, 8), 1000));
        assert!((150..250).contains(&once.len()), "{}", once.len());
        assert!(picked(&Share::random(0, 7), 100).is_empty());
        assert_eq!(picked(&Share::random(100, 7), 100).len(), 100);
    }
}
