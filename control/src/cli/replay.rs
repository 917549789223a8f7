//! `replay pause|continue|rate`: the pace at which held mail goes out.
//!
//! Not here: the order to let it go (`release`).

use clap::{ArgGroup, Args, Subcommand};
use proxy::api::{ReplayControl, ReplayState, ReplayStatus, path};

use super::{Desk, Exit, holder, reason};
use crate::client::{DEADLINE, fill};
use crate::render::{Out, clean, count, messages, seconds, word};

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
    out.document(&status, |status| text(&gate, status))?;
    // Another party's pause still stands.
    Ok(Exit::yes_if(!(asked_to_go_on && status.state == ReplayState::Paused)))
}

/// Where replay stands, in one or two lines.
pub(super) fn text(gate: &str, status: &ReplayStatus) -> String {
    let why = status.why.as_deref().map(|why| format!(" ({})", clean(why))).unwrap_or_default();
    let mut text = format!("replay of {gate}: {}{why}", word(&status.state));
    if status.remaining_first > 0 || status.state == ReplayState::Running {
        let end = match status.eta_s {
            Some(eta) => format!("done in {}", seconds(eta)),
            None => "never done at this rate".to_owned(),
        };
        text.push_str(&format!(
            ", {} to go at {:.1} a second, {end}",
            messages(status.remaining_first),
            status.rate
        ));
    }
    text.push_str(&format!(
        "\nrelayed {}, deferred {}, refused {}; at most {} connections and {} messages a second",
        count(status.relayed),
        count(status.deferred),
        count(status.refused),
        status.connections_max,
        status.messages_per_second_max,
    ));
    text
}
