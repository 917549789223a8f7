//! Which held messages wait for what: found by a walk through the spool, kept in order of arrival or
//! of their next try.
//!
//! Invariants
//! - A message stands in at most one of the queues, and in none while it is tried or changed.
//! - A message that was put off is never forgotten: it is in `retries`, or a walk finds it again.
//!
//! Not here: the spool's own index, orders, tasks (`mod`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use tokio::task;

use super::ahead::Ahead;
use super::attempt::Ended;
use super::pace::{Limits, Pace};
use super::retries::Retries;
use super::tally::Tally;
use crate::clock::unix_ms;
use crate::spool::{Lane, Mark, PathState, SpoolId, Summary};

/// Pause before a report is tried again whose host could not be reached.
pub(super) const REPORT_PAUSE: Duration = Duration::from_secs(30);

/// What the replayer of a gate knows of the held messages.
pub(super) struct Queue {
    /// How many at once, and how fast.
    pub(super) pace: Pace,
    /// Asked for one by one, while the gate may hold.
    pub(super) canaries: VecDeque<SpoolId>,
    /// To be tried before the walk goes on: the link failed, or recipients are left over.
    pub(super) front: VecDeque<SpoolId>,
    /// Found by the walk, never tried, not yet started.
    pub(super) fresh: VecDeque<SpoolId>,
    /// Some of them, read already.
    pub(super) ahead: Ahead,
    /// Reports of ours that are due.
    pub(super) reports: VecDeque<SpoolId>,
    /// Reports of ours by the time of their next try.
    pub(super) report_retries: Retries,
    /// Where the walk through the spool stands; none: at its start.
    pub(super) cursor: Option<SpoolId>,
    /// The walk came to the end, and nothing was held since.
    pub(super) at_tail: bool,
    /// When the walk began last.
    pub(super) walked_at: Option<Instant>,
    /// Tried before, by the time of the next try.
    pub(super) retries: Retries,
    /// Attempts under way.
    pub(super) in_flight: HashSet<SpoolId>,
    /// The message of each attempt, and whether it is a first one, should the attempt panic.
    pub(super) running: HashMap<task::Id, (SpoolId, bool)>,
    /// Outcomes that are known and not yet written; their messages are claimed meanwhile.
    pub(super) unwritten: HashMap<SpoolId, Vec<(u32, Mark)>>,
    /// Never tried, because they could not be read.
    pub(super) unreadable: HashSet<SpoolId>,
    /// A person changes these now: they are not tried meanwhile.
    pub(super) claimed: HashSet<SpoolId>,
    /// Attempts under way that are first ones.
    pub(super) first_in_flight: u64,
    /// Uncertain since when this process saw it.
    pub(super) uncertain: HashMap<SpoolId, Instant>,
    /// What the attempts came to.
    pub(super) tally: Tally,
    /// Running time with release open.
    pub(super) open: Duration,
    /// Since when release is open.
    pub(super) open_since: Option<Instant>,
    /// What `open` was when a message was deferred: its lifetime goes on from there.
    pub(super) deferred_at: HashMap<SpoolId, Duration>,
}

/// A message that may be tried now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) id: SpoolId,
    pub(super) from: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Canary,
    Front,
    Walk,
    Retry,
    Report,
}

impl Queue {
    /// Nothing known yet.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            pace: Pace::new(limits),
            canaries: VecDeque::new(),
            front: VecDeque::new(),
            fresh: VecDeque::new(),
            ahead: Ahead::default(),
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
            tally: Tally::default(),
            open: Duration::ZERO,
            open_since: None,
            deferred_at: HashMap::new(),
        }
    }

    /// Puts a job back that could not be started.
    pub(super) fn put_back(&mut self, job: Job) {
        match job.from {
            Source::Canary => self.canaries.push_front(job.id),
            Source::Retry => self.retries.put(0, job.id),
            Source::Report => self.reports.push_front(job.id),
            Source::Front | Source::Walk => self.front.push_front(job.id),
        }
    }

    /// What may go whatever the orders say: canaries, and reports of ours that are due.
    pub(super) fn next_ahead(&mut self, now_unix_ms: u64) -> Option<Job> {
        if let Some(id) = self.canaries.pop_front() {
            return Some(Job { id, from: Source::Canary });
        }
        let id = self.reports.pop_front().or_else(|| self.report_retries.pop_due(now_unix_ms))?;
        Some(Job { id, from: Source::Report })
    }

    /// What goes while release is open: first attempts in order of arrival, then retries.
    pub(super) fn next_released(&mut self, now_unix_ms: u64) -> Option<Job> {
        if let Some(id) = self.front.pop_front() {
            return Some(Job { id, from: Source::Front });
        }
        match self.fresh.front() {
            // Its turn comes when it is there.
            Some(id) if self.ahead.is_reading(*id) => return None,
            Some(id) => {
                let id = *id;
                self.fresh.pop_front();
                return Some(Job { id, from: Source::Walk });
            }
            None => {}
        }
        let id = self.retries.pop_due(now_unix_ms)?;
        Some(Job { id, from: Source::Retry })
    }

    /// Takes a message out of every queue.
    pub(super) fn forget(&mut self, id: SpoolId) {
        for queue in [&mut self.canaries, &mut self.front, &mut self.fresh, &mut self.reports] {
            queue.retain(|other| *other != id);
        }
        self.ahead.take(id);
        self.retries.remove(id);
        self.report_retries.remove(id);
        self.uncertain.remove(&id);
        self.unreadable.remove(&id);
    }

    /// Puts a message that the walk met where it belongs.
    pub(super) fn sort_in(&mut self, summary: &Summary) {
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
    pub(super) fn open_now(&self) -> Duration {
        self.open + self.open_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// A report that was not taken is tried again later.
    pub(super) fn report_ended(&mut self, ended: &Ended) {
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
}
