//! `init`, `serve`, `proxy`, `control`, `check`: the verbs of the processes themselves.
//!
//! Not here: how the parts start and stop (`app`, `proxy::app`).

use anyhow::Context as _;
use proxy::app::{CreateState, Proxy};
use proxy::check::{self, Level};
use proxy::config::{Config, LogFormat};
use serde::Serialize;

use super::{Exit, Global};
use crate::app::{Both, Control, Signals};
use crate::logging::{self, Form};
use crate::render::{Out, clean};

/// Starts logging as the configuration says.
pub(crate) fn log(config: &Config) -> anyhow::Result<()> {
    let form = match config.log.format {
        LogFormat::Text => Form::Text,
        LogFormat::Json => Form::Json,
    };
    Ok(logging::start(form, config.log.level.as_str())?)
}

pub(super) fn init(global: &Global, out: &mut Out) -> anyhow::Result<Exit> {
    let config = global.configuration()?;
    let report = proxy::app::init(&config)?;
    let folder = config.data.display().to_string();
    let made: Vec<String> = report.made.iter().map(|path| path.display().to_string()).collect();
    let done = serde_json::json!({ "data": folder, "made": made });
    out.document(&done, |_| format!("{folder} is ready\nnext: {}", global.command("serve")))?;
    Ok(Exit::Yes)
}

/// Where things are, told at the start.
#[derive(Serialize)]
struct Places {
    version: &'static str,
    data: String,
    control: String,
    gates: Vec<Place>,
    metrics: String,
}

#[derive(Serialize)]
struct Place {
    gate: String,
    listen: String,
    members: Vec<String>,
}

fn places(config: &Config, proxy: &Proxy) -> Places {
    let gates = config.gates.iter().map(|gate| Place {
        gate: gate.name.clone(),
        listen: proxy
            .gate_address(&gate.name)
            .or(gate.listen)
            .map_or_else(|| "nowhere".to_owned(), |address| address.to_string()),
        members: gate
            .members
            .iter()
            .map(|member| {
                let address = member.address.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("{} {address}", member.name)
            })
            .collect(),
    });
    Places {
        version: env!("CARGO_PKG_VERSION"),
        data: config.data.display().to_string(),
        control: config.control_socket().display().to_string(),
        gates: gates.collect(),
        metrics: config
            .metrics
            .listen
            .map_or_else(String::new, |at| format!("http://{at}/metrics")),
    }
}

fn text(places: &Places, global: &Global) -> String {
    let mut lines = vec![format!("lockgate {} serves", places.version)];
    for place in &places.gates {
        let members = place.members.join(", ");
        lines.push(format!("  gate {:<10} {} → {members}", place.gate, place.listen));
    }
    if !places.metrics.is_empty() {
        lines.push(format!("  metrics         {}", places.metrics));
    }
    lines.push(format!("  data            {}", places.data));
    lines.push(format!("  control         {}", places.control));
    lines.push(format!("next, in another terminal: {}", global.command("status")));
    lines.join("\n")
}

/// Only the embedded configuration makes its data folder by itself: with a file, a missing folder
/// is a mistake (another disk not mounted), and an empty one would pass what is to be held.
fn create(global: &Global) -> CreateState {
    if global.config.is_none() { CreateState::IfMissing } else { CreateState::Refuse }
}

pub(super) async fn serve(global: &Global, out: &mut Out) -> anyhow::Result<Exit> {
    let config = global.configuration()?;
    log(&config)?;
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let both = Both::start(config.clone(), create(global), global.config.as_deref()).await?;
    out.document(&places(&config, &both.proxy), |places| text(places, global))?;
    out.flush()?;
    signals.next().await;
    signals.next_ends_the_process();
    out.warn("stopping; a second signal ends at once")?;
    both.stop().await;
    Ok(Exit::Yes)
}

pub(super) async fn proxy(global: &Global, out: &mut Out) -> anyhow::Result<Exit> {
    let config = global.configuration()?;
    log(&config)?;
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let proxy = Proxy::start(config.clone(), CreateState::Refuse).await?;
    out.document(&places(&config, &proxy), |places| text(places, global))?;
    out.flush()?;
    signals.next().await;
    signals.next_ends_the_process();
    out.warn("stopping; a second signal ends at once")?;
    proxy.stop().await;
    Ok(Exit::Yes)
}

pub(super) async fn control(global: &Global, out: &mut Out) -> anyhow::Result<Exit> {
    let config = global.configuration()?;
    log(&config)?;
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let control = Control::start(&config, global.config.as_deref()).await?;
    let socket = config.control_socket().display().to_string();
    out.document(&serde_json::json!({ "control": socket }), |_| format!("control at {socket}"))?;
    out.flush()?;
    signals.next().await;
    signals.next_ends_the_process();
    control.stop().await;
    Ok(Exit::Yes)
}

/// A finding, on the wire of `check -o json`.
#[derive(Serialize)]
struct Line {
    level: &'static str,
    what: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    mend: String,
}

pub(super) async fn check(global: &Global, out: &mut Out) -> anyhow::Result<Exit> {
    let config = global.configuration()?;
    let mut good = true;
    let mut findings = check::run(&config).await;
    findings.extend(crate::check::run(&config, global.config.as_deref()));
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        good &= finding.level != Level::Error;
        let line = Line { level, what: finding.what, mend: finding.mend };
        out.document(&line, |line| {
            let mend = if line.mend.is_empty() {
                String::new()
            } else {
                format!("\n         {}", line.mend)
            };
            format!("{:<8} {}{}", line.level, clean(&line.what), mend)
        })?;
    }
    Ok(Exit::yes_if(good))
}
