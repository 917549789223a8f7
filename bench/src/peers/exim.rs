//! Exim that takes mail into its queue and delivers nothing (`queue_only`, no queue runner).
//!
//! Its package cannot be installed beside that of Postfix; `LOCKGATE_BENCH_EXIM` names a binary
//! that was unpacked elsewhere. No name is looked up, no limit stops a session, and the log goes
//! nowhere.
//!
//! Needs root (Exim changes to another user) and the Debian package `exim4-daemon-light`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::{Place, START, ask, files, guarded, root, run, word_after};
use crate::component::{Component, folder_in, free_address, program};

/// Names the binary when it is not on PATH.
const BINARY: &str = "LOCKGATE_BENCH_EXIM";

/// A user that every Debian has; the queue belongs to it.
const USER: &str = "mail";

fn binary() -> Result<PathBuf, String> {
    let named = std::env::var_os(BINARY).map(PathBuf::from).filter(|file| file.is_file());
    program("exim4").or(named).ok_or_else(|| {
        format!(
            "exim4 is not here (apt-get install --no-install-recommends exim4-daemon-light; beside \
             Postfix: unpack it elsewhere and name the binary in {BINARY})"
        )
    })
}

pub(super) fn installed() -> Result<(), String> {
    binary()?;
    root()
}

pub(super) fn version() -> Result<String> {
    let program = binary().map_err(anyhow::Error::msg)?;
    word_after(&ask(&program, &["-bV"])?, "Exim version ")
}

pub(super) fn start(place: &Place<'_>) -> Result<Component> {
    let program = binary().map_err(anyhow::Error::msg)?;
    let folder = folder_in(place.folder, place.name)?;
    let listen = free_address()?;
    let spool = folder.path().join("spool");
    fs::create_dir(&spool)?;
    run(Command::new("chown").arg(format!("{USER}:{USER}")).arg(&spool))?;
    // It insists on a name with `%s`, and cannot be told to log nothing.
    let log = folder.path().join("log");
    fs::create_dir(&log)?;
    for name in ["main", "reject", "panic"] {
        symlink("/dev/null", log.join(name))?;
    }
    let config = format!(
        "exim_user = {USER}\n\
         exim_group = {USER}\n\
         primary_hostname = exim.test\n\
         spool_directory = {spool}\n\
         pid_file_path = {spool}/pid\n\
         log_file_path = {log}/%s\n\
         log_selector = -all\n\
         keep_environment =\n\
         exim_path = {program}\n\
         local_interfaces = {host}\n\
         daemon_smtp_ports = {port}\n\
         host_lookup =\n\
         rfc1413_hosts =\n\
         tls_advertise_hosts =\n\
         queue_only\n\
         message_size_limit = 100M\n\
         check_spool_space = 0\n\
         check_spool_inodes = 0\n\
         smtp_accept_max = 1200\n\
         smtp_connect_backlog = 1024\n\
         smtp_accept_max_per_connection = 0\n\
         smtp_accept_queue_per_connection = 0\n\
         acl_smtp_rcpt = accept\n\
         begin routers\n\
         nowhere:\n  driver = redirect\n  data = :defer: held\n",
        program = program.display(),
        spool = spool.display(),
        log = log.display(),
        host = listen.ip(),
        port = listen.port(),
    );
    let file = folder.path().join("exim.conf");
    fs::write(&file, config)?;
    let mut command = guarded(&program);
    command.arg("-bdf").arg("-C").arg(&file);
    let mut component = Component::spawn(place.name, &command, place.placement)?;
    component = component.at(listen).keeping(folder);
    component.wait_until_open(START)?;
    Ok(component)
}

/// How many messages lie in the queue: each has one file with its header and envelope.
pub(super) fn held(component: &Component) -> Result<usize> {
    files(&component.folder()?.join("spool/input"), |name| name.ends_with("-H"))
}
