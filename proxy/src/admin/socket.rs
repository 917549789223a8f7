//! The sockets under HTTP: a Unix socket for control, and bounds for both listeners.
//!
//! Invariants
//! - A socket file that somebody answers on is never replaced, nor anything that is no socket.
//! - Only the owner may speak to the admin socket (mode 0600).
//! - Connections are bounded in number, and a peer that stops reading (or, on the metrics page,
//!   says nothing) is let go.
//!
//! Not here: HTTP (`mod`).

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use disk::{Disk, RealDisk};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Mode of the socket file: the owner's alone.
const MODE: u32 = 0o600;

/// Why the admin socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers on it.
    #[error("a lockgate answers on {} already: stop it first", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has its name.
    #[error("{} is no socket: move it away", path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Opens the admin socket; a stale file, on which nobody answers, is replaced.
///
/// # Errors
/// See [`SocketError`].
pub(super) async fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let refused = |source| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                remove(path).map_err(refused)?;
            }
            // Gone between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(refused(source)),
            Ok(_) => {
                return Err(SocketError::InUse { path: path.to_owned() });
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(refused(source)),
    }
    let listener = UnixListener::bind(path).map_err(refused)?;
    fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(refused)?;
    Ok(listener)
}

/// Unlinks a stale socket, the way all of lockgate unlinks.
fn remove(path: &Path) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    RealDisk::new(folder.to_owned()).remove(name.as_ref())
}

/// How long a peer may stand still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Without a word of it; none: it may wait for us.
    pub(super) read: Option<Duration>,
    /// Without taking what we have for it.
    pub(super) write: Duration,
}

/// A listener with at most so many connections at once; who comes later waits in the kernel.
pub(super) struct Bounded<L> {
    listener: L,
    room: Arc<Semaphore>,
    patience: Patience,
}

impl<L> Bounded<L> {
    pub(super) fn new(listener: L, connections_max: usize, patience: Patience) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(connections_max)), patience }
    }
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = Counted<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.room).acquire_owned().await.ok();
        let (io, address) = self.listener.accept().await;
        let counted =
            Counted { io, patience: self.patience, reading: None, writing: None, _place: place };
        (counted, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that takes one place while it lives and ends when its peer stands still.
pub(super) struct Counted<T> {
    io: T,
    patience: Patience,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
    _place: Option<OwnedSemaphorePermit>,
}

/// What `progress` says, or an error when it has said nothing for `limit`.
fn within<R>(
    progress: Poll<io::Result<R>>,
    timer: &mut Option<Pin<Box<Sleep>>>,
    limit: Option<Duration>,
    context: &mut Context<'_>,
) -> Poll<io::Result<R>> {
    let Some(limit) = limit else { return progress };
    if progress.is_ready() {
        *timer = None;
        return progress;
    }
    let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
    match sleep.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        Poll::Pending => Poll::Pending,
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.io).poll_read(context, buffer);
        within(progress, &mut this.reading, this.patience.read, context)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.io).poll_write(context, bytes);
        within(progress, &mut this.writing, Some(this.patience.write), context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let first = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let second = bind(&path).await;
        assert!(matches!(second, Err(SocketError::InUse { .. })), "{second:?}");
        drop(first);
        let third = bind(&path).await.unwrap();
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(third);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        fs::write(&path, b"precious").unwrap();
        let refused = bind(&path).await;
        assert!(matches!(refused, Err(SocketError::NotASocket { .. })), "{refused:?}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_connection_beyond_the_bound_waits_for_one_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let patience = Patience { read: None, write: Duration::from_secs(10) };
        let mut bounded = Bounded::new(bind(&path).await.unwrap(), 1, patience);
        let _one = UnixStream::connect(&path).await.unwrap();
        let _two = UnixStream::connect(&path).await.unwrap();
        let (first, _) = bounded.accept().await;
        {
            let mut second = std::pin::pin!(bounded.accept());
            let waiting = futures_util::future::poll_immediate(&mut second).await;
            assert!(waiting.is_none());
            drop(first);
            second.await;
        }
    }

    #[tokio::test]
    async fn a_peer_that_stands_still_is_let_go() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let patience =
            Patience { read: Some(Duration::from_millis(20)), write: Duration::from_millis(10) };
        let mut counted =
            Counted { io: ours, patience, reading: None, writing: None, _place: None };
        theirs.write_all(b"word").await.unwrap();
        let mut word = [0; 4];
        counted.read_exact(&mut word).await.unwrap();
        let silent = counted.read(&mut word).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        let deaf = counted.write_all(b"more than fits").await.unwrap_err();
        assert_eq!(deaf.kind(), io::ErrorKind::TimedOut);
    }
}
