//! Exim's main log.
//!
//! `date time [offset] [pid] id flag address key=value …`, written to a file or through syslog
//! (then with or without Exim's own stamp behind the frame).
//!
//! Exim checks names of hosts and greetings, but a Message-ID, a quoted local part and a reply may
//! hold anything. Hence: the address is read first, by its quotes; keys are read in the order in
//! which Exim writes them; of the reply only what stands between its quotes is used.
//!
//! Not here: the frame of syslog (`syslog`), ids in replies (`reply`).

use std::net::IpAddr;

use super::address::{bare, bracketed_ip, word};
use super::cut::{cut, last};
use super::reply::next_id;
use super::stamp::Clock;
use super::{Disposition, Line, Message, QueueId, Recipient, Says, What, syslog};

/// The redirection that throws a message away.
const BLACKHOLE: &str = ":blackhole:";

/// Takes a line of the main log apart. In a frame of syslog Exim's own stamp, if it writes one,
/// counts: it was first.
pub(super) fn frame<'a>(line: &'a str, clock: &mut Clock) -> Option<Message<'a>> {
    if let Some(message) = own_frame(line, clock) {
        return Some(message);
    }
    let outer = syslog::frame(line, clock)?;
    let inner = own_frame(outer.text, clock);
    Some(match inner {
        Some(inner) => Message {
            at: inner.at.or(outer.at),
            host: outer.host,
            program: outer.program,
            pid: inner.pid.or(outer.pid),
            text: inner.text,
        },
        None => {
            let (pid, text) = own_pid(outer.text);
            Message { pid: pid.or(outer.pid), text, ..outer }
        }
    })
}

fn own_frame<'a>(line: &'a str, clock: &mut Clock) -> Option<Message<'a>> {
    // `T` between date and time is not Exim's: that is a frame of syslog.
    if line.as_bytes().get(10) != Some(&b' ') {
        return None;
    }
    let (at, rest) = clock.iso(line)?;
    let (pid, text) = own_pid(rest.strip_prefix(' ')?);
    Some(Message { at, host: None, program: None, pid, text })
}

/// `[1234] `, from `log_selector = +pid`.
fn own_pid(text: &str) -> (Option<u32>, &str) {
    let read = || {
        let (pid, rest) = text.strip_prefix('[')?.split_once("] ")?;
        Some((Some(pid.parse().ok()?), rest))
    };
    read().unwrap_or((None, text))
}

/// Tells what a line says; `None` when it is not understood.
pub(super) fn read(message: &Message<'_>, each: &mut impl FnMut(Line<'_>)) -> Option<()> {
    let Some((id, body)) = split_id(message.text) else {
        return without_id(message.text).map(|says| each(says.line(message)));
    };
    let (flag, rest) = cut(body, b' ').unwrap_or((body, ""));
    let what = match flag.as_bytes() {
        b"<=" => return arrived(message, id, rest, each),
        b"=>" | b"->" | b">>" => delivered(id, rest, None).map(Says::What),
        b"*>" => delivered(id, rest, Some(Disposition::Deleted)).map(Says::What),
        b"==" => deferred(id, rest).map(Says::What),
        b"**" => failed(id, rest).map(Says::What),
        b"Completed" => Some(Says::What(What::Removed { id })),
        _ => of_message(id, body),
    };
    what.map(|says| each(says.line(message)))
}

/// The id at the beginning, and what is said of the message.
fn split_id(text: &str) -> Option<(QueueId<'_>, &str)> {
    let (id, body) = cut(text, b' ')?;
    is_id(id.as_bytes()).then_some((QueueId(id), body))
}

/// Three groups: 6, 6 and 2 characters, or (4.97 and later) 6, 11 and 4.
fn is_id(id: &[u8]) -> bool {
    let (middle, end) = match id.len() {
        16 => (6, 13),
        23 => (6, 18),
        _ => return false,
    };
    id.iter().enumerate().all(|(place, octet)| {
        if place == middle || place == end { *octet == b'-' } else { octet.is_ascii_alphanumeric() }
    })
}

/// `<= sender R=… U=… H=… P=… S=… id=… T="…" from <…> for …`
fn arrived(
    message: &Message<'_>,
    id: QueueId<'_>,
    rest: &str,
    each: &mut impl FnMut(Line<'_>),
) -> Option<()> {
    let (sender, mut rest) = word(rest);
    if sender.is_empty() {
        return None;
    }
    let (mut client, mut size, mut message_id, mut reference) = (None, None, None, None);
    // From the Message-ID on, strangers write.
    while message_id.is_none() && !rest.is_empty() && !rest.starts_with("T=\"") {
        let (word, behind) = cut(rest, b' ').unwrap_or((rest, ""));
        match word.as_bytes() {
            b"from" | b"for" => break,
            [b'H', b'=', ..] if client.is_none() => {
                (client, rest) = host(rest);
                continue;
            }
            [b'R', b'=', id @ ..] if is_id(id) => reference = word.get(2..).map(QueueId),
            [b'S', b'=', ..] => size = word.get(2..).and_then(|octets| octets.parse().ok()),
            [b'i', b'd', b'=', ..] => message_id = word.get(3..).map(bare),
            _ => {}
        }
        rest = behind;
    }
    if let Some(reference) = reference {
        each(message.event(What::Reported { id: reference, report: id }));
    }
    each(message.event(What::Queued {
        id,
        sender: if sender == "<>" { "" } else { sender },
        size,
        recipients: recipients(rest),
        message_id,
        client: client.and_then(bracketed_ip),
    }));
    Some(())
}

/// How many recipients stand behind `for`, which is last on the line. With a subject (`T="…"`) on
/// it, one cannot tell.
fn recipients(rest: &str) -> Option<u32> {
    if rest.is_empty() {
        return None;
    }
    let list = rest.strip_prefix("for ").or_else(|| match rest.split_once(" for ") {
        Some((before, list)) if !before.contains('"') => Some(list),
        _ => None,
    })?;
    let (mut rest, mut count) = (list, 0);
    while !rest.is_empty() {
        (_, rest) = word(rest);
        count += 1;
    }
    Some(count)
}

/// `H=name (greeting) [192.0.2.1]:25`: the whole of it, and what stands behind. The address is the
/// first word in square brackets that a name or a greeting does not enclose.
fn host(text: &str) -> (Option<&str>, &str) {
    let mut depth = 0_u32;
    for (place, octet) in text.bytes().enumerate() {
        match octet {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'[' if depth == 0 => {
                let behind = text.get(place..).unwrap_or_default();
                let blank = memchr::memchr(b' ', behind.as_bytes());
                let end = blank.map_or(text.len(), |length| place + length);
                return (text.get(..end), text.get(end..).unwrap_or("").trim_start());
            }
            // A key follows although no address came.
            b'=' if place > 1 && depth == 0 => break,
            _ => {}
        }
    }
    let (host, rest) = cut(text, b' ').unwrap_or((text, ""));
    (Some(host), rest)
}

/// The address of a delivery line, the one it came from, and the rest.
struct Addressed<'a> {
    recipient: &'a str,
    original: Option<&'a str>,
    behind: Behind<'a>,
}

/// What follows the addresses.
enum Behind<'a> {
    /// `R=… T=…` and so on.
    Keys(&'a str),
    /// Behind a colon at once the reason: no router took the address.
    Reason(&'a str),
}

/// `recipient (parent) <original> R=…`
fn addressed(text: &str) -> Option<Addressed<'_>> {
    let (recipient, mut rest) = word(text);
    // The name of the redirection to nowhere ends with a colon of its own.
    if recipient != BLACKHOLE
        && let Some(recipient) = recipient.strip_suffix(':')
    {
        let behind = Behind::Reason(rest);
        return Some(Addressed { recipient: bare(recipient), original: None, behind });
    }
    if rest.starts_with('(') {
        rest = rest.split_once(") ").map_or("", |(_, rest)| rest);
    }
    if !rest.starts_with('<') {
        let behind = Behind::Keys(rest);
        return (!recipient.is_empty()).then_some(Addressed {
            recipient: bare(recipient),
            original: None,
            behind,
        });
    }
    let (original, behind) = word(rest);
    let (original, behind) = match original.strip_suffix(':') {
        Some(original) => (original, Behind::Reason(behind)),
        None => (original, Behind::Keys(behind)),
    };
    Some(Addressed { recipient: bare(recipient), original: Some(bare(original)), behind })
}

/// What stands behind the addresses of a delivery line.
#[derive(Default)]
struct Keys<'a> {
    relay: Option<IpAddr>,
    relay_port: Option<u16>,
    relay_name: Option<&'a str>,
    transport: Option<&'a str>,
    confirmation: Option<&'a str>,
}

/// `R=… T=… H=name [192.0.2.1] X=… C="reply" QT=…`
fn keys(text: &str) -> Keys<'_> {
    let mut keys = Keys::default();
    let (mut rest, mut named) = (text, None);
    while !rest.is_empty() {
        if let Some(reply) = rest.strip_prefix("C=\"") {
            keys.confirmation = last(reply, "\"").map(|(reply, _)| reply);
            break;
        }
        if rest.starts_with("H=") && named.is_none() {
            (named, rest) = host(rest);
            continue;
        }
        let (key, behind) = cut(rest, b' ').unwrap_or((rest, ""));
        if let Some(transport) = key.strip_prefix("T=") {
            keys.transport.get_or_insert(transport);
        }
        rest = behind.trim_start();
    }
    let host = named.and_then(|host| host.strip_prefix("H=")).unwrap_or_default();
    keys.relay = bracketed_ip(host);
    keys.relay_port = last(host, "]:").and_then(|(_, port)| port.parse().ok());
    let end = memchr::memchr2(b' ', b'[', host.as_bytes()).unwrap_or(host.len());
    keys.relay_name = host.get(..end).filter(|name| !name.is_empty());
    keys
}

fn outcome<'a>(
    id: QueueId<'a>,
    addressed: &Addressed<'a>,
    keys: &Keys<'a>,
    (disposition, text): (Disposition, &'a str),
) -> What<'a> {
    What::Recipient(Recipient {
        id,
        recipient: addressed.recipient,
        original: addressed.original,
        message_id: None,
        disposition,
        relay: keys.relay,
        relay_port: keys.relay_port,
        relay_name: keys.relay_name,
        through: keys.transport.filter(|_| keys.relay.is_none() && keys.relay_name.is_none()),
        text,
        next_id: keys.confirmation.and_then(next_id),
    })
}

/// `=>` and its kin: to another host where one is named, else to a mailbox, file or program.
/// Without router and transport the line is cut, and says nothing surely.
fn delivered<'a>(id: QueueId<'a>, rest: &'a str, known: Option<Disposition>) -> Option<What<'a>> {
    let addressed = addressed(rest)?;
    let Behind::Keys(rest) = addressed.behind else { return None };
    let named = |key: &str| {
        rest.starts_with(&key[1..])
            || memchr::memmem::find(rest.as_bytes(), key.as_bytes()).is_some()
    };
    if !named(" R=") && !named(" T=") {
        return None;
    }
    let keys = keys(rest);
    let disposition = known.unwrap_or(if addressed.recipient == BLACKHOLE {
        Disposition::Deleted
    } else if keys.relay.is_some() || keys.relay_name.is_some() {
        Disposition::Relayed
    } else {
        Disposition::Delivered
    });
    Some(outcome(id, &addressed, &keys, (disposition, keys.confirmation.unwrap_or(rest))))
}

/// `== recipient R=… T=… defer (-53): reason`
fn deferred<'a>(id: QueueId<'a>, rest: &'a str) -> Option<What<'a>> {
    let addressed = addressed(rest)?;
    let Behind::Keys(rest) = addressed.behind else { return None };
    let at = rest.find("defer (")?;
    let (keys, text) = (keys(rest.get(..at)?), rest.get(at..)?);
    Some(outcome(id, &addressed, &keys, (Disposition::Deferred, text)))
}

/// `** recipient R=… T=… H=…: reason`, or `** recipient: reason` when no router took it.
fn failed<'a>(id: QueueId<'a>, rest: &'a str) -> Option<What<'a>> {
    let addressed = addressed(rest)?;
    let (keys, text) = match addressed.behind {
        Behind::Reason(reason) => (Keys::default(), reason),
        Behind::Keys(rest) => match rest.split_once(": ") {
            Some((before, reason)) => (keys(before), reason),
            None => (keys(rest), rest),
        },
    };
    let disposition = if text.ends_with("retry timeout exceeded") {
        Disposition::Expired
    } else {
        Disposition::Bounced
    };
    Some(outcome(id, &addressed, &keys, (disposition, text)))
}

/// Other lines with an id.
fn of_message<'a>(id: QueueId<'a>, body: &'a str) -> Option<Says<'a>> {
    let rest = |disposition| Some(Says::What(What::Rest { id, disposition, text: body }));
    let said = body.strip_prefix("*** ").unwrap_or(body);
    if ["Frozen", "frozen", "Message is frozen"].iter().any(|known| said.starts_with(known)) {
        return rest(Disposition::Deferred);
    }
    // What is cancelled (by a person, a filter or `timeout_frozen_after`) may still be reported to
    // the sender; the lines of the recipients say so.
    if body.starts_with("removed by ") || body.starts_with("cancelled by ") {
        return rest(Disposition::Deleted);
    }
    if (body.starts_with("H=") || body.starts_with("U=") || body.starts_with("F="))
        && (body.contains(" rejected after DATA") || body.contains(" rejected by local_scan"))
    {
        return Some(Says::What(What::Refused { id, text: body }));
    }
    QUIET_OF_MESSAGE.iter().any(|known| body.starts_with(known)).then_some(Says::Quiet)
}

/// Lines about a message that say nothing of its fate.
const QUIET_OF_MESSAGE: [&str; 26] = [
    "H=",
    "U=",
    "F=",
    "Unfrozen",
    "unfrozen",
    "SMTP error from ",
    "SMTP timeout ",
    "SMTP data timeout",
    "Remote host ",
    "Spool file is locked",
    "Spool file for ",
    "Retry time not yet reached",
    "Error message sent to ",
    "Warning: ",
    "no immediate delivery",
    "no recipients found",
    "DKIM: ",
    "DANE ",
    "TLS ",
    "lowest numbered MX",
    "routing failed",
    "Re-using ",
    "PRDR",
    "forced fail",
    "[",
    "malware acl condition",
];

/// Lines that are about no message.
fn without_id(text: &str) -> Option<Says<'_>> {
    if let Some(client) = text.strip_prefix("SMTP connection from ")
        && let Some((client, _)) = client.split_once(" (TCP/IP connection count")
    {
        // `I=` is our own address, which the log may have too.
        let client = client.split(" I=[").next().and_then(bracketed_ip);
        return Some(Says::What(What::Connected { client }));
    }
    QUIET.iter().any(|known| text.starts_with(known)).then_some(Says::Quiet)
}

/// Lines about no message that say nothing of use; `H=` begins what access lists write.
const QUIET: [&str; 36] = [
    "cwd=",
    "SMTP connection ",
    "SMTP command ",
    "SMTP call from ",
    "SMTP protocol ",
    "SMTP syntax error",
    "SMTP data timeout",
    "SMTP error",
    "Start queue run",
    "End queue run",
    "H=",
    "U=",
    "no host name found",
    "no IP address found",
    "no MAIL in ",
    "TLS error",
    "TLS session",
    "TLS client",
    "TLS: ",
    "tls ",
    "LDAP ",
    "rejected ",
    "unexpected disconnection",
    "unqualified ",
    "authenticator failed",
    "dovecot_",
    "plain_login",
    "login_",
    "exim ",
    "Exim ",
    "daemon ",
    "Warning: ",
    "Connection from ",
    "refused ",
    "[",
    "Sender rate ",
];

#[cfg(test)]
pub(super) mod tests {
    use super::super::Dialect;
    use super::super::shown::{frame, says};

    /// The genuine lines of the reference, then lines derived from Exim's specification.
    pub(in super::super) const LINES: &[&str] = &[
        "2017-06-08 11:17:56 1dJ08B-0003oP-5i <= do-not-reply@nowhere.com H=realmail.server.example.com (ehlo-name.example.com) [192.168.250.101] P=esmtp S=1364 id=266785270.3.2385849643852@peerhost.server.example.com",
        "2012-02-13 14:39:57 1RwtJY-0009RI-E4 -> ldtyzggfqejxo@mail.ru R=dnslookup T=remote_smtp H=mxs.mail.ru [94.100.176.20] C=\"250 OK id=1RwtK9-0004SS-Fm\"",
        "2015-07-29 12:31:33 1ZKQWD-001Hbw-9n Completed QT=0s",
        "2021-05-04 13:37:00 +0100 1h43YE-0005F1-ND == mail@host.tld R=dnslookup T=remote_smtp defer (-53): retry time not reached for any host for 'host.tld'",
        "2016-11-06 13:10:01 1c3KOi-0000BR-CX Frozen (delivery error message)",
        "2026-11-24 10:00:00.123 [4711] 1qKzXx-0000000ABcd-0abc <= <> R=1c3KOi-0000BR-CX U=Debian-exim P=local S=2000 for a@b \"c d\"@e",
        "2026-11-24 10:00:00 1RwtJY-0009RI-E4 => bob (robert@b) <bob@b> F=<a@b> R=local_user T=local_delivery QT=1s DT=0s",
        "2026-11-24 10:00:00 1RwtJY-0009RI-E4 ** bob@b R=dnslookup T=remote_smtp H=mx.b [192.0.2.1]:25: SMTP error from remote mail server after RCPT TO:<bob@b>: 550 no",
        "2026-11-24 10:00:00 SMTP connection from [192.0.2.9]:51234 I=[192.0.2.1]:25 (TCP/IP connection count = 1)",
        "2026-11-24 10:00:00 cwd=/home/u 3 args: /usr/sbin/sendmail -t -i",
        "Nov 24 10:00:00 mx exim[99]: 2026-11-24 09:59:59 1RwtJY-0009RI-E4 Completed",
        "Nov 24 10:00:00 mx exim[99]: 1RwtJY-0009RI-E4 Completed",
    ];

    #[test]
    fn genuine_and_derived_lines_are_read() {
        let said: Vec<String> = LINES.iter().map(|line| says(Dialect::Exim, line)).collect();
        assert_eq!(
            said,
            [
                "1dJ08B-0003oP-5i queued from <do-not-reply@nowhere.com> size=1364 message-id=266785270.3.2385849643852@peerhost.server.example.com client=192.168.250.101",
                "1RwtJY-0009RI-E4 Relayed <ldtyzggfqejxo@mail.ru> by mxs.mail.ru at 94.100.176.20 next 1RwtK9-0004SS-Fm: 250 OK id=1RwtK9-0004SS-Fm",
                "1ZKQWD-001Hbw-9n removed",
                "1h43YE-0005F1-ND Deferred <mail@host.tld>: defer (-53): retry time not reached for any host for 'host.tld'",
                "1c3KOi-0000BR-CX rest Deferred",
                "1c3KOi-0000BR-CX reported by 1qKzXx-0000000ABcd-0abc\n1qKzXx-0000000ABcd-0abc queued from <> size=2000 recipients=2",
                "1RwtJY-0009RI-E4 Delivered <bob> was <bob@b> through local_delivery: F=<a@b> R=local_user T=local_delivery QT=1s DT=0s",
                "1RwtJY-0009RI-E4 Bounced <bob@b> by mx.b at 192.0.2.1: SMTP error from remote mail server after RCPT TO:<bob@b>: 550 no",
                "connected client=192.0.2.9",
                "quiet",
                "1RwtJY-0009RI-E4 removed",
                "1RwtJY-0009RI-E4 removed",
            ]
        );
    }

    #[test]
    fn stamps_and_frames_are_read() {
        assert_eq!(frame(Dialect::Exim, LINES[0]), "2017-06-08T09:17:56Z - - -");
        assert_eq!(frame(Dialect::Exim, LINES[3]), "2021-05-04T12:37:00Z - - -");
        assert_eq!(frame(Dialect::Exim, LINES[5]), "2026-11-24T09:00:00.123Z - - 4711");
        assert_eq!(frame(Dialect::Exim, LINES[10]), "2026-11-24T08:59:59Z mx exim 99");
        assert_eq!(frame(Dialect::Exim, LINES[11]), "2026-11-24T09:00:00Z mx exim 99");
    }

    #[test]
    fn flags_tell_what_became_of_a_recipient() {
        for (text, said) in [
            (
                ">> a@b R=r T=t H=h [2001:db8::1]:25 X=TLS1.3:X:256 CV=yes K C=\"250 2.0.0 Ok: queued as 4Bn\" DT=1s",
                "Relayed <a@b> by h at 2001:db8::1 next 4Bn: 250 2.0.0 Ok: queued as 4Bn",
            ),
            (
                "*> a@b R=r T=t H=h [192.0.2.1]",
                "Deleted <a@b> by h at 192.0.2.1: R=r T=t H=h [192.0.2.1]",
            ),
            ("=> :blackhole: <a@b> R=aliases", "Deleted <:blackhole:> was <a@b>: R=aliases"),
            (
                "=> |/usr/bin/vacation <a@b> R=r T=address_pipe",
                "Delivered <|/usr/bin/vacation> was <a@b> through address_pipe: R=r T=address_pipe",
            ),
            (
                "=> \"a b\"@c R=r T=t H=h [192.0.2.1]",
                "Relayed <\"a b\"@c> by h at 192.0.2.1: R=r T=t H=h [192.0.2.1]",
            ),
            (
                "== a@b routing defer (-51): retry time not reached",
                "Deferred <a@b>: defer (-51): retry time not reached",
            ),
            ("** a@b: Unrouteable address", "Bounced <a@b>: Unrouteable address"),
            (
                "** x <a@b>: Unrouteable address: really",
                "Bounced <x> was <a@b>: Unrouteable address: really",
            ),
            (
                "** a@b R=r T=t H=h [192.0.2.1]: SMTP timeout: retry timeout exceeded",
                "Expired <a@b> by h at 192.0.2.1: SMTP timeout: retry timeout exceeded",
            ),
        ] {
            let line = format!("2026-11-24 10:00:00 1RwtJY-0009RI-E4 {text}");
            assert_eq!(says(Dialect::Exim, &line), format!("1RwtJY-0009RI-E4 {said}"));
        }
    }

    #[test]
    fn deletions_and_refusals_are_told_apart_from_leaving() {
        for (text, said) in [
            ("removed by root", "1RwtJY-0009RI-E4 rest Deleted"),
            ("cancelled by timeout_frozen_after", "1RwtJY-0009RI-E4 rest Deleted"),
            ("Message is frozen", "1RwtJY-0009RI-E4 rest Deferred"),
            ("Unfrozen by errmsg timer", "quiet"),
            ("H=h [192.0.2.1] F=<a@b> rejected after DATA: no", "1RwtJY-0009RI-E4 refused"),
            ("H=h [192.0.2.1] Warning: x", "quiet"),
            ("=> a@b", "unparsed"),
            ("invented", "unparsed"),
        ] {
            let line = format!("2026-11-24 10:00:00 1RwtJY-0009RI-E4 {text}");
            assert_eq!(says(Dialect::Exim, &line), said, "{text}");
        }
        assert_eq!(says(Dialect::Exim, "2026-11-24 10:00:00 invented"), "unparsed");
        assert_eq!(says(Dialect::Exim, "2026-11-24 10:00:00 Start queue run: pid=1"), "quiet");
    }
}
