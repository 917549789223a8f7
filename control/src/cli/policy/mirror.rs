//! `policy mirror POLICY`: does the MTA send to the server whatever the policy would protect?
//!
//! Not here: the proof (`policy::mirror`).

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use policy::mirror::{Criteria, Mirror, Scope, Stray, Verdict, mirror};
use policy::parity::Limits;
use serde::Serialize;

use super::{Shelf, assumptions};
use crate::cli::Exit;
use crate::policy::comparison::{Shows, shows};
use crate::policy::source::criteria;
use crate::render::{Out, clean};

/// `policy mirror …`
#[derive(Debug, Args)]
pub(super) struct Wish {
    /// The policy
    policy: String,
    /// Which mail the MTA sends to the server, typed (docs/PARITY.md has the form)
    #[arg(long, value_name = "FILE")]
    criteria: PathBuf,
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

pub(super) async fn run(shelf: &Shelf<'_>, wish: Wish, out: &mut Out) -> anyhow::Result<Exit> {
    let set = shelf.set(&wish.policy, wish.mapping.as_deref()).await?;
    let criteria = criteria(&wish.criteria)?;
    let scope = if wish.inbound { Scope::BothDirections } else { Scope::Outbound };
    let assumptions = assumptions(&wish.assume)?;
    let found = mirror(&set, &criteria, &assumptions, scope, Limits::default());
    let verdict = found.verdict;
    out.document(&in_words(&found, &criteria), text)?;
    Ok(match verdict {
        Verdict::Covers => Exit::Yes,
        Verdict::Leaks => Exit::No,
        Verdict::Unknown => Exit::Inconclusive,
    })
}

fn in_words(found: &Mirror, criteria: &Criteria) -> Found {
    let route = |place: &usize| criteria.routes.get(*place).map(|one| one.words.clone());
    let strays = |all: &[Stray]| all.iter().map(|one| stray(one, criteria)).collect();
    Found {
        verdict: match found.verdict {
            Verdict::Covers => "COVERS",
            Verdict::Leaks => "LEAKS",
            Verdict::Unknown => "UNKNOWN",
        },
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
