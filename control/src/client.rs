//! HTTP/1.1 over a Unix socket, one connection a request.
//!
//! Invariants
//! - Nothing waits for ever: connecting and the head of the answer have a deadline, and so has each
//!   piece of a streamed body.
//! - An error says what to do next; a [`Problem`] of the other side is handed on word for word.
//!
//! Not here: which verb asks for what (`cli`), how requests are passed on (`fleet`).

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use proxy::api::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest wait for an ordinary answer.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Longest wait for a probe: it waits for a server's final reply (RFC 5321 §4.5.3.2.6).
pub const PROBE_DEADLINE: Duration = Duration::from_secs(900);
/// Longest wait for a change of held messages: there may be a million of them.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(900);
/// Longest wait for a file to be received and read.
pub const UPLOAD_DEADLINE: Duration = Duration::from_secs(6 * 3600);
/// Octets of a file that are sent at once.
const UPLOAD_PIECE: usize = 256 * 1024;
/// Longest pause between two pieces of a streamed answer.
pub const IDLE_DEADLINE: Duration = Duration::from_secs(60);
/// Most octets of an answer that is read as one document.
const DOCUMENT_MAX: usize = 64 << 20;

/// Why a request has no answer: one variant per thing the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no lockgate answers at {}: is `lockgate serve` running? Use --data DIR to name its folder",
        socket.display()
    )]
    Absent {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket belongs to somebody else.
    #[error(
        "{} may not be opened by this user: run the command as the user of `lockgate serve`, \
         or join the group of the socket",
        socket.display()
    )]
    Forbidden {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path does not fit into the address of a socket.
    #[error(
        "{} is too long for the address of a socket: name it by a shorter path (from within its \
         folder: --data .)",
        socket.display()
    )]
    TooLong {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too long for an answer.
    #[error("{} gave no answer within {} s; nothing is known about the request", socket.display(), after.as_secs())]
    Late {
        /// The socket.
        socket: PathBuf,
        /// The deadline.
        after: Duration,
    },
    /// The connection ended before the answer did.
    #[error("{} broke the connection before the end of its answer", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What HTTP said.
        source: hyper::Error,
    },
    /// The other side says no, and why.
    #[error("{error}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What is wrong, where, and the mend.
        error: String,
    },
    /// The answer is not what this version expects.
    #[error("{} gave an answer that this version cannot read", socket.display())]
    Unreadable {
        /// The socket.
        socket: PathBuf,
        /// Where reading failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The request could not be written down.
    #[error("the request cannot be written as HTTP")]
    Request {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Sends one request over a new connection and returns the head of the answer; its body follows.
pub async fn send<B>(
    socket: &Path,
    request: Request<B>,
    deadline: Duration,
) -> Result<Response<Incoming>, ClientError>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let answer = async {
        let stream =
            UnixStream::connect(socket).await.map_err(|source| connect_error(socket, source))?;
        let broken = |source| ClientError::Broken { socket: socket.to_owned(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the body of the answer; an error of it is reported there.
        tokio::spawn(async move { drop(connection.await) });
        sender.send_request(request).await.map_err(broken)
    };
    match timeout(deadline, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Late { socket: socket.to_owned(), after: deadline }),
    }
}

fn connect_error(socket: &Path, source: io::Error) -> ClientError {
    let socket = socket.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Forbidden { socket, source },
        io::ErrorKind::InvalidInput => ClientError::TooLong { socket, source },
        _ => ClientError::Absent { socket, source },
    }
}

/// A client of the control API.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// Before every path.
    prefix: &'static str,
}

impl Client {
    /// A client of this socket; nothing is opened yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), prefix: "/api" }
    }

    /// A client of a data plane itself.
    #[must_use]
    pub fn of_proxy(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), prefix: "" }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// GET, read as one document.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.ask(Method::GET, path, Bytes::new(), deadline).await?;
        self.document(answer).await
    }

    /// POST of a document, answered by one.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body)
            .map_err(|source| ClientError::Request { source: source.into() })?;
        let answer = self.ask(Method::POST, path, body.into(), deadline).await?;
        self.document(answer).await
    }

    /// POST of octets, answered by a document.
    pub async fn post_octets<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.ask(Method::POST, path, body.into(), deadline).await?;
        self.document(answer).await
    }

    /// GET of octets, at most so many.
    pub async fn get_octets(
        &self,
        path: &str,
        octets_max: usize,
        deadline: Duration,
    ) -> Result<Bytes, ClientError> {
        let answer = self.ask(Method::GET, path, Bytes::new(), deadline).await?;
        self.collect_at_most(answer, octets_max).await
    }

    /// POST without a document either way.
    pub async fn post_empty(&self, path: &str) -> Result<(), ClientError> {
        self.ask(Method::POST, path, Bytes::new(), DEADLINE).await.map(drop)
    }

    /// POST of a file, piece by piece, answered by a document.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        file: std::fs::File,
    ) -> Result<T, ClientError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, "lockgate")
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(FileBody(file))
            .map_err(|source| ClientError::Request { source: source.into() })?;
        let answer = self.sent(request, UPLOAD_DEADLINE).await?;
        self.document(answer).await
    }

    /// GET, read piece by piece.
    pub async fn stream(&self, path: &str) -> Result<Pieces, ClientError> {
        let answer = self.ask(Method::GET, path, Bytes::new(), DEADLINE).await?;
        Ok(Pieces {
            socket: self.socket.clone(),
            body: answer.into_body(),
            rest: Vec::new(),
            read: 0,
        })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, "lockgate")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|source| ClientError::Request { source: source.into() })?;
        self.sent(request, deadline).await
    }

    /// Sends a request and takes a refusal apart.
    async fn sent<B>(
        &self,
        request: Request<B>,
        deadline: Duration,
    ) -> Result<Response<Incoming>, ClientError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let answer = send(&self.socket, request, deadline).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = self.collect(answer).await?;
        let error = match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => problem.error,
            Err(_) => format!("{} answered {status}", self.socket.display()),
        };
        Err(ClientError::Refused { status, error })
    }

    async fn document<T: DeserializeOwned>(
        &self,
        answer: Response<Incoming>,
    ) -> Result<T, ClientError> {
        let body = self.collect(answer).await?;
        serde_json::from_slice(&body).map_err(|source| self.unreadable(source.into()))
    }

    async fn collect(&self, answer: Response<Incoming>) -> Result<Bytes, ClientError> {
        self.collect_at_most(answer, DOCUMENT_MAX).await
    }

    async fn collect_at_most(
        &self,
        answer: Response<Incoming>,
        octets_max: usize,
    ) -> Result<Bytes, ClientError> {
        let body = Limited::new(answer.into_body(), octets_max).collect();
        match timeout(IDLE_DEADLINE, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(source)) => Err(self.unreadable(source)),
            Err(_) => Err(ClientError::Late { socket: self.socket.clone(), after: IDLE_DEADLINE }),
        }
    }

    fn unreadable(&self, source: Box<dyn std::error::Error + Send + Sync>) -> ClientError {
        ClientError::Unreadable { socket: self.socket.clone(), source }
    }
}

/// A file as the body of a request. The reader is a command with nothing else to do, so it may block.
struct FileBody(std::fs::File);

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        use std::io::Read as _;

        let mut piece = vec![0; UPLOAD_PIECE];
        match self.get_mut().0.read(&mut piece) {
            Ok(0) => Poll::Ready(None),
            Ok(octets) => {
                piece.truncate(octets);
                Poll::Ready(Some(Ok(Frame::data(piece.into()))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

/// A streamed answer.
#[derive(Debug)]
pub struct Pieces {
    socket: PathBuf,
    body: Incoming,
    rest: Vec<u8>,
    /// So many octets of `rest` were read.
    read: usize,
}

impl Pieces {
    /// The next octets; none at the true end of the answer.
    pub async fn next_piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = timeout(IDLE_DEADLINE, self.body.frame()).await.map_err(|_| {
                ClientError::Late { socket: self.socket.clone(), after: IDLE_DEADLINE }
            })?;
            match frame {
                None => return Ok(None),
                Some(Err(source)) => {
                    return Err(ClientError::Broken { socket: self.socket.clone(), source });
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The next value of JSON Lines; none at the true end of the answer.
    pub async fn next_line<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(length) = memchr::memchr(b'\n', &self.rest[self.read..]) {
                let line = self.read..self.read + length;
                self.read = line.end + 1;
                if self.rest[line.clone()].trim_ascii().is_empty() {
                    continue;
                }
                return self.value(&self.rest[line]).map(Some);
            }
            // Moved once for each piece, not for each line.
            self.rest.drain(..self.read);
            self.read = 0;
            match self.next_piece().await? {
                Some(piece) => self.rest.extend_from_slice(&piece),
                None if self.rest.trim_ascii().is_empty() => return Ok(None),
                None => {
                    let line = std::mem::take(&mut self.rest);
                    return self.value(&line).map(Some);
                }
            }
        }
    }

    fn value<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(line).map_err(|source| ClientError::Unreadable {
            socket: self.socket.clone(),
            source: source.into(),
        })
    }
}

/// A path of [`proxy::api::path`] with its `{name}` replaced.
#[must_use]
pub fn fill(path: &str, name: &str, value: &str) -> String {
    path.replace(&format!("{{{name}}}"), &percent(value))
}

/// A path with the members of `query` that are not null as its query.
pub fn with_query<Q: Serialize>(path: &str, query: &Q) -> Result<String, ClientError> {
    let value = serde_json::to_value(query)
        .map_err(|source| ClientError::Request { source: source.into() })?;
    let pairs = value.as_object().into_iter().flatten().filter_map(|(name, value)| {
        let text = match value {
            serde_json::Value::Null => return None,
            serde_json::Value::String(text) => percent(text),
            other => percent(&other.to_string()),
        };
        Some(format!("{name}={text}"))
    });
    let query = pairs.collect::<Vec<_>>().join("&");
    Ok(if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") })
}

/// Percent-encoding of all but the unreserved characters (RFC 3986 §2.3).
fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            encoded.push(char::from(octet));
        } else {
            // Writing to a String cannot fail.
            write!(encoded, "%{octet:02X}").ok();
        }
    }
    encoded
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proxy::api::{HeldFilter, HeldState, path};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// A server that answers one request with these octets.
    fn answering(answer: &'static [u8]) -> (tempfile::TempDir, Client) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("lockgate.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 65536];
            assert_ne!(stream.read(&mut request).await.unwrap(), 0);
            stream.write_all(answer).await.unwrap();
        });
        (folder, Client::new(socket))
    }

    #[tokio::test]
    async fn a_missing_socket_names_it_and_the_mend() {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new(folder.path().join("lockgate.sock"));
        let error = client.get::<u32>("/v1/status", DEADLINE).await.unwrap_err().to_string();
        assert!(error.starts_with("no lockgate answers at "), "{error}");
        assert!(error.contains("lockgate.sock: is `lockgate serve` running?"), "{error}");
        assert!(error.contains("--data"), "{error}");
    }

    #[tokio::test]
    async fn a_dead_socket_file_reads_like_a_missing_one() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("lockgate.sock");
        drop(UnixListener::bind(&socket).unwrap());
        let error = Client::new(socket).get::<u32>("/v1/status", DEADLINE).await.unwrap_err();
        assert!(matches!(error, ClientError::Absent { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_named_with_the_mend() {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new(folder.path().join("f".repeat(200)).join("lockgate.sock"));
        let error = client.get::<u32>("/v1/status", DEADLINE).await.unwrap_err();
        assert!(matches!(error, ClientError::TooLong { .. }), "{error:?}");
        assert!(error.to_string().contains("--data ."), "{error}");
    }

    #[tokio::test]
    async fn a_problem_is_handed_on_word_for_word() {
        let (_folder, client) = answering(
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 31\r\n\r\n{\"error\":\"no gate named `inn`\"}\n",
        );
        let error = client.get::<u32>("/v1/gates", DEADLINE).await.unwrap_err();
        assert_eq!(error.to_string(), "no gate named `inn`");
    }

    #[tokio::test]
    async fn silence_ends_at_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("lockgate.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let error = Client::new(socket)
            .get::<u32>("/v1/status", Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Late { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn lines_come_one_by_one_even_without_a_last_line_feed() {
        let (_folder, client) = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n1\n\n2\n3");
        let mut pieces = client.stream("/v1/held").await.unwrap();
        let mut lines = Vec::new();
        while let Some(line) = pieces.next_line::<u32>().await.unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_stream_that_is_cut_is_an_error_not_an_end() {
        let (_folder, client) = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n1\n");
        let mut pieces = client.stream("/v1/held").await.unwrap();
        assert_eq!(pieces.next_line::<u32>().await.unwrap(), Some(1));
        let error = pieces.next_line::<u32>().await.unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(fill(path::RELEASE, "gate", "a/../b?c"), "/v1/gates/a%2F..%2Fb%3Fc/release");
    }

    #[test]
    fn a_filter_becomes_a_query_without_its_empty_members() {
        let filter = HeldFilter {
            sender: Some("a+b@example.org".into()),
            older_than_s: Some(7200),
            state: Some(HeldState::Refused),
            ..HeldFilter::default()
        };
        let query = with_query(path::HELD, &filter).unwrap();
        assert_eq!(query, "/v1/held?older_than_s=7200&sender=a%2Bb%40example.org&state=refused");
        assert_eq!(with_query(path::HELD, &HeldFilter::default()).unwrap(), "/v1/held");
    }
}
