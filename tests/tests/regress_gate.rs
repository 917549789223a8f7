//! Gates under bad luck: servers that come back, stall or stay silent; brakes and fences; names
//! that change; strangers at the door. Each story stands for a defect that a review found once.
//!
//! Invariants asked for: nothing reaches a server that a person should have looked at first; an
//! order takes effect however a server or a client stalls; what is not known means hold.
//!
//! Not here: what gates do on a good day (`hold`, `health`, `pass`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a story damages files behind lockgate's back")]

use std::fs;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use tests::client::{Client, Receipt, Style};
use tests::lockgate::{Gate, Lockgate, Member, Settings, states};
use tests::mail::Mail;
use tests::process::Signal;
use tests::sink::{Action, Rule, Session, Sink, Stage};
use tests::wait::{self, LONG};

/// Sends until it is accepted: what an MTA does.
fn queue(lockgate: &Lockgate, mail: &Mail) {
    wait::until_true("the message is accepted", LONG, || {
        Client::open(lockgate.outbound()).transaction(mail, Style::LockStep).accepted()
    });
}

/// One transaction from a thread of its own.
fn sending(address: SocketAddr, mail: Mail) -> JoinHandle<Receipt> {
    std::thread::spawn(move || Client::open(address).transaction(&mail, Style::LockStep))
}

/// The gate `outbound` before two members, `sems1` and `sems2`, both met.
fn before_two(one: &Sink, two: &Sink, keys: &[(&str, &str)]) -> Lockgate {
    let gate = keys.iter().fold(Gate::new("outbound"), |gate, (key, value)| gate.set(key, value));
    let gate = gate
        .member(Member::new("sems1", one.address()))
        .member(Member::new("sems2", two.address()));
    let lockgate = Settings::with([gate]).start();
    wait::until_true("both members are known", LONG, || {
        members(&lockgate).iter().all(|member| member["identity"].is_string())
    });
    lockgate
}

fn members(lockgate: &Lockgate) -> Vec<Value> {
    lockgate.gate_status("outbound")["members"].as_array().unwrap().clone()
}

fn is_cordoned(lockgate: &Lockgate, member: usize) -> bool {
    members(lockgate)[member]["cordoned"] == true
}

/// A gate with one member and a fence of a second.
fn fenced_before(sink: &Sink) -> Lockgate {
    let gate = Gate::to("outbound", sink.address()).set("fence_s", "1");
    Settings::with([gate]).start()
}

/// Goal: after a long outage of a whole cluster no member gets mail before a person has looked at
/// it, whichever comes back first.
/// Method: both took a probe before the outage, which proves nothing of what comes back.
#[test]
fn each_of_two_members_away_for_long_is_cordoned_when_it_returns() {
    let (mut one, mut two) = (Sink::start("one.test"), Sink::start("two.test"));
    let lockgate =
        before_two(&one, &two, &[("on_unreachable", "\"hold\""), ("health_outage_max_s", "1")]);
    lockgate.ok(&["probe", "outbound", "--to", "before@x.test"]);
    assert_eq!((one.count(), two.count()), (1, 1));
    one.forget();
    two.forget();

    one.stop();
    two.stop();
    queue(&lockgate, &Mail::short("away", 0));
    assert_eq!(lockgate.mode("outbound"), "hold");
    // The outage must outlast its limit: that is the claim.
    wait::let_pass(Duration::from_millis(1_300));
    one.start_again("one.test");
    two.start_again("two.test");
    // The one that is met first ends the hold for the outage; the other is met by mail.
    wait::until_true("both are cordoned", LONG, || {
        Client::open(lockgate.outbound()).transaction(&Mail::short("away", 1), Style::LockStep);
        is_cordoned(&lockgate, 0) && is_cordoned(&lockgate, 1)
    });
    assert_eq!((one.dots(), two.dots()), (0, 0), "no mail before a person has looked");
    let answer = lockgate.cli(&["release", "outbound"]);
    assert_ne!(answer.code, 0, "a probe of a better day: {answer:?}");
    assert!(answer.said().contains("lockgate probe outbound"), "{answer:?}");
    assert!(wait::stays(Duration::from_secs(1), || one.dots() + two.dots() == 0));

    lockgate.ok(&["probe", "outbound", "--member", "sems1", "--to", "after@x.test"]);
    assert_eq!(one.count(), 1);
    lockgate.cli(&["release", "outbound"]);
    lockgate.wait_until_empty(LONG);
    assert!(one.count() >= 2, "{}", one.count());
    assert_eq!((is_cordoned(&lockgate, 0), is_cordoned(&lockgate, 1)), (false, true));
    assert_eq!(two.dots(), 0, "the other waits for its own probe");

    lockgate.ok(&["probe", "outbound", "--member", "sems2", "--to", "after@x.test"]);
    lockgate.ok(&["release", "outbound"]);
    let mut client = Client::open(lockgate.outbound());
    for n in 10..14 {
        client.deliver(&Mail::short("away", n));
    }
    assert!(two.count() > 1, "in turn again");
}

/// Goal: the brake reaches what was begun before it, as any order does.
/// Method: a transaction stalls in the middle of its mail data, a connection idles in the pool; the
/// brake file appears, and nobody sends another MAIL.
#[test]
fn the_brake_aborts_what_stalls_before_its_final_dot_and_empties_the_pool() {
    let sink = Sink::start("sink.test");
    let lockgate = fenced_before(&sink);
    lockgate.meet("outbound", &sink);
    let mut stalled = Client::open(lockgate.outbound());
    let mail = Mail::short("brake", 1);
    assert_eq!(stalled.command(&mail.mail_line()).code, 250);
    assert_eq!(stalled.command(&mail.rcpt_lines()[0]).code, 250);
    assert_eq!(stalled.command("DATA").code, 354);
    stalled.send(b"Subject: half\r\n").unwrap();
    Client::open(lockgate.outbound()).deliver(&Mail::short("brake", 2));
    wait::until_true("one is at work, one idles", LONG, || sink.open_connections() == 2);

    fs::write(lockgate.data().join("hold"), b"").unwrap();
    lockgate.wait_for_mode("outbound", "hold", LONG);
    lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "5s"]);
    wait::until_true("no connection is left", LONG, || sink.open_connections() == 0);
    let about = |needle: &str| {
        let sessions = sink.sessions();
        let is_it = |said: &String| said.contains(needle);
        sessions.into_iter().find(|session| session.lines.iter().any(is_it)).unwrap()
    };
    assert_eq!(about("brake-00002").lines.last().unwrap(), "QUIT", "the idle one");
    assert_eq!(about("brake-00001").lines.last().unwrap(), "DATA", "no QUIT as mail data");

    stalled.send(b"\r\nother half\r\n.\r\n").unwrap();
    assert_eq!(stalled.expect_reply().code, 451);
    assert!(stalled.deliver(&mail).text().contains("held as"), "the client sends it again");
    assert_eq!(sink.dots(), 1);
}

/// Goal: a next hop that answers slowly does not keep a gate from being quiet.
/// Method: it keeps RCPT waiting for longer than fence and wait together.
#[test]
fn the_fence_does_not_wait_for_a_slow_next_hop_in_pass() {
    let sink = Sink::start("sink.test");
    let lockgate = fenced_before(&sink);
    lockgate.meet("outbound", &sink);
    sink.script(Rule::at(Stage::Rcpt, Action::Hold));
    let client = sending(lockgate.outbound(), Mail::short("slow", 1));
    sink.wait_for_holding(1);
    lockgate.hold("outbound");
    lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "4s"]);
    // The next hop has still not answered, so this is our word.
    let receipt = client.join().unwrap();
    assert_eq!(receipt.rcpt[0].code, 451, "{receipt:?}");
    sink.let_go();
    wait::until_true("the connection is given up", LONG, || sink.open_connections() == 0);
    assert_eq!((sink.dots(), lockgate.held().len()), (0, 0));
}

#[test]
fn the_fence_does_not_wait_for_a_slow_next_hop_in_replay() {
    let sink = Sink::start("sink.test");
    let lockgate = fenced_before(&sink);
    lockgate.meet("outbound", &sink);
    lockgate.hold("outbound");
    queue(&lockgate, &Mail::short("slow", 1));
    sink.script(Rule::at(Stage::Rcpt, Action::Hold).times(1));
    lockgate.release("outbound");
    sink.wait_for_holding(1);
    lockgate.hold("outbound");
    lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "4s"]);
    sink.let_go();
    assert!(wait::stays(Duration::from_secs(1), || sink.dots() == 0), "delivered behind a hold");
    let held = lockgate.held();
    assert_eq!(states(&held[0]), ["held"], "nothing has happened to it");
    lockgate.release("outbound");
    lockgate.wait_until_empty(LONG);
    assert_eq!(sink.copies()[Mail::short("slow", 1).key()], 1);
}

/// An order must not lapse because its gate got another name.
#[test]
fn serve_refuses_to_start_with_an_order_of_a_gate_that_is_gone() {
    let sink = Sink::start("sink.test");
    let mut lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    lockgate.stop();
    let mut before = Vec::new();
    lockgate.regate(|gates| {
        before = gates;
        vec![Gate::to("renamed", sink.address())]
    });
    let said = lockgate.serve_refused().1;
    assert!(said.contains("outbound") && said.contains("a story"), "names the order: {said}");
    lockgate.regate(|_| before);
    lockgate.serve();
    assert_eq!(lockgate.mode("outbound"), "hold");
}

/// A cordon must not lapse because its member got another name.
#[test]
fn serve_refuses_to_start_with_a_cordon_of_a_member_that_is_gone() {
    let sink = Sink::start("sink.test");
    let mut lockgate = Lockgate::before(&sink);
    lockgate.ok(&["cordon", "outbound", "sems1", "--reason", "a story"]);
    lockgate.stop();
    let mut before = Vec::new();
    lockgate.regate(|gates| {
        before = gates;
        vec![Gate::new("outbound").member(Member::new("sems9", sink.address()))]
    });
    let said = lockgate.serve_refused().1;
    assert!(said.contains("sems1") && said.contains("outbound"), "names the member: {said}");
    lockgate.regate(|_| before);
    lockgate.serve();
    assert_eq!(lockgate.member_status()["cordoned"], true);
    assert_eq!(sink.dots(), 0);
}

/// Goal: who the members were is not known any more, so nobody gets mail before a person looked.
#[test]
fn without_a_readable_file_of_members_the_gate_holds() {
    let damage: [fn(&std::path::Path); 2] = [
        |path| fs::remove_file(path).unwrap(),
        |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            fs::write(path, bytes).unwrap();
        },
    ];
    for spoil in damage {
        let mut sink = Sink::start("sink.test");
        let mut lockgate = Lockgate::before(&sink);
        lockgate.stop();
        spoil(&lockgate.data().join("members"));
        // Another server may answer now, and nothing could tell.
        sink.stop();
        sink.start_again("other.test");
        lockgate.serve();
        assert_eq!(lockgate.mode("outbound"), "hold");
        let reply = Client::open(lockgate.outbound()).deliver(&Mail::short("who", 1));
        assert!(reply.text().contains("held as"), "{reply:?}");
        let alarms = lockgate.alarms();
        assert!(alarms.iter().any(|alarm| alarm.contains("members")), "{alarms:?}");
        lockgate.restart();
        assert_eq!(lockgate.mode("outbound"), "hold", "durable");
        assert_eq!(sink.dots(), 0);
    }
}

/// Has `sink` keep the next MAIL waiting, sends one from a thread, and takes the server away under
/// it; the connection had carried a message before.
fn lose_the_server_at_mail(lockgate: &Lockgate, sink: &mut Sink, mail: Mail) -> Receipt {
    sink.script(Rule::at(Stage::Mail, Action::Hold).times(1));
    let sender = format!("MAIL FROM:{}", mail.reverse_path);
    let client = sending(lockgate.outbound(), mail);
    sink.wait_for_holding(1);
    let waiting = |session: &Session| session.lines.last().is_some_and(|l| l.starts_with(&sender));
    let session = sink.sessions().into_iter().find(waiting).unwrap();
    let mails = session.lines.iter().filter(|said| said.starts_with("MAIL ")).count();
    assert_eq!(mails, 2, "from the pool: {session:?}");
    sink.stop();
    client.join().unwrap()
}

#[test]
fn a_pooled_connection_that_dies_with_its_member_leaves_the_transaction_to_another() {
    let (mut one, two) = (Sink::start("one.test"), Sink::start("two.test"));
    let lockgate = before_two(&one, &two, &[]);
    let mut client = Client::open(lockgate.outbound());
    // In turn, until the next is the first member's.
    while one.count() == 0 || two.count() < one.count() {
        client.deliver(&Mail::short("dies", 0));
    }
    let (ones, twos) = (one.count(), two.count());
    let mail = Mail::short("dies", 1);
    let key = mail.key().to_owned();
    let receipt = lose_the_server_at_mail(&lockgate, &mut one, mail);
    assert!(receipt.accepted(), "{receipt:?}");
    assert_eq!((one.count(), two.count()), (ones, twos + 1));
    assert_eq!(two.copies()[&key], 1);
}

#[test]
fn a_pooled_connection_that_dies_with_the_only_member_leaves_the_transaction_held() {
    let mut sink = Sink::start("sink.test");
    let gate = Gate::to("outbound", sink.address()).set("on_unreachable", "\"hold\"");
    let lockgate = Settings::with([gate]).start();
    lockgate.meet("outbound", &sink);
    let mail = Mail::short("dies", 1);
    let key = mail.key().to_owned();
    let receipt = lose_the_server_at_mail(&lockgate, &mut sink, mail);
    assert!(receipt.end.as_ref().is_some_and(|end| end.text().contains("held as")), "{receipt:?}");
    assert_eq!(lockgate.held().len(), 1);
    sink.start_again("sink.test");
    lockgate.wait_until_empty(LONG);
    assert_eq!(sink.copies()[&key], 1);
}

/// A gate before a member that takes connections and says nothing.
fn before_a_silent_member() -> (Sink, Lockgate) {
    let sink = Sink::start("silent.test");
    sink.script(Rule::at(Stage::Banner, Action::Silence));
    let gate = Gate::to("outbound", sink.address()).set("fence_s", "1");
    let lockgate = Settings::with([gate]).set("", "stop_s", "1").start();
    wait::until_true("the member is being met", LONG, || sink.open_connections() == 1);
    (sink, lockgate)
}

#[track_caller]
fn stops_soon(mut lockgate: Lockgate) {
    let start = Instant::now();
    lockgate.process().signal(Signal::TERM);
    let status = lockgate.process().wait_for_end(LONG);
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(9), "stopped after {:?}", start.elapsed());
}

/// Goal: a member that was never seen and stays silent delays neither an order nor a stop.
#[test]
fn meeting_a_silent_member_delays_neither_an_order_nor_a_stop() {
    let (sink, lockgate) = before_a_silent_member();
    lockgate.hold("outbound");
    lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "5s"]);
    wait::until_true("it is given up", LONG, || sink.open_connections() == 0);
    lockgate.release("outbound");
    wait::until_true("the member is being met again", LONG, || sink.open_connections() == 1);
    stops_soon(lockgate);
}

#[test]
fn a_client_before_a_silent_member_delays_neither_an_order_nor_a_stop() {
    let (sink, lockgate) = before_a_silent_member();
    let client = sending(lockgate.outbound(), Mail::short("mute", 1));
    wait::until_true("its transaction asks the member", LONG, || sink.open_connections() == 2);
    lockgate.hold("outbound");
    lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "5s"]);
    let receipt = client.join().unwrap();
    assert_eq!(receipt.last().unwrap().code, 451, "{receipt:?}");
    lockgate.release("outbound");
    wait::until_true("the member is being met again", LONG, || sink.open_connections() == 1);
    let client = sending(lockgate.outbound(), Mail::short("mute", 2));
    wait::until_true("its transaction asks the member", LONG, || sink.open_connections() == 2);
    stops_soon(lockgate);
    assert!(!client.join().unwrap().accepted());
    assert_eq!(sink.dots(), 0);
}

#[test]
fn a_replay_to_a_silent_member_delays_neither_an_order_nor_a_stop() {
    let (sink, lockgate) = before_a_silent_member();
    lockgate.hold("outbound");
    wait::until_true("it is given up", LONG, || sink.open_connections() == 0);
    queue(&lockgate, &Mail::short("mute", 1));
    lockgate.release("outbound");
    wait::until_true("the replay asks the member", LONG, || sink.open_connections() == 1);
    lockgate.hold("outbound");
    lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "5s"]);
    assert_eq!(states(&lockgate.held()[0]), ["held"], "nothing has happened to it");
    wait::until_true("it is given up", LONG, || sink.open_connections() == 0);
    lockgate.release("outbound");
    wait::until_true("the replay asks the member again", LONG, || sink.open_connections() == 1);
    stops_soon(lockgate);
}

/// Goal: whoever may not be served cannot keep those from being served who may.
/// Method: a hundred strangers connect, say nothing and do not leave; lockgate has room for fewer
/// open files than that.
#[test]
fn a_hundred_silent_strangers_do_not_keep_a_client_waiting() {
    const ROOM: u64 = 90;
    let sink = Sink::start("sink.test");
    let gate = Gate::to("outbound", sink.address()).set("allow", r#"["127.0.0.1/32"]"#);
    let mut lockgate = Settings::with([gate])
        .set("session", "connections_max", "10")
        .set("session", "connections_per_client_max", "10")
        .start();
    lockgate.meet("outbound", &sink);
    let id = lockgate.process().id();
    let open = fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() as u64;
    let limit = Rlimit { current: Some(open + ROOM), maximum: Some(open + ROOM) };
    let process = Pid::from_raw(id.try_into().unwrap()).unwrap();
    prlimit(Some(process), Resource::Nofile, limit).unwrap();

    let stranger = Some("127.0.0.2".parse().unwrap());
    let mut strangers: Vec<Client> =
        (0..100).map(|_| Client::connect(lockgate.outbound(), stranger).unwrap()).collect();
    assert_eq!(strangers[0].expect_reply().code, 554);
    let start = Instant::now();
    let mut clients: Vec<Client> = (0..8).map(|_| Client::open(lockgate.outbound())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.deliver(&Mail::short("door", n));
    }
    // Before the patience of lockgate with the first stranger is over.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(sink.count(), clients.len());
    drop(strangers);
}
