//! Each ability of the stand-in, over SMTP: a client before it, a recording next hop behind it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests only")]

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use smtp::{
    Envelope, ForwardPath, MailParameters, RcptParameters, Recipient, Reply, ReversePath, Sender,
};

use super::super::receive::{Answer, Host, Mailroom, Message, Receiver, any_port};
use super::super::send::{Connection, SendError};
use super::*;
use crate::maillog::{Clock, Dialect, Frame, Line, Reader, What};

/// A next hop that keeps what it was given.
#[derive(Debug, Default)]
struct Hop {
    messages: Mutex<Vec<Message>>,
    /// Its answers; 250 when there are no more.
    answers: Mutex<Vec<Reply>>,
}

impl Mailroom for Hop {
    fn take(&self, message: Message) -> Answer {
        if let Some(reply) = self.answers.lock().unwrap().pop() {
            return reply.into();
        }
        self.messages.lock().unwrap().push(message);
        Reply::new(250, "2.0.0 Ok: queued as 4XyZ").into()
    }
}

impl Hop {
    fn count(&self) -> usize {
        self.messages.lock().unwrap().len()
    }

    /// What stands in each message behind this name of a field.
    fn fields(&self, name: &str) -> Vec<String> {
        let head = format!("{name}: ");
        let messages = self.messages.lock().unwrap();
        let texts = messages.iter().map(|message| String::from_utf8_lossy(&message.wire));
        texts
            .map(|text| {
                let found = text.split("\r\n").find_map(|line| line.strip_prefix(&head));
                found.unwrap_or_default().to_owned()
            })
            .collect()
    }

    fn recipients(&self) -> Vec<Vec<String>> {
        let messages = self.messages.lock().unwrap();
        messages.iter().map(|message| addresses(&message.envelope)).collect()
    }
}

fn addresses(envelope: &Envelope) -> Vec<String> {
    envelope.recipients().iter().map(|one| one.path.address().to_owned()).collect()
}

/// A server and its next hop.
struct Stage {
    server: Server,
    handle: Handle,
    hop: Arc<Hop>,
    receiver: Receiver,
}

impl Stage {
    async fn set(change: impl FnOnce(&mut Options)) -> Self {
        let hop = Arc::new(Hop::default());
        let host = Host { name: "mta.example.org".to_owned(), product: "MTA".to_owned() };
        let receiver = Receiver::start(any_port(), host, Arc::clone(&hop)).await.unwrap();
        let route = Route { listen: any_port(), next_hop: receiver.address() };
        let mut options = Options::new("keys.example.org", "10.5", vec![route]);
        change(&mut options);
        let server = Server::start(options).await.unwrap();
        let handle = server.handle();
        Self { server, handle, hop, receiver }
    }

    async fn behaving(behaviour: Behaviour) -> Self {
        Self::set(|options| options.behaviour = behaviour).await
    }

    async fn connect(&self) -> Connection {
        Connection::open(self.server.addresses()[0], "client.test").await.unwrap()
    }

    /// Sends a message of its own connection to these addresses.
    async fn send(&self, id: &str, to: &[&str]) -> Result<Vec<Reply>, SendError> {
        let mut connection = self.connect().await;
        let sent = connection.send(&envelope("<alice@example.org>", to), &wire(id)).await;
        if sent.is_ok() {
            connection.quit().await;
        }
        sent
    }

    /// A clean stop: everything has arrived, and the tally says so.
    async fn stop(self) -> (Arc<Hop>, Tally) {
        let tally = self.server.stop().await;
        assert_eq!(tally.inside(), 0);
        self.receiver.stop().await;
        (self.hop, tally)
    }
}

fn envelope(from: &str, to: &[&str]) -> Envelope {
    let recipient = |address: &&str| Recipient {
        path: ForwardPath::parse(&format!("<{address}>")).unwrap(),
        parameters: RcptParameters::default(),
    };
    let sender =
        Sender { path: ReversePath::parse(from).unwrap(), parameters: MailParameters::default() };
    let mut envelope = Envelope::new(sender, recipient(&to[0]));
    for address in &to[1..] {
        envelope.push(recipient(address));
    }
    envelope
}

fn wire(id: &str) -> Vec<u8> {
    format!("Subject: original\r\nMessage-ID: <{id}@example.org>\r\n\r\nbody\r\n").into_bytes()
}

async fn until(mut condition: impl FnMut() -> bool) {
    let looks = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looks).await.unwrap();
}

#[tokio::test]
async fn mail_stays_inside_until_it_is_let_go() {
    let stage = Stage::behaving(Behaviour { stay: Stay::UntilLetGo, ..Behaviour::default() }).await;
    for id in ["1", "2"] {
        assert!(stage.send(id, &["bob@example.net"]).await.unwrap()[0].is_positive());
    }
    // A message that comes later and leaves at once shows that the others could have.
    stage.handle.change(|behaviour| behaviour.stay = Stay::Brief);
    stage.send("3", &["bob@example.net"]).await.unwrap();
    until(|| stage.hop.count() == 1 && stage.handle.inside().len() == 2).await;
    let inside = stage.handle.inside();
    let ids: Vec<&str> = inside.iter().map(|item| item.message_id.as_str()).collect();
    assert_eq!(ids, ["1@example.org", "2@example.org"]);
    assert_eq!(stage.server.tally().inside(), 2);
    stage.handle.let_go();
    let (hop, tally) = stage.stop().await;
    assert_eq!((hop.count(), tally.done), (3, 3));
}

#[tokio::test]
async fn mail_leaves_by_itself_when_its_time_is_over() {
    let stay = Stay::For(Duration::from_millis(20));
    let stage = Stage::behaving(Behaviour { stay, ..Behaviour::default() }).await;
    stage.send("1", &["bob@example.net"]).await.unwrap();
    let (hop, _) = stage.stop().await;
    assert_eq!(hop.count(), 1);

    let stay = Stay::For(Duration::from_secs(3600));
    let stage = Stage::behaving(Behaviour { stay, ..Behaviour::default() }).await;
    stage.send("1", &["bob@example.net"]).await.unwrap();
    assert_eq!(stage.handle.inside().len(), 1);
    stage.handle.let_go();
    let (hop, _) = stage.stop().await;
    assert_eq!(hop.count(), 1);
}

#[tokio::test]
async fn one_chosen_message_is_kept_for_ever() {
    let kept = Some(Choice::to("carol@example.net").first());
    let stage = Stage::behaving(Behaviour { kept, ..Behaviour::default() }).await;
    stage.send("1", &["bob@example.net"]).await.unwrap();
    stage.send("2", &["bob@example.net", "carol@example.net"]).await.unwrap();
    stage.send("3", &["carol@example.net"]).await.unwrap();
    until(|| stage.hop.count() == 2).await;
    stage.handle.let_go();
    stage.send("4", &["bob@example.net"]).await.unwrap();
    until(|| stage.hop.count() == 3 && stage.handle.inside().len() == 1).await;
    assert_eq!(stage.handle.inside()[0].message_id, "2@example.org");
    let tally = stage.server.kill().await;
    assert_eq!((tally.accepted, tally.inside()), (4, 1));
}

#[tokio::test]
async fn of_a_split_message_one_copy_may_be_kept() {
    let kept = Some(Choice::message_id("1@example.org").first());
    let copies = Copies::PerRecipient;
    let stage = Stage::behaving(Behaviour { kept, copies, ..Behaviour::default() }).await;
    stage.send("1", &["bob@example.net", "carol@example.net"]).await.unwrap();
    until(|| stage.hop.count() == 1 && stage.handle.inside().len() == 1).await;
    assert_eq!(stage.hop.recipients(), [["carol@example.net"]]);
    assert_eq!(addresses(&stage.handle.inside()[0].envelope), ["bob@example.net"]);
    assert_eq!(stage.server.kill().await.inside(), 1, "a message is done with its last copy");
}

#[tokio::test]
async fn a_message_leaves_once_for_each_forward_path_and_not_in_order() {
    let stage = Stage::set(|options| {
        options.senders = 1;
        options.behaviour.copies = Copies::PerRecipient;
        options.behaviour.stay = Stay::UntilLetGo;
    })
    .await;
    for id in 0..10 {
        let to = ["bob@example.net", "carol@example.net"];
        stage.send(&id.to_string(), &to).await.unwrap();
    }
    assert_eq!(stage.handle.inside().len(), 20);
    stage.handle.let_go();
    let (hop, tally) = stage.stop().await;
    assert_eq!((tally.accepted, tally.done), (10, 10));
    let ids = hop.fields("Message-ID");
    let pairs: Vec<(String, Vec<String>)> = ids.into_iter().zip(hop.recipients()).collect();
    assert!(pairs.iter().all(|(_, recipients)| recipients.len() == 1));
    let distinct: BTreeSet<_> = pairs.iter().cloned().collect();
    assert_eq!((pairs.len(), distinct.len()), (20, 20));
    assert!(!pairs.is_sorted(), "{pairs:?}");
}

#[tokio::test]
async fn a_reply_is_lost_though_the_message_was_taken() {
    let replies_lost = Some(Share::every(2));
    let stage = Stage::behaving(Behaviour { replies_lost, ..Behaviour::default() }).await;
    for id in ["1", "2", "3", "4"] {
        let sent = stage.send(id, &["bob@example.net"]).await;
        let lost = matches!(sent, Err(SendError::Lost(_)));
        assert_eq!(lost, ["2", "4"].contains(&id), "{id}: {sent:?}");
    }
    let (hop, tally) = stage.stop().await;
    assert_eq!((tally.accepted, hop.count()), (4, 4));
}

#[tokio::test]
async fn a_connection_is_closed_behind_the_final_dot_without_taking_the_message() {
    let dots_ignored = Some(Share::every(2));
    let stage = Stage::behaving(Behaviour { dots_ignored, ..Behaviour::default() }).await;
    for id in ["1", "2", "3"] {
        let sent = stage.send(id, &["bob@example.net"]).await;
        assert_eq!(matches!(sent, Err(SendError::Lost(_))), id == "2", "{id}: {sent:?}");
    }
    let (hop, tally) = stage.stop().await;
    assert_eq!((tally.accepted, hop.count()), (2, 2));
    assert!(!hop.fields("Message-ID").contains(&"<2@example.org>".to_owned()));
}

#[tokio::test]
async fn a_stored_message_leaves_as_a_notice_or_not_at_all_and_a_bounce_goes_back() {
    let treatments = vec![
        (Choice::to("web@example.net"), Treatment::Notify(Notified::Recipient)),
        (Choice::to("told@example.net"), Treatment::Notify(Notified::Sender)),
        (Choice::to("stored@example.net"), Treatment::Store),
        (Choice::to("nobody@example.net"), Treatment::Bounce),
    ];
    let stage = Stage::behaving(Behaviour { treatments, ..Behaviour::default() }).await;
    for name in ["web", "told", "stored", "nobody", "bob"] {
        stage.send(name, &[&format!("{name}@example.net")]).await.unwrap();
    }
    let mut connection = stage.connect().await;
    let null = envelope("<>", &["nobody@example.net"]);
    connection.send(&null, &wire("null")).await.unwrap();
    connection.quit().await;
    let (hop, tally) = stage.stop().await;
    assert_eq!((tally.accepted, tally.done), (6, 6));
    let messages = hop.messages.lock().unwrap();
    let mut left: Vec<(String, Vec<String>, String)> = messages
        .iter()
        .zip(hop_fields(&messages))
        .map(|(message, id)| {
            let sender = message.envelope.sender.path.address().to_owned();
            let kind = id.split(['.', '@']).next().unwrap().to_owned();
            (sender, addresses(&message.envelope), kind)
        })
        .collect();
    left.sort();
    let alice = "alice@example.org".to_owned();
    let line = |sender: &str, to: &str, kind: &str| {
        (sender.to_owned(), vec![to.to_owned()], kind.to_owned())
    };
    assert_eq!(
        left,
        [
            line("", &alice, "<bounce"),
            line("", &alice, "<notice"),
            line(&alice, "bob@example.net", "<bob"),
            line(&alice, "web@example.net", "<notice"),
        ]
    );
    for message in messages.iter() {
        let text = String::from_utf8_lossy(&message.wire);
        let own = !text.contains("Subject: original");
        assert_eq!(text.contains("SMTP-0000"), own, "a letter names the connection: {text}");
        assert_eq!(text.contains("X-PGP-Universal: processed"), !own);
    }
}

fn hop_fields(messages: &[Message]) -> Vec<String> {
    let id = |message: &Message| {
        let text = String::from_utf8_lossy(&message.wire).into_owned();
        let line = text.split("\r\n").find_map(|line| line.strip_prefix("Message-ID: "));
        line.unwrap().to_owned()
    };
    messages.iter().map(id).collect()
}

/// What a Mail log says to the reader of such logs: kinds of lines, and when.
fn told(log: &str) -> Vec<(&'static str, Option<i128>)> {
    let around = Timestamp::now();
    let mut clock = Clock::new(Frame { zone: jiff::tz::TimeZone::UTC, around });
    let mut reader = Reader::new(Dialect::Sems);
    let mut told = Vec::new();
    for line in log.lines() {
        reader.read(line.as_bytes(), &mut clock, &mut |line| {
            told.push(match line {
                Line::Event(event) => {
                    let kind = match event.what {
                        What::Queued { .. } => "queued",
                        What::RuleMatched { .. } => "rule",
                        What::Processed { .. } => "processed",
                        What::Recipient(_) => "recipient",
                        _ => "other",
                    };
                    (kind, event.at.map(crate::maillog::Stamp::earliest))
                }
                Line::Unparsed => ("unparsed", None),
                Line::Hole(_) | Line::Quiet(_) => ("quiet", None),
            });
        });
    }
    told
}

fn extra(when: When, text: &str) -> Extra {
    Extra { when, text: text.to_owned() }
}

/// Goal: the log says what came in and what was decided, also of what never leaves; that a message
/// left is told only where a test has lines for it.
#[tokio::test]
async fn the_mail_log_tells_the_genuine_lines_and_what_a_test_adds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mail.log");
    let stage = Stage::set(|options| {
        options.senders = 1;
        options.behaviour.stay = Stay::UntilLetGo;
        options.behaviour.treatments = vec![
            (Choice::to("nobody@example.net"), Treatment::Bounce),
            (Choice::to("web@example.net"), Treatment::Store),
        ];
        let mut log = Log::to_file(&path);
        log.extra = vec![
            extra(When::Taken, "{smtp}: taken {message_id} from {sender}"),
            extra(When::Relayed, "{smtp}: recipient {recipient}: delivered to {next_hop}: {reply}"),
            extra(When::Deferred, "{smtp}: recipient {recipient}: later: {reply}"),
            extra(When::Refused, "{smtp}: recipient {recipient}: refused: {reply}"),
            extra(When::Stored, "{smtp}: recipient {recipient}: stored"),
            extra(When::Gone, "{smtp}: gone"),
        ];
        options.log = Some(log);
    })
    .await;
    stage.send("1", &["bob@example.net", "carol@example.net"]).await.unwrap();
    let inside = fs::read_to_string(&path).unwrap();
    let kinds = |log: &str| told(log).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    assert_eq!(
        kinds(&inside),
        ["queued", "unparsed", "rule", "rule", "processed", "rule", "rule", "processed"],
        "{inside}"
    );
    stage.hop.answers.lock().unwrap().push(Reply::new(451, "4.3.0 later"));
    stage.handle.let_go();
    until(|| fs::read_to_string(&path).unwrap().contains("SMTP-00000: gone")).await;
    stage.send("2", &["nobody@example.net"]).await.unwrap();
    stage.send("3", &["web@example.net"]).await.unwrap();
    stage.hop.answers.lock().unwrap().push(Reply::new(554, "5.6.0 not this"));
    stage.handle.let_go();
    let next_hop = stage.receiver.address();
    let (_, tally) = stage.stop().await;
    assert_eq!(tally.refused, 1, "the bounce");
    let log = fs::read_to_string(&path).unwrap();
    let texts: Vec<&str> =
        log.lines().filter_map(|line| line.split_once("]:       ")).map(|(_, text)| text).collect();
    for text in [
        "SMTP-00000: message <1@example.org> from alice@example.org (2 recipients):",
        "SMTP-00000: recipient 2/2 (carol@example.net): passing through unmodified [0x21b2578]",
        "SMTP-00000: recipient bob@example.net: policy rule match: chain: \"Default\", rule: \"Inbound Mail\"",
        "SMTP-00000: recipient bob@example.net: later: 451 4.3.0 later",
        &format!(
            "SMTP-00000: recipient bob@example.net: delivered to {next_hop}: 250 2.0.0 Ok: queued as 4XyZ"
        ),
        "SMTP-00000: gone",
        "SMTP-00001: recipient 1/1 (nobody@example.net): unmanaged domain blocked: bouncing message from alice@example.org",
        "SMTP-00001: recipient alice@example.org: refused: 554 5.6.0 not this",
        "SMTP-00001: gone",
        "SMTP-00002: taken 3@example.org from alice@example.org",
        "SMTP-00002: recipient web@example.net: stored",
        "SMTP-00002: gone",
    ] {
        assert!(texts.contains(&text), "{text}\n{log}");
    }
    assert_eq!(kinds(&log).iter().filter(|kind| **kind == "recipient").count(), 1);
}

#[tokio::test]
async fn the_clock_of_the_server_is_off_in_log_and_marks_alike() {
    let hour = 3_600_000_000_000_i128;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mail.log");
    let stage = Stage::set(|options| {
        options.behaviour.clock_skew = SignedDuration::from_hours(-3);
        let mut log = Log::to_file(&path);
        log.zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(9));
        options.log = Some(log);
    })
    .await;
    stage.send("1", &["bob@example.net"]).await.unwrap();
    let (hop, _) = stage.stop().await;
    let now = Timestamp::now().as_nanosecond();
    let log = fs::read_to_string(&path).unwrap();
    assert!(log.contains(" +09:00  NOTICE "), "{log}");
    let at = told(&log)[0].1.unwrap();
    let ago = |at: i128| (now - at) / hour;
    assert_eq!(ago(at), 3, "{log}");
    let text = String::from_utf8(hop.messages.lock().unwrap()[0].wire.clone()).unwrap();
    let date = text.split(" on ").nth(1).unwrap().split("\r\n").next().unwrap();
    let marked = jiff::fmt::rfc2822::parse(date).unwrap().timestamp().as_nanosecond();
    assert_eq!(ago(marked), 3, "{date}");
}

#[tokio::test]
async fn the_counter_begins_anew_as_another_process() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&lines);
    let stage = Stage::set(|options| {
        let mut log = Log::to_call(move |line: &str| copy.lock().unwrap().push(line.to_owned()));
        log.rules.clear();
        options.log = Some(log);
    })
    .await;
    let mut replies = Vec::new();
    for id in ["1", "2", "3"] {
        if id == "3" {
            stage.handle.restart_counter();
        }
        replies.extend(stage.send(id, &["bob@example.net"]).await.unwrap());
    }
    stage.stop().await;
    let lines = lines.lock().unwrap();
    let heads: Vec<&str> = lines
        .iter()
        .filter(|line| line.contains(": message <"))
        .map(|line| line.split_once("pgp/").unwrap().1.split(": message").next().unwrap())
        .collect();
    assert_eq!(
        heads,
        [
            "messaging[6517]:       SMTP-00000",
            "messaging[6517]:       SMTP-00001",
            "messaging[6534]:       SMTP-00000",
        ]
    );
    let told: Vec<String> = replies.iter().map(Reply::text_lossy).collect();
    assert_eq!(told, ["2.0.0 Ok: SMTP-00000", "2.0.0 Ok: SMTP-00001", "2.0.0 Ok: SMTP-00000"]);
}

#[tokio::test]
async fn the_log_of_a_running_server_is_late_stops_and_goes_on() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&lines);
    let stage = Stage::set(|options| {
        options.behaviour.lateness = Lateness::UntilFlushed;
        let log = Log::to_call(move |line: &str| copy.lock().unwrap().push(line.to_owned()));
        options.log = Some(log);
    })
    .await;
    let messages = || {
        let lines = lines.lock().unwrap();
        let found = lines.iter().filter_map(|line| line.split_once(": message <"));
        found.map(|(_, rest)| rest.split('@').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    stage.send("1", &["bob@example.net"]).await.unwrap();
    assert!(messages().is_empty());
    stage.handle.flush_log();
    assert_eq!(messages(), ["1"]);
    stage.handle.stop_logging();
    stage.send("2", &["bob@example.net"]).await.unwrap();
    stage.handle.resume_logging();
    stage.handle.change(|behaviour| behaviour.lateness = Lateness::Prompt);
    stage.send("3", &["bob@example.net"]).await.unwrap();
    assert_eq!(messages(), ["1", "3"]);
    let (hop, _) = stage.stop().await;
    assert_eq!(hop.count(), 3, "mail does not wait for the log");
}

/// Goal: mail that no gate saw goes the same ways.
#[tokio::test]
async fn a_second_listener_takes_mail_that_came_past_the_gate() {
    let stage = Stage::set(|options| {
        let next_hop = options.routes[0].next_hop;
        options.routes.push(Route { listen: any_port(), next_hop });
        options.behaviour.stay = Stay::UntilLetGo;
    })
    .await;
    let beside = stage.server.addresses()[1];
    let mut connection = Connection::open(beside, "client.test").await.unwrap();
    let envelope = envelope("<alice@example.org>", &["bob@example.net"]);
    connection.send(&envelope, &wire("1")).await.unwrap();
    connection.quit().await;
    assert_eq!(stage.handle.inside().len(), 1);
    stage.handle.let_go();
    let (hop, _) = stage.stop().await;
    assert_eq!(hop.count(), 1);
}
