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

mod address;
mod automaton;
mod build;

use std::sync::Arc;

pub use address::{Addresses, Located, Pairs};
pub use automaton::{Budget, Class, TooLarge};

use crate::predicate::Language;

/// What texts a variable can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// One line; it may be empty.
    Line,
    /// One line that is not empty.
    Value,
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
    automaton::classes(&Arc::new(build::texts(grammar, languages)), budget)
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
    automaton::text_in(&Arc::new(build::texts(grammar, languages)), members, budget)
}

#[cfg(test)]
mod tests;
