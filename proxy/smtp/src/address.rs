//! Domains, mailboxes and the two kinds of path (RFC 5321 §4.1.2, §4.1.3; RFC 6531 §3.3).
//!
//! Invariants: an address is kept as it was written, so that it can be sent on byte for byte; only a
//! source route is dropped (RFC 5321 §4.1.1.3, appendix C). Nothing printed here can hold CR, LF, a
//! control character or an unquoted bracket, so printing a path can never end a command early.
//!
//! More lenient than the grammar in one place, because real addresses are: dots may stand anywhere
//! in an unquoted local part (`first..last@`, `name.@`). The next hop judges; we only carry.
//!
//! Not here: whether an address exists, and whether UTF-8 is allowed (RFC 6531: the parameter
//! SMTPUTF8 says so, see `command` and `server`).

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::limits;

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A path must stand in angle brackets (RFC 5321 §4.1.2).
    #[error("path is not in angle brackets")]
    NotBracketed,
    /// The local part is empty or holds what must be quoted.
    #[error("malformed local part")]
    LocalPart,
    /// There is no `@domain`, and it is not `<postmaster>` as a forward-path.
    #[error("address without a domain")]
    NoDomain,
    /// The domain or address literal is malformed or too long.
    #[error("malformed domain")]
    Domain,
    /// The source route before the mailbox is malformed.
    #[error("malformed source route")]
    SourceRoute,
    /// A null path where a mailbox must stand.
    #[error("null path")]
    Null,
}

/// A domain or address literal as written, brackets included. Compared without regard to ASCII case.
#[derive(Clone, Debug)]
pub struct Domain(Box<str>);

impl Domain {
    /// Parses a whole domain (`example.org`) or address literal (`[192.0.2.1]`, `[IPv6:2001:db8::1]`).
    ///
    /// # Errors
    /// [`AddressError::Domain`] where the text is anything else.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if domain_length(text)? == text.len() && !has_control(text) {
            Ok(Self(text.into()))
        } else {
            Err(AddressError::Domain)
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an address literal and no name.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.0.starts_with('[')
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Domain {}

impl Hash for Domain {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_ignoring_case(&self.0, state);
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `local@domain` as written: quotes kept, no source route. Compared with regard to case in the local
/// part and without in the domain (RFC 5321 §2.4).
#[derive(Clone, Debug)]
pub struct Mailbox {
    text: Box<str>,
    /// Where the `@` stands. Stored, for a quoted local part may hold one as well.
    at: usize,
}

impl Mailbox {
    /// Parses a mailbox without brackets.
    ///
    /// # Errors
    /// An [`AddressError`] that names the part which is wrong.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let at = local_part_length(text)?;
        let domain = match text.as_bytes().get(at) {
            Some(b'@') => &text[at + 1..],
            None if at > 0 => return Err(AddressError::NoDomain),
            _ => return Err(AddressError::LocalPart),
        };
        if at == 0 {
            return Err(AddressError::LocalPart);
        }
        if domain_length(domain)? != domain.len() {
            return Err(AddressError::Domain);
        }
        if has_control(text) {
            return Err(AddressError::LocalPart);
        }
        Ok(Self { text: text.into(), at })
    }

    /// The whole mailbox as written, without brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`, quotes included.
    #[must_use]
    pub fn local_part(&self) -> &str {
        &self.text[..self.at]
    }

    /// What stands after the `@`, brackets of an address literal included.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// Whether it can be sent without SMTPUTF8 (RFC 6531).
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

impl PartialEq for Mailbox {
    fn eq(&self, other: &Self) -> bool {
        self.local_part() == other.local_part()
            && self.domain().eq_ignore_ascii_case(other.domain())
    }
}

impl Eq for Mailbox {}

impl Hash for Mailbox {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.local_part().hash(state);
        hash_ignoring_case(self.domain(), state);
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What MAIL carries: whom to tell of a failure, or nobody (RFC 5321 §4.5.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: a report, about which no report may be made.
    Null,
    /// An address for reports.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Parses a path with its brackets: `<>`, `<a@b>`, `<@relay:a@b>`.
    ///
    /// # Errors
    /// An [`AddressError`] that names the part which is wrong.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        match bracketed(text)? {
            "" => Ok(Self::Null),
            inner => Ok(Self::Mailbox(Mailbox::parse(without_source_route(inner)?)?)),
        }
    }

    /// The address without brackets; empty for the null reverse-path.
    #[must_use]
    pub fn address(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Mailbox(mailbox) => mailbox.as_str(),
        }
    }

    /// Whether it is `<>`.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it can be sent without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.address().is_ascii()
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.address())
    }
}

/// What RCPT carries: where the message is to go.
#[derive(Clone, Debug)]
pub enum ForwardPath {
    /// `<postmaster>` without a domain, in the case in which it was written (RFC 5321 §4.1.1.3).
    Postmaster(Box<str>),
    /// Any other recipient.
    Mailbox(Mailbox),
}

impl ForwardPath {
    /// Parses a path with its brackets: `<a@b>`, `<@relay:a@b>`, `<postmaster>`.
    ///
    /// # Errors
    /// An [`AddressError`] that names the part which is wrong.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let inner = bracketed(text)?;
        if inner.is_empty() {
            return Err(AddressError::Null);
        }
        if inner.eq_ignore_ascii_case("postmaster") {
            return Ok(Self::Postmaster(inner.into()));
        }
        Ok(Self::Mailbox(Mailbox::parse(without_source_route(inner)?)?))
    }

    /// The address without brackets, as written.
    #[must_use]
    pub fn address(&self) -> &str {
        match self {
            Self::Postmaster(text) => text,
            Self::Mailbox(mailbox) => mailbox.as_str(),
        }
    }

    /// The domain; none for `<postmaster>`.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        match self {
            Self::Postmaster(_) => None,
            Self::Mailbox(mailbox) => Some(mailbox.domain()),
        }
    }

    /// Whether it can be sent without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.address().is_ascii()
    }
}

impl PartialEq for ForwardPath {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Postmaster(_), Self::Postmaster(_)) => true,
            (Self::Mailbox(a), Self::Mailbox(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for ForwardPath {}

impl Hash for ForwardPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Postmaster(_) => state.write_u8(0),
            Self::Mailbox(mailbox) => mailbox.hash(state),
        }
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.address())
    }
}

/// Splits `text` behind the bracket that closes the path at its start; a bracket in a quoted local
/// part or in an address literal closes nothing. `None` where no path stands at the start.
pub(crate) fn split_path(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'<') {
        return None;
    }
    let mut quoted = false;
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            // All delimiters are ASCII, hence this is a character boundary.
            b'>' if !quoted => return Some(text.split_at(at + 1)),
            _ => {}
        }
        at += 1;
    }
    None
}

/// What stands between the brackets of a path that is the whole text.
fn bracketed(text: &str) -> Result<&str, AddressError> {
    match split_path(text) {
        Some((path, "")) => Ok(&path[1..path.len() - 1]),
        _ => Err(AddressError::NotBracketed),
    }
}

/// Drops `@a,@b:` before a mailbox: servers must accept a source route and should ignore it (RFC 5321
/// §4.1.1.3, appendix C).
fn without_source_route(text: &str) -> Result<&str, AddressError> {
    let mut rest = text;
    if !rest.starts_with('@') {
        return Ok(rest);
    }
    loop {
        rest = rest.strip_prefix('@').ok_or(AddressError::SourceRoute)?;
        let length = domain_length(rest).map_err(|_| AddressError::SourceRoute)?;
        rest = &rest[length..];
        if let Some(mailbox) = rest.strip_prefix(':') {
            return Ok(mailbox);
        }
        rest = rest.strip_prefix(',').ok_or(AddressError::SourceRoute)?;
    }
}

/// Length of the local part at the start of `text`.
fn local_part_length(text: &str) -> Result<usize, AddressError> {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'"') {
        let other = |&byte: &u8| !(is_atext(byte) || byte == b'.');
        return Ok(bytes.iter().position(other).unwrap_or(bytes.len()));
    }
    let mut at = 1;
    loop {
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'"'), _) => return Ok(at + 1),
            // quoted-pairSMTP: any printable ASCII.
            (Some(b'\\'), Some(b' '..=b'~')) => at += 2,
            (Some(b'\\'), _) => return Err(AddressError::LocalPart),
            (Some(b' '..=b'~' | 0x80..), _) => at += 1,
            _ => return Err(AddressError::LocalPart),
        }
    }
}

/// Length of the domain or address literal at the start of `text`.
fn domain_length(text: &str) -> Result<usize, AddressError> {
    let bytes = text.as_bytes();
    let length = if bytes.first() == Some(&b'[') {
        let close = bytes.iter().position(|&byte| byte == b']').ok_or(AddressError::Domain)?;
        if !is_literal_content(&text[1..close]) {
            return Err(AddressError::Domain);
        }
        close + 1
    } else {
        let other = |&byte: &u8| !is_domain_byte(byte);
        let length = bytes.iter().position(other).unwrap_or(bytes.len());
        if bytes[..length].split(|&byte| byte == b'.').any(<[u8]>::is_empty) {
            return Err(AddressError::Domain);
        }
        length
    };
    if length > limits::DOMAIN {
        return Err(AddressError::Domain);
    }
    Ok(length)
}

/// RFC 5321 §4.1.3: IPv4, `IPv6:` and address, or another tag and printable content.
fn is_literal_content(text: &str) -> bool {
    match text.split_once(':') {
        None => {
            let number = |part: &str| {
                (1..=3).contains(&part.len())
                    && part.bytes().all(|byte| byte.is_ascii_digit())
                    && part.parse::<u8>().is_ok()
            };
            text.split('.').count() == 4 && text.split('.').all(number)
        }
        Some((tag, content)) if tag.eq_ignore_ascii_case("IPv6") => {
            content.parse::<std::net::Ipv6Addr>().is_ok()
        }
        Some((tag, content)) => {
            !tag.is_empty()
                && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !content.is_empty()
                && content.bytes().all(|byte| matches!(byte, b'!'..=b'Z' | b'^'..=b'~'))
                // Would be read as the end of the path by whoever does not know literals.
                && !content.contains(['<', '>', '"', '\\'])
        }
    }
}

/// RFC 5322 §3.2.3, with the UTF-8 of RFC 6531 §3.3.
const fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || byte >= 0x80
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'/' | b'=' | b'?')
        || matches!(byte, b'^'..=b'`' | b'{'..=b'~')
}

/// Letters, digits, hyphen and dot; the underscore, which real host names have; UTF-8 (RFC 6531).
const fn is_domain_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'-' | b'.' | b'_')
}

/// U+0080 to U+009F, which the grammar allows and some terminals obey.
fn has_control(text: &str) -> bool {
    !text.is_ascii() && text.chars().any(char::is_control)
}

/// The hash that belongs to `eq_ignore_ascii_case`.
fn hash_ignoring_case<H: Hasher>(text: &str, state: &mut H) {
    for byte in text.bytes() {
        state.write_u8(byte.to_ascii_lowercase());
    }
    state.write_u8(0xff);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forward(text: &str) -> String {
        ForwardPath::parse(text).map_or_else(|error| format!("{error:?}"), |path| path.to_string())
    }

    fn reverse(text: &str) -> String {
        ReversePath::parse(text).map_or_else(|error| format!("{error:?}"), |path| path.to_string())
    }

    #[test]
    fn paths_are_printed_as_they_were_written() {
        for path in [
            "<a@b>",
            "<A.b+c=d@Example.ORG>",
            "<\"john doe\"@example.org>",
            "<\"a\\\"b>c@d\"@example.org>",
            "<\"\"@example.org>",
            "<a@[192.0.2.1]>",
            "<a@[IPv6:2001:db8::1]>",
            "<a@[ipv6:::ffff:192.0.2.1]>",
            "<a@[tag:content]>",
            "<first..last.@example.org>",
            "<under_score@host_name.example>",
            "<m\u{fc}ller@b\u{fc}cher.example>",
        ] {
            assert_eq!(forward(path), path);
            assert_eq!(reverse(path), path);
        }
    }

    #[test]
    fn the_null_path_is_a_reverse_path_only() {
        assert_eq!(ReversePath::parse("<>").unwrap(), ReversePath::Null);
        assert_eq!(ReversePath::Null.to_string(), "<>");
        assert_eq!(ReversePath::Null.address(), "");
        assert_eq!(forward("<>"), "Null");
    }

    #[test]
    fn postmaster_needs_no_domain_as_recipient_only() {
        assert_eq!(forward("<Postmaster>"), "<Postmaster>");
        assert_eq!(ForwardPath::parse("<POSTMASTER>"), ForwardPath::parse("<postmaster>"));
        assert_ne!(ForwardPath::parse("<postmaster@a>"), ForwardPath::parse("<postmaster>"));
        assert_eq!(reverse("<postmaster>"), "NoDomain");
        assert_eq!(forward("<root>"), "NoDomain");
    }

    #[test]
    fn source_routes_are_dropped() {
        assert_eq!(forward("<@a.example,@b.example:user@c.example>"), "<user@c.example>");
        assert_eq!(forward("<@[IPv6:2001:db8::1]:user@c>"), "<user@c>");
        assert_eq!(reverse("<@a:\"x:y\"@b>"), "<\"x:y\"@b>");
        for bad in ["<@a,b:u@c>", "<@a u@c>", "<@a>", "<@:u@c>", "<@a,:u@c>"] {
            assert_eq!(forward(bad), "SourceRoute", "{bad}");
        }
        assert_eq!(forward("<@a:>"), "LocalPart");
    }

    #[test]
    fn malformed_paths_are_refused_with_the_part_that_is_wrong() {
        for (bad, why) in [
            ("a@b", "NotBracketed"),
            ("<a@b", "NotBracketed"),
            ("<a@b>x", "NotBracketed"),
            ("<a@b> ", "NotBracketed"),
            ("<\"a@b>", "NotBracketed"),
            ("<a@b>>", "NotBracketed"),
            ("", "NotBracketed"),
            ("<@b>", "SourceRoute"),
            ("<a@>", "Domain"),
            ("<a@b.>", "Domain"),
            ("<a@.b>", "Domain"),
            ("<a@b..c>", "Domain"),
            ("<a@b@c>", "Domain"),
            ("<a@b c>", "Domain"),
            ("<a@[192.0.2.256]>", "Domain"),
            ("<a@[192.0.2]>", "Domain"),
            ("<a@[192.0.2.1>", "Domain"),
            ("<a@[IPv6:192.0.2.1]>", "Domain"),
            ("<a@[]>", "Domain"),
            ("<a@[192.0.2.1]x>", "Domain"),
            ("<a b@c>", "LocalPart"),
            ("<a<b@c>", "LocalPart"),
            ("<\"a\"b@c>", "LocalPart"),
            ("<a\u{1}@c>", "LocalPart"),
            ("<\"a\u{1}\"@c>", "LocalPart"),
            ("<a\u{9b}@c>", "LocalPart"),
        ] {
            assert_eq!(forward(bad), why, "{bad}");
        }
    }

    #[test]
    fn the_domain_knows_no_case_and_the_local_part_does() {
        let parse = |text| Mailbox::parse(text).unwrap();
        assert_eq!(parse("a@B.example"), parse("a@b.EXAMPLE"));
        assert_ne!(parse("A@b"), parse("a@b"));
        assert_eq!(Domain::parse("A.b").unwrap(), Domain::parse("a.B").unwrap());
        assert_eq!(parse("\"a@b\"@c").domain(), "c");
        assert_eq!(parse("\"a@b\"@c").local_part(), "\"a@b\"");
    }

    #[test]
    fn a_domain_of_255_octets_is_taken_and_a_longer_one_is_not() {
        let domain = |length: usize| "a".repeat(length);
        assert!(Domain::parse(&domain(255)).is_ok());
        assert_eq!(Domain::parse(&domain(256)), Err(AddressError::Domain));
        // Longer than the 64 octets of RFC 5321 §4.5.3.1.1, as bounce addresses often are.
        assert!(Mailbox::parse(&format!("{}@b", "a".repeat(200))).is_ok());
    }

    proptest! {
        #[test]
        fn parsing_is_total_and_prints_what_it_read(text in r#"<?[ -~é\u{1}]{0,24}>?"#) {
            if let Ok(path) = ReversePath::parse(&text) {
                let printed = path.to_string();
                prop_assert_eq!(ReversePath::parse(&printed), Ok(path));
                if !text.starts_with("<@") {
                    prop_assert_eq!(printed, text.clone());
                }
            }
            if let Ok(path) = ForwardPath::parse(&text) {
                prop_assert_eq!(ForwardPath::parse(&path.to_string()), Ok(path));
            }
        }

        #[test]
        fn any_text_of_address_characters_is_judged_without_panic(
            text in r#"[<>@,:"\\.\[\] ab0é]{0,16}"#,
        ) {
            let printed = ForwardPath::parse(&text).map(|path| path.to_string());
            prop_assert!(printed.is_err() || text.starts_with('<'));
            prop_assert!(Mailbox::parse(&text).is_err() || text.contains('@'));
        }
    }
}
