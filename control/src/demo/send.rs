//! The sending side of a mail system of the demo: one connection, message by message.
//!
//! Invariants: a forward-path counts as accepted only by a 2yz to the end of mail data that came
//! after the last octet; an error after the final dot is told apart ([`SendError::Lost`]).
//!
//! Not here: queues and retries (`server`, `mta`).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use smtp::{
    ClientName, Command, END_OF_DATA, Envelope, Reply, ReplyError, ReplyLimits, encode_mail,
    encode_rcpt, parse_reply,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for a connection or a reply.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why a message has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing of this message counts: try again.
    #[error("cannot send")]
    Unsent(#[source] io::Error),
    /// The final dot was sent and no reply came: it may have been accepted.
    #[error("no reply to the end of mail data")]
    Lost(#[source] io::Error),
    /// The other side greets with a refusal.
    #[error("refused before MAIL: {0}")]
    Refused(Reply),
}

/// One connection to a next hop, past EHLO.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    sent: u32,
}

impl Connection {
    /// Connects, reads the greeting, says EHLO.
    pub async fn open(next_hop: SocketAddr, name: &str) -> Result<Self, SendError> {
        let stream = timeout(PATIENCE, TcpStream::connect(next_hop)).await;
        let stream = stream.map_err(io::Error::from).flatten().map_err(SendError::Unsent)?;
        stream.set_nodelay(true).map_err(SendError::Unsent)?;
        let mut connection = Self { stream, input: Vec::new(), sent: 0 };
        let greeting = connection.reply().await.map_err(SendError::Unsent)?;
        if !greeting.is_positive() {
            return Err(SendError::Refused(greeting));
        }
        let name = ClientName::new(name)
            .ok_or_else(|| SendError::Unsent(io::Error::other("not a name for EHLO")))?;
        let hello = connection.command(&Command::Ehlo(name)).await.map_err(SendError::Unsent)?;
        if hello.is_positive() { Ok(connection) } else { Err(SendError::Refused(hello)) }
    }

    /// Messages sent over this connection.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// Sends one message; the last word on each forward-path, in order.
    pub async fn send(
        &mut self,
        envelope: &Envelope,
        wire: &[u8],
    ) -> Result<Vec<Reply>, SendError> {
        self.sent += 1;
        let mut line = Vec::new();
        encode_mail(&envelope.sender, &mut line);
        let mail = self.ask(&line).await.map_err(SendError::Unsent)?;
        if !mail.is_positive() {
            return Ok(vec![mail; envelope.recipients().len()]);
        }
        let mut replies = Vec::with_capacity(envelope.recipients().len());
        for recipient in envelope.recipients() {
            line.clear();
            encode_rcpt(recipient, &mut line);
            replies.push(self.ask(&line).await.map_err(SendError::Unsent)?);
        }
        if !replies.iter().any(Reply::is_positive) {
            self.command(&Command::Rset).await.map_err(SendError::Unsent)?;
            return Ok(replies);
        }
        let verdict = self.data(wire).await?;
        for reply in replies.iter_mut().filter(|reply| reply.is_positive()) {
            reply.clone_from(&verdict);
        }
        Ok(replies)
    }

    async fn data(&mut self, wire: &[u8]) -> Result<Reply, SendError> {
        let start = self.command(&Command::Data).await.map_err(SendError::Unsent)?;
        if !start.is_intermediate() {
            return Ok(start);
        }
        let mut last = wire.to_vec();
        last.extend_from_slice(END_OF_DATA);
        self.stream.write_all(&last).await.map_err(SendError::Lost)?;
        self.reply().await.map_err(SendError::Lost)
    }

    /// Says goodbye.
    pub async fn quit(mut self) {
        // Whether the other side hears it or not, this is the end.
        self.command(&Command::Quit).await.ok();
    }

    async fn command(&mut self, command: &Command) -> io::Result<Reply> {
        let mut line = Vec::new();
        command.encode(&mut line);
        self.ask(&line).await
    }

    async fn ask(&mut self, line: &[u8]) -> io::Result<Reply> {
        self.stream.write_all(line).await?;
        self.reply().await
    }

    async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            match parse_reply(&self.input, &ReplyLimits::default()) {
                Ok(Some((reply, consumed))) => {
                    self.input.drain(..consumed);
                    return Ok(reply);
                }
                Ok(None) => {}
                Err(error) => return Err(malformed(error)),
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await??;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn malformed(error: ReplyError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
