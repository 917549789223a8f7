//! `policy mirror POLICY`: does the MTA send to the server whatever the policy would protect?
//!
//! Not here: the proof (`policy::mirror`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use policy::mirror::{Criteria, Mirror, Scope, Stray, Verdict, mirror};
use policy::parity::Limits;
use serde::Serialize;

use super::{Shelf, assumptions};
use crate::cli::Exit;
use crate::mirror::{Entrance, Finding, Folder, Gates, Reading, Severity, criteria_of};
use crate::policy::comparison::{Shows, shows};
use crate::policy::source::criteria;
use crate::render::{Out, clean};

/// `policy mirror …`
#[derive(Debug, Args)]
pub(super) struct Wish {
    /// The policy
    policy: String,
    /// Which mail the MTA sends to the server, typed (docs/PARITY.md has the form)
    #[arg(long, value_name = "FILE", required_unless_present = "postfix")]
    criteria: Option<PathBuf>,
    /// The folder of a Postfix configuration (/etc/postfix) to read it from; gates are those of --config, and of --gate
    #[arg(long, value_name = "FOLDER", conflicts_with = "criteria")]
    postfix: Option<PathBuf>,
    /// An address of a gate as Postfix writes it, HOST:PORT
    #[arg(long = "gate", value_name = "HOST:PORT")]
    gates: Vec<String>,
    /// Look too for mail that the policy would decrypt and that does not reach the server
    #[arg(long)]
    inbound: bool,
    /// What reads an export
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Take what is not documented as NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    assume: Vec<String>,
}

/// What was found, in words.
#[derive(Debug, Serialize)]
struct Found {
    verdict: &'static str,
    /// Each way into the MTA by itself.
    entrances: Vec<Entered>,
    /// What else there is to say of the MTA's configuration.
    findings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Entered {
    /// Services of master.cf; empty for typed criteria.
    by: String,
    verdict: &'static str,
    leaks: Vec<Strays>,
    missed: Vec<Strays>,
    more: bool,
    unneeded: Vec<String>,
    unreached: Vec<String>,
    not_understood: Vec<String>,
    too_large: bool,
}

#[derive(Debug, Serialize)]
struct Strays {
    what: String,
    outcome: String,
    route: Option<String>,
    message: Shows,
}

/// Ways into an MTA, and what was noticed of it.
struct Read {
    entrances: Vec<(String, Criteria)>,
    findings: Vec<Finding>,
}

pub(super) async fn run(shelf: &Shelf<'_>, wish: Wish, out: &mut Out) -> anyhow::Result<Exit> {
    let set = shelf.set(&wish.policy, wish.mapping.as_deref()).await?;
    let Read { entrances, findings } = read(shelf, &wish)?;
    let scope = if wish.inbound { Scope::BothDirections } else { Scope::Outbound };
    let assumptions = assumptions(&wish.assume)?;
    // A fallback past the gate is a leak, whatever mail takes it; what could not be read leaves a doubt.
    let mut verdict = match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Leak) => Verdict::Leaks,
        Some(Severity::Error) => Verdict::Unknown,
        _ => Verdict::Covers,
    };
    let mut all = Vec::new();
    for (by, criteria) in &entrances {
        let found = mirror(&set, criteria, &assumptions, scope, Limits::default());
        verdict = verdict.max(found.verdict);
        all.push(in_words(by, &found, criteria));
    }
    let findings = findings.iter().map(ToString::to_string).collect();
    let missed = all.iter().any(|entered: &Entered| !entered.missed.is_empty());
    out.document(&Found { verdict: word(verdict), entrances: all, findings }, text)?;
    Ok(match verdict {
        Verdict::Covers if missed => Exit::No,
        Verdict::Covers => Exit::Yes,
        Verdict::Leaks => Exit::No,
        Verdict::Unknown => Exit::Inconclusive,
    })
}

fn read(shelf: &Shelf<'_>, wish: &Wish) -> anyhow::Result<Read> {
    if let Some(file) = &wish.criteria {
        let entrances = vec![(String::new(), criteria(file)?)];
        return Ok(Read { entrances, findings: Vec::new() });
    }
    let folder = wish.postfix.as_deref().unwrap_or_else(|| Path::new("/etc/postfix"));
    let mut gates = shelf.global.file()?.as_ref().map(Gates::of).unwrap_or_default();
    gates.names.extend(wish.gates.iter().cloned());
    ensure!(
        !gates.forward.is_empty() || !gates.names.is_empty(),
        "nobody says where the gates listen: use --config, or --gate HOST:PORT"
    );
    let Reading { entrances, findings } = criteria_of(&Folder::new(folder), &gates)?;
    let entrance = |entrance: Entrance| (entrance.services.join(", "), entrance.criteria);
    Ok(Read { entrances: entrances.into_iter().map(entrance).collect(), findings })
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Covers => "COVERS",
        Verdict::Leaks => "LEAKS",
        Verdict::Unknown => "UNKNOWN",
    }
}

fn in_words(by: &str, found: &Mirror, criteria: &Criteria) -> Entered {
    let route = |place: &usize| criteria.routes.get(*place).map(|one| one.words.clone());
    let strays = |all: &[Stray]| all.iter().map(|one| stray(one, criteria)).collect();
    Entered {
        by: by.to_owned(),
        verdict: word(found.verdict),
        leaks: strays(&found.leaks),
        missed: strays(&found.missed),
        more: found.more,
        unneeded: found.unneeded.iter().filter_map(route).collect(),
        unreached: found.unreached.iter().filter_map(route).collect(),
        not_understood: found.doubts.iter().map(|doubt| doubt.what.clone()).collect(),
        too_large: found.too_large,
    }
}

fn stray(stray: &Stray, criteria: &Criteria) -> Strays {
    let route = stray.route.and_then(|place| criteria.routes.get(place));
    Strays {
        what: stray.words(),
        outcome: stray.policy.fate.to_string(),
        route: route.map(|route| format!("{} ({})", route.words, route.origin)),
        message: shows(&stray.sample),
    }
}

fn text(found: &Found) -> String {
    let mut text = format!("{}\n", found.verdict);
    for finding in &found.findings {
        writeln!(text, "  {}", clean(finding)).ok();
    }
    for entered in &found.entrances {
        if !entered.by.is_empty() {
            writeln!(text, "\nMail that comes in by {}: {}", clean(&entered.by), entered.verdict)
                .ok();
        }
        text.push_str(&entered_text(entered));
    }
    text
}

fn entered_text(found: &Entered) -> String {
    let mut text = String::new();
    for (title, all) in [("leak", &found.leaks), ("missed", &found.missed)] {
        for (number, one) in (1..).zip(all) {
            writeln!(text, "\n{title} {number}. {}", clean(&one.what)).ok();
            let message = &one.message;
            writeln!(text, "   from <{}> to <{}>", clean(&message.from), clean(&message.to)).ok();
            for line in
                super::diff::head_of(&message.eml).chain(message.beside.iter().map(String::as_str))
            {
                writeln!(text, "   {}", clean(line)).ok();
            }
            let route = one.route.as_deref().unwrap_or("no route matches: the default");
            writeln!(text, "   by {}", clean(route)).ok();
        }
    }
    let lists = [
        ("no mail that it would change goes by", &found.unneeded),
        ("no mail comes to", &found.unreached),
        ("not understood in the policy:", &found.not_understood),
    ];
    for (what, all) in lists {
        for one in all {
            writeln!(text, "{what} {}", clean(one)).ok();
        }
    }
    if found.more {
        text.push_str("there is more than is shown\n");
    }
    if found.too_large {
        text.push_str("there was too much to explore: not all mail was looked at\n");
    }
    text
}
