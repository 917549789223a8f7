//! Lookup tables: what `type:name` stands for, read from its text.
//!
//! Indexed tables are read from the text that postmap(1) makes them of; where the index is older, what
//! was read is doubtful. A table that is not read here
//! (LDAP, SQL, a server) is kept with its reason: nobody knows what it answers.
//!
//! Not here: which keys are looked up in which order (`lookup`).

use std::collections::HashSet;
use std::path::Path;

use policy::origin::Origin;

use super::expression::{self, Dialect, Rule};
use super::files::Files;
use super::lines::{self, in_braces};
use super::parameters::Stray;
use super::{Finding, Severity};

/// Entries of one table.
const ENTRIES_MAX: usize = 500_000;

/// A table.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// As the configuration names it.
    pub(super) name: String,
    pub(super) content: Content,
}

/// What is in a table.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Keys in lower case, each once, and what they stand for.
    Keys(Vec<Entry>),
    /// Rules, asked in order.
    Rules(Vec<Rule>),
    /// One answer to everything.
    Always(String),
    /// Not known, and why.
    Unknown(String),
}

/// A key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) result: String,
    pub(super) origin: Origin,
}

/// Reads tables, and notes what is wrong with them.
pub(super) struct Tables<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) default_type: String,
    pub(super) findings: Vec<Finding>,
    /// Tables whose text may not be what Postfix reads.
    pub(super) doubts: Vec<String>,
}

impl Tables<'_> {
    /// The tables of a list; `origin` is where the list stands.
    pub(super) fn all(&mut self, list: &str, origin: &Origin) -> Vec<Table> {
        lines::parts(list).into_iter().map(|one| self.read(one, origin)).collect()
    }

    /// The table of this name.
    pub(super) fn read(&mut self, name: &str, origin: &Origin) -> Table {
        let plain = name.strip_prefix("proxy:").unwrap_or(name);
        let default = self.default_type.clone();
        let (kind, rest) = match plain.split_once(':') {
            Some((kind, rest)) => (kind, rest),
            None => (default.as_str(), plain),
        };
        let content = match kind {
            "texthash" => self.keys(rest, &[], origin),
            "hash" | "btree" => self.keys(rest, &["db"], origin),
            "lmdb" => self.keys(rest, &["lmdb"], origin),
            "cdb" => self.keys(rest, &["cdb"], origin),
            "dbm" | "sdbm" => self.keys(rest, &["pag", "dir"], origin),
            "inline" => inline(rest, origin),
            "static" => Content::Always(in_braces(rest).unwrap_or(rest).to_owned()),
            "regexp" => self.rules(rest, Dialect::Posix, origin),
            "pcre" => self.rules(rest, Dialect::Perl, origin),
            other => Content::Unknown(format!("tables of type {other:?} are not read here")),
        };
        Table { name: name.to_owned(), content }
    }

    fn keys(&mut self, path: &str, compiled: &[&str], origin: &Origin) -> Content {
        let text = match self.files.text(Path::new(path)) {
            Ok(text) => text,
            Err(error) => return self.unread(&error.to_string(), origin),
        };
        for ending in compiled {
            self.compare_age(path, &format!("{path}.{ending}"), origin);
        }
        let (entries, strays) = entries(&text, path);
        self.name_strays(&strays, "has no key and result, and Postfix ignores it");
        match entries.len() {
            0..=ENTRIES_MAX => Content::Keys(entries),
            more => Content::Unknown(format!("{path} has {more} entries, at most {ENTRIES_MAX}")),
        }
    }

    fn rules(&mut self, path: &str, dialect: Dialect, origin: &Origin) -> Content {
        let lines = match in_braces(path) {
            Some(inside) => expression::inline(inside, origin),
            None => match self.files.text(Path::new(path)) {
                Ok(text) => lines::logical(&text, path),
                Err(error) => return self.unread(&error.to_string(), origin),
            },
        };
        let (rules, strays) = expression::rules(lines, dialect);
        self.name_strays(&strays, "is no rule, and Postfix ignores it");
        match rules.len() {
            0..=ENTRIES_MAX => Content::Rules(rules),
            more => Content::Unknown(format!("{path} has {more} rules, at most {ENTRIES_MAX}")),
        }
    }

    fn unread(&mut self, error: &str, origin: &Origin) -> Content {
        self.findings.push(Finding {
            severity: Severity::Error,
            words: error.to_owned(),
            origin: origin.clone(),
            mend: "give the text that the table is made of".to_owned(),
        });
        Content::Unknown(error.to_owned())
    }

    /// Postfix reads the compiled table, and we its text.
    fn compare_age(&mut self, path: &str, compiled: &str, origin: &Origin) {
        let (text, made) = (Path::new(path), Path::new(compiled));
        let words = match (self.files.written(text), self.files.written(made)) {
            (Some(text), Some(made)) if made < text => {
                format!("{compiled} is older than {path}: Postfix does not see what was changed")
            }
            (Some(_), None) => format!("{compiled} is not there, and Postfix reads that"),
            _ => return,
        };
        if !self.doubts.contains(&words) {
            self.doubts.push(words.clone());
        }
        self.findings.push(Finding {
            severity: Severity::Warning,
            words,
            origin: origin.clone(),
            mend: format!("postmap {path}"),
        });
    }

    fn name_strays(&mut self, strays: &[Stray], what: &str) {
        for stray in strays.iter().take(super::STRAYS_MAX) {
            let line: String = stray.text.chars().take(80).collect();
            self.findings.push(Finding {
                severity: Severity::Warning,
                words: format!("this line {what}: {line:?}"),
                origin: stray.origin.clone(),
                mend: "mend the line, or take it out".to_owned(),
            });
        }
    }
}

/// `key result`, a line each; of a key that stands twice, the first counts.
fn entries(text: &str, file: &str) -> (Vec<Entry>, Vec<Stray>) {
    let (mut entries, mut strays, mut known) = (Vec::new(), Vec::new(), HashSet::new());
    for line in lines::logical(text, file) {
        let (key, result) = line.text.split_at(key_end(&line.text));
        let (key, result) = (unquoted(key).to_lowercase(), result.trim());
        if key.is_empty() || result.is_empty() {
            strays.push(Stray { text: line.text, origin: line.origin });
        } else if known.insert(key.clone()) {
            entries.push(Entry { key, result: result.to_owned(), origin: line.origin });
        }
    }
    (entries, strays)
}

/// Where a key ends: at the first blank that stands in no quotes.
fn key_end(line: &str) -> usize {
    let mut quoted = false;
    let end = line.char_indices().find(|(_, letter)| {
        quoted ^= *letter == '"';
        !quoted && letter.is_whitespace()
    });
    end.map_or(line.len(), |(at, _)| at)
}

/// A local part without quotes, as it is looked up.
fn unquoted(key: &str) -> String {
    key.replace('"', "")
}

/// `{ key = result, { key = result } }`.
fn inline(text: &str, origin: &Origin) -> Content {
    let Some(inside) = in_braces(text) else {
        return Content::Unknown("this inline table has no braces".to_owned());
    };
    let mut entries: Vec<Entry> = Vec::new();
    for part in lines::parts(inside) {
        let Some((key, result)) = in_braces(part).unwrap_or(part).split_once('=') else {
            return Content::Unknown(format!("this is no entry of an inline table: {part:?}"));
        };
        let (key, result) = (key.trim().to_lowercase(), result.trim().to_owned());
        if entries.iter().all(|entry| entry.key != key) {
            entries.push(Entry { key, result, origin: origin.clone() });
        }
    }
    Content::Keys(entries)
}
