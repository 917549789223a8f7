//! The story of an upgrade, told in plain words while it happens: pass, hold, the server is stopped
//! and replaced, probe, release, replay, count.
//!
//! Each lockgate command is shown as it would be typed, and is carried out by parsing exactly that.
//!
//! Invariants: it ends well only when every message was delivered exactly once, unchanged and through
//! the server; waiting ends when nothing moves any more.
//!
//! Not here: the actors (`mta`, `server`), lockgate itself.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use proxy::api::{GateStatus, path};
use proxy::app::CreateState;
use proxy::config::Config;
use tokio::time::Instant;

use super::Arguments;
use super::mta::{Count, Direction, Mta};
use super::receive::any_port;
use super::server::{Options, Route, Server};
use crate::app::{Both, Signals};
use crate::cli::{self, Exit, Global};
use crate::client::{Client, DEADLINE};
use crate::logging::{self, Form};
use crate::render::{Out, count};

/// Identity of the server; its new version keeps it.
const SERVER: &str = "keys.example.org";
/// Before the upgrade.
const OLD: &str = "10.5.1";
/// After it.
const NEW: &str = "11.0.0";
/// The demo has failed when nothing has moved for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two lines of progress.
const BEAT: Duration = Duration::from_secs(1);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Pause between two messages of the trickle after `--keep`.
const TRICKLE: Duration = Duration::from_secs(1);

pub(super) async fn tell(
    arguments: &Arguments,
    folder: &Path,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let log = folder.join("lockgate.log");
    let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    logging::start_to(file, Form::Text, "info")?;
    let mut stage = Stage::set(folder).await?;
    let mut story = Story::new(folder, out);
    let told = tokio::select! {
        told = story.tell(arguments, &mut stage) => told,
        () = signals.next() => Err(anyhow!("interrupted")),
    };
    if arguments.keep && told.is_ok() {
        story.keep(&stage, &log)?;
        signals.next().await;
    }
    stage.clear().await;
    told
}

/// Everything that runs.
struct Stage {
    mta: Mta,
    server: Option<Server>,
    routes: Vec<Route>,
    lockgate: Both,
    directions: Vec<Direction>,
}

impl Stage {
    async fn set(folder: &Path) -> anyhow::Result<Self> {
        let mta = Mta::start().await.context("the MTA cannot start")?;
        let route = Route { listen: any_port(), next_hop: mta.address() };
        let server = Server::start(Options::new(SERVER, OLD, vec![route, route])).await;
        let server = server.context("the server cannot start")?;
        let routes = server.addresses().into_iter().map(|listen| Route { listen, ..route });
        let routes: Vec<Route> = routes.collect();
        let [outbound, inbound] = routes.as_slice() else { bail!("the server has two listeners") };

        let file = folder.join("lockgate.toml");
        let text = configuration(folder, outbound.listen, inbound.listen)?;
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let config = Config::load(&file)?;
        let lockgate = Both::start(config, CreateState::IfMissing, None).await?;
        let gate = |name| {
            let address = lockgate.proxy.gate_address(name);
            address.with_context(|| format!("gate {name} does not listen"))
        };
        let (ours, others) = ("example.org", "example.net");
        let directions = vec![
            Direction { name: "outbound", gate: gate("outbound")?, from: ours, to: others },
            Direction { name: "inbound", gate: gate("inbound")?, from: others, to: ours },
        ];
        Ok(Self { mta, server: Some(server), routes, lockgate, directions })
    }

    async fn clear(self) {
        // Who gives mail stops after who takes it: nobody waits for a reply that never comes.
        self.lockgate.stop().await;
        if let Some(server) = self.server {
            server.kill().await;
        }
        self.mta.stop().await;
    }
}

/// The configuration of the demo: two gates on any free ports, one server behind both.
fn configuration(
    folder: &Path,
    outbound: SocketAddr,
    inbound: SocketAddr,
) -> anyhow::Result<String> {
    // A JSON string is a TOML string too.
    let data = serde_json::to_string(&folder).context("the folder's name is not UTF-8")?;
    Ok(format!(
        r#"# Configuration of `lockgate demo`.
data = {data}
hostname = "lockgate.example.org"

[metrics]
listen = "127.0.0.1:0"

[spool]
free_bytes_min = 67108864

[[gate]]
name = "outbound"
listen = "127.0.0.1:0"
[[gate.member]]
name = "server"
address = "{outbound}"

[[gate]]
name = "inbound"
listen = "127.0.0.1:0"
[[gate.member]]
name = "server"
address = "{inbound}"
"#
    ))
}

/// The teller.
struct Story<'a> {
    out: &'a mut Out,
    global: Global,
    client: Client,
    started: Instant,
}

impl<'a> Story<'a> {
    fn new(folder: &Path, out: &'a mut Out) -> Self {
        Self {
            out,
            global: Global { data: Some(folder.to_owned()), ..Global::default() },
            client: Client::new(folder.join("lockgate.sock")),
            started: Instant::now(),
        }
    }

    async fn tell(&mut self, arguments: &Arguments, stage: &mut Stage) -> anyhow::Result<Exit> {
        let messages = arguments.messages();
        self.prologue(messages, stage)?;
        let pause =
            arguments.span().div_f64(f64::from(u32::try_from(messages).unwrap_or(u32::MAX)));
        stage.mta.send(&stage.directions, messages, pause);
        self.pass(stage, messages / 4).await?;
        self.hold(stage, messages / 2).await?;
        self.replace(stage).await?;
        self.release(stage, messages).await?;
        self.count(stage)
    }

    fn prologue(&mut self, messages: u64, stage: &Stage) -> anyhow::Result<()> {
        self.say(&format!(
            "lockgate demo: {} messages both ways, and the encryption server is replaced meanwhile.\n",
            count(messages)
        ))?;
        for (direction, route) in stage.directions.iter().zip(&stage.routes) {
            self.say(&format!(
                "   MTA ──▶ gate {:<9} {} ──▶ encryption server {} ──▶ MTA",
                direction.name, direction.gate, route.listen
            ))?;
        }
        Ok(())
    }

    async fn pass(&mut self, stage: &Stage, goal: u64) -> anyhow::Result<()> {
        self.say("\n1. Pass. Mail goes through lockgate to the server, reply for reply.")?;
        self.until(stage, "the first messages", |count| count.messages >= goal).await
    }

    async fn hold(&mut self, stage: &mut Stage, goal: u64) -> anyhow::Result<()> {
        self.say("\n2. Hold. The server is to be upgraded: new mail goes into the spool, safely on disk.")?;
        self.typed(&["hold", "--all", "--reason", "upgrade of the encryption server"]).await?;
        self.typed(&["wait", "quiet", "outbound"]).await?;
        self.typed(&["wait", "quiet", "inbound"]).await?;
        if let Some(server) = stage.server.take() {
            server.drained().await;
            let tally = server.stop().await;
            self.say(&format!(
                "   The old server {OLD} has sent on all of its {} messages. It is switched off;\n   \
                 the MTA goes on sending and notices nothing.",
                count(tally.done)
            ))?;
        }
        self.until(stage, "mail to be held", |count| count.messages >= goal).await?;
        self.typed_freely(&["status"]).await
    }

    async fn replace(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        self.say(&format!(
            "\n3. Replace. The new server {NEW} starts in its place; does it take mail?"
        ))?;
        let server = Server::start(Options::new(SERVER, NEW, stage.routes.clone())).await;
        stage.server = Some(server.context("the new server cannot start")?);
        self.typed(&["probe", "outbound", "--to", "postmaster@example.net"]).await?;
        self.typed(&["probe", "inbound", "--to", "postmaster@example.org"]).await
    }

    async fn release(&mut self, stage: &Stage, messages: u64) -> anyhow::Result<()> {
        self.say("\n4. Release. First three messages, to look at what comes out; then all.")?;
        self.typed(&["release", "outbound", "--first", "3", "--wait"]).await?;
        self.typed(&["release", "outbound"]).await?;
        self.typed(&["release", "inbound"]).await?;
        self.say(
            "   Replay in the order of arrival; new mail joins behind it, then passes again.",
        )?;
        self.until(stage, "all mail to arrive", |count| {
            count.messages >= messages && count.is_complete()
        })
        .await?;
        self.settled().await?;
        self.typed_freely(&["status"]).await
    }

    /// Waits until lockgate holds nothing: the last marks follow the last delivery.
    async fn settled(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.held().await? > 0 {
            if begun.elapsed() > PATIENCE {
                bail!("lockgate still holds mail that was delivered");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn count(&mut self, stage: &Stage) -> anyhow::Result<Exit> {
        let result = stage.mta.count();
        self.say("\n5. Count.")?;
        self.out.document(&result, reckoning)?;
        let exact = result.is_exact();
        self.say(if exact {
            "\n   Every message was delivered exactly once, unchanged; none was lost."
        } else {
            "\n   THE COUNT IS OFF: this must not happen."
        })?;
        self.say("\nWhere to look next: README.md, `lockgate --help`, `lockgate serve`.")?;
        Ok(if exact { Exit::Yes } else { Exit::No })
    }

    fn keep(&mut self, stage: &Stage, log: &Path) -> anyhow::Result<()> {
        stage.mta.send(&stage.directions, 1_000_000, TRICKLE);
        self.say(
            "\nAll goes on running, with a message a second, until Ctrl-C. In another terminal:",
        )?;
        for verb in
            ["status", "hold outbound --reason \"my own\"", "held list", "release outbound --wait"]
        {
            self.say(&format!("   {}", self.global.command(verb)))?;
        }
        for direction in &stage.directions {
            self.say(&format!("   gate {:<9} {}", direction.name, direction.gate))?;
        }
        self.say(&format!("   MTA            {}", stage.mta.address()))?;
        self.say(&format!("   log            {}", log.display()))?;
        self.out.flush().context("cannot write")
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        self.out.say(text)?;
        self.out.flush()
    }

    /// Types a command that must succeed.
    async fn typed(&mut self, words: &[&str]) -> anyhow::Result<()> {
        match self.run(words).await? {
            Exit::Yes => Ok(()),
            exit => bail!("`{}` ended with {}", words.join(" "), exit.code()),
        }
    }

    /// Types a command whose exit code says something about the state, not about success.
    async fn typed_freely(&mut self, words: &[&str]) -> anyhow::Result<()> {
        match self.run(words).await? {
            Exit::Error => bail!("`{}` ended with an error", words.join(" ")),
            _ => Ok(()),
        }
    }

    async fn run(&mut self, words: &[&str]) -> anyhow::Result<Exit> {
        self.say(&format!("   $ {}", self.global.command(&shell(words))))?;
        let data = self.global.data.as_deref().unwrap_or(Path::new(cli::DATA_DEFAULT));
        let mut line = vec!["lockgate".into(), "--data".into(), data.as_os_str().to_owned()];
        line.extend(words.iter().map(Into::into));
        let cli = cli::parse(line).map_err(|(error, _)| error)?;
        let buffer = Buffer::default();
        let mut out = Out::to(cli.global.output, buffer.clone(), buffer.clone());
        // Boxed: the command line knows the demo, and the demo the command line.
        let exit = Box::pin(cli::run(cli, &mut out)).await?;
        for line in buffer.text().lines() {
            self.say(format!("   │ {line}").trim_end())?;
        }
        Ok(exit)
    }

    /// Waits, with a line of progress every second, until `enough`; fails when nothing moves.
    async fn until(
        &mut self,
        stage: &Stage,
        what: &str,
        enough: impl Fn(&Count) -> bool,
    ) -> anyhow::Result<()> {
        let (mut told, mut moved) = (Instant::now(), Instant::now());
        let mut last = Count::default();
        loop {
            let count = stage.mta.count();
            let done = enough(&count);
            if done || told.elapsed() >= BEAT {
                self.progress(&count).await?;
                told = Instant::now();
            }
            if done {
                return Ok(());
            }
            if count != last {
                (last, moved) = (count, Instant::now());
            } else if moved.elapsed() > PATIENCE {
                bail!("waited in vain for {what}: {}", reckoning(&last));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn progress(&mut self, now: &Count) -> anyhow::Result<()> {
        let seconds = self.started.elapsed().as_secs();
        let held = self.held().await?;
        self.say(&format!(
            "   {}:{:02}  sent {:>6}   delivered {:>6}   held {:>6}",
            seconds / 60,
            seconds % 60,
            count(now.expected),
            count(now.delivered),
            count(held),
        ))?;
        Ok(())
    }

    async fn held(&self) -> anyhow::Result<u64> {
        let gates: Vec<GateStatus> = self.client.get(path::GATES, DEADLINE).await?;
        Ok(gates.iter().map(cli::held_messages).sum())
    }
}

/// The count in words.
fn reckoning(result: &Count) -> String {
    let servers = result.by_server.iter().map(|(server, n)| format!("{} by {server}", count(*n)));
    let servers = servers.collect::<Vec<_>>().join(", ");
    format!(
        "   sent        {} messages, {} deliveries (some have two recipients)\n   \
         delivered   {}: {servers}\n   \
         missing     {}\n   \
         duplicated  {}\n   \
         altered     {}\n   \
         in clear    {} (without the mark of the server)\n   \
         refused     {}\n   \
         put off     {} times (answers 4yz to the MTA)",
        count(result.messages),
        count(result.expected),
        count(result.delivered),
        count(result.missing),
        count(result.duplicated),
        count(result.altered),
        count(result.unprocessed),
        count(result.refused),
        count(result.deferrals),
    )
}

/// Words as a shell would have them typed.
fn shell(words: &[&str]) -> String {
    let quoted = |word: &&str| {
        if word.contains(' ') { format!("\"{word}\"") } else { (*word).to_owned() }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// What a command wrote.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        let octets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&octets).into_owned()
    }
}

impl Write for Buffer {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_a_shell_reads_them() {
        assert_eq!(shell(&["hold", "--reason", "an upgrade"]), "hold --reason \"an upgrade\"");
    }

    #[test]
    fn the_reckoning_names_what_is_wrong() {
        let mut result = Count { missing: 3, ..Count::default() };
        result.by_server.insert("keys.example.org 11.0.0".into(), 1234);
        let text = reckoning(&result);
        assert!(text.contains("missing     3"), "{text}");
        assert!(text.contains("1,234 by keys.example.org 11.0.0"), "{text}");
    }

    #[test]
    fn the_configuration_quotes_its_folder() {
        let address = any_port();
        let text = configuration(Path::new("/tmp/a \"b\""), address, address).unwrap();
        assert!(text.contains("data = \"/tmp/a \\\"b\\\"\""), "{text}");
    }
}
