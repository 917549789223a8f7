//! `[replay]`: pace, schedule and guard of replay.

use std::time::Duration;

use serde::Deserialize;

use super::pace::Limits;
use super::schedule::Schedule;

/// `[replay]`: how held mail is given to the members.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections at most, per gate; reached step by step.
    pub connections_max: u32,
    /// Messages per second at most, per gate.
    pub messages_per_second_max: f64,
    /// Milliseconds in which nothing starts after a push-back (a lost link, 421, 4yz); doubles while only push-backs come,
    /// up to half a minute.
    pub pause_first_ms: u64,
    /// Seconds to the second try of a deferred message; doubles with every further try.
    pub retry_first_s: u64,
    /// Longest pause in seconds between tries.
    pub retry_longest_s: u64,
    /// Lifetime of a held message in seconds, counted only while its gate was released.
    pub lifetime_s: u64,
    /// Refused messages in a row that pause the replay (a new server that lacks a route).
    pub refused_in_a_row_max: u32,
    /// Share of refused messages in percent, after the first fifty, that pauses the replay.
    pub refused_percent_max: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 20,
            messages_per_second_max: 500.0,
            pause_first_ms: 1000,
            retry_first_s: 60,
            retry_longest_s: 3600,
            lifetime_s: 5 * 24 * 3600,
            refused_in_a_row_max: 5,
            refused_percent_max: 2.0,
        }
    }
}

impl Config {
    /// Checks what a type cannot.
    ///
    /// # Errors
    /// What is wrong, and the mend.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=10_000).contains(&self.connections_max) {
            return Err("[replay] connections_max must be 1 to 10000".into());
        }
        if !(self.messages_per_second_max > 0.0 && self.messages_per_second_max <= 1e6) {
            return Err(
                "[replay] messages_per_second_max must be above 0 and at most 1000000".into()
            );
        }
        if !(1..=30_000).contains(&self.pause_first_ms) {
            return Err("[replay] pause_first_ms must be 1 to 30000".into());
        }
        if self.retry_first_s == 0 || self.retry_first_s > self.retry_longest_s {
            return Err(
                "[replay] retry_first_s must be at least 1 and at most retry_longest_s".into()
            );
        }
        if self.refused_in_a_row_max == 0 || !(0.0..=100.0).contains(&self.refused_percent_max) {
            return Err(
                "[replay] refused_in_a_row_max must be at least 1, refused_percent_max 0 to 100"
                    .into(),
            );
        }
        Ok(())
    }

    pub(super) const fn limits(&self) -> Limits {
        Limits {
            connections_max: self.connections_max,
            messages_per_second_max: self.messages_per_second_max,
            pause_first: Duration::from_millis(self.pause_first_ms),
        }
    }

    pub(super) const fn schedule(&self) -> Schedule {
        Schedule {
            first: Duration::from_secs(self.retry_first_s),
            longest: Duration::from_secs(self.retry_longest_s),
            lifetime: Duration::from_secs(self.lifetime_s),
        }
    }
}
