//! The product: its configuration, its process, its command line, its metrics.
//!
//! The binary under test is the `lockgate` beside the test executables
//! (`target/<profile>/lockgate`); `cargo build -p control` makes it. All state is in the story's
//! folder.
//!
//! Reading order: `settings` (what is configured), this file (the process), `answer` (what it
//! says). Not here: what is asserted (the stories).

mod answer;
mod settings;

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

pub use answer::{Answer, Metrics, http_get, states, text};
pub use settings::{Gate, Member, Settings};

use crate::client::Client;
use crate::mail::Mail;
use crate::process::{Process, Signal, bound_to_us, is_open};
use crate::sink::Sink;
use crate::wait;

/// The binary under test.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    // target/<profile>/deps/<test> → target/<profile>/lockgate
    let path = me.parent().and_then(Path::parent).unwrap().join("lockgate");
    assert!(path.exists(), "{} is missing: run `cargo build -p control` first", path.display());
    path
}
/// A `lockgate` of a story; killed when dropped.
#[derive(Debug)]
pub struct Lockgate {
    settings: Settings,
    folder: TempDir,
    metrics: SocketAddr,
    process: Option<Process>,
}

impl Lockgate {
    /// One gate, `outbound`, before this next hop, which it has met (so that its EHLO is known).
    #[must_use]
    #[track_caller]
    pub fn before(sink: &Sink) -> Self {
        let lockgate = Settings::with([Gate::to("outbound", sink.address())]).start();
        lockgate.meet("outbound", sink);
        lockgate
    }

    /// Passes one message through a gate, so that its member's EHLO is known; the sink forgets it.
    #[track_caller]
    pub fn meet(&self, gate: &str, sink: &Sink) {
        let mut client = Client::open(self.gate(gate));
        client.deliver(&Mail::short("meet", 0));
        client.quit();
        sink.wait_for(1, wait::LONG);
        sink.forget();
    }

    /// Where the gate `outbound` listens.
    #[must_use]
    #[track_caller]
    pub fn outbound(&self) -> SocketAddr {
        self.gate("outbound")
    }

    /// `status -o json`, whether an alarm stands or not.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> Value {
        let answer = self.cli(&["status", "-o", "json"]);
        assert!(matches!(answer.code, 0 | 2), "{answer:?}");
        answer.json()
    }

    /// The alarms of `status`.
    #[must_use]
    #[track_caller]
    pub fn alarms(&self) -> Vec<String> {
        let status = self.status();
        let alarms = status["alarms"].as_array().unwrap();
        alarms.iter().map(|alarm| alarm.as_str().unwrap().to_owned()).collect()
    }

    /// One gate of `gates -o json`.
    #[must_use]
    #[track_caller]
    pub fn gate_status(&self, gate: &str) -> Value {
        let gates = self.ok(&["gates", "-o", "json"]).json_lines();
        gates.into_iter().find(|found| found["gate"] == gate).unwrap()
    }

    /// The one member `sems1` of the gate `outbound`, as `gates -o json` shows it.
    #[must_use]
    #[track_caller]
    pub fn member_status(&self) -> Value {
        self.gate_status("outbound")["members"][0].clone()
    }

    /// Waits until nothing is held any more.
    #[track_caller]
    pub fn wait_until_empty(&self, limit: Duration) {
        self.wait_for_held(0, limit);
    }

    /// The state folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The story's folder around the state folder, for files of its own.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("lockgate.toml")
    }

    /// Where a gate listens.
    #[must_use]
    #[track_caller]
    pub fn gate(&self, name: &str) -> SocketAddr {
        self.settings.gates.iter().find(|gate| gate.name == name).unwrap().listen
    }

    /// Where the metrics are.
    #[must_use]
    pub const fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// The configuration as written in TOML.
    #[must_use]
    pub fn config_text(&self) -> String {
        let top = self.settings.sections.get("").map_or("", String::as_str);
        let mut text = format!("data = {:?}\n{top}", self.data());
        write!(text, "\n[metrics]\nlisten = \"{}\"\n", self.metrics).unwrap();
        for (name, keys) in self.settings.sections.iter().filter(|(name, _)| !name.is_empty()) {
            // `[maillog]#2`: the second of a list.
            let name = name.split('#').next().unwrap_or(name);
            write!(text, "\n[{name}]\n{keys}").unwrap();
        }
        for gate in &self.settings.gates {
            let (name, listen, keys) = (&gate.name, gate.listen, &gate.keys);
            write!(text, "\n[[gate]]\nname = \"{name}\"\nlisten = \"{listen}\"\n{keys}").unwrap();
            for member in &gate.members {
                let (name, address, keys) = (&member.name, member.address, &member.keys);
                write!(text, "[[gate.member]]\nname = \"{name}\"\naddress = \"{address}\"\n{keys}")
                    .unwrap();
            }
        }
        text
    }

    fn write_config(&self) {
        fs::write(self.config(), self.config_text()).unwrap();
    }

    /// Changes the settings; they count from the next start on.
    pub fn reconfigure(&mut self, change: impl FnOnce(Settings) -> Settings) {
        self.settings = change(std::mem::take(&mut self.settings));
        self.write_config();
    }

    /// Replaces the gates; they count from the next start on.
    pub fn regate(&mut self, change: impl FnOnce(Vec<Gate>) -> Vec<Gate>) {
        self.settings.gates = change(std::mem::take(&mut self.settings.gates));
        self.write_config();
    }

    /// Starts `lockgate serve` and waits until it is ready.
    #[track_caller]
    pub fn serve(&mut self) {
        self.serve_unready();
        let process = self.process.as_mut().unwrap();
        let metrics = self.metrics;
        process.wait_for("ready", wait::LONG, || {
            http_get(metrics, "/readyz").is_some_and(|(code, _)| code == 200)
        });
    }

    /// Starts `lockgate serve` and does not wait.
    #[track_caller]
    pub fn serve_unready(&mut self) {
        assert!(self.process.is_none(), "already running");
        let mut command = bound_to_us(binary());
        command.arg("serve").arg("--config").arg(self.config()).current_dir(self.folder.path());
        self.process = Some(Process::start("lockgate", command, &self.log_path()));
    }

    /// Starts `lockgate serve`, which must refuse: gives its exit code and what it said.
    #[track_caller]
    pub fn serve_refused(&mut self) -> (i32, String) {
        let before = self.log().len();
        self.serve_unready();
        let status = self.process.as_mut().unwrap().wait_for_end(wait::LONG);
        self.process = None;
        let code = status.code().expect("ended by itself, not by a signal");
        assert_ne!(code, 0, "refused to start, but exit code 0");
        (code, self.log().split_off(before))
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("lockgate.log")
    }

    /// All that the daemon has logged, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Lines of the log that contain all of these.
    #[must_use]
    pub fn log_lines(&self, needles: &[&str]) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| needles.iter().all(|needle| line.contains(needle)));
        lines.map(str::to_owned).collect()
    }

    /// The running process.
    #[track_caller]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("lockgate runs")
    }

    /// kill -9.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// Asks for a clean stop (SIGTERM) and waits for the end; gives the exit code.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        self.process().signal(Signal::TERM);
        let status = self.process().wait_for_end(wait::LONG);
        self.process = None;
        status.code()
    }

    /// A clean stop and a start in the same folder.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.serve();
    }

    /// Runs the binary with these arguments as they are.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Answer {
        run(self.folder.path(), arguments)
    }

    /// Runs a verb against this state folder.
    pub fn cli(&self, arguments: &[&str]) -> Answer {
        let data = self.data();
        let mut all = vec!["--data", data.to_str().unwrap()];
        all.extend_from_slice(arguments);
        self.run(&all)
    }

    /// Runs a verb that must say yes (exit code 0).
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> Answer {
        self.cli(arguments).expect(0)
    }

    /// Holds a gate, in an operator's name.
    #[track_caller]
    pub fn hold(&self, gate: &str) {
        self.ok(&["hold", gate, "--reason", "a story"]);
    }

    /// Releases a gate; new mail joins the tail until the backlog was tried.
    #[track_caller]
    pub fn release(&self, gate: &str) {
        self.ok(&["release", gate]);
    }

    /// All held messages, as `held list -o json` shows them.
    #[must_use]
    #[track_caller]
    pub fn held(&self) -> Vec<Value> {
        self.ok(&["held", "list", "-o", "json"]).json_lines()
    }

    /// Waits until so many messages are held.
    #[track_caller]
    pub fn wait_for_held(&self, count: usize, limit: Duration) -> Vec<Value> {
        let mut last = Vec::new();
        let found = wait::within(limit, || {
            last = self.held();
            (last.len() == count).then_some(())
        });
        assert!(
            found.is_some(),
            "not within {limit:?}: {count} held, but {}: {last:#?}",
            last.len()
        );
        last
    }

    /// Waits until a forward-path of some held message is in this state; gives the messages.
    #[track_caller]
    pub fn wait_for_state(&self, state: &str, count: usize, limit: Duration) -> Vec<Value> {
        let mut last = Vec::new();
        let found = wait::within(limit, || {
            last = self.held();
            let mut found = last.clone();
            found.retain(|message| states(message).iter().any(|found| found == state));
            (found.len() == count).then_some(found)
        });
        found.unwrap_or_else(|| panic!("not within {limit:?}: {count} held {state}: {last:#?}"))
    }

    /// The metrics now.
    #[must_use]
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let (code, body) = http_get(self.metrics, "/metrics").expect("metrics answer");
        assert_eq!(code, 200, "{body}");
        Metrics(body)
    }

    /// `GET path` at the metrics listener: code and body.
    #[must_use]
    #[track_caller]
    pub fn http(&self, path: &str) -> (u16, String) {
        http_get(self.metrics, path).expect("an answer over HTTP")
    }

    /// The mode a gate is in, by its metrics.
    #[must_use]
    #[track_caller]
    pub fn mode(&self, gate: &str) -> String {
        let metrics = self.metrics();
        let on: Vec<&str> = ["pass", "hold", "refuse"]
            .into_iter()
            .filter(|mode| {
                metrics.value("lockgate_gate_mode", &[("gate", gate), ("mode", mode)]) == Some(1.0)
            })
            .collect();
        assert_eq!(on.len(), 1, "a gate is in one mode: {on:?}");
        on[0].to_owned()
    }

    /// Waits until a gate is in this mode.
    #[track_caller]
    pub fn wait_for_mode(&self, gate: &str, mode: &str, limit: Duration) {
        wait::until_true(&format!("gate {gate} in mode {mode}"), limit, || self.mode(gate) == mode);
    }

    /// Memory of its own that the process has now, in octets: pages of its file, which are touched as code is first run,
    /// are not counted.
    #[must_use]
    #[track_caller]
    pub fn resident_octets(&mut self) -> usize {
        let id = self.process().id();
        let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        let kib: usize = line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Segment files of the spool, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.data().join("spool")) else {
            return Vec::new();
        };
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        paths.sort();
        paths
    }

    /// Do all gates accept connections?
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.settings.gates.iter().all(|gate| is_open(gate.listen))
    }
}
/// Runs the binary in a folder with these arguments.
#[must_use]
pub fn run(folder: &Path, arguments: &[&str]) -> Answer {
    let output = Command::new(binary())
        .args(arguments)
        .current_dir(folder)
        .env_remove("LOCKGATE_DATA")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Answer {
        // A signal would be neither yes nor no.
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
