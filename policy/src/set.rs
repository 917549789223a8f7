//! A policy set: everything that decides what the server does with a message.
//!
//! Chains and dictionaries are found by name. Managed domains are the entries of the dictionary of
//! that name, and stand nowhere else.
//!
//! Invariant: names of chains and of dictionaries are unique; the import refuses a second one.
//!
//! Not here: what a set does to a message (`program`, `decide`).

use crate::chain::Chain;
use crate::dictionary::Dictionary;
use crate::origin::Origin;

/// Name of the dictionary of managed domains; the server's own.
pub const MANAGED_DOMAINS: &str = "Managed Domains";

/// The chain that evaluation begins in (E3: seen in logs for inbound mail, inferred for outbound).
pub const DEFAULT_CHAIN: &str = "Default";

/// The chain that a processing error leads to (E6).
pub const EXCEPTION_CHAIN: &str = "Exception";

/// One policy, as imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySet {
    /// Where it comes from.
    pub origin: Origin,
    /// Its chains; their order means nothing.
    pub chains: Vec<Chain>,
    /// Its dictionaries; their order means nothing.
    pub dictionaries: Vec<Dictionary>,
    /// What is set outside of chains.
    pub globals: Globals,
    /// Parts of the import that belong to no chain and were not understood.
    pub opaque: Vec<Opaque>,
}

impl PolicySet {
    /// A set with nothing in it.
    #[must_use]
    pub fn empty(origin: Origin) -> Self {
        Self {
            origin,
            chains: Vec::new(),
            dictionaries: Vec::new(),
            globals: Globals::default(),
            opaque: Vec::new(),
        }
    }

    /// The chain of this name.
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// The dictionary of this name.
    #[must_use]
    pub fn dictionary(&self, name: &str) -> Option<&Dictionary> {
        self.dictionaries.iter().find(|dictionary| dictionary.name == name)
    }
}

/// What is set outside of chains and changes what they do. What the import does not say is
/// [`Stated::No`]: it is never taken for the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// Is Learn Mode on?
    pub learn_mode: Stated<bool>,
    /// What becomes of outbound mail whose sender's domain is not managed (E2).
    pub unmanaged: Stated<Unmanaged>,
}

/// A setting that an import may leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stated<T> {
    /// The import says so.
    Yes(T),
    /// The import does not say.
    #[default]
    No,
}

/// What becomes of outbound mail of a domain that is not managed; rules are not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmanaged {
    /// It is passed on as it came: in clear, unless its sender protected it.
    PassUnmodified,
    /// It is bounced (a setting since 3.3.2 MP3).
    Bounce,
}

/// A part of an import that is not understood: equal only when it is the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Opaque {
    /// Its canonical text.
    pub text: String,
    /// What kind of thing it is, for people: an element's path, a pattern.
    pub what: String,
}
