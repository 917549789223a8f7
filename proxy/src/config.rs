//! The configuration: composes the parts' own, reads TOML, cross-checks.
//!
//! Invariants
//! - Every key has its default in one place, the `Default` of its part; no limit is "unlimited".
//! - An unknown key is an error that names its line and the nearest known key.
//! - All paths are relative to `data`.
//!
//! Not here: what a key means to its part (the part's `Config`), probing of the environment
//! (`check`).

mod keys;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::gate::BRAKE_FILE;
use crate::relay::HostPort;
use crate::session::Networks;
use crate::{journal, metrics, relay, replay, session, spool};

/// The whole configuration (`lockgate.toml`).
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The state directory; every other path is relative to it.
    pub data: PathBuf,
    /// Name of this host in greetings, in EHLO towards members and in trace fields; empty: the
    /// name that the system gives.
    pub hostname: String,
    /// Key of the spool; made by `lockgate init` with mode 0600. A systemd credential `spool-key`
    /// goes before it.
    pub key_file: PathBuf,
    /// Deadline in seconds for running transactions when lockgate stops.
    pub stop_s: u64,
    /// Log lines.
    pub log: Log,
    /// Metrics over HTTP.
    pub metrics: metrics::Config,
    /// Limits and timeouts towards clients.
    pub session: session::Config,
    /// Timeouts and pool towards next hops.
    pub relay: relay::Config,
    /// Where held mail lives.
    pub spool: spool::Config,
    /// The book of what was handed over.
    pub journal: journal::Config,
    /// Pace and schedule of replay.
    pub replay: replay::Config,
    /// The gates.
    #[serde(rename = "gate")]
    pub gates: Vec<Gate>,
    /// How a drain is proven; read by control.
    pub drain: toml::Table,
    /// Logs of mail systems; read by control.
    pub maillog: Vec<toml::Table>,
    /// Where this configuration comes from.
    #[serde(skip)]
    pub origin: Origin,
}

/// Where a configuration comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    #[default]
    File,
    /// The program itself.
    Embedded,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "lockgate-data".into(),
            hostname: String::new(),
            key_file: "keys/spool.key".into(),
            stop_s: 60,
            log: Log::default(),
            metrics: metrics::Config::default(),
            session: session::Config::default(),
            relay: relay::Config::default(),
            spool: spool::Config::default(),
            journal: journal::Config::default(),
            replay: replay::Config::default(),
            gates: Vec::new(),
            drain: toml::Table::new(),
            maillog: Vec::new(),
            origin: Origin::File,
        }
    }
}

/// `[log]`: form of the log lines on standard error.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` (key=value) or `json`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: LogLevel,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: LogLevel::Info }
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `key=value`.
    Text,
    /// One JSON object per line.
    Json,
}

/// Least important line that is still written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Something is lost or stands still.
    Error,
    /// Something needs a look.
    Warn,
    /// One line per transaction and attempt.
    Info,
    /// More.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// `[[gate]]`: one listener for one direction, and the servers behind it.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// Name; in commands, logs and metrics.
    pub name: String,
    /// Address to listen on.
    pub listen: Option<SocketAddr>,
    /// Name of the forward gate whose server sends its mail back here. Makes this a return gate:
    /// it passes while its partner holds.
    pub returns: Option<String>,
    /// Addresses and networks of the clients; anyone else gets 554.
    pub allow: Networks,
    /// What to do with new mail while no member answers: `refuse` (451) or `hold`.
    pub on_unreachable: OnUnreachable,
    /// Longest outage in seconds that the health check ends by itself; after a longer one a person
    /// decides.
    pub health_outage_max_s: u64,
    /// Add a `Received:` field (RFC 5321 §4.4). Off makes pass byte-transparent; held mail always
    /// gets one.
    pub trace: bool,
    /// In hold, accept only recipients in these domains; empty: all (the MTA has judged them).
    pub recipient_domains: Vec<String>,
    /// Seconds after an order at which transactions that have not sent their final dot are aborted.
    pub fence_s: u64,
    /// Where reports to senders (DSN) are submitted, `host:port`.
    pub dsn_next_hop: Option<HostPort>,
    /// A 5yz in replay: `keep` it for a person, or `auto` to turn it into a DSN.
    pub bounce: Bounce,
    /// An uncertain message: `resend` after `settle_after_s`, or `ask` a person.
    pub settle: Settle,
    /// Seconds until an uncertain message is settled by the rule.
    pub settle_after_s: u64,
    /// When a message that was passed on with an uncertain end comes again, and the logs show that the server took it,
    /// answer 250 and do not hand it over twice.
    pub dedupe: bool,
    /// An address of yours behind the server: where the sentinel of a drain goes.
    pub sentinel_to: Option<String>,
    /// Reverse-path of the sentinel; none: the null reverse-path. The server may judge by it.
    pub sentinel_from: Option<String>,
    /// Source address towards members that name none of their own.
    pub source_address: Option<IpAddr>,
    /// Name in EHLO towards members that name none of their own.
    pub helo_name: Option<String>,
    /// TLS towards clients.
    pub tls: session::tls::Config,
    /// The servers behind the gate.
    #[serde(rename = "member")]
    pub members: Vec<Member>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            name: String::new(),
            listen: None,
            returns: None,
            allow: Networks::loopback(),
            on_unreachable: OnUnreachable::Refuse,
            health_outage_max_s: 600,
            trace: true,
            recipient_domains: Vec::new(),
            fence_s: 60,
            dsn_next_hop: None,
            bounce: Bounce::Keep,
            settle: Settle::Resend,
            settle_after_s: 900,
            dedupe: false,
            sentinel_to: None,
            sentinel_from: None,
            source_address: None,
            helo_name: None,
            tls: session::tls::Config::default(),
            members: Vec::new(),
        }
    }
}

/// `[[gate.member]]`: one server behind a gate.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Member {
    /// The server's name.
    pub name: String,
    /// `host:port` of its SMTP listener.
    pub address: Option<HostPort>,
    /// Source address towards it. The server takes the direction of mail from it: a wrong one sends
    /// mail in clear.
    pub source_address: Option<IpAddr>,
    /// Name in EHLO towards it.
    pub helo_name: Option<String>,
    /// TLS towards it: `none`, `may`, `require` or `verify`.
    pub tls: relay::TlsDemand,
    /// Name in its certificate, when it is not the host in `address`.
    pub tls_name: Option<String>,
    /// PEM file with the CAs for `verify`; none: those of the system.
    pub ca_file: Option<PathBuf>,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            name: String::new(),
            address: None,
            source_address: None,
            helo_name: None,
            tls: relay::TlsDemand::None,
            tls_name: None,
            ca_file: None,
        }
    }
}

/// What a gate does with new mail while no member answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnreachable {
    /// 451: the client keeps it.
    Refuse,
    /// The health check places a hold order.
    Hold,
}

/// What happens to a forward-path that was refused in replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bounce {
    /// Kept until a person decides.
    Keep,
    /// Reported to the sender at once.
    Auto,
}

/// What happens to an uncertain message without evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settle {
    /// Sent again (a duplicate is better than a lost message: RFC 5321 §6.1, RFC 1047).
    Resend,
    /// Kept until a person decides.
    Ask,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong kind.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A key that does not exist.
    #[error("{}:{line}: unknown key `{key}` in {section}{}", path.display(), hint(nearest.as_deref()))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// Its table.
        section: String,
        /// The nearest key that exists.
        nearest: Option<String>,
    },
    /// Values that contradict one another.
    #[error("{}: {message}", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the mend.
        message: String,
    },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean `{key}`?"))
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config = Self::parse(&text, path)?;
        // A relative `data` is relative to the file, not to where the command was typed.
        if config.data.is_relative()
            && let Some(folder) = path.parent()
        {
            config.data = folder.join(&config.data);
        }
        Ok(config)
    }

    /// Reads a text; `path` is for messages.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        keys::check(text, path)?;
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: in_line(text, &error),
        })?;
        config
            .cross_check()
            .map_err(|message| ConfigError::Contradiction { path: path.to_owned(), message })?;
        Ok(config)
    }

    /// What serves without a file: gate `outbound` 127.0.0.1:2525 → 127.0.0.1:2526, gate `inbound`
    /// 127.0.0.1:2625 → 127.0.0.1:2626, metrics on 127.0.0.1:9525.
    #[must_use]
    pub fn embedded(data: &Path) -> Self {
        let gate = |name: &str, port: u16| Gate {
            name: name.to_owned(),
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            members: vec![Member {
                name: "server".to_owned(),
                address: Some(HostPort::new("127.0.0.1", port + 1)),
                ..Member::default()
            }],
            ..Gate::default()
        };
        Self {
            data: data.to_owned(),
            gates: vec![gate("outbound", 2525), gate("inbound", 2625)],
            origin: Origin::Embedded,
            ..Self::default()
        }
    }

    /// The socket of the data plane, for control only.
    #[must_use]
    pub fn proxy_socket(&self) -> PathBuf {
        self.data.join("proxy.sock")
    }

    /// The socket of control, for the command line.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.data.join("lockgate.sock")
    }

    /// The brake file.
    #[must_use]
    pub fn brake_file(&self) -> PathBuf {
        self.data.join(BRAKE_FILE)
    }

    /// Name of this host in greetings.
    #[must_use]
    pub fn host(&self) -> String {
        if !self.hostname.is_empty() {
            return self.hostname.clone();
        }
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if name.is_empty() { "localhost".to_owned() } else { name }
    }

    fn cross_check(&self) -> Result<(), String> {
        if self.gates.is_empty() {
            return Err("no [[gate]] is configured: lockgate has nothing to stand before".into());
        }
        self.journal.check()?;
        for (place, gate) in self.gates.iter().enumerate() {
            gate.check(&self.gates).map_err(|what| {
                let name = if gate.name.is_empty() {
                    format!("number {}", place + 1)
                } else {
                    gate.name.clone()
                };
                format!("gate {name}: {what}")
            })?;
            if self.gates[..place].iter().any(|other| other.name == gate.name) {
                return Err(format!("two gates are named {:?}: names are unique", gate.name));
            }
            let same = |other: &&Gate| {
                other.listen == gate.listen && gate.listen.is_some_and(|listen| listen.port() != 0)
            };
            if let Some(other) = self.gates[..place].iter().find(same) {
                return Err(format!(
                    "gates {} and {} listen on the same address",
                    other.name, gate.name
                ));
            }
        }
        self.spool.check().map_err(|error| error.to_string())?;
        self.session.check()?;
        self.replay.check()?;
        self.relay.check()
    }
}

impl Gate {
    fn check(&self, all: &[Self]) -> Result<(), String> {
        let printable = |name: &str| {
            !name.is_empty()
                && name.len() <= 63
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !printable(&self.name) {
            return Err("`name` must be 1 to 63 letters, digits, `-`, `_` or `.`".into());
        }
        let Some(listen) = self.listen else {
            return Err("`listen` is missing, such as \"127.0.0.1:2525\"".into());
        };
        if self.members.is_empty() {
            return Err("it has no [[gate.member]]".into());
        }
        for (place, member) in self.members.iter().enumerate() {
            if !printable(&member.name) {
                return Err("each member needs a `name` of letters, digits, `-`, `_` or `.`".into());
            }
            let Some(address) = &member.address else {
                return Err(format!(
                    "member {}: `address` is missing, such as \"192.0.2.1:25\"",
                    member.name
                ));
            };
            if self.members[..place].iter().any(|other| other.name == member.name) {
                return Err(format!("two members are named {}", member.name));
            }
            if address.literal().is_some_and(|ip| SocketAddr::new(ip, address.port()) == listen) {
                return Err(format!("member {} is this gate's own listener: a loop", member.name));
            }
        }
        if self.bounce == Bounce::Auto && self.dsn_next_hop.is_none() {
            return Err("`bounce = \"auto\"` needs a `dsn_next_hop` to give reports to".into());
        }
        for (key, address) in
            [("sentinel_to", &self.sentinel_to), ("sentinel_from", &self.sentinel_from)]
        {
            if let Some(address) = address.as_ref().filter(|address| !address.is_empty())
                && let Err(error) = smtp::Mailbox::parse(address)
            {
                return Err(format!("`{key}` is {address:?}: {error}"));
            }
        }
        if self.dedupe && self.returns.is_some() {
            return Err(
                "`dedupe` is for forward gates: no log speaks of what a return gate gives".into()
            );
        }
        if let Some(partner) = &self.returns {
            match all.iter().find(|gate| gate.name == *partner) {
                None => return Err(format!("`returns` names {partner:?}, which is no gate")),
                Some(gate) if gate.returns.is_some() => {
                    return Err(format!(
                        "`returns` names {partner:?}, which is a return gate itself"
                    ));
                }
                Some(_) => {}
            }
        }
        self.tls.check()
    }
}

/// The line of a mistake, from 1, and what is wrong with it.
#[must_use]
pub fn mistake(text: &str, error: &toml::de::Error) -> (usize, String) {
    (line_of(text, error.span().map_or(0, |span| span.start)), in_line(text, error))
}

/// What is wrong, with the line that it is wrong in: the message alone names no key.
fn in_line(text: &str, error: &toml::de::Error) -> String {
    let line = line_of(text, error.span().map_or(0, |span| span.start));
    let written = text.lines().nth(line - 1).unwrap_or_default().trim();
    format!("{} in `{written}`", error.message())
}

/// The line of an offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SMALL: &str = "[[gate]]\nname = \"out\"\nlisten = \"127.0.0.1:2525\"\n[[gate.member]]\nname = \"a\"\naddress = \"127.0.0.1:2526\"\n";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("lockgate.toml"))
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_small_file_takes_every_default() {
        let config = parse(SMALL).unwrap();
        assert_eq!(config.gates[0].on_unreachable, OnUnreachable::Refuse);
        assert_eq!(config.relay.final_reply_s, 570);
        assert_eq!(config.spool.free_bytes_min, 1 << 30);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_key() {
        let text = format!("{SMALL}source_adress = \"127.0.0.2\"\n");
        assert_eq!(
            error(&text),
            "lockgate.toml:7: unknown key `source_adress` in [[gate.member]]; did you mean `source_address`?"
        );
        let text = format!("[spool]\nfree_byte_min = 1\n{SMALL}");
        assert_eq!(
            error(&text),
            "lockgate.toml:2: unknown key `free_byte_min` in [spool]; did you mean `free_bytes_min`?"
        );
        let text = format!("{SMALL}colour = 1\n");
        assert_eq!(error(&text), "lockgate.toml:7: unknown key `colour` in [[gate.member]]");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        let text = SMALL.replace("127.0.0.1:2525", "here");
        assert!(error(&text).starts_with("lockgate.toml:3: "), "{}", error(&text));
    }

    #[test]
    fn contradictions_are_refused_with_the_mend() {
        assert!(error("").contains("no [[gate]]"));
        assert!(error(&format!("{SMALL}{SMALL}")).contains("two gates are named"));
        assert!(error(&SMALL.replace("2526", "2525")).contains("a loop"));
        let text = SMALL.replace("listen", "returns = \"inbound\"\nlisten");
        assert!(error(&text).contains("which is no gate"));
        assert!(error("[[gate]]\nname = \"a b\"").contains("letters, digits"));
    }

    #[test]
    fn the_embedded_default_is_what_the_manual_says() {
        let config = Config::embedded(Path::new("x"));
        let shown: Vec<String> = config
            .gates
            .iter()
            .map(|gate| {
                let member = gate.members[0].address.as_ref().unwrap();
                format!("{} {} {member}", gate.name, gate.listen.unwrap())
            })
            .collect();
        assert_eq!(
            shown,
            ["outbound 127.0.0.1:2525 127.0.0.1:2526", "inbound 127.0.0.1:2625 127.0.0.1:2626"]
        );
        assert_eq!(config.metrics.listen.unwrap().to_string(), "127.0.0.1:9525");
        config.cross_check().unwrap();
    }
}
