//! Regular expressions of conditions and dictionaries.
//!
//! Which dialect the server reads is not documented. What is read here means the same in all that are
//! usual; anything else is not understood, and stays a question of its own.
//!
//! Not here: which texts match (`predicate`, `language`).

use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// Length of a pattern, in octets.
const LENGTH_MAX: usize = 4096;

/// How deep groups of a pattern may be nested.
pub(crate) const NEST_MAX: u32 = 64;

/// States that a pattern may take.
const WEIGHT_MAX: u64 = 20_000;

/// Why a pattern is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is too long.
    #[error("longer than {LENGTH_MAX} octets")]
    Long,
    /// It is no regular expression that we know.
    #[error("{0}")]
    Syntax(String),
    /// It is one that we do not reason about.
    #[error("{0} are not understood")]
    Construct(&'static str),
}

/// An alternative of a pattern, without the anchors at its ends.
#[derive(Clone, Debug)]
pub struct Branch {
    /// `^` stood in front.
    pub from_start: bool,
    /// `$` stood behind.
    pub to_end: bool,
    /// What is between.
    pub between: Hir,
}

/// Reads a pattern as the matcher does, and takes it apart into alternatives.
///
/// # Errors
/// Where it is not understood. Nothing else here depends on how the vendor's expressions differ from
/// ours: what both read, they read alike.
pub fn branches(text: &str, folded: bool) -> Result<Vec<Branch>, PatternError> {
    if text.len() > LENGTH_MAX {
        return Err(PatternError::Long);
    }
    if has_inline_flags(text) {
        return Err(PatternError::Construct("flags inside of patterns"));
    }
    if has_class_operators(text) {
        return Err(PatternError::Construct("classes within classes"));
    }
    let hir = regex_syntax::ParserBuilder::new()
        .case_insensitive(folded)
        .nest_limit(NEST_MAX)
        .build()
        .parse(text)
        .map_err(|error| PatternError::Syntax(last_line(&error.to_string())))?;
    if weight(&hir) > WEIGHT_MAX {
        return Err(PatternError::Construct("so many repetitions"));
    }
    alternatives(&hir)
        .ok_or(PatternError::Construct("word boundaries, and anchors inside of patterns,"))
}

/// The verdict stands in the last line, below a picture of the pattern.
fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// `(?i)`, `(?-i:…)`: anything in `(?` but a group that is only named or not counted.
fn has_inline_flags(text: &str) -> bool {
    text.split("(?").skip(1).any(|rest| !rest.starts_with([':', 'P', '<']))
}

/// `[a[bc]]`, `[a-z&&b]`: what some engines read as operations on classes, and others as characters.
fn has_class_operators(text: &str) -> bool {
    let class = text.split('[').skip(1).any(|rest| !rest.is_empty() && !rest.contains(']'));
    let posix = |rest: &str| rest.starts_with(':');
    let doubled = text.split("[[").skip(1).any(|rest| !posix(rest));
    class || doubled || ["&&", "~~", "[^["].iter().any(|operator| text.contains(operator))
}

/// Takes a pattern apart into alternatives; none where an anchor stands inside of one.
fn alternatives(pattern: &Hir) -> Option<Vec<Branch>> {
    match pattern.kind() {
        HirKind::Capture(group) => alternatives(&group.sub),
        HirKind::Alternation(items) => {
            items.iter().map(alternatives).try_fold(Vec::new(), |mut all, one| {
                all.extend(one?);
                Some(all)
            })
        }
        HirKind::Concat(items) => {
            let look = |item: &Hir, look| matches!(item.kind(), HirKind::Look(one) if *one == look);
            let from_start = items.first().is_some_and(|item| look(item, Look::Start));
            let to_end = items.last().is_some_and(|item| look(item, Look::End));
            let between =
                items[usize::from(from_start)..items.len() - usize::from(to_end)].to_vec();
            plain(Hir::concat(between), from_start, to_end)
        }
        HirKind::Look(Look::Start) => plain(Hir::empty(), true, false),
        HirKind::Look(Look::End) => plain(Hir::empty(), false, true),
        _ => plain(pattern.clone(), false, false),
    }
}

fn plain(between: Hir, from_start: bool, to_end: bool) -> Option<Vec<Branch>> {
    let anchored = !between.properties().look_set().is_empty();
    (!anchored).then(|| vec![Branch { from_start, to_end, between }])
}

/// About how many states it takes.
fn weight(pattern: &Hir) -> u64 {
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Class(Class::Bytes(_)) => 2,
        HirKind::Class(Class::Unicode(ranges)) => 2 + 6 * ranges.ranges().len() as u64,
        HirKind::Capture(group) => weight(&group.sub),
        HirKind::Concat(items) | HirKind::Alternation(items) => {
            items.iter().map(|item| weight(item) + 2).fold(0, u64::saturating_add)
        }
        HirKind::Repetition(repetition) => {
            let times = u64::from(repetition.max.unwrap_or(repetition.min)) + 1;
            weight(&repetition.sub).saturating_add(2).saturating_mul(times)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_are_not_reasoned_about_are_named() {
        assert!(branches(r"a(?:b|c)+[x-z]{2,3}$", true).is_ok());
        for strange in [r"a\b", r"(?i)a", r"(?-i:a)", r"(a)\1", r"(?=a)b", "a(", "[a[b]]", "[[b]a]"]
        {
            assert!(branches(strange, true).is_err(), "{strange}");
        }
        assert!(branches("(^a|b)c", true).is_err(), "an anchor inside");
        assert!(branches("(?:a{100}){1000}", true).is_err());
        assert!(matches!(branches(&"a".repeat(5000), true), Err(PatternError::Long)));
    }
}
