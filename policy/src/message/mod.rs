//! The facts of a message: read from one, and made into one.
//!
//! Invariants
//! - A fact that the message does not settle is left out: fields that contradict each other, texts in
//!   a character set that is not known, what is in an encrypted part.
//! - What only the server knows is never here, whether the message can be processed among it.
//!
//! Not here: how parts are cut out (`mime`), how protection is seen (`protection`).

use std::collections::BTreeMap;

use crate::action::Encoding;
use crate::mime::{Content, Entity, Head, is_decoded, without_mailbox_line};
use crate::protection::{Cover, Known, Part, Survey, is_file, survey};
use crate::sample::{Fact, Sample, Variable};

mod node;
#[cfg(test)]
mod tests;
mod write;

pub use write::{Message, SIZE_MAX, Unmet, write};

/// Octets of text that are looked at; a longer text is not known, since its rest may matter.
const BODY_OCTETS_MAX: usize = 16 << 20;

/// The facts of a message, one sample for each recipient.
///
/// The text is that of all text parts that are no files, one below the other, HTML with its tags, and
/// lines end with `\n`. What is in an attached message belongs to that one.
#[must_use]
pub fn samples(octets: &[u8], sender: &str, recipients: &[String]) -> Vec<Sample> {
    let octets = without_mailbox_line(octets);
    let size = u64::try_from(octets.len()).unwrap_or(u64::MAX);
    let mut shared = Sample::unknown()
        .with_text(Variable::Sender, sender)
        .with(Variable::Size, Fact::Number(size));
    let root = Entity::parse(octets);
    // Where a header ends or what a line in it means is not the same for all, nothing below is sure.
    if root.head.complete {
        shared = header(&root.head, shared);
        structure(&root, &mut shared);
    }
    let recipients = recipients.iter();
    recipients.map(|one| shared.clone().with_text(Variable::Recipient, one)).collect()
}

fn header(head: &Head, mut sample: Sample) -> Sample {
    let mut fields: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for field in head.fields.iter().filter(|field| field.name != "subject") {
        fields.entry(&field.name).or_default().push(field.text.clone());
    }
    let decoded = |texts: &[String]| texts.iter().all(|text| is_decoded(text));
    let all = fields.values().all(|texts| decoded(texts));
    for (name, texts) in fields.into_iter().filter(|(_, texts)| decoded(texts)) {
        sample.set(Variable::header(name), Fact::Texts(texts));
    }
    let subjects: Vec<&str> = head.texts("subject").collect();
    if let [] | [_] = subjects.as_slice() {
        let subject = subjects.first().copied().unwrap_or_default();
        if is_decoded(subject) {
            sample.set(Variable::Subject, Fact::Text(subject.to_owned()));
        }
    }
    let words = [(Variable::Priority, priority(head)), (Variable::Sensitivity, sensitivity(head))];
    for (variable, word) in words {
        if let Some(word) = word {
            sample.set(variable, Fact::Text(word.to_owned()));
        }
    }
    let listed = if head.texts("list-id").next().is_some() { "yes" } else { "no" };
    sample.set(Variable::MailingList, Fact::Text(listed.to_owned()));
    if all { sample.with_all_headers() } else { sample }
}

/// What the fields on priority agree on; none where they do not.
fn priority(head: &Head) -> Option<&'static str> {
    let importance = head.texts("importance").map(|text| match lower(text).as_str() {
        "low" => Some("low"),
        "normal" => Some("normal"),
        "high" => Some("high"),
        _ => None,
    });
    let x_priority = head.texts("x-priority").map(|text| match text.trim().as_bytes().first() {
        Some(b'1' | b'2') => Some("high"),
        Some(b'3') => Some("normal"),
        Some(b'4' | b'5') => Some("low"),
        _ => None,
    });
    // RFC 2156 §5.3.6.
    let priority = head.texts("priority").map(|text| match lower(text).as_str() {
        "non-urgent" => Some("low"),
        "normal" => Some("normal"),
        "urgent" => Some("high"),
        _ => None,
    });
    agreed(importance.chain(x_priority).chain(priority))
}

/// RFC 2156 §5.3.4.
fn sensitivity(head: &Head) -> Option<&'static str> {
    agreed(head.texts("sensitivity").map(|text| match lower(text).as_str() {
        "personal" => Some("personal"),
        "private" => Some("private"),
        "company-confidential" => Some("confidential"),
        _ => None,
    }))
}

/// The word that all say; `normal` where nothing is said.
fn agreed(mut words: impl Iterator<Item = Option<&'static str>>) -> Option<&'static str> {
    let Some(first) = words.next() else { return Some("normal") };
    words.all(|word| word == first).then_some(first).flatten()
}

fn lower(text: &str) -> String {
    text.trim().to_ascii_lowercase()
}

fn structure(root: &Entity<'_>, sample: &mut Sample) {
    let survey = survey(root, &Known::default());
    let mut say = |variable, word: Option<&str>| {
        if let Some(word) = word {
            sample.set(variable, Fact::Text(word.to_owned()));
        }
    };
    say(Variable::Signed, survey.signed().map(Part::as_str));
    // Whether the server takes a PDF with a passphrase for encrypted is not known.
    let pdf = survey.shares.iter().any(|share| share.cover == Cover::Pdf);
    say(Variable::Encrypted, (!pdf).then(|| survey.encrypted().as_str()));
    say(Variable::Encoding, encoding(&survey));
    let closed =
        |cover: Cover| matches!(cover, Cover::Key(_) | Cover::Passphrase(_) | Cover::Container);
    // What the server finds when it opens a part, only the server knows.
    if survey.shares.iter().any(|share| closed(share.cover)) {
        return;
    }
    let mut found = Found::default();
    found.look(root, &survey);
    if found.unread {
        return;
    }
    if found.names.iter().all(|name| is_decoded(name)) {
        sample.set(Variable::AttachmentName, Fact::Texts(found.names));
    }
    sample.set(Variable::AttachmentType, Fact::Texts(found.types));
    let body = found.texts.into_iter().collect::<Option<Vec<String>>>();
    let body = body.map(|texts| {
        texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
    });
    if let Some(body) = body.filter(|body| body.len() <= BODY_OCTETS_MAX) {
        sample.set(Variable::Body, Fact::Text(body));
    }
}

/// The one encoding that there is; none where there are two.
fn encoding(survey: &Survey<'_>) -> Option<&'static str> {
    let mut found = None;
    for share in &survey.shares {
        for form in [share.cover.form(), share.signed].into_iter().flatten() {
            let Some(encoding) = form.encoding() else { continue };
            if found.is_some_and(|found| found != encoding) {
                return None;
            }
            found = Some(encoding);
        }
    }
    Some(found.map_or("none", Encoding::as_str))
}

/// Texts and files of a message.
#[derive(Default)]
struct Found {
    /// None: a text that could not be decoded.
    texts: Vec<Option<String>>,
    names: Vec<String>,
    types: Vec<String>,
    /// There were too many parts.
    unread: bool,
}

impl Found {
    fn look(&mut self, entity: &Entity<'_>, survey: &Survey<'_>) {
        let is_wrapping = survey
            .shares
            .iter()
            .any(|share| std::ptr::eq(share.entity, entity) && share.cover == Cover::Wrapping);
        match &entity.content {
            _ if is_wrapping => {}
            Content::Unread => self.unread = true,
            Content::Parts { parts, .. } => parts.iter().for_each(|part| self.look(part, survey)),
            Content::Leaf(_) if !is_file(entity) => self.texts.push(entity.text()),
            Content::Leaf(_) | Content::Message(_) => {
                self.types.push(entity.head.media().name.clone());
                self.names.extend(entity.head.file_name().map(str::to_owned));
            }
        }
    }
}
