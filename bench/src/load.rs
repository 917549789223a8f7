//! The load generator and the sink: blocking threads, one per session, that look only at reply codes.
//!
//! They are made to be cheap, not to be correct servers: what is measured stands between them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a side waits for the other before it gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Messages in all.
    pub(crate) messages: u64,
    /// Sessions side by side.
    pub(crate) sessions: u64,
    /// Octets of each message.
    pub(crate) octets: usize,
    /// A new connection for each message.
    pub(crate) reconnect: bool,
}

/// What it took.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// From the first connection to the last reply.
    pub(crate) elapsed: Duration,
    /// From MAIL to the final reply, sorted.
    pub(crate) latencies: Vec<Duration>,
}

impl Measured {
    /// The latency below which this share of the messages stayed.
    #[must_use]
    pub(crate) fn percentile(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.latencies.get(index.min(last)).copied().unwrap_or_default()
    }
}

/// Sends the load to `target`; an error is any reply that is not the expected one.
///
/// # Errors
/// When a session breaks or is refused.
pub(crate) fn send(target: SocketAddr, load: Load) -> io::Result<Measured> {
    let left = Arc::new(AtomicU64::new(load.messages));
    let content: Arc<[u8]> = message(load.octets).into();
    let began = Instant::now();
    let threads: Vec<_> = (0..load.sessions)
        .map(|_| {
            let (left, content) = (Arc::clone(&left), Arc::clone(&content));
            thread::spawn(move || session(target, &left, &content, load.reconnect))
        })
        .collect();
    let mut latencies = Vec::new();
    for thread in threads {
        let own = thread.join().map_err(|_| io::Error::other("a session panicked"))??;
        latencies.extend(own);
    }
    let elapsed = began.elapsed();
    latencies.sort_unstable();
    Ok(Measured { elapsed, latencies })
}

fn session(
    target: SocketAddr,
    left: &AtomicU64,
    content: &[u8],
    reconnect: bool,
) -> io::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut peer: Option<Peer> = None;
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
        .is_ok()
    {
        let mut open = match peer.take() {
            Some(open) => open,
            None => Peer::open(target)?,
        };
        let began = Instant::now();
        open.say(b"MAIL FROM:<a@bench.test>\r\n", 250)?;
        open.say(b"RCPT TO:<b@bench.test>\r\n", 250)?;
        open.say(b"DATA\r\n", 354)?;
        open.say(content, 250)?;
        latencies.push(began.elapsed());
        if reconnect {
            open.say(b"QUIT\r\n", 221)?;
        } else {
            peer = Some(open);
        }
    }
    Ok(latencies)
}

struct Peer {
    stream: BufReader<TcpStream>,
    line: Vec<u8>,
}

impl Peer {
    fn open(target: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut peer = Self { stream: BufReader::new(stream), line: Vec::new() };
        peer.expect(220)?;
        peer.say(b"EHLO bench.test\r\n", 250)?;
        Ok(peer)
    }

    fn say(&mut self, bytes: &[u8], code: u16) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.expect(code)
    }

    fn expect(&mut self, code: u16) -> io::Result<()> {
        loop {
            self.line.clear();
            if self.stream.read_until(b'\n', &mut self.line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.line.get(3) == Some(&b'-') {
                continue;
            }
            return if self.line.starts_with(code.to_string().as_bytes()) {
                Ok(())
            } else {
                Err(io::Error::other(String::from_utf8_lossy(&self.line).into_owned()))
            };
        }
    }
}

/// A message of so many octets in wire form, final dot included.
fn message(octets: usize) -> Vec<u8> {
    let mut content = b"Subject: bench\r\nMessage-ID: <1@bench.test>\r\n\r\n".to_vec();
    let line = [b'x'; 76];
    while content.len() + line.len() + 2 < octets {
        content.extend_from_slice(&line);
        content.extend_from_slice(b"\r\n");
    }
    content.extend_from_slice(b".\r\n");
    content
}

/// A server that takes everything and counts it. Lives as long as the process.
///
/// # Errors
/// When no port can be had.
pub(crate) fn sink() -> io::Result<(SocketAddr, Arc<AtomicU64>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counter = Arc::clone(&counter);
            // A session that breaks ends itself alone.
            thread::spawn(move || drain(stream, &counter).ok());
        }
    });
    Ok((address, taken))
}

fn drain(mut stream: TcpStream, taken: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 sink.test\r\n")?;
    let mut buffer = Vec::with_capacity(128 * 1024);
    let mut chunk = vec![0; 128 * 1024];
    let mut in_data = false;
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&chunk[..count]);
        let mut out = Vec::new();
        loop {
            if in_data {
                let Some(end) = find(&buffer, b"\r\n.\r\n") else {
                    // Four octets may be the beginning of the end.
                    let keep = buffer.len().min(4);
                    buffer.drain(..buffer.len() - keep);
                    break;
                };
                buffer.drain(..end + 5);
                in_data = false;
                taken.fetch_add(1, Ordering::Relaxed);
                out.extend_from_slice(b"250 2.0.0 ok\r\n");
                continue;
            }
            let Some(end) = find(&buffer, b"\r\n") else { break };
            let verb = buffer[..end.min(4)].to_ascii_uppercase();
            buffer.drain(..end + 2);
            match verb.as_slice() {
                b"EHLO" => {
                    out.extend_from_slice(b"250-sink.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n");
                }
                b"DATA" => {
                    in_data = true;
                    out.extend_from_slice(b"354 go\r\n");
                }
                b"QUIT" => {
                    stream.write_all(b"221 bye\r\n")?;
                    return Ok(());
                }
                _ => out.extend_from_slice(b"250 2.0.0 ok\r\n"),
            }
        }
        stream.write_all(&out)?;
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
