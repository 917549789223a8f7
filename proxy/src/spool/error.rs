//! What can go wrong with the spool, one variant per thing that a caller can do about it.
//!
//! Not here: SMTP replies; the spool knows none.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{GateName, SpoolId};
use crate::id::TransactionId;
use crate::spool::seal::KeyId;

/// Why a message could not be held. The client still owns it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HoldError {
    /// No room: refuse, and the client keeps the message.
    #[error("spool is full: {free_bytes} bytes free, {required_bytes} required")]
    Full {
        /// Free on the disk and not promised to others.
        free_bytes: u64,
        /// What this message and the reserve need.
        required_bytes: u64,
    },
    /// The message is larger than any the spool takes.
    #[error("message is larger than {bytes_max} bytes")]
    TooBig {
        /// The limit.
        bytes_max: u64,
    },
    /// A write or sync of the segment failed before this message was promised: the segment makes
    /// no more promises, ever. The next message may have more luck in a new one.
    #[error("segment is poisoned by a failed write or sync")]
    Poisoned,
    /// The disk refused: no segment can be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// The gate is none that the spool was opened with.
    #[error("the spool has no gate {0:?}")]
    UnknownGate(GateName),
    /// A message of that id is there already.
    #[error("transaction {0} has a message already")]
    DuplicateId(TransactionId),
    /// The spool is closed.
    #[error("spool is closed")]
    Closed,
}

/// Why a mark was not written. What it says must be taken as not said.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MarkError {
    /// No such message is held (any more).
    #[error("message {0} is not held")]
    NotHeld(SpoolId),
    /// The message has no such forward-path.
    #[error("message {id} has no forward-path {path}")]
    NoSuchPath {
        /// The message.
        id: SpoolId,
        /// The index asked for, from 0.
        path: u32,
    },
    /// `Offered` for a forward-path that does not wait to be tried: another attempt may be alive, or
    /// its outcome is uncertain.
    #[error("forward-path {path} of message {id} is not due")]
    NotDue {
        /// The message.
        id: SpoolId,
        /// The index asked for, from 0.
        path: u32,
    },
    /// The disk refused. Whether the mark will be found after a crash is not known; a later mark
    /// for the same forward-path settles it.
    #[error("cannot write marks {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// The committer failed half-way. As with `Write`.
    #[error("the committer failed while writing marks")]
    Failed,
    /// The spool is closed.
    #[error("spool is closed")]
    Closed,
}

/// Why a message could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// No such message is held (any more).
    #[error("message {0} is not held")]
    NotHeld(SpoolId),
    /// It does not authenticate: it is set aside, named and kept; others are not affected.
    #[error("{0}")]
    Damaged(Damage),
    /// The spool was opened without a key.
    #[error("held messages are sealed, and no key was given")]
    NoKey,
    /// The disk refused; trying again may help.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Arc<io::Error>,
    },
}

/// Octets on disk that are not what was written there. They are kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged: segment {segment} at octet {offset}{}: {what}", Named(*id))]
pub struct Damage {
    /// The segment (the number in its file's name).
    pub segment: u32,
    /// Where in the segment; where several parts are missing, the first.
    pub offset: u64,
    /// The message that is affected, where that is known.
    pub id: Option<SpoolId>,
    /// What was found.
    pub what: &'static str,
    /// An operator has seen it ([`super::Spool::acknowledge_damage`]).
    pub acknowledged: bool,
}

struct Named(Option<SpoolId>);

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |id| write!(f, ", message {id}"))
    }
}

/// Why a spool cannot be opened. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("spool {} is in use by another process", path.display())]
    Locked {
        /// The spool's folder.
        path: PathBuf,
    },
    /// Held mail was sealed with another key.
    #[error("spool {}: segment {segment} was sealed with key {expected}, but the key given is {given}: restore the right key", path.display())]
    WrongKey {
        /// The spool's folder.
        path: PathBuf,
        /// A segment that the key does not open.
        segment: u32,
        /// Fingerprint of the key it was sealed with.
        expected: KeyId,
        /// Fingerprint of the key given.
        given: KeyId,
    },
    /// Mail is held for a gate that the configuration no longer has.
    #[error(
        "{messages} messages are held for gate {gate:?}, which is not configured: configure it, or deliver or remove its mail first"
    )]
    UnknownGate {
        /// The gate.
        gate: GateName,
        /// How many messages wait for it.
        messages: u64,
    },
    /// A segment was written by a newer lockgate.
    #[error("spool {}: segment {segment} has format version {version}, this lockgate knows 1", path.display())]
    Version {
        /// The spool's folder.
        path: PathBuf,
        /// The segment.
        segment: u32,
        /// Its version.
        version: u32,
    },
    /// A value of the configuration is out of bounds.
    #[error("[spool] {0}")]
    Config(&'static str),
    /// The disk refused.
    #[error("spool: {}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}
