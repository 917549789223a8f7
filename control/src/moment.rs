//! Moments: milliseconds since 1970, by our clock or by that of a log.
//!
//! Not here: stamps of log lines, which may be unsure (`maillog::stamp`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A moment, in milliseconds since 1970.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Moment(pub i64);

impl Moment {
    /// The moment that a text in RFC 3339 names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|at| Self(at.as_millisecond()))
    }

    /// The moment of a log line, whose stamps count nanoseconds.
    #[must_use]
    pub fn of_nanos(nanos: i128) -> Self {
        Self(i64::try_from(nanos.div_euclid(1_000_000)).unwrap_or(i64::MAX))
    }

    /// So many milliseconds later.
    #[must_use]
    pub const fn plus(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = jiff::Timestamp::from_millisecond(self.0).unwrap_or_default();
        write!(f, "{at:.3}")
    }
}

impl Moment {
    /// Now, by the clock of this host.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_as_they_parse() {
        let text = "2026-11-24T10:00:00.123Z";
        let moment = Moment::parse(text).unwrap();
        assert_eq!(moment.to_string(), text);
        assert_eq!(Moment::of_nanos(i128::from(moment.0) * 1_000_000 + 999_999), moment);
        assert_eq!(Moment::of_nanos(-1), Moment(-1));
    }
}
