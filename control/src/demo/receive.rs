//! The receiving side of a mail system of the demo: a listener, its sessions, whole messages.
//!
//! Invariants: a message is answered only when its [`Mailroom`] has answered; a session that is told
//! to stop ends between two transactions, with 421.
//!
//! Not here: what becomes of a message (`server`, `mta`). Messages are kept in memory whole: this is
//! for the demo and for tests, not a path for real mail.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smtp::{
    Command, CommandFramer, DataScanner, Envelope, Extension, Extensions, Framed, LineFault,
    Recipient, Reply, Sender, Server, Step,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest silence of a client.
const SILENCE: Duration = Duration::from_secs(300);
/// Longest wait for sessions when stopping.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// Most octets of mail data.
const SIZE_MAX: u64 = 64 << 20;
/// Longest command line.
const LINE_MAX: usize = 4096;

/// What a mail system says of itself.
#[derive(Clone, Debug)]
pub struct Host {
    /// Host name: its identity, in the greeting and in trace fields.
    pub name: String,
    /// Product and version, behind the name in the greeting.
    pub product: String,
}

/// A message as it came over the wire.
#[derive(Debug)]
pub struct Message {
    /// Who gave it.
    pub client: SocketAddr,
    /// What the client calls itself.
    pub client_name: String,
    /// Over which connection, as the [`Mailroom`] numbered it.
    pub connection: u64,
    /// Who sent it, to whom.
    pub envelope: Envelope,
    /// Mail data in wire form, without its end.
    pub wire: Vec<u8>,
}

/// What follows the end of mail data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A reply.
    Reply(Reply),
    /// Silence: the connection is closed, and the client does not know what became of its message.
    Close,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// Where messages go.
pub trait Mailroom: Send + Sync + 'static {
    /// Takes a message or refuses it.
    fn take(&self, message: Message) -> Answer;

    /// Numbers a connection that was just made.
    fn connected(&self) -> u64 {
        0
    }

    /// Judges a forward-path.
    fn judge(&self, _recipient: &Recipient) -> Reply {
        Reply::RECIPIENT_OK
    }
}

/// A listener and its sessions.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Receiver {
    /// Listens and receives until stopped.
    pub async fn start<M: Mailroom>(
        listen: SocketAddr,
        host: Host,
        mailroom: Arc<M>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept(listener, host, mailroom, stop.clone(), tasks.clone()));
        Ok(Self { address, stop, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener, lets transactions end, says 421 to the others.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        // What is still open is closed when the process ends.
        timeout(STOP_WAIT, self.tasks.wait()).await.ok();
    }
}

async fn accept<M: Mailroom>(
    listener: TcpListener,
    host: Host,
    mailroom: Arc<M>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, client)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let session =
            Session::new(stream, client, host.clone(), Arc::clone(&mailroom), stop.clone());
        tasks.spawn(async move {
            // A client that goes away is no matter of ours.
            session.run().await.ok();
        });
    }
}

struct Session<M> {
    stream: TcpStream,
    client: SocketAddr,
    client_name: String,
    connection: u64,
    host: Host,
    mailroom: Arc<M>,
    stop: CancellationToken,
    input: Vec<u8>,
    output: Vec<u8>,
    state: Server,
    sender: Option<Sender>,
    envelope: Option<Envelope>,
}

enum Next {
    Command(Command),
    Refused(Reply),
    Stopped,
    Closed,
}

impl<M: Mailroom> Session<M> {
    fn new(
        stream: TcpStream,
        client: SocketAddr,
        host: Host,
        mailroom: Arc<M>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            stream,
            client,
            client_name: String::new(),
            connection: mailroom.connected(),
            host,
            mailroom,
            stop,
            input: Vec::new(),
            output: Vec::new(),
            state: Server::new(),
            sender: None,
            envelope: None,
        }
    }

    async fn run(mut self) -> io::Result<()> {
        // A reply is one write: waiting for more would only delay it.
        self.stream.set_nodelay(true)?;
        let greeting = format!("{} ESMTP {}", self.host.name, self.host.product);
        self.reply(&Reply::new(220, greeting));
        let mut framer = CommandFramer::new(LINE_MAX);
        loop {
            match self.next(&mut framer).await? {
                Next::Command(Command::Quit) => {
                    self.reply(&Reply::CLOSING);
                    return self.flush().await;
                }
                Next::Command(command) => self.step(command).await?,
                Next::Refused(reply) => self.reply(&reply),
                Next::Stopped => {
                    self.reply(&Reply::SHUTTING_DOWN);
                    return self.flush().await;
                }
                Next::Closed => return Ok(()),
            }
        }
    }

    async fn next(&mut self, framer: &mut CommandFramer) -> io::Result<Next> {
        loop {
            let (consumed, next) = match framer.next(&self.input) {
                Framed::Line { line, consumed } => {
                    let offered =
                        if self.state.extended() { offered() } else { Extensions::none() };
                    let next = match Command::parse(line, &offered) {
                        Ok(command) => Next::Command(command),
                        Err(error) => Next::Refused(error.reply()),
                    };
                    (consumed, Some(next))
                }
                Framed::Malformed { consumed, fault } => {
                    let reply = match fault {
                        LineFault::BareControl => Reply::BARE_LF_IN_COMMAND,
                        LineFault::TooLong => Reply::LINE_TOO_LONG,
                    };
                    (consumed, Some(Next::Refused(reply)))
                }
                Framed::Discard { consumed } => (consumed, None),
                Framed::Incomplete => (0, None),
            };
            self.input.drain(..consumed);
            if let Some(next) = next {
                return Ok(next);
            }
            self.flush().await?;
            let idle = !self.state.in_transaction();
            let stop = self.stop.clone();
            tokio::select! {
                () = stop.cancelled(), if idle => return Ok(Next::Stopped),
                more = self.read() => if !more? { return Ok(Next::Closed) },
            }
        }
    }

    async fn step(&mut self, command: Command) -> io::Result<()> {
        match self.state.step(&command) {
            Step::Reply(reply) => self.reply(&reply),
            Step::Greet { extended, .. } => {
                if let Command::Ehlo(name) | Command::Helo(name) = command {
                    name.as_str().clone_into(&mut self.client_name);
                }
                self.forget();
                let reply = if extended {
                    offered().ehlo_reply(&self.host.name)
                } else {
                    Reply::new(250, self.host.name.as_str())
                };
                self.reply(&reply);
            }
            Step::BeginMail => {
                if let Command::Mail(sender) = command {
                    self.sender = Some(sender);
                }
                self.state.mail_answered(true);
                self.reply(&Reply::SENDER_OK);
            }
            Step::Rcpt => {
                if let Command::Rcpt(recipient) = command {
                    self.recipient(recipient);
                }
            }
            Step::Data => self.data().await?,
            Step::Reset { .. } => {
                self.forget();
                self.reply(&Reply::OK);
            }
            // STARTTLS is not offered, QUIT is handled by the caller.
            Step::StartTls | Step::Quit => self.reply(&Reply::BAD_SEQUENCE),
        }
        Ok(())
    }

    fn recipient(&mut self, recipient: Recipient) {
        let reply = self.mailroom.judge(&recipient);
        self.state.rcpt_answered(reply.is_positive());
        if reply.is_positive() {
            match (&mut self.envelope, self.sender.clone()) {
                (Some(envelope), _) => envelope.push(recipient),
                (None, Some(sender)) => self.envelope = Some(Envelope::new(sender, recipient)),
                (None, None) => {}
            }
        }
        self.reply(&reply);
    }

    async fn data(&mut self) -> io::Result<()> {
        self.state.data_answered(true);
        self.reply(&Reply::START_DATA);
        let mut scanner = DataScanner::new();
        let mut wire = Vec::new();
        let fault = loop {
            let scan = scanner.scan(&self.input);
            wire.extend_from_slice(scan.carried);
            wire.extend_from_slice(&self.input[..scan.content]);
            self.input.drain(..scan.consumed);
            if scan.end {
                break scan.fault;
            }
            self.flush().await?;
            if !self.read().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let answer = match (fault, self.envelope.take()) {
            (Some(_), _) => Reply::BARE_LF_IN_DATA.into(),
            (None, None) => Reply::NO_VALID_RECIPIENTS.into(),
            (None, Some(envelope)) => self.mailroom.take(Message {
                client: self.client,
                client_name: self.client_name.clone(),
                connection: self.connection,
                envelope,
                wire,
            }),
        };
        self.state.data_ended();
        self.forget();
        match answer {
            Answer::Reply(reply) => {
                self.reply(&reply);
                Ok(())
            }
            Answer::Close => {
                // What was said before the end of mail data is not lost with the answer to it.
                self.flush().await?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    fn forget(&mut self) {
        self.sender = None;
        self.envelope = None;
    }

    fn reply(&mut self, reply: &Reply) {
        reply.encode(&mut self.output);
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Reads more; false at the end of the stream.
    async fn read(&mut self) -> io::Result<bool> {
        self.input.reserve(16 << 10);
        let read = timeout(SILENCE, self.stream.read_buf(&mut self.input)).await??;
        Ok(read > 0)
    }
}

/// What the mail systems of the demo offer.
fn offered() -> Extensions {
    let mut offered = Extensions::none();
    for extension in [
        Extension::Pipelining,
        Extension::EightBitMime,
        Extension::EnhancedStatusCodes,
        Extension::Dsn,
        Extension::Size,
    ] {
        offered.insert(extension);
    }
    offered.set_size(SIZE_MAX);
    offered
}

/// The address of any free port on loopback.
#[must_use]
pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
