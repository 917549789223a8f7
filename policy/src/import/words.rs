//! The words of a typed policy, and what they stand for.
//!
//! There is one list of each kind of word: what is typed, what a mapping maps to and what an error
//! lists is the same.
//!
//! Not here: which keys go with a word (`toml`), the words of an export (`mapping`).

use crate::action::{Encoding, Outcome};
use crate::chain::AppliesTo;
use crate::condition::{Mode, Operator, Subject};
use crate::dictionary::{Form, Kind};
use crate::sample::Variable;
use crate::set::Unmanaged;

/// Words that stand for something.
pub(super) type Words<T> = Vec<(&'static str, T)>;

/// What a word stands for; letter case and the number of blanks do not matter.
pub(super) fn find<T: Clone>(words: &Words<T>, typed: &str) -> Option<T> {
    let plain = plain(typed);
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&plain));
    found.map(|(_, value)| value.clone())
}

/// Single blanks between the parts of a word, and none around it.
fn plain(typed: &str) -> String {
    typed.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The word among `known` that is most like this one, if one is.
pub(super) fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    // A distance is the product of the lengths: nobody mistypes a word into a novel.
    const LENGTH_MAX: usize = 100;
    if typed.len() > LENGTH_MAX {
        return None;
    }
    let typed = plain(typed).to_ascii_lowercase();
    known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&typed, &word.to_ascii_lowercase()), *word))
        .min()
        .filter(|(distance, word)| *distance <= 1 + word.len() / 3)
        .map(|(_, word)| word)
}

/// The mend for a word that is not known: the nearest that is, and all of them.
pub(super) fn mend(typed: &str, known: &[&str]) -> String {
    let list = known.join(", ");
    match nearest(typed, known) {
        Some(word) => format!("did you mean {word:?}? There are: {list}"),
        None => format!("use one of: {list}"),
    }
}

/// The words alone.
pub(super) fn names<T>(words: &Words<T>) -> Vec<&'static str> {
    words.iter().map(|(word, _)| *word).collect()
}

/// What an action does, before its parameters are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Encrypt to the recipient's key.
    Send,
    /// Sign and send.
    Sign,
    /// End with this.
    Finish(Outcome),
    /// Go on in another chain.
    GoTo,
    /// Add to a dictionary.
    AddTo,
    /// Write a line to the log.
    Log,
    /// Send a copy.
    Copy,
}

pub(super) fn verbs() -> Words<Verb> {
    let mut verbs = outcomes();
    verbs.extend([
        ("send (encrypted/signed)", Verb::Send),
        ("go to chain", Verb::GoTo),
        ("expand mailing list and restart", Verb::Finish(Outcome::Expanded)),
        ("add to dictionary", Verb::AddTo),
        ("add log entry", Verb::Log),
        ("send copy", Verb::Copy),
    ]);
    verbs
}

/// Verbs that can stand for a missing key.
pub(super) fn outcomes() -> Words<Verb> {
    vec![
        ("sign and send", Verb::Sign),
        ("send clear (signed)", Verb::Sign),
        ("send clear (unsigned)", Verb::Finish(Outcome::Clear)),
        ("pass through unmodified", Verb::Finish(Outcome::Unmodified)),
        ("bounce", Verb::Finish(Outcome::Bounced)),
        ("drop", Verb::Finish(Outcome::Dropped)),
        ("decrypt and verify", Verb::Finish(Outcome::Decrypted)),
        ("PDF Messenger", Verb::Finish(Outcome::Pdf)),
        ("PDF Messenger (Encrypt All)", Verb::Finish(Outcome::PdfAll)),
        ("Web Messenger", Verb::Finish(Outcome::Web)),
        ("Smart Trailer", Verb::Finish(Outcome::SmartTrailer)),
        ("Certified Delivery", Verb::Finish(Outcome::Certified)),
    ]
}

/// The outcome of a verb of [`outcomes`].
pub(super) fn outcome(verb: Verb, encoding: Encoding) -> Option<Outcome> {
    match verb {
        Verb::Sign => Some(Outcome::Signed(encoding)),
        Verb::Finish(outcome) => Some(outcome),
        Verb::Send | Verb::GoTo | Verb::AddTo | Verb::Log | Verb::Copy => None,
    }
}

/// An operator, given what it compares with; none where that must be a number and is not.
pub(super) type Compare = fn(&str) -> Option<Operator>;

pub(super) fn operators() -> Words<Compare> {
    vec![
        ("is", |text| Some(Operator::Is(text.to_owned()))),
        ("contains", |text| Some(Operator::Contains(text.to_owned()))),
        ("begins_with", |text| Some(Operator::BeginsWith(text.to_owned()))),
        ("ends_with", |text| Some(Operator::EndsWith(text.to_owned()))),
        ("matches_pattern", |text| Some(Operator::Matches(text.to_owned()))),
        ("is_subdomain_of", |text| Some(Operator::IsSubdomainOf(text.to_owned()))),
        ("is_in_dictionary", |text| Some(Operator::IsInDictionary(text.to_owned()))),
        ("is_greater_than", |text| text.parse().ok().map(Operator::IsGreaterThan)),
        ("is_less_than", |text| text.parse().ok().map(Operator::IsLessThan)),
    ]
}

/// Every name of a subject.
pub(super) fn subjects() -> Vec<&'static str> {
    let mut names = Variable::names();
    names.extend(["recipient domain", "sender domain"]);
    names
}

/// A subject as it was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SubjectWord {
    /// It is known.
    Known(Subject),
    /// It is known, and says nothing without an argument.
    NeedsArgument,
    /// It is known, and has no argument.
    HasNoArgument,
    /// There is no such word.
    Unknown,
}

pub(super) fn subject(typed: &str, argument: Option<&str>) -> SubjectWord {
    let name = plain(typed).to_ascii_lowercase();
    let argument = argument.map(str::trim).filter(|argument| !argument.is_empty());
    if let Some(subject) = Subject::parse(&name, argument) {
        // A subject without an argument ignores none: two that differ only in it must not be equal.
        let ignored = matches!(subject, Subject::DomainOf(_)) && argument.is_some();
        return if ignored { SubjectWord::HasNoArgument } else { SubjectWord::Known(subject) };
    }
    if !subjects().contains(&name.as_str()) {
        SubjectWord::Unknown
    } else if argument.is_none() {
        SubjectWord::NeedsArgument
    } else {
        SubjectWord::HasNoArgument
    }
}

pub(super) fn modes() -> Words<Mode> {
    [Mode::All, Mode::Any, Mode::None].map(|mode| (mode.as_str(), mode)).to_vec()
}

pub(super) fn encodings() -> Words<Encoding> {
    Encoding::ALL.map(|encoding| (encoding.as_str(), encoding)).to_vec()
}

pub(super) fn applies_to() -> Words<AppliesTo> {
    AppliesTo::ALL.map(|applies_to| (applies_to.as_str(), applies_to)).to_vec()
}

pub(super) fn kinds() -> Words<Kind> {
    [Kind::Static, Kind::Dynamic].map(|kind| (kind.as_str(), kind)).to_vec()
}

pub(super) fn forms() -> Words<Form> {
    [Form::Literal, Form::Pattern].map(|form| (form.as_str(), form)).to_vec()
}

pub(super) fn unmanaged() -> Words<Unmanaged> {
    vec![("pass through unmodified", Unmanaged::PassUnmodified), ("bounce", Unmanaged::Bounce)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_whatever_its_case_and_blanks() {
        assert_eq!(find(&verbs(), " Go  to\tChain"), Some(Verb::GoTo));
        assert_eq!(find(&verbs(), "gotochain"), None);
        assert_eq!(
            nearest("pas through unmodifed", &names(&verbs())),
            Some("pass through unmodified")
        );
        assert_eq!(nearest("teleport", &names(&verbs())), None);
        assert_eq!(nearest(&"bounce".repeat(1000), &names(&verbs())), None);
    }

    #[test]
    fn a_subject_says_whether_it_has_an_argument() {
        assert!(matches!(subject("Recipient  Address", None), SubjectWord::Known(_)));
        assert!(matches!(subject("message header", Some("X-Secret")), SubjectWord::Known(_)));
        assert_eq!(subject("message header", None), SubjectWord::NeedsArgument);
        assert_eq!(subject("message header", Some(" ")), SubjectWord::NeedsArgument);
        assert_eq!(subject("message size", Some("x")), SubjectWord::HasNoArgument);
        assert_eq!(subject("sender domain", Some("x")), SubjectWord::HasNoArgument);
        assert_eq!(subject("sender", None), SubjectWord::Unknown);
    }

    #[test]
    fn every_name_of_a_subject_is_understood() {
        for name in subjects() {
            let known = [None, Some("x")].map(|argument| subject(name, argument));
            assert!(known.iter().any(|word| matches!(word, SubjectWord::Known(_))), "{name}");
        }
    }
}
