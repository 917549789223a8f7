//! A walk through the parts of a message: which shares it is made of, and what stands before each.
//!
//! Invariant: what is in a share decides; what is said of it is a claim at most.
//!
//! Not here: what the shares come to together (`protection`).

use super::{Cover, Form, Known, Share, Survey};
use crate::armour::{self, Block, Packets};
use crate::mime::{Content, Entity};

/// Looks through the parts of a message.
pub(crate) fn survey<'a>(root: &'a Entity<'a>, known: &Known) -> Survey<'a> {
    let mut walk = Walk { known, partitioned: is_partitioned(root), found: Survey::default() };
    walk.entity(root, None);
    let format = root.head.texts("X-PGP-Encoding-Format").next();
    walk.found.claimed |= format.is_some();
    walk.found.report = is_report(root);
    // Without a PDF, what looks like the note beside one is a text like any other.
    let shares = &mut walk.found.shares;
    if !shares.iter().any(|share| share.cover == Cover::Pdf) {
        let notes = shares.iter_mut().filter(|share| share.cover == Cover::Note);
        notes.for_each(|share| share.cover = Cover::None);
    }
    walk.found
}

/// A walk through the parts.
struct Walk<'a, 'k> {
    known: &'k Known,
    partitioned: bool,
    found: Survey<'a>,
}

impl<'a> Walk<'a, '_> {
    fn say(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        if !self.found.reasons.contains(&reason) {
            self.found.reasons.push(reason);
        }
    }

    fn claim(&mut self, reason: impl Into<String>) {
        self.found.claimed = true;
        self.say(reason);
    }

    fn share(&mut self, entity: &'a Entity<'a>, cover: Cover, signed: Option<Form>) {
        // A text may have any number of blocks in it, and each share is looked at again and again.
        let shares = &mut self.found.shares;
        let mut same = shares.iter().rev().take_while(|share| std::ptr::eq(share.entity, entity));
        if !same.any(|share| (share.cover, share.signed) == (cover, signed)) {
            shares.push(Share { entity, cover, signed });
        }
    }

    fn entity(&mut self, entity: &'a Entity<'a>, signed: Option<Form>) {
        if entity.head.texts("content-type").nth(1).is_some() {
            self.say("there are two Content-Type fields; the first was followed");
        }
        match &entity.content {
            Content::Message(inner) => self.entity(inner, signed),
            Content::Leaf(_) => self.leaf(entity, signed),
            Content::Unread => {
                self.say("there are too many parts; the rest was taken to be in clear");
                self.share(entity, Cover::None, signed);
            }
            Content::Parts { parts, closed } => {
                if !closed {
                    self.say("the last part has no end");
                }
                match entity.head.media().name.as_str() {
                    "multipart/encrypted" => self.encrypted(parts, signed),
                    "multipart/signed" => self.signed(parts, signed),
                    _ => self.parts(parts, signed),
                }
            }
        }
    }

    /// PGP/MIME, encrypted (RFC 3156 §4).
    fn encrypted(&mut self, parts: &'a [Entity<'a>], signed: Option<Form>) {
        let [version, data, rest @ ..] = parts else {
            self.claim("multipart/encrypted has one part only");
            return self.parts(parts, signed);
        };
        if version.head.media().name != "application/pgp-encrypted" {
            self.claim("the first part of multipart/encrypted is not application/pgp-encrypted");
            return self.parts(parts, signed);
        }
        let armoured = data.octets().map(armour::find).unwrap_or_default();
        let cover = match armoured.blocks.as_slice() {
            [Block::Message(Packets::ToKey)] => Cover::Key(Form::PgpMimeEncrypted),
            [Block::Message(Packets::ToPassphrase)] => Cover::Passphrase(Form::PgpMimeEncrypted),
            _ => Cover::None,
        };
        if cover == Cover::None || armoured.text_beside {
            self.claim("the second part of multipart/encrypted is no encrypted PGP message");
            return self.parts(parts, signed);
        }
        let empty = version.octets().is_some_and(|octets| octets.trim_ascii() == b"Version: 1");
        if !empty {
            self.say("there is more than a version in the first part of multipart/encrypted");
        }
        self.share(version, if empty { Cover::Wrapping } else { Cover::None }, signed);
        self.share(data, cover, signed);
        if !rest.is_empty() {
            self.say("multipart/encrypted has more than two parts");
            self.parts(rest, signed);
        }
    }

    /// Signed in clear: PGP/MIME (RFC 3156 §5) or S/MIME (RFC 8551 §3.5.3).
    fn signed(&mut self, parts: &'a [Entity<'a>], outer: Option<Form>) {
        let [content, signature, rest @ ..] = parts else {
            self.claim("multipart/signed has one part only");
            return self.parts(parts, outer);
        };
        let octets = signature.octets().unwrap_or_default();
        let form = match signature.head.media().name.as_str() {
            "application/pgp-signature" => {
                is_armoured_signature(octets).then_some(Form::PgpMimeSigned)
            }
            "application/pkcs7-signature" | "application/x-pkcs7-signature" => {
                (cms(octets) == Some(Cms::Signed)).then_some(Form::SmimeSigned)
            }
            _ => None,
        };
        if form.is_none() {
            self.claim("the second part of multipart/signed is no signature");
            return self.parts(parts, outer);
        }
        self.entity(content, form);
        self.share(signature, Cover::Wrapping, form);
        if !rest.is_empty() {
            self.say("multipart/signed has more than two parts");
            self.parts(rest, outer);
        }
    }

    /// Parts side by side. In PGP Partitioned, `x.sig` has the signature of `x`.
    fn parts(&mut self, parts: &'a [Entity<'a>], signed: Option<Form>) {
        let name = |part: &Entity<'_>| part.head.file_name().unwrap_or_default().to_owned();
        let signatures: Vec<String> =
            parts.iter().filter(|part| is_signature(part)).map(name).collect();
        let names: Vec<String> = parts.iter().map(name).collect();
        for part in parts {
            let own = name(part);
            let signature = format!("{own}.sig");
            let signs =
                own.strip_suffix(".sig").is_some_and(|of| names.iter().any(|name| name == of));
            if signs && is_signature(part) {
                self.share(part, Cover::Wrapping, signed);
            } else if !own.is_empty() && signatures.contains(&signature) {
                self.entity(part, signed.or(Some(Form::PartitionedSigned)));
            } else {
                self.entity(part, signed);
            }
        }
    }

    fn leaf(&mut self, entity: &'a Entity<'a>, signed: Option<Form>) {
        let Some(octets) = entity.octets() else {
            self.say("a part could not be decoded, and was taken to be in clear");
            return self.share(entity, Cover::None, signed);
        };
        let media = entity.head.media().name.as_str();
        if media.starts_with("multipart/") {
            match media {
                "multipart/encrypted" | "multipart/signed" => {
                    self.claim(format!("{media} has no parts"));
                }
                _ => self.say(format!("{media} has no parts")),
            }
        }
        let name = entity.head.file_name().unwrap_or_default().to_ascii_lowercase();
        let is_smime = matches!(media, "application/pkcs7-mime" | "application/x-pkcs7-mime");
        if is_smime || (media == "application/octet-stream" && name.ends_with(".p7m")) {
            return self.smime(entity, octets, signed);
        }
        if media == "application/pdf" || name.ends_with(".pdf") {
            let encrypted = is_encrypted_pdf(octets);
            if encrypted {
                self.say(
                    "a PDF is encrypted; whether it needs a passphrase to be read cannot be told",
                );
            }
            return self.share(entity, if encrypted { Cover::Pdf } else { Cover::None }, signed);
        }
        if entity.is_kind("text") && media != "text/plain" {
            if armour::contains(octets, b"-----BEGIN PGP ") {
                self.say(format!("PGP armour in {media} was not taken for such"));
            }
            let cover = self.text(entity);
            return self.share(entity, cover, signed);
        }
        self.openpgp(entity, octets, signed);
    }

    /// S/MIME: what CMS says it is. The parameter smime-type only claims (RFC 8551 §3.2.2).
    fn smime(&mut self, entity: &'a Entity<'a>, octets: &[u8], signed: Option<Form>) {
        let said = entity.head.media().parameter("smime-type").map(str::to_ascii_lowercase);
        let found = cms(octets);
        let (cover, signed) = match found {
            Some(Cms::Enveloped) => (Cover::Key(Form::SmimeEnveloped), signed),
            Some(Cms::AuthEnveloped) => (Cover::Key(Form::SmimeAuthEnveloped), signed),
            Some(Cms::Signed) if said.as_deref() == Some("certs-only") => {
                (Cover::Container, signed)
            }
            Some(Cms::Signed) => (Cover::Container, signed.or(Some(Form::SmimeOpaqueSigned))),
            Some(Cms::Compressed) => (Cover::Container, signed),
            None => (Cover::None, signed),
        };
        let expected = match found {
            Some(Cms::Enveloped) => "enveloped-data",
            Some(Cms::AuthEnveloped) => "authenveloped-data",
            Some(Cms::Signed) => "signed-data",
            Some(Cms::Compressed) => "compressed-data",
            None => "",
        };
        match said {
            _ if found.is_none() => self.claim("what is called S/MIME is no CMS content"),
            None => self.say(format!("smime-type is missing; CMS says {expected}")),
            Some(said) if said == expected || said == "certs-only" => {}
            Some(said) => self.say(format!("smime-type says {said:?}, CMS says {expected}")),
        }
        self.share(entity, cover, signed);
    }

    /// OpenPGP in a text or a file, or nothing of the kind.
    fn openpgp(&mut self, entity: &'a Entity<'a>, octets: &[u8], signed: Option<Form>) {
        let (encrypted, signing) = match self.partitioned {
            true => (Form::PartitionedEncrypted, Form::PartitionedSigned),
            false => (Form::InlineEncrypted, Form::InlineSigned),
        };
        let mut armoured = armour::find(octets);
        for why in std::mem::take(&mut armoured.broken) {
            self.claim(why);
        }
        if armoured.blocks.is_empty() {
            // A file may have the packets as they are; the name says that it means to.
            let name = entity.head.file_name().unwrap_or_default().to_ascii_lowercase();
            let meant = [".pgp", ".gpg"].iter().any(|ending| name.ends_with(ending));
            let packets = armour::packets(octets).filter(|_| meant);
            armoured.blocks.extend(packets.map(Block::Message));
            armoured.text_beside = armoured.blocks.is_empty();
        }
        for block in &armoured.blocks {
            let (cover, signed) = match block {
                Block::Message(Packets::ToKey) => (Cover::Key(encrypted), signed),
                Block::Message(Packets::ToPassphrase) => (Cover::Passphrase(encrypted), signed),
                Block::Message(Packets::Signed | Packets::Signature) => {
                    (Cover::Container, signed.or(Some(signing)))
                }
                Block::Message(Packets::Readable) => {
                    self.claim("a PGP message is compressed or literal: anybody can read it");
                    (Cover::Container, signed)
                }
                Block::SignedText => (Cover::None, signed.or(Some(signing))),
                Block::Signature => {
                    self.claim("a PGP signature stands alone");
                    (Cover::None, signed)
                }
            };
            self.share(entity, cover, signed);
        }
        if armoured.text_beside || armoured.blocks.is_empty() {
            let cover = self.text(entity);
            self.share(entity, cover, signed);
        }
    }

    /// A text in clear: is it one that the operator knows?
    fn text(&self, entity: &Entity<'_>) -> Cover {
        if !entity.is_kind("text") {
            return Cover::None;
        }
        let text = entity.text().unwrap_or_default();
        // An answer that quotes a notice is none.
        let unquoted: Vec<&str> =
            text.lines().filter(|line| !line.trim_start().starts_with('>')).collect();
        let text = unquoted.join("\n");
        let has = |texts: &[String]| {
            texts.iter().any(|known| !known.trim().is_empty() && text.contains(known.as_str()))
        };
        if has(&self.known.web_texts) || self.known.web_urls.iter().any(|url| links_to(&text, url))
        {
            Cover::Notice
        } else if has(&self.known.pdf_texts) {
            Cover::Note
        } else {
            Cover::None
        }
    }
}

/// Is there a link that begins so? `https://a.example` does not begin `https://a.example.org/`.
fn links_to(text: &str, url: &str) -> bool {
    let inside = |next: char| next.is_ascii_alphanumeric() || matches!(next, '.' | '-' | '@' | ':');
    let ends = |rest: &str| url.ends_with('/') || !rest.starts_with(inside);
    let begins = |before: &str| !before.ends_with(|last: char| last.is_alphanumeric());
    !url.trim().is_empty()
        && text
            .match_indices(url)
            .any(|(at, _)| begins(&text[..at]) && ends(&text[at + url.len()..]))
}

/// Is there a mark of PGP Partitioned? It tells the form, and nothing of protection.
fn is_partitioned(entity: &Entity<'_>) -> bool {
    let format = |text: &str| text.trim().eq_ignore_ascii_case("partitioned");
    let field = |name: &str| {
        name == "x-pgp-mime-structure" || name.starts_with("x-content-pgp-universal-saved-")
    };
    let numbered = |name: &str| {
        let number = name.strip_prefix("attachment").and_then(|rest| rest.strip_suffix(".pgp"));
        number.is_some_and(|number| number.bytes().all(|octet| octet.is_ascii_digit()))
    };
    let name = entity.head.file_name().unwrap_or_default();
    entity.head.texts("X-PGP-Encoding-Format").any(format)
        || entity.head.fields.iter().any(|one| field(&one.name))
        || is_exchange(name)
        || numbered(&name.to_ascii_lowercase())
        || match &entity.content {
            Content::Parts { parts, .. } => parts.iter().any(is_partitioned),
            Content::Message(_) | Content::Leaf(_) | Content::Unread => false,
        }
}

/// `PGPexch.htm.pgp` and the like: the other form of the text, in PGP Partitioned.
fn is_exchange(name: &str) -> bool {
    name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("pgpexch."))
}

/// Is it a file rather than a text to be read? `PGPexch.htm` is the text, in PGP Partitioned.
pub(crate) fn is_file(entity: &Entity<'_>) -> bool {
    match entity.head.file_name() {
        _ if !entity.is_kind("text") => true,
        Some(name) => !is_exchange(name),
        None => entity.head.is_attachment(),
    }
}

/// A signature in a file of its own, in armour or not.
fn is_signature(part: &Entity<'_>) -> bool {
    let octets = part.octets().unwrap_or_default();
    armour::packets(octets) == Some(Packets::Signature) || is_armoured_signature(octets)
}

fn is_armoured_signature(octets: &[u8]) -> bool {
    let found = armour::find(octets);
    found.blocks == [Block::Signature] && !found.text_beside
}

/// Has it the form of a report on delivery (RFC 3464), a report in it?
fn is_report(root: &Entity<'_>) -> bool {
    let Content::Parts { parts, .. } = &root.content else { return false };
    let status = ["message/delivery-status", "message/global-delivery-status"];
    root.head.media().name == "multipart/report"
        && parts.iter().any(|part| status.contains(&part.head.media().name.as_str()))
}

/// What CMS content says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cms {
    Signed,
    Enveloped,
    AuthEnveloped,
    Compressed,
}

/// The content type at the beginning of CMS content (RFC 5652 §3, RFC 5083, RFC 3274).
fn cms(octets: &[u8]) -> Option<Cms> {
    const TYPES: [(&[u8], Cms); 4] = [
        (b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02", Cms::Signed),
        (b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03", Cms::Enveloped),
        (b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x17", Cms::AuthEnveloped),
        (b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x09", Cms::Compressed),
    ];
    let (length, rest) = octets.strip_prefix(b"\x30")?.split_first()?;
    // Long lengths have their own length in the lower bits; 0x80 is a length that is not said.
    let skipped = if *length > 0x80 { usize::from(length & 0x7f) } else { 0 };
    let rest = rest.get(skipped..)?;
    let found = TYPES.iter().find(|(oid, _)| rest.starts_with(oid) && rest.len() > oid.len());
    found.map(|(_, cms)| *cms)
}

/// Has it an encryption dictionary (ISO 32000-1 §7.5.5, §7.6)? It stands where it can be read.
fn is_encrypted_pdf(octets: &[u8]) -> bool {
    const KEY: &[u8] = b"/Encrypt";
    let refers = |rest: &[u8]| {
        let rest = rest.trim_ascii_start();
        rest.starts_with(b"<<") || rest.first().is_some_and(u8::is_ascii_digit)
    };
    let is_pdf = armour::contains(&octets[..octets.len().min(1024)], b"%PDF-");
    is_pdf
        && octets
            .windows(KEY.len())
            .enumerate()
            .any(|(at, window)| window == KEY && refers(&octets[at + KEY.len()..]))
}
