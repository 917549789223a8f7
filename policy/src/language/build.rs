//! Languages and grammars as one automaton over octets, not yet deterministic.
//!
//! Texts are UTF-8. Languages over the domain of an address begin where the grammar has read the `@`
//! that parts it from the local part.
//!
//! Invariant: where languages are folded, texts have no ASCII capitals; whatever the languages
//! accept, they accept in lower case, and so nothing is lost.

use std::collections::HashMap;

use regex_syntax::hir::{Class, Hir, HirKind};
use regex_syntax::utf8::{Utf8Sequence, Utf8Sequences};

use super::Grammar;
use crate::pattern::branches;
use crate::predicate::{Language, Part};

/// Number of a state.
pub(super) type State = u32;

/// What an end state accepts: the grammar, or one of the languages.
pub(super) const GRAMMAR: u32 = u32::MAX;

/// What the state behind the `@` accepts: nothing, but it is kept among those that do.
pub(super) const AT: u32 = u32::MAX - 1;

/// States and edges.
#[derive(Debug, Default)]
pub(super) struct Nfa {
    /// Octets that lead on, from each state.
    pub(super) edges: Vec<Vec<(u8, u8, State)>>,
    /// States that are reached with nothing read.
    pub(super) free: Vec<Vec<State>>,
    /// Which languages a text is in that ends here.
    pub(super) accepts: Vec<Vec<u32>>,
}

impl Nfa {
    /// Is every text accepted that goes on from here, up to the next `@`?
    pub(super) fn accepts_all(&self, state: State) -> bool {
        let (mut read, at) = ([false; 256], state as usize);
        for (low, high, _) in self.edges[at].iter().filter(|(.., to)| *to == state) {
            read[usize::from(*low)..=usize::from(*high)].fill(true);
        }
        read[usize::from(b'@')] = true;
        !self.accepts[at].is_empty() && read.iter().all(|octet| *octet)
    }
}

/// Builds the automaton of texts and languages over them.
pub(super) fn texts(grammar: Grammar, languages: &[&Language]) -> Nfa {
    let folded = languages.iter().all(|language| language.folded);
    let mut builder = Builder::default();
    let start = builder.state();
    builder.grammar(start, &text_grammar(grammar, folded));
    for (number, language) in (0..).zip(languages) {
        builder.exacts(start, language, number);
        builder.parts(start, language, number);
    }
    builder.nfa
}

/// Builds the automaton of mailboxes and languages over them, without the addresses that stand in a
/// language as they are; with the state behind the `@`.
pub(super) fn addresses(languages: &[&Language]) -> (Nfa, State) {
    let folded = languages.iter().all(|language| language.folded);
    let mut builder = Builder::default();
    let (start, at) = (builder.state(), builder.state());
    let local = builder.state();
    builder.free(start, local);
    let end = builder.text(local, &local_grammar(folded));
    builder.edge(end, b'@', b'@', at);
    builder.accept(at, AT);
    let domain = builder.state();
    builder.free(at, domain);
    builder.grammar(domain, &domain_grammar(folded));
    for (number, language) in (0..).zip(languages) {
        let from = builder.state();
        builder.free(if language.domain { at } else { start }, from);
        builder.no_at = language.domain;
        if language.domain {
            builder.exacts(at, language, number);
        }
        builder.parts(from, language, number);
        builder.no_at = false;
    }
    (builder.nfa, at)
}

fn local_grammar(folded: bool) -> String {
    let (letter, quoted, escaped) =
        if folded { ("a-z", r"\[\]-~", r"\[-~") } else { ("a-zA-Z", r"A-\[\]-~", "A-~") };
    let beyond = r"\x{80}-\x{10FFFF}";
    let atom = format!("[{letter}0-9!#$%&'*+/=?^_`{{|}}~.\\-{beyond}]+");
    format!(r#"{atom}|"(?:[ !#-@{quoted}{beyond}]|\\[ -@{escaped}])*""#)
}

fn domain_grammar(folded: bool) -> String {
    let letter = if folded { "a-z" } else { "a-zA-Z" };
    let beyond = r"\x{80}-\x{10FFFF}";
    let (outer, inner) = (format!("[{letter}0-9{beyond}]"), format!(r"[{letter}0-9_\-{beyond}]"));
    let label = format!("{outer}(?:{inner}*{outer})?");
    format!(r"{label}(?:\.{label})*|\[[{letter}0-9.:]+\]")
}

fn text_grammar(grammar: Grammar, folded: bool) -> String {
    let visible = if folded { r"!-@\[-~\x{A1}-\x{10FFFF}" } else { r"!-~\x{A1}-\x{10FFFF}" };
    let value = format!("[{visible}](?:[ {visible}]*[{visible}])?");
    match grammar {
        Grammar::Line => format!("(?:{value})?"),
        Grammar::Value => value,
    }
}

#[derive(Default)]
struct Builder {
    nfa: Nfa,
    /// Exact texts share their beginnings: where each octet leads from each state.
    tries: HashMap<(State, u8), State>,
    /// What is built reads no `@`.
    no_at: bool,
}

impl Builder {
    fn state(&mut self) -> State {
        self.nfa.edges.push(Vec::new());
        self.nfa.free.push(Vec::new());
        self.nfa.accepts.push(Vec::new());
        State::try_from(self.nfa.edges.len() - 1).unwrap_or(State::MAX)
    }

    fn edge(&mut self, from: State, low: u8, high: u8, to: State) {
        let edges = &mut self.nfa.edges[from as usize];
        if !self.no_at || !(low..=high).contains(&b'@') {
            edges.push((low, high, to));
            return;
        }
        if low < b'@' {
            edges.push((low, b'@' - 1, to));
        }
        if high > b'@' {
            edges.push((b'@' + 1, high, to));
        }
    }

    fn free(&mut self, from: State, to: State) {
        self.nfa.free[from as usize].push(to);
    }

    fn accept(&mut self, state: State, what: u32) {
        let accepts = &mut self.nfa.accepts[state as usize];
        if !accepts.contains(&what) {
            accepts.push(what);
        }
    }

    /// A state that any octets lead back to, reached from `from` with nothing read.
    fn anything(&mut self, from: State) -> State {
        let state = self.state();
        self.edge(state, 0, u8::MAX, state);
        self.free(from, state);
        state
    }

    fn grammar(&mut self, start: State, text: &str) {
        let end = self.text(start, text);
        self.accept(end, GRAMMAR);
    }

    /// A grammar of ours behind `from`; its end.
    fn text(&mut self, from: State, text: &str) -> State {
        match regex_syntax::Parser::new().parse(text) {
            Ok(pattern) => self.pattern(from, &pattern),
            // A grammar that cannot be read has no text; tests read each of them.
            Err(_) => self.state(),
        }
    }

    fn exacts(&mut self, start: State, language: &Language, number: u32) {
        for text in &language.exact {
            self.exact(start, text, number);
        }
    }

    fn parts(&mut self, start: State, language: &Language, number: u32) {
        for part in &language.parts {
            self.part(start, part, language.folded, number);
        }
    }

    fn part(&mut self, start: State, part: &Part, folded: bool, number: u32) {
        let end = match part {
            Part::Contains(text) => {
                let before = self.anything(start);
                let behind = self.literal(before, text.as_bytes());
                self.anything(behind)
            }
            Part::Begins(text) => {
                let behind = self.literal(start, text.as_bytes());
                self.anything(behind)
            }
            Part::Ends(text) => {
                let before = self.anything(start);
                self.literal(before, text.as_bytes())
            }
            Part::Pattern { text, anywhere } => {
                // Patterns were read once when the question was made; one that is not understood is
                // another question.
                for branch in branches(text, folded).unwrap_or_default() {
                    let loose = |anchored: bool| *anywhere && !anchored;
                    let from = if loose(branch.from_start) { self.anything(start) } else { start };
                    let mut end = self.pattern(from, &branch.between);
                    if loose(branch.to_end) {
                        end = self.anything(end);
                    }
                    self.accept(end, number);
                }
                return;
            }
        };
        self.accept(end, number);
    }

    fn exact(&mut self, start: State, text: &str, number: u32) {
        let mut state = start;
        for octet in text.bytes() {
            state = match self.tries.get(&(state, octet)) {
                Some(next) => *next,
                None => {
                    let next = self.state();
                    self.edge(state, octet, octet, next);
                    self.tries.insert((state, octet), next);
                    next
                }
            };
        }
        self.accept(state, number);
    }

    fn literal(&mut self, start: State, octets: &[u8]) -> State {
        // A state of its own in front: what is before may lead back to itself.
        let mut state = self.state();
        self.free(start, state);
        for octet in octets {
            let next = self.state();
            self.edge(state, *octet, *octet, next);
            state = next;
        }
        state
    }

    /// The pattern behind `from`; its end.
    fn pattern(&mut self, from: State, pattern: &Hir) -> State {
        match pattern.kind() {
            HirKind::Empty | HirKind::Look(_) => from,
            HirKind::Literal(literal) => self.literal(from, &literal.0),
            HirKind::Class(class) => self.class(from, class),
            HirKind::Capture(group) => self.pattern(from, &group.sub),
            HirKind::Concat(items) => {
                items.iter().fold(from, |state, item| self.pattern(state, item))
            }
            HirKind::Alternation(items) => {
                let end = self.state();
                for item in items {
                    let begin = self.state();
                    self.free(from, begin);
                    let behind = self.pattern(begin, item);
                    self.free(behind, end);
                }
                end
            }
            HirKind::Repetition(repetition) => {
                let mut state = from;
                for _ in 0..repetition.min {
                    state = self.pattern(state, &repetition.sub);
                }
                match repetition.max {
                    None => {
                        let round = self.state();
                        self.free(state, round);
                        let behind = self.pattern(round, &repetition.sub);
                        self.free(behind, round);
                        let end = self.state();
                        self.free(round, end);
                        end
                    }
                    Some(max) => {
                        let end = self.state();
                        self.free(state, end);
                        for _ in repetition.min..max {
                            state = self.pattern(state, &repetition.sub);
                            self.free(state, end);
                        }
                        end
                    }
                }
            }
        }
    }

    fn class(&mut self, from: State, class: &Class) -> State {
        let (begin, end) = (self.state(), self.state());
        self.free(from, begin);
        match class {
            Class::Bytes(ranges) => {
                for range in ranges.iter() {
                    self.edge(begin, range.start(), range.end(), end);
                }
            }
            Class::Unicode(ranges) => {
                for range in ranges.iter() {
                    for sequence in Utf8Sequences::new(range.start(), range.end()) {
                        self.sequence(begin, &sequence, end);
                    }
                }
            }
        }
        end
    }

    fn sequence(&mut self, begin: State, sequence: &Utf8Sequence, end: State) {
        let octets = sequence.as_slice();
        let mut state = begin;
        for (place, range) in octets.iter().enumerate() {
            let next = if place + 1 == octets.len() { end } else { self.state() };
            self.edge(state, range.start, range.end, next);
            state = next;
        }
    }
}
