//! Why no probe covers a rule, or an end of one.
//!
//! Told in the order in which mail would have to come by: whether the rule acts at all, whether it
//! acts on mail that probes can be, whether that can be told, and last whether there was room.
//!
//! Not here: what is covered (`cover`).

use std::collections::{BTreeMap, BTreeSet};

use biodivine_lib_bdd::Bdd;

use super::cover::{Cover, Ending};
use super::{Uncovered, Why};
use crate::chain::AppliesTo;
use crate::diagram::{Diagram, union};
use crate::predicate::Predicate;
use crate::program::Place;
use crate::reach::{Reach, covering};
use crate::set::{PolicySet, Stated};

/// What is other than probes are, in the order of [`super::scope::Scope::bounds`].
const OTHER: [Why; 5] = [
    Why::OtherRecipients,
    Why::OtherSenders,
    Why::OtherDirection,
    Why::FailedProcessing,
    Why::OtherService,
];

/// Everything that is not covered: rules in order, then ends of rules that are.
pub(super) fn uncovered(
    set: &PolicySet,
    diagram: &Diagram,
    reach: &Reach<'_>,
    cover: &Cover<'_>,
) -> Vec<Uncovered> {
    let search = Search { set, reach, cover };
    let mut uncovered = Vec::new();
    for (chain, content) in set.chains.iter().enumerate() {
        for rule in 0..content.rules.len() {
            let place = Place::Rule { chain, rule };
            if !cover.rules.contains(&place) {
                uncovered.push(Uncovered { place, outcome: None, why: search.rule(chain, rule) });
            }
        }
    }
    let named: BTreeSet<Place> = uncovered.iter().map(|one| one.place).collect();
    for ((place, outcome), region) in endings(diagram) {
        let within = cover.scope.within(&region);
        let ending = (place, outcome);
        if !within.is_false() && !cover.endings.contains(&ending) && !named.contains(&place) {
            let why = search.not_found(&region, &within);
            uncovered.push(Uncovered { place, outcome: Some(ending.1), why });
        }
    }
    uncovered
}

/// Every end, with the mail that comes to it.
fn endings(diagram: &Diagram) -> BTreeMap<Ending, Bdd> {
    let mut endings: BTreeMap<Ending, Vec<Bdd>> = BTreeMap::new();
    for end in &diagram.ends {
        if let Some(last) = end.rules.last() {
            endings.entry((*last, end.outcome.clone())).or_default().push(end.region.clone());
        }
    }
    endings.into_iter().filter_map(|(ending, regions)| Some((ending, union(regions)?))).collect()
}

struct Search<'a> {
    set: &'a PolicySet,
    reach: &'a Reach<'a>,
    cover: &'a Cover<'a>,
}

impl Search<'_> {
    fn rule(&self, chain: usize, rule: usize) -> Why {
        let (place, content) = (Place::Rule { chain, rule }, &self.set.chains[chain]);
        if content.applies_to == AppliesTo::ClientOnly {
            return Why::Clients;
        }
        let (Some(matching), Some(matched)) =
            (self.reach.matching(place), self.reach.matched(place))
        else {
            return Why::Disabled;
        };
        let arriving = self.reach.arriving(chain);
        if arriving.is_false() {
            let off = self.set.globals.learn_mode == Stated::Yes(false);
            return if off { Why::ChainNotReached } else { Why::LearnMode };
        }
        let wanted = matching.and(arriving);
        if wanted.is_false() {
            return Why::NoMail;
        }
        if matched.is_false() {
            return Why::Shadowed { by: covering(&self.reach.above(place), &wanted) };
        }
        let within = self.cover.scope.within(&matched);
        if within.is_false() {
            self.outside(place, &matched, &wanted)
        } else {
            self.not_found(&matched, &within)
        }
    }

    /// Why a rule acts only on mail that probes cannot be.
    fn outside(&self, place: Place, matched: &Bdd, wanted: &Bdd) -> Why {
        let scope = &self.cover.scope;
        let other = (0..).zip(OTHER).find(|(bound, _)| !scope.but_for(matched, *bound).is_false());
        if let Some((_, why)) = other {
            return why;
        }
        let taken = scope.within(wanted);
        match taken.is_false() {
            true => Why::OtherMail,
            false => Why::Shadowed { by: covering(&self.reach.above(place), &taken) },
        }
    }

    /// Why no message was chosen of mail that probes can be.
    fn not_found(&self, region: &Bdd, within: &Bdd) -> Why {
        let space = self.cover.scope.space;
        let certain = self.cover.scope.within(&space.for_certain(region));
        match within.first_valuation() {
            Some(point) if certain.is_false() => {
                let questions = space.questions();
                let what = |question| match questions.predicate(question) {
                    Predicate::Opaque(opaque) => Some(opaque.what.clone()),
                    Predicate::Text { .. } | Predicate::Number { .. } => None,
                };
                let doubts = space.doubts(region, &point).into_iter();
                Why::NotUnderstood { what: doubts.filter_map(what).collect() }
            }
            _ if self.cover.is_full() => Why::Enough,
            _ => Why::NoMessage,
        }
    }
}
