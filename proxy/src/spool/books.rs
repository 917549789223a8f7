//! The marks files that are written to, open or to be opened.
//!
//! Invariants
//! - After a failed write a file is closed, and opened anew from the octets that were proven
//!   before: what the failed write left may be on disk or not, and is taken out.
//! - A failure is noted before it can happen, so that a panic finds it noted.
//!
//! Not here: what marks files say (`marks`).

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::Disk;

use super::marks::{self, Book};
use super::seal::Key;
use super::segment::marks_path;

/// Marks files kept open.
const OPEN_MAX: usize = 64;

/// Marks files by segment.
pub(super) struct Books {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    key: Key,
    open: HashMap<u32, Book>,
    /// Files of which a write failed, with the octets that were proven before.
    failed: HashMap<u32, u64>,
}

impl Books {
    pub(super) fn new(disk: Arc<dyn Disk>, directory: &Path, key: Key) -> Self {
        let directory = directory.to_owned();
        Self { disk, directory, key, open: HashMap::new(), failed: HashMap::new() }
    }

    /// Does something with the marks file of a segment; returns the octets it took.
    pub(super) fn with(
        &mut self,
        segment: u32,
        act: impl FnOnce(&mut Book) -> io::Result<()>,
    ) -> Result<u64, (PathBuf, io::Error)> {
        let path = marks_path(&self.directory, segment);
        let mut book = match self.open.remove(&segment) {
            Some(book) => book,
            None => self.open(segment, &path).map_err(|source| (path.clone(), source))?,
        };
        let proven = book.proven();
        self.failed.insert(segment, proven);
        act(&mut book).map_err(|source| (path, source))?;
        self.failed.remove(&segment);
        let taken = book.proven() - proven;
        self.keep(segment, book);
        Ok(taken)
    }

    /// Keeps a book open.
    pub(super) fn keep(&mut self, segment: u32, book: Book) {
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        self.open.insert(segment, book);
    }

    /// The segment is going away.
    pub(super) fn forget(&mut self, segment: u32) {
        self.open.remove(&segment);
        self.failed.remove(&segment);
    }

    /// Trusts no open book any more; each is opened anew when it is needed.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    fn open(&self, segment: u32, path: &Path) -> io::Result<Book> {
        let disk = &*self.disk;
        let mut bytes = match disk.read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody removed it under us: after the next start nothing is certain.
                let bytes = marks::doubtful(segment, &[]);
                disk.publish(path, &bytes)?;
                bytes
            }
            other => other?,
        };
        if let Some(proven) = self.failed.get(&segment) {
            bytes.truncate(usize::try_from(*proven).unwrap_or(usize::MAX));
            disk.publish(path, &bytes)?;
        }
        Book::open(disk, path, segment, &self.key, bytes.len() as u64)
    }
}
