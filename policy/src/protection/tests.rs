//! Each form as it comes, and what only looks like it.

use proptest::prelude::*;

use super::*;

/// Armour as PGP Universal writes it: a marker packet, then a session key for a key.
const ENCRYPTED: &str = "-----BEGIN PGP MESSAGE-----\r\nVersion: PGP Universal 3.3.2 (Build 21495)\r\n\
    \r\nqANQR1DBDgMRIjNEVWZ3iAEAEIAB0gEB\r\n\
    -----END PGP MESSAGE-----\r\n";

/// A text signed in clear.
const SIGNED: &str = "-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA1\r\n\r\n\
    Hello\r\n\r\n-----BEGIN PGP SIGNATURE-----\r\n\
    Version: PGP Universal 3.3.2\r\n\r\n\
    iQAeAwUBAAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2\r\n-----END PGP SIGNATURE-----\r\n";

/// The signature of it.
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----\r\n\r\n\
    iQAeAwUBAAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2\r\n\
    -----END PGP SIGNATURE-----\r\n";

/// Beginnings of CMS content: enveloped-data, signed-data, authEnveloped-data.
const ENVELOPED: &str = "MIAGCSqGSIb3DQEHA6CAMIACAQA=";
const SIGNED_DATA: &str = "MIAGCSqGSIb3DQEHAqCAMIACAQE=";
const AUTH_ENVELOPED: &str = "MIAGCyqGSIb3DQEJEAEXoIAwgAIBAA==";

const PDF: &str =
    "%PDF-1.6\n1 0 obj\n<< /EncryptMetadata false >>\nendobj\ntrailer\n<< /Root 1 0 R";

fn look(message: &str) -> Seen {
    see(message.as_bytes(), &Known::default())
}

/// Form, protection, what is signed, what is encrypted.
fn seen(message: &str) -> (Form, Protection, Option<Part>, Part) {
    let seen = look(message);
    (seen.form, seen.protection, seen.signed, seen.encrypted)
}

fn multipart(media: &str, parts: &[&str]) -> String {
    let parts: String = parts.iter().map(|part| format!("--b\r\n{part}\r\n")).collect();
    format!("Content-Type: multipart/{media}; boundary=b\r\n\r\n{parts}--b--\r\n")
}

/// A multipart as a part of another.
fn nested(media: &str, parts: &[&str]) -> String {
    multipart(media, parts)
        .replace("--b\r\n", "--in\r\n")
        .replace("--b--", "--in--")
        .replace("=b\r", "=in\r")
}

fn part(media: &str, body: &str) -> String {
    format!("Content-Type: {media}\r\n\r\n{body}")
}

fn base64_part(media: &str, body: &str) -> String {
    format!("Content-Type: {media}\r\nContent-Transfer-Encoding: base64\r\n\r\n{body}")
}

fn pgp_mime(data: &str) -> String {
    let version = part("application/pgp-encrypted", "Version: 1\r\n");
    let data = part("application/octet-stream", data);
    multipart("encrypted; protocol=\"application/pgp-encrypted\"", &[&version, &data])
}

/// The headers that the server was seen to write around what it encrypted.
#[test]
fn a_message_that_the_server_encrypted_is_seen_with_its_passage() {
    let message = format!(
        "X-PGP-Universal: processed;\r\n\tby pgp1.example.com on Fri, 19 Oct 2018 10:12:05 -0400\r\n\
         X-PGP-Encoding-Format: MIME\r\nX-PGP-Encoding-Version: 2.0.2\r\n\
         Content-Type: multipart/encrypted;\r\n\
         \tboundary=\"PGP_Universal_0F1A1B2B_79986338_C025FFB9_81E1E00B\";\r\n\
         \tprotocol=\"application/pgp-encrypted\"\r\n\r\n\
         --PGP_Universal_0F1A1B2B_79986338_C025FFB9_81E1E00B\r\n\
         Content-Type: application/pgp-encrypted;\r\n\tx-mac-type=54455854;\r\n\tname=Version.txt\r\n\r\n\
         Version: 1\r\n\r\n\
         --PGP_Universal_0F1A1B2B_79986338_C025FFB9_81E1E00B\r\n\
         Content-Type: application/octet-stream;\r\n\tx-mac-type=70674546;\r\n\tname=Message.pgp\r\n\r\n\
         {ENCRYPTED}\
         --PGP_Universal_0F1A1B2B_79986338_C025FFB9_81E1E00B--\r\n"
    );
    let seen = look(&message);
    assert_eq!(seen.form, Form::PgpMimeEncrypted);
    assert_eq!((seen.protection, seen.signed), (Protection::Encrypted, None));
    let [processed] = seen.processed_by.as_slice() else { panic!("{:?}", seen.processed_by) };
    assert_eq!(processed.by, "pgp1.example.com");
    assert_eq!(processed.on, "Fri, 19 Oct 2018 10:12:05 -0400");
    assert_eq!(processed.at, Some(1_539_958_325));
    assert_eq!(seen.encoding_format.as_deref(), Some("MIME"));
    assert_eq!(seen.encoding_version.as_deref(), Some("2.0.2"));
}

/// The server marks what it passes on in clear too.
#[test]
fn a_message_that_the_server_processed_may_be_in_clear() {
    let message = "Received: from mail.example.com ([192.0.2.6])\r\n  by pgpgate.example.com \
        (PGP Universal service);\r\n  Mon, 02 Sep 2019 03:45:05 -0700\r\n\
        X-PGP-Universal: processed;\r\n        by pgpgate.example.com on Mon, 02 Sep 2019 03:45:05 -0700\r\n\
        \r\nHello\r\n";
    let seen = look(message);
    assert_eq!((seen.form, seen.protection), (Form::Clear, Protection::Clear));
    assert_eq!(seen.processed_by[0].by, "pgpgate.example.com");
    let odd = look("X-PGP-Universal: yes\r\n\r\nHello\r\n");
    assert!(odd.processed_by.is_empty() && odd.reasons[0].contains("not understood"));
}

#[test]
fn each_form_is_seen_for_what_it_is() {
    let all = Some(Part::All);
    let signature = part("application/pgp-signature", SIGNATURE);
    let text = part("text/plain", "Hello");
    let pgp_signed =
        multipart("signed; protocol=\"application/pgp-signature\"", &[&text, &signature]);
    let p7s = base64_part("application/pkcs7-signature", SIGNED_DATA);
    let smime_signed = multipart("signed", &[&text, &p7s]);
    let smime =
        |kind: &str, body| base64_part(&format!("application/pkcs7-mime; smime-type={kind}"), body);
    let clear_signed = (Protection::Signed, all, Part::No);
    let encrypted = (Protection::Encrypted, None, Part::All);
    for (message, form, (protection, signed, part)) in [
        (pgp_mime(ENCRYPTED), Form::PgpMimeEncrypted, encrypted),
        (pgp_signed, Form::PgpMimeSigned, clear_signed),
        (format!("\r\n{ENCRYPTED}"), Form::InlineEncrypted, encrypted),
        (format!("\r\n{SIGNED}"), Form::InlineSigned, clear_signed),
        (smime("enveloped-data", ENVELOPED), Form::SmimeEnveloped, encrypted),
        (smime("authEnveloped-data", AUTH_ENVELOPED), Form::SmimeAuthEnveloped, encrypted),
        (smime("signed-data", SIGNED_DATA), Form::SmimeOpaqueSigned, clear_signed),
        (smime_signed, Form::SmimeSigned, clear_signed),
        ("\r\nHello".to_owned(), Form::Clear, (Protection::Clear, Some(Part::No), Part::No)),
        (String::new(), Form::Clear, (Protection::Clear, Some(Part::No), Part::No)),
    ] {
        assert_eq!(seen(&message), (form, protection, signed, part), "{message}");
    }
}

/// Marks as the vendor's note on the format (2005) tells them: numbered files, the other form of a text,
/// signatures in files of their own.
#[test]
fn pgp_partitioned_is_known_by_its_marks() {
    let text = part("text/plain", ENCRYPTED);
    let file = part("application/octet-stream; name=\"Attachment1.pgp\"", ENCRYPTED);
    let message = multipart("mixed", &[&text, &file]);
    assert_eq!(seen(&message).0, Form::PartitionedEncrypted);
    assert_eq!(look(&message).encrypted, Part::All);
    let html = part("application/octet-stream; name=\"PGPexch.htm.pgp\"", ENCRYPTED);
    assert_eq!(seen(&multipart("mixed", &[&text, &html])).0, Form::PartitionedEncrypted);

    let text = part("text/plain", SIGNED);
    let gif = part("image/gif; name=\"logo.gif\"", "GIF89a");
    let signature = base64_part(
        "application/octet-stream; name=\"logo.gif.sig\"",
        "iQAeAwUBAAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2",
    );
    let message = multipart("mixed", &[&text, &gif, &signature]);
    assert_eq!(look(&message).signed, Some(Part::All));
    assert_eq!(look(&multipart("mixed", &[&text, &gif])).signed, Some(Part::Part));
    let marked = format!("X-PGP-MIME-Structure: alternative\r\n{message}");
    assert_eq!(seen(&marked).0, Form::PartitionedSigned);
}

#[test]
fn a_part_in_clear_beside_an_encrypted_one_is_seen() {
    let clear = part("text/plain", "footer of a mailing list");
    let version = part("application/pgp-encrypted", "Version: 1\r\n");
    let data = part("application/octet-stream", ENCRYPTED);
    let inner = nested("encrypted", &[&version, &data]);
    let partly = (Form::PgpMimeEncrypted, Protection::Partly, Some(Part::No), Part::Part);
    let with = seen(&multipart("mixed", &[&inner, &clear]));
    assert_eq!((with.0, with.1, with.3), (partly.0, partly.1, partly.3));
    let blank = part("text/plain", " \r\n");
    assert_eq!(seen(&multipart("mixed", &[&inner, &blank])).1, Protection::Encrypted);
    let html = part("text/html", "<p>Hello</p>");
    let inline = part("text/plain", ENCRYPTED);
    assert_eq!(seen(&multipart("alternative", &[&inline, &html])).1, Protection::Partly);
    assert_eq!(seen(&format!("\r\nsee below\r\n{ENCRYPTED}")).1, Protection::Partly);
    let talkative = part("application/pgp-encrypted", "Version: 1\r\nthe secret");
    assert_eq!(seen(&multipart("encrypted", &[&talkative, &data])).1, Protection::Partly);
    assert_eq!(seen(&pgp_mime(&format!("see below\r\n{ENCRYPTED}"))).1, Protection::Partly);
    let third = multipart("encrypted", &[&version, &data, &clear]);
    assert_eq!(seen(&third).1, Protection::Partly);
}

#[test]
fn what_is_signed_outside_is_known_to_be_signed() {
    let version = part("application/pgp-encrypted", "Version: 1\r\n");
    let data = part("application/octet-stream", ENCRYPTED);
    let inner = nested("encrypted", &[&version, &data]);
    let signature = part("application/pgp-signature", SIGNATURE);
    let both = seen(&multipart("signed", &[&inner, &signature]));
    assert_eq!(
        both,
        (Form::PgpMimeEncrypted, Protection::EncryptedSigned, Some(Part::All), Part::All)
    );
}

/// Goal: no header field and no word makes a message in clear look protected.
#[test]
fn what_is_only_said_is_no_protection() {
    let version = part("application/pgp-encrypted", "Version: 1\r\n");
    let plain = part("application/octet-stream", "Hello");
    let text = part("text/plain", "Hello");
    let no_signature = part("application/pgp-signature", "Hello");
    let quoted: String = ENCRYPTED.lines().map(|line| format!("> {line}\r\n")).collect();
    let cut = ENCRYPTED.split("\r\n-----END").next().unwrap();
    let smime = |media: &str| base64_part(media, "SGVsbG8=");
    let no_cms = smime("application/pkcs7-signature");
    let compressed = "-----BEGIN PGP MESSAGE-----\r\n\r\nowEB\r\n-----END PGP MESSAGE-----\r\n";
    for message in [
        "X-PGP-Encoding-Format: MIME\r\n\r\nHello\r\n".to_owned(),
        multipart("encrypted; protocol=\"application/pgp-encrypted\"", &[&version, &plain]),
        multipart("encrypted; protocol=\"application/pgp-encrypted\"", &[&version]),
        multipart("encrypted", &[&text, &text]),
        part("multipart/encrypted; boundary=none", "Hello"),
        multipart("signed", &[&text, &no_signature]),
        multipart("signed", &[&text, &no_cms]),
        multipart("signed", &[&text, &text]),
        format!("\r\n{quoted}"),
        format!("\r\n{cut}\r\n"),
        format!("\r\n{compressed}"),
        smime("application/pkcs7-mime; smime-type=enveloped-data"),
        smime("application/pkcs7-mime"),
        part("application/pkcs7-mime; smime-type=enveloped-data", ""),
    ] {
        let seen = look(&message);
        assert_eq!((seen.form, seen.protection), (Form::Claimed, Protection::Clear), "{message}");
        assert_eq!((seen.signed, seen.encrypted), (Some(Part::No), Part::No), "{message}");
        assert!(!seen.reasons.is_empty(), "{message}");
    }
}

#[test]
fn content_decides_where_smime_type_is_missing_or_wrong() {
    let missing = look(&base64_part("application/pkcs7-mime", ENVELOPED));
    assert_eq!((missing.form, missing.protection), (Form::SmimeEnveloped, Protection::Encrypted));
    assert!(missing.reasons[0].contains("smime-type is missing"));
    let wrong =
        look(&base64_part("application/pkcs7-mime; smime-type=enveloped-data", SIGNED_DATA));
    assert_eq!((wrong.form, wrong.protection), (Form::SmimeOpaqueSigned, Protection::Signed));
    assert!(wrong.reasons[0].contains("CMS says signed-data"));
    let certificates =
        look(&base64_part("application/pkcs7-mime; smime-type=certs-only", SIGNED_DATA));
    assert_eq!(certificates.protection, Protection::Clear);
}

#[test]
fn a_passphrase_is_no_key() {
    let message = "\r\n-----BEGIN PGP MESSAGE-----\r\n\r\njA0E\r\n-----END PGP MESSAGE-----\r\n";
    assert_eq!(seen(message).1, Protection::Passphrase);
    let wrapped = seen(&pgp_mime(message.trim_start()));
    assert_eq!((wrapped.0, wrapped.1), (Form::PgpMimeEncrypted, Protection::Passphrase));
}

#[test]
fn an_encrypted_pdf_with_a_text_beside_it_is_partly_in_clear() {
    let text = part("text/plain", "Please open the attached file.");
    let encrypted = part("application/pdf; name=x.pdf", &format!("{PDF} /Encrypt 5 0 R >>"));
    let both = multipart("mixed", &[&text, &encrypted]);
    let seen = look(&both);
    assert_eq!((seen.form, seen.protection), (Form::Pdf, Protection::Partly));
    assert!(seen.reasons.iter().any(|reason| reason == CANNOT_TELL_NOTE));
    let known = Known { pdf_texts: vec!["open the attached".to_owned()], ..Known::default() };
    let seen = see(both.as_bytes(), &known);
    assert_eq!((seen.form, seen.protection), (Form::PdfAll, Protection::Passphrase));
    let other = multipart("mixed", &[&text, &part("text/plain", ENCRYPTED)]);
    assert_eq!(
        see(other.as_bytes(), &known).protection,
        Protection::Partly,
        "no note without a PDF"
    );
    let seen = look(&multipart("mixed", &[&encrypted]));
    assert_eq!((seen.form, seen.protection), (Form::PdfAll, Protection::Passphrase));
    let plain = part("application/pdf; name=x.pdf", &format!("{PDF} >>"));
    assert_eq!(look(&multipart("mixed", &[&text, &plain])).form, Form::Clear);
}

#[test]
fn a_web_notice_is_known_by_what_the_operator_says() {
    let known = Known {
        web_texts: vec!["You have a secure message".to_owned(), String::new()],
        web_urls: vec!["https://keys.example.com".to_owned()],
        ..Known::default()
    };
    let form = |body: &str| {
        let seen = see(format!("\r\n{body}\r\n").as_bytes(), &known);
        (seen.form, seen.protection)
    };
    let notice = (Form::WebNotice, Protection::Kept);
    let clear = (Form::Clear, Protection::Clear);
    assert_eq!(form("Hello! You have a secure message."), notice);
    assert_eq!(form("see https://keys.example.com/b/x?y"), notice);
    assert_eq!(form("Hello"), clear, "an empty text is no mark");
    assert_eq!(form("see https://keys.example.com.evil.example/"), clear);
    assert_eq!(form("thanks\r\n> You have a secure message"), clear, "an answer");
    let file = part("application/octet-stream; name=x", "secret");
    let text = part("text/plain", "You have a secure message");
    let both = multipart("mixed", &[&text, &file]);
    assert_eq!(see(both.as_bytes(), &known).protection, Protection::Partly);
}

/// A text of many blocks is one text; it is not looked at once for each.
#[test]
fn any_number_of_blocks_is_read_in_time() {
    let many = format!("\r\n{}", format!("{SIGNATURE}{SIGNED}").repeat(10_000));
    let seen = look(&many);
    assert_eq!((seen.form, seen.signed), (Form::InlineSigned, Some(Part::Part)));
}

#[test]
fn a_report_on_delivery_is_named_as_such() {
    let text = part("text/plain", "could not be delivered");
    let status = part("message/delivery-status", "Action: failed\r\n");
    let original = part("message/rfc822", &format!("Subject: x\r\n\r\n{ENCRYPTED}"));
    let bounce = multipart("report; report-type=delivery-status", &[&text, &status, &original]);
    let seen = look(&bounce);
    assert_eq!((seen.form, seen.encrypted), (Form::DeliveryReport, Part::Part));
    let none = multipart("report; report-type=delivery-status", &[&text]);
    assert_eq!(look(&none).form, Form::Clear);
}

proptest! {
    #[test]
    fn any_octets_are_seen_as_something(octets in prop::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(!see(&octets, &Known::default()).protection.is_confidential());
    }

    #[test]
    fn any_passage_is_read(date in "[0-9A-Za-z:,+ -]{0,40}", by in "[a-z.]{0,9}") {
        look(&format!("X-PGP-Universal: processed; by {by} on {date}\r\n\r\n"));
        look(&format!("X-PGP-Universal: processed; by {by} on Fri, {date}\r\n\r\n"));
    }

    /// Pieces of protection in any order never make a text in clear vanish.
    #[test]
    fn a_text_in_clear_is_never_seen_as_protected(
        pieces in prop::collection::vec(0usize..7, 0..6), place in 0usize..7,
    ) {
        let parts = [
            part("text/plain", ENCRYPTED),
            part("text/plain", SIGNED),
            base64_part("application/pkcs7-mime", ENVELOPED),
            part("application/octet-stream; name=PGPexch.htm.pgp", ENCRYPTED),
            nested("encrypted", &[&part("application/pgp-encrypted", "Version: 1"), &part("text/plain", ENCRYPTED)]),
            part("application/pdf", &format!("{PDF} /Encrypt 5 0 R >>")),
            part("application/pgp-signature", SIGNATURE),
        ];
        let clear = part("text/plain", "in clear");
        let mut chosen: Vec<&str> = pieces.iter().map(|piece| parts[*piece].as_str()).collect();
        chosen.insert(place.min(chosen.len()), &clear);
        for media in ["mixed", "alternative", "related", "encrypted", "signed"] {
            let seen = look(&multipart(media, &chosen));
            let first = media == "signed" && place == 0;
            prop_assert!(!seen.protection.is_confidential(), "{media} {:?}", seen);
            prop_assert!(seen.encrypted != Part::All, "{media} {:?}", seen);
            prop_assert!(first || seen.signed != Some(Part::All), "{media} {:?}", seen);
        }
    }
}
