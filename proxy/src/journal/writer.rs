//! Writes the journal's files: one after the other, each used once.
//!
//! Invariants
//! - A file is never continued by another process, nor after a failed write or sync: what comes next goes into a
//!   new one, behind everything that is still open.
//! - What was offered is kept in memory until its end is written, so that no end stands without its offer; how much
//!   is bounded ([`OPEN_OCTETS_MAX`]).
//! - A file goes only when a younger one stands: by age, or because all together take too much.
//! - Nothing is synced under the lock but at the close: whoever writes waits for the system's cache alone.
//!
//! Not here: what an entry says (`entry`), the clock (the caller says what time it is).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use disk::{Disk, File};

use super::entry::{Ended, Entry, Gap, Offered, Opened, Returned, VERSION, Why};
use super::read::{self, Cursor, Reader};
use super::{Config, Stand};
use crate::outcome::Outcome;

/// Octets of ends that wait at most.
const PENDING_MAX: usize = 64 * 1024;

/// Octets of offers and ends kept while the disk takes nothing; above it those that have ended go.
const OPEN_OCTETS_MAX: usize = 16 << 20;

/// Pause before a journal that could not be written is tried again.
const RETRY_NS: u64 = SECOND_NS;

/// Entries are written a little after the moment that they name: a gap begins so much earlier.
const MARGIN_NS: u64 = 10_000_000;

const SECOND_NS: u64 = 1_000_000_000;
const DAY_NS: u64 = 86_400 * SECOND_NS;

/// An offer that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u64);

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

/// What was offered: payloads of the offer, and of its end while that is not written.
struct Open {
    offer: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl Open {
    fn octets(&self) -> usize {
        self.offer.len() + self.end.as_ref().map_or(0, Vec::len)
    }
}

/// Entries that may be missing.
#[derive(Clone, Copy, Debug)]
struct Lost {
    from_ns: u64,
    to_ns: u64,
    entries: u64,
    /// A sync failed.
    unsynced: bool,
}

impl Lost {
    const fn gap(self) -> Gap {
        let why =
            if self.unsynced { Why::Unsynced } else { Why::Unwritten { entries: self.entries } };
        Gap { from_ns: self.from_ns.saturating_sub(MARGIN_NS), to_ns: self.to_ns, why }
    }
}

/// A sync that is due, by handles of its own: writing goes on meanwhile.
pub(super) struct Sync {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// Complete files; one that is gone meanwhile needs none.
    past: Vec<u64>,
    current: Option<(u64, u64)>,
    /// The latest entry that it proves.
    last_ns: u64,
}

impl Sync {
    /// Syncs. Blocking.
    pub(super) fn run(&self) -> io::Result<()> {
        self.disk.sync_dir(&self.folder)?;
        for number in &self.past {
            match self.sync_file(*number) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.current.map_or(Ok(()), |(number, _)| self.sync_file(number))
    }

    fn sync_file(&self, number: u64) -> io::Result<()> {
        self.disk.open(&read::path_of(&self.folder, number))?.sync()
    }
}

/// The writing side.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    config: Config,
    boot: String,
    /// What stands there is known.
    listed: bool,
    past: VecDeque<Past>,
    current: Option<Current>,
    next_number: u64,
    /// Records of what the last writer left, until they are written.
    recovered: Vec<u8>,
    /// Records that wait, how many they are, and whose ends are among them.
    pending: Vec<u8>,
    pending_entries: u64,
    ending: Vec<u64>,
    /// Offers that wait, and how often what waits was written.
    offering: Vec<(u64, Vec<u8>)>,
    flushes: u64,
    /// What was offered and has no end that is written, by id.
    open: BTreeMap<u64, Open>,
    open_octets: usize,
    lost: Option<Lost>,
    retry_ns: u64,
    unwritten: u64,
    /// Complete files that are not known to be synced.
    unsynced: Vec<u64>,
    /// Octets of the current file that are synced, when that was, and the latest entry in them.
    synced_bytes: u64,
    synced_ns: u64,
    proven_ns: u64,
    /// The moment of the last entry.
    last_ns: u64,
    scratch: Vec<u8>,
    closed: bool,
}

impl Writer {
    pub(super) fn open(disk: Arc<dyn Disk>, config: Config, boot: &str, now_ns: u64) -> Self {
        let mut writer = Self {
            disk,
            config,
            boot: boot.to_owned(),
            listed: false,
            past: VecDeque::new(),
            current: None,
            next_number: 1,
            recovered: Vec::new(),
            pending: Vec::new(),
            pending_entries: 0,
            ending: Vec::new(),
            offering: Vec::new(),
            flushes: 0,
            open: BTreeMap::new(),
            open_octets: 0,
            lost: None,
            retry_ns: 0,
            unwritten: 0,
            unsynced: Vec::new(),
            synced_bytes: 0,
            // Due at once: what the last writer left may not be synced.
            synced_ns: 0,
            proven_ns: now_ns,
            last_ns: now_ns,
            scratch: Vec::new(),
            closed: false,
        };
        writer.flush(now_ns);
        writer
    }

    /// Reads what the last writer left: its number, what was open, and how it ended.
    fn recover(&mut self, now_ns: u64) -> io::Result<()> {
        let folder = self.config.directory.clone();
        let numbers = read::numbers(&*self.disk, &folder)?;
        self.past.clear();
        for &number in &numbers {
            let path = read::path_of(&folder, number);
            let bytes = self.disk.open_read_only(&path).and_then(|file| file.size()).unwrap_or(0);
            let opened = read::opened(&*self.disk, &path).ok().flatten();
            self.past.push_back(Past {
                number,
                opened_ns: opened.map(|opened| opened.at_ns),
                bytes,
            });
        }
        self.next_number = numbers.last().map_or(1, |last| last + 1);
        self.unsynced.extend(numbers.iter().rev().take(2));
        self.listed = true;
        match read::left_behind(&*self.disk, &folder, &numbers) {
            Ok(None) => {}
            Ok(Some(left)) => {
                if let Some(gap) = left.gap(&self.boot, now_ns, MARGIN_NS) {
                    encode(&Entry::Gap(gap), &mut self.recovered);
                }
                for (id, offer) in left.open {
                    push(&offer, &mut self.recovered);
                    encode(&Entry::Ended(stopped(id, now_ns)), &mut self.recovered);
                }
            }
            Err(error) => {
                tracing::error!(directory = %folder.display(), %error, "journal: what stands in it cannot be read");
                let gap = Gap { from_ns: 0, to_ns: now_ns, why: Why::Damaged };
                encode(&Entry::Gap(gap), &mut self.recovered);
            }
        }
        Ok(())
    }

    /// Takes an offer, which [`Writer::write_offer`] writes together with those that came meanwhile.
    pub(super) fn offer(&mut self, offered: Offered<'_>) -> Ticket {
        self.reopen();
        let id = offered.facts.id;
        let offer = self.append(&Entry::Offered(offered));
        // A further attempt with the same message: the end of the former waits already.
        self.ending.retain(|ending| *ending != id);
        self.forget(id);
        self.offering.extend(offer.map(|offer| (id, offer)));
        Ticket(self.flushes)
    }

    /// Writes an offer that was taken, unless that was done since.
    pub(super) fn write_offer(&mut self, ticket: Ticket, now_ns: u64) {
        if ticket.0 == self.flushes {
            self.flush(now_ns);
        }
    }

    /// Are several handed over at once, so that one write may do for them?
    pub(super) fn is_shared(&self) -> bool {
        self.open.len() + self.offering.len() > 1
    }

    pub(super) fn ended(&mut self, ended: Ended<'_>) {
        let (id, at_ns) = (ended.id, ended.at_ns);
        self.end((id, at_ns), &Entry::Ended(ended));
    }

    pub(super) fn returned(&mut self, returned: Returned<'_>) {
        let (id, at_ns) = (returned.ended.id, returned.ended.at_ns);
        self.end((id, at_ns), &Entry::Returned(returned));
    }

    fn end(&mut self, (id, at_ns): (u64, u64), entry: &Entry<'_>) {
        self.reopen();
        let end = self.append(entry);
        if let (Some(open), Some(end)) = (self.open.get_mut(&id), end) {
            self.open_octets += end.len();
            open.end = Some(end);
            self.ending.push(id);
        }
        if self.pending.len() >= PENDING_MAX {
            self.flush(at_ns);
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some(open) = self.open.remove(&id) {
            self.open_octets -= open.octets();
        }
    }

    /// Something comes behind the close: it is written all the same, in another file.
    fn reopen(&mut self) {
        if self.closed {
            self.closed = false;
            self.end_current();
        }
    }

    /// Adds an entry to what waits; its payload, where that may be wanted again.
    fn append(&mut self, entry: &Entry<'_>) -> Option<Vec<u8>> {
        let mut payload = std::mem::take(&mut self.scratch);
        payload.clear();
        match postcard::to_extend(entry, payload) {
            Ok(payload) => {
                push(&payload, &mut self.pending);
                self.pending_entries += 1;
                let wanted = match entry {
                    Entry::Offered(_) => true,
                    Entry::Ended(ended) | Entry::Returned(Returned { ended, .. }) => {
                        self.open.contains_key(&ended.id)
                    }
                    Entry::Opened(_) | Entry::Gap(_) | Entry::Closed { .. } => false,
                };
                let kept = wanted.then(|| payload.clone());
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
        self.write_pending(now_ns);
        self.flushes += 1;
        // Only now, so that a file that is begun does not get them twice; also if they were not written.
        for (id, offer) in std::mem::take(&mut self.offering) {
            self.open_octets += offer.len();
            self.open.insert(id, Open { offer, end: None });
        }
    }

    fn write_pending(&mut self, now_ns: u64) {
        if self.closed {
            return;
        }
        self.last_ns = now_ns;
        let full = self
            .current
            .as_ref()
            .is_some_and(|file| file.bytes + self.pending.len() as u64 > self.config.file_bytes);
        if self.current.is_none() || full {
            // The clock may have been set back meanwhile: a pause is never longer than it was meant to be.
            if now_ns < self.retry_ns && self.retry_ns - now_ns <= RETRY_NS {
                self.drop_pending(now_ns);
            } else if let Err(error) = self.begin_file(now_ns) {
                self.failed(&error, now_ns);
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
                self.written();
            }
            Err(error) => self.failed(&error, now_ns),
        }
    }

    /// What waited is written.
    fn written(&mut self) {
        self.pending.clear();
        self.pending_entries = 0;
        for id in std::mem::take(&mut self.ending) {
            self.forget(id);
        }
    }

    /// Nothing more goes into this file; what waits is not written.
    fn failed(&mut self, error: &io::Error, now_ns: u64) {
        if self.lost.is_none() {
            tracing::error!(directory = %self.config.directory.display(), %error, "journal: cannot be written; mail goes on, and a gap stands in it");
        }
        if let Some(current) = &mut self.current {
            // The gap is in memory only, for now. An end that is cut says to whoever comes after a kill that more
            // may be missing than ends; it takes no room. Where even that fails, nothing can be left.
            current.file.set_size(current.bytes + 1).ok();
        }
        self.end_current();
        self.retry_ns = now_ns.saturating_add(RETRY_NS);
        self.drop_pending(now_ns);
    }

    fn drop_pending(&mut self, now_ns: u64) {
        let entries = std::mem::take(&mut self.pending_entries);
        self.pending.clear();
        self.ending.clear();
        self.unwritten += entries;
        let lost = self.lost_at(now_ns);
        lost.entries += entries;
        if self.open_octets > OPEN_OCTETS_MAX {
            self.keep_open_only();
        }
    }

    /// The gap that stands, as one that reaches over `now_ns`.
    fn lost_at(&mut self, now_ns: u64) -> &mut Lost {
        let none = Lost { from_ns: now_ns, to_ns: now_ns, entries: 0, unsynced: false };
        let lost = self.lost.get_or_insert(none);
        // The clock may go either way.
        lost.from_ns = lost.from_ns.min(now_ns);
        lost.to_ns = lost.to_ns.max(now_ns);
        lost
    }

    /// Forgets what has ended.
    fn keep_open_only(&mut self) {
        self.open.retain(|_, open| open.end.is_none());
        self.open_octets = self.open.values().map(Open::octets).sum();
    }

    fn end_current(&mut self) {
        if let Some(current) = self.current.take() {
            let Current { number, opened_ns, bytes, .. } = current;
            self.past.push_back(Past { number, opened_ns: Some(opened_ns), bytes });
            self.unsynced.push(number);
        }
    }

    /// Begins the next file with what the last writer left, the gap if there is one, what is still open, and what
    /// waits.
    fn begin_file(&mut self, now_ns: u64) -> io::Result<()> {
        self.make_folder()?;
        if !self.listed {
            self.recover(now_ns)?;
        }
        let (file, number) = loop {
            let path = read::path_of(&self.config.directory, self.next_number);
            match self.disk.create_new(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.next_number += 1;
                }
                made => break (made?, self.next_number),
            }
        };
        let bytes = self.head(number, now_ns);
        let mut file = file;
        if let Err(error) = file.write_at(0, &bytes) {
            drop(file);
            // Its number is free again, or it stands there and counts.
            let path = read::path_of(&self.config.directory, number);
            if self.disk.remove(&path).is_err() {
                self.past.push_back(Past { number, opened_ns: None, bytes: 0 });
                self.next_number += 1;
            }
            return Err(error);
        }
        self.next_number += 1;
        if self.lost.take().is_some() {
            tracing::warn!(
                number,
                unwritten = self.unwritten,
                "journal: written again, with a gap"
            );
        }
        self.end_current();
        self.current = Some(Current { file, number, opened_ns: now_ns, bytes: bytes.len() as u64 });
        self.written();
        self.keep_open_only();
        self.recovered.clear();
        self.synced_bytes = 0;
        self.retry_ns = 0;
        // Only now: a younger file stands.
        self.make_room(now_ns);
        Ok(())
    }

    /// The octets with which a file begins.
    fn head(&mut self, number: u64, now_ns: u64) -> Vec<u8> {
        let opened = Entry::Opened(Opened {
            version: VERSION,
            file: number,
            at_ns: now_ns,
            boot: self.boot.as_str().into(),
        });
        let mut bytes = Vec::new();
        encode(&opened, &mut bytes);
        bytes.extend_from_slice(&self.recovered);
        if self.lost.is_some() {
            let gap = self.lost_at(now_ns).gap();
            encode(&Entry::Gap(gap), &mut bytes);
        }
        for (id, open) in &self.open {
            push(&open.offer, &mut bytes);
            // Else it is among what waits.
            if let Some(end) = &open.end
                && !self.ending.contains(id)
            {
                push(end, &mut bytes);
            }
        }
        bytes.extend_from_slice(&self.pending);
        bytes
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

    /// Writes what waits and begins a new file where that is due; a sync, where that is.
    pub(super) fn tick(&mut self, now_ns: u64) -> Option<Sync> {
        self.flush(now_ns);
        let day_old = self.current.as_ref().is_some_and(|file| file.opened_ns + DAY_NS < now_ns);
        if day_old && !self.closed {
            // So that files can go by age, however little is written.
            if let Err(error) = self.begin_file(now_ns) {
                self.failed(&error, now_ns);
            }
        }
        let due = now_ns.abs_diff(self.synced_ns) >= self.config.sync_s * SECOND_NS;
        let written = self.current.as_ref().is_some_and(|file| file.bytes > self.synced_bytes);
        if !due || !written && self.unsynced.is_empty() {
            return None;
        }
        self.synced_ns = now_ns;
        Some(self.sync())
    }

    fn sync(&self) -> Sync {
        Sync {
            disk: Arc::clone(&self.disk),
            folder: self.config.directory.clone(),
            past: self.unsynced.clone(),
            current: self.current.as_ref().map(|file| (file.number, file.bytes)),
            last_ns: self.last_ns,
        }
    }

    /// A sync has ended. After one that failed nothing that was written since the last is proven, whatever a later one
    /// says: it counts as not written.
    pub(super) fn synced(&mut self, sync: &Sync, result: &io::Result<()>) {
        match result {
            Ok(()) => {
                let number = self.current.as_ref().map(|file| file.number);
                if let Some((synced, bytes)) = sync.current
                    && Some(synced) == number
                {
                    self.synced_bytes = bytes;
                }
                self.unsynced.retain(|number| !sync.past.contains(number));
                self.proven_ns = sync.last_ns;
            }
            Err(error) => {
                let (from_ns, now_ns) = (self.proven_ns, self.last_ns);
                self.failed(error, now_ns);
                let lost = self.lost_at(from_ns);
                lost.unsynced = true;
                // Said once; what is written from now on is synced by itself.
                self.unsynced.clear();
            }
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

    /// Writes and syncs everything, and says so.
    pub(super) fn close(&mut self, now_ns: u64) {
        if self.closed {
            return;
        }
        // The last chance for a gap: without a pause.
        self.retry_ns = 0;
        self.flush(now_ns);
        let sync = self.sync();
        let result = sync.run();
        self.synced(&sync, &result);
        if self.lost.is_some() {
            self.retry_ns = 0;
        }
        self.append(&Entry::Closed { at_ns: now_ns });
        self.flush(now_ns);
        if let Err(error) = self.sync().run() {
            tracing::error!(%error, "journal: cannot be synced");
        }
        self.closed = true;
    }

    pub(super) fn stand(&self) -> Stand {
        Stand {
            bytes: self.bytes(),
            open: self.open.values().filter(|open| open.end.is_none()).count(),
            unwritten: self.unwritten,
            failing: self.lost.is_some(),
        }
    }
}

/// The end of what was open when the last writer stopped.
fn stopped(id: u64, now_ns: u64) -> Ended<'static> {
    Ended {
        at_ns: now_ns,
        id,
        facts: None,
        outcome: Outcome::Uncertain,
        reply: "lockgate stopped before the reply was known".into(),
        others: Vec::new(),
        size: 0,
        content_sha256: None,
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
