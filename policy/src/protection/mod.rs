//! How a message is protected, seen from outside.
//!
//! What is said of a message (its header fields, the names of its parts) is not taken for protection;
//! what is in the parts is: packets of OpenPGP, the content type of CMS, the encryption dictionary of
//! a PDF. What is only said is [`Form::Claimed`]. Header fields, Subject among them, are in clear in
//! every form, and are not counted; nor is what stands before the first part or behind the last, which
//! readers of MIME do not show (RFC 2046 §5.1.1).
//!
//! Invariants
//! - Total: every input is seen as something.
//! - What is in clear as far as can be told is never seen as protected: [`Seen::protection`] is the
//!   least that the message has.
//!
//! What cannot be told from outside is said in [`Seen::reasons`]: whether a signature is in what is
//! encrypted, whether it is encrypted to the right key, whether a signature is good, whether a PDF has
//! a passphrase worth the name, whether a text beside a PDF is the message or a note.
//!
//! Not here: OpenPGP in detail (`armour`), parts (`mime`), what a policy should have done (`action`).

use serde::Deserialize;

use crate::action::{Encoding, Protection};
use crate::mime::{Entity, Head, without_mailbox_line};

#[cfg(test)]
mod tests;
mod walk;

pub(crate) use walk::{is_file, survey};

/// How a message is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Not at all.
    Clear,
    /// It says that it is protected, and nothing in it is.
    Claimed,
    /// PGP/MIME (RFC 3156), encrypted.
    PgpMimeEncrypted,
    /// PGP/MIME, signed.
    PgpMimeSigned,
    /// PGP Partitioned, with the marks of it: each part encrypted by itself.
    PartitionedEncrypted,
    /// PGP Partitioned, with the marks of it: each part signed by itself.
    PartitionedSigned,
    /// OpenPGP in a text or a file, encrypted, with no mark of PGP Partitioned.
    InlineEncrypted,
    /// The same, signed.
    InlineSigned,
    /// S/MIME (RFC 8551), enveloped-data.
    SmimeEnveloped,
    /// S/MIME, authEnveloped-data.
    SmimeAuthEnveloped,
    /// S/MIME, signed, readable without S/MIME.
    SmimeSigned,
    /// S/MIME, signed-data: readable by anybody who has S/MIME.
    SmimeOpaqueSigned,
    /// An encrypted PDF, and a text in clear beside it (PDF Messenger).
    Pdf,
    /// An encrypted PDF with nothing in clear beside it but a note (PDF Messenger, Encrypt All).
    PdfAll,
    /// A notice of a message that is kept on the server (Web Messenger), as [`Known`] tells it.
    WebNotice,
    /// A report on the delivery of another message (RFC 3464): a bounce, mostly.
    DeliveryReport,
}

impl Form {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clear => "in clear",
            Self::Claimed => "in clear, though it claims otherwise",
            Self::PgpMimeEncrypted => "PGP/MIME, encrypted",
            Self::PgpMimeSigned => "PGP/MIME, signed",
            Self::PartitionedEncrypted => "PGP Partitioned, encrypted",
            Self::PartitionedSigned => "PGP Partitioned, signed",
            Self::InlineEncrypted => "OpenPGP in the text, encrypted",
            Self::InlineSigned => "OpenPGP in the text, signed",
            Self::SmimeEnveloped => "S/MIME, enveloped",
            Self::SmimeAuthEnveloped => "S/MIME, enveloped and authenticated",
            Self::SmimeSigned => "S/MIME, signed",
            Self::SmimeOpaqueSigned => "S/MIME, signed (opaque)",
            Self::Pdf => "PDF Messenger",
            Self::PdfAll => "PDF Messenger, all encrypted",
            Self::WebNotice => "notice of mail kept on the server",
            Self::DeliveryReport => "delivery report",
        }
    }

    /// The server's word for how it is encoded.
    ///
    /// The vendor's note on PGP Partitioned calls a text in armour by that name too, marks or none.
    #[must_use]
    pub const fn encoding(self) -> Option<Encoding> {
        match self {
            Self::PgpMimeEncrypted | Self::PgpMimeSigned => Some(Encoding::PgpMime),
            Self::PartitionedEncrypted
            | Self::PartitionedSigned
            | Self::InlineEncrypted
            | Self::InlineSigned => Some(Encoding::PgpPartitioned),
            Self::SmimeEnveloped
            | Self::SmimeAuthEnveloped
            | Self::SmimeSigned
            | Self::SmimeOpaqueSigned => Some(Encoding::Smime),
            Self::Clear
            | Self::Claimed
            | Self::Pdf
            | Self::PdfAll
            | Self::WebNotice
            | Self::DeliveryReport => None,
        }
    }
}

/// How much of a message something holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Nothing.
    No,
    /// Some of it.
    Part,
    /// All of it.
    All,
}

impl Part {
    /// The word that conditions use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Part => "part",
            Self::All => "all",
        }
    }
}

/// Texts by which the operator knows what the server sends: its templates are not documented, and
/// mostly changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Known {
    /// Texts that stand in a notice of a message kept on the server.
    pub web_texts: Vec<String>,
    /// How the links in such a notice begin.
    pub web_urls: Vec<String>,
    /// Texts that stand in the note beside a PDF.
    pub pdf_texts: Vec<String>,
}

/// One pass through the server, as it has noted it (`X-PGP-Universal`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processed {
    /// The server's name.
    pub by: String,
    /// When, as it stands there.
    pub on: String,
    /// The same in seconds since 1970; none where that is no date.
    pub at: Option<i64>,
}

/// How a message is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How it is wrapped: the first form found, encryption before signatures.
    pub form: Form,
    /// The least that it has.
    pub protection: Protection,
    /// What of it is signed; none where a signature may be in what is encrypted.
    pub signed: Option<Part>,
    /// What of it is encrypted.
    pub encrypted: Part,
    /// Each pass through the server; the last one first.
    pub processed_by: Vec<Processed>,
    /// `X-PGP-Encoding-Format`, as it stands there. A claim.
    pub encoding_format: Option<String>,
    /// `X-PGP-Encoding-Version`, as it stands there.
    pub encoding_version: Option<String>,
    /// What led there, and what cannot be told.
    pub reasons: Vec<String>,
}

/// Sees how a message is protected.
#[must_use]
pub fn see(octets: &[u8], known: &Known) -> Seen {
    let root = Entity::parse(without_mailbox_line(octets));
    survey(&root, known).seen(&root.head)
}

/// The shares that a message is made of.
#[derive(Default)]
pub(crate) struct Survey<'a> {
    pub(crate) shares: Vec<Share<'a>>,
    reasons: Vec<String>,
    claimed: bool,
    report: bool,
}

/// A share of a message that is protected in one way: a part, or what stands in it.
pub(crate) struct Share<'a> {
    pub(crate) entity: &'a Entity<'a>,
    pub(crate) cover: Cover,
    /// The form of a signature over it, or with it.
    pub(crate) signed: Option<Form>,
}

/// What stands between a share and its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cover {
    /// Nothing.
    None,
    /// Nothing but a container that is not opened here.
    Container,
    /// A notice: the message is elsewhere.
    Notice,
    /// A note beside a PDF.
    Note,
    /// A PDF with a passphrase.
    Pdf,
    /// A passphrase.
    Passphrase(Form),
    /// A key.
    Key(Form),
    /// Nothing is in it: it belongs to the wrapping.
    Wrapping,
}

impl Cover {
    pub(crate) const fn form(self) -> Option<Form> {
        match self {
            Self::Passphrase(form) | Self::Key(form) => Some(form),
            Self::Pdf => Some(Form::Pdf),
            Self::None | Self::Container | Self::Notice | Self::Note | Self::Wrapping => None,
        }
    }

    /// Is it in clear, or as good as?
    const fn is_clear(self) -> bool {
        matches!(self, Self::None | Self::Container)
    }
}

impl Share<'_> {
    /// Does it count: has it something in it that could be protected?
    fn counts(&self) -> bool {
        let blank = |text: Option<String>| text.is_some_and(|text| text.trim().is_empty());
        match self.cover {
            Cover::Wrapping | Cover::Note => false,
            Cover::None if self.signed.is_none() && !is_file(self.entity) => {
                !blank(self.entity.text())
            }
            _ => true,
        }
    }
}

impl Survey<'_> {
    /// How much of it is signed; none where that cannot be told.
    pub(crate) fn signed(&self) -> Option<Part> {
        let (mut with, mut without, mut hidden) = (false, false, false);
        for share in self.shares.iter().filter(|share| share.counts()) {
            match (share.signed, share.cover) {
                (Some(_), _) => with = true,
                (None, Cover::Key(_) | Cover::Passphrase(_)) => hidden = true,
                (None, _) => without = true,
            }
        }
        match (with, without, hidden) {
            (true, true, _) => Some(Part::Part),
            (_, _, true) => None,
            (true, false, false) => Some(Part::All),
            (false, _, false) => Some(Part::No),
        }
    }

    /// How much of it is encrypted.
    pub(crate) fn encrypted(&self) -> Part {
        let counting = || self.shares.iter().filter(|share| share.counts());
        let encrypted = |share: &Share<'_>| share.cover.form().is_some();
        match (counting().any(encrypted), counting().all(encrypted)) {
            (false, _) => Part::No,
            (true, false) => Part::Part,
            (true, true) => Part::All,
        }
    }

    fn protection(&self) -> Protection {
        let counting = || self.shares.iter().filter(|share| share.counts());
        let clear = counting().any(|share| share.cover.is_clear());
        let covered = counting().filter(|share| !share.cover.is_clear());
        let signed = self.signed() == Some(Part::All);
        let of = |share: &Share<'_>| match share.cover {
            Cover::Key(_) if signed => Protection::EncryptedSigned,
            Cover::Key(_) => Protection::Encrypted,
            Cover::Passphrase(_) | Cover::Pdf => Protection::Passphrase,
            _ => Protection::Kept,
        };
        match (covered.map(of).min(), clear) {
            (Some(least), false) => least,
            (Some(_), true) => Protection::Partly,
            (None, _) if signed => Protection::Signed,
            (None, _) => Protection::Clear,
        }
    }

    fn form(&self) -> Form {
        let shares = || self.shares.iter();
        let covered = shares().find_map(|share| share.cover.form());
        let notice = shares().any(|share| share.cover == Cover::Notice);
        let beside = shares().any(|share| share.counts() && share.cover != Cover::Pdf);
        match covered {
            _ if self.report => Form::DeliveryReport,
            Some(Form::Pdf) if !beside => Form::PdfAll,
            Some(form) => form,
            None if notice => Form::WebNotice,
            None => shares().find_map(|share| share.signed).unwrap_or(match self.claimed {
                true => Form::Claimed,
                false => Form::Clear,
            }),
        }
    }

    fn seen(mut self, head: &Head) -> Seen {
        let text = |name| head.texts(name).next().map(str::to_owned);
        let (form, signed, encrypted) = (self.form(), self.signed(), self.encrypted());
        let mut reasons = std::mem::take(&mut self.reasons);
        match form {
            Form::Pdf => reasons.push(CANNOT_TELL_NOTE.to_owned()),
            Form::WebNotice => reasons.push("a text or link of a web notice is in it".to_owned()),
            _ => {}
        }
        if signed.is_none() {
            reasons.push("a signature in what is encrypted cannot be seen".to_owned());
        }
        let mut processed_by = Vec::new();
        for text in head.texts("X-PGP-Universal") {
            match processed(text) {
                Some(processed) => processed_by.push(processed),
                None => reasons.push(format!("X-PGP-Universal is not understood: {text:?}")),
            }
        }
        let encoding_format = text("X-PGP-Encoding-Format");
        if let (Some(format), None) = (&encoding_format, form.encoding()) {
            reasons.push(format!("X-PGP-Encoding-Format says {format:?}, and nothing else does"));
        }
        Seen {
            form,
            protection: self.protection(),
            signed,
            encrypted,
            processed_by,
            encoding_format,
            encoding_version: text("X-PGP-Encoding-Version"),
            reasons,
        }
    }
}

const CANNOT_TELL_NOTE: &str =
    "whether what is in clear beside the encrypted PDF is a note or the message cannot be told";

/// `processed; by HOST on DATE`.
fn processed(text: &str) -> Option<Processed> {
    let rest = text.trim().strip_prefix("processed;")?.trim_start().strip_prefix("by ")?;
    let (by, on) = rest.split_once(" on ")?;
    let (by, on) = (by.trim().to_owned(), on.trim().to_owned());
    let date = mail_parser::DateTime::parse_rfc822(&format!("{on}\n"));
    let at = date.filter(mail_parser::DateTime::is_valid).map(|date| date.to_timestamp());
    (!by.is_empty()).then_some(Processed { by, on, at })
}
