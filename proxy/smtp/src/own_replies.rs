//! The replies we send ourselves, as constants (RFC 5321 §4.2.3, RFC 3463).
//!
//! Invariants: a refusal of which the cause may pass is 4yz, so that the client keeps the message;
//! what closes the session is 421. Texts name no host, no address and nothing of the inside.
//!
//! Not here: replies made at run time (EHLO, the greeting, `250 held as …`).

use crate::reply::Reply;

impl Reply {
    /// 250 for whatever needs no better word.
    pub const OK: Self = Self::fixed(250, "2.0.0 ok");
    /// RSET was done.
    pub const FLUSHED: Self = Self::fixed(250, "2.0.0 flushed");
    /// MAIL was accepted by us.
    pub const SENDER_OK: Self = Self::fixed(250, "2.1.0 sender ok");
    /// RCPT was accepted by us.
    pub const RECIPIENT_OK: Self = Self::fixed(250, "2.1.5 recipient ok");
    /// To QUIT.
    pub const CLOSING: Self = Self::fixed(221, "2.0.0 closing connection");
    /// To HELP.
    pub const HELP: Self = Self::fixed(214, "2.0.0 see RFC 5321");
    /// To STARTTLS (RFC 3207 §4).
    pub const STARTTLS_READY: Self = Self::fixed(220, "2.0.0 ready to start TLS");
    /// To VRFY (RFC 5321 §3.5.3: we verify nobody, and may accept). Not 2.5.2, which would be a syntax
    /// error (RFC 3463 §3.6).
    pub const VRFY: Self =
        Self::fixed(252, "2.0.0 cannot verify, but will accept mail and attempt delivery");
    /// To DATA: send it (no enhanced code, RFC 2034 §4).
    pub const START_DATA: Self = Self::fixed(354, "end data with <CRLF>.<CRLF>");

    /// Behind mail data with a bare CR or LF: what follows on this connection is not trusted.
    pub const CLOSING_AFTER_FAULT: Self = Self::fixed(421, "4.7.0 closing connection");
    /// We are stopping (RFC 5321 §3.8).
    pub const SHUTTING_DOWN: Self = Self::fixed(421, "4.3.2 shutting down, try again later");
    /// The client said nothing for too long (RFC 5321 §4.5.3.2.7).
    pub const IDLE_TIMEOUT: Self = Self::fixed(421, "4.4.2 timeout, closing connection");
    /// No more sessions now.
    pub const TOO_MANY_CONNECTIONS: Self = Self::fixed(421, "4.7.0 too many connections");
    /// The client made too many mistakes.
    pub const TOO_MANY_ERRORS: Self = Self::fixed(421, "4.7.0 too many errors");
    /// No next hop could be reached.
    pub const NEXT_HOP_UNAVAILABLE: Self =
        Self::fixed(451, "4.4.1 next hop unavailable, try again later");
    /// The next hop went away in the middle of a transaction.
    pub const NEXT_HOP_LOST: Self = Self::fixed(451, "4.4.2 connection to next hop lost");
    /// The next hop's last reply never came: it may or may not have the message.
    pub const UNCERTAIN: Self =
        Self::fixed(451, "4.4.2 outcome unknown, next hop did not reply to end of data");
    /// A person told us to refuse.
    pub const REFUSED_BY_ORDER: Self =
        Self::fixed(451, "4.3.2 not accepting mail now, try again later");
    /// The transaction was ended by a hold that could wait no longer.
    pub const FENCED: Self = Self::fixed(451, "4.3.2 transaction aborted, try again");
    /// Something failed here.
    pub const LOCAL_ERROR: Self = Self::fixed(451, "4.3.0 local error, try again later");
    /// No room for the message.
    pub const INSUFFICIENT_STORAGE: Self = Self::fixed(452, "4.3.1 insufficient storage");
    /// More recipients than one transaction may have (RFC 5321 §4.5.3.1.10).
    pub const TOO_MANY_RECIPIENTS: Self = Self::fixed(452, "4.5.3 too many recipients");

    /// A verb we do not know.
    pub const UNKNOWN_COMMAND: Self = Self::fixed(500, "5.5.2 command not recognized");
    /// A bare CR, a bare LF or a NUL in a command line.
    pub const BARE_LF_IN_COMMAND: Self = Self::fixed(500, "5.5.2 line must end with CRLF only");
    /// A command line beyond the limit.
    pub const LINE_TOO_LONG: Self = Self::fixed(500, "5.5.2 line too long");
    /// A command line that is no UTF-8.
    pub const BAD_ENCODING: Self = Self::fixed(501, "5.5.2 line is not UTF-8");
    /// A command with malformed arguments.
    pub const BAD_SYNTAX: Self = Self::fixed(501, "5.5.4 syntax error in arguments");
    /// A known parameter with a value it may not have, or twice.
    pub const BAD_PARAMETER: Self = Self::fixed(501, "5.5.4 malformed or repeated parameter");
    /// A malformed reverse-path.
    pub const BAD_SENDER: Self = Self::fixed(501, "5.1.7 malformed sender address");
    /// A malformed forward-path.
    pub const BAD_RECIPIENT: Self = Self::fixed(501, "5.1.3 malformed recipient address");
    /// A known command of an extension that we do not offer.
    pub const NOT_IMPLEMENTED: Self = Self::fixed(502, "5.5.1 command not implemented");
    /// A command that may not come now.
    pub const BAD_SEQUENCE: Self = Self::fixed(503, "5.5.1 bad sequence of commands");
    /// EHLO or HELO must come first.
    pub const NEED_HELLO: Self = Self::fixed(503, "5.5.1 send EHLO or HELO first");
    /// RCPT or DATA without MAIL.
    pub const NEED_MAIL: Self = Self::fixed(503, "5.5.1 need MAIL command");
    /// DATA without RCPT.
    pub const NEED_RCPT: Self = Self::fixed(503, "5.5.1 need RCPT command");
    /// MAIL only after STARTTLS (RFC 3207 §4).
    pub const TLS_REQUIRED: Self = Self::fixed(530, "5.7.0 must issue STARTTLS first");
    /// Mail data with a bare CR or LF.
    pub const BARE_LF_IN_DATA: Self =
        Self::fixed(550, "5.6.0 bare CR or LF in mail data, lines must end with CRLF");
    /// A recipient that is not ours to relay to.
    pub const RECIPIENT_NOT_HERE: Self = Self::fixed(550, "5.7.1 relaying denied");
    /// A message beyond the limit (RFC 1870 §6.1).
    pub const TOO_BIG: Self = Self::fixed(552, "5.3.4 message too big");
    /// An address in UTF-8 in a transaction without SMTPUTF8 (RFC 6531 §3.5).
    pub const NONASCII_WITHOUT_SMTPUTF8: Self =
        Self::fixed(553, "5.6.7 non-ASCII address needs SMTPUTF8");
    /// The greeting to a client that is not allowed (no enhanced code before EHLO).
    pub const NOT_ALLOWED: Self = Self::fixed(554, "not allowed");
    /// DATA after every recipient was refused (RFC 5321 §3.3).
    pub const NO_VALID_RECIPIENTS: Self = Self::fixed(554, "5.5.1 no valid recipients");
    /// Too many `Received:` fields (RFC 5321 §6.3).
    pub const ROUTING_LOOP: Self = Self::fixed(554, "5.4.6 routing loop detected");
    /// A parameter that we do not know or do not offer (RFC 5321 §4.1.1.11).
    pub const UNKNOWN_PARAMETER: Self = Self::fixed(555, "5.5.4 parameter not supported");
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::reply::parse_reply;

    #[test]
    fn every_reply_of_ours_is_well_formed_and_its_enhanced_code_agrees() {
        for reply in [
            Reply::OK,
            Reply::FLUSHED,
            Reply::SENDER_OK,
            Reply::RECIPIENT_OK,
            Reply::CLOSING,
            Reply::HELP,
            Reply::STARTTLS_READY,
            Reply::VRFY,
            Reply::SHUTTING_DOWN,
            Reply::IDLE_TIMEOUT,
            Reply::TOO_MANY_CONNECTIONS,
            Reply::TOO_MANY_ERRORS,
            Reply::NEXT_HOP_UNAVAILABLE,
            Reply::NEXT_HOP_LOST,
            Reply::UNCERTAIN,
            Reply::REFUSED_BY_ORDER,
            Reply::FENCED,
            Reply::LOCAL_ERROR,
            Reply::INSUFFICIENT_STORAGE,
            Reply::TOO_MANY_RECIPIENTS,
            Reply::UNKNOWN_COMMAND,
            Reply::BARE_LF_IN_COMMAND,
            Reply::LINE_TOO_LONG,
            Reply::BAD_ENCODING,
            Reply::BAD_SYNTAX,
            Reply::BAD_PARAMETER,
            Reply::BAD_SENDER,
            Reply::BAD_RECIPIENT,
            Reply::NOT_IMPLEMENTED,
            Reply::BAD_SEQUENCE,
            Reply::NEED_HELLO,
            Reply::NEED_MAIL,
            Reply::NEED_RCPT,
            Reply::TLS_REQUIRED,
            Reply::BARE_LF_IN_DATA,
            Reply::RECIPIENT_NOT_HERE,
            Reply::TOO_BIG,
            Reply::NONASCII_WITHOUT_SMTPUTF8,
            Reply::NO_VALID_RECIPIENTS,
            Reply::ROUTING_LOOP,
            Reply::UNKNOWN_PARAMETER,
        ] {
            let mut wire = Vec::new();
            reply.encode(&mut wire);
            let (parsed, _) = parse_reply(&wire, &Default::default()).unwrap().unwrap();
            assert_eq!(parsed, reply);
            let enhanced = reply.enhanced().unwrap_or_else(|| panic!("{reply}: no enhanced code"));
            assert_eq!(u16::from(enhanced.class), reply.code() / 100, "{reply}");
            assert!(wire.len() <= 512, "{reply}");
        }
    }

    #[test]
    fn replies_that_may_have_no_enhanced_code_have_none() {
        assert_eq!(Reply::START_DATA.enhanced(), None);
        assert_eq!(Reply::NOT_ALLOWED.enhanced(), None);
    }
}
