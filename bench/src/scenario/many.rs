//! Scenarios with much held mail, and with many connections.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, Name, RUN, START, empty, load, plain_sink, run_of, send, this};
use crate::component::{Component, Placement, within};
use crate::load::clock::monotonic_ns;
use crate::load::{Load, sink};
use crate::lockgate::{GATE, Lockgate, Role, Settings};
use crate::peers::{Peer, postfix_release, smtp_source};
use crate::report::{Run, Scenario};

/// Held messages of the targets.
const REPLAYED: u64 = 100_000;
const MANY: u64 = 1_000_000;
const PAIRS: u32 = 10_000;

/// Postfix is given fewer: it delivers a thousand or so in a second.
const REPLAYED_BY_POSTFIX: u64 = 10_000;

/// Idle connections of the targets.
const IDLE: usize = 10_000;

/// CPU time that one may take who rests, in [`RESTED`].
const RESTING: Duration = Duration::from_millis(1);
const RESTED: Duration = Duration::from_millis(300);

/// Connections that stand idle beside a load.
const BESIDE: usize = 4_900;

impl Bench {
    /// A gate that holds, and replays without a limit to its pace.
    fn held_settings(&self) -> Settings {
        self.settings(Role::Hold).set("replay", "messages_per_second_max", "1000000.0").set(
            "replay",
            "connections_max",
            "100",
        )
    }

    pub(super) fn replay(&self) -> Result<Scenario> {
        let wanted = self.held.unwrap_or(REPLAYED);
        let load = Load { pairs: PAIRS, messages: wanted, ..load(10 << 10, 100) };
        let mut scenario = empty(Name::Replay, &load);
        scenario.words = format!("{wanted} held messages of {} octets, {PAIRS} pairs", load.octets);
        let sink = plain_sink(Placement::Anywhere)?;
        let to = sink.address()?;
        let lockgate = self.held_settings().start(to, self.folder())?;
        let postfix = match Peer::PostfixHold.installed() {
            Ok(()) => {
                let sink = plain_sink(Placement::Anywhere)?;
                let placement = Placement::Anywhere;
                let peer = Peer::PostfixHold.start(sink.address()?, placement, self.folder())?;
                Some((peer, sink))
            }
            Err(missing) => {
                scenario.notes.push(format!("postfix-release and smtp-source skipped: {missing}"));
                None
            }
        };
        let (mut first, mut disk) = (Vec::new(), None);
        for _ in 0..self.rounds.min(3) {
            let mut runs = Vec::new();
            if let Some((peer, sink)) = &postfix {
                runs.push(released_by_postfix(peer, sink, wanted.min(REPLAYED_BY_POSTFIX))?);
                runs.push(sent_by_smtp_source(sink, wanted)?);
            }
            send(lockgate.address()?, &load, false, 0, Placement::Anywhere)?;
            settle(lockgate.component())?;
            let payload = wanted as f64 * load.octets as f64;
            disk.get_or_insert(octets_below(&lockgate.data().join("spool"))? as f64 / payload);
            let (run, first_us) = released(&lockgate, &sink, wanted)?;
            runs.push(run);
            first.push(first_us);
            lockgate.run(&["hold", GATE, "--reason", "bench"])?;
            scenario.rounds.push(runs);
        }
        scenario.compare();
        let rate = |to: &str| {
            let ratio = scenario.within_rounds("lockgate", to, |a, b| a.per_second / b.per_second);
            ratio.map(|spread| spread.median)
        };
        let (postfix, source) = (rate("postfix-release"), rate("smtp-source"));
        let cpu = scenario.spread("lockgate", |run| run.cpu_us).map(|spread| spread.median);
        scenario.ask("P7", "messages/s / Postfix release", false, 20.0, postfix);
        scenario.ask("P7", "messages/s / smtp-source -d -s 100", false, 1.0, source);
        scenario.ask("P7", "CPU us per message", true, 40.0, cpu);
        first.sort_by(f64::total_cmp);
        let middle = first.get(first.len() / 2).map(|us| us / 1e3);
        let words = "first delivery in ms, from the start of the `release` command";
        scenario.ask("P7", words, true, 10.0, middle);
        scenario.ask("P8", "disk / payload at 10 KiB", true, 1.15, disk);
        Ok(scenario)
    }

    pub(super) fn memory(&self) -> Result<Scenario> {
        let load = load(10 << 10, 100);
        let mut scenario = empty(Name::Memory, &load);
        scenario.words = format!("{IDLE} idle connections: user memory of each");
        let sink = plain_sink(Placement::Anywhere)?;
        let each = |connections, arguments: &[&str]| {
            let lockgate = self.settings(Role::Pass).start(sink.address()?, self.folder())?;
            // What is allocated once is there after some mail.
            let warm = Load { messages: 2_000, ..load };
            send(lockgate.address()?, &warm, false, 0, Placement::Anywhere)?;
            idle_memory(&lockgate, connections, arguments)
        };
        let idle = each(IDLE, &[])?;
        // Each takes a connection to the next hop as well: half as many, for the limit on open files.
        let begun = each(IDLE / 2, &["--transaction"])?;
        scenario.ask("P8", "KiB per idle connection", true, 4.0, Some(idle));
        scenario.notes.push(format!(
            "with MAIL and RCPT said, and a connection to the next hop taken: {begun:.1} KiB"
        ));
        Ok(scenario)
    }

    pub(super) fn million(&self) -> Result<Scenario> {
        let many = self.held.unwrap_or(MANY);
        let part = (many / 20).max(1000);
        let load = load(1 << 10, 100);
        let mut scenario = empty(Name::Million, &load);
        scenario.words = format!("{many} held messages of {} octets", load.octets);
        let sink = plain_sink(Placement::Anywhere)?;
        let lockgate = self.held_settings().start(sink.address()?, self.folder())?;
        let fill = |messages: u64, name: &str| -> Result<Run> {
            let load = Load { messages, ..load };
            let before = lockgate.component().cpu()?;
            let measured = send(lockgate.address()?, &load, false, 0, Placement::Anywhere)?;
            Ok(run_of(name, &measured, lockgate.component().cpu()?.saturating_sub(before)))
        };
        fill(1_000, "lockgate-first")?;
        let few = fill(part, "lockgate-few-held")?;
        let before = lockgate.component().memory()?;
        let bulk = many.saturating_sub(2 * part + 1_000);
        fill(bulk, "lockgate-bulk")?;
        let grown = lockgate.component().memory()?.saturating_sub(before) as f64;
        let lot = fill(part, "lockgate-many-held")?;
        let disk = octets_below(&lockgate.data().join("spool"))? as f64;
        let growth = lot.cpu_us / few.cpu_us;
        scenario.rounds.push(vec![few, lot]);
        scenario.ask("P11", "CPU per message held, many held / few held", true, 1.1, Some(growth));
        scenario.ask(
            "P8",
            "octets of index per held message",
            true,
            128.0,
            Some(grown / bulk as f64),
        );
        let payload = (1_000 + 2 * part + bulk) as f64 * load.octets as f64;
        scenario.ask("P8", "disk / payload at 1 KiB", true, 1.5, Some(disk / payload));
        let (lockgate, start) = lockgate.restart(START)?;
        scenario.ask("P9", "seconds until it serves", true, 3.0, Some(start.as_secs_f64()));
        let all = 1_000 + 2 * part + bulk;
        let growth = replay_growth(&lockgate, &sink, all, part)?;
        scenario.ask("P11", "CPU per message replayed, many held / few held", true, 1.1, growth);
        Ok(scenario)
    }

    pub(super) fn hold_and_replay(&self) -> Result<Scenario> {
        let backlog = self.held.unwrap_or(REPLAYED);
        let load = Load { pairs: PAIRS, ..load(10 << 10, 100) };
        let mut scenario = empty(Name::HoldAndReplay, &load);
        scenario.words = format!("new mail is held while {backlog} messages are replayed");
        let sink = plain_sink(Placement::Anywhere)?;
        let lockgate = self.held_settings().start(sink.address()?, self.folder())?;
        let (mut hold, mut replay) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds.min(3) {
            let take = |messages| {
                let load = Load { messages, ..load };
                send(lockgate.address()?, &load, false, 0, Placement::Anywhere)
            };
            let held = run_of("lockgate-hold", &take(backlog)?, Duration::ZERO);
            let (alone, _) = released(&lockgate, &sink, backlog)?;
            lockgate.run(&["hold", GATE, "--reason", "bench"])?;
            take(backlog)?;
            sink::zero(sink.address()?)?;
            lockgate.run(&["release", GATE])?;
            let began = Instant::now();
            // Behind a backlog new mail is held too: while it lasts, both are at work.
            let both = run_of("lockgate-hold-beside", &take(backlog / 4)?, Duration::ZERO);
            let delivered = sink::stat(sink.address()?)?.messages;
            let beside = delivered as f64 / began.elapsed().as_secs_f64();
            ensure!(delivered < backlog, "the backlog ended before the hold beside it did");
            hold.push(both.per_second / held.per_second);
            replay.push(beside / alone.per_second);
            wait_for(&sink, backlog + backlog / 4)?;
            lockgate.run(&["hold", GATE, "--reason", "bench"])?;
            scenario.rounds.push(vec![held, alone, both]);
        }
        for (words, mut shares) in [("hold", hold), ("replay", replay)] {
            shares.sort_by(f64::total_cmp);
            let words = format!("{words} beside the other / alone");
            scenario.ask("P10", &words, false, 0.4, shares.get(shares.len() / 2).copied());
        }
        Ok(scenario)
    }

    pub(super) fn connections(&self) -> Result<Scenario> {
        let load = load(10 << 10, 100);
        let mut scenario = empty(Name::Connections, &load);
        scenario.words = format!("pass beside {BESIDE} idle connections and without them");
        let sink = plain_sink(Placement::Anywhere)?;
        let lockgate = self.settings(Role::Pass).start(sink.address()?, self.folder())?;
        let load = Load { messages: (self.seconds * 12_000.0) as u64 + 500, ..load };
        send(lockgate.address()?, &load, false, 0, Placement::Anywhere)?;
        for _ in 0..self.rounds {
            let mut command = this();
            command.args(["idle", "--to", &lockgate.address()?.to_string()]);
            command.args(["--connections", &BESIDE.to_string()]);
            let mut runs = Vec::new();
            let mut pass = |name: &str| -> Result<()> {
                let before = lockgate.component().cpu()?;
                let measured = send(lockgate.address()?, &load, false, 0, Placement::Anywhere)?;
                let cpu = lockgate.component().cpu()?.saturating_sub(before);
                runs.push(run_of(name, &measured, cpu));
                Ok(())
            };
            pass("lockgate-100")?;
            let mut idle = Component::spawn("idle", &command, Placement::Anywhere)?;
            idle.wait_for_output("ready", RUN)?;
            pass("lockgate-5000")?;
            idle.close_input();
            idle.wait(RUN)?;
            scenario.rounds.push(runs);
        }
        let growth = scenario
            .within_rounds("lockgate-5000", "lockgate-100", |a, b| a.cpu_us / b.cpu_us)
            .map(|spread| spread.median);
        scenario.ask("P11", "CPU per message, 5,000 connections / 100", true, 1.1, growth);
        Ok(scenario)
    }
}

/// KiB of user memory that each of many connections takes.
fn idle_memory(lockgate: &Lockgate, connections: usize, arguments: &[&str]) -> Result<f64> {
    let before = lockgate.component().memory()?;
    let mut command = this();
    command.args(["idle", "--to", &lockgate.address()?.to_string()]);
    command.args(["--connections", &connections.to_string()]).args(arguments);
    let mut idle = Component::spawn("idle", &command, Placement::Anywhere)?;
    idle.wait_for_output("ready", RUN)?;
    let grown = lockgate.component().memory()?.saturating_sub(before) as f64;
    idle.close_input();
    idle.wait(RUN)?;
    Ok(grown / connections as f64 / 1024.0)
}

/// Releases lockgate's gate and waits for the last delivery; with the microseconds from the command
/// to the first.
fn released(lockgate: &Lockgate, sink: &Component, messages: u64) -> Result<(Run, f64)> {
    let to = sink.address()?;
    sink::zero(to)?;
    let cpu = lockgate.component().cpu()?;
    let order = monotonic_ns()?;
    lockgate.run(&["release", GATE])?;
    let last = wait_for(sink, messages)?;
    let cpu = lockgate.component().cpu()?.saturating_sub(cpu);
    let first = (last.first_ns.saturating_sub(order)) as f64 / 1e3;
    Ok((delivered("lockgate", messages, last.last_ns.saturating_sub(order), cpu), first))
}

/// Releases `all` messages: CPU time of the second `part` of them over that of the last but one.
fn replay_growth(
    lockgate: &Lockgate,
    sink: &Component,
    all: u64,
    part: u64,
) -> Result<Option<f64>> {
    let to = sink.address()?;
    sink::zero(to)?;
    lockgate.run(&["release", GATE])?;
    // CPU time, and messages delivered, when so many were.
    let at = |messages: u64| -> Result<(f64, u64)> {
        let delivered = within(RUN, || {
            let delivered = sink::stat(to)?.messages;
            Ok((delivered >= messages).then_some(delivered))
        })?;
        let delivered = delivered.context("the replay does not go on")?;
        Ok((lockgate.component().cpu()?.as_secs_f64(), delivered))
    };
    let cost = |from: (f64, u64), to: (f64, u64)| (to.0 - from.0) / (to.1 - from.1) as f64;
    let many = cost(at(part)?, at(2 * part)?);
    let few = cost(at(all - 2 * part)?, at(all - part)?);
    wait_for(sink, all)?;
    Ok(Some(many / few))
}

/// Waits until a component rests: what it does behind a load (segments ahead, say) is not the next's.
fn settle(component: &Component) -> Result<()> {
    let mut last = component.cpu()?;
    let mut since = Instant::now();
    within(START, || {
        let cpu = component.cpu()?;
        if cpu.saturating_sub(last) > RESTING {
            (last, since) = (cpu, Instant::now());
        }
        Ok((since.elapsed() > RESTED).then_some(()))
    })?;
    Ok(())
}

fn released_by_postfix(peer: &Component, sink: &Component, messages: u64) -> Result<Run> {
    let load = Load { messages, pairs: PAIRS, ..load(10 << 10, 50) };
    send(peer.address()?, &load, false, 0, Placement::Anywhere)?;
    sink::zero(sink.address()?)?;
    let cpu = peer.cpu()?;
    let order = monotonic_ns()?;
    postfix_release(peer)?;
    let last = wait_for(sink, messages)?;
    let cpu = peer.cpu()?.saturating_sub(cpu);
    Ok(delivered("postfix-release", messages, last.last_ns.saturating_sub(order), cpu))
}

fn sent_by_smtp_source(sink: &Component, messages: u64) -> Result<Run> {
    let order = smtp_source::Order { messages, sessions: 100, octets: 10 << 10 };
    let sent = smtp_source::send(sink.address()?, &order, Placement::Anywhere, RUN)?;
    let elapsed = u64::try_from(sent.elapsed.as_nanos()).unwrap_or(u64::MAX);
    Ok(delivered("smtp-source", messages, elapsed, sent.cpu))
}

fn delivered(name: &str, messages: u64, elapsed_ns: u64, cpu: Duration) -> Run {
    Run {
        component: name.to_owned(),
        messages,
        per_second: messages as f64 * 1e9 / elapsed_ns as f64,
        p50_us: f64::NAN,
        p99_us: f64::NAN,
        cpu_us: cpu.as_secs_f64() * 1e6 / messages as f64,
    }
}

/// Waits until the sink has so many messages; more than that is a duplicate, and an error.
fn wait_for(sink: &Component, messages: u64) -> Result<sink::Stat> {
    let to = sink.address()?;
    let stat = within(RUN, || {
        let stat = sink::stat(to)?;
        Ok((stat.messages >= messages).then_some(stat))
    })?;
    let stat = stat.with_context(|| format!("{messages} messages were not delivered in time"))?;
    if stat.messages > messages {
        bail!("{} deliveries of {messages} messages", stat.messages);
    }
    Ok(stat)
}

/// What the files below a folder take on disk.
fn octets_below(folder: &std::path::Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut octets = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        octets += if facts.is_dir() { octets_below(&entry.path())? } else { facts.blocks() * 512 };
    }
    Ok(octets)
}
