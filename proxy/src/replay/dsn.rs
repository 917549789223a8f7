//! Reports to senders about forward-paths that failed (RFC 3464), as mail of our own.
//!
//! A report says in words and in fields what happened, and returns the header of the mail. It is
//! made of 7-bit parts, whatever the mail was, so that it needs nothing of the next hop but, for a
//! sender with an address beyond US-ASCII, SMTPUTF8.
//!
//! Invariants
//! - No report about a report: none for a null reverse-path (RFC 5321 §6.1), and its own
//!   reverse-path is null.
//! - None that the sender did not want: NOTIFY without FAILURE (RFC 3461 §4.1).
//! - What a client or a next hop wrote cannot add a field, a line or a part.
//! - The same input gives the same octets: Message-ID and dates come from outside.
//!
//! Not here: RET=FULL. It asks for the whole mail in the report (RFC 3461 §4.3), but the mail was to
//! be encrypted on its way, and returning it in clear text would undo that: the header is all that
//! is returned. When a report is due (`mod`, `attempt`), and where it is submitted.

use std::fmt::Write as _;

use mail_builder::MessageBuilder;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};
use smtp::{
    EnhancedCode, Envelope, ForwardPath, MailParameters, Parameter, RcptParameters, Recipient,
    ReversePath, Sender,
};

/// Most octets of the header that are returned.
const HEADER_OCTETS_MAX: usize = 64 * 1024;

/// A field is folded before this column where it has a space (RFC 5322 §2.1.1).
const FOLD_COLUMN: usize = 76;

/// A word longer than this is broken all the same: no line may exceed 998 octets.
const WORD_OCTETS_MAX: usize = 900;

/// One forward-path that failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// The forward-path, with what came with it.
    pub recipient: &'a Recipient,
    /// The reply that decided, `550 5.1.1 no such user`, or words of our own.
    pub reply: &'a str,
}

/// What a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Name of this host.
    pub host: &'a str,
    /// Host name of the next hop that refused, if known.
    pub remote: Option<&'a str>,
    /// What makes the Message-ID of the report unique on this host.
    pub id: &'a str,
    /// Date of the report (RFC 5322 §3.3).
    pub date: &'a str,
    /// When the mail was taken (RFC 5322 §3.3).
    pub arrival_date: &'a str,
    /// Who sent the mail.
    pub sender: &'a Sender,
    /// What failed; those that want no report are left out.
    pub failures: &'a [Failure<'a>],
    /// Mail data in wire form, or as much of its beginning as holds the header.
    pub header: &'a [u8],
}

/// Does the sender want to hear that this forward-path failed? Without NOTIFY it does (RFC 5321
/// §6.1).
#[must_use]
pub fn wanted(sender: &Sender, recipient: &Recipient) -> bool {
    !sender.path.is_null() && recipient.parameters.notify().is_none_or(smtp::Notify::failure)
}

/// The report, with its envelope, in wire form without the final dot. None when nobody wants one.
#[must_use]
pub fn report(input: &Report<'_>) -> Option<(Envelope, Vec<u8>)> {
    let failures: Vec<Failure<'_>> = input
        .failures
        .iter()
        .copied()
        .filter(|failure| wanted(input.sender, failure.recipient))
        .collect();
    let ReversePath::Mailbox(to) = &input.sender.path else {
        return None;
    };
    if failures.is_empty() {
        return None;
    }
    let parts = Parts {
        words: words(input, &failures),
        status: status(input, &failures),
        header: header(input.header),
    };
    let ascii_header = parts.header.is_ascii();
    // RFC 6533 has a type of its own for a header that was sent as UTF-8.
    let header_type = if input.sender.parameters.smtputf8() && !ascii_header {
        "message/global-headers"
    } else {
        "text/rfc822-headers"
    };
    let boundary = parts.boundary();
    let body = MimePart::new(
        ContentType::new("multipart/report")
            .attribute("report-type", "delivery-status")
            .attribute("boundary", boundary),
        vec![
            MimePart::new("text/plain", BodyPart::Text(parts.words.into())),
            // RFC 3464 §2.1: this part is 7-bit as it stands.
            MimePart::new("message/delivery-status", BodyPart::Binary(parts.status.into()))
                .transfer_encoding("7bit"),
            MimePart::new(header_type, BodyPart::Binary(parts.header.into())),
        ],
    );
    let mut text = Vec::new();
    MessageBuilder::new()
        .header("From", Raw::new(format!("Mail Delivery System <MAILER-DAEMON@{}>", input.host)))
        .header("To", Raw::new(format!("<{to}>")))
        .header("Subject", Raw::new("Mail could not be delivered"))
        .header("Date", Raw::new(input.date))
        .header("Message-ID", Raw::new(format!("<{}@{}>", input.id, input.host)))
        .header("Auto-Submitted", Raw::new("auto-replied"))
        .header("MIME-Version", Raw::new("1.0"))
        .body(body)
        .serialize(&mut text);
    let mut wire = Vec::with_capacity(text.len() + 64);
    smtp::stuff(&text, &mut wire);
    let parameters = if to.is_ascii() {
        MailParameters::default()
    } else {
        // The To field is UTF-8 then (RFC 6531 §3.4, §3.6).
        vec![Parameter::new("BODY", Some("8BITMIME")), Parameter::new("SMTPUTF8", None)].into()
    };
    let sender = Sender { path: ReversePath::Null, parameters };
    let recipient =
        Recipient { path: ForwardPath::Mailbox(to.clone()), parameters: RcptParameters::default() };
    Some((Envelope::new(sender, recipient), wire))
}

/// The bodies of the three parts.
struct Parts {
    words: String,
    status: Vec<u8>,
    header: Vec<u8>,
}

impl Parts {
    /// A boundary that stands in none of the parts. `=_` is in no quoted-printable or base64 text
    /// (RFC 2045 §6.7), so that only what is not encoded has to be looked at.
    fn boundary(&self) -> String {
        let within = |boundary: &str| {
            let holds = |text: &[u8]| memchr::memmem::find(text, boundary.as_bytes()).is_some();
            holds(self.words.as_bytes()) || holds(&self.status) || holds(&self.header)
        };
        let mut boundary = "=_report".to_owned();
        let mut number = 0_u32;
        while within(&boundary) {
            number += 1;
            boundary = format!("=_report_{number}");
        }
        boundary
    }
}

/// The part for people.
fn words(input: &Report<'_>, failures: &[Failure<'_>]) -> String {
    let mut text = format!(
        "This is the mail system at {}.\r\n\r\n\
         Your message could not be delivered to the recipients below.\r\n\
         Nothing further will be tried; to reach them, send it again.\r\n\
         The header of your message is attached.\r\n",
        printable(input.host)
    );
    for failure in failures {
        let address = printable(failure.recipient.path.address());
        let reply = printable(failure.reply);
        // Writing to a String cannot fail.
        write!(text, "\r\n<{address}>\r\n    {reply}\r\n").ok();
    }
    text
}

/// The part for machines (RFC 3464 §2.2, §2.3).
fn status(input: &Report<'_>, failures: &[Failure<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, "Reporting-MTA", &format!("dns; {}", input.host));
    if let Some(envid) = input.sender.parameters.envid().and_then(decoded) {
        field(&mut out, "Original-Envelope-Id", &envid);
    }
    field(&mut out, "Arrival-Date", input.arrival_date);
    for failure in failures {
        out.extend_from_slice(b"\r\n");
        let original = failure.recipient.parameters.orcpt().and_then(original_recipient);
        if let Some(original) = original {
            field(&mut out, "Original-Recipient", &original);
        }
        let address = failure.recipient.path.address();
        field(&mut out, "Final-Recipient", &typed_address(address));
        field(&mut out, "Action", "failed");
        field(&mut out, "Status", &status_code(failure.reply).to_string());
        if let Some(remote) = input.remote {
            field(&mut out, "Remote-MTA", &format!("dns; {remote}"));
        }
        let diagnostic = if reply_text(failure.reply).is_some() { "smtp" } else { "X-lockgate" };
        field(&mut out, "Diagnostic-Code", &format!("{diagnostic}; {}", failure.reply));
    }
    out
}

/// One field, in printable US-ASCII, folded at spaces.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let mut column = name.len() + 1;
    for word in value.split_whitespace() {
        let clean: Vec<u8> = word
            .chars()
            .map(|letter| if letter.is_ascii_graphic() { letter as u8 } else { b'?' })
            .collect();
        for piece in clean.chunks(WORD_OCTETS_MAX) {
            if column + 1 + piece.len() > FOLD_COLUMN && column > name.len() + 1 {
                out.extend_from_slice(b"\r\n");
                column = 0;
            }
            out.push(b' ');
            out.extend_from_slice(piece);
            column += 1 + piece.len();
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What follows the code, where the text is a reply of SMTP; words of our own are none.
fn reply_text(reply: &str) -> Option<&str> {
    let (code, text) = reply.split_at_checked(3)?;
    let is_code = code.bytes().all(|byte| byte.is_ascii_digit()) && !code.starts_with('0');
    let text = if text.is_empty() { Some(text) } else { text.strip_prefix(' ') };
    text.filter(|_| is_code)
}

/// The status of RFC 3463: from the reply, else "permanent, nothing more known".
fn status_code(reply: &str) -> EnhancedCode {
    reply_text(reply)
        .and_then(|text| EnhancedCode::at_start_of(text.as_bytes()))
        .filter(|code| code.class != 2)
        .unwrap_or(EnhancedCode { class: 5, subject: 0, detail: 0 })
}

/// xtext as the text it stands for; `None` where that is not printable and would be a lie when
/// cleaned.
fn decoded(xtext: &str) -> Option<String> {
    let text = String::from_utf8(smtp::xtext_decode(xtext.as_bytes())?).ok()?;
    let printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    (!text.is_empty() && text.bytes().all(printable)).then_some(text)
}

/// ORCPT as the value of Original-Recipient (RFC 3464 §2.3.1).
fn original_recipient(orcpt: &str) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    if kind.eq_ignore_ascii_case("utf-8") {
        // RFC 6533: not xtext, but a form of its own, of which one is US-ASCII.
        return Some(format!("{kind}; {}", unicode_escaped(address, Escaped::Already)));
    }
    decoded(address).map(|address| format!("{kind}; {address}"))
}

/// An address as the value of Final-Recipient.
fn typed_address(address: &str) -> String {
    if address.is_ascii() {
        format!("rfc822; {address}")
    } else {
        format!("utf-8; {}", unicode_escaped(address, Escaped::NotYet))
    }
}

/// Whether what stands in US-ASCII was escaped by whoever wrote the address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escaped {
    Already,
    NotYet,
}

/// `utf-8-addr-xtext` of RFC 6533: `\x{...}` for what may not stand in a 7-bit field.
fn unicode_escaped(address: &str, escaped: Escaped) -> String {
    let mut out = String::with_capacity(address.len() * 2);
    for letter in address.chars() {
        let special = matches!(letter, '+' | '=' | '\\') && escaped == Escaped::NotYet;
        if letter.is_ascii_graphic() && !special {
            out.push(letter);
        } else {
            // Writing to a String cannot fail.
            write!(out, "\\x{{{:02X}}}", u32::from(letter)).ok();
        }
    }
    out
}

/// Text on one line for people.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// The header of mail in wire form: whole lines as they were, without the empty line that ends it,
/// and no more than [`HEADER_OCTETS_MAX`].
fn header(mail_data: &[u8]) -> Vec<u8> {
    let mut wire = &mail_data[..mail_data.len().min(HEADER_OCTETS_MAX)];
    if wire.starts_with(b"\r\n") {
        return Vec::new();
    }
    if let Some(end) = memchr::memmem::find(wire, b"\r\n\r\n") {
        wire = &wire[..end + 2];
    } else if wire.len() < mail_data.len()
        && let Some(end) = memchr::memmem::rfind(wire, b"\r\n")
    {
        wire = &wire[..end + 2];
    }
    let mut text = Vec::with_capacity(wire.len() + 2);
    smtp::unstuff(wire, &mut text);
    if !text.is_empty() && !text.ends_with(b"\r\n") {
        text.extend_from_slice(b"\r\n");
    }
    // Held mail has no bare CR or LF, but a line end that is none must not be made here; NUL may
    // not stand in any part (RFC 2045 §2.7).
    for at in 0..text.len() {
        let stray = match text[at] {
            b'\r' => text.get(at + 1) != Some(&b'\n'),
            b'\n' => at == 0 || text[at - 1] != b'\r',
            byte => byte == 0,
        };
        if stray {
            text[at] = b'?';
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAIL: &[u8] = b"From: a@example.org\r\nSubject: hello\r\n\r\n..secret body\r\n";

    /// An envelope as a client gives it: a MAIL line and RCPT lines.
    fn envelope(lines: &str) -> Envelope {
        Envelope::decode(lines.replace('\n', "\r\n").as_bytes()).unwrap()
    }

    fn report_of(lines: &str, reply: &str, mail_data: &[u8]) -> Option<(Envelope, Vec<u8>)> {
        let envelope = envelope(lines);
        let failures: Vec<Failure<'_>> =
            envelope.recipients().iter().map(|recipient| Failure { recipient, reply }).collect();
        report(&Report {
            host: "gate.example.net",
            remote: Some("sems1.example.net"),
            id: "0123456789ABC",
            date: "Thu, 1 Jan 1970 00:00:00 +0000",
            arrival_date: "Wed, 31 Dec 1969 23:00:00 +0000",
            sender: &envelope.sender,
            failures: &failures,
            header: mail_data,
        })
    }

    /// A part of a message, as another program would read it.
    #[derive(Debug)]
    struct Part {
        fields: Vec<(String, String)>,
        body: Vec<u8>,
    }

    impl Part {
        fn parse(text: &[u8]) -> Self {
            let (head, body) = match memchr::memmem::find(text, b"\r\n\r\n") {
                Some(at) => (&text[..at], &text[at + 4..]),
                None => (text, &b""[..]),
            };
            let head = String::from_utf8(head.to_vec()).unwrap();
            Self { fields: fields_of(&head), body: body.to_vec() }
        }

        fn field(&self, name: &str) -> Option<&str> {
            let mut found = self.fields.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            let value = found.next().map(|(_, value)| value.as_str());
            assert!(found.next().is_none(), "{name} stands twice");
            value
        }

        /// The body without its transfer encoding.
        fn decoded(&self) -> Vec<u8> {
            match self.field("Content-Transfer-Encoding") {
                None | Some("7bit") => self.body.clone(),
                Some("quoted-printable") => unquoted(&self.body),
                Some("base64") => from_base64(&self.body),
                Some(other) => panic!("transfer encoding {other}"),
            }
        }

        fn text(&self) -> String {
            String::from_utf8(self.decoded()).unwrap()
        }

        /// The parts of a multipart body.
        fn parts(&self) -> Vec<Self> {
            let kind = self.field("Content-Type").unwrap();
            let (_, rest) = kind.split_once("boundary=\"").expect("a boundary");
            let delimiter = format!("\r\n--{}", rest.split_once('"').unwrap().0);
            let body = [b"\r\n", self.body.as_slice()].concat();
            let mut pieces = Vec::new();
            let mut rest = body.as_slice();
            while let Some(at) = memchr::memmem::find(rest, delimiter.as_bytes()) {
                pieces.push(&rest[..at]);
                rest = &rest[at + delimiter.len()..];
            }
            assert_eq!(rest, b"--\r\n", "the end of the last part");
            let parts = pieces[1..].iter();
            parts.map(|piece| Self::parse(piece.strip_prefix(b"\r\n").unwrap())).collect()
        }
    }

    fn fields_of(head: &str) -> Vec<(String, String)> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in head.split("\r\n").filter(|line| !line.is_empty()) {
            match fields.last_mut() {
                Some((_, value)) if line.starts_with([' ', '\t']) => value.push_str(line),
                _ => {
                    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?}"));
                    fields.push((name.to_owned(), value.trim_start().to_owned()));
                }
            }
        }
        fields
    }

    fn unquoted(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = text;
        loop {
            rest = match rest {
                [b'=', b'\r', b'\n', tail @ ..] => tail,
                [b'=', high, low, tail @ ..] => {
                    let pair = [*high, *low];
                    let pair = std::str::from_utf8(&pair).unwrap();
                    out.push(u8::from_str_radix(pair, 16).unwrap());
                    tail
                }
                [byte, tail @ ..] => {
                    out.push(*byte);
                    tail
                }
                [] => return out,
            };
        }
    }

    fn from_base64(text: &[u8]) -> Vec<u8> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits: Vec<u8> = text
            .iter()
            .filter_map(|byte| ALPHABET.iter().position(|letter| letter == byte))
            .map(|digit| u8::try_from(digit).unwrap())
            .collect();
        let bits =
            |group: &[u8]| group.iter().fold(0_u32, |sum, digit| sum << 6 | u32::from(*digit));
        let mut out = Vec::new();
        for group in digits.chunks(4) {
            let whole = bits(group) << (6 * (4 - group.len()));
            out.extend_from_slice(&whole.to_be_bytes()[1..group.len()]);
        }
        out
    }

    /// The message as its reader gets it.
    fn read(wire: &[u8]) -> Part {
        let mut text = Vec::new();
        smtp::unstuff(wire, &mut text);
        Part::parse(&text)
    }

    /// The groups of fields in the part for machines.
    fn groups(report: &Part) -> Vec<Vec<(String, String)>> {
        let status = &report.parts()[1];
        assert_eq!(status.field("Content-Type"), Some("message/delivery-status"));
        status.text().split("\r\n\r\n").map(fields_of).filter(|group| !group.is_empty()).collect()
    }

    fn value<'a>(group: &'a [(String, String)], name: &str) -> Option<&'a str> {
        group.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What every report must be, whatever it is about.
    fn assert_sound(envelope: &Envelope, wire: &[u8]) {
        assert!(envelope.sender.path.is_null());
        assert_eq!(envelope.recipients().len(), 1);
        assert!(wire.ends_with(b"\r\n"));
        let mut scanner = smtp::DataScanner::new();
        let scan = scanner.scan(&[wire, smtp::END_OF_DATA].concat());
        assert!(scan.end && scan.fault.is_none(), "{scan:?}");
        assert_eq!(scan.content, wire.len(), "the end stands within");
        let longest = wire.split(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap();
        assert!(longest <= 999, "a line of {longest} octets");
        assert!(!wire.contains(&0));
        if !envelope.sender.parameters.smtputf8() {
            assert!(wire.is_ascii());
        }
        let report = read(wire);
        assert_eq!(report.field("Auto-Submitted"), Some("auto-replied"));
        assert_eq!(report.parts().len(), 3);
        for group in &groups(&report)[1..] {
            assert_eq!(value(group, "Action"), Some("failed"));
        }
    }

    #[test]
    fn a_report_says_who_what_and_why() {
        let lines = "MAIL FROM:<a@example.org> ENVID=QQ+2B1 RET=FULL\n\
                     RCPT TO:<b@example.com> ORCPT=rfc822;B+2Bx@example.com\nRCPT TO:<c@example.com>\n";
        let (envelope, wire) = report_of(lines, "550 5.1.1 no such user", MAIL).unwrap();
        assert_sound(&envelope, &wire);
        assert_eq!(envelope.recipients()[0].path.address(), "a@example.org");
        let report = read(&wire);
        assert_eq!(report.field("To"), Some("<a@example.org>"));
        assert_eq!(
            report.field("From"),
            Some("Mail Delivery System <MAILER-DAEMON@gate.example.net>")
        );
        assert_eq!(report.field("Message-ID"), Some("<0123456789ABC@gate.example.net>"));
        assert_eq!(report.field("Date"), Some("Thu, 1 Jan 1970 00:00:00 +0000"));
        let kind = report.field("Content-Type").unwrap();
        assert!(kind.starts_with("multipart/report;"), "{kind}");
        assert!(kind.contains("report-type=\"delivery-status\""), "{kind}");
        let groups = groups(&report);
        assert_eq!(groups.len(), 3);
        assert_eq!(value(&groups[0], "Reporting-MTA"), Some("dns; gate.example.net"));
        assert_eq!(value(&groups[0], "Original-Envelope-Id"), Some("QQ+1"));
        assert_eq!(value(&groups[0], "Arrival-Date"), Some("Wed, 31 Dec 1969 23:00:00 +0000"));
        assert_eq!(value(&groups[1], "Original-Recipient"), Some("rfc822; B+x@example.com"));
        assert_eq!(value(&groups[1], "Final-Recipient"), Some("rfc822; b@example.com"));
        assert_eq!(value(&groups[1], "Status"), Some("5.1.1"));
        assert_eq!(value(&groups[1], "Diagnostic-Code"), Some("smtp; 550 5.1.1 no such user"));
        assert_eq!(value(&groups[1], "Remote-MTA"), Some("dns; sems1.example.net"));
        assert_eq!(value(&groups[2], "Final-Recipient"), Some("rfc822; c@example.com"));
        assert_eq!(value(&groups[2], "Original-Recipient"), None);
        let words = report.parts()[0].text();
        assert!(words.contains("<b@example.com>") && words.contains("no such user"), "{words}");
    }

    #[test]
    fn the_header_comes_back_and_the_body_never_does() {
        let lines = "MAIL FROM:<a@example.org> RET=FULL\nRCPT TO:<b@example.com>\n";
        let (_, wire) = report_of(lines, "550 no", MAIL).unwrap();
        let header = &read(&wire).parts()[2];
        assert_eq!(header.field("Content-Type"), Some("text/rfc822-headers"));
        assert_eq!(header.text(), "From: a@example.org\r\nSubject: hello\r\n");
        assert!(memchr::memmem::find(&wire, b"secret").is_none());
    }

    #[test]
    fn nobody_hears_who_did_not_want_to() {
        let heard = |lines: &str| report_of(lines, "550 5.1.1 no", MAIL).map(|(_, wire)| wire);
        assert!(heard("MAIL FROM:<>\nRCPT TO:<b@example.com>\n").is_none());
        assert!(heard("MAIL FROM:<>\nRCPT TO:<b@example.com> NOTIFY=FAILURE\n").is_none());
        let from = "MAIL FROM:<a@example.org>\n";
        for notify in ["NEVER", "SUCCESS", "SUCCESS,DELAY"] {
            let lines = format!("{from}RCPT TO:<b@example.com> NOTIFY={notify}\n");
            assert!(heard(&lines).is_none(), "{notify}");
        }
        let mixed =
            "RCPT TO:<b@example.com> NOTIFY=NEVER\nRCPT TO:<c@example.com> NOTIFY=DELAY,FAILURE\n";
        let groups = groups(&read(&heard(&format!("{from}{mixed}")).unwrap()));
        assert_eq!(groups.len(), 2);
        assert_eq!(value(&groups[1], "Final-Recipient"), Some("rfc822; c@example.com"));
    }

    #[test]
    fn the_status_comes_from_the_reply_and_words_of_ours_are_no_reply() {
        let lines = "MAIL FROM:<a@example.org>\nRCPT TO:<b@example.com>\n";
        let cases = [
            ("550 5.7.1 not here", "5.7.1", "smtp; 550 5.7.1 not here"),
            ("554 not here", "5.0.0", "smtp; 554 not here"),
            ("451 4.4.7 too late", "4.4.7", "smtp; 451 4.4.7 too late"),
            ("550 2.0.0 contradiction", "5.0.0", "smtp; 550 2.0.0 contradiction"),
            ("its lifetime is over", "5.0.0", "X-lockgate; its lifetime is over"),
            ("", "5.0.0", "X-lockgate;"),
        ];
        for (reply, status, diagnostic) in cases {
            let (_, wire) = report_of(lines, reply, MAIL).unwrap();
            let groups = groups(&read(&wire));
            assert_eq!(value(&groups[1], "Status"), Some(status), "{reply}");
            assert_eq!(value(&groups[1], "Diagnostic-Code"), Some(diagnostic), "{reply}");
        }
    }

    #[test]
    fn eight_bit_headers_travel_in_seven_bits() {
        let mail = "Subject: gr\u{fc}\u{df}e\r\nX: \u{0}\r\n\r\nbody\r\n".as_bytes();
        let lines = "MAIL FROM:<a@example.org> BODY=8BITMIME\nRCPT TO:<b@example.com>\n";
        let (envelope, wire) = report_of(lines, "550 no", mail).unwrap();
        assert_sound(&envelope, &wire);
        let header = &read(&wire).parts()[2];
        assert_eq!(header.field("Content-Type"), Some("text/rfc822-headers"));
        assert_eq!(header.text(), "Subject: gr\u{fc}\u{df}e\r\nX: ?\r\n");
    }

    #[test]
    fn addresses_beyond_ascii_are_told_in_the_forms_of_rfc_6533() {
        let mail = "Subject: \u{65e5}\u{672c}\r\n\r\nbody\r\n".as_bytes();
        let lines = "MAIL FROM:<\u{e4}@example.org> SMTPUTF8\n\
                     RCPT TO:<j\u{fc}rg+x@example.com> ORCPT=utf-8;j\\x{FC}rg@example.com\n";
        let (envelope, wire) = report_of(lines, "550 5.1.1 no", mail).unwrap();
        assert_sound(&envelope, &wire);
        assert!(envelope.sender.parameters.smtputf8());
        assert!(envelope.sender.parameters.eight_bit());
        let report = read(&wire);
        assert_eq!(report.field("To"), Some("<\u{e4}@example.org>"));
        let groups = groups(&report);
        let to = value(&groups[1], "Final-Recipient");
        assert_eq!(to, Some("utf-8; j\\x{FC}rg\\x{2B}x@example.com"));
        let original = value(&groups[1], "Original-Recipient");
        assert_eq!(original, Some("utf-8; j\\x{FC}rg@example.com"));
        let header = &report.parts()[2];
        assert_eq!(header.field("Content-Type"), Some("message/global-headers"));
        assert_eq!(header.text(), "Subject: \u{65e5}\u{672c}\r\n");
        assert!(report.parts()[0].text().contains("j\u{fc}rg+x@example.com"));
    }

    #[test]
    fn a_sender_in_ascii_gets_a_report_that_needs_no_extension() {
        let lines = "MAIL FROM:<a@example.org> SMTPUTF8\nRCPT TO:<j\u{fc}rg@example.com>\n";
        let (envelope, wire) = report_of(lines, "550 5.1.1 no", MAIL).unwrap();
        assert_sound(&envelope, &wire);
        assert!(envelope.sender.parameters.is_empty());
    }

    #[test]
    fn an_endless_header_is_cut_at_a_line() {
        let mut mail = b"Subject: x\r\n".to_vec();
        while mail.len() < 3 * HEADER_OCTETS_MAX {
            mail.extend_from_slice(b"X-Long: 0123456789\r\n");
        }
        let lines = "MAIL FROM:<a@example.org>\nRCPT TO:<b@example.com>\n";
        let (envelope, wire) = report_of(lines, "550 no", &mail).unwrap();
        assert_sound(&envelope, &wire);
        let header = read(&wire).parts()[2].text();
        assert!(header.len() <= HEADER_OCTETS_MAX);
        assert!(header.len() > HEADER_OCTETS_MAX - 100);
        assert!(header.ends_with("X-Long: 0123456789\r\n"));
    }

    #[test]
    fn a_header_that_forges_a_boundary_stays_one_part() {
        let forged = b"Subject: x\r\n--=_report: y\r\n--=_report_1--: z\r\n\r\nbody\r\n";
        let lines = "MAIL FROM:<a@example.org>\nRCPT TO:<b@example.com>\n";
        let (envelope, wire) = report_of(lines, "550 no", forged).unwrap();
        assert_sound(&envelope, &wire);
        let header = read(&wire).parts()[2].text();
        assert_eq!(header, "Subject: x\r\n--=_report: y\r\n--=_report_1--: z\r\n");
    }

    #[test]
    fn what_cannot_stand_in_a_field_is_left_out() {
        let lines = "MAIL FROM:<a@example.org> ENVID=a+0D+0AAction:+20delivered\n\
                     RCPT TO:<b@example.com> ORCPT=rfc822;b+0D+0AAction:+20delivered\n";
        let (envelope, wire) = report_of(lines, "550 no", MAIL).unwrap();
        assert_sound(&envelope, &wire);
        let groups = groups(&read(&wire));
        assert_eq!(value(&groups[0], "Original-Envelope-Id"), None);
        assert_eq!(value(&groups[1], "Original-Recipient"), None);
    }

    proptest! {
        /// Whatever the next hop said and the mail holds, the report is well formed, and says of its
        /// one recipient what it must.
        #[test]
        fn no_reply_and_no_mail_breaks_the_report(
            reply in ".{0,400}",
            mail in prop::collection::vec(prop_oneof![
                4 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(b'\r'), 1 => Just(b'.'),
            ], 0..600),
        ) {
            let lines = "MAIL FROM:<a@example.org>\nRCPT TO:<b@example.com>\n";
            let (envelope, wire) = report_of(lines, &reply, &mail).unwrap();
            assert_sound(&envelope, &wire);
            prop_assert_eq!(groups(&read(&wire)).len(), 2);
        }

        #[test]
        fn replies_of_one_long_word_are_broken(length in 0_usize..5_000) {
            let lines = "MAIL FROM:<a@example.org>\nRCPT TO:<b@example.com>\n";
            let reply = format!("550 5.0.0 {}", "x".repeat(length));
            let (envelope, wire) = report_of(lines, &reply, MAIL).unwrap();
            assert_sound(&envelope, &wire);
        }
    }
}
