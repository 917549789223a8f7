//! Configurations as administrators write them, and what of a policy they let leak.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use policy::assume::Assumptions;
use policy::import;
use policy::mirror::{Mirror, Scope as Directions, Stray as Leak, Verdict, mirror};
use policy::parity::Limits;
use policy::sample::{Fact, Variable};

use super::*;

/// Confidential mail is encrypted, mail to partners signed, the rest left as it is.
const POLICY: &str = r#"
[globals]
learn_mode = false
unmanaged_domains = "pass through unmodified"
managed_domains = ["example.com"]

[[chain]]
name = "Default"

[[chain.rule]]
name = "Confidential"
conditions = [ { subject = "message subject", contains = "[secure]" } ]
actions = [ { action = "PDF Messenger (Encrypt All)" } ]

[[chain.rule]]
name = "Partners"
match = "any"
conditions = [
  { subject = "recipient domain", is = "partner.example" },
  { subject = "recipient domain", is_subdomain_of = "partner.example" },
]
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

/// The services of an installation, without those that take mail.
const MASTER: &str = "\
cleanup unix n - y - 0 cleanup
rewrite unix - - y - - trivial-rewrite
smtp unix - - y - - smtp
relay unix - - y - - smtp
  -o syslog_name=postfix/$service_name
lmtp unix - - y - - lmtp
error unix - - y - - error
discard unix - - y - - discard
local unix - n n - - local
virtual unix - n n - - virtual
uucp unix - n n - - pipe
  flags=Fqhu user=uucp argv=uux -o x=y - $nexthop!rmail ($recipient)
";

/// Files in memory, with the time at which they were written.
#[derive(Default)]
struct Memory(HashMap<PathBuf, (String, u64)>);

impl Memory {
    fn of(main: &str) -> Self {
        let main = format!("myhostname = mx.example.com\n{main}");
        Self::default().with("main.cf", &main).service("smtp inet n - y - - smtpd")
    }

    fn with(self, path: &str, text: &str) -> Self {
        self.written(path, text, 10)
    }

    fn written(mut self, path: &str, text: &str, at: u64) -> Self {
        self.0.insert(path.into(), (text.to_owned(), at));
        self
    }

    fn service(self, lines: &str) -> Self {
        let before = self.0.get(Path::new("master.cf")).map_or(MASTER, |(text, _)| text);
        let text = format!("{before}{lines}\n");
        self.with("master.cf", &text)
    }
}

impl Files for Memory {
    fn text(&self, path: &Path) -> Result<String, FileError> {
        let missing = || FileError::Read {
            path: path.to_owned(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
        self.0.get(path).map(|(text, _)| text.clone()).ok_or_else(missing)
    }

    fn written(&self, path: &Path) -> Option<SystemTime> {
        let (_, at) = self.0.get(path)?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(*at))
    }
}

fn gates() -> Gates {
    Gates {
        forward: vec!["10.0.0.5:2525".parse().unwrap()],
        names: vec!["[lockgate.example.com]:2525".to_owned()],
        returns: vec!["127.0.0.1:10026".parse().unwrap()],
    }
}

fn read(files: &Memory) -> Reading {
    criteria_of(files, &gates()).unwrap()
}

fn held_against_policy(criteria: &Criteria) -> Mirror {
    let nothing = |_: &str| Err("no lists".to_owned());
    let set = import::from_toml(POLICY, "p.toml", &nothing).unwrap();
    let plain = Assumptions::default();
    mirror(&set, criteria, &plain, Directions::Outbound, Limits::default())
}

/// The one entrance of a configuration, held against the policy.
fn look(files: &Memory) -> Mirror {
    let reading = read(files);
    let [entrance] = reading.entrances.as_slice() else { panic!("{:#?}", reading.entrances) };
    held_against_policy(&entrance.criteria)
}

fn verdict(files: &Memory) -> Verdict {
    look(files).verdict
}

fn words(found: &Mirror) -> Vec<String> {
    found.leaks.iter().map(Leak::words).collect()
}

fn domain(leak: &Leak, variable: &Variable) -> String {
    match leak.sample.fact(variable) {
        Some(Fact::Text(text)) => text.rsplit('@').next().unwrap().to_owned(),
        other => panic!("{variable}: {other:?}"),
    }
}

fn findings(files: &Memory, severity: Severity) -> Vec<String> {
    let all = read(files).findings.into_iter();
    all.filter(|finding| finding.severity == severity).map(|finding| finding.to_string()).collect()
}

const GATE: &str = "relayhost = [10.0.0.5]:2525\n";

#[test]
fn a_relay_host_that_is_a_gate_covers_all() {
    let found = look(&Memory::of(GATE));
    assert_eq!(found.verdict, Verdict::Covers, "{:?}", words(&found));
    assert_eq!(verdict(&Memory::of("relayhost = [lockgate.example.com]:2525")), Verdict::Covers);
    assert_eq!(verdict(&Memory::of("default_transport = smtp:[10.0.0.5]:2525")), Verdict::Covers);
    let both = "relayhost = [10.0.0.5]:2525, [lockgate.example.com]:2525";
    assert_eq!(verdict(&Memory::of(both)), Verdict::Covers);
    assert!(findings(&Memory::of(GATE), Severity::Leak).is_empty());
}

#[test]
fn mail_without_a_relay_host_leaks_to_mx_hosts() {
    let found = look(&Memory::of(""));
    assert_eq!(found.verdict, Verdict::Leaks);
    let expected = "the policy says: PDF Messenger (Encrypt All); the MTA sends it to the MX hosts \
                    of the recipient's domain (smtp:)";
    assert_eq!(words(&found)[0], expected);
}

#[test]
fn another_host_than_the_gate_leaks() {
    for host in ["[10.0.0.6]:2525", "[10.0.0.5]:25", "[10.0.0.5]", "[lockgate.example.org]:2525"] {
        let found = look(&Memory::of(&format!("relayhost = {host}")));
        assert_eq!(found.verdict, Verdict::Leaks, "{host}");
        assert!(words(&found)[0].ends_with(&format!("sends it to {host} (smtp:{host})")));
    }
}

/// Goal: a name without brackets is looked up for MX records, be it the gate's own.
#[test]
fn a_gate_without_brackets_leaks_by_its_mx_records() {
    for host in ["10.0.0.5:2525", "lockgate.example.com:2525"] {
        let files = Memory::of(&format!("relayhost = {host}"));
        let found = look(&files);
        assert_eq!(found.verdict, Verdict::Leaks, "{host}");
        let expected = format!("sends it to the MX hosts of {host} (smtp:{host})");
        assert!(words(&found)[0].ends_with(&expected), "{:?}", words(&found));
        let leak = findings(&files, Severity::Leak);
        assert!(leak[0].starts_with(&format!("main.cf:2:1: {host} has no brackets")), "{leak:?}");
    }
    let files = Memory::of("relayhost = 10.0.0.5:2525\ndisable_dns_lookups = yes");
    assert_eq!(verdict(&files), Verdict::Covers, "no records are asked for");
}

#[test]
fn a_fallback_relay_beside_the_gate_leaks() {
    for name in ["smtp_fallback_relay", "fallback_relay"] {
        let files = Memory::of(&format!("{GATE}{name} = [backup.example.net]"));
        let found = look(&files);
        assert_eq!(found.verdict, Verdict::Leaks, "{name}");
        let expected = "the policy says: PDF Messenger (Encrypt All); the MTA sends it to \
                        [backup.example.net] when the server does not take it";
        assert_eq!(words(&found)[0], expected);
        let leak = findings(&files, Severity::Leak);
        assert!(leak[0].contains("when the gate does not answer, or answers 4yz"), "{leak:?}");
    }
    let files = Memory::of(&format!("{GATE}smtp_fallback_relay = [lockgate.example.com]:2525"));
    assert_eq!(verdict(&files), Verdict::Covers, "a gate too");
}

/// Goal: each service of the SMTP client has a fallback relay of its own.
#[test]
fn what_a_transport_says_goes_before_main_cf() {
    let gated = "gated unix - - y - - smtp\n  -o smtp_fallback_relay=";
    let main = "default_transport = gated:[10.0.0.5]:2525\nsmtp_fallback_relay = [backup]\n";
    assert_eq!(verdict(&Memory::of(main).service(gated)), Verdict::Covers);
    let leaking = format!("{gated}[backup]");
    let main = "default_transport = gated:[10.0.0.5]:2525\n";
    assert_eq!(verdict(&Memory::of(main).service(&leaking)), Verdict::Leaks);
}

#[test]
fn a_further_next_hop_leaks() {
    let files = Memory::of("relayhost = [10.0.0.5]:2525, [other.example.net]");
    let found = look(&files);
    assert_eq!(found.verdict, Verdict::Leaks);
    assert!(words(&found)[0].ends_with("to [other.example.net] when the server does not take it"));
    let leak = findings(&files, Severity::Leak);
    assert!(leak[0].contains("a further next hop"), "{leak:?}");
}

const MAPS: &str = "transport_maps = hash:/etc/postfix/transport\n";
const TRANSPORT: &str = "/etc/postfix/transport";

#[test]
fn a_transport_map_that_mirrors_only_a_part_leaks() {
    let map = "partner.example smtp:[10.0.0.5]:2525\n";
    let found = look(&Memory::of(MAPS).with(TRANSPORT, map));
    assert_eq!(found.verdict, Verdict::Leaks);
    let signed: Vec<&Leak> = found
        .leaks
        .iter()
        .filter(|leak| leak.policy.fate.outcome.to_string().contains("signed"))
        .collect();
    let [leak] = signed.as_slice() else { panic!("{:?}", words(&found)) };
    assert!(domain(leak, &Variable::Recipient).ends_with(".partner.example"), "the domain below");
}

#[test]
fn entries_of_a_transport_map_go_by_their_precision() {
    let leaks = |map: &str| {
        let files = Memory::of(&format!("{GATE}{MAPS}")).with(TRANSPORT, map);
        words(&look(&files)).len()
    };
    assert_eq!(leaks("x.example smtp:[other]\n"), 1, "confidential mail to that domain");
    assert_eq!(leaks("a@partner.example smtp:[other]\n"), 2, "confidential, and signed");
    assert_eq!(leaks(".partner.example smtp:[other]\n.a.partner.example :\n"), 2);
    assert_eq!(leaks("* smtp:[10.0.0.5]:2525\n"), 0);
    assert_eq!(leaks("x.example :\nx.example smtp:[other]\n"), 0, "of a key the first counts");
    assert_eq!(leaks("x.example :[other]\n"), 1, "the transport of the class");
    assert_eq!(leaks("x.example smtp:\n"), 1, "a transport alone resets the next hop");
    assert_eq!(leaks("x.example error:no\nx.example smtp:[other]\n"), 0);
    assert_eq!(leaks("X.Example discard:\n"), 0);
}

#[test]
fn the_whole_address_in_any_table_goes_before_the_domain_in_the_first() {
    let main = "transport_maps = hash:/etc/postfix/transport, regexp:/etc/postfix/rules\n";
    let files = Memory::of(main)
        .with(TRANSPORT, "partner.example smtp:[other]\n")
        .with("/etc/postfix/rules", "/./ smtp:[10.0.0.5]:2525\n");
    assert_eq!(verdict(&files), Verdict::Covers);
}

#[test]
fn rules_of_expressions_are_asked_in_order() {
    let rules = "if !/@example\\.com$/\n/^postmaster@/ smtp:[other]\n/x\\.example$/i error:no\n\
                 /.*/ smtp:[10.0.0.5]:2525\nendif\n";
    let files = Memory::of("transport_maps = regexp:/r").with("/r", rules);
    let found = look(&files);
    assert_eq!(found.verdict, Verdict::Leaks);
    let local = |leak: &Leak| match leak.sample.fact(&Variable::Recipient) {
        Some(Fact::Text(text)) => text.starts_with("postmaster@") || text.ends_with("@example.com"),
        _ => false,
    };
    assert!(found.leaks.iter().filter(|leak| leak.doubts.is_empty()).all(local), "{found:#?}");
    let files = Memory::of("transport_maps = pcre:/r").with("/r", "/(?!x)/ smtp:[10.0.0.5]:2525\n");
    let found = look(&files);
    assert_eq!(found.verdict, Verdict::Unknown);
    assert!(found.leaks[0].doubts[0].what.contains("(?!x)"), "{:?}", found.leaks[0].doubts);
    let files = Memory::of("transport_maps = regexp:/r").with("/r", "/(.*)/ smtp:[$1]\n");
    assert_eq!(verdict(&files), Verdict::Unknown, "no substitution");
}

#[test]
fn tables_in_main_cf_itself_are_read() {
    let map = "transport_maps = inline:{ {x.example = smtp:[other]}, y.example=error: }\n";
    let found = look(&Memory::of(&format!("{GATE}{map}")));
    assert_eq!(words(&found).len(), 1);
    let map = "transport_maps = static:{smtp:[10.0.0.5]:2525}\n";
    assert_eq!(verdict(&Memory::of(map)), Verdict::Covers);
    let map = "transport_maps = regexp:{ { /./ smtp:[10.0.0.5]:2525 } }\n";
    assert_eq!(verdict(&Memory::of(map)), Verdict::Covers);
}

#[test]
fn tables_that_are_not_read_are_doubts_with_their_names() {
    for table in
        ["ldap:/etc/postfix/ldap.cf", "unionmap:{static:a}", "proxy:mysql:/x.cf", "hash:/no"]
    {
        let found = look(&Memory::of(&format!("{GATE}transport_maps = {table}")));
        assert_eq!(found.verdict, Verdict::Unknown, "{table}");
        assert!(words(&found)[0].contains("nobody knows where"), "{:?}", words(&found));
        assert!(words(&found)[0].contains(table), "{:?}", words(&found));
        let doubts = &found.leaks[0].doubts;
        assert!(doubts[0].what.contains(table), "{doubts:?}");
    }
    let errors =
        findings(&Memory::of(&format!("{GATE}transport_maps = hash:/no")), Severity::Error);
    assert!(errors[0].starts_with("main.cf:3:1: /no cannot be read"), "{errors:?}");
}

#[test]
fn a_compiled_table_that_is_older_than_its_text_is_named() {
    let files = Memory::of(&format!("{GATE}{MAPS}")).with(TRANSPORT, "x.example :\n");
    let compiled = format!("{TRANSPORT}.db");
    let warned = |files: &Memory| findings(files, Severity::Warning);
    assert!(warned(&files)[0].contains("transport.db is not there"), "{:?}", warned(&files));
    let files = files.written(&compiled, "", 5);
    assert!(warned(&files)[0].contains("transport.db is older than"), "{:?}", warned(&files));
    let files = files.written(&compiled, "", 10);
    assert!(warned(&files).is_empty());
}

#[test]
fn what_was_read_of_an_older_index_is_never_called_covered() {
    let senders = "sender_dependent_relayhost_maps = hash:/s\n";
    let files = Memory::of(&format!("{senders}relayhost = [other]\n"))
        .with("/s", "@example.com [10.0.0.5]:2525\n")
        .written("/s.db", "", 10);
    assert_eq!(verdict(&files), Verdict::Covers, "all managed senders go to the gate");
    let files = files.written("/s", "@example.com [10.0.0.5]:2525\n", 20);
    assert_eq!(verdict(&files), Verdict::Unknown, "Postfix reads the index");
    let files = Memory::of(&format!("{senders}{GATE}"))
        .written("/s", "@example.com [10.0.0.5]:2525\n", 20)
        .written("/s.db", "", 10);
    assert_eq!(verdict(&files), Verdict::Covers, "where nothing leaves, nothing is doubted");
}

#[test]
fn addresses_with_an_extension_are_doubtful_where_keys_are_found_without_it() {
    let main = format!("{GATE}{MAPS}recipient_delimiter = +\n");
    let files = Memory::of(&main).with(TRANSPORT, "a@x.example smtp:[10.0.0.5]:2525\n");
    let found = look(&files);
    assert_eq!(found.verdict, Verdict::Unknown);
    for leak in &found.leaks {
        let Some(Fact::Text(recipient)) = leak.sample.fact(&Variable::Recipient) else { panic!() };
        assert!(recipient.contains('+'), "{recipient}");
    }
}

#[test]
fn a_sender_of_another_relay_host_leaks() {
    let map = "sender_dependent_relayhost_maps = texthash:/s\n";
    let files = Memory::of(&format!("{GATE}{map}")).with("/s", "@example.com [other]:25\n");
    let found = look(&files);
    assert_eq!(found.verdict, Verdict::Leaks);
    assert!(found.leaks.iter().all(|leak| domain(leak, &Variable::Sender) == "example.com"));
    let files = Memory::of(&format!("{GATE}{map}")).with("/s", "@other.example [other]:25\n");
    assert_eq!(verdict(&files), Verdict::Covers, "a domain whose mail is never protected");
    let files = Memory::of(&format!("{GATE}{map}"))
        .with("/s", "a@example.com DUNNO\n@example.com [10.0.0.5]:2525\n");
    assert_eq!(verdict(&files), Verdict::Covers);
    let files = Memory::of(map).with("/s", "@example.com [10.0.0.5]:2525\n");
    assert_eq!(verdict(&files), Verdict::Covers, "all managed senders go to the gate");
}

#[test]
fn a_transport_by_sender_goes_before_the_default() {
    let map = "sender_dependent_default_transport_maps = texthash:/s\n";
    let files = Memory::of(&format!("{GATE}{map}")).with("/s", "@example.com smtp:[other]\n");
    assert_eq!(verdict(&files), Verdict::Leaks);
    let files = Memory::of(&format!("{GATE}{map}")).with("/s", "@example.com relay:\n");
    assert_eq!(verdict(&files), Verdict::Covers, "its next hop is that of relayhost");
    let files = Memory::of(map).with("/s", "@example.com smtp:[10.0.0.5]:2525\n");
    assert_eq!(verdict(&files), Verdict::Covers);
}

#[test]
fn mail_for_domains_of_ours_stays_inside_unless_they_are_not_managed() {
    let main = format!("{GATE}relay_domains = example.com\n{MAPS}");
    let inside = "example.com smtp:[exchange.example.com]\n";
    assert_eq!(verdict(&Memory::of(&main).with(TRANSPORT, inside)), Verdict::Covers);
    let main = format!("{GATE}relay_domains = example.com, partner.example\n{MAPS}");
    let both = format!("{inside}partner.example smtp:[their.mx]\n");
    let found = look(&Memory::of(&main).with(TRANSPORT, &both));
    assert_eq!(found.verdict, Verdict::Leaks);
    assert!(words(&found)[0].ends_with("to [their.mx], as mail for a domain of ours"));
    let main = format!("{GATE}mydestination = partner.example\n");
    assert_eq!(verdict(&Memory::of(&main)), Verdict::Covers, "delivered here");
    let main = format!("{GATE}virtual_alias_domains = partner.example\n");
    assert_eq!(verdict(&Memory::of(&main)), Verdict::Covers, "rewritten, or refused");
    let main =
        format!("{GATE}relay_domains = !a.x.example, x.example\nrelay_transport = smtp:[other]");
    let found = look(&Memory::of(&main));
    let domains: Vec<String> =
        found.leaks.iter().map(|leak| domain(leak, &Variable::Recipient)).collect();
    assert_eq!(domains, ["x.example"], "subdomains too, but one");
}

#[test]
fn a_content_filter_goes_before_all_routing() {
    let main = "content_filter = smtp:[10.0.0.5]:2525\nrelayhost = [other]\n";
    assert_eq!(verdict(&Memory::of(main)), Verdict::Covers);
    let main = format!("{GATE}content_filter = smtp:[other]\n");
    let found = look(&Memory::of(&main));
    assert_eq!(found.verdict, Verdict::Leaks);
    let leak = &found.leaks[0];
    let reading = read(&Memory::of(&main));
    let route = &reading.entrances[0].criteria.routes[leak.route.unwrap()];
    assert_eq!(route.words, "content_filter = smtp:[other]");
    assert_eq!(route.origin.to_string(), "main.cf:3:1");
    let found = look(&Memory::of("content_filter = smtp:\n"));
    assert!(words(&found)[0].ends_with("to the MX hosts of the recipient's domain"));
    let main = "content_filter = smtp:\ndefault_filter_nexthop = [10.0.0.5]:2525\n";
    assert_eq!(verdict(&Memory::of(main)), Verdict::Covers);
}

#[test]
fn each_service_that_takes_mail_is_an_entrance() {
    let files = Memory::of("content_filter = smtp:[10.0.0.5]:2525\n")
        .service("submission inet n - y - - smtpd")
        .service("127.0.0.1:10026 inet n - n - 10 smtpd\n  -o content_filter=")
        .service("127.0.0.1:10027 inet n - n - 10 smtpd\n  -o content_filter=")
        .service("pickup unix n - y 60 1 pickup\n  -o content_filter=smtp:[other]");
    let reading = read(&files);
    let verdicts: Vec<(String, Verdict)> = reading
        .entrances
        .iter()
        .map(|one| (one.services.join(" "), held_against_policy(&one.criteria).verdict))
        .collect();
    let expected = [
        ("smtp submission".to_owned(), Verdict::Covers),
        ("127.0.0.1:10027".to_owned(), Verdict::Leaks),
        ("pickup".to_owned(), Verdict::Leaks),
    ];
    assert_eq!(verdicts, expected);
    let notes = findings(&files, Severity::Note);
    assert!(notes[0].contains("127.0.0.1:10026: it takes mail back"), "{notes:?}");
}

/// Goal: the way back never hides the way out.
#[test]
fn a_port_for_anybody_is_an_entrance_even_where_the_server_gives_mail_back() {
    let gates = Gates { returns: vec!["127.0.0.1:25".parse().unwrap()], ..gates() };
    let reading = criteria_of(&Memory::of(""), &gates).unwrap();
    assert_eq!(reading.entrances.len(), 1);
    let files = Memory::of("").with("master.cf", MASTER);
    assert!(matches!(criteria_of(&files, &gates), Err(ReadError::NoEntrance)));
}

#[test]
fn a_filter_before_the_queue_is_the_gate_or_not_known() {
    let main = "smtpd_proxy_filter = 10.0.0.5:2525\n";
    assert_eq!(verdict(&Memory::of(main)), Verdict::Covers);
    let main = format!("{GATE}smtpd_proxy_filter = 127.0.0.1:10024\n");
    assert_eq!(verdict(&Memory::of(&main)), Verdict::Unknown);
}

const CHECKS: &str = "header_checks = regexp:/h\n";

#[test]
fn header_checks_that_filter_are_routes_with_a_doubt_of_how_fields_are_written() {
    let map = "transport_maps = inline:{ {partner.example=smtp:[10.0.0.5]:2525}, \
               {.partner.example=smtp:[10.0.0.5]:2525} }\n";
    let rules = "/^Subject:.*\\[secure\\]/ FILTER smtp:[10.0.0.5]:2525\n";
    let found = look(&Memory::of(&format!("{CHECKS}{map}")).with("/h", rules));
    assert_eq!(found.verdict, Verdict::Unknown, "{:?}", words(&found));
    let doubts: Vec<&str> = found.leaks.iter().map(|leak| leak.doubts[0].what.as_str()).collect();
    assert_eq!(doubts, ["the field is not written in encoded words (RFC 2047)"]);
    let other = rules.replace("secure", "secret");
    let found = look(&Memory::of(&format!("{CHECKS}{map}")).with("/h", &other));
    assert_eq!(found.verdict, Verdict::Leaks);
    let leak = &found.leaks[0];
    assert_eq!(leak.sample.fact(&Variable::Subject), Some(&Fact::Text("[secure]".into())));
}

#[test]
fn a_header_check_that_filters_elsewhere_leaks_before_the_content_filter() {
    let main = format!("{CHECKS}content_filter = smtp:[10.0.0.5]:2525\n");
    let rules = "/^Subject: *\\[secure\\] now/ DUNNO\n/^X-Bulk:\\s+yes/ FILTER smtp:[bulk]\n";
    let found = look(&Memory::of(&main).with("/h", rules));
    assert_eq!(found.verdict, Verdict::Leaks);
    assert!(words(&found)[0].ends_with("to [bulk]"), "{:?}", words(&found));
    let field = found.leaks[0].sample.fact(&Variable::header("X-Bulk"));
    assert_eq!(field, Some(&Fact::Texts(vec!["yes".into()])));
    let refused = format!("/^X-Bulk:.*/ REJECT\n{rules}");
    let found = look(&Memory::of(&main).with("/h", &refused));
    assert_eq!(found.verdict, Verdict::Unknown, "the first rule refuses it, if it is met");
}

#[test]
fn a_rule_of_the_same_field_before_takes_the_line() {
    let main = format!("{CHECKS}{GATE}");
    let rules = "/^Subject:.*\\[secure\\]/ DUNNO\n/^Subject:.*\\[/ FILTER smtp:[other]\n";
    let found = look(&Memory::of(&main).with("/h", rules));
    let confidential = |leak: &&Leak| leak.policy.fate.outcome.to_string().contains("PDF");
    assert_eq!(found.leaks.iter().filter(confidential).count(), 0, "{:?}", words(&found));
    assert_eq!(found.leaks.len(), 1, "signed mail with another bracket");
}

#[test]
fn two_filters_that_take_the_same_mail_are_not_known() {
    let rules = "/^X-A:/ FILTER smtp:[10.0.0.5]:2525\n/^X-B:/ FILTER smtp:[other]\n";
    let files = Memory::of(&format!("{CHECKS}{GATE}")).with("/h", rules);
    let routes = &read(&files).entrances[0].criteria.routes;
    assert!(routes[0].to.to_string().contains("two filters take it"), "{}", routes[0].to);
    assert_eq!(verdict(&files), Verdict::Leaks);
}

#[test]
fn what_a_check_asks_that_a_policy_cannot_is_a_doubt() {
    let doubtful = [
        ("header_checks", "/^Content-Type: multipart\\/signed/ FILTER smtp:[other]"),
        ("header_checks", "!/^Subject:/ FILTER smtp:[other]"),
        ("header_checks", "/secure/ FILTER smtp:[other]"),
        ("header_checks", "/^(Subject|X-A):/ FILTER smtp:[other]"),
        ("header_checks", "/^Subject:a|b/ FILTER smtp:[other]"),
        ("mime_header_checks", "/name=/ FILTER smtp:[other]"),
        ("body_checks", "/secure/ FILTER smtp:[other]"),
        ("body_checks", "/secure/ REDIRECT a@other.example"),
        ("header_checks", "/^X-A:/ PASS"),
        ("header_checks", "/^X-A: (.*)/ FILTER smtp:[$1]"),
    ];
    for (parameter, rule) in doubtful {
        let main = format!("{GATE}{parameter} = pcre:/h\n");
        let found = look(&Memory::of(&main).with("/h", rule));
        assert_eq!(found.verdict, Verdict::Unknown, "{parameter} {rule}: {:?}", words(&found));
    }
    let main = format!("{GATE}header_checks = regexp:/h\n");
    let files = Memory::of(&main).with("/h", "/^X-Secret:/ IGNORE\n/^Received:/ WARN\n");
    assert_eq!(verdict(&files), Verdict::Covers);
    let warned = findings(&files, Severity::Warning);
    assert!(warned[0].contains("the server does not see the line"), "{warned:?}");
    let main = "receive_override_options = no_header_body_checks\nheader_checks = regexp:/h\n";
    let files = Memory::of(&format!("{GATE}{main}")).with("/h", "/./ FILTER smtp:[other]");
    assert_eq!(verdict(&files), Verdict::Covers, "they are switched off");
}

#[test]
fn access_tables_filter_where_nothing_before_permits() {
    let filter = "check_recipient_access texthash:/a";
    let first = format!("{GATE}smtpd_recipient_restrictions = {filter}, permit_mynetworks\n");
    let table = "partner.example FILTER smtp:[other]\n";
    let found = look(&Memory::of(&first).with("/a", table));
    assert_eq!(found.verdict, Verdict::Leaks);
    let of = |leak: &Leak| domain(leak, &Variable::Recipient);
    assert!(found.leaks.iter().all(|leak| of(leak).ends_with("partner.example")), "subdomains too");
    let behind = format!("{GATE}smtpd_recipient_restrictions = permit_mynetworks, {filter}\n");
    let found = look(&Memory::of(&behind).with("/a", table));
    assert_eq!(found.verdict, Verdict::Unknown);
    let doubt = &found.leaks[0].doubts[0].what;
    assert!(doubt.contains("the restrictions before smtpd_recipient_restrictions"), "{doubt}");
    let table = "a.partner.example REJECT\npartner.example OK\n";
    assert_eq!(verdict(&Memory::of(&first).with("/a", table)), Verdict::Covers);
}

#[test]
fn the_more_precise_key_of_an_access_table_decides() {
    let main = "smtpd_sender_restrictions = check_sender_access texthash:/a\nrelayhost = [other]\n";
    let table = "example.com FILTER smtp:[10.0.0.5]:2525\nboss@example.com DUNNO\nbulk@ REJECT\n";
    let found = look(&Memory::of(main).with("/a", table));
    assert_eq!(found.verdict, Verdict::Leaks);
    for leak in &found.leaks {
        let Some(Fact::Text(sender)) = leak.sample.fact(&Variable::Sender) else { panic!() };
        assert_eq!(sender, "boss@example.com");
    }
}

/// Goal: what does not refuse hides nothing.
#[test]
fn a_table_that_only_warns_or_sees_no_recipient_refuses_nothing() {
    let lists = [
        "smtpd_recipient_restrictions = warn_if_reject check_recipient_access texthash:/a",
        "smtpd_recipient_restrictions = warn_if_reject reject, permit",
    ];
    for list in lists {
        let files = Memory::of(&format!("relayhost = [other]\n{list}\n"));
        let found = look(&files.with("/a", "partner.example REJECT\n.partner.example REJECT\n"));
        assert_eq!(found.leaks.len(), 2, "{list}: {:?}", words(&found));
    }
    let list = "smtpd_data_restrictions = check_recipient_access texthash:/a\n";
    let files = Memory::of(&format!("relayhost = [other]\n{list}"));
    let found = look(&files.with("/a", "partner.example REJECT\n"));
    let signed = |leak: &&Leak| leak.policy.fate.outcome.to_string().contains("signed");
    assert_eq!(found.leaks.iter().filter(signed).count(), 1, "perhaps: {:?}", words(&found));
}

#[test]
fn restrictions_see_addresses_before_they_are_rewritten() {
    let main = "smtpd_recipient_restrictions = check_recipient_access static:{FILTER smtp:[10.0.0.5]:2525}\n\
                relayhost = [other]\n";
    let table = "example.com FILTER smtp:[10.0.0.5]:2525\n";
    assert_eq!(verdict(&Memory::of(main)), Verdict::Covers);
    let main = "smtpd_sender_restrictions = check_sender_access texthash:/a\nrelayhost = [other]\n";
    assert_eq!(verdict(&Memory::of(main).with("/a", table)), Verdict::Covers);
    let main = format!("{main}canonical_maps = texthash:/c\n");
    assert_eq!(verdict(&Memory::of(&main).with("/a", table)), Verdict::Unknown);
}

#[test]
fn a_list_of_domains_may_stand_in_files_and_exclude() {
    let main =
        format!("mydestination = !/no, /yes, z.example\n{GATE}smtp_fallback_relay = [other]\n");
    let files = |no: &str, yes: &str| Memory::of(&main).with("/no", no).with("/yes", yes);
    let signed = |files: &Memory| {
        let found = look(files);
        let signed = |leak: &&Leak| leak.policy.fate.outcome.to_string().contains("signed");
        found.leaks.iter().filter(signed).count()
    };
    let partners = "partner.example\n# below\n.partner.example\n";
    assert_eq!(signed(&files("x.example", partners)), 0);
    assert_eq!(signed(&files("partner.example", partners)), 1);
    assert_eq!(signed(&files("x.example", &format!("!partner.example {partners}"))), 1);
    assert_eq!(signed(&files("!partner.example", ".partner.example")), 0, "twice excluded");
    let errors = findings(&Memory::of(&main), Severity::Error);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(verdict(&files("/no", &"/yes ".repeat(1000))), Verdict::Unknown, "circles end");
}

#[test]
fn what_depends_on_the_client_is_a_doubt() {
    let lists = [
        "check_client_access cidr:/c",
        "check_client_access texthash:/c",
        "check_policy_service unix:private/policy",
        "check_policy_service { inet:127.0.0.1:10031, timeout=10s }",
        "strange_class",
    ];
    for list in lists {
        let main = format!(
            "{GATE}smtpd_client_restrictions = {list}\nsmtpd_restriction_classes = strange_class\n"
        );
        let files = Memory::of(&main).with("/c", "10.0.0.1 FILTER smtp:[other]\n");
        let found = look(&files);
        assert_eq!(found.verdict, Verdict::Unknown, "{list}");
        assert!(found.leaks[0].doubts[0].what.contains("smtpd_client_restrictions"), "{list}");
    }
    let main = format!("{GATE}smtpd_client_restrictions = check_client_access texthash:/c\n");
    let files = Memory::of(&main).with("/c", "10.0.0.1 OK\n10.0.0.2 REJECT\n");
    assert_eq!(verdict(&files), Verdict::Covers, "it can only permit and refuse");
}

#[test]
fn services_that_are_not_smtp_clients_are_named() {
    let found = look(&Memory::of("default_transport = uucp:other\n"));
    assert!(words(&found)[0].contains("the service uucp gives it to pipe"), "{:?}", words(&found));
    let files = Memory::of("default_transport = gone:[10.0.0.5]:2525\n");
    assert_eq!(verdict(&files), Verdict::Covers, "it waits");
    let warned = findings(&files, Severity::Warning);
    assert!(warned[0].contains("master.cf has no service \"gone\""), "{warned:?}");
}

#[test]
fn a_gate_on_all_addresses_may_be_at_any_of_them() {
    let gates = Gates { forward: vec!["0.0.0.0:2525".parse().unwrap()], ..Gates::default() };
    let verdict = |host: &str| {
        let files = Memory::of(&format!("relayhost = {host}\n"));
        let reading = criteria_of(&files, &gates).unwrap();
        held_against_policy(&reading.entrances[0].criteria).verdict
    };
    assert_eq!(verdict("[127.0.0.1]:2525"), Verdict::Covers);
    assert_eq!(verdict("[localhost]:2525"), Verdict::Covers);
    assert_eq!(verdict("[10.0.0.9]:2525"), Verdict::Unknown);
    assert_eq!(verdict("[10.0.0.9]:2526"), Verdict::Leaks);
}

#[test]
fn a_value_that_is_not_known_is_a_destination_that_is_not_known() {
    for value in ["$strange", "${{1} == {1} ? {[10.0.0.5]:2525}}", "$relayhost"] {
        let found = look(&Memory::of(&format!("relayhost = {value}\n")));
        assert_eq!(found.verdict, Verdict::Unknown, "{value}");
        assert!(words(&found)[0].contains("nobody knows where: relayhost"), "{:?}", words(&found));
    }
    let found = look(&Memory::of("gate = [10.0.0.5]\nrelayhost = ${gate}:2525\n"));
    assert_eq!(found.verdict, Verdict::Covers);
}

#[test]
fn what_stands_beside_the_routes_is_told() {
    let main = format!(
        "{GATE}fallback_transport = smtp:[old]\nluser_relay = $user@other\nsmtpd_milters = inet:x:1\nnonsense\n"
    );
    let files = Memory::of(&main);
    let warned = findings(&files, Severity::Warning);
    assert!(
        warned.iter().any(|one| one.starts_with("main.cf:3:1: fallback_transport = smtp:[old]"))
    );
    assert!(warned.iter().any(|one| one.contains("luser_relay = $user@other")));
    assert!(findings(&files, Severity::Note)[0].contains("a milter can change"));
    assert!(
        findings(&files, Severity::Error)[0].contains("this line is not understood: \"nonsense\"")
    );
}

/// Goal: a broken configuration is an error that names its file, never a panic and never a verdict.
#[test]
fn files_that_are_missing_or_too_long_are_named() {
    let error = |files: &dyn Files| criteria_of(files, &gates()).unwrap_err().to_string();
    assert!(error(&Memory::default()).starts_with("main.cf cannot be read"));
    let folder = tempfile::tempdir().unwrap();
    let files = Folder::new(folder.path());
    assert!(error(&files).contains("main.cf cannot be read: No such file"), "{}", error(&files));
    std::fs::create_dir(folder.path().join("main.cf")).unwrap();
    assert!(error(&files).contains("it is no file"), "{}", error(&files));
    std::fs::remove_dir(folder.path().join("main.cf")).unwrap();
    std::fs::write(folder.path().join("main.cf"), [0xff, b'\n']).unwrap();
    assert!(error(&files).contains("not written in UTF-8"), "{}", error(&files));
    let long = std::fs::File::create(folder.path().join("main.cf")).unwrap();
    long.set_len(40 << 20).unwrap();
    assert!(error(&files).contains("has more than 33554432 octets"), "{}", error(&files));
}

/// Goal: a copy of another host's configuration is never read together with our own.
#[test]
fn a_copy_reads_its_own_tables() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "main.cf",
        "myhostname = a.example.com\ntransport_maps = texthash:/etc/postfix/t\nrelayhost = [other]",
    );
    write("master.cf", &format!("{MASTER}smtp inet n - y - - smtpd\n"));
    write("t", "* smtp:[10.0.0.5]:2525\n");
    let reading = criteria_of(&Folder::new(folder.path()), &gates()).unwrap();
    assert_eq!(held_against_policy(&reading.entrances[0].criteria).verdict, Verdict::Covers);
}

#[test]
fn a_table_of_thousands_is_a_few_questions() {
    let mut table = String::new();
    for number in 0..20_000 {
        table += &format!("d{number}.example smtp:[10.0.0.5]:2525\n");
    }
    let files = Memory::of(&format!("{MAPS}relayhost = [other]\n")).with(TRANSPORT, &table);
    let reading = read(&files);
    assert!(reading.entrances[0].criteria.routes.len() < 20);
    let lists = &reading.entrances[0].criteria.dictionaries;
    assert!(lists.iter().any(|list| list.entries.len() == 20_000));
}

/// Method: pieces of configurations, put together without sense.
mod noise {
    use proptest::prelude::*;

    use super::*;

    const PIECES: [&str; 24] = [
        "relayhost = ",
        "[10.0.0.5]:2525",
        "\n",
        " ",
        "transport_maps = ",
        "regexp:/r",
        "hash:/t",
        "inline:{",
        "}",
        "{",
        "$",
        "${a",
        "?",
        ":",
        "a = $a\n",
        "content_filter = ",
        "smtp:",
        ",",
        "header_checks = pcre:/r",
        "relay_domains = !",
        "/t",
        "smtpd_recipient_restrictions = ",
        "check_recipient_access ",
        "static:FILTER smtp:x",
    ];
    const RULES: [&str; 14] = [
        "/",
        "!",
        "if ",
        "endif",
        "\n",
        "^Subject:",
        "[",
        "]",
        "(",
        ")",
        "\\",
        "FILTER smtp:x",
        " ",
        "|",
    ];

    fn some(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
        let piece = proptest::sample::select(pieces);
        proptest::collection::vec(piece, 0..25).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_configuration_makes_the_reading_panic(
            main in some(&PIECES), rules in some(&RULES), table in some(&PIECES), noise in "\\PC*",
        ) {
            let files = Memory::of(&format!("{main}\n"))
                .with("/r", &rules)
                .with("/t", &table)
                .service(&noise);
            for entrance in read(&files).entrances {
                held_against_policy(&entrance.criteria);
            }
        }
    }
}
