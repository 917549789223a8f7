//! A TCP connection, in clear or under TLS, towards a client or a next hop.
//!
//! Not here: who speaks first and what (`session`, `relay::connection`), certificates (`tls` of each
//! side).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsStream;

/// Pieces that are written together at most.
const PIECES_MAX: usize = 4;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// In clear.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// Given to a handshake that failed: every use is an error.
    Gone,
}

/// What waits on a connection that should be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing: as it should be.
    Silent,
    /// Octets that nobody asked for; they stand in the buffer now.
    Spoke,
    /// Octets under TLS that have not been looked into yet: a word of the peer, or a part of one, or
    /// something of TLS itself.
    Unread,
    /// The peer closed, or the connection broke.
    Gone,
}

/// A deadline was missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer in time")]
pub struct Late;

/// The deadlines of one connection, one after the other. One timer serves them all: it is set anew
/// only when it goes off, or when a deadline comes before it, and not for every wait.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Waits for `work`, at most for `wait`. What is ready at once needs no timer at all.
    ///
    /// # Errors
    /// [`Late`].
    pub async fn within<T>(
        &mut self,
        wait: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Late> {
        let mut work = pin!(work);
        let mut deadline = None;
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + wait);
            let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if sleep.deadline() > deadline || sleep.is_elapsed() {
                sleep.as_mut().reset(deadline);
            }
            while sleep.as_mut().poll(context).is_ready() {
                if sleep.deadline() >= deadline {
                    return Poll::Ready(Err(Late));
                }
                sleep.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }
}

impl Stream {
    /// Version and cipher suite, when there is TLS.
    #[must_use]
    pub fn tls(&self) -> Option<String> {
        let Self::Tls(stream) = self else { return None };
        let (_, connection) = stream.get_ref();
        let version = connection.protocol_version()?.as_str()?.replace('_', ".");
        let suite = connection.negotiated_cipher_suite()?.suite();
        Some(format!("{version} {}", suite.as_str()?))
    }

    /// The peer's certificate, when it showed one.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let Self::Tls(stream) = self else { return None };
        stream.get_ref().1.peer_certificates()?.first().map(AsRef::as_ref)
    }

    /// Our address on this connection.
    ///
    /// # Errors
    /// When the system does not know any more.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(stream) => stream.local_addr(),
            Self::Tls(stream) => stream.get_ref().0.local_addr(),
            Self::Gone => Err(gone()),
        }
    }

    /// Writes all pieces, in as few writes as the system allows: a small write of its own at the end
    /// could wait for the peer's delayed acknowledgement.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn write_pieces(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut slices: [IoSlice<'_>; PIECES_MAX] = [IoSlice::new(&[]); PIECES_MAX];
        for pieces in pieces.chunks(PIECES_MAX) {
            let mut left = 0;
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                slices[left] = IoSlice::new(piece);
                left += 1;
            }
            let mut slices = &mut slices[..left];
            while !slices.is_empty() {
                let written = self.write_vectored(slices).await?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                IoSlice::advance_slices(&mut slices, written);
            }
        }
        self.flush().await
    }

    /// Waits until something can be read; under TLS not at all, where it may have been read already.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => poll_fn(|context| stream.poll_read_ready(context)).await,
            Self::Tls(_) | Self::Gone => Ok(()),
        }
    }

    /// Looks, without waiting, whether the peer said anything; what it said goes to `buffer`. The
    /// system itself is asked: the runtime may not have heard yet of what has arrived.
    pub fn listen(&mut self, buffer: &mut BytesMut) -> Silence {
        match self {
            Self::Plain(stream) => {
                let mut octets = [0; 512];
                match recv(&*stream, &mut octets, RecvFlags::DONTWAIT) {
                    Ok(0) => Silence::Gone,
                    Ok(count) => {
                        buffer.extend_from_slice(&octets[..count]);
                        Silence::Spoke
                    }
                    Err(Errno::AGAIN) => Silence::Silent,
                    Err(_) => Silence::Gone,
                }
            }
            Self::Tls(stream) => match stream.read_buf(buffer).now_or_never() {
                Some(Ok(0) | Err(_)) => Silence::Gone,
                Some(Ok(_)) => Silence::Spoke,
                None => {
                    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
                    match recv(stream.get_ref().0, &mut [0; 1], flags) {
                        Err(Errno::AGAIN) => Silence::Silent,
                        Ok(1..) => Silence::Unread,
                        Ok(0) | Err(_) => Silence::Gone,
                    }
                }
            },
            Self::Gone => Silence::Gone,
        }
    }
}

/// As `recv(2)`, anew when a signal came.
fn recv(stream: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
    loop {
        match rustix::net::recv(stream, &mut *buffer, flags) {
            Err(Errno::INTR) => {}
            result => return result.map(|(_, count)| count),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => match pieces {
                // send(2) is cheaper than writev(2).
                [piece] => Pin::new(stream).poll_write(context, piece),
                pieces => Pin::new(stream).poll_write_vectored(context, pieces),
            },
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection was given up in a TLS handshake")
}
