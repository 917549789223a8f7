//! What rules name, and how they are named.
//!
//! Not here: what is wrong with it (`findings`).

use crate::action::{Action, Effect};
use crate::chain::{Chain, Rule};
use crate::condition::{Condition, Operator, Test};
use crate::predicate::Predicate;
use crate::program::{Formula, Questions};
use crate::set::{Opaque, PolicySet};
use crate::severity::Severity;

/// The name of a chain.
pub(super) fn chain(chain: &Chain) -> String {
    format!("chain {:?}", chain.name)
}

/// The name of a rule.
pub(super) fn rule(chain: &Chain, rule: &Rule) -> String {
    format!("rule {:?} of chain {:?}", rule.name, chain.name)
}

/// The dictionaries that a rule names, each once, with what it matters that one is not there: whom a
/// rule matches is then unknown; whom it would add is only not added.
pub(super) fn dictionaries(rule: &Rule) -> Vec<(&str, Severity)> {
    let mut named = Vec::new();
    conditions(&rule.test, &mut |condition| {
        if let Operator::IsInDictionary(name) = &condition.operator {
            named.push((name.as_str(), Severity::Blocker));
        }
    });
    for action in &rule.actions {
        if let Action::Effect(Effect::AddTo { dictionary }) = action {
            named.push((dictionary, Severity::Warning));
        }
    }
    named.sort_by_key(|(name, severity)| (*name, std::cmp::Reverse(*severity)));
    named.dedup_by_key(|(name, _)| *name);
    named
}

fn conditions<'t>(test: &'t Test, found: &mut dyn FnMut(&'t Condition)) {
    match test {
        Test::Group { items, .. } => items.iter().for_each(|item| conditions(item, found)),
        Test::Condition(condition) => found(condition),
        Test::Opaque(_) => {}
    }
}

/// What a rule asks that is not understood, but for dictionaries that are not there.
pub(super) fn not_understood<'q>(
    set: &PolicySet,
    rule: &Rule,
    formula: &Formula,
    questions: &'q Questions,
) -> Vec<&'q Opaque> {
    // A condition that names no dictionary is asked as its text.
    let mut missing = Vec::new();
    conditions(&rule.test, &mut |condition| {
        if let Operator::IsInDictionary(name) = &condition.operator
            && set.dictionary(name).is_none()
        {
            missing.push(format!("{} {}", condition.subject, condition.operator));
        }
    });
    let mut found = Vec::new();
    opaque(formula, questions, &mut found);
    found.retain(|opaque| !missing.contains(&opaque.text));
    found
}

/// What a formula asks that is not understood, each once.
fn opaque<'q>(formula: &Formula, questions: &'q Questions, found: &mut Vec<&'q Opaque>) {
    match formula {
        Formula::Ask(question) => {
            if let Predicate::Opaque(opaque) = questions.predicate(*question)
                && !found.contains(&opaque)
            {
                found.push(opaque);
            }
        }
        Formula::Not(inner) => opaque(inner, questions, found),
        Formula::All(items) | Formula::Any(items) => {
            items.iter().for_each(|item| opaque(item, questions, found));
        }
    }
}
