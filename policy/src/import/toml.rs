//! Policies that are typed by hand, as TOML.
//!
//! A file says what the server's pages for mail policy show, in the server's words. Nothing is taken
//! for granted that changes what becomes of mail: a setting that is left out is not known, and what
//! an action must say is asked for.
//!
//! ```toml
//! # What is set outside of chains; what is left out is not known.
//! [globals]
//! learn_mode = false
//! unmanaged_domains = "pass through unmodified"   # or "bounce"
//! managed_domains = ["example.com"]               # the dictionary "Managed Domains"
//!
//! [[dictionary]]
//! name = "Excluded Addresses: Sign"
//! kind = "static"                    # default; or "dynamic"
//! literals = ["news@example.org"]    # exactly these characters
//! patterns = ["r.*@example.com"]     # regular expressions
//! list = "excluded.txt"              # more entries, one a line: see below
//!
//! [[chain]]
//! name = "Outbound"
//! applies_to = "server and client"   # default; or "server only", "client only"
//!
//! [[chain.rule]]                     # rules of the chain above, in order
//! name = "Excluded Signed"
//! enabled = true                     # default
//! match = "any"                      # of the conditions: "all" (default), "any", "none"
//! conditions = [                     # left out: the rule matches always
//!   { subject = "recipient address", is_in_dictionary = "Excluded Addresses: Sign" },
//!   { subject = "message header", argument = "X-Secret", is = "yes" },
//!   { not = true, subject = "recipient domain", is = "example.com" },
//!   { all = [                        # a group within: all, any or none of its conditions
//!     { subject = "message size", is_greater_than = 1000000 },
//!     { subject = "sender address", ends_with = "@example.com" },
//!   ] },
//! ]
//! actions = [
//!   { action = "add log entry", text = "x" },
//!   { action = "sign and send", encoding = "PGP/MIME" },
//! ]
//! ```
//!
//! Subjects: `recipient address`, `recipient domain`, `sender address`, `sender domain`,
//! `message subject`, `message header` (its name is the `argument`), `message size`, and the others
//! that an error lists. A condition has one operator: `is`, `contains`, `begins_with`, `ends_with`,
//! `matches_pattern`, `is_subdomain_of`, `is_in_dictionary`; of numbers `is`, `is_greater_than`,
//! `is_less_than`.
//!
//! | action | keys |
//! |---|---|
//! | `send (encrypted/signed)` | `sign`, `key_not_found`; `encoding`, `keys_from` (left out: wherever the server looks) |
//! | `sign and send`, `send clear (signed)` | `encoding` |
//! | `send clear (unsigned)`, `pass through unmodified`, `bounce`, `drop`, `decrypt and verify`, `PDF Messenger`, `PDF Messenger (Encrypt All)`, `Web Messenger`, `Smart Trailer`, `Certified Delivery`, `expand mailing list and restart` | |
//! | `go to chain` | `chain` |
//! | `add to dictionary` | `dictionary` |
//! | `add log entry` | `text` |
//! | `send copy` | `server` |
//!
//! `key_not_found` is any action that ends: `bounce`, `send clear (signed)`, and so on. `encoding` is
//! `Automatic` (default), `PGP Partitioned`, `PGP/MIME` or `S/MIME`. Letter case of these words does
//! not matter; names of chains, dictionaries and rules are compared exactly.
//!
//! A `list` is a text file beside the policy with one entry a line: `news@example.org`, or
//! `pattern: r.*@example.com`; lines that begin with `#` are comments.
//!
//! Invariants
//! - Names of chains and dictionaries are unique, and those of rules in their chain: findings and
//!   logs name a rule by them.
//! - A dictionary or a chain that is named and not there is no error here: the server may lack it
//!   too, and then that is a finding.
//!
//! Not here: positions and types of values (`reader`), the lists of words (`words`).

use std::collections::HashSet;

use super::reader::{Reader, Table, Text, document, short};
use super::words::{self, SubjectWord, Verb};
use super::{ImportErrors, list};
use crate::action::{Action, Effect, Encoding, Outcome, Send};
use crate::chain::{Chain, Rule};
use crate::condition::{Condition, Mode, Operator, Subject, Test};
use crate::dictionary::{Dictionary, Entry, Form, Kind};
use crate::sample::Shape;
use crate::set::{Globals, MANAGED_DOMAINS, PolicySet, Stated};

/// Groups of conditions within each other.
const GROUPS_DEEP_MAX: usize = 32;

const GLOBALS: [&str; 3] = ["learn_mode", "unmanaged_domains", "managed_domains"];
const DICTIONARY: [&str; 5] = ["name", "kind", "literals", "patterns", "list"];
const CHAIN: [&str; 3] = ["name", "applies_to", "rule"];
const RULE: [&str; 5] = ["name", "enabled", "match", "conditions", "actions"];
const CONDITION: [&str; 3] = ["subject", "argument", "not"];

/// Reads a policy; lists are asked for by their names.
pub(super) fn read(
    text: &str,
    file: &str,
    lists: &dyn Fn(&str) -> Result<String, String>,
) -> Result<PolicySet, ImportErrors> {
    let document = document(text, file)?;
    let mut import = Import::new(text, file, lists);
    let set = import.set(Table::root(&document));
    import.reader.faults.or(set)
}

/// Reads what stands in a typed file.
pub(super) struct Import<'a> {
    pub(super) reader: Reader<'a>,
    lists: &'a dyn Fn(&str) -> Result<String, String>,
}

impl<'a> Import<'a> {
    pub(super) fn new(
        text: &'a str,
        file: &str,
        lists: &'a dyn Fn(&str) -> Result<String, String>,
    ) -> Self {
        Self { reader: Reader::new(text, file), lists }
    }

    fn set(&mut self, root: Table<'_>) -> PolicySet {
        let mut set = PolicySet::empty(self.reader.file().clone());
        self.reader.known(root, "a policy", &["globals", "dictionary", "chain"]);
        if let Some(globals) = self.reader.table(root, "globals") {
            set.globals = self.globals(globals);
            set.dictionaries.extend(self.managed_domains(globals));
        }
        let names = set.dictionaries.iter().map(|dictionary| dictionary.name.clone()).collect();
        set.dictionaries.extend(self.dictionaries(root, names));
        let mut names = HashSet::new();
        for table in self.reader.tables(root, "chain") {
            let name = self.name(table, "a chain", &mut names);
            set.chains.push(self.chain(table, name));
        }
        set
    }

    /// The dictionaries of a file, none of them of a name that is taken.
    pub(super) fn dictionaries(
        &mut self,
        root: Table<'_>,
        mut taken: HashSet<String>,
    ) -> Vec<Dictionary> {
        let mut dictionaries = Vec::new();
        for table in self.reader.tables(root, "dictionary") {
            let name = self.name(table, "a dictionary", &mut taken);
            dictionaries.push(self.dictionary(table, name));
        }
        dictionaries
    }

    /// The name of a thing, which no other of its kind has.
    fn name(&mut self, table: Table<'_>, of: &str, taken: &mut HashSet<String>) -> String {
        let Some(name) = self.reader.needed_text(table, "name", of) else {
            return String::new();
        };
        if !taken.insert(name.text.to_owned()) {
            let what = format!("the name {:?} is given twice", short(name.text));
            self.reader.fault(name.at, what, format!("give {of} a name of its own"));
        }
        name.text.to_owned()
    }

    fn globals(&mut self, table: Table<'_>) -> Globals {
        self.reader.known(table, "[globals]", &GLOBALS);
        let learn_mode = self.reader.boolean(table, "learn_mode");
        let unmanaged = self.reader.word(table, "unmanaged_domains", &words::unmanaged());
        Globals {
            learn_mode: learn_mode.map_or(Stated::No, Stated::Yes),
            unmanaged: unmanaged.map_or(Stated::No, Stated::Yes),
        }
    }

    fn managed_domains(&mut self, table: Table<'_>) -> Option<Dictionary> {
        let entries = self.entries(table, "managed_domains", Form::Literal);
        table.has("managed_domains").then(|| Dictionary {
            name: MANAGED_DOMAINS.to_owned(),
            kind: Kind::Dynamic,
            entries,
            origin: self.reader.origin(table.at),
        })
    }

    fn dictionary(&mut self, table: Table<'_>, name: String) -> Dictionary {
        self.reader.known(table, "a dictionary", &DICTIONARY);
        let mut entries = self.entries(table, "literals", Form::Literal);
        entries.extend(self.entries(table, "patterns", Form::Pattern));
        if let Some(list) = self.reader.text(table, "list") {
            entries.extend(self.list(list));
        }
        Dictionary {
            name,
            kind: self.reader.word(table, "kind", &words::kinds()).unwrap_or_default(),
            entries,
            origin: self.reader.origin(table.at),
        }
    }

    fn entries(&mut self, table: Table<'_>, key: &str, form: Form) -> Vec<Entry> {
        let mut entries = Vec::new();
        for Text { text, at } in self.reader.texts(table, key) {
            if text.trim().is_empty() {
                self.reader.fault(at, format!("an entry of {key} is empty"), "take it out");
            }
            let origin = self.reader.origin(at);
            entries.push(Entry { form, text: text.trim().to_owned(), origin });
        }
        entries
    }

    fn list(&mut self, name: Text<'_>) -> Vec<Entry> {
        let content = match (self.lists)(name.text) {
            Ok(content) => content,
            Err(why) => {
                let what = format!("the list {:?} cannot be read: {why}", short(name.text));
                let mend = "put it beside the policy, or write its entries as literals = [ … ]";
                self.reader.fault(name.at, what, mend);
                return Vec::new();
            }
        };
        list::read(&content, name.text).unwrap_or_else(|errors| {
            self.reader.faults.add_all(errors);
            Vec::new()
        })
    }

    fn chain(&mut self, table: Table<'_>, name: String) -> Chain {
        self.reader.known(table, "a chain", &CHAIN);
        let mut names = HashSet::new();
        let mut rules = Vec::new();
        for rule in self.reader.tables(table, "rule") {
            let name = self.name(rule, "a rule", &mut names);
            rules.push(self.rule(rule, name));
        }
        let applies_to = self.reader.word(table, "applies_to", &words::applies_to());
        Chain {
            name,
            applies_to: applies_to.unwrap_or_default(),
            rules,
            origin: self.reader.origin(table.at),
        }
    }

    fn rule(&mut self, table: Table<'_>, name: String) -> Rule {
        self.reader.known(table, "a rule", &RULE);
        if !table.has("actions") {
            let mend = "add actions = [ … ], or actions = [] if the server shows none";
            self.reader.fault(table.at, "a rule has no actions", mend);
        }
        let actions = self.reader.tables(table, "actions");
        Rule {
            name,
            enabled: self.reader.boolean(table, "enabled").unwrap_or(true),
            test: self.rule_test(table),
            actions: actions.into_iter().filter_map(|action| self.action(action)).collect(),
            origin: self.reader.origin(table.at),
        }
    }

    /// When a rule matches, or a route.
    pub(super) fn rule_test(&mut self, table: Table<'_>) -> Test {
        let mode = self.reader.word(table, "match", &words::modes()).unwrap_or(Mode::All);
        let items = self.tests(table, "conditions", 0);
        if items.is_empty() && mode != Mode::All {
            let what = format!("{} of no conditions is asked for", mode.as_str());
            let mend = "add conditions, or leave match out for what matches always";
            self.reader.fault(table.at, what, mend);
        }
        Test::Group { mode, items }
    }

    fn tests(&mut self, table: Table<'_>, key: &str, depth: usize) -> Vec<Test> {
        let tables = self.reader.tables(table, key);
        tables.into_iter().filter_map(|item| self.test(item, depth)).collect()
    }

    /// A condition, or a group of them; none where it is wrong.
    fn test(&mut self, table: Table<'_>, depth: usize) -> Option<Test> {
        let modes = words::modes();
        let Some((key, mode)) = modes.into_iter().find(|(key, _)| table.has(key)) else {
            return self.condition(table).map(Test::Condition);
        };
        self.reader.known(table, "a group of conditions", &[key]);
        if depth == GROUPS_DEEP_MAX {
            let what = format!("groups are more than {GROUPS_DEEP_MAX} deep");
            self.reader.fault(table.at, what, "write it flatter");
            return None;
        }
        let items = self.tests(table, key, depth + 1);
        if items.is_empty() {
            self.reader.fault(table.at, "this group has no conditions", "add some, or take it out");
        }
        Some(Test::Group { mode, items })
    }

    fn condition(&mut self, table: Table<'_>) -> Option<Condition> {
        let operators = words::operators();
        let keys: Vec<&str> = CONDITION.into_iter().chain(words::names(&operators)).collect();
        self.reader.known(table, "a condition", &keys);
        let negated = self.reader.boolean(table, "not").unwrap_or(false);
        let subject = self.subject(table);
        let operator = self.operator(table);
        let (subject, operator) = (subject?, operator?);
        self.fits(table, &subject, &operator);
        let origin = self.reader.origin(table.at);
        Some(Condition { subject, negated, operator, origin })
    }

    fn subject(&mut self, table: Table<'_>) -> Option<Subject> {
        let typed = self.reader.needed_text(table, "subject", "a condition")?;
        let argument = self.reader.text(table, "argument");
        let name = short(typed.text);
        let (what, mend) = match words::subject(typed.text, argument.map(|text| text.text)) {
            SubjectWord::Known(subject) => return Some(subject),
            SubjectWord::NeedsArgument => {
                (format!("{name} needs an argument"), "add argument = \"…\"".to_owned())
            }
            SubjectWord::HasNoArgument => {
                (format!("{name} has no argument"), "take the argument out".to_owned())
            }
            SubjectWord::Unknown => {
                let mend = words::mend(typed.text, &words::subjects());
                (format!("subject is not known: {name:?}"), mend)
            }
        };
        self.reader.fault(typed.at, what, mend);
        None
    }

    fn operator(&mut self, table: Table<'_>) -> Option<Operator> {
        let mut operators = words::operators();
        operators.retain(|(key, _)| table.has(key));
        let names = words::names(&operators);
        let [(key, compare)] = operators.as_slice() else {
            let all = words::names(&words::operators()).join(", ");
            let (what, mend) = match names.as_slice() {
                [] => ("a condition has no operator".to_owned(), format!("add one of: {all}")),
                two => {
                    let what = format!("a condition has several operators: {}", two.join(", "));
                    (what, "make a condition of each; match says how many must hold".to_owned())
                }
            };
            self.reader.fault(table.at, what, mend);
            return None;
        };
        let (value, at) = self.reader.scalar(table, key)?;
        let operator = compare(&value);
        if operator.is_none() {
            let what = format!("{key} compares with a number, not {:?}", short(&value));
            self.reader.fault(at, what, format!("write a number from 0 to {}", u64::MAX));
        }
        operator
    }

    /// Numbers are compared as numbers, and texts as texts: a slip here would make a condition that
    /// nobody understands.
    fn fits(&mut self, table: Table<'_>, subject: &Subject, operator: &Operator) {
        let number = subject.variable().shape() == Shape::Number;
        let fits = match operator {
            Operator::IsGreaterThan(_) | Operator::IsLessThan(_) => number,
            Operator::Is(text) => !number || text.parse::<u64>().is_ok(),
            _ => !number,
        };
        if !fits {
            let (kind, mend) = match number {
                true => ("a number", "compare it by is, is_greater_than or is_less_than"),
                false => ("no number", "compare it by another operator"),
            };
            let what = format!("{subject} is {kind}, and {operator} does not fit it");
            self.reader.fault(table.at, what, mend);
        }
    }

    fn action(&mut self, table: Table<'_>) -> Option<Action> {
        const OF: &str = "an action";
        let name = self.reader.needed_text(table, "action", OF)?;
        let verb = self.reader.word(table, "action", &words::verbs())?;
        let of = format!("the action {:?}", short(name.text));
        self.reader.known(table, &of, keys(&verb));
        let text = |import: &mut Self, key: &str| {
            import.reader.needed_text(table, key, &of).map(|text| text.text.to_owned())
        };
        Some(match verb {
            Verb::Send => Action::Send(self.send(table, &of)?),
            Verb::Sign => Action::Finish(Outcome::Signed(self.encoding(table))),
            Verb::Finish(outcome) => Action::Finish(outcome),
            Verb::GoTo => Action::GoTo(text(self, "chain")?),
            Verb::AddTo => Action::Effect(Effect::AddTo { dictionary: text(self, "dictionary")? }),
            Verb::Log => Action::Effect(Effect::Log { text: text(self, "text")? }),
            Verb::Copy => Action::Effect(Effect::Copy { server: text(self, "server")? }),
        })
    }

    fn encoding(&mut self, table: Table<'_>) -> Encoding {
        self.reader.word(table, "encoding", &words::encodings()).unwrap_or_default()
    }

    fn send(&mut self, table: Table<'_>, of: &str) -> Option<Send> {
        let encoding = self.encoding(table);
        let search = self.reader.texts(table, "keys_from");
        let search = search.into_iter().map(|place| place.text.trim().to_owned()).collect();
        if !table.has("sign") {
            self.reader.fault(
                table.at,
                format!("{of} does not say sign"),
                "add sign = true or false",
            );
        }
        if !table.has("key_not_found") {
            let all = words::names(&words::outcomes()).join(", ");
            let mend = format!("add key_not_found = one of: {all}");
            self.reader.fault(table.at, format!("{of} does not say key_not_found"), mend);
        }
        let sign = self.reader.boolean(table, "sign");
        let otherwise = self.reader.word(table, "key_not_found", &words::outcomes());
        let key_not_found = words::outcome(otherwise?, encoding)?;
        Some(Send { sign: sign?, encoding, search, key_not_found })
    }
}

/// The keys that go with a verb.
const fn keys(verb: &Verb) -> &'static [&'static str] {
    match verb {
        Verb::Send => &["action", "sign", "encoding", "keys_from", "key_not_found"],
        Verb::Sign => &["action", "encoding"],
        Verb::Finish(_) => &["action"],
        Verb::GoTo => &["action", "chain"],
        Verb::AddTo => &["action", "dictionary"],
        Verb::Log => &["action", "text"],
        Verb::Copy => &["action", "server"],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::origin::Origin;
    use crate::set::Unmanaged;

    fn lists(name: &str) -> Result<String, String> {
        match name {
            "excluded.txt" => Ok("a@example.org\npattern: b.*".to_owned()),
            "bad.txt" => Ok("ok\npattern:".to_owned()),
            _ => Err("there is no such file".to_owned()),
        }
    }

    fn told(text: &str) -> String {
        read(text, "p.toml", &lists).unwrap_err().to_string()
    }

    fn rule(text: &str) -> String {
        format!("[[chain]]\nname = \"A\"\n[[chain.rule]]\nname = \"R\"\n{text}\n")
    }

    /// The example in the head of this file.
    fn documented() -> String {
        let lines = include_str!("toml.rs").lines().skip_while(|line| *line != "//! ```toml");
        let lines = lines.skip(1).take_while(|line| *line != "//! ```");
        lines.map(|line| format!("{}\n", line.trim_start_matches("//!"))).collect()
    }

    #[test]
    fn the_documented_example_is_what_it_says() {
        let set = read(&documented(), "p.toml", &lists).unwrap();
        assert_eq!(set.globals.learn_mode, Stated::Yes(false));
        assert_eq!(set.globals.unmanaged, Stated::Yes(Unmanaged::PassUnmodified));
        let managed = set.dictionary(MANAGED_DOMAINS).unwrap();
        assert_eq!((managed.kind, managed.entries.len()), (Kind::Dynamic, 1));
        let excluded = set.dictionary("Excluded Addresses: Sign").unwrap();
        let entries = excluded.entries.iter();
        let entries: Vec<_> = entries.map(|entry| (entry.form.as_str(), &*entry.text)).collect();
        let expected = [
            ("literal", "news@example.org"),
            ("pattern", "r.*@example.com"),
            ("literal", "a@example.org"),
            ("pattern", "b.*"),
        ];
        assert_eq!(entries, expected);
        let rule = &set.chain("Outbound").unwrap().rules[0];
        let test = "any of (recipient address is in dictionary \"Excluded Addresses: Sign\"; \
                    message header: x-secret is \"yes\"; \
                    not: recipient domain is \"example.com\"; \
                    all of (message size is greater than 1000000; \
                    sender address ends with \"@example.com\"))";
        assert_eq!(rule.test.to_string(), test);
        let actions: Vec<String> = rule.actions.iter().map(ToString::to_string).collect();
        assert_eq!(actions, ["add log entry \"x\"", "send clear (signed, PGP/MIME)"]);
        assert_eq!(rule.origin.to_string(), "p.toml:18:2");
        assert_eq!(excluded.entries[3].origin.to_string(), "excluded.txt:2:1");
    }

    #[test]
    fn what_is_left_out_of_the_globals_is_not_known() {
        let set = read("", "p.toml", &lists).unwrap();
        assert_eq!(set, PolicySet::empty(Origin::of("p.toml")));
        assert_eq!(set.globals.learn_mode, Stated::No);
    }

    #[test]
    fn every_action_is_understood() {
        for (word, verb) in words::verbs() {
            let values = "sign = true, key_not_found = \"bounce\", encoding = \"S/MIME\", \
                          chain = \"B\", dictionary = \"D\", text = \"T\", server = \"S\"";
            let fitting = values
                .split(", ")
                .filter(|value| keys(&verb).contains(&value.split(' ').next().unwrap()));
            let fitting: String = fitting.map(|value| format!(", {value}")).collect();
            let text = rule(&format!("actions = [ {{ action = {word:?}{fitting} }} ]"));
            let set = read(&text, "p.toml", &lists).unwrap();
            assert_eq!(set.chains[0].rules[0].actions.len(), 1, "{word}");
        }
    }

    #[test]
    fn a_signed_fallback_is_wrapped_as_the_message_would_have_been() {
        let send = "{ action = \"Send (encrypted/signed)\", sign = false, encoding = \"pgp/mime\", \
                    keys_from = [\"local\"], key_not_found = \"Send clear (signed)\" }";
        let set = read(&rule(&format!("actions = [{send}]")), "p.toml", &lists).unwrap();
        let expected = Action::Send(Send {
            sign: false,
            encoding: Encoding::PgpMime,
            search: vec!["local".to_owned()],
            key_not_found: Outcome::Signed(Encoding::PgpMime),
        });
        assert_eq!(set.chains[0].rules[0].actions, [expected]);
    }

    #[test]
    fn the_golden_policy_is_read() {
        let golden = include_str!("../../samples/default-3.3.toml");
        let set = read(golden, "default-3.3.toml", &lists).unwrap();
        let chains = set.chains.iter().map(|chain| format!("{} {}", chain.name, chain.rules.len()));
        let chains: Vec<String> = chains.collect();
        assert_eq!(chains, ["Default 2", "Inbound 1", "Outbound 4", "Exception 1"]);
        assert_eq!(set.dictionaries.len(), 4);
        let excluded = &set.chain("Outbound").unwrap().rules[0];
        assert_eq!(
            excluded.test.to_string(),
            "any of (recipient address is in dictionary \"Excluded Addresses: Sign\")"
        );
        assert_eq!(excluded.actions, [Action::Finish(Outcome::Signed(Encoding::Automatic))]);
    }

    /// Goal: whatever is mistyped is named with its place and its mend.
    #[test]
    fn every_slip_has_its_place_and_its_mend() {
        let cases = [
            ("[global]", "p.toml:1:2: a policy has no key \"global\"; did you mean \"globals\"?"),
            ("globals = 1", "p.toml:1:11: globals is a table, not an integer; write [globals]"),
            ("[chain]\nname = \"A\"", "chain is a list, not a table; write [[chain]] with two"),
            ("[[chain]]\n", "p.toml:1:1: a chain has no name; add name = "),
            ("[[chain]]\nname = \" \"", "p.toml:2:8: name of a chain is empty"),
            ("[[dictionary]]\nname = 7", "p.toml:2:8: name is a text, not an integer"),
            (
                "[globals]\nunmanaged_domains = \"bouncing\"",
                "p.toml:2:21: unmanaged_domains is not known: \"bouncing\"; did you mean \"bounce\"?",
            ),
            ("[globals]\nlearn_mode = \"no\"", "p.toml:2:14: learn_mode is true or false, not a"),
            ("[[dictionary]]\nname = \"D\"\nkind = \"x\"", "use one of: static, dynamic"),
            ("[[dictionary]]\nname = \"D\"\nliterals = [1]", "p.toml:3:13: literals is a list of"),
            ("[[dictionary]]\nname = \"D\"\nlist = \"x\"", "\"x\" cannot be read: there is no"),
            ("[[dictionary]]\nname = \"D\"\nlist = \"bad.txt\"", "bad.txt:2:1: this pattern is"),
            ("a = 1\na = 2", "p.toml:2:1: this is no TOML: duplicate key"),
            ("a = ", "p.toml:1:"),
        ];
        for (text, expected) in cases {
            let told = told(text);
            assert!(told.contains(expected), "{text}: {told}");
        }
    }

    #[test]
    fn every_slip_in_a_rule_has_its_place_and_its_mend() {
        let cases = [
            ("", "p.toml:3:1: a rule has no actions; add actions"),
            ("match = \"any\"", "any of no conditions is asked for; add conditions"),
            ("conditions = [ {} ]", "a condition has no subject; add subject"),
            ("conditions = [ {} ]", "a condition has no operator; add one of: is, contains"),
            (
                "conditions = [ { subject = \"recipient adress\", is = \"a\" } ]",
                "p.toml:5:28: subject is not known: \"recipient adress\"; did you mean \"recipient address\"?",
            ),
            (
                "conditions = [ { subject = \"message header\", is = \"a\" } ]",
                "message header needs an argument; add argument",
            ),
            (
                "conditions = [ { subject = \"message size\", argument = \"a\", is = 1 } ]",
                "message size has no argument; take",
            ),
            (
                "conditions = [ { subject = \"sender address\", is = \"a\", contains = \"b\" } ]",
                "a condition has several operators: is, contains; make a condition of each",
            ),
            (
                "conditions = [ { subject = \"sender address\", begin_with = \"a\" } ]",
                "p.toml:5:46: a condition has no key \"begin_with\"; did you mean \"begins_with\"?",
            ),
            (
                "conditions = [ { subject = \"message size\", is_less_than = \"a\" } ]",
                "is_less_than compares with a number, not \"a\"",
            ),
            (
                "conditions = [ { subject = \"message size\", is_less_than = -1 } ]",
                "is_less_than is out of range: -1",
            ),
            (
                "conditions = [ { subject = \"message size\", contains = \"1\" } ]",
                "message size is a number, and contains \"1\" does not fit it",
            ),
            (
                "conditions = [ { subject = \"sender address\", is_less_than = 1 } ]",
                "sender address is no number, and is less than 1 does not fit it",
            ),
            ("conditions = [ { any = [] } ]", "this group has no conditions"),
            (
                "conditions = [ { any = [], not = true } ]",
                "a group of conditions has no key \"not\"",
            ),
            ("actions = [ { action = \"bouncy\" } ]", "did you mean \"bounce\"?"),
            (
                "actions = [ { action = \"go to chain\" } ]",
                "the action \"go to chain\" has no chain",
            ),
            (
                "actions = [ { action = \"drop\", text = \"a\" } ]",
                "has no key \"text\"; use one of: action",
            ),
            ("actions = [ { action = \"send (encrypted/signed)\" } ]", "does not say sign; add"),
            (
                "actions = [ { action = \"send (encrypted/signed)\" } ]",
                "does not say key_not_found",
            ),
            (
                "actions = [ \"bounce\" ]",
                "p.toml:5:13: actions is a list of tables, and this is a string",
            ),
        ];
        for (text, expected) in cases {
            let told = told(&rule(text));
            assert!(told.contains(expected), "{text}: {told}");
        }
    }

    #[test]
    fn names_that_are_given_twice_are_refused() {
        let chain = "[[chain]]\nname = \"A\"\n";
        assert!(told(&chain.repeat(2)).starts_with("p.toml:4:8: the name \"A\" is given twice"));
        let dictionary = "[[dictionary]]\nname = \"Managed Domains\"\n";
        assert!(told(&dictionary.repeat(2)).starts_with("p.toml:4:8: the name"));
        let both = format!("globals.managed_domains = []\n{dictionary}");
        assert!(told(&both).starts_with("p.toml:3:8: the name \"Managed Domains\" is given twice"));
        let twice = "[[chain.rule]]\nname = \"R\"\nactions = []\n";
        let text = format!("{}{twice}", rule("actions = []"));
        assert!(told(&text).starts_with("p.toml:7:8: the name \"R\" is given twice"));
    }

    #[test]
    fn what_is_named_and_not_there_is_left_to_the_findings() {
        let text = rule(
            "conditions = [ { subject = \"sender address\", is_in_dictionary = \"X\" } ]\n\
             actions = [ { action = \"go to chain\", chain = \"Y\" } ]",
        );
        assert!(read(&text, "p.toml", &lists).is_ok());
    }

    #[test]
    fn all_errors_are_told_in_the_order_of_the_file() {
        let text = format!("{}[zoo]\n[globals]\nlearn = true\n", rule("enabled = 1\nactons = []"));
        let errors = read(&text, "p.toml", &lists).unwrap_err();
        let lines: Vec<u32> = errors.errors().iter().map(|error| error.origin.line).collect();
        assert_eq!(lines, [3, 5, 6, 7, 9], "{errors}");
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| {
            let condition = "{ subject = \"sender address\", is = \"a\" }";
            let (open, close) = ("{ any = [ ".repeat(depth), " ] }".repeat(depth));
            rule(&format!("conditions = [ {open}{condition}{close} ]\nactions = []"))
        };
        assert!(read(&nested(GROUPS_DEEP_MAX), "p.toml", &lists).is_ok());
        assert!(told(&nested(GROUPS_DEEP_MAX + 1)).contains("more than 32 deep"));
        assert!(read(&nested(100_000), "p.toml", &lists).is_err());
    }

    proptest! {
        /// Method: the documented example with parts of it cut out, doubled or replaced, so that it
        /// goes wrong in all places, and text that is no TOML at all.
        #[test]
        fn no_text_makes_the_import_panic(
            cuts in prop::collection::vec((0_usize..2000, 0_usize..60, "[\\[\\]{}=\",a-z0-9 \n€]{0,6}"), 0..4),
            noise in "\\PC*",
        ) {
            let mut text: Vec<char> = documented().chars().collect();
            for (start, length, put) in cuts {
                let start = start.min(text.len());
                let end = (start + length).min(text.len());
                text.splice(start..end, put.chars());
            }
            for text in [text.into_iter().collect(), noise] {
                if let Err(errors) = read(&text, "p.toml", &lists) {
                    prop_assert!(!errors.errors().is_empty());
                    prop_assert!(!errors.to_string().is_empty());
                }
            }
        }
    }
}
