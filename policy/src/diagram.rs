//! What a policy does with all messages at once.
//!
//! A walk of the whole program that carries, instead of one message, the set of messages that come
//! this far. What a rule takes away is gone for the rules below it, so that a rule which nothing
//! reaches is found on the way.
//!
//! Invariant: the regions of all ends are disjoint and together are the whole space.
//!
//! Not here: two policies (`parity`).

use std::collections::{BTreeMap, BTreeSet};

use biodivine_lib_bdd::Bdd;

use crate::action::{Cause, Effect, Outcome};
use crate::language::TooLarge;
use crate::program::{Line, Place, Program, Then};
use crate::space::Space;

/// Ends that are followed.
const ENDS_MAX: usize = 100_000;

/// An end of evaluation and the messages that come to it.
#[derive(Clone, Debug)]
pub struct End {
    /// The messages.
    pub region: Bdd,
    /// What becomes of them.
    pub outcome: Outcome,
    /// The rules that led here; rules that only did something beside are left out.
    pub rules: Vec<Place>,
}

/// What becomes of all messages.
#[derive(Debug)]
pub struct Diagram {
    /// Every end that some message comes to.
    pub ends: Vec<End>,
    /// The messages with which each thing is done beside.
    pub effects: BTreeMap<Effect, Bdd>,
    /// Rules that some message matches when it is asked.
    pub matched: BTreeSet<Place>,
    /// Rules that some message is asked.
    pub asked: BTreeSet<Place>,
}

impl Diagram {
    /// Walks a program with all messages of a space.
    ///
    /// # Errors
    /// [`TooLarge`] where it has too many ends.
    pub fn new(program: &Program, space: &Space<'_>) -> Result<Self, TooLarge> {
        let mut walk = Walk {
            program,
            space,
            diagram: Self {
                ends: Vec::new(),
                effects: BTreeMap::new(),
                matched: BTreeSet::new(),
                asked: BTreeSet::new(),
            },
        };
        walk.chain(program.start(), space.valid().clone(), &mut Vec::new(), &mut Vec::new())?;
        Ok(walk.diagram)
    }

    /// The messages that end in each way.
    #[must_use]
    pub fn outcomes(&self) -> BTreeMap<&Outcome, Bdd> {
        let mut by_outcome: BTreeMap<&Outcome, Vec<Bdd>> = BTreeMap::new();
        for end in &self.ends {
            by_outcome.entry(&end.outcome).or_default().push(end.region.clone());
        }
        by_outcome.into_iter().filter_map(|(one, regions)| Some((one, union(regions)?))).collect()
    }
}

/// All of several sets, joined in pairs so that small ones meet small ones.
pub(crate) fn union(mut sets: Vec<Bdd>) -> Option<Bdd> {
    while sets.len() > 1 {
        sets = sets
            .chunks(2)
            .map(|pair| match pair {
                [one, two] => one.or(two),
                rest => rest[0].clone(),
            })
            .collect();
    }
    sets.pop()
}

struct Walk<'a, 'b> {
    program: &'a Program,
    space: &'a Space<'b>,
    diagram: Diagram,
}

impl Walk<'_, '_> {
    fn chain(
        &mut self,
        chain: usize,
        mut region: Bdd,
        rules: &mut Vec<Place>,
        visited: &mut Vec<usize>,
    ) -> Result<(), TooLarge> {
        if visited.contains(&chain) {
            return self.end(region, Outcome::Undecided(Cause::Cycle), rules);
        }
        visited.push(chain);
        for line in &self.program.chains[chain] {
            if region.is_false() {
                break;
            }
            self.diagram.asked.insert(line.place);
            let holds = self.space.where_holds(&line.formula);
            let matched = region.and(&holds);
            if matched.is_false() {
                continue;
            }
            self.diagram.matched.insert(line.place);
            self.effects(line, &matched);
            if matches!(line.then, Then::Next) {
                continue;
            }
            region = region.and_not(&holds);
            rules.push(line.place);
            self.then(&line.then, matched, rules, visited)?;
            rules.pop();
        }
        visited.pop();
        self.end(region, self.program.end_of_chain.clone(), rules)
    }

    fn then(
        &mut self,
        then: &Then,
        matched: Bdd,
        rules: &mut Vec<Place>,
        visited: &mut Vec<usize>,
    ) -> Result<(), TooLarge> {
        match then {
            Then::Finish(outcome) => self.end(matched, outcome.clone(), rules),
            Then::Chain(target) => self.chain(*target, matched, rules, visited),
            Then::Key { found, with, without } => {
                let found = self.space.where_holds(found);
                self.end(matched.and(&found), with.clone(), rules)?;
                self.end(matched.and_not(&found), without.clone(), rules)
            }
            Then::Next => Ok(()),
        }
    }

    fn effects(&mut self, line: &Line, matched: &Bdd) {
        for effect in &line.effects {
            let nothing = || self.space.nothing();
            let set = self.diagram.effects.entry(effect.clone()).or_insert_with(nothing);
            *set = set.or(matched);
        }
    }

    fn end(&mut self, region: Bdd, outcome: Outcome, rules: &[Place]) -> Result<(), TooLarge> {
        if region.is_false() {
            return Ok(());
        }
        if self.diagram.ends.len() == ENDS_MAX {
            return Err(TooLarge);
        }
        self.diagram.ends.push(End { region, outcome, rules: rules.to_vec() });
        Ok(())
    }
}
