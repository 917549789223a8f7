//! A raw SMTP client: exact octets out, replies in, with a deadline.
//!
//! It never alters what it sends and never decides anything for the story: every reply is handed
//! back. A transaction tells apart what a custody question needs (RFC 5321 §4.2.5): accepted,
//! refused, and *unknown* (the final dot was sent and no reply came).
//!
//! Not here: many messages at once (`load`), the messages themselves (`mail`).

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::mail::Mail;
use crate::wait::LONG;
use crate::wire::{Stream, timed_out};

/// One reply: its code and the text of each line.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// Text of each line, after the code and the separator.
    pub lines: Vec<Vec<u8>>,
}

impl Reply {
    /// The first line's text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lines[0]).into_owned()
    }

    /// Is it a 2yz?
    #[must_use]
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Is it a 4yz?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// Does a line of it begin with this keyword (of an EHLO reply)?
    #[must_use]
    pub fn offers(&self, keyword: &str) -> bool {
        self.keyword(keyword).is_some()
    }

    /// The EHLO line of this keyword: what follows it.
    #[must_use]
    pub fn keyword(&self, keyword: &str) -> Option<String> {
        self.lines.iter().skip(1).find_map(|line| {
            let line = String::from_utf8_lossy(line);
            let mut words = line.splitn(2, ' ');
            let found = words.next()?.eq_ignore_ascii_case(keyword);
            found.then(|| words.next().unwrap_or_default().to_owned())
        })
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        for line in &self.lines {
            write!(f, " {:?}", String::from_utf8_lossy(line))?;
        }
        Ok(())
    }
}

/// Why no reply was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The peer closed or reset the connection.
    Closed,
    /// Nothing (or not all) came before the deadline.
    TimedOut,
    /// Octets that are no reply.
    Garbage(String),
}

/// How a transaction is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Each command waits for the reply to the one before.
    LockStep,
    /// MAIL, all RCPT and DATA in one write (RFC 2920).
    Pipelined,
}

/// What became of one transaction, reply by reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Reply to MAIL.
    pub mail: Option<Reply>,
    /// Replies to the RCPTs, in order.
    pub rcpt: Vec<Reply>,
    /// Reply to DATA.
    pub data: Option<Reply>,
    /// Reply to the end of mail data.
    pub end: Option<Reply>,
    /// Was the final dot sent?
    pub dot_sent: bool,
    /// Why the transaction did not come to its end, if so.
    pub lost: Option<Lost>,
}

impl Receipt {
    /// A 2yz to the end of mail data: custody has changed hands.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.end.as_ref().is_some_and(Reply::is_positive)
    }

    /// The final dot was sent and no reply was read: nobody knows who has the message.
    #[must_use]
    pub fn unknown(&self) -> bool {
        self.dot_sent && self.end.is_none()
    }

    /// The reply that ended the transaction: the last that was read.
    #[must_use]
    pub fn last(&self) -> Option<&Reply> {
        let rcpt = self.rcpt.iter().rev().find(|reply| !reply.is_positive());
        self.end.as_ref().or(self.data.as_ref()).or(rcpt).or(self.mail.as_ref())
    }
}

/// A connection as a client.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    unread: Vec<u8>,
    limit: Duration,
    /// The greeting.
    pub banner: Reply,
    /// The last reply to EHLO.
    pub ehlo: Reply,
}

impl Client {
    /// Connects, reads the greeting and says EHLO.
    ///
    /// # Panics
    /// When any of that is refused.
    #[must_use]
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        match Self::try_open(address, None) {
            Ok(client) => client,
            Err(error) => panic!("no SMTP session with {address}: {error}"),
        }
    }

    /// As [`open`](Self::open), perhaps from a source address; an error instead of a panic.
    pub fn try_open(address: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let mut client = Self::connect(address, source)?;
        client.banner = client.read().map_err(|lost| fault("greeting", &lost))?;
        if client.banner.code != 220 {
            return Err(io::Error::other(format!("greeting: {:?}", client.banner)));
        }
        client.ehlo =
            client.try_command("EHLO client.test").map_err(|lost| fault("EHLO", &lost))?;
        if client.ehlo.code != 250 {
            return Err(io::Error::other(format!("EHLO: {:?}", client.ehlo)));
        }
        Ok(client)
    }

    /// Connects and reads nothing.
    pub fn connect(address: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let socket = connect_from(address, source)?;
        socket.set_nodelay(true)?;
        Ok(Self::on(Stream::Plain(socket)))
    }

    fn on(stream: Stream) -> Self {
        let none = Reply { code: 0, lines: vec![Vec::new()] };
        Self { stream, unread: Vec::new(), limit: LONG, banner: none.clone(), ehlo: none }
    }

    /// The same connection with another deadline for each reply.
    #[must_use]
    pub fn patient(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Our end of the connection.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.stream.socket().local_addr().unwrap()
    }

    /// Is the connection under TLS?
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.stream.is_tls()
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: &[u8]) -> Result<(), Lost> {
        self.stream.bound(self.limit);
        self.stream
            .write_all(octets)
            .and_then(|()| self.stream.flush())
            .map_err(|error| if timed_out(&error) { Lost::TimedOut } else { Lost::Closed })
    }

    /// Reads one reply, of any number of lines.
    pub fn read(&mut self) -> Result<Reply, Lost> {
        let deadline = Instant::now() + self.limit;
        let mut code = None;
        let mut lines = Vec::new();
        loop {
            let line = self.read_line(deadline)?;
            let garbage = || Lost::Garbage(String::from_utf8_lossy(&line).into_owned());
            let digits = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit));
            let digits = digits.ok_or_else(garbage)?;
            let digits = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
            if *code.get_or_insert(digits) != digits {
                return Err(garbage());
            }
            lines.push(line.get(4..).unwrap_or_default().to_vec());
            match line.get(3) {
                Some(b'-') => {}
                Some(b' ') | None => {
                    return Ok(Reply { code: digits, lines });
                }
                Some(_) => return Err(garbage()),
            }
        }
    }

    fn read_line(&mut self, deadline: Instant) -> Result<Vec<u8>, Lost> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread, b"\r\n") {
                let line = self.unread[..at].to_vec();
                self.unread.drain(..at + 2);
                return Ok(line);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Lost::TimedOut);
            }
            self.stream.bound(left);
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Lost::Closed),
                Ok(n) => self.unread.extend_from_slice(&buffer[..n]),
                Err(error) if timed_out(&error) => return Err(Lost::TimedOut),
                Err(_) => return Err(Lost::Closed),
            }
        }
    }

    /// Sends one command line (CRLF is added) and reads its reply.
    ///
    /// # Panics
    /// When no reply comes.
    #[track_caller]
    pub fn command(&mut self, line: &str) -> Reply {
        match self.try_command(line) {
            Ok(reply) => reply,
            Err(lost) => panic!("no reply to {line:?}: {lost:?}"),
        }
    }

    /// Sends one command line (CRLF is added) and reads its reply.
    pub fn try_command(&mut self, line: &str) -> Result<Reply, Lost> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.read()
    }

    /// Reads one reply.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn expect_reply(&mut self) -> Reply {
        match self.read() {
            Ok(reply) => reply,
            Err(lost) => panic!("no reply: {lost:?}"),
        }
    }

    /// True when the peer closes within `limit`, having said nothing more.
    pub fn closes_within(&mut self, limit: Duration) -> bool {
        let before = std::mem::replace(&mut self.limit, limit);
        let closed = self.read() == Err(Lost::Closed);
        self.limit = before;
        closed
    }

    /// Sends one message and reads every reply; never panics.
    pub fn transaction(&mut self, mail: &Mail, style: Style) -> Receipt {
        let mut receipt = Receipt::default();
        let sent = match style {
            Style::LockStep => self.envelope_in_steps(mail, &mut receipt),
            Style::Pipelined => self.envelope_at_once(mail, &mut receipt),
        };
        let result = match sent {
            Ok(true) => self.mail_data(mail, &mut receipt),
            Ok(false) => Ok(()),
            Err(lost) => Err(lost),
        };
        receipt.lost = result.err();
        receipt
    }

    /// Sends one message in lock-step and expects it to be accepted; gives the final reply.
    ///
    /// # Panics
    /// When it is not accepted.
    #[track_caller]
    pub fn deliver(&mut self, mail: &Mail) -> Reply {
        let receipt = self.transaction(mail, Style::LockStep);
        assert!(receipt.accepted(), "{}: {receipt:?}", mail.key());
        receipt.end.unwrap()
    }

    /// True when mail data may follow.
    fn envelope_in_steps(&mut self, mail: &Mail, receipt: &mut Receipt) -> Result<bool, Lost> {
        let reply = self.try_command(&mail.mail_line())?;
        let refused = !reply.is_positive();
        receipt.mail = Some(reply);
        if refused {
            return Ok(false);
        }
        for line in mail.rcpt_lines() {
            receipt.rcpt.push(self.try_command(&line)?);
        }
        if !receipt.rcpt.iter().any(Reply::is_positive) {
            // Leave the connection fit for the next transaction.
            self.try_command("RSET")?;
            return Ok(false);
        }
        let reply = self.try_command("DATA")?;
        let refused = reply.code != 354;
        receipt.data = Some(reply);
        if refused {
            self.try_command("RSET")?;
        }
        Ok(!refused)
    }

    fn envelope_at_once(&mut self, mail: &Mail, receipt: &mut Receipt) -> Result<bool, Lost> {
        let mut lines = vec![mail.mail_line()];
        lines.extend(mail.rcpt_lines());
        lines.push("DATA\r\n".to_owned());
        self.send(lines.join("\r\n").as_bytes())?;
        receipt.mail = Some(self.read()?);
        for _ in &mail.forward_paths {
            receipt.rcpt.push(self.read()?);
        }
        let reply = self.read()?;
        let go_on = reply.code == 354;
        receipt.data = Some(reply);
        if go_on && !receipt.rcpt.iter().any(Reply::is_positive) {
            // RFC 2920 §3.1: 354 though no recipient was accepted; an empty message ends it.
            receipt.end = Some(self.try_command(".")?);
            return Ok(false);
        }
        if !go_on {
            self.try_command("RSET")?;
        }
        Ok(go_on)
    }

    fn mail_data(&mut self, mail: &Mail, receipt: &mut Receipt) -> Result<(), Lost> {
        // One write, so that a small message and its final dot leave together. When the peer has
        // closed meanwhile, its last reply may still be there to read.
        receipt.dot_sent = true;
        let sent = if mail.data.len() < 64 * 1024 {
            self.send(&[&mail.data, b".\r\n".as_slice()].concat())
        } else {
            self.send(&mail.data).and_then(|()| self.send(b".\r\n"))
        };
        match (sent, self.read()) {
            (_, Ok(reply)) => {
                receipt.end = Some(reply);
                Ok(())
            }
            (Err(lost), Err(_)) | (Ok(()), Err(lost)) => Err(lost),
        }
    }

    /// STARTTLS, the handshake and a new EHLO.
    ///
    /// # Panics
    /// When any of that fails.
    #[must_use]
    #[track_caller]
    pub fn starttls(mut self, config: Arc<ClientConfig>, name: &str) -> Self {
        assert_eq!(self.command("STARTTLS").code, 220);
        assert!(self.unread.is_empty(), "octets in clear after 220: {:?}", self.unread);
        let limit = self.limit;
        let mut client = Self::on(under_tls(self.stream, config, name)).patient(limit);
        client.banner = self.banner;
        client.ehlo = client.command("EHLO client.test");
        client
    }

    /// A session under implicit TLS, greeted and after EHLO.
    ///
    /// # Panics
    /// When any of that fails.
    #[must_use]
    #[track_caller]
    pub fn open_tls(address: SocketAddr, config: Arc<ClientConfig>, name: &str) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        let mut client = Self::on(under_tls(Stream::Plain(socket), config, name));
        client.banner = client.expect_reply();
        client.ehlo = client.command("EHLO client.test");
        client
    }

    /// Closes our sending side only.
    pub fn shut(&self) {
        // The peer may have closed already.
        self.stream.socket().shutdown(Shutdown::Write).ok();
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.stream.reset();
    }

    /// QUIT, and the reply to it.
    #[track_caller]
    pub fn quit(mut self) -> Reply {
        self.command("QUIT")
    }
}

fn fault(stage: &str, lost: &Lost) -> io::Error {
    io::Error::other(format!("{stage}: {lost:?}"))
}

fn under_tls(stream: Stream, config: Arc<ClientConfig>, name: &str) -> Stream {
    let Stream::Plain(socket) = stream else { panic!("already under TLS") };
    socket.set_nodelay(true).unwrap();
    let name = name.to_owned().try_into().unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    Stream::Client(Box::new(StreamOwned::new(connection, socket)))
}

fn connect_from(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(source) = source else {
        return TcpStream::connect_timeout(&address, Duration::from_secs(5));
    };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket: OwnedFd = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}
