//! A second opinion: smtp-proto, an independent implementation, must agree wherever it is right.
//!
//! It is not asked where it is known to differ from RFC 5321: quoted local parts, address literals,
//! `<postmaster>`, ORCPT, bare LF, a dot on the first line of mail data, CR before the final LF.
//! Those cases stand in the unit tests, against the standard itself.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use smtp::{Command, DataScanner, Extension, Extensions, Reply, ReplyLimits, Ret, parse_reply};
use smtp_proto::request::receiver::DataReceiver;
use smtp_proto::response::parser::ResponseReceiver;
use smtp_proto::{
    EXT_8BIT_MIME, EXT_DSN, EXT_ENHANCED_STATUS_CODES, EXT_PIPELINING, EXT_SIZE, EXT_SMTP_UTF8,
    EXT_START_TLS, EhloResponse, MAIL_BODY_8BITMIME, MAIL_RET_FULL, MAIL_RET_HDRS, MAIL_SMTPUTF8,
    RCPT_NOTIFY_DELAY, RCPT_NOTIFY_FAILURE, RCPT_NOTIFY_NEVER, RCPT_NOTIFY_SUCCESS, Request,
};

/// What both call an ordinary address.
const ADDRESS: &str =
    "[a-zA-Z0-9]{1,8}([.+_-][a-z0-9]{1,4}){0,2}@[a-z0-9]{1,8}(\\.[a-z]{2,5}){1,2}";

fn ours(line: &str) -> Command {
    let offered = Extensions::from_words("SIZE=1 8BITMIME DSN SMTPUTF8");
    Command::parse(line.as_bytes(), &offered).unwrap()
}

fn theirs(line: &str) -> Request<String> {
    let wire = format!("{line}\r\n");
    Request::parse(&mut wire.as_bytes().iter()).unwrap().into_owned()
}

proptest! {
    #[test]
    fn mail_is_read_alike(
        address in ADDRESS,
        size in proptest::option::of(1_u64..1_000_000_000_000),
        body in proptest::option::of("(7BIT|8BITMIME)"),
        utf8: bool,
        ret in proptest::option::of("(FULL|HDRS)"),
        envid in proptest::option::of("[a-zA-Z0-9]{1,12}"),
    ) {
        let mut line = format!("MAIL FROM:<{address}>");
        for (keyword, value) in [
            ("SIZE", size.map(|size| size.to_string())),
            ("BODY", body),
            ("RET", ret),
            ("ENVID", envid),
        ] {
            if let Some(value) = value {
                line += &format!(" {keyword}={value}");
            }
        }
        if utf8 {
            line += " SMTPUTF8";
        }
        let Command::Mail(sender) = ours(&line) else { panic!("{line}") };
        let Request::Mail { from } = theirs(&line) else { panic!("{line}") };
        let has = |flag| from.flags & flag != 0;
        prop_assert_eq!(sender.path.address(), from.address);
        prop_assert_eq!(sender.parameters.size().unwrap_or(0), from.size as u64);
        prop_assert_eq!(sender.parameters.eight_bit(), has(MAIL_BODY_8BITMIME));
        prop_assert_eq!(sender.parameters.smtputf8(), has(MAIL_SMTPUTF8));
        prop_assert_eq!(sender.parameters.ret() == Some(Ret::Full), has(MAIL_RET_FULL));
        prop_assert_eq!(sender.parameters.ret() == Some(Ret::Hdrs), has(MAIL_RET_HDRS));
        prop_assert_eq!(sender.parameters.envid(), from.env_id.as_deref());
    }

    #[test]
    fn rcpt_is_read_alike(
        address in ADDRESS,
        notify in proptest::option::of("(NEVER|SUCCESS|FAILURE|DELAY|SUCCESS,FAILURE|FAILURE,DELAY)"),
    ) {
        let mut line = format!("RCPT TO:<{address}>");
        if let Some(notify) = notify {
            line += &format!(" NOTIFY={notify}");
        }
        let Command::Rcpt(recipient) = ours(&line) else { panic!("{line}") };
        let Request::Rcpt { to } = theirs(&line) else { panic!("{line}") };
        prop_assert_eq!(recipient.path.address(), to.address);
        let notify = recipient.parameters.notify().unwrap_or_default();
        let flags = [RCPT_NOTIFY_NEVER, RCPT_NOTIFY_SUCCESS, RCPT_NOTIFY_FAILURE, RCPT_NOTIFY_DELAY];
        let known = [notify.never(), notify.success(), notify.failure(), notify.delay()];
        prop_assert_eq!(known, flags.map(|flag| to.flags & flag != 0));
    }

    #[test]
    fn plain_commands_are_read_alike(
        line in "(EHLO [a-z]{1,9}\\.example|HELO [a-z]{1,9}|DATA|RSET|QUIT|NOOP|HELP|VRFY [a-z]{1,9})",
    ) {
        let same = match (ours(&line), theirs(&line)) {
            (Command::Ehlo(name), Request::Ehlo { host })
            | (Command::Helo(name), Request::Helo { host }) => name.as_str() == host,
            (Command::Data, Request::Data)
            | (Command::Rset, Request::Rset)
            | (Command::Quit, Request::Quit)
            | (Command::Noop, Request::Noop { .. })
            | (Command::Help, Request::Help { .. })
            | (Command::Vrfy, Request::Vrfy { .. }) => true,
            _ => false,
        };
        prop_assert!(same, "{}", line);
    }

    #[test]
    fn replies_are_read_alike(
        code in 200_u16..600,
        lines in proptest::collection::vec("[a-zA-Z][ -,/-~]{0,30}", 1..4),
    ) {
        let mut wire = Vec::new();
        Reply::new(code, lines.join("\n")).encode(&mut wire);
        let (reply, consumed) = parse_reply(&wire, &ReplyLimits::default()).unwrap().unwrap();
        prop_assert_eq!(consumed, wire.len());
        let other = ResponseReceiver::default().parse(&mut wire.iter()).unwrap();
        prop_assert_eq!(reply.code(), other.code());
        let text = reply.lines().map(|line| std::str::from_utf8(line).unwrap());
        let other_text = other.message().replace("\r\n", "\n");
        prop_assert_eq!(text.collect::<Vec<_>>().join("\n"), other_text.trim_end_matches('\n'));
    }

    #[test]
    fn what_we_offer_is_understood_alike(bits in 0_usize..128, size in 1_u64..u64::MAX) {
        let known = [
            (Extension::Pipelining, EXT_PIPELINING),
            (Extension::Size, EXT_SIZE),
            (Extension::EightBitMime, EXT_8BIT_MIME),
            (Extension::SmtpUtf8, EXT_SMTP_UTF8),
            (Extension::Dsn, EXT_DSN),
            (Extension::EnhancedStatusCodes, EXT_ENHANCED_STATUS_CODES),
            (Extension::StartTls, EXT_START_TLS),
        ];
        let mut all = Extensions::none();
        for (index, (extension, _)) in known.into_iter().enumerate() {
            if bits >> index & 1 == 1 {
                all.insert(extension);
            }
        }
        if all.contains(Extension::Size) {
            all.set_size(size);
        }
        let mut wire = Vec::new();
        all.ehlo_reply("gate.example").encode(&mut wire);
        let other = EhloResponse::parse(&mut wire.iter()).unwrap();
        prop_assert_eq!(other.hostname(), "gate.example");
        for (extension, flag) in known {
            prop_assert_eq!(all.contains(extension), other.has_capability(flag), "{:?}", extension);
        }
    }

    #[test]
    fn mail_data_ends_at_the_same_place(
        lines in proptest::collection::vec("[a-z.]{0,6}", 0..8),
        size in 1_usize..20,
    ) {
        // Its defects: a dot on the very first line, and none of them with bare CR or LF.
        let mut text = String::from("Subject: x\r\n");
        for line in &lines {
            text += line;
            text += "\r\n";
        }
        let mut wire = Vec::new();
        smtp::stuff(text.as_bytes(), &mut wire);
        wire.extend_from_slice(smtp::END_OF_DATA);
        let length = wire.len();
        wire.extend_from_slice(b"QUIT\r\n");

        let mut receiver = DataReceiver::new();
        let mut bytes = wire.iter();
        let mut received = Vec::new();
        prop_assert!(receiver.ingest(&mut bytes, &mut received));
        prop_assert_eq!(wire.len() - bytes.len(), length);

        let mut scanner = DataScanner::new();
        let (mut content, mut consumed) = (Vec::new(), 0);
        for chunk in wire.chunks(size) {
            let scan = scanner.scan(chunk);
            content.extend_from_slice(scan.carried);
            content.extend_from_slice(&chunk[..scan.content]);
            consumed += scan.consumed;
        }
        prop_assert_eq!(consumed, length);
        prop_assert_eq!(scanner.fault(), None);
        let mut unstuffed = Vec::new();
        smtp::unstuff(&content, &mut unstuffed);
        prop_assert_eq!(&unstuffed, text.as_bytes());
        prop_assert_eq!(received, unstuffed);
    }
}
