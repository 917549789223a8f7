//! Octets of a connection into syslog messages (RFC 6587): each either counted (`NNN message`) or
//! ended by LF or NUL.
//!
//! Which of the two is found out for each message: a digit 1 to 9 begins a count, anything else a
//! message that ends. Digits that no space follows are a message without `<PRI>`, such as one that
//! begins with a date.
//!
//! Invariants
//! - However the octets are cut into pushes, the frames are the same.
//! - At most `octets_max` octets are kept, or eight digits.
//!
//! Not here: what a message says; making one line of it (`told`).

use memchr::memchr2;

/// Most digits of a count. A longer one is no count: skipping so many octets would hide the loss
/// of everything in them.
const DIGITS_MAX: usize = 8;

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message.
    Whole(Vec<u8>),
    /// The beginning of a message that is too long; the rest is skipped.
    Cut(Vec<u8>),
    /// From here on messages cannot be told apart: nothing more will come.
    Broken,
}

/// Takes octets apart.
#[derive(Debug)]
pub struct Frames {
    octets_max: usize,
    /// What is known of the message that is coming.
    octets: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between messages.
    Start,
    /// In digits that may be a count.
    Count,
    /// In a counted message.
    Counted { left: usize },
    /// Behind the cut of a counted message.
    SkipCounted { left: usize },
    /// In a message that ends.
    Ended,
    /// Behind the cut of a message that ends.
    SkipEnded,
    /// A count was impossible.
    Broken,
}

impl Frames {
    /// For messages of at most so many octets.
    #[must_use]
    pub const fn new(octets_max: usize) -> Self {
        Self { octets_max, octets: Vec::new(), state: State::Start }
    }

    /// Takes the next octets.
    #[must_use]
    pub fn push(&mut self, mut input: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(first) = input.first() {
            let used = self.step(*first, input, &mut frames);
            input = input.get(used..).unwrap_or_default();
        }
        frames
    }

    /// Has a message begun of which nothing was told?
    #[must_use]
    pub const fn unended(&self) -> bool {
        matches!(self.state, State::Count | State::Counted { .. } | State::Ended)
    }

    /// One step on octets of which there is at least the first; says how many it used.
    fn step(&mut self, first: u8, input: &[u8], frames: &mut Vec<Frame>) -> usize {
        match self.state {
            State::Start => match first {
                b'\r' | b'\n' | 0 => 1,
                b'1'..=b'9' => self.enter(State::Count),
                _ => self.enter(State::Ended),
            },
            State::Count => self.count(first, frames),
            State::Counted { left } => self.counted(left, input, frames),
            State::SkipCounted { left } => {
                let used = left.min(input.len());
                let left = left - used;
                self.state = if left == 0 { State::Start } else { State::SkipCounted { left } };
                used
            }
            State::Ended => self.ended(input, frames),
            State::SkipEnded => match memchr2(b'\n', 0, input) {
                Some(end) => {
                    self.state = State::Start;
                    end + 1
                }
                None => input.len(),
            },
            State::Broken => input.len(),
        }
    }

    const fn enter(&mut self, state: State) -> usize {
        self.state = state;
        0
    }

    fn count(&mut self, octet: u8, frames: &mut Vec<Frame>) -> usize {
        match octet {
            b'0'..=b'9' if self.octets.len() == DIGITS_MAX => {
                self.octets.clear();
                frames.push(Frame::Broken);
                self.enter(State::Broken)
            }
            b'0'..=b'9' => {
                self.octets.push(octet);
                1
            }
            b' ' => {
                let count = |left, digit: &u8| left * 10 + usize::from(digit - b'0');
                let left = self.octets.iter().fold(0, count);
                self.octets.clear();
                self.state = State::Counted { left };
                1
            }
            _ => self.enter(State::Ended),
        }
    }

    fn counted(&mut self, left: usize, input: &[u8], frames: &mut Vec<Frame>) -> usize {
        let room = self.octets_max.saturating_sub(self.octets.len());
        let used = left.min(room).min(input.len());
        self.octets.extend(input.iter().take(used));
        let left = left - used;
        if left == 0 {
            self.state = State::Start;
            frames.push(Frame::Whole(std::mem::take(&mut self.octets)));
        } else if used == room {
            self.state = State::SkipCounted { left };
            frames.push(Frame::Cut(std::mem::take(&mut self.octets)));
        } else {
            self.state = State::Counted { left };
        }
        used
    }

    fn ended(&mut self, input: &[u8], frames: &mut Vec<Frame>) -> usize {
        let room = self.octets_max.saturating_sub(self.octets.len());
        let end = memchr2(b'\n', 0, input);
        let octets = end.unwrap_or(input.len());
        let used = octets.min(room);
        self.octets.extend(input.iter().take(used));
        if octets > room {
            self.state = State::SkipEnded;
            frames.push(Frame::Cut(std::mem::take(&mut self.octets)));
            return used;
        }
        if end.is_some() {
            self.state = State::Start;
            frames.push(Frame::Whole(std::mem::take(&mut self.octets)));
            return used + 1;
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Frame {
        Frame::Whole(text.as_bytes().to_vec())
    }

    fn cut(text: &str) -> Frame {
        Frame::Cut(text.as_bytes().to_vec())
    }

    fn frames(octets_max: usize, input: &[u8]) -> (Vec<Frame>, bool) {
        let mut frames = Frames::new(octets_max);
        let told = frames.push(input);
        (told, frames.unended())
    }

    #[test]
    fn counted_messages_and_messages_that_end_may_alternate() {
        let input = b"7 <22>a\nb<22>c d\n5 <2>e\n\0\r\n<22>f\0Nov 24 10:00:00 g\n";
        let (told, unended) = frames(100, input);
        let expected = ["<22>a\nb", "<22>c d", "<2>e\n", "<22>f", "Nov 24 10:00:00 g"].map(whole);
        assert_eq!(told, expected);
        assert!(!unended);
    }

    #[test]
    fn a_date_at_the_beginning_is_no_count() {
        let (told, _) = frames(100, b"2026-11-24T10:00:00Z mx a: b\n12\n3 <2>");
        assert_eq!(told, ["2026-11-24T10:00:00Z mx a: b", "12", "<2>"].map(whole));
    }

    #[test]
    fn too_long_a_message_is_cut_and_the_next_is_whole() {
        for (input, expected) in [
            (&b"<2>abcdefgh\n<2>i\n"[..], [cut("<2>ab"), whole("<2>i")]),
            (b"11 <2>abcdefgh4 <2>i", [cut("<2>ab"), whole("<2>i")]),
            (b"<2>ab\n5 <2>cd", [whole("<2>ab"), whole("<2>cd")]),
            (b"12345678x\n<2>i\n", [cut("12345678"), whole("<2>i")]),
        ] {
            let (told, unended) = frames(5, input);
            assert_eq!(told, expected, "{input:?}");
            assert!(!unended);
        }
    }

    #[test]
    fn a_cut_is_told_before_the_rest_has_come() {
        assert_eq!(frames(5, b"99999999 <2>abc"), (vec![cut("<2>ab")], false));
        assert_eq!(frames(5, b"<2>abc"), (vec![cut("<2>ab")], false));
    }

    #[test]
    fn an_impossible_count_breaks_the_stream() {
        let (told, unended) = frames(5, b"<2>a\n999999999 <2>b\n<2>c\n");
        assert_eq!(told, [whole("<2>a"), Frame::Broken]);
        assert!(!unended);
    }

    #[test]
    fn a_message_under_way_is_known() {
        for input in [&b"<2>a"[..], b"1", b"5 <2>a", b"5 "] {
            assert_eq!(frames(100, input), (vec![], true), "{input:?}");
        }
        assert_eq!(frames(100, b"\n\r\0"), (vec![], false));
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "<[0-9]{1,2}>[a-z ]{0,12}\n".prop_map(String::into_bytes),
            "[a-z]{0,12}\0".prop_map(String::into_bytes),
            "[1-9][0-9]{0,9}[ x]?".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 1..20).prop_map(|text| {
                let mut piece = format!("{} ", text.len()).into_bytes();
                piece.extend(text);
                piece
            }),
            prop::collection::vec(any::<u8>(), 0..8),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(
            stream in stream(),
            octets_max in 1_usize..20,
            cuts in prop::collection::vec(0_usize..200, 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < stream.len()).collect();
            cuts.sort_unstable();
            cuts.push(stream.len());
            let mut chunked = Frames::new(octets_max);
            let (mut told, mut from) = (Vec::new(), 0);
            for cut in cuts {
                told.extend(chunked.push(&stream[from..cut]));
                from = cut;
                prop_assert!(chunked.octets.len() <= octets_max.max(DIGITS_MAX));
            }
            let (expected, unended) = frames(octets_max, &stream);
            prop_assert_eq!(told, expected);
            prop_assert_eq!(chunked.unended(), unended);
        }

        #[test]
        fn what_is_framed_comes_back(
            messages in prop::collection::vec(("<[0-9]{1,3}>[ -~]{0,40}", 0..3), 0..10),
        ) {
            let (mut stream, mut expected) = (Vec::new(), Vec::new());
            for (text, framing) in messages {
                match framing {
                    0 => stream.extend(format!("{} {text}", text.len()).into_bytes()),
                    1 => stream.extend(format!("{text}\n").into_bytes()),
                    _ => stream.extend(format!("{text}\0").into_bytes()),
                }
                expected.push(whole(&text));
            }
            prop_assert_eq!(frames(100, &stream), (expected, false));
        }
    }
}
