//! [`SpoolId`]: the name of a message that was promised.

use std::fmt;
use std::str::FromStr;

use crate::id::{ParseIdError, TransactionId};

/// The id of a transaction whose message the spool has promised to keep. Ordered by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(TransactionId);

impl SpoolId {
    /// Only the spool, which found or synced the message, says that it is promised.
    pub(super) const fn promised(id: TransactionId) -> Self {
        Self(id)
    }

    /// The transaction that brought the message.
    #[must_use]
    pub const fn transaction(self) -> TransactionId {
        self.0
    }

    /// The number of the id.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0.as_u64()
    }
}

impl fmt::Display for SpoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// For ids that come from an operator or a log; whether such a message is held, the spool says.
impl FromStr for SpoolId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        text.parse().map(Self)
    }
}
