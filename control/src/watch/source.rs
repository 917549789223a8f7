//! Reads the logs into the books: files that are followed, journald, syslog, and files handed in.
//!
//! Invariants
//! - What was read and how far it was read are kept in one transaction: after a crash lines are read again, and
//!   the books bear that.
//! - Whatever interrupts a log begins a new piece of it, so that nobody takes it for whole.
//!
//! Not here: octets and frames (`maillog`), what lines mean (`drain`).

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Log, Source};
use crate::drain::certificate::{LogFile, hex};
use crate::drain::correlate::Role;
use crate::drain::item::Place;
use crate::drain::{Books, Setting};
use crate::maillog::coverage::{Lines as Counted, Missing};
use crate::maillog::feeds::journald::{Journald, Start as JournaldStart};
use crate::maillog::feeds::listen::Listener;
use crate::maillog::feeds::told::{Clock as FeedClock, Origin, Told as FeedTold};
use crate::maillog::files::file::Checkpoint;
use crate::maillog::files::import::{Found, Import, ImportError, Imported};
use crate::maillog::files::lines::LINE_MAX;
use crate::maillog::files::tail::{Options, Start, Tail};
use crate::maillog::files::told::Told;
use crate::maillog::{Clock, Frame, Line, PatternError, Reader};
use crate::moment::Moment;

/// Lines of a feed that wait to be read.
const FEED_LINES_MAX: usize = 10_000;

/// Lines of a file that is handed in which are looked at before it is read.
const LOOKED_AT: usize = 1000;

/// Files of a log that are named in a certificate.
const FILES_MAX: usize = 100;

/// How far a log was read, as it is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Of a file.
    pub file: Option<Checkpoint>,
    /// Of journald.
    pub cursor: Option<String>,
    /// The heading of an Exchange file.
    pub heading: Vec<String>,
    /// The piece that is followed.
    pub piece: Option<u64>,
    /// Files that were read to their end, and files handed in.
    pub finished: Vec<LogFile>,
    /// Names and hashes of files handed in.
    pub imports: BTreeMap<String, String>,
}

/// Reads one log.
pub struct Intake {
    log: Log,
    reader: Reader,
    clock: Clock,
    way: Way,
    /// How far.
    pub progress: Progress,
    importing: Option<Box<Importing>>,
    /// What is wrong with it now.
    pub error: Option<String>,
    /// Something was read since this was last asked.
    pub moved: bool,
    /// Its first place is known and must be kept at once: a start without it would begin at the end.
    pub placed: bool,
}

enum Way {
    /// A followed file; opened at the first poll.
    File(Option<Box<Tail>>),
    Feed(mpsc::Receiver<FeedTold>),
    Import,
}

/// Why a log cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A pattern of the configuration.
    #[error("log {log}: {source}")]
    Pattern {
        /// The log.
        log: String,
        /// Why.
        source: PatternError,
    },
}

/// A file that was handed in and is being read.
struct Importing {
    import: Import,
    name: String,
    /// That of what is followed.
    clock: Clock,
    /// The piece that is followed.
    followed: u64,
    /// Lines that were read before.
    before: Counted,
}

/// A file that was handed in and read to its end.
#[derive(Debug)]
pub struct HandedIn {
    /// Its name.
    pub name: String,
    /// What was in it.
    pub imported: Imported,
    /// Its identity, in hexadecimal.
    pub sha256: String,
    /// It was handed in before; what it says was said again, and changed nothing.
    pub known: bool,
    /// Lines of the log that were read before.
    pub before: Counted,
}

/// Why a file that is handed in is not read.
#[derive(Debug, thiserror::Error)]
pub enum HandInError {
    /// It cannot be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Nothing is in it.
    #[error("{name} is empty: was it exported?")]
    Empty {
        /// Which.
        name: String,
    },
    /// It is another log.
    #[error(
        "{name}: not one of its first {lines} lines is of the dialect {dialect}; is it the log {log}, and is `dialect` \
         right? Nothing of it was read"
    )]
    Strange {
        /// Which.
        name: String,
        /// How many were looked at.
        lines: usize,
        /// The log.
        log: String,
        /// Its dialect.
        dialect: &'static str,
    },
    /// One at a time.
    #[error("another file is being handed in: wait until it was read")]
    Busy,
}

/// An error with what is behind it.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What one line stands in.
struct Lines<'a> {
    file: &'a str,
    offset: u64,
    lines: &'a [u8],
    /// It is of a file that a person handed in.
    handed_in: bool,
}

impl Intake {
    /// Begins to read a log, from where it was left.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn new(
        log: &Log,
        progress: Progress,
        config: &Config,
        stop: &CancellationToken,
    ) -> Result<Self, SourceError> {
        let name = log.plan.name.clone();
        let mut reader = Reader::from_config(&log.reading)
            .map_err(|source| SourceError::Pattern { log: name.clone(), source })?;
        let frame = Frame { zone: log.zone.clone(), around: Timestamp::now() };
        let mut clock = Clock::new(frame);
        for line in &progress.heading {
            reader.read(line.as_bytes(), &mut clock, &mut |_| {});
        }
        let feed_clock =
            || FeedClock::new(|| u64::try_from(Moment::now().0).unwrap_or(0) * 1_000_000);
        let (to, feed) = mpsc::channel(FEED_LINES_MAX);
        let mut error = None;
        let way = match &log.source {
            Source::File { .. } => Way::File(None),
            Source::Import => Way::Import,
            Source::Journald(journald) => {
                let start =
                    progress.cursor.clone().map_or(JournaldStart::Now, JournaldStart::After);
                let journald =
                    Journald::new(journald.clone(), start, to, feed_clock(), stop.clone());
                tokio::spawn(journald.run());
                Way::Feed(feed)
            }
            Source::Syslog(syslog) => {
                // A log that cannot be had is no reason to stop mail.
                match Listener::bind(syslog, &config.data) {
                    Ok(listener) => {
                        let (stop, clock) = (stop.clone(), feed_clock());
                        tokio::spawn(async move {
                            if let Err(error) = listener.run(to, clock, stop).await {
                                tracing::error!(log = name, %error, "the syslog listener ended");
                            }
                        });
                        Way::Feed(feed)
                    }
                    Err(bind) => {
                        let bind = with_sources(&bind);
                        tracing::error!(log = name, error = bind, "a log cannot be read");
                        error = Some(bind);
                        Way::Import
                    }
                }
            }
        };
        Ok(Self {
            log: log.clone(),
            reader,
            clock,
            way,
            progress,
            importing: None,
            error,
            moved: false,
            placed: false,
        })
    }

    /// The log.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.log.plan.name
    }

    /// Begins or goes on with the piece that is followed.
    pub fn begin(&mut self, books: &mut Books, now: Moment) {
        let book = books.logs.entry(self.log.plan.name.clone()).or_default();
        // Without a place to go on from, what was written meanwhile is not known.
        let kept = match self.log.source {
            Source::File { .. } => self.progress.file.is_some(),
            Source::Journald(_) => self.progress.cursor.is_some(),
            Source::Syslog(_) | Source::Import => false,
        };
        match self.progress.piece {
            Some(piece) if kept => book.chains.go_on(piece),
            // Lines that came by the network while nobody listened are gone.
            _ => match self.log.source {
                // A file begins when it is opened.
                Source::Import | Source::File { .. } => {}
                _ => self.progress.piece = Some(book.chains.begin_piece(Some(now))),
            },
        }
    }

    /// Reads what has come, as far as one turn goes. Blocking. Returns whether more is there.
    pub fn poll(&mut self, books: &mut Books, setting: &Setting, now: Moment) -> bool {
        // What is written meanwhile waits where it is.
        if self.importing.is_some() {
            return true;
        }
        let mut way = std::mem::replace(&mut self.way, Way::Import);
        self.clock.set_around(Timestamp::from_millisecond(now.0).unwrap_or_default());
        let more = match &mut way {
            Way::File(tail) => self.poll_file(tail, books, setting, now),
            Way::Feed(feed) => self.poll_feed(feed, books, setting, now),
            Way::Import => false,
        };
        self.way = way;
        self.progress.heading = self.reader.heading().map(str::to_owned).collect();
        more
    }

    fn poll_file(
        &mut self,
        tail: &mut Option<Box<Tail>>,
        books: &mut Books,
        setting: &Setting,
        now: Moment,
    ) -> bool {
        let Source::File { path, history } = self.log.source.clone() else { return false };
        if tail.is_none() {
            let from = if history { Start::Beginning { history: true } } else { Start::Now };
            let options = Options { from, ..Options::default() };
            match Tail::open(path, self.progress.file.clone(), options) {
                Ok(opened) => {
                    *tail = Some(Box::new(opened));
                    if self.progress.file.is_none() {
                        let book = books.logs.entry(self.log.plan.name.clone()).or_default();
                        let from = (!history).then(Moment::now);
                        self.progress.piece = Some(book.chains.begin_piece(from));
                    }
                }
                Err(error) => {
                    self.fault(Some(error.to_string()));
                    return false;
                }
            }
        }
        let Some(tail) = tail.as_mut() else { return false };
        let now_ns = u64::try_from(now.0).unwrap_or(0).saturating_mul(1_000_000);
        let mut finished = Vec::new();
        let polled = tail.poll(now_ns, &mut |told| match told {
            Told::Lines { position, lines } => {
                let file = position.path.display().to_string();
                self.lines(
                    &Lines { file: &file, offset: position.offset, lines, handed_in: false },
                    books,
                    setting,
                    now,
                );
            }
            Told::Lost { why, position, .. } => {
                let why =
                    format!("{} at octet {}: {why}", position.path.display(), position.offset);
                self.lost(books, None, why, now);
            }
            Told::Turned { end, chain } => finished.push(LogFile {
                path: end.path.display().to_string(),
                inode: end.file.inode,
                offset: end.offset,
                hash: hex(&chain),
            }),
        });
        self.placed |= self.progress.file.is_none();
        self.progress.file = Some(tail.checkpoint());
        self.finished(finished);
        let (error, more) = match polled {
            Ok(polled) => {
                let absent = polled.absent.then(|| "the file does not exist (yet)".to_owned());
                (absent, polled.more)
            }
            Err(error) => (Some(error.to_string()), false),
        };
        self.fault(error);
        more
    }

    /// Notes what is wrong, and says it when it is new.
    fn fault(&mut self, error: Option<String>) {
        if let Some(error) = error.as_ref().filter(|error| self.error.as_ref() != Some(error)) {
            tracing::warn!(log = self.log.plan.name, error, "a log cannot be read");
        }
        self.error = error;
    }

    fn finished(&mut self, files: Vec<LogFile>) {
        self.progress.finished.extend(files);
        let more = self.progress.finished.len().saturating_sub(FILES_MAX);
        self.progress.finished.drain(..more);
    }

    fn poll_feed(
        &mut self,
        feed: &mut mpsc::Receiver<FeedTold>,
        books: &mut Books,
        setting: &Setting,
        now: Moment,
    ) -> bool {
        for _ in 0..FEED_LINES_MAX {
            match feed.try_recv() {
                Ok(FeedTold::Line(arrived)) => {
                    let (file, cursor) = match arrived.from {
                        Origin::Journald { cursor } => ("journald".to_owned(), Some(cursor)),
                        Origin::Udp { peer } => (format!("udp:{peer}"), None),
                        Origin::Tcp { peer, tls } => {
                            (format!("{}:{peer}", if tls { "tls" } else { "tcp" }), None)
                        }
                    };
                    let lines =
                        Lines { file: &file, offset: 0, lines: &arrived.line, handed_in: false };
                    self.lines(&lines, books, setting, now);
                    self.placed |= self.progress.cursor.is_none() && cursor.is_some();
                    self.progress.cursor = cursor.or(self.progress.cursor.take());
                    self.error = None;
                }
                Ok(FeedTold::Lost(lost)) => {
                    let why = format!("{:?}: {:?}", lost.source, lost.why);
                    self.lost(books, lost.lines, why, now);
                }
                Ok(FeedTold::Down(down)) => self.error = Some(down.why),
                Err(mpsc::error::TryRecvError::Empty) => return false,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.error = Some("its reader has ended".into());
                    return false;
                }
            }
        }
        true
    }

    fn lines(&mut self, lines: &Lines<'_>, books: &mut Books, setting: &Setting, now: Moment) {
        let live = !lines.handed_in;
        let mut offset = lines.offset;
        self.moved = true;
        for line in lines.lines.split_inclusive(|octet| *octet == b'\n') {
            let place =
                Place::Log { log: self.log.plan.name.clone(), file: lines.file.to_owned(), offset };
            offset += u64::try_from(line.len()).unwrap_or(0);
            books.read(&self.log.plan.name, now, live);
            let Self { log, reader, clock, .. } = self;
            reader.read(line, clock, &mut |said| {
                books.line(&log.plan, &said, (line, &place), setting, now);
            });
        }
    }

    fn lost(&mut self, books: &mut Books, lines: Option<u64>, why: String, now: Moment) {
        tracing::warn!(log = self.log.plan.name, why, "lines of a log may be missing");
        self.moved = true;
        books.missing(&self.log.plan.name, Missing { heard: now, at: None, lines, why });
        let book = books.logs.entry(self.log.plan.name.clone()).or_default();
        self.progress.piece = Some(book.chains.begin_piece(Some(now)));
    }

    /// Begins to read a file that was handed in; [`Intake::import_on`] does the rest. Blocking.
    ///
    /// # Errors
    /// When it cannot be read, or is plainly no such log.
    pub fn begin_import(
        &mut self,
        path: &Path,
        name: &str,
        around: Timestamp,
        books: &mut Books,
    ) -> Result<(), HandInError> {
        if self.importing.is_some() {
            return Err(HandInError::Busy);
        }
        let open = || {
            let file = std::fs::File::open(path).map_err(|source| ImportError::Unreadable {
                name: name.to_owned(),
                octets: 0,
                source,
            })?;
            Import::of(file, name, LINE_MAX)
        };
        let frame = Frame { zone: self.log.zone.clone(), around };
        self.looked_at(name, open()?, frame.clone())?;
        let import = open()?;
        let book = books.logs.entry(self.log.plan.name.clone()).or_default();
        let followed = book.chains.hand_in(true);
        book.chains.begin_piece(None);
        book.coverage.cut(Moment::now(), true);
        let before = book.coverage.total;
        let clock = std::mem::replace(&mut self.clock, Clock::new(frame));
        let name = name.to_owned();
        self.importing = Some(Box::new(Importing { import, name, clock, followed, before }));
        Ok(())
    }

    /// What holds lines of which none can be read is another file: it is refused before it spoils the books.
    fn looked_at(&self, name: &str, mut import: Import, frame: Frame) -> Result<(), HandInError> {
        // It was compiled before.
        let Ok(mut reader) = Reader::from_config(&self.log.reading) else { return Ok(()) };
        let mut clock = Clock::new(frame);
        let (mut lines, mut read) = (0, 0);
        let ended = import.poll(&mut |found| {
            let Found::Lines { lines: some, .. } = found else { return };
            for line in some.split_inclusive(|octet| *octet == b'\n').take(LOOKED_AT - lines) {
                lines += 1;
                reader.read(line, &mut clock, &mut |said| {
                    read += usize::from(matches!(said, Line::Event(_) | Line::Quiet(Some(_))));
                });
            }
        })?;
        if ended.is_some_and(|imported| imported.octets == 0) {
            return Err(HandInError::Empty { name: name.to_owned() });
        }
        if read == 0 {
            let (log, dialect) = (self.log.plan.name.clone(), self.log.plan.dialect.name());
            return Err(HandInError::Strange { name: name.to_owned(), lines, log, dialect });
        }
        Ok(())
    }

    /// Is a file being read that was handed in?
    #[must_use]
    pub const fn is_importing(&self) -> bool {
        self.importing.is_some()
    }

    /// Reads on in the file that was handed in. Blocking. Something when it was read to its end, or cannot be.
    pub fn import_on(
        &mut self,
        books: &mut Books,
        setting: &Setting,
        now: Moment,
    ) -> Option<Result<HandedIn, ImportError>> {
        let mut importing = self.importing.take()?;
        let log = self.log.plan.name.clone();
        let step = importing.import.poll(&mut |found| match found {
            Found::Lines { offset, lines } => {
                self.lines(
                    &Lines { file: &importing.name, offset, lines, handed_in: true },
                    books,
                    setting,
                    now,
                );
            }
            Found::Lost { why, offset, .. } => {
                let why = format!("{} at octet {offset}: {why}", importing.name);
                books.missing(&log, Missing { heard: now, at: None, lines: None, why });
                books.logs.entry(log.clone()).or_default().chains.begin_piece(None);
            }
        });
        // What is over is let go of, so that memory does not follow the length of the file.
        books.tick(setting, now);
        let ended = match step {
            Ok(None) => {
                self.importing = Some(importing);
                return None;
            }
            Ok(Some(imported)) => Ok(imported),
            Err(error) => Err(error),
        };
        let Importing { name, clock, followed, before, .. } = *importing;
        self.clock = clock;
        let book = books.logs.entry(log).or_default();
        book.chains.hand_in(false);
        book.chains.go_on(followed);
        book.coverage.cut(now, false);
        Some(ended.map(|imported| {
            let sha256 = hex(&imported.sha256);
            let known = self.progress.imports.insert(sha256.clone(), name.clone()).is_some();
            if !known {
                self.finished(vec![LogFile {
                    path: name.clone(),
                    inode: 0,
                    offset: imported.octets,
                    hash: hex(&imported.chain),
                }]);
            }
            HandedIn { name, imported, sha256, known, before }
        }))
    }

    /// Files of this log as far as they were read, for a certificate.
    #[must_use]
    pub fn files(&self) -> Vec<LogFile> {
        let mut files = self.progress.finished.clone();
        if let Way::File(Some(tail)) = &self.way
            && let Some((position, chain)) = tail.standing()
        {
            files.push(LogFile {
                path: position.path.display().to_string(),
                inode: position.file.inode,
                offset: position.offset,
                hash: hex(&chain),
            });
        }
        files
    }

    /// The member that writes it, or behind which its host stands.
    #[must_use]
    pub fn of(&self) -> String {
        match &self.log.plan.role {
            Role::Server { member } => member.clone(),
            Role::Next { member, .. } => format!("behind {member}"),
        }
    }

    /// Where its lines come from, in words.
    #[must_use]
    pub fn way(&self) -> String {
        match &self.log.source {
            Source::File { path, .. } => format!("file {}", path.display()),
            Source::Journald(_) => "journald".into(),
            Source::Syslog(_) => "syslog".into(),
            Source::Import => "import".into(),
        }
    }
}
