//! Held mail: list, show, raw octets, changes, and the damage report.
//!
//! Invariants
//! - A list streams page by page, read only as fast as the reader takes it: no list of all messages
//!   is ever in memory.
//! - Mail data leaves by the raw route alone. A message that does not authenticate to its end breaks
//!   the stream off: what came before must not be taken for the whole.
//! - What cannot be read is listed and named all the same.
//!
//! Not here: what a change does to a message (`replay`).

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Json};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::Parts;
use super::problem::{Failure, told};
use super::replay::id;
use super::{Asked, Desk, Input, Slot, wire};
use crate::api;
use crate::clock;
use crate::gate::Holder;
use crate::replay::{By, Change};
use crate::spool::{HeldMessage, LoadError, Paths, SpoolId, Summary};

/// Messages read for one page of a list.
const PAGE: usize = 64;

/// Messages changed at once: their marks share syncs.
const CHANGES: usize = 64;

/// Media type of JSON Lines.
const JSON_LINES: &str = "application/jsonl";

pub(super) async fn list(
    State(desk): State<Desk>,
    Extension(slot): Extension<Slot>,
    Asked(filter): Asked<api::HeldFilter>,
) -> Result<Response, Failure> {
    if let Some(gate) = &filter.gate {
        desk.door(gate)?;
    }
    let listing = Listing::new(Arc::clone(&desk.parts), filter);
    let pages = stream::try_unfold((listing, slot), |(mut listing, slot)| async move {
        let (listing, page) = tokio::task::spawn_blocking(move || {
            let page = listing.lines();
            (listing, page)
        })
        .await?;
        Ok::<_, BoxError>(page?.map(|page| (Bytes::from(page), (listing, slot))))
    });
    Ok(([(header::CONTENT_TYPE, JSON_LINES)], Body::from_stream(pages)).into_response())
}

pub(super) async fn one(
    State(desk): State<Desk>,
    Path(text): Path<String>,
) -> Result<Json<api::Held>, Failure> {
    let message = load(&desk, id(&text)?).await?;
    let paths = Paths::Tried(message.paths.clone().into());
    let mut held = wire::held(&message, &paths);
    if desk.parts.is_trying(&message.gate, message.id) {
        wire::under_way(&mut held);
    }
    Ok(Json(held))
}

pub(super) async fn raw(
    State(desk): State<Desk>,
    Extension(slot): Extension<Slot>,
    Path(text): Path<String>,
) -> Result<Response, Failure> {
    let id = id(&text)?;
    let message = load(&desk, id).await?;
    tracing::info!(%id, gate = %message.gate, "held: mail data shown");
    let start = (message.data, Unstuffer::default(), slot);
    let pieces = stream::try_unfold(start, |(mut data, mut unstuffer, slot)| async move {
        let (data, piece) = tokio::task::spawn_blocking(move || {
            let piece = data.next();
            (data, piece)
        })
        .await?;
        let Some(piece) = piece? else { return Ok(None) };
        let text = unstuffer.text(&piece);
        Ok::<_, BoxError>(Some((Bytes::from(text), (data, unstuffer, slot))))
    });
    // What breaks the stream off is known to the spool, which names it; the log says when.
    let pieces = pieces.inspect_err(move |error| {
        tracing::error!(%id, %error, "held: mail data cannot be read to its end");
    });
    Ok(([(header::CONTENT_TYPE, "message/rfc822")], Body::from_stream(pieces)).into_response())
}

pub(super) async fn change(
    State(desk): State<Desk>,
    Input(request): Input<api::HeldChange>,
) -> Result<Json<api::HeldChanged>, Failure> {
    let evidence = request.holder.kind == api::HolderKind::Evidence;
    if evidence && !matches!(request.change, api::Change::Delivered | api::Change::Absent) {
        return Err(Failure::bad("evidence says of uncertain mail that it was taken, or never"));
    }
    let by = if evidence { By::Evidence } else { By::Person };
    let kind = if evidence { api::HolderKind::Operator } else { request.holder.kind };
    let holder = wire::asker(api::Holder { kind, ..request.holder })?;
    let change = inside(request.change, &holder, by, &request.reason)?;
    let work = {
        let desk = desk.clone();
        async move {
            if !request.ids.is_empty() {
                return Ok(desk.change_these(request.ids, &change).await);
            }
            let narrows = |filter: &api::HeldFilter| {
                filter.gate.is_some()
                    || filter.sender.is_some()
                    || filter.recipient.is_some()
                    || filter.message_id.is_some()
                    || filter.older_than_s.is_some()
                    || filter.state.is_some()
            };
            let gives_up = matches!(change, Change::Remove { .. } | Change::Fail);
            if gives_up && !request.filter.as_ref().is_some_and(narrows) {
                return Err(Failure::bad(
                    "to give up all held mail of every gate at once is refused: name a gate, a state or another filter",
                ));
            }
            let Some(filter) = request.filter else {
                return Err(Failure::bad(
                    "name messages by ids, or by a filter (which may be empty)",
                ));
            };
            desk.change_matching(filter, &change).await
        }
    };
    let changed = desk.carry_out(work).await?;
    tracing::info!(
        change = ?request.change, by = holder.name, reason = request.reason,
        changed = changed.changed, skipped = changed.skipped.len(), "held: change"
    );
    Ok(Json(changed))
}

pub(super) async fn acknowledge_damage(State(desk): State<Desk>) -> Result<StatusCode, Failure> {
    let spool = desk.parts.spool.clone();
    let noted = desk.carry_out(async move { Ok(spool.acknowledge_damage().await?) }).await?;
    tracing::warn!(noted, "spool: damage acknowledged");
    Ok(StatusCode::NO_CONTENT)
}

async fn load(desk: &Desk, id: SpoolId) -> Result<HeldMessage, Failure> {
    let spool = desk.parts.spool.clone();
    let loaded = tokio::task::spawn_blocking(move || spool.load(&id)).await?;
    let set_aside = || desk.parts.spool.damaged().into_iter().find(|damage| damage.id == Some(id));
    match loaded {
        // Not held because it was set aside is another thing than not held at all.
        Err(LoadError::NotHeld(_)) => match set_aside() {
            Some(damage) => Err(LoadError::Damaged(damage).into()),
            None => Err(LoadError::NotHeld(id).into()),
        },
        loaded => Ok(loaded?),
    }
}

/// The change as the replayer knows it. A removal is recorded with who and why.
fn inside(change: api::Change, holder: &Holder, by: By, reason: &str) -> Result<Change, Failure> {
    let told = || format!("{}: {reason}", holder.name);
    Ok(match change {
        api::Change::Remove if reason.trim().is_empty() => {
            return Err(Failure::bad(
                "a removal needs a reason: mail is given up, and it is recorded",
            ));
        }
        api::Change::Remove => Change::Remove { reason: told() },
        api::Change::Retry => Change::Retry,
        api::Change::Fail => Change::Fail,
        api::Change::Delivered => Change::Delivered { reason: told(), by },
        api::Change::Absent => Change::Absent { reason: told(), by },
    })
}

impl Desk {
    /// Changes messages by their ids; what is no id is skipped like what is not held.
    async fn change_these(&self, texts: Vec<String>, change: &Change) -> api::HeldChanged {
        let mut answer = api::HeldChanged { changed: 0, skipped: Vec::new() };
        let mut ids = Vec::with_capacity(texts.len());
        for text in texts {
            match text.parse::<SpoolId>() {
                Ok(id) => ids.push(id),
                Err(error) => {
                    answer.skipped.push(api::Skipped { id: text, why: error.to_string() });
                }
            }
        }
        // Twice named is changed once: the second would be skipped, to nobody's use.
        ids.sort_unstable();
        ids.dedup();
        self.change_all(ids, change, &mut answer).await;
        answer
    }

    /// Changes messages that match, page by page, in order of arrival.
    async fn change_matching(
        &self,
        filter: api::HeldFilter,
        change: &Change,
    ) -> Result<api::HeldChanged, Failure> {
        if let Some(gate) = &filter.gate {
            self.door(gate)?;
        }
        let mut answer = api::HeldChanged { changed: 0, skipped: Vec::new() };
        let mut listing = Listing::new(Arc::clone(&self.parts), filter);
        loop {
            let (next, ids) = tokio::task::spawn_blocking(move || {
                let ids = listing.ids();
                (listing, ids)
            })
            .await?;
            listing = next;
            let Some(ids) = ids else { return Ok(answer) };
            self.change_all(ids, change, &mut answer).await;
        }
    }

    async fn change_all(&self, ids: Vec<SpoolId>, change: &Change, answer: &mut api::HeldChanged) {
        let changes =
            ids.into_iter().map(|id| async move { (id, self.change_one(id, change).await) });
        let mut changed = stream::iter(changes).buffered(CHANGES);
        while let Some((id, result)) = changed.next().await {
            match result {
                Ok(()) => answer.changed += 1,
                Err(why) => answer.skipped.push(api::Skipped { id: id.to_string(), why }),
            }
        }
    }

    async fn change_one(&self, id: SpoolId, change: &Change) -> Result<(), String> {
        let summary =
            self.parts.spool.summary(id).ok_or_else(|| "it is not held (any more)".to_owned())?;
        let door = self
            .parts
            .door(&summary.gate)
            .ok_or_else(|| format!("gate {} is not configured", summary.gate))?;
        door.replayer.change(id, change.clone()).await
    }
}

/// What a message must be to be listed.
struct Filter {
    gate: Option<String>,
    state: Option<api::HeldState>,
    /// Given at MAIL before this moment.
    before_unix_ms: Option<u64>,
    sender: Option<String>,
    recipient: Option<String>,
    message_id: Option<String>,
}

impl Filter {
    fn new(filter: api::HeldFilter, now_unix_ms: u64) -> Self {
        let lower = |text: Option<String>| text.map(|text| text.to_lowercase());
        Self {
            gate: filter.gate,
            state: filter.state,
            before_unix_ms: filter
                .older_than_s
                .map(|seconds| now_unix_ms.saturating_sub(seconds.saturating_mul(1000))),
            sender: lower(filter.sender),
            recipient: lower(filter.recipient),
            message_id: lower(filter.message_id),
        }
    }

    /// What the index can say without a look at the disk.
    fn keeps(&self, summary: &Summary) -> bool {
        self.gate.as_deref().is_none_or(|gate| *summary.gate == *gate)
            && self.state.is_none_or(|state| wire::stand(summary.stand()) == state)
            && self.is_old_enough(summary.id)
    }

    fn is_old_enough(&self, id: SpoolId) -> bool {
        self.before_unix_ms.is_none_or(|before| id.transaction().unix_ms() < before)
    }

    /// Must the message be read to say?
    const fn reads(&self) -> bool {
        self.sender.is_some() || self.recipient.is_some() || self.message_id.is_some()
    }

    fn keeps_message(&self, message: &HeldMessage) -> bool {
        let holds = |part: &Option<String>, text: &str| {
            part.as_deref().is_none_or(|part| text.to_lowercase().contains(part))
        };
        holds(&self.sender, message.envelope.sender.path.address())
            && holds(&self.message_id, message.message_id.as_deref().unwrap_or_default())
            && (self.recipient.is_none()
                || message
                    .envelope
                    .recipients()
                    .iter()
                    .any(|recipient| holds(&self.recipient, recipient.path.address())))
    }

    /// Does it ask for messages that were set aside? They have lost their gate and envelope.
    fn keeps_damaged(&self) -> bool {
        self.gate.is_none()
            && !self.reads()
            && self.state.is_none_or(|state| state == api::HeldState::Damaged)
    }
}

/// A walk through held mail in order of arrival, page by page. Blocking.
struct Listing {
    parts: Arc<Parts>,
    filter: Filter,
    after: Option<SpoolId>,
    left: u64,
    /// The index has been walked; what was set aside comes last.
    walked: bool,
    ended: bool,
}

/// A message of the list, read if that was needed.
enum Found {
    Read(Box<HeldMessage>),
    Unread(api::HeldState),
}

impl Listing {
    fn new(parts: Arc<Parts>, filter: api::HeldFilter) -> Self {
        let left = filter.limit.unwrap_or(u64::MAX);
        let filter = Filter::new(filter, clock::unix_ms());
        Self { parts, filter, after: None, left, walked: false, ended: false }
    }

    /// The next page as JSON Lines, perhaps empty; none after the last.
    fn lines(&mut self) -> Result<Option<Vec<u8>>, serde_json::Error> {
        let mut lines = Vec::new();
        let mut failed = None;
        let parts = Arc::clone(&self.parts);
        let more = self.page(Reading::Always, |summary, found| {
            let mut held = match &found {
                Found::Read(message) => wire::held(message, &summary.paths),
                Found::Unread(state) => wire::unread(summary, *state),
            };
            if parts.is_trying(&summary.gate, summary.id) {
                wire::under_way(&mut held);
            }
            failed = failed.take().or(line(&mut lines, &held).err());
        });
        if !more {
            if self.ended {
                return Ok(None);
            }
            self.ended = true;
            for held in self.set_aside() {
                line(&mut lines, &held)?;
            }
        }
        failed.map_or(Ok(Some(lines)), Err)
    }

    /// The ids of the next page, perhaps none; `None` after the last.
    fn ids(&mut self) -> Option<Vec<SpoolId>> {
        let mut ids = Vec::new();
        let more = self.page(Reading::IfNeeded, |summary, _| ids.push(summary.id));
        more.then_some(ids)
    }

    /// Visits the matches of one page. False when there was none to walk.
    fn page(&mut self, reading: Reading, mut visit: impl FnMut(&Summary, Found)) -> bool {
        if self.walked || self.left == 0 {
            return false;
        }
        let filter = &self.filter;
        let page = self.parts.spool.summaries(self.after, PAGE, |summary| filter.keeps(summary));
        self.walked = page.len() < PAGE;
        for summary in &page {
            self.after = Some(summary.id);
            if self.left == 0 {
                break;
            }
            if let Some(found) = self.find(summary, reading) {
                self.left -= 1;
                visit(summary, found);
            }
        }
        true
    }

    fn find(&self, summary: &Summary, reading: Reading) -> Option<Found> {
        let state = wire::stand(summary.stand());
        if reading == Reading::IfNeeded && !self.filter.reads() {
            return Some(Found::Unread(state));
        }
        let unread = |state| (!self.filter.reads()).then_some(Found::Unread(state));
        match self.parts.spool.load(&summary.id) {
            Ok(message) => {
                self.filter.keeps_message(&message).then(|| Found::Read(Box::new(message)))
            }
            // Delivered or removed since the page was taken.
            Err(LoadError::NotHeld(_)) => None,
            // Set aside just now: it comes with the others of its kind at the end.
            Err(LoadError::Damaged(damage)) => {
                tracing::error!(%damage, "held: set aside");
                None
            }
            Err(error) => {
                tracing::error!(id = %summary.id, error = told(&error), "held: cannot be read now");
                unread(state)
            }
        }
    }

    /// Messages that were set aside, as far as anything is known of them.
    fn set_aside(&mut self) -> Vec<api::Held> {
        if !self.filter.keeps_damaged() {
            return Vec::new();
        }
        let mut ids: Vec<SpoolId> =
            self.parts.spool.damaged().iter().filter_map(|damage| damage.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| self.filter.is_old_enough(*id) && self.parts.spool.summary(*id).is_none());
        ids.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        ids.into_iter().map(damaged).collect()
    }
}

/// Is a message to be read from the disk for a page?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Always,
    IfNeeded,
}

fn damaged(id: SpoolId) -> api::Held {
    api::Held {
        id: id.to_string(),
        gate: String::new(),
        state: api::HeldState::Damaged,
        message_id: None,
        reverse_path: String::new(),
        forward_paths: Vec::new(),
        size: 0,
        held_at: clock::rfc_3339(id.transaction().unix_ms()),
        client: String::new(),
        dsn: false,
    }
}

fn line(lines: &mut Vec<u8>, held: &api::Held) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *lines, held)?;
    lines.push(b'\n');
    Ok(())
}

/// Wire form to text over pieces that end anywhere: [`smtp::unstuff`] takes whole texts.
#[derive(Debug)]
struct Unstuffer {
    /// The next octet begins a line.
    at_line: bool,
    /// The last octet was a CR.
    after_cr: bool,
}

impl Default for Unstuffer {
    fn default() -> Self {
        Self { at_line: true, after_cr: false }
    }
}

impl Unstuffer {
    /// The text of the next piece.
    fn text(&mut self, piece: &[u8]) -> Vec<u8> {
        let Some(last) = piece.last() else {
            return Vec::new();
        };
        let mut text = Vec::with_capacity(piece.len());
        let begin = if self.at_line { 0 } else { self.end_of_line(piece) };
        text.extend_from_slice(&piece[..begin]);
        smtp::unstuff(&piece[begin..], &mut text);
        self.at_line = piece.ends_with(b"\r\n") || (self.after_cr && piece == b"\n");
        self.after_cr = *last == b'\r';
        text
    }

    /// Where the line ends that an earlier piece began: behind its CRLF, or at the end of the piece.
    fn end_of_line(&self, piece: &[u8]) -> usize {
        if self.after_cr && piece.first() == Some(&b'\n') {
            return 1;
        }
        memchr::memmem::find(piece, b"\r\n").map_or(piece.len(), |place| place + 2)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unstuffed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut unstuffer = Unstuffer::default();
        pieces.into_iter().flat_map(|piece| unstuffer.text(piece)).collect()
    }

    #[test]
    fn dots_are_unstuffed_wherever_a_piece_ends() {
        let wire: &[u8] = b"..a\r\n.\r.\r\n...\r\n\r\n..\r\nb..c\r\n";
        let mut whole = Vec::new();
        smtp::unstuff(wire, &mut whole);
        for first in 0..=wire.len() {
            for second in first..=wire.len() {
                let pieces = [&wire[..first], &wire[first..second], &wire[second..]];
                assert_eq!(unstuffed(pieces), whole, "cut at {first} and {second}");
            }
        }
    }

    proptest! {
        #[test]
        fn text_that_was_stuffed_comes_back_over_any_pieces(
            text in proptest::collection::vec(
                prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), any::<u8>()], 0..200),
            size in 1_usize..20,
        ) {
            let mut wire = Vec::new();
            smtp::stuff(&text, &mut wire);
            prop_assert_eq!(unstuffed(wire.chunks(size)), text);
        }
    }

    #[test]
    fn a_removal_without_a_reason_is_refused() {
        let ada = Holder::new(crate::gate::HolderKind::Operator, "ada");
        assert!(inside(api::Change::Remove, &ada, By::Person, " ").is_err());
        let removal = inside(api::Change::Remove, &ada, By::Person, "spam run").unwrap();
        assert_eq!(removal, Change::Remove { reason: "ada: spam run".into() });
        assert!(inside(api::Change::Retry, &ada, By::Person, "").is_ok());
    }
}
