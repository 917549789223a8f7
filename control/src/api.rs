//! The HTTP API on `lockgate.sock`: `/api/v1/…`, for the command line and for scripts.
//!
//! Bodies are those of [`proxy::api`], paths are its paths under `/api`: such a request is handed on to the one proxy. What
//! control itself knows (drains, logs, certificates) has routes and bodies of its own ([`crate::watch::wire`]).
//!
//! Invariants
//! - Everything is bounded: connections, requests under way, octets of a request, time to a head.
//! - A socket file is replaced only when nobody answers on it.
//! - Every error is a [`Problem`]: what is wrong, where, and the mend.
//!
//! Not here: what the requests do (`proxy`), who sends them (`cli`).

mod policies;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path as InPath, Query, Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, Router, get, on, post};
use disk::{Disk, RealDisk};
use http_body_util::{BodyExt, Limited};
use hyper::body::Body as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy::api::{PROBE_REQUEST_OCTETS_MAX, Problem, path};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::client::{CHANGE_DEADLINE, ClientError, DEADLINE, PROBE_DEADLINE};
use crate::fleet::Fleet;
use crate::policy::snapshot::Snapshots;
use crate::probes;
use crate::render::octets;
use crate::watch::wire::{Attestation, DrainEnd, DrainRequest, Waiver, path as own};
use crate::watch::{Handle, Refusal};

/// Mode of the socket file: its owner, and those whom the owner's group lets in.
pub const SOCKET_MODE: u32 = 0o660;
/// Most octets of a request, as in the proxy: a change of some 60,000 held messages by id.
const REQUEST_OCTETS_MAX: u64 = 1 << 20;
/// Most requests under way.
const REQUESTS_MAX: usize = 64;
/// Most connections.
const CONNECTIONS_MAX: usize = 256;
/// Longest wait for one of [`REQUESTS_MAX`].
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for the head of a request on an open connection.
const HEAD_WAIT: Duration = Duration::from_secs(30);
/// Longest wait at the end for requests under way.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// The proxy ends a wait for quiet by itself well before this.
const QUIET_DEADLINE: Duration = Duration::from_secs(660);
/// How the name of a file begins that is being handed in.
const IMPORT_PREFIX: &str = "import-";
/// Room that a file which is handed in leaves on the volume: twice the default of `[spool] free_bytes_min`.
const IMPORT_FREE_MIN: u64 = 2 << 30;
/// After so many octets the room is looked at again.
const FREE_LOOK_OCTETS: u64 = 64 << 20;
/// Longest path of a Unix socket, without the final zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// What may be asked, and how: paths of the proxy, handed on under `/api`.
const ROUTES: [(&str, MethodFilter); 15] = [
    (path::STATUS, MethodFilter::GET),
    (path::GATES, MethodFilter::GET),
    (path::ORDERS, MethodFilter::GET.or(MethodFilter::POST)),
    (path::ORDER_END, MethodFilter::POST),
    (path::RELEASE, MethodFilter::POST),
    (path::QUIET, MethodFilter::GET),
    (path::REPLAY, MethodFilter::POST),
    (path::PROBE, MethodFilter::POST),
    (path::PROBE_COPIES, MethodFilter::GET),
    (path::HELD, MethodFilter::GET),
    (path::HELD_CHANGE, MethodFilter::POST),
    (path::HELD_ONE, MethodFilter::GET),
    (path::HELD_RAW, MethodFilter::GET),
    (path::JOURNAL, MethodFilter::GET),
    (path::DAMAGE_ACKNOWLEDGE, MethodFilter::POST),
];

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another lockgate already answers at {}: stop it, or use another --data", socket.display())]
    InUse {
        /// The socket.
        socket: PathBuf,
    },
    /// The path does not fit into an address.
    #[error(
        "{} is too long for a socket (at most {SOCKET_PATH_MAX} octets): use a shorter --data",
        socket.display()
    )]
    TooLong {
        /// The socket.
        socket: PathBuf,
    },
    /// There is a file that is no socket.
    #[error("{} exists and is not a socket: move it away", socket.display())]
    NotASocket {
        /// The path.
        socket: PathBuf,
    },
    /// The system refuses.
    #[error("cannot listen on {}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Listens on a Unix socket; a file left behind by a process that is gone is replaced.
pub async fn bind(socket: &Path, mode: u32) -> Result<UnixListener, BindError> {
    let failed = |source| BindError::Io { socket: socket.to_owned(), source };
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(BindError::TooLong { socket: socket.to_owned() });
    }
    match std::fs::symlink_metadata(socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            return Err(BindError::NotASocket { socket: socket.to_owned() });
        }
        Ok(_) => match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let folder = socket.parent().unwrap_or_else(|| Path::new("."));
                let name = socket.file_name().unwrap_or_default();
                RealDisk::new(folder).remove(Path::new(name)).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
            Ok(_) => {
                return Err(BindError::InUse { socket: socket.to_owned() });
            }
        },
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    // The data folder is closed to others, so nobody slips in before the mode is set.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// The routes of the API.
pub fn router(fleet: Fleet) -> Router {
    let desk = Desk { fleet, watch: None, requests: Arc::new(Semaphore::new(REQUESTS_MAX)) };
    routes(desk, Router::new())
}

/// The routes of the API, with those of what control itself knows; imports are received in `folder`.
pub fn router_with(fleet: Fleet, watch: Handle, folder: PathBuf, snapshots: Snapshots) -> Router {
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let desk = Desk { fleet, watch: Some((watch, folder)), requests };
    routes(desk, policies::router(snapshots))
}

/// The metrics of control, for Prometheus.
pub fn metrics(watch: Handle) -> Router {
    let show = move || {
        let watch = watch.clone();
        async move {
            let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            match watch.metrics().await {
                Some(text) => ([(header::CONTENT_TYPE, form)], text).into_response(),
                None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            }
        }
    };
    Router::new().route("/metrics", get(show))
}

fn routes(desk: Desk, mut router: Router<Desk>) -> Router {
    if desk.watch.is_some() {
        let at = |path: &str| format!("/api{path}");
        router = router
            .route(&at(own::DRAINS), get(drains).post(drain))
            .route(&at(own::DRAIN_END), post(drain_end))
            .route(&at(own::ATTEST), post(attest))
            .route(&at(own::WAIVE), post(waive))
            .route(&at(own::LOGS), get(logs))
            .route(&at(own::IMPORT), post(import))
            .route(&at(own::CERTIFICATES), get(certificates))
            .route(&at(own::CERTIFICATE), get(certificate));
    }
    router = router.route(&format!("/api{}", probes::path::SEEN), get(probes_seen));
    for (path, methods) in ROUTES {
        let route: MethodRouter<Desk> = on(methods, hand_on);
        router = router.route(&format!("/api{path}"), route);
    }
    router
        .fallback(|uri: Uri| async move {
            problem(StatusCode::NOT_FOUND, format!("there is no `{}` here", uri.path()))
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let (method, path) = (request.method(), request.uri().path());
            problem(StatusCode::METHOD_NOT_ALLOWED, format!("`{path}` does not know {method}"))
        })
        .with_state(desk)
}

#[derive(Clone)]
struct Desk {
    fleet: Fleet,
    watch: Option<(Handle, PathBuf)>,
    requests: Arc<Semaphore>,
}

impl Desk {
    /// The routes that ask for it are there only with it.
    fn watch(&self) -> Option<&Handle> {
        self.watch.as_ref().map(|(watch, _)| watch)
    }

    /// A place among the requests under way; none: there was none for too long.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let waiting = timeout(BUSY_WAIT, Arc::clone(&self.requests).acquire_owned());
        waiting.await.ok()?.ok()
    }
}

fn busy() -> Response {
    let error = format!("{REQUESTS_MAX} requests are under way: try again");
    problem(StatusCode::SERVICE_UNAVAILABLE, error)
}

fn absent() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "control does not watch".into())
}

fn refused(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Unknown(error) => problem(StatusCode::NOT_FOUND, error.clone()),
        Refusal::Bad(error) => problem(StatusCode::BAD_REQUEST, error.clone()),
        Refusal::Failed(error) => problem(StatusCode::BAD_GATEWAY, error.clone()),
    }
}

fn answer<T: Serialize>(result: Result<T, Refusal>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

async fn drains(State(desk): State<Desk>) -> Response {
    let Some(watch) = desk.watch() else { return absent() };
    answer(watch.reports().await)
}

async fn drain(State(desk): State<Desk>, Json(request): Json<DrainRequest>) -> Response {
    let Some(watch) = desk.watch() else { return absent() };
    answer(watch.begin(request).await)
}

async fn drain_end(State(desk): State<Desk>, Json(request): Json<DrainEnd>) -> Response {
    let Some(watch) = desk.watch() else { return absent() };
    answer(watch.end(request).await)
}

async fn attest(State(desk): State<Desk>, Json(word): Json<Attestation>) -> Response {
    let Some(watch) = desk.watch() else { return absent() };
    answer(watch.attest(word).await)
}

async fn waive(State(desk): State<Desk>, Json(waiver): Json<Waiver>) -> Response {
    let Some(watch) = desk.watch() else { return absent() };
    answer(watch.waive(waiver).await)
}

async fn logs(State(desk): State<Desk>) -> Response {
    let Some(watch) = desk.watch() else { return absent() };
    answer(watch.logs().await)
}

async fn certificates(State(desk): State<Desk>) -> Response {
    let Some(watch) = desk.watch() else { return absent() };
    answer(watch.certificates().await)
}

async fn certificate(State(desk): State<Desk>, InPath(number): InPath<String>) -> Response {
    let Some(watch) = desk.watch() else { return absent() };
    answer(watch.certificate(number).await)
}

/// What is known of a file that is handed in.
#[derive(Deserialize)]
struct Handed {
    name: String,
    #[serde(default)]
    around_unix_ms: Option<i64>,
}

/// Files that broke off on the way in an earlier life.
pub fn sweep_imports(folder: &Path) {
    let disk = RealDisk::new(folder);
    let names = disk.list(Path::new("")).unwrap_or_default();
    for name in names.iter().filter(|name| name.starts_with(IMPORT_PREFIX)) {
        if let Err(error) = disk.remove(Path::new(name)) {
            tracing::warn!(name, %error, "what is left of an import cannot be removed");
        }
    }
}

/// A file is received whole before it is read: what breaks off on the way changes nothing.
async fn import(
    State(desk): State<Desk>,
    InPath(log): InPath<String>,
    Query(handed): Query<Handed>,
    request: Request,
) -> Response {
    let Some((watch, folder)) = &desk.watch else {
        return absent();
    };
    let received = match receive(request.into_body(), folder).await {
        Ok(received) => received,
        Err(error) => {
            let error = format!("the file could not be received in {}: {error}", folder.display());
            return problem(StatusCode::INSUFFICIENT_STORAGE, error);
        }
    };
    let around = handed.around_unix_ms.unwrap_or_else(|| jiff::Timestamp::now().as_millisecond());
    answer(watch.import(log, received.into_temp_path(), handed.name, around).await)
}

async fn receive(body: Body, folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let file = tempfile::Builder::new().prefix(IMPORT_PREFIX).tempfile_in(folder)?;
    let mut writer = tokio::fs::File::from_std(file.reopen()?);
    let (mut body, mut octets, mut looked) = (body, 0_u64, 0_u64);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(io::Error::other)?;
        let Ok(data) = frame.into_data() else { continue };
        octets += data.len() as u64;
        // The spool may be on this volume: held mail goes before logs.
        if octets >= looked {
            looked = octets + FREE_LOOK_OCTETS;
            let free = RealDisk::new(folder).free_bytes(Path::new(""))?;
            if free < IMPORT_FREE_MIN + FREE_LOOK_OCTETS {
                return Err(io::Error::other(
                    "the volume has too little room: hand in smaller files",
                ));
            }
        }
        writer.write_all(&data).await?;
    }
    writer.flush().await?;
    Ok(file)
}

/// What came back of probes.
async fn probes_seen(State(desk): State<Desk>, Query(wanted): Query<probes::Wanted>) -> Response {
    let Some(_permit) = desk.place().await else { return busy() };
    match probes::gather(&desk.fleet.client(), wanted).await {
        Ok(answer) => Json(answer).into_response(),
        Err(ClientError::Refused { status, error }) => problem(status, error),
        Err(error) => from_client(&error),
    }
}

/// Hands a request on to the proxy and its answer back.
async fn hand_on(State(desk): State<Desk>, request: Request) -> Response {
    let Some(permit) = desk.place().await else { return busy() };
    let request = match translate(request) {
        Ok(request) => request,
        Err((status, error)) => return problem(status, error),
    };
    let deadline = deadline(request.uri().path());
    match desk.fleet.forward(request, deadline).await {
        Ok(answer) => {
            let (mut head, body) = answer.into_parts();
            // Hop by hop (RFC 9110 §7.6.1); the server writes its own.
            for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
                head.headers.remove(name);
            }
            // The request is under way until its answer has gone out.
            let body = body.map_frame(move |frame| {
                let _counted = &permit;
                frame
            });
            Response::from_parts(head, Body::new(body))
        }
        Err(error) => from_client(&error),
    }
}

/// The proxy's form of a request: without `/api`, with a bounded body.
fn translate(request: Request) -> Result<Request, (StatusCode, String)> {
    let (head, body) = request.into_parts();
    let octets_max = request_octets_max(head.uri.path());
    if body.size_hint().lower() > octets_max {
        let error = format!("a request has at most {}: split it", octets(octets_max));
        return Err((StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let target = target.strip_prefix("/api").unwrap_or(target);
    let octets_max = usize::try_from(octets_max).unwrap_or(usize::MAX);
    let mut forwarded = Request::builder().method(head.method).uri(target);
    forwarded = forwarded.header(header::HOST, "proxy");
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::ACCEPT] {
        if let Some(value) = head.headers.get(&name) {
            forwarded = forwarded.header(name, value);
        }
    }
    forwarded
        .body(Body::new(Limited::new(body, octets_max)))
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

/// A probe may bring a message.
fn request_octets_max(path: &str) -> u64 {
    match path.rsplit('/').next() {
        Some("probe") => PROBE_REQUEST_OCTETS_MAX as u64,
        _ => REQUEST_OCTETS_MAX,
    }
}

fn deadline(path: &str) -> Duration {
    match path.rsplit('/').next() {
        Some("probe") => PROBE_DEADLINE,
        Some("change") => CHANGE_DEADLINE,
        Some("quiet") => QUIET_DEADLINE,
        _ => DEADLINE,
    }
}

fn from_client(error: &ClientError) -> Response {
    let text = match error {
        ClientError::Absent { socket, .. } => format!(
            "the proxy does not answer at {}: start `lockgate proxy` (or `lockgate serve`)",
            socket.display()
        ),
        other => other.to_string(),
    };
    let status = match error {
        ClientError::Absent { .. }
        | ClientError::Forbidden { .. }
        | ClientError::TooLong { .. } => StatusCode::SERVICE_UNAVAILABLE,
        ClientError::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    tracing::warn!(error = %text, "request not handed on");
    problem(status, text)
}

fn problem(status: StatusCode, error: String) -> Response {
    (status, Json(Problem { error })).into_response()
}

/// Serves the routes until `stop`; then requests under way end, for a few seconds at most.
pub async fn serve(listener: UnixListener, router: Router, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let accepted = async {
            // Never closed, so a permit always comes.
            let permit = Arc::clone(&connections).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            () = stop.cancelled() => break,
            (permit, accepted) = accepted => match accepted {
                Ok((stream, _)) => (permit, stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the control socket");
                    // Out of descriptors: let some close.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (router, stop) = (router.clone(), stop.clone());
        tasks.spawn(async move {
            connection(stream, router, stop).await;
            drop(permit);
        });
    }
    tasks.close();
    if timeout(STOP_WAIT, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "control connections still open at the end");
    }
}

async fn connection(stream: UnixStream, router: Router, stop: CancellationToken) {
    let service = service_fn(move |request| router.clone().call(request));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "control connection ended");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use axum::routing::{get, post};

    use super::*;
    use crate::client::{Client, fill};

    /// A control API in front of this proxy.
    struct Stage {
        folder: tempfile::TempDir,
        stop: CancellationToken,
    }

    impl Stage {
        async fn new(proxy: Option<Router>) -> Self {
            let stage =
                Self { folder: tempfile::tempdir().unwrap(), stop: CancellationToken::new() };
            if let Some(proxy) = proxy {
                let listener = UnixListener::bind(stage.path("proxy.sock")).unwrap();
                tokio::spawn(serve(listener, proxy, stage.stop.clone()));
            }
            let listener = bind(&stage.path("lockgate.sock"), SOCKET_MODE).await.unwrap();
            let router = router(Fleet::new(stage.path("proxy.sock")));
            tokio::spawn(serve(listener, router, stage.stop.clone()));
            stage
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn client(&self) -> Client {
            Client::new(self.path("lockgate.sock"))
        }
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    #[tokio::test]
    async fn requests_reach_the_proxy_with_query_and_body() {
        let proxy = Router::new()
            .route("/v1/gates", get(|uri: Uri| async move { Json(uri.to_string()) }))
            .route(
                path::RELEASE,
                post(|uri: Uri, body: String| async move { Json(format!("{uri} {body}")) }),
            );
        let stage = Stage::new(Some(proxy)).await;
        let client = stage.client();
        let echoed: String = client.get("/v1/gates?a=b%20c", DEADLINE).await.unwrap();
        assert_eq!(echoed, "/v1/gates?a=b%20c");
        let target = fill(path::RELEASE, "gate", "out/bound");
        let echoed: String = client.post(&target, &7, DEADLINE).await.unwrap();
        assert_eq!(echoed, "/v1/gates/out%2Fbound/release 7");
    }

    #[tokio::test]
    async fn a_refusal_of_the_proxy_keeps_its_status_and_words() {
        let proxy = Router::new().route(
            "/v1/gates",
            get(|| async { problem(StatusCode::CONFLICT, "two gates".into()) }),
        );
        let stage = Stage::new(Some(proxy)).await;
        match stage.client().get::<u32>("/v1/gates", DEADLINE).await.unwrap_err() {
            ClientError::Refused { status, error } => {
                assert_eq!((status, error.as_str()), (StatusCode::CONFLICT, "two gates"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn without_a_proxy_the_answer_says_what_to_start() {
        let stage = Stage::new(None).await;
        match stage.client().get::<u32>("/v1/status", DEADLINE).await.unwrap_err() {
            ClientError::Refused { status, error } => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
                assert!(error.contains("start `lockgate proxy`"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_problems_too() {
        let stage = Stage::new(None).await;
        let error = stage.client().get::<u32>("/v1/nothing", DEADLINE).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no `/api/v1/nothing` here");
        let error = stage.client().post::<_, u32>("/v1/status", &1, DEADLINE).await.unwrap_err();
        assert_eq!(error.to_string(), "`/api/v1/status` does not know POST");
    }

    #[tokio::test]
    async fn a_request_that_is_too_big_is_refused_before_the_proxy_sees_it() {
        let proxy = Router::new().route(path::HELD_CHANGE, post(|| async { Json(1) }));
        let stage = Stage::new(Some(proxy)).await;
        let ids = vec!["0123456789ABC"; 100_000];
        match stage.client().post::<_, u32>(path::HELD_CHANGE, &ids, DEADLINE).await {
            Err(ClientError::Refused { status, .. }) => {
                assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
            }
            // The refusal may come before the request is written.
            Err(ClientError::Broken { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_probe_may_bring_the_largest_message() {
        let target = path::PROBE;
        let echo = post(|body: axum::body::Bytes| async move { Json(body.len()) });
        let proxy = Router::new()
            .route(target, echo)
            .layer(axum::extract::DefaultBodyLimit::max(PROBE_REQUEST_OCTETS_MAX));
        let stage = Stage::new(Some(proxy)).await;
        let message = proxy::api::Octets(vec![b'x'; proxy::api::PROBE_OCTETS_MAX]);
        let to = "b@example.com".to_owned();
        let request =
            proxy::api::ProbeRequest { to, from: None, member: None, message: Some(message) };
        let target = fill(target, "gate", "outbound");
        let octets: usize = stage.client().post(&target, &request, DEADLINE).await.unwrap();
        assert!(octets > proxy::api::PROBE_OCTETS_MAX && octets <= PROBE_REQUEST_OCTETS_MAX);
    }

    #[tokio::test]
    async fn a_living_socket_is_not_stolen_and_a_dead_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("lockgate.sock");
        let listener = bind(&socket, SOCKET_MODE).await.unwrap();
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        assert!(matches!(bind(&socket, SOCKET_MODE).await, Err(BindError::InUse { .. })));
        drop(listener);
        bind(&socket, SOCKET_MODE).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("lockgate.sock");
        std::fs::write(&socket, "notes").unwrap();
        assert!(matches!(bind(&socket, SOCKET_MODE).await, Err(BindError::NotASocket { .. })));
        assert_eq!(std::fs::read(&socket).unwrap(), b"notes");
        let long = folder.path().join("x".repeat(120));
        assert!(matches!(bind(&long, SOCKET_MODE).await, Err(BindError::TooLong { .. })));
    }

    #[tokio::test]
    async fn stopping_ends_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("lockgate.sock");
        let listener = bind(&socket, SOCKET_MODE).await.unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Router::new(), stop.clone()));
        let idle = UnixStream::connect(&socket).await.unwrap();
        stop.cancel();
        timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
        drop(idle);
    }
}
