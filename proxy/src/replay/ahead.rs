//! Messages read before their turn: many with one hop to a thread that may block.
//!
//! Invariants
//! - No more is kept than [`MESSAGES_MAX`] messages with [`OCTETS_MAX`] octets, and one reading beyond.
//! - What was read says nothing of where a message stands: whoever takes it asks the spool again.
//!
//! Not here: reading (`attempt::load`), the order of attempts (`queue`).

use std::collections::{HashMap, HashSet};

use super::attempt::Loaded;
use crate::spool::SpoolId;

/// Messages kept at most.
const MESSAGES_MAX: usize = 256;

/// Octets kept, at most, about: of each message its first frame.
const OCTETS_MAX: usize = 4 << 20;

/// Messages of one reading.
const READING_MAX: usize = 64;

/// What is kept, and what is being read.
#[derive(Default)]
pub(super) struct Ahead {
    read: HashMap<SpoolId, Loaded>,
    octets: usize,
    reading: HashSet<SpoolId>,
    /// What could not be read: its attempt reads it, not another reading.
    unread: HashSet<SpoolId>,
}

impl Ahead {
    /// Which of `next` (in the order of their turns) are to be read now, for so many connections: none
    /// while others are being read, or while there is enough.
    pub(super) fn begin(
        &mut self,
        next: impl Iterator<Item = SpoolId>,
        connections: u32,
    ) -> Vec<SpoolId> {
        let enough = self.read.len() >= MESSAGES_MAX / 2 || self.octets >= OCTETS_MAX / 2;
        if enough || !self.reading.is_empty() {
            return Vec::new();
        }
        let known = |id: &SpoolId| self.read.contains_key(id) || self.unread.contains(id);
        let unread = next.take(MESSAGES_MAX).filter(|id| !known(id));
        // At first few: the next attempt waits for the whole reading.
        let most = (connections as usize * 2).min(READING_MAX);
        let ids: Vec<SpoolId> = unread.take(most).collect();
        self.reading.extend(&ids);
        ids
    }

    /// Would `octets` more be too many for one reading?
    pub(super) const fn is_enough(octets: usize) -> bool {
        octets >= OCTETS_MAX / 2
    }

    /// The reading that was begun ended with these; of the others `unread` could not be read.
    pub(super) fn came(&mut self, loaded: Vec<Loaded>, unread: Vec<SpoolId>) {
        for loaded in loaded {
            // Taken out meanwhile, or all of them given up: nobody asks for it here.
            if self.reading.contains(&loaded.id()) {
                self.octets += loaded.octets();
                self.read.insert(loaded.id(), loaded);
            }
        }
        self.unread.extend(unread.into_iter().filter(|id| self.reading.contains(id)));
        self.reading.clear();
    }

    /// Is it being read now?
    pub(super) fn is_reading(&self, id: SpoolId) -> bool {
        self.reading.contains(&id)
    }

    /// The message, if it was read; it is not kept any longer.
    pub(super) fn take(&mut self, id: SpoolId) -> Option<Loaded> {
        self.reading.remove(&id);
        self.unread.remove(&id);
        let loaded = self.read.remove(&id)?;
        self.octets -= loaded.octets();
        Some(loaded)
    }

    /// Keeps nothing, nor what is being read now: it will not be wanted soon.
    pub(super) fn clear(&mut self) {
        self.read.clear();
        self.reading.clear();
        self.unread.clear();
        self.octets = 0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::id::TransactionId;

    fn ids(numbers: std::ops::Range<u64>) -> impl Iterator<Item = SpoolId> {
        numbers.map(|number| TransactionId::from_u64(number).to_string().parse().unwrap())
    }

    #[test]
    fn one_reading_at_a_time_and_at_first_a_small_one() {
        let mut ahead = Ahead::default();
        let reading = ahead.begin(ids(1..1000), 2);
        assert_eq!(reading, ids(1..5).collect::<Vec<_>>());
        assert!(reading.iter().all(|id| ahead.is_reading(*id)));
        assert!(ahead.begin(ids(5..1000), 2).is_empty());
        // Nothing could be read: their attempts will say why, and no reading tries them again.
        ahead.came(Vec::new(), reading.clone());
        assert!(!ahead.is_reading(reading[0]));
        let next = ahead.begin(ids(1..1000), 100);
        assert_eq!((next.len(), next[0]), (READING_MAX, ids(5..6).next().unwrap()));
        ahead.clear();
        assert_eq!(ahead.begin(ids(1..1000), 2), reading);
    }

    #[test]
    fn what_was_taken_out_while_it_was_read_is_not_waited_for() {
        let mut ahead = Ahead::default();
        let reading = ahead.begin(ids(1..3), 2);
        assert!(ahead.take(reading[0]).is_none());
        assert!(!ahead.is_reading(reading[0]));
        assert!(ahead.is_reading(reading[1]));
    }
}
