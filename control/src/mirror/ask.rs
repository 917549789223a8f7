//! What an MTA asks, as tests of a policy.
//!
//! Keys that lead to the same are one list, so that a table of thousands is one question.
//!
//! Not here: which keys are asked in which order (`lookup`).

use policy::condition::{Condition, Mode, Operator, Subject, Test};
use policy::dictionary::{Dictionary, Entry, Form, Kind};
use policy::origin::Origin;
use policy::set::Opaque;

/// Lists that tests name.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) dictionaries: Vec<Dictionary>,
}

impl Lists {
    /// Is it one of these?
    pub(super) fn one_of(
        &mut self,
        subject: Subject,
        forms: Vec<(Form, String)>,
        origin: &Origin,
    ) -> Test {
        let operator = match forms.as_slice() {
            [] => return NEVER,
            [(Form::Literal, text)] => Operator::Is(text.clone()),
            [(Form::Pattern, text)] => Operator::Matches(text.clone()),
            _ => {
                let entry = |(form, text)| Entry { form, text, origin: origin.clone() };
                let entries: Vec<Entry> = forms.into_iter().map(entry).collect();
                let same = self.dictionaries.iter().find(|known| known.entries == entries);
                let name = same.map(|known| known.name.clone());
                Operator::IsInDictionary(name.unwrap_or_else(|| self.add(entries, origin)))
            }
        };
        condition(subject, operator, origin)
    }

    fn add(&mut self, entries: Vec<Entry>, origin: &Origin) -> String {
        let name = format!("{} keys of {origin} ({})", entries.len(), self.dictionaries.len() + 1);
        let (kind, origin) = (Kind::Static, origin.clone());
        self.dictionaries.push(Dictionary { name: name.clone(), kind, entries, origin });
        name
    }
}

/// Holds for no message.
pub(super) const NEVER: Test = Test::Group { mode: Mode::Any, items: Vec::new() };

pub(super) fn condition(subject: Subject, operator: Operator, origin: &Origin) -> Test {
    Test::Condition(Condition { subject, negated: false, operator, origin: origin.clone() })
}

/// Exactly this text, and any domain below where `dot` stands in front.
pub(super) fn below(domain: &str) -> (Form, String) {
    (Form::Pattern, format!("\\.{}$", regex::escape(domain)))
}

pub(super) fn literal(text: &str) -> (Form, String) {
    (Form::Literal, text.to_owned())
}

/// Nobody here knows when; the same words are the same question.
pub(super) fn opaque(what: impl Into<String>) -> Test {
    let what = what.into();
    Test::Opaque(Opaque { text: what.clone(), what })
}

/// All of these hold.
pub(super) fn all(mut items: Vec<Test>) -> Test {
    items.retain(|item| *item != Test::ALWAYS);
    group(Mode::All, items)
}

/// One of these holds.
pub(super) fn any(mut items: Vec<Test>) -> Test {
    items.retain(|item| *item != NEVER);
    if items.contains(&Test::ALWAYS) { Test::ALWAYS } else { group(Mode::Any, items) }
}

/// None of these holds.
pub(super) fn none(mut items: Vec<Test>) -> Test {
    items.retain(|item| *item != NEVER);
    if items.is_empty() { Test::ALWAYS } else { Test::Group { mode: Mode::None, items } }
}

fn group(mode: Mode, mut items: Vec<Test>) -> Test {
    match (items.pop(), items.is_empty()) {
        (Some(one), true) => one,
        (last, _) => {
            items.extend(last);
            Test::Group { mode, items }
        }
    }
}
