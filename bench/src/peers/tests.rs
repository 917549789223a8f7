//! Every peer that is here passes or holds mail, and leaves nothing behind.
//!
//! Method: a small blocking client and a small blocking sink, so that a fault of the load does not
//! look like one of a peer.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::*;
use crate::component::within;
use crate::lockgate::{GATE, Role, Settings};

const MESSAGES: u64 = 20;
const LONG: Duration = Duration::from_secs(30);

/// A sink that counts messages; ends with the test.
fn sink() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            // A connection that breaks is the peer's business.
            thread::spawn(move || serve(stream, &counted).ok());
        }
    });
    (address, count)
}

fn serve(mut stream: TcpStream, count: &AtomicU64) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 sink.test ESMTP\r\n")?;
    let mut lines = BufReader::new(stream.try_clone()?).split(b'\n');
    while let Some(line) = lines.next() {
        let line = String::from_utf8_lossy(&line?).to_uppercase();
        let reply: &[u8] = match line.get(..4) {
            Some("EHLO") => b"250-sink.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            Some("DATA") => {
                stream.write_all(b"354 go on\r\n")?;
                while lines.next().context("no end of data")??.as_slice() != b".\r" {}
                count.fetch_add(1, Ordering::Relaxed);
                b"250 2.0.0 taken\r\n"
            }
            Some("QUIT") => return Ok(stream.write_all(b"221 bye\r\n")?),
            _ => b"250 2.0.0 Ok\r\n",
        };
        stream.write_all(reply)?;
    }
    Ok(())
}

/// Sends messages over one connection, in lock-step.
fn send(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LONG))?;
    let mut replies = BufReader::new(stream.try_clone()?);
    let mut expect = |code: &str| loop {
        let mut line = String::new();
        replies.read_line(&mut line)?;
        anyhow::ensure!(line.starts_with(code), "{code} expected, got {line:?}");
        if line.as_bytes().get(3) == Some(&b' ') {
            return Ok(());
        }
    };
    expect("220")?;
    stream.write_all(b"EHLO client.test\r\n")?;
    expect("250")?;
    let body = "0123456789".repeat(7) + "\r\n";
    let mail = format!("From: <a@b.test>\r\nSubject: bench\r\n\r\n{}.\r\n", body.repeat(140));
    for _ in 0..MESSAGES {
        for (command, code) in [
            ("MAIL FROM:<a@b.test>\r\n", "250"),
            ("RCPT TO:<c@d.test>\r\n", "250"),
            ("DATA\r\n", "354"),
            (&mail, "250"),
        ] {
            stream.write_all(command.as_bytes())?;
            expect(code)?;
        }
    }
    stream.write_all(b"QUIT\r\n")?;
    expect("221")
}

fn wait_for(count: &AtomicU64, wanted: u64) {
    let arrived =
        within(LONG, || Ok((count.load(Ordering::Relaxed) == wanted).then_some(()))).unwrap();
    assert!(arrived.is_some(), "{} of {wanted} arrived", count.load(Ordering::Relaxed));
}

/// Starts a peer, sends, and lets `then` look; afterwards its folder must be gone.
fn story(peer: Peer, then: impl FnOnce(&Component, &AtomicU64)) {
    if let Err(missing) = peer.installed() {
        println!("not tested: {}: {missing}", peer.name());
        return;
    }
    let (address, count) = sink();
    let folder = tempfile::tempdir().unwrap();
    // The user of a peer must get through.
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let component = peer.start(address, Placement::Anywhere, folder.path()).unwrap();
    let before = component.cpu().unwrap();
    send(component.address().unwrap()).unwrap();
    then(&component, &count);
    let cpu = component.cpu().unwrap() - before;
    assert!(!cpu.is_zero());
    println!(
        "{} {}: {} processes, {} KiB, {cpu:?}",
        peer.name(),
        peer.version(),
        component.pids().unwrap().len(),
        component.memory().unwrap() / 1024
    );
    drop(component);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn passes(peer: Peer) {
    story(peer, |_, count| wait_for(count, MESSAGES));
}

fn holds(peer: Peer) {
    story(peer, |component, count| {
        assert_eq!(peer.held(component).unwrap(), Some(MESSAGES as usize));
        assert_eq!(count.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn haproxy_passes() {
    passes(Peer::HaProxy);
    passes(Peer::HaProxy128k);
}

#[test]
fn nginx_passes_as_a_relay_of_octets() {
    passes(Peer::NginxStream);
}

#[test]
fn nginx_passes_as_a_mail_proxy() {
    passes(Peer::NginxMail);
}

#[test]
fn postfix_passes_before_its_queue() {
    passes(Peer::PostfixProxy);
}

#[test]
fn postfix_holds_and_releases_all() {
    story(Peer::PostfixHold, |component, count| {
        assert_eq!(Peer::PostfixHold.held(component).unwrap(), Some(MESSAGES as usize));
        assert_eq!(count.load(Ordering::Relaxed), 0);
        postfix_release(component).unwrap();
        wait_for(count, MESSAGES);
        assert_eq!(Peer::PostfixHold.held(component).unwrap(), Some(0));
        let names: Vec<String> = component
            .pids()
            .unwrap()
            .into_iter()
            .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
            .map(|name| name.trim().to_owned())
            .collect();
        for name in ["master", "smtpd", "cleanup", "qmgr", "smtp"] {
            assert!(names.iter().any(|found| found == name), "no {name} in {names:?}");
        }
    });
}

#[test]
fn exim_holds() {
    holds(Peer::EximHold);
}

#[test]
fn smtp_source_sends() {
    if let Err(missing) = Peer::SmtpSource.installed() {
        println!("not tested: {missing}");
        return;
    }
    let (address, count) = sink();
    let order = smtp_source::Order { messages: MESSAGES, sessions: 4, octets: 10_240 };
    let sent = smtp_source::send(address, &order, Placement::Anywhere, LONG).unwrap();
    assert!(!sent.elapsed.is_zero(), "{sent:?}");
    wait_for(&count, MESSAGES);
}

#[test]
fn lockgate_passes_and_holds_and_releases() {
    let Some(binary) = std::env::var_os("LOCKGATE_BENCH_BINARY").map(PathBuf::from).or_else(|| {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/lockgate");
        built.exists().then_some(built)
    }) else {
        println!("not tested: no release build of lockgate");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (address, count) = sink();
    let settings = Settings::new(&binary, Role::Pass).on(Placement::Cpu(0));
    let lockgate = settings.start(address, folder.path()).unwrap();
    send(lockgate.address().unwrap()).unwrap();
    wait_for(&count, MESSAGES);
    drop(lockgate);

    let settings = Settings::new(&binary, Role::Hold).log("info");
    let lockgate = settings.start(address, folder.path()).unwrap();
    // A member whose EHLO is not known is asked for nothing in hold.
    send(lockgate.address().unwrap()).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), MESSAGES);
    assert!(lockgate.data().exists());
    lockgate.run(&["release", GATE, "--wait"]).unwrap();
    wait_for(&count, 2 * MESSAGES);
    assert!(!lockgate.component().cpu().unwrap().is_zero());
    assert!(lockgate.run(&["hold", "nowhere", "--reason", "none"]).is_err());
    drop(lockgate);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
