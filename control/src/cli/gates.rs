//! `gates`, `hold`, `refuse`, `cordon`, `uncordon`: what the gates do with new mail.
//!
//! Not here: letting held mail go (`release`), orders by number (`orders`).

use anyhow::bail;
use clap::Args;
use proxy::api::{
    Effect, EndOrder, GateStatus, Holder, MemberHealth, Mode, Order, OrderEnded, OrderPlaced,
    PlaceOrder, path,
};

use super::advice::Advice;
use super::{Desk, Exit, holder, reason};
use crate::client::{DEADLINE, fill};
use crate::render::{self, Format, Out, Table, word};

/// `hold GATE|--all --reason R`
#[derive(Debug, Args)]
#[command(override_usage = "lockgate hold [OPTIONS] --reason <REASON> <GATE|--all>")]
pub struct Hold {
    /// Gate
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    gate: Option<String>,
    /// Every gate towards the servers
    #[arg(long)]
    all: bool,
    /// Why, for the next person
    #[arg(long, value_parser = reason)]
    reason: String,
}

/// `refuse GATE --reason R`
#[derive(Debug, Args)]
pub struct Refuse {
    /// Gate
    gate: String,
    /// Why, for the next person
    #[arg(long, value_parser = reason)]
    reason: String,
}

/// `cordon GATE MEMBER --reason R`
#[derive(Debug, Args)]
pub struct Cordon {
    /// Gate
    gate: String,
    /// Member
    member: String,
    /// Why, for the next person
    #[arg(long, value_parser = reason)]
    reason: String,
}

/// `uncordon GATE MEMBER --reason R`
#[derive(Debug, Args)]
pub struct Uncordon {
    /// Gate
    gate: String,
    /// Member
    member: String,
    /// Why, for the next person
    #[arg(long, value_parser = reason)]
    reason: String,
    /// End the orders of others too
    #[arg(long)]
    force: bool,
    /// End a cordon of the health check without an accepted probe (otherwise: `probe` first)
    #[arg(long)]
    unchecked: bool,
}

pub(super) async fn list(desk: &Desk, out: &mut Out) -> anyhow::Result<Exit> {
    let gates: Vec<GateStatus> = desk.client.get(path::GATES, DEADLINE).await?;
    out.list(&gates, table)?;
    for gate in &gates {
        for member in &gate.members {
            let state = match (member.cordoned, member.health) {
                (true, _) => "cordoned".to_owned(),
                (false, health) => word(&health),
            };
            if member.cordoned || member.health == MemberHealth::Down {
                out.say(&format!("{}: {} is {state}", gate.gate, render::clean(&member.member)))?;
            }
        }
    }
    Ok(Exit::Yes)
}

fn table(gates: &[GateStatus]) -> Table {
    let mut table = Table::new(&[
        "GATE", "MODE", "LISTEN", "MEMBERS", ">CLIENTS", ">ALIVE", ">HELD", "REPLAY", ">EPOCH",
    ]);
    for gate in gates {
        let members = gate.members.iter().map(|member| {
            let mark = if member.cordoned { " (cordoned)" } else { "" };
            format!("{} {}{mark}", member.member, member.address)
        });
        table.row([
            gate.gate.clone(),
            word(&gate.mode),
            gate.listen.clone(),
            members.collect::<Vec<_>>().join(", "),
            render::count(gate.connections),
            render::count(gate.transactions),
            render::count(super::status::held(gate)),
            word(&gate.replay.state),
            gate.epoch.to_string(),
        ]);
    }
    table
}

pub(super) async fn hold(desk: &Desk, hold: Hold, out: &mut Out) -> anyhow::Result<Exit> {
    let request = PlaceOrder {
        gate: hold.gate,
        member: None,
        effect: Effect::Hold,
        holder: holder(),
        reason: hold.reason,
    };
    let placed = place(desk, &request, out, |epoch| {
        format!("{} holds from epoch {}: new mail is taken into the spool", epoch.gate, epoch.epoch)
    })
    .await?;
    out.say("what was under way before ends as it began; to know when it has:")?;
    for epoch in &placed.epochs {
        out.say(&format!("  {}", desk.command(&format!("wait quiet {}", epoch.gate))))?;
    }
    Ok(Exit::Yes)
}

pub(super) async fn refuse(desk: &Desk, refuse: Refuse, out: &mut Out) -> anyhow::Result<Exit> {
    let gate = refuse.gate.clone();
    let request = PlaceOrder {
        gate: Some(refuse.gate),
        member: None,
        effect: Effect::Refuse,
        holder: holder(),
        reason: refuse.reason,
    };
    place(desk, &request, out, |epoch| {
        format!(
            "{} refuses from epoch {}: clients hear 451 and keep their mail",
            epoch.gate, epoch.epoch
        )
    })
    .await?;
    out.say(&format!("to end it: {}", desk.command(&format!("release {gate}"))))?;
    Ok(Exit::Yes)
}

pub(super) async fn cordon(desk: &Desk, cordon: Cordon, out: &mut Out) -> anyhow::Result<Exit> {
    let (gate, member) = (cordon.gate.clone(), cordon.member.clone());
    let request = PlaceOrder {
        gate: Some(cordon.gate),
        member: Some(cordon.member),
        effect: Effect::Cordon,
        holder: holder(),
        reason: cordon.reason,
    };
    place(desk, &request, out, |epoch| {
        format!("{}: {member} gets nothing new from epoch {}", epoch.gate, epoch.epoch)
    })
    .await?;
    let end = format!("uncordon {gate} {member} --reason …");
    out.say(&format!("to end it: {}", desk.command(&end)))?;
    Ok(Exit::Yes)
}

async fn place(
    desk: &Desk,
    request: &PlaceOrder,
    out: &mut Out,
    line: impl Fn(&proxy::api::GateEpoch) -> String,
) -> anyhow::Result<OrderPlaced> {
    let placed: OrderPlaced = desk.client.post(path::ORDERS, request, DEADLINE).await?;
    out.document(&placed, |placed| {
        let mut text: Vec<String> = placed.epochs.iter().map(line).collect();
        let orders = placed.orders.iter().map(|order| order.id.to_string());
        text.push(format!("order {}", orders.collect::<Vec<_>>().join(", ")));
        text.join("\n")
    })?;
    for warning in &placed.warnings {
        out.warn(&format!("note: {}", render::clean(warning)))?;
    }
    Ok(placed)
}

pub(super) async fn uncordon(
    desk: &Desk,
    uncordon: Uncordon,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let (gate, member) = (&uncordon.gate, &uncordon.member);
    let orders: Vec<Order> = desk.client.get(path::ORDERS, DEADLINE).await?;
    let cordons = orders.into_iter().filter(|order| cordons(order, gate, member));
    let holder = holder();
    let (chosen, others): (Vec<_>, Vec<_>) =
        cordons.partition(|order| ends(order, &holder, &uncordon));
    if chosen.is_empty() && others.is_empty() {
        bail!("no order cordons {member} of {gate}: see `{}`", desk.command("gates"));
    }
    let mut ended = Vec::new();
    let mut failed = None;
    for order in chosen {
        let request = EndOrder {
            force: order.holder != holder,
            unchecked: uncordon.unchecked && super::orders::is_of_health(&order),
            holder: holder.clone(),
            reason: uncordon.reason.clone(),
        };
        let target = fill(path::ORDER_END, "id", &order.id.to_string());
        match desk.client.post::<_, OrderEnded>(&target, &request, DEADLINE).await {
            Ok(end) => ended.push(end),
            // What was ended before is told all the same.
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if out.format() == Format::Json {
        ended.iter().try_for_each(|end| out.json_line(end))?;
    } else if let Some(last) = ended.last() {
        out.say(&opened(last, gate, member))?;
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    let advice = Advice { global: &desk.global, caller: &holder };
    for line in still_cordoned(&advice, &others) {
        out.warn(&line)?;
    }
    Ok(Exit::yes_if(others.is_empty()))
}

fn cordons(order: &Order, gate: &str, member: &str) -> bool {
    order.effect == Effect::Cordon && order.gate == gate && order.member.as_deref() == Some(member)
}

/// Does the command line say enough to end this cordon?
fn ends(order: &Order, caller: &Holder, uncordon: &Uncordon) -> bool {
    uncordon.force
        || order.holder == *caller
        || (uncordon.unchecked && super::orders::is_of_health(order))
}

/// What the last of the ended cordons left.
fn opened(last: &OrderEnded, gate: &str, member: &str) -> String {
    if last.still_open.iter().any(|order| cordons(order, gate, member)) {
        return render::clean(&format!(
            "order {} is ended; {member} of {gate} is still cordoned",
            last.order.id
        ));
    }
    let but = match last.mode {
        Mode::Pass => "",
        Mode::Hold => "; the gate still holds new mail",
        Mode::Refuse => "; the gate still refuses new mail",
    };
    render::clean(&format!("{member} of {gate} is open again{but}"))
}

/// Who else cordons it, and the way out of each.
fn still_cordoned(advice: &Advice<'_>, others: &[Order]) -> Vec<String> {
    let mut lines = Vec::new();
    for order in others {
        lines.push(format!("still cordoned by {}", super::orders::describe(order)));
        let ways = advice.ways_out(order);
        lines.extend(ways.iter().map(|step| format!("  {}", step.text())));
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proxy::api::HolderKind;

    use super::super::{Global, Verb, parse, sample};
    use super::*;

    fn cordon(kind: HolderKind, name: &str) -> Order {
        let member = Some("sems1".to_owned());
        Order { member, ..sample::order_of(5, Effect::Cordon, kind, name) }
    }

    fn typed(flags: &str) -> Uncordon {
        let line = format!("lockgate uncordon outbound sems1 --reason looked {flags}");
        match parse(line.split_whitespace()).unwrap().verb {
            Verb::Uncordon(uncordon) => uncordon,
            verb => panic!("{verb:?}"),
        }
    }

    #[test]
    fn the_waiver_ends_cordons_of_the_health_check_and_not_those_of_people() {
        let alice = sample::alice();
        let (own, bobs, healths) = (
            cordon(HolderKind::Operator, "alice"),
            cordon(HolderKind::Operator, "bob"),
            cordon(HolderKind::Health, "identity"),
        );
        let chosen =
            |flags: &str| [&own, &bobs, &healths].map(|order| ends(order, &alice, &typed(flags)));
        assert_eq!(chosen(""), [true, false, false]);
        assert_eq!(chosen("--unchecked"), [true, false, true]);
        assert_eq!(chosen("--force"), [true, true, true]);
    }

    #[test]
    fn what_was_opened_is_told_in_words() {
        let order = cordon(HolderKind::Operator, "alice");
        let ended = |still_open: Vec<Order>, mode| {
            opened(&OrderEnded { order: order.clone(), still_open, mode }, "outbound", "sems1")
        };
        assert_eq!(ended(vec![], Mode::Pass), "sems1 of outbound is open again");
        let held = ended(vec![sample::order(7, Effect::Hold)], Mode::Hold);
        assert_eq!(held, "sems1 of outbound is open again; the gate still holds new mail");
        let other = ended(vec![cordon(HolderKind::Operator, "bob")], Mode::Hold);
        assert_eq!(other, "order 5 is ended; sems1 of outbound is still cordoned");
    }

    #[test]
    fn a_cordon_that_stands_names_the_probe() {
        let (global, caller) = (Global::default(), sample::alice());
        let advice = Advice { global: &global, caller: &caller };
        let text = still_cordoned(&advice, &[cordon(HolderKind::Health, "identity")]).join("\n");
        assert!(text.contains("lockgate probe outbound --member sems1"), "{text}");
        assert!(!text.contains("orders end"), "{text}");
    }
}
