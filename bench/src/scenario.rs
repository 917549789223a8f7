//! The scenarios: what is started, what is sent, what is asked of it.
//!
//! Method: every component stands before a sink of its own through all rounds; in each round every
//! component takes the same load once, in an order that is rotated; ratios are made within a round.
//! The number of messages is set by a first run, so that a run takes about the time asked for.
//!
//! Not here: arithmetic and tables (`report`), how a peer is configured (`peers`).

mod many;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::component::{Component, Placement, folder_in, free_address};
use crate::load::{Load, Measured, sink, tls};
use crate::lockgate::{Lockgate, Role, Settings};
use crate::peers::Peer;
use crate::report::{Run, Scenario};

/// How long a part may take to start, and a run to end.
const START: Duration = Duration::from_secs(30);
const RUN: Duration = Duration::from_secs(300);

/// Messages of the first run, by which the number of the others is set.
const FIRST: u64 = 300;

/// Peers that keep what they take.
const HOLDING: [Peer; 4] =
    [Peer::PostfixHold, Peer::EximHold, Peer::GroupCommit, Peer::GroupCommitAppend];

/// The name of a scenario.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Name {
    /// Pass, a new connection per message, 100 side by side.
    PassNew,
    /// Pass, many messages per connection, 100 side by side, in lock-step.
    PassMany,
    /// The same, pipelined.
    PassPipelined,
    /// Pass, everything on one CPU, one connection.
    PassOneCpu,
    /// Pass with TLS towards the server, a new connection per message.
    PassTls,
    /// Pass, messages of 100 KiB.
    #[value(name = "pass-100k")]
    Pass100k,
    /// Pass, messages of 10 MiB.
    #[value(name = "pass-10m")]
    Pass10m,
    /// Hold, one connection.
    #[value(name = "hold-1")]
    Hold1,
    /// Hold, 10 connections.
    #[value(name = "hold-10")]
    Hold10,
    /// Hold, 100 connections.
    #[value(name = "hold-100")]
    Hold100,
    /// Hold, 10 connections, messages of 100 KiB.
    #[value(name = "hold-100k")]
    Hold100k,
    /// Hold, 4 connections, messages of 10 MiB.
    #[value(name = "hold-10m")]
    Hold10m,
    /// Replay of held mail.
    Replay,
    /// Memory of idle connections.
    Memory,
    /// A great number of small held messages: index, disk, start, growth.
    Million,
    /// Hold while the backlog is replayed.
    HoldAndReplay,
    /// Pass with 100 and with 5,000 connections open.
    Connections,
}

/// What is the same in all scenarios.
#[derive(Debug)]
pub(crate) struct Bench {
    /// lockgate's binary.
    pub(crate) binary: PathBuf,
    /// Rounds.
    pub(crate) rounds: usize,
    /// How long a run should take.
    pub(crate) seconds: f64,
    /// Instead of the scenario's own peers.
    pub(crate) peers: Option<Vec<Peer>>,
    /// Held messages, where a scenario asks for very many; none: as in the targets.
    pub(crate) held: Option<u64>,
    /// Where everything lies.
    pub(crate) folder: TempDir,
}

/// What stands between the generator and the sink.
enum Middle {
    Nothing,
    Lockgate(Lockgate),
    Peer(Peer, Component),
}

/// A component with its sink, ready.
struct Subject {
    name: String,
    middle: Middle,
    sink: Component,
    /// The generator speaks TLS.
    tls: bool,
    /// It keeps what it takes: nothing is to reach the sink. Else all of it is.
    holds: bool,
}

impl Bench {
    /// Runs a scenario.
    pub(crate) fn run(&self, name: Name) -> Result<Scenario> {
        let many = |octets, sessions| load(octets, sessions);
        match name {
            Name::PassNew => self.pass_new(),
            Name::PassMany => self.pass_many(name, many(10 << 10, 100)),
            Name::PassPipelined => {
                self.pass_many(name, Load { pipelining: true, ..many(10 << 10, 100) })
            }
            Name::PassOneCpu => self.pass_one_cpu(),
            Name::PassTls => self.pass_tls(),
            Name::Pass100k => self.pass_large(name, many(100 << 10, 10), 0.65),
            Name::Pass10m => self.pass_large(name, many(10 << 20, 1), 0.75),
            Name::Hold1 => self.hold(name, many(10 << 10, 1), 4.0),
            Name::Hold10 => self.hold(name, many(10 << 10, 10), 5.0),
            Name::Hold100 => self.hold(name, many(10 << 10, 100), 20.0),
            Name::Hold100k => self.hold(name, many(100 << 10, 10), 6.0),
            Name::Hold10m => self.hold(name, many(10 << 20, 4), 2.5),
            Name::Replay => self.replay(),
            Name::Memory => self.memory(),
            Name::Million => self.million(),
            Name::HoldAndReplay => self.hold_and_replay(),
            Name::Connections => self.connections(),
        }
    }

    fn pass_new(&self) -> Result<Scenario> {
        let load = Load { reconnect: true, ..load(10 << 10, 100) };
        let mut scenario = self.pass(Name::PassNew, &load, Placement::Anywhere)?;
        let to = |figure: fn(&Run) -> f64| ratio(&scenario, "lockgate", "haproxy", figure);
        let (cpu, rate) = (to(|run| run.cpu_us), to(|run| run.per_second));
        scenario.ask("P1", "CPU / HAProxy", true, 0.7, cpu);
        scenario.ask("P1", "messages/s / HAProxy", false, 1.1, rate);
        Ok(scenario)
    }

    fn pass_many(&self, name: Name, load: Load) -> Result<Scenario> {
        let mut scenario = self.pass(name, &load, Placement::Anywhere)?;
        let to = |figure: fn(&Run) -> f64| ratio(&scenario, "lockgate", "haproxy", figure);
        let (cpu, rate) = (to(|run| run.cpu_us), to(|run| run.per_second));
        scenario.ask("P2", "CPU / HAProxy", true, 1.0, cpu);
        scenario.ask("P2", "messages/s / HAProxy", false, 1.0, rate);
        Ok(scenario)
    }

    fn pass_one_cpu(&self) -> Result<Scenario> {
        let load = load(10 << 10, 1);
        let mut scenario = self.pass(Name::PassOneCpu, &load, Placement::Cpu(1))?;
        let cpu = ratio(&scenario, "lockgate", "haproxy", |run| run.cpu_us);
        scenario.ask("P3", "CPU / HAProxy", true, 0.9, cpu);
        let added = |of: &str, figure: fn(&Run) -> f64| {
            let spread = scenario.within_rounds(of, "direct", |a, b| figure(a) - figure(b));
            spread.map(|spread| spread.median)
        };
        let ours = (added("lockgate", |run| run.p50_us), added("lockgate", |run| run.p99_us));
        let theirs = (added("haproxy", |run| run.p50_us), added("haproxy", |run| run.p99_us));
        let slowest = scenario.spread("lockgate", |run| run.p99_us).map(|spread| spread.max);
        if let (Some(p50), Some(p99)) = theirs {
            scenario.ask("P3", "added p50 in us, against HAProxy's", true, p50, ours.0);
            scenario.ask("P3", "added p99 in us, against HAProxy's", true, p99, ours.1);
        }
        scenario.ask("P3", "slowest p99 in us (no steps of 40 ms)", true, 20_000.0, slowest);
        Ok(scenario)
    }

    fn pass_large(&self, name: Name, load: Load, bound: f64) -> Result<Scenario> {
        let mut scenario = self.pass(name, &load, Placement::Anywhere)?;
        let cpu = ratio(&scenario, "lockgate", "haproxy", |run| run.cpu_us);
        scenario.ask("P5", "CPU / HAProxy", true, bound, cpu);
        Ok(scenario)
    }

    fn pass_tls(&self) -> Result<Scenario> {
        let load = Load { reconnect: true, ..load(10 << 10, 100) };
        let mut scenario = empty(Name::PassTls, &load);
        let (certificate, key) = tls::certificate(self.folder.path())?;
        let sink = || {
            let mut command = this();
            command.arg("sink").args(["--tls-cert".as_ref(), certificate.as_os_str()]);
            command.args(["--tls-key".as_ref(), key.as_os_str()]);
            listening("sink", command, Placement::Anywhere)
        };
        let mut subjects = vec![Subject {
            name: "direct".to_owned(),
            middle: Middle::Nothing,
            sink: sink()?,
            tls: true,
            holds: false,
        }];
        for (name, workers) in [("lockgate", "1"), ("lockgate-workers", "2")] {
            let through = sink()?;
            let settings = self.settings(Role::Pass).tls_to_member("require");
            let settings = settings.set("session", "workers", workers);
            subjects.push(Subject {
                name: name.to_owned(),
                middle: Middle::Lockgate(settings.start(through.address()?, self.folder.path())?),
                sink: through,
                tls: false,
                holds: false,
            });
        }
        self.measure(&mut scenario, &subjects, &load, Placement::Anywhere)?;
        let rate = ratio(&scenario, "lockgate", "direct", |run| run.per_second);
        scenario.ask("P4", "messages/s / a client that does TLS itself", false, 3.0, rate);
        Ok(scenario)
    }

    fn pass(&self, name: Name, load: &Load, placement: Placement) -> Result<Scenario> {
        let own = [Peer::HaProxy, Peer::NginxStream, Peer::NginxMail, Peer::PostfixProxy];
        let mut scenario = empty(name, load);
        let mut subjects = vec![Subject {
            name: "direct".to_owned(),
            middle: Middle::Nothing,
            sink: plain_sink(placement)?,
            tls: false,
            holds: false,
        }];
        let mut variants = vec![("lockgate", self.settings(Role::Pass))];
        if name == Name::PassMany {
            let workers = self.settings(Role::Pass).set("session", "workers", "2");
            variants.push(("lockgate-workers", workers));
            variants.push(("lockgate-log", self.settings(Role::Pass).log("info")));
        }
        for (name, settings) in variants {
            let sink = plain_sink(placement)?;
            let lockgate = settings.on(placement).start(sink.address()?, self.folder.path())?;
            let middle = Middle::Lockgate(lockgate);
            let name = name.to_owned();
            subjects.push(Subject { name, middle, sink, tls: false, holds: false });
        }
        self.add_peers(&own, placement, &mut subjects, &mut scenario)?;
        self.measure(&mut scenario, &subjects, load, placement)?;
        Ok(scenario)
    }

    fn hold(&self, name: Name, load: Load, bound: f64) -> Result<Scenario> {
        let own = match name {
            Name::Hold10m => vec![Peer::PostfixHold, Peer::GroupCommit],
            _ => HOLDING.to_vec(),
        };
        let mut scenario = empty(name, &load);
        let placement = Placement::Anywhere;
        let sink = plain_sink(placement)?;
        let lockgate = self.settings(Role::Hold).start(sink.address()?, self.folder.path())?;
        let middle = Middle::Lockgate(lockgate);
        let name_of = "lockgate".to_owned();
        let mut subjects = vec![Subject { name: name_of, middle, sink, tls: false, holds: true }];
        self.add_peers(&own, placement, &mut subjects, &mut scenario)?;
        self.measure(&mut scenario, &subjects, &load, placement)?;
        let rate = |to| ratio(&scenario, "lockgate", to, |run| run.per_second);
        let (postfix, reference) = (rate("postfix-hold"), rate("group-commit"));
        scenario.ask("P6", "messages/s / Postfix hold", false, bound, postfix);
        if name == Name::Hold100 {
            let cpu = scenario.spread("lockgate", |run| run.cpu_us).map(|spread| spread.median);
            scenario.ask("P6", "CPU us per message", true, 45.0, cpu);
            scenario.ask("P6", "messages/s / plain group commit", false, 0.8, reference);
        }
        Ok(scenario)
    }

    /// One worker, as the peers have one process or thread; what a load of one client needs.
    fn settings(&self, role: Role) -> Settings {
        Settings::new(&self.binary, role).set("session", "workers", "1")
    }

    fn add_peers(
        &self,
        own: &[Peer],
        placement: Placement,
        subjects: &mut Vec<Subject>,
        scenario: &mut Scenario,
    ) -> Result<()> {
        for &peer in self.peers.as_deref().unwrap_or(own) {
            if let Err(missing) = peer.installed() {
                scenario.notes.push(format!("{} skipped: {missing}", peer.name()));
                continue;
            }
            let sink = plain_sink(placement)?;
            let started = match peer.start(sink.address()?, placement, self.folder.path()) {
                Ok(started) => started,
                Err(error) => {
                    scenario.notes.push(format!("{} skipped: {error:#}", peer.name()));
                    continue;
                }
            };
            let middle = Middle::Peer(peer, started);
            let (name, holds) = (peer.name().to_owned(), HOLDING.contains(&peer));
            subjects.push(Subject { name, middle, sink, tls: false, holds });
        }
        Ok(())
    }

    fn measure(
        &self,
        scenario: &mut Scenario,
        subjects: &[Subject],
        load: &Load,
        placement: Placement,
    ) -> Result<()> {
        let mut counts = Vec::new();
        for subject in subjects {
            let large = load.octets as u64 / (1 << 20);
            let first = Load { messages: (FIRST / (1 + 10 * large)).max(4), ..*load };
            let run = subject.run(&first, placement)?;
            let wanted = (run.per_second * self.seconds) as u64;
            counts.push(wanted.max(load.sessions as u64 * 2).max(4));
        }
        for round in 0..self.rounds {
            let mut runs = Vec::new();
            for turn in 0..subjects.len() {
                let index = (round + turn) % subjects.len();
                let load = Load { messages: counts[index], ..*load };
                runs.push(subjects[index].run(&load, placement)?);
            }
            scenario.rounds.push(runs);
        }
        for subject in subjects {
            subject.check_held(scenario)?;
        }
        scenario.compare();
        Ok(())
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Subject {
    fn address(&self) -> Result<SocketAddr> {
        match &self.middle {
            Middle::Nothing => self.sink.address(),
            Middle::Lockgate(lockgate) => lockgate.address(),
            Middle::Peer(_, component) => component.address(),
        }
    }

    fn cpu(&self) -> Result<Duration> {
        match &self.middle {
            Middle::Nothing => Ok(Duration::ZERO),
            Middle::Lockgate(lockgate) => lockgate.component().cpu(),
            Middle::Peer(_, component) => component.cpu(),
        }
    }

    /// A peer that holds must have what it accepted.
    fn check_held(&self, scenario: &Scenario) -> Result<()> {
        let Middle::Peer(peer, component) = &self.middle else { return Ok(()) };
        let Some(held) = peer.held(component)? else { return Ok(()) };
        let runs = scenario.rounds.iter().flatten().filter(|run| run.component == self.name);
        let sent: u64 = runs.map(|run| run.messages).sum();
        ensure!(held as u64 >= sent, "{}: {sent} messages sent, {held} held", self.name);
        Ok(())
    }

    /// Takes a load once.
    fn run(&self, load: &Load, placement: Placement) -> Result<Run> {
        sink::zero(self.sink.address()?)?;
        let before = self.cpu()?;
        let measured = send(self.address()?, load, self.tls, 0, placement)
            .with_context(|| format!("through {}", self.name))?;
        let cpu = match &self.middle {
            Middle::Nothing => Duration::from_nanos(measured.cpu_ns),
            _ => self.cpu()?.saturating_sub(before),
        };
        let taken = sink::stat(self.sink.address()?)?.messages;
        let due = if self.holds { 0 } else { load.messages };
        ensure!(
            taken == due,
            "{}: {} messages sent, {taken} at the sink where {due} were due",
            self.name,
            load.messages
        );
        Ok(run_of(&self.name, &measured, cpu))
    }
}

fn run_of(name: &str, measured: &Measured, cpu: Duration) -> Run {
    Run {
        component: name.to_owned(),
        messages: measured.messages,
        per_second: measured.messages as f64 * 1e9 / measured.elapsed_ns as f64,
        p50_us: measured.p50_ns as f64 / 1e3,
        p99_us: measured.p99_ns as f64 / 1e3,
        cpu_us: cpu.as_secs_f64() * 1e6 / measured.messages as f64,
    }
}

/// Sends a load from a process of its own.
fn send(
    to: SocketAddr,
    load: &Load,
    tls: bool,
    idle: usize,
    placement: Placement,
) -> Result<Measured> {
    let mut command = this();
    command.args(["send", "--to", &to.to_string(), "--idle", &idle.to_string()]);
    command.args(load.arguments());
    if tls {
        command.arg("--tls");
    }
    let output = Component::spawn("send", &command, placement)?.wait(RUN)?;
    serde_json::from_str(output.trim()).with_context(|| format!("the generator said {output:?}"))
}

fn plain_sink(placement: Placement) -> Result<Component> {
    let mut command = this();
    command.arg("sink");
    listening("sink", command, placement)
}

fn listening(name: &str, mut command: Command, placement: Placement) -> Result<Component> {
    let address = free_address()?;
    command.args(["--listen", &address.to_string()]);
    let mut component = Component::spawn(name, &command, placement)?.at(address);
    component.wait_until_open(START)?;
    Ok(component)
}

/// This program: its parts are processes of their own, so that each has its account.
fn this() -> Command {
    Command::new(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()))
}

fn load(octets: usize, sessions: usize) -> Load {
    Load { messages: 0, sessions, octets, pipelining: false, reconnect: false, pairs: 100 }
}

fn empty(name: Name, load: &Load) -> Scenario {
    let name = name.to_possible_value().map(|value| value.get_name().to_owned());
    let each = match (load.reconnect, load.pipelining) {
        (true, _) => "a new connection per message",
        (false, true) => "many messages per connection, pipelined",
        (false, false) => "many messages per connection, in lock-step",
    };
    Scenario {
        name: name.unwrap_or_default(),
        words: format!("{} octets, {} connections, {each}", load.octets, load.sessions),
        rounds: Vec::new(),
        ratios: Vec::new(),
        targets: Vec::new(),
        notes: Vec::new(),
    }
}

fn ratio(scenario: &Scenario, of: &str, to: &str, figure: fn(&Run) -> f64) -> Option<f64> {
    scenario.within_rounds(of, to, |a, b| figure(a) / figure(b)).map(|spread| spread.median)
}

/// A folder for the runs, on the disk where the program lies: a temporary folder may be in memory.
pub(crate) fn folder() -> Result<TempDir> {
    let here = std::env::current_exe()?;
    folder_in(here.parent().unwrap_or(Path::new(".")), "bench")
}
