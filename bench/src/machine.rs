//! What a report must say about where it was made: figures do not travel without it.
//!
//! No host name, no paths, no user.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::component::cpu_method;
use crate::peers::Peer;

/// The machine, and what ran on it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Day and time in UTC, to the second.
    pub(crate) date: String,
    /// Model name of the CPU.
    pub(crate) cpu: String,
    /// How many CPUs the bench may use.
    pub(crate) cpus: usize,
    /// Memory in octets.
    pub(crate) memory_octets: u64,
    /// Name and release of the kernel, and its architecture.
    pub(crate) kernel: String,
    /// Type of the file system below the spools.
    pub(crate) file_system: String,
    /// How CPU time was counted.
    pub(crate) cpu_method: &'static str,
    /// Whether a syslog daemon takes what the peers log, at their cost.
    pub(crate) syslog: bool,
    /// Version of lockgate.
    pub(crate) lockgate: String,
    /// Commit of the sources; none outside a repository.
    pub(crate) commit: Option<String>,
    /// Versions of the peers that took part.
    pub(crate) peers: Vec<Version>,
}

/// A peer and its version.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Version {
    /// The peer.
    pub(crate) peer: Peer,
    /// Its version, as it says itself.
    pub(crate) version: String,
}

impl Machine {
    /// Looks around: `folder` is where spools and queues lie.
    pub(crate) fn look(folder: &Path, lockgate: &Path, peers: &[Peer]) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let meminfo = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
        let kernel = rustix::system::uname();
        let version = |&peer: &Peer| Version { peer, version: peer.version() };
        Ok(Self {
            date: jiff::Timestamp::now().round(jiff::Unit::Second)?.to_string(),
            cpu: model(&cpuinfo).unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            memory_octets: memory(&meminfo).context("/proc/meminfo has no MemTotal")?,
            kernel: format!(
                "{} {} {}",
                kernel.sysname().to_string_lossy(),
                kernel.release().to_string_lossy(),
                kernel.machine().to_string_lossy()
            ),
            file_system: file_system(&mounts, &fs::canonicalize(folder)?)
                .unwrap_or("unknown")
                .to_owned(),
            cpu_method: cpu_method(),
            syslog: Path::new("/dev/log").exists(),
            lockgate: said(Command::new(lockgate).arg("version")).context("lockgate's version")?,
            commit: said(Command::new("git").args(["describe", "--always", "--dirty"])),
            peers: peers.iter().map(version).collect(),
        })
    }
}

/// What a command says, if it succeeds.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// x86 has a model name; others may have less.
fn model(cpuinfo: &str) -> Option<&str> {
    ["model name", "Model", "Hardware", "cpu"].into_iter().find_map(|key| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim())
        })
    })
}

/// `MemTotal:  24600000 kB`, in octets.
fn memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// proc_pid_mountinfo(5): the fifth field is the mount point, the type follows ` - `; of several
/// mounts over one point the last counts.
fn file_system<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    let found = mounts.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?.replace("\\040", " ");
        let kind = rest.split(' ').next()?;
        folder.starts_with(&point).then_some((point.len(), kind))
    });
    found.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_last_mount_names_the_file_system() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                      2 1 0:2 / /tmp rw shared:1 - tmpfs none rw\n\
                      3 1 0:3 / /tmp rw - xfs /dev/b rw\n\
                      4 1 0:4 / /tmp2 rw - btrfs /dev/c rw\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/a")), Some("xfs"));
        assert_eq!(file_system(mounts, Path::new("/srv")), Some("ext4"));
        assert_eq!(file_system("", Path::new("/srv")), None);
    }

    #[test]
    fn the_facts_of_this_machine_can_be_had() {
        // Any program with a verb `version` of its own would do.
        let machine =
            Machine::look(&std::env::temp_dir(), Path::new("echo"), &[Peer::GroupCommit]).unwrap();
        assert!(machine.memory_octets > 1 << 20, "{machine:?}");
        assert_ne!(machine.file_system, "unknown", "{machine:?}");
        println!("{machine:#?}");
    }
}
