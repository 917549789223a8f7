//! What a rule does, and what becomes of the message.
//!
//! Outcomes are ordered by protection: how little of the message anybody but the recipient can
//! read (the order of the server's own choices for a missing key, and what stands around them).
//!
//! Not here: which rule acts (`program`), how protection is seen in a message (`protection`).

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use crate::set::Opaque;

/// One action of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Encrypts to the recipient's key and delivers. Terminal.
    Send(Send),
    /// Ends with this outcome. Terminal.
    Finish(Outcome),
    /// Goes on in another chain.
    GoTo(String),
    /// Does something beside, and goes on.
    Effect(Effect),
    /// Nobody knows: it was not understood. Taken for terminal.
    Opaque(Opaque),
}

/// Encrypt, and what if there is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Signs too.
    pub sign: bool,
    /// How the message is wrapped.
    pub encoding: Encoding,
    /// Where a key is looked for; none said: wherever the server looks by itself.
    pub search: Vec<String>,
    /// What becomes of the message where no suitable key is found.
    pub key_not_found: Outcome,
}

/// Name of the place where keys are looked for when a rule names none.
pub const SEARCH_DEFAULT: &str = "any";

/// The preferred form of what is signed or encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// The server chooses.
    #[default]
    Automatic,
    /// PGP Partitioned.
    PgpPartitioned,
    /// PGP/MIME (RFC 3156).
    PgpMime,
    /// S/MIME (RFC 8551).
    Smime,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Automatic, Self::PgpPartitioned, Self::PgpMime, Self::Smime];

    /// The server's words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Automatic => "Automatic",
            Self::PgpPartitioned => "PGP Partitioned",
            Self::PgpMime => "PGP/MIME",
            Self::Smime => "S/MIME",
        }
    }
}

/// What becomes of the message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Sent in clear, not signed.
    Clear,
    /// Passed on as it came.
    Unmodified,
    /// Decrypted and verified, then delivered.
    Decrypted,
    /// Sent in clear with a note on how to get protected mail (Smart Trailer).
    SmartTrailer,
    /// Sent in clear, signed.
    Signed(Encoding),
    /// As PDF where it is one; the text may go in clear (PDF Messenger).
    Pdf,
    /// Stays on the server; the recipient gets a notice (Web Messenger).
    Web,
    /// Stays on the server, with proof of delivery (Certified Delivery).
    Certified,
    /// As PDF, all of it encrypted (PDF Messenger, Encrypt All).
    PdfAll,
    /// Encrypted to the recipient's key.
    Encrypted {
        /// Signed too.
        sign: bool,
        /// Its form.
        encoding: Encoding,
    },
    /// Given back to the sender.
    Bounced,
    /// Thrown away.
    Dropped,
    /// A mailing list: its members take the recipient's place, and each begins anew.
    Expanded,
    /// Not to be told.
    Undecided(Cause),
}

/// Why an outcome cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// No rule of a chain matched, and what the server does then is not documented (E5).
    EndOfChain,
    /// Chains lead in a circle (E7).
    Cycle,
    /// A rule goes to a chain that does not exist or does not act on this mail.
    NoChain,
    /// What was imported does not say how this is set.
    Unstated {
        /// The setting.
        setting: &'static str,
    },
    /// What Learn Mode does is not documented (E8).
    LearnMode,
    /// An action that was not understood.
    Action(Opaque),
}

/// What an action does beside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Adds the address to a dictionary.
    AddTo {
        /// The dictionary.
        dictionary: String,
    },
    /// Sends a copy to another server or an archive.
    Copy {
        /// The server.
        server: String,
    },
    /// Writes a line to the log; nothing else comes of it.
    Log {
        /// The line.
        text: String,
    },
}

/// How well a message is protected; the order is that of the derive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protection {
    /// Anybody on the way can read and change it.
    Clear,
    /// Anybody can read it, nobody can change it unseen.
    Signed,
    /// Parts of it may be in clear.
    Partly,
    /// Kept on the server behind a passphrase.
    Kept,
    /// Encrypted with a passphrase.
    Passphrase,
    /// Encrypted to the recipient's key.
    Encrypted,
    /// Encrypted to the recipient's key, and signed.
    EncryptedSigned,
    /// It does not leave.
    NotSent,
}

impl Protection {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Signed => "clear, signed",
            Self::Partly => "partly clear",
            Self::Kept => "kept on the server",
            Self::Passphrase => "encrypted with a passphrase",
            Self::Encrypted => "encrypted",
            Self::EncryptedSigned => "encrypted, signed",
            Self::NotSent => "not sent",
        }
    }

    /// Is it kept from those on the way?
    #[must_use]
    pub fn is_confidential(self) -> bool {
        self >= Self::Kept
    }
}

impl Outcome {
    /// Its protection; none where the outcome cannot be told.
    #[must_use]
    pub const fn protection(&self) -> Option<Protection> {
        Some(match self {
            Self::Clear | Self::Unmodified | Self::Decrypted | Self::SmartTrailer => {
                Protection::Clear
            }
            Self::Signed(_) => Protection::Signed,
            Self::Pdf => Protection::Partly,
            Self::Web | Self::Certified => Protection::Kept,
            Self::PdfAll => Protection::Passphrase,
            Self::Encrypted { sign: false, .. } => Protection::Encrypted,
            Self::Encrypted { sign: true, .. } => Protection::EncryptedSigned,
            Self::Bounced | Self::Dropped => Protection::NotSent,
            Self::Expanded | Self::Undecided(_) => return None,
        })
    }

    /// Did nothing of the import say what this is, so that two of them need not be the same?
    #[must_use]
    pub const fn is_unstated(&self) -> bool {
        matches!(self, Self::Undecided(Cause::Unstated { .. }))
    }
}

/// What becomes of a message, with what was done beside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fate {
    /// What becomes of it.
    pub outcome: Outcome,
    /// What was done beside; lines in a log are left out, since nothing comes of them.
    pub effects: BTreeSet<Effect>,
}

impl Fate {
    /// Compares what becomes of the same message before and after.
    #[must_use]
    pub fn relation(&self, after: &Self) -> Relation {
        match Relation::of(&self.outcome, &after.outcome) {
            Relation::Equal if self.effects != after.effects => Relation::Incomparable,
            relation => relation,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outcome.fmt(f)?;
        self.effects.iter().try_for_each(|effect| write!(f, "; {effect}"))
    }
}

/// How the outcome after an upgrade compares with the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// The same.
    Equal,
    /// Better protected, or not sent where it was.
    Stricter,
    /// Another treatment, of which neither is the better protected.
    Incomparable,
    /// Not to be told.
    Unknown,
    /// Less protected.
    Looser,
}

impl Relation {
    /// Compares what becomes of the same message before and after.
    #[must_use]
    pub fn of(before: &Outcome, after: &Outcome) -> Self {
        if before == after {
            return if before.is_unstated() { Self::Unknown } else { Self::Equal };
        }
        match (before.protection(), after.protection()) {
            (Some(before), Some(after)) => match after.cmp(&before) {
                Ordering::Less => Self::Looser,
                Ordering::Equal => Self::Incomparable,
                Ordering::Greater => Self::Stricter,
            },
            // The members of a list are decided each for itself: not to be compared with one fate.
            _ if undecided(before) || undecided(after) => Self::Unknown,
            _ => Self::Incomparable,
        }
    }
}

const fn undecided(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Undecided(_))
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "EQUAL",
            Self::Stricter => "STRICTER",
            Self::Incomparable => "INCOMPARABLE",
            Self::Unknown => "UNKNOWN",
            Self::Looser => "LOOSER",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("send clear (unsigned)"),
            Self::Unmodified => f.write_str("pass through unmodified"),
            Self::Decrypted => f.write_str("decrypt and verify"),
            Self::SmartTrailer => f.write_str("Smart Trailer"),
            Self::Signed(encoding) => write!(f, "send clear (signed, {})", encoding.as_str()),
            Self::Pdf => f.write_str("PDF Messenger"),
            Self::Web => f.write_str("Web Messenger"),
            Self::Certified => f.write_str("Certified Delivery"),
            Self::PdfAll => f.write_str("PDF Messenger (Encrypt All)"),
            Self::Encrypted { sign, encoding } => {
                let signed = if *sign { ", signed" } else { "" };
                write!(f, "send (encrypted{signed}, {})", encoding.as_str())
            }
            Self::Bounced => f.write_str("bounce"),
            Self::Dropped => f.write_str("drop"),
            Self::Expanded => f.write_str("expand mailing list and restart"),
            Self::Undecided(cause) => write!(f, "not known: {cause}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndOfChain => {
                f.write_str("the chain ends, and what happens then is not documented")
            }
            Self::Cycle => f.write_str("chains lead in a circle"),
            Self::NoChain => f.write_str("there is no such chain for this mail"),
            Self::Unstated { setting } => write!(f, "the import does not say {setting}"),
            Self::LearnMode => f.write_str("Learn Mode is on, and what it does is not documented"),
            Self::Action(opaque) => write!(f, "action not understood: {}", opaque.what),
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTo { dictionary } => write!(f, "add to dictionary {dictionary:?}"),
            Self::Copy { server } => write!(f, "send copy to {server:?}"),
            Self::Log { text } => write!(f, "add log entry {text:?}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(send) => {
                let outcome = Outcome::Encrypted { sign: send.sign, encoding: send.encoding };
                write!(f, "{outcome}; key not found: {}", send.key_not_found)?;
                match send.search.as_slice() {
                    [] => Ok(()),
                    places => write!(f, "; keys from {}", places.join(", ")),
                }
            }
            Self::Finish(outcome) => outcome.fmt(f),
            Self::GoTo(chain) => write!(f, "go to chain {chain:?}"),
            Self::Effect(effect) => effect.fmt(f),
            Self::Opaque(opaque) => write!(f, "not understood: {}", opaque.what),
        }
    }
}

impl Action {
    /// Does evaluation of the chain end with it?
    #[must_use]
    pub const fn is_last(&self) -> bool {
        !matches!(self, Self::Effect(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_for_a_missing_key_are_ordered_as_the_model_has_them() {
        let order = [
            Outcome::Clear,
            Outcome::Signed(Encoding::Automatic),
            Outcome::Pdf,
            Outcome::Web,
            Outcome::PdfAll,
            Outcome::Bounced,
        ];
        for pair in order.windows(2) {
            assert_eq!(Relation::of(&pair[1], &pair[0]), Relation::Looser, "{pair:?}");
            assert_eq!(Relation::of(&pair[0], &pair[1]), Relation::Stricter, "{pair:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_never_called_equal_or_better() {
        let end = || Outcome::Undecided(Cause::EndOfChain);
        assert_eq!(Relation::of(&end(), &end()), Relation::Equal);
        assert_eq!(Relation::of(&end(), &Outcome::Undecided(Cause::Cycle)), Relation::Unknown);
        assert_eq!(Relation::of(&Outcome::Bounced, &end()), Relation::Unknown);
        let unstated = Outcome::Undecided(Cause::Unstated { setting: "Learn Mode" });
        assert_eq!(Relation::of(&unstated, &unstated.clone()), Relation::Unknown);
        assert_eq!(Relation::of(&Outcome::Expanded, &Outcome::Clear), Relation::Incomparable);
        assert_eq!(Relation::of(&Outcome::Bounced, &Outcome::Dropped), Relation::Incomparable);
    }
}
