//! Inside types to wire types and back: the one place where both are known.
//!
//! Invariants
//! - What comes from outside is checked here, once: an order is placed and ended by operators and
//!   runbooks only; the other holders are lockgate's own parts.
//! - A final dot without an outcome is shown as uncertain.
//!
//! Not here: which route calls what.

use std::time::Duration;

use super::problem::Failure;
use crate::api;
use crate::clock::rfc_3339;
use crate::gate::{Alive, Effect, Errand, Holder, HolderKind, Mode, Order, Plan};
use crate::probe::ProbeResult;
use crate::relay::{Known, NextHop, Reach};
use crate::replay;
use crate::spool::{HeldMessage, Kept, Lane, PathState, Paths, Stand, Summary, Totals};

/// Seconds from `unix_ms` to now.
pub(super) fn age_s(unix_ms: u64, now_unix_ms: u64) -> f64 {
    Duration::from_millis(now_unix_ms.saturating_sub(unix_ms)).as_secs_f64()
}

pub(super) const fn mode(mode: Mode) -> api::Mode {
    match mode {
        Mode::Pass => api::Mode::Pass,
        Mode::Hold => api::Mode::Hold,
        Mode::Refuse => api::Mode::Refuse,
    }
}

/// Who asks, if it may ask at all.
pub(super) fn asker(holder: api::Holder) -> Result<Holder, Failure> {
    let kind = match holder.kind {
        api::HolderKind::Operator => HolderKind::Operator,
        api::HolderKind::Runbook => HolderKind::Runbook,
        api::HolderKind::Brake
        | api::HolderKind::Health
        | api::HolderKind::Backlog
        | api::HolderKind::Evidence
        | api::HolderKind::System => {
            return Err(Failure::bad(
                "holder: only an operator or a runbook asks for orders; the others are lockgate's own",
            ));
        }
    };
    if holder.name.trim().is_empty() {
        return Err(Failure::bad("holder: a name is needed: it says who may end the order"));
    }
    Ok(Holder { kind, name: holder.name })
}

const fn holder_kind(kind: HolderKind) -> api::HolderKind {
    match kind {
        HolderKind::Operator => api::HolderKind::Operator,
        HolderKind::Runbook => api::HolderKind::Runbook,
        HolderKind::Brake => api::HolderKind::Brake,
        HolderKind::Health => api::HolderKind::Health,
        HolderKind::Backlog => api::HolderKind::Backlog,
        HolderKind::System => api::HolderKind::System,
    }
}

/// The effect that is asked for; a member belongs to a cordon and to nothing else.
pub(super) fn effect(effect: api::Effect, member: Option<String>) -> Result<Effect, Failure> {
    match (effect, member) {
        (api::Effect::Hold, None) => Ok(Effect::Hold),
        (api::Effect::Refuse, None) => Ok(Effect::Refuse),
        (api::Effect::PauseReplay, None) => Ok(Effect::PauseReplay),
        (api::Effect::Cordon, Some(member)) => Ok(Effect::Cordon { member }),
        (api::Effect::Cordon, None) => Err(Failure::bad("member: a cordon needs one")),
        (_, Some(_)) => Err(Failure::bad("member: only a cordon is of a member")),
    }
}

pub(super) fn order(order: Order) -> api::Order {
    let (effect, member) = match order.effect {
        Effect::Hold => (api::Effect::Hold, None),
        Effect::Refuse => (api::Effect::Refuse, None),
        Effect::Cordon { member } => (api::Effect::Cordon, Some(member)),
        Effect::PauseReplay => (api::Effect::PauseReplay, None),
    };
    api::Order {
        id: order.id,
        gate: order.gate,
        member,
        effect,
        holder: api::Holder { kind: holder_kind(order.holder.kind), name: order.holder.name },
        reason: order.reason,
        since: rfc_3339(order.since_unix_ms),
    }
}

pub(super) fn orders(orders: Vec<Order>) -> Vec<api::Order> {
    orders.into_iter().map(order).collect()
}

pub(super) fn member(
    next_hop: &NextHop,
    known: Known,
    cordoned: bool,
    idle: usize,
) -> api::MemberStatus {
    api::MemberStatus {
        member: next_hop.member.clone(),
        address: next_hop.address.to_string(),
        source_address: next_hop.source.map(|address| address.to_string()),
        cordoned,
        health: match known.reach {
            Reach::Unknown => api::MemberHealth::Unknown,
            Reach::Up => api::MemberHealth::Up,
            Reach::Down { .. } => api::MemberHealth::Down,
        },
        identity: known.identity,
        extensions: known.extensions.as_ref().map(smtp::Extensions::to_words),
        seen_at: known.seen_unix_ms.map(rfc_3339),
        idle_connections: idle as u64,
        tls: known.tls,
    }
}

pub(super) fn alive(alive: &Alive, plan: &Plan) -> api::AlivePermit {
    let what = match alive.errand {
        Errand::Transaction => alive.mode.as_str(),
        Errand::Replay | Errand::Canary => "replay",
        Errand::Probe => "probe",
    };
    api::AlivePermit {
        id: alive.id.to_string(),
        what: what.to_owned(),
        member: alive.member().and_then(|member| plan.members.get(member).cloned()),
        age_s: alive.since.elapsed().as_secs_f64(),
        after_final_dot: alive.after_final_dot(),
    }
}

pub(super) fn progress(progress: replay::Progress) -> api::ReplayStatus {
    api::ReplayStatus {
        state: match progress.state {
            replay::State::Idle => api::ReplayState::Idle,
            replay::State::Held => api::ReplayState::Held,
            replay::State::Paused => api::ReplayState::Paused,
            replay::State::Running => api::ReplayState::Running,
            replay::State::Waiting => api::ReplayState::Waiting,
        },
        why: progress.why,
        remaining_first: progress.remaining_first,
        deferred: progress.deferred,
        relayed: progress.relayed,
        refused: progress.refused,
        rate: progress.rate,
        eta_s: progress.eta_s,
        in_flight: progress.in_flight,
        connections: progress.connections,
        connections_max: progress.connections_max,
        messages_per_second_max: progress.messages_per_second_max,
    }
}

/// Totals of one gate. Of the messages whose final dot was offered, `trying` are under way: their
/// outcome is not yet unknown.
pub(super) fn totals(totals: &Totals, trying: u64, now_unix_ms: u64) -> api::HeldTotals {
    let count = |stand| totals.of(stand).messages;
    let under_way = count(Stand::Offered).min(trying);
    api::HeldTotals {
        held: count(Stand::Fresh) + under_way,
        deferred: count(Stand::Deferred),
        uncertain: count(Stand::Asked) + count(Stand::Offered) - under_way,
        refused: count(Stand::Refused),
        blocked: count(Stand::Blocked),
        bytes: totals.all().bytes,
        oldest_age_s: totals.oldest_unix_ms.map(|since| age_s(since, now_unix_ms)),
    }
}

pub(super) const fn stand(stand: Stand) -> api::HeldState {
    match stand {
        Stand::Offered | Stand::Asked => api::HeldState::Uncertain,
        Stand::Fresh => api::HeldState::Held,
        Stand::Deferred => api::HeldState::Deferred,
        Stand::Refused => api::HeldState::Refused,
        Stand::Blocked => api::HeldState::Blocked,
        Stand::Done => api::HeldState::Done,
    }
}

/// A held message with its envelope.
pub(super) fn held(message: &HeldMessage, paths: &Paths) -> api::Held {
    let forward_paths = message
        .envelope
        .recipients()
        .iter()
        .zip(&message.paths)
        .map(|(recipient, state)| path(recipient.path.address(), state))
        .collect();
    api::Held {
        id: message.id.to_string(),
        gate: message.gate.to_string(),
        state: stand(paths.stand()),
        message_id: message.message_id.clone(),
        reverse_path: message.envelope.sender.path.address().to_owned(),
        forward_paths,
        size: message.size,
        held_at: rfc_3339(message.arrival.held_at_unix_ms),
        client: message.arrival.client.to_string(),
        dsn: message.lane == Lane::Dsn,
    }
}

/// An attempt is under way: what it offered has no outcome yet, and is not uncertain.
pub(super) fn under_way(held: &mut api::Held) {
    let paths = held.forward_paths.iter_mut().map(|path| &mut path.state);
    for state in paths.chain([&mut held.state]) {
        if *state == api::HeldState::Uncertain {
            *state = api::HeldState::Held;
        }
    }
}

/// What is known of a message that cannot be read now: everything about persons is sealed in it.
pub(super) fn unread(summary: &Summary, state: api::HeldState) -> api::Held {
    api::Held {
        id: summary.id.to_string(),
        gate: summary.gate.to_string(),
        state,
        message_id: None,
        reverse_path: String::new(),
        forward_paths: summary.paths.iter().map(|state| path("", state)).collect(),
        size: summary.size,
        held_at: rfc_3339(summary.id.transaction().unix_ms()),
        client: String::new(),
        dsn: summary.lane == Lane::Dsn,
    }
}

fn path(address: &str, state: &PathState) -> api::HeldPath {
    let (shown, attempts, due_at, reply) = match state {
        PathState::Due { at_unix_ms, attempts, reply, .. } => {
            let shown =
                if *attempts == 0 { api::HeldState::Held } else { api::HeldState::Deferred };
            (shown, *attempts, Some(*at_unix_ms).filter(|at| *at > 0), reply.as_str())
        }
        PathState::Offered { attempts, .. } => {
            (api::HeldState::Uncertain, attempts.saturating_add(1), None, "")
        }
        PathState::Kept { why, reply } => {
            let shown = match why {
                Kept::Refused => api::HeldState::Refused,
                Kept::Blocked(_) => api::HeldState::Blocked,
                Kept::Asked => api::HeldState::Uncertain,
            };
            // A mark of this kind does not carry the count; there was one attempt at least.
            (shown, 1, None, reply.as_str())
        }
        PathState::Done { reply, .. } => (api::HeldState::Done, 1, None, reply.as_str()),
    };
    api::HeldPath {
        address: address.to_owned(),
        state: shown,
        attempts,
        due_at: due_at.map(rfc_3339),
        reply: Some(reply).filter(|reply| !reply.is_empty()).map(str::to_owned),
    }
}

pub(super) fn probed(result: ProbeResult) -> api::ProbeResult {
    api::ProbeResult {
        member: result.member,
        accepted: result.accepted,
        stage: result.stage.as_str().to_owned(),
        reply: result.reply,
        identity: result.identity,
        identity_changed: result.identity_changed,
        extensions: result.extensions,
        tls: result.tls,
        message_id: result.message_id,
        token: result.token.map(|token| token.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::spool::{Count, Text};

    fn from(kind: api::HolderKind, name: &str) -> api::Holder {
        api::Holder { kind, name: name.into() }
    }

    #[test]
    fn nobody_outside_speaks_in_the_name_of_lockgates_own_parts() {
        for kind in [
            api::HolderKind::Brake,
            api::HolderKind::Health,
            api::HolderKind::Backlog,
            api::HolderKind::System,
            api::HolderKind::Evidence,
        ] {
            assert!(asker(from(kind, "x")).is_err(), "{kind:?}");
        }
        assert!(asker(from(api::HolderKind::Operator, " ")).is_err());
        assert!(asker(from(api::HolderKind::Operator, "ada")).is_ok());
        assert!(asker(from(api::HolderKind::Runbook, "42")).is_ok());
    }

    #[test]
    fn a_member_belongs_to_a_cordon_and_to_nothing_else() {
        assert!(effect(api::Effect::Cordon, None).is_err());
        assert!(effect(api::Effect::Hold, Some("sems1".into())).is_err());
        let cordon = effect(api::Effect::Cordon, Some("sems1".into())).unwrap();
        assert_eq!(cordon, Effect::Cordon { member: "sems1".into() });
    }

    #[test]
    fn a_message_under_way_is_not_counted_as_uncertain() {
        let mut stands = [Count::default(); Stand::HELD.len()];
        stands[0] = Count { messages: 3, bytes: 30 };
        let gate = Totals {
            fresh_reports: 0,
            gate: Arc::from("outbound"),
            stands,
            open_paths: 3,
            oldest_unix_ms: Some(1_000),
        };
        let shown = totals(&gate, 2, 3_500);
        assert_eq!((shown.held, shown.uncertain, shown.bytes), (2, 1, 30));
        assert_eq!(shown.oldest_age_s, Some(2.5));
        assert_eq!(totals(&gate, 9, 0).uncertain, 0);
    }

    #[test]
    fn a_final_dot_without_an_outcome_is_uncertain() {
        let shown = path("a@b.test", &PathState::Offered { attempts: 1, open_ms: 0 });
        assert_eq!((shown.state, shown.attempts), (api::HeldState::Uncertain, 2));
        let kept = PathState::Kept { why: Kept::Refused, reply: Text::new("550 no") };
        let shown = path("a@b.test", &kept);
        assert_eq!(shown.state, api::HeldState::Refused);
        assert_eq!(shown.reply.as_deref(), Some("550 no"));
    }
}
