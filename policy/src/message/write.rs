//! Writes the smallest message that has given facts.
//!
//! Such a message is evidence: it can be looked at, and sent to a server to see what it does. What is
//! signed or encrypted in it is so by its form only: nobody can open it.
//!
//! Invariants
//! - The message is read again before it is given out: a fact that is not found in it is named
//!   ([`Message::unmet`]), whatever the reason.
//! - A name of a field, a media type and an address are written only if they are such.
//!
//! Not here: how parts are written (`node`).

use std::collections::BTreeSet;

use smtp::{ForwardPath, ReversePath};

use super::node::{FILLER, Node, PLAIN_MAX, unstructured};
use super::samples;
use crate::action::Encoding;
use crate::sample::{Fact, Sample, Variable};

/// The greatest size that a message is made up to, in octets.
pub const SIZE_MAX: u64 = 32 << 20;

/// Blanks behind the name of the first field that make up for size; more are made up by other lines.
const BLANKS_MAX: u64 = 800;

/// A message that has the facts of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The message (RFC 5322).
    pub octets: Vec<u8>,
    /// The reverse-path, without brackets.
    pub sender: String,
    /// The forward-path, without brackets.
    pub recipient: String,
    /// Facts that only the server knows: no message has them in it.
    pub beside: Vec<(Variable, Fact)>,
    /// Facts that the message should have, and has not.
    pub unmet: Vec<Unmet>,
}

/// A fact that could not be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// Which one.
    pub variable: Variable,
    /// What it should be.
    pub wanted: Fact,
    /// What is found in the message; none where the message does not tell.
    pub found: Option<Fact>,
}

/// Writes the smallest message that has these facts, as far as they can be had together.
#[must_use]
pub fn write(sample: &Sample) -> Message {
    let path = |variable: &Variable, usable: fn(&str) -> bool, default: &str| {
        text(sample, variable).filter(|text| usable(text)).unwrap_or(default).to_owned()
    };
    let sender = path(&Variable::Sender, is_reverse_path, "sender@example.invalid");
    let recipient = path(&Variable::Recipient, is_forward_path, "recipient@example.invalid");
    let octets = sized(sample, &fields(sample, &sender, &recipient));
    let unmet = unmet(sample, &octets, &sender, &recipient);
    let beside = sample.facts().filter(|(variable, _)| !variable.is_in_message());
    let beside = beside.map(|(variable, fact)| (variable.clone(), fact.clone())).collect();
    Message { octets, sender, recipient, beside, unmet }
}

fn text<'a>(sample: &'a Sample, variable: &Variable) -> Option<&'a str> {
    match sample.fact(variable)? {
        Fact::Text(text) => Some(text),
        Fact::Texts(_) | Fact::Number(_) => None,
    }
}

fn texts<'a>(sample: &'a Sample, variable: &Variable) -> Option<&'a [String]> {
    match sample.fact(variable)? {
        Fact::Texts(texts) => Some(texts),
        Fact::Text(_) | Fact::Number(_) => None,
    }
}

fn is_reverse_path(text: &str) -> bool {
    ReversePath::parse(&format!("<{text}>")).is_ok_and(|path| path.address() == text)
}

fn is_forward_path(text: &str) -> bool {
    ForwardPath::parse(&format!("<{text}>")).is_ok_and(|path| path.address() == text)
}

/// Reads the message again.
fn unmet(sample: &Sample, octets: &[u8], sender: &str, recipient: &str) -> Vec<Unmet> {
    let found = samples(octets, sender, &[recipient.to_owned()]).pop().unwrap_or_default();
    let wanted = sample.facts().map(|(variable, _)| variable);
    // Fields that are known to be absent are not among the facts.
    let written = found.facts().map(|(variable, _)| variable);
    let variables: BTreeSet<&Variable> = wanted.chain(written).collect();
    let mut unmet = Vec::new();
    for variable in variables.into_iter().filter(|variable| variable.is_in_message()) {
        let Some(wanted) = sample.fact(variable) else { continue };
        let found = found.fact(variable);
        if !found.is_some_and(|found| agree(wanted, found)) {
            let (variable, wanted) = (variable.clone(), wanted.clone());
            unmet.push(Unmet { variable, wanted, found: found.cloned() });
        }
    }
    unmet
}

/// Are two facts the same for every question? The order of several texts is of no account.
fn agree(one: &Fact, other: &Fact) -> bool {
    let set = |texts: &[String]| texts.iter().cloned().collect::<BTreeSet<String>>();
    match (one, other) {
        (Fact::Texts(one), Fact::Texts(other)) => set(one) == set(other),
        _ => one == other,
    }
}

/// The fields of the message but those of its structure: names and values as they are written.
fn fields(sample: &Sample, sender: &str, recipient: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for (variable, fact) in sample.facts() {
        if let (Variable::Header(name), Fact::Texts(texts)) = (variable, fact)
            && is_field_name(name)
        {
            fields.extend(texts.iter().map(|text| (name.clone(), unstructured(text))));
        }
    }
    let known = |name: &str| sample.fact(&Variable::header(name)).is_some();
    let written = |name: &str| fields.iter().any(|(written, _)| written == name);
    let mut own = Vec::new();
    // RFC 5322 §3.6 asks for these two in every message. There is no clock here: any date will do.
    if !written("date") {
        own.push(("Date", "Thu, 01 Jan 1970 00:00:00 +0000".to_owned()));
    }
    if !written("from") {
        own.push(("From", format!("<{}>", printable(sender, "sender@example.invalid"))));
    }
    if !known("to") {
        own.push(("To", format!("<{}>", printable(recipient, "recipient@example.invalid"))));
    }
    own.extend(
        text(sample, &Variable::Subject)
            .filter(|text| !text.is_empty())
            .map(|text| ("Subject", unstructured(text))),
    );
    let priority = match text(sample, &Variable::Priority) {
        Some("high") => Some(["High", "1", "urgent"]),
        Some("low") => Some(["Low", "5", "non-urgent"]),
        _ => None,
    };
    let names = ["Importance", "X-Priority", "Priority"];
    let free = names.iter().zip(priority.into_iter().flatten()).find(|(name, _)| !known(name));
    own.extend(free.map(|(name, word)| (*name, word.to_owned())));
    let sensitivity = match text(sample, &Variable::Sensitivity) {
        Some("personal") => Some("Personal"),
        Some("private") => Some("Private"),
        Some("confidential") => Some("Company-Confidential"),
        _ => None,
    };
    own.extend(
        sensitivity.filter(|_| !known("sensitivity")).map(|word| ("Sensitivity", word.to_owned())),
    );
    if text(sample, &Variable::MailingList) == Some("yes") && !known("list-id") {
        own.push(("List-Id", "<list.example.invalid>".to_owned()));
    }
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    own.chain(fields).collect()
}

/// RFC 5322 §3.6.8. Subject has a variable of its own.
fn is_field_name(name: &str) -> bool {
    let is_name = |octet: u8| octet.is_ascii_graphic() && octet != b':';
    !name.is_empty() && name.len() <= PLAIN_MAX && name.bytes().all(is_name) && name != "subject"
}

fn printable<'a>(address: &'a str, default: &'a str) -> &'a str {
    let plain = !address.is_empty() && address.bytes().all(|octet| (b' '..=b'~').contains(&octet));
    if plain { address } else { default }
}

/// The message, made up to the size that it should have.
fn sized(sample: &Sample, fields: &[(String, String)]) -> Vec<u8> {
    let root = typed(sample, Node::mixed(structure(sample)));
    let fields = beside(&root, fields);
    let octets = render(&root, &fields, 0);
    let wanted = match sample.fact(&Variable::Size) {
        Some(Fact::Number(size)) if *size <= SIZE_MAX => *size,
        _ => return octets,
    };
    let missing = |octets: &[u8]| wanted.saturating_sub(octets.len() as u64);
    if missing(&octets) <= BLANKS_MAX {
        return render(&root, &fields, missing(&octets));
    }
    // The lines go before the first part, where readers of MIME do not look (RFC 2046 §5.1.1).
    let root = root.filled(0);
    let fields = beside(&root, &fields);
    let missing = missing(&render(&root, &fields, 0));
    render(&root.filled(missing / FILLER), &fields, missing % FILLER)
}

/// The fields that the structure of the message has no field for itself.
fn beside(root: &Node, fields: &[(String, String)]) -> Vec<(String, String)> {
    let has = |fields: &[(String, String)], name: &str| {
        fields.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    };
    let mut fields = fields.to_vec();
    fields.retain(|(name, _)| !has(&root.fields, name));
    if !root.fields.is_empty() && !has(&fields, "mime-version") {
        fields.push(("MIME-Version".to_owned(), "1.0".to_owned()));
    }
    fields
}

/// `blanks` stand behind the name of the first field, where they mean nothing.
fn render(root: &Node, fields: &[(String, String)], blanks: u64) -> Vec<u8> {
    let mut fields = fields.to_vec();
    if let Some((_, value)) = fields.first_mut() {
        *value = format!("{}{value}", " ".repeat(usize::try_from(blanks).unwrap_or_default()));
    }
    let mut octets = Vec::new();
    root.render(&fields, &mut 0, &mut octets);
    // The last line has an end.
    if !octets.ends_with(b"\r\n\r\n") || !root.is_empty() {
        octets.extend_from_slice(b"\r\n");
    }
    octets
}

/// A text that stands alone may have any media type that is asked for.
fn typed(sample: &Sample, mut root: Node) -> Node {
    let wanted = texts(sample, &Variable::header("content-type"));
    if let Some([wanted]) = wanted
        && root.is_text()
        && printable(wanted, "") == wanted.trim()
        && wanted.len() <= PLAIN_MAX
    {
        root.fields.retain(|(name, _)| name != "Content-Type");
        root.fields.push(("Content-Type".to_owned(), wanted.clone()));
    }
    root
}

/// The parts that the facts ask for.
fn structure(sample: &Sample) -> Vec<Node> {
    let word = |variable: &Variable| text(sample, variable);
    let encoding = word(&Variable::Encoding);
    let encoding = Encoding::ALL.into_iter().find(|one| encoding == Some(one.as_str()));
    let (encrypted, signed) = (word(&Variable::Encrypted), word(&Variable::Signed));
    // An encoding without a word on what it is for: a signature leaves the rest to be read.
    let (encrypted, signed) = match (encoding, encrypted, signed) {
        (Some(_), None | Some("no"), None) => (encrypted, Some("all")),
        (Some(_), None, Some("no")) => (Some("all"), signed),
        _ => (encrypted, signed),
    };
    let encoding = encoding.unwrap_or(Encoding::PgpMime);
    let partly = encrypted == Some("part") || signed == Some("part");
    let body = word(&Variable::Body).unwrap_or(if partly { "in clear" } else { "" });
    let mut clear = vec![Node::text(body)];
    clear.extend(files(sample));
    let sign = |nodes| Node::signed(encoding, nodes);
    let closed = || vec![Node::encrypted(encoding)];
    match (encrypted, signed) {
        (Some("all"), Some("all")) => sign(closed()),
        (Some("all"), _) => closed(),
        (Some("part"), Some("all")) => sign([clear, closed()].concat()),
        (Some("part"), Some("part")) => [sign(closed()), clear].concat(),
        (Some("part"), _) => [clear, closed()].concat(),
        (_, Some("all")) => sign(clear),
        (_, Some("part")) => [sign(vec![Node::text("")]), clear].concat(),
        _ => clear,
    }
}

/// Files with the names and types that are asked for, each of them at least once.
fn files(sample: &Sample) -> Vec<Node> {
    let names = texts(sample, &Variable::AttachmentName).unwrap_or_default();
    let types = texts(sample, &Variable::AttachmentType).unwrap_or_default();
    let types: Vec<&str> =
        types.iter().map(String::as_str).filter(|media| is_media_type(media)).collect();
    let last = types.last().copied().unwrap_or("application/octet-stream");
    let file = |place: usize| {
        let name = names.get(place).map(String::as_str);
        Node::file(name, types.get(place).copied().unwrap_or(last))
    };
    (0..names.len().max(types.len())).map(file).collect()
}

/// RFC 2045 §5.1.
fn is_media_type(text: &str) -> bool {
    let is_token = |text: &str| {
        let is_special = |octet: u8| b"()<>@,;:\\\"/[]?=".contains(&octet);
        !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_graphic() && !is_special(octet))
    };
    text.len() <= PLAIN_MAX
        && text.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub))
}
