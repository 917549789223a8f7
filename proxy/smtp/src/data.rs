//! Finds the end of mail data, and stuffs and unstuffs dots (RFC 5321 §4.1.1.4, §4.5.2).
//!
//! Invariants: only CRLF.CRLF ends mail data, and .CRLF at its very start; nothing else does, in
//! whatever pieces it comes. Mail data keeps its wire form, dot-stuffed as received. A bare CR or LF
//! is a fault that stays: some server behind us might take it for a line end and find a message
//! within the message (smuggling), so that no part of it may be completed there.

use memchr::memchr2;

/// What ends mail data in wire form, behind the CRLF of the last line.
pub const END_OF_DATA: &[u8] = b".\r\n";

/// Octets that are looked at together where nothing is out of the ordinary.
const BLOCK: usize = 128;

/// What must not stand in mail data (RFC 5321 §2.3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFault {
    /// A CR without LF.
    BareCr,
    /// An LF without CR.
    BareLf,
}

/// What a chunk was found to hold. The content is `carried`, then the first `content` octets of the
/// chunk.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Octets withheld from former chunks which now proved to be content: nothing, `.` or `.CR`.
    pub carried: &'static [u8],
    /// Octets of the chunk that are content, the CRLF before the final dot included.
    pub content: usize,
    /// Octets of the chunk that belong to mail data, its end included. What follows is a command.
    pub consumed: usize,
    /// The end of mail data was found.
    pub end: bool,
    /// The first fault of this mail data, in this chunk or a former one.
    pub fault: Option<DataFault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the start of mail data or behind CRLF.
    LineStart,
    /// Behind a dot at the start of a line.
    Dot,
    /// Behind a dot and a CR at the start of a line.
    DotCr,
    /// Within a line.
    Text,
    /// Behind a CR within a line.
    Cr,
    /// Behind the end.
    End,
}

/// Scans mail data in chunks of any size.
#[derive(Clone, Debug)]
pub struct DataScanner {
    place: Place,
    fault: Option<DataFault>,
}

impl Default for DataScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl DataScanner {
    /// A scanner at the very start of mail data.
    #[must_use]
    pub const fn new() -> Self {
        Self { place: Place::LineStart, fault: None }
    }

    /// The first fault so far.
    #[must_use]
    pub const fn fault(&self) -> Option<DataFault> {
        self.fault
    }

    /// Whether the end was found.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.place == Place::End
    }

    /// Scans the next chunk. A dot, or a dot and a CR, that may begin the end is withheld until the
    /// next chunk decides. After the end nothing is consumed.
    pub fn scan(&mut self, chunk: &[u8]) -> Scan {
        let begin = self.place;
        let mut carried: &'static [u8] = b"";
        let mut at = 0;
        while at < chunk.len() && self.place != Place::End {
            if matches!(self.place, Place::Text | Place::LineStart) {
                if at > 0 {
                    at = self.skip_blocks(chunk, at);
                    if at == chunk.len() {
                        break;
                    }
                }
                if matches!(self.place, Place::Text | Place::LineStart) {
                    let end = chunk.len().min(at + BLOCK);
                    at += self.skip_text(&chunk[at..end]);
                    if at == chunk.len() {
                        break;
                    }
                    if at == end {
                        continue;
                    }
                }
            }
            let from = self.place;
            self.advance(chunk[at]);
            if leaves_withheld(from, self.place) {
                carried = withheld_before(begin, at, carried);
            }
            at += 1;
        }
        let undecided = match self.place {
            Place::Dot => 1,
            Place::DotCr => 2,
            Place::End if begin != Place::End => END_OF_DATA.len(),
            _ => 0,
        };
        Scan {
            carried,
            content: at.saturating_sub(undecided),
            consumed: at,
            end: self.place == Place::End,
            fault: self.fault,
        }
    }

    /// Skips blocks in which nothing is out of the ordinary: every CR before an LF, every LF behind a
    /// CR, no line that begins with a dot. Says how far it got; the octet at `from - 1` is of the same
    /// chunk.
    fn skip_blocks(&mut self, chunk: &[u8], from: usize) -> usize {
        let mut at = from;
        while let (Some(block), Some(before)) =
            (chunk[at..].first_chunk(), chunk[at - 1..].first_chunk())
        {
            if !is_ordinary(before, block) {
                break;
            }
            at += BLOCK;
        }
        if at > from {
            self.place = match chunk[at - 1] {
                b'\n' => Place::LineStart,
                b'\r' => Place::Cr,
                _ => Place::Text,
            };
        }
        at
    }

    /// Skips octets that change nothing, whole lines among them. Stops at the end of `text`, or where
    /// [`DataScanner::advance`] has to look closer.
    fn skip_text(&mut self, text: &[u8]) -> usize {
        let mut at = 0;
        loop {
            if self.place == Place::LineStart {
                match text.get(at) {
                    None | Some(b'.') => return at,
                    Some(_) => self.place = Place::Text,
                }
            }
            let Some(found) = memchr2(b'\r', b'\n', &text[at..]) else {
                return text.len();
            };
            at += found;
            if text[at..].starts_with(b"\r\n") {
                at += 2;
                self.place = Place::LineStart;
            } else {
                return at;
            }
        }
    }

    /// One step of the automaton.
    fn advance(&mut self, byte: u8) {
        self.place = match (self.place, byte) {
            (Place::LineStart, b'.') => Place::Dot,
            (Place::Dot, b'\r') => Place::DotCr,
            (Place::DotCr, b'\n') | (Place::End, _) => Place::End,
            (Place::Cr, b'\n') => Place::LineStart,
            (Place::LineStart | Place::Text, b'\r') => Place::Cr,
            (Place::DotCr | Place::Cr, b'\r') => {
                self.note(DataFault::BareCr);
                Place::Cr
            }
            (Place::DotCr | Place::Cr, _) => {
                self.note(DataFault::BareCr);
                Place::Text
            }
            (Place::LineStart | Place::Dot | Place::Text, b'\n') => {
                self.note(DataFault::BareLf);
                Place::Text
            }
            (Place::LineStart | Place::Dot | Place::Text, _) => Place::Text,
        };
    }

    fn note(&mut self, fault: DataFault) {
        self.fault.get_or_insert(fault);
    }
}

/// Whether nothing in a block needs a closer look; `before` is the block one octet earlier. Written so
/// that the compiler makes vector instructions of it: this runs over every octet of mail.
fn is_ordinary(before: &[u8; BLOCK], block: &[u8; BLOCK]) -> bool {
    let mut odd = 0;
    for (&before, &octet) in before.iter().zip(block) {
        odd |= u8::from((before == b'\r') != (octet == b'\n'));
        odd |= u8::from((before == b'\n') & (octet == b'.'));
    }
    odd == 0
}

/// Whether a step shows that octets that might have begun the end are content.
fn leaves_withheld(from: Place, to: Place) -> bool {
    matches!(from, Place::Dot | Place::DotCr) && !matches!(to, Place::DotCr | Place::End)
}

/// What of the octets withheld so far came before this chunk, when a step at `at` releases them.
fn withheld_before(begin: Place, at: usize, carried: &'static [u8]) -> &'static [u8] {
    match (begin, at) {
        (Place::DotCr, 0) => b".\r",
        (Place::Dot, 0 | 1) => b".",
        _ => carried,
    }
}

/// Appends CRLF text in wire form: a dot at the start of a line is doubled. For mail we write
/// ourselves; the end of mail data is not appended.
pub fn stuff(text: &[u8], out: &mut Vec<u8>) {
    each_line(text, |line| {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    });
}

/// Appends wire form as text: the first of two or more octets on a line is dropped if it is a dot.
pub fn unstuff(wire: &[u8], out: &mut Vec<u8>) {
    each_line(wire, |line| {
        out.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    });
}

/// Calls `visit` with every line of a whole text, its CRLF included.
fn each_line(text: &[u8], mut visit: impl FnMut(&[u8])) {
    let mut begin = 0;
    for line_feed in memchr::memchr_iter(b'\n', text) {
        let end = line_feed + 1;
        if text[begin..end].ends_with(b"\r\n") {
            visit(&text[begin..end]);
            begin = end;
        }
    }
    if begin < text.len() {
        visit(&text[begin..]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Found {
        content: Vec<u8>,
        consumed: usize,
        end: bool,
        fault: Option<DataFault>,
    }

    fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Found {
        let mut scanner = DataScanner::new();
        let mut found = Found { content: Vec::new(), consumed: 0, end: false, fault: None };
        for chunk in chunks {
            let scan = scanner.scan(chunk);
            found.content.extend_from_slice(scan.carried);
            found.content.extend_from_slice(&chunk[..scan.content]);
            found.consumed += scan.consumed;
            found.fault = scan.fault;
            found.end = scan.end;
            assert!(scan.content <= scan.consumed);
            assert_eq!(scan.end, scanner.ended());
            if scan.end {
                break;
            }
            assert_eq!(scan.consumed, chunk.len());
        }
        found
    }

    /// The specification, as simply as it can be said.
    fn specified(stream: &[u8]) -> Found {
        let starts_line = |at: usize| at == 0 || stream[..at].ends_with(b"\r\n");
        let end =
            (0..stream.len()).find(|&at| starts_line(at) && stream[at..].starts_with(END_OF_DATA));
        let consumed = end.map_or(stream.len(), |at| at + END_OF_DATA.len());
        let seen = &stream[..consumed];
        let withheld = [&b"."[..], b".\r"]
            .into_iter()
            .find(|tail| seen.ends_with(tail) && starts_line(seen.len() - tail.len()))
            .map_or(0, <[u8]>::len);
        let fault = (0..consumed).find_map(|at| match seen[at] {
            b'\n' if at == 0 || seen[at - 1] != b'\r' => Some(DataFault::BareLf),
            b'\r' if seen.get(at + 1).is_some_and(|&next| next != b'\n') => Some(DataFault::BareCr),
            _ => None,
        });
        let content = seen[..end.unwrap_or(consumed - withheld)].to_vec();
        Found { content, consumed, end: end.is_some(), fault }
    }

    fn assert_specified(stream: &[u8]) {
        let specified = specified(stream);
        assert_eq!(scan(stream.chunks(1)), specified, "{stream:?} in single octets");
        for cut in 0..=stream.len() {
            let (first, second) = stream.split_at(cut);
            assert_eq!(scan([first, second]), specified, "{stream:?} cut at {cut}");
        }
    }

    #[test]
    fn a_message_ends_at_crlf_dot_crlf_and_what_follows_is_left() {
        let found = scan([&b"Subject: x\r\n\r\n..dot\r\n.\r\nQUIT\r\n"[..]]);
        assert_eq!(found.content, b"Subject: x\r\n\r\n..dot\r\n");
        assert_eq!(found.consumed, found.content.len() + 3);
        assert!(found.end && found.fault.is_none());
    }

    #[test]
    fn an_empty_message_ends_at_once() {
        let found = scan([&b".\r\n"[..]]);
        assert_eq!(found, Found { content: vec![], consumed: 3, end: true, fault: None });
    }

    /// Goal: whatever another server might take for the end of mail data, we do not.
    #[test]
    fn smuggled_ends_are_content_and_a_fault() {
        for ending in [
            "\n.\n",
            "\n.\r\n",
            "\r\n.\n",
            "\r.\r",
            "\r\n.\r",
            "\r.\r\n",
            "\n.\r",
            "\r.\n",
            "\r\n.\r\r\n",
            "\r\n.\r\r\r\n",
            "\r\n\n.\r\n",
            "\r\r\n.\n",
            "\n\n.\r\n",
            "\r\n.\n\r\n",
        ] {
            let stream = format!("text{ending}MAIL FROM:<evil@example.org>\r\nmore\r\n.\r\n");
            let found = scan([stream.as_bytes()]);
            assert!(found.end, "{ending:?}: the true end is found");
            assert_eq!(found.consumed, stream.len(), "{ending:?}: all of it was mail data");
            assert!(found.fault.is_some(), "{ending:?}: and it is named");
            assert_specified(stream.as_bytes());
        }
    }

    #[test]
    fn a_nul_ends_nothing() {
        for ending in ["\r\n\0.\r\n", "\r\n.\0\r\n", "\r\0\n.\r\n"] {
            let stream = format!("text{ending}MAIL\r\n.\r\n");
            assert_eq!(scan([stream.as_bytes()]).consumed, stream.len(), "{ending:?}");
        }
    }

    #[test]
    fn the_first_fault_stays() {
        assert_eq!(scan([&b"a\nb\rc\r\n"[..], b"\r\n.\r\n"]).fault, Some(DataFault::BareLf));
        assert_eq!(scan([&b"a\rb\nc\r\n"[..], b"\r\n.\r\n"]).fault, Some(DataFault::BareCr));
    }

    #[test]
    fn after_the_end_nothing_is_consumed() {
        let mut scanner = DataScanner::new();
        assert!(scanner.scan(b".\r\n").end);
        let after = scanner.scan(b"a\n.\r\n");
        assert_eq!((after.content, after.consumed, after.end, after.fault), (0, 0, true, None));
    }

    /// Goal: the result does not depend on how octets arrive.
    /// Method: every string of up to eight octets over dot, CR, LF and a letter, cut at every place
    /// and in single octets, against the specification.
    #[test]
    fn scanning_is_the_same_for_every_split_of_every_short_stream() {
        for length in 0..=8_u32 {
            for number in 0..4_usize.pow(length) {
                let stream: Vec<u8> =
                    (0..length).map(|place| b".\r\na"[number >> (2 * place) & 3]).collect();
                assert_specified(&stream);
            }
        }
    }

    #[test]
    fn ordinary_lines_are_scanned_as_specified_wherever_a_chunk_ends() {
        for line in [0, 1, 7, 62, 63, 125, 126, 127, 128] {
            let lines = "x".repeat(line) + "\r\n";
            let mut stream = lines.repeat(1 + 3 * BLOCK / lines.len()).into_bytes();
            stream.extend_from_slice(END_OF_DATA);
            assert_specified(&stream);
        }
    }

    proptest! {
        #[test]
        fn long_streams_are_scanned_as_specified(
            text in "([a-z.\u{fc}]{0,90}(\r\n|\r\n|\r\n|\r\n\\.|\r\n\\.\r|\n|\r)){0,12}",
            size in 1_usize..700,
        ) {
            let mut stream = text.into_bytes();
            stream.extend_from_slice(b"\r\n.\r\nQUIT\r\n");
            let found = scan(stream.chunks(size));
            prop_assert_eq!(found, specified(&stream));
        }

        #[test]
        fn an_odd_octet_is_found_wherever_it_stands(
            line in 1_usize..100,
            at in 0_usize..900,
            odd in proptest::sample::select(vec![
                "\n", "\r", "\r\r", "\n.\r\n", "\r\n.\r", "\r\n.\n", "\r\n..", "\r\n.\r\n", ".\r\n",
            ]),
            size in 300_usize..1000,
        ) {
            let lines = "x".repeat(line) + "\r\n";
            let mut stream = lines.repeat(1 + 900 / lines.len()).into_bytes();
            stream.splice(at..at, odd.bytes());
            stream.extend_from_slice(b"\r\n.\r\n");
            prop_assert_eq!(scan([&stream[..]]), specified(&stream));
            prop_assert_eq!(scan(stream.chunks(size)), specified(&stream));
        }

        #[test]
        fn stuffed_text_has_no_end_inside_and_is_unstuffed_to_itself(
            lines in proptest::collection::vec("[.a\n]{0,4}", 0..8),
        ) {
            let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let mut wire = Vec::new();
            stuff(text.as_bytes(), &mut wire);
            let mut back = Vec::new();
            unstuff(&wire, &mut back);
            prop_assert_eq!(back, text.as_bytes());
            let content = wire.len();
            wire.extend_from_slice(END_OF_DATA);
            let found = scan([&wire[..]]);
            prop_assert!(found.end);
            prop_assert_eq!(found.content.len(), content);
        }
    }

    #[test]
    fn the_first_line_is_stuffed_and_unstuffed_too() {
        let mut wire = Vec::new();
        stuff(b".a\r\n.\r\nb.\r\n..c", &mut wire);
        assert_eq!(wire, b"..a\r\n..\r\nb.\r\n...c");
        let mut text = Vec::new();
        unstuff(&wire, &mut text);
        assert_eq!(text, b".a\r\n.\r\nb.\r\n..c");
    }
}
