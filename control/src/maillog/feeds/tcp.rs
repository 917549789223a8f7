//! Connections of syslog senders, with and without TLS.
//!
//! Invariants
//! - While the channel is full nothing is read: the sender waits, nothing is dropped.
//! - A message that did not come whole is told as lost, never as a line that looks whole.
//!
//! Not here: framing (`frames`), datagrams (`udp`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::maillog::feeds::counts::Reason;
use crate::maillog::feeds::frames::{Frame, Frames};
use crate::maillog::feeds::told::{Arrived, Lost, Origin, Source, Told, Why, one_line};
use crate::maillog::feeds::way::Way;
use proxy::session::Networks;

/// Pause after an accept that failed, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Octets that are read at once.
const READ_OCTETS: usize = 16 << 10;

/// What is bounded.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) connections_max: usize,
    pub(crate) message_octets_max: usize,
    pub(crate) idle: Duration,
    pub(crate) handshake: Duration,
}

/// Who may come in, and how many.
pub(crate) struct Door {
    allow: Networks,
    limits: Limits,
    way: Way,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// The channel is closed: nobody reads.
struct Closed;

impl Door {
    pub(crate) fn new(allow: Networks, limits: Limits, way: Way, tasks: TaskTracker) -> Self {
        let connections = Arc::new(Semaphore::new(limits.connections_max));
        Self { allow, limits, way, connections, tasks }
    }

    /// Accepts until the stop; at the stop those that still wait in the kernel.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.way.closed() => return,
                accepted = listener.accept() => accepted,
                () = self.way.drained() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer.ip().to_canonical(), tls.clone()),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, peer: IpAddr, tls: Option<TlsAcceptor>) {
        if !self.allow.contains(peer) {
            return self.count(Reason::TcpStranger, peer);
        }
        let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
            return self.count(Reason::TcpTooMany, peer);
        };
        let door = Arc::clone(self);
        self.tasks.spawn(async move {
            door.serve(stream, peer, tls).await;
            drop(permit);
        });
    }

    async fn serve(&self, stream: TcpStream, peer: IpAddr, tls: Option<TlsAcceptor>) {
        let Some(acceptor) = tls else {
            return self.read(stream, Origin::Tcp { peer, tls: false }, peer).await;
        };
        let shaken = tokio::select! {
            // A sender whose handshake is not done has sent nothing yet.
            () = self.way.asked.cancelled() => return,
            shaken = timeout(self.limits.handshake, acceptor.accept(stream)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => self.read(stream, Origin::Tcp { peer, tls: true }, peer).await,
            Ok(Err(error)) => {
                tracing::info!(%peer, %error, "handshake failed");
                self.count(Reason::Handshake, peer);
            }
            Err(_) => self.count(Reason::Handshake, peer),
        }
    }

    async fn read(&self, mut stream: impl AsyncRead + Unpin, origin: Origin, peer: IpAddr) {
        let mut frames = Frames::new(self.limits.message_octets_max);
        let mut buffer = vec![0; READ_OCTETS];
        while let Some(octets) = self.next(&mut stream, &mut buffer, peer).await {
            for frame in frames.push(buffer.get(..octets).unwrap_or_default()) {
                match self.tell(frame, &origin, peer).await {
                    Ok(Goes::On) => {}
                    Ok(Goes::NoFurther) | Err(Closed) => return,
                }
            }
        }
        if frames.unended() {
            self.count(Reason::Unended, peer);
            // Nobody reads: nobody to tell.
            self.lost(Some(1), Why::Unended, peer).await.ok();
        }
    }

    /// Reads, until there is nothing more to read.
    async fn next(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut [u8],
        peer: IpAddr,
    ) -> Option<usize> {
        let read = tokio::select! {
            biased;
            () = self.way.closed() => return None,
            read = timeout(self.limits.idle, stream.read(buffer)) => read,
            () = self.way.drained() => return None,
        };
        match read {
            Ok(Ok(octets)) => (octets > 0).then_some(octets),
            Ok(Err(error)) => {
                tracing::info!(%peer, %error, "a sender's connection broke");
                None
            }
            Err(_) => {
                self.count(Reason::Idle, peer);
                None
            }
        }
    }

    async fn tell(&self, frame: Frame, origin: &Origin, peer: IpAddr) -> Result<Goes, Closed> {
        match frame {
            Frame::Whole(message) => self.line(&message, origin).await?,
            Frame::Cut(beginning) => {
                self.line(&beginning, origin).await?;
                self.count(Reason::TooLong, peer);
                self.lost(Some(1), Why::TooLong, peer).await?;
            }
            Frame::Broken => {
                self.count(Reason::Unreadable, peer);
                self.lost(None, Why::Unreadable, peer).await?;
                return Ok(Goes::NoFurther);
            }
        }
        Ok(Goes::On)
    }

    async fn line(&self, message: &[u8], origin: &Origin) -> Result<(), Closed> {
        let line = one_line(message);
        if line.is_empty() {
            return Ok(());
        }
        let arrived_ns = self.way.clock.now_ns();
        let arrived = Arrived { line, from: origin.clone(), arrived_ns };
        self.way.to.send(Told::Line(arrived)).await.map_err(|_| Closed)
    }

    async fn lost(&self, lines: Option<u64>, why: Why, peer: IpAddr) -> Result<(), Closed> {
        let now = self.way.clock.now_ns();
        let source = Source::Tcp(peer);
        let lost = Lost { lines, why, source, first_ns: now, last_ns: now };
        self.way.to.send(Told::Lost(lost)).await.map_err(|_| Closed)
    }

    fn count(&self, reason: Reason, peer: IpAddr) {
        self.way.count(reason, 1, Some(peer));
    }
}

/// Whether a connection is read on.
enum Goes {
    On,
    NoFurther,
}
