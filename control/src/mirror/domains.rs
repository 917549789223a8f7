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

/// Reads lists of domains.
pub(super) struct Domains<'a, 'b> {
    pub(super) scope: Scope<'a>,
    pub(super) tables: &'a mut Tables<'b>,
    pub(super) lists: &'a mut Lists,
    pub(super) findings: &'a mut Vec<Finding>,
}

/// An item of a list, and whether it excludes.
struct Item {
    test: Test,
    excludes: bool,
}

impl Domains<'_, '_> {
    /// Is the recipient's domain in the list that is this parameter?
    pub(super) fn test(&mut self, parameter: &str, with_subdomains: bool) -> Test {
        let origin = self.scope.origin(parameter);
        let text = match self.scope.value(parameter) {
            Ok(value) => value.text,
            Err(_) => self.known_items(parameter),
        };
        let mut items = Vec::new();
        self.items(&text, with_subdomains, &origin, 0, &mut items);
        items.into_iter().rev().fold(ask::NEVER, |rest, item| match item.excludes {
            true => all(vec![none(vec![item.test]), rest]),
            false => any(vec![item.test, rest]),
        })
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

    fn items(
        &mut self,
        text: &str,
        with_subdomains: bool,
        origin: &Origin,
        depth: usize,
        items: &mut Vec<Item>,
    ) {
        let mut names: Vec<(Form, String)> = Vec::new();
        for part in parts(text) {
            let (excludes, part) = match part.strip_prefix('!') {
                Some(part) => (true, part),
                None => (false, part),
            };
            let plain = !part.starts_with('/') && !is_table(part);
            if plain && !excludes {
                names.extend(forms(part, with_subdomains));
                continue;
            }
            let before = self.lists.one_of(domain(), std::mem::take(&mut names), origin);
            items.push(Item { test: before, excludes: false });
            let test = match (plain, part.starts_with('/')) {
                (true, _) => self.lists.one_of(domain(), forms(part, with_subdomains), origin),
                (false, true) => self.file(part, with_subdomains, origin, depth),
                (false, false) => self.table(part, with_subdomains, origin),
            };
            items.push(Item { test, excludes });
        }
        let test = self.lists.one_of(domain(), names, origin);
        items.push(Item { test, excludes: false });
    }

    /// The items of a file, each line as if it stood in the list.
    fn file(&mut self, path: &str, with_subdomains: bool, origin: &Origin, depth: usize) -> Test {
        if depth == FILES_DEEP_MAX {
            return opaque(format!(
                "recipient domain is in {path}, which is too deep in other files"
            ));
        }
        let text = match self.tables.files.text(Path::new(path)) {
            Ok(text) => text,
            Err(error) => {
                self.findings.push(Finding {
                    severity: Severity::Error,
                    words: error.to_string(),
                    origin: origin.clone(),
                    mend: "give the file".to_owned(),
                });
                return opaque(format!("recipient domain is in {path} (it cannot be read)"));
            }
        };
        let lines: Vec<String> =
            lines::logical(&text, path).into_iter().map(|line| line.text).collect();
        let mut items = Vec::new();
        let whole = Origin::of(path);
        self.items(&lines.join(" "), with_subdomains, &whole, depth + 1, &mut items);
        let tests = items.into_iter().filter(|item| !item.excludes).map(|item| item.test);
        any(tests.collect())
    }

    /// Is the domain a key of a table?
    fn table(&mut self, name: &str, with_subdomains: bool, origin: &Origin) -> Test {
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
