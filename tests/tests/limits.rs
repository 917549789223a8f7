//! Limits: what one client, or many, can do to lockgate, and what they cannot.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::time::Duration;

use tests::client::{Client, Lost, Style};
use tests::lockgate::{Gate, Lockgate, Settings};
use tests::mail::{Kind, MIB, Mail};
use tests::sink::Sink;
use tests::wait::{self, LONG};

/// What lockgate may take while large mail goes through it: its queue, its buffers, and what the
/// allocator has not given back yet; less than the mail.
const MEMORY: usize = 50 * MIB;

fn with(settings: &[(&str, &str)]) -> (Sink, Lockgate) {
    let sink = Sink::start("sink.test");
    let base = Settings::with([Gate::to("outbound", sink.address())]);
    let settings = settings.iter().fold(base, |all, (key, value)| all.set("session", key, value));
    let lockgate = settings.start();
    lockgate.meet("outbound", &sink);
    (sink, lockgate)
}

fn enhanced(reply: &tests::client::Reply) -> (u16, String) {
    (reply.code, reply.text().split(' ').next().unwrap().to_owned())
}

#[test]
fn too_many_connections_get_421_and_the_others_go_on() {
    for key in ["connections_max", "connections_per_client_max"] {
        let (_sink, lockgate) = with(&[(key, "5")]);
        let mut open: Vec<Client> = Vec::new();
        wait::until_true("five are open", LONG, || {
            // Earlier connections may still be on their way out.
            if let Ok(client) = Client::try_open(lockgate.outbound(), None) {
                open.push(client);
            }
            open.len() == 5
        });
        let mut sixth = Client::connect(lockgate.outbound(), None).unwrap();
        assert_eq!(enhanced(&sixth.expect_reply()), (421, "4.7.0".to_owned()), "{key}");
        assert_eq!(sixth.read(), Err(Lost::Closed));
        open.pop().unwrap().quit();
        wait::until("there is room again", LONG, || {
            Client::try_open(lockgate.outbound(), None).ok()
        });
        open[0].deliver(&Mail::short("c", 1));
    }
}

#[test]
fn too_many_errors_close_the_session() {
    let (_sink, lockgate) = with(&[("errors_max", "10")]);
    let mut client = Client::open(lockgate.outbound());
    let codes: Vec<u16> =
        (0..11).map_while(|_| client.try_command("FROB").ok()).map(|r| r.code).collect();
    assert_eq!(codes.last(), Some(&421), "{codes:?}");
    assert!((9..=11).contains(&codes.len()), "{codes:?}");
    assert_eq!(client.read(), Err(Lost::Closed));
}

#[test]
fn an_idle_session_is_closed_at_its_deadline() {
    let (_sink, lockgate) = with(&[("command_s", "1")]);
    let mut client = Client::open(lockgate.outbound()).patient(Duration::from_secs(10));
    assert_eq!(enhanced(&client.expect_reply()), (421, "4.4.2".to_owned()));
    assert_eq!(client.read(), Err(Lost::Closed));
}

#[test]
fn mail_data_that_stands_still_is_given_up_at_its_deadline() {
    for hold in [false, true] {
        let (sink, lockgate) = with(&[("data_block_s", "1")]);
        if hold {
            lockgate.hold("outbound");
        }
        let mut client = Client::open(lockgate.outbound()).patient(Duration::from_secs(10));
        for line in ["MAIL FROM:<a@client.test>", "RCPT TO:<b@x.test>"] {
            assert_eq!(client.command(line).code, 250);
        }
        assert_eq!(client.command("DATA").code, 354);
        client.send(b"Subject: half\r\n").unwrap();
        assert_eq!(client.expect_reply().code, 421);
        assert_eq!(client.read(), Err(Lost::Closed));
        assert_eq!(sink.dots(), 0);
        assert!(lockgate.held().is_empty());
    }
}

/// Goal: many sessions at once, each slow, none starving another.
#[test]
fn three_hundred_open_sessions_do_not_stop_the_next() {
    let (sink, mut lockgate) = with(&[]);
    let mut open: Vec<Client> = (0..300).map(|_| Client::open(lockgate.outbound())).collect();
    for client in &mut open {
        client.send(b"MAIL FROM:<a@cli").unwrap();
    }
    Client::open(lockgate.outbound()).deliver(&Mail::short("s", 1));
    assert!(lockgate.resident_octets() < 150 * MIB);
    for client in open.iter_mut().take(20) {
        client.send(b"ent.test>\r\n").unwrap();
        assert_eq!(client.expect_reply().code, 250);
    }
    assert_eq!(sink.count(), 1);
}

/// Goal: in hold as well mail data streams through bounded memory.
#[test]
fn a_60_mib_message_is_held_and_replayed_in_bounded_memory() {
    let (sink, mut lockgate) = with(&[]);
    lockgate.hold("outbound");
    let before = lockgate.resident_octets();
    let mail = Mail::new("big", 1, Kind::Attachment(44 * MIB));
    assert!(mail.data.len() > 58 * MIB);
    let mut client = Client::open(lockgate.outbound()).patient(Duration::from_secs(60));
    client.deliver(&mail);
    let held = lockgate.resident_octets();
    assert!(held < before + MEMORY, "grew by {} MiB", (held - before) / MIB);
    lockgate.release("outbound");
    sink.wait_for(1, Duration::from_secs(60));
    assert!(lockgate.resident_octets() < before + MEMORY);
    assert!(sink.one(mail.key()).data_without_trace() == mail.data);
}

/// A client that sends and never reads its replies is cut off, and costs no more than its buffers: what it sends is more
/// than twice the bound, in which a process that has just started has room for its threads and its database.
#[test]
fn a_client_that_never_reads_is_cut_off() {
    let (_sink, mut lockgate) = with(&[("write_s", "1")]);
    let before = lockgate.resident_octets();
    let mut client = Client::open(lockgate.outbound()).patient(Duration::from_secs(8));
    let commands = b"NOOP\r\n".repeat(20_000);
    let mut cut_off = false;
    for _ in 0..400 {
        if client.send(&commands).is_err() {
            cut_off = true;
            break;
        }
    }
    assert!(cut_off, "it took {} commands without an answer", 400 * 20_000);
    let grown = lockgate.resident_octets().saturating_sub(before);
    assert!(grown < 24 * MIB, "grew by {} KiB", grown / 1024);
    Client::open(lockgate.outbound()).deliver(&Mail::short("n", 1));
}

#[test]
fn a_line_of_40_mib_in_mail_data_passes_and_is_held() {
    let (sink, mut lockgate) = with(&[]);
    let before = lockgate.resident_octets();
    for (n, hold) in [(1, false), (2, true)] {
        if hold {
            lockgate.hold("outbound");
        }
        let mut mail = Mail::short("line", n);
        mail.data.extend_from_slice(&vec![b'x'; 40 * MIB]);
        mail.data.extend_from_slice(b"\r\n");
        let mut client = Client::open(lockgate.outbound()).patient(Duration::from_secs(60));
        assert!(client.transaction(&mail, Style::Pipelined).accepted());
        if hold {
            lockgate.release("outbound");
        }
        sink.wait_for(n, LONG);
        assert!(sink.one(mail.key()).data_without_trace() == mail.data);
    }
    assert!(lockgate.resident_octets() < before + MEMORY);
}
