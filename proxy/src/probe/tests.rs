//! Probes to members that answer by a script.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use disk::{Disk, FaultyDisk};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::*;
use crate::config::OnUnreachable;
use crate::gate::{Effect, Gates, Holder, HolderKind, OrderBook, Plan};
use crate::health::Health;
use crate::id::Ids;
use crate::metrics::{Metrics, RelayCounts};
use crate::relay::{self, HostPort, Memory, NextHop, Relay, Tls, Trust};
use crate::spool::{self, Key, Spool};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Replies of a member to what it is told.
#[derive(Clone, Copy)]
struct Script {
    host: &'static str,
    ehlo: &'static str,
    mail: &'static str,
    rcpt: &'static str,
    end_of_data: &'static str,
}

const GOOD: Script = Script {
    host: "sems.example.net",
    ehlo: "250 PIPELINING",
    mail: "250 2.1.0 ok",
    rcpt: "250 2.1.5 ok",
    end_of_data: "250 2.0.0 queued as 4711",
};

/// A member that serves one connection; all that it was told, and where it is. `mail` fires when
/// it has seen MAIL.
async fn serve(
    script: Script,
    mail: Option<oneshot::Sender<()>>,
) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut mail = mail;
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (input, mut output) = stream.into_split();
        let mut lines = BufReader::new(input).lines();
        let mut told = String::new();
        let mut reply = format!("220 {} ESMTP\r\n", script.host);
        let mut in_data = false;
        loop {
            if output.write_all(reply.as_bytes()).await.is_err() {
                return told;
            }
            let Ok(Some(line)) = lines.next_line().await else {
                return told;
            };
            told.push_str(&line);
            told.push('\n');
            let text = match line.split([' ', ':']).next().unwrap_or_default() {
                _ if in_data && line != "." => "",
                "." => {
                    in_data = false;
                    script.end_of_data
                }
                "EHLO" => script.ehlo,
                "MAIL" => {
                    mail.take().map(|mail| mail.send(()));
                    script.mail
                }
                "RCPT" => script.rcpt,
                "DATA" => {
                    in_data = true;
                    "354 go on"
                }
                _ => return told,
            };
            reply = if text.is_empty() { String::new() } else { format!("{text}\r\n") };
        }
    });
    (port, task)
}

/// A gate `out` with the member `sems1` at `port`.
fn corridor(port: u16) -> (Arc<Gates>, Corridor) {
    let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::default());
    OrderBook::create(&*disk).unwrap();
    let book = OrderBook::load(Arc::clone(&disk), &["out"], 1).unwrap();
    let name: Arc<str> = "out".into();
    let plan = Plan { name: Arc::clone(&name), returns: None, members: vec!["sems1".into()] };
    let gates = Gates::new(vec![plan], book, PathBuf::from("/nonexistent/brake"));
    let gate = gates.named("out").unwrap();
    let metrics = Metrics::new().of_gate("out");
    let (memory, _) = Memory::load(Arc::clone(&disk)).unwrap();
    let next_hop = NextHop {
        key: "out/sems1".into(),
        member: "sems1".into(),
        address: HostPort::new("127.0.0.1", port),
        source: None,
        helo: smtp::ClientName::new("gate.example.net").unwrap(),
        tls: Tls::none(),
    };
    let counts = Box::new(RelayCounts(Arc::clone(&metrics)));
    let relay = Arc::new(Relay::new(
        relay::Config::default(),
        vec![next_hop],
        Arc::new(memory),
        Trust::Learned { outage_max: None },
        counts,
    ));
    let config = spool::Config { free_bytes_min: 0, ..spool::Config::default() };
    let journal = crate::journal::Config::default();
    let journal = crate::journal::Journal::open(Arc::clone(&disk), &journal, "", 0);
    let (spool, _) = Spool::open(disk, &config, Key::from_bytes([7; 32]), &[name]).unwrap();
    let ids = Arc::new(Ids::new(None));
    let health = Arc::new(Health::new(
        Arc::clone(&gates),
        gate.clone(),
        Arc::clone(&relay),
        spool.clone(),
        Arc::clone(&ids),
        crate::health::Settings {
            on_unreachable: OnUnreachable::Refuse,
            outage_max: Duration::from_secs(600),
            fence: Duration::from_secs(60),
        },
    ));
    let corridor = Corridor {
        gate,
        relay,
        spool,
        journal,
        ids,
        health,
        metrics,
        host: "gate.example.net".into(),
        trace: true,
        recipient_domains: Vec::new(),
        repeats: None,
        tokens: Arc::default(),
    };
    (gates, corridor)
}

fn learn(corridor: &Corridor, identity: &str) {
    let seen = relay::Seen {
        extensions: Extensions::none(),
        identity: identity.to_owned(),
        tls: None,
        at_unix_ms: 1,
    };
    corridor.relay.memory().saw("out/sems1", &seen, None).unwrap();
}

async fn run(corridor: &Corridor, from: Option<&str>, to: &str) -> ProbeResult {
    send(corridor, Request { from, to, message: None }).await
}

async fn send(corridor: &Corridor, request: Request<'_>) -> ProbeResult {
    tokio::time::timeout(TIMEOUT, probe(corridor, 0, request)).await.unwrap()
}

#[tokio::test]
async fn a_probe_that_is_taken_says_so_and_can_be_found_by_its_message_id() {
    let (port, member) = serve(GOOD, None).await;
    let (_, corridor) = corridor(port);
    let result = run(&corridor, Some("a@example.org"), "b@example.com").await;
    assert!(result.accepted, "{result:?}");
    assert_eq!(result.stage, Stage::EndOfData);
    assert_eq!(result.reply, "250 2.0.0 queued as 4711");
    assert_eq!(result.identity.as_deref(), Some("host sems.example.net"));
    assert!(!result.identity_changed);
    let told = member.await.unwrap();
    let begin = "EHLO gate.example.net\nMAIL FROM:<a@example.org>\nRCPT TO:<b@example.com>\nDATA\n";
    assert!(told.starts_with(begin), "{told}");
    assert!(told.contains(&format!("Message-ID: {}\n", result.message_id)), "{told}");
    assert!(told.contains("Subject: lockgate probe\n"), "{told}");
    assert!(told.contains("Auto-Submitted: auto-generated\n"), "{told}");
    assert!(told.ends_with(".\nQUIT\n"), "{told}");
    assert_eq!(corridor.gate.alive().len(), 0, "the permit is gone");
    let known = corridor.relay.known(0);
    assert_eq!(known.identity.as_deref(), Some("host sems.example.net"));
}

#[tokio::test]
async fn another_server_is_reported_and_may_be_accepted_once_it_took_the_probe() {
    let (port, _) = serve(GOOD, None).await;
    let (_, corridor) = corridor(port);
    learn(&corridor, "host old.example.net");
    let result = run(&corridor, None, "b@example.com").await;
    assert!(result.accepted && result.identity_changed, "{result:?}");
    let known = corridor.relay.known(0);
    assert_eq!(known.identity.as_deref(), Some("host old.example.net"), "not accepted by itself");
    assert_eq!(known.stranger.as_deref(), Some("host sems.example.net"));
    assert_eq!(known.probed.map(|probed| probed.identity), known.stranger);
}

#[tokio::test]
async fn a_refusal_names_its_stage_and_clears_nobody() {
    let refusals = [
        (Script { mail: "451 4.3.2 later", ..GOOD }, Stage::Mail, "451 4.3.2 later"),
        (Script { rcpt: "550 5.7.1 no", ..GOOD }, Stage::Rcpt, "550 5.7.1 no"),
        (Script { end_of_data: "554 5.6.0 no", ..GOOD }, Stage::EndOfData, "554 5.6.0 no"),
    ];
    for (script, stage, reply) in refusals {
        let (port, member) = serve(script, None).await;
        let (_, corridor) = corridor(port);
        learn(&corridor, "host old.example.net");
        let result = run(&corridor, None, "b@example.com").await;
        assert!(!result.accepted);
        assert_eq!((result.stage, result.reply.as_str()), (stage, reply));
        assert_eq!(corridor.relay.known(0).probed, None);
        let told = member.await.unwrap();
        assert!(told.contains("MAIL FROM:<>\n") && told.ends_with("QUIT\n"), "{told}");
    }
}

#[tokio::test]
async fn a_lost_reply_to_the_end_of_data_is_no_yes() {
    let (port, _) = serve(Script { end_of_data: "rubbish", ..GOOD }, None).await;
    let (_, corridor) = corridor(port);
    let result = run(&corridor, None, "b@example.com").await;
    assert!(!result.accepted);
    assert_eq!(result.stage, Stage::EndOfData);
    assert!(result.reply.starts_with("nobody knows"), "{result:?}");
    assert_eq!(corridor.relay.known(0).probed, None);
}

#[tokio::test]
async fn a_member_that_is_not_there_fails_at_connect() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (_, corridor) = corridor(port);
    let result = run(&corridor, None, "b@example.com").await;
    assert!(!result.accepted);
    assert_eq!(result.stage, Stage::Connect);
    assert_eq!(result.identity, None);
}

#[tokio::test]
async fn what_is_no_address_is_not_sent() {
    let (_, corridor) = corridor(1);
    for (from, to, stage) in [
        (None, "b@example.com>\r\nRCPT TO:<c@example.com", Stage::Rcpt),
        (None, "", Stage::Rcpt),
        (Some("a b"), "b@example.com", Stage::Mail),
    ] {
        let result = run(&corridor, from, to).await;
        assert_eq!(result.stage, stage);
        assert!(result.reply.starts_with("nothing was sent"), "{result:?}");
    }
}

#[tokio::test]
async fn an_address_beyond_ascii_needs_smtputf8() {
    let (port, member) = serve(GOOD, None).await;
    let (_, corridor) = corridor(port);
    let result = run(&corridor, None, "j\u{fc}rg@example.com").await;
    assert!(!result.accepted);
    assert!(result.reply.contains("SMTPUTF8"), "{result:?}");
    assert!(!member.await.unwrap().contains("MAIL"));
}

#[tokio::test]
async fn a_held_gate_lets_a_probe_through_and_a_fence_ends_it_before_the_final_dot() {
    let (port, _) = serve(GOOD, None).await;
    let (gates, held) = corridor(port);
    let holder = Holder::new(HolderKind::Operator, "test");
    let order = |gate| gates.place(&[gate], &Effect::Hold, &holder, "upgrade").unwrap();
    order(held.gate.clone());
    assert!(run(&held, None, "b@example.com").await.accepted);

    let (tell, told_mail) = oneshot::channel();
    // It does not answer MAIL: an empty reply is none.
    let (port, member) = serve(Script { mail: "", ..GOOD }, Some(tell)).await;
    let (gates, fenced) = corridor(port);
    let running = async {
        told_mail.await.unwrap();
        let placed = gates
            .place(std::slice::from_ref(&fenced.gate), &Effect::Hold, &holder, "upgrade")
            .unwrap();
        assert_eq!(fenced.gate.abort_older(placed[0].1, None), 1);
    };
    let (result, ()) = tokio::join!(run(&fenced, None, "b@example.com"), running);
    assert!(!result.accepted);
    assert_eq!(result.stage, Stage::Mail);
    assert!(result.reply.contains("aborted"), "{result:?}");
    assert!(!member.await.unwrap().contains("DATA"));
    assert_eq!(fenced.gate.alive().len(), 0);
}

const GIVEN: &str = "From: a@example.org\r\nSubject: [secret] x\r\nX-Sensitivity: high\r\n\r\n.\r\n..two\r\nend\r\n";

async fn run_given(corridor: &Corridor, message: &[u8]) -> ProbeResult {
    let message = Message::parse(message.to_vec()).unwrap();
    let from = Some("a@example.org");
    send(corridor, Request { from, to: "b@example.com", message: Some(&message) }).await
}

#[tokio::test]
async fn a_given_message_goes_as_it_is_below_the_marks_of_the_probe() {
    let (port, member) = serve(GOOD, None).await;
    let (_, corridor) = corridor(port);
    let result = run_given(&corridor, GIVEN.as_bytes()).await;
    assert!(result.accepted, "{result:?}");
    let token = result.token.unwrap();
    let told = member.await.unwrap();
    let data = format!(
        "DATA\nX-Lockgate-Probe: {token}\nMessage-ID: {}\nFrom: a@example.org\nSubject: [secret] x\n\
         X-Sensitivity: high\n\n..\n...two\nend\n.\nQUIT\n",
        result.message_id
    );
    assert!(told.ends_with(&data), "{told}");
}

#[tokio::test]
async fn what_the_member_does_not_offer_blocks_a_given_message() {
    let eight_bit_body = b"Subject: x\r\n\r\n\xfc\r\n";
    let eight_bit_header = "Subject: \u{fc}\r\n\r\nx\r\n".as_bytes();
    let long = [b"Subject: x\r\n\r\n".to_vec(), b"0123456\r\n".repeat(100)].concat();
    let cases: [(&[u8], &str, &str); 3] = [
        (eight_bit_body, "250-SMTPUTF8\r\n250 PIPELINING", "8BITMIME"),
        (eight_bit_header, "250-x\r\n250 8BITMIME", "SMTPUTF8"),
        (&long, "250-x\r\n250 SIZE 900", "larger than it takes"),
    ];
    for (message, ehlo, why) in cases {
        let (port, member) = serve(Script { ehlo, ..GOOD }, None).await;
        let (_, corridor) = corridor(port);
        let result = run_given(&corridor, message).await;
        assert!(!result.accepted && result.reply.contains(why), "{result:?}");
        assert!(!member.await.unwrap().contains("MAIL"));
    }
}

#[tokio::test]
async fn what_a_given_message_needs_is_said_with_mail() {
    let ehlo = "250-x\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 2000";
    for (message, says) in [
        ("Subject: x\r\n\r\n\u{fc}\r\n", " BODY=8BITMIME\n"),
        ("Subject: \u{fc}\r\n\r\nx\r\n", " BODY=8BITMIME SMTPUTF8\n"),
        ("Subject: x\r\n\r\n.x\r\n", "\n"),
    ] {
        let (port, member) = serve(Script { ehlo, ..GOOD }, None).await;
        let (_, corridor) = corridor(port);
        let result = run_given(&corridor, message.as_bytes()).await;
        assert!(result.accepted, "{result:?}");
        let token = result.token.unwrap();
        let marks = format!("X-Lockgate-Probe: {token}\r\nMessage-ID: {}\r\n", result.message_id);
        let size = marks.len() + message.len();
        let told = member.await.unwrap();
        let mail = format!("MAIL FROM:<a@example.org> SIZE={size}{says}");
        assert!(told.contains(&mail), "{mail} {told}");
    }
}

#[tokio::test]
async fn a_held_gate_lets_a_given_message_through_and_an_aborted_permit_does_not() {
    let (port, member) = serve(GOOD, None).await;
    let (gates, held) = corridor(port);
    let holder = Holder::new(HolderKind::Operator, "test");
    gates.place(std::slice::from_ref(&held.gate), &Effect::Hold, &holder, "upgrade").unwrap();
    assert!(run_given(&held, GIVEN.as_bytes()).await.accepted);
    assert!(member.await.unwrap().contains("Subject: [secret] x\n"));

    let (tell, told_mail) = oneshot::channel();
    let (port, member) = serve(Script { mail: "", ..GOOD }, Some(tell)).await;
    let (gates, fenced) = corridor(port);
    let running = async {
        told_mail.await.unwrap();
        let gate = std::slice::from_ref(&fenced.gate);
        let placed = gates.place(gate, &Effect::Hold, &holder, "upgrade").unwrap();
        assert_eq!(fenced.gate.abort_older(placed[0].1, None), 1);
    };
    let (result, ()) = tokio::join!(run_given(&fenced, GIVEN.as_bytes()), running);
    assert!(!result.accepted && result.reply.contains("aborted"), "{result:?}");
    assert!(!member.await.unwrap().contains("[secret]"));
}
