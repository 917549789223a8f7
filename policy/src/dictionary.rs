//! Dictionaries: named lists of literals and patterns that conditions ask.
//!
//! Not here: how a pattern is matched (`predicate`), lists as text (`import`).

use crate::origin::Origin;

/// Who fills a dictionary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The administrator.
    #[default]
    Static,
    /// The server (`Managed Domains` is the only one known).
    Dynamic,
}

impl Kind {
    /// The server's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
        }
    }
}

/// A dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dictionary {
    /// Its name, unique in the set.
    pub name: String,
    /// Who fills it.
    pub kind: Kind,
    /// Its entries; their order means nothing.
    pub entries: Vec<Entry>,
    /// Where it stands.
    pub origin: Origin,
}

/// How an entry is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// Exactly these characters.
    Literal,
    /// A regular expression.
    Pattern,
}

impl Form {
    /// The server's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Literal => "literal",
            Self::Pattern => "pattern",
        }
    }
}

/// An entry of a dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How it is compared.
    pub form: Form,
    /// What it says.
    pub text: String,
    /// Where it stands.
    pub origin: Origin,
}
