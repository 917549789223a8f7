//! What the journal is told of an attempt, and the digest of what was sent.
//!
//! Not here: the attempt (`attempt`).

use memchr::memchr;
use smtp::Envelope;

use super::attempt::{Context, Path, PathOutcome};
use crate::digest::Sha256;
use crate::journal::{self, Doing, Facts, PathEnd};
use crate::outcome::Outcome;
use crate::spool::{Arrival, Lane, Need, SpoolId};
use crate::transaction::{Peeked, record};

/// What is known of an attempt from its beginning.
pub(super) struct Told<'a> {
    pub(super) context: &'a Context,
    pub(super) id: SpoolId,
    pub(super) lane: Lane,
    pub(super) arrival: &'a Arrival,
    pub(super) message_id: Option<&'a str>,
    pub(super) envelope: &'a Envelope,
    pub(super) began_ns: u64,
    /// The next hop hears our id (XFORWARD IDENT).
    pub(super) ident: bool,
    pub(super) tls: Option<&'a str>,
    /// What was seen of it on its way; none before it was sent.
    pub(super) peeked: Option<&'a Peeked>,
}

impl<'a> Told<'a> {
    pub(super) fn facts(&self, settled: Vec<PathEnd<'a>>) -> Facts<'a> {
        let (header_octets, header_sha256) = self.peeked.map_or((0, None), Peeked::digest);
        Facts {
            id: self.id.transaction().as_u64(),
            doing: if self.lane == Lane::Dsn { Doing::Report } else { Doing::Replay },
            gate: self.context.corridor.gate.name().into(),
            member: Some(self.context.relay.next_hop(self.context.member).member.as_str().into()),
            client: Some(self.arrival.client),
            told_ident: self.ident,
            from: record::from_of(&self.envelope.sender).into(),
            to: self.envelope.recipients().iter().map(|to| to.path.to_string().into()).collect(),
            message_id: self.message_id.map(Into::into),
            media_type: self.peeked.and_then(Peeked::media_type).map(Into::into),
            processed: self.peeked.is_some_and(|peeked| peeked.header().pgp_marks().universal),
            passed_as: self.peeked.and_then(Peeked::passed_as),
            header_octets,
            header_sha256,
            began_ns: self.began_ns,
            tls: self.tls.map(Into::into),
            settled,
        }
    }
}

/// The ends of those forward-paths that have one, before the attempt has ended.
pub(super) fn settled(paths: &[Path]) -> Vec<PathEnd<'static>> {
    let end = |(place, path): (usize, &Path)| end(place, path.outcome.as_ref()?);
    paths.iter().enumerate().filter_map(end).collect()
}

/// The end of each forward-path; of one that was not answered, that of the link.
pub(super) fn ends(paths: &[Path], lost: &str) -> Vec<PathEnd<'static>> {
    let end = |(place, path): (usize, &Path)| match &path.outcome {
        Some(outcome) => end(place, outcome),
        None => Some(PathEnd {
            path: u32::try_from(place).ok()?,
            outcome: Outcome::Deferred,
            reply: lost.to_owned().into(),
        }),
    };
    paths.iter().enumerate().filter_map(end).collect()
}

fn end(place: usize, outcome: &PathOutcome) -> Option<PathEnd<'static>> {
    let (outcome, reply) = match outcome {
        PathOutcome::Relayed(reply) => (Outcome::Relayed, journal::text_of(reply)),
        PathOutcome::Deferred(reply) => (Outcome::Deferred, journal::text_of(reply)),
        PathOutcome::Refused(reply) => (Outcome::Refused, journal::text_of(reply)),
        PathOutcome::Blocked(need) => (Outcome::Blocked, words_of(*need)),
        PathOutcome::Uncertain => (Outcome::Uncertain, String::new()),
        PathOutcome::Rest => (Outcome::Deferred, "put off to another transaction".to_owned()),
    };
    Some(PathEnd { path: u32::try_from(place).ok()?, outcome, reply: reply.into() })
}

/// What a member lacks for a message.
pub(super) fn words_of(need: Need) -> String {
    match need {
        Need::EightBitMime => "the member does not offer 8BITMIME".to_owned(),
        Need::SmtpUtf8 => "the member does not offer SMTPUTF8".to_owned(),
        Need::Size(octets) => {
            format!("the SIZE that the member offers is below {octets} octets")
        }
    }
}

/// How the last line but one of our trace field ends ([`smtp::Trace`]): nothing else in it does.
const BEFORE_DATE: &[u8] = b";\r\n";

/// A look at mail data as it was received: our trace field, which the spool keeps in front, is left out.
#[derive(Debug)]
pub(super) struct Received {
    digest: Sha256,
    peeked: Peeked,
    field: Field,
}

/// Where in our trace field it stands. Its end is not looked for in what follows: mail data may begin with a blank, as if
/// it belonged to the field.
#[derive(Debug)]
enum Field {
    /// Before its last line; the end of what came.
    Before(Vec<u8>),
    /// In its last line, the date.
    Date,
    /// Behind it.
    Behind,
}

impl Received {
    pub(super) fn new(lane: Lane) -> Self {
        // Reports are ours: they have none.
        let field = if lane == Lane::Dsn { Field::Behind } else { Field::Before(Vec::new()) };
        Self { digest: Sha256::default(), peeked: Peeked::default(), field }
    }

    pub(super) fn update(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while !rest.is_empty() {
            let line = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            match &mut self.field {
                Field::Behind => {
                    self.digest.update(rest);
                    self.peeked.push(rest);
                    return;
                }
                Field::Date if rest[..line].ends_with(b"\n") => self.field = Field::Behind,
                Field::Date => {}
                Field::Before(end) => {
                    end.extend_from_slice(&rest[..line]);
                    if end.ends_with(BEFORE_DATE) {
                        self.field = Field::Date;
                    } else {
                        let kept = end.len().saturating_sub(BEFORE_DATE.len());
                        end.drain(..kept);
                    }
                }
            }
            rest = &rest[line..];
        }
    }

    /// All of it came.
    pub(super) fn end(&mut self) {
        self.peeked.finish();
    }

    pub(super) const fn peeked(&self) -> &Peeked {
        &self.peeked
    }

    pub(super) const fn octets(&self) -> u64 {
        self.digest.octets()
    }

    pub(super) fn finish(self) -> Option<[u8; 32]> {
        self.digest.finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn field() -> Vec<u8> {
        let mut field = Vec::new();
        smtp::Trace {
            client_name: Some("mx;.example.org"),
            client_address: [192, 0, 2, 1].into(),
            by: "gate.example.net",
            with: smtp::Protocol::Esmtps,
            id: "01ARYZ6S41TSV",
            date: "Tue, 24 Nov 2026 10:00:00 +0000",
            tls: Some("TLSv1.3"),
        }
        .encode(&mut field);
        field
    }

    #[test]
    fn our_trace_field_is_left_out_wherever_pieces_are_cut() {
        for rest in ["Subject: x\r\n\r\ny\r\n", "\tfolded;\r\n y\r\n", " \r\n", "\r\n;\r\nz\r\n"] {
            let mut plain = Sha256::default();
            plain.update(rest.as_bytes());
            let all = [field(), rest.into()].concat();
            for cut in 0..all.len() {
                let mut received = Received::new(Lane::Mail);
                received.update(&all[..cut]);
                received.update(&all[cut..]);
                received.end();
                let mut peeked = Peeked::default();
                peeked.push(rest.as_bytes());
                peeked.finish();
                assert_eq!(received.peeked().digest(), peeked.digest(), "{rest:?} cut at {cut}");
                assert_eq!(received.octets(), rest.len() as u64, "{rest:?} cut at {cut}");
                assert_eq!(received.finish(), plain.clone().finish(), "{rest:?} cut at {cut}");
            }
            let mut report = Received::new(Lane::Dsn);
            report.update(rest.as_bytes());
            assert_eq!(report.finish(), plain.finish());
        }
    }
}
