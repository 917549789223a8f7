//! Uncertain: the final dot was sent and the reply never came.
//!
//! Whether the next hop has the message cannot be known from here; so it is never tried again by
//! itself before it is settled, and it is always listed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a story damages files behind lockgate's back")]

use std::fs;
use std::time::Duration;

use tests::client::Client;
use tests::lockgate::{Gate, Lockgate, Settings, states, text};
use tests::mail::Mail;
use tests::sink::{Action, Rule, Sink, Stage};
use tests::wait::{self, LONG};

fn holding(settle: &str, after_s: &str) -> (Sink, Lockgate) {
    let sink = Sink::start("sink.test");
    let gate = Gate::to("outbound", sink.address())
        .set("settle", &format!("{settle:?}"))
        .set("settle_after_s", after_s);
    let lockgate = Settings::with([gate]).start();
    lockgate.meet("outbound", &sink);
    lockgate.hold("outbound");
    (sink, lockgate)
}

#[test]
fn a_lost_final_reply_makes_a_replayed_message_uncertain_not_due() {
    for taking in [true, false] {
        let (sink, lockgate) = holding("ask", "1");
        let mut client = Client::open(lockgate.outbound());
        client.deliver(&Mail::short("u", 1).to(&["<a@x.test>", "<b@x.test>"]));
        client.deliver(&Mail::short("u", 2));
        let lost = Rule::at(Stage::End, Action::Close).about("a@x.test").times(1);
        sink.script(if taking { lost.taking() } else { lost });
        lockgate.release("outbound");
        let held = lockgate.wait_for_state("uncertain", 1, LONG);
        assert_eq!(states(&held[0]), ["uncertain", "uncertain"]);
        wait::until_true("the other one is out", LONG, || {
            sink.copies().contains_key(Mail::short("u", 2).key())
        });
        assert!(!lockgate.alarms().is_empty(), "and it is told");
        // Twice the time after which another rule would send it again.
        assert!(wait::stays(Duration::from_secs(2), || sink.dots() == 2), "never by itself");

        let id = text(&held[0], "id");
        if taking {
            lockgate.ok(&["held", "delivered", &id]);
        } else {
            lockgate.ok(&["held", "retry", &id]);
        }
        lockgate.wait_until_empty(LONG);
        assert_eq!(sink.copies()["a@x.test"], 1, "settled rightly: one copy");
    }
}

#[test]
fn the_rule_resend_sends_it_again_after_its_time_and_not_before() {
    let (sink, lockgate) = holding("resend", "3");
    Client::open(lockgate.outbound()).deliver(&Mail::short("u", 1));
    sink.script(Rule::at(Stage::End, Action::Reset).taking().times(1));
    lockgate.release("outbound");
    lockgate.wait_for_state("uncertain", 1, LONG);
    assert!(wait::stays(Duration::from_secs(1), || sink.dots() == 1), "not before its time");
    sink.wait_for(2, LONG);
    lockgate.wait_until_empty(LONG);
    assert_eq!(sink.copies()[Mail::short("u", 1).key()], 2, "a duplicate, not a loss");
    assert!(!lockgate.log_lines(&["uncertain", "u-00001"]).is_empty(), "and listed");
}

/// Goal: a crash between the final dot and its reply leaves the message uncertain, never due.
/// Method: the next hop holds its reply back; kill -9; start; nothing is sent again.
#[test]
fn kill_minus_nine_after_the_final_dot_leaves_it_uncertain() {
    let (sink, mut lockgate) = holding("ask", "1");
    let mut client = Client::open(lockgate.outbound());
    for n in 0..4 {
        client.deliver(&Mail::short("k", n));
    }
    sink.script(Rule::at(Stage::End, Action::Hold).about("k-00000"));
    lockgate.ok(&["release", "outbound", "--connections", "1"]);
    sink.wait_for_holding(1);
    lockgate.kill();
    sink.let_go();
    lockgate.serve();
    wait::until_true("the others are out", LONG, || sink.copies().len() >= 3);
    let held = lockgate.wait_for_state("uncertain", 1, LONG);
    assert_eq!(held[0]["forward_paths"][0]["address"], Mail::short("k", 0).key());
    assert!(wait::stays(Duration::from_secs(2), || sink.dots() == 4), "not sent again");
    lockgate.restart();
    lockgate.wait_for_state("uncertain", 1, LONG);
}

/// A crash before the final dot is no doubt: the message is due again, and arrives once.
#[test]
fn kill_minus_nine_before_the_final_dot_is_not_uncertain() {
    let (sink, mut lockgate) = holding("ask", "1");
    Client::open(lockgate.outbound()).deliver(&Mail::short("b", 1));
    sink.script(Rule::at(Stage::Data, Action::Hold).times(1));
    lockgate.release("outbound");
    sink.wait_for_holding(1);
    lockgate.kill();
    sink.let_go();
    lockgate.serve();
    sink.wait_for(1, LONG);
    lockgate.wait_until_empty(LONG);
    assert_eq!(sink.copies()[Mail::short("b", 1).key()], 1);
}

/// Goal: lost marks mean uncertain, never due: what was sent before is not sent twice.
/// Method: some of a segment's messages are delivered, then its file of marks is lost.
#[test]
fn without_its_marks_a_segment_is_uncertain_as_a_whole() {
    for truncated in [false, true] {
        let (sink, mut lockgate) = holding("ask", "1");
        let mut client = Client::open(lockgate.outbound());
        for n in 0..6 {
            client.deliver(&Mail::short("m", n));
        }
        let segment = lockgate.segments().pop().unwrap();
        lockgate.ok(&["release", "outbound", "--first", "3", "--wait", "--timeout", "20s"]);
        sink.wait_for(3, LONG);
        lockgate.wait_for_held(3, LONG);
        lockgate.stop();
        let marks = segment.with_extension("marks");
        if truncated {
            fs::write(&marks, &fs::read(&marks).unwrap()[..7]).unwrap();
        } else {
            fs::remove_file(&marks).unwrap();
        }
        lockgate.serve();
        let held = lockgate.held();
        assert_eq!(held.len(), 6, "which were delivered cannot be known");
        assert!(held.iter().all(|message| message["state"] == "uncertain"), "{held:#?}");
        lockgate.release("outbound");
        assert!(wait::stays(Duration::from_secs(2), || sink.dots() == 3), "nothing goes twice");
    }
}

#[test]
fn in_pass_an_uncertain_outcome_is_the_clients_to_decide() {
    let (sink, lockgate) = holding("ask", "1");
    lockgate.release("outbound");
    lockgate.wait_for_mode("outbound", "pass", LONG);
    sink.script(Rule::at(Stage::End, Action::Close).taking().times(1));
    let mail = Mail::short("p", 1);
    let receipt =
        Client::open(lockgate.outbound()).transaction(&mail, tests::client::Style::LockStep);
    let end = receipt.end.unwrap();
    assert_eq!((end.code, end.text().split(' ').next().unwrap()), (451, "4.4.2"));
    assert!(lockgate.held().is_empty(), "nothing is kept: custody stayed with the client");
    assert_eq!(lockgate.log_lines(&["uncertain", "p-00001"]).len(), 1);
}
