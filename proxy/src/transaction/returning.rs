//! What a return gate notes of a probe that comes back.
//!
//! Invariants
//! - The transaction goes on like any other: nothing here waits, and nothing here can make it fail.
//! - Octets are copied only while a token is awaited; below the header only of a message that bears a
//!   known one.
//!
//! Not here: which tokens are known and what is kept (`token`), what the claims are worth (control).

use std::sync::Arc;

use super::{Corridor, Peeked};
use crate::clock;
use crate::id::TransactionId;
use crate::journal::Mark;
use crate::token::{COPY_OCTETS_MAX, Copy, Tokens};

/// A look at a message that comes through a return gate.
pub(super) struct Returning {
    tokens: Arc<Tokens>,
    /// What was copied so far; none: it is not wanted, or too large.
    copy: Option<Vec<u8>>,
    /// The header was looked at.
    judged: bool,
}

impl Returning {
    /// The look at mail data that begins; none at a gate to which nothing returns.
    pub(super) fn begin(corridor: &Corridor) -> Option<Self> {
        corridor.gate.plan().returns.as_ref()?;
        let tokens = Arc::clone(&corridor.tokens);
        let copy = tokens.awaited(clock::unix_ms()).then(Vec::new);
        Some(Self { tokens, copy, judged: false })
    }

    /// Looks at the next of mail data, which `peeked` has seen.
    pub(super) fn look_at(&mut self, pieces: [&[u8]; 2], peeked: &Peeked) {
        if !self.judged && peeked.header().done() {
            self.judged = true;
            if !self.knows(peeked) {
                self.copy = None;
            }
        }
        let Some(copy) = &mut self.copy else { return };
        for piece in pieces {
            if copy.len() + piece.len() > COPY_OCTETS_MAX {
                self.copy = None;
                return;
            }
            copy.extend_from_slice(piece);
        }
    }

    /// Mail data is whole.
    pub(super) fn keep(&mut self, id: TransactionId, to: Vec<String>, peeked: &Peeked) {
        if let (Some(wire), Some(token)) = (self.copy.take(), peeked.token()) {
            self.tokens.keep(Copy { id, token, to, wire }, clock::unix_ms());
        }
    }

    /// What the journal is to know; none: it is no probe.
    pub(super) fn mark<'a>(&self, peeked: &'a Peeked) -> Option<Mark<'a>> {
        let token = peeked.token()?;
        Some(Mark {
            token: token.to_string().into(),
            known: self.knows(peeked),
            media_type: peeked.media_type().map(Into::into),
            protocol: peeked.parameter("protocol").map(Into::into),
            smime_type: peeked.parameter("smime-type").map(Into::into),
            encoding_format: peeked.encoding_format().map(Into::into),
            processed: peeked.header().pgp_marks().universal,
        })
    }

    fn knows(&self, peeked: &Peeked) -> bool {
        peeked.token().is_some_and(|token| self.tokens.knows(token, clock::unix_ms()))
    }
}
