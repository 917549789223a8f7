//! What a rule asks of a message.
//!
//! The words of subjects and operators are the server's where they are known (`recipient address`,
//! `is in dictionary`), else those of its desktop client or of its older guides. Only `is in
//! dictionary` of a recipient address was seen in a source; the rest is what users of the product
//! would expect.
//!
//! Not here: how an answer is found (`predicate`).

use std::fmt;

use crate::origin::Origin;
use crate::sample::Variable;
use crate::set::Opaque;

/// When a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// Some of several tests hold.
    Group {
        /// How many.
        mode: Mode,
        /// The tests; their order means nothing.
        items: Vec<Test>,
    },
    /// One condition holds.
    Condition(Condition),
    /// Nobody knows when: it was not understood.
    Opaque(Opaque),
}

impl Test {
    /// Holds for every message.
    pub const ALWAYS: Self = Self::Group { mode: Mode::All, items: Vec::new() };
}

/// How many tests of a group must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every one; of none, so always.
    All,
    /// At least one; of none, so never.
    Any,
    /// Not one.
    None,
}

impl Mode {
    /// The server's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Any => "any",
            Self::None => "none",
        }
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at.
    pub subject: Subject,
    /// Holds where the operator does not.
    pub negated: bool,
    /// How it is compared, with what.
    pub operator: Operator,
    /// Where it stands.
    pub origin: Origin,
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A fact of the message as it is.
    Whole(Variable),
    /// The domain in an address.
    DomainOf(Variable),
}

impl Subject {
    /// The fact that is looked at.
    #[must_use]
    pub const fn variable(&self) -> &Variable {
        match self {
            Self::Whole(variable) | Self::DomainOf(variable) => variable,
        }
    }

    /// The subject of this name; a named header has its name behind a colon (`message header: X`).
    #[must_use]
    pub fn parse(name: &str, argument: Option<&str>) -> Option<Self> {
        match name {
            "recipient domain" => Some(Self::DomainOf(Variable::Recipient)),
            "sender domain" => Some(Self::DomainOf(Variable::Sender)),
            name => Variable::parse(name, argument).map(Self::Whole),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DomainOf(Variable::Recipient) => f.write_str("recipient domain"),
            Self::DomainOf(Variable::Sender) => f.write_str("sender domain"),
            Self::DomainOf(other) => write!(f, "domain of {other}"),
            Self::Whole(variable) => variable.fmt(f),
        }
    }
}

/// How a fact is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// It is this.
    Is(String),
    /// It has this in it.
    Contains(String),
    /// It begins with this.
    BeginsWith(String),
    /// It ends with this.
    EndsWith(String),
    /// It matches this regular expression.
    Matches(String),
    /// It is a domain below this one.
    IsSubdomainOf(String),
    /// An entry of this dictionary matches.
    IsInDictionary(String),
    /// It is a greater number.
    IsGreaterThan(u64),
    /// It is a smaller number.
    IsLessThan(u64),
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(text) => write!(f, "is {text:?}"),
            Self::Contains(text) => write!(f, "contains {text:?}"),
            Self::BeginsWith(text) => write!(f, "begins with {text:?}"),
            Self::EndsWith(text) => write!(f, "ends with {text:?}"),
            Self::Matches(text) => write!(f, "matches pattern {text:?}"),
            Self::IsSubdomainOf(text) => write!(f, "is subdomain of {text:?}"),
            Self::IsInDictionary(name) => write!(f, "is in dictionary {name:?}"),
            Self::IsGreaterThan(number) => write!(f, "is greater than {number}"),
            Self::IsLessThan(number) => write!(f, "is less than {number}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.negated { "not: " } else { "" };
        write!(f, "{not}{} {}", self.subject, self.operator)
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group { mode: Mode::All, items } if items.is_empty() => f.write_str("always"),
            Self::Group { mode, items } => {
                write!(f, "{} of (", mode.as_str())?;
                for (place, item) in items.iter().enumerate() {
                    let comma = if place == 0 { "" } else { "; " };
                    write!(f, "{comma}{item}")?;
                }
                f.write_str(")")
            }
            Self::Condition(condition) => condition.fmt(f),
            Self::Opaque(opaque) => write!(f, "not understood: {}", opaque.what),
        }
    }
}
