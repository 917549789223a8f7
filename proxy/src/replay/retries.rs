//! When which message is tried again: one entry per message, however often it is put in.
//!
//! Not here: how long to wait (`schedule`).

use std::collections::{BTreeSet, HashMap};

use crate::spool::SpoolId;

/// Messages by the time of their next try, in milliseconds since the epoch.
#[derive(Debug, Default)]
pub(super) struct Retries {
    by_time: BTreeSet<(u64, SpoolId)>,
    times: HashMap<SpoolId, u64>,
}

impl Retries {
    /// Puts a message in, or moves it.
    pub(super) fn put(&mut self, at_unix_ms: u64, id: SpoolId) {
        if let Some(before) = self.times.insert(id, at_unix_ms) {
            self.by_time.remove(&(before, id));
        }
        self.by_time.insert((at_unix_ms, id));
    }

    /// Is it in here?
    pub(super) fn contains(&self, id: SpoolId) -> bool {
        self.times.contains_key(&id)
    }

    /// Takes a message out, whenever it is due.
    pub(super) fn remove(&mut self, id: SpoolId) {
        if let Some(at) = self.times.remove(&id) {
            self.by_time.remove(&(at, id));
        }
    }

    /// Takes the first message that is due.
    pub(super) fn pop_due(&mut self, now_unix_ms: u64) -> Option<SpoolId> {
        let (at, id) = self.by_time.first().copied()?;
        if at > now_unix_ms {
            return None;
        }
        self.remove(id);
        Some(id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u64) -> SpoolId {
        crate::id::TransactionId::from_u64(number).to_string().parse().unwrap()
    }

    #[test]
    fn a_message_that_is_put_in_again_moves_and_is_not_doubled() {
        let mut retries = Retries::default();
        for at in [50, 10, 30] {
            retries.put(at, id(1));
        }
        assert_eq!(retries.pop_due(29), None);
        assert_eq!(retries.pop_due(30), Some(id(1)));
        assert_eq!(retries.pop_due(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn each_message_comes_out_once_at_its_last_time_in_order(
            puts in proptest::collection::vec((0_u64..50, 0_u64..8), 0..60),
        ) {
            let mut retries = Retries::default();
            let mut last = HashMap::new();
            for (at, number) in puts {
                retries.put(at, id(number));
                last.insert(id(number), at);
            }
            let mut out = Vec::new();
            while let Some(id) = retries.pop_due(100) {
                out.push((last[&id], id));
            }
            let mut expected: Vec<_> = last.into_iter().map(|(id, at)| (at, id)).collect();
            expected.sort_unstable();
            prop_assert_eq!(out, expected);
        }
    }
}
