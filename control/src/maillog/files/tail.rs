//! One log, followed for years: through rotation, compression, truncation and restarts.
//!
//! The log is a sequence of files, oldest first: its history and the followed file. A [`Tail`] reads
//! one of them, or waits for the one behind that which it has finished. Files are told apart by their
//! content ([`Mark`]); names only say their order.
//!
//! Invariants
//! - Every line is told once and in order; where that is not certain, [`Told::Lost`] is.
//! - A [`Checkpoint`] taken between two polls tells exactly the lines behind it, however old it is,
//!   as long as the files are there.
//! - A file is finished only when it is not at the followed path any more, another stands behind it,
//!   and nothing was written to it for a while.
//! - A poll never waits: neither for the file nor for a clock.
//!
//! Not here: when to poll, where checkpoints are kept, what a line says.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::maillog::files::file::{Checkpoint, Known, Mark, Position};
use crate::maillog::files::folder::{Files, Listing, locate};
use crate::maillog::files::lines::LINE_MAX;
use crate::maillog::files::reading::Reading;
pub use crate::maillog::files::source::TailError;
use crate::maillog::files::source::{Packing, Source, is_broken, stat};
use crate::maillog::files::told::{Lost, Told};

/// Octets read at a time.
const READ_OCTETS: usize = 256 * 1024;

/// How long a file that counts as finished is still looked at.
const LATE_NS: u64 = 600_000_000_000;

/// How to follow a log.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to begin without a checkpoint.
    pub from: Start,
    /// Longest line, without its LF; the rest of a longer one is not told.
    pub line_max: usize,
    /// Most octets of one poll, to the end of the read that reaches them.
    pub poll_octets_max: u64,
    /// How long a file that was rotated away must be quiet before it counts as finished: its writer
    /// goes on with it until it is told to open the new one.
    pub rotate_grace_ns: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            from: Start::Now,
            line_max: LINE_MAX,
            poll_octets_max: 8 << 20,
            rotate_grace_ns: 10_000_000_000,
        }
    }
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what is written from now on. The file as it is now is read once, for its chain.
    Now,
    /// With the first octet.
    Beginning {
        /// Of the oldest rotated file; else of the followed one.
        history: bool,
    },
}

/// What a poll did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// There is, or may be, more to read at once.
    pub more: bool,
    /// Octets that were read.
    pub octets: u64,
    /// The followed file is not there (yet).
    pub absent: bool,
}

/// See the head of this file.
pub struct Tail {
    path: PathBuf,
    options: Options,
    state: State,
    /// The file before the one that is read or waited for.
    before: Option<Mark>,
    /// The same, open, and until when a writer may still add to it.
    former: Option<(Box<Reading>, u64)>,
    buffer: Vec<u8>,
}

enum State {
    /// The file behind `before` is next, as soon as it holds an octet.
    Next,
    /// A file that was read so far is to be found again.
    Find { known: Known, unless: Lost },
    /// A file is open.
    Reading(Box<Reading>),
}

/// What to do after a step.
enum Step {
    Again,
    /// Nothing more now.
    Rest,
    /// Nothing more now, and the followed file is not there.
    Absent,
    /// The folder is changing.
    Changing,
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Tail {
    /// Follows the log at `path`, from a checkpoint if there is one.
    ///
    /// # Errors
    /// Only without a checkpoint, if the files as they are now cannot be read.
    pub fn open(
        path: impl Into<PathBuf>,
        checkpoint: Option<Checkpoint>,
        options: Options,
    ) -> Result<Self, TailError> {
        let path = path.into();
        let kept = checkpoint.map(|Checkpoint { reading, before, .. }| (reading, before));
        let (state, before) = match kept {
            Some((Some(known), before)) => (State::Find { known, unless: Lost::Gone }, before),
            Some((None, before)) => (State::Next, before),
            None => begin(&path, &options)?,
        };
        Ok(Self { path, options, state, before, former: None, buffer: vec![0; READ_OCTETS] })
    }

    /// How far was read: what to keep after a poll, with what it told.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let reading = match &self.state {
            State::Next => None,
            State::Find { known, .. } => Some(*known),
            State::Reading(reading) => Some(reading.known()),
        };
        Checkpoint { path: self.path.clone(), reading, before: self.before }
    }

    /// The file that is being read, how far, and its chain up to there.
    #[must_use]
    pub fn standing(&self) -> Option<(Position, [u8; 32])> {
        match &self.state {
            State::Reading(reading) => Some((reading.position().clone(), reading.chain_value())),
            State::Next | State::Find { .. } => None,
        }
    }

    /// Tells what has come. `now_ns` is of any clock that does not go backwards.
    ///
    /// # Errors
    /// If the followed file, or one that must be read before it, cannot be read. What was told stands.
    pub fn poll(
        &mut self,
        now_ns: u64,
        each: &mut dyn FnMut(Told<'_>),
    ) -> Result<Polled, TailError> {
        let mut polled = Polled::default();
        self.read_former(now_ns, each);
        let result = self.steps(now_ns, &mut polled, each);
        if let State::Reading(reading) = &mut self.state {
            reading.tell_skipped(each);
        }
        result.map(|()| polled)
    }

    /// A writer that was told late of the new file adds to the old one, though that counted as finished: these lines are out
    /// of order, and better than none.
    fn read_former(&mut self, now_ns: u64, each: &mut dyn FnMut(Told<'_>)) {
        let Some((reading, until_ns)) = &mut self.former else { return };
        let mut room = self.options.poll_octets_max;
        while room > 0
            && let Ok(octets @ 1..) = reading.read(&mut self.buffer)
        {
            reading.take(&self.buffer[..octets], each);
            room = room.saturating_sub(octets as u64);
        }
        if now_ns >= *until_ns {
            self.former = None;
        }
    }

    fn steps(
        &mut self,
        now_ns: u64,
        polled: &mut Polled,
        each: &mut dyn FnMut(Told<'_>),
    ) -> Result<(), TailError> {
        self.look_back()?;
        loop {
            let step = match &self.state {
                State::Next => self.next(each)?,
                State::Find { .. } => self.find(each)?,
                State::Reading(_) => self.read(now_ns, polled, each)?,
            };
            match step {
                Step::Again if polled.octets < self.options.poll_octets_max => continue,
                Step::Again | Step::Changing => polled.more = true,
                Step::Rest => {}
                Step::Absent => polled.absent = true,
            }
            return Ok(());
        }
    }

    /// Sees whether the open file still holds what was read of it.
    fn look_back(&mut self) -> Result<(), TailError> {
        let State::Reading(reading) = &self.state else { return Ok(()) };
        let unchanged = reading.is_unchanged();
        if !unchanged.map_err(|source| self.unreadable(source))? {
            self.state = State::Find { known: reading.known(), unless: Lost::Truncated };
        }
        Ok(())
    }

    /// Opens the file behind `before`.
    fn next(&mut self, each: &mut dyn FnMut(Told<'_>)) -> Result<Step, TailError> {
        let Listing::Files(files) = Files::list(&self.path)? else { return Ok(Step::Changing) };
        let first = match &self.before {
            None => 0,
            Some(before) => match locate(before, files.history())? {
                Some(index) => index + 1,
                None if files.followed => return self.lose_before(&files, each),
                None => return Ok(Step::Absent),
            },
        };
        for (index, entry) in files.entries.iter().enumerate().skip(first) {
            let Some(source) = Source::open(&entry.path)? else { return Ok(Step::Changing) };
            if source.id != entry.id {
                return Ok(Step::Changing);
            }
            if source.packing == Packing::Other {
                each(Told::Lost { why: Lost::Compressed, position: &start(&source), octets: None });
                self.before = Some(mark(&source)?);
                return Ok(Step::Again);
            }
            let octets = source.first(2).map_err(|error| unreadable(&source, error))?;
            if octets.is_empty() || is_copy(&source, index, &files)? {
                continue;
            }
            self.begin(source, &octets)?;
            return Ok(Step::Again);
        }
        Ok(if files.followed { Step::Rest } else { Step::Absent })
    }

    fn begin(&mut self, source: Source, octets: &[u8]) -> Result<(), TailError> {
        refuse_utf16(&source.path, octets)?;
        let path = source.path.clone();
        let reading = Reading::begin(source, self.options.line_max);
        let reading = reading.map_err(|error| TailError::unreadable(&path, error))?;
        self.state = State::Reading(Box::new(reading));
        Ok(())
    }

    /// The file before is gone: all that is left is newer, or was never of use.
    fn lose_before(
        &mut self,
        files: &Files,
        each: &mut dyn FnMut(Told<'_>),
    ) -> Result<Step, TailError> {
        // What cannot be read cannot be known again: what is older than that was read, or is lost.
        let mut before = None;
        for entry in files.history() {
            let Some(source) = Source::open(&entry.path)? else { return Ok(Step::Changing) };
            if source.packing == Packing::Other {
                before = Some(mark(&source)?);
            }
        }
        if let Some(gone) = self.before.map(|mark| self.place(&mark)) {
            each(Told::Lost { why: Lost::Gone, position: &gone, octets: None });
        }
        self.before = before;
        Ok(Step::Again)
    }

    /// Finds the file that was read so far, and goes on with it.
    fn find(&mut self, each: &mut dyn FnMut(Told<'_>)) -> Result<Step, TailError> {
        let State::Find { known, unless } = &self.state else { return Ok(Step::Again) };
        let Listing::Files(files) = Files::list(&self.path)? else { return Ok(Step::Changing) };
        if let Some(index) = locate(&known.mark, &files.entries)? {
            let path = &files.entries[index].path;
            let Some(source) = Source::open(path)? else { return Ok(Step::Changing) };
            let reading = Reading::resume(source, known, self.options.line_max);
            if let Some(reading) = reading.map_err(|error| TailError::unreadable(path, error))? {
                self.state = State::Reading(Box::new(reading));
                return Ok(Step::Again);
            }
        }
        if !files.followed {
            return Ok(Step::Absent);
        }
        let position = self.place(&known.mark);
        each(Told::Lost { why: *unless, position: &position, octets: None });
        self.state = State::Next;
        Ok(Step::Again)
    }

    /// Reads on in the open file.
    fn read(
        &mut self,
        now_ns: u64,
        polled: &mut Polled,
        each: &mut dyn FnMut(Told<'_>),
    ) -> Result<Step, TailError> {
        let at_path = stat(&self.path)?;
        let State::Reading(reading) = &mut self.state else { return Ok(Step::Again) };
        match reading.read(&mut self.buffer) {
            Ok(0) if at_path == Some(reading.file()) => {
                reading.quiet_since_ns = None;
                Ok(Step::Rest)
            }
            Ok(0) => self.rotated(now_ns, each),
            Ok(octets) => {
                polled.octets += octets as u64;
                reading.quiet_since_ns = None;
                reading.take(&self.buffer[..octets], each);
                Ok(Step::Again)
            }
            Err(error) if is_broken(&error) && !reading.is_plain() => {
                reading.tell_skipped(each);
                let position = reading.position();
                each(Told::Lost { why: Lost::BrokenGz, position, octets: None });
                self.before = Some(reading.mark());
                self.state = State::Next;
                Ok(Step::Again)
            }
            Err(error) => Err(TailError::unreadable(&reading.position().path, error)),
        }
    }

    /// The end of a file that is not at the followed path: finishes it when it is quiet and another
    /// is behind it.
    fn rotated(&mut self, now_ns: u64, each: &mut dyn FnMut(Told<'_>)) -> Result<Step, TailError> {
        let Listing::Files(files) = Files::list(&self.path)? else { return Ok(Step::Changing) };
        let State::Reading(reading) = &mut self.state else { return Ok(Step::Again) };
        let index = locate(&reading.mark(), &files.entries)?;
        let behind =
            index.map_or(usize::from(files.followed), |index| files.entries.len() - index - 1);
        if behind == 0 {
            return Ok(if files.followed { Step::Rest } else { Step::Absent });
        }
        // Who writes to an older one would have missed a whole rotation.
        let since = *reading.quiet_since_ns.get_or_insert(now_ns);
        let quiet = now_ns.saturating_sub(since) >= self.options.rotate_grace_ns;
        if reading.is_plain() && behind == 1 && !quiet {
            return Ok(if files.followed { Step::Rest } else { Step::Absent });
        }
        reading.finish(each);
        if index.is_none() {
            let position = reading.position();
            each(Told::Lost { why: Lost::Gone, position, octets: None });
        } else {
            self.before = Some(reading.mark());
        }
        each(Told::Turned { end: reading.position(), chain: reading.chain_value() });
        let late = reading.is_plain() && index.is_some();
        if let State::Reading(reading) = std::mem::replace(&mut self.state, State::Next)
            && late
        {
            self.former = Some((reading, now_ns.saturating_add(LATE_NS)));
        }
        Ok(Step::Again)
    }

    fn unreadable(&self, source: io::Error) -> TailError {
        TailError::unreadable(&self.path, source)
    }

    fn place(&self, mark: &Mark) -> Position {
        Position { path: self.path.clone(), file: mark.file, offset: mark.offset }
    }
}

/// Where to begin without a checkpoint.
fn begin(path: &Path, options: &Options) -> Result<(State, Option<Mark>), TailError> {
    if options.from == (Start::Beginning { history: true }) {
        return Ok((State::Next, None));
    }
    // The folder may change while it is read, but not for ever.
    let files = loop {
        if let Listing::Files(files) = Files::list(path)? {
            break files;
        }
    };
    let mut before = None;
    for entry in files.history().iter().rev() {
        let Some(source) = Source::open(&entry.path)? else { continue };
        before = Some(mark(&source)?).filter(|mark| mark.fingerprint.octets > 0);
        if before.is_some() {
            break;
        }
    }
    if options.from != Start::Now || !files.followed {
        return Ok((State::Next, before));
    }
    let Some(source) = Source::open(path)? else { return Ok((State::Next, before)) };
    let octets = source.first(2).map_err(|error| unreadable(&source, error))?;
    if octets.is_empty() {
        return Ok((State::Next, before));
    }
    refuse_utf16(path, &octets)?;
    let reading = Reading::begin_at_end(source, options.line_max);
    let reading = reading.map_err(|error| TailError::unreadable(path, error))?;
    Ok((State::Reading(Box::new(reading)), before))
}

/// True if the file is a copy of the followed one, which is about to be emptied (`copytruncate`).
fn is_copy(source: &Source, index: usize, files: &Files) -> Result<bool, TailError> {
    let Some(followed) = files.entries.last().filter(|_| files.followed) else { return Ok(false) };
    if files.is_followed(index) || source.packing != Packing::Plain {
        return Ok(false);
    }
    let mark = mark(source)?;
    match Source::open(&followed.path)? {
        Some(followed) => followed.is(&mark).map_err(|error| unreadable(&followed, error)),
        None => Ok(false),
    }
}

fn refuse_utf16(path: &Path, octets: &[u8]) -> Result<(), TailError> {
    match crate::maillog::files::utf16::Utf16::of(octets) {
        Some(_) => Err(TailError::Utf16 { path: path.into() }),
        None => Ok(()),
    }
}

fn mark(source: &Source) -> Result<Mark, TailError> {
    source.mark().map_err(|error| unreadable(source, error))
}

fn start(source: &Source) -> Position {
    Position { path: source.path.clone(), file: source.id, offset: 0 }
}

fn unreadable(source: &Source, error: io::Error) -> TailError {
    TailError::unreadable(&source.path, error)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
