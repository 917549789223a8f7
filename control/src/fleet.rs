//! The proxies, each behind its `proxy.sock`.
//!
//! One proxy for now: the one of the same data folder. A request is handed on as it came, its body
//! streamed both ways; what the proxy says is the answer.
//!
//! Not here: which requests exist (`api`), HTTP over a Unix socket (`client`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};

use crate::client::{self, Client, ClientError};

/// The proxy of this data folder.
#[derive(Clone, Debug)]
pub struct Fleet {
    socket: PathBuf,
}

impl Fleet {
    /// The proxy behind this socket; it need not run yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket of the proxy.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client of the proxy.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::of_proxy(&self.socket)
    }

    /// Hands a request on and returns the head of the proxy's answer; the body follows.
    pub async fn forward(
        &self,
        request: Request<Body>,
        deadline: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        client::send(&self.socket, request, deadline).await
    }
}
