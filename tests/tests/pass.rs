//! Pass: each transaction is relayed command for command, reply for reply.
//!
//! Custody stays with the client until the next hop's own 250; lockgate adds its trace field and
//! changes nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::net::IpAddr;
use std::time::Duration;

use tests::client::{Client, Lost, Reply, Style};
use tests::load::Load;
use tests::lockgate::{Gate, Lockgate, Member, Settings};
use tests::mail::{self, Kind, MIB, Mail};
use tests::sink::{Action, FULL_OFFER, Rule, Sink, Stage};
use tests::wait::{self, LONG};

fn lines(reply: &Reply) -> Vec<String> {
    reply.lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

/// Goal: whatever the next hop answers, the client reads the same, at every stage.
#[test]
fn every_reply_reaches_the_client_unchanged() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let odd: [(u16, &[&str]); 4] = [
        (250, &["2.6.0 accepted, and", "2.6.0 with a second line", "2.6.0 and a third"]),
        (451, &["4.7.1 Greylisted; see <http://sink.test/?a=b&c=d>"]),
        (550, &["5.7.1 no", "5.7.1 not for you"]),
        (553, &["without an enhanced code, ending in spaces  "]),
    ];
    for (code, texts) in odd {
        for stage in [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::End] {
            if stage == Stage::Data && code == 250 {
                continue;
            }
            sink.behave();
            let last = texts.len() - 1;
            let wire = texts
                .iter()
                .enumerate()
                .map(|(n, text)| format!("{code}{}{text}", if n == last { ' ' } else { '-' }));
            sink.script(Rule::at(stage, Action::Reply(wire.collect())));
            let mut client = Client::open(lockgate.outbound());
            let receipt = client.transaction(&Mail::short("r", 1), Style::LockStep);
            let reply = match stage {
                Stage::Mail => receipt.mail,
                Stage::Rcpt => receipt.rcpt.first().cloned(),
                Stage::Data => receipt.data,
                _ => receipt.end,
            };
            let reply = reply.unwrap_or_else(|| panic!("{stage:?} {code}: no reply"));
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            assert_eq!((reply.code, lines(&reply)), (code, texts), "{stage:?}");
        }
    }
}

/// A 421 closes the next hop's connection, not ours: the client hears 451 with its text and goes
/// on over the same connection.
#[test]
fn a_421_of_the_next_hop_becomes_451_with_its_text() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    for stage in [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::End] {
        sink.forget();
        // A 421 to the first word on a pooled connection is a server that closes an idle session:
        // that one is replaced unseen, and the fresh one says it again.
        let times = if stage == Stage::Mail { 2 } else { 1 };
        sink.script(Rule::reply(stage, "421 4.3.2 closing for lunch").times(times));
        let mut client = Client::open(lockgate.outbound());
        let receipt = client.transaction(&Mail::short("r", 1), Style::LockStep);
        let reply = receipt.last().unwrap();
        assert_eq!(
            (reply.code, reply.text()),
            (451, "4.3.2 closing for lunch".to_owned()),
            "{stage:?}"
        );
        client.deliver(&Mail::short("r", 2));
        assert_eq!(sink.count(), 1, "{stage:?}");
    }
}

#[test]
fn control_characters_in_a_reply_are_cleaned() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    sink.script(Rule::at(Stage::Mail, Action::Raw(b"550 5.7.1 no\x1b[31m\x07\x00!\r\n".to_vec())));
    let reply = Client::open(lockgate.outbound()).command("MAIL FROM:<a@client.test>");
    assert_eq!(reply.code, 550);
    assert!(reply.lines[0].iter().all(|octet| (32..127).contains(octet)), "{reply:?}");
    assert!(reply.text().starts_with("5.7.1 no") && reply.text().ends_with('!'), "{reply:?}");
}

#[test]
fn a_partial_acceptance_of_recipients_stays_partial() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 no such user").about("<no"));
    sink.script(Rule::reply(Stage::Rcpt, "451 4.2.1 mailbox busy").about("<later"));
    let paths = ["<a@x.test>", "<no@x.test>", "<b@x.test>", "<later@x.test>", "<c@x.test>"];
    for style in [Style::LockStep, Style::Pipelined] {
        let mail = Mail::short("r", 1).to(&paths);
        let receipt = Client::open(lockgate.outbound()).transaction(&mail, style);
        let codes: Vec<u16> = receipt.rcpt.iter().map(|reply| reply.code).collect();
        assert_eq!(codes, [250, 550, 250, 451, 250]);
        assert!(receipt.accepted());
    }
    for transaction in sink.taken() {
        assert_eq!(transaction.forward_paths(), ["a@x.test", "b@x.test", "c@x.test"]);
    }
    assert_eq!(sink.count(), 2);
}

#[test]
fn when_every_recipient_is_refused_no_mail_data_is_asked_for() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 no such user").times(2));
    let mut client = Client::open(lockgate.outbound());
    for style in [Style::LockStep, Style::Pipelined] {
        let receipt = client.transaction(&Mail::short("r", 1), style);
        assert_eq!(receipt.rcpt[0].code, 550);
        assert!(!receipt.accepted());
        assert_ne!(receipt.data.map(|reply| reply.code), Some(354));
    }
    client.deliver(&Mail::short("r", 2));
    assert_eq!(sink.dots(), 1);
}

/// Goal: what the client wrote in MAIL and RCPT is what the next hop reads (RFC 3461 asks that
/// ENVID and ORCPT are kept as they are).
#[test]
fn envelopes_reach_the_next_hop_as_written() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    let envelopes: [(&str, &[&str]); 7] = [
        ("<>", &["<a@x.test> NOTIFY=NEVER"]),
        (
            "<a@client.test> RET=HDRS ENVID=QQ314159+2Bx+3D",
            &[
                "<b@x.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;b+2Bc@X.Test",
                "<c@x.test> ORCPT=utf-8;caf\\x{E9}@x.test",
            ],
        ),
        (r#"<"john doe"@client.test>"#, &[r#"<"a b\"c\\"@x.test>"#]),
        ("<a@[192.0.2.1]>", &["<b@[IPv6:2001:db8::1]>", "<Mixed.Case@X.TEST>"]),
        ("<a@client.test> BODY=8BITMIME", &["<postmaster>", "<Postmaster@x.test>"]),
        ("<jörg@bücher.test> SMTPUTF8 BODY=8BITMIME", &["<δοκιμή@παράδειγμα.test>"]),
        ("<a+tag=1@client.test> BODY=7BIT", &["<#odd!{}|~^?%@x.test>"]),
    ];
    for (reverse_path, forward_paths) in envelopes {
        let mail = Mail::short("e", 1).from(reverse_path).to(forward_paths);
        client.deliver(&mail);
        let found = sink.taken().pop().unwrap();
        assert_eq!(found.rcpt_lines, mail.rcpt_lines());
        // SIZE may be added or changed: our trace is part of what the next hop gets.
        let without_size: Vec<&str> =
            found.mail_line.split(' ').filter(|word| !word.starts_with("SIZE=")).collect();
        assert_eq!(without_size.join(" "), mail.mail_line());
    }
}

#[test]
fn a_source_route_is_stripped() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mail = Mail::short("e", 1)
        .from("<@relay.test:a@client.test>")
        .to(&["<@one.test,@two.test:b@x.test>"]);
    Client::open(lockgate.outbound()).deliver(&mail);
    let found = sink.taken().pop().unwrap();
    assert!(found.mail_line.starts_with("MAIL FROM:<a@client.test>"), "{}", found.mail_line);
    assert_eq!(found.rcpt_lines, ["RCPT TO:<b@x.test>"]);
}

/// Goal: mail data is equal octet for octet after our own trace field is taken away.
/// Method: 1,000 messages of mixed kinds, 0 B to 25 MiB, over four connections, pipelined.
#[test]
fn a_thousand_mixed_messages_arrive_octet_for_octet() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mails = mail::mixed("p", 1_000);
    Load::to(lockgate.outbound()).all_accepted(&mails);
    assert_eq!(sink.count(), mails.len());
    let mut taken = sink.taken();
    taken.sort_by(|a, b| a.key().cmp(b.key()));
    let mut mails: Vec<&Mail> = mails.iter().collect();
    mails.sort_by(|a, b| a.key().cmp(b.key()));
    for (mail, found) in mails.into_iter().zip(&taken) {
        assert_eq!(found.key(), mail.key());
        assert!(found.data_without_trace() == mail.data, "{}", mail.key());
    }
}

#[test]
fn without_trace_pass_is_octet_for_octet() {
    let sink = Sink::start("sink.test");
    let lockgate =
        Settings::with([Gate::to("outbound", sink.address()).set("trace", "false")]).start();
    lockgate.meet("outbound", &sink);
    let mails = mail::mixed("t", 3);
    Load::to(lockgate.outbound()).all_accepted(&mails);
    for mail in &mails {
        assert!(sink.one(mail.key()).data == mail.data, "{}", mail.key());
    }
}

#[test]
fn the_trace_field_says_from_where_by_whom_and_with_which_id() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    Client::open(lockgate.outbound()).deliver(&Mail::short("t", 1));
    let found = sink.one(Mail::short("t", 1).key());
    let trace = mail::field(&found.data, "Received").unwrap();
    for part in ["from client.test ([127.0.0.1])", "(lockgate)", "with ESMTP", "id ", ";"] {
        assert!(trace.contains(part), "{part:?} is missing in {trace:?}");
    }
    let id = trace.split("id ").nth(1).unwrap().split([';', '\t', ' ']).next().unwrap();
    assert_eq!(lockgate.log_lines(&[id, "relayed"]).len(), 1, "one log line of id {id}");
}

#[test]
fn the_hundredth_received_field_ends_a_loop() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    let mut mail = Mail::short("loop", 1);
    let received = b"Received: from a.test by b.test;\r\n\tMon, 23 Nov 2026 06:15:00 +0000\r\n";
    mail.data = [received.repeat(100), mail.data].concat();
    let end = client.transaction(&mail, Style::LockStep).end.unwrap();
    assert_eq!((end.code, end.text().split(' ').next().unwrap()), (554, "5.4.6"));
    assert_eq!(sink.count(), 0);
    mail.data.drain(..5 * received.len());
    client.deliver(&mail);
}

/// Goal: 250 to the client only after the next hop's own 250.
/// Method: the next hop holds its final reply back; the client has none for as long.
#[test]
fn the_final_250_waits_for_the_next_hop() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    sink.script(Rule::at(Stage::End, Action::Hold));
    let address = lockgate.outbound();
    let sending = std::thread::spawn(move || {
        Client::open(address).transaction(&Mail::short("w", 1), Style::Pipelined)
    });
    sink.wait_for_holding(1);
    assert!(wait::stays(Duration::from_millis(300), || !sending.is_finished()));
    sink.let_go();
    let end = sending.join().unwrap().end.unwrap();
    assert_eq!((end.code, end.text()), (250, "2.0.0 queued as S000001".to_owned()));
}

/// Goal: a reply that came before the last octet is no acceptance of the message.
#[test]
fn a_250_before_the_final_dot_is_not_believed() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    sink.script(Rule::at(Stage::Middle, Action::Reply(vec!["250 2.0.0 eager".into()])));
    sink.script(Rule::at(Stage::End, Action::Silence));
    let mut client = Client::open(lockgate.outbound());
    for line in ["MAIL FROM:<a@client.test>", "RCPT TO:<b@x.test>"] {
        assert_eq!(client.command(line).code, 250);
    }
    assert_eq!(client.command("DATA").code, 354);
    let mail = Mail::new("w", 1, Kind::Attachment(MIB));
    client.send(&mail.data).unwrap();
    sink.wait_for_out_of_turn(1);
    client.send(b".\r\n").unwrap();
    assert_eq!(client.expect_reply().code, 451);
}

#[test]
fn a_lost_reply_after_the_final_dot_is_451_and_uncertain_in_the_log() {
    for (taking, action) in [(true, Action::Close), (false, Action::Reset)] {
        let sink = Sink::start("sink.test");
        let lockgate = Lockgate::before(&sink);
        let rule = Rule::at(Stage::End, action).times(1);
        sink.script(if taking { rule.taking() } else { rule });
        let mut client = Client::open(lockgate.outbound());
        let receipt = client.transaction(&Mail::short("u", 1), Style::LockStep);
        assert_eq!(receipt.end.unwrap().code, 451);
        assert_eq!(lockgate.log_lines(&["uncertain", "u-00001"]).len(), 1, "{}", lockgate.log());
        client.deliver(&Mail::short("u", 2));
    }
}

#[test]
fn a_malformed_final_reply_is_no_acceptance() {
    let garbage: [&[u8]; 5] = [
        b"250\r2.0.0 ok\r\n",
        b"hello\r\n",
        b"250-ok\r\n251 ok\r\n",
        b"999 2.0.0 ok\r\n",
        b"250_ok\r\n",
    ];
    for octets in garbage {
        let sink = Sink::start("sink.test");
        let lockgate = Lockgate::before(&sink);
        sink.script(Rule::at(Stage::End, Action::Raw(octets.to_vec())));
        let mut client = Client::open(lockgate.outbound());
        let receipt = client.transaction(&Mail::short("g", 1), Style::LockStep);
        assert_eq!(receipt.end.unwrap().code, 451, "{:?}", String::from_utf8_lossy(octets));
    }
}

#[test]
fn replies_in_pieces_are_read_as_one() {
    let sink = Sink::start("sink.test");
    for stage in [Stage::Banner, Stage::Ehlo, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::End] {
        sink.script(Rule::at(stage, Action::Split));
    }
    let lockgate = Lockgate::before(&sink);
    Client::open(lockgate.outbound()).deliver(&Mail::short("s", 1));
    assert_eq!(sink.count(), 1);
}

/// A refusal before MAIL concerns the link, not the mail: never 5yz to the client.
#[test]
fn a_refusal_before_mail_is_451() {
    let refusals: [(Stage, &str); 4] = [
        (Stage::Banner, "554 5.7.1 go away"),
        (Stage::Banner, "421 4.3.2 busy"),
        (Stage::Ehlo, "554 5.7.1 not you"),
        (Stage::Ehlo, "421 4.3.2 busy"),
    ];
    for (stage, reply) in refusals {
        let sink = Sink::start("sink.test");
        sink.script(Rule::reply(stage, reply));
        sink.script(Rule::reply(Stage::Helo, "554 5.7.1 nor so"));
        let lockgate = Settings::with([Gate::to("outbound", sink.address())]).start();
        let mut client = Client::open(lockgate.outbound());
        let mail = client.command("MAIL FROM:<a@client.test>");
        assert_eq!(mail.code, 451, "{stage:?} {reply}: {mail:?}");
    }
}

#[test]
fn a_next_hop_that_knows_only_helo_is_spoken_to_so() {
    let sink = Sink::start("sink.test");
    sink.script(Rule::reply(Stage::Ehlo, "502 5.5.1 what is EHLO?"));
    let lockgate = Settings::with([Gate::to("outbound", sink.address())]).start();
    Client::open(lockgate.outbound()).deliver(&Mail::short("h", 1));
    assert_eq!(sink.taken()[0].mail_line, "MAIL FROM:<sender-1@client.test>");
}

#[test]
fn an_unreachable_next_hop_is_451_at_mail_by_default() {
    let sink = Sink::prepared("sink.test", &FULL_OFFER);
    let lockgate = Settings::with([Gate::to("outbound", sink.address())]).start();
    let mut client = Client::open(lockgate.outbound());
    let reply = client.command("MAIL FROM:<a@client.test>");
    assert_eq!((reply.code, reply.text().split(' ').next().unwrap()), (451, "4.4.1"));
    assert_eq!(client.command("NOOP").code, 250, "the connection goes on");
}

#[test]
fn a_refusing_gate_answers_451_at_mail_and_asks_nobody() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    lockgate.ok(&["refuse", "outbound", "--reason", "a story"]);
    let reply = client.command("MAIL FROM:<a@client.test>");
    assert_eq!((reply.code, reply.text().split(' ').next().unwrap()), (451, "4.3.2"));
    assert_eq!(lockgate.mode("outbound"), "refuse");
    lockgate.release("outbound");
    client.deliver(&Mail::short("r", 1));
    assert_eq!(sink.dots(), 1);
}

/// Goal: EHLO offers what the members offer, as last seen, also when they are away, and never
/// something else within a connection.
#[test]
fn ehlo_offers_what_the_member_offered_when_last_seen() {
    let mut sink = Sink::prepared("sink.test", &FULL_OFFER);
    let mut lockgate = Settings::with([Gate::to("outbound", sink.address())]).start();
    let never_seen = Client::open(lockgate.outbound()).ehlo;
    assert!(never_seen.offers("PIPELINING"), "{never_seen:?}");
    for keyword in ["SIZE", "8BITMIME", "SMTPUTF8", "DSN"] {
        assert!(!never_seen.offers(keyword), "{keyword} by a member never seen");
    }

    sink.start_again("sink.test");
    let mut client = Client::open(lockgate.outbound());
    wait::until_true("the member is reachable", LONG, || {
        client.transaction(&Mail::short("e", 1), Style::LockStep).accepted()
    });
    let seen = Client::open(lockgate.outbound()).ehlo;
    for keyword in ["PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"] {
        assert!(seen.offers(keyword), "{keyword}: {seen:?}");
    }
    // The older connection was not offered that.
    assert_eq!(client.command("MAIL FROM:<a@client.test> BODY=8BITMIME").code, 555);
    for keyword in [
        "CHUNKING",
        "BINARYMIME",
        "DELIVERBY",
        "FUTURERELEASE",
        "MT-PRIORITY",
        "REQUIRETLS",
        "XFORWARD",
        "AUTH",
    ] {
        assert!(!seen.offers(keyword), "{keyword}");
    }

    sink.stop();
    lockgate.restart();
    let away = Client::open(lockgate.outbound()).ehlo;
    assert_eq!(away.lines[1..], seen.lines[1..], "as last seen, over a restart");
    lockgate.hold("outbound");
    let held = Client::open(lockgate.outbound()).ehlo;
    assert_eq!(held.lines[1..], seen.lines[1..], "the same in hold");
}

#[test]
fn ehlo_is_the_intersection_over_the_members_and_size_their_minimum_less_the_trace() {
    let one = Sink::start_offering("one.test", &["PIPELINING", "SIZE 20000000", "8BITMIME", "DSN"]);
    let two = Sink::start_offering("two.test", &["SIZE 10000000", "8BITMIME", "SMTPUTF8", "HELP"]);
    let gate = Gate::new("outbound")
        .member(Member::new("sems1", one.address()))
        .member(Member::new("sems2", two.address()));
    let lockgate = Settings::with([gate]).start();
    let mut n = 0;
    wait::until_true("both members have been seen", LONG, || {
        n += 1;
        Client::open(lockgate.outbound()).deliver(&Mail::short("i", n));
        one.count() > 0 && two.count() > 0
    });
    let ehlo = Client::open(lockgate.outbound()).ehlo;
    assert_eq!(ehlo.keyword("SIZE").unwrap(), (10_000_000 - 4096).to_string());
    assert!(ehlo.offers("PIPELINING") && ehlo.offers("8BITMIME"));
    assert!(!ehlo.offers("DSN") && !ehlo.offers("SMTPUTF8") && !ehlo.offers("HELP"));
}

#[test]
fn pipelined_commands_are_pipelined_to_a_next_hop_that_offers_it() {
    for (offer, waiting) in [(FULL_OFFER.as_slice(), 3), (&["8BITMIME"], 1)] {
        let sink = Sink::start_offering("sink.test", offer);
        let lockgate = Lockgate::before(&sink);
        sink.script(Rule::at(Stage::Mail, Action::Delay(Duration::from_millis(300))));
        let mail = Mail::short("p", 1).to(&["<a@x.test>", "<b@x.test>"]);
        let receipt = Client::open(lockgate.outbound()).transaction(&mail, Style::Pipelined);
        assert!(receipt.accepted());
        let most = sink.sessions().iter().map(|session| session.waiting).max().unwrap();
        if waiting == 1 {
            assert_eq!(most, 1, "lock-step to a next hop without PIPELINING");
        } else {
            assert!(most >= waiting, "MAIL and both RCPT at once, not {most}");
        }
    }
}

#[test]
fn connections_are_reused_over_messages_and_clients() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    for n in 0..3 {
        let mut client = Client::open(lockgate.outbound());
        client.deliver(&Mail::short("c", 2 * n));
        client.deliver(&Mail::short("c", 2 * n + 1));
        client.quit();
    }
    assert_eq!(sink.count(), 6);
    let used: std::collections::HashSet<usize> =
        sink.taken().iter().map(|t| t.connection).collect();
    assert_eq!(used.len(), 1, "one connection for six messages of three clients");
}

#[test]
fn a_connection_is_closed_after_so_many_messages() {
    let sink = Sink::start("sink.test");
    let settings = Settings::with([Gate::to("outbound", sink.address())]);
    let lockgate = settings.set("relay", "pool_messages", "2").start();
    let mut client = Client::open(lockgate.outbound());
    for n in 0..6 {
        client.deliver(&Mail::short("c", n));
    }
    let used: Vec<usize> = sink.taken().iter().map(|t| t.connection).collect();
    assert_eq!((used[0], used[2], used[4]), (used[1], used[3], used[5]));
    assert!(used[1] < used[2] && used[3] < used[4], "{used:?}");
}

/// A connection that saw 421, a 5yz or an unexpected reply is closed, not pooled.
#[test]
fn a_connection_that_saw_a_refusal_is_not_used_again() {
    for (stage, reply) in [
        (Stage::Mail, "550 5.7.1 no"),
        (Stage::Rcpt, "550 5.1.1 no"),
        (Stage::End, "554 5.6.0 no"),
        (Stage::Mail, "421 4.3.2 later"),
    ] {
        let sink = Sink::start("sink.test");
        let lockgate = Lockgate::before(&sink);
        let times = if reply.starts_with("421") { 2 } else { 1 };
        sink.script(Rule::reply(stage, reply).times(times));
        let before = sink.connections();
        let mut client = Client::open(lockgate.outbound());
        assert!(!client.transaction(&Mail::short("n", 1), Style::LockStep).accepted());
        client.deliver(&Mail::short("n", 2));
        let used = sink.one(Mail::short("n", 2).key()).connection;
        assert!(used > before, "{stage:?} {reply}: connection {used} was used again");
    }
}

/// Goal: a pooled connection that died unnoticed costs the client nothing.
#[test]
fn a_stale_pooled_connection_is_replaced_invisibly() {
    let mut sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    for n in 0..3 {
        client.deliver(&Mail::short("s", n));
        sink.stop();
        sink.start_again("sink.test");
    }
    client.deliver(&Mail::short("s", 3));
    assert_eq!(sink.count(), 4);
}

/// The next hop closes the pooled connection at the next MAIL: still nothing of this transaction
/// has reached the client, so another connection is taken.
#[test]
fn a_connection_closed_at_mail_is_replaced_before_the_client_hears() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    sink.script(Rule::at(Stage::Mail, Action::Close).times(1));
    Client::open(lockgate.outbound()).deliver(&Mail::short("s", 1));
    assert_eq!(sink.count(), 1);
}

/// Once a reply has reached the client the transaction is bound to its connection.
#[test]
fn a_connection_lost_after_the_first_reply_is_451() {
    for stage in [Stage::Rcpt, Stage::Data, Stage::Middle] {
        let sink = Sink::start("sink.test");
        let lockgate = Lockgate::before(&sink);
        sink.script(Rule::at(stage, Action::Reset).times(1));
        let mut client = Client::open(lockgate.outbound());
        let mail = Mail::new("s", 1, Kind::Attachment(2 * MIB));
        let receipt = client.transaction(&mail, Style::LockStep);
        assert_eq!(receipt.last().unwrap().code, 451, "{stage:?}: {receipt:?}");
        assert_eq!(sink.dots(), 0, "{stage:?}: nothing was sent again");
        client.deliver(&Mail::short("s", 2));
    }
}

#[test]
fn another_member_is_tried_when_one_is_away() {
    let away = Sink::prepared("one.test", &FULL_OFFER);
    let there = Sink::start("two.test");
    let gate = Gate::new("outbound")
        .member(Member::new("sems1", away.address()))
        .member(Member::new("sems2", there.address()));
    let lockgate = Settings::with([gate]).start();
    let mut client = Client::open(lockgate.outbound());
    for n in 0..6 {
        client.deliver(&Mail::short("m", n));
    }
    assert_eq!(there.count(), 6);
}

/// The server takes the direction of mail from the source address: a wrong one sends it in clear.
#[test]
fn source_address_and_helo_name_are_those_of_gate_and_member() {
    let sink = Sink::start("sink.test");
    let gate = |name: &str, source: &str, helo: &str| {
        let member = Member::new("sems1", sink.address())
            .set("source_address", &format!("{source:?}"))
            .set("helo_name", &format!("{helo:?}"));
        Gate::new(name).member(member)
    };
    let settings = Settings::with([
        gate("outbound", "127.0.0.5", "out.lockgate.test"),
        gate("inbound", "127.0.0.6", "in.lockgate.test"),
    ]);
    let lockgate = settings.start();
    let seen = |n: usize| {
        let found = sink.one(Mail::short("d", n).key());
        (found.peer.ip().to_string(), found.helo)
    };
    let outbound = ("127.0.0.5".to_owned(), "out.lockgate.test".to_owned());
    let inbound = ("127.0.0.6".to_owned(), "in.lockgate.test".to_owned());
    Client::open(lockgate.gate("outbound")).deliver(&Mail::short("d", 1));
    Client::open(lockgate.gate("inbound")).deliver(&Mail::short("d", 2));
    assert_eq!((seen(1), seen(2)), (outbound.clone(), inbound.clone()));

    lockgate.ok(&["hold", "--all", "--reason", "a story"]);
    Client::open(lockgate.gate("outbound")).deliver(&Mail::short("d", 3));
    Client::open(lockgate.gate("inbound")).deliver(&Mail::short("d", 4));
    lockgate.release("outbound");
    lockgate.release("inbound");
    sink.wait_for(4, LONG);
    assert_eq!((seen(3), seen(4)), (outbound, inbound), "the same in replay");

    lockgate.ok(&["probe", "outbound", "--to", "probe@x.test"]);
    let probe = sink.one("probe@x.test");
    assert_eq!(probe.peer.ip(), "127.0.0.5".parse::<IpAddr>().unwrap(), "the same in a probe");
}

#[test]
fn only_allowed_clients_are_served() {
    let sink = Sink::start("sink.test");
    let gate =
        Gate::to("outbound", sink.address()).set("allow", r#"["127.0.0.1", "127.1.0.0/16"]"#);
    let lockgate = Settings::with([gate]).start();
    let from = |source: &str| {
        let mut client =
            Client::connect(lockgate.outbound(), Some(source.parse().unwrap())).unwrap();
        client.expect_reply().code
    };
    assert_eq!(from("127.0.0.1"), 220);
    assert_eq!(from("127.1.2.3"), 220);
    assert_eq!(from("127.0.0.2"), 554);
    assert_eq!(from("127.2.0.1"), 554);
}

#[test]
fn xforward_tells_the_next_hop_of_the_client_and_our_id() {
    let offer =
        [FULL_OFFER.as_slice(), &["XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"]].concat();
    let sink = Sink::start_offering("sink.test", &offer);
    let lockgate = Lockgate::before(&sink);
    assert!(!Client::open(lockgate.outbound()).ehlo.offers("XFORWARD"), "hop by hop");
    let source: IpAddr = "127.0.0.7".parse().unwrap();
    let mut client = Client::try_open(lockgate.outbound(), Some(source)).unwrap();
    let local = client.local_address();
    client.deliver(&Mail::short("x", 1));
    let found = sink.one(Mail::short("x", 1).key());
    assert_eq!(found.xforward["ADDR"], "127.0.0.7");
    assert_eq!(found.xforward["PORT"], local.port().to_string());
    assert_eq!(found.xforward["HELO"], "client.test");
    assert_eq!(found.xforward["PROTO"], "ESMTP");
    let trace = mail::field(&found.data, "Received").unwrap();
    assert!(trace.contains(&found.xforward["IDENT"]), "{trace:?} {:?}", found.xforward);

    // Another client's mail does not go out under this one's name.
    Client::open(lockgate.outbound()).deliver(&Mail::short("x", 2));
    assert_eq!(sink.one(Mail::short("x", 2).key()).xforward["ADDR"], "127.0.0.1");
}

/// Goal: a message streams through; it is never in memory as a whole.
/// Method: 50 MiB to a next hop that stands still in the middle, where a proxy that buffers would
/// take all of it in.
#[test]
fn a_50_mib_message_streams_through_bounded_memory() {
    // Half of the message; a process that has just started takes several MiB more by itself, thread by thread.
    const MOST: usize = 24 * MIB;
    let sink = Sink::start("sink.test");
    let mut lockgate = Lockgate::before(&sink);
    let before = lockgate.resident_octets();
    sink.script(Rule::at(Stage::Middle, Action::Hold));
    let address = lockgate.outbound();
    let sending = std::thread::spawn(move || {
        let mail = Mail::new("big", 1, Kind::Attachment(36 * MIB));
        assert!(mail.data.len() > 48 * MIB);
        Client::open(address).patient(Duration::from_secs(60)).transaction(&mail, Style::LockStep)
    });
    sink.wait_for_holding(1);
    let mut most = 0;
    let small = wait::stays(Duration::from_millis(1_500), || {
        most = most.max(lockgate.resident_octets());
        most < before + MOST
    });
    assert!(small, "grew by {} MiB", most.saturating_sub(before) / MIB);
    sink.let_go();
    assert!(sending.join().unwrap().accepted());
    assert!(lockgate.resident_octets() < before + MOST);
    let mail = Mail::new("big", 1, Kind::Attachment(36 * MIB));
    assert!(sink.one(mail.key()).data_without_trace() == mail.data);
}

#[test]
fn a_silent_next_hop_is_given_up_at_its_deadline() {
    for (stage, key) in [
        (Stage::Mail, "mail_s"),
        (Stage::Rcpt, "rcpt_s"),
        (Stage::Data, "data_s"),
        (Stage::End, "final_reply_s"),
    ] {
        let sink = Sink::start("sink.test");
        let settings = Settings::with([Gate::to("outbound", sink.address())]);
        let lockgate = settings.set("relay", key, "1").start();
        lockgate.meet("outbound", &sink);
        sink.script(Rule::at(stage, Action::Silence));
        let mut client = Client::open(lockgate.outbound()).patient(Duration::from_secs(10));
        let receipt = client.transaction(&Mail::short("d", 1), Style::LockStep);
        assert_eq!(receipt.last().map(|reply| reply.code), Some(451), "{stage:?}: {receipt:?}");
    }
}

/// Goal: a client that goes away in the middle leaves nothing behind at the next hop.
#[test]
fn a_client_that_leaves_before_the_final_dot_delivers_nothing() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    assert_eq!(client.command("MAIL FROM:<a@client.test>").code, 250);
    assert_eq!(client.command("RCPT TO:<b@x.test>").code, 250);
    assert_eq!(client.command("DATA").code, 354);
    client.send(b"Subject: half\r\n\r\nhalf a message\r\n").unwrap();
    client.reset();
    wait::until_true("the next hop sees the end", LONG, || {
        sink.sessions().last().is_some_and(|session| session.ended)
    });
    assert_eq!(sink.dots(), 0);
}

#[test]
fn rset_and_a_second_ehlo_end_the_transaction_at_the_next_hop_too() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    for ending in ["RSET", "EHLO client.test"] {
        assert_eq!(client.command("MAIL FROM:<a@client.test>").code, 250);
        assert_eq!(client.command("RCPT TO:<never@x.test>").code, 250);
        assert_eq!(client.command(ending).code, 250);
        assert_eq!(client.command("RCPT TO:<never@x.test>").code, 503);
        client.deliver(&Mail::short("r", 1));
        assert_eq!(sink.taken().pop().unwrap().forward_paths(), [Mail::short("r", 1).key()]);
    }
    assert_eq!(client.command("DATA").code, 503);
}

/// A return gate passes while its partner holds, or what the server sends back would have nowhere
/// to go.
#[test]
fn a_return_gate_passes_while_its_partner_holds() {
    let server = Sink::start("server.test");
    let mta = Sink::start("mta.test");
    let lockgate = Settings::with([
        Gate::to("outbound", server.address()),
        Gate::new("back").member(Member::new("mta", mta.address())).set("returns", "\"outbound\""),
    ])
    .start();
    lockgate.ok(&["hold", "--all", "--reason", "a story"]);
    std::fs::write(lockgate.data().join("hold"), b"").unwrap();
    Client::open(lockgate.gate("outbound")).deliver(&Mail::short("o", 1));
    Client::open(lockgate.gate("back")).deliver(&Mail::short("b", 1));
    assert_eq!((server.count(), mta.count()), (0, 1));
    assert_eq!((lockgate.mode("outbound"), lockgate.mode("back")), ("hold".into(), "pass".into()));
    assert_eq!(lockgate.cli(&["refuse", "back", "--reason", "no"]).code, 1, "it cannot refuse");
}

#[test]
fn a_connection_lost_by_the_client_ends_only_its_own_session() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    for _ in 0..20 {
        let mut client = Client::open(lockgate.outbound());
        client.send(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@x.test>\r\nDA").unwrap();
        client.reset();
    }
    let mut client = Client::open(lockgate.outbound());
    client.deliver(&Mail::short("l", 1));
    client.shut();
    assert_eq!(client.read(), Err(Lost::Closed));
    assert_eq!(sink.count(), 1);
}

/// Goal: with several workers every connection is served alike, whichever worker the system gives
/// it to, and a hold reaches them all.
#[test]
fn several_workers_pass_and_hold_as_one() {
    let sink = Sink::start("sink.test");
    let settings = Settings::with([Gate::to("outbound", sink.address())]);
    let lockgate = settings.set("session", "workers", "3").start();
    lockgate.meet("outbound", &sink);
    let mut open = Vec::new();
    for n in 0..30 {
        let mut client = Client::open(lockgate.outbound());
        client.deliver(&Mail::short("w", n));
        open.push(client);
    }
    assert_eq!(sink.count(), 30);
    lockgate.hold("outbound");
    for (n, client) in open.iter_mut().enumerate() {
        let reply = client.deliver(&Mail::short("held", n));
        assert!(reply.text().contains("held as"), "{reply:?}");
    }
    assert_eq!(sink.count(), 30);
    lockgate.release("outbound");
    sink.wait_for(60, LONG);
}
