//! The one door out: connections to the members of a gate.
//!
//! Pass, replay, probes and reports all speak to a next hop through here, with the same source
//! address, TLS and name. The relay does not know which of them it serves.
//!
//! Invariants
//! - No connection is handed out to a server whose identity is not the one that was learned.
//! - A stale pooled connection is replaced only by the caller, and only while nothing of the
//!   transaction has been answered.
//!
//! Not here: orders that follow from an outage or a changed identity (`health`).

pub mod config;
pub mod connection;
pub mod next_hop;
pub mod pool;
pub mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;

pub use config::Config;
pub use connection::{Connection, FinishError, LinkError, Stage};
pub use next_hop::{HostPort, Known, Memory, NextHop, Probed, Reach, Seen, Stranger};
pub use pool::Pool;
pub use tls::{Tls, TlsDemand, TlsError};

/// What a relay counts; the caller gives it somewhere to put it.
pub trait Counts: Send + Sync {
    /// A connection was taken: from the pool, or newly opened.
    fn connection(&self, pooled: bool);
    /// A connection could not be opened.
    fn failed(&self);
}

/// The way to the members of one gate.
pub struct Relay {
    config: Config,
    members: Vec<Member>,
    memory: Arc<Memory>,
    trust: Trust,
    counts: Box<dyn Counts>,
}

struct Member {
    next_hop: NextHop,
    pool: Pool,
}

/// Who may answer in the place of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The server that was learned; one that was away for longer than `outage_max` needs a person's
    /// look first, where the gate holds by itself.
    Learned {
        /// Longest absence.
        outage_max: Option<Duration>,
    },
    /// Anyone: the host for reports of ours, which hold nothing that was to be encrypted.
    Anyone,
}

/// A connection that is out of its pool; it goes back by [`Relay::give_back`] or is closed.
#[derive(Debug)]
pub struct Taken {
    /// The connection.
    pub connection: Connection,
    /// Whether it was idle in the pool: then it may have died meanwhile.
    pub pooled: bool,
    member: usize,
    generation: u64,
}

/// Timeouts of a transaction, as the relay's configuration has them.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For the reply to MAIL.
    pub mail: Duration,
    /// For the reply to RCPT.
    pub rcpt: Duration,
    /// For the reply to DATA.
    pub data: Duration,
    /// For a block of mail data to be taken.
    pub block: Duration,
    /// For the reply to the end of mail data.
    pub final_reply: Duration,
}

impl Relay {
    /// The relay of a gate with these next hops.
    #[must_use]
    pub fn new(
        config: Config,
        next_hops: Vec<NextHop>,
        memory: Arc<Memory>,
        trust: Trust,
        counts: Box<dyn Counts>,
    ) -> Self {
        let members = next_hops
            .into_iter()
            .map(|next_hop| Member { next_hop, pool: Pool::default() })
            .collect();
        Self { config, members, memory, trust, counts }
    }

    /// Its configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Timeouts of a transaction.
    #[must_use]
    pub const fn waits(&self) -> Waits {
        Waits {
            mail: Duration::from_secs(self.config.mail_s),
            rcpt: Duration::from_secs(self.config.rcpt_s),
            data: Duration::from_secs(self.config.data_s),
            block: Duration::from_secs(self.config.data_block_s),
            final_reply: Duration::from_secs(self.config.final_reply_s),
        }
    }

    /// The next hops, in the order of the configuration.
    pub fn next_hops(&self) -> impl Iterator<Item = &NextHop> {
        self.members.iter().map(|member| &member.next_hop)
    }

    /// One next hop.
    #[must_use]
    pub fn next_hop(&self, member: usize) -> &NextHop {
        &self.members[member].next_hop
    }

    /// What is known of a member.
    #[must_use]
    pub fn known(&self, member: usize) -> Known {
        self.memory.known(&self.members[member].next_hop.key)
    }

    /// What was learned of all next hops.
    #[must_use]
    pub const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Is a member worth a try now?
    #[must_use]
    pub fn worth_a_try(&self, member: usize) -> bool {
        self.memory.worth_a_try(&self.members[member].next_hop.key, Instant::now())
    }

    /// Connections idle to a member.
    #[must_use]
    pub fn idle(&self, member: usize) -> usize {
        self.members[member].pool.len()
    }

    /// A connection to a member, from the pool unless `fresh`.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn take(&self, member: usize, fresh: bool) -> Result<Taken, LinkError> {
        let Member { next_hop, pool } = &self.members[member];
        let now = Instant::now();
        if !fresh {
            let (connection, generation) = pool.take(&self.config, now);
            if let Some(connection) = connection {
                self.counts.connection(true);
                return Ok(Taken { connection, pooled: true, member, generation });
            }
        }
        if !self.memory.worth_a_try(&next_hop.key, now) {
            return Err(LinkError::BackingOff);
        }
        let generation = pool.generation();
        // Boxed: rare, and large, where every session would have room for it.
        let connection = Box::pin(self.open(member)).await?;
        self.counts.connection(false);
        Ok(Taken { connection, pooled: false, member, generation })
    }

    /// Opens a connection and compares who answers with who was learned.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn open(&self, member: usize) -> Result<Connection, LinkError> {
        let connection = self.open_unchecked(member).await?;
        match self.judge(member, &connection) {
            Ok(changed) => {
                if changed {
                    self.save().await;
                }
                Ok(connection)
            }
            Err(stranger) => {
                self.counts.failed();
                self.save().await;
                connection.quit().await;
                Err(LinkError::Stranger(stranger))
            }
        }
    }

    /// Compares who answers with who was learned, and learns.
    ///
    /// # Errors
    /// [`Stranger`]: nothing may be given to it.
    pub fn judge(&self, member: usize, connection: &Connection) -> Result<bool, Stranger> {
        let key = &self.members[member].next_hop.key;
        match self.trust {
            Trust::Learned { outage_max } => self.memory.saw(key, &seen(connection), outage_max),
            Trust::Anyone => {
                self.memory.trust(key, &seen(connection));
                Ok(false)
            }
        }
    }

    /// Opens a connection to whoever answers: for probes only.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn open_unchecked(&self, member: usize) -> Result<Connection, LinkError> {
        let next_hop = &self.members[member].next_hop;
        match Connection::open(next_hop, &self.config).await {
            Ok(connection) => Ok(connection),
            Err(error) => {
                self.counts.failed();
                self.memory.missed(&next_hop.key, Instant::now());
                Err(error)
            }
        }
    }

    /// Puts a connection back into its pool, or closes it when it is of no more use.
    pub fn give_back(&self, taken: Taken) {
        let Taken { connection, member, generation, .. } = taken;
        if let Some(connection) =
            self.members[member].pool.give(connection, generation, &self.config)
        {
            tokio::spawn(connection.quit());
        }
    }

    /// Says QUIT on every idle connection; those that are out do not come back.
    pub async fn quit_all(&self) {
        let idle = self.members.iter().flat_map(|member| member.pool.quit_all());
        futures_util::future::join_all(idle.map(Connection::quit)).await;
    }

    /// Closes what has been idle for too long.
    pub async fn expire(&self) {
        let now = Instant::now();
        let idle = self.members.iter().flat_map(|member| member.pool.expired(&self.config, now));
        futures_util::future::join_all(idle.map(Connection::quit)).await;
    }

    /// A person takes whoever answers for the member from now on.
    pub async fn accept_identity(&self, member: usize) {
        self.memory.accept_identity(&self.members[member].next_hop.key);
        self.save().await;
    }

    /// Writes what was learned, before it is used: after a crash it must not be learned from another.
    pub async fn save(&self) {
        let memory = Arc::clone(&self.memory);
        let written = tokio::task::spawn_blocking(move || memory.save()).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "what was learned of the members could not be written");
            }
            Err(error) => {
                tracing::error!(%error, "what was learned of the members could not be written");
            }
        }
    }
}

/// What a connection found.
fn seen(connection: &Connection) -> Seen {
    let at_unix_ms = clock::unix_ms();
    Seen {
        extensions: *connection.extensions(),
        identity: connection.identity().to_owned(),
        tls: connection.tls().map(str::to_owned),
        at_unix_ms,
    }
}
