//! A TCP stream, plain or under TLS, with deadlines.
//!
//! One type for both sides of a connection, so that `client` and `sink` read and write alike
//! before and after STARTTLS. Blocking; each call is bounded by the deadline set before it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustls::{ClientConnection, ServerConnection, StreamOwned};

/// A connection, plain or under TLS.
#[derive(Debug)]
pub enum Stream {
    /// In clear.
    Plain(TcpStream),
    /// Under TLS, we are the client.
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Under TLS, we are the server.
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    /// The socket beneath.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Client(stream) => stream.get_ref(),
            Self::Server(stream) => stream.get_ref(),
        }
    }

    /// Is it under TLS?
    #[must_use]
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Bounds each later read and write.
    pub fn bound(&self, limit: Duration) {
        // Zero would mean "for ever".
        let limit = Some(limit.max(Duration::from_millis(1)));
        self.socket().set_read_timeout(limit).unwrap();
        self.socket().set_write_timeout(limit).unwrap();
    }

    /// Closes at once: the peer sees a reset, and unread or unsent octets are lost.
    pub fn reset(self) {
        let zero = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(self.socket(), zero).unwrap();
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Client(stream) => stream.read(buffer),
            Self::Server(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(buffer),
            Self::Client(stream) => stream.write(buffer),
            Self::Server(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Client(stream) => stream.flush(),
            Self::Server(stream) => stream.flush(),
        }
    }
}

/// Is this the error of a deadline that has passed?
#[must_use]
pub fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
