//! The wire: what lockgate takes from a client, and what it does not.
//!
//! The parser's own tests look at every grammar rule; these look at a whole server: what it does
//! with a line that is not one, that nothing smuggled reaches the next hop, that sizes hold.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::time::Duration;

use tests::client::{Client, Lost, Style};
use tests::lockgate::{Gate, Lockgate, Settings};
use tests::mail::Mail;
use tests::sink::{Action, Rule, Sink, Stage};
use tests::wait;

#[test]
fn each_command_has_its_reply() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    for (line, code) in [
        ("NOOP", 250),
        ("noop with words", 250),
        ("HELP", 214),
        ("VRFY postmaster", 252),
        ("RSET", 250),
        ("RCPT TO:<a@x.test>", 503),
        ("DATA", 503),
        ("MAIL", 501),
        ("MAIL FROM:a@client.test", 501),
        ("MAIL FROM:<a@client.test", 501),
        ("MAIL FROM:<a@client.test> SIZE=many", 501),
        ("MAIL FROM:<a@client.test> SIZE=1 SIZE=2", 501),
        ("MAIL FROM:<a@client.test> BODY=BINARYMIME", 555),
        ("MAIL FROM:<a@client.test> MT-PRIORITY=3", 555),
        ("MAIL FROM:<a@client.test> REQUIRETLS", 555),
        ("MAIL FROM:<a@client.test> HOLDFOR=60", 555),
        ("MAIL FROM:<a@client.test> AUTH=<>", 555),
        ("MAIL FROM:<jörg@client.test>", 553),
        ("FROB", 500),
        ("BDAT 3 LAST", 502),
        ("AUTH PLAIN", 502),
        ("EXPN list", 502),
        ("ETRN example.org", 502),
        ("TURN", 502),
        ("XCLIENT ADDR=192.0.2.1", 502),
    ] {
        assert_eq!(client.command(line).code, code, "{line}");
    }
    assert_eq!(client.quit().code, 221);
    let mut client = Client::open(lockgate.outbound());
    assert_eq!(client.command("mail from:<a@client.test>").code, 250);
    assert_eq!(client.command("MAIL FROM:<b@client.test>").code, 503);
    assert_eq!(client.command("DATA").code, 503);
    assert_eq!(client.command("RCPT TO:<a@x.test> FOO=bar").code, 555);
    assert_eq!(client.command("RCPT TO:<nobody>").code, 501);
    assert_eq!(client.command("rcpt to:<Postmaster>").code, 250);
    assert_eq!(sink.dots(), 0);
}

#[test]
fn mail_before_ehlo_is_out_of_turn() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::connect(lockgate.outbound(), None).unwrap();
    assert_eq!(client.expect_reply().code, 220);
    assert_eq!(client.command("MAIL FROM:<a@client.test>").code, 503);
    let helo = client.command("HELO client.test");
    assert_eq!((helo.code, helo.lines.len()), (250, 1));
    assert_eq!(client.command("MAIL FROM:<a@client.test>").code, 250);
}

/// A bare CR or LF in a command: 500, and the line is not executed.
#[test]
fn a_command_line_with_a_bare_cr_or_lf_is_not_executed() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    for line in [
        &b"MAIL FROM:<a@client.test>\nRCPT TO:<b@x.test>\r\n"[..],
        b"MAIL\rFROM:<a@client.test>\r\n",
        b"NOOP\n\r\n",
        b"NOOP\r\r\n",
        b"NO\0OP\r\n",
    ] {
        let mut client = Client::open(lockgate.outbound());
        client.send(line).unwrap();
        assert_eq!(client.expect_reply().code, 500, "{:?}", String::from_utf8_lossy(line));
        assert_eq!(client.command("RCPT TO:<b@x.test>").code, 503, "no MAIL was executed");
    }
}

/// Goal: nothing that another server might take for an end of data ends it here, and nothing of
/// such mail data reaches the next hop as a complete message.
/// Method: the known ways to smuggle a second message, in pass and in hold.
#[test]
fn mail_data_with_a_bare_cr_or_lf_is_refused_as_a_whole() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let endings: [&[u8]; 10] = [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r\n.\r",
        b"\r.\r\n",
        b"\r\n.\r\r\n",
        b"\r\r\n.\r\n",
        b"\n\n.\r\n",
        b"lone\rreturn",
    ];
    for hold in [false, true] {
        if hold {
            lockgate.hold("outbound");
        }
        for ending in endings {
            let mut client = Client::open(lockgate.outbound());
            let smuggled =
                b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<victim@x.test>\r\nDATA\r\nevil\r\n";
            let data = [b"Subject: x\r\n\r\nfirst", ending, smuggled, b".\r\n"].concat();
            let mut mail = Mail::short("smuggle", 1);
            // `data` already has its final dot: the client adds none.
            mail.data.clear();
            for line in [mail.mail_line(), mail.rcpt_lines()[0].clone()] {
                assert_eq!(client.command(&line).code, 250);
            }
            assert_eq!(client.command("DATA").code, 354);
            client.send(&data).unwrap();
            let shown = String::from_utf8_lossy(ending).into_owned();
            let reply = client.expect_reply();
            let enhanced = reply.text().split(' ').next().unwrap().to_owned();
            assert_eq!((reply.code, enhanced.as_str()), (550, "5.6.0"), "{shown:?}, hold: {hold}");
            assert_eq!(client.expect_reply().code, 421, "{shown:?}");
            assert_eq!(client.read(), Err(Lost::Closed), "{shown:?}");
        }
    }
    assert_eq!(sink.dots(), 0, "not a single message reached the next hop");
    assert!(lockgate.held().is_empty());
}

/// Mail data split at every octet gives the same message.
/// Goal: a bare LF ends the session also where the message is refused for another reason already.
/// Method: more octets than SIZE in one write, the bare LF in a later one.
#[test]
fn a_bare_lf_behind_an_oversize_message_is_no_less_a_fault() {
    let sink = Sink::start_offering("sink.test", &["PIPELINING", "SIZE 30000"]);
    let lockgate = Lockgate::before(&sink);
    for hold in [false, true] {
        if hold {
            lockgate.hold("outbound");
        }
        let mut client = Client::open(lockgate.outbound());
        for line in ["MAIL FROM:<a@client.test>", "RCPT TO:<b@x.test>"] {
            assert_eq!(client.command(line).code, 250);
        }
        assert_eq!(client.command("DATA").code, 354);
        client.send(&b"0123456789012345678901234567\r\n".repeat(2_000)).unwrap();
        client.send(b"a\nb\r\n.\r\n").unwrap();
        assert_eq!(client.expect_reply().code, 550);
        assert_eq!(client.expect_reply().code, 421);
        assert_eq!(client.read(), Err(Lost::Closed));
    }
    assert!(lockgate.held().is_empty());
    assert_eq!(sink.count(), 0);
}

#[test]
fn mail_data_may_come_octet_by_octet() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    for line in ["MAIL FROM:<a@client.test>", "RCPT TO:<b@x.test>"] {
        assert_eq!(client.command(line).code, 250);
    }
    assert_eq!(client.command("DATA").code, 354);
    let data = b"Subject: slow\r\n\r\n..\r\n.. dots\r\nend\r\n.\r\nNOOP\r\n";
    for octet in data {
        client.send(&[*octet]).unwrap();
        wait::let_pass(Duration::from_millis(1));
    }
    assert_eq!(client.expect_reply().code, 250);
    assert_eq!(client.expect_reply().code, 250, "NOOP after the final dot");
    let expected = &data[..data.len() - b".\r\nNOOP\r\n".len()];
    assert_eq!(sink.one("b@x.test").data_without_trace(), expected);
}

#[test]
fn a_whole_session_may_come_in_one_write() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    client
        .send(
            b"MAIL FROM:<a@client.test>\r\nRCPT TO:<one@x.test>\r\nDATA\r\nfirst\r\n.\r\n\
              MAIL FROM:<a@client.test>\r\nRCPT TO:<two@x.test>\r\nDATA\r\n.\r\nQUIT\r\n",
        )
        .unwrap();
    let codes: Vec<u16> = (0..9).map(|_| client.expect_reply().code).collect();
    assert_eq!(codes, [250, 250, 354, 250, 250, 250, 354, 250, 221]);
    assert_eq!(sink.one("one@x.test").data_without_trace(), b"first\r\n");
    assert_eq!(sink.one("two@x.test").data_without_trace(), b"");
}

/// Goal: a long line of the next hop's reply, or endless lines, cost bounded memory.
#[test]
fn endless_replies_of_the_next_hop_are_cut_off() {
    let endless: [Vec<u8>; 2] = [
        [b"250 ".as_slice(), &vec![b'x'; 32 << 20]].concat(),
        b"250-again and again\r\n".repeat(1_600_000),
    ];
    for octets in endless {
        let sink = Sink::start("sink.test");
        let mut lockgate = Lockgate::before(&sink);
        let before = lockgate.resident_octets();
        sink.script(Rule::at(Stage::Mail, Action::Raw(octets)));
        let mut client = Client::open(lockgate.outbound());
        assert_eq!(client.command("MAIL FROM:<a@client.test>").code, 451);
        assert!(lockgate.resident_octets() < before + (16 << 20));
        sink.behave();
        client.deliver(&Mail::short("e", 1));
    }
}

#[test]
fn command_lines_are_taken_to_4_kib_and_no_further() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    let noop = |octets: usize| format!("NOOP {}", "x".repeat(octets - 7));
    assert_eq!(client.command(&noop(512)).code, 250, "RFC 5321 §4.5.3.1.4");
    assert_eq!(client.command(&noop(4096)).code, 250);
    assert_eq!(client.command(&noop(4097)).code, 500);
    assert_eq!(client.command(&noop(1 << 20)).code, 500);
    assert_eq!(client.command("NOOP").code, 250);
    // RFC 5321 §4.5.3.1.1 and .2: a local part of 64 and a domain of 255 octets.
    let domain = format!("{}.test", ["d".repeat(62).as_str(); 4].join(".").split_at(250).0);
    assert_eq!(domain.len(), 255);
    let mail = Mail::short("l", 1).to(&[&format!("<{}@{domain}>", "l".repeat(64))]);
    client.deliver(&mail);
    assert_eq!(sink.taken()[0].rcpt_lines, mail.rcpt_lines());
}

#[test]
fn a_hundred_recipients_are_taken_and_too_many_get_452() {
    let sink = Sink::start("sink.test");
    let settings = Settings::with([Gate::to("outbound", sink.address())]);
    let lockgate = settings.set("session", "recipients_max", "120").start();
    lockgate.meet("outbound", &sink);
    let paths: Vec<String> = (0..130).map(|n| format!("<r{n:03}@x.test>")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    for hold in [false, true] {
        if hold {
            lockgate.hold("outbound");
        }
        let mail = Mail::short("many", 1).to(&paths);
        let receipt = Client::open(lockgate.outbound()).transaction(&mail, Style::Pipelined);
        let (taken, refused) = receipt.rcpt.split_at(120);
        assert!(taken.iter().all(|reply| reply.code == 250));
        let too_many =
            |reply: &tests::client::Reply| reply.code == 452 && reply.text().starts_with("4.5.3");
        assert!(refused.iter().all(too_many), "{refused:?}");
        assert!(receipt.accepted());
    }
    assert_eq!(sink.taken()[0].rcpt_lines.len(), 120);
    let held = lockgate.held();
    assert_eq!(held[0]["forward_paths"].as_array().unwrap().len(), 120);
}

#[test]
fn a_message_larger_than_size_is_refused_at_mail_or_at_its_end() {
    let sink = Sink::start_offering("sink.test", &["PIPELINING", "SIZE 200000", "8BITMIME"]);
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    let mut client = Client::open(lockgate.outbound());
    let size: usize = client.ehlo.keyword("SIZE").unwrap().parse().unwrap();
    assert_eq!(size, 200_000 - 4096);
    let reply = client.command(&format!("MAIL FROM:<a@client.test> SIZE={}", size + 1));
    assert_eq!((reply.code, reply.text().split(' ').next().unwrap()), (552, "5.3.4"));
    let reply = client.command(&format!("MAIL FROM:<a@client.test> SIZE={size}"));
    assert_eq!(reply.code, 250);
    client.command("RSET");
    let mut mail = Mail::short("big", 1);
    mail.data = b"a line of thirty-two octets ...\r\n".repeat(10_000);
    let end = client.transaction(&mail, Style::LockStep).end.unwrap();
    assert_eq!((end.code, end.text().split(' ').next().unwrap()), (552, "5.3.4"));
    assert!(lockgate.held().is_empty());
}
