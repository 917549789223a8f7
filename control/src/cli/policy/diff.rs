//! `policy diff BEFORE AFTER`: would any mail be treated otherwise?
//!
//! Not here: the comparison (`crate::policy::comparison`), the page (`crate::policy::page`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use policy::action::Relation;
use policy::findings::Finding;
use policy::origin::Origin;
use policy::parity::{Explored, Limits, Pair};
use proxy::api::{JournalFilter, JournalLine, path};

use super::{Shelf, assumptions};
use crate::cli::{Exit, duration};
use crate::client::with_query;
use crate::policy::blast::{BlastRadius, Counter};
use crate::policy::comparison::{Comparison, Decided, Input, Options, compare};
use crate::policy::page::page;
use crate::render::{Out, Table, clean};

/// Rules that are named on the way to an outcome.
const RULES_SHOWN: usize = 6;

/// `policy diff …`
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// The policy before the upgrade
    before: String,
    /// The policy after it
    after: String,
    /// What reads the exports
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// What reads the export after, where it is another
    #[arg(long, value_name = "FILE")]
    mapping_after: Option<PathBuf>,
    /// Take what is not documented as NAME=VALUE; the answer lists what there is
    #[arg(long, value_name = "NAME=VALUE")]
    assume: Vec<String>,
    /// Do not look for assumptions that would change the verdict
    #[arg(long)]
    no_hinges: bool,
    /// Classes of differing mail that are shown
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
    /// Write a page for the change ticket
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the messages that show the differences into a folder, as 1.eml, 2.eml, …
    #[arg(long, value_name = "FOLDER")]
    eml: Option<PathBuf>,
    /// Ask the journal which mail of this last time would be affected (30d)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    journal: Option<std::time::Duration>,
    /// Gates whose mail comes in, for --journal
    #[arg(long, value_name = "GATE")]
    inbound: Vec<String>,
}

pub(super) async fn run(shelf: &Shelf<'_>, diff: Diff, out: &mut Out) -> anyhow::Result<Exit> {
    let options = Options {
        assumptions: assumptions(&diff.assume)?,
        limits: Limits { divergences: usize::from(diff.limit), ..Limits::default() },
        hinges: !diff.no_hinges,
    };
    let mapping_after = diff.mapping_after.as_deref().or(diff.mapping.as_deref());
    let before = shelf.source(&diff.before, diff.mapping.as_deref()).await?;
    let after = shelf.source(&diff.after, mapping_after).await?;
    let (since, lines) = match diff.journal {
        Some(time) => {
            let since = Timestamp::now().checked_sub(time).context("that is before all time")?;
            (Some(since), journal(shelf, since).await?)
        }
        None => (None, Vec::new()),
    };
    let mut look = |explored: &Explored<'_>, pair: &Pair| -> Option<BlastRadius> {
        let since = since.map(|since| format!("{since:.0}"))?;
        let mut counter = Counter::new(explored, &pair.judge, &diff.inbound);
        lines.iter().for_each(|line| counter.add(line));
        Some(counter.finish(Some(since)))
    };
    let (one, two) = (before.load()?, after.load()?);
    let (one_hash, two_hash) = (before.sha256(), after.sha256());
    let found = compare(
        Input { name: &diff.before, sha256: &one_hash, loaded: &one },
        Input { name: &diff.after, sha256: &two_hash, loaded: &two },
        &options,
        &mut look,
    );
    if let Some(file) = &diff.html {
        let made_at = format!("{:.0}", Timestamp::now());
        write(file, page(&found, &made_at)?.as_bytes())?;
        out.warn(&format!("the page is {}", file.display()))?;
    }
    if let Some(folder) = &diff.eml {
        messages(&found, folder)?;
    }
    out.document(&found, text)?;
    Ok(exit(found.verdict))
}

pub(super) const fn exit(verdict: Relation) -> Exit {
    match verdict {
        Relation::Equal => Exit::Yes,
        Relation::Unknown => Exit::Inconclusive,
        Relation::Stricter | Relation::Looser | Relation::Incomparable => Exit::No,
    }
}

fn write(file: &Path, octets: &[u8]) -> anyhow::Result<()> {
    std::fs::write(file, octets).with_context(|| format!("cannot write {}", file.display()))
}

/// Every message that shows a difference, as a file, with its envelope beside it.
fn messages(found: &Comparison, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for (number, differs) in (1..).zip(&found.divergences) {
        let message = &differs.message;
        write(&folder.join(format!("{number}.eml")), message.eml.as_bytes())?;
        let mut beside = format!("MAIL FROM:<{}>\nRCPT TO:<{}>\n", message.from, message.to);
        for line in message.beside.iter().chain(&message.unmet) {
            writeln!(beside, "{line}").ok();
        }
        write(&folder.join(format!("{number}.envelope.txt")), beside.as_bytes())?;
    }
    Ok(())
}

/// The lines of the journal since then.
async fn journal(shelf: &Shelf<'_>, since: Timestamp) -> anyhow::Result<Vec<JournalLine>> {
    let since_unix_ms = u64::try_from(since.as_millisecond()).ok();
    let filter = JournalFilter { since_unix_ms, ..JournalFilter::default() };
    let target = with_query(path::JOURNAL, &filter)?;
    let mut pieces = shelf.desk()?.client.stream(&target).await?;
    let mut lines = Vec::new();
    while let Some(line) = pieces.next_line::<JournalLine>().await? {
        lines.push(line);
    }
    Ok(lines)
}

fn text(found: &Comparison) -> String {
    let mut text = format!("{}\n", found.verdict);
    for reason in &found.reasons {
        writeln!(text, "  {}", clean(reason)).ok();
    }
    for (number, differs) in (1..).zip(&found.divergences) {
        let message = &differs.message;
        writeln!(
            text,
            "\n{number}. {}: {} -> {}",
            differs.relation,
            clean(&differs.before.outcome),
            clean(&differs.after.outcome)
        )
        .ok();
        writeln!(text, "   from <{}> to <{}>", clean(&message.from), clean(&message.to)).ok();
        for line in head_of(&message.eml).chain(message.beside.iter().map(String::as_str)) {
            writeln!(text, "   {}", clean(line)).ok();
        }
        writeln!(text, "   before: {}", way(&differs.before)).ok();
        writeln!(text, "   after:  {}", way(&differs.after)).ok();
        for doubt in &differs.hangs_on {
            writeln!(text, "   hangs on: {}", clean(doubt)).ok();
        }
    }
    if found.more {
        text.push_str("\nThere are more classes than are shown: --limit\n");
    }
    if !found.changes.is_empty() {
        let mut table = Table::new(&["WEIGHT", "WHAT", "BEFORE", "AFTER"]);
        for one in &found.changes {
            let at = |origin: &Option<Origin>| {
                origin.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
            };
            let (weight, before, after) =
                (one.severity.to_string(), at(&one.before), at(&one.after));
            table.row([&weight, &one.text, &before, &after]);
        }
        write!(text, "\nWhat was changed:\n{}", table.to_text(false)).ok();
    }
    if !found.findings.is_empty() {
        writeln!(text, "\nIn the policy after:\n{}", findings(&found.findings)).ok();
    }
    if !found.export.is_empty() {
        let mut table = Table::new(&["WHERE", "WHAT", "BEFORE", "AFTER"]);
        for one in &found.export {
            table.row([&one.path, &one.what, &one.before, &one.after]);
        }
        write!(text, "\nThe exports as they are:\n{}", table.to_text(false)).ok();
    }
    if let Some(radius) = &found.blast_radius {
        text.push_str(&radius_text(radius));
    }
    text.push_str("\nTaken for so, where nothing is documented:\n");
    for shown in &found.assumptions {
        writeln!(text, "  {shown}").ok();
    }
    for hinge in &found.hinges {
        writeln!(text, "With {} it would be {}", hinge.assumption, hinge.verdict).ok();
    }
    text
}

/// What is wrong, as a table.
pub(super) fn findings(all: &[Finding]) -> String {
    let mut table = Table::new(&["WEIGHT", "WHAT", "WHERE"]);
    for one in all {
        let (weight, place) = (one.severity.to_string(), one.origin.to_string());
        table.row([&weight, &one.text, &place]);
    }
    table.to_text(false)
}

/// Fields of a message that is shown, without those that every one has.
pub(super) fn head_of(eml: &str) -> impl Iterator<Item = &str> {
    const USUAL: [&str; 5] = ["From:", "To:", "Date:", "Message-ID:", "MIME-Version:"];
    let lines = eml.lines().take_while(|line| !line.is_empty());
    lines.filter(|line| !USUAL.iter().any(|usual| line.starts_with(usual)))
}

/// The rules on the way to an outcome.
fn way(decided: &Decided) -> String {
    let rule = |[chain, rule]: &[String; 2]| match chain.as_str() {
        "" => rule.clone(),
        chain => format!("{chain} / {rule}"),
    };
    let mut names: Vec<String> = decided.rules.iter().map(rule).collect();
    let hidden = names.len().saturating_sub(RULES_SHOWN);
    names.drain(..hidden);
    clean(&names.join(" > "))
}

fn radius_text(radius: &BlastRadius) -> String {
    let mut text = format!(
        "\nOf {} messages of the journal, {} would be treated otherwise, and {} may be\n",
        radius.messages, radius.certainly, radius.perhaps
    );
    if radius.gaps > 0 {
        writeln!(text, "The journal may lack entries in {} parts of that time", radius.gaps).ok();
    }
    let mut table = Table::new(&["AT", "FROM", "TO", "HOW", "ID"]);
    for one in &radius.examples {
        let how: Vec<String> = one.relations.iter().map(ToString::to_string).collect();
        let how = if one.certain { how.join(", ") } else { format!("perhaps {}", how.join(", ")) };
        table.row([&one.at, &one.from, &one.to, &how, &one.id]);
    }
    if !table.is_empty() {
        text.push_str(&table.to_text(false));
    }
    text
}
