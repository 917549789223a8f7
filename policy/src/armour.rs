//! OpenPGP as it is found in mail: armour in a text, packets in a file (RFC 9580 §6, §4).
//!
//! Words are no protection: `BEGIN PGP MESSAGE` stands around messages that are only signed or only
//! compressed too. So the first packets are looked at, as far as they tell who can read the rest.
//!
//! Not here: what a message made of such texts is (`protection`).

use mail_parser::decoders::base64::base64_decode;

/// Packets in front of the one that tells: markers, which the server writes, and paddings.
const SKIPPED_MAX: usize = 8;

/// Who can read packets, as far as the first of them tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packets {
    /// The owner of a key.
    ToKey,
    /// Who knows a passphrase.
    ToPassphrase,
    /// Anybody: a signed message with the signature in it.
    Signed,
    /// Anybody: a message that is compressed, or as it is.
    Readable,
    /// A signature alone.
    Signature,
}

/// An armoured block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// A message, with what is in it.
    Message(Packets),
    /// A text with its signature below.
    SignedText,
    /// A signature alone.
    Signature,
}

/// What a text has of armour.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Armoured {
    /// Whole blocks, in order.
    pub blocks: Vec<Block>,
    /// There is other text around them.
    pub text_beside: bool,
    /// What looks like armour and is none, in words.
    pub broken: Vec<&'static str>,
}

const MESSAGE: &[u8] = b"-----BEGIN PGP MESSAGE-----";
const MESSAGE_END: &[u8] = b"-----END PGP MESSAGE-----";
const SIGNED: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &[u8] = b"-----BEGIN PGP SIGNATURE-----";
const SIGNATURE_END: &[u8] = b"-----END PGP SIGNATURE-----";
const BEGIN: &[u8] = b"-----BEGIN PGP ";

/// Looks for armour in a text.
#[must_use]
pub fn find(text: &[u8]) -> Armoured {
    let lines: Vec<&[u8]> =
        text.split(|octet| *octet == b'\n').map(<[u8]>::trim_ascii_end).collect();
    let mut found = Armoured::default();
    let mut rest = lines.as_slice();
    while let Some((line, below)) = rest.split_first() {
        match block(line, below) {
            Ok(Some((block, length))) => {
                found.blocks.push(block);
                rest = &below[length..];
                continue;
            }
            Ok(None) => {}
            Err(why) if found.broken.contains(&why) => {}
            Err(why) => found.broken.push(why),
        }
        found.text_beside |= !line.is_empty();
        rest = below;
    }
    found
}

/// The block that a line begins, and how many of the lines below belong to it.
fn block(line: &[u8], below: &[&[u8]]) -> Result<Option<(Block, usize)>, &'static str> {
    match line {
        MESSAGE => {
            let end = until(below, MESSAGE_END).ok_or("a PGP message begins and does not end")?;
            let packets = armoured(&below[..end]);
            let packets = packets.ok_or("what stands in PGP armour is no PGP message")?;
            Ok(Some((Block::Message(packets), end + 1)))
        }
        SIGNED => {
            let begin = until(below, SIGNATURE).ok_or("a signed PGP message has no signature")?;
            let length = signature(&below[begin + 1..])?;
            Ok(Some((Block::SignedText, begin + 1 + length)))
        }
        SIGNATURE => Ok(Some((Block::Signature, signature(below)?))),
        _ => {
            let quoted = line.trim_ascii_start().strip_prefix(b">");
            let quoted = quoted.is_some_and(|line| contains(line, BEGIN));
            if quoted { Err("PGP armour is quoted") } else { Ok(None) }
        }
    }
}

/// How many lines belong to a signature that began above.
fn signature(lines: &[&[u8]]) -> Result<usize, &'static str> {
    let end = until(lines, SIGNATURE_END).ok_or("a PGP signature does not end")?;
    match armoured(&lines[..end]) {
        Some(Packets::Signature) => Ok(end + 1),
        _ => Err("what stands in place of a PGP signature is none"),
    }
}

/// How many lines stand before this one. No other line within armour begins with such dashes: those
/// of a signed text are escaped (RFC 9580 §7.1).
fn until(lines: &[&[u8]], end: &[u8]) -> Option<usize> {
    let found = lines.iter().position(|line| line.starts_with(b"-----"))?;
    (lines[found] == end).then_some(found)
}

/// The packets of an armour's lines: fields, an empty line, base64, a checksum (RFC 9580 §6.2).
fn armoured(lines: &[&[u8]]) -> Option<Packets> {
    let data = lines.iter().skip_while(|line| line.is_empty() || line.contains(&b':'));
    let data = data.take_while(|line| !line.starts_with(b"="));
    packets(&base64_decode(&data.copied().collect::<Vec<_>>().concat())?)
}

/// Looks at the first packets. None: it is nothing that stands at the beginning of a message.
#[must_use]
pub fn packets(octets: &[u8]) -> Option<Packets> {
    let mut rest = octets;
    for _ in 0..SKIPPED_MAX {
        let (tag, body, length) = packet(rest)?;
        match tag {
            1 => return Some(Packets::ToKey),
            // Encrypted data with no session key before it is encrypted with a passphrase.
            3 | 9 | 18 | 20 => return Some(Packets::ToPassphrase),
            2 => return Some(Packets::Signature),
            4 => return Some(Packets::Signed),
            8 | 11 => return Some(Packets::Readable),
            10 | 21 => rest = body.get(length..)?,
            _ => return None,
        }
    }
    None
}

/// Type, content and everything behind it, length of the content (RFC 9580 §4.2).
fn packet(octets: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (first, rest) = octets.split_first()?;
    let (length, rest) = rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?;
    match first {
        0xc0..=0xff => Some((first & 0x3f, rest, length)),
        0x80..=0xbf => Some(((first >> 2) & 0x0f, rest, length)),
        _ => None,
    }
}

/// Does it have this in it?
#[must_use]
pub fn contains(octets: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && octets.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the server writes it: a marker packet, a session key for a key, encrypted data.
    const UNIVERSAL: &str = "-----BEGIN PGP MESSAGE-----\r\nVersion: PGP Universal 3.3.2\r\n\r\n\
        qANQR1DBDgMRIjNEVWZ3iAEAEIAB0gEB\r\n\
        -----END PGP MESSAGE-----\r\n";

    fn armour(data: &str) -> String {
        format!("-----BEGIN PGP MESSAGE-----\n\n{data}\n-----END PGP MESSAGE-----\n")
    }

    #[test]
    fn a_message_of_the_server_is_encrypted_to_a_key() {
        let found = find(UNIVERSAL.as_bytes());
        assert_eq!(found.blocks, [Block::Message(Packets::ToKey)]);
        assert!(!found.text_beside && found.broken.is_empty());
    }

    #[test]
    fn armour_alone_does_not_make_a_message_secret() {
        let of = |data: &str| find(armour(data).as_bytes()).blocks;
        assert_eq!(of("owEB"), [Block::Message(Packets::Readable)], "compressed");
        assert_eq!(of("kA0D"), [Block::Message(Packets::Signed)], "signed");
        assert_eq!(of("jA0E"), [Block::Message(Packets::ToPassphrase)]);
        assert_eq!(of("hQEM"), [Block::Message(Packets::ToKey)]);
        assert_eq!(of("aGVsbG8="), [], "text");
        assert_eq!(of("not base64!"), []);
        assert_eq!(of(""), []);
    }

    #[test]
    fn a_block_must_begin_at_a_line_and_end() {
        let quoted: String = UNIVERSAL.lines().map(|line| format!("> {line}\n")).collect();
        let found = find(quoted.as_bytes());
        assert_eq!((found.blocks.len(), found.broken), (0, vec!["PGP armour is quoted"]));
        let cut = UNIVERSAL.replace("-----END PGP MESSAGE-----", "");
        let found = find(cut.as_bytes());
        assert_eq!(found.blocks, []);
        assert_eq!(found.broken, ["a PGP message begins and does not end"]);
        let found = find(format!("{cut}{UNIVERSAL}").as_bytes());
        assert_eq!((found.blocks.len(), found.broken.len(), found.text_beside), (1, 1, true));
    }

    /// Every line could begin a block that ends with the last one.
    #[test]
    fn beginnings_without_an_end_are_read_once() {
        let many = "-----BEGIN PGP MESSAGE-----\n".repeat(200_000) + "-----END PGP MESSAGE-----\n";
        assert_eq!(find(many.as_bytes()).blocks, []);
    }

    #[test]
    fn text_beside_a_block_is_seen() {
        assert!(find(format!("Hello\n\n{UNIVERSAL}").as_bytes()).text_beside);
        assert!(find(format!("{UNIVERSAL}\n-- \nlist footer\n").as_bytes()).text_beside);
        assert!(!find(format!("\n \n{UNIVERSAL}\n\n").as_bytes()).text_beside);
    }

    #[test]
    fn a_signed_text_has_its_signature_below() {
        let signed = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA1\n\nHello\n\n\
            -----BEGIN PGP SIGNATURE-----\nVersion: PGP Universal 3.3.2\n\n\
            iQAeAwUBAAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2\n-----END PGP SIGNATURE-----\n";
        assert_eq!(find(signed.as_bytes()).blocks, [Block::SignedText]);
        let unsigned = signed.replace("-----BEGIN PGP SIGNATURE-----", "");
        assert_eq!(find(unsigned.as_bytes()).blocks, []);
    }
}
