//! `policy …`: mail policies before and after an upgrade.
//!
//! Files are read here and compared here, without a running lockgate; only what is kept (`@NAME`) and the journal are asked
//! of one.
//!
//! Not here: what a policy means (package `policy`), comparisons as documents (`crate::policy`).

mod diff;
mod learn;
mod mirror;
mod observed;
mod probe;
mod show;
mod trace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use policy::assume::Assumptions;
use policy::set::PolicySet;

use super::{Desk, Exit, Global};
use crate::client::{DEADLINE, fill};
use crate::policy::snapshot::{Facts, Keep};
use crate::policy::source::{Loaded, OCTETS_MAX, Source};
use crate::render::{Out, Table, clean};
use crate::watch::wire::path;

/// Longest wait for a snapshot to travel and to be read.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(60);

/// What a POLICY may be.
const POLICIES: &str = "\
A POLICY is a file, or @NAME for one that is kept:
  *.toml  typed by hand (docs/PARITY.md has the form)
  *.xml   exported by the server; with --mapping it is understood, without it is compared as it is

Exit codes:
  0  equal; nothing is wrong
  1  error
  2  differs; something is wrong
  3  not to be told";

/// `policy …`
#[derive(Debug, Args)]
#[command(after_help = POLICIES)]
pub struct Policy {
    #[command(subcommand)]
    verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Keep a policy under a name, with time and hash
    Import(Import),
    /// List the policies that are kept (2: none)
    List,
    /// Keep a policy no more
    Remove {
        /// Its name
        name: String,
    },
    /// Show chains and rules, and what is wrong with them (2: something is)
    Show(show::Show),
    /// Tell what a policy does with a message, rule by rule
    Trace(trace::Trace),
    /// Compare two policies: would any mail be treated otherwise? (0: equal, 2: differs, 3: not to be told)
    Diff(diff::Diff),
    /// Show the shape of an export, or draft a mapping for it
    Learn(learn::Learn),
    /// Compare what the server was seen to do, by two of its logs; advisory only
    Observed(observed::Observed),
    /// Would the MTA send past the server what the policy protects? (0: no, 2: a message shows it, 3: not to be told)
    Mirror(mirror::Wish),
    /// Send a message for every rule through the server, and look at what comes out
    #[command(subcommand)]
    Probe(probe::Probe),
    /// Tell how a message is protected, seen from outside (2: in clear)
    Protection(show::Protection),
}

#[derive(Debug, Args)]
struct Import {
    /// The file
    file: PathBuf,
    /// Its name from now on
    #[arg(long = "as", value_name = "NAME")]
    name: String,
    /// What reads an export
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// The member that it is of
    #[arg(long)]
    member: Option<String>,
}

pub(super) async fn run(policy: Policy, global: &Global, out: &mut Out) -> anyhow::Result<Exit> {
    let shelf = Shelf { global };
    match policy.verb {
        Verb::Import(import) => self::import(&shelf, import, out).await,
        Verb::List => list(&shelf, out).await,
        Verb::Remove { name } => {
            let target = fill(path::POLICY_REMOVE, "name", &name);
            shelf.desk()?.client.post_empty(&target).await?;
            out.say(&format!("{name} is kept no more"))?;
            Ok(Exit::Yes)
        }
        Verb::Show(show) => show::show(&shelf, show, out).await,
        Verb::Trace(trace) => trace::run(&shelf, trace, out).await,
        Verb::Diff(diff) => diff::run(&shelf, diff, out).await,
        Verb::Learn(learn) => learn::run(&learn, out),
        Verb::Observed(observed) => observed::run(&shelf, observed, out).await,
        Verb::Mirror(wish) => mirror::run(&shelf, wish, out).await,
        Verb::Probe(probe) => probe::run(&shelf, probe, out).await,
        Verb::Protection(protection) => show::protection(&protection, out),
    }
}

/// Where policies come from: files, and what a running lockgate keeps.
struct Shelf<'a> {
    global: &'a Global,
}

impl Shelf<'_> {
    fn desk(&self) -> anyhow::Result<Desk> {
        Desk::new(self.global)
    }

    /// What a POLICY stands for.
    async fn source(&self, name: &str, mapping: Option<&Path>) -> anyhow::Result<Source> {
        let Some(kept) = name.strip_prefix('@') else {
            return Ok(Source::read(Path::new(name), mapping)?);
        };
        if mapping.is_some() {
            bail!("{name} is kept with its mapping: leave --mapping out, or import it anew");
        }
        let target = fill(path::POLICY, "name", kept);
        let octets_max = usize::try_from(2 * OCTETS_MAX).unwrap_or(usize::MAX);
        let octets = self.desk()?.client.get_octets(&target, octets_max, SNAPSHOT_DEADLINE).await?;
        postcard::from_bytes(&octets).context("what is kept cannot be read by this version")
    }

    /// A policy that is understood.
    async fn set(&self, name: &str, mapping: Option<&Path>) -> anyhow::Result<PolicySet> {
        let Loaded { set, .. } = self.source(name, mapping).await?.load()?;
        set.with_context(|| {
            format!("{name} is an export, and nothing says what its parts mean: use --mapping")
        })
    }
}

/// Takes `--assume NAME=VALUE` together.
fn assumptions(texts: &[String]) -> anyhow::Result<Assumptions> {
    let mut assumptions = Assumptions::default();
    for text in texts {
        assumptions.set(text)?;
    }
    Ok(assumptions)
}

async fn import(shelf: &Shelf<'_>, import: Import, out: &mut Out) -> anyhow::Result<Exit> {
    let source = Source::read(&import.file, import.mapping.as_deref())?;
    let taken_by = super::holder().name;
    let keep = Keep { name: import.name, taken_by, member: import.member, source };
    let body = postcard::to_stdvec(&keep).context("it cannot be packed")?;
    let client = shelf.desk()?.client;
    let facts: Facts = client.post_octets(path::POLICIES, body, SNAPSHOT_DEADLINE).await?;
    out.document(&facts, |facts| {
        let read = if facts.understood { "a policy" } else { "an export, compared as it is" };
        clean(&format!("kept as @{}: {read}, SHA-256 {}", facts.name, facts.sha256))
    })?;
    Ok(Exit::Yes)
}

async fn list(shelf: &Shelf<'_>, out: &mut Out) -> anyhow::Result<Exit> {
    let all: Vec<Facts> = shelf.desk()?.client.get(path::POLICIES, DEADLINE).await?;
    out.list(&all, |all| {
        let mut table = Table::new(&["NAME", "TAKEN", "BY", "MEMBER", "FILE", "SHA-256"]);
        for one in all {
            let name = format!("@{}", one.name);
            let member = one.member.as_deref().unwrap_or("-");
            table.row([&name, &one.taken_at, &one.taken_by, member, &one.file, &one.sha256[..16]]);
        }
        table
    })?;
    if all.is_empty() {
        out.warn("no policy is kept: `lockgate policy import FILE --as NAME`")?;
    }
    Ok(Exit::yes_if(!all.is_empty()))
}
