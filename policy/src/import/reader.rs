//! Reads the tables of a TOML file and notes everything that is wrong with them.
//!
//! serde would stop at the first mistake and name it in its own words.
//!
//! Invariant: what is returned where a fault was noted is a stand-in; the import is refused anyway.
//!
//! Not here: which keys there are (`toml`, `mapping`).

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::words::{self, Words};
use super::{Faults, ImportError, ImportErrors};
use crate::origin::Origin;
use crate::places::Places;

/// Length of a file, in octets.
const OCTETS_MAX: usize = 32 << 20;

/// Parses a file.
pub(super) fn document<'t>(text: &'t str, file: &str) -> Result<DeTable<'t>, ImportErrors> {
    if text.len() > OCTETS_MAX {
        let what = format!("the file has {} octets, at most {OCTETS_MAX} are read", text.len());
        let mend = "keep long dictionaries as lists in files of their own".to_owned();
        return Err(ImportError { origin: Origin::of(file), what, mend }.into());
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let places = Places::new(file, text);
    let mut faults = Faults::default();
    for error in errors {
        let origin = places.at(error.span().map_or(0, |span| span.start));
        let message = error.message().replace('\n', ", ");
        faults.add(origin, format!("this is no TOML: {message}"), "mend the line");
    }
    faults.or(document.into_inner())
}

/// A table of the file.
#[derive(Clone, Copy)]
pub(super) struct Table<'d> {
    entries: Option<&'d DeTable<'d>>,
    /// The octet that it begins at.
    pub(super) at: usize,
}

/// A text of the file.
#[derive(Clone, Copy)]
pub(super) struct Text<'d> {
    /// What it says.
    pub(super) text: &'d str,
    /// The octet that it begins at.
    pub(super) at: usize,
}

impl<'d> Table<'d> {
    /// A table that is not there, and so has nothing in it.
    pub(super) const EMPTY: Self = Self { entries: None, at: 0 };

    /// The whole file.
    pub(super) const fn root(entries: &'d DeTable<'d>) -> Self {
        Self { entries: Some(entries), at: 0 }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Where the value of a key begins; where the table does, if there is no such key.
    pub(super) fn at_of(&self, key: &str) -> usize {
        self.value(key).map_or(self.at, |value| value.span().start)
    }

    /// Keys, with the octets they begin at.
    pub(super) fn keys(&self) -> impl Iterator<Item = Text<'d>> + use<'d> {
        let keys = self.entries.into_iter().flat_map(|entries| entries.keys());
        keys.map(|key| Text { text: key.get_ref(), at: key.span().start })
    }

    fn value(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.entries?.get(key)
    }
}

/// Notes faults with their places.
pub(super) struct Reader<'t> {
    places: Places<'t>,
    pub(super) faults: Faults,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, file: &str) -> Self {
        Self { places: Places::new(file, text), faults: Faults::default() }
    }

    pub(super) fn file(&self) -> &Origin {
        self.places.file()
    }

    pub(super) fn origin(&self, octet: usize) -> Origin {
        self.places.at(octet)
    }

    pub(super) fn fault(&mut self, at: usize, what: impl Into<String>, mend: impl Into<String>) {
        self.faults.add(self.places.at(at), what, mend);
    }

    /// Every key must be one of these; `of` names the table.
    pub(super) fn known(&mut self, table: Table<'_>, of: &str, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.text)) {
            let what = format!("{of} has no key {:?}", short(key.text));
            self.fault(key.at, what, words::mend(key.text, known));
        }
    }

    /// The text of a key, if the key is there.
    pub(super) fn text<'d>(&mut self, table: Table<'d>, key: &str) -> Option<Text<'d>> {
        let value = table.value(key)?;
        let at = value.span().start;
        match value.get_ref() {
            DeValue::String(text) => Some(Text { text, at }),
            other => {
                let what = format!("{key} is a text, not {}", article(other.type_str()));
                self.fault(at, what, "write it in double quotes");
                None
            }
        }
    }

    /// The text of a key that must be there and say something.
    pub(super) fn needed_text<'d>(
        &mut self,
        table: Table<'d>,
        key: &str,
        of: &str,
    ) -> Option<Text<'d>> {
        if !table.has(key) {
            self.fault(table.at, format!("{of} has no {key}"), format!("add {key} = \"…\""));
            return None;
        }
        let text = self.text(table, key)?;
        if text.text.trim().is_empty() {
            self.fault(text.at, format!("{key} of {of} is empty"), "write one");
        }
        Some(text)
    }

    /// The text of a key as a word that stands for something.
    pub(super) fn word<T: Clone>(
        &mut self,
        table: Table<'_>,
        key: &str,
        words: &Words<T>,
    ) -> Option<T> {
        let typed = self.text(table, key)?;
        let found = words::find(words, typed.text);
        if found.is_none() {
            let what = format!("{key} is not known: {:?}", short(typed.text));
            self.fault(typed.at, what, words::mend(typed.text, &words::names(words)));
        }
        found
    }

    /// The boolean of a key, if the key is there.
    pub(super) fn boolean(&mut self, table: Table<'_>, key: &str) -> Option<bool> {
        let value = table.value(key)?;
        if let DeValue::Boolean(boolean) = value.get_ref() {
            return Some(*boolean);
        }
        let what = format!("{key} is true or false, not {}", article(value.get_ref().type_str()));
        self.fault(value.span().start, what, "write true or false, without quotes");
        None
    }

    /// A text, or a number as its decimal text.
    pub(super) fn scalar(&mut self, table: Table<'_>, key: &str) -> Option<(String, usize)> {
        let value = table.value(key)?;
        let at = value.span().start;
        match value.get_ref() {
            DeValue::String(text) => return Some((text.as_ref().to_owned(), at)),
            DeValue::Integer(number) => {
                if let Ok(number) = u64::from_str_radix(number.as_str(), number.radix()) {
                    return Some((number.to_string(), at));
                }
                let what = format!("{key} is out of range: {number}");
                self.fault(at, what, format!("use a number from 0 to {}", u64::MAX));
            }
            other => {
                let what =
                    format!("{key} is a text or a number, not {}", article(other.type_str()));
                self.fault(at, what, "write a text in double quotes, or a number");
            }
        }
        None
    }

    /// The texts of a key; nothing where it is not there.
    pub(super) fn texts<'d>(&mut self, table: Table<'d>, key: &str) -> Vec<Text<'d>> {
        let mut texts = Vec::new();
        for value in self.array(table, key) {
            match value.get_ref() {
                DeValue::String(text) => texts.push(Text { text, at: value.span().start }),
                other => {
                    let kind = article(other.type_str());
                    let what = format!("{key} is a list of texts, and this is {kind}");
                    self.fault(value.span().start, what, "write it in double quotes");
                }
            }
        }
        texts
    }

    /// The text of a key, or several; nothing where it is not there.
    pub(super) fn one_or_more<'d>(&mut self, table: Table<'d>, key: &str) -> Vec<Text<'d>> {
        let Some(value) = table.value(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::String(_) => self.text(table, key).into_iter().collect(),
            DeValue::Array(_) => self.texts(table, key),
            other => {
                let kind = article(other.type_str());
                let what = format!("{key} is a text, or a list of texts, not {kind}");
                self.fault(value.span().start, what, "write it in double quotes");
                Vec::new()
            }
        }
    }

    /// The tables of a key; nothing where it is not there.
    pub(super) fn tables<'d>(&mut self, table: Table<'d>, key: &str) -> Vec<Table<'d>> {
        let mut tables = Vec::new();
        for value in self.array(table, key) {
            let at = value.span().start;
            match value.get_ref() {
                DeValue::Table(entries) => tables.push(Table { entries: Some(entries), at }),
                other => {
                    let kind = article(other.type_str());
                    let what = format!("{key} is a list of tables, and this is {kind}");
                    self.fault(at, what, "write { … } with keys in it");
                }
            }
        }
        tables
    }

    /// The table of a key, if the key is there.
    pub(super) fn table<'d>(&mut self, table: Table<'d>, key: &str) -> Option<Table<'d>> {
        let value = table.value(key)?;
        let at = value.span().start;
        if let DeValue::Table(entries) = value.get_ref() {
            return Some(Table { entries: Some(entries), at });
        }
        let what = format!("{key} is a table, not {}", article(value.get_ref().type_str()));
        self.fault(at, what, format!("write [{key}] on a line of its own, and its keys below"));
        None
    }

    fn array<'d>(&mut self, table: Table<'d>, key: &str) -> &'d [Spanned<DeValue<'d>>] {
        let Some(value) = table.value(key) else { return &[] };
        if let DeValue::Array(values) = value.get_ref() {
            return values;
        }
        let what = format!("{key} is a list, not {}", article(value.get_ref().type_str()));
        let mend = match value.get_ref() {
            DeValue::Table(_) => format!("write [[{key}]] with two brackets, or {key} = [ … ]"),
            _ => format!("write {key} = [ … ]"),
        };
        self.fault(value.span().start, what, mend);
        &[]
    }
}

/// A text as far as it is worth repeating in an error.
pub(super) fn short(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {noun}")
}
