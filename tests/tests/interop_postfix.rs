//! With real mail servers: Postfix in front as the MTA, Postfix behind as the server, its mail
//! back through a return gate.
//!
//!     client → front → gate outbound → behind → gate back → mta (sink)
//!
//! Bodies are compared, not whole messages: each Postfix adds its own trace field.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use tests::client::{Client, Style};
use tests::load::Load;
use tests::lockgate::{Gate, Lockgate, Member};
use tests::mail::{self, Kind, Mail, WELL_FORMED};
use tests::port;
use tests::postfix::{Postfix, Settings};
use tests::sink::Sink;
use tests::wait::{self, LONG};

const MINUTE: Duration = Duration::from_secs(60);

/// Everything between a client and the sink.
struct Route {
    front: Postfix,
    lockgate: Lockgate,
    behind: Postfix,
    mta: Sink,
}

impl Route {
    fn start(on_unreachable: &str, behind: impl FnOnce(Settings) -> Settings) -> Self {
        let mta = Sink::start("mta.test");
        let server: SocketAddr = port::free_address();
        let lockgate = tests::lockgate::Settings::with([
            Gate::to("outbound", server).set("on_unreachable", &format!("{on_unreachable:?}")),
            Gate::new("back")
                .member(Member::new("mta", mta.address()))
                .set("returns", "\"outbound\""),
        ])
        .start();
        let back = lockgate.gate("back");
        let behind = behind(Settings::relaying("behind.test", back).listening_at(server)).start();
        let front = Settings::relaying("front.test", lockgate.outbound()).start();
        // What a member never seen would offer is not known, and SMTPUTF8 mail bounces without.
        wait::until_true("every member was met", LONG, || {
            let met =
                |gate: &str| lockgate.gate_status(gate)["members"][0]["extensions"].is_string();
            met("outbound") && met("back")
        });
        Self { front, lockgate, behind, mta }
    }

    /// Gives messages to the front and waits until it has handed them on.
    fn send(&self, mails: &[Mail]) {
        Load::to(self.front.address()).all_accepted(mails);
        self.front.wait_until_empty(MINUTE);
    }

    /// Stops the server once it has forgotten what it delivered: one that is stopped before may
    /// deliver it again.
    fn stop_behind(&mut self) {
        self.behind.wait_until_empty(MINUTE);
        self.behind.stop();
    }

    fn assert_arrived(&self, mails: &[Mail]) {
        for mail in mails {
            let found = self.mta.one(mail.key());
            assert!(mail::body(&found.data) == mail::body(&mail.data), "{}", mail.key());
            assert_eq!(mail::field(&found.data, "Message-ID"), mail.message_id());
            let traces = mail::fields(&found.data)
                .filter(|field| field.starts_with(b"Received:"))
                .map(|field| String::from_utf8_lossy(field).into_owned())
                .collect::<Vec<_>>();
            let ours = traces.iter().filter(|trace| trace.contains("(lockgate)")).count();
            assert_eq!((traces.len(), ours), (4, 2), "front, gate, behind, gate: {traces:#?}");
        }
    }
}

fn some(story: &str, count: usize) -> Vec<Mail> {
    (0..count).map(|n| Mail::new(story, n, WELL_FORMED[n % WELL_FORMED.len()])).collect()
}

/// Goal: the whole story of an upgrade with real servers, and every message arrives exactly once.
/// Method: pass; hold; the server is stopped, its disk wiped, started again; release; replay; pass.
#[test]
fn pass_hold_upgrade_replay_and_pass_again_with_postfix_on_both_sides() {
    let mut route = Route::start("refuse", Settings::long_queue_ids);
    let passed = some("ip", 30);
    route.send(&passed);
    route.mta.wait_for(30, MINUTE);
    route.assert_arrived(&passed);
    route.behind.wait_until_empty(MINUTE);

    route.lockgate.ok(&["hold", "--all", "--reason", "upgrade of behind.test"]);
    route.lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "30s"]);
    let held = some("ih", 40);
    route.send(&held);
    assert_eq!(route.lockgate.held().len(), 40);
    assert!(route.front.log().contains("250 2.0.0 held as"), "the MTA's log has our id");
    route.behind.wipe();
    route.behind.start_again();
    assert_eq!(route.mta.count(), 30, "nothing went by while it was held");

    route.lockgate.cli(&["release", "outbound", "--wait", "--timeout", "60s"]).expect(0);
    route.mta.wait_for(70, MINUTE);
    route.assert_arrived(&held);
    route.lockgate.wait_for_mode("outbound", "pass", LONG);
    let after = some("ia", 20);
    route.send(&after);
    route.mta.wait_for(90, MINUTE);
    route.assert_arrived(&after);
    assert!(route.mta.copies().values().all(|&copies| copies == 1));
    assert!(route.lockgate.held().is_empty());
}

/// With short queue ids, as older installations have them, and XFORWARD: the server's log names
/// our id and the client.
#[test]
fn the_servers_log_names_our_id_whether_its_own_ids_are_short_or_long() {
    for long in [false, true] {
        let set = |settings: Settings| {
            if long { settings.long_queue_ids() } else { settings }
        };
        let route = Route::start("refuse", set);
        let mail = Mail::short("id", usize::from(long));
        route.send(std::slice::from_ref(&mail));
        route.mta.wait_for(1, MINUTE);
        let trace = mail::fields(&route.mta.one(mail.key()).data)
            .map(|field| String::from_utf8_lossy(field).into_owned())
            .filter(|field| field.contains("(lockgate)"))
            .last()
            .unwrap();
        let id =
            trace.split("id ").nth(1).unwrap().split([';', '\r', ' ']).next().unwrap().to_owned();
        let log = route.behind.log();
        let line = log.lines().find(|line| line.contains(&format!("orig_queue_id={id}")));
        let line = line.unwrap_or_else(|| panic!("no orig_queue_id={id} in\n{log}"));
        let queue_id = line.split("]: ").nth(1).unwrap().split(':').next().unwrap();
        assert_eq!(queue_id.len() > 12, long, "{queue_id}");
        let reply = format!("queued as {queue_id}");
        assert!(!route.lockgate.log_lines(&[&reply]).is_empty(), "and our log names theirs");
    }
}

#[test]
fn while_the_server_is_away_the_mta_keeps_the_mail_and_retries() {
    let mut route = Route::start("refuse", |settings| settings);
    route.send(&some("before", 1));
    route.mta.wait_for(1, MINUTE);
    route.stop_behind();
    let mails = some("away", 10);
    Load::to(route.front.address()).all_accepted(&mails);
    wait::until_true("the MTA was told 451", LONG, || {
        route.front.log().contains("said: 451 4.4.1")
    });
    assert_eq!(route.front.queue().len(), 10);
    assert!(route.lockgate.held().is_empty());
    route.behind.start_again();
    // When Postfix tries again is its own affair: on a busy machine the last one may be late.
    route.mta.wait_for(11, 3 * MINUTE);
    route.assert_arrived(&mails);
    assert!(route.mta.copies().values().all(|&copies| copies == 1));
}

#[test]
fn with_hold_an_outage_of_the_server_leaves_nothing_in_the_mta() {
    let mut route = Route::start("hold", |settings| settings);
    route.send(&some("before", 1));
    route.mta.wait_for(1, MINUTE);
    route.stop_behind();
    let mails = some("outage", 20);
    route.send(&mails);
    assert_eq!(route.lockgate.held().len(), 20);
    route.behind.start_again();
    route.mta.wait_for(21, MINUTE);
    route.assert_arrived(&mails);
    route.lockgate.wait_until_empty(LONG);
}

/// A server of another name in the same place gets no mail before a probe has passed.
#[test]
fn a_server_replaced_by_another_identity_waits_for_a_probe() {
    let mut route = Route::start("hold", |settings| settings);
    route.send(&some("before", 1));
    route.mta.wait_for(1, MINUTE);
    let (server, back) = (route.behind.address(), route.lockgate.gate("back"));
    route.stop_behind();
    let mails = some("other", 8);
    let other = Settings::relaying("replacement.test", back).listening_at(server).start();
    route.send(&mails);
    assert!(!other.log().contains("queued as"), "nothing was given to the stranger");
    assert_eq!(route.lockgate.held().len(), 8);
    // Mail may have been held because nobody answered; a probe counts for the order that it answers.
    wait::until_true("the stranger is noticed", LONG, || {
        route.lockgate.alarms().iter().any(|alarm| alarm.contains("replacement.test"))
    });
    route.lockgate.ok(&["probe", "outbound", "--to", "probe@server.test"]);
    route.mta.wait_for(2, MINUTE);
    route.lockgate.cli(&["uncordon", "outbound", "sems1", "--force", "--reason", "probed"]);
    route.lockgate.cli(&["release", "outbound"]);
    route.mta.wait_for(10, MINUTE);
    route.assert_arrived(&mails);
}

/// A Postfix behind refuses a recipient: the refusal reaches the MTA in front, which bounces it.
#[test]
fn a_refused_recipient_is_bounced_by_the_mta_in_front() {
    let set = |settings: Settings| {
        settings.set(
            "smtpd_recipient_restrictions",
            "check_recipient_access inline:{nobody@server.test=REJECT}, permit_mynetworks, reject",
        )
    };
    let route = Route::start("refuse", set);
    let mail = Mail::short("part", 1)
        .from("<sender@client.test>")
        .to(&["<nobody@server.test>", "<somebody@server.test>"]);
    Client::open(route.front.address()).deliver(&mail);
    // The bounce goes out of the front by the same way, to its sender.
    route.mta.wait_for(2, MINUTE);
    let all = route.mta.taken();
    let to: HashSet<&str> = all.iter().map(tests::sink::Transaction::key).collect();
    assert_eq!(to, HashSet::from(["somebody@server.test", "sender@client.test"]));
    let bounce = all.iter().find(|found| found.key() == "sender@client.test").unwrap();
    assert!(bounce.mail_line.starts_with("MAIL FROM:<>"), "{}", bounce.mail_line);
    let text = String::from_utf8_lossy(&bounce.data).into_owned();
    assert!(text.contains("Access denied"), "with the words of the server behind: {text}");
}

/// 25 MiB, SMTPUTF8 and long lines through four servers, held in between.
#[test]
fn large_and_international_mail_survives_the_whole_way() {
    let route = Route::start("refuse", |settings| settings);
    let first = Mail::short("first", 0);
    route.send(std::slice::from_ref(&first));
    route.mta.wait_for(1, MINUTE);
    route.lockgate.hold("outbound");
    let kinds =
        [Kind::Attachment(18 * mail::MIB), Kind::Utf8, Kind::LongLines, Kind::EightBit, Kind::Dots];
    let mails: Vec<Mail> =
        kinds.into_iter().enumerate().map(|(n, kind)| Mail::new("wide", n, kind)).collect();
    for mail in &mails {
        let mut client = Client::open(route.front.address()).patient(MINUTE);
        assert!(client.transaction(mail, Style::Pipelined).accepted(), "{}", mail.key());
    }
    route.front.wait_until_empty(MINUTE);
    route.lockgate.wait_for_held(mails.len(), LONG);
    route.lockgate.release("outbound");
    route.mta.wait_for(1 + mails.len(), MINUTE);
    route.assert_arrived(&mails);
}
