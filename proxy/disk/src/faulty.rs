//! [`Disk`] in memory that dies, fails and forgets on demand: what tests run the spool on.
//!
//! It keeps two pictures: what a reader sees now, and what would be there after a power failure.
//! Syncs copy from the first to the second.
//!
//! Invariants
//! - Every call that could change the disk (also a sync) is one operation; they are counted.
//! - A sync that fails loses what it was to make durable: the pages are clean for the kernel, so
//!   no later sync writes them, and only a reader before the crash still sees them.
//! - A name is durable after a sync of its folder only.
//!
//! Not here: what a test makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Disk, File, Guard, folder_of};

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// What a crash does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// All of it is gone: power failure, nothing was written back in time.
    Lost,
    /// Some of it is there, by chance from this seed: a prefix of the last writes to each file
    /// that grows, any sectors of those over what was there, a prefix of the changes of each
    /// folder.
    Torn(u64),
    /// All of it is there: the process died, the system did not.
    Kept,
}

impl Crash {
    /// One of each, and some chances.
    pub const VARIANTS: [Self; 6] =
        [Self::Lost, Self::Kept, Self::Torn(1), Self::Torn(2), Self::Torn(3), Self::Torn(4)];
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: Vec<Inode>,
    folders: BTreeMap<PathBuf, Folder>,
    operations: u64,
    crash_at: Option<u64>,
    panic_at: Option<u64>,
    failures: BTreeMap<u64, io::ErrorKind>,
    /// Octets that may still be written; none: no bound.
    budget: Option<u64>,
    free_bytes: Option<u64>,
    locks: BTreeSet<PathBuf>,
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, oldest first.
    pending: Vec<Write>,
}

#[derive(Clone)]
enum Write {
    Bytes(Range<usize>, Vec<u8>),
    Size(usize),
}

#[derive(Clone, Default)]
struct Folder {
    now: BTreeMap<String, Item>,
    durable: BTreeMap<String, Item>,
    pending: Vec<Change>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    File(usize),
    Folder,
}

#[derive(Clone)]
enum Change {
    Put(String, Item),
    Remove(String),
    Rename(String, String),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, Item>) {
        match self {
            Self::Put(name, item) => {
                names.insert(name.clone(), *item);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(item) = names.remove(from) {
                    names.insert(to.clone(), item);
                }
            }
        }
    }
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bytes(range, written) => {
                if bytes.len() < range.end {
                    bytes.resize(range.end, 0);
                }
                bytes[range.clone()].copy_from_slice(written);
            }
            Self::Size(size) => bytes.resize(*size, 0),
        }
    }

    /// True for a write over octets that are there in a file of this size.
    fn is_over(&self, size: usize) -> bool {
        matches!(self, Self::Bytes(range, _) if range.start < size)
    }

    /// Applies the sectors that chance wants. The file does not change its size.
    fn tear(&self, bytes: &mut [u8], chance: &mut Chance) {
        let Self::Bytes(range, written) = self else { return };
        let mut start = range.start;
        while start < range.end.min(bytes.len()) {
            let end = (start / SECTOR * SECTOR + SECTOR).min(range.end).min(bytes.len());
            if chance.below(2) == 0 {
                let part = &written[start - range.start..end - range.start];
                bytes[start..end].copy_from_slice(part);
            }
            start = end;
        }
    }
}

impl FaultyDisk {
    /// A disk that dies at its `operation`-th change (from 0): that call and every later one fail.
    #[must_use]
    pub fn crashing_at(operation: u64) -> Self {
        let disk = Self::default();
        disk.crash_at(operation);
        disk
    }

    /// A disk whose `operation`-th change fails with `error`; later ones go well.
    #[must_use]
    pub fn failing_at(operation: u64, error: io::ErrorKind) -> Self {
        let disk = Self::default();
        disk.fail_at(operation, error);
        disk
    }

    /// As [`FaultyDisk::crashing_at`], decided later.
    pub fn crash_at(&self, operation: u64) {
        self.state().crash_at = Some(operation);
    }

    /// As [`FaultyDisk::failing_at`], decided later; may be called for several operations.
    pub fn fail_at(&self, operation: u64, error: io::ErrorKind) {
        self.state().failures.insert(operation, error);
    }

    /// The `operation`-th change panics.
    pub fn panic_at(&self, operation: u64) {
        self.state().panic_at = Some(operation);
    }

    /// From now on only so many octets can be written; then the disk is full.
    pub fn set_budget(&self, bytes: Option<u64>) {
        self.state().budget = bytes;
    }

    /// What [`Disk::free_bytes`] answers from now on.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().free_bytes = Some(bytes);
    }

    /// Changes made so far, also failed ones.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// What is there after a crash: a new disk without faults or locks. This one is as before.
    #[must_use]
    pub fn after_crash(&self, crash: Crash) -> Self {
        let state = self.state();
        let mut chance = Chance(match crash {
            Crash::Torn(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            Crash::Lost | Crash::Kept => 1,
        });
        let files = state.files.iter().map(|inode| inode.after(crash, &mut chance)).collect();
        let mut folders: BTreeMap<PathBuf, Folder> = state
            .folders
            .iter()
            .map(|(path, folder)| (path.clone(), folder.after(crash, &mut chance)))
            .collect();
        // A folder whose own name was lost is gone with all that is in it.
        let named: BTreeMap<PathBuf, bool> = folders
            .keys()
            .map(|path| {
                let mut there = true;
                for place in path.ancestors().filter(|place| !place.as_os_str().is_empty()) {
                    let names = folders.get(folder_of(place)).map(|folder| &folder.now);
                    there &= names.is_some_and(|names| names.contains_key(&name_of(place)));
                }
                (path.clone(), there)
            })
            .collect();
        folders.retain(|path, _| named.get(path).copied().unwrap_or(false));
        let fresh = State { files, folders, ..State::default() };
        Self { state: Arc::new(Mutex::new(fresh)) }
    }

    /// Changes one octet of a file behind everyone's back, durably.
    pub fn flip(&self, path: &Path, offset: usize, mask: u8) {
        let mut state = self.state();
        if let Some(index) = state.find(path) {
            let inode = &mut state.files[index];
            for bytes in [&mut inode.now, &mut inode.durable] {
                if let Some(octet) = bytes.get_mut(offset) {
                    *octet ^= mask;
                }
            }
        }
    }

    /// Cuts a file behind everyone's back, durably.
    pub fn truncate(&self, path: &Path, length: usize) {
        let mut state = self.state();
        if let Some(index) = state.find(path) {
            let inode = &mut state.files[index];
            inode.now.truncate(length);
            inode.durable.truncate(length);
            inode.pending.clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a file whether it is read or written: faults come with the operations.
    fn handle(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let state = self.state();
        state.alive()?;
        let inode = state.find(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Handle { disk: self.clone(), inode }))
    }
}

impl Inode {
    fn after(&self, crash: Crash, chance: &mut Chance) -> Self {
        let bytes = match crash {
            Crash::Lost => self.durable.clone(),
            Crash::Kept => self.now.clone(),
            Crash::Torn(_) => {
                let mut bytes = self.durable.clone();
                if self.pending.iter().any(|write| write.is_over(bytes.len())) {
                    // Over what was there, in any order: each sector is written or not.
                    for write in &self.pending {
                        write.tear(&mut bytes, chance);
                    }
                    return Self { now: bytes.clone(), durable: bytes, pending: Vec::new() };
                }
                let whole = chance.below(self.pending.len() + 1);
                for write in &self.pending[..whole] {
                    write.apply(&mut bytes);
                }
                // The next one is cut anywhere, at times with its file's size already grown.
                if let Some(Write::Bytes(range, written)) = self.pending.get(whole) {
                    let cut = chance.below(written.len() + 1);
                    let before = bytes.len();
                    Write::Bytes(range.start..range.start + cut, written[..cut].to_vec())
                        .apply(&mut bytes);
                    if chance.below(3) == 0 && bytes.len() < range.end {
                        // Sectors are written or not; a new one that was not is zeros.
                        bytes.truncate(before.max(bytes.len() / 512 * 512));
                        bytes.resize(range.end, 0);
                    }
                }
                bytes
            }
        };
        Self { now: bytes.clone(), durable: bytes, pending: Vec::new() }
    }
}

impl Folder {
    fn after(&self, crash: Crash, chance: &mut Chance) -> Self {
        let names = match crash {
            Crash::Lost => self.durable.clone(),
            Crash::Kept => self.now.clone(),
            Crash::Torn(_) => {
                let mut names = self.durable.clone();
                let whole = chance.below(self.pending.len() + 1);
                for change in &self.pending[..whole] {
                    change.apply(&mut names);
                }
                names
            }
        };
        Self { now: names.clone(), durable: names, pending: Vec::new() }
    }
}

impl State {
    fn alive(&self) -> io::Result<()> {
        match self.crash_at {
            Some(at) if self.operations > at => Err(io::Error::other("the disk is dead")),
            _ => Ok(()),
        }
    }

    /// Counts an operation and says whether it takes place.
    fn operate(&mut self) -> io::Result<()> {
        let operation = self.operations;
        self.operations += 1;
        if self.crash_at.is_some_and(|at| operation >= at) {
            return Err(io::Error::other("the disk is dead"));
        }
        assert!(self.panic_at != Some(operation), "the disk was told to panic");
        self.failures.get(&operation).map_or(Ok(()), |kind| Err((*kind).into()))
    }

    fn find(&self, path: &Path) -> Option<usize> {
        match self.folders.get(folder_of(path))?.now.get(&name_of(path))? {
            Item::File(inode) => Some(*inode),
            Item::Folder => None,
        }
    }

    /// A folder; the root is always there.
    fn folder(&mut self, path: &Path) -> io::Result<&mut Folder> {
        if path.as_os_str().is_empty() {
            return Ok(self.folders.entry(PathBuf::new()).or_default());
        }
        self.folders.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, folder: &Path, change: Change) -> io::Result<()> {
        let folder = self.folder(folder)?;
        change.apply(&mut folder.now);
        folder.pending.push(change);
        Ok(())
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A sequence that looks like chance and is the same every time (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

impl Disk for FaultyDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.operate()?;
        if state.folder(folder_of(path))?.now.contains_key(&name_of(path)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.files.len();
        state.files.push(Inode::default());
        state.change(folder_of(path), Change::Put(name_of(path), Item::File(inode)))?;
        Ok(Box::new(Handle { disk: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.handle(path)
    }

    fn open_read_only(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.handle(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.alive()?;
        Ok(state.folder(folder)?.now.keys().cloned().collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.find(path).ok_or(io::ErrorKind::NotFound)?;
        state.change(folder_of(path), Change::Remove(name_of(path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if folder_of(from) != folder_of(to) {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        state.find(from).ok_or(io::ErrorKind::NotFound)?;
        state.change(folder_of(from), Change::Rename(name_of(from), name_of(to)))
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        let done = state.operate();
        let crashed = state.alive().is_err();
        let folder = state.folder(folder)?;
        if done.is_ok() {
            for change in std::mem::take(&mut folder.pending) {
                change.apply(&mut folder.durable);
            }
        } else if !crashed {
            folder.pending.clear();
        }
        done
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.state();
        state.alive()?;
        if path.as_os_str().is_empty() {
            return Ok(true);
        }
        Ok(state
            .folder(folder_of(path))
            .is_ok_and(|folder| folder.now.contains_key(&name_of(path))))
    }

    fn make_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if folder.as_os_str().is_empty() || state.folders.contains_key(folder) {
            return Ok(());
        }
        state.change(folder_of(folder), Change::Put(name_of(folder), Item::Folder))?;
        state.folders.insert(folder.to_owned(), Folder::default());
        Ok(())
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        let state = self.state();
        state.alive()?;
        Ok(state.free_bytes.or(state.budget).unwrap_or(1 << 50))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Guard>> {
        let mut state = self.state();
        state.alive()?;
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Locked { disk: self.clone(), path: path.to_owned() }))
    }
}

struct Locked {
    disk: FaultyDisk,
    path: PathBuf,
}

impl Guard for Locked {}

impl Drop for Locked {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

struct Handle {
    disk: FaultyDisk,
    inode: usize,
}

impl File for Handle {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.state();
        state.alive()?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let rest = state.files[self.inode].now.get(start..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let done = state.operate();
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut written = bytes.len();
        if done.is_err() {
            // A write that fails has often written something.
            written /= 2;
        }
        if let Some(budget) = &mut state.budget {
            written = written.min(usize::try_from(*budget).unwrap_or(usize::MAX));
            *budget -= written as u64;
        }
        let write = Write::Bytes(start..start + written, bytes[..written].to_vec());
        let inode = &mut state.files[self.inode];
        write.apply(&mut inode.now);
        inode.pending.push(write);
        done?;
        if written < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn set_size(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        let size = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        let inode = &mut state.files[self.inode];
        inode.now.resize(size, 0);
        inode.pending.push(Write::Size(size));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        let done = state.operate();
        let crashed = state.alive().is_err();
        let inode = &mut state.files[self.inode];
        if done.is_ok() {
            for write in std::mem::take(&mut inode.pending) {
                write.apply(&mut inode.durable);
            }
        } else if !crashed {
            inode.pending.clear();
        }
        done
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive()?;
        Ok(state.files[self.inode].now.len() as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn write(disk: &FaultyDisk, name: &str, bytes: &[u8]) -> Box<dyn File> {
        let mut file = disk.create_new(Path::new(name)).unwrap();
        file.append(bytes).unwrap();
        file
    }

    #[test]
    fn what_was_not_synced_is_lost_by_content_and_by_name() {
        let disk = FaultyDisk::default();
        write(&disk, "a", b"content").sync().unwrap();
        assert!(!disk.after_crash(Crash::Lost).exists(Path::new("a")).unwrap());
        disk.sync_dir(Path::new("")).unwrap();
        assert_eq!(disk.after_crash(Crash::Lost).read(Path::new("a")).unwrap(), b"content");
        disk.open(Path::new("a")).unwrap().append(b" more").unwrap();
        assert_eq!(disk.after_crash(Crash::Lost).read(Path::new("a")).unwrap(), b"content");
        assert_eq!(disk.after_crash(Crash::Kept).read(Path::new("a")).unwrap(), b"content more");
        disk.remove(Path::new("a")).unwrap();
        assert!(disk.after_crash(Crash::Lost).exists(Path::new("a")).unwrap());
    }

    #[test]
    fn a_failed_sync_loses_its_data_though_later_syncs_succeed() {
        let disk = FaultyDisk::default();
        let mut file = write(&disk, "a", b"lost");
        disk.sync_dir(Path::new("")).unwrap();
        disk.fail_at(disk.operations(), io::ErrorKind::Other);
        assert!(file.sync().is_err());
        file.append(b"kept").unwrap();
        file.sync().unwrap();
        assert_eq!(disk.read(Path::new("a")).unwrap(), b"lostkept");
        assert_eq!(disk.after_crash(Crash::Lost).read(Path::new("a")).unwrap(), b"\0\0\0\0kept");
    }

    #[test]
    fn a_dead_disk_answers_nothing_more() {
        let disk = FaultyDisk::crashing_at(1);
        let mut file = disk.create_new(Path::new("a")).unwrap();
        assert!(file.append(b"x").is_err());
        assert!(file.sync().is_err());
        assert!(disk.list(Path::new("")).is_err());
    }

    #[test]
    fn torn_writes_are_prefixes_of_what_was_written() {
        let disk = FaultyDisk::default();
        let mut file = write(&disk, "a", b"");
        file.sync().unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        let bytes: Vec<u8> = (0..3_000_u32).map(|n| (n % 255) as u8 + 1).collect();
        file.append(&bytes).unwrap();
        let mut lengths = BTreeSet::new();
        for seed in 0..64 {
            let found = disk.after_crash(Crash::Torn(seed)).read(Path::new("a")).unwrap();
            let written = found.iter().take_while(|octet| **octet != 0).count();
            assert_eq!(found[..written], bytes[..written]);
            assert!(found[written..].iter().all(|octet| *octet == 0));
            lengths.insert(written);
        }
        assert!(lengths.len() > 16, "{lengths:?}");
    }

    #[test]
    fn a_full_disk_writes_what_fits_and_says_so() {
        let disk = FaultyDisk::default();
        disk.set_budget(Some(3));
        let mut file = disk.create_new(Path::new("a")).unwrap();
        assert_eq!(file.append(b"12345").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read(Path::new("a")).unwrap(), b"123");
        assert_eq!(disk.free_bytes(Path::new("")).unwrap(), 0);
    }

    #[test]
    fn a_folder_whose_name_was_not_synced_is_gone() {
        let disk = FaultyDisk::default();
        disk.make_dir(Path::new("d")).unwrap();
        write(&disk, "d/a", b"x").sync().unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        assert!(!disk.after_crash(Crash::Lost).exists(Path::new("d/a")).unwrap());
        disk.sync_dir(Path::new("")).unwrap();
        assert!(disk.after_crash(Crash::Lost).exists(Path::new("d/a")).unwrap());
    }
}
