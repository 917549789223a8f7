//! Carries the lines of a mail log on as they are written: over TCP or UDP as syslog, or into a journal.
//!
//! The journal is a real one, written by systemd-journal-remote and read by journalctl; no journald needs to run.
//!
//! Not here: what is said in the lines.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::process::bound_to_us;
use crate::wait;

/// Pause before the end of the log is looked at again.
const STEP: Duration = Duration::from_millis(20);

const JOURNAL_REMOTE: &str = "/lib/systemd/systemd-journal-remote";

/// A log on its way; it is carried until this is dropped.
#[derive(Debug)]
pub struct Carrier {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    writer: Option<Child>,
}

impl Carrier {
    fn start(log: &Path, mut each: impl FnMut(&str) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, log) = (Arc::clone(&stop), log.to_owned());
        let thread = std::thread::spawn(move || {
            let file = wait::until("the log is there", wait::LONG, || File::open(&log).ok());
            let mut lines = BufReader::new(file);
            let mut line = String::new();
            while !stopped.load(Ordering::Relaxed) {
                // The end of a line may not be written yet.
                if lines.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
                    each(line.trim_end());
                    line.clear();
                } else {
                    wait::let_pass(STEP);
                }
            }
        });
        Self { stop, thread: Some(thread), writer: None }
    }

    /// To a syslog receiver, each line as a message in a frame of its own (RFC 6587, octet counting).
    #[must_use]
    pub fn by_tcp(log: &Path, receiver: SocketAddr) -> Self {
        let mut stream =
            wait::until("syslog is taken", wait::LONG, || TcpStream::connect(receiver).ok());
        Self::start(log, move |line| {
            let message = format!("<22>{line}");
            write!(stream, "{} {message}", message.len()).unwrap();
        })
    }

    /// To a syslog receiver, each line in a datagram.
    #[must_use]
    pub fn by_udp(log: &Path, receiver: SocketAddr) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        Self::start(log, move |line| {
            socket.send_to(format!("<22>{line}").as_bytes(), receiver).unwrap();
        })
    }

    /// Into a journal in this folder, which must be there.
    #[must_use]
    pub fn into_journal(log: &Path, folder: &Path) -> Self {
        let file: PathBuf = folder.join("mail.journal");
        let mut command: Command = bound_to_us(JOURNAL_REMOTE);
        command.arg("-o").arg(&file).arg("-").stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut writer = command.spawn().unwrap();
        let mut entries = writer.stdin.take().unwrap();
        let mut monotonic = 0_u64;
        let mut carrier = Self::start(log, move |line| {
            monotonic += 1000;
            entries.write_all(entry(line, monotonic).as_bytes()).unwrap();
            entries.flush().unwrap();
        });
        carrier.writer = Some(writer);
        carrier
    }
}

/// A line of classic syslog as an entry of the journal's export format.
fn entry(line: &str, monotonic: u64) -> String {
    // `Nov 30 16:52:03 server postfix/smtpd[26110]: text`
    let behind_stamp = &line[16..];
    let (host, rest) = behind_stamp.split_once(' ').unwrap();
    let (tag, text) = rest.split_once(": ").unwrap();
    let (program, pid) = tag.split_once('[').unwrap_or((tag, "1]"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    format!(
        "__REALTIME_TIMESTAMP={now}\n__MONOTONIC_TIMESTAMP={monotonic}\n\
         _BOOT_ID=0123456789abcdef0123456789abcdef\nPRIORITY=6\nSYSLOG_FACILITY=2\n\
         SYSLOG_IDENTIFIER={program}\nSYSLOG_PID={}\n_HOSTNAME={host}\nMESSAGE={text}\n\n",
        pid.trim_end_matches(']')
    )
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it holds goes with it: the writer of the journal ends at the end of its input.
            thread.join().ok();
        }
        if let Some(mut writer) = self.writer.take() {
            writer.wait().ok();
        }
    }
}
