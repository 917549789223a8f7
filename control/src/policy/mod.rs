//! Is mail treated by the upgraded server as it was before? What control adds to the package `policy`: files, kept
//! snapshots, the journal, and reports.
//!
//! | module | what |
//! |---|---|
//! | [`source`] | a policy as files: read, hashed, imported |
//! | [`snapshot`] | policies that are kept, with name, time and hash |
//! | [`comparison`] | two policies compared in every way, as one document |
//! | [`blast`] | which mail of the journal would be treated otherwise |
//! | [`probing`] | probes of a policy: what was sent, what came back, what it proves |
//! | [`page`] | a comparison as a page for the change ticket |
//!
//! Not here: what a policy means (package `policy`).

pub mod blast;
pub mod comparison;
pub mod page;
pub mod probing;
pub mod snapshot;
pub mod source;
