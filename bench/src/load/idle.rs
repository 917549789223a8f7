//! Connections that only stand there: what memory they take is what is asked.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::talk::Talk;

/// Connections that are opened side by side.
const AT_ONCE: usize = 100;

/// How far an idle connection got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// EHLO is answered.
    Ehlo,
    /// MAIL and RCPT are answered too.
    Transaction,
}

/// Opens so many connections and leaves each where it got to; they end when they are dropped.
///
/// # Errors
/// When a reply is not the one that is due.
pub(crate) fn open(to: SocketAddr, connections: usize, idle: Idle) -> Result<Vec<Talk>> {
    super::raise_file_limit()?;
    let mut commands = vec!["EHLO bench.test\r\n"];
    if idle == Idle::Transaction {
        commands.push("MAIL FROM:<idle@bench.test>\r\n");
        commands.push("RCPT TO:<recipient0@bench.test>\r\n");
    }
    let mut talks = Vec::with_capacity(connections);
    while talks.len() < connections {
        let first = talks.len();
        for number in first..connections.min(first + AT_ONCE) {
            talks.push(Talk::open(to).with_context(|| format!("idle connection {number}"))?);
        }
        expect_all(&mut talks[first..], first, "220")?;
        for command in &commands {
            for talk in &mut talks[first..] {
                talk.say(command)?;
            }
            expect_all(&mut talks[first..], first, "250")?;
        }
    }
    Ok(talks)
}

fn expect_all(talks: &mut [Talk], first: usize, code: &str) -> Result<()> {
    for (number, talk) in talks.iter_mut().enumerate() {
        talk.expect(code).with_context(|| format!("idle connection {}", first + number))?;
    }
    Ok(())
}
