//! Room on the disk, promised before it is used.
//!
//! Invariants
//! - Free space less all reservations, less the marks that held messages may still need, never
//!   falls below `free_bytes_min` by a reservation of ours.
//! - Asking the operating system is rare (every 100 ms or 16 MiB written at most); in between
//!   what we write is subtracted.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use disk::Disk;

use super::{Config, HoldError};

/// How long an answer of the operating system is believed.
const FRESH: Duration = Duration::from_millis(100);

/// How much may be written before it is asked again.
const WRITTEN_MAX: u64 = 16 << 20;

/// What the marks of one forward-path may need: an offer and an outcome with its reply, often.
pub(super) const MARKS_PER_PATH: u64 = 256;

/// Headers, checksums, tags and the trailer of a message, beside its frames' own.
const OVERHEAD: u64 = 8 * 1024;

/// Room of the spool's file system.
pub(super) struct Space {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    free_bytes_min: u64,
    reserved: AtomicU64,
    open_paths: AtomicU64,
    written: AtomicU64,
    free: AtomicU64,
    asked: Mutex<Option<Instant>>,
}

impl Space {
    pub(super) fn new(disk: Arc<dyn Disk>, config: &Config) -> Self {
        let space = Self {
            disk,
            directory: config.directory.clone(),
            free_bytes_min: config.free_bytes_min,
            reserved: AtomicU64::new(0),
            open_paths: AtomicU64::new(0),
            written: AtomicU64::new(0),
            free: AtomicU64::new(0),
            asked: Mutex::new(None),
        };
        space.refresh();
        space
    }

    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, HoldError> {
        self.refresh();
        let bytes = bytes.saturating_add(bytes / 256).saturating_add(OVERHEAD);
        self.take(bytes)?;
        Ok(Reservation { space: Arc::clone(self), bytes })
    }

    fn take(&self, bytes: u64) -> Result<(), HoldError> {
        // Added first and looked at then: two that ask at once cannot both see the last room.
        let reserved = self.reserved.fetch_add(bytes, Ordering::AcqRel);
        let marks = self.open_paths.load(Ordering::Relaxed).saturating_mul(MARKS_PER_PATH);
        let free_bytes = self.free_bytes().saturating_sub(reserved).saturating_sub(marks);
        let required_bytes = bytes.saturating_add(self.free_bytes_min);
        if free_bytes < required_bytes {
            self.reserved.fetch_sub(bytes, Ordering::AcqRel);
            return Err(HoldError::Full { free_bytes, required_bytes });
        }
        Ok(())
    }

    pub(super) fn free_bytes(&self) -> u64 {
        let written = self.written.load(Ordering::Relaxed);
        self.free.load(Ordering::Relaxed).saturating_sub(written)
    }

    /// Bytes written since.
    pub(super) fn wrote(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_open_paths(&self, open_paths: u64) {
        self.open_paths.store(open_paths, Ordering::Relaxed);
    }

    fn refresh(&self) {
        // Whoever finds the lock taken uses the last answer: another is asking just now.
        let Ok(mut asked) = self.asked.try_lock() else {
            return;
        };
        let written = self.written.load(Ordering::Relaxed);
        let fresh = asked.is_some_and(|at| at.elapsed() < FRESH) && written < WRITTEN_MAX;
        if fresh {
            return;
        }
        match self.disk.free_bytes(&self.directory) {
            Ok(free) => {
                self.free.store(free, Ordering::Relaxed);
                self.written.fetch_sub(written, Ordering::Relaxed);
                *asked = Some(Instant::now());
            }
            // The last answer less what was written stays true enough; the write will tell.
            Err(error) => tracing::warn!(%error, "cannot ask for free space"),
        }
    }

    /// Forgets the last answer (a segment was removed, or a write found no room).
    pub(super) fn ask_again(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Room for one message, given back when dropped.
pub struct Reservation {
    space: Arc<Space>,
    bytes: u64,
}

impl Reservation {
    /// Takes more room, for what became known after MAIL.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), HoldError> {
        self.space.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation").field("bytes", &self.bytes).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use disk::FaultyDisk;

    use super::*;

    fn space(free: u64, free_bytes_min: u64) -> Arc<Space> {
        let disk = FaultyDisk::default();
        disk.make_dir(std::path::Path::new("spool")).unwrap();
        disk.set_free_bytes(free);
        Arc::new(Space::new(Arc::new(disk), &Config { free_bytes_min, ..Config::default() }))
    }

    #[test]
    fn room_is_refused_before_the_reserve_is_touched_and_given_back_on_drop() {
        let space = space(300_000, 100_000);
        let first = space.reserve(100_000).unwrap();
        let refused = space.reserve(100_000).unwrap_err();
        assert!(matches!(refused, HoldError::Full { .. }), "{refused}");
        drop(first);
        assert!(space.reserve(100_000).is_ok());
        assert!(space.reserve(u64::MAX).is_err());
        assert_eq!(space.reserved.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn marks_of_held_messages_have_their_room() {
        let space = space(300_000, 100_000);
        assert!(space.reserve(100_000).is_ok());
        space.set_open_paths(1_000);
        assert!(space.reserve(100_000).is_err());
    }

    #[test]
    fn what_is_written_counts_before_the_system_is_asked_again() {
        let space = space(300_000, 100_000);
        space.wrote(150_000);
        assert!(space.reserve(100_000).is_err());
        space.ask_again();
        assert!(space.reserve(100_000).is_ok());
    }
}
