//! What goes wrong on the admin socket, and with which HTTP status it is told.
//!
//! Invariants
//! - Every error of every route is an [`api::Problem`] in JSON, the router's own too.
//! - The status says what the caller can do: 400 ask otherwise, 404 there is none, 409 somebody
//!   else holds it, 503 try again, 504 look whether it was done.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::task::JoinError;

use crate::api;
use crate::gate::OrderError;
use crate::spool::{LoadError, MarkError};

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    error: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    /// 400: the request itself is wrong.
    pub(super) fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// 404: no such gate, order or message.
    pub(super) fn unknown(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// 503: the disk refuses, or too many ask at once.
    pub(super) fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }

    #[cfg(test)]
    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(api::Problem { error: self.error })).into_response()
    }
}

/// An error with all its causes.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl From<OrderError> for Failure {
    fn from(error: OrderError) -> Self {
        let status = match error {
            OrderError::NoSuchGate(_)
            | OrderError::NoSuchMember { .. }
            | OrderError::NoSuchOrder(_) => StatusCode::NOT_FOUND,
            OrderError::NoReason | OrderError::ReturnGate(_) => StatusCode::BAD_REQUEST,
            OrderError::NotYours { .. } | OrderError::BrakeFile(_) => StatusCode::CONFLICT,
            OrderError::Disk(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, told(&error))
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let status = match error {
            LoadError::NotHeld(_) => StatusCode::NOT_FOUND,
            LoadError::Damaged(_) | LoadError::NoKey => StatusCode::INTERNAL_SERVER_ERROR,
            LoadError::Read { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, told(&error))
    }
}

impl From<MarkError> for Failure {
    fn from(error: MarkError) -> Self {
        let status = match error {
            MarkError::NotDue { .. } => StatusCode::CONFLICT,
            MarkError::NotHeld(_) | MarkError::NoSuchPath { .. } => StatusCode::NOT_FOUND,
            MarkError::Write { .. } | MarkError::Failed | MarkError::Closed => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, told(&error))
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        tracing::error!(%error, "admin: a request ended by a panic");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "lockgate failed while it did this; its log says how, `lockgate status` what stands",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_status_says_what_the_caller_can_do() {
        let disk = OrderError::Disk(io::Error::other("no space"));
        let failure = Failure::from(disk);
        assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(failure.error.contains("no space"), "{}", failure.error);
        for (error, status) in [
            (OrderError::NoSuchGate("x".into()), StatusCode::NOT_FOUND),
            (OrderError::NoSuchOrder(7), StatusCode::NOT_FOUND),
            (OrderError::NoReason, StatusCode::BAD_REQUEST),
            (OrderError::ReturnGate("x".into()), StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(Failure::from(error).status(), status);
        }
    }
}
