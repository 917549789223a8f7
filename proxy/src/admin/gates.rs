//! Status, gates, orders, and the wait until a gate is quiet.
//!
//! Invariants
//! - An order is answered when it is durable; its gate's idle connections then say QUIT, and at the
//!   fence what is older and has not sent its final dot is aborted.
//! - A hold that the disk refused is in force all the same, and its fence comes down too.
//! - Alarms are in plain words, worst first.
//!
//! Not here: what an order means (`gate`).

use std::path::Path as FilePath;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::problem::Failure;
use super::{Asked, Desk, Door, Input, TICK, lock, wire};
use crate::api;
use crate::clock;
use crate::gate::{Effect, Epoch, Gate, HolderKind, Mode, Order, OrderError, order};
use crate::relay::Reach;
use crate::spool::{Lane, Stand, Totals};

/// Longest wait for a gate to be quiet.
const QUIET_MAX: Duration = Duration::from_secs(3600);

pub(super) async fn status(State(desk): State<Desk>) -> Result<Json<api::Status>, Failure> {
    desk.note_growth();
    desk.count_reports().await?;
    Ok(Json(desk.status()))
}

pub(super) async fn gates(State(desk): State<Desk>) -> Json<Vec<api::GateStatus>> {
    Json(desk.gates())
}

pub(super) async fn orders(State(desk): State<Desk>) -> Json<Vec<api::Order>> {
    Json(wire::orders(desk.parts.gates.orders()))
}

pub(super) async fn place(
    State(desk): State<Desk>,
    Input(request): Input<api::PlaceOrder>,
) -> Result<Json<api::OrderPlaced>, Failure> {
    let holder = wire::asker(request.holder)?;
    let effect = wire::effect(request.effect, request.member)?;
    let scope = desk.scope(request.gate.as_deref())?;
    let reason = request.reason;
    let work = {
        let desk = desk.clone();
        async move {
            let gates = desk.parts.gates.clone();
            let (asked, wanted, by) = (scope.clone(), effect.clone(), holder.clone());
            let placed =
                tokio::task::spawn_blocking(move || gates.place(&asked, &wanted, &by, &reason))
                    .await?;
            // On a disk error the safe side is in force already: fence it like any other.
            if matches!(placed, Ok(_) | Err(OrderError::Disk(_))) {
                for gate in &scope {
                    tracing::info!(
                        gate = gate.name(),
                        ?effect,
                        holder = holder.name,
                        "order placed"
                    );
                    desk.fence(gate, &effect);
                }
            }
            Ok(placed?)
        }
    };
    let placed = desk.carry_out(work).await?;
    let mut answer =
        api::OrderPlaced { orders: Vec::new(), epochs: Vec::new(), warnings: Vec::new() };
    for (order, Epoch(epoch)) in placed {
        if let Some(door) = desk.parts.door(&order.gate) {
            answer.warnings.extend(door.replayer.warnings());
            let gate = &door.corridor.gate;
            if order.effect == Effect::Hold && gate.mode_shown() == Mode::Refuse {
                answer
                    .warnings
                    .push(format!("gate {} refuses by another order: mail gets 451", gate.name()));
            }
            if order.effect == Effect::Hold && desk.parts.spool.reserve(0).is_err() {
                answer.warnings.push("the spool has no room: new mail gets 452".to_owned());
            }
        }
        answer.epochs.push(api::GateEpoch { gate: order.gate.clone(), epoch });
        answer.orders.push(wire::order(order));
    }
    Ok(Json(answer))
}

pub(super) async fn end(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    Input(request): Input<api::EndOrder>,
) -> Result<Json<api::OrderEnded>, Failure> {
    let id: u64 = id.parse().map_err(|_| Failure::bad("the number of an order has digits only"))?;
    let holder = wire::asker(request.holder)?;
    if request.force && request.reason.trim().is_empty() {
        return Err(Failure::bad("force needs a reason: it is written down"));
    }
    if request.unchecked && request.reason.trim().is_empty() {
        return Err(Failure::bad("unchecked needs a reason: it is written down"));
    }
    desk.may_end(id, request.unchecked)?;
    let work = {
        let desk = desk.clone();
        async move {
            let gates = desk.parts.gates.clone();
            let (by, force) = (holder.clone(), request.force);
            let ended = tokio::task::spawn_blocking(move || gates.end(id, &by, force)).await??;
            tracing::info!(gate = ended.gate, id, effect = ?ended.effect, by = holder.name, force, reason = request.reason, "order ended");
            desk.accept_after(&ended).await;
            Ok(ended)
        }
    };
    let ended = desk.carry_out(work).await?;
    let gate = desk.parts.gates.named(&ended.gate)?;
    Ok(Json(api::OrderEnded {
        order: wire::order(ended),
        still_open: wire::orders(gate.orders()),
        mode: wire::mode(gate.mode_shown()),
    }))
}

/// The query of a wait.
#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    epoch: Option<u64>,
    #[serde(default)]
    timeout_s: f64,
}

pub(super) async fn quiet(
    State(desk): State<Desk>,
    Path(name): Path<String>,
    Asked(wait): Asked<Wait>,
) -> Result<Json<api::QuietAnswer>, Failure> {
    let gate = desk.parts.gates.named(&name)?;
    let wanted = Duration::try_from_secs_f64(wait.timeout_s)
        .map_err(|_| Failure::bad("timeout_s is a number of seconds, not below 0"))?;
    let now = gate.epoch();
    let epoch = wait.epoch.map_or(now, Epoch);
    // One more than now: everybody who is inside.
    if epoch.0 > now.0 + 1 {
        return Err(Failure::bad(format!(
            "gate {name} is in epoch {}; epoch {} has not come (they begin anew with each start)",
            now.0, epoch.0
        )));
    }
    let alive = tokio::select! {
        quiet = gate.quiet(epoch, wanted.min(QUIET_MAX)) => quiet.err().unwrap_or_default(),
        () = desk.shared.stop.cancelled() => gate.older(epoch),
    };
    Ok(Json(api::QuietAnswer {
        quiet: alive.is_empty(),
        epoch: epoch.0,
        alive: alive.iter().map(|alive| wire::alive(alive, gate.plan())).collect(),
    }))
}

impl Desk {
    /// A cordon of the health check stands for a server that a person must look at first, whichever
    /// way it is to be ended.
    fn may_end(&self, id: u64, unchecked: bool) -> Result<(), Failure> {
        let orders = self.parts.gates.orders();
        let Some(order) = orders.iter().find(|order| order.id == id) else { return Ok(()) };
        let Effect::Cordon { member } = &order.effect else { return Ok(()) };
        let probed =
            self.parts.door(&order.gate).is_some_and(|door| door.replayer.is_probed(order));
        if order.holder.kind != HolderKind::Health || probed || unchecked {
            return Ok(());
        }
        Err(Failure::new(
            StatusCode::CONFLICT,
            format!(
                "{member} is cordoned: {}. First `lockgate probe {} --to ADDRESS --member {member}`, or say --unchecked with a --reason",
                order.reason, order.gate
            ),
        ))
    }

    /// The gates that a request is about; without a name every forward gate.
    fn scope(&self, name: Option<&str>) -> Result<Vec<Gate>, Failure> {
        let gates = &self.parts.gates;
        match name {
            Some(name) => Ok(vec![gates.named(name)?]),
            None => Ok(gates.all().filter(|gate| gate.plan().returns.is_none()).collect()),
        }
    }

    /// Behind a new order: idle connections say QUIT now, and at the fence older transactions that
    /// have not sent their final dot are aborted.
    fn fence(&self, gate: &Gate, effect: &Effect) {
        if *effect == Effect::PauseReplay {
            return;
        }
        let Some(door) = self.parts.door(gate.name()) else {
            return;
        };
        let relay = door.corridor.relay.clone();
        self.spawn(async move { relay.quit_all().await });
        // A cordon is of one member: what speaks to the others goes on.
        let member = match effect {
            Effect::Cordon { member } => gate.plan().members.iter().position(|name| name == member),
            Effect::Hold | Effect::Refuse | Effect::PauseReplay => None,
        };
        let (gate, epoch, fence) = (gate.clone(), gate.epoch(), door.fence);
        self.spawn(async move {
            tokio::time::sleep(fence).await;
            let aborted = gate.abort_older(epoch, member);
            if aborted > 0 {
                tracing::warn!(
                    gate = gate.name(),
                    epoch = epoch.0,
                    aborted,
                    "fence: older transactions aborted"
                );
            }
        });
    }

    /// Whoever ends a cordon of the health check, by force and by name, takes what answers now for
    /// the member: otherwise the next connection would bring the cordon back.
    async fn accept_after(&self, ended: &Order) {
        let Effect::Cordon { member } = &ended.effect else {
            return;
        };
        if ended.holder.kind != HolderKind::Health {
            return;
        }
        let Some(door) = self.parts.door(&ended.gate) else {
            return;
        };
        let members = &door.corridor.gate.plan().members;
        if let Some(index) = members.iter().position(|name| name == member) {
            door.corridor.relay.accept_identity(index).await;
            tracing::warn!(gate = ended.gate, member, "the member is accepted without a probe");
        }
    }

    /// The state of the whole data plane.
    pub(super) fn status(&self) -> api::Status {
        let spool = self.spool();
        let gates = self.gates();
        let alarms = self.alarms(&gates, &spool);
        api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: clock::rfc_3339(self.parts.started_unix_ms),
            ready: self.is_ready(),
            alarms,
            gates,
            spool,
        }
    }

    /// Does every gate serve? A spool without room is an alarm: mail still passes.
    pub(super) fn is_ready(&self) -> bool {
        self.shared.serving.load(Ordering::Acquire)
    }

    fn gates(&self) -> Vec<api::GateStatus> {
        let now_unix_ms = clock::unix_ms();
        let totals = self.parts.spool.totals();
        self.parts
            .doors
            .iter()
            .map(|door| {
                let name = door.corridor.gate.name();
                gate(door, totals.iter().find(|totals| *totals.gate == *name), now_unix_ms)
            })
            .collect()
    }

    fn spool(&self) -> api::SpoolStatus {
        let spool = &self.parts.spool;
        let config = spool.config();
        // Asking for room makes the spool look at the disk: `free_bytes` is fresh after it.
        let promising = spool.reserve(0).is_ok();
        let held = self.parts.held();
        let free_bytes = spool.free_bytes();
        let room = free_bytes.saturating_sub(config.free_bytes_min);
        let directory: &FilePath = &config.directory;
        api::SpoolStatus {
            directory: self.parts.data.join(directory).display().to_string(),
            free_bytes,
            free_bytes_min: config.free_bytes_min,
            messages: held.messages,
            bytes: held.bytes,
            full_in_s: lock(&self.shared.growth).full_in_s(Instant::now(), held.bytes, room),
            promising,
            damage: spool.damaged().iter().map(ToString::to_string).collect(),
        }
    }

    /// Problems in plain words, worst first.
    fn alarms(&self, gates: &[api::GateStatus], spool: &api::SpoolStatus) -> Vec<String> {
        let mut alarms = Vec::new();
        if !spool.promising {
            alarms.push(format!(
                "the spool takes no more mail: {} octets free, {} are kept free; a gate that holds answers 452. Make room on the volume of {}",
                spool.free_bytes, spool.free_bytes_min, spool.directory
            ));
        }
        let unseen =
            self.parts.spool.damaged().iter().filter(|damage| !damage.acknowledged).count();
        if unseen > 0 {
            alarms.push(format!(
                "{unseen} damaged records in the spool, kept and named under `spool`: look at them, then acknowledge"
            ));
        }
        let largest = self.parts.spool.config().message_bytes_max;
        if spool.promising && self.parts.spool.reserve(largest).is_err() {
            alarms.push(format!(
                "free space is nearly at its minimum: a message of {largest} octets would get 452 while a gate holds"
            ));
        }
        let orders = self.parts.gates.orders();
        alarms.extend(orders.iter().filter_map(own_order));
        for gate in gates.iter().filter(|gate| gate.held.uncertain > 0) {
            alarms.push(format!(
                "gate {}: {} messages are uncertain (the server may have them or not): `lockgate held list --state uncertain`",
                gate.gate, gate.held.uncertain
            ));
        }
        alarms.extend(orders.iter().filter_map(health_cordon));
        if let Some((_, reports)) = *lock(&self.shared.reports_kept)
            && reports > 0
        {
            alarms.push(format!(
                "{reports} reports to senders could not be delivered and are kept: `lockgate held list` shows them"
            ));
        }
        for door in &self.parts.doors {
            alarms.extend(members_down(door));
        }
        alarms
    }

    /// Counts kept reports: a walk through the spool, so not more often than the tick, and only when
    /// there is something kept at all.
    async fn count_reports(&self) -> Result<(), Failure> {
        let fresh = lock(&self.shared.reports_kept).is_some_and(|(at, _)| at.elapsed() < TICK);
        if fresh {
            return Ok(());
        }
        let kept = |totals: &Totals| {
            [Stand::Refused, Stand::Blocked, Stand::Asked]
                .iter()
                .any(|stand| totals.of(*stand).messages > 0)
        };
        if !self.parts.spool.totals().iter().any(kept) {
            *lock(&self.shared.reports_kept) = None;
            return Ok(());
        }
        let spool = self.parts.spool.clone();
        let reports = tokio::task::spawn_blocking(move || {
            let mut reports = 0;
            // Nothing is kept by the closure, so nothing is copied out either.
            spool.summaries(None, usize::MAX, |summary| {
                let stands =
                    matches!(summary.stand(), Stand::Refused | Stand::Blocked | Stand::Asked);
                reports += u64::from(summary.lane == Lane::Dsn && stands);
                false
            });
            reports
        })
        .await?;
        *lock(&self.shared.reports_kept) = Some((Instant::now(), reports));
        Ok(())
    }
}

/// An order that lockgate placed itself because something went wrong.
fn own_order(order: &Order) -> Option<String> {
    (order.holder.kind == HolderKind::System).then(|| match order.effect {
        Effect::PauseReplay => format!(
            "gate {}: replay is paused: {}. Look at the server, then `lockgate replay continue {}`",
            order.gate, order.reason, order.gate
        ),
        _ => format!(
            "gate {} holds: {}. End order {} by force when you know why",
            order.gate, order.reason, order.id
        ),
    })
}

/// A cordon of the health check: another server answered, or one was away for too long.
fn health_cordon(order: &Order) -> Option<String> {
    let Effect::Cordon { member } = &order.effect else {
        return None;
    };
    (order.holder.kind == HolderKind::Health)
        .then(|| format!("gate {}: member {member} gets no mail: {}", order.gate, order.reason))
}

fn members_down(door: &Door) -> Vec<String> {
    let corridor = &door.corridor;
    let down = |(index, member): (usize, &String)| match corridor.relay.known(index).reach {
        Reach::Down { since, failures, .. } => Some(format!(
            "gate {}: member {member} at {} has not answered for {} s ({failures} failed tries){}",
            corridor.gate.name(),
            corridor.relay.next_hop(index).address,
            since.elapsed().as_secs(),
            if corridor.gate.mode_shown() == Mode::Pass { "; new mail gets 451" } else { "" }
        )),
        Reach::Unknown | Reach::Up => None,
    };
    corridor.gate.plan().members.iter().enumerate().filter_map(down).collect()
}

fn gate(door: &Door, totals: Option<&Totals>, now_unix_ms: u64) -> api::GateStatus {
    let gate = &door.corridor.gate;
    let relay = &door.corridor.relay;
    let orders = gate.orders();
    let progress = door.replayer.status();
    let members = relay
        .next_hops()
        .enumerate()
        .map(|(index, next_hop)| {
            let cordoned = order::is_cordoned(&orders, &next_hop.member);
            wire::member(next_hop, relay.known(index), cordoned, relay.idle(index))
        })
        .collect();
    let transactions = gate
        .alive()
        .iter()
        .filter(|alive| alive.errand == crate::gate::Errand::Transaction)
        .count();
    api::GateStatus {
        gate: gate.name().to_owned(),
        returns: gate.plan().returns.as_deref().map(str::to_owned),
        listen: door.listen.to_string(),
        mode: wire::mode(gate.mode_shown()),
        epoch: gate.epoch().0,
        transactions: transactions as u64,
        connections: u64::try_from(door.metrics.connections.get()).unwrap_or(0),
        transactions_total: door.metrics.ended_total.load(Ordering::Relaxed),
        orders: wire::orders(orders),
        members,
        held: totals
            .map(|totals| wire::totals(totals, progress.in_flight, now_unix_ms))
            .unwrap_or_default(),
        replay: wire::progress(progress),
    }
}
