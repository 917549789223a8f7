//! The Mail log of the encryption server.
//!
//! Seven genuine lines are publicly known (three forms of `message`, `recipient`, `policy rule
//! match` and `fatal exception`), as exported and as copied from the console. Those shapes are
//! read, and only those. That a line can also stand in a frame of syslog is an assumption: no
//! sample of it was found. How the server says that it has encrypted, relayed or queued a message
//! is not known; such lines are Unparsed until patterns of the configuration read them.
//!
//! The id of an event is `SMTP-n`: a connection. The counter begins anew with the process, so that
//! host, process and number together name it.
//!
//! Invariants
//! - `passing through unmodified` is what policy decided, not that the message left.
//! - A jump to the Exception chain is not an end.
//!
//! Not here: stamps (`stamp`), patterns (`custom`).

use super::address::bare;
use super::stamp::Clock;
use super::{Disposition, Message, QueueId, Recipient, Says, What};

/// The levels that may stand before the program. Only NOTICE was seen.
const LEVEL_LENGTH_MAX: usize = 10;

/// Takes a line of the exported or the console form apart.
pub(super) fn frame<'a>(line: &'a str, clock: &mut Clock) -> Option<Message<'a>> {
    if line.as_bytes().first()?.is_ascii_digit() {
        return exported(line, clock);
    }
    if is_text(line) {
        return Some(match clock.sems_console(line) {
            Some((at, text)) => Message { at, ..Message::bare(text) },
            None => Message::bare(line),
        });
    }
    None
}

/// `2014/04/23 17:56:57 +01:00  NOTICE pgp/messaging[6517]:       SMTP-00001: …`
fn exported<'a>(line: &'a str, clock: &mut Clock) -> Option<Message<'a>> {
    let (at, rest) = clock.sems(line)?;
    let (level, rest) = rest.trim_start().split_once(' ')?;
    let capital = |octet: u8| octet.is_ascii_uppercase();
    if level.is_empty() || level.len() > LEVEL_LENGTH_MAX || !level.bytes().all(capital) {
        return None;
    }
    let (tag, text) = rest.trim_start().split_once(':')?;
    let (program, pid) = tag.strip_suffix(']')?.split_once('[')?;
    let pid = Some(pid.parse().ok()?);
    Some(Message { at, host: None, program: Some(program), pid, text: text.trim_start() })
}

/// Does the text stand at the beginning of the line, as in a copy from the console?
fn is_text(line: &str) -> bool {
    line.starts_with("SMTP-") || line.starts_with("fatal exception evaluating policy ")
}

/// Tells what a line says; `None` when it is not understood.
pub(super) fn read<'a>(message: &Message<'a>) -> Option<Says<'a>> {
    let (id, text) = match connection(message.text) {
        Some((id, text)) => (Some(id), text),
        None => (None, message.text),
    };
    if text.starts_with("fatal exception evaluating policy for recipient ")
        && text.ends_with(" - jumping to Exception chain")
    {
        return Some(Says::Quiet);
    }
    let id = id?;
    let what = if let Some(rest) = text.strip_prefix("message ") {
        accepted(id, rest)?
    } else {
        recipient(id, text.strip_prefix("recipient ")?)?
    };
    Some(Says::What(what))
}

/// The connection at the beginning, and what is said of it.
fn connection(text: &str) -> Option<(QueueId<'_>, &str)> {
    let (id, rest) = text.split_once(": ")?;
    let number = id.strip_prefix("SMTP-")?;
    let counted = !number.is_empty()
        && number.len() <= 20
        && number.bytes().all(|octet| octet.is_ascii_digit());
    counted.then_some((QueueId(id), rest))
}

/// `<message-id> from sender (1 recipient):`
///
/// That the text in brackets is the Message-ID is inferred: the sender stands beside it.
fn accepted<'a>(id: QueueId<'a>, rest: &'a str) -> Option<What<'a>> {
    let rest = rest.strip_suffix(" recipient):").or_else(|| rest.strip_suffix(" recipients):"))?;
    let (rest, recipients) = rest.rsplit_once(" (")?;
    let (message_id, sender) = once(rest, "> from ")?;
    Some(What::Queued {
        id,
        sender: bare(sender),
        size: None,
        recipients: Some(recipients.parse().ok()?),
        message_id: Some(message_id.strip_prefix('<')?),
        client: None,
    })
}

/// `1/1 (address): …` or `address: policy rule match: …`
fn recipient<'a>(id: QueueId<'a>, rest: &'a str) -> Option<What<'a>> {
    if let Some((address, matched)) = once(rest, ": policy rule match: chain: \"") {
        let (chain, rule) = once(matched, "\", rule: \"")?;
        let rule = rule.strip_suffix('"')?;
        return Some(What::RuleMatched { id, recipient: bare(address), chain, rule });
    }
    let (count, rest) = rest.split_once(" (")?;
    let (place, of) = count.split_once('/')?;
    if place.parse::<u32>().is_err() || of.parse::<u32>().is_err() {
        return None;
    }
    let (address, text) = once(rest, "): ")?;
    let address = bare(address);
    if is_passed_through(text) {
        return Some(What::Processed { id, recipient: address, text });
    }
    text.strip_prefix("unmanaged domain blocked: bouncing message from ")?;
    Some(What::Recipient(Recipient {
        id,
        recipient: address,
        original: None,
        message_id: None,
        disposition: Disposition::Bounced,
        relay: None,
        relay_port: None,
        relay_name: None,
        through: None,
        text,
        next_id: None,
    }))
}

/// `passing through unmodified [0x21b2578]`
fn is_passed_through(text: &str) -> bool {
    text.strip_prefix("passing through unmodified [0x")
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|number| number.bytes().all(|octet| octet.is_ascii_hexdigit()))
}

/// Splits where `middle` stands, if it stands there once: addresses and Message-IDs are chosen by
/// strangers, and which of two places is the server's own cannot be told.
fn once<'a>(text: &'a str, middle: &str) -> Option<(&'a str, &'a str)> {
    let (before, behind) = text.split_once(middle)?;
    (!behind.contains(middle)).then_some((before, behind))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Dialect;
    use super::super::shown::{frame, reader, says, tells};

    /// The seven genuine lines that are known, character for character.
    pub(in super::super) const LINES: &[&str] = &[
        "2014/04/23 17:56:57 +01:00  NOTICE pgp/messaging[6517]:       SMTP-00001: message <[email protected]> from [email protected] (1 recipient):",
        "2014/04/23 17:56:57 +01:00  NOTICE pgp/messaging[6517]:       SMTP-00001: recipient 1/1 ([email protected]): passing through unmodified [0x21b2578]",
        "2014/08/22 11:12:51 +01:00  NOTICE pgp/messaging[4984]:       SMTP-00000: recipient 1/1 ([email protected]): unmanaged domain blocked: bouncing message from [email protected]",
        "SMTP-162150: recipient [email protected]: policy rule match: chain: \"Default\", rule: \"Inbound Mail\" Thu Dec 6, 2012 at 10:52:50 AM +01:00",
        "SMTP-162150: recipient [email protected]: policy rule match: chain: \"Inbound\", rule: \"Decrypt Message (SMTP)\" Thu Dec 6, 2012 at 10:52:50 AM +01:00",
        "SMTP-162150: fatal exception evaluating policy for recipient [email protected]: string operation failed - jumping to Exception chain Thu Dec 6, 2012 at 10:52:53",
        "fatal exception evaluating policy for recipient [email protected]: invalid utf8 character encountered - jumping to Exception chain",
    ];

    #[test]
    fn genuine_lines_are_read() {
        let said: Vec<(String, String)> = LINES
            .iter()
            .map(|line| (says(Dialect::Sems, line), frame(Dialect::Sems, line)))
            .collect();
        let expected = [
            (
                "SMTP-00001 queued from <[email protected]> recipients=1 message-id=[email protected]",
                "2014-04-23T16:56:57Z - pgp/messaging 6517",
            ),
            (
                "SMTP-00001 processed <[email protected]>: passing through unmodified [0x21b2578]",
                "2014-04-23T16:56:57Z - pgp/messaging 6517",
            ),
            (
                "SMTP-00000 Bounced <[email protected]>: unmanaged domain blocked: bouncing message from [email protected]",
                "2014-08-22T10:12:51Z - pgp/messaging 4984",
            ),
            (
                "SMTP-162150 rule <[email protected]> Default / Inbound Mail",
                "2012-12-06T09:52:50Z - - -",
            ),
            (
                "SMTP-162150 rule <[email protected]> Inbound / Decrypt Message (SMTP)",
                "2012-12-06T09:52:50Z - - -",
            ),
            // AM or PM was cut off.
            ("quiet", "2012-12-06T09:52:53Z..2012-12-06T21:52:53Z"),
            ("quiet", "?"),
        ];
        for (line, (said, expected)) in said.iter().zip(expected).enumerate() {
            assert_eq!((said.0.as_str(), said.1.as_str()), expected, "line {}", line + 1);
        }
    }

    /// Derived: that the same text may stand in a frame of syslog is an assumption.
    #[test]
    fn a_frame_of_syslog_tells_the_host() {
        let line = "Nov 24 10:00:00 sems1 pgp/messaging[6517]: SMTP-00001: recipient 1/2 (a@b): passing through unmodified [0x1]";
        assert_eq!(
            says(Dialect::Sems, line),
            "SMTP-00001 processed <a@b>: passing through unmodified [0x1]"
        );
        assert_eq!(frame(Dialect::Sems, line), "2026-11-24T09:00:00Z sems1 pgp/messaging 6517");
    }

    /// Derived: the plural was not seen.
    #[test]
    fn several_recipients_are_counted() {
        let line = "SMTP-00001: message <a@b> from c@d (12 recipients):";
        assert_eq!(
            says(Dialect::Sems, line),
            "SMTP-00001 queued from <c@d> recipients=12 message-id=a@b"
        );
    }

    #[test]
    fn what_was_never_seen_is_not_understood() {
        for text in [
            "SMTP-00001: recipient 1/1 (a@b): encrypted",
            "SMTP-00001: recipient 1/1 (a@b): passing through unmodified",
            "SMTP-00001: recipient a@b: relayed",
            "SMTP-00001: closed",
            "SMTP-x: recipient 1/1 (a@b): passing through unmodified [0x1]",
            "Backup finished",
        ] {
            let line =
                format!("2014/04/23 17:56:57 +01:00  NOTICE pgp/messaging[6517]:       {text}");
            assert_eq!(says(Dialect::Sems, &line), "unparsed", "{text}");
        }
    }

    #[test]
    fn an_ambiguous_address_is_not_understood() {
        let line = "SMTP-1: recipient 1/1 (a): unmanaged domain blocked: bouncing message from b@c): passing through unmodified [0x1]";
        assert_eq!(says(Dialect::Sems, line), "unparsed");
        let line = "SMTP-1: message <x> from v@w> from a@b (1 recipient):";
        assert_eq!(says(Dialect::Sems, line), "unparsed");
    }

    /// Success lines that no source shows can be read by configuration alone.
    #[test]
    fn patterns_read_what_the_dialect_does_not_know() {
        let mut reader = reader(
            r#"
            dialect = "sems"
            [[pattern]]
            name = "encrypted"
            regex = '(?<id>SMTP-\d+): recipient \d+/\d+ \((?<recipient>.*)\): sent (?<reply>.*)$'
            what = "relayed"
            "#,
        );
        let line = "2014/04/23 17:56:57 +01:00  NOTICE pgp/messaging[6517]:       SMTP-00001: recipient 1/1 (a@b): sent encrypted";
        assert_eq!(tells(&mut reader, line), "SMTP-00001 Relayed <a@b>: encrypted");
        assert_eq!(tells(&mut reader, LINES[1]), says(Dialect::Sems, LINES[1]));
        assert_eq!(tells(&mut reader, "SMTP-00001: other"), "unparsed");
    }
}
