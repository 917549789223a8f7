//! What a message costs: `cargo run --release -p bench -- <scenario>`.
//!
//! Sends the same load straight to a sink and through lockgate, in turns, and prints messages per
//! second, latency and lockgate's CPU time per message. Only ratios within one run count: hardware
//! is shared and noisy. Both sides of the load run on this machine.

mod load;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use load::{Load, Measured};

/// Measures lockgate against the direct path.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure.
    scenario: Scenario,
    /// Messages per run.
    #[arg(long, default_value_t = 5_000)]
    messages: u64,
    /// Sessions side by side.
    #[arg(long, default_value_t = 10)]
    sessions: u64,
    /// Octets per message.
    #[arg(long, default_value_t = 10 * 1024)]
    octets: usize,
    /// A new connection for each message.
    #[arg(long)]
    reconnect: bool,
    /// Rounds; direct and lockgate run once in each.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/lockgate")]
    lockgate: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Scenario {
    /// lockgate passes to the sink.
    Pass,
    /// lockgate holds in its spool.
    Hold,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let load = Load {
        messages: arguments.messages,
        sessions: arguments.sessions,
        octets: arguments.octets,
        reconnect: arguments.reconnect,
    };
    let (sink, taken) = load::sink().context("no port for the sink")?;
    let lockgate = Lockgate::start(&arguments.lockgate, sink)?;
    if matches!(arguments.scenario, Scenario::Hold) {
        lockgate.run(&["hold", "outbound", "--reason", "bench"])?;
    }
    println!("{:?}: {load:?}", arguments.scenario);
    println!(
        "{:<9} {:>10} {:>9} {:>9} {:>11}",
        "path", "messages/s", "p50 us", "p99 us", "CPU us/msg"
    );
    for _ in 0..arguments.rounds {
        let direct = load::send(sink, load).context("straight to the sink")?;
        line("direct", &direct, None);
        let before = lockgate.cpu()?;
        let through = load::send(lockgate.address, load).context("through lockgate")?;
        let cpu = lockgate.cpu()?.saturating_sub(before);
        line("lockgate", &through, Some(cpu));
        println!(
            "{:<9} {:>10.2}",
            "ratio",
            direct.elapsed.as_secs_f64() / through.elapsed.as_secs_f64()
        );
    }
    println!("the sink took {} messages", taken.load(Ordering::Relaxed));
    Ok(())
}

fn line(path: &str, measured: &Measured, cpu: Option<Duration>) {
    let count = measured.latencies.len();
    let cpu = cpu.map_or_else(
        || "-".to_owned(),
        |cpu| format!("{:.1}", cpu.as_secs_f64() * 1e6 / count.max(1) as f64),
    );
    println!(
        "{path:<9} {:>10.0} {:>9} {:>9} {cpu:>11}",
        count as f64 / measured.elapsed.as_secs_f64(),
        measured.percentile(0.5).as_micros(),
        measured.percentile(0.99).as_micros(),
    );
}

/// A real lockgate in its own folder.
struct Lockgate {
    binary: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
    process: Child,
}

impl Lockgate {
    fn start(binary: &Path, sink: SocketAddr) -> Result<Self> {
        if !binary.exists() {
            bail!("{} is missing: `cargo build --release` makes it", binary.display());
        }
        let folder = std::env::temp_dir().join(format!("lockgate-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let address = free_address()?;
        let data = folder.join("data");
        let config = format!(
            "data = {data:?}\n[log]\nlevel = \"warn\"\n[metrics]\nlisten = \"\"\n\
             [[gate]]\nname = \"outbound\"\nlisten = \"{address}\"\n\
             [[gate.member]]\nname = \"sink\"\naddress = \"{sink}\"\n"
        );
        let file = folder.join("lockgate.toml");
        fs::write(&file, config)?;
        let init = Command::new(binary).args(["init", "--config"]).arg(&file).output()?;
        if !init.status.success() {
            bail!("init: {}", String::from_utf8_lossy(&init.stderr));
        }
        let process = Command::new(binary)
            .args(["serve", "--config"])
            .arg(&file)
            .stdout(Stdio::null())
            .spawn()?;
        let lockgate = Self { binary: binary.to_owned(), folder, address, process };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                bail!("lockgate does not listen on {address}");
            }
            thread::yield_now();
        }
        Ok(lockgate)
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(&self.binary)
            .arg("--data")
            .arg(self.folder.join("data"))
            .args(arguments)
            .output()?;
        if !output.status.success() {
            bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// CPU time so far, user and system (fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms).
    fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap_or(0))
            .sum();
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Lockgate {
    fn drop(&mut self) {
        // It may have ended by itself; the folder is of this run alone.
        self.process.kill().ok();
        self.process.wait().ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
