//! Addresses: what stands before the `@` and what stands behind it, each in classes of its own.
//!
//! Questions about local parts and questions about domains combine freely, so that the classes of
//! whole addresses would be the product of both. Here an address is a pair. A language over whole
//! addresses becomes one over pairs: where its automaton stands behind the `@` depends on the local
//! part alone, and what it accepts from there on the domain alone.
//!
//! Addresses that stand in a language as they are (dictionaries have thousands) are points beside
//! the pairs: their answers are looked up, and those with the same answers are one class.
//!
//! Invariant: every address of the grammar is a point or belongs to one pair, and has its answers.
//! A pair may hold points alone; [`Addresses::text`] then finds no text.
//!
//! Not here: diagrams (`space`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::automaton::{Budget, Class, Closure, Explorer, Position, TooLarge};
use super::build::{self, Nfa, State};
use crate::predicate::{Language, Matcher, Predicate};
use crate::sample::{Sample, Variable};

/// All addresses, by the answers that they give.
#[derive(Debug)]
pub struct Addresses {
    /// Classes of addresses that stand in a language as they are, and of the empty one.
    pub points: Vec<Class>,
    /// The smallest local part of each class.
    pub locals: Vec<String>,
    /// The smallest domain of each class.
    pub domains: Vec<String>,
    /// For each language, the pairs that are in it.
    pub languages: Vec<Vec<Pairs>>,
    /// Addresses that are points, with their classes.
    taken: HashMap<String, usize>,
    local: Locals,
    domain: Domains,
}

/// Where an address belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// To this class of points.
    Point(usize),
    /// To the class of its local part and that of its domain.
    Pair(usize, usize),
}

/// Every pair of one of these local parts and one of these domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Classes of local parts; none: all.
    pub locals: Option<Vec<usize>>,
    /// Classes of domains; none: all.
    pub domains: Option<Vec<usize>>,
}

/// The classes of local parts, and where the automaton stands behind them.
#[derive(Debug)]
struct Locals {
    explorer: Explorer,
    /// The class of each end.
    numbers: HashMap<usize, usize>,
    texts: Vec<String>,
    behind: Vec<Vec<State>>,
}

/// The classes of domains, and what is accepted in each.
#[derive(Debug)]
struct Domains {
    explorer: Explorer,
    numbers: HashMap<Vec<(u32, u32)>, usize>,
    texts: Vec<String>,
}

impl Addresses {
    /// Finds the classes; `bare` is the one text without an `@` that stands for an address too.
    ///
    /// # Errors
    /// [`TooLarge`] where they are not found within the budget.
    pub fn new(bare: &str, languages: &[&Language], budget: Budget) -> Result<Self, TooLarge> {
        let (nfa, at) = build::addresses(languages);
        let nfa = Arc::new(nfa);
        let local = Locals::new(&nfa, at, budget)?;
        let runs: BTreeSet<State> = local.behind.iter().flatten().copied().collect();
        let runs: Vec<State> = runs.into_iter().filter(|run| !nfa.accepts_all(*run)).collect();
        let domain = Domains::new(&nfa, &runs, budget)?;
        let mut addresses = Self {
            points: Vec::new(),
            locals: local.texts.clone(),
            domains: domain.texts.clone(),
            languages: pairs(&nfa, languages.len(), &local, &domain),
            taken: HashMap::new(),
            local,
            domain,
        };
        addresses.find_points(bare, languages);
        if addresses.points.len() > budget.classes { Err(TooLarge) } else { Ok(addresses) }
    }

    /// Finds the classes of single addresses.
    fn find_points(&mut self, bare: &str, languages: &[&Language]) {
        let mut exact: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (number, language) in (0..).zip(languages).filter(|(_, language)| !language.domain) {
            for text in &language.exact {
                exact.entry(text).or_default().push(number);
            }
        }
        let members_of = self.membership();
        let mut known: HashMap<(usize, usize), Vec<u32>> = HashMap::new();
        let mut found: BTreeMap<Vec<u32>, Vec<&str>> = BTreeMap::new();
        for (text, mut members) in exact {
            let Some(pair) = self.pair(text) else {
                continue;
            };
            members.extend(known.entry(pair).or_insert_with(|| members_of(pair)).iter());
            members.sort_unstable();
            members.dedup();
            found.entry(members).or_default().push(text);
        }
        found.entry(bare_members(languages, bare)).or_default().insert(0, bare);
        let smallest = |texts: &Vec<&str>| {
            texts
                .iter()
                .min_by_key(|text| text.len())
                .map_or_else(String::new, |text| (*text).to_owned())
        };
        let mut classes: Vec<(Class, Vec<&str>)> = found
            .into_iter()
            .map(|(members, texts)| (Class { members, text: smallest(&texts) }, texts))
            .collect();
        classes.sort_by_key(|(class, _)| class.text.len());
        for (number, (class, texts)) in classes.into_iter().enumerate() {
            self.points.push(class);
            self.taken.extend(texts.into_iter().map(|text| (text.to_owned(), number)));
        }
    }

    /// Where an address belongs: to a class of points, or to a pair; nowhere if it is none.
    #[must_use]
    pub fn locate(&self, text: &str) -> Option<Located> {
        match self.taken.get(text) {
            Some(point) => Some(Located::Point(*point)),
            None => self.pair(text).map(|(local, domain)| Located::Pair(local, domain)),
        }
    }

    /// The classes of local part and domain.
    fn pair(&self, text: &str) -> Option<(usize, usize)> {
        let (local, domain) = text.rsplit_once('@')?;
        Some((self.local.class(local)?, self.domain.class(domain)?))
    }

    /// Tells which languages a pair is in.
    fn membership(&self) -> impl Fn((usize, usize)) -> Vec<u32> + use<> {
        let set = |some: &Option<Vec<usize>>| {
            some.as_ref().map(|some| some.iter().copied().collect::<HashSet<usize>>())
        };
        let pairs = |all: &Vec<Pairs>| {
            all.iter().map(|pairs| (set(&pairs.locals), set(&pairs.domains))).collect::<Vec<_>>()
        };
        let languages: Vec<_> = self.languages.iter().map(pairs).collect();
        let has = |some: &Option<HashSet<usize>>, one| {
            some.as_ref().is_none_or(|some| some.contains(&one))
        };
        move |(local, domain)| {
            let within = |(_, pairs): &(u32, &Vec<(Option<_>, Option<_>)>)| {
                pairs.iter().any(|(locals, domains)| has(locals, local) && has(domains, domain))
            };
            (0..).zip(&languages).filter(within).map(|(number, _)| number).collect()
        }
    }

    /// An address of a pair that is no point, the smallest if possible; none where there is none.
    #[must_use]
    pub fn text(&self, local: usize, domain: usize) -> Option<String> {
        let text = format!("{}@{}", self.locals[local], self.domains[domain]);
        if !self.taken.contains_key(&text) {
            return Some(text);
        }
        // With so many of each, one pair is no point, unless there are no more.
        let many = self.taken.len() + 1;
        let locals = self.local.texts_of(local, many);
        let domains = self.domain.texts_of(domain, many);
        let pairs = domains.iter().flat_map(|domain| locals.iter().map(move |one| (one, domain)));
        let mut texts = pairs.map(|(local, domain)| format!("{local}@{domain}"));
        texts.find(|text| !self.taken.contains_key(text))
    }
}

/// The languages that a text without an `@` is in.
fn bare_members(languages: &[&Language], bare: &str) -> Vec<u32> {
    let bare = Sample::unknown().with_text(Variable::Sender, bare);
    let holds = |language: &Language| {
        let (variable, language) = (Variable::Sender, language.clone());
        Matcher::new(&Predicate::Text { variable, language }).holds(&bare) == Some(true)
    };
    (0..).zip(languages).filter(|(_, language)| holds(language)).map(|(at, _)| at).collect()
}

impl Locals {
    fn new(nfa: &Arc<Nfa>, at: State, budget: Budget) -> Result<Self, TooLarge> {
        let start = |state| vec![Position { run: 0, state }];
        let explorer = Explorer::new(nfa, start(0), Some(at), None, budget.states);
        // What begins behind the `@` does so behind every local part: one run for all of it.
        // What waits for a second `@` never gets it.
        let mut domain = Closure::new(nfa, Some(b'@'));
        let common: HashSet<Position> = domain.of(nfa, start(at)).iter().copied().collect();
        let mut known: HashMap<Vec<State>, usize> = HashMap::new();
        let mut locals =
            Self { explorer, numbers: HashMap::new(), texts: Vec::new(), behind: Vec::new() };
        while let Some(set) = locals.explorer.next()? {
            if !locals.explorer.is_stop(set) {
                continue;
            }
            let behind = domain.of(nfa, locals.explorer.positions(set).iter().copied());
            let own = behind.iter().filter(|one| !common.contains(one)).map(|one| one.state);
            let behind: Vec<State> = own.chain([at]).collect();
            let class = *known.entry(behind.clone()).or_insert_with(|| {
                // The `@` is no part of the local part.
                let mut text = locals.explorer.text(set);
                text.pop();
                locals.texts.push(text);
                locals.behind.push(behind);
                locals.texts.len() - 1
            });
            locals.numbers.insert(set, class);
            if locals.texts.len() > budget.classes {
                return Err(TooLarge);
            }
        }
        Ok(locals)
    }

    fn class(&self, text: &str) -> Option<usize> {
        let set = self.explorer.walk(&format!("{text}@"))?;
        self.numbers.get(&set).copied()
    }

    /// The smallest texts of a class.
    fn texts_of(&self, class: usize, many: usize) -> Vec<String> {
        let of_class = |set: usize| self.numbers.get(&set) == Some(&class);
        let texts = self.explorer.texts(&of_class, many);
        texts.into_iter().map(|text| text.trim_end_matches('@').to_owned()).collect()
    }
}

impl Domains {
    fn new(nfa: &Arc<Nfa>, runs: &[State], budget: Budget) -> Result<Self, TooLarge> {
        let start = runs.iter().map(|state| Position { run: *state, state: *state });
        let explorer = Explorer::new(nfa, start.collect(), None, Some(b'@'), budget.states);
        let mut domains = Self { explorer, numbers: HashMap::new(), texts: Vec::new() };
        while let Some((set, members)) = domains.explorer.next_end()? {
            if let Entry::Vacant(vacant) = domains.numbers.entry(members) {
                vacant.insert(domains.texts.len());
                domains.texts.push(domains.explorer.text(set));
                if domains.texts.len() > budget.classes {
                    return Err(TooLarge);
                }
            }
        }
        Ok(domains)
    }

    fn class(&self, text: &str) -> Option<usize> {
        let members = self.explorer.members(self.explorer.walk(text)?)?;
        self.numbers.get(&members).copied()
    }

    /// The smallest texts of a class.
    fn texts_of(&self, class: usize, many: usize) -> Vec<String> {
        let of_class = |set: usize| {
            let members = self.explorer.members(set);
            members.and_then(|members| self.numbers.get(&members)) == Some(&class)
        };
        self.explorer.texts(&of_class, many)
    }
}

/// For each language, the pairs that are in it.
fn pairs(nfa: &Nfa, languages: usize, locals: &Locals, domains: &Domains) -> Vec<Vec<Pairs>> {
    // Which domains each language accepts when its run begins in a state.
    let mut accepted: HashMap<(u32, State), Vec<usize>> = HashMap::new();
    for (members, domain) in &domains.numbers {
        for (run, language) in members {
            accepted.entry((*language, *run)).or_default().push(*domain);
        }
    }
    let mut from_run: HashMap<State, Vec<u32>> = HashMap::new();
    for (language, run) in accepted.keys() {
        from_run.entry(*run).or_default().push(*language);
    }
    // Local parts behind which a language may begin in the same states; no state: all is accepted.
    let mut alike: BTreeMap<(u32, Option<Vec<State>>), Vec<usize>> = BTreeMap::new();
    for (local, behind) in locals.behind.iter().enumerate() {
        let mut runs: BTreeMap<u32, Vec<State>> = BTreeMap::new();
        let mut all: BTreeSet<u32> = BTreeSet::new();
        for state in behind {
            if nfa.accepts_all(*state) {
                all.extend(nfa.accepts[*state as usize].iter().filter(|at| **at != build::GRAMMAR));
                continue;
            }
            for language in from_run.get(state).into_iter().flatten() {
                runs.entry(*language).or_default().push(*state);
            }
        }
        runs.retain(|language, _| !all.contains(language));
        for language in all {
            alike.entry((language, None)).or_default().push(local);
        }
        for (language, states) in runs {
            alike.entry((language, Some(states))).or_default().push(local);
        }
    }
    let mut pairs = vec![Vec::new(); languages];
    for ((language, states), some_locals) in alike {
        let some_domains = states.map(|states| {
            let of = |state: &State| accepted.get(&(language, *state)).into_iter().flatten();
            let all: BTreeSet<usize> = states.iter().flat_map(of).copied().collect();
            all.into_iter().collect::<Vec<_>>()
        });
        let every = |some: &Vec<usize>, all: usize| some.len() == all;
        pairs[language as usize].push(Pairs {
            locals: (!every(&some_locals, locals.texts.len())).then_some(some_locals),
            domains: some_domains.filter(|some| !every(some, domains.texts.len())),
        });
    }
    pairs
}
