//! TLS on both sides: towards clients, and towards members as each demands.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::path::Path;

use tempfile::TempDir;

use tests::client::{Client, Lost, Style};
use tests::lockgate::{Gate, Lockgate, Member, Settings};
use tests::mail::{self, Kind, Mail};
use tests::sink::{Action, Rule, Sink, Stage};
use tests::tls::{self, Authority};
use tests::wait::{self, LONG};

/// The key `tls` of a gate with a certificate of this authority.
fn server(authority: &Authority, folder: &Path, mode: &str) -> String {
    let (certificate, key) = authority.issue(&["lockgate.test"]).write(folder, "gate");
    format!("{{ mode = {mode:?}, certificate = {certificate:?}, key = {key:?} }}")
}

/// Lockgate with TLS towards its clients, before a next hop in clear.
fn towards_clients(mode: &str) -> (Authority, TempDir, Sink, Lockgate) {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::start("sink.test");
    let gate =
        Gate::to("outbound", sink.address()).set("tls", &server(&authority, folder.path(), mode));
    let lockgate = Settings::with([gate]).start();
    (authority, folder, sink, lockgate)
}

#[test]
fn starttls_is_offered_and_the_session_begins_anew_under_it() {
    let (authority, _folder, sink, lockgate) = towards_clients("may");
    let mut clear = Client::open(lockgate.outbound());
    clear.deliver(&Mail::short("t", 1));
    assert!(clear.ehlo.offers("STARTTLS"));
    let mut client = clear.starttls(authority.client(), "lockgate.test");
    assert!(!client.ehlo.offers("STARTTLS"));
    assert_eq!(client.command("STARTTLS").code, 503);
    client.deliver(&Mail::new("t", 2, Kind::Attachment(300_000)));
    let with = |n| {
        let found = sink.one(Mail::short("t", n).key());
        mail::field(&found.data, "Received").unwrap()
    };
    assert!(with(1).contains("with ESMTP id"), "{}", with(1));
    assert!(with(2).contains("with ESMTPS id"), "{}", with(2));

    lockgate.hold("outbound");
    client.deliver(&Mail::short("t", 3));
    lockgate.release("outbound");
    sink.wait_for(3, LONG);
    assert!(with(3).contains("with ESMTPS id"), "as it came in: {}", with(3));
}

#[test]
fn where_tls_is_required_mail_waits_for_it() {
    let (authority, _folder, sink, lockgate) = towards_clients("require");
    let mut client = Client::open(lockgate.outbound());
    let reply = client.command("MAIL FROM:<a@client.test>");
    assert_eq!((reply.code, reply.text().split(' ').next().unwrap()), (530, "5.7.0"));
    assert_eq!(client.command("NOOP").code, 250);
    let mut client = client.starttls(authority.client(), "lockgate.test");
    client.deliver(&Mail::short("t", 1));
    assert_eq!(sink.count(), 1);
}

#[test]
fn implicit_tls_speaks_it_from_the_first_octet() {
    let (authority, _folder, sink, lockgate) = towards_clients("implicit");
    let mut client = Client::open_tls(lockgate.outbound(), authority.client(), "lockgate.test");
    assert!(!client.ehlo.offers("STARTTLS"));
    client.deliver(&Mail::short("t", 1));
    assert_eq!(sink.count(), 1);
}

/// Goal: what came in clear after STARTTLS is not executed under TLS (command injection).
#[test]
fn commands_sent_together_with_starttls_are_thrown_away() {
    let (_authority, _folder, sink, lockgate) = towards_clients("may");
    let mut client = Client::open(lockgate.outbound());
    client.send(b"STARTTLS\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<victim@x.test>\r\n").unwrap();
    // Either the handshake goes on without them, or the session ends; never an answer to them.
    match client.read() {
        Ok(reply) => {
            assert!(matches!(reply.code, 220 | 421 | 501 | 503 | 554), "{reply:?}");
            assert!(!matches!(client.read(), Ok(reply) if reply.code == 250));
        }
        Err(lost) => assert_eq!(lost, Lost::Closed),
    }
    assert_eq!(sink.dots(), 0);
}

/// Lockgate in clear towards clients, before a member with this demand.
fn before_member(sink: &Sink, demand: &str, more: &[(&str, String)]) -> Lockgate {
    let member = Member::new("sems1", sink.address()).set("tls", &format!("{demand:?}"));
    let member = more.iter().fold(member, |member, (key, value)| member.set(key, value));
    Settings::with([Gate::new("outbound").member(member)]).start()
}

#[test]
fn may_uses_tls_where_it_is_offered_and_goes_on_without_it() {
    let authority = Authority::new();
    let sink = Sink::start("sink.test");
    sink.offer_tls(authority.issue(&["sink.test"]).server());
    let lockgate = before_member(&sink, "may", &[]);
    Client::open(lockgate.outbound()).deliver(&Mail::short("m", 1));
    assert!(sink.taken()[0].tls);

    let plain = Sink::start("sink.test");
    let lockgate = before_member(&plain, "may", &[]);
    Client::open(lockgate.outbound()).deliver(&Mail::short("m", 2));
    assert!(!plain.taken()[0].tls);
}

#[test]
fn none_does_not_use_tls_though_it_is_offered() {
    let sink = Sink::start("sink.test");
    sink.offer_tls(Authority::new().issue(&["sink.test"]).server());
    let lockgate = before_member(&sink, "none", &[]);
    Client::open(lockgate.outbound()).deliver(&Mail::short("m", 1));
    assert!(!sink.taken()[0].tls);
}

/// Never fail open: where TLS is demanded, mail never goes in clear, in pass nor in replay.
#[test]
fn require_and_verify_never_go_on_in_clear() {
    for demand in ["require", "verify"] {
        let sink = Sink::start("sink.test");
        let lockgate = before_member(&sink, demand, &[]);
        let mut client = Client::open(lockgate.outbound());
        let receipt = client.transaction(&Mail::short("r", 1), Style::LockStep);
        assert_eq!(receipt.mail.unwrap().code, 451, "{demand}");
        lockgate.hold("outbound");
        client.deliver(&Mail::short("r", 2));
        lockgate.release("outbound");
        wait::until_true("it was tried", LONG, || {
            sink.sessions().iter().any(|session| session.ended)
        });
        assert_eq!((sink.dots(), lockgate.held().len()), (0, 1), "{demand}");
        let mail = |line: &String| line.starts_with("MAIL");
        assert!(!sink.sessions().iter().any(|session| session.lines.iter().any(mail)));
    }
}

/// Goal: under TLS too, a reply that came before the last octet is no acceptance of the message.
#[test]
fn a_250_before_the_final_dot_is_not_believed_under_tls() {
    let authority = Authority::new();
    let sink = Sink::start("sink.test");
    sink.offer_tls(authority.issue(&["sink.test"]).server());
    let lockgate = before_member(&sink, "require", &[]);
    // The first fills the pool, where what the server says after a handshake has been read.
    let mut client = Client::open(lockgate.outbound());
    client.deliver(&Mail::short("w", 1));
    sink.script(Rule::at(Stage::Middle, Action::Reply(vec!["250 2.0.0 eager".into()])));
    sink.script(Rule::at(Stage::End, Action::Silence));
    for line in ["MAIL FROM:<a@client.test>", "RCPT TO:<b@x.test>"] {
        assert_eq!(client.command(line).code, 250);
    }
    assert_eq!(client.command("DATA").code, 354);
    client.send(&Mail::new("w", 2, Kind::Attachment(1 << 20)).data).unwrap();
    sink.wait_for_out_of_turn(1);
    client.send(b".\r\n").unwrap();
    assert_eq!(client.expect_reply().code, 451);
}

/// A server that offers STARTTLS and then refuses it is not spoken to in clear either.
#[test]
fn a_refused_starttls_is_451_where_tls_is_demanded() {
    let sink = Sink::start("sink.test");
    sink.offer_tls(Authority::new().issue(&["sink.test"]).server());
    sink.script(Rule::reply(Stage::StartTls, "454 4.7.0 not now"));
    let lockgate = before_member(&sink, "require", &[]);
    let receipt =
        Client::open(lockgate.outbound()).transaction(&Mail::short("s", 1), Style::LockStep);
    assert_eq!(receipt.mail.unwrap().code, 451);
    assert_eq!(sink.dots(), 0);
}

#[test]
fn require_takes_any_certificate_and_verify_only_a_trusted_one_of_the_right_name() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let ca = format!("{:?}", authority.write(folder.path()));
    let cases = [
        ("require", &stranger, "other.test", true),
        ("verify", &authority, "sems1.test", true),
        ("verify", &authority, "other.test", false),
        ("verify", &stranger, "sems1.test", false),
    ];
    for (demand, issuer, name, accepted) in cases {
        let sink = Sink::start("sink.test");
        sink.offer_tls(issuer.issue(&[name]).server());
        let more = [("ca_file", ca.clone()), ("tls_name", "\"sems1.test\"".to_owned())];
        let lockgate = before_member(&sink, demand, &more);
        let receipt =
            Client::open(lockgate.outbound()).transaction(&Mail::short("v", 1), Style::LockStep);
        assert_eq!(receipt.accepted(), accepted, "{demand} {name}: {receipt:?}");
        if accepted {
            assert!(sink.taken()[0].tls);
        } else {
            assert_eq!(receipt.mail.unwrap().code, 451);
            assert_eq!(sink.dots(), 0);
        }
    }
}

/// Under TLS the identity of a member is its certificate: another one is another server.
#[test]
fn another_certificate_is_another_server() {
    let authority = Authority::new();
    let mut sink = Sink::start("sink.test");
    sink.offer_tls(authority.issue(&["sink.test"]).server());
    let lockgate = before_member(&sink, "require", &[]);
    Client::open(lockgate.outbound()).deliver(&Mail::short("i", 1));
    sink.stop();
    sink.offer_tls(authority.issue(&["sink.test"]).server());
    sink.start_again("sink.test");
    wait::until_true("the next is accepted", LONG, || {
        let mut client = Client::open(lockgate.outbound());
        client.transaction(&Mail::short("i", 2), Style::LockStep).accepted()
    });
    assert_eq!(sink.count(), 1, "held, not given to the stranger");
    assert_eq!(lockgate.member_status()["cordoned"], true);
}

#[test]
fn both_sides_under_tls_are_hop_by_hop() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::start("sink.test");
    sink.offer_tls(authority.issue(&["sink.test"]).server());
    let member = Member::new("sems1", sink.address()).set("tls", "\"require\"");
    let gate =
        Gate::new("outbound").member(member).set("tls", &server(&authority, folder.path(), "may"));
    let lockgate = Settings::with([gate]).start();
    let mut client =
        Client::open(lockgate.outbound()).starttls(tls::trusting_client(), "lockgate.test");
    let mails: Vec<Mail> =
        [Kind::Dots, Kind::LongLines, Kind::Attachment(3_000_000), Kind::Nothing]
            .into_iter()
            .enumerate()
            .map(|(n, kind)| Mail::new("b", n, kind))
            .collect();
    for mail in &mails {
        let receipt = client.transaction(mail, Style::Pipelined);
        assert!(receipt.accepted(), "{receipt:?}");
        let found = sink.one(mail.key());
        assert!(found.tls && found.data_without_trace() == mail.data);
    }
}
