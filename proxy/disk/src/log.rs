//! An append-only file of checksummed records.
//!
//! A record is `length u32`, `checksum of the length u32`, `checksum of the payload u32` (CRC-32C,
//! little-endian), payload. The length has a checksum of its own, so that a record cut by a crash
//! (its length is right, its payload is short) is told from one that was damaged later.
//!
//! Invariants
//! - [`Log::append`] is durable when it returns.
//! - After a failed write or sync the log takes nothing more: what is proven ends at
//!   [`Log::proven`], and the caller decides how to go on from there.
//! - A torn tail may be cut, because nobody was told that it is there; damage is never cut.
//!
//! Not here: what payloads mean.

use std::io;
use std::ops::Range;
use std::path::Path;

use crate::{Disk, File};

/// Octets of a record before its payload.
pub const RECORD_HEADER: usize = 12;

/// What a crash leaves of an unwritten part of a file are whole sectors of zeros.
const SECTOR: usize = 512;

/// Adds a record with this payload to `out`.
///
/// # Panics
/// If the payload is longer than 4 GiB.
pub fn encode(payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("a record is shorter than 4 GiB");
    let length = length.to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc32c::crc32c(&length).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After a whole record.
    Clean,
    /// In a record that a crash cut: nobody was told that it is there.
    Torn,
    /// In something that was once whole, or was never a record.
    Damaged,
}

/// What is in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where the payloads of the valid records lie, in order.
    pub records: Vec<Range<usize>>,
    /// Octets up to the end of the last valid record.
    pub valid: usize,
    /// What comes after.
    pub end: End,
}

/// Finds the valid records at the start of `bytes`.
#[must_use]
pub fn scan(bytes: &[u8]) -> Scan {
    let mut records = Vec::new();
    let mut valid = 0;
    loop {
        let rest = &bytes[valid..];
        match record(rest, valid) {
            Ok(length) => {
                let start = valid + RECORD_HEADER;
                records.push(start..start + length);
                valid = start + length;
            }
            Err(end) => {
                return Scan { records, valid, end };
            }
        }
    }
}

/// The length of the payload of the record that begins here, or how the log ends here.
fn record(rest: &[u8], offset: usize) -> Result<usize, End> {
    if rest.is_empty() {
        return Err(End::Clean);
    }
    let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) else {
        return Err(End::Torn);
    };
    if ends_in_unwritten(rest, 0, offset) {
        return Err(End::Torn);
    }
    let field = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
    if crc32c::crc32c(&field(0)) != u32::from_le_bytes(field(4)) {
        return Err(End::Damaged);
    }
    let length = u32::from_le_bytes(field(0)) as usize;
    let Some(payload) = after.get(..length) else {
        return Err(End::Torn);
    };
    if crc32c::crc32c(payload) == u32::from_le_bytes(field(8)) {
        return Ok(length);
    }
    let torn = ends_in_unwritten(rest, RECORD_HEADER, offset);
    Err(if torn { End::Torn } else { End::Damaged })
}

/// True if everything after `from`, or everything from some sector in it on, is zero to the end:
/// pages that were never written.
fn ends_in_unwritten(rest: &[u8], from: usize, offset: usize) -> bool {
    let zeros = rest.iter().rev().take_while(|octet| **octet == 0).count();
    if rest.len() - zeros <= from {
        return true;
    }
    let sector = (offset + rest.len()).next_multiple_of(SECTOR) - SECTOR;
    // A few zeros at the end may be the payload's own; calling that damage errs on the safe side.
    from > 0 && zeros >= 8 && offset + rest.len() - zeros <= sector
}

/// A log, open for appending.
pub struct Log {
    file: Box<dyn File>,
    proven: u64,
    failed: bool,
}

impl Log {
    /// Makes a new log with these records; durable but for its name, which the caller makes so
    /// by [`Disk::sync_dir`].
    pub fn create(disk: &dyn Disk, path: &Path, payloads: &[&[u8]]) -> io::Result<Self> {
        let file = disk.create_new(path)?;
        let mut log = Self { file, proven: 0, failed: false };
        log.append(payloads)?;
        Ok(log)
    }

    /// Opens a log of which `valid` octets are known to be records, cuts what comes after, and
    /// makes all of it durable.
    pub fn open(disk: &dyn Disk, path: &Path, valid: u64) -> io::Result<Self> {
        let mut file = disk.open(path)?;
        if file.size()? < valid {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if file.size()? > valid {
            file.set_size(valid)?;
        }
        file.sync()?;
        Ok(Self { file, proven: valid, failed: false })
    }

    /// Adds records, with one write and one sync for all of them.
    pub fn append(&mut self, payloads: &[&[u8]]) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write or sync of this log failed"));
        }
        let mut bytes = Vec::new();
        for payload in payloads {
            encode(payload, &mut bytes);
        }
        // Set first: an error, or a panic below, must leave it set.
        self.failed = true;
        self.file.write_at(self.proven, &bytes)?;
        self.file.sync()?;
        self.failed = false;
        self.proven += bytes.len() as u64;
        Ok(())
    }

    /// Octets that are known to be durable.
    #[must_use]
    pub const fn proven(&self) -> u64 {
        self.proven
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Crash, FaultyDisk};

    fn log_of(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for payload in payloads {
            encode(payload, &mut bytes);
        }
        bytes
    }

    fn payloads_of(bytes: &[u8], scan: &Scan) -> Vec<Vec<u8>> {
        scan.records.iter().map(|range| bytes[range.clone()].to_vec()).collect()
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        // Never ending in zero: a payload that does cannot be told from unwritten pages when it
        // is flipped, which is tested below.
        let payload = prop::collection::vec(1..=255_u8, 0..700);
        prop::collection::vec(payload, 1..6)
    }

    proptest! {
        #[test]
        fn a_log_cut_anywhere_gives_its_whole_records_and_is_torn(
            payloads in payloads(), cut: prop::sample::Index,
        ) {
            let bytes = log_of(&payloads);
            let cut = cut.index(bytes.len());
            let scan = scan(&bytes[..cut]);
            let whole = payloads_of(&bytes, &scan);
            prop_assert_eq!(&whole[..], &payloads[..whole.len()]);
            prop_assert_eq!(scan.end == End::Clean, scan.valid == cut);
            prop_assert!(scan.end != End::Damaged);
        }

        #[test]
        fn a_flipped_bit_is_damage_and_what_comes_before_it_is_not(
            payloads in payloads(), at: prop::sample::Index, bit in 0..8,
        ) {
            let mut bytes = log_of(&payloads);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let scan = scan(&bytes);
            prop_assert_eq!(scan.end, End::Damaged);
            prop_assert!(scan.valid <= at);
            let whole = payloads_of(&bytes, &scan);
            prop_assert_eq!(&whole[..], &payloads[..whole.len()]);
        }

        #[test]
        fn no_bytes_make_a_scan_panic(bytes: Vec<u8>) {
            let found = scan(&bytes);
            prop_assert!(found.valid <= bytes.len());
        }
    }

    #[test]
    fn pages_that_were_never_written_are_a_torn_tail() {
        let mut bytes = log_of(&[vec![7; 100], vec![8; 2_000]]);
        bytes[1_024..].fill(0);
        assert_eq!(scan(&bytes).end, End::Torn);
        assert_eq!(scan(&bytes).records.len(), 1);
        bytes[112..].fill(0);
        assert_eq!(scan(&bytes).end, End::Torn);
        assert_eq!(scan(&[0; 4096]).end, End::Torn);
    }

    #[test]
    fn after_a_failed_sync_the_log_takes_nothing_more_and_reopens_at_what_is_proven() {
        let disk = FaultyDisk::default();
        let path = Path::new("log");
        let mut log = Log::create(&disk, path, &[b"one"]).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        let proven = log.proven();
        disk.fail_at(disk.operations() + 1, io::ErrorKind::Other);
        assert!(log.append(&[b"two"]).is_err());
        assert!(log.append(&[b"three"]).is_err());
        assert_eq!(log.proven(), proven);
        drop(log);

        let mut log = Log::open(&disk, path, proven).unwrap();
        log.append(&[b"four"]).unwrap();
        let disk = disk.after_crash(Crash::Lost);
        let bytes = disk.read(path).unwrap();
        assert_eq!(payloads_of(&bytes, &scan(&bytes)), [b"one".to_vec(), b"four".to_vec()]);
    }
}
