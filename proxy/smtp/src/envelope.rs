//! The envelope of one mail transaction: a reverse-path, one or more forward-paths, and the ESMTP
//! parameters that came with each (RFC 5321 §2.3.1, §4.1.2).
//!
//! Invariants: an [`Envelope`] has at least one recipient; parameters keep their order, case and
//! value as received, so that DSN parameters reach the next hop byte for byte (RFC 3461 §5.2.1).
//! Which parameters are allowed is judged in `command`.

use std::fmt;

use crate::address::{ForwardPath, ReversePath};
use crate::command::{self, CommandError, encode_mail, encode_rcpt};

/// One ESMTP parameter as received: `SIZE=1000`, `SMTPUTF8`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// Name, in the case in which it was written; compare with [`Parameter::is`].
    pub keyword: Box<str>,
    /// What stands after `=`, if there was one.
    pub value: Option<Box<str>>,
}

impl Parameter {
    /// A parameter of our own making. The caller answers for its syntax (RFC 5321 §4.1.2).
    #[must_use]
    pub fn new(keyword: &str, value: Option<&str>) -> Self {
        Self { keyword: keyword.into(), value: value.map(Into::into) }
    }

    /// Whether this is the parameter of that name. Keywords know no case (RFC 5321 §2.4).
    #[must_use]
    pub fn is(&self, keyword: &str) -> bool {
        self.keyword.eq_ignore_ascii_case(keyword)
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.keyword),
            None => f.write_str(&self.keyword),
        }
    }
}

/// RET of RFC 3461 §4.3: how much of the message a report returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header only.
    Hdrs,
}

/// NOTIFY of RFC 3461 §4.1: when a report is wanted. Either never, or at least one occasion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notify {
    never: bool,
    success: bool,
    failure: bool,
    delay: bool,
}

impl Notify {
    /// Reads the value of NOTIFY; `None` where it breaks the grammar (NEVER stands alone).
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let mut notify = Self::default();
        for word in value.split(',') {
            let flag = match word {
                word if word.eq_ignore_ascii_case("NEVER") => &mut notify.never,
                word if word.eq_ignore_ascii_case("SUCCESS") => &mut notify.success,
                word if word.eq_ignore_ascii_case("FAILURE") => &mut notify.failure,
                word if word.eq_ignore_ascii_case("DELAY") => &mut notify.delay,
                _ => return None,
            };
            *flag = true;
        }
        let some = notify.success || notify.failure || notify.delay;
        (notify.never != some).then_some(notify)
    }

    /// No report in any case.
    #[must_use]
    pub const fn never(self) -> bool {
        self.never
    }

    /// A report on delivery.
    #[must_use]
    pub const fn success(self) -> bool {
        self.success
    }

    /// A report on failure.
    #[must_use]
    pub const fn failure(self) -> bool {
        self.failure
    }

    /// A report on delay.
    #[must_use]
    pub const fn delay(self) -> bool {
        self.delay
    }
}

/// The parameters of MAIL, in order, as received.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MailParameters(Vec<Parameter>);

impl MailParameters {
    /// SIZE of RFC 1870 §4; a number too big for 64 bits counts as the largest.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        parse_size(value(&self.0, "SIZE")?)
    }

    /// BODY=8BITMIME of RFC 6152.
    #[must_use]
    pub fn eight_bit(&self) -> bool {
        value(&self.0, "BODY").is_some_and(|body| body.eq_ignore_ascii_case("8BITMIME"))
    }

    /// SMTPUTF8 of RFC 6531 §3.4.
    #[must_use]
    pub fn smtputf8(&self) -> bool {
        self.get("SMTPUTF8").is_some()
    }

    /// RET of RFC 3461 §4.3.
    #[must_use]
    pub fn ret(&self) -> Option<Ret> {
        parse_ret(value(&self.0, "RET")?)
    }

    /// ENVID of RFC 3461 §4.4, as received (xtext).
    #[must_use]
    pub fn envid(&self) -> Option<&str> {
        value(&self.0, "ENVID")
    }

    /// The parameter of that name.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<&Parameter> {
        self.0.iter().find(|parameter| parameter.is(keyword))
    }

    /// All of them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All but those of that name.
    #[must_use]
    pub fn without(mut self, keyword: &str) -> Self {
        self.0.retain(|parameter| !parameter.is(keyword));
        self
    }

    /// These and, at the end, another; it replaces one of the same name.
    #[must_use]
    pub fn with(self, parameter: Parameter) -> Self {
        let mut all = self.without(&parameter.keyword);
        all.0.push(parameter);
        all
    }
}

/// The parameters of RCPT, in order, as received.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RcptParameters(Vec<Parameter>);

impl RcptParameters {
    /// NOTIFY of RFC 3461 §4.1.
    #[must_use]
    pub fn notify(&self) -> Option<Notify> {
        Notify::parse(value(&self.0, "NOTIFY")?)
    }

    /// ORCPT of RFC 3461 §4.2, as received (`rfc822;` and xtext).
    #[must_use]
    pub fn orcpt(&self) -> Option<&str> {
        value(&self.0, "ORCPT")
    }

    /// The parameter of that name.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<&Parameter> {
        self.0.iter().find(|parameter| parameter.is(keyword))
    }

    /// All of them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All but those of that name.
    #[must_use]
    pub fn without(mut self, keyword: &str) -> Self {
        self.0.retain(|parameter| !parameter.is(keyword));
        self
    }

    /// These and, at the end, another; it replaces one of the same name.
    #[must_use]
    pub fn with(self, parameter: Parameter) -> Self {
        let mut all = self.without(&parameter.keyword);
        all.0.push(parameter);
        all
    }
}

impl<'a> IntoIterator for &'a MailParameters {
    type Item = &'a Parameter;
    type IntoIter = std::slice::Iter<'a, Parameter>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a RcptParameters {
    type Item = &'a Parameter;
    type IntoIter = std::slice::Iter<'a, Parameter>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<Vec<Parameter>> for MailParameters {
    fn from(parameters: Vec<Parameter>) -> Self {
        Self(parameters)
    }
}

impl From<Vec<Parameter>> for RcptParameters {
    fn from(parameters: Vec<Parameter>) -> Self {
        Self(parameters)
    }
}

/// Value of the parameter of that name.
fn value<'a>(parameters: &'a [Parameter], keyword: &str) -> Option<&'a str> {
    parameters.iter().find(|parameter| parameter.is(keyword))?.value.as_deref()
}

/// `size-value` of RFC 1870 §4: one to twenty digits. Twenty nines do not fit 64 bits and saturate.
pub(crate) fn parse_size(value: &str) -> Option<u64> {
    let digits = (1..=20).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

/// Value of RET.
pub(crate) fn parse_ret(value: &str) -> Option<Ret> {
    if value.eq_ignore_ascii_case("FULL") {
        Some(Ret::Full)
    } else if value.eq_ignore_ascii_case("HDRS") {
        Some(Ret::Hdrs)
    } else {
        None
    }
}

/// What MAIL carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    /// Whom to tell of a failure.
    pub path: ReversePath,
    /// What else the client said.
    pub parameters: MailParameters,
}

/// What RCPT carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recipient {
    /// Where the message is to go.
    pub path: ForwardPath,
    /// What else the client said.
    pub parameters: RcptParameters,
}

/// One sender and at least one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// What MAIL carried.
    pub sender: Sender,
    /// Never empty.
    recipients: Vec<Recipient>,
}

/// Why bytes are no envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The last line does not end with CRLF, or a line holds a bare CR or LF.
    #[error("line {0} of the envelope does not end with CRLF")]
    LineEnd(usize),
    /// A line does not parse.
    #[error("line {line} of the envelope: {source}")]
    Line {
        /// Counted from one.
        line: usize,
        /// What is wrong with it.
        source: CommandError,
    },
    /// Only a first line, or none.
    #[error("an envelope without a recipient")]
    NoRecipient,
}

impl Envelope {
    /// An envelope with its first recipient.
    #[must_use]
    pub fn new(sender: Sender, first: Recipient) -> Self {
        Self { sender, recipients: vec![first] }
    }

    /// Adds a recipient at the end.
    pub fn push(&mut self, recipient: Recipient) {
        self.recipients.push(recipient);
    }

    /// All recipients, in order; never empty.
    #[must_use]
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// The same envelope for those recipients only that `keep` names (by index, in order); `None`
    /// when none is left.
    #[must_use]
    pub fn narrowed(&self, mut keep: impl FnMut(usize, &Recipient) -> bool) -> Option<Self> {
        let recipients: Vec<Recipient> = self
            .recipients
            .iter()
            .enumerate()
            .filter(|&(index, recipient)| keep(index, recipient))
            .map(|(_, recipient)| recipient.clone())
            .collect();
        (!recipients.is_empty()).then(|| Self { sender: self.sender.clone(), recipients })
    }

    /// Appends the envelope in the form in which it is kept: the MAIL line and the RCPT lines, each
    /// with its CRLF.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_mail(&self.sender, out);
        for recipient in &self.recipients {
            encode_rcpt(recipient, out);
        }
    }

    /// Reads what [`Envelope::encode`] wrote. Which extensions were offered when it was received is
    /// not asked again: what was accepted stays readable.
    ///
    /// # Errors
    /// An [`EnvelopeError`] that names the line.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let mut lines = Lines { rest: bytes, number: 0 };
        let (_, first) = lines.next_line()?.ok_or(EnvelopeError::NoRecipient)?;
        let wrong = |line| move |source| EnvelopeError::Line { line, source };
        let sender = command::parse_mail_line(first).map_err(wrong(1))?;
        let mut recipients = Vec::new();
        while let Some((number, line)) = lines.next_line()? {
            recipients.push(command::parse_rcpt_line(line).map_err(wrong(number))?);
        }
        if recipients.is_empty() {
            return Err(EnvelopeError::NoRecipient);
        }
        Ok(Self { sender, recipients })
    }
}

/// Cuts a whole text into CRLF lines. (Framing of a growing buffer is in `line`.)
struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
}

impl<'a> Lines<'a> {
    /// The next line without its CRLF, and its number from one.
    fn next_line(&mut self) -> Result<Option<(usize, &'a [u8])>, EnvelopeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let end = memchr::memchr2(b'\r', b'\n', self.rest);
        match end.map(|at| (at, &self.rest[at..])) {
            Some((at, [b'\r', b'\n', tail @ ..])) => {
                let line = &self.rest[..at];
                self.rest = tail;
                Ok(Some((self.number, line)))
            }
            _ => Err(EnvelopeError::LineEnd(self.number)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::address::AddressError;
    use proptest::prelude::*;

    fn decode(text: &str) -> Result<Envelope, EnvelopeError> {
        Envelope::decode(text.as_bytes())
    }

    fn encode(envelope: &Envelope) -> String {
        let mut out = Vec::new();
        envelope.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    const FULL: &str = "MAIL FROM:<\"a b\"@c> SIZE=123 body=8bitMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B1\r\n\
         RCPT TO:<x@[192.0.2.1]> NOTIFY=SUCCESS,Delay ORCPT=rfc822;a+2Bb@c\r\n\
         RCPT TO:<Postmaster>\r\n";

    #[test]
    fn an_envelope_is_kept_byte_for_byte() {
        let envelope = decode(FULL).unwrap();
        assert_eq!(encode(&envelope), FULL);
        let null = "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n";
        assert_eq!(encode(&decode(null).unwrap()), null);
    }

    #[test]
    fn parameters_are_read_in_any_case() {
        let envelope = decode(FULL).unwrap();
        let mail = &envelope.sender.parameters;
        assert_eq!(mail.size(), Some(123));
        assert!(mail.eight_bit() && mail.smtputf8());
        assert_eq!(mail.ret(), Some(Ret::Hdrs));
        assert_eq!(mail.envid(), Some("QQ+2B1"));
        let rcpt = &envelope.recipients()[0].parameters;
        let notify = rcpt.notify().unwrap();
        assert!(notify.success() && notify.delay() && !notify.failure() && !notify.never());
        assert_eq!(rcpt.orcpt(), Some("rfc822;a+2Bb@c"));
        assert_eq!(envelope.recipients()[1].parameters.notify(), None);
    }

    #[test]
    fn parameters_of_extensions_we_do_not_know_stay_readable() {
        let later = "MAIL FROM:<a@b> FUTURE=1\r\nRCPT TO:<c@d> X-NEW\r\n";
        assert_eq!(encode(&decode(later).unwrap()), later);
    }

    #[test]
    fn with_replaces_and_without_removes() {
        let mail = decode(FULL).unwrap().sender.parameters;
        let changed = mail.with(Parameter::new("SIZE", Some("9"))).without("BODY").without("envid");
        let words: Vec<String> = changed.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["SMTPUTF8", "RET=HDRS", "SIZE=9"]);
    }

    #[test]
    fn narrowing_keeps_the_order_and_never_makes_an_empty_envelope() {
        let envelope = decode(FULL).unwrap();
        let second = envelope.narrowed(|index, _| index == 1).unwrap();
        assert_eq!(second.recipients(), &envelope.recipients()[1..]);
        assert_eq!(second.sender, envelope.sender);
        assert_eq!(envelope.narrowed(|_, _| false), None);
    }

    #[test]
    fn damaged_envelopes_are_refused_and_the_line_named() {
        use EnvelopeError::{Line, LineEnd, NoRecipient};
        let wrong = |line, source| Err(Line { line, source });
        assert_eq!(decode(""), Err(NoRecipient));
        assert_eq!(decode("MAIL FROM:<>\r\n"), Err(NoRecipient));
        assert_eq!(decode("MAIL FROM:<>\r\nRCPT TO:<a@b>"), Err(LineEnd(2)));
        assert_eq!(decode("MAIL FROM:<>\nRCPT TO:<a@b>\r\n"), Err(LineEnd(1)));
        assert_eq!(decode("RCPT TO:<a@b>\r\n"), wrong(1, CommandError::UnknownVerb));
        assert_eq!(
            decode("MAIL FROM:<>\r\nRCPT TO:<a>\r\n"),
            wrong(2, CommandError::BadRecipient(AddressError::NoDomain))
        );
    }

    #[test]
    fn never_stands_alone_in_notify() {
        assert!(Notify::parse("NEVER").unwrap().never());
        for bad in ["", "NEVER,SUCCESS", "SUCCESS,", "ALWAYS", "SUCCESS;DELAY"] {
            assert_eq!(Notify::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_size_beyond_64_bits_counts_as_the_largest() {
        assert_eq!(parse_size("99999999999999999999"), Some(u64::MAX));
        assert_eq!(parse_size("000000000000000000001"), None);
        for bad in ["", "-1", "+1", "1k", "\u{664}"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn decoding_is_total_and_encoding_is_its_inverse(
            text in r#"MAIL FROM:<[a@.">]{0,5}>( [A-Z=1é]{1,6}){0,2}\r\n(RCPT TO:<[a@.">]{1,5}>\r?\n){0,3}"#,
        ) {
            if let Ok(envelope) = decode(&text) {
                prop_assert_eq!(decode(&encode(&envelope)), Ok(envelope));
            }
        }

        #[test]
        fn decoding_any_bytes_does_not_panic(bytes: Vec<u8>) {
            prop_assert!(Envelope::decode(&bytes).is_err());
        }
    }
}
