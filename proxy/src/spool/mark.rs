//! What was tried with a held message, per forward-path.
//!
//! A [`Mark`] is what the replayer or an operator writes down; a [`PathState`] is where that
//! leaves the forward-path. The spool keeps both and interprets neither: which mark follows
//! which outcome is decided in `replay`.
//!
//! Not here: how marks look on disk (`marks`).

use std::fmt;
use std::sync::Arc;

/// Octets of a reply that a mark keeps.
pub const TEXT_BYTES_MAX: usize = 255;

/// The text of a reply or reason kept with a mark: at most [`TEXT_BYTES_MAX`] octets.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(Option<Arc<str>>);

impl Text {
    /// No text.
    pub const NONE: Self = Self(None);

    /// The text, cut to [`TEXT_BYTES_MAX`] octets at a character.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        if end == 0 { Self::NONE } else { Self(Some(text[..end].into())) }
    }

    /// The text, empty for none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    pub(super) const fn shared(&self) -> Option<&Arc<str>> {
        self.0.as_ref()
    }

    pub(super) const fn from_shared(text: Arc<str>) -> Self {
        Self(Some(text))
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::NONE
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One line in the book of a forward-path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The final dot is about to be sent: from here on a duplicate is possible. Synced before.
    Offered,
    /// To be tried (again).
    Due {
        /// Not before this moment.
        at_unix_ms: u64,
        /// Attempts made so far.
        attempts: u32,
        /// Running time while release was open, in milliseconds: what its lifetime counts.
        open_ms: u64,
        /// What the next hop said last.
        reply: Text,
    },
    /// Kept until a person decides.
    Kept {
        /// Why it is not tried again by itself.
        why: Kept,
        /// What the next hop said.
        reply: Text,
    },
    /// Discharged: somebody else answers for it, or somebody said that nobody has to.
    Done {
        /// How.
        how: Done,
        /// The next hop's reply, or the reason that a person gave.
        reply: Text,
    },
}

/// Why a forward-path waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    /// A 5yz in replay: it does not bounce by itself.
    Refused,
    /// The member no longer offers what the message needs.
    Blocked(Need),
    /// The outcome of an attempt is unknown and no rule may settle it.
    Asked,
}

/// What a message needs of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// 8BITMIME (RFC 6152).
    EightBitMime,
    /// SMTPUTF8 (RFC 6531).
    SmtpUtf8,
    /// SIZE (RFC 1870) of at least so many octets.
    Size(u64),
}

impl Need {
    /// The EHLO keyword.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::EightBitMime => "8BITMIME",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::Size(_) => "SIZE",
        }
    }
}

/// How a forward-path was discharged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Done {
    /// The next hop's 2yz came after the last octet.
    Relayed,
    /// A person removed it; the reason stands in the text.
    Removed,
    /// A report about its failure is stored in this spool.
    Reported,
    /// It failed, and the envelope asked for no report (NOTIFY, null reverse-path).
    Dropped,
}

/// Where a forward-path stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathState {
    /// To be tried, not before `at_unix_ms`; never tried yet if `attempts` is 0.
    Due {
        /// Not before this moment; 0 for a message that was never tried.
        at_unix_ms: u64,
        /// Attempts made so far.
        attempts: u32,
        /// Running time while release was open, in milliseconds.
        open_ms: u64,
        /// What the next hop said last.
        reply: Text,
    },
    /// A final dot was about to be sent. With no attempt alive this is *uncertain*: it is never
    /// tried again until settled.
    Offered {
        /// Attempts made before this one.
        attempts: u32,
        /// Running time before this attempt, in milliseconds.
        open_ms: u64,
    },
    /// Waits for a person.
    Kept {
        /// Why.
        why: Kept,
        /// What the next hop said.
        reply: Text,
    },
    /// Discharged; no later mark changes that.
    Done {
        /// How.
        how: Done,
        /// The next hop's reply, or a person's reason.
        reply: Text,
    },
}

impl PathState {
    /// A forward-path that was never tried.
    pub const FRESH: Self = Self::Due { at_unix_ms: 0, attempts: 0, open_ms: 0, reply: Text::NONE };

    /// True once somebody else answers for it.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }

    /// True if it is to be tried by itself.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        matches!(self, Self::Due { .. })
    }

    /// The state after `mark`. Done stays done: what was discharged is never taken back.
    #[must_use]
    pub fn after(&self, mark: &Mark) -> Self {
        match (self, mark) {
            (Self::Done { .. }, _) => self.clone(),
            (
                Self::Due { attempts, open_ms, .. } | Self::Offered { attempts, open_ms },
                Mark::Offered,
            ) => Self::Offered { attempts: *attempts, open_ms: *open_ms },
            (Self::Kept { .. }, Mark::Offered) => Self::Offered { attempts: 0, open_ms: 0 },
            (_, Mark::Due { at_unix_ms, attempts, open_ms, reply }) => Self::Due {
                at_unix_ms: *at_unix_ms,
                attempts: *attempts,
                open_ms: *open_ms,
                reply: reply.clone(),
            },
            (_, Mark::Kept { why, reply }) => Self::Kept { why: *why, reply: reply.clone() },
            (_, Mark::Done { how, reply }) => Self::Done { how: *how, reply: reply.clone() },
        }
    }

    /// The state after marks were lost: whatever was not discharged may have been offered.
    #[must_use]
    pub fn doubted(&self) -> Self {
        match self {
            Self::Done { .. } | Self::Offered { .. } => self.clone(),
            Self::Due { attempts, open_ms, .. } => {
                Self::Offered { attempts: *attempts, open_ms: *open_ms }
            }
            Self::Kept { .. } => Self::Offered { attempts: 0, open_ms: 0 },
        }
    }
}

/// The states of all forward-paths of a message, in the order of its envelope.
///
/// A message that was never tried, the common case, costs no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paths {
    /// So many forward-paths, all [`PathState::FRESH`].
    Fresh(u32),
    /// At least one has a mark.
    Tried(Box<[PathState]>),
}

impl Paths {
    /// How many forward-paths the envelope has.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Fresh(count) => *count as usize,
            Self::Tried(states) => states.len(),
        }
    }

    /// The state of one forward-path, counted from 0.
    #[must_use]
    pub fn state(&self, index: usize) -> Option<&PathState> {
        match self {
            Self::Fresh(count) => (index < *count as usize).then_some(&PathState::FRESH),
            Self::Tried(states) => states.get(index),
        }
    }

    /// All states in order.
    pub fn iter(&self) -> impl Iterator<Item = &PathState> {
        (0..self.count()).filter_map(|index| self.state(index))
    }

    /// True when every forward-path is discharged.
    #[must_use]
    pub fn all_done(&self) -> bool {
        self.iter().all(PathState::is_done)
    }

    /// Forward-paths that are not discharged.
    #[must_use]
    pub fn open(&self) -> usize {
        self.iter().filter(|state| !state.is_done()).count()
    }

    /// Where the message as a whole stands.
    #[must_use]
    pub fn stand(&self) -> Stand {
        self.iter().map(Stand::of).min().unwrap_or(Stand::Done)
    }

    pub(super) fn set(&mut self, index: usize, state: PathState) {
        if let Self::Fresh(count) = self {
            *self = Self::Tried(vec![PathState::FRESH; *count as usize].into());
        }
        if let Self::Tried(states) = self
            && let Some(place) = states.get_mut(index)
        {
            *place = state;
        }
    }

    pub(super) fn doubt(&mut self) {
        *self = Self::Tried(self.iter().map(PathState::doubted).collect());
    }
}

/// Where a message stands: of the states of its forward-paths the first in this order. Used to
/// count and filter, never to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stand {
    /// A final dot was about to be sent: an attempt is alive, or the outcome is uncertain.
    Offered,
    /// Held, never tried.
    Fresh,
    /// Tried, to be tried again.
    Deferred,
    /// Uncertain, and a person was asked.
    Asked,
    /// Refused, and kept.
    Refused,
    /// Needs what the member does not offer, and kept.
    Blocked,
    /// Nothing left to do; the message is about to go.
    Done,
}

impl Stand {
    /// Every stand that a held message can have, in order.
    pub const HELD: [Self; 6] =
        [Self::Offered, Self::Fresh, Self::Deferred, Self::Asked, Self::Refused, Self::Blocked];

    /// The word for it in lists and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Fresh => "held",
            Self::Deferred => "deferred",
            Self::Asked => "asked",
            Self::Refused => "refused",
            Self::Blocked => "blocked",
            Self::Done => "done",
        }
    }

    const fn of(state: &PathState) -> Self {
        match state {
            PathState::Offered { .. } => Self::Offered,
            PathState::Due { attempts: 0, .. } => Self::Fresh,
            PathState::Due { .. } => Self::Deferred,
            PathState::Kept { why: Kept::Asked, .. } => Self::Asked,
            PathState::Kept { why: Kept::Refused, .. } => Self::Refused,
            PathState::Kept { why: Kept::Blocked(_), .. } => Self::Blocked,
            PathState::Done { .. } => Self::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUE: Mark = Mark::Due { at_unix_ms: 9, attempts: 2, open_ms: 70, reply: Text::NONE };
    const DONE: Mark = Mark::Done { how: Done::Relayed, reply: Text::NONE };

    #[test]
    fn done_is_never_taken_back() {
        let done = PathState::FRESH.after(&DONE);
        for mark in [Mark::Offered, DUE, Mark::Kept { why: Kept::Asked, reply: Text::NONE }] {
            assert_eq!(done.after(&mark), done);
        }
        assert_eq!(done.doubted(), done);
    }

    #[test]
    fn an_offer_keeps_the_count_of_attempts() {
        let offered = PathState::FRESH.after(&DUE).after(&Mark::Offered);
        assert_eq!(offered, PathState::Offered { attempts: 2, open_ms: 70 });
    }

    #[test]
    fn lost_marks_leave_nothing_due() {
        let mut paths = Paths::Fresh(3);
        paths.set(1, PathState::FRESH.after(&DONE));
        paths.doubt();
        assert!(paths.iter().all(|state| !state.is_due()));
        assert_eq!(paths.open(), 2);
    }

    #[test]
    fn a_message_stands_where_its_most_pressing_path_stands() {
        let mut paths = Paths::Fresh(2);
        assert_eq!(paths.stand(), Stand::Fresh);
        paths.set(0, PathState::FRESH.after(&DONE));
        paths.set(1, PathState::FRESH.after(&DUE));
        assert_eq!(paths.stand(), Stand::Deferred);
        paths.set(1, PathState::FRESH.after(&DONE));
        assert_eq!(paths.stand(), Stand::Done);
        assert!(paths.all_done());
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let long = "é".repeat(200);
        assert_eq!(Text::new(&long).as_str().len(), 254);
        assert_eq!(Text::new(""), Text::NONE);
    }
}
