//! The files of a configuration, read within bounds.
//!
//! A folder may be a copy from another host. What main.cf names below `/etc/postfix` is then looked for
//! in the copy alone, never on this host: its tables are not ours.
//!
//! Not here: what is in them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Octets of a file that are read; a longer file is refused.
const OCTETS_MAX: u64 = 32 << 20;

/// Where Postfix has its configuration on most systems.
const USUAL: &str = "/etc/postfix";

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system does not give it.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is too long.
    #[error("{} has more than {OCTETS_MAX} octets", path.display())]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// It is no text.
    #[error("{} is not written in UTF-8", path.display())]
    Text {
        /// The file.
        path: PathBuf,
    },
}

/// Gives the files of a configuration.
pub trait Files {
    /// The text of a file, by the path that the configuration names.
    ///
    /// # Errors
    /// Why there is none.
    fn text(&self, path: &Path) -> Result<String, FileError>;

    /// When a file was written; none where that is not known or there is no such file.
    fn written(&self, path: &Path) -> Option<SystemTime>;
}

/// A folder with `main.cf` and `master.cf` in it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// This folder.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where the file is that the configuration calls so.
    fn place(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(USUAL) {
            Ok(inside) => self.path.join(inside),
            // What is relative is joined, and what is absolute stays.
            Err(_) => self.path.join(path),
        }
    }
}

impl Files for Folder {
    fn text(&self, path: &Path) -> Result<String, FileError> {
        let path = self.place(path);
        let failed = |source| FileError::Read { path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::other("it is no file")));
        }
        let mut octets = Vec::new();
        file.take(OCTETS_MAX + 1).read_to_end(&mut octets).map_err(failed)?;
        if octets.len() as u64 > OCTETS_MAX {
            return Err(FileError::Long { path });
        }
        String::from_utf8(octets).map_err(|_| FileError::Text { path })
    }

    fn written(&self, path: &Path) -> Option<SystemTime> {
        self.place(path).metadata().ok()?.modified().ok()
    }
}
