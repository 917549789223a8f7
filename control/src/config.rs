//! `[drain]` and `[[maillog]]`: what control reads of the configuration.
//!
//! The rest of the file is the data plane's ([`proxy::config`]), which leaves these two alone.
//!
//! Invariants
//! - An unknown key is an error that names the known ones.
//! - A log without a zone whose stamps need one proves nothing of a time; a zone is never guessed.
//!
//! Not here: how a log is read (`maillog`), how a drain goes (`watch`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use proxy::config::Config as DataPlane;
use proxy::session::Networks;
use serde::Deserialize;

use crate::drain::Setting;
use crate::drain::correlate::{Endpoint, LogPlan, Role};
use crate::drain::ledger::{GatePlan, Limits, Plan};
use crate::drain::verdict::LogTerms;
use crate::maillog::feeds::{journald, listen};
use crate::maillog::{self, Dialect};

/// `[drain]`: how a drain is proven.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Seconds of quiet after the mark.
    pub quiet_s: u32,
    /// Seconds after which a drain that is not over is given up; the orders stay.
    pub timeout_s: u32,
    /// How far the clock of a log may be from ours before matched pairs tell it better, in seconds.
    pub skew_max_s: u32,
    /// Settled messages whose keys are remembered, so that a key that was used before is known.
    pub remembered_max: usize,
    /// Messages that are followed at once, from the handing over to the evidence of what became of them.
    pub inside_max: usize,
    /// Settle uncertain held messages by what the logs show.
    pub settle: bool,
    /// Where Prometheus scrapes control when it runs in a process of its own; empty string: nowhere.
    pub metrics_listen: String,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            quiet_s: 60,
            timeout_s: 3600,
            skew_max_s: 300,
            remembered_max: 500_000,
            inside_max: 200_000,
            settle: true,
            metrics_listen: String::new(),
        }
    }
}

/// `[[maillog]]`: one log of a mail system.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Maillog {
    /// Name; in commands and certificates.
    pub name: String,
    /// The member that writes it.
    pub member: Option<String>,
    /// The member behind which the host stands that writes it: what arrives there has left the member.
    pub next_of: Option<String>,
    /// `postfix`, `exim`, `sendmail`, `opensmtpd`, `exchange`, `sems`, `lockgate` or `custom`.
    pub dialect: Option<Dialect>,
    /// Time zone of stamps that name none, such as `Europe/Berlin`. Without one they prove nothing of a time.
    pub zone: Option<String>,
    /// File to follow, through its rotations. None of `file`, `journald`, `syslog`: the log is handed in
    /// (`lockgate logs import`).
    pub file: Option<PathBuf>,
    /// Begin with the first octet that is there, rotated files too; else with what is written from now on.
    pub history: bool,
    /// Follow the journal of this machine.
    pub journald: Option<journald::Config>,
    /// Listen for syslog.
    pub syslog: Option<listen::Config>,
    /// Our addresses, as that system sees them; empty: the source addresses of the configuration. With these, mail from
    /// elsewhere is known at once to have come past us.
    pub clients: Vec<IpAddr>,
    /// Addresses of the member, as the host behind it sees them; empty: that of the configuration.
    pub from: Vec<IpAddr>,
    /// Loopback addresses (`"127.0.0.1"`, `"127.0.0.1:10025"`) to which a hand-over leaves the system; any other stays inside
    /// (a content filter). Our own return gates are known.
    pub leaves: Vec<Endpoint>,
    /// Addresses and networks to which a hand-over stays inside the system although they are not on it: content filters
    /// on other hosts.
    pub inside: Option<Networks>,
    /// Transports that end in a mailbox; through any other program a message may come back.
    pub mailboxes: Option<Vec<String>>,
    /// Lines that may be missing before absence is not proven any more.
    pub missing_max: u64,
    /// Lines in a million that may be not understood.
    pub unparsed_per_million_max: Option<u64>,
    /// Other systems write to it too: any line after the quiet period shows that it lives.
    pub shared: bool,
    /// Only lines of this host are meant, where several write to one log.
    pub host: Option<String>,
    /// Only lines of programs whose names begin so are meant (`postfix-out/`), where several write to one log.
    pub program: Option<String>,
    /// When the patterns are asked: `before` or `after` the dialect.
    pub patterns: maillog::Turn,
    /// Patterns of this site.
    pub pattern: Vec<maillog::Pattern>,
}

/// Mailbox transports when nothing is said.
const MAILBOXES: [&str; 12] = [
    "local",
    "virtual",
    "lmtp",
    "cyrus",
    "dovecot",
    // Exim, as Debian and its manual name them.
    "local_delivery",
    "mail_spool",
    "maildir_home",
    "address_file",
    "address_directory",
    "dovecot_lmtp",
    // Sendmail.
    "cyrusv2",
];

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ConfigError {
    /// The file, and the line where it is known.
    place: String,
    what: String,
}

/// Control's part of the file, to find the line of a mistake in it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Part {
    drain: Drain,
    maillog: Vec<Maillog>,
}

/// One log, ready to be read.
#[derive(Clone, Debug)]
pub struct Log {
    /// How it is correlated.
    pub plan: LogPlan,
    /// How it is judged.
    pub terms: LogTerms,
    /// How its lines are read.
    pub reading: maillog::Config,
    /// Its zone.
    pub zone: TimeZone,
    /// Where its lines come from.
    pub source: Source,
}

/// Where the lines of a log come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file that is followed.
    File {
        /// Where.
        path: PathBuf,
        /// From its beginning.
        history: bool,
    },
    /// The journal of this machine.
    Journald(journald::Config),
    /// Senders of syslog.
    Syslog(listen::Config),
    /// A person hands it in.
    Import,
}

/// What control works with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[drain]`.
    pub drain: Drain,
    /// Logs.
    pub logs: Vec<Log>,
    /// Gates, members, logs and limits for the books.
    pub setting: Setting,
    /// How each log is judged.
    pub terms: BTreeMap<String, LogTerms>,
    /// Members and their gates.
    pub members: BTreeMap<String, Vec<String>>,
    /// Sentinel of each gate: to, from.
    pub sentinels: BTreeMap<String, (String, Option<String>)>,
    /// Name of this host.
    pub host: String,
    /// The data folder.
    pub data: PathBuf,
}

impl Config {
    /// Reads control's part of a configuration; `path` is for messages.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn of(whole: &DataPlane, path: Option<&Path>) -> Result<Self, ConfigError> {
        let place = path.map_or_else(
            || "the embedded configuration".to_owned(),
            |path| path.display().to_string(),
        );
        let error = |what: String| ConfigError { place: place.clone(), what };
        // Read from the text, a mistake has a line; what changed since it was read first is found below.
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        if let Err(wrong) = toml::from_str::<Part>(&text) {
            let (line, what) = proxy::config::mistake(&text, &wrong);
            return Err(ConfigError { place: format!("{place}:{line}"), what });
        }
        let drain: Drain = toml::Value::Table(whole.drain.clone())
            .try_into()
            .map_err(|wrong: toml::de::Error| error(format!("[drain]: {}", wrong.message())))?;
        check_drain(&drain).map_err(|what| error(format!("[drain]: {what}")))?;
        let mut logs: Vec<Log> = Vec::new();
        for (place, table) in whole.maillog.iter().enumerate() {
            let named = |what: String| error(format!("[[maillog]] number {}: {what}", place + 1));
            let entry: Maillog = toml::Value::Table(table.clone())
                .try_into()
                .map_err(|wrong: toml::de::Error| named(wrong.message().to_owned()))?;
            let log = log_of(entry, whole).map_err(named)?;
            if logs.iter().any(|other| other.plan.name == log.plan.name) {
                return Err(named(format!("another log is named {:?} too", log.plan.name)));
            }
            logs.push(log);
        }
        Ok(Self::assembled(whole, drain, logs))
    }

    fn assembled(whole: &DataPlane, drain: Drain, logs: Vec<Log>) -> Self {
        let mut plan = Plan::default();
        let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut sentinels = BTreeMap::new();
        for gate in &whole.gates {
            let names: Vec<String> = gate.members.iter().map(|one| one.name.clone()).collect();
            if gate.returns.is_none() {
                for name in &names {
                    members.entry(name.clone()).or_default().push(gate.name.clone());
                }
                if let Some(to) = &gate.sentinel_to {
                    sentinels.insert(gate.name.clone(), (to.clone(), gate.sentinel_from.clone()));
                }
            }
            if let Some(partner) = &gate.returns {
                let partner = whole.gates.iter().find(|other| other.name == *partner);
                let members = partner.into_iter().flat_map(|partner| &partner.members);
                plan.told.extend(members.map(|member| member.name.clone()));
            }
            let entry =
                GatePlan { returns: gate.returns.clone(), members: names, trace: gate.trace };
            plan.gates.insert(gate.name.clone(), entry);
        }
        for log in &logs {
            let (Role::Server { member } | Role::Next { member, .. }) = &log.plan.role;
            plan.told.insert(member.clone());
        }
        let limits = Limits {
            remembered_max: drain.remembered_max,
            offers_max: drain.inside_max,
            skew_max_ms: i64::from(drain.skew_max_s) * 1000,
        };
        let terms = logs.iter().map(|log| (log.plan.name.clone(), log.terms)).collect();
        let plans = logs.iter().map(|log| log.plan.clone()).collect();
        Self {
            drain,
            setting: Setting { plan, logs: plans, limits },
            logs,
            terms,
            members,
            sentinels,
            host: whole.host(),
            data: whole.data.clone(),
        }
    }
}

fn check_drain(drain: &Drain) -> Result<(), &'static str> {
    if !(1..=86_400).contains(&drain.quiet_s) {
        return Err("quiet_s must be between 1 and 86400");
    }
    if !drain.metrics_listen.is_empty() && drain.metrics_listen.parse::<SocketAddr>().is_err() {
        return Err("metrics_listen must be an address and a port, such as \"127.0.0.1:9526\"");
    }
    if drain.timeout_s <= drain.quiet_s {
        return Err("timeout_s must be more than quiet_s");
    }
    if !(1..=86_400).contains(&drain.skew_max_s) {
        return Err("skew_max_s must be between 1 and 86400");
    }
    if !(1000..=10_000_000).contains(&drain.remembered_max) {
        return Err("remembered_max must be between 1000 and 10000000");
    }
    if !(1000..=10_000_000).contains(&drain.inside_max) {
        return Err("inside_max must be between 1000 and 10000000");
    }
    Ok(())
}

fn log_of(entry: Maillog, whole: &DataPlane) -> Result<Log, String> {
    let printable = |name: &str| {
        (1..=63).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if !printable(&entry.name) {
        return Err("`name` must be 1 to 63 letters, digits, `-`, `_` or `.`".into());
    }
    let dialect = entry.dialect.ok_or("`dialect` is missing, such as \"postfix\"")?;
    let known = |wanted: &str| {
        let forward = whole.gates.iter().filter(|gate| gate.returns.is_none());
        let mut members = forward.flat_map(|gate| &gate.members);
        members.any(|member| member.name == wanted)
    };
    let role = match (&entry.member, &entry.next_of) {
        (Some(member), None) if known(member) => Role::Server { member: member.clone() },
        (None, Some(member)) if known(member) => {
            let from = if entry.from.is_empty() {
                addresses_of(whole, member)
            } else {
                entry.from.clone()
            };
            if from.is_empty() {
                return Err(format!("`from` is missing: {member} is not named by an IP address"));
            }
            Role::Next { member: member.clone(), from }
        }
        (Some(member), None) | (None, Some(member)) => {
            return Err(format!("no forward gate has a member {member:?}"));
        }
        _ => return Err("one of `member` and `next_of` is needed".into()),
    };
    let zone = match &entry.zone {
        Some(name) => TimeZone::get(name).map_err(|_| {
            format!("zone {name:?} is not known here; a name such as \"Europe/Berlin\" or \"UTC\"")
        })?,
        None => TimeZone::unknown(),
    };
    let sources = [entry.file.is_some(), entry.journald.is_some(), entry.syslog.is_some()];
    if sources.into_iter().filter(|set| *set).count() > 1 {
        return Err("only one of `file`, `journald` and `syslog` can be followed".into());
    }
    if let Some(syslog) = &entry.syslog {
        syslog.check().map_err(|what| format!("syslog: {what}"))?;
        if syslog.udp.is_none() && syslog.tcp.is_none() && syslog.tls.is_none() {
            return Err("syslog: one of `udp`, `tcp` and `tls` is needed".into());
        }
    }
    if let Some(journald) = &entry.journald {
        journald.check().map_err(|what| format!("journald: {what}"))?;
    }
    let udp = entry.syslog.as_ref().is_some_and(|syslog| syslog.udp.is_some());
    let source = match (entry.file, entry.journald, entry.syslog) {
        (Some(path), ..) => {
            let path = if path.is_relative() { whole.data.join(path) } else { path };
            Source::File { path, history: entry.history }
        }
        (_, Some(journald), _) => Source::Journald(journald),
        (_, _, Some(syslog)) => Source::Syslog(syslog),
        _ => Source::Import,
    };
    let clients = match &role {
        Role::Server { member } if entry.clients.is_empty() => source_addresses(whole, member),
        _ => entry.clients,
    };
    let mut leaves = entry.leaves;
    if let Role::Server { member } = &role {
        leaves.extend(return_gates(whole, member));
    }
    let terms = LogTerms::default();
    let mailboxes =
        entry.mailboxes.unwrap_or_else(|| MAILBOXES.iter().map(ToString::to_string).collect());
    Ok(Log {
        plan: LogPlan {
            name: entry.name,
            dialect,
            role,
            clients,
            leaves,
            inside: entry.inside.unwrap_or_else(Networks::none),
            mailboxes,
            ids_of_connections: dialect == Dialect::Sems,
            udp,
        },
        terms: LogTerms {
            missing_max: entry.missing_max,
            unparsed_per_million_max: entry
                .unparsed_per_million_max
                .unwrap_or(terms.unparsed_per_million_max),
            shared: entry.shared,
            udp,
        },
        reading: maillog::Config {
            dialect,
            host: entry.host,
            program: entry.program,
            patterns: entry.patterns,
            pattern: entry.pattern,
        },
        zone,
        source,
    })
}

/// Addresses of a member, where the configuration names it by address.
fn addresses_of(whole: &DataPlane, member: &str) -> Vec<IpAddr> {
    let all = whole.gates.iter().flat_map(|gate| &gate.members);
    let named = all.filter(|one| one.name == member).filter_map(|one| one.address.as_ref());
    named.filter_map(|address| address.host().parse().ok()).collect()
}

/// Where the return gates of a member listen: what is handed over there has left it.
fn return_gates(whole: &DataPlane, member: &str) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for gate in &whole.gates {
        let partner = gate.returns.as_ref();
        let partner = partner.and_then(|name| whole.gates.iter().find(|one| one.name == *name));
        let of_member = partner.is_some_and(|one| one.members.iter().any(|one| one.name == member));
        let (true, Some(listen)) = (of_member, gate.listen) else { continue };
        let port = Some(listen.port());
        if listen.ip().is_unspecified() {
            found.push(Endpoint { address: Ipv4Addr::LOCALHOST.into(), port });
            found.push(Endpoint { address: Ipv6Addr::LOCALHOST.into(), port });
        } else {
            found.push(Endpoint { address: listen.ip(), port });
        }
    }
    found
}

/// Our source addresses towards a member; empty when one of its gates leaves it to the system.
fn source_addresses(whole: &DataPlane, member: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for gate in whole.gates.iter().filter(|gate| gate.returns.is_none()) {
        for one in gate.members.iter().filter(|one| one.name == member) {
            match one.source_address.or(gate.source_address) {
                Some(address) => addresses.push(address),
                None => return Vec::new(),
            }
        }
    }
    addresses
}
