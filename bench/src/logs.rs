//! How fast mail logs are read: the dialects beside the tools that administrators have.
//!
//! Each component reads the same file in a process of its own, with one thread, in turn. pflogsumm sums a log of
//! Postfix up; exigrep looks one of Exim through for something that is not in it. Both do less than telling what
//! became of each message.
//!
//! Not here: what the lines mean (`control::maillog`).

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use control::maillog::{Clock, Dialect, Frame, Line, Reader};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Longest line that is looked at.
const LINE_MAX: usize = 64 * 1024;

/// The second that made-up logs begin at: 2026-11-24, 10:00 UTC.
const BEGIN: i64 = 1_795_514_400;

/// Names exigrep where it is not on the path (its package does not go beside Postfix).
const EXIGREP: &str = "LOCKGATE_BENCH_EXIGREP";

/// `logs`
#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Lines of each log.
    #[arg(long, default_value_t = 1_000_000)]
    lines: usize,
    /// Rounds; each component runs once in each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// `read-log`
#[derive(Args, Debug)]
pub(crate) struct ReadLog {
    /// Who wrote it.
    #[arg(long)]
    dialect: String,
    /// The log.
    file: PathBuf,
}

/// What is run over a log.
struct Component {
    name: &'static str,
    /// The log it reads: Postfix's, or Exim's.
    dialect: Dialect,
    command: Command,
}

impl Logs {
    /// Makes the logs, runs everything in turn, prints lines per second and ratios.
    ///
    /// # Errors
    /// When a log cannot be written or a component fails.
    pub(crate) fn run(&self) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let path = |dialect: Dialect| folder.path().join(format!("{}.log", dialect.name()));
        for dialect in [Dialect::Postfix, Dialect::Exim] {
            std::fs::write(path(dialect), log_of(dialect, self.lines))
                .context("cannot write the log")?;
        }
        let mut components = self.components(&path)?;
        let mut rates = vec![Vec::new(); components.len()];
        for round in 0..self.rounds {
            for place in 0..components.len() {
                // Rotated, so that no component always comes first.
                let place = (place + round) % components.len();
                rates[place].push(self.lines as f64 / run(&mut components[place])?);
            }
        }
        println!("{} lines, {} rounds: lines/s (min median max)", self.lines, self.rounds);
        for (component, rates) in components.iter().zip(&mut rates) {
            rates.sort_by(f64::total_cmp);
            let (least, most) = (rates[0], rates[rates.len() - 1]);
            println!("{:<24} {least:>12.0} {:>12.0} {most:>12.0}", component.name, median(rates));
        }
        let of = |name: &str| {
            components.iter().position(|other| other.name == name).map(|at| median(&rates[at]))
        };
        for (ours, theirs) in [("lockgate postfix", "pflogsumm"), ("lockgate exim", "exigrep")] {
            if let (Some(ours_rate), Some(rate)) = (of(ours), of(theirs)) {
                println!("{ours} / {theirs}: {:.1} (target >= 20)", ours_rate / rate);
            }
        }
        Ok(())
    }

    fn components(&self, path: &dyn Fn(Dialect) -> PathBuf) -> Result<Vec<Component>> {
        let mut components = Vec::new();
        for (name, dialect) in
            [("lockgate postfix", Dialect::Postfix), ("lockgate exim", Dialect::Exim)]
        {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["read-log", "--dialect", dialect.name()]).arg(path(dialect));
            components.push(Component { name, dialect, command });
        }
        let exigrep = std::env::var_os(EXIGREP).unwrap_or_else(|| "exigrep".into());
        for (name, program, dialect) in [
            ("pflogsumm", "pflogsumm".into(), Dialect::Postfix),
            ("exigrep", exigrep, Dialect::Exim),
        ] {
            let mut command = Command::new(&program);
            if dialect == Dialect::Exim {
                command.arg("nothing-of-this-kind");
            }
            command.arg(path(dialect));
            let found = Command::new(&program).arg("--help").output().is_ok();
            if found {
                components.push(Component { name, dialect, command });
            } else {
                println!("{name} is not installed: skipped");
            }
        }
        ensure!(self.lines > 0 && self.rounds > 0, "--lines and --rounds must be above 0");
        Ok(components)
    }
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// Seconds that it takes.
fn run(component: &mut Component) -> Result<f64> {
    let name = component.name;
    let began = Instant::now();
    let status = component
        .command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {name} for {}", component.dialect.name()))?;
    let seconds = began.elapsed().as_secs_f64();
    // exigrep answers 1 when it finds nothing.
    ensure!(status.code().is_some_and(|code| code < 2), "{name}: {status}");
    Ok(seconds)
}

impl ReadLog {
    /// Reads the log as a drain would, line by line, and says what was in it.
    ///
    /// # Errors
    /// When the file cannot be read, or not one line of it is understood.
    pub(crate) fn run(&self) -> Result<()> {
        let dialect = Dialect::named(&self.dialect).context("no such dialect")?;
        let found = read(dialect, &self.file)?;
        println!("{found:?}");
        ensure!(found.events > 0, "nothing was understood");
        Ok(())
    }
}

/// What was in a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    lines: u64,
    events: u64,
    quiet: u64,
    unparsed: u64,
}

fn read(dialect: Dialect, path: &Path) -> Result<Found> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut input = BufReader::with_capacity(256 * 1024, file);
    let around = Timestamp::from_second(BEGIN)?;
    let mut clock = Clock::new(Frame { zone: TimeZone::UTC, around });
    let mut reader = Reader::new(dialect);
    let (mut found, mut begun) = (Found::default(), Vec::new());
    let mut take = |line: &[u8]| {
        found.lines += 1;
        let line = &line[..line.len().min(LINE_MAX)];
        reader.read(line, &mut clock, &mut |line| match line {
            Line::Event(_) => found.events += 1,
            Line::Quiet(_) | Line::Hole(_) => found.quiet += 1,
            Line::Unparsed => found.unparsed += 1,
        });
    };
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        let mut rest = chunk;
        while let Some(at) = memchr::memchr(b'\n', rest) {
            if begun.is_empty() {
                take(&rest[..at]);
            } else {
                begun.extend_from_slice(&rest[..at]);
                take(&begun);
                begun.clear();
            }
            rest = &rest[at + 1..];
        }
        begun.extend_from_slice(rest);
        let octets = chunk.len();
        input.consume(octets);
    }
    if !begun.is_empty() {
        take(&begun);
    }
    Ok(found)
}

/// A log as a busy relay writes it, stamps and ids moving on.
fn log_of(dialect: Dialect, lines: usize) -> String {
    let mut log = String::with_capacity(lines * 160);
    let mut written = 0;
    let mut number = 0_u64;
    while written < lines {
        let texts = if dialect == Dialect::Exim { exim(number) } else { postfix(number) };
        for text in texts.iter().take(lines - written) {
            // Writing to a String cannot fail.
            writeln!(log, "{text}").ok();
            written += 1;
        }
        number += 1;
    }
    log
}

/// Hour, minute and second of the message: forty a second.
fn time_of(number: u64) -> (u64, u64, u64) {
    let second = number / 40;
    (second / 3600 % 24, second / 60 % 60, second % 60)
}

fn postfix(number: u64) -> Vec<String> {
    let (hour, minute, second) = time_of(number);
    let id = format!("{:05X}{:06X}", number * 7919 % 0xF_FFFF, 0x4A_0000 + number % 0xFFFF);
    let next = format!("{:05X}{:06X}", number * 104_729 % 0xF_FFFF, 0x5B_0000 + number % 0xFFFF);
    let client = format!("client{}.example.org[192.0.2.{}]", number % 90, number % 250);
    [
        format!("smtpd[4711]: connect from {client}"),
        format!("smtpd[4711]: {id}: client={client}"),
        format!("cleanup[4712]: {id}: message-id=<{number:x}.{id}@client.example.org>"),
        format!(
            "qmgr[99]: {id}: from=<user{}@example.org>, size={}, nrcpt=1 (queue active)",
            number % 5000,
            900 + number % 90_000
        ),
        format!(
            "smtp[4713]: {id}: to=<user{}@example.net>, relay=sems1.example.org[192.0.2.20]:25, \
             delay=0.14, delays=0.01/0/0.02/0.11, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as {next})",
            number % 7000
        ),
        format!("qmgr[99]: {id}: removed"),
        format!(
            "smtpd[4711]: disconnect from {client} ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5"
        ),
    ]
    .into_iter()
    .map(|text| format!("Nov 24 {hour:02}:{minute:02}:{second:02} mx1 postfix/{text}"))
    .collect()
}

fn exim(number: u64) -> Vec<String> {
    let (hour, minute, second) = time_of(number);
    let id = format!("1t{:04}-{:06}-{:02}", number / 1_000_000 % 10_000, number % 1_000_000, 0);
    [
        format!(
            "{id} <= user{}@example.org H=client.example.org [192.0.2.{}] P=esmtps S={} \
             id={number:x}@client.example.org",
            number % 5000,
            number % 250,
            900 + number % 90_000
        ),
        format!(
            "{id} => user{}@example.net R=smarthost T=remote_smtp H=sems1.example.org [192.0.2.20] \
             C=\"250 2.0.0 Ok: queued as 4A{:06X}\"",
            number % 7000,
            number % 0xFF_FFFF
        ),
        format!("{id} Completed"),
    ]
    .into_iter()
    .map(|text| format!("2026-11-24 {hour:02}:{minute:02}:{second:02} {text}"))
    .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_understood_to_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        for dialect in [Dialect::Postfix, Dialect::Exim] {
            let path = folder.path().join("log");
            std::fs::write(&path, log_of(dialect, 1_000)).unwrap();
            let found = read(dialect, &path).unwrap();
            assert_eq!((found.lines, found.unparsed), (1_000, 0), "{found:?}");
            assert!(found.events > 500, "{found:?}");
        }
    }
}
