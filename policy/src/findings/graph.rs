//! Which chain leads to which.
//!
//! Only jumps of rules that are enabled count. What mail can take a jump is not looked at here: a
//! circle is one even where no mail goes round it today.
//!
//! Not here: which mail comes where (`dead`).

use std::collections::VecDeque;

use crate::action::Action;
use crate::assume::Assumptions;
use crate::chain::AppliesTo;
use crate::set::{EXCEPTION_CHAIN, PolicySet};

/// A jump.
#[derive(Debug)]
pub(super) struct Jump<'a> {
    /// The rule's place in its chain.
    pub(super) rule: usize,
    /// The name that it goes to.
    pub(super) name: &'a str,
    /// The place of the chain of this name.
    pub(super) target: Option<usize>,
}

/// The jumps of a set.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    /// Those of each chain.
    pub(super) jumps: Vec<Vec<Jump<'a>>>,
    /// For each chain, whether mail that passes the server can be led to it.
    pub(super) reached: Vec<bool>,
}

impl<'a> Graph<'a> {
    /// Reads the jumps of a set.
    pub(super) fn new(set: &'a PolicySet, assumptions: &Assumptions) -> Self {
        let place = |name: &str| set.chains.iter().position(|chain| chain.name == name);
        let jumps = set.chains.iter().map(|chain| {
            let enabled = chain.rules.iter().enumerate().filter(|(_, rule)| rule.enabled);
            let jump = |(rule, content): (usize, &'a crate::chain::Rule)| match content
                .actions
                .iter()
                .find(|action| action.is_last())
            {
                Some(Action::GoTo(name)) => Some(Jump { rule, name, target: place(name) }),
                _ => None,
            };
            enabled.filter_map(jump).collect()
        });
        let mut graph = Self { jumps: jumps.collect(), reached: vec![false; set.chains.len()] };
        let starts = [&*assumptions.start_outbound, &*assumptions.start_inbound, EXCEPTION_CHAIN];
        graph.reach(set, starts.into_iter().filter_map(place).collect());
        graph
    }

    fn reach(&mut self, set: &PolicySet, mut waiting: Vec<usize>) {
        while let Some(chain) = waiting.pop() {
            let acts = set.chains[chain].applies_to != AppliesTo::ClientOnly;
            if acts && !std::mem::replace(&mut self.reached[chain], true) {
                waiting.extend(self.jumps[chain].iter().filter_map(|jump| jump.target));
            }
        }
    }

    /// Circles, each as chains with the rules that lead on; every chain that is in one is in one of
    /// these, or leads to one and back.
    pub(super) fn circles(&self) -> Vec<Vec<(usize, usize)>> {
        let mut told = vec![false; self.jumps.len()];
        let mut circles = Vec::new();
        for chain in 0..self.jumps.len() {
            if told[chain] {
                continue;
            }
            if let Some(circle) = self.circle(chain) {
                circle.iter().for_each(|(chain, _)| told[*chain] = true);
                circles.push(circle);
            }
        }
        circles
    }

    /// The shortest way from a chain back to itself.
    fn circle(&self, start: usize) -> Option<Vec<(usize, usize)>> {
        let mut came: Vec<Option<(usize, usize)>> = vec![None; self.jumps.len()];
        let mut waiting = VecDeque::from([start]);
        while let Some(chain) = waiting.pop_front() {
            for jump in &self.jumps[chain] {
                let Some(target) = jump.target else {
                    continue;
                };
                if came[target].is_none() {
                    came[target] = Some((chain, jump.rule));
                    waiting.push_back(target);
                }
            }
        }
        let mut circle = vec![came[start]?];
        while let Some(last) = circle.last().filter(|(chain, _)| *chain != start) {
            circle.push(came[last.0]?);
        }
        circle.reverse();
        Some(circle)
    }
}
