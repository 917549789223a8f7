//! Mistakes around a drain: what is typed, configured or handed in wrongly is said clearly, and does nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::fs;

use serde_json::Value;
use tests::client::Client;
use tests::lockgate::{Gate, Lockgate, Settings, text};
use tests::mail::Mail;
use tests::sink::Sink;
use tests::wait::{self, LONG};

/// A gate before a sink, with a log that is handed in.
fn settings(sink: &Sink) -> Settings {
    let outbound = Gate::to("outbound", sink.address());
    Settings::with([outbound])
        .set("[maillog]", "name", "\"server-log\"")
        .set("[maillog]", "member", "\"sems1\"")
        .set("[maillog]", "dialect", "\"postfix\"")
        .set("[maillog]", "zone", "\"UTC\"")
}

fn started(sink: &Sink) -> Lockgate {
    let lockgate = settings(sink).start();
    wait::until_true("the books are begun", LONG, || {
        let attest = ["attest", "sems1", "empty-start", "--by", "op", "--reason", "new"];
        lockgate.cli(&attest).code == 0
    });
    lockgate
}

/// Goal: what is wrong with the configuration of a drain is said by `check`, with its line, and `serve` says the same before
/// a gate listens.
#[test]
fn mistakes_in_the_configuration_are_said_before_mail_depends_on_it() {
    let sink = Sink::start("sink.test");
    for (key, value, said) in [
        ("dialekt", "\"postfix\"", "unknown field `dialekt`"),
        ("dialect", "\"postfixx\"", "unknown variant `postfixx`"),
        ("member", "\"sems9\"", "no forward gate has a member \"sems9\""),
        ("zone", "\"Europe/Berln\"", "zone \"Europe/Berln\" is not known"),
        ("clients", "[\"localhost\"]", "in `clients = [\"localhost\"]`"),
        ("leaves", "[\"nowhere\"]", "\"nowhere\" is no address"),
        ("missing_max", "-5", "in `missing_max = -5`"),
        ("syslog", "{ allow = [\"192.0.2.1\"] }", "one of `udp`, `tcp` and `tls`"),
        ("pattern", "[{ name = \"x\", regex = \"(\", what = \"removed\" }]", "pattern"),
    ] {
        let mut lockgate = settings(&sink).set("[maillog]", key, value).initialised();
        let config = lockgate.config();
        let check = lockgate.run(&["check", "--config", config.to_str().unwrap()]);
        assert_eq!(check.code, 2, "{key}: {}", check.said());
        assert!(check.said().contains(said), "{key}: {}", check.said());
        let (code, log) = lockgate.serve_refused();
        assert_eq!(code, 1, "{key}: {log}");
        assert!(log.contains(said), "{key}: {log}");
        assert!(!lockgate.is_listening(), "{key}: nothing was served before");
    }
}

#[test]
fn check_names_what_a_drain_would_lack() {
    let sink = Sink::start("sink.test");
    let missing = settings(&sink).set("[maillog]", "file", "\"/nowhere/mail.log\"").initialised();
    let check = missing.run(&["check", "--config", missing.config().to_str().unwrap()]);
    assert!(check.said().contains("/nowhere/mail.log cannot be read"), "{}", check.said());
    assert_eq!(check.code, 2);
    let other = missing.folder().join("other.log");
    fs::write(&other, "this is\nno log of\na mail server\n").unwrap();
    let strange = settings(&sink).set("[maillog]", "file", &format!("{other:?}")).initialised();
    let check = strange.run(&["check", "--config", strange.config().to_str().unwrap()]);
    assert!(check.said().contains("are not of the dialect postfix"), "{}", check.said());
    assert!(check.said().contains("has no `sentinel_to`"), "{}", check.said());
    assert_eq!(check.code, 0, "warnings: {}", check.said());
}

#[test]
fn a_drain_of_one_wrong_name_begins_nothing() {
    let sink = Sink::start("sink.test");
    let lockgate = started(&sink);
    let answer = lockgate.cli(&["drain", "sems1", "nobody"]);
    assert_eq!(answer.code, 1);
    assert!(answer.said().contains("no member and no gate \"nobody\""), "{}", answer.said());
    assert_eq!(lockgate.mode("outbound"), "pass");
    let wrong = lockgate.cli(&["drain", "sems1", "--quiet-period", "2h", "--timeout", "1m"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.said().contains("longer than the quiet period"), "{}", wrong.said());
    assert_eq!(lockgate.mode("outbound"), "pass");
    assert_eq!(lockgate.cli(&["drain", "--wait"]).code, 1);
}

#[test]
fn a_file_that_is_no_such_log_is_refused_and_spoils_nothing() {
    let sink = Sink::start("sink.test");
    let lockgate = started(&sink);
    let import = |name: &str, content: &[u8]| {
        let path = lockgate.folder().join(name);
        fs::write(&path, content).unwrap();
        lockgate.cli(&["logs", "import", path.to_str().unwrap(), "--member", "sems1"])
    };
    let empty = import("empty.log", b"");
    assert_eq!(empty.code, 1);
    assert!(empty.said().contains("is empty"), "{}", empty.said());
    let binary = import("binary", &(0..=255).cycle().take(50_000).collect::<Vec<u8>>());
    assert_eq!(binary.code, 1);
    assert!(binary.said().contains("of the dialect postfix"), "{}", binary.said());
    let logs = lockgate.cli(&["logs", "status", "-o", "json"]).json_lines().remove(0);
    assert_eq!((&logs["lines"], &logs["missing"]), (&0.into(), &0.into()), "{logs:#}");
    let line = b"Nov 24 10:00:00 mx postfix/qmgr[1]: 4B00FF: removed\nwhat is this\n";
    for known in [false, true] {
        let right = import("mail.log", line);
        assert_eq!(right.code, 0, "{}", right.said());
        assert!(right.said().contains("? what is this"), "{}", right.said());
        assert_eq!(right.said().contains("handed in before"), known, "{}", right.said());
    }
}

/// Goal: what a person deleted in the server, in a way that no log tells, can be written off by name, and nothing else.
#[test]
fn what_was_deleted_in_the_server_is_written_off_by_name() {
    let sink = Sink::start("sink.test");
    let lockgate = started(&sink);
    for number in 0..2 {
        Client::open(lockgate.outbound()).deliver(&Mail::short("gone", number));
    }
    let words = ["drain", "sems1", "--wait", "--quiet-period", "1s", "--timeout", "3s"];
    assert_eq!(lockgate.cli(&words).code, 2);
    let report = || -> Value {
        lockgate.cli(&["drain", "sems1", "--status", "-o", "json"]).json_lines().remove(0)
    };
    let id = text(&report()["items"][0], "id");
    let attest = |words: &[&str]| {
        let mut all = vec!["attest", "sems1"];
        all.extend(words);
        all.extend(["--reason", "postsuper -d ALL"]);
        lockgate.cli(&all).code
    };
    assert_eq!(attest(&["deleted"]), 1, "which?");
    assert_eq!(attest(&["deleted", "--id", "0000000000000"]), 1, "nothing of that");
    assert_eq!(report()["items_total"], 2);
    assert_eq!(attest(&["deleted", "--id", &id]), 0);
    let left = report();
    assert_eq!(left["items_total"], 1);
    assert_eq!(left["sums"]["outbound"]["keys"]["word"], 1, "{left:#}");
    assert_eq!(attest(&["rebuilt"]), 0, "the drain is given up");
    assert_eq!(report()["items_total"], 0);
}
