//! The metrics page, `/healthz` and `/readyz`.
//!
//! Invariants
//! - Labels are gates, modes and states: never an address or an id.
//! - `/healthz` says that the process answers; `/readyz` that it takes mail.
//!
//! Not here: what is counted as it happens (`metrics`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::time::timeout;

use super::{Desk, Door, Parts, wire};
use crate::api;
use crate::clock;
use crate::gate::Mode;
use crate::metrics::OfGate;
use crate::spool::Totals;

/// Media type of the metrics page.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long others may take to say their part of the page; without it the page is shorter.
const MORE: Duration = Duration::from_secs(2);

/// The end of an exposition.
const END: &str = "# EOF\n";

const MODES: [Mode; 3] = [Mode::Pass, Mode::Hold, Mode::Refuse];

pub(super) fn router() -> Router<Desk> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
}

async fn metrics(State(desk): State<Desk>) -> Response {
    desk.note_growth();
    let mut page = String::new();
    if let Some(more) = &desk.parts.more
        && let Ok(Some(text)) = timeout(MORE, more()).await
    {
        page.push_str(text.strip_suffix(END).unwrap_or(&text));
    }
    let encoded = text::encode_registry(&mut page, desk.parts.metrics.registry())
        .and_then(|()| text::encode_registry(&mut page, &desk.shared.readings))
        .and_then(|()| text::encode_eof(&mut page));
    match encoded {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn ready(State(desk): State<Desk>) -> Response {
    if desk.is_ready() {
        return "ready\n".into_response();
    }
    let why = "not ready: lockgate stops\n";
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// What is read from the gates and the spool when somebody scrapes.
pub(super) fn readings(parts: &Arc<Parts>) -> Registry {
    let mut registry = Registry::with_prefix("lockgate");
    registry.register_collector(Box::new(Readings { parts: Arc::clone(parts) }));
    registry
}

struct Readings {
    parts: Arc<Parts>,
}

impl fmt::Debug for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readings")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    gate: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMode {
    gate: String,
    mode: &'static str,
}

/// One gate as it stands at a scrape.
struct Reading<'a> {
    gate: &'a str,
    mode: Mode,
    orders: u64,
    held: api::HeldTotals,
    replay: api::ReplayStatus,
}

impl<'a> Reading<'a> {
    fn of(door: &'a Door, totals: &[Totals], now_unix_ms: u64) -> Self {
        let gate = &door.corridor.gate;
        let progress = door.replayer.status();
        let held = totals.iter().find(|totals| *totals.gate == *gate.name());
        Self {
            gate: gate.name(),
            mode: gate.mode_shown(),
            orders: gate.orders().len() as u64,
            held: held
                .map(|totals| wire::totals(totals, progress.in_flight, now_unix_ms))
                .unwrap_or_default(),
            replay: wire::progress(progress),
        }
    }

    fn labels(&self) -> OfGate {
        OfGate { gate: self.gate.to_owned() }
    }

    fn states(&self) -> [(&'static str, u64); 5] {
        [
            ("held", self.held.held),
            ("deferred", self.held.deferred),
            ("uncertain", self.held.uncertain),
            ("refused", self.held.refused),
            ("blocked", self.held.blocked),
        ]
    }
}

/// One family of gauges: name, help, and every label set with its value.
fn family<L: EncodeLabelSet, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    values: impl IntoIterator<Item = (L, V)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

/// One gauge without labels.
fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    value: u64,
) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

impl Readings {
    fn journal(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let stand = self.parts.journal.stand();
        gauge(encoder, ("journal_bytes", "Octets of the journal"), stand.bytes)?;
        gauge(
            encoder,
            ("journal_open_items", "Offered to a next hop, with no end known yet"),
            stand.open as u64,
        )?;
        gauge(
            encoder,
            ("journal_failing", "1 while the journal cannot be written"),
            u64::from(stand.failing),
        )?;
        encoder
            .encode_descriptor(
                "journal_unwritten_entries",
                "Entries that could not be written since the start",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(&stand.unwritten, None)
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let now_unix_ms = clock::unix_ms();
        let totals = self.parts.spool.totals();
        let gates: Vec<Reading<'_>> =
            self.parts.doors.iter().map(|door| Reading::of(door, &totals, now_unix_ms)).collect();
        family(
            encoder,
            ("held_messages", "Held messages, by state"),
            gates.iter().flat_map(|reading| {
                let labels = |state| OfState { gate: reading.gate.to_owned(), state };
                reading.states().map(|(state, count)| (labels(state), count))
            }),
        )?;
        family(
            encoder,
            (
                "uncertain_messages",
                "Held messages whose final reply was lost, and that nothing settled",
            ),
            gates.iter().map(|reading| (reading.labels(), reading.held.uncertain)),
        )?;
        family(
            encoder,
            ("held_bytes", "Octets of mail data of held messages"),
            gates.iter().map(|reading| (reading.labels(), reading.held.bytes)),
        )?;
        family(
            encoder,
            ("held_oldest_age_seconds", "Age of the oldest held message; 0 when none is held"),
            gates
                .iter()
                .map(|reading| (reading.labels(), reading.held.oldest_age_s.unwrap_or(0.0))),
        )?;
        family(
            encoder,
            ("gate_mode", "1 for the mode of the gate, 0 for the others"),
            gates.iter().flat_map(|reading| {
                MODES.map(|mode| {
                    let labels = OfMode { gate: reading.gate.to_owned(), mode: mode.as_str() };
                    (labels, u64::from(mode == reading.mode))
                })
            }),
        )?;
        family(
            encoder,
            ("orders", "Open orders"),
            gates.iter().map(|reading| (reading.labels(), reading.orders)),
        )?;
        family(
            encoder,
            ("replay_rate", "Messages per second that replay ends"),
            gates.iter().map(|reading| (reading.labels(), reading.replay.rate)),
        )?;
        family(
            encoder,
            ("replay_remaining_messages", "Held messages with a try still to come"),
            gates.iter().map(|reading| {
                let remaining = reading.replay.remaining_first + reading.replay.deferred;
                (reading.labels(), remaining)
            }),
        )?;
        family(
            encoder,
            ("replay_paused", "1 while an order, or too many refusals, pauses the replay"),
            gates.iter().map(|reading| {
                let paused = reading.replay.state == api::ReplayState::Paused;
                (reading.labels(), u64::from(paused))
            }),
        )?;
        self.journal(encoder)?;
        encoder
            .encode_descriptor(
                "spool_free_bytes",
                "Free octets of the spool's volume",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&self.parts.spool.free_bytes())
    }
}
