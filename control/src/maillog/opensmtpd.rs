//! OpenSMTPD's lines (6.4 and later).
//!
//! `session part what key=value …`. A message is known by its msgid, eight hexadecimal digits; an
//! envelope, one recipient of it, by an evpid, which begins with them. The msgid is the queue id
//! here. No line of the brief log names the Message-ID, nor that a message has left the queue.
//!
//! Not here: the frame (`syslog`), ids in replies (`reply`).

use super::address::{ip, path};
use super::reply::next_id;
use super::{Disposition, Message, QueueId, Recipient, Says, What};

/// Digits of a msgid.
const MSGID_LENGTH: usize = 8;

/// Digits of an evpid and of a session.
const EVPID_LENGTH: usize = 16;

/// Tells what a line says; `None` when it is not understood.
pub(super) fn read<'a>(message: &Message<'a>) -> Option<Says<'a>> {
    // Frames of syslog name it `smtpd`; some packages `opensmtpd`.
    if !message.program.is_none_or(|program| program.contains("smtpd")) {
        return Some(Says::Quiet);
    }
    let Some((_, body)) = message.text.split_once(' ').filter(|(id, _)| is_hex(id, EVPID_LENGTH))
    else {
        return without_session(message.text);
    };
    let what = if let Some(rest) = body.strip_prefix("smtp connected ") {
        What::Connected { client: value(rest, "address=").and_then(ip) }
    } else if let Some(rest) = body.strip_prefix("smtp message msgid=") {
        let (id, _) = rest.split_once(' ')?;
        let id = Some(QueueId(id)).filter(|id| is_hex(id.0, MSGID_LENGTH))?;
        let recipients = value(rest, "nrcpt=").and_then(|count| count.parse().ok());
        What::Accepted { id, client: None, ident: None, recipients }
    } else if let Some(rest) = body.strip_prefix("smtp envelope evpid=") {
        envelope(rest)?
    } else if let Some(rest) = body.strip_prefix("mta delivery evpid=") {
        relayed(rest)?
    } else if let Some(rest) = body.strip_prefix("mda delivery evpid=") {
        delivered(rest)?
    } else if QUIET.iter().any(|known| body.starts_with(known)) {
        return Some(Says::Quiet);
    } else {
        return None;
    };
    Some(Says::What(what))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|octet| octet.is_ascii_hexdigit())
}

/// The value of the first word with this key.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split(' ').find_map(|word| word.strip_prefix(key))
}

/// The msgid at the beginning of an evpid, and what follows the evpid.
fn split_evpid(text: &str) -> Option<(QueueId<'_>, &str)> {
    let evpid = text.get(..EVPID_LENGTH).filter(|evpid| is_hex(evpid, EVPID_LENGTH))?;
    Some((QueueId(evpid.get(..MSGID_LENGTH)?), text.get(EVPID_LENGTH..)?))
}

/// `evpid from=<…> to=<…>`
fn envelope(text: &str) -> Option<What<'_>> {
    let (id, rest) = split_evpid(text)?;
    let (sender, _) = path(rest.strip_prefix(" from=")?, &[" to=<"])?;
    let (size, recipients) = (None, None);
    Some(What::Queued { id, sender, size, recipients, message_id: None, client: None })
}

/// `evpid from=<…> to=<…> rcpt=<…> …`: the recipient, and what follows the addresses.
fn addresses(text: &str) -> Option<(Recipient<'_>, &str)> {
    let (id, rest) = split_evpid(text)?;
    let (_, rest) = path(rest.strip_prefix(" from=")?, &[" to=<"])?;
    let behind = [" rcpt=<", " source=\"", " user="];
    let (recipient, rest) = path(rest.strip_prefix(" to=")?, &behind)?;
    let (original, rest) = match rest.strip_prefix(" rcpt=") {
        Some(rest) => {
            let (original, rest) = path(rest, &[" source=\"", " user="])?;
            (Some(original).filter(|original| *original != "-"), rest)
        }
        None => (None, rest),
    };
    let recipient = Recipient {
        id,
        recipient,
        original,
        message_id: None,
        disposition: Disposition::Deferred,
        relay: None,
        relay_port: None,
        relay_name: None,
        through: None,
        text: "",
        next_id: None,
    };
    Some((recipient, rest))
}

/// `… source="…" relay="192.0.2.1 (name)" delay=… result="Ok" stat="…"`
fn relayed(text: &str) -> Option<What<'_>> {
    let (mut recipient, rest) = addresses(text)?;
    let (_, rest) = rest.split_once(" relay=\"")?;
    let (relay, rest) = rest.split_once("\" delay=")?;
    let (_, rest) = rest.split_once(" result=\"")?;
    let (result, rest) = rest.split_once("\" stat=\"")?;
    recipient.disposition = match result {
        "Ok" => Disposition::Relayed,
        result => put_off(result)?,
    };
    recipient.text = rest.strip_suffix('"').unwrap_or(rest);
    recipient.relay = relay.split(' ').next().and_then(ip);
    recipient.relay_name =
        relay.split_once(" (").and_then(|(_, name)| name.strip_suffix(')')).or(Some(relay));
    if recipient.disposition == Disposition::Relayed && rest.ends_with('"') {
        recipient.next_id = next_id(recipient.text);
    }
    Some(What::Recipient(recipient))
}

/// `… user=… delay=… result=Ok stat=Delivered`
fn delivered(text: &str) -> Option<What<'_>> {
    let (mut recipient, rest) = addresses(text)?;
    let (_, rest) = rest.split_once(" result=")?;
    let (result, rest) = rest.split_once(" stat=")?;
    recipient.disposition = match result {
        "Ok" => Disposition::Delivered,
        result => put_off(result)?,
    };
    // A mailbox or a command: the line does not tell which.
    recipient.through = Some("mda");
    recipient.text = rest;
    Some(What::Recipient(recipient))
}

fn put_off(result: &str) -> Option<Disposition> {
    match result {
        "TempFail" => Some(Disposition::Deferred),
        "PermFail" | "Loop" => Some(Disposition::Bounced),
        _ => None,
    }
}

/// Lines of sessions that say nothing of use.
const QUIET: [&str; 16] = [
    "smtp disconnected",
    "smtp failed-command",
    "smtp tls",
    "smtp starttls",
    "smtp authentication",
    "smtp cert-check",
    "smtp connected",
    "smtp bad-input",
    "smtp filter",
    "mta connecting",
    "mta connected",
    "mta disconnected",
    "mta tls",
    "mta cert-check",
    "mta error",
    "mta auth",
];

/// Lines that belong to no session: the queue's own, and messages of the program.
fn without_session(text: &str) -> Option<Says<'_>> {
    let quiet = ["info: ", "warn: ", "debug: ", "smtp: ", "smtp-in: ", "smtp-out: ", "mda: "];
    match of_queue(text) {
        Some(what) => Some(Says::What(what)),
        None => quiet.iter().any(|known| text.starts_with(known)).then_some(Says::Quiet),
    }
}

/// `relay: Expire for <evpid>: from=<…>, to=<…>, rcpt=<…>, delay=…, stat=…`; `Remove` is a
/// person's.
fn of_queue(text: &str) -> Option<What<'_>> {
    let (kind, rest) = text.split_once(": ")?;
    if !matches!(kind, "relay" | "delivery") {
        return None;
    }
    let (verb, rest) = rest.split_once(" for ")?;
    let disposition = match verb {
        "Expire" => Disposition::Expired,
        "Remove" => Disposition::Deleted,
        _ => return None,
    };
    let (id, rest) = split_evpid(rest)?;
    let (_, rest) = path(rest.strip_prefix(": from=")?, &[", to=<"])?;
    let (recipient, rest) = path(rest.strip_prefix(", to=")?, &[", rcpt=<"])?;
    let (original, rest) = path(rest.strip_prefix(", rcpt=")?, &[", delay="])?;
    let (_, text) = rest.split_once(", stat=")?;
    Some(What::Recipient(Recipient {
        id,
        recipient,
        original: Some(original).filter(|original| *original != "-"),
        message_id: None,
        disposition,
        relay: None,
        relay_port: None,
        relay_name: None,
        through: None,
        text,
        next_id: None,
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Dialect;
    use super::super::shown::{frame, says};

    /// Lines as its author published them; the last ones derived from its source.
    pub(in super::super) const LINES: &[&str] = &[
        "Jul  6 06:01:46 ams-1 smtpd[75295]: 5df87c9c42abeddb smtp connected address=127.0.0.1 host=localhost",
        "Jul  6 06:01:46 ams-1 smtpd[75295]: 5df87c9c42abeddb smtp message msgid=f6e94209 size=802 nrcpt=1 proto=ESMTP",
        "Jul  6 06:01:46 ams-1 smtpd[75295]: 5df87c9c42abeddb smtp envelope evpid=f6e94209918f7e7b from=<gilles@poolp.org> to=<gilles.chehade@gmail.com>",
        "Jul  6 06:01:46 ams-1 smtpd[75295]: 5df87c9b982c840c mta delivery evpid=3d4c4a424797fe79 from=<gilles@poolp.org> to=<gilles.chehade@gmail.com> rcpt=<-> source=\"127.0.0.1\" relay=\"127.0.0.1 (localhost)\" delay=0s result=\"Ok\" stat=\"250 2.0.0: f6e94209 Message accepted for delivery\"",
        "Jul  6 06:01:40 ams-1 smtpd[75295]: 5df87c9250bba470 mda delivery evpid=c405e39ad6bbc64f from=<gilles@poolp.org> to=<gilles@poolp.org> rcpt=<gilles@poolp.org> user=gilles delay=0s result=Ok stat=Delivered",
        "Jul  6 06:01:46 ams-1 smtpd[75295]: 5df87c9b982c840c mta connecting address=smtp://127.0.0.1:10027 host=localhost",
        "Jul  6 06:01:46 ams-1 smtpd[75295]: 5df87c9c42abeddb smtp disconnected reason=quit",
        "Jul  6 06:01:46 ams-1 smtpd[75295]: relay: Expire for f6e94209918f7e7b: from=<a@b>, to=<c@d>, rcpt=<->, delay=4d, stat=Envelope expired",
        "Jul  6 06:01:46 ams-1 smtpd[75295]: relay: Remove for f6e94209918f7e7b: from=<a@b>, to=<c@d>, rcpt=<->, delay=4d, stat=Removed by administrator",
        "Jul  6 06:01:46 ams-1 smtpd[75295]: 5df87c9b982c840c mta delivery evpid=3d4c4a424797fe79 from=<a@b> to=<c@d> rcpt=<-> source=\"-\" relay=\"192.0.2.1 (h)\" delay=0s result=\"TempFail\" stat=\"421 \"later\"\"",
    ];

    #[test]
    fn published_and_derived_lines_are_read() {
        let said: Vec<String> = LINES.iter().map(|line| says(Dialect::Opensmtpd, line)).collect();
        assert_eq!(
            said,
            [
                "connected client=127.0.0.1",
                "f6e94209 accepted recipients=1",
                "f6e94209 queued from <gilles@poolp.org>",
                "3d4c4a42 Relayed <gilles.chehade@gmail.com> by localhost at 127.0.0.1 next f6e94209: 250 2.0.0: f6e94209 Message accepted for delivery",
                "c405e39a Delivered <gilles@poolp.org> was <gilles@poolp.org> through mda: Delivered",
                "quiet",
                "quiet",
                "f6e94209 Expired <c@d>: Envelope expired",
                "f6e94209 Deleted <c@d>: Removed by administrator",
                "3d4c4a42 Deferred <c@d> by h at 192.0.2.1: 421 \"later\"",
            ]
        );
        assert_eq!(frame(Dialect::Opensmtpd, LINES[0]), "2026-07-06T04:01:46Z ams-1 smtpd 75295");
    }

    #[test]
    fn what_is_not_known_is_not_understood() {
        for text in [
            "5df87c9c42abeddb smtp invented",
            "5df87c9b982c840c mta delivery evpid=3d4c4a424797fe79 from=<a@b> to=<c@d> rcpt=<-> source=\"-\" relay=\"h\" delay=0s result=\"Maybe\" stat=\"x\"",
            "5df87c9b982c840c mta delivery evpid=3d4c from=<a@b>",
        ] {
            let line = format!("Jul  6 06:01:46 ams-1 smtpd[75295]: {text}");
            assert_eq!(says(Dialect::Opensmtpd, &line), "unparsed", "{text}");
        }
        let other =
            "Jul  6 06:01:46 ams-1 sshd[75295]: 5df87c9c42abeddb smtp message msgid=f6e94209";
        assert_eq!(says(Dialect::Opensmtpd, other), "quiet");
    }
}
