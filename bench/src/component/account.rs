//! The CPU account of a component: who belongs to it, and what they have used so far.
//!
//! Best is a cgroup of its own: children are in it from their first instruction on, and what has
//! ended stays counted. Where none can be made, the processes are found by descent, and what they
//! used is added up. The way is found out once, by trying, and is the same for all components.
//!
//! Not here: starting and ending processes (`component`).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

/// `USER_HZ`: 100 in every Linux ABI that we run on.
const TICK: Duration = Duration::from_millis(10);

/// A shell line that moves itself into the cgroup in `$0` and becomes the command behind it.
const ENTER: &str = r#"echo $$ > "$0" && exec "$@""#;

const PREFIX: &str = "lockgate-bench";

/// How CPU time is counted on this machine.
static METHOD: LazyLock<Method> = LazyLock::new(Method::find);

/// Names the way in which CPU time is counted on this machine.
pub(crate) fn cpu_method() -> &'static str {
    METHOD.name()
}

#[derive(Clone, Debug)]
enum Method {
    /// cpuacct of cgroup v1, below this folder: `cpuacct.usage`, in nanoseconds.
    CpuAcct(PathBuf),
    /// cgroup v2, below this folder: `usage_usec` in `cpu.stat`.
    Unified(PathBuf),
    /// Nothing may be made: /proc, by descent.
    Proc,
}

impl Method {
    const fn name(&self) -> &'static str {
        match self {
            Self::CpuAcct(_) => "cgroup v1 (cpuacct.usage)",
            Self::Unified(_) => "cgroup v2 (cpu.stat)",
            Self::Proc => "/proc of the process tree (schedstat; ended children in ticks of 10 ms)",
        }
    }

    /// The first way that works.
    fn find() -> Self {
        let ours = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        candidates(&ours)
            .into_iter()
            .find(|method| {
                method.sweep();
                let Ok(account) = Account::open_with(method, "probe") else { return false };
                account.works()
            })
            .unwrap_or(Self::Proc)
    }

    const fn folder(&self) -> Option<&PathBuf> {
        match self {
            Self::CpuAcct(folder) | Self::Unified(folder) => Some(folder),
            Self::Proc => None,
        }
    }

    /// Removes the empty cgroups of runs that were killed.
    fn sweep(&self) {
        let entries = self.folder().and_then(|folder| fs::read_dir(folder).ok());
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
                continue;
            };
            let id = rest.split('-').nth(1).and_then(|id| id.parse::<u32>().ok());
            if id.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
                // Refused while somebody is in it: then it is not ours to remove.
                fs::remove_dir(entry.path()).ok();
            }
        }
    }
}

/// Where a cgroup of ours may be made, best first, from /proc/self/cgroup.
fn candidates(ours: &str) -> Vec<Method> {
    let mut found = Vec::new();
    for line in ours.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|controller| controller == "cpuacct") {
            for mount in ["cpuacct", "cpu,cpuacct", "cpuacct,cpu"] {
                let mount = Path::new("/sys/fs/cgroup").join(mount);
                found.push(Method::CpuAcct(mount.join(path)));
                // In a container the path may be that of the host.
                found.push(Method::CpuAcct(mount));
            }
        } else if controllers.is_empty() {
            for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
                found.push(Method::Unified(Path::new(mount).join(path)));
                found.push(Method::Unified(mount.into()));
            }
        }
    }
    found.sort_by_key(|method| matches!(method, Method::Unified(_)));
    found
}

/// The account of one component.
#[derive(Debug)]
pub(super) enum Account {
    /// A cgroup of its own, removed when dropped.
    CpuAcct(PathBuf),
    /// A cgroup of its own, removed when dropped.
    Unified(PathBuf),
    /// Nothing is kept: /proc is read.
    Proc,
}

impl Account {
    pub(super) fn open(name: &str) -> Result<Self> {
        Self::open_with(&METHOD, name)
    }

    fn open_with(method: &Method, name: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let leaf = format!("{PREFIX}-{}-{number}-{name}", std::process::id());
        let make = |folder: &Path| {
            // Any folder can have folders; here the kernel must answer.
            fs::metadata(folder.join("cgroup.procs")).context("no cgroups here")?;
            let made = folder.join(&leaf);
            fs::create_dir(&made).context("no new cgroup").map(|()| made)
        };
        Ok(match method {
            Method::CpuAcct(folder) => Self::CpuAcct(make(folder)?),
            Method::Unified(folder) => Self::Unified(make(folder)?),
            Method::Proc => Self::Proc,
        })
    }

    /// Whether a process can enter, is seen, and is counted: some places let one do less.
    fn works(&self) -> bool {
        let mut line = self.entrance().into_iter();
        let Some(program) = line.next() else { return false };
        let entered = Command::new(program)
            .args(line)
            .arg("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        entered.is_ok_and(|status| status.success()) && self.cpu(0).is_ok_and(|cpu| !cpu.is_zero())
    }

    /// The words to put before a command so that it counts here; none where nothing is to be done.
    pub(super) fn entrance(&self) -> Vec<OsString> {
        match self {
            Self::CpuAcct(folder) | Self::Unified(folder) => {
                vec![
                    "/bin/sh".into(),
                    "-c".into(),
                    ENTER.into(),
                    folder.join("cgroup.procs").into(),
                ]
            }
            Self::Proc => Vec::new(),
        }
    }

    /// CPU time so far, user and system, of all that `root` has started.
    pub(super) fn cpu(&self, root: u32) -> Result<Duration> {
        match self {
            Self::CpuAcct(folder) => {
                let text = fs::read_to_string(folder.join("cpuacct.usage"))?;
                Ok(Duration::from_nanos(text.trim().parse().context("cpuacct.usage")?))
            }
            Self::Unified(folder) => {
                let text = fs::read_to_string(folder.join("cpu.stat"))?;
                let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                let usage = usage.context("cpu.stat has no usage_usec")?;
                Ok(Duration::from_micros(usage.trim().parse().context("cpu.stat")?))
            }
            Self::Proc => Ok(tree(root)?.iter().map(used).sum()),
        }
    }

    /// The processes that run now.
    pub(super) fn pids(&self, root: u32) -> Result<Vec<u32>> {
        match self {
            Self::CpuAcct(folder) | Self::Unified(folder) => {
                let text = fs::read_to_string(folder.join("cgroup.procs"))?;
                text.lines().map(|line| line.parse().context("cgroup.procs")).collect()
            }
            Self::Proc => Ok(tree(root)?.iter().map(|process| process.pid).collect()),
        }
    }

    /// Whether who is dead and gone may still be found by [`Account::pids`] when its parent went
    /// before it: by descent it may not, so that ids must be noted before the end.
    pub(super) const fn keeps_orphans(&self) -> bool {
        !matches!(self, Self::Proc)
    }

    /// Removes the cgroup; refused while somebody is in it.
    pub(super) fn close(&self) -> io::Result<()> {
        match self {
            Self::CpuAcct(folder) | Self::Unified(folder) => match fs::remove_dir(folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
            Self::Proc => Ok(()),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // The component has ended by now, or has said that it could not be ended.
        self.close().ok();
    }
}

/// What /proc/PID/stat says about a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Ticks from boot to its start: tells it from a later process with the same id.
    pub(super) started: u64,
    parent: u32,
    /// `Z` or `X`: it has ended and waits for its parent.
    ended: bool,
    own_ticks: u32,
    children_ticks: u32,
}

impl Process {
    pub(super) fn read(pid: u32) -> Option<Self> {
        Self::parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// proc(5); the name in parentheses may hold anything.
    fn parse(pid: u32, stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
        Some(Self {
            pid,
            started: fields.get(19)?.parse().ok()?,
            parent: fields.get(1)?.parse().ok()?,
            ended: matches!(*fields.first()?, "Z" | "X"),
            own_ticks: ticks(11)? + ticks(12)?,
            children_ticks: ticks(13)? + ticks(14)?,
        })
    }

    /// Whether this very process, and no later one of its id, still runs.
    pub(super) fn runs(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started && !now.ended)
    }
}

/// `root` and all that descend from it.
fn tree(root: u32) -> Result<Vec<Process>> {
    let mut rest: Vec<Process> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
        .collect();
    let mut family = HashSet::from([root]);
    let mut found = Vec::new();
    loop {
        let (ours, others): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|process| process.pid == root || family.contains(&process.parent));
        if ours.is_empty() {
            return Ok(found);
        }
        family.extend(ours.iter().map(|process| process.pid));
        found.extend(ours);
        rest = others;
    }
}

/// What a process has used: its threads to the nanosecond, its ended children in ticks.
fn used(process: &Process) -> Duration {
    let threads = fs::read_dir(format!("/proc/{}/task", process.pid));
    let nanoseconds: u64 = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    // Ended threads are in the ticks only.
    let own = Duration::from_nanos(nanoseconds).max(TICK * process.own_ticks);
    own + TICK * process.children_ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_one_is_tried_first_and_our_own_cgroup_before_its_root() {
        let found = candidates("4:memory:/a\n2:cpu,cpuacct:/box\n0::/box\n");
        let folders: Vec<_> = found.iter().filter_map(Method::folder).collect();
        assert_eq!(folders.len(), 10, "{found:?}");
        assert_eq!(folders[0], Path::new("/sys/fs/cgroup/cpuacct/box"));
        assert_eq!(folders[1], Path::new("/sys/fs/cgroup/cpuacct"));
        assert_eq!(folders[6], Path::new("/sys/fs/cgroup/box"));
        assert!(candidates("").is_empty());
    }

    #[test]
    fn a_name_with_parentheses_and_blanks_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 3 7 7 0 -1 0 1 2 3 4 11 12 13 14 20 0 1 0 99 1 1";
        let process = Process::parse(7, stat).unwrap();
        assert_eq!((process.parent, process.started, process.ended), (3, 99, false));
        assert_eq!((process.own_ticks, process.children_ticks), (23, 27));
    }

    #[test]
    fn each_way_of_counting_that_works_here_counts_the_same_child() {
        let ours = fs::read_to_string("/proc/self/cgroup").unwrap();
        let mut methods = candidates(&ours);
        methods.push(Method::Proc);
        for method in methods {
            let Ok(account) = Account::open_with(&method, "test") else { continue };
            if account.keeps_orphans() && !account.works() {
                continue;
            }
            let mut line = account.entrance();
            line.extend(["sh", "-c", "while :; do :; done"].map(OsString::from));
            let mut child = Command::new(&line[0]).args(&line[1..]).spawn().unwrap();
            let limit = Duration::from_secs(20);
            let counted = crate::component::within(limit, || {
                let enough = account.cpu(child.id())? > Duration::from_millis(100);
                Ok(enough.then_some(()))
            });
            let pids = account.pids(child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(counted.unwrap().is_some(), "{method:?}");
            assert_eq!(pids.unwrap(), [child.id()], "{method:?}");
            println!("{}", method.name());
        }
    }
}
