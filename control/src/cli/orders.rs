//! `orders list`, `orders end`: every open order, whoever placed it.
//!
//! Not here: placing orders (`gates`), ending all of one's own (`release`).

use clap::Subcommand;
use proxy::api::{Effect, EndOrder, HolderKind, Order, OrderEnded, path};

use super::{Desk, Exit, holder, reason};
use crate::client::{DEADLINE, fill};
use crate::render::{Out, Table, clean, word};

/// `orders …`
#[derive(Debug, Subcommand)]
pub enum Orders {
    /// List the open orders
    List,
    /// End one order
    End {
        /// Number of the order
        id: u64,
        /// End the order of another party
        #[arg(long, requires = "reason")]
        force: bool,
        /// End a cordon of the health check without an accepted probe (otherwise: `probe` first)
        #[arg(long, requires = "reason")]
        unchecked: bool,
        /// Why, for the next person
        #[arg(long, value_parser = reason)]
        reason: Option<String>,
    },
}

pub(super) async fn run(desk: &Desk, orders: Orders, out: &mut Out) -> anyhow::Result<Exit> {
    match orders {
        Orders::List => {
            let orders: Vec<Order> = desk.client.get(path::ORDERS, DEADLINE).await?;
            out.list(&orders, |orders| table(orders))?;
        }
        Orders::End { id, force, unchecked, reason } => {
            // A cordon of the health check is another party's anyway: its waiver is enough to say.
            let waived = unchecked && {
                let orders: Vec<Order> = desk.client.get(path::ORDERS, DEADLINE).await?;
                orders.iter().any(|order| order.id == id && is_of_health(order))
            };
            let (force, reason) = (force || waived, reason.unwrap_or_default());
            let request = EndOrder { holder: holder(), force, unchecked, reason };
            let target = fill(path::ORDER_END, "id", &id.to_string());
            let ended: OrderEnded = desk.client.post(&target, &request, DEADLINE).await?;
            out.document(&ended, text)?;
        }
    }
    Ok(Exit::Yes)
}

fn text(ended: &OrderEnded) -> String {
    let mut text = format!(
        "order {} is ended; {} now does: {}",
        ended.order.id,
        ended.order.gate,
        word(&ended.mode)
    );
    for order in &ended.still_open {
        text.push_str("\nstill open: ");
        text.push_str(&describe(order));
    }
    text
}

/// Is it a cordon of the health check? It ends after a probe, or with `--unchecked`.
pub(super) fn is_of_health(order: &Order) -> bool {
    order.effect == Effect::Cordon && order.holder.kind == HolderKind::Health
}

/// Orders as rows.
pub(super) fn table<'a>(orders: impl IntoIterator<Item = &'a Order>) -> Table {
    let mut table =
        Table::new(&[">ORDER", "GATE", "MEMBER", "EFFECT", "HOLDER", "SINCE", "REASON"]);
    for order in orders {
        table.row([
            order.id.to_string(),
            order.gate.clone(),
            order.member.clone().unwrap_or_default(),
            word(&order.effect),
            format!("{} {}", word(&order.holder.kind), order.holder.name),
            order.since.clone(),
            order.reason.clone(),
        ]);
    }
    table
}

/// An order in a line: who, since when, why.
pub(super) fn describe(order: &Order) -> String {
    let member = order.member.as_deref().map(|member| format!(" of {member}")).unwrap_or_default();
    clean(&format!(
        "{} {} since {}: {} (order {}: {}{member})",
        word(&order.holder.kind),
        order.holder.name,
        order.since,
        order.reason,
        order.id,
        word(&order.effect),
    ))
}
