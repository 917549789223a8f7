//! The book of everything that was handed over: append, read, and say where we cannot know.
//!
//! | module | what |
//! |---|---|
//! | `entry` | what stands in it |
//! | `writer` | files, and when one begins or goes |
//! | `read` | a cursor through them, also while they are written |
//!
//! Invariants
//! - [`Journal::offered`] has written its entry (write(2) returned) before the final dot may be sent, so that a killed
//!   process leaves an open item, never a missing one. It is not synced then: a lost system leaves a [`Gap`].
//! - A journal that cannot be written never stops mail; a [`Gap`] stands as soon as it can be.
//! - What has no end yet is written again at the start of each file.
//!
//! Not here: held mail (`spool`); what entries prove (control's drain).

mod entry;
mod read;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use disk::Disk;
use serde::Deserialize;

pub use entry::{
    Doing, Ended, Entry, Facts, Gap, Mark, Offered, Opened, PathEnd, Returned, SHA256, VERSION,
    Why, text_of,
};
pub use read::{Cursor, ReadError, Reader};
use writer::Writer;

/// `[journal]`: the book of what was handed over to whom.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of the journal.
    pub directory: PathBuf,
    /// Size at which a file is closed and the next one begun.
    pub file_bytes: u64,
    /// Octets that all files may take; the oldest go first.
    pub bytes_max: u64,
    /// Days after which a file goes.
    pub keep_days: u32,
    /// Longest time in milliseconds that the end of a transaction waits to be written (that mail is offered is written
    /// at once).
    pub flush_ms: u64,
    /// Seconds after which what was written is synced: what a power failure can take.
    pub sync_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: "journal".into(),
            file_bytes: 64 << 20,
            bytes_max: 4 << 30,
            keep_days: 30,
            flush_ms: 250,
            sync_s: 5,
        }
    }
}

impl Config {
    /// What is wrong with it, and the mend.
    ///
    /// # Errors
    /// See there.
    pub fn check(&self) -> Result<(), &'static str> {
        if !(1 << 16..=1 << 30).contains(&self.file_bytes) {
            return Err("[journal] file_bytes must be between 64 KiB and 1 GiB");
        }
        if self.bytes_max < self.file_bytes.saturating_mul(2) {
            return Err("[journal] bytes_max must be at least twice file_bytes");
        }
        if !(1..=3650).contains(&self.keep_days) {
            return Err("[journal] keep_days must be between 1 and 3650");
        }
        if !(10..=10_000).contains(&self.flush_ms) {
            return Err("[journal] flush_ms must be between 10 and 10000");
        }
        if !(1..=3600).contains(&self.sync_s) {
            return Err("[journal] sync_s must be between 1 and 3600");
        }
        Ok(())
    }

    /// How often [`Journal::tick`] is due.
    #[must_use]
    pub const fn flush_interval(&self) -> Duration {
        Duration::from_millis(self.flush_ms)
    }
}

/// How the journal stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// Octets in all files.
    pub bytes: u64,
    /// Transactions and attempts that were offered and have no end yet.
    pub open: usize,
    /// Entries that could not be written, since the start.
    pub unwritten: u64,
    /// It cannot be written now.
    pub failing: bool,
}

/// The journal, open for writing; clones share it.
#[derive(Clone)]
pub struct Journal(Arc<Mutex<Writer>>);

impl Journal {
    /// Opens it, and begins a file. What was open when the last writer stopped gets its end: uncertain.
    /// Never fails: what is wrong with the disk is logged, and tried again. Blocking.
    #[must_use]
    pub fn open(disk: Arc<dyn Disk>, config: &Config, boot: &str, now_ns: u64) -> Self {
        Self(Arc::new(Mutex::new(Writer::open(disk, config.clone(), boot, now_ns))))
    }

    /// A panic elsewhere leaves at worst an entry too few in memory; the file is written by whole records.
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes that mail is about to be handed over; when it returns, write(2) has, or a gap has begun. Whoever comes to
    /// that point in the same turn of the runtime shares the write.
    pub async fn offered(&self, offered: Offered<'_>) {
        let at_ns = offered.at_ns;
        let ticket = {
            let mut writer = self.writer();
            let ticket = writer.offer(offered);
            if !writer.is_shared() {
                writer.write_offer(ticket, at_ns);
                return;
            }
            ticket
        };
        tokio::task::yield_now().await;
        self.writer().write_offer(ticket, at_ns);
    }

    /// The same, at once.
    #[cfg(test)]
    fn offered_now(&self, offered: Offered<'_>) {
        let at_ns = offered.at_ns;
        let mut writer = self.writer();
        let ticket = writer.offer(offered);
        writer.write_offer(ticket, at_ns);
    }

    /// Notes an end; it is written with the next entry that is written at once, or by [`Journal::tick`].
    pub fn ended(&self, ended: Ended<'_>) {
        self.writer().ended(ended);
    }

    /// The same for a message that bears the mark of a probe.
    pub fn returned(&self, returned: Returned<'_>) {
        self.writer().returned(returned);
    }

    /// Writes what waits, syncs and begins a new file where that is due. Blocking.
    pub fn tick(&self, now_ns: u64) {
        let due = self.writer().tick(now_ns);
        // The sync is slow: nobody waits for the lock meanwhile.
        if let Some(sync) = due {
            let result = sync.run();
            self.writer().synced(&sync, &result);
        }
    }

    /// Reads it on from `cursor`, also while it is written.
    #[must_use]
    pub fn reader(&self, cursor: Cursor) -> Reader {
        self.writer().reader(cursor)
    }

    /// Writes what waits, and says where the next entry will stand. Blocking.
    #[must_use]
    pub fn position(&self, now_ns: u64) -> Cursor {
        self.writer().position(now_ns)
    }

    /// Writes and syncs everything and says that it was closed in order. Blocking.
    pub fn close(&self, now_ns: u64) {
        self.writer().close(now_ns);
    }

    /// How it stands.
    #[must_use]
    pub fn stand(&self) -> Stand {
        self.writer().stand()
    }
}
