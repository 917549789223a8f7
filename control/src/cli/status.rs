//! `status`: one screen. Is mail safe, where is it, who holds, how long will it fit, what next?
//!
//! Not here: the facts (`proxy::api::Status`); this only lays them out; what to type
//! next (`advice`).

use jiff::Timestamp;
use proxy::api::{
    GateStatus, MemberHealth, MemberStatus, Mode, ReplayState, SpoolStatus, Status, path,
};

use super::advice::Advice;
use super::{Desk, Exit, holder, orders, replay};
use crate::client::DEADLINE;
use crate::render::{Out, Table, ahead, clean, count, gone_by, messages, octets, seconds, word};

/// What the columns say, for `status --help`.
pub(super) const COLUMNS: &str = "\
Columns:
  NEW MAIL  what the gate does with the next message: passes, is held, is refused (451)
  MEMBERS   the servers: up, down, cordoned, not tried; `seen` when the last answer is not fresh
  ALIVE     transactions under way now
  HELD      held messages of any state; SIZE and OLDEST are of these
  KEPT      of these, refused, uncertain or blocked: they wait for your decision, see
            `lockgate held list --state refused` (uncertain, blocked)
  REPLAY    what held mail does: idle, held, paused, running, waiting (for a later try)";

/// A member that answered longer ago is not called `up` without saying so.
const FRESH_S: i64 = 10;

pub(super) async fn run(desk: &Desk, out: &mut Out) -> anyhow::Result<Exit> {
    let status: Status = desk.client.get(path::STATUS, DEADLINE).await?;
    let (now, caller) = (Timestamp::now(), holder());
    let advice = Advice { global: &desk.global, caller: &caller };
    out.document(&status, |status| screen(status, &advice, now))?;
    Ok(Exit::yes_if(status.alarms.is_empty()))
}

/// Held messages of a gate, whatever their state.
pub(crate) fn held(gate: &GateStatus) -> u64 {
    let held = &gate.held;
    held.held + held.deferred + held.uncertain + held.refused + held.blocked
}

fn screen(status: &Status, advice: &Advice<'_>, now: Timestamp) -> String {
    let mut parts = vec![verdict(status), gates(status, now), holders(status), replays(status)];
    parts.push(spool(&status.spool));
    parts.push(next(status, advice));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn verdict(status: &Status) -> String {
    let head = format!("lockgate {}, up since {}", status.version, status.started_at);
    let mut lines = vec![clean(&head)];
    if status.alarms.is_empty() {
        let ready = if status.ready { "mail is safe" } else { "mail is safe; not ready to serve" };
        lines.push(ready.to_owned());
    }
    lines.extend(status.alarms.iter().map(|alarm| clean(&format!("ALARM: {alarm}"))));
    lines.join("\n")
}

fn gates(status: &Status, now: Timestamp) -> String {
    let mut table = Table::new(&[
        "GATE", "NEW MAIL", "MEMBERS", ">ALIVE", ">HELD", ">SIZE", ">OLDEST", ">KEPT", "REPLAY",
    ]);
    for gate in &status.gates {
        let kept = gate.held.refused + gate.held.uncertain + gate.held.blocked;
        table.row([
            gate.gate.clone(),
            match gate.mode {
                Mode::Pass => "passes",
                Mode::Hold => "is held",
                Mode::Refuse => "is refused",
            }
            .to_owned(),
            members(gate, now),
            count(gate.transactions),
            count(held(gate)),
            octets(gate.held.bytes),
            gate.held.oldest_age_s.map_or_else(|| "-".to_owned(), seconds),
            count(kept),
            word(&gate.replay.state),
        ]);
    }
    table.to_text(false).trim_end().to_owned()
}

fn members(gate: &GateStatus, now: Timestamp) -> String {
    let members = gate.members.iter();
    let each = members.map(|member| format!("{} {}", member.member, state(member, now)));
    each.collect::<Vec<_>>().join("; ")
}

fn state(member: &MemberStatus, now: Timestamp) -> String {
    match (member.cordoned, member.health) {
        (true, _) => "cordoned".to_owned(),
        (false, MemberHealth::Up) => {
            let seen = member.seen_at.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
            let age_s = seen.map_or(0, |seen| now.as_second() - seen.as_second());
            match u64::try_from(age_s) {
                Ok(age) if age_s > FRESH_S => format!("up, seen {} ago", gone_by(age)),
                _ => "up".to_owned(),
            }
        }
        (false, MemberHealth::Down) => "down".to_owned(),
        (false, MemberHealth::Unknown) => "not tried".to_owned(),
    }
}

fn holders(status: &Status) -> String {
    let open = status.gates.iter().flat_map(|gate| &gate.orders);
    let lines: Vec<String> = open
        .map(|order| format!("  {}: {}", clean(&order.gate), orders::describe(order)))
        .collect();
    if lines.is_empty() { String::new() } else { format!("orders:\n{}", lines.join("\n")) }
}

fn replays(status: &Status) -> String {
    let moving = |gate: &&GateStatus| {
        matches!(
            gate.replay.state,
            ReplayState::Running | ReplayState::Waiting | ReplayState::Paused
        )
    };
    let gates = status.gates.iter().filter(moving);
    let each = gates.map(|gate| replay::text(&gate.gate, &gate.replay, &gate.members));
    each.collect::<Vec<_>>().join("\n")
}

fn spool(spool: &SpoolStatus) -> String {
    let full = match (spool.promising, spool.full_in_s) {
        (false, _) => "it takes NO new mail".to_owned(),
        (true, Some(full)) => format!("full in {} at this rate", ahead(full)),
        (true, None) => "not growing".to_owned(),
    };
    let mut lines = vec![format!(
        "spool {}: {}, {}; {} free, {full}",
        clean(&spool.directory),
        messages(spool.messages),
        octets(spool.bytes),
        octets(spool.free_bytes),
    )];
    lines.extend(spool.damage.iter().map(|damage| clean(&format!("  damaged: {damage}"))));
    lines.join("\n")
}

fn next(status: &Status, advice: &Advice<'_>) -> String {
    let steps = advice.next(status);
    let lines = steps.iter().map(|step| format!("  {}", step.text()));
    format!("next:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proxy::api::{Effect, HolderKind};

    use super::super::{Global, sample};
    use super::*;

    const NOW: &str = "2026-01-02T03:05:00Z";

    fn shown(status: &Status) -> String {
        let (global, caller) = (Global::default(), sample::alice());
        screen(status, &Advice { global: &global, caller: &caller }, NOW.parse().unwrap())
    }

    #[test]
    fn when_all_is_well_the_screen_says_so() {
        let text = shown(&sample::status());
        for part in ["mail is safe", "not growing", "lockgate hold outbound --reason …"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_held_gate_is_told_with_its_holder() {
        let mut status = sample::status();
        status.gates[0].mode = Mode::Hold;
        status.gates[0].orders = vec![sample::order(7, Effect::Hold)];
        status.gates[0].held.held = 1204;
        status.spool.full_in_s = Some(11_520.0);
        let text = shown(&status);
        for part in ["is held", "1,204", "operator alice", "upgrade of sems1", "full in 3h 12m"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_spool_that_will_not_be_full_for_long_has_no_date() {
        let mut status = sample::status();
        status.spool.full_in_s = Some(73_094.0 * 86_400.0);
        let text = shown(&status);
        assert!(text.contains("full in more than a month"), "{text}");
    }

    #[test]
    fn a_member_that_was_last_seen_some_time_ago_is_not_just_up() {
        let mut member = sample::gate().members.remove(0);
        let mut at = |seen: Option<&str>| {
            member.seen_at = seen.map(Into::into);
            state(&member, NOW.parse().unwrap())
        };
        assert_eq!(at(Some("2026-01-02T03:04:25Z")), "up, seen 35 s ago");
        assert_eq!(at(Some("2026-01-02T03:04:50Z")), "up");
        assert_eq!(at(Some("2026-01-02T03:06:00Z")), "up", "a clock that was set back");
        assert_eq!(at(Some("yesterday")), "up");
        assert_eq!(at(None), "up");
        member.seen_at = Some("2026-01-02T03:04:25Z".into());
        member.health = MemberHealth::Down;
        assert_eq!(state(&member, NOW.parse().unwrap()), "down");
    }

    #[test]
    fn a_replay_that_nobody_takes_says_so() {
        let mut status = sample::status();
        status.gates[0].orders =
            vec![sample::order_of(8, Effect::Hold, HolderKind::Backlog, "backlog")];
        status.gates[0].replay.state = ReplayState::Running;
        assert!(shown(&status).contains("replay of outbound: running"));
        status.gates[0].members[0].health = MemberHealth::Down;
        let text = shown(&status);
        assert!(text.contains("0 messages to go, sems1 does not answer\n"), "{text}");
    }

    #[test]
    fn alarms_come_first_and_kept_mail_asks_for_a_decision() {
        let mut status = sample::status();
        status.alarms = vec!["a segment is damaged\u{7}".into()];
        status.spool.damage = vec!["0001.seg at 77".into()];
        status.gates[0].held.uncertain = 1;
        status.gates[0].held.refused = 2;
        status.gates[0].replay.state = ReplayState::Paused;
        let text = shown(&status);
        let mut rest = text.as_str();
        for part in [
            "ALARM: a segment is damaged?",
            "held list --state damaged",
            "held acknowledge",
            "held list --gate outbound --state uncertain",
            "held list --gate outbound --state refused",
            "replay continue outbound",
        ] {
            let at = rest.find(part);
            assert!(at.is_some(), "{part} is missing, or too early, in\n{text}");
            rest = &rest[at.unwrap()..];
        }
        assert!(!text.contains("mail is safe"), "{text}");
    }
}
