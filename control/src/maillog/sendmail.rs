//! Sendmail's lines.
//!
//! `sendmail[pid]: id: from=…` when a message is queued, `id: to=…` for each attempt, with one or
//! more recipients. Sendmail shortens long lists; what it leaves out no line tells.
//!
//! Invariant: what strangers choose (addresses, Message-ID, reply) stands behind the id, and is
//! read by its brackets and by the key that follows.
//!
//! Not here: the frame (`syslog`), ids in replies (`reply`).

use super::address::{bare, bracketed_ip, quoted_length};
use super::reply::next_id;
use super::{Disposition, Line, Message, QueueId, Recipient, Says, What};

/// Tells what a line says; `None` when it is not understood.
pub(super) fn read(message: &Message<'_>, each: &mut impl FnMut(Line<'_>)) -> Option<()> {
    let text = message.text;
    let understood = match split_id(text) {
        Some((id, body)) if body.starts_with("to=") => delivery(message, id, body, each),
        Some((id, body)) => of_message(id, body).map(|says| each(says.line(message))),
        None => without_id(text).map(|says| each(says.line(message))),
    };
    // `sendmail`, Debian's `sm-mta`, or any name that was given with `-L`: a line of an unknown
    // program is read by its shape, and is another's when it has none.
    let ours = |program: &str| program.starts_with("sendmail") || program.starts_with("sm-");
    match understood {
        None if !message.program.is_none_or(ours) => {
            each(message.quiet());
            Some(())
        }
        understood => understood,
    }
}

fn split_id(text: &str) -> Option<(QueueId<'_>, &str)> {
    let (id, body) = text.split_once(": ")?;
    is_id(id).then_some((QueueId(id), body))
}

/// Letters of the moment and digits of the process: `n6BKjb0S009609`, older `AAA12345`.
fn is_id(id: &str) -> bool {
    (7..=24).contains(&id.len())
        && id.bytes().all(|octet| octet.is_ascii_alphanumeric())
        && id.bytes().any(|octet| octet.is_ascii_digit())
        && id != "NOQUEUE"
}

/// `from=<…>, size=…, class=…, nrcpts=…, msgid=<…>, proto=…, relay=…`
fn queued<'a>(id: QueueId<'a>, body: &'a str) -> Option<What<'a>> {
    let text = body.strip_prefix("from=")?;
    let address = text.strip_prefix('<').unwrap_or(text);
    let from = text.len() - address.len() + quoted_length(address).unwrap_or(0);
    let end = from + text.get(from..)?.find(", size=")?;
    let (sender, rest) = (text.get(..end)?, text.get(end + 7..)?);
    let (size, rest) = rest.split_once(", ")?;
    let (_, rest) = rest.split_once("nrcpts=")?;
    let (recipients, rest) = rest.split_once(", ").unwrap_or((rest, ""));
    let message_id = rest.strip_prefix("msgid=").map(|rest| match rest.strip_prefix('<') {
        Some(inner) => inner.split_once(">, ").map_or_else(|| bare(rest), |(id, _)| id),
        None => rest.split_once(", ").map_or(rest, |(id, _)| id),
    });
    let client = rest.rsplit_once("relay=").and_then(|(_, relay)| relay_of(relay).1);
    Some(What::Queued {
        id,
        sender: bare(sender),
        size: Some(size.parse().ok()?),
        recipients: Some(recipients.parse().ok()?),
        message_id: message_id.filter(|id| !id.is_empty()),
        client,
    })
}

/// `name [192.0.2.1] (may be forged)`: name and address.
fn relay_of(relay: &str) -> (Option<&str>, Option<std::net::IpAddr>) {
    let name = relay.split(' ').next().filter(|name| !name.is_empty() && !name.starts_with('['));
    let relay = relay.strip_suffix(" (may be forged)").unwrap_or(relay);
    (name, bracketed_ip(relay))
}

/// `to=<…>,<…>, delay=…, mailer=…, relay=…, dsn=…, stat=…`: one event for each recipient.
fn delivery(
    message: &Message<'_>,
    id: QueueId<'_>,
    body: &str,
    each: &mut impl FnMut(Line<'_>),
) -> Option<()> {
    let list = body.strip_prefix("to=")?;
    let end = list_length(list)?;
    let (list, rest) = (list.get(..end)?, list.get(end..)?);
    let (keys, stat) = rest.split_once(", stat=")?;
    let value = |key: &str| {
        let (_, value) = keys.split_once(key)?;
        Some(value.split_once(", ").map_or(value, |(value, _)| value))
    };
    let (relay_name, relay) = value(", relay=").map_or((None, None), relay_of);
    let mailer = value(", mailer=").unwrap_or_default();
    let disposition = judge(stat, value(", dsn=").unwrap_or_default(), mailer, relay.is_some())?;
    let sent = matches!(disposition, Disposition::Relayed | Disposition::Delivered);
    let reply = stat.strip_prefix("Sent (").and_then(|reply| reply.strip_suffix(')'));
    let mut rest = list;
    while !rest.is_empty() {
        let length = item_length(rest);
        let recipient = rest.get(..length)?;
        rest = rest.get(length..)?.strip_prefix(',').unwrap_or("");
        // The list was too long for one line.
        if recipient == "[more]" {
            continue;
        }
        each(message.event(What::Recipient(Recipient {
            id,
            recipient: bare(recipient),
            original: None,
            message_id: None,
            disposition,
            relay,
            relay_port: None,
            relay_name,
            through: Some(mailer).filter(|mailer| !mailer.is_empty()),
            text: reply.unwrap_or(stat),
            next_id: reply.filter(|_| sent).and_then(next_id),
        })));
    }
    Some(())
}

/// The octets of the whole list: behind it stands a comma with a blank.
fn list_length(list: &str) -> Option<usize> {
    let mut end = 0;
    loop {
        let rest = list.get(end..)?;
        let length = item_length(rest);
        let behind = rest.get(length..)?;
        if length == 0 {
            return None;
        }
        end += length;
        if behind.starts_with(", ") {
            return Some(end);
        }
        behind.strip_prefix(',')?;
        end += 1;
    }
}

/// The octets of the first recipient: to its closing bracket, or to a comma.
fn item_length(text: &str) -> usize {
    let address = text.strip_prefix('<').unwrap_or(text);
    let bracket = text.len() - address.len();
    let from = bracket + quoted_length(address).unwrap_or(0);
    let rest = text.get(from..).unwrap_or_default();
    let end = match bracket {
        0 => rest.find(','),
        _ => rest.find('>').map(|end| end + 1),
    };
    end.map_or(text.len(), |end| from + end)
}

/// What `stat=` means. Its words are free; where they are not known the enhanced status code
/// decides, and without one the line is not understood.
fn judge(stat: &str, dsn: &str, mailer: &str, remote: bool) -> Option<Disposition> {
    if stat.starts_with("Cannot send message for ")
        || stat.starts_with("Message could not be delivered for ")
    {
        return Some(Disposition::Expired);
    }
    if stat == "Sent" || stat.starts_with("Sent ") {
        let local = ["local", "prog", "*file*", "*include*", "cyrus", "procmail", "lmtp"];
        let relayed = remote && !local.iter().any(|known| mailer.starts_with(known));
        return Some(if relayed { Disposition::Relayed } else { Disposition::Delivered });
    }
    if stat.starts_with("discarded") {
        return Some(Disposition::Deleted);
    }
    if stat == "queued" || stat.starts_with("Deferred") || dsn.starts_with("4.") {
        return Some(Disposition::Deferred);
    }
    let known = ["User unknown", "Host unknown", "Service unavailable", "Data format error"];
    (dsn.starts_with("5.") || known.iter().any(|known| stat.starts_with(known)))
        .then_some(Disposition::Bounced)
}

/// A line about a message, unless it is about its recipients.
fn of_message<'a>(id: QueueId<'a>, body: &'a str) -> Option<Says<'a>> {
    if body.starts_with("from=") {
        queued(id, body).map(Says::What)
    } else if body.starts_with("done; delay=") {
        Some(Says::What(What::Removed { id }))
    } else {
        aside(id, body)
    }
}

/// Lines about a message that are rarer, and those that are of no use.
fn aside<'a>(id: QueueId<'a>, body: &'a str) -> Option<Says<'a>> {
    if let Some((other, rest)) = split_id(body) {
        // `old: new: clone: owner=…`
        if rest.starts_with("clone: ") {
            let ident = Some(id.0);
            return Some(Says::What(What::Accepted {
                id: other,
                client: None,
                ident,
                recipients: None,
            }));
        }
        // `old: new: DSN: reason`
        let report = ["DSN: ", "return to sender: ", "sender notify: ", "postmaster notify: "];
        if report.iter().any(|known| rest.starts_with(known)) {
            return Some(Says::What(What::Reported { id, report: other }));
        }
        return None;
    }
    if let Some(milter) = body.strip_prefix("Milter: ") {
        if milter.starts_with("data, reject") {
            return Some(Says::What(What::Refused { id, text: body }));
        }
        if milter.starts_with("data, discard") {
            let disposition = Disposition::Deleted;
            return Some(Says::What(What::Rest { id, disposition, text: body }));
        }
    }
    if body.starts_with("milter=") && body.contains(", quarantine=") {
        return Some(Says::What(What::Rest { id, disposition: Disposition::Deferred, text: body }));
    }
    let quiet = QUIET_OF_MESSAGE.iter().any(|known| body.starts_with(known))
        || body.contains("... ")
        || body.contains(" did not issue ");
    quiet.then_some(Says::Quiet)
}

/// Lines about a message that say nothing of its fate.
const QUIET_OF_MESSAGE: [&str; 15] = [
    "Milter",
    "milter=",
    "ruleset=",
    "lost input channel",
    "collect: ",
    "timeout waiting ",
    "SYSERR",
    "Authentication-Warning: ",
    "AUTH",
    "STARTTLS",
    "--- ",
    "<-- ",
    "alias ",
    "forward ",
    "Losing ",
];

/// Lines that are about no message.
fn without_id(text: &str) -> Option<Says<'_>> {
    if let Some(client) = text.strip_prefix("NOQUEUE: connect from ") {
        return Some(Says::What(What::Connected { client: relay_of(client).1 }));
    }
    QUIET.iter().any(|known| text.starts_with(known)).then_some(Says::Quiet)
}

/// Lines about no message that say nothing of use.
const QUIET: [&str; 20] = [
    "NOQUEUE: ",
    "STARTTLS",
    "AUTH",
    "SYSERR",
    "ruleset=",
    "alias database ",
    "/etc/",
    "starting daemon ",
    "restarting ",
    "stopping daemon",
    "started as: ",
    "grew WorkList ",
    "gethostbyaddr",
    "rejecting connections ",
    "accepting connections ",
    "runqueue: ",
    "Milter ",
    "My unqualified host name ",
    "unable to qualify ",
    "error: ",
];

#[cfg(test)]
pub(super) mod tests {
    use super::super::Dialect;
    use super::super::shown::{frame, says};

    /// The genuine lines of the reference (Solaris), then derived ones.
    pub(in super::super) const LINES: &[&str] = &[
        "Jul 11 20:45:37 rt sendmail[9609]: [ID 801593 mail.info] n6BKjb0S009609: from=<nobody@rt.example.net>, size=2788, class=0, nrcpts=1, msgid=<rt-3.8.2-27793-1247344678-1788.566003-159-0@rt.example.net>, proto=ESMTP, daemon=NoMTA4, relay=localhost [127.0.0.1]",
        "Jul 11 20:45:37 rt sendmail[9608]: [ID 801593 mail.info] n6BKbwgB009156: to=systems@example.net, ctladdr=nobody (60001/60001), delay=00:07:39, xdelay=00:00:00, mailer=relay, pri=122651, relay=[127.0.0.1] [127.0.0.1], dsn=2.0.0, stat=Sent (n6BKjb0S009609 Message accepted for delivery)",
        "Jul 11 20:45:38 rt sendmail[9611]: [ID 801593 mail.info] n6BKjb0S009609: to=<systems@example.net>, ctladdr=<nobody@rt.example.net> (60001/60001), delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=122788, relay=qmail.example.net. [205.171.7.14], dsn=2.0.0, stat=Sent (ok 1247345138 qp 26344)",
        "Nov 24 10:00:00 mx sm-mta[7]: 6AO9b0S009609: to=<a@b>,\"x, y\"@c,<\"p>, q\"@d>, delay=00:00:01, mailer=esmtp, relay=h.b. [192.0.2.1], dsn=4.0.0, stat=Deferred: Connection refused by h.b.",
        "Nov 24 10:00:00 mx sendmail[7]: 6AO9b0S009609: done; delay=00:00:01, ntries=1",
    ];

    fn text(text: &str) -> String {
        says(Dialect::Sendmail, &format!("Nov 24 10:00:00 mx sendmail[7]: {text}"))
    }

    #[test]
    fn genuine_and_derived_lines_are_read() {
        let said: Vec<String> = LINES.iter().map(|line| says(Dialect::Sendmail, line)).collect();
        assert_eq!(
            said,
            [
                "n6BKjb0S009609 queued from <nobody@rt.example.net> size=2788 recipients=1 message-id=rt-3.8.2-27793-1247344678-1788.566003-159-0@rt.example.net client=127.0.0.1",
                "n6BKbwgB009156 Relayed <systems@example.net> at 127.0.0.1 next n6BKjb0S009609: n6BKjb0S009609 Message accepted for delivery",
                "n6BKjb0S009609 Relayed <systems@example.net> by qmail.example.net. at 205.171.7.14: ok 1247345138 qp 26344",
                "6AO9b0S009609 Deferred <a@b> by h.b. at 192.0.2.1: Deferred: Connection refused by h.b.\n\
                 6AO9b0S009609 Deferred <\"x, y\"@c> by h.b. at 192.0.2.1: Deferred: Connection refused by h.b.\n\
                 6AO9b0S009609 Deferred <\"p>, q\"@d> by h.b. at 192.0.2.1: Deferred: Connection refused by h.b.",
                "6AO9b0S009609 removed",
            ]
        );
        assert_eq!(frame(Dialect::Sendmail, LINES[0]), "2026-07-11T18:45:37Z rt sendmail 9609");
    }

    #[test]
    fn the_status_tells_what_became_of_a_recipient() {
        for (keys, said) in [
            ("mailer=local, dsn=2.0.0, stat=Sent", "Delivered"),
            ("mailer=cyrusv2, relay=localhost [127.0.0.1], dsn=2.0.0, stat=Sent", "Delivered"),
            ("mailer=esmtp, stat=queued", "Deferred"),
            ("mailer=esmtp, dsn=5.1.1, stat=User unknown", "Bounced"),
            ("mailer=esmtp, stat=User unknown", "Bounced"),
            ("mailer=esmtp, dsn=5.6.0, stat=Data format error", "Bounced"),
            ("mailer=esmtp, dsn=4.4.7, stat=Cannot send message for 5 days", "Expired"),
            ("mailer=esmtp, dsn=4.2.0, stat=Something new", "Deferred"),
        ] {
            let line = format!("6AO9b0S009609: to=<a@b>, delay=00:00:01, {keys}");
            let heard = text(&line);
            assert!(heard.starts_with(&format!("6AO9b0S009609 {said} <a@b>")), "{keys}: {heard}");
        }
        assert_eq!(text("6AO9b0S009609: to=<a@b>, delay=1, stat=Something new"), "unparsed");
        assert_eq!(text("6AO9b0S009609: to=<a@b>, delay=1"), "unparsed");
    }

    #[test]
    fn split_and_reported_messages_are_tied_to_their_origin() {
        for (line, said) in [
            (
                "6AO9b0S009609: 6AO9b0S109609: DSN: User unknown",
                "6AO9b0S009609 reported by 6AO9b0S109609",
            ),
            (
                "6AO9b0S009609: 6AO9b0T009609: clone: owner=list-owner",
                "6AO9b0T009609 accepted ident=6AO9b0S009609",
            ),
            ("6AO9b0S009609: Milter: data, reject=550 5.7.1 no", "6AO9b0S009609 refused"),
            ("6AO9b0S009609: Milter: to=<a@b>, reject=550 5.7.1 no", "quiet"),
            ("NOQUEUE: connect from h [192.0.2.1] (may be forged)", "connected client=192.0.2.1"),
            ("6AO9b0S009609: invented", "unparsed"),
        ] {
            assert_eq!(text(line), said, "{line}");
        }
        let other = "Nov 24 10:00:00 mx sshd[7]: 6AO9b0S009609: invented";
        assert_eq!(says(Dialect::Sendmail, other), "quiet");
    }
}
