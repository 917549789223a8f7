//! `status`: one screen. Is mail safe, where is it, who holds, how long will it fit, what next?
//!
//! Not here: the facts (`proxy::api::Status`); this only lays them out and picks the next command.

use proxy::api::{
    Effect, GateStatus, HolderKind, MemberHealth, Mode, ReplayState, SpoolStatus, Status, path,
};

use super::{Desk, Exit, Global, orders, replay};
use crate::client::DEADLINE;
use crate::render::{Out, Table, clean, count, messages, octets, seconds, word};

pub(super) async fn run(desk: &Desk, out: &mut Out) -> anyhow::Result<Exit> {
    let status: Status = desk.client.get(path::STATUS, DEADLINE).await?;
    out.document(&status, |status| screen(status, &desk.global))?;
    Ok(Exit::yes_if(status.alarms.is_empty()))
}

/// Held messages of a gate, whatever their state.
pub(crate) fn held(gate: &GateStatus) -> u64 {
    let held = &gate.held;
    held.held + held.deferred + held.uncertain + held.refused + held.blocked
}

fn screen(status: &Status, global: &Global) -> String {
    let mut parts = vec![verdict(status), gates(status), holders(status), replays(status)];
    parts.push(spool(&status.spool));
    parts.push(next(status, global));
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

fn gates(status: &Status) -> String {
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
            members(gate),
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

fn members(gate: &GateStatus) -> String {
    let state = |member: &proxy::api::MemberStatus| match (member.cordoned, member.health) {
        (true, _) => "cordoned",
        (false, MemberHealth::Up) => "up",
        (false, MemberHealth::Down) => "down",
        (false, MemberHealth::Unknown) => "not tried",
    };
    let each = gate.members.iter().map(|member| format!("{} {}", member.member, state(member)));
    each.collect::<Vec<_>>().join(", ")
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
    let each =
        status.gates.iter().filter(moving).map(|gate| replay::text(&gate.gate, &gate.replay));
    each.collect::<Vec<_>>().join("\n")
}

fn spool(spool: &SpoolStatus) -> String {
    let full = match (spool.promising, spool.full_in_s) {
        (false, _) => "it takes NO new mail".to_owned(),
        (true, Some(full)) => format!("full in {} at this rate", seconds(full)),
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

fn next(status: &Status, global: &Global) -> String {
    let steps = steps(status);
    let line = |(why, verb): &(String, String)| format!("  {}    # {why}", global.command(verb));
    format!("next:\n{}", steps.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// What to type next, most pressing first: why, and the verb.
fn steps(status: &Status) -> Vec<(String, String)> {
    let mut steps = Vec::new();
    let mut step = |why: &str, verb: String| steps.push((why.to_owned(), verb));
    if !status.spool.damage.is_empty() {
        step("look at what cannot be read", "held list --state damaged".to_owned());
        step("when you have seen the damage", "held acknowledge".to_owned());
    }
    for gate in &status.gates {
        let name = &gate.gate;
        if gate.held.uncertain > 0 {
            let verb = format!("held list --gate {name} --state uncertain");
            step("the server never replied: did these arrive?", verb);
        }
        if gate.held.refused > 0 {
            let verb = format!("held list --gate {name} --state refused");
            step("retry, fail or remove these", verb);
        }
        if gate.replay.state == ReplayState::Paused {
            step("when the reason of the pause is gone", format!("replay continue {name}"));
        }
        for member in gate.members.iter().filter(|member| member.cordoned) {
            let verb = format!("probe {name} --member {} --to ADDRESS", member.member);
            step("does the cordoned server take mail?", verb);
        }
        let effect = |effect: Effect| {
            move |order: &&proxy::api::Order| {
                order.effect == effect && order.holder.kind != HolderKind::Backlog
            }
        };
        if gate.orders.iter().any(|order| effect(Effect::Hold)(&order)) {
            step("is the server done with older mail?", format!("wait quiet {name}"));
            step("when the server is ready again", format!("release {name} --wait"));
        } else if gate.orders.iter().any(|order| effect(Effect::Refuse)(&order)) {
            step("to let mail pass again", format!("release {name}"));
        }
    }
    if steps.is_empty() {
        let name = status.gates.first().map_or("GATE", |gate| gate.gate.as_str());
        let verb = format!("hold {name} --reason …");
        steps.push(("all passes; before an upgrade".to_owned(), verb));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn verbs(status: &Status) -> Vec<String> {
        steps(status).into_iter().map(|(_, verb)| verb).collect()
    }

    #[test]
    fn when_all_is_well_the_next_command_is_a_hold() {
        let status = sample::status();
        assert_eq!(verbs(&status), ["hold outbound --reason …"]);
        let text = screen(&status, &Global::default());
        assert!(text.contains("mail is safe"), "{text}");
        assert!(text.contains("not growing"), "{text}");
    }

    #[test]
    fn a_held_gate_is_told_with_its_holder_and_the_way_out() {
        let mut status = sample::status();
        status.gates[0].mode = Mode::Hold;
        status.gates[0].orders = vec![sample::order(7, Effect::Hold)];
        status.gates[0].held.held = 1204;
        status.spool.full_in_s = Some(11_520.0);
        assert_eq!(verbs(&status), ["wait quiet outbound", "release outbound --wait"]);
        let text = screen(&status, &Global::default());
        for part in ["is held", "1,204", "operator alice", "upgrade of sems1", "full in 3h 12m"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn the_backlog_needs_no_command() {
        let mut status = sample::status();
        let mut order = sample::order(8, Effect::Hold);
        order.holder.kind = HolderKind::Backlog;
        status.gates[0].orders = vec![order];
        status.gates[0].replay.state = ReplayState::Running;
        assert_eq!(verbs(&status), ["hold outbound --reason …"]);
        assert!(screen(&status, &Global::default()).contains("replay of outbound: running"));
    }

    #[test]
    fn alarms_come_first_and_kept_mail_asks_for_a_decision() {
        let mut status = sample::status();
        status.alarms = vec!["a segment is damaged\u{7}".into()];
        status.spool.damage = vec!["0001.seg at 77".into()];
        status.gates[0].held.uncertain = 1;
        status.gates[0].held.refused = 2;
        status.gates[0].replay.state = ReplayState::Paused;
        let expected = [
            "held list --state damaged",
            "held acknowledge",
            "held list --gate outbound --state uncertain",
            "held list --gate outbound --state refused",
            "replay continue outbound",
        ];
        assert_eq!(verbs(&status), expected);
        let text = screen(&status, &Global::default());
        assert!(text.contains("ALARM: a segment is damaged?"), "{text}");
        assert!(!text.contains("mail is safe"), "{text}");
    }
}
