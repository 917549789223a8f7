//! Layout of a segment, version 1: its header, frame headers, and what frames carry.
//!
//! `docs/SPOOL.md` draws it octet by octet; `golden/` holds files of it that must stay readable.
//! Hand-written little-endian: the layout does not follow Rust types.
//!
//! Invariants
//! - Everything a start needs stands in the plain frame headers; everything about persons
//!   (addresses, mail data) is sealed.
//! - The associated data of a frame are the segment's number and its whole header but the two
//!   checksums: a frame opens only where it was written.
//!
//! Not here: files (`segment`), keys (`seal`), marks (`marks`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use smtp::Envelope;

use super::seal::{KeyId, SALT_BYTES};
use super::{Arrival, GateName, Lane};
use crate::id::TransactionId;

/// The only version there is.
pub(super) const VERSION: u32 = 1;

/// Octets of a frame header.
pub(super) const FRAME_HEADER: usize = 64;

/// Longest body a frame may claim: far above what is written, far below what hurts.
pub(super) const BODY_MAX: u32 = 64 << 20;

/// First octets of a segment.
const SEGMENT_MAGIC: &[u8; 8] = b"LGSPOOL\0";
/// First octets of a frame.
pub(super) const FRAME_MAGIC: &[u8; 4] = b"LGfr";
/// Octets of a segment header before the gate table.
const SEGMENT_FIXED: usize = 64;
/// Segment headers fill whole sectors.
const SECTOR: usize = 512;
/// Longest segment header: a full table of gates.
const SEGMENT_HEADER_MAX: usize = 32 << 20;

/// Octets of a frame header that are authenticated: all before the checksums.
const FRAME_AUTHENTIC: usize = 56;

/// Octets of the associated data of a frame.
pub(super) const ASSOCIATED: usize = 4 + FRAME_AUTHENTIC;

/// The header of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The number in the file's name.
    pub(super) number: u32,
    /// Fingerprint of the key.
    pub(super) key_id: KeyId,
    /// Salt of the data key.
    pub(super) salt: [u8; SALT_BYTES],
    /// The gates as configured when the segment was made; frames name them by index.
    pub(super) gates: Vec<GateName>,
}

/// Why a segment header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    /// Cut, overwritten or not a segment at all.
    Damaged,
    /// A version we do not know (with a checksum that is right).
    Version(u32),
}

impl SegmentHeader {
    /// The octets of the header.
    pub(super) fn encode(&self) -> Vec<u8> {
        let length = Self::length_for(&self.gates);
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(length as u32).to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&(self.gates.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.key_id.0);
        out.extend_from_slice(&self.salt);
        for gate in &self.gates {
            out.push(gate.len() as u8);
            out.extend_from_slice(gate.as_bytes());
        }
        out.resize(length - 4, 0);
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// How long a header with these gates is.
    pub(super) fn length_for(gates: &[GateName]) -> usize {
        let table: usize = gates.iter().map(|gate| 1 + gate.len()).sum();
        (SEGMENT_FIXED + table + 4).next_multiple_of(SECTOR)
    }

    /// How long the header that begins with `start` says it is, if it can be one.
    pub(super) fn length(start: &[u8]) -> Option<usize> {
        let mut fields = Fields(start);
        if fields.take(8)? != SEGMENT_MAGIC {
            return None;
        }
        fields.u32()?;
        let length = fields.u32()? as usize;
        let possible = (SECTOR..=SEGMENT_HEADER_MAX).contains(&length);
        (possible && length.is_multiple_of(SECTOR)).then_some(length)
    }

    /// Reads the header, given exactly [`SegmentHeader::length`] octets.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        Self::length(bytes)
            .filter(|length| *length == bytes.len())
            .and_then(|length| bytes.split_at_checked(length - 4))
            .filter(|(body, checksum)| crc32c::crc32c(body).to_le_bytes() == **checksum)
            .ok_or(HeaderFault::Damaged)
            .and_then(|(body, _)| Self::decode_body(&body[8..]))
    }

    fn decode_body(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let mut fields = Fields(bytes);
        match fields.u32() {
            Some(VERSION) => {}
            Some(version) => return Err(HeaderFault::Version(version)),
            None => return Err(HeaderFault::Damaged),
        }
        let mut read = || {
            fields.u32()?;
            let number = fields.u32()?;
            let gate_count = fields.u16()?;
            fields.u16()?;
            let key_id = KeyId(fields.array()?);
            let salt = fields.array()?;
            let mut gates = Vec::new();
            for _ in 0..gate_count {
                let length = fields.u8()?;
                let name = fields.take(usize::from(length))?;
                gates.push(Arc::from(std::str::from_utf8(name).ok()?));
            }
            Some(Self { number, key_id, salt, gates })
        };
        read().ok_or(HeaderFault::Damaged)
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message in one piece: beginning, mail data, trailer.
    Whole,
    /// The beginning of a message in parts.
    Begin,
    /// Some of its mail data.
    Data,
    /// The last of its mail data, and the trailer.
    End,
    /// Closes a batch: everything before it is promised as far as it is listed.
    Commit,
    /// As `Commit`, and nothing comes after it in this segment.
    Close,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Whole => 1,
            Self::Begin => 2,
            Self::Data => 3,
            Self::End => 4,
            Self::Commit => 5,
            Self::Close => 6,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Whole,
            2 => Self::Begin,
            3 => Self::Data,
            4 => Self::End,
            5 => Self::Commit,
            6 => Self::Close,
            _ => return None,
        })
    }
}

impl Lane {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Mail => 0,
            Self::Dsn => 1,
        }
    }

    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Mail),
            1 => Some(Self::Dsn),
            _ => None,
        }
    }
}

/// The header of a frame. Fields that a kind does not use are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// What it is.
    pub(super) kind: Kind,
    /// Which way the message goes.
    pub(super) lane: Lane,
    /// Index in the segment's table of gates.
    pub(super) gate: u16,
    /// Octets that follow the header.
    pub(super) length: u32,
    /// Place of the frame in its message, from 0.
    pub(super) part: u32,
    /// Nonce; rises by one from frame to frame of a segment.
    pub(super) counter: u64,
    /// The message; 0 in a commit.
    pub(super) id: u64,
    /// Octets of mail data: of the message in `Whole` and `End`, else of the frame.
    pub(super) octets: u64,
    /// When MAIL was accepted.
    pub(super) held_at_unix_ms: u64,
    /// Forward-paths of the envelope; in a commit, ids listed.
    pub(super) paths: u32,
}

impl FrameHeader {
    /// The authenticated part of the header.
    fn authentic(&self) -> [u8; FRAME_AUTHENTIC] {
        let mut out = [0; FRAME_AUTHENTIC];
        out[0..4].copy_from_slice(FRAME_MAGIC);
        out[4] = self.kind.code();
        out[5] = self.lane.code();
        out[6..8].copy_from_slice(&self.gate.to_le_bytes());
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..16].copy_from_slice(&self.part.to_le_bytes());
        out[16..24].copy_from_slice(&self.counter.to_le_bytes());
        out[24..32].copy_from_slice(&self.id.to_le_bytes());
        out[32..40].copy_from_slice(&self.octets.to_le_bytes());
        out[40..48].copy_from_slice(&self.held_at_unix_ms.to_le_bytes());
        out[48..52].copy_from_slice(&self.paths.to_le_bytes());
        out
    }

    /// What is authenticated along with the body.
    pub(super) fn associated(&self, segment: u32) -> [u8; ASSOCIATED] {
        let mut out = [0; ASSOCIATED];
        out[..4].copy_from_slice(&segment.to_le_bytes());
        out[4..].copy_from_slice(&self.authentic());
        out
    }

    /// The octets of the header, given the checksum of the body.
    pub(super) fn encode(&self, body_checksum: u32) -> [u8; FRAME_HEADER] {
        let mut out = [0; FRAME_HEADER];
        out[..FRAME_AUTHENTIC].copy_from_slice(&self.authentic());
        out[56..60].copy_from_slice(&body_checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a header and the checksum of its body; `None` if it is not one, to the last bit.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, u32)> {
        let bytes = bytes.get(..FRAME_HEADER)?;
        if bytes[..4] != *FRAME_MAGIC || crc32c::crc32c(&bytes[..60]).to_le_bytes() != bytes[60..] {
            return None;
        }
        let mut fields = Fields(&bytes[4..]);
        let header = Self {
            kind: Kind::from_code(fields.u8()?)?,
            lane: Lane::from_code(fields.u8()?)?,
            gate: fields.u16()?,
            length: fields.u32()?,
            part: fields.u32()?,
            counter: fields.u64()?,
            id: fields.u64()?,
            octets: fields.u64()?,
            held_at_unix_ms: fields.u64()?,
            paths: fields.u32()?,
        };
        let reserved = fields.u32()?;
        let body_checksum = fields.u32()?;
        (reserved == 0 && header.length <= BODY_MAX).then_some((header, body_checksum))
    }

    /// Octets of the frame with its header.
    pub(super) const fn frame_length(&self) -> u64 {
        FRAME_HEADER as u64 + self.length as u64
    }
}

/// What is known of a message before its mail data: the facts in plain and the sealed rest.
#[derive(Clone, Debug)]
pub(super) struct Beginning {
    /// The message.
    pub(super) id: TransactionId,
    /// Index in the configured gates.
    pub(super) gate: u16,
    /// Which way it goes.
    pub(super) lane: Lane,
    /// When MAIL was accepted.
    pub(super) held_at_unix_ms: u64,
    /// Forward-paths of the envelope.
    pub(super) paths: u32,
    /// Arrival and envelope, encoded.
    pub(super) sealed: Vec<u8>,
}

impl Beginning {
    pub(super) fn new(
        id: TransactionId,
        gate: u16,
        lane: Lane,
        envelope: &Envelope,
        arrival: &Arrival,
    ) -> Self {
        let mut sealed = Vec::with_capacity(256);
        sealed.extend_from_slice(&arrival.held_at_unix_ms.to_le_bytes());
        match arrival.client.ip() {
            IpAddr::V4(address) => {
                sealed.push(4);
                sealed.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                sealed.push(6);
                sealed.extend_from_slice(&address.octets());
            }
        }
        sealed.extend_from_slice(&arrival.client.port().to_le_bytes());
        sealed.push(u8::from(arrival.tls));
        put_text(&mut sealed, &arrival.client_name);
        put_text(&mut sealed, &arrival.protocol);
        envelope.encode(&mut sealed);
        Self {
            id,
            gate,
            lane,
            held_at_unix_ms: arrival.held_at_unix_ms,
            paths: envelope.recipients().len() as u32,
            sealed,
        }
    }
}

/// Reads what [`Beginning::new`] wrote.
pub(super) fn decode_beginning(bytes: &[u8]) -> Option<(Arrival, Envelope)> {
    let mut fields = Fields(bytes);
    let held_at_unix_ms = fields.u64()?;
    let address = match fields.u8()? {
        4 => IpAddr::from(fields.array::<4>()?),
        6 => IpAddr::from(fields.array::<16>()?),
        _ => return None,
    };
    let port = fields.u16()?;
    let tls = fields.u8()? != 0;
    let client_name = fields.text()?;
    let protocol = fields.text()?;
    let client = SocketAddr::new(address, port);
    let arrival = Arrival { held_at_unix_ms, client, client_name, protocol, tls };
    Some((arrival, Envelope::decode(fields.0).ok()?))
}

/// What a `Whole` frame carries, taken apart.
pub(super) struct WholeBody<'a> {
    pub(super) beginning: &'a [u8],
    pub(super) data: &'a [u8],
    pub(super) message_id: Option<&'a str>,
}

/// Octets of the body of a `Whole` frame before its mail data.
pub(super) fn put_whole_prefix(out: &mut Vec<u8>, beginning: &[u8]) {
    out.extend_from_slice(&(beginning.len() as u32).to_le_bytes());
    out.extend_from_slice(beginning);
}

/// Octets after the mail data of a `Whole` or `End` frame: the Message-ID, then its length.
pub(super) fn put_trailer(out: &mut Vec<u8>, message_id: Option<&str>) {
    let text = cut(message_id.unwrap_or_default());
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
}

/// Takes the body of a `Whole` frame apart; `octets` is its mail data as the header says.
pub(super) fn decode_whole(body: &[u8], octets: u64) -> Option<WholeBody<'_>> {
    let mut fields = Fields(body);
    let length = fields.u32()? as usize;
    let beginning = fields.take(length)?;
    let (data, message_id) = decode_end(fields.0)?;
    (data.len() as u64 == octets).then_some(WholeBody { beginning, data, message_id })
}

/// Takes the body of an `End` frame apart: mail data, Message-ID.
pub(super) fn decode_end(body: &[u8]) -> Option<(&[u8], Option<&str>)> {
    let (rest, length) = body.split_last_chunk::<2>()?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (data, text) = rest.split_at_checked(rest.len().checked_sub(length)?)?;
    let text = std::str::from_utf8(text).ok()?;
    Some((data, (!text.is_empty()).then_some(text)))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = cut(text);
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// At most 4 KiB of a text: none of ours is longer, and a hostile one need not be kept whole.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(4096);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Reads little-endian fields off the front; `None` when they run out.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u16()?;
        let bytes = self.take(usize::from(length))?;
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    }
}
