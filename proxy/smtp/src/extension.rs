//! EHLO keywords as a set (RFC 5321 §2.2, §4.1.1.1), and what we may offer given what the next hops
//! offer.
//!
//! Invariants: STARTTLS and PIPELINING are hop by hop, ours alone; everything else is offered only
//! if every member of the gate offers it, since a message taken in now may go to any of them later.
//! Never offered, because a hold cannot keep their promises: CHUNKING and BINARYMIME (BDAT only adds
//! ways to smuggle), DELIVERBY, FUTURERELEASE, MT-PRIORITY, REQUIRETLS; AUTH, because clients are
//! allowed by address; XFORWARD, because a client could then forge where mail came from.

use std::fmt::Write as _;

use crate::reply::Reply;

/// Octets that our `Received:` field may add to a message; kept off the SIZE we offer.
pub const TRACE_ALLOWANCE: u64 = 4096;

/// An extension that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extension {
    /// RFC 2920.
    Pipelining,
    /// RFC 1870.
    Size,
    /// RFC 6152.
    EightBitMime,
    /// RFC 6531.
    SmtpUtf8,
    /// RFC 3461.
    Dsn,
    /// RFC 2034.
    EnhancedStatusCodes,
    /// RFC 3207.
    StartTls,
    /// Postfix `XFORWARD_README`.
    XForward,
}

impl Extension {
    /// All of them, in the order in which they are printed.
    pub const ALL: [Self; 8] = [
        Self::Pipelining,
        Self::Size,
        Self::StartTls,
        Self::EnhancedStatusCodes,
        Self::EightBitMime,
        Self::Dsn,
        Self::SmtpUtf8,
        Self::XForward,
    ];

    /// The EHLO keyword.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::Size => "SIZE",
            Self::EightBitMime => "8BITMIME",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::Dsn => "DSN",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Self::StartTls => "STARTTLS",
            Self::XForward => "XFORWARD",
        }
    }

    /// The extension of that keyword, in any case.
    #[must_use]
    pub fn from_keyword(keyword: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|extension| extension.keyword().eq_ignore_ascii_case(keyword))
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// An attribute of XFORWARD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XforwardAttribute {
    /// Host name of the client.
    Name,
    /// Its address.
    Addr,
    /// Its port.
    Port,
    /// How it spoke to us.
    Proto,
    /// What it called itself.
    Helo,
    /// Our id of the transaction.
    Ident,
    /// Local or remote.
    Source,
}

impl XforwardAttribute {
    /// All of them, in the order in which they are sent.
    pub const ALL: [Self; 7] =
        [Self::Name, Self::Addr, Self::Port, Self::Proto, Self::Helo, Self::Ident, Self::Source];

    /// Its name on the wire.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Addr => "ADDR",
            Self::Port => "PORT",
            Self::Proto => "PROTO",
            Self::Helo => "HELO",
            Self::Ident => "IDENT",
            Self::Source => "SOURCE",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The attributes a next hop takes with XFORWARD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct XforwardAttributes(u8);

impl XforwardAttributes {
    /// Reads attribute names; unknown ones are ignored.
    fn from_names<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut all = Self::default();
        for name in names {
            let known = XforwardAttribute::ALL
                .into_iter()
                .find(|attribute| attribute.keyword().eq_ignore_ascii_case(name));
            if let Some(attribute) = known {
                all.insert(attribute);
            }
        }
        all
    }

    /// Whether it takes that one.
    #[must_use]
    pub const fn contains(self, attribute: XforwardAttribute) -> bool {
        self.0 & attribute.bit() != 0
    }

    /// Adds one.
    pub const fn insert(&mut self, attribute: XforwardAttribute) {
        self.0 |= attribute.bit();
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those it takes, in order.
    pub fn iter(self) -> impl Iterator<Item = XforwardAttribute> {
        XforwardAttribute::ALL.into_iter().filter(move |&attribute| self.contains(attribute))
    }
}

/// A set of extensions with what SIZE and XFORWARD say beside their keyword.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extensions {
    bits: u16,
    /// Only with [`Extension::Size`]; `None` where no limit is stated (RFC 1870 §3: absent or zero).
    size: Option<u64>,
    /// Only with [`Extension::XForward`].
    xforward: XforwardAttributes,
}

impl Extensions {
    /// The empty set: what a server that answers only HELO offers.
    #[must_use]
    pub const fn none() -> Self {
        Self { bits: 0, size: None, xforward: XforwardAttributes(0) }
    }

    /// Reads the reply to EHLO: its first line is the greeting, each other a keyword with parameters
    /// (RFC 5321 §4.1.1.1). Unknown keywords are ignored; a negative reply offers nothing.
    #[must_use]
    pub fn from_ehlo(reply: &Reply) -> Self {
        let mut all = Self::none();
        if reply.is_positive() {
            for line in reply.lines().skip(1) {
                let mut words = line
                    .split(|&byte| byte == b' ')
                    .filter_map(|word| std::str::from_utf8(word).ok())
                    .filter(|word| !word.is_empty());
                if let Some(keyword) = words.next() {
                    all.read(keyword, words);
                }
            }
        }
        all
    }

    /// Takes in one keyword with its parameters.
    fn read<'a>(&mut self, keyword: &str, mut parameters: impl Iterator<Item = &'a str>) {
        match Extension::from_keyword(keyword) {
            Some(Extension::Size) => {
                self.insert(Extension::Size);
                let stated = parameters.next().and_then(crate::envelope::parse_size);
                self.size = stated.filter(|&limit| limit > 0);
            }
            Some(Extension::XForward) => {
                self.xforward = XforwardAttributes::from_names(parameters);
                // Without an attribute there is nothing one could send.
                if !self.xforward.is_empty() {
                    self.insert(Extension::XForward);
                }
            }
            Some(extension) => self.insert(extension),
            None => {}
        }
    }

    /// Whether it is in the set.
    #[must_use]
    pub const fn contains(&self, extension: Extension) -> bool {
        self.bits & extension.bit() != 0
    }

    /// Adds one. SIZE without a limit; see [`Extensions::set_size`].
    pub const fn insert(&mut self, extension: Extension) {
        self.bits |= extension.bit();
    }

    /// Takes one out, with what it said.
    pub const fn remove(&mut self, extension: Extension) {
        self.bits &= !extension.bit();
        match extension {
            Extension::Size => self.size = None,
            Extension::XForward => self.xforward = XforwardAttributes(0),
            _ => {}
        }
    }

    /// The stated limit of SIZE, in octets; `None` where SIZE is absent or states none.
    #[must_use]
    pub const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Adds SIZE with that limit; zero states none (RFC 1870 §3).
    pub const fn set_size(&mut self, limit: u64) {
        self.insert(Extension::Size);
        self.size = if limit == 0 { None } else { Some(limit) };
    }

    /// The attributes of XFORWARD; none where it is not offered.
    #[must_use]
    pub const fn xforward(&self) -> XforwardAttributes {
        self.xforward
    }

    /// Adds XFORWARD with those attributes, or takes it out where there are none.
    pub const fn set_xforward(&mut self, attributes: XforwardAttributes) {
        self.xforward = attributes;
        if attributes.is_empty() {
            self.remove(Extension::XForward);
        } else {
            self.insert(Extension::XForward);
        }
    }

    /// What both offer; SIZE with the smaller of the limits that are stated.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { bits: self.bits & other.bits, ..Self::none() };
        if both.contains(Extension::Size) {
            both.size = [self.size, other.size].into_iter().flatten().min();
        }
        both.set_xforward(XforwardAttributes(self.xforward.0 & other.xforward.0));
        both
    }

    /// What we offer to a client whose mail may go to any of `members`, each as last seen: the
    /// intersection, where a member that was never seen (`None`) offers nothing. SIZE is the smallest
    /// of the members' limits and ours, less [`TRACE_ALLOWANCE`]. PIPELINING is always ours to offer,
    /// STARTTLS as told, XFORWARD never.
    #[must_use]
    pub fn offer(members: &[Option<Self>], size_limit: u64, starttls: bool) -> Self {
        let known = members.iter().copied().map(Option::unwrap_or_default);
        let mut offer = known.reduce(|all, member| all.intersection(&member)).unwrap_or_default();
        if offer.contains(Extension::Size) {
            let limit = offer.size.map_or(size_limit, |limit| limit.min(size_limit));
            // Never zero, which would say that there is no limit.
            offer.set_size(limit.saturating_sub(TRACE_ALLOWANCE).max(1));
        }
        offer.remove(Extension::XForward);
        offer.insert(Extension::Pipelining);
        if starttls {
            offer.insert(Extension::StartTls);
        } else {
            offer.remove(Extension::StartTls);
        }
        offer
    }

    /// The reply to EHLO that offers this set.
    #[must_use]
    pub fn ehlo_reply(&self, hostname: &str) -> Reply {
        let mut text = String::from(hostname);
        for extension in Extension::ALL {
            if self.contains(extension) {
                text.push('\n');
                text.push_str(extension.keyword());
                self.write_parameters(extension, ' ', ' ', &mut text);
            }
        }
        Reply::new(250, text)
    }

    /// A stable text for keeping on disk: `PIPELINING SIZE=1000 DSN XFORWARD=NAME,ADDR`. Empty for
    /// the empty set.
    #[must_use]
    pub fn to_words(&self) -> String {
        let mut text = String::new();
        for extension in Extension::ALL {
            if self.contains(extension) {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(extension.keyword());
                self.write_parameters(extension, '=', ',', &mut text);
            }
        }
        text
    }

    /// Reads what [`Extensions::to_words`] wrote; unknown words are ignored, as a later version may
    /// have written them.
    #[must_use]
    pub fn from_words(text: &str) -> Self {
        let mut all = Self::none();
        for word in text.split_ascii_whitespace() {
            let (keyword, parameters) = word.split_once('=').unwrap_or((word, ""));
            all.read(keyword, parameters.split(',').filter(|parameter| !parameter.is_empty()));
        }
        all
    }

    /// Appends what stands behind the keyword.
    fn write_parameters(&self, extension: Extension, first: char, next: char, out: &mut String) {
        match (extension, self.size) {
            (Extension::Size, Some(limit)) => {
                // Writing to a String cannot fail.
                write!(out, "{first}{limit}").unwrap_or_default();
            }
            (Extension::XForward, _) => {
                for (index, attribute) in self.xforward.iter().enumerate() {
                    out.push(if index == 0 { first } else { next });
                    out.push_str(attribute.keyword());
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::reply::parse_reply;
    use proptest::prelude::*;

    fn ehlo(lines: &[&str]) -> Extensions {
        Extensions::from_ehlo(&Reply::new(250, format!("mx.example\n{}", lines.join("\n"))))
    }

    #[test]
    fn the_reply_of_postfix_is_understood() {
        let all = ehlo(&[
            "PIPELINING",
            "SIZE 10240000",
            "VRFY",
            "ETRN",
            "STARTTLS",
            "ENHANCEDSTATUSCODES",
            "8BITMIME",
            "DSN",
            "SMTPUTF8",
            "CHUNKING",
            "XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT",
        ]);
        assert!(Extension::ALL.iter().all(|&extension| all.contains(extension)));
        assert_eq!(all.size(), Some(10_240_000));
        assert_eq!(all.xforward().iter().count(), 7);
    }

    #[test]
    fn keywords_know_no_case_and_unknown_ones_are_ignored() {
        let all = ehlo(&[
            "pipelining",
            "Size  5",
            "AUTH=LOGIN",
            "X-STRANGE 1 2",
            "xforward name FOO",
            "",
        ]);
        assert_eq!(all.to_words(), "PIPELINING SIZE=5 XFORWARD=NAME");
    }

    #[test]
    fn the_first_line_of_ehlo_offers_nothing() {
        assert_eq!(Extensions::from_ehlo(&Reply::new(250, "PIPELINING")), Extensions::none());
        assert_eq!(Extensions::from_ehlo(&Reply::new(550, "x\nPIPELINING")), Extensions::none());
    }

    #[test]
    fn a_size_of_zero_or_without_number_states_no_limit() {
        for line in ["SIZE", "SIZE 0", "SIZE many"] {
            let all = ehlo(&[line]);
            assert!(all.contains(Extension::Size), "{line}");
            assert_eq!(all.size(), None, "{line}");
        }
    }

    #[test]
    fn both_must_offer_and_the_smaller_size_counts() {
        let a = Extensions::from_words("PIPELINING SIZE=10 DSN XFORWARD=NAME,ADDR");
        let b = Extensions::from_words("SIZE=20 DSN 8BITMIME XFORWARD=ADDR,HELO");
        assert_eq!(a.intersection(&b).to_words(), "SIZE=10 DSN XFORWARD=ADDR");
        let unlimited = Extensions::from_words("SIZE");
        assert_eq!(a.intersection(&unlimited).to_words(), "SIZE=10");
        assert_eq!(unlimited.intersection(&unlimited).to_words(), "SIZE");
        assert_eq!(a.intersection(&Extensions::none()), Extensions::none());
    }

    #[test]
    fn we_offer_what_every_member_offers_and_pipelining() {
        let a = Some(Extensions::from_words("SIZE=20000 DSN SMTPUTF8 8BITMIME STARTTLS"));
        let b = Some(Extensions::from_words("SIZE=30000 DSN 8BITMIME XFORWARD=NAME PIPELINING"));
        let offer = |members: &[_], limit, tls| Extensions::offer(members, limit, tls).to_words();
        assert_eq!(offer(&[a, b], 50_000, false), "PIPELINING SIZE=15904 8BITMIME DSN");
        assert_eq!(offer(&[a, b], 10_000, false), "PIPELINING SIZE=5904 8BITMIME DSN");
        assert_eq!(offer(&[b], 50_000, true), "PIPELINING SIZE=25904 STARTTLS 8BITMIME DSN");
        assert_eq!(offer(&[a, b, None], 50_000, false), "PIPELINING", "a member never seen");
        assert_eq!(offer(&[], 50_000, true), "PIPELINING STARTTLS", "no member at all");
    }

    #[test]
    fn a_limit_below_our_allowance_is_not_offered_as_no_limit() {
        let tiny = Some(Extensions::from_words("SIZE=100"));
        assert_eq!(Extensions::offer(&[tiny], 50_000, false).size(), Some(1));
        let unlimited = Some(Extensions::from_words("SIZE"));
        assert_eq!(Extensions::offer(&[unlimited], 50_000, false).size(), Some(45_904));
    }

    #[test]
    fn what_is_offered_is_understood_by_a_client() {
        let all = Extensions::from_words("PIPELINING SIZE=9 STARTTLS DSN XFORWARD=NAME,IDENT");
        let mut wire = Vec::new();
        all.ehlo_reply("gate.example").encode(&mut wire);
        let text = "250-gate.example\r\n250-PIPELINING\r\n250-SIZE 9\r\n250-STARTTLS\r\n250-DSN\r\n\
                    250 XFORWARD NAME IDENT\r\n";
        assert_eq!(String::from_utf8(wire.clone()).unwrap(), text);
        let (reply, _) = parse_reply(&wire, &Default::default()).unwrap().unwrap();
        assert_eq!(Extensions::from_ehlo(&reply), all);
    }

    fn any_extensions() -> impl Strategy<Value = Extensions> {
        (0_u16..256, any::<u64>(), 0_u8..128).prop_map(|(bits, size, attributes)| {
            let mut all = Extensions { bits, ..Extensions::none() };
            if all.contains(Extension::Size) {
                all.set_size(size);
            }
            if all.contains(Extension::XForward) {
                all.set_xforward(XforwardAttributes(attributes));
            }
            all
        })
    }

    proptest! {
        #[test]
        fn a_set_survives_words_and_wire(all in any_extensions()) {
            prop_assert_eq!(Extensions::from_words(&all.to_words()), all);
            prop_assert_eq!(Extensions::from_ehlo(&all.ehlo_reply("a.example")), all);
        }

        #[test]
        fn reading_any_text_does_not_panic(text: String) {
            let all = Extensions::from_words(&text);
            prop_assert_eq!(Extensions::from_words(&all.to_words()), all);
        }

        #[test]
        fn an_offer_never_exceeds_a_member(
            a in any_extensions(), b in any_extensions(), limit in 5000_u64..,
        ) {
            let offer = Extensions::offer(&[Some(a), Some(b)], limit, false);
            for member in [a, b] {
                for extension in Extension::ALL {
                    let ours = extension == Extension::Pipelining;
                    prop_assert!(ours || !offer.contains(extension) || member.contains(extension));
                }
                if let (Some(offered), Some(taken)) = (offer.size(), member.size()) {
                    prop_assert!(offered + TRACE_ALLOWANCE <= taken.max(TRACE_ALLOWANCE + 1));
                }
            }
        }
    }
}
