//! Differences of small policies, and the two properties over random edits of a whole one.

use proptest::prelude::*;

use super::*;
use crate::action::{Action, Effect, Encoding, Outcome};
use crate::condition::{Condition, Operator, Subject, Test};
use crate::dictionary::{Dictionary, Entry, Form, Kind as Filled};
use crate::import::from_toml;
use crate::parity::{Limits, compare};
use crate::sample::Variable;
use crate::set::Opaque;

const DEFAULT: &str = include_str!("../../samples/default-3.3.toml");

fn set(text: &str) -> PolicySet {
    from_toml(text, "test", &|name| Err(format!("no list {name}"))).unwrap()
}

fn found(before: &PolicySet, after: &PolicySet) -> Vec<(Kind, Severity)> {
    let changes = differences(before, after, &Assumptions::default());
    changes.iter().map(|change| (change.kind, change.severity)).collect()
}

/// The installed policy with parts of its text replaced, each of which must be there.
fn edited(edits: &[(&str, &str)]) -> PolicySet {
    let mut text = DEFAULT.to_owned();
    for (old, new) in edits {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    set(&text)
}

fn found_in(edits: &[(&str, &str)]) -> Vec<(Kind, Severity)> {
    found(&set(DEFAULT), &edited(edits))
}

#[test]
fn a_chain_that_is_renamed_with_the_jumps_to_it_is_only_renamed() {
    let renamed = [("\"Outbound\"", "\"Going out\"")];
    assert_eq!(found_in(&renamed), [(Kind::ChainRenamed, Severity::Info)]);
    let left_behind = [("name = \"Outbound\"", "name = \"Going out\"")];
    assert_eq!(
        found_in(&left_behind),
        [(Kind::JumpBroken, Severity::Blocker), (Kind::ChainRenamed, Severity::Info)],
        "the jump still goes to the old name"
    );
}

#[test]
fn renamed_chains_are_told_apart_by_where_they_lead() {
    let chains = |names: [&str; 3]| {
        let chain = |at: usize, to: &str| {
            let name = names[at];
            format!(
                "[[chain]]\nname = \"{name}\"\n[[chain.rule]]\nname = \"on\"\n\
                 actions = [ {to} ]\n"
            )
        };
        let go = |to: &str| format!("{{ action = \"go to chain\", chain = \"{to}\" }}");
        let end = "{ action = \"bounce\" }";
        set(&format!("{}{}{}", chain(0, &go(names[1])), chain(1, &go(names[2])), chain(2, end)))
    };
    let before = chains(["a", "b", "c"]);
    assert_eq!(found(&before, &chains(["x", "y", "z"])), [(Kind::ChainRenamed, Severity::Info); 3]);
    // The last of the three bears the name of the first.
    let turned = found(&before, &chains(["x", "y", "a"]));
    assert!(turned.iter().any(|(_, severity)| *severity == Severity::Blocker), "{turned:?}");
}

#[test]
fn chains_that_the_server_knows_by_name_are_missing_under_another() {
    for name in ["Default", "Exception"] {
        let renamed = found_in(&[(&format!("name = \"{name}\""), "name = \"Other\"")]);
        let expected =
            [(Kind::ChainMissing, Severity::Blocker), (Kind::ChainAdded, Severity::Warning)];
        assert_eq!(renamed, expected, "{name}");
    }
}

/// Two rules that can match the same mail, and a third that shares none with the first.
fn three(order: [usize; 3], same: bool) -> PolicySet {
    let rule = |name: &str, test: &str, action: &str| {
        format!(
            "[[chain.rule]]\nname = \"{name}\"\nconditions = [ {{ subject = {test} }} ]\n\
             actions = [ {{ action = \"{action}\" }} ]\n"
        )
    };
    let other = if same { "bounce" } else { "drop" };
    let rules = [
        rule("one", "\"recipient domain\", is = \"a.example\"", "bounce"),
        rule("two", "\"message subject\", contains = \"x\"", other),
        rule("three", "\"recipient domain\", is = \"b.example\"", "send clear (unsigned)"),
    ];
    let rules: String = order.iter().map(|place| rules[*place].as_str()).collect();
    set(&format!("[[chain]]\nname = \"Default\"\n{rules}"))
}

#[test]
fn a_rule_matters_where_it_moved_across_one_that_can_match_the_same_mail() {
    let before = three([0, 2, 1], false);
    assert_eq!(found(&before, &three([2, 0, 1], false)), [(Kind::RuleMoved, Severity::Info)]);
    assert_eq!(found(&before, &three([0, 1, 2], false)), [(Kind::RuleMoved, Severity::Blocker)]);
    let before = three([0, 1, 2], true);
    assert_eq!(
        found(&before, &three([1, 0, 2], true)),
        [(Kind::RuleMoved, Severity::Warning)],
        "both do the same"
    );
}

#[test]
fn a_move_across_a_rule_that_is_not_understood_may_matter() {
    let opaque = |mut set: PolicySet| {
        for rule in &mut set.chains[0].rules {
            if rule.name == "three" {
                rule.test = Test::Opaque(Opaque { text: "moon".into(), what: "moon".into() });
            }
        }
        set
    };
    let (before, after) = (opaque(three([0, 2, 1], false)), opaque(three([2, 0, 1], false)));
    assert_eq!(found(&before, &after), [(Kind::RuleMoved, Severity::Blocker)]);
}

/// Method: one pattern whose automaton has more states than may be explored.
#[test]
fn a_move_that_is_too_much_to_judge_may_matter() {
    let heavy = |order: [usize; 3]| {
        let mut set = three(order, false);
        for rule in set.chains[0].rules.iter_mut().filter(|rule| rule.name == "two") {
            rule.test = Test::Condition(Condition {
                subject: Subject::Whole(Variable::Subject),
                negated: false,
                operator: Operator::Matches(".*a.{30}".into()),
                origin: Origin::of("test"),
            });
        }
        set
    };
    let (before, after) = (heavy([0, 2, 1]), heavy([2, 0, 1]));
    assert_eq!(found(&before, &after), [(Kind::RuleMoved, Severity::Blocker)]);
}

#[test]
fn a_condition_that_is_written_otherwise_and_matches_the_same_is_told_as_such() {
    let is = "{ subject = \"service type\", is = \"SMTP\" }";
    let same = found_in(
        &[(is, "{ not = true, any = [ ] }")]
            .map(|_| (is, "{ any = [ { subject = \"service type\", is = \"smtp\" } ] }")),
    );
    assert_eq!(same, [(Kind::Condition, Severity::Info)]);
    let other = found_in(&[(is, "{ subject = \"service type\", is = \"POP\" }")]);
    assert_eq!(other, [(Kind::Condition, Severity::Blocker)]);
}

#[test]
fn a_new_rule_names_those_that_it_shadows() {
    let new = "[[chain.rule]]\nname = \"New\"\nactions = [ { action = \"bounce\" } ]\n\n\
               [[chain.rule]]\nname = \"Confidential\"";
    let after = edited(&[("[[chain.rule]]\nname = \"Confidential\"", new)]);
    let changes = differences(&set(DEFAULT), &after, &Assumptions::default());
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].kind, changes[0].severity), (Kind::RuleAdded, Severity::Warning));
    assert_eq!(
        changes[0].text,
        "rule \"New\" of chain \"Outbound\" is new; it takes all of the mail of rule \
         \"Confidential\", all of the mail of rule \"Opportunistic Encryption\""
    );
    assert_eq!(changes[0].before, None);
    assert_eq!(changes[0].after.as_ref().map(|origin| origin.line > 60), Some(true));
}

#[test]
fn an_entry_weighs_what_rules_make_of_it() {
    let dictionary = |conditions: &str, action: &str, literals: &str| {
        set(&format!(
            "[[dictionary]]\nname = \"D\"\nliterals = [ {literals} ]\n[[chain]]\nname = \"Default\"\n\
             [[chain.rule]]\nname = \"r\"\nconditions = [ {conditions} ]\n\
             actions = [ {{ action = \"{action}\" }} ]\n"
        ))
    };
    let asks = "{ subject = \"recipient address\", is_in_dictionary = \"D\" }";
    let asks_not = "{ not = true, subject = \"recipient address\", is_in_dictionary = \"D\" }";
    let none_of = &format!("{{ none = [ {asks} ] }}");
    let weights = |conditions: &str, action: &str| {
        let full = dictionary(conditions, action, "\"a@a.example\"");
        let empty = dictionary(conditions, action, "");
        (found(&full, &empty), found(&empty, &full))
    };
    let expected =
        |missing, added| (vec![(Kind::EntryMissing, missing)], vec![(Kind::EntryAdded, added)]);
    let (excluding, protecting) = (
        expected(Severity::Warning, Severity::Blocker),
        expected(Severity::Blocker, Severity::Warning),
    );
    assert_eq!(weights(asks, "send clear (signed)"), excluding);
    assert_eq!(weights(asks, "PDF Messenger (Encrypt All)"), protecting);
    assert_eq!(weights(asks_not, "send clear (signed)"), protecting);
    assert_eq!(weights(none_of, "bounce"), excluding);
    assert_eq!(weights("", "bounce"), expected(Severity::Info, Severity::Info));
}

#[test]
fn letter_case_of_an_entry_is_told_and_no_entry_is_lost() {
    let with = |entry: &str| {
        let list = format!("name = \"Excluded Addresses: Sign\"\nliterals = [\"{entry}\"]");
        edited(&[("name = \"Excluded Addresses: Sign\" ", &format!("{list} "))])
    };
    let changes = found(&with("News@example.org"), &with("news@example.org"));
    assert_eq!(changes, [(Kind::EntryCase, Severity::Warning)]);
}

#[test]
fn a_dictionary_that_is_renamed_with_the_rules_that_ask_for_it_is_only_renamed() {
    let filled = (
        "name = \"Excluded Addresses: Sign\" ",
        "name = \"Excluded Addresses: Sign\"\nliterals = [\"a@a\"] ",
    );
    let before = edited(&[filled]);
    let renamed = edited(&[filled, ("\"Excluded Addresses: Sign\"", "\"Partners\"")]);
    assert_eq!(found(&before, &renamed), [(Kind::DictionaryRenamed, Severity::Info)]);
    let left_behind =
        edited(&[filled, ("name = \"Excluded Addresses: Sign\"", "name = \"Partners\"")]);
    let changes = found(&before, &left_behind);
    assert!(changes.contains(&(Kind::Condition, Severity::Blocker)), "{changes:?}");
}

#[test]
fn keys_that_are_no_longer_looked_for_matter_where_mail_then_goes_out_in_clear() {
    let send = |places: &str, without: &str| {
        set(&format!(
            "[[chain]]\nname = \"Default\"\n[[chain.rule]]\nname = \"r\"\nactions = [ {{ \
             action = \"send (encrypted/signed)\", sign = true, keys_from = [{places}], \
             key_not_found = \"{without}\" }} ]\n"
        ))
    };
    let weight = |one: &str, two: &str, without: &str| {
        let changes = found(&send(one, without), &send(two, without));
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(changes[0].0, Kind::KeySearch);
        changes[0].1
    };
    let (both, one) = ("\"local\", \"observed\"", "\"local\"");
    assert_eq!(weight(both, one, "send clear (signed)"), Severity::Blocker);
    assert_eq!(weight(one, both, "send clear (signed)"), Severity::Warning);
    assert_eq!(weight(both, one, "bounce"), Severity::Warning);
}

#[test]
fn what_a_disabled_rule_would_do_is_only_told() {
    let off = ("name = \"Confidential\"  ", "name = \"Confidential\"\nenabled = false  ");
    let before = edited(&[off]);
    let after = edited(&[off, ("key_not_found = \"bounce\"", "key_not_found = \"drop\"")]);
    assert_eq!(found(&before, &after), [(Kind::KeyNotFoundOther, Severity::Info)]);
}

// Random edits

#[derive(Clone, Debug)]
struct Edit {
    what: u8,
    place: usize,
    other: usize,
}

fn edit() -> impl Strategy<Value = Edit> {
    (0..19_u8, any::<usize>(), any::<usize>()).prop_map(|(what, place, other)| Edit {
        what,
        place,
        other,
    })
}

fn rule_of<'a>(set: &'a mut PolicySet, edit: &Edit) -> Option<&'a mut crate::chain::Rule> {
    let count = set.chains.len().max(1);
    let rules = &mut set.chains.get_mut(edit.place % count)?.rules;
    let count = rules.len().max(1);
    rules.get_mut(edit.other % count)
}

fn apply(set: &mut PolicySet, edit: &Edit) {
    let (chains, dictionaries) = (set.chains.len().max(1), set.dictionaries.len().max(1));
    let (place, other) = (edit.place, edit.other);
    let name = format!("n{}", other % 3);
    let free = !set.chains.iter().any(|chain| chain.name == name);
    match edit.what {
        0 => drop((!set.chains.is_empty()).then(|| set.chains.remove(place % chains))),
        1 if free => rename(set, place % chains, &name),
        2 if free => set.chains.iter_mut().skip(place % chains).take(1).for_each(|chain| {
            chain.name.clone_from(&name);
        }),
        3 => set.chains.swap(place % chains.min(2), other % chains.min(2)),
        4..=6 => set.chains.iter_mut().skip(place % chains).take(1).for_each(|chain| {
            let count = chain.rules.len();
            match edit.what {
                4 if count > 0 => drop(chain.rules.remove(other % count)),
                5 if count > 1 => chain.rules.swap(other % count, (other / 7) % count),
                6 => chain.applies_to = AppliesTo::ALL[other % 3],
                _ => {}
            }
        }),
        7..=12 | 18 => {
            if let Some(rule) = rule_of(set, edit) {
                change(rule, edit.what, other, &name);
            }
        }
        13 => drop(
            (!set.dictionaries.is_empty()).then(|| set.dictionaries.remove(place % dictionaries)),
        ),
        14 | 15 => set.dictionaries.iter_mut().skip(place % dictionaries).take(1).for_each(|one| {
            fill(one, other);
        }),
        16 => {
            let learn_mode = [Stated::No, Stated::Yes(true), Stated::Yes(false)][place % 3];
            let pass = Stated::Yes(Unmanaged::PassUnmodified);
            let unmanaged = [Stated::No, pass, Stated::Yes(Unmanaged::Bounce)][other % 3];
            set.globals = crate::set::Globals { learn_mode, unmanaged };
        }
        17 => set.opaque.push(Opaque { text: name.clone(), what: name }),
        _ => {}
    }
}

fn rename(set: &mut PolicySet, place: usize, name: &str) {
    let Some(chain) = set.chains.get_mut(place) else {
        return;
    };
    let old = std::mem::replace(&mut chain.name, name.to_owned());
    for rule in set.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        for action in &mut rule.actions {
            if *action == Action::GoTo(old.clone()) {
                *action = Action::GoTo(name.to_owned());
            }
        }
    }
}

fn change(rule: &mut crate::chain::Rule, what: u8, other: usize, name: &str) {
    let outcomes = [Outcome::Clear, Outcome::Bounced, Outcome::Web, Outcome::Unmodified];
    let outcome = outcomes[other % 4].clone();
    let encoding = Encoding::ALL[other % 4];
    let (sign, key_not_found) = (other.is_multiple_of(2), outcome.clone());
    let search = if other.is_multiple_of(3) { vec!["local".to_owned()] } else { Vec::new() };
    match what {
        7 => rule.enabled = !rule.enabled,
        8 => rule.name = name.to_owned(),
        9 => rule.actions = vec![Action::Finish(outcome)],
        10 => {
            let send = crate::action::Send { sign, encoding, search, key_not_found };
            rule.actions = vec![Action::Send(send)];
        }
        11 => rule.actions.insert(0, Action::Effect(Effect::Copy { server: name.to_owned() })),
        12 => rule.actions = vec![Action::GoTo(["Outbound", "n1", "Inbound"][other % 3].into())],
        _ => {
            let condition = |operator| Condition {
                subject: Subject::DomainOf(Variable::Recipient),
                negated: false,
                operator,
                origin: Origin::of("test"),
            };
            let operators = [
                Operator::IsInDictionary("Managed Domains".into()),
                Operator::Is("a.example".into()),
                Operator::IsInDictionary("Excluded Addresses: Sign".into()),
            ];
            rule.test = match operators.get(other % 4) {
                Some(operator) => Test::Condition(condition(operator.clone())),
                None => Test::ALWAYS,
            };
        }
    }
}

fn fill(dictionary: &mut Dictionary, other: usize) {
    let form = [Form::Literal, Form::Pattern][other % 2];
    let text = ["a@a.example", "A@a.example", "b.example"][other % 3].to_owned();
    dictionary.entries.push(Entry { form, text, origin: Origin::of("test") });
    if other.is_multiple_of(5) {
        dictionary.kind = Filled::Dynamic;
        dictionary.entries.remove(0);
    }
}

/// The installed policy with some edits, and with some more.
fn pair() -> impl Strategy<Value = (PolicySet, PolicySet)> {
    let edits = || prop::collection::vec(edit(), 0..5);
    (edits(), edits(), any::<bool>()).prop_map(|(some, more, along)| {
        let installed = set(DEFAULT);
        let mut before = installed.clone();
        some.iter().for_each(|edit| apply(&mut before, edit));
        let mut after = if along { before.clone() } else { installed };
        more.iter().for_each(|edit| apply(&mut after, edit));
        (before, after)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_set_has_no_differences_from_itself((_, set) in pair()) {
        prop_assert_eq!(differences(&set, &set.clone(), &Assumptions::default()), Vec::new());
    }

    /// Goal: what is told does not depend on the direction in which two sets are compared.
    /// Method: random edits of the installed policy, compared both ways.
    #[test]
    fn exchanging_two_sets_exchanges_the_kinds((before, after) in pair()) {
        let kinds = |one: &PolicySet, other: &PolicySet| -> Vec<Kind> {
            found(one, other).into_iter().map(|(kind, _)| kind).collect()
        };
        let mut there = kinds(&before, &after);
        let mut back: Vec<Kind> =
            kinds(&after, &before).into_iter().map(Kind::mirrored).collect();
        there.sort_unstable();
        back.sort_unstable();
        prop_assert_eq!(there, back);
    }

    /// Goal: where nothing weighs more than information, all mail is treated as it was.
    /// Method: random edits; what is compared is the verdict over all mail.
    #[test]
    fn mail_is_treated_otherwise_only_where_something_weighs((before, after) in pair()) {
        let light = found(&before, &after).iter().all(|(_, weight)| *weight == Severity::Info);
        if light {
            let assumptions = Assumptions::default();
            let limits = Limits::default();
            let itself = compare(&before, &before, &assumptions, limits).verdict;
            prop_assert_eq!(compare(&before, &after, &assumptions, limits).verdict, itself);
        }
    }
}
