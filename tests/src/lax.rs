//! An independent lax next hop: mailin-embedded, written by others.
//!
//! A deliberately different peer: it offers 8BITMIME only, knows no MAIL parameter but BODY,
//! refuses the null reverse-path, does not announce PIPELINING, and serves four sessions at a time.
//! It unstuffs dots, so what it recorded is compared in content, not in wire form.
//! mailin-embedded cannot be stopped: its threads sleep in `accept` until the process ends.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailin_embedded::{Handler, Response, Server, response};

use crate::port;
use crate::wait;

/// A message as it was received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// Reverse-path, without brackets.
    pub reverse_path: String,
    /// Forward-paths, without brackets.
    pub forward_paths: Vec<String>,
    /// Mail data, dots unstuffed, lines ending in CRLF.
    pub content: Vec<u8>,
}

/// A lax next hop.
#[derive(Debug)]
pub struct Lax {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Lax {
    /// Starts one that serves so many sessions at a time.
    #[must_use]
    pub fn start(name: &str, sessions: u32) -> Self {
        let address = port::free_address();
        let listener = TcpListener::bind(address).unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let handler = Receiver { all: Arc::clone(&received), one: Received::default() };
        let name = name.to_owned();
        std::thread::spawn(move || {
            let mut server = Server::new(handler);
            server.with_name(name).with_num_threads(sessions).with_tcp_listener(listener);
            server.serve().unwrap();
        });
        Self { address, received }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// All messages so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Waits until there are so many messages.
    #[track_caller]
    pub fn wait_for(&self, count: usize, limit: Duration) -> Vec<Received> {
        let what = format!("{count} messages at the lax server");
        wait::until_true(&what, limit, || self.received.lock().unwrap().len() >= count);
        self.received()
    }
}

#[derive(Debug, Clone)]
struct Receiver {
    all: Arc<Mutex<Vec<Received>>>,
    one: Received,
}

impl Handler for Receiver {
    fn mail(&mut self, _ip: IpAddr, _domain: &str, from: &str) -> Response {
        self.one = Received { reverse_path: from.to_owned(), ..Received::default() };
        response::OK
    }

    fn rcpt(&mut self, to: &str) -> Response {
        self.one.forward_paths.push(to.to_owned());
        response::OK
    }

    fn data(&mut self, line: &[u8]) -> io::Result<()> {
        self.one.content.extend_from_slice(line);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        self.all.lock().unwrap().push(std::mem::take(&mut self.one));
        response::OK
    }
}

/// Mail data in wire form with its dots unstuffed: what [`Received::content`] holds.
#[must_use]
pub fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(wire.len());
    let mut rest = wire;
    while let Some(at) = memchr::memmem::find(rest, b"\r\n") {
        let (line, after) = rest.split_at(at + 2);
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        rest = after;
    }
    content.extend_from_slice(rest);
    content
}
