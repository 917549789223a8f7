//! The load: what is sent, what it took, and the two ends that it travels between.
//!
//! Both ends are made to be cheap, so that what stands between them is what is measured. Each runs
//! as a process of its own ([`command`]), so that its CPU time can be told apart.

pub(crate) mod clock;
pub(crate) mod command;
pub(crate) mod dialogue;
pub(crate) mod generator;
pub(crate) mod idle;
pub(crate) mod reply;
pub(crate) mod sink;
pub(crate) mod talk;
pub(crate) mod tls;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// How long a side waits for the other before it gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What every message begins with.
const HEADER: &[u8] = b"From: <sender@bench.test>\r\nTo: <recipient@bench.test>\r\n\
    Subject: bench\r\nMessage-ID: <1@bench.test>\r\n\r\n";

/// Characters of a line of text, CRLF not counted.
const LINE_CHARACTERS: usize = 76;

/// What to send.
#[derive(Clone, Copy, Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Messages in all.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) messages: u64,
    /// Sessions side by side.
    #[arg(long, default_value_t = 100)]
    pub(crate) sessions: usize,
    /// Octets of each message, final dot not counted.
    #[arg(long, default_value_t = 10 * 1024)]
    pub(crate) octets: usize,
    /// MAIL, RCPT and DATA in one write.
    #[arg(long)]
    pub(crate) pipelining: bool,
    /// A new connection for each message.
    #[arg(long)]
    pub(crate) reconnect: bool,
    /// Distinct pairs of sender and recipient, taken in turns.
    #[arg(long, default_value_t = 1)]
    pub(crate) pairs: u32,
}

impl Load {
    /// The same as arguments of `bench send`.
    #[must_use]
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        for (name, value) in [
            ("--messages", self.messages),
            ("--sessions", self.sessions as u64),
            ("--octets", self.octets as u64),
            ("--pairs", self.pairs.into()),
        ] {
            arguments.extend([name.to_owned(), value.to_string()]);
        }
        for (name, given) in [("--pipelining", self.pipelining), ("--reconnect", self.reconnect)] {
            arguments.extend(given.then(|| name.to_owned()));
        }
        arguments
    }

    /// Sessions that have a message to send.
    fn sessions_used(&self) -> usize {
        self.sessions.min(usize::try_from(self.messages).unwrap_or(usize::MAX))
    }

    fn ensure_sensible(&self) -> Result<()> {
        ensure!(self.messages > 0, "no messages to send");
        ensure!(self.sessions > 0, "no sessions to send through");
        ensure!(self.pairs > 0, "no pair of sender and recipient");
        Ok(())
    }

    /// What is said for the message of this number: all of it when pipelining, else MAIL alone.
    fn write_opening(&self, number: u64, commands: &mut String) {
        commands.clear();
        let pair = number % u64::from(self.pairs);
        // Writing to a string cannot fail.
        write!(commands, "MAIL FROM:<sender{pair}@bench.test>\r\n").ok();
        if self.pipelining {
            write!(commands, "RCPT TO:<recipient{pair}@bench.test>\r\nDATA\r\n").ok();
        }
    }

    /// RCPT for the message of this number.
    fn write_rcpt(&self, number: u64, commands: &mut String) {
        commands.clear();
        let pair = number % u64::from(self.pairs);
        write!(commands, "RCPT TO:<recipient{pair}@bench.test>\r\n").ok();
    }
}

/// What it took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Messages that got their final 250.
    pub(crate) messages: u64,
    /// From the first connection, or from when all sessions were open, to the last reply.
    pub(crate) elapsed_ns: u64,
    /// Median latency: from MAIL, or from the connection, to the final 250.
    pub(crate) p50_ns: u64,
    /// The latency that one message in a hundred exceeded.
    pub(crate) p99_ns: u64,
    /// The longest latency.
    pub(crate) max_ns: u64,
    /// CPU time of the sender within the elapsed time.
    pub(crate) cpu_ns: u64,
}

/// Measures from when it is made.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    cpu_began_ns: u64,
    latency: Histogram<u64>,
}

impl Meter {
    fn start() -> Result<Self> {
        let latency = Histogram::new(3).context("cannot make a histogram")?;
        Ok(Self { began: Instant::now(), cpu_began_ns: clock::thread_cpu_ns()?, latency })
    }

    /// Notes a message that got its final 250.
    fn note(&mut self, latency: Duration) -> Result<()> {
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency.record(latency_ns).context("cannot note a latency")
    }

    /// How many were noted.
    fn noted(&self) -> u64 {
        self.latency.len()
    }

    fn end(&self) -> Result<Measured> {
        let elapsed = self.began.elapsed();
        Ok(Measured {
            messages: self.latency.len(),
            elapsed_ns: u64::try_from(elapsed.as_nanos())?,
            p50_ns: self.latency.value_at_quantile(0.5),
            p99_ns: self.latency.value_at_quantile(0.99),
            max_ns: self.latency.max(),
            cpu_ns: clock::thread_cpu_ns()?.saturating_sub(self.cpu_began_ns),
        })
    }
}

/// A message of exactly so many octets, followed by the final dot.
///
/// # Errors
/// When not even the header fits.
pub(crate) fn message(octets: usize) -> Result<Vec<u8>> {
    let least = HEADER.len() + LINE_CHARACTERS + 4;
    ensure!(octets >= least, "a message has {least} octets or more");
    let mut message = Vec::with_capacity(octets + 3);
    message.extend_from_slice(HEADER);
    while message.len() < octets {
        let left = octets - message.len();
        // One octet left over could not be a line: the line before it gives it one of its own.
        let line = match left.min(LINE_CHARACTERS + 2) {
            full if left == full + 1 => full - 1,
            other => other,
        };
        let text = (b'a'..=b'z').chain(b'A'..=b'Z').chain(b'0'..=b'9').cycle();
        message.extend(text.take(line - 2));
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(b".\r\n");
    Ok(message)
}

/// Lets this process have as many files open as it may.
///
/// # Errors
/// When the system refuses.
pub(crate) fn raise_file_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_exactly_the_octets_asked_for_in_lines_that_need_no_stuffing() {
        for octets in HEADER.len() + LINE_CHARACTERS + 4..2000 {
            let message = message(octets).unwrap();
            assert_eq!(message.len(), octets + 3);
            let text = str::from_utf8(&message[..octets]).unwrap();
            assert!(text.ends_with("\r\n"));
            for line in text.split_terminator("\r\n") {
                assert!(line.len() <= LINE_CHARACTERS, "{octets}: {line:?}");
                assert!(!line.starts_with('.') && !line.contains(['\r', '\n']));
            }
        }
        assert!(message(1).is_err());
    }
}
