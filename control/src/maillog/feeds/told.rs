//! What a source tells: lines, losses, and that it is interrupted.
//!
//! Invariants
//! - A line is one line: no octet below 0x20, none 0x7f.
//! - A loss is told by whoever saw it, where the lines would have stood or as soon after as there
//!   is room; never silently.
//!
//! Not here: what a line says.

use std::net::IpAddr;
use std::sync::Arc;

/// What a source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A line.
    Line(Arrived),
    /// Lines that do not come, or not whole.
    Lost(Lost),
    /// A source does not deliver for now. It goes on where it was: nothing is lost by that alone.
    Down(Down),
}

/// A line that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The line, without its end.
    pub line: Vec<u8>,
    /// Where it came from, as we saw it; the host in the line is what its sender wrote.
    pub from: Origin,
    /// When it came, by our clock.
    pub arrived_ns: u64,
}

/// Where a line came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The journal of this machine.
    Journald {
        /// Reading goes on behind this entry; an opaque word of journald's.
        cursor: String,
    },
    /// A datagram.
    Udp {
        /// Its sender.
        peer: IpAddr,
    },
    /// A connection.
    Tcp {
        /// Its other end.
        peer: IpAddr,
        /// Whether by TLS.
        tls: bool,
    },
}

/// Lines that do not come, or not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// How many, where that is known.
    pub lines: Option<u64>,
    /// Why.
    pub why: Why,
    /// Whose.
    pub source: Source,
    /// When the first was lost, by our clock.
    pub first_ns: u64,
    /// When the last was lost, by our clock.
    pub last_ns: u64,
}

/// Whose lines are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Those of journald.
    Journald,
    /// Those of one sender of datagrams; of any of them where it is not known.
    Udp(Option<IpAddr>),
    /// Those of one connection.
    Tcp(IpAddr),
}

/// Why lines are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// We did not take datagrams as fast as they came.
    NoRoom,
    /// The kernel dropped datagrams before we saw them.
    Kernel,
    /// Too long: of a syslog message the beginning is told as a line just before this.
    TooLong,
    /// What came cannot be taken apart into messages, or the entry is not readable.
    Unreadable,
    /// The connection ended within a message. Its sender may send it again.
    Unended,
    /// The entry behind which reading should go on is not in the journal any more: those between
    /// it and the next line may be gone too.
    CursorGone,
}

/// A source that does not deliver for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// What happened, for people.
    pub why: String,
    /// When, by our clock.
    pub at_ns: u64,
    /// When it is tried again.
    pub retry_ns: u64,
}

/// Tells the time in nanoseconds since 1970.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock.
    #[must_use]
    pub fn new(now_ns: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ns))
    }

    /// Now.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Clock")
    }
}

/// Makes one line of a text: its line ends and NULs at the end go, control octets within become
/// `#ooo` in octal, as rsyslog writes them.
#[must_use]
pub fn one_line(text: &[u8]) -> Vec<u8> {
    let end = text.iter().rposition(|octet| !matches!(octet, b'\r' | b'\n' | 0));
    let text = text.get(..end.map_or(0, |end| end + 1)).unwrap_or_default();
    let mut line = Vec::with_capacity(text.len());
    for &octet in text {
        if octet.is_ascii_control() {
            line.extend([b'#', b'0' + (octet >> 6), b'0' + (octet >> 3 & 7), b'0' + (octet & 7)]);
        } else {
            line.push(octet);
        }
    }
    line
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_octets_are_escaped_as_rsyslog_does() {
        for (text, line) in [
            (&b"a: b"[..], &b"a: b"[..]),
            (b"a\nb\tc\x7fd\0e", b"a#012b#011c#177d#000e"),
            (b"a b \r\n\0\n", b"a b "),
            (b"\r\n", b""),
            (b"", b""),
            (b"\xffgr\xc3\xbcn #012", b"\xffgr\xc3\xbcn #012"),
        ] {
            assert_eq!(one_line(text), line, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_one_line(text: Vec<u8>) {
            prop_assert!(!one_line(&text).iter().any(u8::is_ascii_control));
        }
    }
}
