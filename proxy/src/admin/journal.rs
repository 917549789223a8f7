//! The journal: entries that match a filter, oldest first, with what belongs together in one line.
//!
//! Invariants
//! - Lines stream page by page, read only as fast as the reader takes them.
//! - A gap, and what cannot be read, is a line whatever the filter asks for: nobody may take what was found for
//!   everything there was.
//!
//! Not here: how the journal is written and read (`journal`).

use std::borrow::Cow;
use std::collections::HashMap;

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::problem::Failure;
use super::{Asked, Desk, Slot};
use crate::api::{JournalFilter, JournalLine, JournalPath, JournalProbe, JournalWhat};
use crate::clock;
use crate::id::TransactionId;
use crate::journal::{Cursor, Ended, Entry, Facts, Gap, Mark, ReadError, Reader, Returned, Why};

/// Octets of a page, about.
const PAGE_OCTETS: usize = 64 * 1024;

/// Media type of JSON Lines.
const JSON_LINES: &str = "application/jsonl";

pub(super) async fn list(
    State(desk): State<Desk>,
    Extension(slot): Extension<Slot>,
    Asked(filter): Asked<JournalFilter>,
) -> Result<Response, Failure> {
    let start = filter.after.as_deref().map_or(Ok(Cursor::START), cursor)?;
    let journal = desk.parts.journal.clone();
    let wanted = Wanted::new(filter)?;
    let begin = move || {
        // What waits is written first, so that it is found.
        journal.tick(clock::unix_nanos());
        Scan { reader: journal.reader(start), open: HashMap::new(), found: 0, ended: false, wanted }
    };
    let scan = tokio::task::spawn_blocking(begin)
        .await
        .map_err(|error| Failure::bad(format!("reading broke off: {error}")))?;
    let pages = stream::try_unfold((scan, slot), |(mut scan, slot)| async move {
        let (scan, page) = tokio::task::spawn_blocking(move || {
            let page = scan.page();
            (scan, page)
        })
        .await?;
        Ok::<_, BoxError>(page?.map(|page| (Bytes::from(page), (scan, slot))))
    });
    Ok(([(header::CONTENT_TYPE, JSON_LINES)], Body::from_stream(pages)).into_response())
}

fn cursor(text: &str) -> Result<Cursor, Failure> {
    let parsed = text.split_once('.').and_then(|(file, offset)| {
        Some(Cursor { file: file.parse().ok()?, offset: offset.parse().ok()? })
    });
    parsed.ok_or_else(|| Failure::bad("after: a cursor of an earlier line, such as 3.4096"))
}

pub(super) fn text_of(cursor: Cursor) -> String {
    format!("{}.{}", cursor.file, cursor.offset)
}

/// The filter, ready to be asked.
struct Wanted {
    filter: JournalFilter,
    id: Option<u64>,
}

impl Wanted {
    fn new(filter: JournalFilter) -> Result<Self, Failure> {
        let id = match &filter.id {
            None => None,
            Some(text) => {
                let id = text.parse::<TransactionId>();
                Some(id.map_err(|error| Failure::bad(format!("id: {error}")))?.as_u64())
            }
        };
        Ok(Self { filter, id })
    }

    /// Could a line with this id and moment be asked for?
    fn may_want(&self, id: u64) -> bool {
        self.id.is_none_or(|wanted| wanted == id)
    }

    fn wants(&self, line: &JournalLine, at_ms: u64) -> bool {
        let filter = &self.filter;
        let is = |wanted: &Option<String>, value: Option<&str>| match wanted {
            None => true,
            Some(wanted) => value == Some(wanted.as_str()),
        };
        let replies = line.others.iter().map(|other| &other.reply).chain(&line.reply);
        filter.since_unix_ms.is_none_or(|since| at_ms >= since)
            && filter.until_unix_ms.is_none_or(|until| at_ms < until)
            && is(&filter.gate, line.gate.as_deref())
            && is(&filter.member, line.member.as_deref())
            && is(&filter.outcome, line.outcome.as_deref())
            && holds(filter.message_id.as_deref(), line.message_id.iter())
            && holds(filter.address.as_deref(), line.from.iter().chain(&line.to))
            && holds(filter.reply.as_deref(), replies)
            && holds(filter.probe.as_deref(), line.probe.iter().map(|probe| &probe.token))
    }
}

/// Is `wanted` a part of one of them, in any case?
fn holds<'a>(wanted: Option<&str>, mut values: impl Iterator<Item = &'a String>) -> bool {
    wanted.is_none_or(|wanted| {
        let wanted = wanted.to_ascii_lowercase();
        values.any(|value| value.to_ascii_lowercase().contains(&wanted))
    })
}

/// Reads on, and keeps what is offered until its end comes.
struct Scan {
    reader: Reader,
    open: HashMap<u64, (Cursor, u64, JournalLine)>,
    wanted: Wanted,
    found: u64,
    ended: bool,
}

/// What an entry was.
enum Step {
    Line(Box<JournalLine>, u64),
    Always(Box<JournalLine>),
    Nothing,
    End,
}

impl Scan {
    /// The next lines; none at the end.
    fn page(&mut self) -> Result<Option<Vec<u8>>, BoxError> {
        let mut page = Vec::new();
        while !self.ended && page.len() < PAGE_OCTETS {
            match self.step()? {
                Step::Always(line) => write(&mut page, &line)?,
                Step::Line(line, at_ms) if self.wanted.wants(&line, at_ms) => {
                    write(&mut page, &line)?;
                    self.found += 1;
                    if self.wanted.filter.limit.is_some_and(|limit| self.found >= limit) {
                        self.finish(&mut page)?;
                    }
                }
                Step::Nothing | Step::Line(..) => {}
                Step::End => {
                    self.still_open(&mut page)?;
                    self.finish(&mut page)?;
                }
            }
        }
        Ok((!page.is_empty()).then_some(page))
    }

    fn step(&mut self) -> Result<Step, BoxError> {
        let before = self.reader.cursor();
        let entry = match self.reader.read() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(Step::End),
            Err(error @ (ReadError::Damaged { .. } | ReadError::Gone { .. })) => {
                let why = Some(error.to_string());
                let cursor = text_of(self.reader.cursor());
                let line = JournalLine { cursor, why, ..blank(JournalWhat::Unreadable) };
                return Ok(Step::Always(Box::new(line)));
            }
            Err(error) => return Err(error.into()),
        };
        let probe = match &entry {
            Entry::Returned(returned) => Some(of_mark(&returned.mark)),
            _ => None,
        };
        match entry {
            Entry::Gap(gap) => {
                let cursor = text_of(self.reader.cursor());
                Ok(Step::Always(Box::new(JournalLine { cursor, ..of_gap(&gap) })))
            }
            Entry::Offered(offered) => {
                let id = offered.facts.id;
                if self.wanted.may_want(id) {
                    let mut line = blank(JournalWhat::Open);
                    told(&mut line, &offered.facts, self.wanted.filter.entries);
                    line.at = Some(clock::rfc_3339(offered.at_ns / 1_000_000));
                    let at_ms = offered.at_ns / 1_000_000;
                    if self.wanted.filter.entries {
                        line.cursor = text_of(self.reader.cursor());
                        return Ok(Step::Line(Box::new(line), at_ms));
                    }
                    self.open.insert(id, (before, at_ms, line));
                }
                Ok(Step::Nothing)
            }
            Entry::Ended(ended) | Entry::Returned(Returned { ended, .. })
                if self.wanted.may_want(ended.id) =>
            {
                let (_, _, known) = self.open.remove(&ended.id).unwrap_or_else(|| {
                    let id = Some(id_text(ended.id));
                    (before, 0, JournalLine { id, ..blank(JournalWhat::Ended) })
                });
                let mut line = of_end(known, &ended, self.wanted.filter.entries);
                let at_ms = ended.at_ns / 1_000_000;
                line.probe = probe;
                line.cursor = text_of(self.reader.cursor());
                Ok(Step::Line(Box::new(line), at_ms))
            }
            Entry::Opened(_) | Entry::Closed { .. } | Entry::Ended(_) | Entry::Returned(_) => {
                Ok(Step::Nothing)
            }
        }
    }

    /// Lines of what was offered and has no end.
    fn still_open(&mut self, page: &mut Vec<u8>) -> Result<(), BoxError> {
        let mut open: Vec<&(Cursor, u64, JournalLine)> = self.open.values().collect();
        open.sort_by_key(|(_, at_ms, _)| *at_ms);
        for (cursor, at_ms, line) in open {
            if self.wanted.wants(line, *at_ms) {
                write(page, &JournalLine { cursor: text_of(*cursor), ..line.clone() })?;
            }
        }
        Ok(())
    }

    /// The last line: where to read on, so that what is still open is met again.
    fn finish(&mut self, page: &mut Vec<u8>) -> Result<(), BoxError> {
        let oldest = self.open.values().map(|(cursor, _, _)| *cursor).min();
        let cursor = text_of(oldest.unwrap_or(self.reader.cursor()));
        self.ended = true;
        write(page, &JournalLine { cursor, ..blank(JournalWhat::End) })
    }
}

fn write(page: &mut Vec<u8>, line: &JournalLine) -> Result<(), BoxError> {
    serde_json::to_writer(&mut *page, line)?;
    page.push(b'\n');
    Ok(())
}

fn blank(what: JournalWhat) -> JournalLine {
    JournalLine { what, ..JournalLine::default() }
}

fn id_text(id: u64) -> String {
    TransactionId::from_u64(id).to_string()
}

fn of_gap(gap: &Gap) -> JournalLine {
    let why = match gap.why {
        Why::Killed => "killed: nothing that was offered is missing, ends may be".to_owned(),
        Why::SystemDown => "the system went down: what was written last may be missing".to_owned(),
        Why::Unwritten { entries } => format!("the disk did not take {entries} entries"),
        Why::Damaged => "what was written cannot be read".to_owned(),
        Why::Unsynced => "a sync failed: what was written may not be on the disk".to_owned(),
    };
    JournalLine {
        at: Some(clock::rfc_3339(gap.from_ns / 1_000_000)),
        until: Some(clock::rfc_3339(gap.to_ns / 1_000_000)),
        why: Some(why),
        hides_offers: gap.why.hides_offers(),
        ..blank(JournalWhat::Gap)
    }
}

/// What is told of a transaction; `brief`: without what a ledger has no use for.
fn told(line: &mut JournalLine, facts: &Facts<'_>, brief: bool) {
    line.id = Some(id_text(facts.id));
    line.doing = Some(facts.doing.as_str().to_owned());
    line.gate = Some(facts.gate.to_string());
    line.member = facts.member.as_deref().map(str::to_owned);
    if !brief {
        line.client = facts.client.map(|client| client.to_string());
        line.media_type = facts.media_type.as_deref().map(str::to_owned);
        line.header_octets = facts.header_octets;
        line.header_sha256 = facts.header_sha256.as_ref().map(hex);
        line.tls = facts.tls.as_deref().map(str::to_owned);
    }
    line.told_ident = facts.told_ident;
    line.from = Some(facts.from.to_string());
    line.to = facts.to.iter().map(ToString::to_string).collect();
    line.message_id = facts.message_id.as_deref().map(str::to_owned);
    line.passed_as = facts.passed_as.map(id_text);
    line.began = Some(clock::rfc_3339(facts.began_ns / 1_000_000));
    line.others = others(&line.to, &facts.settled);
}

fn others(to: &[String], ends: &[crate::journal::PathEnd<'_>]) -> Vec<JournalPath> {
    let one = |end: &crate::journal::PathEnd<'_>| JournalPath {
        path: end.path,
        to: to.get(end.path as usize).cloned().unwrap_or_default(),
        outcome: end.outcome.as_str().to_owned(),
        reply: end.reply.to_string(),
    };
    ends.iter().map(one).collect()
}

fn of_end(mut line: JournalLine, ended: &Ended<'_>, brief: bool) -> JournalLine {
    if let Some(facts) = &ended.facts {
        told(&mut line, facts, brief);
    }
    line.what = JournalWhat::Ended;
    line.at = Some(clock::rfc_3339(ended.at_ns / 1_000_000));
    line.outcome = Some(ended.outcome.as_str().to_owned());
    line.reply = Some(ended.reply.to_string());
    for other in others(&line.to, &ended.others) {
        // What the end says goes before what was known when it was offered.
        line.others.retain(|known| known.path != other.path);
        line.others.push(other);
    }
    line.size = Some(ended.size);
    line.content_sha256 = ended.content_sha256.as_ref().filter(|_| !brief).map(hex);
    line
}

fn of_mark(mark: &Mark<'_>) -> JournalProbe {
    let text = |text: &Option<Cow<'_, str>>| text.as_deref().map(str::to_owned);
    JournalProbe {
        token: mark.token.to_string(),
        known: mark.known,
        media_type: text(&mark.media_type),
        protocol: text(&mark.protocol),
        smime_type: text(&mark.smime_type),
        encoding_format: text(&mark.encoding_format),
        processed: mark.processed,
    }
}

fn hex(digest: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::with_capacity(64), |mut text, octet| {
        // Writing to a String cannot fail.
        write!(text, "{octet:02x}").ok();
        text
    })
}
