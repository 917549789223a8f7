//! Replay: gives held mail to the members, paced, in order of arrival, once.
//!
//! Invariants
//! - Nothing goes out while an order forbids it: every attempt holds a permit of its gate.
//! - First attempts start in order of arrival; nothing waits for another message (SMTP promises no
//!   order).
//! - New mail joins the tail until every held message was tried once; then the replayer ends the
//!   order of the backlog, and the gate passes.
//! - What is uncertain is not tried again before it is settled: by evidence, by a person, or by the
//!   rule after its time.
//! - A 5yz does not bounce by itself, and many of them pause the replay.
//!
//! Not here: one attempt (`attempt`), what a person does to held mail (`release`, `change`).

mod attempt;
mod change;
pub mod config;
pub mod dsn;
pub mod pace;
mod release;
mod retries;
pub mod schedule;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

pub use change::Change;
pub use config::Config;
pub use release::{Release, ReleaseError, Released};

use crate::clock::{unix_micros, unix_ms};
use crate::config::{Bounce, Settle};
use crate::gate::order::is_cordoned;
use crate::gate::{Effect, Errand, Gates, Holder, HolderKind, Order, Permit};
use crate::outcome::Outcome;
use crate::relay::{LinkError, Relay};
use crate::spool::{Kept, Lane, Mark, PathState, SpoolId, Stand, Summary};
use crate::transaction::Corridor;
use attempt::{Context, Ended, Feedback, attempt};
use pace::{Limits, Pace, Wait};
use retries::Retries;

/// Messages looked at in one step through the spool.
const STEP: usize = 512;

/// Least pause between two walks through the spool from its start.
const WALK_PAUSE: Duration = Duration::from_secs(1);

/// Longest sleep of the replayer: orders, time and a brake are looked at this often.
const NAP: Duration = Duration::from_secs(1);

/// Attempts before the share of refusals counts.
const REFUSED_SAMPLE: u64 = 50;

/// Pause before a report is tried again whose host could not be reached.
const REPORT_PAUSE: Duration = Duration::from_secs(30);

/// Seconds over which the rate is shown.
const RATE_WINDOW: usize = 5;

/// Name of the guard against a server that refuses everything.
const GUARD: &str = "refusals";

/// What a gate's configuration says of its replay.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Pace and schedule.
    pub config: Config,
    /// What becomes of refused forward-paths.
    pub bounce: Bounce,
    /// What becomes of uncertain ones.
    pub settle: Settle,
    /// After which time.
    pub settle_after: Duration,
}

/// The replayer of one gate.
pub struct Replayer {
    corridor: Arc<Corridor>,
    gates: Arc<Gates>,
    settings: Settings,
    /// Where reports go.
    reports: Option<Arc<Relay>>,
    inner: Mutex<Inner>,
    wake: Notify,
    started: Instant,
}

/// What the replayer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is held.
    Idle,
    /// An order holds the gate.
    Held,
    /// An order pauses replay.
    Paused,
    /// Messages go out.
    Running,
    /// All was tried; the next try is due later.
    Waiting,
}

/// Where replay stands.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What it does.
    pub state: State,
    /// Why it stands still.
    pub why: Option<String>,
    /// Messages never tried.
    pub remaining_first: u64,
    /// Messages to be tried again.
    pub deferred: u64,
    /// Relayed since the last release.
    pub relayed: u64,
    /// Refused since the last release.
    pub refused: u64,
    /// Messages per second.
    pub rate: f64,
    /// Seconds to the end of the backlog; none: never at this rate.
    pub eta_s: Option<f64>,
    /// Attempts under way.
    pub in_flight: u64,
    /// Connections allowed now.
    pub connections: u32,
    /// Their ceiling.
    pub connections_max: u32,
    /// Ceiling of messages per second.
    pub messages_per_second_max: f64,
}

struct Inner {
    pace: Pace,
    /// Asked for one by one, while the gate may hold.
    canaries: VecDeque<SpoolId>,
    /// To be tried before the walk goes on: the link failed, or recipients are left over.
    front: VecDeque<SpoolId>,
    /// Found by the walk, never tried, not yet started.
    fresh: VecDeque<SpoolId>,
    /// Reports of ours that are due.
    reports: VecDeque<SpoolId>,
    /// Reports of ours by the time of their next try.
    report_retries: Retries,
    /// Where the walk through the spool stands; none: at its start.
    cursor: Option<SpoolId>,
    /// The walk came to the end, and nothing was held since.
    at_tail: bool,
    walked_at: Option<Instant>,
    /// Tried before, by the time of the next try.
    retries: Retries,
    in_flight: HashSet<SpoolId>,
    /// The message of each attempt, and whether it is a first one, should the attempt panic.
    running: HashMap<task::Id, (SpoolId, bool)>,
    /// Outcomes that are known and not yet written; their messages are claimed meanwhile.
    unwritten: HashMap<SpoolId, Vec<(u32, Mark)>>,
    /// Never tried, because they could not be read.
    unreadable: HashSet<SpoolId>,
    /// A person changes these now: they are not tried meanwhile.
    claimed: HashSet<SpoolId>,
    /// Attempts under way that are first ones.
    first_in_flight: u64,
    uncertain: HashMap<SpoolId, Instant>,
    relayed: u64,
    refused: u64,
    /// What the guard against refusals looks at.
    sample: Sample,
    /// Ends of attempts in each of the last seconds.
    ends: VecDeque<(u64, u64)>,
    /// Running time with release open.
    open: Duration,
    open_since: Option<Instant>,
    /// What `open` was when a message was deferred: its lifetime goes on from there.
    deferred_at: HashMap<SpoolId, Duration>,
}

/// Attempts since the release or the last pause.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    tried: u64,
    refused: u64,
    refused_in_a_row: u32,
}

/// A message that may be tried now.
#[derive(Clone, Copy, Debug)]
struct Job {
    id: SpoolId,
    from: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Canary,
    Front,
    Walk,
    Retry,
    Report,
}

impl Replayer {
    /// The replayer of the corridor's gate.
    #[must_use]
    pub fn new(
        corridor: Arc<Corridor>,
        gates: Arc<Gates>,
        settings: Settings,
        reports: Option<Arc<Relay>>,
    ) -> Arc<Self> {
        let inner = Inner {
            pace: Pace::new(settings.config.limits()),
            canaries: VecDeque::new(),
            front: VecDeque::new(),
            fresh: VecDeque::new(),
            reports: VecDeque::new(),
            report_retries: Retries::default(),
            cursor: None,
            at_tail: false,
            walked_at: None,
            retries: Retries::default(),
            in_flight: HashSet::new(),
            running: HashMap::new(),
            unwritten: HashMap::new(),
            unreadable: HashSet::new(),
            claimed: HashSet::new(),
            first_in_flight: 0,
            uncertain: HashMap::new(),
            relayed: 0,
            refused: 0,
            sample: Sample::default(),
            ends: VecDeque::new(),
            open: Duration::ZERO,
            open_since: None,
            deferred_at: HashMap::new(),
        };
        Arc::new(Self {
            corridor,
            gates,
            settings,
            reports,
            inner: Mutex::new(inner),
            wake: Notify::new(),
            started: Instant::now(),
        })
    }

    /// Runs until `stop`, then to the end of the attempts under way.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut attempts = JoinSet::new();
        let mut changes = self.corridor.spool.subscribe();
        let mut orders = self.corridor.gate.watch();
        while !stop.is_cancelled() {
            let nap = self.start_some(&mut attempts).await;
            let hungry = self.lock().at_tail;
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = attempts.join_next_with_id(), if !attempts.is_empty() => {
                    self.joined(ended).await;
                    while let Some(ended) = attempts.try_join_next_with_id() {
                        self.joined(ended).await;
                    }
                }
                _ = changes.changed(), if hungry => self.lock().at_tail = false,
                _ = orders.changed() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
        while let Some(ended) = attempts.join_next_with_id().await {
            self.joined(ended).await;
        }
    }

    /// Where replay stands.
    #[must_use]
    pub fn status(&self) -> Progress {
        let orders = self.corridor.gate.orders();
        let (fresh, deferred, total) = self.counts();
        let mut inner = self.lock();
        let in_flight = inner.in_flight.len() as u64;
        let rate = inner.rate(self.started.elapsed().as_secs());
        let pause = orders.iter().find(|order| order.effect == Effect::PauseReplay);
        let held = orders.iter().find(|order| order.stops_replay());
        let (state, why) = if in_flight > 0 {
            (State::Running, None)
        } else if total == 0 {
            (State::Idle, None)
        } else if let Some(order) = pause {
            (State::Paused, Some(order.reason.clone()))
        } else if let Some(order) = held {
            (State::Held, Some(order.reason.clone()))
        } else if let Some(why) = self.no_member_free(&orders) {
            (State::Held, Some(why))
        } else if fresh > 0 {
            (State::Running, None)
        } else {
            (State::Waiting, None)
        };
        let remaining = fresh + in_flight;
        let eta_s = (rate > 0.0).then(|| remaining as f64 / rate);
        let limits = inner.pace.limits();
        Progress {
            state,
            why,
            remaining_first: fresh,
            deferred,
            relayed: inner.relayed,
            refused: inner.refused,
            rate,
            eta_s: if remaining == 0 { Some(0.0) } else { eta_s },
            in_flight,
            connections: inner.pace.connections_now(),
            connections_max: limits.connections_max,
            messages_per_second_max: limits.messages_per_second_max,
        }
    }

    /// Is an attempt at this message under way? Its outcome is open then, not unknown.
    #[must_use]
    pub fn is_trying(&self, id: SpoolId) -> bool {
        self.lock().in_flight.contains(&id)
    }

    /// Changes the ceilings while running; what is absent stays.
    pub fn set_rate(&self, connections: Option<u32>, messages_per_second: Option<f64>) {
        let mut inner = self.lock();
        let limits = inner.pace.limits();
        inner.pace.set_limits(Limits {
            connections_max: connections.unwrap_or(limits.connections_max).max(1),
            messages_per_second_max: messages_per_second
                .filter(|rate| rate.is_finite() && *rate > 0.0)
                .unwrap_or(limits.messages_per_second_max),
        });
        drop(inner);
        self.wake.notify_one();
    }

    /// What a person should know of the held mail of this gate.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let gate = self.corridor.gate.name();
        let totals = self.corridor.spool.totals();
        let Some(totals) = totals.iter().find(|totals| *totals.gate == *gate) else {
            return Vec::new();
        };
        let mut warnings =
            if totals.of(Stand::Blocked).messages > 0 { self.blocked() } else { Vec::new() };
        for (stand, what) in [
            (
                Stand::Refused,
                "were refused and stay until you decide: `lockgate held list --state refused`",
            ),
            (
                Stand::Asked,
                "are uncertain and stay until you decide: `lockgate held list --state uncertain`",
            ),
        ] {
            let messages = totals.of(stand).messages;
            if messages > 0 {
                warnings.push(format!("{messages} held messages {what}"));
            }
        }
        warnings
    }

    /// Why no member may be given anything, when all are cordoned.
    fn no_member_free(&self, orders: &[Order]) -> Option<String> {
        let members = &self.corridor.gate.plan().members;
        if members.iter().any(|member| !is_cordoned(orders, member)) {
            return None;
        }
        let cordon = orders.iter().find(|order| matches!(order.effect, Effect::Cordon { .. }))?;
        Some(cordon.reason.clone())
    }

    /// What blocked messages need, with how many need it.
    fn blocked(&self) -> Vec<String> {
        let gate = &self.corridor.gate.plan().name;
        let mut needs: BTreeMap<&'static str, u64> = BTreeMap::new();
        let blocked = self.corridor.spool.summaries(None, usize::MAX, |summary| {
            summary.gate == *gate && summary.stand() == Stand::Blocked
        });
        for summary in blocked {
            let need = summary.paths.iter().find_map(|path| match path {
                PathState::Kept { why: Kept::Blocked(need), .. } => Some(need.keyword()),
                _ => None,
            });
            if let Some(need) = need {
                *needs.entry(need).or_default() += 1;
            }
        }
        let words = |(need, messages): (&str, &u64)| {
            format!(
                "{messages} held messages are blocked: they need {need}, which no member offers \
                 (enough of) now, and stay: `lockgate held list --state blocked`"
            )
        };
        needs.iter().map(|(need, messages)| words((need, messages))).collect()
    }

    /// Starts attempts while pace and orders allow; says how long to wait for more.
    async fn start_some(self: &Arc<Self>, attempts: &mut JoinSet<Ended>) -> Duration {
        let open = self.note_open();
        self.write_unwritten().await;
        if open {
            self.settle_overdue().await;
        }
        loop {
            let now = self.started.elapsed();
            let may = {
                let inner = self.lock();
                let in_flight = u32::try_from(inner.in_flight.len()).unwrap_or(u32::MAX);
                inner.pace.may_start(in_flight, now)
            };
            match may {
                Ok(()) => {}
                Err(Wait::Slot) => return NAP,
                Err(Wait::Until(at)) => {
                    return at.saturating_sub(now).clamp(Duration::from_millis(1), NAP);
                }
            }
            let Some(job) = self.next_job(open) else {
                self.end_backlog(open).await;
                return NAP;
            };
            if !self.start(job, now, attempts).await {
                return NAP;
            }
        }
    }

    /// Is release open: may a replay attempt enter the gate now? Keeps the clock of lifetimes.
    fn note_open(&self) -> bool {
        let orders = self.corridor.gate.orders();
        let open = !orders.iter().any(Order::stops_replay);
        let mut inner = self.lock();
        match (open, inner.open_since) {
            (true, None) => inner.open_since = Some(Instant::now()),
            (false, Some(since)) => {
                inner.open += since.elapsed();
                inner.open_since = None;
            }
            _ => {}
        }
        open
    }

    async fn start(
        self: &Arc<Self>,
        job: Job,
        now: Duration,
        attempts: &mut JoinSet<Ended>,
    ) -> bool {
        let corridor = &self.corridor;
        let lane = self.corridor.spool.summary(job.id).map(|summary| summary.lane);
        let job = if lane == Some(Lane::Dsn) { Job { from: Source::Report, ..job } } else { job };
        let (permit, relay, member) = if job.from == Source::Report {
            let Some(reports) = &self.reports else {
                self.keep_report(job.id).await;
                return true;
            };
            (None, Arc::clone(reports), 0)
        } else {
            let errand = if job.from == Source::Canary { Errand::Canary } else { Errand::Replay };
            let entered =
                corridor.gate.enter_for(corridor.ids.next(unix_micros()), errand, None, |member| {
                    corridor.relay.worth_a_try(member)
                });
            match entered {
                Ok(permit) => {
                    let member = permit.member().unwrap_or_default();
                    (Some(permit), Arc::clone(&corridor.relay), member)
                }
                Err(_) => {
                    self.put_back(job);
                    return false;
                }
            }
        };
        let first = lane == Some(Lane::Mail) && self.is_first(job.id);
        let context = {
            let mut inner = self.lock();
            // Whatever brought it here twice: one attempt at a time, and the one under way, or the
            // change that holds it, says what comes next.
            if inner.claimed.contains(&job.id) || !inner.in_flight.insert(job.id) {
                return true;
            }
            inner.retries.remove(job.id);
            inner.pace.started(now);
            inner.first_in_flight += u64::from(first);
            let open = inner.open_now();
            let deferred_at = inner.deferred_at.remove(&job.id).unwrap_or(open);
            Context {
                open_passed: open.saturating_sub(deferred_at),
                spool: corridor.spool.clone(),
                member_name: relay.next_hop(member).member.clone(),
                relay,
                member,
                metrics: Arc::clone(&corridor.metrics),
                schedule: self.settings.config.schedule(),
                gate: corridor.gate.name().to_owned(),
            }
        };
        let task = attempts.spawn(try_once(context, permit, job, first));
        self.lock().running.insert(task.id(), (job.id, first));
        true
    }

    fn is_first(&self, id: SpoolId) -> bool {
        self.corridor
            .spool
            .summary(id)
            .is_some_and(|summary| summary.paths.iter().any(|path| *path == PathState::FRESH))
    }

    fn put_back(&self, job: Job) {
        let mut inner = self.lock();
        match job.from {
            Source::Canary => inner.canaries.push_front(job.id),
            Source::Retry => {
                inner.retries.put(0, job.id);
            }
            Source::Report => inner.reports.push_front(job.id),
            Source::Front | Source::Walk => inner.front.push_front(job.id),
        }
    }

    /// The next message: canaries, reports, then, while release is open, first attempts in order of
    /// arrival, then retries that are due.
    fn next_job(&self, open: bool) -> Option<Job> {
        let now_unix_ms = unix_ms();
        let mut inner = self.lock();
        if let Some(id) = inner.canaries.pop_front() {
            return Some(Job { id, from: Source::Canary });
        }
        if inner.fresh.is_empty() {
            self.walk(&mut inner);
        }
        if let Some(id) = inner.reports.pop_front() {
            return Some(Job { id, from: Source::Report });
        }
        if let Some(id) = inner.report_retries.pop_due(now_unix_ms) {
            return Some(Job { id, from: Source::Report });
        }
        if !open {
            return None;
        }
        if let Some(id) = inner.front.pop_front() {
            return Some(Job { id, from: Source::Front });
        }
        if let Some(id) = inner.fresh.pop_front() {
            return Some(Job { id, from: Source::Walk });
        }
        let id = inner.retries.pop_due(now_unix_ms)?;
        Some(Job { id, from: Source::Retry })
    }

    /// Walks on through the spool until something fresh is found, or to the end.
    fn walk(&self, inner: &mut Inner) {
        let gate = &self.corridor.gate.plan().name;
        if inner.at_tail && inner.cursor.is_some() {
            // Ids are given at MAIL and promised later, so that a promise may stand behind the
            // cursor: walk again from the start while something untried is there that is not known.
            let (fresh, _, _) = self.counts();
            let known = inner.fresh.len()
                + inner.front.len()
                + inner.in_flight.len()
                + inner.claimed.len()
                + inner.unreadable.len();
            let rested = inner.walked_at.is_none_or(|at| at.elapsed() >= WALK_PAUSE);
            if fresh <= known as u64 || !rested {
                return;
            }
            inner.cursor = None;
        }
        inner.walked_at = Some(Instant::now());
        loop {
            let step = self.corridor.spool.summaries_of(gate, inner.cursor, STEP);
            let Some(last) = step.last() else {
                inner.at_tail = true;
                return;
            };
            inner.at_tail = false;
            inner.cursor = Some(last.id);
            for summary in step {
                inner.sort_in(&summary);
            }
            if !inner.fresh.is_empty() || !inner.reports.is_empty() {
                return;
            }
        }
    }

    /// Every held message was tried once: new mail passes again.
    async fn end_backlog(&self, open: bool) {
        let stands = self
            .corridor
            .gate
            .orders()
            .iter()
            .any(|order| order.holder.kind == HolderKind::Backlog);
        let (fresh, _, _) = self.counts();
        let tried = {
            let inner = self.lock();
            // What cannot be read does not keep new mail waiting.
            fresh <= inner.unreadable.len() as u64
                && inner.at_tail
                && inner.first_in_flight == 0
                && inner.front.is_empty()
                && inner.fresh.is_empty()
        };
        if !(open && stands && tried) {
            return;
        }
        let gates = Arc::clone(&self.gates);
        let gate = self.corridor.gate.clone();
        let ended = task::spawn_blocking(move || {
            gates.release(&gate, |order| order.holder.kind == HolderKind::Backlog, None)
        })
        .await;
        match ended {
            Ok(Ok(_)) => tracing::info!(
                gate = self.corridor.gate.name(),
                mode = self.corridor.gate.mode_shown().as_str(),
                "replay: every held message was tried; new mail no longer joins the tail"
            ),
            Ok(Err(error)) => {
                tracing::error!(gate = self.corridor.gate.name(), %error, "replay: the backlog order stays");
            }
            Err(error) => {
                tracing::error!(gate = self.corridor.gate.name(), %error, "replay: the backlog order stays");
            }
        }
    }

    async fn joined(&self, ended: Result<(task::Id, Ended), task::JoinError>) {
        match ended {
            Ok((task, ended)) => {
                self.lock().running.remove(&task);
                self.ended(ended).await;
            }
            // A panic ends one attempt: its message has an Offered mark, or is due still, later.
            Err(error) => {
                tracing::error!(gate = self.corridor.gate.name(), %error, "replay: an attempt broke off");
                let mut inner = self.lock();
                let Some((id, first)) = inner.running.remove(&error.id()) else { return };
                inner.in_flight.remove(&id);
                inner.first_in_flight -= u64::from(first);
                inner.pace.neutral();
                let later = unix_ms() + u64::try_from(REPORT_PAUSE.as_millis()).unwrap_or(0);
                inner.retries.put(later, id);
            }
        }
    }

    async fn ended(&self, ended: Ended) {
        let now = self.started.elapsed();
        if ended.outcome == Outcome::Uncertain || ended.uncertain {
            self.lock().uncertain.entry(ended.id).or_insert_with(Instant::now);
        }
        if let Some(error) = &ended.link
            && !matches!(error, LinkError::BackingOff)
        {
            tracing::warn!(gate = self.corridor.gate.name(), source = ?ended.source, %error, "replay: no connection");
            if matches!(error, LinkError::Stranger(_)) && ended.source != Source::Report {
                self.corridor.health.failed(ended.member, error).await;
            }
        }
        let guard = {
            let mut inner = self.lock();
            inner.in_flight.remove(&ended.id);
            inner.first_in_flight -= u64::from(ended.first);
            if ended.unreadable {
                inner.unreadable.insert(ended.id);
            } else {
                inner.unreadable.remove(&ended.id);
            }
            if !ended.unwritten.is_empty() {
                inner.claimed.insert(ended.id);
                inner.unwritten.insert(ended.id, ended.unwritten.clone());
            }
            if ended.source == Source::Report {
                // The host for reports is no member: it does not slow the members' pace.
                inner.pace.neutral();
                inner.report_ended(&ended);
                return;
            }
            match ended.feedback {
                Feedback::Took => inner.pace.succeeded(now),
                Feedback::PushedBack => inner.pace.pushed_back(now),
                Feedback::Neutral => inner.pace.neutral(),
            }
            if !ended.unwritten.is_empty() {
                None
            } else if ended.link.is_some() || ended.again {
                inner.front.push_front(ended.id);
                None
            } else {
                inner.count(&ended, now.as_secs());
                if let Some(at) = ended.due_unix_ms {
                    let open = inner.open_now();
                    inner.retries.put(at, ended.id);
                    inner.deferred_at.insert(ended.id, open);
                }
                inner.guard(&self.settings.config)
            }
        };
        if let Some(reason) = guard {
            self.pause_for_refusals(reason).await;
        } else if ended.outcome == Outcome::Refused
            && self.settings.bounce == Bounce::Auto
            && let Err(why) = self.change(ended.id, Change::Fail).await
        {
            tracing::warn!(id = %ended.id, why, "replay: no report was made");
        }
    }

    /// Pauses the replay by an order that only a person ends.
    async fn pause_for_refusals(&self, reason: String) {
        tracing::error!(gate = self.corridor.gate.name(), %reason, "replay: paused");
        let gates = Arc::clone(&self.gates);
        let gate = self.corridor.gate.clone();
        let holder = Holder::new(HolderKind::System, GUARD);
        let placed = task::spawn_blocking(move || {
            gates.place(&[gate], &Effect::PauseReplay, &holder, &reason)
        })
        .await;
        match placed {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "replay: the pause is not on disk"),
            Err(error) => tracing::error!(%error, "replay: the pause is not on disk"),
        }
        self.lock().sample = Sample::default();
    }

    /// Writes outcomes that could not be written when they were known.
    async fn write_unwritten(&self) {
        let unwritten: Vec<(SpoolId, Vec<(u32, Mark)>)> =
            self.lock().unwritten.iter().map(|(id, marks)| (*id, marks.clone())).collect();
        for (id, marks) in unwritten {
            if let Err(error) = self.corridor.spool.mark(id, marks).await {
                tracing::warn!(%id, %error, "replay: an outcome is still not written");
                return;
            }
            let summary = self.corridor.spool.summary(id);
            let mut inner = self.lock();
            inner.unwritten.remove(&id);
            inner.claimed.remove(&id);
            if let Some(summary) = summary {
                inner.sort_in(&summary);
            }
        }
    }

    /// Settles by the rule what has been uncertain for long enough (house §13.6).
    async fn settle_overdue(&self) {
        if self.settings.settle == Settle::Ask {
            return;
        }
        let overdue: Vec<SpoolId> = {
            let mut inner = self.lock();
            let after = self.settings.settle_after;
            let overdue: Vec<SpoolId> = inner
                .uncertain
                .iter()
                .filter(|(_, since)| since.elapsed() >= after)
                .map(|(id, _)| *id)
                .collect();
            for id in &overdue {
                inner.uncertain.remove(id);
            }
            overdue
        };
        for id in overdue {
            match self.settle(id).await {
                Ok(()) => {
                    tracing::warn!(%id, "replay: uncertain for too long without evidence: sent again; it may arrive twice");
                }
                Err(why) => {
                    tracing::warn!(%id, why, "replay: not settled");
                    let held = self.corridor.spool.summary(id);
                    if held.is_some_and(|summary| summary.stand() == Stand::Offered) {
                        self.lock().uncertain.entry(id).or_insert_with(Instant::now);
                    }
                }
            }
        }
    }

    /// A report that can be given to nobody is kept and shown.
    async fn keep_report(&self, id: SpoolId) {
        let reply = "this gate has no dsn_next_hop";
        let marks = self.corridor.spool.summary(id).map_or_else(Vec::new, |summary| {
            (0..u32::try_from(summary.paths.count()).unwrap_or(0))
                .map(|index| (index, Mark::Kept { why: Kept::Refused, reply: reply.into() }))
                .collect()
        });
        if let Err(error) = self.corridor.spool.mark(id, marks).await {
            tracing::error!(%id, %error, "replay: a report could not be marked as kept");
        }
        tracing::error!(%id, gate = self.corridor.gate.name(), "replay: a report to a sender is kept: {reply}");
    }

    /// Mail of this gate never tried, messages to be tried again, and all messages.
    fn counts(&self) -> (u64, u64, u64) {
        let gate = self.corridor.gate.name();
        let totals = self.corridor.spool.totals();
        totals.iter().find(|totals| *totals.gate == *gate).map_or((0, 0, 0), |totals| {
            (
                totals.of(Stand::Fresh).messages.saturating_sub(totals.fresh_reports),
                totals.of(Stand::Deferred).messages,
                totals.all().messages,
            )
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn try_once(context: Context, permit: Option<Permit>, job: Job, first: bool) -> Ended {
    let mut ended = attempt(&context, permit.as_ref(), job.id).await;
    ended.first = first;
    ended.source = job.from;
    ended
}

impl Inner {
    /// Takes a message out of every queue.
    fn forget(&mut self, id: SpoolId) {
        for queue in [&mut self.canaries, &mut self.front, &mut self.fresh, &mut self.reports] {
            queue.retain(|other| *other != id);
        }
        self.retries.remove(id);
        self.report_retries.remove(id);
        self.uncertain.remove(&id);
        self.unreadable.remove(&id);
    }

    /// Puts a message that the walk met where it belongs.
    fn sort_in(&mut self, summary: &Summary) {
        if self.in_flight.contains(&summary.id)
            || self.unreadable.contains(&summary.id)
            || self.claimed.contains(&summary.id)
            || self.canaries.contains(&summary.id)
            || self.front.contains(&summary.id)
            || self.fresh.contains(&summary.id)
            || self.reports.contains(&summary.id)
        {
            return;
        }
        let mut due: Option<u64> = None;
        let mut fresh = false;
        let mut offered = false;
        for state in summary.paths.iter() {
            match state {
                PathState::Due { attempts: 0, .. } => fresh = true,
                PathState::Due { at_unix_ms, .. } => {
                    due = Some(due.map_or(*at_unix_ms, |due| due.min(*at_unix_ms)));
                }
                PathState::Offered { .. } => offered = true,
                PathState::Kept { .. } | PathState::Done { .. } => {}
            }
        }
        if offered {
            self.uncertain.entry(summary.id).or_insert_with(Instant::now);
        }
        if summary.lane == Lane::Dsn {
            let now_unix_ms = unix_ms();
            let known = self.report_retries.contains(summary.id);
            if !known && (fresh || due.is_some_and(|at| at <= now_unix_ms)) {
                self.reports.push_back(summary.id);
            } else if let Some(at) = due {
                self.report_retries.put(at, summary.id);
            }
        } else if fresh {
            self.fresh.push_back(summary.id);
        } else if let Some(at) = due {
            let open = self.open_now();
            self.retries.put(at, summary.id);
            self.deferred_at.entry(summary.id).or_insert(open);
        }
    }

    /// Running time with release open, up to now.
    fn open_now(&self) -> Duration {
        self.open + self.open_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// A report that was not taken is tried again later.
    fn report_ended(&mut self, ended: &Ended) {
        let later = unix_ms() + u64::try_from(REPORT_PAUSE.as_millis()).unwrap_or(u64::MAX);
        match ended.due_unix_ms {
            Some(at) => {
                self.report_retries.put(at, ended.id);
            }
            None if ended.link.is_some() || ended.again => {
                self.report_retries.put(later, ended.id);
            }
            None => {}
        }
    }

    fn count(&mut self, ended: &Ended, second: u64) {
        self.sample.tried += 1;
        match ended.outcome {
            Outcome::Relayed => {
                self.relayed += 1;
                self.sample.refused_in_a_row = 0;
            }
            Outcome::Refused => {
                self.refused += 1;
                self.sample.refused += 1;
                self.sample.refused_in_a_row += 1;
            }
            _ => {}
        }
        match self.ends.back_mut() {
            Some((at, count)) if *at == second => *count += 1,
            _ => self.ends.push_back((second, 1)),
        }
        while self.ends.len() > RATE_WINDOW + 1 {
            self.ends.pop_front();
        }
    }

    /// Messages per second over the last full seconds.
    fn rate(&mut self, second: u64) -> f64 {
        let oldest = second.saturating_sub(RATE_WINDOW as u64);
        let count: u64 =
            self.ends.iter().filter(|(at, _)| *at >= oldest).map(|(_, count)| count).sum();
        let first = self.ends.iter().map(|(at, _)| *at).find(|at| *at >= oldest);
        let seconds = first.map_or(1, |first| (second - first).max(1));
        count as f64 / seconds as f64
    }

    /// The reason to pause, when the member refuses too much.
    fn guard(&self, config: &Config) -> Option<String> {
        let Sample { tried, refused, refused_in_a_row } = self.sample;
        if refused_in_a_row >= config.refused_in_a_row_max {
            return Some(format!("{refused_in_a_row} messages in a row were refused"));
        }
        let percent = refused as f64 * 100.0 / tried.max(1) as f64;
        (tried >= REFUSED_SAMPLE && percent >= config.refused_percent_max && refused > 0)
            .then(|| format!("{percent:.1} % of {tried} messages were refused"))
    }
}
