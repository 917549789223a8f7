//! `wait quiet GATE`: until nothing older than the last change of orders is alive.
//!
//! Not here: waiting for a release (`release --wait`).

use std::time::Duration;

use clap::Subcommand;
use proxy::api::{QuietAnswer, path};
use serde::Serialize;
use tokio::time::Instant;

use super::{Desk, Exit, duration};
use crate::client::{DEADLINE, fill, with_query};
use crate::render::{Out, Table, messages, seconds};

/// Longest wait asked of the server at once: an answer comes well before the deadline of a request.
const SLICE: Duration = Duration::from_secs(20);
/// Shortest pause between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// `wait …`
#[derive(Debug, Subcommand)]
pub enum Wait {
    /// Wait until what began before the last order has ended (0: quiet, 2: not at the timeout)
    Quiet {
        /// Gate
        gate: String,
        /// Longest wait
        #[arg(long, default_value = "60s", value_parser = duration)]
        timeout: Duration,
        /// The epoch to wait for [default: the current one]
        #[arg(long)]
        epoch: Option<u64>,
    },
}

#[derive(Serialize)]
struct Question {
    epoch: Option<u64>,
    timeout_s: u64,
}

pub(super) async fn run(desk: &Desk, wait: Wait, out: &mut Out) -> anyhow::Result<Exit> {
    let Wait::Quiet { gate, timeout, epoch } = wait;
    let answer = quiet(desk, &gate, timeout, epoch).await?;
    out.document(&answer, |answer| text(&gate, answer))?;
    Ok(Exit::yes_if(answer.quiet))
}

async fn quiet(
    desk: &Desk,
    gate: &str,
    timeout: Duration,
    mut epoch: Option<u64>,
) -> anyhow::Result<QuietAnswer> {
    let target = fill(path::QUIET, "gate", gate);
    let started = Instant::now();
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        // Whole seconds, rounded up: a short timeout is not an empty question.
        let timeout_s = left.min(SLICE).as_millis().div_ceil(1000);
        let question = Question { epoch, timeout_s: u64::try_from(timeout_s).unwrap_or(0) };
        let asked = Instant::now();
        let answer: QuietAnswer =
            desk.client.get(&with_query(&target, &question)?, DEADLINE + SLICE).await?;
        if answer.quiet || started.elapsed() >= timeout {
            return Ok(answer);
        }
        // Later orders must not move the goal.
        epoch = Some(answer.epoch);
        tokio::time::sleep_until(asked + PAUSE).await;
    }
}

fn text(gate: &str, answer: &QuietAnswer) -> String {
    if answer.quiet {
        return format!("{gate} is quiet: nothing from before epoch {} is alive", answer.epoch);
    }
    let mut table = Table::new(&["ID", "WHAT", "MEMBER", ">AGE", "STAGE"]);
    for alive in &answer.alive {
        let stage = if alive.after_final_dot { "after the final dot" } else { "before it" };
        table.row([
            alive.id.as_str(),
            &alive.what,
            alive.member.as_deref().unwrap_or(""),
            &seconds(alive.age_s),
            stage,
        ]);
    }
    let alive = u64::try_from(answer.alive.len()).unwrap_or(u64::MAX);
    format!(
        "{gate} is not quiet: {} from before epoch {} still alive\n{}",
        messages(alive),
        answer.epoch,
        table.to_text(false)
    )
}

#[cfg(test)]
mod tests {
    use proxy::api::AlivePermit;

    use super::*;

    #[test]
    fn what_is_alive_is_listed() {
        let alive = AlivePermit {
            id: "01ABC".into(),
            what: "pass".into(),
            member: Some("sems1".into()),
            age_s: 12.0,
            after_final_dot: true,
        };
        let answer = QuietAnswer { quiet: false, epoch: 7, alive: vec![alive] };
        let text = text("outbound", &answer);
        assert!(text.starts_with("outbound is not quiet: 1 message from before epoch 7"), "{text}");
        assert!(text.contains("01ABC  pass  sems1   12s  after the final dot"), "{text}");
    }
}
