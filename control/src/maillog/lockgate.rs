//! Our own log: the line that ends each transaction and attempt (`proxy::transaction::record`).
//!
//! Two forms: `stamp LEVEL target: transaction id=… key="value" …`, and one JSON object. Texts stand
//! in quotes with escapes, so that nothing a server says can imitate a key.
//!
//! The line names the recipients that were asked for, and one outcome. For several recipients the
//! next hop may have refused some: then no recipient's outcome is told, only that the message was
//! there.
//!
//! Not here: lockgate's journal, which knows each recipient's outcome.

use std::borrow::Cow;

use serde::Deserialize;

use super::address::{bare, ip, quoted_length};
use super::reply::next_id;
use super::stamp::Clock;
use super::{Disposition, Line, Message, QueueId, Recipient, What, syslog};

/// What is read of a line.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    target: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    mode: Cow<'a, str>,
    #[serde(borrow)]
    member: Cow<'a, str>,
    #[serde(borrow)]
    client: Cow<'a, str>,
    #[serde(borrow)]
    from: Cow<'a, str>,
    #[serde(borrow)]
    to: Cow<'a, str>,
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
    #[serde(borrow)]
    reply: Cow<'a, str>,
    recipients: u32,
    size: u64,
}

/// Takes a line apart, also behind a frame of syslog.
pub(super) fn frame<'a>(line: &'a str, clock: &mut Clock) -> Option<Message<'a>> {
    if let Some(message) = own_frame(line, clock) {
        return Some(message);
    }
    let outer = syslog::frame(line, clock)?;
    let inner = own_frame(outer.text, clock)?;
    Some(Message { at: inner.at.or(outer.at), text: inner.text, ..outer })
}

fn own_frame<'a>(line: &'a str, clock: &mut Clock) -> Option<Message<'a>> {
    if let Some(rest) = line.strip_prefix("{\"timestamp\":\"") {
        let (at, _) = clock.iso(rest)?;
        return Some(Message { at, ..Message::bare(line) });
    }
    let (at, rest) = clock.iso(line)?;
    let (level, text) = rest.trim_start().split_once(' ')?;
    let known = matches!(level, "ERROR" | "WARN" | "INFO" | "DEBUG" | "TRACE");
    known.then_some(Message { at, ..Message::bare(text) })
}

/// Tells what a line says; `None` when it is not understood.
pub(super) fn read(message: &Message<'_>, each: &mut impl FnMut(Line<'_>)) -> Option<()> {
    message.at?;
    let row = if message.text.starts_with('{') {
        let mut row: Row<'_> = serde_json::from_str(message.text).ok()?;
        if !is_record(&row.target) {
            each(message.quiet());
            return Some(());
        }
        // Their values were quoted for a line before they were quoted for JSON.
        for value in [&mut row.from, &mut row.to, &mut row.message_id, &mut row.reply] {
            if let Some(unquoted) = unquoted(value).map(Cow::into_owned) {
                *value = Cow::Owned(unquoted);
            }
        }
        row
    } else {
        // The target is the first word: what other lines quote is not looked at.
        match message.text.split_once(": ") {
            Some((target, rest)) if is_record(target) => row_of(rest)?,
            _ => {
                each(message.quiet());
                return Some(());
            }
        }
    };
    if !matches!(&*row.message, "transaction" | "replay" | "dsn") || row.id.is_empty() {
        // Probes speak of no mail; whatever else we log speaks of no message.
        each(message.quiet());
        return Some(());
    }
    tell(message, &row, each)
}

/// Is this the module that writes the line?
fn is_record(target: &str) -> bool {
    target.ends_with("::record") && !target.contains(' ')
}

/// `transaction id=… gate="…" …`
fn row_of(text: &str) -> Option<Row<'_>> {
    let (message, mut rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut row = Row { message: message.into(), ..Row::default() };
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=')?;
        let length = if behind.starts_with('"') {
            quote_length(behind)?
        } else {
            behind.find(' ').unwrap_or(behind.len())
        };
        let raw = behind.get(..length)?;
        let value = unquoted(raw).unwrap_or(Cow::Borrowed(raw));
        match key {
            "id" => row.id = value,
            "mode" => row.mode = value,
            "member" => row.member = value,
            "client" => row.client = value,
            "from" => row.from = value,
            "to" => row.to = value,
            "message_id" => row.message_id = value,
            "outcome" => row.outcome = value,
            "reply" => row.reply = value,
            "recipients" => row.recipients = value.parse().ok()?,
            "size" => row.size = value.parse().ok()?,
            _ => {}
        }
        rest = behind.get(length..)?.trim_start();
    }
    Some(row)
}

/// The octets of a quoted text at the beginning, quotes included.
fn quote_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut place = 1;
    loop {
        match bytes.get(place)? {
            b'\\' => place += 2,
            b'"' => return Some(place + 1),
            _ => place += 1,
        }
    }
}

/// The text within quotes, its escapes undone.
fn unquoted(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    let mut plain = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((before, escape)) = rest.split_once('\\') {
        plain.push_str(before);
        let letter = escape.chars().next()?;
        rest = escape.get(letter.len_utf8()..)?;
        match letter {
            'n' => plain.push('\n'),
            'r' => plain.push('\r'),
            't' => plain.push('\t'),
            '0' => plain.push('\0'),
            'u' => {
                let (code, behind) = rest.strip_prefix('{')?.split_once('}')?;
                plain.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
                rest = behind;
            }
            letter => plain.push(letter),
        }
    }
    plain.push_str(rest);
    Some(Cow::Owned(plain))
}

/// The events of one ended transaction or attempt.
fn tell(message: &Message<'_>, row: &Row<'_>, each: &mut impl FnMut(Line<'_>)) -> Option<()> {
    let id = QueueId(&row.id);
    let client = ip(&row.client);
    let message_id = Some(bare(&row.message_id)).filter(|id| !id.is_empty() && *id != "-");
    let replay = row.mode == "replay";
    let taken = match &*row.outcome {
        "relayed" | "held" => true,
        "deferred" | "refused" | "blocked" | "abandoned" => replay,
        // Nobody knows whether the next hop has it.
        "uncertain" => {
            each(message.event(What::Accepted { id, client, ident: None, recipients: None }));
            if let Some(message_id) = message_id {
                each(message.event(What::MessageId { id, message_id }));
            }
            return Some(());
        }
        _ => return None,
    };
    if !taken {
        each(message.event(What::Refused { id, text: &row.reply }));
        return Some(());
    }
    each(message.event(What::Queued {
        id,
        sender: bare(&row.from),
        size: Some(row.size),
        recipients: Some(row.recipients),
        message_id,
        client,
    }));
    let disposition = match &*row.outcome {
        "relayed" => Disposition::Relayed,
        "held" => return Some(()),
        // In replay the message stays with us, also when it was refused.
        _ => Disposition::Deferred,
    };
    if let Some(recipient) = only_path(&row.to).filter(|_| row.recipients == 1) {
        each(message.event(What::Recipient(Recipient {
            id,
            recipient,
            original: None,
            message_id,
            disposition,
            relay: None,
            relay_port: None,
            relay_name: Some(&*row.member).filter(|member| *member != "-"),
            through: None,
            text: &row.reply,
            next_id: next_id(&row.reply).filter(|_| disposition == Disposition::Relayed),
        })));
    }
    Some(())
}

/// The address, if the list holds one.
fn only_path(list: &str) -> Option<&str> {
    let inner = list.strip_prefix('<')?.strip_suffix('>')?;
    let from = quoted_length(inner).unwrap_or(0);
    (!inner.get(from..)?.contains('>')).then_some(inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Dialect;
    use super::super::shown::{frame, says};

    /// The line of `docs/METRICS.md`, and others in its form.
    pub(in super::super) const LINES: &[&str] = &[
        "2026-11-23T07:09:43.606788Z  INFO proxy::transaction::record: transaction id=001K0XH3KE6S2 gate=\"outbound\" mode=\"pass\" member=\"sems1\" client=192.0.2.7:58064 from=\"<alice@example.org>\" to=\"<bob@example.net>\" recipients=1 size=261 message_id=\"<1@example.org>\" tls=\"-\" outcome=\"relayed\" reply=\"250 2.0.0 Ok: queued\" seconds=0.000439",
        "{\"timestamp\":\"2026-11-23T07:09:43.606788Z\",\"level\":\"INFO\",\"message\":\"transaction\",\"id\":\"001K0XH3KE6S2\",\"gate\":\"outbound\",\"mode\":\"pass\",\"member\":\"sems1\",\"client\":\"192.0.2.7:58064\",\"from\":\"\\\"<alice@example.org>\\\"\",\"to\":\"\\\"<bob@example.net>\\\"\",\"recipients\":1,\"size\":261,\"message_id\":\"\\\"<1@example.org>\\\"\",\"tls\":\"-\",\"outcome\":\"relayed\",\"reply\":\"\\\"250 2.0.0 Ok: queued\\\"\",\"seconds\":\"0.000439\",\"target\":\"proxy::transaction::record\"}",
        "2026-11-23T07:09:43.606788Z  INFO proxy::transaction::record: transaction id=001K0XH3KE6S2 gate=\"outbound\" mode=\"hold\" member=\"-\" client=[2001:db8::1]:58064 from=\"<>\" to=\"<\\\"a, b\\\"@example.net>\" recipients=1 size=261 message_id=\"-\" tls=\"-\" outcome=\"held\" reply=\"250 2.0.0 held as 001K0XH3KE6S2\" seconds=0.000439",
        "2026-11-23T07:09:43.606788Z  INFO proxy::transaction::record: replay id=001K0XH3KE6S2 gate=\"outbound\" mode=\"replay\" member=\"sems1\" client=192.0.2.7:58064 from=\"<>\" to=\"<\\\"a, b\\\"@example.net>\" recipients=1 size=261 message_id=\"-\" tls=\"-\" outcome=\"refused\" reply=\"550 \\\"no\\\"\" seconds=0.000439",
        "2026-11-23T07:09:43.606788Z  INFO proxy::transaction::record: transaction id=001K0XH3KE6S2 gate=\"outbound\" mode=\"pass\" member=\"sems1\" client=192.0.2.7:1 from=\"<a@b>\" to=\"<c@d>,<e@f>\" recipients=2 size=261 message_id=\"<1@b>\" tls=\"-\" outcome=\"relayed\" reply=\"250 Ok: queued as 4Bn\" seconds=0.000439",
        "2026-11-23T07:09:43.606788Z  INFO proxy::transaction::record: transaction id=001K0XH3KE6S2 mode=\"pass\" client=192.0.2.7:1 from=\"<a@b>\" to=\"<c@d>\" recipients=1 size=0 message_id=\"-\" outcome=\"refused\" reply=\"550 no\"",
        "2026-11-23T07:09:43.606788Z  INFO proxy::transaction::record: transaction id=001K0XH3KE6S2 mode=\"pass\" client=192.0.2.7:1 from=\"<a@b>\" to=\"<c@d>\" recipients=1 size=9 message_id=\"<1@b>\" outcome=\"uncertain\" reply=\"\"",
        "2026-11-23T07:09:43.606788Z  WARN proxy::relay: the next hop said \"x proxy::transaction::record: transaction id=001K0XH3KE6S2 outcome=\\\"relayed\\\"\"",
        "2026-11-23T07:09:43.606788Z  INFO proxy::transaction::record: probe id=001K0XH3KE6S2 mode=\"probe\" outcome=\"relayed\" recipients=1 size=9",
        "Nov 23 08:09:43 gw lockgate[7]: 2026-11-23T07:09:43.606788Z  INFO proxy::app: ready",
        "thread 'main' panicked at x",
    ];

    #[test]
    fn our_own_lines_are_read() {
        let said: Vec<String> = LINES.iter().map(|line| says(Dialect::Lockgate, line)).collect();
        let pass = "001K0XH3KE6S2 queued from <alice@example.org> size=261 recipients=1 message-id=1@example.org client=192.0.2.7\n\
                    001K0XH3KE6S2 Relayed <bob@example.net> message-id=1@example.org by sems1: 250 2.0.0 Ok: queued";
        assert_eq!(
            said,
            [
                pass,
                pass,
                "001K0XH3KE6S2 queued from <> size=261 recipients=1 client=2001:db8::1",
                "001K0XH3KE6S2 queued from <> size=261 recipients=1 client=192.0.2.7\n\
                 001K0XH3KE6S2 Deferred <\"a, b\"@example.net> by sems1: 550 \"no\"",
                "001K0XH3KE6S2 queued from <a@b> size=261 recipients=2 message-id=1@b client=192.0.2.7",
                "001K0XH3KE6S2 refused",
                "001K0XH3KE6S2 accepted client=192.0.2.7\n001K0XH3KE6S2 message-id 1@b",
                "quiet",
                "quiet",
                "quiet",
                "unparsed",
            ]
        );
        for line in [LINES[0], LINES[1]] {
            assert_eq!(frame(Dialect::Lockgate, line), "2026-11-23T07:09:43.606788Z - - -");
        }
        assert_eq!(frame(Dialect::Lockgate, LINES[9]), "2026-11-23T07:09:43.606788Z");
    }
}
