//! A relay between a client and a real SMTP server that loses final replies.
//!
//! Octets pass as they are, both ways. After the end of mail data of some transactions, once the
//! server's 2yz has arrived, the client's connection is closed without it: the server has the
//! message, and the client cannot know (RFC 5321 §4.5.4.2, RFC 1047).
//!
//! It follows the dialogue only as far as it must to tell that reply from others: which command each
//! reply answers, and where mail data ends. Clients may pipeline.
//!
//! Not here: STARTTLS (what is under TLS cannot be followed; such a server must not offer it) and
//! BDAT. The faults of a scripted next hop are in `sink`.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::mail::{self, Random};
use crate::port;

/// The end of mail data, with the end of the line before it.
const END: &[u8] = b"\r\n.\r\n";

/// Which final replies are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// None.
    None,
    /// That of every `k`-th transaction with a 2yz.
    Every(usize),
    /// So many of a hundred, here and there; the same ones for the same seed.
    Random {
        /// How many of a hundred.
        per_cent: usize,
        /// Where the sequence begins.
        seed: u64,
    },
}

/// A running relay; it stops when dropped.
#[derive(Debug)]
pub struct Lossy {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    next_hop: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    share: Share,
    random: Random,
    /// Transactions that were answered 2yz since `share` was set.
    seen: usize,
    lost: Vec<String>,
    /// Both ends of the open connections, to end them at a stop.
    open: HashMap<usize, [TcpStream; 2]>,
    threads: Vec<JoinHandle<()>>,
    connections: usize,
    stopping: bool,
}

impl State {
    fn set(&mut self, share: Share) {
        self.share = share;
        self.seen = 0;
        if let Share::Random { seed, .. } = share {
            self.random = Random::new(seed);
        }
    }

    /// Is the reply to this transaction lost?
    fn loses(&mut self, key: &str) -> bool {
        self.seen += 1;
        let lost = match self.share {
            Share::None => false,
            Share::Every(k) => self.seen.is_multiple_of(k),
            Share::Random { per_cent, .. } => self.random.below(100) < per_cent,
        };
        if lost {
            self.lost.push(key.to_owned());
        }
        lost
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Lossy {
    /// A relay to `next_hop` that loses this share of the final replies.
    #[must_use]
    pub fn start(next_hop: SocketAddr, share: Share) -> Self {
        let mut state = State {
            share,
            random: Random::new(0),
            seen: 0,
            lost: Vec::new(),
            open: HashMap::new(),
            threads: Vec::new(),
            connections: 0,
            stopping: false,
        };
        state.set(share);
        let shared = Arc::new(Shared { next_hop, state: Mutex::new(state) });
        let address = port::free_address();
        let listener = TcpListener::bind(address).unwrap();
        let for_thread = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&listener, &for_thread));
        Self { shared, address, accepting: Some(accepting) }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loses another share from now on.
    pub fn lose(&self, share: Share) {
        self.shared.state().set(share);
    }

    /// The messages whose final reply was lost, in order, each by its first accepted forward-path
    /// (see [`mail::Mail::key`]).
    #[must_use]
    pub fn lost(&self) -> Vec<String> {
        self.shared.state().lost.clone()
    }

    /// Closes the port and all connections.
    pub fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        {
            let mut state = self.shared.state();
            state.stopping = true;
            for socket in state.open.values().flatten() {
                // It may have closed by itself.
                socket.shutdown(Shutdown::Both).ok();
            }
        }
        // Wakes the accept loop.
        TcpStream::connect(self.address).ok();
        accepting.join().unwrap();
        let threads = std::mem::take(&mut self.shared.state().threads);
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.state().stopping {
            return;
        }
        // A server that is not there is, for the client, a connection that is closed at once.
        let Ok(connected) = accepted.and_then(|(client, _)| connect(client, shared)) else {
            continue;
        };
        let for_session = Arc::clone(shared);
        let thread = std::thread::spawn(move || {
            let id = connected.id;
            connected.run(&for_session);
            for_session.state().open.remove(&id);
        });
        shared.state().threads.push(thread);
    }
}

fn connect(client: TcpStream, shared: &Shared) -> io::Result<Connected> {
    let server = TcpStream::connect(shared.next_hop)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut state = shared.state();
    state.connections += 1;
    let id = state.connections;
    state.open.insert(id, [client.try_clone()?, server.try_clone()?]);
    if state.stopping {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(Connected { id, client, server })
}

/// One connection of a client, and ours to the server.
struct Connected {
    id: usize,
    client: TcpStream,
    server: TcpStream,
}

impl Connected {
    fn run(self, shared: &Shared) {
        let dialogue = Mutex::new(Dialogue::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // An error on one side is seen by the other as an end: that is all a relay can say.
                self.commands(&dialogue).ok();
                self.server.shutdown(Shutdown::Write).ok();
            });
            self.replies(&dialogue, shared).ok();
            self.client.shutdown(Shutdown::Both).ok();
            self.server.shutdown(Shutdown::Both).ok();
        });
    }

    fn commands(&self, dialogue: &Mutex<Dialogue>) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = (&self.client).read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            // Noted before it is sent on: the reply finds what it answers.
            dialogue.lock().unwrap().client_sent(&buffer[..n]);
            (&self.server).write_all(&buffer[..n])?;
        }
    }

    fn replies(&self, dialogue: &Mutex<Dialogue>, shared: &Shared) -> io::Result<()> {
        let mut unread = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            while let Some(end) = reply_end(&unread) {
                let reply: Vec<u8> = unread.drain(..end).collect();
                let ended = dialogue.lock().unwrap().server_sent(&reply);
                if ended.is_some_and(|key| shared.state().loses(&key)) {
                    return Ok(());
                }
                (&self.client).write_all(&reply)?;
            }
            let n = (&self.server).read(&mut buffer)?;
            if n == 0 {
                // What is no whole reply passes all the same.
                return (&self.client).write_all(&unread);
            }
            unread.extend_from_slice(&buffer[..n]);
        }
    }
}

/// Where the first reply ends, if all of it is there.
fn reply_end(octets: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let end = from + memchr::memmem::find(&octets[from..], b"\r\n")? + 2;
        if octets[from..end].get(3) != Some(&b'-') {
            return Some(end);
        }
        from = end;
    }
}

/// What a reply is owed to.
#[derive(Debug, PartialEq, Eq)]
enum Owed {
    /// The connection itself: a greeting.
    Connection,
    /// MAIL: a transaction begins.
    Mail,
    /// RCPT with this argument.
    Rcpt(String),
    /// DATA.
    Data,
    /// The end of mail data.
    End,
    /// Anything else.
    Other,
}

/// Where a dialogue stands.
#[derive(Debug)]
struct Dialogue {
    owed: VecDeque<Owed>,
    in_data: bool,
    /// What the client has sent of a command line, or the last octets of mail data.
    pending: Vec<u8>,
    /// The first accepted forward-path of the transaction.
    key: Option<String>,
}

impl Dialogue {
    fn new() -> Self {
        let owed = VecDeque::from([Owed::Connection]);
        Self { owed, in_data: false, pending: Vec::new(), key: None }
    }

    fn client_sent(&mut self, octets: &[u8]) {
        self.pending.extend_from_slice(octets);
        loop {
            let left = if self.in_data { self.data() } else { self.line() };
            let Some(consumed) = left else {
                return;
            };
            self.pending.drain(..consumed);
        }
    }

    /// One command line, if all of it is there.
    fn line(&mut self) -> Option<usize> {
        let end = memchr::memmem::find(&self.pending, b"\r\n")?;
        let line = String::from_utf8_lossy(&self.pending[..end]).into_owned();
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        self.owed.push_back(match verb.as_str() {
            "MAIL" => Owed::Mail,
            "RCPT" => Owed::Rcpt(mail::path(&line).to_owned()),
            "DATA" => Owed::Data,
            _ => Owed::Other,
        });
        Some(end + 2)
    }

    /// Mail data to its end, if that is there; of what has come no more is kept than could be the
    /// beginning of that end.
    fn data(&mut self) -> Option<usize> {
        let Some(at) = memchr::memmem::find(&self.pending, END) else {
            let done = self.pending.len().saturating_sub(END.len() - 1);
            self.pending.drain(..done);
            return None;
        };
        self.owed.push_back(Owed::End);
        self.in_data = false;
        Some(at + END.len())
    }

    /// Notes a reply; at the end of a transaction that was accepted, its key.
    fn server_sent(&mut self, reply: &[u8]) -> Option<String> {
        let positive = reply.starts_with(b"2");
        match self.owed.pop_front()? {
            Owed::Mail => self.key = None,
            Owed::Rcpt(path) if positive => {
                self.key.get_or_insert(path);
            }
            Owed::Data if reply.starts_with(b"354") => {
                self.in_data = true;
                // The end of the command line is the beginning of its end (RFC 5321 §4.1.1.4).
                self.pending.splice(0..0, *b"\r\n");
            }
            Owed::End if positive => return self.key.take(),
            Owed::Connection | Owed::Rcpt(_) | Owed::Data | Owed::End | Owed::Other => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a dialogue in pieces of so many octets; what was owed in the end, and the key.
    fn told(mail_data: &[u8], piece: usize) -> Option<String> {
        let mut dialogue = Dialogue::new();
        dialogue.server_sent(b"220 hello\r\n");
        let envelope = b"MAIL FROM:<>\r\nrcpt to:<no@x>\r\nRCPT TO:<a@x> NOTIFY=NEVER\r\nDATA\r\n";
        for octets in envelope.chunks(piece) {
            dialogue.client_sent(octets);
        }
        for reply in [b"250 ok\r\n".as_slice(), b"550 no\r\n", b"250 ok\r\n", b"354 go\r\n"] {
            assert_eq!(dialogue.server_sent(reply), None);
        }
        for octets in mail_data.chunks(piece) {
            dialogue.client_sent(octets);
        }
        assert!(dialogue.owed.iter().all(|owed| *owed != Owed::Other), "{dialogue:?}");
        dialogue.server_sent(b"250 taken\r\n")
    }

    #[test]
    fn the_end_of_mail_data_is_found_however_it_is_cut() {
        let a = Some("a@x".to_owned());
        for piece in 1..=64 {
            assert_eq!(told(b".\r\n", piece), a, "nothing at all");
            assert_eq!(told(b"..\r\nDATA\r\n\r\n..\r\nx\r\n.\r\nMAIL FROM:<>\r\n", piece), a);
            assert_eq!(told(b"not\n.\nyet\r\n.\r", piece), None);
            assert_eq!(told(b"x.\r\n.\n\r\n. \r\n", piece), None);
        }
    }

    #[test]
    fn a_reply_ends_with_its_last_line() {
        assert_eq!(reply_end(b"250-a\r\n250 b\r\n220 c\r\n"), Some(14));
        assert_eq!(reply_end(b"250-a\r\n250 b\r"), None);
        assert_eq!(reply_end(b"250\r\n"), Some(5));
    }
}
