//! How dictionaries differ.
//!
//! What an entry is worth depends on what the rules that ask for it do: an address that is missing
//! where mail is let out in clear is protected mail, the same address missing where mail is encrypted
//! is mail in clear.
//!
//! Not here: conditions that ask for dictionaries (`rules`).

use std::collections::BTreeSet;

use super::actions::{end, is_clear};
use super::matching::Pairs;
use super::{Comparison, Kind};
use crate::action::Action;
use crate::chain::{AppliesTo, Rule};
use crate::condition::{Mode, Operator, Test};
use crate::dictionary::{Dictionary, Entry, Form, Kind as Filled};
use crate::set::{MANAGED_DOMAINS, PolicySet};
use crate::severity::Severity;

/// How the server's own dictionaries of recipients without encryption are named.
const EXCLUDED: &str = "Excluded";

/// What it means to be in a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The sender's mail is under the policy at all.
    Managed,
    /// Mail is let out with less protection.
    Excluding,
    /// Mail is protected.
    Protecting,
    /// The one or the other.
    Mixed,
    /// Nothing, as far as rules tell; the name is that of one of the server's own.
    UnusedExcluded,
    /// Nothing.
    Unused,
}

impl Role {
    /// How much it matters that the dictionary has less in it.
    const fn less(self) -> Severity {
        match self {
            Self::Managed | Self::Protecting | Self::Mixed => Severity::Blocker,
            Self::Excluding | Self::UnusedExcluded => Severity::Warning,
            Self::Unused => Severity::Info,
        }
    }

    /// How much it matters that the dictionary has more in it.
    const fn more(self) -> Severity {
        match self {
            Self::Excluding | Self::Mixed => Severity::Blocker,
            Self::Managed | Self::Protecting | Self::UnusedExcluded => Severity::Warning,
            Self::Unused => Severity::Info,
        }
    }

    /// How much any difference of the entries matters at least.
    const fn least(self) -> Severity {
        match self {
            Self::Unused => Severity::Info,
            _ => Severity::Warning,
        }
    }

    /// Why.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Managed => "only mail of managed domains meets rules",
            Self::Excluding => "rules let mail for it out with less protection",
            Self::Protecting => "rules protect mail for it",
            Self::Mixed => "rules protect mail for it or let it out, or lead elsewhere",
            Self::UnusedExcluded | Self::Unused => "no rule asks for it",
        }
    }
}

impl Comparison<'_> {
    /// Compares the dictionaries.
    pub(super) fn dictionaries(&mut self) {
        let pairs = std::mem::take(&mut self.matching.dictionaries);
        for (one, other) in &pairs.both {
            self.dictionary(&self.before.dictionaries[*one], &self.after.dictionaries[*other]);
        }
        for place in &pairs.before {
            let dictionary = &self.before.dictionaries[*place];
            let role = self.role(&dictionary.name, &dictionary.name);
            let asked = !uses(self.after, &dictionary.name).is_empty();
            let severity = if asked { Severity::Blocker } else { role.less() };
            let why = if asked { "rules still ask for it" } else { role.as_str() };
            let text = format!("{} is missing; {why}", named(dictionary));
            let found = (Kind::DictionaryMissing, severity);
            self.note(found, text, Some(&dictionary.origin), None);
        }
        for place in &pairs.after {
            let dictionary = &self.after.dictionaries[*place];
            let role = self.role(&dictionary.name, &dictionary.name);
            let text = format!("{} is new; {}", named(dictionary), role.as_str());
            // What lets mail out is the rule that asks for it, which is a difference of its own.
            let severity = role.more().min(Severity::Warning);
            self.note((Kind::DictionaryAdded, severity), text, None, Some(&dictionary.origin));
        }
        self.matching.dictionaries = pairs;
    }

    fn dictionary(&mut self, before: &Dictionary, after: &Dictionary) {
        let role = self.role(&before.name, &after.name);
        let origins = (Some(&before.origin), Some(&after.origin));
        if before.name != after.name {
            let text = format!("{} is now named {:?}", named(before), after.name);
            self.note((Kind::DictionaryRenamed, Severity::Info), text, origins.0, origins.1);
        }
        if before.kind != after.kind {
            let (one, two) = (before.kind.as_str(), after.kind.as_str());
            let text = format!("{} is {two} instead of {one}", named(before));
            self.note((Kind::DictionaryKind, filled(role, after.kind)), text, origins.0, origins.1);
        }
        self.entries(before, after, role);
    }

    fn entries(&mut self, before: &Dictionary, after: &Dictionary, role: Role) {
        let (one, two) = (distinct(before), distinct(after));
        let exact = |entry: &Entry| Some((entry.form, entry.text.clone()));
        let text = |entry: &Entry| Some(entry.text.clone());
        let folded =
            |entry: &Entry| (entry.form == Form::Literal).then(|| entry.text.to_ascii_lowercase());
        let pairs = Pairs::none(one.len(), two.len())
            .by(|place| exact(one[place]), |place| exact(two[place]))
            .by(|place| text(one[place]), |place| text(two[place]))
            .by(|place| folded(one[place]), |place| folded(two[place]));
        for (from, to) in &pairs.both {
            self.entry(before, one[*from], two[*to], role);
        }
        let managed = role == Role::Managed;
        for entry in pairs.before.iter().map(|place| one[*place]) {
            let kind = if managed { Kind::ManagedDomainMissing } else { Kind::EntryMissing };
            let text = format!("{} of {} is missing", worded(entry), named(before));
            let text = format!("{text}; {}", role.as_str());
            self.note((kind, role.less()), text, Some(&entry.origin), Some(&after.origin));
        }
        for entry in pairs.after.iter().map(|place| two[*place]) {
            let kind = if managed { Kind::ManagedDomainAdded } else { Kind::EntryAdded };
            let text = format!("{} of {} is new; {}", worded(entry), named(before), role.as_str());
            self.note((kind, role.more()), text, Some(&before.origin), Some(&entry.origin));
        }
    }

    /// Compares an entry with itself.
    fn entry(&mut self, dictionary: &Dictionary, before: &Entry, after: &Entry, role: Role) {
        let (found, how) = match (before.form, after.form) {
            (Form::Literal, Form::Pattern) => {
                let severity = role.more().max(role.least());
                ((Kind::EntryNowPattern, severity), "is a pattern now, and was a literal")
            }
            (Form::Pattern, Form::Literal) => {
                let severity = role.less().max(role.least());
                ((Kind::EntryNowLiteral, severity), "is a literal now, and was a pattern")
            }
            _ if before.text == after.text => return,
            _ => {
                let how = "differs in the case of letters; whether that matters is not documented";
                ((Kind::EntryCase, role.least()), how)
            }
        };
        let text = format!("entry {:?} of {} {how}", before.text, named(dictionary));
        self.note(found, text, Some(&before.origin), Some(&after.origin));
    }

    /// What it means to be in a dictionary, by the rules of both sets.
    fn role(&self, before: &str, after: &str) -> Role {
        if before == MANAGED_DOMAINS {
            return Role::Managed;
        }
        let mut roles = uses(self.before, before);
        roles.extend(uses(self.after, after));
        let excluded = before.starts_with(EXCLUDED);
        match roles.as_slice() {
            [] if excluded => Role::UnusedExcluded,
            [] => Role::Unused,
            _ if excluded => Role::Excluding,
            [first, rest @ ..] if rest.iter().all(|one| one == first) => *first,
            _ => Role::Mixed,
        }
    }
}

/// How much it matters that somebody else fills the dictionary.
const fn filled(role: Role, now: Filled) -> Severity {
    match (role, now) {
        (Role::Managed, _) | (Role::Excluding | Role::Mixed, Filled::Dynamic) => Severity::Blocker,
        _ => Severity::Warning,
    }
}

/// Entries, each once.
fn distinct(dictionary: &Dictionary) -> Vec<&Entry> {
    let mut known = BTreeSet::new();
    let mut entries: Vec<&Entry> = dictionary.entries.iter().collect();
    entries.retain(|entry| known.insert((entry.form, entry.text.as_str())));
    entries
}

/// What being in a dictionary means to each enabled rule that asks for it.
fn uses(set: &PolicySet, name: &str) -> Vec<Role> {
    let mut uses = Vec::new();
    let chains = set.chains.iter().filter(|chain| chain.applies_to != AppliesTo::ClientOnly);
    for rule in chains.flat_map(|chain| &chain.rules).filter(|rule| rule.enabled) {
        asked(&rule.test, false, name, &mut |negated| uses.push(meaning(rule, negated)));
    }
    uses
}

/// Calls for each condition that asks for the dictionary, with whether it asks for the contrary.
fn asked(test: &Test, negated: bool, name: &str, found: &mut dyn FnMut(bool)) {
    match test {
        Test::Group { mode, items } => {
            let negated = negated != (*mode == Mode::None);
            items.iter().for_each(|item| asked(item, negated, name, found));
        }
        Test::Condition(condition) => {
            if matches!(&condition.operator, Operator::IsInDictionary(asked) if asked == name) {
                found(negated != condition.negated);
            }
        }
        Test::Opaque(_) => {}
    }
}

/// What it means to a rule that something is in a dictionary it asks for.
fn meaning(rule: &Rule, negated: bool) -> Role {
    let opens = match end(rule) {
        Some(Action::Finish(outcome)) => is_clear(outcome),
        Some(Action::Send(send)) if !is_clear(&send.key_not_found) => false,
        _ => return Role::Mixed,
    };
    if opens != negated { Role::Excluding } else { Role::Protecting }
}

fn named(dictionary: &Dictionary) -> String {
    format!("dictionary {:?}", dictionary.name)
}

fn worded(entry: &Entry) -> String {
    match entry.form {
        Form::Literal => format!("entry {:?}", entry.text),
        Form::Pattern => format!("pattern {:?}", entry.text),
    }
}
