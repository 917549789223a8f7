//! A set of processes that is started, counted and ended as one.
//!
//! Invariants
//! - A component ends its own processes only, by their ids, and waits for them.
//! - All that it starts is in its account, also what forks away from it.
//! - It is asked to end when the thread that started it ends, so that a killed run leaves no
//!   servers behind.
//! - Every wait has a deadline.
//!
//! Reading order: this file (processes), `account` (who belongs to it, CPU time).
//! Not here: what to run (`peers`, `lockgate`).

mod account;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use account::{Account, Process};

pub(crate) use account::cpu_method;

/// How long the processes of a component may take to end when asked.
const TERMINATION: Duration = Duration::from_secs(3);
/// How long they may take when killed: the kernel gives much memory back, and many sockets.
const KILL: Duration = Duration::from_secs(20);
/// Pause between two looks at a condition.
const STEP: Duration = Duration::from_millis(2);
/// How much of an output an error shows.
const TAIL_OCTETS: usize = 2_000;

/// Which CPUs a component may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Placement {
    /// Those that the bench itself may use.
    Anywhere,
    /// This one only.
    Cpu(u32),
}

impl Placement {
    /// The words to put before a command.
    fn words(self) -> Vec<OsString> {
        match self {
            Self::Anywhere => Vec::new(),
            Self::Cpu(number) => vec!["taskset".into(), "-c".into(), number.to_string().into()],
        }
    }
}

/// Processes with a name, an account of their CPU time and, if they serve, an address.
#[derive(Debug)]
pub(crate) struct Component {
    name: String,
    address: Option<SocketAddr>,
    child: Child,
    input: Option<ChildStdin>,
    output: File,
    log: File,
    account: Account,
    folder: Option<TempDir>,
    placement: Placement,
    /// All of it has ended.
    ended: bool,
}

impl Component {
    /// Starts a command (program, arguments, environment and folder count; its input and output do
    /// not: they are the component's).
    pub(crate) fn spawn(name: &str, command: &Command, placement: Placement) -> Result<Self> {
        let account = Account::open(name)?;
        let mut line = account.entrance();
        if let Some(setpriv) = program("setpriv") {
            line.extend([setpriv.into(), "--pdeathsig".into(), "TERM".into(), "--".into()]);
        }
        line.extend(placement.words());
        line.push(command.get_program().to_owned());
        line.extend(command.get_args().map(ToOwned::to_owned));

        let output = tempfile::tempfile().context("a file for the output")?;
        let log = tempfile::tempfile().context("a file for the log")?;
        let mut whole = Command::new(&line[0]);
        whole.args(&line[1..]).stdin(Stdio::piped());
        whole.stdout(output.try_clone()?).stderr(log.try_clone()?);
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => whole.env(key, value),
                None => whole.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            whole.current_dir(folder);
        }
        let mut child = whole.spawn().with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take();
        let name = name.to_owned();
        Ok(Self {
            name,
            address: None,
            child,
            input,
            output,
            log,
            account,
            folder: None,
            placement,
            ended: false,
        })
    }

    /// The same, serving at this address.
    #[must_use]
    pub(crate) const fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// The same, keeping its folder until it has ended.
    #[must_use]
    pub(crate) fn keeping(mut self, folder: TempDir) -> Self {
        self.folder = Some(folder);
        self
    }

    /// Which CPUs it may use.
    pub(crate) const fn placement(&self) -> Placement {
        self.placement
    }

    /// Ends it, and leaves its folder.
    pub(crate) fn end_and_keep_folder(mut self) -> Result<Option<TempDir>> {
        self.input = None;
        self.end()?;
        Ok(self.folder.take())
    }

    /// Where to send to.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.address.with_context(|| format!("{} has no address", self.name))
    }

    /// The folder of its own.
    pub(crate) fn folder(&self) -> Result<&Path> {
        let folder = self.folder.as_ref().map(TempDir::path);
        folder.with_context(|| format!("{} has no folder", self.name))
    }

    /// CPU time so far, of all its processes, ended ones too. By descent (see [`cpu_method`]) only
    /// while it runs.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let cpu = self.account.cpu(self.child.id());
        cpu.with_context(|| format!("CPU time of {}", self.name))
    }

    /// User memory in octets: each page is shared fairly between those who map it (Pss).
    pub(crate) fn memory(&self) -> Result<u64> {
        let mut octets = 0;
        for pid in self.pids()? {
            match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
                Ok(text) => octets += pss(&text).context("smaps_rollup has no Pss")?,
                // It has ended meanwhile, or is about to: its memory is gone before it is.
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("memory of {}", self.name));
                }
            }
        }
        Ok(octets)
    }

    /// The processes that run now.
    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        let pids = self.account.pids(self.child.id());
        pids.with_context(|| format!("processes of {}", self.name))
    }

    /// What it has written on its standard output.
    pub(crate) fn output(&self) -> Result<String> {
        read(&self.output).with_context(|| format!("output of {}", self.name))
    }

    /// Ends its standard input.
    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits until it accepts connections at its address.
    pub(crate) fn wait_until_open(&mut self, limit: Duration) -> Result<()> {
        let address = self.address()?;
        self.wait_until(&format!("listens on {address}"), limit, |_| is_open(address))
    }

    /// Waits until its standard output contains `needle`.
    pub(crate) fn wait_for_output(&mut self, needle: &str, limit: Duration) -> Result<()> {
        self.wait_until(&format!("says {needle:?}"), limit, |component| {
            component.output().is_ok_and(|output| output.contains(needle))
        })
    }

    /// Waits until it has ended, and well, and gives its standard output.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<String> {
        let Some(status) = within(limit, || Ok(self.child.try_wait()?))? else {
            bail!("{} still runs after {limit:?}{}", self.name, self.log_tail());
        };
        ensure!(status.success(), "{}: {status}{}", self.name, self.log_tail());
        self.output()
    }

    fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let held = within(limit, || {
            if holds(self) {
                return Ok(Some(()));
            }
            if let Some(status) = self.child.try_wait()? {
                // Its last words may be what was waited for.
                if holds(self) {
                    return Ok(Some(()));
                }
                bail!("{} ended ({status}) before it {what}{}", self.name, self.log_tail());
            }
            Ok(None)
        })?;
        held.with_context(|| {
            format!("not within {limit:?}: {} {what}{}", self.name, self.log_tail())
        })
    }

    /// The last lines of what it wrote, for errors.
    fn log_tail(&self) -> String {
        let mut text = read(&self.log).unwrap_or_default();
        text.push_str(&read(&self.output).unwrap_or_default());
        let mut from = text.len().saturating_sub(TAIL_OCTETS);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        if text.is_empty() { String::new() } else { format!("\n--- it said\n{}", &text[from..]) }
    }

    /// Ends all its processes.
    fn end(&mut self) -> Result<()> {
        // By descent, a process whose parent has ended is not found any more.
        let noted: Vec<Process> = self.pids()?.into_iter().filter_map(Process::read).collect();
        // Not waited for yet, so the id is still the child's own.
        if self.child.try_wait()?.is_none() {
            signal(self.child.id(), Signal::TERM)?;
        }
        let ended = within(TERMINATION, || self.is_over(&noted))?;
        if ended.is_none() {
            let killed = within(KILL, || {
                for process in self.living(&noted)? {
                    signal(process.pid, Signal::KILL)?;
                }
                self.is_over(&noted)
            })?;
            ensure!(killed.is_some(), "still there after {KILL:?}: {:?}", self.pids()?);
        }
        let closed = within(KILL, || Ok(self.account.close().is_ok().then_some(())))?;
        ensure!(closed.is_some(), "its cgroup cannot be removed");
        self.ended = true;
        Ok(())
    }

    fn is_over(&mut self, noted: &[Process]) -> Result<Option<()>> {
        let reaped = self.child.try_wait()?.is_some();
        Ok((reaped && self.living(noted)?.is_empty()).then_some(()))
    }

    fn living(&self, noted: &[Process]) -> Result<Vec<Process>> {
        let mut living: Vec<Process> = noted.iter().copied().filter(Process::runs).collect();
        if self.account.keeps_orphans() {
            // What is in its cgroup is the component's, whoever started it and when.
            living = self.pids()?.into_iter().filter_map(Process::read).collect();
        }
        living.retain(Process::runs);
        Ok(living)
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        self.input = None;
        if self.ended {
            return;
        }
        if let Err(error) = self.end() {
            eprintln!("{}: cannot be ended: {error:#}", self.name);
        }
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    match kill_process(id, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("signal to process {pid}")),
    }
}

/// /proc has no such process, or only its shell.
fn is_gone(error: &io::Error) -> bool {
    let gone = rustix::io::Errno::SRCH.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(gone)
}

/// `Pss:   316 kB`, in octets.
fn pss(smaps: &str) -> Option<u64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// All of a file that a child writes through the same description: its place must not move.
fn read(file: &File) -> io::Result<String> {
    let mut octets = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
    let mut read = 0;
    while read < octets.len() {
        match file.read_at(&mut octets[read..], read as u64)? {
            0 => break,
            count => read += count,
        }
    }
    octets.truncate(read);
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

/// Looks until there is a value; `None` when `limit` has passed.
#[expect(clippy::disallowed_methods, reason = "a look at a condition, with a deadline")]
pub(crate) fn within<T>(
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = look()? {
            return Ok(Some(value));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(STEP);
    }
}

fn is_open(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// A loopback address that nobody listens on.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

/// A folder of its own for a component, which processes of other users may enter.
pub(crate) fn folder_in(parent: &Path, name: &str) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("lockgate-bench-{name}-"))
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .with_context(|| format!("no folder for {name}"))
}

/// Where a program is: on PATH, or where servers are on Debian.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_account_of_a_busy_child_grows_and_holds_what_forked_away() {
        let busy = shell("(while :; do :; done) & (while :; do :; done) & wait");
        let component = Component::spawn("busy", &busy, Placement::Anywhere).unwrap();
        let first = Duration::from_millis(50);
        let grown = |than: Duration| {
            within(LONG, || Ok(component.cpu()?.gt(&than).then_some(()))).unwrap().unwrap();
        };
        grown(first);
        grown(first * 4);
        assert_eq!(component.pids().unwrap().len(), 3);
        assert!(component.memory().unwrap() > 0);
        println!("{}", cpu_method());
    }

    #[test]
    fn nothing_is_left_of_a_component_that_does_not_listen_to_signals() {
        let folder = folder_in(&std::env::temp_dir(), "deaf").unwrap();
        let path = folder.path().to_owned();
        let deaf =
            shell("trap '' TERM; (trap '' TERM; while :; do sleep 60; done) & echo on; wait");
        let mut component =
            Component::spawn("deaf", &deaf, Placement::Anywhere).unwrap().keeping(folder);
        component.wait_for_output("on", LONG).unwrap();
        let noted: Vec<_> =
            component.pids().unwrap().into_iter().filter_map(Process::read).collect();
        assert!(noted.len() >= 2, "{noted:?}");
        let (Account::CpuAcct(cgroup) | Account::Unified(cgroup)) = &component.account else {
            println!("no cgroup here");
            return;
        };
        let cgroup = cgroup.clone();
        assert!(cgroup.exists());
        drop(component);
        assert!(!noted.iter().any(Process::runs), "{noted:?}");
        assert!(!cgroup.exists());
        assert!(!path.exists());
    }

    #[test]
    fn what_a_command_says_is_given_and_its_failure_is_an_error() {
        let mut good =
            Component::spawn("good", &shell("cat; echo done"), Placement::Cpu(0)).unwrap();
        good.close_input();
        assert_eq!(good.wait(LONG).unwrap(), "done\n");
        assert!(good.cpu().is_ok());
        let bad = shell("echo why >&2; exit 3");
        let mut bad = Component::spawn("bad", &bad, Placement::Anywhere).unwrap();
        let error = bad.wait(LONG).unwrap_err().to_string();
        assert!(error.contains("why") && error.contains('3'), "{error}");
    }
}
