//! The draft of a mapping: what known names suggest is filled in, the rest is asked.
//!
//! A draft is a mapping that can be used at once: what it does not map is opaque. Nothing is filled
//! in but where chains, rules and dictionaries stand, and what likely is volatile is only proposed.
//!
//! Not here: what a mapping means (`mapping`).

use std::fmt::Write;

use super::{Known, Line, Shape};

/// Where things of one kind stand: the line of their element, and the line of their name in it.
#[derive(Clone, Copy)]
struct Found {
    at: usize,
    name: usize,
}

/// A section of a draft.
#[derive(Clone, Copy)]
struct Section {
    name: &'static str,
    /// The line that its paths begin at; none: the document.
    from: Option<usize>,
    found: Option<Found>,
    /// What is in it and has a section of its own.
    own: Option<Found>,
}

impl Shape {
    /// A mapping file to begin with, with comments on what is to be filled in.
    #[must_use]
    pub fn draft(&self) -> String {
        let chain = self.find(Known::Chain, &[]);
        let rule = self.find(Known::Rule, &[]);
        // Conditions have names of dictionaries in them too.
        let others: Vec<usize> = chain.iter().chain(&rule).map(|found| found.at).collect();
        let dictionary = self.find(Known::Dictionary, &others);
        let mut text = format!(
            "# A draft of a mapping for {:?}. What it does not name stays opaque: compared, and not\n\
             # understood. Fill in the keys behind \"#?\" and take the mark away.\n\n",
            self.file
        );
        self.volatile(&mut text);
        text.push_str("\n#? informational = [\"**/description\"]\n\n[globals]\n");
        text.push_str(
            "#? learn_mode = \"\"\n#? unmanaged_domains = \"\"\n#? managed_domains = \"\"\n",
        );
        let section = Section { name: "dictionary", from: None, found: dictionary, own: None };
        self.section(&mut text, section);
        ask(&mut text, &["id", "kind", "literals", "patterns", "entries"]);
        text.push_str("\n#? [entry]\n");
        ask(&mut text, &["form", "text"]);
        let section = Section { name: "chain", from: None, found: chain, own: rule };
        self.section(&mut text, section);
        ask(&mut text, &["id", "applies_to"]);
        let inside = rule.zip(chain).filter(|(rule, chain)| self.is_within(rule.at, chain.at));
        let from = inside.map(|(_, chain)| chain.at);
        self.section(&mut text, Section { name: "rule", from, found: rule, own: None });
        if rule.is_some() && inside.is_none() {
            text.push_str("#? chain = \"\"   # needed: rules stand apart from chains\n");
        }
        ask(&mut text, &["order", "enabled", "group", "actions"]);
        text.push_str("\n#? [group]   # paths from an element of `group` of [rule] on\n");
        ask(&mut text, &["mode", "conditions", "groups"]);
        text.push_str("\n#? [condition]   # paths from an element of `conditions` of [group] on\n");
        ask(&mut text, &["subject", "argument", "operator", "value", "negated"]);
        text.push_str("\n#? [action]   # paths from an element of `actions` of [rule] on\n");
        ask(&mut text, &["action", "sign", "encoding", "keys_from", "key_not_found"]);
        ask(&mut text, &["chain", "dictionary", "text", "server"]);
        text.push_str(WORDS);
        text
    }

    /// The element that has most names of a kind in one place of it; the outermost of those, and
    /// none that is within some others.
    fn find(&self, kind: Known, outside: &[usize]) -> Option<Found> {
        let best = self
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.known_of(kind) > 0)
            .filter(|(number, _)| !outside.iter().any(|outer| self.is_within(*number, *outer)))
            .max_by_key(|(_, line)| (line.known_of(kind), std::cmp::Reverse(line.depth)));
        let (value, _) = best?;
        let way = std::iter::successors(self.lines[value].around, |line| self.lines[*line].around);
        let at =
            way.clone().find(|line| self.lines[*line].repeats()).or_else(|| way.clone().next())?;
        // The text of an element is found by the element.
        let is_text = self.lines[value].step == "text()" && self.lines[value].around != Some(at);
        let name = self.lines[value].around.filter(|_| is_text).unwrap_or(value);
        Some(Found { at, name })
    }

    fn is_within(&self, line: usize, outer: usize) -> bool {
        self.within(outer).any(|inner| inner == line)
    }

    /// A section whose elements were found, with what is in them as a comment, but for what has a
    /// section of its own; else all of it is asked.
    fn section(&self, text: &mut String, section: Section) {
        let Section { name, from, found, own } = section;
        let Some(found) = found else {
            text.push_str(&format!("\n#? [{name}]   # no known names were found\n"));
            return ask(text, &["at", "name"]);
        };
        text.push_str(&format!("\n[{name}]\n"));
        text.push_str(&format!("at = {}\n", quoted(&self.path(from, found.at))));
        text.push_str(&format!("name = {}\n", quoted(&self.path(Some(found.at), found.name))));
        text.push_str("# In it:\n");
        let own = |inner: usize| own.is_some_and(|own| self.is_within(inner, own.at));
        for inner in self.within(found.at).filter(|inner| !own(*inner)) {
            let line = &self.lines[inner];
            let path = self.path(Some(found.at), inner);
            text.push_str(&format!("#   {path}  {}{}\n", line.count, values(line)));
        }
    }

    /// What is likely other in every export: ids and times.
    fn volatile(&self, text: &mut String) {
        text.push_str("#? volatile = [\n");
        for (number, line) in self.lines.iter().enumerate() {
            let is_value = !line.is_element()
                && (is_id(self, line) || line.values.iter().any(|value| is_time(value)));
            if is_value {
                let path = quoted(&self.path(None, number));
                text.push_str(&format!("#?   {path},   # {}{}\n", line.count, values(line)));
            }
        }
        text.push_str("#? ]\n");
    }
}

fn ask(text: &mut String, keys: &[&str]) {
    for key in keys {
        // Writing to a text cannot fail.
        writeln!(text, "#? {key} = \"\"").ok();
    }
}

fn values(line: &Line) -> String {
    let shown: Vec<String> = line.values.iter().map(|value| format!("{value:?}")).collect();
    if shown.is_empty() { String::new() } else { format!(": {}", shown.join(", ")) }
}

/// Is it called an id, or the text of something that is?
fn is_id(shape: &Shape, line: &Line) -> bool {
    let step = match (line.step.as_str(), line.around) {
        ("text()", Some(around)) => &shape.lines[around].step,
        _ => &line.step,
    };
    let name = step.trim_start_matches('@').to_ascii_lowercase();
    ["id", "uuid", "guid", "oid"].contains(&name.as_str()) || name.ends_with("_id")
}

/// Does it look like a date with a time, or like seconds or milliseconds since 1970?
fn is_time(value: &str) -> bool {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &value[digits..];
    match digits {
        4 => rest.starts_with(['-', '/', '.']) && rest.contains(':'),
        10 | 13 => rest.is_empty(),
        _ => false,
    }
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What is the same in every draft.
const WORDS: &str = r#"
#? [absent]   # what it means that something is not there
#? enabled = true
#? mode = "all"
#? applies_to = "server and client"
#? kind = "static"
#? form = "literal"
#? sign = false
#? encoding = "Automatic"

# The words of the export on the left, the words of a typed policy on the right.
#? [words.subject]
#? recipientAddress = "recipient address"
#? [words.operator]
#? inDictionary = "is in dictionary"
#? [words.action]
#? signAndSend = "sign and send"
#? [words.outcome]
#? [words.mode]
#? [words.encoding]
#? [words.applies_to]
#? [words.kind]
#? [words.form]
#? [words.flag]
#? [words.unmanaged_domains]
"#;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Shape;
    use crate::import::{Mapping, from_xml, learn, tree};

    fn draft(xml: &str) -> String {
        learn(&tree(xml.as_bytes(), "x.xml").unwrap()).draft()
    }

    fn names(xml: &str) -> Vec<(String, Vec<String>)> {
        let draft = draft(xml);
        let ready = draft
            .replace("#? applies_to = \"server", "applies_to = \"server")
            .replace("#? kind = \"static", "kind = \"static")
            .replace("#? [absent]", "[absent]")
            .replace("#? chain = \"\"   #", "chain = \"CHAIN_ID\"   #")
            .replace("#? id = \"\"\n#? applies_to", "id = \"ID\"\n#? applies_to");
        let mapping = Mapping::parse(&ready, "m.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let set = from_xml(xml.as_bytes(), "x.xml", &mapping)
            .unwrap_or_else(|errors| panic!("{errors}\n{ready}"));
        let rules = |chain: &crate::chain::Chain| {
            chain.rules.iter().map(|rule| rule.name.clone()).collect()
        };
        set.chains.iter().map(|chain| (chain.name.clone(), rules(chain))).collect()
    }

    /// Goal: a draft is a mapping that finds what has known names.
    /// Method: the invented exports, with nothing filled in but what a draft must ask for.
    #[test]
    fn a_draft_finds_chains_and_rules_by_known_names() {
        let a = names(include_str!("../../../samples/shape-a.xml"));
        let b = names(include_str!("../../../samples/shape-b.xml"));
        let c = names(include_str!("../../../samples/shape-c.xml"));
        let chains: Vec<&str> = a.iter().map(|(chain, _)| chain.as_str()).collect();
        assert_eq!(chains, ["Default", "Inbound", "Outbound"]);
        assert_eq!(a[2].1, ["Excluded Signed", "Old", "Opportunistic"]);
        assert_eq!(c, a);
        assert_eq!(b.iter().map(|(_, rules)| rules.len()).sum::<usize>(), 6);
    }

    #[test]
    fn a_draft_proposes_what_is_volatile() {
        let draft = draft(include_str!("../../../samples/shape-a.xml"));
        assert!(draft.contains("#?   \"mailPolicy/@exported\",   # 1: \"2026-01-31T10:00:00Z\"\n"));
        assert!(draft.contains("#?   \"mailPolicy/chains/chain/@id\","));
        assert!(!draft.contains("#?   \"mailPolicy/chains/chain/@name\""));
        assert!(draft.contains("\n[dictionary]\nat = \"mailPolicy/dictionaries/dictionary\"\n"));
        let draft = self::draft(include_str!("../../../samples/shape-b.xml"));
        assert!(draft.contains("#?   \"EXPORT/TIMESTAMP/text()\",   # 1: \"1769853600\"\n"));
    }

    #[test]
    fn a_draft_of_anything_is_a_mapping() {
        for xml in
            ["<a/>", "<a><b>Default</b></a>", "<Default>Inbound</Default>", "<a b='&#10;\\\"'/>"]
        {
            Mapping::parse(&draft(xml.replace("\\\"", "&quot;").as_str()), "m.toml").unwrap();
        }
    }

    proptest! {
        #[test]
        fn no_names_and_values_break_a_draft(
            names in prop::collection::vec("[a-zé][a-z.:_-]{0,4}", 1..6),
            value in "(Default|Inbound Mail|Managed Domains|[ -~€\u{200b}\u{202e}]{0,8})",
        ) {
            let value = value.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;");
            let open: String = names.iter().map(|name| format!("<{name} k='{value}'>{value}")).collect();
            let close: String = names.iter().rev().map(|name| format!("</{name}>")).collect();
            if let Ok(tree) = tree(format!("{open}{close}").as_bytes(), "x.xml") {
                let shape = Shape::of(&tree);
                let draft = shape.draft();
                prop_assert!(Mapping::parse(&draft, "m.toml").is_ok(), "{}", draft);
            }
        }
    }
}
