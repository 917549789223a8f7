//! Couples a client's transaction to one at a member, reply for reply.
//!
//! Invariants
//! - A pooled connection that died is replaced, and another member tried, only while no reply of
//!   this transaction has reached the client.
//! - Mail data streams: at most [`BUFFER`] octets are kept, and the last piece goes out together
//!   with the final dot.
//! - After the final dot there is no second attempt: without a valid reply the outcome is uncertain
//!   and the client hears 451.
//!
//! Not here: the spool, the mode.

use std::time::{Duration, Instant};

use smtp::{
    Command, Extension, Extensions, Owed, Reply, Sender, Xforward, XforwardAttribute,
    XforwardSource,
};

use super::{ClientFacts, Corridor, Verb};
use crate::gate::{MemberIndex, Permit};
use crate::health::Consequence;
use crate::id::TransactionId;
use crate::outcome::Outcome;
use crate::relay::{FinishError, LinkError, Stage, Taken, Waits};

/// Mail data kept before it is written on.
const BUFFER: usize = 64 * 1024;

/// How long a reset of an abandoned transaction may take before the connection is closed instead.
const RESET: Duration = Duration::from_secs(5);

/// A transaction in pass.
pub(super) struct Pass {
    permit: Option<Permit>,
    id: TransactionId,
    member: Option<MemberIndex>,
    taken: Option<Taken>,
    tls: Option<String>,
    /// Verbs that wait for their reply.
    waiting: Vec<Verb>,
    /// A reply of this transaction has reached the client.
    answered: bool,
    /// Recipients that the next hop has accepted.
    accepted: usize,
    /// Why the rest of the transaction cannot succeed.
    failed: Option<Reply>,
    content: Vec<u8>,
}

/// How the waiting verbs were carried out.
enum Carried {
    Replies(Vec<Reply>),
    /// See [`Settled::Unreached`].
    Unreached,
}

/// How one try to carry out the waiting verbs ended.
enum Try {
    Replies(Vec<Reply>),
    /// The connection died; with what came before it did.
    Broken(LinkError),
    /// The next hop is closing (421); its reply.
    Closing(Reply),
}

/// What carrying out the waiting verbs came to.
pub(super) enum Settled {
    /// One reply each.
    Replies(Vec<Reply>),
    /// No member could be reached, nothing was answered, and an order was placed: the verbs as they
    /// were.
    Unreached(Vec<Verb>),
}

/// A connection to `member`, or, while nothing is answered, to another that is free of cordons.
pub(super) async fn connect(
    corridor: &Corridor,
    permit: &Permit,
    member: MemberIndex,
) -> Result<Taken, LinkError> {
    let mut tried = vec![member];
    let mut result = corridor.relay.take(member, false).await;
    while let Err(error) = &result {
        let Some(other) = permit.retarget(&tried) else { break };
        if matches!(error, LinkError::Stranger(_)) {
            corridor.health.failed(tried[tried.len() - 1], error).await;
        }
        tried.push(other);
        result = corridor.relay.take(other, false).await;
    }
    result
}

impl Pass {
    pub(super) fn new(permit: Permit, taken: Option<Taken>) -> Self {
        let fenced = permit.is_aborted();
        let failed = taken.is_none().then_some(if fenced {
            Reply::FENCED
        } else {
            Reply::NEXT_HOP_UNAVAILABLE
        });
        Self {
            id: permit.id(),
            member: permit.member(),
            // Without a connection nothing can reach a member any more.
            permit: taken.is_some().then_some(permit),
            tls: taken.as_ref().and_then(|taken| taken.connection.tls().map(str::to_owned)),
            taken,
            waiting: Vec::new(),
            answered: false,
            accepted: 0,
            failed,
            content: Vec::new(),
        }
    }

    pub(super) const fn permit(&self) -> Option<&Permit> {
        self.permit.as_ref()
    }

    /// Can it still end with a final dot?
    pub(super) fn is_alive(&self) -> bool {
        let permitted = self.permit.as_ref().is_some_and(|permit| !permit.is_aborted());
        permitted && self.failed.is_none() && self.taken.is_some()
    }

    /// Does the next hop hear our id (XFORWARD IDENT)?
    pub(super) fn tells_ident(&self, corridor: &Corridor) -> bool {
        let offered = self.taken.as_ref().map(|taken| taken.connection.extensions().xforward());
        corridor.relay.config().xforward
            && offered.is_some_and(|offered| offered.contains(XforwardAttribute::Ident))
    }

    pub(super) const fn id(&self) -> TransactionId {
        self.id
    }

    pub(super) const fn member(&self) -> Option<MemberIndex> {
        self.member
    }

    pub(super) fn tls(&self) -> Option<&str> {
        self.tls.as_deref()
    }

    pub(super) fn push(&mut self, verb: Verb) {
        self.waiting.push(verb);
    }

    /// Gives the next hop up without a final dot; what follows is answered `reply`.
    pub(super) fn abort(&mut self, reply: Reply) {
        self.failed = Some(reply);
        // Closing without the final dot is how an unfinished message is thrown away; a member must
        // not get it by a QUIT in the middle of the data either.
        self.taken = None;
        self.permit = None;
        self.content = Vec::new();
    }

    /// Carries out the waiting verbs.
    pub(super) async fn settle(&mut self, corridor: &Corridor, client: &ClientFacts) -> Settled {
        let verbs = std::mem::take(&mut self.waiting);
        if let Some(reply) = &self.failed {
            return Settled::Replies(vec![reply.clone(); verbs.len()]);
        }
        let Some(fence) = self.permit.as_ref().map(Permit::fence) else {
            return Settled::Replies(vec![Reply::NEXT_HOP_LOST; verbs.len()]);
        };
        if verbs.is_empty() {
            return Settled::Replies(Vec::new());
        }
        let carried = tokio::select! {
            carried = self.carry_out(corridor, client, &verbs) => carried,
            _ = fence.down() => {
                self.abort(Reply::FENCED);
                Carried::Replies(vec![Reply::FENCED; verbs.len()])
            }
        };
        let replies = match carried {
            Carried::Replies(replies) => replies,
            Carried::Unreached => return Settled::Unreached(verbs),
        };
        self.answered = true;
        let replies: Vec<Reply> = replies.into_iter().map(for_client).collect();
        for (verb, reply) in verbs.iter().zip(&replies) {
            if matches!(verb, Verb::Rcpt(_)) && reply.is_positive() {
                self.accepted += 1;
            }
            if matches!(verb, Verb::Data) && reply.is_intermediate() && self.accepted == 0 {
                // RFC 2920 §3.1: a next hop may ask for data though it refused every recipient. The
                // session answers for us; nothing may be sent on this connection any more.
                self.taken = None;
            }
        }
        Settled::Replies(replies)
    }

    /// Answers everything that waits with `reply`: there is no next hop for it.
    pub(super) fn give_up_waiting(&mut self, reply: Reply) -> Vec<Reply> {
        let count = std::mem::take(&mut self.waiting).len();
        self.answered = true;
        self.give_up(reply, count)
    }

    async fn carry_out(
        &mut self,
        corridor: &Corridor,
        client: &ClientFacts,
        verbs: &[Verb],
    ) -> Carried {
        let mut tried: Vec<MemberIndex> = self.member.into_iter().collect();
        loop {
            let Some(taken) = &mut self.taken else {
                return Carried::Replies(self.give_up(Reply::NEXT_HOP_UNAVAILABLE, verbs.len()));
            };
            if let Some(reply) = shrunk(taken.connection.extensions(), verbs) {
                return Carried::Replies(self.give_up(reply, verbs.len()));
            }
            let pooled = taken.pooled;
            let waits = corridor.relay.waits();
            let identity = corridor.relay.config().xforward.then_some((client, self.id));
            let reply = match attempt(taken, verbs, identity, waits).await {
                Try::Replies(replies) => return Carried::Replies(replies),
                Try::Broken(error) => {
                    tracing::debug!(id = %self.id, %error, "pass: the next hop broke off");
                    Reply::NEXT_HOP_LOST
                }
                Try::Closing(reply) => reply,
            };
            self.taken = None;
            if self.answered {
                return Carried::Replies(self.give_up(reply, verbs.len()));
            }
            // Nothing of this transaction was answered: it may begin again, unseen; on a fresh
            // connection when a pooled one had died, else at another member.
            match self.again(corridor, pooled, &mut tried).await {
                Ok(true) => {}
                Ok(false) => return Carried::Replies(self.give_up(reply, verbs.len())),
                Err(error) => {
                    let member = self.member.unwrap_or_default();
                    if Box::pin(corridor.health.failed(member, &error)).await
                        == Consequence::Ordered
                    {
                        self.permit = None;
                        return Carried::Unreached;
                    }
                    return Carried::Replies(
                        self.give_up(Reply::NEXT_HOP_UNAVAILABLE, verbs.len()),
                    );
                }
            }
        }
    }

    /// Takes another connection for a transaction of which nothing was answered. False: there is
    /// nobody else to try.
    async fn again(
        &mut self,
        corridor: &Corridor,
        pooled: bool,
        tried: &mut Vec<MemberIndex>,
    ) -> Result<bool, LinkError> {
        let Some(permit) = &self.permit else { return Ok(false) };
        let mut failure = None;
        if pooled {
            match corridor.relay.take(permit.member().unwrap_or_default(), true).await {
                Ok(taken) => {
                    self.take_over(taken);
                    return Ok(true);
                }
                Err(error) => failure = Some(error),
            }
        }
        while let Some(other) = permit.retarget(tried) {
            tried.push(other);
            self.member = Some(other);
            match corridor.relay.take(other, false).await {
                Ok(taken) => {
                    self.take_over(taken);
                    return Ok(true);
                }
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(false), Err)
    }

    fn take_over(&mut self, taken: Taken) {
        self.tls = taken.connection.tls().map(str::to_owned);
        self.taken = Some(taken);
    }

    fn give_up(&mut self, reply: Reply, count: usize) -> Vec<Reply> {
        self.taken = None;
        self.permit = None;
        let reply = for_client(reply);
        self.failed = Some(if reply.is_permanent() { Reply::NEXT_HOP_LOST } else { reply.clone() });
        vec![reply; count]
    }

    pub(super) async fn mail_data(&mut self, piece: &[u8], waits: Waits) {
        let Some(fence) = self.permit.as_ref().map(Permit::fence) else { return };
        tokio::select! {
            () = self.stream(piece, waits) => {}
            _ = fence.down() => self.abort(Reply::FENCED),
        }
    }

    async fn stream(&mut self, piece: &[u8], waits: Waits) {
        if self.failed.is_some() {
            return;
        }
        if self.content.len() + piece.len() <= BUFFER {
            self.content.extend_from_slice(piece);
            return;
        }
        let Some(taken) = &mut self.taken else { return };
        let result = taken.connection.mail_data(&[&self.content, piece], waits.block).await;
        self.content.clear();
        if let Err(error) = result {
            tracing::debug!(id = %self.id, %error, "pass: the next hop takes no more mail data");
            // It may have said why, and that is worth more to the client than our words.
            let said = taken.connection.early_reply().await.ok().flatten();
            self.taken = None;
            self.failed = Some(for_client(said.unwrap_or(Reply::NEXT_HOP_LOST)));
        }
    }

    /// Sends the last pieces with the final dot.
    pub(super) async fn finish(
        &mut self,
        corridor: &Corridor,
        [first, second]: [&[u8]; 2],
        waits: Waits,
    ) -> (Outcome, Reply) {
        if let Some(reply) = self.failed.take() {
            return (Outcome::of(&reply), reply);
        }
        let (Some(mut taken), Some(permit)) = (self.taken.take(), &self.permit) else {
            return (Outcome::Deferred, Reply::NEXT_HOP_LOST);
        };
        if permit.pass_final_dot().is_err() {
            return (Outcome::Deferred, Reply::FENCED);
        }
        let asked = Instant::now();
        let last = [self.content.as_slice(), first, second];
        let finished = taken.connection.finish(last, waits.block, waits.final_reply).await;
        corridor.metrics.next_hop_seconds.observe(asked.elapsed().as_secs_f64());
        let ended = match finished {
            Ok(reply) => {
                corridor.relay.give_back(taken);
                (Outcome::of(&reply), for_client(reply))
            }
            Err(FinishError::Early(reply)) => {
                let reply = for_client(reply);
                (Outcome::of(&reply), reply)
            }
            Err(FinishError::Before(error)) => {
                tracing::debug!(id = %self.id, %error, "pass: lost before the final dot");
                (Outcome::Deferred, Reply::NEXT_HOP_LOST)
            }
            Err(FinishError::Uncertain(error)) => {
                tracing::warn!(id = %self.id, %error, "pass: no valid reply to the final dot; the client may send the message again");
                (Outcome::Uncertain, Reply::UNCERTAIN)
            }
        };
        self.permit = None;
        ended
    }

    /// Ends a transaction without mail data so that the connection can serve another.
    pub(super) async fn reset(&mut self, corridor: &Corridor) {
        let Some(mut taken) = self.taken.take() else { return };
        if !taken.connection.can_reset() {
            return;
        }
        taken.connection.queue(Owed::Rset, |output| Command::Rset.encode(output));
        if taken.connection.flush(RESET).await.is_ok()
            && taken.connection.reply(RESET).await.is_ok()
        {
            corridor.relay.give_back(taken);
        }
    }
}

/// Says `verbs` on a connection and collects their replies: in one burst when the next hop offers
/// PIPELINING, else one by one.
async fn attempt(
    taken: &mut Taken,
    verbs: &[Verb],
    client: Option<(&ClientFacts, TransactionId)>,
    waits: Waits,
) -> Try {
    let pipelining = taken.connection.extensions().contains(Extension::Pipelining);
    let mut identity = 0;
    if let (Some((client, id)), Some(Verb::Mail(_))) = (client, verbs.first()) {
        identity = queue_xforward(taken, client, id);
    }
    let mut replies = Vec::with_capacity(verbs.len());
    if pipelining {
        for verb in verbs {
            queue(taken, verb);
        }
        if let Err(error) = taken.connection.flush(waits.block).await {
            return Try::Broken(error);
        }
    }
    for _ in 0..identity {
        if !pipelining && let Err(error) = taken.connection.flush(waits.block).await {
            return Try::Broken(error);
        }
        match taken.connection.reply(waits.mail).await {
            // A refused XFORWARD costs the next hop knowledge, not the client its mail.
            Ok(reply) if reply.code() != 421 => {}
            Ok(reply) => return Try::Closing(reply),
            Err(error) => return Try::Broken(error),
        }
    }
    for verb in verbs {
        if !pipelining {
            queue(taken, verb);
            if let Err(error) = taken.connection.flush(waits.block).await {
                return Try::Broken(error);
            }
        }
        let wait = match verb {
            Verb::Mail(_) => waits.mail,
            Verb::Rcpt(_) => waits.rcpt,
            Verb::Data => waits.data,
        };
        match taken.connection.reply(wait).await {
            Ok(reply) if reply.code() == 421 => return Try::Closing(reply),
            Ok(reply) => replies.push(reply),
            Err(error) => return Try::Broken(error),
        }
    }
    Try::Replies(replies)
}

fn queue(taken: &mut Taken, verb: &Verb) {
    match verb {
        Verb::Mail(sender) => {
            taken.connection.queue(Owed::Mail, |output| smtp::encode_mail(sender, output));
        }
        Verb::Rcpt(recipient) => {
            taken.connection.queue(Owed::Rcpt, |output| smtp::encode_rcpt(recipient, output));
        }
        Verb::Data => {
            taken.connection.queue(Owed::Data, |output| Command::Data.encode(output));
        }
    }
}

fn queue_xforward(taken: &mut Taken, client: &ClientFacts, id: TransactionId) -> usize {
    let offered = taken.connection.extensions().xforward();
    if offered.is_empty() {
        return 0;
    }
    let facts = Xforward {
        name: None,
        address: Some(client.address),
        protocol: Some(if client.extended { "ESMTP" } else { "SMTP" }.to_owned()),
        helo: client.name.clone(),
        ident: Some(id.to_string()),
        source: Some(XforwardSource::Remote),
    };
    taken.connection.queue_xforward(&facts, offered)
}

/// A next hop that no longer offers what the client was told we offer cannot be given this mail.
fn shrunk(offered: &Extensions, verbs: &[Verb]) -> Option<Reply> {
    let missing = verbs.iter().find_map(|verb| match verb {
        Verb::Mail(sender) => missing_for(sender, offered),
        Verb::Rcpt(recipient) => (!recipient.parameters.is_empty()
            && !offered.contains(Extension::Dsn))
        .then_some(Extension::Dsn),
        Verb::Data => None,
    })?;
    let text =
        format!("4.4.0 the next hop no longer offers {}, try again later", missing.keyword());
    Some(Reply::new(451, text))
}

/// The first extension that MAIL needs and that is not offered.
pub(crate) fn missing_for(sender: &Sender, offered: &Extensions) -> Option<Extension> {
    let parameters = &sender.parameters;
    let needs = [
        (Extension::Size, parameters.get("SIZE").is_some()),
        (Extension::EightBitMime, parameters.get("BODY").is_some()),
        (Extension::SmtpUtf8, parameters.smtputf8()),
        (Extension::Dsn, parameters.get("RET").is_some() || parameters.get("ENVID").is_some()),
    ];
    needs
        .into_iter()
        .find(|(extension, needed)| *needed && !offered.contains(*extension))
        .map(|(extension, _)| extension)
}

/// A reply of the next hop as the client may hear it: 421 would end the client's own session.
pub(crate) fn for_client(reply: Reply) -> Reply {
    if reply.code() == 421 { reply.with_code(451) } else { reply }
}

impl From<&LinkError> for Outcome {
    fn from(error: &LinkError) -> Self {
        if error.stage() == Stage::EndOfData { Self::Uncertain } else { Self::Deferred }
    }
}
