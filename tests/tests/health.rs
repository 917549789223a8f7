//! The next hop goes away, comes back, or is another: what lockgate does by itself, and what only
//! a person may do.
//!
//! A freshly installed server answers 250 and sends clear text, so a changed identity never gets
//! mail before a person has looked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::time::Duration;

use tests::client::{Client, Style};
use tests::lockgate::{Gate, Lockgate, Settings};
use tests::mail::Mail;
use tests::sink::{Rule, Sink, Stage};
use tests::wait::{self, LONG};

fn before(sink: &Sink, on_unreachable: &str) -> Lockgate {
    let gate =
        Gate::to("outbound", sink.address()).set("on_unreachable", &format!("{on_unreachable:?}"));
    let lockgate = Settings::with([gate]).start();
    lockgate.meet("outbound", sink);
    lockgate
}

/// Sends until it is accepted: what an MTA does.
fn queue(lockgate: &Lockgate, mail: &Mail) {
    wait::until_true("the message is accepted", LONG, || {
        Client::open(lockgate.outbound()).transaction(mail, Style::LockStep).accepted()
    });
}

#[test]
fn with_hold_an_outage_is_held_through_and_replayed_by_itself() {
    let mut sink = Sink::start("sink.test");
    let lockgate = before(&sink, "hold");
    sink.stop();
    for n in 0..5 {
        queue(&lockgate, &Mail::short("o", n));
    }
    assert_eq!(lockgate.mode("outbound"), "hold");
    let orders = lockgate.ok(&["orders", "list", "-o", "json"]).json_lines();
    assert_eq!(orders[0]["holder"]["kind"], "health", "{orders:?}");
    sink.start_again("sink.test");
    sink.wait_for(5, LONG);
    lockgate.wait_for_mode("outbound", "pass", LONG);
    assert!(sink.copies().values().all(|&copies| copies == 1));
}

/// The order of the health check survives a restart of lockgate, and so does its end.
#[test]
fn an_outage_outlasts_a_restart_of_lockgate() {
    let mut sink = Sink::start("sink.test");
    let mut lockgate = before(&sink, "hold");
    sink.stop();
    queue(&lockgate, &Mail::short("o", 1));
    lockgate.kill();
    lockgate.serve();
    assert_eq!(lockgate.mode("outbound"), "hold");
    queue(&lockgate, &Mail::short("o", 2));
    sink.start_again("sink.test");
    sink.wait_for(2, LONG);
}

#[test]
fn with_refuse_an_outage_is_451_and_ends_with_the_server_back() {
    let mut sink = Sink::start("sink.test");
    let lockgate = before(&sink, "refuse");
    sink.stop();
    let receipt =
        Client::open(lockgate.outbound()).transaction(&Mail::short("o", 1), Style::LockStep);
    assert_eq!(receipt.mail.unwrap().code, 451);
    assert_eq!(lockgate.mode("outbound"), "pass", "no order is needed");
    sink.start_again("sink.test");
    queue(&lockgate, &Mail::short("o", 1));
    assert_eq!(sink.count(), 1);
}

/// A longer outage under `hold` ends in a cordon: a person looks first.
#[test]
fn after_a_long_outage_a_person_decides() {
    let mut sink = Sink::start("sink.test");
    let gate = Gate::to("outbound", sink.address())
        .set("on_unreachable", "\"hold\"")
        .set("health_outage_max_s", "1");
    let lockgate = Settings::with([gate]).start();
    lockgate.meet("outbound", &sink);
    sink.stop();
    queue(&lockgate, &Mail::short("o", 1));
    // The outage must outlast its limit: that is the claim.
    wait::let_pass(Duration::from_millis(2_500));
    sink.start_again("sink.test");
    wait::until_true("the member is cordoned", LONG, || {
        lockgate.member_status()["cordoned"] == true
    });
    assert_eq!(lockgate.mode("outbound"), "hold", "no member is free: held");
    queue(&lockgate, &Mail::short("o", 2));
    assert!(wait::stays(Duration::from_secs(2), || sink.count() == 0));
    lockgate.ok(&["probe", "outbound", "--to", "probe@x.test"]);
    lockgate.cli(&["uncordon", "outbound", "sems1", "--force", "--reason", "looked"]).expect(0);
    lockgate.cli(&["release", "outbound"]);
    sink.wait_for(3, LONG);
}

/// Goal: another server in the place of the known one gets no mail.
/// Method: the same port answers under another host name; pass stops, the member is cordoned by a
/// durable order, mail is held; release needs a passed probe.
#[test]
fn a_server_of_another_identity_gets_no_mail_before_a_probe() {
    for on_unreachable in ["refuse", "hold"] {
        let mut sink = Sink::start("old.test");
        let mut lockgate = before(&sink, on_unreachable);
        assert!(lockgate.member_status()["identity"].to_string().contains("old.test"));
        sink.stop();
        sink.start_again("new.test");
        queue(&lockgate, &Mail::short("i", 1));
        assert_eq!(sink.count(), 0, "held, not given to the stranger");
        assert_eq!(lockgate.member_status()["cordoned"], true);
        assert!(!lockgate.alarms().is_empty());
        lockgate.restart();
        assert_eq!(lockgate.member_status()["cordoned"], true, "durable");

        // Without a probe nothing goes, whoever asks.
        let answer = lockgate.cli(&["release", "outbound"]);
        assert_ne!(answer.code, 0, "{answer:?}");
        assert!(wait::stays(Duration::from_secs(1), || sink.count() == 0));

        // A refused probe proves nothing.
        sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 not yet").times(1));
        lockgate.cli(&["probe", "outbound", "--to", "probe@x.test"]).expect(2);
        assert_ne!(lockgate.cli(&["release", "outbound"]).code, 0);

        let probe =
            lockgate.ok(&["probe", "outbound", "--to", "probe@x.test", "-o", "json"]).json();
        assert_eq!(probe["members"][0]["identity_changed"], true, "{probe}");
        lockgate.cli(&["release", "outbound"]);
        lockgate.cli(&["uncordon", "outbound", "sems1", "--force", "--reason", "probed"]);
        sink.wait_for(2, LONG);
        lockgate.wait_for_mode("outbound", "pass", LONG);
        assert!(lockgate.member_status()["identity"].to_string().contains("new.test"));
        queue(&lockgate, &Mail::short("i", 2));
        assert_eq!(sink.one(Mail::short("i", 2).key()).server, "new.test");
    }
}

#[test]
fn release_to_a_changed_member_unchecked_needs_a_reason() {
    let mut sink = Sink::start("old.test");
    let lockgate = before(&sink, "hold");
    lockgate.hold("outbound");
    sink.stop();
    sink.start_again("new.test");
    queue(&lockgate, &Mail::short("u", 1));
    lockgate.cli(&["release", "outbound"]);
    wait::until_true("the stranger is noticed", LONG, || {
        lockgate.member_status()["cordoned"] == true
    });
    assert_eq!(sink.count(), 0);
    lockgate.cli(&["release", "outbound", "--unchecked"]).expect(1);
    assert_eq!(sink.count(), 0);
    lockgate.cli(&["release", "outbound", "--unchecked", "--reason", "a rehearsal"]).expect(0);
    sink.wait_for(1, LONG);
}

#[test]
fn a_member_never_seen_is_learned() {
    let mut sink = Sink::prepared("first.test", &tests::sink::FULL_OFFER);
    let lockgate = Settings::with([Gate::to("outbound", sink.address())]).start();
    assert_eq!(lockgate.member_status()["identity"], serde_json::Value::Null);
    sink.start_again("first.test");
    queue(&lockgate, &Mail::short("l", 1));
    assert!(lockgate.member_status()["identity"].to_string().contains("first.test"));
}

#[test]
fn probe_says_accepted_refused_or_no_answer() {
    let mut sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let answer = lockgate.ok(&["probe", "outbound", "--to", "p@x.test", "-o", "json"]).json();
    assert_eq!(answer["members"][0]["accepted"], true, "{answer}");
    let id = answer["members"][0]["message_id"].as_str().unwrap();
    let found = sink.one("p@x.test");
    assert_eq!(tests::mail::field(&found.data, "Message-ID").unwrap(), id);
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody"));
    lockgate.cli(&["probe", "outbound", "--to", "q@x.test"]).expect(2);
    sink.stop();
    lockgate.cli(&["probe", "outbound", "--to", "r@x.test"]).expect(3);
}

#[test]
fn a_cordoned_member_gets_nothing_new() {
    let one = Sink::start("one.test");
    let two = Sink::start("two.test");
    let gate = Gate::new("outbound")
        .member(tests::lockgate::Member::new("sems1", one.address()))
        .member(tests::lockgate::Member::new("sems2", two.address()));
    let lockgate = Settings::with([gate]).start();
    lockgate.ok(&["cordon", "outbound", "sems1", "--reason", "a story"]);
    let mut client = Client::open(lockgate.outbound());
    for n in 0..4 {
        client.deliver(&Mail::short("c", n));
    }
    assert_eq!((one.count(), two.count()), (0, 4));
    lockgate.ok(&["cordon", "outbound", "sems2", "--reason", "a story"]);
    assert!(client.deliver(&Mail::short("c", 4)).text().contains("held as"), "none is free");
    lockgate.ok(&["uncordon", "outbound", "sems1", "--reason", "a story"]);
    one.wait_for(1, LONG);
    assert_eq!(two.count(), 4);
}
