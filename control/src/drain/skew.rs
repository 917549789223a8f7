//! How far the clock of a log is from ours, bounded by matched pairs.
//!
//! A server notes the arrival of a message between the moment at which we began the transaction and the one at
//! which we heard its reply. Each pair of a sure key gives a lower and an upper bound of the offset; together
//! they close in on it.
//!
//! Invariant: bounds that contradict one another (a clock was set) are not averaged: the new pair begins anew,
//! and that is counted.
//!
//! Not here: what a time window is used for (`correlate`).

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// What a stamp without fraction may be early, in milliseconds.
const RESOLUTION: i64 = 1000;

/// Offset of a log's clock to ours, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skew {
    bounds: Option<(i64, i64)>,
    /// Pairs that it rests on.
    pub pairs: u64,
    /// How often the pairs contradicted the ones before: the clock was set.
    pub jumps: u64,
}

impl Skew {
    /// A line stamped `stamp` belongs to what happened between `from` and `to` by our clock.
    pub fn pair(&mut self, stamp: Moment, from: Moment, to: Moment) {
        let (low, high) = (stamp.since(to), stamp.since(from).saturating_add(RESOLUTION));
        if low > high {
            return;
        }
        self.pairs += 1;
        let (low, high) = match self.bounds {
            Some((known_low, known_high)) if known_low.max(low) <= known_high.min(high) => {
                (known_low.max(low), known_high.min(high))
            }
            Some(_) => {
                self.jumps += 1;
                (low, high)
            }
            None => (low, high),
        };
        self.bounds = Some((low, high));
    }

    /// The offset lies between these, if any pair was seen.
    #[must_use]
    pub const fn bounds(self) -> Option<(i64, i64)> {
        self.bounds
    }

    /// Can a line stamped between `earliest` and `latest` belong to what happened from `from` to `to`? Before any pair
    /// was seen, an offset of up to `most` is allowed.
    #[must_use]
    pub fn allows(
        self,
        (earliest, latest): (Moment, Moment),
        (from, to): (Moment, Moment),
        most: i64,
    ) -> bool {
        let (low, high) = self.bounds.map_or((-most, most), |(low, high)| {
            // Clocks drift, and threads are late to write.
            (low - 2 * RESOLUTION, high + 2 * RESOLUTION)
        });
        latest.plus(RESOLUTION) >= from.plus(low) && earliest <= to.plus(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_close_in_on_the_offset() {
        let mut skew = Skew::default();
        skew.pair(Moment(120_000), Moment(0), Moment(5_000));
        assert_eq!(skew.bounds(), Some((115_000, 121_000)));
        skew.pair(Moment(220_000), Moment(100_000), Moment(100_300));
        assert_eq!(skew.bounds(), Some((119_700, 121_000)));
        assert_eq!((skew.pairs, skew.jumps), (2, 0));
    }

    #[test]
    fn a_clock_that_was_set_begins_anew_and_is_counted() {
        let mut skew = Skew::default();
        skew.pair(Moment(120_000), Moment(0), Moment(1_000));
        skew.pair(Moment(200_000), Moment(200_000), Moment(200_500));
        assert_eq!(skew.bounds(), Some((-500, 1_000)));
        assert_eq!(skew.jumps, 1);
    }

    #[test]
    fn a_window_moves_with_the_offset() {
        let mut skew = Skew::default();
        let at = |ms| (Moment(ms), Moment(ms));
        let window = (Moment(10_000), Moment(11_000));
        assert!(
            skew.allows(at(200_000), window, 300_000),
            "nothing is known: minutes are possible"
        );
        assert!(!skew.allows(at(400_000), window, 300_000));
        skew.pair(Moment(120_000), Moment(0), Moment(500));
        assert!(skew.allows(at(130_000), window, 300_000));
        assert!(!skew.allows(at(10_000), window, 300_000));
    }
}
