//! The facts of one message, for one recipient, that rules may look at.
//!
//! A fact that is not there is not known: what depends on it is then not decided, never guessed. A
//! fact that is known to be absent is an empty text or an empty list.
//!
//! Not here: which facts a message has (`message`), what is asked of them (`condition`).

use std::collections::BTreeMap;
use std::fmt;

/// What a rule may look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variable {
    /// `inbound` or `outbound`; the server tells it by the proxy's source address.
    Direction,
    /// `ok`, or `failed` where the message cannot be processed (not RFC compliant, bad UTF-8).
    Processing,
    /// The forward-path, without brackets.
    Recipient,
    /// The reverse-path, without brackets; empty for the null reverse-path.
    Sender,
    /// Groups and policies of the recipient.
    RecipientGroup,
    /// Groups and policies of the sender.
    SenderGroup,
    /// `CKM`, `GKM`, `SKM`, `SCKM` or `none`.
    RecipientKeyMode,
    /// The same of the sender.
    SenderKeyMode,
    /// Where a suitable key of the recipient is found.
    RecipientKey,
    /// `no`, `part` or `all`: what of the message came signed.
    Signed,
    /// `no`, `part` or `all`: what of the message came encrypted.
    Encrypted,
    /// `none`, `PGP Partitioned`, `PGP/MIME` or `S/MIME`: how it came.
    Encoding,
    /// Keys that it came encrypted to.
    EncryptedTo,
    /// The Subject field, decoded; empty where there is none.
    Subject,
    /// Fields of this name, decoded, each a text.
    Header(String),
    /// The text of the message.
    Body,
    /// File names of attachments.
    AttachmentName,
    /// Media types of attachments.
    AttachmentType,
    /// Octets.
    Size,
    /// `low`, `normal` or `high`.
    Priority,
    /// `normal`, `personal`, `private` or `confidential`.
    Sensitivity,
    /// `yes` where it comes from a mailing list (RFC 2919), else `no`.
    MailingList,
    /// `server` for mail that passes the server.
    Application,
    /// `SMTP`, `POP`, `IMAP`, `MAPI` or `Notes`.
    Service,
    /// The name that the client signed in with; empty where it did not.
    AuthenticatedUser,
    /// Where the server was connected to.
    ConnectorPort,
    /// The client's address.
    ClientAddress,
}

/// What values a variable has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One of these words.
    Word(&'static [&'static str]),
    /// An address; empty where `true`.
    Address {
        /// The null reverse-path is one too.
        nullable: bool,
    },
    /// One text.
    Text,
    /// Any number of texts.
    Texts,
    /// A number.
    Number,
}

const KEY_MODES: Shape = Shape::Word(&["none", "CKM", "GKM", "SKM", "SCKM"]);
const PARTS: Shape = Shape::Word(&["no", "part", "all"]);

impl Variable {
    /// Those without an argument, by the names that conditions use.
    const NAMED: [(&'static str, Self); 26] = [
        ("direction", Self::Direction),
        ("processing", Self::Processing),
        ("recipient address", Self::Recipient),
        ("sender address", Self::Sender),
        ("recipient group", Self::RecipientGroup),
        ("sender group", Self::SenderGroup),
        ("recipient key mode", Self::RecipientKeyMode),
        ("sender key mode", Self::SenderKeyMode),
        ("recipient key", Self::RecipientKey),
        ("message signed", Self::Signed),
        ("message encrypted", Self::Encrypted),
        ("message encoding", Self::Encoding),
        ("encrypted to key", Self::EncryptedTo),
        ("message subject", Self::Subject),
        ("message body", Self::Body),
        ("attachment name", Self::AttachmentName),
        ("attachment type", Self::AttachmentType),
        ("message size", Self::Size),
        ("message priority", Self::Priority),
        ("message sensitivity", Self::Sensitivity),
        ("mailing list", Self::MailingList),
        ("application", Self::Application),
        ("service type", Self::Service),
        ("authenticated user", Self::AuthenticatedUser),
        ("connector port", Self::ConnectorPort),
        ("client address", Self::ClientAddress),
    ];

    /// The name of the variable with an argument.
    const HEADER: &'static str = "message header";

    /// The variable of this name.
    #[must_use]
    pub fn parse(name: &str, argument: Option<&str>) -> Option<Self> {
        if name == Self::HEADER {
            return argument.map(Self::header);
        }
        let named = Self::NAMED.iter().find(|(known, _)| *known == name && argument.is_none());
        named.map(|(_, variable)| variable.clone())
    }

    /// Fields of this name. The Subject field is one text, since a message has at most one
    /// (RFC 5322 §3.6).
    #[must_use]
    pub fn header(name: &str) -> Self {
        match name.to_ascii_lowercase() {
            name if name == "subject" => Self::Subject,
            name => Self::Header(name),
        }
    }

    /// Every name, for an error that lists them.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        Self::NAMED.iter().map(|(name, _)| *name).chain([Self::HEADER]).collect()
    }

    /// What values it has.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        match self {
            Self::Direction => Shape::Word(&["outbound", "inbound"]),
            Self::Processing => Shape::Word(&["ok", "failed"]),
            Self::Recipient => Shape::Address { nullable: false },
            Self::Sender => Shape::Address { nullable: true },
            Self::RecipientKeyMode | Self::SenderKeyMode => KEY_MODES,
            Self::Signed | Self::Encrypted => PARTS,
            Self::Encoding => Shape::Word(&["none", "PGP/MIME", "PGP Partitioned", "S/MIME"]),
            Self::Priority => Shape::Word(&["normal", "low", "high"]),
            Self::Sensitivity => Shape::Word(&["normal", "personal", "private", "confidential"]),
            Self::MailingList => Shape::Word(&["no", "yes"]),
            Self::Application => Shape::Word(&["server"]),
            Self::Service => Shape::Word(&["SMTP", "POP", "IMAP", "MAPI", "Notes"]),
            Self::Subject | Self::Body | Self::AuthenticatedUser | Self::ClientAddress => {
                Shape::Text
            }
            Self::RecipientGroup
            | Self::SenderGroup
            | Self::RecipientKey
            | Self::EncryptedTo
            | Self::Header(_)
            | Self::AttachmentName
            | Self::AttachmentType => Shape::Texts,
            Self::Size | Self::ConnectorPort => Shape::Number,
        }
    }

    /// Is it seen in the message or its envelope, or does only the server know it?
    #[must_use]
    pub const fn is_in_message(&self) -> bool {
        matches!(
            self,
            Self::Recipient
                | Self::Sender
                | Self::Signed
                | Self::Encrypted
                | Self::Encoding
                | Self::Subject
                | Self::Header(_)
                | Self::Body
                | Self::AttachmentName
                | Self::AttachmentType
                | Self::Size
                | Self::Priority
                | Self::Sensitivity
                | Self::MailingList
        )
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Header(name) = self {
            return write!(f, "{}: {name}", Self::HEADER);
        }
        let name = Self::NAMED.iter().find(|(_, variable)| variable == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// A fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// One text or word.
    Text(String),
    /// Any number of texts.
    Texts(Vec<String>),
    /// A number.
    Number(u64),
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Texts(texts) => f.debug_list().entries(texts).finish(),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// What is known of one message for one recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    facts: BTreeMap<Variable, Fact>,
    /// Every field of the message is known: one that is not there is absent.
    all_headers: bool,
}

impl Sample {
    /// A message of which nothing is known.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// The same with this fact.
    #[must_use]
    pub fn with(mut self, variable: Variable, fact: Fact) -> Self {
        self.set(variable, fact);
        self
    }

    /// The same with this text.
    #[must_use]
    pub fn with_text(self, variable: Variable, text: &str) -> Self {
        self.with(variable, Fact::Text(text.to_owned()))
    }

    /// The same, and fields that are not there are known to be absent.
    #[must_use]
    pub fn with_all_headers(mut self) -> Self {
        self.all_headers = true;
        self
    }

    /// The same without what is known of this.
    #[must_use]
    pub fn without(&self, variable: &Variable) -> Self {
        let mut less = self.clone();
        less.facts.remove(variable);
        less
    }

    /// Notes a fact in place of what was known.
    pub fn set(&mut self, variable: Variable, fact: Fact) {
        self.facts.insert(variable, fact);
    }

    /// What is known of this.
    #[must_use]
    pub fn fact(&self, variable: &Variable) -> Option<&Fact> {
        const ABSENT: &Fact = &Fact::Texts(Vec::new());
        let known = self.facts.get(variable);
        let absent = self.all_headers && matches!(variable, Variable::Header(_));
        known.or_else(|| absent.then_some(ABSENT))
    }

    /// What is known, in the order of variables.
    pub fn facts(&self) -> impl Iterator<Item = (&Variable, &Fact)> {
        self.facts.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_has_one_name_that_leads_back_to_it() {
        for (name, variable) in Variable::NAMED {
            assert_eq!(Variable::parse(name, None), Some(variable.clone()));
            assert_eq!(variable.to_string(), name);
            assert_eq!(Variable::parse(name, Some("x")), None, "{name} has no argument");
        }
        let header = Variable::parse("message header", Some("X-Secret")).unwrap();
        assert_eq!(header.to_string(), "message header: x-secret");
        assert_eq!(Variable::parse("message header", None), None);
        assert_eq!(Variable::parse("message header", Some("SUBJECT")), Some(Variable::Subject));
    }

    #[test]
    fn a_field_is_absent_only_where_all_fields_are_known() {
        let field = Variable::header("X-Secret");
        assert_eq!(Sample::unknown().fact(&field), None);
        let known = Sample::unknown().with_all_headers();
        assert_eq!(known.fact(&field), Some(&Fact::Texts(Vec::new())));
        assert_eq!(known.fact(&Variable::Subject), None);
    }
}
