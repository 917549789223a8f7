//! `replay pause|continue|rate`: the pace at which held mail goes out.
//!
//! Not here: the order to let it go (`release`).

use clap::{ArgGroup, Args, Subcommand};
use proxy::api::{MemberStatus, ReplayControl, ReplayState, ReplayStatus, path};

use super::{Desk, Exit, advice, holder, reason};
use crate::client::{DEADLINE, fill};
use crate::render::{Out, ahead, clean, count, counted, messages, word};

/// `replay …`
#[derive(Debug, Subcommand)]
pub enum Replay {
    /// Stand still, also after a restart; the gate itself goes on
    Pause {
        /// Gate
        gate: String,
        /// Why, for the next person
        #[arg(long, value_parser = reason)]
        reason: String,
    },
    /// Go on
    Continue {
        /// Gate
        gate: String,
    },
    /// Change the ceilings while running
    Rate(Rate),
}

/// `replay rate GATE [--connections N] [--rate N]`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("pace").args(["connections", "rate"]).required(true).multiple(true)))]
pub struct Rate {
    /// Gate
    gate: String,
    /// Connections at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    connections: Option<u32>,
    /// Messages a second at most
    #[arg(long, value_parser = pace)]
    rate: Option<f64>,
}

/// A positive number of messages a second.
pub(super) fn pace(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a number of messages a second, above 0".to_owned()),
    }
}

pub(super) async fn run(desk: &Desk, replay: Replay, out: &mut Out) -> anyhow::Result<Exit> {
    let (gate, request) = match replay {
        Replay::Pause { gate, reason } => (gate, ReplayControl::Pause { holder: holder(), reason }),
        Replay::Continue { gate } => (gate, ReplayControl::Continue { holder: holder() }),
        Replay::Rate(rate) => {
            let control = ReplayControl::Rate {
                connections: rate.connections,
                messages_per_second: rate.rate,
            };
            (rate.gate, control)
        }
    };
    let asked_to_go_on = matches!(request, ReplayControl::Continue { .. });
    let target = fill(path::REPLAY, "gate", &gate);
    let status: ReplayStatus = desk.client.post(&target, &request, DEADLINE).await?;
    out.document(&status, |status| text(&gate, status, &[]))?;
    // Another party's pause still stands.
    Ok(Exit::yes_if(!(asked_to_go_on && status.state == ReplayState::Paused)))
}

/// Where replay stands, in one or two lines. `members` are those of the gate, where they are known:
/// how long it takes is not to be told while none of them answers.
pub(super) fn text(gate: &str, status: &ReplayStatus, members: &[MemberStatus]) -> String {
    let why = status.why.as_deref().map(|why| format!(" ({})", clean(why))).unwrap_or_default();
    let mut text = format!("replay of {gate}: {}{why}", word(&status.state));
    let running = status.state == ReplayState::Running;
    if status.remaining_first > 0 || running {
        text.push_str(&format!(", {} to go", messages(status.remaining_first)));
    }
    if let Some(silence) = advice::silence(members) {
        text.push_str(&format!(", {silence}"));
    }
    if running && !advice::all_down(members) {
        let end = match status.eta_s {
            Some(eta) => format!("done in {}", ahead(eta)),
            None => "never done at this rate".to_owned(),
        };
        text.push_str(&format!(", {:.1} a second, {end}", status.rate));
    }
    let rate = status.messages_per_second_max.to_string();
    text.push_str(&format!(
        "\nrelayed {}, deferred {}, refused {}; at most {} and {rate} {} a second",
        count(status.relayed),
        count(status.deferred),
        count(status.refused),
        counted(status.connections_max.into(), "connection", "connections"),
        if rate == "1" { "message" } else { "messages" },
    ));
    text
}

#[cfg(test)]
mod tests {
    use proxy::api::MemberHealth;

    use super::super::sample;
    use super::*;

    fn status(state: ReplayState) -> ReplayStatus {
        ReplayStatus { state, remaining_first: 1, eta_s: None, ..sample::gate().replay }
    }

    #[test]
    fn only_what_runs_has_an_end_in_sight() {
        for state in [ReplayState::Held, ReplayState::Paused] {
            let text = text("outbound", &status(state), &[]);
            assert!(text.contains("1 message to go\n"), "{text}");
            assert!(!text.contains("rate"), "{text}");
        }
        let mut running = status(ReplayState::Running);
        assert!(text("outbound", &running, &[]).contains("never done at this rate"));
        running.eta_s = Some(1e12);
        assert!(text("outbound", &running, &[]).contains("done in more than a month"));
    }

    #[test]
    fn nothing_is_promised_while_nobody_answers() {
        let mut members = sample::gate().members;
        members[0].health = MemberHealth::Down;
        let text = text("outbound", &status(ReplayState::Running), &members);
        assert!(text.contains("1 message to go, sems1 does not answer\n"), "{text}");
    }

    #[test]
    fn one_connection_and_one_message_are_not_many() {
        let mut status = status(ReplayState::Idle);
        (status.connections_max, status.messages_per_second_max) = (1, 1.0);
        let text = text("outbound", &status, &[]);
        assert!(text.ends_with("at most 1 connection and 1 message a second"), "{text}");
    }
}
