//! XFORWARD: tells the next hop which client a message came from (Postfix `XFORWARD_README`).
//!
//! Sent before MAIL to next hops that offer it, with IDENT = our id, so that their logs can be joined
//! with ours. Never taken from a client: it could forge where mail came from.

use std::net::{IpAddr, SocketAddr};

use crate::extension::{XforwardAttribute, XforwardAttributes};
use crate::limits;
use crate::xtext::xtext_encode;

/// Longest XFORWARD line, with its CRLF: what any server must read.
const XFORWARD_LINE: usize = limits::COMMAND_LINE_MIN;

/// Longest value of an XFORWARD attribute, before it is encoded.
const XFORWARD_VALUE: usize = 255;

/// Where a message came from, as XFORWARD says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XforwardSource {
    /// From the host we speak for.
    Local,
    /// From elsewhere.
    Remote,
}

/// What we tell the next hop of our client (Postfix `XFORWARD_README`). Unknown facts are sent as
/// `[UNAVAILABLE]`, so that nothing remains of the client of a former message on the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xforward {
    /// Verified host name.
    pub name: Option<String>,
    /// Address and port.
    pub address: Option<SocketAddr>,
    /// `SMTP` or `ESMTP`.
    pub protocol: Option<String>,
    /// What the client called itself.
    pub helo: Option<String>,
    /// Our id of the transaction.
    pub ident: Option<String>,
    /// Local or remote.
    pub source: Option<XforwardSource>,
}

impl Xforward {
    /// Appends the attributes that the next hop takes, as one or more commands of at most 512 octets
    /// or one attribute each. Returns the number of commands, which is the number of replies owed.
    pub fn encode(&self, offered: XforwardAttributes, out: &mut Vec<u8>) -> usize {
        const VERB: &[u8] = b"XFORWARD";
        let mut commands = 0;
        let mut begin = out.len();
        let mut word = Vec::new();
        for attribute in offered.iter() {
            word.clear();
            word.push(b' ');
            word.extend_from_slice(attribute.keyword().as_bytes());
            word.push(b'=');
            self.encode_value(attribute, &mut word);
            if commands > 0 && out.len() - begin + word.len() + 2 <= XFORWARD_LINE {
                out.extend_from_slice(&word);
                continue;
            }
            if commands > 0 {
                out.extend_from_slice(b"\r\n");
            }
            begin = out.len();
            commands += 1;
            out.extend_from_slice(VERB);
            out.extend_from_slice(&word);
        }
        if commands > 0 {
            out.extend_from_slice(b"\r\n");
        }
        commands
    }

    /// Appends one value as xtext.
    fn encode_value(&self, attribute: XforwardAttribute, out: &mut Vec<u8>) {
        let value = match attribute {
            XforwardAttribute::Name => self.name.clone(),
            XforwardAttribute::Addr => {
                self.address.map(|address| match address.ip().to_canonical() {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("IPV6:{address}"),
                })
            }
            XforwardAttribute::Port => self.address.map(|address| address.port().to_string()),
            XforwardAttribute::Proto => self.protocol.clone(),
            XforwardAttribute::Helo => self.helo.clone(),
            XforwardAttribute::Ident => self.ident.clone(),
            XforwardAttribute::Source => self.source.map(|source| match source {
                XforwardSource::Local => "LOCAL".into(),
                XforwardSource::Remote => "REMOTE".into(),
            }),
        };
        match value.as_deref() {
            // Bare, as Postfix sends it: brackets need no encoding.
            None | Some("") => out.extend_from_slice(b"[UNAVAILABLE]"),
            Some(value) => {
                let end = value.floor_char_boundary(XFORWARD_VALUE);
                xtext_encode(&value.as_bytes()[..end], out);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::extension::{Extension, Extensions};
    use crate::xtext::xtext_decode;
    use proptest::prelude::*;

    fn all() -> XforwardAttributes {
        Extensions::from_words("XFORWARD=NAME,ADDR,PORT,PROTO,HELO,IDENT,SOURCE").xforward()
    }

    fn print(xforward: &Xforward, offered: XforwardAttributes) -> (usize, String) {
        let mut out = Vec::new();
        let commands = xforward.encode(offered, &mut out);
        (commands, String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_is_unknown_is_said_to_be_so() {
        let text = "XFORWARD NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] \
                    PROTO=[UNAVAILABLE] HELO=[UNAVAILABLE] IDENT=[UNAVAILABLE] SOURCE=[UNAVAILABLE]\r\n";
        assert_eq!(print(&Xforward::default(), all()), (1, text.into()));
    }

    #[test]
    fn values_are_xtext_and_only_offered_attributes_are_sent() {
        let xforward = Xforward {
            address: Some("[2001:db8::1]:2525".parse().unwrap()),
            protocol: Some("ESMTP".into()),
            helo: Some("a+b=c d\r\n".into()),
            ident: Some("01HZX3T7Q2ABC".into()),
            source: Some(XforwardSource::Remote),
            name: None,
        };
        let offered =
            Extensions::from_words("XFORWARD=ADDR,HELO,IDENT,PORT,SOURCE,PROTO").xforward();
        let text = "XFORWARD ADDR=IPV6:2001:db8::1 PORT=2525 PROTO=ESMTP HELO=a+2Bb+3Dc+20d+0D+0A \
                    IDENT=01HZX3T7Q2ABC SOURCE=REMOTE\r\n";
        assert_eq!(print(&xforward, offered), (1, text.into()));
    }

    #[test]
    fn nothing_is_sent_where_nothing_is_offered() {
        assert_eq!(print(&Xforward::default(), XforwardAttributes::default()), (0, String::new()));
        assert!(!Extensions::from_words("XFORWARD").contains(Extension::XForward));
    }

    #[test]
    fn long_values_are_cut_and_spread_over_commands() {
        let long = Some("n".repeat(300));
        let xforward =
            Xforward { name: long.clone(), helo: long.clone(), ident: long, ..Xforward::default() };
        let (commands, text) = print(&xforward, all());
        assert_eq!((commands, text.lines().count()), (3, 3));
        assert!(text.lines().all(|line| line.starts_with("XFORWARD ") && line.len() <= 510));
        assert_eq!(text.matches('n').count(), 3 * 255);
    }

    #[test]
    fn a_line_of_several_attributes_fits_what_any_server_reads() {
        for length in 0..=255 {
            let long = Some("n".repeat(length));
            let xforward = Xforward { name: long.clone(), helo: long, ..Xforward::default() };
            let (_, text) = print(&xforward, all());
            assert!(text.split_inclusive("\r\n").all(|line| line.len() <= 512), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_values_make_well_formed_commands(
            name in proptest::option::of(any::<String>()), helo: Option<String>,
        ) {
            let xforward = Xforward { name, helo: helo.clone(), ..Xforward::default() };
            let (commands, text) = print(&xforward, all());
            let lines: Vec<&str> = text.split_terminator("\r\n").collect();
            prop_assert_eq!(lines.len(), commands);
            let words: Vec<&str> = lines.iter().flat_map(|line| line.split(' ').skip(1)).collect();
            prop_assert_eq!(words.len(), 7);
            prop_assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_graphic())));
            let sent = words[4].strip_prefix("HELO=").unwrap();
            if let Some(helo) = helo.filter(|helo| !helo.is_empty()) {
                let decoded = xtext_decode(sent.as_bytes()).unwrap();
                prop_assert!(helo.as_bytes().starts_with(&decoded));
            }
        }
    }
}
