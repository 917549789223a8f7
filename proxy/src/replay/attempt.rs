//! One attempt: load → connection → an outcome per forward-path → marks.
//!
//! Invariants
//! - `Offered` is synced before the final dot, and the outcome after it; what has `Offered` and no
//!   outcome is uncertain and is not tried again by itself.
//! - A 5yz does not bounce: the forward-path is kept as refused.
//! - Mail that needs what the member no longer offers is kept as blocked, never altered.
//! - A lost link before MAIL concerns the link: the message is untouched.
//!
//! Not here: which message is next, and when (`mod`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smtp::{
    Envelope, Extension, Extensions, Owed, Parameter, Recipient, Reply, Sender, Xforward,
    XforwardAttribute, XforwardSource,
};

use super::queue::Source;
use super::schedule::Schedule;
use super::told::{self, Received, Told};
use crate::clock::{unix_ms, unix_nanos};
use crate::gate::Permit;
use crate::journal::{self, Ended as JournalEnded, Offered};
use crate::outcome::Outcome;
use crate::relay::{FinishError, LinkError, Relay, Stage, Taken, Waits};
use crate::spool::{
    Arrival, DataReader, Done, HeldMessage, Kept, Lane, LoadError, Mark, Need, PathState, Spool,
    SpoolId,
};
use crate::transaction::Corridor;
use crate::transaction::record::{self, Record};

/// Pause before a message that could not be read is read again.
const READ_PAUSE_MS: u64 = 30_000;

/// What an attempt needs besides the message.
pub(super) struct Context {
    /// Of the gate.
    pub(super) corridor: Arc<Corridor>,
    /// The way it goes: the gate's own, or that of reports.
    pub(super) relay: Arc<Relay>,
    pub(super) member: usize,
    pub(super) schedule: Schedule,
    /// Running time with release open since the message was deferred: what its lifetime counts.
    pub(super) open_passed: Duration,
}

/// What the pace should make of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feedback {
    /// The next hop took something.
    Took,
    /// It is in distress: connect failure, 421, time-out, 4yz to MAIL or the end of mail data.
    PushedBack,
    /// Neither.
    Neutral,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: SpoolId,
    pub(super) member: usize,
    /// It was a first attempt.
    pub(super) first: bool,
    /// Why it was made.
    pub(super) source: Source,
    pub(super) feedback: Feedback,
    pub(super) outcome: Outcome,
    /// The link failed before anything was said: the message is as it was.
    pub(super) link: Option<LinkError>,
    /// Some recipients were put off by 452 4.5.3 after others were taken: at once again.
    pub(super) again: bool,
    /// A forward-path is uncertain, whatever became of the others.
    pub(super) uncertain: bool,
    /// It could not be read now.
    pub(super) unreadable: bool,
    /// Outcomes that are known and could not be written: to be written before anything else.
    pub(super) unwritten: Vec<(u32, Mark)>,
    /// Earliest next try of a deferred forward-path.
    pub(super) due_unix_ms: Option<u64>,
}

/// What became of one forward-path.
pub(super) enum PathOutcome {
    Relayed(Reply),
    Deferred(Reply),
    Refused(Reply),
    Blocked(Need),
    Uncertain,
    /// Untouched: to be tried at once in a new transaction.
    Rest,
}

/// One forward-path of the attempt.
pub(super) struct Path {
    index: u32,
    attempts: u32,
    open_ms: u64,
    pub(super) outcome: Option<PathOutcome>,
}

/// Tries the forward-paths of one message that are due; `loaded` is the message, where it was read
/// before its turn.
pub(super) async fn attempt(
    context: &Context,
    permit: Option<&Permit>,
    id: SpoolId,
    loaded: Option<Loaded>,
) -> Ended {
    let (began, began_ns) = (Instant::now(), unix_nanos());
    let mut ended = Ended {
        id,
        member: context.member,
        first: false,
        source: Source::Walk,
        feedback: Feedback::Neutral,
        outcome: Outcome::Deferred,
        link: None,
        again: false,
        uncertain: false,
        unreadable: false,
        unwritten: Vec::new(),
        due_unix_ms: None,
    };
    let gate = context.corridor.gate.name();
    let spool = &context.corridor.spool;
    let loaded = match loaded {
        Some(loaded) => loaded.with_its_stand(spool),
        None => load(spool, id).await,
    };
    let mut message = match loaded {
        Ok(message) => message,
        Err(LoadError::NotHeld(_)) => return ended,
        Err(error) => {
            tracing::error!(%id, gate, %error, "replay: the message cannot be read; it is kept and named");
            // What is damaged is set aside and no longer held; else the disk may answer again later.
            if !matches!(error, LoadError::Damaged(_)) {
                ended.unreadable = true;
                ended.due_unix_ms = Some(unix_ms() + READ_PAUSE_MS);
            }
            return ended;
        }
    };
    let mut paths = due_paths(&message.held);
    let Some(envelope) = narrowed(&message.held.envelope, &paths) else {
        return ended;
    };
    let mut taken = match take(context, permit).await {
        None => {
            ended.again = true;
            return ended;
        }
        Some(Ok(taken)) => taken,
        Some(Err(error)) => {
            ended.feedback = Feedback::PushedBack;
            ended.link = Some(error);
            return ended;
        }
    };
    let mut delivery = Delivery {
        context,
        permit,
        envelope: &envelope,
        paths: &mut paths,
        message: &mut message,
        feedback: Feedback::Neutral,
        reply: None,
        link: None,
        heard: false,
        fenced: false,
        began_ns,
        ident: false,
        tls: None,
        offered: false,
        received: None,
    };
    let mut usable = delivery.run_or_fence(&mut taken).await;
    // A pooled connection that had died meanwhile is no fault of the member: nothing was heard on
    // it, so nothing of this message was asked for yet.
    if taken.pooled && delivery.link.is_some() && !delivery.heard && !delivery.fenced {
        delivery.link = None;
        delivery.feedback = Feedback::Neutral;
        match context.relay.take(context.member, true).await {
            Ok(fresh) => {
                taken = fresh;
                usable = delivery.run_or_fence(&mut taken).await;
            }
            Err(error) => {
                ended.feedback = Feedback::PushedBack;
                ended.link = Some(error);
                return ended;
            }
        }
    }
    if usable {
        context.relay.give_back(taken);
    }
    ended.feedback = delivery.feedback;
    let last = delivery.reply.take();
    let lost = delivery.link.take();
    let received = delivery.received.take();
    // Where the link broke, an earlier reply has decided nothing.
    let reply = match (&lost, &last) {
        (Some(error), _) => error.to_string(),
        (None, Some(reply)) => journal::text_of(reply),
        (None, None) => String::new(),
    };
    let settled = told::settled(delivery.paths);
    let mut others = told::ends(delivery.paths, &reply);
    conclude(context, &mut ended, std::mem::take(delivery.paths), lost.as_ref()).await;
    others.retain(|end| (end.outcome, &*end.reply) != (ended.outcome, reply.as_str()));
    context.corridor.journal.ended(JournalEnded {
        at_ns: unix_nanos(),
        id: id.transaction().as_u64(),
        facts: (!delivery.offered).then(|| delivery.told().facts(settled)),
        outcome: ended.outcome,
        reply: reply.into(),
        others,
        size: received.as_ref().map_or(0, Received::octets),
        content_sha256: received.and_then(Received::finish),
    });
    let tls = delivery.tls.take();
    context.corridor.metrics.replayed(ended.outcome);
    if !Record::wanted() {
        return ended;
    }
    let (from, to) = record::paths_of(&envelope);
    Record {
        id: id.transaction(),
        what: if message.held.lane == Lane::Dsn { "dsn" } else { "replay" },
        gate,
        mode: "replay",
        member: Some(&context.relay.next_hop(context.member).member),
        client: Some(message.held.arrival.client),
        from,
        to,
        recipients: envelope.recipients().len(),
        size: message.held.size,
        message_id: message.held.message_id.as_deref(),
        outcome: ended.outcome,
        reply: last.map_or_else(
            || lost.map_or_else(String::new, |error| error.to_string()),
            |reply| reply.to_string(),
        ),
        began,
        tls: tls.as_deref(),
    }
    .log();
    ended
}

/// A connection to the member; none when a fence came first.
async fn take(context: &Context, permit: Option<&Permit>) -> Option<Result<Taken, LinkError>> {
    let taking = context.relay.take(context.member, false);
    let Some(fence) = permit.map(Permit::fence) else { return Some(taking.await) };
    tokio::select! {
        taken = taking => Some(taken),
        _ = fence.down() => None,
    }
}

/// Writes the marks that follow from the outcomes.
async fn conclude(
    context: &Context,
    ended: &mut Ended,
    paths: Vec<Path>,
    lost: Option<&LinkError>,
) {
    let now_unix_ms = unix_ms();
    let mut marks = Vec::with_capacity(paths.len());
    let (mut relayed, mut refused, mut uncertain, mut deferred, mut blocked) = (0, 0, 0, 0, 0);
    for mut path in paths {
        let outcome = path.outcome.take().unwrap_or_else(|| {
            let text = lost.map_or_else(|| "no answer".to_owned(), ToString::to_string);
            PathOutcome::Deferred(Reply::new(451, format!("4.4.2 {text}")))
        });
        let mark = match outcome {
            PathOutcome::Relayed(reply) => {
                relayed += 1;
                Mark::Done { how: Done::Relayed, reply: reply.to_string().into() }
            }
            PathOutcome::Refused(reply) => {
                refused += 1;
                Mark::Kept { why: Kept::Refused, reply: reply.to_string().into() }
            }
            PathOutcome::Blocked(need) => {
                blocked += 1;
                Mark::Kept { why: Kept::Blocked(need), reply: told::words_of(need).into() }
            }
            PathOutcome::Deferred(reply) => {
                deferred += 1;
                match context.deferred(&path, &reply, now_unix_ms, ended.id) {
                    Deferral::Later(mark, at) => {
                        let earliest = ended.due_unix_ms.map_or(at, |due| due.min(at));
                        ended.due_unix_ms = Some(earliest);
                        mark
                    }
                    Deferral::Over(mark) => {
                        refused += 1;
                        mark
                    }
                }
            }
            PathOutcome::Uncertain => {
                uncertain += 1;
                continue;
            }
            PathOutcome::Rest => {
                ended.again = true;
                continue;
            }
        };
        marks.push((path.index, mark));
    }
    ended.uncertain = uncertain > 0;
    ended.outcome = if uncertain > 0 {
        Outcome::Uncertain
    } else if refused > 0 {
        Outcome::Refused
    } else if blocked > 0 {
        Outcome::Blocked
    } else if deferred > 0 || relayed == 0 {
        Outcome::Deferred
    } else {
        Outcome::Relayed
    };
    if marks.is_empty() {
        return;
    }
    if let Err(error) = context.corridor.spool.mark(ended.id, marks.clone()).await {
        // What was offered is known here, and only here: after a restart it is uncertain.
        tracing::error!(id = %ended.id, gate = context.corridor.gate.name(), %error, "replay: the outcome could not be written; it will be tried again");
        ended.unwritten = marks;
        ended.feedback = Feedback::PushedBack;
    }
}

enum Deferral {
    Later(Mark, u64),
    Over(Mark),
}

impl Context {
    fn deferred(&self, path: &Path, reply: &Reply, now_unix_ms: u64, id: SpoolId) -> Deferral {
        let open = Duration::from_millis(path.open_ms) + self.open_passed;
        if self.schedule.is_over(open) {
            let text = format!("its lifetime is over; last reply: {reply}");
            return Deferral::Over(Mark::Kept { why: Kept::Refused, reply: text.into() });
        }
        let attempts = path.attempts + 1;
        let pause = self.schedule.next(attempts, id.transaction().as_u64());
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let at_unix_ms = now_unix_ms.saturating_add(pause_ms);
        let open_ms = u64::try_from(open.as_millis()).unwrap_or(u64::MAX);
        let reply = reply.to_string().into();
        Deferral::Later(Mark::Due { at_unix_ms, attempts, open_ms, reply }, at_unix_ms)
    }
}

/// A message with the first piece of its mail data.
pub(super) struct Loaded {
    held: Facts,
    /// None while a blocking task reads.
    reader: Option<DataReader>,
    ahead: Bytes,
    /// Everything was read.
    whole: bool,
}

/// What is known of the message, without its mail data.
struct Facts {
    id: SpoolId,
    lane: Lane,
    envelope: Envelope,
    arrival: Arrival,
    message_id: Option<String>,
    size: u64,
    paths: Vec<PathState>,
}

impl Loaded {
    /// Reads it. Blocking.
    pub(super) fn read(spool: &Spool, id: SpoolId) -> Result<Self, LoadError> {
        let HeldMessage { id, lane, envelope, arrival, message_id, size, paths, mut data, .. } =
            spool.load(&id)?;
        let ahead = data.next()?.unwrap_or_default();
        let whole = ahead.len() as u64 >= size;
        let held = Facts { id, lane, envelope, arrival, message_id, size, paths };
        Ok(Self { held, reader: Some(data), ahead, whole })
    }

    /// Which message it is.
    pub(super) const fn id(&self) -> SpoolId {
        self.held.id
    }

    /// Octets of mail data that were read.
    pub(super) const fn octets(&self) -> usize {
        self.ahead.len()
    }

    /// The same, with what became of its forward-paths since it was read.
    fn with_its_stand(mut self, spool: &Spool) -> Result<Self, LoadError> {
        let id = self.held.id;
        let summary = spool.summary(id).ok_or(LoadError::NotHeld(id))?;
        self.held.paths = summary.paths.iter().cloned().collect();
        Ok(self)
    }
}

async fn load(spool: &Spool, id: SpoolId) -> Result<Loaded, LoadError> {
    let spool = spool.clone();
    let loaded = tokio::task::spawn_blocking(move || Loaded::read(&spool, id)).await;
    loaded.unwrap_or(Err(LoadError::NotHeld(id)))
}

fn due_paths(held: &Facts) -> Vec<Path> {
    let due = |(index, state): (usize, &PathState)| match state {
        PathState::Due { attempts, open_ms, .. } => Some(Path {
            index: u32::try_from(index).ok()?,
            attempts: *attempts,
            open_ms: *open_ms,
            outcome: None,
        }),
        _ => None,
    };
    held.paths.iter().enumerate().filter_map(due).collect()
}

fn narrowed(envelope: &Envelope, paths: &[Path]) -> Option<Envelope> {
    envelope.narrowed(|index, _| paths.iter().any(|path| path.index as usize == index))
}

/// One transaction of an attempt.
struct Delivery<'a> {
    context: &'a Context,
    permit: Option<&'a Permit>,
    envelope: &'a Envelope,
    paths: &'a mut Vec<Path>,
    message: &'a mut Loaded,
    feedback: Feedback,
    /// The last reply that mattered.
    reply: Option<Reply>,
    /// The link broke.
    link: Option<LinkError>,
    /// A reply was read: from here on this connection decides, and no other is tried.
    heard: bool,
    /// A fence came down before the final dot.
    fenced: bool,
    began_ns: u64,
    /// The next hop hears our id.
    ident: bool,
    /// TLS of the connection that is used.
    tls: Option<String>,
    /// The journal says that it was offered.
    offered: bool,
    /// What was sent.
    received: Option<Received>,
}

impl Delivery<'_> {
    fn told(&self) -> Told<'_> {
        let held = &self.message.held;
        Told {
            context: self.context,
            id: held.id,
            lane: held.lane,
            arrival: &held.arrival,
            message_id: held.message_id.as_deref(),
            envelope: self.envelope,
            began_ns: self.began_ns,
            ident: self.ident,
            tls: self.tls.as_deref(),
            peeked: self.received.as_ref().map(Received::peeked),
        }
    }

    /// Runs to the end, or to a fence that comes before the final dot: then nothing has happened to
    /// the message. True: the connection may serve again.
    async fn run_or_fence(&mut self, taken: &mut Taken) -> bool {
        self.tls = taken.connection.tls().map(str::to_owned);
        let Some(fence) = self.permit.map(Permit::fence) else {
            return self.run(taken).await;
        };
        tokio::select! {
            usable = self.run(taken) => usable,
            _ = fence.down() => {
                self.fenced = true;
                self.all(|| PathOutcome::Rest);
                false
            }
        }
    }

    /// A reply that was owed.
    async fn hear(&mut self, taken: &mut Taken, wait: Duration) -> Result<Reply, LinkError> {
        let reply = taken.connection.reply(wait).await?;
        self.heard = true;
        Ok(reply)
    }

    async fn run(&mut self, taken: &mut Taken) -> bool {
        match self.talk(taken).await {
            Ok(usable) => usable,
            Err(error) => {
                self.feedback = Feedback::PushedBack;
                self.link = Some(error);
                false
            }
        }
    }

    /// One transaction. True: the connection may serve again.
    async fn talk(&mut self, taken: &mut Taken) -> Result<bool, LinkError> {
        let offered = *taken.connection.extensions();
        let sender = match fitted(&self.envelope.sender, &offered, self.message.held.size) {
            Ok(sender) => sender,
            Err(need) => {
                self.all(|| PathOutcome::Blocked(need));
                return Ok(true);
            }
        };
        let waits = self.context.relay.waits();
        let (accepted, data) = self.say_envelope(taken, &sender, &offered, waits).await?;
        let data = match data {
            Some(reply) => reply,
            // Not said yet.
            None if accepted > 0 => {
                taken.connection.queue(Owed::Data, |output| smtp::Command::Data.encode(output));
                taken.connection.flush(waits.block).await?;
                self.hear(taken, waits.data).await?
            }
            None => return self.start_over(taken, waits).await,
        };
        if accepted > 0 {
            if data.is_intermediate() {
                self.give(taken, waits).await?;
                return Ok(true);
            }
            self.judge_end(&data);
        }
        if data.code() == 421 {
            return Err(closing(data));
        }
        if data.is_intermediate() {
            // RFC 2920 §3.1: it may ask for data though it refused every recipient. Even a lone final dot
            // could complete something there: the connection is closed instead.
            return Ok(false);
        }
        self.start_over(taken, waits).await
    }

    /// MAIL and RCPT, with DATA in the same burst where the next hop takes bursts: how many recipients
    /// were accepted, and the reply to DATA if it was said.
    async fn say_envelope(
        &mut self,
        taken: &mut Taken,
        sender: &Sender,
        offered: &Extensions,
        waits: Waits,
    ) -> Result<(usize, Option<Reply>), LinkError> {
        let pipelining = offered.contains(Extension::Pipelining);
        let identity = self.queue_xforward(taken, offered);
        self.ident = identity > 0 && offered.xforward().contains(XforwardAttribute::Ident);
        let connection = &mut taken.connection;
        connection.queue(Owed::Mail, |output| smtp::encode_mail(sender, output));
        let dsn = offered.contains(Extension::Dsn);
        let recipients = self.envelope.recipients();
        if pipelining {
            for recipient in recipients {
                queue_rcpt(taken, recipient, dsn);
            }
            taken.connection.queue(Owed::Data, |output| smtp::Command::Data.encode(output));
        }
        taken.connection.flush(waits.block).await?;
        for _ in 0..identity {
            let reply = self.hear(taken, waits.mail).await?;
            if reply.code() == 421 {
                self.all(|| PathOutcome::Deferred(reply.clone()));
                return Err(closing(reply));
            }
        }
        let mail = self.hear(taken, waits.mail).await?;
        let mail_taken = mail.is_positive();
        if !mail_taken {
            self.judge_mail(&mail);
            if mail.code() == 421 {
                return Err(closing(mail));
            }
        }
        let mut accepted = 0;
        for (place, recipient) in recipients.iter().enumerate() {
            if !pipelining {
                if !mail_taken {
                    break;
                }
                queue_rcpt(taken, recipient, dsn);
                taken.connection.flush(waits.block).await?;
            }
            let reply = self.hear(taken, waits.rcpt).await?;
            if reply.code() == 421 {
                self.reply = Some(reply.clone());
                return Err(closing(reply));
            }
            if mail_taken {
                accepted += usize::from(reply.is_positive());
                self.judge_rcpt(place, reply, accepted);
            }
        }
        let data = if pipelining { Some(self.hear(taken, waits.data).await?) } else { None };
        Ok((accepted, data))
    }

    /// Ends a transaction that goes nowhere, so that the connection may serve again.
    async fn start_over(&mut self, taken: &mut Taken, waits: Waits) -> Result<bool, LinkError> {
        taken.connection.queue(Owed::Rset, |output| smtp::Command::Rset.encode(output));
        taken.connection.flush(waits.block).await?;
        taken.connection.reply(waits.mail).await?;
        Ok(true)
    }

    /// Mail data: the `Offered` mark, the final dot, the reply.
    async fn give(&mut self, taken: &mut Taken, waits: Waits) -> Result<(), LinkError> {
        let mut last = std::mem::take(&mut self.message.ahead);
        let mut octets = last.len() as u64;
        let mut received = Received::new(self.message.held.lane);
        received.update(&last);
        while !self.message.whole {
            taken.connection.mail_data(&[&last], waits.block).await?;
            match self.next_piece().await {
                Some(piece) => {
                    octets += piece.len() as u64;
                    received.update(&piece);
                    last = piece;
                }
                None if self.message.whole => last = Bytes::new(),
                // Damaged: closing without the final dot throws away what was sent.
                None => {
                    let damaged = Reply::new(451, "4.3.0 the held message cannot be read whole");
                    self.all_undecided(|| PathOutcome::Deferred(damaged.clone()));
                    self.reply = Some(damaged);
                    return Err(LinkError::Protocol {
                        stage: Stage::MailData,
                        what: "the held message cannot be read whole".into(),
                    });
                }
            }
        }
        if octets != self.message.held.size {
            // Never expected, and the last chance to notice: less than the message, or more, must
            // not be completed.
            let wrong = format!("{octets} octets read of {}", self.message.held.size);
            tracing::error!(id = %self.message.held.id, wrong, "replay: not sent");
            return Err(LinkError::Protocol { stage: Stage::MailData, what: wrong });
        }
        if self.permit.is_some_and(|permit| permit.pass_final_dot().is_err()) {
            self.fenced = true;
            self.all(|| PathOutcome::Rest);
            return Err(LinkError::Closed { stage: Stage::MailData });
        }
        let offered = self
            .paths
            .iter()
            .filter(|path| path.outcome.is_none())
            .map(|path| (path.index, Mark::Offered))
            .collect();
        if let Err(error) = self.context.corridor.spool.mark(self.message.held.id, offered).await {
            tracing::error!(id = %self.message.held.id, %error, "replay: not sent, for the mark could not be written");
            self.all_undecided(|| PathOutcome::Rest);
            return Err(LinkError::Protocol {
                stage: Stage::MailData,
                what: "the mark before the final dot could not be written".into(),
            });
        }
        received.end();
        self.received = Some(received);
        self.offered = true;
        let facts = self.told().facts(told::settled(self.paths));
        self.context.corridor.journal.offered(Offered { at_ns: unix_nanos(), facts }).await;
        let asked = Instant::now();
        let finished =
            taken.connection.finish([&last, &[], &[]], waits.block, waits.final_reply).await;
        self.context.corridor.metrics.next_hop_seconds.observe(asked.elapsed().as_secs_f64());
        match finished {
            Ok(reply) => {
                self.judge_end(&reply);
                if reply.code() == 421 { Err(closing(reply)) } else { Ok(()) }
            }
            Err(FinishError::Early(reply)) => {
                self.judge_end(&reply);
                Err(closing(reply))
            }
            Err(FinishError::Before(error)) => {
                let lost = Reply::new(451, format!("4.4.2 {error}"));
                self.all_undecided(|| PathOutcome::Deferred(lost.clone()));
                Err(error)
            }
            Err(FinishError::Uncertain(error)) => {
                tracing::warn!(id = %self.message.held.id, %error, "replay: no valid reply to the final dot: uncertain");
                self.all_undecided(|| PathOutcome::Uncertain);
                Err(error)
            }
        }
    }

    /// The next piece of mail data; none at the end (then `whole`), or when it cannot be read.
    async fn next_piece(&mut self) -> Option<Bytes> {
        let id = self.message.held.id;
        let mut reader = self.message.reader.take()?;
        let (reader, piece) = tokio::task::spawn_blocking(move || {
            let piece = reader.next();
            (reader, piece)
        })
        .await
        .ok()?;
        self.message.reader = Some(reader);
        match piece {
            Ok(Some(piece)) => Some(piece),
            Ok(None) => {
                self.message.whole = true;
                None
            }
            Err(error) => {
                tracing::error!(%id, %error, "replay: the message cannot be read; it is kept and named");
                None
            }
        }
    }

    fn queue_xforward(&self, taken: &mut Taken, offered: &Extensions) -> usize {
        let attributes = offered.xforward();
        if attributes.is_empty() || !self.context.relay.config().xforward {
            return 0;
        }
        let arrival = &self.message.held.arrival;
        let facts = Xforward {
            name: None,
            address: Some(arrival.client),
            protocol: Some(arrival.protocol.clone()),
            helo: Some(arrival.client_name.clone()).filter(|name| !name.is_empty()),
            ident: Some(self.message.held.id.to_string()),
            source: Some(XforwardSource::Remote),
        };
        taken.connection.queue_xforward(&facts, attributes)
    }

    fn judge_mail(&mut self, reply: &Reply) {
        if reply.is_permanent() {
            self.all(|| PathOutcome::Refused(reply.clone()));
        } else {
            self.feedback = Feedback::PushedBack;
            self.all(|| PathOutcome::Deferred(reply.clone()));
        }
        self.reply = Some(reply.clone());
    }

    fn judge_rcpt(&mut self, place: usize, reply: Reply, accepted: usize) {
        if reply.is_positive() {
            return;
        }
        let too_many = reply.code() == 452
            && reply.enhanced().is_none_or(|code| code.subject == 5 && code.detail == 3);
        self.paths[place].outcome = Some(if reply.is_permanent() {
            PathOutcome::Refused(reply.clone())
        } else if too_many && accepted > 0 {
            PathOutcome::Rest
        } else {
            PathOutcome::Deferred(reply.clone())
        });
        self.reply = Some(reply);
    }

    /// The reply to DATA or to the end of mail data, for all that were accepted.
    fn judge_end(&mut self, reply: &Reply) {
        if reply.is_positive() {
            self.feedback = Feedback::Took;
            self.all_undecided(|| PathOutcome::Relayed(reply.clone()));
        } else if reply.is_permanent() {
            self.all_undecided(|| PathOutcome::Refused(reply.clone()));
        } else {
            self.feedback = Feedback::PushedBack;
            self.all_undecided(|| PathOutcome::Deferred(reply.clone()));
        }
        self.reply = Some(reply.clone());
    }

    fn all(&mut self, outcome: impl Fn() -> PathOutcome) {
        for path in self.paths.iter_mut() {
            path.outcome = Some(outcome());
        }
    }

    fn all_undecided(&mut self, outcome: impl Fn() -> PathOutcome) {
        for path in self.paths.iter_mut().filter(|path| path.outcome.is_none()) {
            path.outcome = Some(outcome());
        }
    }
}

fn closing(reply: Reply) -> LinkError {
    LinkError::Refused { stage: Stage::Rset, reply }
}

fn queue_rcpt(taken: &mut Taken, recipient: &Recipient, dsn: bool) {
    taken.connection.queue(Owed::Rcpt, |output| {
        if dsn || recipient.parameters.is_empty() {
            smtp::encode_rcpt(recipient, output);
        } else {
            // RFC 3461 §5.2.2: to a server without DSN the parameters are not given.
            let plain = Recipient {
                path: recipient.path.clone(),
                parameters: smtp::RcptParameters::default(),
            };
            smtp::encode_rcpt(&plain, output);
        }
    });
}

/// MAIL as this next hop can take it, or what it lacks for this message.
fn fitted(sender: &Sender, offered: &Extensions, size: u64) -> Result<Sender, Need> {
    let mut parameters = sender.parameters.clone();
    if parameters.smtputf8() && !offered.contains(Extension::SmtpUtf8) {
        return Err(Need::SmtpUtf8);
    }
    if parameters.eight_bit() && !offered.contains(Extension::EightBitMime) {
        return Err(Need::EightBitMime);
    }
    if offered.size().is_some_and(|limit| limit > 0 && size > limit) {
        return Err(Need::Size(size));
    }
    if !offered.contains(Extension::EightBitMime) {
        parameters = parameters.without("BODY");
    }
    if !offered.contains(Extension::Dsn) {
        parameters = parameters.without("RET").without("ENVID");
    }
    parameters = parameters.without("SIZE");
    if offered.contains(Extension::Size) {
        parameters = parameters.with(Parameter::new("SIZE", Some(&size.to_string())));
    }
    Ok(Sender { path: sender.path.clone(), parameters })
}
