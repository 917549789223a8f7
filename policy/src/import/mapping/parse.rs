//! Reads mapping files.
//!
//! Not here: what stands in them (`mapping`).

use std::collections::HashMap;

use super::{
    Absent, ActionPaths, ChainPaths, Comparison, ConditionPaths, DictionaryPaths, EntryPaths,
    GlobalPaths, GroupPaths, Mapping, Named, Paths, RulePaths, Terms, Vocabulary, comparison,
    flags,
};
use crate::import::ImportErrors;
use crate::import::reader::{Reader, Table, document, short};
use crate::import::words::{self, SubjectWord, Words};
use crate::tree::Selector;

const SECTIONS: [&str; 12] = [
    "volatile",
    "informational",
    "globals",
    "dictionary",
    "entry",
    "chain",
    "rule",
    "group",
    "condition",
    "action",
    "absent",
    "words",
];

const WORDS: [&str; 11] = [
    "subject",
    "operator",
    "action",
    "outcome",
    "mode",
    "encoding",
    "applies_to",
    "kind",
    "form",
    "flag",
    "unmanaged_domains",
];

impl Mapping {
    /// Reads a mapping file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ImportErrors> {
        let document = document(text, file_name)?;
        let mut parser = Parser { reader: Reader::new(text, file_name) };
        let mapping = parser.mapping(Table::root(&document));
        parser.reader.faults.or(mapping)
    }
}

struct Parser<'t> {
    reader: Reader<'t>,
}

/// A section that may be missing, and its name.
#[derive(Clone, Copy)]
struct Section<'d> {
    table: Option<Table<'d>>,
    name: &'static str,
}

impl Parser<'_> {
    fn mapping(&mut self, root: Table<'_>) -> Mapping {
        self.reader.known(root, "a mapping", &SECTIONS);
        let top = Section { table: Some(root), name: "a mapping" };
        Mapping {
            volatile: self.ignored(top, "volatile"),
            informational: self.ignored(top, "informational"),
            globals: self.globals(root),
            dictionary: self.dictionary(root),
            entry: self.entry(root),
            chain: self.chain(root),
            rule: self.rule(root),
            group: self.group(root),
            condition: self.condition(root),
            action: self.action(root),
            absent: self.absent(root),
            words: self.words(root),
        }
    }

    fn section<'d>(&mut self, root: Table<'d>, name: &'static str, keys: &[&str]) -> Section<'d> {
        let table = self.reader.table(root, name);
        if let Some(table) = table {
            self.reader.known(table, &format!("[{name}]"), keys);
        }
        Section { table, name }
    }

    /// Paths to values.
    fn paths(&mut self, section: Section<'_>, key: &str) -> Paths {
        let Some(table) = section.table else { return Paths::new() };
        let mut paths = Paths::new();
        for text in self.reader.one_or_more(table, key) {
            match Selector::parse(text.text) {
                Ok(path) => paths.push(path),
                Err(error) => {
                    let mend = "write steps divided by /, as in policy/chain/@name";
                    self.reader.fault(text.at, error.to_string(), mend);
                }
            }
        }
        paths
    }

    /// Paths to elements in which more is looked for.
    fn elements(&mut self, section: Section<'_>, key: &str) -> Paths {
        let paths = self.paths(section, key);
        if let Some(path) = paths.iter().find(|path| !path.is_of_elements()) {
            let at = section.table.map_or(0, |table| table.at_of(key));
            let what = format!("{key} of [{}] finds no elements: {path}", section.name);
            self.reader.fault(at, what, "leave out the last step");
        }
        paths
    }

    /// Paths to what is left out: never for the sake of a name alone, which would leave out all that
    /// is in the element.
    fn ignored(&mut self, section: Section<'_>, key: &str) -> Paths {
        let paths = self.paths(section, key);
        if let Some(path) = paths.iter().find(|path| path.is_of_names()) {
            let at = section.table.map_or(0, |table| table.at_of(key));
            let what = format!("a name cannot be left out: {path}");
            self.reader.fault(at, what, "name the element, an attribute or text()");
        }
        paths
    }

    /// The same where the section says nothing without it.
    fn needed(&mut self, section: Section<'_>, key: &str) {
        if let Some(table) = section.table.filter(|table| !table.has(key)) {
            let what = format!("[{}] has no {key}", section.name);
            self.reader.fault(table.at, what, format!("add {key} = \"…\""));
        }
    }

    fn globals(&mut self, root: Table<'_>) -> GlobalPaths {
        let keys = ["learn_mode", "unmanaged_domains", "managed_domains"];
        let section = self.section(root, "globals", &keys);
        GlobalPaths {
            learn_mode: self.paths(section, "learn_mode"),
            unmanaged_domains: self.paths(section, "unmanaged_domains"),
            managed_domains: self.paths(section, "managed_domains"),
        }
    }

    fn dictionary(&mut self, root: Table<'_>) -> DictionaryPaths {
        let keys = ["at", "name", "id", "kind", "literals", "patterns", "entries"];
        let section = self.section(root, "dictionary", &keys);
        self.needed(section, "at");
        self.needed(section, "name");
        DictionaryPaths {
            at: self.elements(section, "at"),
            name: self.paths(section, "name"),
            id: self.paths(section, "id"),
            kind: self.paths(section, "kind"),
            literals: self.paths(section, "literals"),
            patterns: self.paths(section, "patterns"),
            entries: self.elements(section, "entries"),
        }
    }

    fn entry(&mut self, root: Table<'_>) -> EntryPaths {
        let section = self.section(root, "entry", &["form", "text"]);
        self.needed(section, "text");
        EntryPaths { form: self.paths(section, "form"), text: self.paths(section, "text") }
    }

    fn chain(&mut self, root: Table<'_>) -> ChainPaths {
        let section = self.section(root, "chain", &["at", "name", "id", "applies_to"]);
        self.needed(section, "at");
        self.needed(section, "name");
        ChainPaths {
            at: self.elements(section, "at"),
            name: self.paths(section, "name"),
            id: self.paths(section, "id"),
            applies_to: self.paths(section, "applies_to"),
        }
    }

    fn rule(&mut self, root: Table<'_>) -> RulePaths {
        let keys = ["at", "chain", "order", "name", "enabled", "group", "actions"];
        let section = self.section(root, "rule", &keys);
        self.needed(section, "at");
        self.needed(section, "name");
        RulePaths {
            at: self.elements(section, "at"),
            chain: self.paths(section, "chain"),
            order: self.paths(section, "order"),
            name: self.paths(section, "name"),
            enabled: self.paths(section, "enabled"),
            group: self.elements(section, "group"),
            actions: self.elements(section, "actions"),
        }
    }

    fn group(&mut self, root: Table<'_>) -> GroupPaths {
        let section = self.section(root, "group", &["mode", "conditions", "groups"]);
        GroupPaths {
            mode: self.paths(section, "mode"),
            conditions: self.elements(section, "conditions"),
            groups: self.elements(section, "groups"),
        }
    }

    fn condition(&mut self, root: Table<'_>) -> ConditionPaths {
        let keys = ["subject", "argument", "operator", "value", "negated"];
        let section = self.section(root, "condition", &keys);
        ConditionPaths {
            subject: self.paths(section, "subject"),
            argument: self.paths(section, "argument"),
            operator: self.paths(section, "operator"),
            value: self.paths(section, "value"),
            negated: self.paths(section, "negated"),
        }
    }

    fn action(&mut self, root: Table<'_>) -> ActionPaths {
        let keys = [
            "action",
            "sign",
            "encoding",
            "keys_from",
            "key_not_found",
            "chain",
            "dictionary",
            "text",
            "server",
        ];
        let section = self.section(root, "action", &keys);
        self.needed(section, "action");
        ActionPaths {
            action: self.paths(section, "action"),
            sign: self.paths(section, "sign"),
            encoding: self.paths(section, "encoding"),
            keys_from: self.paths(section, "keys_from"),
            key_not_found: self.paths(section, "key_not_found"),
            chain: self.paths(section, "chain"),
            dictionary: self.paths(section, "dictionary"),
            text: self.paths(section, "text"),
            server: self.paths(section, "server"),
        }
    }

    fn absent(&mut self, root: Table<'_>) -> Absent {
        let keys = ["enabled", "mode", "applies_to", "kind", "form", "sign", "encoding"];
        let section = self.section(root, "absent", &keys);
        let table = section.table.unwrap_or(Table::EMPTY);
        Absent {
            enabled: self.reader.boolean(table, "enabled"),
            mode: self.reader.word(table, "mode", &words::modes()),
            applies_to: self.reader.word(table, "applies_to", &words::applies_to()),
            kind: self.reader.word(table, "kind", &words::kinds()),
            form: self.reader.word(table, "form", &words::forms()),
            sign: self.reader.boolean(table, "sign"),
            encoding: self.reader.word(table, "encoding", &words::encodings()),
        }
    }

    fn words(&mut self, root: Table<'_>) -> Vocabulary {
        let section = self.section(root, "words", &WORDS);
        let table = section.table.unwrap_or(Table::EMPTY);
        Vocabulary {
            subjects: self.subjects(table),
            operators: self.operators(table),
            verbs: self.terms(table, "action", words::verbs()),
            outcomes: self.terms(table, "outcome", words::outcomes()),
            modes: self.terms(table, "mode", words::modes()),
            encodings: self.terms(table, "encoding", words::encodings()),
            applies_to: self.terms(table, "applies_to", words::applies_to()),
            kinds: self.terms(table, "kind", words::kinds()),
            forms: self.terms(table, "form", words::forms()),
            flags: self.flags(table),
            unmanaged: self.terms(table, "unmanaged_domains", words::unmanaged()),
        }
    }

    fn terms<T: Clone>(&mut self, table: Table<'_>, key: &str, own: Words<T>) -> Terms<T> {
        let mut foreign = HashMap::new();
        let table = self.reader.table(table, key).unwrap_or(Table::EMPTY);
        for word in table.keys() {
            if let Some(meaning) = self.reader.word(table, word.text, &own) {
                foreign.insert(word.text.to_owned(), meaning);
            }
        }
        Terms { foreign, own }
    }

    fn flags(&mut self, table: Table<'_>) -> Terms<bool> {
        let mut foreign = HashMap::new();
        let table = self.reader.table(table, "flag").unwrap_or(Table::EMPTY);
        for word in table.keys() {
            if let Some(meaning) = self.reader.boolean(table, word.text) {
                foreign.insert(word.text.to_owned(), meaning);
            }
        }
        Terms { foreign, own: flags() }
    }

    fn subjects(&mut self, table: Table<'_>) -> HashMap<String, Named> {
        let mut subjects = HashMap::new();
        let table = self.reader.table(table, "subject").unwrap_or(Table::EMPTY);
        for word in table.keys() {
            let Some(typed) = self.reader.text(table, word.text) else { continue };
            let (name, argument) = match typed.text.split_once(':') {
                Some((name, argument)) => (name, Some(argument.trim())),
                None => (typed.text, None),
            };
            let (what, mend) = match words::subject(name, argument) {
                SubjectWord::Known(_) | SubjectWord::NeedsArgument => {
                    let argument = argument.map(str::to_owned);
                    subjects
                        .insert(word.text.to_owned(), Named { name: name.to_owned(), argument });
                    continue;
                }
                SubjectWord::HasNoArgument => {
                    ("has no argument", "take the colon and the argument out".to_owned())
                }
                SubjectWord::Unknown => ("is no subject", words::mend(name, &words::subjects())),
            };
            self.reader.fault(typed.at, format!("{:?} {what}", short(name)), mend);
        }
        subjects
    }

    fn operators(&mut self, table: Table<'_>) -> HashMap<String, Comparison> {
        let mut operators = HashMap::new();
        let table = self.reader.table(table, "operator").unwrap_or(Table::EMPTY);
        for word in table.keys() {
            let Some(typed) = self.reader.text(table, word.text) else { continue };
            if let Some(comparison) = comparison(typed.text) {
                operators.insert(word.text.to_owned(), comparison);
                continue;
            }
            let names = words::names(&words::operators());
            let mend = format!("{}; each also behind \"not \"", words::mend(typed.text, &names));
            let what = format!("{:?} is no operator", short(typed.text));
            self.reader.fault(typed.at, what, mend);
        }
        operators
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::condition::Subject;
    use crate::import::words::Verb;
    use crate::sample::Variable;

    fn told(text: &str) -> String {
        Mapping::parse(text, "m.toml").unwrap_err().to_string()
    }

    /// The example in the head of this file.
    fn documented() -> String {
        let lines = include_str!("mod.rs").lines().skip_while(|line| *line != "//! ```toml");
        let lines = lines.skip(1).take_while(|line| *line != "//! ```");
        lines.map(|line| format!("{}\n", line.trim_start_matches("//!"))).collect()
    }

    #[test]
    fn the_documented_example_is_a_mapping() {
        let mapping = Mapping::parse(&documented(), "m.toml").unwrap();
        assert_eq!(mapping.volatile().len(), 2);
        let words = &mapping.words;
        assert_eq!(
            words.subject("recipientAddress", None),
            Some(Subject::Whole(Variable::Recipient))
        );
        assert_eq!(words.subject("recipientAddress", Some("x")), None);
        let header = Some(Subject::Whole(Variable::header("X-Secret")));
        assert_eq!(words.subject("secretHeader", None), header);
        assert_eq!(words.subject("secretHeader", Some("X-Other")), None);
        assert_eq!(words.subject("message header", Some("x-secret")), header);
        assert!(words.operator("differs").unwrap().negated);
        assert!(!words.operator("is in dictionary").unwrap().negated);
        assert!(words.operator("inDictionaries").is_none());
        assert_eq!(words.verbs.find("signAndSend"), Some(Verb::Sign));
        assert_eq!(words.outcome("signAndSend"), Some(Verb::Sign));
        assert!(words.outcome("clear").is_some() && words.verbs.find("clear").is_none());
        assert_eq!(words.flags.find("active"), Some(true));
        assert_eq!(words.flags.find("OFF"), Some(false));
    }

    #[test]
    fn an_empty_mapping_maps_nothing() {
        let mapping = Mapping::parse("", "m.toml").unwrap();
        assert!(mapping.chain.at.is_empty() && mapping.absent.enabled.is_none());
    }

    #[test]
    fn every_slip_has_its_place_and_its_mend() {
        let cases = [
            (
                "volatil = []",
                "m.toml:1:1: a mapping has no key \"volatil\"; did you mean \"volatile\"?",
            ),
            ("volatile = [\"a//b\"]", "m.toml:1:13: a path has an empty step; write steps"),
            ("volatile = [\"a/name()\"]", "m.toml:1:12: a name cannot be left out: a/name()"),
            ("[chain]\nname = \"@n\"", "m.toml:1:1: [chain] has no at; add at"),
            ("[chain]\nat = \"a/@b\"\nname = \"@n\"", "at of [chain] finds no elements: a/@b"),
            ("[rule]\nat = 1\nname = \"@n\"", "m.toml:2:6: at is a text, or a list of texts"),
            ("[absent]\nmode = \"some\"", "m.toml:2:8: mode is not known: \"some\"; did you mean"),
            ("[words.subject]\na = \"recipient\"", "m.toml:2:5: \"recipient\" is no subject"),
            ("[words.subject]\na = \"message size: b\"", "\"message size\" has no argument"),
            ("[words.operator]\na = \"iss\"", "\"iss\" is no operator; did you mean \"is\"?"),
            ("[words.action]\na = \"bounc\"", "did you mean \"bounce\"?"),
            ("[words.flag]\na = \"yes\"", "a is true or false, not a string"),
            ("[words.verb]\na = \"yes\"", "[words] has no key \"verb\""),
        ];
        for (text, expected) in cases {
            let told = told(text);
            assert!(told.contains(expected), "{text}: {told}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_mapping_panic(
            start in 0_usize..3000, length in 0_usize..60, put in "[\\[\\]{}=\",a-z@*/. \n€]{0,8}",
        ) {
            let mut text: Vec<char> = documented().chars().collect();
            let start = start.min(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, put.chars());
            Mapping::parse(&text.into_iter().collect::<String>(), "m.toml").ok();
        }
    }
}
