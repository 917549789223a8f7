//! What rules, chains and dictionaries say, as texts that two sets share: equal texts say the same.
//!
//! What a rule names is named as the set before the upgrade names it, so that a rule which leads to a
//! renamed chain says what it said. The order of rules and actions is part of a text; that of
//! conditions in a group and of entries is not.
//!
//! Not here: which thing of one set is which of the other (`matching`).

use std::collections::HashMap;

use crate::action::{Action, Effect};
use crate::chain::{Chain, Rule};
use crate::condition::{Condition, Operator, Test};
use crate::dictionary::{Dictionary, Form};
use crate::set::PolicySet;

/// The names of a set, as the other set has them.
#[derive(Clone, Debug)]
pub(super) struct Names<'a> {
    set: &'a PolicySet,
    /// Chains that are named otherwise.
    pub(super) chains: HashMap<String, String>,
    /// Dictionaries that are named otherwise.
    pub(super) dictionaries: HashMap<String, String>,
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named<'n> {
    /// Something of the set.
    There(&'n str),
    /// Nothing.
    Missing(&'n str),
}

impl<'a> Names<'a> {
    /// The names as they are.
    pub(super) fn of(set: &'a PolicySet) -> Self {
        Self { set, chains: HashMap::new(), dictionaries: HashMap::new() }
    }

    /// The chain that a rule leads to.
    pub(super) fn chain<'n>(&'n self, name: &'n str) -> Named<'n> {
        named(name, &self.chains, self.set.chain(name).is_some())
    }

    /// The dictionary that a rule asks or fills.
    pub(super) fn dictionary<'n>(&'n self, name: &'n str) -> Named<'n> {
        named(name, &self.dictionaries, self.set.dictionary(name).is_some())
    }

    /// What a rule says, but for its name and whether it is enabled.
    pub(super) fn rule(&self, rule: &Rule) -> String {
        let actions = rule.actions.iter().map(|action| self.action(action));
        listed("rule", [self.test(&rule.test)].into_iter().chain(actions))
    }

    /// What a chain says, but for its name.
    pub(super) fn rules(&self, chain: &Chain) -> String {
        let rule = |rule: &Rule| {
            let enabled = format!("{:?} {}", rule.name, rule.enabled);
            listed("of", [enabled, self.rule(rule)])
        };
        listed(chain.applies_to.as_str(), chain.rules.iter().map(rule))
    }

    /// When a rule matches.
    pub(super) fn test(&self, test: &Test) -> String {
        match test {
            Test::Group { mode, items } => {
                let mut items: Vec<String> = items.iter().map(|item| self.test(item)).collect();
                items.sort_unstable();
                listed(mode.as_str(), items)
            }
            Test::Condition(condition) => self.condition(condition),
            Test::Opaque(opaque) => format!("not understood {:?}", opaque.text),
        }
    }

    fn condition(&self, condition: &Condition) -> String {
        let Condition { subject, negated, operator, origin: _ } = condition;
        match operator {
            Operator::IsInDictionary(name) => {
                format!("{negated} {subject} in {:?}", self.dictionary(name))
            }
            operator => format!("{negated} {subject} {operator:?}"),
        }
    }

    /// What an action does.
    pub(super) fn action(&self, action: &Action) -> String {
        match action {
            Action::GoTo(chain) => format!("go to {:?}", self.chain(chain)),
            Action::Effect(Effect::AddTo { dictionary }) => {
                format!("add to {:?}", self.dictionary(dictionary))
            }
            Action::Opaque(opaque) => format!("not understood {:?}", opaque.text),
            Action::Send(_) | Action::Finish(_) | Action::Effect(_) => format!("{action:?}"),
        }
    }
}

/// What a dictionary says, but for its name.
pub(super) fn entries(dictionary: &Dictionary) -> String {
    let mut entries: Vec<(Form, &str)> =
        dictionary.entries.iter().map(|entry| (entry.form, entry.text.as_str())).collect();
    entries.sort_unstable();
    entries.dedup();
    let entries = entries.into_iter().map(|entry| format!("{entry:?}"));
    listed(dictionary.kind.as_str(), entries)
}

fn named<'n>(name: &'n str, renamed: &'n HashMap<String, String>, there: bool) -> Named<'n> {
    match renamed.get(name) {
        Some(other) => Named::There(other),
        None if there => Named::There(name),
        None => Named::Missing(name),
    }
}

/// Lengths stand in front, so that no text of an item can look like two.
fn listed(what: &str, items: impl IntoIterator<Item = String>) -> String {
    let mut text = format!("{what} (");
    for item in items {
        text.push_str(&format!("{}:{item};", item.len()));
    }
    text.push(')');
    text
}
