//! The syslog listener: by UDP (RFC 5426), TCP (RFC 6587) and TLS (RFC 5425).
//!
//! A message is told as it came, as one line. The host in it is what its sender wrote; the
//! address that we saw stands beside it.
//!
//! Invariants
//! - Only listed senders are heard.
//! - Everything is bounded: connections, octets of a message, silence, a handshake.
//! - At the stop what has come is still told: the reader of the channel reads until it closes.
//!
//! Not here: framing (`frames`), reading (`udp`, `tcp`), what a message says.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::maillog::feeds::counts::Counts;
use crate::maillog::feeds::tcp::{Door, Limits};
use crate::maillog::feeds::tls::{self, TlsError};
use crate::maillog::feeds::told::{Clock, Told};
use crate::maillog::feeds::udp::Receiver;
use crate::maillog::feeds::way::Way;
use proxy::session::Networks;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;

/// What we ask the kernel to keep of datagrams; it may give less (`net.core.rmem_max`).
const RECEIVE_OCTETS: usize = 4 << 20;

/// Longest wait for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// The syslog listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where datagrams are taken, such as `"0.0.0.0:514"`. UDP loses lines without a trace in the
    /// network: use TLS or TCP where lines have to prove something.
    pub udp: Option<SocketAddr>,
    /// Where connections without TLS are taken, such as `"0.0.0.0:514"`.
    pub tcp: Option<SocketAddr>,
    /// Where connections with TLS are taken.
    pub tls: Option<tls::Config>,
    /// Who may send: addresses and networks. Everybody else is ignored or closed, and counted.
    pub allow: Networks,
    /// Most connections, TCP and TLS together; more are closed at once.
    pub connections_max: usize,
    /// Most octets of a message; the rest of a longer one is cut off and told as lost.
    pub message_octets_max: usize,
    /// Seconds without an octet after which a connection is closed. Senders may be quiet, and
    /// some lose a message when they find a connection closed: not too short.
    pub idle_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            udp: None,
            tcp: None,
            tls: None,
            allow: Networks::loopback(),
            connections_max: 1000,
            message_octets_max: 64 << 10,
            idle_s: 3600,
        }
    }
}

impl Config {
    /// Checks what a type cannot.
    ///
    /// # Errors
    /// What is wrong, and the mend.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=100_000).contains(&self.connections_max) {
            return Err("connections_max must be 1 to 100000".into());
        }
        if !(1024..=1 << 20).contains(&self.message_octets_max) {
            // RFC 5424 §6.1: receivers should take 2048 octets, must take 480.
            return Err("message_octets_max must be 1024 to 1048576".into());
        }
        if !(10..=7 * 86_400).contains(&self.idle_s) {
            return Err("idle_s must be 10 to 604800 (a week)".into());
        }
        Ok(())
    }
}

/// Why we cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refuses an address.
    #[error("cannot listen on {address} ({protocol})")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Of `udp`, `tcp`, `tls`.
        protocol: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The files of TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A listener that is bound and does not read yet.
pub struct Listener {
    udp: Option<std::net::UdpSocket>,
    tcp: Option<std::net::TcpListener>,
    tls: Option<(std::net::TcpListener, TlsAcceptor)>,
    allow: Networks,
    limits: Limits,
    message_octets_max: usize,
    counts: Arc<Counts>,
}

impl Listener {
    /// Binds what is configured; relative paths are in `data`.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(config: &Config, data: &Path) -> Result<Self, BindError> {
        let failed =
            |address, protocol| move |source| BindError::Address { address, protocol, source };
        let stream = |address, protocol| bind_tcp(address).map_err(failed(address, protocol));
        let udp = config.udp.map(|address| bind_udp(address).map_err(failed(address, "udp")));
        let tls = config.tls.as_ref().map(|tls| {
            let acceptor = TlsAcceptor::from(tls.load(data)?);
            Ok::<_, BindError>((stream(tls.listen, "tls")?, acceptor))
        });
        Ok(Self {
            udp: udp.transpose()?,
            tcp: config.tcp.map(|address| stream(address, "tcp")).transpose()?,
            tls: tls.transpose()?,
            allow: config.allow.clone(),
            limits: Limits {
                connections_max: config.connections_max,
                message_octets_max: config.message_octets_max,
                idle: Duration::from_secs(config.idle_s),
                handshake: HANDSHAKE,
            },
            message_octets_max: config.message_octets_max,
            counts: Arc::default(),
        })
    }

    /// Where datagrams are taken.
    #[must_use]
    pub fn udp_address(&self) -> Option<SocketAddr> {
        self.udp.as_ref()?.local_addr().ok()
    }

    /// Where connections without TLS are taken.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Where connections with TLS are taken.
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls.as_ref()?.0.local_addr().ok()
    }

    /// What was turned away or lost.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Listens until `stop`, then tells what has come, and ends. Ends also when nobody reads.
    ///
    /// # Errors
    /// When the sockets cannot be read from at all.
    pub async fn run(
        self,
        to: mpsc::Sender<Told>,
        clock: Clock,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let over = CancellationToken::new();
        let way = Way { to, clock, counts: self.counts, asked: stop, over };
        let tasks = TaskTracker::new();
        let door = Door::new(self.allow.clone(), self.limits, way.clone(), tasks.clone());
        let door = Arc::new(door);
        if let Some(socket) = self.tcp {
            let listener = tokio::net::TcpListener::from_std(socket)?;
            tasks.spawn(Arc::clone(&door).accept(listener, None));
        }
        if let Some((socket, acceptor)) = self.tls {
            let listener = tokio::net::TcpListener::from_std(socket)?;
            tasks.spawn(Arc::clone(&door).accept(listener, Some(acceptor)));
        }
        if let Some(socket) = self.udp {
            let octets_max = self.message_octets_max;
            let receiver = Receiver::new(socket, self.allow, octets_max, way.clone())?;
            tasks.spawn(receiver.run());
        }
        drop(door);
        tasks.close();
        let bound = way.bound_drain();
        // The channel closes with the last of the tasks.
        drop(way);
        tokio::select! {
            () = tasks.wait() => {}
            () = async { bound.await; std::future::pending().await } => {}
        }
        Ok(())
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(RECEIVE_OCTETS)?;
    let given = socket.recv_buffer_size()?;
    // The kernel doubles what it was asked for.
    if given < 2 * RECEIVE_OCTETS {
        tracing::info!(octets = given / 2, "a small buffer for UDP: raise net.core.rmem_max");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the former process to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
    use rustls::{ClientConfig, RootCertStore};
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UdpSocket};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::maillog::feeds::counts::Reason;
    use crate::maillog::feeds::told::{Lost, Origin};

    /// Only so that a failure does not hang.
    const GUARD: Duration = Duration::from_secs(60);
    const NOW_NS: u64 = 1_795_514_400_000_000_000;
    const ME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn any() -> SocketAddr {
        (ME, 0).into()
    }

    fn config() -> Config {
        Config { udp: Some(any()), tcp: Some(any()), ..Config::default() }
    }

    fn nobody() -> Networks {
        serde_json::from_str(r#"["192.0.2.0/24"]"#).unwrap()
    }

    fn bound(config: &Config) -> Listener {
        Listener::bind(config, Path::new("/nowhere")).unwrap()
    }

    struct Running {
        told: mpsc::Receiver<Told>,
        stop: CancellationToken,
        task: JoinHandle<io::Result<()>>,
        counts: Arc<Counts>,
        udp: Option<SocketAddr>,
        tcp: Option<SocketAddr>,
        tls: Option<SocketAddr>,
    }

    fn run(listener: Listener, capacity: usize) -> Running {
        let (to, told) = mpsc::channel(capacity);
        let stop = CancellationToken::new();
        let (udp, tcp, tls) =
            (listener.udp_address(), listener.tcp_address(), listener.tls_address());
        let counts = listener.counts();
        let task = tokio::spawn(listener.run(to, Clock::new(|| NOW_NS), stop.clone()));
        Running { told, stop, task, counts, udp, tcp, tls }
    }

    impl Running {
        /// The next that is told, in short.
        async fn next(&mut self) -> String {
            let told = timeout(GUARD, self.told.recv()).await.unwrap();
            short(&told.expect("the listener has ended"))
        }

        /// What is told up to the end.
        async fn rest(&mut self) -> Vec<String> {
            let mut rest = Vec::new();
            while let Some(told) = timeout(GUARD, self.told.recv()).await.unwrap() {
                rest.push(short(&told));
            }
            timeout(GUARD, &mut self.task).await.unwrap().unwrap().unwrap();
            rest
        }

        async fn counted(&self, reason: Reason, count: u64) {
            let counted = async {
                while self.counts.total(reason) < count {
                    tokio::task::yield_now().await;
                }
            };
            timeout(GUARD, counted).await.unwrap();
            assert_eq!(self.counts.total(reason), count);
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.tcp.unwrap()).await.unwrap()
        }

        /// A sender of datagrams.
        async fn sender(&self) -> UdpSocket {
            let socket = UdpSocket::bind(any()).await.unwrap();
            socket.connect(self.udp.unwrap()).await.unwrap();
            socket
        }
    }

    fn short(told: &Told) -> String {
        match told {
            Told::Line(line) => {
                assert_eq!(line.arrived_ns, NOW_NS);
                let text = String::from_utf8_lossy(&line.line);
                match line.from {
                    Origin::Udp { peer: ME } => format!("udp {text}"),
                    Origin::Tcp { peer: ME, tls: false } => format!("tcp {text}"),
                    Origin::Tcp { peer: ME, tls: true } => format!("tls {text}"),
                    _ => format!("{:?} {text}", line.from),
                }
            }
            Told::Lost(Lost { lines, why, .. }) => format!("{why:?} {lines:?}"),
            Told::Down(_) => format!("{told:?}"),
        }
    }

    /// Waits until the other end has closed.
    async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) {
        // An end, or a reset where something was not read.
        let read = timeout(GUARD, stream.read(&mut [0; 9])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }

    #[tokio::test]
    async fn a_datagram_is_one_line() {
        let mut running = run(bound(&config()), 9);
        let sender = running.sender().await;
        for message in [&b"<22>Nov 24 10:00:00 mx a: b"[..], b"", b"\n", b"<22>c\nd\n\0"] {
            sender.send(message).await.unwrap();
        }
        assert_eq!(running.next().await, "udp <22>Nov 24 10:00:00 mx a: b");
        assert_eq!(running.next().await, "udp <22>c#012d");
    }

    #[tokio::test]
    async fn a_connection_may_count_or_end_its_messages() {
        let mut running = run(bound(&config()), 9);
        let mut stream = running.connect().await;
        stream.write_all(b"<22>a\n7 <22>b\nc<22>d\r\n\n").await.unwrap();
        for expected in ["tcp <22>a", "tcp <22>b#012c", "tcp <22>d"] {
            assert_eq!(running.next().await, expected);
        }
    }

    #[tokio::test]
    async fn who_is_not_listed_is_not_heard_but_counted() {
        let mut running = run(bound(&Config { allow: nobody(), ..config() }), 9);
        let sender = running.sender().await;
        for _ in 0..3 {
            sender.send(b"<22>a").await.unwrap();
        }
        running.counted(Reason::UdpStranger, 3).await;
        let mut stream = running.connect().await;
        closed(&mut stream).await;
        running.counted(Reason::TcpStranger, 1).await;
        running.stop.cancel();
        assert_eq!(running.rest().await, [""; 0]);
    }

    #[tokio::test]
    async fn a_connection_too_many_is_closed_and_the_others_go_on() {
        let mut running = run(bound(&Config { connections_max: 1, ..config() }), 9);
        let mut first = running.connect().await;
        first.write_all(b"<22>a\n").await.unwrap();
        assert_eq!(running.next().await, "tcp <22>a");
        closed(&mut running.connect().await).await;
        running.counted(Reason::TcpTooMany, 1).await;
        first.write_all(b"<22>b\n").await.unwrap();
        assert_eq!(running.next().await, "tcp <22>b");
        drop(first);
        // The place is free again, as soon as the end of the first has been seen.
        let again = async {
            loop {
                let mut stream = running.connect().await;
                let sent = stream.write_all(b"<22>c\n").await;
                if sent.is_ok()
                    && let Ok(told) = running.told.try_recv()
                {
                    return short(&told);
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(timeout(GUARD, again).await.unwrap(), "tcp <22>c");
    }

    #[tokio::test]
    async fn a_long_message_is_cut_and_told_as_lost() {
        let mut running = run(bound(&Config { message_octets_max: 1024, ..config() }), 9);
        let long = format!("<22>{}", "a".repeat(2000));
        let beginning = &long[..1024];
        let mut stream = running.connect().await;
        stream.write_all(format!("{long}\n2004 {long}<22>b\n").as_bytes()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(running.next().await, format!("tcp {beginning}"));
            assert_eq!(running.next().await, "TooLong Some(1)");
        }
        assert_eq!(running.next().await, "tcp <22>b");
        running.sender().await.send(long.as_bytes()).await.unwrap();
        assert_eq!(running.next().await, format!("udp {beginning}"));
        assert_eq!(running.next().await, "TooLong Some(1)");
        running.counted(Reason::TooLong, 3).await;
    }

    #[tokio::test]
    async fn a_message_that_does_not_come_whole_is_lost_and_no_line() {
        let mut running = run(bound(&config()), 9);
        for message in [&b"<22>a\n<22>b"[..], b"5 <22>a9 <22>b"] {
            let mut stream = running.connect().await;
            stream.write_all(message).await.unwrap();
            drop(stream);
            assert_eq!(running.next().await, "tcp <22>a");
            assert_eq!(running.next().await, "Unended Some(1)");
        }
        running.counted(Reason::Unended, 2).await;
    }

    #[tokio::test]
    async fn octets_that_are_no_messages_end_the_connection() {
        let mut running = run(bound(&config()), 9);
        let mut stream = running.connect().await;
        stream.write_all(b"<22>a\n123456789012 ").await.unwrap();
        assert_eq!(running.next().await, "tcp <22>a");
        assert_eq!(running.next().await, "Unreadable None");
        closed(&mut stream).await;
        running.counted(Reason::Unreadable, 1).await;
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed_after_the_idle_deadline() {
        let mut listener = bound(&config());
        listener.limits.idle = Duration::from_millis(20);
        let mut running = run(listener, 9);
        let mut stream = running.connect().await;
        stream.write_all(b"<22>a").await.unwrap();
        closed(&mut stream).await;
        assert_eq!(running.next().await, "Unended Some(1)");
        running.counted(Reason::Idle, 1).await;
    }

    #[tokio::test]
    async fn a_full_channel_makes_a_connection_wait_and_loses_nothing() {
        let mut running = run(bound(&config()), 1);
        let mut stream = running.connect().await;
        let send = tokio::spawn(async move {
            for number in 0..20_000 {
                stream.write_all(format!("<22>{number}\n").as_bytes()).await.unwrap();
            }
        });
        for number in 0..20_000 {
            assert_eq!(running.next().await, format!("tcp <22>{number}"));
        }
        send.await.unwrap();
    }

    #[tokio::test]
    async fn datagrams_without_room_are_counted_and_told_before_the_next_line() {
        let mut running = run(bound(&config()), 1);
        let sender = running.sender().await;
        for number in 0..5 {
            sender.send(format!("<22>{number}").as_bytes()).await.unwrap();
        }
        running.counted(Reason::UdpNoRoom, 4).await;
        assert_eq!(running.next().await, "udp <22>0");
        // As soon as there is room, without a further datagram.
        let Some(Told::Lost(lost)) = timeout(GUARD, running.told.recv()).await.unwrap() else {
            panic!("the loss is not told");
        };
        let source = crate::maillog::feeds::told::Source::Udp(Some(ME));
        assert_eq!((lost.lines, lost.source), (Some(4), source));
        sender.send(b"<22>5").await.unwrap();
        assert_eq!(running.next().await, "udp <22>5");
    }

    #[tokio::test]
    async fn what_has_come_before_the_stop_is_told() {
        let mut running = run(bound(&config()), 1);
        let mut stream = running.connect().await;
        stream.write_all(b"<22>0\n").await.unwrap();
        assert_eq!(running.next().await, "tcp <22>0");
        // None of this is read before the stop: the tasks of this test run on one thread.
        let std_stream = stream.into_std().unwrap();
        std_stream.set_nonblocking(false).unwrap();
        let text: String = (1..=999).map(|number| format!("<22>{number}\n")).collect();
        io::Write::write_all(&mut &std_stream, text.as_bytes()).unwrap();
        let waiting = std::net::TcpStream::connect(running.tcp.unwrap()).unwrap();
        io::Write::write_all(&mut &waiting, b"<22>waiting\n<22>cut").unwrap();
        let sender = std::net::UdpSocket::bind(any()).unwrap();
        sender.send_to(b"<22>datagram", running.udp.unwrap()).unwrap();
        running.stop.cancel();
        let rest = running.rest().await;
        let lines: Vec<_> = rest.iter().filter_map(|line| line.strip_prefix("tcp <22>")).collect();
        let numbers = lines.iter().filter_map(|line| line.parse::<u32>().ok());
        assert!(numbers.eq(1..=999), "{lines:?}");
        assert!(lines.contains(&"waiting"));
        assert!(rest.contains(&"Unended Some(1)".to_owned()));
        let datagram = rest.contains(&"udp <22>datagram".to_owned());
        assert!(datagram || rest.contains(&"NoRoom Some(1)".to_owned()), "{rest:?}");
    }

    #[tokio::test]
    async fn a_sender_that_never_pauses_does_not_delay_the_stop_forever() {
        let mut running = run(bound(&config()), 100);
        let mut stream = running.connect().await;
        let flood = tokio::spawn(async move {
            let text = b"<22>a\n".repeat(100);
            while stream.write_all(&text).await.is_ok() {}
        });
        assert_eq!(running.next().await, "tcp <22>a");
        running.stop.cancel();
        timeout(GUARD, running.rest()).await.expect("it ends");
        timeout(GUARD, flood).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn it_ends_when_nobody_reads() {
        let running = run(bound(&config()), 1);
        let mut stream = running.connect().await;
        stream.write_all(&b"<22>a\n".repeat(9)).await.unwrap();
        drop(running.told);
        timeout(GUARD, running.task).await.unwrap().unwrap().unwrap();
        closed(&mut stream).await;
    }

    #[tokio::test]
    async fn an_ipv4_sender_on_an_ipv6_socket_is_listed_and_told_as_ipv4() {
        let both: SocketAddr = "[::]:0".parse().unwrap();
        let both = Config { udp: Some(both), tcp: Some(both), ..Config::default() };
        let Ok(listener) = Listener::bind(&both, Path::new("/nowhere")) else {
            eprintln!("not tested: no IPv6 here");
            return;
        };
        let mut running = run(listener, 9);
        let to = |address: Option<SocketAddr>| SocketAddr::from((ME, address.unwrap().port()));
        let mut stream = TcpStream::connect(to(running.tcp)).await.unwrap();
        stream.write_all(b"<22>a\n").await.unwrap();
        assert_eq!(running.next().await, "tcp <22>a");
        let sender = UdpSocket::bind(any()).await.unwrap();
        sender.send_to(b"<22>b", to(running.udp)).await.unwrap();
        assert_eq!(running.next().await, "udp <22>b");
    }

    #[test]
    fn unknown_keys_and_impossible_limits_are_refused() {
        let read = |text: &str| serde_json::from_str::<Config>(text);
        let whole = r#"{"udp":"127.0.0.1:514","tcp":"[::1]:514","allow":["192.0.2.0/24"],
            "tls":{"listen":"127.0.0.1:6514","certificate":"a","key":"b"}}"#;
        assert_eq!(read(whole).unwrap().check(), Ok(()));
        assert!(read(r#"{"udb":"127.0.0.1:514"}"#).is_err());
        let open = r#"{"tls":{"listen":"127.0.0.1:6514","certificate":"a","key":"b","x":1}}"#;
        assert!(read(open).is_err());
        for text in [r#"{"connections_max":0}"#, r#"{"message_octets_max":100}"#, r#"{"idle_s":0}"#]
        {
            assert!(read(text).unwrap().check().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_in_use_and_files_that_are_missing_are_named() {
        let taken = bound(&config());
        let error = Listener::bind(
            &Config { tcp: taken.tcp_address(), ..Config::default() },
            Path::new("/nowhere"),
        );
        let Err(BindError::Address { protocol: "tcp", address, .. }) = error else {
            panic!("it is in use");
        };
        assert_eq!(Some(address), taken.tcp_address());
        let tls = tls::Config {
            listen: any(),
            certificate: "c.pem".into(),
            key: "k.pem".into(),
            client_ca: None,
        };
        let error =
            Listener::bind(&Config { tls: Some(tls), ..Config::default() }, Path::new("/nowhere"));
        let text = error.err().unwrap().to_string();
        assert!(text.starts_with("/nowhere/c.pem: "), "{text}");
    }

    /// Certificates of an authority of our own.
    struct Pki {
        folder: TempDir,
        authority: CertifiedIssuer<'static, KeyPair>,
    }

    impl Pki {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let authority = CertifiedIssuer::self_signed(params, key).unwrap();
            let pki = Self { folder, authority };
            let (certificate, key) = pki.issue();
            for (name, text) in [
                ("server.pem", certificate.pem()),
                ("key.pem", key.serialize_pem()),
                ("ca.pem", pki.authority.pem()),
            ] {
                std::fs::write(pki.folder.path().join(name), text).unwrap();
            }
            pki
        }

        fn issue(&self) -> (rcgen::Certificate, KeyPair) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            (params.signed_by(&key, &self.authority).unwrap(), key)
        }

        fn listener(&self, client_ca: Option<&str>) -> Listener {
            let tls = tls::Config {
                listen: any(),
                certificate: "server.pem".into(),
                key: "key.pem".into(),
                client_ca: client_ca.map(Into::into),
            };
            let config = Config { tls: Some(tls), ..Config::default() };
            Listener::bind(&config, self.folder.path()).unwrap()
        }

        fn client(&self, own: Option<(rcgen::Certificate, KeyPair)>) -> TlsConnector {
            let mut roots = RootCertStore::empty();
            roots.add(self.authority.der().clone()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
            let config = match own {
                None => builder.with_no_client_auth(),
                Some((certificate, key)) => {
                    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
                    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                    builder.with_client_auth_cert(chain, key).unwrap()
                }
            };
            TlsConnector::from(Arc::new(config))
        }
    }

    async fn shake(running: &Running, client: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(running.tls.unwrap()).await.unwrap();
        client.connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    #[tokio::test]
    async fn messages_come_by_tls_and_what_has_come_at_the_stop_is_told() {
        let pki = Pki::new();
        let mut running = run(pki.listener(None), 9);
        let mut stream = shake(&running, &pki.client(None)).await.unwrap();
        stream.write_all(b"7 <22>a\nb<22>c\n").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(running.next().await, "tls <22>a#012b");
        assert_eq!(running.next().await, "tls <22>c");
        stream.write_all(b"5 <22>d").await.unwrap();
        stream.flush().await.unwrap();
        running.stop.cancel();
        assert_eq!(running.rest().await, ["tls <22>d"]);
    }

    #[tokio::test]
    async fn with_an_authority_only_senders_with_its_certificate_are_heard() {
        let pki = Pki::new();
        let mut running = run(pki.listener(Some("ca.pem")), 9);
        let other = Pki::new();
        for client in [pki.client(None), pki.client(Some(other.issue()))] {
            // By TLS 1.3 the client hears of it only after its own part of the handshake.
            if let Ok(mut stream) = shake(&running, &client).await {
                stream.write_all(b"5 <22>a").await.ok();
                closed(&mut stream).await;
            }
        }
        running.counted(Reason::Handshake, 2).await;
        let mut stream = shake(&running, &pki.client(Some(pki.issue()))).await.unwrap();
        stream.write_all(b"5 <22>b").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(running.next().await, "tls <22>b");
        running.stop.cancel();
        assert_eq!(running.rest().await, [""; 0]);
    }

    #[tokio::test]
    async fn a_handshake_that_takes_too_long_is_given_up() {
        let pki = Pki::new();
        let mut listener = pki.listener(None);
        listener.limits.handshake = Duration::from_millis(20);
        let running = run(listener, 9);
        let mut stream = TcpStream::connect(running.tls.unwrap()).await.unwrap();
        stream.write_all(b"\x16").await.unwrap();
        closed(&mut stream).await;
        running.counted(Reason::Handshake, 1).await;
    }
}
