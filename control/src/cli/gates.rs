//! `gates`, `hold`, `refuse`, `cordon`, `uncordon`: what the gates do with new mail.
//!
//! Not here: letting held mail go (`release`), orders by number (`orders`).

use anyhow::bail;
use clap::Args;
use proxy::api::{
    Effect, EndOrder, GateStatus, MemberHealth, Order, OrderEnded, OrderPlaced, PlaceOrder, path,
};

use super::{Desk, Exit, holder, reason};
use crate::client::{DEADLINE, fill};
use crate::render::{self, Out, Table, word};

/// `hold GATE|--all --reason R`
#[derive(Debug, Args)]
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
    /// End a cordon of the health check without a passed probe
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
    let orders: Vec<Order> = desk.client.get(path::ORDERS, DEADLINE).await?;
    let cordons: Vec<Order> = orders
        .into_iter()
        .filter(|order| order.effect == Effect::Cordon && order.gate == uncordon.gate)
        .filter(|order| order.member.as_deref() == Some(&uncordon.member))
        .collect();
    if cordons.is_empty() {
        bail!(
            "no order cordons {} of {}: see `{}`",
            uncordon.member,
            uncordon.gate,
            desk.command("gates")
        );
    }
    let holder = holder();
    let (mine, others): (Vec<_>, Vec<_>) =
        cordons.into_iter().partition(|order| uncordon.force || order.holder == holder);
    let mut ended = Vec::new();
    for order in mine {
        let request = EndOrder {
            force: order.holder != holder,
            unchecked: uncordon.unchecked,
            holder: holder.clone(),
            reason: uncordon.reason.clone(),
        };
        let target = fill(path::ORDER_END, "id", &order.id.to_string());
        let end: OrderEnded = desk.client.post(&target, &request, DEADLINE).await?;
        ended.push(end);
    }
    out.list(&ended, |ended| super::orders::table(ended.iter().map(|end| &end.order)))?;
    for order in &others {
        out.warn(&format!("still cordoned by {}", super::orders::describe(order)))?;
    }
    if !others.is_empty() {
        out.warn("end the orders of others with --force, after a probe:")?;
        let probe = format!("probe {} --member {} --to …", uncordon.gate, uncordon.member);
        out.warn(&format!("  {}", desk.command(&probe)))?;
    }
    Ok(Exit::yes_if(others.is_empty()))
}
