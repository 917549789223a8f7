//! How a transaction or an attempt ended: the word that log, metrics and journal share.
//!
//! Not here: the outcome of each forward-path of a held message (`spool::Mark`).

use serde::{Deserialize, Serialize};
use smtp::Reply;

/// How a transaction or an attempt ended. The journal writes the place in this list: new ones go to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The next hop took it, for every recipient that it had accepted.
    Relayed,
    /// We took it.
    Held,
    /// A 4yz, from the next hop or from us.
    Deferred,
    /// A 5yz, from the next hop or from us.
    Refused,
    /// The final dot was sent and no valid reply came.
    Uncertain,
    /// It needs what the member does not offer.
    Blocked,
    /// The client left, or reset, before the end of mail data.
    Abandoned,
    /// A member took this very message before: the client was told so, and it was not handed over again.
    Known,
}

impl Outcome {
    /// The word used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Held => "held",
            Self::Deferred => "deferred",
            Self::Refused => "refused",
            Self::Uncertain => "uncertain",
            Self::Blocked => "blocked",
            Self::Abandoned => "abandoned",
            Self::Known => "known",
        }
    }

    /// The outcome that a reply to the end of mail data tells.
    #[must_use]
    pub fn of(reply: &Reply) -> Self {
        if reply.is_positive() {
            Self::Relayed
        } else if reply.is_permanent() {
            Self::Refused
        } else {
            Self::Deferred
        }
    }
}
