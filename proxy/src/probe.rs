//! A probe: one small test message to one member, on the same way that mail takes.
//!
//! It goes through the gate's own relay, from its source address and under its name, so that it
//! meets what mail would meet. It is how one finds out whether a new server may get mail: a server
//! whose identity changed is reported, not refused, and when it takes the probe the relay remembers
//! that, so that a release may accept it.
//!
//! Invariants
//! - A probe holds a permit like everything else that speaks to a member; a fence ends it before its
//!   final dot.
//! - It never uses a pooled connection and never leaves one behind.
//! - Only a 2yz to the end of mail data counts, and it counts for the identity of that connection.
//!
//! Not here: what became of the message behind the server (logs and mailboxes tell, by its
//! Message-ID), the accepting of an identity (`replay`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use smtp::{
    Command, Envelope, Extension, Extensions, ForwardPath, MailParameters, Owed, Parameter,
    RcptParameters, Recipient, Reply, ReversePath, Sender,
};

use crate::clock;
use crate::gate::{Closed, Errand, Fenced, MemberIndex, Permit};
use crate::id::TransactionId;
use crate::journal::{Doing, Ended, Facts, Offered};
use crate::outcome::Outcome;
use crate::relay::{Connection, FinishError, LinkError, Stage};
use crate::transaction::Corridor;
use crate::transaction::record::{self, Record};

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
}

/// Why a probe was not taken.
enum Failure {
    /// The link, before the final dot.
    Link(LinkError),
    /// A reply that is no yes.
    Refused(Reply),
    /// An address needs what the member does not offer.
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

/// Sends a test message to a member; `from` none is the null reverse-path.
pub async fn probe(
    corridor: &Corridor,
    member: MemberIndex,
    from: Option<&str>,
    to: &str,
) -> ProbeResult {
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
    };
    let envelope = match envelope(from, to) {
        Ok(envelope) => envelope,
        Err((stage, what)) => {
            (result.stage, result.reply) = (stage, what);
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
    let message = message(corridor, id, &envelope, &result);
    let fence = permit.fence();
    let end = tokio::select! {
        end = give(corridor, &permit, &envelope, &message, &mut result) => end,
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
    log(corridor, id, &envelope, &result, outcome, (began, message.len()));
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
                self.reply =
                    format!("the address needs {}, which it does not offer", extension.keyword());
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
    message: &[u8],
    result: &mut ProbeResult,
) -> Result<Reply, Failure> {
    let relay = &corridor.relay;
    let Some(member) = permit.member() else {
        return Err(Failure::Fenced(Fenced));
    };
    let mut connection = relay.open_unchecked(member).await?;
    result.met(&connection, relay.known(member).identity.as_deref());
    let end = talk(corridor, permit, &mut connection, envelope, message, result).await;
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
    message: &[u8],
    result: &mut ProbeResult,
) -> Result<Reply, Failure> {
    let waits = corridor.relay.waits();
    result.stage = Stage::Mail;
    let sender = fitted(&envelope.sender, envelope, connection.extensions())?;
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
    match connection.finish([message, &[], &[]], waits.block, waits.final_reply).await {
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

/// MAIL as the addresses need it.
fn fitted(sender: &Sender, envelope: &Envelope, offered: &Extensions) -> Result<Sender, Failure> {
    let ascii = |recipient: &Recipient| recipient.path.is_ascii();
    if sender.path.is_ascii() && envelope.recipients().iter().all(ascii) {
        return Ok(sender.clone());
    }
    if !offered.contains(Extension::SmtpUtf8) {
        return Err(Failure::Blocked(Extension::SmtpUtf8));
    }
    // The header holds the addresses, in UTF-8 (RFC 6531 §3.6: 8BITMIME is offered along with it).
    let parameters =
        vec![Parameter::new("BODY", Some("8BITMIME")), Parameter::new("SMTPUTF8", None)];
    Ok(Sender { path: sender.path.clone(), parameters: parameters.into() })
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

/// The message in wire form, without the final dot.
fn message(
    corridor: &Corridor,
    id: TransactionId,
    envelope: &Envelope,
    result: &ProbeResult,
) -> Vec<u8> {
    let host = &corridor.host;
    let date = clock::rfc_5322(clock::unix_ms());
    let author = match &envelope.sender.path {
        ReversePath::Null => format!("postmaster@{host}"),
        ReversePath::Mailbox(mailbox) => mailbox.to_string(),
    };
    let to = record::to_of(envelope.recipients().iter());
    let text = format!(
        "From: lockgate <{author}>\r\n\
         To: {to}\r\n\
         Subject: lockgate probe\r\n\
         Date: {date}\r\n\
         Message-ID: {}\r\n\
         Auto-Submitted: auto-generated\r\n\
         X-Lockgate-Probe: {id}\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         \r\n\
         This is a test of the way through the mail server {}.\r\n\
         It was asked for by a person; nobody needs to answer.\r\n",
        result.message_id, result.member
    );
    let mut wire = Vec::with_capacity(text.len());
    smtp::stuff(text.as_bytes(), &mut wire);
    wire
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::path::PathBuf;

    use disk::{Disk, FaultyDisk};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::*;
    use crate::config::OnUnreachable;
    use crate::gate::{Effect, Gates, Holder, HolderKind, OrderBook, Plan};
    use crate::health::Health;
    use crate::id::Ids;
    use crate::metrics::{Metrics, RelayCounts};
    use crate::relay::{self, HostPort, Memory, NextHop, Relay, Tls, Trust};
    use crate::spool::{self, Key, Spool};

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// Replies of a member to what it is told.
    #[derive(Clone, Copy)]
    struct Script {
        host: &'static str,
        mail: &'static str,
        rcpt: &'static str,
        end_of_data: &'static str,
    }

    const GOOD: Script = Script {
        host: "sems.example.net",
        mail: "250 2.1.0 ok",
        rcpt: "250 2.1.5 ok",
        end_of_data: "250 2.0.0 queued as 4711",
    };

    /// A member that serves one connection; all that it was told, and where it is. `mail` fires when
    /// it has seen MAIL.
    async fn serve(
        script: Script,
        mail: Option<oneshot::Sender<()>>,
    ) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut mail = mail;
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (input, mut output) = stream.into_split();
            let mut lines = BufReader::new(input).lines();
            let mut told = String::new();
            let mut reply = format!("220 {} ESMTP\r\n", script.host);
            let mut in_data = false;
            loop {
                if output.write_all(reply.as_bytes()).await.is_err() {
                    return told;
                }
                let Ok(Some(line)) = lines.next_line().await else {
                    return told;
                };
                told.push_str(&line);
                told.push('\n');
                let text = match line.split([' ', ':']).next().unwrap_or_default() {
                    _ if in_data && line != "." => "",
                    "." => {
                        in_data = false;
                        script.end_of_data
                    }
                    "EHLO" => "250 PIPELINING",
                    "MAIL" => {
                        mail.take().map(|mail| mail.send(()));
                        script.mail
                    }
                    "RCPT" => script.rcpt,
                    "DATA" => {
                        in_data = true;
                        "354 go on"
                    }
                    _ => return told,
                };
                reply = if text.is_empty() { String::new() } else { format!("{text}\r\n") };
            }
        });
        (port, task)
    }

    /// A gate `out` with the member `sems1` at `port`.
    fn corridor(port: u16) -> (Arc<Gates>, Corridor) {
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::default());
        OrderBook::create(&*disk).unwrap();
        let book = OrderBook::load(Arc::clone(&disk), &["out"], 1).unwrap();
        let name: Arc<str> = "out".into();
        let plan = Plan { name: Arc::clone(&name), returns: None, members: vec!["sems1".into()] };
        let gates = Gates::new(vec![plan], book, PathBuf::from("/nonexistent/brake"));
        let gate = gates.named("out").unwrap();
        let metrics = Metrics::new().of_gate("out");
        let (memory, _) = Memory::load(Arc::clone(&disk)).unwrap();
        let next_hop = NextHop {
            key: "out/sems1".into(),
            member: "sems1".into(),
            address: HostPort::new("127.0.0.1", port),
            source: None,
            helo: smtp::ClientName::new("gate.example.net").unwrap(),
            tls: Tls::none(),
        };
        let counts = Box::new(RelayCounts(Arc::clone(&metrics)));
        let relay = Arc::new(Relay::new(
            relay::Config::default(),
            vec![next_hop],
            Arc::new(memory),
            Trust::Learned { outage_max: None },
            counts,
        ));
        let config = spool::Config { free_bytes_min: 0, ..spool::Config::default() };
        let journal = crate::journal::Config::default();
        let journal = crate::journal::Journal::open(Arc::clone(&disk), &journal, "", 0);
        let (spool, _) = Spool::open(disk, &config, Key::from_bytes([7; 32]), &[name]).unwrap();
        let ids = Arc::new(Ids::new(None));
        let health = Arc::new(Health::new(
            Arc::clone(&gates),
            gate.clone(),
            Arc::clone(&relay),
            spool.clone(),
            Arc::clone(&ids),
            crate::health::Settings {
                on_unreachable: OnUnreachable::Refuse,
                outage_max: Duration::from_secs(600),
                fence: Duration::from_secs(60),
            },
        ));
        let corridor = Corridor {
            gate,
            relay,
            spool,
            journal,
            ids,
            health,
            metrics,
            host: "gate.example.net".into(),
            trace: true,
            recipient_domains: Vec::new(),
            repeats: None,
        };
        (gates, corridor)
    }

    fn learn(corridor: &Corridor, identity: &str) {
        let seen = relay::Seen {
            extensions: Extensions::none(),
            identity: identity.to_owned(),
            tls: None,
            at_unix_ms: 1,
        };
        corridor.relay.memory().saw("out/sems1", &seen, None).unwrap();
    }

    async fn run(corridor: &Corridor, from: Option<&str>, to: &str) -> ProbeResult {
        tokio::time::timeout(TIMEOUT, probe(corridor, 0, from, to)).await.unwrap()
    }

    #[tokio::test]
    async fn a_probe_that_is_taken_says_so_and_can_be_found_by_its_message_id() {
        let (port, member) = serve(GOOD, None).await;
        let (_, corridor) = corridor(port);
        let result = run(&corridor, Some("a@example.org"), "b@example.com").await;
        assert!(result.accepted, "{result:?}");
        assert_eq!(result.stage, Stage::EndOfData);
        assert_eq!(result.reply, "250 2.0.0 queued as 4711");
        assert_eq!(result.identity.as_deref(), Some("host sems.example.net"));
        assert!(!result.identity_changed);
        let told = member.await.unwrap();
        let begin =
            "EHLO gate.example.net\nMAIL FROM:<a@example.org>\nRCPT TO:<b@example.com>\nDATA\n";
        assert!(told.starts_with(begin), "{told}");
        assert!(told.contains(&format!("Message-ID: {}\n", result.message_id)), "{told}");
        assert!(told.contains("Subject: lockgate probe\n"), "{told}");
        assert!(told.contains("Auto-Submitted: auto-generated\n"), "{told}");
        assert!(told.ends_with(".\nQUIT\n"), "{told}");
        assert_eq!(corridor.gate.alive().len(), 0, "the permit is gone");
        let known = corridor.relay.known(0);
        assert_eq!(known.identity.as_deref(), Some("host sems.example.net"));
    }

    #[tokio::test]
    async fn another_server_is_reported_and_may_be_accepted_once_it_took_the_probe() {
        let (port, _) = serve(GOOD, None).await;
        let (_, corridor) = corridor(port);
        learn(&corridor, "host old.example.net");
        let result = run(&corridor, None, "b@example.com").await;
        assert!(result.accepted && result.identity_changed, "{result:?}");
        let known = corridor.relay.known(0);
        assert_eq!(
            known.identity.as_deref(),
            Some("host old.example.net"),
            "not accepted by itself"
        );
        assert_eq!(known.stranger.as_deref(), Some("host sems.example.net"));
        assert_eq!(known.probed.map(|probed| probed.identity), known.stranger);
    }

    #[tokio::test]
    async fn a_refusal_names_its_stage_and_clears_nobody() {
        let refusals = [
            (Script { mail: "451 4.3.2 later", ..GOOD }, Stage::Mail, "451 4.3.2 later"),
            (Script { rcpt: "550 5.7.1 no", ..GOOD }, Stage::Rcpt, "550 5.7.1 no"),
            (Script { end_of_data: "554 5.6.0 no", ..GOOD }, Stage::EndOfData, "554 5.6.0 no"),
        ];
        for (script, stage, reply) in refusals {
            let (port, member) = serve(script, None).await;
            let (_, corridor) = corridor(port);
            learn(&corridor, "host old.example.net");
            let result = run(&corridor, None, "b@example.com").await;
            assert!(!result.accepted);
            assert_eq!((result.stage, result.reply.as_str()), (stage, reply));
            assert_eq!(corridor.relay.known(0).probed, None);
            let told = member.await.unwrap();
            assert!(told.contains("MAIL FROM:<>\n") && told.ends_with("QUIT\n"), "{told}");
        }
    }

    #[tokio::test]
    async fn a_lost_reply_to_the_end_of_data_is_no_yes() {
        let (port, _) = serve(Script { end_of_data: "rubbish", ..GOOD }, None).await;
        let (_, corridor) = corridor(port);
        let result = run(&corridor, None, "b@example.com").await;
        assert!(!result.accepted);
        assert_eq!(result.stage, Stage::EndOfData);
        assert!(result.reply.starts_with("nobody knows"), "{result:?}");
        assert_eq!(corridor.relay.known(0).probed, None);
    }

    #[tokio::test]
    async fn a_member_that_is_not_there_fails_at_connect() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (_, corridor) = corridor(port);
        let result = run(&corridor, None, "b@example.com").await;
        assert!(!result.accepted);
        assert_eq!(result.stage, Stage::Connect);
        assert_eq!(result.identity, None);
    }

    #[tokio::test]
    async fn what_is_no_address_is_not_sent() {
        let (_, corridor) = corridor(1);
        for (from, to, stage) in [
            (None, "b@example.com>\r\nRCPT TO:<c@example.com", Stage::Rcpt),
            (None, "", Stage::Rcpt),
            (Some("a b"), "b@example.com", Stage::Mail),
        ] {
            let result = run(&corridor, from, to).await;
            assert_eq!(result.stage, stage);
            assert!(result.reply.starts_with("nothing was sent"), "{result:?}");
        }
    }

    #[tokio::test]
    async fn an_address_beyond_ascii_needs_smtputf8() {
        let (port, member) = serve(GOOD, None).await;
        let (_, corridor) = corridor(port);
        let result = run(&corridor, None, "j\u{fc}rg@example.com").await;
        assert!(!result.accepted);
        assert!(result.reply.contains("SMTPUTF8"), "{result:?}");
        assert!(!member.await.unwrap().contains("MAIL"));
    }

    #[tokio::test]
    async fn a_held_gate_lets_a_probe_through_and_a_fence_ends_it_before_the_final_dot() {
        let (port, _) = serve(GOOD, None).await;
        let (gates, held) = corridor(port);
        let holder = Holder::new(HolderKind::Operator, "test");
        let order = |gate| gates.place(&[gate], &Effect::Hold, &holder, "upgrade").unwrap();
        order(held.gate.clone());
        assert!(run(&held, None, "b@example.com").await.accepted);

        let (tell, told_mail) = oneshot::channel();
        // It does not answer MAIL: an empty reply is none.
        let (port, member) = serve(Script { mail: "", ..GOOD }, Some(tell)).await;
        let (gates, fenced) = corridor(port);
        let running = async {
            told_mail.await.unwrap();
            let placed = gates
                .place(std::slice::from_ref(&fenced.gate), &Effect::Hold, &holder, "upgrade")
                .unwrap();
            assert_eq!(fenced.gate.abort_older(placed[0].1, None), 1);
        };
        let (result, ()) = tokio::join!(run(&fenced, None, "b@example.com"), running);
        assert!(!result.accepted);
        assert_eq!(result.stage, Stage::Mail);
        assert!(result.reply.contains("aborted"), "{result:?}");
        assert!(!member.await.unwrap().contains("DATA"));
        assert_eq!(fenced.gate.alive().len(), 0);
    }
}
