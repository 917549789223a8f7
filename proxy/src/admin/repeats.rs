//! Messages that were passed on with an uncertain end: which wait for evidence, and the word that they were taken.
//!
//! Not here: how a repetition is known (`transaction::repeats`).

use axum::Json;
use axum::extract::State;

use super::problem::Failure;
use super::{Desk, Input};
use crate::api;
use crate::id::TransactionId;

pub(super) async fn waiting(State(desk): State<Desk>) -> Json<Vec<api::Repeat>> {
    let mut list = Vec::new();
    for door in &desk.parts.doors {
        let Some(repeats) = &door.corridor.repeats else { continue };
        let gate = door.corridor.gate.name();
        let waiting = repeats.waiting().into_iter();
        list.extend(waiting.map(|id| api::Repeat { gate: gate.to_owned(), id: id.to_string() }));
    }
    Json(list)
}

pub(super) async fn taken(
    State(desk): State<Desk>,
    Input(request): Input<Vec<api::Repeat>>,
) -> Result<Json<api::RepeatsTaken>, Failure> {
    let mut named = Vec::with_capacity(request.len());
    for repeat in &request {
        let id: TransactionId =
            repeat.id.parse().map_err(|error| Failure::bad(format!("{:?}: {error}", repeat.id)))?;
        named.push((desk.door(&repeat.gate)?, id));
    }
    let mut taken = 0;
    for (door, id) in named {
        let corridor = &door.corridor;
        if corridor.repeats.as_ref().is_some_and(|repeats| repeats.taken(id)) {
            taken += 1;
            corridor.metrics.settled("evidence");
            tracing::info!(%id, gate = corridor.gate.name(), "pass: the member took it, the logs show");
        }
    }
    Ok(Json(api::RepeatsTaken { taken }))
}
