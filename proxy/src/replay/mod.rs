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
//! Not here: one attempt (`attempt`), what is read before its turn (`ahead`), which message waits for
//! what (`queue`), what a person does to held mail (`release`, `change`), what is shown (`status`).

mod ahead;
mod attempt;
mod change;
pub mod config;
pub mod dsn;
pub mod pace;
mod queue;
mod release;
mod retries;
pub mod schedule;
mod status;
mod tally;
mod told;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

pub use change::{By, Change};
pub use config::Config;
pub use release::{Release, ReleaseError, Released};
pub use status::{Progress, State};

use crate::clock::{unix_micros, unix_ms};
use crate::config::{Bounce, Settle};
use crate::gate::{Effect, Errand, Gates, Holder, HolderKind, Order, Permit};
use crate::outcome::Outcome;
use crate::relay::{LinkError, Relay};
use crate::spool::{Kept, Lane, LoadError, Mark, PathState, SpoolId, Stand, Summary};
use crate::transaction::Corridor;
use ahead::Ahead;
use attempt::{Context, Ended, Feedback, Loaded, attempt};
use pace::{Limits, Wait};
use queue::{Job, Queue, REPORT_PAUSE, Source};

/// Messages looked at in one step through the spool.
const STEP: usize = 512;

/// Messages found by the walk below which it goes on: enough to read ahead.
const FOUND_MIN: usize = 128;

/// Least pause between two walks through the spool from its start.
const WALK_PAUSE: Duration = Duration::from_secs(1);

/// Longest sleep of the replayer: orders, time and a brake are looked at this often.
const NAP: Duration = Duration::from_secs(1);

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
    inner: Mutex<Queue>,
    wake: Notify,
    started: Instant,
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
        let inner = Queue::new(settings.config.limits());
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
        self.find_reports();
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
            ..limits
        });
        drop(inner);
        self.wake.notify_one();
    }

    /// Finds the reports of a former run: they go out also while the gate holds.
    fn find_reports(&self) {
        let gate = &self.corridor.gate.plan().name;
        let reports = self.corridor.spool.summaries(None, usize::MAX, |summary| {
            summary.gate == *gate && summary.lane == Lane::Dsn
        });
        let mut queue = self.lock();
        for report in reports {
            queue.sort_in(&report);
        }
    }

    /// Starts attempts while pace and orders allow; says how long to wait for more.
    async fn start_some(self: &Arc<Self>, attempts: &mut JoinSet<Ended>) -> Duration {
        let open = self.note_open();
        self.write_unwritten().await;
        if open {
            self.settle_overdue().await;
        } else {
            // Clear text is not kept in memory for an order that may last for hours.
            self.lock().ahead.clear();
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
            let next = self.next_job(open);
            self.read_ahead(open);
            let Some(job) = next else {
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
        let open = !self.corridor.gate.any_order(Order::stops_replay);
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
        let summary = corridor.spool.summary(job.id);
        let lane = summary.as_ref().map(|summary| summary.lane);
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
                    self.lock().put_back(job);
                    return false;
                }
            }
        };
        let fresh = |summary: &Summary| summary.paths.iter().any(|path| *path == PathState::FRESH);
        let first = lane == Some(Lane::Mail) && summary.as_ref().is_some_and(fresh);
        let (context, loaded) = {
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
            let context = Context {
                open_passed: open.saturating_sub(deferred_at),
                corridor: Arc::clone(corridor),
                relay,
                member,
                schedule: self.settings.config.schedule(),
            };
            (context, inner.ahead.take(job.id))
        };
        let task = attempts.spawn(try_once(context, permit, job, first, loaded));
        self.lock().running.insert(task.id(), (job.id, first));
        true
    }

    /// Lets a thread that may block read what comes next, if there is not enough of it.
    fn read_ahead(self: &Arc<Self>, open: bool) {
        if !open {
            return;
        }
        let ids = {
            let mut inner = self.lock();
            let Queue { ahead, fresh, pace, .. } = &mut *inner;
            ahead.begin(fresh.iter().copied(), pace.connections_now())
        };
        if ids.is_empty() {
            return;
        }
        let replayer = Arc::clone(self);
        let mut reading = Reading { replayer, loaded: Vec::new(), unread: Vec::new() };
        task::spawn_blocking(move || {
            let mut octets = 0;
            for id in ids {
                if Ahead::is_enough(octets) {
                    break;
                }
                match Loaded::read(&reading.replayer.corridor.spool, id) {
                    Ok(message) => {
                        octets += message.octets();
                        reading.loaded.push(message);
                    }
                    Err(error) => {
                        // What is damaged is set aside now, so that no attempt will name it; any
                        // other error is its attempt's.
                        if matches!(error, LoadError::Damaged(_)) {
                            let gate = reading.replayer.corridor.gate.name();
                            tracing::error!(%id, gate, %error, "replay: the message cannot be read; it is kept and named");
                        }
                        reading.unread.push(id);
                    }
                }
            }
        });
    }

    /// The next message: canaries, reports, then, while release is open, first attempts in order of
    /// arrival, then retries that are due.
    fn next_job(&self, open: bool) -> Option<Job> {
        let now_unix_ms = unix_ms();
        let mut inner = self.lock();
        let walks = inner.fresh.len() < FOUND_MIN && !inner.at_tail;
        if walks || inner.fresh.is_empty() {
            self.walk(&mut inner);
        }
        match inner.next_ahead(now_unix_ms) {
            None if open => inner.next_released(now_unix_ms),
            ahead => ahead,
        }
    }

    /// Walks on through the spool until something fresh is found, or to the end.
    fn walk(&self, inner: &mut Queue) {
        let gate = &self.corridor.gate.plan().name;
        if inner.at_tail && inner.cursor.is_some() {
            // Ids are given at MAIL and promised later, so that a promise may stand behind the
            // cursor: walk again from the start while something untried is there that is not known.
            let (fresh, _, _) = self.counts();
            // Only what is untried may count as known, or it would hide something untried for good.
            let queued = inner.fresh.len() + inner.front.len();
            let apart =
                inner.claimed.len().saturating_sub(inner.unwritten.len()) + inner.unreadable.len();
            let known = (queued + apart) as u64 + inner.first_in_flight;
            let rested = inner.walked_at.is_none_or(|at| at.elapsed() >= WALK_PAUSE);
            if fresh <= known || !rested {
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
                inner.tally.count(ended.outcome, now.as_secs());
                if let Some(at) = ended.due_unix_ms {
                    let open = inner.open_now();
                    inner.retries.put(at, ended.id);
                    inner.deferred_at.insert(ended.id, open);
                }
                inner.tally.guard(&self.settings.config)
            }
        };
        let bounces = ended.outcome == Outcome::Refused && self.settings.bounce == Bounce::Auto;
        // Attempts that were under way when the replay paused end behind it: they neither pause it
        // again nor bounce.
        let paused = || self.corridor.gate.any_order(|order| order.effect == Effect::PauseReplay);
        if (guard.is_none() && !bounces) || paused() {
            return;
        }
        if let Some(reason) = guard {
            self.pause_for_refusals(reason).await;
        } else if let Err(why) = self.change(ended.id, Change::Fail).await {
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

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages that are being read. However the reading ends, also by a panic, nobody waits for it any longer.
struct Reading {
    replayer: Arc<Replayer>,
    loaded: Vec<Loaded>,
    unread: Vec<SpoolId>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let (loaded, unread) = (std::mem::take(&mut self.loaded), std::mem::take(&mut self.unread));
        self.replayer.lock().ahead.came(loaded, unread);
        self.replayer.wake.notify_one();
    }
}

async fn try_once(
    context: Context,
    permit: Option<Permit>,
    job: Job,
    first: bool,
    loaded: Option<Loaded>,
) -> Ended {
    let mut ended = attempt(&context, permit.as_ref(), job.id, loaded).await;
    ended.first = first;
    ended.source = job.from;
    ended
}
