//! One client connection: bytes ↔ `smtp::Server`, deadlines, pipelining; opens transactions.
//!
//! Invariants
//! - What is offered in EHLO is fixed when the connection opens and never changes within it.
//! - Replies leave in the order of their commands; commands that arrived together are carried out
//!   together, so that a pipelining client is pipelined to the next hop.
//! - Every wait has a deadline; a stop closes only between transactions.
//! - Mail data with a bare CR or LF is refused after its end, and the connection closed: nothing of
//!   it is completed anywhere.
//!
//! Not here: what happens to mail (`transaction`), who may connect at all (`listener`). A session
//! does not know the spool.

pub mod buffers;
pub mod config;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls::ServerConfig;
use smtp::{
    Command, CommandFramer, DataScanner, Extension, Extensions, Framed, LineFault, Recipient,
    Reply, Scan, Sender, Server, Step,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;

use crate::stream::{Alarm, Late, Stream};
use crate::transaction::{ClientFacts, Content, Corridor, End, Peeked, Transaction};

pub use buffers::Buffers;
pub use config::{Config, Networks};

/// Octets of the buffer for commands.
const COMMANDS: usize = 2 * 1024;

/// Octets of replies for which room is made at once.
const OUTPUT: usize = 256;

/// Octets read at once at the start of mail data: most messages fit. Where more are expected, or come,
/// they are read into [`buffers::LARGE`].
const DATA_FIRST: usize = 16 * 1024;

/// What all sessions of one gate share.
pub struct Service {
    /// Where transactions go.
    pub corridor: Arc<Corridor>,
    /// Limits and timeouts.
    pub config: Config,
    /// Name in greetings.
    pub host: Arc<str>,
    /// Largest message, in octets of mail data.
    pub message_bytes_max: u64,
    /// How TLS is spoken.
    pub tls_mode: tls::Mode,
    /// Certificate and key, when there is TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// Buffers for large messages.
    pub buffers: Buffers,
}

/// Why a session ended before its time.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("the client closed")]
    Closed,
    #[error("the client was silent for too long")]
    Silent,
    #[error("lockgate stops")]
    Stopping,
}

/// Whether the session goes on after a command.
enum Flow {
    On,
    Close,
}

/// A command whose reply waits to be settled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owing {
    Mail,
    Rcpt,
}

struct Session {
    service: Arc<Service>,
    stop: CancellationToken,
    stream: Stream,
    alarm: Alarm,
    input: BytesMut,
    output: Vec<u8>,
    framer: CommandFramer,
    server: Server,
    offered: Extensions,
    client: ClientFacts,
    transaction: Option<Transaction>,
    owing: Vec<Owing>,
    /// The last refusal within the transaction: why it came to nothing, if it does.
    refusal: Option<Reply>,
    recipients: usize,
    errors: u32,
    /// Octets of mail data that are expected: what MAIL said, or what the last message had.
    expected: u64,
}

/// Serves one connection to its end.
pub async fn serve(
    service: Arc<Service>,
    stream: TcpStream,
    peer: SocketAddr,
    stop: CancellationToken,
) {
    let Some(stream) = opened(&service, stream).await else { return };
    let mut session = Session::new(service, stream, peer, stop);
    let ended = session.run().await;
    if let Err(ended) = ended {
        tracing::debug!(client = %peer, %ended, "session ended");
    }
    if let Some(mut transaction) = session.transaction.take() {
        if session.server.state() == smtp::State::Data {
            transaction.abort();
        }
        Box::pin(transaction.abandon(session.refusal.as_ref())).await;
    }
}

/// Tells a client that it may not come in (RFC 5321 §3.1): 554, then 503 until QUIT.
pub async fn turn_away(mut stream: TcpStream) {
    const COMMANDS_MAX: usize = 10;
    const PATIENCE: Duration = Duration::from_secs(10);
    let farewell = async {
        let mut output = Vec::new();
        Reply::NOT_ALLOWED.encode(&mut output);
        stream.write_all(&output).await?;
        let mut input = BytesMut::new();
        let mut framer = CommandFramer::new(smtp::limits::COMMAND_LINE);
        for _ in 0..COMMANDS_MAX {
            let quit = loop {
                match framer.next(&input) {
                    Framed::Line { line, consumed } => {
                        let quit = line.eq_ignore_ascii_case(b"QUIT");
                        input.advance(consumed);
                        break quit;
                    }
                    Framed::Malformed { consumed, .. } => {
                        input.advance(consumed);
                        break false;
                    }
                    Framed::Discard { consumed } => input.advance(consumed),
                    Framed::Incomplete => {
                        if stream.read_buf(&mut input).await? == 0 {
                            return Ok(());
                        }
                    }
                }
            };
            output.clear();
            if quit { Reply::CLOSING } else { Reply::BAD_SEQUENCE }.encode(&mut output);
            stream.write_all(&output).await?;
            if quit {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    // A client that breaks off, or says nothing, has got its answer all the same.
    timeout(PATIENCE, farewell).await.ok();
}

async fn opened(service: &Service, stream: TcpStream) -> Option<Stream> {
    match (&service.tls, service.tls_mode) {
        (Some(tls), tls::Mode::Implicit) => handshake(service, tls, stream).await,
        _ => Some(Stream::Plain(stream)),
    }
}

async fn handshake(
    service: &Service,
    tls: &Arc<ServerConfig>,
    stream: TcpStream,
) -> Option<Stream> {
    let wait = Duration::from_secs(service.config.command_s);
    // Boxed: large, and no part of a session that is past it.
    let accepting = Box::pin(TlsAcceptor::from(Arc::clone(tls)).accept(stream));
    match timeout(wait, accepting).await {
        Ok(Ok(stream)) => Some(Stream::Tls(Box::new(TlsStream::Server(stream)))),
        Ok(Err(error)) => {
            tracing::info!(gate = service.corridor.gate.name(), %error, "TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

impl Session {
    fn new(
        service: Arc<Service>,
        stream: Stream,
        peer: SocketAddr,
        stop: CancellationToken,
    ) -> Self {
        let starttls = service.tls.is_some()
            && service.tls_mode != tls::Mode::Implicit
            && matches!(stream, Stream::Plain(_));
        let relay = &service.corridor.relay;
        let members: Vec<Option<Extensions>> =
            (0..relay.next_hops().count()).map(|member| relay.known(member).extensions).collect();
        let offered = Extensions::offer(&members, service.message_bytes_max, starttls);
        let tls = stream.tls();
        Self {
            service,
            stop,
            stream,
            alarm: Alarm::default(),
            input: BytesMut::new(),
            output: Vec::new(),
            framer: CommandFramer::new(smtp::limits::COMMAND_LINE),
            server: Server::new(),
            offered,
            client: ClientFacts { address: peer, name: None, extended: false, tls },
            transaction: None,
            owing: Vec::new(),
            refusal: None,
            recipients: 0,
            errors: 0,
            expected: 0,
        }
    }

    async fn run(&mut self) -> Result<(), Ended> {
        let greeting = Reply::new(220, format!("{} ESMTP lockgate", self.service.host));
        self.say(&greeting);
        loop {
            let offered = self.understood();
            match self.framer.next(&self.input) {
                Framed::Line { line, consumed } => {
                    let command = Command::parse(line, &offered);
                    self.input.advance(consumed);
                    let flow = match command {
                        Ok(command) => self.command(command).await?,
                        Err(error) => self.fault(&error.reply()).await?,
                    };
                    if matches!(flow, Flow::Close) {
                        self.flush().await?;
                        if matches!(self.stream, Stream::Tls(_)) {
                            // Says that nothing was cut off; in clear, closing says it.
                            self.stream.shutdown().await?;
                        }
                        return Ok(());
                    }
                }
                Framed::Malformed { consumed, fault } => {
                    self.input.advance(consumed);
                    let reply = match fault {
                        LineFault::TooLong => Reply::LINE_TOO_LONG,
                        LineFault::BareControl => Reply::BARE_LF_IN_COMMAND,
                    };
                    if matches!(self.fault(&reply).await?, Flow::Close) {
                        self.flush().await?;
                        return Ok(());
                    }
                }
                Framed::Discard { consumed } => self.input.advance(consumed),
                Framed::Incomplete => {
                    self.settle().await;
                    self.flush().await?;
                    self.read_command().await?;
                }
            }
        }
    }

    /// What a command line may use: what was offered in EHLO. STARTTLS is understood at any time
    /// where there is TLS: too early or twice it is out of sequence (503), not unknown.
    fn understood(&self) -> Extensions {
        let mut understood = if self.server.extended() { self.offered } else { Extensions::none() };
        if self.service.tls.is_some() {
            understood.insert(Extension::StartTls);
        }
        understood
    }

    async fn command(&mut self, command: Command) -> Result<Flow, Ended> {
        if matches!(command, Command::Data) && !self.owing.is_empty() {
            return self.data_in_burst().await;
        }
        if self.server.must_wait(&command) {
            self.settle().await;
        }
        let step = self.server.step(&command);
        if !matches!(step, Step::BeginMail | Step::Rcpt) {
            self.settle().await;
        }
        match (step, command) {
            (Step::BeginMail, Command::Mail(sender)) => self.mail(sender).await,
            (Step::Rcpt, Command::Rcpt(recipient)) => self.rcpt(recipient).await,
            (Step::Data, _) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.data();
                }
                let reply = self.carry_out().await.pop().unwrap_or(Reply::LOCAL_ERROR);
                return self.data_answered(reply).await;
            }
            (Step::Greet { extended, .. }, Command::Ehlo(name) | Command::Helo(name)) => {
                self.abandon().await;
                self.client.name = Some(name.as_str().to_owned());
                self.client.extended = extended;
                let reply = if extended {
                    self.offered.ehlo_reply(&self.service.host)
                } else {
                    Reply::new(250, self.service.host.as_bytes())
                };
                self.say(&reply);
            }
            (Step::Reset { .. }, _) => {
                self.abandon().await;
                self.say(&Reply::FLUSHED);
            }
            (Step::StartTls, _) => return self.start_tls().await,
            (Step::Quit, _) => {
                self.abandon().await;
                self.say(&Reply::CLOSING);
                return Ok(Flow::Close);
            }
            (Step::Reply(reply), _) => {
                if reply.is_permanent() {
                    return self.fault(&reply).await;
                }
                self.say(&reply);
            }
            // The state machine gives each step only for its own command.
            (_, _) => self.say(&Reply::BAD_SEQUENCE),
        }
        Ok(Flow::On)
    }

    async fn mail(&mut self, sender: Sender) {
        let encrypted = self.client.tls.is_some();
        let refusal = if self.service.tls_mode == tls::Mode::Require && !encrypted {
            Some(Reply::TLS_REQUIRED)
        } else if sender.parameters.size() > Some(self.size_limit()) {
            Some(Reply::TOO_BIG)
        } else {
            None
        };
        if let Some(reply) = refusal {
            self.server.mail_answered(false);
            self.say(&reply);
            return;
        }
        self.refusal = None;
        self.recipients = 0;
        self.expected = sender.parameters.size().unwrap_or(self.expected);
        self.transaction =
            Some(Transaction::begin(&self.service.corridor, &self.client, sender).await);
        self.owing.push(Owing::Mail);
    }

    async fn rcpt(&mut self, recipient: Recipient) {
        if self.recipients >= self.service.config.recipients_max {
            self.settle().await;
            self.server.rcpt_answered(false);
            self.say(&Reply::TOO_MANY_RECIPIENTS);
            return;
        }
        self.recipients += 1;
        if let Some(transaction) = &mut self.transaction {
            transaction.rcpt(recipient);
        }
        self.owing.push(Owing::Rcpt);
    }

    /// DATA came together with what is still owing: one burst to the next hop.
    async fn data_in_burst(&mut self) -> Result<Flow, Ended> {
        if let Some(transaction) = &mut self.transaction {
            transaction.data();
        }
        let mut replies = self.carry_out().await;
        let answer = if replies.len() > self.owing.len() { replies.pop() } else { None };
        self.answer(&replies);
        match self.server.step(&Command::Data) {
            Step::Data => self.data_answered(answer.unwrap_or(Reply::LOCAL_ERROR)).await,
            Step::Reply(reply) => {
                if let Some(transaction) = &mut self.transaction {
                    // The next hop may wait for mail data that will not come.
                    transaction.abort();
                }
                self.abandon_if_over().await;
                self.fault(&reply).await
            }
            _ => self.fault(&Reply::BAD_SEQUENCE).await,
        }
    }

    async fn data_answered(&mut self, reply: Reply) -> Result<Flow, Ended> {
        let started = reply.is_intermediate();
        self.server.data_answered(started);
        self.say(&reply);
        if !started {
            self.refusal = Some(reply);
            self.abandon().await;
            return Ok(Flow::On);
        }
        // Boxed, as what is rare is: a session that waits should not have room for all that it may do.
        Box::pin(self.receive()).await
    }

    /// Receives mail data, and answers it.
    async fn receive(&mut self) -> Result<Flow, Ended> {
        self.flush().await?;
        let Some(mut transaction) = self.transaction.take() else {
            return self.fault(&Reply::LOCAL_ERROR).await;
        };
        transaction.begin_mail_data().await;
        let mut scanner = DataScanner::new();
        let mut peeked = Peeked::default();
        let mut size: u64 = 0;
        let mut refused: Option<Reply> = None;
        let is_large = self.expected > DATA_FIRST as u64;
        let mut want = if is_large { buffers::LARGE } else { DATA_FIRST };
        let scan = loop {
            if self.input.is_empty() {
                if want == buffers::LARGE {
                    self.service.buffers.enlarge(&mut self.input);
                }
                let read = tokio::select! {
                    biased;
                    read = read(&mut self.alarm, &mut self.stream, &mut self.input, want, self.service.config.data_block_s) => read,
                    _ = transaction.fenced(), if refused.is_none() => {
                        transaction.abort();
                        refused = Some(Reply::FENCED);
                        continue;
                    }
                };
                match read {
                    // A sender that fills what it is given has more: fewer, larger reads.
                    Ok(octets) if octets >= want => want = buffers::LARGE,
                    Ok(_) => {}
                    Err(ended) => {
                        // Back it goes: the end of the session writes its line and gives it up.
                        self.transaction = Some(transaction);
                        if matches!(ended, Ended::Silent) {
                            self.say(&Reply::IDLE_TIMEOUT);
                            self.flush().await?;
                        }
                        return Err(ended);
                    }
                }
            }
            let scan = scanner.scan(&self.input);
            if scan.fault.is_some() && refused != Some(Reply::BARE_LF_IN_DATA) {
                // Whatever else is wrong with it: this one ends the session too.
                refused = Some(Reply::BARE_LF_IN_DATA);
                transaction.abort();
            }
            if refused.is_none() {
                refused = self.refusal_of(&mut peeked, &mut size, &scan);
                if refused.is_some() {
                    transaction.abort();
                }
            }
            if scan.end {
                break scan;
            }
            let mut rest = scan.consumed;
            if refused.is_none() {
                let Scan { carried, content: octets, .. } = scan;
                let content = Content { carried, input: &mut self.input, octets };
                transaction.mail_data(content, &peeked).await;
                rest -= octets;
            }
            self.input.advance(rest);
        };
        peeked.finish();
        let smuggled = refused.as_ref() == Some(&Reply::BARE_LF_IN_DATA);
        let end = refused.map_or(End::Complete, End::Refused);
        let Scan { carried, content: octets, consumed, .. } = scan;
        let last = Content { carried, input: &mut self.input, octets };
        let reply = transaction.finish(end, last, &peeked, size).await;
        self.input.advance(consumed - octets);
        self.server.data_ended();
        self.expected = size;
        self.say(&reply);
        if self.input.capacity() > COMMANDS {
            // What follows the message, if anything, are commands.
            let rest = BytesMut::from(&self.input[..]);
            self.service.buffers.give(std::mem::replace(&mut self.input, rest));
        }
        if smuggled {
            self.say(&Reply::CLOSING_AFTER_FAULT);
            return Ok(Flow::Close);
        }
        Ok(Flow::On)
    }

    /// Looks at scanned content; says with which reply the message must be refused, if it must.
    fn refusal_of(&self, peeked: &mut Peeked, size: &mut u64, scan: &Scan) -> Option<Reply> {
        for piece in [scan.carried, &self.input[..scan.content]] {
            *size += piece.len() as u64;
            if *size > self.size_limit() {
                return Some(Reply::TOO_BIG);
            }
            peeked.push(piece);
            if peeked.header().received_count() >= self.service.config.received_max {
                return Some(Reply::ROUTING_LOOP);
            }
        }
        None
    }

    /// Carries out what is owing and answers it.
    async fn settle(&mut self) {
        if self.owing.is_empty() {
            return;
        }
        let replies = self.carry_out().await;
        self.answer(&replies);
        self.abandon_if_over().await;
    }

    async fn carry_out(&mut self) -> Vec<Reply> {
        let replies = match &mut self.transaction {
            Some(transaction) => transaction.settle().await,
            None => Vec::new(),
        };
        if replies.is_empty() { vec![Reply::LOCAL_ERROR; self.owing.len()] } else { replies }
    }

    /// Tells the state machine and the client what came back.
    fn answer(&mut self, replies: &[Reply]) {
        for (index, owing) in std::mem::take(&mut self.owing).into_iter().enumerate() {
            let reply =
                replies.get(index).or(replies.last()).cloned().unwrap_or(Reply::LOCAL_ERROR);
            match owing {
                Owing::Mail => self.server.mail_answered(reply.is_positive()),
                Owing::Rcpt => self.server.rcpt_answered(reply.is_positive()),
            }
            if !reply.is_positive() {
                self.refusal = Some(reply.clone());
            }
            self.say(&reply);
        }
    }

    /// A transaction whose MAIL was refused is over.
    async fn abandon_if_over(&mut self) {
        if self.transaction.is_some() && !self.server.in_transaction() {
            self.abandon().await;
        }
    }

    async fn abandon(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            Box::pin(transaction.abandon(self.refusal.take().as_ref())).await;
        }
    }

    /// A command in error: told, counted, and at the limit the end.
    async fn fault(&mut self, reply: &Reply) -> Result<Flow, Ended> {
        self.settle().await;
        self.say(reply);
        self.errors += 1;
        if self.errors >= self.service.config.errors_max {
            self.abandon().await;
            self.say(&Reply::TOO_MANY_ERRORS);
            return Ok(Flow::Close);
        }
        Ok(Flow::On)
    }

    async fn start_tls(&mut self) -> Result<Flow, Ended> {
        let Some(tls) = self.service.tls.clone() else {
            self.say(&Reply::NOT_IMPLEMENTED);
            return Ok(Flow::On);
        };
        if self.client.tls.is_some() {
            self.say(&Reply::BAD_SEQUENCE);
            return Ok(Flow::On);
        }
        if !self.input.is_empty() {
            // CVE-2011-0411: commands behind STARTTLS would be taken for encrypted ones.
            self.say(&Reply::BAD_SEQUENCE);
            return Ok(Flow::Close);
        }
        self.say(&Reply::STARTTLS_READY);
        self.flush().await?;
        let stream = std::mem::replace(&mut self.stream, Stream::Gone);
        let Stream::Plain(tcp) = stream else { return Err(Ended::Closed) };
        self.stream = handshake(&self.service, &tls, tcp).await.ok_or(Ended::Closed)?;
        self.server.tls_started();
        self.offered.remove(Extension::StartTls);
        self.client.tls = self.stream.tls();
        self.client.name = None;
        Ok(Flow::On)
    }

    /// The largest message: ours, or what was offered, which leaves room for our trace field.
    fn size_limit(&self) -> u64 {
        let ours = self.service.message_bytes_max;
        self.offered.size().filter(|limit| *limit > 0).map_or(ours, |limit| limit.min(ours))
    }

    fn say(&mut self, reply: &Reply) {
        // Most bursts of replies fit: one allocation, not one for every doubling.
        self.output.reserve(OUTPUT);
        reply.encode(&mut self.output);
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.output.is_empty() {
            return Ok(());
        }
        let wait = Duration::from_secs(self.service.config.write_s);
        let output = [self.output.as_slice()];
        let write = self.stream.write_pieces(&output);
        self.alarm.within(wait, write).await.map_err(|Late| Ended::Silent)??;
        self.output.clear();
        Ok(())
    }

    /// Waits for the next command: for the client, a fence, or the end of lockgate.
    async fn read_command(&mut self) -> Result<(), Ended> {
        let seconds = self.service.config.command_s;
        if self.input.is_empty() && self.transaction.is_none() {
            // A connection that only waits keeps no buffer.
            self.input = BytesMut::new();
        }
        loop {
            let Some(transaction) = &mut self.transaction else {
                let read = tokio::select! {
                    biased;
                    read = read(&mut self.alarm, &mut self.stream, &mut self.input, COMMANDS, seconds) => read,
                    () = self.stop.cancelled() => Err(Ended::Stopping),
                };
                let farewell = match &read {
                    Err(Ended::Stopping) => Reply::SHUTTING_DOWN,
                    Err(Ended::Silent) => Reply::IDLE_TIMEOUT,
                    _ => return read.map(drop),
                };
                self.say(&farewell);
                self.flush().await?;
                return read.map(drop);
            };
            tokio::select! {
                biased;
                read = read(&mut self.alarm, &mut self.stream, &mut self.input, COMMANDS, seconds) => {
                    if matches!(read, Err(Ended::Silent)) {
                        self.say(&Reply::IDLE_TIMEOUT);
                        self.flush().await?;
                    }
                    return read.map(drop);
                }
                _ = transaction.fenced() => transaction.abort(),
            }
        }
    }
}

/// Reads what is there, `want` octets or a little more at once; says how many.
async fn read(
    alarm: &mut Alarm,
    stream: &mut Stream,
    input: &mut BytesMut,
    want: usize,
    seconds: u64,
) -> Result<usize, Ended> {
    let read = async {
        if input.capacity() == 0 {
            stream.readable().await?;
        }
        input.reserve(want);
        stream.read_buf(input).await
    };
    match alarm.within(Duration::from_secs(seconds), read).await {
        Ok(Ok(0)) => Err(Ended::Closed),
        Ok(Ok(octets)) => Ok(octets),
        Ok(Err(error)) => Err(Ended::Io(error)),
        Err(Late) => Err(Ended::Silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Octets of the future that a function makes.
    fn octets_of<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands of sessions only wait: what is rare and large is boxed where it happens.
    #[test]
    fn a_session_has_no_room_for_what_is_rare() {
        assert!(octets_of(serve) <= 2816, "{}", octets_of(serve));
    }
}
