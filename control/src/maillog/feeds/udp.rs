//! Datagrams of syslog senders (RFC 5426): one is one message.
//!
//! UDP has no way to make a sender wait, so that a full channel loses datagrams. What is lost is
//! kept as numbers and told before the next line that there is room for.
//!
//! Invariants
//! - A lost datagram is told: those that we drop by sender, those that the kernel drops in one.
//! - What is kept of losses is bounded: beyond [`SENDERS_MAX`] senders without the sender.
//!
//! Not here: connections (`tcp`).

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::maillog::feeds::counts::Reason;
use crate::maillog::feeds::told::{Arrived, Lost, Origin, Source, Told, Why, one_line};
use crate::maillog::feeds::way::Way;
use proxy::session::Networks;

/// Longest datagram, and one octet.
const DATAGRAM_OCTETS: usize = 64 << 10;

/// Senders whose losses are told apart.
const SENDERS_MAX: usize = 1024;

/// How often the kernel is asked what it dropped.
const KERNEL_EVERY: Duration = Duration::from_secs(10);

/// Pause after an error of the socket.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes datagrams.
pub(crate) struct Receiver {
    socket: UdpSocket,
    allow: Networks,
    octets_max: usize,
    way: Way,
    kernel: Kernel,
    losses: Losses,
}

/// Losses that are not told yet.
#[derive(Debug, Default)]
struct Losses(BTreeMap<(Source, Why), Loss>);

#[derive(Clone, Copy, Debug)]
struct Loss {
    lines: u64,
    first_ns: u64,
    last_ns: u64,
}

/// What the kernel dropped of one socket.
#[derive(Debug)]
struct Kernel {
    inode: u64,
    seen: u32,
}

impl Receiver {
    pub(crate) fn new(
        socket: std::net::UdpSocket,
        allow: Networks,
        octets_max: usize,
        way: Way,
    ) -> io::Result<Self> {
        let kernel = Kernel::new(&socket)?;
        let socket = UdpSocket::from_std(socket)?;
        Ok(Self { socket, allow, octets_max, way, kernel, losses: Losses::default() })
    }

    /// Takes datagrams until the stop, then those that have come.
    pub(crate) async fn run(mut self) {
        let mut buffer = vec![0; DATAGRAM_OCTETS];
        let to = self.way.to.clone();
        let mut ask = interval(KERNEL_EVERY);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.way.closed() => break,
                room = to.reserve(), if !self.losses.is_empty() => {
                    let (Ok(room), Some(lost)) = (room, self.losses.pop()) else { return };
                    room.send(Told::Lost(lost));
                }
                _ = ask.tick() => self.ask_kernel(),
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((octets, peer)) => {
                        let message = buffer.get(..octets).unwrap_or_default();
                        self.take(message, peer.ip().to_canonical());
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a datagram cannot be received");
                        sleep(PAUSE).await;
                    }
                },
                () = self.way.drained() => break,
            }
        }
        self.ask_kernel();
        while let Some(lost) = self.losses.pop() {
            if to.send(Told::Lost(lost)).await.is_err() {
                return;
            }
        }
    }

    fn take(&mut self, message: &[u8], peer: IpAddr) {
        if !self.allow.contains(peer) {
            return self.way.count(Reason::UdpStranger, 1, Some(peer));
        }
        let line = one_line(message.get(..self.octets_max).unwrap_or(message));
        if line.is_empty() {
            return;
        }
        let now_ns = self.way.clock.now_ns();
        let arrived = Arrived { line, from: Origin::Udp { peer }, arrived_ns: now_ns };
        if !self.tell(arrived) {
            self.way.count(Reason::UdpNoRoom, 1, Some(peer));
            self.losses.add(Source::Udp(Some(peer)), Why::NoRoom, 1, now_ns);
        } else if message.len() > self.octets_max {
            self.way.count(Reason::TooLong, 1, Some(peer));
            self.losses.add(Source::Udp(Some(peer)), Why::TooLong, 1, now_ns);
        }
    }

    /// Tells a line, where there is room for it and for all losses before it.
    fn tell(&mut self, arrived: Arrived) -> bool {
        while !self.losses.is_empty() {
            let Ok(room) = self.way.to.try_reserve() else { return false };
            if let Some(lost) = self.losses.pop() {
                room.send(Told::Lost(lost));
            }
        }
        match self.way.to.try_send(Told::Line(arrived)) {
            // Where nobody reads any more nobody misses it.
            Ok(()) | Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(_)) => false,
        }
    }

    fn ask_kernel(&mut self) {
        let dropped = self.kernel.dropped();
        if dropped > 0 {
            self.way.count(Reason::UdpKernel, dropped, None);
            let now_ns = self.way.clock.now_ns();
            self.losses.add(Source::Udp(None), Why::Kernel, dropped, now_ns);
        }
    }
}

impl Losses {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, source: Source, why: Why, lines: u64, now_ns: u64) {
        let known = self.0.contains_key(&(source, why)) || self.0.len() < SENDERS_MAX;
        let source = if known { source } else { Source::Udp(None) };
        let loss = self.0.entry((source, why)).or_insert(Loss {
            lines: 0,
            first_ns: now_ns,
            last_ns: now_ns,
        });
        loss.lines = loss.lines.saturating_add(lines);
        loss.last_ns = now_ns;
    }

    fn pop(&mut self) -> Option<Lost> {
        let ((source, why), Loss { lines, first_ns, last_ns }) = self.0.pop_first()?;
        Some(Lost { lines: Some(lines), why, source, first_ns, last_ns })
    }
}

impl Kernel {
    fn new(socket: &impl AsRawFd) -> io::Result<Self> {
        let descriptor = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let inode = std::fs::metadata(descriptor)?.ino();
        Ok(Self { inode, seen: 0 })
    }

    /// How many more than when last asked. Files of the kernel: reading them waits for no disk.
    fn dropped(&mut self) -> u64 {
        let now = ["/proc/self/net/udp", "/proc/self/net/udp6"]
            .iter()
            .filter_map(|path| std::fs::read_to_string(path).ok())
            .find_map(|table| drops(&table, self.inode));
        // Its number has 32 bits and wraps.
        let more = now.map_or(0, |now| now.wrapping_sub(self.seen));
        self.seen = now.unwrap_or(self.seen);
        more.into()
    }
}

/// The drops of a socket in a table of `/proc/net/udp`.
fn drops(table: &str, inode: u64) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut parts = line.split_whitespace().skip(9);
        let found: u64 = parts.next()?.parse().ok()?;
        if found == inode { parts.nth(2)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_it_dropped_of_a_socket() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(4096).unwrap();
        let mut kernel = Kernel::new(&socket).unwrap();
        assert_eq!(kernel.dropped(), 0);
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sent = 0;
        // Loopback delivers, or drops, before the send returns.
        for _ in 0..100 {
            sender.send_to(&[b'a'; 1000], socket.local_addr().unwrap()).unwrap();
            sent += 1;
        }
        let dropped = kernel.dropped();
        socket.set_nonblocking(true).unwrap();
        let mut received = 0;
        while socket.recv(&mut [0; 1000]).is_ok() {
            received += 1;
        }
        assert!(received < sent);
        assert_eq!(dropped, sent - received);
        assert_eq!(kernel.dropped(), 0, "each is counted once");
    }

    #[test]
    fn a_table_of_another_form_has_no_drops() {
        let line = " 1: 0100007F:1 0:0 07 0:0 00:0 0 0 0 77 2 00 5";
        assert_eq!(drops(&format!("head\n{line}"), 77), Some(5));
        assert_eq!(drops(&format!("head\n{line}"), 78), None);
        assert_eq!(drops(line, 77), None);
        assert_eq!(drops("", 77), None);
        assert_eq!(drops("head\nshort", 77), None);
    }

    #[test]
    fn losses_are_kept_by_sender_and_bounded() {
        let mut losses = Losses::default();
        let sender = |number: u32| Source::Udp(Some(IpAddr::from(number.to_be_bytes())));
        let known = u32::try_from(SENDERS_MAX).unwrap();
        for number in 0..known + 10 {
            losses.add(sender(number), Why::NoRoom, 1, u64::from(number));
        }
        losses.add(sender(0), Why::NoRoom, 2, 5000);
        let mut told = Vec::new();
        while let Some(lost) = losses.pop() {
            told.push(lost);
        }
        assert_eq!(told.len(), SENDERS_MAX + 1);
        assert_eq!((told[0].source, told[0].lines), (Source::Udp(None), Some(10)));
        assert_eq!((told[1].source, told[1].lines), (sender(0), Some(3)));
        assert_eq!((told[1].first_ns, told[1].last_ns), (0, 5000));
        let lines: u64 = told.iter().filter_map(|lost| lost.lines).sum();
        assert_eq!(lines, u64::from(known) + 12, "none is forgotten");
    }
}
