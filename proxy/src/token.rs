//! Tokens: by what a probe is known again when it comes back.
//!
//! A token is the id of the probe and 64 random bits. Whoever did not get the probe cannot guess it.
//! Of what bears one, a return gate keeps a copy for a while, so that it can be told what the server
//! made of the message.
//!
//! Invariants
//! - A copy is kept only for a token that this process gave out within [`KEPT_MS`], and it is never
//!   larger than [`COPY_OCTETS_MAX`].
//! - All copies together have at most [`OCTETS_MAX`] octets; of more the oldest go. One token has at most
//!   [`COPIES_OF_TOKEN`]: whoever got one probe cannot push out what came of the others.
//! - Copies are in memory alone: a restart forgets them, and tokens too. The journal remembers what the
//!   header said.
//!
//! Not here: how a probe is made (`probe`), where it is looked for (`transaction`), what a copy shows
//! (control), the clock (the caller says what time it is).

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::TransactionId;

/// What stands between the two parts of a printed token.
const BETWEEN: char = '-';

/// Characters of the random part, in hexadecimal.
const SECRET_LENGTH: usize = 16;

/// How long a token is known: what a server keeps for longer is looked for in the journal.
pub const KEPT_MS: u64 = 86_400_000;

/// Most octets of a copy; of a larger message there is none.
pub const COPY_OCTETS_MAX: usize = 256 << 10;

/// Most octets of all copies.
pub const OCTETS_MAX: usize = 16 << 20;

/// Most copies for one token: a server may make several messages of one.
pub const COPIES_OF_TOKEN: usize = 4;

/// Most tokens known at a time; of more the oldest are forgotten.
const TOKENS_MAX: usize = 4096;

/// Most copies, however small.
const COPIES_MAX: usize = 4096;

/// The token of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    id: TransactionId,
    secret: u64,
}

/// The text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is the id of a probe, {BETWEEN:?} and {SECRET_LENGTH} characters of 0-9 and a-f")]
pub struct ParseTokenError;

/// The system has no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no random numbers")]
pub struct NoRandom;

impl Token {
    fn new(id: TransactionId) -> Result<Self, NoRandom> {
        let mut secret = [0; 8];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| NoRandom)?;
        Ok(Self { id, secret: u64::from_be_bytes(secret) })
    }

    /// The probe.
    #[must_use]
    pub const fn id(self) -> TransactionId {
        self.id
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{BETWEEN}{:0SECRET_LENGTH$x}", self.id, self.secret)
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let (id, secret) = text.split_once(BETWEEN).ok_or(ParseTokenError)?;
        // A sign would be taken for a part of the number.
        let hex = secret.bytes().all(|octet| octet.is_ascii_hexdigit());
        if !hex || secret.len() != SECRET_LENGTH {
            return Err(ParseTokenError);
        }
        let id = id.parse().map_err(|_| ParseTokenError)?;
        let secret = u64::from_str_radix(secret, 16).map_err(|_| ParseTokenError)?;
        Ok(Self { id, secret })
    }
}

/// A message that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The transaction in which it came.
    pub id: TransactionId,
    /// Its token.
    pub token: Token,
    /// Forward-paths, as written.
    pub to: Vec<String>,
    /// Mail data in wire form, as received.
    pub wire: Vec<u8>,
}

/// The tokens that were given out, and copies of what came back with them.
#[derive(Debug, Default)]
pub struct Tokens {
    /// From here on none is known; so that mail which passes meanwhile asks for no lock.
    until_ms: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// With the moment from which it is not known any more.
    given: VecDeque<(Token, u64)>,
    copies: VecDeque<Copy>,
    octets: usize,
}

impl Tokens {
    /// Each change leaves it whole, so that a panic elsewhere says nothing against it.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives out a token for the probe with this id.
    ///
    /// # Errors
    /// See [`NoRandom`].
    pub fn give(&self, id: TransactionId, now_ms: u64) -> Result<Token, NoRandom> {
        let token = Token::new(id)?;
        let until_ms = now_ms.saturating_add(KEPT_MS);
        let mut book = self.book();
        book.forget_old(now_ms);
        if book.given.len() >= TOKENS_MAX {
            book.given.pop_front();
        }
        book.given.push_back((token, until_ms));
        self.until_ms.fetch_max(until_ms, Ordering::Relaxed);
        Ok(token)
    }

    /// May anything come back now?
    #[must_use]
    pub fn awaited(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms.load(Ordering::Relaxed)
    }

    /// Was this token given out, not long ago?
    #[must_use]
    pub fn knows(&self, token: Token, now_ms: u64) -> bool {
        self.awaited(now_ms) && self.book().knows(token, now_ms)
    }

    /// Keeps a copy of what came back. The same message for the same forward-paths takes the place of the one before: the
    /// server tries again.
    pub fn keep(&self, copy: Copy, now_ms: u64) {
        let mut book = self.book();
        book.forget_old(now_ms);
        if copy.wire.len() > COPY_OCTETS_MAX || !book.knows(copy.token, now_ms) {
            return;
        }
        book.drop_copies(|kept| kept.token == copy.token && kept.to == copy.to);
        let of_token = book.copies.iter().filter(|kept| kept.token == copy.token).count();
        if of_token >= COPIES_OF_TOKEN {
            return;
        }
        book.octets += copy.wire.len();
        book.copies.push_back(copy);
        while book.octets > OCTETS_MAX || book.copies.len() > COPIES_MAX {
            let Some(oldest) = book.copies.pop_front() else { break };
            book.octets -= oldest.wire.len();
        }
    }

    /// Copies of what came back, oldest first; `token` none: of all.
    #[must_use]
    pub fn copies(&self, token: Option<Token>, now_ms: u64) -> Vec<Copy> {
        let mut book = self.book();
        book.forget_old(now_ms);
        let wanted = |copy: &&Copy| token.is_none_or(|token| token == copy.token);
        book.copies.iter().filter(wanted).cloned().collect()
    }
}

impl Book {
    fn knows(&self, token: Token, now_ms: u64) -> bool {
        self.given.iter().any(|(given, until_ms)| *given == token && now_ms < *until_ms)
    }

    /// Forgets tokens that are too old, and the copies of tokens that are not known any more.
    fn forget_old(&mut self, now_ms: u64) {
        self.given.retain(|(_, until_ms)| now_ms < *until_ms);
        let given: HashSet<Token> = self.given.iter().map(|(token, _)| *token).collect();
        self.drop_copies(|copy| !given.contains(&copy.token));
    }

    fn drop_copies(&mut self, drop: impl Fn(&Copy) -> bool) {
        let octets = &mut self.octets;
        self.copies.retain(|copy| {
            let dropped = drop(copy);
            *octets -= if dropped { copy.wire.len() } else { 0 };
            !dropped
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn copy(token: Token, to: &str, octets: usize) -> Copy {
        Copy { id: ID, token, to: vec![to.to_owned()], wire: vec![b'x'; octets] }
    }

    #[test]
    fn only_what_was_given_out_and_is_not_old_is_kept() {
        let tokens = Tokens::default();
        assert!(!tokens.awaited(0), "nobody pays for what was never asked for");
        let token = tokens.give(ID, 1000).unwrap();
        let forged = Token { secret: token.secret ^ 1, ..token };
        assert!(tokens.awaited(1000) && tokens.knows(token, 1000) && !tokens.knows(forged, 1000));
        tokens.keep(copy(token, "<b@y.test>", 3), 2000);
        tokens.keep(copy(forged, "<b@y.test>", 3), 2000);
        assert_eq!(tokens.copies(None, 2000), [copy(token, "<b@y.test>", 3)]);
        assert!(tokens.copies(Some(forged), 2000).is_empty());
        let late = 1000 + KEPT_MS;
        assert!(!tokens.awaited(late) && !tokens.knows(token, late));
        assert!(tokens.copies(None, late).is_empty(), "a copy goes with its token");
        tokens.keep(copy(token, "<b@y.test>", 3), late);
        assert!(tokens.copies(None, late).is_empty());
        assert_eq!(tokens.book().octets, 0);
    }

    #[test]
    fn what_the_server_sends_again_takes_the_place_of_the_first() {
        let tokens = Tokens::default();
        let token = tokens.give(ID, 0).unwrap();
        tokens.keep(copy(token, "<b@y.test>", 3), 1);
        tokens.keep(copy(token, "<b@y.test>", 5), 1);
        tokens.keep(copy(token, "<c@y.test>", 7), 1);
        let sizes =
            |copies: Vec<Copy>| copies.iter().map(|copy| copy.wire.len()).collect::<Vec<_>>();
        assert_eq!(sizes(tokens.copies(Some(token), 1)), [5, 7]);
        assert_eq!(tokens.book().octets, 12);
    }

    #[test]
    fn neither_one_token_nor_all_take_more_than_their_share() {
        let tokens = Tokens::default();
        let flooded = tokens.give(ID, 0).unwrap();
        for n in 0..100 {
            tokens.keep(copy(flooded, &format!("<{n}@y.test>"), COPY_OCTETS_MAX), 1);
        }
        assert_eq!(tokens.copies(None, 1).len(), COPIES_OF_TOKEN);
        tokens.keep(copy(flooded, "<0@y.test>", COPY_OCTETS_MAX + 1), 1);
        assert_eq!(tokens.book().octets, COPIES_OF_TOKEN * COPY_OCTETS_MAX);
        let mut last = flooded;
        for n in 0..100 {
            last = tokens.give(TransactionId::from_u64(n), 0).unwrap();
            tokens.keep(copy(last, "<b@y.test>", COPY_OCTETS_MAX), 1);
        }
        let copies = tokens.copies(None, 1);
        assert_eq!(copies.len(), OCTETS_MAX / COPY_OCTETS_MAX);
        assert_eq!(copies.last().unwrap().token, last, "the oldest went");
        assert_eq!(tokens.book().octets, OCTETS_MAX);
        for n in 0..TOKENS_MAX as u64 {
            tokens.give(TransactionId::from_u64(1000 + n), 0).unwrap();
        }
        assert!(!tokens.knows(last, 1) && tokens.book().given.len() == TOKENS_MAX);
    }

    const ID: TransactionId = TransactionId::from_u64(4711);

    #[test]
    fn a_token_is_read_as_it_is_printed() {
        for token in [Token::new(ID).unwrap(), Token { id: ID, secret: 7 }] {
            let text = token.to_string();
            assert_eq!(text.len(), 30);
            assert_eq!(text.parse(), Ok(token));
            assert_eq!(token.id(), ID);
        }
        assert_ne!(Token::new(ID), Token::new(ID), "nobody can guess it from the id");
    }

    #[test]
    fn what_is_no_token_is_not_read() {
        let good = Token { id: ID, secret: 7 }.to_string();
        for text in
            ["", "-", &ID.to_string(), &format!("{good}0"), &good[1..], &good.replace("-0", "-+")]
        {
            assert_eq!(text.parse::<Token>(), Err(ParseTokenError), "{text:?}");
        }
    }
}
