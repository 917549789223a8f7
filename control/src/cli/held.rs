//! `held …`: look at held mail, or decide about it.
//!
//! Invariants
//! - Mail data leaves only by `held show --raw`.
//! - Nothing is changed by a filter alone: many at once need `--all`.
//!
//! Not here: reading a spool that no daemon serves (`offline`).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::StatusCode;
use clap::{ArgGroup, Args, Subcommand};
use proxy::api::{self, Change, HeldChange, HeldChanged, HeldFilter, HeldState, Skipped, path};

use super::{Desk, Exit, duration, holder, reason};
use crate::client::{CHANGE_DEADLINE, ClientError, DEADLINE, fill, with_query};
use crate::render::{Format, Out, Table, clean, count, counted, messages, octets, seconds, word};

/// Lines of text when no limit is given; JSON has none.
const TEXT_LIMIT: u64 = 100;
/// Ids in one request; each change is synced before it is answered.
const IDS_AT_ONCE: usize = 5_000;

/// `held …`
#[derive(Debug, Args)]
pub struct Held {
    /// As that of `list` and `show`, before the verb; shown there, where it means something.
    #[arg(long, value_name = "DIR", hide = true)]
    offline: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

impl Held {
    /// The spool to read without a running lockgate, wherever on the line it is named.
    #[must_use]
    pub fn offline(&self) -> Option<&Path> {
        let own = match &self.verb {
            Verb::List(List { offline, .. }) | Verb::Show { offline, .. } => offline.as_deref(),
            _ => None,
        };
        own.or(self.offline.as_deref())
    }
}

/// What to do with held mail.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List held messages, in order of arrival
    List(List),
    /// Show one message
    Show {
        /// Spool id
        id: String,
        /// Write the mail data itself, and nothing else
        #[arg(long)]
        raw: bool,
        /// Read the spool in DIR, which no lockgate serves
        #[arg(long, value_name = "DIR")]
        offline: Option<PathBuf>,
    },
    /// Find messages by a part of an address, a Message-ID, or by id (2: none)
    Find {
        /// What to look for
        text: String,
    },
    /// Give up custody without delivery; recorded with the reason (--all needs a filter)
    Remove {
        /// Which
        #[command(flatten)]
        which: Which,
        /// Why, for the record
        #[arg(long, value_parser = reason)]
        reason: String,
    },
    /// Try again now; an uncertain message may arrive twice
    Retry {
        /// Which
        #[command(flatten)]
        which: Which,
    },
    /// Report refused forward-paths to the sender (DSN) and give them up (--all needs a filter)
    Fail {
        /// Which
        #[command(flatten)]
        which: Which,
    },
    /// An uncertain message did arrive: nothing more is sent
    Delivered {
        /// Which
        #[command(flatten)]
        which: Which,
    },
    /// The damage that `status` shows has been seen
    Acknowledge,
}

/// Which messages a list shows.
#[derive(Debug, Default, Args)]
pub struct List {
    /// Every member narrows
    #[command(flatten)]
    pub filter: Filter,
    /// At most this many; 0: all [default: 100 in text, all in json]
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Read the spool in DIR, which no lockgate serves
    #[arg(long, value_name = "DIR")]
    pub offline: Option<PathBuf>,
}

/// Every member narrows.
#[derive(Debug, Default, Args)]
pub struct Filter {
    /// Gate
    #[arg(long)]
    gate: Option<String>,
    /// Part of the reverse-path
    #[arg(long)]
    sender: Option<String>,
    /// Part of a forward-path
    #[arg(long)]
    recipient: Option<String>,
    /// Part of the Message-ID
    #[arg(long)]
    message_id: Option<String>,
    /// Held for longer, such as 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// held, deferred, uncertain, refused, blocked or damaged
    #[arg(long, value_parser = state)]
    state: Option<HeldState>,
}

/// These ids, or all that match.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").args(["ids", "all"]).required(true)))]
pub struct Which {
    /// Spool ids; `-` reads them from standard input, one a line
    #[arg(value_name = "ID", conflicts_with_all = FILTERS)]
    ids: Vec<String>,
    /// All messages that match the filters; to remove or fail mail needs a filter
    #[arg(long)]
    all: bool,
    /// Every member narrows
    #[command(flatten)]
    filter: Filter,
}

const FILTERS: [&str; 6] = ["gate", "sender", "recipient", "message_id", "older_than", "state"];

impl From<Filter> for HeldFilter {
    fn from(filter: Filter) -> Self {
        Self {
            gate: filter.gate,
            sender: filter.sender,
            recipient: filter.recipient,
            message_id: filter.message_id,
            older_than_s: filter.older_than.map(|age| age.as_secs()),
            state: filter.state,
            limit: None,
        }
    }
}

fn state(text: &str) -> Result<HeldState, String> {
    match serde_json::from_value(text.into()) {
        Ok(HeldState::Done) | Err(_) => {
            Err("one of held, deferred, uncertain, refused, blocked, damaged".to_owned())
        }
        Ok(state) => Ok(state),
    }
}

pub(super) async fn run(desk: &Desk, held: Held, out: &mut Out) -> anyhow::Result<Exit> {
    match held.verb {
        Verb::List(List { filter, limit, .. }) => list(desk, filter.into(), limit, out).await,
        Verb::Show { id, raw: true, .. } => raw(desk, &id, out).await,
        Verb::Show { id, raw: false, .. } => show(desk, &id, out).await,
        Verb::Find { text } => find(desk, &text, out).await,
        Verb::Remove { which, reason } => change(desk, which, Change::Remove, reason, out).await,
        Verb::Retry { which } => change(desk, which, Change::Retry, String::new(), out).await,
        Verb::Fail { which } => change(desk, which, Change::Fail, String::new(), out).await,
        Verb::Delivered { which } => {
            change(desk, which, Change::Delivered, String::new(), out).await
        }
        Verb::Acknowledge => {
            desk.client.post_empty(path::DAMAGE_ACKNOWLEDGE).await?;
            out.say("the damage is acknowledged; what was set aside stays where it is")?;
            Ok(Exit::Yes)
        }
    }
}

async fn list(
    desk: &Desk,
    mut filter: HeldFilter,
    limit: Option<u64>,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let limit = effective_limit(limit, out.format());
    // One more than shown tells whether there are more.
    filter.limit = limit.map(|limit| limit.saturating_add(1));
    let mut pieces = desk.client.stream(&with_query(path::HELD, &filter)?).await?;
    let mut rows: Vec<api::Held> = Vec::new();
    let mut shown = 0;
    while let Some(held) = pieces.next_line::<api::Held>().await? {
        if limit == Some(shown) {
            out.list(&rows, table)?;
            out.warn(&format!("only the first {}; all: --limit 0", count(shown)))?;
            return Ok(Exit::Yes);
        }
        shown += 1;
        match out.format() {
            // As it comes: a list may be longer than memory should be.
            Format::Json => out.json_line(&held)?,
            Format::Text => rows.push(held),
        }
    }
    if out.format() == Format::Text {
        out.list(&rows, table)?;
    }
    Ok(Exit::Yes)
}

/// The limit that is meant: none is 100 lines for people and everything for programs.
pub(super) fn effective_limit(limit: Option<u64>, format: Format) -> Option<u64> {
    match (limit, format) {
        (Some(0), _) | (None, Format::Json) => None,
        (Some(limit), _) => Some(limit),
        (None, Format::Text) => Some(TEXT_LIMIT),
    }
}

/// Held messages as rows.
pub(super) fn table(held: &[api::Held]) -> Table {
    let now = jiff::Timestamp::now();
    let mut table = Table::new(&["ID", "STATE", "GATE", ">AGE", ">SIZE", "FROM", "TO", "REPLY"]);
    for held in held {
        let open = held.forward_paths.iter().filter(|path| path.state != HeldState::Done);
        let reply = open.clone().find_map(|path| path.reply.clone()).unwrap_or_default();
        let shown = open.clone().next().or(held.forward_paths.first());
        let more = held.forward_paths.len().saturating_sub(1);
        let to = shown.map(|path| forward_path(held, path)).unwrap_or_default();
        table.row([
            held.id.clone(),
            word(&held.state),
            held.gate.clone(),
            age(&held.held_at, now),
            octets(held.size),
            reverse_path(held).to_owned(),
            if more > 0 { format!("{to} +{more}") } else { to.to_owned() },
            reply,
        ]);
    }
    table
}

/// What stands for an address that was not read; nothing when the envelope was. A message that was
/// read names its client always.
fn unread(held: &api::Held) -> Option<&'static str> {
    match held.state {
        _ if !held.client.is_empty() => None,
        HeldState::Damaged => Some("unreadable"),
        _ => Some("sealed"),
    }
}

fn reverse_path(held: &api::Held) -> &str {
    match unread(held) {
        Some(word) if held.reverse_path.is_empty() => word,
        None if held.reverse_path.is_empty() => "<>",
        _ => &held.reverse_path,
    }
}

fn forward_path<'a>(held: &api::Held, path: &'a api::HeldPath) -> &'a str {
    match unread(held) {
        Some(word) if path.address.is_empty() => word,
        _ => &path.address,
    }
}

fn age(held_at: &str, now: jiff::Timestamp) -> String {
    match held_at.parse::<jiff::Timestamp>() {
        Ok(then) => seconds((now - then).total(jiff::Unit::Second).unwrap_or(0.0).max(0.0)),
        Err(_) => "?".to_owned(),
    }
}

async fn show(desk: &Desk, id: &str, out: &mut Out) -> anyhow::Result<Exit> {
    let target = fill(path::HELD_ONE, "id", id);
    let held: api::Held = desk.client.get(&target, DEADLINE).await.map_err(perhaps_delivered)?;
    out.document(&held, detail)?;
    Ok(Exit::Yes)
}

/// What to do about an id that is not held (any more).
pub(super) const NOT_HELD: &str = "look for the id in the log: it may have been delivered";

fn perhaps_delivered(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Refused { status, error } if status == StatusCode::NOT_FOUND => {
            anyhow::anyhow!("{error}; {NOT_HELD}")
        }
        error => error.into(),
    }
}

/// Everything known of a message but its mail data.
pub(super) fn detail(held: &api::Held) -> String {
    let unread = unread(held);
    let client = unread.unwrap_or(&held.client);
    let mut lines = vec![
        format!("{}  {} at {}", held.id, word(&held.state), held.gate),
        format!("  held at       {} (client {client})", held.held_at),
        format!("  size          {} ({} octets)", octets(held.size), held.size),
        format!("  Message-ID    {}", held.message_id.as_deref().or(unread).unwrap_or("none")),
        format!("  reverse-path  {}", reverse_path(held)),
    ];
    if held.dsn {
        lines.push("  a report of lockgate's own (DSN)".to_owned());
    }
    for path in &held.forward_paths {
        lines.push(format!("  forward-path  {}", forward_path(held, path)));
        let due = path.due_at.as_deref().map(|due| format!(", next {due}")).unwrap_or_default();
        let tries = counted(path.attempts.into(), "try", "tries");
        lines.push(format!("    {}, {tries}{due}", word(&path.state)));
        if let Some(reply) = &path.reply {
            lines.push(format!("    {reply}"));
        }
    }
    lines.iter().map(|line| clean(line)).collect::<Vec<_>>().join("\n")
}

async fn raw(desk: &Desk, id: &str, out: &mut Out) -> anyhow::Result<Exit> {
    if out.format() == Format::Json {
        bail!("--raw writes mail data, not JSON: leave out -o json");
    }
    let raw = desk.client.stream(&fill(path::HELD_RAW, "id", id)).await;
    let mut pieces = raw.map_err(perhaps_delivered)?;
    while let Some(piece) = pieces.next_piece().await? {
        out.raw(&piece)?;
    }
    Ok(Exit::Yes)
}

async fn find(desk: &Desk, text: &str, out: &mut Out) -> anyhow::Result<Exit> {
    // Ids sort by arrival, so the map is in order of arrival.
    let mut found: BTreeMap<String, api::Held> = BTreeMap::new();
    let part = Some(text.to_owned());
    let none = HeldFilter::default;
    for filter in [
        HeldFilter { sender: part.clone(), ..none() },
        HeldFilter { recipient: part.clone(), ..none() },
        HeldFilter { message_id: part, ..none() },
    ] {
        let mut pieces = desk.client.stream(&with_query(path::HELD, &filter)?).await?;
        while let Some(held) = pieces.next_line::<api::Held>().await? {
            found.insert(held.id.clone(), held);
        }
    }
    if text.len() == 13 && text.bytes().all(|octet| octet.is_ascii_alphanumeric()) {
        let target = fill(path::HELD_ONE, "id", text);
        match desk.client.get::<api::Held>(&target, DEADLINE).await {
            Ok(held) => drop(found.insert(held.id.clone(), held)),
            // No message of this name.
            Err(ClientError::Refused { status, .. }) if status.is_client_error() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let found: Vec<api::Held> = found.into_values().collect();
    out.list(&found, table)?;
    Ok(Exit::yes_if(!found.is_empty()))
}

async fn change(
    desk: &Desk,
    which: Which,
    change: Change,
    reason: String,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let request =
        |ids, filter| HeldChange { ids, filter, change, holder: holder(), reason: reason.clone() };
    let mut requests = Vec::new();
    if which.all {
        requests.push(request(Vec::new(), Some(which.filter.into())));
    } else {
        for ids in read_ids(which.ids)?.chunks(IDS_AT_ONCE) {
            requests.push(request(ids.to_vec(), None));
        }
    }
    let mut total = HeldChanged { changed: 0, skipped: Vec::new() };
    for request in requests {
        let done: Result<HeldChanged, ClientError> =
            desk.client.post(path::HELD_CHANGE, &request, CHANGE_DEADLINE).await;
        let done = match done {
            Ok(done) => done,
            Err(error) if total.changed == 0 => return Err(error.into()),
            Err(error) => {
                return Err(error).context(format!("{} changed before", messages(total.changed)));
            }
        };
        total.changed += done.changed;
        total.skipped.extend(done.skipped);
    }
    out.document(&total, |total| outcome(change, total))?;
    Ok(Exit::yes_if(total.changed > 0 && total.skipped.is_empty()))
}

fn outcome(change: Change, total: &HeldChanged) -> String {
    let what = match change {
        Change::Remove => "removed",
        Change::Retry => "due now",
        Change::Fail => "reported to the sender",
        Change::Delivered => "marked as delivered",
        Change::Absent => "sent again",
    };
    let mut text = format!("{} {what}", messages(total.changed));
    for Skipped { id, why } in &total.skipped {
        text.push_str(&format!("\nleft as it was: {}: {}", clean(id), clean(why)));
    }
    if total.changed == 0 && total.skipped.is_empty() {
        text.push_str("; nothing matched");
    }
    text
}

fn read_ids(ids: Vec<String>) -> anyhow::Result<Vec<String>> {
    if ids != ["-"] {
        return Ok(ids);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read ids from standard input")?;
    Ok(ids_of(&text))
}

/// One id a line: alone, as the first word, or as `id` of a JSON line (`held list -o json`).
fn ids_of(text: &str) -> Vec<String> {
    let id = |line: &str| {
        if !line.starts_with('{') {
            return line.split_whitespace().next().map(str::to_owned);
        }
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        value.get("id")?.as_str().map(str::to_owned)
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty()).filter_map(id).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn held() -> api::Held {
        let forward = |address: &str, state, reply: Option<&str>| api::HeldPath {
            address: address.into(),
            state,
            attempts: 1,
            due_at: None,
            reply: reply.map(Into::into),
        };
        api::Held {
            id: "0123456789ABC".into(),
            gate: "outbound".into(),
            state: HeldState::Refused,
            message_id: Some("<a@example.org>".into()),
            reverse_path: String::new(),
            forward_paths: vec![
                forward("b@example.net", HeldState::Done, Some("250 2.0.0 ok")),
                forward("c@example.net", HeldState::Refused, Some("550 no\u{1b}[31m")),
            ],
            size: 2048,
            held_at: "2026-01-02T03:04:05Z".into(),
            client: "127.0.0.1:4000".into(),
            dsn: false,
        }
    }

    #[test]
    fn a_row_shows_the_path_that_is_not_done_and_the_null_reverse_path() {
        let text = table(&[held()]).to_text(false);
        let row = text.lines().nth(1).unwrap();
        for part in ["0123456789ABC", "refused", "2.0 KiB", "<>", "c@example.net +1", "550 no?"] {
            assert!(row.contains(part), "{part} is missing in {row}");
        }
    }

    #[test]
    fn the_detail_names_every_path_and_never_drives_the_terminal() {
        let text = detail(&held());
        for part in ["b@example.net", "c@example.net", "<a@example.org>", "2048 octets"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn one_try_is_not_many() {
        let mut held = held();
        held.forward_paths[0].attempts = 3;
        let text = detail(&held);
        assert!(text.contains("done, 3 tries") && text.contains("refused, 1 try\n"), "{text}");
    }

    #[test]
    fn what_was_not_read_is_not_shown_as_the_null_reverse_path() {
        let mut held = held();
        held.client.clear();
        held.message_id = None;
        held.forward_paths.iter_mut().for_each(|path| path.address.clear());
        for (state, word) in [(HeldState::Held, "sealed"), (HeldState::Damaged, "unreadable")] {
            held.state = state;
            for text in [table(&[held.clone()]).to_text(false), detail(&held)] {
                assert!(text.contains(word) && !text.contains("<>"), "{text}");
            }
        }
    }

    #[test]
    fn an_id_that_is_not_held_leads_to_the_log_and_other_errors_do_not() {
        let refused = |status| {
            let error = "message A is not held".to_owned();
            perhaps_delivered(ClientError::Refused { status, error }).to_string()
        };
        let expected =
            "message A is not held; look for the id in the log: it may have been delivered";
        assert_eq!(refused(StatusCode::NOT_FOUND), expected);
        assert_eq!(refused(StatusCode::BAD_REQUEST), "message A is not held");
    }

    #[test]
    fn ids_are_read_from_plain_lines_tables_and_json() {
        let text = "A\n  B  held  outbound\n\n{\"id\":\"C\",\"gate\":\"x\"}\n";
        assert_eq!(ids_of(text), ["A", "B", "C"]);
    }

    #[test]
    fn limits_are_for_people_unless_asked_for() {
        assert_eq!(effective_limit(None, Format::Text), Some(TEXT_LIMIT));
        assert_eq!(effective_limit(None, Format::Json), None);
        assert_eq!(effective_limit(Some(0), Format::Text), None);
        assert_eq!(effective_limit(Some(7), Format::Json), Some(7));
    }

    #[test]
    fn states_are_the_words_of_the_wire() {
        assert_eq!(state("refused"), Ok(HeldState::Refused));
        assert!(state("done").is_err());
        assert!(state("gone").is_err());
    }

    #[test]
    fn a_change_says_what_was_left_and_why() {
        let skipped = vec![Skipped { id: "A".into(), why: "on its way".into() }];
        let text = outcome(Change::Remove, &HeldChanged { changed: 2, skipped });
        assert_eq!(text, "2 messages removed\nleft as it was: A: on its way");
        let none = HeldChanged { changed: 0, skipped: Vec::new() };
        assert!(outcome(Change::Retry, &none).ends_with("nothing matched"));
    }
}
