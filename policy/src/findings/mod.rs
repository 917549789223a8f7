//! What is wrong with one policy, or can go wrong: loops, rules that never act, settings that nobody
//! stated.
//!
//! What is not known of the server is not guessed: a loop, a jump into nothing and the end of a chain
//! are findings because nobody can say what the server does there.
//!
//! Invariant: settings that are not stated are one finding each and make no others: what rules do is
//! looked at as if they were set as usual.
//!
//! Not here: how two policies differ (`structure`), which mail is treated otherwise (`parity`).

mod dead;
mod fault;
mod graph;
mod words;

use std::cmp::Reverse;
use std::fmt;

pub use fault::Fault;
use serde::Serialize;

use crate::action::Action;
use crate::assume::Assumptions;
use crate::chain::{AppliesTo, Chain, Rule};
use crate::dictionary::{Dictionary, Entry, Form, Kind};
use crate::origin::Origin;
use crate::program::{Place, Program, Questions};
use crate::set::{DEFAULT_CHAIN, EXCEPTION_CHAIN, MANAGED_DOMAINS, PolicySet, Stated, Unmanaged};
use crate::severity::Severity;
use crate::structure;
use graph::Graph;

/// The chain of the rules for mail that leaves.
const OUTBOUND_CHAIN: &str = "Outbound";

/// The chain of the rules for mail that comes in.
const INBOUND_CHAIN: &str = "Inbound";

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub fault: Fault,
    /// How much it matters.
    pub severity: Severity,
    /// In plain words.
    pub text: String,
    /// Where.
    pub origin: Origin,
    /// Where what makes it so stands: the rules that shadow, the jumps of a circle.
    pub because: Vec<Origin>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.text)
    }
}

/// What is wrong with a set, the weightiest first.
#[must_use]
pub fn findings(set: &PolicySet, assumptions: &Assumptions) -> Vec<Finding> {
    let graph = Graph::new(set, assumptions);
    let mut search = Search { set, assumptions, graph: &graph, found: Vec::new() };
    search.globals();
    search.needed_chains();
    search.jumps();
    search.chains();
    search.rules();
    search.conditions();
    search.dictionaries();
    search.opaque();
    let mut found = search.found;
    found.extend(dead::findings(&settled(set), assumptions, &graph));
    found.sort_by_key(|finding| Reverse(finding.severity));
    found
}

/// Rules that only the set after has and that take mail from rules of both.
#[must_use]
pub fn new_rules_that_shadow(
    before: &PolicySet,
    after: &PolicySet,
    assumptions: &Assumptions,
) -> Vec<Finding> {
    let additions = structure::additions(before, after, assumptions).into_iter();
    let finding = |addition: structure::Addition| {
        let (name, rule) = placed(after, addition.place)?;
        let (mut takes, mut because) = (Vec::new(), Vec::new());
        for (place, taken) in &addition.shadows {
            let (_, shadowed) = placed(after, *place)?;
            takes.push(format!("{} of the mail of rule {:?}", taken.as_str(), shadowed.name));
            because.push(shadowed.origin.clone());
        }
        (!takes.is_empty()).then(|| Finding {
            fault: Fault::NewRuleShadows,
            severity: addition.severity,
            text: format!("{name} is new and takes {}", takes.join(", ")),
            origin: rule.origin.clone(),
            because,
        })
    };
    additions.filter_map(finding).collect()
}

/// The rule of a place, with its name; none in front of the chains.
fn placed(set: &PolicySet, place: Place) -> Option<(String, &Rule)> {
    let Place::Rule { chain, rule } = place else {
        return None;
    };
    let (chain, rule) = (&set.chains[chain], &set.chains[chain].rules[rule]);
    Some((words::rule(chain, rule), rule))
}

/// The set with what it does not state as it is usual, so that each of its faults is found once.
fn settled(set: &PolicySet) -> PolicySet {
    let mut settled = set.clone();
    settled.globals.learn_mode = Stated::Yes(false);
    if settled.globals.unmanaged == Stated::No {
        settled.globals.unmanaged = Stated::Yes(Unmanaged::PassUnmodified);
    }
    let named = |dictionary: &&mut Dictionary| dictionary.name == MANAGED_DOMAINS;
    // A pattern that nobody understands: each domain may be managed or not.
    let anything = |origin: &Origin| Entry {
        form: Form::Pattern,
        text: "(?=any)".to_owned(),
        origin: origin.clone(),
    };
    match settled.dictionaries.iter_mut().find(named) {
        Some(managed) if managed.entries.is_empty() => {
            managed.entries.push(anything(&set.origin));
        }
        Some(_) => {}
        None => settled.dictionaries.push(Dictionary {
            name: MANAGED_DOMAINS.to_owned(),
            kind: Kind::Dynamic,
            entries: vec![anything(&set.origin)],
            origin: set.origin.clone(),
        }),
    }
    settled
}

/// A set, and what was found in it so far.
struct Search<'a> {
    set: &'a PolicySet,
    assumptions: &'a Assumptions,
    graph: &'a Graph<'a>,
    found: Vec<Finding>,
}

impl Search<'_> {
    fn add(&mut self, fault: Fault, severity: Severity, text: String, origin: &Origin) {
        let origin = origin.clone();
        self.found.push(Finding { fault, severity, text, origin, because: Vec::new() });
    }

    fn whole(&mut self, fault: Fault, severity: Severity, text: &str) {
        let origin = &self.set.origin;
        self.add(fault, severity, text.to_owned(), origin);
    }

    fn globals(&mut self) {
        match self.set.globals.learn_mode {
            Stated::Yes(false) => {}
            Stated::Yes(true) => {
                let text = "Learn Mode is on: no rule is enforced";
                self.whole(Fault::LearnModeOn, Severity::Blocker, text);
            }
            Stated::No => {
                let text = "it is not said whether Learn Mode is on; after a restore it is";
                self.whole(Fault::LearnModeNotStated, Severity::Warning, text);
            }
        }
        if self.set.globals.unmanaged == Stated::No {
            let text = "it is not said what becomes of mail of domains that are not managed";
            self.whole(Fault::UnmanagedNotStated, Severity::Warning, text);
        }
        match self.set.dictionary(MANAGED_DOMAINS) {
            None => {
                let text = "it is not said which domains are managed: outbound mail of others \
                            meets no rule";
                self.whole(Fault::NoManagedDomains, Severity::Blocker, text);
            }
            Some(managed) if managed.entries.is_empty() => {
                let text = "no domain is managed: no outbound mail meets a rule".to_owned();
                let fault = Fault::ManagedDomainsEmpty;
                self.add(fault, Severity::Blocker, text, &managed.origin);
            }
            Some(_) => {}
        }
    }

    /// Chains that the server goes to by their names.
    fn needed_chains(&mut self) {
        let Assumptions { start_outbound, start_inbound, .. } = self.assumptions;
        let mut needed = vec![
            (start_outbound.as_str(), "outbound mail begins there"),
            (start_inbound.as_str(), "inbound mail begins there"),
            (EXCEPTION_CHAIN, "mail that cannot be processed goes there"),
        ];
        needed.dedup_by_key(|(name, _)| *name);
        for (name, why) in needed {
            let lack = match self.set.chain(name) {
                None => "is not there",
                Some(chain) if chain.applies_to == AppliesTo::ClientOnly => "is for clients alone",
                Some(_) => continue,
            };
            self.whole(Fault::NoChain, Severity::Blocker, &format!("chain {name:?} {lack}; {why}"));
        }
        if self.set.chain(OUTBOUND_CHAIN).is_none() {
            // Names can be changed: then the first chain leads elsewhere.
            let (severity, hint) = match self.leads_on() {
                true => (Severity::Warning, "unless it has another name, "),
                false => (Severity::Blocker, ""),
            };
            let text = format!(
                "chain {OUTBOUND_CHAIN:?} is not there; {hint}its rules for mail that leaves are \
                 missing"
            );
            self.whole(Fault::NoChain, severity, &text);
        }
    }

    /// Does the first chain of outbound mail lead to a chain of another name than those for inbound?
    fn leads_on(&self) -> bool {
        let first =
            self.set.chains.iter().position(|chain| chain.name == self.assumptions.start_outbound);
        let known = [INBOUND_CHAIN, DEFAULT_CHAIN, EXCEPTION_CHAIN];
        first.is_some_and(|first| {
            let targets = self.graph.jumps[first].iter();
            targets
                .filter_map(|jump| jump.target)
                .any(|target| !known.contains(&self.set.chains[target].name.as_str()))
        })
    }

    fn jumps(&mut self) {
        let set = self.set;
        for (chain, jumps) in set.chains.iter().zip(&self.graph.jumps) {
            for jump in jumps {
                let rule = &chain.rules[jump.rule];
                let (name, to) = (words::rule(chain, rule), jump.name);
                let severity = match chain.applies_to {
                    AppliesTo::ClientOnly => Severity::Warning,
                    AppliesTo::ServerAndClient | AppliesTo::ServerOnly => Severity::Blocker,
                };
                let target = jump.target.map(|target| set.chains[target].applies_to);
                let clients = chain.applies_to == AppliesTo::ClientOnly;
                match target {
                    None => {
                        let text = format!("{name} goes to chain {to:?}, which is not there");
                        self.add(Fault::NoTarget, severity, text, &rule.origin);
                    }
                    Some(AppliesTo::ClientOnly) if !clients => {
                        let text =
                            format!("{name} goes to chain {to:?}, which is for clients alone");
                        self.add(Fault::ClientTarget, severity, text, &rule.origin);
                    }
                    Some(_) => {}
                }
            }
        }
        for circle in self.graph.circles() {
            self.circle(&circle);
        }
    }

    fn circle(&mut self, circle: &[(usize, usize)]) {
        let set = self.set;
        let name = |(chain, _): &(usize, usize)| format!("{:?}", set.chains[*chain].name);
        let names: Vec<String> = circle.iter().chain(circle.first()).map(name).collect();
        let origin =
            |(chain, rule): &(usize, usize)| set.chains[*chain].rules[*rule].origin.clone();
        let because: Vec<Origin> = circle.iter().map(origin).collect();
        let reached = circle.iter().any(|(chain, _)| self.graph.reached[*chain]);
        self.found.push(Finding {
            fault: Fault::Cycle,
            severity: if reached { Severity::Blocker } else { Severity::Warning },
            text: format!("chains lead in a circle: {}", names.join(" to ")),
            origin: because.first().unwrap_or(&set.origin).clone(),
            because,
        });
    }

    fn chains(&mut self) {
        let set = self.set;
        for (chain, reached) in set.chains.iter().zip(&self.graph.reached) {
            let name = words::chain(chain);
            if !chain.rules.iter().any(|rule| rule.enabled) {
                let severity = if *reached { Severity::Blocker } else { Severity::Info };
                let what = if chain.rules.is_empty() { "rules" } else { "rules that are enabled" };
                let text = format!("{name} has no {what}");
                self.add(Fault::EmptyChain, severity, text, &chain.origin);
            }
            if !reached && chain.applies_to != AppliesTo::ClientOnly {
                let text = format!("no rule leads to {name}");
                self.add(Fault::UnreachedChain, Severity::Warning, text, &chain.origin);
            }
        }
    }

    fn rules(&mut self) {
        for chain in &self.set.chains {
            for rule in chain.rules.iter().filter(|rule| rule.enabled) {
                self.rule(chain, rule);
            }
        }
    }

    fn rule(&mut self, chain: &Chain, rule: &Rule) {
        let name = words::rule(chain, rule);
        if !rule.actions.iter().any(Action::is_last) {
            let (severity, what) = match rule.actions.is_empty() {
                true => (Severity::Warning, "does nothing"),
                false => (Severity::Info, "does nothing that ends evaluation"),
            };
            self.add(Fault::NoEnd, severity, format!("{name} {what}"), &rule.origin);
        }
        for action in &rule.actions {
            if let Action::Opaque(opaque) = action {
                let text = format!("{name} has an action that is not understood: {}", opaque.what);
                self.add(Fault::ActionNotUnderstood, Severity::Warning, text, &rule.origin);
            }
        }
        for (dictionary, severity) in words::dictionaries(rule) {
            if self.set.dictionary(dictionary).is_none() {
                let text = format!("{name} names dictionary {dictionary:?}, which is not there");
                self.add(Fault::NoDictionary, severity, text, &rule.origin);
            }
        }
    }

    /// Conditions that are not understood.
    fn conditions(&mut self) {
        let set = self.set;
        let mut questions = Questions::default();
        let program = Program::new(set, self.assumptions, &mut questions);
        for line in program.chains.iter().flatten() {
            let Some((name, rule)) = placed(set, line.place) else {
                continue;
            };
            for opaque in words::not_understood(set, rule, &line.formula, &questions) {
                let text = format!("{name} asks what is not understood: {}", opaque.what);
                self.add(Fault::NotUnderstood, Severity::Warning, text, &rule.origin);
            }
        }
    }

    fn dictionaries(&mut self) {
        let rules = self.set.chains.iter().flat_map(|chain| &chain.rules);
        let enabled = rules.filter(|rule| rule.enabled);
        let named: Vec<&str> = enabled
            .flat_map(|rule| words::dictionaries(rule).into_iter().map(|(name, _)| name))
            .collect();
        for dictionary in &self.set.dictionaries {
            let name = dictionary.name.as_str();
            if name != MANAGED_DOMAINS && !named.contains(&name) {
                let text = format!("no rule asks for dictionary {name:?}");
                self.add(Fault::UnusedDictionary, Severity::Info, text, &dictionary.origin);
            }
        }
    }

    fn opaque(&mut self) {
        for part in &self.set.opaque {
            let text = format!("a part is not understood: {}", part.what);
            self.whole(Fault::PartNotUnderstood, Severity::Info, &text);
        }
    }
}

#[cfg(test)]
mod tests;
