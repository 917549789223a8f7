//! The journal: everything that was handed over is found again, with what came of it, whatever happened to the
//! process or its disk.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a story moves folders behind lockgate's back")]

use std::fs;

use serde_json::Value;
use tests::client::Client;
use tests::lockgate::{Lockgate, text};
use tests::mail::Mail;
use tests::sink::{Action, Rule, Sink, Stage};
use tests::wait::{self, LONG};

/// What `journal search` finds with these words.
fn search(lockgate: &Lockgate, words: &[&str]) -> Vec<Value> {
    let all: Vec<&str> = ["journal", "search", "-o", "json"].iter().chain(words).copied().collect();
    let answer = lockgate.cli(&all);
    assert!(matches!(answer.code, 0 | 2), "{}", answer.said());
    answer.json_lines()
}

/// The same, until `count` lines are found: an end waits a moment for company.
fn found(lockgate: &Lockgate, words: &[&str], count: usize) -> Vec<Value> {
    let mut lines = Vec::new();
    wait::until_true("the journal has them", LONG, || {
        lines = search(lockgate, words);
        lines.len() == count
    });
    lines
}

#[test]
fn what_passed_is_found_by_id_address_message_id_and_queue_id() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mail = Mail::short("j", 1).to(&["<good@x.test>", "<bad@x.test>"]);
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody").about("bad@x.test"));
    sink.script(Rule::reply(Stage::End, "250 2.0.0 Ok: queued as 4F00BA"));
    let mut client = Client::open(lockgate.outbound());
    assert!(client.deliver(&mail).is_positive());
    client.deliver(&Mail::short("j", 2));

    let by_address = found(&lockgate, &["--address", "BAD@x.test"], 1);
    let line = &by_address[0];
    assert_eq!(text(line, "what"), "ended");
    assert_eq!(text(line, "outcome"), "relayed");
    assert_eq!(text(line, "doing"), "pass");
    assert_eq!(text(line, "reply"), "250 2.0.0 Ok: queued as 4F00BA");
    assert_eq!(line["to"].as_array().unwrap().len(), 2);
    assert_eq!(text(&line["others"][0], "to"), "<bad@x.test>");
    assert_eq!(text(&line["others"][0], "outcome"), "refused");
    assert_eq!(line["size"], mail.data.len() as u64);
    assert_eq!(text(line, "header_sha256").len(), 64);
    assert_eq!(found(&lockgate, &["--queue-id", "4f00ba"], 2)[0], *line);
    let message_id = mail.message_id().unwrap();
    assert_eq!(found(&lockgate, &["--message-id", &message_id], 1)[0], *line);
    let shown = lockgate.ok(&["journal", "show", &text(line, "id")]).said();
    assert!(shown.contains("4F00BA") && shown.contains("otherwise"), "{shown}");
    assert_eq!(lockgate.cli(&["journal", "search", "--address", "no@x.test"]).code, 2);
    assert_eq!(lockgate.cli(&["journal", "show", "0000000000000"]).code, 2);
    assert_eq!(lockgate.cli(&["journal", "show", "what?"]).code, 1);
}

/// Held mail and its replay have one digest over the same octets: those that came in.
#[test]
fn a_held_message_goes_out_with_the_digest_it_came_in_with() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    let mail = Mail::short("digest", 1);
    Client::open(lockgate.outbound()).deliver(&mail);
    lockgate.release("outbound");
    lockgate.wait_until_empty(LONG);
    let lines = found(&lockgate, &["--message-id", &mail.message_id().unwrap()], 2);
    let doing: Vec<String> = lines.iter().map(|line| text(line, "doing")).collect();
    assert_eq!(doing, ["hold", "replay"]);
    assert_eq!(text(&lines[0], "outcome"), "held");
    assert_eq!(text(&lines[1], "outcome"), "relayed");
    assert_eq!(text(&lines[0], "id"), text(&lines[1], "id"));
    assert_eq!(lines[0]["content_sha256"], lines[1]["content_sha256"]);
    assert_eq!(text(&lines[0], "content_sha256").len(), 64);
    for known in ["header_sha256", "header_octets", "media_type"] {
        assert_eq!(lines[0][known], lines[1][known], "{known}");
    }
    assert_eq!(text(&lines[1], "header_sha256").len(), 64);
    assert_eq!(
        (&lines[0]["size"], &lines[1]["size"]),
        (&(mail.data.len() as u64).into(), &(mail.data.len() as u64).into())
    );
}

/// Refusals are entries too.
#[test]
fn what_was_refused_is_found_too() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody"));
    let mut client = Client::open(lockgate.outbound());
    client.command("MAIL FROM:<a@x.test>");
    client.command("RCPT TO:<nobody@x.test>");
    client.command("RSET");
    let lines = found(&lockgate, &["--address", "nobody@x.test"], 1);
    assert_eq!(text(&lines[0]["others"][0], "reply"), "550 5.1.1 nobody");
    lockgate.ok(&["refuse", "outbound", "--reason", "a story"]);
    client.command("MAIL FROM:<b@x.test>");
    client.command("RSET");
    let lines = found(&lockgate, &["--address", "b@x.test"], 1);
    assert_eq!(text(&lines[0], "doing"), "refuse");
}

/// Goal: kill -9 between the final dot and its reply leaves an item that says so, and a gap.
#[test]
fn a_killed_lockgate_knows_what_it_had_offered() {
    let sink = Sink::start("sink.test");
    let mut lockgate = Lockgate::before(&sink);
    let mail = Mail::short("killed", 1);
    sink.script(Rule::at(Stage::End, Action::Hold));
    let mut client = Client::open(lockgate.outbound());
    client.command(&mail.mail_line());
    for rcpt in mail.rcpt_lines() {
        client.command(&rcpt);
    }
    client.command("DATA");
    client.send(&mail.data).unwrap();
    client.send(b".\r\n").unwrap();
    sink.wait_for_holding(1);
    let message_id = mail.message_id().unwrap();
    let open = found(&lockgate, &["--message-id", &message_id], 1);
    assert_eq!(text(&open[0], "what"), "open");
    lockgate.kill();
    sink.let_go();
    sink.behave();
    lockgate.serve();
    let lines = search(&lockgate, &["--message-id", &message_id]);
    let what: Vec<String> = lines.iter().map(|line| text(line, "what")).collect();
    assert_eq!(what, ["gap", "ended"], "{lines:?}");
    assert!(text(&lines[0], "why").starts_with("killed"), "{lines:?}");
    assert_eq!(text(&lines[1], "outcome"), "uncertain");
    assert_eq!(text(&lines[1], "id"), text(&open[0], "id"));
}

/// Mail goes on without a journal; when it can be written again, a gap stands in it.
#[test]
fn a_journal_that_cannot_be_written_never_stops_mail() {
    let sink = Sink::start("sink.test");
    let mut lockgate = Lockgate::before(&sink);
    lockgate.stop();
    let folder = lockgate.data().join("journal");
    let aside = lockgate.data().join("journal-aside");
    fs::rename(&folder, &aside).unwrap();
    fs::write(&folder, "not a folder").unwrap();
    lockgate.serve();
    let mut client = Client::open(lockgate.outbound());
    assert!(client.deliver(&Mail::short("nojournal", 1)).is_positive());
    let failing = |lockgate: &Lockgate| lockgate.metrics().value("lockgate_journal_failing", &[]);
    assert_eq!(failing(&lockgate), Some(1.0));
    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    wait::until_true("it is written again", LONG, || failing(&lockgate) == Some(0.0));
    assert!(client.deliver(&Mail::short("nojournal", 2)).is_positive());
    let second = Mail::short("nojournal", 2).message_id().unwrap();
    let lines = found(&lockgate, &["--message-id", &second], 2);
    assert_eq!(text(&lines[0], "what"), "gap");
    assert_eq!(text(&lines[1], "outcome"), "relayed");
}

/// Each forward-path has its own end: one that was refused says nothing of one that was never answered.
#[test]
fn a_forward_path_that_was_not_answered_is_not_refused() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    let mail = Mail::short("paths", 1).to(&["<bad@x.test>", "<good@x.test>"]);
    Client::open(lockgate.outbound()).deliver(&mail);
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody").about("bad@x.test").times(1));
    sink.script(Rule::at(Stage::Rcpt, Action::Close).about("good@x.test").times(1));
    lockgate.release("outbound");
    let message_id = mail.message_id().unwrap();
    let lines = found(&lockgate, &["--message-id", &message_id, "--outcome", "refused"], 1);
    let others = lines[0]["others"].as_array().unwrap();
    let of = |to: &str| others.iter().find(|other| text(other, "to") == to).unwrap();
    assert_eq!(text(of("<bad@x.test>"), "outcome"), "refused");
    assert_eq!(text(of("<good@x.test>"), "outcome"), "deferred");
}

/// The same in pass, where the client leaves after some were accepted.
#[test]
fn a_forward_path_that_was_accepted_and_left_is_abandoned() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody").about("bad@x.test"));
    let mut client = Client::open(lockgate.outbound());
    client.command("MAIL FROM:<a@x.test>");
    client.command("RCPT TO:<good@x.test>");
    client.command("RCPT TO:<bad@x.test>");
    client.command("RSET");
    let lines = found(&lockgate, &["--address", "good@x.test"], 1);
    let others = lines[0]["others"].as_array().unwrap();
    let of = |to: &str| others.iter().find(|other| text(other, "to") == to);
    assert_eq!(text(of("<bad@x.test>").unwrap(), "outcome"), "refused");
    let good = of("<good@x.test>")
        .map_or_else(|| text(&lines[0], "outcome"), |other| text(other, "outcome"));
    assert_eq!(good, "abandoned");
}

/// Mail data may begin with a blank, as if it went on with our trace field.
#[test]
fn mail_data_that_begins_with_a_blank_has_one_digest_too() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    let mut mail = Mail::short("blank", 1).to(&["<blank@x.test>"]);
    mail.data = b" folded;\r\n\r\nbody\r\n".to_vec();
    Client::open(lockgate.outbound()).deliver(&mail);
    lockgate.release("outbound");
    lockgate.wait_until_empty(LONG);
    let lines = found(&lockgate, &["--address", "blank@x.test"], 2);
    assert_eq!(lines[0]["content_sha256"], lines[1]["content_sha256"]);
    assert_eq!(lines[1]["size"], mail.data.len() as u64);
}
