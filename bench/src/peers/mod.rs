//! What lockgate is compared with: other programs that pass or hold mail, set up for speed.
//!
//! Every peer runs in a folder of its own, on a high loopback port, with nothing of a system-wide
//! instance read, started or stopped, and without a mail log of its own. Each is as fast as its
//! documentation lets it be, as long as what it promises with its 250 stays the same.
//!
//! Not here: what is measured with them (the scenarios).

mod exim;
mod group_commit;
mod haproxy;
mod nginx;
mod postfix;
pub(crate) mod smtp_source;
#[cfg(test)]
mod tests;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::component::{Component, Placement, program};

pub(crate) use postfix::release as postfix_release;

/// Has the program behind it ended when its standard input ends, that is, when the bench is gone.
///
/// What changes its user loses the kernel's own message about that (prctl(2)). The watch has no
/// parent in the peer, which would not know the child.
const GUARD: &str =
    r#"exec 3<&0; ( { read -r _ <&3; kill -TERM $$; } & ); exec 3<&-; exec "$0" "$@""#;

/// How long a peer may take to start.
const START: Duration = Duration::from_secs(20);

/// A program to compare with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// `HAProxy`, mode tcp, one thread, default buffers.
    #[value(name = "haproxy")]
    #[serde(rename = "haproxy")]
    HaProxy,
    /// The same with buffers of 128 KiB.
    #[value(name = "haproxy-128k")]
    #[serde(rename = "haproxy-128k")]
    HaProxy128k,
    /// nginx as a relay of octets.
    NginxStream,
    /// nginx as a mail proxy, buffers of 128 KiB.
    NginxMail,
    /// Postfix as a before-queue proxy (`smtpd_proxy_filter`).
    PostfixProxy,
    /// Postfix with all mail on HOLD.
    PostfixHold,
    /// Exim with `queue_only` and no queue runner.
    EximHold,
    /// The plain reference: one write and one sync for all that is complete, into a file that was
    /// written before.
    GroupCommit,
    /// The same into a growing file.
    GroupCommitAppend,
    /// Postfix's test client: it sends, see [`smtp_source`].
    SmtpSource,
}

impl Peer {
    /// All of them, in the order of reports.
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// What it is called on the command line and in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::HaProxy => "haproxy",
            Self::HaProxy128k => "haproxy-128k",
            Self::NginxStream => "nginx-stream",
            Self::NginxMail => "nginx-mail",
            Self::PostfixProxy => "postfix-proxy",
            Self::PostfixHold => "postfix-hold",
            Self::EximHold => "exim-hold",
            Self::GroupCommit => "group-commit",
            Self::GroupCommitAppend => "group-commit-append",
            Self::SmtpSource => "smtp-source",
        }
    }

    /// Whether it can be started; if not, what is missing.
    pub(crate) fn installed(self) -> Result<(), String> {
        match self {
            Self::HaProxy | Self::HaProxy128k => haproxy::installed(),
            Self::NginxStream => nginx::installed("stream"),
            Self::NginxMail => nginx::installed("mail"),
            Self::PostfixProxy | Self::PostfixHold => postfix::installed(),
            Self::EximHold => exim::installed(),
            Self::GroupCommit | Self::GroupCommitAppend => Ok(()),
            Self::SmtpSource => smtp_source::installed(),
        }
    }

    /// Its version, as it says itself.
    pub(crate) fn version(self) -> String {
        let version = match self {
            Self::HaProxy | Self::HaProxy128k => haproxy::version(),
            Self::NginxStream | Self::NginxMail => nginx::version(),
            Self::PostfixProxy | Self::PostfixHold | Self::SmtpSource => postfix::version(),
            Self::EximHold => exim::version(),
            Self::GroupCommit | Self::GroupCommitAppend => Ok("of this bench".to_owned()),
        };
        version.unwrap_or_else(|_| "unknown".to_owned())
    }

    /// Starts it before a sink, in a new folder below `folder`, and waits until it listens.
    pub(crate) fn start(
        self,
        sink: SocketAddr,
        placement: Placement,
        folder: &Path,
    ) -> Result<Component> {
        if let Err(missing) = self.installed() {
            bail!("{}: {missing}", self.name());
        }
        let place = Place { name: self.name(), sink, placement, folder };
        let started = match self {
            Self::HaProxy => haproxy::start(&place, haproxy::Buffers::Default),
            Self::HaProxy128k => haproxy::start(&place, haproxy::Buffers::Of128KiB),
            Self::NginxStream => nginx::start(&place, nginx::stream),
            Self::NginxMail => nginx::start(&place, nginx::mail),
            Self::PostfixProxy => postfix::start(&place, postfix::Role::Proxy),
            Self::PostfixHold => postfix::start(&place, postfix::Role::Hold),
            Self::EximHold => exim::start(&place),
            Self::GroupCommit => group_commit::start(&place, group_commit::File::Recycled),
            Self::GroupCommitAppend => group_commit::start(&place, group_commit::File::Growing),
            Self::SmtpSource => bail!("smtp-source sends mail, it takes none"),
        };
        started.with_context(|| format!("{} does not start", self.name()))
    }

    /// How many messages lie in the queue of a peer that holds; `None` for all others.
    pub(crate) fn held(self, component: &Component) -> Result<Option<usize>> {
        match self {
            Self::PostfixHold => postfix::held(component).map(Some),
            Self::EximHold => exim::held(component).map(Some),
            Self::HaProxy
            | Self::HaProxy128k
            | Self::NginxStream
            | Self::NginxMail
            | Self::PostfixProxy
            | Self::GroupCommit
            | Self::GroupCommitAppend
            | Self::SmtpSource => Ok(None),
        }
    }
}

/// Where and for whom a peer is started.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    name: &'static str,
    sink: SocketAddr,
    placement: Placement,
    folder: &'a Path,
}

/// The program, or what to install.
fn find(name: &str, package: &str) -> Result<PathBuf, String> {
    program(name).ok_or_else(|| {
        format!("{name} is not here (apt-get install --no-install-recommends {package})")
    })
}

/// A command that ends with the bench although it changes its user.
fn guarded(program: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", GUARD]).arg(program);
    command
}

/// What a program says when asked for its version.
fn ask(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// The words behind `marker`, up to the next blank.
fn word_after(text: &str, marker: &str) -> Result<String> {
    let word = text.split_once(marker).and_then(|(_, rest)| rest.split_whitespace().next());
    word.map(str::to_owned).with_context(|| format!("no {marker:?} in {text:?}"))
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// How many files below a folder have a name that `counts`.
fn files(folder: &Path, counts: fn(&str) -> bool) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count += files(&entry.path(), counts)?;
        } else if entry.file_name().to_str().is_some_and(counts) {
            count += 1;
        }
    }
    Ok(count)
}

/// A server that runs as another user needs root to be started.
fn root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err("it changes to a user of its own: run as root".to_owned())
    }
}
