//! A client that sends the same message over and over: one thread, one write per burst.
//!
//! Edges are reported once: a read goes on until it returns less than the buffer, or to the end
//! when the peer closed.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::reply::{Replies, Step};
use super::{Load, Measured, Meter, PATIENCE};

/// What all sessions read into: replies are short.
const BUFFER_OCTETS: usize = 16 * 1024;

/// How often sessions that fell silent are looked for.
const WATCH: Duration = Duration::from_secs(1);

/// Sends the load and waits for the last reply.
///
/// # Errors
/// When a reply is not the one that is due, or none comes for [`PATIENCE`].
pub(crate) fn send(to: SocketAddr, load: &Load) -> Result<Measured> {
    load.ensure_sensible()?;
    super::raise_file_limit()?;
    let now = Instant::now();
    let mut generator = Generator {
        to,
        load,
        poll: Poll::new()?,
        content: super::message(load.octets)?,
        commands: String::new(),
        sessions: Vec::new(),
        ready: 0,
        begun: 0,
        meter: Meter::start()?,
        now,
    };
    generator.run()
}

#[derive(Debug)]
struct Generator<'a> {
    to: SocketAddr,
    load: &'a Load,
    poll: Poll,
    /// The message and its final dot.
    content: Vec<u8>,
    /// What is to be said next.
    commands: String,
    sessions: Vec<Session>,
    /// Sessions past EHLO that wait for the others; unused when reconnecting.
    ready: usize,
    /// Messages begun.
    begun: u64,
    meter: Meter,
    /// When the poll returned.
    now: Instant,
}

#[derive(Debug)]
struct Session {
    stream: TcpStream,
    stage: Stage,
    replies: Replies,
    unsent: Unsent,
    watches: Watches,
    /// The message under way.
    number: u64,
    /// When it began.
    began: Instant,
    /// When the peer was heard last.
    heard: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A reply is due.
    Awaits(Step),
    /// Past EHLO; the others are not.
    Ready,
    /// Nothing left to send.
    Done,
}

/// What the socket had no room for.
#[derive(Debug)]
enum Unsent {
    Nothing,
    Commands(Vec<u8>),
    /// The message from this octet on.
    Content(usize),
}

/// What the poll reports of a session.
#[derive(Debug, PartialEq, Eq)]
enum Watches {
    Reads,
    ReadsAndWrites,
}

/// Whether a session still has the connection it had.
#[derive(Debug, PartialEq, Eq)]
enum Connection {
    Same,
    Other,
}

impl Generator<'_> {
    fn run(&mut self) -> Result<Measured> {
        for index in 0..self.load.sessions_used() {
            let session = self.connect(index)?;
            self.sessions.push(session);
        }
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER_OCTETS];
        let mut watched = self.now;
        while self.meter.noted() < self.load.messages {
            match self.poll.poll(&mut events, Some(WATCH)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled.context("cannot wait for readiness")?,
            }
            self.now = Instant::now();
            for event in &events {
                let index = event.token().0;
                if event.is_writable() {
                    self.flush(index)?;
                }
                if event.is_readable() || event.is_error() {
                    self.hear(index, event.is_read_closed(), &mut buffer)?;
                }
            }
            if self.now - watched >= WATCH {
                watched = self.now;
                self.watch()?;
            }
        }
        let measured = self.meter.end()?;
        for session in &mut self.sessions {
            // Courtesy: the figures are taken, and a peer that is gone needs none.
            session.stream.write_all(b"QUIT\r\n").ok();
        }
        Ok(measured)
    }

    /// A new connection; when reconnecting the next message begins with it.
    fn connect(&mut self, index: usize) -> Result<Session> {
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.to)
            .with_context(|| format!("cannot connect to {}", self.to))?;
        stream.set_nodelay(true)?;
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        let number = self.begun;
        if self.load.reconnect {
            self.begun += 1;
        }
        Ok(Session {
            stream,
            stage: Stage::Awaits(Step::Connect),
            replies: Replies::default(),
            unsent: Unsent::Nothing,
            watches: Watches::Reads,
            number,
            began,
            heard: began,
        })
    }

    fn hear(&mut self, index: usize, closed: bool, buffer: &mut [u8]) -> Result<()> {
        loop {
            let session = &mut self.sessions[index];
            if session.stage == Stage::Done {
                return Ok(());
            }
            let count = match session.stream.read(buffer) {
                Ok(0) => bail!("the connection was closed; {}", session.state()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).with_context(|| session.state()),
            };
            session.heard = self.now;
            if self.take(index, &buffer[..count])? == Connection::Other {
                return Ok(());
            }
            if count < buffer.len() && !closed {
                return Ok(());
            }
        }
    }

    fn take(&mut self, index: usize, mut input: &[u8]) -> Result<Connection> {
        while !input.is_empty() {
            let session = &mut self.sessions[index];
            let Stage::Awaits(step) = session.stage else {
                bail!("a reply to nothing: {}", String::from_utf8_lossy(input).trim_end());
            };
            if session.replies.take(&mut input, step)?
                && self.advance(index, step)? == Connection::Other
            {
                return Ok(Connection::Other);
            }
        }
        Ok(Connection::Same)
    }

    /// What follows the answer to this step.
    fn advance(&mut self, index: usize, answered: Step) -> Result<Connection> {
        let number = self.sessions[index].number;
        let pipelining = self.load.pipelining;
        match answered {
            Step::Connect => {
                self.commands.clear();
                self.commands.push_str("EHLO bench.test\r\n");
                self.say(index, Step::Ehlo)?;
            }
            Step::Ehlo if self.load.reconnect => self.open(index, number)?,
            Step::Ehlo => self.gather(index)?,
            Step::Mail if pipelining => self.sessions[index].stage = Stage::Awaits(Step::Rcpt),
            Step::Mail => {
                self.load.write_rcpt(number, &mut self.commands);
                self.say(index, Step::Rcpt)?;
            }
            Step::Rcpt if pipelining => self.sessions[index].stage = Stage::Awaits(Step::Data),
            Step::Rcpt => {
                self.commands.clear();
                self.commands.push_str("DATA\r\n");
                self.say(index, Step::Data)?;
            }
            Step::Data => {
                let session = &mut self.sessions[index];
                session.stage = Stage::Awaits(Step::Content);
                session.unsent = Unsent::Content(0);
                self.flush(index)?;
            }
            Step::Content => {
                self.meter.note(self.sessions[index].began.elapsed())?;
                return self.next(index);
            }
            Step::StartTls => bail!("STARTTLS is not said here"),
        }
        Ok(Connection::Same)
    }

    /// Waits until all sessions are past EHLO; time counts from there.
    fn gather(&mut self, index: usize) -> Result<()> {
        self.sessions[index].stage = Stage::Ready;
        self.ready += 1;
        if self.ready == self.sessions.len() {
            self.meter = Meter::start()?;
            for index in 0..self.sessions.len() {
                self.next(index)?;
            }
        }
        Ok(())
    }

    /// Begins another message, if any is left.
    fn next(&mut self, index: usize) -> Result<Connection> {
        let left = self.begun < self.load.messages;
        if self.load.reconnect {
            let session = &mut self.sessions[index];
            // Courtesy: a peer that is gone already needs none.
            session.stream.write_all(b"QUIT\r\n").ok();
            if left {
                self.sessions[index] = self.connect(index)?;
            } else {
                session.stage = Stage::Done;
                session.stream.shutdown(std::net::Shutdown::Both).ok();
            }
            return Ok(Connection::Other);
        }
        if left {
            let session = &mut self.sessions[index];
            session.number = self.begun;
            session.began = Instant::now();
            self.begun += 1;
            self.open(index, self.begun - 1)?;
        } else {
            self.sessions[index].stage = Stage::Done;
        }
        Ok(Connection::Same)
    }

    fn open(&mut self, index: usize, number: u64) -> Result<()> {
        self.load.write_opening(number, &mut self.commands);
        self.say(index, Step::Mail)
    }

    /// Says the commands; this step is the first to be answered.
    fn say(&mut self, index: usize, step: Step) -> Result<()> {
        let session = &mut self.sessions[index];
        session.stage = Stage::Awaits(step);
        let octets = self.commands.as_bytes();
        let sent = session.write(octets)?;
        if sent < octets.len() {
            session.unsent = Unsent::Commands(octets[sent..].to_vec());
            session.watch_writes(&self.poll, index)?;
        }
        Ok(())
    }

    /// Writes what waits, as far as it goes.
    fn flush(&mut self, index: usize) -> Result<()> {
        let session = &mut self.sessions[index];
        session.unsent = match std::mem::replace(&mut session.unsent, Unsent::Nothing) {
            Unsent::Nothing => return Ok(()),
            Unsent::Commands(mut octets) => {
                let sent = session.write(&octets)?;
                octets.drain(..sent);
                if octets.is_empty() { Unsent::Nothing } else { Unsent::Commands(octets) }
            }
            Unsent::Content(from) => {
                let to = from + session.write(&self.content[from..])?;
                if to == self.content.len() { Unsent::Nothing } else { Unsent::Content(to) }
            }
        };
        if !matches!(session.unsent, Unsent::Nothing) {
            // A long message that goes out is no silence.
            session.heard = self.now;
            session.watch_writes(&self.poll, index)?;
        }
        Ok(())
    }

    /// Finds a session whose peer fell silent.
    fn watch(&self) -> Result<()> {
        for session in &self.sessions {
            if matches!(session.stage, Stage::Awaits(_)) && self.now - session.heard > PATIENCE {
                bail!("silence of {} s; {}", PATIENCE.as_secs(), session.state());
            }
        }
        Ok(())
    }
}

impl Session {
    /// For errors: what was waited for.
    fn state(&self) -> String {
        match self.stage {
            Stage::Awaits(step) => format!("message {}: {step:?} is not answered", self.number),
            Stage::Ready => "EHLO is answered, MAIL not said".to_owned(),
            Stage::Done => "all is sent".to_owned(),
        }
    }

    fn write(&mut self, octets: &[u8]) -> Result<usize> {
        loop {
            match self.stream.write(octets) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| self.state()),
            }
        }
    }

    /// From now on the poll reports room to write; arming it reports room that is there already.
    fn watch_writes(&mut self, poll: &Poll, index: usize) -> Result<()> {
        if self.watches == Watches::Reads {
            self.watches = Watches::ReadsAndWrites;
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry().reregister(&mut self.stream, Token(index), both)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::sink::{Nothing, Server, stat, zero};
    use super::*;

    fn sink() -> SocketAddr {
        let server = Server::bind(([127, 0, 0, 1], 0).into(), Nothing).unwrap();
        let address = server.address().unwrap();
        thread::spawn(move || server.run());
        address
    }

    #[test]
    fn every_message_arrives_whole_in_every_mode() {
        let sink = sink();
        for octets in [200, 10_240, 3_000_000] {
            for (pipelining, reconnect) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let load =
                    Load { messages: 23, sessions: 5, octets, pipelining, reconnect, pairs: 7 };
                zero(sink).unwrap();
                let measured = send(sink, &load).unwrap();
                assert_eq!(measured.messages, 23);
                assert!(measured.p50_ns <= measured.p99_ns && measured.p99_ns <= measured.max_ns);
                let stat = stat(sink).unwrap();
                assert_eq!(stat.messages, 23, "{load:?}");
                assert_eq!(stat.octets, 23 * octets as u64, "{load:?}");
                assert_eq!(stat.connections, if reconnect { 23 } else { 5 }, "{load:?}");
                assert!(stat.first_ns <= stat.last_ns);
            }
        }
    }

    #[test]
    fn a_closed_connection_and_a_refusal_are_errors_that_name_the_step() {
        for (answer, expected) in [
            (&b"220 here\r\n421 4.3.2 not now\r\n"[..], "Ehlo was answered: 421 4.3.2 not now"),
            (b"", "Connect is not answered"),
        ] {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(answer).unwrap();
                if !answer.is_empty() {
                    std::io::copy(&mut stream, &mut std::io::sink()).ok();
                }
            });
            let load = Load {
                messages: 1,
                sessions: 1,
                octets: 500,
                pipelining: false,
                reconnect: false,
                pairs: 1,
            };
            let error = send(address, &load).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
            server.join().unwrap();
        }
    }
}
