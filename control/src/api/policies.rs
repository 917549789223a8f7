//! Routes of policies that are kept.
//!
//! What is kept may be an export of any encoding: it travels as octets (postcard), not as JSON.
//!
//! Not here: what a snapshot is (`crate::policy::snapshot`).

use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as InPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, get, post};

use super::problem;
use crate::moment::Moment;
use crate::policy::snapshot::{Keep, SnapshotError, Snapshots};
use crate::policy::source::OCTETS_MAX;
use crate::watch::wire::path as own;

/// Octets of a snapshot with its mapping and lists.
const REQUEST_OCTETS_MAX: usize = 2 * OCTETS_MAX as usize;

/// The routes, under `/api`.
pub(super) fn router<S: Clone + Send + Sync + 'static>(snapshots: Snapshots) -> Router<S> {
    let at = |path: &str| format!("/api{path}");
    Router::new()
        .route(&at(own::POLICIES), get(list).post(keep))
        .route(&at(own::POLICY), get(one))
        .route(&at(own::POLICY_REMOVE), post(remove))
        .layer(DefaultBodyLimit::max(REQUEST_OCTETS_MAX))
        .with_state(snapshots)
}

fn refused(error: &SnapshotError) -> Response {
    let status = match error {
        SnapshotError::Name | SnapshotError::Source(_) => StatusCode::BAD_REQUEST,
        SnapshotError::Taken { .. } | SnapshotError::Many => StatusCode::CONFLICT,
        SnapshotError::Unknown { .. } => StatusCode::NOT_FOUND,
        SnapshotError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    problem(status, error.to_string())
}

/// Does what may take its time beside what must not wait.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, Response> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| refused(&error)),
        Err(error) => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn list(State(snapshots): State<Snapshots>) -> Response {
    match beside(move || Ok(snapshots.list()?)).await {
        Ok(all) => Json(all).into_response(),
        Err(response) => response,
    }
}

async fn keep(State(snapshots): State<Snapshots>, body: Bytes) -> Response {
    let keep: Keep = match postcard::from_bytes(&body) {
        Ok(keep) => keep,
        Err(error) => {
            return problem(StatusCode::BAD_REQUEST, format!("this is no snapshot: {error}"));
        }
    };
    match beside(move || snapshots.keep(&keep, Moment::now())).await {
        Ok(facts) => Json(facts).into_response(),
        Err(response) => response,
    }
}

async fn one(State(snapshots): State<Snapshots>, InPath(name): InPath<String>) -> Response {
    match beside(move || snapshots.get(&name)).await {
        Ok(source) => match postcard::to_stdvec(&source) {
            Ok(octets) => octets.into_response(),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        Err(response) => response,
    }
}

async fn remove(State(snapshots): State<Snapshots>, InPath(name): InPath<String>) -> Response {
    match beside(move || snapshots.remove(&name)).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(response) => response,
    }
}
