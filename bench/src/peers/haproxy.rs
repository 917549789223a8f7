//! `HAProxy` as a relay of octets: mode tcp, one thread, no log.

use std::fs;
use std::process::Command;

use anyhow::Result;
use rustix::process::{Resource, getrlimit};

use super::{Place, START, ask, find, word_after};
use crate::component::{Component, folder_in, free_address};

/// How much it reads at once.
#[derive(Clone, Copy, Debug)]
pub(super) enum Buffers {
    /// 16 KiB.
    Default,
    /// 128 KiB.
    Of128KiB,
}

pub(super) fn installed() -> Result<(), String> {
    find("haproxy", "haproxy").map(drop)
}

pub(super) fn version() -> Result<String> {
    let program = find("haproxy", "haproxy").map_err(anyhow::Error::msg)?;
    word_after(&ask(&program, &["-v"])?, "version ")
}

pub(super) fn start(place: &Place<'_>, buffers: Buffers) -> Result<Component> {
    let program = find("haproxy", "haproxy").map_err(anyhow::Error::msg)?;
    let folder = folder_in(place.folder, place.name)?;
    let listen = free_address()?;
    let size = match buffers {
        Buffers::Default => "",
        Buffers::Of128KiB => "    tune.bufsize 131072\n",
    };
    let most = connections_max();
    let config = format!(
        "global\n    nbthread 1\n    maxconn {most}\n{size}\
         defaults\n    mode tcp\n    maxconn {most}\n    timeout connect 10s\n    \
         timeout client 10m\n    timeout server 10m\n\
         listen relay\n    bind {listen}\n    server sink {}\n",
        place.sink
    );
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&file);
    let mut component = Component::spawn(place.name, &command, place.placement)?;
    component = component.at(listen).keeping(folder);
    component.wait_until_open(START)?;
    Ok(component)
}

/// 20,000 where the system allows it: it does not start when it may open fewer than two descriptors
/// a connection.
fn connections_max() -> u64 {
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    (files.saturating_sub(100) / 2).min(20_000)
}
