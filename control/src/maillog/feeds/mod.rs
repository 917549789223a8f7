//! Log lines that come otherwise than by file: from journald, and by the syslog protocols.
//!
//! Every source ends in one bounded channel of [`told::Told`], so that one reader sees lines, losses and
//! interruptions in the order in which they came.
//!
//! Not here: files (`intake`), what a line says (`maillog`), what is kept of it.

pub mod told;

mod entry;
pub mod journald;
mod output;

pub mod counts;
pub mod frames;
pub mod listen;
mod tcp;
pub mod tls;
mod udp;
mod way;
