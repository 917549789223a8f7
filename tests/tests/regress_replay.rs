//! Replay under bad luck: connections that die from under it, requests that come twice, reports
//! that cannot go. Each story stands for a defect that a review found once.
//!
//! Invariants asked for: what arrives is whole and arrives once; after the final dot nothing is
//! sent again by itself before its time; a report never gets in the way of mail.
//!
//! Not here: what replay does on a good day (`replay`), uncertainty as such (`uncertain`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::time::{Duration, Instant};

use tests::client::Client;
use tests::lockgate::{Gate, Lockgate, Settings, states, text};
use tests::mail::{Kind, MIB, Mail};
use tests::sink::{Action, FULL_OFFER, Rule, Sink, Stage};
use tests::wait::{self, LONG};

/// A message that the spool keeps in one frame.
const ONE_FRAME: Kind = Kind::Text(5 * 1024);

/// A message of many frames, beyond what the sockets between us can swallow unread.
const MANY_FRAMES: Kind = Kind::Text(3 * MIB);

/// A pause after a deferral that no story outlives: what goes again before was not due.
const NOT_IN_THIS_STORY: &str = "3600";

/// A next hop, met, and a gate before it that holds, with these keys of `[[gate]]` and `[replay]`.
fn holding(gate: &[(&str, &str)], replay: &[(&str, &str)]) -> (Sink, Lockgate) {
    let sink = Sink::start("sink.test");
    let lockgate = holding_before(&sink, gate, replay);
    (sink, lockgate)
}

fn holding_before(sink: &Sink, gate: &[(&str, &str)], replay: &[(&str, &str)]) -> Lockgate {
    let outbound = gate
        .iter()
        .fold(Gate::to("outbound", sink.address()), |gate, (key, value)| gate.set(key, value));
    let settings = replay.iter().fold(Settings::with([outbound]), |settings, (key, value)| {
        settings.set("replay", key, value)
    });
    let lockgate = settings.start();
    lockgate.meet("outbound", sink);
    lockgate.hold("outbound");
    lockgate
}

/// Holds one message and gives its id.
fn hold_one(lockgate: &Lockgate, mail: &Mail) -> String {
    let reply = Client::open(lockgate.outbound()).deliver(mail);
    assert!(reply.text().contains("held as"), "{reply:?}");
    reply.text().split(' ').nth(3).unwrap().to_owned()
}

/// Holds one message, has it put off by the server, and holds the gate again; gives its id.
fn hold_deferred(sink: &Sink, lockgate: &Lockgate, mail: &Mail) -> String {
    let id = hold_one(lockgate, mail);
    sink.script(Rule::reply(Stage::Rcpt, "451 4.2.1 busy").times(1));
    lockgate.release("outbound");
    lockgate.wait_for_state("deferred", 1, LONG);
    lockgate.hold("outbound");
    id
}

fn replay_state(lockgate: &Lockgate) -> String {
    text(&lockgate.gate_status("outbound")["replay"], "state")
}

/// Replays one message over a connection that has carried another and comes from the pool, and
/// does to it what `rule` says.
fn over_a_pooled_connection(
    sink: &Sink,
    settle: &str,
    story: &str,
    kind: Kind,
    rule: Rule,
) -> (Lockgate, Mail) {
    let settle = format!("{settle:?}");
    let lockgate = holding_before(
        sink,
        &[("settle", &settle), ("settle_after_s", "600")],
        &[("retry_first_s", "1")],
    );
    let mail = Mail::new(story, 1, kind);
    hold_one(&lockgate, &Mail::short(story, 0));
    hold_one(&lockgate, &mail);
    sink.script(Rule::at(Stage::End, Action::Hold).times(1));
    lockgate.ok(&["release", "outbound", "--connections", "1"]);
    sink.wait_for_holding(1);
    sink.script(rule.times(1));
    sink.let_go();
    (lockgate, mail)
}

/// The first attempt at `mail` came over a connection that had carried another message.
#[track_caller]
fn assert_pooled(sink: &Sink, mail: &Mail) {
    let line = format!("MAIL FROM:{}", mail.reverse_path);
    let session = sink
        .sessions()
        .into_iter()
        .find(|session| session.lines.iter().any(|said| said.starts_with(&line)))
        .unwrap();
    let mails = session.lines.iter().filter(|said| said.starts_with("MAIL ")).count();
    assert_eq!(mails, 2, "{:?}", session.lines);
}

/// Whole, octet for octet, once, and nothing is left.
#[track_caller]
fn assert_whole_and_once(sink: &Sink, lockgate: &Lockgate, mail: &Mail, what: &str) {
    lockgate.wait_until_empty(LONG);
    let found = sink.one(mail.key());
    assert!(found.data_without_trace() == mail.data, "{what}: altered or cut");
    assert_eq!(sink.copies().values().sum::<usize>(), 2, "{what}: {:?}", sink.copies());
}

fn cut_before_the_final_dot(kind: Kind, stages: &[Stage]) {
    std::thread::scope(|scope| {
        for stage in stages {
            for action in [Action::Close, Action::Reset] {
                scope.spawn(move || {
                    let what = format!("{stage:?} {action:?}");
                    let sink = Sink::start("sink.test");
                    let rule = Rule::at(*stage, action);
                    let (lockgate, mail) =
                        over_a_pooled_connection(&sink, "resend", "cut", kind, rule);
                    assert_whole_and_once(&sink, &lockgate, &mail, &what);
                    assert_pooled(&sink, &mail);
                    assert_eq!(sink.dots(), 2, "{what}: no final dot but those of the two");
                });
            }
        }
    });
}

/// Goal: a connection from the pool that dies under a replayed message costs nothing but time.
#[test]
fn a_short_message_cut_before_its_final_dot_arrives_whole_and_once() {
    cut_before_the_final_dot(ONE_FRAME, &[Stage::Mail, Stage::Rcpt, Stage::Data]);
}

/// The same for a message whose mail data goes out in many pieces: a second try begins with the
/// first piece again.
#[test]
fn a_long_message_cut_before_its_final_dot_arrives_whole_and_once() {
    let stages = [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Middle];
    cut_before_the_final_dot(MANY_FRAMES, &stages);
}

fn cut_after_the_final_dot(kind: Kind, rules: &[(&str, Rule, bool)]) {
    std::thread::scope(|scope| {
        for (what, rule, taken) in rules {
            scope.spawn(move || {
                let sink = Sink::start("sink.test");
                let (lockgate, mail) =
                    over_a_pooled_connection(&sink, "resend", "dot", kind, rule.clone());
                let held = lockgate.wait_for_state("uncertain", 1, LONG);
                assert_pooled(&sink, &mail);
                // Twice the pause after which a deferred one would go again.
                let sessions = sink.connections();
                let again = || sink.connections() > sessions || sink.dots() > 2;
                assert!(wait::stays(Duration::from_millis(2_500), || !again()), "{what}: again");
                let verb = if *taken { "delivered" } else { "retry" };
                lockgate.ok(&["held", verb, &text(&held[0], "id")]);
                assert_whole_and_once(&sink, &lockgate, &mail, what);
            });
        }
    });
}

/// Goal: once the final dot may have gone out, nothing goes again by itself, whoever took it.
/// Method: the connection is cut after the final dot with the message taken or lost, or when the
/// server has read no more than the first octets of what was sent in one piece with the dot.
#[test]
fn a_short_message_cut_after_its_final_dot_is_uncertain_and_not_sent_again() {
    let rules = [
        ("taken, closed", Rule::at(Stage::End, Action::Close).taking(), true),
        ("taken, reset", Rule::at(Stage::End, Action::Reset).taking(), true),
        ("lost, closed", Rule::at(Stage::End, Action::Close), false),
        ("first octets", Rule::at(Stage::FirstOctets, Action::Close), false),
    ];
    cut_after_the_final_dot(ONE_FRAME, &rules);
}

#[test]
fn a_long_message_cut_after_its_final_dot_is_uncertain_and_not_sent_again() {
    let rules = [
        ("taken, closed", Rule::at(Stage::End, Action::Close).taking(), true),
        ("lost, reset", Rule::at(Stage::End, Action::Reset), false),
    ];
    cut_after_the_final_dot(MANY_FRAMES, &rules);
}

/// 421 to the first word on a connection from the pool: the server is closing, and has nothing.
#[test]
fn a_421_to_the_first_word_on_a_pooled_connection_costs_no_copy_and_no_message() {
    let with_xforward =
        [FULL_OFFER.as_slice(), &["XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"]].concat();
    std::thread::scope(|scope| {
        for (stage, offer) in [
            (Stage::Mail, FULL_OFFER.as_slice()),
            (Stage::Mail, &["SIZE 104857600"]),
            (Stage::Mail, &with_xforward),
            (Stage::Xforward, &with_xforward),
        ] {
            scope.spawn(move || {
                let what = format!("{stage:?} {offer:?}");
                let sink = Sink::start_offering("sink.test", offer);
                let rule = Rule::reply(stage, "421 4.3.2 closing");
                let (lockgate, mail) =
                    over_a_pooled_connection(&sink, "resend", "busy", ONE_FRAME, rule);
                assert_whole_and_once(&sink, &lockgate, &mail, &what);
                lockgate.wait_for_mode("outbound", "pass", LONG);
                let again = || sink.dots() > 2;
                assert!(wait::stays(Duration::from_millis(1_500), || !again()), "{what}: due");
            });
        }
    });
}

/// Goal: to ask three times is to ask once.
/// Method: the first attempt is kept waiting for longer than a second one would need, before the
/// mail data and after it.
#[test]
fn a_message_retried_three_times_on_hold_goes_out_once() {
    for stage in [Stage::Data, Stage::End] {
        let (sink, lockgate) = holding(&[], &[]);
        let mail = Mail::short("thrice", 1);
        let id = hold_deferred(&sink, &lockgate, &mail);
        for _ in 0..3 {
            lockgate.ok(&["held", "retry", &id]);
        }
        sink.script(Rule::at(stage, Action::Hold).times(1));
        lockgate.release("outbound");
        sink.wait_for_holding(1);
        // Nor does a fourth request start another beside the one under way.
        lockgate.cli(&["held", "retry", &id]).expect(2);
        let dots = usize::from(stage == Stage::End);
        let once = || sink.dots() == dots;
        assert!(wait::stays(Duration::from_millis(1_200), once), "{stage:?}: tried twice");
        sink.let_go();
        lockgate.wait_until_empty(LONG);
        assert_eq!((sink.dots(), sink.copies()[mail.key()]), (1, 1), "{stage:?}");
    }
}

/// A canary of a message whose retry is due as well is one attempt, not two.
#[test]
fn a_canary_of_a_message_that_is_due_goes_out_once() {
    let (sink, lockgate) = holding(&[], &[("retry_first_s", "1")]);
    let mail = Mail::short("canary", 1);
    let id = hold_deferred(&sink, &lockgate, &mail);
    // Its retry is due by now: that is the claim.
    wait::let_pass(Duration::from_millis(1_300));
    sink.script(Rule::at(Stage::Data, Action::Hold).times(1));
    lockgate.ok(&["release", "outbound", "--only", &id]);
    sink.wait_for_holding(1);
    // While the canary waits for its reply: another canary, and the gate opens.
    lockgate.cli(&["release", "outbound", "--only", &id]);
    lockgate.release("outbound");
    assert!(wait::stays(Duration::from_millis(1_500), || sink.dots() == 0), "tried twice");
    sink.let_go();
    lockgate.wait_until_empty(LONG);
    lockgate.wait_for_mode("outbound", "pass", LONG);
    assert_eq!((sink.dots(), sink.copies()[mail.key()]), (1, 1));
}

/// Goal: an uncertain forward-path is not forgotten because another one of its message goes again.
/// Method: the second recipient is put off by 452 4.5.3, and the reply to the final dot is lost.
#[test]
fn an_uncertain_path_beside_one_put_off_is_settled_by_the_rule() {
    for settle in ["resend", "ask"] {
        let rule = format!("{settle:?}");
        let (sink, lockgate) = holding(
            &[("settle", &rule), ("settle_after_s", "1")],
            &[("retry_first_s", NOT_IN_THIS_STORY)],
        );
        hold_one(&lockgate, &Mail::short("two", 1).to(&["<a@x.test>", "<b@x.test>"]));
        sink.script(Rule::reply(Stage::Rcpt, "452 4.5.3 too many").about("<b@x").times(1));
        sink.script(Rule::at(Stage::End, Action::Close).taking().times(1));
        lockgate.release("outbound");
        let copies = |path: &str| {
            sink.taken().iter().filter(|taken| taken.forward_paths().contains(&path)).count()
        };
        if settle == "resend" {
            wait::until_true("sent again", Duration::from_secs(10), || copies("a@x.test") == 2);
            lockgate.wait_until_empty(LONG);
        } else {
            sink.wait_for(2, LONG);
            assert!(wait::stays(Duration::from_millis(2_500), || sink.dots() == 2), "by itself");
            assert_eq!(states(&lockgate.held()[0]), ["uncertain", "done"]);
            assert_eq!(copies("a@x.test"), 1);
        }
        assert_eq!(sink.taken()[0].forward_paths(), ["a@x.test"], "the other was put off");
        assert_eq!(copies("b@x.test"), 1);
    }
}

/// A gate that reports what is refused to `reports`, holding.
fn reporting(reports: &Sink, bounce: &str) -> (Sink, Lockgate) {
    let next_hop = format!("\"{}\"", reports.address());
    let bounce = format!("{bounce:?}");
    let (sink, lockgate) = holding(&[("dsn_next_hop", &next_hop), ("bounce", &bounce)], &[]);
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody").about("<no"));
    (sink, lockgate)
}

/// Goal: where reports cannot go, mail goes on.
/// Method: the host for reports is down; a report is made; the backlog ends and new mail passes,
/// now and after another hold. Then the host is there and gets its report.
#[test]
fn a_report_that_cannot_go_does_not_hold_the_gate() {
    let mut reports = Sink::prepared("mta.test", &FULL_OFFER);
    let (sink, mut lockgate) = reporting(&reports, "auto");
    for round in 0..2 {
        hold_one(&lockgate, &Mail::short("down", 2 * round));
        if round == 0 {
            hold_one(&lockgate, &Mail::short("down", 9).to(&["<no@x.test>"]));
        }
        lockgate.release("outbound");
        lockgate.wait_for_mode("outbound", "pass", LONG);
        let reply = Client::open(lockgate.outbound()).deliver(&Mail::short("down", 2 * round + 1));
        assert!(reply.text().contains("queued as"), "{reply:?}");
        sink.wait_for(2 * round + 2, LONG);
        let held = lockgate.wait_for_held(1, LONG);
        assert_eq!(held[0]["dsn"], true, "the report alone is left: {held:?}");
        lockgate.hold("outbound");
    }
    reports.start_again("mta.test");
    lockgate.restart();
    reports.wait_for(1, LONG);
    lockgate.wait_until_empty(LONG);
    assert_eq!(reports.dots(), 1);
}

/// The host for reports is no member: another name in its greeting concerns nobody.
#[test]
fn another_name_of_the_host_for_reports_cordons_nobody() {
    let mut reports = Sink::start("mta.test");
    let (_sink, lockgate) = reporting(&reports, "auto");
    hold_one(&lockgate, &Mail::short("name", 1).to(&["<no1@x.test>"]));
    lockgate.release("outbound");
    reports.wait_for(1, LONG);
    lockgate.wait_until_empty(LONG);

    reports.stop();
    reports.start_again("other.test");
    lockgate.hold("outbound");
    hold_one(&lockgate, &Mail::short("name", 2).to(&["<no2@x.test>"]));
    lockgate.release("outbound");
    reports.wait_for(2, LONG);
    assert_eq!(reports.taken()[1].server, "other.test");
    lockgate.wait_until_empty(LONG);
    lockgate.wait_for_mode("outbound", "pass", LONG);
    assert_eq!(lockgate.member_status()["cordoned"], false);
    let orders = lockgate.ok(&["orders", "list", "-o", "json"]).json_lines();
    assert!(orders.is_empty(), "{orders:?}");
}

/// Goal: a report whose final reply is lost is not followed by another, least of all an empty one.
/// Method: the second report goes over the connection of the first, which dies after the final dot.
#[test]
fn a_report_whose_final_reply_is_lost_is_not_followed_by_an_empty_one() {
    let reports = Sink::start("mta.test");
    let (_sink, lockgate) = reporting(&reports, "keep");
    let first = hold_one(&lockgate, &Mail::short("lost", 1).to(&["<no1@x.test>"]));
    let second = hold_one(&lockgate, &Mail::short("lost", 2).to(&["<no2@x.test>"]));
    lockgate.release("outbound");
    lockgate.wait_for_state("refused", 2, LONG);
    lockgate.ok(&["held", "fail", &first]);
    reports.wait_for(1, LONG);
    lockgate.wait_for_held(1, LONG);
    reports.script(Rule::at(Stage::End, Action::Close).taking().times(1));
    lockgate.ok(&["held", "fail", &second]);
    let uncertain = lockgate.wait_for_state("uncertain", 1, LONG);
    assert_eq!(uncertain[0]["dsn"], true, "{uncertain:?}");
    assert!(wait::stays(Duration::from_millis(2_500), || reports.dots() == 2), "sent again");
    assert_eq!(reports.connections(), 1, "both over one connection");
    for (n, report) in reports.transactions().iter().enumerate() {
        let recipient = format!("no{}@x.test", n + 1);
        let content = String::from_utf8_lossy(&report.data).into_owned();
        assert!(content.contains("multipart/report") && content.contains(&recipient), "{content}");
    }
}

/// Goal: a server that refuses everything makes few reports even where they are made by themselves.
#[test]
fn with_reports_by_themselves_a_server_that_refuses_all_makes_five_at_most() {
    let reports = Sink::start("mta.test");
    let (sink, lockgate) = reporting(&reports, "auto");
    let mut client = Client::open(lockgate.outbound());
    for n in 0..40 {
        client.deliver(&Mail::short("flood", n));
    }
    sink.script(Rule::reply(Stage::Rcpt, "550 5.7.1 relaying denied"));
    lockgate.release("outbound");
    wait::until_true("paused", LONG, || replay_state(&lockgate) == "paused");
    let of_mail = || lockgate.held().iter().filter(|message| message["dsn"] == false).count();
    let reported = || 40 - of_mail();
    assert!(wait::stays(Duration::from_secs(2), || reported() <= 5), "{}", reported());
    assert!(reported() > 0, "none was made, nothing is proven");
    assert!(reports.dots() <= reported());
    assert!(lockgate.alarms().iter().any(|alarm| alarm.contains("replay")));
    assert_eq!((replay_state(&lockgate).as_str(), sink.count()), ("paused", 0));
}

/// Goal: a report that a person asks for does not wait for the release of other mail.
/// Method: a canary is refused and given up while the gate holds other mail that was never tried.
#[test]
fn a_report_made_while_the_gate_holds_other_mail_goes_out() {
    let reports = Sink::start("mta.test");
    let (sink, lockgate) = reporting(&reports, "keep");
    let id = hold_one(&lockgate, &Mail::short("stuck", 1).to(&["<no@x.test>"]));
    for n in 2..5 {
        hold_one(&lockgate, &Mail::short("stuck", n));
    }
    lockgate.ok(&["release", "outbound", "--only", &id]);
    lockgate.wait_for_state("refused", 1, LONG);
    lockgate.ok(&["held", "fail", &id]);
    reports.wait_for(1, Duration::from_secs(5));
    lockgate.wait_for_held(3, LONG);
    assert_eq!(sink.dots(), 0);
}

/// Goal: neither time on hold nor time that a retry was to wait counts towards a lifetime; time
/// with release open does.
/// Method: a message is put off, its gate is held for longer than its lifetime; the next attempt
/// puts it off again; then release stays open until the lifetime is over.
#[test]
fn a_hold_between_two_attempts_does_not_eat_the_lifetime() {
    let (sink, lockgate) =
        holding(&[], &[("lifetime_s", "2"), ("retry_first_s", NOT_IN_THIS_STORY)]);
    let mail = Mail::short("life", 1);
    let id = hold_deferred(&sink, &lockgate, &mail);
    // Longer than the lifetime: that is the claim.
    wait::let_pass(Duration::from_millis(2_200));
    sink.script(Rule::reply(Stage::Rcpt, "451 4.2.1 still busy"));
    let rcpts = || {
        let sessions = sink.sessions();
        let lines = sessions.iter().flat_map(|session| &session.lines);
        lines.filter(|said| said.contains(mail.key())).count()
    };
    let before = rcpts();
    let released = Instant::now();
    lockgate.release("outbound");
    lockgate.ok(&["held", "retry", &id]);
    wait::until_true("a second attempt", LONG, || rcpts() == before + 1);
    wait::until_true("and its end", LONG, || {
        text(&lockgate.held()[0]["forward_paths"][0], "reply").contains("still busy")
    });
    // Looked at early enough, or nothing is proven.
    assert!(released.elapsed() < Duration::from_millis(1_500), "{:?}", released.elapsed());
    assert_eq!(states(&lockgate.held()[0]), ["deferred"], "expired by time on hold");

    // Open for as long as it may live: that is the claim.
    wait::let_pass(Duration::from_millis(2_200).saturating_sub(released.elapsed()));
    lockgate.ok(&["held", "retry", &id]);
    let held = lockgate.wait_for_state("refused", 1, LONG);
    let reply = text(&held[0]["forward_paths"][0], "reply");
    assert!(reply.contains("lifetime") && reply.contains("still busy"), "{reply}");
    assert_eq!((lockgate.held().len(), sink.dots()), (1, 0), "kept, for a person");
}

/// Goal: two people who give the same message up make one report.
#[test]
fn two_who_fail_the_same_message_at_once_make_one_report() {
    let reports = Sink::start("mta.test");
    let (_sink, lockgate) = reporting(&reports, "keep");
    let ids: Vec<String> = (0..4)
        .map(|n| hold_one(&lockgate, &Mail::short("fail", n).to(&[&format!("<no{n}@x.test>")])))
        .collect();
    lockgate.release("outbound");
    lockgate.wait_for_state("refused", ids.len(), LONG);
    for (n, id) in ids.iter().enumerate() {
        let codes: Vec<i32> = std::thread::scope(|scope| {
            let ask = || lockgate.cli(&["held", "fail", id]).code;
            let asked: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert_eq!(codes.iter().filter(|&&code| code == 0).count(), 1, "{codes:?}");
        reports.wait_for(n + 1, LONG);
    }
    lockgate.wait_until_empty(LONG);
    assert!(wait::stays(Duration::from_millis(500), || reports.dots() == ids.len()));
}

/// Goal: a damaged message hides no other: what is promised late, behind those already tried, goes out.
/// Method: a transaction begins first and ends last; between, a message is damaged on disk and tried.
#[test]
fn a_damaged_message_does_not_hide_one_that_is_promised_late() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    let mut late = Client::open(lockgate.outbound());
    for line in ["MAIL FROM:<a@client.test>", "RCPT TO:<late@x.test>"] {
        assert_eq!(late.command(line).code, 250);
    }
    assert_eq!(late.command("DATA").code, 354);
    Client::open(lockgate.outbound()).deliver(&Mail::new("hurt", 1, Kind::Attachment(50_000)));
    let segment = lockgate.segments().pop().unwrap();
    let mut octets = std::fs::read(&segment).unwrap();
    octets[25_000] ^= 0x40;
    std::fs::write(&segment, octets).unwrap();
    lockgate.release("outbound");
    lockgate.wait_for_mode("outbound", "pass", LONG);
    assert!(!lockgate.alarms().is_empty(), "the damage is named");
    late.send(b"Subject: late\r\n\r\nlate\r\n.\r\n").unwrap();
    assert!(late.expect_reply().text().contains("held as"));
    sink.wait_for(1, LONG);
    assert_eq!(sink.taken()[0].forward_paths(), ["late@x.test"]);
}
