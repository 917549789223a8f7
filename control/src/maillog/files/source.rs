//! A file that is open for reading, plain or gzip.
//!
//! Invariants
//! - Opening never waits and reads nothing but regular files.
//! - What a file is, its first octets say, not its name.
//!
//! Not here: which file to open (`folder`), how far it was read (`reading`).

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::OFlags;

use crate::maillog::files::chain::{each_chunk, sha256};
use crate::maillog::files::file::{END_OCTETS, FINGERPRINT_OCTETS, FileId, Fingerprint, Mark};

/// Why a log cannot be followed now. The next poll tries again; nothing is lost by that.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The system refuses.
    #[error(
        "cannot read {}: {source}; let the user that lockgate runs as read it (often: make it a \
         member of the group of the file, and let it enter the folders above)",
        path.display()
    )]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder.
    #[error("{} is a folder; name the log file in it", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
    },
    /// A FIFO, socket or device.
    #[error("{} is not a regular file; name the file that the log is written to", path.display())]
    Special {
        /// Which.
        path: PathBuf,
    },
    /// UTF-16, as Windows tools export.
    #[error(
        "{} is UTF-16 and cannot be followed; have it written as UTF-8, or hand it in as a file",
        path.display()
    )]
    Utf16 {
        /// Which.
        path: PathBuf,
    },
}

impl TailError {
    pub(crate) fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Unreadable { path: path.into(), source }
    }
}

/// Octets that say how a file is compressed.
pub(crate) const MAGIC_OCTETS: usize = 6;

/// How content is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gz,
    /// In a way that is not read here.
    Other,
}

impl Packing {
    /// Told from the first octets of a file.
    pub(crate) fn of(magic: &[u8]) -> Self {
        // xz, bzip2, zstd, compress(1), zip: what rotation and people use.
        let others: [&[u8]; 5] =
            [b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd", b"\x1f\x9d", b"PK\x03\x04"];
        if magic.starts_with(b"\x1f\x8b") {
            Self::Gz
        } else if others.iter().any(|other| magic.starts_with(other)) {
            Self::Other
        } else {
            Self::Plain
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    pub(crate) packing: Packing,
    file: File,
}

impl Source {
    /// Opens a file; `None` if there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, TailError> {
        let unreadable = |source| TailError::Unreadable { path: path.into(), source };
        // What is not a regular file is not even opened: to open a device can do things.
        if stat(path)?.is_none() {
            return Ok(None);
        }
        // It may have become a FIFO since: its open would wait for a writer.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(unreadable)?,
        };
        let facts = file.metadata().map_err(unreadable)?;
        let id = regular(path, &facts)?;
        let mut magic = [0; MAGIC_OCTETS];
        let read = read_full(&mut At { file: &file, at: 0 }, &mut magic).map_err(unreadable)?;
        let mut source = Self { path: path.into(), id, packing: Packing::of(&magic[..read]), file };
        if source.packing == Packing::Gz
            && let Err(error) = source.first(1)
        {
            if !is_broken(&error) {
                return Err(unreadable(error));
            }
            source.packing = Packing::Other;
        }
        Ok(Some(source))
    }

    /// Octets of the file as it lies there.
    pub(crate) fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads the octets as they lie there.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_full(&mut At { file: &self.file, at: offset }, buffer)
    }

    /// The file itself, to seek in.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// The content from an offset on; what comes before it is unpacked and dropped.
    pub(crate) fn content(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let file = self.file.try_clone()?;
        if self.packing != Packing::Gz {
            return Ok(Box::new(At { file, at: offset }));
        }
        let mut content = MultiGzDecoder::new(BufReader::new(At { file, at: 0 }));
        each_chunk(&mut content, offset, |_| {})?;
        Ok(Box::new(content))
    }

    /// The first octets of the content, fewer if it is shorter.
    pub(crate) fn first(&self, octets: usize) -> io::Result<Vec<u8>> {
        let mut first = vec![0; octets];
        let read = read_full(&mut self.content(0)?, &mut first)?;
        first.truncate(read);
        Ok(first)
    }

    /// What the file is known by: as a whole if plain, else by its beginning.
    pub(crate) fn mark(&self) -> io::Result<Mark> {
        let first = self.first(FINGERPRINT_OCTETS)?;
        let mut end = first.clone();
        let mut offset = first.len() as u64;
        if self.packing == Packing::Plain {
            let from = self.size()?.saturating_sub(END_OCTETS as u64);
            end.resize(END_OCTETS, 0);
            let read = self.read_at(&mut end, from)?;
            end.truncate(read);
            offset = from + read as u64;
        }
        let fingerprint = Fingerprint::of(&first);
        Ok(Mark { file: self.id, fingerprint, offset, end: sha256(&end) })
    }

    /// True if this is the file that is known by `mark`, whatever came behind the mark.
    pub(crate) fn is(&self, mark: &Mark) -> io::Result<bool> {
        match self.is_unbroken(mark) {
            Err(error) if is_broken(&error) => Ok(false),
            other => other,
        }
    }

    fn is_unbroken(&self, mark: &Mark) -> io::Result<bool> {
        if !mark.fingerprint.matches(&self.first(mark.fingerprint.octets as usize)?) {
            return Ok(false);
        }
        let mut end = [0; END_OCTETS];
        let length = usize::try_from(mark.end_octets()).unwrap_or(END_OCTETS);
        let mut content = self.content(mark.offset - mark.end_octets())?;
        let read = read_full(&mut content, &mut end[..length])?;
        Ok(read == length && sha256(&end[..length]) == mark.end)
    }
}

/// The regular file that stands at a path; `None` if nothing does.
pub(crate) fn stat(path: &Path) -> Result<Option<FileId>, TailError> {
    match std::fs::metadata(path) {
        Ok(facts) => regular(path, &facts).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TailError::Unreadable { path: path.into(), source }),
    }
}

fn regular(path: &Path, facts: &std::fs::Metadata) -> Result<FileId, TailError> {
    if facts.is_dir() {
        return Err(TailError::Folder { path: path.into() });
    }
    if !facts.is_file() {
        return Err(TailError::Special { path: path.into() });
    }
    Ok(FileId { dev: facts.dev(), inode: facts.ino() })
}

/// Reads until the buffer is full or nothing more comes.
pub(crate) fn read_full(from: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match from.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// True if an error says that packed content is damaged or ends early, not that reading failed.
pub(crate) fn is_broken(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// Reads a file by place, so that several readers of one file do not move each other.
struct At<F> {
    file: F,
    at: u64,
}

impl<F: std::borrow::Borrow<File>> Read for At<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.borrow().read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gz(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn source(content: &[u8]) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mail.log");
        fs::write(&path, content).unwrap();
        let source = Source::open(&path).unwrap().unwrap();
        (folder, source)
    }

    fn content() -> Vec<u8> {
        (0..20_000_u32).flat_map(|n| format!("{n}\n").into_bytes()).collect()
    }

    #[test]
    fn a_mark_is_of_the_content_whether_packed_or_not() {
        let content = content();
        let (_folder, plain) = source(&content);
        let (_folder, packed) = source(&gz(&content));
        let mark = plain.mark().unwrap();
        assert_eq!(mark.offset, content.len() as u64);
        assert!(plain.is(&mark).unwrap());
        assert!(packed.is(&mark).unwrap());
        assert!(plain.is(&packed.mark().unwrap()).unwrap());
    }

    #[test]
    fn a_mark_is_not_of_a_file_that_differs_in_the_beginning_or_before_the_offset() {
        let content = content();
        let mark = source(&content).1.mark().unwrap();
        for place in [0, 1023, content.len() - 4096, content.len() - 1] {
            let mut other = content.clone();
            other[place] ^= 1;
            assert!(!source(&other).1.is(&mark).unwrap(), "octet {place} differs");
            assert!(!source(&gz(&other)).1.is(&mark).unwrap(), "octet {place} differs");
        }
        let short = &content[..content.len() - 1];
        assert!(!source(short).1.is(&mark).unwrap());
        assert!(!source(&gz(short)).1.is(&mark).unwrap());
        let longer = [&content[..], b"x"].concat();
        assert!(source(&longer).1.is(&mark).unwrap());
    }

    #[test]
    fn content_begins_where_it_is_asked_to() {
        for packed in [content(), gz(&content())] {
            let (_folder, source) = source(&packed);
            let mut rest = Vec::new();
            source.content(70_000).unwrap().read_to_end(&mut rest).unwrap();
            assert_eq!(rest, content()[70_000..]);
        }
    }

    #[test]
    fn a_damaged_gz_is_a_packing_that_cannot_be_read() {
        let packed = gz(b"line\n");
        assert_eq!(source(&packed[..5]).1.packing, Packing::Other);
        assert_eq!(source(&packed).1.packing, Packing::Gz);
        assert_eq!(source(b"BZh91AY").1.packing, Packing::Other);
        assert_eq!(source(b"").1.packing, Packing::Plain);
    }
}
