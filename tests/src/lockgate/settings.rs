//! The configuration of a `lockgate` under test, as text of TOML.
//!
//! Keys are written as a story gives them, known or not: what is wrong with them is for the product
//! to say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::Lockgate;
use crate::port;

/// One gate of the configuration.
#[derive(Debug, Clone)]
pub struct Gate {
    pub(super) name: String,
    pub(super) listen: SocketAddr,
    pub(super) keys: String,
    pub(super) members: Vec<Member>,
}

/// One member of a gate.
#[derive(Debug, Clone)]
pub struct Member {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) keys: String,
}

impl Gate {
    /// Where it will listen.
    #[must_use]
    pub const fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// A gate with one member, named `sems1`.
    #[must_use]
    pub fn to(name: &str, member: SocketAddr) -> Self {
        Self::new(name).member(Member::new("sems1", member))
    }

    /// A gate without members yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let listen = port::free_address();
        Self { name: name.to_owned(), listen, keys: String::new(), members: Vec::new() }
    }

    /// Adds a member.
    #[must_use]
    pub fn member(mut self, member: Member) -> Self {
        self.members.push(member);
        self
    }

    /// Adds a key of `[[gate]]`, its value as written in TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        writeln!(self.keys, "{key} = {value}").unwrap();
        self
    }
}

impl Member {
    /// A member of this name at this address.
    #[must_use]
    pub fn new(name: &str, address: SocketAddr) -> Self {
        Self { name: name.to_owned(), address, keys: String::new() }
    }

    /// Adds a key of `[[gate.member]]`, its value as written in TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        writeln!(self.keys, "{key} = {value}").unwrap();
        self
    }
}

/// A configuration in the making.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub(super) gates: Vec<Gate>,
    /// Keys per section, as written in TOML.
    pub(super) sections: BTreeMap<String, String>,
}

impl Settings {
    /// With these gates.
    #[must_use]
    pub fn with(gates: impl IntoIterator<Item = Gate>) -> Self {
        let mut settings = Self { gates: gates.into_iter().collect(), sections: BTreeMap::new() };
        // A test machine's disk is not a mail server's.
        settings = settings.set("spool", "free_bytes_min", "1048576");
        settings.set("", "hostname", "\"lockgate.test\"")
    }

    /// Sets a key of a section (`"spool"`, …; `""` is the top), its value as written in TOML.
    #[must_use]
    pub fn set(mut self, section: &str, key: &str, value: &str) -> Self {
        let keys = self.sections.entry(section.to_owned()).or_default();
        let head = format!("{key} = ");
        let kept: String = keys
            .lines()
            .filter(|line| !line.starts_with(&head))
            .fold(String::new(), |text, line| text + line + "\n");
        *keys = format!("{kept}{head}{value}\n");
        self
    }

    /// Adds the Postfix log of member `sems1`, read as `key` says, its value as written in TOML.
    #[must_use]
    pub fn postfix_log(self, key: &str, value: &str) -> Self {
        self.set("[maillog]", "name", "\"server-log\"")
            .set("[maillog]", "member", "\"sems1\"")
            .set("[maillog]", "dialect", "\"postfix\"")
            .set("[maillog]", "zone", "\"UTC\"")
            .set("[maillog]", "leaves", "[\"127.0.0.1\"]")
            .set("[maillog]", key, value)
    }

    /// Writes the configuration and initialises the state folder, without starting anything.
    #[must_use]
    #[track_caller]
    pub fn initialised(self) -> Lockgate {
        let lockgate = self.written();
        let init = lockgate.run(&["init", "--config", lockgate.config().to_str().unwrap()]);
        assert_eq!(init.code, 0, "init: {init:?}");
        lockgate
    }

    /// Writes the configuration only.
    #[must_use]
    pub fn written(self) -> Lockgate {
        let folder = tempfile::Builder::new().prefix("lockgate-").tempdir().unwrap();
        let metrics = port::free_address();
        let lockgate = Lockgate { settings: self, folder, metrics, process: None };
        lockgate.write_config();
        lockgate
    }

    /// Initialises and serves, and waits until it is ready.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Lockgate {
        let mut lockgate = self.initialised();
        lockgate.serve();
        lockgate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_its_sections_before_its_gates() {
        let gate = Gate::to("outbound", port::loopback(2526)).set("on_unreachable", "\"hold\"");
        let settings = Settings::with([gate]).set("spool", "commit_wait_ms", "1");
        let lockgate = settings.set("spool", "commit_wait_ms", "2").written();
        let text = lockgate.config_text();
        assert!(text.contains("[spool]\nfree_bytes_min = 1048576\ncommit_wait_ms = 2\n"), "{text}");
        let gate = text.find("[[gate]]").unwrap();
        assert!(text.find("[spool]").unwrap() < gate);
        assert!(gate < text.find("[[gate.member]]\nname = \"sems1\"").unwrap());
    }
}
