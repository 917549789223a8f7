//! `lockgate check`, control's part: what must be right before a drain depends on it.
//!
//! It reads and binds, and changes nothing.
//!
//! Not here: the data plane (`proxy::check`), whether values fit one another (`config`).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use jiff::Timestamp;
use proxy::check::{Finding, Level};
use proxy::config::Config as DataPlane;

use crate::config::{Config, Log, Source};
use crate::drain::correlate::Role;
use crate::maillog::feeds::listen;
use crate::maillog::{Clock, Frame, Line, Reader};

/// Octets at the end of a log that are looked at.
const LOOKED_AT: u64 = 64 * 1024;

fn finding(level: Level, what: String, mend: &str) -> Finding {
    Finding { level, what, mend: mend.to_owned() }
}

/// Looks at `[drain]` and every `[[maillog]]`; `path` is that of the configuration.
#[must_use]
pub fn run(whole: &DataPlane, path: Option<&Path>) -> Vec<Finding> {
    let config = match Config::of(whole, path) {
        Ok(config) => config,
        Err(error) => {
            let mend = "`serve` will refuse to start until this is mended";
            return vec![finding(Level::Error, error.to_string(), mend)];
        }
    };
    let mut findings: Vec<Finding> = config.logs.iter().flat_map(look_at_log).collect();
    findings.extend(metrics(&config));
    findings.extend(members(&config));
    findings
}

fn look_at_log(log: &Log) -> Vec<Finding> {
    let name = &log.plan.name;
    let mut reader = match Reader::from_config(&log.reading) {
        Ok(reader) => reader,
        Err(error) => {
            let mend = "`serve` will refuse to start until this is mended";
            return vec![finding(Level::Error, format!("log {name}: {error}"), mend)];
        }
    };
    match &log.source {
        Source::File { path, .. } => vec![look_at_file(log, path, &mut reader)],
        Source::Syslog(syslog) => listeners(name, syslog),
        Source::Journald(journald) => {
            let asked = std::process::Command::new(&journald.program).arg("--version").output();
            vec![match asked {
                Ok(_) => finding(Level::Ok, format!("log {name}: journald"), ""),
                Err(error) => {
                    let program = journald.program.display();
                    let what = format!("log {name}: {program} cannot be started: {error}");
                    finding(Level::Error, what, "name the program: journald = { program = \"…\" }")
                }
            }]
        }
        Source::Import => {
            vec![finding(Level::Ok, format!("log {name}: handed in (lockgate logs import)"), "")]
        }
    }
}

/// Can it be read, and is it what it is said to be?
fn look_at_file(log: &Log, path: &Path, reader: &mut Reader) -> Finding {
    let (name, shown) = (&log.plan.name, path.display());
    let tail = match tail_of(path) {
        Ok(tail) => tail,
        Err(error) => {
            let what = format!("log {name}: {shown} cannot be read: {error}");
            let mend = "name the file that the system writes, and let the user of lockgate read it";
            return finding(Level::Error, what, mend);
        }
    };
    let mut clock = Clock::new(Frame { zone: log.zone.clone(), around: Timestamp::now() });
    let (mut lines, mut understood) = (0_u32, 0_u32);
    for line in tail.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
        let mut known = false;
        reader.read(line, &mut clock, &mut |said| known |= said != Line::Unparsed);
        lines += 1;
        understood += u32::from(known);
    }
    if lines > 0 && understood < lines / 2 {
        let dialect = log.plan.dialect.name();
        let what = format!(
            "log {name}: {shown}: {} of its last {lines} lines are not of the dialect {dialect}",
            lines - understood
        );
        return finding(Level::Warning, what, "is `dialect` right, and is it this file?");
    }
    finding(Level::Ok, format!("log {name}: {shown}"), "")
}

/// The last whole lines of a file.
fn tail_of(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LOOKED_AT);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(LOOKED_AT).read_to_end(&mut tail)?;
    let cut =
        if from == 0 { 0 } else { tail.iter().position(|octet| *octet == b'\n').unwrap_or(0) };
    Ok(tail.split_off(cut))
}

fn listeners(name: &str, syslog: &listen::Config) -> Vec<Finding> {
    let bound = |what: &str, at: SocketAddr, result: std::io::Result<()>| match result {
        Ok(()) => finding(Level::Ok, format!("log {name}: syslog by {what} at {at}"), ""),
        // A serving lockgate has it.
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => finding(
            Level::Warning,
            format!("log {name}: syslog by {what}: {at} is in use"),
            "by a serving lockgate, or by another program",
        ),
        Err(error) => {
            let what = format!("log {name}: syslog by {what} cannot listen on {at}: {error}");
            finding(Level::Error, what, "choose an address of this host and a free port")
        }
    };
    let mut findings = Vec::new();
    if let Some(at) = syslog.udp {
        findings.push(bound("UDP", at, UdpSocket::bind(at).map(drop)));
        let what = format!("log {name}: UDP can be lost and forged");
        findings.push(finding(Level::Warning, what, "it settles nothing: use TCP or TLS"));
    }
    if let Some(at) = syslog.tcp {
        findings.push(bound("TCP", at, TcpListener::bind(at).map(drop)));
    }
    if let Some(tls) = &syslog.tls {
        findings.push(bound("TLS", tls.listen, TcpListener::bind(tls.listen).map(drop)));
    }
    findings
}

fn metrics(config: &Config) -> Option<Finding> {
    let address = config.drain.metrics_listen.as_str();
    let at: SocketAddr = match address {
        "" => return None,
        address => address.parse().ok()?,
    };
    let error = TcpListener::bind(at).err()?;
    let (level, mend) = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            (Level::Warning, "by a serving lockgate, or by another program")
        }
        _ => (Level::Error, "[drain] metrics_listen: choose an address of this host"),
    };
    Some(finding(level, format!("metrics of control at {at}: {error}"), mend))
}

/// Can a drain of each member end with a certificate at all?
fn members(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (member, gates) in &config.members {
        let logs = config.setting.logs_of(member).filter(|log| !log.udp).count();
        let next =
            config.setting.logs.iter().any(
                |log| matches!(&log.role, Role::Next { member: other, .. } if other == member),
            );
        if !config.setting.plan.told.contains(member) {
            let what = format!("nothing tells what becomes of mail that is handed to {member}");
            let mend = "a drain of it cannot be proven: configure a return gate or a [[maillog]] (docs/DRAIN.md)";
            findings.push(finding(Level::Warning, what, mend));
            continue;
        }
        if logs == 0 {
            let seen = if next { "the log of the next host" } else { "a return gate" };
            let what = format!("no log of {member} itself is configured, only {seen}");
            let mend = "a drain will ask for a look at its queue page (docs/DRAIN.md, no-log)";
            findings.push(finding(Level::Warning, what, mend));
        }
        for gate in gates.iter().filter(|gate| !config.sentinels.contains_key(*gate)) {
            let what = format!("gate {gate} has no `sentinel_to`: a drain of {member} will doubt");
            let mend = "set it to an address of yours behind the server";
            findings.push(finding(Level::Warning, what, mend));
        }
    }
    findings
}
