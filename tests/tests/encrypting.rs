//! The encrypting server of the stories judged by itself: real Postfix, real gpg.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use tests::client::{Client, Style};
use tests::encrypting::Encrypting;
use tests::mail::{self, Kind, Mail};
use tests::sink::Sink;
use tests::wait::{self, LONG};

/// The queue id in a line of Postfix's log: `… postfix/smtpd[1]: 4C5F21A: client=…`.
fn queue_id(line: &str) -> &str {
    line.split("]: ").nth(1).and_then(|rest| rest.split(": ").next()).unwrap()
}

/// Goal: what stories need of a real store-and-forward encryption server: mail comes out encrypted
/// under its own Message-ID, the log joins what came in with what went out, and mail can be kept
/// inside without being lost.
/// Method: mail sent raw, with XFORWARD IDENT as lockgate sends it; then the same while held.
#[test]
fn mail_comes_out_encrypted_is_joined_by_the_log_and_stays_inside_while_held() {
    let sink = Sink::start("mta.test");
    let server = Encrypting::relaying("keys.test", sink.address());
    let mut client = Client::open(server.address());
    assert!(client.ehlo.keyword("XFORWARD").unwrap().contains("IDENT"), "{:?}", client.ehlo);

    let mails: Vec<Mail> = [Kind::Text(300), Kind::EightBit, Kind::Dots, Kind::Attachment(200_000)]
        .into_iter()
        .enumerate()
        .map(|(n, kind)| Mail::new("enc", n, kind))
        .collect();
    for (n, sent) in mails.iter().enumerate() {
        assert_eq!(client.command(&format!("XFORWARD IDENT=lockgate-{n}")).code, 250);
        client.deliver(sent);
    }
    sink.wait_for(mails.len(), LONG);
    for (n, sent) in mails.iter().enumerate() {
        let found = sink.one(sent.key());
        assert_eq!(
            found.mail_line.split(' ').nth(1).unwrap(),
            format!("FROM:{}", sent.reverse_path)
        );
        for name in ["Message-ID", "From", "To", "Date"] {
            assert_eq!(mail::field(&found.data, name), mail::field(&sent.data, name), "{name}");
        }
        let content = mail::field(&found.data, "Content-Type").unwrap();
        assert!(content.starts_with("multipart/encrypted;"), "{content}");
        let traces = mail::fields(&found.data).filter(|field| field.starts_with(b"Received:"));
        assert_eq!(traces.count(), 2, "of both lives");
        let clear = tests::lax::unstuffed(mail::body(&sent.data));
        assert!(memchr::memmem::find(&found.data, &clear[..40]).is_none(), "nothing in clear");
        let inner = server.decrypted(&found.data);
        assert!(mail::body(&inner) == clear, "{}", sent.key());

        let came = server.wait_for_log(&["smtpd", &format!("orig_queue_id=lockgate-{n}")]);
        let came = queue_id(&came);
        let again = server.wait_for_log(&["smtpd", &format!("orig_queue_id={came}")]);
        let again = queue_id(&again);
        let line = server.wait_for_log(&["pipe", came, "relay=gpgfilter", "status=sent"]);
        assert!(line.contains(&format!("queued as {again}")), "{line}");
        server.wait_for_log(&["smtp[", again, "status=sent", &sink.address().port().to_string()]);
        let id = sent.message_id().unwrap();
        server.wait_for_log(&["cleanup", came, &id]);
        server.wait_for_log(&["cleanup", again, &id]);
    }
    server.postfix().wait_until_empty(LONG);

    server.hold();
    let kept = [Mail::short("enc-held", 1), Mail::short("enc-held", 2).from("<>")];
    for mail in &kept {
        assert!(client.transaction(mail, Style::Pipelined).accepted());
        server.wait_for_log(&["pipe", mail.key(), "status=deferred", "held inside"]);
    }
    let queue = server.postfix().queue();
    assert_eq!((queue.len(), sink.dots()), (2, mails.len()), "{queue:?}");
    server.let_go();
    sink.wait_for(mails.len() + kept.len(), LONG);
    server.postfix().wait_until_empty(LONG);
    for mail in &kept {
        let found = sink.one(mail.key());
        assert!(found.mail_line.starts_with(&mail.mail_line()), "{}", found.mail_line);
        assert!(mail::body(&server.decrypted(&found.data)) == mail::body(&mail.data));
    }
    let copies = sink.copies();
    assert!(copies.values().all(|&copies| copies == 1), "{copies:?}");
    wait::until_true("nothing is inside", LONG, || server.postfix().queue().is_empty());
}
