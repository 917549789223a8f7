//! Postfix's lines.
//!
//! A Postfix program writes `instance/service[pid]: queue-id: what`. Services and instances bear
//! any name, so that a line is judged by the shape of its text; the service's name only tells apart
//! what reads alike (a person's `removed` from the queue manager's).
//!
//! Postfix prints control characters as `?`, and addresses quoted (3.5 and later) or as they are
//! inside (before): a Message-ID or an address here may differ from the wire in that.
//!
//! Invariants
//! - What stands behind an address is looked for behind its closing bracket, and a line in which a
//!   second such place follows is not understood.
//! - An id in a reply that the log has cut off is not read.
//!
//! Not here: the frame (`syslog`), ids in replies (`reply`).

use super::address::{bracketed_ip, ip, path};
use super::cut::{comma, cut, last};
use super::reply::next_id;
use super::{Disposition, Message, QueueId, Recipient, Says, What};

/// The fewest characters of a short queue id: five of microseconds, and an inode.
const SHORT_ID_MIN: usize = 6;

/// The fewest characters of a long queue id: six of seconds, four of microseconds.
const LONG_ID_MIN: usize = 10;

/// The most characters of either.
const ID_MAX: usize = 32;

/// Tells what a line says; `None` when it is not understood.
pub(super) fn read<'a>(message: &Message<'a>) -> Option<Says<'a>> {
    let service = match message.program {
        None => "",
        Some(program) => match program.rsplit_once('/') {
            Some((_, service)) => service,
            // Templates of rsyslog may cut the name at the slash.
            None if program.starts_with("postfix") => "",
            None => return Some(Says::Quiet),
        },
    };
    let says = match split_id(message.text) {
        Some((id, body)) => of_message(id, body, service),
        None => of_program(message.text),
    };
    match says {
        None if !is_postfix(message.program, service) => Some(Says::Quiet),
        says => says,
    }
}

/// Is a line that is not understood Postfix's, and so a reason for doubt? Instances have any name;
/// behind the slash stands the name of the executable.
fn is_postfix(program: Option<&str>, service: &str) -> bool {
    program.is_none_or(|program| program == "postfix" || program.starts_with("postfix/"))
        || SERVICES.contains(&service)
}

/// Executables of Postfix that write about messages.
const SERVICES: [&str; 23] = [
    "anvil",
    "bounce",
    "cleanup",
    "discard",
    "error",
    "flush",
    "lmtp",
    "local",
    "master",
    "nqmgr",
    "oqmgr",
    "pickup",
    "pipe",
    "postdrop",
    "postscreen",
    "postsuper",
    "qmgr",
    "smtp",
    "smtpd",
    "tlsproxy",
    "trivial-rewrite",
    "verify",
    "virtual",
];

/// The queue id at the beginning, and what is said of it.
fn split_id(text: &str) -> Option<(QueueId<'_>, &str)> {
    let bytes = text.as_bytes();
    let end = memchr::memchr(b':', bytes.get(..bytes.len().min(ID_MAX + 1))?)?;
    let id = text.get(..end).filter(|id| is_id(id.as_bytes()))?;
    Some((QueueId(id), text.get(end..)?.strip_prefix(": ")?))
}

/// Capital hexadecimal digits, or the digits and consonants of a long id.
fn is_id(text: &[u8]) -> bool {
    let short = text.len() >= SHORT_ID_MIN
        && text.iter().all(|octet| matches!(octet, b'0'..=b'9' | b'A'..=b'F'));
    short || text.len() >= LONG_ID_MIN && text.iter().all(|octet| is_long_id_letter(*octet))
}

const fn is_long_id_letter(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        && !matches!(octet.to_ascii_lowercase(), b'a' | b'e' | b'i' | b'o' | b'u')
}

/// What a line about a message says.
fn of_message<'a>(id: QueueId<'a>, body: &'a str, service: &'a str) -> Option<Says<'a>> {
    let what = match *body.as_bytes().first()? {
        b't' if body.starts_with("to=<") => return delivery(id, body, service),
        b'c' if body.starts_with("client=") => accepted(id, body),
        b'm' if body.starts_with("message-id=") => {
            What::MessageId { id, message_id: super::address::bare(body.get(11..)?.trim()) }
        }
        b'f' if body.starts_with("from=<") => queued(id, body)?,
        b'u' if body.starts_with("uid=") => picked_up(id, body),
        b'r' if body == "removed" => removed(id, service)?,
        _ => return aside(id, body),
    };
    Some(Says::What(what))
}

/// `client=name[address], sasl_username=…, orig_queue_id=…, orig_client=…`
///
/// Postfix writes what the client forwarded (XFORWARD) last, behind the name with which it
/// logged in, which it chose itself; hence the search from the end.
fn accepted<'a>(id: QueueId<'a>, body: &'a str) -> What<'a> {
    let body = body.get(7..).unwrap_or_default();
    let client = bracketed_ip(comma(body).map_or(body, |(client, _)| client));
    let ident = last(body, ", orig_queue_id=")
        .map(|(_, rest)| comma(rest).map_or(rest, |(ident, _)| ident))
        .filter(|ident| !ident.is_empty());
    What::Accepted { id, client, ident, recipients: None }
}

/// `uid=0 from=<root>`, from pickup; with `orig_id=…` when a person has queued it anew.
fn picked_up<'a>(id: QueueId<'a>, body: &'a str) -> What<'a> {
    let ident = body
        .rsplit_once("> orig_id=")
        .map(|(_, ident)| ident)
        .filter(|ident| is_id(ident.as_bytes()));
    What::Accepted { id, client: None, ident, recipients: None }
}

/// `from=<…>, size=…, nrcpt=… (queue active)`, or the end of a message that is too old. Both are
/// read from the end, since the sender may hold anything.
fn queued<'a>(id: QueueId<'a>, body: &'a str) -> Option<What<'a>> {
    if let Some(rest) = body.strip_suffix(", returned to sender") {
        let (_, status) = rest.rsplit_once(">, status=")?;
        return matches!(status, "expired" | "force-expired").then_some(What::Rest {
            id,
            disposition: Disposition::Expired,
            text: status,
        });
    }
    let (rest, _) = last(body, " (queue ")?;
    let (rest, recipients) = last(rest, ", nrcpt=")?;
    let (sender, size) = last(rest, ">, size=")?;
    Some(What::Queued {
        id,
        sender: sender.strip_prefix("from=<")?,
        size: Some(size.parse().ok()?),
        recipients: Some(recipients.parse().ok()?),
        message_id: None,
        client: None,
    })
}

/// `removed`: by the queue manager, when every recipient has reached an end; or by a person with
/// postsuper, whose log line differs in the program alone. Without a service's name nobody can
/// tell.
fn removed<'a>(id: QueueId<'a>, service: &str) -> Option<What<'a>> {
    match service {
        "" => None,
        "postsuper" => {
            Some(What::Rest { id, disposition: Disposition::Deleted, text: "removed by postsuper" })
        }
        _ => Some(What::Removed { id }),
    }
}

/// `to=<…>, orig_to=<…>, relay=…, delay=…, dsn=…, status=… (…)`
fn delivery<'a>(id: QueueId<'a>, body: &'a str, service: &'a str) -> Option<Says<'a>> {
    let (recipient, rest) = path(body.get(3..)?, &[", relay=", ", orig_to=<"])?;
    let (original, rest) = match rest.strip_prefix(", orig_to=") {
        Some(rest) => path(rest, &[", relay="]).map(|(path, rest)| (Some(path), rest))?,
        None => (None, rest),
    };
    let rest = rest.strip_prefix(", relay=")?;
    // Before 3.5 addresses are not quoted: one that holds `>, relay=` cannot be told from a reply
    // that does.
    if memchr::memmem::find(rest.as_bytes(), b">, relay=").is_some() {
        return None;
    }
    let (relay, rest) = comma(rest)?;
    let (_, rest) = find_after(rest, "status=")?;
    let (status, text) = cut(rest, b' ').unwrap_or((rest, ""));
    let (text, complete) = inside(text);
    let host = Host::parse(relay);
    let disposition = match status {
        "sent" => sent(&host, service, text),
        // With `soft_bounce = yes` a refusal is put off.
        "deferred" | "SOFTBOUNCE" => Disposition::Deferred,
        "bounced" => Disposition::Bounced,
        "expired" => Disposition::Expired,
        // The answer to a probe of an address: there was no message.
        "deliverable" | "undeliverable" => return Some(Says::Quiet),
        _ => return None,
    };
    let next_id = match text.strip_prefix("forwarded as ") {
        _ if !complete || status != "sent" => None,
        Some(next) => is_id(next.as_bytes()).then_some(QueueId(next)),
        None => next_id(text),
    };
    Some(Says::What(What::Recipient(Recipient {
        id,
        recipient,
        original,
        message_id: None,
        disposition,
        relay: host.address,
        relay_port: host.port,
        relay_name: (relay != "none").then_some(host.name),
        through: match service {
            "lmtp" => Some(service),
            _ => Some(host.name).filter(|name| host.local && *name != "none"),
        },
        text,
        next_id,
    })))
}

/// The first `key` at the beginning or behind a comma, and what follows. Between the relay and
/// the status stand numbers only.
fn find_after<'a>(text: &'a str, key: &str) -> Option<(&'a str, &'a str)> {
    let mut rest = text;
    loop {
        if let Some(value) = rest.strip_prefix(key) {
            return Some((text, value));
        }
        rest = comma(rest)?.1;
    }
}

/// The text in the brackets behind the status, and whether the closing one is there. Some logs
/// have a number behind it.
fn inside(text: &str) -> (&str, bool) {
    let text = text.strip_prefix('(').unwrap_or(text);
    match text.rsplit_once(')') {
        Some((text, behind))
            if behind.len() < 8
                && behind.bytes().all(|octet| octet == b' ' || octet.is_ascii_digit()) =>
        {
            (text, true)
        }
        _ => (text, false),
    }
}

/// Whither `status=sent` sent it.
fn sent(host: &Host<'_>, service: &str, text: &str) -> Disposition {
    // Of the delivery agents only discard(8) sends to nobody; content filters say it in the reply.
    if service == "discard" || host.name == "none" || says_discarded(text) {
        Disposition::Deleted
    } else if text.starts_with("forwarded as ") {
        Disposition::Relayed
    } else if host.local || service == "lmtp" {
        Disposition::Delivered
    } else {
        Disposition::Relayed
    }
}

fn says_discarded(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), b"iscarded").is_some()
}

/// `relay=`: `none`, `local`, `host[192.0.2.1]:25`, `host[/var/run/socket]`.
struct Host<'a> {
    name: &'a str,
    address: Option<std::net::IpAddr>,
    port: Option<u16>,
    /// A program or a socket of this host, not another host.
    local: bool,
}

impl<'a> Host<'a> {
    fn parse(relay: &'a str) -> Self {
        match cut(relay, b'[') {
            None => Self { name: relay, address: None, port: None, local: true },
            Some((name, rest)) => {
                let (inner, behind) = cut(rest, b']').unwrap_or((rest, ""));
                let port = behind.strip_prefix(':').and_then(|port| port.parse().ok());
                let address = ip(inner);
                Self { name, address, port, local: address.is_none() && inner.contains('/') }
            }
        }
    }
}

/// Lines about a message that are rarer, and those that are of no use.
fn aside<'a>(id: QueueId<'a>, body: &'a str) -> Option<Says<'a>> {
    let rest = |disposition| Says::What(What::Rest { id, disposition, text: body });
    match body {
        "placed on hold" | "requeued" => return Some(rest(Disposition::Deferred)),
        // `expired` marks it; the queue manager then says what it does.
        "released from hold" | "expired" => return Some(Says::Quiet),
        _ => {}
    }
    if let Some((_, report)) = body.split_once(" notification: ")
        && (body.starts_with("sender ") || body.starts_with("postmaster "))
    {
        let report = QueueId(report);
        return is_id(report.0.as_bytes()).then_some(Says::What(What::Reported { id, report }));
    }
    let (action, said) = body.split_once(": ").unwrap_or((body, ""));
    match action {
        "reject" | "milter-reject" | "proxy-reject" => Some(if ends_message(said) {
            Says::What(What::Refused { id, text: body })
        } else {
            Says::Quiet
        }),
        "discard" | "milter-discard" => Some(rest(Disposition::Deleted)),
        "hold" | "milter-hold" => Some(rest(Disposition::Deferred)),
        "warning"
        | "replace"
        | "prepend"
        | "filter"
        | "redirect"
        | "info"
        | "warn"
        | "strip"
        | "ignore"
        | "bcc"
        | "discarding EHLO keywords"
        | "proxy-accept" => Some(Says::Quiet),
        _ => QUIET_OF_MESSAGE.iter().any(|known| body.starts_with(known)).then_some(Says::Quiet),
    }
}

/// Does a refusal at this stage end the whole message (and not one recipient)?
fn ends_message(stage: &str) -> bool {
    ["header ", "body ", "mime-header ", "nested-header ", "END-OF-MESSAGE ", "DATA ", "content "]
        .iter()
        .any(|known| stage.starts_with(known))
}

/// Lines about a message that say nothing of its fate.
const QUIET_OF_MESSAGE: [&str; 18] = [
    "resent-message-id=",
    "host ",
    "conversation with ",
    "lost connection with ",
    "enabling PIX ",
    "Cannot start TLS",
    "TLS is required",
    "skipped, still being delivered",
    "breaking line ",
    "SASL authentication failed",
    "Server certificate not ",
    "Host offered STARTTLS",
    "Anonymous TLS ",
    "Untrusted TLS ",
    "Trusted TLS ",
    "Verified TLS ",
    "using ",
    "timed out ",
];

/// What a line says that is about no message.
fn of_program(text: &str) -> Option<Says<'_>> {
    if let Some(client) = text.strip_prefix("connect from ") {
        return Some(Says::What(What::Connected { client: bracketed_ip(client) }));
    }
    // postscreen
    if let Some(client) = text.strip_prefix("CONNECT from ") {
        return Some(Says::What(What::Connected { client: ip(client) }));
    }
    QUIET_OF_PROGRAM.iter().any(|known| text.starts_with(known)).then_some(Says::Quiet)
}

/// Lines about no message that say nothing of use.
const QUIET_OF_PROGRAM: [&str; 61] = [
    "disconnect from ",
    "NOQUEUE: ",
    "lost connection ",
    "timeout after ",
    "warning: ",
    "statistics: ",
    "connect to ",
    "Anonymous TLS ",
    "Untrusted TLS ",
    "Trusted TLS ",
    "Verified TLS ",
    "SSL_accept ",
    "SSL_connect ",
    "SSL3 ",
    "TLS ",
    "TLS: ",
    "setting up TLS ",
    "initializing the ",
    "certificate ",
    "Host offered STARTTLS",
    "DISCONNECT ",
    "PREGREET ",
    "DNSBL ",
    "HANGUP ",
    "PASS ",
    "WHITELISTED ",
    "ALLOWLISTED ",
    "BLACKLISTED ",
    "DENYLISTED ",
    "WHITELIST VETO ",
    "ALLOWLIST VETO ",
    "BARE NEWLINE ",
    "NON-SMTP COMMAND ",
    "COMMAND ",
    "BDAT without ",
    "cache ",
    "close database ",
    "addr ",
    "improper command pipelining ",
    "too many errors ",
    "discarding EHLO keywords: ",
    "table ",
    "daemon started ",
    "reload ",
    "refreshing ",
    "starting ",
    "stopping ",
    "terminating ",
    "fatal: ",
    "panic: ",
    "error: ",
    "Deleted: ",
    "Placed on hold: ",
    "Released from hold: ",
    "Requeued: ",
    "Expired: ",
    "Postfix is ",
    "using backwards-compatible ",
    "name_mask: ",
    "idle timeout ",
    "host ",
];

#[cfg(test)]
pub(super) mod tests {
    use super::super::shown::{frame, says, tells};
    use super::super::{Dialect, Reader};

    /// The genuine lines of the reference, character for character; the last ones are derived from
    /// the documented formats.
    pub(in super::super) const LINES: &[&str] = &[
        "Dec 6 19:30:29 mail postfix/smtp[45191]: 990343818C5: to=<info@domain.tld>, relay=127.0.0.1[127.0.0.1]:10024, delay=1.8, delays=0.07/0.02/0/1.7, dsn=2.0.0, status=sent (250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 5B5A83818C6)",
        "Dec 6 19:30:29 mail postfix/qmgr[31257]: 990343818C5: removed",
        "Dec 6 19:30:29 mail postfix/virtual[45212]: 5B5A83818C6: to=<info@domain.tld>, relay=virtual, delay=0.02, delays=0.01/0.01/0/0.01, dsn=2.0.0, status=sent (delivered to mailbox)",
        "    Feb 18 11:31:30 arthas postfix/smtpd[18725]: connect from localhost.localdomain[127.0.0.1]",
        "    Feb 18 11:31:30 arthas postfix/smtpd[18725]: AA4D5FEF71: client=localhost.localdomain[127.0.0.1]",
        "    Feb 18 11:31:30 arthas postfix/cleanup[18722]: AA4D5FEF71: message-id=<VABVbKQQ9S3o7N@arthas.icecrown.es>",
        "    Feb 18 11:31:30 arthas postfix/smtpd[18725]: disconnect from localhost.localdomain[127.0.0.1] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5",
        "    Feb 18 11:31:30 arthas postfix/qmgr[18435]: AA4D5FEF71: from=<postmaster@arthas.icecrown.es>, size=4373, nrcpt=1 (queue active)",
        "96887C0006: to=<user@example.com>, relay=host.example.com[1.1.1.1]:25, delay=354776, delays=354775/0/0.9/0.16, dsn=4.3.1, status=deferred (host host.example.com[1.1.1.1] said: 452 4.3.1 Insufficient system storage (in reply to MAIL FROM command))",
        "05BC43F81E: host mx.example.org[5.6.7.8] said: 421 4.3.0 Upstream error, please check https://example.com/email-routing/postmaster for possible reasons why. yrtPbwx4hZz2 (in reply to end of DATA command)",
        "2298F5F619: to=<admin@corp.com>, relay=none, delay=89758, delays=89758/0.02/0/0, dsn=4.4.1, status=deferred (delivery temporarily suspended: connect to mail.corp.com[1.1.1.1]:25: Connection timed out) 215",
        "3D770111AF50: to=<username@corp.com>, relay=none, delay=1.2, delays=1.1/0/0.03/0, dsn=5.4.4, status=bounced (Host or domain name not found. Name service error for name=corp.com type=AAAA: Host not found)",
        "lost connection after BDAT from mx.example.org[192.168.100.124]",
        "Trusted TLS connection established to mx.corp.com[1.1.1.1]:25: TLSv1.3 with cipher TLS_AES_128_GCM_SHA256 (128/128 bits) key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest SHA256",
        "Nov 24 10:00:00 mx postfix-in/smtpd[9]: 4Bx7mq2kzKz9vNT: client=sems.example[2001:db8::5]:4711, sasl_username=a, orig_queue_id=FAKE, orig_queue_id=001K0XH3KE6S2, orig_client=u.example[192.0.2.77]",
        "Nov 24 10:00:00 mx postfix/qmgr[9]: AA4D5FEF71: from=<\"a>, size=7, nrcpt=9 (queue active)\"@b.example>, size=4373, nrcpt=1 (queue active)",
        "Nov 24 10:00:00 mx postfix/qmgr[9]: AA4D5FEF71: from=<a@b>, status=expired, returned to sender",
        "Nov 24 10:00:00 mx postfix/postsuper[9]: AA4D5FEF71: removed",
    ];

    fn text(text: &str) -> String {
        says(Dialect::Postfix, &format!("Nov 24 10:00:00 mx postfix/smtp[77]: {text}"))
    }

    #[test]
    fn genuine_lines_are_read() {
        let said: Vec<String> = LINES.iter().map(|line| says(Dialect::Postfix, line)).collect();
        assert_eq!(
            said,
            [
                "990343818C5 Relayed <info@domain.tld> by 127.0.0.1 at 127.0.0.1 next 5B5A83818C6: 250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 5B5A83818C6",
                "990343818C5 removed",
                "5B5A83818C6 Delivered <info@domain.tld> by virtual: delivered to mailbox",
                "connected client=127.0.0.1",
                "AA4D5FEF71 accepted client=127.0.0.1",
                "AA4D5FEF71 message-id VABVbKQQ9S3o7N@arthas.icecrown.es",
                "quiet",
                "AA4D5FEF71 queued from <postmaster@arthas.icecrown.es> size=4373 recipients=1",
                "96887C0006 Deferred <user@example.com> by host.example.com at 1.1.1.1: host host.example.com[1.1.1.1] said: 452 4.3.1 Insufficient system storage (in reply to MAIL FROM command)",
                "quiet",
                "2298F5F619 Deferred <admin@corp.com>: delivery temporarily suspended: connect to mail.corp.com[1.1.1.1]:25: Connection timed out",
                "3D770111AF50 Bounced <username@corp.com>: Host or domain name not found. Name service error for name=corp.com type=AAAA: Host not found",
                "quiet",
                "quiet",
                "4Bx7mq2kzKz9vNT accepted client=2001:db8::5 ident=001K0XH3KE6S2",
                "AA4D5FEF71 queued from <\"a>, size=7, nrcpt=9 (queue active)\"@b.example> size=4373 recipients=1",
                "AA4D5FEF71 rest Expired",
                "AA4D5FEF71 rest Deleted",
            ]
        );
        assert_eq!(
            frame(Dialect::Postfix, LINES[0]),
            "2026-12-06T18:30:29Z mail postfix/smtp 45191",
            "nearer to November 2026 than last year's"
        );
    }

    #[test]
    fn deliveries_tell_where_a_message_went() {
        for (line, said) in [
            (
                "ABCDEF0: to=<b@c>, orig_to=<a@c>, relay=mx.c[2001:db8::1]:25, conn_use=2, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4Bx7mq2kzKz9vNT)",
                "ABCDEF0 Relayed <b@c> was <a@c> by mx.c at 2001:db8::1 next 4Bx7mq2kzKz9vNT: 250 2.0.0 Ok: queued as 4Bx7mq2kzKz9vNT",
            ),
            (
                "ABCDEF0: to=<b@c>, relay=mx.c[private/dovecot-lmtp], delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 <b@c> abc Saved)",
                "ABCDEF0 Delivered <b@c> by mx.c: 250 2.0.0 <b@c> abc Saved",
            ),
            (
                "ABCDEF0: to=<b@c>, relay=mx.c[/var/run/lmtp sock], delay=1, dsn=2.0.0, status=sent (250 ok)",
                "ABCDEF0 Delivered <b@c> by mx.c: 250 ok",
            ),
            (
                "ABCDEF0: to=<b@c>, relay=local, delay=1, status=sent (delivered to command: /usr/bin/procmail)",
                "ABCDEF0 Delivered <b@c> by local: delivered to command: /usr/bin/procmail",
            ),
            (
                "ABCDEF0: to=<b@c>, relay=local, delay=1, dsn=2.0.0, status=sent (forwarded as 5B5A83818C6)",
                "ABCDEF0 Relayed <b@c> by local next 5B5A83818C6: forwarded as 5B5A83818C6",
            ),
            (
                "ABCDEF0: to=<b@c>, relay=none, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (c)",
                "ABCDEF0 Deleted <b@c>: c",
            ),
            (
                "ABCDEF0: to=<b@c>, relay=f[127.0.0.1]:10024, delay=1, delays=1/0/0/0, dsn=2.7.0, status=sent (250 2.7.0 Ok, discarded, id=1-2 - spam)",
                "ABCDEF0 Deleted <b@c> by f at 127.0.0.1: 250 2.7.0 Ok, discarded, id=1-2 - spam",
            ),
            (
                "ABCDEF0: to=<\"a, b>c\"@d>, relay=none, delay=1, dsn=4.0.0, status=deferred (x)",
                "ABCDEF0 Deferred <\"a, b>c\"@d>: x",
            ),
            (
                "ABCDEF0: to=<grün@büro.example>, relay=none, delay=1, dsn=4.0.0, status=deferred (x)",
                "ABCDEF0 Deferred <grün@büro.example>: x",
            ),
            (
                "ABCDEF0: to=<b@c>, relay=h[192.0.2.1]:25, delay=1, delays=1/0/0/0, dsn=5.0.0, status=bounced (host h said: 550 status=sent (250 ok) (in reply to RCPT TO command))",
                "ABCDEF0 Bounced <b@c> by h at 192.0.2.1: host h said: 550 status=sent (250 ok) (in reply to RCPT TO command)",
            ),
            (
                "ABCDEF0: to=<b@c>, relay=none, delay=1, delays=1/0/0/0, dsn=5.0.0, status=undeliverable (x)",
                "quiet",
            ),
            ("ABCDEF0: to=<b@c>, relay=none, delay=1, dsn=2.0.0, status=invented (x)", "unparsed"),
            ("ABCDEF0: to=<b@c>, relay=none, delay=1", "unparsed"),
        ] {
            assert_eq!(text(line), said);
        }
    }

    #[test]
    fn an_id_that_the_log_has_cut_off_is_not_read() {
        let line = "ABCDEF0: to=<b@c>, relay=h[192.0.2.1]:25, delay=1, dsn=2.0.0, status=sent (250 Ok: queued as 5B5A838";
        assert_eq!(
            text(line),
            "ABCDEF0 Relayed <b@c> by h at 192.0.2.1: 250 Ok: queued as 5B5A838"
        );
    }

    #[test]
    fn refusals_and_deletions_are_told_apart_from_leaving() {
        for (line, said) in [
            (
                "ABCDEF0: reject: header Subject: x from h[192.0.2.1]; from=<a@b> to=<c@d> proto=ESMTP helo=<h>: 5.7.1 no",
                "ABCDEF0 refused",
            ),
            (
                "ABCDEF0: milter-reject: END-OF-MESSAGE from h[192.0.2.1]: 5.7.1 no; from=<a@b> to=<c@d>",
                "ABCDEF0 refused",
            ),
            (
                "ABCDEF0: reject: RCPT from h[192.0.2.1]: 554 5.7.1 <x@y>: Relay access denied; from=<a@b> to=<x@y>",
                "quiet",
            ),
            (
                "NOQUEUE: reject: RCPT from h[192.0.2.1]: 554 5.7.1 <x@y>: Relay access denied; from=<a@b> to=<x@y>",
                "quiet",
            ),
            (
                "ABCDEF0: discard: header Subject: x from h[192.0.2.1]; from=<a@b> to=<c@d>",
                "ABCDEF0 rest Deleted",
            ),
            ("ABCDEF0: sender non-delivery notification: ABCDEF1", "ABCDEF0 reported by ABCDEF1"),
            ("ABCDEF0: placed on hold", "ABCDEF0 rest Deferred"),
            ("ABCDEF0: released from hold", "quiet"),
            ("ABCDEF0: requeued", "ABCDEF0 rest Deferred"),
            ("ABCDEF0: uid=0 from=<root> orig_id=ABCDEF1", "ABCDEF0 accepted ident=ABCDEF1"),
            ("ABCDEF0: resent-message-id=<a@b>", "quiet"),
            ("ABCDEF0: something new", "unparsed"),
            ("something new", "unparsed"),
        ] {
            assert_eq!(text(line), said, "{line}");
        }
    }

    #[test]
    fn instances_and_renamed_services_are_read_by_shape() {
        let body = "ABCDEF0: from=<>, size=1, nrcpt=1 (queue active)";
        for program in ["postfix-out/qmgr", "postfix/out/qmgr", "mx2/odd-name", "postfix"] {
            let line = format!("Nov 24 10:00:00 mx {program}[77]: {body}");
            assert_eq!(
                says(Dialect::Postfix, &line),
                "ABCDEF0 queued from <> size=1 recipients=1",
                "{program}"
            );
        }
        let line = "Nov 24 10:00:00 mx sshd[77]: ABCDEF0: removed";
        assert_eq!(says(Dialect::Postfix, line), "quiet", "another program's");
        let line = "Nov 24 10:00:00 mx postfix[77]: ABCDEF0: removed";
        assert_eq!(says(Dialect::Postfix, line), "unparsed", "the queue manager or a person?");
    }

    #[test]
    fn words_are_not_ids() {
        for line in ["warning: x", "statistics: x", "fatal: x", "DNSBL rank 3 for [192.0.2.1]:5"] {
            assert_eq!(text(line), "quiet", "{line}");
        }
    }

    #[test]
    fn octets_that_are_not_utf_8_keep_addresses_apart() {
        let mut reader = Reader::new(Dialect::Postfix);
        let line =
            b"Nov 24 10:00:00 mx postfix/smtp[1]: ABCDEF0: to=<\xff\0@b>, relay=none, status=deferred (x)\r\n";
        assert_eq!(tells(&mut reader, line), "ABCDEF0 Deferred <\\xff\0@b>: x");
    }
}
