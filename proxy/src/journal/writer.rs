//! Writes the journal's files: one after the other, each used once.
//!
//! Invariants
//! - A file is never continued by another process, nor after a failed write: what comes next goes into a new
//!   one, behind everything that is still open.
//! - A file goes only when a younger one stands: by age, or because all together take too much.
//!
//! Not here: what an entry says (`entry`), the clock (the caller says what time it is).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use disk::{Disk, File};

use super::entry::{Ended, Entry, Gap, Offered, Opened, Outcome, VERSION, Why};
use super::read::{self, Cursor, Reader};
use super::{Config, Stand};

/// Octets of ends that wait at most.
const PENDING_MAX: usize = 64 * 1024;

/// Pause before a journal that could not be written is tried again.
const RETRY_NS: u64 = 1_000_000_000;

const SECOND_NS: u64 = 1_000_000_000;
const DAY_NS: u64 = 86_400 * SECOND_NS;

/// A file that is complete.
#[derive(Clone, Copy, Debug)]
struct Past {
    number: u64,
    /// None where its head cannot be read.
    opened_ns: Option<u64>,
    bytes: u64,
}

/// The file that is written.
struct Current {
    file: Box<dyn File>,
    number: u64,
    opened_ns: u64,
    bytes: u64,
}

/// Entries that could not be written.
#[derive(Clone, Copy, Debug)]
struct Lost {
    from_ns: u64,
    entries: u64,
    why: Why,
}

/// A sync that is due, of a file of its own handle: writing goes on meanwhile.
pub(super) struct Sync {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    number: u64,
    bytes: u64,
}

/// How far a file is synced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Synced {
    number: u64,
    bytes: u64,
}

impl Sync {
    /// Syncs. Blocking.
    pub(super) fn run(self) -> Option<Synced> {
        let synced = self.disk.open(&self.path).and_then(|mut file| file.sync());
        match synced {
            Ok(()) => Some(Synced { number: self.number, bytes: self.bytes }),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "journal: cannot be synced");
                None
            }
        }
    }
}

/// The writing side.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    config: Config,
    boot: String,
    past: VecDeque<Past>,
    current: Option<Current>,
    next_number: u64,
    /// Records that wait, and how many they are.
    pending: Vec<u8>,
    pending_entries: u64,
    /// Records of what the last writer left, until they are written.
    recovered: Vec<u8>,
    /// Payload of what was offered and has no end yet, by id.
    open: BTreeMap<u64, Vec<u8>>,
    lost: Option<Lost>,
    retry_ns: u64,
    unwritten: u64,
    /// Octets of the current file that are synced, and when.
    synced_bytes: u64,
    synced_ns: u64,
    /// The latest moment that an entry named.
    latest_ns: u64,
    scratch: Vec<u8>,
    closed: bool,
}

impl Writer {
    pub(super) fn open(disk: Arc<dyn Disk>, config: Config, boot: &str, now_ns: u64) -> Self {
        let mut writer = Self {
            disk,
            config,
            boot: boot.to_owned(),
            past: VecDeque::new(),
            current: None,
            next_number: 1,
            pending: Vec::new(),
            pending_entries: 0,
            recovered: Vec::new(),
            open: BTreeMap::new(),
            lost: None,
            retry_ns: 0,
            unwritten: 0,
            synced_bytes: 0,
            synced_ns: now_ns,
            latest_ns: now_ns,
            scratch: Vec::new(),
            closed: false,
        };
        if let Err(error) = writer.recover(now_ns) {
            // What stands there is unknown, so everything before now may be missing.
            writer.failed(&error, now_ns, 0);
            writer.lost = Some(Lost { from_ns: 0, entries: 0, why: Why::Damaged });
            writer.retry_ns = 0;
        }
        writer.recovered = std::mem::take(&mut writer.pending);
        writer.pending_entries = 0;
        writer.flush(now_ns);
        writer
    }

    /// Reads what the last writer left: its number, what was open, and how it ended.
    fn recover(&mut self, now_ns: u64) -> io::Result<()> {
        let folder = self.config.directory.clone();
        self.make_folder()?;
        for number in read::numbers(&*self.disk, &folder)? {
            self.next_number = number + 1;
            let path = read::path_of(&folder, number);
            let bytes = self.disk.open_read_only(&path)?.size()?;
            let opened_ns = read::opened(&*self.disk, &path)?.map(|opened| opened.at_ns);
            self.past.push_back(Past { number, opened_ns, bytes });
        }
        let numbers: Vec<u64> = self.past.iter().map(|file| file.number).collect();
        let Some(left) = read::left_behind(&*self.disk, &folder, &numbers)? else {
            return Ok(());
        };
        self.latest_ns = self.latest_ns.max(left.latest_ns);
        if let Some(gap) = left.gap(&self.boot, now_ns) {
            self.append(&Entry::Gap(gap));
        }
        for (id, payload) in left.open {
            push(&payload, &mut self.pending);
            self.pending_entries += 1;
            self.append(&Entry::Ended(Ended {
                at_ns: now_ns,
                id,
                facts: None,
                outcome: Outcome::Uncertain,
                reply: "lockgate stopped before the reply was known".into(),
                others: Vec::new(),
                size: 0,
                content_sha256: None,
            }));
        }
        Ok(())
    }

    pub(super) fn offered(&mut self, offered: Offered<'_>) {
        let (id, at_ns) = (offered.facts.id, offered.at_ns);
        let payload = self.append(&Entry::Offered(offered));
        if let Some(payload) = payload {
            self.open.insert(id, payload);
        }
        self.flush(at_ns);
    }

    pub(super) fn ended(&mut self, ended: Ended<'_>) {
        let at_ns = ended.at_ns;
        self.open.remove(&ended.id);
        self.append(&Entry::Ended(ended));
        if self.pending.len() >= PENDING_MAX {
            self.flush(at_ns);
        }
    }

    /// Adds an entry to what waits; its payload if it is an offer.
    fn append(&mut self, entry: &Entry<'_>) -> Option<Vec<u8>> {
        let mut payload = std::mem::take(&mut self.scratch);
        payload.clear();
        match postcard::to_extend(entry, payload) {
            Ok(payload) => {
                push(&payload, &mut self.pending);
                self.pending_entries += 1;
                let kept = matches!(entry, Entry::Offered(_)).then(|| payload.clone());
                self.scratch = payload;
                kept
            }
            Err(error) => {
                // A value that cannot be written down does not exist among these types.
                tracing::error!(%error, "journal: an entry cannot be encoded");
                None
            }
        }
    }

    /// Writes what waits.
    fn flush(&mut self, now_ns: u64) {
        self.latest_ns = self.latest_ns.max(now_ns);
        if self.closed {
            return;
        }
        let full = self
            .current
            .as_ref()
            .is_some_and(|file| file.bytes + self.pending.len() as u64 > self.config.file_bytes);
        if self.current.is_none() || full {
            // The clock may have been set back meanwhile: a pause is never longer than it was meant to be.
            if now_ns < self.retry_ns && self.retry_ns - now_ns <= RETRY_NS {
                self.drop_pending(now_ns);
                return;
            }
            if let Err(error) = self.begin_file(now_ns) {
                self.failed(&error, now_ns, RETRY_NS);
            }
            return;
        }
        if self.pending.is_empty() {
            return;
        }
        let Some(current) = &mut self.current else { return };
        match current.file.write_at(current.bytes, &self.pending) {
            Ok(()) => {
                current.bytes += self.pending.len() as u64;
                self.pending.clear();
                self.pending_entries = 0;
            }
            Err(error) => self.failed(&error, now_ns, RETRY_NS),
        }
    }

    /// Nothing more goes into this file; what waits is lost.
    fn failed(&mut self, error: &io::Error, now_ns: u64, retry_ns: u64) {
        if self.lost.is_none() {
            tracing::error!(directory = %self.config.directory.display(), %error, "journal: cannot be written; mail goes on, and a gap stands in it");
        }
        if let Some(current) = &mut self.current {
            // The gap is in memory only, for now. An end that is cut says to whoever comes after a kill that more
            // may be missing than ends; it takes no room. Where even that fails, nothing can be left.
            current.file.set_size(current.bytes + 1).ok();
        }
        self.end_current();
        self.retry_ns = now_ns.saturating_add(retry_ns);
        self.drop_pending(now_ns);
    }

    fn drop_pending(&mut self, now_ns: u64) {
        let entries = std::mem::take(&mut self.pending_entries);
        self.pending.clear();
        self.unwritten += entries;
        let lost = self.lost.get_or_insert(Lost {
            from_ns: now_ns,
            entries: 0,
            why: Why::Unwritten { entries: 0 },
        });
        lost.entries += entries;
    }

    fn end_current(&mut self) {
        if let Some(current) = self.current.take() {
            let Current { number, opened_ns, bytes, .. } = current;
            self.past.push_back(Past { number, opened_ns: Some(opened_ns), bytes });
        }
    }

    /// Begins the next file with what is still open, the gap if there is one, and what waits.
    fn begin_file(&mut self, now_ns: u64) -> io::Result<()> {
        let folder = self.config.directory.clone();
        self.make_folder()?;
        let number = self.next_number;
        let opened = Entry::Opened(Opened {
            version: VERSION,
            file: number,
            at_ns: now_ns,
            boot: self.boot.as_str().into(),
        });
        let mut bytes = Vec::new();
        encode(&opened, &mut bytes);
        bytes.extend_from_slice(&self.recovered);
        if let Some(lost) = self.lost {
            let why = match lost.why {
                Why::Unwritten { .. } => Why::Unwritten { entries: lost.entries },
                why => why,
            };
            encode(
                &Entry::Gap(Gap { from_ns: lost.from_ns, to_ns: now_ns.max(lost.from_ns), why }),
                &mut bytes,
            );
        }
        for payload in self.open.values() {
            push(payload, &mut bytes);
        }
        bytes.extend_from_slice(&self.pending);
        let path = read::path_of(&folder, number);
        // The name is used up, whatever comes of it.
        self.next_number += 1;
        let mut file = self.disk.create_new(&path)?;
        file.write_at(0, &bytes)?;
        self.disk.sync_dir(&folder)?;
        if self.lost.take().is_some() {
            tracing::warn!(path = %path.display(), unwritten = self.unwritten, "journal: written again, with a gap");
        }
        let before = self.current.take();
        self.current = Some(Current { file, number, opened_ns: now_ns, bytes: bytes.len() as u64 });
        if let Some(Current { number, opened_ns, bytes, mut file }) = before {
            self.past.push_back(Past { number, opened_ns: Some(opened_ns), bytes });
            // Its last octets may not be synced yet.
            if let Err(error) = file.sync() {
                tracing::error!(%error, "journal: a full file cannot be synced");
            }
        }
        self.pending.clear();
        self.pending_entries = 0;
        self.recovered.clear();
        self.synced_bytes = 0;
        self.retry_ns = 0;
        // Only now: a younger file stands.
        self.make_room(now_ns);
        Ok(())
    }

    fn make_folder(&self) -> io::Result<()> {
        let folder = &self.config.directory;
        if !self.disk.exists(folder)? {
            self.disk.make_dir(folder)?;
            self.disk.sync_dir(disk::folder_of(folder))?;
        }
        Ok(())
    }

    /// Removes files by age, and the oldest while all take too much. What cannot be removed stays: the journal goes on.
    fn make_room(&mut self, now_ns: u64) {
        let keep_ns = u64::from(self.config.keep_days) * DAY_NS;
        while let Some(oldest) = self.past.front().copied() {
            // Nothing in it is younger than the beginning of a later one.
            let later = self.past.iter().skip(1).find_map(|file| file.opened_ns);
            let later = later.or(self.current.as_ref().map(|file| file.opened_ns));
            let old = later.is_some_and(|at| at.saturating_add(keep_ns) < now_ns);
            let too_much = self.bytes() + self.config.file_bytes > self.config.bytes_max;
            if !old && !too_much {
                return;
            }
            let path = read::path_of(&self.config.directory, oldest.number);
            match self.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(path = %path.display(), %error, "journal: an old file cannot be removed");
                    return;
                }
                _ => self.past.pop_front(),
            };
        }
    }

    fn bytes(&self) -> u64 {
        let past: u64 = self.past.iter().map(|file| file.bytes).sum();
        past + self.current.as_ref().map_or(0, |file| file.bytes)
    }

    pub(super) fn tick(&mut self, now_ns: u64) -> Option<Sync> {
        self.flush(now_ns);
        let day_old = self.current.as_ref().is_some_and(|file| file.opened_ns + DAY_NS < now_ns);
        if day_old && !self.closed {
            // So that files can go by age, however little is written.
            if let Err(error) = self.begin_file(now_ns) {
                self.failed(&error, now_ns, RETRY_NS);
            }
        }
        let current = self.current.as_ref()?;
        let due = now_ns.abs_diff(self.synced_ns) >= self.config.sync_s * SECOND_NS;
        if !due || current.bytes == self.synced_bytes {
            return None;
        }
        self.synced_ns = now_ns;
        Some(Sync {
            disk: Arc::clone(&self.disk),
            path: read::path_of(&self.config.directory, current.number),
            number: current.number,
            bytes: current.bytes,
        })
    }

    pub(super) fn synced(&mut self, synced: Option<Synced>) {
        let number = self.current.as_ref().map(|file| file.number);
        if let Some(synced) = synced.filter(|synced| Some(synced.number) == number) {
            self.synced_bytes = synced.bytes;
        }
    }

    pub(super) fn reader(&self, cursor: Cursor) -> Reader {
        Reader::new(Arc::clone(&self.disk), &self.config.directory, cursor)
    }

    pub(super) fn position(&mut self, now_ns: u64) -> Cursor {
        self.flush(now_ns);
        match &self.current {
            Some(current) => Cursor { file: current.number, offset: current.bytes },
            None => Cursor { file: self.next_number, offset: 0 },
        }
    }

    pub(super) fn close(&mut self, now_ns: u64) {
        if self.closed {
            return;
        }
        // The last chance for a gap: without a pause.
        self.retry_ns = 0;
        self.flush(now_ns);
        self.append(&Entry::Closed { at_ns: now_ns });
        self.flush(now_ns);
        if let Some(current) = &mut self.current
            && let Err(error) = current.file.sync()
        {
            tracing::error!(%error, "journal: cannot be synced");
        }
        self.closed = true;
    }

    pub(super) fn stand(&self) -> Stand {
        Stand {
            bytes: self.bytes(),
            open: self.open.len(),
            unwritten: self.unwritten,
            failing: self.lost.is_some(),
        }
    }
}

fn push(payload: &[u8], records: &mut Vec<u8>) {
    disk::log::encode(payload, records);
}

fn encode(entry: &Entry<'_>, records: &mut Vec<u8>) {
    // See `append`: nothing among these types cannot be encoded.
    if let Ok(payload) = postcard::to_extend(entry, Vec::new()) {
        push(&payload, records);
    }
}
