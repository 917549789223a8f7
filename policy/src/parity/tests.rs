//! Parity, held against a plain interpreter that asks every message of a small universe.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::action::{Action, Cause, Encoding, Send};
use crate::chain::{AppliesTo, Chain, Rule};
use crate::condition::{Condition, Mode, Operator, Subject, Test};
use crate::dictionary::{Dictionary, Entry, Form, Kind};
use crate::origin::Origin;
use crate::sample::{Fact, Variable};
use crate::set::{Globals, MANAGED_DOMAINS, Stated, Unmanaged};

fn origin() -> Origin {
    Origin::of("test")
}

// A plain interpreter: reads sets as an administrator would, with nothing of the product in it.

/// What becomes of a message: outcome in words, and what was done beside.
type Plain = (Outcome, BTreeSet<Effect>);

fn interpret(set: &PolicySet, sample: &Sample) -> Plain {
    let text = |variable| match sample.fact(&variable) {
        Some(Fact::Text(text)) => text.clone(),
        other => panic!("{variable}: {other:?}"),
    };
    if set.globals.learn_mode == Stated::Yes(true) {
        return (Outcome::Undecided(Cause::LearnMode), BTreeSet::new());
    }
    let outbound = text(Variable::Direction) == "outbound";
    let domain = text(Variable::Sender).rsplit('@').next().unwrap().to_lowercase();
    let managed = set.dictionary(MANAGED_DOMAINS);
    let managed =
        managed.is_some_and(|managed| managed.entries.iter().any(|entry| entry.text == domain));
    if outbound && !managed {
        let outcome = match set.globals.unmanaged {
            Stated::Yes(Unmanaged::Bounce) => Outcome::Bounced,
            Stated::Yes(Unmanaged::PassUnmodified) => Outcome::Unmodified,
            Stated::No => panic!("unstated"),
        };
        return (outcome, BTreeSet::new());
    }
    let mut name =
        if text(Variable::Processing) == "failed" { "Exception" } else { "Default" }.to_owned();
    let (mut effects, mut seen) = (BTreeSet::new(), BTreeSet::new());
    'chains: loop {
        let Some(chain) = set.chain(&name).filter(|one| one.applies_to != AppliesTo::ClientOnly)
        else {
            return (Outcome::Undecided(Cause::NoChain), effects);
        };
        if !seen.insert(name.clone()) {
            return (Outcome::Undecided(Cause::Cycle), effects);
        }
        for rule in chain.rules.iter().filter(|rule| rule.enabled) {
            if !holds(set, &rule.test, sample) {
                continue;
            }
            for action in &rule.actions {
                match action {
                    Action::Effect(effect) => {
                        effects.insert(effect.clone());
                    }
                    Action::Finish(outcome) => return (outcome.clone(), effects),
                    Action::GoTo(target) => {
                        name.clone_from(target);
                        continue 'chains;
                    }
                    Action::Send(send) => {
                        let Some(Fact::Texts(keys)) = sample.fact(&Variable::RecipientKey) else {
                            panic!("no keys");
                        };
                        let found = send.search.iter().any(|place| keys.contains(place))
                            || (send.search.is_empty() && keys.iter().any(|key| key == "any"));
                        let (sign, encoding) = (send.sign, send.encoding);
                        let outcome = Outcome::Encrypted { sign, encoding };
                        let other = send.key_not_found.clone();
                        return (if found { outcome } else { other }, effects);
                    }
                    Action::Opaque(_) => panic!("opaque"),
                }
            }
        }
        return (Outcome::Undecided(Cause::EndOfChain), effects);
    }
}

fn holds(set: &PolicySet, test: &Test, sample: &Sample) -> bool {
    match test {
        Test::Group { mode, items } => {
            let mut all = items.iter().map(|item| holds(set, item, sample));
            match mode {
                Mode::All => all.all(|one| one),
                Mode::Any => all.any(|one| one),
                Mode::None => !all.any(|one| one),
            }
        }
        Test::Condition(condition) => condition_holds(set, condition, sample) != condition.negated,
        Test::Opaque(_) => panic!("opaque"),
    }
}

fn condition_holds(set: &PolicySet, condition: &Condition, sample: &Sample) -> bool {
    let texts = match sample.fact(condition.subject.variable()) {
        Some(Fact::Text(text)) => vec![text.clone()],
        Some(Fact::Texts(texts)) => texts.clone(),
        Some(Fact::Number(number)) => {
            return match &condition.operator {
                Operator::IsGreaterThan(bound) => number > bound,
                Operator::IsLessThan(bound) => number < bound,
                other => panic!("{other}"),
            };
        }
        None => panic!("{} is not known", condition.subject),
    };
    texts.iter().any(|text| {
        let text = match &condition.subject {
            Subject::Whole(_) => text.to_lowercase(),
            Subject::DomainOf(_) => match text.rsplit_once('@') {
                Some((_, domain)) => domain.to_lowercase(),
                None => return false,
            },
        };
        match &condition.operator {
            Operator::Is(other) => text == *other,
            Operator::Contains(other) => text.contains(other),
            Operator::BeginsWith(other) => text.starts_with(other),
            Operator::EndsWith(other) => text.ends_with(other),
            Operator::IsSubdomainOf(other) => text.ends_with(&format!(".{other}")),
            Operator::Matches(pattern) => whole(pattern, &text),
            Operator::IsInDictionary(name) => {
                let entries = &set.dictionary(name).unwrap().entries;
                entries.iter().any(|entry| match entry.form {
                    Form::Literal => entry.text == text,
                    Form::Pattern => whole(&entry.text, &text),
                })
            }
            other => panic!("{other}"),
        }
    })
}

fn whole(pattern: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(text)
}

// Random sets that meet one another

/// What conditions may ask of a variable, and texts that tell the answers apart.
struct Topic {
    variable: Variable,
    domain: bool,
    operators: Vec<Operator>,
    facts: Vec<Fact>,
}

fn topics() -> Vec<Topic> {
    let texts = |texts: &[&str]| texts.iter().map(|text| Fact::Text((*text).into())).collect();
    let s = |text: &str| text.to_owned();
    let lists = |lists: &[&[&str]]| {
        let list = |list: &&[&str]| Fact::Texts(list.iter().map(|text| s(text)).collect());
        lists.iter().map(list).collect()
    };
    let addresses = [
        "a@a.example",
        "b@a.example",
        "ab@b.example",
        "a@x.a.example",
        "c@example",
        "b@b.example",
        "cc@c.test",
        "ac@c.test",
    ];
    vec![
        Topic {
            variable: Variable::Recipient,
            domain: false,
            operators: vec![
                Operator::Is(s("a@a.example")),
                Operator::Contains(s("b")),
                Operator::BeginsWith(s("a")),
                Operator::EndsWith(s("a.example")),
                Operator::Matches(s("[ab]+@.*")),
                Operator::IsInDictionary(s("one")),
                Operator::IsInDictionary(s("two")),
            ],
            facts: texts(&addresses),
        },
        Topic {
            variable: Variable::Recipient,
            domain: true,
            operators: vec![
                Operator::Is(s("a.example")),
                Operator::Is(s("b.example")),
                Operator::IsSubdomainOf(s("example")),
                Operator::EndsWith(s("test")),
                Operator::Matches(s("[a-c]\\..*")),
            ],
            facts: texts(&addresses),
        },
        Topic {
            variable: Variable::Subject,
            domain: false,
            operators: vec![
                Operator::Contains(s("x")),
                Operator::Is(s("")),
                Operator::BeginsWith(s("xy")),
                Operator::EndsWith(s("y")),
            ],
            facts: texts(&["", "x", "xy", "y", "xyz", "z", "zxy"]),
        },
        Topic {
            variable: Variable::header("X-Secret"),
            domain: false,
            operators: vec![
                Operator::Is(s("yes")),
                Operator::Contains(s("y")),
                Operator::BeginsWith(s("n")),
                Operator::Matches(s(".*s")),
            ],
            facts: lists(&[
                &[],
                &["yes"],
                &["y"],
                &["no"],
                &["ny"],
                &["s"],
                &["yes", "no"],
                &["y", "n", "s"],
                &["ns"],
            ]),
        },
        Topic {
            variable: Variable::Size,
            domain: false,
            operators: vec![
                Operator::IsGreaterThan(10),
                Operator::IsLessThan(20),
                Operator::IsLessThan(5),
            ],
            facts: [4, 5, 10, 11, 19, 20].map(Fact::Number).into(),
        },
        Topic {
            variable: Variable::Sensitivity,
            domain: false,
            operators: vec![Operator::Is(s("confidential")), Operator::Is(s("private"))],
            facts: texts(&["normal", "personal", "private", "confidential"]),
        },
        Topic {
            variable: Variable::RecipientGroup,
            domain: false,
            operators: vec![Operator::Is(s("staff")), Operator::Is(s("board"))],
            facts: lists(&[&[], &["staff"], &["board"], &["staff", "board"]]),
        },
    ]
}

fn condition(topic: &Topic, operator: usize, negated: bool) -> Test {
    let variable = topic.variable.clone();
    let subject = if topic.domain { Subject::DomainOf(variable) } else { Subject::Whole(variable) };
    let operator = topic.operators[operator % topic.operators.len()].clone();
    Test::Condition(Condition { subject, negated, operator, origin: origin() })
}

/// A test over the chosen topics.
fn test(chosen: Vec<usize>) -> impl Strategy<Value = Test> {
    let leaf = (proptest::sample::select(chosen), any::<usize>(), any::<bool>())
        .prop_map(|(topic, operator, negated)| condition(&topics()[topic], operator, negated));
    let mode = proptest::sample::select(vec![Mode::All, Mode::Any, Mode::None]);
    leaf.prop_recursive(2, 6, 3, move |inner| {
        (mode.clone(), proptest::collection::vec(inner, 0..3))
            .prop_map(|(mode, items)| Test::Group { mode, items })
    })
}

fn action() -> impl Strategy<Value = Action> {
    let outcome = proptest::sample::select(vec![
        Outcome::Clear,
        Outcome::Signed(Encoding::Automatic),
        Outcome::Bounced,
        Outcome::Pdf,
        Outcome::Dropped,
    ]);
    let send = (any::<bool>(), outcome.clone(), any::<bool>()).prop_map(|(sign, other, named)| {
        Action::Send(Send {
            sign,
            encoding: Encoding::Automatic,
            search: if named { vec!["local".into()] } else { Vec::new() },
            key_not_found: other,
        })
    });
    let chain = proptest::sample::select(vec!["Default", "Outbound", "Third", "Nowhere"]);
    let effect = proptest::sample::select(vec!["one", "two"])
        .prop_map(|name| Action::Effect(Effect::AddTo { dictionary: name.into() }));
    prop_oneof![
        3 => outcome.prop_map(Action::Finish),
        3 => send,
        2 => chain.prop_map(|name| Action::GoTo(name.into())),
        1 => effect,
    ]
}

fn rule(chosen: Vec<usize>) -> impl Strategy<Value = Rule> {
    let actions = proptest::collection::vec(action(), 1..3);
    (test(chosen), actions, prop::bool::weighted(0.9)).prop_map(|(test, actions, enabled)| Rule {
        name: "r".into(),
        enabled,
        test,
        actions,
        origin: origin(),
    })
}

fn dictionary(name: &str, literals: &[&str], patterns: &[&str]) -> Dictionary {
    let entry = |form, text: &&str| Entry { form, text: (*text).to_owned(), origin: origin() };
    let mut entries: Vec<Entry> = literals.iter().map(|text| entry(Form::Literal, text)).collect();
    entries.extend(patterns.iter().map(|text| entry(Form::Pattern, text)));
    Dictionary { name: name.into(), kind: Kind::Static, entries, origin: origin() }
}

fn set(chosen: &[usize]) -> impl Strategy<Value = PolicySet> + use<> {
    let rules = || proptest::collection::vec(rule(chosen.to_vec()), 0..4);
    let chains = (rules(), rules(), rules());
    (chains, any::<bool>(), prop::bool::weighted(0.05), prop::bool::weighted(0.5)).prop_map(
        |((default, outbound, third), bounce, learn_mode, small)| {
            let chain = |name: &str, rules, applies_to| Chain {
                name: name.into(),
                applies_to,
                rules,
                origin: origin(),
            };
            let mut set = PolicySet::empty(origin());
            set.chains = vec![
                chain("Default", default, AppliesTo::ServerAndClient),
                chain("Outbound", outbound, AppliesTo::ServerOnly),
                chain("Third", third, AppliesTo::ServerAndClient),
            ];
            let one = if small { &["a@a.example"][..] } else { &["a@a.example", "ab@b.example"] };
            set.dictionaries = vec![
                dictionary("one", one, &[]),
                dictionary("two", &["c@example"], &["b.*@.*"]),
                dictionary(MANAGED_DOMAINS, &["home.example"], &[]),
            ];
            set.globals = Globals {
                learn_mode: Stated::Yes(learn_mode),
                unmanaged: Stated::Yes(if bounce {
                    Unmanaged::Bounce
                } else {
                    Unmanaged::PassUnmodified
                }),
            };
            set
        },
    )
}

/// Two sets over the same topics: unrelated, or one a small change of the other.
fn pair() -> impl Strategy<Value = (Vec<usize>, PolicySet, PolicySet)> {
    let chosen = proptest::sample::subsequence((0..topics().len()).collect::<Vec<_>>(), 1..=2);
    chosen.prop_flat_map(|chosen| {
        let one = (set(&chosen), set(&chosen), any::<u8>(), any::<usize>());
        (Just(chosen), one).prop_map(|(chosen, (before, other, kind, place))| {
            let after = match kind % 4 {
                0 => other,
                1 => before.clone(),
                kind => changed(&before, &other, kind, place),
            };
            (chosen, before, after)
        })
    })
}

/// The set with one rule taken from another, or with two rules of a chain in another order.
fn changed(before: &PolicySet, other: &PolicySet, kind: u8, place: usize) -> PolicySet {
    let mut after = before.clone();
    let chain = place % after.chains.len();
    let rules = &mut after.chains[chain].rules;
    if kind == 2 && rules.len() > 1 {
        rules.swap(0, 1);
    } else if let (Some(rule), Some(new)) = (rules.first_mut(), other.chains[chain].rules.first()) {
        *rule = new.clone();
    }
    after
}

/// Every message that tells the answers over these topics apart.
fn universe(chosen: &[usize]) -> Vec<Sample> {
    let mut samples = vec![Sample::unknown()];
    for (variable, values) in facts(chosen) {
        let with =
            |sample: &Sample, value: &Fact| sample.clone().with(variable.clone(), value.clone());
        samples = samples
            .iter()
            .flat_map(|sample| values.iter().map(move |value| (sample, value)))
            .map(|(sample, value)| with(sample, value))
            .collect();
    }
    samples
}

/// The values of each variable.
fn facts(chosen: &[usize]) -> BTreeMap<Variable, Vec<Fact>> {
    let text = |text: &str| Fact::Text(text.into());
    let mut facts: BTreeMap<Variable, Vec<Fact>> = BTreeMap::from([
        (Variable::Direction, vec![text("outbound"), text("inbound")]),
        (Variable::Processing, vec![text("ok"), text("failed")]),
        (Variable::Sender, vec![text("a@home.example"), text("a@away.example")]),
        (
            Variable::RecipientKey,
            ["", "local", "any"]
                .map(|key| {
                    Fact::Texts(if key.is_empty() { Vec::new() } else { vec![key.to_owned()] })
                })
                .into(),
        ),
    ]);
    for topic in topics().into_iter().enumerate().filter(|(at, _)| chosen.contains(at)) {
        facts.insert(topic.1.variable, topic.1.facts);
    }
    facts
}

fn relation(before: &Plain, after: &Plain) -> Relation {
    let fate =
        |(outcome, effects): &Plain| Fate { outcome: outcome.clone(), effects: effects.clone() };
    fate(before).relation(&fate(after))
}

/// What a drawn message leaves open, the plain interpreter needs to know.
fn filled(sample: &Sample) -> Sample {
    let mut full = Sample::unknown();
    for (variable, values) in facts(&(0..topics().len()).collect::<Vec<_>>()) {
        full.set(variable, values[0].clone());
    }
    for (variable, fact) in sample.facts() {
        full.set(variable.clone(), fact.clone());
    }
    full
}

/// A set of one rule that matches always, and one managed domain.
fn single(outcome: Outcome) -> PolicySet {
    let rule = Rule {
        name: "all".into(),
        enabled: true,
        test: Test::ALWAYS,
        actions: vec![Action::Finish(outcome)],
        origin: origin(),
    };
    let chain = Chain {
        name: "Default".into(),
        applies_to: AppliesTo::ServerAndClient,
        rules: vec![rule],
        origin: origin(),
    };
    let exception = Chain { name: "Exception".into(), ..chain.clone() };
    let mut set = PolicySet::empty(origin());
    set.chains = vec![chain, exception];
    set.dictionaries = vec![dictionary(MANAGED_DOMAINS, &["home.example"], &[])];
    set.globals = Globals {
        learn_mode: Stated::Yes(false),
        unmanaged: Stated::Yes(Unmanaged::PassUnmodified),
    };
    set
}

fn verdict_of(before: &PolicySet, after: &PolicySet) -> Relation {
    compare(before, after, &Assumptions::default(), Limits::default()).verdict
}

#[test]
fn what_an_import_does_not_say_is_never_equal() {
    let full = single(Outcome::Bounced);
    assert_eq!(verdict_of(&full, &full), Relation::Equal);
    let mut silent = full.clone();
    silent.globals.learn_mode = Stated::No;
    assert_eq!(verdict_of(&silent, &silent), Relation::Unknown);
    let mut silent = full.clone();
    silent.globals.unmanaged = Stated::No;
    assert_eq!(verdict_of(&silent, &silent), Relation::Unknown);
    let mut silent = full.clone();
    silent.dictionaries.clear();
    assert_eq!(verdict_of(&silent, &silent), Relation::Unknown, "which domains are managed");
}

#[test]
fn what_is_not_understood_makes_unknown_the_mail_that_hangs_on_it() {
    let opaque = |text: &str| Test::Opaque(Opaque { text: text.into(), what: text.into() });
    let with = |test: Test, outcome: Outcome| {
        let mut set = single(Outcome::Bounced);
        let mut rule = set.chains[0].rules[0].clone();
        (rule.test, rule.actions) = (test, vec![Action::Finish(outcome)]);
        set.chains[0].rules.insert(0, rule);
        set
    };
    let before = with(opaque("phase of the moon"), Outcome::Clear);
    assert_eq!(verdict_of(&before, &before.clone()), Relation::Equal, "the same is the same");
    let other = with(opaque("tide"), Outcome::Clear);
    let parity = compare(&before, &other, &Assumptions::default(), Limits::default());
    assert_eq!(parity.verdict, Relation::Unknown);
    let whats: BTreeSet<&str> = parity
        .divergences
        .iter()
        .flat_map(|one| &one.doubts)
        .map(|one| one.what.as_str())
        .collect();
    assert_eq!(whats, BTreeSet::from(["phase of the moon", "tide"]));
    // Mail that does not come so far is certain all the same.
    let mut looser = other.clone();
    looser.globals.unmanaged = Stated::Yes(Unmanaged::Bounce);
    assert_eq!(verdict_of(&looser, &before), Relation::Looser);
}

#[test]
fn parts_that_belong_to_no_chain_are_a_doubt_unless_both_have_them() {
    let mut before = single(Outcome::Bounced);
    before.opaque = vec![Opaque { text: "<x/>".into(), what: "/policy/x".into() }];
    assert_eq!(verdict_of(&before, &before.clone()), Relation::Equal);
    assert_eq!(verdict_of(&before, &single(Outcome::Bounced)), Relation::Unknown);
    assert_eq!(verdict_of(&single(Outcome::Bounced), &before), Relation::Unknown);
}

#[test]
fn assumptions_that_nobody_can_confirm_decide_only_where_they_are_made() {
    let before = single(Outcome::Bounced);
    let mut after = before.clone();
    after.chains[0].rules.clear();
    assert_eq!(verdict_of(&before, &after), Relation::Unknown, "the end of a chain");
    let mut assumptions = Assumptions::default();
    assumptions.set("end_of_chain=unmodified").unwrap();
    let parity = compare(&before, &after, &assumptions, Limits::default());
    assert_eq!(parity.verdict, Relation::Looser);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Goal: the verdict is that of asking every message.
    /// Method: random pairs over a few topics; a plain interpreter decides every message of a
    /// universe that tells all their answers apart, and every message that was drawn.
    #[test]
    fn the_verdict_is_that_of_every_single_message((chosen, before, after) in pair()) {
        let parity = compare(&before, &after, &Assumptions::default(), Limits::default());
        prop_assert!(parity.doubts.is_empty() && !parity.more);
        let pair = Pair::new(&before, &after, &Assumptions::default());
        let explored = explore(&pair, Limits::default()).unwrap();
        let mut by_force = BTreeSet::new();
        for (number, sample) in universe(&chosen).into_iter().enumerate() {
            let (one, two) = (interpret(&before, &sample), interpret(&after, &sample));
            let relation = relation(&one, &two);
            if number % 37 == 0 {
                let affected = explored.affected(&pair.judge, &sample);
                let expected = match relation {
                    Relation::Equal => Affected::No,
                    relation => Affected::Certainly(BTreeSet::from([relation])),
                };
                prop_assert_eq!(affected, expected, "{:?}", sample);
                // With less known, it may be so still.
                let less = sample.without(&Variable::RecipientKey).without(&Variable::Subject);
                let perhaps = explored.affected(&pair.judge, &less);
                prop_assert!(relation == Relation::Equal || perhaps != Affected::No);
            }
            if relation != Relation::Equal && by_force.insert(relation) {
                prop_assert!(parity.relations.contains(&relation),
                    "{relation} was missed: {sample:?}: {one:?} / {two:?}");
            }
        }
        // A difference that the universe does not show is shown by its own message, below.
        prop_assert_eq!(parity.verdict == Relation::Equal, parity.divergences.is_empty());
        for divergence in &parity.divergences {
            let sample = filled(&divergence.sample);
            let (one, two) = (interpret(&before, &sample), interpret(&after, &sample));
            prop_assert_eq!(&divergence.before.fate.outcome, &one.0);
            prop_assert_eq!(&divergence.after.fate.outcome, &two.0);
            prop_assert_eq!(divergence.relation, relation(&one, &two), "{:?}", sample);
        }
    }
}
