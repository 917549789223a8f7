//! Release and replay: held mail goes out once, in order, as it came in; what cannot go is kept
//! and shown.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tests::client::{Client, Style};
use tests::lax;
use tests::load::Load;
use tests::lockgate::{Gate, Lockgate, Member, Settings, states, text};
use tests::mail::{self, Kind, Mail};
use tests::sink::{Action, FULL_OFFER, Rule, Sink, Stage};
use tests::wait::{self, LONG};

/// A gate whose next hop has been met and that holds now.
fn holding() -> (Sink, Lockgate) {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    (sink, lockgate)
}

/// Holds messages numbered from `from`, one after another, and gives them.
fn hold_some(lockgate: &Lockgate, story: &str, from: usize, count: usize) -> Vec<Mail> {
    let mails: Vec<Mail> = (from..from + count).map(|n| Mail::short(story, n)).collect();
    let mut client = Client::open(lockgate.outbound());
    for mail in &mails {
        let reply = client.deliver(mail);
        assert!(reply.text().contains("held as"), "{reply:?}");
    }
    mails
}

fn ids(lockgate: &Lockgate) -> Vec<String> {
    lockgate.held().iter().map(|message| text(message, "id")).collect()
}

fn replay(lockgate: &Lockgate) -> serde_json::Value {
    lockgate.gate_status("outbound")["replay"].clone()
}

/// Goal: 1,000 messages of mixed kinds, 0 B to 25 MiB, come out as they went in: envelope and mail
/// data octet for octet after our trace field, each once; then nothing is held, the gate passes
/// and the segments are gone.
#[test]
fn a_thousand_mixed_messages_go_out_as_they_came_in() {
    let (sink, lockgate) = holding();
    let mails = mail::mixed("r", 1_000);
    Load::to(lockgate.outbound()).all_accepted(&mails);
    assert_eq!(lockgate.held().len(), mails.len());
    assert_eq!(sink.dots(), 0);
    lockgate.release("outbound");
    sink.wait_for(mails.len(), Duration::from_secs(120));
    lockgate.wait_until_empty(LONG);
    lockgate.wait_for_mode("outbound", "pass", LONG);

    let taken: HashMap<String, _> =
        sink.taken().into_iter().map(|found| (found.key().to_owned(), found)).collect();
    assert_eq!(sink.count(), mails.len(), "each once");
    for mail in &mails {
        let found = &taken[mail.key()];
        assert!(found.data_without_trace() == mail.data, "{}", mail.key());
        assert_eq!(found.rcpt_lines, mail.rcpt_lines());
        let without_size: Vec<&str> =
            found.mail_line.split(' ').filter(|word| !word.starts_with("SIZE=")).collect();
        assert_eq!(without_size.join(" "), mail.mail_line());
    }
    // The last segment may stay open for the next hold.
    wait::until_true("segments are unlinked", LONG, || lockgate.segments().len() <= 1);
}

/// Goal: RFC 2920 §3.1 lets a server ask for mail data though it refused every recipient of a burst.
/// Nothing is completed there, not even an empty message, and the others go on.
#[test]
fn mail_data_that_is_asked_for_without_a_recipient_is_not_sent() {
    let (sink, lockgate) = holding();
    let mails = hold_some(&lockgate, "asked", 0, 3);
    let end = Arc::new(AtomicUsize::new(0));
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody of that name").about(mails[1].key()));
    sink.script(Rule::reply(Stage::Data, "354 go ahead").when(|seen| seen.rcpt_lines.is_empty()));
    let dots = Arc::clone(&end);
    let counting = Rule::at(Stage::End, Action::Close).when(move |seen| {
        dots.fetch_add(usize::from(seen.rcpt_lines.is_empty()), Ordering::SeqCst);
        seen.rcpt_lines.is_empty()
    });
    sink.script(counting);
    lockgate.ok(&["release", "outbound", "--connections", "1"]);
    sink.wait_for(2, LONG);
    let kept = lockgate.wait_for_state("refused", 1, LONG);
    assert_eq!(text(&kept[0], "id"), ids(&lockgate)[0]);
    assert_eq!(sink.copies().len(), 2);
    assert_eq!(end.load(Ordering::SeqCst), 0, "no final dot without a recipient");
}

/// Goal: what a person does to held mail counts, also when it was read before its turn.
#[test]
fn mail_that_is_removed_while_others_are_replayed_is_not_sent() {
    let (sink, lockgate) = holding();
    hold_some(&lockgate, "gone", 0, 12);
    sink.script(Rule::at(Stage::End, Action::Hold).times(1));
    lockgate.ok(&["release", "outbound", "--connections", "1"]);
    sink.wait_for_holding(1);
    // The next ones have been read by now, or are being read.
    let removed: Vec<String> = ids(&lockgate).into_iter().skip(1).take(3).collect();
    for id in &removed {
        lockgate.ok(&["held", "remove", id, "--reason", "not wanted"]);
    }
    sink.let_go();
    lockgate.wait_until_empty(LONG);
    sink.wait_for(9, LONG);
    assert_eq!(sink.count(), 9);
}

#[test]
fn first_attempts_start_in_order_of_arrival() {
    let (sink, lockgate) = holding();
    let mails = hold_some(&lockgate, "o", 0, 60);
    // One connection, so that the order of attempts is the order at the sink.
    lockgate.ok(&["release", "outbound", "--connections", "1"]);
    sink.wait_for(mails.len(), LONG);
    let taken = sink.taken();
    let order: Vec<&str> = taken.iter().map(tests::sink::Transaction::key).collect();
    let arrived: Vec<&str> = mails.iter().map(Mail::key).collect();
    assert_eq!(order, arrived);
}

/// New mail joins the tail until every held message has been tried once; then the gate passes.
#[test]
fn new_mail_joins_the_tail_until_the_backlog_was_tried() {
    let (sink, lockgate) = holding();
    hold_some(&lockgate, "t", 0, 20);
    sink.script(Rule::at(Stage::End, Action::Hold).times(1));
    lockgate.ok(&["release", "outbound", "--connections", "1"]);
    sink.wait_for_holding(1);
    let orders = lockgate.ok(&["orders", "list", "-o", "json"]).json_lines();
    assert_eq!(orders.len(), 1, "one order replaced by another: {orders:?}");
    assert_eq!(orders[0]["holder"]["kind"], "backlog");
    hold_some(&lockgate, "t", 20, 5);
    sink.let_go();
    sink.wait_for(25, LONG);
    lockgate.wait_for_mode("outbound", "pass", LONG);
    let taken = sink.taken();
    let tail: HashSet<&str> = taken[20..].iter().map(tests::sink::Transaction::key).collect();
    let expected: Vec<Mail> = (20..25).map(|n| Mail::short("t", n)).collect();
    assert_eq!(tail, expected.iter().map(Mail::key).collect());
    let reply = Client::open(lockgate.outbound()).deliver(&Mail::short("t", 25));
    assert!(reply.text().contains("queued as"), "{reply:?}");
}

#[test]
fn open_now_passes_new_mail_beside_the_backlog() {
    let (sink, lockgate) = holding();
    hold_some(&lockgate, "n", 0, 5);
    sink.script(Rule::at(Stage::End, Action::Hold).times(1).about("n-00000"));
    lockgate.ok(&["release", "outbound", "--open-now", "--connections", "1"]);
    sink.wait_for_holding(1);
    let reply = Client::open(lockgate.outbound()).deliver(&Mail::short("n", 9));
    assert!(reply.text().contains("queued as"), "{reply:?}");
    sink.let_go();
    sink.wait_for(6, LONG);
    lockgate.wait_until_empty(LONG);
}

/// Goal: a release is durable: the replayer goes on after a restart, clean or not.
#[test]
fn a_replay_goes_on_after_a_restart() {
    for clean in [true, false] {
        let (sink, mut lockgate) = holding();
        hold_some(&lockgate, "s", 0, 30);
        lockgate.ok(&["release", "outbound", "--connections", "1", "--rate", "20"]);
        sink.wait_for(3, LONG);
        if clean {
            lockgate.restart();
        } else {
            // Between two messages as well as within one: the copies are counted in `crash`.
            lockgate.kill();
            lockgate.serve();
        }
        wait::until_true("all but an uncertain one are out", LONG, || {
            lockgate.held().iter().all(|message| message["state"] == "uncertain")
        });
        let uncertain = lockgate.held().len();
        assert!(uncertain <= usize::from(!clean), "{uncertain}");
        let copies = sink.copies();
        assert!(copies.len() + uncertain >= 30, "{} of 30", copies.len());
        assert!(copies.values().all(|&copies| copies == 1), "{copies:?}");
    }
}

#[test]
fn pause_is_an_order_that_survives_a_restart_and_continue_ends_it() {
    let (sink, mut lockgate) = holding();
    hold_some(&lockgate, "p", 0, 10);
    lockgate.ok(&["replay", "pause", "outbound", "--reason", "look first"]);
    let answer = lockgate.cli(&["release", "outbound"]);
    assert_eq!(answer.code, 2, "the pause stands: {answer:?}");
    assert!(answer.said().contains("look first"), "{answer:?}");
    assert!(wait::stays(Duration::from_millis(700), || sink.dots() == 0));
    assert_eq!(replay(&lockgate)["state"], "paused");
    lockgate.restart();
    assert!(wait::stays(Duration::from_millis(700), || sink.dots() == 0));
    assert!(lockgate.ok(&["orders", "list"]).out.contains("look first"));
    lockgate.ok(&["replay", "continue", "outbound"]);
    sink.wait_for(10, LONG);
    lockgate.wait_until_empty(LONG);
}

#[test]
fn the_rate_can_be_changed_while_replay_runs() {
    let (sink, lockgate) = holding();
    hold_some(&lockgate, "v", 0, 200);
    lockgate.ok(&["release", "outbound", "--rate", "2"]);
    sink.wait_for(2, LONG);
    // At most 2 a second, with a burst of one.
    let (start, before) = (Instant::now(), sink.count());
    let slow = wait::stays(Duration::from_secs(2), || {
        sink.count() - before <= 2 + start.elapsed().as_secs() as usize * 2
    });
    assert!(slow, "{} in {:?}", sink.count() - before, start.elapsed());
    let status = replay(&lockgate);
    assert_eq!(status["messages_per_second_max"], 2.0, "{status}");
    assert!(status["eta_s"].as_f64().is_some_and(|eta| eta > 20.0), "an honest ETA: {status}");
    lockgate.ok(&["replay", "rate", "outbound", "--rate", "1000", "--connections", "8"]);
    sink.wait_for(200, Duration::from_secs(15));
}

#[test]
fn hold_and_cordon_stop_replay_too() {
    for stop in [
        &["hold", "outbound", "--reason", "x"][..],
        &["cordon", "outbound", "sems1", "--reason", "x"],
    ] {
        let (sink, lockgate) = holding();
        hold_some(&lockgate, "h", 0, 100);
        lockgate.ok(&["release", "outbound", "--rate", "20"]);
        sink.wait_for(2, LONG);
        lockgate.ok(stop);
        lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "10s"]);
        let stopped = sink.dots();
        assert!(stopped < 100);
        assert!(wait::stays(Duration::from_millis(500), || sink.dots() == stopped), "{stop:?}");
        assert_eq!(lockgate.held().len(), 100 - stopped);
    }
}

#[test]
fn a_canary_replays_some_while_the_gate_holds() {
    let (sink, lockgate) = holding();
    let mails = hold_some(&lockgate, "c", 0, 10);
    let all = ids(&lockgate);
    lockgate.ok(&["release", "outbound", "--only", &all[7], &all[4]]);
    sink.wait_for(2, LONG);
    let keys: HashSet<String> = sink.copies().into_keys().collect();
    assert_eq!(keys, [mails[7].key().to_owned(), mails[4].key().to_owned()].into());
    lockgate.wait_for_held(8, LONG);
    lockgate.ok(&["release", "outbound", "--first", "3", "--wait", "--timeout", "20s"]);
    sink.wait_for(5, LONG);
    for n in [0, 1, 2] {
        assert_eq!(sink.copies()[mails[n].key()], 1);
    }
    assert_eq!(lockgate.mode("outbound"), "hold");
    assert!(wait::stays(Duration::from_millis(500), || sink.dots() == 5));
    lockgate.release("outbound");
    sink.wait_for(10, LONG);
    assert!(sink.copies().values().all(|&copies| copies == 1));
}

/// `release` ends its caller's orders only, and says who still holds.
#[test]
fn release_ends_only_its_callers_orders_and_says_who_still_holds() {
    let (sink, lockgate) = holding();
    hold_some(&lockgate, "w", 0, 2);
    std::fs::write(lockgate.data().join("hold"), b"").unwrap();
    assert!(
        Client::open(lockgate.outbound()).deliver(&Mail::short("w", 2)).text().contains("held")
    );
    let answer = lockgate.cli(&["release", "outbound", "-o", "json"]).expect(2).json();
    assert_eq!(answer["released"], false, "{answer}");
    assert_eq!(answer["still_held_by"][0]["holder"]["kind"], "brake", "{answer}");
    assert!(wait::stays(Duration::from_millis(500), || sink.dots() == 0));
}

#[test]
fn release_wait_ends_with_yes_when_all_is_out_and_no_when_mail_is_left() {
    let (sink, lockgate) = holding();
    hold_some(&lockgate, "w", 0, 20);
    lockgate.cli(&["release", "outbound", "--wait", "--timeout", "30s"]).expect(0);
    assert_eq!(sink.count(), 20);
    lockgate.hold("outbound");
    hold_some(&lockgate, "w", 20, 2);
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody").about("w-00021"));
    let answer = lockgate.cli(&["release", "outbound", "--wait", "--timeout", "30s"]).expect(2);
    assert!(answer.said().contains("1 refused"), "{answer:?}");
}

/// Outcomes are per forward-path: relayed, deferred, refused; each is tried again or kept alone.
#[test]
fn each_forward_path_has_its_own_outcome() {
    let (sink, lockgate) = holding();
    let paths = ["<ok@x.test>", "<later@x.test>", "<never@x.test>", "<ok2@x.test>"];
    Client::open(lockgate.outbound()).deliver(&Mail::short("f", 1).to(&paths));
    sink.script(Rule::reply(Stage::Rcpt, "451 4.2.1 busy").about("<later"));
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody").about("<never"));
    lockgate.release("outbound");
    sink.wait_for(1, LONG);
    assert_eq!(sink.taken()[0].forward_paths(), ["ok@x.test", "ok2@x.test"]);
    let held = lockgate.wait_for_state("refused", 1, LONG);
    assert_eq!(states(&held[0]), ["done", "deferred", "refused", "done"]);
    let refused = &held[0]["forward_paths"][2];
    assert!(refused["reply"].as_str().unwrap().contains("550"), "{refused}");
    assert!(held[0]["forward_paths"][1]["due_at"].is_string());

    sink.behave();
    lockgate.ok(&["held", "retry", &text(&held[0], "id")]);
    wait::until_true("the rest is out", LONG, || {
        let paths: HashSet<String> = sink
            .taken()
            .iter()
            .skip(1)
            .flat_map(|found| {
                found.forward_paths().into_iter().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        paths == ["later@x.test".to_owned(), "never@x.test".to_owned()].into()
    });
    lockgate.wait_until_empty(LONG);
}

/// A 4yz, at whatever stage, leaves the message due; it is tried again by schedule.
#[test]
fn a_4yz_at_any_stage_defers_and_the_message_is_tried_again() {
    for stage in [Stage::Banner, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::End] {
        let (sink, lockgate) = holding();
        hold_some(&lockgate, "d", 0, 1);
        let reply = if stage == Stage::Banner { "421 4.3.2 busy" } else { "451 4.3.0 later" };
        sink.script(Rule::reply(stage, reply).times(1));
        // Idle connections from before are closed, so that the banner is seen.
        lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "5s"]);
        wait::until_true("idle connections are closed", LONG, || sink.open_connections() == 0);
        lockgate.release("outbound");
        wait::until_true("tried once", LONG, || {
            let held = lockgate.held();
            held.is_empty() || states(&held[0]) == ["deferred"]
        });
        lockgate.cli(&["held", "retry", "--all", "--gate", "outbound"]);
        sink.wait_for(1, LONG);
        lockgate.wait_until_empty(LONG);
        assert_eq!(sink.count(), 1, "{stage:?}");
    }
}

#[test]
fn deferred_mail_is_tried_again_by_its_schedule_and_not_before() {
    let sink = Sink::start("sink.test");
    let settings = Settings::with([Gate::to("outbound", sink.address())]);
    let lockgate = settings.set("replay", "retry_first_s", "2").start();
    lockgate.meet("outbound", &sink);
    lockgate.hold("outbound");
    hold_some(&lockgate, "d", 0, 1);
    sink.script(Rule::reply(Stage::End, "451 4.3.0 later").times(2));
    lockgate.release("outbound");
    sink.wait_for_dots(1, LONG);
    assert!(wait::stays(Duration::from_millis(1_500), || sink.dots() == 1), "not before its time");
    sink.wait_for_dots(2, LONG);
    // The pause doubles.
    assert!(wait::stays(Duration::from_millis(3_000), || sink.dots() == 2), "not before its time");
    sink.wait_for(1, LONG);
    lockgate.wait_until_empty(LONG);
}

/// 452 4.5.3 after accepted recipients is not a failure: the rest goes at once in a new transaction.
#[test]
fn too_many_recipients_go_in_several_transactions() {
    let (sink, lockgate) = holding();
    let paths: Vec<String> = (0..25).map(|n| format!("<m{n:02}@x.test>")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    Client::open(lockgate.outbound()).deliver(&Mail::short("m", 1).to(&paths));
    let full = |seen: tests::sink::Seen<'_>| seen.rcpt_lines.len() >= 10;
    sink.script(Rule::reply(Stage::Rcpt, "452 4.5.3 too many recipients").when(full));
    lockgate.release("outbound");
    sink.wait_for(3, LONG);
    lockgate.wait_until_empty(LONG);
    let sizes: Vec<usize> = sink.taken().iter().map(|found| found.rcpt_lines.len()).collect();
    assert_eq!(sizes, [10, 10, 5]);
    let all: HashSet<String> =
        sink.taken().iter().flat_map(|found| found.rcpt_lines.clone()).collect();
    assert_eq!(all.len(), 25);
}

/// Goal: a new server that lacks a route makes no flood of DSNs: refused mail is kept, five in a
/// row pause the replay with an alarm, and a person decides.
#[test]
fn five_refusals_in_a_row_pause_the_replay_and_nothing_bounces() {
    let reports = Sink::start("mta.test");
    let sink = Sink::start("sink.test");
    let gate = Gate::to("outbound", sink.address())
        .set("dsn_next_hop", &format!("\"{}\"", reports.address()));
    let lockgate = Settings::with([gate]).start();
    lockgate.meet("outbound", &sink);
    lockgate.hold("outbound");
    hold_some(&lockgate, "b", 0, 40);
    sink.script(Rule::reply(Stage::Rcpt, "550 5.7.1 relaying denied"));
    lockgate.ok(&["release", "outbound", "--connections", "1"]);
    wait::until_true("paused", LONG, || replay(&lockgate)["state"] == "paused");
    let alarms = lockgate.alarms();
    assert!(alarms.iter().any(|alarm| alarm.contains("replay")), "{alarms:?}");
    let refused = lockgate.held().iter().filter(|m| m["state"] == "refused").count();
    assert!((5..=8).contains(&refused), "paused after {refused}");
    assert_eq!(lockgate.held().len(), 40, "all is kept");
    assert_eq!(reports.dots(), 0, "no report to anybody");

    sink.behave();
    lockgate.ok(&["replay", "continue", "outbound"]);
    sink.wait_for(40 - refused, LONG);
    lockgate.ok(&["held", "retry", "--all", "--state", "refused"]);
    sink.wait_for(40, LONG);
    lockgate.wait_until_empty(LONG);
    assert!(sink.copies().values().all(|&copies| copies == 1));
}

/// `held fail` turns a refused forward-path into a DSN (RFC 3464) with what the sender asked for
/// (RFC 3461); none for a null reverse-path or NOTIFY=NEVER.
#[test]
fn held_fail_reports_to_the_sender_as_asked() {
    let reports = Sink::start("mta.test");
    let sink = Sink::start("sink.test");
    let gate = Gate::to("outbound", sink.address())
        .set("dsn_next_hop", &format!("\"{}\"", reports.address()));
    let lockgate = Settings::with([gate]).start();
    lockgate.meet("outbound", &sink);
    lockgate.hold("outbound");
    let mut client = Client::open(lockgate.outbound());
    client.deliver(
        &Mail::short("dsn", 1)
            .from("<sender@client.test> RET=FULL ENVID=QQ314+2B59")
            .to(&["<no1@x.test> ORCPT=rfc822;orig+2Binal@x.test NOTIFY=FAILURE", "<yes@x.test>"]),
    );
    client.deliver(&Mail::short("dsn", 2).from("<>").to(&["<no2@x.test>"]));
    client.deliver(&Mail::short("dsn", 3).to(&["<no3@x.test> NOTIFY=NEVER"]));
    client.deliver(&Mail::short("dsn", 4).to(&["<no4@x.test> NOTIFY=SUCCESS"]));
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 there is nobody here").about("<no"));
    lockgate.release("outbound");
    lockgate.wait_for_state("refused", 4, LONG);
    assert_eq!(reports.dots(), 0);
    lockgate.ok(&["held", "fail", "--all", "--state", "refused"]);
    reports.wait_for(1, LONG);
    lockgate.wait_until_empty(LONG);
    assert!(wait::stays(Duration::from_millis(500), || reports.dots() == 1));

    let report = reports.taken().remove(0);
    assert!(report.mail_line.starts_with("MAIL FROM:<>"), "{}", report.mail_line);
    assert_eq!(report.forward_paths(), ["sender@client.test"]);
    let content = String::from_utf8(lax::unstuffed(&report.data)).unwrap();
    let kind = mail::field(&report.data, "Content-Type").unwrap();
    assert!(kind.contains("multipart/report") && kind.contains("delivery-status"), "{kind}");
    for part in [
        "Original-Envelope-Id: QQ314+59",
        "Original-Recipient: rfc822;orig+inal@x.test",
        "Final-Recipient: rfc822;no1@x.test",
        "Action: failed",
        "Status: 5.1.1",
        "there is nobody here",
        "a message of a story",
    ] {
        assert!(content.replace("; ", ";").contains(part), "{part:?} is missing in\n{content}");
    }
    assert!(!content.contains("yes@x.test"), "only what failed is reported");
    let body = String::from_utf8(mail::body(&Mail::short("dsn", 1).data).to_vec()).unwrap();
    assert!(!content.contains(body.lines().next().unwrap()), "headers only");
}

#[test]
fn an_undeliverable_report_is_kept_and_shown() {
    let reports = Sink::start("mta.test");
    reports.script(Rule::reply(Stage::Rcpt, "550 5.1.1 no such sender"));
    let sink = Sink::start("sink.test");
    let gate = Gate::to("outbound", sink.address())
        .set("dsn_next_hop", &format!("\"{}\"", reports.address()))
        .set("bounce", "\"auto\"");
    let lockgate = Settings::with([gate]).start();
    lockgate.meet("outbound", &sink);
    lockgate.hold("outbound");
    hold_some(&lockgate, "k", 1, 1);
    sink.script(Rule::reply(Stage::End, "554 5.6.0 not this"));
    lockgate.release("outbound");
    // Until its report is stored, the message itself is the one that was refused.
    let report = wait::until("a refused report", LONG, || {
        let held = lockgate.wait_for_state("refused", 1, LONG);
        held.into_iter().find(|message| message["dsn"] == true)
    });
    reports.behave();
    lockgate.ok(&["held", "retry", &text(&report, "id")]);
    reports.wait_for(1, LONG);
    lockgate.wait_until_empty(LONG);
}

/// Mail that needs what the member no longer offers is kept, shown, and named at the release.
#[test]
fn mail_that_needs_what_the_member_no_longer_offers_is_blocked() {
    let (sink, lockgate) = holding();
    let mut client = Client::open(lockgate.outbound());
    client.deliver(&Mail::new("b", 1, Kind::EightBit));
    client.deliver(&Mail::new("b", 2, Kind::Utf8));
    client.deliver(&Mail::new("b", 3, Kind::Attachment(400_000)));
    client.deliver(&Mail::short("b", 4));
    sink.offer(&["PIPELINING", "SIZE 300000"]);
    lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "5s"]);
    wait::until_true("idle connections are closed", LONG, || sink.open_connections() == 0);
    lockgate.release("outbound");
    sink.wait_for(1, LONG);
    lockgate.wait_for_state("blocked", 3, LONG);
    assert_eq!(sink.count(), 1);
    for message in lockgate.held() {
        let reply = message["forward_paths"][0]["reply"].to_string();
        let need = ["8BITMIME", "SMTPUTF8", "SIZE"].iter().any(|need| reply.contains(need));
        assert!(need, "{message}");
    }
    lockgate.hold("outbound");
    let answer = lockgate.cli(&["release", "outbound"]);
    assert!(answer.said().contains("SMTPUTF8"), "named at the release: {answer:?}");

    sink.offer(&FULL_OFFER);
    wait::until_true("idle connections are closed", LONG, || {
        lockgate.hold("outbound");
        sink.open_connections() == 0
    });
    lockgate.release("outbound");
    lockgate.ok(&["held", "retry", "--all", "--state", "blocked"]);
    sink.wait_for(4, LONG);
    lockgate.wait_until_empty(LONG);
}

/// Push-back (421, 4yz to MAIL) slows replay down and loses nothing; then it gains speed again.
#[test]
fn push_back_slows_the_replay_and_loses_nothing() {
    let (sink, lockgate) = holding();
    let mails = hold_some(&lockgate, "q", 0, 120);
    sink.script(Rule::reply(Stage::Mail, "421 4.7.0 too fast").times(3));
    sink.script(Rule::reply(Stage::End, "451 4.3.1 no space").times(2));
    lockgate.release("outbound");
    wait::until_true("each was tried", Duration::from_secs(60), || {
        replay(&lockgate)["remaining_first"] == 0
    });
    lockgate.cli(&["held", "retry", "--all", "--gate", "outbound"]);
    sink.wait_for(mails.len(), LONG);
    lockgate.wait_until_empty(LONG);
    assert!(sink.copies().values().all(|&copies| copies == 1));
}

#[test]
fn held_mail_is_found_filtered_removed_and_retried() {
    let (sink, lockgate) = holding();
    let mut client = Client::open(lockgate.outbound());
    for (n, from) in
        [(1, "<alice@client.test>"), (2, "<bob@client.test>"), (3, "<alice@client.test>")]
    {
        client.deliver(&Mail::short("f", n).from(from));
    }
    let list = |arguments: &[&str]| {
        let all = [&["held", "list", "-o", "json"], arguments].concat();
        lockgate.ok(&all).json_lines()
    };
    assert_eq!(list(&["--sender", "alice"]).len(), 2);
    assert_eq!(list(&["--recipient", "f-00002"]).len(), 1);
    assert_eq!(list(&["--message-id", "f.00003"]).len(), 1);
    assert_eq!(list(&["--gate", "outbound"]).len(), 3);
    assert_eq!(list(&["--state", "refused"]).len(), 0);
    assert_eq!(list(&["--older-than", "1h"]).len(), 0);
    assert_eq!(list(&["--sender", "alice", "--recipient", "f-00003"]).len(), 1);
    assert_eq!(lockgate.ok(&["held", "find", "f.00002", "-o", "json"]).json_lines().len(), 1);
    lockgate.cli(&["held", "find", "nobody"]).expect(2);

    let all = ids(&lockgate);
    lockgate.cli(&["held", "remove", &all[0]]).expect(1);
    lockgate.ok(&["held", "remove", &all[0], "--reason", "a test message"]);
    assert_eq!(lockgate.held().len(), 2);
    assert!(!lockgate.log_lines(&[&all[0], "a test message"]).is_empty(), "recorded");
    lockgate.ok(&["held", "remove", "--all", "--sender", "bob", "--reason", "spam"]);
    lockgate.cli(&["held", "show", &all[0]]).expect(1);
    lockgate.release("outbound");
    sink.wait_for(1, LONG);
    lockgate.wait_until_empty(LONG);
    assert_eq!(sink.copies().into_keys().collect::<Vec<_>>(), [Mail::short("f", 3).key()]);
}

#[test]
fn a_removed_message_stays_removed_after_kill_minus_nine() {
    let (sink, mut lockgate) = holding();
    hold_some(&lockgate, "x", 0, 3);
    lockgate.ok(&["held", "remove", &ids(&lockgate)[1], "--reason", "a story"]);
    lockgate.kill();
    lockgate.serve();
    assert_eq!(lockgate.held().len(), 2);
    lockgate.release("outbound");
    sink.wait_for(2, LONG);
    assert!(!sink.copies().contains_key(Mail::short("x", 1).key()));
}

#[test]
fn the_spool_can_be_read_without_the_daemon() {
    let (_sink, mut lockgate) = holding();
    hold_some(&lockgate, "off", 0, 3);
    let online = lockgate.held();
    let folder = lockgate.data();
    let offline = ["held", "--offline", folder.to_str().unwrap(), "list", "-o", "json"];
    lockgate.stop();
    let found = lockgate.run(&offline).expect(0).json_lines();
    assert_eq!(found.len(), 3);
    for (offline, online) in found.iter().zip(&online) {
        for name in ["id", "gate", "reverse_path", "size"] {
            assert_eq!(offline[name], online[name], "{name}");
        }
    }
    lockgate.serve();
    assert_eq!(lockgate.held().len(), 3, "reading changed nothing");
}

/// Lifetime counts the time while release was open, not the clock and not the time on hold.
#[test]
fn time_on_hold_does_not_count_towards_the_lifetime() {
    let sink = Sink::start("sink.test");
    let settings = Settings::with([Gate::to("outbound", sink.address())]);
    let lockgate = settings.set("replay", "lifetime_s", "2").start();
    lockgate.meet("outbound", &sink);
    lockgate.hold("outbound");
    hold_some(&lockgate, "old", 0, 1);
    // Held for longer than its lifetime: that is the claim.
    wait::let_pass(Duration::from_secs(3));
    sink.script(Rule::reply(Stage::Rcpt, "451 4.2.1 busy").times(1));
    lockgate.release("outbound");
    lockgate.wait_for_state("deferred", 1, LONG);
    lockgate.cli(&["held", "retry", "--all", "--gate", "outbound"]);
    sink.wait_for(1, LONG);
    lockgate.wait_until_empty(LONG);
}

#[test]
fn xforward_in_replay_names_the_client_that_gave_us_the_message() {
    let offer =
        [FULL_OFFER.as_slice(), &["XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"]].concat();
    let sink = Sink::start_offering("sink.test", &offer);
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    let mut client =
        Client::try_open(lockgate.outbound(), Some("127.0.0.9".parse().unwrap())).unwrap();
    let reply = client.deliver(&Mail::short("xf", 1));
    let id = reply.text().split(' ').nth(3).unwrap().to_owned();
    lockgate.release("outbound");
    sink.wait_for(1, LONG);
    let found = sink.one(Mail::short("xf", 1).key());
    assert_eq!((found.xforward["ADDR"].as_str(), &found.xforward["IDENT"]), ("127.0.0.9", &id));
    assert_eq!(found.xforward["HELO"], "client.test");
    let trace = mail::field(&found.data, "Received").unwrap();
    assert!(trace.contains("127.0.0.9") && trace.contains(&id), "{trace}");
}

/// Nothing waits for another message: a slow one does not stop the rest.
#[test]
fn a_slow_message_does_not_stop_the_others() {
    let (sink, lockgate) = holding();
    hold_some(&lockgate, "sl", 0, 50);
    sink.script(Rule::at(Stage::End, Action::Hold).about("sl-00000"));
    lockgate.ok(&["release", "outbound", "--connections", "4"]);
    wait::until_true("49 are out", LONG, || sink.count() == 49);
    sink.let_go();
    sink.wait_for(50, LONG);
}

#[test]
fn two_gates_are_held_and_released_apart() {
    let (one, two) = (Sink::start("one.test"), Sink::start("two.test"));
    let lockgate = Settings::with([
        Gate::new("outbound").member(Member::new("sems1", one.address())),
        Gate::new("inbound").member(Member::new("sems2", two.address())),
    ])
    .start();
    lockgate.ok(&["hold", "--all", "--reason", "a story"]);
    Client::open(lockgate.gate("outbound")).deliver(&Mail::short("a", 1));
    Client::open(lockgate.gate("inbound")).deliver(&Mail::short("b", 1));
    lockgate.release("inbound");
    two.wait_for(1, LONG);
    assert!(wait::stays(Duration::from_millis(500), || one.dots() == 0));
    lockgate.release("outbound");
    one.wait_for(1, LONG);
    assert_eq!((one.count(), two.count()), (1, 1));
}

/// A lax next hop written by others takes a replay as it takes a pass.
#[test]
fn an_independent_lax_next_hop_takes_pass_and_replay() {
    let lax = lax::Lax::start("lax.test", 16);
    let gate = Gate::to("outbound", lax.address());
    let lockgate = Settings::with([gate]).start();
    let kinds =
        [Kind::Text(500), Kind::Dots, Kind::EightBit, Kind::HeaderOnly, Kind::Text(100_000)];
    let mails: Vec<Mail> =
        kinds.into_iter().enumerate().map(|(n, k)| Mail::new("lx", n, k)).collect();
    Client::open(lockgate.outbound()).deliver(&mails[0]);
    let rest = &mails[1..];
    let (passed, held) = rest.split_at(2);
    for mail in passed {
        let receipt = Client::open(lockgate.outbound()).transaction(mail, Style::Pipelined);
        assert!(receipt.accepted(), "{receipt:?}");
    }
    lockgate.hold("outbound");
    for mail in held {
        Client::open(lockgate.outbound()).deliver(mail);
    }
    lockgate.release("outbound");
    let received = lax.wait_for(mails.len(), LONG);
    for mail in &mails {
        let found: Vec<_> = received.iter().filter(|r| r.forward_paths == [mail.key()]).collect();
        assert_eq!(found.len(), 1, "{}", mail.key());
        assert!(found[0].content.ends_with(&lax::unstuffed(&mail.data)), "{}", mail.key());
    }
}
