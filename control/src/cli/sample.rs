//! Values for the tests of the command line: a lockgate where all is well.

use proxy::api::{
    Effect, GateStatus, HeldTotals, Holder, HolderKind, MemberHealth, MemberStatus, Mode, Order,
    ReplayState, ReplayStatus, SpoolStatus, Status,
};

/// One gate that passes, an empty spool, no alarm.
pub(super) fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        started_at: "2026-01-02T03:04:05Z".into(),
        ready: true,
        alarms: Vec::new(),
        gates: vec![gate()],
        spool: SpoolStatus {
            directory: "/srv/spool".into(),
            free_bytes: 100 << 30,
            free_bytes_min: 1 << 30,
            messages: 0,
            bytes: 0,
            full_in_s: None,
            promising: true,
            damage: Vec::new(),
        },
    }
}

/// Gate `outbound`, one member.
pub(super) fn gate() -> GateStatus {
    GateStatus {
        gate: "outbound".into(),
        returns: None,
        listen: "127.0.0.1:2525".into(),
        mode: Mode::Pass,
        epoch: 1,
        transactions: 0,
        connections: 0,
        transactions_total: 0,
        orders: Vec::new(),
        members: vec![MemberStatus {
            member: "sems1".into(),
            address: "127.0.0.1:2526".into(),
            source_address: None,
            cordoned: false,
            health: MemberHealth::Up,
            identity: None,
            extensions: None,
            seen_at: None,
            idle_connections: 0,
            tls: None,
        }],
        held: HeldTotals::default(),
        replay: ReplayStatus {
            state: ReplayState::Idle,
            why: None,
            remaining_first: 0,
            deferred: 0,
            relayed: 0,
            refused: 0,
            rate: 0.0,
            eta_s: None,
            in_flight: 0,
            connections: 1,
            connections_max: 10,
            messages_per_second_max: 100.0,
        },
    }
}

/// Operator alice.
pub(super) fn alice() -> Holder {
    Holder { kind: HolderKind::Operator, name: "alice".into() }
}

/// An order of operator alice.
pub(super) fn order(id: u64, effect: Effect) -> Order {
    order_of(id, effect, HolderKind::Operator, "alice")
}

/// An order of somebody.
pub(super) fn order_of(id: u64, effect: Effect, kind: HolderKind, name: &str) -> Order {
    Order {
        id,
        gate: "outbound".into(),
        member: None,
        effect,
        holder: Holder { kind, name: name.into() },
        reason: "upgrade of sems1".into(),
        since: "2026-01-02T03:04:05Z".into(),
    }
}
