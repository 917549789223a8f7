//! Books and verdicts on real line shapes of Postfix, one situation after the other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proxy::api::{JournalLine, JournalPath, JournalWhat};
use proxy::session::Networks;

use super::correlate::{LogPlan, Role};
use super::item::{Column, Key, Place, State};
use super::ledger::{GatePlan, Plan};
use super::verdict::{
    Case, Doubt, Known, LogTerms, Opening, Sentinel, Verdict, Waived, Word, judge,
};
use super::{Books, Setting};
use crate::maillog::{Clock, Dialect, Frame, Reader};
use crate::moment::Moment;

/// 2026-11-24T10:00:00Z.
pub(super) const START: i64 = 1_795_514_400_000;

/// Books with a gate, a return gate and the Postfix log of the member.
pub(super) struct Stage {
    pub(super) books: Books,
    pub(super) setting: Setting,
    reader: Reader,
    clock: Clock,
    offset: u64,
    entries: u64,
}

/// A journal line of something handed over.
pub(super) struct Mail<'a> {
    pub(super) id: &'a str,
    pub(super) doing: &'a str,
    pub(super) from: &'a str,
    pub(super) to: &'a [&'a str],
    pub(super) message_id: Option<&'a str>,
    pub(super) ident: bool,
    /// Offered, in milliseconds after the start.
    pub(super) at: i64,
}

pub(super) fn mail<'a>(id: &'a str, to: &'a [&'a str], message_id: &'a str, at: i64) -> Mail<'a> {
    let message_id = Some(message_id);
    Mail { id, doing: "pass", from: "a@example.org", to, message_id, ident: true, at }
}

impl Stage {
    pub(super) fn new() -> Self {
        let gate = |returns: Option<&str>, members: &[&str]| GatePlan {
            returns: returns.map(str::to_owned),
            members: members.iter().map(ToString::to_string).collect(),
            trace: true,
        };
        let gates = [
            ("outbound".to_owned(), gate(None, &["sems1"])),
            ("back".to_owned(), gate(Some("outbound"), &["mta"])),
        ];
        let log = LogPlan {
            name: "sems1".into(),
            dialect: Dialect::Postfix,
            role: Role::Server { member: "sems1".into() },
            clients: Vec::new(),
            leaves: Vec::new(),
            inside: Networks::none(),
            mailboxes: vec!["local".into()],
            ids_of_connections: false,
            udp: false,
        };
        let around: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let mut books = Books::default();
        let book = books.logs.entry("sems1".into()).or_default();
        book.chains.begin_piece(Some(Moment(START - 1000)));
        Self {
            books,
            setting: Setting {
                plan: Plan { gates: gates.into(), told: ["sems1".to_owned()].into() },
                logs: vec![log],
                limits: super::Limits::default(),
            },
            reader: Reader::new(Dialect::Postfix),
            clock: Clock::new(Frame { zone: TimeZone::UTC, around }),
            offset: 0,
            entries: 0,
        }
    }

    pub(super) fn entry(&mut self, mut line: JournalLine, now: i64) {
        self.entries += 1;
        line.cursor = format!("1.{}", self.entries);
        self.books.entry(&line, &self.setting, Moment(START + now));
    }

    fn line_of(mail: &Mail<'_>, what: JournalWhat, at: i64) -> JournalLine {
        JournalLine {
            what,
            at: Some(Moment(START + at).to_string()),
            id: Some(mail.id.to_owned()),
            doing: Some(mail.doing.to_owned()),
            gate: Some("outbound".into()),
            member: Some("sems1".into()),
            told_ident: mail.ident,
            began: Some(Moment(START + mail.at - 100).to_string()),
            from: Some(format!("<{}>", mail.from)),
            to: mail.to.iter().map(|to| format!("<{to}>")).collect(),
            message_id: mail.message_id.map(|id| format!("<{id}>")),
            ..JournalLine::default()
        }
    }

    pub(super) fn offered(&mut self, mail: &Mail<'_>) {
        self.entry(Self::line_of(mail, JournalWhat::Open, mail.at), mail.at);
    }

    pub(super) fn ended(&mut self, id: &str, outcome: &str, reply: &str, at: i64) {
        let line = JournalLine {
            what: JournalWhat::Ended,
            at: Some(Moment(START + at).to_string()),
            id: Some(id.to_owned()),
            outcome: Some(outcome.to_owned()),
            reply: Some(reply.to_owned()),
            ..JournalLine::default()
        };
        self.entry(line, at);
    }

    /// Offered and taken under a queue id.
    pub(super) fn taken(&mut self, mail: &Mail<'_>, queue_id: &str) {
        self.offered(mail);
        let reply = format!("250 2.0.0 Ok: queued as {queue_id}");
        self.ended(mail.id, "relayed", &reply, mail.at + 50);
    }

    /// Something came through the return gate.
    pub(super) fn returned(
        &mut self,
        mail: &Mail<'_>,
        trace: Option<&str>,
        outcome: &str,
        at: i64,
    ) {
        let line = JournalLine {
            gate: Some("back".into()),
            member: Some("mta".into()),
            id: Some(format!("R{at}")),
            passed_as: trace.map(str::to_owned),
            outcome: Some(outcome.to_owned()),
            reply: Some("250 2.0.0 Ok: queued as MTA".into()),
            ..Self::line_of(mail, JournalWhat::Ended, at)
        };
        // As the journal writes it: the offer tells all, the end only how it ended.
        let offered = JournalLine { what: JournalWhat::Open, outcome: None, ..line.clone() };
        self.entry(offered, at);
        let ended = JournalLine { gate: None, member: None, doing: None, ..line };
        self.entry(JournalLine { to: Vec::new(), message_id: None, passed_as: None, ..ended }, at);
    }

    /// Lines of the log, `+SECONDS text` each: stamped so many seconds after the start.
    pub(super) fn log(&mut self, text: &str, now: i64) {
        let log = self.setting.logs[0].clone();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (seconds, said) = line.strip_prefix('+').unwrap().split_once(' ').unwrap();
            let at = Moment(START + seconds.parse::<i64>().unwrap() * 1000);
            let raw = format!("{at} sems {said}");
            let now = Moment(START + now);
            let place =
                Place::Log { log: log.name.clone(), file: "mail.log".into(), offset: self.offset };
            self.offset += raw.len() as u64 + 1;
            let Self { books, reader, clock, setting, .. } = self;
            books.read(&log.name, now, true);
            reader.read(raw.as_bytes(), clock, &mut |line| {
                books.line(&log, &line, (raw.as_bytes(), &place), setting, now);
            });
        }
    }

    pub(super) fn tick(&mut self, now: i64) {
        self.books.tick(&self.setting, Moment(START + now));
    }

    /// Forward-paths inside.
    pub(super) fn inside(&self) -> Vec<String> {
        self.books.ledger.inside("sems1").map(|(_, _, item)| item.to.clone()).collect()
    }

    /// Where the item of this id and address went, and by which key.
    fn fate(&self, id: &str, to: &str) -> Option<(Column, Key)> {
        let mut offers = self.books.ledger.of_id(id);
        let (_, offer) = offers.next()?;
        let item = offer.items.iter().find(|item| item.to == to)?;
        match &item.state {
            State::Inside(_) => None,
            State::Settled(evidence) => Some((evidence.column, evidence.key)),
        }
    }

    pub(super) fn sums_balance(&self) -> bool {
        self.books.ledger.sums(None).values().all(super::ledger::Sums::balance)
    }

    /// A verdict, `fenced` and the mark at these milliseconds, with an attested empty start.
    pub(super) fn verdict(&self, fenced: i64, sentinels: &[Sentinel], now: i64) -> Verdict {
        self.verdict_with(fenced, sentinels, now, &[])
    }

    fn verdict_with(
        &self,
        fenced: i64,
        sentinels: &[Sentinel],
        now: i64,
        waived: &[&str],
    ) -> Verdict {
        let word = Word { by: "op".into(), reason: "fresh".into(), at: Moment(START) };
        let known = Known::Attested(word.clone());
        let opening = Opening { at: Moment(START), known, sums: BTreeMap::new() };
        let waived = waived.iter().map(|name| {
            let waived = Waived { word: word.clone(), measure: u64::MAX };
            (name.to_string(), waived)
        });
        let waivers = waived.collect();
        let terms = [("sems1".to_owned(), LogTerms::default())].into();
        let case = Case {
            member: "sems1",
            gates: &["outbound".to_owned()],
            only_gates: false,
            opening: Some(&opening),
            fenced: Moment(START + fenced),
            mark: Moment(START + fenced + 10),
            quiet_ms: 60_000,
            sentinels,
            queue_empty: None,
            waivers: &waivers,
            logs: &terms,
            now: Moment(START + now),
        };
        judge(&case, &self.books, &self.setting)
    }

    /// A sentinel goes through after the fence and comes out, in journal and log.
    pub(super) fn sentinel(&mut self, at: i64) -> [Sentinel; 1] {
        let to = ["op@example.org"];
        let probe = Mail { doing: "probe", ..mail("0SENTINEL0000", &to, "sentinel@lockgate", at) };
        self.taken(&probe, "5E5E5E");
        let second = at / 1000;
        self.log(&accepted(second, "5E5E5E", "0SENTINEL0000", "sentinel@lockgate"), at + 100);
        self.log(&sent(second + 1, "5E5E5E", "op@example.org"), at + 1000);
        self.returned(&probe, Some("0SENTINEL0000"), "relayed", at + 1000);
        [Sentinel {
            gate: "outbound".into(),
            message_id: "sentinel@lockgate".into(),
            to: "op@example.org".into(),
            accepted: true,
            reply: "250 ok".into(),
        }]
    }
}

/// What Postfix writes when a message comes in from us.
pub(super) fn accepted(second: i64, queue_id: &str, ident: &str, message_id: &str) -> String {
    format!(
        "+{second} postfix/smtpd[7]: {queue_id}: client=gate[192.0.2.9], orig_queue_id={ident}, orig_client=x[192.0.2.1]
         +{second} postfix/cleanup[8]: {queue_id}: message-id=<{message_id}>
         +{second} postfix/qmgr[9]: {queue_id}: from=<a@example.org>, size=1000, nrcpt=1 (queue active)"
    )
}

/// What Postfix writes when a message goes out and is done.
pub(super) fn sent(second: i64, queue_id: &str, to: &str) -> String {
    format!(
        "+{second} postfix/smtp[10]: {queue_id}: to=<{to}>, relay=mta[192.0.2.20]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as MTA1)
         +{second} postfix/qmgr[9]: {queue_id}: removed"
    )
}

fn deferred(second: i64, queue_id: &str, to: &str) -> String {
    format!(
        "+{second} postfix/smtp[10]: {queue_id}: to=<{to}>, relay=none, delay=1, delays=0/0/0/1, dsn=4.4.1, status=deferred (connect to mta[192.0.2.20]:25: Connection refused)"
    )
}

const TO: [&str; 1] = ["b@example.net"];

#[test]
fn a_message_seen_at_the_return_gate_has_returned() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    assert_eq!(stage.inside(), TO);
    stage.returned(&mail("0A", &TO, "1@x", 0), Some("0A"), "relayed", 500);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Returned, Key::Trace)));
    assert!(stage.sums_balance());
}

#[test]
fn a_return_that_the_mta_put_off_settles_nothing() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.returned(&mail("0A", &TO, "1@x", 0), Some("0A"), "deferred", 500);
    assert_eq!(stage.inside(), TO);
    stage.returned(&mail("0A", &TO, "1@x", 0), None, "relayed", 900);
    assert_eq!(stage.inside(), TO, "the server keeps our trace field: this is not ours");
    stage.returned(&mail("0A", &TO, "1@x", 0), Some("0A"), "relayed", 900);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Returned, Key::Trace)));
}

#[test]
fn the_server_log_settles_by_our_id_and_by_its_queue_id() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 100);
    stage.log(&sent(1, "4A100FF", TO[0]), 1000);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Delivered, Key::Ident)));
    let silent = Mail { ident: false, ..mail("0B", &TO, "2@x", 2000) };
    stage.taken(&silent, "4B200FF");
    stage.log(&accepted(2, "4B200FF", "OTHERS", "2@x").replace(", orig_queue_id=OTHERS", ""), 2100);
    stage.log(&sent(3, "4B200FF", TO[0]), 3000);
    assert_eq!(stage.fate("0B", TO[0]), Some((Column::Delivered, Key::Reply)));
}

#[test]
fn what_the_server_defers_stays_inside_however_quiet_it_is() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 100);
    stage.log(&deferred(1, "4A100FF", TO[0]), 1000);
    let sentinel = stage.sentinel(20_000);
    stage.tick(90_000_000);
    match stage.verdict(10_000, &sentinel, 90_000_000) {
        Verdict::Pending { items, .. } => {
            assert_eq!(items.len(), 1);
            assert!(items[0].last.as_deref().unwrap().contains("Connection refused"));
        }
        other => panic!("{other:?}"),
    }
    stage.log(&sent(90_001, "4A100FF", TO[0]), 90_002_000);
    stage.tick(90_003_000);
    let verdict = stage.verdict(10_000, &sentinel, 90_063_000);
    assert!(matches!(verdict, Verdict::Drained(_)), "{verdict:?}");
}

#[test]
fn one_message_id_twice_settles_neither_unless_a_surer_key_tells_them_apart() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.taken(&mail("0B", &TO, "1@x", 10), "4A200FF");
    stage.returned(&mail("", &TO, "1@x", 0), None, "relayed", 500);
    assert_eq!(stage.inside().len(), 2);
    stage.returned(&mail("", &TO, "1@x", 0), Some("0B"), "relayed", 600);
    assert_eq!(stage.fate("0B", TO[0]), Some((Column::Returned, Key::Trace)));
    // The one that is left is not known to be the first that came out.
    stage.returned(&mail("", &TO, "1@x", 0), None, "relayed", 700);
    assert_eq!(stage.inside().len(), 1);
}

#[test]
fn a_message_id_stays_taken_after_its_offer_was_let_go() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.returned(&mail("", &TO, "1@x", 0), Some("0A"), "relayed", 500);
    stage.tick(100_000);
    stage.taken(&mail("0B", &TO, "1@x", 100_000), "4A200FF");
    // Perhaps the first once more.
    stage.returned(&mail("", &TO, "1@x", 0), None, "relayed", 100_500);
    assert_eq!(stage.inside(), TO);
}

#[test]
fn a_retry_after_a_refusal_is_another_item_and_the_only_one_that_can_come_out() {
    let mut stage = Stage::new();
    stage.offered(&mail("0A", &TO, "1@x", 0));
    stage.ended("0A", "deferred", "451 4.3.0 later", 50);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Refused, Key::Journal)));
    stage.taken(&mail("0B", &TO, "1@x", 1000), "4A200FF");
    stage.returned(&mail("", &TO, "1@x", 0), None, "relayed", 1500);
    assert_eq!(stage.fate("0B", TO[0]), Some((Column::Returned, Key::MessageId)));
}

#[test]
fn recipients_that_are_split_are_settled_one_by_one() {
    let mut stage = Stage::new();
    let to = ["b@example.net", "c@example.net", "d@example.net"];
    stage.taken(&mail("0A", &to, "1@x", 0), "4A100FF");
    stage.returned(&mail("", &["c@example.net"], "1@x", 0), Some("0A"), "relayed", 500);
    assert_eq!(stage.inside(), ["b@example.net", "d@example.net"]);
    stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 600);
    stage.log("+1 postfix/smtp[10]: 4A100FF: to=<D@example.net>, relay=mta[192.0.2.20]:25, delay=1, delays=0/0/0/1, dsn=5.1.1, status=bounced (host mta[192.0.2.20] said: 550 5.1.1 unknown)", 1000);
    assert_eq!(stage.fate("0A", "d@example.net"), Some((Column::Bounced, Key::Ident)));
    assert_eq!(stage.inside(), ["b@example.net"]);
    assert!(stage.sums_balance());
}

#[test]
fn a_hand_over_to_a_content_filter_is_no_end_and_its_way_back_is_followed() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 100);
    stage.log("+1 postfix/pipe[10]: 4A100FF: to=<b@example.net>, relay=gpg, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (delivered via gpg service)
        +1 postfix/qmgr[9]: 4A100FF: removed", 1000);
    assert_eq!(stage.inside(), TO, "the filter has it");
    stage.log(
        "+2 postfix/smtpd[7]: 4B200FF: client=localhost[127.0.0.1]
        +2 postfix/cleanup[8]: 4B200FF: message-id=<1@x>",
        2000,
    );
    assert_eq!(stage.inside(), TO);
    stage.log(&sent(3, "4B200FF", TO[0]), 3000);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Delivered, Key::Ident)));
    stage.tick(20_000);
    let sentinel = stage.sentinel(30_000);
    stage.tick(130_000);
    let verdict = stage.verdict(25_000, &sentinel, 130_000);
    assert!(matches!(verdict, Verdict::Drained(_)), "{verdict:?}");
}

#[test]
fn a_queue_id_that_is_used_again_speaks_of_the_new_message() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 100);
    stage.log(&sent(1, "4A100FF", TO[0]), 1000);
    stage.taken(&mail("0B", &TO, "2@x", 10_000), "4A100FF");
    stage.log(&accepted(10, "4A100FF", "0B", "2@x"), 10_100);
    assert_eq!(stage.fate("0B", TO[0]), None);
    stage.log(&sent(11, "4A100FF", TO[0]), 11_000);
    assert_eq!(stage.fate("0B", TO[0]), Some((Column::Delivered, Key::Ident)));
}

#[test]
fn a_clock_two_minutes_off_is_borne_and_shown() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.log(&accepted(120, "4A100FF", "0A", "1@x"), 100);
    stage.log(&sent(121, "4A100FF", TO[0]), 1000);
    assert_eq!(stage.inside().len(), 0);
    let (low, high) = stage.books.logs["sems1"].chains.skew.bounds().unwrap();
    assert!(low <= 120_000 && 120_000 <= high && high - low < 3000, "{low} {high}");
}

#[test]
fn lines_that_come_before_the_journal_tells_of_the_message_are_kept() {
    let mut stage = Stage::new();
    stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 0);
    stage.log(&sent(1, "4A100FF", TO[0]), 10);
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.tick(1000);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Delivered, Key::Ident)));
}

#[test]
fn mail_that_came_past_us_is_found_and_is_a_doubt() {
    let mut stage = Stage::new();
    let direct = "+5 postfix/smtpd[7]: 4C300FF: client=web[192.0.2.77]
        +5 postfix/cleanup[8]: 4C300FF: message-id=<direct@x>";
    stage.log(direct, 5000);
    let sentinel = stage.sentinel(20_000);
    stage.tick(90_000);
    match stage.verdict(15_000, &sentinel, 90_000) {
        Verdict::Pending { items, strangers, doubts } => {
            assert!(items.is_empty());
            assert_eq!(strangers[0].message_id.as_deref(), Some("direct@x"));
            assert!(doubts.iter().any(|doubt| matches!(doubt, Doubt::Bypass { count: 1, .. })));
        }
        other => panic!("{other:?}"),
    }
    stage.log(&sent(91, "4C300FF", "z@example.net"), 91_000);
    // Handed in a second time it is still one message.
    stage.log(direct, 92_000);
    stage.log(&sent(91, "4C300FF", "z@example.net"), 92_000);
    for now in [110_000, 200_000, 300_000] {
        stage.tick(now);
    }
    match stage.verdict(15_000, &sentinel, 300_000) {
        Verdict::Inconclusive { doubts } => {
            assert!(matches!(&doubts[..], [Doubt::Bypass { count: 1, .. }]), "{doubts:?}");
        }
        other => panic!("{other:?}"),
    }
    let verdict = stage.verdict_with(15_000, &sentinel, 300_000, &["bypass:sems1"]);
    match verdict {
        Verdict::Drained(proof) => assert_eq!(proof.waivers["bypass:sems1"].by, "op"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_report_that_the_server_made_itself_is_inside_until_it_left() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 100);
    stage.log("+1 postfix/smtp[10]: 4A100FF: to=<b@example.net>, relay=mta[192.0.2.20]:25, delay=1, delays=0/0/0/1, dsn=5.1.1, status=bounced (host mta said: 550 5.1.1 unknown)
        +1 postfix/cleanup[8]: 4D400FF: message-id=<report@sems>
        +1 postfix/bounce[11]: 4A100FF: sender non-delivery notification: 4D400FF
        +1 postfix/qmgr[9]: 4D400FF: from=<>, size=2000, nrcpt=1 (queue active)
        +1 postfix/qmgr[9]: 4A100FF: removed", 1000);
    let sentinel = stage.sentinel(20_000);
    stage.tick(90_000);
    match stage.verdict(15_000, &sentinel, 90_000) {
        Verdict::Pending { items, strangers, .. } => {
            assert!(items.is_empty());
            assert_eq!(strangers[0].id, "4D400FF");
        }
        other => panic!("{other:?}"),
    }
    stage.log(&sent(91, "4D400FF", "a@example.org"), 91_000);
    stage.tick(92_000);
    let verdict = stage.verdict(15_000, &sentinel, 100_000);
    assert!(matches!(verdict, Verdict::Inconclusive { .. }), "not quiet yet: {verdict:?}");
    match stage.verdict(15_000, &sentinel, 152_000) {
        Verdict::Drained(proof) => {
            assert_eq!(proof.own["sems1"], 1);
            assert_eq!(proof.sums["outbound"].settled[&Column::Bounced], 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn mail_of_the_servers_own_that_a_filter_has_is_inside() {
    let mut stage = Stage::new();
    stage.log(
        "+5 postfix/pickup[7]: 4C300FF: uid=0 from=<root>
        +5 postfix/cleanup[7]: 4C300FF: message-id=<own@x>
        +5 postfix/qmgr[9]: 4C300FF: from=<root@x>, size=9, nrcpt=1 (queue active)
        +6 postfix/pipe[10]: 4C300FF: to=<b@example.net>, relay=gpg, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (delivered via gpg service)
        +6 postfix/qmgr[9]: 4C300FF: removed",
        6000,
    );
    let sentinel = stage.sentinel(20_000);
    stage.tick(90_000);
    stage.tick(190_000);
    match stage.verdict(15_000, &sentinel, 190_000) {
        Verdict::Pending { strangers, .. } => assert_eq!(strangers[0].id, "4C300FF"),
        other => panic!("{other:?}"),
    }
}

/// Doubts of an otherwise clean drain, after something was done to it.
fn doubts_of(spoil: impl Fn(&mut Stage), keep: impl Fn(&Doubt) -> bool) -> Vec<String> {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 1000), "4A100FF");
    stage.log(&accepted(1, "4A100FF", "0A", "1@x"), 1100);
    stage.log(&sent(2, "4A100FF", TO[0]), 2000);
    spoil(&mut stage);
    let sentinel = stage.sentinel(20_000);
    stage.tick(90_000);
    match stage.verdict(15_000, &sentinel, 90_000) {
        Verdict::Drained(_) => Vec::new(),
        Verdict::Inconclusive { doubts } => {
            doubts.iter().filter(|doubt| keep(doubt)).map(Doubt::name).collect()
        }
        Verdict::Pending { items, .. } => panic!("{items:?}"),
    }
}

#[test]
fn a_clean_drain_has_no_doubt_and_each_spoilt_one_names_its_own() {
    let all = |_: &Doubt| true;
    assert_eq!(doubts_of(|_| {}, all), Vec::<String>::new());
    let gap = |hides: bool| {
        move |stage: &mut Stage| {
            let line = JournalLine {
                what: JournalWhat::Gap,
                at: Some(Moment(START + 3000).to_string()),
                until: Some(Moment(START + 4000).to_string()),
                why: Some("the system went down".into()),
                hides_offers: hides,
                ..JournalLine::default()
            };
            stage.entry(line, 4000);
        }
    };
    assert_eq!(doubts_of(gap(false), all), Vec::<String>::new());
    assert_eq!(doubts_of(gap(true), all), [format!("gap:{}", Moment(START + 3000))]);
    let hole = "+5 rsyslogd: imjournal: 236 messages lost due to rate-limiting";
    assert_eq!(doubts_of(|stage| stage.log(hole, 5000), all), ["missing:sems1"]);
    let strange = "+5 nobody knows this line";
    assert_eq!(doubts_of(|stage| stage.log(strange, 5000), all), ["unparsed:sems1"]);
    let late = |stage: &mut Stage| {
        stage.taken(&mail("0C", &TO, "3@x", 16_000), "4C300FF");
        stage.returned(&mail("0C", &TO, "3@x", 0), Some("0C"), "relayed", 17_000);
        stage.log(&accepted(16, "4C300FF", "0C", "3@x"), 17_000);
        stage.log(&sent(17, "4C300FF", TO[0]), 17_500);
    };
    assert_eq!(doubts_of(late, all), ["late-offer"]);
    let interrupted = |stage: &mut Stage| {
        let book = stage.books.logs.get_mut("sems1").unwrap();
        book.chains.begin_piece(None);
    };
    assert_eq!(doubts_of(interrupted, all), ["uncovered:sems1"]);
}

#[test]
fn a_gap_is_closed_by_a_log_that_goes_on_before_and_behind_it() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 1000), "4A100FF");
    stage.log(&accepted(1, "4A100FF", "0A", "1@x"), 1100);
    stage.log(&sent(2, "4A100FF", TO[0]), 2000);
    let line = JournalLine {
        what: JournalWhat::Gap,
        at: Some(Moment(START + 3000).to_string()),
        until: Some(Moment(START + 4000).to_string()),
        why: Some("the system went down".into()),
        hides_offers: true,
        ..JournalLine::default()
    };
    stage.entry(line, 4000);
    let sentinel = stage.sentinel(120_000);
    stage.tick(190_000);
    let verdict = stage.verdict(110_000, &sentinel, 190_000);
    assert!(matches!(verdict, Verdict::Drained(_)), "{verdict:?}");
}

#[test]
fn without_sentinel_opening_or_living_log_nothing_is_said() {
    let mut stage = Stage::new();
    stage.tick(90_000);
    match stage.verdict(15_000, &[], 90_000) {
        Verdict::Inconclusive { doubts } => {
            let names: Vec<_> = doubts.iter().map(Doubt::name).collect();
            assert_eq!(names, ["silent:sems1", "uncovered:sems1", "no-sentinel:outbound"]);
        }
        other => panic!("{other:?}"),
    }
    let sentinel = stage.sentinel(20_000);
    stage.tick(90_000);
    match stage.verdict(15_000, &sentinel, 40_000) {
        Verdict::Inconclusive { doubts } => {
            assert!(matches!(&doubts[..], [Doubt::Quiet { .. }]), "{doubts:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_uncertain_offer_is_settled_by_sight_or_by_proven_absence() {
    let mut stage = Stage::new();
    stage.taken(&mail("09", &TO, "0@x", 0), "4A000FF");
    stage.log(&accepted(0, "4A000FF", "09", "0@x"), 100);
    stage.offered(&mail("0A", &TO, "1@x", 40_000));
    stage.ended("0A", "uncertain", "link lost", 41_000);
    stage.offered(&mail("0B", &TO, "2@x", 40_000));
    stage.ended("0B", "uncertain", "link lost", 41_000);
    stage.log(&accepted(40, "4B100FF", "0B", "2@x"), 41_000);
    stage.tick(42_000);
    assert_eq!(stage.fate("0A", TO[0]), None, "the log has not gone on");
    stage.taken(&mail("0C", &TO, "3@x", 60_000), "4C100FF");
    stage.log(&accepted(60, "4C100FF", "0C", "3@x"), 60_100);
    stage.tick(61_000);
    assert_eq!(stage.fate("0A", TO[0]), None, "not far enough");
    stage.taken(&mail("0D", &TO, "4@x", 75_000), "4D100FF");
    stage.log(&accepted(75, "4D100FF", "0D", "4@x"), 75_100);
    stage.tick(76_000);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Refused, Key::Absence)));
    assert_eq!(stage.fate("0B", TO[0]), None, "taken, and inside");
    let (_, taken) = stage.books.ledger.of_id("0B").next().unwrap();
    assert!(taken.is_taken());
}

#[test]
fn a_path_that_was_refused_before_the_data_was_never_handed_over() {
    let mut stage = Stage::new();
    let to = ["b@example.net", "c@example.net"];
    let mut line = Stage::line_of(&mail("0A", &to, "1@x", 0), JournalWhat::Open, 0);
    line.others = vec![JournalPath {
        path: 1,
        to: "<c@example.net>".into(),
        outcome: "refused".into(),
        reply: "550 5.1.1 no".into(),
    }];
    stage.entry(line, 0);
    assert_eq!(stage.inside(), ["b@example.net"]);
}

#[test]
fn books_read_from_disk_go_on_where_they_were() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 100);
    let kept = postcard::to_stdvec(&stage.books).unwrap();
    stage.books = postcard::from_bytes(&kept).unwrap();
    stage.books.index();
    stage.log(&sent(1, "4A100FF", TO[0]), 1000);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Delivered, Key::Ident)));
    stage.taken(&mail("0B", &TO, "2@x", 2000), "4A200FF");
    stage.returned(&mail("", &TO, "2@x", 0), None, "relayed", 2500);
    assert_eq!(stage.fate("0B", TO[0]), Some((Column::Returned, Key::MessageId)));
}

/// The verdict after a sentinel, long after everything.
fn at_the_end(stage: &mut Stage) -> Verdict {
    let sentinel = stage.sentinel(1_000_000);
    stage.tick(1_200_000);
    stage.verdict(900_000, &sentinel, 1_200_000)
}

#[test]
fn a_copy_or_an_expanded_address_that_waits_is_inside_though_every_item_is_settled() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &["list@example.net"], "1@x", 0), "4A100FF");
    stage.log(&accepted(0, "4A100FF", "0A", "1@x").replace("nrcpt=1", "nrcpt=2"), 100);
    let line = |to: &str, rest: &str| {
        format!(
            "+1 postfix/smtp[10]: 4A100FF: to=<{to}>, orig_to=<list@example.net>, relay=mta[192.0.2.20]:25, delay=1, delays=0/0/0/1, {rest}"
        )
    };
    stage.log(&line("u1@x.test", "dsn=2.0.0, status=sent (250 2.0.0 Ok)"), 1000);
    assert!(stage.inside().is_empty());
    let waiting = |stage: &Stage| {
        let chains = &stage.books.logs["sems1"].chains;
        chains.strangers(&stage.setting.logs[0], &stage.books.ledger).count()
    };
    assert_eq!(waiting(&stage), 1, "the second is not even tried yet");
    stage.log(&line("u2@x.test", "dsn=4.0.0, status=deferred (host said: 451 later)"), 2000);
    for now in [100_000, 9_000_000] {
        stage.tick(now);
    }
    assert_eq!(waiting(&stage), 1, "however long it takes");
    match stage.verdict(900_000, &[], 9_000_000) {
        Verdict::Pending { items, strangers, .. } => {
            assert!(items.is_empty());
            assert_eq!(strangers[0].id, "4A100FF");
        }
        other => panic!("{other:?}"),
    }
    stage.log(&line("u2@x.test", "dsn=2.0.0, status=sent (250 2.0.0 Ok)"), 9_100_000);
    stage.log("+9101 postfix/qmgr[9]: 4A100FF: removed", 9_101_000);
    let sentinel = stage.sentinel(9_200_000);
    stage.tick(9_400_000);
    let verdict = stage.verdict(9_150_000, &sentinel, 9_400_000);
    assert!(matches!(verdict, Verdict::Drained(_)), "{verdict:?}");
}

/// An archive behind a program: a doubt that a person may pass over, and no list that grows.
#[test]
fn a_copy_that_a_program_took_is_a_doubt_and_not_for_ever_on_a_list() {
    let mut stage = Stage::new();
    for number in 0..3 {
        let (at, id, queue_id) = (number * 1000, format!("0{number}"), format!("4A{number}00FF"));
        let message_id = format!("{number}@x");
        stage.taken(&mail(&id, &TO, &message_id, at), &queue_id);
        stage.log(&accepted(number, &queue_id, &id, &message_id), at + 100);
        stage.log(&format!("+{number} postfix/pipe[9]: {queue_id}: to=<archive@x>, relay=archive, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (delivered via archive service)"), at + 200);
        stage.log(&sent(number, &queue_id, TO[0]), at + 300);
    }
    assert!(stage.inside().is_empty());
    let sentinel = stage.sentinel(20_000);
    for now in [90_000, 200_000] {
        stage.tick(now);
        match stage.verdict(15_000, &sentinel, now) {
            Verdict::Inconclusive { doubts } => {
                assert!(matches!(&doubts[..], [Doubt::Copies { count: 3, .. }]), "{doubts:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    let verdict = stage.verdict_with(15_000, &sentinel, 200_000, &["copies:sems1"]);
    assert!(matches!(verdict, Verdict::Drained(_)), "{verdict:?}");
    stage.tick(5_000_000);
    let waived = stage.verdict(15_000, &sentinel, 5_000_000);
    assert!(
        matches!(waived, Verdict::Inconclusive { .. }),
        "counted when they are let go: {waived:?}"
    );
}

/// The journal lists it as open after its end was taken for lost: the end that follows counts.
#[test]
fn an_offer_that_is_listed_again_is_open_again() {
    let mut stage = Stage::new();
    let offer = mail("0A", &TO, "1@x", 0);
    stage.offered(&offer);
    stage.books.ledger.lose_ends(Moment(START + 4_000_000));
    assert_eq!(stage.inside().len(), 1);
    stage.offered(&offer);
    stage.ended("0A", "refused", "550 5.7.1 no", 4_100_000);
    assert!(stage.inside().is_empty(), "{:?}", stage.inside());
}

/// Stamps that daylight saving makes unsure stand in no order.
#[test]
fn unsure_stamps_do_not_cut_a_log_to_pieces() {
    let mut stage = Stage::new();
    let chains = &mut stage.books.logs.get_mut("sems1").unwrap().chains;
    chains.begin_piece(None);
    for second in 0..600 {
        let at = Moment(START + second * 1000);
        chains.stamped((at, at.plus(3_600_000)));
    }
    chains.stamped((Moment(START + 7_200_000), Moment(START + 7_200_000)));
    let holes = chains.uncovered(
        Moment(START + 4_000_000),
        Moment(START + 6_800_000),
        &stage.setting.limits,
    );
    assert!(holes.is_empty(), "{holes:?}");
}

#[test]
fn a_part_that_is_turned_away_on_its_way_back_leaves_the_message_where_it_was() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 100);
    stage.log(
        "+1 postfix/smtpd[7]: 4B200FF: client=localhost[127.0.0.1], orig_queue_id=4A100FF, orig_client=x[192.0.2.1]
        +1 postfix/cleanup[8]: 4B200FF: message-id=<1@x>
        +1 postfix/cleanup[8]: 4B200FF: milter-reject: END-OF-MESSAGE from localhost[127.0.0.1]: 4.7.1 later; from=<a@example.org> to=<b@example.net>",
        1000,
    );
    assert_eq!(stage.inside(), TO);
    stage.log(&deferred(2, "4A100FF", TO[0]), 2000);
    assert!(matches!(at_the_end(&mut stage), Verdict::Pending { .. }));
}

#[test]
#[allow(clippy::items_after_statements)]
fn a_filter_on_another_host_is_inside_where_it_is_named() {
    for (inside, fate) in
        [("[]", Some((Column::Delivered, Key::Ident))), ("['198.51.100.0/24']", None)]
    {
        let mut stage = Stage::new();
        #[derive(serde::Deserialize)]
        struct Named {
            inside: Networks,
        }
        stage.setting.logs[0].inside =
            toml::from_str::<Named>(&format!("inside = {inside}")).unwrap().inside;
        stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
        stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 100);
        stage.log(&sent(1, "4A100FF", TO[0]).replace("192.0.2.20", "198.51.100.7"), 1000);
        assert_eq!(stage.fate("0A", TO[0]), fate, "{inside}");
    }
}

#[test]
fn what_was_waived_of_one_hole_does_not_cover_the_next() {
    let holes = |stage: &Stage| {
        stage.books.logs["sems1"].chains.uncovered(
            Moment(START),
            Moment(START + 900_000),
            &stage.setting.limits,
        )
    };
    let mut stage = Stage::new();
    let chains = |stage: &mut Stage| stage.books.logs.get_mut("sems1").unwrap().chains.clone();
    let with = |stage: &mut Stage, from: i64| {
        let mut chains = chains(stage);
        chains.begin_piece(Some(Moment(START + from)));
        stage.books.logs.get_mut("sems1").unwrap().chains = chains;
    };
    stage.taken(&mail("0A", &TO, "1@x", 1000), "4A100FF");
    stage.log(&accepted(1, "4A100FF", "0A", "1@x"), 1100);
    stage.log(&sent(2, "4A100FF", TO[0]), 2000);
    with(&mut stage, 100_000);
    stage.log("+200 postfix/smtpd[7]: connect from x[192.0.2.3]", 200_000);
    with(&mut stage, 600_000);
    stage.log("+950 postfix/smtpd[7]: connect from x[192.0.2.3]", 950_000);
    let found = holes(&stage);
    assert_eq!(found.len(), 2, "{found:?}");
    let sentinel = stage.sentinel(1_000_000);
    stage.tick(1_200_000);
    let doubts = match stage.verdict(900_000, &sentinel, 1_200_000) {
        Verdict::Inconclusive { doubts } => doubts,
        other => panic!("{other:?}"),
    };
    let both: u64 = found.iter().map(|(from, to)| u64::try_from(to.since(*from)).unwrap()).sum();
    assert!(
        matches!(&doubts[..], [doubt @ Doubt::Uncovered { holes: 2, .. }] if doubt.measure() == both)
    );
}

#[test]
fn an_old_log_does_not_push_what_came_past_us_since_out_of_sight() {
    let mut stage = Stage::new();
    let direct = |second: i64, id: i64| {
        format!(
            "+{second} postfix/smtpd[7]: {id:07X}: client=web[192.0.2.77]
            +{second} postfix/cleanup[8]: {id:07X}: message-id=<{id}@x>
            +{second} postfix/smtp[10]: {id:07X}: to=<z@x.test>, relay=mta[192.0.2.20]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 Ok)
            +{second} postfix/qmgr[9]: {id:07X}: removed"
        )
    };
    stage.log(&direct(5, 1), 5000);
    stage.tick(20_000);
    for number in 0..1200 {
        stage.log(&direct(number - 90_000, 100 + number), 30_000);
    }
    stage.tick(50_000);
    stage.tick(150_000);
    match at_the_end(&mut stage) {
        Verdict::Inconclusive { doubts } => {
            assert!(doubts.iter().any(|doubt| matches!(doubt, Doubt::Bypass { .. })), "{doubts:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn mail_without_a_message_id_is_not_settled_by_another_that_has_one() {
    let mut stage = Stage::new();
    let bare = Mail { message_id: None, ..mail("0A", &TO, "", 0) };
    stage.taken(&bare, "4A100FF");
    stage.returned(&mail("", &TO, "notice@sems", 0), None, "relayed", 500);
    assert_eq!(stage.inside(), TO);
    stage.returned(&bare, None, "relayed", 900);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Returned, Key::Envelope)));
}

#[test]
fn a_log_that_is_handed_in_long_after_the_sentinel_returned_shows_it_all_the_same() {
    let mut stage = Stage::new();
    let to = ["op@example.org"];
    let probe = Mail {
        doing: "probe",
        ident: false,
        ..mail("0SENTINEL0000", &to, "sentinel@lockgate", 20_000)
    };
    stage.taken(&probe, "5E5E5E");
    stage.returned(&probe, Some("0SENTINEL0000"), "relayed", 21_000);
    for now in [30_000, 90_000, 600_000] {
        stage.tick(now);
    }
    assert_eq!(stage.books.ledger.offers().count(), 0, "it is let go");
    let lines = accepted(20, "5E5E5E", "-", "sentinel@lockgate")
        .replace(", orig_queue_id=-, orig_client=x[192.0.2.1]", "");
    stage.log(&lines, 700_000);
    stage.log(&sent(21, "5E5E5E", "op@example.org"), 700_000);
    let sentinel = Sentinel {
        gate: "outbound".into(),
        message_id: "sentinel@lockgate".into(),
        to: "op@example.org".into(),
        accepted: true,
        reply: "250 ok".into(),
    };
    stage.tick(701_000);
    let verdict = stage.verdict(15_000, &[sentinel], 900_000);
    assert!(matches!(verdict, Verdict::Drained(_)), "{verdict:?}");
}

#[test]
fn a_clock_that_was_set_is_followed_where_both_names_fit() {
    let mut stage = Stage::new();
    for (number, second) in [(0_i64, 0_i64), (1, 10 + 100), (2, 20 + 100)] {
        let (id, message_id) = (format!("0{number}"), format!("{number}@x"));
        let queue_id = format!("4A{number}00FF");
        let silent = Mail { ident: false, ..mail(&id, &TO, &message_id, number * 10_000) };
        stage.taken(&silent, &queue_id);
        let lines = accepted(second, &queue_id, "-", &message_id);
        let lines = lines.replace(", orig_queue_id=-, orig_client=x[192.0.2.1]", "");
        stage.log(&lines, number * 10_000 + 100);
        stage.log(&sent(second + 1, &queue_id, TO[0]), number * 10_000 + 1000);
        assert_eq!(stage.fate(&id, TO[0]), Some((Column::Delivered, Key::Reply)), "{number}");
    }
    assert_eq!(stage.books.logs["sems1"].chains.skew.jumps, 1);
}

#[test]
fn a_log_that_comes_by_udp_shows_and_settles_nothing() {
    let mut stage = Stage::new();
    stage.setting.logs[0].udp = true;
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 100);
    stage.log(&sent(1, "4A100FF", TO[0]), 1000);
    assert_eq!(stage.inside(), TO);
    stage.offered(&mail("0B", &TO, "2@x", 2000));
    stage.ended("0B", "uncertain", "link lost", 2500);
    stage.log(&accepted(2, "4B100FF", "0B", "2@x"), 2600);
    assert_eq!(stage.books.what_became_of("0B"), None);
}

/// The likeliest mistake with a file that is handed in.
#[test]
fn the_log_of_the_next_host_is_not_taken_for_that_of_the_server() {
    for late in [false, true] {
        let mut stage = Stage::new();
        let silent = Mail { ident: false, ..mail("0A", &TO, "1@x", 0) };
        stage.taken(&silent, "4A100FF");
        if late {
            stage.returned(&silent, Some("0A"), "relayed", 500);
            stage.tick(100_000);
            assert_eq!(stage.books.ledger.offers().count(), 0);
        }
        let lines = accepted(1, "5B100FF", "-", "1@x");
        stage.log(&lines.replace(", orig_queue_id=-, orig_client=x[192.0.2.1]", ""), 120_000);
        stage.log(&sent(2, "5B100FF", TO[0]), 120_000);
        stage.tick(200_000);
        let chains = &stage.books.logs["sems1"].chains;
        assert_eq!(chains.shown_until, None, "late: {late}");
        assert_eq!(chains.bypasses_since(Moment(START), &stage.setting.limits), 1);
        assert_eq!(stage.inside().is_empty(), late);
    }
}

#[test]
fn what_goes_to_a_return_gate_on_loopback_has_left() {
    for (leaves, fate) in [
        ("127.0.0.1:2527", Some((Column::Delivered, Key::Ident))),
        ("127.0.0.1", Some((Column::Delivered, Key::Ident))),
        ("127.0.0.1:10024", None),
    ] {
        let mut stage = Stage::new();
        stage.setting.logs[0].leaves = vec![leaves.to_owned().try_into().unwrap()];
        stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
        stage.log(&accepted(0, "4A100FF", "0A", "1@x"), 100);
        let line =
            sent(1, "4A100FF", TO[0]).replace("mta[192.0.2.20]:25", "127.0.0.1[127.0.0.1]:2527");
        stage.log(&line, 1000);
        assert_eq!(stage.fate("0A", TO[0]), fate, "{leaves}");
    }
}

#[test]
fn mail_of_a_gate_that_lost_its_name_is_not_forgotten() {
    let mut stage = Stage::new();
    let gate = stage.setting.plan.gates.remove("outbound").unwrap();
    stage.setting.plan.gates.insert("new".into(), gate);
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    assert_eq!(stage.inside(), TO);
    let gate = stage.setting.plan.gates.get_mut("new").unwrap();
    gate.members = vec!["sems2".into()];
    match at_the_end(&mut stage) {
        Verdict::Pending { items, doubts, .. } => {
            assert!(!items.is_empty());
            assert!(doubts.iter().any(|doubt| doubt.name() == "elsewhere:sems1"), "{doubts:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_nothing_tells_of_is_not_kept_and_is_a_doubt() {
    let mut stage = Stage::new();
    stage.setting.plan.told.clear();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    assert_eq!(stage.books.ledger.offers().count(), 0);
    stage.setting.plan.told.insert("sems1".into());
    stage.setting.limits.offers_max = 1;
    for (id, at) in [("0B", 1000), ("0C", 2000)] {
        stage.taken(&mail(id, &TO, id, at), id);
    }
    assert_eq!(stage.books.ledger.offers().count(), 1, "the limit");
    assert_eq!(stage.books.ledger.untracked("sems1"), Some(Moment(START + 2000)));
    match stage.verdict(900_000, &[], 1_200_000) {
        Verdict::Pending { doubts, .. } => {
            assert!(doubts.iter().any(|doubt| doubt.name() == "untracked"), "{doubts:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_attempt_for_the_rest_of_the_recipients_is_recognised_when_it_returns() {
    let mut stage = Stage::new();
    let both = ["b@example.net", "c@example.net"];
    let mut line = Stage::line_of(
        &Mail { doing: "replay", ..mail("0A", &both, "1@x", 0) },
        JournalWhat::Open,
        0,
    );
    line.others = vec![JournalPath {
        path: 1,
        to: "<c@example.net>".into(),
        outcome: "deferred".into(),
        reply: "450 later".into(),
    }];
    stage.entry(line, 0);
    stage.ended("0A", "relayed", "250 2.0.0 Ok: queued as 4A100FF", 50);
    stage.returned(&mail("", &["b@example.net"], "1@x", 0), Some("0A"), "relayed", 500);
    stage.tick(100_000);
    let rest = Mail { doing: "replay", ..mail("0A", &["c@example.net"], "1@x", 200_000) };
    stage.taken(&rest, "4B100FF");
    stage.returned(&rest, Some("0A"), "relayed", 200_500);
    assert!(stage.inside().is_empty());
}

#[test]
fn a_server_whose_log_names_no_message_id_is_followed_by_its_own_ids() {
    let mut stage = Stage::new();
    stage.setting.logs[0].dialect = Dialect::Opensmtpd;
    stage.reader = Reader::new(Dialect::Opensmtpd);
    let silent = Mail { ident: false, ..mail("0A", &TO, "1@x", 0) };
    stage.offered(&silent);
    stage.ended("0A", "relayed", "250 2.0.0 f6e94209 Message accepted for delivery", 50);
    stage.log(
        "+0 smtpd[7]: 5df87c9c42abeddb smtp message msgid=f6e94209 size=802 nrcpt=1 proto=ESMTP
        +0 smtpd[7]: 5df87c9c42abeddb smtp envelope evpid=f6e94209918f7e7b from=<a@example.org> to=<b@example.net>",
        100,
    );
    stage.log("+1 smtpd[7]: 5df87c9b982c840c mta delivery evpid=f6e94209918f7e7b from=<a@example.org> to=<b@example.net> rcpt=<-> source=\"192.0.2.5\" relay=\"192.0.2.20 (mta)\" delay=0s result=\"Ok\" stat=\"250 2.0.0 Ok\"", 1000);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Delivered, Key::Reply)));
    stage.log(
        "+2 smtpd[7]: 6df87c9c42abeddb smtp message msgid=aaaa4209 size=802 nrcpt=1 proto=ESMTP",
        2000,
    );
    stage.tick(90_000);
    assert_eq!(
        stage.books.logs["sems1"].chains.bypasses_since(Moment(START), &stage.setting.limits),
        1
    );
}

/// Goal: where a log names connections, which bring several messages, a line is of the one that can be meant, or of none.
#[test]
fn a_line_under_the_name_of_a_connection_is_of_the_only_message_that_it_can_be_of() {
    let mut stage = Stage::new();
    stage.setting.logs[0].dialect = Dialect::Sems;
    stage.setting.logs[0].ids_of_connections = true;
    let pattern = |name: &str, regex: &str| {
        format!("{{ name = '{name}', regex = '{regex}', what = 'relayed' }}")
    };
    let out = r"^(?<id>SMTP-\d+): recipient (?<recipient>\S+): handed on$";
    let named = r"^(?<id>SMTP-\d+): <(?<message_id>[^>]+)> recipient (?<recipient>\S+): handed on$";
    let config = format!(
        "dialect = 'sems'\npattern = [{}, {}]",
        pattern("out", out),
        pattern("named", named)
    );
    stage.reader = Reader::from_config(&toml::from_str(&config).unwrap()).unwrap();
    let message = |id: &str| {
        format!("+0 pgp/messaging[7]: SMTP-00001: message <{id}> from a@example.org (1 recipient):")
    };
    for (id, message_id, to) in
        [("0A", "1@x", "a@x.test"), ("0B", "2@x", "b@x.test"), ("0C", "3@x", "b@x.test")]
    {
        let to = [to];
        stage.offered(&Mail { ident: false, ..mail(id, &to, message_id, 0) });
        stage.ended(id, "relayed", "250 2.0.0 Ok", 50);
        stage.log(&message(message_id), 100);
    }
    let line = |text: &str| format!("+1 pgp/messaging[7]: SMTP-00001: {text} handed on");
    stage.log(&line("recipient b@x.test:"), 1000);
    assert_eq!(stage.inside().len(), 3, "of two it may be");
    stage.log(&line("recipient a@x.test:"), 1000);
    assert_eq!(stage.fate("0A", "a@x.test"), Some((Column::Delivered, Key::MessageId)));
    stage.log(&line("<2@x> recipient b@x.test:"), 1000);
    assert_eq!(stage.fate("0B", "b@x.test"), Some((Column::Delivered, Key::MessageId)));
    assert_eq!(stage.fate("0C", "b@x.test"), None);
    stage.log(&line("recipient b@x.test:"), 1000);
    assert_eq!(stage.fate("0C", "b@x.test"), Some((Column::Delivered, Key::MessageId)));
}

#[test]
fn a_program_of_exim_may_bring_a_message_back_and_a_mailbox_does_not() {
    for (transport, fate) in [("gpg_pipe", None), ("local", Some((Column::Delivered, Key::Reply)))]
    {
        let mut stage = Stage::new();
        stage.setting.logs[0].dialect = Dialect::Exim;
        stage.reader = Reader::new(Dialect::Exim);
        let silent = Mail { ident: false, ..mail("0A", &TO, "1@x", 0) };
        stage.offered(&silent);
        stage.ended("0A", "relayed", "250 OK id=1RwtJY-0009RI-E4", 50);
        stage.log(
            "+0 exim[7]: 1RwtJY-0009RI-E4 <= a@example.org H=gate [192.0.2.9] P=esmtp S=900 id=1@x",
            100,
        );
        stage.log(
            &format!("+1 exim[7]: 1RwtJY-0009RI-E4 => b <b@example.net> R=r T={transport}"),
            1000,
        );
        assert_eq!(stage.fate("0A", TO[0]), fate, "{transport}");
    }
}

#[test]
fn a_file_with_the_older_log_behind_the_newer_is_two() {
    let mut stage = Stage::new();
    stage.books.logs.clear();
    stage.taken(&mail("09", &TO, "0@x", 0), "4A000FF");
    stage.offered(&mail("0A", &TO, "1@x", 2_000_000));
    stage.ended("0A", "uncertain", "link lost", 2_001_000);
    stage.taken(&mail("0B", &TO, "3@x", 5_000_000), "4C100FF");
    stage.books.logs.entry("sems1".into()).or_default().chains.begin_piece(None);
    stage.log(&accepted(5000, "4C100FF", "0B", "3@x"), 5_100_000);
    stage.log(&accepted(0, "4A000FF", "09", "0@x"), 5_100_000);
    stage.tick(5_110_000);
    assert_eq!(stage.fate("0A", TO[0]), None);
    let chains = &stage.books.logs["sems1"].chains;
    let holes = chains.uncovered(Moment(START), Moment(START + 5_000_000), &stage.setting.limits);
    assert_eq!(holes.len(), 1, "what lies between them was never read");
}

#[test]
fn a_file_that_was_put_together_of_others_proves_no_absence() {
    for jump in [0, 3000] {
        let mut stage = Stage::new();
        stage.books.logs.clear();
        stage.taken(&mail("09", &TO, "0@x", 0), "4A000FF");
        stage.offered(&mail("0A", &TO, "1@x", 2_000_000));
        stage.ended("0A", "uncertain", "link lost", 2_001_000);
        stage.taken(&mail("0B", &TO, "3@x", 5_000_000), "4C100FF");
        stage.books.logs.entry("sems1".into()).or_default().chains.begin_piece(None);
        stage.log(&accepted(0, "4A000FF", "09", "0@x"), 5_100_000);
        if jump == 0 {
            for second in (300..5000).step_by(300) {
                stage.log(
                    &format!("+{second} postfix/smtpd[7]: connect from x[192.0.2.3]"),
                    5_100_000,
                );
            }
        }
        stage.log(&accepted(5000, "4C100FF", "0B", "3@x"), 5_100_000);
        stage.tick(5_110_000);
        let absent = stage.fate("0A", TO[0]) == Some((Column::Refused, Key::Absence));
        assert_eq!(absent, jump == 0);
    }
}

/// A server that is slow to answer, or whose answer was lost, writes its lines long before we know.
#[test]
fn a_message_whose_end_is_not_known_yet_is_waited_for_and_is_not_proven_absent() {
    let mut stage = Stage::new();
    let silent = Mail { ident: false, ..mail("0A", &TO, "1@x", 0) };
    stage.offered(&silent);
    let lines = accepted(0, "4A100FF", "-", "1@x");
    stage.log(&lines.replace(", orig_queue_id=-, orig_client=x[192.0.2.1]", ""), 100);
    stage.log(&sent(1, "4A100FF", TO[0]), 1000);
    for now in [20_000, 90_000, 200_000] {
        stage.tick(now);
    }
    assert_eq!(stage.inside(), TO, "its end may name another queue id");
    let chains = &stage.books.logs["sems1"].chains;
    assert_eq!(chains.bypasses_since(Moment(START), &stage.setting.limits), 0);
    stage.ended("0A", "uncertain", "link lost", 210_000);
    stage.tick(211_000);
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Delivered, Key::MessageId)));
}

/// A repetition is logged while its end is on its way: the one before it is not taken for it.
#[test]
fn an_open_offer_counts_where_a_key_must_be_the_only_one() {
    let mut stage = Stage::new();
    let first = Mail { ident: false, ..mail("0A", &TO, "1@x", 0) };
    stage.offered(&first);
    stage.ended("0A", "uncertain", "link lost", 100);
    let again = Mail { ident: false, ..mail("0B", &TO, "1@x", 1000) };
    stage.offered(&again);
    let lines = accepted(1, "4A100FF", "-", "1@x");
    stage.log(&lines.replace(", orig_queue_id=-, orig_client=x[192.0.2.1]", ""), 1100);
    stage.log(&sent(2, "4A100FF", TO[0]), 2000);
    stage.ended("0B", "relayed", "250 2.0.0 Ok: queued as 4A100FF", 2100);
    stage.tick(3000);
    assert_eq!(stage.fate("0A", TO[0]), None);
    assert_eq!(stage.fate("0B", TO[0]), Some((Column::Delivered, Key::Reply)));
}

/// What a person wrote off is gone for the sums; whether anybody has it, nobody said.
#[test]
fn a_persons_word_discharges_no_held_message() {
    let mut stage = Stage::new();
    stage.offered(&mail("0A", &TO, "1@x", 0));
    stage.ended("0A", "uncertain", "link lost", 100);
    stage.books.ledger.write_off("sems1", "op: rebuilt", Moment(START + 200), |_| true);
    assert!(stage.inside().is_empty());
    assert_eq!(stage.books.what_became_of("0A"), None);
}

#[test]
fn what_came_past_us_then_may_be_what_seems_absent() {
    let mut stage = Stage::new();
    stage.taken(&mail("09", &TO, "0@x", 0), "4A000FF");
    stage.log(&accepted(0, "4A000FF", "09", "0@x"), 100);
    stage.offered(&mail("0A", &TO, "1@x", 40_000));
    stage.ended("0A", "uncertain", "link lost", 41_000);
    let other = accepted(40, "4B000FF", "-", "other@x");
    stage.log(&other.replace("orig_queue_id=-, orig_client=x[192.0.2.1]", ""), 40_500);
    stage.log(&sent(41, "4B000FF", "z@x.test"), 41_000);
    for now in [60_000, 200_000] {
        stage.tick(now);
    }
    stage.taken(&mail("0D", &TO, "4@x", 300_000), "4D100FF");
    stage.log(&accepted(300, "4D100FF", "0D", "4@x"), 300_100);
    stage.tick(400_000);
    assert_eq!(stage.fate("0A", TO[0]), None);
}

#[test]
fn a_line_that_was_not_understood_may_stand_anywhere_before_the_next_stamp() {
    for (strange_at, absent) in [(None, true), (Some(41_000), false)] {
        let mut stage = Stage::new();
        stage.taken(&mail("09", &TO, "0@x", 0), "4A000FF");
        stage.log(&accepted(0, "4A000FF", "09", "0@x"), 100);
        stage.offered(&mail("0A", &TO, "1@x", 40_000));
        stage.ended("0A", "uncertain", "link lost", 41_000);
        if let Some(at) = strange_at {
            // Without a stamp; the last one was long before.
            stage.log("+41 what is this", at);
        }
        stage.taken(&mail("0D", &TO, "4@x", 90_000), "4D100FF");
        stage.log(&accepted(90, "4D100FF", "0D", "4@x"), 90_100);
        stage.tick(91_000);
        let fate = stage.fate("0A", TO[0]);
        assert_eq!(fate == Some((Column::Refused, Key::Absence)), absent, "{strange_at:?}");
    }
}

#[test]
fn what_was_inside_a_server_that_was_installed_anew_is_written_off_by_name() {
    let mut stage = Stage::new();
    stage.taken(&mail("0A", &TO, "1@x", 0), "4A100FF");
    stage.offered(&mail("0B", &TO, "2@x", 10));
    let count = stage.books.ledger.write_off("sems1", "op: rebuilt", Moment(START + 100), |_| true);
    assert_eq!(count, 1, "what is being handed over is not");
    assert_eq!(stage.fate("0A", TO[0]), Some((Column::Deleted, Key::Word)));
    assert!(stage.sums_balance());
}

/// Goal: memory follows what is inside, not the length of history.
#[test]
fn after_two_hundred_thousand_messages_the_books_hold_what_is_inside_and_a_bounded_memory() {
    let mut stage = Stage::new();
    stage.setting.limits.remembered_max = 20_000;
    let mut kept = 0;
    for number in 0..200_000_i64 {
        let (at, id) = (number * 100, format!("{number:013}"));
        // Ids are used again, but not that of the one that is still there.
        let place = if number == 777 { 99_999 } else { number % 60_000 };
        let queue_id = format!("{:08X}", 0xA000_0000_u32 + u32::try_from(place).unwrap());
        let message_id = format!("{number}@x");
        stage.taken(&mail(&id, &TO, &message_id, at), &queue_id);
        stage.log(&accepted(at / 1000, &queue_id, &id, &message_id), at + 20);
        if number != 777 {
            stage.log(&sent(at / 1000, &queue_id, TO[0]), at + 40);
        }
        if number % 500 == 0 {
            stage.tick(at);
            kept = kept.max(stage.books.ledger.offers().count());
        }
    }
    stage.tick(200_000 * 100 + 60_000);
    assert_eq!(stage.inside(), TO, "the one that is stuck");
    assert!(stage.sums_balance());
    assert_eq!(stage.books.ledger.offers().count(), 1);
    // Half a minute of history, at ten messages a second.
    assert!(kept < 1_000, "{kept} offers were kept");
    let octets = postcard::to_stdvec(&stage.books).unwrap().len();
    assert!(octets < 16 << 20, "{octets} octets");
}
