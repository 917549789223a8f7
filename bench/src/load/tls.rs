//! The two ends once more, with STARTTLS (RFC 3207): tasks on one thread.
//!
//! The client trusts everybody and never resumes: what is asked is what TLS costs, whole handshakes
//! included.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use super::dialogue::{Dialogue, EHLO, EHLO_STARTTLS, Event, GREETING, OK};
use super::reply::{Replies, Step};
use super::sink::{Stat, listen_on};
use super::{Load, Measured, Meter, PATIENCE};

/// The name in the certificate.
const NAME: &str = "sink.test";

/// What a server connection reads into: a TLS record.
const SERVER_BUFFER_OCTETS: usize = 16 * 1024;

/// What a client session reads into: replies are short.
const CLIENT_BUFFER_OCTETS: usize = 2 * 1024;

/// Makes a certificate for the sink and writes it with its key; where they are.
///
/// # Errors
/// When they cannot be made or written.
pub(crate) fn certificate(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let names = [NAME, "localhost", "127.0.0.1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
    let (certificate, key) = (folder.join("sink.pem"), folder.join("sink.key"));
    std::fs::write(&certificate, made.cert.pem()).context("cannot write the certificate")?;
    std::fs::write(&key, made.signing_key.serialize_pem()).context("cannot write the key")?;
    Ok((certificate, key))
}

/// Serves as long as the process lives.
///
/// # Errors
/// When the address, the certificate or the key cannot be had.
pub(crate) fn serve_tls(listen: SocketAddr, certificate: &Path, key: &Path) -> Result<Infallible> {
    super::raise_file_limit()?;
    run(accept(listen_on(listen)?, acceptor(certificate, key)?))
}

/// Sends the load over TLS and waits for the last reply.
///
/// # Errors
/// When a reply is not the one that is due, or none comes for [`PATIENCE`].
pub(crate) fn send_tls(to: SocketAddr, load: &Load) -> Result<Measured> {
    load.ensure_sensible()?;
    super::raise_file_limit()?;
    run(send(to, *load))
}

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(work))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .context("cannot read the certificate")?;
    let key = PrivateKeyDer::from_pem_file(key).context("cannot read the key")?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: std::net::TcpListener, acceptor: TlsAcceptor) -> Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    let stat = Rc::new(RefCell::new(Stat::default()));
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        let (acceptor, stat) = (acceptor.clone(), Rc::clone(&stat));
        tokio::task::spawn_local(async move {
            // A connection that breaks ends itself alone.
            serve(stream, &acceptor, &stat).await.ok();
        });
    }
}

async fn serve(mut stream: TcpStream, acceptor: &TlsAcceptor, stat: &RefCell<Stat>) -> Result<()> {
    stream.write_all(GREETING).await?;
    if talk(&mut stream, EHLO_STARTTLS, stat).await? == Ended::ForTls {
        stream.write_all(b"220 2.0.0 go on\r\n").await?;
        let mut stream = timeout(PATIENCE, acceptor.accept(stream)).await??;
        talk(&mut stream, EHLO, stat).await?;
    }
    Ok(())
}

/// Why a dialogue ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It goes on over TLS.
    ForTls,
    /// QUIT, or the peer is gone.
    ForGood,
}

async fn talk<S>(stream: &mut S, ehlo: &'static [u8], stat: &RefCell<Stat>) -> Result<Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut dialogue = Dialogue::new(ehlo);
    let mut buffer = vec![0; SERVER_BUFFER_OCTETS];
    let mut replies = Vec::new();
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(Ended::ForGood);
        }
        let mut input = &buffer[..count];
        let mut ended = None;
        while let Some(event) = dialogue.next(&mut input, &mut replies) {
            match event {
                Event::End(_, octets) => stat.borrow_mut().count(octets)?,
                // Said once in the clear and once more over TLS.
                Event::Hello if ehlo == EHLO_STARTTLS => stat.borrow_mut().connections += 1,
                Event::Content(_) | Event::Hello => {}
                Event::Stat => replies.extend_from_slice(stat.borrow().line().as_bytes()),
                Event::Zero => {
                    stat.replace(Stat::default());
                    replies.extend_from_slice(OK);
                }
                Event::StartTls | Event::Quit => {
                    let for_tls = event == Event::StartTls;
                    ended = Some(if for_tls { Ended::ForTls } else { Ended::ForGood });
                    break;
                }
            }
        }
        if !replies.is_empty() {
            stream.write_all(&replies).await?;
            stream.flush().await?;
            replies.clear();
        }
        if let Some(ended) = ended {
            return Ok(ended);
        }
    }
}

/// What all sessions of a client share.
struct Shared {
    to: SocketAddr,
    load: Load,
    connector: TlsConnector,
    /// The message and its final dot.
    content: Vec<u8>,
    /// Messages begun.
    begun: Cell<u64>,
    meter: RefCell<Meter>,
}

async fn send(to: SocketAddr, load: Load) -> Result<Measured> {
    let shared = Rc::new(Shared {
        to,
        connector: connector()?,
        content: super::message(load.octets)?,
        begun: Cell::new(0),
        meter: RefCell::new(Meter::start()?),
        load,
    });
    let mut sessions = Vec::new();
    if !shared.load.reconnect {
        sessions = open_all(&shared).await?;
        shared.meter.replace(Meter::start()?);
    }
    let mut tasks = JoinSet::new();
    for _ in 0..shared.load.sessions_used() {
        let (shared, kept) = (Rc::clone(&shared), sessions.pop());
        tasks.spawn_local(async move {
            match kept {
                Some(session) => shared.keep(session).await.map(Some),
                None => shared.reconnect().await.map(|()| None),
            }
        });
    }
    let mut ended = Vec::new();
    while let Some(task) = tasks.join_next().await {
        ended.extend(task??);
    }
    let measured = shared.meter.borrow().end()?;
    for mut session in ended {
        session.quit().await;
    }
    Ok(measured)
}

async fn open_all(shared: &Rc<Shared>) -> Result<Vec<Session<client::TlsStream<TcpStream>>>> {
    let mut tasks = JoinSet::new();
    for _ in 0..shared.load.sessions_used() {
        let shared = Rc::clone(shared);
        tasks.spawn_local(async move { shared.open().await });
    }
    let mut sessions = Vec::new();
    while let Some(task) = tasks.join_next().await {
        sessions.push(task??);
    }
    Ok(sessions)
}

impl Shared {
    /// The number of the next message, if one is left.
    fn begin(&self) -> Option<u64> {
        let number = self.begun.get();
        (number < self.load.messages).then(|| {
            self.begun.set(number + 1);
            number
        })
    }

    /// One connection for each message.
    async fn reconnect(&self) -> Result<()> {
        while let Some(number) = self.begin() {
            let began = Instant::now();
            let mut session = self.open().await?;
            session.transact(&self.load, &self.content, number).await?;
            self.meter.borrow_mut().note(began.elapsed())?;
            session.quit().await;
        }
        Ok(())
    }

    /// One connection for all messages.
    async fn keep(
        &self,
        mut session: Session<client::TlsStream<TcpStream>>,
    ) -> Result<Session<client::TlsStream<TcpStream>>> {
        while let Some(number) = self.begin() {
            let began = Instant::now();
            session.transact(&self.load, &self.content, number).await?;
            self.meter.borrow_mut().note(began.elapsed())?;
        }
        Ok(session)
    }

    /// A session past its second EHLO.
    async fn open(&self) -> Result<Session<client::TlsStream<TcpStream>>> {
        let stream = timeout(PATIENCE, TcpStream::connect(self.to))
            .await?
            .with_context(|| format!("cannot connect to {}", self.to))?;
        stream.set_nodelay(true)?;
        let mut session = Session::new(stream);
        session.expect(Step::Connect).await?;
        session.say(b"EHLO bench.test\r\n", Step::Ehlo).await?;
        session.say(b"STARTTLS\r\n", Step::StartTls).await?;
        let name = ServerName::try_from(NAME)?;
        let stream = timeout(PATIENCE, self.connector.connect(name, session.stream))
            .await
            .context("silence in the handshake")?
            .context("no handshake")?;
        let mut session = Session::new(stream);
        session.say(b"EHLO bench.test\r\n", Step::Ehlo).await?;
        Ok(session)
    }
}

/// One connection of the client.
struct Session<S> {
    stream: S,
    replies: Replies,
    buffer: Vec<u8>,
    /// Octets in the buffer, and how many of them are taken.
    filled: usize,
    taken: usize,
    /// What is to be said next.
    commands: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn new(stream: S) -> Self {
        let (replies, buffer) = (Replies::default(), vec![0; CLIENT_BUFFER_OCTETS]);
        Self { stream, replies, buffer, filled: 0, taken: 0, commands: String::new() }
    }

    async fn transact(&mut self, load: &Load, content: &[u8], number: u64) -> Result<()> {
        let mut commands = std::mem::take(&mut self.commands);
        load.write_opening(number, &mut commands);
        self.say(commands.as_bytes(), Step::Mail).await?;
        if load.pipelining {
            self.expect(Step::Rcpt).await?;
            self.expect(Step::Data).await?;
        } else {
            load.write_rcpt(number, &mut commands);
            self.say(commands.as_bytes(), Step::Rcpt).await?;
            self.say(b"DATA\r\n", Step::Data).await?;
        }
        self.commands = commands;
        self.say(content, Step::Content).await
    }

    /// Says it and waits for the answer; this step is the first to be answered.
    async fn say(&mut self, octets: &[u8], step: Step) -> Result<()> {
        let written = async {
            self.stream.write_all(octets).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, written)
            .await
            .with_context(|| format!("no room to say {step:?}"))?
            .with_context(|| format!("cannot say {step:?}"))?;
        self.expect(step).await
    }

    async fn expect(&mut self, step: Step) -> Result<()> {
        loop {
            let mut input = &self.buffer[self.taken..self.filled];
            let answered = self.replies.take(&mut input, step)?;
            self.taken = self.filled - input.len();
            if answered {
                return Ok(());
            }
            self.taken = 0;
            self.filled = timeout(PATIENCE, self.stream.read(&mut self.buffer))
                .await
                .with_context(|| format!("silence where {step:?} was to be answered"))?
                .with_context(|| format!("no answer to {step:?}"))?;
            ensure!(self.filled > 0, "the connection was closed where {step:?} was to be answered");
        }
    }

    /// Says QUIT, waits for no answer.
    async fn quit(&mut self) {
        let said = async {
            self.stream.write_all(b"QUIT\r\n").await?;
            self.stream.flush().await
        };
        // Courtesy: a peer that is gone already needs none.
        timeout(PATIENCE, said).await.ok();
    }
}

fn connector() -> Result<TlsConnector> {
    let provider = provider();
    let trust = Arc::new(TrustAll(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(trust)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes every certificate and every signature.
#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::sink::{stat, zero};
    use super::*;

    #[test]
    fn every_message_arrives_whole_over_tls_in_every_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = certificate(folder.path()).unwrap();
        let listener = listen_on(([127, 0, 0, 1], 0).into()).unwrap();
        let sink = listener.local_addr().unwrap();
        let acceptor = acceptor(&certificate, &key).unwrap();
        thread::spawn(move || run(accept(listener, acceptor)));
        for octets in [200, 200_000] {
            for (pipelining, reconnect) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let load =
                    Load { messages: 11, sessions: 3, octets, pipelining, reconnect, pairs: 2 };
                zero(sink).unwrap();
                assert_eq!(send_tls(sink, &load).unwrap().messages, 11);
                let stat = stat(sink).unwrap();
                assert_eq!(stat.messages, 11, "{load:?}");
                assert_eq!(stat.octets, 11 * octets as u64, "{load:?}");
                assert_eq!(stat.connections, if reconnect { 11 } else { 3 }, "{load:?}");
            }
        }
    }
}
