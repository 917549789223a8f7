//! A log file that a person hands in: read once, from its first octet to its last.
//!
//! Invariants
//! - What it is, its first octets say: gzip is unpacked, UTF-16 becomes UTF-8, other packings are
//!   refused.
//! - Memory is bounded, whatever the size of the file.
//! - The identity of a file is the SHA-256 of its uncompressed content: packed anew or renamed, it is
//!   the same file.
//!
//! Not here: which files were imported before (the caller's database).

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use flate2::read::MultiGzDecoder;
use memchr::memchr_iter;

use crate::maillog::files::chain::{Chain, array};
use crate::maillog::files::lines::{Piece, Skipped, Splitter};
use crate::maillog::files::source::{MAGIC_OCTETS, Packing, is_broken, read_full};
use crate::maillog::files::told::Lost;
use crate::maillog::files::utf16::Utf16;

/// Octets read at a time.
const READ_OCTETS: usize = 256 * 1024;

/// Octets of one poll.
const POLL_OCTETS: u64 = 8 << 20;

/// Something that an import tells. Offsets are of the uncompressed content; of one that was UTF-16,
/// they are of its text as UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// One or more lines.
    Lines {
        /// Of the first octet.
        offset: u64,
        /// Each ended by LF, except the last of the file, and the beginning of one that is too long.
        lines: &'a [u8],
    },
    /// Lines may be missing here.
    Lost {
        /// Why.
        why: Lost,
        /// Of the first octet.
        offset: u64,
        /// How many.
        octets: u64,
    },
}

/// A file that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its name, as it was handed in.
    pub name: String,
    /// Octets of its uncompressed content.
    pub octets: u64,
    /// SHA-256 of its uncompressed content: its identity.
    pub sha256: [u8; 32],
    /// The chain over its uncompressed content.
    pub chain: [u8; 32],
    /// Lines that were told.
    pub lines: u64,
}

/// Why a file cannot be imported. What was told stands.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It cannot be opened or read.
    #[error("cannot read {name} behind {octets} octets: {source}")]
    Unreadable {
        /// Which.
        name: String,
        /// How many octets of its content were read.
        octets: u64,
        /// Why.
        source: io::Error,
    },
    /// A folder.
    #[error("{name} is a folder; name the log files in it")]
    Folder {
        /// Which.
        name: String,
    },
    /// A packing that is not read here.
    #[error("{name} is packed in a way that cannot be read; unpack it, or pack it with gzip")]
    Packed {
        /// Which.
        name: String,
    },
    /// gzip that ends early or is damaged.
    #[error(
        "{name} is damaged or ends early: {octets} octets of its content were read ({source}); \
         hand in the whole file"
    )]
    BrokenGz {
        /// Which.
        name: String,
        /// How many octets of its content were read.
        octets: u64,
        /// What the decoder says.
        source: io::Error,
    },
}

/// See the head of this file.
pub struct Import {
    name: String,
    content: Box<dyn Read + Send>,
    packing: Packing,
    utf16: Option<Utf16>,
    text: Vec<u8>,
    splitter: Splitter,
    sha256: Context,
    chain: Chain,
    teller: Teller,
    buffer: Vec<u8>,
}

/// Counts what is told.
#[derive(Default)]
struct Teller {
    offset: u64,
    lines: u64,
    skipped: Option<(Skipped, u64, u64)>,
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Import {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be read, or is packed in a way that is not read here.
    pub fn open(path: &Path, line_max: usize) -> Result<Self, ImportError> {
        let name = path.display().to_string();
        let unreadable = |source| ImportError::Unreadable { name: name.clone(), octets: 0, source };
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_dir() {
            return Err(ImportError::Folder { name });
        }
        Self::of(file, name, line_max)
    }

    /// Takes anything that can be read.
    ///
    /// # Errors
    /// If it cannot be read, or is packed in a way that is not read here.
    pub fn of(
        raw: impl Read + Send + 'static,
        name: impl Into<String>,
        line_max: usize,
    ) -> Result<Self, ImportError> {
        let name = name.into();
        let failed = |error| failed(&name, 0, Packing::Plain, error);
        let (magic, raw) = peek(raw, MAGIC_OCTETS).map_err(failed)?;
        let packing = Packing::of(&magic);
        let content: Box<dyn Read + Send> = match packing {
            Packing::Plain => Box::new(raw),
            Packing::Gz => Box::new(MultiGzDecoder::new(BufReader::new(raw))),
            Packing::Other => return Err(ImportError::Packed { name }),
        };
        let (mark, content) =
            peek(content, 2).map_err(|error| self::failed(&name, 0, packing, error))?;
        Ok(Self {
            name,
            content: Box::new(content),
            packing,
            utf16: Utf16::of(&mark),
            text: Vec::new(),
            splitter: Splitter::new(line_max, None),
            sha256: Context::new(&SHA256),
            chain: Chain::default(),
            teller: Teller::default(),
            buffer: vec![0; READ_OCTETS],
        })
    }

    /// Reads on, some mebibytes; at the end of the file says what was read.
    ///
    /// # Errors
    /// If it cannot be read any further.
    pub fn poll(
        &mut self,
        each: &mut dyn FnMut(Found<'_>),
    ) -> Result<Option<Imported>, ImportError> {
        let enough = self.chain.octets() + POLL_OCTETS;
        while self.chain.octets() < enough {
            match self.content.read(&mut self.buffer) {
                Ok(0) => return Ok(Some(self.finish(each))),
                Ok(octets) => self.take(octets, each),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.teller.tell_skipped(each);
                    return Err(failed(&self.name, self.chain.octets(), self.packing, error));
                }
            }
        }
        self.teller.tell_skipped(each);
        Ok(None)
    }

    fn take(&mut self, octets: usize, each: &mut dyn FnMut(Found<'_>)) {
        let octets = &self.buffer[..octets];
        self.sha256.update(octets);
        self.chain.push(octets);
        let mut text = octets;
        if let Some(utf16) = &mut self.utf16 {
            self.text.clear();
            utf16.push(octets, &mut self.text);
            text = &self.text;
        }
        self.splitter.push(text, &mut |piece| self.teller.take(piece, each));
    }

    fn finish(&mut self, each: &mut dyn FnMut(Found<'_>)) -> Imported {
        let mut tell = |piece: Piece<'_>| self.teller.take(piece, each);
        if let Some(utf16) = &mut self.utf16 {
            self.text.clear();
            utf16.finish(&mut self.text);
            self.splitter.push(&self.text, &mut tell);
        }
        self.splitter.finish(&mut tell);
        self.teller.tell_skipped(each);
        Imported {
            name: self.name.clone(),
            octets: self.chain.octets(),
            sha256: array(&self.sha256.clone().finish()),
            chain: self.chain.value(),
            lines: self.teller.lines,
        }
    }
}

impl Teller {
    fn take(&mut self, piece: Piece<'_>, each: &mut dyn FnMut(Found<'_>)) {
        let offset = self.offset;
        match piece {
            Piece::Lines(lines) | Piece::Beginning(lines) => {
                self.tell_skipped(each);
                each(Found::Lines { offset, lines });
                self.offset += lines.len() as u64;
                self.lines += memchr_iter(b'\n', lines).count() as u64;
                self.lines += u64::from(!lines.ends_with(b"\n"));
            }
            Piece::Skipped(why, octets) => {
                if self.skipped.is_some_and(|(before, ..)| before != why) {
                    self.tell_skipped(each);
                }
                self.skipped.get_or_insert((why, offset, 0)).2 += octets.len() as u64;
                self.offset += octets.len() as u64;
            }
        }
    }

    fn tell_skipped(&mut self, each: &mut dyn FnMut(Found<'_>)) {
        let Some((why, offset, octets)) = self.skipped.take() else { return };
        if let Some(why) = Lost::of(why) {
            each(Found::Lost { why, offset, octets });
        }
    }
}

/// The first octets, and all of them again.
fn peek<R: Read>(mut from: R, octets: usize) -> io::Result<(Vec<u8>, impl Read + use<R>)> {
    let mut first = vec![0; octets];
    let read = read_full(&mut from, &mut first)?;
    first.truncate(read);
    Ok((first.clone(), Cursor::new(first).chain(from)))
}

fn failed(name: &str, octets: u64, packing: Packing, source: io::Error) -> ImportError {
    let name = name.into();
    if packing == Packing::Gz && is_broken(&source) {
        return ImportError::BrokenGz { name, octets, source };
    }
    ImportError::Unreadable { name, octets, source }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::maillog::files::chain::{of_prefix, sha256};
    use crate::maillog::files::lines::LINE_MAX;

    fn gz(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn text() -> Vec<u8> {
        (0..200_000_u32)
            .flat_map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
            .collect()
    }

    type Hole = (Lost, u64, u64);

    /// All that is told, and how it ended.
    fn import(raw: Vec<u8>) -> (Vec<u8>, Vec<Hole>, Result<Imported, ImportError>) {
        let (mut told, mut lost): (Vec<u8>, Vec<Hole>) = (Vec::new(), Vec::new());
        let mut import = match Import::of(Cursor::new(raw), "mail.log", LINE_MAX) {
            Ok(import) => import,
            Err(error) => return (told, lost, Err(error)),
        };
        loop {
            let polled = import.poll(&mut |found| match found {
                Found::Lines { offset, lines } => {
                    if lost.is_empty() {
                        assert_eq!(offset, told.len() as u64);
                    }
                    told.extend_from_slice(lines);
                }
                Found::Lost { why, offset, octets } => lost.push((why, offset, octets)),
            });
            match polled {
                Ok(None) => {}
                Ok(Some(imported)) => return (told, lost, Ok(imported)),
                Err(error) => return (told, lost, Err(error)),
            }
        }
    }

    #[test]
    fn a_file_is_the_same_whether_packed_or_not() {
        let text = text();
        let (told, lost, plain) = import(text.clone());
        let plain = plain.unwrap();
        assert!(told == text && lost.is_empty());
        assert_eq!((plain.octets, plain.lines), (text.len() as u64, 200_000));
        assert_eq!(plain.sha256, sha256(&text));
        assert_eq!(plain.chain, of_prefix(&mut text.as_slice(), text.len() as u64).unwrap());
        let (told, _, packed) = import(gz(&text));
        assert!(told == text);
        assert_eq!(packed.unwrap(), plain);
        // Two members, as `cat one.gz two.gz` makes.
        let (one, two) = text.split_at(1000);
        assert_eq!(import([gz(one), gz(two)].concat()).2.unwrap(), plain);
    }

    #[test]
    fn a_packed_file_that_ends_early_says_how_far_it_was_read() {
        let text = text();
        let packed = gz(&text);
        for part in [15, packed.len() / 2, packed.len() - 1] {
            let (told, _, result) = import(packed[..part].to_vec());
            let Err(ImportError::BrokenGz { octets, .. }) = result else { panic!("{result:?}") };
            assert!(text.starts_with(&told) && told.len() as u64 <= octets);
            assert!(octets - (told.len() as u64) < 20, "all but a last line is told");
        }
        let mut damaged = packed.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        assert!(matches!(import(damaged).2, Err(ImportError::BrokenGz { .. })));
    }

    #[test]
    fn utf_16_is_converted_and_identified_by_its_own_octets() {
        let units = "\u{feff}one\r\ntwö\r\n".encode_utf16();
        let little: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
        let (told, _, imported) = import(little.clone());
        assert_eq!(String::from_utf8(told).unwrap(), "\u{feff}one\r\ntwö\r\n");
        let imported = imported.unwrap();
        assert_eq!((imported.lines, imported.octets), (2, little.len() as u64));
        assert_eq!(imported.sha256, sha256(&little));
    }

    #[test]
    fn the_last_line_needs_no_end_and_an_empty_file_has_no_lines() {
        let (told, _, imported) = import(b"one\ntwo".to_vec());
        assert_eq!((&told[..], imported.unwrap().lines), (&b"one\ntwo"[..], 2));
        assert_eq!(import(Vec::new()).2.unwrap().lines, 0);
    }

    #[test]
    fn long_lines_and_zeros_are_told_as_lost() {
        let mut raw = vec![b'x'; LINE_MAX + 10];
        raw.extend_from_slice(b"\none\n\0\0\0two\n");
        let (told, lost, imported) = import(raw);
        assert!(told.ends_with(b"xone\ntwo\n"));
        let long = LINE_MAX as u64;
        assert_eq!(lost, [(Lost::LongLine, long, 11), (Lost::Zeros, long + 15, 3)]);
        assert_eq!(imported.unwrap().lines, 3);
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        assert!(matches!(import(b"PK\x03\x04 zip".to_vec()).2, Err(ImportError::Packed { .. })));
        let folder = tempfile::tempdir().unwrap();
        let refused = Import::open(folder.path(), LINE_MAX);
        assert!(matches!(refused, Err(ImportError::Folder { .. })));
        let refused = Import::open(&folder.path().join("none"), LINE_MAX).unwrap_err();
        assert!(refused.to_string().contains("none"));
    }
}
