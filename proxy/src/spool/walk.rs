//! Goes through one segment from frame header to frame header.
//!
//! Invariants
//! - Reads headers and commit records only, but for the bodies of the last batch of a segment
//!   that was not closed: a crash may have torn it, and an earlier one was synced before it was
//!   followed.
//! - Whatever stands before a commit record was promised: what is missing or damaged there is
//!   named. Nothing after the last one was.
//! - A sector of zeros in the last batch was never written (what is sealed has none): that batch was
//!   not synced and promised nothing, whether its commit record is there or not.
//! - Octets that are no frame end nothing: the next frame is looked for.
//!
//! Not here: marks, and what becomes of what is found (`recover`).

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;

use disk::File;

use super::format::{FRAME_HEADER, FRAME_MAGIC, FrameHeader, Kind};
use super::index::{Place, Spot};
use super::{Damage, Lane, SpoolId};
use crate::id::TransactionId;

/// Octets read at once where frames are small, and where they are skipped.
const READ_NEAR: usize = 64 * 1024;
const READ_FAR: usize = 512;

/// A jump longer than this skips mail data.
const JUMP: u64 = 4096;

/// The sector of a disk: what a read error costs.
const SECTOR: u64 = 512;

/// A frame of a message in parts.
#[derive(Clone, Copy)]
pub(super) struct Part {
    header: FrameHeader,
    spot: Spot,
}

/// A message all of whose frames were found.
pub(super) struct Complete {
    pub(super) id: u64,
    pub(super) gate: u16,
    pub(super) lane: Lane,
    pub(super) size: u64,
    pub(super) paths: u32,
    pub(super) place: Place,
}

impl Complete {
    pub(super) fn damage(&self, what: &'static str) -> Damage {
        Damage {
            segment: self.place.home(),
            offset: self.place.spots().last().map_or(0, |spot| u64::from(spot.offset)),
            id: Some(SpoolId::promised(TransactionId::from_u64(self.id))),
            what,
            acknowledged: false,
        }
    }
}

/// What a segment holds.
pub(super) struct Walked {
    /// Messages promised, all of whose frames were found.
    pub(super) complete: Vec<Complete>,
    /// What is missing or damaged of what was promised.
    pub(super) damaged: Vec<Damage>,
    pub(super) highest_id: u64,
    /// Something was promised here.
    pub(super) promised: bool,
    /// A close record is its last: everything before was synced.
    pub(super) closed: bool,
    /// Bytes that were not promised: after the last commit record, or a last batch that was not
    /// written whole.
    pub(super) tail: Option<Range<u64>>,
    /// Octets in the file.
    pub(super) size: u64,
}

/// Goes through segment number `segment`, whose header ends at `start`. `unfinished` are the
/// messages begun in earlier segments, and afterwards those begun up to here.
pub(super) fn walk(
    segment: u32,
    file: &dyn File,
    start: u64,
    unfinished: &mut HashMap<u64, Vec<Part>>,
) -> io::Result<Walked> {
    let mut walk = Walk::new(segment, file, start, unfinished)?;
    walk.walk();
    let from = walk.torn.unwrap_or(walk.committed_to);
    // Zeros are pages that were prepared and never written.
    let end = if walk.window.unreadable { walk.size } else { walk.written_end(from) };
    Ok(Walked {
        tail: (from < end).then_some(from..end),
        complete: walk.complete,
        damaged: walk.damaged,
        highest_id: walk.highest_id,
        promised: walk.promised,
        closed: walk.closed,
        size: walk.size,
    })
}

struct Walk<'a> {
    segment: u32,
    window: Window<'a>,
    size: u64,
    unfinished: &'a mut HashMap<u64, Vec<Part>>,
    /// Frames since the last commit record, with the checksums of their bodies.
    staged: Vec<(Part, u32)>,
    /// Bytes that are no frames, since the last commit record.
    gaps: Vec<u64>,
    counter: u64,
    /// The end of the last commit record.
    committed_to: u64,
    last_batch: Vec<(Part, u32)>,
    /// Where the last batch begins, in the file and in what is damaged.
    last_start: u64,
    last_damaged: usize,
    /// What was damaged up to the end of the last batch.
    damaged_to: usize,
    /// The last batch begins here, and was not written whole.
    torn: Option<u64>,
    /// The end of what is not zero, when it was looked for.
    written_end: Option<u64>,
    complete: Vec<Complete>,
    damaged: Vec<Damage>,
    highest_id: u64,
    promised: bool,
    closed: bool,
}

impl<'a> Walk<'a> {
    fn new(
        segment: u32,
        file: &'a dyn File,
        start: u64,
        unfinished: &'a mut HashMap<u64, Vec<Part>>,
    ) -> io::Result<Self> {
        let size = file.size()?;
        Ok(Self {
            segment,
            window: Window { file, size, start: 0, bytes: Vec::new(), unreadable: false },
            size,
            unfinished,
            staged: Vec::new(),
            gaps: Vec::new(),
            counter: 0,
            committed_to: start,
            last_batch: Vec::new(),
            last_start: start,
            last_damaged: 0,
            damaged_to: 0,
            torn: None,
            written_end: None,
            complete: Vec::new(),
            damaged: Vec::new(),
            highest_id: 0,
            promised: false,
            closed: false,
        })
    }

    fn walk(&mut self) {
        let mut offset = self.committed_to;
        while offset < self.size && !self.closed {
            match self.frame_at(offset) {
                Some((header, checksum)) => {
                    if header.counter != self.counter {
                        self.gaps.push(offset);
                    }
                    self.counter = header.counter + 1;
                    let end = offset + header.frame_length();
                    self.take(header, checksum, offset);
                    offset = end;
                }
                None => {
                    let next = self.next_frame(offset);
                    if let Some(end) = self.lost_commit_end(offset, next) {
                        self.lost_commit(offset, end);
                    } else if next.is_some() {
                        self.gaps.push(offset);
                    }
                    let Some(next) = next else { break };
                    if self.committed_to == next {
                        self.counter += 1;
                    } else {
                        // The frames that the gap swallowed are gone, and it is known already.
                        self.counter =
                            self.frame_at(next).map_or(self.counter, |(header, _)| header.counter);
                    }
                    offset = next;
                }
            }
        }
        if !self.closed {
            self.check_last_batch();
        }
    }

    /// The frame whose header begins here, whole, and newer than those before it.
    fn frame_at(&mut self, offset: u64) -> Option<(FrameHeader, u32)> {
        let size = self.size;
        let counter = self.counter;
        let bytes = self.window.at(offset, FRAME_HEADER)?;
        FrameHeader::decode(bytes).filter(|(header, _)| {
            offset + header.frame_length() <= size && header.counter >= counter
        })
    }

    /// The next offset after this one at which a frame begins.
    fn next_frame(&mut self, after: u64) -> Option<u64> {
        // No frame begins in the zeros behind the last one.
        let end = self.written_end(after);
        let mut offset = after + 1;
        while offset < end && offset + FRAME_HEADER as u64 <= self.size {
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            let bytes = self.window.at(offset, left.min(READ_NEAR))?;
            let candidate = bytes.windows(4).position(|four| four == FRAME_MAGIC);
            let step = bytes.len() as u64 - 3;
            match candidate {
                Some(at) if self.frame_at(offset + at as u64).is_some() => {
                    return Some(offset + at as u64);
                }
                Some(at) => offset += at as u64 + 1,
                None => offset += step,
            }
        }
        None
    }

    /// The end of what lies between, if that is by its length the damaged commit record of the
    /// messages staged: a batch that was written whole, not one that a crash tore.
    fn lost_commit_end(&mut self, offset: u64, next: Option<u64>) -> Option<u64> {
        let ends = self.staged.iter().filter(|(part, _)| is_end(part.header.kind)).count() as u64;
        let end = offset + FRAME_HEADER as u64 + 8 * ends;
        if ends == 0 || !self.gaps.is_empty() {
            return None;
        }
        let fits = match next {
            Some(next) => next == end,
            // Behind it there is nothing, or there are zeros that were prepared. Its last id may
            // end in some, but is not 0.
            None => end == self.size || (end - 7..=end).contains(&self.written_end(offset)),
        };
        if !fits {
            return None;
        }
        // Pages that were never written end in zeros; a list of ids does not.
        let bytes = self.window.at(end - 8, 8)?;
        bytes.iter().any(|octet| *octet != 0).then_some(end)
    }

    fn lost_commit(&mut self, offset: u64, end: u64) {
        self.damaged.push(self.damage(offset, None, "a commit record"));
        self.commit(end, &[]);
    }

    fn take(&mut self, header: FrameHeader, checksum: u32, offset: u64) {
        let length = header.frame_length() as u32;
        let spot = Spot { segment: self.segment, offset: offset as u32, length };
        self.highest_id = self.highest_id.max(header.id);
        let part = Part { header, spot };
        match header.kind {
            Kind::Whole | Kind::Begin | Kind::Data | Kind::End => {
                self.staged.push((part, checksum));
            }
            Kind::Commit | Kind::Close => {
                let end = offset + header.frame_length();
                match self.commit_list(&part, checksum) {
                    Some(ids) => self.commit(end, &ids),
                    None => self.lost_commit(offset, end),
                }
                self.closed = header.kind == Kind::Close;
            }
        }
    }

    /// The ids that a commit record lists, if it is whole.
    fn commit_list(&mut self, part: &Part, checksum: u32) -> Option<Vec<u64>> {
        let offset = u64::from(part.spot.offset) + FRAME_HEADER as u64;
        let length = part.header.length as usize;
        if length == 0 {
            return (part.header.paths == 0).then(Vec::new);
        }
        let bytes = self.window.at(offset, length)?;
        if crc32c::crc32c(bytes) != checksum || length != part.header.paths as usize * 8 {
            return None;
        }
        let (ids, _) = bytes.as_chunks::<8>();
        Some(ids.iter().map(|id| u64::from_le_bytes(*id)).collect())
    }

    /// Everything staged was on disk when the commit record that ends here was promised.
    fn commit(&mut self, end: u64, ids: &[u64]) {
        self.last_start = self.committed_to;
        self.last_damaged = self.damaged_to;
        self.committed_to = end;
        self.last_batch = std::mem::take(&mut self.staged);
        let mut seen = HashSet::new();
        for index in 0..self.last_batch.len() {
            let (part, _) = self.last_batch[index];
            let id = part.header.id;
            match part.header.kind {
                Kind::Whole => {
                    seen.insert(id);
                    self.promised = true;
                    self.complete.push(complete(id, &part.header, Place::Whole(part.spot)));
                }
                Kind::Begin => {
                    self.unfinished.insert(id, vec![part]);
                }
                Kind::Data => self.unfinished.entry(id).or_default().push(part),
                Kind::End => {
                    seen.insert(id);
                    self.promised = true;
                    let mut parts = self.unfinished.remove(&id).unwrap_or_default();
                    parts.push(part);
                    self.finish(id, &parts);
                }
                Kind::Commit | Kind::Close => {}
            }
        }
        let gap = self.gaps.first().copied();
        for offset in std::mem::take(&mut self.gaps) {
            self.damaged.push(self.damage(offset, None, "octets that are no frames"));
        }
        for id in ids.iter().filter(|id| !seen.contains(id)) {
            self.highest_id = self.highest_id.max(*id);
            self.promised = true;
            self.unfinished.remove(id);
            let offset = gap.unwrap_or(end);
            let id = SpoolId::promised(TransactionId::from_u64(*id));
            self.damaged.push(self.damage(offset, Some(id), "its last frame is missing"));
        }
        self.damaged_to = self.damaged.len();
    }

    /// A message whose last frame was found: all others must be there, in order.
    fn finish(&mut self, id: u64, parts: &[Part]) {
        let in_order = parts.iter().enumerate().all(|(index, part)| {
            part.header.part as usize == index && (part.header.kind == Kind::Begin) == (index == 0)
        });
        let Some(last) = parts.last() else { return };
        if in_order {
            let spots = parts.iter().map(|part| part.spot).collect();
            self.complete.push(complete(id, &last.header, Place::Parts(spots)));
        } else {
            let id = SpoolId::promised(TransactionId::from_u64(id));
            let offset = u64::from(last.spot.offset);
            self.damaged.push(self.damage(offset, Some(id), "a frame of it is missing"));
        }
    }

    /// Reads the bodies of the last batch: a crash may have torn them.
    fn check_last_batch(&mut self) {
        for (part, checksum) in std::mem::take(&mut self.last_batch) {
            let offset = u64::from(part.spot.offset) + FRAME_HEADER as u64;
            let bytes = self.window.at(offset, part.header.length as usize);
            if bytes.is_some_and(|bytes| crc32c::crc32c(bytes) == checksum) {
                continue;
            }
            let damaged = |message: &Complete| message.place.spots().contains(&part.spot);
            if let Some(at) = self.complete.iter().position(damaged) {
                let message = self.complete.swap_remove(at);
                let id = Some(SpoolId::promised(TransactionId::from_u64(message.id)));
                self.damaged.push(self.damage(u64::from(part.spot.offset), id, "the frame's body"));
            } else {
                // Of a message that was not finished here; if ever, its end will miss this part.
                self.unfinished.remove(&part.header.id);
            }
        }
        if self.damaged.len() > self.last_damaged
            && self.has_unwritten_sector(self.last_start..self.committed_to)
        {
            // Not damage: a crash came before the sync, and nobody was told of this batch. What is
            // whole of it stays all the same.
            self.damaged.truncate(self.last_damaged);
            self.torn = Some(self.last_start);
        }
    }

    fn damage(&self, offset: u64, id: Option<SpoolId>, what: &'static str) -> Damage {
        Damage { segment: self.segment, offset, id, what, acknowledged: false }
    }

    /// The end of what is not zero, from an offset on of which all frames before are known.
    fn written_end(&mut self, from: u64) -> u64 {
        if let Some(end) = self.written_end {
            return end.max(from);
        }
        let mut end = from;
        let mut offset = from;
        while offset < self.size {
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            let length = left.min(READ_NEAR);
            let Some(bytes) = self.window.at(offset, length) else { break };
            if bytes.iter().fold(0, |any, octet| any | octet) != 0 {
                let zeros = bytes.iter().rev().take_while(|octet| **octet == 0).count();
                end = offset + (length - zeros) as u64;
            }
            offset += length as u64;
        }
        self.written_end = Some(end);
        end
    }

    /// True if a sector, as far as it lies in this range of frames, is zero. A range begins with a
    /// frame's first octets and ends with an id, so that not even their parts of a sector are.
    fn has_unwritten_sector(&mut self, range: Range<u64>) -> bool {
        let mut offset = range.start;
        while offset < range.end {
            let end = (offset / SECTOR * SECTOR + SECTOR).min(range.end);
            match self.window.at(offset, (end - offset) as usize) {
                Some(bytes) if bytes.iter().all(|octet| *octet == 0) => {
                    // What could not be read is not known to be zero.
                    return !self.window.unreadable;
                }
                _ => offset = end,
            }
        }
        false
    }
}

const fn is_end(kind: Kind) -> bool {
    matches!(kind, Kind::Whole | Kind::End)
}

fn complete(id: u64, header: &FrameHeader, place: Place) -> Complete {
    let FrameHeader { gate, lane, octets, paths, .. } = *header;
    Complete { id, gate, lane, size: octets, paths, place }
}

/// A part of a file in memory: little where mail data is skipped, more where frames are small.
struct Window<'a> {
    file: &'a dyn File,
    size: u64,
    start: u64,
    bytes: Vec<u8>,
    /// A sector could not be read, and counts as zeros.
    unreadable: bool,
}

impl Window<'_> {
    /// `length` octets at `offset`, or `None` beyond the end.
    fn at(&mut self, offset: u64, length: usize) -> Option<&[u8]> {
        if offset.checked_add(length as u64)? > self.size {
            return None;
        }
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + length as u64 > end {
            let near = offset >= self.start && offset <= end + JUMP;
            let wanted = length.max(if near { READ_NEAR } else { READ_FAR });
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            self.fill(offset, wanted.min(left));
        }
        let at = usize::try_from(offset - self.start).ok()?;
        self.bytes.get(at..at + length)
    }

    fn fill(&mut self, offset: u64, length: usize) {
        self.start = offset;
        self.bytes.clear();
        self.bytes.resize(length, 0);
        if self.file.read_exact_at(offset, &mut self.bytes).is_ok() {
            return;
        }
        // Sector by sector: what cannot be read is a gap, not the end of everything.
        self.bytes.fill(0);
        let mut done = 0;
        while done < length {
            let place = offset + done as u64;
            let sector = usize::try_from(SECTOR - place % SECTOR).unwrap_or(1).min(length - done);
            let bytes = &mut self.bytes[done..done + sector];
            if self.file.read_exact_at(place, bytes).is_err() {
                bytes.fill(0);
                self.unreadable = true;
            }
            done += sector;
        }
    }
}
