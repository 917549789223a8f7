//! What a message costs: `cargo run --release -p bench -- <scenario>`.
//!
//! Starts lockgate, its peers, a generator and sinks on this machine, gives all of them the same load
//! in turns, and prints messages per second, latency, CPU time per message and their ratios. Only
//! ratios within one run count: hardware is shared and noisy. See `bench/README.md`.

mod component;
mod load;
mod lockgate;
mod logs;
mod machine;
mod peers;
mod picture;
mod policies;
mod reference;
mod report;
mod scenario;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use machine::Machine;
use peers::Peer;
use report::Report;
use scenario::{Bench, Name};

/// How it was measured, in the file of results.
const METHOD: &str = "every component before a sink of its own; in each round every component takes \
    the same kind of load once, as many messages as fill about the same time; order rotated in pass and \
    hold, fixed in replay and in the scenarios of lockgate alone; CPU time of all processes of a component; \
    ratios within a round; single-threaded generator and sinks on the same machine; lockgate with one \
    worker and its log at warn, unless its name says otherwise";

#[derive(Debug, Parser)]
#[command(about = "Measures lockgate beside its peers")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Runs scenarios and prints what they cost.
    #[command(flatten)]
    Part(load::command::Part),
    /// Runs one scenario, or several, or `all`.
    Run(Options),
    /// Ten seconds: does it work at all?
    Smoke {
        /// The binary to measure.
        #[arg(long, default_value = "target/release/lockgate")]
        lockgate: PathBuf,
    },
    /// Reads mail logs beside pflogsumm and exigrep.
    Logs(logs::Logs),
    /// Compares mail policies of several sizes.
    Policies(policies::Policies),
    /// Reads one log; what `logs` measures.
    ReadLog(logs::ReadLog),
    /// Draws the picture of a file of results.
    Picture {
        /// The results.
        results: PathBuf,
        /// The SVG.
        picture: PathBuf,
    },
    /// Prints the targets of a file of results as a table.
    Table {
        /// The results.
        results: PathBuf,
    },
}

#[derive(Args, Debug)]
struct Options {
    /// Which.
    #[arg(required = true)]
    scenarios: Vec<Wanted>,
    /// Instead of the scenario's own peers.
    #[arg(long, value_delimiter = ',')]
    peers: Option<Vec<Peer>>,
    /// Rounds; each component runs once in each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// About how long a run takes.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Held messages of replay and million; default: as many as the targets ask for.
    #[arg(long)]
    held: Option<u64>,
    /// Writes the results here; scenarios that stand there already and are not run now stay.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/lockgate")]
    lockgate: PathBuf,
}

/// A scenario, or all of them.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    All,
    One(Name),
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        Name::from_str(text, false).map(Self::One).map_err(|_| {
            let names = Name::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            let names: Vec<String> = names.map(|name| name.get_name().to_owned()).collect();
            format!("not one of: all, {}", names.join(", "))
        })
    }
}

fn main() -> Result<()> {
    match Arguments::parse_from(with_verb(std::env::args().collect())).what {
        What::Part(part) => part.run(),
        What::Run(options) => run(&options),
        What::Logs(logs) => logs.run(),
        What::ReadLog(log) => log.run(),
        What::Policies(policies) => policies.run(),
        What::Smoke { lockgate } => smoke(&lockgate),
        What::Picture { results, picture } => {
            let drawn = picture::draw(&Report::read(&results)?);
            std::fs::write(&picture, drawn).with_context(|| picture.display().to_string())
        }
        What::Table { results } => {
            print!("{}", Report::read(&results)?.table());
            Ok(())
        }
    }
}

/// `bench hold-100` is short for `bench run hold-100`.
fn with_verb(mut words: Vec<String>) -> Vec<String> {
    if words.get(1).is_some_and(|word| word.parse::<Wanted>().is_ok()) {
        words.insert(1, "run".to_owned());
    }
    words
}

fn run(options: &Options) -> Result<()> {
    let bench = Bench {
        binary: options.lockgate.clone(),
        rounds: options.rounds,
        seconds: options.seconds,
        peers: options.peers.clone(),
        held: options.held,
        folder: scenario::folder()?,
    };
    let peers: Vec<Peer> =
        Peer::all().iter().copied().filter(|peer| peer.installed().is_ok()).collect();
    let machine = Machine::look(bench.folder.path(), &options.lockgate, &peers)?;
    let mut report = match &options.json {
        Some(path) if path.exists() => Report::read(path)?,
        _ => Report::default(),
    };
    report.machine = serde_json::to_value(&machine)?;
    METHOD.clone_into(&mut report.method);
    for wanted in &options.scenarios {
        let names = match wanted {
            Wanted::All => Name::value_variants(),
            Wanted::One(name) => std::slice::from_ref(name),
        };
        for &name in names {
            let scenario = bench.run(name).with_context(|| format!("{name:?}"))?;
            scenario.print();
            report.put(scenario);
            if let Some(path) = &options.json {
                report.write(path)?;
            }
        }
    }
    Ok(())
}

/// Every kind of run once, small: it asserts that all messages arrive and figures come out.
fn smoke(lockgate: &Path) -> Result<()> {
    let bench = |peer| -> Result<Bench> {
        Ok(Bench {
            binary: lockgate.to_owned(),
            rounds: 1,
            seconds: 0.1,
            peers: Some(vec![peer]),
            held: Some(2_000),
            folder: scenario::folder()?,
        })
    };
    let (pass, hold) = (bench(Peer::HaProxy)?, bench(Peer::GroupCommitAppend)?);
    for (bench, name) in [
        (&pass, Name::PassMany),
        (&pass, Name::PassNew),
        (&pass, Name::PassTls),
        (&hold, Name::Hold10),
        (&hold, Name::Replay),
    ] {
        let scenario = bench.run(name).with_context(|| format!("{name:?}"))?;
        let measured = scenario.spread("lockgate", |run| run.per_second);
        ensure!(measured.is_some_and(|spread| spread.min > 0.0), "{name:?}: nothing was measured");
        println!("{}: works", scenario.name);
    }
    Ok(())
}
