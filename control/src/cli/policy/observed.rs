//! `policy observed BEFORE-LOG AFTER-LOG`: what the server was seen to do, before and after; advisory only.
//!
//! Not here: what lines say (`crate::maillog`), shares and noise (`policy::observed`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use jiff::tz::TimeZone;
use policy::observed::{self, Change, Kind, Record};
use serde::Serialize;

use super::Shelf;
use crate::cli::Exit;
use crate::maillog::{Clock, Dialect, Frame, Line, Reader, What};
use crate::render::{Out, Table};

/// Longest line that is looked at.
const LINE_MAX: u64 = 64 * 1024;

/// `policy observed …`
#[derive(Debug, Args)]
pub(super) struct Observed {
    /// The server's Mail log of a time before
    before: PathBuf,
    /// The server's Mail log of a time after
    after: PathBuf,
    /// A policy that the first log should agree with
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// What reads an export
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
}

/// What shifted, in words.
#[derive(Debug, Serialize)]
struct Found {
    shifts: Vec<Shifted>,
    /// Rules of the policy that no line names.
    never_hit: Vec<String>,
    /// Rules that lines name and the policy does not have so.
    impossible: Vec<String>,
    /// Lines that were not understood, in both logs.
    unparsed: u64,
}

#[derive(Debug, Serialize)]
struct Shifted {
    what: String,
    change: String,
    before: u64,
    before_of: u64,
    after: u64,
    after_of: u64,
}

pub(super) async fn run(shelf: &Shelf<'_>, wish: Observed, out: &mut Out) -> anyhow::Result<Exit> {
    let (before, unread) = records(&wish.before)?;
    let (after, more) = records(&wish.after)?;
    let (before, after) = (observed::Observed::count(&before), observed::Observed::count(&after));
    let mut found = Found {
        shifts: observed::compare(&before, &after).iter().map(shifted).collect(),
        never_hit: Vec::new(),
        impossible: Vec::new(),
        unparsed: unread + more,
    };
    if let Some(policy) = &wish.policy {
        let set = shelf.set(policy, wish.mapping.as_deref()).await?;
        let disagreement = before.disagreement(&set);
        found.never_hit = disagreement.never_hit.iter().map(hit).collect();
        found.impossible = disagreement
            .impossible
            .iter()
            .map(|(one, why)| format!("{}: {why:?}", hit(one)))
            .collect();
    }
    let shifted = found.shifts.iter().any(|one| is_shift(&one.change));
    out.document(&found, text)?;
    // Where nothing was seen often enough, nothing is known.
    let known = found.shifts.iter().any(|one| one.change != word(Change::TooFew));
    Ok(if !known && found.impossible.is_empty() {
        Exit::Inconclusive
    } else {
        Exit::yes_if(!shifted && found.impossible.is_empty())
    })
}

fn is_shift(change: &str) -> bool {
    change != word(Change::WithinNoise) && change != word(Change::TooFew)
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Appeared => "appeared",
        Change::Vanished => "VANISHED",
        Change::Rose => "rose",
        Change::Fell => "fell",
        Change::WithinNoise => "within noise",
        Change::TooFew => "too few",
    }
}

fn hit(hit: &observed::Hit) -> String {
    format!("{} / {}", hit.chain, hit.rule)
}

fn shifted(shift: &observed::Shift) -> Shifted {
    let what = match &shift.kind {
        Kind::Hit(one) => hit(one),
        Kind::Disposition(text) => text.clone(),
    };
    Shifted {
        what,
        change: word(shift.change).to_owned(),
        before: shift.before.count,
        before_of: shift.before.of,
        after: shift.after.count,
        after_of: shift.after.of,
    }
}

/// What a log tells of each session and recipient, and how many lines were not understood.
fn records(path: &Path) -> anyhow::Result<(Vec<Record>, u64)> {
    let cannot = || format!("cannot read {}", path.display());
    let mut lines = BufReader::new(File::open(path).with_context(cannot)?);
    let mut reader = Reader::new(Dialect::Sems);
    // Only what is counted matters here, not when it was.
    let mut clock = Clock::new(Frame { zone: TimeZone::UTC, around: jiff::Timestamp::UNIX_EPOCH });
    let mut all: BTreeMap<(String, String), Record> = BTreeMap::new();
    let (mut line, mut unparsed) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = std::io::Read::take(&mut lines, LINE_MAX).read_until(b'\n', &mut line);
        if read.with_context(cannot)? == 0 {
            break;
        }
        reader.read(&line, &mut clock, &mut |line| match line {
            Line::Event(event) => note(&mut all, event.host, event.pid, &event.what),
            Line::Unparsed => unparsed += 1,
            Line::Hole(_) | Line::Quiet(_) => {}
        });
    }
    Ok((all.into_values().collect(), unparsed))
}

fn note(
    all: &mut BTreeMap<(String, String), Record>,
    host: Option<&str>,
    pid: Option<u32>,
    what: &What<'_>,
) {
    let (id, recipient, hit, disposition) = match what {
        What::RuleMatched { id, recipient, chain, rule } => {
            (id, recipient, Some(((*chain).to_owned(), (*rule).to_owned())), None)
        }
        What::Processed { id, recipient, text } => (id, recipient, None, Some(phrase(text))),
        _ => return,
    };
    // The counter of connections begins anew with the process.
    let session = format!("{} {}", pid.unwrap_or_default(), id.0);
    let record = all.entry((session.clone(), (*recipient).to_owned())).or_insert_with(|| Record {
        server: host.unwrap_or_default().to_owned(),
        session,
        recipient: (*recipient).to_owned(),
        direction: None,
        path: Vec::new(),
        disposition: None,
    });
    record.path.extend(hit.map(|(chain, rule)| observed::Hit { chain, rule }));
    if disposition.is_some() {
        record.disposition = disposition;
    }
}

/// A disposition without what is of one message alone.
fn phrase(text: &str) -> String {
    let text = text.split(" [0x").next().unwrap_or(text);
    text.split(" from ").next().unwrap_or(text).to_owned()
}

fn text(found: &Found) -> String {
    let mut table = Table::new(&["WHAT", "CHANGE", ">BEFORE", ">OF", ">AFTER", ">OF"]);
    for one in &found.shifts {
        table.row([
            one.what.clone(),
            one.change.clone(),
            one.before.to_string(),
            one.before_of.to_string(),
            one.after.to_string(),
            one.after_of.to_string(),
        ]);
    }
    let mut text =
        String::from("Advisory only: shares of what was seen, not what the policy says.\n");
    text.push_str(&table.to_text(false));
    for one in &found.never_hit {
        text.push_str(&format!("never seen: {one}\n"));
    }
    for one in &found.impossible {
        text.push_str(&format!("seen, and not so in the policy: {one}\n"));
    }
    if found.unparsed > 0 {
        text.push_str(&format!("{} lines were not understood\n", found.unparsed));
    }
    text
}
