//! Orders: who wants a gate held, refused or a member cordoned, and why.
//!
//! Invariants
//! - An order has a holder and a reason; only its holder ends it, or a person by force, by name.
//! - An order never expires and is never forgotten by a restart (`state` keeps it on disk).
//! - The mode of a gate is computed from its open orders and nothing else ([`mode`]).
//!
//! Not here: the file of orders (`state`), who is inside a gate (`mod`).

use serde::{Deserialize, Serialize};

/// What a gate does with the next transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Relay to a member, reply for reply.
    Pass,
    /// Take into the spool.
    Hold,
    /// Answer 451 4.3.2.
    Refuse,
}

impl Mode {
    /// The word used in logs, metrics and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Hold => "hold",
            Self::Refuse => "refuse",
        }
    }
}

/// What an order does to its scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Take mail into the spool and give none to the members.
    Hold,
    /// Answer 451 to new transactions and give none to the members.
    Refuse,
    /// Give this member nothing.
    Cordon {
        /// Name of the member.
        member: String,
    },
    /// Replay stands still; the gate goes on as it is.
    PauseReplay,
}

impl Effect {
    /// The word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Refuse => "refuse",
            Self::Cordon { .. } => "cordon",
            Self::PauseReplay => "pause replay",
        }
    }
}

/// What kind of party holds an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderKind {
    /// A person.
    Operator,
    /// A runbook.
    Runbook,
    /// The brake file.
    Brake,
    /// The health check.
    Health,
    /// The replayer, while a backlog stands before new mail.
    Backlog,
    /// lockgate itself, when its orders could not be read.
    System,
}

/// Who placed an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its kind.
    pub kind: HolderKind,
    /// Its name.
    pub name: String,
}

impl Holder {
    /// A holder of the given kind and name.
    #[must_use]
    pub fn new(kind: HolderKind, name: &str) -> Self {
        Self { kind, name: name.to_owned() }
    }
}

/// One open order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Number, never used again.
    pub id: u64,
    /// Gate it concerns.
    pub gate: String,
    /// What it does.
    pub effect: Effect,
    /// Who placed it.
    pub holder: Holder,
    /// Why.
    pub reason: String,
    /// Since when, in milliseconds since the epoch.
    pub since_unix_ms: u64,
}

impl Order {
    /// Does this order keep mail from every member, replay included?
    ///
    /// The order of the backlog keeps only *new* mail away: the replayer is its holder.
    #[must_use]
    pub fn stops_replay(&self) -> bool {
        match self.effect {
            Effect::Hold => self.holder.kind != HolderKind::Backlog,
            Effect::Refuse | Effect::PauseReplay => true,
            Effect::Cordon { .. } => false,
        }
    }

    /// Does this order forbid a canary? A hold does not: canaries exist to look at the member while
    /// the gate holds.
    #[must_use]
    pub const fn stops_canary(&self) -> bool {
        matches!(self.effect, Effect::Refuse | Effect::PauseReplay)
    }
}

/// The mode that `orders` give a gate with these members (house §5).
#[must_use]
pub fn mode<'a>(orders: &[Order], mut members: impl Iterator<Item = &'a str>) -> Mode {
    if orders.iter().any(|order| order.effect == Effect::Refuse) {
        return Mode::Refuse;
    }
    if orders.iter().any(|order| order.effect == Effect::Hold) {
        return Mode::Hold;
    }
    if members.any(|member| !is_cordoned(orders, member)) { Mode::Pass } else { Mode::Hold }
}

/// Is this member cordoned by any of `orders`?
#[must_use]
pub fn is_cordoned(orders: &[Order], member: &str) -> bool {
    orders
        .iter()
        .any(|order| matches!(&order.effect, Effect::Cordon { member: name } if name == member))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(effect: Effect, kind: HolderKind) -> Order {
        Order {
            id: 1,
            gate: "outbound".into(),
            effect,
            holder: Holder::new(kind, "x"),
            reason: "test".into(),
            since_unix_ms: 0,
        }
    }

    fn cordon(member: &str) -> Order {
        order(Effect::Cordon { member: member.into() }, HolderKind::Operator)
    }

    #[test]
    fn a_gate_without_orders_passes() {
        assert_eq!(mode(&[], ["a"].into_iter()), Mode::Pass);
    }

    #[test]
    fn refuse_outranks_hold() {
        let orders =
            [order(Effect::Hold, HolderKind::Operator), order(Effect::Refuse, HolderKind::Runbook)];
        assert_eq!(mode(&orders, ["a"].into_iter()), Mode::Refuse);
    }

    #[test]
    fn a_gate_whose_members_are_all_cordoned_holds() {
        assert_eq!(mode(&[cordon("a")], ["a", "b"].into_iter()), Mode::Pass);
        assert_eq!(mode(&[cordon("a"), cordon("b")], ["a", "b"].into_iter()), Mode::Hold);
    }

    #[test]
    fn the_order_of_the_backlog_holds_new_mail_but_not_replay() {
        let backlog = order(Effect::Hold, HolderKind::Backlog);
        assert_eq!(mode(std::slice::from_ref(&backlog), ["a"].into_iter()), Mode::Hold);
        assert!(!backlog.stops_replay());
        assert!(order(Effect::Hold, HolderKind::Operator).stops_replay());
    }

    #[test]
    fn a_pause_of_replay_leaves_the_mode_alone() {
        let pause = order(Effect::PauseReplay, HolderKind::Operator);
        assert_eq!(mode(std::slice::from_ref(&pause), ["a"].into_iter()), Mode::Pass);
        assert!(pause.stops_replay());
    }
}
