//! What mail logs say, free of dialect.
//!
//! A [`Reader`] turns one line into what it says: an [`Event`] or several, a [`Hole`], nothing of
//! use, or that it was not understood. Pure: no file, no clock, and between lines nothing but the
//! heading of an Exchange file; what a stamp leaves out comes from a [`Frame`]. What is told
//! borrows from the line.
//!
//! Invariants
//! - Every line is answered, with at least one [`Line`]; none is lost and none makes a panic.
//! - What can be read in two ways is [`Line::Unparsed`]: doubt, never a guess.
//! - Text that strangers choose (addresses, Message-IDs, replies, names of hosts) cannot make a
//!   line speak of another message than the one whose id stands in it.
//!
//! In reading order: [`stamp`], [`syslog`], `address` and `reply` (pieces that dialects share), the
//! dialects, [`custom`].
//!
//! Not here: files and their coverage (`tail`, `intake`, `coverage`), whose item an event speaks
//! of (`drain::correlate`).

pub mod coverage;
pub mod custom;
pub mod feeds;
pub mod files;
pub mod stamp;
pub mod syslog;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod shown;

mod address;
mod cut;
mod exchange;
mod exim;
mod lockgate;
mod opensmtpd;
mod postfix;
mod reply;
mod sems;
mod sendmail;

use std::net::IpAddr;

use serde::Deserialize;

pub use custom::{Custom, Pattern, PatternError};
pub use stamp::{Clock, Form, Frame};
pub use syslog::Message;

/// What one line of a log says.
#[derive(Clone, Debug, PartialEq)]
pub enum Line<'a> {
    /// Something about a message, a connection, or a rule.
    Event(Event<'a>),
    /// The log itself says that lines are missing before this one.
    Hole(Hole<'a>),
    /// A line of a known kind that says nothing of use; its stamp still shows that the log lives.
    Quiet(Option<Stamp>),
    /// Not understood: counted, shown in samples, and a reason for doubt.
    Unparsed,
}

/// An event and when and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<'a> {
    /// When, as the line says.
    pub at: Option<Stamp>,
    /// The host that wrote the line, as the line names it.
    pub host: Option<&'a str>,
    /// The program or instance (`postfix/smtp`, `postfix-out/qmgr`), as the line names it.
    pub program: Option<&'a str>,
    /// Its process. The connections of the encryption server are numbered anew by each process.
    pub pid: Option<u32>,
    /// What happened.
    pub what: What<'a>,
}

/// A moment as a log line tells it, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// One moment.
    Exact(i128),
    /// A wall-clock time that daylight saving repeats or skips, or whose zone is not known: it
    /// proves nothing.
    Unsure {
        /// The earliest moment that it may mean.
        earliest: i128,
        /// The latest.
        latest: i128,
    },
}

impl Stamp {
    /// The earliest moment that it may mean.
    #[must_use]
    pub const fn earliest(self) -> i128 {
        match self {
            Self::Exact(moment) => moment,
            Self::Unsure { earliest, .. } => earliest,
        }
    }

    /// The latest moment that it may mean.
    #[must_use]
    pub const fn latest(self) -> i128 {
        match self {
            Self::Exact(moment) => moment,
            Self::Unsure { latest, .. } => latest,
        }
    }
}

/// A name that a mail system gives to a message of its own: queue id, or connection and message
/// (`SMTP-00001`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueId<'a>(pub &'a str);

/// What a line tells of messages.
#[derive(Clone, Debug, PartialEq)]
pub enum What<'a> {
    /// A client connected; counts as a sign of life when the client is used for nothing else.
    Connected {
        /// Its address, if it is one.
        client: Option<IpAddr>,
    },
    /// A message is coming in from a client, under this id.
    Accepted {
        /// Its id here.
        id: QueueId<'a>,
        /// The client.
        client: Option<IpAddr>,
        /// Our id, or that of the MTA before (XFORWARD IDENT: `orig_queue_id=`), or the id that
        /// the message had here before it was queued anew or split.
        ident: Option<&'a str>,
        /// Recipients, where the same line has them.
        recipients: Option<u32>,
    },
    /// The Message-ID of a message, without angle brackets.
    MessageId {
        /// Its id here.
        id: QueueId<'a>,
        /// Without angle brackets.
        message_id: &'a str,
    },
    /// A message is in the queue.
    Queued {
        /// Its id here.
        id: QueueId<'a>,
        /// Reverse-path; empty for the null one.
        sender: &'a str,
        /// Octets.
        size: Option<u64>,
        /// Recipients.
        recipients: Option<u32>,
        /// Message-ID where the same line has it, without angle brackets.
        message_id: Option<&'a str>,
        /// The client, where the same line has it.
        client: Option<IpAddr>,
    },
    /// The message was refused while it came in, after it had got an id: it was never in the
    /// queue, and custody stays with the client.
    Refused {
        /// The id that it had.
        id: QueueId<'a>,
        /// Why.
        text: &'a str,
    },
    /// One recipient of a message reached an end or was put off.
    Recipient(Recipient<'a>),
    /// The same happened to every recipient that the message still had; the line names none.
    Rest {
        /// Its id here.
        id: QueueId<'a>,
        /// What became of them.
        disposition: Disposition,
        /// The line's own words.
        text: &'a str,
    },
    /// A policy decided how to treat a message for a recipient. It says nothing of whether the
    /// message left: it is not an end.
    Processed {
        /// Connection or queue id.
        id: QueueId<'a>,
        /// The recipient, as written.
        recipient: &'a str,
        /// What was decided.
        text: &'a str,
    },
    /// A policy rule matched.
    RuleMatched {
        /// Connection or queue id.
        id: QueueId<'a>,
        /// The recipient, as written.
        recipient: &'a str,
        /// Chain.
        chain: &'a str,
        /// Rule.
        rule: &'a str,
    },
    /// A report about a message was made: a message of its own, to the sender or the postmaster.
    Reported {
        /// The id of the message that it speaks of.
        id: QueueId<'a>,
        /// The id of the report.
        report: QueueId<'a>,
    },
    /// The message left this system for good.
    Removed {
        /// Its id here.
        id: QueueId<'a>,
    },
}

/// What became of a message for one recipient, as one line tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipient<'a> {
    /// Queue or connection id.
    pub id: QueueId<'a>,
    /// The recipient's address, without angle brackets.
    pub recipient: &'a str,
    /// Before rewriting (`orig_to=`), without angle brackets.
    pub original: Option<&'a str>,
    /// Message-ID where the same line has it, without angle brackets.
    pub message_id: Option<&'a str>,
    /// What became of it.
    pub disposition: Disposition,
    /// The next host's address.
    pub relay: Option<IpAddr>,
    /// Its port, where the line tells it.
    pub relay_port: Option<u16>,
    /// The next host's name, as written.
    pub relay_name: Option<&'a str>,
    /// The transport, mailer or program, where one is named that is no host.
    pub through: Option<&'a str>,
    /// The reply of the next host, or the reason.
    pub text: &'a str,
    /// The id that the next host gave it, read from its reply (`queued as X`, `OK id=X`,
    /// `X Message accepted for delivery`).
    pub next_id: Option<QueueId<'a>>,
}

/// What became of a message for one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Given to another host, which took it.
    Relayed,
    /// Delivered to a mailbox, file or program.
    Delivered,
    /// Kept for a later try.
    Deferred,
    /// Refused or given up; a report goes to the sender.
    Bounced,
    /// Given up because it is too old.
    Expired,
    /// Deleted by a person or a rule, without a report.
    Deleted,
    /// Stored for collection on the web: no copy leaves.
    Stored,
}

/// Lines are missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Hole<'a> {
    /// When it was noted.
    pub at: Option<Stamp>,
    /// How many lines, where it is said.
    pub lines: Option<u64>,
    /// The notice.
    pub text: &'a str,
}

/// The systems whose logs are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Postfix, through syslog.
    Postfix,
    /// Exim's main log, also through syslog.
    Exim,
    /// Sendmail, through syslog.
    Sendmail,
    /// OpenSMTPD, through syslog.
    Opensmtpd,
    /// Exchange: message tracking and protocol logs.
    Exchange,
    /// The encryption server's Mail log: exported, copied from the console, or through syslog.
    Sems,
    /// Our own log.
    Lockgate,
    /// Nothing but patterns of the configuration.
    Custom,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 8] = [
        Self::Postfix,
        Self::Exim,
        Self::Sendmail,
        Self::Opensmtpd,
        Self::Exchange,
        Self::Sems,
        Self::Lockgate,
        Self::Custom,
    ];

    /// The dialect of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postfix => "postfix",
            Self::Exim => "exim",
            Self::Sendmail => "sendmail",
            Self::Opensmtpd => "opensmtpd",
            Self::Exchange => "exchange",
            Self::Sems => "sems",
            Self::Lockgate => "lockgate",
            Self::Custom => "custom",
        }
    }
}

/// How the lines of one log are read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who wrote the log.
    pub dialect: Dialect,
    /// Only lines of this host are meant.
    #[serde(default)]
    pub host: Option<String>,
    /// Only lines of programs whose names begin so are meant.
    #[serde(default)]
    pub program: Option<String>,
    /// When the patterns are asked.
    #[serde(default)]
    pub patterns: Turn,
    /// Patterns of this site, beside the dialect; the first that matches decides.
    #[serde(default)]
    pub pattern: Vec<Pattern>,
}

/// When the patterns of the configuration are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Turn {
    /// Before the dialect: a pattern wins over it.
    Before,
    /// After it, and only for lines that it does not understand.
    #[default]
    After,
}

/// Reads the lines of one log.
#[derive(Debug)]
pub struct Reader {
    dialect: Dialect,
    host: Option<String>,
    program: Option<String>,
    turn: Turn,
    extra: Custom,
    heading: exchange::Heading,
    /// Room for a line whose octets are not UTF-8.
    mended: String,
}

impl Reader {
    /// A reader of this dialect, without patterns.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            host: None,
            program: None,
            turn: Turn::After,
            extra: Custom::default(),
            heading: exchange::Heading::default(),
            mended: String::new(),
        }
    }

    /// A reader as configured.
    ///
    /// # Errors
    /// When a pattern cannot be used; the error says which and why.
    pub fn from_config(config: &Config) -> Result<Self, PatternError> {
        let extra = Custom::compile(&config.pattern)?;
        let (host, program) = (config.host.clone(), config.program.clone());
        Ok(Self { turn: config.patterns, extra, host, program, ..Self::new(config.dialect) })
    }

    /// The dialect.
    #[must_use]
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The lines that head an Exchange file and name its kind and fields, as far as they were read:
    /// kept with the checkpoint, and read again before reading goes on in the middle of the file.
    pub fn heading(&self) -> impl Iterator<Item = &str> {
        self.heading.lines()
    }

    /// Tells what one line says, through `each`, once or (where a line speaks of several
    /// recipients) more often. The line may end with CR, LF or both.
    ///
    /// Octets that are not UTF-8 are shown as `\xNN`: lossless enough to keep two addresses apart.
    pub fn read(&mut self, line: &[u8], clock: &mut Clock, each: &mut impl FnMut(Line<'_>)) {
        let Self { dialect, host, program, turn, extra, heading, mended } = self;
        let line = line.trim_ascii_end();
        let line = match std::str::from_utf8(line) {
            Ok(line) => line,
            Err(_) => mend(line, mended),
        };
        let line = line.strip_prefix('\u{feff}').unwrap_or(line);
        if line.trim_start().is_empty() {
            each(Line::Quiet(None));
            return;
        }
        if *dialect == Dialect::Exchange {
            let understood = *turn == Turn::Before
                && extra.read(line, &Message::bare(line), clock, each).is_some()
                || heading.read(line, clock, each).is_some()
                || *turn == Turn::After
                    && extra.read(line, &Message::bare(line), clock, each).is_some();
            if !understood {
                each(Line::Unparsed);
            }
            return;
        }
        let message = framed(*dialect, line, clock);
        // A line that names nobody may be anybody's.
        let other = |wanted: &Option<String>, found: Option<&str>, same: fn(&str, &str) -> bool| matches!((wanted, found), (Some(wanted), Some(found)) if !same(found, wanted));
        if other(host, message.host, str::eq_ignore_ascii_case) {
            each(Line::Quiet(message.at));
            return;
        }
        if let Some(hole) = syslog::hole(&message) {
            each(Line::Hole(hole));
            return;
        }
        // A line that is there again says nothing new.
        if syslog::repeats(&message)
            || other(program, message.program, |found, wanted| found.starts_with(wanted))
        {
            each(Line::Quiet(message.at));
            return;
        }
        let understood = *turn == Turn::Before && extra.read(line, &message, clock, each).is_some()
            || said(*dialect, &message, each).is_some()
            || *turn == Turn::After && extra.read(line, &message, clock, each).is_some();
        if !understood {
            each(Line::Unparsed);
        }
    }
}

/// What the text of a line says, in the dialects in which a line says one thing.
enum Says<'a> {
    What(What<'a>),
    Quiet,
}

impl<'a> Says<'a> {
    const fn line(self, message: &Message<'a>) -> Line<'a> {
        match self {
            Self::What(what) => message.event(what),
            Self::Quiet => message.quiet(),
        }
    }
}

/// The queue id that a server named in its reply to the end of mail data, in any of the known wordings.
#[must_use]
pub fn id_in_reply(reply: &str) -> Option<&str> {
    reply::next_id(reply).map(|id| id.0)
}

/// Takes the frame of a line apart: stamp, host, program, text.
fn framed<'a>(dialect: Dialect, line: &'a str, clock: &mut Clock) -> Message<'a> {
    let own = match dialect {
        Dialect::Exim => exim::frame(line, clock),
        Dialect::Sems => sems::frame(line, clock),
        Dialect::Lockgate => lockgate::frame(line, clock),
        _ => None,
    };
    own.or_else(|| syslog::frame(line, clock)).unwrap_or_else(|| Message::bare(line))
}

/// Tells what the text of a line says; `None` when it is not understood.
fn said(dialect: Dialect, message: &Message<'_>, each: &mut impl FnMut(Line<'_>)) -> Option<()> {
    match dialect {
        Dialect::Postfix => postfix::read(message).map(|says| each(says.line(message))),
        Dialect::Exim => exim::read(message, each),
        Dialect::Sendmail => sendmail::read(message, each),
        Dialect::Opensmtpd => opensmtpd::read(message).map(|says| each(says.line(message))),
        Dialect::Sems => sems::read(message).map(|says| each(says.line(message))),
        Dialect::Lockgate => lockgate::read(message, each),
        // Exchange has rows instead of framed text, and is read elsewhere.
        Dialect::Exchange | Dialect::Custom => None,
    }
}

/// Writes a line whose octets are not all UTF-8 with `\xNN` for those that are not.
fn mend<'a>(line: &[u8], room: &'a mut String) -> &'a str {
    use std::fmt::Write as _;

    room.clear();
    for chunk in line.utf8_chunks() {
        room.push_str(chunk.valid());
        for octet in chunk.invalid() {
            // Writing to a String cannot fail.
            write!(room, "\\x{octet:02x}").ok();
        }
    }
    room
}

#[cfg(test)]
mod tests {
    use super::shown::{says, tells};
    use super::*;

    #[test]
    fn dialects_are_known_by_name() {
        for dialect in Dialect::ALL {
            assert_eq!(Dialect::named(dialect.name()), Some(dialect));
            let config = format!("dialect = '{}'", dialect.name());
            let config: Config = toml::from_str(&config).unwrap();
            assert_eq!(Reader::from_config(&config).unwrap().dialect(), dialect);
        }
        assert_eq!(Dialect::named("qmail"), None);
    }

    #[test]
    fn holes_are_seen_in_the_log_of_every_program() {
        let line = "Nov 24 10:00:00 mx rsyslogd: imjournal: 236 messages lost due to rate-limiting";
        for dialect in Dialect::ALL.into_iter().filter(|dialect| *dialect != Dialect::Exchange) {
            assert_eq!(says(dialect, line), "hole of 236", "{dialect:?}");
        }
    }

    #[test]
    fn empty_lines_and_ends_of_lines_say_nothing() {
        for dialect in Dialect::ALL {
            let mut reader = Reader::new(dialect);
            for line in ["", "\r\n", "  \t", "\u{feff}"] {
                assert_eq!(tells(&mut reader, line), "quiet", "{dialect:?} {line:?}");
            }
        }
    }
}
