//! A server that takes everything, keeps nothing and counts: one thread, one write per burst.
//!
//! The loop serves the reference too, which keeps what it takes ([`Keeper`]). Edges are reported
//! once: a read goes on until it returns less than the buffer, or to the end when the peer closed.
//!
//! A connection counts when it says EHLO or HELO: the one that asks for the count does not.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use mio::event::Event as Readiness;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::clock;
use super::dialogue::{Dialogue, EHLO, Event, GREETING, OK};
use super::talk::Talk;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// What all connections read into.
const BUFFER_OCTETS: usize = 128 * 1024;

const LISTENER: Token = Token(usize::MAX);

/// What came in since the last ZERO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stat {
    /// Messages that were accepted.
    pub(crate) messages: u64,
    /// Their octets, final dots not counted.
    pub(crate) octets: u64,
    /// When the first was accepted, by the monotonic clock; 0 when none was.
    pub(crate) first_ns: u64,
    /// When the last was accepted, by the monotonic clock.
    pub(crate) last_ns: u64,
    /// Connections that said EHLO or HELO.
    pub(crate) connections: u64,
}

impl Stat {
    /// Counts a message that is accepted now.
    ///
    /// # Errors
    /// When the clock cannot be read.
    pub(crate) fn count(&mut self, octets: u64) -> Result<()> {
        self.last_ns = clock::monotonic_ns()?;
        if self.messages == 0 {
            self.first_ns = self.last_ns;
        }
        self.messages += 1;
        self.octets += octets;
        Ok(())
    }

    /// The answer to STAT.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let Self { messages, octets, first_ns, last_ns, connections } = self;
        format!(
            "250 messages={messages} octets={octets} first_ns={first_ns} last_ns={last_ns} \
             connections={connections}\r\n"
        )
    }

    fn parse(line: &str) -> Result<Self> {
        let field = |name: &str| -> Result<u64> {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
                .and_then(|value| value.parse().ok())
                .with_context(|| format!("no {name} in the answer to STAT: {line}"))
        };
        Ok(Self {
            messages: field("messages")?,
            octets: field("octets")?,
            first_ns: field("first_ns")?,
            last_ns: field("last_ns")?,
            connections: field("connections")?,
        })
    }
}

/// Asks a sink what came in.
///
/// # Errors
/// When it does not answer.
pub(crate) fn stat(sink: SocketAddr) -> Result<Stat> {
    Stat::parse(&ask(sink, "STAT\r\n")?)
}

/// Lets a sink count from zero.
///
/// # Errors
/// When it does not answer.
pub(crate) fn zero(sink: SocketAddr) -> Result<()> {
    ask(sink, "ZERO\r\n").map(drop)
}

fn ask(sink: SocketAddr, command: &str) -> Result<String> {
    let mut talk = Talk::open(sink)?;
    talk.expect("220")?;
    talk.say(command)?;
    let answer = talk.expect("250")?;
    talk.say("QUIT\r\n")?;
    talk.expect("221")?;
    Ok(answer)
}

/// Serves as long as the process lives.
///
/// # Errors
/// When the address cannot be had.
pub(crate) fn serve(listen: SocketAddr) -> Result<Infallible> {
    Server::bind(listen, Nothing)?.run()
}

/// When the answer to a message may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// At once.
    Now,
    /// After [`Keeper::commit`].
    AtCommit,
}

/// What becomes of mail data. Connections are told apart by number.
pub(crate) trait Keeper {
    /// A piece that is not the last.
    fn content(&mut self, connection: usize, octets: &[u8]);
    /// The last piece, final dot included.
    fn end(&mut self, connection: usize, octets: &[u8]) -> Answer;
    /// The connection is gone, and what it had not ended with it.
    fn gone(&mut self, connection: usize);
    /// All that was ready is read.
    ///
    /// # Errors
    /// When a promise cannot be kept; the server ends with it.
    fn commit(&mut self) -> Result<()>;
}

/// Keeps nothing.
#[derive(Debug)]
pub(crate) struct Nothing;

impl Keeper for Nothing {
    fn content(&mut self, _: usize, _: &[u8]) {}

    fn end(&mut self, _: usize, _: &[u8]) -> Answer {
        Answer::Now
    }

    fn gone(&mut self, _: usize) {}

    fn commit(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The loop: a listener, its connections, and what becomes of their mail.
#[derive(Debug)]
pub(crate) struct Server<K> {
    poll: Poll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    /// Numbers of connections that are gone.
    free: Vec<usize>,
    /// Connections whose replies wait for the commit.
    waiting: Vec<usize>,
    keeper: K,
    stat: Stat,
    /// Replies to what was read last.
    replies: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    dialogue: Dialogue,
    counted: bool,
    /// Replies that are still to be written.
    unsent: Vec<u8>,
    watches: Watches,
    life: Life,
}

/// What the poll reports of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Watches {
    Reads,
    ReadsAndWrites,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// More may come.
    Open,
    /// It ends when its replies are written.
    Ending,
    /// It ends now.
    Over,
}

impl<K: Keeper> Server<K> {
    /// Listens.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub(crate) fn bind(listen: SocketAddr, keeper: K) -> Result<Self> {
        super::raise_file_limit()?;
        let mut listener = TcpListener::from_std(listen_on(listen)?);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            waiting: Vec::new(),
            keeper,
            stat: Stat::default(),
            replies: Vec::new(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    #[cfg(test)]
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves as long as the process lives.
    ///
    /// # Errors
    /// When no more connections can be accepted, or mail cannot be kept.
    pub(crate) fn run(mut self) -> Result<Infallible> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER_OCTETS];
        loop {
            // A server has nothing else to do: this wait alone has no deadline.
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled.context("cannot wait for readiness")?,
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                } else {
                    self.serve(event, &mut buffer)?;
                }
            }
            self.keeper.commit()?;
            let mut waiting = std::mem::take(&mut self.waiting);
            for number in waiting.drain(..) {
                self.flush(number);
            }
            self.waiting = waiting;
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error).context("cannot accept"),
            };
            let number = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            // A new connection has room for a greeting; one that has not is a broken one.
            let greeted = stream.write(GREETING).is_ok_and(|count| count == GREETING.len());
            let registry = self.poll.registry();
            if !greeted
                || registry.register(&mut stream, Token(number), Interest::READABLE).is_err()
            {
                self.free.push(number);
                continue;
            }
            self.connections[number] = Some(Connection {
                stream,
                dialogue: Dialogue::new(EHLO),
                counted: false,
                unsent: Vec::new(),
                watches: Watches::Reads,
                life: Life::Open,
            });
        }
    }

    fn serve(&mut self, event: &Readiness, buffer: &mut [u8]) -> Result<()> {
        let number = event.token().0;
        if event.is_writable() {
            self.flush(number);
        }
        if !event.is_readable() {
            return Ok(());
        }
        let closed = event.is_read_closed();
        while let Some(connection) = &mut self.connections[number] {
            if connection.life != Life::Open {
                return Ok(());
            }
            let count = match connection.stream.read(buffer) {
                Ok(count) if count > 0 => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => {
                    self.close(number);
                    return Ok(());
                }
            };
            self.hear(number, &buffer[..count])?;
            if count < buffer.len() && !closed {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Answers what was read in one write, now or after the commit.
    fn hear(&mut self, number: usize, mut input: &[u8]) -> Result<()> {
        let Some(connection) = &mut self.connections[number] else { return Ok(()) };
        let mut answer = Answer::Now;
        while let Some(event) = connection.dialogue.next(&mut input, &mut self.replies) {
            match event {
                Event::Content(octets) => self.keeper.content(number, octets),
                Event::End(octets, count) => {
                    self.stat.count(count)?;
                    if self.keeper.end(number, octets) == Answer::AtCommit {
                        answer = Answer::AtCommit;
                    }
                }
                Event::Hello if connection.counted => {}
                Event::Hello => {
                    connection.counted = true;
                    self.stat.connections += 1;
                }
                Event::Stat => self.replies.extend_from_slice(self.stat.line().as_bytes()),
                Event::Zero => {
                    self.stat = Stat::default();
                    self.replies.extend_from_slice(OK);
                }
                Event::Quit | Event::StartTls => {
                    connection.life = Life::Ending;
                    break;
                }
            }
        }
        if answer == Answer::AtCommit {
            self.waiting.push(number);
            connection.unsent.append(&mut self.replies);
        } else if connection.unsent.is_empty() {
            connection.send(&self.replies, self.poll.registry(), number);
            self.replies.clear();
        } else {
            // Order holds: what waits goes first.
            connection.unsent.append(&mut self.replies);
        }
        if connection.life == Life::Over {
            self.close(number);
        }
        Ok(())
    }

    /// Writes what waits.
    fn flush(&mut self, number: usize) {
        let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) else {
            return;
        };
        let unsent = std::mem::take(&mut connection.unsent);
        connection.send(&unsent, self.poll.registry(), number);
        if connection.life == Life::Over {
            self.close(number);
        }
    }

    fn close(&mut self, number: usize) {
        self.connections[number] = None;
        self.free.push(number);
        self.keeper.gone(number);
    }
}

impl Connection {
    /// Writes as much as goes; keeps the rest and watches for room.
    fn send(&mut self, octets: &[u8], registry: &mio::Registry, number: usize) {
        if !octets.is_empty() {
            let sent = match self.stream.write(octets) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => {
                    self.life = Life::Over;
                    return;
                }
            };
            self.unsent.extend_from_slice(&octets[sent..]);
        }
        if self.unsent.is_empty() {
            if self.life == Life::Ending {
                self.life = Life::Over;
            }
        } else if self.watches == Watches::Reads {
            self.watches = Watches::ReadsAndWrites;
            let both = Interest::READABLE | Interest::WRITABLE;
            if registry.reregister(&mut self.stream, Token(number), both).is_err() {
                self.life = Life::Over;
            }
        }
    }
}

/// A listener that does not block and whose connections do not delay (they inherit it).
///
/// # Errors
/// When the address cannot be had.
pub(crate) fn listen_on(listen: SocketAddr) -> Result<std::net::TcpListener> {
    let bind = || -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().with_context(|| format!("cannot listen on {listen}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_stat_says_what_was_counted() {
        let stat = Stat { messages: 1, octets: 2, first_ns: 3, last_ns: 4, connections: 5 };
        assert_eq!(Stat::parse(&stat.line()).unwrap(), stat);
    }
}
