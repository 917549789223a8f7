//! `lockgate check`: looks at everything that must be right before mail depends on it.
//!
//! It reads, binds and connects, and changes nothing: no file is written, no mail is given to a
//! member (that is `probe`). It may run beside a serving lockgate.
//!
//! Not here: whether the values of the configuration fit one another (`config` refuses those that
//! do not when it reads them).

mod volume;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use disk::RealDisk;
use smtp::Extension;

use crate::app;
use crate::config::{Bounce, Config, Gate, Member};
use crate::relay::{self, Connection, Known, LinkError, Memory, NextHop, Stage};
use crate::spool;
use crate::spool::KeyError;

/// Longest path of a Unix socket (`sun_path` of unix(7), less its final NUL).
const SOCKET_PATH_MAX: usize = 107;

/// Longest wait for a member to take the connection, in seconds.
const CONNECT_S_MAX: u64 = 5;

/// Longest wait for each of a member's replies, in seconds.
const REPLY_S_MAX: u64 = 20;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and a person should know.
    Warning,
    /// Mail would not pass, or would not be safe.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What was found, and where.
    pub what: String,
    /// What to do about it; empty when all is well.
    pub mend: String,
}

impl Finding {
    fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), mend: String::new() }
    }

    fn warning(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warning, what: what.into(), mend: mend.into() }
    }

    fn error(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Error, what: what.into(), mend: mend.into() }
    }
}

/// Looks at everything; findings in the order of a message's way.
pub async fn run(config: &Config) -> Vec<Finding> {
    let copy = config.clone();
    let looked = tokio::task::spawn_blocking(move || (local(&copy), remembered(&copy))).await;
    let (mut findings, memory) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            let mend = "this is a fault of lockgate: please report it";
            return vec![Finding::error(format!("the check broke off: {error}"), mend)];
        }
    };
    findings.extend(same_source(&config.gates));
    let memory = match memory {
        Ok((memory, None)) => Some(memory),
        Ok((memory, Some(doubt))) => {
            findings.push(Finding::error(
                format!("what was learned of the members cannot be read: {doubt}"),
                "lockgate will hold at its next start until a person has looked at the members",
            ));
            Some(memory)
        }
        Err(error) => {
            let what = format!("what was learned of the members cannot be read: {error}");
            findings.push(Finding::error(what, "look at the permissions of the state directory"));
            None
        }
    };
    let all =
        config.gates.iter().flat_map(|gate| gate.members.iter().map(move |member| (gate, member)));
    let looks = all.map(|(gate, member)| look_at_member(config, gate, member, memory.as_ref()));
    findings.extend(futures_util::future::join_all(looks).await.into_iter().flatten());
    findings
}

fn remembered(config: &Config) -> io::Result<(Memory, Option<String>)> {
    Memory::load(Arc::new(RealDisk::new(config.data.clone())))
}

/// Everything that is on this host. Blocking.
fn local(config: &Config) -> Vec<Finding> {
    let mut findings = vec![state_directory(config), key(config)];
    findings.extend(held(config));
    findings.extend(socket_path(config));
    findings.extend(volume::look(config));
    findings.extend(listeners(config));
    findings.extend(config.gates.iter().filter_map(|gate| client_tls(gate, &config.data)));
    findings.extend(sources(config));
    findings.extend(config.gates.iter().filter_map(reports));
    findings
}

fn state_directory(config: &Config) -> Finding {
    let data = config.data.display();
    if !app::is_initialised(config) {
        return Finding::error(
            format!("state directory {data} was never initialised"),
            "`lockgate init` makes it; if it was made before, its volume is not mounted",
        );
    }
    for folder in [config.data.clone(), config.data.join(&config.spool.directory)] {
        use rustix::fs::Access;
        let wanted = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        if let Err(error) = rustix::fs::access(&folder, wanted) {
            return Finding::error(
                format!("{} cannot be written: {error}", folder.display()),
                "give the folder to the user that lockgate runs as, and mount its volume writable",
            );
        }
    }
    Finding::ok(format!("state directory {data}"))
}

fn key(config: &Config) -> Finding {
    let source = app::key_source(config);
    let path = source.path().display();
    let restore = "put the key back from its backup: held mail cannot be read without it";
    match source.load() {
        Ok(key) => Finding::ok(format!("spool key {path} ({})", key.key_id())),
        Err(KeyError::Missing { .. }) => Finding::error(
            format!("spool key {path} does not exist"),
            "if mail is held, put the key back from its backup; else `lockgate init` makes one",
        ),
        Err(KeyError::TooOpen { mode, .. }) => Finding::error(
            format!("spool key {path} has mode {mode:04o}: others may read it"),
            format!("chmod 0600 {path}"),
        ),
        Err(error @ (KeyError::Length { .. } | KeyError::Exists { .. } | KeyError::Random)) => {
            Finding::error(error.to_string(), restore)
        }
        Err(KeyError::File { source, .. }) => Finding::error(
            format!("spool key {path} cannot be read: {source}"),
            "give it to the user that lockgate runs as, with mode 0600",
        ),
    }
}

/// Would the spool open, and is held mail of configured gates only? Says nothing while a lockgate
/// has it open.
fn held(config: &Config) -> Vec<Finding> {
    let directory = config.data.join(&config.spool.directory);
    let Ok(key) = app::key_source(config).load() else { return Vec::new() };
    let offline = match spool::offline::open_readonly(&directory, Some(key)) {
        Ok(offline) => offline,
        Err(spool::OpenError::Locked { .. }) => return Vec::new(),
        Err(spool::OpenError::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Vec::new();
        }
        Err(error) => {
            return vec![Finding::error(
                format!("spool {}: {error}", directory.display()),
                "`serve` will refuse to start until this is mended",
            )];
        }
    };
    let mut strangers: Vec<String> = offline
        .summaries()
        .iter()
        .map(|summary| summary.gate.to_string())
        .filter(|name| !config.gates.iter().any(|gate| gate.name == *name))
        .collect();
    strangers.dedup();
    strangers
        .into_iter()
        .map(|gate| {
            Finding::error(
                format!("mail is held for gate {gate:?}, which is not configured"),
                "`serve` will refuse to start: put the gate back, and release or remove its mail",
            )
        })
        .collect()
}

fn socket_path(config: &Config) -> Option<Finding> {
    let longest = [config.proxy_socket(), config.control_socket()]
        .into_iter()
        .max_by_key(|path| path.as_os_str().len())?;
    let octets = longest.as_os_str().len();
    (octets > SOCKET_PATH_MAX).then(|| {
        Finding::error(
            format!(
                "{} has {octets} octets: a Unix socket takes {SOCKET_PATH_MAX}",
                longest.display()
            ),
            "use a state directory with a shorter path",
        )
    })
}

fn listeners(config: &Config) -> Vec<Finding> {
    let running = UnixStream::connect(config.proxy_socket()).is_ok();
    let gates =
        config.gates.iter().filter_map(|gate| Some((format!("gate {}", gate.name), gate.listen?)));
    let metrics = config.metrics.listen.map(|listen| ("metrics".to_owned(), listen));
    gates.chain(metrics).map(|(who, address)| listener(&who, address, running)).collect()
}

fn listener(who: &str, address: SocketAddr, running: bool) -> Finding {
    let error = match TcpListener::bind(address) {
        Ok(_) => return Finding::ok(format!("{who}: can listen on {address}")),
        Err(error) => error,
    };
    let what = format!("{who}: cannot listen on {address}: {error}");
    match error.kind() {
        io::ErrorKind::AddrInUse if running => {
            Finding::ok(format!("{who}: {address} is in use, and lockgate is running here"))
        }
        io::ErrorKind::AddrInUse => {
            let find = format!("another process has it: `ss -ltnp 'sport = :{}'`", address.port());
            Finding::error(what, find)
        }
        io::ErrorKind::PermissionDenied => Finding::error(
            what,
            "ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in the unit)",
        ),
        io::ErrorKind::AddrNotAvailable => {
            Finding::error(what, "this host has no such address: correct `listen` or add it")
        }
        _ => Finding::error(what, "correct `listen`"),
    }
}

fn client_tls(gate: &Gate, data: &Path) -> Option<Finding> {
    match gate.tls.load(data) {
        Ok(None) => None,
        Ok(Some(_)) => Some(Finding::ok(format!("gate {}: certificate and key", gate.name))),
        Err(error) => Some(Finding::error(
            format!("gate {}: TLS towards clients: {error}", gate.name),
            "correct `certificate` and `key` in [gate.tls]",
        )),
    }
}

fn source_of(gate: &Gate, member: &Member) -> Option<IpAddr> {
    member.source_address.or(gate.source_address)
}

fn sources(config: &Config) -> Vec<Finding> {
    let all: BTreeSet<IpAddr> = config
        .gates
        .iter()
        .flat_map(|gate| gate.members.iter().filter_map(|member| source_of(gate, member)))
        .collect();
    all.into_iter()
        .map(|source| match TcpListener::bind((source, 0)) {
            Ok(_) => Finding::ok(format!("source address {source}")),
            Err(error) => Finding::error(
                format!("source address {source} cannot be used: {error}"),
                "this host has no such address: correct `source_address` or add it",
            ),
        })
        .collect()
}

fn reports(gate: &Gate) -> Option<Finding> {
    (gate.bounce == Bounce::Auto && gate.dsn_next_hop.is_none()).then(|| {
        Finding::warning(
            format!("gate {}: `bounce = \"auto\"` without `dsn_next_hop`", gate.name),
            "name the MTA that takes reports to senders, or they stay in the spool",
        )
    })
}

/// Forward gates that look the same to a server: it takes the direction from the source address.
fn same_source(gates: &[Gate]) -> Vec<Finding> {
    let forward: Vec<(&Gate, &Member)> = gates
        .iter()
        .filter(|gate| gate.returns.is_none())
        .flat_map(|gate| gate.members.iter().map(move |member| (gate, member)))
        .collect();
    let mut findings = Vec::new();
    for (place, (gate, member)) in forward.iter().enumerate() {
        for (other_gate, other) in &forward[..place] {
            let same = gate.name != other_gate.name
                && member.address == other.address
                && source_of(gate, member) == source_of(other_gate, other);
            if let (true, Some(address)) = (same, &member.address) {
                findings.push(Finding::warning(
                    format!(
                        "gates {} and {} reach {address} from the same source address: the server \
                         cannot tell their directions apart, and may send mail in clear",
                        other_gate.name, gate.name
                    ),
                    "give each gate a `source_address` of its own, as the server knows them",
                ));
            }
        }
    }
    findings
}

/// Connects to a member and reads its EHLO.
async fn look_at_member(
    config: &Config,
    gate: &Gate,
    member: &Member,
    memory: Option<&Memory>,
) -> Vec<Finding> {
    let who = format!("gate {}: member {}", gate.name, member.name);
    let next_hop = match app::next_hop(gate, member, &config.host(), &config.data) {
        Ok(next_hop) => next_hop,
        Err(error) => {
            let mend = "correct its `tls_name`, `ca_file` or `helo_name`";
            return vec![Finding::error(format!("{who}: {error}"), mend)];
        }
    };
    let patience = relay::Config {
        connect_s: config.relay.connect_s.min(CONNECT_S_MAX),
        greeting_s: config.relay.greeting_s.min(REPLY_S_MAX),
        ..config.relay.clone()
    };
    match Connection::open(&next_hop, &patience).await {
        Ok(connection) => {
            let known = memory.map(|memory| memory.known(&next_hop.key)).unwrap_or_default();
            let findings = met(&who, &gate.name, &next_hop, &connection, &known);
            connection.quit().await;
            findings
        }
        Err(error) => {
            let mend = mend_of(&error, &next_hop);
            vec![Finding::error(format!("{who} at {}: {error}", next_hop.address), mend)]
        }
    }
}

fn met(
    who: &str,
    gate: &str,
    next_hop: &NextHop,
    connection: &Connection,
    known: &Known,
) -> Vec<Finding> {
    let offered = connection.extensions();
    let identity = connection.identity();
    let mut findings = vec![match known.identity.as_deref() {
        Some(expected) if expected != identity => Finding::error(
            format!(
                "{who} at {}: {identity} answers where {expected} was learned",
                next_hop.address
            ),
            format!(
                "if it was replaced: `lockgate probe {gate} --to ADDRESS`, then \
                 `lockgate release {gate}`; else find out who answers there"
            ),
        ),
        _ => Finding::ok(format!(
            "{who} at {}: {identity}, {}, offers {}",
            next_hop.address,
            connection.tls().unwrap_or("in clear"),
            offered.to_words()
        )),
    }];
    for extension in [Extension::EightBitMime, Extension::SmtpUtf8] {
        let before = known.extensions.is_some_and(|known| known.contains(extension));
        if before && !offered.contains(extension) {
            findings.push(Finding::warning(
                format!("{who}: it no longer offers {}", extension.keyword()),
                "held mail that needs it stays held as blocked: turn it on at the server again",
            ));
        }
    }
    findings
}

fn mend_of(error: &LinkError, next_hop: &NextHop) -> String {
    let source = next_hop.source.map_or_else(String::new, |source| format!(" from {source}"));
    match error.stage() {
        Stage::Connect => format!("is it up, and does a firewall let us reach it{source}?"),
        Stage::Banner | Stage::Ehlo => {
            format!("it must take SMTP from us{source}: look at who may connect to it")
        }
        Stage::Tls => "set `tls` of the member to what the server offers".into(),
        _ => "look at the server's log".into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::relay::HostPort;

    fn member(address: &str, source: Option<&str>) -> Member {
        Member {
            name: "sems1".into(),
            address: Some(address.parse().unwrap()),
            source_address: source.map(|source| source.parse().unwrap()),
            ..Member::default()
        }
    }

    fn gate(name: &str, member: Member) -> Gate {
        Gate { name: name.into(), members: vec![member], ..Gate::default() }
    }

    /// An initialised state directory and a configuration without gates or metrics.
    fn initialised(folder: &Path) -> Config {
        let config = Config {
            data: folder.to_owned(),
            metrics: crate::metrics::Config { listen: None },
            ..Config::default()
        };
        app::init(&config).unwrap();
        config
    }

    fn worst(findings: &[Finding]) -> Level {
        findings.iter().map(|finding| finding.level).max().unwrap()
    }

    #[test]
    fn a_directory_that_was_never_initialised_is_an_error_and_stays_empty() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data: folder.path().to_owned(), ..Config::default() };
        let finding = state_directory(&config);
        assert_eq!(finding.level, Level::Error);
        assert!(finding.mend.contains("lockgate init"), "{finding:?}");
        assert_eq!(key(&config).level, Level::Error);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "check made something");
    }

    #[test]
    fn an_initialised_directory_is_fine_until_its_key_is_open_or_cut() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let config = initialised(folder.path());
        assert_eq!(state_directory(&config).level, Level::Ok);
        assert_eq!(key(&config).level, Level::Ok);
        let file = folder.path().join(&config.key_file);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let finding = key(&config);
        assert_eq!(finding.level, Level::Error);
        assert!(finding.mend.starts_with("chmod 0600"), "{finding:?}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, b"short").unwrap();
        assert_eq!(key(&config).level, Level::Error);
    }

    #[test]
    fn a_taken_port_is_an_error_unless_lockgate_itself_runs() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(listener("gate out", address, false).level, Level::Error);
        assert_eq!(listener("gate out", address, true).level, Level::Ok);
        drop(taken);
        assert_eq!(listener("gate out", address, false).level, Level::Ok);
    }

    #[test]
    fn addresses_that_this_host_lacks_are_errors() {
        // TEST-NET-1 (RFC 5737) is nobody's.
        let listen = listener("gate out", "192.0.2.1:2525".parse().unwrap(), false);
        assert_eq!(listen.level, Level::Error);
        let gates = vec![gate("out", member("127.0.0.1:25", Some("192.0.2.1")))];
        let findings = sources(&Config { gates, ..Config::default() });
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].level, Level::Error);
        assert!(findings[0].what.contains("192.0.2.1"), "{findings:?}");
        let gates = vec![gate("out", member("127.0.0.1:25", Some("127.0.0.1")))];
        assert_eq!(worst(&sources(&Config { gates, ..Config::default() })), Level::Ok);
    }

    #[test]
    fn directions_that_a_server_cannot_tell_apart_are_named() {
        let same = [
            gate("outbound", member("192.0.2.9:25", Some("127.0.0.1"))),
            gate("inbound", member("192.0.2.9:25", Some("127.0.0.1"))),
        ];
        let findings = same_source(&same);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("outbound and inbound"), "{findings:?}");
        let apart = [
            gate("outbound", member("192.0.2.9:25", Some("127.0.0.1"))),
            gate("inbound", member("192.0.2.9:25", Some("127.0.0.2"))),
            gate("other", member("192.0.2.10:25", Some("127.0.0.1"))),
            // A return gate speaks to an MTA, which takes no direction from us.
            Gate {
                returns: Some("outbound".into()),
                ..gate("back", member("192.0.2.9:25", Some("127.0.0.1")))
            },
        ];
        assert_eq!(same_source(&apart), []);
    }

    #[test]
    fn a_socket_path_that_the_system_does_not_take_is_an_error() {
        let long = Config { data: format!("/{}", "x".repeat(120)).into(), ..Config::default() };
        assert_eq!(socket_path(&long).unwrap().level, Level::Error);
        assert_eq!(socket_path(&Config::default()), None);
    }

    /// A member that greets as `host` and answers EHLO; says where.
    async fn server(host: &'static str) -> HostPort {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let greeting = format!("220 {host} ESMTP\r\n");
                stream.write_all(greeting.as_bytes()).await.unwrap();
                let mut input = [0; 512];
                let read = stream.read(&mut input).await.unwrap();
                assert!(input[..read].starts_with(b"EHLO "));
                let reply = format!("250-{host}\r\n250 8BITMIME\r\n");
                stream.write_all(reply.as_bytes()).await.unwrap();
                // QUIT, or the end.
                while stream.read(&mut input).await.is_ok_and(|read| read > 0) {}
            }
        });
        HostPort::new("127.0.0.1", port)
    }

    fn known_as(host: &str, extensions: &str) -> Memory {
        let disk = Arc::new(disk::FaultyDisk::default());
        let (memory, _) = Memory::load(disk).unwrap();
        let seen = relay::Seen {
            extensions: smtp::Extensions::from_words(extensions),
            identity: format!("host {host}"),
            tls: None,
            at_unix_ms: 1,
        };
        memory.saw("out/sems1", &seen, None).unwrap();
        memory
    }

    async fn look(address: HostPort, memory: &Memory) -> Vec<Finding> {
        let member = Member { name: "sems1".into(), address: Some(address), ..Member::default() };
        let gate = gate("out", member.clone());
        look_at_member(&Config::default(), &gate, &member, Some(memory)).await
    }

    #[tokio::test]
    async fn a_member_that_answers_is_described() {
        let memory = known_as("sems.example.net", "8BITMIME");
        let findings = look(server("sems.example.net").await, &memory).await;
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].level, Level::Ok);
        let what = &findings[0].what;
        assert!(what.contains("host sems.example.net") && what.contains("8BITMIME"), "{what}");
        assert!(what.contains("in clear"), "{what}");
    }

    #[tokio::test]
    async fn another_server_in_its_place_is_an_error_with_the_way_on() {
        let memory = known_as("old.example.net", "8BITMIME SMTPUTF8");
        let findings = look(server("new.example.net").await, &memory).await;
        assert_eq!(findings[0].level, Level::Error);
        assert!(findings[0].what.contains("old.example.net"), "{findings:?}");
        assert!(findings[0].mend.contains("lockgate probe out"), "{findings:?}");
        assert!(findings[1].what.contains("no longer offers SMTPUTF8"), "{findings:?}");
        assert_eq!(findings.len(), 2);
    }

    #[tokio::test]
    async fn a_member_that_does_not_answer_is_an_error() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let memory = known_as("sems.example.net", "");
        let findings = look(HostPort::new("127.0.0.1", closed.port()), &memory).await;
        assert_eq!(worst(&findings), Level::Error);
        assert!(findings[0].mend.contains("firewall"), "{findings:?}");
    }

    #[tokio::test]
    async fn the_whole_check_runs_on_a_good_configuration_without_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = initialised(folder.path());
        config.spool.free_bytes_min = 1;
        let address = server("sems.example.net").await;
        let member = Member { name: "sems1".into(), address: Some(address), ..Member::default() };
        config.gates =
            vec![Gate { listen: Some("127.0.0.1:0".parse().unwrap()), ..gate("out", member) }];
        let findings = run(&config).await;
        let errors: Vec<_> =
            findings.iter().filter(|finding| finding.level == Level::Error).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert!(findings.iter().any(|finding| finding.what.contains("host sems.example.net")));
    }
}
