//! Rules of regular expressions: `regexp:` and `pcre:` tables (regexp_table(5), pcre_table(5)).
//!
//! What both dialects and ours read alike is understood; the rest keeps its reason, and whoever asks
//! takes it for a question of its own.
//!
//! Not here: what a rule is asked of (`table`, `checks`).

use policy::origin::Origin;

use super::lines::{Logical, in_braces};
use super::parameters::Stray;

/// How deep `if` may stand within `if`.
const IFS_MAX: usize = 32;

/// Which expressions a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// POSIX extended.
    Posix,
    /// Perl's.
    Perl,
}

/// An expression, asked of the text that is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression {
    pub(super) text: String,
    /// Holds where it does not match.
    pub(super) negated: bool,
    /// Why it is not understood, if it is not.
    pub(super) strange: Option<&'static str>,
}

/// A rule: what must match, and the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Those of the `if`s around it, then its own.
    pub(super) all: Vec<Expression>,
    pub(super) result: String,
    pub(super) origin: Origin,
}

/// Reads the rules of a table.
pub(super) fn rules(lines: Vec<Logical>, dialect: Dialect) -> (Vec<Rule>, Vec<Stray>) {
    let (mut rules, mut strays, mut ifs) = (Vec::new(), Vec::new(), Vec::new());
    for Logical { text, origin } in lines {
        let keyword = |word: &str| {
            let rest = text.get(..word.len()).filter(|start| start.eq_ignore_ascii_case(word));
            let rest = rest.map(|_| &text[word.len()..])?;
            let ends = rest.chars().next().is_none_or(|next| !next.is_ascii_alphanumeric());
            ends.then(|| rest.trim())
        };
        if let Some(rest) = keyword("if") {
            match expression(rest, dialect) {
                Some((condition, "")) if ifs.len() < IFS_MAX => ifs.push(condition),
                // Postfix skips such an `if` and what is in it; it is counted, so that its end is.
                _ => {
                    ifs.push(Expression { strange: Some("its `if`"), ..never(rest) });
                    strays.push(Stray { text: text.clone(), origin });
                }
            }
        } else if keyword("endif").is_some() {
            if ifs.pop().is_none() {
                strays.push(Stray { text: text.clone(), origin });
            }
        } else if let Some((own, result)) = expression(&text, dialect) {
            let mut all = ifs.clone();
            all.push(own);
            rules.push(Rule { all, result: result.to_owned(), origin });
        } else {
            strays.push(Stray { text: text.clone(), origin });
        }
    }
    (rules, strays)
}

/// The rules of a table that stands in main.cf: `{ { rule }, { rule } }`.
pub(super) fn inline(text: &str, origin: &Origin) -> Vec<Logical> {
    let parts = super::lines::parts(text).into_iter();
    parts
        .map(|part| Logical {
            text: in_braces(part).unwrap_or(part).to_owned(),
            origin: origin.clone(),
        })
        .collect()
}

fn never(text: &str) -> Expression {
    Expression { text: text.to_owned(), negated: false, strange: None }
}

/// `/pattern/flags rest`, with any delimiter that is no letter and no digit; `!` in front negates.
fn expression(text: &str, dialect: Dialect) -> Option<(Expression, &str)> {
    let (mut text, mut negated) = (text.trim_start(), false);
    while let Some(rest) = text.strip_prefix('!') {
        negated = !negated;
        text = rest.trim_start();
    }
    let delimiter = text.chars().next().filter(|first| !first.is_alphanumeric())?;
    let inside = &text[delimiter.len_utf8()..];
    let end = unescaped(inside, delimiter)?;
    let (pattern, rest) = (&inside[..end], &inside[end + delimiter.len_utf8()..]);
    let flags_end = rest.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (flags, result) = rest.split_at(flags_end);
    let strange = strange(pattern, flags, dialect);
    Some((Expression { text: pattern.to_owned(), negated, strange }, result.trim()))
}

fn unescaped(text: &str, delimiter: char) -> Option<usize> {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        if !escaped && letter == delimiter {
            return Some(at);
        }
        escaped = !escaped && letter == '\\';
    }
    None
}

/// Why an expression does not mean here what it means to Postfix, or may not.
fn strange(pattern: &str, flags: &str, dialect: Dialect) -> Option<&'static str> {
    let odd = |flag: char| flags.matches(flag).count() % 2 == 1;
    if odd('i') {
        return Some("letter case matters in it");
    }
    if odd('x') {
        return Some("it is written with the flag x");
    }
    if flags.chars().any(|flag| !matches!(flag, 'i' | 'x' | 'm' | 's')) {
        return Some("its flags are not known");
    }
    dialects_differ(&pattern.chars().collect::<Vec<char>>(), dialect)
}

fn dialects_differ(pattern: &[char], dialect: Dialect) -> Option<&'static str> {
    let (mut at, mut before) = (0, ' ');
    while let Some(letter) = pattern.get(at) {
        let mut length = 1;
        match letter {
            '\\' => {
                // GNU's library has these four as Perl has them.
                let alike = |next: &char| !next.is_ascii_alphanumeric() || "sSwW".contains(*next);
                if dialect == Dialect::Posix && !pattern.get(at + 1).is_none_or(alike) {
                    return Some("its escapes differ between dialects");
                }
                length = 2;
            }
            '[' => {
                length = class_length(&pattern[at..], dialect);
                let class = pattern.get(at..at + length)?;
                if class.contains(&'\\') && dialect == Dialect::Posix {
                    return Some("a backslash in its brackets differs between dialects");
                }
            }
            '+' if matches!(before, '*' | '+' | '?' | '}') => {
                return Some("its repetitions differ between dialects");
            }
            '?' | '*'
                if dialect == Dialect::Posix && matches!(before, '(' | '*' | '+' | '?' | '}') =>
            {
                return Some("its repetitions or groups differ between dialects");
            }
            _ => {}
        }
        before = if length == 1 { *letter } else { 'x' };
        at += length;
    }
    None
}

/// How long a class in brackets is, that a pattern begins with; a `]` that stands first is part of it.
fn class_length(pattern: &[char], dialect: Dialect) -> usize {
    let mut at = 1 + usize::from(pattern.get(1) == Some(&'^'));
    at += usize::from(pattern.get(at) == Some(&']'));
    while let Some(letter) = pattern.get(at) {
        match letter {
            ']' => return at + 1,
            '\\' if dialect == Dialect::Perl => at += 2,
            '[' if matches!(pattern.get(at + 1), Some(':' | '.' | '=')) => {
                let named = pattern[at..].iter().position(|letter| *letter == ']');
                at += named.map_or(1, |end| end + 1);
            }
            _ => at += 1,
        }
    }
    pattern.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::lines::logical;

    fn shown(text: &str, dialect: Dialect) -> Vec<String> {
        let (rules, _) = rules(logical(text, "t"), dialect);
        let expression = |one: &Expression| {
            let (not, strange) = (if one.negated { "!" } else { "" }, one.strange.unwrap_or(""));
            format!("{not}{}{}", one.text, strange)
        };
        let rule = |rule: &Rule| {
            let all: Vec<String> = rule.all.iter().map(expression).collect();
            format!("{} -> {}", all.join(" & "), rule.result)
        };
        rules.iter().map(rule).collect()
    }

    #[test]
    fn rules_stand_within_ifs_and_may_be_negated() {
        let text = "/a\\/b/ x y\n!/c/i\tz\nif /d/\n!!~e~ 1\nif !/f/\n/g/ 2\nendif\nendif\n/h/ 3\n";
        let expected = [
            "a\\/b -> x y",
            "!cletter case matters in it -> z",
            "d & e -> 1",
            "d & !f & g -> 2",
            "h -> 3",
        ];
        assert_eq!(shown(text, Dialect::Perl), expected);
    }

    #[test]
    fn what_dialects_read_otherwise_is_strange() {
        let strange = |pattern: &str, dialect| strange(pattern, "", dialect).is_some();
        for plain in
            ["^a.*\\.b$", "(a|b)+", "[a-z]{2,3}", "[[:space:]]*x", "a\\[b", "[]a]", "[^]a]"]
        {
            assert!(!strange(plain, Dialect::Posix), "{plain}");
            assert!(!strange(plain, Dialect::Perl), "{plain}");
        }
        assert!(strange("a++", Dialect::Posix) && strange("a++", Dialect::Perl));
        for odd in ["(?:a)", "a+?", "(?i)a"] {
            assert!(strange(odd, Dialect::Posix) && !strange(odd, Dialect::Perl), "{odd}");
        }
        assert!(strange("[a^]a++", Dialect::Perl), "the class ends");
        assert!(strange("\\d", Dialect::Posix) && !strange("\\d", Dialect::Perl));
        assert!(strange("[\\.]", Dialect::Posix) && !strange("[\\.]", Dialect::Perl));
    }

    #[test]
    fn broken_lines_are_named() {
        let text = "no pattern\n/open x\nendif\nif\n/a/ 1\nendif\n";
        let (rules, strays) = rules(logical(text, "t"), Dialect::Posix);
        assert_eq!(strays.len(), 4, "{strays:?}");
        assert!(rules[0].all[0].strange.is_some(), "within an `if` that is not understood");
    }
}
