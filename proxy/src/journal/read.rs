//! Reads the journal's files, also while they are written.
//!
//! Invariants
//! - A [`Cursor`] names the place behind an entry that was read; it stays valid until its file goes.
//! - What is damaged, or gone, is an error that says so, once; reading then goes on with the next file.
//!
//! Not here: when files begin and go (`writer`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::log::{self, End};
use disk::{Disk, File};

use super::entry::{Entry, Gap, Opened, Returned, VERSION, VERSION_OLDEST, Why};

/// Octets read at a time.
const CHUNK: usize = 256 * 1024;

/// Longest record that is read: far above what is written.
const RECORD_MAX: usize = 16 << 20;

/// Octets in which the first entry of a file surely stands.
const HEAD: usize = 1024;

const SUFFIX: &str = ".journal";

/// A place in the journal: behind the entry that was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// Number of the file.
    pub file: u64,
    /// Octets of it that lie before.
    pub offset: u64,
}

impl Cursor {
    /// Before everything that is still there.
    pub const START: Self = Self { file: 0, offset: 0 };
}

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The rest of a file cannot be read; reading goes on with the next.
    #[error("journal file {} is damaged at octet {offset}: what follows in it is missing", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// Files between the cursor and what is still there were removed by age or size; reading goes on with the
    /// oldest that is there.
    #[error("journal files {from} to {to} are gone: what stood in them is missing")]
    Gone {
        /// First.
        from: u64,
        /// Last.
        to: u64,
    },
    /// Another program wrote it, a newer one or one too old.
    #[error(
        "journal file {} has version {version}; this program knows {VERSION_OLDEST} to {VERSION}",
        path.display()
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// A reader: entries one after the other.
pub struct Reader {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// Where the next record begins.
    cursor: Cursor,
    /// Octets of the file from `start` on.
    chunk: Vec<u8>,
    start: u64,
    file: Option<(u64, Box<dyn File>)>,
}

/// Where the next record lies in the chunk, or why there is none.
enum Next {
    Record {
        start: usize,
        length: usize,
    },
    /// No whole record yet.
    NotYet,
    Damaged,
}

impl Reader {
    /// Reads on from `cursor`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, folder: &Path, cursor: Cursor) -> Self {
        let start = cursor.offset;
        Self { disk, folder: folder.to_owned(), cursor, chunk: Vec::new(), start, file: None }
    }

    /// Where it stands.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The next entry; none when there is none yet.
    ///
    /// # Errors
    /// See [`ReadError`]; after `Damaged` and `Gone` the next call goes on behind what is missing.
    pub fn read(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        loop {
            if self.file.is_none() && !self.open()? {
                return Ok(None);
            }
            match self.find()? {
                Next::Record { start, length } => {
                    let path = path_of(&self.folder, self.cursor.file);
                    let offset = self.cursor.offset;
                    self.cursor.offset += (log::RECORD_HEADER + length) as u64;
                    let payload = &self.chunk[start..start + length];
                    // Twice for the borrow checker's sake would cost; the damaged case is rare.
                    if postcard::from_bytes::<Entry<'_>>(payload).is_err() {
                        self.skip_file();
                        return Err(ReadError::Damaged { path, offset });
                    }
                    let entry = postcard::from_bytes(&self.chunk[start..start + length]);
                    if let Ok(Entry::Opened(Opened { version, .. })) = &entry
                        && !(VERSION_OLDEST..=VERSION).contains(version)
                    {
                        return Err(ReadError::Version { path, version: *version });
                    }
                    return Ok(entry.ok());
                }
                Next::NotYet => {
                    // A younger file says that nothing more comes here: what is cut was never whole.
                    if !self.has_next()? {
                        return Ok(None);
                    }
                    // It may have grown before the younger one began.
                    if self.refill()? {
                        continue;
                    }
                    self.skip_file();
                }
                Next::Damaged => {
                    let (path, offset) =
                        (path_of(&self.folder, self.cursor.file), self.cursor.offset);
                    self.skip_file();
                    return Err(ReadError::Damaged { path, offset });
                }
            }
        }
    }

    /// Opens the file of the cursor, or the oldest behind it. False: there is none yet.
    fn open(&mut self) -> Result<bool, ReadError> {
        let Some(number) = self.first_from(self.cursor.file)? else {
            // Every file is of a lower number than the one that was read: the journal was begun anew.
            let from = self.cursor.file;
            if self.cursor.offset > 0 && self.first_from(0)?.is_some() {
                self.cursor = Cursor::START;
                return Err(ReadError::Gone { from, to: from });
            }
            return Ok(false);
        };
        if number != self.cursor.file {
            let from = self.cursor.file;
            self.cursor = Cursor { file: number, offset: 0 };
            // From the very start nobody misses anything.
            if from != 0 {
                return Err(ReadError::Gone { from, to: number - 1 });
            }
        }
        let path = path_of(&self.folder, number);
        let file = match self.disk.open_read_only(&path) {
            Ok(file) => file,
            // It went between the list and here: the next look finds another, or none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.open(),
            Err(source) => return Err(ReadError::Io { path, source }),
        };
        if file.size().map_err(|source| ReadError::Io { path: path.clone(), source })?
            < self.cursor.offset
        {
            // Another file of that number: the one that was read is gone.
            self.cursor = Cursor { file: number, offset: 0 };
            return Err(ReadError::Gone { from: number, to: number });
        }
        self.file = Some((number, file));
        self.chunk.clear();
        self.start = self.cursor.offset;
        Ok(true)
    }

    fn first_from(&self, from: u64) -> Result<Option<u64>, ReadError> {
        let numbers = numbers(&*self.disk, &self.folder)
            .map_err(|source| ReadError::Io { path: self.folder.clone(), source })?;
        Ok(numbers.into_iter().find(|number| *number >= from))
    }

    fn has_next(&self) -> Result<bool, ReadError> {
        Ok(self.first_from(self.cursor.file + 1)?.is_some())
    }

    /// On to the next file.
    fn skip_file(&mut self) {
        self.file = None;
        // Not on to the next that is there: what is gone between is told when that is opened.
        self.cursor = Cursor { file: self.cursor.file + 1, offset: 0 };
    }

    fn find(&mut self) -> Result<Next, ReadError> {
        loop {
            // The cursor never lies before the chunk.
            let at = usize::try_from(self.cursor.offset - self.start).unwrap_or(usize::MAX);
            let rest = self.chunk.get(at..).unwrap_or_default();
            match first_record(rest) {
                First::Record(length) => {
                    return Ok(Next::Record { start: at + log::RECORD_HEADER, length });
                }
                First::Torn if rest.len() > RECORD_MAX => return Ok(Next::Damaged),
                First::Torn => {
                    if !self.refill()? {
                        return Ok(self.at_end());
                    }
                }
                First::Damaged => return Ok(Next::Damaged),
            }
        }
    }

    /// What the rest of the file is that holds no whole record: judged as a whole, for a cut looks like damage from too
    /// near, and damage like a cut.
    fn at_end(&self) -> Next {
        let at = usize::try_from(self.cursor.offset - self.start).unwrap_or(usize::MAX);
        match log::scan(self.chunk.get(at..).unwrap_or_default()).end {
            End::Damaged => Next::Damaged,
            End::Torn | End::Clean => Next::NotYet,
        }
    }

    /// Reads on behind the chunk. False: there is nothing more now.
    fn refill(&mut self) -> Result<bool, ReadError> {
        let at = usize::try_from(self.cursor.offset - self.start).unwrap_or(usize::MAX);
        self.chunk.drain(..at.min(self.chunk.len()));
        self.start = self.cursor.offset;
        let Some((number, file)) = &self.file else { return Ok(false) };
        let had = self.chunk.len();
        self.chunk.resize(had + CHUNK, 0);
        let read = file.read_at(self.start + had as u64, &mut self.chunk[had..]);
        let path = || path_of(&self.folder, *number);
        let read = match read {
            Ok(read) => read,
            Err(source) => {
                let path = path();
                self.chunk.truncate(had);
                return Err(ReadError::Io { path, source });
            }
        };
        self.chunk.truncate(had + read);
        Ok(read > 0)
    }
}

enum First {
    Record(usize),
    Torn,
    Damaged,
}

/// The first record of `bytes`, by the one scanner there is.
fn first_record(bytes: &[u8]) -> First {
    // Only as far as the first record goes, so that a chunk is not scanned again for each.
    let claimed = bytes
        .first_chunk::<4>()
        .map_or(0, |length| u32::from_le_bytes(*length) as usize)
        .saturating_add(log::RECORD_HEADER);
    let scan = log::scan(&bytes[..bytes.len().min(claimed)]);
    match (scan.records.first(), scan.end) {
        (Some(record), _) => First::Record(record.len()),
        (None, End::Damaged) => First::Damaged,
        (None, End::Torn | End::Clean) => First::Torn,
    }
}

/// Where a file is.
pub(super) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}{SUFFIX}"))
}

/// Numbers of the files, rising.
pub(super) fn numbers(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<u64>> {
    let names = disk.list(folder)?;
    let mut numbers: Vec<u64> =
        names.iter().filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The first entry of a file, if it can be read; only its moment and boot are of use then.
pub(super) fn opened(disk: &dyn Disk, path: &Path) -> io::Result<Option<Opened<'static>>> {
    let mut head = vec![0; HEAD];
    let read = disk.open_read_only(path)?.read_at(0, &mut head)?;
    let First::Record(length) = first_record(&head[..read]) else { return Ok(None) };
    let payload = &head[log::RECORD_HEADER..log::RECORD_HEADER + length];
    Ok(match postcard::from_bytes(payload) {
        Ok(Entry::Opened(opened)) => {
            Some(Opened { boot: opened.boot.into_owned().into(), ..opened })
        }
        _ => None,
    })
}

/// What a writer left in its last file.
pub(super) struct Left {
    boot: String,
    /// The latest moment in it, and that of its last entry.
    latest_ns: u64,
    last_ns: u64,
    closed: bool,
    end: End,
    /// Payloads of what was open.
    pub(super) open: BTreeMap<u64, Vec<u8>>,
}

impl Left {
    /// The gap that it leaves to one who begins now.
    pub(super) fn gap(&self, boot: &str, now_ns: u64, margin_ns: u64) -> Option<Gap> {
        let why = if self.end == End::Damaged {
            Why::Damaged
        } else if self.closed {
            return None;
        } else if self.boot == boot && !boot.is_empty() && self.end == End::Clean {
            Why::Killed
        } else {
            Why::SystemDown
        };
        // The clock may have been set back: from the last entry, not from the latest.
        let from_ns = self.last_ns.saturating_sub(margin_ns);
        Some(Gap { from_ns, to_ns: now_ns.max(self.latest_ns), why })
    }
}

/// Reads what a writer left that is gone; none where there are no files. Two whole files are read: a stop may have come
/// while the last one was begun, before all that was open stood in it.
pub(super) fn left_behind(
    disk: &dyn Disk,
    folder: &Path,
    numbers: &[u64],
) -> io::Result<Option<Left>> {
    let mut files = Vec::new();
    let mut whole = 0;
    for number in numbers.iter().rev() {
        let bytes = disk.read(&path_of(folder, *number))?;
        whole += usize::from(matches!(first_record(&bytes), First::Record(_)));
        files.push(bytes);
        if whole == 2 {
            break;
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    let mut left = Left {
        boot: String::new(),
        latest_ns: 0,
        last_ns: 0,
        closed: false,
        end: End::Clean,
        open: BTreeMap::new(),
    };
    for bytes in files.iter().rev() {
        left.take(bytes);
    }
    Ok(Some(left))
}

impl Left {
    /// What the next file adds.
    fn take(&mut self, bytes: &[u8]) {
        let scan = log::scan(bytes);
        self.closed = false;
        // An empty file was begun and got nothing.
        self.end = if bytes.is_empty() { End::Torn } else { scan.end };
        for range in scan.records {
            let payload = &bytes[range];
            self.closed = false;
            let at_ns = match postcard::from_bytes::<Entry<'_>>(payload) {
                Ok(Entry::Opened(opened)) => {
                    self.boot = opened.boot.into_owned();
                    opened.at_ns
                }
                Ok(Entry::Offered(offered)) => {
                    self.open.insert(offered.facts.id, payload.to_vec());
                    offered.at_ns
                }
                Ok(Entry::Ended(ended) | Entry::Returned(Returned { ended, .. })) => {
                    self.open.remove(&ended.id);
                    ended.at_ns
                }
                Ok(Entry::Gap(gap)) => gap.to_ns,
                Ok(Entry::Closed { at_ns }) => {
                    self.closed = true;
                    at_ns
                }
                Err(_) => {
                    self.end = End::Damaged;
                    break;
                }
            };
            self.latest_ns = self.latest_ns.max(at_ns);
            self.last_ns = at_ns;
        }
    }
}
