//! A real process with a captured log, ended when its value is dropped.
//!
//! Invariants
//! - Output goes to a file in the story's folder, never to a pipe that could fill up.
//! - A process is ended by its own id and waited for; nothing else is ever signalled.
//! - It dies with the thread that started it, so a killed test run leaves no servers behind.
//!
//! Not here: what to run (`postfix`, `lockgate`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

use crate::wait;

/// How much of a log a failure shows.
const TAIL_OCTETS: usize = 6_000;

/// A command whose process is killed when the thread that starts it ends.
///
/// `setpriv` (util-linux) asks the kernel for that and then becomes the program: the id is the
/// program's own. Where it is missing, the program is started directly.
pub fn bound_to_us(program: impl AsRef<OsStr>) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// A running process of ours.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), ended: None }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that the process has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log, for failures.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Waits until `condition` holds; fails with the log when it does not, or when the process
    /// ends first.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
        let held = wait::within(limit, || {
            if condition() {
                return Some(Ok(()));
            }
            self.ended().map(Err)
        });
        match held {
            Some(Ok(())) => {}
            Some(Err(status)) => panic!(
                "{} ended ({status}) before: {what}\n--- log\n{}",
                self.name,
                self.log_tail()
            ),
            None => {
                panic!("{}: not within {limit:?}: {what}\n--- log\n{}", self.name, self.log_tail())
            }
        }
    }

    /// Waits until something accepts connections at `address`.
    #[track_caller]
    pub fn wait_for_port(&mut self, address: SocketAddr, limit: Duration) {
        self.wait_for(&format!("port {address} open"), limit, || is_open(address));
    }

    /// Waits until the log contains `needle`.
    #[track_caller]
    pub fn wait_for_log(&mut self, needle: &str, limit: Duration) {
        let log = self.log.clone();
        self.wait_for(&format!("log says {needle:?}"), limit, || {
            fs::read(&log)
                .is_ok_and(|text| memchr::memmem::find(&text, needle.as_bytes()).is_some())
        });
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub fn wait_for_end(&mut self, limit: Duration) -> ExitStatus {
        let Some(status) = wait::within(limit, || self.ended()) else {
            panic!("{}: still running after {limit:?}\n--- log\n{}", self.name, self.log_tail());
        };
        status
    }

    /// Sends a signal to the process, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            // Not reaped yet, so the id is still this process's own.
            let id = Pid::from_child(&self.child);
            kill_process(id, signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        }
    }

    /// Ends the process at once (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended = Some(self.child.wait().unwrap());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
        // A failing story shows what its processes said last.
        if std::thread::panicking() {
            eprintln!("--- {} (log of process {})\n{}", self.name, self.id(), self.log_tail());
        }
    }
}

/// Does something accept connections there?
#[must_use]
pub fn is_open(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// The end of a text, from the start of a line.
#[must_use]
pub fn tail(text: &str) -> String {
    let mut from = text.len().saturating_sub(TAIL_OCTETS);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = bound_to_us("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_process_is_watched_by_its_log_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut process = Process::start("sh", shell("echo ready; exit 3"), &log);
        process.wait_for_log("ready", wait::LONG);
        assert_eq!(process.wait_for_end(wait::LONG).code(), Some(3));
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut process = Process::start("sh", shell("echo ready; exec sleep 600"), &log);
        process.wait_for_log("ready", wait::LONG);
        let proc = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
    }

    #[test]
    #[should_panic(expected = "ended (exit status: 1) before: log says \"never\"")]
    fn waiting_for_a_dead_process_fails_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut process = Process::start("sh", shell("exit 1"), &log);
        process.wait_for_log("never", Duration::from_secs(600));
    }
}
