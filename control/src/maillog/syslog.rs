//! The frame around messages: what syslog, in its many forms, writes before the text.
//!
//! Read are the classic form (RFC 3164, with or without `<PRI>`), the same with RFC 3339 stamps,
//! and RFC 5424; between host and program also FreeBSD's `<facility.level>` and AIX's
//! `facility:level`, and before the text Solaris' `[ID 801593 mail.info]`.
//!
//! Invariant: notices that lines were dropped are found whichever program the log is about.
//!
//! Not here: what the text says (the dialects).

use super::cut::cut;
use super::stamp::{Clock, Read};
use super::{Event, Hole, Line, Stamp, What};

/// A line taken apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message<'a> {
    /// When it was written; none where the line does not say, or says an impossible date.
    pub at: Option<Stamp>,
    /// Who wrote it.
    pub host: Option<&'a str>,
    /// The program, as written (`postfix/smtpd`).
    pub program: Option<&'a str>,
    /// Its process.
    pub pid: Option<u32>,
    /// What it said.
    pub text: &'a str,
}

impl<'a> Message<'a> {
    /// A line without frame.
    #[must_use]
    pub const fn bare(text: &'a str) -> Self {
        Self { at: None, host: None, program: None, pid: None, text }
    }

    /// Makes the event that this message tells of.
    pub(super) const fn event(&self, what: What<'a>) -> Line<'a> {
        let Self { at, host, program, pid, .. } = *self;
        Line::Event(Event { at, host, program, pid, what })
    }

    /// Makes the line that says nothing of use.
    pub(super) const fn quiet(&self) -> Line<'a> {
        Line::Quiet(self.at)
    }
}

/// Takes a line apart; `None` when no frame of syslog stands before the text.
#[must_use]
pub fn frame<'a>(line: &'a str, clock: &mut Clock) -> Option<Message<'a>> {
    let line = line.strip_prefix('\u{feff}').unwrap_or(line).trim_start();
    let (priority, line) = match line.strip_prefix('<') {
        Some(rest) => (true, without_priority(rest)?),
        None => (false, line),
    };
    if priority && let Some(rest) = line.strip_prefix("1 ") {
        return rfc_5424(rest, clock);
    }
    let first = *line.as_bytes().first()?;
    let (at, rest) = match first {
        b'0'..=b'9' => clock.iso(line)?,
        _ => clock.syslog(line)?,
    };
    Some(behind_stamp(at, rest.strip_prefix(' ')?.trim_start()))
}

/// The notice that lines are missing, if the message is one.
#[must_use]
pub fn hole<'a>(message: &Message<'a>) -> Option<Hole<'a>> {
    let text = message.text;
    let logger = message
        .program
        .is_some_and(|program| program.starts_with("rsyslogd") || program.starts_with("systemd-"));
    let likely = match text.as_bytes().first()? {
        b'S' => text.starts_with("Suppressed "),
        b'i' => text.starts_with("imjournal") || text.starts_with("imuxsock"),
        _ => false,
    };
    if !likely && !logger {
        return None;
    }
    let lines = lost(text)?;
    Some(Hole { at: message.at, lines, text })
}

/// Does it say that the line before it, in the same file, came again? A line that is equal says the same thing once.
#[must_use]
pub fn repeats(message: &Message<'_>) -> bool {
    let rest = message.text.strip_prefix("last message repeated ");
    rest.is_some_and(|rest| rest.contains(" time") && leading_number(rest).is_some())
}

/// How many lines a notice says are lost, where it says it; `None` when it is no notice.
fn lost(text: &str) -> Option<Option<u64>> {
    // journald
    if let Some(rest) = text.strip_prefix("Suppressed ") {
        return rest.contains(" messages from ").then(|| leading_number(rest));
    }
    // rsyslog; `imuxsock lost N messages from pid P due to rate-limiting` is the older wording.
    if !text.contains("rate-limiting") {
        return None;
    }
    if text.contains(" to drop messages ") || text.contains(" begins to drop ") {
        return Some(None);
    }
    if let Some((_, rest)) = text.split_once(" lost ")
        && let Some(lines) = leading_number(rest)
    {
        return Some(Some(lines));
    }
    let (before, _) = text.split_once(" messages lost")?;
    Some(before.rsplit(' ').next().and_then(leading_number))
}

fn leading_number(text: &str) -> Option<u64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

/// What stands behind `<PRI>`.
fn without_priority(rest: &str) -> Option<&str> {
    let (priority, rest) = rest.split_once('>')?;
    let digits =
        (1..=3).contains(&priority.len()) && priority.bytes().all(|octet| octet.is_ascii_digit());
    digits.then_some(rest)
}

/// Host, program and text of the classic form.
fn behind_stamp(at: Option<Stamp>, rest: &str) -> Message<'_> {
    let rest = freebsd_level(rest);
    let Some((host, rest)) = cut(rest, b' ') else {
        return Message { at, ..Message::bare(rest) };
    };
    let rest = aix_level(rest.trim_start());
    let (program, pid, text) = tagged(rest).unwrap_or((None, None, rest));
    let text = repeated(without_solaris_id(text));
    Message { at, host: Some(host), program, pid, text }
}

/// The parts of `prog[pid]: text` or `prog: text`.
fn tagged(rest: &str) -> Option<(Option<&str>, Option<u32>, &str)> {
    let end = rest.bytes().position(|octet| matches!(octet, b' ' | b'[' | b':'))?;
    let program = rest.get(..end).filter(|program| !program.is_empty())?;
    let (pid, behind) = match rest.as_bytes().get(end)? {
        b'[' => {
            let (pid, behind) = cut(rest.get(end + 1..)?, b']')?;
            (pid.parse().ok(), behind)
        }
        _ => (None, rest.get(end..)?),
    };
    let text = behind.strip_prefix(':')?;
    Some((Some(program), pid, text.trim_start_matches(' ')))
}

/// FreeBSD with `-v` writes `<mail.info>` before the host.
fn freebsd_level(rest: &str) -> &str {
    match rest.strip_prefix('<').and_then(|rest| rest.split_once("> ")) {
        Some((level, behind)) if level.len() < 24 && !level.contains(' ') => behind,
        _ => rest,
    }
}

/// AIX writes `mail:info` before the program.
fn aix_level(rest: &str) -> &str {
    let Some((level, behind)) = cut(rest, b' ') else { return rest };
    match cut(level, b':') {
        Some((facility, level))
            if !level.is_empty()
                && facility
                    .bytes()
                    .chain(level.bytes())
                    .all(|octet| octet.is_ascii_lowercase()) =>
        {
            behind
        }
        _ => rest,
    }
}

/// Solaris writes `[ID 801593 mail.info]` before the text.
fn without_solaris_id(text: &str) -> &str {
    match text.strip_prefix("[ID ").and_then(|rest| rest.split_once("] ")) {
        Some((id, behind)) if id.len() < 40 => behind,
        _ => text,
    }
}

/// rsyslog writes `message repeated 3 times: [ text]` with the text itself. Lines that are equal
/// say the same thing once, so that the text is read as if it stood alone.
fn repeated(text: &str) -> &str {
    let inner = text
        .strip_prefix("message repeated ")
        .and_then(|rest| rest.split_once(" times: ["))
        .filter(|(count, _)| leading_number(count).is_some_and(|_| count.len() < 12))
        .and_then(|(_, inner)| inner.strip_suffix(']'));
    inner.map_or(text, str::trim_start)
}

/// RFC 5424 behind `<PRI>1 `.
fn rfc_5424<'a>(rest: &'a str, clock: &mut Clock) -> Option<Message<'a>> {
    let (at, rest): Read<'a> = match rest.strip_prefix('-') {
        Some(rest) => (None, rest),
        None => clock.iso(rest)?,
    };
    let mut parts = rest.strip_prefix(' ')?.splitn(5, ' ');
    let mut part = || parts.next().filter(|part| !part.is_empty());
    let (host, program, process, _, rest) = (part()?, part()?, part()?, part()?, part()?);
    let text = without_structured_data(rest)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_start_matches(' ');
    let known = |word: &'a str| (word != "-").then_some(word);
    Some(Message {
        at,
        host: known(host),
        program: known(program),
        pid: process.parse().ok(),
        text: repeated(without_solaris_id(text)),
    })
}

/// Behind `-` or `[id name="value"]…`, where a value may hold `\"` and `\]`.
fn without_structured_data(rest: &str) -> Option<&str> {
    if let Some(text) = rest.strip_prefix('-') {
        return Some(text.strip_prefix(' ').unwrap_or(text));
    }
    let (mut quoted, mut escaped, mut inside) = (false, false, false);
    for (place, octet) in rest.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if inside => quoted = !quoted,
            _ if quoted => {}
            b'[' if !inside => inside = true,
            b']' if inside => inside = false,
            b' ' if !inside && place > 0 => return rest.get(place + 1..),
            _ if !inside => return None,
            _ => {}
        }
    }
    (!inside && !rest.is_empty()).then_some("")
}

#[cfg(test)]
mod tests {
    use super::super::shown::{clock, stamp};
    use super::*;

    /// Stamp, host, program, process and text, with bars between.
    fn parts(line: &str) -> String {
        let Some(message) = frame(line, &mut clock()) else { return "none".to_owned() };
        format!(
            "{}|{}|{}|{}|{}",
            stamp(message.at),
            message.host.unwrap_or("-"),
            message.program.unwrap_or("-"),
            message.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            message.text
        )
    }

    #[test]
    fn frames_of_many_loggers_are_taken_apart() {
        let whole = "2026-11-24T09:00:00Z|mx|postfix/smtpd|7|a: b";
        for (line, expected) in [
            ("Nov 24 10:00:00 mx postfix/smtpd[7]: a: b", whole),
            ("\u{feff}   Nov 24 10:00:00 mx postfix/smtpd[7]: a: b", whole),
            ("<22>Nov 24 10:00:00 mx postfix/smtpd[7]: a: b", whole),
            ("2026-11-24T10:00:00+01:00 mx postfix/smtpd[7]: a: b", whole),
            ("<22>1 2026-11-24T09:00:00Z mx postfix/smtpd 7 - - a: b", whole),
            (
                "<22>1 2026-11-24T09:00:00Z mx postfix/smtpd 7 ID1 [x@1 a=\"]\\\"\" b=\"c d\"][y] \u{feff}a: b",
                whole,
            ),
            ("Nov 24 10:00:00 <mail.info> mx postfix/smtpd[7]: a: b", whole),
            ("Nov 24 10:00:00 mx mail:info postfix/smtpd[7]: a: b", whole),
            ("Nov 24 10:00:00 mx postfix/smtpd[7]: [ID 801593 mail.info] a: b", whole),
            ("Nov 24 10:00:00 mx postfix/smtpd[7]: message repeated 3 times: [ a: b]", whole),
            ("Nov 24 10:00:00 mx cron: a", "2026-11-24T09:00:00Z|mx|cron|-|a"),
            ("Nov 24 10:00:00 mx -- MARK --", "2026-11-24T09:00:00Z|mx|-|-|-- MARK --"),
            ("Feb 30 10:00:00 mx cron: a", "?|mx|cron|-|a"),
            ("<22>1 - - - - - - a", "?|-|-|-|a"),
            ("<22>1 - mx app - - [x a=\"b] c", "none"),
            ("<x>Nov 24 10:00:00 mx cron: a", "none"),
            ("no frame at all", "none"),
        ] {
            assert_eq!(parts(line), expected, "{line}");
        }
    }

    #[test]
    fn dropped_lines_leave_a_hole() {
        for (line, lines) in [
            ("systemd-journald[7]: Suppressed 917 messages from /system.slice/x", Some(Some(917))),
            ("systemd-journal[7]: Suppressed 917 messages from /", Some(Some(917))),
            ("rsyslogd-2177: imjournal: begin to drop messages due to rate-limiting", Some(None)),
            ("rsyslogd: imjournal: 236 messages lost due to rate-limiting", Some(Some(236))),
            (
                "rsyslogd: imjournal: 236 messages lost due to rate-limiting (20000 allowed within 600 seconds)",
                Some(Some(236)),
            ),
            ("rsyslogd: imuxsock lost 12 messages from pid 9 due to rate-limiting", Some(Some(12))),
            (
                "rsyslogd: imuxsock begins to drop messages from pid 9 due to rate-limiting",
                Some(None),
            ),
            ("last message repeated 4 times", None),
            ("rsyslogd: [origin software=\"rsyslogd\"] start", None),
            ("postfix/smtpd[7]: Suppressed the rest", None),
        ] {
            let line = format!("Nov 24 10:00:00 mx {line}");
            let message = frame(&line, &mut clock()).unwrap();
            assert_eq!(hole(&message).map(|hole| hole.lines), lines, "{line}");
        }
    }

    #[test]
    fn a_line_that_came_again_is_no_hole() {
        let again = |line: &str| repeats(&frame(line, &mut clock()).unwrap());
        assert!(again("Nov 24 10:00:00 mx last message repeated 4 times"));
        assert!(again("Nov 24 10:00:00 mx postfix/smtpd[7]: last message repeated 1 time"));
        assert!(!again("Nov 24 10:00:00 mx postfix/smtpd[7]: last message repeated"));
    }
}
