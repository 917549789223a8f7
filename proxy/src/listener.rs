//! The accept loops of a gate, one for each worker: who may connect, and how many.
//!
//! Each worker has a socket of its own at the same address (SO_REUSEPORT); the kernel spreads the
//! connections over them.
//!
//! Invariants
//! - An address that another process listens on is an error, though it might let us share it.
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
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
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

/// The door of one gate, before it opens.
pub struct Listener {
    /// One for each worker.
    sockets: Vec<std::net::TcpListener>,
    door: Door,
}

/// Who may come in, and how many.
struct Door {
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
    /// Binds the address, as often as there are workers.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn bind(
        address: SocketAddr,
        workers: usize,
        service: Arc<Service>,
        allow: Networks,
        deny: &[IpAddr],
    ) -> io::Result<Self> {
        let deny = deny.to_vec();
        let door = Door {
            service,
            allow,
            deny,
            counts: Arc::default(),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        };
        Ok(Self { sockets: bind_all(address, workers)?, door })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not know any more.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.sockets.first().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }

    /// Accepts on every worker until `stop`; sessions run in `tasks`, on the worker that accepted
    /// them, and hear of the stop themselves.
    #[must_use]
    pub fn spawn(
        self,
        workers: &[Handle],
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Vec<JoinHandle<()>> {
        let door = Arc::new(self.door);
        self.sockets
            .into_iter()
            .zip(workers)
            .map(|(socket, worker)| {
                let (door, tasks, stop) = (Arc::clone(&door), tasks.clone(), stop.clone());
                worker.spawn(async move { door.run(socket, tasks, stop).await })
            })
            .collect()
    }
}

impl Door {
    async fn run(
        &self,
        socket: std::net::TcpListener,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let gate = self.service.corridor.gate.name();
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(gate, %error, "a worker cannot accept"),
        };
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &tasks, &stop),
                Err(error) => {
                    tracing::warn!(gate, %error, "accept failed");
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

fn bind_all(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if workers <= 1 {
        return Ok(vec![bind(address, Sharing::Alone)?]);
    }
    if address.port() != 0 {
        // Whoever is there already is found out by a socket that does not share.
        drop(bind(address, Sharing::Alone)?);
    }
    let first = bind(address, Sharing::Workers)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    while sockets.len() < workers {
        sockets.push(bind(address, Sharing::Workers)?);
    }
    Ok(sockets)
}

/// Whether other sockets of ours listen at the same address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Workers,
}

fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the former process to time out.
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Workers {
        socket.set_reuse_port(true)?;
    }
    // Nagle's algorithm would hold a reply back for the client's delayed acknowledgement. Connections
    // have what the listening socket has: one system call less for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_an_address_with_one_another_and_with_nobody_else() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = bind_all(any, 3).unwrap();
        assert_eq!(sockets.len(), 3);
        let address = sockets[0].local_addr().unwrap();
        for workers in [1, 2] {
            let error = bind_all(address, workers).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{workers} workers");
        }
        drop(sockets);
        assert_eq!(bind_all(address, 2).unwrap().len(), 2);
    }

    #[test]
    fn an_accepted_connection_has_no_nagle() {
        for workers in [1, 2] {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let sockets = bind_all(any, workers).unwrap();
            let client = std::net::TcpStream::connect(sockets[0].local_addr().unwrap()).unwrap();
            let accepted = loop {
                if let Some(accepted) = sockets.iter().find_map(|socket| socket.accept().ok()) {
                    break accepted.0;
                }
                std::thread::yield_now();
            };
            assert!(accepted.nodelay().unwrap());
            drop(client);
        }
    }
}
