//! What a person does to held mail: remove, retry, fail, or say that it was delivered.
//!
//! Invariants
//! - Every change is a mark, synced before it is answered, and a log line with its reason.
//! - A message that is being tried is not changed: its attempt decides first.
//! - A report to the sender is stored, synced, before the forward-path is discharged.

use smtp::{Envelope, Recipient};

use super::{Replayer, dsn};
use crate::clock::{rfc_5322, unix_micros, unix_ms};
use crate::spool::{Arrival, Done, Lane, LoadError, Mark, PathState, Paths, SpoolId, Text};

/// Octets of the header that a report looks through.
const HEADER_MAX: usize = 64 * 1024;

/// How an uncertain message was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Journal and logs show what became of it.
    Evidence,
    /// A person decided.
    Person,
    /// The configured rule, after its time.
    Rule,
}

impl By {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Evidence, Self::Person, Self::Rule];

    /// The word in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Evidence => "evidence",
            Self::Person => "person",
            Self::Rule => "rule",
        }
    }
}

/// What to do with a held message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Give up custody without delivery.
    Remove {
        /// Who and why.
        reason: String,
    },
    /// Try at the next chance, whatever it waits for.
    Retry,
    /// Report refused forward-paths to the sender.
    Fail,
    /// An uncertain one did arrive.
    Delivered {
        /// Who says so, and why.
        reason: String,
        /// How that is known.
        by: By,
    },
    /// An uncertain one was never taken.
    Absent {
        /// Who says so, and why.
        reason: String,
        /// How that is known.
        by: By,
    },
}

impl Replayer {
    /// Changes one message.
    ///
    /// # Errors
    /// Why it was left as it was, in words.
    pub async fn change(&self, id: SpoolId, change: Change) -> Result<(), String> {
        let _claim = self.claim(id)?;
        let Some(summary) = self.corridor.spool.summary(id) else {
            return Err("it is not held (any more)".into());
        };
        match change {
            Change::Remove { reason } => {
                tracing::warn!(%id, gate = self.corridor.gate.name(), %reason, "held: removed");
                let text = Text::new(&reason);
                let marks = marks(&summary.paths, |_| {
                    Some(Mark::Done { how: Done::Removed, reply: text.clone() })
                });
                self.write(id, marks).await
            }
            Change::Retry => {
                let at_unix_ms = unix_ms();
                let marks = marks(&summary.paths, |state| retry(state, at_unix_ms));
                if marks.is_empty() && !summary.paths.iter().any(PathState::is_due) {
                    return Err("none of its forward-paths waits to be tried again".into());
                }
                if !marks.is_empty() {
                    self.write(id, marks).await?;
                }
                tracing::info!(%id, gate = self.corridor.gate.name(), "held: due now");
                Ok(())
            }
            Change::Fail => self.fail(id, &summary.paths, summary.lane).await,
            Change::Delivered { reason, by } => {
                let reply = Text::new(&format!("settled, it was taken: {reason}"));
                let marks = marks(&summary.paths, |state| match state {
                    PathState::Offered { .. } => {
                        Some(Mark::Done { how: Done::Relayed, reply: reply.clone() })
                    }
                    _ => None,
                });
                if marks.is_empty() {
                    return Err("none of its forward-paths is uncertain".into());
                }
                let gate = self.corridor.gate.name();
                tracing::warn!(%id, gate, %reason, by = by.as_str(), "held: settled as delivered");
                self.write(id, marks).await?;
                self.corridor.metrics.settled(by.as_str());
                Ok(())
            }
            Change::Absent { reason, by } => {
                self.send_again(id, &summary.paths, by).await?;
                let gate = self.corridor.gate.name();
                tracing::info!(%id, gate, %reason, by = by.as_str(), "held: never taken, sent again");
                Ok(())
            }
        }
    }

    /// The rule for uncertain mail without evidence: it is sent again. Only what is uncertain is
    /// touched; what waits for a person goes on waiting.
    ///
    /// # Errors
    /// Why it was left as it was, in words.
    pub(super) async fn settle(&self, id: SpoolId) -> Result<(), String> {
        let _claim = self.claim(id)?;
        let Some(summary) = self.corridor.spool.summary(id) else {
            return Err("it is not held (any more)".into());
        };
        self.send_again(id, &summary.paths, By::Rule).await
    }

    /// What is uncertain is due again; nothing else is touched.
    async fn send_again(&self, id: SpoolId, paths: &Paths, by: By) -> Result<(), String> {
        let at_unix_ms = unix_ms();
        let marks = marks(paths, |state| match state {
            PathState::Offered { .. } => retry(state, at_unix_ms),
            _ => None,
        });
        if marks.is_empty() {
            return Err("none of its forward-paths is uncertain".into());
        }
        self.write(id, marks).await?;
        self.corridor.metrics.settled(by.as_str());
        Ok(())
    }

    /// Keeps attempts and other changes away from a message while it is changed.
    fn claim(&self, id: SpoolId) -> Result<Claim<'_>, String> {
        let mut inner = self.lock();
        if inner.in_flight.contains(&id) {
            return Err("it is being tried now; ask again when the attempt has ended".into());
        }
        if !inner.claimed.insert(id) {
            return Err("it is being changed now; ask again in a moment".into());
        }
        Ok(Claim { replayer: self, id })
    }

    async fn write(&self, id: SpoolId, marks: Vec<(u32, Mark)>) -> Result<(), String> {
        self.corridor.spool.mark(id, marks).await.map_err(|error| error.to_string())
    }

    /// Turns the refused forward-paths of a message into a report to its sender.
    async fn fail(&self, id: SpoolId, paths: &Paths, lane: Lane) -> Result<(), String> {
        let refused: Vec<(usize, String)> = paths
            .iter()
            .enumerate()
            .filter_map(|(index, state)| match state {
                PathState::Kept { reply, .. } => Some((index, reply.as_str().to_owned())),
                _ => None,
            })
            .collect();
        if refused.is_empty() {
            return Err("none of its forward-paths was refused".into());
        }
        if lane == Lane::Dsn {
            return Err("it is a report itself: nobody is told of a report that failed".into());
        }
        let (envelope, header, arrived_unix_ms) =
            self.look(id).await.map_err(|error| error.to_string())?;
        let failures: Vec<dsn::Failure<'_>> = refused
            .iter()
            .filter_map(|(index, reply)| {
                let recipient: &Recipient = envelope.recipients().get(*index)?;
                Some(dsn::Failure { recipient, reply })
            })
            .collect();
        let own = self.corridor.ids.next(unix_micros());
        let report = dsn::report(&dsn::Report {
            sender: &envelope.sender,
            failures: &failures,
            header: &header,
            host: &self.corridor.host,
            remote: None,
            id: &own.to_string(),
            date: &rfc_5322(unix_ms()),
            arrival_date: &rfc_5322(arrived_unix_ms),
        });
        let how = match report {
            Some(_) if self.reports.is_none() => {
                return Err("its sender wants a report, and the gate has no `dsn_next_hop` to give it to: set one, or `held remove` it".into());
            }
            Some((envelope, wire)) => {
                self.store(own, envelope, &wire).await?;
                Done::Reported
            }
            None => Done::Dropped,
        };
        tracing::warn!(%id, gate = self.corridor.gate.name(), recipients = failures.len(), reported = how == Done::Reported, "held: failed");
        let marks = refused
            .into_iter()
            .filter_map(|(index, reply)| {
                let index = u32::try_from(index).ok()?;
                Some((index, Mark::Done { how, reply: reply.into() }))
            })
            .collect();
        self.write(id, marks).await
    }

    async fn look(&self, id: SpoolId) -> Result<(Envelope, Vec<u8>, u64), LoadError> {
        let spool = self.corridor.spool.clone();
        tokio::task::spawn_blocking(move || {
            let mut message = spool.load(&id)?;
            let mut header = Vec::new();
            while header.len() < HEADER_MAX {
                let Some(piece) = message.data.next()? else { break };
                header.extend_from_slice(&piece);
            }
            Ok((message.envelope, header, message.arrival.held_at_unix_ms))
        })
        .await
        .unwrap_or(Err(LoadError::NotHeld(id)))
    }

    /// Stores a report as held mail of its own lane.
    async fn store(
        &self,
        id: crate::id::TransactionId,
        envelope: Envelope,
        wire: &[u8],
    ) -> Result<(), String> {
        let spool = &self.corridor.spool;
        let words = |error: crate::spool::HoldError| error.to_string();
        let reservation = spool.reserve(wire.len() as u64).map_err(words)?;
        let arrival = Arrival {
            held_at_unix_ms: unix_ms(),
            client: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            client_name: self.corridor.host.to_string(),
            protocol: "ESMTP".into(),
            tls: false,
        };
        let gate = &self.corridor.gate.plan().name;
        let mut writer =
            spool.begin(reservation, id, gate, Lane::Dsn, envelope, arrival).map_err(words)?;
        writer.write(wire).await.map_err(words)?;
        let id = writer.commit(None).await.map_err(words)?;
        // It does not wait for the walk, which stands still while the gate holds.
        self.lock().reports.push_back(id);
        self.wake.notify_one();
        Ok(())
    }
}

/// A message that is being changed. When the change ends, the replayer looks at it anew.
struct Claim<'a> {
    replayer: &'a Replayer,
    id: SpoolId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let summary = self.replayer.corridor.spool.summary(self.id);
        let mut inner = self.replayer.lock();
        inner.claimed.remove(&self.id);
        inner.forget(self.id);
        if let Some(summary) = summary {
            inner.sort_in(&summary);
        }
        drop(inner);
        self.replayer.wake.notify_one();
    }
}

fn marks(paths: &Paths, mark: impl Fn(&PathState) -> Option<Mark>) -> Vec<(u32, Mark)> {
    paths
        .iter()
        .enumerate()
        .filter(|(_, state)| !state.is_done())
        .filter_map(|(index, state)| Some((u32::try_from(index).ok()?, mark(state)?)))
        .collect()
}

/// The mark that makes a forward-path due now; none for one that was never tried.
fn retry(state: &PathState, at_unix_ms: u64) -> Option<Mark> {
    let (attempts, open_ms, reply) = match state {
        PathState::Due { attempts: 0, .. } | PathState::Done { .. } => return None,
        PathState::Due { attempts, open_ms, reply, .. } => (*attempts, *open_ms, reply.clone()),
        PathState::Offered { attempts, open_ms } => (*attempts, *open_ms, Text::NONE),
        PathState::Kept { reply, .. } => (1, 0, reply.clone()),
    };
    Some(Mark::Due { at_unix_ms, attempts: attempts.max(1), open_ms, reply })
}
