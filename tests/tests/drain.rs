//! The drain: a real encrypting server behind lockgate, its real log, and what may be said of it.
//!
//! The server is Postfix with gpg as content filter: mail is truly inside for a while, and comes back through a
//! return gate.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a story rotates and cuts the logs of others")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::client::Client;
use tests::encrypting::Encrypting;
use tests::lockgate::{Answer, Gate, Lockgate, Member, Settings, text};
use tests::mail::Mail;
use tests::sink::Sink;
use tests::wait::{self, LONG};

/// How the server's log reaches lockgate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Log {
    Followed,
    /// Followed in a place to which nobody writes.
    Stopped,
    HandedIn,
}

/// An MTA that takes what comes out, the server, and lockgate between.
struct Stage {
    mta: Sink,
    server: Encrypting,
    lockgate: Lockgate,
}

const QUIET: [&str; 2] = ["--quiet-period", "1s"];

impl Stage {
    fn new(log: Log) -> Self {
        let mta = Sink::start("mta.test");
        let back = Gate::new("back")
            .member(Member::new("mta", mta.address()))
            .set("returns", "\"outbound\"");
        let server = Encrypting::relaying("keys.test", back.listen());
        let outbound = Gate::to("outbound", server.address())
            .set("sentinel_to", "\"operator@example.test\"")
            .set("sentinel_from", "\"lockgate@example.test\"");
        let mut settings = Settings::with([outbound, back])
            .set("[maillog]", "name", "\"keys-log\"")
            .set("[maillog]", "member", "\"sems1\"")
            .set("[maillog]", "dialect", "\"postfix\"")
            .set("[maillog]", "zone", "\"UTC\"")
            .set("[maillog]", "leaves", "[\"127.0.0.1\"]");
        let path = match log {
            Log::Followed => Some(server.postfix().log_path()),
            Log::Stopped => {
                let path = server.postfix().log_path().with_file_name("stopped");
                fs::write(&path, server.postfix().log()).unwrap();
                Some(path)
            }
            Log::HandedIn => None,
        };
        if let Some(path) = path {
            settings = settings.set("[maillog]", "file", &format!("{path:?}"));
        }
        let lockgate = settings.start();
        let stage = Self { mta, server, lockgate };
        // The books begin, and a message before the story makes the members known.
        wait::until_true("the books are begun", LONG, || {
            let attest = ["attest", "sems1", "empty-start", "--by", "op", "--reason", "new"];
            stage.lockgate.cli(&attest).code == 0
        });
        stage.send(0);
        stage.mta.wait_for(1, LONG);
        stage
    }

    fn send(&self, number: usize) -> Mail {
        let mail = Mail::short("drain", number);
        let mut client = Client::open(self.lockgate.outbound());
        assert!(client.deliver(&mail).is_positive());
        client.quit();
        mail
    }

    fn drain(&self, words: &[&str]) -> Answer {
        let mut all = vec!["drain", "sems1", "-o", "json"];
        all.extend(QUIET);
        all.extend(words);
        self.lockgate.cli(&all)
    }

    fn report(&self) -> Value {
        let answer = self.lockgate.cli(&["drain", "sems1", "--status", "-o", "json"]);
        answer.json_lines().remove(0)
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = wait::within(LONG, || {
            last = self.report();
            holds(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| {
            let logs = self.lockgate.cli(&["logs", "status"]).said();
            panic!("not in time: {what}: {last:#}\n{logs}")
        })
    }

    fn log(&self) -> PathBuf {
        self.server.postfix().log_path()
    }

    /// What the certificate of a report says when it is checked without lockgate.
    #[track_caller]
    fn verified(&self, report: &Value) -> Value {
        self.verified_with(report, &self.log())
    }

    /// The same, with this file as the log.
    #[track_caller]
    fn verified_with(&self, report: &Value, log: &Path) -> Value {
        let number = text(report, "certificate");
        let shown = self.lockgate.ok(&["certificate", "show", &number]).out;
        let file = self.lockgate.folder().join("certificate.json");
        fs::write(&file, shown).unwrap();
        let words = [
            "certificate",
            "verify",
            file.to_str().unwrap(),
            "--logs",
            log.to_str().unwrap(),
            "-o",
            "json",
        ];
        self.lockgate.run(&words).expect(0).json()
    }
}

fn doubts(report: &Value) -> Vec<String> {
    report["doubts"].as_array().unwrap().iter().map(|doubt| text(doubt, "name")).collect()
}

#[test]
fn a_clean_drain_ends_with_a_certificate_that_holds_without_lockgate() {
    let stage = Stage::new(Log::Followed);
    for number in 1..=5 {
        stage.send(number);
    }
    let answer = stage.drain(&["--wait", "--timeout", "60s"]);
    assert_eq!(answer.code, 0, "{}", answer.said());
    let report = answer.json_lines().remove(0);
    assert_eq!(text(&report, "phase"), "drained");
    let sums = &report["sums"]["outbound"];
    assert_eq!((sums["handed"].as_u64(), sums["inside"].as_u64()), (Some(7), Some(0)), "{sums}");
    assert_eq!(sums["settled"]["returned"], 7, "six of the story and the sentinel: {sums}");
    // What comes now is held, or waits for another member; the server gets nothing.
    assert_eq!(stage.lockgate.mode("outbound"), "hold");

    let checked = stage.verified(&report);
    assert_eq!(checked["holds"], true, "{checked}");
    assert!(text(&checked, "grade").contains("return gate"), "{checked}");
    // One octet of the log changed, and it is another log.
    let mut octets = fs::read(stage.log()).unwrap();
    octets[10] ^= 1;
    let changed = stage.lockgate.folder().join("changed");
    fs::write(&changed, octets).unwrap();
    let file = stage.lockgate.folder().join("certificate.json");
    let words =
        ["certificate", "verify", file.to_str().unwrap(), "--logs", changed.to_str().unwrap()];
    assert_eq!(stage.lockgate.run(&words).code, 2);
    let forged = fs::read_to_string(&file).unwrap().replace("\"sems1\"", "\"sems2\"");
    fs::write(&file, forged).unwrap();
    let words = ["certificate", "verify", file.to_str().unwrap()];
    assert_eq!(stage.lockgate.run(&words).code, 2);

    let ended = stage.lockgate.cli(&["drain", "sems1", "--end"]);
    assert_eq!(ended.code, 0, "{}", ended.said());
    stage.lockgate.wait_until_empty(LONG);
    stage.send(9);
    stage.mta.wait_for(8, LONG);
}

#[test]
fn one_message_stuck_inside_is_named_and_silence_does_not_settle_it() {
    let stage = Stage::new(Log::Followed);
    stage.server.hold();
    let stuck = stage.send(1);
    stage.server.wait_for_log(&["status=deferred", "held inside"]);
    let answer = stage.drain(&["--wait", "--timeout", "12s"]);
    assert_eq!(answer.code, 2, "{}", answer.said());
    let report = answer.json_lines().remove(0);
    assert_eq!(text(&report, "said"), "pending");
    // The sentinel is inside as well.
    let items = report["items"].as_array().unwrap();
    assert_eq!(items.len(), 2, "{items:#?}");
    let id = stuck.message_id().unwrap();
    let item = items.iter().find(|item| id.contains(item["message_id"].as_str().unwrap())).unwrap();
    assert!(text(item, "last").contains("held inside"), "{item}");
    assert_eq!(text(&report, "phase"), "given_up");
    stage.server.let_go();
    stage.mta.wait_for(3, LONG);
    let answer = stage.drain(&["--wait", "--timeout", "60s"]);
    assert_eq!(answer.code, 0, "{}", answer.said());
}

#[test]
fn a_log_that_is_rotated_during_the_drain_is_followed() {
    let stage = Stage::new(Log::Followed);
    stage.server.hold();
    stage.send(1);
    assert_eq!(stage.drain(&[]).code, 3);
    stage.until("the mark is taken", |report| text(report, "phase") == "watching");
    // Its writer goes on with the old file, as it does until it is told of the new one.
    let rotated = stage.log().with_extension("1");
    fs::rename(stage.log(), &rotated).unwrap();
    fs::write(stage.log(), "").unwrap();
    stage.server.let_go();
    let report = stage.until("drained", |report| text(report, "phase") == "drained");
    assert_eq!(stage.verified_with(&report, &rotated)["holds"], true);
}

#[test]
fn a_log_that_stopped_is_no_proof() {
    let stage = Stage::new(Log::Stopped);
    let answer = stage.drain(&["--wait", "--timeout", "8s"]);
    assert_eq!(answer.code, 3, "{}", answer.said());
    let report = answer.json_lines().remove(0);
    assert_eq!(text(&report, "said"), "inconclusive");
    assert!(doubts(&report).contains(&"silent:keys-log".to_owned()), "{report:#}");
}

#[test]
fn a_late_line_revokes_the_certificate() {
    let stage = Stage::new(Log::Followed);
    let answer = stage.drain(&["--wait", "--timeout", "60s"]);
    assert_eq!(answer.code, 0, "{}", answer.said());
    let line = stage.server.postfix().log();
    let line = line.lines().find(|line| line.contains("client=")).unwrap();
    let stamp = line.split(" postfix/").next().unwrap();
    let mut log = fs::OpenOptions::new().append(true).open(stage.log()).unwrap();
    writeln!(log, "{stamp} postfix/smtpd[9]: 4F00BA1234: client=web.test[192.0.2.7]").unwrap();
    writeln!(log, "{stamp} postfix/cleanup[9]: 4F00BA1234: message-id=<late@web.test>").unwrap();
    let report = stage.until("revoked", |report| text(report, "phase") == "revoked");
    assert!(text(&report, "revoked").contains("late evidence"), "{report:#}");
    let list = stage.lockgate.ok(&["certificate", "list"]).out;
    assert!(list.contains("REVOKED"), "{list}");
    assert!(stage.lockgate.log().contains("the certificate is revoked"));
}

#[test]
fn mail_that_came_past_lockgate_is_found_and_only_a_name_passes_over_it() {
    let stage = Stage::new(Log::Followed);
    let direct = Mail::short("direct", 1);
    let mut client = Client::open(stage.server.address());
    assert!(client.deliver(&direct).is_positive());
    client.quit();
    stage.mta.wait_for(2, LONG);
    let answer = stage.drain(&["--wait", "--timeout", "20s"]);
    assert_eq!(answer.code, 3, "{}", answer.said());
    let report = answer.json_lines().remove(0);
    assert_eq!(doubts(&report), ["bypass:keys-log"], "{report:#}");
    let sample = &report["doubts"][0];
    assert!(text(sample, "text").contains("1 messages"), "{sample}");
    assert_eq!(stage.drain(&[]).code, 3);
    stage.until("the mark is taken", |report| text(report, "phase") == "watching");
    stage.until("the doubt stands alone", |report| doubts(report) == ["bypass:keys-log"]);
    let waive = ["waive", "sems1", "bypass:keys-log", "--by", "op", "--reason", "a test by hand"];
    stage.lockgate.ok(&waive);
    let report = stage.until("drained", |report| text(report, "phase") == "drained");
    let checked = stage.verified(&report);
    assert!(checked.to_string().contains("a test by hand"), "{checked}");
}

#[test]
fn a_drain_is_proven_from_a_file_handed_in_and_not_before() {
    let stage = Stage::new(Log::HandedIn);
    stage.send(1);
    assert_eq!(stage.drain(&[]).code, 3);
    stage.until("the mark is taken", |report| text(report, "phase") == "watching");
    stage.mta.wait_for(3, LONG);
    let report = stage.until("all but the log", |report| {
        doubts(report).iter().all(|doubt| doubt.ends_with("keys-log"))
            && text(report, "said") == "inconclusive"
    });
    assert!(doubts(&report).contains(&"silent:keys-log".to_owned()), "{report:#}");
    let log = stage.log();
    let import = ["logs", "import", log.to_str().unwrap(), "--member", "sems1"];
    let said = stage.lockgate.ok(&import).said();
    assert!(said.contains("0 not understood"), "{said}");
    let again = stage.lockgate.ok(&import).said();
    assert!(again.contains("handed in before") || again.contains("lines"), "{again}");
    // The file begins after the books do: whether the server wrote before, nobody knows.
    let report = stage.until("the doubt stands alone", |report| {
        matches!(&doubts(report)[..], [doubt] if doubt == "uncovered:keys-log")
            || text(report, "phase") == "drained"
    });
    if text(&report, "phase") != "drained" {
        let waive = [
            "waive",
            "sems1",
            "uncovered:keys-log",
            "--by",
            "op",
            "--reason",
            "it was started then",
        ];
        stage.lockgate.ok(&waive);
    }
    stage.until("drained", |report| text(report, "phase") == "drained");
}

#[test]
fn without_an_opening_balance_nothing_is_certified_and_the_report_says_what_to_type() {
    let mta = Sink::start("mta.test");
    let lockgate = Lockgate::before(&mta);
    let answer =
        lockgate.cli(&["drain", "sems1", "--quiet-period", "1s", "--timeout", "4s", "--wait"]);
    assert_eq!(answer.code, 3, "{}", answer.said());
    let said = answer.said();
    assert!(said.contains("attest sems1 empty-start"), "{said}");
    assert!(said.contains("no-sentinel:outbound"), "{said}");
    assert_eq!(lockgate.cli(&["drain", "nobody"]).code, 1);
    assert_eq!(lockgate.cli(&["waive", "sems1", "no-opening", "--reason", "x"]).code, 1);
    // The orders stand: the fence is there, though nobody waits any more.
    lockgate.ok(&["attest", "sems1", "queue-empty", "--reason", "x"]);
    lockgate.ok(&["drain", "sems1", "--end"]);
    assert_eq!(lockgate.cli(&["attest", "sems1", "queue-empty", "--reason", "x"]).code, 1);
}

/// Goal: a clock that is two minutes ahead changes nothing of the proof, and is shown.
#[test]
fn a_server_whose_clock_is_two_minutes_ahead_is_drained_and_its_clock_shown() {
    let stage = Stage::new(Log::HandedIn);
    stage.send(1);
    assert_eq!(stage.drain(&[]).code, 3);
    stage.until("the mark is taken", |report| text(report, "phase") == "watching");
    stage.mta.wait_for(3, LONG);
    stage.server.wait_for_log(&["operator@example.test", "status=sent", "smtp["]);
    stage.server.postfix().wait_until_empty(LONG);
    let ahead: String = stage.server.postfix().log().lines().map(two_minutes_ahead).collect();
    let file = stage.lockgate.folder().join("ahead.log");
    fs::write(&file, ahead).unwrap();
    stage.lockgate.ok(&["logs", "import", file.to_str().unwrap(), "--log", "keys-log"]);
    let log = stage.lockgate.ok(&["logs", "status", "-o", "json"]).json();
    let (low, high) = (log["skew_ms"][0].as_i64().unwrap(), log["skew_ms"][1].as_i64().unwrap());
    assert!(low <= 120_000 && high >= 119_000 && high - low < 5_000, "{low} to {high}");
    let left = ["uncovered:keys-log"];
    let report = stage.until("nothing but the beginning of the log is doubted", |report| {
        text(report, "phase") == "drained" || doubts(report) == left
    });
    if text(&report, "phase") != "drained" {
        let waive = ["waive", "sems1", left[0], "--by", "op", "--reason", "started then"];
        stage.lockgate.ok(&waive);
    }
    let report = stage.until("drained", |report| text(report, "phase") == "drained");
    assert_eq!(report["sums"]["outbound"]["inside"], 0);
}

/// `Nov 24 22:16:04 …`, two minutes later; the stories do not run over midnight twice.
fn two_minutes_ahead(line: &str) -> String {
    let number = |range: std::ops::Range<usize>| line[range].parse::<u32>().unwrap();
    let seconds = number(7..9) * 3600 + number(10..12) * 60 + number(13..15) + 120;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let day = number(4..6) + seconds / 86_400;
    format!("{} {day:2} {hour:02}:{minute:02}:{second:02}{}\n", &line[..3], &line[15..])
}

#[test]
fn a_gap_in_the_journal_is_a_doubt_until_somebody_answers_for_it() {
    let mut stage = Stage::new(Log::Followed);
    let folder = stage.lockgate.data().join("journal");
    let aside = stage.lockgate.data().join("journal-aside");
    stage.lockgate.stop();
    fs::rename(&folder, &aside).unwrap();
    fs::write(&folder, "not a folder").unwrap();
    stage.lockgate.serve();
    stage.send(1);
    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    wait::until_true("the journal is written again", LONG, || {
        stage.lockgate.metrics().value("lockgate_journal_failing", &[]) == Some(0.0)
    });
    stage.mta.wait_for(2, LONG);
    assert_eq!(stage.drain(&[]).code, 3);
    let only_gap = |report: &Value| {
        let doubts = doubts(report);
        let known = |doubt: &String| doubt.starts_with("gap:") || doubt.starts_with("bypass:");
        !doubts.is_empty() && doubts.iter().all(known)
    };
    let report = stage.until("the gap is named", |report| {
        text(report, "phase") == "watching" && only_gap(report)
    });
    assert!(doubts(&report).iter().any(|doubt| doubt.starts_with("gap:")), "{report:#}");
    for doubt in doubts(&report) {
        stage.lockgate.ok(&["waive", "sems1", &doubt, "--by", "op", "--reason", "one, by hand"]);
    }
    let report = stage.until("drained", |report| text(report, "phase") == "drained");
    assert!(stage.verified(&report).to_string().contains("one, by hand"));
}

/// Goal: control killed in the middle of a drain goes on with it, and counts nothing twice.
#[test]
fn a_drain_goes_on_after_lockgate_was_killed() {
    let mut stage = Stage::new(Log::Followed);
    stage.server.hold();
    stage.send(1);
    assert_eq!(stage.drain(&[]).code, 3);
    stage.until("the mark is taken", |report| text(report, "phase") == "watching");
    stage.lockgate.kill();
    stage.server.let_go();
    stage.lockgate.serve();
    stage.server.postfix().flush();
    let report = stage.until("drained", |report| text(report, "phase") == "drained");
    assert_eq!(report["sums"]["outbound"]["handed"], 3, "{report:#}");
    assert_eq!(stage.verified(&report)["holds"], true);
}
