//! The mirror, by example and held against every message of a small universe.

use proptest::prelude::*;

use super::*;
use crate::import;
use crate::sample::Fact;

/// Outbound: confidential mail is encrypted or bounced, mail to partners signed, the rest left as it is.
const POLICY: &str = r#"
[globals]
learn_mode = false
unmanaged_domains = "pass through unmodified"
managed_domains = ["example.com"]

[[chain]]
name = "Default"

[[chain.rule]]
name = "Inbound"
conditions = [ { subject = "direction", is = "inbound" } ]
actions = [ { action = "decrypt and verify" } ]

[[chain.rule]]
name = "Confidential"
conditions = [ { subject = "message subject", contains = "[secure]" } ]
actions = [ { action = "send (encrypted/signed)", sign = true, key_not_found = "bounce" } ]

[[chain.rule]]
name = "Partners"
conditions = [ { subject = "recipient domain", is = "partner.example" } ]
actions = [ { action = "sign and send" } ]

[[chain.rule]]
name = "Others"
actions = [ { action = "pass through unmodified" } ]

[[chain]]
name = "Exception"

[[chain.rule]]
name = "Pass"
actions = [ { action = "pass through unmodified" } ]
"#;

/// What the MTA must send to the server for this policy.
const COVERING: &str = r#"
default = "elsewhere: mx"

[[route]]
name = "secure"
match = "any"
conditions = [
  { subject = "message subject", contains = "[secure]" },
  { subject = "recipient domain", is = "partner.example" },
]
to = "gate"
"#;

fn none(_: &str) -> Result<String, String> {
    Err("there is no such file".to_owned())
}

fn policy(text: &str) -> PolicySet {
    import::from_toml(text, "p.toml", &none).unwrap()
}

fn criteria(text: &str) -> Criteria {
    import::criteria(text, "c.toml", &none).unwrap()
}

fn look(set: &str, routes: &str, scope: Scope) -> Mirror {
    let (set, routes) = (policy(set), criteria(routes));
    mirror(&set, &routes, &Assumptions::default(), scope, Limits::default())
}

fn text<'a>(stray: &'a Stray, variable: &Variable) -> &'a str {
    match stray.sample.fact(variable) {
        Some(Fact::Text(text)) => text,
        other => panic!("{variable}: {other:?}"),
    }
}

#[test]
fn criteria_that_say_the_same_cover_the_policy() {
    let found = look(POLICY, COVERING, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Covers, "{:#?}", found.leaks);
    assert!(found.leaks.is_empty() && found.missed.is_empty() && !found.too_large);
    let all = look(POLICY, "default = \"gate\"", Scope::BothDirections);
    assert_eq!(all.verdict, Verdict::Covers);
    assert!(all.missed.is_empty());
}

#[test]
fn a_message_that_leaks_is_drawn_with_the_rules_and_the_route_that_decide() {
    let routes = COVERING.replace("[secure]", "[secret]");
    let found = look(POLICY, &routes, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Leaks);
    let outcomes: Vec<String> = found.leaks.iter().map(Stray::words).collect();
    assert_eq!(
        outcomes,
        [
            "the policy says: bounce; the MTA sends it to mx",
            "the policy says: send (encrypted, signed, Automatic); the MTA sends it to mx",
        ]
    );
    let leak = &found.leaks[1];
    assert_eq!(leak.certainty, Certainty::Certain);
    assert_eq!(text(leak, &Variable::Subject), "[secure]", "the smallest");
    assert_eq!(leak.route, None, "the default decides");
    assert!(leak.policy.trace.decision.is_some());
    assert_eq!(leak.policy.rules.len(), 2, "first chain, Confidential");
}

#[test]
fn signed_mail_that_goes_elsewhere_leaks_and_mail_in_clear_does_not() {
    let routes = COVERING.replace("partner.example", "other.example");
    let found = look(POLICY, &routes, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Leaks);
    let [leak] = found.leaks.as_slice() else { panic!("{:#?}", found.leaks) };
    assert!(text(leak, &Variable::Recipient).ends_with("@partner.example"));
    assert_eq!(leak.policy.fate.outcome.protection(), Some(Protection::Signed));
}

#[test]
fn a_fallback_beside_the_gate_leaks() {
    let routes = COVERING.replace("\"gate\"", "\"gate or: backup\"");
    let found = look(POLICY, &routes, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Leaks);
    let leak = &found.leaks[0];
    assert_eq!(leak.route, Some(0));
    assert!(leak.words().ends_with("to backup when the server does not take it"), "{leak:?}");
}

#[test]
fn mail_that_stays_inside_is_no_leak_unless_its_domain_is_not_managed() {
    let inside = |domain: &str| {
        let route = format!(
            "[[route]]\nconditions = [ {{ subject = \"recipient domain\", is = \"{domain}\" }} ]\n\
             to = \"inside: exchange\"\n"
        );
        look(POLICY, &format!("default = \"gate\"\n{route}"), Scope::Outbound)
    };
    assert_eq!(inside("example.com").verdict, Verdict::Covers);
    let found = inside("partner.example");
    assert_eq!(found.verdict, Verdict::Leaks, "no managed domain");
    assert_eq!(look(POLICY, "default = \"here\"", Scope::Outbound).verdict, Verdict::Covers);
    assert_eq!(look(POLICY, "default = \"nowhere\"", Scope::Outbound).verdict, Verdict::Covers);
}

#[test]
fn mail_whose_destination_nobody_knows_may_leak() {
    let routes = "default = \"unknown: a table of LDAP\"";
    let found = look(POLICY, routes, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Unknown);
    assert!(found.leaks.iter().all(|leak| leak.certainty == Certainty::Possible));
    assert!(found.leaks[0].words().starts_with("perhaps: the policy says: bounce"));
    assert!(found.leaks[0].words().contains("a table of LDAP"));
}

#[test]
fn mail_of_which_the_policy_is_not_known_may_leak() {
    let set = POLICY.replace(
        "pass through unmodified\" } ]\n\n[[chain]]",
        "expand mailing list and restart\" } ]\n\n[[chain]]",
    );
    let found = look(&set, COVERING, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Unknown, "{:#?}", found.leaks);
    let found = look("", COVERING, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Unknown, "no policy at all");
    assert_eq!(look("", "default = \"gate\"", Scope::Outbound).verdict, Verdict::Covers);
}

#[test]
fn what_is_not_understood_in_a_route_is_a_doubt_and_names_itself() {
    let routes = COVERING.replace("contains = \"[secure]\"", "matches_pattern = '\\bsecure\\b'");
    let found = look(POLICY, &routes, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Unknown);
    assert!(found.leaks[0].doubts[0].what.contains("secure"), "{:?}", found.leaks[0].doubts);
}

#[test]
fn a_part_of_the_policy_that_was_not_understood_is_a_doubt_where_mail_leaves() {
    let mut set = policy(POLICY);
    set.opaque.push(Opaque { text: "<rule/>".into(), what: "rule".into() });
    let look = |routes: &str| {
        let routes = criteria(routes);
        mirror(&set, &routes, &Assumptions::default(), Scope::Outbound, Limits::default())
    };
    let found = look(COVERING);
    assert_eq!((found.verdict, found.doubts.len()), (Verdict::Unknown, 1));
    assert_eq!(look("default = \"gate\"").verdict, Verdict::Covers);
    assert_eq!(look("default = \"elsewhere: mx\"").verdict, Verdict::Leaks);
}

#[test]
fn what_the_criteria_do_not_tell_is_a_doubt_where_mail_leaves() {
    let doubt = Opaque { text: "d".into(), what: "d".into() };
    let look = |typed: &str| {
        let (set, typed) = (policy(POLICY), criteria(typed));
        let routes = Criteria { doubts: vec![doubt.clone()], ..typed };
        mirror(&set, &routes, &Assumptions::default(), Scope::Outbound, Limits::default())
    };
    assert_eq!(look(COVERING).verdict, Verdict::Unknown);
    assert_eq!(look(COVERING).doubts.len(), 1);
    assert_eq!(look("default = \"gate\"").verdict, Verdict::Covers);
}

/// Goal: two systems that ask in the same words of what nobody understands need not mean the same.
#[test]
fn a_pattern_that_is_not_understood_is_not_shared_by_policy_and_criteria() {
    let strange = "matches_pattern = '\\bsecure\\b'";
    let set = POLICY.replace("contains = \"[secure]\"", strange);
    let routes = COVERING.replace("contains = \"[secure]\"", strange);
    assert_eq!(look(&set, &routes, Scope::Outbound).verdict, Verdict::Unknown);
}

/// Goal: a pattern of an MTA finds a part, whatever is assumed of the server's.
#[test]
fn patterns_of_routes_match_a_part() {
    let routes = COVERING.replace("contains = \"[secure]\"", "matches_pattern = '\\[SECURE\\]'");
    let found = look(POLICY, &routes, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Covers, "{:#?}", found.leaks);
    let routes = COVERING.replace("contains = \"[secure]\"", "matches_pattern = '^\\[secure\\]'");
    let found = look(POLICY, &routes, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Leaks);
    let subject = text(&found.leaks[0], &Variable::Subject);
    assert!(subject.ends_with("[secure]") && subject.len() == 9, "{subject}");
}

#[test]
fn a_list_of_the_mta_is_not_the_list_of_the_policy() {
    let list =
        |entries: &str| format!("\n[[dictionary]]\nname = \"Partners\"\nliterals = [{entries}]\n");
    let asks = "is_in_dictionary = \"Partners\"";
    let set =
        POLICY.replace("is = \"partner.example\"", asks) + &list("\"a.example\", \"b.example\"");
    let routes = COVERING.replace("is = \"partner.example\"", asks);
    let found = look(&set, &format!("{routes}{}", list("\"a.example\"")), Scope::Outbound);
    let [leak] = found.leaks.as_slice() else { panic!("{:#?}", found.leaks) };
    assert!(text(leak, &Variable::Recipient).ends_with("@b.example"));
    let found =
        look(&set, &format!("{routes}{}", list("\"a.example\", \"b.example\"")), Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Covers);
    let found = look(&set, &routes, Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Unknown, "the MTA has no such list");
}

#[test]
fn one_message_goes_where_its_route_says() {
    let routes = criteria(COVERING);
    let to = |recipient: &str, subject: Option<&str>| {
        let mut sample = Sample::unknown().with_text(Variable::Recipient, recipient);
        if let Some(subject) = subject {
            sample = sample.with_text(Variable::Subject, subject);
        }
        routes.destination(&sample).cloned()
    };
    assert_eq!(to("a@partner.example", None), Some(Destination::Gate));
    assert_eq!(to("a@b.example", None), None, "the subject is not known");
    assert_eq!(to("a@b.example", Some("")), Some(Destination::Elsewhere { host: "mx".into() }));
}

#[test]
fn inbound_mail_that_stays_encrypted_is_missed_and_does_not_leak() {
    let found = look(POLICY, COVERING, Scope::BothDirections);
    assert_eq!(found.verdict, Verdict::Covers);
    let missed = &found.missed[0];
    assert_eq!(missed.certainty, Certainty::Certain);
    assert_eq!(missed.policy.fate.outcome, Outcome::Decrypted);
    assert_ne!(text(missed, &Variable::Encoding), "none", "plain mail needs no server");
    let wrapped = "\n[[route]]\nmatch = \"none\"\n\
                   conditions = [ { subject = \"message encoding\", is = \"none\" } ]\nto = \"gate\"\n";
    let found = look(POLICY, &format!("{COVERING}{wrapped}"), Scope::BothDirections);
    assert!(found.missed.is_empty(), "{:#?}", found.missed);
    assert!(look(POLICY, COVERING, Scope::Outbound).missed.is_empty(), "nobody asked");
}

#[test]
fn routes_that_nobody_needs_or_comes_to_are_named() {
    let more = "\n[[route]]\nconditions = [ { subject = \"recipient domain\", is = \"x.example\" } ]\n\
                to = \"gate\"\n\n[[route]]\n\
                conditions = [ { subject = \"message subject\", is = \"[secure] a\" } ]\nto = \"here\"\n";
    let found = look(POLICY, &format!("{COVERING}{more}"), Scope::Outbound);
    assert_eq!(found.verdict, Verdict::Covers);
    assert_eq!((found.unneeded, found.unreached), (vec![1], vec![2]));
    let found = look(POLICY, &format!("{COVERING}{more}"), Scope::BothDirections);
    assert!(found.unneeded.is_empty(), "inbound mail may need it");
}

#[test]
fn what_is_too_much_is_never_called_covered() {
    let limits = Limits { divergences: 1, ..Limits::default() };
    let (set, routes) = (policy(POLICY), criteria("default = \"elsewhere: mx\""));
    let plain = Assumptions::default();
    let found = mirror(&set, &routes, &plain, Scope::Outbound, limits);
    assert_eq!((found.verdict, found.leaks.len(), found.more), (Verdict::Leaks, 1, true));
    let mut limits = Limits::default();
    limits.budget.states = 1;
    let found = mirror(&set, &criteria("default = \"gate\""), &plain, Scope::Outbound, limits);
    assert_eq!((found.verdict, found.too_large), (Verdict::Unknown, true));
}

const DOMAINS: [&str; 5] =
    ["example.com", "partner.example", "a.partner.example", "x.example", "y.test"];
const SUBJECTS: [&str; 4] = ["", "[secure]", "a [secure]", "secure"];
const ASKED: [&str; 6] = [
    "subject = \"recipient domain\", is = \"partner.example\"",
    "subject = \"recipient domain\", is_subdomain_of = \"partner.example\"",
    "subject = \"recipient domain\", ends_with = \"example\"",
    "subject = \"message subject\", contains = \"[secure]\"",
    "subject = \"message subject\", begins_with = \"[secure]\"",
    "subject = \"sender domain\", is = \"example.com\"",
];
const PLACES: [&str; 5] = ["gate", "elsewhere: mx", "inside: us", "gate or: mx", "here"];

/// Does this condition hold, as anybody would read it?
fn holds(asked: usize, recipient: &str, sender: &str, subject: &str) -> bool {
    match asked {
        0 => recipient == "partner.example",
        1 => recipient.ends_with(".partner.example"),
        2 => recipient.ends_with("example"),
        3 => subject.contains("[secure]"),
        4 => subject.starts_with("[secure]"),
        _ => sender == "example.com",
    }
}

/// Would this message leak, as anybody would read policy and routes?
fn leaks(routes: &[(usize, bool, usize)], default: usize, message: [&str; 3]) -> bool {
    let [recipient, sender, subject] = message;
    let protected =
        sender == "example.com" && (subject.contains("[secure]") || recipient == "partner.example");
    let place = routes
        .iter()
        .find(|(asked, negated, _)| holds(*asked, recipient, sender, subject) != *negated);
    match place.map_or(default, |(.., place)| *place) {
        1 | 3 => protected,
        2 => protected && recipient != "example.com",
        _ => false,
    }
}

proptest! {
    /// Method: random routes; the verdict against every message of a universe in which each condition
    /// has its yes and its no.
    #[test]
    fn the_verdict_is_that_of_every_message(
        routes in prop::collection::vec((0..ASKED.len(), any::<bool>(), 0..PLACES.len()), 0..5),
        default in 0..PLACES.len(),
    ) {
        let mut typed = format!("default = {:?}\n", PLACES[default]);
        for (asked, negated, place) in &routes {
            let (asked, place) = (ASKED[*asked], PLACES[*place]);
            typed += &format!("[[route]]\nconditions = [ {{ not = {negated}, {asked} }} ]\nto = {place:?}\n");
        }
        let found = look(POLICY, &typed, Scope::Outbound);
        let mut expected = false;
        for recipient in DOMAINS {
            for sender in DOMAINS {
                for subject in SUBJECTS {
                    expected |= leaks(&routes, default, [recipient, sender, subject]);
                }
            }
        }
        let verdict = if expected { Verdict::Leaks } else { Verdict::Covers };
        prop_assert_eq!(found.verdict, verdict, "{}: {:#?}", typed, found.leaks);
        for leak in &found.leaks {
            let domain = |variable| {
                let (_, domain) = text(leak, variable).rsplit_once('@').unwrap_or_default();
                domain
            };
            let message = [domain(&Variable::Recipient), domain(&Variable::Sender), text(leak, &Variable::Subject)];
            prop_assert!(leaks(&routes, default, message), "{}: {:?}", typed, message);
        }
    }
}
