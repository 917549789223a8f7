//! Lists of domains: mydestination, relay_domains and those of virtual mail, as tests of a recipient.
//!
//! The first item that matches decides; `!` in front of it excludes.
//!
//! Invariant: a name that is not known (it refers to the host's own) is left out, so that mail to it
//! counts as mail that leaves.
//!
//! Not here: what becomes of mail to them (`routing`).

use std::path::Path;

use policy::condition::{Operator, Subject, Test};
use policy::dictionary::Form;
use policy::origin::Origin;
use policy::sample::Variable;

use super::ask::{self, Lists, all, any, below, literal, none, opaque};
use super::expression::Rule;
use super::lines::{self, parts};
use super::parameters::{Scope, Unclear};
use super::table::{Content, Tables};
use super::{Finding, Severity};

/// Files within files of a list.
const FILES_DEEP_MAX: usize = 8;

/// Times that a list goes from names to exclusions and back: tests within tests.
const GROUPS_MAX: usize = 100;

/// Files that are read for one list.
const FILES_MAX: u32 = 100;

/// Reads lists of domains.
pub(super) struct Domains<'a, 'b> {
    pub(super) scope: Scope<'a>,
    pub(super) tables: &'a mut Tables<'b>,
    pub(super) lists: &'a mut Lists,
    pub(super) findings: &'a mut Vec<Finding>,
}

/// A list as it is read.
struct List {
    with_subdomains: bool,
    origin: Origin,
    /// Files that were read for it.
    files: u32,
    /// The first group in which one holds decides.
    groups: Vec<(Sense, Vec<Test>)>,
}

impl List {
    fn push(&mut self, sense: Sense, test: Test) {
        match self.groups.last_mut() {
            Some((last, tests)) if *last == sense => tests.push(test),
            _ => self.groups.push((sense, vec![test])),
        }
    }

    /// Does a domain match the list?
    fn test(self, parameter: &str) -> Test {
        if self.groups.len() > GROUPS_MAX {
            return opaque(format!("recipient domain is in {parameter}, which excludes too much"));
        }
        self.groups.into_iter().rev().fold(ask::NEVER, |rest, (sense, mut tests)| match sense {
            Sense::Excludes => all(vec![none(tests), rest]),
            Sense::Includes => {
                tests.push(rest);
                any(tests)
            }
        })
    }
}

/// What a match means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sense {
    Includes,
    Excludes,
}

impl Sense {
    const fn other(self) -> Self {
        match self {
            Self::Includes => Self::Excludes,
            Self::Excludes => Self::Includes,
        }
    }
}

impl Domains<'_, '_> {
    /// Is the recipient's domain in the list that is this parameter?
    pub(super) fn test(&mut self, parameter: &str, with_subdomains: bool) -> Test {
        let origin = self.scope.origin(parameter);
        let text = match self.scope.value(parameter) {
            Ok(value) => value.text,
            Err(_) => self.known_items(parameter),
        };
        let mut list = List { with_subdomains, origin, files: 0, groups: Vec::new() };
        self.items(&text, Sense::Includes, &mut list, 0);
        list.test(parameter)
    }

    /// The items of a list that are known, where one is not.
    fn known_items(&mut self, parameter: &str) -> String {
        let written = self.scope.written(parameter);
        let mut known = Vec::new();
        for item in parts(&written) {
            match self.scope.expand(item) {
                Ok(text) => known.push(text),
                Err(unclear) => self.name(parameter, item, &unclear),
            }
        }
        known.join(" ")
    }

    fn name(&mut self, parameter: &str, item: &str, unclear: &Unclear) {
        self.findings.push(Finding {
            severity: Severity::Note,
            words: format!("{parameter}: {item} is left out: {unclear}"),
            origin: self.scope.origin(parameter),
            mend: "set it in main.cf".to_owned(),
        });
    }

    fn items(&mut self, text: &str, around: Sense, list: &mut List, depth: usize) {
        let mut names: Vec<(Form, String)> = Vec::new();
        for part in parts(text) {
            let (sense, part) = match part.strip_prefix('!') {
                Some(part) => (around.other(), part),
                None => (around, part),
            };
            if sense == around && !part.starts_with('/') && !is_table(part) {
                names.extend(forms(part, list.with_subdomains));
                continue;
            }
            self.names(std::mem::take(&mut names), around, list);
            if part.starts_with('/') {
                self.file(part, sense, list, depth);
            } else if is_table(part) {
                let test = self.table(part, list);
                list.push(sense, test);
            } else {
                self.names(forms(part, list.with_subdomains), sense, list);
            }
        }
        self.names(names, around, list);
    }

    fn names(&mut self, names: Vec<(Form, String)>, sense: Sense, list: &mut List) {
        let test = self.lists.one_of(domain(), names, &list.origin);
        list.push(sense, test);
    }

    /// The items of a file, as if they stood in the list.
    fn file(&mut self, path: &str, sense: Sense, list: &mut List, depth: usize) {
        let unread = |why: &str| opaque(format!("recipient domain is in {path} ({why})"));
        list.files += 1;
        if depth == FILES_DEEP_MAX || list.files > FILES_MAX {
            return list.push(sense, unread("it stands too deep in other files"));
        }
        match self.tables.files.text(Path::new(path)) {
            Ok(text) => {
                let lines = lines::logical(&text, path).into_iter().map(|line| line.text);
                let text = lines.collect::<Vec<_>>().join(" ");
                self.items(&text, sense, list, depth + 1);
            }
            Err(error) => {
                list.push(sense, unread("it cannot be read"));
                self.findings.push(Finding {
                    severity: Severity::Error,
                    words: error.to_string(),
                    origin: list.origin.clone(),
                    mend: "give the file".to_owned(),
                });
            }
        }
    }

    /// Is the domain a key of a table?
    fn table(&mut self, name: &str, list: &List) -> Test {
        let (with_subdomains, origin) = (list.with_subdomains, &list.origin);
        let table = self.tables.read(name, origin);
        match table.content {
            Content::Keys(entries) => {
                let names = entries.iter().filter(|entry| !entry.key.contains('@'));
                let forms = names.flat_map(|entry| forms(&entry.key, with_subdomains)).collect();
                self.lists.one_of(domain(), forms, origin)
            }
            Content::Rules(rules) => {
                let rule = |rule: &Rule| matches(rule, with_subdomains);
                any(rules.iter().map(rule).collect())
            }
            Content::Always(_) => Test::ALWAYS,
            Content::Unknown(why) => opaque(format!("recipient domain is in {name} ({why})")),
        }
    }
}

const fn domain() -> Subject {
    Subject::DomainOf(Variable::Recipient)
}

fn is_table(part: &str) -> bool {
    part.contains(':') && !part.starts_with('[')
}

/// A name, and what is below it where that counts; `.name` is what is below it.
fn forms(name: &str, with_subdomains: bool) -> Vec<(Form, String)> {
    let name = name.to_lowercase();
    match name.strip_prefix('.') {
        Some(domain) => vec![below(domain)],
        None if with_subdomains => vec![literal(&name), below(&name)],
        None => vec![literal(&name)],
    }
}

fn matches(rule: &Rule, with_subdomains: bool) -> Test {
    let test = |one: &super::expression::Expression| {
        let test = match one.strange {
            Some(why) => opaque(format!("recipient domain matches {:?} ({why})", one.text)),
            // A parent domain is looked up too: it may match where the domain does not.
            None if with_subdomains => {
                opaque(format!("recipient domain, or one above it, matches {:?}", one.text))
            }
            None => ask::condition(domain(), Operator::Matches(one.text.clone()), &rule.origin),
        };
        if one.negated { none(vec![test]) } else { test }
    };
    all(rule.all.iter().map(test).collect())
}
