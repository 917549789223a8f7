//! One mail transaction, in one of two corridors: pass couples it to a next hop, hold takes it into
//! the spool. Both have the same verbs, so that the session does not know which it is.
//!
//! Verbs: MAIL ([`Transaction::begin`]), [`Transaction::rcpt`] and [`Transaction::data`] are only noted;
//! [`Transaction::settle`] carries them out and gives one reply each, in order (so a pipelining
//! client is pipelined to the next hop). Then [`Transaction::mail_data`] takes the content, and
//! [`Transaction::finish`] ends it.
//!
//! Invariants
//! - A 2yz to the end of mail data comes from the spool's commit, from the next hop's own reply
//!   after the last octet, or (where that is configured) from the proof that a member took this very
//!   message before; from nowhere else.
//! - The permit lives exactly as long as the transaction.
//! - The client hears 451, never 5yz, about the link to a next hop; 421 becomes 451 (RFC 5321
//!   §4.2.1: 421 would end *its* session).
//!
//! Not here: bytes and lines (`session`), the mode (`gate`), how a connection is found (`relay`).

mod hold;
mod pass;
mod peeked;
pub mod record;
pub mod repeats;
mod returning;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use smtp::{Protocol, Recipient, Reply, Sender, Trace};

use crate::clock;
use crate::digest::Sha256;
use crate::gate::{Fenced, Gate, Mode, Permit};
use crate::health::{Consequence, Health};
use crate::id::{Ids, TransactionId};
use crate::journal::{self, Doing, Ended, Facts, Journal, Offered, PathEnd, Returned};
use crate::metrics::GateMetrics;
use crate::outcome::Outcome;
use crate::relay::{Relay, Taken};
use crate::spool::Spool;
use crate::token::Tokens;

use hold::Hold;
use pass::{Pass, Settled};
use repeats::{Print, Repeats};
use returning::Returning;

pub use peeked::Peeked;
pub use record::Record;

/// Octets that our trace field usually takes.
const TRACE_OCTETS: usize = 384;

/// What every transaction of one gate needs.
pub struct Corridor {
    /// The gate.
    pub gate: Gate,
    /// The way to its members.
    pub relay: Arc<Relay>,
    /// Where held mail goes.
    pub spool: Spool,
    /// Where everything that is handed over is written down.
    pub journal: Journal,
    /// Gives ids.
    pub ids: Arc<Ids>,
    /// Told of members that cannot be reached.
    pub health: Arc<Health>,
    /// Counts.
    pub metrics: Arc<GateMetrics>,
    /// Name of this host in trace fields.
    pub host: Arc<str>,
    /// Add a trace field in pass.
    pub trace: bool,
    /// In hold, the only domains that are taken; empty: all.
    pub recipient_domains: Vec<String>,
    /// What was passed on with an uncertain end; none: it is not known when it comes again.
    pub repeats: Option<Repeats>,
    /// Tokens of probes, given out at forward gates and looked for at return gates.
    pub tokens: Arc<Tokens>,
}

/// Who gives us mail in this session.
#[derive(Clone, Debug)]
pub struct ClientFacts {
    /// Its address.
    pub address: SocketAddr,
    /// What it called itself.
    pub name: Option<String>,
    /// It said EHLO.
    pub extended: bool,
    /// TLS of the session.
    pub tls: Option<String>,
}

/// A transaction from MAIL to its end.
pub struct Transaction {
    corridor: Arc<Corridor>,
    client: ClientFacts,
    sender: Sender,
    recipients: Vec<Recipient>,
    began: Instant,
    kind: Kind,
    /// Verbs that wait for their 451.
    refused: usize,
    /// Verbs that were answered: MAIL, then each RCPT, then DATA.
    answered: usize,
    /// Forward-paths that were not accepted, by place, with the reply.
    rejected: Vec<(usize, Reply)>,
    /// The journal says already that it was offered.
    offered: bool,
    /// Mail data has ended: its reply is for all that were accepted.
    ended: bool,
    /// Of mail data as received, without our trace field; in hold, and where repetitions are looked for.
    digest: Option<Sha256>,
    /// In mail data, at a return gate.
    returning: Option<Box<Returning>>,
    _counted: Counted,
}

/// Counts the transaction as under way for as long as it lives, however it ends.
struct Counted(Arc<GateMetrics>);

impl Counted {
    fn new(metrics: &Arc<GateMetrics>) -> Self {
        metrics.in_flight.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

enum Kind {
    Pass(Box<Pass>),
    Hold(Box<Hold>),
    /// Answers 451 to MAIL.
    Refuse(Permit),
}

impl Kind {
    fn of(permit: Permit, taken: Option<Taken>) -> Self {
        match permit.mode() {
            Mode::Pass => Self::Pass(Box::new(Pass::new(permit, taken))),
            Mode::Hold => Self::Hold(Box::new(Hold::new(permit))),
            Mode::Refuse => Self::Refuse(permit),
        }
    }
}

/// A verb that waits to be carried out.
#[derive(Clone, Debug)]
enum Verb {
    Mail(Sender),
    Rcpt(Recipient),
    Data,
}

/// Content that was found in mail data, in wire form. Whoever is given it takes it out of the input.
#[derive(Debug)]
pub struct Content<'a> {
    /// Octets withheld before.
    pub carried: &'static [u8],
    /// What was read.
    pub input: &'a mut BytesMut,
    /// So many of its first octets are content.
    pub octets: usize,
}

impl Content<'_> {
    fn pieces(&self) -> [&[u8]; 2] {
        [self.carried, &self.input[..self.octets]]
    }
}

/// How mail data ended, from the session's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Whole.
    Complete,
    /// To be refused with this reply: nothing of it may be completed anywhere.
    Refused(Reply),
}

impl Transaction {
    /// Enters the gate for a client's MAIL. The mode is fixed from here on.
    pub async fn begin(corridor: &Arc<Corridor>, client: &ClientFacts, sender: Sender) -> Self {
        let id = corridor.ids.next(clock::unix_micros());
        let mut permit = corridor.gate.enter(id, |member| corridor.relay.worth_a_try(member));
        let mut taken = None;
        if let (Mode::Pass, Some(member)) = (permit.mode(), permit.member()) {
            // A connection is had before MAIL is answered: without one, the health check may place
            // an order, and the transaction enters anew, perhaps as held.
            let fence = permit.fence();
            let connected = tokio::select! {
                connected = pass::connect(corridor, &permit, member) => Some(connected),
                _ = fence.down() => None,
            };
            match connected {
                None => {}
                Some(Ok(connection)) => taken = Some(connection),
                Some(Err(error)) => {
                    let member = permit.member().unwrap_or(member);
                    if Box::pin(corridor.health.failed(member, &error)).await
                        == Consequence::Ordered
                    {
                        drop(permit);
                        permit =
                            corridor.gate.enter(id, |member| corridor.relay.worth_a_try(member));
                    }
                }
            }
        }
        let kind = Kind::of(permit, taken);
        let mut transaction = Self {
            corridor: Arc::clone(corridor),
            client: client.clone(),
            sender: sender.clone(),
            recipients: Vec::new(),
            began: Instant::now(),
            kind,
            refused: 0,
            answered: 0,
            rejected: Vec::new(),
            offered: false,
            ended: false,
            digest: None,
            returning: None,
            _counted: Counted::new(&corridor.metrics),
        };
        transaction.push(Verb::Mail(sender));
        transaction
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        match &self.kind {
            Kind::Pass(pass) => pass.id(),
            Kind::Hold(hold) => hold.permit().id(),
            Kind::Refuse(permit) => permit.id(),
        }
    }

    /// Notes a recipient.
    pub fn rcpt(&mut self, recipient: Recipient) {
        self.recipients.push(recipient.clone());
        self.push(Verb::Rcpt(recipient));
    }

    /// Notes that the client asked to send mail data.
    pub fn data(&mut self) {
        self.push(Verb::Data);
    }

    /// Carries out what was noted; one reply each, in order.
    pub async fn settle(&mut self) -> Vec<Reply> {
        let replies = self.carry_out().await;
        let mode = self.mode();
        for reply in &replies {
            self.corridor.metrics.replied(mode, reply);
            let rcpt = (1..=self.recipients.len()).contains(&self.answered);
            if rcpt && !reply.is_positive() {
                self.rejected.push((self.answered - 1, reply.clone()));
            }
            self.answered += 1;
        }
        replies
    }

    async fn carry_out(&mut self) -> Vec<Reply> {
        let corridor = Arc::clone(&self.corridor);
        let verbs = match &mut self.kind {
            Kind::Pass(pass) => match pass.settle(&corridor, &self.client).await {
                Settled::Replies(replies) => return replies,
                Settled::Unreached(verbs) => verbs,
            },
            Kind::Hold(hold) => return hold.settle(&corridor, &self.client).await,
            Kind::Refuse(_) => {
                // One reply for each verb: MAIL, and what was pipelined behind it.
                let verbs = std::mem::take(&mut self.refused);
                return vec![Reply::REFUSED_BY_ORDER; verbs];
            }
        };
        // No member could be reached, nothing was answered, and the health check has placed an
        // order: the transaction enters the gate anew.
        let id = self.id();
        let permit = corridor.gate.enter(id, |member| corridor.relay.worth_a_try(member));
        self.kind = Kind::of(permit, None);
        for verb in verbs {
            self.push(verb);
        }
        match &mut self.kind {
            Kind::Hold(hold) => hold.settle(&corridor, &self.client).await,
            Kind::Pass(pass) => pass.give_up_waiting(Reply::NEXT_HOP_UNAVAILABLE),
            Kind::Refuse(_) => {
                vec![Reply::REFUSED_BY_ORDER; std::mem::take(&mut self.refused)]
            }
        }
    }

    /// Resolves when a fence aborts this transaction.
    pub async fn fenced(&self) -> Fenced {
        match self.permit() {
            Some(permit) => permit.fence().down().await,
            None => std::future::pending().await,
        }
    }

    /// The fence came: gives the next hop up, at once.
    pub fn abort(&mut self) {
        match &mut self.kind {
            Kind::Pass(pass) => pass.abort(Reply::FENCED),
            Kind::Hold(hold) => hold.abort(),
            Kind::Refuse(_) => {}
        }
    }

    /// Begins the content: our trace field comes first.
    pub async fn begin_mail_data(&mut self) {
        let smtputf8 = self.sender.parameters.smtputf8();
        let mut field = Vec::with_capacity(TRACE_OCTETS);
        let held = matches!(self.kind, Kind::Hold(_));
        self.digest = (held || self.corridor.repeats.is_some()).then(Sha256::default);
        self.returning = Returning::begin(&self.corridor).map(Box::new);
        if held || self.corridor.trace {
            let id = self.id().to_string();
            let date = clock::rfc_5322(clock::unix_ms());
            Trace {
                client_name: self.client.name.as_deref(),
                client_address: self.client.address.ip().to_canonical(),
                by: &self.corridor.host,
                with: Protocol::new(self.client.extended, self.client.tls.is_some(), smtputf8),
                id: &id,
                date: &date,
                tls: self.client.tls.as_deref(),
            }
            .encode(&mut field);
        }
        let octets = field.len();
        let mut input = BytesMut::from(field.as_slice());
        self.give(Content { carried: b"", input: &mut input, octets }).await;
    }

    /// Takes content, of which `peeked` has seen the header. Never fails: what went wrong is told at the end.
    pub async fn mail_data(&mut self, content: Content<'_>, peeked: &Peeked) {
        self.look_at(&content, peeked);
        self.give(content).await;
    }

    fn look_at(&mut self, content: &Content<'_>, peeked: &Peeked) {
        if let Some(digest) = &mut self.digest {
            content.pieces().into_iter().for_each(|piece| digest.update(piece));
        }
        if let Some(returning) = &mut self.returning {
            returning.look_at(content.pieces(), peeked);
        }
    }

    async fn give(&mut self, content: Content<'_>) {
        match &mut self.kind {
            Kind::Pass(pass) => {
                let waits = self.corridor.relay.waits();
                for piece in content.pieces().into_iter().filter(|piece| !piece.is_empty()) {
                    pass.mail_data(piece, waits).await;
                }
                content.input.advance(content.octets);
            }
            Kind::Hold(hold) => hold.mail_data(content).await,
            Kind::Refuse(_) => content.input.advance(content.octets),
        }
    }

    /// Ends mail data with the last of its content: the reply is what the client hears. Writes the log line.
    pub async fn finish(
        mut self,
        end: End,
        last: Content<'_>,
        peeked: &Peeked,
        size: u64,
    ) -> Reply {
        let corridor = Arc::clone(&self.corridor);
        let waits = corridor.relay.waits();
        self.look_at(&last, peeked);
        if end == End::Complete {
            self.keep_copy(peeked);
        }
        let content_sha256 = self.digest.take().and_then(Sha256::finish);
        let print = content_sha256.filter(|_| end == End::Complete).map(|sha256| Print {
            from: record::from_of(&self.sender).to_string(),
            size,
            sha256,
        });
        if let Some(print) = &print
            && let Some(id) = self.known(print)
        {
            last.input.advance(last.octets);
            return self.answer_known(id, peeked, (size, content_sha256));
        }
        if end == End::Complete && matches!(&self.kind, Kind::Pass(pass) if pass.is_alive()) {
            self.offered = true;
            let facts = self.facts(Some(peeked));
            corridor.journal.offered(Offered { at_ns: clock::unix_nanos(), facts }).await;
        }
        self.ended = true;
        let (outcome, reply) = match (&mut self.kind, end) {
            (Kind::Pass(pass), End::Complete) => {
                let finished = pass.finish(&corridor, last.pieces(), waits).await;
                last.input.advance(last.octets);
                finished
            }
            (Kind::Hold(hold), End::Complete) => {
                hold.mail_data(last).await;
                hold.finish(&corridor, peeked.header().message_id()).await
            }
            (Kind::Pass(pass), End::Refused(reply)) => {
                last.input.advance(last.octets);
                pass.abort(reply.clone());
                (Outcome::Refused, reply)
            }
            (Kind::Hold(hold), End::Refused(reply)) => {
                last.input.advance(last.octets);
                hold.abort();
                (Outcome::Refused, reply)
            }
            (Kind::Refuse(_), _) => {
                last.input.advance(last.octets);
                (Outcome::Deferred, Reply::REFUSED_BY_ORDER)
            }
        };
        if let (Some(repeats), Some(print), true) =
            (&corridor.repeats, print, self.offered && outcome == Outcome::Uncertain)
        {
            repeats.note(self.id(), print, self.accepted(), Instant::now());
        }
        self.record(outcome, &reply, Some(peeked), (size, content_sha256));
        corridor.metrics.replied(self.mode(), &reply);
        reply
    }

    /// What came back of a probe is kept, whatever the next hop says to it.
    fn keep_copy(&mut self, peeked: &Peeked) {
        let (id, to) = (self.id(), self.accepted());
        if let Some(returning) = &mut self.returning {
            returning.keep(id, to, peeked);
        }
    }

    /// Under which id a member took this very message before, if one did and this transaction could take it again.
    fn known(&self, print: &Print) -> Option<TransactionId> {
        let able = match &self.kind {
            Kind::Pass(pass) => pass.is_alive(),
            Kind::Hold(hold) => hold.is_alive(),
            Kind::Refuse(_) => false,
        };
        let repeats = self.corridor.repeats.as_ref().filter(|_| able)?;
        repeats.known(print, &self.accepted())
    }

    /// Ends a repetition of what was taken as `id`: nothing of it is completed anywhere, and the client is free of it.
    fn answer_known(
        mut self,
        id: TransactionId,
        peeked: &Peeked,
        content: (u64, Option<[u8; 32]>),
    ) -> Reply {
        let reply = Reply::new(250, format!("2.0.0 Ok: taken before as {id}"));
        self.ended = true;
        match &mut self.kind {
            Kind::Pass(pass) => pass.abort(reply.clone()),
            Kind::Hold(hold) => hold.abort(),
            Kind::Refuse(_) => {}
        }
        self.record(Outcome::Known, &reply, Some(peeked), content);
        self.corridor.metrics.replied(self.mode(), &reply);
        reply
    }

    /// Forward-paths that were not rejected, as written.
    fn accepted(&self) -> Vec<String> {
        let rejected = |place: usize| self.rejected.iter().any(|(other, _)| *other == place);
        let paths = self.recipients.iter().enumerate().filter(|(place, _)| !rejected(*place));
        paths.map(|(_, recipient)| recipient.path.to_string()).collect()
    }

    /// Ends a transaction that will have no mail data: reset, refused, or the client left.
    pub async fn abandon(mut self, last: Option<&Reply>) {
        let corridor = Arc::clone(&self.corridor);
        let outcome = match last {
            Some(reply) if reply.is_permanent() => Outcome::Refused,
            Some(reply) if reply.is_transient() => Outcome::Deferred,
            _ => Outcome::Abandoned,
        };
        let reply = last.cloned().unwrap_or(Reply::FLUSHED);
        self.record(outcome, &reply, None, (0, None));
        if let Kind::Pass(pass) = &mut self.kind {
            pass.reset(&corridor).await;
        }
    }

    const fn mode(&self) -> Mode {
        match &self.kind {
            Kind::Pass(_) => Mode::Pass,
            Kind::Hold(_) => Mode::Hold,
            Kind::Refuse(_) => Mode::Refuse,
        }
    }

    fn push(&mut self, verb: Verb) {
        match &mut self.kind {
            Kind::Pass(pass) => pass.push(verb),
            Kind::Hold(hold) => hold.push(verb),
            Kind::Refuse(_) => self.refused += 1,
        }
    }

    fn permit(&self) -> Option<&Permit> {
        match &self.kind {
            Kind::Pass(pass) => pass.permit(),
            Kind::Hold(hold) => Some(hold.permit()),
            Kind::Refuse(permit) => Some(permit),
        }
    }

    /// Who is spoken to, and how.
    fn next_hop(&self) -> (Option<&str>, Option<&str>) {
        let Kind::Pass(pass) = &self.kind else { return (None, None) };
        let members = &self.corridor.gate.plan().members;
        (pass.member().map(|member| members[member].as_str()), pass.tls())
    }

    /// What the journal is to know of it.
    fn facts<'a>(&'a self, peeked: Option<&'a Peeked>) -> Facts<'a> {
        let (doing, told_ident) = match &self.kind {
            Kind::Pass(pass) => (Doing::Pass, pass.tells_ident(&self.corridor)),
            Kind::Hold(_) => (Doing::Hold, false),
            Kind::Refuse(_) => (Doing::Refuse, false),
        };
        let (member, tls) = self.next_hop();
        let id = self.id().as_u64();
        let settled = self.rejected.iter().map(|(path, reply)| PathEnd {
            path: u32::try_from(*path).unwrap_or(u32::MAX),
            outcome: Outcome::of(reply),
            reply: journal::text_of(reply).into(),
        });
        let (header_octets, header_sha256) = peeked.map_or((0, None), Peeked::digest);
        Facts {
            id,
            doing,
            gate: self.corridor.gate.name().into(),
            member: member.map(Into::into),
            client: Some(self.client.address),
            told_ident,
            from: record::from_of(&self.sender).into(),
            to: self.recipients.iter().map(|to| to.path.to_string().into()).collect(),
            message_id: peeked.and_then(|peeked| peeked.header().message_id()).map(Into::into),
            media_type: peeked.and_then(Peeked::media_type).map(Into::into),
            processed: peeked.is_some_and(|peeked| peeked.header().pgp_marks().universal),
            passed_as: peeked.and_then(Peeked::passed_as),
            header_octets,
            header_sha256,
            // An id is the moment of MAIL in microseconds.
            began_ns: id.saturating_mul(1000),
            tls: tls.map(Into::into),
            settled: settled.collect(),
        }
    }

    /// Forward-paths that were accepted in a transaction that ended by the refusal of others: nobody refused them.
    fn left_behind(&self, outcome: Outcome) -> Vec<PathEnd<'static>> {
        let refused = matches!(outcome, Outcome::Refused | Outcome::Deferred);
        if self.rejected.is_empty() || !refused || self.ended {
            return Vec::new();
        }
        let rejected = |place: &usize| self.rejected.iter().any(|(other, _)| other == place);
        (0..self.recipients.len())
            .filter(|place| !rejected(place) && self.answered > place + 1)
            .map(|place| PathEnd {
                path: u32::try_from(place).unwrap_or(u32::MAX),
                outcome: Outcome::Abandoned,
                reply: "".into(),
            })
            .collect()
    }

    fn record(
        &self,
        outcome: Outcome,
        reply: &Reply,
        peeked: Option<&Peeked>,
        (size, content_sha256): (u64, Option<[u8; 32]>),
    ) {
        let mode = self.mode();
        let (member, tls) = self.next_hop();
        self.corridor.metrics.ended(mode, outcome);
        let ended = Ended {
            at_ns: clock::unix_nanos(),
            id: self.id().as_u64(),
            facts: (!self.offered).then(|| self.facts(peeked)),
            outcome,
            reply: journal::text_of(reply).into(),
            others: self.left_behind(outcome),
            size,
            content_sha256,
        };
        let mark = self.returning.as_ref().zip(peeked);
        match mark.and_then(|(returning, peeked)| returning.mark(peeked)) {
            Some(mark) => self.corridor.journal.returned(Returned { ended, mark }),
            None => self.corridor.journal.ended(ended),
        }
        if !Record::wanted() {
            return;
        }
        let gate = &self.corridor.gate;
        Record {
            id: self.id(),
            what: "transaction",
            gate: gate.name(),
            mode: mode.as_str(),
            member,
            client: Some(self.client.address),
            from: record::from_of(&self.sender),
            to: record::to_of(self.recipients.iter()),
            recipients: self.recipients.len(),
            size,
            message_id: peeked.and_then(|peeked| peeked.header().message_id()),
            outcome,
            reply: reply.to_string(),
            began: self.began,
            tls,
        }
        .log();
    }
}
