//! `logs status|import`: what of the logs is known, and handing one in.
//!
//! Not here: reading them (`crate::watch`).

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Desk, Exit};
use crate::client::{DEADLINE, fill, with_query};
use crate::render::{Out, Table, clean, octets};
use crate::watch::wire::{ImportReport, LogReport, path};

/// `logs …`
#[derive(Debug, Subcommand)]
pub enum Logs {
    /// Every log: how much was read, what is missing, what was not understood (2: one cannot be read)
    Status,
    /// Hand in files, such as the exported Mail log of an appliance; gzip too
    Import(Import),
}

/// Which files, of which log.
#[derive(Debug, Args)]
pub struct Import {
    /// Files, the oldest first
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Log of the configuration
    #[arg(long, required_unless_present = "member")]
    log: Option<String>,
    /// The member whose log it is, where it has only one
    #[arg(long, conflicts_with = "log")]
    member: Option<String>,
}

#[derive(Serialize)]
struct Handed {
    name: String,
    around_unix_ms: Option<i64>,
}

pub(super) async fn run(desk: &Desk, logs: Logs, out: &mut Out) -> anyhow::Result<Exit> {
    match logs {
        Logs::Status => {
            let logs: Vec<LogReport> = desk.client.get(path::LOGS, DEADLINE).await?;
            if logs.is_empty() {
                out.warn("no log is configured: see [[maillog]] in docs/DRAIN.md")?;
            }
            let good = logs.iter().all(|log| log.error.is_none());
            for log in &logs {
                out.document(log, text)?;
            }
            Ok(Exit::yes_if(good))
        }
        Logs::Import(import) => hand_in(desk, import, out).await,
    }
}

async fn hand_in(desk: &Desk, import: Import, out: &mut Out) -> anyhow::Result<Exit> {
    let log = match (import.log, import.member) {
        (Some(log), _) => log,
        (None, member) => {
            let member = member.unwrap_or_default();
            let logs: Vec<LogReport> = desk.client.get(path::LOGS, DEADLINE).await?;
            let mut of: Vec<String> =
                logs.into_iter().filter(|log| log.of == member).map(|log| log.log).collect();
            match (of.pop(), of.is_empty()) {
                (Some(log), true) => log,
                (None, _) => anyhow::bail!("no log of member {member:?} is configured"),
                (Some(_), false) => {
                    anyhow::bail!("member {member:?} has several logs: name one with --log")
                }
            }
        }
    };
    for file in import.files {
        let name = file.display().to_string();
        let opened = std::fs::File::open(&file).with_context(|| format!("cannot read {name}"))?;
        let meta = opened.metadata().with_context(|| format!("cannot read {name}"))?;
        anyhow::ensure!(meta.is_file(), "{name} is no file; name the log files in it");
        let written = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let around_unix_ms = written.and_then(|at| i64::try_from(at.as_millis()).ok());
        let target = fill(path::IMPORT, "log", &log);
        let target = with_query(&target, &Handed { name, around_unix_ms })?;
        let report: ImportReport = desk.client.upload(&target, opened).await?;
        out.document(&report, imported)?;
    }
    Ok(Exit::Yes)
}

fn imported(report: &ImportReport) -> String {
    let mut lines = vec![format!(
        "{}: {} lines, {}, {} not understood",
        clean(&report.name),
        report.lines,
        octets(report.octets),
        report.unparsed
    )];
    if report.known {
        lines
            .push("  it was handed in before: read again, and nothing is counted twice".to_owned());
    }
    if let (Some(from), Some(to)) = (&report.from, &report.to) {
        lines.push(format!("  the log is known from {from} to {to}"));
    }
    if report.unparsed > 0 {
        lines.extend(report.samples.iter().map(|sample| format!("  ? {}", clean(sample))));
    }
    lines.join("\n")
}

/// How far the clock of a log is from ours; a whole half hour and more is a wrong zone.
fn clock(low: i64, high: i64) -> String {
    const HALF_HOUR_MS: i64 = 1_800_000;
    if low.abs().min(high.abs()) < HALF_HOUR_MS / 2 {
        return format!("  its clock is {low} to {high} ms ahead of ours");
    }
    #[allow(clippy::cast_precision_loss, reason = "hours for people")]
    let hours = (low + high) as f64 / 7_200_000.0;
    format!("  its clock is {hours:.1} hours ahead of ours: is its `zone` right?")
}

fn text(log: &LogReport) -> String {
    let mut table =
        Table::new(&["LOG", "OF", "SOURCE", ">LINES", ">NOT UNDERSTOOD", ">HOLES", "LAST LINE"]);
    table.row([
        log.log.as_str(),
        &log.of,
        &log.source,
        &log.lines.to_string(),
        &log.unparsed.to_string(),
        &log.missing.to_string(),
        log.alive.as_deref().unwrap_or("never"),
    ]);
    let mut lines = vec![table.to_text(false)];
    if let Some(error) = &log.error {
        lines.push(format!("  cannot be read: {}", clean(error)));
    }
    if let Some((low, high)) = log.skew_ms {
        lines.push(clock(low, high));
    }
    if log.bypasses > 0 {
        lines.push(format!("  {} messages reached the server past lockgate", log.bypasses));
    }
    lines.extend(log.samples.iter().map(|sample| format!("  ? {}", clean(sample))));
    lines.join("\n")
}
