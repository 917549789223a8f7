//! Control, as an administrator meets it: verbs, exit codes, JSON, metrics, log lines, errors.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Command;

use tests::client::{Client, Style};
use tests::lockgate::{self, Gate, Lockgate, Settings, http_get};
use tests::mail::Mail;
use tests::process::{Process, Signal, bound_to_us};
use tests::sink::{Rule, Sink, Stage};
use tests::wait::{self, LONG};

#[test]
fn exit_codes_are_yes_error_no_and_inconclusive() {
    let mut sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    lockgate.cli(&["status"]).expect(0);
    lockgate.cli(&["frobnicate"]).expect(1);
    lockgate.cli(&["hold", "outbound"]).expect(1);
    lockgate.cli(&["hold", "nowhere", "--reason", "x"]).expect(1);
    lockgate.cli(&["hold", "outbound", "--reason", " "]).expect(1);
    lockgate.cli(&["held", "show", "0000000000000"]).expect(1);
    lockgate.cli(&["orders", "end", "4711"]).expect(1);
    lockgate.cli(&["cordon", "outbound", "nobody", "--reason", "x"]).expect(1);
    lockgate.cli(&["wait", "quiet", "outbound", "--timeout", "10s"]).expect(0);
    lockgate.cli(&["--help"]).expect(0);
    sink.stop();
    lockgate.cli(&["probe", "outbound", "--to", "a@x.test"]).expect(3);
}

#[test]
fn without_a_daemon_a_verb_says_so_and_names_the_mend() {
    let sink = Sink::start("sink.test");
    let lockgate = Settings::with([Gate::to("outbound", sink.address())]).initialised();
    let answer = lockgate.cli(&["status"]).expect(1);
    assert!(answer.err.contains("lockgate.sock") && answer.err.contains("serve"), "{answer:?}");
    assert!(answer.out.is_empty());
}

#[test]
fn options_stand_before_or_after_the_verb_and_the_folder_may_come_from_the_environment() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let data = lockgate.data();
    let data = data.to_str().unwrap();
    let config = lockgate.config();
    let config = config.to_str().unwrap();
    for line in [
        ["--data", data, "-o", "json", "status"],
        ["status", "--data", data, "-o", "json"],
        ["-o", "json", "status", "--config", config],
    ] {
        assert_eq!(lockgate.run(&line).expect(0).json()["ready"], true, "{line:?}");
    }
    let output = Command::new(lockgate::binary())
        .args(["status", "-o", "json"])
        .env("LOCKGATE_DATA", data)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn status_says_on_one_screen_what_is_held_by_whom_and_what_to_type_next() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let calm = lockgate.ok(&["status"]).out;
    assert!(calm.contains("mail is safe") && calm.lines().count() <= 24, "{calm}");
    lockgate.hold("outbound");
    for n in 0..3 {
        Client::open(lockgate.outbound()).deliver(&Mail::short("s", n));
    }
    let held = lockgate.ok(&["status"]).out;
    for part in ["outbound", "held", "3", "operator", "a story", "release outbound"] {
        assert!(held.contains(part), "{part:?} is missing in\n{held}");
    }
    assert!(held.lines().count() <= 30, "one screen:\n{held}");
    let json = lockgate.status();
    assert_eq!(json["gates"][0]["held"]["held"], 3, "{json}");
    assert_eq!(json["spool"]["messages"], 3);
}

#[test]
fn an_alarm_makes_status_say_no() {
    let mut sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    sink.stop();
    let receipt =
        Client::open(lockgate.outbound()).transaction(&Mail::short("a", 1), Style::LockStep);
    assert!(!receipt.accepted());
    lockgate.cli(&["status"]).expect(2);
}

#[test]
fn unknown_keys_are_errors_with_their_line_and_a_hint() {
    let sink = Sink::start("sink.test");
    for (section, key, value, hint) in [
        ("spool", "free_byte_min", "1", "free_bytes_min"),
        ("relay", "final_reply", "1", "final_reply_s"),
        ("", "host_name", "\"x\"", "hostname"),
    ] {
        let settings = Settings::with([Gate::to("outbound", sink.address())]);
        let mut lockgate = settings.set(section, key, value).written();
        let line = lockgate.config_text().lines().position(|line| line.starts_with(key)).unwrap();
        let (code, said) = lockgate.serve_refused();
        assert_eq!(code, 1);
        assert!(said.contains(&format!("lockgate.toml:{}", line + 1)), "the line: {said}");
        assert!(said.contains(key) && said.contains(hint), "did you mean {hint}? {said}");
    }
    let gate = Gate::to("outbound", sink.address()).set("on_unreachble", "\"hold\"");
    let mut lockgate = Settings::with([gate]).written();
    assert!(lockgate.serve_refused().1.contains("on_unreachable"));
}

#[test]
fn contradictions_in_the_configuration_are_refused() {
    let sink = Sink::start("sink.test");
    let twice = Settings::with([
        Gate::to("outbound", sink.address()),
        Gate::to("outbound", sink.address()),
    ]);
    assert!(twice.written().serve_refused().1.contains("outbound"));
    let partner = Gate::to("back", sink.address()).set("returns", "\"nowhere\"");
    assert!(Settings::with([partner]).written().serve_refused().1.contains("nowhere"));
    assert!(Settings::with([]).written().serve_refused().1.contains("gate"));
}

#[test]
fn check_binds_and_probes_and_says_what_is_wrong() {
    let sink = Sink::start("sink.test");
    let lockgate = Settings::with([Gate::to("outbound", sink.address())]).initialised();
    let config = lockgate.config();
    let check = ["check", "--config", config.to_str().unwrap()];
    lockgate.run(&check).expect(0);
    assert!(sink.connections() > 0, "the member was asked");
    assert_eq!(sink.dots(), 0, "and given no mail");
    drop(sink);
    let answer = lockgate.run(&check).expect(2);
    assert!(answer.said().contains("sems1"), "{answer:?}");
    let taken = std::net::TcpListener::bind(lockgate.outbound()).unwrap();
    let answer = lockgate.run(&check).expect(2);
    assert!(answer.said().contains(&lockgate.outbound().to_string()), "{answer:?}");
    drop(taken);
}

/// Metric names and labels are a contract; no address and no id is ever a label.
#[test]
fn metrics_count_what_happens_without_addresses_or_ids() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    for n in 0..3 {
        client.deliver(&Mail::short("m", n));
    }
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody").times(1));
    assert!(!client.transaction(&Mail::short("m", 3), Style::LockStep).accepted());
    lockgate.hold("outbound");
    let reply = client.deliver(&Mail::short("m", 4));
    let id = reply.text().split(' ').nth(3).unwrap().to_owned();

    let metrics = lockgate.metrics();
    let gate = ("gate", "outbound");
    assert_eq!(metrics.value("lockgate_gate_mode", &[gate, ("mode", "hold")]), Some(1.0));
    assert_eq!(metrics.value("lockgate_gate_mode", &[gate, ("mode", "pass")]), Some(0.0));
    assert_eq!(metrics.value("lockgate_held_messages", &[gate, ("state", "held")]), Some(1.0));
    assert!(metrics.value("lockgate_held_bytes", &[gate]).is_some_and(|bytes| bytes > 100.0));
    assert!(metrics.value("lockgate_held_oldest_age_seconds", &[gate]).is_some());
    assert!(metrics.value("lockgate_spool_free_bytes", &[]).is_some_and(|bytes| bytes > 1e6));
    assert!(metrics.sum("lockgate_build_info", &[]) >= 1.0);
    let transactions =
        |outcome| metrics.sum("lockgate_transactions_total", &[gate, ("outcome", outcome)]);
    // One more was passed to meet the next hop.
    assert_eq!((transactions("relayed"), transactions("held")), (4.0, 1.0), "{}", metrics.0);
    assert_eq!(transactions("refused"), 1.0);
    for name in [
        "lockgate_next_hop_latency_seconds_bucket",
        "lockgate_commit_latency_seconds_bucket",
        "lockgate_connections",
        "lockgate_in_flight_transactions",
        "lockgate_replay_remaining_messages",
    ] {
        assert!(metrics.0.contains(name), "{name} is missing in\n{}", metrics.0);
    }
    for private in ["client.test", "server.test", "127.0.0.1", id.as_str()] {
        assert!(!metrics.0.contains(private), "{private} is in a label");
    }
}

#[test]
fn health_and_readiness_answer_over_http() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    assert_eq!(lockgate.http("/healthz").0, 200);
    assert_eq!(lockgate.http("/readyz").0, 200);
    assert_eq!(lockgate.http("/nowhere").0, 404);
    assert!(http_get(lockgate.metrics_address(), "/metrics").unwrap().1.ends_with("# EOF\n"));
}

/// One log line per ended transaction: key=value or JSON, UTC with a fraction, no mail data.
#[test]
fn each_transaction_leaves_one_line_without_mail_data() {
    for format in ["text", "json"] {
        let sink = Sink::start("sink.test");
        let settings = Settings::with([Gate::to("outbound", sink.address())]);
        let lockgate = settings.set("log", "format", &format!("{format:?}")).start();
        let mut client = Client::open(lockgate.outbound());
        for n in 0..5 {
            client.deliver(&Mail::short("log", n));
        }
        client.quit();
        for n in 0..5 {
            let key = format!("log-{n:05}@server.test");
            let lines = lockgate.log_lines(&[&key, "relayed"]);
            assert_eq!(lines.len(), 1, "{lines:?}");
            if format == "json" {
                let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
                assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
            } else {
                let time = lines[0].split(' ').next().unwrap();
                assert!(time.ends_with('Z') && time.contains('.'), "UTC with a fraction: {time}");
                assert!(
                    lines[0].contains("gate=\"outbound\"") || lines[0].contains("gate=outbound")
                );
            }
        }
        assert!(!lockgate.log().contains("a message of a story"), "no mail data");
    }
}

#[test]
fn the_sockets_are_for_their_owner() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    for (name, most) in [("proxy.sock", 0o600), ("lockgate.sock", 0o660)] {
        let kind = fs::metadata(lockgate.data().join(name)).unwrap();
        assert!(kind.file_type().is_socket());
        assert_eq!(kind.permissions().mode() & 0o777 & !most, 0, "{name}");
    }
    let folder = fs::metadata(lockgate.data()).unwrap().permissions().mode();
    assert_eq!(folder & 0o007, 0);
}

#[test]
fn lists_are_json_lines_and_tables_for_people() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    let mut client = Client::open(lockgate.outbound());
    for n in 0..3 {
        client.deliver(&Mail::short("l", n));
    }
    let held = lockgate.ok(&["held", "list", "-o", "json"]);
    assert_eq!(held.json_lines().len(), 3);
    assert!(held.err.is_empty(), "{held:?}");
    let table = lockgate.ok(&["held", "list"]).out;
    assert_eq!(table.lines().count(), 4, "a head and three rows:\n{table}");
    assert!(!table.contains('\u{1b}'), "no colours into a pipe");
    assert_eq!(lockgate.ok(&["gates", "-o", "json"]).json_lines().len(), 1);
    assert_eq!(lockgate.ok(&["orders", "list", "-o", "json"]).json_lines().len(), 1);
    assert_eq!(lockgate.ok(&["held", "list", "--limit", "2", "-o", "json"]).json_lines().len(), 2);
}

/// What a hostile client writes cannot drive an administrator's terminal.
#[test]
fn control_characters_never_reach_a_terminal() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    let mut mail = Mail::short("evil", 1);
    mail.data =
        b"Message-ID: <a\x1b]0;owned\x07@x>\r\nSubject: \x1b[2J\r\n\r\n\x1b[31m\r\n".to_vec();
    let mut client = Client::open(lockgate.outbound());
    client.command("EHLO evil\x1b[31m.test");
    let receipt = client.transaction(&mail, Style::LockStep);
    for verb in [&["held", "list"][..], &["status"], &["held", "list", "-o", "json"]] {
        let answer = lockgate.cli(verb);
        assert!(!answer.said().contains('\u{1b}'), "{verb:?}");
    }
    assert!(!lockgate.log().contains('\u{1b}'));
    drop(receipt);
}

/// The data plane and control may run apart: mail goes on without control.
#[test]
fn proxy_and_control_run_apart() {
    let sink = Sink::start("sink.test");
    let lockgate = Settings::with([Gate::to("outbound", sink.address())]).initialised();
    let start = |verb: &str| {
        let mut command = bound_to_us(lockgate::binary());
        command.arg(verb).arg("--config").arg(lockgate.config());
        Process::start(verb, command, &lockgate.folder().join(format!("{verb}.log")))
    };
    let mut proxy = start("proxy");
    proxy.wait_for_port(lockgate.outbound(), LONG);
    Client::open(lockgate.outbound()).deliver(&Mail::short("a", 1));
    lockgate.cli(&["status"]).expect(1);
    let mut control = start("control");
    wait::until_true("control answers", LONG, || lockgate.cli(&["status"]).code == 0);
    lockgate.hold("outbound");
    control.kill();
    let reply = Client::open(lockgate.outbound()).deliver(&Mail::short("a", 2));
    assert!(reply.text().contains("held as"), "the last order stays: {reply:?}");
    // A socket file that nobody serves any more is replaced.
    let _control = start("control");
    wait::until_true("control answers again", LONG, || lockgate.cli(&["gates"]).code == 0);
    lockgate.release("outbound");
    sink.wait_for(2, LONG);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_for_end(LONG).code(), Some(0));
}

#[test]
fn init_is_safe_to_repeat() {
    let sink = Sink::start("sink.test");
    let mut lockgate = Settings::with([Gate::to("outbound", sink.address())]).initialised();
    let key = fs::read(lockgate.data().join("keys/spool.key")).unwrap();
    lockgate.serve();
    lockgate.hold("outbound");
    Client::open(lockgate.outbound()).deliver(&Mail::short("i", 1));
    lockgate.stop();
    let again = lockgate.run(&["init", "--config", lockgate.config().to_str().unwrap()]);
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(fs::read(lockgate.data().join("keys/spool.key")).unwrap(), key);
    lockgate.serve();
    assert_eq!((lockgate.mode("outbound"), lockgate.held().len()), ("hold".to_owned(), 1));
}

#[test]
fn two_administrators_at_once_do_not_disturb_each_other() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..4 {
                    lockgate.ok(&["hold", "outbound", "--reason", "together"]);
                    lockgate.ok(&["held", "list", "-o", "json"]);
                    lockgate.cli(&["release", "outbound"]);
                }
            });
        }
    });
    lockgate.cli(&["release", "outbound"]);
    lockgate.wait_for_mode("outbound", "pass", LONG);
    Client::open(lockgate.outbound()).deliver(&Mail::short("t", 1));
}
