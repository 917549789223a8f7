//! Tests of the spool as a whole: a harness that drives the committer without threads, so that
//! a disk can die at a chosen operation.

#![allow(clippy::unwrap_used, clippy::panic)]

mod basics;
mod crash;
mod damage;
mod golden;
mod model;
mod threads;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

use disk::FaultyDisk;
use futures_util::task::noop_waker;
use smtp::{ForwardPath, MailParameters, RcptParameters, Recipient, ReversePath, Sender};

use super::*;

/// A spool whose committer runs when the test says so.
struct Bench {
    spool: Spool,
    committer: Committer,
    arriving: mpsc::UnboundedReceiver<Job>,
    report: RecoveryReport,
}

impl Bench {
    fn open(disk: &FaultyDisk) -> Self {
        Self::try_open(disk).unwrap()
    }

    fn try_open(disk: &FaultyDisk) -> Result<Self, OpenError> {
        let (shared, committer, report) =
            Spool::assemble(Arc::new(disk.clone()), &config(), key(), &gates())?;
        let (jobs, arriving) = mpsc::unbounded_channel();
        let queue = Arc::new(Semaphore::new(QUEUE_KIB));
        let spool = Spool { shared, jobs, queue, committer: Arc::default() };
        Ok(Self { spool, committer, arriving, report })
    }

    /// One batch of all that waits. True when closed.
    fn drive(&mut self) -> bool {
        let mut jobs = Vec::new();
        while let Ok(job) = self.arriving.try_recv() {
            jobs.push(job);
        }
        self.committer.step(jobs)
    }

    /// Runs the committer until `future` is ready.
    fn wait<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..1_000 {
            if let Some(value) = poll(future.as_mut()) {
                return value;
            }
            self.drive();
        }
        panic!("the committer did not answer");
    }

    fn writer(&self, id: u64, recipients: usize) -> Result<Writer, HoldError> {
        let reservation = self.spool.reserve(0)?;
        let gate = gate_of(id);
        let id = TransactionId::from_u64(id);
        self.spool.begin(reservation, id, &gate, Lane::Mail, envelope(recipients), arrival())
    }

    fn hold(&mut self, id: u64, recipients: usize, data: &[u8]) -> Result<SpoolId, HoldError> {
        let mut writer = self.writer(id, recipients)?;
        self.wait(writer.write(data))?;
        self.wait(writer.commit(Some("<id@example.org>")))
    }

    fn mark(&mut self, id: SpoolId, path: u32, mark: Mark) -> Result<(), MarkError> {
        let spool = self.spool.clone();
        self.wait(spool.mark(id, vec![(path, mark)]))
    }

    fn ids(&self) -> Vec<u64> {
        self.spool
            .summaries(None, usize::MAX, |_| true)
            .iter()
            .map(|summary| summary.id.as_u64())
            .collect()
    }

    fn states(&self, id: u64) -> Vec<PathState> {
        let summary = self.spool.summary(spool_id(id)).unwrap();
        summary.paths.iter().cloned().collect()
    }

    fn close(mut self) {
        self.spool.jobs.send(Job::Close).unwrap();
        assert!(self.drive());
    }
}

fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(&noop_waker())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn config() -> Config {
    Config { free_bytes_min: 0, segment_bytes: 1 << 20, prepared_segments: 1, ..Config::default() }
}

fn key() -> Key {
    Key::from_bytes([7; seal::KEY_BYTES])
}

fn gates() -> Vec<GateName> {
    vec!["outbound".into(), "inbound".into()]
}

fn gate_of(id: u64) -> GateName {
    gates()[(id % 2) as usize].clone()
}

fn spool_id(id: u64) -> SpoolId {
    SpoolId::promised(TransactionId::from_u64(id))
}

fn envelope(recipients: usize) -> Envelope {
    let recipient = |index: usize| Recipient {
        path: ForwardPath::parse(&format!("<r{index}@example.net>")).unwrap(),
        parameters: RcptParameters::default(),
    };
    let sender = Sender {
        path: ReversePath::parse("<s@example.org>").unwrap(),
        parameters: MailParameters::default(),
    };
    let mut envelope = Envelope::new(sender, recipient(0));
    for index in 1..recipients {
        envelope.push(recipient(index));
    }
    envelope
}

fn arrival() -> Arrival {
    Arrival {
        held_at_unix_ms: 1_700_000_000_000,
        client: "192.0.2.7:4711".parse().unwrap(),
        client_name: "mx.example.org".into(),
        protocol: "ESMTP".into(),
        tls: true,
    }
}

/// Mail data that tells messages apart, of any length.
fn data(id: u64, length: usize) -> Vec<u8> {
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Everything a reader gets of a message.
fn read_all(spool: &Spool, id: u64) -> Result<Vec<u8>, LoadError> {
    let mut message = spool.load(&spool_id(id))?;
    let mut bytes = Vec::new();
    while let Some(piece) = message.data.next()? {
        assert!(!piece.is_empty() && piece.len() <= FRAME_BYTES);
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(bytes.len() as u64, message.size);
    Ok(bytes)
}

const OFFERED: Mark = Mark::Offered;

fn relayed() -> Mark {
    Mark::Done { how: Done::Relayed, reply: "250 2.0.0 ok".into() }
}

fn due() -> Mark {
    Mark::Due { at_unix_ms: 5_000, attempts: 1, open_ms: 40, reply: "451 4.3.0 later".into() }
}

fn files(disk: &FaultyDisk) -> Vec<String> {
    let mut names = disk.list(Path::new("spool")).unwrap();
    names.retain(|name| name != "lock");
    names
}
