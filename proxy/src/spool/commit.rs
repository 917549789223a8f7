//! Group commit: many promises, one sync.
//!
//! The committer is the only writer of the spool. It is a step machine, [`Committer::run_batch`],
//! that a thread only drives: what waited while one batch was synced is the next batch.
//!
//! Invariants
//! - A batch of messages is acknowledged as a whole or not at all, after the sync.
//! - After a failed write or sync the segment is poisoned: the kernel may have dropped the
//!   pages, so a later success proves nothing. It promises nothing more, what it promised before
//!   stays; a message with a frame in it that was not promised fails.
//! - After a failed marks write the file is rewritten from what was proven before.
//! - The index changes after the sync, never before.
//!
//! Not here: the layout (`format`, `marks`), what a crash leaves (`recover`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use disk::Guard;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::ahead::Ahead;
use super::answers::{Acknowledged, Answers, Held, Marked, Waiter};
use super::books::Books;
use super::format::{self, Beginning, FrameHeader, Kind};
use super::index::{Entry, Place, Spot};
use super::mark::{Mark, PathState, Paths, Text};
use super::marks;
use super::pieces::Pieces;
use super::seal::Key;
use super::segment::{self, Active};
use super::{HoldError, Lane, MarkError, Shared, SpoolId, at};
use crate::id::TransactionId;

/// Octets of mail data that one batch takes at most, about: they stay in the processor's cache while
/// they are sealed, summed and written.
const BATCH_BYTES: usize = 2 << 20;

/// Octets written without a promise after which they are synced all the same: the sync that carries
/// the promise of a large message then has little to do.
const UNSYNCED_MAX: u64 = 4 << 20;

/// Jobs that one batch takes at most.
const BATCH_JOBS: usize = 1024;

/// Octets in a segment from which on the next ones are made ahead: few messages need none.
const AHEAD_FROM: u64 = 256 << 10;

/// Distinct reply texts remembered for sharing.
const TEXTS_MAX: usize = 4096;

/// What the committer is asked to do.
pub(super) enum Job {
    /// A message in one piece.
    Whole {
        beginning: Beginning,
        data: Pieces,
        message_id: Option<String>,
        answer: Waiter<Held>,
        permit: OwnedSemaphorePermit,
    },
    /// A message in parts begins.
    Begin { beginning: Beginning },
    /// Some mail data of it.
    Data { id: TransactionId, part: u32, data: Pieces, permit: OwnedSemaphorePermit },
    /// The last of it.
    End {
        id: TransactionId,
        part: u32,
        octets: u64,
        data: Pieces,
        message_id: Option<String>,
        answer: Waiter<Held>,
        permit: OwnedSemaphorePermit,
    },
    /// It will not be finished.
    Abort { id: TransactionId },
    /// Marks for one message.
    Mark { id: SpoolId, marks: Vec<(u32, Mark)>, answer: Waiter<Marked> },
    /// An operator has seen all damage.
    Acknowledge { answer: Waiter<Acknowledged> },
    /// Nothing comes after this.
    Close,
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Self::Whole { data, .. } | Self::Data { data, .. } | Self::End { data, .. } => {
                data.len()
            }
            _ => 0,
        }
    }
}

/// A message in parts that is being received.
struct Receiving {
    gate: u16,
    lane: Lane,
    held_at_unix_ms: u64,
    paths: u32,
    spots: Vec<Spot>,
    /// A frame of it was in a segment that is poisoned.
    failed: Option<HoldError>,
}

/// A message that the batch will promise.
struct Promise {
    id: TransactionId,
    gate: u16,
    entry: Entry,
    answer: Waiter<Held>,
}

/// Marks that the batch will write for one message.
struct Marking {
    id: SpoolId,
    states: Vec<(u32, PathState)>,
    answer: Waiter<Marked>,
}

/// One batch, gathered and not yet on disk.
#[derive(Default)]
struct Batch {
    promises: Vec<Promise>,
    /// Ids of the promises, so that none comes twice.
    ids: HashSet<u64>,
    markings: BTreeMap<u32, (marks::Batch, Vec<Marking>)>,
    /// States of messages as the marks of this batch leave them.
    marked: HashMap<SpoolId, Paths>,
    acknowledgements: Vec<Waiter<Acknowledged>>,
    /// No segment could be made; not tried again in this batch.
    broken: Option<HoldError>,
    answers: Answers,
    /// Given back when the batch is on disk: the bound of the queue.
    permits: Vec<OwnedSemaphorePermit>,
    close: bool,
}

/// The only writer of the spool.
pub(super) struct Committer {
    shared: Arc<Shared>,
    key: Key,
    // The spool's lock: held as long as anything may be written.
    _guard: Box<dyn Guard>,
    next_segment: u32,
    active: Option<Active>,
    /// Sealed frames of the batch.
    buffer: Vec<u8>,
    receiving: HashMap<u64, Receiving>,
    books: Books,
    ahead: Ahead,
    texts: HashSet<Arc<str>>,
}

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: Key,
        guard: Box<dyn Guard>,
        next_segment: u32,
    ) -> Self {
        let directory = &shared.config.directory;
        let books = Books::new(Arc::clone(&shared.disk), directory, key.clone());
        let ahead = Ahead::new(
            &shared.disk,
            &shared.space,
            directory,
            shared.config.segment_bytes,
            shared.config.prepared_segments as usize,
        );
        Self {
            shared,
            key,
            _guard: guard,
            next_segment,
            active: None,
            buffer: Vec::new(),
            receiving: HashMap::new(),
            books,
            ahead,
            texts: HashSet::new(),
        }
    }

    /// Lets a thread make segments ahead.
    pub(super) fn start_ahead(&mut self) -> std::io::Result<()> {
        self.ahead.start()
    }

    /// Drives the machine until it is closed or every caller is gone.
    pub(super) fn run(&mut self, arriving: &mut mpsc::UnboundedReceiver<Job>) {
        let wait = Duration::from_millis(u64::from(self.shared.config.commit_wait_ms));
        let mut closed = false;
        while !closed {
            let Some(first) = arriving.blocking_recv() else {
                break;
            };
            if !wait.is_zero() {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "bounded; what arrives meanwhile shares the sync, and that is all \
                              this thread is for"
                )]
                std::thread::sleep(wait);
            }
            let mut bytes = first.bytes();
            let mut jobs = vec![first];
            while bytes < BATCH_BYTES && jobs.len() < BATCH_JOBS {
                let Ok(job) = arriving.try_recv() else { break };
                bytes += job.bytes();
                jobs.push(job);
            }
            closed = self.step(jobs);
        }
        arriving.close();
        // What came while closing is answered by dropping it.
        while arriving.try_recv().is_ok() {}
        self.close_active();
        self.ahead.end();
        self.remove_emptied();
    }

    /// One batch; a panic in it poisons the segment and goes no further. True when closed.
    pub(super) fn step(&mut self, jobs: Vec<Job>) -> bool {
        let run = catch_unwind(AssertUnwindSafe(|| self.run_batch(jobs)));
        run.unwrap_or_else(|_| {
            tracing::error!("the committer panicked; its segment makes no more promises");
            self.after_panic();
            false
        })
    }

    /// Gathers, writes, syncs, answers. True when a job was [`Job::Close`].
    pub(super) fn run_batch(&mut self, jobs: Vec<Job>) -> bool {
        let mut batch = Batch::default();
        for job in jobs {
            self.gather(job, &mut batch);
        }
        let close = batch.close;
        let changed = !batch.promises.is_empty()
            || !batch.markings.is_empty()
            || !batch.acknowledgements.is_empty();
        self.write_frames(std::mem::take(&mut batch.promises), &mut batch.answers);
        // Nobody waits for what others asked for.
        batch.answers.tell();
        for (segment, (marks, markings)) in std::mem::take(&mut batch.markings) {
            self.write_marks(segment, marks, markings, &mut batch.answers);
            // What is written is told, whatever becomes of the next.
            batch.answers.tell();
        }
        for waiter in std::mem::take(&mut batch.acknowledgements) {
            batch.answers.acknowledged(waiter, self.acknowledge());
        }
        batch.answers.tell();
        drop(batch);
        if close {
            self.close_active();
            self.ahead.end();
        }
        self.rotate();
        self.remove_emptied();
        if changed {
            self.shared.space.set_open_paths(self.shared.index().open_paths());
            self.shared.changed();
        }
        close
    }

    fn gather(&mut self, job: Job, batch: &mut Batch) {
        match job {
            Job::Whole { beginning, data, message_id, answer, permit } => {
                batch.permits.push(permit);
                self.gather_whole(&beginning, &data, message_id.as_deref(), answer, batch);
            }
            Job::Begin { beginning } => self.gather_begin(&beginning, batch),
            Job::Data { id, part, data, permit } => {
                batch.permits.push(permit);
                let header = FrameHeader {
                    part,
                    octets: data.len() as u64,
                    ..FrameHeader::bare(Kind::Data)
                };
                self.gather_part(id, header, |out| data.append_to(out), None, batch);
            }
            Job::End { id, part, octets, data, message_id, answer, permit } => {
                batch.permits.push(permit);
                let header = FrameHeader { part, octets, ..FrameHeader::bare(Kind::End) };
                let trailer = Some(message_id.as_deref());
                self.gather_part(id, header, |out| data.append_to(out), trailer, batch);
                self.gather_end(id, octets, answer, batch);
            }
            Job::Abort { id } => self.forget(id),
            Job::Mark { id, marks, answer } => self.gather_marks(id, marks, answer, batch),
            Job::Acknowledge { answer } => batch.acknowledgements.push(answer),
            Job::Close => batch.close = true,
        }
    }

    /// The segment to write to, made if there is none.
    fn active(&mut self, batch: &mut Batch) -> Result<&mut Active, HoldError> {
        if let Some(error) = &batch.broken {
            return Err(error.clone());
        }
        if self.active.is_none() {
            match self.open_segment() {
                Ok(active) => self.active = Some(active),
                Err(error) => {
                    batch.broken = Some(error.clone());
                    return Err(error);
                }
            }
        }
        self.active.as_mut().ok_or(HoldError::Poisoned)
    }

    fn open_segment(&mut self) -> Result<Active, HoldError> {
        // A number whose making failed is not used again: something of it may be there.
        let number = self.next_segment;
        self.next_segment += 1;
        let ahead = self.ahead.take();
        let shared = &self.shared;
        let created = Active::create(
            &*shared.disk,
            &shared.config.directory,
            number,
            &self.key,
            &shared.gates,
            ahead,
        );
        match created {
            Ok((active, book)) => {
                shared.index().open_segment(number);
                self.books.keep(number, book);
                Ok(active)
            }
            Err((path, source)) => {
                tracing::error!(path = %path.display(), error = %source, "cannot make a segment");
                shared.space.ask_again();
                // Not promised anything yet: what was made of it is removed if the disk lets us.
                if let Err(error) =
                    segment::remove(&*shared.disk, &shared.config.directory, &[number])
                {
                    tracing::warn!(%error, number, "left to the next start to remove");
                }
                let (path, source) = at(&path, source);
                Err(HoldError::Write { path, source })
            }
        }
    }

    fn gather_whole(
        &mut self,
        beginning: &Beginning,
        data: &Pieces,
        message_id: Option<&str>,
        answer: Waiter<Held>,
        batch: &mut Batch,
    ) {
        let id = beginning.id;
        if self.is_known(id, batch) {
            return batch.answers.held(answer, Err(HoldError::DuplicateId(id)));
        }
        let octets = data.len() as u64;
        let header = FrameHeader { octets, ..begin_header(beginning, Kind::Whole) };
        let mut buffer = std::mem::take(&mut self.buffer);
        let sealed = self.active(batch).map(|active| {
            active.seal(&mut buffer, header, |out| {
                out.reserve(beginning.sealed.len() + data.len() + 1024);
                format::put_whole_prefix(out, &beginning.sealed);
                data.append_to(out);
                format::put_trailer(out, message_id);
            })
        });
        self.buffer = buffer;
        match sealed {
            Ok(spot) => {
                batch.ids.insert(id.as_u64());
                let entry = Entry {
                    size: octets,
                    place: Place::Whole(spot),
                    paths: Paths::Fresh(beginning.paths),
                    lane: beginning.lane,
                };
                batch.promises.push(Promise { id, gate: beginning.gate, entry, answer });
            }
            Err(error) => batch.answers.held(answer, Err(error)),
        }
    }

    fn is_known(&self, id: TransactionId, batch: &Batch) -> bool {
        batch.ids.contains(&id.as_u64())
            || self.receiving.contains_key(&id.as_u64())
            || self.shared.index().contains(id)
    }

    fn gather_begin(&mut self, beginning: &Beginning, batch: &mut Batch) {
        let id = beginning.id;
        if self.is_known(id, batch) {
            // The parts of the second would mix with those of the first: neither is finished.
            let failed = HoldError::DuplicateId(id);
            if let Some(receiving) = self.receiving.get_mut(&id.as_u64()) {
                receiving.failed = Some(failed);
            }
            return;
        }
        let receiving = Receiving {
            gate: beginning.gate,
            lane: beginning.lane,
            held_at_unix_ms: beginning.held_at_unix_ms,
            paths: beginning.paths,
            spots: Vec::new(),
            failed: None,
        };
        self.receiving.insert(id.as_u64(), receiving);
        let header = begin_header(beginning, Kind::Begin);
        let put = |out: &mut Vec<u8>| out.extend_from_slice(&beginning.sealed);
        self.gather_part(id, header, put, None, batch);
    }

    /// Seals a frame of a message in parts. `trailer` is there for its last one.
    fn gather_part(
        &mut self,
        id: TransactionId,
        header: FrameHeader,
        put: impl FnOnce(&mut Vec<u8>),
        trailer: Option<Option<&str>>,
        batch: &mut Batch,
    ) {
        let key = id.as_u64();
        let Some(receiving) = self.receiving.get(&key) else {
            return;
        };
        if receiving.failed.is_some() {
            return;
        }
        let header = FrameHeader {
            id: key,
            lane: receiving.lane,
            gate: receiving.gate,
            held_at_unix_ms: receiving.held_at_unix_ms,
            paths: receiving.paths,
            ..header
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let sealed = self.active(batch).map(|active| {
            active.seal(&mut buffer, header, |out| {
                put(out);
                if let Some(message_id) = trailer {
                    format::put_trailer(out, message_id);
                }
            })
        });
        self.buffer = buffer;
        let Some(receiving) = self.receiving.get_mut(&key) else {
            return;
        };
        match sealed {
            Ok(spot) => {
                if receiving.spots.last().is_none_or(|last| last.segment != spot.segment) {
                    self.shared.index().retain(spot.segment);
                }
                receiving.spots.push(spot);
            }
            Err(error) => receiving.failed = Some(error),
        }
    }

    fn gather_end(
        &mut self,
        id: TransactionId,
        octets: u64,
        answer: Waiter<Held>,
        batch: &mut Batch,
    ) {
        let Some(receiving) = self.receiving.get(&id.as_u64()) else {
            return batch.answers.held(answer, Err(HoldError::DuplicateId(id)));
        };
        if let Some(error) = &receiving.failed {
            let error = error.clone();
            self.forget(id);
            return batch.answers.held(answer, Err(error));
        }
        let entry = Entry {
            size: octets,
            place: Place::Parts(receiving.spots.as_slice().into()),
            paths: Paths::Fresh(receiving.paths),
            lane: receiving.lane,
        };
        batch.promises.push(Promise { id, gate: receiving.gate, entry, answer });
    }

    /// A message is no longer received: its frames keep no segment.
    fn forget(&mut self, id: TransactionId) {
        let Some(receiving) = self.receiving.remove(&id.as_u64()) else {
            return;
        };
        let place = Place::Parts(receiving.spots.into());
        let mut index = self.shared.index();
        for segment in place.segments() {
            index.release(segment);
        }
    }

    /// Writes what was gathered, syncs if anything is promised, and answers.
    fn write_frames(&mut self, promises: Vec<Promise>, answers: &mut Answers) {
        if self.buffer.is_empty() {
            return;
        }
        let Some(mut active) = self.active.take() else {
            return;
        };
        let ids: Vec<u64> = promises.iter().map(|promise| promise.id.as_u64()).collect();
        if !ids.is_empty() {
            active.seal_commit(&mut self.buffer, Kind::Commit, &ids);
        }
        self.shared.space.wrote(active.growth(self.buffer.len() as u64));
        let written = active.write(&self.buffer);
        self.buffer.clear();
        let done = match written {
            Err(source) => {
                let (path, source) = at(&active.path, source);
                Err(HoldError::Write { path, source })
            }
            Ok(()) if ids.is_empty() && active.unsynced() < UNSYNCED_MAX => Ok(()),
            Ok(()) => active.sync().map_err(|error| {
                tracing::error!(path = %active.path.display(), %error, "sync failed");
                HoldError::Poisoned
            }),
        };
        match done {
            Ok(()) => {
                active.promised += ids.len() as u64;
                self.active = Some(active);
                self.keep_promises(promises, answers);
            }
            Err(error) => {
                self.poison(active.number, &error);
                for promise in promises {
                    self.forget(promise.id);
                    answers.held(promise.answer, Err(error.clone()));
                }
            }
        }
    }

    fn keep_promises(&mut self, promises: Vec<Promise>, answers: &mut Answers) {
        let mut kept = Vec::with_capacity(promises.len());
        {
            let mut index = self.shared.index();
            for Promise { id, gate, entry, answer } in promises {
                index.insert(gate, id, entry);
                kept.push((id, answer));
            }
        }
        for (id, answer) in kept {
            // In the index first: its segments are never seen empty.
            self.forget(id);
            answers.held(answer, Ok(SpoolId::promised(id)));
        }
    }

    /// The segment makes no more promises; messages with frames in it cannot be finished.
    fn poison(&mut self, number: u32, error: &HoldError) {
        tracing::error!(segment = number, %error, "segment poisoned");
        self.shared.space.ask_again();
        for receiving in self.receiving.values_mut() {
            if receiving.spots.iter().any(|spot| spot.segment == number) {
                receiving.failed.get_or_insert(HoldError::Poisoned);
            }
        }
        self.shared.index().close_segment(number);
    }

    /// Closes the active segment when it is full, or large and of no use to anybody, or grows while
    /// one made ahead is ready.
    fn rotate(&mut self) {
        let Some(active) = &self.active else { return };
        // For large ones zeros would be written for nothing: they would cost half the rate.
        let small = !active.has_large();
        let grows = active.prepared == 0 && small;
        if active.offset >= AHEAD_FROM && small {
            self.ahead.order();
        }
        let size_max = self.shared.config.segment_bytes;
        let used = self.shared.index().usage(active.number).is_some_and(|usage| usage.messages > 0);
        let full = active.offset >= size_max || (!used && active.offset >= size_max / 4);
        if full || (grows && self.ahead.collect()) {
            self.close_active();
        }
    }

    /// Ends the active segment: its frames of unfinished messages are synced with it, because
    /// their ends will be promised by another segment.
    fn close_active(&mut self) {
        let Some(mut active) = self.active.take() else {
            return;
        };
        let mut bytes = Vec::new();
        active.seal_commit(&mut bytes, Kind::Close, &[]);
        match active.write(&bytes).and_then(|()| active.sync()) {
            Ok(()) => {
                active.trim();
                self.shared.index().close_segment(active.number);
            }
            Err(source) => {
                let (path, source) = at(&active.path, source);
                self.poison(active.number, &HoldError::Write { path, source });
            }
        }
    }

    fn gather_marks(
        &mut self,
        id: SpoolId,
        marks: Vec<(u32, Mark)>,
        answer: Waiter<Marked>,
        batch: &mut Batch,
    ) {
        let found = self
            .shared
            .index()
            .entry(id)
            .map(|(_, entry)| (entry.place.home(), entry.paths.clone()));
        let Some((home, paths)) = found else {
            return batch.answers.marked(answer, Err(MarkError::NotHeld(id)));
        };
        let paths = batch.marked.entry(id).or_insert(paths);
        if paths.all_done() {
            // The last path was discharged earlier in this batch.
            return batch.answers.marked(answer, Err(MarkError::NotHeld(id)));
        }
        if let Some((path, _)) = marks.iter().find(|(path, _)| *path as usize >= paths.count()) {
            return batch.answers.marked(answer, Err(MarkError::NoSuchPath { id, path: *path }));
        }
        let undue = marks.iter().find(|(path, mark)| {
            *mark == Mark::Offered
                && paths.state(*path as usize).is_none_or(|state| !state.is_due())
        });
        if let Some((path, _)) = undue {
            return batch.answers.marked(answer, Err(MarkError::NotDue { id, path: *path }));
        }
        let (book, markings) = batch.markings.entry(home).or_default();
        let mut states = Vec::with_capacity(marks.len());
        for (path, mark) in marks {
            let Some(before) = paths.state(path as usize).filter(|state| !state.is_done()) else {
                continue;
            };
            let after = shared_text(&mut self.texts, before.after(&mark));
            book.mark(id.as_u64(), path, &mark);
            paths.set(path as usize, after.clone());
            states.push((path, after));
        }
        if paths.all_done() {
            book.retired(id.as_u64());
        }
        markings.push(Marking { id, states, answer });
    }

    fn write_marks(
        &mut self,
        segment: u32,
        marks: marks::Batch,
        markings: Vec<Marking>,
        answers: &mut Answers,
    ) {
        let written = if marks.is_empty() {
            Ok(0)
        } else {
            self.books.with(segment, |book| book.write(marks))
        };
        match written {
            Ok(octets) => {
                self.shared.space.wrote(octets);
                let mut index = self.shared.index();
                for Marking { id, states, answer } in markings {
                    index.set(id, states);
                    answers.marked(answer, Ok(()));
                }
            }
            Err((path, source)) => {
                tracing::error!(path = %path.display(), error = %source, "cannot write marks");
                let (path, source) = at(&path, source);
                for marking in markings {
                    let error =
                        MarkError::Write { path: path.clone(), source: Arc::clone(&source) };
                    answers.marked(marking.answer, Err(error));
                }
            }
        }
    }

    /// Notes that all damage was seen.
    fn acknowledge(&mut self) -> Result<usize, MarkError> {
        let damaged = self.shared.index().damaged().to_vec();
        let unseen: Vec<_> = damaged.into_iter().filter(|damage| !damage.acknowledged).collect();
        for damage in &unseen {
            let id = damage.id.map_or(0, SpoolId::as_u64);
            self.books.with(damage.segment, |book| book.acknowledge(id, damage.offset)).map_err(
                |(path, source)| {
                    let (path, source) = at(&path, source);
                    MarkError::Write { path, source }
                },
            )?;
        }
        self.shared.index().acknowledge(&unseen);
        Ok(unseen.len())
    }

    /// Gives back the space of segments of which nothing is needed.
    pub(super) fn remove_emptied(&mut self) {
        let emptied = self.shared.index().take_emptied();
        if emptied.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let (disk, directory) = (&*shared.disk, &shared.config.directory);
        for (segment, _) in &emptied {
            self.books.forget(*segment);
            shared.readers.forget(*segment);
            shared.index().forget_segment(*segment);
        }
        let (damaged, done): (Vec<_>, Vec<_>) =
            emptied.into_iter().partition(|(_, damaged)| *damaged);
        let done: Vec<u32> = done.into_iter().map(|(segment, _)| segment).collect();
        let mut removed = segment::remove(disk, directory, &done);
        for (segment, _) in damaged {
            removed = removed.and(segment::set_aside(disk, directory, segment));
        }
        if let Err(error) = removed {
            // All is marked done there: the next start removes it.
            tracing::warn!(%error, "cannot remove segments");
        }
        shared.space.ask_again();
    }

    /// A batch ended half-way: nothing of it was promised, and what it wrote is not trusted.
    fn after_panic(&mut self) {
        self.buffer.clear();
        // The active segment is the newest; taken out while it is written, it may be gone here.
        let number = self.next_segment.saturating_sub(1);
        self.active = None;
        self.poison(number, &HoldError::Poisoned);
        self.books.close_all();
    }
}

fn begin_header(beginning: &Beginning, kind: Kind) -> FrameHeader {
    FrameHeader {
        lane: beginning.lane,
        gate: beginning.gate,
        id: beginning.id.as_u64(),
        held_at_unix_ms: beginning.held_at_unix_ms,
        paths: beginning.paths,
        ..FrameHeader::bare(kind)
    }
}

/// The same state with its text shared with equal ones: a million deferred messages have few
/// different replies.
fn shared_text(texts: &mut HashSet<Arc<str>>, state: PathState) -> PathState {
    let share = |texts: &mut HashSet<Arc<str>>, text: &Text| {
        let Some(own) = text.shared() else {
            return Text::NONE;
        };
        if let Some(known) = texts.get(own) {
            return Text::from_shared(Arc::clone(known));
        }
        if texts.len() >= TEXTS_MAX {
            texts.clear();
        }
        texts.insert(Arc::clone(own));
        text.clone()
    };
    match state {
        PathState::Due { at_unix_ms, attempts, open_ms, reply } => {
            PathState::Due { at_unix_ms, attempts, open_ms, reply: share(texts, &reply) }
        }
        PathState::Kept { why, reply } => PathState::Kept { why, reply: share(texts, &reply) },
        PathState::Done { .. } | PathState::Offered { .. } => state,
    }
}
