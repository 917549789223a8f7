//! Tokens: by what a probe is known again when it comes back.
//!
//! A token is the id of the probe and 64 random bits. Whoever did not get the probe cannot guess it.
//!
//! Not here: how a probe is made (`probe`), where it is looked for (`transaction`).

use std::fmt;
use std::str::FromStr;

use crate::id::TransactionId;

/// What stands between the two parts of a printed token.
const BETWEEN: char = '-';

/// Characters of the random part, in hexadecimal.
const SECRET_LENGTH: usize = 16;

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
    /// A new token for the probe with this id.
    ///
    /// # Errors
    /// See [`NoRandom`].
    pub fn new(id: TransactionId) -> Result<Self, NoRandom> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
