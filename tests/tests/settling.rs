//! Uncertain mail is settled by evidence: each message arrives once, although the server's replies are lost.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::thread;
use std::time::Duration;

use tests::client::{Client, Style};
use tests::lockgate::{Gate, Settings};
use tests::lossy::{Lossy, Share};
use tests::mail::Mail;
use tests::postfix;
use tests::sink::Sink;
use tests::wait;

/// Messages in replay.
const MESSAGES: usize = 10_000;

/// Of a hundred final replies, so many are lost.
const LOST_PER_CENT: usize = 30;

/// Longest wait for all of them.
const ALL: Duration = Duration::from_secs(400);

/// Goal: exactly once. Nothing is lost and nothing doubled, while three of ten final replies never come.
/// Method: a real Postfix takes the mail behind a relay that cuts the link after its 2yz; what left Postfix is counted
/// behind it. The rule that would send again after a time is far away, so only evidence can settle.
#[test]
fn ten_thousand_messages_arrive_once_although_a_third_of_the_replies_is_lost() {
    let mta = Sink::start("mta.test");
    let server = postfix::Settings::relaying("server.test", mta.address()).start();
    let lossy = Lossy::start(server.address(), Share::None);
    let outbound = Gate::to("outbound", lossy.address())
        .set("settle", "\"ask\"")
        .set("settle_after_s", "86400");
    let log = server.log_path();
    let lockgate = Settings::with([outbound])
        .set("replay", "messages_per_second_max", "2000.0")
        .set("replay", "pause_first_ms", "5")
        .set("[maillog]", "name", "\"server-log\"")
        .set("[maillog]", "member", "\"sems1\"")
        .set("[maillog]", "dialect", "\"postfix\"")
        .set("[maillog]", "zone", "\"UTC\"")
        .set("[maillog]", "leaves", "[\"127.0.0.1\"]")
        .set("[maillog]", "file", &format!("{log:?}"))
        .start();
    let mut client = Client::open(lockgate.outbound());
    client.deliver(&Mail::short("meet", 0));
    mta.wait_for(1, wait::LONG);
    mta.forget();
    lockgate.hold("outbound");
    let address = lockgate.outbound();
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            thread::spawn(move || {
                let mut client = Client::open(address);
                for number in (sender..MESSAGES).step_by(4) {
                    let mail = Mail::short("once", number);
                    assert!(client.transaction(&mail, Style::Pipelined).accepted());
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    lossy.lose(Share::Random { per_cent: LOST_PER_CENT, seed: 42 });
    lockgate.ok(&["release", "outbound"]);
    let settled = |by: &str| {
        let labels = [("gate", "outbound"), ("by", by)];
        lockgate.metrics().value("lockgate_settled_total", &labels).unwrap_or(0.0)
    };
    wait::until_true("nothing is held", ALL, || {
        let status = lockgate.gate_status("outbound");
        let held = &status["held"];
        ["held", "deferred", "uncertain"].iter().all(|state| held[state] == 0)
    });
    mta.wait_for(MESSAGES, ALL);
    server.wait_until_empty(ALL);
    let copies = mta.copies();
    assert_eq!(copies.len(), MESSAGES, "none lost");
    let doubled: Vec<_> = copies.iter().filter(|(_, copies)| **copies != 1).collect();
    assert!(doubled.is_empty(), "none doubled: {doubled:?}");
    let lost = lossy.lost().len();
    assert!(lost > MESSAGES / 5, "{lost} replies were lost");
    #[allow(clippy::cast_precision_loss, reason = "counted, not measured")]
    let lost = lost as f64;
    assert!((settled("evidence") - lost).abs() < f64::EPSILON, "{} of {lost}", settled("evidence"));
    assert!(settled("rule") + settled("person") < 1.0);
}
