//! A look at a spool without the daemon: what is held, and with the key, what it says.
//!
//! Invariants
//! - Nothing in the spool is changed (but its lock, which is held meanwhile).
//! - Never beside a running daemon: the index of one would be wrong within a second.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use disk::{Disk, Guard, RealDisk};

use super::index::Index;
use super::read::{self, Readers};
use super::recover::{self, RecoveryReport};
use super::{Damage, HeldMessage, Key, LoadError, OpenError, SpoolId, Summary};

/// A spool, opened for reading alone.
pub struct Offline {
    index: Arc<Mutex<Index>>,
    readers: Arc<Readers>,
    report: RecoveryReport,
    _guard: Box<dyn Guard>,
}

/// Opens the spool in `directory`; [`OpenError::Locked`] means that a daemon runs. Without a key
/// ids, sizes and states are there, and no reply texts, envelopes or mail data. Blocking.
pub fn open_readonly(directory: &Path, key: Option<Key>) -> Result<Offline, OpenError> {
    let opened = open(Arc::new(RealDisk::new(directory)), Path::new(""), key);
    opened.map_err(|error| match error {
        // The disk's root is the spool itself: its own name says nothing.
        OpenError::Locked { .. } => OpenError::Locked { path: directory.to_owned() },
        error => error,
    })
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    directory: &Path,
    key: Option<Key>,
) -> Result<Offline, OpenError> {
    let guard = recover::lock(&*disk, directory)?;
    let scan = recover::scan(&*disk, directory, key.as_ref(), &[])?;
    let mut report = scan.report();
    let gates = scan.gates();
    let index = scan.into_index(&gates);
    report.messages = index.messages();
    report.damaged = index.damaged().to_vec();
    recover::count_paths(&index, &mut report);
    Ok(Offline {
        index: Arc::new(Mutex::new(index)),
        readers: Arc::new(Readers::new(disk, directory, key)),
        report,
        _guard: guard,
    })
}

impl Offline {
    /// What was found. Nothing is set aside here.
    #[must_use]
    pub const fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Everything held, in order of arrival.
    #[must_use]
    pub fn summaries(&self) -> Vec<Summary> {
        self.index().summaries(None, None, usize::MAX)
    }

    /// Damage found, also by [`Offline::load`].
    #[must_use]
    pub fn damaged(&self) -> Vec<Damage> {
        self.index().damaged().to_vec()
    }

    /// Reads a message; needs the key. Blocking.
    pub fn load(&self, id: SpoolId) -> Result<HeldMessage, LoadError> {
        read::load(&self.index, &self.readers, id)
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
