//! Probes, and copies of what came back of them.
//!
//! Not here: how a probe is made (`probe`), which copies there are (`token`), what the header of what came
//! back said (`journal`).

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;

use super::problem::Failure;
use super::{Asked, Desk, Input, journal, wire};
use crate::api;
use crate::clock;
use crate::probe::{self, Message};
use crate::token::{Copy, Token};

pub(super) async fn probe(
    State(desk): State<Desk>,
    Path(gate): Path<String>,
    Input(request): Input<api::ProbeRequest>,
) -> Result<Json<api::ProbeAnswer>, Failure> {
    let door = desk.door(&gate)?;
    let corridor = door.corridor.clone();
    let members = &corridor.gate.plan().members;
    let chosen: Vec<usize> = match &request.member {
        None => (0..members.len()).collect(),
        Some(name) => {
            let index = members
                .iter()
                .position(|member| member == name)
                .ok_or_else(|| Failure::unknown(format!("gate {gate} has no member {name:?}")))?;
            vec![index]
        }
    };
    smtp::Mailbox::parse(&request.to).map_err(|error| Failure::bad(format!("to: {error}")))?;
    let from = request.from.filter(|from| !from.is_empty());
    if let Some(from) = &from {
        smtp::Mailbox::parse(from).map_err(|error| Failure::bad(format!("from: {error}")))?;
    }
    let message = request.message.map(|api::Octets(octets)| Message::parse(octets)).transpose();
    let message = message.map_err(|error| Failure::bad(format!("message: {error}")))?;
    let to = request.to;
    let work = async move {
        let asked = probe::Request { from: from.as_deref(), to: &to, message: message.as_ref() };
        let probes = chosen.into_iter().map(|member| probe::probe(&corridor, member, asked));
        Ok(futures_util::future::join_all(probes).await)
    };
    let cursor = position(&desk).await?;
    let results = desk.carry_out(work).await?;
    Ok(Json(api::ProbeAnswer { members: results.into_iter().map(wire::probed).collect(), cursor }))
}

/// Where the journal stands.
async fn position(desk: &Desk) -> Result<String, Failure> {
    let journal = desk.parts.journal.clone();
    let position = tokio::task::spawn_blocking(move || journal.position(clock::unix_nanos()));
    Ok(journal::text_of(position.await?))
}

/// Which copies.
#[derive(Deserialize)]
pub(super) struct Wanted {
    token: Option<String>,
}

pub(super) async fn copies(
    State(desk): State<Desk>,
    Asked(wanted): Asked<Wanted>,
) -> Result<Json<Vec<api::ProbeCopy>>, Failure> {
    let token = wanted.token.map(|text| text.parse::<Token>()).transpose();
    let token = token.map_err(|error| Failure::bad(format!("token: {error}")))?;
    let copies = desk.parts.tokens.copies(token, clock::unix_ms());
    Ok(Json(copies.iter().map(copied).collect()))
}

fn copied(copy: &Copy) -> api::ProbeCopy {
    let mut message = Vec::with_capacity(copy.wire.len());
    smtp::unstuff(&copy.wire, &mut message);
    api::ProbeCopy {
        id: copy.id.to_string(),
        token: copy.token.to_string(),
        message: api::Octets(message),
    }
}
