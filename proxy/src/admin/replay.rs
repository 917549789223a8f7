//! Release, and the pace of replay.
//!
//! Not here: what a release ends and what it leaves (`replay`).

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::problem::{Failure, told};
use super::{Desk, Input, wire};
use crate::api;
use crate::replay::{Release, ReleaseError};
use crate::spool::SpoolId;

/// Ceilings that a person may set while replay runs.
const CONNECTIONS_MAX: u32 = 10_000;
const MESSAGES_PER_SECOND_MAX: f64 = 1e6;

pub(super) async fn release(
    State(desk): State<Desk>,
    Path(gate): Path<String>,
    Input(request): Input<api::ReleaseRequest>,
) -> Result<Json<api::ReleaseAnswer>, Failure> {
    let replayer = desk.door(&gate)?.replayer.clone();
    let release = Release {
        holder: wire::asker(request.holder)?,
        open_now: request.open_now,
        only: ids(&request.only)?,
        first: request.first,
        unchecked: request.unchecked,
        reason: request.reason,
    };
    if release.first == Some(0) {
        return Err(Failure::bad("first: none at all is no canary"));
    }
    let released = desk.carry_out(async move { Ok(replayer.release(release).await?) }).await?;
    Ok(Json(api::ReleaseAnswer {
        released: released.released,
        backlog: released.backlog,
        ended: wire::orders(released.ended),
        still_held_by: wire::orders(released.still),
        warnings: released.warnings,
    }))
}

pub(super) async fn control(
    State(desk): State<Desk>,
    Path(gate): Path<String>,
    Input(request): Input<api::ReplayControl>,
) -> Result<Json<api::ReplayStatus>, Failure> {
    let replayer = desk.door(&gate)?.replayer.clone();
    let acting = replayer.clone();
    match request {
        api::ReplayControl::Pause { holder, reason } => {
            let holder = wire::asker(holder)?;
            desk.carry_out(async move { Ok(acting.pause(holder, reason).await?) }).await?;
        }
        api::ReplayControl::Continue { holder } => {
            let holder = wire::asker(holder)?;
            desk.carry_out(async move { Ok(acting.proceed(holder).await?) }).await?;
        }
        api::ReplayControl::Rate { connections, messages_per_second } => {
            check_rate(connections, messages_per_second)?;
            replayer.set_rate(connections, messages_per_second);
            tracing::info!(gate, ?connections, ?messages_per_second, "replay: rate");
        }
    }
    Ok(Json(wire::progress(replayer.status())))
}

fn check_rate(connections: Option<u32>, messages_per_second: Option<f64>) -> Result<(), Failure> {
    if connections.is_some_and(|connections| !(1..=CONNECTIONS_MAX).contains(&connections)) {
        return Err(Failure::bad(format!("connections must be 1 to {CONNECTIONS_MAX}")));
    }
    let possible = |rate: f64| rate > 0.0 && rate <= MESSAGES_PER_SECOND_MAX;
    if messages_per_second.is_some_and(|rate| !possible(rate)) {
        return Err(Failure::bad(format!(
            "messages_per_second must be above 0 and at most {MESSAGES_PER_SECOND_MAX}; to stand still, pause"
        )));
    }
    Ok(())
}

/// Spool ids from outside.
fn ids(texts: &[String]) -> Result<Vec<SpoolId>, Failure> {
    texts.iter().map(|text| id(text)).collect()
}

/// A spool id from outside.
pub(super) fn id(text: &str) -> Result<SpoolId, Failure> {
    text.parse().map_err(|error| Failure::bad(format!("{text:?}: {error}")))
}

impl From<ReleaseError> for Failure {
    fn from(error: ReleaseError) -> Self {
        let status = match error {
            ReleaseError::Order(error) => return error.into(),
            ReleaseError::Broken(error) => return error.into(),
            ReleaseError::NotHeld(_) => StatusCode::NOT_FOUND,
            ReleaseError::NoReason => StatusCode::BAD_REQUEST,
        };
        Self::new(status, told(&error))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_would_never_send_is_refused() {
        assert!(check_rate(Some(0), None).is_err());
        assert!(check_rate(None, Some(0.0)).is_err());
        assert!(check_rate(None, Some(f64::NAN)).is_err());
        assert!(check_rate(None, None).is_ok());
        assert!(check_rate(Some(1), Some(0.1)).is_ok());
    }

    #[test]
    fn what_is_no_spool_id_is_a_bad_request() {
        assert_eq!(id("nonsense").unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert!(ids(&["FZZZZZZZZZZZZ".into()]).is_ok());
    }
}
