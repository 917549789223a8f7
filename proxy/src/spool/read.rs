//! Reads held messages back, authenticating every octet.
//!
//! Invariants
//! - What is returned was sealed by us, for this message, at this place in it.
//! - Damage sets the message aside and names it; a disk error does not.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use disk::{Disk, File};

use super::format::{
    FRAME_HEADER, FrameHeader, Kind, SegmentHeader, decode_beginning, decode_end, decode_whole,
};
use super::index::{Index, Place, Spot};
use super::seal::{Key, SealKey};
use super::segment::segment_path;
use super::{Damage, DataReader, GateName, HeldMessage, LoadError, SpoolId, at};

/// Segments kept open for reading.
const OPEN_MAX: usize = 128;

/// Open segments.
pub(super) struct Readers {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    key: Option<Key>,
    open: Mutex<HashMap<u32, Arc<Reader>>>,
}

struct Reader {
    file: Box<dyn File>,
    path: PathBuf,
    number: u32,
    key: SealKey,
    gates: Vec<GateName>,
}

/// Why a frame was not returned.
enum Fault {
    Damaged(Spot, &'static str),
    Read(PathBuf, io::Error),
    NoKey,
}

impl Readers {
    pub(super) fn new(disk: Arc<dyn Disk>, directory: &Path, key: Option<Key>) -> Self {
        Self { disk, directory: directory.to_owned(), key, open: Mutex::default() }
    }

    /// Closes a segment that is going away.
    pub(super) fn forget(&self, segment: u32) {
        self.open().remove(&segment);
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u32, Arc<Reader>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self, spot: Spot) -> Result<Arc<Reader>, Fault> {
        if let Some(reader) = self.open().get(&spot.segment) {
            return Ok(Arc::clone(reader));
        }
        let key = self.key.as_ref().ok_or(Fault::NoKey)?;
        let path = segment_path(&self.directory, spot.segment);
        let (file, header) = match open_segment(&*self.disk, &path) {
            Ok((file, Some(header))) if header.number == spot.segment => (file, header),
            Ok(_) => return Err(Fault::Damaged(spot, "the segment's header")),
            Err(source) => return Err(Fault::Read(path, source)),
        };
        let reader = Arc::new(Reader {
            file,
            path,
            number: spot.segment,
            key: key.segment_key(&header.salt),
            gates: header.gates,
        });
        let mut open = self.open();
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(spot.segment, Arc::clone(&reader));
        Ok(reader)
    }

    /// Reads one frame of message `id` and its text.
    fn frame(&self, id: SpoolId, spot: Spot) -> Result<(Arc<Reader>, FrameHeader, Bytes), Fault> {
        let reader = self.reader(spot)?;
        let (header, text) = reader.frame(spot)?;
        if header.id != id.as_u64() {
            return Err(Fault::Damaged(spot, "a frame of another message"));
        }
        Ok((reader, header, text))
    }
}

impl Reader {
    fn frame(&self, spot: Spot) -> Result<(FrameHeader, Bytes), Fault> {
        let mut bytes = vec![0; spot.length as usize];
        match self.file.read_exact_at(u64::from(spot.offset), &mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Fault::Damaged(spot, "the frame is cut short"));
            }
            Err(source) => return Err(Fault::Read(self.path.clone(), source)),
        }
        let (header, _) = FrameHeader::decode(&bytes)
            .filter(|(header, _)| header.frame_length() == u64::from(spot.length))
            .ok_or(Fault::Damaged(spot, "the frame's header"))?;
        let associated = header.associated(self.number);
        // The tag says more than the checksum, which is for those without the key.
        let opened = self.key.open(header.counter, &associated, &mut bytes[FRAME_HEADER..]);
        let length = match opened {
            Ok(text) => text.len(),
            Err(_) => return Err(Fault::Damaged(spot, "the frame does not authenticate")),
        };
        Ok((header, Bytes::from(bytes).slice(FRAME_HEADER..FRAME_HEADER + length)))
    }
}

/// Opens a segment and reads its header; `None` in its place if it is damaged.
pub(super) fn open_segment(
    disk: &dyn Disk,
    path: &Path,
) -> io::Result<(Box<dyn File>, Option<SegmentHeader>)> {
    let file = disk.open_read_only(path)?;
    let header = read_header(&*file)?.and_then(|bytes| SegmentHeader::decode(&bytes).ok());
    Ok((file, header))
}

/// The octets of a segment's header, if the file begins like one and is long enough.
pub(super) fn read_header(file: &dyn File) -> io::Result<Option<Vec<u8>>> {
    let mut start = [0; 16];
    let read = file.read_at(0, &mut start)?;
    let Some(length) = SegmentHeader::length(&start[..read]) else {
        return Ok(None);
    };
    if file.size()? < length as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(0, &mut bytes)?;
    Ok(Some(bytes))
}

/// What [`DataReader`] reads from.
pub(super) struct Parts {
    index: Arc<Mutex<Index>>,
    readers: Arc<Readers>,
    id: SpoolId,
    spots: Box<[Spot]>,
    next: usize,
    /// The last piece, read already for the trailer that it carries.
    last: Option<Bytes>,
    left: u64,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("id", &self.id).field("left", &self.left).finish()
    }
}

impl Parts {
    pub(super) fn next_piece(&mut self) -> Result<Option<Bytes>, LoadError> {
        let piece = self.read().map_err(|fault| self.fail(fault))?;
        Ok(piece)
    }

    fn read(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(spot) = self.spots.get(self.next).copied() else {
            return match self.last.take() {
                Some(piece) if piece.len() as u64 == self.left => {
                    self.left = 0;
                    Ok(Some(piece).filter(|piece| !piece.is_empty()))
                }
                Some(_) => Err(Fault::Damaged(self.end(), "mail data is missing")),
                None => Ok(None),
            };
        };
        let (_, header, text) = self.readers.frame(self.id, spot)?;
        // Part 0 is the beginning.
        let expected = header.kind == Kind::Data && header.part as usize == self.next + 1;
        if !expected || text.len() as u64 > self.left {
            return Err(Fault::Damaged(spot, "a frame out of place"));
        }
        self.next += 1;
        self.left -= text.len() as u64;
        Ok(Some(text))
    }

    fn end(&self) -> Spot {
        self.spots.last().copied().unwrap_or(Spot { segment: 0, offset: 0, length: 0 })
    }

    fn fail(&mut self, fault: Fault) -> LoadError {
        // Nothing more comes after a fault.
        self.next = self.spots.len();
        self.last = None;
        failed(&self.index, self.id, fault)
    }
}

/// Opens a message: everything but its mail data is read now.
pub(super) fn load(
    index: &Arc<Mutex<Index>>,
    readers: &Arc<Readers>,
    id: SpoolId,
) -> Result<HeldMessage, LoadError> {
    let (gate, entry) = lock(index)
        .entry(id)
        .map(|(gate, entry)| (Arc::clone(gate), entry.clone()))
        .ok_or(LoadError::NotHeld(id))?;
    let paths: Vec<_> = entry.paths.iter().cloned().collect();
    let read = || {
        let spots = entry.place.spots();
        let (Some(first), Some(last)) = (spots.first(), spots.last()) else {
            return Err(Fault::Damaged(Spot { segment: 0, offset: 0, length: 0 }, "no frames"));
        };
        let (reader, header, text) = readers.frame(id, *first)?;
        let damaged = |what| Fault::Damaged(*first, what);
        let gate_as_sealed = reader.gates.get(usize::from(header.gate));
        if gate_as_sealed != Some(&gate) || header.lane != entry.lane {
            return Err(damaged("a frame of another gate"));
        }
        let (beginning, message_id, between, piece) = match (&entry.place, header.kind) {
            (Place::Whole(_), Kind::Whole) => {
                let body = decode_whole(&text, header.octets).ok_or(damaged("the frame's text"))?;
                let beginning = decode_beginning(body.beginning);
                let message_id = body.message_id.map(str::to_owned);
                let start = 4 + body.beginning.len();
                let end = start + body.data.len();
                (beginning, message_id, &spots[1..], text.slice(start..end))
            }
            (Place::Parts(_), Kind::Begin) if header.part == 0 => {
                let (_, end_header, end) = readers.frame(id, *last)?;
                let in_place = end_header.kind == Kind::End
                    && end_header.part as usize + 1 == spots.len()
                    && end_header.octets == entry.size;
                let (data, message_id) = decode_end(&end)
                    .filter(|_| in_place)
                    .ok_or(Fault::Damaged(*last, "the last frame"))?;
                let message_id = message_id.map(str::to_owned);
                let length = data.len();
                let between = &spots[1..spots.len() - 1];
                (decode_beginning(&text), message_id, between, end.slice(..length))
            }
            _ => return Err(damaged("a frame of another kind")),
        };
        let (arrival, envelope) = beginning.ok_or(damaged("the envelope"))?;
        if envelope.recipients().len() != paths.len() {
            return Err(damaged("the envelope"));
        }
        let parts = Parts {
            index: Arc::clone(index),
            readers: Arc::clone(readers),
            id,
            spots: between.into(),
            next: 0,
            last: Some(piece),
            left: entry.size,
        };
        Ok((arrival, envelope, message_id, DataReader { parts }))
    };
    let (arrival, envelope, message_id, data) = read().map_err(|fault| failed(index, id, fault))?;
    Ok(HeldMessage {
        id,
        gate,
        lane: entry.lane,
        envelope,
        arrival,
        message_id,
        size: entry.size,
        paths,
        data,
    })
}

/// Sets a damaged message aside and says what is wrong.
fn failed(index: &Mutex<Index>, id: SpoolId, fault: Fault) -> LoadError {
    match fault {
        Fault::Damaged(spot, what) => {
            let damage = Damage {
                segment: spot.segment,
                offset: u64::from(spot.offset),
                id: Some(id),
                what,
                acknowledged: false,
            };
            lock(index).set_aside(id, damage.clone());
            LoadError::Damaged(damage)
        }
        Fault::Read(path, source) => {
            let (path, source) = at(&path, source);
            LoadError::Read { path, source }
        }
        Fault::NoKey => LoadError::NoKey,
    }
}

fn lock(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}
