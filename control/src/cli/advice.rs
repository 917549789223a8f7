//! What to type next: how an open order ends, and what presses most in a status.
//!
//! Invariants
//! - A cordon of the health check is never ended by number and force: first a probe, or a named
//!   waiver (`--unchecked`).
//! - What is advised can be done by the caller as things stand: an order of another party is not
//!   advised to be released, a brake not to be ended before its file is gone.
//!
//! Not here: the facts (`proxy::api`), how they are laid out (`status`, `release`).

use proxy::api::{
    Effect, GateStatus, Holder, HolderKind, MemberHealth, MemberStatus, Mode, Order, ReplayState,
    Status,
};

use super::{Global, quoted};
use crate::render::{clean, word};
use crate::watch::wire::DRAIN_HOLDER;

/// Name of the brake file in the data folder.
const BRAKE_FILE: &str = "hold";

/// A line to type, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    line: String,
    why: String,
}

impl Step {
    /// As it is shown: the line, and the reason as a comment of the shell.
    pub(super) fn text(&self) -> String {
        clean(&format!("{}    # {}", self.line, self.why))
    }
}

/// For whom: what a line looks like, and which orders are the caller's own.
pub(super) struct Advice<'a> {
    pub(super) global: &'a Global,
    pub(super) caller: &'a Holder,
}

impl Advice<'_> {
    fn verb(&self, verb: &str, why: impl Into<String>) -> Step {
        Step { line: self.global.command(verb), why: why.into() }
    }

    fn remove_brake(&self) -> Step {
        // A folder that cannot be told was refused when the socket was looked for.
        let folder = self.global.data_folder().unwrap_or_else(|_| super::DATA_DEFAULT.into());
        let line = format!("rm {}", quoted(&folder.join(BRAKE_FILE)));
        Step { line, why: "first: the brake is on while this file is there".to_owned() }
    }

    /// How an order ends, step by step; nothing for what ends without anybody.
    pub(super) fn ways_out(&self, order: &Order) -> Vec<Step> {
        let (gate, id) = (&order.gate, order.id);
        let member = order.member.as_deref().unwrap_or("MEMBER");
        let own = order.holder == *self.caller;
        let by_force = |why: &str| self.verb(&format!("orders end {id} --force --reason …"), why);
        let asked = format!("when {} {} agrees", word(&order.holder.kind), order.holder.name);
        // The orders of a drain end with it.
        if order.holder.name.ends_with(DRAIN_HOLDER) {
            let target = order.member.as_deref().unwrap_or(gate);
            let end = self.verb(&format!("drain {target} --end"), "when the drain has served");
            return vec![self.verb(&format!("drain {target} --status"), "where it stands"), end];
        }
        match (order.effect, order.holder.kind) {
            (_, HolderKind::Backlog) => Vec::new(),
            (_, HolderKind::Brake) => {
                vec![self.remove_brake(), by_force("then: removing the file opens nothing")]
            }
            (Effect::Cordon, HolderKind::Health) => vec![
                self.probe(gate, member, "first: does whoever answers now take mail?"),
                self.verb(&format!("release {gate}"), "after an accepted probe"),
                self.verb(&format!("release {gate} --unchecked --reason …"), "without a probe"),
            ],
            (Effect::Cordon, _) if own => {
                vec![self.verb(&format!("uncordon {gate} {member} --reason …"), "your own cordon")]
            }
            (Effect::Cordon, _) => {
                vec![self.verb(&format!("uncordon {gate} {member} --force --reason …"), asked)]
            }
            (Effect::PauseReplay, kind) if own || kind == HolderKind::System => {
                vec![self.verb(&format!("replay continue {gate}"), "when the reason of it is gone")]
            }
            (Effect::Hold | Effect::Refuse, _) if own => {
                vec![self.verb(&format!("release {gate}"), "your own order")]
            }
            (_, HolderKind::Health) => {
                vec![by_force("it ends by itself when the server answers again; to end it now")]
            }
            (_, HolderKind::System) => vec![by_force("when you know why")],
            _ => vec![by_force(&asked)],
        }
    }

    fn probe(&self, gate: &str, member: &str, why: impl Into<String>) -> Step {
        self.verb(&format!("probe {gate} --member {member} --to ADDRESS"), why)
    }

    /// What to type next, most pressing first.
    pub(super) fn next(&self, status: &Status) -> Vec<Step> {
        let mut steps = Vec::new();
        if !status.spool.damage.is_empty() {
            steps.push(self.verb("held list --state damaged", "look at what cannot be read"));
            steps.push(self.verb("held acknowledge", "when you have seen the damage"));
        }
        // While the brake is on, nothing else helps.
        let brake = |order: &&Order| order.holder.kind == HolderKind::Brake;
        for order in status.gates.iter().flat_map(|gate| &gate.orders).filter(brake) {
            steps.extend(self.ways_out(order));
        }
        for gate in &status.gates {
            self.of_members(gate, &mut steps);
        }
        for gate in &status.gates {
            self.of_kept(gate, &mut steps);
            self.of_orders(gate, &mut steps);
        }
        if steps.is_empty() {
            steps.push(self.when_all_is_well(status));
        }
        // The brake file is one for all gates, and its orders are those of the gates too.
        let mut seen = std::collections::HashSet::new();
        steps.retain(|step| seen.insert(step.line.clone()));
        steps
    }

    fn of_members(&self, gate: &GateStatus, steps: &mut Vec<Step>) {
        let name = &gate.gate;
        let unheard = gate.mode == Mode::Pass && all_down(&gate.members);
        for member in down(&gate.members) {
            let heard = match (unheard, &gate.returns) {
                (false, _) => String::new(),
                (true, None) => "clients hear 451: ".to_owned(),
                (true, Some(_)) => "the server hears 451 and keeps its mail: ".to_owned(),
            };
            let why = format!("{heard}{member} does not answer");
            steps.push(self.probe(name, member, why));
        }
        if unheard && gate.returns.is_none() {
            let why = "to take new mail into the spool meanwhile";
            steps.push(self.verb(&format!("hold {name} --reason …"), why));
        }
    }

    fn of_kept(&self, gate: &GateStatus, steps: &mut Vec<Step>) {
        let list = |state: &str| format!("held list --gate {} --state {state}", gate.gate);
        if gate.held.uncertain > 0 {
            let why = "the server never replied: did these arrive?";
            steps.push(self.verb(&list("uncertain"), why));
        }
        if gate.held.refused > 0 {
            steps.push(self.verb(&list("refused"), "retry, fail or remove these"));
        }
        if gate.held.blocked > 0 {
            let why = "the server does not offer what these need";
            steps.push(self.verb(&list("blocked"), why));
        }
    }

    fn of_orders(&self, gate: &GateStatus, steps: &mut Vec<Step>) {
        let name = &gate.gate;
        let own_hold =
            |order: &&Order| order.effect == Effect::Hold && order.holder == *self.caller;
        let held_by_caller = gate.orders.iter().any(|order| own_hold(&order));
        let others = gate.orders.iter().filter(|order| !own_hold(order));
        for order in others {
            let ways = self.ways_out(order);
            let health = order.holder.kind == HolderKind::Health && order.effect == Effect::Cordon;
            // The release is named below, where it ends the caller's hold too.
            let shown = if health && held_by_caller { 1 } else { ways.len() };
            steps.extend(ways.into_iter().take(shown));
        }
        let pause = |order: &Order| order.effect == Effect::PauseReplay;
        if gate.replay.state == ReplayState::Paused && !gate.orders.iter().any(pause) {
            let why = "when the reason of the pause is gone";
            steps.push(self.verb(&format!("replay continue {name}"), why));
        }
        if held_by_caller {
            let why = "is the server done with older mail?";
            steps.push(self.verb(&format!("wait quiet {name}"), why));
            let why = "when the server is ready again";
            steps.push(self.verb(&format!("release {name} --wait"), why));
        }
    }

    fn when_all_is_well(&self, status: &Status) -> Step {
        if status.gates.iter().any(|gate| gate.mode != Mode::Pass) {
            return self.verb("status", "held mail goes out by itself; look again");
        }
        let forward = status.gates.iter().find(|gate| gate.returns.is_none());
        let name = forward.map_or("GATE", |gate| gate.gate.as_str());
        self.verb(&format!("hold {name} --reason …"), "all passes; before an upgrade")
    }
}

/// Members that should have mail and do not answer.
pub(super) fn down(members: &[MemberStatus]) -> impl Iterator<Item = &str> {
    let down = |member: &&MemberStatus| !member.cordoned && member.health == MemberHealth::Down;
    members.iter().filter(down).map(|member| member.member.as_str())
}

/// Is there nobody to give mail to, of those who should have it?
pub(super) fn all_down(members: &[MemberStatus]) -> bool {
    let free = members.iter().filter(|member| !member.cordoned).count();
    free > 0 && down(members).count() == free
}

/// `sems1 does not answer`; nothing when all do.
pub(super) fn silence(members: &[MemberStatus]) -> Option<String> {
    let names: Vec<&str> = down(members).collect();
    match names.as_slice() {
        [] => None,
        [name] => Some(clean(&format!("{name} does not answer"))),
        names => Some(clean(&format!("{} do not answer", names.join(", ")))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample;
    use super::*;

    fn lines(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|step| step.line.strip_prefix("lockgate ").unwrap_or(&step.line)).collect()
    }

    fn next(status: &Status) -> Vec<String> {
        let (global, caller) = (Global::default(), sample::alice());
        let steps = Advice { global: &global, caller: &caller }.next(status);
        lines(&steps).into_iter().map(str::to_owned).collect()
    }

    fn ways(order: &Order) -> Vec<String> {
        let (global, caller) = (Global::default(), sample::alice());
        let steps = Advice { global: &global, caller: &caller }.ways_out(order);
        lines(&steps).into_iter().map(str::to_owned).collect()
    }

    fn cordon(kind: HolderKind, name: &str) -> Order {
        let member = Some("sems1".to_owned());
        Order { member, ..sample::order_of(9, Effect::Cordon, kind, name) }
    }

    #[test]
    fn a_cordon_of_the_health_check_is_never_ended_by_number() {
        let ways = ways(&cordon(HolderKind::Health, "identity"));
        let expected = [
            "probe outbound --member sems1 --to ADDRESS",
            "release outbound",
            "release outbound --unchecked --reason …",
        ];
        assert_eq!(ways, expected);
    }

    #[test]
    fn the_callers_own_orders_end_by_the_verb_that_ends_them() {
        let own = cordon(HolderKind::Operator, "alice");
        assert_eq!(ways(&own), ["uncordon outbound sems1 --reason …"]);
        assert_eq!(ways(&sample::order(1, Effect::PauseReplay)), ["replay continue outbound"]);
        assert_eq!(ways(&sample::order(1, Effect::Refuse)), ["release outbound"]);
    }

    #[test]
    fn orders_of_others_end_by_force_and_a_brake_behind_its_file() {
        let other = cordon(HolderKind::Operator, "bob");
        assert_eq!(ways(&other), ["uncordon outbound sems1 --force --reason …"]);
        let of = |effect, kind| ways(&sample::order_of(4, effect, kind, "x"));
        let by_force = "orders end 4 --force --reason …";
        for kind in [HolderKind::Operator, HolderKind::Runbook, HolderKind::System] {
            assert_eq!(of(Effect::Hold, kind), [by_force], "{kind:?}");
        }
        assert_eq!(of(Effect::PauseReplay, HolderKind::Operator), [by_force]);
        assert_eq!(of(Effect::PauseReplay, HolderKind::System), ["replay continue outbound"]);
        assert_eq!(of(Effect::Hold, HolderKind::Brake), ["rm lockgate-data/hold", by_force]);
        assert!(of(Effect::Hold, HolderKind::Backlog).is_empty());
    }

    #[test]
    fn when_all_is_well_the_next_command_is_a_hold_of_a_forward_gate() {
        let mut status = sample::status();
        let back =
            GateStatus { gate: "back".into(), returns: Some("outbound".into()), ..sample::gate() };
        status.gates.insert(0, back);
        assert_eq!(next(&status), ["hold outbound --reason …"]);
    }

    #[test]
    fn a_held_gate_names_the_way_out() {
        let mut status = sample::status();
        status.gates[0].mode = Mode::Hold;
        status.gates[0].orders = vec![sample::order(7, Effect::Hold)];
        assert_eq!(next(&status), ["wait quiet outbound", "release outbound --wait"]);
        status.gates[0].orders[0].holder.name = "bob".into();
        assert_eq!(next(&status), ["orders end 7 --force --reason …"]);
    }

    #[test]
    fn a_backlog_needs_no_command_and_is_not_called_passing() {
        let mut status = sample::status();
        status.gates[0].mode = Mode::Hold;
        status.gates[0].orders =
            vec![sample::order_of(8, Effect::Hold, HolderKind::Backlog, "backlog")];
        assert_eq!(next(&status), ["status"]);
    }

    #[test]
    fn a_member_that_is_down_in_pass_comes_before_any_hold() {
        let mut status = sample::status();
        status.gates[0].members[0].health = MemberHealth::Down;
        let (global, caller) = (Global::default(), sample::alice());
        let steps = Advice { global: &global, caller: &caller }.next(&status);
        let expected = ["probe outbound --member sems1 --to ADDRESS", "hold outbound --reason …"];
        assert_eq!(lines(&steps), expected);
        assert!(steps[0].text().ends_with("# clients hear 451: sems1 does not answer"));
        assert!(steps.iter().all(|step| !step.why.contains("all passes")), "{steps:?}");
    }

    #[test]
    fn one_of_two_members_down_is_named_but_nobody_hears_451() {
        let mut status = sample::status();
        let mut second = status.gates[0].members[0].clone();
        second.member = "sems2".into();
        second.health = MemberHealth::Down;
        status.gates[0].members.push(second);
        let (global, caller) = (Global::default(), sample::alice());
        let steps = Advice { global: &global, caller: &caller }.next(&status);
        assert_eq!(lines(&steps), ["probe outbound --member sems2 --to ADDRESS"]);
        assert_eq!(steps[0].why, "sems2 does not answer");
    }

    #[test]
    fn under_a_brake_the_file_goes_first_and_once() {
        let mut status = sample::status();
        let brake = |id| sample::order_of(id, Effect::Hold, HolderKind::Brake, "brake");
        status.gates[0].mode = Mode::Hold;
        status.gates[0].orders = vec![brake(3)];
        status.gates[0].members[0].health = MemberHealth::Down;
        let mut second = status.gates[0].clone();
        second.gate = "inbound".into();
        second.orders = vec![Order { gate: "inbound".into(), ..brake(4) }];
        status.gates.push(second);
        let expected = [
            "rm lockgate-data/hold",
            "orders end 3 --force --reason …",
            "orders end 4 --force --reason …",
            "probe outbound --member sems1 --to ADDRESS",
            "probe inbound --member sems1 --to ADDRESS",
        ];
        assert_eq!(next(&status), expected);
    }

    #[test]
    fn under_the_callers_hold_a_cordoned_server_is_probed_before_the_release() {
        let mut status = sample::status();
        status.gates[0].mode = Mode::Hold;
        status.gates[0].members[0].cordoned = true;
        status.gates[0].orders =
            vec![sample::order(1, Effect::Hold), cordon(HolderKind::Health, "identity")];
        let expected = [
            "probe outbound --member sems1 --to ADDRESS",
            "wait quiet outbound",
            "release outbound --wait",
        ];
        assert_eq!(next(&status), expected);
    }

    #[test]
    fn silence_counts_those_who_should_have_mail() {
        let mut members = sample::gate().members;
        assert_eq!(silence(&members), None);
        assert!(!all_down(&members) && !all_down(&[]));
        members[0].health = MemberHealth::Down;
        assert_eq!(silence(&members).unwrap(), "sems1 does not answer");
        assert!(all_down(&members));
        members[0].cordoned = true;
        assert!(!all_down(&members) && silence(&members).is_none());
    }
}
