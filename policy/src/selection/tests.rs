//! Probes for small policies, each reason for leaving a rule out, and a property over random ones.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::condition::Test;
use crate::import::from_toml;
use crate::set::{Opaque, Stated};

fn set(text: &str) -> PolicySet {
    from_toml(text, "test", &|name| Err(format!("no list {name}"))).unwrap()
}

fn rule(name: &str, conditions: &str, actions: &str) -> String {
    format!(
        "[[chain.rule]]\nname = \"{name}\"\nconditions = [ {conditions} ]\n\
         actions = [ {actions} ]\n"
    )
}

const BOUNCE: &str = "{ action = \"bounce\" }";
const SEND: &str = "{ action = \"send (encrypted/signed)\", sign = true, \
                    key_not_found = \"send clear (signed)\" }";

/// A policy whose mail all comes to one chain, with these rules.
fn policy(rules: &str) -> PolicySet {
    set(&format!(
        "[globals]\nlearn_mode = false\nunmanaged_domains = \"bounce\"\n\
         managed_domains = [\"home.example\"]\n[[chain]]\nname = \"Default\"\n{rules}\
         [[chain]]\nname = \"Exception\"\n{}",
        rule("failed", "", BOUNCE)
    ))
}

const MAILBOXES: [&str; 2] = ["One@a.example", "two@b.example"];
const SENDERS: [&str; 1] = ["probe@home.example"];

fn chosen(set: &PolicySet, mailboxes: &[&str], senders: &[&str]) -> Selection {
    limited(set, mailboxes, senders, Limits::default()).unwrap()
}

fn limited(
    set: &PolicySet,
    mailboxes: &[&str],
    senders: &[&str],
    limits: Limits,
) -> Result<Selection, SelectError> {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (mailboxes, senders) = (owned(mailboxes), owned(senders));
    let directions = Directions::Outbound;
    let offer = Offer { mailboxes: &mailboxes, senders: &senders, directions };
    select(set, &Assumptions::default(), &offer, limits)
}

fn text<'s>(sample: &'s Sample, variable: &Variable) -> &'s str {
    match sample.fact(variable) {
        Some(Fact::Text(text)) => text,
        other => panic!("{variable}: {other:?}"),
    }
}

/// Why the first chain's rules are not covered, by their places.
fn left_out(selection: &Selection) -> Vec<(usize, Why)> {
    let of_first = |one: &Uncovered| match one.place {
        Place::Rule { chain: 0, rule } => Some((rule, one.why.clone())),
        _ => None,
    };
    selection.uncovered.iter().filter_map(of_first).collect()
}

#[test]
fn every_rule_of_the_installed_policy_for_outbound_mail_is_met() {
    let text = include_str!("../../samples/default-3.3.toml")
        .replace(
            "name = \"Excluded Addresses: Sign\" ",
            "name = \"Excluded Addresses: Sign\"\nliterals = [\"one@a.example\"] ",
        )
        .replace(
            "name = \"Excluded Addresses: Do Not Sign\" ",
            "name = \"Excluded Addresses: Do Not Sign\"\nliterals = [\"two@b.example\"] ",
        );
    let set = set(&text);
    let mailboxes = ["One@a.example", "two@b.example", "three@c.example"];
    let selection = chosen(&set, &mailboxes, &["probe@example.com"]);
    let outcomes: Vec<String> =
        selection.probes.iter().map(|probe| probe.decision.fate.outcome.to_string()).collect();
    assert_eq!(outcomes.len(), 6, "two ends of each of two rules, one of two others: {outcomes:?}");
    let left: Vec<(&str, &Why)> = selection
        .uncovered
        .iter()
        .map(|one| match one.place {
            Place::Rule { chain, rule } => (set.chains[chain].rules[rule].name.as_str(), &one.why),
            Place::Before(guard) => (guard.as_str(), &one.why),
        })
        .collect();
    assert_eq!(
        left,
        [
            ("Inbound Mail", &Why::OtherRecipients),
            ("Decrypt Message (SMTP)", &Why::OtherRecipients),
            ("Bounce", &Why::FailedProcessing),
        ]
    );
}

#[test]
fn probes_go_only_between_addresses_of_the_operator_as_they_were_written() {
    let selection = chosen(&policy(&rule("all", "", SEND)), &MAILBOXES, &SENDERS);
    for probe in &selection.probes {
        assert!(MAILBOXES.contains(&text(&probe.sample, &Variable::Recipient)));
        assert!(SENDERS.contains(&text(&probe.sample, &Variable::Sender)));
        assert_eq!(text(&probe.sample, &Variable::Direction), "outbound");
        assert_eq!(text(&probe.sample, &Variable::Processing), "ok");
    }
}

#[test]
fn both_ends_of_a_rule_that_looks_for_a_key_are_met_at_different_mailboxes() {
    let set = policy(
        &(rule("small", "{ subject = \"message size\", is_less_than = 9 }", SEND)
            + &rule("all", "", SEND)),
    );
    let selection = chosen(&set, &MAILBOXES, &SENDERS);
    assert_eq!(selection.probes.len(), 4);
    let expected: BTreeSet<(String, String)> = selection
        .probes
        .iter()
        .map(|probe| {
            assert_eq!(probe.expects.len(), 1, "{:?}", probe.expects);
            let (variable, fact) = &probe.expects[0];
            assert_eq!(*variable, Variable::RecipientKey);
            (text(&probe.sample, &Variable::Recipient).to_owned(), fact.to_string())
        })
        .collect();
    assert_eq!(expected.len(), 2, "each mailbox has a key or has none: {expected:?}");

    let selection = chosen(&set, &MAILBOXES[..1], &SENDERS);
    assert_eq!(selection.probes.len(), 4, "one mailbox must do for both");
    assert_eq!(selection.uncovered.len(), 1, "the exception: {:?}", selection.uncovered);
}

#[test]
fn what_decides_nothing_is_not_expected() {
    let group = "{ subject = \"recipient group\", is = \"staff\" }";
    let large = "{ subject = \"message size\", is_greater_than = 9 }";
    let set = policy(
        &(rule("large", large, BOUNCE) + &rule("staff", group, SEND) + &rule("all", "", BOUNCE)),
    );
    let selection = chosen(&set, &MAILBOXES, &SENDERS);
    let expects = |rule: usize| -> BTreeSet<Vec<Variable>> {
        let last = Place::Rule { chain: 0, rule };
        let of = selection.probes.iter().filter(|one| one.decision.rules.last() == Some(&last));
        of.map(|one| one.expects.iter().map(|(variable, _)| variable.clone()).collect()).collect()
    };
    assert_eq!(expects(0), BTreeSet::from([vec![]]));
    assert_eq!(
        expects(1),
        BTreeSet::from([vec![Variable::RecipientGroup, Variable::RecipientKey]])
    );
    assert_eq!(expects(2), BTreeSet::from([vec![Variable::RecipientGroup]]));
}

#[test]
fn rules_that_only_do_something_beside_are_met_on_the_way() {
    let copy = |server: &str| format!("{{ action = \"send copy\", server = \"{server}\" }}");
    let large = "{ subject = \"message size\", is_greater_than = 9 }";
    let small = "{ subject = \"message size\", is_less_than = 9 }";
    let rules = rule("large", large, &copy("a"))
        + &rule("small", small, &copy("b"))
        + &rule("x", "{ subject = \"message subject\", is = \"x\" }", BOUNCE)
        + &rule("all", "", BOUNCE);
    let selection = chosen(&policy(&rules), &MAILBOXES, &SENDERS);
    assert_eq!(selection.probes.len(), 2, "those that are wanted anyway: {selection:?}");
    assert_eq!(left_out(&selection), []);
    let only = rule("large", large, &copy("a"))
        + &rule("small", small, &copy("b"))
        + &rule("all", "", BOUNCE);
    let selection = chosen(&policy(&only), &MAILBOXES, &SENDERS);
    assert_eq!(selection.probes.len(), 2, "one more for what no other can meet");
    assert_eq!(left_out(&selection), []);
}

#[test]
fn each_rule_that_no_probe_can_meet_is_named_with_why() {
    let recipient = |text: &str| format!("{{ subject = \"recipient address\", is = \"{text}\" }}");
    let sender = |text: &str| format!("{{ subject = \"sender address\", is = \"{text}\" }}");
    let two = format!("{}, {}", sender("aide@home.example"), recipient("y@y.example"));
    let rules = [
        rule("one", &recipient("one@a.example"), BOUNCE),
        rule("others", &recipient("x@x.example"), BOUNCE),
        rule("boss", &sender("boss@home.example"), BOUNCE),
        rule("in", "{ subject = \"direction\", is = \"inbound\" }", BOUNCE),
        rule("POP", "{ subject = \"service type\", is = \"POP\" }", BOUNCE),
        rule("both", &two, BOUNCE),
        rule("again", &recipient("one@a.example"), BOUNCE),
        rule("failed", "{ subject = \"processing\", is = \"failed\" }", BOUNCE),
        rule("two", "{ subject = \"recipient domain\", is = \"b.example\" }", BOUNCE),
        rule("off", "", BOUNCE).replace("conditions", "enabled = false\nconditions"),
        rule("none left", "", BOUNCE),
    ];
    let selection = chosen(&policy(&rules.concat()), &MAILBOXES, &SENDERS);
    let place = |rule| Place::Rule { chain: 0, rule };
    assert_eq!(
        left_out(&selection),
        [
            (1, Why::OtherRecipients),
            (2, Why::OtherSenders),
            (3, Why::OtherDirection),
            (4, Why::OtherService),
            (5, Why::OtherMail),
            (6, Why::Shadowed { by: vec![place(0)] }),
            (7, Why::NoMail),
            (9, Why::Disabled),
            (10, Why::OtherRecipients),
        ]
    );
    let exception = Place::Rule { chain: 1, rule: 0 };
    let failed = selection.uncovered.iter().find(|one| one.place == exception).unwrap();
    assert_eq!(failed.why, Why::FailedProcessing);
}

#[test]
fn chains_that_probes_cannot_come_to_are_told_apart() {
    let extra = |set: &mut PolicySet, applies_to| {
        let mut chain = set.chains[1].clone();
        (chain.name, chain.applies_to) = ("Apart".into(), applies_to);
        set.chains.push(chain);
    };
    let why = |set: &PolicySet| {
        let uncovered = chosen(set, &MAILBOXES, &SENDERS).uncovered;
        uncovered
            .into_iter()
            .find(|one| one.place == Place::Rule { chain: 2, rule: 0 })
            .unwrap()
            .why
    };
    let mut apart = policy(&rule("all", "", BOUNCE));
    extra(&mut apart, crate::chain::AppliesTo::ServerOnly);
    assert_eq!(why(&apart), Why::ChainNotReached);
    apart.globals.learn_mode = Stated::No;
    assert_eq!(why(&apart), Why::LearnMode);
    let mut clients = policy(&rule("all", "", BOUNCE));
    extra(&mut clients, crate::chain::AppliesTo::ClientOnly);
    assert_eq!(why(&clients), Why::Clients);
}

#[test]
fn what_hangs_on_what_is_not_understood_is_named_and_the_rest_is_met() {
    let rules = rule("x", "{ subject = \"message subject\", is = \"x\" }", BOUNCE)
        + &rule("moon", "{ subject = \"message subject\", is = \"y\" }", BOUNCE)
        + &rule("all", "", SEND);
    let mut set = policy(&rules);
    set.chains[0].rules[1].test = Test::Opaque(Opaque { text: "m".into(), what: "moon".into() });
    let selection = chosen(&set, &MAILBOXES, &SENDERS);
    let moon = Why::NotUnderstood { what: vec!["moon".into()] };
    assert_eq!(left_out(&selection), [(1, moon.clone()), (2, moon.clone())]);
    assert_eq!(selection.probes.len(), 1);
    assert_eq!(moon.to_string(), "it hangs on what is not understood: moon");

    // Beside, it decides nothing that is said of the probe.
    set.chains[0].rules[1].actions = Vec::new();
    let selection = chosen(&set, &MAILBOXES, &SENDERS);
    assert_eq!(left_out(&selection), [(1, moon)]);
    assert_eq!(selection.probes.len(), 3);
}

#[test]
fn there_are_no_more_probes_than_may_be() {
    let rules =
        rule("x", "{ subject = \"message subject\", is = \"x\" }", BOUNCE) + &rule("all", "", SEND);
    let limits = Limits { probes: 1, ..Limits::default() };
    let selection = limited(&policy(&rules), &MAILBOXES, &SENDERS, limits).unwrap();
    assert_eq!(selection.probes.len(), 1);
    assert!(left_out(&selection).iter().all(|(_, why)| *why == Why::Enough), "{selection:?}");
    let ends = selection.uncovered.iter().filter(|one| one.outcome.is_some()).count();
    let rules = selection.uncovered.iter().filter(|one| one.why == Why::Enough).count();
    assert!((ends, rules) == (0, 1) || (ends, rules) == (1, 2), "{selection:?}");
}

#[test]
fn inbound_mail_is_met_where_it_may_be() {
    let inbound = "{ subject = \"direction\", is = \"inbound\" }";
    let set = policy(&(rule("in", inbound, BOUNCE) + &rule("out", "", BOUNCE)));
    assert_eq!(left_out(&chosen(&set, &MAILBOXES, &SENDERS)), [(0, Why::OtherDirection)]);
    let (mailboxes, senders) = (["a@a.example".to_owned()], ["b@home.example".to_owned()]);
    let offer = Offer { mailboxes: &mailboxes, senders: &senders, directions: Directions::Both };
    let selection = select(&set, &Assumptions::default(), &offer, Limits::default()).unwrap();
    assert_eq!(left_out(&selection), []);
}

#[test]
fn nothing_is_chosen_where_there_is_nothing_to_choose_from() {
    let set = policy(&rule("all", "", BOUNCE));
    let error = |mailboxes: &[&str], senders: &[&str]| {
        limited(&set, mailboxes, senders, Limits::default()).unwrap_err()
    };
    assert_eq!(error(&[], &SENDERS), SelectError::NoMailbox);
    assert_eq!(error(&MAILBOXES, &[]), SelectError::NoSender);
    let no_address = SelectError::Address { text: "no address".into() };
    assert_eq!(error(&["no address"], &SENDERS), no_address);
    let heavy = policy(&rule(
        "heavy",
        "{ subject = \"message subject\", matches_pattern = \".*a.{30}\" }",
        BOUNCE,
    ));
    let error = limited(&heavy, &MAILBOXES, &SENDERS, Limits::default()).unwrap_err();
    assert_eq!(error, SelectError::TooLarge(TooLarge));
}

// Random policies

fn random_rule() -> impl Strategy<Value = (usize, usize, bool)> {
    (0..9_usize, 0..5_usize, prop::bool::weighted(0.9))
}

fn random_policy() -> impl Strategy<Value = PolicySet> {
    let rules = || prop::collection::vec(random_rule(), 0..6);
    (rules(), rules()).prop_map(|(default, outbound)| {
        let conditions = [
            "",
            "{ subject = \"recipient domain\", is = \"a.example\" }",
            "{ subject = \"recipient address\", contains = \"w\" }",
            "{ subject = \"message subject\", contains = \"x\" }",
            "{ not = true, subject = \"message subject\", begins_with = \"xx\" }",
            "{ subject = \"message header\", argument = \"X-A\", is = \"yes\" }",
            "{ subject = \"recipient group\", is = \"staff\" }",
            "{ subject = \"message sensitivity\", is = \"private\" }",
            "{ subject = \"sender address\", is = \"b@home.example\" }",
        ];
        let actions = [
            BOUNCE,
            SEND,
            "{ action = \"go to chain\", chain = \"Outbound\" }",
            "{ action = \"send copy\", server = \"a\" }",
            "{ action = \"send clear (unsigned)\" }",
        ];
        let text = |rules: Vec<(usize, usize, bool)>| -> String {
            let one = |(at, (test, action, enabled)): (usize, (usize, usize, bool))| {
                let text = rule(&format!("r{at}"), conditions[test], actions[action]);
                text.replace("conditions", &format!("enabled = {enabled}\nconditions"))
            };
            rules.into_iter().enumerate().map(one).collect()
        };
        let outbound = text(outbound);
        policy(&format!("{}[[chain]]\nname = \"Outbound\"\n{outbound}", text(default)))
    })
}

/// Messages that tell apart all answers of random policies, between the addresses of probes.
fn universe() -> Vec<Sample> {
    let texts = |texts: &[&str]| -> Vec<Fact> {
        texts.iter().map(|text| Fact::Text((*text).to_owned())).collect()
    };
    let lists = |text: &str| vec![Fact::Texts(Vec::new()), Fact::Texts(vec![text.to_owned()])];
    let facts = [
        (Variable::Direction, texts(&["outbound"])),
        (Variable::Processing, texts(&["ok"])),
        (Variable::Service, texts(&["SMTP"])),
        (Variable::Recipient, texts(&MAILBOXES)),
        (Variable::Sender, texts(&["a@home.example", "b@home.example"])),
        (Variable::Subject, texts(&["", "x", "xx"])),
        (Variable::header("X-A"), lists("yes")),
        (Variable::RecipientGroup, lists("staff")),
        (Variable::Sensitivity, texts(&["normal", "private"])),
        (Variable::RecipientKey, lists("any")),
    ];
    let mut samples = vec![Sample::unknown()];
    for (variable, values) in facts {
        let each = |sample: Sample| {
            let with = |value: &Fact| sample.clone().with(variable.clone(), value.clone());
            values.iter().map(with).collect::<Vec<_>>()
        };
        samples = samples.into_iter().flat_map(each).collect();
    }
    samples
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Goal: probes meet every rule and every end that such mail can meet, and nothing else is said
    /// of them.
    /// Method: random policies; every message of a universe that tells all answers apart is decided.
    #[test]
    fn every_rule_and_end_that_some_message_meets_is_met_by_a_probe(set in random_policy()) {
        let senders = ["a@home.example", "b@home.example"];
        let selection = chosen(&set, &MAILBOXES, &senders);
        let mut questions = Questions::default();
        let program = Program::new(&set, &Assumptions::default(), &mut questions);
        let judge = Judge::new(&questions);
        let ending = |decision: &Decision, rules: &BTreeSet<Place>| {
            let ends = |place: &&Place| !rules.contains(place);
            (decision.rules.iter().rev().find(ends).copied(), decision.fate.outcome.clone())
        };
        let lines = program.chains.iter().flatten();
        let beside: BTreeSet<Place> = lines
            .filter(|line| matches!(line.then, crate::program::Then::Next))
            .map(|line| line.place)
            .collect();
        let (mut met, mut ends) = (BTreeSet::new(), BTreeSet::new());
        for probe in &selection.probes {
            prop_assert_eq!(judge.decide(&program, &probe.sample), Some(probe.decision.clone()));
            met.extend(probe.decision.rules.iter().copied());
            prop_assert!(!ends.contains(&ending(&probe.decision, &beside))
                || !probe.covers.is_empty(), "a probe that meets nothing new");
            ends.insert(ending(&probe.decision, &beside));
        }
        for sample in universe() {
            let decision = judge.decide(&program, &sample).unwrap();
            for place in &decision.rules {
                prop_assert!(met.contains(place), "{place:?} is not met: {sample:?}");
            }
            prop_assert!(ends.contains(&ending(&decision, &beside)), "{decision:?}");
        }
        let left: BTreeSet<Place> = selection.uncovered.iter().map(|one| one.place).collect();
        prop_assert!(left.is_disjoint(&met));
        let rules = set.chains.iter().enumerate().flat_map(|(chain, content)| {
            (0..content.rules.len()).map(move |rule| Place::Rule { chain, rule })
        });
        for place in rules {
            prop_assert!(met.contains(&place) || left.contains(&place), "{place:?} is forgotten");
        }
    }
}
