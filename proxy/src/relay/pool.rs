//! Idle connections of one next hop: bound, expiry, reuse count.
//!
//! Key of a pool: gate and member, which fix source address, TLS and HELO name. The identity of the
//! client is not part of it: XFORWARD is said anew in every transaction.
//!
//! Invariants
//! - Only a connection that owes nothing and saw neither 421 nor a 5yz comes back.
//! - A connection is given only to the runtime in which it was opened: there it is watched, and its
//!   octets wake no other thread.
//! - A connection of an older epoch of the gate never comes back: behind a fence the pool says QUIT.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::runtime::{Handle, Id};

use super::config::Config;
use super::connection::Connection;

/// The idle connections of one next hop.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// By the runtime that each was opened in, youngest last.
    connections: HashMap<Id, Vec<Connection>>,
    count: usize,
    /// Raised by [`Pool::quit_all`]: what was taken before does not come back.
    generation: u64,
}

impl Pool {
    /// The youngest idle connection of this runtime that is still good, with the generation to give
    /// it back with.
    #[must_use]
    pub fn take(&self, config: &Config, now: Instant) -> (Option<Connection>, u64) {
        let mut idle = self.lock();
        let generation = idle.generation;
        while let Some(mut connection) = idle.pop(Handle::current().id()) {
            let age = now.saturating_duration_since(connection.idle_since());
            if age < config.pool_idle() && connection.is_fresh() {
                return (Some(connection), generation);
            }
        }
        (None, generation)
    }

    /// The generation for a connection that is opened now.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Gives a connection back; one that is not good any more is returned, to be closed.
    pub fn give(
        &self,
        mut connection: Connection,
        generation: u64,
        config: &Config,
    ) -> Option<Connection> {
        if !connection.is_reusable() || connection.messages() >= config.pool_messages {
            return Some(connection);
        }
        let mut idle = self.lock();
        if idle.generation != generation || idle.count >= config.pool_connections {
            return Some(connection);
        }
        connection.rest();
        idle.connections.entry(connection.home()).or_default().push(connection);
        idle.count += 1;
        None
    }

    /// Takes those that are idle for too long, to be closed.
    #[must_use]
    pub fn expired(&self, config: &Config, now: Instant) -> Vec<Connection> {
        let mut idle = self.lock();
        let old = |connection: &mut Connection| {
            now.saturating_duration_since(connection.idle_since()) >= config.pool_idle()
        };
        let expired: Vec<Connection> = idle
            .connections
            .values_mut()
            .flat_map(|connections| connections.extract_if(.., old))
            .collect();
        idle.count -= expired.len();
        expired
    }

    /// Empties the pool; what is out does not come back.
    #[must_use]
    pub fn quit_all(&self) -> Vec<Connection> {
        let mut idle = self.lock();
        idle.generation += 1;
        idle.count = 0;
        std::mem::take(&mut idle.connections).into_values().flatten().collect()
    }

    /// Connections idle now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().count
    }

    /// Is none idle?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn pop(&mut self, home: Id) -> Option<Connection> {
        let connection = self.connections.get_mut(&home)?.pop()?;
        self.count -= 1;
        Some(connection)
    }
}
