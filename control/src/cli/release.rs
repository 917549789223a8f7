//! `release GATE|--all`: lets held mail go, and with `--wait` watches it going.
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
    Effect, GateStatus, Holder, HolderKind, Order, ReleaseAnswer, ReleaseRequest, ReplayControl,
    ReplayState, ReplayStatus, path,
};
use serde::Serialize;
use tokio::time::Instant;

use super::advice::{self, Advice};
use super::{Desk, Exit, duration, holder, orders, reason, replay};
use crate::client::{DEADLINE, fill};
use crate::render::{Out, ahead, clean, count, messages};

/// Pause between two looks at a replay that runs.
const LOOK: Duration = Duration::from_millis(250);
/// Pause between two lines where there is no terminal for a bar.
const LINE: Duration = Duration::from_secs(5);

/// `release GATE|--all …`
#[derive(Debug, Args)]
#[command(override_usage = "lockgate release [OPTIONS] <GATE|--all>")]
#[command(group(clap::ArgGroup::new("canary").args(["only", "first"]).conflicts_with("open_now")))]
pub struct Release {
    /// Gate
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    gate: Option<String>,
    /// Every gate towards the servers that you hold or refuse
    #[arg(long, conflicts_with = "canary")]
    all: bool,
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
    /// Longest wait, of each gate [default: none]
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
    let caller = holder();
    if let Some(gate) = &release.gate {
        let answer = begin(desk, &release, gate, &caller, out).await?;
        return finish(desk, &release, gate, &caller, answer, out).await;
    }
    let gates: Vec<GateStatus> = desk.client.get(path::GATES, DEADLINE).await?;
    let own: Vec<&str> = own(&gates, &caller).collect();
    if own.is_empty() {
        let others: Vec<&Order> = forward(&gates).flat_map(holds).collect();
        out.warn(&none_of_yours(&caller, &others))?;
        return Ok(Exit::yes_if(others.is_empty()));
    }
    // All go before the first is waited for; one that fails keeps no other back.
    let mut begun = Vec::new();
    for gate in own {
        begun.push((gate, begin(desk, &release, gate, &caller, out).await));
    }
    let mut worst = Exit::Yes;
    for (gate, answer) in begun {
        let done = match answer {
            Ok(answer) => finish(desk, &release, gate, &caller, answer, out).await,
            Err(error) => Err(error),
        };
        let exit = match done {
            Ok(exit) => exit,
            Err(error) if super::is_closed_pipe(&error) => return Err(error),
            Err(error) => {
                out.warn(&clean(&format!("{gate}: {error:#}")))?;
                Exit::Error
            }
        };
        worst = match (worst, exit) {
            (Exit::Error, _) | (_, Exit::Yes) => worst,
            _ => exit,
        };
    }
    Ok(worst)
}

fn forward(gates: &[GateStatus]) -> impl Iterator<Item = &GateStatus> {
    gates.iter().filter(|gate| gate.returns.is_none())
}

/// Orders that keep new mail from the servers; the backlog's ends by itself.
fn holds(gate: &GateStatus) -> impl Iterator<Item = &Order> {
    gate.orders.iter().filter(|order| {
        matches!(order.effect, Effect::Hold | Effect::Refuse)
            && order.holder.kind != HolderKind::Backlog
    })
}

/// Forward gates with a hold or refusal of the caller.
fn own<'a>(gates: &'a [GateStatus], caller: &Holder) -> impl Iterator<Item = &'a str> {
    forward(gates)
        .filter(move |gate| holds(gate).any(|order| order.holder == *caller))
        .map(|gate| gate.gate.as_str())
}

fn none_of_yours(caller: &Holder, others: &[&Order]) -> String {
    let mut text = clean(&format!("no gate is held by you ({})", caller.name));
    for order in others {
        text.push_str(&format!("\n  {}: {}", clean(&order.gate), orders::describe(order)));
    }
    text
}

async fn begin(
    desk: &Desk,
    release: &Release,
    gate: &str,
    caller: &Holder,
    out: &mut Out,
) -> anyhow::Result<ReleaseAnswer> {
    if release.connections.is_some() || release.rate.is_some() {
        let pace = ReplayControl::Rate {
            connections: release.connections,
            messages_per_second: release.rate,
        };
        let target = fill(path::REPLAY, "gate", gate);
        let _status: ReplayStatus = desk.client.post(&target, &pace, DEADLINE).await?;
    }
    let request = ReleaseRequest {
        holder: caller.clone(),
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
    Ok(answer)
}

async fn finish(
    desk: &Desk,
    release: &Release,
    gate: &str,
    caller: &Holder,
    answer: ReleaseAnswer,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let canary = !release.only.is_empty() || release.first.is_some();
    let advice = Advice { global: &desk.global, caller };
    if !(answer.released && release.wait) {
        let exit = Exit::yes_if(answer.released);
        let answer = Released { answer, replay: None };
        out.document(&answer, |answer| text(&advice, gate, canary, &answer.answer))?;
        return Ok(exit);
    }
    out.say(&text(&advice, gate, canary, &answer))?;
    let last = watch(desk, release, gate, canary, answer.backlog, out).await?;
    let exit = Exit::yes_if(last.complete);
    let end = Released { answer, replay: Some(last.status.replay.clone()) };
    out.document(&end, |_| {
        let mut text = replay::text(gate, &last.status.replay, &last.status.members);
        if let Some(left) = &last.left {
            text.push_str(&format!("\n{left}"));
        }
        text
    })?;
    Ok(exit)
}

fn text(advice: &Advice<'_>, gate: &str, canary: bool, answer: &ReleaseAnswer) -> String {
    let mut lines = Vec::new();
    for order in &answer.ended {
        lines.push(format!("ended: {}", orders::describe(order)));
    }
    if !answer.released {
        lines.push(if canary {
            format!("{gate}: nothing goes; in the way:")
        } else {
            format!("{gate} is not released; it is still held by:")
        });
        let in_the_way = answer.still_held_by.iter().filter(|order| stops(order, canary));
        for order in in_the_way {
            lines.push(format!("  {}", orders::describe(order)));
            let ways = advice.ways_out(order);
            lines.extend(ways.iter().map(|step| format!("    {}", step.text())));
        }
    } else if canary {
        let go = match answer.backlog {
            0 => "no message is there to go".to_owned(),
            1 => "1 message goes".to_owned(),
            backlog => format!("{} go", messages(backlog)),
        };
        lines.push(format!("{gate}: {go}; the gate goes on holding"));
    } else {
        lines.push(format!("{gate} is released: {} to replay", messages(answer.backlog)));
    }
    lines.join("\n")
}

/// Can this order be in the way? A hold is not in that of a canary.
fn stops(order: &Order, canary: bool) -> bool {
    !canary || order.effect != Effect::Hold
}

/// Where a watched replay ended.
struct Last {
    status: GateStatus,
    complete: bool,
    left: Option<String>,
}

async fn watch(
    desk: &Desk,
    release: &Release,
    gate: &str,
    canary: bool,
    backlog: u64,
    out: &mut Out,
) -> anyhow::Result<Last> {
    let bar = bar();
    let started = Instant::now();
    let mut said = started;
    let mut still = 0;
    loop {
        let status = gate_status(desk, gate).await?;
        let replay = &status.replay;
        let tried = replay.relayed + replay.refused;
        bar.set_length(tried + replay.remaining_first + replay.in_flight);
        bar.set_position(tried);
        let pace = progress(&status);
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
            return Ok(last(desk, status, canary, backlog));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Where a replay is, in a line. When it will be done is told only of what moves.
fn progress(status: &GateStatus) -> String {
    let replay = &status.replay;
    let left = format!("{} left", count(replay.remaining_first));
    let why = || replay.why.as_deref().map(|why| format!(" ({})", clean(why))).unwrap_or_default();
    let silence = advice::silence(&status.members);
    let stands = match replay.state {
        ReplayState::Idle => "nothing is held".to_owned(),
        ReplayState::Held => format!("held{}, {left}", why()),
        ReplayState::Paused => format!("paused{}, {left}", why()),
        ReplayState::Waiting => {
            format!("{} to be tried again", messages(replay.deferred))
        }
        ReplayState::Running if advice::all_down(&status.members) => left,
        ReplayState::Running => {
            let eta = replay.eta_s.map_or_else(|| "never at this rate".to_owned(), ahead);
            format!("{:.1}/s, {left}, ETA {eta}", replay.rate)
        }
    };
    match silence {
        Some(silence) => format!("{silence}; {stands}"),
        None => stands,
    }
}

fn is_still(replay: &ReplayStatus) -> bool {
    replay.in_flight == 0 && replay.state != ReplayState::Running
}

fn last(desk: &Desk, status: GateStatus, canary: bool, backlog: u64) -> Last {
    let (gate, replay) = (&status.gate, &status.replay);
    let complete = if canary {
        replay.relayed >= backlog
    } else {
        replay.remaining_first == 0 && super::status::held(&status) == 0
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
    Last { status, complete, left }
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

#[cfg(test)]
mod tests {
    use proxy::api::MemberHealth;

    use super::super::{Global, sample};
    use super::*;

    fn shown(canary: bool, answer: &ReleaseAnswer) -> String {
        let (global, caller) = (Global::default(), sample::alice());
        text(&Advice { global: &global, caller: &caller }, "outbound", canary, answer)
    }

    fn answer(released: bool, backlog: u64, still_held_by: Vec<Order>) -> ReleaseAnswer {
        ReleaseAnswer { released, backlog, ended: Vec::new(), still_held_by, warnings: Vec::new() }
    }

    fn health_cordon() -> Order {
        let cordon = sample::order_of(5, Effect::Cordon, HolderKind::Health, "identity");
        Order { member: Some("sems1".into()), ..cordon }
    }

    #[test]
    fn a_canary_that_cannot_go_names_what_is_in_the_way_and_the_mend() {
        let still = vec![sample::order(1, Effect::Hold), health_cordon()];
        let text = shown(true, &answer(false, 1, still));
        for part in ["nothing goes", "order 5: cordon of sems1", "probe outbound", "--unchecked"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        for part in ["1 message", "orders end", "order 1:"] {
            assert!(!text.contains(part), "{part} is out of place in\n{text}");
        }
    }

    #[test]
    fn canaries_are_counted_with_their_verb() {
        let go = |backlog| shown(true, &answer(true, backlog, Vec::new()));
        assert_eq!(go(0), "outbound: no message is there to go; the gate goes on holding");
        assert_eq!(go(1), "outbound: 1 message goes; the gate goes on holding");
        assert_eq!(go(1204), "outbound: 1,204 messages go; the gate goes on holding");
    }

    #[test]
    fn whoever_still_holds_is_named_with_the_way_out() {
        let brake = sample::order_of(6, Effect::Hold, HolderKind::Brake, "brake");
        let pause = sample::order(7, Effect::PauseReplay);
        let text = shown(false, &answer(false, 3, vec![brake, pause]));
        let mut rest = text.as_str();
        for part in ["rm lockgate-data/hold", "orders end 6 --force", "replay continue outbound"] {
            let (_, after) = rest.split_once(part).unwrap_or(("", ""));
            assert!(!after.is_empty(), "{part} is missing in\n{text}");
            rest = after;
        }
    }

    #[test]
    fn all_means_the_forward_gates_that_the_caller_holds() {
        let named = |name: &str, orders: Vec<Order>| GateStatus {
            gate: name.into(),
            orders,
            ..sample::gate()
        };
        let bobs = sample::order_of(2, Effect::Hold, HolderKind::Operator, "bob");
        let mut back = named("back", vec![sample::order(4, Effect::Hold)]);
        back.returns = Some("held".into());
        let gates = [
            named("held", vec![sample::order(1, Effect::Hold)]),
            named("refused", vec![bobs.clone(), sample::order(3, Effect::Refuse)]),
            named("bobs", vec![bobs.clone()]),
            named("paused", vec![sample::order(5, Effect::PauseReplay)]),
            named("passing", Vec::new()),
            back,
        ];
        let own: Vec<&str> = own(&gates, &sample::alice()).collect();
        assert_eq!(own, ["held", "refused"]);
        let text = none_of_yours(&sample::alice(), &[&bobs]);
        assert!(text.starts_with("no gate is held by you (alice)\n  outbound: operator bob"));
    }

    #[test]
    fn an_eta_is_told_only_of_what_moves() {
        let mut gate = sample::gate();
        gate.replay.remaining_first = 12;
        gate.replay.eta_s = Some(60.0);
        gate.replay.rate = 0.2;
        gate.replay.state = ReplayState::Running;
        assert_eq!(progress(&gate), "0.2/s, 12 left, ETA 1m 0s");
        gate.replay.eta_s = Some(1e10);
        assert_eq!(progress(&gate), "0.2/s, 12 left, ETA more than a month");
        gate.replay.why = Some("upgrade".into());
        for (state, expected) in [
            (ReplayState::Held, "held (upgrade), 12 left"),
            (ReplayState::Paused, "paused (upgrade), 12 left"),
        ] {
            gate.replay.state = state;
            assert_eq!(progress(&gate), expected);
        }
        gate.replay.state = ReplayState::Running;
        gate.members[0].health = MemberHealth::Down;
        assert_eq!(progress(&gate), "sems1 does not answer; 12 left");
    }
}
