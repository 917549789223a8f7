//! Classes of texts, held against the matcher, and against another library.

use std::collections::BTreeSet;

use proptest::prelude::*;
use regexsolver::Term;

use super::*;
use crate::predicate::{Matcher, Part, Predicate};
use crate::sample::{Sample, Variable};

fn exact(texts: &[&str]) -> Language {
    texts.iter().fold(Language::none(false, true), |language, text| language.with_exact(text))
}

fn pattern(text: &str) -> Language {
    Language::none(false, true).with(Part::Pattern { text: text.into(), anywhere: false })
}

fn domain(name: &str) -> Language {
    Language::none(true, true).with_exact(name)
}

fn found(grammar: Grammar, languages: &[&Language]) -> Vec<(Vec<u32>, String)> {
    let classes = classes(grammar, languages, Budget::default()).unwrap();
    classes.into_iter().map(|class| (class.members, class.text)).collect()
}

/// Every class of addresses: which languages, and a text.
fn addresses(bare: &str, languages: &[&Language]) -> Vec<(Vec<u32>, String)> {
    let all = Addresses::new(bare, languages, Budget::default()).unwrap();
    let has = |some: &Option<Vec<usize>>, one| some.as_ref().is_none_or(|some| some.contains(&one));
    let mut found: Vec<(Vec<u32>, String)> =
        all.points.iter().map(|class| (class.members.clone(), class.text.clone())).collect();
    for (local, domain) in
        (0..all.locals.len()).flat_map(|one| (0..all.domains.len()).map(move |two| (one, two)))
    {
        let within = |pairs: &Pairs| has(&pairs.locals, local) && has(&pairs.domains, domain);
        let members = (0..).zip(&all.languages).filter(|(_, pairs)| pairs.iter().any(within));
        let members = members.map(|(number, _)| number).collect();
        found.extend(all.text(local, domain).map(|text| (members, text)));
    }
    found
}

#[test]
fn addresses_are_pairs_of_local_part_and_domain_and_some_points() {
    let partner = domain("partner.example");
    let news = exact(&["news@partner.example", "no address"]);
    let any_news = pattern("n.*@.*");
    let all: BTreeSet<_> =
        addresses("postmaster", &[&partner, &news, &any_news]).into_iter().collect();
    let expected = [
        (vec![], "postmaster"),
        (vec![], "a@a"),
        (vec![2], "n@a"),
        (vec![0], "a@partner.example"),
        (vec![0, 2], "n@partner.example"),
        (vec![0, 1, 2], "news@partner.example"),
    ];
    let expected = expected.map(|(members, text)| (members, text.to_owned()));
    assert_eq!(all, expected.into_iter().collect());
}

#[test]
fn a_pair_of_points_alone_has_no_other_address() {
    let bob = pattern(r"bob@b\.example");
    let points = exact(&["bob@b.example"]);
    let all = addresses("", &[&bob, &points]);
    let of = |members: &[u32]| all.iter().filter(|(found, _)| found == members).count();
    assert_eq!((of(&[0]), of(&[0, 1])), (0, 1), "{all:?}");
    let two = pattern(r"bob@[bc]\.example");
    let all = addresses("", &[&two, &points]);
    assert!(all.contains(&(vec![0], "bob@c.example".into())), "{all:?}");
}

#[test]
fn the_domain_is_what_stands_behind_the_last_at() {
    let all = addresses("", &[&domain("a.example"), &domain("b.example")]);
    assert!(!all.iter().any(|(members, _)| members.len() == 2), "no address has two domains");
    let quoted = pattern("\"a@b\"@.*");
    let contains = Language::none(true, true).with(Part::Contains("b".into()));
    let all = addresses("", &[&contains, &quoted]);
    assert!(all.contains(&(vec![1], "\"a@b\"@a".into())), "{all:?}");
}

#[test]
fn a_value_is_not_empty_and_a_line_may_be() {
    let empty = exact(&[""]);
    assert_eq!(found(Grammar::Line, &[&empty]).len(), 2);
    assert_eq!(found(Grammar::Value, &[&empty]).len(), 1);
    assert!(addresses("", &[&empty]).contains(&(vec![0], String::new())), "the null reverse-path");
}

#[test]
fn anchors_hold_a_pattern_that_may_match_anywhere() {
    let anywhere = |text: &str| {
        Language::none(false, true).with(Part::Pattern { text: text.into(), anywhere: true })
    };
    let languages = [anywhere("^ab"), anywhere("ab$"), anywhere("ab")];
    let all = found(Grammar::Line, &languages.iter().collect::<Vec<_>>());
    let members: BTreeSet<Vec<u32>> = all.into_iter().map(|(members, _)| members).collect();
    let expected = [vec![], vec![2], vec![0, 2], vec![1, 2], vec![0, 1, 2]];
    assert_eq!(members, expected.into_iter().collect());
}

#[test]
fn a_budget_that_is_spent_is_told() {
    let words: Vec<Language> = (0..12)
        .map(|n| Language::none(false, true).with(Part::Contains(format!("word{n}x"))))
        .collect();
    let words: Vec<&Language> = words.iter().collect();
    let small = Budget { states: 1000, classes: 8192 };
    assert_eq!(classes(Grammar::Line, &words, small), Err(TooLarge));
    let few = Budget { states: 500_000, classes: 100 };
    assert_eq!(classes(Grammar::Line, &words, few), Err(TooLarge));
    assert_eq!(Addresses::new("", &words, few).err(), Some(TooLarge));
    assert_eq!(text_in(Grammar::Line, &words, &[true; 12], small), Err(TooLarge));
}

/// Small languages over few letters, so that they meet.
fn language() -> impl Strategy<Value = Language> {
    let text = "[ab]{0,3}";
    let pattern = proptest::sample::select(vec![
        "a*",
        "(ab)+",
        "[^a]b?",
        "a|bb",
        "b{2,3}",
        ".*a.",
        "^a",
        "b$",
        "(?:a|^b)$",
        "a.a",
        "",
    ]);
    let part = prop_oneof![
        text.prop_map(Part::Contains),
        text.prop_map(Part::Begins),
        text.prop_map(Part::Ends),
        (pattern, any::<bool>())
            .prop_map(|(text, anywhere)| Part::Pattern { text: text.into(), anywhere }),
    ];
    let parts = proptest::collection::vec(part, 0..3);
    let exact = proptest::collection::vec(text, 0..3);
    (any::<bool>(), parts, exact).prop_map(|(domain, parts, exact)| {
        let none = Language::none(domain, true);
        let parts = parts.into_iter().filter(|part| match part {
            Part::Pattern { text, .. } => crate::pattern::branches(text, true).is_ok(),
            _ => true,
        });
        let language = parts.fold(none, Language::with);
        exact.iter().fold(language, |language, text| language.with_exact(text))
    })
}

fn members_by_matcher(languages: &[Language], text: &str) -> Vec<u32> {
    let sample = Sample::unknown().with_text(Variable::Recipient, text);
    let holds = |language: &Language| {
        let variable = Variable::Recipient;
        let predicate = Predicate::Text { variable, language: language.clone() };
        Matcher::new(&predicate).holds(&sample).unwrap()
    };
    (0..).zip(languages).filter(|(_, language)| holds(language)).map(|(at, _)| at).collect()
}

proptest! {
    /// Goal: classes say of all texts what the matcher says of one.
    /// Method: small languages; every address of a small universe, and the text of every class.
    #[test]
    fn every_address_is_in_a_class_that_gives_the_matchers_answers(
        languages in proptest::collection::vec(language(), 1..5),
    ) {
        let all = addresses("", &languages.iter().collect::<Vec<_>>());
        let mut known = BTreeSet::new();
        for (members, text) in &all {
            prop_assert_eq!(members, &members_by_matcher(&languages, text), "{}", text);
            known.insert(members.clone());
        }
        let words = ["a", "b", "aa", "ab", "ba", "bb", "aba", "A", "c", "abab"];
        for (local, domain) in words.iter().flat_map(|one| words.map(|two| (one, two))) {
            let members = members_by_matcher(&languages, &format!("{local}@{domain}"));
            prop_assert!(known.contains(&members), "{}@{} gives {:?}", local, domain, members);
        }
    }

    /// Goal: which of two patterns is in the other is what an independent library says.
    #[test]
    fn another_library_agrees_on_subset_and_overlap(
        one in proptest::sample::select(vec!["a*", "(ab)+", "[ab]b?", "a|bb", "b{2,3}", "[ab]*a[ab]", "abab", "a+"]),
        two in proptest::sample::select(vec!["a*", "(ab)+", "[ab]b?", "a|bb", "b{2,3}", "[ab]*a[ab]", "abab", "a+"]),
    ) {
        let all = found(Grammar::Line, &[&pattern(one), &pattern(two)]);
        let exists = |members: &[u32]| all.iter().any(|(found, _)| found == members);
        let (one, two) = (Term::from_pattern(one).unwrap(), Term::from_pattern(two).unwrap());
        prop_assert_eq!(!exists(&[0]), one.subset(&two).unwrap());
        let both = one.intersection([&two]).unwrap();
        prop_assert_eq!(!exists(&[0, 1]), both.is_empty().unwrap());
    }
}
