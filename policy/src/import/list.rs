//! Dictionaries as text lists.
//!
//! One entry a line. `#` begins a line of comment; blank lines mean nothing; blanks around an entry
//! are not part of it. An entry is a literal, unless it says otherwise:
//!
//! ```text
//! # Newsletters are never signed.
//! news@example.org
//! literal: pattern: yes, this is one
//! pattern: r.*@example.com
//! ```
//!
//! Not here: dictionaries that stand in a policy (`toml`).

use crate::dictionary::{Entry, Form};
use crate::places::Places;

use super::{Faults, ImportError, ImportErrors};

/// Length of a list, in octets.
const OCTETS_MAX: usize = 32 << 20;

/// Entries of a list.
const ENTRIES_MAX: usize = 1_000_000;

/// Length of an entry, in octets; an address has 254 at most (RFC 5321 §4.5.3.1.3).
const ENTRY_OCTETS_MAX: usize = 4096;

/// Reads the entries of a list.
pub(super) fn read(text: &str, file_name: &str) -> Result<Vec<Entry>, ImportErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let places = Places::new(file_name, text);
    if text.len() > OCTETS_MAX {
        let what = format!("the list has {} octets, at most {OCTETS_MAX} are read", text.len());
        let mend = "split it into several dictionaries".to_owned();
        return Err(ImportError { origin: places.file().clone(), what, mend }.into());
    }
    let (mut entries, mut faults, mut octet) = (Vec::new(), Faults::default(), 0);
    for line in text.split_inclusive('\n') {
        let start = octet + (line.len() - line.trim_start().len());
        octet += line.len();
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if entries.len() == ENTRIES_MAX {
            let what = format!("the list has more than {ENTRIES_MAX} entries");
            faults.add(places.at(start), what, "split it into several dictionaries");
            break;
        }
        match entry(line) {
            Ok((form, text)) => {
                entries.push(Entry { form, text: text.to_owned(), origin: places.at(start) });
            }
            Err((what, mend)) => faults.add(places.at(start), what, mend),
        }
    }
    faults.or(entries)
}

/// An entry of a line, or what is wrong with it and its mend.
fn entry(line: &str) -> Result<(Form, &str), (String, &'static str)> {
    let (form, text) = [Form::Literal, Form::Pattern]
        .into_iter()
        .find_map(|form| {
            let rest = line.strip_prefix(form.as_str())?.strip_prefix(':')?;
            Some((form, rest.trim_start()))
        })
        .unwrap_or((Form::Literal, line));
    if text.is_empty() {
        let mend = "write the entry behind the colon, or remove the line";
        return Err((format!("this {} is empty", form.as_str()), mend));
    }
    if text.len() > ENTRY_OCTETS_MAX {
        let what = format!("this entry has {} octets, at most {ENTRY_OCTETS_MAX}", text.len());
        return Err((what, "is a line break missing?"));
    }
    if text.contains(char::is_control) {
        let mend = "remove it; is this a text file, one entry a line?";
        return Err(("this entry has a control character in it".to_owned(), mend));
    }
    Ok((form, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let show =
            |entry: &Entry| format!("{} {} {}", entry.origin, entry.form.as_str(), entry.text);
        read(text, "x.txt").unwrap().iter().map(show).collect()
    }

    #[test]
    fn comments_and_blank_lines_are_no_entries() {
        let text = "\u{feff}# a\r\n\r\n  news@example.org \r\npattern: r.*@x\nliteral:pattern: y";
        assert_eq!(
            shown(text),
            [
                "x.txt:3:3 literal news@example.org",
                "x.txt:4:1 pattern r.*@x",
                "x.txt:5:1 literal pattern: y"
            ]
        );
        assert!(shown("").is_empty());
        assert!(shown("# only this").is_empty());
    }

    #[test]
    fn every_wrong_line_is_named() {
        let text = format!("pattern:\na\u{1}b\nok\n{}\n", "a".repeat(5000));
        let errors = read(&text, "x.txt").unwrap_err();
        let told = errors.to_string();
        assert_eq!(errors.errors().len(), 3, "{told}");
        assert!(told.starts_with("x.txt:1:1: this pattern is empty; "), "{told}");
        assert!(told.contains("\nx.txt:2:1: this entry has a control character"), "{told}");
        assert!(told.contains("\nx.txt:4:1: this entry has 5000 octets"), "{told}");
    }

    #[test]
    fn errors_beyond_fifty_are_counted() {
        let errors = read(&"literal:\n".repeat(60), "x.txt").unwrap_err();
        assert_eq!((errors.errors().len(), errors.left_out()), (50, 10));
        assert!(errors.to_string().ends_with("\nand 10 more"));
    }
}
