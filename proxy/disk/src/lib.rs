//! Bytes that survive: append, sync, publish, lock.
//!
//! [`Disk`] is a folder tree as the rest of lockgate sees it; [`RealDisk`] is the operating
//! system's, [`FaultyDisk`] its twin in memory that dies, fails and forgets on demand.
//! [`log`] and [`snapshot`] are the two shapes of small durable files built on it.
//!
//! Invariants
//! - Every path is relative to the root that the `Disk` owns.
//! - `fsync`, `rename` and `unlink` are called in `real` and nowhere else in the workspace.
//! - A name is durable only after [`Disk::sync_dir`] of its folder, bytes only after
//!   [`File::sync`]; whoever promises anything calls both.
//! - After a failed sync nothing written before it is proven, whatever a later sync says: the
//!   kernel may have dropped the pages.
//!
//! Not here: what the bytes mean.
#![forbid(unsafe_code)]

mod faulty;
pub mod log;
mod real;
pub mod snapshot;

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use faulty::{Crash, FaultyDisk};
pub use real::RealDisk;

/// Octets copied at a time by [`Disk::copy_aside`].
const COPY_BYTES: usize = 256 * 1024;

/// A lock on a [`Disk`], given back when dropped.
pub trait Guard: Send + Sync {}

/// An open file. Reads name their place; so do writes, because a file that is written by place
/// can be prepared in advance.
pub trait File: Send + Sync {
    /// Reads at `offset` into `buffer`; fewer octets than asked means the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. On an error any part of them may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes all of `bytes` at the end of the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.size()?;
        self.write_at(end, bytes)
    }

    /// Cuts (or extends with zeros) the file to `length` octets.
    fn set_size(&mut self, length: u64) -> io::Result<()>;

    /// Makes everything written so far durable (`fdatasync`).
    fn sync(&mut self) -> io::Result<()>;

    /// Octets in the file.
    fn size(&self) -> io::Result<u64>;

    /// Says that `length` octets at `offset`, which were synced, will not be read soon: the system may
    /// use their memory for something else. Advice, no more.
    fn leave_cache(&self, _offset: u64, _length: u64) {}

    /// Reads exactly `buffer.len()` octets at `offset`.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let place = offset.saturating_add(done as u64);
            match self.read_at(place, &mut buffer[done..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }
}

/// A folder tree that keeps bytes.
pub trait Disk: Send + Sync {
    /// Makes a file that must not exist yet, readable by its owner only (0600).
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Opens an existing file for reading alone.
    fn open_read_only(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Names (without folder) of what is in `folder`, sorted.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Renames a file over `to`, whether that exists or not.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in `folder` durable.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;

    /// True if something is at `path`.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes a folder of mode 0700 unless it exists; its parent must.
    fn make_dir(&self, folder: &Path) -> io::Result<()>;

    /// Octets that may still be written to the file system of `folder`.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;

    /// Locks `path` (made if needed) against every other process and every other open in this
    /// one. `WouldBlock` if someone has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Guard>>;

    /// The whole of a small file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open_read_only(path)?;
        let size = usize::try_from(file.size()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; size];
        file.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Replaces a small file as a whole: after a crash the old bytes are there or the new, never
    /// a mixture. Durable when it returns.
    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = temporary_name(path);
        if self.exists(&temporary)? {
            self.remove(&temporary)?;
        }
        let mut file = self.create_new(&temporary)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        drop(file);
        self.rename(&temporary, path)?;
        self.sync_dir(folder_of(path))
    }

    /// Copies a range of `from`, as far as it is there, to a new file `to`; durable when it
    /// returns. Returns the octets copied.
    fn copy_aside(&self, from: &Path, range: Range<u64>, to: &Path) -> io::Result<u64> {
        let source = self.open_read_only(from)?;
        let temporary = temporary_name(to);
        if self.exists(&temporary)? {
            self.remove(&temporary)?;
        }
        let mut target = self.create_new(&temporary)?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut copied = 0;
        loop {
            let left = range.end.saturating_sub(range.start.saturating_add(copied));
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = source.read_at(range.start + copied, &mut buffer[..most])?;
            if read == 0 {
                break;
            }
            target.write_at(copied, &buffer[..read])?;
            copied += read as u64;
        }
        target.sync()?;
        drop(target);
        self.rename(&temporary, to)?;
        self.sync_dir(folder_of(to))?;
        Ok(copied)
    }
}

/// The folder that holds `path`, empty for the root.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new(""))
}

/// True for a name that [`Disk::publish`] or [`Disk::copy_aside`] may leave behind in a crash:
/// nothing was promised about it and it may be removed.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY)
}

const TEMPORARY: &str = ".new~";

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_else(|| OsStr::new("")).to_owned();
    name.push(TEMPORARY);
    path.with_file_name(name)
}
