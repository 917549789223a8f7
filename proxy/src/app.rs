//! Builds the parts in dependency order, probes the state directory, spawns the tasks, and owns the
//! order of stopping.
//!
//! Invariants
//! - A state directory that was never initialised is made only where the caller says so.
//! - A key is never made where segments exist.
//! - Stopping loses nothing: forward gates first, then replay, then return gates, then the spool,
//!   the admin socket last.
//!
//! Not here: the command line, log output (`control`).

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use disk::{Disk, RealDisk};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use crate::admin::MoreMetrics;
use crate::admin::{self, Admin, Door};
use crate::clock;
use crate::config::{self, Config, Origin};
use crate::gate::{Effect, Epoch, Gate, Gates, Holder, HolderKind, OrderBook, OrderError, Plan};
use crate::health::{self, Health};
use crate::id::Ids;
use crate::journal::Journal;
use crate::listener::Listener;
use crate::metrics::{Metrics, RelayCounts};
use crate::relay::{HostPort, Memory, NextHop, Relay, Tls, TlsDemand, TlsError, Trust};
use crate::replay::{Replayer, Settings};
use crate::session::{self, Buffers, Service};
use crate::spool::seal::{self, KeyError, KeySource};
use crate::spool::{self, OpenError, Spool};
use crate::token::Tokens;
use crate::transaction::Corridor;
use crate::transaction::repeats::Repeats;
use crate::workers::Workers;

/// Name of the file that says: this state directory was initialised.
const IDENTITY_FILE: &str = "identity";

/// The line in it of a state directory that a configuration file made.
const CONFIGURED: &str = "configured by a file";

/// How long sessions get, after their transactions were aborted at the deadline, to say so.
const FAREWELL: Duration = Duration::from_secs(5);

/// May the state directory be made?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateState {
    /// Yes, if it was never initialised.
    IfMissing,
    /// No: a directory that is empty may be a volume that is not mounted.
    Refuse,
}

/// What `init` found and made.
#[derive(Clone, Debug)]
pub struct InitReport {
    /// The state directory.
    pub data: PathBuf,
    /// Files made now; empty when all was there.
    pub made: Vec<PathBuf>,
}

/// Why the data plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state directory was never initialised.
    #[error("{} was never initialised (is its volume mounted?); `lockgate init` makes it", .0.display())]
    NotInitialised(PathBuf),
    /// The state directory belongs to a configuration file.
    #[error("{} belongs to a configuration file: name it with --config (the embedded default has other members, and would give them held mail)", .0.display())]
    Configured(PathBuf),
    /// A file of the state directory cannot be used.
    #[error("{}: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key of the spool cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key is missing though held mail exists that was sealed with it.
    #[error("{} holds segments but {} does not exist: put the key back; a new one could not open them", spool.display(), key.display())]
    KeyMissing {
        /// The spool.
        spool: PathBuf,
        /// Where the key should be.
        key: PathBuf,
    },
    /// An open order of a gate or member that the configuration does not have.
    #[error(
        "order {id} ({effect}: {reason}) is of {place}, which the configuration does not have: put it back, end the order (`lockgate orders end {id}`), then rename"
    )]
    OrderOfUnknown {
        /// The order.
        id: u64,
        /// What it does.
        effect: &'static str,
        /// Why it was placed.
        reason: String,
        /// Gate, or gate and member.
        place: String,
    },
    /// The spool cannot be opened.
    #[error(transparent)]
    Spool(#[from] OpenError),
    /// TLS towards a member.
    #[error("member {member}: {source}")]
    MemberTls {
        /// The member.
        member: String,
        /// Why.
        source: TlsError,
    },
    /// What we call ourselves cannot stand in EHLO.
    #[error("{0:?} cannot stand in EHLO: set `hostname` or `helo_name` to a host name")]
    HeloName(String),
    /// TLS towards clients.
    #[error("gate {gate}: {source}")]
    ClientTls {
        /// The gate.
        gate: String,
        /// Why.
        source: session::tls::TlsError,
    },
    /// An address cannot be listened on.
    #[error("gate {gate}: cannot listen on {address}: {source}")]
    Listen {
        /// The gate.
        gate: String,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The threads that serve clients.
    #[error("cannot start the threads that serve clients: {0}")]
    Workers(#[source] io::Error),
    /// The admin socket or the metrics page.
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    /// An order could not be placed.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A blocking task broke off.
    #[error("starting broke off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

/// A running data plane.
pub struct Proxy {
    config: Config,
    spool: Spool,
    journal: Journal,
    gates: Vec<RunningGate>,
    housekeeping: TaskTracker,
    stop_housekeeping: CancellationToken,
    admin: Admin,
    workers: Vec<Workers>,
}

struct RunningGate {
    gate: Gate,
    address: SocketAddr,
    relay: Arc<Relay>,
    returns: bool,
    sessions: TaskTracker,
    stop: CancellationToken,
    accepting: Vec<JoinHandle<()>>,
    replaying: JoinHandle<()>,
    stop_replay: CancellationToken,
}

/// A gate that is built and not yet serving.
struct BuiltGate {
    gate: Gate,
    relay: Arc<Relay>,
    health: Arc<Health>,
    replayer: Arc<Replayer>,
    listener: Listener,
    address: SocketAddr,
    returns: bool,
}

/// Makes the state directory with identity file, key and orders; what is there stays.
///
/// # Errors
/// See [`AppError`].
pub fn init(config: &Config) -> Result<InitReport, AppError> {
    let data = &config.data;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| AppError::State { path, source }
    };
    // Mail and its key live below: for the owner alone.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(at(data))?;
    let disk = RealDisk::new(data.clone());
    let mut made = Vec::new();
    disk.make_dir(&config.spool.directory).map_err(at(&config.spool.directory))?;
    let key = data.join(&config.key_file);
    let initialised = disk.exists(Path::new(IDENTITY_FILE)).map_err(at(data))?;
    let source = key_source(config);
    if source.path() == key && !key.exists() {
        let segments = spool::segments_exist(&disk, &config.spool.directory)
            .map_err(at(&config.spool.directory))?;
        if segments {
            return Err(AppError::KeyMissing { spool: data.join(&config.spool.directory), key });
        }
        if let Some(folder) = key.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(at(folder))?;
        }
        seal::generate(&key)?;
        made.push(key);
    }
    if !initialised {
        OrderBook::create(&disk).map_err(at(data))?;
        made.push(data.join(crate::gate::state::FILE));
        Memory::create(Arc::new(disk.clone())).map_err(at(data))?;
        made.push(data.join(crate::relay::next_hop::FILE));
        let text = format!(
            "lockgate state directory, made {}\nversion 1\n{}\n",
            clock::rfc_3339(clock::unix_ms()),
            match config.origin {
                Origin::File => CONFIGURED,
                Origin::Embedded => "configured by the embedded default",
            }
        );
        disk.publish(Path::new(IDENTITY_FILE), text.as_bytes()).map_err(at(data))?;
        made.push(data.join(IDENTITY_FILE));
    }
    Ok(InitReport { data: data.clone(), made })
}

/// Was this state directory initialised?
#[must_use]
pub fn is_initialised(config: &Config) -> bool {
    config.data.join(IDENTITY_FILE).exists()
}

/// Who may use a state directory, by what stands in its identity file: one that a configuration file
/// made is not served by the embedded default, whose members are others.
fn check_origin(config: &Config) -> Result<(), AppError> {
    let path = config.data.join(IDENTITY_FILE);
    let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => AppError::NotInitialised(config.data.clone()),
        _ => AppError::State { path: path.clone(), source },
    })?;
    if config.origin == Origin::Embedded && text.lines().any(|line| line == CONFIGURED) {
        return Err(AppError::Configured(config.data.clone()));
    }
    Ok(())
}

/// Where the key of the spool is read from.
#[must_use]
pub fn key_source(config: &Config) -> KeySource {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    KeySource::find(&config.data.join(&config.key_file), credentials.as_deref())
}

impl Proxy {
    /// Starts everything; when it returns, every gate listens.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn start(config: Config, create: CreateState) -> Result<Self, AppError> {
        Self::start_with(config, create, None).await
    }

    /// The same; `more` is added to the metrics page.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn start_with(
        config: Config,
        create: CreateState,
        more: Option<MoreMetrics>,
    ) -> Result<Self, AppError> {
        if create == CreateState::IfMissing && !is_initialised(&config) {
            init(&config)?;
        }
        check_origin(&config)?;
        let (core, config) =
            tokio::task::spawn_blocking(move || Core::open(&config).map(|core| (core, config)))
                .await??;
        let workers =
            Workers::start("worker", config.session.workers).map_err(AppError::Workers)?;
        let replaying = Workers::start("replay", 1).map_err(AppError::Workers)?;
        let metrics = Metrics::new();
        let mut built = Vec::new();
        let mut doors = Vec::new();
        for gate in &config.gates {
            let (ready, door) = core.build(&config, gate, &metrics)?;
            built.push(ready);
            doors.push(door);
        }
        let admin = Admin::start(admin::Parts {
            gates: Arc::clone(&core.gates),
            doors,
            spool: core.spool.clone(),
            journal: core.journal.clone(),
            tokens: Arc::clone(&core.tokens),
            metrics,
            started_unix_ms: clock::unix_ms(),
            host: Arc::clone(&core.host),
            data: config.data.clone(),
            socket: config.proxy_socket(),
            listen: config.metrics.listen,
            more,
        })
        .await?;
        let housekeeping = TaskTracker::new();
        let stop_housekeeping = CancellationToken::new();
        let gates = built
            .into_iter()
            .map(|gate| {
                let replay = &replaying.handles()[0];
                gate.spawn(workers.handles(), replay, &housekeeping, &stop_housekeeping)
            })
            .collect();
        tracing::info!(data = %config.data.display(), "serving");
        let every = config.journal.flush_interval();
        housekeeping.spawn(keep(core.journal.clone(), every, stop_housekeeping.clone()));
        let (spool, journal) = (core.spool, core.journal);
        let workers = vec![workers, replaying];
        Ok(Self { config, spool, journal, gates, housekeeping, stop_housekeeping, admin, workers })
    }

    /// Where a gate listens.
    #[must_use]
    pub fn gate_address(&self, name: &str) -> Option<SocketAddr> {
        self.gates.iter().find(|gate| gate.gate.name() == name).map(|gate| gate.address)
    }

    /// Where the metrics page listens.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.admin.metrics_address()
    }

    /// Stops cleanly: 421 to idle clients, a deadline for transactions, nothing acknowledged lost.
    pub async fn stop(self) {
        self.admin.closing();
        let deadline = Duration::from_secs(self.config.stop_s);
        let (returns, forwards): (Vec<_>, Vec<_>) =
            self.gates.into_iter().partition(|gate| gate.returns);
        let longest = Duration::from_secs(self.config.relay.final_reply_s);
        for group in [forwards, returns] {
            futures_util::future::join_all(
                group.into_iter().map(|gate| gate.stop(deadline, longest)),
            )
            .await;
        }
        self.stop_housekeeping.cancel();
        self.housekeeping.close();
        self.housekeeping.wait().await;
        let (spool, journal) = (self.spool.clone(), self.journal.clone());
        let close = move || {
            spool.close();
            journal.close(clock::unix_nanos());
        };
        if let Err(error) = tokio::task::spawn_blocking(close).await {
            tracing::error!(%error, "spool and journal were not closed cleanly");
        }
        self.admin.stop().await;
        let end = move || self.workers.into_iter().for_each(Workers::end);
        if let Err(error) = tokio::task::spawn_blocking(end).await {
            tracing::error!(%error, "the workers did not end");
        }
        tracing::info!("stopped");
    }
}

/// Writes and syncs what waits in the journal, until it is told to stop.
async fn keep(journal: Journal, every: Duration, stop: CancellationToken) {
    let mut due = tokio::time::interval(every);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(due.tick()).await.is_some() {
        let journal = journal.clone();
        let ticked = tokio::task::spawn_blocking(move || journal.tick(clock::unix_nanos())).await;
        if let Err(error) = ticked {
            tracing::error!(%error, "journal: writing broke off");
        }
    }
}

/// Names this boot of the system; empty where it has no name.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// What all gates share.
struct Core {
    disk_root: PathBuf,
    gates: Arc<Gates>,
    spool: Spool,
    journal: Journal,
    ids: Arc<Ids>,
    tokens: Arc<Tokens>,
    memory: Arc<Memory>,
    host: Arc<str>,
}

impl Core {
    /// Opens the state directory. Blocking.
    fn open(config: &Config) -> Result<Self, AppError> {
        let at = |source| AppError::State { path: config.data.clone(), source };
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(config.data.clone()));
        let source = key_source(config);
        let key = match source.load() {
            Err(KeyError::Missing { path }) => {
                let spool = config.spool.directory.clone();
                if spool::segments_exist(&*disk, &spool).map_err(at)? {
                    return Err(AppError::KeyMissing { spool: config.data.join(spool), key: path });
                }
                return Err(KeyError::Missing { path }.into());
            }
            key => key?,
        };
        let names: Vec<Arc<str>> =
            config.gates.iter().map(|gate| gate.name.as_str().into()).collect();
        let (spool, report) = Spool::open(Arc::clone(&disk), &config.spool, key, &names)?;
        tracing::info!(
            messages = report.messages,
            forward_paths = report.paths,
            uncertain = report.uncertain,
            segments = report.segments,
            damaged = report.damaged.len(),
            "spool opened"
        );
        for damage in &report.damaged {
            tracing::error!(%damage, "spool: kept and named");
        }
        for path in &report.set_aside {
            tracing::warn!(path = %path.display(), "spool: set aside");
        }
        let forward: Vec<&str> = config
            .gates
            .iter()
            .filter(|gate| gate.returns.is_none())
            .map(|gate| gate.name.as_str())
            .collect();
        let book = OrderBook::load(Arc::clone(&disk), &forward, clock::unix_ms()).map_err(at)?;
        known_places(&book, config)?;
        let plans = names
            .iter()
            .zip(&config.gates)
            .map(|(name, gate)| Plan {
                name: Arc::clone(name),
                returns: gate.returns.as_deref().map(Into::into),
                members: gate.members.iter().map(|member| member.name.clone()).collect(),
            })
            .collect();
        let gates = Gates::new(plans, book, config.brake_file());
        for order in gates.orders() {
            tracing::warn!(gate = order.gate, id = order.id, effect = ?order.effect, holder = ?order.holder, reason = order.reason, "order in force");
        }
        let journal =
            Journal::open(Arc::clone(&disk), &config.journal, &boot_id(), clock::unix_nanos());
        let (memory, doubt) = Memory::load(disk).map_err(at)?;
        if let Some(doubt) = doubt {
            let reason = format!(
                "what was learned of the members cannot be read ({doubt}): look at them before they get mail"
            );
            let all: Vec<Gate> = gates.all().filter(|gate| gate.plan().returns.is_none()).collect();
            gates.place(
                &all,
                &Effect::Hold,
                &Holder::new(HolderKind::System, "lockgate"),
                &reason,
            )?;
        }
        Ok(Self {
            disk_root: config.data.clone(),
            gates,
            spool,
            journal,
            ids: Arc::new(Ids::new(report.last_id)),
            tokens: Arc::default(),
            memory: Arc::new(memory),
            host: config.host().into(),
        })
    }

    fn build(
        &self,
        config: &Config,
        gate: &config::Gate,
        metrics: &Metrics,
    ) -> Result<(BuiltGate, Door), AppError> {
        let own = self.gates.named(&gate.name)?;
        let counts = metrics.of_gate(&gate.name);
        let next_hops = gate
            .members
            .iter()
            .map(|member| self.next_hop(gate, member))
            .collect::<Result<Vec<_>, _>>()?;
        let outage_max = (gate.on_unreachable == config::OnUnreachable::Hold)
            .then(|| Duration::from_secs(gate.health_outage_max_s));
        let relay = Arc::new(Relay::new(
            config.relay.clone(),
            next_hops,
            Arc::clone(&self.memory),
            Trust::Learned { outage_max },
            Box::new(RelayCounts(Arc::clone(&counts))),
        ));
        let health = Arc::new(Health::new(
            Arc::clone(&self.gates),
            own.clone(),
            Arc::clone(&relay),
            self.spool.clone(),
            Arc::clone(&self.ids),
            health::Settings {
                on_unreachable: gate.on_unreachable,
                outage_max: Duration::from_secs(gate.health_outage_max_s),
                fence: Duration::from_secs(gate.fence_s),
            },
        ));
        let corridor = Arc::new(Corridor {
            gate: own.clone(),
            relay: Arc::clone(&relay),
            spool: self.spool.clone(),
            journal: self.journal.clone(),
            ids: Arc::clone(&self.ids),
            health: Arc::clone(&health),
            metrics: Arc::clone(&counts),
            host: Arc::clone(&self.host),
            trace: gate.trace,
            recipient_domains: gate.recipient_domains.clone(),
            repeats: gate.dedupe.then(Repeats::default),
            tokens: Arc::clone(&self.tokens),
        });
        let reports = gate.dsn_next_hop.as_ref().map(|address| -> Result<_, AppError> {
            let next_hop = self.report_hop(gate, address)?;
            Ok(Arc::new(Relay::new(
                config.relay.clone(),
                vec![next_hop],
                Arc::clone(&self.memory),
                Trust::Anyone,
                Box::new(RelayCounts(Arc::clone(&counts))),
            )))
        });
        let reports = reports.transpose()?;
        let settings = Settings {
            config: config.replay.clone(),
            bounce: gate.bounce,
            settle: gate.settle,
            settle_after: Duration::from_secs(gate.settle_after_s),
        };
        let replayer =
            Replayer::new(Arc::clone(&corridor), Arc::clone(&self.gates), settings, reports);
        let tls = gate
            .tls
            .load(&self.disk_root)
            .map_err(|source| AppError::ClientTls { gate: gate.name.clone(), source })?;
        let service = Arc::new(Service {
            corridor: Arc::clone(&corridor),
            config: config.session.clone(),
            host: Arc::clone(&self.host),
            message_bytes_max: config.spool.message_bytes_max,
            tls_mode: gate.tls.mode,
            tls,
            buffers: Buffers::default(),
        });
        let wanted = gate.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listen = |source| AppError::Listen { gate: gate.name.clone(), address: wanted, source };
        let workers = config.session.workers;
        let deny = members_of(gate);
        let listener =
            Listener::bind(wanted, workers, service, gate.allow.clone(), &deny).map_err(listen)?;
        let address = listener.address().map_err(listen)?;
        let door = Door {
            corridor,
            replayer: Arc::clone(&replayer),
            listen: address,
            metrics: counts,
            fence: Duration::from_secs(gate.fence_s),
        };
        let returns = gate.returns.is_some();
        Ok((BuiltGate { gate: own, relay, health, replayer, listener, address, returns }, door))
    }

    fn next_hop(&self, gate: &config::Gate, member: &config::Member) -> Result<NextHop, AppError> {
        next_hop(gate, member, &self.host, &self.disk_root)
    }

    fn report_hop(&self, gate: &config::Gate, address: &HostPort) -> Result<NextHop, AppError> {
        Ok(NextHop {
            key: format!("{}/dsn_next_hop", gate.name),
            member: "dsn_next_hop".to_owned(),
            address: address.clone(),
            source: None,
            helo: helo(gate.helo_name.as_deref().unwrap_or(&self.host))?,
            tls: Tls::none(),
        })
    }
}

/// A member of a gate as a next hop.
///
/// # Errors
/// When its TLS cannot be set up.
pub(crate) fn next_hop(
    gate: &config::Gate,
    member: &config::Member,
    host: &str,
    data: &Path,
) -> Result<NextHop, AppError> {
    let address = member.address.clone().unwrap_or_else(|| HostPort::new("127.0.0.1", 25));
    let name = member.tls_name.as_deref().unwrap_or_else(|| address.host());
    let ca_file = member.ca_file.as_ref().map(|file| data.join(file));
    let tls = match member.tls {
        TlsDemand::None => Tls::none(),
        demand => Tls::new(demand, name, ca_file.as_deref())
            .map_err(|source| AppError::MemberTls { member: member.name.clone(), source })?,
    };
    let name = member.helo_name.as_deref().or(gate.helo_name.as_deref()).unwrap_or(host);
    Ok(NextHop {
        key: format!("{}/{}", gate.name, member.name),
        member: member.name.clone(),
        tls,
        source: member.source_address.or(gate.source_address),
        helo: helo(name)?,
        address,
    })
}

fn helo(name: &str) -> Result<smtp::ClientName, AppError> {
    smtp::ClientName::new(name).ok_or_else(|| AppError::HeloName(name.to_owned()))
}

/// An order must not lapse because its gate or member got another name.
fn known_places(book: &OrderBook, config: &Config) -> Result<(), AppError> {
    for order in book.orders() {
        let gate = config.gates.iter().find(|gate| gate.name == order.gate);
        let (place, known) = match &order.effect {
            Effect::Cordon { member } => (
                format!("member {member} of gate {}", order.gate),
                gate.is_some_and(|gate| gate.members.iter().any(|other| other.name == *member)),
            ),
            Effect::Hold | Effect::Refuse | Effect::PauseReplay => {
                (format!("gate {}", order.gate), gate.is_some())
            }
        };
        if !known {
            let (id, reason) = (order.id, order.reason.clone());
            return Err(AppError::OrderOfUnknown {
                id,
                effect: order.effect.as_str(),
                reason,
                place,
            });
        }
    }
    Ok(())
}

/// Addresses of a forward gate's own members that are not also ours: mail from them would be a loop.
/// On one machine everything has the same address, and nothing can be told from it.
fn members_of(gate: &config::Gate) -> Vec<std::net::IpAddr> {
    if gate.returns.is_some() {
        return Vec::new();
    }
    gate.members
        .iter()
        .filter_map(|member| member.address.as_ref()?.literal())
        .filter(|address| !address.is_loopback())
        .collect()
}

impl BuiltGate {
    fn spawn(
        self,
        workers: &[Handle],
        replay: &Handle,
        housekeeping: &TaskTracker,
        stop_housekeeping: &CancellationToken,
    ) -> RunningGate {
        let sessions = TaskTracker::new();
        let stop = CancellationToken::new();
        let stop_replay = CancellationToken::new();
        housekeeping.spawn(self.health.watch(stop_housekeeping.clone()));
        RunningGate {
            gate: self.gate,
            address: self.address,
            relay: self.relay,
            returns: self.returns,
            accepting: self.listener.spawn(workers, &sessions, &stop),
            replaying: replay.spawn(self.replayer.run(stop_replay.clone())),
            sessions,
            stop,
            stop_replay,
        }
    }
}

impl RunningGate {
    /// Stops accepting, lets transactions end until `deadline`, then aborts those that have not sent
    /// their final dot and awaits the replies of the others.
    async fn stop(self, deadline: Duration, longest: Duration) {
        self.stop.cancel();
        self.stop_replay.cancel();
        self.sessions.close();
        let mut replaying = self.replaying;
        let both = async {
            self.sessions.wait().await;
            if let Err(error) = (&mut replaying).await {
                tracing::error!(gate = self.gate.name(), %error, "the replayer broke off");
            }
        };
        tokio::pin!(both);
        if tokio::time::timeout(deadline, &mut both).await.is_err() {
            let aborted = self.gate.abort_older(Epoch(u64::MAX), None);
            for alive in self.gate.alive() {
                tracing::warn!(gate = self.gate.name(), id = %alive.id, errand = ?alive.errand, after_final_dot = alive.after_final_dot(), "alive at the deadline");
            }
            let awaits_reply = self.gate.alive().iter().any(|alive| alive.after_final_dot());
            let patience = if awaits_reply { longest } else { FAREWELL };
            if tokio::time::timeout(patience, &mut both).await.is_err() {
                tracing::warn!(gate = self.gate.name(), aborted, "sessions are cut off");
            }
        }
        self.relay.quit_all().await;
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}
