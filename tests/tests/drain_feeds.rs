//! A drain that is proven by a log which comes by syslog or by the journal of the machine.
//!
//! The server is a real Postfix; its log is carried on line by line as it is written.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use serde_json::Value;
use tests::carrier::Carrier;
use tests::client::Client;
use tests::lockgate::{Answer, Gate, Lockgate, Settings, text};
use tests::mail::Mail;
use tests::port;
use tests::postfix::{self, Postfix};
use tests::sink::Sink;
use tests::wait::{self, LONG};

/// An MTA behind, the server, and lockgate before it.
struct Stage {
    mta: Sink,
    server: Postfix,
    lockgate: Lockgate,
}

impl Stage {
    /// With a log that is read so, as a key and its value in TOML.
    fn new(key: &str, value: &str) -> Self {
        let mta = Sink::start("mta.test");
        let server = postfix::Settings::relaying("server.test", mta.address()).start();
        let outbound =
            Gate::to("outbound", server.address()).set("sentinel_to", "\"operator@example.test\"");
        let lockgate = Settings::with([outbound]).postfix_log(key, value).start();
        Self { mta, server, lockgate }
    }

    /// Begins the books, and lets a few messages pass.
    fn begin(&self) {
        wait::until_true("the books are begun", LONG, || {
            let attest = ["attest", "sems1", "empty-start", "--by", "op", "--reason", "new"];
            self.lockgate.cli(&attest).code == 0
        });
        for number in 0..5 {
            Client::open(self.lockgate.outbound()).deliver(&Mail::short("feed", number));
        }
        self.mta.wait_for(5, LONG);
    }

    fn drain(&self) -> Answer {
        self.lockgate.cli(&[
            "drain",
            "sems1",
            "--wait",
            "--quiet-period",
            "1s",
            "--timeout",
            "20s",
            "-o",
            "json",
        ])
    }

    fn log(&self) -> Value {
        self.lockgate.cli(&["logs", "status", "-o", "json"]).json_lines().remove(0)
    }
}

fn names(report: &Value) -> Vec<String> {
    report["doubts"].as_array().unwrap().iter().map(|doubt| text(doubt, "name")).collect()
}

#[test]
fn a_log_that_comes_by_tcp_proves_a_drain() {
    let receiver = ([127, 0, 0, 1], port::free()).into();
    let stage = Stage::new("syslog", &format!("{{ tcp = \"{receiver}\" }}"));
    let _carrier = Carrier::by_tcp(&stage.server.log_path(), receiver);
    stage.begin();
    let answer = stage.drain();
    assert_eq!(answer.code, 0, "{}\n{}", answer.said(), stage.log());
    let report = answer.json();
    assert_eq!(report["sums"]["outbound"]["settled"]["delivered"], 6, "with the sentinel");
    assert_eq!(report["sums"]["outbound"]["keys"]["ident"], 5, "{report:#}");
}

/// Goal: datagrams, which can be lost and forged, prove nothing alone; with a look at the queue page they need not.
/// Method: a drain without anything else stays with its items; the log shows all of them all the same.
#[test]
fn a_log_that_comes_by_udp_settles_nothing() {
    let receiver = ([127, 0, 0, 1], port::free()).into();
    let stage = Stage::new("syslog", &format!("{{ udp = \"{receiver}\" }}"));
    let _carrier = Carrier::by_udp(&stage.server.log_path(), receiver);
    stage.begin();
    wait::until_true("the lines have come", LONG, || stage.log()["lines"].as_u64() > Some(20));
    let answer = stage.drain();
    assert_eq!(answer.code, 2, "{}", answer.said());
    let report = answer.json();
    assert_eq!(report["items_total"], 6, "{report:#}");
    assert!(names(&report).contains(&"only-udp".to_owned()), "{report:#}");
}

#[test]
fn a_log_in_the_journal_of_the_machine_proves_a_drain_and_is_read_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = format!("\"--directory={}\", \"SYSLOG_FACILITY=2\"", folder.path().display());
    let mut stage = Stage::new("journald", &format!("{{ arguments = [{arguments}] }}"));
    let _carrier = Carrier::into_journal(&stage.server.log_path(), folder.path());
    wait::until_true("the journal is read", LONG, || stage.log()["error"].is_null());
    stage.begin();
    wait::until_true("the lines have come", LONG, || stage.log()["lines"].as_u64() > Some(20));
    stage.lockgate.stop();
    stage.lockgate.serve();
    let answer = stage.drain();
    assert_eq!(answer.code, 0, "{}\n{}", answer.said(), stage.log());
    assert_eq!(answer.json()["sums"]["outbound"]["settled"]["delivered"], 6);
}
