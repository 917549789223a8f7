//! The automaton made deterministic, breadth first: what is found first is smallest.
//!
//! States from which the grammar cannot go on are dropped with everything behind them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::build::{GRAMMAR, Nfa, State};

/// How much may be explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// States of the deterministic automaton.
    pub states: usize,
    /// Classes of texts.
    pub classes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { states: 500_000, classes: 8192 }
    }
}

/// The budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many combinations of answers")]
pub struct TooLarge;

/// Texts that get the same answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// The languages that they are in, by number, in order.
    pub members: Vec<u32>,
    /// The smallest of them.
    pub text: String,
}

/// Octets in the order in which they are taken for an example.
const NICEST: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.-@_ ";

pub(super) fn classes(nfa: &Nfa, budget: Budget) -> Result<Vec<Class>, TooLarge> {
    let mut explorer = Explorer::new(nfa, budget.states);
    let mut found: HashMap<Vec<u32>, usize> = HashMap::new();
    let mut classes = Vec::new();
    while let Some((state, members)) = explorer.next_end()? {
        if let Entry::Vacant(vacant) = found.entry(members) {
            classes.push(Class { members: vacant.key().clone(), text: explorer.text(state) });
            vacant.insert(state);
            if classes.len() > budget.classes {
                return Err(TooLarge);
            }
        }
    }
    Ok(classes)
}

pub(super) fn text_in(
    nfa: &Nfa,
    members: &[bool],
    budget: Budget,
) -> Result<Option<String>, TooLarge> {
    let wanted: Vec<u32> = (0..).zip(members).filter(|(_, is)| **is).map(|(at, _)| at).collect();
    let mut explorer = Explorer::new(nfa, budget.states);
    while let Some((state, members)) = explorer.next_end()? {
        if members == wanted {
            return Ok(Some(explorer.text(state)));
        }
    }
    Ok(None)
}

/// Walks the deterministic automaton breadth first and makes it on the way.
struct Explorer<'a> {
    nfa: &'a Nfa,
    states_max: usize,
    known: HashMap<Box<[State]>, ()>,
    queue: Vec<Box<[State]>>,
    /// Whence each state was found, by which octet.
    parents: Vec<(usize, u8)>,
    at: usize,
    /// States that nothing of the grammar leads on from are dead.
    grammar: Vec<bool>,
    closure: Closure,
    ranks: [u8; 256],
}

impl<'a> Explorer<'a> {
    fn new(nfa: &'a Nfa, states_max: usize) -> Self {
        let mut ranks = [u8::MAX; 256];
        for (rank, octet) in (0..).zip(NICEST) {
            ranks[usize::from(*octet)] = rank;
        }
        let mut explorer = Self {
            nfa,
            states_max,
            known: HashMap::new(),
            queue: Vec::new(),
            parents: Vec::new(),
            at: 0,
            grammar: part_of_grammar(nfa),
            closure: Closure { stamps: vec![0; nfa.edges.len()], round: 0, stack: Vec::new() },
            ranks,
        };
        let start = explorer.closure.of(nfa, std::iter::once(0));
        explorer.add(start, (0, 0));
        explorer
    }

    /// The next state in which a text of the grammar ends, and which languages it is in.
    fn next_end(&mut self) -> Result<Option<(usize, Vec<u32>)>, TooLarge> {
        while self.at < self.queue.len() {
            let state = self.at;
            self.at += 1;
            self.expand(state)?;
            if let Some(members) = self.members(state) {
                return Ok(Some((state, members)));
            }
        }
        Ok(None)
    }

    /// The languages of a text that ends here; none where the grammar knows no such text.
    fn members(&self, state: usize) -> Option<Vec<u32>> {
        let accepted =
            self.queue[state].iter().flat_map(|state| &self.nfa.accepts[*state as usize]);
        let mut members: Vec<u32> = accepted.copied().collect();
        members.sort_unstable();
        members.dedup();
        (members.pop() == Some(GRAMMAR)).then_some(members)
    }

    fn expand(&mut self, state: usize) -> Result<(), TooLarge> {
        let mut edges = Vec::new();
        for one in &self.queue[state] {
            edges.extend_from_slice(&self.nfa.edges[*one as usize]);
        }
        for (octet, low) in self.representatives(&edges) {
            let to = edges
                .iter()
                .filter(|(from, until, _)| (from..=until).contains(&&low))
                .map(|(_, _, to)| *to);
            let next = self.closure.of(self.nfa, to);
            if next.iter().any(|state| self.grammar[*state as usize]) {
                self.add(next, (state, octet));
            }
        }
        if self.queue.len() > self.states_max { Err(TooLarge) } else { Ok(()) }
    }

    /// Octets that lead to different places, the nicest of each range, in order; with the first of
    /// the range.
    fn representatives(&self, edges: &[(u8, u8, State)]) -> Vec<(u8, u8)> {
        let mut begins = [false; 257];
        for (low, high, _) in edges {
            begins[usize::from(*low)] = true;
            begins[usize::from(*high) + 1] = true;
        }
        let mut found = Vec::new();
        let mut open: Option<(u8, u8)> = None;
        for octet in 0..=u8::MAX {
            if begins[usize::from(octet)] {
                found.extend(open.replace((octet, octet)));
            } else if let Some((nicest, _)) = &mut open
                && self.ranks[usize::from(octet)] < self.ranks[usize::from(*nicest)]
            {
                *nicest = octet;
            }
        }
        found.extend(open);
        found.sort_by_key(|(octet, _)| self.ranks[usize::from(*octet)]);
        found
    }

    fn add(&mut self, states: Box<[State]>, parent: (usize, u8)) {
        if let Entry::Vacant(vacant) = self.known.entry(states) {
            self.queue.push(vacant.key().clone());
            vacant.insert(());
            self.parents.push(parent);
        }
    }

    /// The text that leads to a state.
    fn text(&self, mut state: usize) -> String {
        let mut octets = Vec::new();
        while state != 0 {
            let (parent, octet) = self.parents[state];
            octets.push(octet);
            state = parent;
        }
        octets.reverse();
        String::from_utf8_lossy(&octets).into_owned()
    }
}

/// Which states can lead to an end of the grammar and belong to nothing else.
fn part_of_grammar(nfa: &Nfa) -> Vec<bool> {
    let count = nfa.edges.len();
    let mut before: Vec<Vec<State>> = vec![Vec::new(); count];
    for (state, (edges, free)) in (0..).zip(nfa.edges.iter().zip(&nfa.free)) {
        for to in edges.iter().map(|(_, _, to)| to).chain(free) {
            before[*to as usize].push(state);
        }
    }
    let is_end = |state: &usize| nfa.accepts[*state].contains(&GRAMMAR);
    let mut stack: Vec<usize> = (0..count).filter(is_end).collect();
    let mut found = vec![false; count];
    while let Some(state) = stack.pop() {
        if !std::mem::replace(&mut found[state], true) {
            stack.extend(before[state].iter().map(|state| *state as usize));
        }
    }
    found
}

/// Follows what is reached with nothing read.
struct Closure {
    stamps: Vec<u32>,
    round: u32,
    stack: Vec<State>,
}

impl Closure {
    /// States reached from these that read or accept something, in order.
    fn of(&mut self, nfa: &Nfa, from: impl Iterator<Item = State>) -> Box<[State]> {
        self.round += 1;
        self.stack.extend(from);
        let mut reached = Vec::new();
        while let Some(state) = self.stack.pop() {
            let at = state as usize;
            if std::mem::replace(&mut self.stamps[at], self.round) == self.round {
                continue;
            }
            if !nfa.edges[at].is_empty() || !nfa.accepts[at].is_empty() {
                reached.push(state);
            }
            self.stack.extend_from_slice(&nfa.free[at]);
        }
        reached.sort_unstable();
        reached.into_boxed_slice()
    }
}
