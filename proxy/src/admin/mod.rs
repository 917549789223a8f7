//! The admin socket: HTTP with JSON on a Unix socket, and the metrics page on TCP.
//!
//! Each route turns a wire type into one call and its result into a wire type.
//!
//! Invariants
//! - Requests, connections, bodies and waits are bounded. Waits and streams have a budget of their
//!   own: a list that nobody reads cannot keep an order out.
//! - What changes anything is carried out to its end, also when the caller hangs up.
//! - An order's fence comes down though nobody waits for it.
//!
//! Not here: the wire types (`api`), what an order or a release means (`gate`, `replay`), the API for
//! people and scripts (`control`).
//!
//! Reading order: this file, `gates`, `replay`, `probes`, `held`, `repeats`, `health` (one resource each), `wire`
//! (conversions), `problem` (errors), `socket`, `growth`.

mod gates;
mod growth;
mod health;
mod held;
mod journal;
mod probes;
mod problem;
mod repeats;
mod replay;
mod socket;
mod wire;

#[cfg(test)]
mod tests;

use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Query, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts as RequestParts;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{PROBE_REQUEST_OCTETS_MAX, path};
use crate::gate::Gates;
use crate::journal::Journal;
use crate::metrics::{GateMetrics, Metrics};
use crate::replay::Replayer;
use crate::spool::{Count, Spool, SpoolId, Totals};
use crate::token::Tokens;
use crate::transaction::Corridor;

use growth::Growth;
use problem::Failure;
use socket::{Bounded, Patience};

pub use socket::SocketError;

/// Octets of a request's body at most.
const BODY_MAX: usize = 1 << 20;

/// Requests at once that are answered from memory or by one write.
const BRIEF_MAX: usize = 32;

/// Requests at once that wait, stream, or work through many messages.
const LONG_MAX: usize = 32;

/// Connections at once; more wait in the kernel.
const CONNECTIONS_MAX: usize = 256;

/// Connections at once on the metrics page.
const SCRAPERS_MAX: usize = 32;

/// Deadline of a brief request, and of reading any request's body.
const BRIEF: Duration = Duration::from_secs(30);

/// How long a reader of a stream may stand still (a person looks through a list).
const READER_STALL: Duration = Duration::from_secs(600);

/// How long a scraper may stand still.
const SCRAPER_STALL: Duration = Duration::from_secs(60);

/// How often the growth of the spool is looked at.
const TICK: Duration = Duration::from_secs(10);

/// At a stop, how long requests under way may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// One gate with what belongs to it.
pub struct Door {
    /// The gate, its relay and its spool.
    pub corridor: Arc<Corridor>,
    /// Its replayer.
    pub replayer: Arc<Replayer>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its counts.
    pub metrics: Arc<GateMetrics>,
    /// From an order to the abort of older transactions before their final dot.
    pub fence: Duration,
}

/// What the admin socket shows and moves.
pub struct Parts {
    /// Every gate with its orders.
    pub gates: Arc<Gates>,
    /// Every gate, in the order of the configuration.
    pub doors: Vec<Door>,
    /// Held mail.
    pub spool: Spool,
    /// What was handed over.
    pub journal: Journal,
    /// Tokens of probes, and what came back with them.
    pub tokens: Arc<Tokens>,
    /// The metrics that are counted as things happen.
    pub metrics: Metrics,
    /// When the process started.
    pub started_unix_ms: u64,
    /// Name of this host.
    pub host: Arc<str>,
    /// The state directory.
    pub data: PathBuf,
    /// The Unix socket to be made.
    pub socket: PathBuf,
    /// Where the metrics page listens, if anywhere.
    pub listen: Option<SocketAddr>,
    /// What control adds to the page, where it runs in this process.
    pub more: Option<MoreMetrics>,
}

/// Asks for metrics that others count, in the exposition format; none while nobody can say.
pub type MoreMetrics =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync>;

/// Why the admin server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The Unix socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The metrics page.
    #[error("the metrics page cannot listen on {address}; set [metrics] listen to a free address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// The admin server: the admin socket and the metrics page.
pub struct Admin {
    desk: Desk,
    metrics_address: Option<SocketAddr>,
    servers: Vec<JoinHandle<()>>,
}

/// What every request finds: the parts, and what the server itself remembers.
#[derive(Clone)]
struct Desk {
    parts: Arc<Parts>,
    shared: Arc<Shared>,
}

struct Shared {
    growth: Mutex<Growth>,
    /// Reports that nobody takes, as counted at some moment.
    reports_kept: Mutex<Option<(Instant, u64)>>,
    /// What is read when somebody scrapes.
    readings: Registry,
    brief: Semaphore,
    long: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Every listener accepts.
    serving: AtomicBool,
    stop: CancellationToken,
}

/// A place in the budget of long requests; a stream takes it along.
#[derive(Clone)]
struct Slot {
    _place: Arc<OwnedSemaphorePermit>,
}

impl Admin {
    /// Opens the Unix socket and, where one is asked for, the metrics page, and serves both.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn start(parts: Parts) -> Result<Self, AdminError> {
        let socket = socket::bind(&parts.socket).await?;
        let page = match parts.listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let metrics_address = page.as_ref().and_then(|page| page.local_addr().ok());
        let desk = Desk::new(parts);
        let mut servers = vec![tokio::spawn(desk.clone().serve(socket))];
        if let Some(page) = page {
            servers.push(tokio::spawn(desk.clone().serve_metrics(page)));
        }
        Ok(Self { desk, metrics_address, servers })
    }

    /// Where the metrics page listens.
    #[must_use]
    pub const fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// lockgate stops: from now on it says that it is not ready.
    pub fn closing(&self) {
        self.desk.shared.serving.store(false, Ordering::Release);
    }

    /// Ends both listeners; requests under way get a little time.
    pub async fn stop(self) {
        self.closing();
        self.desk.shared.stop.cancel();
        for server in self.servers {
            if let Err(error) = server.await {
                tracing::error!(%error, "admin: a listener broke off");
            }
        }
        let tasks = &self.desk.shared.tasks;
        tasks.close();
        if timeout(FAREWELL, tasks.wait()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "admin: work under way at the stop was left");
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError::Listen { address, source })
}

impl Desk {
    fn new(parts: Parts) -> Self {
        let parts = Arc::new(parts);
        let shared = Shared {
            growth: Mutex::new(Growth::default()),
            reports_kept: Mutex::new(None),
            readings: health::readings(&parts),
            brief: Semaphore::new(BRIEF_MAX),
            long: Arc::new(Semaphore::new(LONG_MAX)),
            tasks: TaskTracker::new(),
            serving: AtomicBool::new(true),
            stop: CancellationToken::new(),
        };
        Self { parts, shared: Arc::new(shared) }
    }

    /// Serves the admin socket until the stop, and requests under way a little longer.
    async fn serve(self, listener: UnixListener) {
        let patience = Patience { read: None, write: READER_STALL };
        let bounded = Bounded::new(listener, CONNECTIONS_MAX, patience);
        tokio::select! {
            () = self.run(bounded, self.router()) => {}
            () = self.watch_growth() => {}
        }
    }

    /// Serves `/metrics`, `/healthz` and `/readyz` until the stop.
    async fn serve_metrics(self, listener: TcpListener) {
        let patience = Patience { read: Some(SCRAPER_STALL), write: SCRAPER_STALL };
        let router = health::router().with_state(self.clone());
        self.run(Bounded::new(listener, SCRAPERS_MAX, patience), router).await;
    }

    async fn run<L>(&self, listener: Bounded<L>, router: Router)
    where
        L: Listener,
        L::Addr: std::fmt::Debug,
    {
        let stop = &self.shared.stop;
        let server =
            axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let end = async {
            stop.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            ended = server.into_future() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "admin: the listener ended");
                }
            }
            () = end => tracing::warn!("admin: requests under way at the stop were left"),
        }
    }

    async fn watch_growth(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.note_growth();
        }
    }

    fn note_growth(&self) {
        let bytes = self.parts.held().bytes;
        lock(&self.shared.growth).note(Instant::now(), bytes);
    }

    fn router(&self) -> Router {
        let brief = Router::new()
            .route(path::STATUS, get(gates::status))
            .route(path::GATES, get(gates::gates))
            .route(path::ORDERS, get(gates::orders).post(gates::place))
            .route(path::ORDER_END, post(gates::end))
            .route(path::RELEASE, post(replay::release))
            .route(path::REPLAY, post(replay::control))
            .route(path::HELD_ONE, get(held::one))
            .route(path::REPEATS, get(repeats::waiting))
            .route(path::REPEATS_TAKEN, post(repeats::taken))
            .route(path::DAMAGE_ACKNOWLEDGE, post(held::acknowledge_damage))
            .layer(middleware::from_fn_with_state(self.clone(), brief));
        let long = Router::new()
            .route(path::QUIET, get(gates::quiet))
            .route(path::PROBE_COPIES, get(probes::copies))
            .route(
                path::PROBE,
                post(probes::probe).layer(DefaultBodyLimit::max(PROBE_REQUEST_OCTETS_MAX)),
            )
            .route(path::HELD, get(held::list))
            .route(path::JOURNAL, get(journal::list))
            .route(path::HELD_CHANGE, post(held::change))
            .route(path::HELD_RAW, get(held::raw))
            .layer(middleware::from_fn_with_state(self.clone(), long));
        brief
            .merge(long)
            .fallback(|| async { Failure::unknown("no such path on the admin socket") })
            .method_not_allowed_fallback(|| async {
                Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this path has another method")
            })
            .layer(DefaultBodyLimit::max(BODY_MAX))
            .with_state(self.clone())
    }

    /// The door of a gate.
    fn door(&self, gate: &str) -> Result<&Door, Failure> {
        // The gates know best how to say that there is none.
        self.parts.gates.named(gate)?;
        self.parts.door(gate).ok_or_else(|| Failure::unknown(format!("no gate is named {gate:?}")))
    }

    /// Does work to its end, whether or not the caller waits for it.
    async fn carry_out<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.shared.tasks.spawn(work).await?
    }

    /// From now to the stop, beside all requests.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.shared.stop.clone();
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }
}

impl Parts {
    /// The door of this gate.
    /// Is an attempt at this message under way?
    fn is_trying(&self, gate: &str, id: SpoolId) -> bool {
        self.door(gate).is_some_and(|door| door.replayer.is_trying(id))
    }

    fn door(&self, gate: &str) -> Option<&Door> {
        self.doors.iter().find(|door| door.corridor.gate.name() == gate)
    }

    /// All held mail.
    fn held(&self) -> Count {
        let totals = self.spool.totals();
        totals.iter().map(Totals::all).fold(Count::default(), |sum, count| Count {
            messages: sum.messages + count.messages,
            bytes: sum.bytes + count.bytes,
        })
    }
}

/// Bounds the number and the time of brief requests.
async fn brief(State(desk): State<Desk>, request: Request, next: Next) -> Response {
    let answer = async {
        let place = desk.shared.brief.acquire().await;
        let response = next.run(request).await;
        drop(place);
        response
    };
    timeout(BRIEF, answer).await.unwrap_or_else(|_| {
        Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            "it takes too long; what was asked for may still be done: look at the status",
        )
        .into_response()
    })
}

/// Bounds the number of long requests; each bounds its own time.
async fn long(State(desk): State<Desk>, mut request: Request, next: Next) -> Response {
    let Ok(place) = Arc::clone(&desk.shared.long).try_acquire_owned() else {
        return Failure::unavailable("too many lists and waits at once: try again").into_response();
    };
    let slot = Slot { _place: Arc::new(place) };
    request.extensions_mut().insert(slot.clone());
    let response = next.run(request).await;
    drop(slot);
    response
}

/// A body in JSON.
struct Input<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let read = timeout(BRIEF, Bytes::from_request(request, state)).await.map_err(|_| {
            Failure::new(StatusCode::REQUEST_TIMEOUT, "the body of the request did not come")
        })?;
        let body = read.map_err(|error| Failure::new(error.status(), error.body_text()))?;
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|error| Failure::bad(format!("the body is not what this path takes: {error}")))
    }
}

/// The query of a path.
struct Asked<T>(T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut RequestParts, _: &S) -> Result<Self, Failure> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(asked)| Self(asked))
            .map_err(|error| Failure::bad(error.body_text()))
    }
}

/// State behind these locks is changed in single assignments: a panic elsewhere leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
