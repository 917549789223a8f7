//! What the attempts since a release came to: counts, the rate, and the guard against a member that
//! refuses too much.
//!
//! Invariant: pure; the caller says which second it is.

use std::collections::VecDeque;

use super::config::Config;
use crate::outcome::Outcome;

/// Attempts before the share of refusals counts.
const REFUSED_SAMPLE: u64 = 50;

/// Seconds over which the rate is shown.
const RATE_WINDOW: usize = 5;

/// Counts of ended attempts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Relayed since the release.
    pub(super) relayed: u64,
    /// Refused since the release.
    pub(super) refused: u64,
    sample: Sample,
    /// Ends of attempts in each of the last seconds.
    ends: VecDeque<(u64, u64)>,
}

/// Attempts since the release, or since a person said go on: what the guard looks at.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    tried: u64,
    refused: u64,
    refused_in_a_row: u32,
}

impl Tally {
    /// A release, or a person who says go on: everything counts from now.
    pub(super) fn begin_again(&mut self) {
        (self.relayed, self.refused) = (0, 0);
        self.sample = Sample::default();
    }

    /// An attempt ended.
    pub(super) fn count(&mut self, outcome: Outcome, second: u64) {
        self.sample.tried += 1;
        match outcome {
            Outcome::Relayed => {
                self.relayed += 1;
                self.sample.refused_in_a_row = 0;
            }
            Outcome::Refused => {
                self.refused += 1;
                self.sample.refused += 1;
                self.sample.refused_in_a_row += 1;
            }
            _ => {}
        }
        match self.ends.back_mut() {
            Some((at, count)) if *at == second => *count += 1,
            _ => self.ends.push_back((second, 1)),
        }
        while self.ends.len() > RATE_WINDOW + 1 {
            self.ends.pop_front();
        }
    }

    /// Messages per second over the last full seconds.
    pub(super) fn rate(&self, second: u64) -> f64 {
        let oldest = second.saturating_sub(RATE_WINDOW as u64);
        let recent = || self.ends.iter().filter(|(at, _)| *at >= oldest);
        let count: u64 = recent().map(|(_, count)| count).sum();
        let seconds = recent().next().map_or(1, |(first, _)| (second - first).max(1));
        count as f64 / seconds as f64
    }

    /// The reason to pause, when the member refuses too much.
    pub(super) fn guard(&self, config: &Config) -> Option<String> {
        let Sample { tried, refused, refused_in_a_row } = self.sample;
        if refused_in_a_row >= config.refused_in_a_row_max {
            return Some(format!("{refused_in_a_row} messages in a row were refused"));
        }
        let percent = refused as f64 * 100.0 / tried.max(1) as f64;
        (tried >= REFUSED_SAMPLE && percent >= config.refused_percent_max && refused > 0)
            .then(|| format!("{percent:.1} % of {tried} messages were refused"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(outcomes: impl IntoIterator<Item = Outcome>) -> Tally {
        let mut tally = Tally::default();
        for outcome in outcomes {
            tally.count(outcome, 0);
        }
        tally
    }

    #[test]
    fn five_refused_in_a_row_pause_and_four_do_not() {
        let config = Config::default();
        assert!(after([Outcome::Refused; 4]).guard(&config).is_none());
        assert!(after([Outcome::Refused; 5]).guard(&config).is_some());
        let broken = [Outcome::Refused, Outcome::Refused, Outcome::Relayed]
            .into_iter()
            .chain([Outcome::Refused; 4]);
        assert!(after(broken).guard(&config).is_none(), "one that was taken breaks the row");
    }

    #[test]
    fn two_percent_refused_pause_once_fifty_were_tried() {
        let config = Config::default();
        let one_in = |count: usize| {
            after((0..count).map(|n| if n == 3 { Outcome::Refused } else { Outcome::Relayed }))
        };
        assert!(one_in(49).guard(&config).is_none(), "too few to judge");
        assert!(one_in(50).guard(&config).is_some(), "1 of 50 is 2 %");
        assert!(one_in(51).guard(&config).is_none(), "1 of 51 is less");
        assert!(after([Outcome::Relayed; 100]).guard(&config).is_none());
    }

    #[test]
    fn the_guard_forgives_when_a_person_says_go_on() {
        let mut tally = after([Outcome::Refused; 5]);
        assert_eq!(tally.refused, 5);
        tally.begin_again();
        assert!(tally.guard(&Config::default()).is_none());
        assert_eq!(tally.refused, 0);
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut tally = Tally::default();
        for second in 0..20 {
            for _ in 0..10 {
                tally.count(Outcome::Relayed, second);
            }
        }
        assert!((tally.rate(20) - 10.0).abs() < 0.01, "{}", tally.rate(20));
        assert!(tally.rate(60).abs() < f64::EPSILON);
    }
}
