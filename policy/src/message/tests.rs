//! What is read from messages, what is written, and that both agree.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::sample::Shape;

fn read(octets: &[u8]) -> Sample {
    samples(octets, "a@example.com", &["b@example.org".to_owned()]).remove(0)
}

fn text(text: &str) -> Option<Fact> {
    Some(Fact::Text(text.to_owned()))
}

fn texts(texts: &[&str]) -> Option<Fact> {
    Some(Fact::Texts(texts.iter().map(|text| (*text).to_owned()).collect()))
}

/// One message with everything in it.
const FULL: &str = "From: =?iso-8859-1?q?J=F6rg?= <a@example.com>\r\n\
    Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n =?utf-8?Q?_aus_K=C3=B6ln?=\r\n\
    X-Secret: one\r\nx-secret: two\r\n three\r\nList-Id: News <news.example.com>\r\n\
    X-Priority: 1 (Highest)\r\nImportance: high\r\nSensitivity: Company-Confidential\r\n\
    Content-Type: multipart/mixed; boundary=b\r\n\r\n\
    --b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\
    Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=FC=DFe\r\n\
    --b\r\nContent-Type: application/pdf; name=\"x.pdf\"\r\n\r\n%PDF-1.4\r\n\
    --b\r\nContent-Type: text/plain\r\n\
    Content-Disposition: attachment; filename*0*=utf-8''%C3%BC; filename*1*=ber.txt\r\n\r\nno body\r\n\
    --b--\r\n";

#[test]
fn every_fact_of_a_message_is_read() {
    let found = read(FULL.as_bytes());
    let fact = |variable: Variable| found.fact(&variable).cloned();
    assert_eq!(fact(Variable::Sender), text("a@example.com"));
    assert_eq!(fact(Variable::Recipient), text("b@example.org"));
    assert_eq!(fact(Variable::Subject), text("Grüße aus Köln"));
    assert_eq!(fact(Variable::header("X-Secret")), texts(&["one", "two three"]));
    assert_eq!(fact(Variable::header("From")), texts(&["Jörg <a@example.com>"]));
    assert_eq!(fact(Variable::header("X-Absent")), texts(&[]));
    assert_eq!(fact(Variable::Size), Some(Fact::Number(FULL.len() as u64)));
    assert_eq!(fact(Variable::Body), text("Grüße"));
    assert_eq!(fact(Variable::AttachmentName), texts(&["x.pdf", "über.txt"]));
    assert_eq!(fact(Variable::AttachmentType), texts(&["application/pdf", "text/plain"]));
    assert_eq!(fact(Variable::Priority), text("high"));
    assert_eq!(fact(Variable::Sensitivity), text("confidential"));
    assert_eq!(fact(Variable::MailingList), text("yes"));
    assert_eq!(fact(Variable::Signed), text("no"));
    assert_eq!(fact(Variable::Encrypted), text("no"));
    assert_eq!(fact(Variable::Encoding), text("none"));
    assert_eq!(fact(Variable::Processing), None);
}

#[test]
fn every_recipient_has_a_sample() {
    let recipients = ["b@example.org".to_owned(), "c@example.org".to_owned()];
    let found = samples(FULL.as_bytes(), "", &recipients);
    let of = |place: usize| found[place].fact(&Variable::Recipient).cloned();
    assert_eq!((found.len(), of(0), of(1)), (2, text("b@example.org"), text("c@example.org")));
    assert_eq!(found[1].fact(&Variable::Sender), text("").as_ref());
}

#[test]
fn fields_that_contradict_each_other_say_nothing() {
    let both = read(b"Importance: high\r\nX-Priority: 5\r\nSubject: a\r\nSubject: b\r\n\r\n");
    assert_eq!(both.fact(&Variable::Priority), None);
    assert_eq!(both.fact(&Variable::Subject), None);
    assert_eq!(read(b"Sensitivity: odd\r\n\r\n").fact(&Variable::Sensitivity), None);
    let plain = read(b"A: b\r\n\r\n");
    assert_eq!(plain.fact(&Variable::Priority), text("normal").as_ref());
    assert_eq!(plain.fact(&Variable::Subject), text("").as_ref());
}

#[test]
fn what_cannot_be_decoded_is_not_known() {
    let japanese = read(b"Subject: =?iso-2022-jp?B?GyRCJU8lbSE8GyhC?=\r\nX-A: \xff\r\n\r\nbody");
    assert_eq!(japanese.fact(&Variable::Subject), None);
    assert_eq!(japanese.fact(&Variable::header("x-a")), None);
    assert_eq!(japanese.fact(&Variable::header("x-b")), None, "not all are known");
    let broken = read(b"Subject: a\r\nno field\r\n\r\nbody");
    assert_eq!(broken.fact(&Variable::Subject), None, "where the header ends is not sure");
}

#[test]
fn what_is_encrypted_hides_text_and_files() {
    let wanted = Sample::unknown().with_text(Variable::Encrypted, "part");
    let found = read(&write(&wanted).octets);
    assert_eq!(found.fact(&Variable::Encrypted), text("part").as_ref());
    for hidden in [Variable::Body, Variable::AttachmentName, Variable::Signed] {
        assert_eq!(found.fact(&hidden), None, "{hidden}");
    }
}

#[test]
fn a_line_of_a_mailbox_file_is_no_part_of_the_message() {
    let found = read(b"From a@example.com Thu Jan  1 00:00:00 1970\nSubject: x\n\n");
    assert_eq!(found.fact(&Variable::Subject), text("x").as_ref());
}

/// Goal: nothing that a text has in it becomes a field, a part or a command.
#[test]
fn no_text_gets_out_of_its_place() {
    let evil = "x\r\nBcc: evil@example.com\r\n\r\n--part-1\r\n\0\"; y=z";
    let mut wanted = Sample::unknown();
    for variable in [Variable::Subject, Variable::Body, Variable::Sender, Variable::Recipient] {
        wanted.set(variable, Fact::Text(evil.to_owned()));
    }
    for name in ["x-evil", "content-type", "from", "date", "x: y\r\nbcc", "bcc:"] {
        wanted.set(Variable::header(name), Fact::Texts(vec![evil.to_owned()]));
    }
    wanted.set(Variable::AttachmentName, Fact::Texts(vec![evil.to_owned()]));
    wanted.set(Variable::AttachmentType, Fact::Texts(vec![evil.to_owned(), "a/b".to_owned()]));
    let message = write(&wanted);
    let written = String::from_utf8(message.octets.clone()).unwrap();
    assert!(!written.contains("evil@") && !written.contains('\0'), "{written}");
    assert!(!written.to_ascii_lowercase().contains("\nbcc"), "{written}");
    assert_eq!(message.sender, "sender@example.invalid");
    assert_eq!(message.recipient, "recipient@example.invalid");
    let found = read(&message.octets);
    assert_eq!(found.fact(&Variable::Subject), text(evil).as_ref());
    assert_eq!(found.fact(&Variable::header("x-evil")), texts(&[evil]).as_ref());
    assert_eq!(found.fact(&Variable::AttachmentName), texts(&[evil]).as_ref());
    let unmet: Vec<String> = message.unmet.iter().map(|one| one.variable.to_string()).collect();
    for missing in
        ["recipient address", "sender address", "attachment type", "message header: bcc:"]
    {
        assert!(unmet.iter().any(|one| one == missing), "{missing}: {unmet:?}");
    }
}

#[test]
fn a_media_type_that_is_asked_for_is_written_only_if_it_is_one_line() {
    let of = |text: &str| {
        let fact = Fact::Texts(vec![text.to_owned()]);
        write(&Sample::unknown().with(Variable::header("content-type"), fact))
    };
    assert_eq!(of("text/html; charset=utf-8").unmet, []);
    let evil = String::from_utf8(of("text/plain\r\nBcc: evil@example.com").octets).unwrap();
    assert!(!evil.contains("evil@"), "{evil}");
}

#[test]
fn no_line_of_a_text_is_a_boundary() {
    let wanted = Sample::unknown()
        .with_text(Variable::Body, "one\n--part-1--\n--part-1\ntwo")
        .with(Variable::AttachmentName, Fact::Texts(vec!["x".to_owned()]));
    assert_eq!(write(&wanted).unmet, []);
}

#[test]
fn what_only_the_server_knows_stands_beside_the_message() {
    let wanted = Sample::unknown()
        .with_text(Variable::Direction, "outbound")
        .with_text(Variable::Subject, "x")
        .with_text(Variable::Processing, "ok");
    let message = write(&wanted);
    let beside: Vec<&Variable> = message.beside.iter().map(|(variable, _)| variable).collect();
    assert_eq!(beside, [&Variable::Direction, &Variable::Processing]);
    assert_eq!(message.unmet, []);
}

#[test]
fn facts_that_cannot_be_had_together_are_named() {
    let conflict = |sample: Sample| {
        let unmet = write(&sample).unmet;
        unmet.iter().map(|one| one.variable.to_string()).collect::<Vec<_>>()
    };
    let header =
        |name: &str, text: &str| (Variable::header(name), Fact::Texts(vec![text.to_owned()]));
    let (content_type, plain) = header("content-type", "text/plain");
    let encoded = Sample::unknown().with_text(Variable::Encoding, "S/MIME");
    assert_eq!(
        conflict(encoded.clone().with(content_type, plain)),
        ["message header: content-type"]
    );
    let (importance, low) = header("importance", "low");
    let urgent = Sample::unknown().with_text(Variable::Priority, "high").with(importance, low);
    assert_eq!(conflict(urgent), ["message priority"]);
    let hidden =
        encoded.clone().with_text(Variable::Encrypted, "all").with_text(Variable::Body, "x");
    assert_eq!(conflict(hidden), ["message body"]);
    let neither = encoded.with_text(Variable::Encrypted, "no").with_text(Variable::Signed, "no");
    assert_eq!(conflict(neither), ["message encoding"]);
    let fields = Sample::unknown().with_all_headers();
    assert_eq!(conflict(fields), ["message header: date", "message header: from"]);
    let small = Sample::unknown().with(Variable::Size, Fact::Number(10));
    assert_eq!(conflict(small), ["message size"]);
    let great = Sample::unknown().with(Variable::Size, Fact::Number(SIZE_MAX + 1));
    assert_eq!(conflict(great), ["message size"]);
}

#[test]
fn the_smallest_message_has_no_more_than_it_must() {
    let message = write(&Sample::unknown());
    let written = String::from_utf8(message.octets).unwrap();
    assert_eq!(
        written,
        "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\nFrom: <sender@example.invalid>\r\n\
         To: <recipient@example.invalid>\r\n\r\n"
    );
}

#[test]
fn any_size_is_met_to_the_octet() {
    for size in (200..3000).chain([1 << 20]) {
        let wanted = Sample::unknown()
            .with(Variable::Size, Fact::Number(size))
            .with_text(Variable::Body, "Hello\nWorld");
        let message = write(&wanted);
        assert_eq!((message.octets.len() as u64, message.unmet), (size, vec![]));
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,90}",
        "[a-zäöüß€𝄞 \t]{0,40}",
        "(?s)([^\r\u{fffd}\u{1b}]|\r\n|=\\?|--|;|\"){0,30}",
    ]
}

/// Texts that stand in a message as lines.
fn any_body() -> impl Strategy<Value = String> {
    any_text().prop_map(|text| text.replace('\r', ""))
}

fn any_word(variable: Variable) -> BoxedStrategy<(Variable, Fact)> {
    let Shape::Word(words) = variable.shape() else { unreachable!("no words") };
    select(words).prop_map(move |word| (variable.clone(), Fact::Text(word.to_owned()))).boxed()
}

/// Protection that can be seen from outside.
fn any_protection() -> impl Strategy<Value = Vec<(Variable, Fact)>> {
    let of = |encrypted: &str, signed: &str, encoding: &str| {
        let word = |variable, word: &str| (variable, Fact::Text(word.to_owned()));
        vec![
            word(Variable::Encrypted, encrypted),
            word(Variable::Signed, signed),
            word(Variable::Encoding, encoding),
        ]
    };
    let visible =
        [("no", "all"), ("no", "part"), ("all", "all"), ("part", "all"), ("part", "part")];
    let encodings = ["PGP/MIME", "PGP Partitioned", "S/MIME"];
    (select(visible.to_vec()), select(encodings.to_vec()), any::<bool>()).prop_map(
        move |((encrypted, signed), encoding, plain)| match plain {
            true => of("no", "no", "none"),
            false => of(encrypted, signed, encoding),
        },
    )
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let header = ("x-[a-z]{1,8}", prop::collection::vec(any_text(), 0..3))
        .prop_map(|(name, texts)| (Variable::header(&name), Fact::Texts(texts)));
    let names =
        prop::collection::vec(any_text().prop_filter("has a name", |text| !text.is_empty()), 1..3);
    let types =
        select(vec!["application/pdf", "image/png", "text/plain", "application/pkcs7-mime"]);
    let facts = (
        prop::collection::vec(header, 0..3),
        any_text().prop_map(|text| (Variable::Subject, Fact::Text(text))),
        any_body().prop_map(|text| (Variable::Body, Fact::Text(format!("{text}.")))),
        (names, types),
        (20_000u64..30_000).prop_map(|size| (Variable::Size, Fact::Number(size))),
        (
            any_word(Variable::Priority),
            any_word(Variable::Sensitivity),
            any_word(Variable::MailingList),
        ),
        any_protection(),
        "[a-z]{1,9}@[a-z]{1,9}\\.example",
    );
    facts
        .prop_flat_map(
            |(headers, subject, body, (names, media), size, words, protection, address)| {
                let encrypted = protection[0].1 != Fact::Text("no".to_owned());
                let apart = protection[2].1 == Fact::Text("PGP Partitioned".to_owned());
                let mut facts = headers;
                facts.extend([subject, size, words.0, words.1, words.2]);
                facts.push((Variable::Recipient, Fact::Text(address)));
                if !encrypted {
                    facts.push(body);
                }
                // Signatures of PGP Partitioned stand in files, and find theirs by name.
                if !encrypted && !apart {
                    facts.push((Variable::AttachmentName, Fact::Texts(names)));
                    facts.push((Variable::AttachmentType, Fact::Texts(vec![media.to_owned()])));
                }
                let most = facts.len();
                (subsequence(facts, 0..=most), Just(protection))
            },
        )
        .prop_map(|(facts, protection)| {
            let facts = facts.into_iter().chain(protection);
            facts.fold(Sample::unknown(), |sample, (variable, fact)| sample.with(variable, fact))
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read(wanted in any_sample()) {
        let message = write(&wanted);
        prop_assert_eq!(&message.unmet, &vec![]);
        let recipients = [message.recipient.clone()];
        let found = samples(&message.octets, &message.sender, &recipients).remove(0);
        for (variable, fact) in wanted.facts() {
            let found = found.fact(variable);
            match (fact, found) {
                (Fact::Texts(wanted), Some(Fact::Texts(found))) => {
                    prop_assert!(wanted.iter().all(|one| found.contains(one)), "{}", variable);
                    prop_assert!(found.iter().all(|one| wanted.contains(one)), "{}", variable);
                }
                (wanted, found) => prop_assert_eq!(Some(wanted), found, "{}", variable),
            }
        }
    }

    #[test]
    fn lines_of_what_is_written_are_ascii_and_short(wanted in any_sample()) {
        for line in write(&wanted).octets.split(|octet| *octet == b'\n') {
            prop_assert!(line.len() < 998 && line.is_ascii());
        }
    }

    #[test]
    fn any_octets_are_read(octets in prop::collection::vec(any::<u8>(), 0..500)) {
        read(&octets);
    }

    #[test]
    fn any_facts_are_written(
        name in any::<String>(), text in any::<String>(), size in 0u64..5000,
        words in prop::collection::vec(any::<String>(), 3), list in prop::collection::vec(any::<String>(), 0..3),
    ) {
        let mut sample = Sample::unknown().with_text(Variable::Subject, &text);
        sample.set(Variable::Header(name), Fact::Texts(list.clone()));
        sample.set(Variable::header("content-type"), Fact::Texts(list.clone()));
        sample.set(Variable::AttachmentName, Fact::Texts(list.clone()));
        sample.set(Variable::AttachmentType, Fact::Texts(list));
        sample.set(Variable::Size, Fact::Number(size));
        for (variable, word) in [Variable::Sender, Variable::Recipient, Variable::Body].into_iter().zip(words) {
            sample.set(variable, Fact::Text(word));
        }
        let message = write(&sample);
        prop_assert!(message.octets.is_ascii());
    }
}
