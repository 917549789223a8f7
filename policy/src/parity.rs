//! Do two policies treat all mail alike?
//!
//! Both are walked with all messages at once. Where their outcomes differ, a message is drawn, the
//! smallest there is, and decided by both once more, so that a difference is never shown that is not
//! one. Mail whose treatment hangs on something that is not understood is called unknown, and only
//! that mail.
//!
//! Invariants
//! - `Equal` is said only where no message is left that is treated otherwise, for any answer to what
//!   is not understood, and nothing of either import lies outside of what is compared.
//! - What was not explored because it was too much is never called equal.
//!
//! Not here: how the policies look (`structure`), words for people (`report`).

use std::cmp::Reverse;
use std::collections::BTreeSet;

use biodivine_lib_bdd::Bdd;

use crate::action::{Effect, Fate, Outcome, Relation};
use crate::assume::Assumptions;
use crate::decide::{Decision, Judge, Trace};
use crate::diagram::{Diagram, End, union};
use crate::language::{Budget, TooLarge};
use crate::program::{Place, Program, Questions};
use crate::sample::{Sample, Variable};
use crate::set::{Opaque, PolicySet};
use crate::space::{Drawn, Space};

/// How much is explored and shown.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the texts of one variable.
    pub budget: Budget,
    /// Classes of differing mail that are shown.
    pub divergences: usize,
    /// Messages that are drawn in vain before a class is given up.
    pub draws: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { budget: Budget::default(), divergences: 100, draws: 1000 }
    }
}

/// What a comparison found.
#[derive(Debug)]
pub struct Parity {
    /// The verdict over all mail.
    pub verdict: Relation,
    /// Every relation that some mail has, besides [`Relation::Equal`].
    pub relations: BTreeSet<Relation>,
    /// Classes of mail that are treated otherwise, each with its smallest message; the worst first.
    pub divergences: Vec<Divergence>,
    /// There are more than are shown.
    pub more: bool,
    /// Why nothing is known of some mail, where that is not a divergence of its own.
    pub doubts: Vec<Doubt>,
}

/// Why the verdict cannot be better than unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Parts of an import belong to no chain, and the other import does not have the same.
    Opaque {
        /// The part.
        part: Opaque,
        /// It stands in the set before the upgrade, not in the one after.
        before: bool,
    },
    /// There was too much to explore.
    TooLarge,
}

/// Mail that is treated otherwise.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// How the treatment after compares with the one before.
    pub relation: Relation,
    /// The smallest such message.
    pub sample: Sample,
    /// What becomes of it before.
    pub before: Side,
    /// What becomes of it after.
    pub after: Side,
    /// What is not understood and decides about it.
    pub doubts: Vec<Opaque>,
}

/// What one policy does with a message.
#[derive(Clone, Debug)]
pub struct Side {
    /// What becomes of it.
    pub fate: Fate,
    /// The rules that led there.
    pub rules: Vec<Place>,
    /// Every rule that was looked at.
    pub trace: Trace,
}

/// Two policies, made ready to be compared and asked about messages.
#[derive(Debug)]
pub struct Pair {
    /// Every question of both.
    pub questions: Questions,
    /// Before.
    pub before: Program,
    /// After.
    pub after: Program,
    /// Asks samples.
    pub judge: Judge,
}

impl Pair {
    /// Makes both ready.
    #[must_use]
    pub fn new(before: &PolicySet, after: &PolicySet, assumptions: &Assumptions) -> Self {
        let mut questions = Questions::default();
        let before = Program::new(before, assumptions, &mut questions);
        let after = Program::new(after, assumptions, &mut questions);
        let judge = Judge::new(&questions);
        Self { questions, before, after, judge }
    }
}

/// Compares two policies.
#[must_use]
pub fn compare(
    before: &PolicySet,
    after: &PolicySet,
    assumptions: &Assumptions,
    limits: Limits,
) -> Parity {
    let pair = Pair::new(before, after, assumptions);
    parity(&pair, explore(&pair, limits).as_ref().ok(), opaque_doubts(before, after), limits)
}

/// The verdict on two policies that were explored, where that was possible; `doubts` are those that the
/// sets bring along.
#[must_use]
pub fn parity(
    pair: &Pair,
    explored: Option<&Explored<'_>>,
    doubts: Vec<Doubt>,
    limits: Limits,
) -> Parity {
    let mut parity = Parity {
        verdict: Relation::Equal,
        relations: BTreeSet::new(),
        divergences: Vec::new(),
        more: false,
        doubts,
    };
    match explored {
        None => parity.doubts.push(Doubt::TooLarge),
        Some(explored) => {
            let mut search = Search { pair, limits, explored, parity: &mut parity };
            explored.differences.iter().for_each(|difference| search.draw_all(difference));
        }
    }
    parity.verdict = verdict(&parity.relations, !parity.doubts.is_empty());
    parity.divergences.sort_by_key(|one| Reverse(one.relation));
    parity
}

/// All mail, and how two policies treat it.
#[derive(Debug)]
pub struct Explored<'a> {
    space: Space<'a>,
    before: Diagram,
    after: Diagram,
    differences: Vec<Difference>,
}

/// Walks two policies with all mail.
///
/// # Errors
/// [`TooLarge`] where there is too much to explore.
pub fn explore(pair: &Pair, limits: Limits) -> Result<Explored<'_>, TooLarge> {
    let space = Space::new(&pair.questions, limits.budget)?;
    let before = Diagram::new(&pair.before, &space)?;
    let after = Diagram::new(&pair.after, &space)?;
    let differences = differences(&space, &before, &after);
    Ok(Explored { space, before, after, differences })
}

/// What two policies do with a message of which not everything is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affected {
    /// The same.
    No,
    /// The same, or not: it depends on what is not known. How it may differ.
    Perhaps(BTreeSet<Relation>),
    /// Not the same. How it differs.
    Certainly(BTreeSet<Relation>),
}

impl Explored<'_> {
    /// How a message is affected, by what is known of it.
    #[must_use]
    pub fn affected(&self, judge: &Judge, sample: &Sample) -> Affected {
        let known = self.space.known(judge, sample);
        let (mut relations, mut left) = (BTreeSet::new(), known.clone());
        for difference in &self.differences {
            if !known.and(&difference.region).is_false() {
                relations.insert(difference.relation);
                left = left.and_not(&difference.region);
            }
        }
        match (relations.is_empty(), left.is_false()) {
            (true, _) => Affected::No,
            (false, true) => Affected::Certainly(relations),
            (false, false) => Affected::Perhaps(relations),
        }
    }
}

/// One word for all mail. What is certain is not made less so by what is unknown.
fn verdict(relations: &BTreeSet<Relation>, doubts: bool) -> Relation {
    let has = |relation| relations.contains(&relation);
    let unknown = doubts || has(Relation::Unknown);
    match (has(Relation::Looser), has(Relation::Stricter), has(Relation::Incomparable)) {
        (false, false, false) if !unknown => Relation::Equal,
        (true, false, false) => Relation::Looser,
        (true, _, _) | (_, _, true) => Relation::Incomparable,
        (false, true, false) if !unknown => Relation::Stricter,
        (false, _, false) => Relation::Unknown,
    }
}

/// Parts of either set that were not understood and that the other does not have.
#[must_use]
pub fn opaque_doubts(before: &PolicySet, after: &PolicySet) -> Vec<Doubt> {
    let only = |one: &PolicySet, other: &PolicySet, before: bool| {
        let mut left: Vec<&Opaque> = other.opaque.iter().collect();
        let mut doubts = Vec::new();
        for part in &one.opaque {
            match left.iter().position(|there| there.text == part.text) {
                Some(place) => {
                    left.remove(place);
                }
                None => doubts.push(Doubt::Opaque { part: part.clone(), before }),
            }
        }
        doubts
    };
    let mut doubts = only(before, after, true);
    doubts.extend(only(after, before, false));
    doubts
}

/// Mail with the same two outcomes, which differ in one way.
#[derive(Debug)]
struct Difference {
    relation: Relation,
    before: Outcome,
    after: Outcome,
    region: Bdd,
    /// Where what is not understood decides whether it differs.
    doubtful: bool,
}

/// Every way in which outcomes differ, the worst first.
fn differences(space: &Space<'_>, before: &Diagram, after: &Diagram) -> Vec<Difference> {
    let (before_by, after_by) = (before.outcomes(), after.outcomes());
    let beside = effects_differ(space, before, after);
    let mut pairs = Vec::new();
    for (one, region) in &before_by {
        for (two, other) in &after_by {
            let both = region.and(other);
            let (relation, region) = match Relation::of(one, two) {
                Relation::Equal => (Relation::Incomparable, both.and(&beside)),
                relation => (relation, both),
            };
            if !region.is_false() {
                pairs.push(((*one).clone(), (*two).clone(), relation, region));
            }
        }
    }
    let all = union(pairs.iter().map(|(.., region)| region.clone()).collect());
    let certain = space.for_certain(&all.unwrap_or_else(|| space.nothing()));
    let mut differences = Vec::new();
    for (before, after, relation, region) in pairs {
        let (sure, unsure) = (region.and(&certain), region.and_not(&certain));
        let (one, two) = (before.clone(), after.clone());
        differences.push(Difference { relation, before, after, region: sure, doubtful: false });
        differences.push(Difference {
            relation: Relation::Unknown,
            before: one,
            after: two,
            region: unsure,
            doubtful: true,
        });
    }
    differences.retain(|difference| !difference.region.is_false());
    differences.sort_by_key(|one| Reverse(one.relation));
    differences
}

/// Mail with which something is done beside by one policy alone.
fn effects_differ(space: &Space<'_>, before: &Diagram, after: &Diagram) -> Bdd {
    let effects: BTreeSet<&Effect> = before.effects.keys().chain(after.effects.keys()).collect();
    let nothing = space.nothing();
    effects.into_iter().fold(space.nothing(), |differ, effect| {
        let one = before.effects.get(effect).unwrap_or(&nothing);
        let two = after.effects.get(effect).unwrap_or(&nothing);
        differ.or(&one.xor(two))
    })
}

struct Search<'a> {
    pair: &'a Pair,
    limits: Limits,
    explored: &'a Explored<'a>,
    parity: &'a mut Parity,
}

impl Search<'_> {
    /// Draws a message of each class in a difference: mail that the same two rules decide.
    fn draw_all(&mut self, difference: &Difference) {
        let Difference { relation, before, after, region, doubtful } = difference;
        let (mut region, space) = (region.clone(), &self.explored.space);
        let mut in_vain = 0;
        while let Some(point) = region.first_valuation() {
            let sample = match space.draw(&point) {
                Drawn::Message(sample) => sample,
                Drawn::Nothing(nothing) if in_vain < self.limits.draws => {
                    in_vain += 1;
                    region = region.and_not(&nothing);
                    continue;
                }
                Drawn::Nothing(_) | Drawn::Unclear => return self.give_up(),
            };
            let sample = self.fewest_facts(sample);
            self.parity.relations.insert(*relation);
            if self.parity.divergences.len() >= self.limits.divergences {
                self.parity.more = true;
                return;
            }
            let end = |ends: &[End]| ends.iter().find(|end| end.region.eval_in(&point)).cloned();
            let ends = (end(&self.explored.before.ends), end(&self.explored.after.ends));
            let (Some(one), Some(two)) = ends else {
                return self.give_up();
            };
            let doubts = if *doubtful { self.doubts(&region, &point) } else { Vec::new() };
            self.parity.divergences.push(Divergence {
                relation: *relation,
                before: self.side(&self.pair.before, &sample, before, &one),
                after: self.side(&self.pair.after, &sample, after, &two),
                sample,
                doubts,
            });
            let mut class = one.region.and(&two.region);
            if *doubtful {
                class = space.perhaps(&class);
            }
            region = region.and_not(&class);
        }
    }

    /// Nobody knows whether there is such a message.
    fn give_up(&mut self) {
        if !self.parity.doubts.contains(&Doubt::TooLarge) {
            self.parity.doubts.push(Doubt::TooLarge);
        }
    }

    /// Leaves out what neither decision needs, so that the message shows what matters.
    fn fewest_facts(&self, sample: Sample) -> Sample {
        let decide = |sample: &Sample| {
            let judge = &self.pair.judge;
            Some((
                judge.decide(&self.pair.before, sample)?,
                judge.decide(&self.pair.after, sample)?,
            ))
        };
        let Some(decided) = decide(&sample) else {
            return sample;
        };
        let kept = [Variable::Direction, Variable::Recipient, Variable::Sender];
        let others: Vec<Variable> = sample
            .facts()
            .map(|(variable, _)| variable.clone())
            .filter(|variable| !kept.contains(variable))
            .collect();
        others.into_iter().fold(sample, |sample, variable| {
            let less = sample.without(&variable);
            if decide(&less).as_ref() == Some(&decided) { less } else { sample }
        })
    }

    fn doubts(&self, region: &Bdd, point: &biodivine_lib_bdd::BddValuation) -> Vec<Opaque> {
        let doubts = self.explored.space.doubts(region, point).into_iter();
        doubts
            .filter_map(|question| match self.pair.questions.predicate(question) {
                crate::predicate::Predicate::Opaque(opaque) => Some(opaque.clone()),
                _ => None,
            })
            .collect()
    }

    /// What a policy does with the message, as it decides by itself; where it cannot, as the diagram
    /// has it.
    fn side(&self, program: &Program, sample: &Sample, outcome: &Outcome, end: &End) -> Side {
        let trace = self.pair.judge.trace(program, sample);
        match &trace.decision {
            Some(Decision { fate, rules }) => {
                Side { fate: fate.clone(), rules: rules.clone(), trace }
            }
            None => Side {
                fate: Fate { outcome: outcome.clone(), effects: BTreeSet::new() },
                rules: end.rules.clone(),
                trace,
            },
        }
    }
}

#[cfg(test)]
mod tests;
