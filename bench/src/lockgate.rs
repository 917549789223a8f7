//! lockgate as a component: its configuration, its process, its commands.
//!
//! The defaults are those of the product, but for what a load of one client address needs, and no
//! metrics are scraped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::component::{Component, Placement, folder_in, free_address, within};
use crate::load::talk::Talk;

/// How long it may take to start or stop: a new segment is written with zeros first.
const START: Duration = Duration::from_secs(30);

/// Name of its configuration, in its folder.
const CONFIG: &str = "lockgate.toml";

/// Name of its one gate.
pub(crate) const GATE: &str = "outbound";

/// What its gate does with mail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// Gives it to the sink while the client waits.
    Pass,
    /// Keeps it in its spool.
    Hold,
}

/// How it is to run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    binary: PathBuf,
    role: Role,
    placement: Placement,
    /// Keys and values of TOML, per section; `""` is the top.
    keys: BTreeMap<String, BTreeMap<String, String>>,
}

impl Settings {
    /// This binary in this role, with the log at `warn`.
    pub(crate) fn new(binary: &Path, role: Role) -> Self {
        let settings = Self {
            binary: binary.to_owned(),
            role,
            placement: Placement::Anywhere,
            keys: BTreeMap::new(),
        };
        settings
            .set("", "hostname", "\"lockgate.test\"")
            .set("log", "level", "\"warn\"")
            .set("metrics", "listen", "\"\"")
            .set("session", "connections_max", "20000")
            .set("session", "connections_per_client_max", "20000")
    }

    /// The same on these CPUs.
    #[must_use]
    pub(crate) const fn on(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// The same with TLS towards the sink as in the configuration: `none`, `may`, `require`.
    #[must_use]
    pub(crate) fn tls_to_member(self, mode: &str) -> Self {
        self.set("gate.member", "tls", &format!("{mode:?}"))
    }

    /// The same with this log level.
    #[must_use]
    pub(crate) fn log(self, level: &str) -> Self {
        self.set("log", "level", &format!("{level:?}"))
    }

    /// Sets a key of a section (`""` is the top; `spool`, `gate`, `gate.tls`, `gate.member`, …), its
    /// value as written in TOML.
    #[must_use]
    pub(crate) fn set(mut self, section: &str, key: &str, value: &str) -> Self {
        let keys = self.keys.entry(section.to_owned()).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Starts it before a sink, in a new folder below `folder`, and waits until it takes mail in
    /// its role.
    pub(crate) fn start(&self, sink: SocketAddr, folder: &Path) -> Result<Lockgate> {
        let binary = &self.binary;
        ensure!(binary.exists(), "{} is missing: `cargo build --release`", binary.display());
        let binary = fs::canonicalize(binary)?;
        let folder = folder_in(folder, "lockgate")?;
        let path = folder.path().to_owned();
        let listen = free_address()?;
        fs::write(path.join(CONFIG), self.toml(listen, sink))?;
        // From within its folder: the address of a socket takes no long path.
        let mut init = Command::new(&binary);
        let init = init.args(["init", "--config", CONFIG]).current_dir(&path).output()?;
        ensure!(init.status.success(), "init: {}", String::from_utf8_lossy(&init.stderr));

        let mut command = Command::new(&binary);
        command.args(["serve", "--config", CONFIG]).current_dir(&path);
        let mut component = Component::spawn("lockgate", &command, self.placement)?;
        component = component.at(listen).keeping(folder);
        component.wait_until_open(START)?;
        let lockgate = Lockgate { binary, folder: path, component };
        // Answered by a control that has met its data plane; the listener may be there first.
        let mut answer = String::new();
        let met = within(START, || match lockgate.run(&["gates"]) {
            Ok(_) => Ok(Some(())),
            Err(error) => {
                answer = format!("{error:#}");
                Ok(None)
            }
        })?;
        met.with_context(|| format!("control does not answer: {answer}"))?;
        if self.role == Role::Hold {
            lockgate.run(&["hold", GATE, "--reason", "bench"])?;
        }
        Ok(lockgate)
    }

    fn toml(&self, listen: SocketAddr, sink: SocketAddr) -> String {
        let mut all = self.clone().set("", "data", "\"data\"");
        for (section, key, value) in [
            ("gate", "name", GATE.to_owned()),
            ("gate", "listen", listen.to_string()),
            ("gate.member", "name", "sink".to_owned()),
            ("gate.member", "address", sink.to_string()),
        ] {
            all = all.set(section, key, &format!("{value:?}"));
        }
        // Ordered: the top first, `gate` before `gate.member` and `gate.tls`.
        let mut text = String::new();
        for (section, keys) in &all.keys {
            let head = match section.as_str() {
                "" => String::new(),
                "gate" | "gate.member" => format!("[[{section}]]\n"),
                _ => format!("[{section}]\n"),
            };
            text.push_str(&head);
            for (key, value) in keys {
                // Writing to a String cannot fail.
                writeln!(text, "{key} = {value}").ok();
            }
        }
        text
    }
}

/// A running lockgate.
#[derive(Debug)]
pub(crate) struct Lockgate {
    binary: PathBuf,
    folder: PathBuf,
    component: Component,
}

impl Lockgate {
    /// Its processes and their account.
    pub(crate) const fn component(&self) -> &Component {
        &self.component
    }

    /// Where it takes mail.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.component.address()
    }

    /// Ends it and starts it again with all that it has; says how long it took until it greeted.
    pub(crate) fn restart(self, limit: Duration) -> Result<(Self, Duration)> {
        let Self { binary, folder: path, component } = self;
        let address = component.address()?;
        let placement = component.placement();
        let folder = component.end_and_keep_folder()?.context("it has a folder")?;
        let mut command = Command::new(&binary);
        command.args(["serve", "--config", CONFIG]).current_dir(folder.path());
        let began = Instant::now();
        let mut component = Component::spawn("lockgate", &command, placement)?.at(address);
        component = component.keeping(folder);
        component.wait_until_open(limit)?;
        // The kernel accepts before anybody serves.
        Talk::open(address)?.expect("220")?;
        Ok((Self { binary, folder: path, component }, began.elapsed()))
    }

    /// Its state folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Runs one of its commands, which must say yes (exit code 0), and gives what it says.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        match self.ask(arguments)? {
            (0, text) => Ok(text),
            (code, text) => bail!("{arguments:?}: exit code {code}\n{text}"),
        }
    }

    /// Runs one of its commands and gives its exit code (2: no) and what it says; an error (1) is
    /// one here too.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.folder).args(["--data", "data"]).args(arguments);
        let output = command.output()?;
        let code = output.status.code().context("ended by a signal")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(code != 1, "{arguments:?}: {errors}");
        Ok((code, String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_come_in_an_order_that_toml_understands() {
        let settings = Settings::new(Path::new("lockgate"), Role::Pass)
            .tls_to_member("require")
            .log("info")
            .set("spool", "commit_wait_ms", "1");
        let address = free_address().unwrap();
        let text = settings.toml(address, address);
        assert!(text.starts_with("data = \"data\"\nhostname"), "{text}");
        let at = |section: &str| text.find(section).unwrap();
        assert!(at("[[gate]]") < at("[[gate.member]]"), "{text}");
        assert!(text.contains("[log]\nlevel = \"info\"\n"), "{text}");
        assert!(text.contains("tls = \"require\"\n"), "{text}");
        assert!(text.contains("[spool]\ncommit_wait_ms = 1\n"), "{text}");
    }
}
