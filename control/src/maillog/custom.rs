//! Patterns from the configuration: lines that a dialect does not know, or a whole log of its own.
//!
//! A pattern is a regular expression with named captures and the word for what a line that matches
//! it says:
//!
//! ```toml
//! [[pattern]]
//! name = "handed on"
//! regex = '(?<id>SMTP-\d+): (?<recipient>\S+) went to (?<relay>\S+)$'
//! what = "relayed"
//! ```
//!
//! (The line is invented; what the server writes is for the site to find out.)
//!
//! The expression is tried on the text behind the frame, if the line has a frame that the dialect
//! knows, and time and host are the frame's; one that captures `time` or `host` is tried on the
//! whole line. It must match from the beginning: what a stranger may write behind (an address, a
//! Message-ID) cannot then imitate a line of its own. A pattern that may begin anywhere says so
//! with `.*`, and gives that up.
//!
//! Invariants
//! - The first pattern that matches decides.
//! - Matching takes time in proportion to the line, whatever the pattern; patterns are bounded in
//!   size and number.
//! - A pattern that cannot work is refused at the start, by its number and name.
//!
//! Not here: when patterns are asked ([`super::Turn`]).

use regex::{CaptureLocations, Regex, RegexBuilder};
use serde::Deserialize;

use super::address::{bare, bracketed_ip, ip};
use super::stamp::{Clock, Form, Frame};
use super::{Disposition, Hole, Line, Message, QueueId, Recipient, Stamp, What};

/// The most patterns of one log.
const PATTERNS_MAX: usize = 256;

/// The most octets of one compiled pattern.
const COMPILED_OCTETS_MAX: usize = 1 << 20;

/// The names that captures may have, in the order of [`Capture`].
const NAMES: [&str; 13] = [
    "time",
    "host",
    "id",
    "recipient",
    "sender",
    "message_id",
    "client",
    "relay",
    "reply",
    "next_id",
    "chain",
    "rule",
    "lines",
];

#[derive(Clone, Copy)]
enum Capture {
    Time,
    Host,
    Id,
    Recipient,
    Sender,
    MessageId,
    Client,
    Relay,
    Reply,
    NextId,
    Chain,
    Rule,
    Lines,
}

/// `[[pattern]]`: what a line that matches says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// A name for messages about it.
    #[serde(default)]
    pub name: String,
    /// The expression, with named captures.
    pub regex: String,
    /// What a line that matches says.
    pub what: Told,
    /// The form of the capture `time`.
    #[serde(default)]
    pub stamp: Option<Form>,
    /// Its format, as for strptime, where no form fits.
    #[serde(default)]
    pub format: Option<String>,
}

/// What a line that matches a pattern says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// [`What::Connected`].
    Connected,
    /// [`What::Accepted`].
    Accepted,
    /// [`What::MessageId`].
    MessageId,
    /// [`What::Queued`].
    Queued,
    /// [`What::Refused`].
    Refused,
    /// [`Disposition::Relayed`].
    Relayed,
    /// [`Disposition::Delivered`].
    Delivered,
    /// [`Disposition::Deferred`].
    Deferred,
    /// [`Disposition::Bounced`].
    Bounced,
    /// [`Disposition::Expired`].
    Expired,
    /// [`Disposition::Deleted`].
    Deleted,
    /// [`Disposition::Stored`].
    Stored,
    /// [`What::Processed`].
    Processed,
    /// [`What::RuleMatched`].
    RuleMatched,
    /// [`What::Removed`].
    Removed,
    /// [`Line::Hole`].
    Hole,
    /// [`Line::Quiet`].
    Quiet,
}

impl Told {
    /// Captures without which nothing can be told.
    const fn needed(self) -> &'static [&'static str] {
        match self {
            Self::Connected => &["client"],
            Self::MessageId => &["id", "message_id"],
            Self::Queued => &["id", "sender"],
            Self::Accepted | Self::Refused | Self::Removed => &["id"],
            Self::Relayed
            | Self::Delivered
            | Self::Deferred
            | Self::Bounced
            | Self::Expired
            | Self::Deleted
            | Self::Stored
            | Self::Processed => &["id", "recipient"],
            Self::RuleMatched => &["id", "recipient", "chain", "rule"],
            Self::Hole | Self::Quiet => &[],
        }
    }

    const fn disposition(self) -> Option<Disposition> {
        Some(match self {
            Self::Relayed => Disposition::Relayed,
            Self::Delivered => Disposition::Delivered,
            Self::Deferred => Disposition::Deferred,
            Self::Bounced => Disposition::Bounced,
            Self::Expired => Disposition::Expired,
            Self::Deleted => Disposition::Deleted,
            Self::Stored => Disposition::Stored,
            _ => return None,
        })
    }
}

/// Why the patterns of a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// More than the bound.
    #[error("{count} patterns: at most {PATTERNS_MAX} are read; join some with `|`")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// One of them cannot be used.
    #[error("pattern {number}{}: {fault}", named(name))]
    Pattern {
        /// Which, from 1.
        number: usize,
        /// Its name, perhaps empty.
        name: String,
        /// Why not.
        #[source]
        fault: Fault,
    },
}

fn named(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" ({name})") }
}

/// Why one pattern cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The expression is wrong, or too large.
    #[error("`regex` cannot be used: {0}")]
    Regex(#[source] Box<regex::Error>),
    /// It would take every line.
    #[error(
        "`regex` matches an empty line, and so every line; name something that must stand there"
    )]
    MatchesAll,
    /// A capture has a name that means nothing.
    #[error("the capture `{name}` means nothing here; known are {}", NAMES.join(", "))]
    UnknownCapture {
        /// Its name.
        name: String,
    },
    /// A capture is missing.
    #[error("what it tells needs the capture `{name}`: add `(?<{name}>…)` to `regex`")]
    MissingCapture {
        /// Its name.
        name: &'static str,
    },
    /// The form of the time is not told.
    #[error("it captures `time`: say its form with `stamp` or its `format`")]
    NoForm,
    /// Two forms.
    #[error("it has both `stamp` and `format`: keep one")]
    TwoForms,
    /// A form of nothing.
    #[error("it has `stamp` or `format` but captures no `time`: add `(?<time>…)` to `regex`")]
    NoTime,
    /// The format is wrong.
    #[error("`format` cannot be used: {reason}")]
    Format {
        /// Why.
        reason: String,
    },
}

/// Compiled patterns, in their order.
#[derive(Debug, Default)]
pub struct Custom {
    compiled: Vec<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    regex: Regex,
    room: CaptureLocations,
    /// Which group of the expression each of [`NAMES`] is.
    groups: [Option<usize>; NAMES.len()],
    told: Told,
    time: Time,
    /// It captures what stands in the frame.
    whole_line: bool,
}

#[derive(Debug)]
enum Time {
    OfFrame,
    Form(Form),
    Format(String),
}

impl Custom {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// When there are too many, or one cannot be used.
    pub fn compile(patterns: &[Pattern]) -> Result<Self, PatternError> {
        if patterns.len() > PATTERNS_MAX {
            return Err(PatternError::TooMany { count: patterns.len() });
        }
        let compile = |(index, pattern): (usize, &Pattern)| {
            Compiled::new(pattern).map_err(|fault| PatternError::Pattern {
                number: index + 1,
                name: pattern.name.clone(),
                fault,
            })
        };
        let compiled = patterns.iter().enumerate().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { compiled })
    }

    /// Tells what a line says by the first pattern that matches; `None` when none does, or when a
    /// capture that it needs took no part. `message` is the line as its frame was read.
    pub fn read(
        &mut self,
        line: &str,
        message: &Message<'_>,
        clock: &mut Clock,
        each: &mut impl FnMut(Line<'_>),
    ) -> Option<()> {
        for pattern in &mut self.compiled {
            let subject = if pattern.whole_line { line } else { message.text };
            // The leftmost match is at the beginning, or none is.
            let found = pattern.regex.captures_read(&mut pattern.room, subject);
            if found.is_some_and(|found| found.start() == 0) {
                each(pattern.tell(subject, message, clock)?);
                return Some(());
            }
        }
        None
    }
}

impl Compiled {
    fn new(pattern: &Pattern) -> Result<Self, Fault> {
        let regex = RegexBuilder::new(&pattern.regex)
            .size_limit(COMPILED_OCTETS_MAX)
            .dfa_size_limit(COMPILED_OCTETS_MAX)
            .build()
            .map_err(|error| Fault::Regex(Box::new(error)))?;
        if regex.is_match("") {
            return Err(Fault::MatchesAll);
        }
        let mut groups = [None; NAMES.len()];
        for (group, name) in regex.capture_names().enumerate() {
            let Some(name) = name else { continue };
            let known = NAMES.iter().position(|known| *known == name);
            match known.and_then(|known| groups.get_mut(known)) {
                Some(place) => *place = Some(group),
                None => return Err(Fault::UnknownCapture { name: name.to_owned() }),
            }
        }
        let captured = |name: &str| regex.capture_names().flatten().any(|known| known == name);
        if let Some(name) = pattern.what.needed().iter().find(|name| !captured(name)) {
            return Err(Fault::MissingCapture { name });
        }
        let time = match (captured("time"), pattern.stamp, &pattern.format) {
            (false, None, None) => Time::OfFrame,
            (false, ..) => return Err(Fault::NoTime),
            (true, None, None) => return Err(Fault::NoForm),
            (true, Some(_), Some(_)) => return Err(Fault::TwoForms),
            (true, Some(form), None) => Time::Form(form),
            (true, None, Some(format)) => {
                check_format(format).map_err(|reason| Fault::Format { reason })?;
                Time::Format(format.clone())
            }
        };
        let whole_line = captured("time") || captured("host");
        let room = regex.capture_locations();
        Ok(Self { regex, room, groups, told: pattern.what, time, whole_line })
    }

    fn value<'a>(&self, capture: Capture, line: &'a str) -> Option<&'a str> {
        let group = (*self.groups.get(capture as usize)?)?;
        let (start, end) = self.room.get(group)?;
        line.get(start..end).filter(|value| !value.is_empty())
    }

    fn stamp(&self, line: &str, message: &Message<'_>, clock: &mut Clock) -> Option<Stamp> {
        let text = self.value(Capture::Time, line);
        match &self.time {
            Time::OfFrame => message.at,
            // Nothing may stand on either side of the stamp in its capture.
            Time::Form(form) => {
                clock.read(*form, text?).and_then(|(at, rest)| at.filter(|_| rest.is_empty()))
            }
            Time::Format(format) => clock.formatted(format, text?),
        }
    }

    fn tell<'a>(
        &self,
        line: &'a str,
        message: &Message<'a>,
        clock: &mut Clock,
    ) -> Option<Line<'a>> {
        let at = self.stamp(line, message, clock);
        let host = self.value(Capture::Host, line).or(message.host);
        let message = Message { at, host, ..*message };
        match self.told {
            Told::Hole => {
                let lines = self.value(Capture::Lines, line).and_then(|lines| lines.parse().ok());
                Some(Line::Hole(Hole { at, lines, text: line }))
            }
            Told::Quiet => Some(Line::Quiet(at)),
            _ => Some(message.event(self.what(line, &message)?)),
        }
    }

    fn what<'a>(&self, line: &'a str, message: &Message<'a>) -> Option<What<'a>> {
        let value = |capture| self.value(capture, line);
        let client = value(Capture::Client).and_then(address);
        let text = value(Capture::Reply).unwrap_or(message.text);
        if let Told::Connected = self.told {
            return Some(What::Connected { client });
        }
        let id = QueueId(value(Capture::Id)?);
        let recipient = || value(Capture::Recipient).map(bare);
        let message_id = value(Capture::MessageId).map(bare);
        if let Some(disposition) = self.told.disposition() {
            let relay = value(Capture::Relay);
            return Some(What::Recipient(Recipient {
                id,
                recipient: recipient()?,
                original: None,
                message_id,
                disposition,
                relay: relay.and_then(address),
                relay_port: None,
                relay_name: relay.and_then(|relay| relay.split('[').next()),
                through: None,
                text,
                next_id: value(Capture::NextId).map(QueueId),
            }));
        }
        Some(match self.told {
            Told::Accepted => What::Accepted { id, client, ident: None, recipients: None },
            Told::MessageId => What::MessageId { id, message_id: message_id? },
            Told::Queued => {
                // The null reverse-path may be captured as nothing at all.
                let sender = value(Capture::Sender).map_or("", bare);
                let (size, recipients) = (None, None);
                What::Queued { id, sender, size, recipients, message_id, client }
            }
            Told::Refused => What::Refused { id, text },
            Told::Processed => What::Processed { id, recipient: recipient()?, text },
            Told::RuleMatched => What::RuleMatched {
                id,
                recipient: recipient()?,
                chain: value(Capture::Chain)?,
                rule: value(Capture::Rule)?,
            },
            Told::Removed => What::Removed { id },
            _ => return None,
        })
    }
}

fn address(text: &str) -> Option<std::net::IpAddr> {
    ip(text).or_else(|| bracketed_ip(text))
}

/// A format is tried on a moment of its own writing: in the afternoon, and not on a full minute.
fn check_format(format: &str) -> Result<(), String> {
    let sample = jiff::Timestamp::constant(5_418_367, 0);
    let zone = jiff::tz::TimeZone::UTC;
    let text = jiff::fmt::strtime::format(format, &sample.to_zoned(zone.clone()))
        .map_err(|error| error.to_string())?;
    let mut clock = Clock::new(Frame { zone, around: sample });
    match clock.formatted(format, &text) {
        Some(Stamp::Exact(moment)) if moment == sample.as_nanosecond() => Ok(()),
        _ => Err("it does not tell a day and a time to the second".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::shown::{frame, reader, tells};
    use super::super::{Config, Dialect, Reader};

    /// Why this configuration cannot be used.
    fn fault(pattern: &str) -> String {
        let text = format!("dialect = 'custom'\n[[pattern]]\nname = 'p'\n{pattern}");
        match toml::from_str::<Config>(&text) {
            Ok(config) => match Reader::from_config(&config) {
                Ok(_) => panic!("usable: {pattern}"),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_first_pattern_that_matches_decides() {
        let mut reader = reader(
            r#"
            dialect = "custom"
            [[pattern]]
            regex = '^(?<time>\S+) (?<host>\S+) left id=(?<id>\w+) to=(?<recipient>\S+) via=(?<relay>\S+) next=(?<next_id>\w+) said=(?<reply>.*)$'
            what = "relayed"
            stamp = "rfc3339"
            [[pattern]]
            regex = 'x id=(?<id>\w+) gone'
            what = "removed"
            [[pattern]]
            regex = '.* id=(?<id>\w+) '
            what = "quiet"
            [[pattern]]
            regex = 'dropped (?<lines>\d+)'
            what = "hole"
            [[pattern]]
            regex = 'rule (?<id>\w+) (?<recipient>\S+) (?<chain>\w+)/(?<rule>\w+)'
            what = "rule-matched"
            "#,
        );
        for (line, said) in [
            (
                "2026-11-24T10:00:00Z gw left id=7 to=<a@b> via=h[192.0.2.1]:25 next=9 said=250 ok",
                "7 Relayed <a@b> by h at 192.0.2.1 next 9: 250 ok",
            ),
            ("x id=7 gone", "7 removed"),
            ("x id=7 other", "quiet"),
            ("dropped 12 lines", "hole of 12"),
            ("rule 7 a@b Default/Inbound", "7 rule <a@b> Default / Inbound"),
            ("other", "unparsed"),
        ] {
            assert_eq!(tells(&mut reader, line), said);
        }
    }

    #[test]
    fn time_and_host_come_from_captures_or_from_the_frame() {
        let mut reader = reader(
            r#"
            dialect = "postfix"
            patterns = "before"
            [[pattern]]
            regex = '.*filter: (?<id>\w+) gone at (?<time>.*)$'
            what = "removed"
            format = "%d/%m/%Y %H.%M.%S %z"
            [[pattern]]
            regex = 'x filter: (?<id>\w+) gone'
            what = "removed"
            "#,
        );
        let mut at = |line: &str| {
            let mut text = String::new();
            reader.read(line.as_bytes(), &mut super::super::shown::clock(), &mut |line| {
                if let super::Line::Event(event) = line {
                    text = format!("{} {:?}", super::super::shown::stamp(event.at), event.host);
                }
            });
            text
        };
        let framed = "Nov 24 10:00:00 mx filter[7]: x filter: 9 gone";
        assert_eq!(at(framed), "2026-11-24T09:00:00Z Some(\"mx\")");
        let stamped = format!("{framed} at 02/01/2026 03.04.05 +0100");
        assert_eq!(at(&stamped), "2026-01-02T02:04:05Z Some(\"mx\")");
        assert_eq!(at(&format!("{framed} at noon")), "? Some(\"mx\")", "no stamp is invented");
        assert_eq!(frame(Dialect::Postfix, framed), "2026-11-24T09:00:00Z");
    }

    #[test]
    fn a_pattern_matches_from_the_beginning() {
        let mut reader = reader(
            "dialect = 'sems'\n[[pattern]]\nregex = '(?<id>SMTP-\\d+): gone'\nwhat = 'removed'",
        );
        assert_eq!(tells(&mut reader, "SMTP-1: gone"), "SMTP-1 removed");
        let exported = "2014/04/23 17:56:57 +01:00  NOTICE pgp/messaging[6517]:       SMTP-1: gone";
        assert_eq!(tells(&mut reader, exported), "SMTP-1 removed");
        let hostile = "SMTP-1: subject: SMTP-2: gone";
        assert_eq!(tells(&mut reader, hostile), "unparsed");
    }

    #[test]
    fn a_capture_that_took_no_part_leaves_the_line_unparsed() {
        let mut reader = reader(
            "dialect = 'custom'\n[[pattern]]\nregex = '(?<id>a)?b (?<recipient>\\S+)'\nwhat = 'stored'",
        );
        assert_eq!(tells(&mut reader, "ab c@d"), "a Stored <c@d>: ab c@d");
        assert_eq!(tells(&mut reader, "b c@d"), "unparsed");
    }

    #[test]
    fn a_pattern_that_cannot_work_is_named_with_the_mend() {
        for (pattern, says) in [
            (
                "regex = '(a'\nwhat = 'quiet'",
                "pattern 1 (p): `regex` cannot be used: regex parse error",
            ),
            ("regex = '(?<id>a{999}{999}{999})'\nwhat = 'removed'", "size limit"),
            ("regex = '(?<id>a)?'\nwhat = 'quiet'", "matches an empty line"),
            (
                "regex = 'a(?<msgid>b)'\nwhat = 'quiet'",
                "the capture `msgid` means nothing here; known are time, host, id",
            ),
            (
                "regex = 'a(?<id>b)'\nwhat = 'relayed'",
                "needs the capture `recipient`: add `(?<recipient>…)`",
            ),
            ("regex = 'a(?<time>b)'\nwhat = 'quiet'", "say its form with `stamp`"),
            ("regex = 'a(?<time>b)'\nwhat = 'quiet'\nstamp = 'exim'\nformat = '%Y'", "keep one"),
            ("regex = 'ab'\nwhat = 'quiet'\nstamp = 'exim'", "captures no `time`"),
            (
                "regex = 'a(?<time>b)'\nwhat = 'quiet'\nformat = '%Y-%m-%d'",
                "does not tell a day and a time",
            ),
            (
                "regex = 'a(?<time>b)'\nwhat = 'quiet'\nformat = '%Y-%m-%d %I:%M:%S'",
                "`format` cannot be used",
            ),
            ("regex = 'a(?<time>b)'\nwhat = 'quiet'\nformat = '%!'", "`format` cannot be used"),
            ("regex = 'a'\nwhat = 'sent'", "unknown variant `sent`"),
            ("regex = 'a'\nwhat = 'quiet'\nflags = 'i'", "unknown field `flags`"),
        ] {
            let error = fault(pattern);
            assert!(error.contains(says), "{pattern}\n{error}");
        }
    }

    #[test]
    fn formats_without_year_or_zone_are_read_by_the_frame() {
        for format in ["%b %d %H:%M:%S", "%Y%m%d-%I%M%S%p", "%s", "%Y-%m-%dT%H:%M:%S%.f%:z"] {
            let pattern = format!(
                "dialect = 'custom'\n[[pattern]]\nregex = 'a(?<time>b)'\nwhat = 'quiet'\nformat = '{format}'"
            );
            let config: Config = toml::from_str(&pattern).unwrap();
            assert!(Reader::from_config(&config).is_ok(), "{format}");
        }
    }
}
