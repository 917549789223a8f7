//! How fast the spool grows, and so how long it will last.
//!
//! Pure: the caller brings time and octets. Not here: where they come from (`mod`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(300);

/// Samples nearer to one another than this say nothing new.
const STEP: Duration = Duration::from_secs(5);

/// A rate over less than this is noise.
const BASIS: Duration = Duration::from_secs(10);

/// Octets held at moments of the last minutes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Growth {
    samples: VecDeque<(Instant, u64)>,
}

impl Growth {
    /// Notes how many octets are held now.
    pub(super) fn note(&mut self, now: Instant, bytes: u64) {
        let old = |at: &Instant| now.saturating_duration_since(*at) > WINDOW;
        while self.samples.front().is_some_and(|(at, _)| old(at)) {
            self.samples.pop_front();
        }
        let last = self.samples.back().map(|(at, _)| now.saturating_duration_since(*at));
        if last.is_none_or(|since| since >= STEP) {
            self.samples.push_back((now, bytes));
        }
    }

    /// Seconds until `room` octets are used up at the rate of the last minutes; none when the spool
    /// does not grow, or was not watched for long enough to say.
    pub(super) fn full_in_s(&self, now: Instant, bytes: u64, room: u64) -> Option<f64> {
        let (at, then) = self.samples.front()?;
        let span = now.saturating_duration_since(*at);
        if span < BASIS || bytes <= *then {
            return None;
        }
        let octets_per_second = (bytes - then) as f64 / span.as_secs_f64();
        Some(room as f64 / octets_per_second)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_spool_that_grows_is_full_when_its_room_is_used_up() {
        let start = Instant::now();
        let mut growth = Growth::default();
        growth.note(start, 1_000);
        growth.note(after(start, 10), 2_000);
        let left = growth.full_in_s(after(start, 20), 3_000, 50_000).unwrap();
        assert!((left - 500.0).abs() < 1e-6, "{left}");
    }

    #[test]
    fn a_spool_that_stands_or_shrinks_is_never_full() {
        let start = Instant::now();
        let mut growth = Growth::default();
        growth.note(start, 1_000);
        assert_eq!(growth.full_in_s(after(start, 60), 1_000, 1), None);
        assert_eq!(growth.full_in_s(after(start, 60), 10, 1), None);
    }

    #[test]
    fn nothing_is_said_from_a_moment_of_watching() {
        let start = Instant::now();
        let mut growth = Growth::default();
        growth.note(start, 0);
        assert_eq!(growth.full_in_s(after(start, 9), 1_000_000, 1), None);
        assert!(growth.full_in_s(after(start, 10), 1_000_000, 1).is_some());
    }

    #[test]
    fn growth_before_the_window_is_forgotten_and_samples_stay_few() {
        let start = Instant::now();
        let mut growth = Growth::default();
        for second in 0..3_600 {
            // A burst in the first minute, then nothing.
            growth.note(after(start, second), second.min(60) * 1_000);
        }
        assert_eq!(growth.full_in_s(after(start, 3_600), 60_000, 1), None);
        assert!(growth.samples.len() <= 61, "{}", growth.samples.len());
    }
}
