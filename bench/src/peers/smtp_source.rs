//! Postfix's test client as a second opinion: how fast mail can be sent by a known program.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::find;
use crate::component::{Component, Placement};

/// What it is to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// Messages in all.
    pub(crate) messages: u64,
    /// Sessions side by side.
    pub(crate) sessions: usize,
    /// Octets of a message.
    pub(crate) octets: usize,
}

/// What it took, from start to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Time, with the start of the process.
    pub(crate) elapsed: Duration,
    /// CPU time of the client.
    pub(crate) cpu: Duration,
}

pub(super) fn installed() -> Result<(), String> {
    find("smtp-source", "postfix").map(drop)
}

/// Sends and waits for the end.
pub(crate) fn send(
    to: SocketAddr,
    order: &Order,
    placement: Placement,
    limit: Duration,
) -> Result<Sent> {
    let mut command = Command::new(find("smtp-source", "postfix").map_err(anyhow::Error::msg)?);
    command.args(["-m", &order.messages.to_string()]);
    command.args(["-s", &order.sessions.to_string()]);
    command.args(["-l", &order.octets.to_string()]);
    // A connection takes the next message.
    command.arg("-d");
    // Its default sender has the name of this machine.
    command.args(["-M", "source.test", "-f", "from@source.test", "-t", "to@sink.test"]);
    command.arg(format!("inet:{}:{}", to.ip(), to.port()));
    let start = Instant::now();
    let mut component = Component::spawn("smtp-source", &command, placement)?;
    component.wait(limit)?;
    Ok(Sent { elapsed: start.elapsed(), cpu: component.cpu()? })
}
