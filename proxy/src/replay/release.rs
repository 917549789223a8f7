//! Release, pause and go on: what a person or a runbook tells the replayer.
//!
//! Invariants
//! - A release ends its caller's orders only, and says who still holds.
//! - The caller's hold is replaced by that of the backlog in one durable write: no new mail slips by
//!   between.
//! - After another server answered in the place of a member (or one was away for too long), a
//!   release needs a passed probe of what answers now, or a named waiver.

use std::sync::Arc;

use super::Replayer;
use crate::gate::{Effect, Holder, HolderKind, Order, OrderError};
use crate::spool::{Lane, SpoolId, Stand};

/// What to release, and how.
#[derive(Clone, Debug)]
pub struct Release {
    /// Whose orders end.
    pub holder: Holder,
    /// New mail passes at once, beside the backlog.
    pub open_now: bool,
    /// Canary: only these.
    pub only: Vec<SpoolId>,
    /// Canary: the first so many.
    pub first: Option<u64>,
    /// Release without a passed probe.
    pub unchecked: bool,
    /// Why; needed with `unchecked`.
    pub reason: String,
}

/// What a release did.
#[derive(Clone, Debug)]
pub struct Released {
    /// Replay goes on now.
    pub released: bool,
    /// Messages that will be tried.
    pub backlog: u64,
    /// Orders that ended.
    pub ended: Vec<Order>,
    /// Orders that still hold.
    pub still: Vec<Order>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Why a release was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// An order could not be ended.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A message that is not held.
    #[error("{0} is not held; `lockgate held list` shows what is")]
    NotHeld(SpoolId),
    /// `unchecked` without a reason.
    #[error("--unchecked needs a --reason: it is written down")]
    NoReason,
    /// The task broke off.
    #[error("the release broke off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

impl Replayer {
    /// Lets held mail go.
    ///
    /// # Errors
    /// See [`ReleaseError`]; nothing changes then.
    pub async fn release(&self, release: Release) -> Result<Released, ReleaseError> {
        if release.unchecked && release.reason.trim().is_empty() {
            return Err(ReleaseError::NoReason);
        }
        let gate = self.corridor.gate.clone();
        let canaries = self.chosen(&release)?;
        let mut warnings = self.warnings();
        let accepted = self.accepted_cordons(&release, &mut warnings);
        // Before their cordons end: the next connection judges who answers.
        self.accept_members(&release, &accepted).await;
        let canary = canaries.is_some();
        let (fresh, deferred, _) = self.counts();
        let backlog = canaries.as_ref().map_or(fresh + deferred, |canaries| canaries.len() as u64);
        let holder = release.holder.clone();
        let reason = format!("released by {}: held mail goes before new mail", holder.name);
        let joins_tail = !canary && backlog > 0 && !release.open_now;
        let ended = {
            let (gates, gate) = (Arc::clone(&self.gates), gate.clone());
            tokio::task::spawn_blocking(move || {
                gates.release(
                    &gate,
                    |order| {
                        let own = order.holder == holder
                            && matches!(order.effect, Effect::Hold | Effect::Refuse);
                        let open = release.open_now && order.holder.kind == HolderKind::Backlog;
                        // For canaries the gate goes on holding.
                        accepted.contains(&order.id) || (!canary && (own || open))
                    },
                    joins_tail.then_some(reason.as_str()),
                )
            })
            .await??
        };
        let by = release.holder.name;
        tracing::info!(gate = gate.name(), by, backlog, canary, ended = ended.len(), "release");
        self.start_counting();
        if let Some(canaries) = canaries {
            self.send_ahead(&canaries);
        }
        let still: Vec<Order> = gate
            .orders()
            .into_iter()
            .filter(|order| order.stops_replay() || matches!(order.effect, Effect::Cordon { .. }))
            .collect();
        let free = gate
            .plan()
            .members
            .iter()
            .any(|member| !crate::gate::order::is_cordoned(&still, member));
        let forbidden = if canary {
            still.iter().any(Order::stops_canary)
        } else {
            still.iter().any(Order::stops_replay)
        };
        self.wake.notify_one();
        Ok(Released { released: free && !forbidden, backlog, ended, still, warnings })
    }

    /// Stands still, by an order that survives restarts. Blocking parts run aside.
    ///
    /// # Errors
    /// See [`ReleaseError`].
    pub async fn pause(&self, holder: Holder, reason: String) -> Result<(), ReleaseError> {
        let gates = Arc::clone(&self.gates);
        let gate = self.corridor.gate.clone();
        tokio::task::spawn_blocking(move || {
            gates.place(&[gate], &Effect::PauseReplay, &holder, &reason)
        })
        .await??;
        Ok(())
    }

    /// Goes on: ends the caller's pauses and the one that refusals brought.
    ///
    /// # Errors
    /// See [`ReleaseError`].
    pub async fn proceed(&self, holder: Holder) -> Result<Vec<Order>, ReleaseError> {
        let gates = Arc::clone(&self.gates);
        let gate = self.corridor.gate.clone();
        let ended = tokio::task::spawn_blocking(move || {
            gates.release(
                &gate,
                |order| {
                    order.effect == Effect::PauseReplay
                        && (order.holder == holder || order.holder.kind == HolderKind::System)
                },
                None,
            )
        })
        .await??;
        self.start_counting();
        self.wake.notify_one();
        Ok(ended)
    }

    /// The messages that are to go ahead while the gate holds; none for a release of all.
    fn chosen(&self, release: &Release) -> Result<Option<Vec<SpoolId>>, ReleaseError> {
        if release.only.is_empty() && release.first.is_none() {
            return Ok(None);
        }
        let spool = &self.corridor.spool;
        let gate = &self.corridor.gate.plan().name;
        let mut ids = Vec::new();
        for id in &release.only {
            match spool.summary(*id) {
                Some(summary) if summary.gate == *gate => ids.push(*id),
                _ => return Err(ReleaseError::NotHeld(*id)),
            }
        }
        if let Some(first) = release.first {
            let count = usize::try_from(first).unwrap_or(usize::MAX);
            let fresh = spool.summaries(None, count, |summary| {
                summary.gate == *gate
                    && summary.lane == Lane::Mail
                    && summary.stand() == Stand::Fresh
            });
            ids.extend(fresh.into_iter().map(|summary| summary.id));
        }
        Ok(Some(ids))
    }

    fn send_ahead(&self, ids: &[SpoolId]) {
        let mut inner = self.lock();
        for id in ids {
            if !inner.in_flight.contains(id) && !inner.canaries.contains(id) {
                inner.canaries.push_back(*id);
                inner.fresh.retain(|other| other != id);
                inner.front.retain(|other| other != id);
            }
        }
    }

    /// Has whoever answers for the member of this cordon taken a probe since it was placed? A probe of
    /// a better day proves nothing.
    #[must_use]
    pub fn is_probed(&self, cordon: &Order) -> bool {
        let Effect::Cordon { member } = &cordon.effect else { return false };
        let members = &self.corridor.gate.plan().members;
        let Some(index) = members.iter().position(|name| name == member) else { return false };
        let known = self.corridor.relay.known(index);
        let present = known.stranger.as_ref().or(known.identity.as_ref());
        known.probed.as_ref().is_some_and(|probed| {
            Some(&probed.identity) == present && probed.at_unix_ms >= cordon.since_unix_ms
        })
    }

    /// Cordons of the health check that this release may end: of members whose present identity
    /// took a probe, or all with `unchecked`.
    fn accepted_cordons(&self, release: &Release, warnings: &mut Vec<String>) -> Vec<u64> {
        let gate = &self.corridor.gate;
        let mut accepted = Vec::new();
        for order in gate.orders() {
            let Effect::Cordon { member } = &order.effect else { continue };
            if order.holder.kind != HolderKind::Health {
                continue;
            }
            if self.is_probed(&order) || release.unchecked {
                accepted.push(order.id);
            } else {
                warnings.push(format!(
                    "{member} is cordoned: {}. First `lockgate probe {} --to ADDRESS`, or release with --unchecked --reason",
                    order.reason,
                    gate.name()
                ));
            }
        }
        accepted
    }

    /// Takes who answers now for the member: where a cordon is `accepted`, and where a probe met a
    /// stranger before any mail did, so that no cordon stands yet.
    async fn accept_members(&self, release: &Release, accepted: &[u64]) {
        let gate = &self.corridor.gate;
        let orders = gate.orders();
        for (index, member) in gate.plan().members.iter().enumerate() {
            let cordon = orders.iter().find(
                |order| matches!(&order.effect, Effect::Cordon { member: name } if name == member),
            );
            let known = self.corridor.relay.known(index);
            let probed = known
                .probed
                .as_ref()
                .is_some_and(|probed| Some(&probed.identity) == known.stranger.as_ref());
            let accept = match cordon {
                Some(order) => accepted.contains(&order.id),
                None => known.stranger.is_some() && (probed || release.unchecked),
            };
            if accept {
                self.corridor.relay.accept_identity(index).await;
                tracing::warn!(
                    gate = gate.name(),
                    member,
                    by = release.holder.name,
                    reason = release.reason,
                    unchecked = release.unchecked,
                    "release: whoever answers now is accepted as the member"
                );
            }
        }
    }

    fn start_counting(&self) {
        self.lock().tally.begin_again();
    }
}
