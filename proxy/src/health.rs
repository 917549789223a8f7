//! Notices that a member stops answering or that another server answers in its place, and asks the
//! gate for an order; meets members that were never seen.
//!
//! Invariants (house §13.3)
//! - A changed identity cordons the member by a durable order; only a person or a runbook ends it: a
//!   freshly installed server answers 250 and sends clear text.
//! - The health check ends its own hold only after a short outage, to the same identity; after a
//!   longer one it leaves a cordon behind.
//! - It never gives mail to anybody: it opens a connection, reads EHLO, says QUIT.
//!
//! Not here: when to try a dead member again within a transaction (`relay::next_hop`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::clock::{unix_micros, unix_ms};
use crate::config::OnUnreachable;
use crate::gate::order::is_cordoned;
use crate::gate::{Effect, Errand, Gate, Gates, Holder, HolderKind, MemberIndex, Mode};
use crate::id::Ids;
use crate::relay::{LinkError, Reach, Relay};
use crate::spool::Spool;

/// How often the watch looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Name of the health check as a holder of a hold.
const OUTAGE: &str = "outage";

/// Name of the health check as a holder of a cordon.
const IDENTITY: &str = "identity";

/// The health check of one gate.
pub struct Health {
    gates: Arc<Gates>,
    gate: Gate,
    relay: Arc<Relay>,
    spool: Spool,
    ids: Arc<Ids>,
    settings: Settings,
}

/// What a gate's configuration says of its health check.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What to do while no member answers.
    pub on_unreachable: OnUnreachable,
    /// Longest outage that the check ends by itself.
    pub outage_max: Duration,
    /// Time that older transactions get behind an order of the brake or of this check.
    pub fence: Duration,
}

/// What a failure to reach a member changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing: try another member, or tell the client 451.
    None,
    /// An order was placed: enter the gate again, it may hold now.
    Ordered,
}

impl Health {
    /// The health check of `gate`.
    #[must_use]
    pub fn new(
        gates: Arc<Gates>,
        gate: Gate,
        relay: Arc<Relay>,
        spool: Spool,
        ids: Arc<Ids>,
        settings: Settings,
    ) -> Self {
        Self { gates, gate, relay, spool, ids, settings }
    }

    /// A member could not be reached, before anything was given to it.
    pub async fn failed(&self, member: MemberIndex, error: &LinkError) -> Consequence {
        if let LinkError::Stranger(stranger) = error {
            let reason = format!("{stranger}: a person must look before it gets mail");
            return self.cordon(member, reason).await;
        }
        if let Reach::Down { failures: 1, .. } = self.relay.known(member).reach {
            let address = &self.relay.next_hop(member).address;
            tracing::warn!(gate = self.gate.name(), member = self.member_name(member), %address, %error, "the member cannot be reached");
        }
        let orders = self.gate.orders();
        let all_down = self.gate.plan().members.iter().enumerate().all(|(member, name)| {
            is_cordoned(&orders, name)
                || matches!(self.relay.known(member).reach, Reach::Down { .. })
        });
        if self.settings.on_unreachable == OnUnreachable::Hold && all_down {
            let reason = format!("no member answers; {}: {error}", self.member_name(member));
            return self.place(Effect::Hold, OUTAGE, reason).await;
        }
        Consequence::None
    }

    /// Watches until `stop`: the brake, idle connections, and the end of an outage.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut orders = self.gate.watch();
        let mut fenced: HashSet<u64> = HashSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
                _ = orders.changed() => {}
            }
            self.gate.heed_brake();
            self.fence_new(&mut fenced, &stop).await;
            self.relay.expire().await;
            let looking = async {
                if self.holds_for_outage() {
                    self.look().await;
                } else {
                    self.meet_strangers().await;
                }
            };
            // A member that takes connections and says nothing must delay neither a stop nor an order.
            tokio::select! {
                () = looking => {}
                () = stop.cancelled() => return,
                _ = orders.changed() => orders.mark_changed(),
            }
        }
    }

    /// Puts a fence behind each new order that nobody at a socket placed: the brake's and its own.
    /// (`admin` does so for those that it places.)
    async fn fence_new(&self, fenced: &mut HashSet<u64>, stop: &CancellationToken) {
        let open = self.gate.orders();
        fenced.retain(|id| open.iter().any(|order| order.id == *id));
        for order in open {
            let own = matches!(order.holder.kind, HolderKind::Brake | HolderKind::Health);
            if !own || !fenced.insert(order.id) {
                continue;
            }
            let member = match &order.effect {
                Effect::Cordon { member } => {
                    self.gate.plan().members.iter().position(|name| name == member)
                }
                Effect::Hold | Effect::Refuse | Effect::PauseReplay => None,
            };
            self.relay.quit_all().await;
            let (gate, epoch, stop) = (self.gate.clone(), self.gate.epoch(), stop.clone());
            let fence = self.settings.fence;
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(fence) => {
                        let aborted = gate.abort_older(epoch, member);
                        if aborted > 0 {
                            tracing::warn!(gate = gate.name(), aborted, "fence: older transactions aborted");
                        }
                    }
                }
            });
        }
    }

    /// Opens a connection to members that were never seen, to learn what they offer before the first
    /// mail needs it: what is not offered to an MTA, such as SMTPUTF8, makes it bounce such mail.
    async fn meet_strangers(&self) {
        if self.gate.mode_shown() != Mode::Pass {
            return;
        }
        for member in 0..self.gate.plan().members.len() {
            if self.relay.known(member).extensions.is_none() && self.relay.worth_a_try(member) {
                let id = self.ids.next(unix_micros());
                let entered = self.gate.enter_for(id, Errand::Probe, Some(member), |_| true);
                if let Ok(_permit) = entered
                    && let Ok(connection) = self.relay.open(member).await
                {
                    connection.quit().await;
                }
            }
        }
    }

    fn holds_for_outage(&self) -> bool {
        self.gate
            .orders()
            .iter()
            .any(|order| order.holder.kind == HolderKind::Health && order.effect == Effect::Hold)
    }

    /// Looks at the members of a gate that holds for an outage.
    async fn look(&self) {
        for member in 0..self.gate.plan().members.len() {
            if !self.relay.worth_a_try(member) {
                continue;
            }
            let down_since = match self.relay.known(member).reach {
                Reach::Down { since, .. } => Some(since),
                Reach::Unknown | Reach::Up => None,
            };
            let id = self.ids.next(unix_micros());
            let Ok(permit) = self.gate.enter_for(id, Errand::Probe, Some(member), |_| true) else {
                continue;
            };
            let result = self.relay.open(member).await;
            drop(permit);
            match result {
                Ok(connection) => {
                    connection.quit().await;
                    let outage = self.outage(down_since);
                    if outage > self.settings.outage_max {
                        let reason = format!(
                            "it was away for {} s, longer than health_outage_max_s: a person must look before it gets mail",
                            outage.as_secs()
                        );
                        self.cordon(member, reason).await;
                    }
                    self.end_outage(member).await;
                    return;
                }
                Err(error @ LinkError::Stranger(_)) => {
                    self.failed(member, &error).await;
                    self.end_outage(member).await;
                    return;
                }
                Err(_) => {}
            }
        }
    }

    /// How long the gate has held for the outage: by the order, which survives restarts, or by what
    /// this process saw.
    fn outage(&self, down_since: Option<Instant>) -> Duration {
        let now_ms = unix_ms();
        let held = self
            .gate
            .orders()
            .iter()
            .filter(|order| order.holder.kind == HolderKind::Health && order.effect == Effect::Hold)
            .map(|order| Duration::from_millis(now_ms.saturating_sub(order.since_unix_ms)))
            .max()
            .unwrap_or_default();
        held.max(down_since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    async fn end_outage(&self, member: MemberIndex) {
        let gates = Arc::clone(&self.gates);
        let gate = self.gate.clone();
        let backlog = self
            .spool
            .totals()
            .iter()
            .any(|totals| *totals.gate == *self.gate.name() && totals.all().messages > 0);
        let reason =
            format!("{} answers again; held mail goes before new mail", self.member_name(member));
        let ended = tokio::task::spawn_blocking(move || {
            gates.release(
                &gate,
                |order| order.holder.kind == HolderKind::Health && order.effect == Effect::Hold,
                backlog.then_some(reason.as_str()),
            )
        })
        .await;
        match ended {
            Ok(Ok(_)) => {
                tracing::info!(
                    gate = self.gate.name(),
                    mode = self.gate.mode_shown().as_str(),
                    "health: the outage is over"
                );
            }
            Ok(Err(error)) => {
                tracing::error!(gate = self.gate.name(), %error, "health: the hold stays");
            }
            Err(error) => {
                tracing::error!(gate = self.gate.name(), %error, "health: the hold stays");
            }
        }
    }

    async fn cordon(&self, member: MemberIndex, reason: String) -> Consequence {
        let member = self.member_name(member).to_owned();
        self.place(Effect::Cordon { member }, IDENTITY, reason).await
    }

    async fn place(&self, effect: Effect, name: &'static str, reason: String) -> Consequence {
        let already = self
            .gate
            .orders()
            .iter()
            .any(|order| order.holder.kind == HolderKind::Health && order.effect == effect);
        if already {
            return Consequence::Ordered;
        }
        tracing::warn!(gate = self.gate.name(), %reason, "health: order placed");
        let gates = Arc::clone(&self.gates);
        let gate = self.gate.clone();
        let placed = tokio::task::spawn_blocking(move || {
            gates.place(&[gate], &effect, &Holder::new(HolderKind::Health, name), &reason)
        })
        .await;
        match placed {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(gate = self.gate.name(), %error, "health"),
            Err(error) => tracing::error!(gate = self.gate.name(), %error, "health"),
        }
        if self.gate.mode_shown() == Mode::Pass { Consequence::None } else { Consequence::Ordered }
    }

    fn member_name(&self, member: MemberIndex) -> &str {
        &self.gate.plan().members[member]
    }
}
