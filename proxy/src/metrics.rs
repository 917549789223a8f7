//! Metrics: the registry, the naming rules, and the HTTP listener that shows them.
//!
//! Names are a contract: `lockgate_<noun>_<unit>[_total]`, base units, bounded labels (gate, mode,
//! outcome, class of a reply: never an address or an id). The registry is a value that is passed,
//! never a global.
//!
//! Not here: what is counted when (the code that counts), gauges that are read from the spool and
//! the gates when somebody asks (`admin::metrics`).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use smtp::Reply;

use crate::gate::Mode;
use crate::outcome::Outcome;
use crate::relay::Counts;

/// `[metrics]`: where Prometheus scrapes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the HTTP listener; empty string: none.
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9525))) }
    }
}

fn address<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        serde::de::Error::custom(format!(
            "{text:?} is not address:port, such as \"127.0.0.1:9525\""
        ))
    })
}

/// Labels of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfGate {
    /// Gate.
    pub gate: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTransaction {
    gate: String,
    mode: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReply {
    gate: String,
    mode: &'static str,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSettling {
    gate: String,
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    gate: String,
    pooled: &'static str,
}

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    transactions: Family<OfTransaction, Counter>,
    replies: Family<OfReply, Counter>,
    in_flight: Family<OfGate, Gauge>,
    connections: Family<OfGate, Gauge>,
    connections_total: Family<OfGate, Counter>,
    refused_connections: Family<OfGate, Counter>,
    next_hop_seconds: Family<OfGate, Histogram>,
    commit_seconds: Histogram,
    next_hop_connections: Family<OfPool, Counter>,
    next_hop_failures: Family<OfGate, Counter>,
    replayed: Family<OfTransaction, Counter>,
    settled: Family<OfSettling, Counter>,
}

/// The metrics of one gate, resolved once.
pub struct GateMetrics {
    transactions: [[Counter; OUTCOMES.len()]; 3],
    replies: [[Counter; 3]; 3],
    /// Outcomes of replay attempts.
    replayed: [Counter; OUTCOMES.len()],
    /// Uncertain messages settled, by what.
    settled: [Counter; 3],
    /// Transactions ended since the start.
    pub ended_total: AtomicU64,
    /// Transactions under way.
    pub in_flight: Gauge,
    /// Connections open.
    pub connections: Gauge,
    /// Connections accepted.
    pub connections_total: Counter,
    /// Connections refused (not allowed, or too many).
    pub refused_connections: Counter,
    /// From the final dot to the next hop's reply.
    pub next_hop_seconds: Histogram,
    /// From the end of mail data to the promise.
    pub commit_seconds: Histogram,
    pooled: Counter,
    opened: Counter,
    failures: Counter,
}

const MODES: [Mode; 3] = [Mode::Pass, Mode::Hold, Mode::Refuse];
const OUTCOMES: [Outcome; 8] = [
    Outcome::Relayed,
    Outcome::Held,
    Outcome::Deferred,
    Outcome::Refused,
    Outcome::Uncertain,
    Outcome::Blocked,
    Outcome::Abandoned,
    Outcome::Known,
];
const SETTLED: [&str; 3] = ["evidence", "person", "rule"];
const CLASSES: [&str; 3] = ["2yz", "4yz", "5yz"];

fn latency() -> Histogram {
    // 100 microseconds to about 14 minutes: the final reply may take 570 s.
    Histogram::new(exponential_buckets(0.0001, 3.0, 15))
}

impl Metrics {
    /// Registers every metric.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("lockgate");
        let metrics = Self {
            transactions: Family::default(),
            replies: Family::default(),
            in_flight: Family::default(),
            connections: Family::default(),
            connections_total: Family::default(),
            refused_connections: Family::default(),
            next_hop_seconds: Family::new_with_constructor(latency),
            commit_seconds: latency(),
            next_hop_connections: Family::default(),
            next_hop_failures: Family::default(),
            replayed: Family::default(),
            settled: Family::default(),
            registry: Registry::default(),
        };
        registry.register(
            "transactions",
            "Transactions ended, by mode and outcome",
            metrics.transactions.clone(),
        );
        registry.register(
            "replies",
            "Replies to MAIL, RCPT, DATA and the end of mail data, by mode and class",
            metrics.replies.clone(),
        );
        registry.register(
            "in_flight_transactions",
            "Transactions under way",
            metrics.in_flight.clone(),
        );
        registry.register("connections", "Client connections open", metrics.connections.clone());
        registry.register(
            "accepted_connections",
            "Client connections accepted",
            metrics.connections_total.clone(),
        );
        registry.register(
            "refused_connections",
            "Client connections refused: not allowed, or too many",
            metrics.refused_connections.clone(),
        );
        registry.register(
            "next_hop_latency_seconds",
            "From the final dot to the next hop's reply",
            metrics.next_hop_seconds.clone(),
        );
        registry.register(
            "commit_latency_seconds",
            "From the end of mail data to the promise of a held message",
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "next_hop_connections",
            "Connections taken towards next hops, from the pool or newly opened",
            metrics.next_hop_connections.clone(),
        );
        registry.register(
            "next_hop_connection_failures",
            "Connections towards next hops that could not be opened",
            metrics.next_hop_failures.clone(),
        );
        registry.register(
            "replay_attempts",
            "Attempts of the replayer, by outcome",
            metrics.replayed.clone(),
        );
        registry.register(
            "settled",
            "Uncertain messages that were settled, by what: evidence, a person, or the rule",
            metrics.settled.clone(),
        );
        registry.register(
            "build",
            "Version of the program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self { registry, ..metrics }
    }

    /// The metrics of one gate.
    #[must_use]
    pub fn of_gate(&self, gate: &str) -> Arc<GateMetrics> {
        let of_gate = OfGate { gate: gate.to_owned() };
        let transaction = |mode: &'static str, outcome: Outcome| OfTransaction {
            gate: gate.to_owned(),
            mode,
            outcome: outcome.as_str(),
        };
        let reply =
            |mode: Mode, class| OfReply { gate: gate.to_owned(), mode: mode.as_str(), class };
        let pool = |pooled| OfPool { gate: gate.to_owned(), pooled };
        Arc::new(GateMetrics {
            transactions: MODES.map(|mode| {
                OUTCOMES.map(|outcome| {
                    self.transactions.get_or_create_owned(&transaction(mode.as_str(), outcome))
                })
            }),
            replies: MODES.map(|mode| {
                CLASSES.map(|class| self.replies.get_or_create_owned(&reply(mode, class)))
            }),
            replayed: OUTCOMES
                .map(|outcome| self.replayed.get_or_create_owned(&transaction("replay", outcome))),
            settled: SETTLED.map(|by| {
                self.settled.get_or_create_owned(&OfSettling { gate: gate.to_owned(), by })
            }),
            ended_total: AtomicU64::new(0),
            in_flight: self.in_flight.get_or_create_owned(&of_gate),
            connections: self.connections.get_or_create_owned(&of_gate),
            connections_total: self.connections_total.get_or_create_owned(&of_gate),
            refused_connections: self.refused_connections.get_or_create_owned(&of_gate),
            next_hop_seconds: self.next_hop_seconds.get_or_create_owned(&of_gate),
            commit_seconds: self.commit_seconds.clone(),
            pooled: self.next_hop_connections.get_or_create_owned(&pool("yes")),
            opened: self.next_hop_connections.get_or_create_owned(&pool("no")),
            failures: self.next_hop_failures.get_or_create_owned(&of_gate),
        })
    }

    /// The registry, to be shown.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl GateMetrics {
    /// A transaction ended.
    pub fn ended(&self, mode: Mode, outcome: Outcome) {
        let mode = place(&MODES, &mode);
        self.transactions[mode][place(&OUTCOMES, &outcome)].inc();
        self.ended_total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// A reply to MAIL, RCPT, DATA or the end of mail data was given to the client.
    pub fn replied(&self, mode: Mode, reply: &Reply) {
        let mode = place(&MODES, &mode);
        let class = match reply.code() {
            0..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        self.replies[mode][class].inc();
    }

    /// An uncertain message was settled by this.
    pub fn settled(&self, by: &'static str) {
        self.settled[place(&SETTLED, &by)].inc();
    }

    /// An attempt of the replayer ended.
    pub fn replayed(&self, outcome: Outcome) {
        self.replayed[place(&OUTCOMES, &outcome)].inc();
    }
}

/// A [`GateMetrics`] as what a relay counts with.
pub struct RelayCounts(pub Arc<GateMetrics>);

impl Counts for RelayCounts {
    fn connection(&self, pooled: bool) {
        if pooled {
            self.0.pooled.inc()
        } else {
            self.0.opened.inc()
        };
    }

    fn failed(&self) {
        self.0.failures.inc();
    }
}

fn place<T: PartialEq>(all: &[T], one: &T) -> usize {
    all.iter().position(|other| other == one).unwrap_or_default()
}
