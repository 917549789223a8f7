//! Starts and stops the parts of a process: the data plane, control, or both.
//!
//! Invariants
//! - Also in one process, control reaches the data plane only through `proxy.sock`.
//! - The first signal stops cleanly, data plane first, so that control can still tell how it goes;
//!   the second ends the process at once.
//!
//! Not here: what the data plane does when it stops (`proxy::app`).

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use proxy::app::{AppError, CreateState, MoreMetrics, Proxy};
use proxy::config::Config;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, BindError};
use crate::config::{self, ConfigError};
use crate::fleet::Fleet;
use crate::policy::snapshot::Snapshots;
use crate::store::{Store, StoreError};
use crate::watch::{Handle, Watch, WatchError};

/// The control plane of a process, serving `lockgate.sock`.
#[derive(Debug)]
pub struct Control {
    stop: CancellationToken,
    server: JoinHandle<()>,
    watch: Watch,
}

/// Why control cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Its socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its part of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What it keeps.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its books, its logs or its key.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

impl Control {
    /// Binds the socket and starts serving it; `path` is that of the configuration, for messages.
    pub async fn start(config: &Config, path: Option<&Path>) -> Result<Self, ControlError> {
        let own = config::Config::of(config, path)?;
        // First the socket: who holds it holds the books too.
        let listener = api::bind(&config.control_socket(), api::SOCKET_MODE).await?;
        let address = own.drain.metrics_listen.clone();
        let metrics = match address.as_str() {
            "" => None,
            address => match TcpListener::bind(address).await {
                Ok(listener) => Some(listener),
                // No reason to stop mail.
                Err(error) => {
                    tracing::error!(address, %error, "no metrics of control: [drain] metrics_listen");
                    None
                }
            },
        };
        api::sweep_imports(&config.data);
        let store = Arc::new(Store::open(&config.data)?);
        let watch = Watch::start(own, Arc::clone(&store), config.proxy_socket())?;
        let fleet = Fleet::new(config.proxy_socket());
        let router =
            api::router_with(fleet, watch.handle(), config.data.clone(), Snapshots::new(store));
        let stop = CancellationToken::new();
        let server = tokio::spawn(api::serve(listener, router, stop.clone()));
        if let Some(listener) = metrics {
            let (router, stop) = (api::metrics(watch.handle()), stop.clone());
            tokio::spawn(async move {
                let served = axum::serve(listener, router)
                    .with_graceful_shutdown(async move { stop.cancelled().await });
                if let Err(error) = served.await {
                    tracing::error!(%error, "the metrics of control ended");
                }
            });
        }
        Ok(Self { stop, server, watch })
    }

    /// Ends it, once the requests under way have ended (or after a few seconds).
    pub async fn stop(self) {
        self.watch.stop().await;
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
    Control(#[from] ControlError),
}

/// Data plane and control in one process.
pub struct Both {
    /// The data plane.
    pub proxy: Proxy,
    control: Control,
}

impl Both {
    /// Starts the data plane, then control.
    pub async fn start(
        config: Config,
        create: CreateState,
        path: Option<&Path>,
    ) -> Result<Self, StartError> {
        // A mistake in control's part is said before mail depends on it.
        config::Config::of(&config, path).map_err(ControlError::from)?;
        // Control comes later; until then the page is that of the data plane alone.
        let watch: Arc<OnceLock<Handle>> = Arc::default();
        let asked = Arc::clone(&watch);
        let more: MoreMetrics = Arc::new(move || {
            let handle = asked.get().cloned();
            Box::pin(async move { handle?.metrics().await })
        });
        let proxy = Proxy::start_with(config.clone(), create, Some(more)).await?;
        match Control::start(&config, path).await {
            Ok(control) => {
                watch.set(control.watch.handle()).ok();
                Ok(Self { proxy, control })
            }
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
