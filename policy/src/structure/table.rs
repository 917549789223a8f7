//! The table of severities (policy model §9), row by row: what a difference weighs, and what the
//! comparison of all mail says of it.
//!
//! The pairs are in `samples/severity`: one file for each row, each an edit of one policy.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use super::*;
use crate::import::from_toml;
use crate::parity::{self, Limits};

/// Rows of the table. Routes, proxies and certificates are of each server, and no part of a set.
const ROWS: [&str; 10] = [
    "actions",
    "applies-to",
    "chains",
    "dictionaries",
    "excluded",
    "learn-mode",
    "managed-domains",
    "names",
    "new-rules",
    "rules",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    row: String,
    severity: String,
    case: Vec<Case>,
}

/// Two edits of the base.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    what: String,
    /// Where it is not that of the row.
    severity: Option<String>,
    verdict: String,
    /// Severity and kind of every change.
    changes: Vec<String>,
    /// What the first change says beside.
    says: Option<String>,
    #[serde(default)]
    before: Vec<Edit>,
    #[serde(default)]
    edits: Vec<Edit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, untagged)]
enum Edit {
    /// A text is replaced wherever it stands.
    Replace { old: String, new: String },
    /// What stands from one text up to another is taken out.
    Cut { cut_from: String, cut_to: String },
}

impl Edit {
    fn apply(&self, text: &str, what: &str) -> String {
        match self {
            Self::Replace { old, new } => {
                assert!(text.contains(old), "{what}: there is no {old}");
                text.replace(old, new)
            }
            Self::Cut { cut_from, cut_to } => {
                let start = text.find(cut_from).expect(what);
                let end = start + text[start..].find(cut_to).expect(what);
                format!("{}{}", &text[..start], &text[end..])
            }
        }
    }
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("samples/severity")
}

fn read(name: &str) -> String {
    fs::read_to_string(directory().join(format!("{name}.toml"))).unwrap()
}

fn edited(edits: &[Edit], what: &str) -> PolicySet {
    let text = edits.iter().fold(read("base"), |text, edit| edit.apply(&text, what));
    from_toml(&text, what, &|name| Err(format!("no list {name}"))).unwrap()
}

/// Severity and kind, as the samples have them.
fn worded(change: &Change) -> String {
    let kind = toml::Value::try_from(change.kind).unwrap();
    format!("{}: {}", change.severity, kind.as_str().unwrap())
}

#[test]
fn every_row_has_a_sample() {
    let files = fs::read_dir(directory()).unwrap();
    let name = |file: PathBuf| file.file_stem().unwrap().to_string_lossy().into_owned();
    let mut found: BTreeSet<String> = files.map(|file| name(file.unwrap().path())).collect();
    assert!(found.remove("base"));
    assert_eq!(found, ROWS.map(str::to_owned).into());
}

/// Goal: each row of the table weighs what the model says, and it is known beside what that means for
/// mail: a blocker by its look can be EQUAL today.
#[test]
fn every_row_weighs_what_the_model_says() {
    let assumptions = Assumptions::default();
    for name in ROWS {
        let row: Row = toml::from_str(&read(name)).unwrap();
        for case in &row.case {
            let what = format!("{}: {}", row.row, case.what);
            let before = edited(&case.before, &what);
            let after = edited(&case.edits, &what);
            let changes = differences(&before, &after, &assumptions);
            let found: Vec<String> = changes.iter().map(worded).collect();
            assert_eq!(found, case.changes, "{what}: {changes:#?}");
            let severity = case.severity.as_ref().unwrap_or(&row.severity);
            let greatest = changes.iter().map(|change| change.severity).max().unwrap();
            assert_eq!(greatest.as_str(), severity, "{what}");
            if let Some(says) = &case.says {
                assert!(changes[0].text.ends_with(says), "{what}: {}", changes[0].text);
            }
            let parity = parity::compare(&before, &after, &assumptions, Limits::default());
            assert_eq!(parity.verdict.to_string(), case.verdict, "{what}");
        }
        let weighs = |case: &Case| case.severity.as_ref().is_none_or(|own| *own == row.severity);
        assert!(row.case.iter().any(weighs), "no case of {name} has the severity of its row");
    }
}

#[test]
fn the_base_of_the_samples_is_equal_to_itself() {
    let base = edited(&[], "base");
    let assumptions = Assumptions::default();
    let parity = parity::compare(&base, &base, &assumptions, Limits::default());
    assert_eq!(parity.verdict.to_string(), "EQUAL");
    assert_eq!(differences(&base, &base, &assumptions), []);
}
