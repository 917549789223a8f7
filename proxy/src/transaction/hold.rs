//! Receives a transaction into the spool; 250 after the commit.
//!
//! Invariants
//! - The 250 names a [`SpoolId`](crate::spool::SpoolId), which exists only after the sync.
//! - Any failure before it is a 4yz: the client still owns the message.
//! - Space for the whole message is reserved at MAIL, so that the disk is never found full midway.
//!
//! Not here: how the spool keeps it.

use std::time::Instant;

use bytes::Buf;
use smtp::{Envelope, Reply};

use super::{ClientFacts, Content, Corridor, Verb};
use crate::clock;
use crate::gate::Permit;
use crate::outcome::Outcome;
use crate::spool::{Arrival, HoldError, Lane, Reservation, Writer};

/// A transaction in hold.
pub(super) struct Hold {
    permit: Permit,
    waiting: Vec<Verb>,
    reservation: Option<Reservation>,
    sender: Option<smtp::Sender>,
    envelope: Option<Envelope>,
    writer: Option<Writer>,
    failed: Option<Reply>,
}

impl Hold {
    pub(super) fn new(permit: Permit) -> Self {
        Self {
            permit,
            waiting: Vec::new(),
            reservation: None,
            sender: None,
            envelope: None,
            writer: None,
            failed: None,
        }
    }

    /// Can it still end with a promise?
    pub(super) fn is_alive(&self) -> bool {
        self.writer.is_some() && self.failed.is_none() && !self.permit.is_aborted()
    }

    pub(super) const fn permit(&self) -> &Permit {
        &self.permit
    }

    pub(super) fn push(&mut self, verb: Verb) {
        self.waiting.push(verb);
    }

    pub(super) fn abort(&mut self) {
        self.writer = None;
        self.reservation = None;
        self.failed.get_or_insert(Reply::FENCED);
    }

    pub(super) async fn settle(&mut self, corridor: &Corridor, client: &ClientFacts) -> Vec<Reply> {
        let verbs = std::mem::take(&mut self.waiting);
        let mut replies = Vec::with_capacity(verbs.len());
        for verb in verbs {
            replies.push(match verb {
                Verb::Mail(sender) => self.mail(corridor, sender),
                Verb::Rcpt(recipient) => self.rcpt(corridor, recipient),
                Verb::Data => self.data(corridor, client),
            });
        }
        replies
    }

    fn mail(&mut self, corridor: &Corridor, sender: smtp::Sender) -> Reply {
        let limit = corridor.spool.config().message_bytes_max;
        let size = sender.parameters.size().unwrap_or(limit);
        if size > limit {
            return Reply::TOO_BIG;
        }
        match corridor.spool.reserve(size.saturating_add(smtp::TRACE_ALLOWANCE)) {
            Ok(reservation) => {
                self.reservation = Some(reservation);
                self.sender = Some(sender);
                Reply::SENDER_OK
            }
            Err(error) => refuse(corridor, &self.permit, &error),
        }
    }

    fn rcpt(&mut self, corridor: &Corridor, recipient: smtp::Recipient) -> Reply {
        let Some(sender) = &self.sender else { return Reply::NEED_MAIL };
        let domains = &corridor.recipient_domains;
        let taken = domains.is_empty()
            || match &recipient.path {
                smtp::ForwardPath::Postmaster(_) => true,
                smtp::ForwardPath::Mailbox(mailbox) => {
                    domains.iter().any(|domain| domain.eq_ignore_ascii_case(mailbox.domain()))
                }
            };
        if !taken {
            return Reply::RECIPIENT_NOT_HERE;
        }
        match &mut self.envelope {
            Some(envelope) => envelope.push(recipient),
            None => self.envelope = Some(Envelope::new(sender.clone(), recipient)),
        }
        Reply::RECIPIENT_OK
    }

    fn data(&mut self, corridor: &Corridor, client: &ClientFacts) -> Reply {
        if let Some(reply) = &self.failed {
            return reply.clone();
        }
        let (Some(reservation), Some(envelope)) = (self.reservation.take(), self.envelope.take())
        else {
            return Reply::NO_VALID_RECIPIENTS;
        };
        let arrival = Arrival {
            held_at_unix_ms: clock::unix_ms(),
            client: client.address,
            client_name: client.name.clone().unwrap_or_default(),
            protocol: if client.extended { "ESMTP" } else { "SMTP" }.to_owned(),
            tls: client.tls.is_some(),
        };
        let gate = &corridor.gate.plan().name;
        let begun = corridor.spool.begin(
            reservation,
            self.permit.id(),
            gate,
            Lane::Mail,
            envelope,
            arrival,
        );
        match begun {
            Ok(writer) => {
                self.writer = Some(writer);
                Reply::START_DATA
            }
            Err(error) => refuse(corridor, &self.permit, &error),
        }
    }

    /// Takes content: that of a well filled buffer with the buffer, any other as a copy.
    pub(super) async fn mail_data(&mut self, content: Content<'_>) {
        let Content { carried, input, octets } = content;
        let Some(writer) = &mut self.writer else { return input.advance(octets) };
        let filled = octets >= input.capacity() / 2;
        let behind = input.len() - octets;
        let written = async {
            if !carried.is_empty() {
                writer.write(carried).await?;
            }
            if filled {
                return writer.take(input.split_to(octets).freeze()).await;
            }
            writer.write(&input[..octets]).await
        };
        let written = written.await;
        // What was not handed over goes too, also when the spool takes no more.
        input.advance(input.len() - behind);
        if let Err(error) = written {
            tracing::error!(id = %self.permit.id(), %error, "hold: the spool takes no more");
            self.failed = Some(reply_of(&error));
            self.writer = None;
        }
    }

    pub(super) async fn finish(
        &mut self,
        corridor: &Corridor,
        message_id: Option<&str>,
    ) -> (Outcome, Reply) {
        if let Some(reply) = self.failed.take() {
            return (Outcome::of(&reply), reply);
        }
        let Some(writer) = self.writer.take() else {
            return (Outcome::Deferred, Reply::LOCAL_ERROR);
        };
        let ended = Instant::now();
        let committed = writer.commit(message_id).await;
        corridor.metrics.commit_seconds.observe(ended.elapsed().as_secs_f64());
        match committed {
            Ok(id) => (Outcome::Held, Reply::new(250, format!("2.0.0 held as {id}"))),
            Err(error) => {
                tracing::error!(id = %self.permit.id(), %error, "hold: not promised");
                (Outcome::Deferred, reply_of(&error))
            }
        }
    }
}

fn refuse(corridor: &Corridor, permit: &Permit, error: &HoldError) -> Reply {
    tracing::warn!(id = %permit.id(), gate = corridor.gate.name(), %error, "hold: refused");
    reply_of(error)
}

/// What the client is told: temporary, since it still owns the message; permanent only where the
/// message itself is too big for any spool of this size.
const fn reply_of(error: &HoldError) -> Reply {
    match error {
        HoldError::Full { .. } => Reply::INSUFFICIENT_STORAGE,
        HoldError::TooBig { .. } => Reply::TOO_BIG,
        _ => Reply::LOCAL_ERROR,
    }
}
