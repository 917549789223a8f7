//! Receives one message on its way to the committer.
//!
//! Invariants
//! - At most one frame of a message is in memory here; what is sent on counts against the
//!   bounded queue, so a slow disk slows the sessions and costs no memory.
//! - A writer that is dropped promises nothing, and the committer forgets the message.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::answers::Waiter;
use super::commit::Job;
use super::format::Beginning;
use super::pieces::Pieces;
use super::space::{MARKS_PER_PATH, Reservation};
use super::{FRAME_BYTES, HoldError, QUEUE_KIB, Spool, SpoolId};
use crate::id::TransactionId;

/// A message that is being received.
#[derive(Debug)]
pub struct Writer {
    jobs: mpsc::UnboundedSender<Job>,
    queue: Arc<Semaphore>,
    // Held until the message is on disk or forgotten.
    _reservation: Reservation,
    id: TransactionId,
    // Taken by the first frame.
    beginning: Option<Beginning>,
    frame: Pieces,
    octets: u64,
    octets_max: u64,
    parts: u32,
    finished: bool,
}

impl Writer {
    pub(super) fn new(
        spool: &Spool,
        mut reservation: Reservation,
        beginning: Beginning,
    ) -> Result<Self, HoldError> {
        let paths = u64::from(beginning.paths);
        reservation.grow(paths * MARKS_PER_PATH + beginning.sealed.len() as u64)?;
        Ok(Self {
            jobs: spool.jobs.clone(),
            queue: Arc::clone(&spool.queue),
            _reservation: reservation,
            id: beginning.id,
            beginning: Some(beginning),
            frame: Pieces::default(),
            octets: 0,
            octets_max: spool.config().message_bytes_max,
            parts: 0,
            finished: false,
        })
    }

    /// The transaction it belongs to.
    #[must_use]
    pub const fn id(&self) -> TransactionId {
        self.id
    }

    /// Octets of mail data so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.octets
    }

    /// Adds a copy of mail data in wire form. Waits while the committer is behind.
    pub async fn write(&mut self, mut wire: &[u8]) -> Result<(), HoldError> {
        self.count(wire.len())?;
        while self.frame.len() + wire.len() > FRAME_BYTES {
            let (now, later) = wire.split_at(FRAME_BYTES - self.frame.len());
            self.frame.copy(now);
            wire = later;
            self.send_frame().await?;
        }
        self.frame.copy(wire);
        Ok(())
    }

    /// Adds mail data in wire form without a copy. It should fill at least half of the buffer that
    /// it keeps alive. Waits while the committer is behind.
    pub async fn take(&mut self, mut wire: Bytes) -> Result<(), HoldError> {
        self.count(wire.len())?;
        let mut is_rest = false;
        while self.frame.len() + wire.len() > FRAME_BYTES {
            let now = wire.split_to(FRAME_BYTES - self.frame.len());
            self.frame.take(now);
            self.send_frame().await?;
            is_rest = true;
        }
        if is_rest {
            // It may be a few octets, and wait for long: it must not keep the whole buffer alive.
            self.frame.copy(&wire);
        } else {
            self.frame.take(wire);
        }
        Ok(())
    }

    fn count(&mut self, octets: usize) -> Result<(), HoldError> {
        self.octets = self.octets.saturating_add(octets as u64);
        if self.octets > self.octets_max {
            return Err(HoldError::TooBig { bytes_max: self.octets_max });
        }
        Ok(())
    }

    /// Hands a full frame to the committer.
    async fn send_frame(&mut self) -> Result<(), HoldError> {
        let permit = self.permit(self.frame.len()).await?;
        let data = std::mem::take(&mut self.frame);
        if let Some(beginning) = self.beginning.take() {
            self.jobs.send(Job::Begin { beginning }).map_err(|_| HoldError::Closed)?;
            self.parts = 1;
        }
        let job = Job::Data { id: self.id, part: self.parts, data, permit };
        self.jobs.send(job).map_err(|_| HoldError::Closed)?;
        self.parts += 1;
        Ok(())
    }

    /// Makes the message durable. With the [`SpoolId`] it is ours; with an error it is not, and
    /// nobody must be told that it is.
    ///
    /// If this future is dropped half-way, the message may be kept all the same: to the client
    /// that is a lost reply.
    pub async fn commit(mut self, message_id: Option<&str>) -> Result<SpoolId, HoldError> {
        let permit = self.permit(self.frame.len()).await?;
        let data = std::mem::take(&mut self.frame);
        let message_id = message_id.map(str::to_owned);
        let (answer, answered) = Waiter::new();
        let job = match self.beginning.take() {
            Some(beginning) => Job::Whole { beginning, data, message_id, answer, permit },
            None => Job::End {
                id: self.id,
                part: self.parts,
                octets: self.octets,
                data,
                message_id,
                answer,
                permit,
            },
        };
        self.jobs.send(job).map_err(|_| HoldError::Closed)?;
        self.finished = true;
        // The committer answers every job; only its panic drops one, and poisons the segment.
        answered.await.unwrap_or(Err(HoldError::Poisoned))
    }

    async fn permit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, HoldError> {
        let kib = (bytes / 1024 + 1).min(QUEUE_KIB) as u32;
        let queue = Arc::clone(&self.queue);
        queue.acquire_many_owned(kib).await.map_err(|_| HoldError::Closed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished && self.parts > 0 {
            // A closed committer has forgotten it already.
            drop(self.jobs.send(Job::Abort { id: self.id }));
        }
    }
}
