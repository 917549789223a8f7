//! The command tree: what can be typed, and with which exit code it ends.
//!
//! Exit codes are a contract: 0 yes, 1 error (usage too), 2 no, 3 inconclusive.
//!
//! Invariants
//! - A verb is one or a few calls of the control API and a rendering of the answer; nothing here
//!   reads or writes the state of lockgate by a side door (`held --offline` excepted, which reads a
//!   spool that no daemon serves).
//! - Global options may stand before or after the verb.
//!
//! Not here: how answers are laid out (`render`), how the parts are started (`app`).

mod advice;
mod certificate;
mod drain;
mod gates;
mod held;
mod journal;
mod logs;
mod offline;
mod orders;
mod policy;
mod probe;
mod release;
mod replay;
#[cfg(test)]
mod sample;
mod serve;
mod status;
mod wait;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use proxy::api::{Holder, HolderKind};
use proxy::config::Config;

use crate::client::Client;
use crate::demo;
use crate::render::{Format, Out};

pub(crate) use status::held as held_messages;

/// Name of the data folder when nothing else is said.
pub const DATA_DEFAULT: &str = "lockgate-data";

/// Variable of the environment that names the data folder where `--data` does not.
const DATA_VARIABLE: &str = "LOCKGATE_DATA";

const EXIT_CODES: &str = "\
Exit codes:
  0  yes: done, quiet, accepted, all is well
  1  error: nothing is known or done; usage too
  2  no: still held by others, not quiet, refused, an alarm stands
  3  inconclusive: no answer from the server";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Yes.
    Yes,
    /// Error.
    Error,
    /// No.
    No,
    /// Not to be told.
    Inconclusive,
}

impl Exit {
    /// The number for the shell.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Yes => 0,
            Self::Error => 1,
            Self::No => 2,
            Self::Inconclusive => 3,
        }
    }

    const fn yes_if(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// lockgate stands between an MTA and its encryption servers: it passes mail, holds it durably
/// while a server is away, and replays it.
#[derive(Debug, Parser)]
#[command(name = "lockgate", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb; before or after it.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Data folder: state, spool and sockets [env: LOCKGATE_DATA] [default: that of the
    /// configuration, else ./lockgate-data]
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Configuration file [default: none, the embedded one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How answers are written; in json a list is one document a line
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make the data folder: identity, keys, empty orders
    Init,
    /// Run data plane and control in one process
    Serve,
    /// Run the data plane alone
    Proxy,
    /// Run control alone
    Control,
    /// Check configuration, addresses, disk and servers without serving mail (0: good, 2: not)
    Check,
    /// Show the whole story on this machine: pass, hold, upgrade, release, replay, count
    Demo(demo::Arguments),
    /// One screen: is mail safe, where is it, who holds, what to type next (2: an alarm stands)
    #[command(after_help = status::COLUMNS)]
    Status,
    /// List the gates
    Gates,
    /// Take new mail into the spool, give the servers nothing
    Hold(gates::Hold),
    /// Answer new mail with 451; the clients keep it
    Refuse(gates::Refuse),
    /// Give one member nothing
    Cordon(gates::Cordon),
    /// Let a member have mail again
    Uncordon(gates::Uncordon),
    /// Let held mail go (2: others still hold, or mail is left)
    Release(release::Release),
    /// List orders, or end one
    #[command(subcommand)]
    Orders(orders::Orders),
    /// Pause replay, let it go on, change its pace
    #[command(subcommand)]
    Replay(replay::Replay),
    /// Look at held mail, or decide about it
    Held(held::Held),
    /// Look up what was handed over, and what came of it
    #[command(subcommand)]
    Journal(journal::Journal),
    /// Prove that nothing is left inside a member, or name what is (0: drained, 2: mail is inside, 3: nobody can know)
    Drain(drain::Drain),
    /// Answer for something that lockgate cannot see, with your name
    Attest(drain::Attest),
    /// Answer for a doubt of a drain, with your name
    Waive(drain::Waive),
    /// Show the logs, or hand one in
    #[command(subcommand)]
    Logs(logs::Logs),
    /// List, show and check certificates
    #[command(subcommand)]
    Certificate(certificate::Certificates),
    /// Compare mail policies before and after an upgrade, trace messages through them
    Policy(policy::Policy),
    /// Send a test message to the servers (0: accepted, 2: refused, 3: no answer)
    Probe(probe::Probe),
    /// Wait for a condition
    #[command(subcommand)]
    Wait(wait::Wait),
    /// Print the version
    Version,
}

/// Parses a command line; the error is to be printed and already has its exit code.
pub fn parse<I, T>(words: I) -> Result<Cli, (clap::Error, Exit)>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let mut cli = Cli::try_parse_from(words).map_err(|error| {
        let exit = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Yes,
            _ => Exit::Error,
        };
        (error, exit)
    })?;
    // Not left to the parser: it shows in the usage of an error what came from the environment, as
    // if it had to be typed.
    let environment = || std::env::var_os(DATA_VARIABLE).filter(|folder| !folder.is_empty());
    cli.global.data = cli.global.data.or_else(|| environment().map(PathBuf::from));
    Ok(cli)
}

/// Carries out one command line.
pub async fn run(cli: Cli, out: &mut Out) -> anyhow::Result<Exit> {
    let Cli { global, verb } = cli;
    let judges = matches!(verb, Verb::Policy(_));
    let done = match verb {
        Verb::Init => serve::init(&global, out),
        Verb::Serve => serve::serve(&global, out).await,
        Verb::Proxy => serve::proxy(&global, out).await,
        Verb::Control => serve::control(&global, out).await,
        Verb::Check => serve::check(&global, out).await,
        Verb::Demo(arguments) => demo::run(&arguments, &global, out).await,
        Verb::Version => version(out),
        Verb::Certificate(certificate::Certificates::Verify(verify)) => {
            certificate::verify(&verify, out)
        }
        Verb::Policy(policy) => policy::run(policy, &global, out).await,
        Verb::Held(held) if held.offline().is_some() => offline::run(held, &global, out),
        verb => {
            let desk = Desk::new(&global)?;
            match verb {
                Verb::Status => status::run(&desk, out).await,
                Verb::Gates => gates::list(&desk, out).await,
                Verb::Hold(hold) => gates::hold(&desk, hold, out).await,
                Verb::Refuse(refuse) => gates::refuse(&desk, refuse, out).await,
                Verb::Cordon(cordon) => gates::cordon(&desk, cordon, out).await,
                Verb::Uncordon(uncordon) => gates::uncordon(&desk, uncordon, out).await,
                Verb::Release(release) => release::run(&desk, release, out).await,
                Verb::Orders(orders) => orders::run(&desk, orders, out).await,
                Verb::Replay(replay) => replay::run(&desk, replay, out).await,
                Verb::Held(held) => held::run(&desk, held, out).await,
                Verb::Journal(journal) => journal::run(&desk, journal, out).await,
                Verb::Drain(drain) => drain::run(&desk, drain, out).await,
                Verb::Attest(attest) => drain::attest(&desk, attest, out).await,
                Verb::Waive(waive) => drain::waive(&desk, waive, out).await,
                Verb::Logs(logs) => logs::run(&desk, logs, out).await,
                Verb::Certificate(certificates) => certificate::run(&desk, certificates, out).await,
                Verb::Probe(probe) => probe::run(&desk, probe, out).await,
                Verb::Wait(wait) => wait::run(&desk, wait, out).await,
                _ => anyhow::bail!("this verb needs no running lockgate"),
            }
        }
    };
    match done.and_then(|exit| out.flush().map(|()| exit).map_err(Into::into)) {
        // A verdict that was cut off is none: 0 would say that policies are equal.
        Err(error) if judges && is_closed_pipe(&error) => Ok(Exit::Error),
        // Whoever read our answer has seen enough (`lockgate held list | head`).
        Err(error) if is_closed_pipe(&error) => Ok(Exit::Yes),
        done => done,
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let json = error.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    kind.or(json) == Some(io::ErrorKind::BrokenPipe)
}

fn version(out: &mut Out) -> anyhow::Result<Exit> {
    let version = serde_json::json!({ "version": env!("CARGO_PKG_VERSION") });
    out.document(&version, |_| format!("lockgate {}", env!("CARGO_PKG_VERSION")))?;
    Ok(Exit::Yes)
}

impl Global {
    /// The configuration file, read, if one is named.
    fn file(&self) -> anyhow::Result<Option<Config>> {
        let load = |path: &PathBuf| Config::load(path).context("the configuration cannot be used");
        self.config.as_ref().map(load).transpose()
    }

    /// The configuration of a process that serves: the file, else the embedded one; `--data` wins.
    fn configuration(&self) -> anyhow::Result<Config> {
        let folder = || self.data.clone().unwrap_or_else(|| DATA_DEFAULT.into());
        let Some(mut config) = self.file()? else {
            return Ok(Config::embedded(&folder()));
        };
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        Ok(config)
    }

    /// The data folder: `--data`, else that of the configuration file, else the default.
    fn data_folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        Ok(self.file()?.map_or_else(|| DATA_DEFAULT.into(), |config| config.data))
    }

    /// How `verb` would be typed with the same options.
    #[must_use]
    pub fn command(&self, verb: &str) -> String {
        let option = |name: &str, path: &Option<PathBuf>| {
            path.as_ref().map_or_else(String::new, |path| format!("{name} {} ", quoted(path)))
        };
        format!(
            "lockgate {}{}{verb}",
            option("--data", &self.data),
            option("--config", &self.config)
        )
    }
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:=@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// What a verb that asks the running lockgate has at hand.
struct Desk {
    client: Client,
    global: Global,
}

impl Desk {
    fn new(global: &Global) -> anyhow::Result<Self> {
        let socket = global.data_folder()?.join("lockgate.sock");
        Ok(Self { client: Client::new(socket), global: global.clone() })
    }

    fn command(&self, verb: &str) -> String {
        self.global.command(verb)
    }
}

/// In whose name orders are placed: the person at the keyboard.
fn holder() -> Holder {
    let name = |variable| std::env::var(variable).ok().filter(|name| !name.is_empty());
    Holder {
        kind: HolderKind::Operator,
        name: name("SUDO_USER")
            .or_else(|| name("USER"))
            .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw())),
    }
}

/// `90s`, `2h`, `1day 2h`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}, such as 90s or 2h"))
}

/// A reason is never empty: it is what the next person reads.
fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("say why, for the next person".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &str) -> Cli {
        match parse(line.split_whitespace()) {
            Ok(cli) => cli,
            Err((error, _)) => panic!("{line}: {error}"),
        }
    }

    fn refused(line: &str) -> (String, Exit) {
        match parse(line.split_whitespace()) {
            Ok(cli) => panic!("{line}: accepted as {cli:?}"),
            Err((error, exit)) => (error.to_string(), exit),
        }
    }

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_verb() {
        for line in [
            "lockgate --data /srv/a -o json status",
            "lockgate status --data /srv/a -o json",
            "lockgate --data /srv/a status --output json",
        ] {
            let cli = parsed(line);
            assert_eq!(cli.global.data.as_deref(), Some(Path::new("/srv/a")), "{line}");
            assert_eq!(cli.global.output, Format::Json, "{line}");
        }
        let cli = parsed("lockgate held list -o json --gate outbound --data /srv/a");
        assert_eq!(cli.global.data.as_deref(), Some(Path::new("/srv/a")));
    }

    #[test]
    fn usage_errors_end_with_one_and_help_with_nothing() {
        for line in [
            "lockgate",
            "lockgate dance",
            "lockgate hold outbound",
            "lockgate hold --reason x",
            "lockgate hold outbound --all --reason x",
            "lockgate hold outbound --reason=",
            "lockgate release",
            "lockgate release outbound --unchecked",
            "lockgate release outbound --all",
            "lockgate release --all --first 2",
            "lockgate release --all --only A",
            "lockgate uncordon outbound sems1 --unchecked",
            "lockgate orders end 7 --unchecked",
            "lockgate held retry ABC --offline /srv/spool",
            "lockgate held acknowledge --offline /srv/spool",
            "lockgate release outbound --only A --first 2",
            "lockgate wait quiet outbound --timeout soon",
            "lockgate held remove ABC",
            "lockgate held retry",
            "lockgate held retry --gate outbound",
            "lockgate held retry ABC --all",
            "lockgate held list --state wrong",
            "lockgate replay rate outbound",
            "lockgate orders end seven",
            "lockgate status -o yaml",
        ] {
            assert_eq!(refused(line).1.code(), 1, "{line}");
        }
        for line in ["lockgate --help", "lockgate --version", "lockgate held --help"] {
            assert_eq!(refused(line).1.code(), 0, "{line}");
        }
        assert!(refused("lockgate --help").0.contains("Exit codes:"));
    }

    #[test]
    fn usage_says_what_may_be_typed() {
        for verb in ["hold", "release"] {
            let (help, _) = refused(&format!("lockgate {verb} --help"));
            let usage = help.lines().find(|line| line.starts_with("Usage:")).unwrap();
            assert!(usage.contains("<GATE|--all>"), "{usage}");
        }
        assert!(refused("lockgate status --help").0.contains("KEPT"));
        assert!(refused("lockgate held remove --help").0.contains("needs a filter"));
        for (verb, shown) in [("list", true), ("show", true), ("retry", false), ("find", false)] {
            let (help, _) = refused(&format!("lockgate held {verb} --help"));
            assert_eq!(help.contains("--offline"), shown, "{verb}: {help}");
        }
    }

    #[test]
    fn the_verbs_of_an_upgrade_are_accepted() {
        for line in [
            "lockgate hold --all --reason upgrade",
            "lockgate wait quiet outbound --timeout 60s",
            "lockgate probe outbound --to postmaster@example.org --member sems1",
            "lockgate release outbound --only A B C",
            "lockgate release outbound --first 5 --wait",
            "lockgate release outbound --open-now --connections 4 --rate 20.5",
            "lockgate release outbound --unchecked --reason rehearsal",
            "lockgate release --all --wait --rate 5",
            "lockgate uncordon outbound sems1 --unchecked --reason looked",
            "lockgate orders end 7 --unchecked --reason looked",
            "lockgate held show ABC --raw --offline /srv/spool",
            "lockgate orders end 7 --force --reason gone",
            "lockgate replay pause outbound --reason look",
            "lockgate replay rate outbound --connections 2",
            "lockgate held retry --gate outbound --state refused --older-than 2h --all",
            "lockgate held remove - --reason spam",
            "lockgate held --offline /srv/spool list",
            "lockgate held list --offline /srv/spool",
            "lockgate cordon outbound sems1 --reason disk",
            "lockgate demo --fast --messages 100 --keep",
        ] {
            parsed(line);
        }
    }

    #[test]
    fn suggested_commands_carry_the_options_of_this_one() {
        let global = Global { data: Some("/srv/it's here".into()), ..Global::default() };
        assert_eq!(global.command("status"), r"lockgate --data '/srv/it'\''s here' status");
        let global = Global { config: Some("a/b.toml".into()), ..Global::default() };
        assert_eq!(global.command("gates"), "lockgate --config a/b.toml gates");
        assert_eq!(Global::default().command("gates"), "lockgate gates");
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes = [Exit::Yes, Exit::Error, Exit::No, Exit::Inconclusive].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3]);
    }

    #[test]
    fn a_closed_pipe_is_not_an_error() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(&closed.into()));
        assert!(!is_closed_pipe(&io::Error::from(io::ErrorKind::NotFound).into()));
    }
}
