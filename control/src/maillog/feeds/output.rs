//! What a child process writes: lines of a bounded length, and what it complains of.
//!
//! Invariants
//! - However the octets are cut into pushes, the lines are the same.
//! - What is kept is bounded, however long a line is and however many complaints there are.
//!
//! Not here: what a line says.

use std::process::ExitStatus;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::ChildStderr;

/// Longest line of the child's complaints, and most of them for one child.
const COMPLAINT_OCTETS_MAX: usize = 1 << 10;
const COMPLAINTS_MAX: u32 = 20;

/// What the child complains of.
pub(crate) struct Complaints {
    errors: Option<ChildStderr>,
    buffer: Vec<u8>,
    lines: Lines,
    told: u32,
    last: String,
}

impl Complaints {
    pub(crate) fn new(errors: ChildStderr) -> Self {
        let lines = Lines::new(COMPLAINT_OCTETS_MAX);
        let buffer = vec![0; COMPLAINT_OCTETS_MAX];
        Self { errors: Some(errors), buffer, lines, told: 0, last: String::new() }
    }

    /// Reads some of them; never ends where there are no more.
    pub(crate) async fn next(&mut self) {
        let Some(errors) = &mut self.errors else { return std::future::pending().await };
        match read(errors, &mut self.buffer).await {
            0 => self.errors = None,
            octets => {
                for line in self.lines.push(self.buffer.get(..octets).unwrap_or_default()) {
                    self.complain(&line);
                }
            }
        }
    }

    /// Reads the rest.
    pub(crate) async fn rest(&mut self) {
        while self.errors.is_some() {
            self.next().await;
        }
    }

    fn complain(&mut self, line: &OutputLine) {
        self.last = match line {
            OutputLine::Whole(text) => String::from_utf8_lossy(text).trim().to_owned(),
            OutputLine::TooLong => "a long complaint".to_owned(),
        };
        self.told = self.told.saturating_add(1);
        if self.told <= COMPLAINTS_MAX {
            tracing::warn!(text = %self.last, "journalctl complains");
        }
    }

    pub(crate) fn why(&self, status: std::io::Result<ExitStatus>) -> String {
        let status = match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        match self.last.as_str() {
            "" => format!("journalctl ended: {status}"),
            complaint => format!("journalctl ended: {status}: {complaint}"),
        }
    }
}

/// Reads; an error is an end.
async fn read(from: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> usize {
    from.read(buffer).await.unwrap_or(0)
}

/// Splits output into lines of a bounded length.
#[derive(Debug)]
pub(crate) struct Lines {
    octets_max: usize,
    octets: Vec<u8>,
    skipping: bool,
}

/// A line of output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OutputLine {
    Whole(Vec<u8>),
    TooLong,
}

impl Lines {
    pub(crate) const fn new(octets_max: usize) -> Self {
        Self { octets_max, octets: Vec::new(), skipping: false }
    }

    pub(crate) fn push(&mut self, input: &[u8]) -> Vec<OutputLine> {
        let mut told = Vec::new();
        for piece in input.split_inclusive(|octet| *octet == b'\n') {
            let (piece, ended) = match piece.strip_suffix(b"\n") {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            if !self.skipping {
                if self.octets.len() + piece.len() > self.octets_max {
                    self.skipping = true;
                    self.octets = Vec::new();
                    told.push(OutputLine::TooLong);
                } else {
                    self.octets.extend(piece);
                }
            }
            if ended {
                if !self.skipping {
                    told.push(OutputLine::Whole(std::mem::take(&mut self.octets)));
                }
                self.skipping = false;
            }
        }
        told
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(
            text in "[ab\n]{0,60}",
            octets_max in 0_usize..6,
            cuts in prop::collection::vec(0_usize..60, 0..9),
        ) {
            let expected: Vec<_> = {
                let mut pieces: Vec<&str> = text.split('\n').collect();
                let rest = pieces.pop().unwrap();
                let fits = |piece: &&str| piece.len() <= octets_max;
                let line = |piece: &str| match fits(&piece) {
                    true => OutputLine::Whole(piece.as_bytes().to_vec()),
                    false => OutputLine::TooLong,
                };
                let rest = (!fits(&rest)).then_some(OutputLine::TooLong);
                pieces.into_iter().map(line).chain(rest).collect()
            };
            let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < text.len()).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let (mut lines, mut told, mut from) = (Lines::new(octets_max), Vec::new(), 0);
            for cut in cuts {
                told.extend(lines.push(&text.as_bytes()[from..cut]));
                from = cut;
            }
            prop_assert_eq!(told, expected);
        }
    }
}
