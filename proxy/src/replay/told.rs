//! What the journal is told of an attempt, and the digest of what was sent.
//!
//! Not here: the attempt (`attempt`).

use bytes::Bytes;
use memchr::memchr;
use smtp::Envelope;

use super::attempt::{Context, Path, PathOutcome};
use crate::digest::Sha256;
use crate::journal::{self, Doing, Facts, Outcome, PathEnd};
use crate::spool::{Arrival, Lane, Need, SpoolId};
use crate::transaction::record;

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
}

impl<'a> Told<'a> {
    pub(super) fn facts(&self, paths: &[Path]) -> Facts<'a> {
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
            media_type: None,
            processed: false,
            header_octets: 0,
            header_sha256: None,
            began_ns: self.began_ns,
            tls: self.tls.map(Into::into),
            settled: ends(paths),
        }
    }
}

/// The ends of those forward-paths that have one.
pub(super) fn ends(paths: &[Path]) -> Vec<PathEnd<'static>> {
    let end = |(place, path): (usize, &Path)| {
        let (outcome, reply) = match path.outcome.as_ref()? {
            PathOutcome::Relayed(reply) => (Outcome::Relayed, journal::text_of(reply)),
            PathOutcome::Deferred(reply) => (Outcome::Deferred, journal::text_of(reply)),
            PathOutcome::Refused(reply) => (Outcome::Refused, journal::text_of(reply)),
            PathOutcome::Blocked(need) => (Outcome::Blocked, words_of(*need)),
            PathOutcome::Uncertain => (Outcome::Uncertain, String::new()),
            PathOutcome::Rest => (Outcome::Deferred, "put off to another transaction".to_owned()),
        };
        Some(PathEnd { path: u32::try_from(place).ok()?, outcome, reply: reply.into() })
    };
    paths.iter().enumerate().filter_map(end).collect()
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

/// Digest of mail data as it was received: our trace field, which the spool keeps in front, is left out.
#[derive(Debug)]
pub(super) struct Received {
    digest: Sha256,
    /// Still in the trace field; and whether its last octet so far ended a line.
    field: Option<bool>,
}

impl Received {
    pub(super) fn new(lane: Lane) -> Self {
        // Reports are ours: they have none.
        Self { digest: Sha256::default(), field: (lane != Lane::Dsn).then_some(false) }
    }

    pub(super) fn update(&mut self, piece: &Bytes) {
        let mut rest = &piece[..];
        while let Some(line_ended) = self.field {
            match (line_ended, rest.first()) {
                (_, None) => return,
                // A line that begins with a blank belongs to the field (RFC 5322 §2.2.3).
                (true, Some(first)) if !matches!(first, b' ' | b'\t') => self.field = None,
                _ => match memchr(b'\n', rest) {
                    Some(at) => {
                        rest = &rest[at + 1..];
                        self.field = Some(true);
                    }
                    None => {
                        self.field = Some(false);
                        return;
                    }
                },
            }
        }
        self.digest.update(rest);
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

    #[test]
    fn our_trace_field_is_left_out_wherever_pieces_are_cut() {
        let (trace, rest) = ("Received: from a\r\n\tby b;\r\n Mon\r\n", "Subject: x\r\n\r\ny\r\n");
        let mut plain = Sha256::default();
        plain.update(rest.as_bytes());
        let all = format!("{trace}{rest}");
        for cut in 0..all.len() {
            let mut received = Received::new(Lane::Mail);
            received.update(&Bytes::copy_from_slice(&all.as_bytes()[..cut]));
            received.update(&Bytes::copy_from_slice(&all.as_bytes()[cut..]));
            assert_eq!(received.octets(), rest.len() as u64);
            assert_eq!(received.finish(), plain.clone().finish(), "cut at {cut}");
        }
        let mut report = Received::new(Lane::Dsn);
        report.update(&Bytes::from_static(rest.as_bytes()));
        assert_eq!(report.finish(), plain.finish());
    }
}
