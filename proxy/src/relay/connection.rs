//! One connection to a next hop, driven by `smtp::Client`, with deadlines.
//!
//! Invariants
//! - Every wait has a deadline (RFC 5321 §4.5.3.2).
//! - A reply counts only if it is well formed and was owed; octets that nobody asked for make the
//!   connection useless.
//! - A 2yz to the end of mail data counts only when nothing had arrived before the final dot was
//!   sent: [`Connection::finish`] looks first.
//! - `require` and `verify` never go on in clear; octets before the handshake are an attack.
//!
//! Not here: which connection to take (`pool`), what a transaction is (`transaction`, `replay`).

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use smtp::{Client, Command, Extension, Extensions, Owed, Reply, ReplyLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Handle, Id};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};

use super::config::Config;
use super::next_hop::{NextHop, Stranger};
use super::tls::TlsDemand;
use crate::stream::{Alarm, Late, Silence, Stream};

/// How often octets under TLS are looked into before they count as a word of the next hop.
const UNREAD_LOOKS: usize = 3;

/// Octets of a buffer that an idle connection keeps.
const KEPT: usize = 1024;

/// What a connection was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening TCP.
    Connect,
    /// Waiting for the greeting.
    Banner,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and the handshake.
    Tls,
    /// XFORWARD.
    Xforward,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// Mail data, before the final dot.
    MailData,
    /// The final dot was sent, or may have been.
    EndOfData,
    /// RSET.
    Rset,
}

impl Stage {
    /// The word used in logs and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Banner => "banner",
            Self::Ehlo => "ehlo",
            Self::Tls => "tls",
            Self::Xforward => "xforward",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::MailData => "mail_data",
            Self::EndOfData => "end_of_data",
            Self::Rset => "rset",
        }
    }

    const fn of(owed: Owed) -> Self {
        match owed {
            Owed::Greeting => Self::Banner,
            Owed::Ehlo | Owed::Helo => Self::Ehlo,
            Owed::StartTls => Self::Tls,
            Owed::Xforward => Self::Xforward,
            Owed::Mail => Self::Mail,
            Owed::Rcpt => Self::Rcpt,
            Owed::Data => Self::Data,
            Owed::EndOfData => Self::EndOfData,
            Owed::Rset | Owed::Noop | Owed::Quit => Self::Rset,
        }
    }
}

/// Why a connection is of no more use. The client of a transaction hears 451, never 5yz: this
/// concerns the link, not the mail.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection could not be opened, or broke.
    #[error("{}: {source}", stage.as_str())]
    Io {
        /// Where.
        stage: Stage,
        /// Why.
        source: io::Error,
    },
    /// The next hop closed the connection.
    #[error("{}: connection closed by the next hop", stage.as_str())]
    Closed {
        /// Where.
        stage: Stage,
    },
    /// A deadline passed.
    #[error("{}: no answer within {seconds} s", stage.as_str())]
    TimedOut {
        /// Where.
        stage: Stage,
        /// The deadline.
        seconds: u64,
    },
    /// It refused before MAIL.
    #[error("{}: refused: {}", stage.as_str(), reply.text_lossy())]
    Refused {
        /// Where.
        stage: Stage,
        /// With what.
        reply: Reply,
    },
    /// What it said is no SMTP reply, or was not owed.
    #[error("{}: {what}", stage.as_str())]
    Protocol {
        /// Where.
        stage: Stage,
        /// What was wrong.
        what: String,
    },
    /// TLS is demanded and not to be had.
    #[error("tls: {0}")]
    Tls(String),
    /// Another server answers in its place.
    #[error("identity: {0}")]
    Stranger(#[from] Stranger),
    /// It failed a moment ago; nobody tries again before the pause is over.
    #[error("connect: it did not answer a moment ago")]
    BackingOff,
}

impl LinkError {
    /// Where it happened.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self {
            Self::Io { stage, .. }
            | Self::Closed { stage }
            | Self::TimedOut { stage, .. }
            | Self::Refused { stage, .. }
            | Self::Protocol { stage, .. } => *stage,
            Self::Tls(_) => Stage::Tls,
            Self::Stranger(_) => Stage::Ehlo,
            Self::BackingOff => Stage::Connect,
        }
    }
}

/// How a delivery ended that had its final dot sent, or not.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// The final dot was not sent: the next hop has nothing.
    #[error(transparent)]
    Before(LinkError),
    /// The next hop said something before the final dot, so that a later reply proves nothing; the
    /// final dot was not sent.
    #[error("end_of_data: the next hop spoke before the final dot: {}", .0.text_lossy())]
    Early(Reply),
    /// The final dot was sent, or may have been, and no valid reply came: nobody knows.
    #[error(transparent)]
    Uncertain(LinkError),
}

/// One connection, past EHLO.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    alarm: Alarm,
    input: BytesMut,
    output: Vec<u8>,
    client: Client,
    limits: ReplyLimits,
    extensions: Extensions,
    identity: String,
    tls: Option<String>,
    peer: SocketAddr,
    messages: u32,
    idle_since: Instant,
    home: Id,
}

impl Connection {
    /// Opens a connection up to the reply to EHLO, under the TLS that `next_hop` demands.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn open(next_hop: &NextHop, config: &Config) -> Result<Self, LinkError> {
        let tcp = connect(next_hop, config).await?;
        let peer =
            tcp.peer_addr().map_err(|source| LinkError::Io { stage: Stage::Connect, source })?;
        let mut connection = Self {
            stream: Stream::Plain(tcp),
            alarm: Alarm::default(),
            input: BytesMut::new(),
            output: Vec::new(),
            client: Client::new(),
            limits: ReplyLimits::default(),
            extensions: Extensions::none(),
            identity: String::new(),
            tls: None,
            peer,
            messages: 0,
            idle_since: Instant::now(),
            home: Handle::current().id(),
        };
        let greeting = connection.reply(config.greeting()).await?;
        if !greeting.is_positive() {
            return Err(LinkError::Refused { stage: Stage::Banner, reply: greeting });
        }
        connection.identity = host_of(&greeting);
        connection.ehlo(next_hop, config).await?;
        connection.start_tls(next_hop, config).await?;
        Ok(connection)
    }

    /// What it offers.
    #[must_use]
    pub const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Who it is: the fingerprint of its certificate under TLS, else the host name in its greeting.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// TLS version and cipher suite.
    #[must_use]
    pub fn tls(&self) -> Option<&str> {
        self.tls.as_deref()
    }

    /// Its address.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Messages that this connection has carried.
    #[must_use]
    pub const fn messages(&self) -> u32 {
        self.messages
    }

    /// The runtime that it was opened in.
    #[must_use]
    pub const fn home(&self) -> Id {
        self.home
    }

    /// Since when it is idle.
    #[must_use]
    pub const fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// Nothing is owed and nothing happened that forbids another transaction.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.client.reusable() && self.input.is_empty() && self.output.is_empty()
    }

    /// Marks it idle from now on and gives back what is large.
    pub fn rest(&mut self) {
        self.idle_since = Instant::now();
        if self.input.capacity() > KEPT {
            self.input = BytesMut::new();
        }
        if self.output.capacity() > KEPT {
            self.output = Vec::new();
        }
    }

    /// Is an idle connection still alive and silent?
    #[must_use]
    pub fn is_fresh(&mut self) -> bool {
        self.stream.listen(&mut self.input) == Silence::Silent
    }

    /// Puts a command into the next burst; `owed` is the reply that it will bring.
    pub fn queue(&mut self, owed: Owed, encode: impl FnOnce(&mut Vec<u8>)) {
        // Most bursts fit: one allocation, not one for every doubling.
        self.output.reserve(256);
        encode(&mut self.output);
        self.client.sent(owed);
    }

    /// Puts the client's identity into the next burst; says how many replies that will bring.
    pub fn queue_xforward(
        &mut self,
        facts: &smtp::Xforward,
        offered: smtp::XforwardAttributes,
    ) -> usize {
        let commands = facts.encode(offered, &mut self.output);
        for _ in 0..commands {
            self.client.sent(Owed::Xforward);
        }
        commands
    }

    /// Can RSET end what was begun here, so that the connection may serve again?
    #[must_use]
    pub fn can_reset(&self) -> bool {
        self.client.owed() == 0 && !self.client.closing() && self.output.is_empty()
    }

    /// Sends what was queued.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub async fn flush(&mut self, wait: Duration) -> Result<(), LinkError> {
        if self.output.is_empty() {
            return Ok(());
        }
        let stage = self.client.next_owed().map_or(Stage::MailData, Stage::of);
        let link = (&mut self.alarm, &mut self.stream);
        write_all(link, &[&self.output], stage, wait).await?;
        self.output.clear();
        Ok(())
    }

    /// The next reply that is owed.
    ///
    /// # Errors
    /// When it does not come in time or is none.
    pub async fn reply(&mut self, wait: Duration) -> Result<Reply, LinkError> {
        let stage = self.client.next_owed().map_or(Stage::Rset, Stage::of);
        let seconds = wait.as_secs();
        // Under way, the alarm is not part of the connection.
        let mut alarm = std::mem::take(&mut self.alarm);
        let read = alarm.within(wait, self.read_reply(stage)).await;
        self.alarm = alarm;
        match read {
            Ok(result) => result,
            Err(Late) => Err(LinkError::TimedOut { stage, seconds }),
        }
    }

    /// Sends pieces of mail data, in wire form, before the final dot.
    ///
    /// # Errors
    /// When they cannot be sent.
    pub async fn mail_data(&mut self, pieces: &[&[u8]], wait: Duration) -> Result<(), LinkError> {
        write_all((&mut self.alarm, &mut self.stream), pieces, Stage::MailData, wait).await
    }

    /// What the next hop said before the final dot, if anything. A complete error reply is
    /// given as it is; anything else as 451.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn early_reply(&mut self) -> Result<Option<Reply>, LinkError> {
        let mut silence = self.stream.listen(&mut self.input);
        for _ in 0..UNREAD_LOOKS {
            if silence != Silence::Unread {
                break;
            }
            // Let the runtime hear of what has arrived, so that it can be looked into.
            tokio::task::yield_now().await;
            silence = self.stream.listen(&mut self.input);
        }
        match silence {
            Silence::Silent if self.input.is_empty() => return Ok(None),
            Silence::Gone if self.input.is_empty() => {
                return Err(LinkError::Closed { stage: Stage::MailData });
            }
            _ => {}
        }
        self.client.taint();
        let reply = match smtp::parse_reply(&self.input, &self.limits) {
            Ok(Some((reply, _))) if reply.is_transient() || reply.is_permanent() => reply,
            _ => Reply::NEXT_HOP_LOST,
        };
        Ok(Some(reply))
    }

    /// Sends the last pieces of mail data with the final dot, in one write where the system takes
    /// it, and waits for the reply.
    ///
    /// # Errors
    /// See [`FinishError`]: it tells whether the final dot was sent.
    pub async fn finish(
        &mut self,
        last: [&[u8]; 3],
        block: Duration,
        wait: Duration,
    ) -> Result<Reply, FinishError> {
        if let Some(reply) = self.early_reply().await.map_err(FinishError::Before)? {
            return Err(FinishError::Early(reply));
        }
        self.client.sent(Owed::EndOfData);
        let [first, second, third] = last;
        // From the first octet written on, the kernel may have handed over the dot.
        let pieces = [first, second, third, smtp::END_OF_DATA];
        let link = (&mut self.alarm, &mut self.stream);
        let written = write_all(link, &pieces, Stage::EndOfData, block).await;
        written.map_err(FinishError::Uncertain)?;
        let reply = self.reply(wait).await.map_err(FinishError::Uncertain)?;
        if reply.is_intermediate() {
            self.client.taint();
            return Err(FinishError::Uncertain(LinkError::Protocol {
                stage: Stage::EndOfData,
                what: format!("unexpected reply {}", reply.text_lossy()),
            }));
        }
        self.messages += 1;
        Ok(reply)
    }

    /// Says QUIT and closes; does not wait for the answer.
    pub async fn quit(mut self) {
        let farewell = async {
            let mut farewell = Vec::new();
            Command::Quit.encode(&mut farewell);
            self.stream.write_all(&farewell).await?;
            self.stream.shutdown().await
        };
        // The peer may be gone already: closing is all that is left.
        timeout(Duration::from_secs(2), farewell).await.ok();
    }

    async fn ehlo(&mut self, next_hop: &NextHop, config: &Config) -> Result<(), LinkError> {
        let name = next_hop.helo.clone();
        self.queue(Owed::Ehlo, |output| Command::Ehlo(name.clone()).encode(output));
        self.flush(config.greeting()).await?;
        let reply = self.reply(config.greeting()).await?;
        if reply.is_positive() {
            self.extensions = Extensions::from_ehlo(&reply);
            return Ok(());
        }
        // RFC 5321 §3.2: a server that does not know EHLO is greeted with HELO.
        if !matches!(reply.code(), 500 | 502) {
            return Err(LinkError::Refused { stage: Stage::Ehlo, reply });
        }
        self.queue(Owed::Helo, |output| Command::Helo(name).encode(output));
        self.flush(config.greeting()).await?;
        let reply = self.reply(config.greeting()).await?;
        if !reply.is_positive() {
            return Err(LinkError::Refused { stage: Stage::Ehlo, reply });
        }
        self.extensions = Extensions::none();
        Ok(())
    }

    async fn start_tls(&mut self, next_hop: &NextHop, config: &Config) -> Result<(), LinkError> {
        let Some(tls) = &next_hop.tls.config else { return Ok(()) };
        if !self.extensions.contains(Extension::StartTls) {
            if next_hop.tls.demand == TlsDemand::May {
                return Ok(());
            }
            return Err(LinkError::Tls("the next hop does not offer STARTTLS".into()));
        }
        self.queue(Owed::StartTls, |output| Command::StartTls.encode(output));
        self.flush(config.greeting()).await?;
        let reply = self.reply(config.greeting()).await?;
        if !reply.is_positive() {
            return Err(LinkError::Refused { stage: Stage::Tls, reply });
        }
        if !self.input.is_empty() {
            return Err(LinkError::Tls("octets in clear behind the reply to STARTTLS".into()));
        }
        let connector = TlsConnector::from(std::sync::Arc::clone(tls));
        let stream = std::mem::replace(&mut self.stream, Stream::Gone);
        let Stream::Plain(tcp) = stream else {
            return Err(LinkError::Tls("TLS was already on".into()));
        };
        let handshake = connector.connect(next_hop.tls.name.clone(), tcp);
        let stream = timeout(config.greeting(), handshake)
            .await
            .map_err(|_| LinkError::TimedOut { stage: Stage::Tls, seconds: config.greeting_s })?
            .map_err(|error| LinkError::Tls(error.to_string()))?;
        self.stream = Stream::Tls(Box::new(TlsStream::Client(stream)));
        self.tls = self.stream.tls();
        if let Some(certificate) = self.stream.peer_certificate() {
            self.identity = fingerprint(certificate);
        }
        // RFC 3207 §4.2: what was learned in clear is forgotten.
        self.extensions = Extensions::none();
        self.ehlo(next_hop, config).await
    }

    async fn read_reply(&mut self, stage: Stage) -> Result<Reply, LinkError> {
        loop {
            match smtp::parse_reply(&self.input, &self.limits) {
                Ok(Some((reply, consumed))) => {
                    self.input.advance(consumed);
                    self.client.reply(&reply).map_err(|unexpected| LinkError::Protocol {
                        stage,
                        what: unexpected.to_string(),
                    })?;
                    return Ok(reply);
                }
                Ok(None) => {}
                Err(error) => {
                    self.client.taint();
                    return Err(LinkError::Protocol { stage, what: error.to_string() });
                }
            }
            self.input.reserve(KEPT / 2);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err(LinkError::Closed { stage }),
                Ok(_) => {}
                Err(source) => return Err(LinkError::Io { stage, source }),
            }
        }
    }
}

async fn write_all(
    (alarm, stream): (&mut Alarm, &mut Stream),
    pieces: &[&[u8]],
    stage: Stage,
    wait: Duration,
) -> Result<(), LinkError> {
    match alarm.within(wait, stream.write_pieces(pieces)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(LinkError::Io { stage, source }),
        Err(Late) => Err(LinkError::TimedOut { stage, seconds: wait.as_secs() }),
    }
}

async fn connect(next_hop: &NextHop, config: &Config) -> Result<TcpStream, LinkError> {
    let io = |source| LinkError::Io { stage: Stage::Connect, source };
    let attempt = async {
        let host = (next_hop.address.host(), next_hop.address.port());
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host(host).await? {
            if next_hop.source.is_some_and(|source| source.is_ipv4() != address.is_ipv4()) {
                continue;
            }
            match connect_from(next_hop, address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    timeout(config.connect(), attempt)
        .await
        .map_err(|_| LinkError::TimedOut { stage: Stage::Connect, seconds: config.connect_s })?
        .map_err(io)
}

async fn connect_from(next_hop: &NextHop, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = next_hop.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// The host name in a greeting (RFC 5321 §4.2: the first word after the code).
fn host_of(greeting: &Reply) -> String {
    let line = greeting.lines().next().unwrap_or_default();
    let word = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    format!("host {}", String::from_utf8_lossy(word).to_ascii_lowercase())
}

/// The SHA-256 of a certificate, as words of two hexadecimal digits.
fn fingerprint(certificate: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let mut text = String::from("sha256");
    for byte in digest.as_ref() {
        // Writing to a String cannot fail.
        write!(text, ":{byte:02x}").ok();
    }
    text
}
