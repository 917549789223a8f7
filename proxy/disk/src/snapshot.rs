//! A small file that is replaced as a whole, and known to be whole when read.
//!
//! `magic 8`, `version u32`, `length u32`, payload, `CRC-32C of all before u32`; little-endian.
//!
//! Invariants
//! - After a crash the old content is there or the new.
//! - Missing and damaged are told apart: what a caller does about them differs.
//!
//! Not here: what the payload means.

use std::io;
use std::path::Path;

use crate::Disk;

/// Octets before the payload.
const HEADER: usize = 16;

/// What is at the place of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// No file: it was never stored, or somebody removed it.
    Missing,
    /// A file that is not what was stored.
    Damaged(&'static str),
    /// What was stored last.
    Stored {
        /// Version of the payload's layout.
        version: u32,
        /// The payload.
        payload: Vec<u8>,
    },
}

/// Stores `payload` in place of what is there; durable when it returns.
pub fn store(
    disk: &dyn Disk,
    path: &Path,
    magic: &[u8; 8],
    version: u32,
    payload: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = Vec::with_capacity(HEADER + payload.len() + 4);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    disk.publish(path, &bytes)
}

/// Reads what [`store`] stored. An error means that the disk does not say what is there.
pub fn load(disk: &dyn Disk, path: &Path, magic: &[u8; 8]) -> io::Result<Loaded> {
    let bytes = match disk.read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
        Err(error) => return Err(error),
    };
    Ok(decode(&bytes, magic))
}

fn decode(bytes: &[u8], magic: &[u8; 8]) -> Loaded {
    let Some((body, checksum)) = bytes.split_last_chunk::<4>() else {
        return Loaded::Damaged("shorter than any snapshot");
    };
    let Some((header, payload)) = body.split_at_checked(HEADER) else {
        return Loaded::Damaged("shorter than any snapshot");
    };
    if header[..8] != *magic {
        return Loaded::Damaged("another kind of file");
    }
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Loaded::Damaged("the checksum does not match");
    }
    let field = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if field(12) as usize != payload.len() {
        return Loaded::Damaged("the length does not match");
    }
    Loaded::Stored { version: field(8), payload: payload.to_vec() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::{Crash, FaultyDisk};

    const MAGIC: &[u8; 8] = b"testfile";

    fn stored(version: u32, payload: &[u8]) -> Loaded {
        Loaded::Stored { version, payload: payload.to_vec() }
    }

    #[test]
    fn a_crash_at_any_operation_leaves_the_old_or_the_new() {
        let path = Path::new("f");
        let prepare = || {
            let disk = FaultyDisk::default();
            store(&disk, path, MAGIC, 1, b"old").unwrap();
            disk
        };
        let healthy = prepare();
        let before = healthy.operations();
        store(&healthy, path, MAGIC, 2, b"new").unwrap();
        for operation in before..=healthy.operations() {
            for crash in Crash::VARIANTS {
                let disk = prepare();
                disk.crash_at(operation);
                let done = store(&disk, path, MAGIC, 2, b"new").is_ok();
                let found = load(&disk.after_crash(crash), path, MAGIC).unwrap();
                let acceptable =
                    found == stored(2, b"new") || (!done && found == stored(1, b"old"));
                assert!(acceptable, "operation {operation}, {crash:?}: {found:?}");
            }
        }
    }

    #[test]
    fn missing_is_told_from_damaged_at_every_octet() {
        let disk = FaultyDisk::default();
        let path = Path::new("f");
        assert_eq!(load(&disk, path, MAGIC).unwrap(), Loaded::Missing);
        store(&disk, path, MAGIC, 3, b"payload").unwrap();
        let bytes = disk.read(path).unwrap();
        assert_eq!(decode(&bytes, MAGIC), stored(3, b"payload"));
        assert!(matches!(decode(&bytes, b"othermag"), Loaded::Damaged(_)));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(matches!(decode(&flipped, MAGIC), Loaded::Damaged(_)), "flipped at {at}");
            assert!(matches!(decode(&bytes[..at], MAGIC), Loaded::Damaged(_)), "cut at {at}");
        }
    }
}
