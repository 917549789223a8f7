//! `policy trace POLICY MESSAGE`: what a policy does with a message, rule by rule.
//!
//! Not here: which facts a message has (`policy::message`).

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use policy::decide::{Decision, Judge};
use policy::message;
use policy::program::{Program, Questions};
use policy::sample::{Fact, Sample, Shape, Variable};
use serde::Serialize;

use super::{Shelf, assumptions};
use crate::cli::Exit;
use crate::policy::comparison::{Looked, name, trace};
use crate::render::{Out, clean};

/// Octets of a message that is traced.
const MESSAGE_OCTETS_MAX: u64 = 64 << 20;

/// `policy trace …`
#[derive(Debug, Args)]
pub(super) struct Trace {
    /// The policy
    policy: String,
    /// The message (RFC 5322); - for standard input
    message: PathBuf,
    /// Reverse-path [default: the address of its From field]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Forward-paths [default: the addresses of its To and Cc fields]
    #[arg(long, value_name = "ADDRESS")]
    to: Vec<String>,
    /// It comes in [default: it goes out]
    #[arg(long)]
    inbound: bool,
    /// What only the server knows: "recipient key=any", "recipient group=staff"; NAME= where there is none
    #[arg(long, value_name = "NAME=VALUE")]
    fact: Vec<String>,
    /// What reads an export
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Take what is not documented as NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    assume: Vec<String>,
}

/// What becomes of it for one recipient.
#[derive(Debug, Serialize)]
struct Traced {
    to: String,
    /// What becomes of it; several where facts are missing.
    possible: Vec<Possible>,
    /// Every rule that was looked at, up to the one that lacks a fact.
    trace: Vec<Looked>,
}

#[derive(Debug, Serialize)]
struct Possible {
    outcome: String,
    protection: Option<&'static str>,
    rules: Vec<[String; 2]>,
}

pub(super) async fn run(shelf: &Shelf<'_>, wish: Trace, out: &mut Out) -> anyhow::Result<Exit> {
    let set = shelf.set(&wish.policy, wish.mapping.as_deref()).await?;
    let octets = read(&wish.message)?;
    let from = match wish.from {
        Some(from) => from,
        None => field_addresses(&octets, &["From"]).into_iter().next().unwrap_or_default(),
    };
    let to = if wish.to.is_empty() { field_addresses(&octets, &["To", "Cc"]) } else { wish.to };
    ensure!(!to.is_empty(), "the message names no recipient: use --to");
    let mut questions = Questions::default();
    let program = Program::new(&set, &assumptions(&wish.assume)?, &mut questions);
    let judge = Judge::new(&questions);
    let mut all = Vec::new();
    for (sample, to) in message::samples(&octets, &from, &to).into_iter().zip(&to) {
        let sample = with_facts(sample, wish.inbound, &wish.fact)?;
        let possible = judge.possible(&program, &sample);
        let steps = judge.trace(&program, &sample);
        all.push(Traced {
            to: to.clone(),
            possible: possible.iter().map(|one| possible_of(&program, one)).collect(),
            trace: trace(&questions, &program, &steps),
        });
    }
    // An outcome whose protection cannot be told is no answer either.
    let known =
        |one: &Traced| matches!(one.possible.as_slice(), [only] if only.protection.is_some());
    let decided = all.iter().all(known);
    out.document(&all, |all| all.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    Ok(if decided { Exit::Yes } else { Exit::Inconclusive })
}

fn read(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    let mut octets = Vec::new();
    let name = path.display();
    let cannot = || format!("cannot read {name}");
    if path.as_os_str() == "-" {
        std::io::stdin().take(MESSAGE_OCTETS_MAX + 1).read_to_end(&mut octets)
    } else {
        let file = std::fs::File::open(path).with_context(cannot)?;
        file.take(MESSAGE_OCTETS_MAX + 1).read_to_end(&mut octets)
    }
    .with_context(cannot)?;
    ensure!(octets.len() as u64 <= MESSAGE_OCTETS_MAX, "{name} is larger than 64 MiB");
    Ok(octets)
}

/// Addresses of these fields: what stands in brackets, else what looks like one.
fn field_addresses(octets: &[u8], fields: &[&str]) -> Vec<String> {
    let sample = message::samples(octets, "", &[String::new()]).into_iter().next();
    let text = |field: &&str| match sample.as_ref()?.fact(&Variable::header(field))? {
        Fact::Texts(texts) => Some(texts.join(",")),
        Fact::Text(_) | Fact::Number(_) => None,
    };
    let all = fields.iter().filter_map(text).collect::<Vec<_>>().join(",");
    let words = all.split([',', '<', '>', ' ', ';', '\t']);
    words.filter(|word| smtp::Mailbox::parse(word).is_ok()).map(str::to_owned).collect()
}

/// Adds what is said on the command line to what the message shows.
fn with_facts(mut sample: Sample, inbound: bool, facts: &[String]) -> anyhow::Result<Sample> {
    let direction = if inbound { "inbound" } else { "outbound" };
    sample.set(Variable::Direction, Fact::Text(direction.into()));
    sample.set(Variable::Processing, Fact::Text("ok".into()));
    sample.set(Variable::Application, Fact::Text("server".into()));
    for text in facts {
        let Some((name, value)) = text.split_once('=') else {
            bail!("a fact is written NAME=VALUE, not {text:?}");
        };
        let (name, value) = (name.trim(), value.trim());
        let variable = match name.split_once(':') {
            Some((name, argument)) => Variable::parse(name.trim(), Some(argument.trim())),
            None => Variable::parse(name, None),
        };
        let names = || Variable::names().join(", ");
        let variable =
            variable.with_context(|| format!("no fact {name:?}; there are: {}", names()))?;
        let fact = match (variable.shape(), sample.fact(&variable)) {
            (Shape::Number, _) => {
                Fact::Number(value.parse().with_context(|| format!("{value:?} is no number"))?)
            }
            (Shape::Texts, _) if value.is_empty() => Fact::Texts(Vec::new()),
            (Shape::Texts, Some(Fact::Texts(known))) => {
                Fact::Texts(known.iter().cloned().chain([value.to_owned()]).collect())
            }
            (Shape::Texts, _) => Fact::Texts(vec![value.to_owned()]),
            (Shape::Word(words), _)
                if !words.iter().any(|word| word.eq_ignore_ascii_case(value)) =>
            {
                bail!("{name} is one of: {}", words.join(", "))
            }
            _ => Fact::Text(value.to_owned()),
        };
        sample.set(variable, fact);
    }
    Ok(sample)
}

fn possible_of(program: &Program, decision: &Decision) -> Possible {
    let protection = decision.fate.outcome.protection();
    Possible {
        outcome: decision.fate.to_string(),
        protection: protection.map(policy::action::Protection::as_str),
        rules: decision.rules.iter().map(|place| name(program, *place)).collect(),
    }
}

fn text(traced: &Traced) -> String {
    let mut text = format!("<{}>\n", clean(&traced.to));
    for looked in &traced.trace {
        let mark = match looked.matched {
            Some(true) => "match",
            Some(false) => "  -  ",
            None => "  ?  ",
        };
        let chain = if looked.chain.is_empty() { "(in front)" } else { &looked.chain };
        writeln!(text, "  {mark}  {} / {}", clean(chain), clean(&looked.rule)).ok();
        for asked in &looked.asked {
            let answer = match asked.answer {
                Some(true) => "yes",
                Some(false) => "no",
                None => "NOT KNOWN (say it with --fact)",
            };
            writeln!(text, "           {}: {answer}", clean(&asked.question)).ok();
        }
    }
    match traced.possible.as_slice() {
        [one] => {
            writeln!(text, "=> {} ({})", clean(&one.outcome), one.protection.unwrap_or("?")).ok();
        }
        several => {
            text.push_str("=> not decided by what is known; possible are\n");
            for one in several {
                let rule = one.rules.last().map_or("", |[_, rule]| rule);
                writeln!(text, "   {} (rule {:?})", clean(&one.outcome), rule).ok();
            }
        }
    }
    text
}
