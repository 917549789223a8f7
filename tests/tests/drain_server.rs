//! The drain of encryption servers that say as little as the real ones do: the stand-in of the demo, with the few line shapes
//! that are publicly known, and what an administrator adds to them by patterns of the configuration.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use control::demo::server::{
    Behaviour, Choice, Copies, Extra, Handle, Log, Options, Route, Server, Stay, Treatment, When,
};
use serde_json::Value;
use tests::client::Client;
use tests::lockgate::{Gate, Lockgate, Member, Settings, text};
use tests::mail::Mail;
use tests::sink::Sink;
use tests::wait::{self, LONG};
use tokio::runtime::Runtime;

/// A stand-in with its Mail log, on threads of its own.
struct Sems {
    _runtime: Runtime,
    _server: Server,
    handle: Handle,
    address: SocketAddr,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Sems {
    fn start(name: &str, next_hop: SocketAddr, behaviour: Behaviour) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mail.log");
        fs::File::create(&path).unwrap();
        let listen = ([127, 0, 0, 1], 0).into();
        let mut options = Options::new(name, "3.4.2", vec![Route { listen, next_hop }]);
        let mut log = Log::to_file(&path);
        let extra = |when, text: &str| Extra { when, text: text.to_owned() };
        // What a person found in an exported log of this site.
        log.extra = vec![
            extra(When::Relayed, "{smtp}: recipient {recipient}: handed on: {reply}"),
            extra(When::Stored, "{smtp}: recipient {recipient}: kept for the web"),
        ];
        options.log = Some(log);
        options.behaviour = behaviour;
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(Server::start(options)).unwrap();
        let (handle, address) = (server.handle(), server.addresses()[0]);
        Self { _runtime: runtime, _server: server, handle, address, log: path, _folder: folder }
    }
}

/// The pattern for these lines, as an administrator writes it.
const PATTERNS: &str = r"[
  { name = 'handed on', regex = '^(?<id>SMTP-\d+): recipient (?<recipient>\S+): handed on: (?<reply>.*)$', what = 'relayed' },
  { name = 'kept', regex = '^(?<id>SMTP-\d+): recipient (?<recipient>\S+): kept for the web$', what = 'stored' },
]";

/// lockgate before these servers, whose mail comes back through its return gate.
fn lockgate(back: Gate, servers: &[(&str, &Sems)]) -> Lockgate {
    let mut outbound = Gate::new("outbound")
        .set("sentinel_to", "\"operator@example.test\"")
        .set("sentinel_from", "\"lockgate@example.test\"");
    for (name, sems) in servers {
        outbound = outbound.member(Member::new(name, sems.address));
    }
    let mut settings = Settings::with([outbound, back]);
    for (name, sems) in servers {
        let section = format!("[maillog]#{name}");
        settings = settings
            .set(&section, "name", &format!("\"{name}-log\""))
            .set(&section, "member", &format!("\"{name}\""))
            .set(&section, "dialect", "\"sems\"")
            .set(&section, "file", &format!("{:?}", sems.log))
            .set(&section, "pattern", &PATTERNS.replace('\n', " "));
    }
    let lockgate = settings.start();
    for (name, _) in servers {
        wait::until_true("the books are begun", LONG, || {
            let attest = ["attest", name, "empty-start", "--by", "op", "--reason", "new"];
            lockgate.cli(&attest).code == 0
        });
    }
    lockgate
}

fn back(mta: &Sink) -> Gate {
    Gate::new("back").member(Member::new("mta", mta.address())).set("returns", "\"outbound\"")
}

fn report(lockgate: &Lockgate, member: &str) -> Value {
    lockgate.cli(&["drain", member, "--status", "-o", "json"]).json_lines().remove(0)
}

#[track_caller]
fn until(lockgate: &Lockgate, member: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = wait::within(LONG, || {
        last = report(lockgate, member);
        holds(&last).then(|| last.clone())
    });
    found.unwrap_or_else(|| {
        panic!("not in time: {what}: {last:#}\n{}", lockgate.cli(&["logs", "status"]).said())
    })
}

/// Goal: a server that splits mail, keeps some of it, stores some of it, begins its connection numbers anew and never says
/// who brought a message is drained all the same, and not before it is empty.
/// Method: everything stays inside until it is let go, while the drain is given up; then the late evidence proves it.
#[test]
fn a_server_that_says_little_is_drained_when_it_is_empty_and_not_before() {
    let mta = Sink::start("mta.test");
    let back = back(&mta);
    let behaviour = Behaviour {
        stay: Stay::UntilLetGo,
        copies: Copies::PerRecipient,
        treatments: vec![(Choice::to("web@x.test"), Treatment::Store)],
        ..Behaviour::default()
    };
    let sems = Sems::start("sems1.test", back.listen(), behaviour);
    let lockgate = lockgate(back, &[("sems1", &sems)]);
    for number in 0..6 {
        if number == 3 {
            sems.handle.restart_counter();
        }
        let to = format!("<b{number}@x.test>");
        let mail = Mail::short("little", number).to(&[&to, "<c@x.test>"]);
        Client::open(lockgate.outbound()).deliver(&mail);
    }
    Client::open(lockgate.outbound()).deliver(&Mail::short("web", 9).to(&["<web@x.test>"]));
    let words =
        ["drain", "sems1", "--wait", "--quiet-period", "1s", "--timeout", "4s", "-o", "json"];
    let answer = lockgate.cli(&words);
    assert_eq!(answer.code, 2, "{}", answer.said());
    let given_up = answer.json();
    assert_eq!(given_up["phase"], "given_up");
    assert_eq!(given_up["items_total"], 13, "twelve, and the sentinel: {given_up:#}");
    let inside = lockgate.metrics().value("lockgate_drain_inside_items", &[("member", "sems1")]);
    assert_eq!(inside, Some(13.0), "on the one page of metrics");

    sems.handle.change(|behaviour| behaviour.stay = Stay::Brief);
    sems.handle.let_go();
    let drained = until(&lockgate, "sems1", "drained", |report| report["phase"] == "drained");
    assert!(sems.handle.inside().is_empty(), "the truth");
    let settled = &drained["sums"]["outbound"]["settled"];
    assert_eq!((&settled["returned"], &settled["stored"]), (&13.into(), &1.into()), "{drained:#}");
    assert!(!text(&drained, "certificate").is_empty());
}

/// Goal: one member of a cluster is drained while the other goes on.
/// Method: mail is sent all the while; one message never leaves the second, which is nothing to the first.
#[test]
fn one_member_of_a_cluster_is_drained_while_the_other_goes_on() {
    let mta = Sink::start("mta.test");
    let back = back(&mta);
    let kept = Behaviour { kept: Some(Choice::to("kept@x.test")), ..Behaviour::default() };
    let first = Sems::start("sems1.test", back.listen(), Behaviour::default());
    let second = Sems::start("sems2.test", back.listen(), kept);
    let lockgate = lockgate(back, &[("sems1", &first), ("sems2", &second)]);
    let send = |number: usize, to: &str| {
        let mail = Mail::short("cluster", number).to(&[to]);
        assert!(Client::open(lockgate.outbound()).deliver(&mail).is_positive());
    };
    for number in 0..10 {
        send(number, "<b@x.test>");
    }
    mta.wait_for(10, LONG);
    lockgate.cli(&["drain", "sems1", "--quiet-period", "1s"]).expect(3);
    let drained = until(&lockgate, "sems1", "drained", |report| report["phase"] == "drained");
    assert_eq!(lockgate.mode("outbound"), "pass", "the other takes mail");
    for number in 10..20 {
        send(number, if number == 15 { "<kept@x.test>" } else { "<b@x.test>" });
    }
    // Nine of them, and the sentinel.
    mta.wait_for(20, LONG);
    assert!(first.handle.inside().is_empty());
    let handed = drained["sums"]["outbound"]["handed"].as_u64();
    assert!(handed > Some(1), "it had some of the mail: {drained:#}");
    assert_eq!(second.handle.inside().len(), 1);
    assert_eq!(report(&lockgate, "sems1")["phase"], "drained", "{drained:#}");
    let words =
        ["drain", "sems2", "--wait", "--quiet-period", "1s", "--timeout", "4s", "-o", "json"];
    let answer = lockgate.cli(&words);
    assert_eq!(answer.code, 2, "{}", answer.said());
    assert_eq!(answer.json()["items"][0]["to"], "kept@x.test");
}
