//! `lockgate demo`: the whole story on this machine, with no other software.
//!
//! An embedded MTA sends real SMTP mail both ways through a real lockgate to an encryption-server
//! stand-in, which sends it back to the MTA; meanwhile the server is replaced. At the end every
//! message is counted.
//!
//! | module | what |
//! |---|---|
//! | [`receive`], [`send`] | both sides of the wire, for the actors |
//! | [`server`] | the encryption-server stand-in |
//! | [`mta`] | the MTA, and the book it keeps |
//! | [`story`] | what happens, told in plain words |
//!
//! Invariants: lockgate is started and ordered as by `serve` and the command line; the actors know it
//! only over SMTP.

pub mod mta;
pub mod receive;
pub mod send;
pub mod server;
pub mod story;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tempfile::TempDir;

use crate::cli::{Exit, Global};
use crate::render::Out;

/// `demo [--keep] [--messages N] [--fast]`
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Leave all running at the end, with a trickle of mail, to play with
    #[arg(long)]
    pub keep: bool,
    /// Messages to send [default: 1000, with --fast 300]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(40..))]
    pub messages: Option<u64>,
    /// A few seconds instead of half a minute
    #[arg(long)]
    pub fast: bool,
}

impl Arguments {
    fn messages(&self) -> u64 {
        self.messages.unwrap_or(if self.fast { 300 } else { 1000 })
    }

    /// Time over which the messages are sent.
    fn span(&self) -> Duration {
        Duration::from_secs(if self.fast { 4 } else { 20 })
    }
}

/// Where the demo keeps its state.
enum Folder {
    /// Made for this run, removed at its end.
    Made(TempDir),
    /// Named by the user, kept.
    Named(PathBuf),
}

impl Folder {
    fn new(global: &Global) -> anyhow::Result<Self> {
        let Some(data) = &global.data else {
            let made = tempfile::Builder::new().prefix("lockgate-demo-").tempdir();
            return Ok(Self::Made(made.context("cannot make a temporary folder")?));
        };
        std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
        let mut entries =
            std::fs::read_dir(data).with_context(|| format!("cannot read {}", data.display()))?;
        if entries.next().is_some() {
            bail!("{} is not empty: the demo wants a folder of its own", data.display());
        }
        let data =
            data.canonicalize().with_context(|| format!("cannot find {}", data.display()))?;
        Ok(Self::Named(data))
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Made(folder) => folder.path().to_owned(),
            Self::Named(folder) => folder.clone(),
        }
    }

    /// Leaves a folder where it is, for a look.
    fn keep(self) -> PathBuf {
        match self {
            Self::Made(folder) => folder.keep(),
            Self::Named(folder) => folder,
        }
    }
}

pub(crate) async fn run(
    arguments: &Arguments,
    global: &Global,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    if global.config.is_some() {
        bail!("the demo has its own configuration: leave out --config");
    }
    let folder = Folder::new(global)?;
    match story::tell(arguments, &folder.path(), out).await {
        Ok(Exit::Yes) => Ok(Exit::Yes),
        told => {
            let kept = folder.keep();
            out.warn(&format!("the folder of the demo is kept for a look: {}", kept.display()))?;
            told
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_in_use_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("new");
        let global = Global { data: Some(data.clone()), ..Global::default() };
        let made = Folder::new(&global).unwrap();
        assert!(made.path().is_dir());
        std::fs::write(data.join("spool"), "mail").unwrap();
        let error = Folder::new(&global).err().unwrap().to_string();
        assert!(error.contains("is not empty"), "{error}");
    }
}
