//! The parts that a run starts as processes of their own.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;

use super::idle::Idle;
use super::{Load, generator, idle, sink, tls};
use crate::reference;

/// The parts of a run; started by it, not by hand.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Part {
    /// Takes everything, keeps nothing.
    #[command(hide = true)]
    Sink {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// Offers STARTTLS with this certificate.
        #[arg(long, requires = "tls_key")]
        tls_cert: Option<PathBuf>,
        /// The key of the certificate.
        #[arg(long, requires = "tls_cert")]
        tls_key: Option<PathBuf>,
    },
    /// Sends, and prints what it took as a line of JSON.
    #[command(hide = true)]
    Send {
        /// Where to send.
        #[arg(long)]
        to: SocketAddr,
        /// What to send.
        #[command(flatten)]
        load: Load,
        /// Over TLS, by STARTTLS.
        #[arg(long)]
        tls: bool,
        /// Connections that stand idle beside it, EHLO said.
        #[arg(long, default_value_t = 0)]
        idle: usize,
    },
    /// Opens connections that stand idle until the input ends.
    #[command(hide = true)]
    Idle {
        /// Where to connect.
        #[arg(long)]
        to: SocketAddr,
        /// How many.
        #[arg(long)]
        connections: usize,
        /// MAIL and RCPT said as well.
        #[arg(long)]
        transaction: bool,
    },
    /// The reference: keeps every message with one sync per batch.
    #[command(hide = true)]
    GroupCommit {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// Where to keep.
        #[arg(long)]
        file: PathBuf,
        /// Writes over a file that was written before, instead of one that grows.
        #[arg(long)]
        recycled: bool,
    },
}

impl Part {
    /// Plays the part to its end; servers play until they are ended.
    ///
    /// # Errors
    /// When it cannot be played.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Sink { listen, tls_cert: Some(certificate), tls_key: Some(key) } => {
                match tls::serve_tls(listen, &certificate, &key)? {}
            }
            Self::Sink { listen, .. } => match sink::serve(listen)? {},
            Self::Send { to, load, tls, idle } => {
                let beside = idle::open(to, idle, Idle::Ehlo)?;
                let measured =
                    if tls { tls::send_tls(to, &load) } else { generator::send(to, &load) }?;
                drop(beside);
                say(&serde_json::to_string(&measured)?)
            }
            Self::Idle { to, connections, transaction } => {
                let idle = if transaction { Idle::Transaction } else { Idle::Ehlo };
                let beside = idle::open(to, connections, idle)?;
                say("ready")?;
                io::copy(&mut io::stdin(), &mut io::sink())?;
                drop(beside);
                Ok(())
            }
            Self::GroupCommit { listen, file, recycled } => {
                let growth =
                    if recycled { reference::Growth::Recycled } else { reference::Growth::Append };
                match reference::serve(listen, &file, growth)? {}
            }
        }
    }
}

fn say(line: &str) -> Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}
