//! The control plane: orders gates, proves that a server is empty, shows where the mail is, and tells the demo.
//!
//! Code map, in reading order:
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | the command tree; one file per noun; exit codes 0 yes, 1 error, 2 no, 3 inconclusive |
//! | [`client`] | HTTP over a Unix socket, with a deadline on every request |
//! | [`render`] | the same answer as table, plain text or JSON |
//! | [`api`] | the HTTP API on `lockgate.sock`, for people and scripts |
//! | [`probes`] | what came back of probes through return gates |
//! | [`fleet`] | the proxies, each behind its `proxy.sock` |
//! | [`config`] | `[drain]` and `[[maillog]]` |
//! | [`check`] | what of them must be right before a drain depends on it |
//! | [`maillog`] | what lines of mail logs say, free of dialect |
//! | [`mirror`] | what a Postfix configuration sends where |
//! | [`drain`] | is anything left inside a server: ledger, correlation, verdict, certificate; pure |
//! | [`policy`] | two mail policies compared: files, snapshots, journal, reports |
//! | [`watch`] | the task that reads journal and logs, and leads drains |
//! | [`store`] | what control keeps on disk |
//! | [`moment`] | milliseconds of our clock |
//! | [`app`] | starts and stops the parts of a process |
//! | [`logging`] | where log lines go |
//! | [`demo`] | an MTA, an encryption-server stand-in, and the story told with them |
//!
//! Invariants: a command about a running lockgate is a client of [`api`], never a side door; what
//! has no running lockgate to ask (`init`, `check`, `held --offline`) uses `proxy` itself, as [`app`]
//! and [`demo`] do to start it; nothing on the path of mail waits for this package.

pub mod api;
pub mod app;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod drain;
pub mod fleet;
pub mod logging;
pub mod maillog;
pub mod mirror;
pub mod moment;
pub mod policy;
pub mod probes;
pub mod render;
pub mod store;
pub mod watch;
