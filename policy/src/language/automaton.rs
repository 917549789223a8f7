//! The automaton made deterministic, breadth first: what is found first is smallest.
//!
//! Sets from which the grammar cannot go on are dropped with everything behind them. Positions bear a
//! mark, so that a run can be told from another that began elsewhere and came to the same state.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::build::{AT, GRAMMAR, Nfa, State};

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

/// A state of the automaton in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position {
    pub(super) run: u32,
    pub(super) state: State,
}

/// What is accepted: a language, in a run.
pub(super) type Accepted = (u32, u32);

/// Longest text that is looked for when the smallest will not do; an address has no more octets
/// (RFC 5321 §4.5.3.1).
const TEXT_OCTETS_MAX: usize = 320;

/// Octets in the order in which they are taken for an example.
const NICEST: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.-@_ ";

pub(super) fn classes(nfa: &Arc<Nfa>, budget: Budget) -> Result<Vec<Class>, TooLarge> {
    let start = vec![Position { run: 0, state: 0 }];
    let mut explorer = Explorer::new(nfa, start, None, None, budget.states);
    let mut found: HashSet<Vec<u32>> = HashSet::new();
    let mut classes = Vec::new();
    while let Some((state, members)) = explorer.next_end()? {
        let members: Vec<u32> = members.into_iter().map(|(_, language)| language).collect();
        if found.insert(members.clone()) {
            classes.push(Class { members, text: explorer.text(state) });
            if classes.len() > budget.classes {
                return Err(TooLarge);
            }
        }
    }
    Ok(classes)
}

pub(super) fn text_in(
    nfa: &Arc<Nfa>,
    members: &[bool],
    budget: Budget,
) -> Result<Option<String>, TooLarge> {
    let members = (0..).zip(members).filter(|(_, is)| **is);
    let wanted: Vec<Accepted> = members.map(|(language, _)| (0, language)).collect();
    let start = vec![Position { run: 0, state: 0 }];
    let mut explorer = Explorer::new(nfa, start, None, None, budget.states);
    while let Some((state, members)) = explorer.next_end()? {
        if members == wanted {
            return Ok(Some(explorer.text(state)));
        }
    }
    Ok(None)
}

/// Walks the deterministic automaton breadth first and makes it on the way.
#[derive(Debug)]
pub(super) struct Explorer {
    nfa: Arc<Nfa>,
    states_max: usize,
    known: HashMap<Box<[Position]>, usize>,
    sets: Vec<Box<[Position]>>,
    /// Whence each set was found, by which octet.
    parents: Vec<(usize, u8)>,
    /// Where ranges of octets lead, from each set that was expanded.
    edges: Vec<Vec<(u8, u8, usize)>>,
    at: usize,
    /// Sets with this state are ends, and not walked on from.
    stop: Option<State>,
    /// States from which the grammar can go on.
    grammar: Vec<bool>,
    closure: Closure,
    ranks: [u8; 256],
}

impl Explorer {
    /// Begins; `stop` is a state that ends every text, `never` an octet that no text has from here.
    pub(super) fn new(
        nfa: &Arc<Nfa>,
        start: Vec<Position>,
        stop: Option<State>,
        never: Option<u8>,
        states_max: usize,
    ) -> Self {
        let mut ranks = [u8::MAX; 256];
        for (rank, octet) in (0..).zip(NICEST) {
            ranks[usize::from(*octet)] = rank;
        }
        let mut explorer = Self {
            nfa: Arc::clone(nfa),
            states_max,
            known: HashMap::new(),
            sets: Vec::new(),
            parents: Vec::new(),
            edges: Vec::new(),
            at: 0,
            stop,
            grammar: leads(nfa, &|accepted| accepted == GRAMMAR, None),
            closure: Closure::new(nfa, never),
            ranks,
        };
        let start = explorer.closure.of(nfa, start);
        explorer.add(start, (0, 0));
        explorer
    }

    /// The next set in which a text of the grammar ends, and what is accepted there.
    pub(super) fn next_end(&mut self) -> Result<Option<(usize, Vec<Accepted>)>, TooLarge> {
        while let Some(set) = self.next()? {
            if let Some(members) = self.members(set) {
                return Ok(Some((set, members)));
            }
        }
        Ok(None)
    }

    /// The next set; sets that it leads to are known afterwards.
    pub(super) fn next(&mut self) -> Result<Option<usize>, TooLarge> {
        if self.at == self.sets.len() {
            return Ok(None);
        }
        self.at += 1;
        self.edges.push(Vec::new());
        let set = self.at - 1;
        if !self.is_stop(set) {
            self.expand(set);
        }
        if self.sets.len() > self.states_max { Err(TooLarge) } else { Ok(Some(set)) }
    }

    /// Is it an end that is not walked on from?
    pub(super) fn is_stop(&self, set: usize) -> bool {
        self.stop.is_some_and(|stop| self.sets[set].iter().any(|one| one.state == stop))
    }

    /// The positions of a set.
    pub(super) fn positions(&self, set: usize) -> &[Position] {
        &self.sets[set]
    }

    /// Where a text leads from the start; none where the grammar has no such text, or to the first
    /// set that is a stop.
    pub(super) fn walk(&self, text: &str) -> Option<usize> {
        let mut set = 0;
        for octet in text.bytes() {
            let within = |(low, high, _): &&(u8, u8, usize)| (low..=high).contains(&&octet);
            set = self.edges[set].iter().find(within)?.2;
        }
        Some(set)
    }

    /// What is accepted of a text that ends here; none where the grammar knows no such text.
    pub(super) fn members(&self, set: usize) -> Option<Vec<Accepted>> {
        let mut members = Vec::new();
        let mut complete = false;
        for position in &self.sets[set] {
            for language in &self.nfa.accepts[position.state as usize] {
                match *language {
                    GRAMMAR => complete = true,
                    AT => {}
                    language => members.push((position.run, language)),
                }
            }
        }
        members.sort_unstable();
        members.dedup();
        complete.then_some(members)
    }

    fn expand(&mut self, set: usize) {
        let mut edges = Vec::new();
        for position in &self.sets[set] {
            for (low, high, to) in &self.nfa.edges[position.state as usize] {
                edges.push((*low, *high, Position { run: position.run, state: *to }));
            }
        }
        for (octet, low, high) in self.representatives(&edges) {
            let within = edges.iter().filter(|(from, until, _)| *from <= low && low <= *until);
            let next = self.closure.of(&self.nfa, within.map(|(.., to)| *to));
            if next.iter().any(|position| self.grammar[position.state as usize]) {
                let to = self.add(next, (set, octet));
                self.edges[set].push((low, high, to));
            }
        }
    }

    /// Ranges of octets that lead to the same places: the nicest of each, which also gives the order,
    /// and its bounds.
    fn representatives(&self, edges: &[(u8, u8, Position)]) -> Vec<(u8, u8, u8)> {
        let mut bounds = [0_u64; 5];
        let mut mark = |octet: usize| bounds[octet / 64] |= 1 << (octet % 64);
        for (low, high, _) in edges {
            mark(usize::from(*low));
            mark(usize::from(*high) + 1);
        }
        let is_bound = |octet: usize| bounds[octet / 64] >> (octet % 64) & 1 == 1;
        let mut found: Vec<(u8, u8, u8)> = Vec::new();
        let mut begun = false;
        for octet in 0..=u8::MAX {
            if is_bound(usize::from(octet)) {
                found.push((octet, octet, octet));
                begun = true;
            } else if begun && let Some((nicest, _, high)) = found.last_mut() {
                *high = octet;
                if self.ranks[usize::from(octet)] < self.ranks[usize::from(*nicest)] {
                    *nicest = octet;
                }
            }
        }
        found.sort_by_key(|(octet, ..)| self.ranks[usize::from(*octet)]);
        found
    }

    fn add(&mut self, positions: Box<[Position]>, parent: (usize, u8)) -> usize {
        match self.known.entry(positions) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                self.sets.push(vacant.key().clone());
                self.parents.push(parent);
                *vacant.insert(self.sets.len() - 1)
            }
        }
    }

    /// The smallest texts that lead to sets of a kind, at most so many, when all is explored.
    pub(super) fn texts(&self, is_end: &dyn Fn(usize) -> bool, many: usize) -> Vec<String> {
        let mut texts = Vec::new();
        // Which sets lead to an end in so many octets.
        let mut leads: Vec<Vec<bool>> = vec![(0..self.sets.len()).map(is_end).collect()];
        while texts.len() < many && leads.len() <= TEXT_OCTETS_MAX {
            if leads.last().is_some_and(|last| last[0]) {
                self.texts_of_length(0, &leads, &mut Vec::new(), many, &mut texts);
            }
            let last = leads.last().map_or(&[][..], Vec::as_slice);
            let leads_on = |edges: &Vec<(u8, u8, usize)>| edges.iter().any(|(.., to)| last[*to]);
            let longer: Vec<bool> = self.edges.iter().map(leads_on).collect();
            if !longer.contains(&true) {
                break;
            }
            leads.push(longer);
        }
        texts
    }

    /// Adds the texts from a set on that have the length which the table is made for.
    fn texts_of_length(
        &self,
        set: usize,
        leads: &[Vec<bool>],
        octets: &mut Vec<u8>,
        many: usize,
        texts: &mut Vec<String>,
    ) {
        let Some((_, shorter)) = leads.split_last().filter(|(_, shorter)| !shorter.is_empty())
        else {
            texts.push(String::from_utf8_lossy(octets).into_owned());
            return;
        };
        let next = &shorter[shorter.len() - 1];
        for (low, high, to) in self.edges[set].iter().filter(|(.., to)| next[*to]) {
            let mut range: Vec<u8> = (*low..=*high).collect();
            range.sort_by_key(|octet| self.ranks[usize::from(*octet)]);
            for octet in range {
                if texts.len() >= many {
                    return;
                }
                octets.push(octet);
                self.texts_of_length(*to, shorter, octets, many, texts);
                octets.pop();
            }
        }
    }

    /// The smallest text that leads to a set.
    pub(super) fn text(&self, mut set: usize) -> String {
        let mut octets = Vec::new();
        while set != 0 {
            let (parent, octet) = self.parents[set];
            octets.push(octet);
            set = parent;
        }
        octets.reverse();
        String::from_utf8_lossy(&octets).into_owned()
    }
}

/// Which states can lead to an end of a kind without reading this octet.
fn leads(nfa: &Nfa, is_end: &dyn Fn(u32) -> bool, never: Option<u8>) -> Vec<bool> {
    let count = nfa.edges.len();
    let mut before: Vec<Vec<State>> = vec![Vec::new(); count];
    for (state, (edges, free)) in (0..).zip(nfa.edges.iter().zip(&nfa.free)) {
        let possible = edges
            .iter()
            .filter(|(low, high, _)| low != high || never.is_none_or(|one| one != *low));
        for to in possible.map(|(.., to)| to).chain(free) {
            before[*to as usize].push(state);
        }
    }
    let ends = |state: &usize| nfa.accepts[*state].iter().any(|accepted| is_end(*accepted));
    let mut stack: Vec<usize> = (0..count).filter(ends).collect();
    let mut found = vec![false; count];
    while let Some(state) = stack.pop() {
        if !std::mem::replace(&mut found[state], true) {
            stack.extend(before[state].iter().map(|state| *state as usize));
        }
    }
    found
}

/// Follows what is reached with nothing read.
#[derive(Debug)]
pub(super) struct Closure {
    /// States that something may still come of.
    alive: Vec<bool>,
    stack: Vec<Position>,
    reached: Vec<Position>,
}

impl Closure {
    /// Prepares for texts that have no such octet from here on.
    pub(super) fn new(nfa: &Nfa, never: Option<u8>) -> Self {
        Self { alive: leads(nfa, &|_| true, never), stack: Vec::new(), reached: Vec::new() }
    }

    /// Positions reached from these that read or accept something, in order, each once.
    pub(super) fn of(
        &mut self,
        nfa: &Nfa,
        from: impl IntoIterator<Item = Position>,
    ) -> Box<[Position]> {
        self.stack.extend(from);
        self.reached.clear();
        // What leads on for nothing is followed once; such positions are few.
        let mut followed: Vec<Position> = Vec::new();
        while let Some(position) = self.stack.pop() {
            let at = position.state as usize;
            if !self.alive[at] {
                continue;
            }
            if !nfa.free[at].is_empty() {
                if followed.contains(&position) {
                    continue;
                }
                followed.push(position);
            }
            if !nfa.edges[at].is_empty() || !nfa.accepts[at].is_empty() {
                self.reached.push(position);
            }
            for to in &nfa.free[at] {
                self.stack.push(Position { run: position.run, state: *to });
            }
        }
        self.reached.sort_unstable();
        self.reached.dedup();
        self.reached.as_slice().into()
    }
}
