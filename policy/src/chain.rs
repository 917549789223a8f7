//! Chains of rules, in the server's own words.
//!
//! Invariant: the order of rules is significant; the order of chains is not.
//!
//! Not here: which rule a message meets (`program`).

use crate::action::Action;
use crate::condition::Test;
use crate::origin::Origin;

/// Whose mail a chain acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppliesTo {
    /// Mail that passes the server, and the desktop clients.
    #[default]
    ServerAndClient,
    /// Mail that passes the server.
    ServerOnly,
    /// The desktop clients: never acts on mail that passes the server (E9).
    ClientOnly,
}

impl AppliesTo {
    /// The words of the server.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerAndClient => "server and client",
            Self::ServerOnly => "server only",
            Self::ClientOnly => "client only",
        }
    }

    /// All of them.
    pub const ALL: [Self; 3] = [Self::ServerAndClient, Self::ServerOnly, Self::ClientOnly];
}

/// A chain of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name, unique in the set; shown in logs.
    pub name: String,
    /// Whose mail it acts on.
    pub applies_to: AppliesTo,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
    /// Where it stands.
    pub origin: Origin,
}

/// A rule: when it matches, its actions run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name; shown in logs.
    pub name: String,
    /// A rule that is not enabled never matches.
    pub enabled: bool,
    /// When it matches.
    pub test: Test,
    /// What it does, in order.
    pub actions: Vec<Action>,
    /// Where it stands.
    pub origin: Origin,
}
