//! How what a rule does differs.
//!
//! What ends a rule is compared by the two ends it can come to: where a key is found, and where none
//! is. An end that is less protected is weaker (policy model §6), whatever the other is.
//!
//! Not here: when a rule matches (`rules`).

use std::collections::BTreeSet;

use super::Kind;
use super::content::{Named, Names};
use crate::action::{Action, Effect, Outcome, Relation, SEARCH_DEFAULT, Send};
use crate::chain::Rule;
use crate::severity::Severity;

/// A difference of what two rules do.
#[derive(Debug)]
pub(super) struct Deed {
    pub(super) kind: Kind,
    pub(super) severity: Severity,
    pub(super) text: String,
}

/// How what two rules do differs, the second with the names of the first.
pub(super) fn differences(before: (&Rule, &Names<'_>), after: (&Rule, &Names<'_>)) -> Vec<Deed> {
    let list = |(rule, names): (&Rule, &Names<'_>)| -> Vec<String> {
        rule.actions.iter().map(|action| names.action(action)).collect()
    };
    if list(before) == list(after) {
        return Vec::new();
    }
    let mut deeds = ends(before, after);
    deeds.extend(besides(before, after));
    if deeds.is_empty() {
        deeds.push(Deed {
            kind: Kind::ActionOther,
            severity: Severity::Info,
            text: "lists its actions otherwise, and does the same".to_owned(),
        });
    }
    deeds
}

/// Does a rule let mail out in clear that the sender did not mean to be public: in clear, or as it
/// came, with a key or without one?
pub(super) fn opens(rule: &Rule) -> bool {
    match end(rule) {
        Some(Action::Finish(outcome)) => is_clear(outcome),
        Some(Action::Send(send)) => is_clear(&send.key_not_found),
        _ => false,
    }
}

/// The action that ends a rule.
pub(super) fn end(rule: &Rule) -> Option<&Action> {
    rule.actions.iter().find(|action| action.is_last())
}

/// Outcomes that leave the message readable on its way out. Mail that was decrypted for its
/// recipient goes inward.
pub(super) const fn is_clear(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Clear | Outcome::Unmodified | Outcome::SmartTrailer | Outcome::Signed(_)
    )
}

fn ends(before: (&Rule, &Names<'_>), after: (&Rule, &Names<'_>)) -> Vec<Deed> {
    let (one, two) = (end(before.0), end(after.0));
    match (one, two) {
        (None, None) => Vec::new(),
        (Some(Action::Send(one)), Some(Action::Send(two))) => sends(one, two),
        (Some(Action::GoTo(one)), Some(Action::GoTo(two))) => {
            jumps(before.1.chain(one), after.1.chain(two)).into_iter().collect()
        }
        (Some(one), Some(two)) if before.1.action(one) == after.1.action(two) => Vec::new(),
        (Some(one), Some(two)) => finishes(one, two).into_iter().collect(),
        (Some(one), None) => vec![other(&format!("no longer ends with {one}"))],
        (None, Some(two)) => vec![other(&format!("now ends with {two}"))],
    }
}

fn other(text: &str) -> Deed {
    Deed { kind: Kind::ActionOther, severity: Severity::Blocker, text: text.to_owned() }
}

fn jumps(one: Named<'_>, two: Named<'_>) -> Option<Deed> {
    let (kind, severity, text) = match (one, two) {
        (one, two) if one == two => return None,
        (Named::There(_), Named::Missing(name)) => {
            let text = format!("goes to chain {name:?}, which is no longer there");
            (Kind::JumpBroken, Severity::Blocker, text)
        }
        (Named::Missing(_), Named::There(name)) => {
            let text = format!("went to a chain that was not there, and now goes to {name:?}");
            (Kind::JumpMended, Severity::Warning, text)
        }
        (Named::There(one) | Named::Missing(one), Named::There(two) | Named::Missing(two)) => {
            return Some(other(&format!("goes to chain {two:?} instead of {one:?}")));
        }
    };
    Some(Deed { kind, severity, text })
}

/// The ends with a key and without; none for what is no end of its own.
fn outcomes(action: &Action) -> Option<(Outcome, Outcome)> {
    match action {
        Action::Finish(outcome) => Some((outcome.clone(), outcome.clone())),
        Action::Send(send) => Some((encrypted(send), send.key_not_found.clone())),
        Action::GoTo(_) | Action::Effect(_) | Action::Opaque(_) => None,
    }
}

const fn encrypted(send: &Send) -> Outcome {
    Outcome::Encrypted { sign: send.sign, encoding: send.encoding }
}

fn finishes(one: &Action, two: &Action) -> Option<Deed> {
    if let (Action::Finish(Outcome::Signed(one)), Action::Finish(Outcome::Signed(two))) = (one, two)
    {
        return Some(encoding(one.as_str(), two.as_str()));
    }
    let text = format!("does {two} instead of {one}");
    let (Some(ones), Some(twos)) = (outcomes(one), outcomes(two)) else {
        return Some(other(&text));
    };
    let relations = [Relation::of(&ones.0, &twos.0), Relation::of(&ones.1, &twos.1)];
    let has = |relation| relations.contains(&relation);
    let newly_clear = is_clear(&twos.0) || is_clear(&twos.1);
    let (kind, severity) = match () {
        () if has(Relation::Unknown) || has(Relation::Looser) && has(Relation::Stricter) => {
            (Kind::ActionOther, Severity::Blocker)
        }
        () if has(Relation::Looser) => (Kind::ActionWeaker, Severity::Blocker),
        () if has(Relation::Stricter) => (Kind::ActionStronger, Severity::Warning),
        () if has(Relation::Incomparable) && newly_clear => (Kind::ActionOther, Severity::Blocker),
        () if has(Relation::Incomparable) => (Kind::ActionOther, Severity::Warning),
        () => return None,
    };
    Some(Deed { kind, severity, text })
}

fn encoding(one: &str, two: &str) -> Deed {
    let text = format!("prefers the encoding {two} instead of {one}");
    Deed { kind: Kind::Encoding, severity: Severity::Warning, text }
}

fn sends(one: &Send, two: &Send) -> Vec<Deed> {
    let mut deeds = Vec::new();
    if one.sign != two.sign {
        let (kind, severity, text) = match two.sign {
            true => (Kind::ActionStronger, Severity::Warning, "now signs what it encrypts"),
            false => (Kind::ActionWeaker, Severity::Blocker, "no longer signs what it encrypts"),
        };
        deeds.push(Deed { kind, severity, text: text.to_owned() });
    }
    if one.encoding != two.encoding {
        deeds.push(encoding(one.encoding.as_str(), two.encoding.as_str()));
    }
    if one.key_not_found != two.key_not_found {
        deeds.push(without_key(&one.key_not_found, &two.key_not_found));
    }
    deeds.extend(searches(one, two));
    deeds
}

fn without_key(one: &Outcome, two: &Outcome) -> Deed {
    let (kind, severity) = match Relation::of(one, two) {
        Relation::Looser => (Kind::KeyNotFoundWeaker, Severity::Blocker),
        Relation::Stricter => (Kind::KeyNotFoundStronger, Severity::Warning),
        Relation::Unknown => (Kind::KeyNotFoundOther, Severity::Blocker),
        _ if is_clear(two) && !both_signed(one, two) => (Kind::KeyNotFoundOther, Severity::Blocker),
        _ => (Kind::KeyNotFoundOther, Severity::Warning),
    };
    Deed { kind, severity, text: format!("does {two} instead of {one} where no key is found") }
}

const fn both_signed(one: &Outcome, two: &Outcome) -> bool {
    matches!((one, two), (Outcome::Signed(_), Outcome::Signed(_)))
}

/// Fewer places to look in are fewer keys, so that more mail ends as that without a key.
fn searches(one: &Send, two: &Send) -> Option<Deed> {
    let places = |send: &Send| match send.search.as_slice() {
        [] => vec![SEARCH_DEFAULT.to_owned()],
        named => named.to_vec(),
    };
    let (one_places, two_places) = (places(one), places(two));
    if one_places == two_places {
        return None;
    }
    let lost = one_places.iter().any(|place| !two_places.contains(place));
    let weaker = Relation::of(&encrypted(two), &two.key_not_found) == Relation::Looser;
    let severity = if lost && weaker { Severity::Blocker } else { Severity::Warning };
    let (one, two) = (one_places.join(", "), two_places.join(", "));
    let text = format!("looks for keys in {two} instead of {one}");
    Some(Deed { kind: Kind::KeySearch, severity, text })
}

/// What is done beside, by one rule alone.
fn besides(before: (&Rule, &Names<'_>), after: (&Rule, &Names<'_>)) -> Vec<Deed> {
    let (one, two) = (effects(before), effects(after));
    let only = |these: &[(String, Effect)], others: &[(String, Effect)], kind, word| {
        let known: BTreeSet<&str> = others.iter().map(|(text, _)| text.as_str()).collect();
        let only = these.iter().filter(|(text, _)| !known.contains(text.as_str()));
        let deed = |(_, effect): &(String, Effect)| Deed {
            kind,
            severity: weight(effect),
            text: format!("{word}: {effect}"),
        };
        only.map(deed).collect::<Vec<_>>()
    };
    let mut deeds = only(&one, &two, Kind::EffectMissing, "no longer does beside");
    deeds.extend(only(&two, &one, Kind::EffectAdded, "now does beside"));
    deeds
}

/// A line in a log changes nothing that becomes of mail.
const fn weight(effect: &Effect) -> Severity {
    match effect {
        Effect::Log { .. } => Severity::Info,
        Effect::AddTo { .. } | Effect::Copy { .. } => Severity::Warning,
    }
}

/// What a rule does beside before it ends, each once.
fn effects((rule, names): (&Rule, &Names<'_>)) -> Vec<(String, Effect)> {
    let mut effects: Vec<(String, Effect)> = Vec::new();
    for action in rule.actions.iter().take_while(|action| !action.is_last()) {
        if let Action::Effect(effect) = action {
            let text = names.action(action);
            if !effects.iter().any(|(known, _)| *known == text) {
                effects.push((text, effect.clone()));
            }
        }
    }
    effects
}
