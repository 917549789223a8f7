//! Harness for stories over the network: real processes, real mail servers, loopback only.
//!
//! A story starts what it needs (a `lockgate` process, scripted or real next hops, clients), acts
//! as an administrator or a mail system would, and judges by what it sees from outside: bytes on
//! sockets, exit codes, JSON, metrics, files. No package of the product is linked in here, so a
//! story cannot lean on what it is to judge.
//!
//! Reading order
//! - [`wait`]: conditions with a deadline (the only way to wait).
//! - [`port`]: loopback ports that nobody else will take.
//! - [`process`]: a real process with a captured log, ended when its value is dropped.
//! - [`mail`]: deterministic messages in wire form, from nothing at all to 25 MiB.
//! - [`wire`]: a stream, plain or TLS, with deadlines.
//! - [`tls`]: a certificate authority for one story.
//! - [`client`]: a raw SMTP client; exact bytes out, replies in.
//! - [`load`]: many messages over several connections.
//! - [`sink`]: a scripted next hop that records every octet and misbehaves as told.
//! - [`lax`]: an independent lax next hop (mailin-embedded).
//! - [`postfix`]: a real Postfix instance in its own folder.
//! - [`encrypting`]: a real Postfix that encrypts with gpg before it sends on.
//! - [`lossy`]: a relay that loses final replies.
//! - [`carrier`]: carries a mail log on, line by line, to syslog or into a journal.
//! - [`lockgate`]: the product: configuration, process, command line, metrics.
//!
//! Invariants
//! - Every story has its own folder and ports; stories of one file run in parallel.
//! - Nothing sleeps and hopes: [`wait::until`] fails with what it waited for.
//! - Only processes started here are ended, each by its own id.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a harness fails by panicking with what it saw, and waiting for a value may be all"
)]

pub mod carrier;
pub mod client;
pub mod encrypting;
pub mod lax;
pub mod load;
pub mod lockgate;
pub mod lossy;
pub mod mail;
pub mod port;
pub mod postfix;
pub mod process;
pub mod sink;
pub mod tls;
pub mod wait;
pub mod wire;
