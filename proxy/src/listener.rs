//! The accept loop of a gate: who may connect, and how many.
//!
//! Invariants
//! - A client that is not allowed hears 554 and can do nothing.
//! - At the limit a new connection hears 421 at once; those inside go on.
//!
//! Not here: what is said on a connection (`session`).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smtp::Reply;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::session::{self, Networks, Service};

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;

/// Pause after an accept that failed, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that are being turned away at once.
const STRANGERS_MAX: usize = 64;

/// How long a client that is turned away may take to hear it.
const FAREWELL: Duration = Duration::from_secs(5);

/// The door of one gate.
pub struct Listener {
    socket: TcpListener,
    service: Arc<Service>,
    allow: Networks,
    /// Never clients of this gate, whatever `allow` says: its own members (loops).
    deny: Vec<IpAddr>,
    counts: Arc<Counts>,
    /// Bounds those that are told to go away; beyond it they are just closed.
    strangers: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Counts {
    by_client: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that is counted while this lives.
struct Counted {
    counts: Arc<Counts>,
    service: Arc<Service>,
    client: IpAddr,
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn bind(
        address: SocketAddr,
        service: Arc<Service>,
        allow: Networks,
        deny: &[IpAddr],
    ) -> io::Result<Self> {
        let deny = deny.to_vec();
        Ok(Self {
            socket: bind(address)?,
            service,
            allow,
            deny,
            counts: Arc::default(),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not know any more.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until `stop`; sessions run in `tasks` and hear of the stop themselves.
    pub async fn run(self, tasks: TaskTracker, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &tasks, &stop),
                Err(error) => {
                    tracing::warn!(gate = self.service.corridor.gate.name(), %error, "accept failed");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let metrics = &self.service.corridor.metrics;
        // Nagle's algorithm would hold a reply back for the client's delayed acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(client = %peer, %error, "TCP_NODELAY");
        }
        if !self.allow.contains(peer.ip()) || self.deny.contains(&peer.ip().to_canonical()) {
            metrics.refused_connections.inc();
            tracing::info!(gate = self.service.corridor.gate.name(), client = %peer, "not allowed: 554");
            if let Ok(permit) = Arc::clone(&self.strangers).try_acquire_owned() {
                tasks.spawn(async move {
                    session::turn_away(stream).await;
                    drop(permit);
                });
            }
            return;
        }
        let Some(counted) = self.count(peer.ip()) else {
            metrics.refused_connections.inc();
            tracing::warn!(gate = self.service.corridor.gate.name(), client = %peer, "too many connections: 421");
            if let Ok(permit) = Arc::clone(&self.strangers).try_acquire_owned() {
                tasks.spawn(async move {
                    refuse(stream).await;
                    drop(permit);
                });
            }
            return;
        };
        metrics.connections_total.inc();
        let service = Arc::clone(&self.service);
        let stop = stop.clone();
        tasks.spawn(async move {
            session::serve(service, stream, peer, stop).await;
            drop(counted);
        });
    }

    fn count(&self, client: IpAddr) -> Option<Counted> {
        let config = &self.service.config;
        let client = client.to_canonical();
        let mut by_client = self.counts.lock();
        let total: usize = by_client.values().sum();
        let own = by_client.entry(client).or_default();
        if total >= config.connections_max || *own >= config.connections_per_client_max {
            if *own == 0 {
                by_client.remove(&client);
            }
            return None;
        }
        *own += 1;
        self.service.corridor.metrics.connections.inc();
        Some(Counted {
            counts: Arc::clone(&self.counts),
            service: Arc::clone(&self.service),
            client,
        })
    }
}

impl Counts {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.service.corridor.metrics.connections.dec();
        let mut by_client = self.counts.lock();
        if let Some(own) = by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                by_client.remove(&self.client);
            }
        }
    }
}

async fn refuse(mut stream: TcpStream) {
    let mut output = Vec::new();
    Reply::TOO_MANY_CONNECTIONS.encode(&mut output);
    // Whether or not it hears, it is turned away.
    tokio::time::timeout(FAREWELL, stream.write_all(&output)).await.ok();
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the former process to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
