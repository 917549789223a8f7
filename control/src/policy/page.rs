//! A comparison as one page for the change ticket: nothing is loaded from elsewhere, nothing runs.
//!
//! Every text of a message or a policy is escaped by the template: subjects and names may be hostile.
//!
//! Not here: what was found (`comparison`).

use askama::Template;
use policy::action::Relation;

use super::comparison::{Comparison, Decided, Looked};

#[derive(Template)]
#[template(path = "parity.html")]
struct Page<'a> {
    found: &'a Comparison,
    made_at: &'a str,
    version: &'static str,
}

/// The page.
///
/// # Errors
/// When the template cannot be filled.
pub fn page(found: &Comparison, made_at: &str) -> Result<String, askama::Error> {
    Page { found, made_at, version: env!("CARGO_PKG_VERSION") }.render()
}

/// How a relation is set off.
fn colour(relation: &Relation) -> &'static str {
    match relation {
        Relation::Equal => "equal",
        Relation::Stricter => "stricter",
        Relation::Looser => "looser",
        Relation::Incomparable | Relation::Unknown => "doubt",
    }
}

/// A rule's answer.
fn answer(answer: &Option<bool>) -> &'static str {
    match answer {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not known",
    }
}

/// Rules that did not match and stand before others that did not either are many: the last few matter.
fn shown(decided: &Decided) -> &[Looked] {
    /// Rules of a trace that are shown.
    const SHOWN: usize = 40;
    &decided.trace[decided.trace.len().saturating_sub(SHOWN)..]
}

/// How many rules of a trace are not shown.
fn hidden(decided: &Decided) -> usize {
    decided.trace.len() - shown(decided).len()
}

#[cfg(test)]
mod tests {
    use super::super::comparison::{Input, Options, compare};
    use super::super::source::Loaded;
    use super::*;

    fn loaded(rule: &str, action: &str) -> Loaded {
        let text = format!(
            "[globals]\nlearn_mode = false\nunmanaged_domains = \"bounce\"\nmanaged_domains = [\"example.com\"]\n\
             [[chain]]\nname = \"Default\"\n[[chain.rule]]\nname = \"{rule}\"\n\
             conditions = [{{ subject = \"message subject\", contains = \"<script>alert(1)</script>\" }}]\n\
             actions = [{{ action = \"{action}\" }}]\n[[chain.rule]]\nname = \"else\"\nactions = [{{ action = \"bounce\" }}]\n"
        );
        let set = policy::import::from_toml(&text, "t", &|_| Err(String::new())).unwrap();
        Loaded { set: Some(set), tree: None, mapping: None }
    }

    #[test]
    fn the_page_shows_both_sides_and_lets_nothing_of_a_message_run() {
        let (before, after) = (loaded("<b>secret</b>", "bounce"), loaded("other", "drop"));
        let input = |name, loaded| Input { name, sha256: "00", loaded };
        let found = compare(
            input("before.toml", &before),
            input("after.toml", &after),
            &Options::default(),
            &mut |_, _| None,
        );
        assert_eq!(found.verdict, Relation::Incomparable);
        let page = page(&found, "2026-11-30T12:00:00Z").unwrap();
        assert!(page.contains("INCOMPARABLE") && page.contains("before.toml"), "{page}");
        assert!(page.contains("drop") && page.contains("bounce"), "both outcomes");
        assert!(!page.contains("<script>") && !page.contains("<b>secret"), "{page}");
        assert!(page.contains("&#60;script&#62;") || page.contains("&lt;script&gt;"), "{page}");
    }
}
