//! `journal search|follow|show`: what was handed over to whom, and what came of it.
//!
//! Not here: reading the journal itself (`proxy`).

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proxy::api::{JournalFilter, JournalLine, JournalProbe, JournalWhat, path};

use super::{Desk, Exit, duration};
use crate::client::with_query;
use crate::render::{Format, Out, clean};

/// Lines of text when no limit is given; JSON has none.
const TEXT_LIMIT: u64 = 100;
/// How often `follow` asks.
const EVERY: Duration = Duration::from_secs(1);

/// `journal …`
#[derive(Debug, Subcommand)]
pub enum Journal {
    /// Find transactions and attempts, oldest first (2: none)
    Search(Search),
    /// Show new ones as they end, until interrupted
    Follow(Narrow),
    /// Show one, with everything that is known of it (2: none)
    Show {
        /// Its id: that of the 250, the trace field and the log
        id: String,
    },
}

/// Which ones.
#[derive(Debug, Args)]
pub struct Search {
    /// Every member narrows
    #[command(flatten)]
    narrow: Narrow,
    /// Ended since: a moment (2026-11-24T10:00:00Z), or so long ago (2h)
    #[arg(long, value_parser = moment)]
    since: Option<Timestamp>,
    /// Ended before: likewise
    #[arg(long, value_parser = moment)]
    until: Option<Timestamp>,
    /// At most this many; 0: all [default: 100 in text, all in json]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Every member narrows.
#[derive(Debug, Default, Args)]
pub struct Narrow {
    /// Part of the Message-ID
    #[arg(long)]
    message_id: Option<String>,
    /// Part of the reverse-path or of a forward-path
    #[arg(long)]
    address: Option<String>,
    /// Part of the server's reply, such as its queue id
    #[arg(long, value_name = "TEXT")]
    queue_id: Option<String>,
    /// Gate
    #[arg(long)]
    gate: Option<String>,
    /// Member
    #[arg(long)]
    member: Option<String>,
    /// relayed, held, deferred, refused, uncertain, blocked, abandoned or known
    #[arg(long, value_parser = ["relayed", "held", "deferred", "refused", "uncertain", "blocked", "abandoned", "known"])]
    outcome: Option<String>,
}

impl Narrow {
    fn filter(self) -> JournalFilter {
        JournalFilter {
            message_id: self.message_id,
            address: self.address,
            reply: self.queue_id,
            gate: self.gate,
            member: self.member,
            outcome: self.outcome,
            ..JournalFilter::default()
        }
    }
}

/// A moment, or a length of time before now.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    // Without a zone: UTC, as in the log.
    if let Ok(moment) = text.parse::<DateTime>() {
        return TimeZone::UTC.to_timestamp(moment).map_err(|error| error.to_string());
    }
    let ago = duration(text).map_err(|_| {
        "a moment such as 2026-11-24T10:00:00Z or \"2026-11-24 10:00\" (UTC), or a length of time such as 2h".to_owned()
    })?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

pub(super) async fn run(desk: &Desk, journal: Journal, out: &mut Out) -> anyhow::Result<Exit> {
    match journal {
        Journal::Search(search) => {
            let usual = (out.format() == Format::Text).then_some(TEXT_LIMIT);
            let limit = search.limit.or(usual).filter(|limit| *limit > 0);
            let unix_ms = |moment: Timestamp| u64::try_from(moment.as_millisecond()).unwrap_or(0);
            let filter = JournalFilter {
                since_unix_ms: search.since.map(unix_ms),
                until_unix_ms: search.until.map(unix_ms),
                limit,
                ..search.narrow.filter()
            };
            let (found, _) = list(desk, &filter, None, out, line_text).await?;
            if found == 0 {
                out.warn("nothing found")?;
            }
            if limit == Some(found) && search.limit.is_none() {
                out.warn(&format!("the first {found}; --limit 0 shows all"))?;
            }
            Ok(Exit::yes_if(found > 0))
        }
        Journal::Show { id } => {
            let filter = JournalFilter { id: Some(id), ..JournalFilter::default() };
            let (found, _) = list(desk, &filter, None, out, whole_text).await?;
            Ok(Exit::yes_if(found > 0))
        }
        Journal::Follow(narrow) => follow(desk, narrow.filter(), out).await,
    }
}

/// From now on. Never ends by itself.
async fn follow(desk: &Desk, filter: JournalFilter, out: &mut Out) -> anyhow::Result<Exit> {
    // Where the journal ends now: with a filter that nothing matches.
    let nobody = JournalFilter { limit: Some(1), since_unix_ms: Some(u64::MAX), ..filter.clone() };
    let mut silent = Out::to(Format::Text, std::io::sink(), std::io::sink());
    let (_, mut next) = list(desk, &nobody, None, &mut silent, line_text).await?;
    let mut seen = next.clone();
    loop {
        let filter = JournalFilter { after: Some(next.clone()), ..filter.clone() };
        let (_, after) = list(desk, &filter, Some(&mut seen), out, line_text).await?;
        next = after;
        out.flush()?;
        tokio::time::sleep(EVERY).await;
    }
}

/// A cursor as two numbers, so that cursors can be compared.
fn place(cursor: &str) -> (u64, u64) {
    let (file, offset) = cursor.split_once('.').unwrap_or((cursor, ""));
    (file.parse().unwrap_or(0), offset.parse().unwrap_or(0))
}

/// Shows what is found; how many, and where to read on. With `seen` only what lies behind that place and
/// has ended.
async fn list(
    desk: &Desk,
    filter: &JournalFilter,
    mut seen: Option<&mut String>,
    out: &mut Out,
    text: fn(&JournalLine) -> String,
) -> anyhow::Result<(u64, String)> {
    let mut pieces = desk.client.stream(&with_query(path::JOURNAL, filter)?).await?;
    let mut found = 0;
    let mut next = String::from("0.0");
    while let Some(line) = pieces.next_line::<JournalLine>().await? {
        if line.what == JournalWhat::End {
            next = line.cursor;
            continue;
        }
        if let Some(seen) = seen.as_deref_mut() {
            if line.what == JournalWhat::Open || place(&line.cursor) <= place(seen) {
                continue;
            }
            seen.clone_from(&line.cursor);
        }
        found += u64::from(matches!(line.what, JournalWhat::Ended | JournalWhat::Open));
        if out.format() == Format::Json {
            out.json_line(&line)?;
        } else {
            out.say(&text(&line))?;
        }
    }
    Ok((found, next))
}

/// One line.
fn line_text(line: &JournalLine) -> String {
    let at = line.at.as_deref().unwrap_or("-");
    let why = clean(line.why.as_deref().unwrap_or_default());
    match line.what {
        JournalWhat::Gap => {
            return format!("{at}  gap until {}: {why}", line.until.as_deref().unwrap_or("-"));
        }
        JournalWhat::Unreadable => return format!("-  {why}"),
        JournalWhat::Ended | JournalWhat::Open | JournalWhat::End => {}
    }
    let word = |word: &Option<String>| clean(word.as_deref().unwrap_or("-"));
    let outcome = match line.what {
        JournalWhat::Open => "open".to_owned(),
        _ => word(&line.outcome),
    };
    let others = match line.others.len() {
        0 => String::new(),
        count => format!(" ({count} otherwise)"),
    };
    format!(
        "{at}  {}  {} {}{}  {outcome}{others}  {} -> {}  {}",
        word(&line.id),
        word(&line.doing),
        word(&line.gate),
        line.member.as_deref().map(|member| format!("/{}", clean(member))).unwrap_or_default(),
        word(&line.from),
        clean(&line.to.join(",")),
        clean(line.reply.as_deref().unwrap_or_default()),
    )
}

/// Everything that is known.
fn whole_text(line: &JournalLine) -> String {
    if matches!(line.what, JournalWhat::Gap | JournalWhat::Unreadable | JournalWhat::End) {
        return line_text(line);
    }
    let mut text = line_text(line);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("\n  {name:<14} {}", clean(&value)));
        }
    };
    add("began", line.began.clone());
    add("client", line.client.clone());
    add("message id", line.message_id.clone());
    add("media type", line.media_type.clone());
    add("probe", line.probe.as_ref().map(probe_text));
    add("size", line.size.map(|size| size.to_string()));
    let header = line.header_sha256.as_ref();
    add("header", header.map(|digest| format!("{} octets, SHA-256 {digest}", line.header_octets)));
    add("content", line.content_sha256.as_ref().map(|digest| format!("SHA-256 {digest}")));
    add("tls", line.tls.clone());
    let ident = "the server was told this id (XFORWARD IDENT)";
    add("ident", line.told_ident.then(|| ident.to_owned()));
    for other in &line.others {
        add("otherwise", Some(format!("{} {}: {}", other.to, other.outcome, other.reply)));
    }
    text
}

fn probe_text(probe: &JournalProbe) -> String {
    let stranger = if probe.known { "" } else { " (not one that was known then)" };
    format!("came back with token {}{stranger}", probe.token)
}

#[cfg(test)]
mod tests {
    use proxy::api::JournalPath;

    use super::*;

    fn line() -> JournalLine {
        JournalLine {
            what: JournalWhat::Ended,
            id: Some("01ARYZ6S41TSV".into()),
            at: Some("2026-11-24T10:00:00.000Z".into()),
            doing: Some("pass".into()),
            gate: Some("outbound".into()),
            member: Some("sems1".into()),
            from: Some("<a@example.org>".into()),
            to: vec!["<b@example.net>".into(), "<c@example.net>".into()],
            outcome: Some("relayed".into()),
            reply: Some("250 2.0.0 Ok: queued as 4ABC".into()),
            others: vec![JournalPath {
                path: 1,
                to: "<c@example.net>".into(),
                outcome: "refused".into(),
                reply: "550 5.1.1 \u{1b}[31munknown".into(),
            }],
            ..JournalLine::default()
        }
    }

    #[test]
    fn a_line_names_who_what_and_the_reply() {
        assert_eq!(
            line_text(&line()),
            "2026-11-24T10:00:00.000Z  01ARYZ6S41TSV  pass outbound/sems1  relayed (1 otherwise)  \
             <a@example.org> -> <b@example.net>,<c@example.net>  250 2.0.0 Ok: queued as 4ABC"
        );
    }

    #[test]
    fn what_a_server_says_cannot_paint_the_terminal() {
        let text = whole_text(&line());
        assert!(text.contains("otherwise      <c@example.net> refused: 550"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn what_came_back_of_a_probe_is_told_with_its_token() {
        let probe = |known| {
            let probe = JournalProbe { token: "T-1".into(), known, ..JournalProbe::default() };
            whole_text(&JournalLine { probe: Some(probe), ..line() })
        };
        assert!(probe(true).contains("probe          came back with token T-1\n"));
        assert!(probe(false).contains("token T-1 (not one that was known then)"));
        assert!(!whole_text(&line()).contains("token"));
    }

    #[test]
    fn cursors_are_compared_as_numbers() {
        assert!(place("9.100") < place("10.5") && place("10.5") < place("10.40"));
    }
}
