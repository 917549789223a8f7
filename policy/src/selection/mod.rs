//! Which messages to send, so that every rule which can act is seen to act.
//!
//! Probes go from senders to mailboxes that the operator owns, and to nobody else. What only the
//! server knows of them, a key or a group, cannot be put into a message: a probe says what it expects
//! there. Both ends of a rule that looks for a key are wanted, so that there are probes which expect
//! a key and others which expect none; they go to different mailboxes as far as these suffice.
//!
//! Invariants
//! - Every rule of the set is covered by a probe, or named with why it is not.
//! - What a probe is said to meet is what its message meets by itself, decided alone.
//!
//! Not here: how a message is written (`message`), how a probe is sent and seen again.

mod cover;
mod scope;
mod why;

use std::fmt;

use crate::action::Outcome;
use crate::assume::Assumptions;
use crate::decide::{Decision, Judge};
use crate::diagram::Diagram;
use crate::language::{Budget, TooLarge};
use crate::program::{Place, Program, Questions};
use crate::reach::Reach;
use crate::sample::{Fact, Sample, Variable};
use crate::set::PolicySet;
use crate::space::Space;
use cover::Cover;
use scope::Scope;

/// What probes can be made of.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Addresses that probes may go to.
    pub mailboxes: &'a [String],
    /// Addresses that probes may come from.
    pub senders: &'a [String],
    /// Which way they may go.
    pub directions: Directions,
}

/// Which way probes may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Directions {
    /// Out.
    #[default]
    Outbound,
    /// Out and in.
    Both,
}

/// How much is explored and chosen.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the texts of one variable.
    pub budget: Budget,
    /// Probes that are chosen.
    pub probes: usize,
    /// Messages that are drawn in vain before a class of mail is given up.
    pub draws: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { budget: Budget::default(), probes: 200, draws: 1000 }
    }
}

/// Probes, and what they leave out.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The probes, those that cover most first.
    pub probes: Vec<Chosen>,
    /// What no probe covers: rules in order, then ends of rules.
    pub uncovered: Vec<Uncovered>,
}

/// A probe.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Its message.
    pub sample: Sample,
    /// What becomes of it.
    pub decision: Decision,
    /// The rules that no probe before it covers.
    pub covers: Vec<Place>,
    /// What the server must know of its sender, its recipient and its way, so that this becomes of
    /// it.
    pub expects: Vec<(Variable, Fact)>,
}

/// A rule, or an end of one, that no probe covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncovered {
    /// The rule.
    pub place: Place,
    /// The end; none where the rule as a whole is not covered.
    pub outcome: Option<Outcome>,
    /// Why.
    pub why: Why,
}

/// Why no probe covers a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is not enabled.
    Disabled,
    /// It is for clients alone (E9).
    Clients,
    /// Learn Mode is on, or nobody says that it is off.
    LearnMode,
    /// No mail comes to its chain.
    ChainNotReached,
    /// No mail that comes to its chain matches it.
    NoMail,
    /// Rules above it take all its mail.
    Shadowed {
        /// Those rules.
        by: Vec<Place>,
    },
    /// It acts on mail to other recipients.
    OtherRecipients,
    /// It acts on mail from other senders.
    OtherSenders,
    /// It acts on mail that goes the other way.
    OtherDirection,
    /// It acts on mail that cannot be processed.
    FailedProcessing,
    /// It acts on mail that does not come by SMTP.
    OtherService,
    /// It acts on mail that is otherwise in several of these ways.
    OtherMail,
    /// Whether it acts hangs on what is not understood.
    NotUnderstood {
        /// What that is.
        what: Vec<String>,
    },
    /// No message was found, though there may be one.
    NoMessage,
    /// There are as many probes as may be.
    Enough,
}

/// Why nothing can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Nobody is named that probes can go to.
    #[error("no mailbox is named that probes can go to")]
    NoMailbox,
    /// Nobody is named that probes can come from.
    #[error("no sender is named that probes can come from")]
    NoSender,
    /// An address is none, or none that is reasoned about.
    #[error("this is no address that a probe can have: {text:?}")]
    Address {
        /// The address.
        text: String,
    },
    /// There are too many combinations of answers.
    #[error("{0}")]
    TooLarge(#[from] TooLarge),
}

/// Chooses probes for a set.
///
/// # Errors
/// Where there is nothing to make probes of, or too much to explore.
pub fn select(
    set: &PolicySet,
    assumptions: &Assumptions,
    offer: &Offer<'_>,
    limits: Limits,
) -> Result<Selection, SelectError> {
    let mut questions = Questions::default();
    let program = Program::new(set, assumptions, &mut questions);
    let asked = scope::Asked::new(offer, &mut questions)?;
    let space = Space::new(&questions, limits.budget)?;
    let scope = Scope::new(offer, asked, &space)?;
    let diagram = Diagram::new(&program, &space)?;
    let reach = Reach::new(&program, &space, &diagram);
    let judge = Judge::new(&questions);
    let mut cover = Cover::new(&program, &judge, &reach, scope, limits);
    cover.choose(&diagram);
    let uncovered = why::uncovered(set, &diagram, &reach, &cover);
    Ok(Selection { probes: cover.probes, uncovered })
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "it is not enabled",
            Self::Clients => "its chain is for clients alone",
            Self::LearnMode => "Learn Mode is on, or nobody says that it is off",
            Self::ChainNotReached => "no mail comes to its chain",
            Self::NoMail => "no mail that comes to its chain matches it",
            Self::Shadowed { .. } => "rules above it take all its mail",
            Self::OtherRecipients => "it acts on mail to other recipients",
            Self::OtherSenders => "it acts on mail from other senders",
            Self::OtherDirection => "it acts on mail that goes the other way",
            Self::FailedProcessing => "it acts on mail that cannot be processed",
            Self::OtherService => "it acts on mail that does not come by SMTP",
            Self::OtherMail => "it acts on other mail",
            Self::NotUnderstood { what } => {
                return write!(f, "it hangs on what is not understood: {}", what.join("; "));
            }
            Self::NoMessage => "no message was found for it",
            Self::Enough => "there are as many probes as may be",
        })
    }
}

#[cfg(test)]
mod tests;
