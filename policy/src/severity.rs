//! How much a difference or a fault matters for an upgrade.
//!
//! Invariant: the order is that of weight, so that the greatest of several stands for all.
//!
//! Not here: what has which severity (`structure`, `findings`).

use std::fmt;

use serde::Serialize;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; no mail is treated otherwise because of it.
    Info,
    /// Somebody must look at it: mail may be held back, or nobody knows.
    Warning,
    /// Mail may go out with less protection, or not at all: not to be upgraded like this.
    Blocker,
}

impl Severity {
    /// All of them, the lightest first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Blocker];

    /// In a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Blocker => "blocker",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
