//! A probe: one small test message to one member, on the same way that mail takes.
//!
//! It goes through the gate's own relay, from its source address and under its name, so that it
//! meets what mail would meet. It is how one finds out whether a new server may get mail: a server
//! whose identity changed is reported, not refused, and when it takes the probe the relay remembers
//! that, so that a release may accept it.
//!
//! The message is lockgate's own, or one that is given (`message`), with two fields of lockgate's
//! above it: a token and a Message-ID.
//!
//! Invariants
//! - A probe holds a permit like everything else that speaks to a member; a fence ends it before its
//!   final dot.
//! - It never uses a pooled connection and never leaves one behind.
//! - What the member does not offer is not sent: the probe is blocked.
//! - Only a 2yz to the end of mail data counts, and it counts for the identity of that connection.
//!
//! Not here: what became of the message behind the server (logs, mailboxes and return gates tell, by
//! its Message-ID and token), the accepting of an identity (`replay`).

mod message;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use smtp::{
    Command, Envelope, Extension, Extensions, ForwardPath, HeaderPeek, MailParameters, Owed,
    Parameter, RcptParameters, Recipient, Reply, ReversePath, Sender,
};

use crate::clock;
use crate::gate::{Closed, Errand, Fenced, MemberIndex, Permit};
use crate::id::TransactionId;
use crate::journal::{Doing, Ended, Facts, Offered};
use crate::outcome::Outcome;
use crate::relay::{Connection, FinishError, LinkError, Stage};
use crate::token::Token;
use crate::transaction::Corridor;
use crate::transaction::record::{self, Record};

pub use message::{Message, MessageError, OCTETS_MAX};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Reverse-path; none: the null reverse-path.
    pub from: Option<&'a str>,
    /// Forward-path.
    pub to: &'a str,
    /// The message; none: lockgate's own.
    pub message: Option<&'a Message>,
}

/// What a probe found.
#[derive(Clone, Debug)]
pub struct ProbeResult {
    /// The member.
    pub member: String,
    /// It took the message: a 2yz to the end of mail data.
    pub accepted: bool,
    /// Stage of the last reply, or of the error.
    pub stage: Stage,
    /// The last reply, or what went wrong.
    pub reply: String,
    /// Who answered.
    pub identity: Option<String>,
    /// It is another than the one that was learned.
    pub identity_changed: bool,
    /// EHLO keywords.
    pub extensions: Option<String>,
    /// TLS, none in clear.
    pub tls: Option<String>,
    /// Message-ID of the probe, as its field has it.
    pub message_id: String,
    /// By what it is known again; none when nothing was made to be sent.
    pub token: Option<Token>,
}

/// What is sent.
struct Content {
    /// In wire form, without the final dot.
    wire: Vec<u8>,
    /// Octets without what the wire form adds (RFC 1870 §3).
    octets: u64,
    /// Octets beyond US-ASCII stand in its header.
    header_8bit: bool,
    /// They stand anywhere in it.
    any_8bit: bool,
}

/// Why a probe was not taken.
enum Failure {
    /// The link, before the final dot.
    Link(LinkError),
    /// A reply that is no yes.
    Refused(Reply),
    /// The message, or an address, needs what the member does not offer.
    Blocked(Extension),
    /// An order on the gate came first.
    Fenced(Fenced),
    /// The final dot was sent, and no valid reply came.
    Uncertain(LinkError),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<Fenced> for Failure {
    fn from(fenced: Fenced) -> Self {
        Self::Fenced(fenced)
    }
}

/// Sends a test message to a member.
pub async fn probe(corridor: &Corridor, member: MemberIndex, request: Request<'_>) -> ProbeResult {
    let began = Instant::now();
    let id = corridor.ids.next(clock::unix_micros());
    let mut result = ProbeResult {
        member: corridor.relay.next_hop(member).member.clone(),
        accepted: false,
        stage: Stage::Connect,
        reply: String::new(),
        identity: None,
        identity_changed: false,
        extensions: None,
        tls: None,
        message_id: format!("<{id}@{}>", corridor.host),
        token: None,
    };
    let envelope = match envelope(request.from, request.to) {
        Ok(envelope) => envelope,
        Err((stage, what)) => {
            (result.stage, result.reply) = (stage, what);
            return result;
        }
    };
    let token = match corridor.tokens.give(id, clock::unix_ms()) {
        Ok(token) => token,
        Err(error) => {
            result.reply = format!("nothing was sent: {error}");
            return result;
        }
    };
    let entered = corridor.gate.enter_for(id, Errand::Probe, Some(member), |_| true);
    let permit = match entered {
        Ok(permit) => permit,
        Err(closed) => {
            result.reply = words_of(&closed);
            return result;
        }
    };
    result.token = Some(token);
    let content = match request.message {
        Some(message) => content(&given(message, token, &result.message_id)),
        None => content(own(corridor, token, &envelope, &result).as_bytes()),
    };
    let fence = permit.fence();
    let end = tokio::select! {
        end = give(corridor, &permit, &envelope, &content, &mut result) => end,
        fenced = fence.down() => Err(fenced.into()),
    };
    drop(permit);
    let outcome = match end {
        Ok(reply) => {
            result.accepted = true;
            result.reply = reply.to_string();
            Outcome::Relayed
        }
        Err(failure) => result.failed(failure),
    };
    log(corridor, id, &envelope, &result, outcome, (began, content.wire.len()));
    result
}

impl ProbeResult {
    /// Notes a failure; says how that is called in the log.
    fn failed(&mut self, failure: Failure) -> Outcome {
        match failure {
            Failure::Link(error) => {
                self.stage = error.stage();
                self.reply = error.to_string();
                Outcome::Deferred
            }
            Failure::Refused(reply) => {
                self.reply = reply.to_string();
                Outcome::of(&reply)
            }
            Failure::Blocked(extension) => {
                self.reply = blocked(extension);
                Outcome::Blocked
            }
            Failure::Fenced(fenced) => {
                self.reply = fenced.to_string();
                Outcome::Abandoned
            }
            Failure::Uncertain(error) => {
                self.stage = Stage::EndOfData;
                self.reply = format!("nobody knows whether it was taken: {error}");
                Outcome::Uncertain
            }
        }
    }

    /// Notes who answered.
    fn met(&mut self, connection: &Connection, expected: Option<&str>) {
        let identity = connection.identity();
        self.identity_changed = expected.is_some_and(|expected| expected != identity);
        self.identity = Some(identity.to_owned());
        self.extensions = Some(connection.extensions().to_words());
        self.tls = connection.tls().map(str::to_owned);
    }
}

/// The whole dialogue; `result` always says how far it has come.
async fn give(
    corridor: &Corridor,
    permit: &Permit,
    envelope: &Envelope,
    content: &Content,
    result: &mut ProbeResult,
) -> Result<Reply, Failure> {
    let relay = &corridor.relay;
    let Some(member) = permit.member() else {
        return Err(Failure::Fenced(Fenced));
    };
    let mut connection = relay.open_unchecked(member).await?;
    result.met(&connection, relay.known(member).identity.as_deref());
    let end = talk(corridor, permit, &mut connection, envelope, content, result).await;
    if end.is_ok() {
        remember(corridor, member, &connection);
    }
    // After a fence before the final dot, QUIT would be mail data: the connection is just closed.
    if !matches!(end, Err(Failure::Link(_) | Failure::Fenced(_) | Failure::Uncertain(_))) {
        connection.quit().await;
    }
    end
}

/// MAIL, RCPT, DATA and the message, in lock-step: a refusal shows where it happened.
async fn talk(
    corridor: &Corridor,
    permit: &Permit,
    connection: &mut Connection,
    envelope: &Envelope,
    content: &Content,
    result: &mut ProbeResult,
) -> Result<Reply, Failure> {
    let waits = corridor.relay.waits();
    result.stage = Stage::Mail;
    let sender = fitted(envelope, content, connection.extensions())?;
    let mail = |output: &mut Vec<u8>| smtp::encode_mail(&sender, output);
    positive(say(connection, Owed::Mail, mail, (waits.block, waits.mail)).await?)?;
    result.stage = Stage::Rcpt;
    for recipient in envelope.recipients() {
        let rcpt = |output: &mut Vec<u8>| smtp::encode_rcpt(recipient, output);
        positive(say(connection, Owed::Rcpt, rcpt, (waits.block, waits.rcpt)).await?)?;
    }
    result.stage = Stage::Data;
    let data = |output: &mut Vec<u8>| Command::Data.encode(output);
    let reply = say(connection, Owed::Data, data, (waits.block, waits.data)).await?;
    if !reply.is_intermediate() {
        return Err(Failure::Refused(reply));
    }
    result.stage = Stage::EndOfData;
    permit.pass_final_dot()?;
    let facts = facts(corridor, permit.id(), envelope, result);
    corridor.journal.offered(Offered { at_ns: clock::unix_nanos(), facts }).await;
    match connection.finish([&content.wire, &[], &[]], waits.block, waits.final_reply).await {
        Ok(reply) => positive(reply),
        Err(FinishError::Before(error)) => Err(Failure::Link(error)),
        Err(FinishError::Early(reply)) => Err(Failure::Refused(reply)),
        Err(FinishError::Uncertain(error)) => Err(Failure::Uncertain(error)),
    }
}

async fn say(
    connection: &mut Connection,
    owed: Owed,
    encode: impl FnOnce(&mut Vec<u8>),
    (block, wait): (Duration, Duration),
) -> Result<Reply, LinkError> {
    connection.queue(owed, encode);
    connection.flush(block).await?;
    connection.reply(wait).await
}

fn positive(reply: Reply) -> Result<Reply, Failure> {
    if reply.is_positive() { Ok(reply) } else { Err(Failure::Refused(reply)) }
}

/// MAIL as the message and the addresses need it.
fn fitted(envelope: &Envelope, content: &Content, offered: &Extensions) -> Result<Sender, Failure> {
    let sender = &envelope.sender;
    let ascii = |recipient: &Recipient| recipient.path.is_ascii();
    let ascii = sender.path.is_ascii() && envelope.recipients().iter().all(ascii);
    let mut parameters = Vec::new();
    if offered.size().is_some_and(|most| content.octets > most) {
        return Err(Failure::Blocked(Extension::Size));
    }
    if offered.contains(Extension::Size) {
        parameters.push(Parameter::new("SIZE", Some(&content.octets.to_string())));
    }
    if !ascii || content.header_8bit {
        if !offered.contains(Extension::SmtpUtf8) {
            return Err(Failure::Blocked(Extension::SmtpUtf8));
        }
        // RFC 6531 §3.6: 8BITMIME is offered along with it.
        parameters.push(Parameter::new("BODY", Some("8BITMIME")));
        parameters.push(Parameter::new("SMTPUTF8", None));
    } else if content.any_8bit {
        if !offered.contains(Extension::EightBitMime) {
            return Err(Failure::Blocked(Extension::EightBitMime));
        }
        parameters.push(Parameter::new("BODY", Some("8BITMIME")));
    }
    Ok(Sender { path: sender.path.clone(), parameters: parameters.into() })
}

fn blocked(extension: Extension) -> String {
    match extension {
        Extension::Size => "the message is larger than it takes (SIZE)".to_owned(),
        other => {
            format!("the message or an address needs {}, which it does not offer", other.keyword())
        }
    }
}

/// The member took a probe: what was learned of it is fresh, and whoever it is may be accepted.
fn remember(corridor: &Corridor, member: MemberIndex, connection: &Connection) {
    let relay = &corridor.relay;
    let key = &relay.next_hop(member).key;
    let memory = relay.memory();
    if let Err(stranger) = relay.judge(member, connection) {
        tracing::warn!(gate = corridor.gate.name(), %stranger, "probe: taken by another server than the one that was learned");
    }
    // Also without a change: after a long outage the same server needs a probe as well.
    memory.probed(key, connection.identity(), clock::unix_ms());
    let memory = Arc::clone(memory);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = memory.save() {
            tracing::error!(%error, "what was learned of the members could not be written");
        }
    });
}

fn envelope(from: Option<&str>, to: &str) -> Result<Envelope, (Stage, String)> {
    let from = from.unwrap_or_default();
    let path = ReversePath::parse(&format!("<{from}>"))
        .map_err(|error| (Stage::Mail, format!("nothing was sent: {from:?}: {error}")))?;
    let sender = Sender { path, parameters: MailParameters::default() };
    let path = ForwardPath::parse(&format!("<{to}>"))
        .map_err(|error| (Stage::Rcpt, format!("nothing was sent: {to:?}: {error}")))?;
    Ok(Envelope::new(sender, Recipient { path, parameters: RcptParameters::default() }))
}

/// A given message, with the fields by which it is known again above it.
fn given(message: &Message, token: Token, message_id: &str) -> Vec<u8> {
    let marks = format!("{}: {token}\r\nMessage-ID: {message_id}\r\n", smtp::PROBE_FIELD);
    [marks.as_bytes(), message.octets()].concat()
}

/// Lockgate's own message.
fn own(corridor: &Corridor, token: Token, envelope: &Envelope, result: &ProbeResult) -> String {
    let host = &corridor.host;
    let date = clock::rfc_5322(clock::unix_ms());
    let author = match &envelope.sender.path {
        ReversePath::Null => format!("postmaster@{host}"),
        ReversePath::Mailbox(mailbox) => mailbox.to_string(),
    };
    let to = record::to_of(envelope.recipients().iter());
    format!(
        "From: lockgate <{author}>\r\n\
         To: {to}\r\n\
         Subject: lockgate probe\r\n\
         Date: {date}\r\n\
         Message-ID: {}\r\n\
         Auto-Submitted: auto-generated\r\n\
         {}: {token}\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         \r\n\
         This is a test of the way through the mail server {}.\r\n\
         It was asked for by a person; nobody needs to answer.\r\n",
        result.message_id,
        smtp::PROBE_FIELD,
        result.member
    )
}

/// A message in wire form, with what it needs.
fn content(text: &[u8]) -> Content {
    let mut header = HeaderPeek::new();
    header.push(text);
    header.finish();
    let mut wire = Vec::with_capacity(text.len());
    smtp::stuff(text, &mut wire);
    Content {
        wire,
        octets: text.len() as u64,
        header_8bit: header.has_8bit(),
        any_8bit: !text.is_ascii(),
    }
}

fn words_of(closed: &Closed) -> String {
    let orders: Vec<String> = closed
        .orders
        .iter()
        .map(|order| format!("order {} ({}): {}", order.id, order.holder.name, order.reason))
        .collect();
    format!("the gate lets nothing through now: {}", orders.join("; "))
}

/// What the journal is to know of it.
fn facts<'a>(
    corridor: &'a Corridor,
    id: TransactionId,
    envelope: &'a Envelope,
    result: &'a ProbeResult,
) -> Facts<'a> {
    Facts {
        id: id.as_u64(),
        doing: Doing::Probe,
        gate: corridor.gate.name().into(),
        member: Some(result.member.as_str().into()),
        client: None,
        told_ident: false,
        from: record::from_of(&envelope.sender).into(),
        to: envelope.recipients().iter().map(|to| to.path.to_string().into()).collect(),
        message_id: Some(result.message_id.as_str().into()),
        media_type: None,
        processed: false,
        passed_as: None,
        header_octets: 0,
        header_sha256: None,
        began_ns: id.as_u64().saturating_mul(1000),
        tls: result.tls.as_deref().map(Into::into),
        settled: Vec::new(),
    }
}

fn log(
    corridor: &Corridor,
    id: TransactionId,
    envelope: &Envelope,
    result: &ProbeResult,
    outcome: Outcome,
    (began, octets): (Instant, usize),
) {
    corridor.journal.ended(Ended {
        at_ns: clock::unix_nanos(),
        id: id.as_u64(),
        facts: Some(facts(corridor, id, envelope, result)),
        outcome,
        reply: result.reply.as_str().into(),
        others: Vec::new(),
        size: octets as u64,
        content_sha256: None,
    });
    let (from, to) = record::paths_of(envelope);
    Record {
        id,
        what: "probe",
        gate: corridor.gate.name(),
        mode: "probe",
        member: Some(&result.member),
        client: None,
        from,
        to,
        recipients: envelope.recipients().len(),
        size: octets as u64,
        message_id: Some(&result.message_id),
        outcome,
        reply: format!("{}: {}", result.stage.as_str(), result.reply),
        began,
        tls: result.tls.as_deref(),
    }
    .log();
}
