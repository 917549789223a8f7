//! Names of transactions: unique, ordered by time, printable.
//!
//! A [`TransactionId`] is the moment of MAIL in microseconds since 1970, pushed forward where two
//! would be equal, so that ids of one proxy rise strictly. It is printed as 13 characters of
//! Crockford's base 32 (no I, L, O, U), which sort as text like the numbers do.
//!
//! Not here: the clock (the caller says what time it is).

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Crockford's base 32.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Characters of a printed id: 13 × 5 bits hold 64.
const TEXT_LENGTH: usize = 13;

/// The name of one mail transaction, unique in this proxy and ordered by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(u64);

/// The text is not a transaction id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is {TEXT_LENGTH} characters of 0-9 and A-Z without I, L, O, U")]
pub struct ParseIdError;

impl TransactionId {
    /// The id with this number (from a record, or in tests).
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number: about the microseconds since 1970 at which it was given out.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// About when it was given out, in milliseconds since 1970.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0 / 1000
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; TEXT_LENGTH];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        // Only letters of the alphabet were written.
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for TransactionId {
    type Err = ParseIdError;

    /// Accepts lower case too: people type ids.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != TEXT_LENGTH {
            return Err(ParseIdError);
        }
        let mut number: u64 = 0;
        for octet in text.bytes().map(|octet| octet.to_ascii_uppercase()) {
            let digit = ALPHABET.iter().position(|&letter| letter == octet).ok_or(ParseIdError)?;
            number = number.checked_mul(32).ok_or(ParseIdError)? + digit as u64;
        }
        Ok(Self(number))
    }
}

/// Gives out ids; one per process.
#[derive(Debug)]
pub struct Ids {
    last: AtomicU64,
}

impl Ids {
    /// A generator whose ids all come after `last_seen` (the highest id found on disk), also
    /// when the clock was set back.
    #[must_use]
    pub fn new(last_seen: Option<TransactionId>) -> Self {
        Self { last: AtomicU64::new(last_seen.map_or(0, TransactionId::as_u64)) }
    }

    /// The next id, given the time in microseconds since 1970.
    pub fn next(&self, now_us: u64) -> TransactionId {
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = now_us.max(last.saturating_add(1));
            match self.last.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return TransactionId(next),
                Err(current) => last = current,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_rise_although_the_clock_stands_or_goes_back() {
        let ids = Ids::new(Some(TransactionId(1_000)));
        let given: Vec<u64> =
            [5, 2_000, 2_000, 1_999, 3_000].into_iter().map(|now| ids.next(now).as_u64()).collect();
        assert_eq!(given, [1_001, 2_000, 2_001, 2_002, 3_000]);
    }

    #[test]
    fn ids_are_unique_over_threads() {
        let ids = Ids::new(None);
        let mut all: Vec<TransactionId> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1_000).map(|_| ids.next(7)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4_000);
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "0", "00000000000000", "000000000000U", "ZZZZZZZZZZZZZ", "0000é0000000"] {
            assert_eq!(text.parse::<TransactionId>(), Err(ParseIdError), "{text}");
        }
        assert_eq!("FZZZZZZZZZZZZ".parse(), Ok(TransactionId(u64::MAX)));
        assert_eq!("fzzzzzzzzzzzz".parse(), Ok(TransactionId(u64::MAX)));
    }

    proptest! {
        #[test]
        fn printed_ids_parse_back_and_sort_as_numbers(a: u64, b: u64) {
            let (a, b) = (TransactionId(a), TransactionId(b));
            prop_assert_eq!(a.to_string().parse(), Ok(a));
            prop_assert_eq!(a.to_string().len(), 13);
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        }
    }
}
