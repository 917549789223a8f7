//! The marks file of a segment: what was tried with its messages.
//!
//! A [`disk::log`] whose records are `Start` (whose marks these are), `Run` (a salt: from here on
//! a new data key), `Marks` (one batch; facts in plain, texts sealed, all authenticated), `Doubt`
//! (records were lost here) and `Acknowledged` (an operator has seen this damage).
//!
//! Invariants
//! - A batch is there as a whole or not at all.
//! - A missing or damaged marks file is written anew with a `Doubt`: whatever it does not say to
//!   be discharged may have been offered, and is never due again by itself.
//! - A run is never continued by another process: each opens its own, with a fresh salt.
//!
//! Not here: when marks are written (`commit`), what they mean for a start (`recover`).

use std::io;
use std::path::Path;

use disk::Disk;
use disk::log::{self, End, Log};

use super::format::{Fields, VERSION};
use super::mark::{Done, Kept, Mark, Need, Text};
use super::seal::{self, Key, SealKey, TAG_BYTES};

const MAGIC: &[u8; 8] = b"LGMARKS\0";

const START: u8 = 1;
const RUN: u8 = 2;
const MARKS: u8 = 3;
const DOUBT: u8 = 4;
const ACKNOWLEDGED: u8 = 5;

/// In place of a forward-path: the message is discharged as a whole.
const RETIRED: u32 = u32::MAX;

/// One thing that a marks file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A mark for a forward-path.
    Mark { id: u64, path: u32, mark: Mark },
    /// Every forward-path of the message is discharged: it is not looked for any more.
    Retired { id: u64 },
    /// Records were lost before this point.
    Doubt,
    /// The damage of this message, or at this offset, was seen.
    Acknowledged { id: u64, offset: u64 },
}

/// What a marks file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) events: Vec<Event>,
    /// Octets of the file that are whole records.
    pub(super) valid: u64,
    pub(super) end: End,
}

/// Reads a marks file. Without a key texts are missing and nothing is authenticated.
pub(super) fn decode(bytes: &[u8], segment: u32, key: Option<&Key>) -> Marks {
    let scan = log::scan(bytes);
    let mut marks = Marks { events: Vec::new(), valid: 0, end: scan.end };
    let mut run = None;
    for (index, record) in scan.records.iter().enumerate() {
        let payload = &bytes[record.clone()];
        let is_start = payload.first() == Some(&START);
        let read = if (index == 0) == is_start {
            decode_record(payload, segment, key, &mut run, &mut marks.events)
        } else {
            None
        };
        if read.is_none() {
            // A whole record that says nothing we wrote.
            marks.end = End::Damaged;
            return marks;
        }
        marks.valid = record.end as u64;
    }
    if scan.records.is_empty() && marks.end == End::Clean {
        // Made with its first records, so an empty one was never finished.
        marks.end = End::Torn;
    }
    marks
}

fn decode_record(
    payload: &[u8],
    segment: u32,
    key: Option<&Key>,
    run: &mut Option<SealKey>,
    events: &mut Vec<Event>,
) -> Option<()> {
    let mut fields = Fields(payload);
    match fields.u8()? {
        START => {
            let ours = fields.take(8)? == MAGIC && fields.u32()? == VERSION;
            (ours && fields.u32()? == segment).then_some(())
        }
        RUN => {
            let salt = fields.array()?;
            *run = key.map(|key| key.marks_key(&salt));
            Some(())
        }
        MARKS => decode_batch(payload, segment, key.is_some(), run.as_ref(), events),
        DOUBT => {
            events.push(Event::Doubt);
            Some(())
        }
        ACKNOWLEDGED => {
            events.push(Event::Acknowledged { id: fields.u64()?, offset: fields.u64()? });
            Some(())
        }
        _ => None,
    }
}

fn decode_batch(
    payload: &[u8],
    segment: u32,
    with_key: bool,
    run: Option<&SealKey>,
    events: &mut Vec<Event>,
) -> Option<()> {
    let mut fields = Fields(payload.get(1..)?);
    let counter = fields.u64()?;
    let facts_length = fields.u32()? as usize;
    let mut facts = Fields(fields.take(facts_length)?);
    let mut sealed = fields.0.to_vec();
    let texts = match (with_key, run) {
        (true, Some(run)) => {
            let plain = &payload[..payload.len() - sealed.len()];
            Some(&*run.open(counter, &associated(segment, plain), &mut sealed).ok()?)
        }
        (true, None) => return None,
        (false, _) => None,
    };
    let mut texts = texts.map(Fields);
    while !facts.0.is_empty() {
        events.push(decode_event(&mut facts, texts.as_mut())?);
    }
    Some(())
}

fn associated(segment: u32, plain: &[u8]) -> Vec<u8> {
    [&segment.to_le_bytes(), plain].concat()
}

fn decode_event(facts: &mut Fields<'_>, texts: Option<&mut Fields<'_>>) -> Option<Event> {
    let id = facts.u64()?;
    let path = facts.u32()?;
    if path == RETIRED {
        return Some(Event::Retired { id });
    }
    let kind = facts.u8()?;
    let text_length = usize::from(facts.u8()?);
    let reply = match texts {
        Some(texts) => Text::new(std::str::from_utf8(texts.take(text_length)?).ok()?),
        None => Text::NONE,
    };
    let mark = match kind {
        0 => Mark::Offered,
        1 => Mark::Due {
            at_unix_ms: facts.u64()?,
            attempts: facts.u32()?,
            open_ms: facts.u64()?,
            reply,
        },
        2 => Mark::Kept { why: Kept::Refused, reply },
        3 => Mark::Kept { why: Kept::Asked, reply },
        4 => Mark::Kept { why: Kept::Blocked(Need::EightBitMime), reply },
        5 => Mark::Kept { why: Kept::Blocked(Need::SmtpUtf8), reply },
        6 => Mark::Kept { why: Kept::Blocked(Need::Size(facts.u64()?)), reply },
        7 => Mark::Done { how: Done::Relayed, reply },
        8 => Mark::Done { how: Done::Removed, reply },
        9 => Mark::Done { how: Done::Reported, reply },
        10 => Mark::Done { how: Done::Dropped, reply },
        _ => return None,
    };
    Some(Event::Mark { id, path, mark })
}

/// Marks on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct Batch {
    facts: Vec<u8>,
    texts: Vec<u8>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    pub(super) fn mark(&mut self, id: u64, path: u32, mark: &Mark) {
        let (kind, reply) = match mark {
            Mark::Offered => (0, &Text::NONE),
            Mark::Due { reply, .. } => (1, reply),
            Mark::Kept { why: Kept::Refused, reply } => (2, reply),
            Mark::Kept { why: Kept::Asked, reply } => (3, reply),
            Mark::Kept { why: Kept::Blocked(Need::EightBitMime), reply } => (4, reply),
            Mark::Kept { why: Kept::Blocked(Need::SmtpUtf8), reply } => (5, reply),
            Mark::Kept { why: Kept::Blocked(Need::Size(_)), reply } => (6, reply),
            Mark::Done { how: Done::Relayed, reply } => (7, reply),
            Mark::Done { how: Done::Removed, reply } => (8, reply),
            Mark::Done { how: Done::Reported, reply } => (9, reply),
            Mark::Done { how: Done::Dropped, reply } => (10, reply),
        };
        self.facts.extend_from_slice(&id.to_le_bytes());
        self.facts.extend_from_slice(&path.to_le_bytes());
        // A `Text` is never longer than 255 octets.
        self.facts.extend_from_slice(&[kind, reply.as_str().len() as u8]);
        self.texts.extend_from_slice(reply.as_str().as_bytes());
        match mark {
            Mark::Due { at_unix_ms, attempts, open_ms, .. } => {
                self.facts.extend_from_slice(&at_unix_ms.to_le_bytes());
                self.facts.extend_from_slice(&attempts.to_le_bytes());
                self.facts.extend_from_slice(&open_ms.to_le_bytes());
            }
            Mark::Kept { why: Kept::Blocked(Need::Size(octets)), .. } => {
                self.facts.extend_from_slice(&octets.to_le_bytes());
            }
            Mark::Offered | Mark::Kept { .. } | Mark::Done { .. } => {}
        }
    }

    pub(super) fn retired(&mut self, id: u64) {
        self.facts.extend_from_slice(&id.to_le_bytes());
        self.facts.extend_from_slice(&RETIRED.to_le_bytes());
    }
}

fn start(segment: u32) -> Vec<u8> {
    let mut payload = vec![START];
    payload.extend_from_slice(MAGIC);
    payload.extend_from_slice(&VERSION.to_le_bytes());
    payload.extend_from_slice(&segment.to_le_bytes());
    payload
}

/// A marks file whose past is not known: everything is in doubt.
pub(super) fn doubtful(segment: u32, valid_prefix: &[u8]) -> Vec<u8> {
    let mut bytes = valid_prefix.to_vec();
    if bytes.is_empty() {
        log::encode(&start(segment), &mut bytes);
    }
    log::encode(&[DOUBT], &mut bytes);
    bytes
}

/// A marks file, open for one run.
pub(super) struct Book {
    log: Log,
    segment: u32,
    /// Salt still to be written with the first batch, and the key of the run.
    salt: Option<Vec<u8>>,
    key: SealKey,
    counter: u64,
}

impl Book {
    /// Makes the marks file of a new segment; durable but for its name.
    pub(super) fn create(
        disk: &dyn Disk,
        path: &Path,
        segment: u32,
        key: &Key,
    ) -> io::Result<Self> {
        let salt = seal::salt()?;
        let run = [&[RUN], salt.as_slice()].concat();
        let log = Log::create(disk, path, &[&start(segment), &run])?;
        Ok(Self { log, segment, salt: None, key: key.marks_key(&salt), counter: 0 })
    }

    /// Opens a marks file of which `valid` octets are whole records.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        segment: u32,
        key: &Key,
        valid: u64,
    ) -> io::Result<Self> {
        let log = Log::open(disk, path, valid)?;
        let salt = seal::salt()?;
        let run = [&[RUN], salt.as_slice()].concat();
        Ok(Self { log, segment, salt: Some(run), key: key.marks_key(&salt), counter: 0 })
    }

    /// Octets known to be durable.
    pub(super) const fn proven(&self) -> u64 {
        self.log.proven()
    }

    /// Writes a batch; durable when it returns. After an error the book must be closed.
    pub(super) fn write(&mut self, mut batch: Batch) -> io::Result<()> {
        let mut payload =
            Vec::with_capacity(13 + batch.facts.len() + batch.texts.len() + TAG_BYTES);
        payload.push(MARKS);
        payload.extend_from_slice(&self.counter.to_le_bytes());
        payload.extend_from_slice(&(batch.facts.len() as u32).to_le_bytes());
        payload.append(&mut batch.facts);
        let tag =
            self.key.seal(self.counter, &associated(self.segment, &payload), &mut batch.texts);
        self.counter += 1;
        payload.append(&mut batch.texts);
        payload.extend_from_slice(&tag);
        self.append(&payload)
    }

    /// Notes that damage was seen; durable when it returns.
    pub(super) fn acknowledge(&mut self, id: u64, offset: u64) -> io::Result<()> {
        let mut payload = vec![ACKNOWLEDGED];
        payload.extend_from_slice(&id.to_le_bytes());
        payload.extend_from_slice(&offset.to_le_bytes());
        self.append(&payload)
    }

    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        match &self.salt {
            Some(run) => self.log.append(&[run, payload])?,
            None => self.log.append(&[payload])?,
        }
        self.salt = None;
        Ok(())
    }
}
