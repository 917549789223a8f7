//! Where replay stands, for people and metrics.

use std::collections::BTreeMap;

use super::Replayer;
use crate::gate::order::is_cordoned;
use crate::gate::{Effect, Order};
use crate::spool::{Kept, PathState, Stand};

/// What the replayer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is held.
    Idle,
    /// An order holds the gate.
    Held,
    /// An order pauses replay.
    Paused,
    /// Messages go out.
    Running,
    /// All was tried; the next try is due later.
    Waiting,
}

/// Where replay stands.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What it does.
    pub state: State,
    /// Why it stands still.
    pub why: Option<String>,
    /// Messages never tried.
    pub remaining_first: u64,
    /// Messages to be tried again.
    pub deferred: u64,
    /// Relayed since the last release.
    pub relayed: u64,
    /// Refused since the last release.
    pub refused: u64,
    /// Messages per second.
    pub rate: f64,
    /// Seconds to the end of the backlog; none: never at this rate.
    pub eta_s: Option<f64>,
    /// Attempts under way.
    pub in_flight: u64,
    /// Connections allowed now.
    pub connections: u32,
    /// Their ceiling.
    pub connections_max: u32,
    /// Ceiling of messages per second.
    pub messages_per_second_max: f64,
}

impl Replayer {
    /// Where replay stands.
    #[must_use]
    pub fn status(&self) -> Progress {
        let orders = self.corridor.gate.orders();
        let (fresh, deferred, total) = self.counts();
        let inner = self.lock();
        let in_flight = inner.in_flight.len() as u64;
        let rate = inner.tally.rate(self.started.elapsed().as_secs());
        let pause = orders.iter().find(|order| order.effect == Effect::PauseReplay);
        let held = orders.iter().find(|order| order.stops_replay());
        let (state, why) = if in_flight > 0 {
            (State::Running, None)
        } else if total == 0 {
            (State::Idle, None)
        } else if let Some(order) = pause {
            (State::Paused, Some(order.reason.clone()))
        } else if let Some(order) = held {
            (State::Held, Some(order.reason.clone()))
        } else if let Some(why) = self.no_member_free(&orders) {
            (State::Held, Some(why))
        } else if fresh > 0 {
            (State::Running, None)
        } else {
            (State::Waiting, None)
        };
        let remaining = fresh + in_flight;
        let eta_s = (rate > 0.0).then(|| remaining as f64 / rate);
        let limits = inner.pace.limits();
        Progress {
            state,
            why,
            remaining_first: fresh,
            deferred,
            relayed: inner.tally.relayed,
            refused: inner.tally.refused,
            rate,
            eta_s: if remaining == 0 { Some(0.0) } else { eta_s },
            in_flight,
            connections: inner.pace.connections_now(),
            connections_max: limits.connections_max,
            messages_per_second_max: limits.messages_per_second_max,
        }
    }

    /// What a person should know of the held mail of this gate.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let gate = self.corridor.gate.name();
        let totals = self.corridor.spool.totals();
        let Some(totals) = totals.iter().find(|totals| *totals.gate == *gate) else {
            return Vec::new();
        };
        let mut warnings =
            if totals.of(Stand::Blocked).messages > 0 { self.blocked() } else { Vec::new() };
        for (stand, what) in [
            (
                Stand::Refused,
                "were refused and stay until you decide: `lockgate held list --state refused`",
            ),
            (
                Stand::Asked,
                "are uncertain and stay until you decide: `lockgate held list --state uncertain`",
            ),
        ] {
            let messages = totals.of(stand).messages;
            if messages > 0 {
                warnings.push(format!("{messages} held messages {what}"));
            }
        }
        warnings
    }

    /// Why no member may be given anything, when all are cordoned.
    fn no_member_free(&self, orders: &[Order]) -> Option<String> {
        let members = &self.corridor.gate.plan().members;
        if members.iter().any(|member| !is_cordoned(orders, member)) {
            return None;
        }
        let cordon = orders.iter().find(|order| matches!(order.effect, Effect::Cordon { .. }))?;
        Some(cordon.reason.clone())
    }

    /// What blocked messages need, with how many need it.
    fn blocked(&self) -> Vec<String> {
        let gate = &self.corridor.gate.plan().name;
        let mut needs: BTreeMap<&'static str, u64> = BTreeMap::new();
        let blocked = self.corridor.spool.summaries(None, usize::MAX, |summary| {
            summary.gate == *gate && summary.stand() == Stand::Blocked
        });
        for summary in blocked {
            let need = summary.paths.iter().find_map(|path| match path {
                PathState::Kept { why: Kept::Blocked(need), .. } => Some(need.keyword()),
                _ => None,
            });
            if let Some(need) = need {
                *needs.entry(need).or_default() += 1;
            }
        }
        let words = |(need, messages): (&str, &u64)| {
            format!(
                "{messages} held messages are blocked: they need {need}, which no member offers \
                 (enough of) now, and stay: `lockgate held list --state blocked`"
            )
        };
        needs.iter().map(|(need, messages)| words((need, messages))).collect()
    }
}
