//! Hold: by order, mail is taken into the spool and promised only when it is safe there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a story damages files behind lockgate's back")]

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::client::{Client, Style};
use tests::load::Load;
use tests::lockgate::{Gate, Lockgate, Settings, states, text};
use tests::mail::{self, Kind, Mail};
use tests::sink::{Action, Rule, Sink, Stage};
use tests::wait::{self, LONG};

/// A gate whose next hop has been met and that holds now.
fn holding() -> (Sink, Lockgate) {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    (sink, lockgate)
}

#[test]
fn a_held_message_is_promised_by_its_id_and_can_be_looked_at() {
    let (sink, lockgate) = holding();
    let mail = Mail::new("h", 1, Kind::Dots)
        .from("<Sender@Client.Test>")
        .to(&["<a@x.test> NOTIFY=FAILURE", "<\"b c\"@x.test>"]);
    let reply = Client::open(lockgate.outbound()).deliver(&mail);
    let words: Vec<String> = reply.text().split(' ').map(str::to_owned).collect();
    assert_eq!(words[..3], ["2.0.0", "held", "as"], "{reply:?}");
    let id = words[3].clone();

    let held = lockgate.held();
    assert_eq!(held.len(), 1);
    let message = &held[0];
    assert_eq!(text(message, "id"), id);
    assert_eq!(text(message, "gate"), "outbound");
    assert_eq!(text(message, "state"), "held");
    assert_eq!(text(message, "message_id"), mail.message_id().unwrap());
    assert_eq!(text(message, "reverse_path"), "Sender@Client.Test");
    assert_eq!(message["forward_paths"][0]["address"], "a@x.test");
    assert_eq!(message["forward_paths"][1]["address"], "\"b c\"@x.test");
    assert_eq!(states(message), ["held", "held"]);
    assert!(text(message, "held_at").ends_with('Z'));
    let size = usize::try_from(message["size"].as_u64().unwrap()).unwrap();
    assert!(size >= mail.data.len(), "{size}");

    let shown = lockgate.ok(&["held", "show", &id, "-o", "json"]).json();
    assert_eq!(shown["id"], id.as_str());
    assert!(!lockgate.ok(&["held", "show", &id]).said().contains("a message of a story"));
    let raw = lockgate.ok(&["held", "show", &id, "--raw"]).out;
    let content = String::from_utf8(tests::lax::unstuffed(&mail.data)).unwrap();
    assert!(raw.starts_with("Received:") && raw.ends_with(&content), "{raw}");
    assert_eq!(sink.dots(), 0);
    assert_eq!(lockgate.log_lines(&[&id, "outcome=\"held\""]).len(), 1, "one log line");
}

/// Goal: an order takes effect at the next MAIL of an open connection, without a refusal or a
/// reconnect, and a transaction already begun ends as it began.
#[test]
fn an_order_takes_effect_at_the_next_mail_and_never_midway() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    let begun = Mail::short("h", 1);
    assert_eq!(client.command(&begun.mail_line()).code, 250);
    lockgate.hold("outbound");
    assert_eq!(client.command(&begun.rcpt_lines()[0]).code, 250);
    assert_eq!(client.command("DATA").code, 354);
    client.send(&begun.data).unwrap();
    assert_eq!(client.command(".").text(), "2.0.0 queued as S000001", "passed as it began");

    let reply = client.deliver(&Mail::short("h", 2));
    assert!(reply.text().starts_with("2.0.0 held as "), "{reply:?}");

    // And the other way round: begun in hold, ended in hold.
    let begun = Mail::short("h", 3);
    assert_eq!(client.command(&begun.mail_line()).code, 250);
    lockgate.ok(&["release", "outbound", "--open-now"]);
    assert_eq!(client.command(&begun.rcpt_lines()[0]).code, 250);
    assert_eq!(client.command("DATA").code, 354);
    client.send(&begun.data).unwrap();
    assert!(client.command(".").text().starts_with("2.0.0 held as "));
    client.deliver(&Mail::short("h", 4));
    sink.wait_for(4, LONG);
    lockgate.wait_until_empty(LONG);
}

/// Goal: orders are on disk before they are answered.
/// Method: kill -9 as soon as `hold` has returned; after the start the gate still holds.
#[test]
fn an_order_survives_kill_minus_nine_and_restarts() {
    let (sink, mut lockgate) = holding();
    lockgate.kill();
    lockgate.serve();
    assert_eq!(lockgate.mode("outbound"), "hold");
    let order = lockgate.ok(&["orders", "list", "-o", "json"]).json_lines();
    assert_eq!(order.len(), 1);
    assert_eq!((&order[0]["effect"], &order[0]["reason"]), (&"hold".into(), &"a story".into()));
    assert_eq!(order[0]["holder"]["kind"], "operator");
    Client::open(lockgate.outbound()).deliver(&Mail::short("h", 1));
    lockgate.restart();
    assert_eq!(lockgate.mode("outbound"), "hold");
    assert_eq!((lockgate.held().len(), sink.dots()), (1, 0));
}

#[test]
fn serve_refuses_a_folder_that_was_never_initialised() {
    let sink = Sink::start("sink.test");
    let mut lockgate = Settings::with([Gate::to("outbound", sink.address())]).written();
    let (code, said) = lockgate.serve_refused();
    assert_eq!(code, 1);
    assert!(said.contains("lockgate init"), "names the mend: {said}");
    assert!(!lockgate.data().join("spool").exists(), "and makes nothing");
}

/// Files that init made beside the key: the one with the orders is found by what it holds, not by
/// a name that only the code knows.
fn order_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_string_lossy().contains("orders")).collect()
}

/// Goal: a missing or unreadable file of orders means hold, never pass.
#[test]
fn without_a_readable_file_of_orders_the_gate_holds() {
    let damage: [fn(&Path); 3] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, b"").unwrap(),
        |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            fs::write(path, bytes).unwrap();
        },
    ];
    for spoil in damage {
        let sink = Sink::start("sink.test");
        let mut lockgate = Lockgate::before(&sink);
        lockgate.stop();
        let files = order_files(&lockgate.data());
        assert_eq!(files.len(), 1, "{files:?}");
        spoil(&files[0]);
        lockgate.serve();
        assert_eq!(lockgate.mode("outbound"), "hold");
        let reply = Client::open(lockgate.outbound()).deliver(&Mail::short("h", 1));
        assert!(reply.text().contains("held as"), "{reply:?}");
        assert!(!lockgate.alarms().is_empty(), "and says so");
        assert_eq!(sink.dots(), 0);
    }
}

/// The brake needs no working lockgate: a file in the state folder, seen at the next MAIL.
#[test]
fn the_brake_file_holds_at_the_next_mail_and_its_removal_opens_nothing() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let mut client = Client::open(lockgate.outbound());
    client.deliver(&Mail::short("h", 1));
    let brake = lockgate.data().join("hold");
    fs::write(&brake, b"").unwrap();
    assert!(client.deliver(&Mail::short("h", 2)).text().contains("held as"));
    fs::remove_file(&brake).unwrap();
    assert!(client.deliver(&Mail::short("h", 3)).text().contains("held as"));
    let orders = lockgate.ok(&["orders", "list", "-o", "json"]).json_lines();
    assert_eq!(orders[0]["holder"]["kind"], "brake");

    let answer = lockgate.cli(&["release", "outbound"]).expect(2);
    assert!(answer.said().contains("brake"), "who still holds: {answer:?}");
    let id = orders[0]["id"].to_string();
    lockgate.ok(&["orders", "end", &id, "--force", "--reason", "the brake is off"]);
    sink.wait_for(3, LONG);
}

#[test]
fn wait_quiet_says_when_older_transactions_have_ended_and_lists_those_alive() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    sink.script(Rule::at(Stage::End, Action::Hold));
    let address = lockgate.outbound();
    let sending = std::thread::spawn(move || {
        Client::open(address).transaction(&Mail::short("q", 1), Style::LockStep)
    });
    sink.wait_for_holding(1);
    lockgate.hold("outbound");
    let quiet = ["wait", "quiet", "outbound", "--timeout", "1s", "-o", "json"];
    let answer = lockgate.cli(&quiet).expect(2).json();
    assert_eq!(answer["quiet"], false);
    let alive = answer["alive"].as_array().unwrap();
    assert_eq!(alive.len(), 1, "{answer}");
    assert_eq!((&alive[0]["what"], &alive[0]["after_final_dot"]), (&"pass".into(), &true.into()));
    assert_eq!(alive[0]["member"], "sems1");

    sink.let_go();
    assert!(sending.join().unwrap().accepted());
    assert_eq!(lockgate.ok(&quiet).json()["quiet"], true);
}

/// Goal: at the fence deadline those before the final dot are aborted with 451, those after it are
/// awaited, and idle connections to the member are given up.
#[test]
fn at_the_fence_those_before_the_final_dot_are_aborted_and_those_after_it_awaited() {
    let sink = Sink::start("sink.test");
    let settings = Settings::with([Gate::to("outbound", sink.address()).set("fence_s", "1")]);
    let lockgate = settings.start();
    lockgate.meet("outbound", &sink);
    sink.script(Rule::at(Stage::End, Action::Hold));
    let address = lockgate.outbound();
    let after = std::thread::spawn(move || {
        Client::open(address).transaction(&Mail::short("f", 1), Style::LockStep)
    });
    sink.wait_for_holding(1);
    let mut before = Client::open(lockgate.outbound());
    let mail = Mail::short("f", 2);
    assert_eq!(before.command(&mail.mail_line()).code, 250);
    assert_eq!(before.command(&mail.rcpt_lines()[0]).code, 250);
    assert_eq!(before.command("DATA").code, 354);
    before.send(b"Subject: half\r\n").unwrap();

    lockgate.hold("outbound");
    // The 451 may come at once or in answer to the final dot; never a 250.
    wait::until_true("only the one after its final dot is alive", LONG, || {
        let quiet = ["wait", "quiet", "outbound", "--timeout", "0s", "-o", "json"];
        let answer = lockgate.cli(&quiet).expect(2).json();
        let alive = answer["alive"].as_array().unwrap();
        alive.len() == 1 && alive[0]["after_final_dot"] == true
    });
    before.send(b"\r\nother half\r\n.\r\n").unwrap();
    let reply = before.expect_reply();
    assert!(reply.is_transient(), "{reply:?}");
    assert!(!after.is_finished());
    sink.let_go();
    assert!(after.join().unwrap().accepted());
    lockgate.ok(&["wait", "quiet", "outbound", "--timeout", "10s"]);
    wait::until_true("the pool has said QUIT", LONG, || sink.open_connections() == 0);
    assert_eq!(sink.count(), 1);
}

#[test]
fn mail_is_held_as_well_when_the_next_hop_is_gone() {
    let (mut sink, lockgate) = holding();
    sink.stop();
    let mails = mail::mixed("g", 40);
    Load::to(lockgate.outbound()).all_accepted(&mails);
    assert_eq!(lockgate.held().len(), mails.len());
}

/// Held mail is clear text that was to be encrypted: nothing of it is on disk in clear.
#[test]
fn nothing_of_a_held_message_is_on_disk_in_clear() {
    let (_sink, lockgate) = holding();
    let mut mail = Mail::short("secret", 1)
        .from("<secret-sender@client.test>")
        .to(&["<secret-recipient@x.test>"]);
    mail.data = b"Subject: secret-subject\r\n\r\nsecret-text\r\n".repeat(50);
    Client::open(lockgate.outbound()).deliver(&mail);
    assert_eq!(lockgate.held().len(), 1);
    let mut looked = 0;
    let mut folders = vec![lockgate.data()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                looked += 1;
                let bytes = fs::read(&path).unwrap();
                for secret in ["secret-s", "secret-r", "secret-t"] {
                    let found = memchr::memmem::find(&bytes, secret.as_bytes());
                    assert!(found.is_none(), "{secret} in {}", path.display());
                }
                assert_eq!(kind.permissions().mode() & 0o077, 0, "{}", path.display());
            }
        }
    }
    assert!(looked >= 3, "segment, marks and key at least");
}

fn key_file(lockgate: &Lockgate) -> std::path::PathBuf {
    lockgate.data().join("keys/spool.key")
}

/// Goal: with a wrong, missing or readable-to-all key it refuses to start and names the key; a key
/// is never made where segments exist.
#[test]
fn a_wrong_missing_or_open_key_refuses_to_start() {
    let (_sink, mut lockgate) = holding();
    Client::open(lockgate.outbound()).deliver(&Mail::short("k", 1));
    lockgate.stop();
    let path = key_file(&lockgate);
    let right = fs::read(&path).unwrap();

    fs::remove_file(&path).unwrap();
    assert!(lockgate.serve_refused().1.contains("key"));
    let init = lockgate.run(&["init", "--config", lockgate.config().to_str().unwrap()]);
    assert!(init.code != 0 && !path.exists(), "init makes no key where segments exist: {init:?}");

    let wrong: Vec<u8> = right.iter().map(|octet| octet.wrapping_add(1)).collect();
    fs::write(&path, wrong).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let said = lockgate.serve_refused().1;
    assert!(said.contains("key"), "{said}");

    fs::write(&path, &right).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let said = lockgate.serve_refused().1;
    assert!(said.contains("600"), "names the mend: {said}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    lockgate.serve();
    assert_eq!(lockgate.held().len(), 1);
}

#[test]
fn held_mail_of_a_gate_that_is_gone_refuses_to_start() {
    let (sink, mut lockgate) = holding();
    Client::open(lockgate.outbound()).deliver(&Mail::short("k", 1));
    lockgate.stop();
    let address = lockgate.outbound();
    let mut before = Vec::new();
    lockgate.regate(|gates| {
        before = gates;
        vec![Gate::to("renamed", sink.address())]
    });
    let said = lockgate.serve_refused().1;
    assert!(said.contains("outbound"), "names the gate: {said}");
    lockgate.regate(|_| before);
    lockgate.serve();
    assert_eq!((lockgate.held().len(), lockgate.outbound()), (1, address));
}

#[test]
fn a_second_process_on_the_same_spool_is_refused() {
    let (_sink, lockgate) = holding();
    // Same folder, other ports: only the lock can refuse.
    let text = lockgate.config_text();
    let other = lockgate.folder().join("second.toml");
    let mut second = text.clone();
    for address in [lockgate.outbound(), lockgate.metrics_address()] {
        let free = tests::port::free_address().to_string();
        second =
            second.replace(&format!("listen = \"{address}\""), &format!("listen = \"{free}\""));
    }
    assert_ne!(text, second);
    fs::write(&other, second).unwrap();
    let output = Command::new("timeout")
        .arg("20")
        .arg(tests::lockgate::binary())
        .args(["serve", "--config"])
        .arg(&other)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    Client::open(lockgate.outbound()).deliver(&Mail::short("k", 1));
    assert_eq!(lockgate.held().len(), 1, "the first is not disturbed");
}

/// Below `free_bytes_min` new mail gets 452 at MAIL, before the disk is full.
#[test]
fn below_the_free_space_minimum_mail_gets_452() {
    let sink = Sink::start("sink.test");
    let settings = Settings::with([Gate::to("outbound", sink.address())]);
    let lockgate = settings.set("spool", "free_bytes_min", "9000000000000000").start();
    lockgate.meet("outbound", &sink);
    lockgate.hold("outbound");
    let mut client = Client::open(lockgate.outbound());
    let reply = client.command("MAIL FROM:<a@client.test>");
    assert_eq!((reply.code, reply.text().split(' ').next().unwrap()), (452, "4.3.1"));
    assert!(!lockgate.alarms().is_empty(), "status says so");
    lockgate.release("outbound");
    wait::until_true("the gate passes", LONG, || lockgate.mode("outbound") == "pass");
    client.deliver(&Mail::short("f", 1));
}

/// Goal: a disk that fills up costs nobody a message.
/// Method: a real small file system; mail is sent until it is refused; what got 250 is there.
#[test]
fn a_full_disk_refuses_with_452_and_loses_nothing() {
    let sink = Sink::start("sink.test");
    let settings = Settings::with([Gate::to("outbound", sink.address())]);
    let mut lockgate = settings
        .set("spool", "segment_bytes", "1048576")
        .set("spool", "message_bytes_max", "1000000")
        .set("spool", "free_bytes_min", "2097152")
        .start();
    lockgate.meet("outbound", &sink);
    lockgate.stop();
    let spool = lockgate.data().join("spool");
    let _small = SmallDisk::mount(&spool, "12m");
    lockgate.serve();
    lockgate.hold("outbound");

    let mut promised = HashSet::new();
    let mut refused = None;
    let mut client = Client::open(lockgate.outbound());
    for n in 0..200 {
        let mail = Mail::new("full", n, Kind::Attachment(150_000));
        let receipt = client.transaction(&mail, Style::LockStep);
        if receipt.accepted() {
            promised.insert(mail.key().to_owned());
        } else {
            refused = receipt.last().cloned();
            break;
        }
    }
    let refused = refused.expect("the small disk fills up");
    assert_eq!((refused.code, refused.text().split(' ').next().unwrap()), (452, "4.3.1"));
    assert!(promised.len() > 10, "{}", promised.len());
    lockgate.restart();
    lockgate.release("outbound");
    sink.wait_for(promised.len(), LONG);
    let found: HashSet<String> = sink.copies().into_keys().collect();
    assert_eq!(found, promised);
    lockgate.stop();
}

/// A tmpfs of a fixed size over a folder; what was in the folder is copied into it.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(folder: &'a Path, size: &str) -> Self {
        let aside = folder.with_extension("aside");
        fs::rename(folder, &aside).unwrap();
        fs::create_dir(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(folder);
        assert!(mount.status().unwrap().success(), "mounting a tmpfs needs root");
        let mut copy = Command::new("cp");
        assert!(copy.arg("-a").arg(aside.join(".")).arg(folder).status().unwrap().success());
        Self(folder)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazy: a killed process may still have files open.
        Command::new("umount").arg("-l").arg(self.0).status().unwrap();
    }
}

#[test]
fn recipients_in_hold_are_accepted_unless_their_domain_is_not_ours() {
    let sink = Sink::start("sink.test");
    let gate = Gate::to("outbound", sink.address()).set("recipient_domains", r#"["x.test"]"#);
    let lockgate = Settings::with([gate]).start();
    lockgate.hold("outbound");
    let mail = Mail::short("d", 1).to(&["<a@x.test>", "<b@other.test>", "<c@X.TEST>"]);
    let receipt = Client::open(lockgate.outbound()).transaction(&mail, Style::LockStep);
    let codes: Vec<u16> = receipt.rcpt.iter().map(|reply| reply.code).collect();
    assert_eq!(codes, [250, 550, 250]);
    assert!(receipt.accepted());
    assert_eq!(lockgate.held()[0]["forward_paths"].as_array().unwrap().len(), 2);
}

#[test]
fn a_gate_may_refuse_another_hold_without_ending_this_one() {
    let (sink, lockgate) = holding();
    lockgate.ok(&["refuse", "outbound", "--reason", "too much"]);
    assert_eq!(lockgate.mode("outbound"), "refuse", "refuse goes before hold");
    let orders = lockgate.ok(&["orders", "list", "-o", "json"]).json_lines();
    let refuse = orders.iter().find(|order| order["effect"] == "refuse").unwrap();
    lockgate.ok(&["orders", "end", &refuse["id"].to_string()]);
    assert_eq!(lockgate.mode("outbound"), "hold");
    assert_eq!(sink.dots(), 0);
}

#[test]
fn a_clean_stop_ends_idle_connections_with_421_and_awaits_running_transactions() {
    let (sink, mut lockgate) = holding();
    let mut idle = Client::open(lockgate.outbound());
    let mut running = Client::open(lockgate.outbound());
    let mail = Mail::short("s", 1);
    assert_eq!(running.command(&mail.mail_line()).code, 250);
    assert_eq!(running.command(&mail.rcpt_lines()[0]).code, 250);
    assert_eq!(running.command("DATA").code, 354);
    lockgate.process().signal(tests::process::Signal::TERM);
    assert_eq!(idle.expect_reply().code, 421);
    running.send(&mail.data).unwrap();
    assert_eq!(running.command(".").code, 250, "a running transaction ends as it would");
    assert_eq!(running.expect_reply().code, 421);
    assert_eq!(lockgate.process().wait_for_end(LONG).code(), Some(0));
    lockgate.kill();
    lockgate.serve();
    assert_eq!((lockgate.held().len(), sink.dots()), (1, 0));
    assert!(wait::stays(Duration::from_millis(100), || lockgate.held().len() == 1));
}
