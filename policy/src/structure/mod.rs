//! How two policies look different: chains, rules, dictionaries and settings, one by one.
//!
//! What has another name and says the same is renamed, also where what refers to it was renamed with
//! it. Each difference has a weight (policy model §9). It is the weight of the difference by itself:
//! whether any mail is treated otherwise is a question for a comparison of all mail, and the answer
//! can be no where a blocker stands here.
//!
//! Invariants
//! - A set has no differences from itself.
//! - Exchanging the sets exchanges the kinds: what was missing is added, what was weaker is stronger.
//!
//! Not here: which mail is treated otherwise (`parity`), what is wrong with one set (`findings`).
//! Routes, proxies and certificates are of each server, and no part of a set.

mod actions;
mod content;
mod dictionaries;
mod kind;
mod mail;
mod matching;
mod rules;

use std::fmt;

pub use kind::Kind;
use serde::Serialize;

use crate::assume::Assumptions;
use crate::chain::{AppliesTo, Chain};
use crate::origin::Origin;
use crate::program::Place;
use crate::set::{EXCEPTION_CHAIN, PolicySet, Stated, Unmanaged};
use crate::severity::Severity;
use mail::{Asked, Mail};
use matching::{Matching, Pairs};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What kind it is.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// What differs, in plain words.
    pub text: String,
    /// Where it stands before; none where it is not there.
    pub before: Option<Origin>,
    /// Where it stands after; none where it is not there.
    pub after: Option<Origin>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.text)
    }
}

/// A rule of the set after that the set before has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    /// Which rule of the set after.
    pub place: Place,
    /// How much it matters that it is there.
    pub severity: Severity,
    /// Rules of both sets below it that can match the same mail, with how much of theirs it takes.
    pub shadows: Vec<(Place, Taken)>,
}

/// How much of a rule's mail another takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of it.
    All,
    /// Some of it.
    Some,
    /// It is too much to find out.
    Unknown,
}

impl Taken {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Some => "some",
            Self::Unknown => "perhaps some",
        }
    }
}

/// Every difference of two sets, the weightiest first.
#[must_use]
pub fn differences(
    before: &PolicySet,
    after: &PolicySet,
    assumptions: &Assumptions,
) -> Vec<Change> {
    let asked = Asked::new(before, after, assumptions);
    let mut comparison = Comparison {
        before,
        after,
        matching: matching(before, after, assumptions),
        mail: Mail::new(&asked),
        changes: Vec::new(),
    };
    comparison.globals();
    comparison.chains();
    comparison.dictionaries();
    comparison.opaque();
    let mut changes = comparison.changes;
    changes.sort_by_key(|change| std::cmp::Reverse(change.severity));
    changes
}

/// The rules that are new in chains of both sets and enabled, with the rules that they shadow.
#[must_use]
pub fn additions(
    before: &PolicySet,
    after: &PolicySet,
    assumptions: &Assumptions,
) -> Vec<Addition> {
    let asked = Asked::new(before, after, assumptions);
    let comparison = Comparison {
        before,
        after,
        matching: matching(before, after, assumptions),
        mail: Mail::new(&asked),
        changes: Vec::new(),
    };
    comparison.additions()
}

fn matching<'a>(
    before: &'a PolicySet,
    after: &'a PolicySet,
    assumptions: &Assumptions,
) -> Matching<'a> {
    let reserved = [&*assumptions.start_outbound, &*assumptions.start_inbound, EXCEPTION_CHAIN];
    Matching::new(before, after, &reserved)
}

/// Two sets, and what was found so far.
struct Comparison<'a> {
    before: &'a PolicySet,
    after: &'a PolicySet,
    matching: Matching<'a>,
    mail: Mail<'a>,
    changes: Vec<Change>,
}

impl Comparison<'_> {
    fn note(
        &mut self,
        (kind, severity): (Kind, Severity),
        text: String,
        before: Option<&Origin>,
        after: Option<&Origin>,
    ) {
        let (before, after) = (before.cloned(), after.cloned());
        self.changes.push(Change { kind, severity, text, before, after });
    }

    fn globals(&mut self) {
        let (one, two) = (&self.before.globals, &self.after.globals);
        if one.learn_mode != two.learn_mode {
            let (kind, severity, text) = learn_mode(two.learn_mode);
            let mended = two.learn_mode == Stated::Yes(false) && one.learn_mode == Stated::No;
            let found = match (one.learn_mode, mended) {
                (_, true) => (Kind::LearnModeStated, Severity::Info),
                (Stated::No, _) => (Kind::LearnModeStated, severity),
                (Stated::Yes(_), _) => (kind, severity),
            };
            self.whole(found, text);
        }
        if one.unmanaged != two.unmanaged {
            let (kind, severity, text) = unmanaged(two.unmanaged);
            let found = match one.unmanaged {
                Stated::No => (Kind::UnmanagedStated, Severity::Warning),
                Stated::Yes(_) => (kind, severity),
            };
            self.whole(found, text);
        }
    }

    /// Notes a difference of the sets as a whole.
    fn whole(&mut self, found: (Kind, Severity), text: &str) {
        let (before, after) = (&self.before.origin, &self.after.origin);
        self.note(found, text.to_owned(), Some(before), Some(after));
    }

    fn chains(&mut self) {
        let pairs = std::mem::take(&mut self.matching.chains);
        for (one, other) in &pairs.both {
            self.chain(*one, *other);
        }
        for place in &pairs.before {
            let chain = &self.before.chains[*place];
            let text = format!("{} is missing: {}", named(chain), counted(chain));
            let found = (Kind::ChainMissing, Severity::Blocker);
            self.note(found, text, Some(&chain.origin), None);
        }
        for place in &pairs.after {
            let chain = &self.after.chains[*place];
            let text = format!("{} is new: {}", named(chain), counted(chain));
            self.note((Kind::ChainAdded, Severity::Warning), text, None, Some(&chain.origin));
        }
        self.matching.chains = pairs;
    }

    fn chain(&mut self, one: usize, other: usize) {
        let (before, after) = (&self.before.chains[one], &self.after.chains[other]);
        let origins = (Some(&before.origin), Some(&after.origin));
        if before.name != after.name {
            let text = format!("{} is now named {:?}", named(before), after.name);
            self.note((Kind::ChainRenamed, Severity::Info), text, origins.0, origins.1);
        }
        if before.applies_to != after.applies_to {
            let (one, two) = (before.applies_to.as_str(), after.applies_to.as_str());
            let text = format!("{} is for {two} instead of {one}", named(before));
            let severity = match after.applies_to {
                AppliesTo::ClientOnly => Severity::Blocker,
                AppliesTo::ServerAndClient | AppliesTo::ServerOnly => Severity::Warning,
            };
            self.note((Kind::AppliesTo, severity), text, origins.0, origins.1);
        }
        match (before.rules.is_empty(), after.rules.is_empty()) {
            (false, true) => {
                let text = format!("{} is empty now; it had {}", named(before), counted(before));
                self.note((Kind::ChainEmptied, Severity::Blocker), text, origins.0, origins.1);
            }
            (true, false) => {
                let text = format!("{} was empty and has {}", named(before), counted(after));
                self.note((Kind::ChainFilled, Severity::Warning), text, origins.0, origins.1);
            }
            _ => self.rules(one, other),
        }
    }

    fn opaque(&mut self) {
        // The parts of each that the other has not, by their text.
        let (one, two) = (&self.before.opaque, &self.after.opaque);
        let pairs = Pairs::none(one.len(), two.len())
            .by(|place| Some(&one[place].text), |place| Some(&two[place].text));
        for place in pairs.before {
            let text = format!("not understood and missing: {}", self.before.opaque[place].what);
            let found = (Kind::OpaqueMissing, Severity::Warning);
            self.note(found, text, Some(&self.before.origin), None);
        }
        for place in pairs.after {
            let text = format!("not understood and new: {}", self.after.opaque[place].what);
            let found = (Kind::OpaqueAdded, Severity::Warning);
            self.note(found, text, None, Some(&self.after.origin));
        }
    }
}

fn named(chain: &Chain) -> String {
    format!("chain {:?}", chain.name)
}

fn counted(chain: &Chain) -> String {
    match chain.rules.len() {
        1 => "1 rule".to_owned(),
        count => format!("{count} rules"),
    }
}

fn learn_mode(now: Stated<bool>) -> (Kind, Severity, &'static str) {
    match now {
        Stated::Yes(true) => {
            (Kind::LearnModeOn, Severity::Blocker, "Learn Mode is on: no rule is enforced")
        }
        Stated::Yes(false) => {
            (Kind::LearnModeOff, Severity::Warning, "Learn Mode is off: rules are enforced")
        }
        Stated::No => (
            Kind::LearnModeNotStated,
            Severity::Warning,
            "it is no longer said whether Learn Mode is on",
        ),
    }
}

fn unmanaged(now: Stated<Unmanaged>) -> (Kind, Severity, &'static str) {
    match now {
        Stated::Yes(Unmanaged::PassUnmodified) => (
            Kind::UnmanagedPasses,
            Severity::Blocker,
            "mail of domains that are not managed is passed on as it is",
        ),
        Stated::Yes(Unmanaged::Bounce) => (
            Kind::UnmanagedBounces,
            Severity::Warning,
            "mail of domains that are not managed is bounced",
        ),
        Stated::No => (
            Kind::UnmanagedNotStated,
            Severity::Warning,
            "it is no longer said what becomes of mail of domains that are not managed",
        ),
    }
}

#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
