//! [`Disk`] on the operating system.
//!
//! Invariants
//! - The only file of the workspace that calls fsync, rename and unlink.
//! - What it makes belongs to its owner alone: files 0600, folders 0700.
#![allow(clippy::disallowed_methods, reason = "this is the place that they are allowed in")]

use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use crate::{Disk, File, Guard};

/// A folder of the operating system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The tree under `root`, which must exist before anything is made in it.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the tree is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn place(&self, path: &Path) -> PathBuf {
        // An empty join would add a trailing slash, which is harmless for folders only.
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl Disk for RealDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.place(path))?;
        Ok(Box::new(RealFile { file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).open(self.place(path))?;
        Ok(Box::new(RealFile { file }))
    }

    fn open_read_only(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = OpenOptions::new().read(true).open(self.place(path))?;
        Ok(Box::new(RealFile { file }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.place(folder))? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.place(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.place(from), self.place(to))
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        fs::File::open(self.place(folder))?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.place(path).try_exists()
    }

    fn make_dir(&self, folder: &Path) -> io::Result<()> {
        let place = self.place(folder);
        match DirBuilder::new().mode(0o700).create(&place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && place.is_dir() => Ok(()),
            other => other,
        }
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let facts = rustix::fs::statvfs(self.place(folder))?;
        // What an unprivileged process may use: the reserve of root is not ours to spend.
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Guard>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.place(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealGuard { _locked: file })),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The lock ends when the file is closed, also by a crash.
struct RealGuard {
    _locked: fs::File,
}

impl Guard for RealGuard {}

struct RealFile {
    file: fs::File,
}

impl File for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn set_size(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn leave_cache(&self, offset: u64, length: u64) {
        let Some(length) = NonZeroU64::new(length) else { return };
        // Advice that is not taken changes nothing.
        rustix::fs::fadvise(&self.file, offset, Some(length), Advice::DontNeed).ok();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn disk() -> (tempfile::TempDir, RealDisk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(folder.path());
        (folder, disk)
    }

    #[test]
    fn files_and_folders_belong_to_their_owner_alone() {
        let (folder, disk) = disk();
        disk.make_dir(Path::new("a")).unwrap();
        disk.make_dir(Path::new("a")).unwrap();
        drop(disk.create_new(Path::new("a/b")).unwrap());
        disk.publish(Path::new("a/c"), b"x").unwrap();
        let mode =
            |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("a") & 0o777, 0o700);
        assert_eq!(mode("a/b") & 0o777, 0o600);
        assert_eq!(mode("a/c") & 0o777, 0o600);
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let (_folder, disk) = disk();
        let first = disk.lock(Path::new("lock")).unwrap();
        let refused = disk.lock(Path::new("lock")).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert!(disk.lock(Path::new("lock")).is_ok());
    }

    #[test]
    fn publish_replaces_and_leaves_nothing_beside() {
        let (_folder, disk) = disk();
        disk.publish(Path::new("f"), b"one").unwrap();
        // A temporary file left by a crash is in nobody's way.
        drop(disk.create_new(&crate::temporary_name(Path::new("f"))).unwrap());
        disk.publish(Path::new("f"), b"second").unwrap();
        assert_eq!(disk.read(Path::new("f")).unwrap(), b"second");
        assert_eq!(disk.list(Path::new("")).unwrap(), ["f"]);
    }

    #[test]
    fn copy_aside_copies_what_is_there_of_a_range() {
        let (_folder, disk) = disk();
        let bytes: Vec<u8> = (0..600_000_u32).map(|n| n as u8).collect();
        disk.publish(Path::new("f"), &bytes).unwrap();
        assert_eq!(
            disk.copy_aside(Path::new("f"), 100_000..u64::MAX, Path::new("g")).unwrap(),
            500_000
        );
        assert_eq!(disk.read(Path::new("g")).unwrap(), bytes[100_000..]);
        assert_eq!(disk.copy_aside(Path::new("f"), 10..300_010, Path::new("h")).unwrap(), 300_000);
        assert_eq!(disk.read(Path::new("h")).unwrap(), bytes[10..300_010]);
    }

    #[test]
    fn writes_by_place_and_at_the_end_are_read_back() {
        let (_folder, disk) = disk();
        let mut file = disk.create_new(Path::new("f")).unwrap();
        file.append(b"abc").unwrap();
        file.append(b"def").unwrap();
        file.write_at(1, b"X").unwrap();
        file.sync().unwrap();
        assert_eq!(file.size().unwrap(), 6);
        assert_eq!(disk.read(Path::new("f")).unwrap(), b"aXcdef");
        file.set_size(2).unwrap();
        assert_eq!(disk.read(Path::new("f")).unwrap(), b"aX");
        assert!(disk.create_new(Path::new("f")).is_err());
        assert!(disk.free_bytes(Path::new("")).unwrap() > 0);
    }
}
