//! The clock on the wall, in the units that ids, records and fields use. Nothing else reads it.
//!
//! It may jump either way: it names moments, it never measures. What measures uses `Instant`.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;

/// Microseconds since 1970, for ids.
#[must_use]
pub fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970, for the journal.
#[must_use]
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970, for records.
#[must_use]
pub fn unix_ms() -> u64 {
    unix_micros() / 1000
}

/// A moment as RFC 5322 §3.3 writes it, in UTC.
#[must_use]
pub fn rfc_5322(unix_ms: u64) -> String {
    let moment = timestamp(unix_ms).to_zoned(TimeZone::UTC);
    // Fails only for years that RFC 5322 cannot write.
    DateTimePrinter::new().zoned_to_string(&moment).unwrap_or_default()
}

/// A moment as RFC 3339 writes it, in UTC, to the millisecond.
#[must_use]
pub fn rfc_3339(unix_ms: u64) -> String {
    format!("{:.3}", timestamp(unix_ms))
}

fn timestamp(unix_ms: u64) -> Timestamp {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_printed_as_the_rfcs_write_them() {
        assert_eq!(rfc_5322(1_795_414_800_123), "Mon, 23 Nov 2026 06:20:00 +0000");
        assert_eq!(rfc_3339(1_795_414_800_123), "2026-11-23T06:20:00.123Z");
    }
}
