//! When a held message is tried again, and when it is given up (RFC 5321 §4.5.4.1).
//!
//! The wait doubles from `first` to `longest` and strays by a tenth, so that what failed together
//! does not come back together. How far it strays follows from a seed: the same message and attempt
//! give the same wait, also after a restart.
//!
//! Invariants
//! - The lifetime counts running time while the release was open. Time on hold, and time while
//!   lockgate was down, is nobody's failure to deliver.
//!
//! Not here: a clock, what an outcome means (`attempt`), how many run at once (`pace`).

use std::time::Duration;

/// Shortest wait; a schedule without one would try in a loop.
const SHORTEST: Duration = Duration::from_millis(100);

/// Steps by which a wait strays: a tenth down to a tenth up, in millionths.
const STRAY_FROM: u64 = 900_000;
const STRAY_STEPS: u64 = 200_001;
const MILLION: u64 = 1_000_000;

/// When to try again, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Wait after the first attempt.
    pub first: Duration,
    /// Longest wait between two attempts, before it strays.
    pub longest: Duration,
    /// After so much open time a message that was never taken is given up. RFC 5321 §4.5.4.1 asks
    /// for four to five days at least.
    pub lifetime: Duration,
}

impl Schedule {
    /// How long to wait after the attempt that made it `attempts` in all.
    #[must_use]
    pub fn next(&self, attempts: u32, seed: u64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let plain = self.first.saturating_mul(1 << doublings).min(self.longest);
        let stray = STRAY_FROM + scatter(seed, attempts) % STRAY_STEPS;
        let nanos = plain.as_nanos().saturating_mul(u128::from(stray)) / u128::from(MILLION);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).max(SHORTEST)
    }

    /// Is a message given up that was due for `open` in all while the release was open and lockgate
    /// ran?
    #[must_use]
    pub fn is_over(&self, open: Duration) -> bool {
        open >= self.lifetime
    }
}

/// Spreads a seed and a number of attempts over 64 bits (splitmix64): ids that follow one another
/// must not give waits that do.
const fn scatter(seed: u64, attempts: u32) -> u64 {
    let step = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bits = seed.wrapping_add(step.wrapping_mul(attempts as u64 + 1));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEDULE: Schedule = Schedule {
        first: Duration::from_secs(60),
        longest: Duration::from_secs(3600),
        lifetime: Duration::from_secs(5 * 86_400),
    };

    /// The wait is that many seconds, give or take a tenth.
    fn about(wait: Duration, seconds: u64) -> bool {
        let expected = Duration::from_secs(seconds);
        wait >= expected.mul_f64(0.9) && wait <= expected.mul_f64(1.1)
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let expected =
            [(1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (8, 3600), (u32::MAX, 3600)];
        for (attempts, seconds) in expected {
            let wait = SCHEDULE.next(attempts, 7);
            assert!(about(wait, seconds), "after {attempts}: {wait:?}");
        }
    }

    #[test]
    fn what_failed_together_does_not_come_back_together() {
        let mut waits: Vec<Duration> = (0..1_000).map(|seed| SCHEDULE.next(1, seed)).collect();
        let (least, most) = (*waits.iter().min().unwrap(), *waits.iter().max().unwrap());
        assert!(most - least > Duration::from_secs(11), "spread over {:?}", most - least);
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 900, "only {} different waits", waits.len());
    }

    #[test]
    fn a_message_is_given_up_after_its_open_time() {
        assert!(!SCHEDULE.is_over(SCHEDULE.lifetime - Duration::from_millis(1)));
        assert!(SCHEDULE.is_over(SCHEDULE.lifetime));
    }

    proptest! {
        #[test]
        fn any_schedule_gives_the_same_wait_again_and_never_none(
            first: u32, longest: u32, attempts: u32, seed: u64,
        ) {
            let schedule = Schedule {
                first: Duration::from_secs(first.into()),
                longest: Duration::from_secs(longest.into()),
                lifetime: Duration::ZERO,
            };
            let wait = schedule.next(attempts, seed);
            prop_assert_eq!(wait, schedule.next(attempts, seed));
            prop_assert!(wait >= SHORTEST);
            prop_assert!(wait <= schedule.longest.mul_f64(1.1).max(SHORTEST));
        }
    }
}
