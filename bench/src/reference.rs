//! The plain reference for holding mail: what group commit costs when nothing else is done.
//!
//! One thread; all messages that one poll completed go into one write and one sync, then they are
//! answered. No checksum, no index, no order on disk: a yardstick, not a product.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::load::sink::{Answer, Keeper, Server};

/// The size of a recycled file.
const RECYCLED_OCTETS: u64 = 1 << 30;

/// How the file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// It grows.
    Append,
    /// It was written before, and is written over from the beginning when it is full.
    Recycled,
}

/// Serves as long as the process lives.
///
/// # Errors
/// When the address or the file cannot be had.
pub(crate) fn serve(listen: SocketAddr, file: &Path, growth: Growth) -> Result<Infallible> {
    let log = Log::create(file, growth, RECYCLED_OCTETS)?;
    Server::bind(listen, log)?.run()
}

/// The file, and what is on its way into it.
#[derive(Debug)]
struct Log {
    file: File,
    /// Where it begins again.
    wrap_at: Option<u64>,
    offset: u64,
    /// Messages to be written next.
    batch: Vec<u8>,
    /// Messages that have not ended, by connection.
    begun: Vec<Vec<u8>>,
}

impl Log {
    fn create(path: &Path, growth: Growth, octets: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .context("cannot create the file of the reference")?;
        let wrap_at = (growth == Growth::Recycled).then_some(octets);
        let log = Self { file, wrap_at, offset: 0, batch: Vec::new(), begun: Vec::new() };
        if growth == Growth::Recycled {
            let zeros = vec![0; 1 << 20];
            for at in (0..octets).step_by(zeros.len()) {
                let count = zeros.len().min(usize::try_from(octets - at)?);
                log.file.write_all_at(&zeros[..count], at).context("cannot fill the file")?;
            }
            log.sync()?;
        }
        Ok(log)
    }

    #[expect(clippy::disallowed_methods, reason = "the yardstick of promises, not one of them")]
    fn sync(&self) -> Result<()> {
        self.file.sync_data().context("cannot sync")
    }
}

impl Keeper for Log {
    fn content(&mut self, connection: usize, octets: &[u8]) {
        if self.begun.len() <= connection {
            self.begun.resize_with(connection + 1, Vec::new);
        }
        self.begun[connection].extend_from_slice(octets);
    }

    fn end(&mut self, connection: usize, octets: &[u8]) -> Answer {
        if let Some(begun) = self.begun.get_mut(connection) {
            self.batch.append(begun);
        }
        self.batch.extend_from_slice(octets);
        Answer::AtCommit
    }

    fn gone(&mut self, connection: usize) {
        if let Some(begun) = self.begun.get_mut(connection) {
            begun.clear();
        }
    }

    fn commit(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let octets = self.batch.len() as u64;
        if let Some(wrap_at) = self.wrap_at {
            ensure!(octets <= wrap_at, "a batch of {octets} octets does not fit");
            if self.offset + octets > wrap_at {
                self.offset = 0;
            }
        }
        self.file.write_all_at(&self.batch, self.offset).context("cannot write")?;
        self.sync()?;
        self.offset += octets;
        self.batch.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::load::{Load, generator, message};

    /// Sends through a reference whose file has this size; what is in the file afterwards.
    fn kept(growth: Growth, octets: u64, pipelining: bool) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::create(&path, growth, octets).unwrap();
        let server = Server::bind(([127, 0, 0, 1], 0).into(), log).unwrap();
        let address = server.address().unwrap();
        thread::spawn(move || server.run());
        let load = Load {
            messages: 20,
            sessions: 4,
            octets: 5_000,
            pipelining,
            reconnect: false,
            pairs: 1,
        };
        assert_eq!(generator::send(address, &load).unwrap().messages, 20);
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn every_answered_message_is_in_the_file_that_grows() {
        let expected = message(5_000).unwrap().repeat(20);
        for pipelining in [false, true] {
            assert!(kept(Growth::Append, 0, pipelining) == expected);
        }
    }

    #[test]
    fn a_recycled_file_keeps_its_size_and_begins_again() {
        let message = message(5_000).unwrap();
        let found = kept(Growth::Recycled, 41_000, false);
        assert_eq!(found.len(), 41_000);
        assert!(found.starts_with(&message));
    }
}
