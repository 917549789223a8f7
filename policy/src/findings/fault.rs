//! Kinds of faults of one policy.
//!
//! Not here: how much a fault matters, which depends on where it is (`findings`).

use serde::Serialize;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Chains lead in a circle (E7).
    Cycle,
    /// A rule leads to a chain that is not there.
    NoTarget,
    /// A rule leads to a chain that is for clients alone (E9).
    ClientTarget,
    /// A chain that the server needs is not there.
    NoChain,
    /// A chain has no rules that are enabled.
    EmptyChain,
    /// No mail can come to a chain.
    UnreachedChain,
    /// Mail can come to the end of a chain (E5).
    NoCatchAll,
    /// A rule never acts, since rules above it take all its mail.
    Shadowed,
    /// A rule never acts, since no mail matches it, or none that comes to its chain.
    Idle,
    /// A rule does nothing that ends evaluation (E4).
    NoEnd,
    /// A condition is not understood.
    NotUnderstood,
    /// An action is not understood.
    ActionNotUnderstood,
    /// A part of the import is not understood.
    PartNotUnderstood,
    /// A rule names a dictionary that is not there.
    NoDictionary,
    /// No rule asks for a dictionary.
    UnusedDictionary,
    /// Learn Mode is on (E8).
    LearnModeOn,
    /// It is not said whether Learn Mode is on.
    LearnModeNotStated,
    /// It is not said what becomes of mail of domains that are not managed (E2).
    UnmanagedNotStated,
    /// It is not said which domains are managed.
    NoManagedDomains,
    /// No domain is managed.
    ManagedDomainsEmpty,
    /// A new rule takes mail from one that both sets have.
    NewRuleShadows,
    /// It is too much to find out which rules act.
    TooLarge,
}
