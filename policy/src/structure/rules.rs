//! How the rules of a chain differ.
//!
//! The order of rules matters only among those that can match the same mail. Of rules in another
//! order, as few as possible are called moved.
//!
//! Not here: what a rule does (`actions`).

use super::actions::{self, opens};
use super::mail::{At, Meeting, Side};
use super::{Addition, Comparison, Kind, Taken};
use crate::action::Action;
use crate::chain::{Chain, Rule};
use crate::program::Place;
use crate::severity::Severity;

/// Rules that are named in one text; who mends three looks again.
const NAMED_MAX: usize = 3;

impl Comparison<'_> {
    /// Compares the rules of two chains that are the same.
    pub(super) fn rules(&mut self, one: usize, other: usize) {
        let (before, after) = (&self.before.chains[one], &self.after.chains[other]);
        let pairs = self.matching.rules(before, after);
        for place in &pairs.before {
            let rule = &before.rules[*place];
            let severity = if rule.enabled { Severity::Blocker } else { Severity::Info };
            let text = format!("{} is missing{}", named(before, rule), state(rule));
            self.note((Kind::RuleMissing, severity), text, Some(&rule.origin), None);
        }
        for place in &pairs.after {
            let rule = &after.rules[*place];
            let at = At { side: Side::After, chain: other, rule: *place };
            let shadows = self.shadows(at, &pairs.both);
            let (severity, why) = self.appearing(at, &shadows);
            let text = format!("{} is new{}{why}", named(before, rule), state(rule));
            self.note((Kind::RuleAdded, severity), text, None, Some(&rule.origin));
        }
        for (place, to) in &pairs.both {
            let at = At { side: Side::Before, chain: one, rule: *place };
            self.rule(at, At { side: Side::After, chain: other, rule: *to });
        }
        self.moves((one, other), &pairs.both);
    }

    /// The rules that are new in chains of both sets.
    pub(super) fn additions(&self) -> Vec<Addition> {
        let mut additions = Vec::new();
        for (one, other) in &self.matching.chains.both {
            let (before, after) = (&self.before.chains[*one], &self.after.chains[*other]);
            let pairs = self.matching.rules(before, after);
            let new = pairs.after.iter().filter(|place| after.rules[**place].enabled);
            for place in new {
                let at = At { side: Side::After, chain: *other, rule: *place };
                let place = Place::Rule { chain: *other, rule: *place };
                let shadows = self.shadows(at, &pairs.both);
                let (severity, _) = self.appearing(at, &shadows);
                let placed = |(rule, taken)| (Place::Rule { chain: *other, rule }, taken);
                let shadows = shadows.into_iter().map(placed).collect();
                additions.push(Addition { place, severity, shadows });
            }
        }
        additions
    }

    /// Rules of both sets below this one that can match the same mail. A rule that ends nothing
    /// takes nothing.
    fn shadows(&self, new: At, both: &[(usize, usize)]) -> Vec<(usize, Taken)> {
        let rules = &self.after.chains[new.chain].rules;
        if !rules[new.rule].enabled || actions::end(&rules[new.rule]).is_none() {
            return Vec::new();
        }
        let below = both.iter().map(|(_, place)| *place).filter(|place| *place > new.rule);
        let mut shadows: Vec<(usize, Taken)> = below
            .filter(|place| rules[*place].enabled)
            .filter_map(|place| match self.mail.meeting(new, At { rule: place, ..new }) {
                _ if self.mail.is_idle(At { rule: place, ..new }) => None,
                Meeting::Apart => None,
                Meeting::Same | Meeting::Narrower => Some((place, Taken::All)),
                Meeting::Wider | Meeting::Partly => Some((place, Taken::Some)),
                Meeting::Unknown => Some((place, Taken::Unknown)),
            })
            .collect();
        shadows.sort_unstable_by_key(|(place, _)| *place);
        shadows
    }

    /// How much a rule matters that now acts and did not, and why.
    fn appearing(&self, at: At, shadows: &[(usize, Taken)]) -> (Severity, String) {
        let rules = &self.after.chains[at.chain].rules;
        let rule = &rules[at.rule];
        if !rule.enabled {
            return (Severity::Info, String::new());
        }
        if self.mail.is_idle(at) {
            return (Severity::Info, "; no mail matches it".to_owned());
        }
        let taken = |(place, taken): &(usize, Taken)| {
            format!("{} of the mail of rule {:?}", taken.as_str(), rules[*place].name)
        };
        let takes = match shadows {
            [] => String::new(),
            some => format!("; it takes {}", few(some.iter().map(taken))),
        };
        if opens(rule) {
            return (Severity::Blocker, format!("; it lets mail out in clear{takes}"));
        }
        match actions::end(rule) {
            Some(Action::Opaque(_)) => {
                (Severity::Blocker, format!("; what it does is not understood{takes}"))
            }
            _ => (Severity::Warning, takes),
        }
    }

    /// Compares a rule with itself.
    fn rule(&mut self, one: At, other: At) {
        let (chain, after) = (&self.before.chains[one.chain], &self.after.chains[other.chain]);
        let (before, after) = (&chain.rules[one.rule], &after.rules[other.rule]);
        let origins = (Some(&before.origin), Some(&after.origin));
        let name = named(chain, before);
        let acts = before.enabled || after.enabled;
        if before.name != after.name {
            let text = format!("{name} is now named {:?}", after.name);
            self.note((Kind::RuleRenamed, Severity::Info), text, origins.0, origins.1);
        }
        match (before.enabled, after.enabled) {
            (true, false) => {
                let found = (Kind::RuleDisabled, Severity::Blocker);
                self.note(found, format!("{name} is no longer enabled"), origins.0, origins.1);
            }
            (false, true) => {
                let (severity, why) = self.appearing(other, &[]);
                let text = format!("{name} is newly enabled{why}");
                self.note((Kind::RuleEnabled, severity), text, origins.0, origins.1);
            }
            _ => {}
        }
        if self.matching.before.test(&before.test) != self.matching.after.test(&after.test) {
            let (severity, how) = asks(self.mail.meeting(one, other));
            let severity = if acts { severity } else { Severity::Info };
            let text = match (before.test.to_string(), after.test.to_string()) {
                (one, two) if one == two => {
                    let what = "what it names, or what is not understood in it, is not the same";
                    format!("{name} {how}: {what}")
                }
                (one, two) => format!("{name} {how}: {two} instead of {one}"),
            };
            self.note((Kind::Condition, severity), text, origins.0, origins.1);
        }
        let names = (&self.matching.before, &self.matching.after);
        for deed in actions::differences((before, names.0), (after, names.1)) {
            let severity = if acts { deed.severity } else { Severity::Info };
            let text = format!("{name} {}", deed.text);
            self.note((deed.kind, severity), text, origins.0, origins.1);
        }
    }

    /// Notes rules that stand elsewhere among the others.
    fn moves(&mut self, chains: (usize, usize), both: &[(usize, usize)]) {
        let places: Vec<usize> = both.iter().map(|(_, place)| *place).collect();
        let stay = longest_rising(&places);
        for (number, (from, to)) in both.iter().enumerate() {
            if stay[number] {
                continue;
            }
            let crossed: Vec<(usize, usize)> = both
                .iter()
                .filter(|(one, other)| (one < from) != (other < to) && one != from)
                .copied()
                .collect();
            let (severity, why) = self.crossing(chains, (*from, *to), &crossed);
            let (before, after) = (&self.before.chains[chains.0], &self.after.chains[chains.1]);
            let (rule, now) = (&before.rules[*from], &after.rules[*to]);
            let (from, to) = (from + 1, to + 1);
            let text = format!("{} moved from place {from} to {to}; {why}", named(before, rule));
            let found = (Kind::RuleMoved, severity);
            self.note(found, text, Some(&rule.origin), Some(&now.origin));
        }
    }

    /// How much it matters that a rule stands on the other side of these, and why.
    fn crossing(
        &self,
        chains: (usize, usize),
        (from, to): (usize, usize),
        crossed: &[(usize, usize)],
    ) -> (Severity, String) {
        let (before, after) = (&self.before.chains[chains.0], &self.after.chains[chains.1]);
        let acts =
            |one: usize, other: usize| before.rules[one].enabled || after.rules[other].enabled;
        let (mut shared, mut alike) = (Vec::new(), true);
        for (one, other) in crossed {
            let meets = |side, chain, rule, with| {
                self.mail.meeting(At { side, chain, rule }, At { side, chain, rule: with })
            };
            let apart = !meets(Side::Before, chains.0, from, *one).shares()
                && !meets(Side::After, chains.1, to, *other).shares();
            if apart || !acts(from, to) || !acts(*one, *other) {
                continue;
            }
            alike &= before.rules[from].actions == before.rules[*one].actions
                && after.rules[to].actions == after.rules[*other].actions;
            shared.push(format!("{:?}", before.rules[*one].name));
        }
        if shared.is_empty() {
            let why = "no rule that it crossed can match the same mail".to_owned();
            return (Severity::Info, why);
        }
        let rules = few(shared.into_iter());
        let why = format!("it crossed rules that can match the same mail: {rules}");
        match alike {
            true => (Severity::Warning, format!("{why}, and do the same with it")),
            false => (Severity::Blocker, why),
        }
    }
}

fn named(chain: &Chain, rule: &Rule) -> String {
    format!("rule {:?} of chain {:?}", rule.name, chain.name)
}

const fn state(rule: &Rule) -> &'static str {
    if rule.enabled { "" } else { ", not enabled" }
}

/// The first few of many, and the number of the others.
fn few(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let mut text = names.take(NAMED_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// How much it matters that a rule asks otherwise.
const fn asks(meeting: Meeting) -> (Severity, &'static str) {
    match meeting {
        Meeting::Same => (Severity::Info, "asks otherwise and matches the same mail"),
        Meeting::Narrower => (Severity::Blocker, "matches less mail"),
        Meeting::Wider => (Severity::Blocker, "matches more mail"),
        Meeting::Partly | Meeting::Apart => (Severity::Blocker, "matches other mail"),
        Meeting::Unknown => (Severity::Blocker, "asks otherwise"),
    }
}

/// For each number, whether it is in a longest rising part of the list.
fn longest_rising(numbers: &[usize]) -> Vec<bool> {
    // For each length, where the part of that length with the smallest last number ends.
    let mut ends: Vec<usize> = Vec::new();
    let mut previous: Vec<Option<usize>> = Vec::new();
    for (place, number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|end| numbers[*end] < *number);
        previous.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        ends.truncate(length.max(ends.len()));
        match ends.get_mut(length) {
            Some(end) => *end = place,
            None => ends.push(place),
        }
    }
    let mut rising = vec![false; numbers.len()];
    let mut place = ends.last().copied();
    while let Some(at) = place {
        rising[at] = true;
        place = previous[at];
    }
    rising
}
