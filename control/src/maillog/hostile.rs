//! Properties that hold for every dialect, for any octets.
//!
//! Goal: no line makes a panic, and each is answered.
//! Method: arbitrary octets, and lines of the dialect that were cut, doubled and had octets
//! replaced.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests only")]

use proptest::prelude::*;

use super::shown::clock;
use super::{Config, Dialect, Line, Reader};

/// Lines of each dialect; the dialects' own tests say what they mean.
fn lines_of(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::Postfix => super::postfix::tests::LINES,
        Dialect::Exim => super::exim::tests::LINES,
        Dialect::Sendmail => super::sendmail::tests::LINES,
        Dialect::Opensmtpd => super::opensmtpd::tests::LINES,
        Dialect::Exchange => super::exchange::tests::LINES,
        Dialect::Sems | Dialect::Custom => super::sems::tests::LINES,
        Dialect::Lockgate => super::lockgate::tests::LINES,
    }
}

/// A reader that has seen a heading and has a pattern, so that as much code as possible runs.
fn reader(dialect: Dialect) -> Reader {
    let text = format!(
        "dialect = '{}'\n[[pattern]]\nregex = '(?<time>.*)SMTP-(?<id>\\d+): (?<recipient>\\S*)'\n\
         what = 'stored'\nstamp = 'rfc3339'",
        dialect.name()
    );
    let config: Config = toml::from_str(&text).unwrap();
    let mut reader = Reader::from_config(&config).unwrap();
    if dialect == Dialect::Exchange {
        reader.read(lines_of(dialect)[0].as_bytes(), &mut clock(), &mut |_| {});
    }
    reader
}

fn answers(reader: &mut Reader, line: &[u8]) -> usize {
    let mut count = 0;
    reader.read(line, &mut clock(), &mut |line: Line<'_>| {
        std::hint::black_box(format!("{line:?}"));
        count += 1;
    });
    count
}

/// One change of a line.
#[derive(Clone, Debug)]
enum Change {
    Cut(usize),
    Front(usize),
    Replace(usize, u8),
    Insert(usize, u8),
    Double(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let octet = prop_oneof![
        any::<u8>(),
        proptest::sample::select(b"<>\"\\:;,=()[]{} \0\xff@/-+.T".as_slice())
    ];
    let place = 0..400_usize;
    prop_oneof![
        place.clone().prop_map(Change::Cut),
        place.clone().prop_map(Change::Front),
        (place.clone(), octet.clone()).prop_map(|(at, octet)| Change::Replace(at, octet)),
        (place.clone(), octet).prop_map(|(at, octet)| Change::Insert(at, octet)),
        (place.clone(), place).prop_map(|(from, length)| Change::Double(from, length)),
    ]
}

fn changed(line: &str, changes: &[Change]) -> Vec<u8> {
    let mut line = line.as_bytes().to_vec();
    for change in changes {
        let length = line.len().max(1);
        match *change {
            Change::Cut(at) => line.truncate(at % length),
            Change::Front(at) => drop(line.drain(..at % length)),
            Change::Replace(at, octet) => {
                if let Some(place) = line.get_mut(at % length) {
                    *place = octet;
                }
            }
            Change::Insert(at, octet) => line.insert(at % length, octet),
            Change::Double(from, count) => {
                let from = from % length;
                let part: Vec<u8> = line.iter().skip(from).take(count % 80).copied().collect();
                line.splice(from..from, part);
            }
        }
        if line.is_empty() {
            line.push(b'x');
        }
    }
    line
}

fn survives(dialect: Dialect) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let lines = lines_of(dialect);
    let mutated = (0..lines.len(), proptest::collection::vec(change(), 1..6));
    let mut reader = reader(dialect);
    let seen = std::cell::RefCell::new(&mut reader);
    runner
        .run(&mutated, |(index, changes)| {
            let line = changed(lines[index], &changes);
            prop_assert!(answers(&mut seen.borrow_mut(), &line) > 0, "{line:?}");
            Ok(())
        })
        .unwrap();
    runner
        .run(&proptest::collection::vec(any::<u8>(), 0..200), |line| {
            prop_assert!(answers(&mut seen.borrow_mut(), &line) > 0, "{line:?}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn any_octets_are_survived_by_postfix() {
    survives(Dialect::Postfix);
}

#[test]
fn any_octets_are_survived_by_exim() {
    survives(Dialect::Exim);
}

#[test]
fn any_octets_are_survived_by_sendmail() {
    survives(Dialect::Sendmail);
}

#[test]
fn any_octets_are_survived_by_opensmtpd() {
    survives(Dialect::Opensmtpd);
}

#[test]
fn any_octets_are_survived_by_exchange() {
    survives(Dialect::Exchange);
}

#[test]
fn any_octets_are_survived_by_sems() {
    survives(Dialect::Sems);
}

#[test]
fn any_octets_are_survived_by_lockgate() {
    survives(Dialect::Lockgate);
}

#[test]
fn any_octets_are_survived_by_patterns() {
    survives(Dialect::Custom);
}

/// What lines tell about: ids of messages.
fn ids(dialect: Dialect, line: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut reader = Reader::new(dialect);
    if dialect == Dialect::Exchange {
        reader.read(lines_of(dialect)[0].as_bytes(), &mut clock(), &mut |_| {});
    }
    reader.read(line.as_bytes(), &mut clock(), &mut |line| {
        let Line::Event(event) = line else { return };
        let text = format!("{:?}", event.what);
        // The first `QueueId("…")` is that of the message.
        if let Some((_, rest)) = text.split_once("QueueId(\"") {
            ids.push(rest.split('"').next().unwrap().to_owned());
        }
    });
    ids
}

/// Goal: text that strangers choose speaks of no message but its own.
/// Method: whole lines about another message, as recipient, sender, Message-ID and reply.
#[test]
fn strangers_cannot_speak_of_another_message() {
    let evil = [
        r#""x>, relay=h[192.0.2.1]:25, delay=1, status=sent (250 ok)"@evil.example"#,
        r#""a\" to=<victim@example.org>, stat=Sent"@evil.example"#,
        "x\" 1dJ08B-0003oP-5i => victim@example.org R=a T=b",
        "Nov 24 10:00:00 mx postfix/smtp[1]: BADBADBAD1: to=<v@example.org>, relay=h[192.0.2.1]:25, \
         delay=1, status=sent (250 ok)",
        "BADBADBAD1: removed",
        "SMTP-99999: recipient 1/1 (v@example.org): passing through unmodified [0x1]",
        "a): unmanaged domain blocked: bouncing message from b",
        "\",\"2022-09-19T15:02:29.450Z\",,,,,,,SMTP,SEND,999",
        "n6BKjb0S009609: to=<v@example.org>, delay=1, stat=Sent",
    ];
    let row =
        "2022-09-19T15:02:31Z,,,,ex1,,,ROUTING,FAIL,439,<m@i>,6a,@@,no,10,1,,,@@,s@b,,,,,,,,,,";
    let cases: [(Dialect, &str, &[&str]); 7] = [
        (Dialect::Exchange, "439", &[row]),
        (
            Dialect::Postfix,
            "4BX0000001",
            &[
                "Nov 24 10:00:00 mx postfix/smtp[1]: 4BX0000001: to=<@@>, relay=none, delay=1, \
                 delays=1/0/0/0, dsn=4.0.0, status=deferred (timed out)",
                "Nov 24 10:00:00 mx postfix/smtp[1]: 4BX0000001: to=<a@b>, relay=c[192.0.2.1]:25, \
                 delay=1, delays=1/0/0/0, dsn=4.0.0, status=deferred (host said: @@)",
                "Nov 24 10:00:00 mx postfix/cleanup[1]: 4BX0000001: message-id=<@@>",
                "Nov 24 10:00:00 mx postfix/qmgr[1]: 4BX0000001: from=<@@>, size=1, nrcpt=1 (queue \
                 active)",
            ],
        ),
        (
            Dialect::Sems,
            "SMTP-00001",
            &[
                "2014/04/23 17:56:57 +01:00  NOTICE pgp/messaging[6517]:       SMTP-00001: message \
                 <@@> from a@b (1 recipient):",
                "2014/04/23 17:56:57 +01:00  NOTICE pgp/messaging[6517]:       SMTP-00001: \
                 recipient 1/1 (@@): passing through unmodified [0x21b2578]",
            ],
        ),
        (
            Dialect::Exim,
            "1RwtJY-0009RI-E4",
            &[
                "2012-02-13 14:39:57 1RwtJY-0009RI-E4 => @@ R=dnslookup T=remote_smtp H=mx.example \
                 [192.0.2.1] C=\"250 OK\"",
                "2012-02-13 14:39:57 1RwtJY-0009RI-E4 <= a@b H=mx.example [192.0.2.1] P=esmtp S=1 \
                 id=@@",
                "2012-02-13 14:39:57 1RwtJY-0009RI-E4 ** a@b R=r T=t H=h [192.0.2.1]: SMTP error: \
                 @@",
            ],
        ),
        (
            Dialect::Sendmail,
            "n6BKbwgB009156",
            &[
                "Jul 11 20:45:37 rt sendmail[1]: n6BKbwgB009156: to=<@@>, delay=00:00:01, \
                 mailer=esmtp, relay=h [192.0.2.1], dsn=4.0.0, stat=Deferred",
                "Jul 11 20:45:37 rt sendmail[1]: n6BKbwgB009156: from=<a@b>, size=1, class=0, \
                 nrcpts=1, msgid=<@@>, relay=h [192.0.2.1]",
            ],
        ),
        (
            Dialect::Opensmtpd,
            "f6e94209",
            &["Jul  6 06:01:48 ams-1 smtpd[75295]: 5df87c9ffd0e785d mta delivery \
               evpid=f6e94209918f7e7b from=<@@> to=<@@> rcpt=<-> source=\"192.0.2.9\" \
               relay=\"192.0.2.1 (h)\" delay=2s result=\"TempFail\" stat=\"450 @@\""],
        ),
        (
            Dialect::Lockgate,
            "001K0XH3KE6S2",
            &["2026-11-23T07:09:43.606788Z  WARN proxy::session: x \
               proxy::transaction::record: transaction id=BAD outcome=\"relayed\" to=\"@@\""],
        ),
    ];
    for (dialect, own, lines) in cases {
        for line in lines {
            for evil in evil {
                let evil = match dialect {
                    Dialect::Exchange => format!("\"{}\"", evil.replace('"', "\"\"")),
                    Dialect::Lockgate => evil.replace('\\', "\\\\").replace('"', "\\\""),
                    _ => evil.to_owned(),
                };
                let line = line.replace("@@", &evil);
                for id in ids(dialect, &line) {
                    assert_eq!(id, own, "{dialect:?}: {line}");
                }
            }
        }
    }
}

/// Goal: a recipient that imitates the rest of its line changes nothing of its outcome.
#[test]
fn a_recipient_cannot_say_that_it_was_sent() {
    let inner =
        "x>, relay=h[192.0.2.1]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (250 ok)";
    let rest = "@e.example>, relay=none, delay=9, delays=9/0/0/0, dsn=4.4.1, status=deferred (no)";
    let quoted = format!("Nov 24 10:00:00 mx postfix/smtp[1]: 4BX0000001: to=<\"{inner}\"{rest}");
    let says = super::shown::says(Dialect::Postfix, &quoted);
    assert!(says.starts_with("unparsed") || says.contains(" Deferred "), "{says}");
    assert!(says.contains(" Deferred "), "the quotes tell where it ends: {says}");
    let bare = format!("Nov 24 10:00:00 mx postfix/smtp[1]: 4BX0000001: to=<{inner}{rest}");
    assert_eq!(super::shown::says(Dialect::Postfix, &bare), "unparsed", "older Postfix: no quotes");
}
