//! Each fault, in a policy that has it and in one that has not.

use super::*;
use crate::condition::{Condition, Operator, Subject, Test};
use crate::import::from_toml;
use crate::sample::Variable;
use crate::set::Opaque;

fn set(text: &str) -> PolicySet {
    from_toml(text, "test", &|name| Err(format!("no list {name}"))).unwrap()
}

/// Settings and chains that have no faults, before the chains of a test.
const SOUND: &str = "[globals]\nlearn_mode = false\nunmanaged_domains = \"bounce\"\n\
                     managed_domains = [\"home.example\"]\n\
                     [[chain]]\nname = \"Default\"\n[[chain.rule]]\nname = \"on\"\n\
                     actions = [ { action = \"go to chain\", chain = \"Outbound\" } ]\n\
                     [[chain]]\nname = \"Exception\"\n[[chain.rule]]\nname = \"Bounce\"\n\
                     actions = [ { action = \"bounce\" } ]\n";

/// The chain that mail is led to, with these rules.
fn outbound(rules: &str) -> PolicySet {
    set(&format!("{SOUND}[[chain]]\nname = \"Outbound\"\n{rules}"))
}

fn rule(name: &str, conditions: &str, action: &str) -> String {
    format!(
        "[[chain.rule]]\nname = \"{name}\"\nconditions = [ {conditions} ]\n\
         actions = [ {action} ]\n"
    )
}

const BOUNCE: &str = "{ action = \"bounce\" }";

fn go(chain: &str) -> String {
    format!("{{ action = \"go to chain\", chain = \"{chain}\" }}")
}

fn to(domain: &str) -> String {
    format!("{{ subject = \"recipient domain\", is = \"{domain}\" }}")
}

fn all(set: &PolicySet) -> Vec<Finding> {
    findings(set, &Assumptions::default())
}

fn faults(set: &PolicySet) -> Vec<(Fault, Severity)> {
    all(set).iter().map(|finding| (finding.fault, finding.severity)).collect()
}

fn only(set: &PolicySet) -> Finding {
    let mut found = all(set);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

#[test]
fn a_policy_without_faults_has_none() {
    assert_eq!(faults(&outbound(&rule("all", "", BOUNCE))), []);
}

#[test]
fn the_installed_policy_has_the_faults_that_are_known_of_it() {
    let found = all(&set(include_str!("../../samples/default-3.3.toml")));
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "warning: chain \"Default\" has no rule for all that is left over; what becomes of mail \
             that is left over is not documented",
            "warning: chain \"Inbound\" has no rule for all that is left over; what becomes of mail \
             that is left over is not documented",
            "info: no rule asks for dictionary \"Excluded Addresses: Pending\"",
            "info: no mail matches rule \"Excluded Signed\" of chain \"Outbound\"",
            "info: no mail matches rule \"Excluded Unsigned\" of chain \"Outbound\"",
        ]
    );
}

#[test]
fn circles_are_found_where_mail_can_be_led_to_them_and_elsewhere() {
    let chain = |name: &str, rules: &str| format!("[[chain]]\nname = \"{name}\"\n{rules}");
    let circle = |one: &str, two: &str| {
        chain(one, &rule("r", "", &go(two))) + &chain(two, &rule("r", "", &go(one)))
    };
    let reached = set(&(SOUND.to_owned() + &circle("Outbound", "Other")));
    let found = all(&reached);
    assert_eq!((found[0].fault, found[0].severity), (Fault::Cycle, Severity::Blocker));
    assert_eq!(found[0].text, "chains lead in a circle: \"Outbound\" to \"Other\" to \"Outbound\"");
    assert_eq!(found[0].because.len(), 2);

    let sound = outbound(&rule("all", "", BOUNCE));
    let mut apart = sound.clone();
    apart.chains.extend(set(&circle("a", "b")).chains);
    let expected = [Fault::Cycle, Fault::UnreachedChain, Fault::UnreachedChain];
    assert_eq!(faults(&apart), expected.map(|fault| (fault, Severity::Warning)));

    let mut itself = sound;
    itself.chains.extend(set(&chain("a", &rule("r", "", &go("a")))).chains);
    assert_eq!(all(&itself)[0].text, "chains lead in a circle: \"a\" to \"a\"");
    itself.chains.last_mut().unwrap().rules[0].enabled = false;
    assert!(all(&itself).iter().all(|finding| finding.fault != Fault::Cycle), "not enabled");
}

#[test]
fn every_circle_of_several_is_found() {
    let chain = |name: &str, rules: &str| format!("[[chain]]\nname = \"{name}\"\n{rules}");
    // Two that share a chain with a third way, and one apart.
    let two = chain("a", &rule("b", &to("x"), &go("b")))
        + &chain("b", &(rule("a", &to("x"), &go("a")) + &rule("c", "", &go("c"))))
        + &chain("c", &rule("d", "", &go("d")))
        + &chain("d", &rule("c", "", &go("c")));
    let found = all(&set(&two));
    let circles = found.iter().filter(|finding| finding.fault == Fault::Cycle);
    let texts: Vec<&str> = circles.map(|finding| finding.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "chains lead in a circle: \"a\" to \"b\" to \"a\"",
            "chains lead in a circle: \"c\" to \"d\" to \"c\""
        ]
    );
}

#[test]
fn jumps_into_nothing_and_to_chains_of_clients_are_found() {
    let nowhere = only(&outbound(&rule("r", "", &go("Nowhere"))));
    assert_eq!((nowhere.fault, nowhere.severity), (Fault::NoTarget, Severity::Blocker));
    assert_eq!(
        nowhere.text,
        "rule \"r\" of chain \"Outbound\" goes to chain \"Nowhere\", which is not there"
    );
    assert_eq!(nowhere.origin.line, 17);

    let clients = "[[chain]]\nname = \"Clients\"\napplies_to = \"client only\"\n";
    let text = rule("r", "", &go("Clients")) + clients + &rule("all", "", BOUNCE);
    assert_eq!(faults(&outbound(&text)), [(Fault::ClientTarget, Severity::Blocker)]);
}

#[test]
fn a_chain_whose_end_mail_can_come_to_is_found() {
    let part = outbound(&rule("part", &to("a.example"), BOUNCE));
    assert_eq!(faults(&part), [(Fault::NoCatchAll, Severity::Warning)]);
    let halves = rule("small", "{ subject = \"message size\", is_less_than = 10 }", BOUNCE)
        + &rule("large", "{ subject = \"message size\", is_greater_than = 9 }", BOUNCE);
    assert_eq!(faults(&outbound(&halves)), [], "two rules together catch all");
    let mut told = Assumptions::default();
    told.set("end_of_chain=bounce").unwrap();
    assert_eq!(findings(&part, &told)[0].severity, Severity::Info);
    // What is left over of all mail does not come here.
    let some = format!(
        "{}[[chain]]\nname = \"Some\"\n{}",
        rule("some", &to("a.example"), &go("Some")) + &rule("all", "", BOUNCE),
        rule("those", &to("a.example"), BOUNCE)
    );
    assert_eq!(faults(&outbound(&some)), [(Fault::NoCatchAll, Severity::Info)]);
}

#[test]
fn a_dead_rule_is_told_with_the_rules_that_take_its_mail() {
    let (a, b) = (to("a.example"), to("b.example"));
    let either = format!("{{ any = [ {a}, {b} ] }}");
    let text = rule("a", &a, BOUNCE)
        + &rule("x", &to("x.example"), BOUNCE)
        + &rule("b", &b, BOUNCE)
        + &rule("dead", &either, BOUNCE)
        + &rule("all", "", BOUNCE);
    let dead = only(&outbound(&text));
    assert_eq!((dead.fault, dead.severity), (Fault::Shadowed, Severity::Warning));
    assert_eq!(
        dead.text,
        "rule \"dead\" of chain \"Outbound\" never acts: its mail is taken by \"a\" and \"b\""
    );
    let lines: Vec<u32> = dead.because.iter().map(|origin| origin.line).collect();
    assert_eq!(lines, [17, 25]);

    let text = rule("a", &a, BOUNCE)
        + &rule("both", &either, BOUNCE)
        + &rule("dead", &either, BOUNCE)
        + &rule("all", "", BOUNCE);
    let dead = only(&outbound(&text));
    assert!(dead.text.ends_with("taken by \"both\""), "the one that does so alone: {}", dead.text);
}

#[test]
fn a_rule_that_only_does_something_beside_shadows_nothing_and_can_be_shadowed() {
    let log = "{ action = \"add log entry\", text = \"x\" }";
    let text = rule("log", "", log) + &rule("all", "", BOUNCE);
    assert_eq!(faults(&outbound(&text)), [(Fault::NoEnd, Severity::Info)]);
    let text = rule("all", "", BOUNCE) + &rule("log", "", log);
    let expected = [(Fault::Shadowed, Severity::Warning), (Fault::NoEnd, Severity::Info)];
    assert_eq!(faults(&outbound(&text)), expected);
}

#[test]
fn a_rule_that_no_mail_matches_is_told_from_one_that_no_mail_comes_to() {
    let never = "{ all = [ { subject = \"recipient domain\", is = \"a\" }, \
                 { subject = \"recipient domain\", is = \"b\" } ] }";
    let never = only(&outbound(&(rule("never", never, BOUNCE) + &rule("all", "", BOUNCE))));
    assert_eq!(never.text, "no mail matches rule \"never\" of chain \"Outbound\"");
    let chain = format!(
        "{}{}[[chain]]\nname = \"Some\"\n{}{}",
        rule("some", &to("a.example"), &go("Some")),
        rule("all", "", BOUNCE),
        rule("others", &to("b.example"), BOUNCE),
        rule("all", "", BOUNCE),
    );
    let others = only(&outbound(&chain));
    assert_eq!((others.fault, others.severity), (Fault::Idle, Severity::Info));
    assert!(others.text.starts_with("no mail that comes to its chain"), "{}", others.text);
}

#[test]
fn chains_that_no_rule_leads_to_are_told_from_those_that_no_mail_comes_to() {
    let mut apart = outbound(&rule("all", "", BOUNCE));
    let mut extra = apart.chains[2].clone();
    extra.name = "Apart".into();
    apart.chains.push(extra.clone());
    assert_eq!(only(&apart).text, "no rule leads to chain \"Apart\"");
    apart.chains[3].applies_to = AppliesTo::ClientOnly;
    assert_eq!(faults(&apart), [], "clients go to it by themselves");
    let idle = format!(
        "{}{}{}[[chain]]\nname = \"Some\"\n{}",
        rule("a", &to("a"), BOUNCE),
        rule("some", &to("a"), &go("Some")),
        rule("all", "", BOUNCE),
        rule("all", "", BOUNCE),
    );
    let texts: Vec<String> = all(&outbound(&idle)).into_iter().map(|one| one.text).collect();
    assert!(texts.contains(&"no mail comes to chain \"Some\"".to_owned()), "{texts:?}");
    assert_eq!(texts.len(), 2, "and its rules are not told again: {texts:?}");
}

#[test]
fn empty_chains_matter_where_mail_can_be_led_to_them() {
    assert_eq!(only(&outbound("")).text, "chain \"Outbound\" has no rules");
    assert_eq!(faults(&outbound("")), [(Fault::EmptyChain, Severity::Blocker)]);
    let mut apart = outbound(&rule("all", "", BOUNCE));
    apart.chains.extend(set("[[chain]]\nname = \"Apart\"").chains);
    let found = faults(&apart);
    assert!(found.contains(&(Fault::EmptyChain, Severity::Info)), "{found:?}");
    let mut off = outbound(&rule("all", "", BOUNCE));
    off.chains[2].rules[0].enabled = false;
    assert_eq!(all(&off)[0].text, "chain \"Outbound\" has no rules that are enabled");
}

#[test]
fn chains_that_the_server_needs_are_missed() {
    let sound = outbound(&rule("all", "", BOUNCE));
    let without = |name: &str| {
        let mut set = sound.clone();
        set.chains.retain(|chain| chain.name != name);
        let mut found = faults(&set);
        found.retain(|(fault, _)| *fault == Fault::NoChain);
        found
    };
    for name in ["Default", "Exception", "Outbound"] {
        assert_eq!(without(name), [(Fault::NoChain, Severity::Blocker)], "{name}");
    }
    let renamed = SOUND.replace("Outbound", "Going out");
    let renamed =
        set(&format!("{renamed}[[chain]]\nname = \"Going out\"\n{}", rule("all", "", BOUNCE)));
    assert_eq!(faults(&renamed), [(Fault::NoChain, Severity::Warning)], "named otherwise");
    let mut clients = sound.clone();
    clients.chains[1].applies_to = AppliesTo::ClientOnly;
    assert_eq!(
        all(&clients)[0].text.split(';').next(),
        Some("chain \"Exception\" is for clients alone")
    );
}

#[test]
fn settings_that_are_not_stated_are_one_finding_each() {
    let sound = outbound(&rule("all", "", BOUNCE));
    let found = |change: fn(&mut PolicySet)| {
        let mut set = sound.clone();
        change(&mut set);
        let one = only(&set);
        (one.fault, one.severity)
    };
    let learn = |set: &mut PolicySet| set.globals.learn_mode = Stated::No;
    assert_eq!(found(learn), (Fault::LearnModeNotStated, Severity::Warning));
    let learn = |set: &mut PolicySet| set.globals.learn_mode = Stated::Yes(true);
    assert_eq!(found(learn), (Fault::LearnModeOn, Severity::Blocker));
    let unmanaged = |set: &mut PolicySet| set.globals.unmanaged = Stated::No;
    assert_eq!(found(unmanaged), (Fault::UnmanagedNotStated, Severity::Warning));
    let domains = |set: &mut PolicySet| set.dictionaries.clear();
    assert_eq!(found(domains), (Fault::NoManagedDomains, Severity::Blocker));
    let domains = |set: &mut PolicySet| set.dictionaries[0].entries.clear();
    assert_eq!(found(domains), (Fault::ManagedDomainsEmpty, Severity::Blocker));
}

#[test]
fn what_is_not_understood_is_named_once() {
    let text = rule("r", "{ subject = \"message subject\", matches_pattern = \"(?=x)\" }", BOUNCE)
        + &rule("all", "", BOUNCE);
    let mut set = outbound(&text);
    let found = only(&set);
    assert_eq!((found.fault, found.severity), (Fault::NotUnderstood, Severity::Warning));
    set.chains[2].rules[0].test = Test::Opaque(Opaque { text: "m".into(), what: "moon".into() });
    assert!(only(&set).text.ends_with("asks what is not understood: moon"));
    set.chains[2].rules[0].test = Test::ALWAYS;
    set.chains[2].rules.truncate(1);
    set.chains[2].rules[0].actions =
        vec![Action::Opaque(Opaque { text: "m".into(), what: "moon".into() })];
    assert_eq!(faults(&set), [(Fault::ActionNotUnderstood, Severity::Warning)]);
    let mut parts = outbound(&rule("all", "", BOUNCE));
    parts.opaque.push(Opaque { text: "m".into(), what: "moon".into() });
    assert_eq!(faults(&parts), [(Fault::PartNotUnderstood, Severity::Info)]);
}

#[test]
fn dictionaries_that_are_named_and_not_there_and_the_reverse_are_found() {
    let asks = "{ subject = \"recipient address\", is_in_dictionary = \"D\" }";
    let adds = "{ action = \"add to dictionary\", dictionary = \"E\" }, { action = \"bounce\" }";
    let text = rule("asks", asks, BOUNCE) + &rule("adds", "", adds);
    let mut set = outbound(&text);
    let expected =
        [(Fault::NoDictionary, Severity::Blocker), (Fault::NoDictionary, Severity::Warning)];
    assert_eq!(faults(&set), expected);
    for name in ["D", "E", "F"] {
        let entry = Entry { form: Form::Literal, text: "a@a".into(), origin: Origin::of("test") };
        set.dictionaries.push(Dictionary {
            name: name.into(),
            kind: Kind::Static,
            entries: vec![entry],
            origin: Origin::of("test"),
        });
    }
    assert_eq!(only(&set).text, "no rule asks for dictionary \"F\"");
}

#[test]
fn a_rule_without_an_end_is_found() {
    let text = rule("nothing", &to("a"), "") + &rule("all", "", BOUNCE);
    assert_eq!(faults(&outbound(&text)), [(Fault::NoEnd, Severity::Warning)]);
}

#[test]
fn what_is_too_much_to_find_out_is_said() {
    let text = rule("part", "{ subject = \"message subject\", is = \"x\" }", BOUNCE);
    let mut set = outbound(&text);
    set.chains[2].rules[0].test = Test::Condition(Condition {
        subject: Subject::Whole(Variable::Subject),
        negated: false,
        operator: Operator::Matches(".*a.{30}".into()),
        origin: Origin::of("test"),
    });
    let expected = [(Fault::TooLarge, Severity::Warning), (Fault::NoCatchAll, Severity::Warning)];
    assert_eq!(faults(&set), expected);
}

#[test]
fn new_rules_are_told_with_those_that_they_shadow() {
    let before = outbound(&(rule("a", &to("a"), BOUNCE) + &rule("all", "", BOUNCE)));
    let new = rule("new", &to("a"), "{ action = \"Web Messenger\" }");
    let last = rule("last", &to("b"), "{ action = \"Web Messenger\" }");
    let text = new + &rule("a", &to("a"), BOUNCE) + &rule("all", "", BOUNCE) + &last;
    let found = new_rules_that_shadow(&before, &outbound(&text), &Assumptions::default());
    assert_eq!(found.len(), 1, "the last takes nothing: {found:?}");
    assert_eq!(
        found[0].to_string(),
        "warning: rule \"new\" of chain \"Outbound\" is new and takes all of the mail of rule \
         \"a\", some of the mail of rule \"all\""
    );
    let lines: Vec<u32> = found[0].because.iter().map(|origin| origin.line).collect();
    assert_eq!((found[0].origin.line, lines), (17, vec![21, 25]));
}
