//! The Mail log of the stand-in: the line shapes that are publicly known, and no others.
//!
//! A genuine log has lines for encrypting and relaying as well, but no sample of one was found
//! (reference, §2.1). So the log says what came in and what policy decided, never that a message
//! left. Where a test wants more it gives the lines itself ([`Extra`]), and they can be read by
//! patterns of the configuration only.
//!
//! Invariants: lines appear in the order of what they tell; a stamp is of that moment, however late
//! the line appears; the file is opened for each line, so that a test may rotate it at any time.
//!
//! Not here: when something is told (`queue`).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::behaviour::Lateness;

/// Process of the lines where none is given.
const PID: u32 = 6517;
/// From one process to the next.
const PID_STEP: u32 = 17;

/// How a Mail log is written.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where lines go.
    pub target: Target,
    /// Zone of the stamps.
    pub zone: TimeZone,
    /// Process that the first lines are of; a restart of the counter takes another.
    pub pid: u32,
    /// Chains and rules that match for each forward-path, in turn.
    pub rules: Vec<(String, String)>,
    /// Lines that no source shows.
    pub extra: Vec<Extra>,
}

/// Where lines go.
#[derive(Clone)]
pub enum Target {
    /// Behind what a file has; it is made if missing.
    File(PathBuf),
    /// To a function, each without its end of line.
    Call(Arc<dyn Fn(&str) + Send + Sync>),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Call(_) => f.debug_tuple("Call").finish_non_exhaustive(),
        }
    }
}

/// A line that no source shows, as a test has it.
///
/// In the text `{smtp}`, `{message_id}`, `{sender}`, `{recipient}`, `{next_hop}` and `{reply}` are
/// filled in; what is not known at that moment is empty.
#[derive(Clone, Debug)]
pub struct Extra {
    /// When it is written.
    pub when: When,
    /// The text behind the frame, such as `{smtp}: recipient {recipient}: delivered to {next_hop}`.
    pub text: String,
}

/// What an [`Extra`] tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// A message was taken.
    Taken,
    /// The next hop took it, for one forward-path.
    Relayed,
    /// The next hop could not be reached or put it off, for one forward-path.
    Deferred,
    /// The next hop refused it for ever, for one forward-path.
    Refused,
    /// It was stored, for one forward-path.
    Stored,
    /// Nothing of the message is inside any more.
    Gone,
}

impl Settings {
    fn to(target: Target) -> Self {
        let rule = |chain: &str, rule: &str| (chain.to_owned(), rule.to_owned());
        Self {
            target,
            zone: TimeZone::UTC,
            pid: PID,
            rules: vec![rule("Default", "Inbound Mail"), rule("Inbound", "Decrypt Message (SMTP)")],
            extra: Vec::new(),
        }
    }

    /// A log in this file, in UTC, without extra lines.
    #[must_use]
    pub fn to_file(path: &Path) -> Self {
        Self::to(Target::File(path.to_owned()))
    }

    /// A log whose lines go to a function, in UTC, without extra lines.
    #[must_use]
    pub fn to_call(call: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self::to(Target::Call(Arc::new(call)))
    }
}

/// The connection a message came over, as the log names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `SMTP-00001`.
    pub name: String,
    /// The process of that connection.
    pub pid: u32,
}

/// Numbers connections, as the log and the replies name them.
#[derive(Debug)]
pub(super) struct Connections {
    state: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    pid: u32,
    /// Connections so far, over all processes.
    made: u64,
    /// Of these, before the present process.
    former: u64,
    /// New numbers of connections that have outlived their process.
    renamed: HashMap<u64, u64>,
}

impl Connections {
    pub(super) fn new(settings: Option<&Settings>) -> Self {
        let pid = settings.map_or(PID, |settings| settings.pid);
        let numbers = Numbers { pid, made: 0, former: 0, renamed: HashMap::new() };
        Self { state: Mutex::new(numbers) }
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection that was just made.
    pub(super) fn made(&self) -> u64 {
        let mut numbers = self.lock();
        numbers.made += 1;
        numbers.made - 1
    }

    /// The name of a connection. One of a former process gets a number of the present one: a real
    /// restart would have ended it.
    pub(super) fn origin(&self, connection: u64) -> Origin {
        let mut numbers = self.lock();
        let number = if connection >= numbers.former {
            connection
        } else if let Some(renamed) = numbers.renamed.get(&connection) {
            *renamed
        } else {
            let new = numbers.made;
            numbers.made += 1;
            numbers.renamed.insert(connection, new);
            new
        };
        Origin { name: format!("SMTP-{:05}", number - numbers.former), pid: numbers.pid }
    }

    /// Begins anew at 0 in another process.
    pub(super) fn restart(&self) {
        let mut numbers = self.lock();
        numbers.pid += PID_STEP;
        numbers.former = numbers.made;
        numbers.renamed.clear();
    }
}

/// What a line may tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts<'a> {
    pub(super) message_id: &'a str,
    pub(super) sender: &'a str,
    pub(super) recipient: &'a str,
    pub(super) next_hop: &'a str,
    pub(super) reply: &'a str,
}

/// A Mail log that is being written.
#[derive(Debug)]
pub(super) struct MailLog {
    settings: Settings,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    /// Lines that are late, each with the count of messages when it was due.
    late: VecDeque<(u64, String)>,
    messages: u64,
    stopped: bool,
}

/// The moment of a line, and when it appears.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: Timestamp,
    pub(super) lateness: Lateness,
}

impl MailLog {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, pages: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `message <id> from sender (1 recipient):` The plural is a conclusion, the rest was seen.
    pub(super) fn message(&self, moment: Moment, origin: &Origin, facts: Facts<'_>, count: usize) {
        self.lock().messages += 1;
        let plural = if count == 1 { "" } else { "s" };
        let Facts { message_id, sender, .. } = facts;
        let text = format!(
            "{}: message <{message_id}> from {sender} ({count} recipient{plural}):",
            origin.name
        );
        self.line(moment, origin, &text);
        self.extra(When::Taken, moment, origin, facts);
    }

    /// Which rules matched for a forward-path.
    pub(super) fn rules(&self, moment: Moment, origin: &Origin, recipient: &str) {
        for (chain, rule) in &self.settings.rules {
            let text = format!(
                "{}: recipient {recipient}: policy rule match: chain: \"{chain}\", rule: \"{rule}\"",
                origin.name
            );
            self.line(moment, origin, &text);
        }
    }

    /// What was decided for a forward-path: `place` is its number and how many there are.
    pub(super) fn decided(
        &self,
        moment: Moment,
        origin: &Origin,
        (number, count): (usize, usize),
        recipient: &str,
        text: &str,
    ) {
        let name = &origin.name;
        let text = format!("{name}: recipient {number}/{count} ({recipient}): {text}");
        self.line(moment, origin, &text);
    }

    /// The lines that a test has for this.
    pub(super) fn extra(&self, when: When, moment: Moment, origin: &Origin, facts: Facts<'_>) {
        for extra in self.settings.extra.iter().filter(|extra| extra.when == when) {
            let text = filled(&extra.text, &origin.name, facts);
            self.line(moment, origin, &text);
        }
    }

    fn line(&self, moment: Moment, origin: &Origin, text: &str) {
        let at = moment.at.to_zoned(self.settings.zone.clone());
        let stamp = at.strftime("%Y/%m/%d %H:%M:%S %:z");
        let line = format!("{stamp}  NOTICE pgp/messaging[{}]:       {text}", origin.pid);
        let mut pages = self.lock();
        if pages.stopped {
            return;
        }
        let messages = pages.messages;
        pages.late.push_back((messages, line));
        match moment.lateness {
            Lateness::Prompt => self.write(&mut pages, u64::MAX),
            Lateness::Messages(later) => {
                if let Some(due) = messages.checked_sub(later) {
                    self.write(&mut pages, due);
                }
            }
            Lateness::UntilFlushed => {}
        }
    }

    /// Writes what was due up to this message.
    fn write(&self, pages: &mut Pages, due: u64) {
        while pages.late.front().is_some_and(|(message, _)| *message <= due) {
            let Some((_, line)) = pages.late.pop_front() else {
                return;
            };
            match &self.settings.target {
                Target::Call(call) => call(&line),
                Target::File(path) => {
                    let file = OpenOptions::new().create(true).append(true).open(path);
                    let written = file.and_then(|mut file| file.write_all(&with_end(&line)));
                    if let Err(error) = written {
                        tracing::warn!(path = %path.display(), %error, "a line of the Mail log is lost");
                    }
                }
            }
        }
    }

    /// Writes everything that is late.
    pub(super) fn flush(&self) {
        self.write(&mut self.lock(), u64::MAX);
    }

    /// What happens from now on is not logged; what is late stays so.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
    }

    /// Logs again.
    pub(super) fn resume(&self) {
        self.lock().stopped = false;
    }
}

fn with_end(line: &str) -> Vec<u8> {
    let mut octets = line.as_bytes().to_vec();
    octets.push(b'\n');
    octets
}

/// The template with its places filled in, in one go: what is filled in is not looked at again.
fn filled(template: &str, smtp: &str, facts: Facts<'_>) -> String {
    let places = [
        ("{smtp}", smtp),
        ("{message_id}", facts.message_id),
        ("{sender}", facts.sender),
        ("{recipient}", facts.recipient),
        ("{next_hop}", facts.next_hop),
        ("{reply}", facts.reply),
    ];
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, place) = rest.split_at(at);
        text.push_str(before);
        let (value, length) = places
            .iter()
            .find(|(name, _)| place.starts_with(name))
            .map_or(("{", 1), |(name, value)| (*value, name.len()));
        text.push_str(value);
        rest = &place[length..];
    }
    text + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::maillog::{Clock, Config, Dialect, Frame, Line, Reader, What};

    fn log(change: impl FnOnce(&mut Settings)) -> (MailLog, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&lines);
        let mut settings =
            Settings::to_call(move |line| copy.lock().unwrap().push(line.to_owned()));
        change(&mut settings);
        (MailLog::new(settings), lines)
    }

    fn moment(lateness: Lateness) -> Moment {
        Moment { at: "2014-04-23T16:56:57Z".parse().unwrap(), lateness }
    }

    fn origin() -> Origin {
        Origin { name: "SMTP-00001".to_owned(), pid: PID }
    }

    fn facts() -> Facts<'static> {
        Facts { message_id: "1@a", sender: "a@b", recipient: "c@d", ..Facts::default() }
    }

    /// What kind of event a line is to the reader of such logs.
    fn read(line: &str) -> String {
        let mut clock = Clock::new(Frame {
            zone: TimeZone::UTC,
            around: "2014-04-23T12:00:00Z".parse().unwrap(),
        });
        let mut said = String::new();
        Reader::new(Dialect::Sems).read(line.as_bytes(), &mut clock, &mut |line| {
            said = match line {
                Line::Event(event) => match event.what {
                    What::Queued { .. } => "queued",
                    What::RuleMatched { .. } => "rule",
                    What::Processed { .. } => "processed",
                    What::Recipient(_) => "recipient",
                    _ => "other",
                },
                Line::Unparsed => "unparsed",
                _ => "quiet",
            }
            .to_owned();
        });
        said
    }

    #[test]
    fn lines_are_written_as_the_genuine_ones_are_and_read_as_such() {
        let (log, lines) = log(|settings| {
            settings.zone = TimeZone::fixed(jiff::tz::offset(1));
        });
        let now = moment(Lateness::Prompt);
        log.message(now, &origin(), facts(), 1);
        log.rules(now, &origin(), "c@d");
        log.decided(now, &origin(), (1, 1), "c@d", "passing through unmodified [0x21b2578]");
        let bounced = "unmanaged domain blocked: bouncing message from a@b";
        log.decided(now, &origin(), (1, 1), "c@d", bounced);
        let frame = "2014/04/23 17:56:57 +01:00  NOTICE pgp/messaging[6517]:       SMTP-00001: ";
        let expected = [
            ("message <1@a> from a@b (1 recipient):", "queued"),
            (
                "recipient c@d: policy rule match: chain: \"Default\", rule: \"Inbound Mail\"",
                "rule",
            ),
            (
                "recipient c@d: policy rule match: chain: \"Inbound\", rule: \"Decrypt Message (SMTP)\"",
                "rule",
            ),
            ("recipient 1/1 (c@d): passing through unmodified [0x21b2578]", "processed"),
            (
                "recipient 1/1 (c@d): unmanaged domain blocked: bouncing message from a@b",
                "recipient",
            ),
        ];
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), expected.len());
        for (line, (text, kind)) in lines.iter().zip(expected) {
            assert_eq!(*line, format!("{frame}{text}"));
            assert_eq!(read(line), kind, "{line}");
        }
    }

    #[test]
    fn an_extra_line_is_reached_by_patterns_of_the_configuration_alone() {
        let (log, lines) = log(|settings| {
            let text = "{smtp}: recipient {recipient}: delivered to {next_hop} {other}".to_owned();
            settings.extra.push(Extra { when: When::Relayed, text });
        });
        let facts = Facts { next_hop: "192.0.2.1:25", recipient: "{reply}@d", ..facts() };
        log.extra(When::Stored, moment(Lateness::Prompt), &origin(), facts);
        log.extra(When::Relayed, moment(Lateness::Prompt), &origin(), facts);
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with(
            ":       SMTP-00001: recipient {reply}@d: delivered to 192.0.2.1:25 {other}"
        ));
        assert_eq!(read(&lines[0]), "unparsed");

        let config: Config = toml::from_str(
            r#"
            dialect = "sems"
            [[pattern]]
            name = "delivered"
            regex = '(?<id>SMTP-\d+): recipient (?<recipient>.*): delivered to (?<reply>.*)$'
            what = "relayed"
            "#,
        )
        .unwrap();
        let around = "2014-04-23T12:00:00Z".parse().unwrap();
        let mut clock = Clock::new(Frame { zone: TimeZone::UTC, around });
        let mut found = None;
        Reader::from_config(&config).unwrap().read(lines[0].as_bytes(), &mut clock, &mut |line| {
            if let Line::Event(event) = line
                && let What::Recipient(recipient) = event.what
            {
                found = Some((recipient.id.0.to_owned(), recipient.recipient.to_owned()));
            }
        });
        assert_eq!(found, Some(("SMTP-00001".to_owned(), "{reply}@d".to_owned())));
    }

    #[test]
    fn late_lines_appear_after_further_messages_or_when_flushed_and_keep_their_stamp() {
        let (log, lines) = log(|settings| settings.rules.clear());
        let count = || lines.lock().unwrap().len();
        for after in [0, 0, 1, 2] {
            log.message(moment(Lateness::Messages(2)), &origin(), facts(), 1);
            assert_eq!(count(), after);
        }
        log.message(moment(Lateness::UntilFlushed), &origin(), facts(), 1);
        assert_eq!(count(), 2);
        log.flush();
        assert_eq!(count(), 5);
        let late =
            Moment { at: "2014-04-23T17:00:00Z".parse().unwrap(), ..moment(Lateness::Prompt) };
        log.message(late, &origin(), facts(), 1);
        assert_eq!(count(), 6);
        assert!(lines.lock().unwrap()[4].starts_with("2014/04/23 16:56:57 +00:00"));
    }

    #[test]
    fn what_happens_while_the_log_is_stopped_is_never_told() {
        let (log, lines) = log(|settings| settings.rules.clear());
        log.message(moment(Lateness::UntilFlushed), &origin(), facts(), 1);
        log.stop();
        log.message(moment(Lateness::Prompt), &origin(), facts(), 2);
        log.flush();
        log.resume();
        log.message(moment(Lateness::Prompt), &origin(), facts(), 3);
        let lines = lines.lock().unwrap();
        let counts: Vec<&str> = lines.iter().filter_map(|line| line.split('(').nth(1)).collect();
        assert_eq!(counts, ["1 recipient):", "3 recipients):"]);
    }

    #[test]
    fn a_file_may_be_moved_away_between_two_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mail.log");
        let mut settings = Settings::to_file(&path);
        settings.rules.clear();
        let log = MailLog::new(settings);
        log.message(moment(Lateness::Prompt), &origin(), facts(), 1);
        let old = folder.path().join("mail.log.1");
        #[expect(clippy::disallowed_methods, reason = "rotates as an administrator does")]
        std::fs::rename(&path, &old).unwrap();
        log.message(moment(Lateness::Prompt), &origin(), facts(), 1);
        for path in [path, old] {
            let text = std::fs::read_to_string(path).unwrap();
            assert_eq!((text.lines().count(), text.ends_with(":\n")), (1, true));
        }
    }

    #[test]
    fn connections_are_numbered_anew_by_each_process() {
        let connections = Connections::new(None);
        let (first, second) = (connections.made(), connections.made());
        let name = |connection| {
            let origin = connections.origin(connection);
            (origin.name, origin.pid)
        };
        assert_eq!(name(first), ("SMTP-00000".to_owned(), PID));
        assert_eq!(name(second), ("SMTP-00001".to_owned(), PID));
        connections.restart();
        let third = connections.made();
        assert_eq!(name(second), ("SMTP-00001".to_owned(), PID + PID_STEP));
        assert_eq!(name(third), ("SMTP-00000".to_owned(), PID + PID_STEP));
        assert_eq!(name(second).0, "SMTP-00001", "it keeps its new number");
        assert_eq!(name(100_000 + first).0, "SMTP-99998");
    }
}
