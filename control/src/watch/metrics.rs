//! What Prometheus sees of drains and logs.
//!
//! Names follow the rules of the data plane (`proxy::metrics`): base units, bounded labels, no address and no id.
//!
//! Not here: what the data plane counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::wire::{DrainReport, LogReport, Phase, Said};
use crate::moment::Moment;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMember {
    member: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVerdict {
    member: String,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLog {
    log: String,
}

/// What is known of a member.
#[derive(Clone, Debug)]
pub struct OfOne {
    /// The member.
    pub member: String,
    /// Items inside.
    pub inside: usize,
    /// Other messages inside.
    pub others: usize,
    /// Its last certificate was taken back.
    pub revoked: bool,
}

/// Every metric of control.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    inside: Family<OfMember, Gauge>,
    strangers: Family<OfMember, Gauge>,
    verdict: Family<OfVerdict, Gauge>,
    revoked: Family<OfMember, Gauge>,
    age: Family<OfLog, Gauge<f64, std::sync::atomic::AtomicU64>>,
    lines: Family<OfLog, Gauge>,
    unparsed: Family<OfLog, Gauge>,
    bypasses: Family<OfLog, Gauge>,
    failing: Family<OfLog, Gauge>,
}

/// Verdicts as a state set: one of them is 1.
const VERDICTS: [&str; 4] = ["none", "drained", "pending", "inconclusive"];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every metric.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("lockgate");
        let metrics = Self {
            inside: Family::default(),
            strangers: Family::default(),
            verdict: Family::default(),
            revoked: Family::default(),
            age: Family::default(),
            lines: Family::default(),
            unparsed: Family::default(),
            bypasses: Family::default(),
            failing: Family::default(),
            registry: Registry::default(),
        };
        registry.register(
            "drain_inside_items",
            "Forward-paths handed to a member of which no evidence says where they went",
            metrics.inside.clone(),
        );
        registry.register(
            "drain_inside_others",
            "Messages in a member, by its log, that are no items: its own, copies, and what came past us",
            metrics.strangers.clone(),
        );
        registry.register(
            "drain_verdict",
            "What may be said of the member's drain: 1 at the one that holds",
            metrics.verdict.clone(),
        );
        registry.register(
            "drain_revoked",
            "1 while the last certificate of the member is one that was taken back",
            metrics.revoked.clone(),
        );
        registry.register(
            "maillog_age_seconds",
            "Seconds since the last line of a log was read",
            metrics.age.clone(),
        );
        registry.register("maillog_lines", "Lines read of a log", metrics.lines.clone());
        registry.register(
            "maillog_unparsed_lines",
            "Lines of a log that were not understood",
            metrics.unparsed.clone(),
        );
        registry.register(
            "maillog_bypass_messages",
            "Messages that reached a member past lockgate, as far as they are kept",
            metrics.bypasses.clone(),
        );
        registry.register(
            "maillog_failing",
            "1 while a log cannot be read",
            metrics.failing.clone(),
        );
        Self { registry, ..metrics }
    }

    /// The exposition of what is known now.
    pub fn show(
        &mut self,
        drains: &[DrainReport],
        logs: &[LogReport],
        members: &[OfOne],
        now: Moment,
    ) -> String {
        for OfOne { member, inside, others, revoked } in members.iter().cloned() {
            let drain =
                drains.iter().find(|drain| drain.member == member && drain.only_gate.is_none());
            let said =
                match drain.filter(|drain| drain.phase != Phase::Ended).and_then(|one| one.said) {
                    None => "none",
                    Some(Said::Drained) => "drained",
                    Some(Said::Pending) => "pending",
                    Some(Said::Inconclusive) => "inconclusive",
                };
            for verdict in VERDICTS {
                let label = OfVerdict { member: member.clone(), verdict };
                self.verdict.get_or_create(&label).set(i64::from(verdict == said));
            }
            let label = OfMember { member };
            let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            self.revoked.get_or_create(&label).set(i64::from(revoked));
            self.inside.get_or_create(&label).set(number(inside));
            self.strangers.get_or_create(&label).set(number(others));
        }
        for log in logs {
            let label = OfLog { log: log.log.clone() };
            let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            if let Some(alive) = log.alive.as_deref().and_then(Moment::parse) {
                #[allow(clippy::cast_precision_loss, reason = "seconds")]
                let age = now.since(alive) as f64 / 1000.0;
                self.age.get_or_create(&label).set(age);
            }
            self.lines.get_or_create(&label).set(number(log.lines));
            self.unparsed.get_or_create(&label).set(number(log.unparsed));
            self.bypasses.get_or_create(&label).set(number(log.bypasses));
            self.failing.get_or_create(&label).set(i64::from(log.error.is_some()));
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        prometheus_client::encoding::text::encode(&mut text, &self.registry).ok();
        text
    }
}
