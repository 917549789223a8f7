//! `release GATE`: lets held mail go, and with `--wait` watches it going.
//!
//! Only the caller's own orders end; while another party holds, nothing goes and the exit code is 2.
//!
//! Not here: the pace while it runs (`replay`), other parties' orders (`orders end --force`).

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proxy::api::{
    GateStatus, ReleaseAnswer, ReleaseRequest, ReplayControl, ReplayState, ReplayStatus, path,
};
use serde::Serialize;
use tokio::time::Instant;

use super::{Desk, Exit, duration, holder, reason, replay};
use crate::client::{DEADLINE, fill};
use crate::render::{Out, clean, count, messages, seconds};

/// Pause between two looks at a replay that runs.
const LOOK: Duration = Duration::from_millis(250);
/// Pause between two lines where there is no terminal for a bar.
const LINE: Duration = Duration::from_secs(5);

/// `release GATE …`
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("canary").args(["only", "first"]).conflicts_with("open_now")))]
pub struct Release {
    /// Gate
    gate: String,
    /// New mail passes at once, beside the backlog
    #[arg(long)]
    open_now: bool,
    /// Canary: replay only these messages, the gate goes on holding
    #[arg(long, value_name = "ID", num_args = 1..)]
    only: Vec<String>,
    /// Canary: replay the first N messages, the gate goes on holding
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    first: Option<u64>,
    /// Release to a member whose identity changed, without a passed probe
    #[arg(long, requires = "reason")]
    unchecked: bool,
    /// Why, for the next person
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    /// Wait until every message of the backlog was tried once
    #[arg(long)]
    wait: bool,
    /// Longest wait [default: none]
    #[arg(long, requires = "wait", value_parser = duration)]
    timeout: Option<Duration>,
    /// Connections at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    connections: Option<u32>,
    /// Messages a second at most
    #[arg(long, value_parser = replay::pace)]
    rate: Option<f64>,
}

/// The answer, and where replay stood at the end of `--wait`.
#[derive(Serialize)]
struct Released {
    #[serde(flatten)]
    answer: ReleaseAnswer,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<ReplayStatus>,
}

pub(super) async fn run(desk: &Desk, release: Release, out: &mut Out) -> anyhow::Result<Exit> {
    let gate = &release.gate;
    if release.connections.is_some() || release.rate.is_some() {
        let pace = ReplayControl::Rate {
            connections: release.connections,
            messages_per_second: release.rate,
        };
        let target = fill(path::REPLAY, "gate", gate);
        let _status: ReplayStatus = desk.client.post(&target, &pace, DEADLINE).await?;
    }
    let canary = !release.only.is_empty() || release.first.is_some();
    let request = ReleaseRequest {
        holder: holder(),
        open_now: release.open_now,
        only: release.only.clone(),
        first: release.first,
        unchecked: release.unchecked,
        reason: release.reason.clone().unwrap_or_default(),
    };
    let target = fill(path::RELEASE, "gate", gate);
    let answer: ReleaseAnswer = desk.client.post(&target, &request, DEADLINE).await?;
    for warning in &answer.warnings {
        out.warn(&format!("note: {}", clean(warning)))?;
    }
    let released = answer.released;
    let mut exit = Exit::yes_if(released);
    if !(released && release.wait) {
        let answer = Released { answer, replay: None };
        out.document(&answer, |answer| text(desk, gate, canary, &answer.answer))?;
        return Ok(exit);
    }
    out.say(&text(desk, gate, canary, &answer))?;
    let last = watch(desk, &release, canary, answer.backlog, out).await?;
    exit = Exit::yes_if(last.complete);
    let end = Released { answer, replay: Some(last.replay) };
    out.document(&end, |end| {
        let replay = end.replay.as_ref().map(|replay| replay::text(gate, replay));
        let mut text = replay.unwrap_or_default();
        if let Some(left) = &last.left {
            text.push_str(&format!("\n{left}"));
        }
        text
    })?;
    Ok(exit)
}

fn text(desk: &Desk, gate: &str, canary: bool, answer: &ReleaseAnswer) -> String {
    let mut lines = Vec::new();
    for order in &answer.ended {
        lines.push(format!("ended: {}", super::orders::describe(order)));
    }
    if !answer.released {
        lines.push(format!("{gate} is not released; it is still held by:"));
        for order in &answer.still_held_by {
            lines.push(format!("  {}", super::orders::describe(order)));
        }
        lines.push("each ends its own order; another's, when you are sure:".to_owned());
        let end = "orders end ID --force --reason …";
        lines.push(format!("  {}", desk.command(end)));
    } else if canary {
        lines.push(format!("{gate}: {} go; the gate goes on holding", messages(answer.backlog)));
    } else {
        lines.push(format!("{gate} is released: {} to replay", messages(answer.backlog)));
    }
    lines.join("\n")
}

/// Where a watched replay ended.
struct Last {
    replay: ReplayStatus,
    complete: bool,
    left: Option<String>,
}

async fn watch(
    desk: &Desk,
    release: &Release,
    canary: bool,
    backlog: u64,
    out: &mut Out,
) -> anyhow::Result<Last> {
    let bar = bar();
    let started = Instant::now();
    let mut said = started;
    let mut still = 0;
    loop {
        let status = gate_status(desk, &release.gate).await?;
        let replay = &status.replay;
        let tried = replay.relayed + replay.refused;
        bar.set_length(tried + replay.remaining_first + replay.in_flight);
        bar.set_position(tried);
        let eta = replay.eta_s.map_or_else(|| "never at this rate".to_owned(), seconds);
        let pace = format!("{:.1}/s, {} left, ETA {eta}", replay.rate, replay.remaining_first);
        bar.set_message(pace.clone());
        if bar.is_hidden() && said.elapsed() >= LINE {
            out.warn(&pace)?;
            said = Instant::now();
        }
        let overdue = release.timeout.is_some_and(|timeout| started.elapsed() >= timeout);
        // Two looks: the first may come before the replayer has begun.
        still = if is_still(replay) { still + 1 } else { 0 };
        if still >= 2 || overdue {
            bar.finish_and_clear();
            return Ok(last(desk, &status, canary, backlog));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_still(replay: &ReplayStatus) -> bool {
    replay.in_flight == 0 && replay.state != ReplayState::Running
}

fn last(desk: &Desk, status: &GateStatus, canary: bool, backlog: u64) -> Last {
    let gate = &status.gate;
    let replay = status.replay.clone();
    let complete = if canary {
        replay.relayed >= backlog
    } else {
        replay.remaining_first == 0 && super::status::held(status) == 0
    };
    let left = (!complete).then(|| {
        let held = &status.held;
        format!(
            "left in {gate}: {} held, {} deferred, {} refused, {} uncertain, {} blocked; see\n  {}",
            count(held.held),
            count(held.deferred),
            count(held.refused),
            count(held.uncertain),
            count(held.blocked),
            desk.command(&format!("held list --gate {gate}")),
        )
    });
    Last { replay, complete, left }
}

async fn gate_status(desk: &Desk, name: &str) -> anyhow::Result<GateStatus> {
    let gates: Vec<GateStatus> = desk.client.get(path::GATES, DEADLINE).await?;
    gates
        .into_iter()
        .find(|gate| gate.gate == name)
        .with_context(|| format!("there is no gate {name}: see `{}`", desk.command("gates")))
}

/// A bar on standard error; hidden where that is no terminal.
fn bar() -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    match ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
