//! Questions about a text as languages: which combinations of answers a text can give, and the
//! smallest text that gives them.
//!
//! All questions about one variable run side by side in one automaton, together with the grammar of
//! what the variable can be. The sets of questions that its end states accept are the *classes* of
//! its texts: two texts of a class get the same answers, and no other combination of answers exists.
//! Unlike a comparison of pairs, this also tells which combinations of many are possible.
//!
//! Invariant: what [`crate::predicate::Matcher`] answers for a text of the grammar is what the
//! automaton accepts; a property test holds one against the other.
//!
//! Not here: several variables at once (`space`).

mod automaton;
mod build;

pub use automaton::{Budget, Class, TooLarge};

use crate::predicate::Language;
use crate::sample::Shape;

/// What texts a variable can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// One of these words.
    Word(&'static [&'static str]),
    /// A mailbox (RFC 5321 §4.1.2; dots may stand anywhere in the local part, as in `smtp`).
    Address,
    /// A mailbox, or nothing.
    AddressOrNothing,
    /// One line; it may be empty.
    Line,
    /// One line that is not empty.
    Value,
}

impl Grammar {
    /// The grammar of texts of this shape; none for numbers.
    #[must_use]
    pub const fn of(shape: Shape) -> Option<Self> {
        match shape {
            Shape::Word(words) => Some(Self::Word(words)),
            Shape::Address { nullable: false } => Some(Self::Address),
            Shape::Address { nullable: true } => Some(Self::AddressOrNothing),
            Shape::Text => Some(Self::Line),
            Shape::Texts => Some(Self::Value),
            Shape::Number => None,
        }
    }
}

/// The classes of the texts of a grammar: every possible set of those languages that a text is in,
/// with the smallest such text, smallest first.
///
/// # Errors
/// [`TooLarge`] where they are not found within the budget.
pub fn classes(
    grammar: Grammar,
    languages: &[&Language],
    budget: Budget,
) -> Result<Vec<Class>, TooLarge> {
    automaton::classes(&build::automaton(grammar, languages), budget)
}

/// The smallest text of the grammar that is in exactly those of the languages that `members` says.
///
/// # Errors
/// [`TooLarge`] where neither a text nor its absence is found within the budget.
pub fn text_in(
    grammar: Grammar,
    languages: &[&Language],
    members: &[bool],
    budget: Budget,
) -> Result<Option<String>, TooLarge> {
    automaton::text_in(&build::automaton(grammar, languages), members, budget)
}

#[cfg(test)]
mod tests;
