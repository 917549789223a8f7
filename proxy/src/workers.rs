//! Threads with a runtime each, so that a session or an attempt, its timers and its connections to next
//! hops never change threads.
//!
//! Measured against one runtime over all threads it costs a fifth less per message: no queue is
//! shared and no task wakes another thread.
//!
//! Invariants
//! - A worker ends only after everything that was spawned on it was told to end (`app` sees to it).
//!
//! Not here: what runs on them (`listener` and `session` on some, `replay` on one of its own); admin and
//! housekeeping run on the runtime of the process.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// How long blocking work of a worker may take when it ends.
const END: Duration = Duration::from_secs(5);

/// Threads with a runtime each.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` of them, named after what they do.
    ///
    /// # Errors
    /// When the system has no thread or no file descriptor left.
    pub fn start(name: &str, count: usize) -> io::Result<Self> {
        let mut workers =
            Self { handles: Vec::new(), stop: CancellationToken::new(), threads: Vec::new() };
        for index in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.handles.push(runtime.handle().clone());
            let stop = workers.stop.clone();
            let thread =
                thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
                    runtime.block_on(stop.cancelled());
                    runtime.shutdown_timeout(END);
                })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Where to spawn; one for each worker.
    #[must_use]
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Ends them, with whatever still runs on them. Blocking.
    pub fn end(mut self) {
        self.stop.cancel();
        for thread in std::mem::take(&mut self.threads) {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
