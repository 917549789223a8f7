//! The spool: held messages, kept durably from the 250 to the next hop's 250.
//!
//! begin → write → commit → [`SpoolId`]; then load, mark, and gone when every forward-path is
//! discharged. The layout on disk and the states a crash can leave are in `docs/SPOOL.md`.
//!
//! Invariants
//! - A [`SpoolId`] exists only for a message whose record and directory entry were synced
//!   (RFC 5321 §4.2.5: the 250 that follows is a promise).
//! - A mark is durable before anyone acts on it; lost marks mean *uncertain*, never *due*.
//! - A message is removed only after durable `Done` marks for all its forward-paths.
//! - What cannot be read is kept and named, and stops nothing else.
//!
//! Reading order: `mark` and `held` (what callers see), `format` and `marks` (bytes on disk),
//! `seal`, `segment`, `read`, `index`, `space`, `writer` with `pieces`, `commit` (the only one that writes) with
//! `books`, `ahead` and `answers`, `recover` with `walk`.
//!
//! Not here: replies, and when or in which order to try.

mod ahead;
mod answers;
mod books;
mod commit;
mod error;
mod format;
mod held;
mod id;
mod index;
mod mark;
mod marks;
pub mod offline;
mod pieces;
mod read;
mod recover;
pub mod seal;
mod segment;
mod space;
#[cfg(test)]
mod tests;
mod walk;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use disk::Disk;
use serde::Deserialize;
use smtp::Envelope;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::id::TransactionId;
use answers::Waiter;
use commit::{Committer, Job};
pub use error::{Damage, HoldError, LoadError, MarkError, OpenError};
pub use held::{Arrival, Count, DataReader, HeldMessage, Lane, Summary, Totals};
pub use id::SpoolId;
use index::Index;
pub use mark::{Done, Kept, Mark, Need, PathState, Paths, Stand, TEXT_BYTES_MAX, Text};
use read::Readers;
pub use recover::{RecoveryReport, segments_exist};
pub use seal::{Key, KeyError, KeyId, KeySource, generate, load_key};
pub use space::Reservation;
use space::Space;
pub use writer::Writer;

/// The name of a gate as configured.
pub type GateName = Arc<str>;

/// Octets of mail data in one sealed frame.
pub(crate) const FRAME_BYTES: usize = 64 * 1024;

/// Memory for frames on their way to the committer, in KiB: what is beyond waits at its session.
const QUEUE_KIB: usize = 8 * 1024;

/// Messages looked at by one hold of the index lock when listing.
const LIST_STEP: usize = 1024;

/// `[spool]`: where held messages live, and when we stop taking more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory of the spool; one process at a time (locked at open).
    pub directory: PathBuf,
    /// Longest wait of a message for others to share its sync. 0: commit at once; messages that
    /// arrive during a sync share the next.
    pub commit_wait_ms: u32,
    /// Free space below which new transactions get 452.
    pub free_bytes_min: u64,
    /// Size at which a segment is closed and the next one begun (1 MiB to 1 GiB). A segment
    /// gives its space back when all its messages are done.
    pub segment_bytes: u64,
    /// Segments made ahead, full of zeros, while a gate holds: a commit over them takes half as
    /// long as one that makes a file grow. Each takes `segment_bytes` of disk. 0: none.
    pub prepared_segments: u32,
    /// Largest message that is held, in octets of mail data.
    pub message_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: "spool".into(),
            commit_wait_ms: 0,
            free_bytes_min: 1 << 30,
            segment_bytes: 64 << 20,
            prepared_segments: 1,
            message_bytes_max: 64 << 20,
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        if !(1 << 20..=1 << 30).contains(&self.segment_bytes) {
            return Err(OpenError::Config("segment_bytes must be between 1 MiB and 1 GiB"));
        }
        if !(1..=1 << 40).contains(&self.message_bytes_max) {
            return Err(OpenError::Config("message_bytes_max must be between 1 and 1 TiB"));
        }
        if self.prepared_segments > 16 {
            return Err(OpenError::Config("prepared_segments must be at most 16"));
        }
        if self.commit_wait_ms > 1000 {
            return Err(OpenError::Config("commit_wait_ms must be at most 1000"));
        }
        Ok(())
    }
}

/// What committer, readers and callers share.
struct Shared {
    disk: Arc<dyn Disk>,
    config: Config,
    gates: Box<[GateName]>,
    index: Arc<Mutex<Index>>,
    readers: Arc<Readers>,
    space: Arc<Space>,
    changes: watch::Sender<u64>,
}

impl Shared {
    /// A panic elsewhere does not make the index wrong: it changes only after a sync, by steps
    /// that do not panic.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// The spool, open; cheap to clone. Every call but `open`, `load` and `close` is quick or async.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    jobs: mpsc::UnboundedSender<Job>,
    queue: Arc<Semaphore>,
    committer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("directory", &self.shared.config.directory).finish()
    }
}

impl Spool {
    /// Locks, scans and repairs the spool, builds the index and starts the committer. Blocking.
    ///
    /// `gates` are the configured ones: held mail of any other is an error, so that it cannot be
    /// forgotten.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: &Config,
        key: Key,
        gates: &[GateName],
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let (shared, mut committer, report) = Self::assemble(disk, config, key, gates)?;
        let failed = |source| OpenError::Disk { path: config.directory.clone(), source };
        committer.start_ahead().map_err(failed)?;
        let (jobs, mut arriving) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || committer.run(&mut arriving))
            .map_err(failed)?;
        let spool = Self {
            shared,
            jobs,
            queue: Arc::new(Semaphore::new(QUEUE_KIB)),
            committer: Arc::new(Mutex::new(Some(thread))),
        };
        Ok((spool, report))
    }

    /// All parts, not yet running: tests drive the committer themselves.
    fn assemble(
        disk: Arc<dyn Disk>,
        config: &Config,
        key: Key,
        gates: &[GateName],
    ) -> Result<(Arc<Shared>, Committer, RecoveryReport), OpenError> {
        config.check()?;
        let recovered = recover::recover(&*disk, &config.directory, &key, gates)?;
        let space = Arc::new(Space::new(Arc::clone(&disk), config));
        space.set_open_paths(recovered.index.open_paths());
        let shared = Arc::new(Shared {
            readers: Arc::new(Readers::new(
                Arc::clone(&disk),
                &config.directory,
                Some(key.clone()),
            )),
            disk,
            config: config.clone(),
            gates: gates.into(),
            index: Arc::new(Mutex::new(recovered.index)),
            space,
            changes: watch::Sender::new(0),
        });
        let mut committer =
            Committer::new(Arc::clone(&shared), key, recovered.guard, recovered.next_segment);
        // What the last run discharged and could not remove any more.
        committer.remove_emptied();
        Ok((shared, committer, recovered.report))
    }

    /// How the spool was configured.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Reserves room for a message of `bytes` (MAIL's SIZE, or the limit) with its marks. Costs
    /// no system call except now and then. The room is given back when the reservation, or the
    /// [`Writer`] that took it over, is dropped.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, HoldError> {
        self.shared.space.reserve(bytes)
    }

    /// Free octets of the spool's file system, as last seen.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.shared.space.free_bytes()
    }

    /// Begins a message. Nothing is promised, and nothing kept if the writer is dropped.
    #[allow(clippy::needless_pass_by_value, reason = "the spool owns a message from here on")]
    pub fn begin(
        &self,
        reservation: Reservation,
        id: TransactionId,
        gate: &GateName,
        lane: Lane,
        envelope: Envelope,
        arrival: Arrival,
    ) -> Result<Writer, HoldError> {
        let index = self.shared.gates.iter().position(|known| known == gate);
        let gate = index
            .and_then(|index| u16::try_from(index).ok())
            .ok_or_else(|| HoldError::UnknownGate(Arc::clone(gate)))?;
        Writer::new(self, reservation, format::Beginning::new(id, gate, lane, &envelope, &arrival))
    }

    /// Writes marks for forward-paths (by index in the envelope) of one message; durable and in
    /// the index when it returns. Marks for a discharged forward-path change nothing. With the
    /// last forward-path done the message is gone.
    pub async fn mark(&self, id: SpoolId, marks: Vec<(u32, Mark)>) -> Result<(), MarkError> {
        let (answer, answered) = Waiter::new();
        let job = Job::Mark { id, marks, answer };
        self.jobs.send(job).map_err(|_| MarkError::Closed)?;
        answered.await.unwrap_or(Err(MarkError::Failed))
    }

    /// Opens a message for reading. Blocking: call it where blocking is allowed.
    pub fn load(&self, id: &SpoolId) -> Result<HeldMessage, LoadError> {
        let shared = &self.shared;
        let loaded = read::load(&shared.index, &shared.readers, *id);
        if matches!(loaded, Err(LoadError::Damaged(_))) {
            shared.changed();
        }
        loaded
    }

    /// A message as the index knows it, or `None` if it is not held.
    #[must_use]
    pub fn summary(&self, id: SpoolId) -> Option<Summary> {
        self.shared.index().summary(id)
    }

    /// Up to `limit` messages after `after` that satisfy `keep`, over all gates in order of
    /// arrival.
    pub fn summaries(
        &self,
        after: Option<SpoolId>,
        limit: usize,
        mut keep: impl FnMut(&Summary) -> bool,
    ) -> Vec<Summary> {
        let mut kept = Vec::new();
        let mut last = after;
        loop {
            // The lock is given back between steps: a long list must not stop the mail.
            let step = self.shared.index().summaries(None, last, LIST_STEP);
            let Some(end) = step.last() else { return kept };
            last = Some(end.id);
            for summary in step {
                if kept.len() == limit {
                    return kept;
                }
                if keep(&summary) {
                    kept.push(summary);
                }
            }
        }
    }

    /// Up to `limit` messages of one gate after `after`, in order of arrival.
    #[must_use]
    pub fn summaries_of(
        &self,
        gate: &GateName,
        after: Option<SpoolId>,
        limit: usize,
    ) -> Vec<Summary> {
        self.shared.index().summaries(Some(gate), after, limit)
    }

    /// Ids of one gate after `after`, in order of arrival.
    #[must_use]
    pub fn ids_of(&self, gate: &GateName, after: Option<SpoolId>, limit: usize) -> Vec<SpoolId> {
        self.shared.index().ids_of(gate, after, limit)
    }

    /// What is held, gate by gate, in the order the spool was opened with. Kept up as things
    /// change: asking costs nothing.
    #[must_use]
    pub fn totals(&self) -> Vec<Totals> {
        self.shared.index().totals()
    }

    /// Damage found at start or since.
    #[must_use]
    pub fn damaged(&self) -> Vec<Damage> {
        self.shared.index().damaged().to_vec()
    }

    /// Notes durably that an operator has seen all damage named by [`Spool::damaged`]. Nothing is
    /// deleted: a segment of which only damage is left is renamed out of the way. Returns how
    /// many were noted.
    pub async fn acknowledge_damage(&self) -> Result<usize, MarkError> {
        let (answer, answered) = Waiter::new();
        self.jobs.send(Job::Acknowledge { answer }).map_err(|_| MarkError::Closed)?;
        answered.await.unwrap_or(Err(MarkError::Failed))
    }

    /// Sees every change (message committed, marks written, damage found): the value only rises.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Writes what was given to the committer before, and ends it. Blocking. Afterwards nothing
    /// can be held or marked; reading goes on.
    pub fn close(&self) {
        // A closed channel means that it has ended already.
        drop(self.jobs.send(Job::Close));
        let thread = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the committer ended by a panic");
        }
    }
}

/// A disk error at a place, as the errors above carry it.
fn at(path: &Path, source: io::Error) -> (PathBuf, Arc<io::Error>) {
    (path.to_owned(), Arc::new(source))
}
