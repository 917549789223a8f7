//! The data plane: receives, passes, holds and replays mail.
//!
//! Code map, in reading order; a module may use those above it, never one below. Modules of one
//! layer do not know one another.
//!
//! | layer | modules |
//! |--:|---|
//! | 0 | `base64` octets in JSON; `clock` moments; `digest` SHA-256; `id` names of transactions; `outcome` how they end; `stream` a TCP or TLS connection; `workers` threads that serve |
//! | 1 | `gate` pass, hold or refuse; `journal` what was handed over; `relay` the one door out; `spool` held mail on disk; `token` by what a probe is known again |
//! | 2 | `metrics`; `health` notices a member that is away or is another |
//! | 3 | `transaction` the two corridors; `replay` held mail goes out; `probe` |
//! | 4 | `session` and `listener`, the one door in; `admin` and its wire types `api` |
//! | 5 | `config`, `check`, `app` |

pub mod base64;
pub mod clock;
pub mod digest;
pub mod id;
pub mod outcome;
pub mod stream;
pub mod workers;

pub mod gate;
pub mod journal;
pub mod relay;
pub mod spool;
pub mod token;

pub mod health;
pub mod metrics;

pub mod probe;
pub mod replay;
pub mod transaction;

pub mod admin;
pub mod api;
pub mod listener;
pub mod session;

pub mod app;
pub mod check;
pub mod config;
