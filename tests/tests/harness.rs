//! The harness judged by itself: its parts against one another and against real servers.
//!
//! A story's verdict is worth what its instruments are worth: octets arrive as they were sent, a
//! scripted fault is the fault that was asked for, and a real Postfix runs, retries and stops.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::time::Duration;

use tests::client::{Client, Lost, Style};
use tests::lax::{Lax, unstuffed};
use tests::load::{Load, Progress};
use tests::lossy::{Lossy, Share};
use tests::mail::{self, Kind, Mail, WELL_FORMED};
use tests::postfix::Settings;
use tests::process::is_open;
use tests::sink::{Action, Rule, Sink, Stage};
use tests::tls::{self, Authority};
use tests::wait::{self, LONG};

#[test]
fn the_sink_records_every_octet_the_client_sends() {
    let sink = Sink::start("sink.test");
    let mails = mail::mixed("h", 40);
    Load::to(sink.address()).over(4).all_accepted(&mails);
    for mail in &mails {
        let found = sink.one(mail.key());
        assert_eq!(found.mail_line, mail.mail_line());
        assert_eq!(found.rcpt_lines, mail.rcpt_lines());
        assert!(found.data == mail.data, "{}", mail.key());
    }
    assert_eq!(sink.connections(), 4);
}

#[test]
fn the_sink_refuses_at_each_stage_as_told() {
    let sink = Sink::start("sink.test");
    sink.script(Rule::reply(Stage::Mail, "451 4.3.0 not this sender").about("<no@client.test>"));
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody").about("nobody"));
    sink.script(Rule::reply(Stage::Data, "452 4.3.1 full").times(1));
    sink.script(Rule::reply(Stage::End, "554 5.6.0 not this").times(1));
    let mut client = Client::open(sink.address());

    let receipt =
        client.transaction(&Mail::short("h", 1).from("<no@client.test>"), Style::LockStep);
    assert_eq!(receipt.mail.unwrap().code, 451);

    let mail = Mail::short("h", 2).to(&["<nobody@server.test>", "<h2@server.test>"]);
    let receipt = client.transaction(&mail, Style::Pipelined);
    assert_eq!(receipt.rcpt.iter().map(|reply| reply.code).collect::<Vec<_>>(), [550, 250]);
    assert_eq!(receipt.data.unwrap().code, 452);

    let receipt = client.transaction(&mail, Style::Pipelined);
    assert_eq!(receipt.end.as_ref().unwrap().code, 554);
    assert!(!receipt.accepted() && !receipt.unknown());
    assert_eq!((sink.dots(), sink.count()), (1, 0));

    assert!(client.transaction(&mail, Style::LockStep).accepted());
    assert_eq!(sink.one("h2@server.test").forward_paths(), ["h2@server.test"]);
}

#[test]
fn the_sink_loses_a_reply_before_or_after_taking_the_message() {
    for (taking, count) in [(false, 0), (true, 1)] {
        for action in [Action::Close, Action::Reset] {
            let sink = Sink::start("sink.test");
            let rule = Rule::at(Stage::End, action);
            sink.script(if taking { rule.taking() } else { rule });
            let receipt =
                Client::open(sink.address()).transaction(&Mail::short("h", 1), Style::Pipelined);
            assert!(receipt.unknown(), "{receipt:?}");
            assert_eq!(receipt.lost, Some(Lost::Closed));
            assert_eq!((sink.dots(), sink.count()), (1, count));
        }
    }
}

#[test]
fn the_sink_holds_a_final_reply_back_until_let_go() {
    let sink = Sink::start("sink.test");
    sink.script(Rule::at(Stage::End, Action::Hold));
    let address = sink.address();
    let sending = std::thread::spawn(move || {
        Client::open(address).transaction(&Mail::short("h", 1), Style::Pipelined)
    });
    sink.wait_for_holding(1);
    assert_eq!((sink.dots(), sink.count()), (1, 0));
    sink.let_go();
    assert!(sending.join().unwrap().accepted());
    sink.wait_for(1, LONG);
}

#[test]
fn the_sink_splits_garbles_and_delays_replies() {
    let sink = Sink::start("sink.test");
    sink.script(Rule::at(Stage::Ehlo, Action::Split));
    sink.script(Rule::at(Stage::Noop, Action::Raw(b"what?\r\n".to_vec())));
    sink.script(Rule::at(Stage::Mail, Action::Delay(Duration::from_millis(150))));
    let mut client = Client::open(sink.address());
    assert!(client.ehlo.offers("8BITMIME"), "{:?}", client.ehlo);
    assert_eq!(client.try_command("NOOP"), Err(Lost::Garbage("what?".to_owned())));
    assert!(client.transaction(&Mail::short("h", 1), Style::Pipelined).accepted());
    assert_eq!(sink.sessions()[0].waiting, 3, "MAIL, RCPT and DATA were there at once");
}

#[test]
fn a_stopped_sink_is_gone_and_comes_back_under_another_name() {
    let mut sink = Sink::start("old.test");
    let mut client = Client::open(sink.address());
    assert_eq!(client.banner.text(), "old.test ESMTP sink");
    client.deliver(&Mail::short("h", 1));
    sink.stop();
    assert!(!is_open(sink.address()));
    assert_eq!(client.try_command("NOOP"), Err(Lost::Closed));
    sink.start_again("new.test");
    assert_eq!(Client::open(sink.address()).banner.text(), "new.test ESMTP sink");
    assert_eq!(sink.count(), 1);
}

#[test]
fn client_and_sink_speak_tls() {
    let authority = Authority::new();
    let sink = Sink::start("sink.test");
    sink.offer_tls(authority.issue(&["sink.test"]).server());
    let client = Client::open(sink.address());
    assert!(client.ehlo.offers("STARTTLS"));
    let mut client = client.starttls(authority.client(), "sink.test");
    assert!(client.is_tls() && !client.ehlo.offers("STARTTLS"));
    client.deliver(&Mail::new("h", 1, Kind::Attachment(200_000)));
    assert!(sink.taken()[0].tls);

    let sink = Sink::start("sink.test");
    sink.speak_tls(authority.issue(&["sink.test"]).server());
    let mut client = Client::open_tls(sink.address(), tls::trusting_client(), "sink.test");
    client.deliver(&Mail::short("h", 2));
    assert!(sink.taken()[0].tls);
}

#[test]
fn a_load_sends_again_what_was_not_accepted() {
    let sink = Sink::start("sink.test");
    sink.script(Rule::at(Stage::End, Action::Close).taking().times(3));
    sink.script(Rule::reply(Stage::Mail, "421 4.3.2 later").times(5));
    let mails: Vec<Mail> = (0..30).map(|n| Mail::short("h", n)).collect();
    let progress = Progress::default();
    let sent = Load::to(sink.address()).until_accepted(&mails, LONG, &progress);
    assert!(sent.iter().all(tests::load::Sent::accepted));
    assert_eq!(progress.accepted(), 30);
    let copies = sink.copies();
    for (mail, sent) in mails.iter().zip(&sent) {
        assert_eq!(copies[mail.key()], 1 + sent.unknown(), "{}", mail.key());
    }
    assert_eq!(sent.iter().map(tests::load::Sent::unknown).sum::<usize>(), 3);
}

#[test]
fn the_lossy_relay_loses_every_kth_final_reply_and_the_server_has_the_message() {
    let sink = Sink::start("sink.test");
    let lossy = Lossy::start(sink.address(), Share::Every(3));
    let mails: Vec<Mail> =
        (0..8).map(|n| Mail::new("y", n, WELL_FORMED[n % WELL_FORMED.len()])).collect();
    for style in [Style::LockStep, Style::Pipelined] {
        sink.forget();
        lossy.lose(Share::Every(3));
        let before = lossy.lost().len();
        let mut client = Client::open(lossy.address());
        for (n, mail) in mails.iter().enumerate() {
            let receipt = client.transaction(mail, style);
            assert_eq!(receipt.unknown(), n == 2 || n == 5, "{n}: {receipt:?}");
            if receipt.unknown() {
                assert_eq!(receipt.lost, Some(Lost::Closed));
                client = Client::open(lossy.address());
            } else {
                assert!(receipt.accepted());
            }
            let found = sink.one(mail.key());
            assert!(found.data == mail.data, "{}", mail.key());
        }
        assert_eq!(lossy.lost()[before..], [mails[2].key(), mails[5].key()]);
    }
}

#[test]
fn the_lossy_relay_passes_refusals_and_other_replies() {
    let mut sink = Sink::start("sink.test");
    sink.script(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody").about("nobody"));
    sink.script(Rule::reply(Stage::Data, "452 4.3.1 full").times(1));
    sink.script(Rule::reply(Stage::End, "554 5.6.0 not this").times(1));
    let mut lossy = Lossy::start(sink.address(), Share::Every(1));
    let mut client = Client::open(lossy.address());
    assert!(client.ehlo.offers("PIPELINING"));
    let mail = Mail::short("y", 1).to(&["<nobody@server.test>", "<y1@server.test>"]);
    assert_eq!(client.transaction(&mail, Style::Pipelined).data.unwrap().code, 452);
    assert_eq!(client.transaction(&mail, Style::Pipelined).end.unwrap().code, 554);
    let receipt = client.transaction(&mail, Style::Pipelined);
    assert_eq!(receipt.rcpt.iter().map(|reply| reply.code).collect::<Vec<_>>(), [550, 250]);
    assert!(receipt.unknown(), "{receipt:?}");
    assert_eq!(lossy.lost(), ["y1@server.test"]);

    lossy.lose(Share::None);
    let mut client = Client::open(lossy.address());
    client.deliver(&mail);
    assert_eq!(client.quit().code, 221);
    let mut client = Client::open(lossy.address());
    lossy.stop();
    assert_eq!(client.try_command("NOOP"), Err(Lost::Closed));
    assert!(!is_open(lossy.address()));
    sink.stop();
}

/// Goal: as under a real load: a random share is lost, and each loss is a copy more, never less.
#[test]
fn a_load_over_the_lossy_relay_leaves_a_copy_more_for_each_lost_reply() {
    let sink = Sink::start("sink.test");
    let lossy = Lossy::start(sink.address(), Share::Random { per_cent: 20, seed: 7 });
    let mails: Vec<Mail> = (0..60).map(|n| Mail::short("z", n)).collect();
    let progress = Progress::default();
    let sent = Load::to(lossy.address()).until_accepted(&mails, LONG, &progress);
    assert_eq!(progress.accepted(), 60);
    let (copies, lost) = (sink.copies(), lossy.lost());
    assert!(!lost.is_empty());
    for (mail, sent) in mails.iter().zip(&sent) {
        let losses = lost.iter().filter(|key| *key == mail.key()).count();
        assert_eq!((sent.unknown(), copies[mail.key()]), (losses, 1 + losses), "{}", mail.key());
    }
}

/// Goal: the real servers of the interop stories work without lockgate between them.
/// Method: client → front → behind → sink, where the sink is down at first.
#[test]
fn two_postfix_instances_relay_and_retry_with_equal_bodies() {
    let mut sink = Sink::start("sink.test");
    sink.stop();
    let behind = Settings::relaying("behind.test", sink.address()).long_queue_ids().start();
    let front = Settings::relaying("front.test", behind.address()).start();
    let mails: Vec<Mail> =
        WELL_FORMED.into_iter().enumerate().map(|(n, kind)| Mail::new("p", n, kind)).collect();
    Load::to(front.address()).all_accepted(&mails);
    front.wait_until_empty(LONG);
    assert_eq!(behind.queue().len(), mails.len());

    sink.start_again("sink.test");
    behind.flush();
    sink.wait_for(mails.len(), LONG);
    behind.wait_until_empty(LONG);
    for mail in &mails {
        let found = sink.one(mail.key());
        assert!(mail::body(&found.data) == mail::body(&mail.data), "{}", mail.key());
        assert_eq!(mail::field(&found.data, "Message-ID"), mail.message_id());
    }
    assert!(front.log().contains("status=sent"), "{}", front.log());
}

#[test]
fn a_stopped_postfix_keeps_its_queue_and_a_wiped_one_does_not() {
    let mut sink = Sink::start("sink.test");
    sink.stop();
    let mut server = Settings::relaying("behind.test", sink.address()).start();
    Client::open(server.address()).deliver(&Mail::short("p", 1));
    wait::until_true("one message queued", LONG, || server.queue().len() == 1);
    server.stop();
    assert!(!is_open(server.address()));
    server.start_again();
    assert_eq!(server.queue().len(), 1);
    server.wipe();
    server.start_again();
    assert_eq!(server.queue().len(), 0);
}

#[test]
fn the_lax_server_receives_content_and_refuses_the_null_reverse_path() {
    let lax = Lax::start("lax.test", 4);
    let mail = Mail::new("l", 1, Kind::Dots);
    let mut client = Client::open(lax.address());
    client.deliver(&mail);
    let received = lax.wait_for(1, LONG);
    assert_eq!(received[0].content, unstuffed(&mail.data));
    assert_eq!(received[0].forward_paths, [mail.key()]);
    assert_eq!(client.command("MAIL FROM:<>").code, 500);
}
