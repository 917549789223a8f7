//! Rules that never act, chains that nothing comes to, and chains with an end that mail can come to.
//!
//! Told from a walk of all mail at once. Where a condition is not understood, it may hold or not, so
//! that a rule is called dead only where it never acts whatever the answer is.
//!
//! Not here: chains that no rule leads to (`graph`).

use biodivine_lib_bdd::Bdd;

use super::graph::Graph;
use super::{Fault, Finding, placed, words};
use crate::action::Action;
use crate::assume::{Assumptions, EndOfChain};
use crate::chain::{AppliesTo, Chain};
use crate::condition::Test;
use crate::diagram::Diagram;
use crate::language::{Budget, TooLarge};
use crate::program::{Line, Program, Questions};
use crate::reach::{Reach, Taker, covering};
use crate::set::PolicySet;
use crate::severity::Severity;
use crate::space::Space;

/// What never acts, of a set that states all its settings.
pub(super) fn findings(
    set: &PolicySet,
    assumptions: &Assumptions,
    graph: &Graph<'_>,
) -> Vec<Finding> {
    let mut search = Search { set, assumptions, found: Vec::new() };
    if search.walk(graph).is_err() {
        search.too_large(graph);
    }
    search.found
}

struct Search<'a> {
    set: &'a PolicySet,
    assumptions: &'a Assumptions,
    found: Vec<Finding>,
}

impl Search<'_> {
    fn walk(&mut self, graph: &Graph<'_>) -> Result<(), TooLarge> {
        let mut questions = Questions::default();
        let program = Program::new(self.set, self.assumptions, &mut questions);
        let space = Space::new(&questions, Budget::default())?;
        let diagram = Diagram::new(&program, &space)?;
        let reach = Reach::new(&program, &space, &diagram);
        for (place, chain) in self.set.chains.iter().enumerate() {
            if !graph.reached[place] {
                continue;
            }
            if reach.arriving(place).is_false() {
                self.unreached(chain);
                continue;
            }
            let takers = reach.takers_of(place);
            self.catch_all(chain, &takers, space.valid(), reach.arriving(place));
            for line in &program.chains[place] {
                self.rule(line, &takers, &reach, reach.arriving(place));
            }
        }
        Ok(())
    }

    fn unreached(&mut self, chain: &Chain) {
        self.found.push(Finding {
            fault: Fault::UnreachedChain,
            severity: Severity::Warning,
            text: format!("no mail comes to {}", words::chain(chain)),
            origin: chain.origin.clone(),
            because: Vec::new(),
        });
    }

    /// Does mail come to the end of a chain?
    fn catch_all(&mut self, chain: &Chain, takers: &[Taker], all: &Bdd, arriving: &Bdd) {
        let left = |mail: &Bdd| {
            takers.iter().fold(mail.clone(), |left, taker| left.and_not(&taker.region))
        };
        if chain.rules.is_empty() || left(all).is_false() {
            return;
        }
        self.no_catch_all(chain, !left(arriving).is_false());
    }

    fn no_catch_all(&mut self, chain: &Chain, comes: bool) {
        let name = words::chain(chain);
        let known = self.assumptions.end_of_chain != EndOfChain::Unknown;
        let (severity, what) = match (comes, known) {
            (false, _) => (Severity::Info, "no mail that comes to it today is left over"),
            (true, true) => (Severity::Info, "what is left over is treated as is assumed"),
            (true, false) => {
                (Severity::Warning, "what becomes of mail that is left over is not documented")
            }
        };
        self.found.push(Finding {
            fault: Fault::NoCatchAll,
            severity,
            text: format!("{name} has no rule for all that is left over; {what}"),
            origin: chain.origin.clone(),
            because: Vec::new(),
        });
    }

    /// Does a rule ever act?
    fn rule(&mut self, line: &Line, takers: &[Taker], reach: &Reach<'_>, arriving: &Bdd) {
        let (Some(matching), Some((name, rule))) =
            (reach.matching(line.place), placed(self.set, line.place))
        else {
            return;
        };
        let wanted = matching.and(arriving);
        let above: Vec<Taker> =
            takers.iter().filter(|taker| taker.place < line.place).cloned().collect();
        let left = above.iter().fold(wanted.clone(), |left, taker| left.and_not(&taker.region));
        if !left.is_false() {
            return;
        }
        let (fault, severity, text, because) = if matching.is_false() {
            (Fault::Idle, Severity::Info, format!("no mail matches {name}"), Vec::new())
        } else if wanted.is_false() {
            let text = format!("no mail that comes to its chain matches {name}");
            (Fault::Idle, Severity::Info, text, Vec::new())
        } else {
            let by: Vec<_> = covering(&above, &wanted)
                .into_iter()
                .filter_map(|place| placed(self.set, place))
                .map(|(_, rule)| rule)
                .collect();
            let names: Vec<String> = by.iter().map(|rule| format!("{:?}", rule.name)).collect();
            let text = format!("{name} never acts: its mail is taken by {}", names.join(" and "));
            let because = by.into_iter().map(|rule| rule.origin.clone()).collect();
            (Fault::Shadowed, Severity::Warning, text, because)
        };
        let origin = rule.origin.clone();
        self.found.push(Finding { fault, severity, text, origin, because });
    }

    /// What can be told without a walk.
    fn too_large(&mut self, graph: &Graph<'_>) {
        self.found.clear();
        self.found.push(Finding {
            fault: Fault::TooLarge,
            severity: Severity::Warning,
            text: "it is too much to find out which rules never act".to_owned(),
            origin: self.set.origin.clone(),
            because: Vec::new(),
        });
        for (chain, reached) in self.set.chains.iter().zip(&graph.reached) {
            let last = chain.rules.iter().any(|rule| {
                rule.enabled
                    && rule.test == Test::ALWAYS
                    && rule.actions.iter().any(Action::is_last)
            });
            let acts = chain.applies_to != AppliesTo::ClientOnly && *reached;
            if acts && !last && !chain.rules.is_empty() {
                self.no_catch_all(chain, true);
            }
        }
    }
}
