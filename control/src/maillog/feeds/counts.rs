//! What a listener turned away or lost, in numbers; and warnings of it that do not flood a log.
//!
//! Invariant: of each reason at most one warning a minute; the numbers are always whole.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shortest time between two warnings of one reason.
const WARN_EVERY_NS: u64 = 60_000_000_000;

/// No warning yet.
const NEVER: u64 = u64::MAX;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// A datagram of a sender that is not listed.
    UdpStranger,
    /// A datagram that came while the channel was full.
    UdpNoRoom,
    /// A datagram that the kernel dropped.
    UdpKernel,
    /// A connection of a sender that is not listed.
    TcpStranger,
    /// A connection beyond the most.
    TcpTooMany,
    /// A TLS handshake that failed or took too long.
    Handshake,
    /// A connection closed since nothing came for long.
    Idle,
    /// A connection that ended within a message.
    Unended,
    /// A connection whose octets are no messages.
    Unreadable,
    /// A message that was cut.
    TooLong,
}

/// How many [`Reason`]s there are.
const REASONS: usize = Reason::TooLong as usize + 1;

/// The numbers, since the start.
#[derive(Debug)]
pub struct Counts {
    totals: [AtomicU64; REASONS],
    warned_ns: [AtomicU64; REASONS],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            totals: std::array::from_fn(|_| AtomicU64::new(0)),
            warned_ns: std::array::from_fn(|_| AtomicU64::new(NEVER)),
        }
    }
}

impl Counts {
    /// How often.
    #[must_use]
    pub fn total(&self, reason: Reason) -> u64 {
        self.totals.get(reason as usize).map_or(0, |total| total.load(Ordering::Relaxed))
    }

    /// Counts, and warns where a warning is due.
    pub(crate) fn add(&self, reason: Reason, count: u64, peer: Option<IpAddr>, now_ns: u64) {
        let Some(total) = self.totals.get(reason as usize) else { return };
        let total = total.fetch_add(count, Ordering::Relaxed).saturating_add(count);
        if self.due(reason, now_ns) {
            tracing::warn!(?reason, ?peer, total, "syslog listener");
        }
    }

    fn due(&self, reason: Reason, now_ns: u64) -> bool {
        let Some(warned) = self.warned_ns.get(reason as usize) else { return false };
        warned
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |warned| {
                // A clock that went back must not silence us for as long.
                let due = warned == NEVER || now_ns.abs_diff(warned) >= WARN_EVERY_NS;
                due.then_some(now_ns)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_warned_of_once_a_minute_and_counted_always() {
        let counts = Counts::default();
        assert!(counts.due(Reason::UdpStranger, 0));
        assert!(!counts.due(Reason::UdpStranger, WARN_EVERY_NS - 1));
        assert!(counts.due(Reason::TcpStranger, 1), "another reason has a minute of its own");
        assert!(counts.due(Reason::UdpStranger, WARN_EVERY_NS));
        assert!(!counts.due(Reason::UdpStranger, WARN_EVERY_NS + 1));
        for _ in 0..3 {
            counts.add(Reason::UdpNoRoom, 2, None, 5);
        }
        assert_eq!(counts.total(Reason::UdpNoRoom), 6);
        assert_eq!(counts.total(Reason::TooLong), 0);
    }
}
