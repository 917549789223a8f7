//! What a reading tells.
//!
//! Not here: how it is read (`tail`, `import`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::maillog::files::file::Position;
use crate::maillog::files::lines::Skipped;

/// Something that the reading of a followed log tells.
#[derive(Debug)]
pub enum Told<'a> {
    /// One or more lines.
    Lines {
        /// Where they begin.
        position: &'a Position,
        /// Each ended by LF, except the last of a file that is finished, and the beginning of a line
        /// that is too long.
        lines: &'a [u8],
    },
    /// Lines may be missing here.
    Lost {
        /// Why.
        why: Lost,
        /// Where.
        position: &'a Position,
        /// How many octets, where that is known.
        octets: Option<u64>,
    },
    /// A file is read to its end, and reading goes on in the next.
    Turned {
        /// The end of the finished file.
        end: &'a Position,
        /// The chain at its end.
        chain: [u8; 32],
    },
}

/// Why lines may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lost {
    /// A line is too long; its beginning was told.
    LongLine,
    /// NUL octets, as a crash leaves them, or a writer that goes on at its old place in a file that was
    /// emptied.
    Zeros,
    /// The file was emptied or overwritten, and no copy holds what it had.
    Truncated,
    /// The file that was read last, or the one before, is not there any more: others behind it may be
    /// gone too.
    Gone,
    /// A rotated file is compressed in a way that cannot be read.
    Compressed,
    /// A compressed file ends early or is damaged.
    BrokenGz,
}

impl Lost {
    /// Of what a splitter skips; the rest of a line that began before reading did is no loss.
    pub(crate) const fn of(skipped: Skipped) -> Option<Self> {
        match skipped {
            Skipped::LongLine => Some(Self::LongLine),
            Skipped::Zeros => Some(Self::Zeros),
            Skipped::Begun => None,
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LongLine => "a line is too long; only its beginning was read",
            Self::Zeros => "there are zeros in the place of text",
            Self::Truncated => "the file was emptied or overwritten, and no copy of it was found",
            Self::Gone => "the file that was read last was not found; others may be gone too",
            Self::Compressed => "a rotated file is compressed in a way that cannot be read",
            Self::BrokenGz => "a compressed file ends early or is damaged",
        })
    }
}
