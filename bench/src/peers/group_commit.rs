//! The plain reference for holding: this bench's own `group-commit`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Place;
use crate::component::{Component, folder_in, free_address};

/// It writes its file first, 1 GiB.
const START: Duration = Duration::from_secs(180);

/// What it writes into.
#[derive(Clone, Copy, Debug)]
pub(super) enum File {
    /// A file that was written before, over and over.
    Recycled,
    /// A file that grows.
    Growing,
}

pub(super) fn start(place: &Place<'_>, file: File) -> Result<Component> {
    let program = std::env::current_exe().context("this very program")?;
    let folder = folder_in(place.folder, place.name)?;
    let listen = free_address()?;
    let mut command = Command::new(program);
    command.args(["group-commit", "--listen", &listen.to_string(), "--file"]);
    command.arg(folder.path().join("log"));
    match file {
        File::Recycled => command.arg("--recycled"),
        File::Growing => &mut command,
    };
    let mut component = Component::spawn(place.name, &command, place.placement)?;
    component = component.at(listen).keeping(folder);
    component.wait_until_open(START)?;
    Ok(component)
}
