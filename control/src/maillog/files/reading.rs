//! One file, read on: from octets to what is told of them.
//!
//! Invariants
//! - The offset stands behind the last line that was told (or inside one whose rest is skipped), and
//!   chain and mark are of exactly the octets before it.
//! - Octets that are skipped are told as lost before a poll ends: a checkpoint is never ahead of what
//!   was told.
//!
//! Not here: which file is next (`tail`).

use std::io::{self, Read};

use crate::maillog::files::chain::{Chain, each_chunk, sha256};
use crate::maillog::files::file::{
    END_OCTETS, FINGERPRINT_OCTETS, FileId, Fingerprint, Known, Mark, Position,
};
use crate::maillog::files::lines::{Piece, Skipped, Splitter};
use crate::maillog::files::source::{Packing, Source};
use crate::maillog::files::told::{Lost, Told};

/// See the head of this file.
pub(crate) struct Reading {
    source: Source,
    /// The content behind what was read; of a plain file each read is by place.
    unpacked: Option<Box<dyn Read + Send>>,
    splitter: Splitter,
    record: Record,
    /// Since when nothing came, once the file is not at the followed path any more.
    pub(crate) quiet_since_ns: Option<u64>,
}

/// What is known of the octets that were told.
struct Record {
    position: Position,
    chain: Chain,
    /// The first octets of the file, as far as they were read.
    first: Vec<u8>,
    /// The octets before the offset.
    last: Vec<u8>,
    skipped: Option<(Skipped, Position, u64)>,
}

impl Reading {
    /// From the first octet.
    pub(crate) fn begin(source: Source, line_max: usize) -> io::Result<Self> {
        let record = Record::of(&source);
        Self::at(source, record, Splitter::new(line_max, None))
    }

    /// From the end as it is now.
    pub(crate) fn begin_at_end(source: Source, line_max: usize) -> io::Result<Self> {
        let mut record = Record::of(&source);
        each_chunk(&mut source.content(0)?, source.size()?, |octets| record.pass(octets))?;
        record.first = source.first(FINGERPRINT_OCTETS)?;
        let inside = record.last.last().is_some_and(|last| *last != b'\n');
        let splitter = Splitter::new(line_max, inside.then_some(Skipped::Begun));
        Self::at(source, record, splitter)
    }

    /// From where it was left; `None` if the chain says that it is another file.
    pub(crate) fn resume(
        source: Source,
        known: &Known,
        line_max: usize,
    ) -> io::Result<Option<Self>> {
        let mut record = Record::of(&source);
        let offset = known.mark.offset;
        if source.packing == Packing::Gz {
            each_chunk(&mut source.content(0)?, offset, |octets| record.pass(octets))?;
            if record.chain.head() != known.chain {
                return Ok(None);
            }
        } else {
            record.chain = Chain::resume(known.chain, &mut source.file(), offset)?;
            record.last.resize(usize::try_from(known.mark.end_octets()).unwrap_or(END_OCTETS), 0);
            let read = source.read_at(&mut record.last, offset - known.mark.end_octets())?;
            if read < record.last.len() {
                return Ok(None);
            }
            record.position.offset = offset;
        }
        let passed = usize::try_from(offset).map_or(FINGERPRINT_OCTETS, |offset| offset);
        let octets = passed.min(FINGERPRINT_OCTETS).max(known.mark.fingerprint.octets as usize);
        record.first = source.first(octets)?;
        let splitter = Splitter::new(line_max, known.inside);
        Self::at(source, record, splitter).map(Some)
    }

    fn at(source: Source, record: Record, splitter: Splitter) -> io::Result<Self> {
        let unpacked = match source.packing {
            Packing::Gz => Some(source.content(record.position.offset)?),
            Packing::Plain | Packing::Other => None,
        };
        Ok(Self { source, unpacked, splitter, record, quiet_since_ns: None })
    }

    pub(crate) const fn file(&self) -> FileId {
        self.source.id
    }

    /// The end of what was told.
    pub(crate) const fn position(&self) -> &Position {
        &self.record.position
    }

    pub(crate) fn chain_value(&self) -> [u8; 32] {
        self.record.chain.value()
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.source.packing == Packing::Plain
    }

    /// What to keep in order to go on from here.
    pub(crate) fn known(&self) -> Known {
        Known { mark: self.mark(), chain: self.record.chain.head(), inside: self.splitter.inside() }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            file: self.source.id,
            fingerprint: Fingerprint::of(&self.record.first),
            offset: self.record.position.offset,
            end: sha256(&self.record.last),
        }
    }

    /// True if the file still holds what was read of it, at its beginning and before its end.
    pub(crate) fn is_unchanged(&self) -> io::Result<bool> {
        if !self.is_plain() {
            return Ok(true);
        }
        let mut first = vec![0; self.record.first.len()];
        let mut last = vec![0; self.record.last.len()];
        let mut pending = vec![0; self.splitter.pending().len()];
        let offset = self.record.position.offset;
        self.source.read_at(&mut first, 0)?;
        self.source.read_at(&mut last, offset - self.record.last.len() as u64)?;
        self.source.read_at(&mut pending, offset)?;
        // The zeros that a short read leaves are no answer: what was read may be zeros.
        let long_enough = self.source.size()? >= self.read_to();
        Ok(long_enough
            && first == self.record.first
            && last == self.record.last
            && pending == self.splitter.pending())
    }

    /// Reads on; nothing if there is nothing more now.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.read_to();
        let Some(unpacked) = &mut self.unpacked else {
            return self.source.read_at(buffer, at);
        };
        loop {
            match unpacked.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Tells what came.
    pub(crate) fn take(&mut self, octets: &[u8], each: &mut dyn FnMut(Told<'_>)) {
        self.record.see(octets, self.read_to());
        self.splitter.push(octets, &mut |piece| self.record.take(piece, each));
    }

    /// Nothing more will come: tells a last line that has no LF.
    pub(crate) fn finish(&mut self, each: &mut dyn FnMut(Told<'_>)) {
        self.splitter.finish(&mut |piece| self.record.take(piece, each));
        self.record.tell_skipped(each);
    }

    /// Tells what was skipped and not told yet.
    pub(crate) fn tell_skipped(&mut self, each: &mut dyn FnMut(Told<'_>)) {
        self.record.tell_skipped(each);
    }

    fn read_to(&self) -> u64 {
        self.record.position.offset + self.splitter.pending().len() as u64
    }
}

impl Record {
    fn of(source: &Source) -> Self {
        Self {
            position: Position { path: source.path.clone(), file: source.id, offset: 0 },
            chain: Chain::default(),
            first: Vec::new(),
            last: Vec::new(),
            skipped: None,
        }
    }

    /// Octets at `offset` were read.
    fn see(&mut self, octets: &[u8], offset: u64) {
        // After a restart more of the beginning may be known than was told.
        let known = (self.first.len() as u64).saturating_sub(offset);
        let new = usize::try_from(known).ok().and_then(|known| octets.get(known..));
        let room = FINGERPRINT_OCTETS - self.first.len();
        if let Some(new) = new {
            self.first.extend_from_slice(&new[..new.len().min(room)]);
        }
    }

    /// The offset moves over octets.
    fn pass(&mut self, octets: &[u8]) {
        self.chain.push(octets);
        self.position.offset += octets.len() as u64;
        if octets.len() >= END_OCTETS {
            self.last.clear();
        } else {
            let too_many = (self.last.len() + octets.len()).saturating_sub(END_OCTETS);
            self.last.drain(..too_many);
        }
        self.last.extend_from_slice(&octets[octets.len().saturating_sub(END_OCTETS)..]);
    }

    fn take(&mut self, piece: Piece<'_>, each: &mut dyn FnMut(Told<'_>)) {
        match piece {
            Piece::Lines(lines) | Piece::Beginning(lines) => {
                self.tell_skipped(each);
                each(Told::Lines { position: &self.position, lines });
                self.pass(lines);
            }
            Piece::Skipped(why, octets) => {
                if self.skipped.as_ref().is_some_and(|(before, ..)| *before != why) {
                    self.tell_skipped(each);
                }
                let position = &self.position;
                let skipped = self.skipped.get_or_insert_with(|| (why, position.clone(), 0));
                skipped.2 += octets.len() as u64;
                self.pass(octets);
            }
        }
    }

    fn tell_skipped(&mut self, each: &mut dyn FnMut(Told<'_>)) {
        let Some((why, position, octets)) = self.skipped.take() else { return };
        if let Some(why) = Lost::of(why) {
            each(Told::Lost { why, position: &position, octets: Some(octets) });
        }
    }
}
