//! Commands: parse one line, print one line (RFC 5321 §4.1.1).
//!
//! Invariants: a parameter of MAIL or RCPT is accepted only if the extension it belongs to was
//! offered ([`PARAMETERS`]); any other gets 555, never a silent drop. What was accepted is printed
//! byte for byte as it came, a source route excepted.
//!
//! Lenient where servers are: spaces at the end of a line and around `MAIL FROM:` are ignored.
//!
//! Not here: where a line ends (`line`), whether a command may come now (`server`), XFORWARD
//! (`xforward`).

use crate::address::{AddressError, ForwardPath, ReversePath, split_path};
use crate::envelope::{
    MailParameters, Notify, Parameter, RcptParameters, Recipient, Sender, parse_ret, parse_size,
};
use crate::extension::{Extension, Extensions};
use crate::limits;
use crate::reply::Reply;

/// The two commands that carry parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Mail,
    Rcpt,
}

/// Every parameter we accept, and the extension that must have been offered for it.
const PARAMETERS: [(Carrier, &str, Extension); 7] = [
    (Carrier::Mail, "SIZE", Extension::Size),
    (Carrier::Mail, "BODY", Extension::EightBitMime),
    (Carrier::Mail, "SMTPUTF8", Extension::SmtpUtf8),
    (Carrier::Mail, "RET", Extension::Dsn),
    (Carrier::Mail, "ENVID", Extension::Dsn),
    (Carrier::Rcpt, "NOTIFY", Extension::Dsn),
    (Carrier::Rcpt, "ORCPT", Extension::Dsn),
];

/// What a client calls itself in EHLO or HELO: printable US-ASCII without spaces, as written. Not
/// checked further (RFC 5321 §4.1.4: mail must not be refused for it), and never to be believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientName(Box<str>);

impl ClientName {
    /// `None` where the text is empty, longer than a domain may be, or not printable.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        ((1..=limits::DOMAIN).contains(&text.len()) && printable).then(|| Self(text.into()))
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One command of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Greeting of a client that knows extensions.
    Ehlo(ClientName),
    /// Greeting of one that does not.
    Helo(ClientName),
    /// RFC 3207.
    StartTls,
    /// Begins a mail transaction.
    Mail(Sender),
    /// Adds a recipient.
    Rcpt(Recipient),
    /// Mail data is to follow.
    Data,
    /// Ends a mail transaction without mail.
    Rset,
    /// Nothing.
    Noop,
    /// Asks about a user. We say the same of all.
    Vrfy,
    /// Asks for help.
    Help,
    /// Ends the session.
    Quit,
}

/// Why a line is no command we carry out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A verb that we do not know.
    #[error("unknown command")]
    UnknownVerb,
    /// A verb of an extension that was not offered.
    #[error("command not offered")]
    NotOffered,
    /// The line is not UTF-8.
    #[error("line is not UTF-8")]
    Encoding,
    /// The arguments break the grammar of the command.
    #[error("malformed arguments")]
    Syntax,
    /// The reverse-path is malformed.
    #[error("reverse-path: {0}")]
    BadSender(AddressError),
    /// The forward-path is malformed.
    #[error("forward-path: {0}")]
    BadRecipient(AddressError),
    /// A parameter that is unknown, or whose extension was not offered.
    #[error("parameter {0} not offered")]
    UnknownParameter(Box<str>),
    /// A parameter with a value that it may not have.
    #[error("malformed parameter {0}")]
    BadParameter(Box<str>),
    /// A parameter that stands twice.
    #[error("repeated parameter {0}")]
    DuplicateParameter(Box<str>),
    /// UTF-8 in the reverse-path without SMTPUTF8.
    #[error("non-ASCII reverse-path without SMTPUTF8")]
    NonAsciiSender,
}

impl CommandError {
    /// What the client is told.
    #[must_use]
    pub const fn reply(&self) -> Reply {
        match self {
            Self::UnknownVerb => Reply::UNKNOWN_COMMAND,
            Self::NotOffered => Reply::NOT_IMPLEMENTED,
            Self::Encoding => Reply::BAD_ENCODING,
            Self::Syntax => Reply::BAD_SYNTAX,
            Self::BadSender(_) => Reply::BAD_SENDER,
            Self::BadRecipient(_) => Reply::BAD_RECIPIENT,
            Self::UnknownParameter(_) => Reply::UNKNOWN_PARAMETER,
            Self::BadParameter(_) | Self::DuplicateParameter(_) => Reply::BAD_PARAMETER,
            Self::NonAsciiSender => Reply::NONASCII_WITHOUT_SMTPUTF8,
        }
    }
}

impl Command {
    /// Parses one line without its CRLF. `offered` is what this session was offered: after HELO, or
    /// before EHLO, the empty set.
    ///
    /// # Errors
    /// A [`CommandError`], which knows the reply to give.
    pub fn parse(line: &[u8], offered: &Extensions) -> Result<Self, CommandError> {
        let text = std::str::from_utf8(line).map_err(|_| CommandError::Encoding)?;
        let (verb, arguments) = split_verb(text);
        let mut buffer = [0_u8; 8];
        let name = upper_case(verb, &mut buffer).ok_or(CommandError::UnknownVerb)?;
        match name {
            b"EHLO" => client_name(arguments).map(Self::Ehlo),
            b"HELO" => client_name(arguments).map(Self::Helo),
            b"MAIL" => parse_mail(arguments, Some(offered)).map(Self::Mail),
            b"RCPT" => parse_rcpt(arguments, Some(offered)).map(Self::Rcpt),
            b"DATA" => alone(Self::Data, arguments),
            b"RSET" => alone(Self::Rset, arguments),
            b"QUIT" => alone(Self::Quit, arguments),
            // RFC 5321 §4.1.1.9, §4.1.1.8: a string may follow.
            b"NOOP" => Ok(Self::Noop),
            b"HELP" => Ok(Self::Help),
            b"VRFY" if arguments.is_empty() => Err(CommandError::Syntax),
            b"VRFY" => Ok(Self::Vrfy),
            b"STARTTLS" if offered.contains(Extension::StartTls) => {
                alone(Self::StartTls, arguments)
            }
            b"STARTTLS" | b"AUTH" | b"BDAT" | b"BURL" | b"EXPN" | b"ETRN" | b"ATRN" | b"TURN"
            | b"SEND" | b"SOML" | b"SAML" | b"XCLIENT" | b"XFORWARD" => {
                Err(CommandError::NotOffered)
            }
            _ => Err(CommandError::UnknownVerb),
        }
    }

    /// Appends the command as it goes on the wire, with its CRLF. VRFY, which we never send, asks
    /// for the postmaster.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let simple: &[u8] = match self {
            Self::Mail(sender) => return encode_mail(sender, out),
            Self::Rcpt(recipient) => return encode_rcpt(recipient, out),
            Self::Ehlo(name) => return encode_words(&["EHLO ", name.as_str()], out),
            Self::Helo(name) => return encode_words(&["HELO ", name.as_str()], out),
            Self::StartTls => b"STARTTLS\r\n",
            Self::Data => b"DATA\r\n",
            Self::Rset => b"RSET\r\n",
            Self::Noop => b"NOOP\r\n",
            Self::Vrfy => b"VRFY postmaster\r\n",
            Self::Help => b"HELP\r\n",
            Self::Quit => b"QUIT\r\n",
        };
        out.extend_from_slice(simple);
    }
}

/// Appends `MAIL FROM:<path> parameters` and CRLF.
pub fn encode_mail(sender: &Sender, out: &mut Vec<u8>) {
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(sender.path.address().as_bytes());
    out.push(b'>');
    encode_parameters(sender.parameters.iter(), out);
}

/// Appends `RCPT TO:<path> parameters` and CRLF.
pub fn encode_rcpt(recipient: &Recipient, out: &mut Vec<u8>) {
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(recipient.path.address().as_bytes());
    out.push(b'>');
    encode_parameters(recipient.parameters.iter(), out);
}

fn encode_parameters<'a>(parameters: impl Iterator<Item = &'a Parameter>, out: &mut Vec<u8>) {
    for parameter in parameters {
        out.push(b' ');
        out.extend_from_slice(parameter.keyword.as_bytes());
        if let Some(value) = &parameter.value {
            out.push(b'=');
            out.extend_from_slice(value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn encode_words(words: &[&str], out: &mut Vec<u8>) {
    for word in words {
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// A MAIL line that was accepted once; offered extensions are not asked.
pub(crate) fn parse_mail_line(line: &[u8]) -> Result<Sender, CommandError> {
    match stored_line(line)? {
        (verb, arguments) if verb.eq_ignore_ascii_case("MAIL") => parse_mail(arguments, None),
        _ => Err(CommandError::UnknownVerb),
    }
}

/// A RCPT line that was accepted once; offered extensions are not asked.
pub(crate) fn parse_rcpt_line(line: &[u8]) -> Result<Recipient, CommandError> {
    match stored_line(line)? {
        (verb, arguments) if verb.eq_ignore_ascii_case("RCPT") => parse_rcpt(arguments, None),
        _ => Err(CommandError::UnknownVerb),
    }
}

fn stored_line(line: &[u8]) -> Result<(&str, &str), CommandError> {
    std::str::from_utf8(line).map(split_verb).map_err(|_| CommandError::Encoding)
}

/// Verb and arguments, without the spaces around them.
fn split_verb(line: &str) -> (&str, &str) {
    let line = line.trim_end_matches([' ', '\t']);
    let (verb, arguments) = line.split_once(' ').unwrap_or((line, ""));
    (verb, arguments.trim_start_matches(' '))
}

/// The verb in upper case; `None` where it is longer than any we know.
fn upper_case<'a>(verb: &str, buffer: &'a mut [u8; 8]) -> Option<&'a [u8]> {
    let name = buffer.get_mut(..verb.len())?;
    name.copy_from_slice(verb.as_bytes());
    name.make_ascii_uppercase();
    Some(name)
}

fn alone(command: Command, arguments: &str) -> Result<Command, CommandError> {
    if arguments.is_empty() { Ok(command) } else { Err(CommandError::Syntax) }
}

fn client_name(arguments: &str) -> Result<ClientName, CommandError> {
    ClientName::new(arguments).ok_or(CommandError::Syntax)
}

fn parse_mail(arguments: &str, offered: Option<&Extensions>) -> Result<Sender, CommandError> {
    let (path, rest) = cut_path(arguments, "FROM:", CommandError::BadSender)?;
    let path = ReversePath::parse(path).map_err(CommandError::BadSender)?;
    let parameters: MailParameters = parse_parameters(rest, Carrier::Mail, offered)?.into();
    if offered.is_some() && !path.is_ascii() && !parameters.smtputf8() {
        return Err(CommandError::NonAsciiSender);
    }
    Ok(Sender { path, parameters })
}

fn parse_rcpt(arguments: &str, offered: Option<&Extensions>) -> Result<Recipient, CommandError> {
    let (path, rest) = cut_path(arguments, "TO:", CommandError::BadRecipient)?;
    let path = ForwardPath::parse(path).map_err(CommandError::BadRecipient)?;
    let parameters: RcptParameters = parse_parameters(rest, Carrier::Rcpt, offered)?.into();
    Ok(Recipient { path, parameters })
}

/// The path behind `FROM:` or `TO:`, and what follows it.
fn cut_path<'a>(
    arguments: &'a str,
    prefix: &str,
    wrong_path: fn(AddressError) -> CommandError,
) -> Result<(&'a str, &'a str), CommandError> {
    let (head, tail) = arguments.split_at_checked(prefix.len()).ok_or(CommandError::Syntax)?;
    if !head.eq_ignore_ascii_case(prefix) {
        return Err(CommandError::Syntax);
    }
    let (path, rest) = split_path(tail.trim_start_matches(' '))
        .ok_or_else(|| wrong_path(AddressError::NotBracketed))?;
    if rest.is_empty() || rest.starts_with(' ') {
        Ok((path, rest))
    } else {
        Err(CommandError::Syntax)
    }
}

/// Parameters separated by spaces. `offered` is `None` where they were judged before.
fn parse_parameters(
    text: &str,
    carrier: Carrier,
    offered: Option<&Extensions>,
) -> Result<Vec<Parameter>, CommandError> {
    let mut all: Vec<Parameter> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (keyword, value) = match word.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (word, None),
        };
        if !is_keyword(keyword) {
            return Err(CommandError::Syntax);
        }
        // RFC 5321 §4.1.2 also forbids `=` in a value. Clients that do not encode it in ORCPT exist,
        // and it does no harm.
        let printable = |value: &str| {
            let allowed = |char: char| char != ' ' && !char.is_control();
            !value.is_empty() && value.chars().all(allowed)
        };
        if !value.is_none_or(printable) {
            return Err(CommandError::BadParameter(keyword.into()));
        }
        if let Some(offered) = offered {
            judge_parameter(keyword, value, carrier, offered)?;
        }
        if all.iter().any(|former| former.is(keyword)) {
            return Err(CommandError::DuplicateParameter(keyword.into()));
        }
        all.push(Parameter::new(keyword, value));
    }
    Ok(all)
}

/// `esmtp-keyword` of RFC 5321 §4.1.2.
fn is_keyword(text: &str) -> bool {
    text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether the parameter was offered, and may have that value.
fn judge_parameter(
    keyword: &str,
    value: Option<&str>,
    carrier: Carrier,
    offered: &Extensions,
) -> Result<(), CommandError> {
    let unknown = || CommandError::UnknownParameter(keyword.into());
    let &(_, name, _) = PARAMETERS
        .iter()
        .find(|(whose, name, extension)| {
            *whose == carrier && name.eq_ignore_ascii_case(keyword) && offered.contains(*extension)
        })
        .ok_or_else(unknown)?;
    let valid = match (name, value) {
        ("SMTPUTF8", value) => value.is_none(),
        (_, None) => false,
        ("SIZE", Some(value)) => parse_size(value).is_some(),
        // BODY=BINARYMIME belongs to RFC 3030, which is not offered.
        ("BODY", Some(value)) if value.eq_ignore_ascii_case("BINARYMIME") => return Err(unknown()),
        ("BODY", Some(value)) => ["7BIT", "8BITMIME"].iter().any(|b| b.eq_ignore_ascii_case(value)),
        ("RET", Some(value)) => parse_ret(value).is_some(),
        ("NOTIFY", Some(value)) => Notify::parse(value).is_some(),
        ("ORCPT", Some(value)) => is_original_recipient(value),
        // ENVID is xtext, kept as it is; how it is encoded matters to its reader alone.
        (_, Some(value)) => value.is_ascii(),
    };
    if valid { Ok(()) } else { Err(CommandError::BadParameter(keyword.into())) }
}

/// RFC 3461 §4.2: an address type, `;`, and the address (xtext, or UTF-8 by RFC 6533 §3).
fn is_original_recipient(value: &str) -> bool {
    value.split_once(';').is_some_and(|(kind, address)| {
        !kind.is_empty()
            && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !address.is_empty()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn everything() -> Extensions {
        Extensions::from_words("PIPELINING SIZE=1000 STARTTLS 8BITMIME DSN SMTPUTF8")
    }

    fn parse(line: &str) -> Result<Command, CommandError> {
        Command::parse(line.as_bytes(), &everything())
    }

    fn print(command: &Command) -> String {
        let mut out = Vec::new();
        command.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// The reply to a line that is no command.
    fn refusal(line: &[u8], offered: &Extensions) -> String {
        let reply = Command::parse(line, offered).unwrap_err().reply();
        format!("{} {}", reply.code(), reply.enhanced().unwrap())
    }

    #[test]
    fn commands_are_printed_as_they_were_written() {
        for line in [
            "EHLO mx.example.org",
            "HELO [192.0.2.1]",
            "STARTTLS",
            "MAIL FROM:<>",
            "MAIL FROM:<a@b> SIZE=1000 BODY=8BITMIME RET=full ENVID=a+2Bb",
            "MAIL FROM:<\"john doe\"@x> body=7bit",
            "MAIL FROM:<m\u{fc}ller@b> SMTPUTF8",
            "RCPT TO:<a@[192.0.2.1]> NOTIFY=success,FAILURE ORCPT=rfc822;a+2Bb@c",
            "RCPT TO:<a@b> ORCPT=utf-8;m\u{fc}ller@b",
            "RCPT TO:<postmaster>",
            "DATA",
            "RSET",
            "NOOP",
            "HELP",
            "QUIT",
        ] {
            assert_eq!(print(&parse(line).unwrap()), format!("{line}\r\n"));
        }
    }

    #[test]
    fn case_and_surplus_spaces_do_not_matter() {
        let mail = parse("MAIL FROM:<a@b> SIZE=1").unwrap();
        for line in [
            "mail from:<a@b> SIZE=1",
            "MAIL FROM: <a@b> SIZE=1",
            "MAIL  FROM:<a@b>   SIZE=1",
            "Mail From:<a@b> SIZE=1  \t ",
        ] {
            assert_eq!(parse(line).unwrap(), mail, "{line}");
        }
        assert_eq!(parse("quit ").unwrap(), Command::Quit);
        assert_eq!(parse("NOOP anything at all").unwrap(), Command::Noop);
        assert_eq!(parse("HELP MAIL").unwrap(), Command::Help);
        assert_eq!(parse("VRFY someone").unwrap(), Command::Vrfy);
    }

    #[test]
    fn source_routes_are_dropped() {
        assert_eq!(print(&parse("RCPT TO:<@a,@b:c@d>").unwrap()), "RCPT TO:<c@d>\r\n");
    }

    #[test]
    fn refusals_have_the_reply_their_cause_asks_for() {
        for (line, reply) in [
            ("", "500 5.5.2"),
            ("FOO", "500 5.5.2"),
            ("MAILFROM:<a@b>", "500 5.5.2"),
            ("VERYLONGVERB x", "500 5.5.2"),
            ("BDAT 99999999999999999999999", "502 5.5.1"),
            ("AUTH PLAIN", "502 5.5.1"),
            ("ETRN a", "502 5.5.1"),
            ("TURN", "502 5.5.1"),
            ("EXPN a", "502 5.5.1"),
            ("XCLIENT NAME=a", "502 5.5.1"),
            ("XFORWARD NAME=a", "502 5.5.1"),
            ("EHLO", "501 5.5.4"),
            ("EHLO a b", "501 5.5.4"),
            ("HELO \u{7f}", "501 5.5.4"),
            ("DATA now", "501 5.5.4"),
            ("RSET x", "501 5.5.4"),
            ("QUIT x", "501 5.5.4"),
            ("STARTTLS x", "501 5.5.4"),
            ("VRFY", "501 5.5.4"),
            ("MAIL", "501 5.5.4"),
            ("MAIL TO:<a@b>", "501 5.5.4"),
            ("MAIL FROM", "501 5.5.4"),
            ("MAIL FROM:<a@b>SIZE=1", "501 5.5.4"),
            ("MAIL FROM:<a@b> =1", "501 5.5.4"),
            ("MAIL FROM:<a@b> -X=1", "501 5.5.4"),
            ("MAIL FROM:", "501 5.1.7"),
            ("MAIL FROM:a@b", "501 5.1.7"),
            ("MAIL FROM:<a@b", "501 5.1.7"),
            ("MAIL FROM:<a>", "501 5.1.7"),
            ("RCPT TO:a@b", "501 5.1.3"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<a@>", "501 5.1.3"),
            ("MAIL FROM:<a@b> SIZE=x", "501 5.5.4"),
            ("MAIL FROM:<a@b> SIZE", "501 5.5.4"),
            ("MAIL FROM:<a@b> SIZE=", "501 5.5.4"),
            ("MAIL FROM:<a@b> SIZE=1 size=2", "501 5.5.4"),
            ("MAIL FROM:<a@b> BODY=9BIT", "501 5.5.4"),
            ("MAIL FROM:<a@b> SMTPUTF8=1", "501 5.5.4"),
            ("MAIL FROM:<a@b> RET=SOME", "501 5.5.4"),
            ("MAIL FROM:<a@b> ENVID", "501 5.5.4"),
            ("MAIL FROM:<a@b> ENVID=\u{fc}", "501 5.5.4"),
            ("RCPT TO:<a@b> NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("RCPT TO:<a@b> ORCPT=a@b", "501 5.5.4"),
            ("RCPT TO:<a@b> ORCPT=rfc822;\u{9b}", "501 5.5.4"),
            ("MAIL FROM:<a@b> BODY=BINARYMIME", "555 5.5.4"),
            ("MAIL FROM:<a@b> NOTIFY=NEVER", "555 5.5.4"),
            ("MAIL FROM:<a@b> AUTH=<>", "555 5.5.4"),
            ("MAIL FROM:<a@b> BY=120;R", "555 5.5.4"),
            ("MAIL FROM:<a@b> HOLDFOR=1", "555 5.5.4"),
            ("MAIL FROM:<a@b> MT-PRIORITY=3", "555 5.5.4"),
            ("MAIL FROM:<a@b> REQUIRETLS", "555 5.5.4"),
            ("RCPT TO:<a@b> SIZE=1", "555 5.5.4"),
            ("MAIL FROM:<m\u{fc}ller@b>", "553 5.6.7"),
        ] {
            assert_eq!(refusal(line.as_bytes(), &everything()), reply, "{line}");
        }
        assert_eq!(refusal(b"MAIL FROM:<\xff@b>", &everything()), "501 5.5.2");
    }

    #[test]
    fn a_parameter_needs_its_extension_offered() {
        for (line, keyword) in [
            ("MAIL FROM:<a@b> SIZE=1", "SIZE"),
            ("MAIL FROM:<a@b> BODY=8BITMIME", "8BITMIME"),
            ("MAIL FROM:<a@b> SMTPUTF8", "SMTPUTF8"),
            ("MAIL FROM:<a@b> RET=FULL", "DSN"),
            ("MAIL FROM:<a@b> ENVID=x", "DSN"),
            ("RCPT TO:<a@b> NOTIFY=NEVER", "DSN"),
            ("RCPT TO:<a@b> ORCPT=rfc822;x", "DSN"),
        ] {
            let mut offered = everything();
            assert!(Command::parse(line.as_bytes(), &offered).is_ok(), "{line}");
            offered.remove(Extension::from_keyword(keyword).unwrap());
            assert_eq!(refusal(line.as_bytes(), &offered), "555 5.5.4", "{line}");
            assert!(Command::parse(line.as_bytes(), &Extensions::from_words(keyword)).is_ok());
        }
        assert_eq!(refusal(b"STARTTLS", &Extensions::none()), "502 5.5.1");
    }

    #[test]
    fn a_control_character_in_a_command_is_refused() {
        for line in
            ["MA\rIL FROM:<a@b>", "MAIL FROM:<a\rb@c>", "MAIL FROM:<a@b\r>", "RCPT TO:<\"a\nb\"@c>"]
        {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    fn any_line() -> impl Strategy<Value = String> {
        let begin = "(MAIL FROM:|(?i:RCPT) TO: ?)";
        let path = r#"<?[a@.",:<> \\\[\]\u{e9}]{0,8}>?"#;
        let good = "<(|a@b|\"a b\"@c|@r:a@b|\u{e9}@b|postmaster|a@\\[192\\.0\\.2\\.1\\])>";
        let parameters = "( (SIZE|BODY|SMTPUTF8|RET|ENVID|NOTIFY|ORCPT|X)\
             (=([a1;,\u{e9}]{0,4}|NEVER|FULL|8BITMIME))?){0,2}";
        prop_oneof![
            (begin, prop_oneof![path, good], parameters).prop_map(|(a, b, c)| a + &b + &c),
            "(EHLO|HELO|NOOP|VRFY|DATA|RSET|QUIT|HELP|STARTTLS)( [a-z\u{fc} ]{0,4})?",
        ]
    }

    proptest! {
        #[test]
        fn what_parses_is_printed_and_parses_to_the_same(line in any_line()) {
            if let Ok(command) = parse(&line) {
                let printed = print(&command);
                let again = printed.strip_suffix("\r\n").unwrap();
                prop_assert!(!again.contains(char::is_control));
                prop_assert_eq!(parse(again), Ok(command));
            }
        }

        #[test]
        fn accepted_parameters_are_kept_byte_for_byte(
            parameters in "( (SIZE=[0-9]{1,4}|body=8bitmime|RET=HDRS|ENVID=[!-<>-~]{1,9})){1}",
        ) {
            let line = format!("MAIL FROM:<a@b>{parameters}");
            prop_assert_eq!(print(&parse(&line).unwrap()), format!("{line}\r\n"));
        }

        #[test]
        fn parsing_any_bytes_does_not_panic(bytes: Vec<u8>) {
            let parsed = Command::parse(&bytes, &everything());
            prop_assert!(parsed.is_ok() || parsed.unwrap_err().reply().is_permanent());
        }
    }
}
