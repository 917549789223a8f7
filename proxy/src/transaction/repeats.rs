//! Messages that were passed on and whose end is uncertain, so that one that comes again is known.
//!
//! In pass we hold no copy: a client whose message got no valid reply hears 451 and sends it again. Where the logs have
//! shown meanwhile that the member took it, the same message need not be handed over twice.
//!
//! Invariants
//! - A message is the same when its reverse-path, its size and the SHA-256 of its mail data as received are, and each of
//!   its forward-paths was taken.
//! - Each forward-path answers for one repetition: a second equal message may be meant as another.
//! - What is not proven, too old, or one too many is forgotten, and then passed on: a duplicate is better than a loss.
//!
//! Not here: the proof (control's drain), what the client hears (`mod`). Nothing of this survives a restart.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::id::TransactionId;

/// Messages kept; of more the oldest go.
const KEPT_MAX: usize = 10_000;

/// How long one is kept: the longest time for which clients try again (RFC 5321 §4.5.4.1).
const KEPT: Duration = Duration::from_secs(5 * 86_400);

/// By what a message is known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Print {
    /// Reverse-path, as written.
    pub from: String,
    /// Octets of mail data, as received.
    pub size: u64,
    /// SHA-256 over them.
    pub sha256: [u8; 32],
}

/// A message with an uncertain end.
#[derive(Debug)]
struct Passed {
    id: TransactionId,
    at: Instant,
    print: Print,
    /// Forward-paths, as written, for which no repetition was answered yet.
    to: Vec<String>,
    /// A member took it.
    taken: bool,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Repeats(Mutex<VecDeque<Passed>>);

impl Repeats {
    /// Each change leaves it whole, so that a panic elsewhere says nothing against it.
    fn kept(&self) -> MutexGuard<'_, VecDeque<Passed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a message whose end is uncertain.
    pub fn note(&self, id: TransactionId, print: Print, to: Vec<String>, now: Instant) {
        let mut kept = self.kept();
        kept.retain(|passed| now.saturating_duration_since(passed.at) < KEPT);
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Passed { id, at: now, print, to, taken: false });
    }

    /// Those of which nobody has said yet that they were taken.
    #[must_use]
    pub fn waiting(&self) -> Vec<TransactionId> {
        self.kept().iter().filter(|passed| !passed.taken).map(|passed| passed.id).collect()
    }

    /// A member took this one. False: it is not known (any more), or was known as taken.
    pub fn taken(&self, id: TransactionId) -> bool {
        let mut kept = self.kept();
        let passed = kept.iter_mut().find(|passed| passed.id == id && !passed.taken);
        passed.is_some_and(|passed| {
            passed.taken = true;
            true
        })
    }

    /// Was this message, for all of these forward-paths, taken under another id? They are not known another time.
    pub fn known(&self, print: &Print, to: &[String]) -> Option<TransactionId> {
        let mut kept = self.kept();
        let place = kept.iter().position(|passed| {
            passed.taken && passed.print == *print && to.iter().all(|path| passed.to.contains(path))
        });
        let passed = kept.get_mut(place.filter(|_| !to.is_empty())?)?;
        passed.to.retain(|path| !to.contains(path));
        let id = passed.id;
        if passed.to.is_empty() {
            kept.retain(|passed| passed.id != id);
        }
        Some(id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn print(octet: u8) -> Print {
        Print { from: "<a@x.test>".into(), size: 10, sha256: [octet; 32] }
    }

    fn to(paths: &[&str]) -> Vec<String> {
        paths.iter().map(ToString::to_string).collect()
    }

    const ID: TransactionId = TransactionId::from_u64(7);

    fn with_one(paths: &[&str]) -> Repeats {
        let repeats = Repeats::default();
        repeats.note(ID, print(1), to(paths), Instant::now());
        repeats
    }

    #[test]
    fn only_what_was_taken_is_known_again() {
        let repeats = with_one(&["<b@y.test>"]);
        assert_eq!(repeats.waiting(), [ID]);
        assert_eq!(repeats.known(&print(1), &to(&["<b@y.test>"])), None);
        assert!(repeats.taken(ID));
        assert!(!repeats.taken(ID), "said before");
        assert!(repeats.waiting().is_empty());
        assert_eq!(repeats.known(&print(1), &to(&["<b@y.test>"])), Some(ID));
        assert_eq!(repeats.known(&print(1), &to(&["<b@y.test>"])), None, "once");
    }

    #[test]
    fn another_content_sender_size_or_recipient_is_another_message() {
        let repeats = with_one(&["<b@y.test>"]);
        repeats.taken(ID);
        let others =
            [print(2), Print { from: "<>".into(), ..print(1) }, Print { size: 11, ..print(1) }];
        for other in others {
            assert_eq!(repeats.known(&other, &to(&["<b@y.test>"])), None, "{other:?}");
        }
        assert_eq!(repeats.known(&print(1), &to(&["<b@y.test>", "<c@y.test>"])), None);
        assert_eq!(repeats.known(&print(1), &[]), None, "nobody is no repetition");
        assert_eq!(repeats.known(&print(1), &to(&["<b@y.test>"])), Some(ID), "it is still there");
    }

    #[test]
    fn recipients_may_come_again_one_by_one() {
        let repeats = with_one(&["<b@y.test>", "<c@y.test>"]);
        repeats.taken(ID);
        assert_eq!(repeats.known(&print(1), &to(&["<c@y.test>"])), Some(ID));
        assert_eq!(repeats.known(&print(1), &to(&["<b@y.test>", "<c@y.test>"])), None);
        assert_eq!(repeats.known(&print(1), &to(&["<b@y.test>"])), Some(ID));
    }

    #[test]
    fn what_is_too_old_or_one_too_many_is_forgotten() {
        let repeats = Repeats::default();
        let begin = Instant::now();
        for id in 0..=KEPT_MAX as u64 {
            repeats.note(TransactionId::from_u64(id), print(1), to(&["<b@y.test>"]), begin);
        }
        assert!(!repeats.taken(TransactionId::from_u64(0)), "the oldest gave way");
        assert!(repeats.taken(TransactionId::from_u64(1)));
        repeats.note(ID, print(1), to(&["<b@y.test>"]), begin + KEPT);
        assert_eq!(repeats.waiting(), [ID], "the others' time is over");
    }
}
