//! `drain MEMBER|GATE…`, `attest`, `waive`: is anything left inside?
//!
//! Not here: how that is proven (`crate::drain`), who leads it (`crate::watch`).

use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::{Desk, Exit, duration, holder, reason};
use crate::client::DEADLINE;
use crate::drain::correlate::Kind;
use crate::drain::item::Column;
use crate::moment::Moment;
use crate::render::{Format, Out, Table, clean, counted, seconds};
use crate::watch::wire::{
    Attestation, Attested, DrainEnd, DrainReport, DrainRequest, Phase, Said, Waiver, path,
};

/// Pause between two questions while it is waited for.
const PAUSE: Duration = Duration::from_millis(500);

/// How much longer than its own time a drain is waited for: it gives up by itself.
const GRACE: Duration = Duration::from_secs(30);

/// `drain …`
#[derive(Debug, Args)]
pub struct Drain {
    /// Members (each gets a certificate), or gates (only a report); none: show every drain
    targets: Vec<String>,
    /// Wait for the verdict, and show how it goes
    #[arg(long)]
    wait: bool,
    /// Longest time; then it is given up, and the orders stay [default: that of the configuration]
    #[arg(long, value_parser = duration)]
    timeout: Option<Duration>,
    /// How long nothing may come after the mark [default: that of the configuration]
    #[arg(long, value_parser = duration)]
    quiet_period: Option<Duration>,
    /// Why (stands in the orders)
    #[arg(long, value_parser = reason, default_value = "drain")]
    reason: String,
    /// Show where it stands, begin nothing
    #[arg(long, conflicts_with_all = ["wait", "end"])]
    status: bool,
    /// End its orders: the member gets mail again
    #[arg(long)]
    end: bool,
}

/// `attest …`
#[derive(Debug, Args)]
pub struct Attest {
    /// Member
    member: String,
    /// What you saw
    #[arg(value_enum)]
    what: What,
    /// How you know
    #[arg(long, value_parser = reason)]
    reason: String,
    /// Id of a message that was deleted, as the drain shows it; may be given several times
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    /// Your name [default: that of the user]
    #[arg(long)]
    by: Option<String>,
}

/// What can be attested.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Nothing was inside when lockgate came into the path
    EmptyStart,
    /// The server's own queue page shows nothing, after the fence
    QueueEmpty,
    /// The messages of `--id` were deleted in the server
    Deleted,
    /// The server was installed anew and is empty: what is listed as inside is written off
    Rebuilt,
}

/// `waive …`
#[derive(Debug, Args)]
pub struct Waive {
    /// Member
    member: String,
    /// Name of the doubt, as the drain shows it
    doubt: String,
    /// Why it may be passed over
    #[arg(long, value_parser = reason)]
    reason: String,
    /// Your name [default: that of the user]
    #[arg(long)]
    by: Option<String>,
}

pub(super) async fn run(desk: &Desk, drain: Drain, out: &mut Out) -> anyhow::Result<Exit> {
    if drain.end {
        anyhow::ensure!(!drain.targets.is_empty(), "name the member or gate whose drain is to end");
        let mut reports = Vec::new();
        for target in drain.targets {
            let end = DrainEnd { target, holder: holder() };
            reports.push(desk.client.post(path::DRAIN_END, &end, DEADLINE).await?);
        }
        show(desk, &reports, out)?;
        return Ok(Exit::Yes);
    }
    anyhow::ensure!(
        !drain.wait || !drain.targets.is_empty(),
        "name the member or gate to wait for"
    );
    if drain.status || drain.targets.is_empty() {
        let reports = asked(desk, &drain.targets).await?;
        show(desk, &reports, out)?;
        return Ok(exit(&reports));
    }
    let whole =
        |length: Duration| u32::try_from(length.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
    let request = DrainRequest {
        targets: drain.targets.clone(),
        quiet_s: drain.quiet_period.map(whole),
        timeout_s: drain.timeout.map(whole),
        holder: holder(),
        reason: drain.reason,
    };
    let mut reports: Vec<DrainReport> = desk.client.post(path::DRAINS, &request, DEADLINE).await?;
    if drain.wait {
        reports = wait(desk, &drain.targets, drain.timeout, out).await?;
    }
    show(desk, &reports, out)?;
    Ok(exit(&reports))
}

async fn asked(desk: &Desk, targets: &[String]) -> anyhow::Result<Vec<DrainReport>> {
    let all: Vec<DrainReport> = desk.client.get(path::DRAINS, DEADLINE).await?;
    let wanted = |report: &DrainReport| {
        targets.is_empty()
            || targets.iter().any(|target| match &report.only_gate {
                Some(gate) => gate == target,
                None => report.member == *target,
            })
    };
    let found: Vec<DrainReport> = all.into_iter().filter(wanted).collect();
    anyhow::ensure!(
        !found.is_empty() || targets.is_empty(),
        "no drain of {} is known",
        targets.join(", ")
    );
    Ok(found)
}

/// Until every drain is over, with a bar on a terminal.
async fn wait(
    desk: &Desk,
    targets: &[String],
    timeout: Option<Duration>,
    out: &mut Out,
) -> anyhow::Result<Vec<DrainReport>> {
    let bar = ProgressBar::new(0);
    if out.format() == Format::Json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} settled  {wide_msg}") {
        bar.set_style(style);
    }
    let began = Instant::now();
    let mut told: Vec<String> = Vec::new();
    loop {
        let reports = tokio::select! {
            reports = asked(desk, targets) => reports?,
            _ = tokio::signal::ctrl_c() => {
                bar.finish_and_clear();
                out.warn("not waited for any more; the drain goes on, and its orders stand")?;
                return asked(desk, targets).await;
            }
        };
        let at_mark: u64 = reports.iter().filter_map(|report| report.items_at_mark).sum();
        let inside: u64 = reports.iter().map(|report| report.items_total).sum();
        let settled = at_mark.saturating_sub(inside);
        bar.set_length(at_mark.max(inside));
        bar.set_position(settled);
        bar.set_message(stand(&reports, settled, inside, began.elapsed()));
        // What keeps it from the verdict is said when it changes, also where there is no terminal.
        let now: Vec<String> = reports.iter().flat_map(|report| waits_for(desk, report)).collect();
        if out.format() != Format::Json && now != told {
            for line in now.iter().filter(|line| !told.contains(line)) {
                if bar.is_hidden() { out.warn(line)? } else { bar.println(line) }
            }
            told = now;
        }
        let over = reports.iter().all(|report| report.phase.is_over());
        let late = timeout.is_some_and(|timeout| began.elapsed() > timeout + GRACE);
        if over || late {
            bar.finish_and_clear();
            return Ok(reports);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a drain waits for that does not come by itself.
fn waits_for(desk: &Desk, report: &DrainReport) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", report.member, phase(report.phase))];
    if report.phase == Phase::Watching {
        let doubts = report.doubts.iter().filter(|doubt| !doubt.passes);
        lines.extend(doubts.map(|doubt| format!("  doubt {}: {}", doubt.name, clean(&doubt.text))));
        lines.extend(next(desk, report));
    }
    lines
}

/// Phase, oldest item, and how long it may take at this rate.
fn stand(reports: &[DrainReport], settled: u64, inside: u64, elapsed: Duration) -> String {
    let mut parts: Vec<String> = reports
        .iter()
        .map(|report| format!("{}: {}", report.member, phase(report.phase)))
        .collect();
    let oldest = reports.iter().flat_map(|report| &report.items).map(|item| item.offered).min();
    if let Some(oldest) = oldest {
        parts.push(format!("oldest {}", age(oldest)));
    }
    if settled > 0 && inside > 0 {
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let left = elapsed.as_secs_f64() / settled as f64 * inside as f64;
        parts.push(format!("about {} more", seconds(left)));
    }
    let waits = reports.iter().flat_map(|report| &report.doubts).find(|doubt| doubt.passes);
    parts.extend(waits.map(|doubt| doubt.text.clone()));
    parts.join("  ")
}

#[allow(clippy::cast_precision_loss, reason = "seconds for people")]
fn age(since: Moment) -> String {
    seconds(Moment::now().since(since) as f64 / 1000.0)
}

/// Drained, mail is inside, or nobody can know; the worst of several.
fn exit(reports: &[DrainReport]) -> Exit {
    let said = |wanted: Said| reports.iter().any(|report| report.said == Some(wanted));
    let left = |report: &DrainReport| report.phase.is_over() && !report.items.is_empty();
    if said(Said::Pending) || reports.iter().any(left) {
        Exit::No
    } else if !reports.is_empty() && reports.iter().all(|one| one.said == Some(Said::Drained)) {
        Exit::Yes
    } else {
        Exit::Inconclusive
    }
}

const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Fencing => "fencing",
        Phase::Watching => "watching",
        Phase::Drained => "drained",
        Phase::GivenUp => "given up",
        Phase::Revoked => "REVOKED",
        Phase::Ended => "ended",
    }
}

fn show(desk: &Desk, reports: &[DrainReport], out: &mut Out) -> anyhow::Result<()> {
    if reports.is_empty() && out.format() != Format::Json {
        out.say("no drain is known; begin one with `lockgate drain MEMBER`")?;
    }
    for report in reports {
        out.document(report, |report| text(desk, report))?;
    }
    Ok(())
}

fn text(desk: &Desk, report: &DrainReport) -> String {
    let what = match &report.only_gate {
        Some(gate) => format!("{} (gate {gate} only, no certificate)", report.member),
        None => report.member.clone(),
    };
    let said = match report.said {
        Some(Said::Drained) => "nothing is inside, proven",
        Some(Said::Pending) => "mail is inside",
        Some(Said::Inconclusive) => "inconclusive: nobody can know",
        None => "not judged yet",
    };
    let mut lines = vec![format!("{what}: {}; {said}", phase(report.phase))];
    if let Some(number) = &report.certificate {
        lines.push(format!("  certificate {number}"));
    }
    if let Some(why) = &report.revoked {
        lines.push(format!("  REVOKED: {}", clean(why)));
    }
    for (gate, sums) in &report.sums {
        let columns: Vec<String> = Column::ALL
            .iter()
            .filter_map(|column| {
                let count = sums.settled.get(column).filter(|count| **count > 0)?;
                Some(format!("{count} {}", column.as_str()))
            })
            .chain([format!("{} inside", sums.inside)])
            .collect();
        lines.push(format!("  {gate}: {} handed over = {}", sums.handed, columns.join(" + ")));
    }
    if !report.items.is_empty() {
        let mut table =
            Table::new(&["ID", "GATE", "ITS QUEUE ID", "FROM", "TO", ">AGE", "STATE", "LAST SEEN"]);
        for item in &report.items {
            table.row([
                item.id.as_str(),
                &item.gate,
                &clean(item.server_id.as_deref().unwrap_or("-")),
                &clean(&item.from),
                &clean(&item.to),
                &age(item.offered),
                &item.state,
                &clean(item.last.as_deref().unwrap_or("nothing")),
            ]);
        }
        let more = report.items_total.saturating_sub(report.items.len() as u64);
        lines.push(table.to_text(false));
        if more > 0 {
            lines.push(format!("  and {}", counted(more, "more item", "more items")));
        }
    }
    for stranger in &report.strangers {
        let client = stranger.client.map_or_else(|| "itself".into(), |client| client.to_string());
        let what = match stranger.kind {
            Kind::Own => "made by the server itself",
            Kind::Past => "came past lockgate",
            Kind::Copy => "a copy or part of mail that is settled",
        };
        lines.push(clean(&format!(
            "  inside, {what}: {} from {client}, Message-ID {}: {}",
            stranger.id,
            stranger.message_id.as_deref().unwrap_or("none"),
            stranger.last
        )));
    }
    for doubt in &report.doubts {
        let kind = if doubt.passes { "waits" } else { "doubt" };
        lines.push(format!("  {kind} {}: {}", doubt.name, clean(&doubt.text)));
    }
    lines.extend(next(desk, report));
    lines.join("\n")
}

/// What to type next, as the caller types.
fn next<'a>(desk: &'a Desk, report: &'a DrainReport) -> impl Iterator<Item = String> + 'a {
    report.next_steps.iter().map(|step| {
        let typed = step.strip_prefix("lockgate ").map(|verb| desk.command(verb));
        format!("  next: {}", typed.as_ref().unwrap_or(step))
    })
}

pub(super) async fn attest(desk: &Desk, attest: Attest, out: &mut Out) -> anyhow::Result<Exit> {
    let what = match attest.what {
        What::EmptyStart => Attested::EmptyStart,
        What::QueueEmpty => Attested::QueueEmpty,
        What::Deleted => Attested::Deleted,
        What::Rebuilt => Attested::Rebuilt,
    };
    let by = attest.by.clone().unwrap_or_else(|| holder().name);
    let Attest { member, reason, ids, .. } = attest;
    let word = Attestation { member, what, by, reason, ids };
    let (): () = desk.client.post(path::ATTEST, &word, DEADLINE).await?;
    out.document(&word, |word| format!("{} answers for {}", word.by, word.member))?;
    Ok(Exit::Yes)
}

pub(super) async fn waive(desk: &Desk, waive: Waive, out: &mut Out) -> anyhow::Result<Exit> {
    let by = waive.by.unwrap_or_else(|| holder().name);
    let waiver = Waiver { member: waive.member, doubt: waive.doubt, by, reason: waive.reason };
    let (): () = desk.client.post(path::WAIVE, &waiver, DEADLINE).await?;
    out.document(&waiver, |waiver| format!("{} answers for {}", waiver.by, waiver.doubt))?;
    Ok(Exit::Yes)
}
