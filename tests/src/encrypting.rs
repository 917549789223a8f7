//! A real encrypting mail server: Postfix, and gpg as its content filter (store and forward).
//!
//! ```text
//! client → smtpd → queue → pipe → filter (gpg) → second smtpd → queue → next hop
//! ```
//!
//! What comes in at [`Encrypting::address`] is in its queue when it is answered 250, as at the real
//! server. The filter makes PGP/MIME of it (RFC 3156), keeps every field but those of the content,
//! and gives it back over SMTP with the first queue id as XFORWARD IDENT, so that the log joins both
//! lives of a message by `orig_queue_id=`.
//!
//! The key is made for each server, in its folder. The filter has the public half only and needs no
//! agent; the agents that made the key and read mail with it end with the value.
//!
//! Needs the Debian packages `postfix`, `gnupg` and `python3`.

use std::fs;
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::port;
use crate::postfix::{Postfix, Settings};
use crate::wait;

const GPG: &str = "/usr/bin/gpg";
const PYTHON: &str = "/usr/bin/python3";
/// Whose key all mail is encrypted to.
const KEY: &str = "everyone@server.test";
/// The user under which pipe(8) runs the filter: neither root nor Postfix's own.
const FILTER_USER: &str = "nobody";

/// How often the filter looks whether it is still held, every 50 ms, before it exits with 75
/// (EX_TEMPFAIL) and Postfix tries again.
const TRIES: u32 = 4;

/// The filter. Arguments: queue id, reverse-path (may be empty), forward-paths.
const FILTER: &str = r#"
import os, smtplib, subprocess, sys, time

queue_id, sender, recipients = sys.argv[1], sys.argv[2], sys.argv[3:]
for _ in range({tries}):
    if not os.path.isdir("{hold}"):
        break
    time.sleep(0.05)
else:
    print("held inside")
    sys.exit(75)

# The process that wrote to the pipe gives lines with LF; mail has CRLF.
mail = sys.stdin.buffer.read().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
head, _, body = mail.partition(b"\r\n\r\n") if not mail.startswith(b"\r\n") else (b"", b"", mail[2:])

fields = []
for line in head.split(b"\r\n"):
    if fields and line[:1] in (b" ", b"\t"):
        fields[-1] += b"\r\n" + line
    elif line:
        fields.append(line)

def of_content(field):
    name = field.split(b":")[0].strip().lower()
    return name.startswith(b"content-") or name == b"mime-version"

inner = b"".join(f + b"\r\n" for f in fields if of_content(f)) + b"\r\n" + body
gpg = subprocess.run(
    ["{gpg}", "--homedir", "{public}", "--no-autostart", "--batch", "--quiet",
     "--trust-model", "always", "-r", "{key}", "--encrypt", "--armor"],
    input=inner, capture_output=True)
if gpg.returncode != 0:
    print("gpg: " + gpg.stderr.decode(errors="replace").replace("\n", " "))
    sys.exit(75)
armour = gpg.stdout.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")

mark = b"=_" + queue_id.encode() + b"_pgp"
outer = b"".join(f + b"\r\n" for f in fields if not of_content(f)) + b"\r\n".join([
    b"MIME-Version: 1.0",
    b'Content-Type: multipart/encrypted; protocol="application/pgp-encrypted";',
    b'\tboundary="' + mark + b'"',
    b"",
    b"--" + mark,
    b"Content-Type: application/pgp-encrypted",
    b"",
    b"Version: 1",
    b"",
    b"--" + mark,
    b"Content-Type: application/octet-stream; name=encrypted.asc",
    b"",
    armour + b"--" + mark + b"--",
    b"",
])

try:
    with smtplib.SMTP("{back_host}", {back_port}, local_hostname="filter.test", timeout=30) as back:
        back.ehlo()
        back.docmd("XFORWARD", "IDENT=" + queue_id)
        utf8 = not (sender + "".join(recipients)).isascii()
        options = ["BODY=8BITMIME"] + (["SMTPUTF8"] if utf8 else [])
        if utf8:
            back.command_encoding = "utf-8"
        for code, text in [back.mail(sender, options)] + [back.rcpt(r) for r in recipients]:
            if code != 250:
                raise smtplib.SMTPResponseException(code, text)
        code, text = back.data(outer)
        if code != 250:
            raise smtplib.SMTPResponseException(code, text)
except (OSError, smtplib.SMTPException) as error:
    print("cannot give it back: " + repr(error))
    sys.exit(75)
print(str(code) + " " + text.decode(errors="replace"))
"#;

/// A running encrypting server; stopped when dropped.
#[derive(Debug)]
pub struct Encrypting {
    postfix: Postfix,
    keys: Keys,
    hold: PathBuf,
}

impl Encrypting {
    /// A server of this host name that sends what it encrypted to `next_hop`.
    #[must_use]
    #[track_caller]
    pub fn relaying(name: &str, next_hop: SocketAddr) -> Self {
        Self::with(Settings::relaying(name, next_hop))
    }

    /// A server with these settings, whose mail goes through the filter before it goes anywhere.
    #[must_use]
    #[track_caller]
    pub fn with(settings: Settings) -> Self {
        for (program, package) in [(GPG, "gnupg"), (PYTHON, "python3")] {
            assert!(
                Path::new(program).exists(),
                "{program} is missing (apt-get install --no-install-recommends {package})"
            );
        }
        let keys = Keys::new();
        let hold = keys.folder.path().join("hold");
        let back = port::free_address();
        let filter = keys.folder.path().join("filter.py");
        let script = FILTER
            .replace("{tries}", &TRIES.to_string())
            .replace("{hold}", &hold.display().to_string())
            .replace("{gpg}", GPG)
            .replace("{public}", &keys.public().display().to_string())
            .replace("{key}", KEY)
            .replace("{back_host}", &back.ip().to_string())
            .replace("{back_port}", &back.port().to_string());
        fs::write(&filter, script).unwrap();
        let services = format!(
            "{back} inet n - n - - smtpd -o content_filter=\n\
             gpgfilter unix - n n - 10 pipe user={FILTER_USER} null_sender= \
             argv={PYTHON} -I {filter} ${{queue_id}} ${{sender}} ${{recipient}}\n",
            filter = filter.display(),
        );
        let postfix = settings
            .service(&services)
            .set("content_filter", "gpgfilter:")
            .set("gpgfilter_initial_destination_concurrency", "10")
            .start();
        Self { postfix, keys, hold }
    }

    /// Where it accepts mail.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.postfix.address()
    }

    /// The Postfix beneath: its log, its queue, its stop.
    #[must_use]
    pub const fn postfix(&self) -> &Postfix {
        &self.postfix
    }

    /// The Postfix beneath, to stop, wipe and start it.
    #[must_use]
    pub const fn postfix_mut(&mut self) -> &mut Postfix {
        &mut self.postfix
    }

    /// Keeps mail inside, from now on: it stays in the queue, deferred.
    pub fn hold(&self) {
        fs::create_dir(&self.hold).unwrap();
    }

    /// Lets mail go again, also what was deferred.
    pub fn let_go(&self) {
        fs::remove_dir(&self.hold).unwrap();
        self.postfix.flush();
    }

    /// The one log line that has all of these, once it is there.
    #[track_caller]
    pub fn wait_for_log(&self, parts: &[&str]) -> String {
        wait::until(&format!("a line of the mail log with {parts:?}"), wait::LONG, || {
            let log = self.postfix.log();
            let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            line.map(str::to_owned)
        })
    }

    /// What was encrypted in mail data that came out: the part of MIME it was made of, with CRLF.
    ///
    /// # Panics
    /// When nothing was, or not for this server's key.
    #[must_use]
    #[track_caller]
    pub fn decrypted(&self, wire: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(wire);
        let from = text.find("-----BEGIN PGP MESSAGE-----").expect("an encrypted message");
        let end = "-----END PGP MESSAGE-----";
        let to = text.find(end).expect("its end") + end.len();
        // An armour line never begins with a dot: nothing is stuffed.
        self.keys.decrypted(&text.as_bytes()[from..to])
    }
}

/// The key of one server: all of it in one folder, the public half in another for the filter.
#[derive(Debug)]
struct Keys {
    folder: TempDir,
}

impl Keys {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("gpg-")
            // The filter runs under another user.
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let keys = Self { folder };
        for home in [keys.secret(), keys.public()] {
            fs::create_dir(&home).unwrap();
            fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let make = ["--passphrase", "", "--quick-gen-key", KEY, "default", "default", "never"];
        keys.gpg(&keys.secret(), &make, &[]);
        let public = keys.gpg(&keys.secret(), &["--export", KEY], &[]);
        keys.gpg(&keys.public(), &["--no-autostart", "--import"], &public);
        let owned =
            Command::new("chown").args(["-R", FILTER_USER]).arg(keys.public()).status().unwrap();
        assert!(owned.success(), "no user {FILTER_USER}");
        keys
    }

    fn secret(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    fn public(&self) -> PathBuf {
        self.folder.path().join("public")
    }

    fn decrypted(&self, armour: &[u8]) -> Vec<u8> {
        self.gpg(&self.secret(), &["--decrypt"], armour)
    }

    #[track_caller]
    fn gpg(&self, home: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        // Not through a pipe: it writes before it has read all, and both pipes could be full.
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(input).unwrap();
        file.rewind().unwrap();
        let output = Command::new(GPG)
            .arg("--homedir")
            .arg(home)
            .args(["--batch", "--quiet", "--trust-model", "always"])
            .args(arguments)
            .stdin(file)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "gpg {arguments:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // gpg starts an agent for the secret key, which outlives it. One that is gone is no fault.
        Command::new("/usr/bin/gpgconf")
            .arg("--homedir")
            .arg(self.secret())
            .args(["--kill", "all"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok();
    }
}
