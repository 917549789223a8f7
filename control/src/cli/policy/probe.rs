//! `policy probe …`: a message for every rule of a policy, through the server, and a look at what comes out.
//!
//! Not here: which messages (`policy::selection`), what they prove (`crate::policy::probing`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use policy::message;
use policy::program::{Program, Questions};
use policy::sample::{Fact, Variable};
use policy::selection::{Chosen, Directions, Limits, Offer, Selection, select};
use proxy::api::{Octets, ProbeAnswer, ProbeRequest, path};
use tokio::time::{Instant, sleep};

use super::{Shelf, assumptions};
use crate::cli::{Exit, duration};
use crate::client::{Client, PROBE_DEADLINE, fill};
use crate::policy::comparison::name;
use crate::policy::probing::{Least, Proof, Record, SeenAs, Sent, Way, compare};
use crate::policy::source::OCTETS_MAX;
use crate::probes::{Wanted, seen};
use crate::render::{Out, Table};

/// How often it is looked for what came back.
const EVERY: Duration = Duration::from_secs(1);

/// `policy probe …`
#[derive(Debug, Subcommand)]
pub(super) enum Probe {
    /// Show which probes there would be, and which rules none covers; nothing is sent
    Plan(Choice),
    /// Send them through a gate, and wait for what comes back through a return gate (0: good, 2: one came out otherwise, 3: not all were seen)
    Send(Send),
    /// Add messages that were found in the mailboxes to a record
    Collect {
        /// The record
        #[arg(long, value_name = "FILE")]
        record: PathBuf,
        /// The messages (RFC 5322)
        #[arg(required = true)]
        messages: Vec<PathBuf>,
    },
    /// Compare the same probes before and after the upgrade (0: alike, 2: one came out otherwise, 3: not all were seen)
    Compare {
        /// The record made before
        before: PathBuf,
        /// The record made after
        after: PathBuf,
    },
}

/// Which probes.
#[derive(Debug, Args)]
pub(super) struct Choice {
    /// The policy before the upgrade: also for the probes after it
    policy: String,
    /// A mailbox of yours that probes go to
    #[arg(long = "to", value_name = "ADDRESS", required = true)]
    mailboxes: Vec<String>,
    /// A sender of yours that they come from
    #[arg(long = "from", value_name = "ADDRESS", required = true)]
    senders: Vec<String>,
    /// Probe mail that comes in too
    #[arg(long)]
    inbound: bool,
    /// Most probes
    #[arg(long, value_name = "N", default_value_t = 200)]
    limit: usize,
    /// What reads an export
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Take what is not documented as NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    assume: Vec<String>,
}

/// `policy probe send …`
#[derive(Debug, Args)]
pub(super) struct Send {
    #[command(flatten)]
    choice: Choice,
    /// The gate
    #[arg(long)]
    gate: String,
    /// One member only
    #[arg(long)]
    member: Option<String>,
    /// Where to write what was sent and seen
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    /// Longest wait for what comes back
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    wait: Duration,
}

pub(super) async fn run(shelf: &Shelf<'_>, probe: Probe, out: &mut Out) -> anyhow::Result<Exit> {
    match probe {
        Probe::Plan(choice) => {
            let record = plan(shelf, &choice).await?.0;
            show(&record, out)?;
            Ok(Exit::yes_if(record.uncovered.is_empty()))
        }
        Probe::Send(wish) => send(shelf, wish, out).await,
        Probe::Collect { record, messages } => collect(&record, &messages, out),
        Probe::Compare { before, after } => {
            let found = compare(&read(&before)?, &read(&after)?);
            out.list(&found, |found| {
                let mut table = Table::new(&["PROOF", "RULE", "SHOULD BE", "BEFORE", "AFTER"]);
                for one in found {
                    let proof = one.proof.as_str();
                    table.row([proof, &one.rule, &one.expected, &one.before, &one.after]);
                }
                table
            })?;
            Ok(exit(found.iter().map(|one| one.proof)))
        }
    }
}

/// The worst decides; nothing at all is not good.
fn exit(proofs: impl Iterator<Item = Proof>) -> Exit {
    match proofs.max() {
        Some(Proof::Good) => Exit::Yes,
        Some(Proof::Leak | Proof::Other) => Exit::No,
        Some(Proof::Open) | None => Exit::Inconclusive,
    }
}

/// What would be sent, and the messages.
async fn plan(shelf: &Shelf<'_>, choice: &Choice) -> anyhow::Result<(Record, Vec<Vec<u8>>)> {
    let source = shelf.source(&choice.policy, choice.mapping.as_deref()).await?;
    let set = source.load()?.set.context("nothing says what this export means: use --mapping")?;
    let assumptions = assumptions(&choice.assume)?;
    let offer = Offer {
        mailboxes: &choice.mailboxes,
        senders: &choice.senders,
        directions: if choice.inbound { Directions::Both } else { Directions::Outbound },
    };
    let limits = Limits { probes: choice.limit, ..Limits::default() };
    let Selection { probes, uncovered } = select(&set, &assumptions, &offer, limits)?;
    let program = Program::new(&set, &assumptions, &mut Questions::default());
    let rule = |place| {
        let [chain, rule] = name(&program, place);
        if chain.is_empty() { rule } else { format!("{chain} / {rule}") }
    };
    let mut messages: Vec<Vec<u8>> = Vec::new();
    let mut record =
        Record { policy: choice.policy.clone(), sha256: source.sha256(), ..Record::default() };
    for one in &probes {
        let message = message::write(&one.sample);
        let last = one.decision.rules.last().map(|place| rule(*place));
        let way = way(one, last.unwrap_or_default());
        let octets = without_message_id(&message.octets);
        let same = |(sent, there): &(&mut Sent, &Vec<u8>)| {
            sent.from == message.sender && sent.to == message.recipient && **there == octets
        };
        // Messages that differ only by what the server knows are one: what comes out tells which it was.
        if let Some((sent, _)) = record.probes.iter_mut().zip(&messages).find(same) {
            sent.ways.push(way);
            continue;
        }
        let (from, to) = (message.sender, message.recipient);
        record.probes.push(Sent { from, to, ways: vec![way], ..Sent::default() });
        messages.push(octets);
    }
    record.uncovered = uncovered
        .iter()
        .map(|one| {
            let outcome = one.outcome.as_ref().map_or_else(String::new, |end| format!(" ({end})"));
            format!("{}{outcome}: {}", rule(one.place), one.why)
        })
        .collect();
    Ok((record, messages))
}

fn way(chosen: &Chosen, rule: String) -> Way {
    let fact = |(variable, fact): &(Variable, Fact)| format!("{variable}: {fact}");
    Way {
        rule,
        expected: chosen.decision.fate.to_string(),
        least: Least::of(&chosen.decision.fate.outcome),
        beside: chosen.expects.iter().map(fact).collect(),
    }
}

/// lockgate writes the Message-ID of a probe itself.
fn without_message_id(octets: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(octets.len());
    let (mut header, mut skipped) = (true, false);
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        let name = b"message-id:";
        let folded = line.first().is_some_and(|octet| *octet == b' ' || *octet == b'\t');
        if header {
            skipped = if folded {
                skipped
            } else {
                line.len() >= name.len() && line[..name.len()].eq_ignore_ascii_case(name)
            };
            header = line != b"\r\n";
        }
        if !(header && skipped) {
            kept.extend_from_slice(line);
        }
    }
    kept
}

async fn send(shelf: &Shelf<'_>, wish: Send, out: &mut Out) -> anyhow::Result<Exit> {
    let (mut record, messages) = plan(shelf, &wish.choice).await?;
    ensure!(!record.probes.is_empty(), "no probe covers any rule: look at `policy probe plan`");
    ensure!(!wish.record.exists(), "{} exists: name another file", wish.record.display());
    let client = shelf.desk()?.client;
    record.gate.clone_from(&wish.gate);
    record.member.clone_from(&wish.member);
    record.sent_at = format!("{:.0}", Timestamp::now());
    let target = fill(path::PROBE, "gate", &wish.gate);
    let (mut all, mut cursor) = (Vec::new(), None);
    for (probe, message) in record.probes.iter().zip(messages) {
        let request = ProbeRequest {
            to: probe.to.clone(),
            from: (!probe.from.is_empty()).then(|| probe.from.clone()),
            member: wish.member.clone(),
            message: Some(Octets(message)),
        };
        let answer: ProbeAnswer = client.post(&target, &request, PROBE_DEADLINE).await?;
        cursor.get_or_insert(answer.cursor);
        for result in answer.members {
            let token = result.token.filter(|_| result.accepted);
            let member = result.accepted.then_some(result.member);
            all.push(Sent { member, token, reply: result.reply, ..probe.clone() });
        }
    }
    record.probes = all;
    wait(&client, &mut record, cursor, wish.wait).await?;
    write(&wish.record, &record)?;
    show(&record, out)?;
    Ok(exit(record.probes.iter().map(Sent::proof)))
}

/// Notes what comes back, until all was seen or the time is over.
async fn wait(
    client: &Client,
    record: &mut Record,
    mut after: Option<String>,
    longest: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + longest;
    loop {
        let wanted = Wanted { after: after.clone(), ..Wanted::default() };
        let answer = seen(client, &wanted).await?;
        for one in answer.seen.iter().filter(|one| one.known) {
            let Some(probe) =
                record.probes.iter_mut().find(|probe| probe.token.as_deref() == Some(&one.token))
            else {
                continue;
            };
            let at = format!("{} {}", one.gate, one.id);
            let seen = match &one.found {
                Some(found) => SeenAs::of_found(&at, found),
                None => SeenAs { at: at.clone(), header_only: true, ..SeenAs::default() },
            };
            probe.seen.retain(|there| there.at != at);
            probe.seen.push(seen);
        }
        if !answer.cursor.is_empty() {
            after = Some(answer.cursor);
        }
        // What should not come out is waited for to the end: that it does not is the proof.
        let open = |probe: &Sent| probe.token.is_some() && probe.seen.is_empty();
        if !record.probes.iter().any(open) || Instant::now() >= deadline {
            return Ok(());
        }
        sleep(EVERY).await;
    }
}

fn collect(record: &Path, messages: &[PathBuf], out: &mut Out) -> anyhow::Result<Exit> {
    let mut all = read(record)?;
    for message in messages {
        let octets = octets(message)?;
        let Some(token) = token_of(&octets) else {
            bail!("{} bears no X-Lockgate-Probe field: it is no probe", message.display());
        };
        let Some(probe) =
            all.probes.iter_mut().find(|probe| probe.token.as_deref() == Some(token.as_str()))
        else {
            bail!("{} is a probe of another record", message.display());
        };
        let at = message.display().to_string();
        let Some(seen) = SeenAs::of_message(&at, &octets) else {
            bail!("{at} is a report on a probe, not the probe");
        };
        probe.seen.retain(|there| there.at != at);
        probe.seen.push(seen);
    }
    write(record, &all)?;
    show(&all, out)?;
    Ok(exit(all.probes.iter().map(Sent::proof)))
}

/// What the field of a probe says.
fn token_of(octets: &[u8]) -> Option<String> {
    let field = Variable::header("X-Lockgate-Probe");
    let sample = message::samples(octets, "", &[String::new()]).into_iter().next()?;
    match sample.fact(&field)? {
        Fact::Texts(texts) => texts.first().map(|text| text.trim().to_owned()),
        Fact::Text(_) | Fact::Number(_) => None,
    }
}

fn octets(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;

    let name = path.display();
    let cannot = || format!("cannot read {name}");
    let file = std::fs::File::open(path).with_context(cannot)?;
    let mut octets = Vec::new();
    file.take(OCTETS_MAX + 1).read_to_end(&mut octets).with_context(cannot)?;
    ensure!(octets.len() as u64 <= OCTETS_MAX, "{name} is larger than {} MiB", OCTETS_MAX >> 20);
    Ok(octets)
}

fn read(path: &Path) -> anyhow::Result<Record> {
    let name = path.display();
    serde_json::from_slice(&octets(path)?)
        .with_context(|| format!("{name} is no record of `policy probe send`"))
}

fn write(path: &Path, record: &Record) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(record).context("the record cannot be written")?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn show(record: &Record, out: &mut Out) -> anyhow::Result<()> {
    out.document(record, |record| {
        let mut table = Table::new(&["PROOF", "RULE", "SHOULD BE", "SEEN AS", "FROM", "TO"]);
        for one in &record.probes {
            let seen = match one.seen.first() {
                Some(seen) if seen.header_only => "a header alone",
                Some(seen) => &seen.form,
                None if one.token.is_none() && !one.reply.is_empty() => &one.reply,
                None => "-",
            };
            let proof = if record.sent_at.is_empty() { "-" } else { one.proof().as_str() };
            let (rule, expected) = one.words();
            table.row([proof, &rule, &expected, seen, &one.from, &one.to]);
        }
        let mut text = table.to_text(false);
        for one in &record.uncovered {
            text.push_str(&crate::render::clean(&format!("not covered: {one}")));
            text.push('\n');
        }
        text
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_loses_its_message_id_and_nothing_else() {
        let octets =
            b"From: <a@a>\r\nMessage-ID:\r\n <x@y>\r\nTo: <b@b>\r\n\r\nMessage-ID: in the text\r\n";
        let kept = b"From: <a@a>\r\nTo: <b@b>\r\n\r\nMessage-ID: in the text\r\n";
        assert_eq!(without_message_id(octets), kept);
    }

    #[test]
    fn one_leak_or_one_that_was_not_seen_decides() {
        assert_eq!(exit([Proof::Good, Proof::Good].into_iter()), Exit::Yes);
        assert_eq!(exit([Proof::Good, Proof::Open].into_iter()), Exit::Inconclusive);
        assert_eq!(exit([Proof::Leak, Proof::Open].into_iter()), Exit::No);
        assert_eq!(exit(std::iter::empty()), Exit::Inconclusive);
    }
}
