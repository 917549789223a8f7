//! `certificate list|show|verify`: proofs, and checking one without a running lockgate.
//!
//! Not here: what a certificate says (`crate::drain::certificate`).

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Desk, Exit};
use crate::client::{DEADLINE, fill};
use crate::drain::certificate::{Body, Certificate, LogFact, LogFile, hex};
use crate::maillog::files::chain;
use crate::render::{Out, Table, clean};
use crate::watch::wire::{CertificateLine, path};

/// `certificate …`
#[derive(Debug, Subcommand)]
pub enum Certificates {
    /// Every certificate that was issued (2: none)
    List,
    /// One, as the document that is kept and handed on
    Show {
        /// Its number
        number: String,
    },
    /// Check one without a running lockgate (2: it does not hold)
    Verify(Verify),
}

/// What is checked.
#[derive(Debug, Args)]
pub struct Verify {
    /// The document
    file: PathBuf,
    /// Public key that must have signed it, in hexadecimal (`certificate list` shows it)
    #[arg(long, value_name = "HEX")]
    key: Option<String>,
    /// Log files that it names: their octets are hashed again. Files may have another name now
    #[arg(long, num_args = 1.., value_name = "FILE")]
    logs: Vec<PathBuf>,
}

pub(super) async fn run(
    desk: &Desk,
    certificates: Certificates,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    match certificates {
        Certificates::List => {
            let lines: Vec<CertificateLine> = desk.client.get(path::CERTIFICATES, DEADLINE).await?;
            let none = lines.is_empty();
            let mut table = Table::new(&["NUMBER", "MEMBER", "ISSUED", "STATE", "KEY"]);
            for line in &lines {
                let state = line.revoked.as_ref().map_or("holds", |_| "REVOKED");
                table.row([line.number.as_str(), &line.member, &line.issued, state, &line.key]);
            }
            if out.format() == crate::render::Format::Json {
                for line in &lines {
                    out.json_line(line)?;
                }
            } else if none {
                out.say("no certificate was issued yet")?;
            } else {
                out.say(&table.to_text(false))?;
            }
            Ok(Exit::yes_if(!none))
        }
        Certificates::Show { number } => {
            let target = fill(path::CERTIFICATE, "number", &number);
            let certificate: Certificate = desk.client.get(&target, DEADLINE).await?;
            // The document itself, whatever format was asked for.
            out.say(&serde_json::to_string_pretty(&certificate)?)?;
            Ok(Exit::Yes)
        }
        Certificates::Verify(verify) => self::verify(&verify, out),
    }
}

#[derive(Serialize)]
struct Checked {
    holds: bool,
    number: String,
    member: String,
    issued: String,
    grade: String,
    key: String,
    /// It is the one that was asked for.
    key_compared: bool,
    findings: Vec<String>,
}

pub(super) fn verify(verify: &Verify, out: &mut Out) -> anyhow::Result<Exit> {
    let name = verify.file.display();
    let text =
        std::fs::read_to_string(&verify.file).with_context(|| format!("cannot read {name}"))?;
    let certificate = Certificate::parse(&text)?;
    let number = certificate.number()?;
    let body = match certificate.verify(verify.key.as_deref()) {
        Ok(body) => body,
        Err(error) => {
            let findings = vec![error.to_string()];
            let checked = Checked {
                holds: false,
                number,
                member: String::new(),
                issued: String::new(),
                grade: String::new(),
                key: certificate.key,
                key_compared: false,
                findings,
            };
            out.document(&checked, shown)?;
            return Ok(Exit::No);
        }
    };
    let mut findings = Vec::new();
    let mut holds = true;
    let mut checked: Vec<&LogFile> = Vec::new();
    for file in &verify.logs {
        match check_log(&body, file)? {
            Some(named) => {
                let (name, offset) = (file.display(), named.offset);
                findings
                    .push(format!("{name} is {}: {offset} octets are as they were", named.path));
                checked.push(named);
            }
            None => {
                holds = false;
                let name = file.display();
                findings
                    .push(format!("{name} is none of the files that are named, or was changed"));
            }
        }
    }
    for (log, missing) in unseen_sentinels(&body, &verify.logs, &checked)? {
        holds = false;
        findings.push(format!("the files of log {log} do not show the sentinel {missing}"));
    }
    for named in body.logs.iter().flat_map(|log| &log.files) {
        if !checked.contains(&named) {
            findings.push(format!("{} was not checked again (--logs)", named.path));
        }
    }
    for (doubt, word) in &body.waivers {
        findings.push(format!("{} answers for {doubt}: {}", word.by, word.reason));
    }
    let checked = Checked {
        holds,
        number,
        member: body.member,
        issued: body.issued.to_string(),
        grade: body.grade_text,
        key: certificate.key,
        key_compared: verify.key.is_some(),
        findings,
    };
    out.document(&checked, shown)?;
    Ok(Exit::yes_if(holds))
}

/// Sentinels that a log must show, since the verdict took it for alive by them, and that none of its files does. Only of logs
/// of which every file is at hand.
fn unseen_sentinels(
    body: &Body,
    files: &[PathBuf],
    checked: &[&LogFile],
) -> anyhow::Result<Vec<(String, String)>> {
    let mut missing = Vec::new();
    let fenced = body.fences.iter().map(|fence| fence.quiet).max();
    let by_sentinel = |log: &&LogFact| {
        let alive = log.shown_until.is_some() && log.shown_until > fenced;
        let all = log.files.iter().all(|file| checked.contains(&file));
        log.role == "server" && alive && all && !log.files.is_empty()
    };
    for log in body.logs.iter().filter(by_sentinel) {
        let mut ids: Vec<&str> = body.sentinels.iter().map(|one| one.message_id.as_str()).collect();
        for file in files {
            for line in BufReader::new(open(file)?).split(b'\n') {
                let line = line?;
                ids.retain(|id| memchr::memmem::find(&line, id.as_bytes()).is_none());
            }
        }
        // One of them is enough: logs need not name Message-IDs of every gate.
        if !body.sentinels.is_empty() && ids.len() == body.sentinels.len() {
            missing.push((log.log.clone(), ids.join(", ")));
        }
    }
    Ok(missing)
}

/// The file that the certificate names and that this one is, octet for octet.
fn check_log<'a>(body: &'a Body, path: &Path) -> anyhow::Result<Option<&'a LogFile>> {
    let name = path.display();
    for log in &body.logs {
        // Of nothing the hash fits everything.
        for file in log.files.iter().filter(|file| !file.hash.is_empty() && file.offset > 0) {
            let mut opened = open(path).with_context(|| format!("cannot read {name}"))?;
            // A shorter one is another.
            let Ok(hash) = chain::of_prefix(&mut opened, file.offset) else { continue };
            if hex(&hash) == file.hash {
                return Ok(Some(file));
            }
        }
    }
    Ok(None)
}

/// The content of a file, as it was read when it was handed in: unpacked.
fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut magic = [0; 2];
    let read = File::open(path)?.read(&mut magic)?;
    let file = BufReader::new(File::open(path)?);
    Ok(match &magic[..read] {
        [0x1f, 0x8b] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        _ => Box::new(file),
    })
}

fn shown(checked: &Checked) -> String {
    let mut lines = Vec::new();
    if checked.holds {
        lines.push(format!(
            "certificate {} holds: {} was empty, issued {}",
            checked.number, checked.member, checked.issued
        ));
        lines.push(format!("  {}", checked.grade));
    } else {
        lines.push(format!("certificate {} does not hold", checked.number));
    }
    lines.push(format!("  signed with key {}", checked.key));
    if checked.holds && !checked.key_compared {
        lines.push(
            "  whose key that is was not asked: compare it with `certificate list` (--key)"
                .to_owned(),
        );
    }
    lines.extend(checked.findings.iter().map(|finding| format!("  {}", clean(finding))));
    lines.join("\n")
}
