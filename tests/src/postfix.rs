//! A real Postfix instance in its own folder, on high loopback ports.
//!
//! Configuration, queue, data and log all live in the story's folder; nothing of a system-wide
//! instance is read, started or stopped. `master` runs in the foreground, makes a
//! session of its own, and is ended by its id (SIGTERM: it ends its children).
//!
//! Two roles: *front* is the MTA that hands mail to `lockgate` (short retries), *behind* is the
//! server that takes it from `lockgate` and sends it on.
//!
//! Needs root (Postfix changes to its own user) and the Debian package `postfix`.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::port;
use crate::process::{Process, Signal, bound_to_us, is_open};
use crate::wait;

const DAEMONS: &str = "/usr/lib/postfix/sbin";

/// `name type private unpriv chroot wakeup maxproc command`; `{listen}` is filled in.
const MASTER: &str = "\
{listen} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";

/// How an instance is to behave.
#[derive(Debug, Clone)]
pub struct Settings {
    name: String,
    listen: SocketAddr,
    relay: Option<SocketAddr>,
    parameters: Vec<(String, String)>,
    services: String,
}

impl Settings {
    /// An instance of this host name that sends all mail to `relay`.
    #[must_use]
    pub fn relaying(name: &str, relay: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            listen: port::free_address(),
            relay: Some(relay),
            parameters: Vec::new(),
            services: String::new(),
        }
    }

    /// An instance of this host name that throws all mail away after accepting it.
    #[must_use]
    pub fn discarding(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            listen: port::free_address(),
            relay: None,
            parameters: vec![("default_transport".into(), "discard:".into())],
            services: String::new(),
        }
    }

    /// Where it will listen.
    #[must_use]
    pub const fn listening_at(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Long queue ids (`3Qd8jb…`) instead of short ones (`4C5F21A`).
    #[must_use]
    pub fn long_queue_ids(self) -> Self {
        self.set("enable_long_queue_ids", "yes")
    }

    /// Sets a parameter of main.cf; the last value of a name counts.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds lines to master.cf.
    #[must_use]
    pub fn service(mut self, lines: &str) -> Self {
        self.services.push_str(lines);
        self
    }

    /// Starts the instance and waits until it accepts connections.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Postfix {
        Postfix::start(self)
    }

    fn main_cf(&self, folder: &Path) -> String {
        let folder = folder.display();
        let relay =
            self.relay.map_or(String::new(), |relay| format!("[{}]:{}", relay.ip(), relay.port()));
        let mut text = format!(
            "compatibility_level = 3.7\n\
             queue_directory = {folder}/queue\n\
             data_directory = {folder}/data\n\
             command_directory = /usr/sbin\n\
             daemon_directory = {DAEMONS}\n\
             mail_owner = postfix\n\
             setgid_group = postdrop\n\
             maillog_file = {folder}/maillog\n\
             maillog_file_prefixes = {folder}\n\
             myhostname = {name}\n\
             mydestination =\n\
             inet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\n\
             mynetworks = 127.0.0.0/8\n\
             alias_maps =\n\
             alias_database =\n\
             local_recipient_maps =\n\
             relayhost = {relay}\n\
             smtp_dns_support_level = disabled\n\
             smtp_tls_security_level = none\n\
             smtpd_relay_restrictions = permit_mynetworks, reject\n\
             smtpd_authorized_xforward_hosts = 127.0.0.0/8\n\
             smtpd_client_connection_count_limit = 0\n\
             local_header_rewrite_clients =\n\
             smtp_line_length_limit = 0\n\
             message_size_limit = 104857600\n\
             mailbox_size_limit = 0\n\
             virtual_mailbox_limit = 0\n\
             in_flow_delay = 0\n\
             max_idle = 5s\n\
             queue_run_delay = 1s\n\
             minimal_backoff_time = 1s\n\
             maximal_backoff_time = 2s\n\
             default_destination_concurrency_failed_cohort_limit = 100\n\
             smtp_destination_concurrency_limit = 10\n\
             smtp_connection_cache_on_demand = yes\n",
            name = self.name,
        );
        // postconf(5): of two lines with one name the last counts, with a warning; keep one.
        for (name, value) in self.parameters.iter().cloned().collect::<HashMap<_, _>>() {
            let head = format!("{name} = ");
            text = text.lines().filter(|line| !line.starts_with(&head)).fold(
                String::new(),
                |mut kept, line| {
                    kept.push_str(line);
                    kept.push('\n');
                    kept
                },
            );
            writeln!(text, "{head}{value}").unwrap();
        }
        text
    }
}

/// A running Postfix; stopped when dropped.
#[derive(Debug)]
pub struct Postfix {
    settings: Settings,
    folder: TempDir,
    process: Option<Process>,
}

impl Postfix {
    fn start(settings: Settings) -> Self {
        assert!(
            Path::new(DAEMONS).join("master").exists(),
            "Postfix is not installed (apt-get install --no-install-recommends postfix)"
        );
        let folder = tempfile::Builder::new()
            .prefix("postfix-")
            // Postfix runs under its own user.
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let path = folder.path();
        // The configuration apart: Postfix complains when all beside it is not root's.
        for name in ["etc", "queue", "data"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        let owned = Command::new("chown").arg("postfix").arg(path.join("data")).status().unwrap();
        assert!(owned.success(), "no user postfix");
        fs::write(path.join("etc/main.cf"), settings.main_cf(path)).unwrap();
        let listen = settings.listen.to_string();
        let master = MASTER.replace("{listen}", &listen) + &settings.services;
        fs::write(path.join("etc/master.cf"), master).unwrap();

        let mut postfix = Self { settings, folder, process: None };
        // Makes the folders of the queue.
        postfix.run("postfix", &["check"]);
        postfix.start_again();
        postfix
    }

    /// Starts the instance again with its queue as it was left.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "already running");
        let mut command = bound_to_us(Path::new(DAEMONS).join("master"));
        command
            .arg("-c")
            .arg(self.folder.path().join("etc"))
            .env("MAIL_CONFIG", self.folder.path().join("etc"));
        let log = self.folder.path().join("master.out");
        let mut process = Process::start(&self.settings.name, command, &log);
        let listen = self.settings.listen;
        let ready = wait::within(wait::LONG, || {
            (is_open(listen) || process.ended().is_some()).then(|| process.ended())
        });
        assert_eq!(ready, Some(None), "Postfix does not start\n--- maillog\n{}", self.log());
        self.process = Some(process);
    }

    /// Where it accepts mail.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.settings.listen
    }

    /// Where its mail log is.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("maillog")
    }

    /// All of its mail log.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The queue, as `postqueue -j` shows it: each message once, though one that moves between two
    /// queues while it looks is listed in both.
    #[must_use]
    #[track_caller]
    pub fn queue(&self) -> Vec<Value> {
        let output = self.run("postqueue", &["-j"]);
        let mut listed: Vec<Value> =
            output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut seen = HashSet::new();
        listed.retain(|message| seen.insert(message["queue_id"].to_string()));
        listed
    }

    /// Tries to deliver all queued mail now.
    #[track_caller]
    pub fn flush(&self) {
        self.run("postqueue", &["-f"]);
    }

    /// Waits until nothing is queued.
    #[track_caller]
    pub fn wait_until_empty(&self, limit: Duration) {
        if wait::within(limit, || self.queue().is_empty().then_some(())).is_none() {
            panic!(
                "not within {limit:?}: queue of {} empty (now {})\n--- maillog\n{}",
                self.settings.name,
                self.queue().len(),
                crate::process::tail(&self.log())
            );
        }
    }

    /// Stops it: its port is closed, its queue stays.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        process.signal(Signal::TERM);
        process.wait_for_end(wait::LONG);
        wait::until_true("the port of Postfix is closed", wait::LONG, || {
            !is_open(self.settings.listen)
        });
    }

    /// Stops it and empties its disk: queue and log are gone, as after a fresh installation.
    pub fn wipe(&mut self) {
        self.stop();
        fs::remove_dir_all(self.folder.path().join("queue")).unwrap();
        fs::write(self.folder.path().join("maillog"), b"").unwrap();
        fs::create_dir(self.folder.path().join("queue")).unwrap();
        self.run("postfix", &["check"]);
    }

    /// Runs one of Postfix's commands for this instance and gives its output.
    #[track_caller]
    fn run(&self, command: &str, arguments: &[&str]) -> String {
        let program: PathBuf = Path::new("/usr/sbin").join(command);
        let output = Command::new(program)
            .arg("-c")
            .arg(self.folder.path().join("etc"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{command} {arguments:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- maillog of {}\n{}",
                self.settings.name,
                crate::process::tail(&self.log())
            );
            // Ending it must not fail the failing story again: the process is killed with it.
            if let Some(process) = &mut self.process {
                process.signal(Signal::TERM);
                wait::within(Duration::from_secs(5), || process.ended());
            }
        } else {
            self.stop();
        }
    }
}
