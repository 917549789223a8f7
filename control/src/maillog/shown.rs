//! Lines as short texts, for tests: what a line says, one event per line of text.
#![allow(clippy::unwrap_used, reason = "tests only")]

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use super::{Clock, Config, Dialect, Frame, Line, Reader, Recipient, Stamp, What};

/// A clock in Berlin in November 2026.
pub(super) fn clock() -> Clock {
    let around = "2026-11-24T12:00:00Z".parse().unwrap();
    Clock::new(Frame { zone: TimeZone::get("Europe/Berlin").unwrap(), around })
}

/// A stamp as RFC 3339 in UTC, or `?` for none, or both ends of an unsure one.
pub(super) fn stamp(stamp: Option<Stamp>) -> String {
    let text = |moment| jiff::Timestamp::from_nanosecond(moment).unwrap().to_string();
    match stamp {
        None => "?".to_owned(),
        Some(Stamp::Exact(moment)) => text(moment),
        Some(Stamp::Unsure { earliest, latest }) => {
            format!("{}..{}", text(earliest), text(latest))
        }
    }
}

/// What one line says to a reader of this dialect without patterns.
pub(super) fn says(dialect: Dialect, line: &str) -> String {
    tells(&mut Reader::new(dialect), line)
}

/// A reader with this configuration.
pub(super) fn reader(config: &str) -> Reader {
    let config: Config = toml::from_str(config).unwrap();
    Reader::from_config(&config).unwrap()
}

/// What one line says to this reader.
pub(super) fn tells(reader: &mut Reader, line: impl AsRef<[u8]>) -> String {
    let mut text = String::new();
    reader.read(line.as_ref(), &mut clock(), &mut |line| {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&show(&line));
    });
    text
}

/// The frame of one line: stamp, host, program, process.
pub(super) fn frame(dialect: Dialect, line: &str) -> String {
    let mut text = String::new();
    Reader::new(dialect).read(line.as_bytes(), &mut clock(), &mut |line| {
        text = match line {
            Line::Event(event) => format!(
                "{} {} {} {}",
                stamp(event.at),
                event.host.unwrap_or("-"),
                event.program.unwrap_or("-"),
                event.pid.map_or("-".to_owned(), |pid| pid.to_string())
            ),
            Line::Hole(hole) => stamp(hole.at),
            Line::Quiet(at) => stamp(at),
            Line::Unparsed => "unparsed".to_owned(),
        };
    });
    text
}

fn show(line: &Line<'_>) -> String {
    match line {
        Line::Event(event) => what(&event.what),
        Line::Hole(hole) => match hole.lines {
            Some(lines) => format!("hole of {lines}"),
            None => "hole".to_owned(),
        },
        Line::Quiet(_) => "quiet".to_owned(),
        Line::Unparsed => "unparsed".to_owned(),
    }
}

fn what(what: &What<'_>) -> String {
    let mut text = String::new();
    let mut say = |key: &str, value: Option<&dyn std::fmt::Display>| {
        if let Some(value) = value {
            write!(text, " {key}{value}").unwrap();
        }
    };
    fn some<T: std::fmt::Display>(value: &Option<T>) -> Option<&dyn std::fmt::Display> {
        value.as_ref().map(|value| value as &dyn std::fmt::Display)
    }
    let head = match what {
        What::Connected { client } => {
            say("client=", some(client));
            "connected".to_owned()
        }
        What::Accepted { id, client, ident, recipients } => {
            say("recipients=", some(recipients));
            say("client=", some(client));
            say("ident=", some(ident));
            format!("{} accepted", id.0)
        }
        What::MessageId { id, message_id } => format!("{} message-id {message_id}", id.0),
        What::Queued { id, sender, size, recipients, message_id, client } => {
            say("size=", some(size));
            say("recipients=", some(recipients));
            say("message-id=", some(message_id));
            say("client=", some(client));
            format!("{} queued from <{sender}>", id.0)
        }
        What::Refused { id, .. } => format!("{} refused", id.0),
        What::Recipient(recipient) => return of_recipient(recipient),
        What::Rest { id, disposition, .. } => format!("{} rest {disposition:?}", id.0),
        What::Processed { id, recipient, text } => {
            format!("{} processed <{recipient}>: {text}", id.0)
        }
        What::RuleMatched { id, recipient, chain, rule } => {
            format!("{} rule <{recipient}> {chain} / {rule}", id.0)
        }
        What::Reported { id, report } => format!("{} reported by {}", id.0, report.0),
        What::Removed { id } => format!("{} removed", id.0),
    };
    head + &text
}

fn of_recipient(recipient: &Recipient<'_>) -> String {
    let mut text =
        format!("{} {:?} <{}>", recipient.id.0, recipient.disposition, recipient.recipient);
    if let Some(original) = recipient.original {
        write!(text, " was <{original}>").unwrap();
    }
    if let Some(message_id) = recipient.message_id {
        write!(text, " message-id={message_id}").unwrap();
    }
    let through = recipient.through.filter(|through| {
        recipient.disposition == super::Disposition::Delivered
            && recipient.relay_name != Some(*through)
    });
    if let Some(through) = through {
        write!(text, " through {through}").unwrap();
    }
    if let Some(name) = recipient.relay_name {
        write!(text, " by {name}").unwrap();
    }
    if let Some(relay) = recipient.relay {
        write!(text, " at {relay}").unwrap();
    }
    if let Some(next) = recipient.next_id {
        write!(text, " next {}", next.0).unwrap();
    }
    write!(text, ": {}", recipient.text).unwrap();
    text
}
