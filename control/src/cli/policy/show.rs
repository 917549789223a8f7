//! `policy show`, `policy protection`: what a policy says, how a message is protected.
//!
//! Not here: what it means (package `policy`).

use std::path::PathBuf;

use clap::Args;
use policy::findings::{Finding, findings};
use policy::protection::{Known, see};
use policy::set::{PolicySet, Stated};
use policy::severity::Severity;
use serde::Serialize;

use super::{Shelf, assumptions};
use crate::cli::Exit;
use crate::policy::source::OCTETS_MAX;
use crate::render::{Out, Table, clean};

/// `policy show …`
#[derive(Debug, Args)]
pub(super) struct Show {
    /// The policy
    policy: String,
    /// What reads an export
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Take what is not documented as NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    assume: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Shown {
    learn_mode: Option<bool>,
    unmanaged_domains: Option<String>,
    chains: Vec<ShownChain>,
    dictionaries: Vec<ShownDictionary>,
    not_understood: Vec<String>,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct ShownChain {
    name: String,
    applies_to: &'static str,
    rules: Vec<ShownRule>,
}

#[derive(Debug, Serialize)]
struct ShownRule {
    name: String,
    enabled: bool,
    when: String,
    actions: Vec<String>,
    origin: String,
}

#[derive(Debug, Serialize)]
struct ShownDictionary {
    name: String,
    kind: &'static str,
    entries: usize,
}

pub(super) async fn show(shelf: &Shelf<'_>, show: Show, out: &mut Out) -> anyhow::Result<Exit> {
    let set = shelf.set(&show.policy, show.mapping.as_deref()).await?;
    let findings = findings(&set, &assumptions(&show.assume)?);
    let wrong = findings.iter().any(|finding| finding.severity > Severity::Info);
    out.document(&shown(&set, findings), text)?;
    Ok(Exit::yes_if(!wrong))
}

fn shown(set: &PolicySet, findings: Vec<Finding>) -> Shown {
    let rules = |chain: &policy::chain::Chain| {
        let rule = |rule: &policy::chain::Rule| ShownRule {
            name: rule.name.clone(),
            enabled: rule.enabled,
            when: rule.test.to_string(),
            actions: rule.actions.iter().map(ToString::to_string).collect(),
            origin: rule.origin.to_string(),
        };
        chain.rules.iter().map(rule).collect()
    };
    let chain = |chain: &policy::chain::Chain| ShownChain {
        name: chain.name.clone(),
        applies_to: chain.applies_to.as_str(),
        rules: rules(chain),
    };
    let dictionary = |one: &policy::dictionary::Dictionary| ShownDictionary {
        name: one.name.clone(),
        kind: one.kind.as_str(),
        entries: one.entries.len(),
    };
    Shown {
        learn_mode: match set.globals.learn_mode {
            Stated::Yes(on) => Some(on),
            Stated::No => None,
        },
        unmanaged_domains: match set.globals.unmanaged {
            Stated::Yes(policy::set::Unmanaged::Bounce) => Some("bounce".into()),
            Stated::Yes(policy::set::Unmanaged::PassUnmodified) => {
                Some("pass through unmodified".into())
            }
            Stated::No => None,
        },
        chains: set.chains.iter().map(chain).collect(),
        dictionaries: set.dictionaries.iter().map(dictionary).collect(),
        not_understood: set.opaque.iter().map(|opaque| opaque.what.clone()).collect(),
        findings,
    }
}

fn text(shown: &Shown) -> String {
    let learn_mode = match shown.learn_mode {
        Some(true) => "ON",
        Some(false) => "off",
        None => "not stated",
    };
    let unmanaged = shown.unmanaged_domains.as_deref().unwrap_or("not stated");
    let mut text =
        format!("Learn Mode: {learn_mode}\nMail of domains that are not managed: {unmanaged}\n");
    for chain in &shown.chains {
        let name = clean(&format!("Chain {:?} ({})", chain.name, chain.applies_to));
        text.push_str(&format!("\n{name}\n"));
        let mut table = Table::new(&[">#", "RULE", "WHEN", "DOES"]);
        for (number, rule) in (1..).zip(&chain.rules) {
            let off = if rule.enabled { "" } else { " (DISABLED)" };
            table.row([
                format!("{number}"),
                format!("{}{off}", rule.name),
                rule.when.clone(),
                rule.actions.join("; "),
            ]);
        }
        text.push_str(&table.to_text(false));
    }
    if !shown.dictionaries.is_empty() {
        let mut table = Table::new(&["DICTIONARY", "KIND", ">ENTRIES"]);
        for one in &shown.dictionaries {
            table.row([one.name.clone(), one.kind.to_owned(), one.entries.to_string()]);
        }
        text.push_str(&format!("\n{}", table.to_text(false)));
    }
    if !shown.findings.is_empty() {
        text.push_str(&format!("\nWhat to look at:\n{}", super::diff::findings(&shown.findings)));
    }
    for what in &shown.not_understood {
        text.push_str(&format!("\nnot understood: {}", clean(what)));
    }
    text
}

/// `policy protection …`
#[derive(Debug, Args)]
pub(super) struct Protection {
    /// The message (RFC 5322)
    message: PathBuf,
    /// Texts of a notice for mail that is kept on the server
    #[arg(long, value_name = "TEXT")]
    web_text: Vec<String>,
    /// How links of such a notice begin
    #[arg(long, value_name = "URL")]
    web_url: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SeenMessage {
    form: &'static str,
    protection: &'static str,
    processed_by: Vec<String>,
    reasons: Vec<String>,
}

pub(super) fn protection(wish: &Protection, out: &mut Out) -> anyhow::Result<Exit> {
    use std::io::Read as _;

    use anyhow::Context as _;

    let name = wish.message.display();
    let cannot = || format!("cannot read {name}");
    let file = std::fs::File::open(&wish.message).with_context(cannot)?;
    let mut octets = Vec::new();
    file.take(OCTETS_MAX + 1).read_to_end(&mut octets).with_context(cannot)?;
    anyhow::ensure!(octets.len() as u64 <= OCTETS_MAX, "{name} is larger than 64 MiB");
    let known = Known {
        web_texts: wish.web_text.clone(),
        web_urls: wish.web_url.clone(),
        ..Known::default()
    };
    let seen = see(&octets, &known);
    let shown = SeenMessage {
        form: seen.form.as_str(),
        protection: seen.protection.as_str(),
        processed_by: seen.processed_by.iter().map(|one| one.by.clone()).collect(),
        reasons: seen.reasons,
    };
    out.document(&shown, |shown| {
        let mut lines = vec![format!("{}: {}", shown.form, shown.protection)];
        lines.extend(shown.processed_by.iter().map(|by| format!("processed by {by}")));
        lines.extend(shown.reasons.iter().cloned());
        lines.iter().map(|line| clean(line)).collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::yes_if(seen.protection > policy::action::Protection::Clear))
}
