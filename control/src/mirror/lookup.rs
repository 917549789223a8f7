//! Which keys of tables are looked up in which order, as tests that are asked in that order.
//!
//! Postfix looks an address up as a whole, then without its extension, then by its domain, and so on;
//! each key in all tables of a list. Tables of expressions are asked for the whole address alone.
//!
//! Not here: what a result means (`routing`, `restrictions`).

use policy::condition::{Operator, Subject, Test};
use policy::dictionary::Form;
use policy::origin::Origin;
use policy::sample::Variable;

use super::ask::{self, Lists, all, any, below, literal, none, opaque};
use super::expression::{Expression, Rule};
use super::table::{Content, Entry, Table};

/// What a lookup finds, where the tests before did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) test: Test,
    pub(super) answer: Answer,
    pub(super) origin: Origin,
    /// Table and key.
    pub(super) words: String,
}

/// What a table answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This.
    Result(String),
    /// Nobody knows.
    Unknown(String),
}

/// How an address is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// `user+ext@domain`, `user@domain`, `domain`, `.domain`, `*` (transport(5)).
    Transport,
    /// `user+ext@domain`, `user@domain`, `user`, `@domain`.
    Sender,
    /// `user+ext@domain`, `user@domain`, `domain`, its parents, `user@` (access(5)).
    Access,
}

/// A lookup of addresses.
pub(super) struct Lookup<'a> {
    /// `Recipient` or `Sender`.
    pub(super) variable: Variable,
    pub(super) order: Order,
    /// What is looked up in place of the null reverse-path.
    pub(super) null_key: String,
    /// Letters that begin an extension.
    pub(super) delimiters: String,
    /// A domain stands for those below it too.
    pub(super) with_subdomains: bool,
    pub(super) lists: &'a mut Lists,
}

impl Lookup<'_> {
    /// What is found in tables, in the order in which it is looked for.
    pub(super) fn found(&mut self, tables: &[Table]) -> Vec<Found> {
        let mut found = Vec::new();
        for table in tables {
            self.whole(table, &mut found);
        }
        for table in tables {
            self.without_extension(table, &mut found);
        }
        match self.order {
            Order::Sender => {
                for table in tables {
                    self.local_parts(table, &mut found);
                    self.keys(table, &|key| key.strip_prefix('@').map(literal), true, &mut found);
                }
            }
            Order::Transport | Order::Access => {
                self.domains(tables, &mut found);
                for table in tables {
                    self.last(table, &mut found);
                }
            }
        }
        found
    }

    const fn subject(&self, domain: bool) -> Subject {
        let variable = match self.variable {
            Variable::Sender => Variable::Sender,
            _ => Variable::Recipient,
        };
        if domain { Subject::DomainOf(variable) } else { Subject::Whole(variable) }
    }

    /// The address as it is.
    fn whole(&mut self, table: &Table, found: &mut Vec<Found>) {
        let null = self.null_key.clone();
        match &table.content {
            Content::Keys(_) => {
                let key = move |key: &str| match key {
                    key if key == null => Some(literal("")),
                    key => is_address(key).then(|| literal(key)),
                };
                self.keys(table, &key, false, found);
            }
            Content::Rules(rules) => {
                for rule in rules {
                    let (test, origin) = (self.rule(rule), rule.origin.clone());
                    let shown = shown(rule);
                    let answer = match rule.result.contains('$') {
                        true => Answer::Unknown("its result has $ in it".to_owned()),
                        false => Answer::Result(rule.result.clone()),
                    };
                    let words = format!("{}: {shown} {}", table.name, rule.result);
                    found.push(Found { test, answer, origin, words });
                }
            }
            Content::Always(result) => found.push(Found {
                test: Test::ALWAYS,
                answer: Answer::Result(result.clone()),
                origin: Origin::of("main.cf"),
                words: table.name.clone(),
            }),
            Content::Unknown(why) => found.push(Found {
                test: opaque(format!("{} is found in {} ({why})", self.variable, table.name)),
                answer: Answer::Unknown(format!("{}: {why}", table.name)),
                origin: Origin::of("main.cf"),
                words: table.name.clone(),
            }),
        }
    }

    /// The address without its extension: which addresses have one is told, which key it then meets
    /// is not.
    fn without_extension(&mut self, table: &Table, found: &mut Vec<Found>) {
        let Content::Keys(entries) = &table.content else { return };
        let Some(entry) = entries.iter().find(|entry| is_address(&entry.key)) else { return };
        if self.delimiters.is_empty() {
            return;
        }
        let letters: Vec<String> =
            self.delimiters.chars().map(|letter| regex::escape(&letter.to_string())).collect();
        let pattern = format!("^.+({}).*@", letters.join("|"));
        let extended = Operator::Matches(pattern);
        let extended = ask::condition(self.subject(false), extended, &entry.origin);
        let known = format!("{} without its extension is found in {}", self.variable, table.name);
        found.push(Found {
            test: all(vec![extended, opaque(known)]),
            answer: Answer::Unknown(format!("{}: it is found without its extension", table.name)),
            origin: entry.origin.clone(),
            words: table.name.clone(),
        });
    }

    /// `user` is looked up where the domain is local.
    fn local_parts(&self, table: &Table, found: &mut Vec<Found>) {
        let Content::Keys(entries) = &table.content else { return };
        let bare = |entry: &&Entry| !entry.key.contains('@') && entry.key != self.null_key;
        let Some(entry) = entries.iter().find(bare) else { return };
        let known = format!("{} is of a local domain and found in {}", self.variable, table.name);
        found.push(Found {
            test: opaque(known),
            answer: Answer::Unknown(format!("{}: it is found without its domain", table.name)),
            origin: entry.origin.clone(),
            words: table.name.clone(),
        });
    }

    /// Domains, then those above them, the nearest first.
    fn domains(&mut self, tables: &[Table], found: &mut Vec<Found>) {
        let name = |key: &str| !key.contains('@') && key != "*";
        for table in tables {
            let key = |key: &str| (name(key) && !key.starts_with('.')).then(|| literal(key));
            self.keys(table, &key, true, found);
        }
        let with_subdomains = self.with_subdomains;
        let above = move |key: &str| match key.strip_prefix('.') {
            Some(domain) if !with_subdomains => Some(domain.to_owned()),
            None if with_subdomains && name(key) => Some(key.to_owned()),
            _ => None,
        };
        let mut depths: Vec<usize> = tables
            .iter()
            .flat_map(|table| match &table.content {
                Content::Keys(entries) => entries.as_slice(),
                _ => &[],
            })
            .filter_map(|entry| above(&entry.key).map(|domain| domain.matches('.').count()))
            .collect();
        depths.sort_unstable();
        depths.dedup();
        for depth in depths.into_iter().rev() {
            for table in tables {
                let key = |key: &str| {
                    let domain = above(key).filter(|one| one.matches('.').count() == depth)?;
                    Some(below(&domain))
                };
                self.keys(table, &key, true, found);
            }
        }
    }

    /// `*`, or `user@`.
    fn last(&mut self, table: &Table, found: &mut Vec<Found>) {
        match self.order {
            Order::Access => {
                let key = |key: &str| {
                    let user = key.strip_suffix('@').filter(|user| !user.is_empty())?;
                    Some((Form::Pattern, format!("^{}@", regex::escape(user))))
                };
                self.keys(table, &key, false, found);
            }
            Order::Transport | Order::Sender => {
                let Content::Keys(entries) = &table.content else { return };
                let star = entries.iter().filter(|entry| entry.key == "*");
                found.extend(star.map(|entry| Found {
                    test: Test::ALWAYS,
                    answer: Answer::Result(entry.result.clone()),
                    origin: entry.origin.clone(),
                    words: format!("{}: * {}", table.name, entry.result),
                }));
            }
        }
    }

    /// The keys of some kind, those with the same result together. Two of them never meet.
    fn keys(
        &mut self,
        table: &Table,
        is_kind: &dyn Fn(&str) -> Option<(Form, String)>,
        domain: bool,
        found: &mut Vec<Found>,
    ) {
        let Content::Keys(entries) = &table.content else { return };
        let mut alike: Vec<(&Entry, Vec<(Form, String)>)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for entry in entries {
            let Some(form) = is_kind(&entry.key) else { continue };
            let next = alike.len();
            let place = *places.entry(entry.result.as_str()).or_insert(next);
            match alike.get_mut(place) {
                Some((_, forms)) => forms.push(form),
                None => alike.push((entry, vec![form])),
            }
        }
        for (first, forms) in alike {
            let more = match forms.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let words = format!("{}: {}{more} {}", table.name, first.key, first.result);
            let test = self.lists.one_of(self.subject(domain), forms, &first.origin);
            let (answer, origin) = (Answer::Result(first.result.clone()), first.origin.clone());
            found.push(Found { test, answer, origin, words });
        }
    }

    /// Does a rule match the address? For the null reverse-path it is asked of its key.
    fn rule(&self, rule: &Rule) -> Test {
        let subject = || self.subject(false);
        let asked = rule.all.iter().map(|one| self.expression(one, subject(), &rule.origin));
        let test = all(asked.collect());
        if self.variable != Variable::Sender {
            return test;
        }
        let null = ask::condition(subject(), Operator::Is(String::new()), &rule.origin);
        let usual = all(vec![none(vec![null.clone()]), test]);
        match matches(rule, &self.null_key) {
            Some(true) => any(vec![null, usual]),
            Some(false) => usual,
            None => any(vec![all(vec![null, opaque(shown(rule))]), usual]),
        }
    }

    fn expression(&self, one: &Expression, subject: Subject, origin: &Origin) -> Test {
        let test = match one.strange {
            Some(why) => opaque(format!("{} matches {:?} ({why})", self.variable, one.text)),
            None => ask::condition(subject, Operator::Matches(one.text.clone()), origin),
        };
        if one.negated { none(vec![test]) } else { test }
    }
}

/// Does a rule match this text? None where that is not known.
fn matches(rule: &Rule, text: &str) -> Option<bool> {
    let mut all = true;
    for one in &rule.all {
        let expression = match one.strange {
            Some(_) => return None,
            None => regex::RegexBuilder::new(&one.text).case_insensitive(true).build().ok()?,
        };
        all &= expression.is_match(text) != one.negated;
    }
    Some(all)
}

/// `user@domain`, whole.
fn is_address(key: &str) -> bool {
    key.split_once('@').is_some_and(|(user, domain)| !user.is_empty() && !domain.is_empty())
}

/// A rule as it is written.
pub(super) fn shown(rule: &Rule) -> String {
    let expression = |one: &Expression| {
        let not = if one.negated { "!" } else { "" };
        format!("{not}/{}/", one.text)
    };
    rule.all.iter().map(expression).collect::<Vec<_>>().join(" ")
}
