//! Octets into whole lines.
//!
//! A [`Splitter`] is given octets as they come and cuts them into [`Piece`]s.
//!
//! Invariants
//! - The pieces, one behind the other, are the octets that were given, less those that wait in
//!   [`Splitter::pending`]: nothing is added, changed or left out.
//! - How the octets were cut into pushes changes which pieces are joined, not what is in them.
//! - No line that is told holds NUL: zeros are what a crash leaves, and text behind them must not pass
//!   for a line of its own unless the zeros begin at the start of a line.
//! - At most `line_max` octets wait.
//!
//! Not here: CR, UTF-8 and its BOM (the reader of lines), offsets (`reading`).

use memchr::{memchr, memchr2};
use serde::{Deserialize, Serialize};

/// Octets of a line, without its LF, if nothing else is asked for.
pub const LINE_MAX: usize = 64 * 1024;

/// Why octets are not told as lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Skipped {
    /// The rest of a line that is too long; its beginning was told.
    LongLine,
    /// NUL octets, and the line in whose midst they stand.
    Zeros,
    /// The rest of a line that began before reading did.
    Begun,
}

/// Some of the octets, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// One or more whole lines, each with its LF; only the last line of a finished file has none.
    Lines(&'a [u8]),
    /// The first `line_max` octets of a line that is longer; the rest is skipped.
    Beginning(&'a [u8]),
    /// Not lines.
    Skipped(Skipped, &'a [u8]),
}

/// See the head of this file.
#[derive(Debug)]
pub struct Splitter {
    line_max: usize,
    pending: Vec<u8>,
    inside: Option<Skipped>,
}

impl Splitter {
    /// Begins at the start of a line, or inside one whose rest is to be skipped. A `line_max` of
    /// nothing is taken as one octet.
    #[must_use]
    pub fn new(line_max: usize, inside: Option<Skipped>) -> Self {
        Self { line_max: line_max.max(1), pending: Vec::new(), inside }
    }

    /// The beginning of a line that is not whole yet.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Why the pieces so far end inside a line whose rest is skipped, if they do.
    #[must_use]
    pub const fn inside(&self) -> Option<Skipped> {
        self.inside
    }

    /// Takes the next octets.
    pub fn push(&mut self, octets: &[u8], each: &mut dyn FnMut(Piece<'_>)) {
        let mut rest = octets;
        while !rest.is_empty() {
            rest = match self.inside {
                Some(why) => self.skip(why, rest, each),
                None if self.pending.is_empty() => self.whole(rest, each),
                None => self.complete(rest, each),
            };
        }
    }

    /// Nothing more comes: a last line without LF is told.
    pub fn finish(&mut self, each: &mut dyn FnMut(Piece<'_>)) {
        if !self.pending.is_empty() {
            each(Piece::Lines(&self.pending));
        }
        self.pending.clear();
        self.inside = None;
    }

    /// The rest of a line that is not told.
    fn skip<'a>(
        &mut self,
        why: Skipped,
        octets: &'a [u8],
        each: &mut dyn FnMut(Piece<'_>),
    ) -> &'a [u8] {
        let end = memchr(b'\n', octets);
        if end.is_some() {
            self.inside = None;
        }
        let (skipped, rest) = octets.split_at(end.map_or(octets.len(), |end| end + 1));
        each(Piece::Skipped(why, skipped));
        rest
    }

    /// At the start of a line: as many whole lines as there are, in one piece.
    fn whole<'a>(&mut self, octets: &'a [u8], each: &mut dyn FnMut(Piece<'_>)) -> &'a [u8] {
        let mut end = 0;
        while let Some(length) = self.whole_line(&octets[end..]) {
            end += length;
        }
        let zeros = octets.iter().position(|octet| *octet != 0).unwrap_or(octets.len());
        if end > 0 {
            each(Piece::Lines(&octets[..end]));
        } else if zeros > 0 {
            end = zeros;
            each(Piece::Skipped(Skipped::Zeros, &octets[..end]));
        } else {
            return self.complete(octets, each);
        }
        &octets[end..]
    }

    /// Octets of the line that `octets` begin with, if it is whole, short enough and without NUL.
    fn whole_line(&self, octets: &[u8]) -> Option<usize> {
        let reach = &octets[..octets.len().min(self.line_max + 1)];
        let end = memchr2(b'\n', 0, reach)?;
        (octets[end] == b'\n').then_some(end + 1)
    }

    /// Goes on with a line of which `pending` is the beginning, to its end or its bound.
    fn complete<'a>(&mut self, octets: &'a [u8], each: &mut dyn FnMut(Piece<'_>)) -> &'a [u8] {
        let room = self.line_max - self.pending.len();
        let reach = &octets[..octets.len().min(room + 1)];
        let (end, piece): (usize, fn(&[u8]) -> Piece<'_>) = match memchr2(b'\n', 0, reach) {
            Some(end) if octets[end] == b'\n' => (end + 1, |line| Piece::Lines(line)),
            Some(end) => {
                self.inside = Some(Skipped::Zeros);
                (end, |torn| Piece::Skipped(Skipped::Zeros, torn))
            }
            None if octets.len() > room => {
                self.inside = Some(Skipped::LongLine);
                (room, |beginning| Piece::Beginning(beginning))
            }
            None => {
                self.pending.extend_from_slice(octets);
                return &[];
            }
        };
        if self.pending.is_empty() {
            each(piece(&octets[..end]));
        } else {
            self.pending.extend_from_slice(&octets[..end]);
            each(piece(&self.pending));
            self.pending.clear();
        }
        &octets[end..]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is told of `chunks`, lines apart and joined skips, and all octets in order.
    fn split(chunks: &[&[u8]], line_max: usize) -> (Vec<String>, Vec<u8>) {
        let mut told: Vec<String> = Vec::new();
        let mut all = Vec::new();
        let mut skipped: Option<(Skipped, usize)> = None;
        let mut splitter = Splitter::new(line_max, None);
        let mut each = |piece: Piece<'_>| {
            if let Piece::Skipped(why, octets) = piece {
                all.extend_from_slice(octets);
                let before = skipped.take_if(|before| before.0 == why).map_or(0, |before| before.1);
                skipped = Some((why, before + octets.len()));
                return;
            }
            if let Some((why, octets)) = skipped.take() {
                told.push(format!("{why:?} {octets}"));
            }
            match piece {
                Piece::Lines(lines) => {
                    all.extend_from_slice(lines);
                    for line in lines.split_inclusive(|octet| *octet == b'\n') {
                        told.push(String::from_utf8_lossy(line).into_owned());
                    }
                }
                Piece::Beginning(beginning) => {
                    all.extend_from_slice(beginning);
                    told.push(format!("{}…", String::from_utf8_lossy(beginning)));
                }
                Piece::Skipped(..) => {}
            }
        };
        for chunk in chunks {
            splitter.push(chunk, &mut each);
            assert!(splitter.pending().len() <= line_max);
        }
        splitter.finish(&mut each);
        told.extend(skipped.map(|(why, octets)| format!("{why:?} {octets}")));
        (told, all)
    }

    fn told(chunks: &[&[u8]], line_max: usize) -> Vec<String> {
        split(chunks, line_max).0
    }

    #[test]
    fn lines_are_told_whole_and_several_at_once() {
        let mut pieces = Vec::new();
        let mut splitter = Splitter::new(100, None);
        splitter.push(b"one\ntwo\r\nthr", &mut |piece| pieces.push(format!("{piece:?}")));
        assert_eq!(pieces, [format!("{:?}", Piece::Lines(b"one\ntwo\r\n"))]);
        assert_eq!(splitter.pending(), b"thr");
        assert_eq!(
            told(&[b"one\ntwo\nthr", b"e", b"e\nfour"], 100),
            ["one\n", "two\n", "three\n", "four"]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_is_whole() {
        assert_eq!(
            told(&[b"12345\n123456\n1234567\nnext\n"], 5),
            ["12345\n", "12345…", "LongLine 2", "12345…", "LongLine 3", "next\n"]
        );
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_the_bound() {
        let mut splitter = Splitter::new(1000, None);
        let mut octets = 0;
        for _ in 0..100 {
            splitter.push(&[b'x'; 5000], &mut |piece| match piece {
                Piece::Lines(_) => panic!("no line is whole"),
                Piece::Beginning(piece) | Piece::Skipped(_, piece) => octets += piece.len(),
            });
            assert!(splitter.pending.capacity() <= 2000);
        }
        assert_eq!(octets, 500_000);
    }

    #[test]
    fn zeros_at_the_start_of_a_line_are_skipped_and_the_line_is_told() {
        assert_eq!(told(&[b"one\n\0\0\0two\n\0\0"], 100), ["one\n", "Zeros 3", "two\n", "Zeros 2"]);
    }

    #[test]
    fn a_line_with_zeros_in_its_midst_is_not_told() {
        assert_eq!(told(&[b"one\npart\0\0forged\ntwo\n"], 100), ["one\n", "Zeros 13", "two\n"]);
        assert_eq!(told(&[b"one\npart", b"\0\0", b"\0"], 100), ["one\n", "Zeros 7"]);
    }

    #[test]
    fn reading_may_begin_inside_a_line() {
        let mut pieces = Vec::new();
        let mut splitter = Splitter::new(100, Some(Skipped::Begun));
        splitter.push(b"rest", &mut |piece| pieces.push(format!("{piece:?}")));
        assert_eq!(splitter.inside(), Some(Skipped::Begun));
        splitter.push(b" of it\nline\n", &mut |piece| pieces.push(format!("{piece:?}")));
        assert_eq!(splitter.inside(), None);
        assert_eq!(pieces.last(), Some(&format!("{:?}", Piece::Lines(b"line\n"))));
        assert_eq!(pieces.len(), 3);
    }

    proptest! {
        #[test]
        fn nothing_is_left_out_and_chunks_do_not_matter(
            octets in prop::collection::vec(prop::sample::select(&b"abc\n\n\0"[..]), 0..60),
            chunk in 1..10_usize,
            line_max in 1..8_usize,
        ) {
            let (at_once, all) = split(&[&octets], line_max);
            let chunks: Vec<&[u8]> = octets.chunks(chunk).collect();
            let (in_chunks, all_of_chunks) = split(&chunks, line_max);
            prop_assert_eq!(&all, &octets);
            prop_assert_eq!(&all_of_chunks, &octets);
            prop_assert_eq!(at_once, in_chunks);
        }
    }
}
