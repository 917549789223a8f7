//! What a condition asks, in a form that two policies can share: a language over a fact's texts, a
//! comparison of its number, or a question that nobody here understands.
//!
//! The same predicate is asked of samples (here) and reasoned about for all texts (`language`), so
//! that both mean the same.
//!
//! Invariant: equal questions are equal values, whatever policy they come from.
//!
//! Not here: which texts there are (`language`), how predicates are combined (`program`).

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use regex::{RegexSet, RegexSetBuilder};

use crate::pattern::NEST_MAX;
use crate::sample::{Fact, Sample, Variable};
use crate::set::Opaque;

/// Octets that compiled patterns of one language may take.
const PATTERNS_OCTETS_MAX: usize = 64 << 20;

/// A question about one fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Predicate {
    /// A text, or one of several, is in a language.
    Text {
        /// The fact.
        variable: Variable,
        /// The language.
        language: Language,
    },
    /// A number is in a range.
    Number {
        /// The fact.
        variable: Variable,
        /// The smallest.
        from: u64,
        /// The greatest.
        to: u64,
    },
    /// Not understood.
    Opaque(Opaque),
}

/// A set of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Language {
    /// Only the domain of an address is looked at.
    pub domain: bool,
    /// The case of ASCII letters does not matter.
    pub folded: bool,
    /// Texts that are in it as they are; in lower case where folded.
    pub exact: BTreeSet<String>,
    /// Other texts.
    pub parts: BTreeSet<Part>,
}

/// Texts that have something in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// They have this in them.
    Contains(String),
    /// They begin with this.
    Begins(String),
    /// They end with this.
    Ends(String),
    /// They match this regular expression.
    Pattern {
        /// The expression.
        text: String,
        /// A part of the text is enough.
        anywhere: bool,
    },
}

impl Language {
    /// No text, yet.
    #[must_use]
    pub fn none(domain: bool, folded: bool) -> Self {
        Self { domain, folded, ..Self::default() }
    }

    /// With this text, and no other.
    #[must_use]
    pub fn with_exact(mut self, text: &str) -> Self {
        let text = self.fold(text);
        self.exact.insert(text);
        self
    }

    /// With these.
    #[must_use]
    pub fn with(mut self, part: Part) -> Self {
        let part = match part {
            Part::Contains(text) => Part::Contains(self.fold(&text)),
            Part::Begins(text) => Part::Begins(self.fold(&text)),
            Part::Ends(text) => Part::Ends(self.fold(&text)),
            pattern @ Part::Pattern { .. } => pattern,
        };
        self.parts.insert(part);
        self
    }

    /// The text as it is compared.
    #[must_use]
    pub fn fold(&self, text: &str) -> String {
        if self.folded { text.to_ascii_lowercase() } else { text.to_owned() }
    }
}

/// Asks one predicate of samples.
#[derive(Debug)]
pub struct Matcher {
    predicate: Predicate,
    exact: HashSet<String>,
    parts: Vec<Part>,
    patterns: RegexSet,
}

impl Matcher {
    /// Prepares a predicate.
    #[must_use]
    pub fn new(predicate: &Predicate) -> Self {
        let (mut exact, mut parts) = (HashSet::new(), Vec::new());
        let mut patterns = RegexSet::empty();
        if let Predicate::Text { language, .. } = predicate {
            exact.extend(language.exact.iter().cloned());
            let mut texts = Vec::new();
            for part in &language.parts {
                match part {
                    Part::Pattern { text, anywhere: true } => texts.push(text.clone()),
                    Part::Pattern { text, anywhere: false } => {
                        texts.push(format!(r"\A(?:{text})\z"));
                    }
                    part => parts.push(part.clone()),
                }
            }
            patterns = RegexSetBuilder::new(&texts)
                .case_insensitive(language.folded)
                .nest_limit(NEST_MAX + 1)
                .size_limit(PATTERNS_OCTETS_MAX)
                .build()
                .unwrap_or_else(|_| RegexSet::empty());
        }
        Self { predicate: predicate.clone(), exact, parts, patterns }
    }

    /// The predicate.
    #[must_use]
    pub fn predicate(&self) -> &Predicate {
        &self.predicate
    }

    /// Does it hold? None where that is not known.
    #[must_use]
    pub fn holds(&self, sample: &Sample) -> Option<bool> {
        match &self.predicate {
            Predicate::Opaque(_) => None,
            Predicate::Number { variable, from, to } => match sample.fact(variable)? {
                Fact::Number(number) => Some((from..=to).contains(&number)),
                Fact::Text(_) | Fact::Texts(_) => None,
            },
            Predicate::Text { variable, language } => match sample.fact(variable)? {
                Fact::Text(text) => Some(self.matches(language, text)),
                Fact::Texts(texts) => Some(texts.iter().any(|text| self.matches(language, text))),
                Fact::Number(_) => None,
            },
        }
    }

    fn matches(&self, language: &Language, text: &str) -> bool {
        let text = match (language.domain, text.rsplit_once('@')) {
            (false, _) => text,
            (true, Some((_, domain))) => domain,
            (true, None) => return false,
        };
        let folded = language.fold(text);
        let has = |part: &Part| match part {
            Part::Contains(part) => folded.contains(part),
            Part::Begins(part) => folded.starts_with(part),
            Part::Ends(part) => folded.ends_with(part),
            Part::Pattern { .. } => false,
        };
        self.exact.contains(&folded)
            || self.parts.iter().any(has)
            || (!self.patterns.is_empty() && self.patterns.is_match(text))
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opaque(opaque) => f.write_str(&opaque.what),
            Self::Number { variable, from: 0, to } => write!(f, "{variable} <= {to}"),
            Self::Number { variable, from, to: u64::MAX } => write!(f, "{variable} >= {from}"),
            Self::Number { variable, from, to } => write!(f, "{variable} in {from}..={to}"),
            Self::Text { variable, language } => {
                let domain = if language.domain { "domain of " } else { "" };
                write!(f, "{domain}{variable} {language}")
            }
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Texts that are written out.
        const SHOWN: usize = 3;
        let mut ways = Vec::new();
        match self.exact.len() {
            0 => {}
            1..=SHOWN => ways.extend(self.exact.iter().map(|text| format!("is {text:?}"))),
            many => ways.push(format!("is one of {many} texts")),
        }
        ways.extend(self.parts.iter().map(|part| match part {
            Part::Contains(text) => format!("contains {text:?}"),
            Part::Begins(text) => format!("begins with {text:?}"),
            Part::Ends(text) => format!("ends with {text:?}"),
            Part::Pattern { text, .. } => format!("matches pattern {text:?}"),
        }));
        if ways.is_empty() {
            return f.write_str("is one of no texts");
        }
        f.write_str(&ways.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(language: Language, text: &str) -> bool {
        let predicate = Predicate::Text { variable: Variable::Recipient, language };
        let sample = Sample::unknown().with_text(Variable::Recipient, text);
        Matcher::new(&predicate).holds(&sample).unwrap()
    }

    fn pattern(text: &str, anywhere: bool) -> Language {
        Language::none(false, true).with(Part::Pattern { text: text.into(), anywhere })
    }

    #[test]
    fn the_domain_of_an_address_stands_behind_the_last_at() {
        let domain = || Language::none(true, true).with_exact("Example.COM");
        assert!(holds(domain(), "a@example.com"));
        assert!(holds(domain(), "\"a@b\"@EXAMPLE.com"));
        assert!(!holds(domain(), "\"a@example.com\"@example.org"));
        assert!(!holds(domain(), "postmaster"));
    }

    #[test]
    fn a_pattern_matches_all_of_a_text_unless_a_part_is_enough() {
        assert!(holds(pattern("r.*@example.com", false), "Rudolf@example.com"));
        assert!(!holds(pattern("r.*@example.com", false), "karl@example.com"));
        assert!(holds(pattern("r.*@example.com", true), "karl@example.com"));
        assert!(holds(pattern("a|b", false), "b"), "alternatives are all of it too");
        assert!(!holds(pattern("a|b", false), "bc"));
    }

    #[test]
    fn what_is_not_known_is_neither_true_nor_false() {
        let predicate = Predicate::Number { variable: Variable::Size, from: 10, to: u64::MAX };
        let matcher = Matcher::new(&predicate);
        assert_eq!(matcher.holds(&Sample::unknown()), None);
        let sized = |octets| Sample::unknown().with(Variable::Size, Fact::Number(octets));
        assert_eq!(matcher.holds(&sized(10)), Some(true));
        assert_eq!(matcher.holds(&sized(9)), Some(false));
    }
}
