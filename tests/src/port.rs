//! Loopback ports that nobody else will take.
//!
//! Binding port 0 and closing again gives a port of the range that outgoing connections use as
//! well: under load one of them would sit on it before the server under test does. So ports come
//! from below that range, and each is reserved, for as long as this process lives, by an abstract
//! Unix socket of its number: no two test processes on this machine are given the same one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// First port given out; the last is below 32768, where outgoing ports begin.
const FIRST: u32 = 15_000;
const COUNT: u32 = 17_000;

static NEXT: AtomicU32 = AtomicU32::new(0);
/// Kept open until the process ends: they are the reservations.
static RESERVED: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());

/// A free port of 127.0.0.1, ours until this process ends.
///
/// # Panics
/// When none is left.
#[must_use]
pub fn free() -> u16 {
    let base = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + base.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).expect("the range ends below 32768");
        if let Some(reservation) = reserve(port) {
            RESERVED.lock().unwrap().push(reservation);
            return port;
        }
    }
    panic!("no free loopback port");
}

/// `127.0.0.1` with a port of our own.
#[must_use]
pub fn free_address() -> SocketAddr {
    loopback(free())
}

/// `127.0.0.1` with this port.
#[must_use]
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn reserve(port: u16) -> Option<UnixDatagram> {
    let name = format!("lockgate-test-port-{port}");
    let address = UnixAddr::from_abstract_name(name.as_bytes()).ok()?;
    let reservation = UnixDatagram::bind_addr(&address).ok()?;
    // Someone outside may listen there.
    TcpListener::bind(loopback(port)).ok()?;
    Some(reservation)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_port_is_given_out_once_and_can_be_bound() {
        let ports: HashSet<u16> = (0..50).map(|_| free()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            TcpListener::bind(loopback(port)).unwrap();
        }
    }
}
