//! Intake of log files: octets of files become whole lines with positions.
//!
//! In reading order: [`chain`] (a hash that can be continued), [`file`](mod@file) (what a file is known by, and
//! how far it was read), [`lines`] (octets into lines), [`told`] (what a reading tells), `source` and
//! `folder` (opening a file, and finding the rotated ones beside it), `reading` (one file, read on),
//! [`tail`] (a file followed for years), [`utf16`] and [`import`] (a file handed in by a person).
//!
//! Not here: what a line says; where checkpoints are kept; tasks and clocks.

pub mod chain;
pub mod file;
pub mod lines;
pub mod told;

mod folder;
mod reading;
mod source;

pub mod tail;

pub mod import;
pub mod utf16;
