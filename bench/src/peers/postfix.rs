//! Postfix in a folder of its own: as a before-queue proxy, or with all mail on HOLD.
//!
//! Configuration, queue and data are this instance's; `master` runs in the foreground and is ended
//! by its id. No name is looked up, no client is throttled, and there are as many processes as
//! there are sessions. Nothing is logged to a file; where a syslog daemon listens, Postfix cannot
//! be kept from writing to it.
//!
//! Needs root (Postfix changes to its own user) and the Debian package `postfix`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Place, START, ask, files, find, guarded, root, run, word_after};
use crate::component::{Component, folder_in, free_address};

/// Where the daemons are, by distribution.
const DAEMONS: [&str; 3] =
    ["/usr/lib/postfix/sbin", "/usr/libexec/postfix", "/usr/lib/postfix/bin"];

/// `name type private unpriv chroot wakeup maxproc command`; `{listen}` is filled in.
const MASTER: &str = "\
{listen} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
";

/// What it does with mail.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// Gives it to the sink while the client waits (`smtpd_proxy_filter`).
    Proxy,
    /// Queues it, on hold, until [`release`].
    Hold,
}

pub(super) fn installed() -> Result<(), String> {
    find("postfix", "postfix")?;
    daemons().ok_or("the daemons of postfix are not where they are on Debian")?;
    root()
}

pub(super) fn version() -> Result<String> {
    let program = find("postconf", "postfix").map_err(anyhow::Error::msg)?;
    word_after(&ask(&program, &["-d", "mail_version"])?, "mail_version = ")
}

fn daemons() -> Option<&'static Path> {
    DAEMONS.map(Path::new).into_iter().find(|folder| folder.join("master").exists())
}

pub(super) fn start(place: &Place<'_>, role: Role) -> Result<Component> {
    let daemons = daemons().context("postfix is not here")?;
    let folder = folder_in(place.folder, place.name)?;
    let listen = free_address()?;
    let path = folder.path();
    // The configuration apart: Postfix complains when all beside it is not root's.
    for name in ["etc", "queue", "data"] {
        fs::create_dir(path.join(name))?;
    }
    run(Command::new("chown").arg("postfix").arg(path.join("data")))?;
    fs::write(path.join("etc/main.cf"), main_cf(path, daemons, place, role)?)?;
    fs::write(path.join("etc/master.cf"), MASTER.replace("{listen}", &listen.to_string()))?;
    // Makes the folders of the queue.
    run(command("postfix", path)?.arg("check"))?;

    let mut master = guarded(&daemons.join("master"));
    master.arg("-c").arg(path.join("etc")).env("MAIL_CONFIG", path.join("etc"));
    let mut component = Component::spawn(place.name, &master, place.placement)?;
    component = component.at(listen).keeping(folder);
    component.wait_until_open(START)?;
    Ok(component)
}

/// Puts all mail that is on hold back into the queue and has it delivered to the sink now.
pub(crate) fn release(component: &Component) -> Result<()> {
    let folder = component.folder()?;
    run(command("postsuper", folder)?.args(["-H", "ALL"]))?;
    run(command("postqueue", folder)?.arg("-f"))
}

/// How many messages are on hold.
pub(super) fn held(component: &Component) -> Result<usize> {
    files(&component.folder()?.join("queue/hold"), |_| true)
}

/// One of Postfix's commands for this instance.
fn command(name: &str, folder: &Path) -> Result<Command> {
    let program: PathBuf = find(name, "postfix").map_err(anyhow::Error::msg)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(folder.join("etc"));
    Ok(command)
}

fn main_cf(path: &Path, daemons: &Path, place: &Place<'_>, role: Role) -> Result<String> {
    let commands = find("postqueue", "postfix").map_err(anyhow::Error::msg)?;
    let commands = commands.parent().context("postqueue has no folder")?.display();
    let (folder, daemons) = (path.display(), daemons.display());
    let (host, port) = (place.sink.ip(), place.sink.port());
    let role = match role {
        Role::Proxy => format!("smtpd_proxy_filter = {host}:{port}\nsmtpd_proxy_timeout = 600s\n"),
        Role::Hold => "smtpd_client_restrictions = check_client_access static:HOLD\n".to_owned(),
    };
    Ok(format!(
        "compatibility_level = 3.6\n\
         queue_directory = {folder}/queue\n\
         data_directory = {folder}/data\n\
         command_directory = {commands}\n\
         daemon_directory = {daemons}\n\
         mail_owner = postfix\n\
         setgid_group = postdrop\n\
         maillog_file =\n\
         myhostname = postfix.test\n\
         mydestination =\n\
         inet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\n\
         mynetworks = 127.0.0.0/8\n\
         alias_maps =\n\
         alias_database =\n\
         local_recipient_maps =\n\
         local_header_rewrite_clients =\n\
         disable_dns_lookups = yes\n\
         smtpd_peername_lookup = no\n\
         smtpd_tls_security_level = none\n\
         smtp_tls_security_level = none\n\
         message_size_limit = 104857600\n\
         mailbox_size_limit = 0\n\
         virtual_mailbox_limit = 0\n\
         default_process_limit = 1200\n\
         smtpd_client_connection_count_limit = 0\n\
         smtpd_client_connection_rate_limit = 0\n\
         smtpd_relay_restrictions = permit_mynetworks, reject\n\
         smtpd_recipient_restrictions =\n\
         {role}\
         in_flow_delay = 0\n\
         relayhost = [{host}]:{port}\n\
         qmgr_message_active_limit = 20000\n\
         qmgr_message_recipient_limit = 20000\n\
         default_destination_concurrency_limit = 100\n\
         smtp_destination_concurrency_limit = 100\n\
         initial_destination_concurrency = 50\n\
         smtp_connection_cache_on_demand = yes\n\
         smtp_connection_cache_destinations = [{host}]:{port}\n\
         queue_run_delay = 1h\n\
         minimal_backoff_time = 1h\n\
         maximal_backoff_time = 1h\n"
    ))
}
