//! A scripted next hop: records every octet and misbehaves as told.
//!
//! It accepts everything unless a [`Rule`] says otherwise, and keeps what it was sent exactly as
//! it came: command lines, mail data in wire form, the peer's address, whether TLS was on. It can
//! be stopped (its port refuses connections) and started again at the same port under another
//! name: another server.
//!
//! Invariants
//! - A transaction is recorded when its final dot has been read, before any reply to it is sent.
//! - `taken` says whether this server now has the message: by its 250, or by a rule that takes a
//!   message and loses the reply ([`Action::Close`] with [`Rule::taking`]).
//!
//! Not here: what may be scripted (`rule`), one connection (`session`).

mod rule;
mod session;

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

pub use rule::{Action, Rule, Seen, Stage};

use crate::mail;
use crate::port;
use crate::wait;

/// What a well-equipped next hop offers.
pub const FULL_OFFER: [&str; 6] =
    ["PIPELINING", "SIZE 104857600", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"];

/// A transaction that reached its final dot.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// The name this server went by.
    pub server: String,
    /// Which connection it came over, counted from 1 over all starts.
    pub connection: usize,
    /// The client's end of it.
    pub peer: SocketAddr,
    /// The argument of EHLO or HELO.
    pub helo: String,
    /// Was the connection under TLS?
    pub tls: bool,
    /// XFORWARD attributes in force, as written.
    pub xforward: HashMap<String, String>,
    /// The MAIL line as it came, without CRLF.
    pub mail_line: String,
    /// The RCPT lines that were accepted, as they came, without CRLF.
    pub rcpt_lines: Vec<String>,
    /// Mail data in wire form, without the final dot.
    pub data: Vec<u8>,
    /// When the final dot had been read.
    pub at: Instant,
    /// Has this server taken the message?
    pub taken: bool,
}

impl Transaction {
    /// The name of the message (see [`mail::Mail::key`]): its first accepted forward-path.
    #[must_use]
    pub fn key(&self) -> &str {
        mail::path(&self.rcpt_lines[0])
    }

    /// All accepted forward-paths, without brackets and parameters.
    #[must_use]
    pub fn forward_paths(&self) -> Vec<&str> {
        self.rcpt_lines.iter().map(|line| mail::path(line)).collect()
    }

    /// Mail data without the field that `lockgate` puts in front.
    ///
    /// # Panics
    /// When there is no such field.
    #[must_use]
    #[track_caller]
    pub fn data_without_trace(&self) -> &[u8] {
        let trace = mail::fields(&self.data).next().unwrap_or_default();
        let ours =
            trace.starts_with(b"Received:") && memchr::memmem::find(trace, b"lockgate").is_some();
        let start = String::from_utf8_lossy(&self.data[..self.data.len().min(200)]);
        assert!(ours, "{}: no trace field of lockgate in front: {start:?}", self.key());
        &self.data[trace.len()..]
    }
}

/// A connection, finished or not.
#[derive(Debug, Clone)]
pub struct Session {
    /// The client's end of it.
    pub peer: SocketAddr,
    /// Every command line as it came, without CRLF; mail data is not among them.
    pub lines: Vec<String>,
    /// The most complete command lines that had arrived, unanswered, when a reply was sent after a
    /// delay: above 1, the client pipelines.
    pub waiting: usize,
    /// Octets of mail data that came in transactions without a final dot.
    pub abandoned: usize,
    /// Has it ended?
    pub ended: bool,
}

/// A scripted next hop; it stops when dropped.
#[derive(Debug)]
pub struct Sink {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

/// What the threads of a sink share.
struct Shared {
    state: Mutex<State>,
    /// Signalled at every change of `state`.
    changed: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

struct State {
    name: String,
    offer: Vec<String>,
    tls: Option<Arc<ServerConfig>>,
    implicit_tls: bool,
    rules: Vec<Rule>,
    transactions: Vec<Transaction>,
    sessions: Vec<Session>,
    /// Sockets of open connections, to end them at a stop.
    open: HashMap<usize, TcpStream>,
    /// Threads of connections.
    threads: Vec<JoinHandle<()>>,
    /// Replies held back wait until this has risen.
    let_go: usize,
    /// How many sessions wait for [`Sink::let_go`].
    holding: usize,
    /// Replies sent in the middle of mail data.
    out_of_turn: usize,
    stopping: bool,
}

impl Sink {
    /// A next hop of this name that offers all of [`FULL_OFFER`] and accepts everything.
    #[must_use]
    pub fn start(name: &str) -> Self {
        Self::start_offering(name, &FULL_OFFER)
    }

    /// A next hop of this name that offers these EHLO lines.
    #[must_use]
    pub fn start_offering(name: &str, offer: &[&str]) -> Self {
        let mut sink = Self::prepared(name, offer);
        sink.start_again(name);
        sink
    }

    /// A next hop whose port is reserved but closed: a server that is not there (yet).
    #[must_use]
    pub fn prepared(name: &str, offer: &[&str]) -> Self {
        let state = State {
            name: name.to_owned(),
            offer: offer.iter().map(|&line| line.to_owned()).collect(),
            tls: None,
            implicit_tls: false,
            rules: Vec::new(),
            transactions: Vec::new(),
            sessions: Vec::new(),
            open: HashMap::new(),
            threads: Vec::new(),
            let_go: 0,
            holding: 0,
            out_of_turn: 0,
            stopping: true,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        Self { shared, address: port::free_address(), accepting: None }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Changes what EHLO offers from the next connection on.
    pub fn offer(&self, offer: &[&str]) {
        self.state().offer = offer.iter().map(|&line| line.to_owned()).collect();
    }

    /// Offers STARTTLS with this certificate from the next connection on.
    pub fn offer_tls(&self, config: Arc<ServerConfig>) {
        self.state().tls = Some(config);
    }

    /// Speaks TLS from the first octet of the next connection on.
    pub fn speak_tls(&self, config: Arc<ServerConfig>) {
        let mut state = self.state();
        state.tls = Some(config);
        state.implicit_tls = true;
    }

    /// Adds a rule; earlier ones go first.
    pub fn script(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// Takes all rules away: everything is accepted again. Replies held back stay so.
    pub fn behave(&self) {
        self.state().rules.clear();
    }

    /// Lets all replies go that are held back by [`Action::Hold`].
    pub fn let_go(&self) {
        self.state().let_go += 1;
        self.shared.changed.notify_all();
    }

    /// Waits until so many sessions hold back a reply.
    #[track_caller]
    pub fn wait_for_holding(&self, count: usize) {
        let what = format!("{count} sessions of {} hold back a reply", self.address);
        wait::until_true(&what, wait::LONG, || self.state().holding >= count);
    }

    /// Waits until so many replies were sent in the middle of mail data.
    #[track_caller]
    pub fn wait_for_out_of_turn(&self, count: usize) {
        let what = format!("{count} replies of {} out of turn", self.address);
        wait::until_true(&what, wait::LONG, || self.state().out_of_turn >= count);
    }

    /// Closes the port and resets all connections: the server is gone.
    pub fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        {
            let mut state = self.state();
            state.stopping = true;
            for socket in state.open.values() {
                // It may have closed by itself.
                socket.shutdown(Shutdown::Both).ok();
            }
        }
        self.shared.changed.notify_all();
        // Wakes the accept loop.
        TcpStream::connect(self.address).ok();
        accepting.join().unwrap();
        let threads = std::mem::take(&mut self.state().threads);
        for thread in threads {
            thread.join().unwrap();
        }
    }

    /// Opens the same port again under this name; what was recorded stays.
    pub fn start_again(&mut self, name: &str) {
        assert!(self.accepting.is_none(), "already started");
        {
            let mut state = self.state();
            name.clone_into(&mut state.name);
            state.stopping = false;
        }
        let listener = wait::until("the sink's port is free", wait::LONG, || {
            TcpListener::bind(self.address).ok()
        });
        let shared = Arc::clone(&self.shared);
        self.accepting = Some(std::thread::spawn(move || accept(&listener, &shared)));
    }

    /// Transactions that reached their final dot, in the order they did.
    #[must_use]
    pub fn transactions(&self) -> Vec<Transaction> {
        self.state().transactions.clone()
    }

    /// Transactions whose message this server has taken.
    #[must_use]
    pub fn taken(&self) -> Vec<Transaction> {
        self.transactions().into_iter().filter(|transaction| transaction.taken).collect()
    }

    /// The one message taken under this key.
    ///
    /// # Panics
    /// When there is none or more than one.
    #[must_use]
    #[track_caller]
    pub fn one(&self, key: &str) -> Transaction {
        let mut found = self.taken();
        found.retain(|transaction| transaction.key() == key);
        assert_eq!(found.len(), 1, "copies of {key} taken by the sink");
        found.remove(0)
    }

    /// How many copies of each message this server has taken, by key.
    #[must_use]
    pub fn copies(&self) -> HashMap<String, usize> {
        let mut copies = HashMap::new();
        for transaction in self.state().transactions.iter().filter(|t| t.taken) {
            *copies.entry(transaction.key().to_owned()).or_default() += 1;
        }
        copies
    }

    /// Forgets the transactions recorded so far (not the connections).
    pub fn forget(&self) {
        self.state().transactions.clear();
    }

    /// How many messages this server has taken.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state().transactions.iter().filter(|transaction| transaction.taken).count()
    }

    /// How many transactions reached their final dot, taken or not.
    #[must_use]
    pub fn dots(&self) -> usize {
        self.state().transactions.len()
    }

    /// Waits until so many messages were taken.
    #[track_caller]
    pub fn wait_for(&self, count: usize, limit: Duration) {
        if wait::within(limit, || (self.count() >= count).then_some(())).is_none() {
            panic!("not within {limit:?}: {count} messages at the sink (now {})", self.count());
        }
    }

    /// Waits until so many transactions have reached their final dot, taken or not.
    #[track_caller]
    pub fn wait_for_dots(&self, count: usize, limit: Duration) {
        if wait::within(limit, || (self.dots() >= count).then_some(())).is_none() {
            panic!("not within {limit:?}: {count} final dots at the sink (now {})", self.dots());
        }
    }

    /// All connections so far.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        self.state().sessions.clone()
    }

    /// How many connections were accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state().sessions.len()
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.state().open.len()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        let mut state = shared.state.lock().unwrap();
        if state.stopping {
            return;
        }
        // A client that is gone before it was accepted is nobody's fault.
        let Ok((socket, peer)) = accepted else {
            continue;
        };
        let Ok(other) = socket.try_clone() else {
            continue;
        };
        let session = Session { peer, lines: Vec::new(), waiting: 0, abandoned: 0, ended: false };
        state.sessions.push(session);
        let id = state.sessions.len();
        state.open.insert(id, other);
        let for_session = Arc::clone(shared);
        let thread = std::thread::spawn(move || {
            session::serve(&for_session, id, socket, peer);
            let mut state = for_session.state.lock().unwrap();
            state.open.remove(&id);
            state.sessions[id - 1].ended = true;
        });
        state.threads.push(thread);
    }
}
