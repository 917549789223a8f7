//! Starts and stops the parts of a process: the data plane, control, or both.
//!
//! Invariants
//! - Also in one process, control reaches the data plane only through `proxy.sock`.
//! - The first signal stops cleanly, data plane first, so that control can still tell how it goes;
//!   the second ends the process at once.
//!
//! Not here: what the data plane does when it stops (`proxy::app`).

use std::io;

use proxy::app::{AppError, CreateState, Proxy};
use proxy::config::Config;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, BindError};
use crate::fleet::Fleet;

/// The control plane of a process, serving `lockgate.sock`.
#[derive(Debug)]
pub struct Control {
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Control {
    /// Binds the socket and starts serving it.
    pub async fn start(config: &Config) -> Result<Self, BindError> {
        let listener = api::bind(&config.control_socket(), api::SOCKET_MODE).await?;
        let router = api::router(Fleet::new(config.proxy_socket()));
        let stop = CancellationToken::new();
        let server = tokio::spawn(api::serve(listener, router, stop.clone()));
        Ok(Self { stop, server })
    }

    /// Ends it, once the requests under way have ended (or after a few seconds).
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the control API ended badly");
        }
    }
}

/// Why a process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data plane.
    #[error(transparent)]
    Proxy(#[from] AppError),
    /// The control API.
    #[error(transparent)]
    Control(#[from] BindError),
}

/// Data plane and control in one process.
pub struct Both {
    /// The data plane.
    pub proxy: Proxy,
    control: Control,
}

impl Both {
    /// Starts the data plane, then control.
    pub async fn start(config: Config, create: CreateState) -> Result<Self, StartError> {
        let proxy = Proxy::start(config.clone(), create).await?;
        match Control::start(&config).await {
            Ok(control) => Ok(Self { proxy, control }),
            Err(error) => {
                proxy.stop().await;
                Err(error.into())
            }
        }
    }

    /// Clean stop: the data plane first, control last.
    pub async fn stop(self) {
        self.proxy.stop().await;
        self.control.stop().await;
    }
}

/// SIGTERM and SIGINT, from now on.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to listen for them.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// From now on, the next one ends the process at once.
    pub fn next_ends_the_process(mut self) {
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("second signal: ending at once");
            std::process::exit(1);
        });
    }
}
