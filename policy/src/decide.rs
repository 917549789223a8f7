//! What a policy does with one message, for one recipient, and which rules led there.
//!
//! A fact that is not known leads both ways: then there is more than one possible decision, and all
//! of them are named.
//!
//! Invariant: with every fact known that the policy asks for and nothing in it that is not
//! understood, there is exactly one decision.
//!
//! Not here: all messages at once (`diagram`).

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::action::{Cause, Effect, Fate, Outcome};
use crate::predicate::Matcher;
use crate::program::{Formula, Line, Place, Program, Question, Questions, Then};
use crate::sample::Sample;

/// Decisions that are followed when facts are missing; a message with more is not worth a list.
const POSSIBLE_MAX: usize = 64;

/// Asks the questions of programs.
#[derive(Debug)]
pub struct Judge {
    matchers: Vec<Matcher>,
}

/// What becomes of a message, and by which rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of it.
    pub fate: Fate,
    /// The rules that matched, in order; the last one decided.
    pub rules: Vec<Place>,
}

/// A rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which rule.
    pub place: Place,
    /// Did it match? None where that is not known.
    pub matched: Option<bool>,
    /// What it asked, and the answers.
    pub asked: Vec<(Question, Option<bool>)>,
}

/// What becomes of a message, with every rule that was looked at on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The rules, in the order in which they were looked at.
    pub steps: Vec<Step>,
    /// The decision; none where a fact is missing: then the steps end with the rule that needs it.
    pub decision: Option<Decision>,
}

impl Judge {
    /// Prepares every question that was asked so far.
    #[must_use]
    pub fn new(questions: &Questions) -> Self {
        Self { matchers: questions.all().iter().map(Matcher::new).collect() }
    }

    /// The answer to one question; none where it is not known.
    #[must_use]
    pub fn answer(&self, question: Question, sample: &Sample) -> Option<bool> {
        self.matchers[question.0 as usize].holds(sample)
    }

    /// Every decision that is possible with what is known; one where enough is known.
    #[must_use]
    pub fn possible(&self, program: &Program, sample: &Sample) -> Vec<Decision> {
        let mut walk = Walk { program, answers: Answers::new(self, sample), found: Vec::new() };
        walk.chain(program.start(), Path::default());
        walk.found
    }

    /// The decision; none where what is known leads to more than one fate.
    #[must_use]
    pub fn decide(&self, program: &Program, sample: &Sample) -> Option<Decision> {
        let mut possible = self.possible(program, sample);
        (possible.len() == 1).then(|| possible.remove(0))
    }

    /// Does a formula hold? None where that is not known.
    #[must_use]
    pub fn holds(&self, formula: &Formula, sample: &Sample) -> Option<bool> {
        Answers::new(self, sample).holds(formula)
    }

    /// The way to the decision, rule by rule.
    #[must_use]
    pub fn trace(&self, program: &Program, sample: &Sample) -> Trace {
        let answers = Answers::new(self, sample);
        let mut steps = Vec::new();
        let (mut chain, mut visited) = (program.start(), BTreeSet::new());
        'chains: while visited.insert(chain) {
            for line in &program.chains[chain] {
                let step = answers.step(line);
                let matched = step.matched;
                steps.push(step);
                match (matched, &line.then) {
                    (Some(false), _) | (Some(true), Then::Next) => {}
                    (Some(true), Then::Chain(target)) => {
                        chain = *target;
                        continue 'chains;
                    }
                    (None, _) | (Some(true), Then::Finish(_) | Then::Key { .. }) => break 'chains,
                }
            }
            break;
        }
        Trace { steps, decision: self.decide(program, sample) }
    }
}

/// Answers for one message, each found once.
struct Answers<'a> {
    judge: &'a Judge,
    sample: &'a Sample,
    known: RefCell<Vec<Option<Option<bool>>>>,
}

impl<'a> Answers<'a> {
    fn new(judge: &'a Judge, sample: &'a Sample) -> Self {
        Self { judge, sample, known: RefCell::new(vec![None; judge.matchers.len()]) }
    }

    fn answer(&self, question: Question) -> Option<bool> {
        let place = question.0 as usize;
        let known = self.known.borrow()[place];
        known.unwrap_or_else(|| {
            let answer = self.judge.matchers[place].holds(self.sample);
            self.known.borrow_mut()[place] = Some(answer);
            answer
        })
    }

    fn holds(&self, formula: &Formula) -> Option<bool> {
        match formula {
            Formula::Ask(question) => self.answer(*question),
            Formula::Not(inner) => self.holds(inner).map(|holds| !holds),
            Formula::All(items) => self.all(items, true),
            Formula::Any(items) => self.all(items, false),
        }
    }

    /// Do all items have this answer? One that has not decides; one that is not known does not.
    fn all(&self, items: &[Formula], expected: bool) -> Option<bool> {
        let mut known = true;
        for item in items {
            match self.holds(item) {
                Some(answer) if answer != expected => return Some(!expected),
                Some(_) => {}
                None => known = false,
            }
        }
        known.then_some(expected)
    }

    fn step(&self, line: &Line) -> Step {
        let mut asked = Vec::new();
        questions_of(&line.formula, &mut asked);
        if let Then::Key { found, .. } = &line.then {
            questions_of(found, &mut asked);
        }
        let asked = asked.into_iter().map(|question| (question, self.answer(question))).collect();
        Step { place: line.place, matched: self.holds(&line.formula), asked }
    }
}

/// The questions of a formula, in order, each once.
fn questions_of(formula: &Formula, found: &mut Vec<Question>) {
    match formula {
        Formula::Ask(question) => {
            if !found.contains(question) {
                found.push(*question);
            }
        }
        Formula::Not(inner) => questions_of(inner, found),
        Formula::All(items) | Formula::Any(items) => {
            items.iter().for_each(|item| questions_of(item, found));
        }
    }
}

/// How far a walk has come.
#[derive(Clone, Default)]
struct Path {
    rules: Vec<Place>,
    effects: BTreeSet<Effect>,
    visited: Vec<usize>,
}

struct Walk<'a> {
    program: &'a Program,
    answers: Answers<'a>,
    found: Vec<Decision>,
}

impl Walk<'_> {
    /// Enters a chain; facts do not change, so that coming to it again would never end.
    fn chain(&mut self, chain: usize, mut path: Path) {
        if path.visited.contains(&chain) {
            return self.end(path, Outcome::Undecided(Cause::Cycle));
        }
        path.visited.push(chain);
        self.rules(chain, 0, path);
    }

    /// Goes through the rules of a chain from this one on.
    fn rules(&mut self, chain: usize, from: usize, path: Path) {
        let lines = &self.program.chains[chain];
        for (place, line) in lines.iter().enumerate().skip(from) {
            let holds = self.answers.holds(&line.formula);
            if holds == Some(false) {
                continue;
            }
            let mut matched = path.clone();
            matched.matched(line);
            match &line.then {
                Then::Next => self.rules(chain, place + 1, matched),
                _ => self.then(line, matched),
            }
            if holds == Some(true) || self.found.len() > POSSIBLE_MAX {
                return;
            }
        }
        self.end(path, self.program.end_of_chain.clone());
    }

    fn then(&mut self, line: &Line, path: Path) {
        match &line.then {
            Then::Finish(outcome) => self.end(path, outcome.clone()),
            Then::Chain(target) => self.chain(*target, path),
            Then::Key { found, with, without } => match self.answers.holds(found) {
                Some(true) => self.end(path, with.clone()),
                Some(false) => self.end(path, without.clone()),
                None => {
                    self.end(path.clone(), with.clone());
                    self.end(path, without.clone());
                }
            },
            Then::Next => {}
        }
    }

    fn end(&mut self, path: Path, outcome: Outcome) {
        let decision =
            Decision { fate: Fate { outcome, effects: path.effects }, rules: path.rules };
        if !self.found.contains(&decision) {
            self.found.push(decision);
        }
    }
}

impl Path {
    fn matched(&mut self, line: &Line) {
        self.rules.push(line.place);
        self.effects.extend(line.effects.iter().cloned());
    }
}
