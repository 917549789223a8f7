//! Few messages that meet every rule: the one that meets most which is not met yet goes first.
//!
//! A class of mail is what comes to the same end by the same rules. It is covered by a message whose
//! way does not hang on what is not understood.
//!
//! Not here: why something is left out (`why`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use biodivine_lib_bdd::Bdd;

use super::scope::Scope;
use super::{Chosen, Limits};
use crate::action::Outcome;
use crate::decide::{Decision, Judge};
use crate::diagram::{Diagram, union};
use crate::program::{Place, Program, Then};
use crate::reach::Reach;
use crate::sample::{Fact, Sample, Variable};
use crate::space::Drawn;

/// Possible ends of one message beyond which it is not followed.
const POSSIBLE_MAX: usize = 64;

/// An end of a rule: where mail is when the rule has acted.
pub(super) type Ending = (Place, Outcome);

/// The search for probes, and what it has come to.
pub(super) struct Cover<'a> {
    program: &'a Program,
    judge: &'a Judge,
    limits: Limits,
    /// The mail that probes can be.
    pub(super) scope: Scope<'a>,
    /// The mail that probes can be with which each rule does something beside and does not end,
    /// whatever is not understood.
    beside: BTreeMap<Place, Bdd>,
    /// The probes.
    pub(super) probes: Vec<Chosen>,
    /// Rules that they cover.
    pub(super) rules: BTreeSet<Place>,
    /// Ends that they cover.
    pub(super) endings: BTreeSet<Ending>,
}

/// Mail that comes to the same end by the same rules, whatever is not understood.
struct Class {
    rules: Vec<Place>,
    ending: Ending,
    region: Bdd,
}

impl Class {
    /// How many rules and ends its mail would cover.
    fn gain(&self, cover: &Cover<'_>) -> usize {
        let rules = self.rules.iter().filter(|place| !cover.rules.contains(place)).count();
        rules + usize::from(!cover.endings.contains(&self.ending))
    }
}

impl<'a> Cover<'a> {
    /// Chooses nothing yet.
    pub(super) fn new(
        program: &'a Program,
        judge: &'a Judge,
        reach: &Reach<'_>,
        scope: Scope<'a>,
        limits: Limits,
    ) -> Self {
        let lines = program.chains.iter().flatten();
        let beside = lines
            .filter(|line| matches!(line.then, Then::Next))
            .filter_map(|line| {
                let matched = scope.space.for_certain(&reach.matched(line.place)?);
                Some((line.place, scope.within(&matched)))
            })
            .collect();
        let (probes, rules, endings) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        Self { program, judge, limits, scope, beside, probes, rules, endings }
    }

    /// Chooses until nothing is left to cover, or as much as may be.
    pub(super) fn choose(&mut self, diagram: &Diagram) {
        let classes = self.classes(diagram);
        let mut left: Vec<&Class> = classes.iter().collect();
        while !self.is_full() {
            let gains = left.iter().map(|class| class.gain(self)).enumerate();
            let Some((best, 1..)) = gains.min_by_key(|(_, gain)| Reverse(*gain)) else {
                break;
            };
            let class = left.remove(best);
            self.probe(class, &class.region);
        }
        self.rest(&classes);
    }

    /// Are there as many probes as may be?
    pub(super) fn is_full(&self) -> bool {
        self.probes.len() >= self.limits.probes
    }

    /// Rules that only do something beside, and that no probe met on its way.
    fn rest(&mut self, classes: &[Class]) {
        for (place, mail) in self.beside.clone() {
            for class in classes {
                let region = class.region.and(&mail);
                if self.is_full() || self.rules.contains(&place) {
                    break;
                }
                if !region.is_false() {
                    self.probe(class, &region);
                }
            }
        }
    }

    fn classes(&self, diagram: &Diagram) -> Vec<Class> {
        let mut regions: BTreeMap<(&Vec<Place>, &Outcome), Vec<Bdd>> = BTreeMap::new();
        for end in &diagram.ends {
            regions.entry((&end.rules, &end.outcome)).or_default().push(end.region.clone());
        }
        let class = |((rules, outcome), regions): ((&Vec<Place>, &Outcome), Vec<Bdd>)| {
            let ending = (*rules.last()?, outcome.clone());
            let region = self.scope.within(&self.scope.space.for_certain(&union(regions)?));
            let rules = rules.clone();
            (!region.is_false()).then_some(Class { rules, ending, region })
        };
        regions.into_iter().filter_map(class).collect()
    }

    /// Chooses a message of this part of a class, if one is found: one that meets rules beside, and
    /// that agrees with what other probes expect, as far as there are such.
    fn probe(&mut self, class: &Class, region: &Bdd) {
        let mut narrow = region.clone();
        for (place, mail) in &self.beside {
            let both = narrow.and(mail);
            if !self.rules.contains(place) && !both.is_false() {
                narrow = both;
            }
        }
        let agreeing = self.scope.agreeing(narrow);
        let drawn = self.draw(class, agreeing).or_else(|| self.draw(class, region.clone()));
        let Some((sample, decision)) = drawn else {
            return;
        };
        let expects = self.expects(&sample, &decision);
        self.scope.keep(&sample, &expects);
        let new = decision.rules.iter().filter(|place| !self.rules.contains(place));
        let covers = new.copied().collect();
        self.rules.extend(&decision.rules);
        self.endings.insert(class.ending.clone());
        self.probes.push(Chosen { sample, decision, covers, expects });
    }

    /// A message of this mail that is decided as its class is.
    fn draw(&self, class: &Class, mut region: Bdd) -> Option<(Sample, Decision)> {
        for _ in 0..self.limits.draws {
            let point = region.first_valuation()?;
            let sample = match self.scope.space.draw(&point) {
                Drawn::Message(sample) => self.scope.written(sample),
                Drawn::Nothing(nothing) => {
                    region = region.and_not(&nothing);
                    continue;
                }
                Drawn::Unclear => return None,
            };
            let decision = self.certain(&sample)?;
            let same = decision.fate.outcome == class.ending.1
                && class.rules.iter().all(|place| decision.rules.contains(place));
            return same.then_some((sample, decision));
        }
        None
    }

    /// What becomes of a message for certain; none where what is not known leads to other ends. Rules
    /// beside that may match or not are left out.
    fn certain(&self, sample: &Sample) -> Option<Decision> {
        let possible = self.judge.possible(self.program, sample);
        if possible.len() >= POSSIBLE_MAX {
            return None;
        }
        let mut possible = possible.into_iter();
        let first = possible.next()?;
        possible.try_fold(first, |mut certain, other| {
            let same = certain.fate.outcome == other.fate.outcome;
            certain.rules.retain(|place| other.rules.contains(place));
            certain.fate.effects.retain(|effect| other.fate.effects.contains(effect));
            same.then_some(certain)
        })
    }

    /// Facts that only the server knows, without which something else could become of the message.
    fn expects(&self, sample: &Sample, decision: &Decision) -> Vec<(Variable, Fact)> {
        // These are given by how a probe is sent.
        const SENT: [Variable; 4] =
            [Variable::Direction, Variable::Processing, Variable::Application, Variable::Service];
        let mut known: Vec<(Variable, Fact)> =
            sample.facts().map(|(variable, fact)| (variable.clone(), fact.clone())).collect();
        let mut expects = Vec::new();
        for (variable, fact) in sample.facts() {
            if variable.is_in_message() || SENT.contains(variable) {
                continue;
            }
            let mut others = known.clone();
            others.retain(|(other, _)| other != variable);
            let less = others.iter().fold(Sample::unknown(), |less, (variable, fact)| {
                less.with(variable.clone(), fact.clone())
            });
            match self.certain(&less.with_all_headers()) {
                Some(same) if same == *decision => known = others,
                _ => expects.push((variable.clone(), fact.clone())),
            }
        }
        expects
    }
}
