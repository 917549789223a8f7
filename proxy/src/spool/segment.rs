//! Segment files: names, making one, sealing frames into it, removing it.
//!
//! Invariants
//! - Used once: filled, closed, and removed when nothing in it is needed. Only the run that made
//!   a segment writes to it.
//! - Its header is synced and read back, its name and that of its marks are durable, before the
//!   first frame. Behind the last frame there are only zeros, if anything.
//! - Removal: `.seg`, sync the folder, then `.marks`. A crash between leaves marks without
//!   messages, which are harmless; never messages without marks.
//!
//! Not here: what is written when (`commit`), what is found at start (`recover`).

use std::io;
use std::path::{Path, PathBuf};

use disk::{Disk, File};

use super::GateName;
use super::ahead::Prepared;
use super::format::{FRAME_HEADER, FrameHeader, Kind, SegmentHeader};
use super::index::Spot;
use super::marks::Book;
use super::seal::{self, Key, SealKey, TAG_BYTES};

/// Octets that leave the system's cache together, once they are synced.
const LEAVE_BYTES: u64 = 1 << 20;

/// Mean size from which on messages count as large.
const LARGE: u64 = 32 << 10;

/// A file of the spool, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// `NNNNNNNN.seg`
    Segment(u32),
    /// `NNNNNNNN.marks`
    Marks(u32),
    /// `NNNNNNNN.tail`: bytes after the last commit of a segment, set aside.
    Tail(u32),
    /// Anything else that begins with a number: set aside by us or by a person.
    Other(u32),
}

impl Name {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (digits, rest) = name.split_once('.')?;
        if digits.len() < 8 || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
            return None;
        }
        let number = digits.parse().ok()?;
        Some(match rest {
            "seg" => Self::Segment(number),
            "marks" => Self::Marks(number),
            "tail" => Self::Tail(number),
            _ => Self::Other(number),
        })
    }

    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Segment(number)
            | Self::Marks(number)
            | Self::Tail(number)
            | Self::Other(number) => number,
        }
    }
}

pub(super) fn segment_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08}.seg"))
}

pub(super) fn marks_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08}.marks"))
}

pub(super) fn tail_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08}.tail"))
}

/// The name of a file that is kept for a person: found by no start.
pub(super) fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".damaged");
    path.with_file_name(name)
}

/// The segment that is being filled.
pub(super) struct Active {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    /// Octets in the file.
    pub(super) offset: u64,
    /// Octets that were in the file before it became a segment: zeros. 0 if it grows.
    pub(super) prepared: u64,
    /// Messages that were promised in it.
    pub(super) promised: u64,
    /// Octets up to which it was synced.
    synced: u64,
    /// Octets up to which it has left the system's cache.
    left: u64,
    file: Box<dyn File>,
    key: SealKey,
    counter: u64,
}

impl Active {
    /// Makes segment `number` and its marks, durable and read back; of a file made ahead if one is
    /// given.
    pub(super) fn create(
        disk: &dyn Disk,
        directory: &Path,
        number: u32,
        key: &Key,
        gates: &[GateName],
        prepared: Option<Prepared>,
    ) -> Result<(Self, Book), (PathBuf, io::Error)> {
        let path = segment_path(directory, number);
        let marks = marks_path(directory, number);
        let book = Book::create(disk, &marks, number, key).map_err(|source| (marks, source))?;
        let make = || {
            let salt = seal::salt()?;
            let header =
                SegmentHeader { number, key_id: key.key_id(), salt, gates: gates.to_vec() };
            let bytes = header.encode();
            let (mut file, before, length) = match prepared {
                Some(Prepared { path: before, file, length }) => (file, Some(before), length),
                None => (disk.create_new(&path)?, None, 0),
            };
            file.write_at(0, &bytes)?;
            file.sync()?;
            let mut found = vec![0; bytes.len()];
            file.read_exact_at(0, &mut found)?;
            if found != bytes {
                return Err(io::Error::other("the header reads back otherwise than written"));
            }
            if let Some(before) = before {
                if disk.exists(&path)? {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                disk.rename(&before, &path)?;
            }
            disk.sync_dir(directory)?;
            Ok((file, salt, bytes.len() as u64, length))
        };
        let (file, salt, offset, prepared) = make().map_err(|source| (path.clone(), source))?;
        let key = key.segment_key(&salt);
        let active = Self {
            number,
            path,
            offset,
            prepared,
            promised: 0,
            synced: offset,
            left: 0,
            file,
            key,
            counter: 0,
        };
        Ok((active, book))
    }

    /// Seals a frame to the end of `batch`, which is written at `offset` later. `fill` adds the
    /// text; length and counter of the header are set here.
    pub(super) fn seal(
        &mut self,
        batch: &mut Vec<u8>,
        mut header: FrameHeader,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Spot {
        let start = batch.len();
        batch.resize(start + FRAME_HEADER, 0);
        fill(batch);
        let body = start + FRAME_HEADER;
        header.counter = self.counter;
        self.counter += 1;
        header.length = (batch.len() - body) as u32;
        if !matches!(header.kind, Kind::Commit | Kind::Close) {
            header.length += TAG_BYTES as u32;
            let associated = header.associated(self.number);
            let tag = self.key.seal(header.counter, &associated, &mut batch[body..]);
            batch.extend_from_slice(&tag);
        }
        let checksum = crc32c::crc32c(&batch[body..]);
        batch[start..body].copy_from_slice(&header.encode(checksum));
        Spot {
            segment: self.number,
            offset: (self.offset + start as u64) as u32,
            length: (batch.len() - start) as u32,
        }
    }

    /// Adds the frame that closes a batch and lists the messages it promises.
    pub(super) fn seal_commit(&mut self, batch: &mut Vec<u8>, kind: Kind, ids: &[u64]) {
        let header = FrameHeader { paths: ids.len() as u32, ..FrameHeader::bare(kind) };
        self.seal(batch, header, |out| {
            for id in ids {
                out.extend_from_slice(&id.to_le_bytes());
            }
        });
    }

    /// Writes a batch at the end of the segment. After an error the segment is never used again:
    /// how much arrived is not known, and no frame is written twice.
    pub(super) fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        self.file.write_at(self.offset, batch)?;
        self.offset += batch.len() as u64;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.synced = self.offset;
        if self.has_large() {
            // Its memory takes what comes next: new memory for gigabytes costs more than reading them
            // again, hours later. The last page is written to again.
            let full = self.synced - self.synced % LEAVE_BYTES;
            self.file.leave_cache(self.left, full - self.left);
            self.left = full;
        }
        Ok(())
    }

    /// Are its messages large, on the whole? Of those a sync has more to write than the file system adds
    /// to it.
    pub(super) fn has_large(&self) -> bool {
        self.offset / self.promised.max(1) >= LARGE
    }

    /// Octets written since the last sync.
    pub(super) const fn unsynced(&self) -> u64 {
        self.offset - self.synced
    }

    /// Octets that the next `length` add to the file.
    pub(super) fn growth(&self, length: u64) -> u64 {
        (self.offset + length).saturating_sub(self.prepared.max(self.offset))
    }

    /// Gives the zeros behind the last frame back. Promises nothing: if it fails they stay.
    pub(super) fn trim(&mut self) {
        if self.offset < self.prepared
            && let Err(error) = self.file.set_size(self.offset)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot cut off zeros");
        }
    }
}

impl FrameHeader {
    /// A header of which only the kind is set.
    pub(super) const fn bare(kind: Kind) -> Self {
        Self {
            kind,
            lane: super::Lane::Mail,
            gate: 0,
            length: 0,
            part: 0,
            counter: 0,
            id: 0,
            octets: 0,
            held_at_unix_ms: 0,
            paths: 0,
        }
    }
}

/// Removes segments of which nothing is needed: all `.seg`, one sync, then what belongs to them.
pub(super) fn remove(disk: &dyn Disk, directory: &Path, numbers: &[u32]) -> io::Result<()> {
    if numbers.is_empty() {
        return Ok(());
    }
    for number in numbers {
        remove_if_there(disk, &segment_path(directory, *number))?;
    }
    disk.sync_dir(directory)?;
    for number in numbers {
        remove_if_there(disk, &marks_path(directory, *number))?;
        // Sealed with a salt that went with the segment, and never promised.
        remove_if_there(disk, &tail_path(directory, *number))?;
    }
    Ok(())
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Renames a segment with damage, and its marks, out of the way of every start. Nothing is lost.
pub(super) fn set_aside(disk: &dyn Disk, directory: &Path, number: u32) -> io::Result<()> {
    let path = segment_path(directory, number);
    disk.rename(&path, &aside(&path))?;
    disk.sync_dir(directory)?;
    let marks = marks_path(directory, number);
    if disk.exists(&marks)? {
        disk.rename(&marks, &aside(&marks))?;
        disk.sync_dir(directory)?;
    }
    Ok(())
}
