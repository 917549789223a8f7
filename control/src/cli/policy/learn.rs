//! `policy learn EXPORT`: the shape of an export, for whoever writes a mapping for it.
//!
//! Not here: shapes and mappings (`policy::import`).

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use policy::import;

use crate::cli::Exit;
use crate::policy::source::Source;
use crate::render::{Out, clean};

/// `policy learn …`
#[derive(Debug, Args)]
pub(super) struct Learn {
    /// The export
    export: PathBuf,
    /// Print a mapping to begin with, instead of the shape
    #[arg(long)]
    draft: bool,
}

pub(super) fn run(learn: &Learn, out: &mut Out) -> anyhow::Result<Exit> {
    let source = Source::read(&learn.export, None)?;
    if !source.is_export() {
        bail!("{} is no XML export", source.file);
    }
    let tree = import::tree(&source.octets, &source.file)?;
    let shape = import::learn(&tree);
    let text = if learn.draft { shape.draft() } else { shape.to_string() };
    let text: Vec<String> = text.lines().map(clean).collect();
    let document = serde_json::json!({ "file": source.file, "text": text });
    out.document(&document, |_| text.join("\n"))?;
    Ok(Exit::Yes)
}
