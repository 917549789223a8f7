//! Segments made ahead: files of zeros, synced, that wait to become segments.
//!
//! A commit into a growing file makes the file system write the new size and the new blocks as
//! well; a commit over zeros that are there already writes its octets and nothing else. That
//! halves its latency (`docs/decisions/0011`).
//!
//! Invariants
//! - A file is ready only when all of its zeros are synced. It becomes a segment by its header and
//!   its new name, once, and is never given back.
//! - Nothing is promised by one: a start removes those that it finds.
//! - The room of one is reserved while it is made; then it counts as used.
//!
//! Not here: when one is wanted (`commit`), how one becomes a segment (`segment`).

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use disk::{Disk, File};

use super::space::{Reservation, Space};

/// Octets of zeros written at once.
const PIECE: u64 = 1 << 20;

/// How the name of a file begins that is made ahead.
const PREFIX: &str = "prepared-";

/// True for the name of a file made ahead.
pub(super) fn is_prepared(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// A file of zeros, durable but for its name.
pub(super) struct Prepared {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn File>,
    /// Octets in the file.
    pub(super) length: u64,
}

/// Makes the files.
struct Maker {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    length: u64,
    made: u64,
    stop: Arc<AtomicBool>,
}

impl Maker {
    fn make(&mut self) -> io::Result<Prepared> {
        let path = self.directory.join(format!("{PREFIX}{:08}", self.made));
        self.made += 1;
        let made = self.fill(&path);
        if made.is_err() {
            remove(&*self.disk, &path);
        }
        made
    }

    fn fill(&self, path: &Path) -> io::Result<Prepared> {
        let mut file = self.disk.create_new(path)?;
        let zeros = vec![0; PIECE.min(self.length) as usize];
        let mut offset = 0;
        while offset < self.length {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let piece = (self.length - offset).min(zeros.len() as u64);
            file.write_at(offset, &zeros[..piece as usize])?;
            // Little by little: a commit waits for what the disk has been given before.
            file.sync()?;
            offset += piece;
        }
        Ok(Prepared { path: path.to_owned(), file, length: self.length })
    }
}

/// Removes a file made ahead; one that stays is removed by the next start.
fn remove(disk: &dyn Disk, path: &Path) {
    if let Err(error) = disk.remove(path) {
        tracing::debug!(path = %path.display(), %error, "left to the next start to remove");
    }
}

/// Who makes them: a thread of its own, or, until it runs, whoever asks.
enum Work {
    Here(Maker),
    Thread {
        orders: mpsc::Sender<()>,
        made: mpsc::Receiver<io::Result<Prepared>>,
        thread: JoinHandle<()>,
    },
    Ended,
}

/// The stock of files made ahead.
pub(super) struct Ahead {
    work: Work,
    disk: Arc<dyn Disk>,
    space: Arc<Space>,
    length: u64,
    /// How many there are to be, at most.
    wanted: usize,
    ready: VecDeque<Prepared>,
    /// Room of those in the making.
    making: VecDeque<Reservation>,
    /// The last one could not be made; tried again with the next segment.
    failed: bool,
    stop: Arc<AtomicBool>,
}

impl Ahead {
    pub(super) fn new(
        disk: &Arc<dyn Disk>,
        space: &Arc<Space>,
        directory: &Path,
        length: u64,
        wanted: usize,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let maker = Maker {
            disk: Arc::clone(disk),
            directory: directory.to_owned(),
            length,
            made: 0,
            stop: Arc::clone(&stop),
        };
        Self {
            work: Work::Here(maker),
            disk: Arc::clone(disk),
            space: Arc::clone(space),
            length,
            wanted,
            ready: VecDeque::new(),
            making: VecDeque::new(),
            failed: false,
            stop,
        }
    }

    /// From here on files are made by a thread of their own.
    pub(super) fn start(&mut self) -> io::Result<()> {
        let Work::Here(mut maker) = std::mem::replace(&mut self.work, Work::Ended) else {
            return Ok(());
        };
        let (orders, ordered) = mpsc::channel::<()>();
        let (done, made) = mpsc::channel();
        let thread = std::thread::Builder::new().name("spool-ahead".into()).spawn(move || {
            while ordered.recv().is_ok() {
                if done.send(maker.make()).is_err() {
                    break;
                }
            }
        })?;
        self.work = Work::Thread { orders, made, thread };
        Ok(())
    }

    /// Orders as many as are wanted, as far as there is room.
    pub(super) fn order(&mut self) {
        self.collect();
        while !self.failed && self.ready.len() + self.making.len() < self.wanted {
            // Room for mail comes first: as much again must be left.
            let room = self.space.reserve(self.length.saturating_mul(2));
            let Ok(room) = room else { return };
            match &mut self.work {
                Work::Here(maker) => {
                    let made = maker.make();
                    self.take_in(made);
                }
                Work::Thread { orders, .. } => {
                    if orders.send(()).is_err() {
                        return;
                    }
                    self.making.push_back(room);
                }
                Work::Ended => return,
            }
        }
    }

    /// Takes in what was made meanwhile. True if one is ready.
    pub(super) fn collect(&mut self) -> bool {
        let mut made = Vec::new();
        if let Work::Thread { made: arriving, .. } = &self.work {
            made.extend(arriving.try_iter());
        }
        for made in made {
            self.space.ask_again();
            self.making.pop_front();
            self.take_in(made);
        }
        !self.ready.is_empty()
    }

    fn take_in(&mut self, made: io::Result<Prepared>) {
        match made {
            Ok(prepared) => self.ready.push_back(prepared),
            Err(error) => {
                tracing::warn!(%error, "cannot make a segment ahead; segments grow instead");
                self.failed = true;
            }
        }
    }

    /// One that is ready.
    pub(super) fn take(&mut self) -> Option<Prepared> {
        self.collect();
        self.failed = false;
        self.ready.pop_front()
    }

    /// Stops making them, and removes those that were not used.
    pub(super) fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Work::Thread { orders, made, thread } =
            std::mem::replace(&mut self.work, Work::Ended)
        {
            drop(orders);
            if thread.join().is_err() {
                tracing::error!("the maker of segments ended by a panic");
            }
            self.ready.extend(made.try_iter().flatten());
        }
        self.making.clear();
        for prepared in self.ready.drain(..) {
            remove(&*self.disk, &prepared.path);
        }
    }
}
