//! Which mail comes to each rule.
//!
//! Told from a finished walk of all mail: what comes to a chain is what ends behind a jump to it, and
//! what comes to a rule is what no rule above it in the chain takes away.
//!
//! Invariant: mail comes to a chain at most once, since facts do not change on the way.
//!
//! Not here: what becomes of the mail (`diagram`).

use biodivine_lib_bdd::Bdd;

use crate::diagram::{Diagram, union};
use crate::program::{Line, Place, Program, Then};
use crate::space::Space;

/// The mail of a program, rule by rule.
#[derive(Debug)]
pub struct Reach<'a> {
    program: &'a Program,
    space: &'a Space<'a>,
    arriving: Vec<Bdd>,
}

/// A rule and the mail that it matches, whether or not it comes to it.
#[derive(Clone, Debug)]
pub struct Taker {
    /// Which rule.
    pub place: Place,
    /// The mail.
    pub region: Bdd,
}

impl<'a> Reach<'a> {
    /// Reads it from the walk of this program in this space.
    #[must_use]
    pub fn new(program: &'a Program, space: &'a Space<'a>, diagram: &Diagram) -> Self {
        let mut regions: Vec<Vec<Bdd>> = vec![Vec::new(); program.chains.len()];
        regions[program.start()].push(space.valid().clone());
        for end in &diagram.ends {
            for place in &end.rules {
                if let Some(Line { then: Then::Chain(target), .. }) = line(program, *place) {
                    regions[*target].push(end.region.clone());
                }
            }
        }
        let all = |regions| union(regions).unwrap_or_else(|| space.nothing());
        Self { program, space, arriving: regions.into_iter().map(all).collect() }
    }

    /// The mail that comes to a chain, by its place in the program.
    #[must_use]
    pub fn arriving(&self, chain: usize) -> &Bdd {
        &self.arriving[chain]
    }

    /// The mail that a rule matches, whether or not it comes to it; none where it is not enabled.
    #[must_use]
    pub fn matching(&self, place: Place) -> Option<Bdd> {
        let line = line(self.program, place)?;
        Some(self.space.where_holds(&line.formula).and(self.space.valid()))
    }

    /// The mail that comes to a rule and that it matches; none where it is not enabled.
    #[must_use]
    pub fn matched(&self, place: Place) -> Option<Bdd> {
        let matching = self.matching(place)?;
        let asked = self.arriving[chain_of(self.program, place)].and(&matching);
        Some(self.above(place).iter().fold(asked, |left, taker| left.and_not(&taker.region)))
    }

    /// The rules of the chain above this one that take mail away.
    #[must_use]
    pub fn above(&self, place: Place) -> Vec<Taker> {
        let lines = &self.program.chains[chain_of(self.program, place)];
        self.takers(lines.iter().take_while(|line| line.place != place))
    }

    /// The rules of a chain that take mail away.
    #[must_use]
    pub fn takers_of(&self, chain: usize) -> Vec<Taker> {
        self.takers(self.program.chains[chain].iter())
    }

    fn takers<'l>(&self, lines: impl Iterator<Item = &'l Line>) -> Vec<Taker> {
        let ends = lines.filter(|line| !matches!(line.then, Then::Next));
        let region = |line: &Line| self.space.where_holds(&line.formula).and(self.space.valid());
        ends.map(|line| Taker { place: line.place, region: region(line) }).collect()
    }
}

/// The rules that together take all of this mail, in order: the first that does so alone, else as few
/// as none of them can be left out of.
#[must_use]
pub fn covering(takers: &[Taker], mail: &Bdd) -> Vec<Place> {
    if let Some(alone) = takers.iter().find(|taker| mail.and_not(&taker.region).is_false()) {
        return vec![alone.place];
    }
    let touches = |taker: &&Taker| !mail.and(&taker.region).is_false();
    let mut some: Vec<&Taker> = takers.iter().filter(touches).collect();
    for place in (0..some.len()).rev() {
        let others = some.iter().enumerate().filter(|(other, _)| *other != place);
        let left = others.fold(mail.clone(), |left, (_, taker)| left.and_not(&taker.region));
        if left.is_false() {
            some.remove(place);
        }
    }
    some.into_iter().map(|taker| taker.place).collect()
}

/// The line of a place; none for a rule that is not enabled.
pub(crate) fn line(program: &Program, place: Place) -> Option<&Line> {
    program.chains[chain_of(program, place)].iter().find(|line| line.place == place)
}

fn chain_of(program: &Program, place: Place) -> usize {
    match place {
        Place::Before(_) => program.start(),
        Place::Rule { chain, .. } => chain,
    }
}
