//! Policies from an export and a mapping.
//!
//! What is left of a part when it was read was not understood, and makes that part opaque: a
//! condition, a group or an action for itself, else the whole test of a rule (the rest could do
//! anything). What is left of chains and of the document stands beside the policy.
//!
//! Invariants
//! - Every item is used, volatile, informational, or in the text of something opaque.
//! - Opaque parts are equal only where their canonical texts are, with the names of the dictionaries
//!   and chains whose ids they have in them.
//!
//! Not here: what stands where (`mapping`), what is left (`finder`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::finder::{Finder, Value};
use super::mapping::{Mapping, Paths, Terms};
use super::reader::short;
use super::words::{self, Verb};
use super::{Faults, ImportErrors};
use crate::action::{Action, Effect, Encoding, Outcome, Send};
use crate::chain::{Chain, Rule};
use crate::condition::{Condition, Mode, Operator, Test};
use crate::dictionary::{Dictionary, Entry, Form, Kind};
use crate::origin::Origin;
use crate::set::{Globals, MANAGED_DOMAINS, Opaque, PolicySet, Stated};
use crate::tree::{Place, Tree};

/// Groups of conditions within each other; deeper ones are opaque.
const GROUPS_DEEP_MAX: usize = 32;

/// Reads a policy out of a tree.
pub(super) fn read(tree: &Tree, mapping: &Mapping) -> Result<PolicySet, ImportErrors> {
    let ignored = mapping.volatile.iter().chain(&mapping.informational);
    let mut import = Import {
        finder: Finder::new(tree, ignored),
        mapping,
        faults: Faults::default(),
        chains: HashMap::new(),
        dictionaries: HashMap::new(),
    };
    let set = import.set();
    import.faults.or(set)
}

struct Import<'a> {
    finder: Finder<'a>,
    mapping: &'a Mapping,
    faults: Faults,
    /// Names of chains by their ids.
    chains: HashMap<String, String>,
    /// Names of dictionaries by their ids.
    dictionaries: HashMap<String, String>,
}

impl Import<'_> {
    fn set(&mut self) -> PolicySet {
        let tree = self.finder.tree;
        let mut set = PolicySet::empty(tree.origin.clone());
        set.globals = self.globals();
        set.dictionaries.extend(self.managed_domains());
        self.all_dictionaries(&mut set);
        let places = self.all_chains(&mut set);
        self.all_rules(&places, &mut set.chains);
        for (place, chain) in places.iter().zip(&set.chains) {
            set.opaque.extend(self.rest(Some(*place), &format!(" of chain {:?}", chain.name)));
        }
        set.opaque.extend(self.rest(None, ""));
        set
    }

    fn fault(&mut self, place: Place, what: impl Into<String>, mend: impl Into<String>) {
        self.faults.add(self.origin(place), what, mend);
    }

    fn origin(&self, place: Place) -> Origin {
        self.finder.tree.item(place).origin.clone()
    }

    // Globals and dictionaries

    fn globals(&mut self) -> Globals {
        let mapping = self.mapping;
        let words = &mapping.words;
        let learn_mode = self.finder.value(None, &mapping.globals.learn_mode);
        let learn_mode = learn_mode.and_then(|value| self.known(&value, &words.flags, "flag"));
        let unmanaged = self.finder.value(None, &mapping.globals.unmanaged_domains);
        let unmanaged =
            unmanaged.and_then(|value| self.known(&value, &words.unmanaged, "unmanaged_domains"));
        Globals {
            learn_mode: learn_mode.map_or(Stated::No, Stated::Yes),
            unmanaged: unmanaged.map_or(Stated::No, Stated::Yes),
        }
    }

    /// What a word stands for that must be known, since nothing opaque could stand in its place.
    fn known<T: Clone>(&mut self, value: &Value, terms: &Terms<T>, table: &str) -> Option<T> {
        let known = terms.find(&value.text);
        if known.is_none() {
            let what = format!("the word {:?} is not known", short(&value.text));
            let mend = format!("add it to [words.{table}] of the mapping");
            self.fault(value.place, what, mend);
        }
        known
    }

    /// The same for a word that may not be there, if the mapping says what that means.
    fn stated<T: Clone>(
        &mut self,
        (place, paths): (Place, &Paths),
        terms: &Terms<T>,
        absent: Option<T>,
        key: &str,
    ) -> Option<T> {
        if let Some(value) = self.finder.value(Some(place), paths) {
            return self.known(&value, terms, key);
        }
        if absent.is_none() {
            let mend = format!("add {key} to [absent] of the mapping, or correct its path");
            self.fault(place, format!("this does not say its {key}"), mend);
        }
        absent
    }

    fn managed_domains(&mut self) -> Option<Dictionary> {
        let values = self.finder.values(None, &self.mapping.globals.managed_domains);
        let origin = self.origin(values.first()?.place);
        let entry = |value: Value| Entry {
            form: Form::Literal,
            origin: self.origin(value.place),
            text: value.text,
        };
        let entries = values.into_iter().map(entry).collect();
        Some(Dictionary { name: MANAGED_DOMAINS.to_owned(), kind: Kind::Dynamic, entries, origin })
    }

    fn all_dictionaries(&mut self, set: &mut PolicySet) {
        let paths = &self.mapping.dictionary;
        let mut names: HashSet<String> =
            set.dictionaries.iter().map(|dictionary| dictionary.name.clone()).collect();
        for place in self.finder.elements(None, &paths.at) {
            let Some(name) = self.name(place, &paths.name, "dictionary", &mut names) else {
                continue;
            };
            if let Some(id) = self.finder.value(Some(place), &paths.id) {
                let taken = self.dictionaries.insert(id.text.clone(), name.clone());
                self.one_id(place, &id.text, taken.is_some());
            }
            let dictionary = self.dictionary(place, name);
            let of = format!(" of dictionary {:?}", dictionary.name);
            set.opaque.extend(self.rest(Some(place), &of));
            set.dictionaries.push(dictionary);
        }
    }

    fn dictionary(&mut self, place: Place, name: String) -> Dictionary {
        let (mapping, at) = (self.mapping, Some(place));
        let kind_at = (place, &mapping.dictionary.kind);
        let kind = self.stated(kind_at, &mapping.words.kinds, mapping.absent.kind, "kind");
        let mut entries = Vec::new();
        let forms = [
            (Form::Literal, &mapping.dictionary.literals),
            (Form::Pattern, &mapping.dictionary.patterns),
        ];
        for (form, paths) in forms {
            for value in self.finder.values(at, paths) {
                let origin = self.origin(value.place);
                entries.push(Entry { form, text: value.text, origin });
            }
        }
        for place in self.finder.elements(at, &mapping.dictionary.entries) {
            entries.extend(self.entry(place));
        }
        Dictionary { name, kind: kind.unwrap_or_default(), entries, origin: self.origin(place) }
    }

    /// An entry whose form stands in it. One that is not understood is refused: a dictionary cannot
    /// be half known.
    fn entry(&mut self, place: Place) -> Option<Entry> {
        let mapping = self.mapping;
        let form_at = (place, &mapping.entry.form);
        let form = self.stated(form_at, &mapping.words.forms, mapping.absent.form, "form");
        let text = self.finder.value(Some(place), &mapping.entry.text);
        if text.is_none() {
            self.fault(place, "an entry has no text", "correct text of [entry] in the mapping");
        }
        Some(Entry { form: form?, text: text?.text, origin: self.origin(place) })
    }

    /// The name of a thing, which no other of its kind has.
    fn name(
        &mut self,
        place: Place,
        paths: &Paths,
        of: &str,
        taken: &mut HashSet<String>,
    ) -> Option<String> {
        let Some(name) = self.finder.value(Some(place), paths) else {
            let mend = format!("correct name of [{of}] in the mapping");
            self.fault(place, format!("a {of} has no name"), mend);
            return None;
        };
        if !taken.insert(name.text.clone()) {
            let what = format!("there are two of the name {:?}", short(&name.text));
            self.fault(name.place, what, format!("correct at or name of [{of}] in the mapping"));
        }
        Some(name.text)
    }

    fn one_id(&mut self, place: Place, id: &str, taken: bool) {
        if taken {
            let what = format!("there are two of the id {:?}", short(id));
            self.fault(place, what, "correct id in the mapping");
        }
    }

    // Chains

    /// Reads chains without their rules.
    fn all_chains(&mut self, set: &mut PolicySet) -> Vec<Place> {
        let mapping = self.mapping;
        let paths = &mapping.chain;
        let found = self.finder.elements(None, &paths.at);
        if found.is_empty() && !paths.at.is_empty() {
            let mend = "compare at of [chain] in the mapping with the shape of the export";
            self.fault(self.finder.tree.root(), "no chain was found", mend);
        }
        let (mut places, mut names) = (Vec::new(), HashSet::new());
        for place in found {
            let Some(name) = self.name(place, &paths.name, "chain", &mut names) else { continue };
            if let Some(id) = self.finder.value(Some(place), &paths.id) {
                let taken = self.chains.insert(id.text.clone(), name.clone());
                self.one_id(place, &id.text, taken.is_some());
            }
            let (words, absent) = (&mapping.words.applies_to, mapping.absent.applies_to);
            let applies_to = self.stated((place, &paths.applies_to), words, absent, "applies_to");
            let (applies_to, origin) = (applies_to.unwrap_or_default(), self.origin(place));
            set.chains.push(Chain { name, applies_to, rules: Vec::new(), origin });
            places.push(place);
        }
        places
    }

    /// Reads the rules, which stand in their chains or name them.
    fn all_rules(&mut self, places: &[Place], chains: &mut [Chain]) {
        let paths = &self.mapping.rule;
        let mut rules: Vec<(usize, i64, Rule)> = Vec::new();
        let mut found = Vec::new();
        if paths.chain.is_empty() {
            for (chain, place) in places.iter().enumerate() {
                let inside = self.finder.elements(Some(*place), &paths.at);
                found.extend(inside.into_iter().map(|rule| (Some(chain), rule)));
            }
        } else {
            for rule in self.finder.elements(None, &paths.at) {
                found.push((self.chain_of(rule, chains), rule));
            }
        }
        for (chain, place) in found {
            let order = self.order(place);
            let rule = self.rule(place);
            if let (Some(chain), Some(order), Some(rule)) = (chain, order, rule) {
                rules.push((chain, order, rule));
            }
        }
        // Stable: without numbers, the order of the document.
        rules.sort_by_key(|(chain, order, _)| (*chain, *order));
        rules.into_iter().for_each(|(chain, _, rule)| chains[chain].rules.push(rule));
    }

    /// The chain that a rule names.
    fn chain_of(&mut self, rule: Place, chains: &[Chain]) -> Option<usize> {
        let Some(named) = self.finder.value(Some(rule), &self.mapping.rule.chain) else {
            self.fault(rule, "a rule names no chain", "correct chain of [rule] in the mapping");
            return None;
        };
        let name = self.chains.get(&named.text).unwrap_or(&named.text);
        let chain = chains.iter().position(|chain| chain.name == *name);
        if chain.is_none() {
            let what = format!("there is no chain {:?}", short(name));
            self.fault(named.place, what, "correct id or name of [chain] in the mapping");
        }
        chain
    }

    fn order(&mut self, rule: Place) -> Option<i64> {
        if self.mapping.rule.order.is_empty() {
            return Some(0);
        }
        let order = self.finder.value(Some(rule), &self.mapping.rule.order);
        let number = order.and_then(|value| value.text.parse().ok());
        if number.is_none() {
            let mend = "correct order of [rule] in the mapping";
            self.fault(rule, "the order of a rule is no number", mend);
        }
        number
    }

    // Rules

    fn rule(&mut self, place: Place) -> Option<Rule> {
        let (mapping, at) = (self.mapping, Some(place));
        // Two rules of one name are left to the server, whose logs do not tell them apart either.
        let name = self.name(place, &mapping.rule.name, "rule", &mut HashSet::new())?;
        let enabled = match mapping.rule.enabled.is_empty() {
            true => Some(true),
            false => self.flag(place, &mapping.rule.enabled, mapping.absent.enabled),
        };
        let actions = self.finder.elements(at, &mapping.rule.actions);
        let actions = actions.into_iter().map(|action| self.action(action, place)).collect();
        let groups = self.finder.elements(at, &mapping.rule.group);
        let mut test = match groups.as_slice() {
            [] => Some(Test::ALWAYS),
            [group] => Some(self.group(*group, place, 0)),
            _ => None,
        };
        if enabled.is_none() || !self.finder.left(place).is_empty() {
            test = None;
        }
        let test = test.unwrap_or_else(|| Test::Opaque(self.whole(place)));
        let (enabled, origin) = (enabled.unwrap_or(true), self.origin(place));
        Some(Rule { name, enabled, test, actions, origin })
    }

    /// A word of a table; none where it is not known, or not there and nobody knows what that means.
    fn term<T>(
        &mut self,
        place: Place,
        paths: &Paths,
        find: impl Fn(&str) -> Option<T>,
        absent: Option<T>,
    ) -> Option<T> {
        match self.finder.value(Some(place), paths) {
            Some(value) => find(&value.text),
            None => absent,
        }
    }

    fn flag(&mut self, place: Place, paths: &Paths, absent: Option<bool>) -> Option<bool> {
        let flags = &self.mapping.words.flags;
        self.term(place, paths, |word| flags.find(word), absent)
    }

    /// A group of conditions within a rule.
    fn group(&mut self, place: Place, rule: Place, depth: usize) -> Test {
        let items = (depth <= GROUPS_DEEP_MAX).then(|| self.items(place, rule, depth));
        let mapping = self.mapping;
        let modes = &mapping.words.modes;
        let mode =
            self.term(place, &mapping.group.mode, |word| modes.find(word), mapping.absent.mode);
        match (mode, items) {
            // What the server makes of any or none of nothing is not known.
            (Some(mode), Some(items))
                if (mode == Mode::All || !items.is_empty()) && self.is_read(place, rule) =>
            {
                Test::Group { mode, items }
            }
            _ => Test::Opaque(self.part(place, rule)),
        }
    }

    fn items(&mut self, place: Place, rule: Place, depth: usize) -> Vec<Test> {
        let paths = &self.mapping.group;
        let conditions = self.finder.elements(Some(place), &paths.conditions);
        let groups = self.finder.elements(Some(place), &paths.groups);
        let mut items: BTreeMap<Place, bool> =
            conditions.into_iter().map(|condition| (condition, false)).collect();
        // A group that is the group itself would never end.
        items.extend(groups.into_iter().filter(|group| *group != place).map(|group| (group, true)));
        let item = |(item, is_group)| match is_group {
            true => self.group(item, rule, depth + 1),
            false => self.condition(item, rule),
        };
        items.into_iter().map(item).collect()
    }

    fn condition(&mut self, place: Place, rule: Place) -> Test {
        match self.understood_condition(place) {
            Some(condition) if self.is_read(place, rule) => Test::Condition(condition),
            _ => Test::Opaque(self.part(place, rule)),
        }
    }

    fn understood_condition(&mut self, place: Place) -> Option<Condition> {
        let (mapping, at) = (self.mapping, Some(place));
        let paths = &mapping.condition;
        let subject = self.finder.value(at, &paths.subject)?;
        let argument = self.finder.value(at, &paths.argument);
        let argument = argument.as_ref().map(|value| value.text.as_str());
        let subject = mapping.words.subject(&subject.text, argument)?;
        let operator = self.finder.value(at, &paths.operator)?;
        let comparison = mapping.words.operator(&operator.text)?;
        let value = self.finder.value(at, &paths.value)?;
        let operator = match (comparison.compare)(&value.text)? {
            Operator::IsInDictionary(name) => {
                Operator::IsInDictionary(self.dictionaries.get(&name).unwrap_or(&name).clone())
            }
            other => other,
        };
        let negated = self.flag(place, &paths.negated, Some(false))? != comparison.negated;
        Some(Condition { subject, negated, operator, origin: self.origin(place) })
    }

    fn action(&mut self, place: Place, rule: Place) -> Action {
        match self.understood_action(place) {
            Some(action) if self.is_read(place, rule) => action,
            _ => Action::Opaque(self.part(place, rule)),
        }
    }

    fn understood_action(&mut self, place: Place) -> Option<Action> {
        let mapping = self.mapping;
        let paths = &mapping.action;
        let word = self.finder.value(Some(place), &paths.action)?;
        let text = |import: &mut Self, paths: &Paths| {
            import.finder.value(Some(place), paths).map(|value| value.text)
        };
        Some(match mapping.words.verbs.find(&word.text)? {
            Verb::Send => Action::Send(self.send(place)?),
            Verb::Sign => Action::Finish(Outcome::Signed(self.encoding(place)?)),
            Verb::Finish(outcome) => Action::Finish(outcome),
            Verb::GoTo => {
                let name = text(self, &paths.chain)?;
                Action::GoTo(self.chains.get(&name).unwrap_or(&name).clone())
            }
            Verb::AddTo => {
                let name = text(self, &paths.dictionary)?;
                let dictionary = self.dictionaries.get(&name).unwrap_or(&name).clone();
                Action::Effect(Effect::AddTo { dictionary })
            }
            Verb::Log => Action::Effect(Effect::Log { text: text(self, &paths.text)? }),
            Verb::Copy => Action::Effect(Effect::Copy { server: text(self, &paths.server)? }),
        })
    }

    fn encoding(&mut self, place: Place) -> Option<Encoding> {
        let mapping = self.mapping;
        let find = |word: &str| mapping.words.encodings.find(word);
        self.term(place, &mapping.action.encoding, find, mapping.absent.encoding)
    }

    fn send(&mut self, place: Place) -> Option<Send> {
        let mapping = self.mapping;
        let paths = &mapping.action;
        let search = self.finder.values(Some(place), &paths.keys_from);
        let search = search.into_iter().map(|value| value.text).collect();
        let encoding = self.encoding(place)?;
        let sign = self.flag(place, &paths.sign, mapping.absent.sign)?;
        let otherwise = self.finder.value(Some(place), &paths.key_not_found)?;
        let otherwise = mapping.words.outcome(&otherwise.text)?;
        let key_not_found = words::outcome(otherwise, encoding)?;
        Some(Send { sign, encoding, search, key_not_found })
    }

    // What was not understood

    /// Is nothing left of a part? A part that is the rule itself is judged with the rule.
    fn is_read(&self, part: Place, rule: Place) -> bool {
        part == rule || self.finder.left(part).is_empty()
    }

    /// A part of a rule that was not understood; what is left of the rule is not in it.
    fn part(&mut self, part: Place, rule: Place) -> Opaque {
        if part == rule { self.text(part) } else { self.whole(part) }
    }

    /// A part that was not understood, and of which nothing is left with this.
    fn whole(&mut self, part: Place) -> Opaque {
        self.finder.use_all(part);
        self.text(part)
    }

    fn text(&self, part: Place) -> Opaque {
        let what = self.finder.tree.path(part);
        Opaque { text: self.finder.canonical(part) + &self.ids_in(part), what }
    }

    /// What the ids in a part stand for: the same number may be another dictionary elsewhere.
    fn ids_in(&self, part: Place) -> String {
        let mut names = BTreeSet::new();
        for text in self.finder.texts(part) {
            let dictionary = self.dictionaries.get(text);
            names.extend(dictionary.map(|name| format!("\n{text} is dictionary {name:?}")));
            let chain = self.chains.get(text);
            names.extend(chain.map(|name| format!("\n{text} is chain {name:?}")));
        }
        names.into_iter().collect()
    }

    /// What is left of a chain or a dictionary, or of the document. Its place is part of what it is:
    /// the same setting may stand elsewhere and mean another thing.
    fn rest(&mut self, part: Option<Place>, of: &str) -> Vec<Opaque> {
        let tree = self.finder.tree;
        let around = part.unwrap_or(tree.root());
        let left = self.finder.left(around).into_iter();
        let opaque = left.map(|place| {
            let what = format!("{}{of}", tree.numbered_path_from(part, place));
            Opaque { text: self.finder.canonical(place) + &self.ids_in(place), what }
        });
        let opaque = opaque.collect();
        self.finder.use_all(around);
        opaque
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::import::{from_toml, from_xml, tree};

    const A: (&str, &str) =
        (include_str!("../../samples/shape-a.xml"), include_str!("../../samples/shape-a.toml"));
    const B: (&str, &str) =
        (include_str!("../../samples/shape-b.xml"), include_str!("../../samples/shape-b.toml"));
    const C: (&str, &str) =
        (include_str!("../../samples/shape-c.xml"), include_str!("../../samples/shape-c.toml"));

    fn import(xml: &str, mapping: &str) -> PolicySet {
        let mapping = Mapping::parse(mapping, "m.toml").unwrap_or_else(|errors| panic!("{errors}"));
        from_xml(xml.as_bytes(), "x.xml", &mapping).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn told(xml: &str, mapping: &str) -> String {
        let mapping = Mapping::parse(mapping, "m.toml").unwrap();
        from_xml(xml.as_bytes(), "x.xml", &mapping).unwrap_err().to_string()
    }

    /// The first export with one place of it changed.
    fn changed(from: &str, to: &str) -> PolicySet {
        assert!(A.0.contains(from), "{from}");
        import(&A.0.replacen(from, to, 1), A.1)
    }

    fn rule<'s>(set: &'s PolicySet, chain: &str, name: &str) -> &'s Rule {
        let rules = &set.chain(chain).unwrap().rules;
        rules.iter().find(|rule| rule.name == name).unwrap()
    }

    #[test]
    fn three_shapes_are_the_policy_that_is_typed() {
        let typed = include_str!("../../samples/shapes.toml");
        let typed = from_toml(typed, "shapes.toml", &|name| Err(name.to_owned())).unwrap();
        for (xml, mapping) in [A, B, C] {
            let set = import(xml, mapping);
            assert_eq!(set.opaque, []);
            assert_eq!(set, typed);
        }
    }

    #[test]
    fn without_a_mapping_the_whole_export_is_opaque() {
        let set = import(A.0, "volatile = [\"**/@id\", \"mailPolicy/@exported\"]");
        assert_eq!((set.chains.len(), set.opaque.len()), (0, 1));
        assert_eq!(set.opaque[0].what, "mailPolicy");
        assert!(set.opaque[0].text.starts_with("<mailPolicy version=\"1\"><settings"));
        let other = import(&A.0.replace("r4", "r9"), "volatile = [\"**/@*\"]");
        assert_ne!(set, other);
    }

    #[test]
    fn what_is_unknown_of_a_condition_makes_it_opaque() {
        let changes = [
            ("operator=\"greater\"", "operator=\"greater\" unit=\"kB\""),
            ("operator=\"greater\"", "operator=\"atLeast\""),
            ("value=\"1000000\"", "value=\"1 MB\""),
            ("subject=\"size\"", "subject=\"length\""),
            ("subject=\"size\"", "subject=\"size\" header=\"X\""),
            ("value=\"1000000\"/>", "value=\"1000000\"><scale/></condition>"),
            ("value=\"1000000\"/>", "value=\"1000000\">kB</condition>"),
            ("subject=\"size\"", "subject=\"size\" not=\"maybe\""),
        ];
        for (from, to) in changes {
            let set = changed(from, to);
            let shown = rule(&set, "Outbound", "Excluded Signed").test.to_string();
            let path = "mailPolicy/chains/chain/rule/conditions/conditions/condition";
            assert!(shown.contains(&format!("; not understood: {path})")), "{to}: {shown}");
            assert!(shown.contains("message header: x-secret is \"no\""), "{to}: {shown}");
            assert_eq!(set.opaque, [], "{to}");
            assert_ne!(set, changed("r4", "r4"), "{to}");
        }
    }

    #[test]
    fn what_is_unknown_of_a_group_makes_it_opaque() {
        let changes = [
            (
                "<conditions match=\"all\">\n            <condition",
                "<conditions match=\"most\"><condition",
            ),
            ("<conditions match=\"all\">\n            <condition", "<conditions><condition"),
            (
                "<conditions match=\"all\">\n            <condition",
                "<conditions match=\"all\"><x/><condition",
            ),
        ];
        for (from, to) in changes {
            let set = changed(from, to);
            let shown = rule(&set, "Outbound", "Excluded Signed").test.to_string();
            let group =
                "; not understood: mailPolicy/chains/chain/rule/conditions/conditions; not: ";
            assert!(shown.contains(group), "{to}: {shown}");
        }
        let set = changed("<conditions match=\"all\"/>", "<conditions match=\"any\"/>");
        assert!(matches!(rule(&set, "Default", "Outbound Mail").test, Test::Opaque(_)));
    }

    #[test]
    fn what_is_unknown_of_a_rule_makes_its_test_opaque_and_no_more() {
        let changes = [
            ("name=\"Old\"", "name=\"Old\" until=\"noon\""),
            ("name=\"Old\" enabled=\"false\"", "name=\"Old\" enabled=\"rarely\""),
            ("name=\"Old\" enabled=\"false\"", "name=\"Old\""),
            ("<actions><bounce/></actions>", "<actions><bounce/></actions><schedule/>"),
            ("<actions><bounce/></actions>", "<actions><bounce/>now</actions>"),
            (
                "<conditions match=\"none\">",
                "<conditions match=\"all\"/><conditions match=\"none\">",
            ),
        ];
        for (from, to) in changes {
            let set = changed(from, to);
            let old = rule(&set, "Outbound", "Old");
            let Test::Opaque(opaque) = &old.test else { panic!("{to}: {}", old.test) };
            assert!(opaque.text.starts_with("<rule"), "{to}: {opaque:?}");
            assert_eq!(old.actions, [Action::Finish(Outcome::Bounced)], "{to}");
            assert_eq!(set.opaque, [], "{to}");
        }
    }

    #[test]
    fn what_is_unknown_of_an_action_makes_it_opaque() {
        let changes = [
            ("<bounce/>", "<bounce template=\"7\"/>"),
            ("<bounce/>", "<bounceLater/>"),
            ("<bounce/>", "<goto/>"),
            ("<bounce/>", "<signAndSend/>"),
            ("<bounce/>", "<send sign=\"true\" encoding=\"S/MIME\"/>"),
            ("<bounce/>", "<send encoding=\"S/MIME\" otherwise=\"bounce\"/>"),
            ("<bounce/>", "<send sign=\"true\" encoding=\"S/MIME\" otherwise=\"goto\"/>"),
        ];
        for (from, to) in changes {
            let set = changed(from, to);
            let old = rule(&set, "Outbound", "Old");
            assert!(matches!(old.actions[..], [Action::Opaque(_)]), "{to}: {:?}", old.actions);
            assert!(matches!(old.test, Test::Group { .. }), "{to}: the test is known");
        }
    }

    #[test]
    fn what_is_unknown_elsewhere_stands_beside_the_policy() {
        let changes = [
            ("appliesTo=\"server\">", "appliesTo=\"server\" x=\"1\">", "@x of chain \"Inbound\""),
            ("<managed>", "<managed x='1'>", "mailPolicy/managed/@x"),
            ("<managed>", "<archive>a</archive><managed>", "mailPolicy/archive"),
            (
                "<dictionaries>",
                "<dictionaries><dictionaryX/>",
                "mailPolicy/dictionaries/dictionaryX",
            ),
            (
                "<entry type=\"literal\">",
                "<entry type=\"x\">",
                "entry of dictionary \"Excluded Addresses: Sign\"",
            ),
        ];
        for (from, to, what) in changes {
            let set = changed(from, to);
            let found: Vec<&str> = set.opaque.iter().map(|opaque| &*opaque.what).collect();
            assert_eq!(found, [what], "{to}");
        }
    }

    #[test]
    fn what_is_volatile_or_informational_changes_nothing() {
        let plain = import(A.0, A.1);
        assert_eq!(changed("2026-01-31", "2027-12-01"), plain);
        assert_eq!(changed("id=\"r4\"", "id=\"r99\""), plain);
        assert_eq!(changed("Newsletters.", "<b>Nothing</b> to see."), plain);
    }

    /// Goal: the same number may be another dictionary in another export.
    #[test]
    fn opaque_parts_differ_where_their_ids_stand_for_other_things() {
        let unknown = B.0.replace("<OP>IN</OP><ARG>8<", "<OP>ALMOST_IN</OP><ARG>8<");
        let renamed = unknown.replace("<NAME>Excluded Addresses: Sign<", "<NAME>Other<");
        let test = |xml: &str| rule(&import(xml, B.1), "Outbound", "Excluded Signed").test.clone();
        assert_eq!(test(&unknown), test(&unknown.replace("<TEXT>news", "<TEXT>old")));
        assert_ne!(test(&unknown), test(&renamed));
    }

    #[test]
    fn what_can_not_be_opaque_is_refused_with_its_place() {
        let cases = [
            (
                "name=\"Inbound\"",
                "name=\"Default\"",
                "there are two of the name \"Default\"; correct",
            ),
            ("name=\"Old\"", "", "a rule has no name; correct name of [rule]"),
            (
                "appliesTo=\"both\"",
                "appliesTo=\"all\"",
                "the word \"all\" is not known; add it to [words.applies_to]",
            ),
            (
                "appliesTo=\"both\"",
                "",
                "this does not say its applies_to; add applies_to to [absent]",
            ),
            (
                "learnMode=\"false\"",
                "learnMode=\"perhaps\"",
                "x.xml:4:13: the word \"perhaps\" is not",
            ),
            ("unmanaged=\"relay\"", "unmanaged=\"x\"", "add it to [words.unmanaged_domains]"),
            ("<chains>", "<chainz>", "this is no XML"),
        ];
        for (from, to, expected) in cases {
            let told = told(&A.0.replacen(from, to, 1), A.1);
            assert!(told.starts_with("x.xml:") && told.contains(expected), "{to}: {told}");
        }
        assert!(told(A.0, B.1).contains("x.xml:3:1: no chain was found; compare at of [chain]"));
        let cases = [
            ("<CHAIN_ID>3<", "<CHAIN_ID>9<", "there is no chain \"9\""),
            ("<POS>30<", "<POS>last<", "the order of a rule is no number"),
            ("<ID>2<", "<ID>1<", "there are two of the id \"1\""),
            ("<FORM>L<", "<FORM>glob<", "the word \"glob\" is not known; add it to [words.form]"),
            ("<TYPE>S<", "<TYPE>X<", "add it to [words.kind]"),
        ];
        for (from, to, expected) in cases {
            let told = told(&B.0.replacen(from, to, 1), B.1);
            assert!(told.contains(expected), "{to}: {told}");
        }
    }

    #[test]
    fn a_mapping_in_which_the_rule_is_the_condition_and_the_action_is_read() {
        let mapping = "[chain]\nat = \"c\"\nname = \"@n\"\n[rule]\nat = \"r\"\nname = \"@n\"\n\
                       group = \".\"\nactions = \".\"\n[group]\nconditions = \".\"\n[condition]\n\
                       subject = \"@s\"\noperator = \"@o\"\nvalue = \"@v\"\n[action]\naction = \"@a\"\n\
                       [absent]\nmode = \"all\"\napplies_to = \"server only\"\n";
        let xml = "<c n='C'><r n='R' s='message size' o='is less than' v='5' a='drop'/></c>";
        let set = import(xml, mapping);
        let rule = &set.chains[0].rules[0];
        assert_eq!(rule.test.to_string(), "all of (message size is less than 5)");
        assert_eq!(rule.actions, [Action::Finish(Outcome::Dropped)]);
        let strange = import(&xml.replace("v=", "w='' v="), mapping);
        assert!(matches!(strange.chains[0].rules[0].test, Test::Opaque(_)));
        assert_eq!(strange.chains[0].rules[0].actions, [Action::Finish(Outcome::Dropped)]);
        let strange = import(&xml.replace("drop", "dropp"), mapping);
        assert_eq!(strange.chains[0].rules[0].test, rule.test, "the word is in the action's text");
        assert!(matches!(strange.chains[0].rules[0].actions[..], [Action::Opaque(_)]));
    }

    #[test]
    fn groups_that_are_too_deep_are_opaque() {
        let deep = |depth: usize| {
            let open = "<conditions match=\"all\">".repeat(depth);
            let condition = "<condition subject=\"service\" operator=\"is\" value=\"POP\"/>";
            format!("{open}{condition}{}<condition ", "</conditions>".repeat(depth))
        };
        let set =
            |depth| changed("<condition subject=\"size\"", &(deep(depth) + "subject=\"size\""));
        let shown = |depth| rule(&set(depth), "Outbound", "Excluded Signed").test.to_string();
        assert!(shown(31).contains("service type is \"POP\""));
        assert!(!shown(31).contains("not understood"));
        assert!(shown(32).contains("not understood"));
    }

    proptest! {
        /// Goal: nothing is ever lost; what is said otherwise is seen.
        /// Method: any attribute's value and any text of an export, one after the other, is changed.
        #[test]
        fn every_change_of_what_is_compared_is_seen(sample in 0_usize..3, at in any::<prop::sample::Index>()) {
            let (xml, mapping) = [A, B, C][sample];
            let mapping = Mapping::parse(mapping, "m.toml").unwrap();
            let whole = tree(xml.as_bytes(), "x.xml").unwrap();
            let finder = Finder::new(&whole, mapping.volatile.iter().chain(&mapping.informational));
            let texts: Vec<&String> = finder.texts(whole.root()).collect();
            let text = texts[at.index(texts.len())];
            let places: Vec<usize> = xml.match_indices(text.as_str()).map(|(at, _)| at).collect();
            let before = from_xml(xml.as_bytes(), "x.xml", &mapping).unwrap();
            for place in places {
                let other = format!("{}{text}~{}", &xml[..place], &xml[place + text.len()..]);
                let Ok(after) = from_xml(other.as_bytes(), "x.xml", &mapping) else { continue };
                let trees = [xml, &other].map(|xml| tree(xml.as_bytes(), "x.xml").unwrap());
                let ignored = [&mapping.volatile[..], &mapping.informational[..]].concat();
                let same = Tree::differences(&trees[0], &trees[1], &ignored).is_empty();
                prop_assert_eq!(before == after, same, "{} at {}", text, place);
            }
        }

        /// Method: something that no mapping knows is put into any element.
        #[test]
        fn whatever_is_added_is_seen(sample in 0_usize..3, at in any::<prop::sample::Index>()) {
            let (xml, mapping) = [A, B, C][sample];
            let mapping = Mapping::parse(mapping, "m.toml").unwrap();
            let before = from_xml(xml.as_bytes(), "x.xml", &mapping).unwrap();
            let ends: Vec<usize> = xml.match_indices('>').map(|(at, _)| at).collect();
            let end = ends[at.index(ends.len())];
            for added in [" zz='1'>", "><zz/>", ">zz"] {
                let other = format!("{}{added}{}", &xml[..end], &xml[end + 1..]);
                let Ok(whole) = tree(other.as_bytes(), "x.xml") else { continue };
                let ignored = [&mapping.volatile[..], &mapping.informational[..]].concat();
                let original = tree(xml.as_bytes(), "x.xml").unwrap();
                let same = Tree::differences(&original, &whole, &ignored).is_empty();
                if let Ok(after) = from_xml(other.as_bytes(), "x.xml", &mapping) {
                    prop_assert_eq!(before == after, same, "{} at {}", added, end);
                }
            }
        }

        #[test]
        fn no_export_makes_the_import_panic(
            sample in 0_usize..3,
            cuts in prop::collection::vec((0_usize..5000, 0_usize..80, "[<>/=\"a-z ]{0,6}"), 1..3),
        ) {
            let (xml, mapping) = [A, B, C][sample];
            let mapping = Mapping::parse(mapping, "m.toml").unwrap();
            let mut octets = xml.as_bytes().to_vec();
            for (start, length, put) in cuts {
                let start = start.min(octets.len());
                let end = (start + length).min(octets.len());
                octets.splice(start..end, put.into_bytes());
            }
            from_xml(&octets, "x.xml", &mapping).ok();
        }
    }
}
