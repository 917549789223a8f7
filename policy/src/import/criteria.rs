//! What an MTA sends where, typed by hand as TOML.
//!
//! For MTAs whose configuration nobody reads for us. Routes are asked in order, for each recipient by
//! itself, and the first that matches decides; what becomes of all other mail must be said.
//!
//! ```toml
//! default = "elsewhere: mx.provider.example"
//!
//! [[dictionary]]                     # lists of the MTA, written as those of a policy
//! name = "partners"
//! literals = ["partner.example"]
//!
//! [[route]]
//! name = "to partners"               # for findings; may be left out
//! match = "any"                      # of the conditions: "all" (default), "any", "none"
//! conditions = [                     # left out: all mail
//!   { subject = "recipient domain", is_in_dictionary = "partners" },
//!   { subject = "message subject", contains = "[secure]" },
//! ]
//! to = "gate"
//!
//! [[route]]
//! conditions = [ { subject = "recipient domain", is = "example.com" } ]
//! to = "inside: exchange.example.com"
//! ```
//!
//! | `to`, `default` | mail goes |
//! |---|---|
//! | `gate` | to the server |
//! | `gate or: HOST` | to the server, and to a host where that does not answer |
//! | `elsewhere: HOST` | to another host |
//! | `inside: HOST` | to another host of yours, since the recipient's domain is yours |
//! | `here` | nowhere: it is delivered on the MTA's own host |
//! | `nowhere` | nowhere: it is refused, deferred or thrown away |
//! | `unknown: WHY` | nobody knows |
//!
//! Conditions are those of a policy (`toml`); a pattern matches where it matches a part, and letter
//! case does not matter.
//!
//! Not here: positions and types of values (`reader`), conditions and dictionaries (`toml`).

use std::collections::HashSet;

use super::ImportErrors;
use super::reader::{Table, document, short};
use super::toml::Import;
use crate::mirror::{Criteria, Destination, Route};

const ROUTE: [&str; 4] = ["name", "match", "conditions", "to"];

const DESTINATIONS: &str = "gate, gate or: HOST, elsewhere: HOST, inside: HOST, here, nowhere, \
                            unknown: WHY";

/// Reads criteria; lists are asked for by their names.
pub(super) fn read(
    text: &str,
    file: &str,
    lists: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Criteria, ImportErrors> {
    let document = document(text, file)?;
    let root = Table::root(&document);
    let mut import = Import::new(text, file, lists);
    import.reader.known(root, "a file of criteria", &["default", "dictionary", "route"]);
    let dictionaries = import.dictionaries(root, HashSet::new());
    let routes = import.reader.tables(root, "route");
    let routes = (1..).zip(routes).filter_map(|(number, table)| route(&mut import, table, number));
    let routes = routes.collect();
    let default = destination(&mut import, root, "default", "a file of criteria");
    let default = default.unwrap_or(Destination::Unknown { why: String::new() });
    import.reader.faults.or(Criteria { dictionaries, routes, default, doubts: Vec::new() })
}

fn route(import: &mut Import<'_>, table: Table<'_>, number: usize) -> Option<Route> {
    import.reader.known(table, "a route", &ROUTE);
    let name = import.reader.text(table, "name").map(|name| name.text.trim().to_owned());
    let test = import.rule_test(table);
    let to = destination(import, table, "to", "a route");
    let origin = import.reader.origin(table.at);
    let words = name.unwrap_or_else(|| format!("route {number}: {test}"));
    Some(Route { test, to: to?, origin, words })
}

fn destination(
    import: &mut Import<'_>,
    table: Table<'_>,
    key: &str,
    of: &str,
) -> Option<Destination> {
    let typed = import.reader.needed_text(table, key, of)?;
    let found = parse(typed.text);
    if found.is_none() {
        let what = format!("{key} of {of} is not known: {:?}", short(typed.text));
        import.reader.fault(typed.at, what, format!("use one of: {DESTINATIONS}"));
    }
    found
}

/// The destination of a word, or of a word and what belongs to it behind a colon.
fn parse(typed: &str) -> Option<Destination> {
    let (word, rest) = match typed.split_once(':') {
        Some((word, rest)) => (word, Some(rest.trim().to_owned())),
        None => (typed, None),
    };
    let word = word.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
    match (word.as_str(), rest.filter(|rest| !rest.is_empty())) {
        ("gate", None) => Some(Destination::Gate),
        ("here", None) => Some(Destination::Here),
        ("nowhere", None) => Some(Destination::Nowhere),
        ("gate or", Some(host)) => Some(Destination::GateOr { host }),
        ("elsewhere", Some(host)) => Some(Destination::Elsewhere { host }),
        ("inside", Some(host)) => Some(Destination::Inside { host }),
        ("unknown", Some(why)) => Some(Destination::Unknown { why }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(_: &str) -> Result<String, String> {
        Err("there is no such file".to_owned())
    }

    fn told(text: &str) -> String {
        read(text, "c.toml", &lists).unwrap_err().to_string()
    }

    /// The example in the head of this file.
    fn documented() -> String {
        let lines = include_str!("criteria.rs").lines().skip_while(|line| *line != "//! ```toml");
        let lines = lines.skip(1).take_while(|line| *line != "//! ```");
        lines.map(|line| format!("{}\n", line.trim_start_matches("//!"))).collect()
    }

    #[test]
    fn the_documented_example_is_what_it_says() {
        let criteria = read(&documented(), "c.toml", &lists).unwrap();
        let shown = criteria
            .routes
            .iter()
            .map(|route| format!("{}: {}: {} {}", route.origin, route.words, route.test, route.to));
        let expected = [
            "c.toml:7:2: to partners: any of (recipient domain is in dictionary \"partners\"; \
             message subject contains \"[secure]\") to the server",
            "c.toml:16:2: route 2: all of (recipient domain is \"example.com\"): all of (recipient \
             domain is \"example.com\") to exchange.example.com, as mail for a domain of ours",
        ];
        assert_eq!(shown.collect::<Vec<_>>(), expected);
        assert_eq!(criteria.default.to_string(), "to mx.provider.example");
        assert_eq!(criteria.dictionaries[0].entries.len(), 1);
    }

    #[test]
    fn every_destination_of_the_table_is_understood() {
        let rows = include_str!("criteria.rs").lines();
        let rows = rows.skip_while(|line| !line.starts_with("//! | `to`")).skip(2);
        let rows = rows.map_while(|line| line.strip_prefix("//! | `")?.split('`').next());
        let words: Vec<&str> = rows.collect();
        assert_eq!(words.join(", "), DESTINATIONS);
        for word in words {
            assert!(parse(word).is_some(), "{word}");
        }
    }

    #[test]
    fn every_slip_has_its_place_and_its_mend() {
        let cases = [
            ("", "c.toml:1:1: a file of criteria has no default; add default = "),
            (
                "default = \"gat\"",
                "c.toml:1:11: default of a file of criteria is not known: \"gat\"; use one of: gate, gate or: HOST",
            ),
            (
                "default = \"elsewhere\"",
                "default of a file of criteria is not known: \"elsewhere\"",
            ),
            ("default = \"gate: x\"", "not known: \"gate: x\""),
            ("default = 1", "c.toml:1:11: default is a text, not an integer"),
            (
                "routes = []\ndefault = \"gate\"",
                "c.toml:1:1: a file of criteria has no key \"routes\"; did you mean \"route\"?",
            ),
            ("default = \"gate\"\n[[route]]", "c.toml:2:1: a route has no to; add to = "),
            (
                "default = \"gate\"\n[[route]]\nto = \"here\"\nmatch = \"any\"",
                "any of no conditions is asked for",
            ),
            (
                "default = \"gate\"\n[[route]]\nto = \"here\"\nconditions = [ { subject = \"sendr address\", is = \"a\" } ]",
                "c.toml:4:28: subject is not known: \"sendr address\"; did you mean \"sender address\"?",
            ),
            (
                "default = \"gate\"\n[[dictionary]]\nname = \"a\"\nlist = \"b\"",
                "the list \"b\" cannot be read",
            ),
            ("default = ", "c.toml:1:"),
        ];
        for (text, expected) in cases {
            let told = told(text);
            assert!(told.contains(expected), "{text}: {told}");
        }
    }
}
