//! Writes our `Received:` field (RFC 5321 §4.4). The fields of others are counted in `header`.
//!
//! Invariants: what the client said of itself cannot end the field, add another or make a line too
//! long; the field is complete, folded lines included, and ends with CRLF.

use std::net::IpAddr;

use crate::limits;

/// What stands behind our host name; the protocol and the id follow on the same line.
pub(crate) const MARK: &str = " (lockgate) with ";

/// Longest of the texts that we make ourselves.
const OWN_TEXT_MAX: usize = 128;

/// How the message was received, as `with` says it (RFC 3848, RFC 6531 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// After HELO.
    Smtp,
    /// After EHLO.
    Esmtp,
    /// After STARTTLS, or on a TLS port.
    Esmtps,
    /// With SMTPUTF8.
    Utf8Smtp,
    /// With SMTPUTF8 and TLS.
    Utf8Smtps,
}

impl Protocol {
    /// The name for what was in use. HELO under TLS has no name of its own and counts as ESMTPS.
    #[must_use]
    pub const fn new(extended: bool, tls: bool, smtputf8: bool) -> Self {
        match (smtputf8, tls, extended) {
            (true, true, _) => Self::Utf8Smtps,
            (true, false, _) => Self::Utf8Smtp,
            (false, true, _) => Self::Esmtps,
            (false, false, true) => Self::Esmtp,
            (false, false, false) => Self::Smtp,
        }
    }

    /// As registered.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "SMTP",
            Self::Esmtp => "ESMTP",
            Self::Esmtps => "ESMTPS",
            Self::Utf8Smtp => "UTF8SMTP",
            Self::Utf8Smtps => "UTF8SMTPS",
        }
    }
}

/// The facts of a `Received:` field.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// What the client called itself.
    pub client_name: Option<&'a str>,
    /// Where it really was.
    pub client_address: IpAddr,
    /// Our host name.
    pub by: &'a str,
    /// How it spoke to us.
    pub with: Protocol,
    /// Our id of the transaction.
    pub id: &'a str,
    /// When, as RFC 5322 §3.3 writes it.
    pub date: &'a str,
    /// What to say of TLS, if anything: `TLSv1.3`.
    pub tls: Option<&'a str>,
}

impl Trace<'_> {
    /// Appends the field.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let literal = match self.client_address.to_canonical() {
            IpAddr::V4(address) => format!("[{address}]"),
            IpAddr::V6(address) => format!("[IPv6:{address}]"),
        };
        out.extend_from_slice(b"Received: from ");
        match self.client_name {
            Some(name) if !name.is_empty() => append_hostile(name, out),
            _ => out.extend_from_slice(literal.as_bytes()),
        }
        out.extend_from_slice(b" (");
        out.extend_from_slice(literal.as_bytes());
        out.extend_from_slice(b")\r\n");
        if let Some(tls) = self.tls {
            out.extend_from_slice(b"\t(using ");
            append_own(tls, out);
            out.extend_from_slice(b")\r\n");
        }
        out.extend_from_slice(b"\tby ");
        append_own(self.by, out);
        out.extend_from_slice(MARK.as_bytes());
        out.extend_from_slice(self.with.as_str().as_bytes());
        out.extend_from_slice(b" id ");
        append_own(self.id, out);
        out.extend_from_slice(b";\r\n\t");
        append_own(self.date, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// A text of a stranger: only what may stand in a domain or an address literal, and not too long.
fn append_hostile(text: &str, out: &mut Vec<u8>) {
    let safe = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b':' | b'[' | b']' => byte,
        byte if byte.is_ascii_alphanumeric() => byte,
        _ => b'?',
    };
    out.extend(text.bytes().take(limits::DOMAIN).map(safe));
}

/// A text of ours: nothing that would end a line or a comment.
fn append_own(text: &str, out: &mut Vec<u8>) {
    let safe = |byte: u8| match byte {
        b'(' | b')' | b'\\' | b';' => b'?',
        b' '..=b'~' => byte,
        _ => b'?',
    };
    out.extend(text.bytes().take(OWN_TEXT_MAX).map(safe));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::header::HeaderPeek;
    use proptest::prelude::*;

    fn trace<'a>(client_name: Option<&'a str>, address: &str) -> Trace<'a> {
        Trace {
            client_name,
            client_address: address.parse().unwrap(),
            by: "gate.example",
            with: Protocol::Esmtps,
            id: "01HZX3T7Q2ABC",
            date: "Mon, 23 Nov 2026 06:15:00 +0000",
            tls: None,
        }
    }

    fn print(trace: &Trace<'_>) -> String {
        let mut out = Vec::new();
        trace.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_field_names_client_gate_protocol_id_and_date() {
        let mut field = trace(Some("mx.example.org"), "192.0.2.1");
        assert_eq!(
            print(&field),
            "Received: from mx.example.org ([192.0.2.1])\r\n\
             \tby gate.example (lockgate) with ESMTPS id 01HZX3T7Q2ABC;\r\n\
             \tMon, 23 Nov 2026 06:15:00 +0000\r\n"
        );
        field.tls = Some("TLSv1.3");
        assert!(print(&field).contains("])\r\n\t(using TLSv1.3)\r\n\tby "));
    }

    #[test]
    fn addresses_are_literals_and_stand_in_for_a_missing_name() {
        assert!(
            print(&trace(None, "2001:db8::1"))
                .starts_with("Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n")
        );
        assert!(
            print(&trace(Some(""), "::ffff:192.0.2.1"))
                .starts_with("Received: from [192.0.2.1] ([192.0.2.1])\r\n")
        );
    }

    #[test]
    fn protocols_have_their_registered_names() {
        let name = |extended, tls, utf8| Protocol::new(extended, tls, utf8).as_str();
        assert_eq!(name(false, false, false), "SMTP");
        assert_eq!(name(true, false, false), "ESMTP");
        assert_eq!(name(true, true, false), "ESMTPS");
        assert_eq!(name(true, false, true), "UTF8SMTP");
        assert_eq!(name(true, true, true), "UTF8SMTPS");
    }

    proptest! {
        #[test]
        fn a_hostile_name_stays_one_field_of_short_lines(
            name in "[ -~\r\n\t\u{0}\u{fc}\u{9b}]{0,600}", id in "[ -~\r\n]{0,300}",
        ) {
            let mut field = trace(Some(&name), "192.0.2.1");
            field.id = &id;
            let text = print(&field);
            prop_assert!(text.is_ascii() && text.ends_with("\r\n"));
            for (index, line) in text.split_terminator("\r\n").enumerate() {
                prop_assert!(line.len() <= limits::TEXT_LINE);
                prop_assert!(index == 0 || line.starts_with('\t'));
                prop_assert!(!line.chars().any(|char| char.is_control() && char != '\t'));
            }
            let mut peek = HeaderPeek::new();
            peek.push(text.as_bytes());
            peek.push(b"Subject: x\r\n\r\n");
            prop_assert!(peek.done());
            prop_assert_eq!(peek.received_count(), 1);
            let ours = id.split(|char: char| !char.is_ascii_alphanumeric()).next().unwrap();
            prop_assert_eq!(peek.trace_id().unwrap_or_default(), ours);
        }
    }
}
